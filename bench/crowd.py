"""Holds many connections to a server and does little with them.

    crowd.py PORT COUNT idle|head|body

idle connections have had one answer; head and body ones send a byte of a
request's head, or body, every SLOW seconds. It says "ready" on standard output
once all are there, and ends with its standard input, telling how many are left.
"""

import resource
import select
import socket
import sys
import time

SLOW = 5
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: crowd\r\nAccept: */*\r\n"
STARTS = {
    "idle": REQUEST + b"\r\n",
    "head": REQUEST + b"Cookie: session=",
    "body": REQUEST.replace(b"GET", b"POST") + b"Content-Length: 1000\r\n\r\n",
}


def main():
    port, count, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < count + 50:
        sys.exit("crowd: %d open files are not allowed here, only %d" % (count + 50, most))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, count + 50), most))
    connections = []
    for i in range(count):
        connection = socket.create_connection(("127.0.0.1", port), 30)
        connection.sendall(STARTS[kind])
        if kind == "idle":
            answer = connection.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                sys.exit("crowd: connection %d: %r" % (i, answer))
        connections.append(connection)
    print("ready", flush=True)
    turn = 0
    while not select.select([sys.stdin], [], [], SLOW / 100)[0]:
        if kind != "idle":
            turn = (turn + 1) % 100
            for connection in connections[turn::100]:
                try:
                    connection.send(b"a")
                except OSError:
                    pass  # it is missed in the end
    print(sum(alive(connection) for connection in connections))


def alive(connection):
    connection.setblocking(False)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
