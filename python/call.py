"""One request of a WSGI application: wsgi.input and wsgi.errors, start_response, the
response on its way to the worker, and the client's socket."""

import errno
import io
import logging
import marshal
import os
import re
import stat
import struct
import sys
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET
from itertools import islice
from operator import itemgetter

from _gunicorn.wsgi import (
    BLOCK, BODY, BROKEN, CLOSE, FAILED, FILE, HEADER, HINTS, LAST, LENT, META_MAX, MORE, PAIRS_MOST, PUMPED, QUIET, READ,
    RESPONSE, RING_SIZE, SHARED, SOCKET, TAIL, TAKEN, allocate_lock, frame, meta_of)


first = itemgetter(0)


class Errors(io.TextIOBase):
    """wsgi.errors: a text stream to the destinations of the error log. All requests share
    it, so no request can close it."""

    def streams(self):
        found = [getattr(handler, "stream", None) for handler in logging.getLogger("gunicorn.error").handlers]
        return [stream for stream in found if stream] or [sys.stderr]

    def __getattr__(self, name):
        return getattr(self.streams()[0], name)

    encoding = property(lambda self: self.streams()[0].encoding)
    errors = property(lambda self: self.streams()[0].errors)

    def fileno(self):
        return self.streams()[0].fileno()

    def isatty(self):
        return self.streams()[0].isatty()

    def writable(self):
        return True

    def write(self, text):
        for stream in self.streams():
            try:
                stream.write(text)
            except UnicodeEncodeError:
                # All text is recorded, even if the log's encoding lacks characters
                # (PEP 3333, environ Variables).
                coding = stream.encoding
                stream.write(text.encode(coding, "backslashreplace").decode(coding))
            stream.flush()
        return len(text)

    def flush(self):
        for stream in self.streams():
            stream.flush()

    def close(self):
        pass


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
    """The rest of a request body, which the worker holds and sends piece by piece when asked,
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
        fetch(wire, into)
        of, meta, got, flags, payload = wire.answer.pop()
        if of != number or got != kind:
            os._exit(1)
        if wire.caught and keep:
            keep(meta, flags, bytes(payload))
        wire.let_go(held)
        return meta, flags, payload


def skip(wire):
    """Reads the answer to a request that is over."""
    held, wire.held = wire.held, True
    fetch(wire, bytearray())
    wire.let_go(held)


# Another thread may raise an exception in this one after any call. The value that the call
# has returned is then lost, unless list.extend has taken the value from map: in between, no
# Python code runs.

def fetch(wire, into):
    """Reads an answer into wire.answer, a list. Exceptions are kept for let_go."""
    wire.answer = []
    while not wire.answer:
        try:
            wire.answer.extend(map(receive, (wire,), (into,)))
        except BaseException as e:
            wire.keep(e)
    wire.asked = 0


def receive(wire, into):
    """Reads one frame from the wire. The payload is in the given buffer, or in a larger one if
    it does not fit, as with trailers."""
    head, body, counts = bytearray(HEADER.size), memoryview(into), []
    while True:
        try:
            got = sum(counts) - HEADER.size
            if 0 in counts:
                os._exit(0)  # the worker is gone
            if not counts:
                counts.extend(map(first, map(wire.recvmsg_into, ((head, into),))))
            elif got < 0:
                counts.extend(map(wire.recv_into, (memoryview(head)[got:],)))
            else:
                length, number, meta, kind, flags = HEADER.unpack(head)
                if length > len(body):
                    larger = memoryview(bytearray(length))
                    larger[:got] = body[:got]
                    body = larger
                if got == length:
                    return number, meta, kind, flags, body[:length]
                counts.extend(map(wire.recv_into, (body[got:length],)))
        except BaseException as e:
            wire.keep(e)


APART = MORE  # flag of RESPONSE and BLOCK: the head goes through the pipe, the body over the socket
LONG = 16384  # bytes above which a body goes through the ring or over the socket
SHARED_LONG = 2048  # the same where several threads may send at once: a pipe keeps only short writes in one piece
BLOCK_MAX = 1 << 30  # bytes of a body in one frame
RING_BLOCK = 1 << 20  # the same where there is a ring, which holds several
PLACE = struct.Struct("<II")  # where a body is in shared memory, and its length


class Ring:
    """Memory from which the worker sends long bodies. A body that finds no room goes over the
    socket, where this thread waits for the worker, which waits for the client."""

    def __init__(self, memory, taken):
        self.memory, self.taken = memory, taken
        self.at = self.base = 0  # count of the bytes written, and its value when the ring was last empty
        self.lock = allocate_lock()

    def put(self, data):
        """Copies data into the ring, and returns the place as bytes, None without room."""
        n = len(data)
        with self.lock:
            at = self.at
            used = at - self.taken[0] & 0xffffffff
            if not used:
                at = self.base = at + RING_SIZE - 1 & -RING_SIZE  # the front is in the processor's cache
            if n > RING_SIZE - min(used, at - self.base):
                return None
            start = at % RING_SIZE
            rest = start + n - RING_SIZE
            if rest > 0:
                self.memory[start:], self.memory[:rest] = data[:-rest], data[-rest:]
            else:
                self.memory[start:start + n] = data
            self.at = at + n
        return PLACE.pack(at & 0xffffffff, n)


class Call:
    """One request's start_response and the response that follows."""

    # Defaults stand in the class, which saves time, as most never change.
    status = meta = left = socket = req = record = None
    headers = ()
    broken = None  # the error that reading the body has raised
    begun = done = taken = False
    changed = False  # a hook has changed the request, so that the worker cannot log it
    long = LONG  # bytes above which a body does not go through the pipe

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
        headers = headers[:] if type(headers) is list else list(islice(headers, PAIRS_MOST))
        # Most responses have the same head as the last, whose types are known.
        try:
            meta = marshal.dumps((status, headers), 2)
        except ValueError:
            meta = None
        if meta != self.wire.meta:
            meta = self.checked(status, headers, meta)
        self.status, self.headers, self.meta = status, headers, meta
        return self.write

    def checked(self, status, headers, meta):
        """Status and headers as marshal, after a look at all types. Subclasses of str become
        str."""
        if meta and len(meta) <= META_MAX and type(status) is str:
            for pair in headers:
                if type(pair) is not tuple:
                    break
                name, value = pair
                if type(name) is not str or type(value) is not str:
                    break
            else:
                if len(meta) <= SHARED_LONG:
                    self.wire.meta = meta
                return meta
        return meta_of((plain(status), pairs(headers)))

    def head(self):
        if self.meta is None:
            raise AssertionError("start_response() was not called before the response body")
        return self.meta

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
        if self.begun or self.taken or len(data) > LONG:
            return self.finish(data)
        meta = self.meta or self.head()
        n = len(meta)
        self.wire.say(HEADER.pack(n + len(data), self.number, n, RESPONSE, LAST) + meta + data)
        self.begun = self.done = True

    def send(self, data, flags):
        if self.taken:
            # The application has written its response to the client's socket.
            self.fail(QUIET)
            return
        wire = self.wire
        held = wire.held
        if self.begun and len(data) <= self.long:  # most blocks: this is say with fewer checks
            wire.held = True
            wire.say(HEADER.pack(len(data), self.number, 0, BLOCK, flags) + data)
        else:
            most = RING_BLOCK if wire.ring else BLOCK_MAX
            while len(data) > most:
                wire.held = True
                view = memoryview(data)
                self.say(view[:most], 0)
                data = view[most:]
            self.say(data, flags)
        self.done = bool(flags & LAST)
        wire.let_go(held)

    def say(self, data, flags):
        """Sends a frame of the response."""
        wire = self.wire
        if self.begun:
            kind, meta = BLOCK, b""
        else:
            kind, meta = RESPONSE, self.head()
        place = apart = None
        if len(data) > self.long:
            place = wire.ring and wire.ring.put(data)
            apart = not place and wire.apart
        if place:
            flags |= SHARED
        elif apart:
            flags |= APART
        head = HEADER.pack(len(meta) + len(place or data), self.number, len(meta), kind, flags) + meta
        self.begun = wire.held = True
        if place:
            wire.say(head + place)
        elif apart:
            wire.say(head)
            wire.put(apart.sendall, data)
        elif len(data) <= LONG:
            wire.say(head + data)
        else:
            sent = wire.sendmsg((head, data)) - len(head)
            if sent < 0:
                wire.say(head[sent:])
                sent = 0
            if sent < len(data):
                wire.say(memoryview(data)[sent:])

    def send_file(self, wrapper):
        """Passes the descriptor of a regular file to the worker: False if the wrapper has
        none."""
        try:
            fd = bare(wrapper.filelike).fileno()
            facts = os.fstat(fd)
            # A file without blocks, as in /proc and /sys, may have another size than it says.
            if not stat.S_ISREG(facts.st_mode) or not facts.st_blocks:
                return False
            offset = wrapper.filelike.tell()
        except (AttributeError, OSError, ValueError):
            return False
        meta = self.head()
        left = max(facts.st_size - offset, 0)
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
        self.sent = left
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
        headers = pairs(headers)
        for name, value in headers:
            if not name or FORBIDDEN(name + value):
                raise ValueError("invalid early hint: %r: %r" % (name, value))
        if not self.begun:
            self.wire.say(frame(self.number, HINTS, meta_of(headers)))

    def send_trailers(self, trailers):
        """gunicorn.http2.send_trailers: fields to send behind the body, over HTTP/2."""
        if self.done:
            raise AssertionError("the response is complete, and trailers come too late")
        self.wire.say(frame(self.number, TAIL, meta_of(pairs(trailers))))


class Counted(Call):
    """A call that hooks or the access log will look at."""

    sent = 0
    fate = None  # status of the worker's answer in place of the application's: None without one, "" for an unknown one

    def send(self, data, flags):
        if not self.begun and self.req.must_close:
            flags |= CLOSE
        self.sent += len(data)
        super().send(data, flags)

    def whole(self, data):
        self.finish(data)

    def fail(self, flags):
        if not self.begun:
            self.fate = "" if flags or self.broken else "500 Internal Server Error"
        super().fail(flags)


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


def bare(filelike):
    """The file whose contents read() of filelike gives, unchanged: AttributeError if there
    is none, as with gzip.open(), whose descriptor is that of the compressed file."""
    while not isinstance(filelike, io.FileIO):
        if isinstance(filelike, (io.BufferedReader, io.BufferedRandom)):
            filelike = filelike.raw
        elif hasattr(type(filelike), "read") and filelike.read != filelike.file.read:
            raise AttributeError
        else:
            filelike = filelike.file  # of tempfile or Django
    return filelike


def plain(text):
    if not isinstance(text, str):
        raise TypeError("%r is not a string" % (text,))
    return text if type(text) is str else "".join((text,))


def pairs(headers):
    """Headers as pairs of str, at most PAIRS_MOST, with which no frame can be made."""
    return [(plain(name), plain(value)) for name, value in map(pair_of, islice(headers, PAIRS_MOST))]


def pair_of(header):
    if not isinstance(header, (tuple, list)) or len(header) != 2:
        raise TypeError("%r is not a pair of name and value" % (header,))
    return header


def content_length(headers):
    for name, value in headers:
        if len(name) == 14 and name.lower() == "content-length":
            return int(value)
    return None


# Iterables whose items are ready, so that they can be sent as one block.
WHOLE = (list, tuple, type(iter([])), type(iter(())))
