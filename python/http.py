"""HTTP/1.1 in Python, for worker classes that parse requests themselves. Where Gunicorn and
RFC 9112 differ, a request is refused.

Only package.py loads this file. The server itself parses in Go (http.go)."""

import io
import os
import re
import sys
import time
from _socket import SHUT_WR

from _gunicorn import wsgi
from _gunicorn.call import FileWrapper
from _gunicorn.facade import HOP_HEADERS, unquoted

LINE_MAX, HEAD_MAX, DRAIN_MAX = 8190, 1 << 20, 1 << 16  # most bytes: of a line, of a head, of a body thrown away
token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
target = re.compile(r"[!-~]+").fullmatch
version = re.compile(r"HTTP/([0-9])\.([0-9])").fullmatch
control = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
status_line = re.compile(r"[1-9][0-9]{2}( [\t -~\x80-\xff]*)?").fullmatch
hexadecimal = re.compile(rb"[0-9A-Fa-f]{1,16}").fullmatch
NOT_TRAILERS = set("TRANSFER-ENCODING CONTENT-LENGTH HOST CONTENT-ENCODING CONTENT-TYPE CONTENT-RANGE TRAILER AUTHORIZATION".split())


# Errors ------------------------------------------------------------------------

class ParseException(Exception):
    """A request is malformed."""


def request_error(name, field, text, base=ParseException, code=None):
    """Makes an exception class. The classes of this family differ in little but their text."""
    def __init__(self, value=None, more=None):
        base.__init__(self, value)
        setattr(self, field, value)
        if code:
            self.code = code

    def __str__(self):
        return text % (getattr(self, field),) if "%" in text else text
    base = REQUEST_ERRORS.get(base, base)
    REQUEST_ERRORS[name] = type(name, (base,), {"__init__": __init__, "__str__": __str__})


REQUEST_ERRORS = {}
for error in (
    ("NoMoreData", "buf", "No more data after: %r", OSError),
    ("ConfigurationProblem", "info", "Configuration problem: %s", ParseException, 500),
    ("InvalidRequestLine", "req", "Invalid HTTP request line: %r", ParseException, 400),
    ("InvalidRequestMethod", "method", "Invalid HTTP method: %r"),
    ("ExpectationFailed", "expect", "Unable to comply with expectation: %r"),
    ("InvalidHTTPVersion", "version", "Invalid HTTP Version: %r"),
    ("InvalidHeader", "hdr", "Invalid HTTP Header: %r"),
    ("ObsoleteFolding", "hdr", "Obsolete line folding is unacceptable: %r"),
    ("InvalidHeaderName", "hdr", "Invalid HTTP header name: %r"),
    ("InvalidResponseHeader", "hdr", "Invalid response header from the application: %s", "InvalidHeader"),
    ("InvalidResponseHeaderName", "hdr", "Invalid response header name from the application: %s", "InvalidHeaderName"),
    ("InvalidH2CPreface", "data", "Expected HTTP/2 connection preface, got %r"),
    ("UnsupportedTransferCoding", "hdr", "Unsupported transfer coding: %r", ParseException, 501),
    ("InvalidChunkSize", "data", "Invalid chunk size: %r", OSError),
    ("ChunkMissingTerminator", "term", "Invalid chunk terminator is not '\\r\\n': %r", OSError),
    ("InvalidChunkExtension", "reason", "Invalid chunk extension: %s", OSError),
    ("LimitRequestLine", "size", "%s"),
    ("LimitRequestHeaders", "msg", "%s"),
    ("InvalidProxyLine", "line", "Invalid PROXY line: %r", ParseException, 400),
    ("InvalidProxyHeader", "msg", "Invalid PROXY header: %s", ParseException, 400),
    ("ForbiddenProxyRequest", "host", "Proxy request from %r not allowed", ParseException, 403),
    ("InvalidSchemeHeaders", "req", "Contradictory scheme headers"),
):
    request_error(*error)
globals().update(REQUEST_ERRORS)
ERRORS = {  # statuses of the exceptions that are the client's mistake, if not 400
    "UnsupportedTransferCoding": 501, "ConfigurationProblem": 500, "LimitRequestLine": 414, "ExpectationFailed": 417,
    "LimitRequestHeaders": 431, "ForbiddenProxyRequest": 403}


# Requests ------------------------------------------------------------------------

class Unreader:
    """A source of bytes, into which bytes can be put back."""

    def __init__(self):
        self.left = b""

    def chunk(self):
        raise NotImplementedError

    def read(self, size=None):
        """Exactly size bytes, or what is left before the end; without size, what is there."""
        if size is None or size < 0:
            data, self.left = self.left, b""
            return data or self.chunk()
        parts, have = [self.left], len(self.left)
        while have < size:
            data = self.chunk()
            if not data:
                break
            parts.append(data)
            have += len(data)
        data = b"".join(parts)
        self.left = data[size:]
        return data[:size]

    def unread(self, data):
        self.left = bytes(data) + self.left


class SocketUnreader(Unreader):
    def __init__(self, sock, max_chunk=8192):
        super().__init__()
        self.sock, self.max_chunk = sock, max_chunk

    def chunk(self):
        return self.sock.recv(self.max_chunk)


class IterUnreader(Unreader):
    def __init__(self, iterable):
        super().__init__()
        self.iterator = iter(iterable)

    def chunk(self):
        return next(self.iterator, b"")


class Body:
    """A request body over anything that has read(size)."""

    def __init__(self, reader):
        self.reader = io.BufferedReader(Raw(reader))

    def __iter__(self):
        return iter(self.reader)

    def read(self, size=None):
        return self.reader.read(-1 if size is None else size)

    def readline(self, size=None):
        return self.reader.readline(-1 if size is None else size)

    def readlines(self, size=None):
        return self.reader.readlines(-1 if size is None else size)


class Raw(io.RawIOBase):
    def __init__(self, reader):
        self.reader = reader

    def readable(self):
        return True

    def readinto(self, into):
        data = self.reader.read(len(into))
        into[:len(data)] = data
        return len(data)


class LengthReader:
    def __init__(self, unreader, length):
        self.unreader, self.length = unreader, length

    def read(self, size):
        size = min(size, self.length)
        if not size:
            return b""
        data = self.unreader.read()
        self.unreader.unread(data[size:])
        self.length = self.length - len(data[:size]) if data else 0
        return data[:size]


class EOFReader(LengthReader):
    def __init__(self, unreader):
        super().__init__(unreader, sys.maxsize)


class ChunkedReader:
    def __init__(self, req, unreader):
        self.req, self.unreader, self.left, self.ended = req, unreader, 0, False

    def read(self, size):
        if self.ended or not size:
            return b""
        if not self.left:
            word, _, extension = self.line(InvalidChunkSize).partition(b";")
            if extension and re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", extension):
                raise InvalidChunkExtension("invalid chunk extension")
            word = word.rstrip(b" \t") if extension else word
            if not hexadecimal(word):
                raise InvalidChunkSize(word)
            self.left = int(word, 16)
            if not self.left:
                self.ended = True
                self.req.trailers = self.req.parse_headers(self.trailers(), from_trailer=True)
                return b""
        data = self.unreader.read()
        if not data:
            raise NoMoreData()
        size = min(size, self.left)
        self.unreader.unread(data[size:])
        data = data[:size]
        self.left -= len(data)
        if not self.left:
            end = self.unreader.read(2)
            if end != b"\r\n":
                raise ChunkMissingTerminator(end)
        return data

    def line(self, error):
        data = b""
        while b"\r\n" not in data:
            if len(data) > LINE_MAX:
                raise error(data[:64])
            more = self.unreader.read()
            if not more:
                raise NoMoreData(data)
            data += more
        line, _, rest = data.partition(b"\r\n")
        self.unreader.unread(rest)
        return line

    def trailers(self):
        lines, size = [], 0
        while True:
            line = self.line(InvalidHeader)
            size += len(line)
            if not line:
                return lines
            if size > HEAD_MAX or len(lines) >= self.req.cfg.limit_request_fields:
                raise LimitRequestHeaders("limit request trailer section size")
            lines.append(line)


class Message:
    """A request's headers and body."""

    def __init__(self, cfg, unreader, peer_addr):
        self.cfg, self.unreader, self.peer_addr, self.remote_addr = cfg, unreader, peer_addr, peer_addr
        self.version = self.body = None
        self.headers, self.trailers, self.must_close, self.expects = [], [], False, False
        self.scheme = "https" if cfg.is_ssl else "http"
        self.parse(unreader)
        self.set_body_reader()

    def parse(self, unreader):
        raise NotImplementedError

    def trusted(self):
        """Whether the peer may say what the scheme is: a proxy that is known."""
        if not isinstance(self.peer_addr, tuple) or "*" in self.cfg.forwarded_allow_ips:
            return True
        import ipaddress
        address = ipaddress.ip_address(self.peer_addr[0].partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in ipaddress.ip_network(network) for network in self.cfg.forwarded_allow_ips)

    def parse_headers(self, lines, from_trailer=False):
        cfg, headers, schemes = self.cfg, [], set()
        trusted = not from_trailer and self.trusted()
        if len(lines) > cfg.limit_request_fields:
            raise LimitRequestHeaders("limit request headers fields")
        for line in lines:
            if 0 < cfg.limit_request_field_size < len(line) + 2:
                raise LimitRequestHeaders("limit request headers fields size")
            line = line.decode("latin-1")
            if line[:1] in (" ", "\t"):
                raise ObsoleteFolding(headers[-1][0] if headers else line)
            name, colon, value = line.partition(":")
            if not colon or not name:
                raise InvalidHeader(line)
            if not token(name) or from_trailer and name.upper() in NOT_TRAILERS:
                raise InvalidHeaderName(name)
            name, value = name.upper(), value.strip(" \t")
            if control(value):
                raise InvalidHeader(name)
            if name == "EXPECT" and value.lower() == "100-continue":
                self.expects = self.version >= (1, 1)
            elif name == "EXPECT":
                raise ExpectationFailed(value)
            if trusted and name in cfg.secure_scheme_headers:
                schemes.add("https" if value == cfg.secure_scheme_headers[name] else "http")
                self.scheme = "https" if "https" in schemes else "http"
                if len(schemes) > 1:
                    raise InvalidSchemeHeaders(name)
            if "_" in name and not (trusted and (name in cfg.forwarder_headers or "*" in cfg.forwarder_headers)):
                if cfg.header_map == "drop":
                    continue
                if cfg.header_map != "dangerous":
                    raise InvalidHeaderName(name)
            headers.append((name, value))
        return headers

    def set_body_reader(self):
        length, chunked = None, False
        for name, value in self.headers:
            if name == "CONTENT-LENGTH":
                if length is not None or not re.fullmatch("[0-9]{1,18}", value):
                    raise InvalidHeader("CONTENT-LENGTH")
                length = int(value)
            elif name == "TRANSFER-ENCODING":
                if chunked or value.lower() != "chunked":
                    raise UnsupportedTransferCoding(value) if not chunked else InvalidHeader("TRANSFER-ENCODING")
                chunked = True
        if chunked and (length is not None or self.version < (1, 1)):
            raise InvalidHeader("TRANSFER-ENCODING")
        self.body = Body(ChunkedReader(self, self.unreader) if chunked else LengthReader(self.unreader, length or 0))

    def force_close(self):
        self.must_close = True

    def should_close(self):
        if self.must_close:
            return True
        for name, value in self.headers:
            if name == "CONNECTION":
                words = [word.strip() for word in value.lower().split(",")]
                if "close" in words:
                    return True
                if "keep-alive" in words:
                    return False
        return self.version <= (1, 0)


class Request(Message):
    def __init__(self, cfg, unreader, peer_addr, req_number=1):
        self.method = self.uri = self.path = self.query = self.fragment = None
        self.req_number, self.proxy_protocol_info = req_number, None
        super().__init__(cfg, unreader, peer_addr)

    def parse(self, unreader):
        data, longest = bytearray(), self.cfg.limit_request_line or LINE_MAX
        while b"\r\n\r\n" not in data:
            if b"\r\n" not in data[:longest + 2] and len(data) > longest + 2:
                raise LimitRequestLine(len(data), longest)
            if len(data) > HEAD_MAX:
                raise LimitRequestHeaders("max buffer headers")
            more = unreader.read()
            if not more and not data:
                raise StopIteration
            if not more:
                raise NoMoreData(bytes(data))
            data += more
        head, _, rest = bytes(data).partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        if len(line) > longest:
            raise LimitRequestLine(len(line), longest)
        self.parse_request_line(line)
        self.headers = self.parse_headers(lines)
        unreader.unread(rest)

    def parse_request_line(self, line):
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or not target(words[1]):
            raise InvalidRequestLine(line.decode("latin-1"))
        self.method, self.uri = words[:2]
        if not token(self.method) or not self.cfg.permit_unconventional_http_method and (
                re.search("[a-z#]", self.method) or not 3 <= len(self.method) <= 20):
            raise InvalidRequestMethod(self.method)
        match = version(words[2])
        if not match:
            raise InvalidHTTPVersion(words[2])
        self.version = int(match[1]), int(match[2])
        if self.version[0] != 1 and not self.cfg.permit_unconventional_http_version:
            raise InvalidHTTPVersion(self.version)
        rest = self.uri
        absolute = re.match("[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*", rest)
        if absolute:
            rest = rest[absolute.end():]
        rest, _, self.fragment = rest.partition("#")
        self.path, _, self.query = rest.partition("?")


class Parser:
    mesg_class = None

    def __init__(self, cfg, source, source_addr):
        self.cfg, self.source_addr, self.mesg, self.req_count = cfg, source_addr, None, 0
        self.unreader = SocketUnreader(source) if hasattr(source, "recv") else IterUnreader(source)

    def __iter__(self):
        return self

    def finish_body(self, deadline=None, max_bytes=DRAIN_MAX):
        """Throws away what is left of the body: false if that is too much."""
        left = max_bytes or DRAIN_MAX
        while self.mesg and left > 0:
            data = self.mesg.body.read(1024)
            if not data:
                return True
            left -= len(data)
        return not self.mesg

    def __next__(self):
        if self.mesg and (self.mesg.should_close() or not self.finish_body()):
            raise StopIteration
        self.req_count += 1
        self.mesg = self.mesg_class(self.cfg, self.unreader, self.source_addr, self.req_count)
        return self.mesg

    next = __next__


class RequestParser(Parser):
    mesg_class = Request


def get_parser(cfg, source, source_addr, http2_connection=False):
    return RequestParser(cfg, source, source_addr)


# Responses -----------------------------------------------------------------------

class WSGIErrorsWrapper(io.RawIOBase):
    def __init__(self, cfg):
        import logging
        self.log = logging.getLogger("gunicorn.error")

    def write(self, text):
        sys.stderr.write(text)
        sys.stderr.flush()

    def flush(self):
        sys.stderr.flush()


def base_environ(cfg):
    return {"wsgi.errors": WSGIErrorsWrapper(cfg), "wsgi.version": (1, 0), "wsgi.multithread": False,
            "wsgi.multiprocess": cfg.workers > 1, "wsgi.run_once": False, "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True, "SERVER_SOFTWARE": "gunicorn/%d.%d.%d" % wsgi.VERSION}


def default_environ(req, sock, cfg):
    return dict(base_environ(cfg), **{
        "wsgi.input": req.body, "gunicorn.socket": sock, "REQUEST_METHOD": req.method, "QUERY_STRING": req.query,
        "RAW_URI": req.uri, "SERVER_PROTOCOL": "HTTP/%d.%d" % req.version})


def proxy_environ(req):
    return {}


def early_hints(req, sock, resp):
    def send(headers):
        if not resp.headers_sent and req.version >= (1, 1):
            sock.sendall(b"HTTP/1.1 103 Early Hints\r\n%s\r\n" % b"".join(
                b"%s: %s\r\n" % tuple(part.encode("latin-1") for part in checked(*pair)) for pair in headers))
    return send


def create(req, sock, client, server, cfg):
    """The response to a request, and the environ."""
    resp, environ = Response(req, sock, cfg), default_environ(req, sock, cfg)
    if req.expects:
        sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    host, prefix = None, os.environ.get("SCRIPT_NAME", "")
    for name, value in req.headers:
        key = name.replace("-", "_")
        if name == "HOST":
            host = value
        elif name == "SCRIPT_NAME":
            prefix = value
        if name not in ("CONTENT-TYPE", "CONTENT-LENGTH"):
            key = "HTTP_" + key
        environ[key] = environ[key] + "," + value if key in environ else value
    environ["wsgi.url_scheme"], environ["wsgi.early_hints"] = req.scheme, early_hints(req, sock, resp)
    if isinstance(client, (tuple, list)):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    else:
        environ["REMOTE_ADDR"] = client.decode() if isinstance(client, bytes) else client
    if isinstance(server, (tuple, list)):
        environ["SERVER_NAME"], environ["SERVER_PORT"] = server[0], str(server[1])
    else:  # a unix socket has no host and port: the request names them
        name, _, port = (host or server).partition(":")
        environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = port or ("443" if req.scheme == "https" else "80") if host else ""
    path = req.path or ""
    if prefix and not path.startswith(prefix):
        raise ConfigurationProblem("Request path %r does not start with SCRIPT_NAME %r" % (path, prefix))
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = prefix, unquoted(path[len(prefix):]).decode("latin-1")
    return resp, environ


def checked(name, value):
    """A field of a response."""
    for part in (name, value):
        if not isinstance(part, str):
            raise TypeError("%r is not a string" % (part,))
    if not token(name):
        raise InvalidResponseHeaderName("%r" % name)
    if control(value):
        raise InvalidResponseHeader("%r" % name)
    return name, value.strip(" \t")


class Response:
    def __init__(self, req, sock, cfg):
        self.req, self.sock, self.cfg, self.version = req, sock, cfg, "gunicorn"
        self.status = self.status_code = self.response_length = None
        self.chunked = self.must_close = self.headers_sent = self.upgrade = False
        self.headers, self.sent = [], 0

    def force_close(self):
        self.must_close = True

    def bodiless(self):
        return self.req.method == "HEAD" or self.status_code < 200 or self.status_code in (204, 304)

    def should_close(self):
        return self.must_close or self.req.should_close() or not (
            self.response_length is not None or self.chunked or self.bodiless())

    def start_response(self, status, headers, exc_info=None):
        if exc_info:
            if self.headers_sent:
                raise exc_info[1].with_traceback(exc_info[2])
            self.headers, self.response_length, self.upgrade = [], None, False
        elif self.status is not None:
            raise AssertionError("Response headers already set!")
        if not isinstance(status, str):
            raise TypeError("%r is not a string" % (status,))
        if not status_line(status):
            raise ValueError("Invalid status %r" % status)
        self.status, self.status_code = status, int(status[:3])
        self.process_headers(headers)
        self.chunked = self.is_chunked()
        return self.write

    def process_headers(self, headers):
        for name, value in headers:
            name, value = checked(name, value)
            lower = name.lower()
            if lower == "content-length":
                self.response_length = int(value)
                if self.status_code < 200 or self.status_code == 204:
                    self.response_length = None
                    continue
            elif lower == "connection" and value.lower() == "upgrade":
                self.upgrade = True
            if lower not in HOP_HEADERS or lower == "upgrade" and value.lower() == "websocket":
                self.headers.append((name, value))

    def is_chunked(self):
        return self.response_length is None and self.req.version > (1, 0) and not self.bodiless()

    def default_headers(self):
        from _gunicorn.package import http_date
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        return ["HTTP/%d.%d %s\r\n" % (*self.req.version, self.status), "Server: %s\r\n" % self.version,
                "Date: %s\r\n" % http_date(), "Connection: %s\r\n" % connection,
                *(["Transfer-Encoding: chunked\r\n"] if self.chunked else [])]

    def send_headers(self):
        if not self.headers_sent:
            fields = ["%s: %s\r\n" % pair for pair in self.headers]
            self.sock.sendall(("".join(self.default_headers() + fields) + "\r\n").encode("latin-1"))
            self.headers_sent = True

    def write(self, data):
        self.send_headers()
        if not isinstance(data, bytes):
            raise TypeError("%r is not a byte" % (data,))
        if self.response_length is not None:
            data = data[:max(self.response_length - self.sent, 0)]
        if data and not self.bodiless():
            self.sent += len(data)
            self.sock.sendall(b"%X\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    def write_file(self, respiter):
        for item in respiter:
            self.write(item)

    def close(self):
        self.send_headers()
        if self.chunked:
            self.sock.sendall(b"0\r\n\r\n")


def write_error(sock, status_int, reason, mesg):
    import html
    body = "<html>\n  <head>\n    <title>%s</title>\n  </head>\n  <body>\n    <h1><p>%s</p></h1>\n    %s\n  </body>\n</html>\n" % (
        reason, reason, html.escape(mesg))
    head = "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % (
        status_int, reason, len(body.encode("latin-1", "replace")))
    write_nonblock(sock, (head + body).encode("latin-1", "replace"))


def write(sock, data, chunked=False):
    (write_chunk if chunked else type(sock).sendall)(sock, data)


def write_chunk(sock, data):
    sock.sendall(b"%X\r\n%s\r\n" % (len(data), data))


def write_nonblock(sock, data, chunked=False):
    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        write(sock, data, chunked)
    finally:
        sock.settimeout(timeout)


def close_graceful(sock, timeout=2.0, max_drain=DRAIN_MAX):
    """Closes a socket without a reset that could take the response along: reads until the
    client has closed, up to some limits."""
    try:
        sock.shutdown(SHUT_WR)
        end = time.monotonic() + timeout
        while max_drain > 0 and end > time.monotonic():
            sock.settimeout(max(end - time.monotonic(), 0.001))
            data = sock.recv(4096)
            if not data:
                break
            max_drain -= len(data)
    except OSError:
        pass
    finally:
        sock.close()


# TLS -----------------------------------------------------------------------------

def ssl_context(conf):
    import ssl

    def make():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=conf.ca_certs)
        context.load_cert_chain(certfile=conf.certfile, keyfile=conf.keyfile)
        context.verify_mode = conf.cert_reqs
        if conf.ciphers:
            context.set_ciphers(conf.ciphers)
        return context
    return conf.ssl_context(conf, make)


def ssl_wrap_socket(sock, conf):
    return ssl_context(conf).wrap_socket(sock, server_side=True, suppress_ragged_eofs=conf.suppress_ragged_eofs,
                                         do_handshake_on_connect=conf.do_handshake_on_connect)


def get_negotiated_protocol(ssl_socket):
    return ssl_socket.selected_alpn_protocol() if hasattr(ssl_socket, "selected_alpn_protocol") else None


def is_http2_negotiated(ssl_socket):
    return get_negotiated_protocol(ssl_socket) == "h2"
