"""Gunicorn's Logger, and the logs that are made in Python. This file is loaded if
logger_class or logconfig configures the logs, or if somebody wants the class."""

import logging
import marshal
import os
import re
import sys
import time
import types

from _gunicorn import facade, logs, wsgi
from _gunicorn.facade import parse_address

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


SYSLOG_FACILITIES = {"security": 4, **{name: number for number, name in enumerate(
    "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp".split())},
    **{"local%d" % number: 16 + number for number in range(8)}}


def loggers():
    """All loggers but the root logger."""
    return [logging.getLogger(name) for name in logging.root.manager.loggerDict]


def parse_syslog_address(address):
    """The kind of socket, None for either, and the address of a syslog daemon."""
    import socket
    kind, _, place = address.partition("://")
    if kind == "unix":
        path, _, way = place.partition("#")
        return {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}.get(way), path
    if kind not in ("udp", "tcp"):
        raise RuntimeError("invalid syslog address")
    host, port = parse_address(place, "514")
    return socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM, (host, port)


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
    return logs.printable(text, '"\\')


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
        handler = logs.handler_for(output, stream or sys.stderr, fmt)
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
            "p": "<%s>" % record_pid(), "I": environ.get(logs.id_key(), "-") if logs.id_header else "-",
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
            logs.free()
            self.exception("access log")

    def reopen_files(self):
        logs.reopen_logs(None, None)

    def close_on_exec(self):
        pass  # no descriptor of Python is inherited


METRIC_VAR, VALUE_VAR, MTYPE_VAR = "metric", "value", "mtype"
GAUGE_TYPE, COUNTER_TYPE, HISTOGRAM_TYPE, TIMER_TYPE = "gauge", "counter", "histogram", "timer"


def logger_over(cfg):
    """A Logger whose logging loggers have been set up by others."""
    log = Logger.__new__(Logger)
    log.error_log, log.access_log = (logging.getLogger(name) for name in ("gunicorn.error", "gunicorn.access"))
    log.cfg, log.loglevel, log.logfile = cfg, log.error_log.level, None
    return log


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


# Logs made in Python ---------------------------------------------------------

OWN = ("gunicorn.glogging.Logger", "gunicorn.instrument.statsd.Statsd", "simple", "")

speaker = 0  # pid to show in records; 0 for the pid of this process's worker


def record_pid():
    return speaker or wsgi.owner or os.getppid()


def open_log(settings):
    """The log of this process, made by logger_class and logconfig of the settings."""
    from _gunicorn.package import Config, load_class
    global speaker
    logs.set_id_header(settings)
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
    for handler in logs.file_handlers():
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


def keep_log(settings, records, answer, parent):
    """The life of the process that makes the logs of the arbiter and of all workers
    (log.go). It ends when all of them have closed their ends of the socket."""
    global speaker
    import signal
    from datetime import timedelta
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP,
                   signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # the last records of the server have to be written
    speaker = parent
    try:
        log = open_log(settings)
        files = []
        if settings["credential"]:
            files = give_files(settings["credential"][:2])
            become(settings["credential"])
        facts = {"files": files, "level": getattr(log.error_log, "getEffectiveLevel", lambda: log.loglevel)(),
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
            elif type(rest[0]) is str:
                log.access_log.info("%s", rest[0])
            else:
                environ, status, headers, sent, micros = rest[0]
                req = facade.Request(environ)
                log.access(facade.Response(req, status, headers, sent), req, environ, timedelta(microseconds=micros))
        except Exception:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
