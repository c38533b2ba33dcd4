"""The Python half of gunicorn: loads the application, and has it called by lane.py (WSGI)
or asgi.py. This file also runs configuration files, and holds what all Python processes
of the server share: frames, signals, the finder of modules. It is the module
_gunicorn.wsgi; the other files in this directory are modules of the same package.

The binary embeds this directory, and a worker runs it in a child process. The Python
half knows no HTTP and makes no policy: requests arrive parsed, responses leave as
status, headers and body, and the worker writes them to clients.

Descriptors, in the order in which the worker passes them (lane.go):
  3  the bridge           6  wire: frames of running requests, both ways
  4  settings, marshal    7  file into which faulthandler writes stacks
  5  queue of requests    8  memory shared with the worker: three words for each lane
  9, 10  log files, if the worker's user may be unable to open them
In a Python that the template process has forked, 5 to 8 have whatever numbers were free.

A frame is a header and a payload: some bytes of marshal, then raw body.
"""

import _thread
import errno
import faulthandler
import functools
import logging
import marshal
import os
import signal
import struct
import sys
from _frozen_importlib import ModuleSpec, module_from_spec
from _frozen_importlib_external import PathFinder
from types import FunctionType

# Slow and large modules are imported where they are needed, because every worker pays
# for each module that is loaded.
from _socket import AF_UNIX, MSG_PEEK, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket

# Real threads and locks, kept in case gevent or eventlet replaces them later.
start_thread, allocate_lock = _thread.start_new_thread, _thread.allocate_lock

BRIDGE, SETTINGS, QUEUE, WIRE, TRACE, PAGE = 3, 4, 5, 6, 7, 8
ERRORLOG, ACCESSLOG = 9, 10  # log files, if the workers' user is not the arbiter's
ANSWER = 5  # descriptor to which a configuration file's values are written

# A frame's header: length of the payload, request number, length of the marshal in the
# payload, kind, flags.
HEADER = struct.Struct("<IIIBBxx")
REQUEST_HEADER = struct.Struct("<IIIBBH")  # as HEADER, and the length of the marshal that requests have in common
QUEUE_MAX = 1 << 17  # bytes of the longest message in the queue, as in lane.go
# The memory shared with the worker, as in shared.go: the number of lanes that have words, and the bytes of all words,
# of all places and of a ring.
LANES = 4096
WORDS_SIZE, PLACES_SIZE, RING_SIZE = 65536, 4194304, 4194304
META_MAX = (4 << 20) - 16  # bytes of marshal in a frame, as in lane.go
PAIRS_MOST = META_MAX // 15 + 1  # headers that are too long for a frame even if empty: marshal takes 15 bytes for each

REQUEST, INDIRECT, BODY, OPEN, ASK, LENT, RECORD = 1, 2, 3, 4, 5, 6, 7  # from the worker
READY, RESPONSE, BLOCK, FILE, FAILED, READ, HINTS, WATCH = 8, 9, 10, 11, 12, 13, 14, 15
RETIRE, LOGGED, HERE, SOCKET, PIPE, LEFT, TAIL = 16, 17, 18, 19, 20, 21, 22
LAST, MORE, BROKEN, QUIET, CLOSE, STACKS, TAKEN, PUMPED = 1, 2, 4, 8, 16, 32, 64, 128  # flags
SHARED = STACKS  # flag of REQUEST, RESPONSE and BLOCK: the body is in shared memory


# Application ---------------------------------------------------------------

class AppImportError(Exception):
    """The application's module was imported, but has no object of the given name."""

    __module__ = "gunicorn.errors"


def load_app(spec):
    """The WSGI callable that MODULE[:OBJECT or CALL] names."""
    module_name, _, text = spec.partition(":")
    text = text or "application"
    try:
        __import__(module_name)
    except ImportError:
        if module_name.endswith(".py") and os.path.exists(module_name):
            raise ImportError("Failed to find application, did you mean '%s:%s'?"
                              % (module_name.rsplit(".", 1)[0], text))
        raise
    module = sys.modules[module_name]

    if text.isidentifier():
        name, args, kwargs = text, (), None
    else:
        name, args, kwargs = parse_call(text)
    try:
        app = getattr(module, name)
    except AttributeError:
        raise AppImportError("Failed to find attribute %r in %r." % (name, module_name))
    if kwargs is not None:
        try:
            app = app(*args, **kwargs)
        except TypeError as e:
            # The traceback of a wrong call ends in this frame. A TypeError from
            # deeper inside is the application's own.
            if e.__traceback__.tb_next is None:
                raise AppImportError("TypeError: %s" % e)
            raise
    if app is None:
        raise AppImportError("Failed to find application object: %r" % text)
    if not callable(app):
        raise AppImportError("Application object must be callable.")
    return app


def load_paste(uri, defaults=None, name=None):
    """The application of a file of PasteDeploy."""
    from paste.deploy import loadapp
    return loadapp(uri if ":" in uri else "config:" + uri, name=name, relative_to=os.getcwd(), global_conf=defaults)


def global_conf(pairs):
    """The global variables of PasteDeploy that KEY=VALUE pairs give; \\= is an equals sign."""
    import re
    found = {}
    for pair in pairs or ():
        key, equals, value = re.match(r"((?:\\=|[^=])*)(=?)(.*)", pair, re.S).groups()
        if not equals:
            raise RuntimeError("environment setting %r invalid" % pair)
        found[key.replace("\\=", "=")] = value.replace("\\=", "=")
    return found


def parse_call(text):
    """The name and the arguments, literal values, of a factory's call. The
    arguments are None for a name alone."""
    import ast
    try:
        expression = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise AppImportError("Failed to parse %r as an attribute name or function call." % text)
    if isinstance(expression, ast.Name):
        return expression.id, (), None
    if not isinstance(expression, ast.Call):
        raise AppImportError("Failed to parse %r as an attribute name or function call." % text)
    if not isinstance(expression.func, ast.Name):
        raise AppImportError("Function reference must be a simple name: %r" % text)
    try:
        args = [ast.literal_eval(arg) for arg in expression.args]
        kwargs = {k.arg: ast.literal_eval(k.value) for k in expression.keywords}
    except ValueError:
        raise AppImportError("Failed to parse arguments as literal values: %r" % text)
    return expression.func.id, args, kwargs


class App:
    """The application, as server.app and worker.app. Gunicorn's class for these objects is
    WSGIApplication, whose methods instrumentation patches, to return an application that
    is wrapped. If somebody may have done so, wsgi turns this object into one of that
    class. Otherwise the class need not be loaded."""

    def __init__(self, settings, cfg=None):
        self.settings, self.cfg, self.app_uri, self.callable = settings, cfg, settings["app"], None

    def load(self):
        if self.settings["paste"]:
            return load_paste(self.app_uri, global_conf(self.settings["raw_paste_global_conf"]))
        return load_app(self.app_uri)

    def wsgi(self):
        if self.callable is None and patchable():
            if self.cfg is None:
                from _gunicorn.facade import Config
                self.cfg = Config(self.settings)
            from gunicorn.app.wsgiapp import WSGIApplication
            self.__class__ = WSGIApplication
            return self.wsgi()
        if self.callable is None:
            self.callable = self.load()
        return self.callable


def set_up_path(settings):
    """Sets sys.path and sys.argv as an application under Gunicorn sees them."""
    if sys.path and sys.path[0] == "":  # the entry that python -c adds
        del sys.path[0]
    for path in (settings["start_dir"], settings["chdir"]):
        if path not in sys.path:
            sys.path.insert(0, path)
    for path in (settings["pythonpath"] or "").split(","):
        if path.strip():
            path = os.path.abspath(path.strip())
            if path not in sys.path:
                sys.path.insert(0, path)
    if "program" not in settings["said"]:
        sys.argv[:] = settings["argv"]
    import_gunicorn(settings["family"])


# Frames --------------------------------------------------------------------

GONE = (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTCONN)


def failed(error):
    """Handles an error of a call that writes to the wire."""
    if error.errno in GONE:
        os._exit(0)  # the worker is gone, and with it every client
    raise error


def end_of(kind, fd):
    """A blocking socket, whatever socket.setdefaulttimeout has set."""
    end = socket(AF_UNIX, kind, 0, fd)
    end.settimeout(None)
    return end


def frame(number, kind, meta=b"", flags=0):
    """A frame without a body."""
    return HEADER.pack(len(meta), number, len(meta), kind, flags) + meta


def meta_of(value):
    """The value as marshal for a frame."""
    meta = marshal.dumps(value, 2)
    if len(meta) > META_MAX:
        raise ValueError("%d bytes of headers; the server sends no more than 4 MB" % len(meta))
    return meta



IDLE = 2  # value of Wire.held while the server waits for a request


class Wire:
    """Python's end of a wire: a socket, and a pipe for frames to the worker, which takes
    less time. Descriptors go over the socket, and long bodies that find no room in the ring."""

    held = IDLE  # false while the application runs, where signal handlers may raise exceptions
    caught = None  # exception that a signal handler has raised while a frame was under way
    ring = None  # for long bodies; the first lanes have one
    meta = b""  # the last head of a response that was checked (Call.start_response)

    def let_go(self, held):
        """Ends a section that signal handlers must not interrupt; held is the value from
        before it. At the end of the outermost section, an exception that was held back
        is raised."""
        self.held = held
        if self.caught and not held:
            caught, self.caught = self.caught, None
            raise caught

    def await_answer(self):
        """Waits for the first byte of an answer, and leaves the byte. Signal handlers may
        interrupt this wait."""
        if not self.held:
            self.end.recv(1, MSG_PEEK)

    def __init__(self, end):
        self.end, self.apart = end, None
        self.recv_into, self.recvmsg, self.recvmsg_into = end.recv_into, end.recvmsg, end.recvmsg_into
        try:
            outer, self.pipe = os.pipe()
        except OSError:  # too many files are open
            self.pipe = end.fileno()
            return
        end.sendmsg((frame(0, PIPE),), [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", outer))])
        os.close(outer)
        self.apart = end

    def close(self):
        self.end.close()
        self.ring = None
        if self.apart:
            os.close(self.pipe)

    def say(self, data, write=os.write):
        held, self.held = self.held, True
        try:
            n = write(self.pipe, data)
            if n < len(data):
                left = memoryview(data)[n:]
                while left:
                    left = left[write(self.pipe, left):]
        except BaseException as e:
            self.keep(e)
        self.held = held
        if self.caught:
            self.let_go(held)

    def sendmsg(self, buffers, control=()):
        if control:
            if not self.apart:
                return self.end.sendmsg(buffers, control)
            self.put(self.end.sendmsg, (b"-",), control)
        n = self.put(os.writev, self.pipe, buffers)
        return sum(map(len, buffers)) if n is None else n

    def put(self, write, *args):
        """Writes a part of a frame."""
        try:
            return write(*args)
        except BaseException as e:
            self.keep(e)

    def keep(self, error):
        """Keeps an exception that another thread has raised in this one until the frame
        ends. Such an exception comes when the system call is over, so that the call's
        part of the frame has been written whole."""
        if isinstance(error, OSError) and error.errno:
            failed(error)
        self.caught = error


def leave_children_out(lanes):
    """Detaches children that the application forks: they have no lane, and TERM ends
    them, as multiprocessing expects."""
    def detach():
        for lane in lanes:
            lane.queue.close()
            lane.wire.close()
        for number in STOP:
            if signal.getsignal(number) is forward:
                signal.signal(number, signal.SIG_DFL)
        release_signals()
    os.register_at_fork(before=hold_signals, after_in_parent=release_signals, after_in_child=detach)


def say_ready(say, files):
    say(frame(0, READY, meta_of(sys.version.split()[0])))
    report(say, files)


def report(say, files):
    """Tells the worker which files to watch, with --reload."""
    fresh = files and files.new()
    while fresh:
        say(frame(0, WATCH, meta_of(fresh)))
        fresh = files.new()


def unpatched(name, *parts):
    """Parts of a built-in module as they are, whatever gevent or eventlet has put there."""
    module = __import__(name)
    held = dict(vars(module))
    made = module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(made)
    found = [getattr(made, part) for part in parts]
    for key in set(vars(module)) - set(held):  # in some versions of Python both are the same module
        delattr(module, key)
    vars(module).update(held)
    return found


def say_here(say, flags):
    """Answers an ASK frame: the process is alive. STACKS asks for the stacks first."""
    if flags & STACKS:
        faulthandler.dump_traceback(TRACE, all_threads=True)
    say(frame(0, HERE, flags=flags))


# Configuration file --------------------------------------------------------

def read_config(spec, paste, path, names):
    """Runs the configuration file spec (PATH or python:MODULE, "" for none) as a program
    started in the directory path. Returns the file's module, and a dict in a form for
    marshal: the file's globals that are in names, and the settings of PasteDeploy's file if
    paste or the configuration file names one. An error in a file ends this process."""
    if path not in sys.path:
        sys.path.insert(0, path)
    import gunicorn  # a file may count on sys.modules["gunicorn"], as under Gunicorn
    if spec.startswith("python:"):
        try:
            module = config_module({"config": spec})
        except Exception as e:
            fail(e)
    elif spec:
        module = run_config(spec, os.path.join(path, spec))
    else:
        module = type(sys)("__config__")
    sys.stdout.flush()
    answer = describe(module, names)
    paste = paste or getattr(module, "paste", None)
    if paste:
        answer["gunicorn"]["paste"] = read_paste(os.path.abspath(os.path.join(path, paste)))
    return module, answer


def read_paste(uri):
    """The settings that the file of PasteDeploy has in its section server:main. Host and
    port are PasteDeploy's words for an address."""
    from configparser import ConfigParser, Error
    path = uri.partition("#")[0]
    try:
        import paste.deploy
        with open(path) as f:
            parser = ConfigParser({"here": os.path.dirname(path), "__file__": path})
            parser.read_file(f)
        found = dict(parser.items("server:main") if parser.has_section("server:main") else ())
    except FileNotFoundError:
        fail("%r not found" % path)
    except (ImportError, OSError, UnicodeError, Error) as e:
        fail(e)
    host, port = found.pop("host", ""), found.pop("port", "")
    if host:
        found["bind"] = "%s:%s" % (host, port) if port else host.split(",")
    found.setdefault("default_proc_name", path)
    if parser.has_section("loggers"):
        found.setdefault("logconfig", path)
    return found


def fail(reason):
    print("\nError: %s" % reason, file=sys.stderr, flush=True)
    sys.exit(1)


def describe(module, names):
    """The globals of a configuration file's module that are in names, in a form for marshal,
    and further facts about the file."""
    answer = {}
    for name, value in vars(module).items():
        if name in ("worker_class", "logger_class") and isinstance(value, FunctionType):
            value = value()
        if name in names:
            answer[name] = portable(value)
    answer["gunicorn"] = said(module)
    return answer


def said(module):
    """Facts about a configuration file that are no values of settings, or are values for
    which portable has no form."""
    facts = {}
    software = "gunicorn/%s" % sys.modules["gunicorn"].__version__
    for name in ("gunicorn", "gunicorn.http.wsgi"):
        place = sys.modules.get(name) or package().get(name)
        if place and place.SERVER != "gunicorn":
            facts["server"] = str(place.SERVER)
        if place and place.SERVER_SOFTWARE != software:
            facts["software"] = str(place.SERVER_SOFTWARE)
    if package() or any(name.startswith(("gunicorn.", "uvicorn")) for name in sys.modules):
        from _gunicorn import patches
        facts["replaced"] = patches.replaced()
    facts["uvicorn"] = any(name.startswith("uvicorn") for name in sys.modules)
    facts["classes"] = {}
    for name in ("worker_class", "logger_class"):
        value = getattr(module, name, None)
        if isinstance(value, FunctionType):
            value = value()
        if isinstance(value, type):
            facts["classes"][name] = ["%s.%s" % (c.__module__, c.__qualname__) for c in value.__mro__]
    loggers = logging.root.manager.loggerDict
    if any(getattr(loggers.get(name), "filters", None) or getattr(loggers.get(name), "handlers", None)
           for name in ("gunicorn.error", "gunicorn.access")):
        facts["loggers"] = True  # the file has set up these loggers, so logs have to be made in Python
    try:
        facts["logconfig_dict"] = marshal.dumps(getattr(module, "logconfig_dict", {}), 2)
    except ValueError:
        facts["logconfig_dict"] = None  # classes and objects cannot leave the process: logs need the module itself
    return facts


def config_module(settings):
    """The configuration file as a module, for values that cannot leave a process. A
    process that has not run the file runs it now."""
    spec = settings["config"]
    if spec.startswith("python:"):
        import importlib
        return importlib.import_module(spec[len("python:"):])
    if "__config__" not in sys.modules:
        if spec.startswith("file:"):
            spec = spec[len("file:"):]
        run_config(spec, os.path.join(settings["start_dir"], spec))
    return sys.modules["__config__"]


def run_config(name, path):
    import importlib.machinery
    import importlib.util
    import traceback
    if os.path.splitext(path)[1] not in (".py", ".pyc"):
        print("!!!\n!!! WARNING: configuration file should have a valid Python extension.\n!!!\n",
              file=sys.stderr, flush=True)
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader("__config__", path)
    else:
        loader = importlib.machinery.SourceFileLoader("__config__", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(
        "__config__", path, loader=loader))
    sys.modules["__config__"] = module
    try:
        loader.exec_module(module)
    except Exception:
        sys.stdout.flush()
        print("Failed to read config file: " + name, file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        sys.exit(1)
    return module


def point_out(module, names):
    """Prints which variables of the file were perhaps meant as settings."""
    for name in vars(module):
        if name in names or name.startswith("_"):
            continue
        longer = [setting for setting in names if setting.startswith(name + "_")]
        meant = longer if len(longer) == 1 else []
        meant += [setting for setting in names if one_edit(name, setting)]
        if meant:
            print("gunicorn: %s: not a setting; did you mean %s?" % (name, " or ".join(meant)),
                  file=sys.stderr, flush=True)


def one_edit(a, b):
    """Whether adding, dropping or changing one character turns a into b."""
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1:
        return False
    same = 0
    while same < len(a) and a[same] == b[same]:
        same += 1
    return a[same + 1:] == b[same + 1:] if len(a) == len(b) else a[same:] == b[same + 1:]


def portable(value, depth=16):
    """The value in a form for marshal: a scalar or a list. For any other value, a dict
    that describes the value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 63 else str(int(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, bytes):
        return bytes(value)
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [portable(v, depth - 1) for v in value]
    if depth and isinstance(value, dict):
        return {"type": "dict", "items": [(portable(k, depth - 1), portable(v, depth - 1)) for k, v in value.items()]}
    if callable(value):
        return {"type": "callable", "params": positional_params(value),
                "name": getattr(value, "__qualname__", type(value).__qualname__)}
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return {"type": "object", "class": type(value).__name__, "repr": text}


def positional_params(function):
    """The number of a function's positional parameters, -1 if unknown."""
    import inspect  # slow to load, and only hooks need it
    try:
        params = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return -1
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in params)


# Process -------------------------------------------------------------------

VERSION = (26, 1, 0)  # version of Gunicorn whose interface the modules of package.py have
NO_FILE = "<gunicorn package.py>"  # the __file__ of the modules of package.py
WORKERS = {"sync": "sync", "gthread": "gthread", "gevent": "ggevent", "eventlet": "geventlet", "asgi": "gasgi"}

# Modules of package.py that every Python imports before the application, as under
# Gunicorn: some programs look for them in sys.modules. They are empty until somebody
# uses them, because package.py takes time and memory.
OUTLINES = {"gunicorn", "gunicorn.app", "gunicorn.app.base", "gunicorn.app.wsgiapp", "gunicorn.workers",
            *("gunicorn.workers." + name for name in WORKERS.values())}


class Finder:
    """Finds the modules of _gunicorn, and the modules of gunicorn in package.py unless the
    real package is installed. The finder comes after the import hooks of instrumentation,
    and before the finder that searches sys.path, so that a directory of the user's with the
    name gunicorn is not taken for the package."""

    settings = None  # settings with which __config__ can be imported, None if it cannot

    def find_spec(self, name, path=None, target=None):
        if name.startswith("_gunicorn.") or name == "__config__" and self.settings:
            return ModuleSpec(name, self)
        if name == "gunicorn":
            real = PathFinder.find_spec(name)
            for place in real and real.submodule_search_locations or ():
                if os.path.exists(os.path.join(place, "glogging.py")):
                    return real
        elif not name.startswith("gunicorn.") or not is_small():
            return None
        if name in OUTLINES and not package():
            return ModuleSpec(name, self, is_package=name.count(".") < 2)
        module = package(True).get(name)
        return module and ModuleSpec(name, self, is_package=hasattr(module, "__path__"))

    def get_code(self, name):
        """The code for python -m."""
        text = "from _gunicorn.program import main; main()" if name == "gunicorn.app.wsgiapp" else ""
        return compile(text, NO_FILE, "exec")

    def create_module(self, spec):
        if spec.name == "__config__":
            return config_module(self.settings)
        return None if spec.name.startswith("_gunicorn.") else package().get(spec.name)

    def exec_module(self, module):
        name = module.__name__
        if name.startswith("_gunicorn."):
            exec(load(name[len("_gunicorn."):] + ".py"), module.__dict__)
        elif name in OUTLINES and not hasattr(module, "__file__"):
            module.__file__ = NO_FILE
            module.__getattr__ = functools.partial(fill, module)
            if name == "gunicorn":
                version = "%d.%d.%d" % VERSION
                module.__dict__.update(version_info=VERSION, __version__=version, SERVER="gunicorn",
                                       SERVER_SOFTWARE="gunicorn/" + version)


finder = Finder()


def package(wanted=False):
    """The modules of package.py by name, none if that file is not loaded or wanted."""
    if wanted or "_gunicorn.package" in sys.modules:
        from _gunicorn.package import MODULES
        return MODULES
    return {}


def is_small():
    """Whether the module gunicorn is the one of package.py, and not the real package."""
    return getattr(sys.modules["gunicorn"], "__file__", None) == NO_FILE


def fill(module, name):
    """The attribute of a module that was empty: loading package.py fills it."""
    if name.startswith("__"):
        raise AttributeError("module %r has no attribute %r" % (module.__name__, name))
    package(True)
    return getattr(module, name)


def import_gunicorn(family):
    import gunicorn
    if is_small():
        for name in ("app.base", "app.wsgiapp", "workers." + WORKERS.get(family, "base")):
            __import__("gunicorn." + name)


def patchable():
    """Whether somebody may have patched what loads applications: the modules are in use,
    or an import hook waits for them. The real package's modules take longer to import
    than all else at the start, so they are not imported for nothing."""
    if is_small():
        return bool(package())
    names = ("gunicorn.util", "gunicorn.app.base", "gunicorn.app.wsgiapp")
    hooks = [hook for hook in sys.meta_path[:sys.meta_path.index(finder)] if hasattr(hook, "find_spec")]
    return any(name in sys.modules or any(hook.find_spec(name, None) for hook in hooks) for name in names)


STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
ANNOUNCED = 64  # as in worker.go


def hold_signals():
    # A signal that reached a new child before detach would be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


def release_signals():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


owner = 0  # the worker's pid if the worker is not the parent process, else 0


def own(pid):
    global owner
    owner = pid


def forward(number, frame):
    """Forwards a signal to the worker, for which it is meant."""
    send_signal(owner or os.getppid(), number)


served, arbiter = 0, 0  # pids of this process and of the arbiter, in a process that runs the application
send_signal = os.kill


@functools.wraps(send_signal)
def kill(pid, number):
    """Stands in for os.kill. A signal that the application sends to its parent goes to the
    arbiter, which is the parent under Gunicorn."""
    send_signal(arbiter if os.getpid() == served and pid == os.getppid() else pid, number)


stopping = False  # the application's handler of a stop signal has been called
raise_stop = signal.raise_signal


def announced(number, frame):
    """Calls the application's handler of a stop signal, because the worker has got the signal."""
    global stopping
    if not stopping:
        stopping = True
        raise_stop(ANNOUNCED - number)


def ignore(number, frame):
    pass


class Guarded:
    """A signal handler of the application's. It may raise exceptions wherever the
    application runs. An exception amidst a frame would leave half a frame on the wire,
    so it is raised at the end of the frame. An exception between two requests has
    nobody to catch it, and is logged and dropped. A handler of a stop signal may exit: the
    worker then leaves, after the running requests."""

    wire = log = None  # wire and log of the main thread, once they exist

    def __init__(self, handler):
        self.handler = handler

    def __call__(self, number, frame):
        global stopping
        try:
            self.handler(number, frame)
        except BaseException as e:
            if number in STOP and isinstance(e, SystemExit):
                stopping = True
                return forward(number, frame)
            if not self.wire or not self.wire.held:
                raise
            self.wire.caught = e
            if self.wire.held is IDLE:
                self.log.error("A signal handler raised %r between requests; it is ignored", e)


def guard_handlers(*own):
    """Guards the signal handlers that are set, except for our own, and those that will be set."""
    set_handler, get_handler = signal.signal, signal.getsignal

    def bare(handler):
        return handler.handler if type(handler) is Guarded else handler

    def guard(number, handler):
        if number in STOP and callable(handler):
            set_handler(ANNOUNCED - number, announced)
        return bare(set_handler(number, Guarded(handler) if callable(handler) else handler))

    def getsignal(number):
        return bare(get_handler(number))

    for number in signal.valid_signals():
        handler = getsignal(number)
        if callable(handler) and handler not in own:
            guard(number, handler)
    signal.signal, signal.getsignal = functools.wraps(set_handler)(guard), functools.wraps(get_handler)(getsignal)


def set_up_process(guarded=True):
    """Prepares a process that serves. A class that has a server of its own is not guarded."""
    global served, arbiter
    from _gunicorn.logs import reopen_logs
    try:
        with open("/proc/%d/stat" % os.getppid()) as f:
            served, arbiter = os.getpid(), int(f.read().rpartition(")")[2].split()[1])
    except OSError:
        pass  # some systems hide the processes of others; the application may not signal them either
    # faulthandler writes every thread's stack when the worker sends ABRT or the
    # application crashes, even inside C code.
    if sys.version_info >= (3, 14):
        faulthandler.enable(TRACE, all_threads=True, c_stack=False)
    else:
        faulthandler.enable(TRACE, all_threads=True)
    if guarded:
        for number in STOP:
            signal.signal(number, forward)
    # These are handlers and not SIG_IGN, which programs started by the application
    # would inherit.
    for number, handler in ((signal.SIGUSR1, reopen_logs), (signal.SIGWINCH, ignore)):
        signal.signal(number, handler)
    if guarded:
        guard_handlers(forward, ignore, reopen_logs)
    else:
        from _gunicorn.workers import set_up_process
        set_up_process()


def find_title():
    """Has setproctitle find the memory of the process title, as Gunicorn does. setproctitle
    finds that memory by the first variable of the environment, and so has to look before
    anybody replaces the variable."""
    try:
        from setproctitle import getproctitle
    except ImportError:
        return
    getproctitle()


def read_settings():
    with open(SETTINGS, "rb") as f:
        return marshal.loads(f.read())


def serve():
    for fd in (QUEUE, WIRE, TRACE, PAGE):
        os.set_inheritable(fd, False)
    set_up_process()
    find_title()
    settings = read_settings()
    set_up_path(settings)
    from _gunicorn import logs
    logs.open_outbox(settings)
    log = logs.set_up_logging(settings)
    if settings["credential"]:
        for name, fd in (("errorlog", ERRORLOG), ("accesslog", ACCESSLOG)):
            if settings[name] not in (None, "", "-"):
                os.close(fd)
    if settings["family"] == "asgi":
        from _gunicorn.asgi import Server as Lane
    else:
        from _gunicorn.lane import Lane, patch
        patch(settings)
    app, files = open_app(settings, App(settings), log)
    Lane(settings, app, log, files).serve()


def open_app(settings, app, log):
    """The WSGI or ASGI callable of app and, with --reload, its files, else None."""
    files = None
    if settings["reload"] or settings["spew"]:
        from _gunicorn import debug
    if settings["reload"]:
        files = debug.Files()
    if settings["spew"]:
        debug.spew()
    try:
        return app.wsgi(), files
    except BaseException as e:
        if files is None:
            refuse(e, log)
        log.exception(e)
        files.missed(e)
        return debug.failed_app(e, settings["family"] == "asgi"), files


def refuse(error, log):
    """Ends this process, because the application could not be loaded."""
    if "AppImportError" in [c.__name__ for c in type(error).__mro__]:  # the real package has one, too
        if log.isEnabledFor(logging.DEBUG):
            log.debug("", exc_info=True)
        else:
            print(error, file=sys.stderr, flush=True)
        sys.exit(4)
    log.exception("Exception in worker process")
    print(error, file=sys.stderr, flush=True)
    sys.exit(3)


def check():
    """--check-config: checks whether the application can be loaded."""
    settings = read_settings()
    set_up_path(settings)
    try:
        check_app(settings)
    except BaseException:
        import traceback
        traceback.print_exc()
        sys.exit(1)


def check_app(settings):
    try:
        App(settings).wsgi()
    except BaseException:
        print("\nError while loading the application:\n", file=sys.stderr)
        raise


def config():
    """Runs a configuration file, writes its values to descriptor ANSWER, and becomes the
    template process."""
    question = read_settings()
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    from _gunicorn import hooks
    find_title()
    module, answer = None, {}
    if question["spec"] or question["paste"]:
        module, answer = read_config(question["spec"], question["paste"], question["dir"], question["names"])
        if question["check"]:
            point_out(module, question["names"])
    with open(ANSWER, "wb") as f:
        f.write(marshal.dumps(answer, 2))
    # The template process runs until the arbiter closes the control socket.
    os.set_inheritable(hooks.CONTROL, False)
    template = hooks.Template(module, end_of(SOCK_SEQPACKET, hooks.CONTROL))
    worker = template.run()
    hooks.serve(template, worker)


def log():
    """Runs the process that makes the logs of the whole server."""
    settings = read_settings()
    set_up_path(settings)
    from _gunicorn.glogging import keep_log
    keep_log(settings, end_of(SOCK_SEQPACKET, ANSWER), ANSWER + 1, os.getppid())


def buffer_lines():
    """Makes standard error write each line at once, as newer versions of Python do: a
    traceback must not wait for the end of the process."""
    if sys.version_info < (3, 9) and hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(line_buffering=True)


def start(role):
    """The life of a Python that the server has started. An installed package has a copy of
    this file, which only defines things for programs that import gunicorn."""
    # sitecustomize, say, may have imported the installed package already. The modules of
    # the running server replace the installed ones.
    if "gunicorn" in sys.modules and is_small():
        for name in list(sys.modules):
            if name.lstrip("_").partition(".")[0] == "gunicorn" and name not in ("_gunicorn", "_gunicorn.wsgi"):
                del sys.modules[name]
    os.kill = kill
    os.set_inheritable(BRIDGE, False)
    buffer_lines()
    sys.meta_path.insert(sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0, finder)
    {"serve": serve, "check": check, "config": config, "log": log}[role]()
