"""Two hundred WebSockets in one room of the FastAPI site: each hears what
any says, and then how the server closes them.

    python asgi_crowd.py URL PID SIGNAL CODE
"""

import asyncio
import collections
import json
import os
import signal
import sys

from websockets.asyncio.client import connect

PATIENCE = 30  # seconds for one step
CROWD = 200


async def enter(url, n):
    # Half of them compress.
    ws = await connect(url, proxy=None, open_timeout=PATIENCE, ping_interval=None, compression=("deflate", None)[n % 2])
    return ws, json.loads(await ws.recv())["worker"]


async def main(base, pid, name, code):
    url = "ws" + base.removeprefix("http") + "/ws/room/crowd"
    async with asyncio.timeout(PATIENCE):
        entered = await asyncio.gather(*(enter(url, n) for n in range(CROWD)))
    crowd = [ws for ws, _ in entered]
    async with asyncio.timeout(PATIENCE):
        for n in range(5):
            said = {"speaker": n, "words": "Zoë " * 50}
            await crowd[n * 7].send(json.dumps(said))
            heard = await asyncio.gather(*(ws.recv() for ws in crowd))
            assert all(json.loads(words) == said for words in heard), heard
    # Several speak at the same time, and are heard in one order.
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(ws.send(json.dumps(n)) for n, ws in enumerate(crowd[:20])))
        heard = await asyncio.gather(*(hear(ws, 20) for ws in crowd))
        assert all(sorted(words) == list(range(20)) for words in heard)
        assert all(words == heard[0] for words in heard), "not in the same order"
    print("%d hear each other" % CROWD)

    os.kill(pid, getattr(signal, "SIG" + name))
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(ws.wait_closed() for ws in crowd))
    codes = collections.Counter(ws.close_code for ws in crowd)
    assert codes == {code: CROWD}, codes
    print("closed with %d" % code)
    if name == "HUP":
        ws, worker = await enter(url, 0)
        assert worker != entered[0][1], "no other worker"
        await ws.close()


async def hear(ws, n):
    return [json.loads(await ws.recv()) for _ in range(n)]


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
