"""A page with a hundred parts, which counts the connections that ask for them, and a WebSocket
that repeats what it hears. Also answers what other clients of HTTP/2 ask."""

PAGE = b"""<!DOCTYPE html><meta charset=utf-8><title>parts</title><link rel=icon href="data:,"><h1 id=done></h1>
<script>
let loaded = 0
addEventListener("load", () => {
  const socket = new WebSocket("wss://" + location.host + "/socket")
  socket.onopen = () => socket.send("hello")
  socket.onmessage = event => {
    const entries = [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")]
    const others = entries.filter(entry => entry.nextHopProtocol != "h2").map(entry => entry.name)
    done.textContent = event.data + " " + loaded + " " + others
    socket.close(1000)
  }
})
</script>
""" + b"".join(b'<script src="/part%d.js"></script>\n' % i for i in range(100))

ports = set()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    ports.add(scope["client"][1])
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "%s %s" % (message["text"], scope["http_version"])})
        print("closed", message["code"], flush=True)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    kind = b"text/plain"
    if scope["path"] == "/":
        kind, answer = b"text/html", PAGE
    elif scope["path"].endswith(".js"):
        kind, answer = b"text/javascript", b"loaded++\n"
    elif scope["path"] == "/ports":
        answer = b"%d" % len(ports)
    else:
        answer = body or scope["http_version"].encode()
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", kind), (b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})
