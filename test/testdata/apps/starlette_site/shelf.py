"""A Starlette application: files, sessions, server-sent events and an
application within the application.

SITE_DATA names a directory for files between application and client.
"""

import asyncio
import os
import pathlib
import random
import uuid

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

DATA = pathlib.Path(os.environ["SITE_DATA"])
HERE = pathlib.Path(__file__).parent
picture = DATA / "picture.bin"

own = DATA / uuid.uuid4().hex  # several workers make the file
own.write_bytes(random.Random(3).randbytes(3 << 20))
os.utime(own, (1700000000, 1700000000))
own.rename(picture)


async def show(request):
    return FileResponse(picture, media_type="application/octet-stream", headers={"Cache-Control": "max-age=60"})


async def login(request):
    async with request.form() as form:
        request.session["user"] = form["user"]
    return PlainTextResponse("signed in")


async def count(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return JSONResponse(request.session)


async def logout(request):
    request.session.clear()
    return PlainTextResponse("signed out")


async def words(request):
    return PlainTextResponse("word " * 10000)


async def numbers(closed):
    """Each event names a file: the next one is made when the client has made it."""
    try:
        for n in range(1000):
            gate = DATA / uuid.uuid4().hex
            yield n, closed if n == 0 else "%s" % gate, gate
            async with asyncio.timeout(20):
                while n and not gate.exists():
                    await asyncio.sleep(0.005)
    finally:
        closed.touch()


async def events(request):
    async def generate():
        async for n, text, gate in numbers(DATA / uuid.uuid4().hex):
            yield {"id": str(n), "event": "number", "data": text}
    return EventSourceResponse(generate())


async def plain_events(request):
    async def generate():
        async for n, text, gate in numbers(DATA / uuid.uuid4().hex):
            yield "id: %d\nevent: number\ndata: %s\n\n" % (n, text)
    return StreamingResponse(generate(), media_type="text/event-stream")


async def where(request):
    return JSONResponse({"root_path": request.scope["root_path"], "path": request.scope["path"],
                         "url": str(request.url), "own": str(request.url_for("where", name=request.path_params["name"]))})


async def where_socket(socket):
    await socket.accept()
    await socket.send_json({"root_path": socket.scope["root_path"], "url": str(socket.url),
                            "user": socket.session.get("user")})
    await socket.close()


inner = Starlette(routes=[
    Route("/where/{name}", where, name="where"),
    WebSocketRoute("/socket", where_socket),
])

app = Starlette(
    routes=[
        Mount("/static", StaticFiles(directory=HERE / "static", html=True)),
        Route("/picture", show),
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/count", count),
        Route("/words", words),
        Route("/events", events),
        Route("/events/plain", plain_events),
        Mount("/inner", inner),
    ],
    middleware=[Middleware(SessionMiddleware, secret_key="not a secret: the shelf of a test"),
                Middleware(GZipMiddleware)],
)
