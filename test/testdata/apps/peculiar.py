"""What applications do besides answering: processes, threads, signals, prints.

Each path is one such thing; the answer is a line of JSON that says how it went.
"""

import atexit
import concurrent.futures
import ctypes
import json
import locale
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

log = logging.getLogger(__name__)

at_import = {
    "main_thread": threading.current_thread() is threading.main_thread(),
    "server_software": os.environ.get("SERVER_SOFTWARE"),
    "argv": sys.argv[:],
    "cwd": os.getcwd(),
    "path0": sys.path[0],
    "fruit": os.environ.get("FRUIT"),
}


# Things begun at import.

alarms = []


def on_alarm(number, frame):
    alarms.append(threading.current_thread() is threading.main_thread())


signal.signal(signal.SIGALRM, on_alarm)

ticks = 0


def tick():
    global ticks
    while True:
        time.sleep(0.01)
        ticks += 1


threading.Thread(target=tick, daemon=True).start()

atexit.register(lambda: print("atexit ran"))

kept = threading.local()


def square(n):
    return n * n


def child(queue):
    queue.put((os.getpid(), os.getppid()))


# The things, by path.

def imported(environ, query):
    return at_import


def software(environ, query):
    return {"environ": environ["SERVER_SOFTWARE"], "os.environ": os.environ["SERVER_SOFTWARE"],
            "exact_dict": type(environ) is dict, "mutable": environ.setdefault("own.key", "own")}


def run(environ, query):
    piped = subprocess.run(["tr", "a-z", "A-Z"], input=b"piped", stdout=subprocess.PIPE)
    status = status_of_child()
    return {
        "status": subprocess.run(["sh", "-c", "exit 3"]).returncode,
        "system": os.waitstatus_to_exitcode(os.system("exit 4")),
        "piped": piped.stdout.decode(),
        "blocked": status["SigBlk"],
        "ignored": status["SigIgn"],
        "sigchld": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
    }


def status_of_child():
    """How the kernel describes a program that was started from here."""
    text = subprocess.check_output(["cat", "/proc/self/status"], text=True)
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def background(environ, query):
    """A program that goes on after the response: the client must not wait for it."""
    return subprocess.Popen(["sleep", "60"], close_fds=False).pid


def fork(environ, query):
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(w, b"from the child")
        os._exit(5)
    os.close(w)
    with open(r, "rb") as f:
        said = f.read().decode()
    return {"said": said, "status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}


def fork_and_go_on(environ, query):
    """A child that outlives the request with everything it inherited."""
    pid = os.fork()
    if not pid:
        while True:
            time.sleep(1)
    return pid


def processes(environ, query):
    results = {}
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        p = context.Process(target=child, args=(queue,))
        p.start()
        pid, parent = queue.get(timeout=20)
        p.join()
        pool = context.Pool(2)
        squares = pool.map(square, range(20))
        pool.close()
        pool.join()
        results[method] = [pid == p.pid, p.exitcode, squares == [n * n for n in range(20)]]
    return results


def terminate(environ, query):
    """A forked child ends by TERM, and not as the server does."""
    p = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    p.start()
    p.terminate()
    p.join()
    return p.exitcode


def threads(environ, query):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        squares = list(pool.map(square, range(20)))
    kept.count = getattr(kept, "count", 0) + 1
    return {"squares": squares == [n * n for n in range(20)], "count": kept.count,
            "main_thread": threading.current_thread() is threading.main_thread()}


def count_ticks(environ, query):
    return ticks


def alarm(environ, query):
    """The signal handler installed at import, in the middle of a sleep."""
    alarms.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(0.2)
    signal.signal(signal.SIGUSR2, on_alarm)  # during a request
    os.kill(os.getpid(), signal.SIGUSR2)
    return alarms


def write_logs(environ, query):
    word = query["word"]
    logging.getLogger("gunicorn.error").warning("to the error log: %s", word)
    logging.getLogger("gunicorn.error").debug("below the level: %s", word)
    log.warning("from a logger without handler: %s", word)
    log.info("below warning: %s", word)
    environ["wsgi.errors"].write("to wsgi.errors: %s\n" % word)
    print("to stdout: %s" % word)  # shown at once or at exit, as Python does it
    print("to stderr: %s" % word, file=sys.stderr)
    os.write(1, b"to descriptor 1: %s\n" % word.encode())
    return word


def limits(environ, query):
    return {"nofile": resource.getrlimit(resource.RLIMIT_NOFILE), "umask": status_of_child()["Umask"],
            "stdin": os.readlink("/proc/self/fd/0"), "flags": list(sys.flags), "encoding": sys.stdout.encoding,
            "locale": locale.setlocale(locale.LC_CTYPE)}


def leave(environ, query):
    sys.exit(int(query["status"]))


def die(environ, query):
    os._exit(7)


def crash(environ, query):
    ctypes.string_at(0)


def own_pipe(environ, query):
    raise BrokenPipeError("the application's own pipe")


class Lines:
    """An iterable with close(), which must be called once whatever happens."""

    def __init__(self, query):
        self.query = query
        self.lines = iter([b"one\n", b"two\n", b"three\n"])
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        line = next(self.lines)
        if line.startswith(self.query.get("fail", "never").encode()):
            raise ValueError("no line %s" % self.query["fail"])
        return line

    def close(self):
        self.closed += 1
        os.write(1, b"closed %d %s\n" % (self.closed, self.query["word"].encode()))


things = {
    "/imported": imported, "/software": software, "/run": run, "/background": background, "/fork": fork,
    "/fork_and_go_on": fork_and_go_on, "/processes": processes, "/terminate": terminate, "/threads": threads,
    "/ticks": count_ticks, "/alarm": alarm, "/log": write_logs, "/limits": limits, "/exit": leave, "/die": die, "/crash": crash,
    "/broken_pipe": own_pipe,
}


def app(environ, start_response):
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    path = environ["PATH_INFO"]
    if path == "/lines":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Lines(query)
    if path == "/late":
        return late(start_response)
    if path == "/write":
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        write(b"twice, ")
        return [b"then returned"]
    if path == "/exc_info":
        return recovered(start_response)
    body = json.dumps(things[path](environ, query)).encode() + b"\n"
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def late(start_response):
    """A generator is the application's answer, so nothing has run when it returns."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b""
    yield b"late "
    yield b""
    yield b"answer"


def recovered(start_response):
    try:
        start_response("200 OK", [("Content-Type", "text/html"), ("X-First", "1")])
        raise ValueError("after the head, before the body")
    except ValueError:
        start_response("503 Service Unavailable", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"recovered"]


class Application:
    """Served as `peculiar:Application("a name")`."""

    def __init__(self, name):
        self.name = name

    def __call__(self, environ, start_response):
        body = self.name.encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return (body,)
