"""The same site under ASGI."""

from .settings import *  # noqa: F403

ROOT_URLCONF = "bookshop.asgi_urls"
