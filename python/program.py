"""Programs that run themselves: python -m gunicorn, and what calls BaseApplication.run, in
a Python that the server has not started.

The process becomes the arbiter, with its pid, by executing the server. A program that has
made an application object forks before that, and the fork goes on as the template process
(hooks.py). So load() runs in forks of the program, which have what the program had in
memory, and its hooks are the program's functions.
"""

import marshal
import os
import sys
import types
from _socket import SO_SNDBUF, socketpair
from fcntl import F_DUPFD, fcntl
from posix import fork  # gevent replaces the one in os

from _gunicorn import wsgi

# Options of this Python that the application's has to have, as environment variables.
OPTIONS = (("optimize", "PYTHONOPTIMIZE"), ("dev_mode", "PYTHONDEVMODE"), ("no_user_site", "PYTHONNOUSERSITE"),
           ("dont_write_bytecode", "PYTHONDONTWRITEBYTECODE"))


def find_server():
    """The path of the server that was installed with this package, by pip into a
    virtualenv, with --user or --prefix (PREFIX/lib/pythonX.Y/site-packages), with --home
    or --target (TARGET/bin), or by somebody else."""
    import sysconfig
    place, places = os.path.dirname(os.path.abspath(__file__)), []
    for _ in range(4):
        place = os.path.dirname(place)
        places.append(os.path.join(place, "bin"))
    places += sysconfig.get_path("scripts"), os.path.dirname(sys.executable)
    for place in places:
        path = os.path.join(place, "gunicorn")
        try:
            with open(path, "rb") as f:
                if f.read(4) == b"\x7fELF":  # otherwise it is a script of Gunicorn's
                    return path
        except OSError:
            pass
    sys.exit("gunicorn: the server is not in any of %s; install the package gunicorn again" % ", ".join(places))


def main(name=None):
    """Becomes the server, which has this command line and runs the application by this
    Python. The command gunicorn_paster keeps its name."""
    args = sys.argv[1:]
    for flag, variable in OPTIONS:
        if getattr(sys.flags, flag):
            os.environ.setdefault(variable, str(int(getattr(sys.flags, flag))))
    if sys.warnoptions:
        os.environ.setdefault("PYTHONWARNINGS", ",".join(sys.warnoptions))
    if getattr(sys.stdout, "write_through", False):  # option -u
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if args[:1] != ["--man"]:  # --man has to be the first argument
        args = ["--python", sys.executable] + args
    server = find_server()
    os.execv(server, [name or server] + args)


def paster():
    main(os.path.abspath(sys.argv[0]))


def settings():
    """The table of settings by name, from the server: defaults depend on the environment."""
    import subprocess
    return marshal.loads(subprocess.run(
        ["gunicorn: settings"], executable=find_server(), stdout=subprocess.PIPE, check=True).stdout)


# Settings that have an effect only in subclasses of Application, as in Gunicorn. The last two
# are for Application.run, which then starts no server.
WHOLE = ("chdir", "pythonpath", "daemon", "spew", "check_config", "print_config")


class Program:
    """A program as the template process sees it, in place of a configuration file."""

    def __init__(self, app):
        import threading
        from _gunicorn.package import Application
        self.app, self.threads = app, threading.active_count() - 1
        self.whole = isinstance(app, Application)  # the settings in WHOLE have an effect
        # In the words of the user, as python -m does not leave the module's name in argv.
        self.argv = [sys.executable] + getattr(sys, "orig_argv", [""] + sys.argv)[1:]

        from _gunicorn.hooks import loggers
        self.loggers = [(log.handlers[:], log.filters[:]) for log in loggers()]

    def reload(self):
        """Loads the settings again, for a reload. The caller prints exceptions."""
        self.app.reload()

    def read(self, names):
        """Returns the settings as wsgi.read_config returns those of a file: as a module, and
        in a dict for the server."""
        module = types.ModuleType("__config__")
        for name, setting in self.app.cfg.settings.items():
            if "given" in vars(setting) and (self.whole or name not in WHOLE):
                setattr(module, name, setting.given)
        sys.modules["__config__"] = module
        answer = wsgi.describe(module, names)
        answer["gunicorn"]["program"] = {"argv": self.argv, "python": sys.executable}
        return module, answer


def run(app):
    """Becomes the server of an application object. Returns, or rather raises SystemExit, in
    the template process at the end, with the status of the server, and in each Python of a
    worker at the worker's end, as Gunicorn's run does."""
    server, program = find_server(), Program(app)
    from _gunicorn import hooks
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    ours, theirs = socketpair(wsgi.AF_UNIX, wsgi.SOCK_SEQPACKET)
    for end in ours, theirs:
        end.setsockopt(wsgi.SOL_SOCKET, SO_SNDBUF, 1 << 20)
    pid = fork()
    if not pid:
        ours.close()
        die_with_parent()
        forget_passed_on()
        os.kill = wsgi.kill
        wsgi.buffer_lines()
        if sys.modules.get("gevent"):
            sys.modules["gevent"].reinit()
        template = hooks.Template(None, theirs, program)
        hooks.serve(template, template.run())
        sys.exit()
    theirs.close()
    control = fcntl(ours.fileno(), F_DUPFD, 3)  # inheritable, and none of the standard streams, which may be closed
    if program.whole:
        os.chdir(app.cfg.settings["chdir"].default)  # USR2 starts the program where the user did
    os.environ["GUNICORN_PROGRAM"] = "%d,%d" % (pid, control)
    if program.whole and app.cfg.daemon:  # daemonize has been called
        os.environ["GUNICORN_DAEMON_STEP"] = "2"
    try:
        os.execv(server, [server])
    except OSError as e:
        sys.exit("gunicorn: %s: %s" % (server, e.strerror))


def die_with_parent():
    try:
        import ctypes
        ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    except (ImportError, OSError, AttributeError):
        pass  # the end of the control socket ends this process, unless a hook hangs


def forget_passed_on():
    """Closes what the arbiter has inherited from a service manager or from an old arbiter."""
    numbers = os.environ.pop("GUNICORN_FD", "") + "," + os.environ.pop("GUNICORN_HANDOVER", "").partition(":")[2]
    if os.environ.get("LISTEN_PID") in (str(os.getppid()), os.environ.pop("GUNICORN_PID", "")):
        numbers += "".join(",%d" % (3 + n) for n in range(int(os.environ.get("LISTEN_FDS") or 0)))
    for number in numbers.split(","):
        if number.isdigit():
            try:
                os.close(int(number))
            except OSError:
                pass


def daemonize(inherit):
    """Goes to the background, as Gunicorn does before its arbiter begins. Standard input
    becomes /dev/null, and so do standard output and error, unless inherit is true and they
    lead to no terminal. An arbiter that another arbiter has started is in the background
    already."""
    if "GUNICORN_FD" in os.environ:
        return
    sys.stdout.flush()
    if fork():
        os._exit(0)
    os.setsid()
    if fork():
        os._exit(0)
    os.umask(0o22)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        if fd == 0 or not inherit or os.isatty(fd):
            os.dup2(null, fd)
    os.close(null)
