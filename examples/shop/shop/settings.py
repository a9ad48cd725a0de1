"""Django's settings, from the environment; a file with the secret, never the secret itself."""

import os
import secrets
from pathlib import Path

# systemd's StateDirectory= says where; it survives releases.
STATE = Path(os.environ.get("STATE_DIRECTORY", "/nonexistent/STATE_DIRECTORY is not set"))
# Signs sessions: without a file, each process makes one, and sessions end with it.
_key = os.environ.get("SHOP_SECRET_KEY_FILE")
SECRET_KEY = Path(_key).read_text(encoding="utf-8").strip() if _key else secrets.token_hex(32)
DEBUG = False
# Names under which it is served, separated by commas; localhost is who asks whether it is ready.
ALLOWED_HOSTS = ["localhost", *filter(None, os.environ.get("SHOP_HOSTS", "").split(","))]

ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": STATE / "shop.sqlite3",
        # Several processes write: wait for each other, and let readers read meanwhile.
        "OPTIONS": {
            "timeout": 10,
            "init_command": "PRAGMA journal_mode=WAL",
            "transaction_mode": "IMMEDIATE",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
USE_TZ = True
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = True
# The runtime logs requests; the rest goes to stderr.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"shop": {"handlers": ["stderr"], "level": "INFO", "propagate": False}},
}
