package main

// Lanes, the application's Python process they lead into, and the gateways (WSGI, ASGI).
//
// A lane joins a worker to one thread of its Python. Requests wait for that thread as
// messages in a socket, the queue; responses, and request bodies that are too long for a
// message, go over the wire (wire.go).
//
// The queue is a SOCK_SEQPACKET pair of which the worker keeps both ends. The kernel gives
// each message to one receiver: a request that Python has received has begun, and a
// request that Python has not received can be received back by the worker and be served
// elsewhere. So a request that was written ahead is never lost, never stuck behind a slow
// request, and never executed twice.
//
// Every request has a number, which each of its frames repeats, so that a faulty frame
// ends at most that request (wrongFrame).
//
// There are two kinds of lane. A WSGI lane runs one request after another, and further
// requests wait in its queue (queueLane, here); the only lane of an ASGI application
// carries all requests at once (streamLane, asgi.go). All other differences between WSGI
// and ASGI are in their gateways.
//
// The first lane comes with the process and belongs to its main thread. In a sync worker
// the main thread runs the requests. With threads or greenlets the main thread runs none:
// it opens the other lanes, one for each thread, as they are needed, and answers when the
// worker asks whether the process is alive.

import (
	"cmp"
	"embed"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Python half, in python/: wsgi.py runs first, and imports the other files as needed.
//
//go:embed python/*.py
var pythonFiles embed.FS

const (
	queueMax = 1 << 17   // bytes of the longest message in a queue: room for a head and 64 KB of body
	depthMax = 32        // requests that one lane may hold, the running one included
	wireRoom = 256 << 10 // bytes read from the wire at once, and the size of a pipe
	alikeMax = 4 << 10   // longest part of an environ that Python keeps for the client's next request
	metaMax  = 4 << 20   // bytes of status and headers in a response: far more than any client accepts
)

// moment is how long a request may keep others waiting in a worker before those are served
// by another worker, and how much work may be written ahead. It is many times what a
// transfer to another worker takes, and too short for a client to notice.
const moment = 2 * time.Millisecond

// brief bounds calls that are worth running in one thread, one after another: several
// threads would spend a good part of so short a call on handing the interpreter's lock to
// each other.
const brief = moment / 16

// python is the process in which the application runs.
type python struct {
	pid   int // pid of the process, 0 until the template process has reported it
	fate  int // socket on which the template process reports the pid and later the exit status; -1 without a template
	trace int // memfd into which faulthandler writes stacks

	shared
	gateway *gateway
	lanes   []*lane // the first lane is the main thread's
	own     bool    // a class of the user's serves clients, and this worker only looks after the process
	threads bool    // the main thread runs no requests, but opens lanes for threads that do
	batches bool    // Python takes messages of several requests
	most    int     // requests that may run at once
	busy    []*lane // lanes with requests in flight

	starting bool // the application is imported, and its start-up has begun
	ready    bool
	eof      bool     // Python has closed the wire of a lane
	closed   bool     // the worker has given this Python up: nothing more is sent to it or believed
	failure  *failure // how this Python will be given up at the end of the turn, nil if it will not
	ended    bool     // Python has been told that no further request will come
	traced   int      // bytes of trace that have been logged
	records  bool     // the application has changed the access log's loggers, so that Python makes all its lines

	gone     bool   // the process has ended
	orphaned bool   // the template process has ended: nobody will report how this process ends
	killAt   int64  // when to kill the process, 0 for never
	hung     string // the requests that ran when this Python was given up
	ran      string // the requests that ran, for the log line with the stacks; only if requests have ids
	askedAt  int64  // when the main thread was asked whether it is alive, 0 once it has answered

	beat    uint32 // with own: the last word that the class has written by notify()
	counted uint32 // with own: the requests that are in the scoreboard
	heardAt int64  // with own: when the last word from notify() came

	number uint32 // number of the newest request
	pace   int64  // how long recent calls took: nanoseconds, smoothed
}

// lane is the worker's end of a lane, and so stands for one thread of Python.
type lane struct {
	wire
	laneKind
	python *python
	index  int
	queue  int  // the worker's end of the queue
	back   int  // a copy of Python's end of the queue, from which requests that Python has not begun are taken back
	lost   bool // the lane's thread has run into a limit and serves nobody any more

	begun    int64    // start of the oldest request
	patience int64    // start of the oldest request, or the last time when Python was seen not to have begun the request
	stalled  bool     // the oldest request has run for more than a moment
	halted   int64    // when Python was told to leave the rest of its message (halt); 0 if no such word is under way
	lines    [][]byte // of the first lane: RECORD frames that wait for room in the queue, or were taken back together with requests
	client   passage  // how long the running request has waited for its client
	choked   *turn    // the turn whose client is slow: the wire is not read until that client has taken enough
	owner    *turn    // the turn that the frame at hand is about, nil for none
}

// laneKind has the functions in which the two kinds of lane differ.
type laneKind interface {
	load() int                // requests in the queue and running
	room() int                // requests that the next message may contain
	sent(b []*turn, at int64) // notes that the requests of b have been written into the queue
	takeBack() []*turn        // receives back the requests that Python has not begun, oldest first
	settle(now int64) bool    // has Python begin no further request of its message; false while Python may not know yet
	clear()                   // forgets all requests

	whose(number uint32) (t *turn, ok bool) // the request that a frame is about: nil if that request is over, false if the number was never given
	inPython() []*turn                      // requests that Python has, oldest first
	eldest() *turn                          // the request that has run for longest, nil for none

	slack(now int64) time.Duration // how long the worker may sleep through events while this lane alone is busy, 0 for not at all
	due() int64                    // when to call stall, 0 for never
	stall(w *worker)               // acts on a lane that has not moved: requests that wait for it go elsewhere
	hurry(w *worker, t *turn) bool // enforces a request's time limits, once a second; false if nothing was due

	heard(now int64)                            // notes that a frame has come from Python
	demand(t *turn, n int) bool                 // notes that Python asks for n bytes of the body; false if Python may not ask now
	met(t *turn, n int)                         // notes that Python has been sent n bytes of the body
	answer(w *worker, f frame, payload []byte)  // sends Python a frame
	roomFor(t *turn) bool                       // reports whether the wire has room for more of the request; if not, feed is called once it has
	hold(w *worker, t *turn)                    // keeps a slow client's response from filling memory
	clientTook(w *worker, t *turn)              // notes that the client has taken some of the response
	clientLeft(w *worker, t *turn)              // tells the application, if possible, that the client has left
	refuse(w *worker, t *turn, why *badRequest) // answers a request that Python still works on
	unwanted(w *worker, f frame)                // handles a frame about a request that is over
	over(w *worker, t *turn)                    // notes that the response is complete
}

// gateway describes an interface between server and application, WSGI or ASGI, where the
// two differ.
type gateway struct {
	name    string
	kind    func(l *lane) laneKind              // makes the kind of a lane
	pick    func(p *python) (*lane, error)      // chooses the lane for the next request; nil for none
	running func(p *python) int                 // counts the running requests
	environ func(*worker, *turn, []byte) []byte // appends the environ or scope of a request
	greet   func(*worker, *turn) bool           // handles a request to change the protocol; nil leaves such requests to the application
	ready   func(*worker)                       // logs that the application is loaded; nil for no log line

	early       bool // a request starts before its body has arrived
	mounts      bool // SCRIPT_NAME is the start of each path, and is taken off
	halves      bool // a part of the environ is the same for the client's next request
	octets      bool // names and values of response headers may be bytes
	overrides   bool // the application's own Server, Date and "Connection: close" are used
	dropsHead   bool // a body in answer to HEAD is usual: the server drops the body silently
	watches     bool // the application is told at once when its client leaves
	cancels     bool // each request has its own time limit, and can be ended alone
	answers     bool // the main thread answers questions while requests run
	stays       bool // a connection may stay for hours, with a request running all the time
	discardable int  // unread bytes of a request's body that may be discarded to keep the connection
	crowd       int  // running requests from which on Python takes requests in batches, 0 for never
}

// wsgi is the gateway of PEP 3333.
var wsgi = gateway{
	name:        "WSGI",
	kind:        func(l *lane) laneKind { return &queueLane{lane: l} },
	pick:        (*python).pickQueue,
	running:     func(p *python) int { return len(p.busy) },
	environ:     (*worker).environ,
	halves:      true,
	mounts:      true,
	discardable: discardMax,
}

// bootstrap runs the Python half from the bridge file on descriptor 3, which holds the
// index's length in four bytes, the index as marshal, the sources, and some of them as compiled
// by one version of Python. Compiling takes 10 ms and 2 MB, so the arbiter does it once,
// and a worker's Python compiles the source only if its version differs by now. bootstrap
// reads no more of the file than it needs: a large block that is freed again would change
// how malloc treats the application's blocks. wsgi.py becomes the module _gunicorn.wsgi,
// and imports the other files through a finder of its own.
const bootstrap = `import marshal, os, sys
def load(name):
    size = int.from_bytes(os.pread(3, 4, 0), 'little')
    version, index = marshal.loads(os.pread(3, size, 4))
    if version == sys.version and name + 'c' in index:
        at, n = index[name + 'c']
        return marshal.loads(os.pread(3, n, 4 + size + at))
    at, n = index[name]
    text = os.pread(3, n, 4 + size + at)
    return compile(text, '<gunicorn ' + name + '>', 'exec') if name.endswith('.py') else marshal.loads(text)
package, main = type(sys)('_gunicorn'), type(sys)('_gunicorn.wsgi')
package.__path__, package.wsgi, main.load = [], main, load
sys.modules['_gunicorn'], sys.modules['_gunicorn.wsgi'] = package, main
exec(load('wsgi.py'), main.__dict__)
main.start(sys.argv[1])`

// sources is a marshal dict of the Python files by name, and of the table of settings.
func sources() []byte {
	files := map[string]any{"settings": settingsTable()}
	list, _ := pythonFiles.ReadDir("python")
	for _, f := range list {
		files[f.Name()], _ = pythonFiles.ReadFile("python/" + f.Name())
	}
	return appendMarshal(nil, files)
}

// startPython runs wsgi.py in the given role, with files from descriptor 4 on, and returns
// the pid. Python never runs in isolated mode (-I): programs that patch an application
// through PYTHONPATH must work.
func startPython(python string, bridge *os.File, role string, env []string, files ...int) (int, error) {
	attr := &syscall.ProcAttr{
		Env:   env,
		Files: []uintptr{0, 1, 2, bridge.Fd()},
		// A Python must not outlive the process that started it. The kernel
		// sends this signal when the thread that forked ends, and Go's
		// threads end with the process.
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

// lanesMax bounds the lanes of one Python: each lane has four shared words and takes five
// descriptors, counted in both processes.
const lanesMax = 4096

// openPython starts the Python of a worker's application. The template process forks it if
// fork is the socket of a template; if fork is -1, the Python is started afresh.
// A class of the user's gets the listeners.
func openPython(c *config, bridge *os.File, env []string, fork int, listeners []listener) (p *python, err error) {
	family := c.family()
	p = &python{fate: -1, own: family == familyOwn, threads: family != familySync && family != familyASGI && family != familyOwn,
		most: c.concurrency()}
	p.batches = family != familyGevent && family != familyEventlet // lanes that are greenlets share a buffer
	p.gateway = &wsgi
	if family == familyASGI {
		p.gateway = &asgi
	}
	rings := 0
	switch {
	case p.batches && p.threads:
		rings = min(1+p.most, ringsMax)
	case p.batches:
		rings = 1
	}
	var page int
	if p.shared, page, err = openShared(p.gateway == &wsgi && !p.own, rings); err != nil {
		return nil, err
	}
	defer unix.Close(page)
	first, far, err := p.newLane()
	if err != nil {
		return nil, err
	}
	defer unix.Close(far)
	if p.trace, err = memfd("trace", nil); err != nil {
		return nil, err
	}
	if fork >= 0 {
		p.fate = fork
		files := []int{first.back, far, p.trace, page}
		for _, l := range listeners {
			if p.own {
				files = append(files, l.fd)
			}
		}
		err = askFork(fork, files...)
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

// newLane makes a lane's sockets. The caller has to pass far, Python's end of the wire, to
// Python, and to close far then.
func (p *python) newLane() (l *lane, far int, err error) {
	l = &lane{python: p, index: len(p.lanes), wire: wire{pipe: -1, passed: -1, file: -1}}
	l.laneKind, l.ring = p.gateway.kind(l), p.shared.ring(l.index)
	if l.queue, l.back, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return nil, -1, err
	}
	if l.fd, far, err = socketpair(unix.SOCK_STREAM); err != nil {
		unix.Close(l.queue)
		unix.Close(l.back)
		return nil, -1, err
	}
	// The kernel may grant less than this; then fewer requests are written ahead.
	_ = unix.SetsockoptInt(l.queue, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	_ = unix.SetsockoptInt(far, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	if err = unix.SetNonblock(l.fd, true); err != nil {
		return nil, -1, os.NewSyscallError("fcntl", err)
	}
	p.lanes = append(p.lanes, l)
	return l, far, nil
}

// openLane has Python start one more thread. The new lane's queue can be written to at
// once: requests wait there until the thread runs.
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

// takes reports whether Python takes further requests. One that has closed a wire is dying,
// even before its death is reported. One that has ended was told that no request will come.
func (p *python) takes() bool { return p.ready && !p.closed && !p.eof && !p.ended }

// pick returns the lane for the next request, nil for none.
func (p *python) pick() (*lane, error) {
	if !p.takes() {
		return nil, nil
	}
	return p.gateway.pick(p)
}

// pickQueue returns an idle lane, or a new lane, or a lane that will soon be idle.
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
	for _, l := range p.lanes {
		if l.load() == 0 && !l.lost && (l.index > 0 || !p.threads) {
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

// eldest is the request that has run for longest, nil if none runs.
func (p *python) eldest() *turn {
	if len(p.busy) == 0 {
		return nil
	}
	return slices.MinFunc(p.busy, func(a, b *lane) int { return cmp.Compare(a.begun, b.begun) }).eldest()
}

// idle is how many further requests could run, in lanes that are open or can be opened.
func (p *python) idle() int {
	if p.lanes[0].stalled {
		return 0
	}
	return p.most - p.running()
}

// running is how many requests run. ASGI's count includes requests that Python has not yet
// received.
func (p *python) running() int { return p.gateway.running(p) }

// stuck reports whether all lanes are open, and each runs a request that has taken longer
// than a moment.
func (p *python) stuck() bool {
	return p.idle() <= 0 && !slices.ContainsFunc(p.busy, func(l *lane) bool { return !l.stalled })
}

// logFile is fd if the log at path is a file, -1 otherwise.
func logFile(path string, fd int) int {
	if path == "" || path == "-" {
		return -1
	}
	return fd
}

// brief reports whether recent calls took less than moment/16.
func (p *python) brief() bool { return p.pace > 0 && p.pace < int64(brief) }

// depth is how many requests a lane may hold: as many as finish within a moment at the
// recent pace, and at least one.
func (p *python) depth() int {
	if p.pace == 0 {
		return 1
	}
	return max(1, min(depthMax, int(int64(moment)/p.pace)))
}

// send writes one message into the queue: false if the queue has no room now. The message
// has the requests of batch; body is its second part.
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

// queued is the number of the first request in the queue, false if the queue is empty.
func (l *lane) queued() (number uint32, ok bool) {
	var head [frameHeader]byte
	n := recv(l.back, head[:], unix.MSG_PEEK)
	return readFrame(head[:]).number, n == frameHeader
}

// recv receives a message, cut to the length of b: 0 if there is none.
func recv(fd int, b []byte, flags uintptr) int {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), flags|unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n)
		}
		if errno != unix.EINTR {
			return 0
		}
	}
}

// retake receives a message that Python has not received, cut to the length of b: 0 if there
// is none. RECORD frames are put aside in lines.
func (l *lane) retake(b []byte) int {
	for {
		n := recv(l.back, b, 0)
		if n < frameHeader || readFrame(b).kind != kindRecord {
			return n
		}
		l.lines = append(l.lines, slices.Clone(b[:n]))
	}
}

// rest takes a lane off the list of busy lanes if no request is in flight there.
func (l *lane) rest() {
	p := l.python
	if i := slices.Index(p.busy, l); i >= 0 && l.load() == 0 {
		p.busy = slices.Delete(p.busy, i, i+1)
		l.stalled = false
	}
}

// ran is for how long the oldest request has run, without the time in which the lane waited
// for the client.
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

// flush writes frames that have waited for room on the wire.
func (l *lane) flush() {
	if !l.python.closed && !l.lost {
		l.wire.flush()
	}
}

// Lanes of WSGI --------------------------------------------------------------

// queueLane runs one request after another.
type queueLane struct {
	lane   *lane
	flight []*turn // requests written to the queue and not yet answered, oldest first
	long   bool    // the last response had a body longer than smallMax
}

func (q *queueLane) load() int { return len(q.flight) }

// room is one unless calls are brief: where several lanes run at a time, each request should
// go to the lane that is free first.
func (q *queueLane) room() int {
	if p := q.lane.python; p.batches && p.brief() {
		return p.depth() - len(q.flight)
	}
	return 1
}

func (q *queueLane) sent(batch []*turn, _ int64) {
	for _, t := range batch {
		t.message = batch[0].number
	}
	q.flight = append(q.flight, batch...)
}

func (q *queueLane) clear()            { q.flight, q.lane.halted = nil, 0 }
func (q *queueLane) inPython() []*turn { return slices.Clone(q.flight) }

// eldest is the oldest request in flight, nil for none. Python may not have begun it: a
// caller to whom the difference matters takes the queue's requests back first.
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

// takeBack reads only the head of each message and discards the rest: the turns still have
// everything that the message was made of. Only RECORD frames are read whole.
func (q *queueLane) takeBack() []*turn {
	back := q.leftOver()
	size := frameHeader
	if q.lane.python.records {
		size = queueMax
	}
	for b := make([]byte, size); q.lane.retake(b) > 0; {
		message := readFrame(b).number
		back = append(back, q.retrieve(func(t *turn) bool { return t.message == message })...)
	}
	return back
}

// retrieve takes those requests off the flight for which unbegun is true.
func (q *queueLane) retrieve(unbegun func(t *turn) bool) (back []*turn) {
	q.flight = slices.DeleteFunc(q.flight, func(t *turn) bool {
		if !unbegun(t) {
			return false
		}
		t.lane = nil
		back = append(back, t)
		return true
	})
	q.lane.rest()
	return back
}

// settled is the time after which every process sees a word written to shared memory. A
// processor's store buffer empties within microseconds, and a process that stops running
// has its stores flushed by the kernel: 1 ms is ample.
const settled = moment / 2

// halt tells Python to leave the requests of the present message that it has not begun.
func (q *queueLane) halt(now int64) {
	if len(q.flight) > 1 && q.flight[1].message == q.flight[0].message {
		q.lane.python.halts[q.lane.index].Store(q.flight[1].number)
		q.lane.halted = now
	}
}

// leftOver takes the requests that Python has received and will not begin: the requests that a
// dead Python has not announced in begun, or that a living one leaves because of halt, once
// the word has settled. Either Python reads the word before it begins the next request, or
// we read in begun that Python has begun that request (Dekker's algorithm, with time in
// place of fences). If Python has begun the next request, any requests that it then leaves
// are reported by a LEFT frame.
func (q *queueLane) leftOver() []*turn {
	l := q.lane
	begun, halted := l.python.begun[l.index].Load(), l.halted != 0
	switch l.halted = 0; {
	case l.python.gone:
		return q.retrieve(func(t *turn) bool { return int32(t.number-begun) > 0 })
	case !halted || slices.ContainsFunc(q.flight[1:], func(t *turn) bool { return t.number == begun }):
		return nil
	}
	first := q.flight[0]
	return q.retrieve(func(t *turn) bool { return t.message == first.message && t != first })
}

func (q *queueLane) settle(now int64) bool {
	l := q.lane
	if l.halted == 0 && !l.python.gone {
		q.halt(now)
	}
	return l.halted == 0 || l.python.gone || now-l.halted >= int64(settled)
}

func (q *queueLane) due() int64 {
	switch {
	case q.lane.halted != 0:
		return q.lane.halted + int64(settled)
	case q.lane.stalled:
		return 0
	}
	return q.lane.patience + int64(moment)
}

// napMax is how long the worker sleeps through events at a time. Python's answers and the
// clients' next requests gather meanwhile. Without the nap each of them would wake the
// worker, and waking costs the worker as well as the process that wakes it. With Flask
// and 32 connections naps save a quarter of the processor time of a request, and more where
// several workers share the processors: a worker that wakes there interrupts a Python.
const (
	napMax   = 300 * time.Microsecond
	napPace  = 40 * time.Microsecond // calls shorter than this bring answers in batches by themselves
	smallMax = 16 << 10              // dozens of responses of this length find room in a pipe
)

// slack allows a nap where nobody loses by it: Python has work for several naps, and no
// other thread could run a request that comes meanwhile; the oldest request needs nothing
// more from the worker; and its answer would be late by at most a tenth of the time that
// it has taken. Python must find neither its pipe full nor its queue empty, so there is
// no nap after a long response, or while a request has a long body outside of shared
// memory.
func (q *queueLane) slack(now int64) time.Duration {
	p := q.lane.python
	if int64(q.load())*p.pace < int64(moment)/2 || q.long || p.pace < int64(napPace) || p.most > 1 && !p.brief() {
		return 0
	}
	for _, t := range q.flight {
		if t.started || t.owed != owesNothing || len(t.body) > smallMax && t.store != inShared {
			return 0
		}
	}
	return min(napMax, time.Duration(now-q.flight[0].since)/10)
}

// stall is called when a request has run for more than a moment: the requests that wait
// behind it are given to other workers.
func (q *queueLane) stall(w *worker) {
	l := q.lane
	if l.halted != 0 {
		w.giveBack(l)
		return
	}
	if number, ok := l.queued(); ok && number == q.flight[0].number {
		// Python has not received the oldest request: it has had no processor time. The
		// machine is busy, and other workers would fare no better.
		l.patience = w.now
		return
	}
	l.stalled = true
	if w.alone && w.python.most == 1 && w.cfg.queueTimeout == 0 {
		return
	}
	w.giveBack(l)
	q.halt(w.now)
}

// hurry ends a request whose client has kept the lane waiting for too long.
func (q *queueLane) hurry(w *worker, t *turn) bool {
	if t != q.eldest() || !q.lane.client.late(w.now, w.clientLimit()) {
		return false
	}
	w.tooSlow(t)
	return true
}

func (q *queueLane) heard(int64) {}

// demand refuses a second demand before the first is met.
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

// hold stops reading the wire while the client has more than enough to take.
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

// clientLeft does nothing: the thread reads in the shared words, at its next block, that the
// client has left.
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
		w.complete(t)
	}
}

// unwanted answers a thread that asks for a body or a socket, and would wait for ever.
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
		// A thread of the application's still waits for the body, or a timeout
		// of the application's has interrupted the wait.
		q.answer(w, frame{number: t.number, meta: tooLate, kind: kindBody, flags: flagBroken}, nil)
	}
	q.long = t.sent > smallMax
	took := w.now - l.begun
	if p := l.python; p.pace == 0 {
		p.pace = max(took, 1)
	} else {
		p.pace = max(p.pace+(took-p.pace)/8, 1)
	}
	l.begun, l.patience, l.stalled, l.halted, l.client = w.now, w.now, false, 0, passage{}
	n := copy(q.flight, q.flight[1:])
	q.flight[n] = nil
	q.flight = q.flight[:n]
	l.rest()
}

// ask requests a HERE frame from the main thread. The result is false if the queue is full
// of unanswered questions.
func (p *python) ask(flags byte) bool {
	f := frame{kind: kindAsk, flags: flags}
	return unix.Sendto(p.lanes[0].queue, f.append(nil), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) == nil
}

// end tells Python that no further request will come, upon which Python runs its exit
// handlers and ends.
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

// stacks returns what faulthandler has written since the last call, at most 64 KB.
func (p *python) stacks() string {
	b, err := readFile(p.trace, p.traced+64<<10)
	if err != nil || len(b) < p.traced {
		return ""
	}
	b = b[p.traced:]
	p.traced += len(b)
	return string(b)
}
