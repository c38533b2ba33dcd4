"""The gunicorn package for Python code that imports it, and the logs that are made in
Python.

Configuration files, loggers and worker classes import names from gunicorn. If the real
package is not installed, they get the names defined here. Classes that only a server
written in Python could run can be derived from and named, but not run. This file is
not loaded until somebody imports gunicorn, or logger_class or logconfig configures the
logs.

MODULES has the modules made here, by name.
"""

import errno
import io
import logging
import marshal
import os
import re
import sys
import time
import types

from _gunicorn import call, facade, wsgi
from _gunicorn.facade import HOP_HEADERS, Request, Response

MODULES = {}


def refuse(what, instead):
    raise RuntimeError("%s cannot be used in this server; %s." % (what, instead))


# gunicorn.errors, gunicorn.http.errors --------------------------------------

class HaltServer(BaseException):
    def __init__(self, reason, exit_status=1):
        super().__init__(reason, exit_status)
        self.reason, self.exit_status = reason, exit_status

    def __str__(self):
        return "<HaltServer %r %d>" % (self.reason, self.exit_status)


class ConfigError(Exception):
    """A setting has a wrong value."""


class ParseException(Exception):
    """A request is malformed."""


def request_error(name, field, text, base=ParseException, code=None):
    """Makes an exception class; the classes of this family differ little but in their
    text."""
    def __init__(self, value=None, more=None):
        base.__init__(self, value)
        setattr(self, field, value)
        if code:
            self.code = code

    def __str__(self):
        return text % (getattr(self, field),) if "%" in text else text
    return type(name, (base,), {"__init__": __init__, "__str__": __str__})


REQUEST_ERRORS = [request_error(*row) for row in (
    ("NoMoreData", "buf", "No more data after: %r", OSError),
    ("ConfigurationProblem", "info", "Configuration problem: %s", ParseException, 500),
    ("InvalidRequestLine", "req", "Invalid HTTP request line: %r", ParseException, 400),
    ("InvalidRequestMethod", "method", "Invalid HTTP method: %r"),
    ("ExpectationFailed", "expect", "Unable to comply with expectation: %r"),
    ("InvalidHTTPVersion", "version", "Invalid HTTP Version: %r"),
    ("InvalidHeader", "hdr", "Invalid HTTP Header: %r"),
    ("ObsoleteFolding", "hdr", "Obsolete line folding is unacceptable: %r"),
    ("InvalidHeaderName", "hdr", "Invalid HTTP header name: %r"),
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
)]


# gunicorn.config -------------------------------------------------------------

KNOWN_SETTINGS = []


class Setting(facade.Setting):
    """A setting. Defining a subclass makes the setting known."""

    name = value = section = cli = validator = type = meta = action = default = short = desc = None
    nargs = const = None
    order = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        KNOWN_SETTINGS.append(cls)

    def __init__(self):
        self.value = self.default

    def set(self, value):
        self.value = self.validator(value) if callable(self.validator) else value


def make_settings(ignore=None):
    return {cls.name: cls() for cls in KNOWN_SETTINGS if cls.name not in (ignore or ())}


class Config(facade.Config):
    """The object cfg, with this server's settings if given, and with known settings."""

    def __init__(self, usage=None, prog=None, settings=None):
        super().__init__(settings or {})
        self.settings.update(make_settings())
        self.__dict__.update(usage=usage, prog=prog)


# gunicorn.util ---------------------------------------------------------------

def load_class(uri, default="gunicorn.workers.sync.SyncWorker", section="gunicorn.workers"):
    """The class that is given as a class, a dotted name or an entry point."""
    import importlib
    import inspect
    import traceback
    if inspect.isclass(uri):
        return uri
    try:
        if uri.startswith("egg:"):
            from importlib import metadata
            distribution, _, name = uri[4:].partition("#")
            for entry in metadata.distribution(distribution).entry_points:
                if entry.group == section and entry.name == (name or default):
                    return entry.load()
            raise ImportError("Entry point %r not found" % ((section, name),))
        module, _, name = uri.rpartition(".")
        module = importlib.import_module(module or uri)
    except Exception:
        raise RuntimeError("class uri %r invalid or not found: \n\n[%s]" % (uri, traceback.format_exc()))
    return getattr(module, name)


def is_ipv6(text):
    import socket
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return False
    return True


def parse_bind(bind, default_port="8000"):
    return facade.parse_address(bind)


def close(thing):
    try:
        thing.close()
    except OSError:
        pass


def close_on_exec(fd):
    os.set_inheritable(fd, False)


def set_non_blocking(fd):
    os.set_blocking(fd, False)


def unlink(path):
    try:
        os.unlink(path)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise


def http_date(timestamp=None):
    from email.utils import formatdate
    return formatdate(timestamp, localtime=False, usegmt=True)


def to_bytestring(value, encoding="utf8"):
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError("%r is not a string" % (value,))
    return value.encode(encoding)


def get_arity(function):
    return wsgi.positional_params(function)


def has_fileno(thing):
    try:
        thing.fileno()
    except (AttributeError, OSError):
        return False
    return True


def check_is_writable(path):
    try:
        open(path, "a").close()
    except OSError as e:
        raise RuntimeError("Error: '%s' isn't writable [%r]" % (path, e))


def warn(text):
    print("!!!\n!!! WARNING: %s\n!!!\n" % text, file=sys.stderr, flush=True)


# gunicorn.glogging -----------------------------------------------------------

CONFIG_DEFAULTS = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["error_console"], "propagate": True,
                           "qualname": "gunicorn.error"},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": True,
                            "qualname": "gunicorn.access"},
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stdout"},
        "error_console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stderr"},
    },
    "formatters": {
        "generic": {"format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
                    "datefmt": "[%Y-%m-%d %H:%M:%S %z]", "class": "logging.Formatter"},
    },
}


def configure(cfg):
    """Configures logging by logconfig_dict, or else logconfig_json, or else logconfig."""
    if not (cfg.logconfig_dict or cfg.logconfig_json or cfg.logconfig):
        return
    from logging.config import dictConfig, fileConfig
    try:
        if cfg.logconfig_dict:
            dictConfig({**CONFIG_DEFAULTS, **cfg.logconfig_dict})
        elif cfg.logconfig_json:
            import json
            if os.path.exists(cfg.logconfig_json):
                with open(cfg.logconfig_json) as f:
                    dictConfig({**CONFIG_DEFAULTS, **json.load(f)})
        elif not os.path.exists(cfg.logconfig):
            raise RuntimeError("Error: log config '%s' not found" % cfg.logconfig)
        else:
            fileConfig(cfg.logconfig, disable_existing_loggers=False,
                       defaults={"__file__": cfg.logconfig, "here": os.path.dirname(cfg.logconfig)})
    except RuntimeError:
        raise
    except Exception as e:
        raise RuntimeError("%s" % e or repr(e)) from e


class SafeAtoms(dict):
    """Atoms by name for the % operator. An unknown atom is a hyphen. Text from a client
    is escaped, so that it ends neither the line nor a quoted string."""

    def __init__(self, atoms):
        super().__init__((name, safe(value) if isinstance(value, str) else value) for name, value in atoms.items())
        self.atoms = atoms

    def __getitem__(self, name):
        if name.startswith("{"):
            name = name.lower()
        if name in self:
            return super().__getitem__(name)
        value = self.atoms.get(name, "-")
        return safe(value) if isinstance(value, str) else value


class Atoms(dict):
    """Atoms by name. Atoms in braces are looked up on use, as there are many and a line
    has few."""

    def __init__(self, atoms, fields):
        super().__init__(atoms)
        self.fields = fields  # lists of (name, value), by the letter after the braces

    def __missing__(self, name):
        if name[:1] == "{" and name[-2:-1] == "}":
            found = [value for key, value in self.fields.get(name[-1], ()) if key.lower() == name[1:-2]]
            if found:
                self[name] = found[-1]
                return found[-1]
        raise KeyError(name)

    def get(self, name, default=None):
        try:
            return self[name]
        except KeyError:
            return default


def safe(text):
    return wsgi.printable(text, '"\\')


class Logger:
    """The log of a server or a worker. The setting logger_class may name a subclass."""

    LOG_LEVELS = {"critical": logging.CRITICAL, "error": logging.ERROR, "warning": logging.WARNING,
                  "info": logging.INFO, "debug": logging.DEBUG}
    loglevel = logging.INFO
    error_fmt = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
    datefmt = "[%Y-%m-%d %H:%M:%S %z]"
    access_fmt = "%(message)s"
    syslog_fmt = "[%(process)d] %(message)s"
    atoms_wrapper_class = SafeAtoms

    def __init__(self, cfg):
        import threading
        self.error_log, self.access_log = (logging.getLogger(name) for name in ("gunicorn.error", "gunicorn.access"))
        self.error_log.propagate = self.access_log.propagate = False
        self.error_handlers, self.access_handlers = [], []
        self.logfile, self.lock, self.cfg = None, threading.Lock(), cfg
        self.setup(cfg)

    def setup(self, cfg):
        self.cfg = cfg
        self.loglevel = self.LOG_LEVELS.get((cfg.loglevel or "").lower(), logging.INFO)
        self.error_log.setLevel(self.loglevel)
        self.access_log.setLevel(logging.INFO)
        self._set_handler(self.error_log, cfg.errorlog or "-", logging.Formatter(self.error_fmt, self.datefmt))
        if cfg.accesslog:
            self._set_handler(self.access_log, cfg.accesslog, logging.Formatter(self.access_fmt), sys.stdout)
        configure(cfg)

    def _get_gunicorn_handler(self, log):
        for handler in log.handlers:
            if getattr(handler, "_gunicorn", False):
                return handler

    def _set_handler(self, log, output, fmt, stream=None):
        old = self._get_gunicorn_handler(log)
        if old:
            log.removeHandler(old)
        if output is None:
            return
        handler = wsgi.handler_for(output, stream or sys.stderr, fmt)
        handler._gunicorn = True
        log.addHandler(handler)

    def critical(self, msg, *args, **kwargs):
        self.error_log.critical(msg, *args, **kwargs)

    def error(self, msg, *args, **kwargs):
        self.error_log.error(msg, *args, **kwargs)

    def warning(self, msg, *args, **kwargs):
        self.error_log.warning(msg, *args, **kwargs)

    def info(self, msg, *args, **kwargs):
        self.error_log.info(msg, *args, **kwargs)

    def debug(self, msg, *args, **kwargs):
        self.error_log.debug(msg, *args, **kwargs)

    def exception(self, msg, *args, **kwargs):
        self.error_log.exception(msg, *args, **kwargs)

    def log(self, lvl, msg, *args, **kwargs):
        if isinstance(lvl, str):
            lvl = self.LOG_LEVELS.get(lvl.lower(), logging.INFO)
        self.error_log.log(lvl, msg, *args, **kwargs)

    def now(self):
        return time.strftime("[%d/%b/%Y:%H:%M:%S %z]")

    def atoms(self, resp, req, environ, request_time):
        """The atoms that access_log_format may use, by name."""
        micros = request_time.seconds * 1000000 + request_time.microseconds
        status = resp.status
        atoms = {
            "h": environ.get("REMOTE_ADDR", "-"), "l": "-", "u": self._get_user(environ) or "-", "t": self.now(),
            "r": "%s %s %s" % (environ.get("REQUEST_METHOD"), environ.get("RAW_URI"), environ.get("SERVER_PROTOCOL")),
            "s": status.split(None, 1)[0] if isinstance(status, str) and status else status,
            "m": environ.get("REQUEST_METHOD"), "U": environ.get("PATH_INFO"),
            "q": environ.get("QUERY_STRING"), "H": environ.get("SERVER_PROTOCOL"),
            "b": "-" if resp.sent is None else str(resp.sent), "B": resp.sent,
            "f": environ.get("HTTP_REFERER", "-"), "a": environ.get("HTTP_USER_AGENT", "-"),
            "T": request_time.seconds, "M": micros // 1000, "D": micros,
            "L": "%d.%06d" % (request_time.seconds, request_time.microseconds),
            "p": "<%s>" % record_pid(),
        }
        fields = {"i": getattr(req, "headers", req), "o": resp.headers, "e": environ}
        return Atoms(atoms, {kind: list(pairs.items()) if hasattr(pairs, "items") else pairs
                             for kind, pairs in fields.items()})

    def _get_user(self, environ):
        scheme, _, text = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "basic":
            import base64
            try:
                return base64.b64decode(text.strip().encode()).split(b":", 1)[0].decode()
            except ValueError as e:
                self.debug("Couldn't get username: %s", e)
        return None

    @property
    def access_log_enabled(self):
        cfg = self.cfg
        return bool(cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json
                    or cfg.syslog and not cfg.disable_redirect_access_to_syslog)

    def access(self, resp, req, environ, request_time):
        if not self.access_log_enabled:
            return
        atoms = self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
        try:
            self.access_log.info(self.cfg.access_log_format, atoms)
        except Exception:
            self.exception("access log")

    def reopen_files(self):
        wsgi.reopen_logs(None, None)

    def close_on_exec(self):
        pass  # no descriptor of Python is inherited


class Statsd(Logger):
    """A Logger with methods for code that sends metrics of its own. The server itself
    sends the metrics of requests."""

    def __init__(self, cfg):
        import socket
        super().__init__(cfg)
        self.prefix = re.sub(r"^(.+[^.]+)\.*$", r"\1.", cfg.statsd_prefix or "")
        self.dogstatsd_tags = cfg.dogstatsd_tags
        self.sock, target = None, cfg.statsd_host
        try:
            if not target:
                return
            if target.startswith("unix:"):
                family, to = socket.AF_UNIX, target[5:].replace("//", "", 1)
            else:
                host, _, port = target.rpartition(":")
                family, to = socket.AF_INET, (host or target, int(port) if host else 8125)
            self.sock = socket.socket(family, socket.SOCK_DGRAM)
            self.sock.setblocking(False)
            self.sock.connect(to)
        except (OSError, ValueError):
            self.sock = None

    def gauge(self, name, value):
        self._metric(name, "%s|g", value)

    def increment(self, name, value, sampling_rate=1.0):
        self._metric(name, "%s|c|@%s", value, sampling_rate)

    def decrement(self, name, value, sampling_rate=1.0):
        self._metric(name, "-%s|c|@%s", value, sampling_rate)

    def timer(self, name, value):
        self._metric(name, "%s|ms", value)

    def histogram(self, name, value):
        self._metric(name, "%s|h", value)

    def _metric(self, name, text, *values):
        if self.sock is None:
            return
        text = self.prefix + name + ":" + text % values
        if self.dogstatsd_tags:
            text += "|#" + self.dogstatsd_tags
        try:
            self.sock.send(text.encode("utf-8", "replace"))
        except OSError:
            pass  # nobody listens for metrics


# The classes below stand for parts of a server written in Python -------------

class Arbiter:
    def __init__(self, app=None):
        self.app = app

    def run(self):
        refuse("gunicorn.arbiter.Arbiter", "start gunicorn MODULE:OBJECT")


class BaseApplication:
    def __init__(self, usage=None, prog=None):
        self.usage, self.prog, self.cfg, self.callable, self.logger = usage, prog, None, None, None
        self.do_load_config()

    def do_load_config(self):
        self.load_default_config()
        self.load_config()

    def load_default_config(self):
        self.cfg = Config(self.usage, prog=self.prog)

    def load_config(self):
        raise NotImplementedError

    def load(self):
        raise NotImplementedError

    def init(self, parser, opts, args):
        raise NotImplementedError

    def wsgi(self):
        if self.callable is None:
            self.callable = self.load()
        return self.callable

    def run(self):
        refuse("run() of %s" % type(self).__name__, "start gunicorn MODULE:OBJECT")


class Application(BaseApplication):
    def load_config(self):
        pass


class WSGIApplication(Application):
    app_uri = None

    def load_wsgiapp(self):
        return MODULES["gunicorn.util"].import_app(self.app_uri)

    def load(self):
        return self.load_wsgiapp()


def run(prog=None):
    refuse("gunicorn.app.wsgiapp.run", "start gunicorn MODULE:OBJECT")


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


class NoResponse:
    def __init__(self, *args):
        refuse("gunicorn.http.wsgi.Response", "use start_response")


class Worker(facade.Worker):
    def run(self, *args):
        refuse("run() of %s" % type(self).__name__, "workers are not made in Python")

    init_process = init_signals = handle = handle_request = load_wsgi = run


def stands_for(name, *bases):
    return type(name, bases or (Worker,), {})


SyncWorker = stands_for("SyncWorker")
GeventWorker = stands_for("GeventWorker")


# Modules ---------------------------------------------------------------------

def make(name, **members):
    module = sys.modules.get(name)
    if getattr(module, "__file__", None) != wsgi.NO_FILE:
        module = types.ModuleType(name)
        module.__file__ = wsgi.NO_FILE
    for member, value in members.items():
        module.__dict__.setdefault(member, value)
    for member in members.values():
        if getattr(member, "__module__", None) == __name__:
            member.__module__ = name
    MODULES[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        MODULES[parent].__dict__.setdefault("__path__", [])
        setattr(MODULES[parent], last, module)


make("gunicorn")
make("gunicorn.errors", HaltServer=HaltServer, ConfigError=ConfigError, AppImportError=wsgi.AppImportError)
make("gunicorn.util", import_app=wsgi.load_app, load_class=load_class, parse_address=parse_bind,
     is_ipv6=is_ipv6, close=close, close_on_exec=close_on_exec, set_non_blocking=set_non_blocking,
     unlink=unlink, chown=os.chown, getcwd=os.getcwd, http_date=http_date, to_bytestring=to_bytestring,
     get_arity=get_arity, has_fileno=has_fileno, check_is_writable=check_is_writable, warn=warn,
     hop_headers=HOP_HEADERS)
make("gunicorn.config", Config=Config, Setting=Setting, make_settings=make_settings, KNOWN_SETTINGS=KNOWN_SETTINGS)
make("gunicorn.instrument")
make("gunicorn.instrument.statsd", Statsd=Statsd)
make("gunicorn.arbiter", Arbiter=Arbiter)
make("gunicorn.app")
make("gunicorn.app.base", BaseApplication=BaseApplication, Application=Application)
make("gunicorn.app.wsgiapp", WSGIApplication=WSGIApplication, run=run)
make("gunicorn.http")
make("gunicorn.http.errors", ParseException=ParseException, **{e.__name__: e for e in REQUEST_ERRORS})
make("gunicorn.http.body", Body=Body)
make("gunicorn.http.wsgi", Response=NoResponse, FileWrapper=call.FileWrapper)
make("gunicorn.workers")
make("gunicorn.workers.base", Worker=Worker)
make("gunicorn.workers.sync", SyncWorker=SyncWorker)
make("gunicorn.workers.gthread", ThreadWorker=stands_for("ThreadWorker"))
make("gunicorn.workers.ggevent", GeventWorker=GeventWorker,
     GeventPyWSGIWorker=stands_for("GeventPyWSGIWorker", GeventWorker),
     PyWSGIHandler=stands_for("PyWSGIHandler", object), PyWSGIServer=stands_for("PyWSGIServer", object))
make("gunicorn.workers.geventlet", EventletWorker=stands_for("EventletWorker"))


# Logs made in Python ---------------------------------------------------------

OWN = ("gunicorn.glogging.Logger", "gunicorn.instrument.statsd.Statsd", "simple", "")

speaker = 0  # pid to show in records; 0 for the pid of this process's worker


def record_pid():
    return speaker or wsgi.owner or os.getppid()


def open_log(settings):
    """The log of this process, made by logger_class and logconfig of the settings."""
    global speaker
    config = wsgi.finder.settings = dict(settings)
    name, loggers = config["logger_class"], config["logconfig_dict"]
    if name is None or loggers is None or settings["said"].get("loggers"):
        module = wsgi.config_module(settings)
        loggers = module.logconfig_dict if loggers is None else loggers
        if name is None:
            name = getattr(module, "logger_class", None) or OWN[0]
            if isinstance(name, types.FunctionType):
                name = name()
    config["logconfig_dict"] = marshal.loads(loggers) if isinstance(loggers, bytes) else loggers
    cfg = Config(settings=config)
    # Records name the worker's process, which operators know, and not its Python.
    make_record, here = logging.getLogRecordFactory(), os.getpid()

    def name_worker(*args, **kwargs):
        record = make_record(*args, **kwargs)
        if os.getpid() == here or wsgi.owner:
            record.process = record_pid()
        return record
    if name in OWN:
        log = (Statsd if name == OWN[1] else Logger)(cfg)
    else:
        log = load_class(name, "gunicorn.glogging.Logger", "gunicorn.loggers")(cfg)
    logging.setLogRecordFactory(name_worker)
    return log


def give_files(owner):
    """Gives the log files to the user that workers switch to, as workers open the same
    files. Returns the files' names."""
    import stat
    names = set()
    for handler in wsgi.file_handlers():
        if not handler.stream:  # a delayed open could come when the right to open the file is gone
            handler.stream = handler._open()
        facts = os.fstat(handler.stream.fileno())
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
            os.fchown(handler.stream.fileno(), *owner)
            names.add(handler.baseFilename)
    return sorted(names)


def become(credential):
    """Changes to the workers' user, as the records that this process reads come from
    clients and from applications."""
    import threading
    import time
    user, group, groups = credential
    parent = os.getppid()
    os.setgroups(groups)
    os.setgid(group)
    os.setuid(user)

    def watch():  # a change of user clears PR_SET_PDEATHSIG, so watch the parent
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def keep_log(settings, records, answer):
    """The life of the process that makes the logs of the arbiter and of all workers
    (log.go). It ends when all of them have closed their ends of the socket."""
    global speaker
    import signal
    from datetime import timedelta
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP,
                   signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # the last records of the server have to be written
    speaker = os.getppid()
    try:
        log = open_log(settings)
        files = []
        if settings["credential"]:
            files = give_files(settings["credential"][:2])
            become(settings["credential"])
        facts = {"files": files, "level": log.error_log.getEffectiveLevel(),
                 "access": bool(log.access_log_enabled) if type(log).access is Logger.access else True}
    except Exception as e:
        if not isinstance(e, RuntimeError):
            import traceback
            traceback.print_exc()
        facts = {"error": "%s" % e or repr(e)}
    try:
        os.write(answer, marshal.dumps(facts, 2))
        os.close(answer)
    except OSError:
        pass
    if "error" in facts:
        sys.exit(1)
    methods = {10: log.debug, 20: log.info, 30: log.warning, 40: log.error, 50: log.critical}
    while True:
        message = records.recv(1 << 20)
        if not message:
            return
        try:
            level, speaker, *rest = marshal.loads(message)
            if level < 0:
                log.reopen_files()
            elif level:
                methods[level](rest[0])
            elif len(rest) == 1:
                log.access_log.info("%s", rest[0])
            else:
                environ, status, headers, sent, micros = rest
                req = Request(environ)
                log.access(Response(req, status, headers, sent), req, environ, timedelta(microseconds=micros))
        except Exception:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()


make("gunicorn.glogging", Logger=Logger, CONFIG_DEFAULTS=CONFIG_DEFAULTS, SafeAtoms=SafeAtoms,
     open_log=open_log, keep_log=keep_log)
