"""Lanes of a WSGI application: each is a thread or a greenlet that receives requests,
calls the application and sends responses."""

import _thread
import errno
import io
import marshal
import mmap
import os
import signal
import struct
import sys
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_PEEK, SOCK_SEQPACKET, SOCK_STREAM

from _gunicorn import logs, wsgi
from _gunicorn.call import (
    PLACE, SHARED_LONG, WHOLE, Body, Call, ClientGone, ClientSocket, Errors, FileWrapper, Ring, ask)
from _gunicorn.wsgi import (
    ANNOUNCED, BROKEN, HEADER, IDLE, LANES, LEFT, MORE, OPEN, PLACES_SIZE, QUEUE_MAX, QUIET, RECORD, REQUEST,
    REQUEST_HEADER, RING_SIZE, SHARED, WORDS_SIZE, Guarded, Wire, allocate_lock, announced, end_of, failed, frame,
    leave_children_out, report, say_here, say_ready, start_thread)

KNOWN_MAX = 64  # parts of environs that are kept; the worker bounds the length of each (alikeMax)
SKIP = 4096  # requests that are not looked up after most of the last ones were not known
OWN = dict.fromkeys(("RAW_URI", "QUERY_STRING", "PATH_INFO", "wsgi.input", "wsgi.early_hints", "gunicorn.socket"))


class Environs(dict):
    """A cache of the parts of environs that requests have in common, by the part's marshal.
    Mostly a part is the same as before, and copying its dict takes a third of the time of
    reading its marshal. If most parts are new, none is kept for a while."""

    def __init__(self, base, begun):
        self.base, self.begun, self.since = base, begun, 0  # begun has the newest request of each lane
        self.missed = self.skip = 0

    def __missing__(self, common):
        environ = marshal.loads(common)
        environ.update(self.base)
        if self.skip:
            self.skip -= 1
            return environ
        if len(self) >= KNOWN_MAX:
            self.clear()  # clearing all is simpler than keeping ages, and costs 64 misses
        # The kept dict has all keys of an environ, so that its copies need not grow.
        self[common] = environ = dict(environ, **OWN)
        self.missed += 1
        if self.missed >= KNOWN_MAX:
            # A hit saves about as much time as a miss costs: with fewer hits than
            # misses, the cache does not pay.
            now = max(self.begun)
            if now - self.since & 0xffffffff < 2 * self.missed:
                self.skip = SKIP
                self.clear()
            self.since, self.missed = now, 0
        return environ


class RealThread:
    """A real thread, used if the application or the configuration file has replaced
    threads with greenlets: a greenlet that waits for a request would stop all others."""

    def __init__(self, target, name):
        self.target, self.name, self.runs = target, name, allocate_lock()

    def start(self):
        self.runs.acquire()
        start_thread(self.run, ())

    def run(self):
        import threading
        try:
            threading.current_thread().name = self.name
            self.target()
        finally:
            self.runs.release()

    def join(self):
        self.runs.acquire()


class Lane:
    """One thread's work: receive requests, call the application, send responses. The
    first lane belongs to the main thread. A sync worker has no other lane; with threads
    or greenlets the first lane only opens the others."""

    def __init__(self, settings, app, log, files=None):
        self.green = Green if settings["family"] in PATCHES else None
        self.threads = settings["family"] != "sync"
        self.shared = memoryview(mmap.mmap(wsgi.PAGE, 0))
        self.words = self.shared[:WORDS_SIZE].cast("I")
        self.app, self.log, self.files = app, logs.logger or log, files
        self.attach(0, wsgi.QUEUE, wsgi.WIRE)
        logs.open_outbox(settings)
        self.access = logs.open_access(settings)
        self.sendfile = settings["sendfile"] is not False
        self.base = {
            "wsgi.version": (1, 0),
            "wsgi.errors": Errors(),
            "wsgi.multithread": self.threads,
            "wsgi.multiprocess": settings["workers"] > 1,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "SERVER_SOFTWARE": settings["said"].get("software", os.environ["SERVER_SOFTWARE"]),
        }
        self.environs = Environs(self.base, self.words[LANES:2 * LANES])
        self.all = [self]
        leave_children_out(self.all)

    def attach(self, index, queue, wire):
        self.index = index
        self.cancelled, self.begun, self.halt, taken = (self.words[at:at + 1] for at in range(index, 4 * LANES, LANES))
        self.queue, self.wire = end_of(SOCK_SEQPACKET, queue), end_of(SOCK_STREAM, wire)
        if self.green:
            self.queue, self.wire = self.green(self.queue), self.green(self.wire)
        else:
            self.wire = Wire(self.wire)
            at = WORDS_SIZE + PLACES_SIZE + index * RING_SIZE
            if at < len(self.shared):
                self.wire.ring = Ring(self.shared[at:at + RING_SIZE], taken)
            if not index:
                Guarded.wire, Guarded.log = self.wire, self.log
        self.wire.asking, self.wire.asked = _thread.allocate_lock() if self.green else allocate_lock(), 0

    def serve(self):
        """Serves until the worker closes the queue."""
        say_ready(self.wire.say, self.files)
        if self.access:
            self.access.open(self.wire.say)
        if self.threads:
            self.open_lanes()
        else:
            self.live()

    def open_lanes(self):
        """Opens a lane and its thread whenever the worker asks for one."""
        import threading
        patched = not self.green and _thread.start_new_thread is not start_thread
        self.Thread = RealThread if patched else threading.Thread
        while True:
            try:
                if not self.hear():
                    break
            except BaseException as e:
                self.complain(e)
        for lane in self.all[1:]:
            thread = None
            while thread is not lane.thread:  # a greenlet may start its successor
                thread = lane.thread
                thread.join()

    def hear(self):
        """Handles a message to the main thread. The result is false if no more will come."""
        data, control, _, _ = self.queue.recvmsg(QUEUE_MAX, CMSG_SPACE(8), MSG_CMSG_CLOEXEC)
        if data:
            _, number, _, kind, flags = HEADER.unpack_from(data)
            if kind == OPEN:
                lane = object.__new__(type(self))
                lane.__dict__.update(self.__dict__)
                lane.attach(number, *struct.unpack("2i", control[0][2]))
                self.all.append(lane)
                lane.start()
            elif kind == RECORD:
                self.access.answered(memoryview(data)[HEADER.size:])
            else:
                say_here(self.wire.say, flags)
        return data

    def start(self):
        # Threads have this name under Gunicorn, and logs show it.
        self.thread = self.Thread(target=self.live, name="ThreadPoolExecutor-0_%d" % (self.index - 1))
        self.thread.start()

    def live(self):
        while True:
            try:
                return self.work()
            except BaseException:
                pass  # a second exception, while work handled the first

    def complain(self, error):
        """Logs an exception that came between requests. Such an exception may have interrupted
        the writing of another record, and may come while this one is written."""
        while True:
            try:
                logs.free()
                if error:
                    self.log.error("%r was raised between requests; it is ignored", error)
                return
            except BaseException:
                error = None

    def work(self):
        """Runs requests until the worker closes the queue. No exception ends the loop, because
        exceptions of a signal handler, of another thread or of a failing log may come anywhere."""
        green = self.green
        buffer = green.buffer if green else bytearray(QUEUE_MAX)
        view = memoryview(buffer)
        receive_into, unpack, size = self.queue.recv_into, REQUEST_HEADER.unpack_from, REQUEST_HEADER.size
        me = green and green.current()
        environs, access, id_key = self.environs, self.access, logs.id_key()
        run = self.respond if type(self) is Lane else self.run
        begun, halt, wire, places = self.begun, self.halt, self.wire, self.shared[WORDS_SIZE:]
        at = n = number = last = 0  # last is the number of the last request that was run
        call = None
        while True:
            try:
                while at < n:
                    length, number, meta, kind, flags, alike = unpack(buffer, at)
                    start = at + size
                    end = start + meta
                    at = start + length
                    # Announce each request: should this process be killed, the worker
                    # knows whether the request had begun. In a message of several
                    # requests the announcement also comes before the question whether
                    # the worker has taken back this request and those behind it
                    # (leftOver in lane.go).
                    begun[0] = number
                    if (at < n or start > size) and halt[0] == number:
                        wire.say(frame(number, LEFT))
                        break
                    if alike:
                        own = start + alike
                        environ = environs[bytes(view[start:own])].copy()
                        if id_key is None:
                            (environ["RAW_URI"], environ["QUERY_STRING"], environ["PATH_INFO"],
                             port, promised) = marshal.loads(view[own:end])
                        else:
                            (environ["RAW_URI"], environ["QUERY_STRING"], environ["PATH_INFO"],
                             port, promised, environ[id_key]) = marshal.loads(view[own:end])
                        if port is not None:
                            environ["REMOTE_PORT"] = port
                        if promised is not None:
                            environ["CONTENT_LENGTH"] = promised
                    elif kind == REQUEST:
                        environ = marshal.loads(view[start:end])
                        environ.update(self.base)
                    elif kind == RECORD:
                        access.answered(view[start:end])
                        break
                    else:
                        # The environ is too long for a message, and comes over the wire.
                        environ = marshal.loads(ask(wire, number, REQUEST, bytearray(length))[2])
                        environ.update(self.base)
                        at = end = n
                    call = Call(wire, number, self.cancelled)
                    if flags & MORE:
                        body = Body(wire, number, call, environ.get("gunicorn.trailers"))
                        environ["wsgi.input"] = io.BufferedReader(body, 1 << 16)
                        call.long = SHARED_LONG  # one thread may read the body while another sends the response
                    else:
                        body = None
                        if flags & SHARED:
                            place, long = PLACE.unpack_from(buffer, end)
                            environ["wsgi.input"] = io.BytesIO(places[place:place + long])
                        else:
                            environ["wsgi.input"] = io.BytesIO(view[end:at]) if at > end else io.BytesIO()
                    environ["wsgi.early_hints"] = call.early_hints
                    environ["gunicorn.socket"] = ClientSocket(call)
                    if environ["SERVER_PROTOCOL"] == "HTTP/2.0":
                        environ["gunicorn.http2.send_trailers"] = call.send_trailers
                    refs = me and sys.getrefcount(me)
                    last = number
                    wire.held, wire.caught = False, None
                    try:
                        run(call, environ)
                    except BaseException:
                        wire.held = IDLE
                        call.fail(0)
                        logs.free()
                        sys.excepthook(*sys.exc_info())
                    wire.held = IDLE
                    environ = call = body = None
                    if self.files is not None:
                        report(wire.say, self.files)
                    if me:
                        if sys.getrefcount(me) > refs:
                            # The request has left something that knows this greenlet and
                            # may raise an exception here, as a timeout that nobody has
                            # cancelled: another greenlet runs the next request.
                            try:
                                self.start()
                            except BaseException:
                                pass  # the exception came while this greenlet waited for the other's start
                            return
                        green.pause()
                at = n = 0
                n = receive_into(buffer)
                if not n:
                    return
                if access is not None and access.active(wire.say):
                    run = self.run
            except BaseException as e:
                error = e
                while error:
                    try:
                        wire.held, wire.caught = IDLE, None
                        if not n and not me:
                            number = unpack(buffer)[1]  # a message may have come with the exception
                        if number and 0 < number - last & 0xffffffff < 1 << 31:
                            # The application has not seen this request, so the worker can have it run again.
                            wire.say(frame(number, LEFT, flags=BROKEN))
                            last, at, n = number, 0, 0
                        elif call:
                            call.fail(0)
                        environ = call = body = None
                        self.complain(error)
                        error = None
                    except BaseException:
                        pass  # try again

    def run(self, call, environ):
        access = self.access
        if access is not None and (call.changed or access.active(call.wire.say)):
            access.run(self.respond, call, environ)
        else:
            self.respond(call, environ)

    def respond(self, call, environ):
        try:
            result = self.app(environ, call.start_response)
            try:
                if type(result) in WHOLE:
                    data = b"".join(result)
                    if call.done and data:
                        self.stop(call, environ)
                    call.whole(data)
                    return
                if not (type(result) is FileWrapper and self.sendfile and not call.begun
                        and call.send_file(result)):
                    for block in result:
                        if call.done and block:
                            self.stop(call, environ)
                            break
                        call.write(block)
                    call.finish(b"")
            finally:
                if type(result) not in WHOLE and hasattr(result, "close"):
                    if call.record and call.done:
                        call.record()
                    result.close()
        except ClientGone:
            call.fail(QUIET)
        except BaseException as e:
            # SystemExit and KeyboardInterrupt are caught too, as no request may end
            # the server.
            if call.taken and isinstance(e, StopIteration):
                return call.fail(QUIET)  # the way to return without a response
            if e is call.broken:  # the client's mistake, which the worker logs
                if e.errno == errno.EBADF:  # the application's mistake: it read too late
                    self.log.warning("%s: %s", logs.asked(environ), e.strerror)
                return call.fail(0)
            logs.free()
            self.log.exception("Error handling request %s", logs.asked(environ))
            call.fail(0)

    def stop(self, call, environ):
        """Warns of a body that is longer than its Content-Length. The iterable is not
        read any further (PEP 3333, Handling the Content-Length Header)."""
        if call.left == 0:  # otherwise the worker has seen the excess, and logs it
            self.log.warning("%s: the response body is longer than its Content-Length; the rest is dropped",
                             logs.asked(environ))


# Greenlets -----------------------------------------------------------------

def patch_gevent():
    from gevent import monkey
    monkey.patch_all()
    import gevent
    # Python does not know of a handler that gevent.signal_handler has set.
    signal.signal(ANNOUNCED - signal.SIGTERM, announced)

    def events(fd):
        hub = gevent.get_hub()
        readable, writable = hub.loop.io(fd, 1), hub.loop.io(fd, 2)
        return lambda: hub.wait(readable), lambda: hub.wait(writable)
    return events, gevent.sleep, gevent.getcurrent


def patch_eventlet():
    import eventlet
    eventlet.monkey_patch()
    from eventlet.hubs import trampoline

    def events(fd):
        return lambda: trampoline(fd, read=True), lambda: trampoline(fd, write=True)
    return events, eventlet.sleep, eventlet.getcurrent


PATCHES = {"gevent": patch_gevent, "eventlet": patch_eventlet}


def patch(settings):
    """With gevent or eventlet, makes the standard library's blocking calls yield. As under
    Gunicorn, this happens before the application is imported."""
    if settings["family"] in PATCHES:
        Green.events, Green.sleep, Green.current = map(staticmethod, PATCHES[settings["family"]]())
        Green.buffer = bytearray(QUEUE_MAX)


class Green:
    """A greenlet's end of a queue or wire: while it waits, other greenlets run."""

    events = sleep = current = None  # functions of the package in use
    apart = ring = None  # as in Wire; greenlets have no pipe
    runs = 0  # number of requests run, by which other greenlets get their turn
    buffer = None  # shared by all lanes, as no other greenlet runs between receiving a message and reading it

    caught = None  # exception raised while a frame was under way
    meta = b""  # as in Wire
    held = False  # as in Wire; not used with greenlets

    def let_go(self, held):
        pass

    def await_answer(self):
        try:
            self.end.recv(1, MSG_PEEK | MSG_DONTWAIT)
        except BlockingIOError:
            self.readable()

    def keep(self, error):
        raise error

    def __init__(self, end):
        self.end, self.lock = end, _thread.allocate_lock()
        self.close = end.close
        self.readable, self.writable = self.events(end.fileno())

    @classmethod
    def pause(cls):
        # A lane whose queue is never empty would keep other greenlets from running.
        cls.runs += 1
        if cls.runs % 8 == 0:
            cls.sleep(0)

    # A timeout of the application's can be raised wherever a greenlet waits. It may
    # interrupt the wait for the first byte of an answer, but no frame that is under
    # way: the second half of the frame would be taken for another frame.

    def __enter__(self):
        caught = None
        while True:
            try:
                self.lock.acquire()
                break
            except BaseException as e:
                caught = e
        self.caught = caught

    def __exit__(self, *error):
        caught, self.caught = self.caught, None
        self.lock.release()
        if caught:
            raise caught

    @staticmethod
    def wait(event):
        try:
            event()
        except BaseException as e:
            return e

    def again(self, receive, *args):
        while True:
            try:
                return receive(*args)
            except BlockingIOError:
                self.wait(self.readable)

    def recv_into(self, into):
        return self.again(self.end.recv_into, into, 0, MSG_DONTWAIT)

    def recvmsg(self, size, control, flags):
        return self.again(self.end.recvmsg, size, control, flags | MSG_DONTWAIT)

    def recvmsg_into(self, buffers):
        return self.again(self.end.recvmsg_into, buffers, 0, MSG_DONTWAIT)

    def sendmsg(self, buffers, control=()):
        left, sent = [memoryview(piece) for piece in buffers], 0
        with self:
            while left:
                try:
                    n = self.end.sendmsg(left, control, MSG_DONTWAIT)
                except BlockingIOError:
                    self.caught = self.wait(self.writable) or self.caught
                    continue
                except OSError as e:
                    failed(e)
                sent, control = sent + n, ()
                while left and n >= len(left[0]):
                    n -= len(left.pop(0))
                if left:
                    left[0] = left[0][n:]
        return sent

    def say(self, data):
        self.sendmsg((data,))
