"""An application that asks of its server what PEP 3333 says that servers do.

pep3333_test.go requests its paths. What is found out here, and not by the
client, is answered as text: "yes", or what is wrong.
"""

import gc
import io
import os
import sys
import threading
import time
import weakref

TEXT = [("Content-Type", "text/plain")]


class App:
    """Takes its arguments by position alone."""

    def __init__(self):
        self.running = 0

    def __call__(self, environ, start_response, /):
        name = environ["PATH_INFO"].strip("/").replace("-", "_")
        self.running += 1
        try:
            return globals()["do_" + name](environ, start_response)
        finally:
            self.running -= 1


app = App()


def say(start_response, text):
    start_response("200 OK", TEXT)
    return [str(text).encode()]


def judge(start_response, **facts):
    """The facts that are not so."""
    return say(start_response, " ".join(name for name, so in facts.items() if not so) or "yes")


def wait_for(name):
    """The test makes the file when the client has seen something."""
    for _ in range(1000):
        if os.path.exists(name):
            return
        time.sleep(0.01)
    raise RuntimeError(name + " was waited for")


def mark(name):
    open(name, "w").close()


# Specification Details

def do_dictionary(environ, start_response):
    environ["x.y"] = object()
    del environ["SERVER_SOFTWARE"]
    return judge(start_response, type=type(environ) is dict, kept="x.y" in environ)


def do_arguments(environ, start_response):
    write = start_response("200 OK", TEXT, None)
    return [b"yes" if callable(write) and write(b"") is None else b"no write"]


def do_unbuffered(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"first"
    wait_for("seen")
    yield b"second"


def do_binary(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [bytes(range(256)) + b"\r\n\n\r"]


class Closing:
    """Iterates as it is told; close leaves a file."""

    def __init__(self, name, blocks):
        self.name, self.blocks = name, blocks

    def __iter__(self):
        return self.blocks

    def close(self):
        mark(self.name)


def do_close_normal(environ, start_response):
    start_response("200 OK", TEXT)
    return Closing("closed-normal", iter([b"a"]))


def do_close_error(environ, start_response):
    def blocks():
        yield b"a"
        raise ValueError("on purpose")
    start_response("200 OK", TEXT)
    return Closing("closed-error", blocks())


def do_close_early(environ, start_response):
    def blocks():
        raise ValueError("on purpose")
        yield
    start_response("200 OK", TEXT)
    return Closing("closed-early", blocks())


def do_close_gone(environ, start_response):
    def blocks():
        while True:
            yield b"x" * 10000
    start_response("200 OK", TEXT)
    return Closing("closed-gone", blocks())


def do_late_start(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"yes"


class Shy:
    """Has nothing but iteration; whatever else is looked at is noted."""

    def __init__(self):
        self.__dict__["seen"] = set()

    def __iter__(self):
        return iter([b"a"])

    def __getattr__(self, name):
        self.seen.add(name)
        raise AttributeError(name)


shy = Shy()


def do_attributes(environ, start_response):
    start_response("200 OK", TEXT)
    return shy


def do_attributes_seen(environ, start_response):
    return judge(start_response, **{name: name == "close" for name in shy.seen})


# environ Variables

def do_variables(environ, start_response):
    get = environ.get
    cgi = {k: v for k, v in environ.items() if k.isupper()}
    own = [k for k in environ if not k.isupper()]
    return judge(
        start_response, method=get("REQUEST_METHOD") == "GET", script=get("SCRIPT_NAME", "") == "",
        path=get("PATH_INFO") == "/variables", query=get("QUERY_STRING") == "a=b",
        protocol=get("SERVER_PROTOCOL") == "HTTP/1.1", name=get("SERVER_NAME"), port=get("SERVER_PORT"),
        type=get("CONTENT_TYPE") == "text/x", length=get("CONTENT_LENGTH") == "2",
        present=get("HTTP_X_THERE") == "1,2", empty=get("HTTP_X_EMPTY") == "", absent="HTTP_X_ABSENT" not in environ,
        once="HTTP_CONTENT_TYPE" not in environ and "HTTP_CONTENT_LENGTH" not in environ,
        user="REMOTE_USER" not in environ, auth="AUTH_TYPE" not in environ,
        native=all(type(k) is str and type(v) is str for k, v in cgi.items()),
        latin=all(max(v, default="") <= "\xff" for v in cgi.values()),
        own=all(k == k.lower() and k.split(".")[0] in ("wsgi", "gunicorn") for k in own))


def do_server(environ, start_response):
    return say(start_response, "%s|%s" % (environ["SERVER_NAME"], environ["SERVER_PORT"]))


def do_bytes(environ, start_response):
    # What a client sends as UTF-8 are so many characters of latin-1.
    return judge(start_response, header=environ["HTTP_X"] == "\xc3\xa9\xe2\x82\xac", query=environ["QUERY_STRING"] == "\xc3\xa9",
                 raw=environ["HTTP_X"].encode("latin-1").decode() == "\xe9\u20ac")


def do_wsgi(environ, start_response):
    get = environ.get
    return judge(
        start_response, version=get("wsgi.version") == (1, 0) and type(get("wsgi.version")) is tuple,
        scheme=get("wsgi.url_scheme") == "http", input="wsgi.input" in environ, errors="wsgi.errors" in environ,
        multithread=get("wsgi.multithread") is False, multiprocess=get("wsgi.multiprocess") is False,
        run_once=get("wsgi.run_once") is False)


def do_threads(environ, start_response):
    mark("running")
    time.sleep(0.02)
    return say(start_response, "%d %s" % (app.running, threading.current_thread() is threading.main_thread()))


def do_url(environ, start_response):
    from urllib.parse import quote
    url = environ["wsgi.url_scheme"] + "://" + (environ.get("HTTP_HOST") or
        environ["SERVER_NAME"] + ":" + environ["SERVER_PORT"])
    url += quote(environ.get("SCRIPT_NAME", ""), encoding="latin-1") + quote(environ.get("PATH_INFO", ""), encoding="latin-1")
    return say(start_response, url + "?" + environ["QUERY_STRING"])


# Input and Error Streams

def do_input(environ, start_response):
    f = environ["wsgi.input"]
    facts = {
        "size": f.read(3) == b"one", "line": f.readline() == b"\n", "limited": f.readline(2) == b"tw",
        "rest": f.readline() == b"o\n", "lines": f.readlines(1)[0] == b"three\n"}
    left = list(f)
    facts["iter"] = left in ([b"four\n", b"five"], [])
    facts["bytes"] = all(type(line) is bytes for line in left)
    facts["end"] = f.read() == f.read(1) == f.readline() == b"" and f.readlines() == [] and list(f) == []
    return judge(start_response, **facts)


def do_read_all(environ, start_response):
    data = environ["wsgi.input"].read()
    return say(start_response, "%d %s" % (len(data), environ["wsgi.input"].read()))


def do_read_past(environ, start_response):
    return say(start_response, environ["wsgi.input"].read(10000).decode())


def do_unread(environ, start_response):
    return say(start_response, "unread")


def do_errors(environ, start_response):
    f = environ["wsgi.errors"]
    f.write("plain\n")
    f.write("\u20ac \U0001f600 \ud800\n")
    f.writelines(["lines 1\n", "lines 2\n"])
    f.flush()
    return say(start_response, "yes")


# The start_response() Callable

def do_held_back(environ, start_response):
    start_response("200 OK", TEXT)
    yield b""
    mark("empty")
    wait_for("seen")
    try:
        raise ValueError
    except ValueError:
        start_response("500 Oops", TEXT, sys.exc_info())
    yield b"sorry"


def do_length_zero(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "0")])
    return []


def do_replaced(environ, start_response):
    start_response("200 OK", TEXT + [("X-First", "1")])
    try:
        raise ValueError
    except ValueError:
        start_response("500 Oops", [("X-Second", "2")], sys.exc_info())
    return [b"sorry"]


def do_reraised(environ, start_response):
    start_response("200 OK", TEXT)(b"sent")
    try:
        raise ValueError("reraised")
    except ValueError:
        try:
            start_response("500 Oops", TEXT, sys.exc_info())
        except ValueError as e:
            if e is sys.exc_info()[1] and e.__traceback__ is not None:
                mark("reraised")
            raise


def do_twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b"never"]


def do_no_reference(environ, start_response):
    class Error(Exception):
        pass
    gc.disable()
    try:
        try:
            raise Error
        except Error as e:
            there = weakref.ref(e)
            start_response("200 OK", TEXT, sys.exc_info())
        return [b"yes" if there() is None else b"the exception lives"]
    finally:
        gc.enable()


def do_case(environ, start_response):
    start_response("200 OK", [("CONTENT-LENGTH", "3"), ("date", "x"), ("SERVER", "x"), ("coNNection", "close")])
    return [b"yes"]


def do_hop(environ, start_response):
    start_response("200 OK", TEXT + [("Connection", "close"), ("Keep-Alive", "1"), ("Transfer-Encoding", "gzip"), ("TE", "x"),
        ("Upgrade", "h2c"), ("Proxy-Authenticate", "x")])
    return [b"yes"]


def do_control(environ, start_response):
    start_response("200 OK", [("X-A", "a\r\nX-B: b")])
    return [b"never"]


def do_control_status(environ, start_response):
    start_response("200 OK\r\nX-B: b", TEXT)
    return [b"never"]


def do_unicode(environ, start_response):
    start_response("200 OK", [("X-A", "\u20ac")])
    return [b"never"]


def do_not_bytes(environ, start_response):
    start_response("200 OK", TEXT)
    return iter(lambda: "text", None)


def do_not_bytes_written(environ, start_response):
    start_response("200 OK", TEXT)("text")
    return []


# Handling the Content-Length Header

def do_too_long(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "3")])
    def blocks():
        yield b"yes"
        yield b""
        yield b"too long"
        mark("went-on")
    return Closing("closed-long", blocks())


def do_too_long_block(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "3")])
    def blocks():
        yield b"yes, but too long"
        yield b"again"
        mark("went-on-block")
    return Closing("closed-long-block", blocks())


def do_written_past(environ, start_response):
    write = start_response("200 OK", TEXT + [("Content-Length", "3")])
    write(b"yes")
    try:
        write(b"no")
    except Exception:
        mark("refused")
        raise
    return []


def do_too_short(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "10")])
    return [b"short"]


def do_no_length(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"one"
    yield b"two"


# Buffering and Streaming, The write() Callable

def do_written(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"first ")
    wait_for("seen")
    write(b"second ")
    return [b"third"]


# Error Handling

def do_raises(environ, start_response):
    raise RuntimeError("before start_response")


def do_raises_later(environ, start_response):
    start_response("200 OK", TEXT + [("Set-Cookie", "secret=1")])
    yield b""
    raise RuntimeError("before the body")


def do_raises_late(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"partial"
    raise RuntimeError("after the body began")


# Other HTTP Features

def do_codings(environ, start_response):
    start_response("200 OK", [("Content-Encoding", "gzip"), ("ETag", '"x"'), ("Content-Length", "8")])
    return [b"not gzip"]


# Optional Platform-Specific File Handling

class Reader(io.BytesIO):
    """Like a file, and not one."""

    def fileno(self):
        raise OSError

    def close(self):
        mark("closed-reader")
        super().close()


def do_wrapper(environ, start_response):
    wrapper, text = environ["wsgi.file_wrapper"], io.BytesIO(b"a" * 100)
    return judge(start_response, one=list(wrapper(io.BytesIO(b"ab"))) == [b"ab"],
                 two=len(list(wrapper(text, 60))) in (1, 2), untouched=wrapper(Reader(b"ab")) is not None)


def do_wrapped(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "3")])
    f = Reader(b"no,yes!")
    f.seek(3)
    return environ["wsgi.file_wrapper"](f, 2)


def do_wrapped_file(environ, start_response):
    with open("a-file", "wb") as f:
        f.write(b"no,yes!")
    start_response("200 OK", TEXT + [("Content-Length", "3")])
    f = open("a-file", "rb")
    f.seek(3)
    return environ["wsgi.file_wrapper"](f)


def do_wrapper_thrown_away(environ, start_response):
    with open("a-file", "wb") as f:
        f.write(b"never")
    with open("a-file", "rb") as f:
        environ["wsgi.file_wrapper"](f)
    return say(start_response, "yes")


# What HTTP says of bodies

def do_status(environ, start_response):
    start_response(environ["QUERY_STRING"].replace("+", " "), [("Content-Type", "text/plain")])
    return [b"body"]


def do_head(environ, start_response):
    start_response("200 OK", TEXT + [("Content-Length", "4")])
    return [b"body"]
