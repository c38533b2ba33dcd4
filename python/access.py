"""The access log as far as the application's process makes it. Mostly the worker makes the
whole log. A request's line is made here if logger_class has a class of the user's, if the
format shows values that only the application has, if a hook has changed the request, or if
the application has changed the loggers: filters, handlers, level. In the last case the lines
of requests that the worker has answered are made here, too.

A LOGGED frame tells the worker that it need not log a request or, with the number 0, that
the loggers have been changed, upon which its own lines come here as RECORD frames."""

import logging
import marshal
import os
import re
from time import monotonic

from _gunicorn import logs, wsgi
from _gunicorn.call import Counted
from _gunicorn.facade import HOP_HEADERS, Config, Request, Response
from _gunicorn.wsgi import LOGGED, frame

OURS = ("builtins", "gunicorn.glogging", "gunicorn.instrument.statsd")  # modules of loggers that are no class of the user's

# The keys of environs that the worker knows, beside those of headers.
KNOWN = re.compile("HTTP_.*|(CONTENT|PROXY|SERVER|SSL|TLS)_.*|REQUEST_METHOD|SCRIPT_NAME|REMOTE_(ADDR|PORT)|RAW_URI|"
                   r"QUERY_STRING|PATH_INFO|WSGI\.URL_SCHEME").fullmatch


def of(settings):
    """The Access of a process, None if there is no access log."""
    enabled = (settings["accesslog"] or settings["logs"]
               or settings["syslog"] and not settings["disable_redirect_access_to_syslog"])
    if enabled or any(log != state for log, state in logs.untouched):
        return Access(settings, enabled)


class Access:
    def __init__(self, settings, enabled):
        self.cfg, self.log = Config(settings), logs.logger
        self.now, self.then = logs.untouched[0]
        self.uvicorn = logs.untouched[1:]
        self.always = bool(enabled) and (
            type(self.log).__module__ not in OURS
            or any(not KNOWN(name.upper()) for name in re.findall(r"%\(\{([^{}]*)\}e\)", settings["access_log_format"] or "")))
        self.touched = bool(enabled) and (
            any(logs.facts_of(handler) != facts for handler, facts in logs.handlers)
            or logging.root.manager.disable >= logging.INFO)
        self.enabled, self.said = enabled, False
        if self.always:
            self.prepare()

    def active(self, say):
        """Whether the lines of requests are made here."""
        if self.now == self.then and not self.touched:
            return self.always
        self.tell(say)
        return True

    def tell(self, say):
        """Tells the worker that the application has changed the loggers."""
        if not self.said:
            self.prepare()
            self.said = True
            say(frame(0, LOGGED))

    def prepare(self):
        if self.log is None:
            from _gunicorn.glogging import logger_over
            self.log = logger_over(self.cfg)

    def open(self, say):
        self.active(say)
        if self.uvicorn_changed():
            self.tell(say)

    def uvicorn_changed(self):
        return any(log != state for log, state in self.uvicorn)

    def run(self, respond, call, environ):
        """Runs a request, and logs it."""
        call.__class__ = Counted
        call.req = call.req or Request(environ)
        call.wire.say(frame(call.number, LOGGED))
        start = monotonic()

        def record():
            call.record = None
            self.record(call, call.req, environ, start)
        call.record = record
        try:
            respond(call, environ)
        finally:
            if call.record:
                record()

    def record(self, call, req, environ, start):
        if call.fate == "":
            return  # the client has left, or its request was broken, which the worker logs
        headers = () if call.fate else call.headers
        headers = [pair for pair in headers if str(pair[0]).lower() not in HOP_HEADERS]
        resp = Response(req, call.fate or call.status, headers, call.sent)
        if req.method == "HEAD" or resp.status_code in (204, 304):
            resp.sent = 0
        from datetime import timedelta
        self.write(resp, req, environ, timedelta(seconds=monotonic() - start))

    def answered(self, payload):
        """Makes the line of a request that the worker has answered."""
        from datetime import timedelta
        try:
            environ, status, headers, sent, micros = marshal.loads(payload)
            if not self.uvicorn_took(environ, int(status[:3])) and self.enabled:
                req = Request(environ)
                self.write(Response(req, status, headers, sent), req, environ, timedelta(microseconds=micros))
        except BaseException:  # as the main thread calls this between requests
            logging.getLogger("gunicorn.error").exception("Error in the access log")

    def write(self, resp, req, environ, took):
        self.prepare()
        try:
            if self.cfg.access_log_json and logs.logger is None:
                self.log.access_log.info(self.object(resp, environ, took).replace("%", "%%"),
                                         self.log.atoms(resp, req, environ, took))
            else:
                self.log.access(resp, req, environ, took)
        except Exception:
            logs.free()
            logging.getLogger("gunicorn.error").exception("Error in the access log")

    def object(self, resp, environ, took):
        """The JSON object that the worker would write (accessLog.object)."""
        import json
        from datetime import datetime

        def text(value):
            return value.encode("latin-1", "replace").decode("utf-8", "replace") if value else None
        keys = {"method": "REQUEST_METHOD", "target": "RAW_URI", "path": "PATH_INFO", "query": "QUERY_STRING",
                "protocol": "SERVER_PROTOCOL", "host": "HTTP_HOST"}
        return json.dumps({
            "time": datetime.now().astimezone().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "remote_addr": environ.get("REMOTE_ADDR") or None, "remote_user": self.log._get_user(environ),
            **{name: text(environ.get(key)) for name, key in keys.items()},
            "status": resp.status_code, "bytes": resp.sent, "duration": round(took.total_seconds(), 6),
            "referer": text(environ.get("HTTP_REFERER")), "user_agent": text(environ.get("HTTP_USER_AGENT")),
            "worker": wsgi.owner or os.getppid(),
            **({"request_id": environ.get(logs.id_key())} if logs.id_header else {})}, separators=(",", ":"))

    def asgi(self, stream):
        """The application of a server, for one request that is logged here."""
        app = stream.server.app
        own, changed = self.enabled and self.active(stream.server.push), self.uvicorn_changed()
        if changed:
            self.tell(stream.server.push)
        elif not own:
            return app
        from _gunicorn.hooks import Heard, environ_of

        async def logged(scope, receive, send):
            if scope["type"] != "http":
                return await app(scope, receive, send)
            environ, call, start = environ_of(scope), Heard(), monotonic()
            req = Request(environ)
            took = None

            async def heard(event):
                nonlocal took
                call.note(event)
                # A request that fails before its response begins is the worker's, to answer and to log.
                if took is None and call.status and event["type"] != "http.response.start":
                    took = self.uvicorn_took(environ, int(call.status))
                    stream.server.push(frame(stream.number, LOGGED))
                await send(event)
            try:
                await app(scope, receive, heard)
            finally:
                if took is False and self.enabled:
                    if not stream.begun:
                        call.fate = "" if stream.gone else "500 Internal Server Error"
                    self.record(call, req, environ, start)
        return logged

    def uvicorn_took(self, environ, status):
        """Whether the logger uvicorn.access has taken or refused the record of a request.
        Filters look at the arguments that uvicorn gives its records."""
        if not self.uvicorn_changed():
            return False
        (now, then), log = self.uvicorn[0], logging.getLogger("uvicorn.access")
        record = log.makeRecord(log.name, logging.INFO, "(access log)", 0, '%s - "%s %s HTTP/%s" %d', (
            "%s:%s" % (environ.get("REMOTE_ADDR", ""), environ.get("REMOTE_PORT", 0)), environ["REQUEST_METHOD"],
            environ["RAW_URI"], environ["SERVER_PROTOCOL"][5:], status), None)
        if not log.isEnabledFor(logging.INFO) or not log.filter(record):
            return True
        if all(now[name] == then[name] for name in ("handlers", "propagate")):
            return False
        log.callHandlers(record)
        return True
