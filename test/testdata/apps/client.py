"""Uses the sites beside this file over HTTP as a program with `requests` does.

    python client.py [--threads N] [--keepalive] flask|django|bottle|falcon URL

Each check's name is printed when it has passed. With --threads that many
clients, each with its own session, do everything at the same time. With
--keepalive the server has to keep connections open.
"""

import argparse
import concurrent.futures
import csv
import email.utils
import gzip
import hashlib
import html
import json
import os
import random
import re
import socket
import sys
import threading
import time
import traceback
import urllib.parse
import uuid

import requests

PATIENCE = 30  # seconds for one answer
UPLOAD_SIZE = 20 << 20
USER, PASSWORD = "admin", "correct horse"  # of the Django site's administrator

CHECKS = {"flask": [], "django": [], "bottle": [], "falcon": []}


def check(site):
    def add(function):
        CHECKS[site].append(function)
        return function
    return add


def equal(got, want):
    if got != want:
        raise AssertionError("got %.2000r, want %.2000r" % (got, want))


class Client:
    """One visitor of the site: a session, and an upload of its own."""

    def __init__(self, base, keepalive):
        self.base, self.keepalive = base, keepalive
        self.netloc = urllib.parse.urlsplit(base).netloc
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = os.environ.get("AUTHORITY", True)
        self.id = uuid.uuid4().hex
        self.big = random.Random(self.id).randbytes(UPLOAD_SIZE)
        self.big_sha256 = hashlib.sha256(self.big).hexdigest()

    def send(self, method, path, status, type=None, **options):
        """Sends a request and looks at what holds for every answer."""
        options.setdefault("timeout", PATIENCE)
        options.setdefault("allow_redirects", False)
        before = int(time.time())
        r = self.session.request(method, urllib.parse.urljoin(self.base, path), **options)
        equal((r.status_code, r.headers.get("Content-Type")), (status, type))
        fields = r.raw.headers
        equal(fields.getlist("Server"), ["gunicorn"])
        [date] = fields.getlist("Date")
        sent = email.utils.parsedate_to_datetime(date).timestamp()
        if not before - 1 <= sent <= time.time() + 1:
            raise AssertionError("Date: %s" % date)
        lengths, codings = fields.getlist("Content-Length"), fields.getlist("Transfer-Encoding")
        if status == 204:
            equal((lengths, codings), ([], []))
        elif status == 304:
            equal(codings, [])
        elif method != "HEAD":
            equal(len(lengths) + len(codings), 1)
            if codings:
                equal(codings, ["chunked"])
            elif not options.get("stream") and "Content-Encoding" not in r.headers:
                equal(lengths, [str(len(r.content))])
        if method == "HEAD" or status in (204, 304):
            equal(r.content, b"")
        [connection] = fields.getlist("Connection")
        if self.keepalive and connection != "keep-alive" or connection not in ("keep-alive", "close"):
            raise AssertionError("Connection: %s" % connection)
        return r

    def get(self, path, status, type=None, **options):
        return self.send("GET", path, status, type, **options)

    def post(self, path, status, type=None, **options):
        return self.send("POST", path, status, type, **options)

    def upload(self, path, fields):
        """The answer to a form with the big file."""
        return self.post(path, 200, "application/json", data=fields, files={
            "file": ("Übersicht.bin", self.big, "application/octet-stream")}).json()

    def connections(self):
        """How many have been made."""
        pools = self.session.get_adapter(self.base).poolmanager.pools
        return sum(pools[key].num_connections for key in pools.keys())

    def blocks_come_one_by_one(self, path, type):
        """The application makes the next block when the file that its last
        one names exists, so a server that holds blocks back never ends."""
        r = self.get(path, 200, type, stream=True)
        equal(r.headers.get("Transfer-Encoding"), "chunked")
        chunks = r.iter_content(None)
        for n in range(5):
            block = json.loads(next(chunks))
            equal((block["block"], block["path"]), (n, path))
            with open(block["gate"], "w"):
                pass
        equal(list(chunks), [b"end\n"])

    def leaves_in_the_middle(self, path):
        """The application's generator must be closed when its reader has gone."""
        r = self.get(path, 200, "application/octet-stream", stream=True)
        closed = r.raw.readline().decode().strip()
        r.raw.read(100000)
        r.close()
        limit = time.monotonic() + PATIENCE
        while not os.path.exists(closed):
            if time.monotonic() > limit:
                raise AssertionError("the generator has not been closed")
            time.sleep(0.01)
        os.unlink(closed)


def chunked(data):
    """An iterable, which `requests` sends with Transfer-Encoding: chunked."""
    for start in range(0, len(data), 100000):
        yield data[start:start + 100000]


def ranges(c, path, whole, type, etag):
    """Conditional and partial requests for a file."""
    def part(status, range, **headers):
        return c.get(path, status, type, headers={"Range": range, "Accept-Encoding": "identity", **headers})

    first = part(206, "bytes=100-1099")
    equal(first.headers["Content-Range"], "bytes 100-1099/%d" % len(whole))
    equal(first.content, whole[100:1100])
    equal(part(206, "bytes=-5").content, whole[-5:])
    rest = part(206, "bytes=%d-" % (len(whole) // 2))
    equal(hashlib.sha256(rest.content).digest(), hashlib.sha256(whole[len(whole) // 2:]).digest())
    if etag:
        equal(len(part(200, "bytes=0-9", **{"If-Range": '"other"'}).content), len(whole))
        equal(part(206, "bytes=0-9", **{"If-Range": etag}).content, whole[:10])


# Flask ----------------------------------------------------------------------

HTML, TEXT, JSON = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"


@check("flask")
def flask_pages(c):
    r = c.get("/", 200, HTML)
    if not r.text.startswith("<!doctype html>") or "<title>Entries – Guest book</title>" not in r.text:
        raise AssertionError(r.text)
    float(r.headers["X-Elapsed"])
    head = c.send("HEAD", "/", 200, HTML)
    equal(head.headers["Content-Length"], r.headers["Content-Length"])
    options = c.send("OPTIONS", "/sign", 200, HTML)
    equal(sorted(options.headers["Allow"].split(", ")), ["OPTIONS", "POST"])
    refused = c.get("/sign", 405, JSON)
    equal(refused.json()["name"], "Method Not Allowed")


@check("flask")
def flask_routes(c):
    c.get("/hello/Zo%C3%AB%20%2F%3F", 404, HTML)  # %2F parts the path in WSGI
    r = c.get("/hello/Zo%C3%AB%20%3F?a=1&a=%E2%82%AC&b=", 200, JSON)
    equal(r.json(), {
        "name": "Zoë ?", "path": "/hello/Zoë ?", "scheme": "http", "host": c.netloc,
        "peer": "127.0.0.1", "query": {"a": ["1", "€"], "b": [""]},
        "url": "http://%s/hello/Zoë%%20%%3F?a=1&a=€&b=" % c.netloc})
    r = c.get("/hello/x", 200, JSON, headers={"X-Forwarded-Proto": "https", "Host": "example.org"})
    equal((r.json()["scheme"], r.json()["url"]), ("https", "https://example.org/hello/x"))


@check("flask")
def flask_json_api(c):
    thing = {"text": "Zoë €", "number": 1.5, "list": [1, None, True], "long": "x" * 100000}
    r = c.post("/api/echo", 201, JSON, json=thing)
    equal(r.json(), thing)
    equal(r.headers["Location"], "http://%s/api/echo" % c.netloc)
    r = c.post("/api/echo", 400, JSON, data=b"{", headers={"Content-Type": "application/json"})
    equal(r.json()["name"], "Bad Request")
    c.post("/api/echo", 415, JSON, data=b"text")
    c.send("DELETE", "/api/entries", 204, HTML)


@check("flask")
def flask_request_headers(c):
    sent = {"X-Long": "v" * 7000, "X-Latin": "é", "Authorization": "Basic dTpw", "X-Under-Score": "1"}
    r = c.get("/api/headers", 200, JSON, headers=sent)
    got = dict(r.json())
    for name, value in sent.items():
        equal(got[name], value)
    equal(got["Host"], c.netloc)


@check("flask")
def flask_cookies(c):
    r = c.get("/cookies", 200, HTML)
    plain, private, quoted = r.raw.headers.getlist("Set-Cookie")
    equal((plain, quoted), ("plain=1; Path=/", r'quoted="a \"b\"\073 c"; Path=/'))
    equal(private.split("; ")[-4:], ["Max-Age=60", "HttpOnly", "Path=/", "SameSite=Lax"])
    sent = dict(c.get("/api/headers", 200, JSON).json())["Cookie"]
    if "plain=1; private=2" not in sent:
        raise AssertionError(sent)


@check("flask")
def flask_sessions(c):
    c.get("/login", 200, HTML)
    r = c.post("/login", 403, HTML, data={"user": c.id, "password": "wrong"})
    if "Wrong password." not in r.text:
        raise AssertionError(r.text)
    r = c.post("/login", 302, HTML, data={"user": c.id, "password": "sesame"})
    equal(r.headers["Location"], "/")
    if "Signed in as <b>%s</b>" % c.id not in c.get("/", 200, HTML).text:
        raise AssertionError("not signed in")
    for n in range(1, 21):
        equal(c.get("/count", 200, "text/plain").text, str(n))
    if c.keepalive:
        equal(c.connections(), 1)


@check("flask")
def flask_forms(c):
    for text in ("first & <second>", "mañana"):
        r = c.post("/sign", 303, HTML, data={"text": text})
        equal(r.headers["Location"], "/")
    page = c.get("/", 200, HTML).text
    equal([html.unescape(t) for t in re.findall("<li>(.*)</li>", page)],
          ["first & <second>", "mañana"])
    equal(page.count("Thank you, %s." % c.id), 2)  # flashed by the two requests before
    equal(c.get("/", 200, HTML).text.count("Thank you"), 0)
    r = c.post("/sign", 400, JSON, data={"text": ""})
    equal(r.json()["description"], "an entry needs a text")
    r = c.post("/logout", 302, HTML)
    if "Sign in" not in c.get(r.headers["Location"], 200, HTML).text:
        raise AssertionError("still signed in")
    equal(c.get("/count", 200, "text/plain").text, "1")


@check("flask")
def flask_upload(c):
    equal(c.upload("/upload", {"note": "ein Übersichtsbild"}),
          {"name": "Übersicht.bin", "type": "application/octet-stream", "size": UPLOAD_SIZE,
           "sha256": c.big_sha256, "note": "ein Übersichtsbild"})


@check("flask")
def flask_bodies(c):
    equal(c.send("PUT", "/raw", 200, JSON, data=c.big).json(),
          {"size": UPLOAD_SIZE, "sha256": c.big_sha256, "length": UPLOAD_SIZE})
    equal(c.send("PUT", "/raw", 200, JSON, data=chunked(c.big)).json(),
          {"size": UPLOAD_SIZE, "sha256": c.big_sha256, "length": None})
    equal(c.send("PUT", "/raw", 200, JSON, data=b"").json()["size"], 0)
    equal(c.post("/small", 200, HTML, data=b"x" * 1000).text, "1000")
    equal(c.post("/small", 413, JSON, data=b"x" * 30000).json()["code"], 413)
    equal(c.post("/small", 200, HTML, data=b"x").text, "1")  # after a body nobody read
    # One that waits for 100 Continue.
    with socket.create_connection(c.netloc.split(":"), PATIENCE) as s:
        s.sendall(b"PUT /raw HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
                  b"Connection: close\r\n\r\n")
        f = s.makefile("rb")
        equal((f.readline(), f.readline()), (b"HTTP/1.1 100 Continue\r\n", b"\r\n"))
        s.sendall(b"hello")
        equal(f.readline(), b"HTTP/1.1 200 OK\r\n")
        if hashlib.sha256(b"hello").hexdigest().encode() not in f.read():
            raise AssertionError("another body")


@check("flask")
def flask_files(c):
    type = "application/octet-stream"
    r = c.get("/picture", 200, type)
    whole = r.content
    equal(whole, random.Random(3).randbytes(3 << 20))
    equal(r.headers["Content-Disposition"], "attachment; filename=picture.bin")
    equal(r.headers["Accept-Ranges"], "bytes")
    equal(r.headers["Last-Modified"], "Tue, 14 Nov 2023 22:13:20 GMT")
    equal(r.headers["Cache-Control"], "public, max-age=60")
    head = c.send("HEAD", "/picture", 200, type)
    equal(head.headers["Content-Length"], str(len(whole)))
    etag = r.headers["ETag"]
    for condition in ({"If-None-Match": etag},
                      {"If-Modified-Since": r.headers["Last-Modified"]}):
        equal(c.get("/picture", 304, None, headers=condition).headers["ETag"], etag)
    ranges(c, "/picture", whole, type, etag)
    c.get("/picture", 416, JSON, headers={"Range": "bytes=99999999-"})


@check("flask")
def flask_streaming(c):
    c.blocks_come_one_by_one("/stream", "application/x-ndjson")
    c.leaves_in_the_middle("/endless")


@check("flask")
def flask_errors(c):
    r = c.get("/no/such/page", 404, HTML)
    if "<h1>No such page</h1>\n<p>/no/such/page</p>" not in r.text:
        raise AssertionError(r.text)
    r = c.get("/boom?id=" + c.id, 500, HTML)
    if "<h1>Our fault</h1>\n<p>/boom</p>" not in r.text:
        raise AssertionError(r.text)
    equal(c.get("/log?id=" + c.id, 200, HTML).text, "logged")


# Django ---------------------------------------------------------------------


def token(page):
    """The CSRF token of a page's form."""
    return re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)


def sign_in(c):
    r = c.get("/admin/", 302, HTML)
    equal(r.headers["Location"], "/admin/login/?next=/admin/")
    login = r.headers["Location"]
    page = c.get(login, 200, HTML).text
    fields = {"username": USER, "password": PASSWORD, "next": "/admin/"}
    c.post(login, 403, HTML, data=fields)  # no token
    wrong = c.post(login, 200, HTML, data={**fields, "password": "wrong", "csrfmiddlewaretoken": token(page)})
    if "Please enter the correct username and password" not in wrong.text:
        raise AssertionError(wrong.text)
    r = c.post(login, 302, HTML, data={**fields, "csrfmiddlewaretoken": token(page)})
    equal(r.headers["Location"], "/admin/")


@check("django")
def django_pages(c):
    r = c.get("/", 200, HTML)
    if "<h1>Books</h1>" not in r.text:
        raise AssertionError(r.text)
    for name, value in {"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
                        "Referrer-Policy": "same-origin"}.items():
        equal(r.headers[name], value)
    head = c.send("HEAD", "/", 200, HTML)
    equal(head.headers["Content-Length"], r.headers["Content-Length"])
    if "<h1>Not Found</h1>" not in c.get("/no/such/page", 404, HTML).text:
        raise AssertionError("another page")
    c.get("/", 400, HTML, headers={"Host": "evil.example"})
    equal(c.get("/admin", 301, HTML).headers["Location"], "/admin/")
    seen = c.get("/seen/Zo%C3%AB/?q=%E2%82%AC", 200, JSON).json()
    equal(seen, {"name": "Zoë", "q": "€", "secure": False, "host": c.netloc,
                 "uri": "http://%s/seen/Zo%%C3%%AB/?q=%%E2%%82%%AC" % c.netloc})
    seen = c.get("/seen/x/", 200, JSON, headers={"X-Forwarded-Proto": "https"}).json()
    equal((seen["secure"], seen["uri"]), (True, "https://%s/seen/x/" % c.netloc))


@check("django")
def django_static_files(c):
    page = c.get("/admin/login/", 200, HTML).text
    sheets = re.findall(r'<link rel="stylesheet" href="([^"]+)">', page)
    if len(sheets) < 3:
        raise AssertionError(page)
    for sheet in sheets:
        plain = c.get(sheet, 200, 'text/css; charset="utf-8"', headers={"Accept-Encoding": "identity"})
        if "{" not in plain.text:
            raise AssertionError(plain.text)
        equal(plain.headers["Cache-Control"], "max-age=315360000, public, immutable")
        again = c.get(sheet, 304, None, headers={
            "If-Modified-Since": plain.headers["Last-Modified"], "Accept-Encoding": "identity"})
        equal(again.headers["Cache-Control"], plain.headers["Cache-Control"])
    base = next(s for s in sheets if "/base." in s)
    plain = c.get(base, 200, 'text/css; charset="utf-8"', headers={"Accept-Encoding": "identity"}).content
    small = c.get(base, 200, 'text/css; charset="utf-8"', headers={"Accept-Encoding": "gzip"}, stream=True)
    equal((small.headers["Content-Encoding"], small.headers["Vary"]), ("gzip", "Accept-Encoding"))
    packed = small.raw.read(decode_content=False)
    equal(str(len(packed)), small.headers["Content-Length"])
    equal(gzip.decompress(packed), plain)
    ranges(c, base, plain, 'text/css; charset="utf-8"', None)
    equal(c.send("HEAD", base, 200, 'text/css; charset="utf-8"', headers={"Accept-Encoding": "identity"})
          .headers["Content-Length"], str(len(plain)))
    c.get("/static/no/such.css", 404, HTML)


@check("django")
def django_admin(c):
    sign_in(c)
    page = c.get("/admin/", 200, HTML).text
    if "Site administration" not in page or 'href="/admin/books/book/"' not in page:
        raise AssertionError(page)
    title = "Über <%s>" % c.id
    page = c.get("/admin/books/book/add/", 200, HTML).text
    fields = {"csrfmiddlewaretoken": token(page), "title": title, "author": "Zoë", "pages": "321"}
    wrong = c.post("/admin/books/book/add/", 200, HTML, data={**fields, "pages": "none"})
    if "Enter a whole number." not in wrong.text:
        raise AssertionError(wrong.text)
    r = c.post("/admin/books/book/add/", 302, HTML, data=fields)
    equal(r.headers["Location"], "/admin/books/book/")
    page = c.get("/admin/books/book/?q=" + c.id, 200, HTML).text
    [(change, shown)] = re.findall(r'<th class="field-title"><a href="([^"]+)">(.*?)</a></th>', page)
    equal(html.unescape(shown), title)
    if "was added successfully." not in page:
        raise AssertionError(page)

    # What the ORM has of it, outside the admin.
    change = html.unescape(change)
    number = int(re.search(r"/book/(\d+)/", change).group(1))
    want = {"id": number, "title": title, "author": "Zoë", "pages": 321}
    equal(c.get("/api/books/?q=" + c.id, 200, JSON).json(), {"books": [want]})

    page = c.get(change, 200, HTML).text
    c.post(change, 302, HTML, data={**fields, "csrfmiddlewaretoken": token(page), "pages": "322"})
    equal(c.get("/api/books/?q=" + c.id, 200, JSON).json(), {"books": [{**want, "pages": 322}]})

    delete = "/admin/books/book/%d/delete/" % number
    page = c.get(delete, 200, HTML).text
    c.post(delete, 302, HTML, data={"csrfmiddlewaretoken": token(page), "post": "yes"})
    equal(c.get("/api/books/?q=" + c.id, 200, JSON).json(), {"books": []})

    page = c.get("/admin/", 200, HTML).text
    r = c.post("/admin/logout/", 200, HTML, data={"csrfmiddlewaretoken": token(page)})
    if "Thanks for spending some quality time" not in r.text:
        raise AssertionError(r.text)
    c.get("/admin/", 302, HTML)
    if c.keepalive:
        equal(c.connections(), 1)


@check("django")
def django_upload(c):
    r = c.get("/upload/", 200, HTML)
    fields = {"csrfmiddlewaretoken": token(r.text), "note": "Übersicht"}
    got = c.upload("/upload/", fields)
    equal((got["name"], got["size"], got["sha256"], got["note"]),
          ("Übersicht.bin", UPLOAD_SIZE, c.big_sha256, "Übersicht"))

    # FileResponse of a file on disk, which Django gives to wsgi.file_wrapper.
    r = c.get(got["url"], 200, "application/octet-stream")
    equal((r.headers["Content-Length"], hashlib.sha256(r.content).hexdigest()),
          (str(UPLOAD_SIZE), c.big_sha256))
    if "attachment; filename" not in r.headers["Content-Disposition"]:
        raise AssertionError(r.headers)
    head = c.send("HEAD", got["url"], 200, "application/octet-stream")
    equal(head.headers["Content-Length"], str(UPLOAD_SIZE))
    # ... from its middle, and of one that is in memory only.
    equal(hashlib.sha256(c.get(got["url"] + "?from=1000", 200, "application/octet-stream").content).hexdigest(),
          hashlib.sha256(c.big[1000:]).hexdigest())
    equal(c.get("/memory/", 200, "text/plain").content, b"from memory\n" * 5000)


@check("django")
def django_streaming(c):
    r = c.get("/books.csv", 200, "text/csv")
    equal(r.headers["Transfer-Encoding"], "chunked")
    rows = list(csv.reader(r.text.splitlines()))
    equal((len(rows), rows[0], rows[-1]), (5001, ["number", "title"], ["4999", "Title, the 4999th"]))
    c.blocks_come_one_by_one("/stream/", "application/x-ndjson")
    c.leaves_in_the_middle("/endless/")


@check("django")
def django_errors(c):
    r = c.get("/boom/?id=" + c.id, 500, HTML)
    if "<h1>Server Error (500)</h1>" not in r.text:
        raise AssertionError(r.text)


# Bottle ---------------------------------------------------------------------


@check("bottle")
def bottle_pages(c):
    page = "text/html; charset=UTF-8"
    equal(c.get("/", 200, page).text, "<p>Hello, World!</p>\n")
    equal(c.get("/hello/Zo%C3%AB%20%3C", 200, page).text, "<p>Hello, Zoë &lt;!</p>\n")
    equal(c.send("HEAD", "/", 200, page).headers["Content-Length"], "21")
    equal(c.post("/json?a=1", 200, JSON, json={"b": [1, "é"]}).json(), {"got": {"b": [1, "é"]}, "query": {"a": "1"}})
    equal(c.get("/nothing?x", 404, "text/plain").text, "nothing at /nothing\n")
    if "not you" not in c.get("/refuse", 403, page).text:
        raise AssertionError("another page")
    r = c.get("/teapot", 418, page)
    equal((r.reason, r.text, r.headers["X-Handle"]), ("I'm a teapot", "short and stout", "here"))


@check("bottle")
def bottle_forms(c):
    equal(c.get("/whoami", 200, TEXT.replace("utf", "UTF")).text, "nobody")
    r = c.post("/form", 303, "text/html; charset=UTF-8", data={"name": "Zoë"})
    equal(r.headers["Location"], c.base + "/whoami")
    equal(c.get("/whoami", 200, TEXT.replace("utf", "UTF")).text, "Zoë")
    if c.keepalive:
        equal(c.connections(), 1)


@check("bottle")
def bottle_files(c):
    name = c.id + ".bin"
    got = c.post("/upload", 200, JSON, files={"file": (name, c.big)}).json()
    equal(got, {"name": name, "size": UPLOAD_SIZE, "sha256": c.big_sha256})
    r = c.get("/files/" + name, 200, "application/octet-stream")
    equal(hashlib.sha256(r.content).hexdigest(), c.big_sha256)
    c.get("/files/" + name, 304, None, headers={"If-None-Match": r.headers["ETag"]})
    ranges(c, "/files/" + name, c.big, "application/octet-stream", None)
    c.get("/files/none", 404, "text/plain")
    equal(c.get("/lines", 200, "text/plain").text, "".join("line %d\n" % n for n in range(1000)))


# Falcon ---------------------------------------------------------------------


@check("falcon")
def falcon_things(c):
    r = c.get("/things/7?limit=3&tag=a,b&tag=c", 200, JSON)
    equal(r.json(), {"number": 7, "limit": 3, "tags": ["a,b", "c"],
                     "uri": c.base + "/things/7?limit=3&tag=a,b&tag=c"})
    equal((r.headers["ETag"], r.headers["X-Order"], r.headers["Vary"]), ('"thing-7"', "request response", "Accept"))
    equal(r.raw.headers.getlist("Set-Cookie"), ["seen=1; HttpOnly"])
    r = c.post("/things/8", 201, JSON, json={"name": "é"})
    equal((r.headers["Location"], r.json()), ("/things/8", {"name": "é"}))
    r = c.post("/things/8", 422, JSON, json={})
    equal(r.json(), {"title": "No name", "description": "A thing has a name."})
    c.send("DELETE", "/things/8", 204, None)
    c.send("HEAD", "/things/7", 405, JSON)
    r = c.send("PATCH", "/things/7", 405, JSON)
    equal(sorted(r.headers["Allow"].split(", ")), ["DELETE", "GET", "OPTIONS", "POST"])
    equal(c.get("/none", 404, JSON).json(), {"title": "404 Not Found"})
    equal(c.get("/things/7?limit=x", 400, JSON).json()["title"], "Invalid parameter")
    equal(c.get("/faulty", 500, JSON).text, "ZeroDivisionError: division by zero")
    if c.keepalive:
        equal(c.connections(), 1)


@check("falcon")
def falcon_files(c):
    path = "/files/" + c.id
    want = {"size": UPLOAD_SIZE, "sha256": c.big_sha256}
    equal(c.send("PUT", path, 201, JSON, data=c.big).json(), want)
    r = c.get(path, 200, "text/plain; charset=utf-8")
    equal(hashlib.sha256(r.content).hexdigest(), c.big_sha256)
    equal(c.get("/files/none", 404, JSON).json()["description"], "no file none")
    r = c.get("/lines", 200, "text/plain; charset=utf-8")
    equal((r.headers["Transfer-Encoding"], r.text), ("chunked", "".join("line %d\n" % n for n in range(1000))))


# Run ------------------------------------------------------------------------

output = threading.Lock()


def visit(site, base, keepalive):
    """One client does every check, and goes on after one that failed."""
    c = Client(base, keepalive)
    failed = 0
    for function in CHECKS[site]:
        try:
            function(c)
            result = "ok"
        except Exception:
            failed += 1
            result = "FAILED\n" + traceback.format_exc()
        with output:
            print("%s: %s" % (function.__name__, result), flush=True)
    c.session.close()
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keepalive", action="store_true")
    parser.add_argument("site", choices=CHECKS)
    parser.add_argument("url")
    args = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor(args.threads) as pool:
        visits = [pool.submit(visit, args.site, args.url, args.keepalive) for _ in range(args.threads)]
        sys.exit(any(v.result() for v in visits))


if __name__ == "__main__":
    main()
