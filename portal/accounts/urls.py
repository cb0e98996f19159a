from __future__ import annotations

from django.urls import path

from portal.accounts import views

app_name = "accounts"
urlpatterns = [
    path("", views.overview, name="overview"),
    path("export/", views.download, name="export"),
    path("delete/", views.delete, name="delete"),
]
