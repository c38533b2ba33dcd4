"""The package gunicorn, for programs that the server has not started.

An application under the server imports the package that is in the server. Its source is
the package _gunicorn here; in both places the modules of gunicorn are made in memory.
"""

import sys

from _gunicorn.wsgi import finder

del __file__  # as in a module that the finder has made itself, which has no file
finder.exec_module(sys.modules[__name__])
sys.meta_path.append(finder)
