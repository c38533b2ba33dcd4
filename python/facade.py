"""Objects that stand for the parts of a server written in Python. Hooks get them
(hooks.py), and so does code that imports gunicorn (package.py)."""

import os
import re
import signal

from _gunicorn import wsgi


# Headers that only the server sets: those of an application are dropped.
HOP_HEADERS = set("connection keep-alive proxy-authenticate proxy-authorization te trailers "
                  "transfer-encoding upgrade server date".split())


FIELDS_MAX = 4 << 20  # characters in a request's headers, far more than a worker accepts from clients


class Config:
    """The object cfg: every setting is an attribute."""

    def __init__(self, settings):
        self.__dict__["settings"] = {name: Setting(name, value) for name, value in settings.items()}
        self.__dict__["changed"] = {}

    def __getattr__(self, name):
        try:
            return self.settings[name].value
        except KeyError:
            raise AttributeError("No configuration setting for: %s" % name)

    def __setattr__(self, name, value):
        if name in self.settings:
            self.set(name, value)
        else:
            self.__dict__[name] = value

    def set(self, name, value):
        name = name.lower()
        if name not in self.settings:
            raise AttributeError("No configuration setting for: %s" % name)
        self.settings[name].value = value
        self.changed[name] = value

    @property
    def address(self):
        return [parse_address(bind) for bind in self.bind]

    @property
    def env(self):
        return dict(pair.split("=", 1) for pair in self.raw_env)

    @property
    def ssl_options(self):
        return {name: self.settings[name].value for name in (
            "keyfile", "certfile", "ssl_version", "cert_reqs", "ca_certs", "suppress_ragged_eofs",
            "do_handshake_on_connect", "ciphers") if name in self.settings}

    env_orig = property(lambda self: dict(os.environ))
    is_ssl = property(lambda self: bool(self.certfile or self.keyfile))
    sendfile = property(lambda self: self.settings["sendfile"].value is not False)
    uid = property(lambda self: self.user)
    gid = property(lambda self: self.group)

    @property
    def worker_class_str(self):
        uri = self.settings["worker_class"].value
        if isinstance(uri, type):
            return "%s.%s" % (uri.__module__, uri.__qualname__)
        return "gthread" if self.threads > 1 and (uri == "sync" or uri.endswith("SyncWorker")) else uri

    @property
    def logger_class(self):
        from _gunicorn.package import load_class
        uri = self.settings["logger_class"].value
        return load_class("gunicorn.glogging.Logger" if uri in (None, "simple") else uri)

    @property
    def proc_name(self):
        return self.settings["proc_name"].value or self.default_proc_name


class Setting:
    """A value of cfg.settings."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def get(self):
        return self.value

    def set(self, value):
        self.value = value


def parse_address(bind, default_port="8000"):
    """A bind address in the form of cfg.address and server.address."""
    if bind.startswith("unix:"):
        path = bind[5:]
        return path[2:] if path.startswith("//") else path
    if bind.startswith("fd://"):
        return int(bind[5:])
    host, _, port = bind.replace("tcp://", "", 1).rpartition(":")
    if not port.isdigit():
        host, port = bind, default_port
    return (host.strip("[]").lower() or "0.0.0.0", int(port))


# Numbers of parameters that hooks may take, if not one.
PARAMETERS = {"post_request": (2, 3, 4), "nworkers_changed": (3,), **dict.fromkeys(
    ("pre_fork", "post_fork", "pre_request", "child_exit", "worker_exit", "ssl_context"), (2,))}

HOOKS = ("on_starting", "on_reload", "when_ready", "pre_fork", "post_fork", "post_worker_init", "worker_int", "worker_abort",
         "pre_exec", "pre_request", "post_request", "child_exit", "worker_exit", "nworkers_changed", "on_exit")


def validate_callable(*wanted):
    """Makes a function that returns the function a setting gives, as such or as its dotted
    name. The function must take one of the wanted numbers of parameters, -1 for any."""
    def find(value):
        if isinstance(value, str):
            import importlib
            module, _, name = value.rpartition(".")
            if not module:
                raise TypeError("Value '%s' is not import string. Format: module[.submodules...].object" % value)
            try:
                value = getattr(importlib.import_module(module), name)
            except ImportError as e:
                raise TypeError("%s" % e)
            except AttributeError:
                raise TypeError("Can not load '%s' from '%s'" % (name, module))
        if not callable(value):
            raise TypeError("Value is not callable: %s" % (value,))
        if wanted != (-1,) and wsgi.positional_params(value) not in wanted:
            raise TypeError("Value must have an arity of: %d" % wanted[-1])
        return value
    return find


class Worker:
    """A worker as hooks see it, and the base of the worker classes in package.py, which
    programs may name and derive from."""

    SIGNALS = [getattr(signal, "SIG" + name) for name in "ABRT HUP QUIT INT TERM USR1 USR2 WINCH CHLD".split()]
    pid, nr, alive, booted, aborted = "[booting]", 0, True, False, False

    def __init__(self, age, ppid, sockets, app, timeout, cfg, log):
        self.age, self.ppid, self.sockets, self.app = age, ppid, sockets, app
        self.timeout, self.cfg, self.log = timeout, cfg, log

    def __str__(self):
        return "<Worker %s>" % self.pid

    def notify(self):
        pass


def key_of(name):
    """The key of a header in an environ."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


class Request:
    """The object req: a request as pre_request, post_request and access logs see it.
    Fields with the same name are joined into one."""

    def __init__(self, environ):
        self.method, self.uri = environ.get("REQUEST_METHOD"), environ.get("RAW_URI") or ""
        path, _, self.fragment = self.uri.partition("#")
        self.path = path.partition("?")[0]
        self.query = environ.get("QUERY_STRING")
        self.version = tuple(map(int, re.findall("[0-9]+", environ.get("SERVER_PROTOCOL") or "")))
        self.scheme = environ.get("wsgi.url_scheme")
        self.headers = [(name[5:].replace("_", "-"), value) for name, value in environ.items()
                        if name.startswith("HTTP_")]
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if name in environ:
                self.headers.append((name.replace("_", "-"), environ[name]))
        # The list of trailers is filled when the body has been read.
        self.trailers, self.body = environ.get("gunicorn.trailers", []), environ.get("wsgi.input")
        peer = environ.get("REMOTE_ADDR", "")
        self.peer_addr = self.remote_addr = (peer, int(environ["REMOTE_PORT"])) if "REMOTE_PORT" in environ else peer
        self.req_number, self.must_close = environ.pop("gunicorn.req_number", 1), False
        self.proxy_protocol_info = None
        if "PROXY_PORT" in environ:
            self.proxy_protocol_info = {
                "proxy_protocol": environ["PROXY_PROTOCOL"],
                "client_addr": peer, "client_port": int(environ["REMOTE_PORT"]),
                "proxy_addr": environ["PROXY_ADDR"], "proxy_port": int(environ["PROXY_PORT"])}

    def should_close(self):
        return self.must_close

    def force_close(self):
        self.must_close = True

    def facts(self):
        """The values from which an environ is made."""
        return (self.method, self.uri, self.path, self.query, self.version, self.scheme, list(self.headers), self.body,
                self.proxy_protocol_info and dict(self.proxy_protocol_info))

    def apply(self, environ, before):
        """Updates environ if pre_request has changed the request. before has the facts from
        before the hook. The result says whether anything has changed."""
        facts = self.facts()
        if facts == before:
            return False
        for name, _ in before[6]:
            environ.pop(key_of(name), None)
        prefix, joined = environ.get("SCRIPT_NAME", ""), {}
        for name, value in self.headers:
            joined.setdefault(key_of(name), []).append(value)
            if name.upper() == "SCRIPT_NAME":
                prefix = value
        fields = {key: ",".join(values) for key, values in joined.items()}
        if sum(map(len, fields.values())) > FIELDS_MAX:
            raise ValueError("pre_request has left more than 4 MB of headers")
        environ.update(fields)
        environ.update({
            "REQUEST_METHOD": self.method, "RAW_URI": self.uri, "QUERY_STRING": self.query, "wsgi.input": self.body,
            "SERVER_PROTOCOL": "HTTP/" + ".".join(map(str, self.version)), "wsgi.url_scheme": self.scheme})
        if self.path != before[2] or prefix != environ.get("SCRIPT_NAME", ""):
            if not self.path.startswith(prefix):
                raise ValueError("Request path %r does not start with SCRIPT_NAME %r" % (self.path, prefix))
            environ.update(SCRIPT_NAME=prefix, PATH_INFO=unquoted(self.path[len(prefix):]).decode("latin-1"))
        info = self.proxy_protocol_info
        if info:
            environ.update(PROXY_PROTOCOL=info["proxy_protocol"], REMOTE_ADDR=info["client_addr"],
                           REMOTE_PORT=str(info["client_port"]), PROXY_ADDR=info["proxy_addr"],
                           PROXY_PORT=str(info["proxy_port"]))
        return True


def unquoted(path):
    from urllib.parse import unquote_to_bytes
    return unquote_to_bytes(path.encode("latin-1"))


class Response:
    """The object resp: a response as post_request and access logs see it."""

    def __init__(self, req, status, headers, sent, begun=True):
        self.req, self.status, self.headers = req, status, headers
        self.status_code = int(status[:3]) if status and status[:3].isdigit() else None
        self.sent, self.headers_sent = sent, begun
        self.response_length, self.must_close = None, req.must_close
        for name, value in headers:
            if name.lower() == "content-length" and value.isdigit():
                self.response_length = int(value)
        self.chunked = (self.response_length is None and req.version > (1, 0) and req.method != "HEAD"
                        and (self.status_code or 0) >= 200 and self.status_code not in (204, 304))

    def should_close(self):
        return self.must_close

    def force_close(self):
        self.must_close = True
