"""A FastAPI application that uses what such applications use. Nothing in it
knows by which server it is run.

SITE_DATA names a directory. Files there tell the client, whichever worker it
has, what happens after its response, and let it say when that shall go on.
"""

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import pathlib
import random
import threading
import time
import uuid
from typing import Annotated

from fastapi import (BackgroundTasks, Depends, FastAPI, File, Form, HTTPException, Query, Request, UploadFile,
                     WebSocket, WebSocketDisconnect, WebSocketException)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.middleware.base import BaseHTTPMiddleware

DATA = pathlib.Path(os.environ["SITE_DATA"])
rooms = {}
collecting = set()  # tasks, which live as long as somebody has them


@contextlib.asynccontextmanager
async def lifespan(app):
    print("lifespan: up", flush=True)
    yield {"greeting": "hello from the lifespan", "loop": type(asyncio.get_running_loop()).__module__}
    print("lifespan: down", flush=True)


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        begun = time.perf_counter()
        response = await call_next(request)
        response.headers["X-Elapsed"] = "%.6f" % (time.perf_counter() - begun)
        return response


app = FastAPI(lifespan=lifespan)
app.add_middleware(Timing)
app.add_middleware(CORSMiddleware, allow_origins=["https://friend.example"], allow_methods=["PUT"],
                   allow_headers=["X-Own"], expose_headers=["X-Elapsed"], allow_credentials=True)


def fresh():
    """A file that is not there yet."""
    return DATA / uuid.uuid4().hex


async def opened(gate):
    async with asyncio.timeout(20):
        while not gate.exists():
            await asyncio.sleep(0.005)


# JSON, dependencies, errors


class Item(BaseModel):
    name: str
    price: float = Field(gt=0)
    tags: list[str] = []


@app.post("/items", status_code=201)
async def create(item: Item, q: Annotated[int | None, Query(ge=1)] = None) -> Item:
    return item.model_copy(update={"price": item.price * (q or 1)})


@app.get("/items/{number}")
async def read(number: int, request: Request, tag: Annotated[list[str], Query()] = []):
    return {"number": number, "tags": tag, "url": str(request.url), "client": request.client.host,
            "scheme": request.url.scheme}


@app.get("/state")
async def state(request: Request):
    return {"greeting": request.state.greeting, "loop": request.state.loop}


async def resource():
    closed = fresh()
    try:
        yield closed
    finally:
        closed.touch()


@app.get("/dependency")
async def dependency(closed: Annotated[pathlib.Path, Depends(resource)], fail: bool = False):
    if fail:
        raise HTTPException(409, {"closed": str(closed)})
    return {"open": not closed.exists(), "closed": str(closed)}


class Teapot(Exception):
    pass


@app.exception_handler(Teapot)
async def short_and_stout(request, error):
    return JSONResponse({"error": str(error)}, 418, {"X-Handle": "here"})


@app.get("/teapot")
async def teapot():
    raise Teapot("no coffee")


@app.get("/boom")
async def boom(id: str):
    raise RuntimeError("boom " + id)


# Bodies, long and slow


@app.post("/upload")
async def upload(file: Annotated[UploadFile, File()], note: Annotated[str, Form()]):
    digest = hashlib.sha256()
    size = 0
    while block := await file.read(1 << 16):
        digest.update(block)
        size += len(block)
    return {"name": file.filename, "size": size, "sha256": digest.hexdigest(), "note": note}


@app.put("/raw")
async def raw(request: Request):
    digest = hashlib.sha256()
    size = 0
    async for block in request.stream():
        digest.update(block)
        size += len(block)
    return {"size": size, "sha256": digest.hexdigest(), "length": request.headers.get("content-length")}


def blocks_of(seed, count):
    source = random.Random(seed)
    return (source.randbytes(65536) for _ in range(count))


@app.get("/download")
async def download(seed: int, blocks: int):
    async def generate():
        for block in blocks_of(seed, blocks):
            yield block
    return StreamingResponse(generate(), media_type="application/octet-stream")


@app.get("/download/plain")
def download_plain(seed: int, blocks: int):
    return StreamingResponse(blocks_of(seed, blocks), media_type="application/octet-stream")


@app.get("/stream")
async def stream(request: Request):
    async def generate():
        for n in range(5):
            gate = fresh()
            yield json.dumps({"block": n, "path": request.url.path, "gate": str(gate)}) + "\n"
            await opened(gate)
        yield "end\n"
    return StreamingResponse(generate(), media_type="application/x-ndjson")


@app.get("/endless")
async def endless():
    closed = fresh()

    async def collect():
        # The middleware leaves the generator in a cycle with the exception
        # that ended it, so that its end is up to the collector of garbage.
        while not closed.exists():
            gc.collect()
            await asyncio.sleep(0.1)
    collecting.add(asyncio.create_task(collect()))

    async def generate():
        try:
            yield "%s\n" % closed
            while True:
                yield b"x" * 65536
        finally:
            closed.touch()
    return StreamingResponse(generate(), media_type="application/octet-stream")


@app.post("/background", status_code=202)
async def background(tasks: BackgroundTasks):
    gate, done = fresh(), fresh()

    async def work():
        await opened(gate)
        done.touch()
    tasks.add_task(work)
    return {"gate": str(gate), "done": str(done)}


# In threads, and beside them


@app.get("/thread")
def thread(gate: str = ""):
    limit = time.monotonic() + 20
    while gate and not os.path.exists(gate) and time.monotonic() < limit:
        time.sleep(0.005)
    return {"main": threading.current_thread() is threading.main_thread(), "opened": os.path.exists(gate)}


@app.get("/loop")
async def loop():
    return {"main": threading.current_thread() is threading.main_thread()}


# WebSockets


@app.websocket("/ws/echo")
async def echo(socket: WebSocket):
    await socket.accept("echo.v1" if "echo.v1" in socket.scope["subprotocols"] else None, [(b"x-own", b"1")])
    while True:
        event = await socket.receive()
        if event["type"] == "websocket.disconnect":
            print("echo: left with %d %r" % (event["code"], event.get("reason")), flush=True)
            return
        if event.get("text") is not None:
            await socket.send_text(event["text"])
        else:
            await socket.send_bytes(event["bytes"])


@app.websocket("/ws/room/{name}")
async def room(socket: WebSocket, name: str):
    await socket.accept()
    members = rooms.setdefault(name, set())
    members.add(socket)
    try:
        await socket.send_json({"worker": os.getpid(), "members": len(members)})
        while True:
            said = await socket.receive_json()
            for other in list(members):
                # Another may have left in this moment.
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await other.send_json(said)
    except WebSocketDisconnect:
        pass
    finally:
        members.discard(socket)


async def ticket(socket: WebSocket, ticket: str = ""):
    if ticket != "valid":
        raise WebSocketException(1008, "no valid ticket")
    return ticket


@app.websocket("/ws/ticket")
async def with_ticket(socket: WebSocket, ticket: Annotated[str, Depends(ticket)]):
    await socket.accept()
    await socket.send_text(ticket)
    await socket.close(4000, "that was äll")


@app.websocket("/ws/boom")
async def socket_boom(socket: WebSocket):
    await socket.accept()
    raise RuntimeError("boom in a WebSocket")
