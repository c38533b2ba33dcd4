"""A client of HTTP/2 for the tests, which sends what it is told to, right or wrong."""

import socket
import ssl
import struct
import time
from collections import defaultdict

import hpack

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CONNECT, CALM = range(12)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    ids = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "list": 6, "connect": 8}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", ids[name], value) for name, value in values.items()))


class Answer:
    def __init__(self):
        self.status, self.fields, self.body, self.trailers, self.interim = None, [], b"", None, []
        self.ended, self.reset = False, None

    def __getitem__(self, name):
        return dict(self.fields).get(name)


class Peer:
    def __init__(self, port, tls=False, start=True, credit=True, **values):
        self.sock = socket.create_connection(("127.0.0.1", int(port)), 10)
        if tls:
            context = ssl._create_unverified_context()
            context.set_alpn_protocols(["h2"])
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
            assert self.sock.selected_alpn_protocol() == "h2"
        self.credit = credit  # give the server room for as much as it has sent
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.pending, self.answers, self.theirs, self.goaways = b"", defaultdict(Answer), {}, []
        self.block, self.pings = b"", 0
        if start:
            self.send(PREFACE + settings(**values))

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def fields(self, path="/", method="GET", extra=(), authority="localhost", scheme="http"):
        pseudo = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
        return [(n, v) for n, v in pseudo if v is not None] + list(extra)

    def head(self, stream, fields, end=True):
        block, kind, flags, frames = self.encoder.encode(fields), HEADERS, END_STREAM if end else 0, b""
        while len(block) > 16384:
            frames += frame(kind, flags, stream, block[:16384])
            block, kind, flags = block[16384:], CONTINUATION, 0
        return frames + frame(kind, flags | END_HEADERS, stream, block)

    def ask(self, stream, path="/", method="GET", extra=(), end=True, **more):
        self.send(self.head(stream, self.fields(path, method, extra, **more), end))

    def data(self, stream, body, end=False):
        self.send(*[frame(DATA, 0, stream, body[i:i + 16384]) for i in range(0, len(body), 16384)])
        if end:
            self.send(frame(DATA, END_STREAM, stream))

    def exactly(self, n):
        while len(self.pending) < n:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError
            self.pending += more
        b, self.pending = self.pending[:n], self.pending[n:]
        return b

    def read(self):
        """The next frame: kind, flags, stream, payload."""
        head = self.exactly(9)
        kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
        payload = self.exactly(int.from_bytes(head[:3], "big"))
        a = self.answers[stream]
        if kind == SETTINGS and not flags & ACK:
            for i in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, i)
                self.theirs[name] = value
            self.send(frame(SETTINGS, ACK))
        elif kind in (HEADERS, CONTINUATION):
            self.block += payload
            if kind == HEADERS:
                self.flags = flags
            if flags & END_HEADERS:
                fields, self.block = self.decoder.decode(self.block), b""
                status = dict(fields).get(":status")
                if status is None:
                    a.trailers = fields
                elif status.startswith("1"):
                    a.interim.append((status, fields[1:]))
                else:
                    assert a.status is None
                    a.status, a.fields = status, fields[1:]
                a.ended = a.ended or bool(self.flags & END_STREAM)
        elif kind == DATA:
            a.body += payload
            a.ended = a.ended or bool(flags & END_STREAM)
            if self.credit and payload:
                n = struct.pack(">I", len(payload))
                self.send(frame(WINDOW, 0, 0, n), b"" if a.ended else frame(WINDOW, 0, stream, n))
        elif kind == RST:
            a.reset = struct.unpack(">I", payload)[0]
        elif kind == GOAWAY:
            self.goaways.append(struct.unpack(">II", payload[:8]))
        return kind, flags, stream, payload

    def answer(self, stream):
        """The whole answer on a stream, or what there is of it when it is reset."""
        while True:
            a = self.answers[stream]
            if a.ended or a.reset is not None:
                return a
            self.read()

    def get(self, stream, path="/", **more):
        self.ask(stream, path, **more)
        return self.answer(stream)

    def until(self, kind):
        while True:
            f = self.read()
            if f[0] == kind:
                return f

    def settled(self):
        """Waits until the server has handled everything that was sent. Scripts call this in
        loops; the server takes more than 1,000 pings in 10 s for an attack."""
        self.pings += 1
        if self.pings > 100:
            time.sleep(0.02)
        self.send(frame(PING, 0, 0, b"settled!"))
        while self.read()[0] != PING:
            pass

    def end(self):
        """Reads to the end of the connection; the code of the last GOAWAY, None for none."""
        try:
            while True:
                self.read()
        except (EOFError, ConnectionResetError, BrokenPipeError):
            return self.goaways[-1][1] if self.goaways else None


def same(got, want):
    if got != want:
        raise SystemExit("got %r, want %r" % (got, want))
