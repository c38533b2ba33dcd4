"""The template process, server hooks, and Pythons forked by the template: the Python
half of generation.go.

The template is the process that has run the configuration file. The arbiter asks the
template to call server hooks, one question at a time, and each worker asks it once to
fork a Python that serves. Values that hooks store in the file's globals, on server or
on worker, are there in every Python that is forked later. A reload runs the file again
in the same process, the host. If the application has to be loaded anew, a second
process, the forker, has run the file too, and forks in place of the host.
"""

import gc
import marshal
import os
import signal
import struct
import sys
# These functions are those that gevent or eventlet cannot have replaced.
from _signal import SIG_DFL, signal as set_handler
from _socket import MSG_CMSG_CLOEXEC, MSG_DONTWAIT
from posix import fork, read, waitpid

from _gunicorn import logs, wsgi
from _gunicorn.call import Counted
from _gunicorn.facade import (HOP_HEADERS, PARAMETERS, Config, Request, Response, Worker, key_of,
                              unquoted, validate_callable)
from _gunicorn.lane import Lane, patch

POLLIN, poll = wsgi.unpatched("select", "POLLIN", "poll")
ENVIRON = dict(os.environ)  # as the server was started with
CONTROL = 6  # descriptor of the control socket, on which the arbiter asks
SIGNED = struct.Struct("<cI")  # a message to a worker: b"P" and pid, or b"S" and status


class Listener:
    """An element of server.LISTENERS. The socket itself belongs to the arbiter."""

    sock = None  # the socket, in the Python of a class that serves by itself

    def __init__(self, text, name, fd, cfg_addr):
        self.text, self.name, self.fd, self.cfg_addr = text, name, fd, cfg_addr

    def open(self, fd):
        import socket
        self.sock = socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self.fd, self.name, self.FAMILY = fd, self.sock.getsockname(), self.sock.family

    def __str__(self):
        return self.text

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def getsockname(self):
        return self.name

    def fileno(self):
        return self.fd

    def close(self):
        if self.sock:
            self.sock.close()


class Server:
    """The arbiter, as hooks see it."""

    def __init__(self, cfg, log, app, pid):
        self.app, self.pid = app, pid
        self.WORKERS, self.LISTENERS = {}, []
        self.worker_age, self.asking, self.wanted = 0, False, cfg.workers
        self.use(cfg, log)
        self.master_name = "Master"
        self.master_pid = self.reexec_pid = 0
        self.systemd = False
        self.START_CTX = {"args": list(sys.argv), 0: sys.executable}

    def use(self, cfg, log):
        self.cfg = self.app.cfg = cfg
        if "app" in cfg.settings:  # not in a program that runs itself
            self.app.app_uri = cfg.app
        self.log, self.worker_class, self.timeout = log, cfg.worker_class, cfg.timeout
        self.address, self.proc_name = cfg.address, cfg.proc_name

    @property
    def num_workers(self):
        return self.wanted

    @num_workers.setter
    def num_workers(self, number):
        # While the arbiter asks, the answer carries the number to it. At other
        # times signals do.
        if not self.asking:
            more = number - self.wanted
            for _ in range(min(abs(more), 1000)):
                os.kill(self.pid, signal.SIGTTIN if more > 0 else signal.SIGTTOU)
        self.wanted = number

    def kill_worker(self, pid, number):
        worker = self.WORKERS.get(pid)
        os.kill(worker.server_pid if worker else pid, number)

    def kill_workers(self, number):
        for pid in list(self.WORKERS):
            self.kill_worker(pid, number)

    def reload(self):
        os.kill(self.pid, signal.SIGHUP)

    def wakeup(self):
        pass


class Heartbeat:
    """The object worker.tmp, which does nothing: the worker process has the heartbeat."""

    def notify(self):
        pass

    close = notify

    def last_update(self):
        import time
        return time.monotonic()


class HookedWorker(Worker):
    """A worker as hooks see it: in the template before the fork and after the worker's
    end, and in the forked Python in between."""

    def __init__(self, age, server, server_pid):
        super().__init__(age, server.pid, list(server.LISTENERS), server.app, server.cfg.timeout / 2, server.cfg, server.log)
        self.server_pid, self.tmp, self.of = server_pid, Heartbeat(), None  # of: the worker's settings and hooks
        self.max_requests = server.cfg.max_requests or sys.maxsize
        self.wsgi = self.reloader = None


class Hooks:
    """The functions of the configuration file, by name."""

    def __init__(self, module, names):
        self.functions = {}
        for name in names:
            try:
                hook = getattr(module, name)
                if isinstance(hook, str):  # the arbiter has checked functions
                    hook = validate_callable(*PARAMETERS.get(name, (1,)))(hook)
                self.functions[name] = hook
            except Exception as e:
                print("Invalid value for %s: %s\n\n\nError: %s" % (name, hook, e), file=sys.stderr, flush=True)
                raise WrongHook

    def __contains__(self, name):
        return name in self.functions

    def call(self, name, *args):
        if name in self.functions:
            self.functions[name](*args)

    def post_request(self, *args):
        function = self.functions["post_request"]
        import inspect
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        n = sum(p.kind in kinds for p in inspect.signature(function).parameters.values())
        self.functions["post_request"] = lambda *args: function(*args[:n])
        self.post_request = self.functions["post_request"]
        self.post_request(*args)


def exit_status(e):
    """The exit status that a SystemExit asks for. As Python does, other values than
    numbers are printed."""
    if e.code is None or isinstance(e.code, int):
        return (e.code or 0) & 255
    print(e.code, file=sys.stderr, flush=True)
    return 1


def plain(thing, own):
    """The attributes that hooks have set on server or worker, as far as marshal can pass them
    to another process."""
    kept = {}
    for name in set(vars(thing)) - set(vars(own)):
        try:
            kept[name] = marshal.loads(marshal.dumps(vars(thing)[name]))
        except ValueError:
            pass  # an object of some class
    return kept


def set_environ(environ):
    """Makes os.environ equal to environ. Variables that do not differ are left alone, because
    setproctitle looks for the first variable where the kernel has put that."""
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(pair for pair in environ.items() if os.environ.get(pair[0]) != pair[1])


def loggers():
    import logging
    return logging.getLogger("gunicorn.error"), logging.getLogger("gunicorn.access")


# Modules that Gunicorn's master, Flask, Django or FastAPI import. Each imports others.
LIBRARY = (
    "argparse copy dataclasses datetime decimal difflib email.message email.parser email.utils glob grp hashlib hmac html "
    "http.client http.cookies importlib.metadata inspect json logging.config mimetypes numbers pickle platform pprint pwd "
    "queue random secrets selectors shlex shutil socket ssl tempfile textwrap threading traceback typing unicodedata uuid zipfile")


def import_library(names):
    """Imports modules of the standard library, which all children then share. A module is
    forgotten again if the user has a file of the same name, which the application may want."""
    place = os.path.dirname(os.__file__)
    path, known = sys.path[:], set(sys.modules)
    sys.path[:] = place, place + "/lib-dynload"
    try:
        for name in names.split():
            try:
                __import__(name)
            except ImportError:
                pass  # some are not part of every system's Python
    finally:
        sys.path[:] = path
    files = set()
    for other in path[:path.index(place) if place in path else len(path)]:
        try:
            files.update(file.partition(".")[0] for file in os.listdir(other))
        except OSError:
            pass
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in files:
            del sys.modules[name]


class WrongHook(Exception):
    """A setting does not lead to a hook; the reason has been printed."""


def hashable(address):
    """An address as Python's socket module has it: the arbiter sends a list in place of a tuple."""
    return tuple(address) if isinstance(address, list) else address


class Template:
    """The process that has run the configuration file; module is the file as a module. In a
    program that runs itself, program stands for the file, and is read when the arbiter
    asks."""

    def __init__(self, module, control, program=None):
        self.module, self.control, self.program, self.status = module, control, program, None
        self.poll = poll()
        self.channels = {}  # by descriptor: the socket on which a worker asks, and the worker
        self.children = {}  # by pid of a forked Python: the descriptor of its worker's socket
        self.server = self.settings = self.hooks = None
        self.forks = False  # this process is a forker, which reports its children to the host
        self.forker, self.forkers = None, {}  # in a host: the forker in use, and all forkers by descriptor
        self.lent = {}  # by age: workers whose Python a forker forks
        self.former = None  # the state that do_back restores
        self.records = None  # Python's factory of log records, before logs in Python have replaced it
        self.share = False  # import the standard library before the next fork
        self.worker_class, self.makes = None, False  # a class of the user's; makes: its objects are the workers

    def take_signals(self):
        """Leaves decisions about signals to the arbiter, whatever handlers the file has set."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, wsgi.ignore)
        signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getppid(), number))
        signal.signal(signal.SIGUSR1, logs.reopen_logs)

    def run(self):
        """Answers questions until the arbiter has closed the control socket and every
        child has ended. Returns only in a child, with the worker to be."""
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        set_handler(signal.SIGCHLD, wsgi.ignore)
        self.take_signals()
        self.own = (wake_r, wake_w)
        for fd in (wake_r, self.control.fileno()):
            self.poll.register(fd, POLLIN)
        ended = False
        while not ended or self.children:
            # Take one event at a time, as handling it can make the others stale.
            fd, events = self.poll.poll()[0]
            if fd == wake_r:
                try:
                    read(wake_r, 4096)
                except BlockingIOError:
                    pass
                self.reap()
            elif fd in self.forkers:
                self.hear(fd)
            elif fd == self.control.fileno():
                for other in list(self.forkers):
                    self.hear(other)  # reports from before the question
                data, fds = self.receive(self.control, 1 << 19)
                if data:
                    self.obey(marshal.loads(data), fds)
                    continue
                ended = True  # no more forks: wait for the children that live
                self.poll.unregister(fd)
                for other in set(self.channels) - set(self.children.values()):
                    self.drop(other)
            elif events != POLLIN:
                self.left(fd)
            elif self.fork(fd):
                return self.worker
        if self.status is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the arbiter's last word if this takes too long
            sys.exit(self.status)  # the rest of the program runs, as after Gunicorn's run
        # Exit as Gunicorn's master does, but do not wait for threads.
        import atexit
        atexit._run_exitfuncs()
        os._exit(0)

    def receive(self, sock, size):
        """Receives a message, and the descriptors that came with it."""
        fds = []
        data, control, _, _ = sock.recvmsg(size, 1024, MSG_CMSG_CLOEXEC)
        for level, kind, packed in control:
            if level == wsgi.SOL_SOCKET and kind == wsgi.SCM_RIGHTS:
                fds.extend(struct.unpack("%di" % (len(packed) // 4), packed[:len(packed) // 4 * 4]))
        return data, fds

    def obey(self, question, fds):
        if question["do"] == "leave":
            self.status = question["status"]
            return
        if question["do"] != "adopt":
            self.answer(question, fds)
            return
        server = self.server
        if self.share:  # the worker's own process starts meanwhile
            self.share = False
            import_library(LIBRARY)
            if self.settings["family"] == "asgi":
                import_library("asyncio")
        worker = self.make(question["age"], question["worker"])
        if worker is None:
            os.close(fds[0])  # the worker finds its socket closed
            return
        server.worker_age, worker.of = max(server.worker_age, worker.age), (self.settings, self.hooks)
        if self.forks:
            vars(server).update(question["server"])
            vars(worker).update(question["of"])
        else:
            self.guard(lambda: self.hooks.call("pre_fork", server, worker))
        if self.forker:
            question.update(server=plain(server, Server(server.cfg, server.log, server.app, 0)),
                            of=plain(worker, HookedWorker(0, server, 0)))
            self.lent[worker.age] = worker
            try:
                self.forker.sendmsg([marshal.dumps(question, 2)], [(wsgi.SOL_SOCKET, wsgi.SCM_RIGHTS, struct.pack("i", *fds))])
            except OSError:
                pass  # the forker is gone; the worker finds its socket closed
            os.close(fds[0])
            return
        channel = wsgi.socket(wsgi.AF_UNIX, wsgi.SOCK_SEQPACKET, 0, fds[0])
        channel.setblocking(False)  # the worker may be another user, for whom the template must never wait
        self.channels[fds[0]] = channel, worker
        self.poll.register(fds[0], POLLIN)

    def make(self, age, server_pid):
        """A worker that is going to be forked. An exception in a class of the user's ends the
        server or, after a reload, makes the worker fail to boot."""
        server = self.server
        if self.forker or not self.makes:
            return HookedWorker(age, server, server_pid)
        from _gunicorn import workers
        try:
            return workers.make(self.worker_class, age, server, server_pid, self.settings)
        except BaseException as e:
            server.log.exception("worker_class: %s has failed in __init__: %r", self.settings["said"]["class"]["name"], e)
            if self.first and self.program:
                sys.exit(255)
            elif self.first:
                os._exit(255)

    def hear(self, fd):
        """Receives what a forker reports about its children."""
        while True:
            try:
                data = self.forkers[fd].recv(64, MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.poll.unregister(fd)
                self.forkers.pop(fd).close()
                return
            age, pid, status = marshal.loads(data)
            if status is None:
                self.began(self.lent[age], pid)
            else:
                self.ended(self.lent.pop(age), status)

    def report(self, worker, status):
        try:
            self.control.send(marshal.dumps((worker.age, worker.pid, status), 2))
        except OSError:
            pass  # the host is gone

    def began(self, worker, pid):
        worker.pid = pid
        self.server.WORKERS[pid] = worker
        if self.forks:
            self.report(worker, None)

    def ended(self, worker, status):
        self.server.WORKERS.pop(worker.pid, None)
        if self.forks:
            self.report(worker, status)
        elif not (os.WIFEXITED(status) and os.WEXITSTATUS(status) in (3, 4) and not worker.booted):
            self.guard(lambda: self.hooks.call("child_exit", self.server, worker))

    def drop(self, fd):
        """Closes the socket of a worker that needs the template no more."""
        self.poll.register(fd, 0)  # so that unregister works, whether fd is registered or not
        self.poll.unregister(fd)
        self.channels.pop(fd)[0].close()

    def left(self, fd):
        """Ends the Python of a worker that is gone, as nobody else would."""
        self.poll.unregister(fd)
        pids = [pid for pid, other in self.children.items() if other == fd]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)  # reap does the rest
        if not pids:
            self.drop(fd)

    def answer(self, question, fds):
        do = question.pop("do")
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # an INT from the arbiter ends a hook with a traceback
            result = getattr(self, "do_" + do)(*fds, **question)
        except SystemExit as e:
            result = {"ok": False, "exit": exit_status(e)}
        except WrongHook:
            result = {"ok": False}
        except BaseException:
            import traceback
            sys.stdout.flush()
            traceback.print_exc()
            result = {"ok": False}
        finally:
            signal.signal(signal.SIGINT, wsgi.ignore)
        sys.stdout.flush()
        self.control.send(marshal.dumps(result or {"ok": True}, 2))

    def set_up(self, settings, env):
        """Applies the settings to this process. Changes by the configuration file stay
        where no setting replaces them."""
        self.settings = settings
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)  # the listeners belong to the arbiter
        set_environ(dict(os.environ, **dict(pair.split("=", 1) for pair in env)))
        os.chdir(settings["chdir"])
        wsgi.set_up_path(settings)

    def do_find(self, name):
        import importlib.util
        return {"ok": True, "found": importlib.util.find_spec(name) is not None}

    def do_log(self, records, answer, settings, env):
        """Forks the process that makes the logs of the whole server. The arbiter, which has
        asked to get orphans, is its parent when the process in between has ended."""
        arbiter = os.getppid()
        tell, told = os.pipe()
        between = fork()
        if not between:
            between, pid = os.getpid(), fork()
            if pid:
                os.write(told, b"%d" % pid)
                os._exit(0)
            while os.getppid() == between:
                poll().poll(1)
            self.keep_log(settings, env, records, answer, arbiter)
        os.close(told)
        pid = int(read(tell, 20))
        waitpid(between, 0)
        for fd in (tell, records, answer):
            os.close(fd)
        return {"ok": True, "pid": pid}

    def keep_log(self, settings, env, records, answer, arbiter):
        """The life of the process that do_log forks."""
        status = 1
        try:
            self.close()
            self.set_up(settings, env)
            from _gunicorn.program import die_with_parent
            die_with_parent()
            from _gunicorn.glogging import keep_log
            keep_log(settings, wsgi.end_of(wsgi.SOCK_SEQPACKET, records), answer, arbiter)
            status = 0
        except SystemExit as e:
            status = exit_status(e)
        finally:
            import logging
            logging.shutdown()
            sys.stdout.flush()
            os._exit(status)

    def do_class(self, settings, env):
        """Imports the worker class, and says what kind of class it is."""
        from _gunicorn import classes
        self.set_up(settings, env)
        try:
            self.worker_class = classes.load(settings, self.module)
            facts, changed = classes.describe(self.worker_class, settings)
        except classes.Wrong as e:
            return {"ok": True, "wrong": str(e), "status": e.status}
        return {"ok": True, "class": facts, "settings": changed}

    def do_check(self, settings, env):
        self.set_up(settings, env)
        self.find_hooks()
        wsgi.check_app(settings)

    def do_read(self, into, spec, paste, dir, names):
        """Runs the configuration file again, for a reload. Before that, only the variables of
        raw_env are taken back. A program that runs itself has read its settings already when
        the arbiter asks for the first time."""
        if self.settings:
            self.take_back()
        os.chdir(dir)
        self.module, answer = None, {}
        if spec.startswith("python:"):
            sys.modules.pop(spec[len("python:"):], None)
        with open(into, "wb") as f:
            try:
                if self.program:
                    if self.settings:
                        self.program.reload()
                    self.module, answer = self.program.read(names)
                elif spec or paste:
                    self.module, answer = wsgi.read_config(spec, paste, dir, names)
            except SystemExit as e:
                exit_status(e)
                return {"ok": False}
            f.write(marshal.dumps(answer, 2))
        if self.settings:
            self.take_signals()

    def take_back(self):
        """Takes back the variables of raw_env, and the handlers and filters of the loggers,
        before the file runs again. Remembers the state that do_back restores."""
        self.former = [(self.module, self.settings, self.hooks, self.worker_class, self.makes, self.forker), dict(os.environ), os.getcwd(),
                       (logs.logger, logs.captured, logs.untouched[:], logs.handlers[:]), [dict(vars(log)) for log in loggers()],
                       (self.server.cfg, self.server.log)]
        for pair in self.settings["raw_env"]:
            name = pair.split("=", 1)[0]
            if name in ENVIRON:
                os.environ[name] = ENVIRON[name]
            else:
                os.environ.pop(name, None)
        for log, own in zip(loggers(), self.program.loggers if self.program else (([], []), ([], []))):
            log.handlers, log.filters = map(list, own)  # any others would seem to be set by the file

    def do_back(self):
        """Undoes a reload that has failed."""
        failed, self.former = self.former, None
        if not failed:
            return  # the file was not run
        (self.module, self.settings, self.hooks, self.worker_class, self.makes, forker), environ, path, made, states, server = failed
        set_environ(environ)
        os.chdir(path)
        logs.logger, logs.captured, logs.untouched[:], logs.handlers[:] = made
        for log, state in zip(loggers(), states):
            self.shut(log.handlers)
            vars(log).update(state)
        self.server.use(*server)
        self.follow(forker)

    def do_keep(self):
        """Forgets the state from before a reload that has succeeded."""
        for state in self.former[4]:
            self.shut(state["handlers"])
        self.former = None
        self.follow(self.forker)

    @staticmethod
    def shut(handlers):
        for handler in handlers:
            if hasattr(handler, "baseFilename"):
                handler.close()

    def do_follow(self, fd):
        self.forker = self.forkers[fd] = wsgi.end_of(wsgi.SOCK_SEQPACKET, fd)
        self.poll.register(fd, POLLIN)

    def follow(self, forker):
        """Has all other forkers end with their children. Their reports are still heard."""
        self.forker = forker
        for other in self.forkers.values():
            if other is not forker:
                other.shutdown(1)

    def find_hooks(self):
        self.hooks = Hooks(self.module, [name for name in self.settings["hooks"] if hasattr(self.module, name)])

    def do_start(self, settings, env, pid, load, share, forks, first):
        self.set_up(settings, env)
        self.share = share
        import logging
        self.records = self.records or logging.getLogRecordFactory()
        logging.setLogRecordFactory(self.records)  # logs that are made in Python replace the factory
        log = logs.set_up_logging(settings)
        self.find_hooks()
        self.forks, self.first = forks, first
        cfg = self.program.app.cfg if self.program else Config(settings)
        facts = settings["said"].get("class")
        self.makes = facts and not facts["uvicorn"]
        if not facts:
            self.worker_class = None
        elif self.makes:
            from _gunicorn import workers
            workers.set_up(cfg, self.worker_class, facts["family"], self.module)
        for name, function in self.hooks.functions.items():
            cfg.settings[name].value = function
        hook_log = logs.logger or HookLog(log, cfg)
        if self.server:
            self.server.use(cfg, hook_log)
        else:
            self.server = Server(cfg, hook_log, self.program.app if self.program else wsgi.App(settings, cfg), pid)
            self.server.START_CTX["cwd"] = settings["start_dir"]
            if self.program and self.program.threads:
                log.warning("The program has started threads before run(); they have ended.")
        if load:
            try:
                self.server.app.wsgi()
            except RuntimeError as e:
                print("\nError: %s\n" % e, file=sys.stderr, flush=True)
                return {"ok": False}
            import threading
            if threading.active_count() > 1:
                log.warning("The application has started threads while it was preloaded; workers do not have them.")
        self.take_signals()

    def do_hook(self, name, facts, args):
        server = self.server
        server.wanted, server.asking = facts["num_workers"], True
        server.address = [hashable(a) for a in facts["address"]]
        server.LISTENERS = [Listener(*map(hashable, entry)) for entry in facts["listeners"]]
        server.cfg.changed.clear()
        try:
            self.hooks.call(name, server, *args)
        finally:
            server.asking = False
        return {"ok": True, "num_workers": server.wanted, "changed":
                {key: wsgi.portable(value) for key, value in server.cfg.changed.items()}}

    def fork(self, fd):
        """Forks the Python of a worker. The result is true in the child. The contents of the
        worker's message do not matter, as workers are not trusted: only its descriptors count."""
        channel, worker = self.channels[fd]
        fds = self.receive(channel, 1)[1]
        if len(fds) < 4:
            for other in fds:
                os.close(other)
            self.drop(fd)
            return False
        self.poll.modify(fd, 0)  # a worker gets one Python: watch only for the worker's end
        self.worker = worker
        # After a collection, the objects that are left are frozen, so that the
        # children's collectors leave them alone and their memory stays shared.
        gc.collect()
        gc.freeze()
        pid = fork()
        if pid:
            for other in fds:
                os.close(other)
            self.children[pid] = fd
            self.began(worker, pid)
            return False
        self.tell(channel, b"P", os.getpid())  # from the child, as the template may be killed before it does
        self.close()
        wsgi.QUEUE, wsgi.WIRE, wsgi.TRACE, wsgi.PAGE = fds[:4]
        for listener, other in zip(worker.sockets, fds[4:]):
            listener.open(other)
        for number in (signal.SIGCHLD, signal.SIGHUP):
            set_handler(number, SIG_DFL)
        if sys.modules.get("gevent"):
            sys.modules["gevent"].reinit()  # the child must not use the parent's event loop
        self.children, self.channels = {}, {}
        worker.pid = os.getpid()
        return True

    def close(self):
        """Closes, in a child, the descriptors that only the template needs."""
        for other in [channel for channel, _ in self.channels.values()] + list(self.forkers.values()):
            other.close()
        self.control.close()
        signal.set_wakeup_fd(-1)
        for other in self.own:
            os.close(other)

    def guard(self, call):
        """Runs a hook outside of a question: an exception ends the server, by status
        255 of the template."""
        try:
            call()
        except SystemExit as e:
            if self.program:
                raise
            status = exit_status(e)
            sys.stdout.flush()
            os._exit(status)
        except BaseException:
            self.server.log.exception("Unhandled exception in main loop")
            if self.program:
                sys.exit(255)
            os._exit(255)

    def tell(self, channel, tag, number):
        try:
            channel.send(SIGNED.pack(tag, number))
        except OSError:
            pass  # the worker is gone

    def reap(self):
        while self.children:
            try:
                pid, status = waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid not in self.children:
                continue
            fd = self.children.pop(pid)
            channel, worker = self.channels[fd]
            if self.forks:
                self.ended(worker, status)  # the host must know of the end before the arbiter does
            self.tell(channel, b"S", status)
            self.drop(fd)
            if not self.forks:
                self.ended(worker, status)


class HookLog:
    """The log, as server.log and worker.log."""

    def __init__(self, log, cfg):
        import logging
        self.error_log, self.access_log = log, logging.getLogger("gunicorn.access")
        self.cfg, self.whole = cfg, None

    def __getattr__(self, name):
        if hasattr(self.error_log, name):
            return getattr(self.error_log, name)
        if self.whole is None:
            # Members that few hooks use come from glogging.py, which is large.
            from _gunicorn.glogging import logger_over
            self.whole = logger_over(self.cfg)
        return getattr(self.whole, name)

    def log(self, level, *args, **kwargs):
        import logging
        if isinstance(level, str):
            level = getattr(logging, level.upper(), logging.INFO)
        self.error_log.log(level, *args, **kwargs)

    def setup(self, cfg):
        pass  # the log is set up already

    def reopen_files(self):
        logs.reopen_logs(None, None)

    def close_on_exec(self):
        pass


def serve(template, worker):
    """The life of a forked Python, in place of wsgi.serve."""
    settings, hooks = worker.of
    server = template.server
    log = server.log
    wsgi.own(worker.server_pid)
    wsgi.set_up_process(settings["family"] != "own")
    status = 0
    try:
        try:
            hooks.call("post_fork", server, worker)
            if template.makes:
                from _gunicorn import workers
                workers.serve(worker)
                return
            drop_privileges(settings["credential"])
            files = None
            logs.open_outbox(settings)
            patch(settings)
            handle_signals(hooks, worker)
            if template.worker_class:
                from _gunicorn import classes
                classes.set_up_uvicorn(template.worker_class)
            if worker.app.callable is None:
                worker.wsgi, files = wsgi.open_app(settings, worker.app, log.error_log)
            else:
                worker.wsgi = worker.app.wsgi()
            if template.worker_class:
                worker.wsgi = classes.wrap(template.worker_class, worker.wsgi, log)
            hooks.call("post_worker_init", worker)
        except SystemExit as e:
            sys.exit(e.code)  # open_app has logged the reason
        except BaseException as e:
            if template.makes and not worker.booted:
                wsgi.refuse(e, log)
            log.exception("Exception in worker process")
            if template.makes:
                sys.exit(255)
            print(e, file=sys.stderr, flush=True)
            sys.exit(3)
        worker.booted = True
        if settings["family"] == "asgi":
            from _gunicorn import asgi  # WSGI workers do not load this
            lane = asgi.Server(settings, worker.wsgi, log.error_log, files)
            if hooks.functions:
                lane.app = hooked_app(lane, hooks, worker)
            lane.serve()
        elif not hooks.functions:
            Lane(settings, worker.wsgi, log.error_log, files).serve()
        else:
            HookedLane(settings, worker.wsgi, log.error_log, files, hooks, worker).serve()
    except SystemExit as e:
        status = e.code
    finally:
        try:
            hooks.call("worker_exit", server, worker)
        except BaseException:
            log.warning("Exception during worker exit:\n", exc_info=True)
    sys.exit(status)


def drop_privileges(credential):
    """Changes to the workers' user, in a fork of the template, which runs as the user
    that has started the server."""
    if credential:
        user, group, groups = credential
        os.setgroups(groups)
        os.setgid(group)
        os.setuid(user)


def handle_signals(hooks, worker):
    if "worker_int" in hooks:
        def interrupted(number, frame):
            for stop in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(stop, signal.SIG_IGN)
            wsgi.forward(number, frame)
            hooks.call("worker_int", worker)
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, interrupted)
    if "worker_abort" in hooks:
        def aborted(number, frame):
            import faulthandler
            faulthandler.dump_traceback(wsgi.TRACE, all_threads=True)
            worker.aborted = True
            hooks.call("worker_abort", worker)
            os._exit(1)
        signal.signal(signal.SIGABRT, aborted)


def hooked_app(server, hooks, worker):
    """The ASGI application, with pre_request and post_request called around it."""
    app = server.app

    async def hooked(scope, receive, send):
        worker.nr += 1
        if scope["type"] == "lifespan" or not ("pre_request" in hooks or "post_request" in hooks):
            await app(scope, receive, send)
        else:
            environ = environ_of(scope)
            req, call = Request(environ), Heard()
            before = req.facts()
            hooks.call("pre_request", worker, req)
            if req.apply(environ, before):
                given, n = before[6], len(before[6])
                if req.headers[:n] != given:
                    n, scope["headers"] = 0, []
                scope["headers"].extend((name.lower().encode("latin-1"), value.encode("latin-1"))
                                        for name, value in req.headers[n:])
                scope.update(scheme=req.scheme, query_string=req.query.encode("latin-1"))
                if "method" in scope:
                    scope["method"] = req.method
                if req.path != before[2]:
                    scope.update(path=unquoted(req.path).decode("utf-8", "replace"), raw_path=req.path.encode("latin-1"))

            async def heard(event):
                call.note(event)
                await send(event)
            try:
                await app(scope, receive, heard)
            finally:
                call_post_request(hooks, server.log, worker, req, environ, call)
        if not worker.alive:
            server.retire()
    return hooked


def call_post_request(hooks, log, worker, req, environ, call):
    if "post_request" in hooks:
        try:
            headers = [pair for pair in call.headers or () if str(pair[0]).lower() not in HOP_HEADERS]
            hooks.post_request(worker, req, environ, Response(req, call.status, headers, call.sent, call.begun))
        except BaseException:
            log.exception("Exception in post_request hook%s", logs.tag(environ))


class Heard:
    """The facts about an ASGI application's response from which Response is made."""

    status, headers, sent, begun, fate = None, (), 0, False, None

    def note(self, event):
        if event["type"].endswith("response.start"):
            self.status = str(int(event["status"]))
            self.headers = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                            for name, value in event.get("headers", ())]
        elif event["type"].endswith("response.body"):
            self.begun = True
            self.sent += memoryview(event.get("body", b"")).nbytes
        elif event["type"].endswith("response.pathsend"):
            self.begun = True
            self.sent += os.stat(event["path"]).st_size


def environ_of(scope):
    """An environ made from an ASGI scope, with the keys that hooks may look at."""
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    environ = {
        "REQUEST_METHOD": scope.get("method", "GET"), "RAW_URI": target.decode("latin-1"), "PATH_INFO": scope["path"],
        "QUERY_STRING": scope["query_string"].decode("latin-1"), "SERVER_PROTOCOL": "HTTP/" + scope["http_version"],
        "SCRIPT_NAME": scope["root_path"], "wsgi.url_scheme": scope["scheme"], "wsgi.input": None,
        "gunicorn.req_number": 1,
    }
    if scope["client"]:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = scope["client"][0], str(scope["client"][1])
    for name, value in scope["headers"]:
        key, value = key_of(name.decode("latin-1")), value.decode("latin-1")
        environ[key] = environ[key] + "," + value if key in environ else value
    return environ


class HookedLane(Lane):
    def __init__(self, settings, app, log, files, hooks, worker):
        super().__init__(settings, app, log, files)
        self.hooks, self.worker = hooks, worker

    def run(self, call, environ):
        worker, hooks = self.worker, self.hooks
        worker.nr += 1
        if "gunicorn.req_number" not in environ:
            super().run(call, environ)  # without this key, no hook wants requests
            return
        call.__class__ = Counted
        req = call.req = Request(environ)
        try:
            if "pre_request" in hooks:
                before = req.facts()
                hooks.call("pre_request", worker, req)
                call.changed = req.apply(environ, before)
        except BaseException:
            self.log.exception("Error handling request %s", logs.asked(environ))
            call.fail(0)
        else:
            super().run(call, environ)
        call_post_request(hooks, self.log, worker, req, environ, call)
        if not worker.alive:
            self.wire.say(wsgi.frame(0, wsgi.RETIRE))
