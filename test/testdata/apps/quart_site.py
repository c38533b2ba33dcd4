"""A Quart application: pages, and a WebSocket."""

from quart import Quart, request, websocket

app = Quart(__name__)
started = []


@app.before_serving
async def start():
    started.append(True)


@app.route("/")
async def hello():
    return "Hello, World!\n"


@app.post("/json/<name>")
async def answer(name):
    return {"name": name, "got": await request.get_json(), "query": request.args.to_dict(), "started": len(started)}


@app.put("/raw")
async def raw():
    size = 0
    async for block in request.body:
        size += len(block)
    return {"size": size}


@app.route("/lines")
async def lines():
    async def generate():
        for n in range(1000):
            yield b"line %d\n" % n
    return generate(), {"Content-Type": "text/plain"}


@app.websocket("/ws")
async def echo():
    while True:
        await websocket.send(await websocket.receive())


@app.websocket("/closed")
async def closed():
    return "not for you", 410
