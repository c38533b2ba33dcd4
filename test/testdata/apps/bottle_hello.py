"""A small Bottle application. SITE_DATA names a directory for its files."""

import hashlib
import os

from bottle import Bottle, HTTPResponse, abort, redirect, request, response, static_file, template

DATA = os.environ["SITE_DATA"]

app = Bottle()


@app.get("/")
@app.get("/hello/<name>")
def hello(name="World"):
    return template("<p>Hello, {{name}}!</p>\n", name=name)


@app.post("/json")
def echo():
    return {"got": request.json, "query": dict(request.query)}


@app.post("/form")
def form():
    response.set_cookie("name", request.forms.getunicode("name"), secret="not a secret")
    redirect("/whoami")


@app.get("/whoami")
def whoami():
    response.content_type = "text/plain; charset=UTF-8"
    return request.get_cookie("name", secret="not a secret") or "nobody"


@app.post("/upload")
def upload():
    f = request.files.get("file")
    path = os.path.join(DATA, f.filename)
    f.save(path, overwrite=True)
    return {"name": f.filename, "size": os.path.getsize(path),
            "sha256": hashlib.sha256(request.files.get("file").file.read()).hexdigest()}


# Bottle gives an open file to wsgi.file_wrapper.
@app.get("/files/<name>")
def files(name):
    return static_file(name, root=DATA, mimetype="application/octet-stream")


@app.get("/lines")
def lines():
    response.content_type = "text/plain"
    for n in range(1000):
        yield "line %d\n" % n


@app.get("/teapot")
def teapot():
    raise HTTPResponse("short and stout", 418, headers={"X-Handle": "here"})


@app.get("/refuse")
def refuse():
    abort(403, "not you")


@app.error(404)
def missing(e):
    response.content_type = "text/plain"
    return "nothing at %s\n" % request.path
