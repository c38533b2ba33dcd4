package test

// Static files: testdata/static has requests as raw bytes, NAME.req, and what is answered,
// NAME.want, without Date and Server. The files are those of staticFiles.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var staticTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// staticFiles are the files, by name, that the cases ask for.
var staticFiles = map[string]string{
	"f.txt": "0123456789", "empty": "", "a.0123456789ab.css": "a", "index-BzC4eT7Q.js": "b", "jquery-3.7.1.min.js": "c",
	"z.css": "0123456789", "z.css.gz": "compressed by gzip...", "older.css": "plain", "older.css.gz": "stale", "older.css.br": "stale",
	"both.css": "plain", "both.css.gz": "gzip", "both.css.br": "brotli",
}

func putStaticFiles(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range staticFiles {
		path, at := filepath.Join(dir, name), staticTime
		if text == "stale" {
			at = at.Add(-time.Second)
		}
		put(t, path, []byte(text))
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

const staticApp = `
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"app\n"]
`

func TestStaticCases(t *testing.T) {
	if reference {
		t.Log("differs: it sends no files by itself")
		return
	}
	dir := t.TempDir()
	putStaticFiles(t, filepath.Join(dir, "files"))
	put(t, filepath.Join(dir, "app.py"), []byte(staticApp))
	srv := startServer(t, dir, "--static", "/s=files", "app:app")
	names, err := filepath.Glob("testdata/static/*.req")
	if err != nil || len(names) == 0 {
		t.Fatal("no cases in testdata/static:", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".req"), func(t *testing.T) {
			raw, want := readAll(name), readAll(strings.TrimSuffix(name, ".req")+".want")
			for _, cut := range []int{len(raw), 1, len(raw) / 2, len(raw) - 1} {
				if got := staticAnswer(t, srv.addr, raw, cut); got != want {
					t.Fatalf("%q, cut at %d:\ngot  %q\nwant %q", raw, cut, got, want)
				}
			}
		})
	}
}

// staticAnswer sends a request in two pieces, and returns the answer, after which another
// request on the same connection must be answered.
func staticAnswer(t *testing.T, addr, raw string, cut int) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(waitLimit))
	fmt.Fprint(c, raw[:cut])
	fmt.Fprint(c, raw[cut:])
	method, _, _ := strings.Cut(raw, " ")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, resp.Status)
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		if name != "Date" && name != "Server" {
			fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(resp.Header[name], " | "))
		}
	}
	fmt.Fprintf(&b, "\n%s", body)
	if strings.Contains(raw, "HTTP/1.0") {
		return b.String()
	}
	fmt.Fprint(c, "GET /after HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err = http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("after %q: %v", raw, err)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != "app\n" || err != nil {
		t.Fatalf("after %q: %q, %v", raw, body, err)
	}
	return b.String()
}
