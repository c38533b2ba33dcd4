"""WebSockets on which each message comes back as it was."""

import asgi_hello


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return await asgi_hello.app(scope, receive, send)
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        # Either may be there and None.
        text = message.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
