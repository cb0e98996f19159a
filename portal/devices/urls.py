from __future__ import annotations

from django.urls import path

from portal.devices import authorisation, views

app_name = "devices"
urlpatterns = [
    path("", views.panel, name="panel"),
    path("limit/", views.limit, name="limit"),
    path("code/<str:code>/qr.svg", authorisation.qr, name="qr"),
    path("<uuid:number>/", views.detail, name="detail"),
    path("<uuid:number>/rename/", views.rename, name="rename"),
    path("<uuid:number>/command/", views.command, name="command"),
    path("<uuid:number>/disconnect/", views.disconnect, name="disconnect"),
    path("<uuid:number>/others/", views.disconnect_others, name="others"),
    path("<uuid:number>/applications/<slug:application>/", views.sign_out, name="sign-out"),
]
