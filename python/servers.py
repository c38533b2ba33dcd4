"""The servers of the classes sync, gthread, gevent, eventlet and tornado in Python, for worker
classes of the user's that change more than the life of one of these. Their HTTP is http.py's.

Only package.py loads this file."""

import errno
import os
import select
import time
import types
from _socket import timeout as Timeout
from datetime import datetime

from _gunicorn.http import (
    ERRORS, ChunkMissingTerminator, InvalidChunkExtension, InvalidChunkSize, InvalidResponseHeader, NoMoreData,
    ParseException, Response, base_environ, close_graceful, create, default_environ, get_parser, ssl_context,
    ssl_wrap_socket, write_error)
from _gunicorn.workers import Worker


class Serving(Worker):
    """The common part of the servers, which serve one connection after another or several at
    once."""

    _keeps = False  # connections are kept for further requests

    def is_parent_alive(self):
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            return False
        return True

    def timeout_ctx(self):
        raise NotImplementedError

    def is_already_handled(self, respiter):
        return False

    def handle_error(self, req, client, addr, exc):
        import ssl
        mistake = isinstance(exc, (ParseException, ssl.SSLError, InvalidChunkSize, ChunkMissingTerminator,
                                   InvalidChunkExtension)) and not isinstance(exc, InvalidResponseHeader)
        if mistake:
            status = 403 if isinstance(exc, ssl.SSLError) else next(
                (ERRORS[c.__name__] for c in type(exc).__mro__ if c.__name__ in ERRORS), 400)
            self.log.warning("Invalid request from ip=%s: %s", addr[0] if addr else "", exc)
        else:
            status = 500
            self.log.exception("Error handling request %s", "%s %s" % (req.method, req.uri) if req else "(no URI read)")
        from http import HTTPStatus
        reason = HTTPStatus(status).phrase
        if req is not None:
            environ = default_environ(req, client, self.cfg)
            environ.update(REMOTE_ADDR=addr[0] if addr else "", REMOTE_PORT=str(addr[1]) if addr else "")
            resp = Response(req, client, self.cfg)
            resp.status, resp.status_code = "%d %s" % (status, reason), status
            self.log.access(resp, req, environ, datetime.now() - datetime.now())
        try:
            write_error(client, status, reason, str(exc) if mistake else "")
        except Exception:
            self.log.debug("Failed to send error message.")

    def handle(self, listener, client, addr):
        import ssl
        req = None
        try:
            if self.cfg.is_ssl and not isinstance(client, ssl.SSLSocket):
                client = ssl_wrap_socket(client, self.cfg)
            parser = get_parser(self.cfg, client, addr)
            while True:
                req = None
                if self._keeps and parser.req_count:
                    client.settimeout(self.cfg.keepalive)
                req = next(parser)
                client.settimeout(None)
                self._respond(listener, req, client, addr)
                if not self._keeps or not self.alive:
                    break
        except (StopIteration, NoMoreData, Timeout) as e:
            self.log.debug("Closing connection. %s", e)
        except ssl.SSLError as e:
            if e.args[0] != ssl.SSL_ERROR_EOF:
                self.handle_error(req, client, addr, e)
        except OSError as e:
            if isinstance(e, (InvalidChunkSize, ChunkMissingTerminator, InvalidChunkExtension)):
                self.handle_error(req, client, addr, e)
            elif e.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                self.log.exception("Socket error processing request.")
        except BaseException as e:
            self.handle_error(req, client, addr, e)
        finally:
            close_graceful(client, 0.2 if self._keeps else 2.0)

    def _respond(self, listener, req, client, addr):
        self.handle_request(listener, req, client, addr)

    def handle_request(self, listener, req, client, addr):
        environ, resp = {}, None
        try:
            self.cfg.pre_request(self, req)
            start = datetime.now()
            name = listener.getsockname() if hasattr(listener, "getsockname") else listener
            resp, environ = create(req, client, addr, name, self.cfg)
            environ["wsgi.multithread"] = self._keeps
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            if not self.alive or not self._keeps or not self.cfg.keepalive:
                resp.force_close()
            respiter = self.wsgi(environ, resp.start_response)
            if self.is_already_handled(respiter):
                return False
            try:
                if isinstance(respiter, environ["wsgi.file_wrapper"]):
                    resp.write_file(respiter)
                else:
                    for item in respiter:
                        resp.write(item)
                resp.close()
            finally:
                self.log.access(resp, req, environ, datetime.now() - start)
                if hasattr(respiter, "close"):
                    respiter.close()
            if resp.should_close():
                raise StopIteration
        except (OSError, StopIteration):
            raise
        except (Exception, SystemExit):
            if resp and resp.headers_sent:
                self.log.exception("Error handling request")
                raise StopIteration
            raise
        finally:
            try:
                self.cfg.post_request(self, req, environ, resp)
            except Exception:
                self.log.exception("Exception in post_request hook")
        return True


class StopWaiting(Exception):
    """There is nothing to wait for any more."""


class SyncWorker(Serving):
    def accept(self, listener):
        client, addr = listener.accept()
        client.setblocking(True)
        self.handle(listener, client, addr)

    def wait(self, timeout):
        self.notify()
        ready = select.select(self.wait_fds, [], [], timeout)[0]
        if self.PIPE[0] in ready:
            os.read(self.PIPE[0], 64)
        return [listener for listener in ready if listener in self.sockets]

    def _take(self, listener):
        try:
            self.accept(listener)
        except OSError as e:
            if e.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise

    def run_for_one(self, timeout):
        self.run_for_multiple(timeout)

    def run_for_multiple(self, timeout):
        while self.alive and self.is_parent_alive():
            self.notify()
            try:
                for listener in self.wait(timeout):
                    self._take(listener)
            except StopWaiting:
                return

    def run(self):
        for listener in self.sockets:
            listener.setblocking(False)
        (self.run_for_multiple if len(self.sockets) > 1 else self.run_for_one)(self.timeout or 0.5)


class Several(Serving):
    """A server with several connections at once, each in a thread or greenlet."""

    _keeps = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.worker_connections = self.cfg.worker_connections

    def _spawn(self, function, *args):
        """Runs a function in a thread of its own."""
        raise NotImplementedError

    def run(self):
        for listener in self.sockets:
            listener.setblocking(False)
        from threading import Lock
        self._lock, self._running = Lock(), 0
        while self.alive and self.is_parent_alive():
            self.notify()
            if self._running >= self.worker_connections > 0:
                time.sleep(0.1)
                continue
            for listener in select.select(self.sockets, [], [], 1)[0]:
                try:
                    client, addr = listener.accept()
                except OSError as e:
                    if e.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                        raise
                    continue
                client.setblocking(True)
                with self._lock:
                    self._running += 1
                self._spawn(self._work, listener, client, addr)
        for listener in self.sockets:
            listener.close()
        end = time.monotonic() + self.cfg.graceful_timeout
        while self._running and time.monotonic() < end:
            self.notify()
            time.sleep(0.1)

    def _work(self, listener, client, addr):
        self._count(self.handle, listener, client, addr)

    def _count(self, handle, *args):
        try:
            handle(*args)
        finally:
            with self._lock:
                self._running -= 1


class TConn:
    """A connection of ThreadWorker."""

    def __init__(self, cfg, sock, client, server):
        self.cfg, self.sock, self.client, self.server = cfg, sock, client, server

    def close(self):
        self.sock.close()


class ThreadWorker(Several):
    def _work(self, listener, client, addr):
        self._count(self.handle, TConn(self.cfg, client, addr, listener.getsockname()))

    def handle(self, conn):
        super().handle(conn, conn.sock, conn.client)

    def _respond(self, conn, req, client, addr):
        self.handle_request(req, conn)

    def handle_request(self, req, conn):
        return super().handle_request(conn.server, req, conn.sock, conn.client)

    def run(self):
        self.tpool = self.get_thread_pool()
        super().run()
        self.tpool.shutdown(False)

    def get_thread_pool(self):
        from concurrent.futures import ThreadPoolExecutor
        return ThreadPoolExecutor(max_workers=self.cfg.threads)

    def _spawn(self, function, *args):
        self.tpool.submit(function, *args)


class AsyncWorker(Several):
    def _respond(self, listener, req, client, addr):
        self.handle_request(listener.getsockname(), req, client, addr)


class Greenlets(AsyncWorker):
    def patch(self):
        self._spawn = self._patch()
        for listener in self.sockets:
            listener.open(listener.sock.detach())  # as a socket of the package

    def init_process(self):
        self.patch()
        super().init_process()


class GeventWorker(Greenlets):
    def _patch(self):
        from gevent import monkey
        monkey.patch_all()
        import gevent
        gevent.reinit()
        return gevent.spawn


class EventletWorker(Greenlets):
    def _patch(self):
        import eventlet
        eventlet.monkey_patch()
        return eventlet.spawn


class GeventPyWSGIWorker(GeventWorker):
    """Runs gevent's own server, or the one of a class that is derived from this."""

    server_class = wsgi_handler = None

    def run(self):
        import gevent
        from gevent.pool import Pool
        from gunicorn.workers import ggevent
        servers, environ = [], dict(base_environ(self.cfg), **{"wsgi.multithread": True})
        for listener in self.sockets:
            servers.append((self.server_class or ggevent.PyWSGIServer)(
                listener.sock, application=self.wsgi, spawn=Pool(self.worker_connections), log=self.log,
                handler_class=self.wsgi_handler or ggevent.PyWSGIHandler, environ=environ,
                **({"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {})))
            servers[-1].start()
        while self.alive and self.is_parent_alive():
            self.notify()
            gevent.sleep(1)
        for server in servers:
            server.close()
        end = time.monotonic() + self.cfg.graceful_timeout
        while time.monotonic() < end and any(server.pool.free_count() != server.pool.size for server in servers):
            self.notify()
            gevent.sleep(0.1)


def pywsgi(name):
    """PyWSGIServer or PyWSGIHandler, which exist where gevent does."""
    from gevent.pywsgi import WSGIHandler, WSGIServer

    class PyWSGIServer(WSGIServer):
        pass

    class PyWSGIHandler(WSGIHandler):
        def get_environ(self):
            return dict(super().get_environ(), **{"gunicorn.sock": self.socket, "RAW_URI": self.path})

        def log_request(self):
            status = self.status.decode() if isinstance(self.status, bytes) else self.status
            resp = types.SimpleNamespace(status=status, headers=getattr(self, "response_headers", ()), sent=self.response_length)
            fields = self.headers.items() if hasattr(self, "headers") else ()
            took = datetime.fromtimestamp(self.time_finish) - datetime.fromtimestamp(self.time_start)
            self.server.log.access(resp, types.SimpleNamespace(headers=list(fields)), self.environ, took)
    made = {"PyWSGIServer": PyWSGIServer, "PyWSGIHandler": PyWSGIHandler}
    for cls in made.values():
        cls.__module__ = "gunicorn.workers.ggevent"
    return made[name]


class TornadoWorker(Worker):
    """Runs Tornado's own server, with an application of Tornado's or a WSGI application."""

    @classmethod
    def setup(cls):
        import tornado.httpserver, tornado.web, tornado.wsgi  # noqa: E401

    def init_process(self):
        from tornado.ioloop import IOLoop
        IOLoop.clear_current()
        super().init_process()

    def handle_request(self):
        self.nr += 1
        if self.alive and self.nr >= self.max_requests:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def run(self):
        from tornado import httpserver, ioloop, web, wsgi
        worker, loop, app = self, ioloop.IOLoop.current(), self.wsgi
        connections, busy, end = set(), set(), None

        class Server(httpserver.HTTPServer):
            def start_request(self, server_conn, request_conn):
                def changing(owner, name, change):
                    function = getattr(owner, name)

                    def call(*args):
                        change(server_conn)
                        return function(*args)
                    setattr(owner, name, call)
                connections.add(server_conn)
                delegate = super().start_request(server_conn, request_conn)
                changing(delegate, "headers_received", busy.add)
                changing(request_conn, "finish", done)
                changing(request_conn, "detach", done)  # for a WebSocket
                return delegate

            def on_close(self, server_conn):
                connections.discard(server_conn)
                busy.discard(server_conn)
                super().on_close(server_conn)

        def done(connection):
            busy.discard(connection)
            worker.handle_request()

        def watch():
            nonlocal end
            self.notify()
            if self.ppid != os.getppid():
                self.alive = False
            if self.alive:
                return
            if end is None:
                end = time.monotonic() + self.cfg.graceful_timeout
                server.stop()
            if time.monotonic() > end or not (busy or any(c.stream.writing() for c in connections)):
                loop.stop()
        server = Server(app if isinstance(app, (web.Application, wsgi.WSGIContainer)) else wsgi.WSGIContainer(app),
                        no_keep_alive=self.cfg.keepalive <= 0, ssl_options=ssl_context(self.cfg) if self.cfg.is_ssl else None)
        for listener in self.sockets:
            listener.setblocking(False)
            server.add_socket(listener)
        watch()
        ioloop.PeriodicCallback(watch, 100).start()
        loop.start()
