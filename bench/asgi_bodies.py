"""What bodies.py does, by ASGI."""

import zlib

from bodies import PIECES


async def root(receive, send):
    await answer(send, b"Hello, World!\n")


async def post(receive, send):
    """The body is read as a form parser reads it, and is counted, not looked at."""
    await answer(send, b"%d\n" % len(await read(receive)))


async def check(receive, send):
    """The same, for the one request before measuring: it is looked at."""
    await answer(send, b"%d\n" % zlib.crc32(await read(receive)))


async def stream(receive, send):
    """Nobody has said how long it will be."""
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in PIECES:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def read(receive):
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


async def answer(send, body):
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


PATHS = {"/": root, "/post": post, "/check": check, "/stream": stream}


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await PATHS[scope["path"]](receive, send)
