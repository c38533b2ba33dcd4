"""Long bodies, both ways. It runs without third-party packages, and bench/run
imports it for what the answers must be."""

import os
import zlib

PIECES = [bytes([i]) * 4096 for i in range(256)]
BLOCK = b"".join(PIECES)
POST = BLOCK[::16]  # 64 KB
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "out", "file")


def root(environ, start_response):
    return answer(start_response, b"Hello, World!\n")


def post(environ, start_response):
    """The body is read as a form parser reads it, and is counted, not looked at."""
    return answer(start_response, b"%d\n" % len(read(environ)))


def check(environ, start_response):
    """The same, for the one request before measuring: it is looked at."""
    return answer(start_response, b"%d\n" % zlib.crc32(read(environ)))


def block(environ, start_response):
    return answer(start_response, BLOCK)


def stream(environ, start_response):
    """Nobody has said how long it will be."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (piece for piece in PIECES)


def file(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(BLOCK)))])
    f = open(FILE, "rb")
    wrap = environ.get("wsgi.file_wrapper")
    return wrap(f, 65536) if wrap else iter(lambda: f.read(65536), b"")


def read(environ):
    return environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))


def answer(start_response, body):
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]


PATHS = {"/": root, "/post": post, "/check": check, "/block": block, "/stream": stream, "/file": file}


def app(environ, start_response):
    return PATHS[environ["PATH_INFO"]](environ, start_response)
