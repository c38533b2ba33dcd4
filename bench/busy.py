"""Requests that wait for something else, as for a database, and such that
compute."""

import time

COUNT = 40000  # about a millisecond


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/short":
        time.sleep(0.001)
    elif path == "/long":
        time.sleep(0.1)
    elif path == "/compute":
        sum(range(COUNT))
    body = b"Hello, World!\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
