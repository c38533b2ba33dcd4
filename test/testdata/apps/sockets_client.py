"""Uses sockets.py as a browser would; its arguments are
ws://HOST:PORT and the paths that echo."""

import os
import ssl
import sys

import websocket
from websocket import ABNF

url = sys.argv[1]


def connect(path):
    return websocket.create_connection(url + path, timeout=20,
                                       sslopt={"cert_reqs": ssl.CERT_NONE})


def close_code(ws):
    while True:
        opcode, data = ws.recv_data()
        if opcode == ABNF.OPCODE_CLOSE:
            return int.from_bytes(data[:2], "big"), data[2:].decode()


def echoes(path, largest):
    ws = connect(path)
    for text in ("a", "caf\xe9 \u20ac \U0001f600", "x" * 200, "y" * largest):
        ws.send(text)
        assert ws.recv() == text, len(text)
    data = os.urandom(largest)
    ws.send_binary(data)
    got = ws.recv()
    assert bytes(got) == data, len(got)
    ws.ping("there?")
    opcode, data = ws.recv_data(control_frame=True)
    assert (opcode, data) == (ABNF.OPCODE_PONG, b"there?"), (opcode, data)
    ws.send("after")
    assert ws.recv() == "after"
    return ws


def main():
    for path in sys.argv[2:]:
        ws = echoes(path, 1 << 20)
        ws.send_close(1000, b"done")
        try:
            assert close_code(ws)[0] in (0, 1000)
        except websocket.WebSocketConnectionClosedException:
            pass  # Flask-Sock ends the request in one thread and answers in another
        ws.shutdown()

    ws = connect("/bye")
    assert ws.recv() == "bye"
    assert close_code(ws)[0] == 1000
    ws.shutdown()

    ws = connect("/ask")
    assert ws.recv() == "name?"
    ws.send("Ann")
    assert close_code(ws) == (1000, "hello Ann")
    ws.shutdown()

    for _ in range(5):  # vanishes
        connect("/echo").sock.close()

    ws = connect("/error")
    try:
        code = close_code(ws)
    except (OSError, websocket.WebSocketException):
        code = None
    assert code is None or code[0] != 1000, code
    print("done")


main()
