"""The gunicorn package for Python code that imports it.

Configuration files, loggers and worker classes import names from gunicorn. If the real
package is not installed, they get the names defined here. Classes that only a server
written in Python could run can be derived from and named, but not run. This file is
not loaded until somebody uses gunicorn.

MODULES has the modules made here, by name.
"""

import errno
import functools
import grp
import io
import os
import pwd
import re
import sys
import types
from os import chown, getcwd

from _gunicorn import facade, http, servers, wsgi
from _gunicorn.http import REQUEST_ERRORS
from _gunicorn.facade import HOP_HEADERS, parse_address, validate_callable
from _gunicorn.glogging import (CONFIG_DEFAULTS, COUNTER_TYPE, GAUGE_TYPE, HISTOGRAM_TYPE, METRIC_VAR, MTYPE_VAR,
                                SYSLOG_FACILITIES, TIMER_TYPE, VALUE_VAR, Logger, SafeAtoms, Statsd, loggers,
                                parse_syslog_address)
from _gunicorn.workers import Heartbeat, Worker
from _gunicorn.wsgi import AppImportError, load_app as import_app

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


# gunicorn.config -------------------------------------------------------------

KNOWN_SETTINGS = []


class Setting(facade.Setting):
    """A setting. Defining a subclass makes the setting known."""

    name = value = section = cli = validator = type = meta = action = default = short = desc = None
    nargs = const = None
    order = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.order = len(KNOWN_SETTINGS)
        if isinstance(vars(cls).get("validator"), types.FunctionType):
            cls.validator = staticmethod(cls.validator)
        cls.desc = (cls.desc or "").strip()
        cls.short = cls.desc.partition("\n")[0]
        KNOWN_SETTINGS.append(cls)

    def __init__(self):
        if self.default is not None:
            self.set(self.default)
            vars(self).pop("given", None)

    def set(self, value):
        if not callable(self.validator):
            raise TypeError("Invalid validator: %s" % self.name)
        self.value, self.given = self.validator(value), value

    def add_option(self, parser):
        if self.cli:
            options = {"type": self.type or str} if (self.action or "append") == "append" else {}
            for name in ("metavar", "nargs", "const"):
                value = self.meta if name == "metavar" else getattr(self, name)
                if value is not None:
                    options[name] = value
            parser.add_argument(*self.cli, dest=self.name, action=self.action or "store", default=None,
                                help="%s [%s]" % (self.short.replace("%", "%%"), str(self.default).replace("%", "%%")), **options)


def make_settings(ignore=None):
    fill_settings()
    return {cls.name: cls() for cls in KNOWN_SETTINGS if cls.name not in (ignore or ())}


class Config(facade.Config):
    """The object cfg, with this server's settings if given, and with known settings."""

    def __init__(self, usage=None, prog=None, settings=None):
        super().__init__(settings or {})
        for name, setting in make_settings().items():
            if name in self.settings:
                setting.value = self.settings[name].value
            self.settings[name] = setting
        self.__dict__.update(usage=usage, prog=prog)

    def set(self, name, value):
        if name not in self.settings:
            raise AttributeError("No configuration setting for: %s" % name)
        self.settings[name].set(value)
        self.changed[name] = value

    def __str__(self):
        width = max(map(len, self.settings))
        values = ((name, setting.value) for name, setting in sorted(self.settings.items()))
        return "\n".join("%-*s = %s" % (width, name, "<%s()>" % value.__qualname__ if callable(value) else value)
                         for name, value in values)

    def parser(self):
        """The parser of the command line. Its help and version are the server's."""
        import argparse
        parser = argparse.ArgumentParser(usage=self.usage, prog=self.prog, add_help=False)
        for flags in (("-h", "--help"), ("-v", "--version")):
            parser.add_argument(*flags, action=ServerSays, nargs=0, default=argparse.SUPPRESS)
        parser.add_argument("args", nargs="*", help=argparse.SUPPRESS)
        for setting in self.settings.values():
            if isinstance(setting, Setting):
                setting.add_option(parser)
        return parser

    def get_cmd_args_from_env(self):
        import shlex
        return shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))

    def validate(self):
        pass  # the server checks the values

    @property
    def paste_global_conf(self):
        return wsgi.global_conf(self.raw_paste_global_conf)


class ServerSays:
    """The action of an option that the server itself answers."""

    def __new__(cls, option_strings, **kwargs):
        import argparse

        class Action(argparse.Action):
            def __call__(self, parser, namespace, values, option_string=None):
                from _gunicorn import program
                server = program.find_server()
                os.execv(server, [server, option_strings[1]])
        return Action(option_strings, **kwargs)


def validate_bool(val):
    if val is None or isinstance(val, bool):
        return val
    if not isinstance(val, str):
        raise TypeError("Invalid type for casting: %s" % (val,))
    word = val.strip().lower()
    if word not in ("true", "false"):
        raise ValueError("Invalid boolean: %s" % val)
    return word == "true"


def validate_dict(val):
    if not isinstance(val, dict):
        raise TypeError("Value is not a dictionary: %s " % (val,))
    return val


def validate_pos_int(val):
    number = int(val) if isinstance(val, int) else int(val, 0)
    if number < 0:
        raise ValueError("Value must be positive: %s" % number)
    return number


def validate_string(val):
    if val is not None and not isinstance(val, str):
        raise TypeError("Not a string: %s" % (val,))
    return val and val.strip()


def validate_file_exists(val):
    if val is not None and not os.path.exists(val):
        raise ValueError("File %s does not exists." % val)
    return val


def validate_list_string(val):
    return [validate_string(item) for item in ([val] if isinstance(val, str) else val) or () if val]


def validate_list_of_files_or_patterns(val):
    return [item if set(item) & set("*?[") else validate_file_exists(item) for item in validate_list_string(val)]


def validate_string_to_list(val):
    return [item.strip() for item in (validate_string(val) or "").split(",") if item]


def validate_string_to_addr_list(val):
    import ipaddress
    items = validate_string_to_list(val)
    for item in items:
        if item != "*":
            ipaddress.ip_network(item)
    return items


def validate_class(val):
    if isinstance(val, (types.FunctionType, types.MethodType)):
        val = val()
    return val if isinstance(val, type) else validate_string(val)


def owner(kind, lookup, own):
    """Makes the validator of user or group: the number of a name, by default that of this
    process."""
    def validate(val):
        if val is None:
            return own()
        if isinstance(val, int) or val.isdigit():
            return int(val)
        try:
            return lookup(val)
        except KeyError:
            raise ConfigError("No such %s: '%s'" % (kind, val))
    return validate


validate_user = owner("user", lambda name: pwd.getpwnam(name).pw_uid, os.geteuid)
validate_group = owner("group", lambda name: grp.getgrnam(name).gr_gid, os.getegid)
validate_post_request = validate_callable(2, 3, 4)


def validate_chdir(val):
    path = os.path.abspath(validate_string(val))
    if not os.path.exists(path):
        raise ConfigError("can't chdir to %r" % val)
    return path


def validate_statsd_address(val):
    val = validate_string(val)
    return val and (("unix", int(val[5:])) if re.match("unix:[0-9]+$", val) else parse_address(val, "8125"))


def one_of(wrong, other, *names):
    """Makes the validator of a setting that is one of some words, in any case. A name may list
    more spellings after bars, also of True and False. The first name stands for None."""
    spellings = {word: name.split("|")[0] for name in names for word in name.split("|")}

    def validate(val):
        name = spellings.get(str(val).lower().strip()) if isinstance(val, (str, bool)) else None
        if val is None:
            return names[0].split("|")[0]
        if name is None:
            text = wrong if isinstance(val, str) else other
            raise (ValueError if isinstance(val, str) else TypeError)(text % (val,) if "%" in text else text)
        return name
    return validate


CAST = "Invalid type for casting: %s"
validate_reload_engine = one_of("Invalid reload_engine: %r", "Invalid reload_engine: %r", "auto", "poll", "inotify")
validate_header_map_behaviour = one_of("Invalid header map behaviour: %s", CAST, "drop", "refuse", "dangerous")
validate_asgi_loop = one_of("Invalid ASGI loop: %s", CAST, "auto", "asyncio", "uvloop")
validate_asgi_lifespan = one_of("Invalid ASGI lifespan: %s", CAST, "auto", "on", "off")
validate_http_parser = one_of("http_parser must be one of: auto, fast, python", "http_parser must be a string",
                              "auto", "fast", "python")
validate_proxy_protocol = one_of("proxy_protocol must be: off, v1, v2, or auto", "proxy_protocol must be string or bool",
                                 "off|false|0|none", "v1", "v2", "auto|true|1")
validate_http2_cleartext = one_of("Invalid http2_cleartext: %s", CAST, "off|false", "prior-knowledge|true", "upgrade", "both")


def validate_http_protocols(val):
    if val is not None and not isinstance(val, str):
        raise TypeError("http_protocols must be a string")
    names = [name for name in map(str.strip, (val or "").lower().split(",")) if name]
    for name in names:
        if name not in ("h1", "h2"):
            raise ValueError("Invalid protocol '%s'. Valid protocols: h1, h2" % name)
    if len(names) > len(set(names)):
        raise ValueError("Duplicate protocols specified")
    return names or ["h1"]


def bounded(least, most, wrong):
    """Makes the validator of a number from least to most."""
    def validate(val):
        number = validate_pos_int(val)
        if not least <= number <= most:
            raise ValueError(wrong % number)
        return number
    return validate


validate_http2_frame_size = bounded(16384, 16777215, "http2_max_frame_size must be between 16384 and 16777215, got %s")
validate_http2_window_size = bounded(0, 2 ** 31 - 1, "HTTP/2 window size must be at most 2147483647: %s")
validate_http2_stream_limit = bounded(1, sys.maxsize, "HTTP/2 max concurrent streams must be at least 1: %s")


def auto_int(_, text):
    """An integer from a command line, which is octal if it begins with 0."""
    return int(re.sub("^0(?=[0-9])", "0o", text), 0)


def get_default_config_file():
    path = os.path.abspath("gunicorn.conf.py")
    return path if os.path.exists(path) else None


# Validators of settings whose values differ in type from the default.
VALIDATORS = {
    "user": validate_user, "group": validate_group, "chdir": validate_chdir, "statsd_host": validate_statsd_address,
    "worker_class": validate_class, "logger_class": validate_class, "reload_engine": validate_reload_engine,
    "reload_extra_files": validate_list_of_files_or_patterns, "post_request": validate_post_request,
    "forwarded_allow_ips": validate_string_to_addr_list, "proxy_allow_ips": validate_string_to_addr_list,
    "forwarder_headers": validate_string_to_list, "sendfile": validate_bool,
    "header_map": validate_header_map_behaviour, "asgi_loop": validate_asgi_loop,
    "asgi_lifespan": validate_asgi_lifespan, "http_parser": validate_http_parser,
    "proxy_protocol": validate_proxy_protocol, "http2_cleartext": validate_http2_cleartext,
    "http_protocols": validate_http_protocols, "uwsgi_allow_ips": validate_string_to_addr_list, "ssl_version": lambda val: val,
    "http2_max_frame_size": validate_http2_frame_size, "http2_initial_window_size": validate_http2_window_size,
    "http2_max_concurrent_streams": validate_http2_stream_limit,
}

# Classes of settings that are not named like their setting.
CLASSES = {"config": "ConfigFile", "wsgi_app": "WSGIApp", "threads": "WorkerThreads", "check_config": "ConfigCheck",
           "raw_env": "Env", "secure_scheme_headers": "SecureSchemeHeader", "syslog_addr": "SyslogTo",
           "enable_backlog_metric": "BacklogMetric", "nworkers_changed": "NumWorkersChanged",
           "ssl_context": "NewSSLContext", "proxy_allow_ips": "ProxyAllowFrom", "uwsgi_allow_ips": "UWSGIAllowFrom"}


def known(name, section, cli, meta, usage, default, alone, optional, repeats, ours):
    """Makes the class of a setting of this server, from the row of settings.go."""
    validator = VALIDATORS.get(name) or (passed_on if ours else None)
    if section == "Server Hooks" or name == "ssl_context":
        wanted = facade.PARAMETERS.get(name, (1,))
        validator = validator or validate_callable(*wanted)
        default = (lambda a: None, lambda a, b: None, lambda a, b, c: None, lambda a, b, c, d: None)[wanted[-1] - 1]
        default.__name__, default.__qualname__, default = name, name, staticmethod(default)
    elif validator and isinstance(default, list):
        default = ",".join(default)
    for kind, by_kind in ((bool, validate_bool), (int, validate_pos_int), (list, validate_list_string),
                          (dict, validate_dict), (object, validate_string)):
        if validator is None and isinstance(default, kind):
            validator = by_kind
    type(CLASSES.get(name) or name.title().replace("_", ""), (Setting,), {
        "name": name, "section": section, "cli": cli or None, "meta": meta or None, "desc": usage,
        "default": default, "validator": staticmethod(validator), "__module__": "gunicorn.config",
        "action": "append" if repeats else "store_true" if alone is True and not optional
        else "store_const" if alone is not None and not optional else None,
        "const": alone if optional or alone is False else None, "nargs": "?" if optional else None,
        "type": auto_int if name in ("umask", "control_socket_mode") else int if validator is validate_pos_int else None})


def passed_on(value):
    return value  # the server checks the value


filled = False


def fill_settings():
    """Makes the settings of the server known. In a program that the server has not started,
    this waits until somebody asks for a setting, because the binary has to run."""
    global filled
    if not filled:
        filled = True
        from _gunicorn import program
        for name, row in (wsgi.load("settings") if hasattr(wsgi, "load") else program.settings()).items():
            known(name, *row)


if hasattr(wsgi, "load"):
    fill_settings()


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
            from _gunicorn.classes import entry_point
            return entry_point(uri, default, section)
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


def bytes_to_str(value):
    return value if isinstance(value, str) else value.decode("latin1")


def is_hoppish(header):
    return header.lower().strip() in HOP_HEADERS


def sd_notify(state, logger, unset_environment=False):
    """Sends a message to the service manager, which has set NOTIFY_SOCKET."""
    import socket
    address = os.environ.pop("NOTIFY_SOCKET", None) if unset_environment else os.environ.get("NOTIFY_SOCKET")
    if address:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.connect("\0" + address[1:] if address[0] == "@" else address)
                to.sendall(state.encode())
        except Exception:
            logger.debug("Exception while invoking sd_notify()", exc_info=True)


def unspew():
    sys.settrace(None)


def listen_fds(unset_environment=True):
    return 0  # the listeners belong to the arbiter


def spew(trace_names=None, show_values=False):
    from _gunicorn import debug
    debug.spew()


def warn(text):
    print("!!!\n!!! WARNING: %s\n!!!\n" % text, file=sys.stderr, flush=True)


# The classes below stand for parts of a server written in Python -------------

class StandIn(type):
    """The class of classes that are not made here. Such a class seems to have every method,
    so that a patch finds the one to replace. Calling a method is an error."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError("type object %r has no attribute %r" % (cls.__name__, name))
        return refused("%s.%s" % (cls.__module__, cls.__name__), name)


def refused(owner, name):
    def function(*args, **kwargs):
        refuse("%s.%s" % (owner, name), "it has no part like that")
    return function


def refuse_object(self, *args, **kwargs):
    """The __init__ of classes that are not made here. The refused class may be a base of
    the user's own."""
    name = next(c for c in type(self).__mro__ if c.__module__.startswith("gunicorn."))
    refuse("%s.%s" % (name.__module__, name.__name__), "it has no part like that")


class Arbiter(metaclass=StandIn):
    WORKER_BOOT_ERROR, APP_LOAD_ERROR = 3, 4

    def __init__(self, app=None):
        self.app = app

    def run(self):
        refuse_served("gunicorn.arbiter.Arbiter")
        for cls in type(self).__mro__[:type(self).__mro__.index(Arbiter)]:
            for name, value in vars(cls).items():
                if isinstance(value, types.FunctionType) and name != "__init__":
                    refuse("%s.%s" % (cls.__qualname__, name), "the arbiter is not written in Python")
        become_server("gunicorn.arbiter.Arbiter", self.app)


def refuse_served(what):
    """Only a program that the server has not started can become a server."""
    if hasattr(wsgi, "load") or os.getpid() == wsgi.served:
        refuse(what, "start gunicorn MODULE:OBJECT")


def become_server(what, app):
    refuse_served(what)
    from _gunicorn import program
    program.run(app)


class BaseApplication:
    def __init__(self, usage=None, prog=None):
        self.usage, self.prog, self.cfg, self.callable, self.logger = usage, prog, None, None, None
        self.do_load_config()

    def do_load_config(self):
        try:
            self.load_default_config()
            self.load_config()
            self.cfg.validate()
        except Exception as e:
            print("\nError: %s" % e, file=sys.stderr, flush=True)
            sys.exit(1)

    def load_default_config(self):
        self.cfg = Config(self.usage, prog=self.prog)

    def load_config(self):
        raise NotImplementedError

    def reload(self):
        self.do_load_config()

    def load(self):
        raise NotImplementedError

    def init(self, parser, opts, args):
        raise NotImplementedError

    def wsgi(self):
        if self.callable is None:
            self.callable = self.load()
        return self.callable

    def run(self):
        become_server("run() of %s" % type(self).__name__, self)


class Application(BaseApplication):
    """An application with the settings of a command line, in this order: those that init
    returns, the configuration file, GUNICORN_CMD_ARGS, the command line."""

    def chdir(self):
        os.chdir(self.cfg.chdir)
        if self.cfg.chdir not in sys.path:
            sys.path.insert(0, self.cfg.chdir)

    def get_config_from_filename(self, filename):
        if not os.path.exists(filename):
            raise RuntimeError("%r doesn't exist" % filename)
        return vars(wsgi.run_config(filename, os.path.abspath(filename)))

    def get_config_from_module_name(self, module_name):
        import importlib
        return vars(importlib.import_module(module_name))

    def load_config_from_module_name_or_filename(self, location):
        if location.startswith("python:"):
            given = self.get_config_from_module_name(location[len("python:"):])
        else:
            given = self.get_config_from_filename(location[5:] if location.startswith("file:") else location)
        for name, value in given.items():
            if name in self.cfg.settings:
                try:
                    self.cfg.set(name, value)
                except Exception:
                    print("Invalid value for %s: %s\n" % (name, value), file=sys.stderr, flush=True)
                    raise
        return given

    def load_config_from_file(self, filename):
        return self.load_config_from_module_name_or_filename(location=filename)

    def load_config(self):
        parser = self.cfg.parser()
        line = parser.parse_args()
        given = self.init(parser, line, line.args)
        self.chdir()
        for name, value in (given or {}).items():
            self.cfg.set(name.lower(), value)
        more = parser.parse_args(self.cfg.get_cmd_args_from_env())
        location = line.config or more.config or get_default_config_file()
        if location:
            self.load_config_from_file(location)
        for options in more, line:
            for name, value in vars(options).items():
                if value is not None and name != "args":
                    self.cfg.set(name, value)
        self.chdir()

    def run(self):
        if self.cfg.print_config:
            print(self.cfg)
        if self.cfg.print_config or self.cfg.check_config:
            try:
                self.load()
            except Exception:
                import traceback
                print("\nError while loading the application:\n", file=sys.stderr)
                traceback.print_exc()
                sys.exit(1)
            sys.exit(0)
        if self.cfg.daemon and not hasattr(wsgi, "load"):
            from _gunicorn import program
            program.daemonize(self.cfg.enable_stdio_inheritance)
        super().run()


class WSGIApplication(Application):
    app_uri = None

    def init(self, parser, opts, args):
        self.app_uri = None
        if opts.paste:
            self.app_uri = os.path.abspath(opts.paste)
            given = wsgi.read_paste(self.app_uri)
            return {name: value for name, value in given.items() if name in self.cfg.settings}
        if args:
            self.cfg.set("default_proc_name", args[0])
            self.app_uri = args[0]

    def load_config(self):
        super().load_config()
        if self.app_uri is None:
            self.app_uri = self.cfg.wsgi_app
            if self.app_uri is None:
                raise ConfigError("No application module specified.")

    def load_wsgiapp(self):
        return MODULES["gunicorn.util"].import_app(self.app_uri)

    def load_pasteapp(self):
        return get_wsgi_app(self.app_uri, defaults=self.cfg.paste_global_conf)

    def load(self):
        return self.load_pasteapp() if self.cfg.paste else self.load_wsgiapp()


def run(prog=None):
    """Does in a program the same as the command gunicorn."""
    refuse_served("gunicorn.app.wsgiapp.run")
    WSGIApplication("%(prog)s [OPTIONS] [APP_MODULE]", prog=prog).run()


def get_wsgi_app(config_uri, name=None, defaults=None):
    return wsgi.load_paste(config_uri, defaults, name)


def has_logging_config(config_file):
    from configparser import ConfigParser
    parser = ConfigParser()
    parser.read([config_file])
    return parser.has_section("loggers")


def serve(app, global_conf, **local_conf):
    """The server runner egg:gunicorn#main of PasteDeploy: serves an application that pserve,
    say, has loaded."""
    refuse_served("gunicorn.app.pasterapp.serve")
    config_file, own_file = global_conf["__file__"], local_conf.pop("config", None)
    host, port = local_conf.pop("host", ""), local_conf.pop("port", "")
    if host:
        local_conf["bind"] = "%s:%s" % (host, port) if port else host.split(",")

    class PasterServerApplication(WSGIApplication):
        def load_config(self):
            self.cfg.set("default_proc_name", config_file)
            if has_logging_config(config_file):
                self.cfg.set("logconfig", config_file)
            location = own_file or get_default_config_file()
            if location:
                self.load_config_from_file(location)
            for name, value in local_conf.items():
                if value is not None:
                    self.cfg.set(name.lower(), value)

        def load(self):
            return app
    PasterServerApplication().run()


class WorkerTmp(Heartbeat):
    def __init__(self, cfg):
        pass


SUPPORTED_WORKERS = {
    "sync": "gunicorn.workers.sync.SyncWorker", "gevent": "gunicorn.workers.ggevent.GeventWorker",
    "gevent_wsgi": "gunicorn.workers.ggevent.GeventPyWSGIWorker",
    "gevent_pywsgi": "gunicorn.workers.ggevent.GeventPyWSGIWorker", "gthread": "gunicorn.workers.gthread.ThreadWorker",
    "tornado": "gunicorn.workers.gtornado.TornadoWorker", "asgi": "gunicorn.workers.gasgi.ASGIWorker",
}


# Modules ---------------------------------------------------------------------

# Names of each module. A name that this file does not define is NAME() for a function that
# is refused when it is called, NAME or NAME<BASE for a class that is refused when it is made.
# Three dots stand for all of REQUEST_ERRORS. A class that several modules have belongs to the
# first.
NAMES = """
gunicorn:
gunicorn.errors: HaltServer ConfigError AppImportError
gunicorn.util: load_class is_ipv6 close close_on_exec set_non_blocking unlink http_date to_bytestring get_arity
gunicorn.util: has_fileno check_is_writable warn bytes_to_str is_hoppish parse_address unquote_to_wsgi_str()
gunicorn.util: split_request_uri() get_username() seed() reraise() is_glob_pattern() load_entry_point()
gunicorn.util: set_owner_process() close_graceful write_chunk write write_nonblock write_error
gunicorn.util: daemonize() make_fail_app() import_app AppImportError SUPPORTED_WORKERS chown getcwd hop_headers
gunicorn.reloader: ReloaderBase Reloader<ReloaderBase InotifyReloader<ReloaderBase symlink_target_dir()
gunicorn.reloader: preferred_reloader()
gunicorn.config: Config Setting make_settings KNOWN_SETTINGS ConfigError PLATFORM auto_int get_default_config_file
gunicorn.config: validate_bool validate_dict validate_pos_int validate_string validate_file_exists validate_list_string
gunicorn.config: validate_list_of_files_or_patterns validate_string_to_list validate_string_to_addr_list
gunicorn.config: validate_class validate_callable validate_user validate_group validate_post_request validate_chdir
gunicorn.config: validate_statsd_address validate_reload_engine validate_header_map_behaviour validate_asgi_loop
gunicorn.config: validate_asgi_lifespan validate_http_parser validate_ssl_version() validate_proxy_protocol
gunicorn.config: validate_http_protocols validate_http2_cleartext validate_http2_window_size
gunicorn.config: validate_http2_stream_limit validate_http2_frame_size
gunicorn.debug: Spew spew unspew
gunicorn.glogging: Logger CONFIG_DEFAULTS SYSLOG_FACILITIES SafeAtoms loggers parse_syslog_address
gunicorn.instrument:
gunicorn.instrument.statsd: Statsd Logger METRIC_VAR VALUE_VAR MTYPE_VAR GAUGE_TYPE COUNTER_TYPE HISTOGRAM_TYPE
gunicorn.instrument.statsd: TIMER_TYPE
gunicorn.pidfile: Pidfile
gunicorn.systemd: sd_notify listen_fds SD_LISTEN_FDS_START
gunicorn.sock: BaseSocket TCPSocket<BaseSocket TCP6Socket<TCPSocket UnixSocket<BaseSocket create_sockets()
gunicorn.sock: close_sockets() ssl_context ssl_wrap_socket get_negotiated_protocol is_http2_negotiated PLATFORM
gunicorn.arbiter: Arbiter HaltServer AppImportError Pidfile SERVER_SOFTWARE
gunicorn.app:
gunicorn.app.base: BaseApplication Application Arbiter Config get_default_config_file
gunicorn.app.wsgiapp: WSGIApplication run Application ConfigError
gunicorn.app.pasterapp: get_wsgi_app has_logging_config serve WSGIApplication
gunicorn.http:
gunicorn.http.errors: ParseException
gunicorn.http.errors: ...
gunicorn.http.body: ...
gunicorn.http.body: Body ChunkedReader LengthReader EOFReader
gunicorn.http.unreader: Unreader SocketUnreader IterUnreader
gunicorn.http.message: ...
gunicorn.http.message: Message Request PPCommand PPFamily PPProtocol HeaderPolicy ChunkedReader LengthReader
gunicorn.http.message: EOFReader Body
gunicorn.http.parser: Parser RequestParser Request SocketUnreader IterUnreader
gunicorn.http: get_parser Message Request RequestParser
gunicorn.http.wsgi: ...
gunicorn.http.wsgi: SERVER SERVER_SOFTWARE FileWrapper
gunicorn.http.wsgi: Response WSGIErrorsWrapper create base_environ default_environ proxy_environ
gunicorn.workers: SUPPORTED_WORKERS
gunicorn.workers.workertmp: WorkerTmp PLATFORM
gunicorn.workers.base: ...
gunicorn.workers.base: Worker WorkerTmp Response default_environ
gunicorn.workers.base_async: AsyncWorker ALREADY_HANDLED
gunicorn.workers.sync: SyncWorker StopWaiting
gunicorn.workers.gthread: ThreadWorker TConn PollableMethodQueue
gunicorn.workers.gasgi: ASGIWorker<Worker
gunicorn.workers.ggevent: GeventWorker GeventPyWSGIWorker
gunicorn.workers.geventlet: EventletWorker
gunicorn.workers.gtornado: TornadoWorker
"""

# Modules of the standard library that are attributes of Gunicorn's modules. Each is imported
# when somebody takes it from one of the modules here.
LIBRARY = set("""argparse ast asyncio base64 binascii copy email errno fcntl glob grp html importlib inspect io ipaddress
    json linecache logging os platform pwd queue random re select selectors shlex signal socket ssl stat struct sys
    tempfile textwrap threading time traceback urllib warnings""".split())
PLATFORM, SD_LISTEN_FDS_START, ALREADY_HANDLED, hop_headers = sys.platform, 3, object(), HOP_HEADERS
SERVER, SERVER_SOFTWARE = "gunicorn", "gunicorn/%d.%d.%d" % wsgi.VERSION


def member(module, word):
    """The object that a word of NAMES stands for."""
    name, _, base = word.partition("<")
    there = {**vars(http), **vars(servers), **globals(), **REQUEST_ERRORS}
    if name in there:
        return there[name]
    if word.endswith("()"):
        return refused(module, name[:-2])
    if base.endswith(("Worker", "Exception")):
        made = type(name, (there.get(base, Exception),), {"__module__": module})
    else:
        made = StandIn(name, (there.get(base, object),), {"__module__": module, "__init__": refuse_object})
    return globals().setdefault(name, made)


def make(name, words):
    module = MODULES.get(name) or sys.modules.get(name)
    if getattr(module, "__file__", None) != wsgi.NO_FILE:
        module = types.ModuleType(name)
        module.__file__ = wsgi.NO_FILE
    module.__getattr__ = functools.partial(imported, name)
    MODULES[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        MODULES[parent].__dict__.setdefault("__path__", [])
        vars(MODULES[parent]).setdefault(last, module)
    for word in list(REQUEST_ERRORS) if "..." in words else words:
        value = member(name, word)
        if getattr(value, "__module__", None) in (__name__, "_gunicorn.glogging", "_gunicorn.http", "_gunicorn.servers", "_gunicorn.workers"):
            value.__module__ = name
        vars(module).setdefault(word.partition("<")[0].rstrip("()"), value)


def imported(module, name):
    """An attribute that Gunicorn's module has by an import, or the class of a setting."""
    if name in LIBRARY:
        __import__(name)
        return sys.modules[name]
    if module == "gunicorn.workers.ggevent" and name in ("PyWSGIServer", "PyWSGIHandler"):
        value = servers.pywsgi(name)
        setattr(MODULES[module], name, value)
        return value
    for parent in ("gunicorn.", "gunicorn.http.", "gunicorn.workers.") if module.count(".") else ():
        if parent + name in MODULES:
            return MODULES[parent + name]
    if module == "gunicorn.config" and not name.startswith("__"):
        fill_settings()
    for setting in KNOWN_SETTINGS if module == "gunicorn.config" else ():
        if setting.__name__.lower() == name.lower():
            return setting
    raise AttributeError("module %r has no attribute %r" % (module, name))


for line in NAMES.strip().splitlines():
    make(line.partition(":")[0], line.partition(":")[2].split())
