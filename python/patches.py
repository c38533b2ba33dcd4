"""Finds the parts of Gunicorn's server that a configuration file has replaced. This file is
loaded only if modules of that server are loaded."""

import os
import sys
from types import FunctionType

from _gunicorn import wsgi

# Modules of the package gunicorn that only Gunicorn's server uses.
SERVER = ("http", "workers", "arbiter", "pidfile", "reloader", "sock", "systemd", "util")


def replaced():
    """Names in Gunicorn's server that the configuration file, or a module beside the file, has
    replaced. Such a replacement has no effect in this server. Replacements by installed
    packages do not count, as those packages cope with other servers."""
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
