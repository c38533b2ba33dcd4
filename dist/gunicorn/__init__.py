"""The package gunicorn, for programs that the server has not started.

An application under the server imports the package that is in the server. Its source is
the package _gunicorn here; in both places the modules of gunicorn are made in memory.
"""

import sys

from _gunicorn.package import MODULES
from _gunicorn.wsgi import finder

package = MODULES[__name__]
package.__doc__, package.__file__, package.__path__, package.__spec__ = __doc__, __file__, __path__, __spec__
package.__loader__ = finder  # whose submodules it finds
sys.modules[__name__] = package
sys.meta_path.append(finder)
