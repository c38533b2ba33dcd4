# An example: copy it to where the application is, /srv/shop, and change it. The server
# reads gunicorn.conf.py in the directory that it is started in; gunicorn(1) explains all
# settings, and `gunicorn --check-config` checks them.

import os

wsgi_app = "shop.wsgi"
workers = 2 * os.cpu_count()
# Not for use with gunicorn.socket, which names the address instead.
# bind = ["127.0.0.1:8000", "unix:/run/shop/http.sock"]
accesslog = "-"
