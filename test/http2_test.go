package test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// h2spec is a program that tests servers of HTTP/2, section by section of the standards.
const h2spec = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// TestH2Spec runs h2spec over TLS and over plain TCP.
func TestH2Spec(t *testing.T) {
	notReference(t)
	for name, args := range map[string][]string{
		"clear": {"--http2-cleartext", "prior-knowledge", "--threads", "4", "app:app"},
		"TLS":   {"--certfile", "server.pem", "--keyfile", "server.key", "--threads", "4", "app:app"},
		"asgi":  {"--http2-cleartext", "prior-knowledge", "-k", "asgi", "h2_site:app"},
	} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t, "h2_site.py")
			newAuthority(t, "authority").pair(t, site.dir, "server")
			put(t, filepath.Join(site.dir, "app.py"), []byte("def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'page']\n"))
			s := site.start(t, append([]string{"--http-protocols", "h2"}, args...)...)
			host, port, _ := net.SplitHostPort(s.addr)
			cmd := exec.Command("go", "run", h2spec, "-h", host, "-p", port, "--timeout", "5")
			if name == "TLS" {
				cmd.Args = append(cmd.Args, "-t", "-k")
			}
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte(" 0 failed")) {
				_, failures, _ := strings.Cut(string(out), "Failures:")
				t.Errorf("h2spec: %v: %s", err, failures)
			}
			t.Log(regexp.MustCompile(`\d+ tests, .*`).FindString(string(out)))
		})
	}
}

// TestH2Clients has the usual clients ask over HTTP/2.
func TestH2Clients(t *testing.T) {
	notReference(t)
	for name, args := range map[string][]string{
		"clear": {"--http2-cleartext", "both"},
		"TLS":   {"--certfile", "server.pem", "--keyfile", "server.key"},
	} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t, "h2_site.py")
			newAuthority(t, "authority").pair(t, site.dir, "server")
			s := site.start(t, append(args, "-k", "asgi", "--http-protocols", "h2,h1", "h2_site:app")...)
			body := bytes.Repeat([]byte("0123456789"), 50000)
			put(t, filepath.Join(site.dir, "body"), body)
			url := s.url + "/echo"
			run := func(want string, command ...string) {
				t.Helper()
				cmd := exec.Command(command[0], command[1:]...)
				cmd.Dir, cmd.Env = site.dir, append(os.Environ(), "HOME="+site.dir)
				out, err := cmd.CombinedOutput()
				if err != nil || !bytes.Contains(out, []byte(want)) {
					t.Errorf("%v: %v, %q is not in %.300q", command, err, want, out)
				}
			}
			run("2 2", "curl", "-sk", "--http2", "-w", " %{http_version}", url)
			if name == "clear" {
				run("2 2", "curl", "-s", "--http2-prior-knowledge", "-w", " %{http_version}", url)
			}
			run(string(body), "curl", "-sk", "--http2", "-T", "body", url)
			run(string(body), "curl", "-sk", "--http2", "--data-binary", "@body", url)
			run("1.1 1.1", "curl", "-sk", "--http1.1", "-w", " %{http_version}", url)
			run(string(body), "nghttp", "-d", "body", url)
			run("500 requests total, 500 started, 500 done, 500 succeeded, 0 failed", "sh", "-c",
				"h2load -n 500 -c 5 -m 20 "+url+" | sed 's/requests: 500 total/500 requests total/'")
			site.python(t, []string{"HTTP2=" + name}, "-c", `
import asyncio, os, sys, httpx
async def main():
    async with httpx.AsyncClient(http1=False, http2=True, verify=False, timeout=30) as client:
        answers = await asyncio.gather(*[client.post(sys.argv[1], content=b"%d" % i * 30000) for i in range(50)])
        for i, answer in enumerate(answers):
            assert (answer.http_version, answer.content) == ("HTTP/2", b"%d" % i * 30000), answer
asyncio.run(main())`, url)
		})
	}
}

// TestH2Browser has a browser load a page of a hundred parts, and open a WebSocket, over one
// connection.
func TestH2Browser(t *testing.T) {
	notReference(t)
	site := newSite(t, "h2_site.py")
	newAuthority(t, "authority").pair(t, site.dir, "server")
	s := site.start(t, "--certfile", "server.pem", "--keyfile", "server.key", "-k", "asgi", "--http-protocols", "h2,h1", "--keep-alive", "30", "h2_site:app")
	site.python(t, browsers(), tool(t, "h2_browser.py"), s.url)
	s.waitText("standard output", `^closed 1000$`, s.stdout)
}
