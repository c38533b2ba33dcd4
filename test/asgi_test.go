package test

// ASGI applications, used by real clients: testdata/apps has a FastAPI, a
// Starlette and a Quart site, a chat of Channels, and the Django site with an
// asgi.py of its own.

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// asgiCrews have both event loops and each name of the worker class.
var asgiCrews = []crew{
	{"one worker", []string{"-k", "asgi", "--asgi-loop", "asyncio"}, 1},
	{"two workers", []string{"-k", "asgi", "-w", "2"}, 2},
	{"uvicorn", []string{"-k", "uvicorn.workers.UvicornWorker"}, 2},
	{"uvicorn_worker", []string{"-k", "uvicorn_worker.UvicornWorker", "-w", "2", "--asgi-loop", "asyncio"}, 2},
}

// notReference leaves out what Python Gunicorn does in another way.
func notReference(t *testing.T) {
	t.Helper()
	if reference {
		t.Skip("its ASGI worker is another")
	}
}

// overTLS has a crew serve the site with a certificate of its own.
func (s site) overTLS(c crew) crew {
	s.t.Helper()
	a := newAuthority(s.t, "authority")
	a.pair(s.t, s.dir, "server")
	put(s.t, filepath.Join(s.dir, "authority.pem"), a.pem)
	c.args = append([]string{"--certfile", "server.pem", "--keyfile", "server.key"}, c.args...)
	return c
}

func TestFastAPI(t *testing.T) {
	notReference(t)
	tls := crew{"TLS", []string{"-k", "asgi"}, 1}
	for _, c := range append(asgiCrews[:len(asgiCrews):len(asgiCrews)], tls) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "fastapi_site.py")
			if c.name == tls.name {
				c = s.overTLS(c)
			}
			srv := s.visitBy("asgi_client.py", c, "fastapi", "fastapi_site:app", `Error in ASGI application$`)
			srv.waitLog(`\[ERROR\] Error in ASGI application\nTraceback \(most recent call last\):\n(?:.*\n)+?RuntimeError: boom \w{32}$`)
			srv.waitLog(`^RuntimeError: boom in a WebSocket$`)
			for _, re := range []string{
				`^127\.0\.0\.1 - - \[.*\] "POST /upload HTTP/1\.1" 200 \d+ "-" "python-requests/[\d.]+"$`,
				`"POST /items HTTP/1\.1" 422 \d+ `,
				`"GET /download\?seed=\d+&blocks=128 HTTP/1\.1" 200 ` + strconv.Itoa(8<<20) + ` `,
				`"GET /teapot HTTP/1\.1" 418 21 `,
				`"GET /boom\?id=\w+ HTTP/1\.1" 500 21 `,
				`"GET /ws/echo HTTP/1\.1" 101 \d{7,} "-" "Python/[\d.]+ websockets/[\d.]+"$`,
				`"GET /ws/ticket\?ticket=valid HTTP/1\.1" 101 \d+ `,
				`"GET /ws/ticket HTTP/1\.1" 403 0 `,
				`"GET /ws/none HTTP/1\.1" 403 0 `,
				`^echo: left with 4001 'täglich'$`,
			} {
				srv.waitText("standard output", re, srv.stdout)
			}
			ups := strings.Count(srv.stdout(), "lifespan: up")
			srv.signal(syscall.SIGTERM)
			if status := srv.wait(); status != 0 {
				t.Errorf("status %d", status)
			}
			if downs := strings.Count(srv.stdout(), "lifespan: down"); downs != ups {
				t.Errorf("%d workers started up, %d shut down", ups, downs)
			}
		})
	}
}

func TestStarlette(t *testing.T) {
	notReference(t)
	for _, c := range asgiCrews {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := newSite(t, "starlette_site").visitBy("asgi_client.py", c, "starlette", "shelf:app")
			for _, re := range []string{
				`"GET /picture HTTP/1\.1" 200 ` + strconv.Itoa(3<<20) + ` `,
				`"GET /picture HTTP/1\.1" 206 1000 `,
				`"HEAD /picture HTTP/1\.1" 200 0 `,
				`"GET /static/style\.css HTTP/1\.1" 304 0 `,
				`"GET /inner/socket HTTP/1\.1" 101 \d+ `,
				`"GET /events HTTP/1\.1" (200|499) \d+ "-" "python-httpx/[\d.]+"$`,
			} {
				srv.waitText("standard output", re, srv.stdout)
			}
		})
	}
}

// TestStarletteRootPath: applications within an application are found under the
// root, which a proxy has left in the path.
func TestStarletteRootPath(t *testing.T) {
	notReference(t)
	t.Parallel()
	srv := newSite(t, "starlette_site").start(t, "-k", "asgi", "--root-path", "/shelf", "shelf:app")
	path := "/shelf/inner/where/me"
	want := fmt.Sprintf(`{"root_path":"/shelf/inner","path":%q,"url":%q,"own":"%s/shelf/inner/where/me"}`, path, srv.url+path, srv.url)
	if status, body := fetch(t, srv.url+path); status != 200 || body != want {
		t.Errorf("%s: status %d, %s, want %s", path, status, body, want)
	}
}

func TestQuart(t *testing.T) {
	notReference(t)
	for _, c := range asgiCrews[:3] {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := newSite(t, "quart_site.py").visitBy("asgi_client.py", c, "quart", "quart_site:app")
			srv.waitText("standard output", `"GET /ws HTTP/1\.1" 101 \d+ `, srv.stdout)
			srv.waitText("standard output", `"GET /closed HTTP/1\.1" 410 11 `, srv.stdout)
		})
	}
}

// TestDjangoASGI has the clients of TestDjango see the same pages.
func TestDjangoASGI(t *testing.T) {
	notReference(t)
	for _, c := range asgiCrews[:3] {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := newDjangoSite(t).visit(c, "django", "bookshop.asgi:application",
				`Internal Server Error: /boom/$`, `Invalid HTTP_HOST header: 'evil\.example'`)
			srv.waitLog(`\[ERROR\] Internal Server Error: /boom/\nTraceback \(most recent call last\):\n(  .*\n)+RuntimeError: boom \w{32}$`)
			srv.waitLog(`\[WARNING\] Forbidden \(CSRF token missing\.\): /admin/login/$`)
		})
	}
}

// TestChannelsBrowser needs Chromium and its driver, as TestDjangoBrowser does.
func TestChannelsBrowser(t *testing.T) {
	notReference(t)
	t.Parallel()
	s := newSite(t, "chat.py")
	srv := s.start(t, "-k", "asgi", "--access-logfile", "-", "chat")
	s.python(t, browsers(), tool(t, "chat_browser.py"), srv.url)
	srv.waitText("standard output", `"GET /ws/chat/ HTTP/1\.1" 101 \d+ "-" "Mozilla/`, srv.stdout)
	// One who has not told a name.
	status, _ := fetch(t, srv.url+"/ws/chat/")
	if status != 404 {
		t.Errorf("a WebSocket's path without one: status %d", status)
	}
}

// TestASGICrowd has two hundred WebSockets speak and then be closed, with a
// code that says whether they may come back at once.
func TestASGICrowd(t *testing.T) {
	notReference(t)
	for _, c := range []struct {
		signal, code string
		args         []string
	}{
		{"HUP", "1012", []string{"--asgi-loop", "asyncio"}},
		{"TERM", "1001", nil},
	} {
		t.Run(c.signal, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "fastapi_site.py")
			srv := s.start(t, append(c.args, "-k", "asgi", "--graceful-timeout", "10", "--access-logfile", "-", "fastapi_site:app")...)
			s.python(t, nil, tool(t, "asgi_crowd.py"), srv.url, strconv.Itoa(srv.pid), c.signal, c.code)
			srv.waitLog(`\[WARNING\] Forcing close of 200 connections$`)
			if c.signal == "HUP" {
				srv.waitWorkers(1)
				srv.signal(syscall.SIGTERM)
			}
			if status := srv.wait(); status != 0 {
				t.Errorf("status %d", status)
			}
			if n := strings.Count(srv.stdout(), `"GET /ws/room/crowd HTTP/1.1" 101 `); n < 200 {
				t.Errorf("%d lines in the access log", n)
			}
			if strings.Contains(srv.log(), "killed") {
				t.Error("a worker was killed")
			}
		})
	}
}
