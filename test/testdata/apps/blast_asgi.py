"""An ASGI application that is honest at /, and at /echo with WebSockets, and makes a
mistake at /bad: which one, the number in the query says, so that each can be made
again."""
import asyncio
import os
import random

from blast_wsgi import Mute, Odd, done, odd


def error(r):
    return r.choice((ValueError("a"), Odd("b"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopAsyncIteration(), MemoryError(), Mute(),
                     OSError(32, "Broken pipe"), asyncio.CancelledError(), asyncio.TimeoutError()))


def body(r):
    return b"b" * r.choice((0, 1, 100, 20_000, 300_000))


def plan(r, kind):
    """Events as they should be."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
    response = [start] + [{"type": "http.response.body", "body": body(r), "more_body": True} for _ in range(r.randrange(3))]
    if kind == "http":
        choice = r.randrange(8)
        if choice == 0:
            return [start, {"type": "http.response.pathsend", "path": __file__}]
        if choice == 1:
            return [{"type": "http.response.early_hint", "links": [b"</a>"]}] + response + [{"type": "http.response.body", "body": b"end"}]
        if choice == 2:
            return [dict(start, trailers=True), {"type": "http.response.body", "body": body(r)},
                    {"type": "http.response.trailers", "headers": [(b"x-t", b"t")]}]
        return response + [{"type": "http.response.body", "body": body(r)}]
    choice = r.randrange(6)
    if choice == 0:
        return [dict(event, type="websocket." + event["type"]) for event in response + [{"type": "http.response.body", "body": b"no"}]]
    if choice == 1:
        return [{"type": "websocket.close", "code": 1000}]
    talk = [r.choice(({"type": "websocket.send", "text": "t" * len(body(r))}, {"type": "websocket.send", "bytes": body(r)}))
            for _ in range(r.randrange(4))]
    return [{"type": "websocket.accept", "subprotocol": None, "headers": [(b"x-a", b"b")]}] + talk + [
        {"type": "websocket.close", "code": 1000, "reason": "why"}]


def spoil(r, events):
    for _ in range(r.choice((0, 1, 1, 1, 2, 5))):
        if not events:
            break
        at, choice = r.randrange(len(events)), r.randrange(9)
        if choice == 0:
            del events[at]
        elif choice == 1:
            events.insert(r.randrange(len(events) + 1), events[at])
        elif choice == 2:
            r.shuffle(events)
        elif choice == 3:
            events[at] = odd(r)
        elif type(events[at]) is dict and events[at]:
            event = events[at] = dict(events[at])
            name = r.choice(sorted(event))
            if choice == 4:
                del event[name]
            elif choice == 5 and event.get("headers"):
                event["headers"] = event["headers"] + [r.choice((odd(r), (odd(r), b"v"), (b"n", odd(r)), (b"n", b"a\r\nb"), (b"n", b"v", b"w")))]
            else:
                event[name] = odd(r)
    return events


async def bad(r, scope, receive, send):
    if scope["type"] == "websocket" or r.randrange(3) == 0:
        await receive()
    later = []
    for event in spoil(r, plan(r, scope["type"])):
        choice = r.randrange(24)
        if choice == 0:
            raise error(r)
        try:
            if choice == 1:
                await asyncio.wait_for(send(event), r.choice((0, 0.0001, 0.01)))
            elif choice == 2:
                await asyncio.wait_for(receive(), r.choice((0, 0.0001, 0.01)))
                await send(event)
            elif choice == 3:
                later.append(asyncio.ensure_future(send(event)))
            elif choice == 4:
                await asyncio.gather(send(event), send(event))
            elif choice == 5:
                await send(event)
                await asyncio.sleep(r.choice((0, 0.001, 0.02)))
            else:
                await send(event)
        except Exception:
            if r.randrange(2):
                raise
    for _ in range(r.randrange(3)):
        try:
            await asyncio.wait_for(receive(), 0.01)
        except (asyncio.TimeoutError, TimeoutError):
            break
    if r.randrange(4) == 0:
        # A task that goes on when the request is over.
        later.append(asyncio.ensure_future(afterwards(r, send, receive)))
    for task in later:
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
    if r.randrange(8) == 0:
        scope.clear()


async def afterwards(r, send, receive):
    await asyncio.sleep(0.001 * r.randrange(10))
    await send(r.choice(plan(r, r.choice(("http", "websocket")))))
    await receive()


async def echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] != "websocket.receive":
            return
        await send({"type": "websocket.send", "text": event["text"]})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    query = scope["query_string"]
    if scope["path"] == "/bad":
        await bad(random.Random(int(query)), scope, receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        os.write(done, query + b"\n")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(query))]})
        await send({"type": "http.response.body", "body": query})
