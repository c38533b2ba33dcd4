"""A guest book in Flask, with what a Flask site usually asks of its server.

SITE_DATA names a directory for the site's files.
"""

import hashlib
import json
import logging
import os
import random
import tempfile
import time
import uuid

from flask import (Flask, Response, abort, flash, g, get_flashed_messages, jsonify, make_response,
                   redirect, render_template, request, send_file, session, stream_with_context,
                   url_for)
from werkzeug.exceptions import HTTPException

DATA = os.environ["SITE_DATA"]
PICTURE = os.path.join(DATA, "picture.bin")
PICTURE_SIZE = 3 << 20

app = Flask(__name__)
app.secret_key = "not a secret: the guest book of a test"

# What most Flask code under Gunicorn does, so that its records carry the
# server's prefix, level and destination.
gunicorn_logger = logging.getLogger("gunicorn.error")
app.logger.handlers = gunicorn_logger.handlers
app.logger.setLevel(gunicorn_logger.level)


def make_picture():
    """Every worker makes the same file, with the same time, so that all give one ETag."""
    descriptor, name = tempfile.mkstemp(dir=DATA)
    with open(descriptor, "wb") as f:
        f.write(random.Random(3).randbytes(PICTURE_SIZE))
    os.utime(name, (1700000000, 1700000000))
    os.replace(name, PICTURE)


make_picture()


@app.before_request
def start():
    g.started = time.monotonic()


@app.after_request
def stamp(response):
    response.headers["X-Elapsed"] = "%.6f" % (time.monotonic() - g.started)
    return response


@app.get("/")
def index():
    return render_template("index.html", entries=session.get("entries", []),
                           user=session.get("user"), messages=get_flashed_messages())


@app.post("/sign")
def sign():
    text = request.form["text"]
    if not text:
        abort(400, "an entry needs a text")
    session["entries"] = session.get("entries", []) + [text]
    flash("Thank you, %s." % session.get("user", "stranger"))
    return redirect(url_for("index"), 303)


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.method == "GET":
        return render_template("login.html")
    if request.form["password"] != "sesame":
        return render_template("login.html", error="Wrong password."), 403
    session["user"] = request.form["user"]
    return redirect(url_for("index"))


@app.post("/logout")
def logout():
    session.clear()
    return redirect(url_for("index"))


@app.get("/count")
def count():
    session["count"] = session.get("count", 0) + 1
    return str(session["count"]), 200, {"Content-Type": "text/plain"}


@app.get("/hello/<name>")
def hello(name):
    return jsonify(name=name, query=request.args.to_dict(flat=False), url=request.url,
                   path=request.path, scheme=request.scheme, host=request.host,
                   peer=request.remote_addr)


@app.post("/api/echo")
def echo():
    return jsonify(request.get_json()), 201, {"Location": url_for("echo", _external=True)}


@app.get("/api/headers")
def headers():
    return jsonify(request.headers.to_wsgi_list())


@app.delete("/api/entries")
def clear():
    session.pop("entries", None)
    return "", 204


@app.get("/cookies")
def cookies():
    response = make_response("three cookies")
    response.set_cookie("plain", "1")
    response.set_cookie("private", "2", httponly=True, samesite="Lax", max_age=60)
    response.set_cookie("quoted", 'a "b"; c')
    return response


@app.post("/upload")
def upload():
    f = request.files["file"]
    digest = hashlib.sha256()
    size = 0
    while block := f.stream.read(1 << 16):
        digest.update(block)
        size += len(block)
    return jsonify(name=f.filename, type=f.content_type, size=size, sha256=digest.hexdigest(),
                   note=request.form["note"])


@app.put("/raw")
def raw():
    digest = hashlib.sha256()
    size = 0
    while block := request.stream.read(1 << 16):
        digest.update(block)
        size += len(block)
    return jsonify(size=size, sha256=digest.hexdigest(), length=request.content_length)


@app.post("/small")
def small():
    request.max_content_length = 1000
    return str(len(request.get_data()))


@app.get("/picture")
def picture():
    return send_file(PICTURE, mimetype="application/octet-stream", as_attachment=True,
                     download_name="picture.bin", conditional=True, max_age=60)


def gate(name):
    """Waits until the client has made the file: it does so when the block before is in its hands."""
    path = os.path.join(DATA, name)
    limit = time.monotonic() + 20
    while not os.path.exists(path):
        if time.monotonic() > limit:
            raise TimeoutError("the block before %s has not arrived" % name)
        time.sleep(0.005)
    os.unlink(path)


@app.get("/stream")
def stream():
    token = uuid.uuid4().hex

    @stream_with_context
    def blocks():
        for n in range(5):
            name = "%s.%d" % (token, n)
            yield json.dumps({"block": n, "path": request.path,
                              "gate": os.path.join(DATA, name)}) + "\n"
            gate(name)
        yield "end\n"

    return Response(blocks(), mimetype="application/x-ndjson")


@app.get("/endless")
def endless():
    closed = os.path.join(DATA, uuid.uuid4().hex + ".closed")

    def blocks():
        try:
            yield (closed + "\n").encode()
            while True:
                yield b"x" * 65536
        finally:
            with open(closed, "w"):
                pass

    return Response(blocks(), mimetype="application/octet-stream")


@app.get("/boom")
def boom():
    raise RuntimeError("boom %s" % request.args["id"])


@app.get("/log")
def log():
    app.logger.debug("a debug record %s", request.args["id"])
    app.logger.info("an info record %s", request.args["id"])
    app.logger.warning("a warning record %s", request.args["id"])
    return "logged"


@app.errorhandler(404)
def missing(e):
    return render_template("error.html", title="No such page", path=request.path), 404


@app.errorhandler(500)
def failed(e):
    return render_template("error.html", title="Our fault", path=request.path), 500


@app.errorhandler(HTTPException)
def refused(e):
    return jsonify(code=e.code, name=e.name, description=e.description), e.code
