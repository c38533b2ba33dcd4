"""Workers of the user's own classes: how they are made, what they find in place of
Gunicorn's master, and what Gunicorn's own classes do where a class calls its base.

The template process makes the object before it forks, as Gunicorn's master does, and the
fork calls init_process. A class that runs as sync, gthread, gevent, eventlet or asgi gets
the functions of NATIVE in the class that it is derived from, whether that class is the real
package's or package.py's; so run() serves the worker's lane. Any other class has the
listeners, and the worker leaves clients to it."""

import faulthandler
import mmap
import os
import select
import signal
import sys
import time
from _socket import SOCK_STREAM

from _gunicorn import facade, logs, wsgi
from _gunicorn.wsgi import ANNOUNCED, MORE, READY, RETIRE, frame

HANDLERS = {"SIGQUIT": "handle_quit", "SIGINT": "handle_quit", "SIGTERM": "handle_exit", "SIGWINCH": "handle_winch",
            "SIGUSR1": "handle_usr1", "SIGABRT": "handle_abort"}


# In the template process ------------------------------------------------------

def set_up(cfg, cls, family, module):
    """Makes cfg what a worker class expects: hooks are functions, and the class is there."""
    for name in facade.HOOKS:
        cfg.settings[name].value = nothing
    cfg.settings["ssl_context"].value = facade.validate_callable(2)(getattr(module, "ssl_context", lambda config, make: make()))
    cfg.settings["worker_class"].value = cls
    for base, name, function in taken:
        setattr(base, name, function) if function else delattr(base, name)
    del taken[:]
    if family != "own":
        from _gunicorn.classes import NATIVE as names, named
        base = next(base for base in cls.__mro__ if named(base) in names)
        for function in NATIVE:
            taken.append((base, function.__name__, vars(base).get(function.__name__)))
            setattr(base, function.__name__, function)


taken = []  # methods that set_up has replaced: the class, the name, and what was there


def nothing(*args):
    pass


def make(cls, age, server, server_pid, settings):
    parent = os.getpid() if settings["family"] == "own" else server.pid
    cfg = server.cfg
    if not wsgi.is_small():  # the real package's classes know more of its Config
        from gunicorn.config import Config
        cfg = Config()
        for name in set(cfg.settings) & set(server.cfg.settings):
            cfg.settings[name].value = server.cfg.settings[name].value
    worker = cls(age, parent, list(server.LISTENERS), server.app, cfg.timeout / 2, cfg, server.log)
    if hasattr(getattr(worker, "tmp", None), "close"):
        worker.tmp.close()  # the real package's, a file
    worker.tmp = Heartbeat(worker)
    worker.server_pid, worker.files = server_pid, None
    return worker


class Heartbeat:
    """The object worker.tmp. For a class that serves by itself, this object tells the worker
    process that the class is alive, and how many requests the class has counted. About any
    other class the worker process knows both."""

    word = count = wire = files = None
    ready = False

    def __init__(self, worker=None):
        self.worker = worker

    def begin(self, files):
        """The class is about to run: says so, and begins to count."""
        words = memoryview(mmap.mmap(wsgi.PAGE, wsgi.WORDS_SIZE)).cast("I")
        self.word, self.count = (words[n * wsgi.LANES:n * wsgi.LANES + 1] for n in (1, 2))
        self.wire, self.files = wsgi.end_of(SOCK_STREAM, wsgi.WIRE), files
        self.wire.sendall(frame(0, READY, flags=MORE))

    def notify(self):
        if self.word is None:
            return
        self.word[0] = self.word[0] + 1 & 0xffffffff
        self.count[0] = getattr(self.worker, "nr", 0) & 0xffffffff
        if not self.ready:
            self.ready = True
            wsgi.say_ready(self.wire.sendall, None)
        wsgi.report(self.wire.sendall, self.files)

    def last_update(self):
        return time.monotonic()

    def fileno(self):
        return wsgi.WIRE

    def close(self):
        pass


# In the forked process --------------------------------------------------------

def set_up_process():
    """Prepares a process for a class that serves by itself, and handles signals itself. A
    real-time signal that no class knows makes faulthandler write the stacks, even inside C
    code."""
    for number in wsgi.STOP:
        signal.signal(number, signal.SIG_DFL)
    faulthandler.register(ANNOUNCED - signal.SIGABRT, wsgi.TRACE, all_threads=True)


def serve(worker):
    """The life of a worker after post_fork."""
    settings, hooks = worker.of
    logs.open_outbox(settings)
    if settings["family"] == "own":
        run = worker.run

        def begin(*args):
            worker.tmp.begin(worker.files)
            run(*args)
        worker.run = begin
    worker.init_process()


def load_wsgi(self):
    settings = self.of[0]
    if self.app.callable is None:
        self.wsgi, self.files = wsgi.open_app(settings, self.app, self.log.error_log)
    else:
        self.wsgi = self.app.wsgi()


def begin(self):
    """The end of init_process in every class."""
    self.init_signals()
    self.load_wsgi()
    self.of[1].call("post_worker_init", self)
    self.booted = True
    self.run()


def drop_privileges(self):
    from _gunicorn.hooks import drop_privileges
    drop_privileges(self.of[0]["credential"])


# Classes that run as one of the server's --------------------------------------

def init_process(self):
    drop_privileges(self)
    if self.of[0]["family"] in ("gevent", "eventlet"):
        self.patch()
    begin(self)


def native_patch(self):
    from _gunicorn.lane import patch
    patch(self.of[0])


def replaced(self, name):
    """Whether the user's class has a method of its own in place of one of NATIVE."""
    return getattr(type(self), name) not in NATIVE


def init_signals(self):
    from _gunicorn.hooks import handle_signals
    handle_signals(self.of[1], self)
    for number, name in HANDLERS.items():
        if replaced(self, name):
            signal.signal(getattr(signal, number), getattr(self, name))


def handle_exit(self, number, frame):
    self.alive = False
    wsgi.forward(number, frame)


def handle_quit(self, number, frame):
    self.alive, self.quits = False, True
    self.cfg.worker_int(self)
    sys.exit(0)  # which ends the lane; run() goes on with it


def handle_abort(self, number, frame):
    faulthandler.dump_traceback(wsgi.TRACE, all_threads=True)
    self.alive, self.aborted = False, True
    self.cfg.worker_abort(self)
    os._exit(1)


def handle_usr1(self, number, frame):
    self.log.reopen_files()


def handle_winch(self, number, frame):
    self.log.debug("worker: SIGWINCH ignored.")


def notify(self):
    pass


def run(self):
    settings, hooks = self.of
    from _gunicorn.hooks import HookedLane, hooked_app
    if settings["family"] == "asgi":
        from _gunicorn import asgi
        lane = asgi.Server(settings, self.wsgi, self.log.error_log, self.files)
        lane.app = hooked_app(lane, hooks, self)
    else:
        lane = HookedLane(settings, self.wsgi, self.log.error_log, self.files, hooks, self)
        if replaced(self, "notify") and lane.green:
            import threading
            threading.Thread(target=beat, args=(self, lane.green.sleep), daemon=True).start()
        elif replaced(self, "notify"):
            lane.queue = Watched(lane.queue, self, lane.wire, 1 if lane.threads else self.timeout or 0.5)
    lane.serve()
    self.alive = False
    if getattr(self, "quits", False):
        sys.exit(0)


def beat(worker, sleep):
    while worker.alive:
        worker.notify()
        sleep(1)


class Watched:
    """The queue of the main thread in a class that has a method notify. The method is called
    at the intervals of Gunicorn's workers, before each request and while none comes, as long
    as the worker is alive."""

    def __init__(self, queue, worker, wire, wait):
        self.queue, self.worker, self.wire, self.wait = queue, worker, wire, wait * 1000
        self.poll, self.left = select.poll(), False
        self.poll.register(queue, select.POLLIN)

    def watch(self):
        while True:
            if self.worker.alive:
                try:
                    self.worker.notify()
                except SystemExit:
                    self.worker.alive = False
            if not self.worker.alive and not self.left:
                self.left = True
                self.wire.say(frame(0, RETIRE))
            if self.poll.poll(self.wait):
                return

    def recv_into(self, buffer):
        self.watch()
        return self.queue.recv_into(buffer)

    def recvmsg(self, *args):
        self.watch()
        return self.queue.recvmsg(*args)

    def __getattr__(self, name):
        return getattr(self.queue, name)


native_patch.__name__ = "patch"
NATIVE = [init_process, native_patch, init_signals, load_wsgi, notify, run, handle_exit, handle_quit, handle_abort, handle_usr1,
          handle_winch]


# Classes that serve by themselves ---------------------------------------------

class Worker(facade.Worker):
    """Gunicorn's base of all worker classes."""

    PIPE = ()

    def __init__(self, age, ppid, sockets, app, timeout, cfg, log):
        super().__init__(age, ppid, sockets, app, timeout, cfg, log)
        self.pid, self.nr, self.alive, self.booted, self.aborted = "[booting]", 0, True, False, False
        self.wsgi = self.reloader = None
        self.max_requests, self.tmp = sys.maxsize, Heartbeat()
        if cfg.max_requests:
            from random import randint
            self.max_requests = cfg.max_requests + randint(0, cfg.max_requests_jitter)

    def notify(self):
        self.tmp.notify()

    def run(self):
        raise NotImplementedError

    def init_process(self):
        drop_privileges(self)
        self.PIPE = os.pipe()
        for fd in self.PIPE:
            os.set_blocking(fd, False)
        self.wait_fds = self.sockets + [self.PIPE[0]]
        begin(self)

    load_wsgi = load_wsgi

    def handle_error(self, req, client, addr, exc):
        from _gunicorn.servers import Serving
        Serving.handle_error(self, req, client, addr, exc)

    def init_signals(self):
        for name in self.SIGNALS:
            signal.signal(name, signal.SIG_DFL)
        for name, method in HANDLERS.items():
            signal.signal(getattr(signal, name), getattr(self, method))
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.siginterrupt(number, False)
        signal.set_wakeup_fd(self.PIPE[1])

    def handle_exit(self, number, frame):
        self.alive = False

    def handle_quit(self, number, frame):
        self.alive = False
        self.cfg.worker_int(self)
        time.sleep(0.1)
        sys.exit(0)

    def handle_abort(self, number, frame):
        self.alive = False
        self.cfg.worker_abort(self)
        sys.exit(1)

    handle_usr1, handle_winch = handle_usr1, handle_winch
