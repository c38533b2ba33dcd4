"""Requests that wait for something else, as for a database, and such that
compute."""

import time

CPU = 0.004  # seconds: enough that what clients cost, on the same cores, matters little


def compute():
    end = time.thread_time() + CPU
    while time.thread_time() < end:
        sum(range(1000))


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/short":
        time.sleep(0.001)
    elif path == "/long":
        time.sleep(0.1)
    elif path == "/compute":
        compute()
    body = b"Hello, World!\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
