"""A small Falcon application. SITE_DATA names a directory for its files."""

import hashlib
import os

import falcon

DATA = os.environ["SITE_DATA"]


class Timing:
    def process_request(self, req, resp):
        req.context.order = ["request"]

    def process_response(self, req, resp, resource, ok):
        req.context.order.append("response")
        resp.set_header("X-Order", " ".join(req.context.order))
        resp.append_header("Vary", "Accept")
        resp.set_cookie("seen", "1", secure=False)


class Things:
    def on_get(self, req, resp, number):
        resp.media = {"number": number, "limit": req.get_param_as_int("limit", default=10),
                      "tags": req.get_param_as_list("tag", default=[]), "uri": req.uri}
        resp.etag = "thing-%d" % number

    def on_post(self, req, resp, number):
        media = req.get_media()
        if "name" not in media:
            raise falcon.HTTPUnprocessableEntity(title="No name", description="A thing has a name.")
        resp.status = falcon.HTTP_201
        resp.location = "/things/%d" % number
        resp.media = media

    def on_delete(self, req, resp, number):
        resp.status = falcon.HTTP_204


class Files:
    def on_put(self, req, resp, name):
        digest = hashlib.sha256()
        size = 0
        with open(os.path.join(DATA, name), "wb") as f:
            while block := req.bounded_stream.read(1 << 16):
                f.write(block)
                digest.update(block)
                size += len(block)
        resp.status = falcon.HTTP_201
        resp.media = {"size": size, "sha256": digest.hexdigest()}

    # Falcon gives a stream with read() to wsgi.file_wrapper.
    def on_get(self, req, resp, name):
        path = os.path.join(DATA, name)
        try:
            f = open(path, "rb")
        except FileNotFoundError:
            raise falcon.HTTPNotFound(description="no file %s" % name) from None
        resp.content_type = falcon.MEDIA_TEXT
        resp.set_stream(f, os.path.getsize(path))


class Lines:
    def on_get(self, req, resp):
        resp.content_type = falcon.MEDIA_TEXT
        resp.stream = (b"line %d\n" % n for n in range(1000))


def text_of_error(req, resp, ex, params):
    resp.status = falcon.HTTP_500
    resp.text = "ZeroDivisionError: %s" % ex


class Faulty:
    def on_get(self, req, resp):
        1 / 0


app = falcon.App(middleware=[Timing()])
app.add_error_handler(ZeroDivisionError, text_of_error)
app.add_route("/things/{number:int}", Things())
app.add_route("/files/{name}", Files())
app.add_route("/lines", Lines())
app.add_route("/faulty", Faulty())
