package main

// A lane joins a worker to one thread of its Python. Requests wait for that thread as
// messages in a socket, the queue; what belongs to the requests that run, their responses
// and the rest of their bodies, goes over the wire (wire.go).
//
// The queue is a SOCK_SEQPACKET pair of which the worker keeps both ends.
// Whoever receives a message owns it, by the kernel's word: a request that
// Python has received has begun, and one that it has not can be received back
// and be served elsewhere. So a request that was written ahead is never lost,
// never stuck behind a slow one, and never executed twice.
//
// Every request has a number and every frame repeats it. What belongs to one
// request ends at most that request: a frame that it may not have now, or with
// marshal that nobody understands, is a wrongFrame, and one that comes after the
// end of its request is ignored. Only bytes that are no frame, or one for a number
// that has never been, are a protocolError: nothing that this Python says after that
// reaches anybody.
//
// There are two kinds of lane. A WSGI lane runs one request after another, and others
// wait in its queue (queueLane, here); the one lane of an ASGI application carries all
// requests at once (streamLane, asgi.go). What else WSGI and ASGI do differently is in
// their gateways.
//
// The first lane comes with the process and belongs to its main thread. In sync
// that one runs the requests. With threads or greenlets it runs none: it opens
// the other lanes, one a thread, when they are needed, and says that it lives.

import (
	"embed"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Python half, in python/: wsgi.py is what runs, and loads the others if it needs them.
//
//go:embed python/*.py
var pythonFiles embed.FS

const (
	queueMax = 1 << 17   // bytes of the longest message in a queue: 64 KB of body fit, with their head
	depthMax = 32        // requests in a queue and running
	wireRoom = 256 << 10 // bytes taken off the wire at once, and in a pipe
	alikeMax = 4 << 10   // bytes of an environ that Python keeps for the next
	metaMax  = 4 << 20   // bytes of status and headers: far above any client's limit
)

// moment is how long a request may keep others waiting in a worker before they
// are served elsewhere, and how much work is written ahead.
const moment = 2 * time.Millisecond

// brief calls are all run by one thread, one after another: several would spend
// their time on handing the interpreter's lock to each other.
const brief = moment / 16

// python is the process in which the application runs.
type python struct {
	pid   int // 0 until the template has said
	fate  int // where the template says so, and how it ended; -1 without a template
	trace int // memfd: stacks, as faulthandler writes them

	// Words for each lane, of memory that is shared. Python reads giveUp after
	// each block: the number of the request whose client has left. Of a message of
	// several requests it writes begun, the number of the one that it begins,
	// before it reads halts: the first of those that it must leave.
	giveUp, begun, halts []atomic.Uint32

	gateway *gateway
	lanes   []*lane // the first is the main thread's
	threads bool    // which runs no requests, but opens the other lanes
	batches bool    // it takes messages of several requests
	most    int     // how many lanes may run requests
	busy    []*lane // those with requests in flight

	ready  bool
	eof    bool // it has closed the wire of a lane
	closed bool // given up: nothing more is sent or believed
	broken bool // after a protocol error: dispatch gives it up
	ended  bool // it has been told that no request will come
	traced int  // bytes of trace that are logged

	gone     bool   // the process has ended
	orphaned bool   // the process that forked it is gone, and will not say when it ends
	killAt   int64  // when to kill it, 0 for never
	hung     string // what was running when it was given up
	askedAt  int64  // when it was asked whether it is alive, 0 if it has answered

	number uint32 // of the newest request
	pace   int64  // how long calls take of late: nanoseconds, smoothed
}

// lane is one thread of Python.
type lane struct {
	wire
	laneKind
	python *python
	index  int
	queue  int  // the worker's end
	back   int  // Python's end, kept to take back what has not begun
	lost   bool // its thread has run into a limit and serves nobody any more

	begun    int64   // when the oldest request began
	patience int64   // when the oldest request began, or was last seen not to have begun
	stalled  bool    // the oldest request has run for more than a moment
	client   passage // how long the running request has waited for its client
	choked   *turn   // its client is slow: the wire is not read until it has taken enough
	owner    *turn   // of the frame at hand; nil for nobody
}

// laneKind is what the two kinds of lane do differently.
type laneKind interface {
	load() int                // requests in the queue and running
	room() int                // requests that one message may bring
	mayPass(talks int) int    // requests that may be answered with a file
	flags(talks int) byte     // of the next request's frame
	sent(b []*turn, at int64) // these requests are in the queue
	takeBack() []*turn        // those that Python has not begun, oldest first
	settle(now int64)         // waits until Python cannot begin another, where that takes time
	clear()                   // forgets all requests

	whose(number uint32) (t *turn, ok bool) // the request that a frame is about: nil if it is over, false if there has been none
	inPython() []*turn                      // requests that Python has, oldest first
	eldest() *turn                          // the request that has run for longest, nil for none

	due() int64                    // when to call stall, 0 for never
	stall(w *worker)               // whoever waits for this lane should not
	hurry(w *worker, t *turn) bool // enforces the limits in time of a request, once a second; false if there was nothing to do

	heard(now int64)                            // Python has said something
	demand(t *turn, n int) bool                 // Python asks for n bytes; false if it may not
	met(t *turn, n int)                         // Python is given n of them
	answer(w *worker, f frame, payload []byte)  // sends Python a frame
	roomFor(t *turn) bool                       // the wire has room for more of the request; if not, feed is called when it has
	hold(w *worker, t *turn)                    // keeps a slow client's response from filling the memory
	clientTook(w *worker, t *turn)              // the client has taken some of the response
	clientLeft(w *worker, t *turn)              // tells the application, if it can be told
	refuse(w *worker, t *turn, why *badRequest) // ends a request in place of Python, which goes on with it
	unwanted(w *worker, f frame)                // handles a frame of a request that is over
	over(w *worker, t *turn)                    // the response is complete
}

// gateway is what the interfaces between a server and its application, WSGI and ASGI, do
// differently.
type gateway struct {
	name    string
	kind    func(l *lane) laneKind              // of its lanes
	pick    func(p *python) (*lane, error)      // for the next request; nil for none
	running func(p *python) int                 // requests that run
	environ func(*worker, *turn, []byte) []byte // appends what the application is told of a request
	greet   func(*worker, *turn) bool           // looks at a request for another protocol; nil if the application does
	ready   func(*worker)                       // says that the application is loaded; nil for no word

	early       bool // a request runs before its body has come
	halves      bool // the environ has a part that the client's next request will have, too
	octets      bool // names and values of headers may be bytes
	overrides   bool // the application's Server, Date and "Connection: close" count
	dropsHead   bool // applications send a body in answer to HEAD and have the server drop it
	watches     bool // the application is told at once when its client leaves
	cancels     bool // one request can be ended without the others, and has its own limit in time
	answers     bool // the main thread answers questions while requests run
	stays       bool // a connection may stay for hours, and with it all of its work
	discardable int  // bytes of a body that may be thrown away for the connection's sake
}

// wsgi is PEP 3333.
var wsgi = gateway{
	name:        "WSGI",
	kind:        func(l *lane) laneKind { return &queueLane{lane: l} },
	pick:        (*python).pickQueue,
	running:     func(p *python) int { return len(p.busy) },
	environ:     (*worker).environ,
	halves:      true,
	discardable: discardMax,
}

// bootstrap runs the bridge on descriptor 3: a length in four bytes, an index as
// marshal of that length, the sources, and wsgi.py as one version of Python has
// compiled it. Compiling takes 10 ms and 2 MB, so it is done once and not by
// each worker's Python, unless that is another by now. Only what is wanted is
// read: a large block that is freed again changes how malloc treats the
// application's. wsgi.py is the module _gunicorn.wsgi, and imports the others by a
// finder of its own.
const bootstrap = `import marshal, os, sys
def load(name):
    size = int.from_bytes(os.pread(3, 4, 0), 'little')
    version, index = marshal.loads(os.pread(3, size, 4))
    if version == sys.version and name + 'c' in index:
        at, n = index[name + 'c']
        return marshal.loads(os.pread(3, n, 4 + size + at))
    at, n = index[name]
    return compile(os.pread(3, n, 4 + size + at), '<gunicorn ' + name + '>', 'exec')
package, main = type(sys)('_gunicorn'), type(sys)('_gunicorn.wsgi')
package.__path__, package.wsgi, main.load = [], main, load
sys.modules['_gunicorn'], sys.modules['_gunicorn.wsgi'] = package, main
exec(load('wsgi.py'), main.__dict__)`

// sources is a marshal dict of the Python files by name.
func sources() []byte {
	files := map[string]any{}
	for _, name := range []string{"wsgi.py", "asgi.py", "hooks.py", "facade.py", "package.py", "debug.py"} {
		text, err := pythonFiles.ReadFile("python/" + name)
		if err != nil {
			panic(err) // embed has seen to it
		}
		files[name] = text
	}
	return appendMarshal(nil, files)
}

// startPython runs wsgi.py in the given role, with files from descriptor 4 on,
// and returns its pid. The environment is the worker's, and never is the mode
// an isolated one: wrappers that patch through PYTHONPATH must work.
func startPython(python string, bridge *os.File, role string, env []string, files ...int) (int, error) {
	attr := &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{0, 1, 2, bridge.Fd()},
		// Whatever becomes of this process, its Python does not
		// outlive it. The signal comes when the thread that forks
		// ends; Go's threads end with the process.
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	for _, fd := range files {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	pid, err := syscall.ForkExec(python, []string{python, "-c", bootstrap, role}, attr)
	runtime.KeepAlive(bridge)
	if err != nil {
		return 0, fmt.Errorf("python: %s: %w", python, err)
	}
	allowFiles(pid)
	return pid, nil
}

// lanesMax bounds the lanes of one Python: each has three shared words, and takes
// five descriptors of the two processes.
const lanesMax = 4096

const wordsSize = 3 * 4 * lanesMax

// openPython starts a Python whose application will serve what its lanes bring.
// It is forked by the template, if there is one behind the socket fork, and started
// afresh otherwise.
func openPython(c *config, bridge *os.File, env []string, fork int) (p *python, err error) {
	family := c.family()
	p = &python{fate: -1, threads: family != familySync && family != familyASGI, most: c.concurrency()}
	p.batches = family != familyGevent && family != familyEventlet // lanes that are greenlets share a buffer
	p.gateway = &wsgi
	if family == familyASGI {
		p.gateway = &asgi
	}
	first, far, err := p.newLane()
	if err != nil {
		return nil, err
	}
	defer unix.Close(far)
	if p.trace, err = memfd("trace", nil); err != nil {
		return nil, err
	}
	page, err := memfd("words", make([]byte, wordsSize))
	if err != nil {
		return nil, err
	}
	defer unix.Close(page)
	b, err := unix.Mmap(page, 0, wordsSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	words := unsafe.Slice((*atomic.Uint32)(unsafe.Pointer(&b[0])), 3*lanesMax)
	p.giveUp, p.begun, p.halts = words[:lanesMax], words[lanesMax:2*lanesMax], words[2*lanesMax:]
	if fork >= 0 {
		p.fate = fork
		err = askFork(fork, first.back, far, p.trace, page)
	} else {
		var settings int
		if settings, err = memfd("settings", c.encode()); err != nil {
			return nil, err
		}
		defer unix.Close(settings)
		files := []int{settings, first.back, far, p.trace, page}
		if c.credential != nil {
			files = append(files, logFile(c.errorlog, fdErrorlog), logFile(c.accesslog, fdAccesslog))
		}
		p.pid, err = startPython(c.python, bridge, "serve", env, files...)
	}
	return p, err
}

// newLane makes a lane's sockets; Python's end of the wire is the caller's to
// pass on and to close.
func (p *python) newLane() (l *lane, far int, err error) {
	l = &lane{python: p, index: len(p.lanes), wire: wire{pipe: -1, passed: -1, file: -1}}
	l.laneKind = p.gateway.kind(l)
	if l.queue, l.back, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return nil, -1, err
	}
	if l.fd, far, err = socketpair(unix.SOCK_STREAM); err != nil {
		unix.Close(l.queue)
		unix.Close(l.back)
		return nil, -1, err
	}
	// As much as the kernel lets anyone have: a full queue only means that
	// fewer requests are written ahead.
	_ = unix.SetsockoptInt(l.queue, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	_ = unix.SetsockoptInt(far, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	if err = unix.SetNonblock(l.fd, true); err != nil {
		return nil, -1, os.NewSyscallError("fcntl", err)
	}
	p.lanes = append(p.lanes, l)
	return l, far, nil
}

// openLane has Python start one more thread. What is written into its queue
// waits there until it runs.
func (p *python) openLane() (*lane, error) {
	l, far, err := p.newLane()
	if err != nil {
		return nil, err
	}
	f := frame{number: uint32(l.index), kind: kindOpen}
	err = unix.Sendmsg(p.lanes[0].queue, f.append(nil), unix.UnixRights(l.back, far), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	unix.Close(far)
	if err != nil {
		p.lanes = p.lanes[:l.index]
		for _, fd := range []int{l.queue, l.back, l.fd} {
			unix.Close(fd)
		}
		return nil, os.NewSyscallError("sendmsg", err)
	}
	return l, nil
}

// pick returns the lane for the next request, nil for none.
func (p *python) pick() (*lane, error) {
	if !p.ready || p.closed || p.eof {
		return nil, nil
	}
	return p.gateway.pick(p)
}

// pickQueue is a lane that is idle, or one more, or one that will soon be idle.
func (p *python) pickQueue() (*lane, error) {
	depth := p.depth()
	if p.brief() {
		for _, l := range p.busy {
			if l.stalled {
				continue
			}
			if l.load() < depth {
				return l, nil
			}
			return nil, nil
		}
	}
	for _, l := range p.serving() {
		if l.load() == 0 && !l.lost {
			return l, nil
		}
	}
	if p.threads && len(p.lanes) <= p.most {
		return p.openLane()
	}
	var shortest *lane
	for _, l := range p.busy {
		if !l.stalled && l.load() < depth && (shortest == nil || l.load() < shortest.load()) {
			shortest = l
		}
	}
	return shortest, nil
}

// serving are the lanes that run requests.
func (p *python) serving() []*lane {
	if p.threads {
		return p.lanes[1:]
	}
	return p.lanes
}

// oldest is the lane whose request has run for longest, nil if none runs.
func (p *python) oldest() (oldest *lane) {
	for _, l := range p.busy {
		if oldest == nil || l.begun < oldest.begun {
			oldest = l
		}
	}
	return oldest
}

// idle is how many requests more could run, each in a lane that may not be open yet.
func (p *python) idle() int {
	if p.lanes[0].stalled {
		return 0
	}
	return p.most - p.running()
}

// running is how many requests run, or are about to where they cannot be told
// apart.
func (p *python) running() int { return p.gateway.running(p) }

// stuck says whether every lane there may be runs a request that takes longer
// than a moment.
func (p *python) stuck() bool {
	if p.idle() > 0 {
		return false
	}
	for _, l := range p.busy {
		if !l.stalled {
			return false
		}
	}
	return true
}

// logFile is the descriptor of a log that is a file, or -1.
func logFile(path string, fd int) int {
	if path == "" || path == "-" {
		return -1
	}
	return fd
}

// brief says whether calls are.
func (p *python) brief() bool { return p.pace > 0 && p.pace < int64(brief) }

// depth is how many requests a lane may hold: as many as are done in a moment at
// the pace of late, one when calls take longer.
func (p *python) depth() int {
	if p.pace == 0 {
		return 1
	}
	return max(1, min(depthMax, int(int64(moment)/p.pace)))
}

// send writes one message, of two parts, into the queue: false when it has no
// room now. It has one request, or several.
func (l *lane) send(batch []*turn, message, body []byte, now int64) (bool, error) {
	switch errno := rawSend(l.queue, message, body); {
	case errno == unix.EAGAIN && l.load() > 0:
		return false, nil
	case errno != 0:
		return false, os.NewSyscallError("sendmsg", errno)
	}
	if l.load() == 0 {
		l.begun, l.patience, l.client = now, now, passage{}
		l.python.busy = append(l.python.busy, l)
	}
	l.sent(batch, now)
	return true, nil
}

// queued is the number of the queue's first message.
func (l *lane) queued() (number uint32, ok bool) {
	var head [frameHeader]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.back), uintptr(unsafe.Pointer(&head[0])),
		frameHeader, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return readFrame(head[:]).number, errno == 0 && n >= frameHeader
}

// receiveBack receives a message that Python has not received, as far as there is room:
// 0 when there is none.
func (l *lane) receiveBack(message []byte) int {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.back), uintptr(unsafe.Pointer(&message[0])),
			uintptr(len(message)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0 || n < frameHeader:
			return 0
		default:
			return int(n)
		}
	}
}

// rest takes a lane off the busy ones when nothing is in flight there.
func (l *lane) rest() {
	p := l.python
	if i := slices.Index(p.busy, l); i >= 0 && l.load() == 0 {
		p.busy = slices.Delete(p.busy, i, i+1)
		l.stalled = false
	}
}

// ran is for how long the request has run: not while the lane waited for its
// client.
func (l *lane) ran(now int64) time.Duration {
	return time.Duration(now - l.begun - l.client.waited(now))
}

// ready handles an event on the wire or the pipe.
func (l *lane) ready(w *worker, fd int, events uint32) {
	l.flush()
	w.watchWire(l)
	if events&^unix.EPOLLOUT != 0 {
		stray, taken := l.pipe >= 0 && fd == l.fd && unread(fd) > 0, l.taken
		w.replies(l)
		if stray && taken == l.taken {
			w.claim(l)
		}
	}
}

// flush writes what waits for room on the wire.
func (l *lane) flush() {
	if !l.python.closed && !l.lost {
		l.wire.flush()
	}
}

// Lanes of WSGI --------------------------------------------------------------

// queueLane runs one request after another.
type queueLane struct {
	lane   *lane
	flight []*turn // written and not answered, oldest first
	halted int64   // when halt wrote its word, 0 when there is nothing to wait for
}

func (q *queueLane) load() int { return len(q.flight) }

// room is one unless calls are brief: where several run at a time, each should be picked by
// who is free first.
func (q *queueLane) room() int {
	if p := q.lane.python; p.batches && p.brief() {
		return p.depth() - len(q.flight)
	}
	return 1
}

func (q *queueLane) mayPass(int) int { return len(q.flight) }
func (q *queueLane) flags(int) byte  { return 0 }

func (q *queueLane) sent(batch []*turn, _ int64) {
	for _, t := range batch {
		t.message = batch[0].number
	}
	q.flight = append(q.flight, batch...)
}

func (q *queueLane) clear()            { q.flight, q.halted = nil, 0 }
func (q *queueLane) inPython() []*turn { return slices.Clone(q.flight) }

// eldest is the request that Python has begun, nil for none. What is still in the queue
// has not: the caller takes that back first when the difference matters.
func (q *queueLane) eldest() *turn {
	if len(q.flight) == 0 {
		return nil
	}
	return q.flight[0]
}

func (q *queueLane) whose(number uint32) (*turn, bool) {
	newest := q.lane.python.number
	if t := q.eldest(); t != nil {
		if t.number == number {
			return t, true
		}
		newest = t.number
	}
	return nil, int32(number-newest) <= 0
}

// headBegun says whether Python has received the oldest request: then it is no
// longer the first message of the queue.
func (q *queueLane) headBegun() bool {
	number, ok := q.lane.queued()
	return !ok || number != q.flight[0].number
}

// takeBack throws the rest of each message away: its requests still have what it was made
// of.
func (q *queueLane) takeBack() []*turn {
	back := q.leftOver()
	for head := make([]byte, frameHeader); q.lane.receiveBack(head) > 0; {
		back = append(back, q.retrieve(readFrame(head).number)...)
	}
	return back
}

// retrieve takes off the flight what came in one message, but for the request
// that runs.
func (q *queueLane) retrieve(message uint32, running ...*turn) (back []*turn) {
	q.flight = slices.DeleteFunc(q.flight, func(t *turn) bool {
		if t.message != message || slices.Contains(running, t) {
			return false
		}
		t.lane = nil
		back = append(back, t)
		return true
	})
	q.lane.rest()
	return back
}

// settled is after how long everybody sees what somebody has written into shared
// memory. No processor keeps it to itself for that long, and what keeps a process
// from running lets the others see it.
const settled = moment / 2

// halt has Python leave what it has not begun of the message that it is at.
func (q *queueLane) halt(now int64) {
	if len(q.flight) > 1 && q.flight[1].message == q.flight[0].message {
		q.lane.python.halts[q.lane.index].Store(q.flight[1].number)
		q.halted = now
	}
}

// leftOver takes what Python leaves because of halt, once that has settled:
// either Python reads that word before it begins the next request, or we read here
// that it has begun that (Dekker's algorithm, with time in place of fences). In
// the latter case it leaves nothing, or says so itself (kindLeft).
func (q *queueLane) leftOver() []*turn {
	if q.halted == 0 {
		return nil
	}
	q.halted = 0
	first, begun := q.flight[0], q.lane.python.begun[q.lane.index].Load()
	if slices.ContainsFunc(q.flight[1:], func(t *turn) bool { return t.number == begun }) {
		return nil
	}
	return q.retrieve(first.message, first)
}

func (q *queueLane) settle(now int64) {
	if q.halt(now); q.halted != 0 {
		time.Sleep(settled)
	}
}

func (q *queueLane) due() int64 {
	switch {
	case q.halted != 0:
		return q.halted + int64(settled)
	case q.lane.stalled:
		return 0
	}
	return q.lane.patience + int64(moment)
}

// stall is called when a request has run for more than a moment: whoever waits
// behind it should not.
func (q *queueLane) stall(w *worker) {
	l := q.lane
	if q.halted != 0 {
		w.giveBack(l)
		return
	}
	if !q.headBegun() {
		// It is the machine that is busy, and would be for siblings too.
		l.patience = w.now
		return
	}
	l.stalled = true
	if w.alone && w.python.most == 1 {
		return
	}
	w.giveBack(l)
	q.halt(w.now)
}

// hurry ends the wait of the lane for a client that uses up its time.
func (q *queueLane) hurry(w *worker, t *turn) bool {
	if t != q.eldest() || !q.lane.client.late(w.now, w.clientLimit()) {
		return false
	}
	w.tooSlow(t)
	return true
}

func (q *queueLane) heard(int64) {}

// demand takes one demand at a time.
func (q *queueLane) demand(t *turn, n int) bool {
	if t.want > 0 {
		return false
	}
	t.want = n
	return true
}

func (q *queueLane) met(t *turn, _ int) { t.want = 0 }

func (q *queueLane) answer(w *worker, f frame, payload []byte) {
	l := q.lane
	l.client.pause(w.now)
	if err := l.write(f, payload); err != nil {
		w.outOfStep(l, err)
	}
	w.watchWire(l)
}

func (q *queueLane) roomFor(*turn) bool { return true }

// hold leaves on the wire what the client is not ready for.
func (q *queueLane) hold(w *worker, t *turn) {
	l := q.lane
	if t.conn.gone {
		return
	}
	if t.conn.file < 0 {
		if len(t.conn.out)-t.conn.outAt <= w.holdable() {
			return
		}
		w.spoolReply(t.conn)
	}
	switch {
	case t.conn.file < 0 || len(t.conn.rest) > 0:
		l.client.wait(w.now)
	case t.burst < turnMax:
		return
	default:
		t.burst = 0
		w.goOnLater(t.conn)
	}
	l.choked = t
	w.watchWire(l)
}

func (q *queueLane) clientTook(*worker, *turn) {}

// clientLeft does nothing: the shared words tell the thread at its next block.
func (q *queueLane) clientLeft(*worker, *turn) {}

// refuse ends a request with 500, or with a closed connection if the response has begun.
func (q *queueLane) refuse(w *worker, t *turn, why *badRequest) {
	last := q.lane.frame.last()
	switch {
	case t.refused:
	case t.started || t.taken:
		t.refused, t.conn.cut = true, true
		w.lost(t.conn)
	default:
		w.serverError(t)
	}
	if last {
		w.flushOut()
		w.complete(t)
	}
}

// unwanted answers a thread that asks for something and waits.
func (q *queueLane) unwanted(w *worker, f frame) {
	switch f.kind {
	case kindRead:
		q.answer(w, frame{number: f.number, meta: tooLate, kind: kindBody, flags: flagBroken}, nil)
	case kindSocket:
		q.answer(w, frame{number: f.number, kind: kindLent, flags: flagBroken}, nil)
	}
}

// over takes the oldest request off the flight.
func (q *queueLane) over(w *worker, t *turn) {
	l := q.lane
	if t.want > 0 {
		// A thread, or one that a timeout of the application's has interrupted.
		q.answer(w, frame{number: t.number, meta: tooLate, kind: kindBody, flags: flagBroken}, nil)
	}
	took := w.now - l.begun
	if p := l.python; p.pace == 0 {
		p.pace = max(took, 1)
	} else {
		p.pace = max(p.pace+(took-p.pace)/8, 1)
	}
	l.begun, l.patience, l.stalled, q.halted, l.client = w.now, w.now, false, 0, passage{}
	n := copy(q.flight, q.flight[1:])
	q.flight[n] = nil
	q.flight = q.flight[:n]
	l.rest()
}

// relayed receives what Python says to its worker beside responses: n is 0
// when there is no more. It comes the other way through the first queue, as
// messages, because every thread of Python may speak here.
func (p *python) relayed(b []byte) (n int) {
	if p.ended {
		return 0
	}
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(p.lanes[0].queue), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
		uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(r)
}

// ask has the main thread answer with kindHere. False says that the queue is
// full of questions.
func (p *python) ask(flags byte) bool {
	f := frame{kind: kindAsk, flags: flags}
	return unix.Sendto(p.lanes[0].queue, f.append(nil), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) == nil
}

// end tells Python that no request will come: it runs its exit handlers and
// leaves.
func (p *python) end() {
	if p.ended {
		return
	}
	p.ended = true
	for _, l := range p.lanes {
		unix.Close(l.queue)
		l.queue = -1
	}
}

// stacks is what faulthandler has written since the last call, at most 64 KB of
// it.
func (p *python) stacks() string {
	b, err := readFile(p.trace, p.traced+64<<10)
	if err != nil || len(b) < p.traced {
		return ""
	}
	b = b[p.traced:]
	p.traced += len(b)
	return string(b)
}
