"""A WSGI application that is honest at / and makes a mistake at /bad: which one, the
number in the query says, so that each can be made again."""
import os
import random
import signal
import tempfile
import threading

done = os.open("done", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
kept = []  # of other requests: their environs and what start_response returned


class Odd(BaseException):
    pass


class Mute(Exception):
    def __str__(self):
        raise Odd("no text either")


class Text(str):
    pass


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def odd(r):
    """A value of a type that nobody expects."""
    return r.choice((
        None, 0, -1, 200, 1.5, float("nan"), True, "text", "\ud800", "\u0142", "", b"bytes", b"", bytearray(b"array"), [], [1], (), {}, {1: 2}, {1, 2},
        frozenset("ab"), 1j, 2 ** 70, -2 ** 70, Ellipsis, object(), object, len, Text("text"), nested(3000), memoryview(b"01234567").cast("I"),
        memoryview(b"0123456789abcdef")[::2], "x" * 5_000_000, b"x" * 5_000_000, ["x"] * 100_000, iter("ab"), "a\r\nb: c", "a\0b", StopIteration(), range(3)))


def error(r):
    return r.choice((ValueError("a"), Odd("b"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(), MemoryError(), Mute(),
                     OSError(32, "Broken pipe"), RecursionError("c"), UnicodeDecodeError("ascii", b"\xff", 0, 1, "d"), TimeoutError()))


class Result:
    """An iterable that fails, reads on or says too much, somewhere."""

    def __init__(self, r, environ):
        self.r, self.environ, self.left = r, environ, r.randrange(5)

    def mistake(self):
        choice = self.r.randrange(12)
        if choice == 0:
            raise error(self.r)
        if choice == 1:
            self.environ["wsgi.input"].read(self.r.choice((-1, 1, 100_000)))
        if choice == 2:
            self.environ["wsgi.input"].readline()

    def __iter__(self):
        self.mistake()
        return self

    def __next__(self):
        self.mistake()
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return odd(self.r) if self.r.randrange(6) == 0 else b"block" * self.r.choice((0, 1, 10, 10_000, 100_000))

    def __len__(self):
        return self.r.choice((0, 1, 7))

    def close(self):
        self.mistake()


class File:
    """What is a file only now and then."""

    def __init__(self, r):
        self.r, self.file = r, tempfile.TemporaryFile()
        self.file.write(b"f" * r.choice((0, 10, 50_000)))
        self.file.seek(r.choice((0, 5, 1000)))

    def fileno(self):
        return self.r.choice((self.file.fileno(),) * 5 + (-1, 1 << 40, None, "0"))

    def tell(self):
        return self.r.choice((self.file.tell(),) * 5 + (-1, 1 << 70, None))

    def read(self, n=-1):
        return odd(self.r) if self.r.randrange(8) == 0 else self.file.read(n)

    def close(self):
        if self.r.randrange(4) == 0:
            raise error(self.r)
        self.file.close()


def interrupted(r, call, *args):
    """A call that an exception may end wherever a greenlet waits, or the main thread is."""
    seconds = r.choice((0.0001, 0.001, 0.01, 0.03))
    try:
        import gevent.monkey
    except ImportError:
        gevent = None
    if not gevent or not gevent.monkey.is_module_patched("socket"):
        if threading.current_thread() is not threading.main_thread():
            return call(*args)
        error = r.choice((TimeoutError("alarm"), OSError(11, "alarm"), Odd("alarm"), KeyboardInterrupt()))

        def alarm(number, frame):
            raise error
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            try:
                return call(*args)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)  # or it would meet another request
        except type(error):
            if r.randrange(2):
                raise
            return None
    with gevent.Timeout(seconds, r.choice((False, None))):
        return call(*args)


def bad(r, environ, start_response):
    kept.append((environ, None))
    del kept[:-8]
    if r.randrange(4) == 0:
        interrupted(r, environ["wsgi.input"].read)
    elif r.randrange(3) == 0:
        environ["wsgi.input"].read(r.choice((1, 1000, -1)))
    if r.randrange(8) == 0:
        raise error(r)
    if r.randrange(8) == 0:
        environ["wsgi.early_hints"](r.choice((odd(r), [("Link", odd(r))], [("Link", "</a>")])))
    if r.randrange(8) == 0:
        environ["gunicorn.socket"].getpeername()
    if r.randrange(8) == 0:
        other, write = r.choice(kept)
        mischief = r.randrange(4)
        if mischief == 0:
            other["wsgi.input"].read(r.choice((1, -1)))
        elif mischief == 1:
            other["wsgi.early_hints"]([("Link", "</b>")])
        elif mischief == 2 and write:
            write(b"for another")
        elif mischief == 3:
            other["gunicorn.socket"].getpeername()
    if r.randrange(6) == 0:
        for _ in range(r.randrange(4)):
            environ[r.choice((*environ, "new", None, 1, b"b", (), "\ud800"))] = odd(r)
    if r.randrange(30) == 0:
        environ.clear()
    if r.randrange(8) == 0 and "gunicorn.http2.send_trailers" in environ:
        environ["gunicorn.http2.send_trailers"](r.choice((odd(r), [("a", odd(r))], [(odd(r), "b")], [("a", "b")], [("a", "b")] * 1000)))
    status, headers = "200 OK", [("Content-Type", "text/plain")]
    if r.randrange(3) == 0:
        headers.append(("Content-Length", r.choice(("5", "0", "500000", "5"))))
    if r.randrange(4) == 0:
        status = r.choice((odd(r), "204 No Content", "304 Not Modified", "100 Continue", "101 Switching", "999", "abc"))
    if r.randrange(3) == 0:
        place = r.randrange(6)
        if place == 0:
            headers = odd(r)
        elif place == 1:
            headers.append(odd(r))
        elif place == 2:
            headers.append((odd(r), "value"))
        elif place == 3:
            headers.append(("Name", odd(r)))
        elif place == 4:
            headers.append(("a", "b", odd(r)))
        else:
            headers.append(("Connection", "close"))
    for _ in range(r.choice((0, 1, 1, 1, 1, 1, 2))):
        write = start_response(status, headers, *(() if r.randrange(8) else ((ValueError, ValueError("again"), None),)))
        kept[-1] = environ, write
    if r.randrange(4) == 0:
        block = odd(r) if r.randrange(4) == 0 else b"written" * r.choice((0, 1, 1000, 300_000))
        if r.randrange(3) == 0:
            interrupted(r, write, block)
        else:
            write(block)
    if r.randrange(6) == 0:
        environ["wsgi.input"].read()
    if r.randrange(8) == 0:
        # A thread that goes on when the request is over.
        threading.Timer(0.001 * r.randrange(5), quietly, (environ["wsgi.input"].read,)).start()
    choice = r.randrange(8)
    if choice == 0:
        return odd(r)
    if choice == 1:
        return [odd(r)]
    if choice == 2:
        return environ["wsgi.file_wrapper"](File(r))
    if choice < 6:
        return Result(r, environ)
    return [b"12345"]


def quietly(call):
    try:
        call()
    except BaseException:
        pass


def app(environ, start_response):
    query = environ["QUERY_STRING"]
    if environ["PATH_INFO"] == "/bad":
        return bad(random.Random(int(query)), environ, start_response)
    os.write(done, query.encode() + b"\n")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(query)))])
    return [query.encode()]
