"""A page as Django sites have them: a query that joins two tables, in SQLite, and a template."""

import os
import tempfile

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler

directory = tempfile.TemporaryDirectory()  # until this process ends; all its threads use one database
settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="not secret",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(directory.name, "albums")}},
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")],
        }
    ],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
)
django.setup()

from django.db import connection, models
from django.shortcuts import render
from django.urls import path


class Artist(models.Model):
    name = models.CharField(max_length=40)

    class Meta:
        app_label = "bench"


class Album(models.Model):
    artist = models.ForeignKey(Artist, on_delete=models.CASCADE)
    name = models.CharField(max_length=40)
    year = models.IntegerField()

    class Meta:
        app_label = "bench"


def fill():
    with connection.schema_editor() as editor:
        editor.create_model(Artist)
        editor.create_model(Album)
    for i in range(10):
        artist = Artist.objects.create(name="Artist %d" % i)
        Album.objects.bulk_create(Album(artist=artist, name="album %d" % j, year=1970 + j) for j in range(10))


def albums(request):
    chosen = Album.objects.select_related("artist").filter(year=1975).order_by("artist__name")
    return render(request, "albums.html", {"title": "Albums", "albums": chosen})


urlpatterns = [path("", albums)]
fill()
app = WSGIHandler()
