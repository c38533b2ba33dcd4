package main

// The worker's own files: which names they have, and that none is outside of its directory.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHashed(t *testing.T) {
	for name, want := range map[string]bool{
		"base.523eb49842a7.css": true, "css/base.523eb49842a7.css": true, "a.abcdefabcdef.css": true, "app.js.0123456789ab.map": true,
		"index-BzC4eT7Q.js": true, "index-DiwrgTda.js": true, "index-B_C-eT7Q.js.map": true, "a-b-4f2b9c7d.js": true, "main.4f2b9c7d.js": true,
		"chunk-5XKZ2M7Q.js": true, "lib.f3ea4bcc2.css": true, "a.d41d8cd98f00b204e9800998ecf8427e.png": true,
		"index.BzC4eT7Q.js": true, "index--zC4eT7Q.js": true,

		"base.css": false, "jquery-3.7.1.min.js": false, "bootstrap.bundle.min.js": false, "my-bootstrap.css": false, "photo-1024x768.png": false,
		"report-20240101.pdf": false, "report.20240101.pdf": false, "report.202401011230.pdf": false, "523eb49842a7.css": false, "a.523eb49842a7": false,
		"a.523eb4.css": false, "a.523EB49842A7.css": false, "a.feedface.css": false, "": false, ".": false, "-.": false, "a.523eb49842a7/base.css": false,
		"font-roboto-v20.woff2": false, "4f2b9c7d.js": false, "-4f2b9c7d.js": false,
	} {
		if got := hashed([]byte(name)); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestTypes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "types")
	if err := os.WriteFile(path, []byte("# a comment\ntext/x-more\tMore other # and more\napplication/javascript js\n\nnone/none\nbad\x01/type bad\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w := &worker{statics: statics{types: readTypes(path)}}
	for name, want := range map[string]string{
		"a.css": "text/css; charset=utf-8", "a.JS": "text/javascript; charset=utf-8", "a.more": "text/x-more; charset=utf-8",
		"a.other": "text/x-more; charset=utf-8", "a.tar.gz": "application/gzip", "a.svg": "image/svg+xml",
		"css": "application/octet-stream", "sub/css": "application/octet-stream", "a.bad": "application/octet-stream", "a": "application/octet-stream", "a.css/b": "application/octet-stream", "a.none": "application/octet-stream",
	} {
		if got := w.typeOf([]byte(name)); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// newStaticWorker has a directory with a mount, beside which are files that nobody may get.
func newStaticWorker(t testing.TB) (*worker, *mount, string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"in/a/b", "out/a"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"secret", "out/secret", "out/a/file", "in/file", "in/a/file", "in/a/b/file", "in/.secret", "in/a/.secret"} {
		text := "inside"
		if strings.Contains(name, "secret") || !strings.HasPrefix(name, "in/") {
			text = "outside"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"in/up": "..", "in/out": "../out", "in/absolute": dir + "/out", "in/own": dir + "/in/file", "in/secret": "../secret", "in/loop": "loop",
		"in/a/up": "../..", "in/a/back": "../file", "in/a/b/back": "../../a/b/file", "in/a/b/around": "../../../in/file", "in/deep": "a/b",
		"in/a/root": "/", "in/proc": "/proc/self/root", "in/dots": "a/.././a/b/../file", "in/chain": "deep/back", "in/a/b/long": "../../../../../../secret",
		"in/a/whole": dir + "/in", "in/a/b/inside": dir + "/in/a/../deep", "in/sly": dir + "/in/../secret", "in/near": dir + "/in/../in/secret",
		"in/alias": dir + "/named/a", "named": "in",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	w := &worker{cfg: &config{staticIndex: true}}
	m := &mount{prefix: "/s/", dir: filepath.Join(dir, "named") + "/", fd: -1}
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(m.fd) })
	return w, m, dir
}

// opened opens the file of a path, and fails if that is a file nobody may get.
func opened(t testing.TB, w *worker, m *mount, path string) (content string, errno syscall.Errno) {
	t.Helper()
	r := &request{path: []byte(path)}
	if m != nil {
		if decoded := w.unquoted(r.path); !bytes.HasPrefix(decoded, []byte(m.prefix)) {
			return "", unix.ENOENT
		}
	}
	f, errno := m.find(w, r)
	if errno != 0 || f.fd < 0 {
		return "", errno
	}
	defer unix.Close(f.fd)
	b := make([]byte, 64)
	n, err := unix.Pread(f.fd, b, 0)
	if err != nil || string(b[:n]) != "inside" {
		t.Fatalf("%q leads to %q, %v", path, b[:n], err)
	}
	return string(b[:n]), 0
}

func TestBeneath(t *testing.T) {
	w, m, _ := newStaticWorker(t)
	for path, want := range map[string]bool{
		"/s/file": true, "/s/a/file": true, "/s/a/b/file": true, "/s/a/back": true, "/s/a/b/back": true, "/s/deep/file": true, "/s/dots": true,
		"/s/chain": true, "/s/f%69le": true, "/%73/file": true,
		"/s/own": true, "/s/a/whole/file": true, "/s/a/b/inside/file": true, "/s/a/whole/a/b/inside/back": true, "/s/alias/file": true,
		"/s/up/secret": false, "/s/out/a/file": false, "/s/absolute/a/file": false, "/s/sly": false, "/s/near": false, "/s/a/whole/.secret": false, "/s/a/whole/up/secret": false, "/s/secret": false, "/s/loop": false,
		"/s/a/up/secret": false, "/s/a/b/around": false, "/s/a/root/etc/passwd": false, "/s/proc/etc/passwd": false, "/s/.secret": false,
		"/s/a/.secret": false, "/s/../secret": false, "/s/a/b/long": false, "/s//file": false, "/s/./file": false, "/s/a%2ffile": false, "/s/a%2Ffile": false,
		"/s/file%00": false, "/s/file/": false, "/s/" + strings.Repeat("a", 5000): false, "/s/" + strings.Repeat("a/", 3000): false, "/s": false,
	} {
		for _, w.walks = range []bool{false, true} {
			if content, errno := opened(t, w, m, path); (content != "") != want {
				t.Errorf("%q: %q, %v; by a walk: %v", path, content, errno, w.walks)
			}
		}
	}
}

// FuzzStaticPath promises that nothing outside of the directory is opened, by whatever path,
// and that openat2 and the walk agree.
func FuzzStaticPath(f *testing.F) {
	for _, path := range []string{
		"file", "a/b/file", "up/secret", "a/up/out/secret", "%2e%2e/secret", "..%2fsecret", "a/b/back", "dots", "chain", "deep/../../secret", "out/secret",
		".secret", "%2esecret", "a//file", "loop", "absolute/secret", "a/b/around", "a/root/etc/passwd", "a%00/file", "a/b/", "proc/etc/passwd", "a/b/long",
		"own", "a/whole/file", "a/b/inside/file", "sly", "near", "alias/file",
	} {
		f.Add([]byte(path))
	}
	w, m, dir := newStaticWorker(f)
	inside := filepath.Join(dir, "in") + "/"
	f.Fuzz(func(t *testing.T, path []byte) {
		var errnos [2]syscall.Errno
		for i, walks := range []bool{false, true} {
			w.walks = walks
			r := &request{path: append([]byte("/s/"), path...)}
			file, errno := m.find(w, r)
			errnos[i] = errno
			if errno != 0 || file.fd < 0 {
				continue
			}
			where, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(file.fd))
			unix.Close(file.fd)
			if rest, ok := strings.CutPrefix(where, inside); err != nil || !ok || strings.HasPrefix(rest, ".") || strings.Contains(rest, "/.") {
				t.Fatalf("%q opens %s, %v", path, where, err)
			}
		}
		if (errnos[0] == 0) != (errnos[1] == 0) {
			t.Fatalf("%q: openat2 says %v, the walk %v", path, errnos[0], errnos[1])
		}
	})
}

// TestBeneathRace has a directory replaced by a link that leads out, over and over, while
// files below it are opened.
func TestBeneathRace(t *testing.T) {
	w, m, dir := newStaticWorker(t)
	in := filepath.Join(dir, "in")
	if err := os.Symlink("../out/a", filepath.Join(in, "other")); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan error)
	go func() {
		var err error
		for !stop.Load() && err == nil {
			err = unix.Renameat2(unix.AT_FDCWD, filepath.Join(in, "a"), unix.AT_FDCWD, filepath.Join(in, "other"), unix.RENAME_EXCHANGE)
			runtime.Gosched()
		}
		done <- err
	}()
	found := [2]int{}
	for i := range 20000 {
		w.walks = i%2 == 1
		content, errno := opened(t, w, m, "/s/a/file")
		if content != "" {
			found[i%2]++
		} else if errno == unix.EMFILE {
			t.Fatal("a descriptor is left open")
		}
	}
	stop.Store(true)
	if err := <-done; err != nil && !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	t.Logf("found %d times by openat2, %d times by the walk", found[0], found[1])
	if found[0] == 0 || found[1] == 0 {
		t.Error("never found")
	}
}

// TestStaticPieces has a client send requests for files and for the application, some with
// bodies, on one connection, cut at every byte: each gets its answer, in order, and the
// application is called for its own requests alone.
func TestStaticPieces(t *testing.T) {
	stream := "GET /s/file HTTP/1.1\r\nHost: x\r\n\r\n" +
		"POST /s/file HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" +
		"POST /s/none HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" +
		"PUT /s/a/file HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n" +
		"PUT /s/none HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" +
		"HEAD /s/file HTTP/1.1\r\nHost: x\r\n\r\n" +
		"GET /s/long HTTP/1.1\r\nHost: x\r\nRange: bytes=5-\r\n\r\n" +
		"GET /s/a/b/file HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n" +
		"GET /other HTTP/1.1\r\nHost: x\r\n\r\n" +
		"GET /s/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	methods := []string{"GET", "POST", "POST", "PUT", "PUT", "HEAD", "GET", "GET", "GET", "GET"}
	_, m, dir := newStaticWorker(t)
	if err := os.WriteFile(filepath.Join(dir, "in/long"), make([]byte, 300<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(stream); cut += 1 + cut/400*7 {
		t.Run(strconv.Itoa(cut), func(t *testing.T) {
			p := newPlainWorker(t)
			p.mounts = []*mount{m}
			p.send([]byte(stream[:cut]), false)
			p.serve()
			p.send([]byte(stream[cut:]), false)
			p.serve()
			p.run()
			p.serve()
			p.run()
			list, whole := statuses(t, p.got, methods)
			if got := fmt.Sprint(list, whole); got != "[200 405 200 405 200 200 206 304 200 200] true" {
				t.Fatalf("%s\n%.300q", got, p.got)
			}
			if len(p.calls) != 3 || p.calls[0]["body"] != "hello" || p.calls[1]["body"] != "abcde" || p.calls[2]["RAW_URI"] != "/other" {
				t.Fatalf("calls %v", p.calls)
			}
			if p.files != 0 {
				t.Fatalf("%d files are open", p.files)
			}
		})
	}
}

// TestStaticShare has one client send many requests at once. No turn of the loop answers more
// of them than its share, so that other clients and Python need not wait.
func TestStaticShare(t *testing.T) {
	_, m, _ := newStaticWorker(t)
	p := newPlainWorker(t)
	p.mounts = []*mount{m}
	const requests = 300
	if n, errno := rawWrite(p.client, bytes.Repeat([]byte("GET /s/file HTTP/1.1\r\nHost: x\r\n\r\n"), requests)); errno != 0 || n < 30*requests {
		t.Fatal(n, errno)
	}
	p.advance(p.conn)
	count := func() int { p.read(); return bytes.Count(p.got, []byte("HTTP/1.1 200 OK\r\n")) }
	for before, turns := 0, 0; before < requests; turns++ {
		p.turn(0)
		now := count()
		if now-before > 2*fileShare/ownCost+1 || turns > requests {
			t.Fatalf("%d answers in turn %d", now-before, turns)
		}
		before = now
	}
}
