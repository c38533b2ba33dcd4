from django.urls import path

from books import views

from . import urls

# Django reads the whole of a plain generator before it sends any of it under
# ASGI, so what streams needs asynchronous ones there.
urlpatterns = [
    path("stream/", views.stream_async),
    path("endless/", views.endless_async),
] + urls.urlpatterns
