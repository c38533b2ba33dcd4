package test

// WebSockets with clients that are slow, or mean no good. Whatever one does, the
// memory of worker and Python stays bounded, others are served meanwhile and the
// same Python serves on afterwards, and nothing is left of the connection.

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const hostileApp = `
import asyncio, os, time
go = None

async def app(scope, receive, send):
    global go
    go = go or asyncio.Event()
    path = scope["path"]
    if scope["type"] == "http":
        go.set()
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    if path == "/push":  # for ever
        n = 0
        try:
            while True:
                sending = asyncio.ensure_future(send({"type": "websocket.send", "bytes": bytes(65536)}))
                done, _ = await asyncio.wait([sending], timeout=0.5)
                if not done:
                    print("push: waits after", n, flush=True)
                await sending
                n += 1
        except OSError:
            print("push: gone", flush=True)
            return
    if path == "/late":  # does not listen until it is told
        await go.wait()
    if path == "/close":
        await send({"type": "websocket.close", "code": 4000})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        data = event.get("bytes") or event.get("text")
        if path == "/size":
            await send({"type": "websocket.send", "text": str(len(data))})
        elif path in ("/big", "/held"):
            if path == "/held":  # the loop stands still in the middle of the frame
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, stand_still)
            await send({"type": "websocket.send", "bytes": bytes(int(data))})
        elif path != "/late":
            await send(dict(event, type="websocket.send"))
        elif data == "end":
            await send({"type": "websocket.send", "text": "end"})

def stand_still():
    while not os.path.exists("goon"):
        time.sleep(0.005)
`

// hostile is a server, and what it was like before.
type hostile struct {
	*server
	t      *testing.T
	python []int
	before [2]int // peak memory of worker and Python in KB
}

func startHostile(t *testing.T, args ...string) *hostile {
	t.Helper()
	if reference {
		t.SkipNow()
	}
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "app.py"), []byte(hostileApp))
	h := &hostile{t: t, server: startServer(t, dir, append(args, "-k", "asgi", "--pid", "gunicorn.pid", "app:app")...)}
	h.waitWorkers(1)
	h.python = h.server.python()
	servesOn(t, h.server, h.python)
	h.before = h.peak()
	return h
}

var peakLine = regexp.MustCompile(`(?m)^VmHWM:\s*(\d+) kB$`)

func (h *hostile) peak() (kb [2]int) {
	for i, pid := range []int{h.workers()[0], h.python[0]} {
		if m := peakLine.FindStringSubmatch(readAll(fmt.Sprintf("/proc/%d/status", pid))); m != nil {
			kb[i], _ = strconv.Atoi(m[1])
		}
	}
	return kb
}

// done checks what must be true after each of them; worker and Python may have
// grown by so many MB.
func (h *hostile) done(worker, python int) {
	h.t.Helper()
	now := h.peak()
	for i, limit := range []int{worker, python} {
		if grown := (now[i] - h.before[i]) >> 10; grown > limit {
			h.t.Errorf("%s has grown by %d MB, more than %d", []string{"the worker", "Python"}[i], grown, limit)
		}
	}
	servesOn(h.t, h.server, h.python)
}

func (h *hostile) join(target, offer string) *wsPeer {
	h.t.Helper()
	p, err := joinWebSocket(h.dial(1), target, offer)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { p.Close() })
	return p
}

func (h *hostile) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// write sends, and must be able to.
func (p *wsPeer) write(t testing.TB, raw ...string) {
	t.Helper()
	for _, r := range raw {
		if err := p.send(r); err != nil {
			t.Fatal(err)
		}
	}
}

// plain is a frame whose mask is of no effect, so that it may be repeated.
func plain(first byte, payload string) string {
	return maskedFrame(first, [4]byte{}, payload)
}

// TestHostileReader never reads what the application sends.
func TestHostileReader(t *testing.T) {
	for _, offer := range []string{"", "permessage-deflate"} {
		t.Run("offer "+offer, func(t *testing.T) {
			h := startHostile(t, "--client-send-timeout", "2")
			h.join("/push", offer)
			if offer == "" { // messages compressed a thousandfold fit the kernel's buffers for long
				h.waitText("stdout", `push: waits after \d+`, h.stdout)
				n, _ := strconv.Atoi(regexp.MustCompile(`after (\d+)`).FindStringSubmatch(h.stdout())[1])
				if n > 256 {
					t.Errorf("%d messages of 64 KB were taken", n)
				}
			}
			limit := waitLimit
			if offer != "" {
				limit *= 3
			}
			if !poll(limit, func() bool { return strings.Contains(h.stdout(), "push: gone") }) {
				t.Fatal("its time has no end")
			}
			h.done(16, 16)
		})
	}
}

// TestHostileSender sends more than the application receives, which is no reason
// to close: it cannot be heard then.
func TestHostileSender(t *testing.T) {
	for name, frame := range map[string]string{
		"large":     plain(wsFin|opBinary, strings.Repeat("x", 1<<20)),
		"empty":     strings.Repeat(plain(wsFin|opText, ""), 100000),
		"fragments": plain(opBinary, "x") + strings.Repeat(plain(opContinuation, "xy"), 100000) + plain(wsFin|opContinuation, ""),
	} {
		t.Run(name, func(t *testing.T) {
			h := startHostile(t, "--ws-ping-interval", "1", "--ws-ping-timeout", "1")
			p := h.join("/late", "")
			raw, sent := []byte(strings.Repeat(frame, 16<<20/len(frame))), 0
			p.Conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
			p.SetWriteDeadline(time.Now().Add(3 * time.Second))
			for sent < len(raw) {
				n, err := p.Write(raw[sent:])
				if sent += n; err != nil {
					break
				}
			}
			if sent == len(raw) {
				t.Fatalf("all of %d bytes were taken", sent)
			}
			peak := h.peak()
			if grown := (peak[0] + peak[1] - h.before[0] - h.before[1]) >> 10; grown > 32 {
				t.Errorf("grown by %d MB", grown)
			}
			resp, err := http.Get(h.url + "/go")
			h.check(err)
			resp.Body.Close()
			p.SetDeadline(time.Now().Add(3 * waitLimit))
			p.write(t, string(raw[sent:]), wsT("end"))
			h.check(p.await(1))
			if got := p.said(); got[0] != `text "end"` {
				t.Errorf("%q", got)
			}
			p.Close()
			h.done(32, 48)
		})
	}
}

// TestHostileFlood sends what no application hears of, as fast as it can and
// without reading, while others want to be served.
func TestHostileFlood(t *testing.T) {
	for name, frame := range map[string]string{
		"pings":     plain(wsFin|opPing, strings.Repeat("p", 125)),
		"pongs":     plain(wsFin|opPong, ""),
		"fragments": plain(opContinuation, ""),
	} {
		t.Run(name, func(t *testing.T) {
			h := startHostile(t)
			p, other := h.join("/", ""), h.join("/", "")
			if name == "fragments" {
				p.write(t, wst(""))
			}
			stop, ended := make(chan bool), make(chan error, 1)
			go func() {
				chunk := []byte(strings.Repeat(frame, 1<<20/len(frame)))
				for {
					select {
					case <-stop:
						ended <- nil
						return
					default:
						if _, err := p.Write(chunk); err != nil {
							ended <- err
							return
						}
					}
				}
			}()
			for n := range 50 {
				other.write(t, wsT(hello))
				h.check(other.await(n + 1))
			}
			close(stop)
			h.check(<-ended)
			p.write(t, wsPingFrame("the last"))
			for !strings.HasSuffix(p.log.String(), "pong \"the last\"\n") {
				h.check(p.frame())
			}
			p.Close()
			other.Close()
			h.done(24, 8)
		})
	}
}

// TestHostileFragments has a message of 16 MB in frames of one byte.
func TestHostileFragments(t *testing.T) {
	h := startHostile(t)
	p := h.join("/size", "")
	p.write(t, wsb("x"))
	chunk := strings.Repeat(plain(opContinuation, "x"), 1<<16)
	for range 255 {
		p.write(t, chunk)
	}
	p.write(t, wsC("x"))
	h.check(p.await(1))
	if got := p.said(); got[0] != fmt.Sprintf("text %q", fmt.Sprint(255<<16+2)) {
		t.Errorf("%q", got)
	}
	p.Close()
	h.done(16, 64)
}

// TestHostileBomb is what a few bytes become when they are inflated.
func TestHostileBomb(t *testing.T) {
	h := startHostile(t, "--ws-max-size", "1M")
	p := h.join("/", "permessage-deflate")
	p.write(t, clientFrame(wsFin|wsRSV1|opBinary, squeeze(strings.Repeat("\x00", 200<<20), 9)))
	h.check(p.end())
	if got := p.said(); len(got) != 1 || got[0] != `close 1009 "message is too big"` {
		t.Errorf("%q", got)
	}
	h.done(16, 16)
}

// TestHostileLeaver leaves in the middle of messages, and of handshakes.
func TestHostileLeaver(t *testing.T) {
	h := startHostile(t)
	leave := func(p *wsPeer, reset bool) {
		if reset {
			p.Conn.(*net.TCPConn).SetLinger(0)
		}
		p.Close()
	}
	for _, reset := range []bool{false, true} {
		for _, offer := range []string{"", "permessage-deflate"} {
			for _, raw := range []string{"", wsT(hello)[:9], wst(hello), wst(strings.Repeat("x", 300<<10))[:200<<10], wsT(hello) + wsT(hello)[:1],
				wsPingFrame(hello)[:7], wsCloseFrame(1000, "x")[:8]} {
				p := h.join("/", offer)
				p.write(t, raw)
				leave(p, reset)
			}
			p := h.join("/big", offer)
			p.write(t, wsT("16000000"))
			_, err := p.in.Peek(2)
			h.check(err)
			leave(p, reset)
		}
		h.check(leaveMany(h, 1000, reset))
	}
	h.done(64, 64)
}

// leaveMany has clients do the handshake, or half of it, and leave.
func leaveMany(h *hostile, n int, reset bool) error {
	work, errs := make(chan int), make(chan error, n)
	for range 4 * runtime.NumCPU() {
		go func() {
			for i := range work {
				c := h.dial(1)
				var err error
				if i%4 == 0 {
					_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+goodKey+"\r\nSec-WebSocket-Version: 13\r\n\r\n")
				} else {
					_, err = joinWebSocket(c, "/", "")
				}
				if reset {
					c.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
				errs <- err
			}
		}()
	}
	for i := range n {
		work <- i
	}
	close(work)
	for range n {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// TestHostileCloser does not answer a close frame, or goes on sending.
func TestHostileCloser(t *testing.T) {
	h := startHostile(t)
	for _, more := range []string{"", wsT(hello), "\xff\x00junk"} {
		p := h.join("/close", "")
		h.check(p.end())
		if got := p.said(); len(got) != 1 || got[0] != `close 4000 ""` {
			t.Errorf("%q", got)
		}
		p.write(t, more)
	}
	h.done(16, 16)
}

// TestWebSocketWithin has pings, and a close, come while a large message is under
// way to the client: they are answered when the frame is complete. Of several
// pings that may be the last alone (RFC 6455 5.5.3).
func TestWebSocketWithin(t *testing.T) {
	for _, offer := range []string{"", "permessage-deflate"} {
		for _, target := range []string{"/big", "/held"} {
			t.Run(target+" "+offer, func(t *testing.T) {
				h := startHostile(t)
				p := h.join(target, offer)
				p.write(t, wsT("8000000"))
				_, err := p.in.Peek(2)
				h.check(err)
				p.write(t, wsPingFrame("1"), wsPingFrame("2"), wsPingFrame("3"))
				if target == "/held" {
					h.awaitWorker()
					put(t, filepath.Join(h.dir, "goon"), nil)
				}
				for !strings.Contains(p.log.String(), "pong \"3\"\n") || !strings.Contains(p.log.String(), "binary") {
					h.check(p.frame())
				}
				p.log.Reset()
				if target == "/held" {
					h.check(os.Remove(filepath.Join(h.dir, "goon")))
				}
				p.write(t, wsT("8000000"))
				_, err = p.in.Peek(2)
				h.check(err)
				p.write(t, wsCloseFrame(1000, "enough"))
				if target == "/held" {
					h.awaitWorker()
					put(t, filepath.Join(h.dir, "goon"), nil)
				}
				h.check(p.end())
				got := p.said()
				if len(got) == 0 || got[len(got)-1] != `close 1000 ""` || offer == "" && len(got) != 2 {
					t.Errorf("%q", got)
				}
				h.done(32, 32)
			})
		}
	}
}

// awaitWorker returns when the worker has seen what has come before: it answers
// this without its Python.
func (h *hostile) awaitWorker() {
	h.t.Helper()
	c := h.dial(1)
	defer c.Close()
	fmt.Fprint(c, "junk\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
		h.t.Fatalf("%q %v", got, err)
	}
}

// TestWebSocketPythonDies: clients are told.
func TestWebSocketPythonDies(t *testing.T) {
	h := startHostile(t)
	h.expected = append(h.expected, regexp.MustCompile(`SIGKILL`))
	p := h.join("/", "")
	h.check(syscall.Kill(h.python[0], syscall.SIGKILL))
	h.check(p.end())
	if got := p.said(); len(got) != 1 || got[0] != `close 1011 ""` {
		t.Errorf("%q", got)
	}
}
