package main

// Walks at random through the steps of several clients, a Python and time. The
// worker is whole and lives in the test's process; its clients and its Python are
// sockets, as in frames_test.go. A walk is bytes: the first says what kind of
// worker it is, and then every three are a step, with two arguments. The same
// bytes lead to the same walk.
//
// FuzzHonest has a Python that says what lane.py or asgi.py may say, and no more:
// whatever clients do, such a Python is never given up, every answer goes to the
// client that asked, and nothing stays behind. In FuzzHostilePython it says
// anything, and only the worker has to survive.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	walkClients = 3
	walkSteps   = 150  // of one walk, at most
	walkTurns   = 5000 // of the worker's loop, for one step
	walkBody    = 2 << 20
	walkBytes   = 32 << 20 // what clients and Python may say in one walk: a fuzzer ends an input that takes seconds
	walkMemory  = 24 << 20 // bytes that a worker may hold for walkClients
)

// Bits of a walk's first byte.
const (
	walkASGI    = 1 << iota
	walkThreads // several lanes; otherwise one, and messages of several requests
	walkPipe    // Python's frames come through a pipe
	walkTight   // the worker may hold little memory
	walkSibling // the worker has siblings, and soon gives connections to them
)

// Bits of a step's first byte, beside its index in a table.
const (
	walkHeld  = 1 << 7 // the bytes of this step and of the next arrive together
	walkSplit = 1 << 6 // the bytes of this step arrive in two pieces
)

// walk is one worker and all around it.
type walk struct {
	*plainWorker
	clients  [walkClients]*walkClient
	threads  []*walkThread // of Python
	requests map[uint32]*walkRequest
	begun    map[string]bool // marks of requests that the application has been called for
	serial   int             // of the newest client
	said     int             // bytes that clients and Python have said
	split    bool
	hostile  bool // Python is
	moved    bool // time has
}

// walkClient is one connection.
type walkClient struct {
	fd      int // -1 when the client has closed it
	serial  int
	said    *int     // the walk's count of bytes
	asked   int      // requests begun
	methods []string // and their methods
	pending []byte   // the rest of the last
	got     []byte
	checked int  // bytes of got
	answers int  // the newest request that an answer was for
	deaf    bool // the client does not read
	wild    bool // the client has sent what is no request
	talks   bool // the client speaks another protocol by now
	shut    bool // the client sends no more
	wasDeaf bool
	closed  bool // by the server
}

// walkThread is one lane's other end.
type walkThread struct {
	lane            *lane
	far, back, pipe int
	batch           []*walkRequest // the requests of a message that have not ended; the first runs
	several         bool           // the message had more than one
	heard           []byte         // off the wire
	lent            int            // a descriptor that came along, -1 for none
	moved           int64          // when it last ended something, or had nothing to do (FuzzLate)
	out             []walkPiece
	ringAt          uint32 // bytes written to the ring
}

// walkPiece waits to be written by Python.
type walkPiece struct {
	b    []byte
	fd   int // goes along, -1 for none
	pipe bool
}

// walkRequest is one request as Python sees it.
type walkRequest struct {
	number uint32
	thread *walkThread
	mark   string
	client int // serial
	nth    int // of the client's requests
	kind   byte

	awaits   bool // Python has asked, and does nothing before it hears
	more     bool // of the body can be asked for
	hadMore  bool
	started  bool
	accepted bool
	taken    bool
	done     bool
	whole    bool // and its answer was complete
	noBody   bool
	left     int // of what Content-Length says, -1 without one
	sent     int // bytes that the worker has not yet said it has taken
}

// newWalk makes the worker that the first byte of a walk describes.
func newWalk(t testing.TB, kind byte) *walk {
	s := &walk{plainWorker: newPlainWorker(t), requests: map[uint32]*walkRequest{}, begun: map[string]bool{}}
	w, p := s.worker, s.python
	w.close(s.conn)
	w.bury()
	unix.Close(s.client)
	w.loop.clock = func(last int64) int64 { return last } // a walk's time is its own
	s.client = -1
	if kind&walkTight != 0 {
		w.pool.limit = 256 << 10
	}
	cfg := *w.cfg
	cfg.timeout, cfg.limitRequestBody = 0, walkBody
	w.cfg = &cfg
	words := make([]atomic.Uint32, 3*8)
	p.giveUp, p.begun, p.halts = words[:8], words[8:16], words[16:]
	th := &walkThread{lane: p.lanes[0], far: s.far, back: p.lanes[0].back, pipe: -1, lent: -1}
	s.threads = []*walkThread{th}
	t.Cleanup(s.cleanup) // before plainWorker's
	switch {
	case kind&walkASGI != 0:
		cfg.workerClass, cfg.requestTimeout = "asgi", 20*time.Second
		p.most = 1 << 20
		s.serveASGI()
	case kind&walkThreads != 0:
		p.threads, p.most = true, 3
	default:
		p.batches = true
	}
	var err error
	if w.giveFD, w.takeFD, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		t.Fatal(err)
	}
	w.alone = kind&walkSibling == 0
	for i := range s.clients {
		s.connect(i)
	}
	if kind&walkPipe != 0 && w.streams() == nil && !p.threads {
		s.openPipe(th)
	}
	return s
}

// openPipe has a thread write all its later frames to a pipe.
func (s *walk) openPipe(th *walkThread) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		s.t.Fatal(err)
	}
	s.say(th, frame{kind: kindPipe}.append(nil), ends[0])
	s.run()
	th.pipe = ends[1]
	if err := unix.SetNonblock(th.pipe, true); err != nil {
		s.t.Fatal(err)
	}
}

// cleanup closes what plainWorker knows nothing of.
func (s *walk) cleanup() {
	for _, c := range s.worker.conns {
		if c != nil {
			s.unplug(c)
		}
	}
	for i, th := range s.threads {
		for _, p := range th.out {
			closeAll(p.fd)
		}
		if closeAll(th.pipe, th.lent); i > 0 {
			closeAll(th.far, th.back)
		}
	}
	for i, l := range s.python.lanes {
		if closeAll(l.pipe); i > 0 {
			closeAll(l.queue, l.back, l.fd, l.passed)
		}
	}
	for _, c := range s.clients {
		closeAll(c.fd)
	}
	closeAll(s.giveFD, s.takeFD)
}

func closeAll(list ...int) {
	for _, fd := range list {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// run goes on until nothing happens any more.
func (s *walk) run() {
	s.t.Helper()
	for turn := 0; ; turn++ {
		moved := s.write()
		n := s.turn(0)
		if turn > walkTurns {
			s.t.Fatalf("the worker does not come to rest: events %+v, wait %v, Python writes: %v", s.events[:n], s.wait(), moved)
		}
		if s.readClients() == 0 && n == 0 && !moved && s.wait() > 0 {
			return
		}
	}
}

// Clients --------------------------------------------------------------------

func (s *walk) connect(i int) {
	near, far, err := socketpair(unix.SOCK_STREAM | unix.SOCK_NONBLOCK)
	if err != nil {
		s.t.Fatal(err)
	}
	if c := s.clients[i]; c != nil {
		closeAll(c.fd)
	}
	s.serial++
	s.clients[i] = &walkClient{fd: far, serial: s.serial, said: &s.said}
	c := s.add(near, newHTTPCase().endpoint, i == 0)
	s.awaitHead(c)
	s.advance(c)
}

func (s *walk) readClients() (total int) {
	for _, c := range s.clients {
		for c.fd >= 0 && !c.deaf && !c.closed {
			n, errno := rawRead(c.fd, clientBuf[:])
			if errno == unix.EAGAIN {
				break
			}
			if errno != 0 || n == 0 {
				c.closed = true
				break
			}
			c.got = append(c.got, clientBuf[:n]...)
			total += n
		}
	}
	return total
}

// send sends the bytes of a client as far as there is room; the rest is pending.
func (c *walkClient) send(text string) {
	*c.said += len(text)
	for c.pending = append(c.pending, text...); c.fd >= 0 && !c.shut && len(c.pending) > 0; {
		n, errno := rawWrite(c.fd, c.pending)
		if errno != 0 {
			return
		}
		c.pending = c.pending[n:]
	}
}

// Kinds of requests, as their targets say them.
const (
	askPlain   = 'g'
	askHead    = 'h'
	askUpgrade = 'u'
	askSocket  = 'w'
	askTrailer = 't'
	askLong    = 'l'
)

// target marks a request, so that everybody knows it again.
func (c *walkClient) target(kind byte) string {
	c.asked++
	return fmt.Sprintf("/~%d.%d.%c~", c.serial, c.asked, kind)
}

// requestForms are what clients ask, and how they begin to.
var requestForms = []struct {
	method, fields, body string
	kind                 byte
}{
	{"GET", "", "", askPlain},
	{"GET", "", "", askPlain},
	{"POST", "Content-Length: 10\r\n", "0123456789", askPlain},
	{"POST", "Content-Length: 4000\r\n", strings.Repeat("z", 4000), askPlain},
	{"POST", "Content-Length: 19000\r\n", strings.Repeat("z", 19000), askPlain},
	{"POST", "Content-Length: 200000\r\n", strings.Repeat("z", 200000), askPlain},   // for no message
	{"POST", "Content-Length: 1500000\r\n", strings.Repeat("z", 1500000), askPlain}, // nor for the worker
	{"POST", "Content-Length: 2100000\r\n", "z", askPlain},                          // too long
	{"POST", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n5\r\nworld\r\n0\r\nX-T: a\r\n\r\n", askPlain},
	{"POST", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", askTrailer},
	{"POST", "Transfer-Encoding: chunked\r\n", "5\r\nhelloXX", askPlain},
	{"HEAD", "", "", askHead},
	{"GET", "Connection: close\r\n", "", askPlain},
	{"POST", "Expect: 100-continue\r\nContent-Length: 3\r\n", "abc", askPlain},
	{"GET", "Upgrade: foo\r\nConnection: upgrade\r\n", "", askUpgrade},
	{"GET", "Upgrade: foo\r\nConnection: upgrade\r\n", "ahead", askUpgrade},
	{"GET", walkHello, "", askSocket},
	{"GET", walkHello, "", askSocket},
	{"GET", walkHello + "Sec-WebSocket-Extensions: permessage-deflate\r\n", wsT("early"), askSocket},
	{"GET", "TE: trailers\r\n", "", askTrailer},
	{"GET", strings.Repeat("X-Long: "+strings.Repeat("v", 8000)+"\r\n", 17), "", askLong},
}

const walkHello = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// ask begins a request. cut says where it stops for now: 255 for not at all.
func (c *walkClient) ask(form, cut byte) {
	f := requestForms[int(form)%len(requestForms)]
	version := "1.1"
	if form >= 250 {
		version = "1.0\r\nConnection: keep-alive"
	}
	head := f.method + " " + c.target(f.kind) + " HTTP/" + version + "\r\nHost: x\r\n" + f.fields + "\r\n"
	c.methods = append(c.methods, f.method)
	c.talks = c.talks || f.kind == askSocket || f.kind == askUpgrade
	c.wild = c.wild || strings.HasSuffix(f.body, "XX")
	if cut < 128 && len(c.pending) == 0 {
		text := head + f.body
		*c.said += len(text)
		at := int(cut) * len(text) / 128
		c.send(text[:at])
		c.pending = append(c.pending, text[at:]...)
		return
	}
	c.send(head)
	c.send(f.body)
}

// wsForms are what the client of a WebSocket says. What is no frame is last.
var wsForms = []string{
	wsT("hello"), wsT("hello"), wsB(strings.Repeat("b", 3000)), wsPingFrame("p"), wsPongFrame("p"),
	wst("frag"), wsc("ment"), wsC("end"), wsT("1") + wsT("2") + wsT("3"),
	wsZ(squeeze(strings.Repeat("compressed ", 300), 1)),
	wsCloseFrame(1000, "bye"), wsCloseFrame(1000, "bye") + wsT("more"),
	wsT("hi") + wsT("hi") + "\xff\xff\xff", "\xff\xff\xff",
}

// Steps of clients and of time.
var worldSteps = map[string]func(s *walk, a, b byte){
	"ask": func(s *walk, a, b byte) { s.clients[a%walkClients].ask(b, 255) },
	"ask in part": func(s *walk, a, b byte) {
		s.clients[a%walkClients].ask(b, a/walkClients)
	},
	"go on": func(s *walk, a, b byte) { s.clients[a%walkClients].send("") },
	"frames": func(s *walk, a, b byte) {
		c := s.clients[a%walkClients]
		c.wild = c.wild || !c.talks
		c.send(wsForms[int(b)%len(wsForms)])
	},
	"garbage": func(s *walk, a, b byte) {
		c := s.clients[a%walkClients]
		c.wild = true
		c.send([]string{"bad\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", "\x16\x03\x01", "0\r\n\r\n"}[b%4])
	},
	"shut": func(s *walk, a, b byte) {
		if c := s.clients[a%walkClients]; c.fd >= 0 {
			c.shut = true
			_ = unix.Shutdown(c.fd, unix.SHUT_WR)
		}
	},
	"leave": func(s *walk, a, b byte) {
		c := s.clients[a%walkClients]
		closeAll(c.fd)
		c.fd = -1
	},
	"connect": func(s *walk, a, b byte) { s.connect(int(a % walkClients)) },
	"deaf": func(s *walk, a, b byte) {
		c := s.clients[a%walkClients]
		c.deaf, c.wasDeaf = !c.deaf, true
	},
	"tick": func(s *walk, a, b byte) {
		s.now += int64(time.Second) * int64(b%8)
		s.moved = true
		s.tick()
	},
	"moment": func(s *walk, a, b byte) { s.now += int64(b) * int64(moment) / 8 },
	"retire": func(s *walk, a, b byte) {
		if b < 32 {
			s.retire()
		}
	},
	"part": func(s *walk, a, b byte) {
		if b < 32 && s.streams() != nil {
			s.partLater(b&1 != 0)
			s.moved = true
			s.now += int64(s.cfg.gracefulTimeout)
		}
	},
	"hand over": func(s *walk, a, b byte) { s.takeOver() },
}

// takeOver is a sibling that takes a connection over, and dies of it.
func (s *walk) takeOver() bool {
	_, fd, errno := rawRecvmsg(s.takeFD, queueBuf[:])
	closeAll(fd)
	return errno == 0
}

// Promises -------------------------------------------------------------------

// check holds what clients have got against what was said to whom.
func (s *walk) check() {
	s.t.Helper()
	for _, c := range s.clients {
		s.checkMarks(c)
	}
	open, files, talks := 0, 0, 0
	for fd, c := range s.worker.conns {
		if c == nil {
			continue
		}
		if c.fd != fd {
			s.t.Fatalf("connection %d is at home at %d", c.fd, fd)
		}
		if open++; c.file >= 0 {
			files++
		}
		if c.turn != nil && c.turn.talk != nil {
			talks++
		}
	}
	if open != s.open || files != s.files || talks > s.talks || s.pool.out < 0 {
		s.t.Fatalf("%d connections, %d files, %d WebSockets, counted %d, %d and %d; %d bytes in use",
			open, files, talks, s.open, s.files, s.talks, s.pool.out)
	}
	kept := s.pool.out
	for _, l := range s.python.lanes {
		kept += cap(l.in) + cap(l.out)
	}
	if kept > walkMemory {
		s.t.Fatalf("%d bytes are kept", kept)
	}
}

// checkMarks looks at what a client has got since the last time.
func (s *walk) checkMarks(c *walkClient) {
	for {
		at := bytes.Index(c.got[c.checked:], []byte("<n"))
		if at < 0 {
			c.checked = max(c.checked, len(c.got)-1)
			return
		}
		digits, _, ok := bytes.Cut(c.got[c.checked+at+2:], []byte(">"))
		if !ok || len(digits) > 10 {
			return
		}
		c.checked += at + 2
		var number uint32
		_, _ = fmt.Sscanf(string(digits), "%d", &number)
		r := s.requests[number]
		if r == nil || r.mark == "" {
			continue
		}
		if r.client != c.serial || r.nth < c.answers && !s.hostile {
			s.t.Fatalf("client %d, which waits for answer %d, has got what was said to request %d, %s", c.serial, c.answers, number, r.mark)
		}
		c.answers = r.nth
	}
}

// rest has clients, worker and Python go on until nothing happens any more. The
// application answers every request that it can.
func (s *walk) rest() {
	for turn := 0; ; turn++ {
		if turn > walkTurns {
			s.t.Fatal("the walk does not come to rest")
		}
		s.run()
		moved := false
		for _, c := range s.clients {
			before := len(c.pending)
			c.send("")
			moved = moved || len(c.pending) != before
		}
		for _, th := range s.threads {
			moved = s.hear(th) || moved
			moved = s.take(th) || moved
		}
		moved = s.takeOver() || moved
		for _, r := range s.running() {
			if r.accepted {
				s.speakSocket(r, 6, 0)
			} else if r.started && !r.taken {
				s.speakOn(r, 3, 4)
			} else {
				s.speak(r, 0, 4)
			}
			moved = true
		}
		s.check()
		if !moved && !s.write() {
			return
		}
	}
}

// finish ends a walk with an honest Python: everybody does what is left to do,
// and then leaves.
func (s *walk) finish() {
	s.t.Helper()
	for _, c := range s.clients {
		c.deaf = false
	}
	s.rest()
	for _, c := range s.clients {
		s.checkAnswers(c)
	}
	for _, c := range s.clients {
		closeAll(c.fd)
		c.fd = -1
	}
	s.rest()
	s.checkGivenUp()
	s.now += int64(time.Hour)
	s.tick()
	s.rest()
	s.checkGivenUp()
	s.checkEmpty()
}

// checkEmpty looks for what is left behind when every client has left.
func (s *walk) checkEmpty() {
	s.t.Helper()
	running := 0
	for _, l := range s.python.lanes {
		running += l.load()
	}
	if s.open+s.talks+s.files+s.pool.out+len(s.waiting)+s.pumps+running != 0 {
		s.t.Fatalf("left behind: %d connections, %d WebSockets, %d files, %d bytes, %d waiting requests, %d pumps, %d requests in Python",
			s.open, s.talks, s.files, s.pool.out, len(s.waiting), s.pumps, running)
	}
}

// checkAnswers looks whether a client has an answer to each of its requests.
func (s *walk) checkAnswers(c *walkClient) {
	if c.fd < 0 || c.wild || s.pool.limit < heldTotal {
		return
	}
	for _, r := range s.requests {
		end := fmt.Appendf(nil, "<e%d>", r.number)
		if r.client == c.serial && r.whole && !r.noBody && r.left < 0 && !c.shut && !c.wasDeaf && !s.moved && !bytes.Contains(c.got, end) {
			s.t.Fatalf("client %d has no %s (%s): %s", c.serial, end, r.mark, cut(string(c.got)))
		}
	}
	if c.talks {
		return
	}
	list, whole := statuses(s.t, c.got, c.methods)
	if len(list) > c.asked || !c.closed && (len(list) < c.asked || !whole) {
		s.t.Fatalf("client %d has answers %v to %d requests: %s", c.serial, list, c.asked, cut(string(c.got)))
	}
}

func (s *walk) checkGivenUp() {
	s.t.Helper()
	if s.deadline != 0 && s.deadline <= s.now {
		return // the grace period of a worker that stops is over
	}
	if s.python.closed || s.python.eof {
		s.t.Fatal("an honest Python is given up")
	}
	for _, l := range s.python.lanes {
		if l.lost {
			s.t.Fatalf("lane %d is given up", l.index)
		}
	}
}

// checkReplaced looks whether a worker that has given its Python up has answered
// for it.
func (s *walk) checkReplaced() {
	s.t.Helper()
	if s.python.failure != nil {
		s.now += int64(settled)
		s.run()
	}
	if !s.python.closed {
		return
	}
	for _, c := range s.worker.conns {
		if c != nil && c.turn != nil && (c.turn.state == inLane || c.turn.state == waiting) {
			s.t.Fatalf("Python is given up, and %s still waits for it in state %d", c.turn.line(), c.turn.state)
		}
	}
	if !s.stopping() || len(s.python.busy) > 0 {
		s.t.Fatalf("Python is given up, and the worker goes on: stopping %v, %d busy lanes", s.stopping(), len(s.python.busy))
	}
}

// countDescriptors fails when the test has more of them in the end.
func countDescriptors(t testing.TB) {
	count := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	devNull() // stays open
	nothing() // the same
	before := count()
	t.Cleanup(func() {
		if after := count(); after != before {
			t.Errorf("%d descriptors were open, and %d are", before, after)
		}
	})
}

// Walks ----------------------------------------------------------------------

// walkStep is what one of all may do.
type walkStep struct {
	name string
	do   func(s *walk, a, b byte)
}

// weigh makes a table of steps, by how often each is to come.
func weigh(steps map[string]func(s *walk, a, b byte), weights ...any) (list []walkStep) {
	for pair := range slices.Chunk(weights, 2) {
		name := pair[0].(string)
		for range pair[1].(int) {
			list = append(list, walkStep{name, steps[name]})
		}
	}
	return list
}

var honestTable = slices.Concat(
	weigh(worldSteps, "ask", 8, "ask in part", 3, "go on", 3, "frames", 4, "garbage", 1, "shut", 1, "leave", 1, "connect", 2,
		"deaf", 1, "tick", 1, "moment", 1, "retire", 1, "part", 1, "hand over", 1),
	weigh(honestSteps, "take", 10, "hear", 4, "speak", 20, "read late", 1))

var lateTable = slices.Concat(
	weigh(worldSteps, "ask", 8, "ask in part", 2, "go on", 3, "frames", 2, "leave", 1, "connect", 2, "deaf", 1, "tick", 6, "moment", 4,
		"hand over", 1),
	weigh(honestSteps, "take", 10, "hear", 4, "speak", 16, "read late", 1))

var hostileTable = slices.Concat(
	weigh(worldSteps, "ask", 6, "ask in part", 3, "go on", 3, "frames", 4, "garbage", 1, "shut", 1, "leave", 1, "connect", 2,
		"deaf", 1, "tick", 1, "moment", 1, "retire", 1, "part", 1, "hand over", 1),
	weigh(honestSteps, "take", 8, "hear", 2, "speak", 10),
	weigh(hostileSteps, "frame", 6, "ring", 2, "header", 1, "bytes", 1, "stray", 1, "flood", 1, "ask on", 1, "pipe", 1, "shut wire", 1,
		"close pipe", 1, "words", 1))

// steps takes every three bytes of a walk for a step. With -v it tells them.
func (s *walk) steps(script []byte, table []walkStep, check func()) {
	if len(table) > walkSplit {
		s.t.Fatal("the table has steps that no byte stands for")
	}
	for n := 0; len(script) >= 3 && n < walkSteps && s.said < walkBytes; script, n = script[3:], n+1 {
		step := table[int(script[0]&(walkSplit-1))%len(table)]
		s.split = script[0]&walkSplit != 0
		if testing.Verbose() {
			s.t.Logf("%s %d %d, held %v", step.name, script[1], script[2], script[0]&walkHeld != 0)
		}
		step.do(s, script[1], script[2])
		s.split = false
		if s.python.eof && !s.python.gone {
			s.died(unix.WaitStatus(unix.SIGKILL)) // as it is going to
		}
		if script[0]&walkHeld == 0 || step.name == "tick" { // bytes are not held for seconds
			s.run()
			s.check()
			check()
		}
	}
	s.run()
}

// walkSeeds are walks that are told by their steps' names, and others at random,
// the same each time.
func walkSeeds(f *testing.F, table []walkStep) {
	for _, told := range []struct {
		kind  byte
		steps []any
	}{
		// What comes for a WebSocket that is over leaves a file behind it alone.
		{walkASGI, []any{"ask", 0, 16, "take", 0, 0, "speak", 0, 0, "ask", 1, 0, "take", 0, 0, "frames", 0, 13,
			"speak held", 0, 0, "speak", 0x16, 0}},
		// A body is read after the answer.
		{0, []any{"ask", 0, 5, "take", 0, 0, "speak", 0, 3, "read late", 0, 9}},
		{walkThreads, []any{"ask", 0, 5, "take", 0, 0, "take", 1, 0, "speak", 0, 3, "read late", 0, 9}},
		{walkPipe, []any{"ask", 0, 6, "go on", 0, 0, "take", 0, 0, "speak", 7, 255, "hear", 0, 0, "speak", 0, 12, "read late", 0, 9}},
		// A WebSocket is accepted by what cannot be sent.
		{walkASGI, []any{"ask", 0, 16, "take", 0, 0, "speak", 0, 229, "speak", 0, 0, "speak", 6, 0}},
		{walkASGI, []any{"ask", 0, 16, "take", 0, 0, "speak", 0, 224, "speak", 0, 0, "speak", 6, 0}},
		// The head of an answer has a set in it, or lists in lists.
		{0, []any{"ask", 0, 0, "take", 0, 0, "speak", 11, 224}},
		{walkASGI, []any{"ask", 0, 0, "take", 0, 0, "speak", 11, 227}},
		// Several lanes, and a client that leaves while its body is asked for.
		{walkThreads, []any{"ask", 0, 6, "ask", 1, 0, "take", 0, 0, "take", 1, 0, "speak", 7, 255, "leave", 0, 0, "hear", 1, 0, "speak", 0, 3}},
		// A head is too long to be handed over, and its request has to wait.
		{walkSibling, []any{"ask", 0, 0, "take", 0, 0, "moment", 0, 255, "ask", 1, 20}},
		// A client leaves while its request waits behind another in a lane, and is taken back.
		{walkSibling, []any{"ask", 0, 0, "take", 0, 0, "speak", 0, 0, "ask", 0, 0, "take", 0, 0, "ask", 1, 0, "leave", 1, 0, "moment", 0, 255}},
		{walkSibling, []any{"ask", 0, 0, "ask", 1, 0, "ask", 2, 0, "moment", 0, 255, "take", 0, 0, "speak", 2, 3, "hand over", 0, 0}},
		// A request with a long environ is overdue before Python has taken it.
		{walkASGI, []any{"ask", 0, 41, "tick", 0, 7}},
		{walkASGI, []any{"ask", 1, 48, "ask", 0, 41, "tick", 0, 7}},
		// Python answers when it has been given up.
		{0, []any{"ask", 0, 50, "take", 0, 0, "tick held", 0, 7, "speak", 0, 0}},
	} {
		b := []byte{told.kind}
		for of := range slices.Chunk(told.steps, 3) {
			name, held := strings.CutSuffix(of[0].(string), " held")
			op := byte(slices.IndexFunc(table, func(step walkStep) bool { return step.name == name }))
			if held {
				op |= walkHeld
			}
			b = append(b, op, byte(of[1].(int)), byte(of[2].(int)))
		}
		f.Add(b)
	}
	for i := range 32 {
		b := []byte{byte(i)}
		for j := range 3 * 60 {
			x := uint32(i*7919+j*104729) * 2654435761
			b = append(b, byte(x>>24))
		}
		f.Add(b)
	}
}

// FuzzHonest: nothing that clients do, in whatever order frames arrive, has a
// worker give up a Python that keeps to the rules, or confuses its clients.
func FuzzHonest(f *testing.F) {
	walkSeeds(f, honestTable)
	f.Add([]byte("0A02Y0\b"))             // a lane that is due in just this moment
	f.Add([]byte("1\xdb0\x04A00000X070")) // a worker that stops, and its grace period is over
	f.Add([]byte("1\xdb0\x1b\x1500A07"))  // a client comes when that worker takes no more requests
	f.Add([]byte("8A22A20A12A0)"))        // a waiting request is answered 503 for want of memory
	f.Add([]byte("1\xc90 000\xdb0\x05"))  // half a head of a HEAD request is answered 408
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		countDescriptors(t)
		s := newWalk(t, script[0])
		s.steps(script[1:], honestTable, s.checkGivenUp)
		s.finish()
	})
}

// FuzzLate: time passes a request's limit, too. A Python or a lane is given up only if a
// thread of it has had something to do and ended nothing for so long, and its clients
// are answered in its place, each by what is for it.
func FuzzLate(f *testing.F) {
	walkSeeds(f, lateTable)
	const limit = 3 * time.Second
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		countDescriptors(t)
		s := newWalk(t, script[0])
		s.cfg.timeout, s.cfg.requestTimeout = limit, limit
		if script[0]&(walkASGI|walkThreads) != 0 {
			s.cfg.timeout = 0 // a question that a walk leaves open is no sign of a hung Python
		}
		over := map[int]bool{} // given up: a lane, by its index, or Python, as -1
		gaveUp := func(what int, th *walkThread) {
			if late := time.Duration(s.now - th.moved); !over[what] && late < limit {
				t.Fatalf("lane %d (-1 is Python) is given up, and has moved %v ago", what, late)
			}
			over[what] = true
		}
		check := func() {
			if s.python.closed && s.deadline == 0 {
				gaveUp(-1, s.threads[0])
				s.checkReplaced()
			}
			for i, th := range s.threads {
				if th.lane.lost {
					gaveUp(i, th)
				} else if _, waits := th.lane.queued(); !waits && len(th.batch) == 0 {
					th.moved = s.now
				}
			}
			for i := len(s.threads); i < len(s.python.lanes); i++ { // the main thread has not opened them
				over[i] = over[i] || s.python.lanes[i].lost
			}
		}
		s.steps(script[1:], lateTable, check)
		check()
		if len(over) == 0 && !s.python.closed {
			s.finish()
			return
		}
		for _, c := range s.clients {
			closeAll(c.fd)
			c.fd = -1
		}
		s.failPython(causeCrash, 502, 0) // unless it has been
		s.run()
		s.checkReplaced()
		s.now += int64(time.Hour)
		s.tick()
		s.takeOver()
		s.run()
		s.checkEmpty()
	})
}

// FuzzHostilePython: whatever Python says, the worker survives it. It keeps
// neither memory nor descriptors for that, a client that has asked for nothing
// gets nothing, and when Python is given up the others get an answer.
func FuzzHostilePython(f *testing.F) {
	walkSeeds(f, hostileTable)
	f.Add([]byte("+@Uj}\x94\xa8\x11(="))  // a wire that Python has shut for reading
	f.Add([]byte("2%00%00%00@02}01[00%")) // the wire of one lane has ended, and another speaks
	f.Add([]byte("0@02[00\x1200%$0"))     // an answer that has begun when the client and the Python have left
	f.Add([]byte("4oA0>00"))              // a pipe ends before the body that comes over the wire
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		countDescriptors(t)
		s := newWalk(t, script[0])
		s.hostile = true
		silent := s.clients[walkClients-1]
		s.steps(script[1:], hostileTable, func() {
			if len(silent.got) > 0 && silent.asked == 0 && !silent.wild && !s.moved {
				t.Fatalf("a client that has asked for nothing has got %s", cut(string(silent.got)))
			}
			s.checkReplaced()
		})
		s.failPython(causeCrash, 502, 0) // unless it has been
		s.run()
		s.checkReplaced()
		for _, c := range s.clients {
			closeAll(c.fd)
			c.fd = -1
		}
		s.now += int64(time.Hour)
		s.tick()
		s.takeOver()
		s.run()
		s.checkEmpty()
	})
}

// TestLastWords: a Python's wires end one after another when it dies. What it has
// written to the wires whose end has not been seen yet is still delivered.
func TestLastWords(t *testing.T) {
	s := newWalk(t, walkThreads)
	s.clients[0].ask(0, 255)
	for i := 0; len(s.running()) == 0 && i < 2; i++ {
		s.run()
		s.take(s.threads[i])
	}
	r := s.running()[0]
	if r.thread == s.threads[0] {
		t.Fatal("the request is in the first lane")
	}
	_ = unix.Shutdown(s.far, unix.SHUT_WR)
	s.turn(0)
	if !s.python.eof {
		t.Fatal("the end of the first wire goes unnoticed")
	}
	s.speak(r, 0, 3)
	s.died(unix.WaitStatus(unix.SIGKILL))
	s.run()
	s.check()
	if got := string(s.clients[0].got); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the client has %q", cut(got))
	}
}

// TestSettle: when a Python is given up that has received a message of three requests, its
// worker goes on with its loop until Python knows that it must begin no further request. The
// request that Python has begun is answered in its place, the others are handed over.
func TestSettle(t *testing.T) {
	s := newWalk(t, 0)
	s.python.pace = 1
	for _, c := range s.clients {
		c.ask(0, 255)
	}
	s.run()
	s.take(s.threads[0])
	if n := s.python.lanes[0].load(); n != 3 {
		t.Fatalf("%d requests in the message", n)
	}
	s.failPython(causeTimeout, 504, 0)
	s.run()
	if s.python.failure == nil || s.wait() != settled {
		t.Fatalf("given up at once: %v, %v", s.python.failure, s.wait())
	}
	s.now += int64(settled)
	s.run()
	s.checkReplaced()
	if got := string(s.clients[0].got); !strings.HasPrefix(got, "HTTP/1.1 504 ") {
		t.Errorf("the first client has %q", cut(got))
	}
	others := 0
	for s.takeOver() {
		others++
	}
	if others != 2 {
		t.Errorf("%d other requests are handed over", others)
	}
}

// The Python of a walk: the frames that it may say in each state of a request and, if it is
// hostile, frames that it may not ----------------------------------------------------

// say has a thread say these bytes. The descriptor is closed when it has been sent along.
func (s *walk) say(th *walkThread, b []byte, fd int) {
	s.said += len(b)
	if th.pipe >= 0 && fd >= 0 {
		th.out = append(th.out, walkPiece{b: []byte("-"), fd: fd})
		fd = -1
	}
	if testing.Verbose() && len(b) >= frameHeader {
		s.t.Logf("Python says %+v", readFrame(b))
	}
	first := walkPiece{b: b, fd: fd, pipe: th.pipe >= 0}
	if s.split && len(b) > 1 {
		rest := first
		first.b, rest.b, rest.fd = b[:len(b)/2], b[len(b)/2:], -1
		th.out = append(th.out, first)
		s.split = false
		s.run()
		first = rest
	}
	th.out = append(th.out, first)
	s.write()
}

// write writes what Python has to say, as far as there is room.
func (s *walk) write() (moved bool) {
	for _, th := range s.threads {
		for len(th.out) > 0 {
			p := &th.out[0]
			var n int
			var err error
			switch {
			case p.pipe:
				n, err = unix.Write(th.pipe, p.b)
			case p.fd >= 0:
				n, err = unix.SendmsgN(th.far, p.b, unix.UnixRights(p.fd), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			default:
				n, err = unix.SendmsgN(th.far, p.b, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			}
			if err == unix.EAGAIN {
				break
			}
			moved = true
			if err != nil { // nobody listens
				n = len(p.b)
			}
			closeAll(p.fd)
			p.fd, p.b = -1, p.b[n:]
			if len(p.b) == 0 {
				th.out = th.out[1:]
			}
		}
	}
	return moved
}

// take has a thread receive a message from its queue.
func (s *walk) take(th *walkThread) bool {
	if len(th.batch) > 0 {
		return false // the lane is busy
	}
	var rights [64]byte
	n, m, _, _, err := unix.Recvmsg(th.back, queueBuf[:], rights[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil || n < frameHeader {
		return false
	}
	var batch []*walkRequest
	for rest := queueBuf[:n]; len(rest) >= frameHeader; {
		f := readFrame(rest)
		end := min(frameHeader+int(f.length), len(rest))
		switch f.kind {
		case kindRequest:
			r := &walkRequest{number: f.number, thread: th, left: -1, more: f.flags&flagMore != 0}
			r.recognize(s, rest[frameHeader:end])
			batch = append(batch, r)
		case kindIndirect:
			r := &walkRequest{number: f.number, thread: th, left: -1, more: f.flags&flagMore != 0, awaits: true}
			batch = append(batch, r)
			end = len(rest)
		case kindOpen:
			s.openThread(rights[:m])
		case kindAsk:
			s.say(th, frame{kind: kindHere, flags: f.flags}.append(nil), -1)
		case kindRecord:
			end = len(rest)
		default:
			s.t.Fatalf("a frame of kind %d in the queue", f.kind)
		}
		rest = rest[end:]
	}
	if s.streams() == nil {
		th.batch, th.several = batch, len(batch) > 1
		s.begin(th)
		return true
	}
	for _, r := range batch {
		s.call(r)
	}
	return true
}

func (s *walk) openThread(rights []byte) {
	list, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(list) != 1 {
		s.t.Fatal("a lane without descriptors")
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 2 {
		s.t.Fatal("a lane without descriptors")
	}
	th := &walkThread{lane: s.python.lanes[len(s.threads)], back: fds[0], far: fds[1], pipe: -1, lent: -1}
	s.threads = append(s.threads, th)
	if len(s.threads)%2 == 0 {
		s.openPipe(th)
	}
}

// recognize finds the mark in what the worker says of a request.
func (r *walkRequest) recognize(s *walk, payload []byte) {
	_, after, ok := bytes.Cut(payload, []byte("/~"))
	mark, _, ok2 := bytes.Cut(after, []byte("~"))
	if !ok || !ok2 {
		return // of no client's own making
	}
	r.mark = string(mark)
	_, _ = fmt.Sscanf(r.mark, "%d.%d.%c", &r.client, &r.nth, &r.kind)
}

// begin has a thread begin the first request of what it has received.
func (s *walk) begin(th *walkThread) {
	if len(th.batch) == 0 {
		return
	}
	r := th.batch[0]
	if i := th.lane.index; th.several {
		s.python.begun[i].Store(r.number)
		if s.python.halts[i].Load() == r.number {
			s.say(th, frame{number: r.number, kind: kindLeft}.append(nil), -1)
			th.batch = nil
			return
		}
	}
	s.call(r)
}

// call is the application being called.
func (s *walk) call(r *walkRequest) {
	s.requests[r.number] = r
	r.hadMore = r.more
	if r.awaits { // an environ that did not fit
		s.ask(r, 1<<20)
		return
	}
	if r.mark != "" && s.begun[r.mark] && !s.hostile {
		s.t.Fatalf("request %s is executed twice", r.mark)
	}
	s.begun[r.mark] = true
}

func (s *walk) ask(r *walkRequest, n uint32) {
	b := frame{length: 4, number: r.number, kind: kindRead}.append(nil)
	s.say(r.thread, binary.LittleEndian.AppendUint32(b, n), -1)
}

// hear takes what the worker says over the wire.
func (s *walk) hear(th *walkThread) (moved bool) {
	for {
		n, fd, errno := rawRecvmsg(th.far, queueBuf[:])
		if fd >= 0 {
			closeAll(th.lent)
			th.lent = fd
		}
		if errno != 0 || n == 0 {
			break
		}
		moved = true
		th.heard = append(th.heard, queueBuf[:n]...)
	}
	for len(th.heard) >= frameHeader {
		f := readFrame(th.heard)
		end := frameHeader + int(f.length)
		if len(th.heard) < end {
			break
		}
		s.heard(th, f, th.heard[frameHeader:end])
		th.heard = th.heard[end:]
	}
	return moved
}

func (s *walk) heard(th *walkThread, f frame, payload []byte) {
	for f.kind == kindGone && s.requests[f.number] == nil && s.take(th) {
	}
	r := s.requests[f.number]
	if r == nil {
		return // the request is over, or has not begun
	}
	switch f.kind {
	case kindRequest:
		r.awaits = false
		r.recognize(s, payload)
		s.call(r)
	case kindBody:
		r.awaits = false
		r.more = r.more && f.flags&(flagLast|flagBroken) == 0 && (s.streams() != nil || f.meta == 0)
	case kindLent:
		r.awaits = false
		if r.taken = f.flags&flagTaken != 0; r.taken && th.lent >= 0 {
			_, _ = rawWrite(th.lent, fmt.Appendf(nil, "<n%d>", r.number))
		}
		closeAll(th.lent)
		th.lent = -1
	case kindCredit:
		r.sent -= int(f.meta)
	case kindGone:
		if r.awaits && r.mark == "" { // the environ does not come any more
			s.say(th, frame{number: r.number, kind: kindFailed}.append(nil), -1)
			s.end(r, false)
		}
	}
}

// end is the application having answered.
func (s *walk) end(r *walkRequest, whole bool) {
	r.done, r.whole, r.thread.moved = true, whole, s.now
	if th := r.thread; s.streams() == nil {
		th.batch = th.batch[1:]
		s.begin(th)
	}
}

// running are the requests that an application could go on with, in order.
func (s *walk) running() (list []*walkRequest) {
	for _, r := range s.requests {
		if !r.done && !(r.awaits && (s.streams() == nil || r.mark == "")) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *walkRequest) int { return int(int32(a.number - b.number)) })
	return list
}

// metaFrame is a frame with marshal and more.
func metaFrame(number uint32, kind, flags byte, meta []byte, body string) []byte {
	f := frame{length: uint32(len(meta) + len(body)), number: number, meta: uint32(len(meta)), kind: kind, flags: flags}
	return append(append(f.append(nil), meta...), body...)
}

func pairsMarshal(b []byte, fields ...string) []byte {
	b = appendMarshalList(b, len(fields)/2)
	for pair := range slices.Chunk(fields, 2) {
		b = appendMarshalText(appendMarshalText(appendMarshalTuple(b, 2), pair[0]), pair[1])
	}
	return b
}

// bodySizes are how long a piece of a body is: mostly short.
var bodySizes = [16]int{0, 1, 10, 10, 100, 100, 100, 100, 1000, 1000, 5000, 17000, 40000, 40000, 100000, 300000}

// body is a piece of an answer. It says whose, and whether it is the last.
func (r *walkRequest) body(size byte, last bool) string {
	b := fmt.Sprintf("<n%d>", r.number) + strings.Repeat("m", bodySizes[size%16])
	if last {
		b += fmt.Sprintf("<e%d>", r.number)
	}
	return b
}

// speak is an application that goes on with a request, as far as lane.py and
// asgi.py let it.
func (s *walk) speak(r *walkRequest, a, b byte) {
	switch {
	case r.kind == askSocket && s.streams() != nil:
		s.speakSocket(r, a, b)
	case r.taken:
		s.fail(r, flagQuiet)
	case !r.started:
		s.speakFirst(r, a, b)
	default:
		s.speakOn(r, a, b)
	}
}

func (s *walk) fail(r *walkRequest, flags byte) {
	s.say(r.thread, frame{number: r.number, kind: kindFailed, flags: flags & flagQuiet}.append(nil), -1)
	s.end(r, false)
}

// speakFirst is an application that has not begun its answer.
func (s *walk) speakFirst(r *walkRequest, a, b byte) {
	th, n := r.thread, r.number
	r.noBody = r.kind == askHead
	switch a % 12 {
	case 0, 1:
		text := r.body(b, true)
		s.respond(r, flagLast, "200 OK", text, "Content-Length", fmt.Sprint(len(text)))
	case 2, 3:
		s.respond(r, flagLast, "200 OK", r.body(b, true))
	case 4, 5:
		s.respond(r, 0, "200 OK", r.body(b, false), []string{"A", "b", "Content-Length", "100"}[b&2:b&2+2]...)
	case 6:
		s.passFile(r, b)
	case 7, 8:
		if r.more {
			r.awaits = true
			s.ask(r, uint32(b)<<8+1)
		} else {
			s.fail(r, 0)
		}
	case 9:
		meta := pairsMarshal(nil, "Link", "</a>")
		if b >= 224 {
			meta = mistake(b)
		}
		s.say(th, metaFrame(n, kindHints, 0, meta, ""), -1)
	case 10:
		switch {
		case s.streams() != nil:
			s.fail(r, b)
		case b&1 != 0:
			s.say(th, frame{number: n * uint32(b>>1&1), kind: kindLogged}.append(nil), -1)
		default:
			r.awaits = true
			s.say(th, frame{number: n, kind: kindSocket}.append(nil), -1)
		}
	case 11:
		// What has no body, or is a mistake of the application's.
		status := []string{"204 No Content", "304 Not Modified", "abc", "200 OK\r\n", "500 Error", "200"}[b/16%6]
		r.noBody, r.started = true, true
		head := pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), status), "A", "b")
		if b >= 96 {
			head = mistake(b)
		}
		s.sayBody(r, kindResponse, b&flagClose|b&flagLast, head, r.body(0, true))
	}
}

// mistake is what an application may have put in the place of a status and its
// headers.
func mistake(b byte) []byte {
	head := appendMarshalText(appendMarshalTuple(nil, 2), "200 OK")
	pair := appendMarshalText(appendMarshalTuple(appendMarshalList(head, 1), 2), "A")
	switch b % 8 {
	case 0: // a set
		return append(head, '<', 0, 0, 0, 0)
	case 1: // a complex number
		return append(pair, 'y', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	case 2: // a number that is too long
		return append(pair, 'l', 9, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0)
	case 3: // lists in lists
		return append(append(pair, bytes.Repeat([]byte{'[', 1, 0, 0, 0}, 3000)...), 'N')
	case 4:
		return append(head, 'N')
	case 5:
		return appendMarshalText(pair, "x\r\ny")
	case 6:
		return appendMarshalInt(pair, 7)
	}
	return pairsMarshal(appendMarshalInt(appendMarshalTuple(nil, 2), 200), "A", "b")
}

// respond begins an answer.
func (s *walk) respond(r *walkRequest, flags byte, status, body string, fields ...string) {
	r.started = true
	if len(fields) == 2 && fields[0] == "Content-Length" && flags&flagLast == 0 {
		if r.left = 100 - len(body); r.left <= 0 { // Python sees to its end, and says no more
			r.left, flags = 0, flagLast
		}
	}
	head := pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), status), fields...)
	s.sayBody(r, kindResponse, flags, head, body)
}

// sayBody says a frame with a piece of the body: a long one goes through the ring, or over
// the wire beside a pipe.
func (s *walk) sayBody(r *walkRequest, kind, flags byte, head []byte, body string) {
	r.sent += len(body)
	th := r.thread
	var place []byte
	if len(body) > smallMax && r.number%2 == 0 {
		place = shout(th.lane, &th.ringAt, body)
	}
	if place != nil {
		s.say(th, metaFrame(r.number, kind, flags|flagShared, head, string(place)), -1)
	} else if th.pipe >= 0 && len(body) > 32768 {
		b := metaFrame(r.number, kind, flags|flagApart, head, body)
		s.say(th, b[:len(b)-len(body)], -1)
		th.out = append(th.out, walkPiece{b: []byte(body), fd: -1})
		s.write()
	} else {
		s.say(th, metaFrame(r.number, kind, flags, head, body), -1)
	}
	if flags&flagLast != 0 {
		s.end(r, true)
	}
}

// passFile answers with a file, which has the request's mark in it.
func (s *walk) passFile(r *walkRequest, b byte) {
	text := r.body(b, true)
	fd, err := memfd("file", []byte("before"+text))
	if err != nil {
		s.t.Fatal(err)
	}
	s.say(r.thread, fileFrame(r.number, 6, uint64(len(text)), "200 OK"), fd)
	s.end(r, true)
}

// speakOn is an application in the middle of its answer.
func (s *walk) speakOn(r *walkRequest, a, b byte) {
	if s.streams() != nil && r.sent >= window {
		s.hear(r.thread)
		if r.sent >= window {
			a = 9 // the request waits, unless it fails
		}
	}
	switch a % 10 {
	case 0, 1, 2:
		body := r.body(b, false)
		if r.left >= 0 && len(body) >= r.left {
			s.sayBody(r, kindBlock, flagLast, nil, body)
			return
		}
		r.left -= len(body)
		s.sayBody(r, kindBlock, 0, nil, body)
	case 3, 4, 5:
		r.whole = r.left < 0
		s.sayBody(r, kindBlock, flagLast, nil, r.body(b, true))
	case 6:
		if s.streams() != nil && r.kind == askTrailer {
			s.say(r.thread, metaFrame(r.number, kindTrailer, flagLast, pairsMarshal(nil, "x-t", "t"), ""), -1)
			s.end(r, false)
			return
		}
		s.sayBody(r, kindBlock, flagLast, nil, "")
		r.whole = false
	case 7, 8:
		if r.more {
			r.awaits = true
			s.ask(r, uint32(b)<<8+1)
		}
	case 9:
		s.fail(r, b)
	}
}

// speakSocket is the application of a WebSocket.
func (s *walk) speakSocket(r *walkRequest, a, b byte) {
	n, th := r.number, r.thread
	switch a %= 10; {
	case r.accepted && a < 6:
		if r.sent >= window {
			s.hear(th)
		}
		if r.sent < window {
			text := r.body(b, false)
			r.sent += len(text)
			s.say(th, metaFrame(n, kindMessage, flagLast|b&flagText, nil, text), -1)
		}
	case r.accepted && a < 9:
		meta := appendMarshalText(appendMarshalInt(appendMarshalTuple(nil, 2), 1000+int64(b)*20), strings.Repeat("why", int(b)))
		s.say(th, metaFrame(n, kindShut, flagLast, meta, ""), -1)
		s.end(r, false)
	case r.accepted:
		s.fail(r, flagQuiet)
	case r.started:
		s.speakOn(r, a, b)
	case a < 7:
		meta := pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), ""), "x-a", "b")
		if b >= 224 {
			meta = mistake(b)
		}
		s.say(th, metaFrame(n, kindAccept, 0, meta, ""), -1)
		r.accepted = true
	case a < 8:
		s.respond(r, 0, "403 Forbidden", r.body(b, false))
	case a < 9:
		s.respond(r, flagLast, "403 Forbidden", r.body(b, true))
	default:
		s.fail(r, b)
	}
}

// Steps of an honest Python.
var honestSteps = map[string]func(s *walk, a, b byte){
	"take": func(s *walk, a, b byte) { s.take(s.threads[int(a)%len(s.threads)]) },
	"hear": func(s *walk, a, b byte) { s.hear(s.threads[int(a)%len(s.threads)]) },
	"speak": func(s *walk, a, b byte) {
		if list := s.running(); len(list) > 0 {
			s.speak(list[int(a>>4)%len(list)], a&15, b)
		}
	},
	// The application reads on after the end of its answer.
	"read late": func(s *walk, a, b byte) {
		var late []*walkRequest
		for _, r := range s.requests {
			if r.done && r.hadMore && !r.taken && s.streams() == nil && len(r.thread.batch) == 0 {
				late = append(late, r)
			}
		}
		if len(late) > 0 {
			slices.SortFunc(late, func(a, b *walkRequest) int { return int(int32(b.number - a.number)) })
			s.ask(late[0], uint32(b)+1)
		}
	},
}

// Steps of a hostile one, beside those.
var hostileSteps = map[string]func(s *walk, a, b byte){
	// A frame that could be one.
	"frame": func(s *walk, a, b byte) {
		n := s.anyNumber(a >> 5)
		meta := [][]byte{nil, mistake(b), mistake(b >> 3), pairsMarshal(nil, "A", "b"),
			pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), "200 OK"), "A", "b"),
			pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), ""), "A", "b"),
			appendMarshalText(appendMarshalInt(appendMarshalTuple(nil, 2), 1000), "why"),
			appendMarshalTuple(nil, 1<<30)}[b%8]
		body := []string{"", fmt.Sprintf("<n%d>", n), "\x01\x00\x00\x00", strings.Repeat("\x00", 16), strings.Repeat("b", 70000)}[b>>3%5]
		kinds := []byte{kindResponse, kindBlock, kindFile, kindFailed, kindRead, kindHints, kindLogged, kindSocket, kindAccept,
			kindMessage, kindShut, kindTrailer, kindLeft, kindTail, kindHere, kindRetire, kindPipe, kindReady, kindWatch, b}
		s.say(s.threads[0], metaFrame(n, kinds[int(a&31)%len(kinds)], b>>4, meta, body), s.anyDescriptor(a^b))
	},
	// A body in shared memory, which may be anywhere, and longer than all.
	"ring": func(s *walk, a, b byte) {
		place := binary.LittleEndian.AppendUint32(nil, uint32(a)<<(b%32))
		place = binary.LittleEndian.AppendUint32(place, []uint32{uint32(a) << (b % 32), 1 << 20, ringSize, ringSize + 1, 0}[b%5])
		kind := []byte{kindResponse, kindBlock, kindMessage, kindFile}[b>>3%4]
		s.say(s.threads[0], metaFrame(s.anyNumber(a>>5), kind, flagShared|b&flagLast, nil, string(place[:8-b>>5%2])), -1)
	},
	// A header in which everything is anything.
	"header": func(s *walk, a, b byte) {
		n := s.anyNumber(a >> 5)
		s.say(s.threads[0], frame{length: uint32(b) << (a % 25), meta: uint32(b>>4) << (a % 25), number: n, kind: a % 48, flags: b}.append(nil), s.anyDescriptor(b))
	},
	"bytes": func(s *walk, a, b byte) {
		s.say(s.threads[0], bytes.Repeat([]byte{a, b, 0}, int(b)%40+1), s.anyDescriptor(a))
	},
	// Beside a pipe, bytes that belong to no frame.
	"stray": func(s *walk, a, b byte) {
		s.threads[0].out = append(s.threads[0].out, walkPiece{b: []byte{a}, fd: s.anyDescriptor(b)})
	},
	"flood": func(s *walk, a, b byte) {
		n, body := s.anyNumber(a>>5), strings.Repeat("f", 60000)
		kind := []byte{kindBlock, kindMessage, kindResponse, kindHints}[b%4]
		for range 100 {
			s.say(s.threads[0], metaFrame(n, kind, 0, nil, body), -1)
			s.run()
		}
	},
	"ask on": func(s *walk, a, b byte) {
		n := s.anyNumber(a >> 5)
		for range int(b) {
			s.say(s.threads[0], binary.LittleEndian.AppendUint32(frame{length: 4, number: n, kind: kindRead}.append(nil), 1<<31), -1)
		}
	},
	"pipe": func(s *walk, a, b byte) {
		if th := s.threads[0]; th.pipe < 0 && !s.python.closed {
			s.openPipe(th)
		}
	},
	"shut wire": func(s *walk, a, b byte) { _ = unix.Shutdown(s.far, int(b%3)) },
	"close pipe": func(s *walk, a, b byte) {
		if th := s.threads[0]; th.pipe >= 0 {
			closeAll(th.pipe)
			th.pipe = -1
		}
	},
	// What a request is in the shared memory.
	"words": func(s *walk, a, b byte) {
		[]*atomic.Uint32{&s.python.begun[0], &s.python.halts[0], &s.python.giveUp[0], &s.python.taken[0]}[a%4].Store(s.anyNumber(b))
	},
}

// anyNumber is that of a request: a new one mostly, an old one, one to come, none.
func (s *walk) anyNumber(a byte) uint32 {
	switch a %= 8; a {
	case 6:
		return 0
	case 7:
		return s.python.number + 1
	}
	return s.python.number - uint32(a)/2
}

// anyDescriptor is one of a file, of a pipe or of a socket, or mostly none.
func (s *walk) anyDescriptor(a byte) int {
	var ends [2]int
	var err error
	switch a % 16 {
	case 0, 1:
		ends[0], err = memfd("file", make([]byte, 100))
		ends[1] = -1
	case 2:
		err = unix.Pipe2(ends[:], unix.O_CLOEXEC)
	case 3:
		ends[0], ends[1], err = socketpair(unix.SOCK_STREAM)
	default:
		return -1
	}
	if err != nil {
		s.t.Fatal(err)
	}
	closeAll(ends[1])
	return ends[0]
}
