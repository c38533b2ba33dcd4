"""The Python half of gunicorn: loads the application, calls it, speaks frames.
It runs configuration files too, which are Python.

It is embedded in the binary and run by each worker as a child process. It
knows no HTTP and makes no policy: requests arrive parsed, responses leave as
structure, and the worker writes them to clients.

Descriptors, as the worker (lane.go) hands them over:
  3  the bridge           6  wire: frames of the running request, both ways
  4  settings, marshal    7  where faulthandler writes stacks
  5  queue of requests    8  page: the number of the request to give up

A frame is a header and a payload: some bytes of marshal, then raw body.
"""

import errno
import faulthandler
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

# Modules that are slow or large are imported where they are needed: what this
# process has loaded is paid for once for each worker.
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET, socket

BRIDGE, SETTINGS, QUEUE, WIRE, TRACE, PAGE = 3, 4, 5, 6, 7, 8
ANSWER = 5  # where a configuration file's values go

# length of the payload, request number, bytes of marshal in it, kind, flags
HEADER = struct.Struct("<IIIBBxx")
QUEUE_MAX = 1 << 16  # no request message is longer; the worker keeps to it too

REQUEST, INDIRECT, BODY = 1, 2, 3  # from the worker
READY, RESPONSE, BLOCK, FILE, FAILED, READ, HINTS = 8, 9, 10, 11, 12, 13, 14
LAST, MORE, BROKEN, QUIET = 1, 2, 4, 8  # flags


# Application ---------------------------------------------------------------

class LoadError(Exception):
    """The application was imported but the object named is not there."""


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
            # A TypeError of the call itself names the factory; one from
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
    """sys.path and sys.argv as an application under Gunicorn sees them."""
    if sys.path and sys.path[0] == "":  # what -c put there
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

class Formatter(logging.Formatter):
    """Gunicorn's line. The pid is the worker's, which is what an operator
    sees in every other line and signals."""

    def format(self, record):
        record.worker = os.getppid()
        return super().format(record)


def set_up_logging(settings):
    """The loggers that applications look up, with live handlers."""
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
    return error


def handler_for(path, stream, formatter):
    if path in (None, "", "-"):
        handler = logging.StreamHandler(stream)
    else:
        handler = logging.FileHandler(path)
    handler.setFormatter(formatter)
    return handler


def reopen_logs(number, frame):
    """USR1: somebody has renamed the files. Every logger's are reopened, the
    application's too, as under Gunicorn."""
    loggers = [logging.getLogger()] + list(logging.root.manager.loggerDict.values())
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.FileHandler):
                with handler.lock:
                    if handler.stream:
                        handler.close()
                        handler.stream = handler._open()


class Errors:
    """wsgi.errors: bare text to where the error log goes."""

    def __init__(self, log):
        self.handler = log.handlers[0]

    def write(self, text):
        stream = self.handler.stream
        stream.write(text)
        stream.flush()

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        self.handler.stream.flush()


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


class Body(io.RawIOBase):
    """What the worker still holds of a body: asked for piece by piece, so
    nothing that the application does not read is sent here."""

    def __init__(self, wire, number):
        self.wire, self.number, self.ended = wire, number, False

    def readable(self):
        return True

    def readinto(self, into):
        if self.ended or not len(into):
            return 0
        send_all(self.wire, HEADER.pack(4, self.number, 0, READ, 0) + struct.pack("<I", len(into)))
        number, _, kind, flags, n = receive(self.wire, into)
        if kind != BODY or number != self.number:
            os._exit(1)
        if flags & BROKEN:
            self.ended = True
            raise OSError(errno.ECONNABORTED, "the request body ended early")
        self.ended = bool(flags & LAST)
        return n

    def detach_request(self):
        self.ended = True


def receive(wire, into):
    """One frame off the wire, its payload into the buffer given."""
    head = bytearray(HEADER.size)
    got = wire.recvmsg_into((head, into))[0]
    while 0 < got < HEADER.size:
        more = wire.recv_into(memoryview(head)[got:])
        got = got + more if more else 0
    if not got:
        os._exit(0)  # the worker is gone
    length, number, meta, kind, flags = HEADER.unpack(head)
    view, got = memoryview(into), got - HEADER.size
    while got < length:
        more = wire.recv_into(view[got:length])
        if not more:
            os._exit(0)
        got += more
    return number, meta, kind, flags, length


def send_all(wire, data):
    try:
        wire.sendall(data)
    except OSError:
        os._exit(0)  # the worker is gone, and with it every client


class Call:
    """One request's start_response and the response that follows."""

    __slots__ = ("wire", "number", "cancelled", "status", "headers", "begun", "left", "done")

    def __init__(self, wire, number, cancelled):
        self.wire, self.number, self.cancelled = wire, number, cancelled
        self.status = self.headers = self.left = None
        self.begun = self.done = False

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
        """Status and headers as marshal; subclasses of str become str."""
        if self.status is None:
            raise AssertionError("start_response() was not called before the response body")
        try:
            return marshal.dumps((self.status, self.headers), 2)
        except ValueError:
            pairs = [(plain(name), plain(value)) for name, value in self.headers]
            return marshal.dumps((plain(self.status), pairs), 2)

    def write(self, data):
        """One block, on the wire before this returns."""
        if not isinstance(data, bytes):
            raise TypeError("%r is not a byte" % (data,))
        if self.done:
            return
        flags = 0
        if not self.begun:
            if not data:
                return  # headers wait for the first byte (PEP 3333)
            self.left = content_length(self.headers)
        if self.left is not None:
            self.left -= len(data)
            if self.left <= 0:
                # All that was promised: the worker need not wait for
                # the iterable to say that it has ended.
                flags = LAST
        self.send(data, flags)
        if self.cancelled[0] == self.number:
            raise ClientGone

    def finish(self, data):
        if not self.done:
            self.send(data, LAST)

    def send(self, data, flags):
        if self.begun:
            kind, meta = BLOCK, b""
        else:
            kind, meta = RESPONSE, self.head()
            self.begun = True
        self.done = bool(flags & LAST)
        head = HEADER.pack(len(meta) + len(data), self.number, len(meta), kind, flags) + meta
        if len(data) <= 16384:
            send_all(self.wire, head + data)
            return
        try:
            sent = self.wire.sendmsg((head, data)) - len(head)
        except OSError:
            os._exit(0)
        if sent < 0:
            send_all(self.wire, head[sent:])
            sent = 0
        if sent < len(data):
            send_all(self.wire, memoryview(data)[sent:])

    def send_file(self, wrapper):
        """Passes the descriptor of a real file; False if it is none."""
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
        try:
            sent = self.wire.sendmsg((frame,), [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", fd))])
        except OSError:
            os._exit(0)
        send_all(self.wire, frame[sent:])
        self.begun = self.done = True
        return True

    def fail(self, flags):
        if not self.done:
            self.begun = self.done = True
            send_all(self.wire, HEADER.pack(0, self.number, 0, FAILED, flags))

    def early_hints(self, headers):
        """wsgi.early_hints: a 103 before the response."""
        for name, value in headers:
            if not name or FORBIDDEN(name + value):
                raise ValueError("invalid early hint: %r: %r" % (name, value))
        if not self.begun:
            meta = marshal.dumps([(plain(name), plain(value)) for name, value in headers], 2)
            send_all(self.wire, HEADER.pack(len(meta), self.number, len(meta), HINTS, 0) + meta)


FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f]").search  # in a header


def plain(text):
    if not isinstance(text, str):
        raise TypeError("%r is not a string" % (text,))
    return str.__str__(text) if type(text) is str else "".join(text)


def content_length(headers):
    for name, value in headers:
        if len(name) == 14 and name.lower() == "content-length":
            return int(value)
    return None


# Iterables whose next item costs nothing and shows nothing: taken as a whole.
WHOLE = (list, tuple, type(iter([])), type(iter(())))


class Lane:
    """One thread's work: receive a request, call the application, send the
    response. sync has one lane, on the main thread."""

    def __init__(self, settings, app, log):
        self.queue = socket(AF_UNIX, SOCK_SEQPACKET, 0, QUEUE)
        self.wire = socket(AF_UNIX, SOCK_STREAM, 0, WIRE)
        for end in (self.queue, self.wire):
            end.settimeout(None)  # whatever socket.setdefaulttimeout says
        page = mmap.mmap(PAGE, mmap.PAGESIZE, prot=mmap.PROT_READ)
        self.cancelled = memoryview(page).cast("I")
        self.app, self.log = app, log
        self.sendfile = settings["sendfile"]
        self.base = {
            "wsgi.version": (1, 0),
            "wsgi.errors": Errors(log),
            "wsgi.multithread": False,
            "wsgi.multiprocess": settings["workers"] > 1,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "SERVER_SOFTWARE": os.environ["SERVER_SOFTWARE"],
        }
        os.register_at_fork(before=hold_signals, after_in_parent=release_signals,
                            after_in_child=self.detach)

    def detach(self):
        """A child that the application forks does not speak for this process,
        and TERM ends it, as multiprocessing expects."""
        self.queue.close()
        self.wire.close()
        for number in STOP:
            if signal.getsignal(number) is forward:
                signal.signal(number, signal.SIG_DFL)
        release_signals()

    def serve(self):
        """Serves until the worker closes the queue."""
        meta = marshal.dumps(sys.version.split()[0], 2)
        send_all(self.wire, HEADER.pack(len(meta), 0, len(meta), READY, 0) + meta)
        buffer = bytearray(QUEUE_MAX)
        view = memoryview(buffer)
        receive_into, unpack, size = self.queue.recv_into, HEADER.unpack_from, HEADER.size
        while True:
            n = receive_into(buffer)
            if not n:
                return
            length, number, meta, kind, flags = unpack(buffer)
            if kind == REQUEST:
                environ = marshal.loads(view[size:size + meta])
            else:
                # Too long for a message: it comes over the wire.
                big = bytearray(length)
                send_all(self.wire, HEADER.pack(4, number, 0, READ, 0) + struct.pack("<I", length))
                receive(self.wire, big)
                environ = marshal.loads(big)
            environ.update(self.base)
            if flags & MORE:
                body = Body(self.wire, number)
                environ["wsgi.input"] = io.BufferedReader(body, QUEUE_MAX)
            else:
                body = None
                environ["wsgi.input"] = io.BytesIO(view[size + meta:n])
            call = Call(self.wire, number, self.cancelled)
            environ["wsgi.early_hints"] = call.early_hints
            self.run(call, environ)
            if body is not None:
                body.detach_request()
            del environ, call, body

    def run(self, call, environ):
        try:
            result = self.app(environ, call.start_response)
            try:
                if type(result) in WHOLE:
                    call.finish(b"".join(result))
                elif not (type(result) is FileWrapper and self.sendfile and not call.begun
                          and call.send_file(result)):
                    for block in result:
                        call.write(block)
                    call.finish(b"")
            finally:
                if hasattr(result, "close"):
                    result.close()
        except (StopIteration, ClientGone):
            call.fail(QUIET)
        except BaseException:
            # SystemExit and KeyboardInterrupt too: a request cannot end the server.
            self.log.exception("Error handling request %s %s",
                               environ.get("REQUEST_METHOD"), environ.get("RAW_URI"))
            call.fail(0)


# Configuration file --------------------------------------------------------

def read_config(spec, path, names):
    """Run the configuration file spec, PATH or python:MODULE, as a program
    started in the directory path, and return those of its globals that are
    in names, in terms of marshal. What goes wrong in it ends this process."""
    sys.path.insert(0, path)
    if spec.startswith("python:"):
        import importlib
        try:
            module = importlib.import_module(spec[len("python:"):])
        except Exception as e:
            print("\nError: %s" % e, file=sys.stderr, flush=True)
            sys.exit(1)
    else:
        module = run_config(spec, os.path.join(path, spec))
    sys.stdout.flush()
    return {name: portable(value) for name, value in vars(module).items() if name in names}


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


def portable(value, depth=16):
    """The value for marshal: a scalar, or a list; anything else is a dict
    that describes it."""
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
    """How many there are by name; -1 when nobody knows."""
    import inspect  # slow to load, and only hooks need it
    try:
        params = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return -1
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in params)


# Process -------------------------------------------------------------------

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def hold_signals():
    # One that reached a new child before detach would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


def release_signals():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


def forward(number, frame):
    """A signal sent to this process is meant for its worker."""
    os.kill(os.getppid(), number)


def ignore(number, frame):
    pass



def set_up_process():
    for fd in (BRIDGE, QUEUE, WIRE, TRACE, PAGE):
        os.set_inheritable(fd, False)
    # The stack of every thread, when the worker gives up on this process
    # (ABRT) or the application breaks it: seen even from inside C code.
    if sys.version_info >= (3, 14):
        faulthandler.enable(TRACE, all_threads=True, c_stack=False)
    else:
        faulthandler.enable(TRACE, all_threads=True)
    for number in STOP:
        signal.signal(number, forward)
    # Handlers, not SIG_IGN: programs that the application starts would
    # inherit that.
    for number, handler in ((signal.SIGUSR1, reopen_logs), (signal.SIGWINCH, ignore)):
        signal.signal(number, handler)


def read_settings():
    with open(SETTINGS, "rb") as f:
        return marshal.loads(f.read())


def serve():
    set_up_process()
    settings = read_settings()
    set_up_path(settings)
    log = set_up_logging(settings)
    try:
        app = load_app(settings["app"])
    except LoadError as e:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("", exc_info=True)
        else:
            print(e, file=sys.stderr, flush=True)
        sys.exit(4)
    except BaseException as e:
        log.exception("Exception in worker process")
        print(e, file=sys.stderr, flush=True)
        sys.exit(3)
    Lane(settings, app, log).serve()


def check():
    """--check-config: only whether the application loads."""
    settings = read_settings()
    set_up_path(settings)
    try:
        load_app(settings["app"])
    except BaseException:
        import traceback
        print("\nError while loading the application:\n", file=sys.stderr)
        traceback.print_exc()
        sys.exit(1)


def config():
    """Runs a configuration file and writes what it says to descriptor ANSWER."""
    question = read_settings()
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    answer = read_config(question["spec"], question["dir"], question["names"])
    with open(ANSWER, "wb") as f:
        f.write(marshal.dumps(answer, 2))


{"serve": serve, "check": check, "config": config}[sys.argv[1]]()
