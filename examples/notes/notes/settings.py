"""An ordinary Django project: accounts, sessions and notes in one SQLite file. It knows nothing of replication but to wait for a lock."""
import os

SECRET_KEY = os.environ.get("NOTES_SECRET", "the same on all nodes; set your own")
ALLOWED_HOSTS = ["*"]
DEBUG = False

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["NOTES_DB"],
        "CONN_MAX_AGE": None,  # connections stay open, through promotions too
        "OPTIONS": {"timeout": 20},  # SQLite's busy time-out, in seconds
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"

INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "notes"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth"]},
}]
ROOT_URLCONF = "notes.urls"
LOGIN_URL = LOGOUT_REDIRECT_URL = "/login"
LOGIN_REDIRECT_URL = "/"
USE_TZ = True
