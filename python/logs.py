"""The logs of a Python process: loggers and handlers for gunicorn.error and gunicorn.access,
records that the worker passes on, text that is fit for a log."""

import logging
import os
import stat
import sys

from _gunicorn import wsgi
from _gunicorn.wsgi import ACCESSLOG, ERRORLOG, SOCK_SEQPACKET, end_of

RELAY_MAX = 60 << 10  # bytes of the longest message to the worker through the queue


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


id_header = None  # the setting request_id_header, in lower case


def set_id_header(settings):
    global id_header
    id_header = (settings["request_id_header"] or "").lower() or None


def id_key():
    """The id's key in environs, None if requests have no ids."""
    return id_header and "HTTP_" + id_header.upper().replace("-", "_")


def tag(environ):
    """The id of a request, for the log, as the worker writes it."""
    text = environ.get(id_key()) if id_header else None
    return " id=" + printable(text) if type(text) is str else ""


def tag_of(scope):
    """The id of an ASGI request, for the log, as the worker writes it."""
    for name, value in scope["headers"]:
        if name.decode("latin-1") == id_header:
            return " id=" + value.decode("latin-1")
    return ""


def asked(environ):
    """Names a request for the log in the worker's style: GET /path. The application may
    have put anything into its environ, and an error in here would hide the first error."""
    named = [environ.get(key) for key in ("REQUEST_METHOD", "RAW_URI")]
    return " ".join(printable(text) if type(text) is str else "?" for text in named) + tag(environ)


class Formatter(logging.Formatter):
    """Formats Gunicorn's log lines. The pid is the worker's, which operators see in all
    other lines, and which they signal."""

    def format(self, record):
        record.worker = wsgi.owner or os.getppid()
        return super().format(record)


logger = None  # an instance of logger_class, if the logs are made in Python
untouched = []  # the attributes of the loggers of the access log, as they are and as they were before the application came
handlers = []  # the handlers of these loggers, and facts_of each before the application came
captured = False  # standard output and standard error go to the error log


def set_up_logging(settings):
    """Gives handlers to the loggers gunicorn.error and gunicorn.access, which applications
    look up by name, and returns the former."""
    global captured, logger
    captured = settings["capture_output"] and settings["errorlog"] != "-"
    if settings["logs"]:
        from _gunicorn.glogging import open_log
        logger = open_log(settings)
    else:
        add_handlers(settings)
    error, access = logging.getLogger("gunicorn.error"), logging.getLogger("gunicorn.access")
    add_relays(settings, error, access)
    capture()
    loggers = [access]
    if settings["family"] == "asgi":
        loggers.append(add_uvicorn(error, access))
    untouched[:] = [(vars(log), dict(vars(log), handlers=log.handlers[:], filters=log.filters[:])) for log in loggers]
    handlers[:] = [(handler, facts_of(handler)) for log in loggers for handler in log.handlers]
    return error


def facts_of(handler):
    return handler.filters[:], handler.level, handler.formatter


def add_uvicorn(error, access):
    """Gives handlers to uvicorn's loggers, to which applications log, as under its worker
    class."""
    for name, own in (("uvicorn.error", error), ("uvicorn", error), ("uvicorn.access", access)):
        log = logging.getLogger(name)
        if not log.handlers:
            log.handlers, log.propagate = list(own.handlers), False
        log.setLevel(own.level)
    return log


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
    set_id_header(settings)
    if outbox is None and (settings["syslog"] or settings["statsd_host"]):
        # Children of the application keep the copy when they close the queue.
        outbox = end_of(SOCK_SEQPACKET, os.dup(wsgi.QUEUE))


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


def open_access(settings):
    """The access log, as far as this process makes it."""
    if any((untouched[1:], *(settings[name] for name in ("accesslog", "logs", "syslog")))):
        from _gunicorn import access
        return access.of(settings)


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


def free():
    """Releases the locks of logging that this thread holds. A lock stays held if an exception
    of a signal handler or of another thread comes while the lock is being taken or released,
    and all other threads would wait for that lock. Only a thread that logs nothing may call
    this."""
    for lock in [logging._lock, *(getattr(ref(), "lock", None) for ref in logging._handlerList)]:
        while lock and lock._is_owned():
            lock.release()


def file_handlers():
    """The file handlers of all loggers."""
    loggers = [logging.getLogger()] + list(logging.root.manager.loggerDict.values())
    return {handler for logger in loggers for handler in getattr(logger, "handlers", ())
            if isinstance(handler, logging.FileHandler)}
