"""bjoern has no command of its own. Its processes share a port as its
documentation says: python run_bjoern.py MODULE WORKERS PORT"""

import ctypes
import importlib
import os
import signal
import sys

import bjoern

name, workers, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
app = importlib.import_module(name).app


def serve():
    bjoern.run(app, "127.0.0.1", port, reuse_port=workers > 1)


children = []
for _ in range(workers - 1):
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        serve()
    children.append(pid)
serve()
