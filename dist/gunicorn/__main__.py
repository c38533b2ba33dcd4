"""python -m gunicorn: becomes the server, which runs the application by this Python."""

import os
import sys
import sysconfig

# Options of this Python that the application's has to have, as environment variables.
OPTIONS = (("optimize", "PYTHONOPTIMIZE"), ("dev_mode", "PYTHONDEVMODE"), ("no_user_site", "PYTHONNOUSERSITE"),
           ("dont_write_bytecode", "PYTHONDONTWRITEBYTECODE"))


def find_server():
    """The path of the server that was installed with this package, by pip into a
    virtualenv, with --user or --prefix (PREFIX/lib/pythonX.Y/site-packages), with --home
    or --target (TARGET/bin), or by somebody else."""
    place, places = os.path.dirname(os.path.abspath(__file__)), []
    for _ in range(4):
        place = os.path.dirname(place)
        places.append(os.path.join(place, "bin"))
    places += sysconfig.get_path("scripts"), os.path.dirname(sys.executable)
    for place in places:
        path = os.path.join(place, "gunicorn")
        try:
            with open(path, "rb") as f:
                if f.read(4) == b"\x7fELF":  # otherwise it is a script of Gunicorn's
                    return path
        except OSError:
            pass
    sys.exit("gunicorn: the server is not in any of %s; install the package gunicorn again" % ", ".join(places))


def main():
    for flag, name in OPTIONS:
        if getattr(sys.flags, flag):
            os.environ.setdefault(name, str(int(getattr(sys.flags, flag))))
    if sys.warnoptions:
        os.environ.setdefault("PYTHONWARNINGS", ",".join(sys.warnoptions))
    if getattr(sys.stdout, "write_through", False):  # option -u
        os.environ.setdefault("PYTHONUNBUFFERED", "1")
    args, server = sys.argv[1:], find_server()
    if args[:1] != ["--man"]:  # which has to be the first
        args = ["--python", sys.executable] + args
    os.execv(server, [server] + args)


if __name__ == "__main__":
    main()
