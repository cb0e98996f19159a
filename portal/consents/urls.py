from __future__ import annotations

from django.urls import path

from portal.consents import views

app_name = "consents"
urlpatterns = [
    path("legal/<str:kind>/", views.text, name="text"),
    path("accounts/statement/", views.required, name="required"),
    path("account/consents/", views.history, name="history"),
    path("account/consents/marketing/", views.marketing, name="marketing"),
    path("account/consents/withdraw/", views.withdraw, name="withdraw"),
]
