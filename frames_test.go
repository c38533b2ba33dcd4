package main

// A whole worker in the test's process, between a client and a Python that are
// only sockets: what the one sends in whatever pieces, and the other says in or
// out of step, are inputs like any other.

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { strict = true }

// plainWorker has the default settings, one lane, and nobody beside it.
type plainWorker struct {
	*worker
	t      testing.TB
	client int // the client's end of its connection
	conn   *conn
	far    int // Python's end of the wire
	pipe   int // and of the pipe, 0 without
	calls  []map[string]string
	got    []byte // bytes that the client has received
}

// defaults are the settings as a worker gets them.
var defaults = sync.OnceValue(func() *config {
	c, err := loadConfig([]string{"app:app"}, nil, os.TempDir(), func(*config, string) (map[string]any, error) { return nil, nil })
	if err == nil {
		c, err = decodeConfig(c.encode())
	}
	if err != nil {
		panic(err)
	}
	return c
})

// Large buffers, for one plainWorker after another.
var (
	clientBuf [heldPressed]byte // bytes that a client has just read
	queueBuf  [2 * queueMax]byte
	readBuf   [heldPressed]byte
	wireBuf   = make([]byte, 0, wireRoom)
)

var devNull = sync.OnceValue(func() *os.File {
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	return f
})

// nothing is a hand-over socket through which nothing ever comes.
var nothing = sync.OnceValue(func() int {
	near, _, err := socketpair(unix.SOCK_SEQPACKET)
	if err != nil {
		panic(err)
	}
	return near
})

// memoryForAll is shared by the workers of all tests, one after the other: making it takes
// longer than most of what the fuzz targets try.
var memoryForAll = sync.OnceValue(func() shared {
	s, fd, err := openShared(true, ringsMax)
	if err != nil {
		panic(err)
	}
	unix.Close(fd)
	return s
})

// sharedMemory is memory in which nothing has happened.
func sharedMemory() shared {
	s := memoryForAll()
	for _, words := range [][]atomic.Uint32{s.giveUp, s.begun, s.halts, s.taken} {
		clear(words[:64])
	}
	return s
}

// shout writes a piece of a response's body to the ring of a lane, as Python does, and
// returns where; nil if there is no room.
func shout(l *lane, at *uint32, body string) []byte {
	if len(body) > len(l.ring.memory) || *at-l.ring.taken.Load() > uint32(len(l.ring.memory)-len(body)) {
		return nil
	}
	place := binary.LittleEndian.AppendUint32(nil, *at)
	for i := range len(body) {
		l.ring.memory[(*at+uint32(i))%ringSize] = body[i]
	}
	*at += uint32(len(body))
	return binary.LittleEndian.AppendUint32(place, uint32(len(body)))
}

// sharedBody is the body of a request that is in the shared memory.
func (s *shared) sharedBody(place []byte) []byte {
	at, n := binary.LittleEndian.Uint32(place), binary.LittleEndian.Uint32(place[4:])
	return bytes.Clone(s.places[at : at+n])
}

func newPlainWorker(t testing.TB) *plainWorker {
	t.Helper()
	var err error
	w := &worker{
		cfg: defaults(), log: newErrorLog(sink{fd: int(devNull().Fd())}, "info"), slot: &slot{}, alone: true,
		wake: -1, acceptor: acceptor{giveFD: -1, takeFD: nothing(), descriptors: 1000}, scratch: scratch{rbuf: readBuf[:], wbuf: wireBuf},
		python: &python{gateway: &wsgi, fate: -1, trace: -1, most: 1, ready: true},
	}
	w.python.shared = sharedMemory()
	w.pool.limit = heldTotal
	w.clock.set(time.Date(2026, 11, 22, 20, 15, 26, 0, time.UTC))
	p := &plainWorker{worker: w, t: t}
	t.Cleanup(p.close)
	if w.loop, err = openLoop(); err != nil {
		t.Fatal(err)
	}
	w.slot.state.Store(uint64(phaseServing))
	w.nextTick = w.now + int64(time.Second)
	l, far, err := w.python.newLane()
	if err == nil {
		p.far = far
		err = w.listenTo(l)
	}
	near := -1
	if err == nil {
		near, p.client, err = socketpair(unix.SOCK_STREAM)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range []int{near, p.client, far, l.back} {
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	p.conn = w.add(near, newHTTPCase().endpoint, false)
	return p
}

// close closes what the worker would keep until its process ends.
func (p *plainWorker) close() {
	l := p.python.lanes[0]
	p.lost(p.conn)
	p.bury()
	if l.passed >= 0 {
		unix.Close(l.passed)
	}
	fds := []int{p.ep, l.queue, l.back, l.fd, p.far}
	if p.pipe > 0 {
		fds = append(fds, l.pipe, p.pipe)
	}
	if p.client >= 0 {
		fds = append(fds, p.client)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// serveASGI makes its one lane that of an ASGI application, and returns the lane's streams.
func (w *plainWorker) serveASGI() map[uint32]*turn {
	p := w.python
	p.gateway = &asgi
	p.lanes[0].laneKind = asgi.kind(p.lanes[0])
	return w.streams().streams
}

// run goes on until nothing happens any more.
func (p *plainWorker) run() {
	p.t.Helper()
	p.advance(p.conn)
	for turn := 0; ; turn++ {
		if turn > 10000 {
			p.t.Fatal("the worker does not come to rest")
		}
		if n := p.turn(0); p.read() == 0 && n == 0 && p.wait() > 0 {
			return
		}
	}
}

// read is what the client does.
func (p *plainWorker) read() (total int) {
	for p.client >= 0 {
		n, errno := rawRead(p.client, clientBuf[:])
		if errno != 0 || n == 0 {
			break
		}
		p.got = append(p.got, clientBuf[:n]...)
		total += n
	}
	return total
}

// send sends what the client says, and takes it for all if it is the last.
func (p *plainWorker) send(stream []byte, last bool) {
	p.t.Helper()
	for len(stream) > 0 {
		n, errno := rawWrite(p.client, stream)
		if errno == unix.EPIPE || errno == unix.ECONNRESET {
			break // refused
		}
		if errno != 0 {
			p.t.Fatal(errno)
		}
		stream = stream[n:]
		p.run()
	}
	if last {
		_ = unix.Shutdown(p.client, unix.SHUT_WR)
		p.run()
	}
}

// say sends what Python says, with a descriptor beside it unless that is -1.
func (p *plainWorker) say(b []byte, fd int) {
	p.t.Helper()
	for len(b) > 0 {
		var rights []byte
		if fd >= 0 {
			rights = unix.UnixRights(fd)
		}
		if p.pipe > 0 && fd >= 0 {
			_ = unix.Sendmsg(p.far, []byte("-"), rights, nil, unix.MSG_NOSIGNAL)
			rights = nil
		}
		n, err := 0, error(nil)
		if p.pipe > 0 {
			n, err = unix.Write(p.pipe, b)
		} else {
			n, err = unix.SendmsgN(p.far, b, rights, nil, unix.MSG_NOSIGNAL)
		}
		if err != nil {
			return // nobody listens, or nobody reads
		}
		b, fd = b[n:], -1
		p.run()
	}
}

// openPipe has Python say all that follows through a pipe.
func (p *plainWorker) openPipe() {
	p.t.Helper()
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		p.t.Fatal(err)
	}
	p.say(frame{kind: kindPipe}.append(nil), ends[0])
	unix.Close(ends[0])
	p.pipe = ends[1]
	if err := unix.SetNonblock(p.pipe, true); err != nil {
		p.t.Fatal(err)
	}
}

// serve answers all that is in the queue, as an honest Python would.
func (p *plainWorker) serve() {
	p.t.Helper()
	b := queueBuf[:]
	for {
		n, _, err := unix.Recvfrom(p.python.lanes[0].back, b, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		f, payload := readFrame(b), bytes.Clone(b[frameHeader:n])
		if f.kind == kindIndirect {
			_, payload = p.ask(f.number)
			f.meta = uint32(len(payload))
		}
		common, own := payload[:f.meta], []byte(nil)
		if alike := binary.LittleEndian.Uint16(b[frameHeader-2:]); f.kind == kindRequest && alike > 0 {
			common, own = common[:alike], common[alike:]
		}
		environ, err := unmarshal(common)
		if err != nil {
			p.t.Fatal(err)
		}
		if own != nil {
			values, err := unmarshal(own)
			if err != nil {
				p.t.Fatal(err)
			}
			for i, key := range []string{"RAW_URI", "QUERY_STRING", "PATH_INFO", "REMOTE_PORT", "CONTENT_LENGTH"} {
				environ.(map[string]any)[key] = values.([]any)[i]
			}
		}
		body := payload[f.meta:]
		if f.flags&flagShared != 0 {
			body = p.python.sharedBody(body)
		}
		for more := f.flags&flagMore != 0; more; {
			answer, piece := p.ask(f.number)
			if answer.flags&flagBroken != 0 {
				p.say(frame{number: f.number, kind: kindFailed}.append(nil), -1)
				break
			}
			body = append(body, piece...)
			more = answer.flags&flagLast == 0
		}
		call := map[string]string{"body": latinText(body)}
		for k, v := range environ.(map[string]any) {
			if text, ok := v.(string); ok {
				call[k] = text
			}
		}
		p.calls = append(p.calls, call)
		p.say(responseFrame(f.number, flagLast, "200 OK", "ok", "Content-Length", "2"), -1)
	}
}

// ask asks for more of the request.
func (p *plainWorker) ask(number uint32) (frame, []byte) {
	p.t.Helper()
	p.say(append(frame{length: 4, number: number, kind: kindRead}.append(nil), 0, 0, 1, 0), -1)
	var b []byte
	for {
		if len(b) >= frameHeader && len(b) == frameHeader+int(readFrame(b).length) {
			return readFrame(b), b[frameHeader:]
		}
		var piece [32 << 10]byte
		n, errno := rawRead(p.far, piece[:])
		if errno != 0 || n == 0 {
			p.t.Fatalf("no answer to Python: %v after %d bytes", errno, len(b))
		}
		b = append(b, piece[:n]...)
		p.run()
	}
}

// responseFrame is a head and the first of a body.
func responseFrame(number uint32, flags byte, status, body string, fields ...string) []byte {
	meta := appendMarshalText(appendMarshalTuple(nil, 2), status)
	meta = appendMarshalList(meta, len(fields)/2)
	for pair := range slices.Chunk(fields, 2) {
		meta = appendMarshalText(appendMarshalText(appendMarshalTuple(meta, 2), pair[0]), pair[1])
	}
	f := frame{length: uint32(len(meta) + len(body)), number: number, meta: uint32(len(meta)), kind: kindResponse, flags: flags}
	return append(append(f.append(nil), meta...), body...)
}

// blockFrame is a frame without marshal.
func blockFrame(number uint32, kind, flags byte, body string) []byte {
	return append(frame{length: uint32(len(body)), number: number, kind: kind, flags: flags}.append(nil), body...)
}

func hintsFrame(number uint32, value string) []byte {
	meta := appendMarshalText(appendMarshalText(appendMarshalTuple(appendMarshalList(nil, 1), 2), "Link"), value)
	return append(frame{length: uint32(len(meta)), number: number, meta: uint32(len(meta)), kind: kindHints}.append(nil), meta...)
}

// statuses reads the answers that a client has received. whole says that the
// last was complete.
func statuses(t testing.TB, got []byte, methods []string) (list []int, whole bool) {
	t.Helper()
	for r := bufio.NewReader(bytes.NewReader(got)); ; {
		if _, err := r.Peek(1); err == io.EOF {
			return list, true
		}
		req := &http.Request{Method: "GET"}
		if n := len(list); n < len(methods) {
			req.Method = methods[n]
		}
		resp, err := http.ReadResponse(r, req)
		if err == io.ErrUnexpectedEOF {
			return list, false
		}
		if err != nil {
			t.Fatalf("not an answer: %v in %s", err, cut(string(got)))
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode >= 200 {
			list = append(list, resp.StatusCode)
		}
		if resp.StatusCode == 408 {
			return list, true // the last answer: its page is sent before the method has come
		}
		if err != nil {
			return list, false
		}
	}
}

// TestSmallBlocks has a Python that says little at a time, and a client that
// takes nothing of it.
func TestSmallBlocks(t *testing.T) {
	for name, piece := range map[string][]byte{
		"blocks": blockFrame(1, kindBlock, 0, strings.Repeat("x", 8<<10)),
		"hints":  hintsFrame(1, strings.Repeat("x", 8<<10)),
	} {
		p := newPlainWorker(t)
		p.send([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false)
		if name == "blocks" {
			p.say(responseFrame(1, 0, "200 OK", ""), -1)
		}
		client := p.client
		p.client = -1 // reads nothing
		total := 0
		for total < 16<<20 {
			n, err := unix.SendmsgN(p.far, piece, nil, nil, unix.MSG_NOSIGNAL)
			if err != nil {
				break
			}
			if total += n; n < len(piece) {
				break
			}
			p.run()
		}
		if kept := len(p.conn.out); kept > 2*held || total == 16<<20 {
			t.Errorf("%s: %d bytes kept for the client, %d taken off Python", name, kept, total)
		}
		p.client = client
		p.run()
		if len(p.got) < total/2 || len(p.conn.out) > 0 {
			t.Errorf("%s: the client has %d bytes of %d, %d wait", name, len(p.got), total, len(p.conn.out))
		}
	}
}

// Requests before and after a case.
const (
	goodRequest  = "GET /foo/good HTTP/1.1\r\nHost: good\r\n\r\n"
	afterRequest = "GET /foo/after HTTP/1.1\r\nHost: after\r\n\r\n"
)

// FuzzStream: whatever a client sends, in whatever pieces, its answers and the
// calls of the application are what the parser alone makes of the whole.
func FuzzStream(f *testing.F) {
	names, _ := filepath.Glob("test/testdata/http/*.req")
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(raw) < 4000 {
			f.Add(raw, uint16(len(raw)/3), uint16(len(raw)/2))
			f.Add(slices.Concat([]byte(goodRequest), raw, []byte(afterRequest)), uint16(len(goodRequest)), uint16(len(goodRequest)+len(raw)))
		}
	}
	f.Add([]byte("HEAD  h: 35\r\n\r\n"), uint16(27), uint16(41))
	f.Fuzz(func(t *testing.T, stream []byte, cut, second uint16) {
		if len(stream) > 1<<16 {
			return
		}
		p := newPlainWorker(t)
		one := min(int(cut), len(stream))
		two := min(max(int(second), one), len(stream))
		for i, piece := range [][]byte{stream[:one], stream[one:two], stream[two:]} {
			p.send(piece, i == 2)
			p.serve()
		}
		want := newHTTPCase().outcomes(stream)
		var methods []string
		var codes []int
		for _, o := range want {
			method := "GET"
			if o.Head {
				method = "HEAD"
			}
			methods, codes = append(methods, method), append(codes, o.Status)
		}
		got, whole := statuses(t, p.got, methods)
		if !slices.Equal(got, codes) || !whole {
			t.Fatalf("answers %v, whole %v, want %v", got, whole, codes)
		}
		calls := p.calls
		for _, o := range want {
			if o.Status != 200 {
				continue
			}
			if len(calls) == 0 {
				t.Fatal("one call less")
			}
			compareCall(t, calls[0], &o)
			calls = calls[1:]
		}
		if len(calls) > 0 {
			t.Fatalf("one call more: %v", calls[0])
		}
		if p.conn.fd >= 0 && p.conn.state != lingering {
			t.Fatalf("the connection is open in state %d", p.conn.state)
		}
	})
}

// compareCall compares what the application was called with.
func compareCall(t testing.TB, call map[string]string, want *outcome) {
	t.Helper()
	for k, v := range want.Environ {
		if got, ok := call[k]; !ok || got != v {
			t.Fatalf("%s is %q, want %q", k, got, v)
		}
	}
	for k := range call {
		if _, ok := want.Environ[k]; !ok && (strings.HasPrefix(k, "HTTP_") || strings.HasPrefix(k, "CONTENT_")) {
			t.Fatalf("%s is %q, want none", k, call[k])
		}
	}
	if body := call["body"]; body != latinText(want.Body) {
		t.Fatalf("body %q, want %q", body, latinText(want.Body))
	}
}

var dateField = regexp.MustCompile(`Date: [^\r]*`)

// FuzzFrames: whatever Python says, in whatever pieces, the worker goes on or
// gives Python up, and the client's answers are well formed.
func FuzzFrames(f *testing.F) {
	for _, said := range [][]byte{
		responseFrame(1, flagLast, "200 OK", "hello", "Content-Length", "5"),
		responseFrame(1, flagLast, "200 OK", "hello", "Content-Length", "3"),
		responseFrame(1, flagLast, "200 OK", "hello", "Content-Length", "30"),
		responseFrame(1, flagLast|flagClose, "204 No Content", "", "A", "b"),
		slices.Concat(responseFrame(1, 0, "200 OK", "a"), blockFrame(1, kindBlock, 0, "bc"), blockFrame(1, kindBlock, flagLast, "")),
		slices.Concat(responseFrame(1, flagLast, "200 OK", "a"), responseFrame(2, flagLast, "404 Not Found", "b")),
		slices.Concat(hintsFrame(1, "</a>"), responseFrame(1, flagLast, "304 Not Modified", "")),
		slices.Concat(responseFrame(1, 0, "200 OK", "a"), blockFrame(1, kindFailed, 0, "")),
		blockFrame(1, kindFailed, 0, ""), blockFrame(1, kindFailed, flagQuiet, ""),
		slices.Concat(blockFrame(1, kindRead, 0, "\x05\x00\x00\x00"), responseFrame(1, flagLast, "200 OK", "a")),
		fileFrame(1, 10, 20, "200 OK"), fileFrame(1, 10, 20, "200 OK", "Content-Length", "5"),
		fileFrame(1, 1<<62, 1<<62, "200 OK", "Content-Length", "5"), fileFrame(1, 90, 100, "200 OK"),
		blockFrame(0, kindReady, 0, ""), blockFrame(0, kindWatch, 0, ""), blockFrame(0, kindRetire, 0, ""), blockFrame(0, kindHere, 0, ""),
		blockFrame(1, kindLeft, 0, ""), slices.Concat(blockFrame(1, kindLeft, 0, ""), responseFrame(2, flagLast, "200 OK", "a")),
		slices.Concat(responseFrame(1, 0, "200 OK", "a"), blockFrame(1, kindLeft, 0, "")),
		{255, 255, 255, 255, 1, 0, 0, 0, 255, 255, 255, 255, kindResponse, 0, 0, 0},
		{255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0, kindResponse, 0, 0, 0},
	} {
		for flags := range uint8(16) {
			f.Add(said, uint16(len(said)/2), flags)
		}
	}
	f.Fuzz(func(t *testing.T, said []byte, cut uint16, flags uint8) {
		if len(said) > 1<<16 {
			return
		}
		request := []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		method := "GET"
		if flags&1 != 0 {
			method = "HEAD"
			request = []byte("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if flags&2 != 0 {
			request = bytes.Replace(request, []byte("1.1\r\n"), []byte("1.0\r\nConnection: keep-alive\r\n"), 1)
		}
		at := min(int(cut), len(said))
		whole := hearOut(t, request, flags&4 != 0, flags&8 != 0, said)
		pieces := hearOut(t, request, flags&4 != 0, flags&8 != 0, said[:at], said[at:])
		if whole.python.closed != pieces.python.closed {
			t.Fatalf("given up: %v, and cut at %d %v", whole.python.closed, at, pieces.python.closed)
		}
		for _, p := range []*plainWorker{whole, pieces} {
			p.got = dateField.ReplaceAll(p.got, []byte("Date: x")) // a second may end between the two
		}
		same := bytes.Equal(whole.got, pieces.got)
		if flags&4 != 0 && flags&8 != 0 {
			// A descriptor's byte that no frame speaks of may be taken for a body's.
			same = bytes.HasPrefix(whole.got, pieces.got) || bytes.HasPrefix(pieces.got, whole.got)
		}
		if !whole.python.closed && !same {
			t.Fatalf("answer %q, and cut at %d %q", whole.got, at, pieces.got)
		}
		for _, p := range []*plainWorker{whole, pieces} {
			list, done := statuses(t, p.got, []string{method})
			if len(list) > 1 || p.python.closed && p.conn.fd >= 0 && p.conn.state != lingering {
				t.Fatalf("answers %v, the connection is in state %d", list, p.conn.state)
			}
			p.checkNext(list, done, method, request)
		}
	})
}

// hearOut is a worker with one request that is in the hands of a Python which
// says this, and perhaps passes a file.
func hearOut(t testing.TB, request []byte, passes, pipes bool, said ...[]byte) *plainWorker {
	t.Helper()
	p := newPlainWorker(t)
	if pipes {
		p.openPipe()
	}
	p.send(request, false)
	if _, _, err := unix.Recvfrom(p.python.lanes[0].back, queueBuf[:], unix.MSG_DONTWAIT); err != nil {
		t.Fatal(err)
	}
	fd := -1
	if passes {
		var err error
		if fd, err = memfd("file", bytes.Repeat([]byte("x"), 100)); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	for _, piece := range said {
		p.say(piece, fd)
		if len(piece) > 0 {
			fd = -1
		}
	}
	return p
}

// checkNext sends one request more when everything is in order for it.
func (p *plainWorker) checkNext(list []int, done bool, method string, request []byte) {
	t, l := p.t, p.python.lanes[0]
	t.Helper()
	if p.conn.fd < 0 || !p.conn.between() || p.stopping() || len(l.in) > l.at || l.bodyLeft > 0 {
		return
	}
	if !done || len(list) != 1 {
		t.Fatalf("the next request is awaited after %q", p.got)
	}
	p.send(request, false)
	p.serve()
	if list, done := statuses(t, p.got, []string{method, method}); !done || len(list) != 2 || list[1] != 200 {
		t.Fatalf("answers %v to two requests: %q", list, p.got)
	}
}

// TestApart: long bodies come over the wire while frames come through a pipe,
// also those of the next response, and what the client does not take is bounded.
func TestApart(t *testing.T) {
	p := newPlainWorker(t)
	p.openPipe()
	requests := []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	p.send(requests, false)
	body := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	head := responseFrame(1, flagApart, "200 OK", "")
	binary.LittleEndian.PutUint32(head, binary.LittleEndian.Uint32(head)+uint32(len(body)))
	last := blockFrame(1, kindBlock, flagLast|flagApart, "")
	binary.LittleEndian.PutUint32(last, uint32(len(body)))
	if _, err := unix.Write(p.pipe, append(head, last...)); err != nil {
		t.Fatal(err)
	}
	p.run()
	for rest := slices.Concat(body, body); len(rest) > 0; {
		n, err := unix.SendmsgN(p.far, rest, nil, nil, unix.MSG_NOSIGNAL)
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
		p.run()
	}
	_, after, _ := bytes.Cut(p.got, []byte("\r\n\r\n"))
	want := fmt.Appendf(nil, "%X\r\n%s\r\n%X\r\n%s\r\n0\r\n\r\n", len(body), body, len(body), body)
	if !bytes.Equal(after, want) {
		t.Fatalf("%d bytes for %d, given up: %v", len(after), len(want), p.python.closed)
	}
	p.send(requests, false)
	p.serve()
	if list, done := statuses(t, p.got, []string{"GET", "GET"}); !done || len(list) != 2 {
		t.Fatalf("answers %v", list)
	}
}

// TestStaleEvent: what is said of a connection that an event of the same turn has closed
// is not about the next one with its descriptor.
func TestStaleEvent(t *testing.T) {
	p := newPlainWorker(t)
	p.watch(p.conn)
	stale := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLHUP, Fd: int32(p.conn.fd), Pad: p.seats[p.conn.fd].serial}
	p.forget(p.conn.fd)
	p.conn = p.add(p.conn.fd, p.conn.peer, false)
	p.watch(p.conn)
	p.send([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false)
	p.handle(&stale)
	p.serve()
	if list, done := statuses(t, p.got, []string{"GET"}); !done || len(list) != 1 || list[0] != 200 {
		t.Fatalf("answers %v", list)
	}
}

// TestLeft: a request that Python has left, as the worker wished, is written to it
// once more. What it says of one that has been taken back is of no interest, and to
// leave one that nobody has asked for is not for it to decide.
func TestLeft(t *testing.T) {
	p := newPlainWorker(t)
	p.send([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false)
	if n, _, err := unix.Recvfrom(p.python.lanes[0].back, queueBuf[:], unix.MSG_DONTWAIT); err != nil || readFrame(queueBuf[:n]).number != 1 {
		t.Fatal(n, err)
	}
	p.python.halts[0].Store(1)
	for _, number := range []uint32{7, 1} {
		p.say(blockFrame(number, kindLeft, 0, ""), -1)
	}
	p.serve()
	if list, done := statuses(t, p.got, []string{"GET"}); !done || len(list) != 1 || list[0] != 200 || p.python.number != 2 {
		t.Fatalf("answers %v to request %d", list, p.python.number)
	}
	p.send([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false)
	p.say(blockFrame(3, kindLeft, 0, ""), -1)
	if !p.python.closed {
		t.Error("a request is left that nobody has asked for")
	}
}

// TestSlowest: a client that has just connected keeps its place for firstPatience, one whose
// connection is idle after a request does not, and the one that has been idle for longest is
// the first to go.
func TestSlowest(t *testing.T) {
	p := newPlainWorker(t)
	fresh := p.conn
	p.awaitHead(fresh)
	served := p.add(nothing(), fresh.peer, false)
	served.served = 1
	if c := p.slowest(); c != nil {
		t.Errorf("at once: %v", c)
	}
	if due := p.placeDue(); due != p.after(firstPatience) {
		t.Errorf("the loop wakes at %d, not at %d", due, p.after(firstPatience))
	}
	p.now += int64(firstPatience)
	p.awaitHead(served)
	if c := p.slowest(); c != fresh {
		t.Errorf("after firstPatience: %v", c)
	}
	fresh.unlist()
	if c := p.slowest(); c != served {
		t.Errorf("after a request: %v", c)
	}
}

// TestReversed: while clients leave, the newest request runs first, but for every turn that
// is the oldest's.
func TestReversed(t *testing.T) {
	p := newPlainWorker(t)
	waits := func() *turn {
		c := &conn{transport: plain{}}
		c.turn = &turn{conn: c, state: waiting}
		return c.turn
	}
	p.waiting = []*turn{waits(), waits(), waits()}
	p.python.pace = int64(time.Second)
	for _, c := range []struct {
		left, pace  time.Duration
		turns, want int
	}{
		{0, time.Second, 1, 0}, // nobody has left
		{time.Second, time.Second, 1, 2},
		{time.Second, time.Second, oldestEvery, 0},
		{leavingKept, time.Second, 1, 0}, // long ago
		{time.Second, brief - 1, 1, 0},   // the queue drains by itself
	} {
		p.overload.leftAt, p.overload.turns, p.python.pace = 0, c.turns, int64(c.pace)
		if c.left > 0 {
			p.overload.leftAt = p.now - int64(c.left)
		}
		if got := p.next(); got != c.want {
			t.Errorf("%+v: request %d is next", c, got)
		}
	}
	p.waiting = nil
}

// TestStray: what comes over the wire beside a pipe and belongs to no frame would
// be taken for a part of the next body.
func TestStray(t *testing.T) {
	p := newPlainWorker(t)
	p.openPipe()
	p.send([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false)
	if err := unix.Sendmsg(p.far, []byte("stray"), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		t.Fatal(err)
	}
	p.run()
	if !p.python.closed {
		t.Error("nobody has noticed")
	}
}

// fileFrame is a response whose body is a part of a file.
func fileFrame(number uint32, offset, size uint64, status string, fields ...string) []byte {
	b := responseFrame(number, flagLast, status, "", fields...)
	b[12] = kindFile
	binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)+16)
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, offset), size)
}

// TestReleasedUnderCaller: the client is gone, Python has asked for more of the body
// and says the end of its response without waiting, and has closed its wire. The objects
// that these events end still exist while functions work on them.
func TestReleasedUnderCaller(t *testing.T) {
	trailer := appendMarshalList(nil, 0)
	for name, said := range map[string][]byte{
		"response": responseFrame(1, flagLast, "200 OK", "hello"),
		"file":     fileFrame(1, 0, 100, "200 OK"),
		"failed":   slices.Concat(responseFrame(1, 0, "200 OK", "hello"), blockFrame(1, kindFailed, 0, "")),
		"trailer": slices.Concat(responseFrame(1, 0, "200 OK", "hello"),
			frame{length: uint32(len(trailer)), number: 1, meta: uint32(len(trailer)), kind: kindTrailer, flags: flagLast}.append(nil), trailer),
		"socket": slices.Concat(hintsFrame(1, "</a>"), blockFrame(1, kindSocket, 0, "")),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlainWorker(t)
			p.send(append([]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"), make([]byte, 1<<20)...), false)
			if _, _, err := unix.Recvfrom(p.python.lanes[0].back, queueBuf[:], unix.MSG_DONTWAIT); err != nil {
				t.Fatal(err)
			}
			fd, err := memfd("file", make([]byte, 200))
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			p.conn.turn.fed = len(p.conn.turn.body) // all that is there has been given
			p.say(blockFrame(1, kindRead, 0, "\x01\x00\x00\x00"), -1)
			if p.conn.turn.want == 0 {
				t.Fatal("the demand for more was answered")
			}
			_ = unix.Sendmsg(p.far, said, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
			_ = unix.Shutdown(p.far, unix.SHUT_RD)
			unix.Close(p.client)
			p.client = -1
			p.replies(p.python.lanes[0])
			p.run()
			if !p.python.closed || len(p.python.busy) > 0 {
				t.Error("Python has closed its wire, and is not given up")
			}
		})
	}
}

// TestWrongFrames: what one request must not say, or says when it is over, ends at
// most that request. The next is served by the same Python.
func TestWrongFrames(t *testing.T) {
	ok := func(fields ...string) []byte { return responseFrame(1, 0, "200 OK", "a", fields...) }
	last := blockFrame(1, kindBlock, flagLast, "")
	long := frame{length: metaMax + 5, number: 1, meta: metaMax, kind: kindResponse, flags: flagLast}.append(nil)
	for name, c := range map[string]struct {
		said   []byte
		status int
		whole  bool
	}{
		"two heads":            {slices.Concat(ok(), ok(), last), 0, true}, // the connection is closed
		"a body first":         {blockFrame(1, kindBlock, flagLast, "b"), 500, true},
		"a message":            {slices.Concat(blockFrame(1, kindMessage, flagLast, "b"), last), 500, true},
		"a WebSocket":          {slices.Concat(blockFrame(1, kindAccept, 0, ""), last), 500, true},
		"the end of one":       {blockFrame(1, kindShut, flagLast, ""), 500, true},
		"trailers first":       {blockFrame(1, kindTrailer, flagLast, ""), 500, true},
		"no descriptor":        {fileFrame(1, 0, 5, "200 OK"), 500, true},
		"a body of a failure":  {blockFrame(1, kindFailed, 0, "bbb"), 500, true},
		"a demand without end": {slices.Concat(blockFrame(1, kindRead, 0, strings.Repeat("r", 30)), last), 500, true},
		"an unknown kind":      {slices.Concat(blockFrame(1, 77, 0, "bbb"), last), 500, true},
		"a head of 4 MB":       {slices.Concat(long, make([]byte, metaMax+5)), 500, true},
		"a set":                {slices.Concat(frame{length: 5, number: 1, meta: 5, kind: kindResponse, flags: flagLast}.append(nil), []byte("<\x00\x00\x00\x00")), 500, true},
		"after the end":        {slices.Concat(ok(), last, last, ok(), blockFrame(1, kindFailed, 0, ""), fileFrame(1, 0, 5, "200 OK"), blockFrame(1, kindRead, 0, "\x01\x00\x00\x00"), blockFrame(1, kindSocket, 0, "")), 200, true},
		"a head after a 500":   {slices.Concat(responseFrame(1, 0, "200 OK", "", "A", "\n"), ok(), hintsFrame(1, "a"), last), 500, true},
	} {
		for _, pipes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,%v", name, pipes), func(t *testing.T) {
				p := hearOut(t, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false, pipes, c.said)
				if list, whole := statuses(t, p.got, nil); whole != c.whole || len(list) != min(c.status, 1) || len(list) == 1 && list[0] != c.status {
					t.Errorf("answers %v, whole %v: %q", list, whole, cut(string(p.got)))
				}
				if l := p.python.lanes[0]; p.python.closed || l.load() > 0 || len(l.in) > l.at {
					t.Fatalf("given up %v, %d requests are left", p.python.closed, l.load())
				}
				near, far, err := socketpair(unix.SOCK_STREAM | unix.SOCK_NONBLOCK)
				if err != nil {
					t.Fatal(err)
				}
				unix.Close(p.client)
				p.lost(p.conn)
				p.run()
				p.client, p.got, p.conn = far, nil, p.add(near, newHTTPCase().endpoint, false)
				p.send([]byte("GET /next HTTP/1.1\r\nHost: x\r\n\r\n"), false)
				p.serve()
				if list, _ := statuses(t, p.got, nil); len(list) != 1 || list[0] != 200 {
					t.Errorf("the next: %q", p.got)
				}
			})
		}
	}
}

// TestDescriptors: each goes to its own file, whatever comes beside it, in one
// piece or in several, for requests that are over too.
func TestDescriptors(t *testing.T) {
	for _, room := range []int{1, 7, 50, wireRoom} {
		p := newPlainWorker(t)
		l := p.python.lanes[0]
		p.python.most = 10
		streams := p.serveASGI()
		p.python.number = 6
		for n := range uint32(7) {
			streams[n] = nil
		}
		p.send([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), false)
		files := map[uint32]int{}
		for n := range uint32(8) {
			fd, err := memfd("file", bytes.Repeat([]byte{'0' + byte(n)}, 100))
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			files[n] = fd
		}
		l.in = make([]byte, 0, wireRoom)
		send := func(b []byte, fd int) {
			for len(b) > 0 {
				n := min(room, len(b))
				var rights []byte
				if fd >= 0 {
					rights = unix.UnixRights(fd)
				}
				if err := unix.Sendmsg(p.far, b[:n], rights, nil, unix.MSG_NOSIGNAL); err != nil {
					t.Fatal(err)
				}
				b, fd = b[n:], -1
			}
		}
		for n := uint32(1); n < 7; n++ {
			send(blockFrame(n, kindBlock, 0, "late"), -1)
			send(fileFrame(n, 0, 100, "200 OK"), files[n])
			send(blockFrame(n, kindFailed, 0, ""), -1)
		}
		send(fileFrame(7, 0, 7, "200 OK", "Content-Length", "7"), files[7])
		send(blockFrame(6, kindFailed, 0, ""), -1)
		p.run()
		if list, whole := statuses(t, p.got, nil); p.python.closed || !whole || len(list) != 1 || !bytes.HasSuffix(p.got, []byte("\r\n\r\n7777777")) {
			t.Errorf("in pieces of %d: given up %v, %q", room, p.python.closed, p.got)
		}
	}
}

// The table of frames ---------------------------------------------------------

// TestFrameConstants: both ends of the wire give frames and flags the same numbers.
func TestFrameConstants(t *testing.T) {
	inPython := map[string]int{}
	for _, name := range []string{"wsgi.py", "asgi.py"} {
		source, err := os.ReadFile("python/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^([A-Z_]+(?:, [A-Z_]+)*) = (\w+(?:, \w+)*)(?: *#.*)?$`).FindAllStringSubmatch(string(source), -1) {
			names, values := strings.Split(m[1], ", "), strings.Split(m[2], ", ")
			for i := range min(len(names), len(values)) {
				if n, err := strconv.Atoi(values[i]); err == nil {
					inPython[names[i]] = n
				} else if n, ok := inPython[values[i]]; ok {
					inPython[names[i]] = n
				}
			}
		}
	}
	want := map[string]int{
		"LAST": flagLast, "MORE": flagMore, "BROKEN": flagBroken, "QUIET": flagQuiet, "CLOSE": flagClose,
		"STACKS": flagStacks, "TAKEN": flagTaken, "PUMPED": flagPumped, "TEXT": flagText, "CROWD": flagCrowd,
		"EXPECT": flagExpect, "SHARED": flagShared, "LANES": lanesMax,
		"WORDS_SIZE": wordsSize, "PLACES_SIZE": placesSize, "RING_SIZE": ringSize,
	}
	for kind, k := range frameKinds {
		if k.name != "" {
			want[k.name] = kind
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, ok := inPython[name]; !ok || got != want[name] {
			t.Errorf("%s is %d, in Python %d (there at all: %v)", name, want[name], got, ok)
		}
	}
}

// TestFrameNames: an error says which frame it is about.
func TestFrameNames(t *testing.T) {
	for want, f := range map[string]frame{
		"unexpected FILE frame for request 12":               {kind: kindFile, number: 12},
		"unexpected READY frame":                             {kind: kindReady},
		"unexpected frame of unknown kind 77 for request 12": {kind: 77, number: 12},
	} {
		if got := fmt.Sprint(f.unexpected()); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// Python's marshal format, as Go writes and reads it ----------------------------

// marshalCases are values and what Python's marshal.dumps(VALUE, 2) writes.
var marshalCases = []struct {
	value any
	bytes string
}{
	{nil, "N"},
	{true, "T"},
	{false, "F"},
	{int64(0), "i\x00\x00\x00\x00"},
	{int64(-1), "i\xff\xff\xff\xff"},
	{int64(math.MaxInt32), "i\xff\xff\xff\x7f"},
	{int64(math.MinInt32), "i\x00\x00\x00\x80"},
	{int64(math.MaxInt32 + 1), "l\x03\x00\x00\x00\x00\x00\x00\x00\x02\x00"},
	{int64(math.MinInt32 - 1), "l\xfd\xff\xff\xff\x01\x00\x00\x00\x02\x00"},
	{int64(math.MaxInt64), "l\x05\x00\x00\x00\xff\x7f\xff\x7f\xff\x7f\xff\x7f\x07\x00"},
	{int64(-math.MaxInt64), "l\xfb\xff\xff\xff\xff\x7f\xff\x7f\xff\x7f\xff\x7f\x07\x00"},
	{1.5, "g\x00\x00\x00\x00\x00\x00\xf8?"},
	{"", "u\x00\x00\x00\x00"},
	{"é€😀", "u\t\x00\x00\x00\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
	{"\xed\xa0\x80", "u\x03\x00\x00\x00\xed\xa0\x80"}, // '\ud800'
	{[]byte("\x00\xff"), "s\x02\x00\x00\x00\x00\xff"},
	{[]any{int64(1), "a"}, "[\x02\x00\x00\x00i\x01\x00\x00\x00u\x01\x00\x00\x00a"},
	{map[string]any{"a": []any{nil}}, "{u\x01\x00\x00\x00a[\x01\x00\x00\x00N0"},
	{map[string]any{}, "{0"},
}

func TestMarshal(t *testing.T) {
	for _, tt := range marshalCases {
		if got := appendMarshal([]byte("x"), tt.value); string(got) != "x"+tt.bytes {
			t.Errorf("%#v: %q, want %q", tt.value, got, tt.bytes)
		}
		got, err := unmarshal([]byte(tt.bytes))
		if err != nil || !reflect.DeepEqual(got, tt.value) {
			t.Errorf("%q: %#v, %v, want %#v", tt.bytes, got, err, tt.value)
		}
	}
	if got, err := unmarshal(appendMarshal(nil, 7)); err != nil || got != int64(7) {
		t.Errorf("%#v, %v", got, err)
	}
	list, err := unmarshal(appendMarshal(nil, []string{"a", "b"}))
	if want := []any{"a", "b"}; err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("%v, %v, want %v", list, err, want)
	}
}

// TestUnmarshalOther reads what Python writes and Go does not.
func TestUnmarshalOther(t *testing.T) {
	for in, want := range map[string]any{
		"(\x00\x00\x00\x00":                        []any{},
		"(\x01\x00\x00\x00T":                       []any{true},
		"t\x01\x00\x00\x00a":                       "a",
		"l\x00\x00\x00\x00":                        int64(0),
		"{t\x01\x00\x00\x00aNt\x01\x00\x00\x00aT0": map[string]any{"a": true},
	} {
		if got, err := unmarshal([]byte(in)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %#v, %v, want %#v", in, got, err, want)
		}
	}
}

func TestUnmarshalMalformed(t *testing.T) {
	for _, in := range []string{
		"", "x", "0", "NN", "{", "{0N", "{N", "{NN0", "{u\x01\x00\x00\x00a0",
		"i\x00\x00\x00", "s\x02\x00\x00\x00a", "s\xff\xff\xff\xffa", "u\xff\xff\xff\x7fa",
		"[\xff\xff\xff\xffN", "(\x02\x00\x00\x00N", "g\x00\x00\x00\x00\x00\x00\xf8",
		"l\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00", // 2**63
		"l\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00",
		"l\x00\x00\x00\x80", "l\x01\x00\x00\x00\x00\x80", // no such length, no such digit
		strings.Repeat("[\x01\x00\x00\x00", marshalDepth+1) + "N",
	} {
		if got, err := unmarshal([]byte(in)); err == nil {
			t.Errorf("%q: %#v", in, got)
		}
	}
	if _, err := unmarshal([]byte(strings.Repeat("[\x01\x00\x00\x00", marshalDepth) + "N")); err != nil {
		t.Errorf("depth %d: %v", marshalDepth, err)
	}
	for _, tt := range marshalCases {
		for cut := range tt.bytes {
			if got, err := unmarshal([]byte(tt.bytes[:cut])); err == nil {
				t.Errorf("%q: %#v", tt.bytes[:cut], got)
			}
		}
	}
}

// TestMarshalReader reads as a worker does, value by value.
func TestMarshalReader(t *testing.T) {
	b := appendMarshalTuple(nil, 5)
	b = appendMarshalLatin(b, "200 \xe9")
	b = appendMarshalList(b, 1)
	b = appendMarshalBytes(b, "body")
	b = appendMarshalInt(b, 1<<40)
	b = appendMarshalText(b, []byte("é"))
	b = appendMarshalBool(b, true)
	r := marshalReader{b: b}
	if n := r.sequence(); n != 5 {
		t.Fatal("tuple of", n)
	}
	if s := r.text(); string(s) != "200 é" {
		t.Fatalf("text %q", s)
	}
	if n := r.sequence(); n != 1 {
		t.Fatal("list of", n)
	}
	if s := r.bytes(); string(s) != "body" {
		t.Fatalf("bytes %q", s)
	}
	if n := r.int(); n != 1<<40 {
		t.Fatal("int", n)
	}
	if r.kind() != 'u' || string(r.text()) != "é" {
		t.Fatal("text")
	}
	if r.int() != 0 || r.err == nil {
		t.Fatal("read a bool as an int")
	}
	// After an error everything is empty.
	if r.sequence() != 0 || r.text() != nil || r.bytes() != nil || r.int() != 0 || r.kind() != 0 || r.is("T") {
		t.Fatal("read on after an error")
	}
}

func FuzzMarshal(f *testing.F) {
	for _, tt := range marshalCases {
		f.Add([]byte(tt.bytes))
	}
	f.Add([]byte("(\x02\x00\x00\x00t\x01\x00\x00\x00al\x01\x00\x00\x00\x05\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if back, ok := latin(nil, appendLatin(nil, in)); !ok || !bytes.Equal(back, in) {
			t.Fatalf("latin-1 %q comes back as %q", in, back)
		}
		v, err := unmarshal(in)
		if err != nil {
			if v != nil {
				t.Fatalf("%#v and %v", v, err)
			}
			return
		}
		out := appendMarshal(nil, v)
		if len(out) > len(in) {
			t.Fatalf("%q is longer than %q", out, in)
		}
		again, err := unmarshal(out)
		if err != nil || fmt.Sprintf("%#v", again) != fmt.Sprintf("%#v", v) { // NaN prints the same
			t.Fatalf("%#v comes back as %#v, %v", v, again, err)
		}
		// A reader that expects something else stops, too.
		r := marshalReader{b: in}
		for n := r.sequence(); n > 0 && r.err == nil; n-- {
			r.text()
			r.bytes()
		}
		if len(r.b) > len(in) {
			t.Fatal("reader grew")
		}
	})
}
