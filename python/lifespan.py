"""The start-up and the shut-down of an ASGI application (Lifespan specification)."""

import asyncio


class Lifespan:
    """The task in which the application starts up, waits while the server serves, and
    shuts down."""

    def __init__(self, server, mode):
        self.server, self.mode, self.state = server, mode, {}
        self.events, self.task = asyncio.Queue(), None
        self.phase = None  # startup or shutdown, while the application is asked for it
        self.answer = None  # a future for the application's next event
        self.started = self.failed = False  # failed: the application has reported a failure

    async def receive(self):
        return await self.events.get()

    async def send(self, event):
        kind = event["type"]
        if kind not in ("lifespan.%s.complete" % self.phase, "lifespan.%s.failed" % self.phase):
            raise RuntimeError("Unexpected ASGI message %r." % (kind,))
        self.phase, self.started, self.failed = None, kind != "lifespan.startup.failed", kind.endswith("failed")
        self.answer.set_result(event)

    async def run(self):
        """Runs the application. The result is the exception with which it has ended."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.server.app(scope, self.receive, self.send)
        except BaseException as e:
            # A framework raises again what it has reported as a failure, and
            # Server.close cancels a task that goes on waiting for events.
            if self.started and not self.failed and not self.server.closing:
                self.server.log.error("Error in ASGI lifespan", exc_info=e)
            return e

    async def ask(self, phase):
        """Sends an event and returns the application's answer, None if it ends without."""
        self.phase, self.answer = phase, self.server.loop.create_future()
        await self.events.put({"type": "lifespan." + phase})
        await asyncio.wait([self.answer, self.task], return_when=asyncio.FIRST_COMPLETED)
        return self.answer.result() if self.answer.done() else None

    async def start_up(self):
        """Returns the reason why the application cannot start, None if it has started."""
        if self.mode == "off":
            return None
        self.task = self.server.loop.create_task(self.run())
        event = await self.ask("startup")
        if event is not None:
            return event.get("message") or "the application gives no reason" if self.failed else None
        error = self.task.result()
        if self.mode == "on":
            if error is not None:
                self.server.log.error("Error in ASGI lifespan", exc_info=error)
            return str(error) or type(error).__name__ if error is not None else "the application has no lifespan"
        self.server.log.debug("ASGI lifespan: not supported by the application (%r)", error)
        return None

    async def abandon(self):
        """Cancels a start-up, because the server stops."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def shut_down(self):
        if not self.started or self.task.done():
            return
        await self.ask("shutdown")
        if self.failed:
            self.server.log.error("ASGI lifespan shutdown failed: %s", self.answer.result().get("message", ""))
