import asyncio
import csv
import gc
import hashlib
import io
import json
import os
import time
import uuid

from django.conf import settings
from django.core.files.storage import default_storage
from django.http import FileResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from .models import Book


@require_safe
def index(request):
    return render(request, "books/index.html", {"books": Book.objects.all()[:20]})


def api(request):
    found = Book.objects.filter(title__contains=request.GET["q"])
    return JsonResponse({"books": list(found.values("id", "title", "author", "pages"))})


def seen(request, name):
    return JsonResponse({"name": name, "q": request.GET.get("q"), "secure": request.is_secure(),
                         "host": request.get_host(), "uri": request.build_absolute_uri()})


def upload(request):
    if request.method != "POST":
        return render(request, "books/upload.html")
    f = request.FILES["file"]
    digest = hashlib.sha256()
    for block in f.chunks():
        digest.update(block)
    kept = default_storage.save(uuid.uuid4().hex, f)
    return JsonResponse({"name": f.name, "size": f.size, "sha256": digest.hexdigest(),
                         "note": request.POST["note"], "url": "/media/" + kept})


def media(request, name):
    f = default_storage.open(name)
    start = int(request.GET.get("from", 0))
    if start:
        f.seek(start)
    return FileResponse(f, as_attachment=True)


def memory(request):
    return FileResponse(io.BytesIO(b"from memory\n" * 5000), content_type="text/plain")


class Echo:
    """A file whose write gives back what it got: the csv writer returns that."""

    def write(self, value):
        return value


def table(request):
    writer = csv.writer(Echo())
    rows = [("number", "title")] + [(n, "Title, the %dth" % n) for n in range(5000)]
    return StreamingHttpResponse((writer.writerow(row) for row in rows), content_type="text/csv")


def gate(name):
    """Waits until the client has made the file: it does so when the block before is in its hands."""
    path = os.path.join(settings.MEDIA_ROOT, name)
    limit = time.monotonic() + 20
    while not os.path.exists(path):
        if time.monotonic() > limit:
            raise TimeoutError("the block before %s has not arrived" % name)
        time.sleep(0.005)
    os.unlink(path)


def stream(request):
    token = uuid.uuid4().hex

    def blocks():
        for n in range(5):
            name = "%s.%d" % (token, n)
            yield json.dumps({"block": n, "path": request.path,
                              "gate": os.path.join(settings.MEDIA_ROOT, name)}) + "\n"
            gate(name)
        yield "end\n"

    return StreamingHttpResponse(blocks(), content_type="application/x-ndjson")


def endless(request):
    closed = os.path.join(settings.MEDIA_ROOT, uuid.uuid4().hex + ".closed")

    def blocks():
        try:
            yield (closed + "\n").encode()
            while True:
                yield b"x" * 65536
        finally:
            with open(closed, "w"):
                pass

    return StreamingHttpResponse(blocks(), content_type="application/octet-stream")


async def stream_async(request):
    token = uuid.uuid4().hex

    async def blocks():
        for n in range(5):
            path = os.path.join(settings.MEDIA_ROOT, "%s.%d" % (token, n))
            yield json.dumps({"block": n, "path": request.path, "gate": path}) + "\n"
            async with asyncio.timeout(20):
                while not os.path.exists(path):
                    await asyncio.sleep(0.005)
            os.unlink(path)
        yield "end\n"

    return StreamingHttpResponse(blocks(), content_type="application/x-ndjson")


collecting = set()


async def endless_async(request):
    closed = os.path.join(settings.MEDIA_ROOT, uuid.uuid4().hex + ".closed")

    async def collect():
        # Django leaves the generator in a cycle with the exception that ended
        # it, so that its end is up to the collector of garbage.
        while not os.path.exists(closed):
            gc.collect()
            await asyncio.sleep(0.1)
    collecting.add(asyncio.create_task(collect()))

    async def blocks():
        try:
            yield (closed + "\n").encode()
            while True:
                yield b"x" * 65536
        finally:
            with open(closed, "w"):
                pass

    return StreamingHttpResponse(blocks(), content_type="application/octet-stream")


def boom(request):
    raise RuntimeError("boom %s" % request.GET["id"])
