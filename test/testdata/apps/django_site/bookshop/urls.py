from django.contrib import admin
from django.urls import path

from books import views

urlpatterns = [
    path("", views.index),
    path("admin/", admin.site.urls),
    path("api/books/", views.api),
    path("seen/<name>/", views.seen),
    path("upload/", views.upload),
    path("media/<name>", views.media),
    path("memory/", views.memory),
    path("books.csv", views.table),
    path("stream/", views.stream),
    path("endless/", views.endless),
    path("boom/", views.boom),
]
