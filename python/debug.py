"""What --reload and --spew do inside of the application's process. It is loaded
only for these."""

import os
import sys
import time
import traceback
from importlib.machinery import SourceFileLoader


# Reload --------------------------------------------------------------------

UNKNOWN, ABSENT = -1, -2  # stamps; the worker (reload.go) has these too


class Files:
    """The files that the application consists of, for the worker to watch."""

    BATCH = 1000  # in one report: the longest that the worker takes is 4 MB
    LONGEST = 4095  # bytes of a path

    def __init__(self):
        self.read = {}  # path: when it was last modified, as of when it was read
        self.reported = set()
        self.seen = None
        self.due = 0.0
        original = SourceFileLoader.path_stats

        def path_stats(loader, path):
            # What is modified after this is newer than what will run, even if
            # the worker gets to hear of the file only later.
            try:
                self.read[os.path.abspath(path)] = os.stat(path).st_mtime_ns
            except OSError:
                pass
            return original(loader, path)

        SourceFileLoader.path_stats = path_stats

    def new(self):
        """Some that were not reported yet, with their stamps."""
        seen = len(sys.modules), len(self.read)
        now = time.monotonic()
        if seen == self.seen or now < self.due:
            return None
        self.seen, self.due = seen, now + 1
        for module in tuple(sys.modules.values()):
            try:
                # Not getattr: a lazy module would load.
                name = object.__getattribute__(module, "__dict__").get("__file__")
            except AttributeError:
                continue
            if isinstance(name, str):
                if name.endswith((".pyc", ".pyo")):
                    name = name[:-1]
                self.read.setdefault(os.path.abspath(name), UNKNOWN)
        # Another thread may be importing: a tuple is made in one step.
        fresh = [path for path in tuple(self.read) if path not in self.reported]
        if len(fresh) > self.BATCH:
            self.seen, self.due = None, 0.0  # there is more
            fresh = fresh[:self.BATCH]
        self.reported.update(fresh)
        pairs = [(os.fsencode(path), self.read[path]) for path in fresh]
        return [pair for pair in pairs if len(pair[0]) <= self.LONGEST]

    def missed(self, error):
        """Notes the files that would cure this error and are no module's."""
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
    """An application that only tells why the real one could not be loaded."""
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
    """Prints every line of Python before it runs, but for the server's own."""
    import linecache
    import threading
    write = os.write  # tracing goes on when the interpreter clears its modules

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
                # Not print: the application may have put its own stream in
                # the place of standard output, or be writing to it just now.
                write(1, text.encode("utf-8", "backslashreplace"))
            except OSError:
                pass
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
