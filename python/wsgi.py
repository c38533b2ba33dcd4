"""The Python half of gunicorn: loads a WSGI application, calls it, and exchanges frames
with the worker. This file also runs configuration files, and holds what all Python
processes of the server share: logs, signals, the finder of modules. It is the module
_gunicorn.wsgi; the other files in this directory are modules of the same package.

The binary embeds this directory, and a worker runs it in a child process. The Python
half knows no HTTP and makes no policy: requests arrive parsed, responses leave as
status, headers and body, and the worker writes them to clients.

Descriptors, in the order in which the worker passes them (lane.go):
  3  the bridge           6  wire: frames of running requests, both ways
  4  settings, marshal    7  file into which faulthandler writes stacks
  5  queue of requests    8  memory shared with the worker: three words for each lane
  9, 10  log files, if the worker's user may be unable to open them

A frame is a header and a payload: some bytes of marshal, then raw body.
"""

import _thread
import errno
import faulthandler
import functools
import io
import logging
import marshal
import mmap
import os
import re
import signal
import stat
import struct
import sys
from types import FunctionType

# Slow and large modules are imported where they are needed, because every worker pays
# for each module that is loaded.
from _socket import (AF_UNIX, CMSG_SPACE, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_PEEK, SCM_RIGHTS,
                     SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET, socket)

# Real threads and locks, kept in case gevent or eventlet replaces them later.
start_thread, allocate_lock = _thread.start_new_thread, _thread.allocate_lock

BRIDGE, SETTINGS, QUEUE, WIRE, TRACE, PAGE = 3, 4, 5, 6, 7, 8
ERRORLOG, ACCESSLOG = 9, 10  # log files, if the workers' user is not the arbiter's
ANSWER = 5  # descriptor to which a configuration file's values are written

# A frame's header: length of the payload, request number, length of the marshal in the
# payload, kind, flags.
HEADER = struct.Struct("<IIIBBxx")
REQUEST_HEADER = struct.Struct("<IIIBBH")  # as HEADER, and the length of the marshal that requests have in common
QUEUE_MAX = 1 << 17  # bytes of the longest message in the queue, as in lane.go
RELAY_MAX = 60 << 10  # bytes of the longest message to the worker through the queue
META_MAX = (4 << 20) - 16  # bytes of marshal in a frame, as in lane.go

REQUEST, INDIRECT, BODY, OPEN, ASK, LENT = 1, 2, 3, 4, 5, 6  # from the worker
READY, RESPONSE, BLOCK, FILE, FAILED, READ, HINTS, WATCH = 8, 9, 10, 11, 12, 13, 14, 15
RETIRE, FIELDS, HERE, SOCKET, PIPE, LEFT = 16, 17, 18, 19, 20, 21
LAST, MORE, BROKEN, QUIET, CLOSE, STACKS, TAKEN, PUMPED = 1, 2, 4, 8, 16, 32, 64, 128  # flags


# Application ---------------------------------------------------------------

class LoadError(Exception):
    """The application's module was imported, but has no object of the given name."""


def load_app(spec):
    """The WSGI callable that MODULE[:OBJECT or CALL] names."""
    module_name, _, text = spec.partition(":")
    text = text or "application"
    try:
        __import__(module_name)
    except ImportError:
        if module_name.endswith(".py") and os.path.exists(module_name):
            raise ImportError("Failed to find application, did you mean '%s:%s'?"
                              % (module_name.rsplit(".", 1)[0], text))
        raise
    module = sys.modules[module_name]

    if text.isidentifier():
        name, args, kwargs = text, (), None
    else:
        name, args, kwargs = parse_call(text)
    try:
        app = getattr(module, name)
    except AttributeError:
        raise LoadError("Failed to find attribute %r in %r." % (name, module_name))
    if kwargs is not None:
        try:
            app = app(*args, **kwargs)
        except TypeError as e:
            # The traceback of a wrong call ends in this frame. A TypeError from
            # deeper inside is the application's own.
            if e.__traceback__.tb_next is None:
                raise LoadError("TypeError: %s" % e)
            raise
    if app is None:
        raise LoadError("Failed to find application object: %r" % text)
    if not callable(app):
        raise LoadError("Application object must be callable.")
    return app


def parse_call(text):
    """The name and the arguments, literal values, of a factory's call. The
    arguments are None for a name alone."""
    import ast
    try:
        expression = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise LoadError("Failed to parse %r as an attribute name or function call." % text)
    if isinstance(expression, ast.Name):
        return expression.id, (), None
    if not isinstance(expression, ast.Call):
        raise LoadError("Failed to parse %r as an attribute name or function call." % text)
    if not isinstance(expression.func, ast.Name):
        raise LoadError("Function reference must be a simple name: %r" % text)
    try:
        args = [ast.literal_eval(arg) for arg in expression.args]
        kwargs = {k.arg: ast.literal_eval(k.value) for k in expression.keywords}
    except ValueError:
        raise LoadError("Failed to parse arguments as literal values: %r" % text)
    return expression.func.id, args, kwargs


def set_up_path(settings):
    """Sets sys.path and sys.argv as an application under Gunicorn sees them."""
    if sys.path and sys.path[0] == "":  # the entry that python -c adds
        del sys.path[0]
    for path in (settings["start_dir"], settings["chdir"]):
        if path not in sys.path:
            sys.path.insert(0, path)
    for path in (settings["pythonpath"] or "").split(","):
        if path.strip():
            path = os.path.abspath(path.strip())
            if path not in sys.path:
                sys.path.insert(0, path)
    sys.argv[:] = settings["argv"]


# Logs ----------------------------------------------------------------------

def printable(text, marked=""):
    """Text from a client, decoded as latin-1, in a form that is fit for a log:
    unprintable characters become \\xNN, and characters in marked get a backslash."""
    if text.isascii() and text.isprintable() and not any(c in text for c in marked):
        return text
    try:
        text = text.encode("latin-1").decode()  # most clients send UTF-8
    except UnicodeError:
        pass
    return "".join("\\" + c if c in marked else c if c.isprintable()
                   else "".join("\\x%02x" % b for b in c.encode("utf-8", "surrogatepass")) for c in text)


def asked(environ):
    """Names a request for the log in the worker's style: GET /path. The application may
    have put anything into its environ, and an error in here would hide the first error."""
    named = [environ.get(key) for key in ("REQUEST_METHOD", "RAW_URI")]
    return " ".join(printable(text) if type(text) is str else "?" for text in named)


class Formatter(logging.Formatter):
    """Formats Gunicorn's log lines. The pid is the worker's, which operators see in all
    other lines, and which they signal."""

    def format(self, record):
        record.worker = owner or os.getppid()
        return super().format(record)


logger = None  # an instance of logger_class, if the logs are made in Python
captured = False  # standard output and standard error go to the error log


def set_up_logging(settings):
    """Gives handlers to the loggers gunicorn.error and gunicorn.access, which applications
    look up by name, and returns the former."""
    global captured, logger
    captured = settings["capture_output"] and settings["errorlog"] != "-"
    if settings["logs"]:
        logger = package()["gunicorn.glogging"].open_log(settings)
    else:
        add_handlers(settings)
    error, access = logging.getLogger("gunicorn.error"), logging.getLogger("gunicorn.access")
    add_relays(settings, error, access)
    capture()
    return error


def add_relays(settings, error, access):
    relays = []
    if settings["syslog"]:
        relays.append((error, "e"))
        if not settings["disable_redirect_access_to_syslog"]:
            relays.append((access, "a"))
    for log, kind in relays:
        # A Python forked by the template has the template's handlers already.
        if not any(isinstance(handler, Relay) for handler in log.handlers):
            log.addHandler(Relay(kind))
    if settings["statsd_host"] and not any(isinstance(f, Metrics) for f in error.filters):
        error.addFilter(Metrics())


def add_handlers(settings):
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING,
              "error": logging.ERROR, "critical": logging.CRITICAL}
    error = logging.getLogger("gunicorn.error")
    error.propagate = False
    error.setLevel(levels.get((settings["loglevel"] or "").lower(), logging.INFO))
    error.addHandler(handler_for(settings["errorlog"], sys.stderr, Formatter(
        "%(asctime)s [%(worker)d] [%(levelname)s] %(message)s", "[%Y-%m-%d %H:%M:%S %z]")))
    access = logging.getLogger("gunicorn.access")
    access.propagate = False
    access.setLevel(logging.INFO)
    if settings["accesslog"]:
        access.addHandler(handler_for(settings["accesslog"], sys.stdout, logging.Formatter("%(message)s")))


outbox = None  # a copy of Python's end of the queue, for messages to the worker


def open_outbox(settings):
    global outbox
    if outbox is None and (settings["syslog"] or settings["statsd_host"]):
        # Children of the application keep the copy when they close the queue.
        outbox = end_of(SOCK_SEQPACKET, os.dup(QUEUE))


def relay(text):
    """Has the worker (remote.go) send a record or a metric, so that neither a daemon nor
    a name server can hold up the application."""
    if outbox:
        try:
            outbox.send(text.encode("utf-8", "backslashreplace")[:RELAY_MAX])
        except OSError:
            pass  # the worker is gone


class Relay(logging.Handler):
    """Sends records to syslog through the worker."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def emit(self, record):
        try:
            level = min(max(record.levelno // 10 - 1, 0), 4)
            relay("%s%d%s" % (self.kind, level, self.format(record)))
        except Exception:
            self.handleError(record)


class Metrics(logging.Filter):
    """Counts the records of gunicorn.error for statsd, and sends metrics that records
    carry. This is a filter of the logger, and no handler, so that it does not see records
    that the application sends to the same handlers."""

    COUNTED = {logging.WARNING: "warning", logging.ERROR: "error", logging.CRITICAL: "critical"}
    TYPES = {"gauge": "g", "counter": "c|@1.0", "histogram": "h", "timer": "ms"}

    def filter(self, record):
        metric, value, kind = (getattr(record, name, None) for name in ("metric", "value", "mtype"))
        if metric and value is not None and kind in self.TYPES:
            relay("m%s:%s|%s" % (metric, value, self.TYPES[kind]))
        if metric and not record.msg:
            return False
        name = "exception" if record.exc_info else self.COUNTED.get(record.levelno)
        if name:
            relay("mgunicorn.log.%s:1|c|@1.0" % name)
        return True


def capture():
    if captured and not logger:
        log = logging.getLogger("gunicorn.error").handlers[0].stream.fileno()
        if stat.S_ISREG(os.fstat(log).st_mode):
            os.dup2(log, 1)
            os.dup2(log, 2)


def handler_for(path, stream, formatter):
    if path in (None, "", "-"):
        handler = logging.StreamHandler(stream)
    else:
        try:
            handler = logging.FileHandler(path)
        except OSError:  # only root could open the file, and has passed a descriptor
            handler = logging.FileHandler(path, delay=True)
            fd = os.dup(ERRORLOG if stream is sys.stderr else ACCESSLOG)
            handler.stream = open(fd, "a", encoding=handler.encoding)
    handler.setFormatter(formatter)
    return handler


def reopen_logs(number, frame):
    """USR1: somebody has renamed log files. The files of all loggers are reopened, the
    application's included, as under Gunicorn. A file that cannot be opened stays as it
    is, because a signal must not disturb running requests."""
    for handler in file_handlers():
        with handler.lock:
            if handler.stream:
                try:
                    stream = handler._open()
                except OSError:
                    continue
                handler.stream.close()
                handler.stream = stream
    capture()


def file_handlers():
    """The file handlers of all loggers."""
    loggers = [logging.getLogger()] + list(logging.root.manager.loggerDict.values())
    return {handler for logger in loggers for handler in getattr(logger, "handlers", ())
            if isinstance(handler, logging.FileHandler)}


class Errors:
    """wsgi.errors: writes bare text to the destination of the error log."""

    @property
    def stream(self):
        for handler in logging.getLogger("gunicorn.error").handlers:
            if getattr(handler, "stream", None):
                return handler.stream
        return sys.stderr

    def write(self, text):
        stream = self.stream
        try:
            stream.write(text)
        except UnicodeEncodeError:
            # All text is recorded, even if the log's encoding lacks characters
            # (PEP 3333, environ Variables).
            coding = stream.encoding
            stream.write(text.encode(coding, "backslashreplace").decode(coding))
        stream.flush()

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        self.stream.flush()


# Requests and responses ----------------------------------------------------

class FileWrapper:
    """wsgi.file_wrapper (PEP 3333): iterable, and recognised by the server."""

    def __init__(self, filelike, blksize=8192):
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __getitem__(self, key):
        data = self.filelike.read(self.blksize)
        if data:
            return data
        raise IndexError


class ClientGone(Exception):
    """The client left while its response was being made."""


# The errors that reading a broken request body raises, by the worker's status. By their
# errno, 408 becomes a TimeoutError and 499 a ConnectionAbortedError.
REASONS = {
    408: (errno.ETIMEDOUT, "the request body did not come in time"),
    413: (errno.EFBIG, "the request body is too large"),
    400: (errno.EBADMSG, "the request body is malformed"),
    499: (errno.ECONNABORTED, "the client left before the request body was complete"),
    500: (errno.EIO, "the request body is lost: spool_dir cannot be read"),
    410: (errno.EBADF, "the response is complete, and what was left of the request body is gone"),
}


class Body(io.RawIOBase):
    """The rest of a request body, which the worker holds. It is asked for piece by piece,
    so that bytes that the application does not read are never sent."""

    rest = b""  # rest of an answer that was longer than the buffer it was read for

    def __init__(self, wire, number, call, trailers):
        self.wire, self.number, self.call, self.ended = wire, number, call, False
        self.trailers = trailers  # a list, which is filled when the body ends

    def readable(self):
        return True

    def readinto(self, into):
        if self.call.broken:
            raise self.call.broken  # each time, as an end of file would pass for the end of the body
        if not self.rest:
            if self.ended or not len(into):
                return 0
            if self.call.done:
                self.note(410, BROKEN, b"")
            else:
                meta, flags, payload = ask(self.wire, self.number, BODY, into, self.note)
                if not meta and not flags & BROKEN and len(payload) <= len(into):
                    self.ended = bool(flags & LAST)
                    return len(payload)
                self.note(meta, flags, payload)
            if self.call.broken:
                raise self.call.broken
        n = min(len(into), len(self.rest))
        into[:n], self.rest = self.rest[:n], self.rest[n:]
        return n

    def note(self, meta, flags, payload):
        if flags & BROKEN:
            self.call.broken = OSError(*REASONS.get(meta, REASONS[400]))
            return
        self.ended = bool(meta or flags & LAST)
        if meta:
            self.trailers.extend(marshal.loads(payload))
        else:
            self.rest = payload


def ask(wire, number, kind, into, keep=None):
    """Asks the worker for len(into) bytes of a request, and returns the answer. A timeout
    in a greenlet or a signal handler may interrupt the wait for the answer: the answer is
    then read before the next. An exception that comes while the answer is being read
    is raised at the answer's end, after keep has put the payload aside."""
    with wire.asking:
        if wire.asked not in (0, number):
            # The answer to an interrupted wait comes first, and has to be read before
            # another is asked for: receive reads to the end of its buffer, and
            # would take the start of the next answer too.
            skip(wire)
        held, wire.held = wire.held, True
        if not wire.asked:
            wire.asked = number  # set before the frame is sent, as an interruption while sending does not unsend it
            wire.say(HEADER.pack(4, number, 0, READ, 0) + struct.pack("<I", len(into)))
        wire.let_go(held)
        wire.await_answer()
        wire.held = True
        of, meta, got, flags, payload = receive(wire, into)
        wire.asked = 0
        if of != number or got != kind:
            os._exit(1)
        if wire.caught and keep:
            keep(meta, flags, bytes(payload))
        wire.let_go(held)
        return meta, flags, payload


def skip(wire):
    """Reads the answer to a request that is over."""
    held, wire.held = wire.held, True
    receive(wire, bytearray())
    wire.asked = 0
    wire.let_go(held)


def receive(wire, into):
    """Reads one frame from the wire. The payload is in the given buffer if it fits there,
    which trailers need not do."""
    head = bytearray(HEADER.size)
    got = wire.recvmsg_into((head, into))[0]
    while 0 < got < HEADER.size:
        more = wire.recv_into(memoryview(head)[got:])
        got = got + more if more else 0
    if not got:
        os._exit(0)  # the worker is gone
    length, number, meta, kind, flags = HEADER.unpack(head)
    view, got = memoryview(into), got - HEADER.size
    if length > len(view):
        larger = memoryview(bytearray(length))
        larger[:got] = view[:got]
        view = larger
    while got < length:
        more = wire.recv_into(view[got:length])
        if not more:
            os._exit(0)
        got += more
    return number, meta, kind, flags, view[:length]


GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTCONN)


def failed(error):
    """Handles an error in writing to the wire."""
    if error.errno in GONE:
        os._exit(0)  # the worker is gone, and with it every client
    raise error


def end_of(kind, fd):
    """A blocking socket, whatever socket.setdefaulttimeout has set."""
    end = socket(AF_UNIX, kind, 0, fd)
    end.settimeout(None)
    return end


def frame(number, kind, meta=b"", flags=0):
    """A frame without a body."""
    return HEADER.pack(len(meta), number, len(meta), kind, flags) + meta


def meta_of(value):
    """The value as marshal for a frame."""
    meta = marshal.dumps(value, 2)
    if len(meta) > META_MAX:
        raise ValueError("%d bytes of headers; the server sends no more than 4 MB" % len(meta))
    return meta


APART = MORE  # flag of RESPONSE and BLOCK: the head goes through the pipe, the body over the socket
APART_MIN = 32768  # bytes from which on a body is faster over the socket
SHARED_MIN = 2048  # the same where several threads may send at once: a pipe keeps only short writes in one piece
BLOCK_MAX = 1 << 30  # bytes of a body in one frame


IDLE = 2  # value of Wire.held while the server waits for a request


class Wire:
    """Python's end of a wire: a socket, and a pipe for frames to the worker, which takes
    less time. Long bodies and descriptors go over the socket."""

    held = IDLE  # false while the application runs, where signal handlers may raise exceptions
    caught = None  # exception that a signal handler has raised while a frame was under way

    def let_go(self, held):
        """Ends a section that signal handlers must not interrupt; held is the value from
        before it. At the end of the outermost section, an exception that was held back
        is raised."""
        self.held = held
        if self.caught and not held:
            caught, self.caught = self.caught, None
            raise caught

    def await_answer(self):
        """Waits for the first byte of an answer, and leaves the byte. Signal handlers may
        interrupt this wait."""
        if Guarded.wire is self and not self.held:
            self.end.recv(1, MSG_PEEK)

    def __init__(self, end):
        self.end, self.apart = end, None
        self.recv_into, self.recvmsg, self.recvmsg_into = end.recv_into, end.recvmsg, end.recvmsg_into
        try:
            outer, self.pipe = os.pipe()
        except OSError:  # too many files are open
            self.pipe = end.fileno()
            return
        end.sendmsg((frame(0, PIPE),), [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", outer))])
        os.close(outer)
        self.apart = end

    def close(self):
        self.end.close()
        if self.apart:
            os.close(self.pipe)

    def say(self, data, write=os.write):
        held, self.held = self.held, True
        try:
            n = write(self.pipe, data)
            if n < len(data):
                left = memoryview(data)[n:]
                while left:
                    left = left[write(self.pipe, left):]
        except OSError as e:
            self.held = held
            failed(e)
        self.held = held
        if self.caught:
            self.let_go(held)

    def sendmsg(self, buffers, control=()):
        if control:
            if not self.apart:
                return self.end.sendmsg(buffers, control)
            self.end.sendmsg((b"-",), control)
        return os.writev(self.pipe, buffers)


class Call:
    """One request's start_response and the response that follows."""

    # Defaults stand in the class, which saves time, as most never change.
    status = headers = left = socket = None
    broken = None  # the error that reading the body has raised
    begun = done = taken = False
    apart_min = APART_MIN

    def __init__(self, wire, number, cancelled):
        self.wire, self.number, self.cancelled = wire, number, cancelled

    def start_response(self, status, headers, exc_info=None):
        if exc_info:
            try:
                if self.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status is not None:
            raise AssertionError("Response headers already set!")
        self.status, self.headers = status, headers
        return self.write

    def head(self):
        """Status and headers as marshal. Subclasses of str become str."""
        status, headers = self.status, self.headers
        if type(status) is not str:
            if status is None:
                raise AssertionError("start_response() was not called before the response body")
            status = plain(status)
        try:
            meta = marshal.dumps((status, headers), 2)
            if len(meta) <= META_MAX:
                return meta
        except ValueError:
            pass
        return meta_of((status, [(plain(name), plain(value)) for name, value in headers]))

    def write(self, data):
        """Sends a block of the body, which is on the wire when this returns."""
        if type(data) is not bytes:
            if not isinstance(data, bytes):
                raise TypeError("%r is not a byte" % (data,))
            data = memoryview(data).tobytes()  # a subclass may have another __len__
        if self.done:
            if data:
                raise AssertionError("the response body is longer than its Content-Length")
            return
        flags = 0
        if not self.begun:
            if not data:
                return  # headers wait for the first byte (PEP 3333)
            self.left = content_length(self.headers)
        if self.left is not None:
            self.left -= len(data)
            if self.left <= 0:
                # The body is as long as Content-Length: the worker need not
                # wait for the end of the iterable.
                flags = LAST
        self.send(data, flags)
        if self.cancelled[0] == self.number:
            raise ClientGone

    def finish(self, data):
        if not self.done:
            self.send(data, LAST)

    def whole(self, data):
        """Sends the response in one frame, as most responses are. This is send with
        fewer checks."""
        if self.begun or self.taken or len(data) > 16384:
            return self.finish(data)
        meta = self.head()
        n = len(meta)
        self.wire.say(HEADER.pack(n + len(data), self.number, n, RESPONSE, LAST) + meta + data)
        self.begun = self.done = True

    def send(self, data, flags):
        if self.taken:
            # The application has written its response to the client's socket.
            self.fail(QUIET)
            return
        while len(data) > BLOCK_MAX:
            view = memoryview(data)
            Call.send(self, view[:BLOCK_MAX], 0)
            data = view[BLOCK_MAX:]
        if self.begun:
            kind, meta = BLOCK, b""
        else:
            kind, meta = RESPONSE, self.head()
        wire = self.wire
        apart = wire.apart if len(data) > self.apart_min else None
        if apart:
            flags |= APART
        head = HEADER.pack(len(meta) + len(data), self.number, len(meta), kind, flags) + meta
        held, wire.held = wire.held, True
        self.begun, self.done = True, bool(flags & LAST)
        try:
            if apart:
                wire.say(head)
                apart.sendall(data)
            elif len(data) <= 16384:
                wire.say(head + data)
            else:
                sent = wire.sendmsg((head, data)) - len(head)
                if sent < 0:
                    wire.say(head[sent:])
                    sent = 0
                if sent < len(data):
                    wire.say(memoryview(data)[sent:])
        except OSError as e:
            wire.held = held
            failed(e)
        wire.let_go(held)

    def send_file(self, wrapper):
        """Passes the descriptor of a regular file to the worker: False if the wrapper has
        none."""
        try:
            fd = wrapper.filelike.fileno()
            size = os.fstat(fd)
            if not stat.S_ISREG(size.st_mode):
                return False
            offset = wrapper.filelike.tell()
        except (AttributeError, OSError, ValueError):
            return False
        meta = self.head()
        left = max(size.st_size - offset, 0)
        promised = content_length(self.headers)
        if promised is not None:
            left = min(left, promised)
        payload = meta + struct.pack("<QQ", offset, left)
        frame = HEADER.pack(len(payload), self.number, len(meta), FILE, LAST) + payload
        held, self.wire.held = self.wire.held, True
        try:
            sent = self.wire.sendmsg((frame,), [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", fd))])
        except OSError:
            self.wire.let_go(held)
            return False  # too many descriptors are under way: read the file instead
        self.begun = self.done = True
        self.wire.say(frame[sent:])
        self.wire.let_go(held)
        return True

    def fail(self, flags):
        if not self.done:
            self.wire.say(frame(self.number, FAILED, flags=flags))
            self.begun = self.done = True

    def borrow(self):
        """Fetches the client's socket, which this process shares with the worker, or owns
        if the request has Upgrade."""
        if self.done:
            raise OSError(errno.EBADF, "the request is over")
        wire = self.wire
        with wire.asking:
            if wire.asked == self.number:
                raise OSError(errno.EBUSY, "the request body is being read")
            if wire.asked:
                skip(wire)
            held, wire.held = wire.held, True
            wire.say(frame(self.number, SOCKET))
            head, control, _, _ = wire.recvmsg(HEADER.size, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)
            if not head:
                os._exit(0)  # the worker is gone
            length, number, _, kind, flags = HEADER.unpack(head)
            if kind != LENT or number != self.number:
                os._exit(1)
            facts, got = memoryview(bytearray(length)), 0
            while got < length:
                more = wire.recv_into(facts[got:])
                if not more:
                    os._exit(0)
                got += more
            if not flags & BROKEN:
                self.taken = bool(flags & TAKEN)
                fd, = struct.unpack("i", control[0][2])
                self.socket = connection(fd, flags, *marshal.loads(facts))
            wire.let_go(held)
        if flags & BROKEN:
            raise OSError(errno.ENOTCONN, "the client has left")
        return self.socket

    def early_hints(self, headers):
        """wsgi.early_hints: sends an interim response 103."""
        for name, value in headers:
            if not name or FORBIDDEN(name + value):
                raise ValueError("invalid early hint: %r: %r" % (name, value))
        if not self.begun:
            meta = meta_of([(plain(name), plain(value)) for name, value in headers])
            self.wire.say(frame(self.number, HINTS, meta))


def add_fields(call, fields):
    """Sends headers that pre_request has added to the worker, for the access log."""
    meta = meta_of([(plain(name), plain(value)) for name, value in fields])
    call.wire.say(frame(call.number, FIELDS, meta))


class ClientSocket:
    """gunicorn.socket: the client's socket, fetched on first use. It is closed when
    nobody refers to it any more, as a thread of a library may still wait for the client
    when the request is over.

    On a request with Upgrade the socket belongs to the application from then on. On any
    other request the application may look at the socket, and the worker goes on
    answering the client."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.call.socket or self.call.borrow(), name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


def connection(fd, flags, peer, own, certificate):
    """A descriptor as an object of socket.socket, which gevent or eventlet may have
    replaced. The socket blocks, as applications expect. The certificate is the client's,
    None without TLS."""
    import socket

    class Borrowed(socket.socket):
        # The worker shares the open file, so O_NONBLOCK has to stay set.
        def settimeout(self, seconds):
            super().settimeout(1e6 if seconds is None else seconds)

        def setblocking(self, flag):
            self.settimeout(None if flag else 0)

    class Sealed(Borrowed):
        # The socket carries TLS records, whose keys the worker has.
        def refuse(self, *args):
            raise OSError(errno.EOPNOTSUPP, "TLS: an application reads and writes here on a request with Upgrade only")

        recv = recv_into = recvfrom = recvmsg = send = sendall = sendto = sendmsg = sendfile = makefile = refuse

    class Pumped(socket.socket):
        # A socket pair whose other end the worker pumps to and from the client.
        def getpeername(self):
            return peer

        def getsockname(self):
            return own

        def setsockopt(self, level, *args):
            if level != socket.IPPROTO_TCP:
                super().setsockopt(level, *args)

    if flags & TAKEN:
        kind = Pumped if flags & PUMPED else socket.socket
    else:
        kind = Borrowed if certificate is None else Sealed
    if certificate is not None:
        kind.getpeercert = lambda self, binary_form=False: peercert(certificate, binary_form)
    sock = kind(fileno=fd)
    sock.settimeout(None)
    return sock


def peercert(certificate, binary_form):
    """getpeercert() of Python's ssl."""
    if binary_form or not certificate:
        return certificate or None
    import ssl
    with open(os.memfd_create("certificate"), "w") as f:
        f.write(ssl.DER_cert_to_PEM_cert(certificate))
        f.flush()
        return ssl._ssl._test_decode_cert("/proc/self/fd/%d" % f.fileno())


FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f]").search  # characters forbidden in a header


def plain(text):
    if not isinstance(text, str):
        raise TypeError("%r is not a string" % (text,))
    return text if type(text) is str else "".join((text,))


def content_length(headers):
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("a header must be two strings: %r: %r" % (name, value))
    for name, value in headers:
        if len(name) == 14 and name.lower() == "content-length":
            return int(value)
    return None


# Iterables whose items are ready, so that they can be sent as one block.
WHOLE = (list, tuple, type(iter([])), type(iter(())))


KNOWN_MAX = 64  # parts of environs that are kept; the worker bounds the length of each (alikeMax)
SKIP = 4096  # requests that are not looked up after most of the last ones were not known
OWN = dict.fromkeys(("RAW_URI", "QUERY_STRING", "PATH_INFO", "wsgi.input", "wsgi.early_hints", "gunicorn.socket"))


def leave_children_out(lanes):
    """Detaches children that the application forks: they have no lane, and TERM ends
    them, as multiprocessing expects."""
    def detach():
        for lane in lanes:
            lane.queue.close()
            lane.wire.close()
        for number in STOP:
            if signal.getsignal(number) is forward:
                signal.signal(number, signal.SIG_DFL)
        release_signals()
    os.register_at_fork(before=hold_signals, after_in_parent=release_signals, after_in_child=detach)


def say_ready(say, files):
    say(frame(0, READY, meta_of(sys.version.split()[0])))
    report(say, files)


def report(say, files):
    """Tells the worker which files to watch, with --reload."""
    fresh = files and files.new()
    while fresh:
        say(frame(0, WATCH, meta_of(fresh)))
        fresh = files.new()


def say_here(say, flags):
    """Answers an ASK frame: the process is alive. STACKS asks for the stacks first."""
    if flags & STACKS:
        faulthandler.dump_traceback(TRACE, all_threads=True)
    say(frame(0, HERE, flags=flags))


class Environs:
    """A cache of environs. The part of an environ that requests have in common comes as
    marshal, mostly the same bytes as before: copying the dict made of those bytes takes
    a third of the time of reading the marshal. If most parts are new, the cache is not
    used for a while."""

    def __init__(self, base):
        self.base, self.known = base, {}
        self.asked = self.missed = self.skip = 0

    def make(self, common):
        if self.skip:
            self.skip -= 1
            environ = marshal.loads(common)
            environ.update(self.base)
            return environ
        self.asked += 1
        common = bytes(common)
        environ = self.known.get(common)
        return environ.copy() if environ is not None else self.learn(common)

    def learn(self, common):
        environ = marshal.loads(common)
        environ.update(self.base)
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()  # clearing all is simpler than keeping ages, and costs 64 misses
        # The kept dict has all keys of an environ, so that its copies need not grow.
        self.known[common] = dict(environ, **OWN)
        self.missed += 1
        if self.missed >= KNOWN_MAX:
            # A hit saves about as much time as a miss costs: with fewer hits than
            # misses, the cache does not pay.
            self.skip = SKIP if self.asked < 2 * self.missed else 0
            self.asked = self.missed = 0
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
        self.words = memoryview(mmap.mmap(PAGE, 0)).cast("I")
        self.app, self.log, self.files = app, logger or log, files
        self.attach(0, QUEUE, WIRE)
        open_outbox(settings)
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
        self.environs = Environs(self.base)
        self.all = [self]
        leave_children_out(self.all)

    def attach(self, index, queue, wire):
        lanes = len(self.words) // 3
        self.index = index
        self.cancelled, self.begun, self.halt = (self.words[at:at + 1] for at in range(index, 3 * lanes, lanes))
        self.queue, self.wire = end_of(SOCK_SEQPACKET, queue), end_of(SOCK_STREAM, wire)
        if self.green:
            self.queue, self.wire = self.green(self.queue), self.green(self.wire)
        else:
            self.wire = Wire(self.wire)
            if not index:
                Guarded.wire, Guarded.log = self.wire, self.log
        self.wire.asking, self.wire.asked = _thread.allocate_lock() if self.green else allocate_lock(), 0

    def serve(self):
        """Serves until the worker closes the queue."""
        say_ready(self.wire.say, self.files)
        if self.threads:
            self.open_lanes()
        else:
            self.work()

    def open_lanes(self):
        """Opens a lane and its thread whenever the worker asks for one."""
        import threading
        patched = not self.green and _thread.start_new_thread is not start_thread
        threads, Thread = [], RealThread if patched else threading.Thread
        while True:
            data, control, _, _ = self.queue.recvmsg(HEADER.size, CMSG_SPACE(8), MSG_CMSG_CLOEXEC)
            if not data:
                break
            _, number, _, kind, flags = HEADER.unpack(data)
            if kind == OPEN:
                lane = object.__new__(type(self))
                lane.__dict__.update(self.__dict__)
                lane.attach(number, *struct.unpack("2i", control[0][2]))
                self.all.append(lane)
                # Threads have this name under Gunicorn, and logs show it.
                thread = Thread(target=lane.work, name="ThreadPoolExecutor-0_%d" % (number - 1))
                thread.start()
                threads.append(thread)
                continue
            say_here(self.wire.say, flags)
        for thread in threads:
            thread.join()

    def work(self):
        """Runs requests until the worker closes the queue."""
        buffer = self.green.buffer if self.green else bytearray(QUEUE_MAX)
        view = memoryview(buffer)
        receive_into, unpack, size = self.queue.recv_into, REQUEST_HEADER.unpack_from, REQUEST_HEADER.size
        pause = self.green and self.green.pause
        environs = self.environs.make
        begun, halt, wire = self.begun, self.halt, self.wire
        while True:
            n = receive_into(buffer)
            if not n:
                return
            at = 0
            while at < n:
                length, number, meta, kind, flags, alike = unpack(buffer, at)
                start = at + size
                end = start + meta
                at = start + length
                if at < n or start > size:
                    # A message of several requests. Announce each request before
                    # checking whether the worker has taken back this request and
                    # those behind it (leftOver in lane.go).
                    begun[0] = number
                    if halt[0] == number:
                        self.wire.say(frame(number, LEFT))
                        break
                if alike:
                    own = start + alike
                    environ = environs(view[start:own])
                    (environ["RAW_URI"], environ["QUERY_STRING"], environ["PATH_INFO"],
                     port, promised) = marshal.loads(view[own:end])
                    if port is not None:
                        environ["REMOTE_PORT"] = port
                    if promised is not None:
                        environ["CONTENT_LENGTH"] = promised
                elif kind == REQUEST:
                    environ = marshal.loads(view[start:end])
                    environ.update(self.base)
                else:
                    # The environ is too long for a message, and comes over the wire.
                    environ = marshal.loads(ask(self.wire, number, REQUEST, bytearray(length))[2])
                    environ.update(self.base)
                    at = end = n
                call = Call(self.wire, number, self.cancelled)
                if flags & MORE:
                    body = Body(self.wire, number, call, environ.get("gunicorn.trailers"))
                    environ["wsgi.input"] = io.BufferedReader(body, 1 << 16)
                    call.apart_min = SHARED_MIN  # one thread may read the body while another sends the response
                else:
                    body = None
                    environ["wsgi.input"] = io.BytesIO(view[end:at]) if at > end else io.BytesIO()
                environ["wsgi.early_hints"] = call.early_hints
                environ["gunicorn.socket"] = ClientSocket(call)
                wire.held, wire.caught = False, None
                try:
                    self.run(call, environ)
                except BaseException:
                    # A failing log or hook must not end this thread.
                    wire.held = IDLE
                    call.fail(0)
                    sys.excepthook(*sys.exc_info())
                wire.held = IDLE
                del environ, call, body
                if self.files is not None:
                    report(wire.say, self.files)
                if pause:
                    pause()

    def run(self, call, environ):
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
                    result.close()
        except (StopIteration, ClientGone):
            call.fail(QUIET)
        except BaseException as e:
            # SystemExit and KeyboardInterrupt are caught too, as no request may end
            # the server.
            if e is call.broken:  # the client's mistake, which the worker logs
                if e.errno == errno.EBADF:  # the application's mistake: it read too late
                    self.log.warning("%s: %s", asked(environ), e.strerror)
                return call.fail(0)
            self.log.exception("Error handling request %s", asked(environ))
            call.fail(0)

    def stop(self, call, environ):
        """Warns of a body that is longer than its Content-Length. The iterable is not
        read any further (PEP 3333, Handling the Content-Length Header)."""
        if call.left == 0:  # otherwise the worker has seen the excess, and logs
            self.log.warning("%s: the response body is longer than its Content-Length; the rest is dropped",
                             asked(environ))


# Greenlets -----------------------------------------------------------------

def patch_gevent():
    from gevent import monkey
    monkey.patch_all()
    import gevent

    def events(fd):
        hub = gevent.get_hub()
        readable, writable = hub.loop.io(fd, 1), hub.loop.io(fd, 2)
        return lambda: hub.wait(readable), lambda: hub.wait(writable)
    return events, gevent.sleep


def patch_eventlet():
    import eventlet
    eventlet.monkey_patch()
    from eventlet.hubs import trampoline

    def events(fd):
        return lambda: trampoline(fd, read=True), lambda: trampoline(fd, write=True)
    return events, eventlet.sleep


PATCHES = {"gevent": patch_gevent, "eventlet": patch_eventlet}


def patch(settings):
    """With gevent or eventlet, makes the standard library's blocking calls yield. As under
    Gunicorn, this happens before the application is imported."""
    if settings["family"] in PATCHES:
        Green.events, Green.sleep = map(staticmethod, PATCHES[settings["family"]]())
        Green.buffer = bytearray(QUEUE_MAX)


class Green:
    """A greenlet's end of a queue or wire: while it waits, other greenlets run."""

    events = sleep = None  # functions of the package in use
    apart = None  # as in Wire; greenlets have no pipe
    runs = 0  # number of requests run, by which other greenlets get their turn
    buffer = None  # shared by all lanes, as no other greenlet runs between receiving a message and reading it

    caught = None  # exception raised while a frame was under way
    held = False  # as in Wire; not used with greenlets

    def let_go(self, held):
        pass

    def await_answer(self):
        pass

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

    def recv_into(self, into):
        while True:
            try:
                return self.end.recv_into(into, 0, MSG_DONTWAIT)
            except BlockingIOError:
                self.wait(self.readable)

    def recvmsg(self, size, control, flags):
        while True:
            try:
                return self.end.recvmsg(size, control, flags | MSG_DONTWAIT)
            except BlockingIOError:
                self.wait(self.readable)

    def recvmsg_into(self, buffers):
        while True:
            try:
                return self.end.recvmsg_into(buffers, 0, MSG_DONTWAIT)
            except BlockingIOError:
                self.readable()

    def sendmsg(self, buffers, control=()):
        left, sent = [memoryview(piece) for piece in buffers], 0
        with self:
            while left:
                try:
                    n = self.end.sendmsg(left, control, MSG_DONTWAIT)
                except BlockingIOError:
                    self.caught = self.wait(self.writable) or self.caught
                    continue
                sent, control = sent + n, ()
                while left and n >= len(left[0]):
                    n -= len(left.pop(0))
                if left:
                    left[0] = left[0][n:]
        return sent

    def say(self, data):
        try:
            self.sendmsg((data,))
        except OSError as e:
            failed(e)


# Configuration file --------------------------------------------------------

def read_config(spec, path, names):
    """Runs the configuration file spec (PATH or python:MODULE) as a program started in
    the directory path. Returns the file's module, and a dict of its globals that are in
    names, in a form for marshal. An error in the file ends this process."""
    sys.path.insert(0, path)
    if spec.startswith("python:"):
        try:
            module = config_module({"config": spec})
        except Exception as e:
            print("\nError: %s" % e, file=sys.stderr, flush=True)
            sys.exit(1)
    else:
        module = run_config(spec, os.path.join(path, spec))
    sys.stdout.flush()
    answer = {}
    for name, value in vars(module).items():
        if name in ("worker_class", "logger_class") and isinstance(value, FunctionType):
            value = value()
        if name in names:
            answer[name] = portable(value)
    answer["gunicorn"] = said(module)
    return module, answer


def said(module):
    """Facts about a configuration file that are no values of settings, or are values for
    which portable has no form."""
    facts = {}
    gunicorn = sys.modules.get("gunicorn")
    version = getattr(gunicorn, "__version__", None)
    if version is not None:
        if gunicorn.SERVER != "gunicorn":
            facts["server"] = str(gunicorn.SERVER)
        if gunicorn.SERVER_SOFTWARE != "gunicorn/" + version:
            facts["software"] = str(gunicorn.SERVER_SOFTWARE)
    facts["classes"] = {}
    for name in ("worker_class", "logger_class"):
        value = getattr(module, name, None)
        if isinstance(value, FunctionType):
            value = value()
        if isinstance(value, type):
            facts["classes"][name] = ["%s.%s" % (c.__module__, c.__qualname__) for c in value.__mro__]
    loggers = logging.root.manager.loggerDict
    if any(getattr(loggers.get(name), "filters", None) or getattr(loggers.get(name), "handlers", None)
           for name in ("gunicorn.error", "gunicorn.access")):
        facts["loggers"] = True  # the file has set up these loggers, so logs have to be made in Python
    try:
        facts["logconfig_dict"] = marshal.dumps(getattr(module, "logconfig_dict", {}), 2)
    except ValueError:
        facts["logconfig_dict"] = None  # classes and objects cannot leave the process: logs need the module itself
    return facts


def config_module(settings):
    """The configuration file as a module, for values that cannot leave a process. A
    process that has not run the file runs it now."""
    spec = settings["config"]
    if spec.startswith("python:"):
        import importlib
        return importlib.import_module(spec[len("python:"):])
    if "__config__" not in sys.modules:
        if spec.startswith("file:"):
            spec = spec[len("file:"):]
        run_config(spec, os.path.join(settings["start_dir"], spec))
    return sys.modules["__config__"]


def run_config(name, path):
    import importlib.machinery
    import importlib.util
    import traceback
    if os.path.splitext(path)[1] not in (".py", ".pyc"):
        print("!!!\n!!! WARNING: configuration file should have a valid Python extension.\n!!!\n",
              file=sys.stderr, flush=True)
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader("__config__", path)
    else:
        loader = importlib.machinery.SourceFileLoader("__config__", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(
        "__config__", path, loader=loader))
    sys.modules["__config__"] = module
    try:
        loader.exec_module(module)
    except Exception:
        sys.stdout.flush()
        print("Failed to read config file: " + name, file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        sys.exit(1)
    return module


def point_out(module, names):
    """Prints which variables of the file were perhaps meant as settings."""
    for name in vars(module):
        if name in names or name.startswith("_"):
            continue
        longer = [setting for setting in names if setting.startswith(name + "_")]
        meant = longer if len(longer) == 1 else []
        meant += [setting for setting in names if one_edit(name, setting)]
        if meant:
            print("gunicorn: %s: not a setting; did you mean %s?" % (name, " or ".join(meant)),
                  file=sys.stderr, flush=True)


def one_edit(a, b):
    """Whether adding, dropping or changing one character turns a into b."""
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1:
        return False
    same = 0
    while same < len(a) and a[same] == b[same]:
        same += 1
    return a[same + 1:] == b[same + 1:] if len(a) == len(b) else a[same:] == b[same + 1:]


def portable(value, depth=16):
    """The value in a form for marshal: a scalar or a list. For any other value, a dict
    that describes the value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 63 else str(int(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, bytes):
        return bytes(value)
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [portable(v, depth - 1) for v in value]
    if depth and isinstance(value, dict):
        return {"type": "dict", "items": [(portable(k, depth - 1), portable(v, depth - 1)) for k, v in value.items()]}
    if callable(value):
        return {"type": "callable", "params": positional_params(value),
                "name": getattr(value, "__qualname__", type(value).__qualname__)}
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return {"type": "object", "class": type(value).__name__, "repr": text}


def positional_params(function):
    """The number of a function's positional parameters, -1 if unknown."""
    import inspect  # slow to load, and only hooks need it
    try:
        params = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return -1
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in params)


# Process -------------------------------------------------------------------

class Finder:
    """Finds the modules of _gunicorn, and those of gunicorn in package.py unless the real
    package is installed. It comes before other finders, so that a directory of the
    user's with the name gunicorn is not taken for the package."""

    settings = None  # settings with which __config__ can be imported, None if it cannot

    def find_spec(self, name, path=None, target=None):
        if name.startswith("_gunicorn."):
            return type(sys.__spec__)(name, self)
        config = name == "__config__" and self.settings
        if not config and name != "gunicorn" and not name.startswith("gunicorn."):
            return None
        from importlib.machinery import ModuleSpec, PathFinder
        if config:
            return ModuleSpec(name, self)
        if name == "gunicorn":
            real = PathFinder.find_spec(name)
            for place in real and real.submodule_search_locations or ():
                if os.path.exists(os.path.join(place, "glogging.py")):
                    return real
        elif getattr(sys.modules["gunicorn"], "__file__", None) != "<gunicorn package.py>":
            return None
        module = package().get(name)
        return module and ModuleSpec(name, self, is_package=hasattr(module, "__path__"))

    def create_module(self, spec):
        if spec.name == "__config__":
            return config_module(self.settings)
        return None if spec.name.startswith("_gunicorn.") else package()[spec.name]

    def exec_module(self, module):
        if module.__name__.startswith("_gunicorn."):
            exec(load(module.__name__[len("_gunicorn."):] + ".py"), module.__dict__)


finder = Finder()


def package():
    """The modules of package.py by name."""
    from _gunicorn.package import MODULES
    return MODULES


STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def hold_signals():
    # A signal that reached a new child before detach would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


def release_signals():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


owner = 0  # the worker's pid if the worker is not the parent process, else 0


def own(pid):
    global owner
    owner = pid


def forward(number, frame):
    """Forwards a signal to the worker, for which it is meant."""
    os.kill(owner or os.getppid(), number)


def ignore(number, frame):
    pass



class Guarded:
    """A signal handler of the application's. It may raise exceptions wherever the
    application runs. An exception amidst a frame would leave half a frame on the wire,
    so it is raised at the end of the frame. An exception between two requests has
    nobody to catch it, and is logged and dropped."""

    wire = log = None  # wire and log of the main thread, once they exist

    def __init__(self, handler):
        self.handler = handler

    def __call__(self, number, frame):
        if not self.wire or not self.wire.held:
            return self.handler(number, frame)
        try:
            self.handler(number, frame)
        except BaseException as e:
            self.wire.caught = e
            if self.wire.held is IDLE:
                self.log.error("A signal handler raised %r between requests; it is ignored", e)


def guard_handlers():
    """Guards the signal handlers that are set, and those that will be set."""
    set_handler, get_handler = signal.signal, signal.getsignal

    def bare(handler):
        return handler.handler if type(handler) is Guarded else handler

    def guard(number, handler):
        return bare(set_handler(number, Guarded(handler) if callable(handler) else handler))

    def getsignal(number):
        return bare(get_handler(number))

    for number in signal.valid_signals():
        handler = getsignal(number)
        if callable(handler) and handler not in (forward, ignore, reopen_logs):
            guard(number, handler)
    signal.signal, signal.getsignal = functools.wraps(set_handler)(guard), functools.wraps(get_handler)(getsignal)


def set_up_process():
    for fd in (BRIDGE, QUEUE, WIRE, TRACE, PAGE):
        os.set_inheritable(fd, False)
    # faulthandler writes every thread's stack when the worker sends ABRT or the
    # application crashes, even inside C code.
    if sys.version_info >= (3, 14):
        faulthandler.enable(TRACE, all_threads=True, c_stack=False)
    else:
        faulthandler.enable(TRACE, all_threads=True)
    for number in STOP:
        signal.signal(number, forward)
    # These are handlers and not SIG_IGN, which programs started by the application
    # would inherit.
    for number, handler in ((signal.SIGUSR1, reopen_logs), (signal.SIGWINCH, ignore)):
        signal.signal(number, handler)
    guard_handlers()


def read_settings():
    with open(SETTINGS, "rb") as f:
        return marshal.loads(f.read())


def serve():
    set_up_process()
    settings = read_settings()
    set_up_path(settings)
    open_outbox(settings)
    log = set_up_logging(settings)
    if settings["credential"]:
        for name, fd in (("errorlog", ERRORLOG), ("accesslog", ACCESSLOG)):
            if settings[name] not in (None, "", "-"):
                os.close(fd)
    patch(settings)
    app, files = open_app(settings, log)
    if settings["family"] == "asgi":
        from _gunicorn.asgi import Server
        Server(settings, app, log, files).serve()
    else:
        Lane(settings, app, log, files).serve()


def open_app(settings, log):
    """The application and, with --reload, its files, else None."""
    files = None
    if settings["reload"] or settings["spew"]:
        from _gunicorn import debug
    if settings["reload"]:
        files = debug.Files()
    if settings["spew"]:
        debug.spew()
    try:
        return load_app(settings["app"]), files
    except BaseException as e:
        if files is None:
            refuse(e, log)
        log.exception(e)
        files.missed(e)
        return debug.failed_app(e, settings["family"] == "asgi"), files


def refuse(error, log):
    """Ends this process, because the application could not be loaded."""
    if isinstance(error, LoadError):
        if log.isEnabledFor(logging.DEBUG):
            log.debug("", exc_info=True)
        else:
            print(error, file=sys.stderr, flush=True)
        sys.exit(4)
    log.exception("Exception in worker process")
    print(error, file=sys.stderr, flush=True)
    sys.exit(3)


def check():
    """--check-config: checks whether the application can be loaded."""
    settings = read_settings()
    set_up_path(settings)
    try:
        check_app(settings)
    except BaseException:
        import traceback
        traceback.print_exc()
        sys.exit(1)


def check_app(settings):
    try:
        load_app(settings["app"])
    except BaseException:
        print("\nError while loading the application:\n", file=sys.stderr)
        raise


def config():
    """Runs a configuration file, writes its values to descriptor ANSWER, and becomes the
    template process."""
    question = read_settings()
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    # A forked Python gets its lane on the descriptors up to PAGE. These numbers are
    # taken now, so that no file that is opened here gets one of them.
    spare = os.open(os.devnull, os.O_RDWR)
    for fd in (TRACE, PAGE):
        if fd != spare:
            os.dup2(spare, fd, inheritable=False)
    from _gunicorn import hooks
    module, answer = None, {}
    if question["spec"]:
        module, answer = read_config(question["spec"], question["dir"], question["names"])
        if question["check"]:
            point_out(module, question["names"])
    with open(ANSWER, "wb", closefd=False) as f:
        f.write(marshal.dumps(answer, 2))
    os.dup2(spare, ANSWER, inheritable=False)
    if spare > PAGE:
        os.close(spare)
    # The template process runs until the arbiter closes the control socket.
    template = hooks.Template(module)
    worker = template.run()
    hooks.serve(template, worker)


def log():
    """Runs the process that makes the logs of the whole server."""
    settings = read_settings()
    set_up_path(settings)
    package()["gunicorn.glogging"].keep_log(settings, end_of(SOCK_SEQPACKET, ANSWER), ANSWER + 1)


if sys.version_info < (3, 9) and sys.stderr:
    sys.stderr.reconfigure(line_buffering=True)  # as in newer versions: a traceback must not come out at the end
sys.meta_path.insert(0, finder)
{"serve": serve, "check": check, "config": config, "log": log}[sys.argv[1]]()
