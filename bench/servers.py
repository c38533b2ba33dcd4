"""The servers that are measured: how each is installed, started, watched and
ended. Each is configured at its best as far as its manual tells, with the same
Python, the same application, and no access log."""

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections import namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "out")
VENV = os.path.join(OUT, "venv")
TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 30  # seconds for a server to answer or to stop

STATIC = "static_app"  # is asked for files
FILES = os.path.join(OUT, "static")
NGINX_PATH = shutil.which("nginx") or "/usr/sbin/nginx"  # where Debian has it, which only root's PATH names

OURS, THEIRS, FLOOR = "here", "gunicorn", "floor"
USUAL = "uvicorn"  # what most run ASGI applications with


# What is wanted of a server: an application, so many processes, so many
# requests at once in each; room for a crowd of connections is asked of this
# one only, and for one of WebSockets of all that do ASGI.
Setup = namedtuple("Setup", "app workers threads tls preload crowd asgi h2", defaults=(1, 1, False, False, 0, False, False))


def gunicorn(binary, setup, port, *more):
    command = [binary, "-w", str(setup.workers), "-b", "127.0.0.1:%d" % port]
    if setup.tls:
        command += ["--certfile", CERTIFICATE, "--keyfile", KEY]
    if setup.h2:
        command += ["--http-protocols", "h2,h1", "--http2-cleartext", "both"]
    return command + ["--preload"] * setup.preload + list(more) + [setup.app + ":app"]


def here(setup, port):
    if setup.app == STATIC:
        return gunicorn(binaries[OURS], setup._replace(app="busy"), port, "--static", "/static/=" + FILES)
    if setup.asgi:
        return gunicorn(binaries[OURS], setup, port, "-k", "asgi")
    more = ["--threads", str(setup.threads)] * (setup.threads > 1)
    if setup.crowd:
        more += ["--worker-connections", str(setup.crowd + 100), "--keep-alive", "600"]
        more += ["--client-header-timeout", "600", "--client-body-timeout", "600", "--client-min-rate", "0"]
    return gunicorn(binaries[OURS], setup, port, *more)


def gunicorn_sync(setup, port):
    """Of ASGI there is one worker only."""
    if setup.asgi:
        room = ["--worker-connections", str(setup.crowd + 100)] * (setup.crowd > 0)
        return gunicorn(venv("gunicorn"), setup, port, "-k", "asgi", "--asgi-loop", "uvloop", *room)
    if setup.threads == 1 and not setup.h2:
        return gunicorn(venv("gunicorn"), setup, port)


def gunicorn_gthread(setup, port):
    # With one thread only it would be slower.
    if setup.asgi:
        return None
    return gunicorn(venv("gunicorn"), setup, port, "-k", "gthread", "--threads", str(max(setup.threads, 4)))


def uwsgi(setup, port, *frontend):
    if setup.app == STATIC:
        return None
    return [
        venv("uwsgi"), "--master", "--die-on-term", "--need-app", "--disable-logging", "--listen", "1024",
        "--processes", str(setup.workers), *["--threads", str(setup.threads)] * (setup.threads > 1),
        *["--lazy-apps"] * (not setup.preload), *frontend, "--module", setup.app + ":app",
    ]  # fmt: skip


def uwsgi_socket(setup, port):
    """Workers take connections themselves, and keep one until it ends."""
    if not setup.tls and not setup.asgi and not setup.h2:
        return uwsgi(setup, port, "--http11-socket", "127.0.0.1:%d" % port)


def uwsgi_router(setup, port):
    """A process of its own keeps the connections."""
    if setup.asgi or setup.h2:
        return None
    address = "127.0.0.1:%d" % port
    address = ["--https", "%s,%s,%s" % (address, CERTIFICATE, KEY)] if setup.tls else ["--http", address]
    return uwsgi(setup, port, *address, "--http-keepalive", "--http-auto-chunked")


def granian(setup, port):
    if setup.preload:
        return None
    if setup.app == STATIC:
        own = ["--static-path-route", "/static", "--static-path-mount", FILES]
        return granian(setup._replace(app="busy"), port)[:-1] + own + ["busy:app"]
    if setup.asgi:
        interface = ["--interface", "asgi", "--loop", "uvloop"]
        # By default a worker has as many requests as fit into the backlog.
        interface += ["--backpressure", str(setup.crowd + 100)] * (setup.crowd > 0)
    else:
        interface = ["--interface", "wsgi", "--no-ws", "--blocking-threads", str(setup.threads)]
    return [
        venv("granian"), *interface, "--http", "auto" if setup.h2 else "1", "--log-level", "warning",
        "--workers", str(setup.workers), "--port", str(port),
        *["--ssl-certificate", CERTIFICATE, "--ssl-keyfile", KEY] * setup.tls, setup.app + ":app",
    ]  # fmt: skip


def nginx(setup, port):
    """It has no application, and is asked for files only."""
    if setup.app != STATIC or not os.path.exists(NGINX_PATH):
        return None
    config = os.path.join(OUT, "nginx.conf")
    with open(config, "w") as f:
        f.write(NGINX % {"out": OUT, "files": FILES, "workers": setup.workers, "port": port,
                         "user": "user root;" * (os.geteuid() == 0)})  # fmt: skip
    return [NGINX_PATH, "-c", config, "-e", os.path.join(OUT, "nginx.log")]


# keepalive_requests is 1000 by default, after which a client would have to connect again.
NGINX = """daemon off; worker_processes %(workers)d; pid %(out)s/nginx.pid; error_log %(out)s/nginx.log; %(user)s
events { worker_connections 1024; }
http {
    access_log off; sendfile on; keepalive_requests 1000000000;
    server { listen 127.0.0.1:%(port)d; location /static/ { alias %(files)s/; } location / { return 200; } }
}
"""


def bjoern(setup, port):
    if setup.app == STATIC:
        return None
    if setup.threads == 1 and not setup.tls and not setup.asgi and not setup.h2:
        return [venv("python"), "run_bjoern.py", setup.app, str(setup.workers), str(port)]


def waitress(setup, port):
    """One process, whose threads are all the workers there are."""
    if setup.app == STATIC or setup.tls or setup.asgi or setup.h2 or setup.workers > 1 and setup.threads == 1:
        return None
    threads = setup.workers * setup.threads
    return [venv("waitress-serve"), "--listen", "127.0.0.1:%d" % port, "--threads", str(threads), setup.app + ":app"]


def uvicorn(setup, port):
    if setup.asgi and not setup.h2:
        return [
            venv("uvicorn"), "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
            "--workers", str(setup.workers), "--port", str(port), setup.app + ":app",
        ]  # fmt: skip


def hypercorn(setup, port):
    if setup.asgi or setup.h2:
        app = setup.app + ":app" if setup.asgi else "wsgi:%s:app" % setup.app
        return [
            venv("hypercorn"), "-k", "uvloop", "--log-level", "warning",
            "-w", str(setup.workers), "-b", "127.0.0.1:%d" % port, app,
        ]  # fmt: skip


def floor(setup, port):
    if setup.app in ("hello", "bodies", "asgi_hello", "asgi_bodies") and not setup.tls and not setup.h2:
        return [binaries[FLOOR], str(port), str(setup.workers), os.path.join(OUT, "file")]


# By name: what pip is asked for, with blanks between, and the command that serves a setup, or None.
SERVERS = {
    OURS: (None, here),
    THEIRS: ("gunicorn==27.0.1", gunicorn_sync),
    "gthread": ("gunicorn==27.0.1 h2==4.4.1", gunicorn_gthread),
    "uwsgi": ("uwsgi", uwsgi_socket),
    "uwsgi-http": ("uwsgi", uwsgi_router),
    "granian": ("granian==2.8.9", granian),
    "bjoern": ("bjoern", bjoern),
    "waitress": ("waitress", waitress),
    "uvicorn": ("uvicorn==0.54.0 httptools==0.9.0 websockets==17.4", uvicorn),
    "nginx": (None, nginx),
    "hypercorn": ("hypercorn==0.18.0", hypercorn),
    FLOOR: (None, floor),
}
# All servers have them; uvloop is each one's loop for ASGI.
FRAMEWORKS = ["flask", "django", "falcon", "whitenoise==6.12.0", "fastapi==0.165.0", "starlette", "uvloop==0.23.0"]

binaries = {}  # of what is built, by server
commands = {}  # that were run, by server
CERTIFICATE, KEY = os.path.join(OUT, "certificate.pem"), os.path.join(OUT, "key.pem")


def venv(name):
    return os.path.join(VENV, "bin", name)


class Failed(Exception):
    """A server does not do what it should."""


class Server:
    """A running server; leaving the context ends every process of it."""

    def __init__(self, name, setup):
        self.name, self.setup = name, setup
        self.log = os.path.join(OUT, name + ".log")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = SERVERS[name][1](setup, self.port)
        text = " ".join(command).replace(str(self.port), "PORT").replace(OUT + os.sep, "")
        commands.setdefault(name, {})[text] = None  # a set in order
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def __enter__(self):
        try:
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def url(self, path):
        return "%s://127.0.0.1:%d%s" % ("https" if self.setup.tls else "http", self.port, path)

    def ask(self, path, body=None, timeout=PATIENCE):
        """One request: status and body of the answer."""
        if self.setup.tls:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=timeout, context=ssl._create_unverified_context()
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failed("%s ended with status %d, see %s" % (self.name, self.process.returncode, self.log))
            try:
                status, _ = self.ask("/")
            except OSError:
                time.sleep(0.001)
                continue
            if status != 200:
                raise Failed("%s answers %d, see %s" % (self.name, status, self.log))
            self.answered = time.monotonic()
            return
        raise Failed("%s: no answer in %d seconds, see %s" % (self.name, PATIENCE, self.log))

    def __exit__(self, *_):
        family = self.family() if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        end = time.monotonic() + 5
        while any(alive(*member) for member in family) and time.monotonic() < end:
            time.sleep(0.01)
        for pid, born in family:
            if alive(pid, born):
                os.kill(pid, signal.SIGKILL)

    def family(self):
        """The server's process and all descendants, as (pid, start time)."""
        children = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                stat = read_stat(int(name))
                if stat:
                    children.setdefault(stat["parent"], []).append((int(name), stat["born"]))
        found = [(self.process.pid, read_stat(self.process.pid)["born"])]
        for pid, _ in found:
            found += sorted(children.get(pid, []))
        return found

    def cpu(self):
        return sum(read_stat(pid)["cpu"] for pid, _ in self.family())

    def memory(self):
        """PSS by role: this server's workers have a Python each, Gunicorn's are one."""
        sizes = {"first process": 0, "workers": 0, "Pythons": 0}
        for pid, _ in self.family():
            if pid == self.process.pid:
                role = "first process"
            elif os.path.basename(os.readlink("/proc/%d/exe" % pid)).startswith(("python", "pypy")):
                role = "Pythons"
            else:
                role = "workers"
            sizes[role] += pss(pid)
        return sizes


def environment():
    """All servers find the virtualenv's Python first."""
    return dict(
        os.environ,
        PATH=os.path.join(VENV, "bin") + os.pathsep + os.environ.get("PATH", os.defpath),
        VIRTUAL_ENV=VENV,
        PYTHONPATH=HERE,
        PYTHONDONTWRITEBYTECODE="1",
    )


def read_stat(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            words = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return {"parent": int(words[1]), "cpu": (int(words[11]) + int(words[12])) / TICK, "born": int(words[19])}


def alive(pid, born):
    """The start time tells a process from a later one with its number."""
    stat = read_stat(pid)
    return stat is not None and stat["born"] == born


def pss(pid):
    """Proportional set size in MB."""
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return int(re.search(r"^Pss: +(\d+) kB", f.read(), re.M).group(1)) / 1024
