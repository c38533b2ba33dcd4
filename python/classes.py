"""Worker classes of the user's own: what kind of class it is, and what CONFIG_KWARGS of
uvicorn's worker class means here. The template process loads this file, if the settings
name such a class.

There are three kinds of classes. A class that only gives uvicorn's worker other options
runs as class asgi. A class that adds to the life of a worker of Gunicorn's (HOOKED) runs as
the class from which it is derived. Any other class has a server of its own, in Python
(workers.py, http.py).
"""

import os
import re
import sys
from math import ceil
from types import FunctionType

UVICORN = ("uvicorn.workers", "uvicorn_worker", "uvicorn_worker._workers")
NATIVE = {"gunicorn.workers.sync.SyncWorker": "sync", "gunicorn.workers.gthread.ThreadWorker": "gthread",
          "gunicorn.workers.ggevent.GeventWorker": "gevent", "gunicorn.workers.ggevent.GeventPyWSGIWorker": "gevent",
          "gunicorn.workers.geventlet.EventletWorker": "eventlet", "gunicorn.workers.gasgi.ASGIWorker": "asgi"}
# Classes whose server the package of this server does not have.
MISSING = ("gunicorn.workers.gasgi.ASGIWorker",)
# Methods that a class may replace and still run as the class that it is derived from.
HOOKED = {"__init__", "init_process", "init_signals", "load_wsgi", "notify", "patch", "run",
          "handle_quit", "handle_exit", "handle_abort", "handle_usr1", "handle_winch"}
# Methods that are a part of Gunicorn's servers, and that the classes here may not have.
SERVER = {"accept", "wait", "is_parent_alive", "run_for_one", "run_for_multiple", "handle", "handle_request", "handle_error",
          "timeout_ctx", "is_already_handled", "get_thread_pool", "enqueue_req", "finish_request", "server_class", "wsgi_handler"}


class Wrong(Exception):
    """A sentence about the worker class, and the exit status of the server."""

    def __init__(self, text, status=1):
        super().__init__(text)
        self.status = status


def status_of(e):
    """The exit status of a server that such an exception ends, 1 for most."""
    code = e.code if isinstance(e, SystemExit) else 1
    return code & 255 if isinstance(code, int) else int(code is not None)


def named(cls):
    return "%s.%s" % (cls.__module__, cls.__qualname__)


def entry_point(uri, default, group):
    """The object that egg:DISTRIBUTION#NAME means, an entry point of a group."""
    from importlib import metadata
    distribution, _, name = uri[4:].partition("#")
    for entry in metadata.distribution(distribution).entry_points:
        if entry.group == group and entry.name == (name or default):
            return entry.load()
    raise ImportError("there is no entry point %r of %s" % (name or default, group))


def find(uri):
    """The class that a setting names: MODULE.CLASS, or egg:DISTRIBUTION#NAME."""
    if uri in ("tornado", "egg:gunicorn#tornado"):
        uri = "gunicorn.workers.gtornado.TornadoWorker"
    try:
        if uri.startswith("egg:"):
            return entry_point(uri, "sync", "gunicorn.workers")
        module, _, name = uri.rpartition(".")
        __import__(module)
        module = sys.modules[module]
    except BaseException as e:
        at = e.__traceback__
        while at.tb_next and not at.tb_next.tb_frame.f_code.co_filename.startswith("<frozen "):
            at = at.tb_next
        file = at.tb_frame.f_code.co_filename
        where = "" if file.startswith("<") else " (%s, line %d)" % (file, at.tb_lineno)
        raise Wrong("class uri %r invalid or not found: %s: %s%s" % (uri, type(e).__name__, e, where), status_of(e))
    try:
        return getattr(module, name)
    except AttributeError:
        raise Wrong("class uri %r invalid or not found: %r has no class %r" % (uri, module.__name__, name), 255)


def load(settings, module):
    """The class of the setting, by its name or as the configuration file has it."""
    cls = settings["worker_class"]
    if cls is None:
        cls = module.worker_class
        if isinstance(cls, FunctionType):
            cls = cls()
    if isinstance(cls, str):
        cls = find(cls)
    if not (isinstance(cls, type) and hasattr(cls, "init_process")):
        raise Wrong("%s is no worker class: it has no init_process" % (
            named(cls) if isinstance(cls, type) else repr(cls)), 255)
    return cls


def mentions(code, name):
    """Whether a function uses a name, as one that calls its base's method does."""
    return name in code.co_names or any(mentions(part, name) for part in code.co_consts if hasattr(part, "co_names"))


def family_of(cls):
    """The family of workers that a class runs as, own if it has a server of its own, and
    the class of a package that it is derived from."""
    own = {}
    for base in cls.__mro__:
        family = "asgi" if base.__module__ in UVICORN else NATIVE.get(named(base))
        if family:
            changed = {name for name in own if name in SERVER or hasattr(base, name)}
            if base.__module__ in UVICORN:
                return ("own" if changed & {name for name in own if callable(own[name])} else family), base
            for name in ("__init__", "init_process", "run"):
                code = getattr(own.get(name), "__code__", None)
                if name in own and not (code and mentions(code, name)):
                    return "own", base
            return ("own" if changed & SERVER or {n for n in changed if callable(own[n])} - HOOKED else family), base
        if named(base) == "gunicorn.workers.base.Worker":
            return "own", base
        for name, value in vars(base).items():
            if isinstance(value, (FunctionType, classmethod, staticmethod, property)) or name in SERVER:
                own.setdefault(name, getattr(value, "__func__", value))
    return "own", None


def describe(cls, settings):
    """The facts about a class that the arbiter needs, and settings that the class's options
    change."""
    from _gunicorn import wsgi
    family, base = family_of(cls)
    for kind in cls.__mro__ if family == "own" and wsgi.is_small() else ():
        if named(kind) in MISSING:
            raise Wrong("%s changes the server of %s, which is not a part of this server" % (named(cls), named(kind)))
    if hasattr(cls, "setup"):  # Gunicorn calls it in the master
        try:
            cls.setup()
        except BaseException as e:
            raise Wrong("%s has failed in setup: %s: %s" % (named(cls), type(e).__name__, e), status_of(e))
    facts = {"name": named(cls), "family": family, "uvicorn": family == "asgi" and base.__module__ in UVICORN}
    return facts, (options(cls, settings, facts) if facts["uvicorn"] else {})


# Options of uvicorn ----------------------------------------------------------

def whole(value):
    return ceil(value or 0)


def listed(value):
    return value if isinstance(value, str) else ",".join(value)


# Keys of CONFIG_KWARGS that are settings here: the setting, and a function that turns the
# value into the setting's.
SETTINGS = {
    "loop": ("asgi_loop", lambda value: "asyncio" if value == "none" else value),
    "lifespan": ("asgi_lifespan", str), "root_path": ("root_path", str), "backlog": ("backlog", whole),
    "forwarded_allow_ips": ("forwarded_allow_ips", listed), "timeout_keep_alive": ("keepalive", whole),
    "limit_max_requests": ("max_requests", whole), "limit_max_requests_jitter": ("max_requests_jitter", whole),
    "ws_max_size": ("ws_max_size", whole), "ws_ping_interval": ("ws_ping_interval", whole),
    "ws_ping_timeout": ("ws_ping_timeout", whole),
    "ws_per_message_deflate": ("ws_per_message_deflate", lambda value: "on" if value else "off"),
}
# Other keys that are known. Some are read by options, wrap or set_up_uvicorn; the others make
# no difference in this server.
OTHER = {"http", "ws", "interface", "factory", "proxy_headers", "headers", "server_header", "date_header", "access_log",
         "timeout_graceful_shutdown", "limit_concurrency", "log_level", "log_config", "use_colors"}
CHOICES = {"interface": ("auto", "asgi2", "asgi3", "wsgi"), "loop": ("auto", "asyncio", "uvloop", "none"),
           "lifespan": ("auto", "on", "off")}
LEVELS = {"critical": 50, "error": 40, "warning": 30, "info": 20, "debug": 10, "trace": 5}


def options(cls, settings, facts):
    """The settings that CONFIG_KWARGS of a class means. The rest is added to facts, for the
    worker."""
    kwargs, changed = cls.CONFIG_KWARGS, {}
    if not isinstance(kwargs, dict):
        raise Wrong("%s: CONFIG_KWARGS is %r, and no dict" % (named(cls), kwargs))
    for key, value in list(kwargs.items()):
        try:
            if key in SETTINGS:
                name, meant = SETTINGS[key]
                if value is not None or meant is whole:
                    changed[name] = meant(value)
            elif key in ("limit_concurrency", "timeout_graceful_shutdown"):
                whole(value)
            elif key not in OTHER and value is not None:
                if cls.__module__ in UVICORN:
                    del kwargs[key]  # a reload must find the class as it was
                raise Wrong("%s: CONFIG_KWARGS[%r] is not supported by this server" % (named(cls), key))
        except (TypeError, ValueError) as e:
            raise Wrong("%s: CONFIG_KWARGS[%r] is %r: %s" % (named(cls), key, value, e))
    if kwargs.get("proxy_headers") is False:
        changed["forwarded_allow_ips"] = ""
    if kwargs.get("access_log") is False or level_of(kwargs) > 20:
        changed["accesslog"] = None
    if kwargs.get("timeout_graceful_shutdown") is not None:
        changed["graceful_timeout"] = min(settings["graceful_timeout"], whole(kwargs["timeout_graceful_shutdown"]))
    facts.update(hidden=kwargs.get("server_header") is False, undated=kwargs.get("date_header") is False,
                 deaf=kwargs.get("ws") == "none")
    for key, valid in CHOICES.items():
        if kwargs.get(key, "auto") not in valid:
            raise Wrong("%s: CONFIG_KWARGS[%r] is %r, and not one of %s" % (named(cls), key, kwargs[key], ", ".join(valid)))
    if isinstance(kwargs.get("log_level"), str) and kwargs["log_level"].lower() not in LEVELS:
        raise Wrong("%s: CONFIG_KWARGS['log_level'] is %r, and not one of %s" % (named(cls), kwargs["log_level"], ", ".join(LEVELS)))
    if isinstance(kwargs.get("log_config"), str) and not os.path.isfile(kwargs["log_config"]):
        raise Wrong("%s: CONFIG_KWARGS['log_config'] is %r, and there is no such file" % (named(cls), kwargs["log_config"]))
    try:
        more = fields(kwargs)
    except Exception:
        raise Wrong("%s: CONFIG_KWARGS['headers'] is no list of pairs of strings" % named(cls))
    for field in more:
        if not re.fullmatch(rb"[!#$%&'*+.^_`|~0-9a-z-]+: [^\0\r\n]*", b": ".join(field)):
            raise Wrong("%s: CONFIG_KWARGS['headers'] has %r, which is no header" % (named(cls), field))
    return changed


def level_of(kwargs):
    level = kwargs.get("log_level")
    return LEVELS.get(level.lower(), 0) if isinstance(level, str) else level or 0


def fields(kwargs):
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in kwargs.get("headers") or ()]


def set_up_uvicorn(cls):
    """Sets up logging as uvicorn does, in a worker."""
    import logging
    import logging.config
    kwargs = cls.CONFIG_KWARGS
    config, log = kwargs.get("log_config"), logging.getLogger("uvicorn.error")
    if config:
        log.handlers, log.propagate = list(logging.getLogger("uvicorn").handlers), False
    if isinstance(config, dict):
        if kwargs.get("use_colors") in (True, False):
            for name in ("default", "access"):
                config["formatters"][name]["use_colors"] = kwargs["use_colors"]
        logging.config.dictConfig(config)
    elif isinstance(config, str) and config.endswith((".json", ".yaml", ".yml")):
        with open(config) as f:
            if config.endswith(".json"):
                from json import load
            else:
                from yaml import safe_load as load
            logging.config.dictConfig(load(f))
    elif config:
        logging.config.fileConfig(config, disable_existing_loggers=False)
    if level_of(kwargs):
        for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
            logging.getLogger(name).setLevel(level_of(kwargs))


def wrap(cls, app, log):
    """The application as uvicorn would call it."""
    kwargs = cls.CONFIG_KWARGS
    try:
        made = app()
    except TypeError:
        if kwargs.get("factory"):
            raise
    else:
        if not kwargs.get("factory"):
            log.warning("ASGI app factory detected. Using it, but please consider setting the --factory flag explicitly.")
        app = made
    interface = kwargs.get("interface")
    if interface == "wsgi":
        from uvicorn.middleware.wsgi import WSGIMiddleware
        app = WSGIMiddleware(app)
    elif interface in ("asgi2", "asgi3"):
        given = app

        async def app(scope, receive, send):
            await (given(scope)(receive, send) if interface == "asgi2" else given(scope, receive, send))
    more, limit = fields(kwargs), kwargs.get("limit_concurrency")
    if not more and limit is None:
        return app
    from _gunicorn.asgi import single_callable
    inner, running = single_callable(app), set()

    async def limited(scope, receive, send):
        if scope["type"] == "lifespan":
            return await inner(scope, receive, send)

        async def with_more(event):
            if event["type"].endswith((".response.start", "websocket.accept")):
                event = dict(event, headers=more + list(event.get("headers") or ()))
            await send(event)
        running.add(id(scope))
        try:
            if limit is not None and len(running) >= limit and scope["type"] == "http":
                log.warning("Exceeded concurrency limit.")
                await with_more({"type": "http.response.start", "status": 503, "headers": [
                    (b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]})
                return await send({"type": "http.response.body", "body": b"Service Unavailable"})
            await inner(scope, receive, with_more if more else send)
        finally:
            running.discard(id(scope))
    return limited
