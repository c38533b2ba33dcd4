"""The application of busy.py, in WhiteNoise: servers without static files of their
own have it send those of out/static."""

import os

from busy import app as busy
from whitenoise import WhiteNoise

app = WhiteNoise(busy, root=os.path.join(os.path.dirname(os.path.abspath(__file__)), "out", "static"), prefix="static")
