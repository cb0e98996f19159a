from __future__ import annotations

from django.urls import path

from portal.support import views

app_name = "support"
urlpatterns = [
    path("support/", views.tickets_list, name="tickets"),
    path("support/new/", views.new, name="new"),
    path("support/<int:pk>/", views.ticket, name="ticket"),
    path("support/<int:pk>/close/", views.close, name="close"),
    path("support/<int:pk>/reopen/", views.reopen, name="reopen"),
    path("support/attachments/<int:pk>/", views.attachment, name="attachment"),
    path("help/", views.help_list, name="help"),
    path("help/<slug:slug>/", views.help_page, name="help_page"),
    path("help/<slug:slug>/verdict/", views.verdict, name="verdict"),
]
