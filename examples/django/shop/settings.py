"""The smallest settings that work. With DATABASE_URL of the PostgreSQL that Holdfast uses, jobs are part of Django's transactions."""

import os
from urllib.parse import urlsplit

SECRET_KEY = "only for the example"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "shop.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

_url = urlsplit(os.environ.get("DATABASE_URL", ""))
if _url.scheme.startswith("postgres"):
    _database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path.lstrip("/"),
        "USER": _url.username,
        "PASSWORD": _url.password or "",
        "HOST": _url.hostname,
        "PORT": _url.port or 5432,
    }
else:
    _database = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SHOP_DATABASE", "shop.sqlite3")}
DATABASES = {"default": _database}
