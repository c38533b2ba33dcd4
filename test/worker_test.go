package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A client that takes its response in sips fills the buffers over and over. The response is
// complete, and nothing grows with its length.
func TestResponseInSips(t *testing.T) {
	dir := t.TempDir()
	app := `
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (bytes([i % 251]) * 100003 for i in range(400))
`
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, dir, "app:app")
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 32<<10), nil)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 100003)
	for i := range 400 {
		if i%20 == 0 {
			time.Sleep(20 * time.Millisecond) // the server's buffers fill meanwhile
		}
		if _, err := io.ReadFull(resp.Body, block); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
		for _, b := range block {
			if b != byte(i%251) {
				t.Fatalf("block %d has %d", i, b)
			}
		}
	}
	if n, err := resp.Body.Read(block); n != 0 || err != io.EOF {
		t.Fatalf("%d bytes more, %v", n, err)
	}
}

// In a container the arbiter is process 1 and nothing can be written: it serves,
// reaps the orphans that others leave to it, and obeys TERM.
func TestContainer(t *testing.T) {
	dir := t.TempDir()
	app := `
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/orphan":
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.2)
            os._exit(0)
        os.wait()
        body = b"left"
    else:
        # Children of process 1 and their states.
        mine = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/stat" % pid) as f:
                    rest = f.read().rpartition(")")[2].split()
            except OSError:
                continue
            if rest[1] == "1":
                mine.append(rest[0])
        body = " ".join(sorted(mine)).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
`
	start := `
set -e
mount --make-rprivate /
mount -t tmpfs -o ro,size=4k none /var/tmp
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -o remount,bind,ro /
if touch "$1/written" 2>/dev/null; then echo "still writable"; exit 9; fi
cd "$1"
shift
exec "$@"
`
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(app), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("unshare", "-rmpf", "--mount-proc", "true").Run(); err != nil {
		t.Fatalf("unshare -rmpf --mount-proc: %v (util-linux, and a kernel that permits namespaces)", err)
	}
	python := testPython(t)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("unshare", "-rmpf", "--mount-proc", "--kill-child", "sh", "-c", start, "sh",
		dir, testBinary, "-w", "2", "--python", python, "-b", "127.0.0.1:0", "app:app")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	text := func() string { return readAll(log.Name()) }
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if t.Failed() {
			t.Log(text())
		}
	})
	listening := regexp.MustCompile(`Listening at: (http://127\.0\.0\.1:\d+) \(1\)`)
	if !poll(waitLimit, func() bool { return listening.MatchString(text()) }) {
		t.Fatal("it does not listen")
	}
	url := listening.FindStringSubmatch(text())[1]
	get := func(path string) string {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := get("/orphan"); got != "left" {
		t.Fatalf("%q", got)
	}
	var children string
	if !poll(waitLimit, func() bool {
		children = get("/")
		return len(strings.Fields(children)) == 2 && !strings.Contains(children, "Z")
	}) {
		t.Fatalf("the children of process 1 are %q, not two workers", children)
	}
	// The signal is for the process inside: its parent is the unshare that waits.
	inside, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/task/" + strconv.Itoa(cmd.Process.Pid) + "/children")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(inside), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text(), "[1] [INFO] Shutting down: Master") || strings.Contains(text(), "[ERROR]") {
		t.Fatal("not an orderly end")
	}
}
