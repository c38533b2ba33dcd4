"""Runs an ASGI application: its requests and WebSockets are tasks in an event loop.

One lane carries all requests. Each request is a stream, known by its number.
Requests come in through the queue, as on any lane; everything else goes over the
wire, in frames that bear the number of their stream. Nothing in this file blocks on
queue or wire.

A window bounds each direction of a stream: a side may send at most WINDOW bytes that
the other side has not taken. READ frames (to the worker) and CREDIT frames (from the
worker) report bytes taken.
"""

import asyncio
import http
import inspect
import marshal
import os
import re
import signal
import stat
import struct
import sys
from _socket import MSG_DONTWAIT, SCM_RIGHTS, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET
from collections import deque
from itertools import islice
from time import monotonic

from _gunicorn import logs, wsgi
from _gunicorn.lifespan import Lifespan
from _gunicorn.wsgi import (
    BLOCK, BODY, BROKEN, FAILED, FILE, HEADER, HINTS, INDIRECT, LAST, META_MAX, MORE,
    PAIRS_MOST, QUEUE_MAX, QUIET, READ, READY, RECORD, REQUEST, RESPONSE, RETIRE, frame, meta_of)

# Kinds of frames that only streams have (wire.go).
GONE, CREDIT, MESSAGE, ACCEPT, SHUT, TRAILER, BYE = 32, 33, 34, 35, 36, 37, 38
TEXT = QUIET  # flag of MESSAGE: the message is text, not binary
CROWD = QUIET  # flag of REQUEST: this process runs several other requests
EXPECT = LAST  # flag of REQUEST: the client sends the body once READ has asked for it

WINDOW = 256 << 10  # bytes of a stream that one side may send before the other has taken any; as in asgi.go
MESSAGE_COST = 64   # bytes that a message counts for beyond its own length, for its frame and objects; as in asgi.go
PENDING_MAX = 4 << 20  # bytes of all streams waiting for the wire, beyond which send() waits
PIECES = 64         # most buffers in one sendmsg
TURN = 0.001        # seconds of work to begin in one batch, and longest wait of a response for others: too short to be noticed
CROWD_STAYS = 16    # requests without the flag CROWD after which batches end, so that one quiet moment ends none
BATCH_MAX = 64      # most requests in a batch, however brief they are
SMALL = 16384       # longest body that is copied behind its head; beyond, a write of its own costs less than the copy

STATUS = {code.value: "%d %s" % (code, code.phrase) for code in http.HTTPStatus if code >= 200}

pack, unpack, SIZE = HEADER.pack, HEADER.unpack_from, HEADER.size
loads = marshal.loads


class ClientGone(OSError):
    """send() after the client has left (HTTP and WebSocket specification, Disconnected Client)."""


def octets(data):
    """A bytes-like object as bytes. It is copied, because the application may reuse
    its memory, and whatever the size of its items is."""
    if type(data) is bytes:
        return data
    view = memoryview(data)
    if not view.c_contiguous:
        raise TypeError("a memoryview with gaps between its items")
    return view.tobytes()


def pairs(headers):
    """Headers as pairs of bytes, at most PAIRS_MOST, with which no frame can be made."""
    return [tuple(part.encode("latin-1") if isinstance(part, str) else octets(part) for part in (name, value))
            for name, value in islice(headers, PAIRS_MOST)]


heads = {}  # results of encode_head, by its arguments: most applications have few heads
HEADS_MAX = 64  # heads in heads, which is then emptied
HEAD_MAX = 1024  # bytes of marshal of the longest head in heads


def encode_head(status, headers):
    """Status and headers as marshal, and whether they begin a stream of events."""
    if type(headers) is not list:
        headers = list(islice(headers, PAIRS_MOST))
    try:
        key = status, tuple(headers)
        head = heads.get(key)
        if head is not None:
            return head
    except TypeError:  # a name or value that can be changed has no hash
        key = None
    line = STATUS.get(status)
    if line is None:
        line = "%d Unknown" % status
        if not 200 <= status <= 999:
            raise ValueError("invalid status %d" % status)
    try:
        meta = marshal.dumps((line, headers), 2)
        for name, value in headers:
            if type(name) is not bytes or type(value) is not bytes:
                break
        else:
            check(headers)
            if len(meta) <= META_MAX:
                head = meta, begins_events(meta)
                if key and len(meta) <= HEAD_MAX:
                    if len(heads) == HEADS_MAX:
                        heads.clear()
                    heads[key] = head
                return head
    except ValueError:
        pass
    meta = meta_of((line, check(pairs(headers))))
    return meta, begins_events(meta)


def begins_events(meta):
    return meta.find(b"text/event-stream") >= 0  # "in" costs an exception before the search


# The names and values that a worker accepts in a response header (checkField in response.go).
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
names = set()  # names that are valid


def check(headers):
    for name, value in headers:
        if name not in names:
            if not NAME(name):
                raise ValueError("invalid header name %r" % (name,))
            if len(names) < 256:
                names.add(name)
        if FORBIDDEN(value):
            raise ValueError("invalid value of the header %r" % (name,))
    return headers


class Stream:
    """One request: its task, and the data between the task and the worker."""

    # Defaults stand in the class, so that most need not be set for each request.
    task = timer = None
    arrived = waiters = senders = None
    gone = None  # code and reason with which the client has left, None while it is there
    broken = False  # the request's body will never be complete
    ended = False  # the end of the request's body has come
    meta = None  # status and headers as marshal, None until the response starts
    trailers = None  # a list if trailers are announced, a tuple once the body has ended and they are due
    sent = taken = 0
    begun = done = accepted = parting = events = False
    expects = False  # the client waits for a READ before it sends the body
    halted = False  # this server has cancelled the task
    tag = ""  # names the request in log lines, if requests have ids

    # Frames from the worker ------------------------------------------------

    def wake(self):
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def credit(self, n):
        self.sent -= n
        if self.senders and self.sent < WINDOW:
            senders, self.senders = self.senders, None
            for waiter in senders:
                if not waiter.done():
                    waiter.set_result(None)

    def leave(self, code, reason, grace, parting):
        """The client has left. If it may still read (parting), as the server stops or it
        has only ended its side, the application can complete its response."""
        if self.gone and not self.parting:
            return
        self.gone, self.parting = self.gone or (code, reason), parting
        self.wake()
        if not parting:
            self.credit(self.sent)
        self.cancel_after(grace)

    def cancel_after(self, grace):
        if grace is not None and self.task is not None and not self.task.done():
            if self.timer:
                self.timer.cancel()
            if grace:
                self.timer = self.server.loop.call_later(grace, self.cancel)
            else:
                self.cancel()

    def cancel(self):
        if not self.task.done():
            self.server.log.debug("Request cancelled (client disconnected)")
            self.halted = True
            self.task.cancel()

    # Calls by the application ----------------------------------------------

    def wait(self):
        waiter = self.server.loop.create_future()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(waiter)
        return waiter

    def take(self, n):
        """Notes that the application has been given n bytes, so that the worker may send
        as many more."""
        self.taken += n
        if self.taken >= WINDOW // 2 and not self.gone and not self.done:
            self.read(self.taken)
            self.taken = 0

    def read(self, n):
        self.server.push(pack(4, self.number, 0, READ, 0) + struct.pack("<I", n))

    async def room(self):
        """Waits until the stream's window is open, and the streams together have less
        than PENDING_MAX bytes waiting for the wire."""
        while self.sent >= WINDOW and (not self.gone or self.parting):
            if self.senders is None:
                self.senders = []
            waiter = self.server.loop.create_future()
            self.senders.append(waiter)
            await waiter
        if self.server.pending > PENDING_MAX:
            await self.server.drained()
        if self.gone and not self.parting:
            await self.drop()

    async def drop(self):
        """Ends a send() after the client has left. uvicorn ignores what is sent to nobody."""
        if not self.server.uvicorn or self.accepted:
            raise ClientGone("the client has left")
        await asyncio.sleep(0)  # an application that sends on and on must not keep all others from running

    async def push_body(self, kind, meta, body, flags):
        """Sends a frame of the response, or several frames if the body is long."""
        n = len(body)
        if n <= SMALL:
            self.server.push(pack(len(meta) + n, self.number, len(meta), kind, flags) + meta + body)
        else:
            body, at = memoryview(body).cast("B"), 0
            while n - at > WINDOW:
                self.server.push(pack(len(meta) + WINDOW, self.number, len(meta), kind, 0) + meta)
                self.server.push(body[at:at + WINDOW])
                kind, meta = BLOCK, b""
                at += WINDOW
                self.sent += WINDOW
                try:
                    await self.room()
                except BaseException:
                    # Cancelled, as by asyncio.wait_for: any further body would
                    # follow a gap.
                    self.fail(QUIET if self.gone else 0)
                    raise
                if self.gone and not self.parting:
                    return
                if self.done:
                    raise RuntimeError("another task has completed the response")
            n -= at
            self.server.push(pack(len(meta) + n, self.number, len(meta), kind, flags) + meta)
            self.server.push(body[at:])
        self.sent += n
        if flags & LAST:
            self.finish()
        elif self.sent >= WINDOW or self.server.pending > PENDING_MAX:
            await self.room()

    def finish(self):
        self.done = True
        self.credit(self.sent)  # another task's send() may wait, and no credit comes any more
        if self.waiters:
            self.wake()

    def fail(self, flags):
        if not self.done:
            self.server.push(frame(self.number, FAILED, flags=flags))
            self.finish()

    def unexpected(self, event):
        if self.gone:
            return ClientGone("the client has left")
        if self.done:
            return RuntimeError("Unexpected ASGI message %r: the response is complete." % event["type"])
        return RuntimeError("Unexpected ASGI message %r." % event["type"])

    async def respond(self, event):
        """Handles the events of a response."""
        kind = event["type"]
        if kind == "http.response.body":
            if self.meta is None or self.done or type(self.trailers) is tuple:
                raise self.unexpected(event)
            if self.gone and not self.parting:
                return await self.drop()
            body = octets(event.get("body", b""))
            flags = 0 if event.get("more_body", False) else LAST
            if flags and self.trailers is not None:
                flags, self.trailers = 0, ()
            if self.begun:
                if body or flags:
                    await self.push_body(BLOCK, b"", body, flags)
                return
            self.begun = True
            await self.push_body(RESPONSE, self.meta, body, flags)
        elif kind == "http.response.start":
            self.start(event)
        else:
            raise self.unexpected(event)

    def start(self, event):
        if self.meta is not None:
            raise self.unexpected(event)
        self.meta, events = encode_head(event["status"], event.get("headers", ()))
        if "trailers" in event and event["trailers"]:
            self.trailers = []
        if events:
            # A browser reports the stream as open when the head has come, so the
            # head must not wait for the first event.
            self.events = self.begun = True
            self.server.push(frame(self.number, RESPONSE, self.meta))

    async def run(self, scope):
        server = self.server
        if logs.id_header:
            self.tag = logs.tag_of(scope)
        try:
            app = server.app if server.access is None else server.access.asgi(self)
            await app(scope, self.receive, self.send)
            if not self.done:
                self.returned()
        except BaseException as e:
            # SystemExit and KeyboardInterrupt are caught too, as no request may end
            # the server.
            logs.free()
            cancelled = isinstance(e, asyncio.CancelledError)
            try:
                if cancelled and (self.halted or self.gone):
                    self.end(True)
                elif (self.gone or self.broken) and tells_of_leaving(e):
                    server.log.debug("%s: the client has left", type(e).__name__)
                else:
                    server.log.error("Error in ASGI application%s", self.tag, exc_info=e)
            finally:
                self.crashed()
        finally:
            if self.timer:
                self.timer.cancel()
            del server.streams[self.number]
            self.task = None
            if server.files is not None:
                wsgi.report(server.push, server.files)

    def end(self, quiet):
        """Ends the response, complete or not, when the task is over."""
        if self.done:
            return
        if self.parting and self.events and self.begun:
            # A stream of events ends when the server stops, and this end is regular.
            self.server.push(frame(self.number, BLOCK, flags=LAST))
            self.finish()
        else:
            self.fail(QUIET if quiet or self.gone else 0)


def tells_of_leaving(error):
    """Whether an exception only means that the client has left: our ClientGone, or
    the exception that a framework makes of ClientGone or of a disconnect event, such as
    Starlette's ClientDisconnect and WebSocketDisconnect."""
    for _ in range(16):
        if isinstance(error, ClientGone) or type(error).__name__.endswith("Disconnect"):
            return True
        if error is None:
            break
        error = error.__cause__ or error.__context__
    return False


class Http(Stream):
    def __init__(self, server, number, body, more):
        self.server, self.number, self.body, self.more = server, number, body, more

    def came(self, payload, flags, reason):
        """Handles a piece of the request's body or, if the body is broken, the status
        that is the reason."""
        if flags & BROKEN:
            if reason == 499:
                self.leave(1006, "", self.server.grace, False)
            else:
                # The client is still there and gets an answer: the application's,
                # if the application copes with the broken body, or the worker's.
                self.broken = True
                self.wake()
            return
        if self.ended:
            return  # an answer to a READ sent before the end of the body was known
        self.ended = bool(flags & LAST)
        if self.arrived is None:
            self.arrived = deque()
        self.arrived.append((payload, not self.ended))
        if self.waiters:
            self.wake()

    async def receive(self):
        body = self.body
        if body is not None:
            self.body = None
            return {"type": "http.request", "body": body, "more_body": self.more}
        while True:
            if self.arrived:
                body, more = self.arrived.popleft()
                self.take(len(body))
                return {"type": "http.request", "body": body, "more_body": more}
            if self.gone or self.done or self.broken:
                return {"type": "http.disconnect"}
            if self.expects:
                self.expects = False
                self.read(WINDOW)
            await self.wait()

    async def send(self, event):
        kind = event["type"]
        if kind == "http.response.body":
            meta, body = self.meta, event.get("body", b"")
            if (type(body) is not bytes or self.begun or meta is None or len(body) > SMALL or self.gone
                    or self.trailers is not None or event.get("more_body", False)):
                await self.respond(event)
                return
            n = len(body)
            # Most responses are like this: the whole body in one event.
            self.begun = self.done = True
            self.server.push(pack(len(meta) + n, self.number, len(meta), RESPONSE, LAST) + meta + body, True)
            if self.waiters:
                self.wake()
        elif kind == "http.response.start":
            self.start(event)
        elif kind == "http.response.trailers":
            self.send_trailers(event)
        elif kind == "http.response.pathsend":
            await self.send_path(event)
        elif kind == "http.response.early_hint":
            self.hint((b"link", link) for link in event.get("links", ()))
        elif kind == "http.response.informational":
            if event.get("status") == 103:
                self.hint(event.get("headers", ()))
        elif kind != "http.response.debug":
            raise self.unexpected(event)

    def hint(self, headers):
        if not self.begun and not self.gone:
            meta = meta_of(check(pairs(headers)))
            self.server.push(frame(self.number, HINTS, meta))

    def send_trailers(self, event):
        if type(self.trailers) is not tuple or self.done:
            raise self.unexpected(event)
        trailers = self.trailers + tuple(check(pairs(event.get("headers", ()))))
        meta = meta_of(trailers)
        self.trailers = trailers
        if not event.get("more_trailers", False):
            self.server.push(frame(self.number, TRAILER, meta, LAST))
            self.finish()

    async def send_path(self, event):
        """Sends a file by its path. The worker reads the file itself, unless the file has no
        blocks: then it may have another size than it says, as in /proc."""
        if self.meta is None or self.begun or self.trailers is not None:
            raise self.unexpected(event)
        if self.gone and not self.parting:
            raise ClientGone("the client has left")
        fd = os.open(event["path"], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("%r is not a regular file" % (event["path"],))
        except BaseException:
            os.close(fd)
            raise
        if not facts.st_blocks:
            with open(fd, "rb", 0) as file:
                data = True
                while data:
                    data = file.read(WINDOW)
                    await self.respond({"type": "http.response.body", "body": data, "more_body": bool(data)})
            return
        payload = self.meta + struct.pack("<QQ", 0, facts.st_size)
        self.server.push((pack(len(payload), self.number, len(self.meta), FILE, LAST) + payload, fd))
        self.begun = True
        self.finish()

    def returned(self):
        if not self.gone:
            self.server.log.error("ASGI callable returned without %s response.%s",
                                  "completing" if self.begun else "starting", self.tag)
        self.end(False)

    def crashed(self):
        self.end(False)


def new_loop(name, h11, log):
    if name == "uvloop" or name == "auto" and not h11:
        try:
            import uvloop
            return uvloop.new_event_loop()
        except ImportError:
            if name == "uvloop":
                log.warning("uvloop is not installed; the event loop is asyncio's")
    return asyncio.new_event_loop()


def single_callable(app):
    """The application in the form of ASGI 3; an ASGI 2 application is wrapped."""
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return app
    for arguments in ((None, None, None), (None,)):
        try:
            signature.bind(*arguments)
            break
        except TypeError:
            continue
    if len(arguments) == 3:
        return app

    async def called_twice(scope, receive, send):
        await app(scope)(receive, send)
    return called_twice


class Server:
    """The lane of all streams, and the event loop."""

    held, caught = False, None  # see Wire (wsgi.py)
    let_go = wsgi.Wire.let_go

    def __init__(self, settings, app, log, files):
        wsgi.Guarded.wire, wsgi.Guarded.log = self, log
        self.settings, self.app, self.log, self.files = settings, single_callable(app), logs.logger or log, files
        self.queue, self.wire = wsgi.end_of(SOCK_SEQPACKET, wsgi.QUEUE), wsgi.end_of(SOCK_STREAM, wsgi.WIRE)
        logs.open_outbox(settings)
        self.access = logs.open_access(settings)
        self.buffer = bytearray(QUEUE_MAX)
        self.view = memoryview(self.buffer)
        self.streams = {}
        self.newest = 0
        self.asked = {}  # flags of requests too long for a message, by number, until the requests come over the wire
        self.out, self.pending, self.scheduled, self.writing = deque(), 0, False, False
        self.since = self.pushed = self.turned = 0.0  # times: since, when flush was scheduled; pushed, of the last push; turned, of the last read of the queue
        self.batch, self.begun = 1, 0  # batch: requests to begin in one batch; begun: requests begun in this batch
        self.crowd = 0  # number of further requests for which batches go on
        self.waiting = []  # futures of tasks that wait for room on the wire
        self.rest = b""  # start of a frame that has not come in full
        self.root_path = settings["root_path"] or ""
        named, of = settings["worker_class"] or "", settings["said"].get("class", {})
        self.uvicorn = of.get("uvicorn") or named.startswith("uvicorn")
        self.h11 = not of and named.endswith("H11Worker")
        self.grace = None if self.uvicorn else settings["asgi_disconnect_grace_period"]
        # A framework that reads 2.4 or more counts on send() to fail once the client has
        # left, which uvicorn's does not for HTTP.
        self.version = "2.3" if self.uvicorn else "2.5"
        self.closing = False
        self.eager = sys.version_info >= (3, 12)
        wsgi.leave_children_out([self])

    def serve(self):
        """Serves until the worker closes the queue."""
        self.loop = new_loop(self.settings["asgi_loop"], self.h11, self.log)
        asyncio.set_event_loop(self.loop)
        # Raised while uvloop handles another signal, a signal would be handled twice.
        wsgi.raise_stop = lambda number: self.loop.call_soon_threadsafe(signal.raise_signal, number)
        try:
            main = self.loop.create_task(self.main())
            while not main.done():
                try:
                    self.loop.run_until_complete(main)
                except BaseException as e:
                    if main.done():
                        raise
                    if isinstance(e, SystemExit) and wsgi.stopping:
                        continue  # from a handler of the loop's for the stop signal
                    # Of a task's exceptions, asyncio lets only these two out.
                    who = "task" if isinstance(e, (SystemExit, KeyboardInterrupt)) else "signal handler"
                    self.log.error("A %s of the application has ended with %r; the others go on", who, e)
        finally:
            self.close()

    def close(self):
        loop, self.closing = self.loop, True
        for stream in self.streams.values():
            stream.halted = True
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1))
        for stream in self.streams.values():
            stream.end(True)
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
        # Python 3.9 crashes if it closes a socket when nearly all of the interpreter is gone.
        self.queue.detach()
        self.wire.detach()

    async def main(self):
        loop = self.loop
        self.ended, self.late = loop.create_future(), loop.create_future()
        loop.add_reader(wsgi.QUEUE, self.on_queue)
        loop.add_reader(wsgi.WIRE, self.on_wire)
        lifespan = Lifespan(self, self.settings["asgi_lifespan"])
        self.state = lifespan.state
        self.push(frame(0, READY, flags=MORE))
        start = loop.create_task(lifespan.start_up())
        await asyncio.wait([start, self.ended], return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            await lifespan.abandon()
            return
        reason = start.result()
        if reason is not None:
            self.log.error("ASGI lifespan startup failed: %s", reason)
            sys.exit(3)
        wsgi.say_ready(self.push, self.files)
        if self.access:
            self.access.open(self.push)
        await self.ended
        tasks = [stream.task for stream in self.streams.values()]
        await asyncio.wait([asyncio.gather(*tasks, return_exceptions=True), self.late], return_when=asyncio.FIRST_COMPLETED)
        await lifespan.shut_down()

    def part(self, grace):
        """Cancels all tasks after grace, because the grace period of the server ends. The
        shut-down waits half as long again for those that go on."""
        for stream in self.streams.values():
            stream.cancel_after(grace)
        self.loop.call_later(1.5 * grace, self.give_up)

    def give_up(self):
        if not self.late.done():
            self.late.set_result(None)

    def retire(self):
        """Asks for another worker in place of this one, because a hook wishes so."""
        self.push(frame(0, RETIRE))

    # In --------------------------------------------------------------------

    def on_queue(self):
        """Begins the requests of one message or, in a crowd, a batch of requests that
        takes about TURN, judged by the last batch. The worker is then woken once for all
        their answers: waking it for each would cost more than a brief request does.
        Requests that stay in the queue can still be served by other workers."""
        if self.crowd and self.pushed > self.turned:
            # The batch shrinks by half at most, as the last one may have taken long
            # only because this process did not have the processor.
            enough = int(self.begun * TURN / (self.pushed - self.turned))
            self.batch = max(1, self.batch // 2, min(self.batch * 2, BATCH_MAX, enough))
        self.turned, self.begun = monotonic(), 0
        while self.take() and self.begun < self.batch and self.crowd:
            pass

    def take(self):
        """Begins the requests of a message: false if the queue is empty or closed."""
        buffer, view, at = self.buffer, self.view, 0
        try:
            n = self.queue.recv_into(buffer, 0, MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        if not n:
            self.loop.remove_reader(wsgi.QUEUE)
            if not self.ended.done():
                self.ended.set_result(None)
            return False
        while at < n:
            length, number, meta, kind, flags = unpack(buffer, at)
            at += SIZE
            if kind == REQUEST:
                if flags & CROWD:
                    self.crowd = CROWD_STAYS
                elif self.crowd:
                    self.crowd -= 1
                body = at + meta
                end = at + length
                self.begin(number, loads(view[at:body]), b"" if body == end else bytes(view[body:end]), flags)
                at = end
            elif kind == INDIRECT:
                self.newest, self.asked[number] = number, flags
                self.push(pack(4, number, 0, READ, 0) + struct.pack("<I", length))
            elif kind == RECORD:
                self.access.answered(view[at:at + meta])
                break
            else:
                wsgi.say_here(self.push, flags)
        return True

    def begin(self, number, facts, body, flags):
        protocols, version, method, path, raw_path, query, headers, client, server, scheme, trailers = facts
        if type(path) is bytes:
            path = path.decode("utf-8", "replace")
        more = bool(flags & MORE)
        self.newest = number
        self.begun += 1
        if protocols is None:
            stream = Http(self, number, body, more)
            extensions = {"http.response.early_hint": {}, "http.response.pathsend": {}}
            if self.uvicorn:  # middleware written for uvicorn may look at http.response.body alone
                del extensions["http.response.pathsend"]
            if trailers:
                extensions["http.response.trailers"] = {}
            scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": self.version}, "http_version": version, "server": server, "client": client,
                     "scheme": scheme, "method": method, "root_path": self.root_path, "path": path,
                     "raw_path": raw_path, "query_string": query, "headers": headers,
                     "state": self.state.copy(), "extensions": extensions}
            if more:
                if flags & EXPECT:
                    stream.body, stream.expects = None, True
                else:
                    stream.read(WINDOW)
        else:
            from _gunicorn.websocket import WebSocket
            stream = WebSocket(self, number)
            scope = {"type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4" if self.uvicorn else "2.5"}, "http_version": version, "server": server,
                     "client": client, "scheme": scheme, "root_path": self.root_path, "path": path,
                     "raw_path": raw_path, "query_string": query, "headers": headers, "subprotocols": protocols,
                     "state": self.state.copy(), "extensions": {"websocket.http.response": {}}}
        self.streams[number] = stream
        if self.eager:
            task = asyncio.Task(stream.run(scope), loop=self.loop, eager_start=True)
            if not task.done():
                stream.task = task
        else:
            stream.task = self.loop.create_task(stream.run(scope))

    def on_wire(self):
        self.held = True
        self.hear_all()
        self.let_go(False)

    def hear_all(self):
        try:
            data = self.wire.recv(1 << 16, MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as e:  # a reset, if the worker was killed before it had read everything
            wsgi.failed(e)
        if not data:
            os._exit(0)  # the worker is gone, and with it every client
        if self.rest:
            self.rest += data
            data = self.rest
            if len(data) < self.needed:
                return
            data, self.rest = bytes(data), b""
        at, end = 0, len(data)
        while end - at >= SIZE:
            length, number, meta, kind, flags = unpack(data, at)
            if end - at < SIZE + length:
                break
            at += SIZE
            self.hear(number, meta, kind, flags, data[at:at + length])
            at += length
        if at < end:
            self.rest = bytearray(data[at:])
            self.needed = SIZE + length if end - at >= SIZE else SIZE

    def hear(self, number, meta, kind, flags, payload):
        if kind == REQUEST:
            # A request that was too long for a message. Its body comes later.
            self.begin(number, loads(payload), b"", self.asked.pop(number))
            return
        stream = self.streams.get(number)
        if stream is None:
            if kind == GONE and not number:
                self.part(loads(payload)[2] / 1000)
            if kind != GONE:
                return  # the stream is over here, and the worker did not know yet
            # The request is in the queue, perhaps behind others, unless the worker
            # has taken it back.
            while self.newest < number and self.take():
                pass
            if self.asked.pop(number, None) is not None:
                # The worker answered the request before it had sent the long environ.
                self.push(frame(number, FAILED))
                return
            stream = self.streams.get(number)
            if stream is None:
                return
        if kind == BODY or kind == MESSAGE:
            stream.came(payload, flags, meta)
        elif kind == CREDIT:
            stream.credit(meta)
        elif kind == BYE:
            stream.bye(*loads(payload)[:2])
        elif kind == GONE:
            code, reason, grace = loads(payload)
            # A WebSocket is closed by now; any other response may still be completed.
            stream.leave(code, reason, {-1: self.grace, -2: None}.get(grace, grace / 1000),
                         grace != -1 and not stream.accepted)

    # Out -------------------------------------------------------------------

    def push(self, data, end=False):
        """Puts a frame, or a piece of a frame, on the wire: bytes, or a tuple of bytes
        and a descriptor. Frames of one pass of the event loop are written together,
        or after TURN at the latest. A frame that ends the only request (end) is
        written at once."""
        self.out.append(data)
        self.pending += len(data) if type(data) is not tuple else len(data[0])
        if self.writing:
            return  # the event loop calls write once the wire has room
        if end and not self.crowd and len(self.streams) == 1:
            self.write()
            return
        now = self.pushed = monotonic()
        if not self.scheduled:
            self.scheduled, self.since = True, now
            self.loop.call_soon(self.flush)
        elif now - self.since > TURN:
            self.since = now
            self.write()

    def flush(self):
        self.scheduled = False
        if not self.writing:
            self.write()

    def write(self):
        held, self.held = self.held, True
        self.write_all()
        self.held = held
        if self.caught:
            self.let_go(held)

    def write_all(self):
        out = self.out
        try:
            while out:
                if type(out[0]) is tuple:
                    self.pass_file(*out[0])
                    continue
                if len(out) == 1 and type(out[0]) is bytes:
                    self.written(self.wire.send(out[0], MSG_DONTWAIT))
                    continue
                pieces, size = [], 0
                for piece in out:
                    if type(piece) is tuple or len(pieces) == PIECES:
                        break
                    pieces.append(piece)
                    size += len(piece)
                if size <= 65536:
                    sent = self.wire.send(b"".join(pieces), MSG_DONTWAIT)
                else:
                    sent = self.wire.sendmsg(pieces, (), MSG_DONTWAIT)
                self.written(sent)
        except (BlockingIOError, InterruptedError):
            if not self.writing:
                self.writing = True
                self.loop.add_writer(wsgi.WIRE, self.write)
            return
        except OSError:
            os._exit(0)  # the worker is gone
        if self.writing:
            self.writing = False
            self.loop.remove_writer(wsgi.WIRE)

    def pass_file(self, piece, fd):
        """Writes a frame with a descriptor, which has to go with the first byte of a
        write. If the kernel passes no more descriptors, the request fails."""
        try:
            n = self.wire.sendmsg([piece], [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", fd))], MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as e:
            self.log.error("A file cannot be sent: %s", e)
            n, self.pending = 0, self.pending - len(piece) + SIZE
            piece = frame(unpack(piece)[1], FAILED)
        os.close(fd)
        self.out[0] = piece
        self.written(n)

    def written(self, n):
        out = self.out
        self.pending -= n
        if not self.pending:
            out.clear()  # most writes take everything
            n = 0
        while n:
            size = len(out[0])
            if n < size:
                out[0] = memoryview(out[0])[n:]
                break
            n -= size
            out.popleft()
        while out and len(out[0]) == 0:
            out.popleft()
        if self.waiting and self.pending <= PENDING_MAX // 2:
            waiting, self.waiting = self.waiting, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    async def drained(self):
        waiter = self.loop.create_future()
        self.waiting.append(waiter)
        await waiter
