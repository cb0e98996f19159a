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
    "portal.devices",
    "portal.downloads",
    "portal.vpn",
    "portal.support",
    "portal.api",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.apple",
    "allauth.socialaccount.providers.facebook",
    "allauth.socialaccount.providers.google",
    "allauth.socialaccount.providers.vk",
    "allauth.socialaccount.providers.yandex",
    "allauth.headless",
    "allauth.idp.oidc",
    "allauth.usersessions",
    "captcha",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.forms",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "portal.security.policy_headers",
    "portal.api.plain.problems_only",
    "portal.api.headless.Readable",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "portal.accounts.language.RequestLanguage",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "portal.security.Readable",  # after the token's check: strangers' files are not read for it
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
FORM_RENDERER = "django.forms.renderers.TemplatesSetting"  # templates/django/forms: hints below what they explain

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
ACCOUNT_FORMS = {"reset_password_from_key": "portal.accounts.steps.reset.ResetForm"}
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
MFA_ADAPTER = "portal.accounts.steps.mfa.Adapter"
MFA_FORMS = {
    "authenticate": "portal.accounts.steps.forms.AuthenticateForm",
    "reauthenticate": "portal.accounts.steps.forms.ReauthenticateForm",
}
MFA_RECOVERY_CODES_SHOW_ONCE = True
# The second step needs a confirmed e-mail (steps/phones.py); who has one may still change it by confirming the new.
MFA_ALLOW_UNVERIFIED_EMAIL = True
SOCIALACCOUNT_ADAPTER = "portal.accounts.social.Adapter"
SOCIALACCOUNT_FORMS = {"signup": "portal.accounts.social_forms.SocialSignupForm"}
SOCIALACCOUNT_AUTO_SIGNUP = False  # no account without our form: country, privacy, statement
SOCIALACCOUNT_EMAIL_AUTHENTICATION = SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_PROVIDERS = config.providers(CONFIG)
SOCIAL_NOT_IN = CONFIG.social_not_in
SMS = config.sms(CONFIG)
SMS_PREFIXES = CONFIG.sms_prefixes
SMS_PER_HOUR, SMS_PER_ADDRESS = CONFIG.sms_per_hour, CONFIG.sms_per_address
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
REPLY_MAIL = CONFIG.reply_mail
TICKETS_PER_HOUR = CONFIG.tickets_per_hour
ATTACHMENT_MEGABYTES, ATTACHMENT_COUNT = CONFIG.attachment_megabytes, CONFIG.attachment_count
ATTACHMENT_TYPES = CONFIG.attachment_types
# Devices (portal/devices)
GEOIP, COUNTRY_HEADER = CONFIG.geoip, CONFIG.country_header
EVENT_STREAMS, EVENT_KEEPALIVE = CONFIG.event_streams, CONFIG.event_keepalive_seconds
IDP_OIDC_ADAPTER = "portal.devices.authorisation.OIDCAdapter"
IDP_OIDC_ACCESS_TOKEN_EXPIRES_IN = 600  # it is exchanged at once
SIGNING_KEYS = CONFIG.keys or CONFIG.state / "keys"
VPN_PRODUCT = CONFIG.vpn_product
QUOTA_MB, QUOTA_MB_SIGNED_IN = CONFIG.quota_mb, CONFIG.quota_mb_signed_in
ENTITLEMENT_HOURS, ENTITLEMENT_REFRESH_HOURS = CONFIG.entitlement_hours, CONFIG.entitlement_refresh_hours
SERVER_LIST_HOURS = CONFIG.server_list_hours
ANONYMOUS_PER_ADDRESS = CONFIG.anonymous_per_address
RELEASE_MAX_BYTES = CONFIG.release_max_mb * 1_000_000
RELEASES_ACCEL = CONFIG.releases_accel
DOWNLOAD_LINK_HOURS = CONFIG.download_link_hours

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
LANGUAGES = [  # each by its own name, for who looks for it cannot read the page
    ("id", "Bahasa Indonesia"), ("cs", "Čeština"), ("da", "Dansk"), ("de", "Deutsch"), ("et", "Eesti"),
    ("en", "English"), ("es", "Español"), ("es-mx", "Español (México)"), ("fr", "Français"), ("it", "Italiano"),
    ("lv", "Latviešu"), ("lt", "Lietuvių"), ("nl", "Nederlands"), ("nb", "Norsk bokmål"), ("pl", "Polski"),
    ("pt-br", "Português (Brasil)"), ("pt", "Português (Portugal)"), ("ro", "Română"), ("fi", "Suomi"),
    ("sv", "Svenska"), ("vi", "Tiếng Việt"), ("tr", "Türkçe"), ("el", "Ελληνικά"), ("ru", "Русский"), ("ar", "العربية"),
    ("th", "ไทย"), ("ko", "한국어"), ("ja", "日本語"), ("zh-hant", "繁體中文"),
]  # fmt: skip
LOCALE_PATHS = [BASE / "locale"]
USE_I18N = USE_TZ = True
TIME_ZONE = "UTC"

# Files
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE / "static"]
STATIC_ROOT = CONFIG.state / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "releases": config.releases(CONFIG),
    "attachments": {  # private: served by support/attachments.py alone
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {
            "location": str(CONFIG.state / "attachments"),
            "file_permissions_mode": 0o600,
            "directory_permissions_mode": 0o700,
        },
    },
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000
FILE_UPLOAD_HANDLERS = [
    "portal.support.attachments.Bounded",  # first: it decides how much may come at all
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]

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
