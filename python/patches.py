"""What a configuration file has replaced in Gunicorn's server and in uvicorn's worker
class. This file is loaded only if modules of these are."""

import os
import sys
from types import FunctionType

from _gunicorn import wsgi

# Modules of the package gunicorn that only Gunicorn's server uses.
SERVER = ("http", "workers", "arbiter", "pidfile", "reloader", "sock", "systemd", "util")


def replaced():
    """Names in Gunicorn's server that the configuration file has replaced, or modules beside
    it, to no effect here. Installed packages that patch cope with other servers."""
    library = os.path.dirname(os.__file__)

    def foreign(value):
        module = str(getattr(value, "__module__", None))
        path = getattr(sys.modules.get(module), "__file__", None) or library
        return not module.startswith("_gunicorn.") and isinstance(value, (FunctionType, type)) and not (
            path.startswith((library, "<")) or "-packages" + os.sep in path)
    names = []
    for name, module in list(sys.modules.items()) + list(wsgi.package().items()):
        if name.partition(".")[0] != "gunicorn" or (name + ".").split(".")[1] not in SERVER:
            continue
        for key, value in list(vars(module).items()):
            if key != "import_app" and foreign(value):
                names.append("%s.%s" % (name, key))
            elif isinstance(value, type) and value.__module__ == name:
                names += ["%s.%s.%s" % (name, key, part) for part, held in vars(value).items()
                          if foreign(getattr(held, "__func__", held))]
    if names:  # a reload must find the modules as they were
        for name in list(sys.modules):
            if name.partition(".")[0] == "gunicorn" or name == "_gunicorn.package":
                del sys.modules[name]
        import gunicorn
    return sorted(set(names))


# Settings for what the attribute CONFIG_KWARGS of uvicorn's worker class changes, "" for
# what makes no difference here.
UVICORN = {"http": "", "ws": "", "loop": "asgi_loop", "lifespan": "asgi_lifespan", "root_path": "root_path",
           "timeout_keep_alive": "keepalive", "ws_max_size": "ws_max_size", "ws_ping_interval": "ws_ping_interval",
           "ws_ping_timeout": "ws_ping_timeout"}


def uvicorn_kwargs(answer):
    """Adds to answer the settings that CONFIG_KWARGS means."""
    for module in ("uvicorn.workers", "uvicorn_worker", "uvicorn_worker._workers"):
        worker = getattr(sys.modules.get(module), "UvicornWorker", None)
        for name, value in list(getattr(worker, "CONFIG_KWARGS", {}).items()):
            if name not in UVICORN:
                answer["gunicorn"]["replaced"].append("UvicornWorker.CONFIG_KWARGS[%r]" % name)
                del worker.CONFIG_KWARGS[name]  # a reload must find the class as it was
            elif UVICORN[name] and value != "auto":
                answer[UVICORN[name]] = wsgi.portable(value)
