"""Says what other HTTP parsers make of the requests that standard input has.

Each line of input is a JSON object of "name" and "raw" (bytes as latin-1). Each line of output is one
parser's verdict on one of them: "accepts", "refuses", or "waits" when it wants more bytes. What is
accepted is told with its method, target, fields, body, what of raw is left for the next request, and
whether the connection stays.
"""

import json
import sys

import h11
import httptools


def text(b):
    return bytes(b).decode("latin-1")


def by_h11(raw):
    # The limit is on a head that is not complete; 64 KB is more than any case has.
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
    if raw:  # nothing would be the end of the connection
        conn.receive_data(raw)
    said, body = None, b""
    while True:
        try:
            event = conn.next_event()
        except h11.RemoteProtocolError as e:
            return {"verdict": "refuses", "why": str(e)}
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return {"verdict": "waits"}
        if isinstance(event, h11.Request):
            said = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return {
                "verdict": "accepts",
                "method": text(said.method),
                "target": text(said.target),
                "fields": [[text(k), text(v)] for k, v in said.headers],
                "body": text(body),
                "rest": text(conn.trailing_data[0]),
                "keep": conn.their_state is not h11.MUST_CLOSE,
            }


class Recorder:
    """Callbacks of httptools, that is of llhttp, which Node.js has too."""

    def __init__(self):
        self.target, self.fields, self.body, self.head, self.whole = b"", [], b"", False, False

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        if not self.head:  # else a trailer
            self.fields.append([text(name), text(value)])

    def on_headers_complete(self):
        self.head = True
        self.keep = self.parser.should_keep_alive()

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.whole = True


def by_httptools(raw):
    said = Recorder()
    said.parser = httptools.HttpRequestParser(said)
    # One byte at a time shows where the message ends.
    for i in range(len(raw)):
        upgrade = False
        try:
            said.parser.feed_data(raw[i : i + 1])
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserError as e:
            return {"verdict": "refuses", "why": repr(e)}
        if said.whole or upgrade:
            return {
                "verdict": "accepts",
                "method": text(said.parser.get_method()),
                "target": text(said.target),
                "fields": said.fields,
                "body": text(said.body),
                "rest": text(raw[i + 1 :]),
                "keep": said.keep,
            }
    return {"verdict": "waits"}


for line in sys.stdin:
    case = json.loads(line)
    raw = case["raw"].encode("latin-1")
    for peer, parse in (("h11", by_h11), ("httptools", by_httptools)):
        print(json.dumps({"name": case["name"], "peer": peer, **parse(raw)}))
