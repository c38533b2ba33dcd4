"""The parts of --reload and --spew that run in the application's process. This file is
loaded only with these settings."""

import os
import sys
import time
import traceback
from importlib.machinery import SourceFileLoader


# Reload --------------------------------------------------------------------

UNKNOWN, ABSENT = -1, -2  # stamps that are no times, as in reload.go


class Files:
    """The files that the application consists of, for the worker to watch."""

    BATCH = 1000  # paths in one report: the worker accepts reports of up to 4 MB
    LONGEST = 4095  # bytes of the longest path that the kernel accepts

    def __init__(self):
        self.read = {}  # by path: the file's modification time when the file was read
        self.reported = set()
        self.seen = None
        self.due = 0.0
        original = SourceFileLoader.path_stats

        def path_stats(loader, path):
            # Any later modification makes the file newer than the code that will
            # run, even if the worker learns of the file only afterwards.
            try:
                self.read[os.path.abspath(path)] = os.stat(path).st_mtime_ns
            except OSError:
                pass
            return original(loader, path)

        SourceFileLoader.path_stats = path_stats

    def new(self):
        """Up to BATCH files that have not been reported yet, with their stamps."""
        seen = len(sys.modules), len(self.read)
        now = time.monotonic()
        if seen == self.seen or now < self.due:
            return None
        self.seen, self.due = seen, now + 1
        for module in tuple(sys.modules.values()):
            try:
                # getattr would make a lazy module load.
                name = object.__getattribute__(module, "__dict__").get("__file__")
            except AttributeError:
                continue
            if isinstance(name, str):
                if name.endswith((".pyc", ".pyo")):
                    name = name[:-1]
                self.read.setdefault(os.path.abspath(name), UNKNOWN)
        # tuple() copies in one step, as another thread may be importing.
        fresh = [path for path in tuple(self.read) if path not in self.reported]
        if len(fresh) > self.BATCH:
            self.seen, self.due = None, 0.0  # the rest goes into the next report
            fresh = fresh[:self.BATCH]
        self.reported.update(fresh)
        pairs = [(os.fsencode(path), self.read[path]) for path in fresh]
        return [pair for pair in pairs if len(pair[0]) <= self.LONGEST]

    def missed(self, error):
        """Adds files that belong to no loaded module, but may cure this error once they
        change."""
        chain = []
        while error is not None and error not in chain:
            chain.append(error)
            error = error.__cause__ or error.__context__
        for error in chain:
            if isinstance(error, SyntaxError) and error.filename:
                self.read.setdefault(os.path.abspath(error.filename), UNKNOWN)
            if isinstance(error, ModuleNotFoundError) and error.name:
                parts = error.name.split(".")
                for path in sys.path:
                    path = os.path.abspath(os.path.join(path, *parts))
                    for name in (path + ".py", path, os.path.join(path, "__init__.py")):
                        if os.path.isdir(os.path.dirname(name)) and not os.path.exists(name):
                            self.read.setdefault(name, ABSENT)


def failed_app(error, asgi):
    """An application that only shows why the real application could not be loaded."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    text = text.encode("utf-8", "backslashreplace")

    def app(environ, start_response):
        start_response("500 Internal Server Error", [
            ("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        return [text]

    async def asgi_app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                await send({"type": (await receive())["type"] + ".complete"})
        prefix = "websocket.http" if scope["type"] == "websocket" else "http"
        await send({"type": prefix + ".response.start", "status": 500, "headers": [
            (b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]})
        await send({"type": prefix + ".response.body", "body": text})

    return asgi_app if asgi else app


# Spew ----------------------------------------------------------------------

def spew():
    """Prints every line of Python before it runs, except for lines of the server."""
    import linecache
    import threading
    write = os.write  # kept, as tracing goes on while the exiting interpreter clears modules

    def trace(frame, event, arg):
        code = frame.f_code
        if event == "call":
            return None if code.co_filename.startswith("<gunicorn ") else trace
        if event == "line":
            scope = frame.f_globals
            filename, name = scope.get("__file__"), scope.get("__name__")
            if isinstance(filename, str):
                if filename.endswith((".pyc", ".pyo")):
                    filename = filename[:-1]
                line = linecache.getline(filename, frame.f_lineno)
            else:
                name = "[unknown]"
                line = linecache.getline(code.co_filename, frame.f_lineno, scope) or (
                    "Unknown code named [%s].  VM instruction #%d" % (code.co_name, frame.f_lasti))
            text = "%s:%d: %s\n" % (name, frame.f_lineno, line.rstrip())
            try:
                # print would use sys.stdout, which the application may have
                # replaced, or may be writing to at this moment.
                write(1, text.encode("utf-8", "backslashreplace"))
            except OSError:
                pass
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
