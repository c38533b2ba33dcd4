"""WebSocket by Flask-Sock and by eventlet.websocket, neither changed."""

from flask import Flask
from flask_sock import Sock

flask = Flask(__name__)
sock = Sock(flask)


@flask.route("/")
def home():
    return "plain"


@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())


@sock.route("/bye")
def bye(ws):
    ws.send("bye")


@sock.route("/ask")
def ask(ws):
    ws.send("name?")
    name = ws.receive(timeout=10)
    ws.close(1000, "hello " + name)


@sock.route("/error")
def error(ws):
    raise RuntimeError("on purpose")


def handle(ws):
    while True:
        data = ws.wait()
        if data is None:
            return
        ws.send(data)


def app(environ, start_response):
    if environ["PATH_INFO"] == "/eventlet":
        from eventlet.websocket import WebSocketWSGI
        return WebSocketWSGI(handle)(environ, start_response)
    return flask(environ, start_response)
