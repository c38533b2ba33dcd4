"""Uses the ASGI sites beside this file as client.py does others, and their
WebSockets by two libraries.

    python asgi_client.py [--threads N] [--keepalive] fastapi|starlette|quart URL

AUTHORITY names the certificates to trust over TLS.
"""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import ssl
import threading
import time

import httpx
import websocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import client
from client import CHECKS, JSON, PATIENCE, TEXT, UPLOAD_SIZE, check, chunked, equal, ranges

CHECKS.update({"fastapi": [], "starlette": [], "quart": []})

BINARY = "application/octet-stream"
authority = os.environ.get("AUTHORITY")


def until(path):
    """Waits for a file that the application makes."""
    limit = time.monotonic() + PATIENCE
    while not os.path.exists(path):
        if time.monotonic() > limit:
            raise AssertionError("%s is not made" % path)
        time.sleep(0.005)


def touch(path):
    with open(path, "x"):
        pass


def ws_url(c, path):
    return "ws" + c.base.removeprefix("http") + path


loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


def wait(coroutine):
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, PATIENCE), loop).result()


class Socket:
    """A WebSocket by the library websockets, for callers that wait. All use one
    event loop: the library's own client for such callers, websockets.sync, reads in
    one thread and writes in another, and an SSL object is not made for that (Python
    3.11 hangs, or says SSLError: internal error)."""

    def __init__(self, url, **options):
        async def enter():
            return await connect(url, proxy=None, open_timeout=PATIENCE, max_size=None, **options)
        self.ws = wait(enter())
        self.subprotocol, self.response = self.ws.subprotocol, self.ws.response

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, message):
        wait(self.ws.send(message))

    def recv(self):
        return wait(self.ws.recv())

    def ping(self):
        async def ping():
            await (await self.ws.ping())
        wait(ping())

    def close(self, *reason):
        wait(self.ws.close(*reason))

    def vanish(self):
        loop.call_soon_threadsafe(self.ws.transport.abort)


def open_socket(c, path, **options):
    if authority:
        options["ssl"] = ssl.create_default_context(cafile=authority)
    return Socket(ws_url(c, path), **options)


def refused(c, path, **options):
    """The answer in place of a WebSocket."""
    try:
        open_socket(c, path, **options)
    except InvalidStatus as e:
        return e.response
    raise AssertionError("%s accepts" % path)


def close_code(ws):
    """The code and reason with which the server closes."""
    try:
        got = ws.recv()
    except ConnectionClosed as e:
        return e.rcvd and (e.rcvd.code, e.rcvd.reason)
    raise AssertionError("%.100r" % got)


def echoes(c, path, empty=b"", **options):
    """What is sent comes back; empty is what an application takes for empty bytes."""
    with open_socket(c, path, **options) as ws:
        for said in ("", "a", "Zoë €", "x" * 125, "x" * 126, "y" * 65535, "z" * 65536, "ä" * (1 << 20),
                     empty, b"\0\xff", c.big[:1 << 20], c.big[:1000]):
            ws.send(said)
            got = ws.recv()
            if got != said:
                raise AssertionError("got %.100r of %d, want %.100r of %d" % (got, len(got), said, len(said)))
        # Fragments are one message.
        ws.send(iter(["one, ", "two, ", "three"]))
        equal(ws.recv(), "one, two, three")
        # Many are under way at one time.
        for n in range(500):
            ws.send("message %d" % n)
        equal([ws.recv() for _ in range(500)], ["message %d" % n for n in range(500)])
        ws.ping()
        ws.close(4001, "täglich")
        equal(close_code(ws)[0], 4001)
    return ws


def echoes_elsewhere(c, path):
    """By the library websocket-client."""
    options = {"sslopt": {"ca_certs": authority}} if authority else {}
    ws = websocket.create_connection(ws_url(c, path), timeout=PATIENCE, http_no_proxy=["127.0.0.1"], **options)
    for said in ("a", "Zoë €", "y" * 100000):
        ws.send(said)
        equal(ws.recv(), said)
    ws.send_binary(c.big[:200000])
    equal(bytes(ws.recv()), c.big[:200000])
    ws.ping("there?")
    equal(ws.recv_data(control_frame=True), (websocket.ABNF.OPCODE_PONG, b"there?"))
    ws.send_close(1000, b"done")
    opcode, data = ws.recv_data()
    equal((opcode, data[:2]), (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8"))
    ws.shutdown()


# FastAPI --------------------------------------------------------------------


@check("fastapi")
def fastapi_json(c):
    r = c.post("/items?q=2", 201, JSON, json={"name": "Zoë €", "price": 1.5, "tags": ["a", "é"]})
    equal(r.json(), {"name": "Zoë €", "price": 3.0, "tags": ["a", "é"]})
    long = {"name": "x" * 300000, "price": 1, "tags": []}
    equal(c.post("/items", 201, JSON, json=long).json(), long)
    r = c.post("/items?q=none", 422, JSON, json={"price": -1, "tags": [1]})
    equal(sorted(tuple(e["loc"]) for e in r.json()["detail"]),
          [("body", "name"), ("body", "price"), ("body", "tags", 0), ("query", "q")])
    c.post("/items", 422, JSON, data=b"{", headers={"Content-Type": "application/json"})
    r = c.get("/items/7?tag=a&tag=%E2%82%AC", 200, JSON)
    equal(r.json(), {"number": 7, "tags": ["a", "€"], "url": c.base + "/items/7?tag=a&tag=%E2%82%AC",
                     "client": "127.0.0.1", "scheme": c.base.partition(":")[0]})
    float(r.headers["X-Elapsed"])
    c.get("/items/seven", 422, JSON)
    equal(c.get("/none", 404, JSON).json(), {"detail": "Not Found"})
    equal(c.send("DELETE", "/items", 405, JSON).headers["Allow"], "POST")
    equal(len(c.get("/openapi.json", 200, JSON).json()["paths"]), 15)
    equal(c.get("/state", 200, JSON).json()["greeting"], "hello from the lifespan")
    if c.keepalive:
        equal(c.connections(), 1)


@check("fastapi")
def fastapi_dependency(c):
    got = c.get("/dependency", 200, JSON).json()
    equal(got["open"], True)
    until(got["closed"])
    until(c.get("/dependency?fail=1", 409, JSON).json()["detail"]["closed"])


@check("fastapi")
def fastapi_errors(c):
    r = c.get("/teapot", 418, JSON)
    equal((r.json(), r.headers["X-Handle"]), ({"error": "no coffee"}, "here"))
    equal(c.get("/boom?id=" + c.id, 500, TEXT).text, "Internal Server Error")


@check("fastapi")
def fastapi_cross_origin(c):
    r = c.get("/state", 200, JSON, headers={"Origin": "https://friend.example"})
    equal([r.headers.get("Access-Control-" + name) for name in ("Allow-Origin", "Allow-Credentials", "Expose-Headers")],
          ["https://friend.example", "true", "X-Elapsed"])
    ask = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "X-Own"}
    r = c.send("OPTIONS", "/raw", 200, TEXT, headers={"Origin": "https://friend.example", **ask})
    equal((r.text, r.headers["Access-Control-Allow-Methods"]), ("OK", "PUT"))
    r = c.send("OPTIONS", "/raw", 400, TEXT, headers={"Origin": "https://evil.example", **ask})
    equal(r.headers.get("Access-Control-Allow-Origin"), None)


@check("fastapi")
def fastapi_bodies(c):
    equal(c.upload("/upload", {"note": "Übersicht"}),
          {"name": "Übersicht.bin", "size": UPLOAD_SIZE, "sha256": c.big_sha256, "note": "Übersicht"})
    want = {"size": UPLOAD_SIZE, "sha256": c.big_sha256}
    equal(c.send("PUT", "/raw", 200, JSON, data=c.big).json(), {**want, "length": str(UPLOAD_SIZE)})
    equal(c.send("PUT", "/raw", 200, JSON, data=chunked(c.big)).json(), {**want, "length": None})
    equal(c.send("PUT", "/raw", 200, JSON, data=b"").json()["size"], 0)
    # One that the application does not wait for.
    c.send("DELETE", "/items", 405, JSON, data=c.big[:300000])
    equal(c.get("/items/1", 200, JSON).json()["number"], 1)


@check("fastapi")
def fastapi_streaming(c):
    seed = random.randrange(1 << 30)
    source = random.Random(seed)
    want = hashlib.sha256(b"".join(source.randbytes(65536) for _ in range(128))).hexdigest()
    for path in "/download", "/download/plain":
        r = c.get("%s?seed=%d&blocks=128" % (path, seed), 200, BINARY)
        equal((len(r.content), hashlib.sha256(r.content).hexdigest()), (8 << 20, want))
        equal(r.headers["Transfer-Encoding"], "chunked")
    c.blocks_come_one_by_one("/stream", "application/x-ndjson")
    c.leaves_in_the_middle("/endless")


@check("fastapi")
def fastapi_background(c):
    got = c.post("/background", 202, JSON).json()
    # The response is here and the task is not over; the connection may go on.
    equal(c.get("/items/2", 200, JSON).json()["number"], 2)
    equal(os.path.exists(got["done"]), False)
    touch(got["gate"])
    until(got["done"])


@check("fastapi")
def fastapi_threads(c):
    """A function that blocks holds up nobody: others answer before it does."""
    equal(c.get("/loop", 200, JSON).json(), {"main": True})
    verify = ssl.create_default_context(cafile=authority) if authority else True
    gate = c.get("/dependency", 200, JSON).json()["closed"] + ".gate"
    with (httpx.Client(base_url=c.base, verify=verify, timeout=PATIENCE, trust_env=False) as other,
          concurrent.futures.ThreadPoolExecutor(8) as pool):
        waiting = [pool.submit(other.get, "/thread", params={"gate": gate}) for _ in range(8)]
        for _ in range(10):
            equal(c.get("/loop", 200, JSON).json(), {"main": True})
            equal(c.get("/thread", 200, JSON).json(), {"main": False, "opened": False})
        equal([w.done() for w in waiting], [False] * 8)
        touch(gate)
        equal([w.result().json() for w in waiting], [{"main": False, "opened": True}] * 8)


@check("fastapi")
def fastapi_sockets(c):
    ws = echoes(c, "/ws/echo", subprotocols=["echo.v0", "echo.v1"])
    equal((ws.subprotocol, ws.response.headers["X-Own"], ws.response.headers.get("Sec-WebSocket-Extensions")[:18]),
          ("echo.v1", "1", "permessage-deflate"))
    ws = echoes(c, "/ws/echo", compression=None)
    equal((ws.subprotocol, "Sec-WebSocket-Extensions" in ws.response.headers), (None, False))
    echoes_elsewhere(c, "/ws/echo")
    with open_socket(c, "/ws/ticket?ticket=valid") as ws:
        equal(ws.recv(), "valid")
        equal(close_code(ws), (4000, "that was äll"))
    with open_socket(c, "/ws/boom") as ws:
        equal(close_code(ws)[0], 1011)


@check("fastapi")
def fastapi_sockets_refused(c):
    r = refused(c, "/ws/ticket")
    equal((r.status_code, r.body), (403, b""))
    equal(refused(c, "/ws/none").status_code, 403)


@check("fastapi")
def fastapi_broadcast(c):
    """A room is one worker's, so four of the same are looked for."""
    rooms = {}
    with contextlib.ExitStack() as stack:
        while True:
            ws = stack.enter_context(open_socket(c, "/ws/room/" + c.id, compression=random.choice(["deflate", None])))
            greeting = json.loads(ws.recv())
            room = rooms.setdefault(greeting["worker"], [])
            room.append(ws)
            equal(greeting["members"], len(room))
            if len(room) == 4:
                break
        for n, speaker in enumerate(room):
            said = {"speaker": n, "words": "Zoë " * 100 * n}
            speaker.send(json.dumps(said))
            equal([json.loads(ws.recv()) for ws in room], [said] * 4)
        room.pop().vanish()
        for n in range(50):
            room[n % 3].send(json.dumps(n))
            equal([json.loads(ws.recv()) for ws in room], [n] * 3)


# Starlette ------------------------------------------------------------------


@check("starlette")
def starlette_files(c):
    page = c.get("/static/", 200, client.HTML)
    if "<title>Shelf</title>" not in page.text:
        raise AssertionError(page.text)
    css = "text/css; charset=utf-8"
    sheet = c.get("/static/style.css", 200, css)
    head = c.send("HEAD", "/static/style.css", 200, css)
    equal((head.headers["Content-Length"], head.headers["ETag"]), (str(len(sheet.content)), sheet.headers["ETag"]))
    c.get("/static/style.css", 304, None, headers={"If-None-Match": sheet.headers["ETag"]})
    c.get("/static/style.css", 304, None, headers={"If-Modified-Since": sheet.headers["Last-Modified"]})
    c.get("/static/none", 404, TEXT)
    c.get("/static/../shelf.py", 404, TEXT)
    c.get("/static/%2e%2e/shelf.py", 404, TEXT)
    c.post("/static/style.css", 405, TEXT)

    r = c.get("/picture", 200, BINARY, headers={"Accept-Encoding": "identity"})
    equal(hashlib.sha256(r.content).digest(), hashlib.sha256(random.Random(3).randbytes(3 << 20)).digest())
    equal((r.headers["Last-Modified"], r.headers["Accept-Ranges"]), ("Tue, 14 Nov 2023 22:13:20 GMT", "bytes"))
    head = c.send("HEAD", "/picture", 200, BINARY, headers={"Accept-Encoding": "identity"})
    equal(head.headers["Content-Length"], str(3 << 20))
    ranges(c, "/picture", r.content, BINARY, r.headers["ETag"])
    several = c.session.get(c.base + "/picture", headers={"Range": "bytes=0-9,100-109", "Accept-Encoding": "identity"})
    equal((several.status_code, several.headers["Content-Type"].partition(";")[0]), (206, "multipart/byteranges"))
    equal(several.content.count(b"Content-Range: bytes "), 2)
    c.get("/picture", 416, TEXT, headers={"Range": "bytes=99999999-"})


@check("starlette")
def starlette_sessions(c):
    equal(c.get("/count", 200, JSON).json(), {"count": 1})
    r = c.post("/login", 200, TEXT, data={"user": "Zoë " + c.id})
    [cookie] = r.raw.headers.getlist("Set-Cookie")
    equal(cookie.split("; ")[-3:], ["Max-Age=1209600", "httponly", "samesite=lax"])
    for n in range(2, 21):
        equal(c.get("/count", 200, JSON).json(), {"user": "Zoë " + c.id, "count": n})
    # A WebSocket has the same session, and the inner application its own root.
    cookies = "; ".join("%s=%s" % (cookie.name, cookie.value) for cookie in c.session.cookies)
    with open_socket(c, "/inner/socket", additional_headers={"Cookie": cookies}) as ws:
        equal(json.loads(ws.recv()), {"root_path": "/inner", "url": ws_url(c, "/inner/socket"),
                                              "user": "Zoë " + c.id})
        equal(close_code(ws), (1000, ""))
    c.post("/logout", 200, TEXT)
    equal(c.get("/count", 200, JSON).json(), {"count": 1})
    c.session.cookies.clear()
    c.session.cookies.set("session", "forged")
    equal(c.get("/count", 200, JSON).json(), {"count": 1})
    if c.keepalive:
        equal(c.connections(), 1)


@check("starlette")
def starlette_inner(c):
    equal(c.get("/inner/where/Zo%C3%AB?a=1", 200, JSON).json(), {
        "root_path": "/inner", "path": "/inner/where/Zoë", "url": c.base + "/inner/where/Zoë?a=1",
        "own": c.base + "/inner/where/Zoë"})
    c.get("/inner/none", 404, TEXT)
    r = c.get("/words", 200, TEXT)
    equal((r.text, r.headers["Content-Encoding"], r.headers["Vary"]), ("word " * 10000, "gzip", "Accept-Encoding"))


@check("starlette")
def starlette_events(c):
    """Reads each event when it comes: the next one is made after that. Then
    leaves, and the generator must end."""
    for path in "/events", "/events/plain":
        with httpx.stream("GET", c.base + path, timeout=PATIENCE, trust_env=False) as r:
            equal((r.status_code, r.headers["Content-Type"]), (200, "text/event-stream; charset=utf-8"))
            lines = r.iter_lines()
            for n in range(10):
                event = {}
                while line := next(lines):
                    name, _, value = line.partition(": ")
                    event[name] = value
                equal((event["id"], event["event"]), (str(n), "number"))
                if n == 0:
                    closed = event["data"]
                else:
                    touch(event["data"])
            equal(os.path.exists(closed), False)
        until(closed)


# Quart ----------------------------------------------------------------------


@check("quart")
def quart_pages(c):
    equal(c.get("/", 200, client.HTML).text, "Hello, World!\n")
    equal(c.send("HEAD", "/", 200, client.HTML).headers["Content-Length"], "14")
    equal(c.post("/json/Zo%C3%AB?a=1", 200, JSON, json={"b": [1, "é"]}).json(),
          {"name": "Zoë", "got": {"b": [1, "é"]}, "query": {"a": "1"}, "started": 1})
    equal(c.send("PUT", "/raw", 200, JSON, data=chunked(c.big[:3 << 20])).json(), {"size": 3 << 20})
    equal(c.get("/lines", 200, "text/plain").text, "".join("line %d\n" % n for n in range(1000)))
    c.get("/none", 404, client.HTML)
    if c.keepalive:
        equal(c.connections(), 1)


@check("quart")
def quart_sockets(c):
    # Quart takes empty bytes for no bytes.
    echoes(c, "/ws", empty=b"0")
    echoes(c, "/ws", empty=b"0", compression=None)
    echoes_elsewhere(c, "/ws")
    r = refused(c, "/closed")
    equal((r.status_code, r.body), (410, b"not for you"))
    equal(refused(c, "/none").status_code, 404)


if __name__ == "__main__":
    client.main()
