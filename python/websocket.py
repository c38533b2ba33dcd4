"""The WebSockets of an ASGI application. asgi.py loads this file when the first one is opened."""

from collections import deque

from _gunicorn.asgi import (
    ACCEPT, LAST, MESSAGE, MESSAGE_COST, PENDING_MAX, QUIET, RESPONSE, SHUT, SMALL, TEXT, WINDOW, NAME, ClientGone, Stream, check, encode_head, frame, meta_of, octets, pack, pairs)


class WebSocket(Stream):
    connected, partial = False, None

    def __init__(self, server, number):
        self.server, self.number = server, number

    def came(self, payload, flags, reason):
        """Handles a message, or a piece of a message that is longer than a window."""
        cost = len(payload) + MESSAGE_COST
        if not flags & LAST:
            partial = self.partial
            if partial is None:
                partial = self.partial = []
            if partial and len(partial[-1]) < SMALL:
                # Small pieces are joined: a million bytes objects would take many
                # times the memory of their contents.
                if type(partial[-1]) is bytes:
                    partial[-1] = bytearray(partial[-1])
                partial[-1] += payload
            else:
                partial.append(payload)
            self.take(cost)
            return
        if self.partial is not None:
            self.partial.append(payload)
            payload, self.partial = b"".join(self.partial), None
        if self.arrived is None:
            self.arrived = deque()
        self.arrived.append((payload, flags & TEXT, cost))
        if self.waiters:
            self.wake()

    def bye(self, code, reason):
        """The client has closed the WebSocket. The application is told after the messages
        that have arrived before."""
        if self.arrived is None:
            self.arrived = deque()
        self.arrived.append(((code, reason), False, None))
        if self.waiters:
            self.wake()

    async def receive(self):
        if not self.connected:
            self.connected = True
            return {"type": "websocket.connect"}
        while True:
            if self.arrived:
                payload, text, cost = self.arrived.popleft()
                if cost is None:
                    # The application has had all messages: answer the close frame.
                    if not self.done and not self.gone:
                        self.shut(*payload)
                    self.cancel_after(self.server.grace)
                    code, reason = payload
                    return {"type": "websocket.disconnect", "code": code, "reason": reason}
                self.take(cost)
                if text:
                    return {"type": "websocket.receive", "text": payload.decode()}
                return {"type": "websocket.receive", "bytes": payload}
            if self.gone or self.done:
                code, reason = self.gone or (1006, "")
                return {"type": "websocket.disconnect", "code": code, "reason": reason}
            await self.wait()

    async def send(self, event):
        kind = event["type"]
        if kind == "websocket.send" and self.accepted:
            if self.gone or self.done:
                raise self.unexpected(event)
            data, flags = event.get("bytes"), LAST
            if data is None:
                data, flags = str.encode(event["text"]), LAST | TEXT
            data = octets(data)
            n = len(data)
            head = pack(n, self.number, 0, MESSAGE, flags)
            if n <= SMALL:
                self.server.push(head + data)
            else:
                self.server.push(head)
                self.server.push(data)
            self.sent += n
            if self.sent >= WINDOW or self.server.pending > PENDING_MAX:
                await self.room()
        elif kind == "websocket.accept":
            if self.accepted or self.meta is not None or self.done:
                raise self.unexpected(event)
            if self.gone:
                raise ClientGone("the client has left")
            protocol, headers = event.get("subprotocol") or "", check(pairs(event.get("headers") or ()))
            protocol = protocol.encode("latin-1")
            if protocol and not NAME(protocol):
                raise ValueError("invalid subprotocol %r" % (protocol,))
            meta = meta_of((protocol, headers))
            self.server.push(frame(self.number, ACCEPT, meta))
            self.accepted = True
        elif kind == "websocket.close":
            if self.done or self.gone or self.begun:
                raise self.unexpected(event)
            if self.accepted:
                self.shut(event.get("code") or 1000, event.get("reason") or "")
            else:
                self.refuse(403)
        elif kind.startswith("websocket.http.response.") and not self.accepted:
            await self.respond(dict(event, type=kind[len("websocket."):]))
        else:
            raise self.unexpected(event)

    def shut(self, code, reason):
        # A close frame has room for 123 bytes of reason. The worker replaces an
        # impossible code with 1011.
        code = min(max(int(code), -1), 1 << 16)
        reason = ("%s" % (reason,))[:123].encode("utf-8", "replace").decode()
        meta = meta_of((code, reason))
        self.server.push(frame(self.number, SHUT, meta, LAST))
        self.gone = (code, reason)
        self.finish()

    def refuse(self, status):
        meta, _ = encode_head(status, [(b"content-length", b"0")])
        self.server.push(frame(self.number, RESPONSE, meta, LAST))
        self.meta, self.begun = meta, True
        self.gone = (1006, "")
        self.finish()

    def returned(self):
        if self.gone:
            self.fail(QUIET)
        elif self.accepted:
            self.shut(1000, "")
        else:
            self.server.log.error("ASGI callable returned without %s.%s",
                                  "completing response" if self.meta else "sending handshake", self.tag)
            self.fail(0)

    def crashed(self):
        if self.accepted and not self.gone and not self.done:
            self.shut(1011, "")
        else:
            self.end(False)
