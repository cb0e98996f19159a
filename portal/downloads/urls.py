from __future__ import annotations

from django.urls import path

from portal.downloads import views

app_name = "downloads"
urlpatterns = [
    path("", views.index, name="index"),
    path("releases/<int:pk>/", views.release, name="release"),
    path("releases/<int:pk>/start/", views.start, name="start"),
    path("get/<str:token>/", views.get, name="signed_link"),
    path("<slug:slug>/", views.product, name="product"),
]
