from __future__ import annotations

from django.urls import path

from portal.subscriptions import views

app_name = "subscriptions"
urlpatterns = [
    path("", views.panel, name="panel"),
    path("<int:pk>/", views.detail, name="detail"),
    path("shares/<int:pk>/revoke/", views.revoke, name="revoke"),
    path("seats/<int:pk>/release/", views.release, name="release"),
    path("invitations/<str:token>/", views.accept, name="accept"),
]
