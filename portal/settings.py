"""Django's settings, made from the administrator's (config.py). The reasons are in README.md."""

from __future__ import annotations

from pathlib import Path

from portal import config

BASE = Path(__file__).parent
CONFIG = config.load()

DEBUG = CONFIG.debug
# The development key signs nothing that outlives the embedded database of `make portal`.
SECRET_KEY = CONFIG.secret_key or "development only: this key is public and never used with debug = false"
ALLOWED_HOSTS = CONFIG.hosts or (["localhost", "127.0.0.1", "[::1]", "testserver"] if DEBUG else [])
BRAND = CONFIG.brand
SUPPORT_MAIL = CONFIG.support_mail or CONFIG.mail_from

INSTALLED_APPS = [
    "portal.accounts",
    "portal.consents",
    "portal.subscriptions",
    "portal.api",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.headless",
    "allauth.usersessions",
    "captcha",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "portal.security.policy_headers",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "portal.accounts.language.account_language",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
]
if DEBUG:
    INSTALLED_APPS.append("portal.development")

ROOT_URLCONF = "portal.urls"
WSGI_APPLICATION = "portal.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.context.house",
            ]
        },
    }
]

DATABASES = {"default": config.database(CONFIG)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": config.cache(CONFIG)}

# Accounts
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
# OWASP's parameters for Argon2id: 19 MiB, two passes, one lane. Django's own (100 MiB, 8 lanes) cost eight times more.
PASSWORD_HASHERS = ["portal.accounts.passwords.Hasher", "django.contrib.auth.hashers.PBKDF2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 8}},
    {"NAME": "portal.accounts.passwords.Characters"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ("email",)},
    },
    {"NAME": "portal.accounts.passwords.NotReused", "OPTIONS": {"last": 5}},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "subscriptions:panel"
ACCOUNT_ADAPTER = "portal.accounts.adapter.Adapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_SIGNUP_FORM_CLASS = "portal.accounts.signup.SignupForm"
ACCOUNT_EMAIL_VERIFICATION = "optional"  # the account works at once; unconfirmed ones expire (expire_accounts)
ACCOUNT_EMAIL_CONFIRMATION_EXPIRE_DAYS = CONFIG.activation_days
ACCOUNT_CONFIRM_EMAIL_ON_GET = False  # mail scanners follow links: the person presses the button
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False  # no mail to strangers whom somebody typed in
# Nothing tells which e-mails have accounts, except signing up (whose accounts work unconfirmed): see README.md.
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = True
ACCOUNT_SESSION_REMEMBER = False
# Sign-ins are counted by accounts/attempts.py: allauth's own counter refuses simultaneous ones of one address.
ACCOUNT_RATE_LIMITS = {"login": None, "login_failed": None, "signup": "60/m/ip"}
ALLAUTH_TRUSTED_PROXY_COUNT = CONFIG.proxies
HEADLESS_CLIENTS = ("app",)
HEADLESS_ONLY = False
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = BRAND
USERSESSIONS_TRACK_ACTIVITY = False

# Captcha (django-simple-captcha draws and speaks it; accounts/captcha.py judges it)
CAPTCHA_CHALLENGE_FUNCT = "portal.accounts.captcha.challenge"
CAPTCHA_LENGTH = 5
CAPTCHA_IMAGE_SIZE = (200, 70)
CAPTCHA_FONT_SIZE = 38
CAPTCHA_FLITE_PATH = str(CONFIG.flite) if CONFIG.flite.exists() else None
CAPTCHA_PER_ACCOUNT = CONFIG.captcha_per_account
CAPTCHA_PER_ADDRESS = CONFIG.captcha_per_address
CAPTCHA_WINDOW_SECONDS = CONFIG.captcha_window_minutes * 60
ACTIVATION_DAYS = CONFIG.activation_days
GRACE_DAYS = CONFIG.grace_days

# Mail
if DEBUG:
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = str(CONFIG.state / "mail")
EMAIL_HOST, EMAIL_PORT = CONFIG.mail_host, CONFIG.mail_port
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = CONFIG.mail_user, CONFIG.mail_password
EMAIL_USE_TLS = CONFIG.mail_tls
EMAIL_TIMEOUT = 20
DEFAULT_FROM_EMAIL = SERVER_EMAIL = CONFIG.mail_from

# Languages: English is the source; docs/portal.md tells how a translation is added.
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English")]
LOCALE_PATHS = [BASE / "locale"]
USE_I18N = USE_TZ = True
TIME_ZONE = "UTC"

# Files
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE / "static"]
STATIC_ROOT = CONFIG.state / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000

# Transport
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = CONFIG.https and not DEBUG
SECURE_HSTS_SECONDS = CONFIG.hsts_seconds if CONFIG.https and not DEBUG else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = bool(SECURE_HSTS_SECONDS)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if CONFIG.proxies else None
SECURE_REFERRER_POLICY = "same-origin"  # links with keys in them never reach another site
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 14 * 86_400
X_FRAME_OPTIONS = "DENY"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}
