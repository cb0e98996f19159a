"""Before allauth's own of the same paths."""

from __future__ import annotations

from django.urls import path

from portal.accounts.steps import views

urlpatterns = [
    path("phone/change/", views.phone, name="account_change_phone"),
    path("phone/verify/", views.verify_phone, name="account_verify_phone"),
    path("login/code/confirm/", views.confirm_sms, name="account_confirm_login_code"),
    path("2fa/", views.overview, name="mfa_index"),
    path("2fa/off/", views.turn_off, name="two_steps_off"),
    path("2fa/authenticate/", views.AppView.as_view(), name="mfa_authenticate"),
    path("2fa/totp/activate/", views.activate_app, name="mfa_activate_totp"),
    path("2fa/recovery-codes/generate/", views.new_recovery_codes, name="mfa_generate_recovery_codes"),
]
