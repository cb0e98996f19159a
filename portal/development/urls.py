from __future__ import annotations

from django.urls import path

from portal.development import views

app_name = "development"
urlpatterns = [path("mail/", views.mail_box, name="mail")]
