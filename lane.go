package main

// A lane joins a worker to one thread of its Python. Requests wait for that
// thread as messages in a socket, the queue; what belongs to the request that
// runs, its response and the rest of its body, goes over another, the wire.
// Python may make a pipe and pass its end for reading: from then on its frames
// come there, which takes less time, and over the wire only what is long.
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
// that has never been, mean that this Python is out of step: nothing that it says
// after that reaches anybody.
//
// The first lane comes with the process and belongs to its main thread. In sync
// that one runs the requests. With threads or greenlets it runs none: it opens
// the other lanes, one a thread, when they are needed, and says that it lives.

import (
	"embed"
	"encoding/binary"
	"errors"
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

// The frame header: length of the payload, request number, bytes of marshal at
// the front of the payload, kind, flags, two bytes of nothing; in a request,
// how much of its marshal is what the next one will probably begin with, too.
const frameHeader = 16

const (
	kindRequest  = 1 + iota // environ, body
	kindIndirect            // the environ is too long for a message: it is asked for
	kindBody                // an answer to kindRead
	kindOpen                // a lane, its number; the descriptors come along
	kindAsk                 // whether the main thread runs: it answers at once
	kindLent                // an answer to kindSocket; a descriptor comes along
)

const (
	kindReady    = 8 + iota // the application is loaded
	kindResponse            // status and headers, body
	kindBlock               // more body
	kindFile                // status and headers, offset, length; a descriptor comes along
	kindFailed              // no more will come; the traceback is logged
	kindRead                // wants so many bytes of body
	kindHints               // headers of a 103
	kindWatch               // files that the application consists of, for reload
	kindRetire              // a worker hook's wish that this worker leave
	kindFields              // headers that a hook has added to the request, for the access log
	kindHere                // the answer to kindAsk
	kindSocket              // wants the client's socket
	kindPipe                // will speak there from now on; a descriptor comes along
	kindLeft                // has left this request and those behind it in its message
)

const (
	flagLast   = 1 << iota // of this body
	flagMore               // of the body is to be asked for
	flagBroken             // the body will never be complete
	flagQuiet              // the application wants the connection closed, and no error
	flagClose              // no keep-alive after this response
	flagStacks             // write every thread's stack before the answer
	flagTaken              // the client's socket is the application's now
	flagPumped             // and is not itself what comes along
)

const (
	queueMax = 1 << 17   // bytes of the longest message in a queue: 64 KB of body fit, with their head
	depthMax = 32        // requests in a queue and running
	wireRoom = 256 << 10 // bytes taken off the wire at once, and in a pipe
	alikeMax = 4 << 10   // bytes of an environ that Python keeps for the next
	metaMax  = 4 << 20   // bytes of status and headers: far above any client's limit
)

// flagApart is of responses and blocks in a pipe: the body comes over the wire,
// whose buffers are better at it.
const flagApart = flagMore

// moment is how long a request may keep others waiting in a worker before they
// are served elsewhere, and how much work is written ahead.
const moment = 2 * time.Millisecond

// brief calls are all run by one thread, one after another: several would spend
// their time on handing the interpreter's lock to each other.
const brief = moment / 16

// errOutOfStep ends a Python, with all that it runs.
var errOutOfStep = errors.New("out of step")

// wrongFrame ends one request: the reason is for the log.
type wrongFrame string

func (e wrongFrame) Error() string { return string(e) }

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

	lanes   []*lane // the first is the main thread's
	threads bool    // which runs no requests, but opens the other lanes
	batches bool    // it takes messages of several requests
	most    int     // how many lanes may run requests
	busy    []*lane // those with requests in flight

	ready  bool
	eof    bool // it has closed a wire
	closed bool // given up: nothing more is sent or believed
	broken bool // out of step: dispatch gives it up
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

// lane is one thread of it.
type lane struct {
	python *python
	index  int
	queue  int // the worker's end
	back   int // Python's end, kept to take back what has not begun
	wire   int
	pipe   int    // where Python's frames come, -1 for over the wire
	lost   bool   // its thread has run into a limit and serves nobody any more
	events uint32 // that the wire is watched for

	flight []*turn // written and not answered, oldest first
	// streams takes the place of flight where one lane carries many requests
	// (asgi.go): by their numbers, nil for one that is over for its client and
	// not yet for Python.
	streams map[uint32]*turn
	unread  []uint32 // those that Python may not have received, in order
	thirsty []*turn  // those that wait for room on the wire
	begun   int64    // when the oldest of them began
	// patience is when the oldest began, or was last seen not to have.
	patience int64
	stalled  bool    // it has run for more than a moment
	halted   int64   // when its word of halts was written, 0 when there is nothing to wait for
	client   passage // how long the running request has waited for its client
	choked   *turn   // its client is slow: the wire is not read until it has taken enough

	in       []byte // off the wire: in[at:] is not yet handled
	at       int
	frame    frame // whose body is coming
	owner    *turn // and whose that is; nil for nobody's
	bodyLeft int
	skip     int // bytes of marshal before that, which is too long to be read
	need     int // bytes that the next frame's head and marshal lack
	taken    int // how often something was, off the wire beside a pipe
	passed   int // a descriptor whose frame is still to come, -1 for none
	file     int // and the running frame's
	out      []byte
}

// frame is one header.
type frame struct {
	length, number, meta uint32
	kind, flags          byte
}

func (f frame) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, f.length)
	b = binary.LittleEndian.AppendUint32(b, f.number)
	b = binary.LittleEndian.AppendUint32(b, f.meta)
	return append(b, f.kind, f.flags, 0, 0)
}

func readFrame(b []byte) frame {
	return frame{
		length: binary.LittleEndian.Uint32(b),
		number: binary.LittleEndian.Uint32(b[4:]),
		meta:   binary.LittleEndian.Uint32(b[8:]),
		kind:   b[12],
		flags:  b[13],
	}
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
	first, far, err := p.newLane()
	if err != nil {
		return nil, err
	}
	if family == familyASGI {
		first.streams = map[uint32]*turn{}
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
	l = &lane{python: p, index: len(p.lanes), pipe: -1, passed: -1, file: -1}
	if l.queue, l.back, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return nil, -1, err
	}
	if l.wire, far, err = socketpair(unix.SOCK_STREAM); err != nil {
		unix.Close(l.queue)
		unix.Close(l.back)
		return nil, -1, err
	}
	// As much as the kernel lets anyone have: a full queue only means that
	// fewer requests are written ahead.
	_ = unix.SetsockoptInt(l.queue, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	_ = unix.SetsockoptInt(far, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	if err = unix.SetNonblock(l.wire, true); err != nil {
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
		for _, fd := range []int{l.queue, l.back, l.wire} {
			unix.Close(fd)
		}
		return nil, os.NewSyscallError("sendmsg", err)
	}
	return l, nil
}

// pick returns the lane for the next request, nil for none: one that is idle, or
// one more, or one that will soon be idle.
func (p *python) pick() (*lane, error) {
	if !p.ready || p.closed || p.eof {
		return nil, nil
	}
	if l := p.lanes[0]; l.streams != nil {
		if l.stalled || p.idle() == 0 {
			return nil, nil
		}
		return l, nil
	}
	depth := p.depth()
	if p.brief() {
		for _, l := range p.busy {
			if l.stalled {
				continue
			}
			if len(l.flight) < depth {
				return l, nil
			}
			return nil, nil
		}
	}
	for _, l := range p.serving() {
		if len(l.flight) == 0 && !l.lost {
			return l, nil
		}
	}
	if p.threads && len(p.lanes) <= p.most {
		return p.openLane()
	}
	var shortest *lane
	for _, l := range p.busy {
		if !l.stalled && len(l.flight) < depth && (shortest == nil || len(l.flight) < len(shortest.flight)) {
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

// idle is how many lanes run nothing, those included that are not yet open.
func (p *python) idle() int {
	if p.lanes[0].stalled && p.lanes[0].streams != nil {
		return 0
	}
	return p.most - p.running()
}

// running is how many requests run, or are about to where they cannot be told
// apart.
func (p *python) running() int {
	if l := p.lanes[0]; l.streams != nil {
		return len(l.streams)
	}
	return len(p.busy)
}

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

// due is when a lane has to be looked at, 0 for never: its oldest request has
// run for a moment then, or the first that waits has waited for too long.
func (l *lane) due() int64 {
	switch {
	case l.halted != 0:
		return l.halted + int64(settled)
	case l.stalled:
		return 0
	case l.streams == nil:
		return l.patience + int64(moment)
	case len(l.unread) > 0:
		return l.patience + int64(blockedAfter)
	}
	return 0
}

// send writes one message, of two parts, into the queue: false when it has no
// room now. It has one request, or several streams'.
func (l *lane) send(batch []*turn, message, body []byte, now int64) (bool, error) {
	switch errno := rawSend(l.queue, message, body); {
	case errno == unix.EAGAIN && len(l.flight)+len(l.unread) > 0:
		return false, nil
	case errno != 0:
		return false, os.NewSyscallError("sendmsg", errno)
	}
	if l.empty() {
		l.begun, l.patience, l.client = now, now, passage{}
		l.python.busy = append(l.python.busy, l)
	}
	if l.streams == nil {
		for _, t := range batch {
			t.message = batch[0].number
		}
		l.flight = append(l.flight, batch...)
		return true, nil
	}
	if len(l.unread) == 0 {
		l.patience = now
	}
	for _, t := range batch {
		l.streams[t.number] = t
		l.unread = append(l.unread, t.number)
	}
	return true, nil
}

// empty says whether no request is there.
func (l *lane) empty() bool { return len(l.flight)+len(l.streams) == 0 }

// headBegun says whether Python has received the oldest request: then it is no
// longer the first message of the queue.
func (l *lane) headBegun() bool {
	number, ok := l.queued()
	return !ok || number != l.flight[0].number
}

// queued is the number of the queue's first message.
func (l *lane) queued() (number uint32, ok bool) {
	var head [frameHeader]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.back), uintptr(unsafe.Pointer(&head[0])),
		frameHeader, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return readFrame(head[:]).number, errno == 0 && n >= frameHeader
}

// takeBack receives the requests that Python has not received, and returns their
// connections, oldest first.
func (l *lane) takeBack() (back []*turn) {
	// The rest of a message is thrown away: its connections still have what it was
	// made of. Streams are known by their numbers, which are in it.
	message := make([]byte, frameHeader)
	if l.streams != nil {
		message = make([]byte, queueMax)
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.back), uintptr(unsafe.Pointer(&message[0])),
			uintptr(len(message)), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || n < frameHeader {
			l.unread = l.unread[:0]
			return back
		}
		if l.streams == nil {
			back = append(back, l.retrieve(readFrame(message).number)...)
			continue
		}
		for rest := message[:n]; len(rest) >= frameHeader; {
			f := readFrame(rest)
			if t := l.streams[f.number]; t != nil {
				t.lane, t.asked, t.want = nil, false, 0
				back = append(back, t)
			}
			delete(l.streams, f.number)
			if f.kind != kindRequest {
				break
			}
			rest = rest[min(frameHeader+int(f.length), len(rest)):]
		}
		l.rest()
	}
}

// retrieve takes off the flight what came in one message, but for the request
// that runs.
func (l *lane) retrieve(message uint32, running ...*turn) (back []*turn) {
	l.flight = slices.DeleteFunc(l.flight, func(t *turn) bool {
		if t.message != message || slices.Contains(running, t) {
			return false
		}
		t.lane = nil
		back = append(back, t)
		return true
	})
	l.rest()
	return back
}

// settled is after how long everybody sees what somebody has written into shared
// memory. No processor keeps it to itself for that long, and what keeps a process
// from running lets the others see it.
const settled = moment / 2

// halt has Python leave what it has not begun of the message that it is at.
func (l *lane) halt(now int64) {
	if l.streams == nil && len(l.flight) > 1 && l.flight[1].message == l.flight[0].message {
		l.python.halts[l.index].Store(l.flight[1].number)
		l.halted = now
	}
}

// leftOver takes what Python leaves because of halt, once that has settled:
// either Python reads that word before it begins the next request, or we read here
// that it has begun that (Dekker's algorithm, with time in place of fences). In
// the latter case it leaves nothing, or says so itself (kindLeft).
func (l *lane) leftOver() []*turn {
	if l.halted == 0 {
		return nil
	}
	l.halted = 0
	first, begun := l.flight[0], l.python.begun[l.index].Load()
	if slices.ContainsFunc(l.flight[1:], func(t *turn) bool { return t.number == begun }) {
		return nil
	}
	return l.retrieve(first.message, first)
}

// rest takes a lane off the busy ones when nothing is in flight there.
func (l *lane) rest() {
	p := l.python
	if i := slices.Index(p.busy, l); i >= 0 && l.empty() {
		p.busy = slices.Delete(p.busy, i, i+1)
		l.stalled = false
	}
}

// over takes a request off the lane: its response is complete.
func (l *lane) over(number uint32, now int64) {
	if l.streams == nil {
		l.answered(now)
		return
	}
	delete(l.streams, number)
	l.rest()
}

// whose is the connection that a frame is about: nil if its request is over,
// false if there has been none.
func (l *lane) whose(number uint32) (t *turn, ok bool) {
	newest := l.python.number
	if l.streams != nil {
		t, ok = l.streams[number]
		l.received(number)
	} else if t = l.running(); t != nil {
		if t.number == number {
			return t, true
		}
		t, newest = nil, t.number
	}
	return t, ok || int32(number-newest) <= 0
}

// answered takes the oldest request off the flight.
func (l *lane) answered(now int64) {
	took := now - l.begun
	if p := l.python; p.pace == 0 {
		p.pace = max(took, 1)
	} else {
		p.pace = max(p.pace+(took-p.pace)/8, 1)
	}
	l.begun, l.patience, l.stalled, l.halted, l.client = now, now, false, 0, passage{}
	n := copy(l.flight, l.flight[1:])
	l.flight[n] = nil
	l.flight = l.flight[:n]
	l.rest()
}

// ran is for how long the request has run: not while the lane waited for its
// client.
func (l *lane) ran(now int64) time.Duration {
	return time.Duration(now - l.begun - l.client.waited(now))
}

// running is the connection whose request Python has begun, nil for none. What
// is still in the queue has not: the caller takes that back first when the
// difference matters.
func (l *lane) running() *turn {
	if len(l.flight) == 0 {
		return nil
	}
	return l.flight[0]
}

// receive takes what is on the wire into l.in: false when that is all. A
// descriptor that came along is kept in l.passed. It belongs to the last frame that
// begins there, as the kernel does not read on after one; and until that frame is
// there as a whole no more is read, so that no other descriptor comes.
func (l *lane) receive() (more bool, err error) {
	if l.at > 0 {
		n := copy(l.in[:cap(l.in)], l.in[l.at:])
		l.in, l.at = l.in[:n], 0
	}
	if l.full() {
		// Only a frame's head and marshal must be in memory as a whole.
		if cap(l.in) >= 2*metaMax {
			return false, errOutOfStep
		}
		l.in = append(make([]byte, 0, 2*cap(l.in)), l.in...)
	}
	room, passed := l.in[len(l.in):cap(l.in)-l.spare()], -1
	if more = l.passed >= 0 && l.need > 0; more {
		room = room[:min(len(room), l.need)]
	}
	var n int
	var errno syscall.Errno
	if l.pipe < 0 {
		n, passed, errno = rawRecvmsg(l.wire, room)
	} else {
		n, errno = rawRead(l.pipe, room)
	}
	switch {
	case errno == unix.EAGAIN:
		return false, nil
	case errno != 0:
		return false, os.NewSyscallError("recvmsg", errno)
	case n == 0:
		l.python.eof = true
		return false, nil
	}
	if passed != -1 {
		l.keep(passed)
		more = true
	}
	l.in = l.in[:len(l.in)+n]
	return more || l.full(), nil
}

// keep takes note of a descriptor that has come, or was lost.
func (l *lane) keep(passed int) {
	if l.passed >= 0 {
		unix.Close(l.passed)
	}
	l.passed = max(passed, -1)
}

// full says whether there is no room to receive more.
func (l *lane) full() bool { return len(l.in) >= cap(l.in)-l.spare() }

// spare is room that is left for bodies that come apart.
func (l *lane) spare() int {
	if l.pipe < 0 {
		return 0
	}
	return wireRoom / 2
}

// take is the descriptor that has come along, -1 for none. A pipe takes none:
// it comes over the wire with a byte, before its frame comes here.
func (l *lane) take() (fd int) {
	if l.pipe >= 0 && l.passed < 0 {
		var b [1]byte
		if _, passed, errno := rawRecvmsg(l.wire, b[:]); errno == 0 {
			l.keep(passed)
			l.taken++
		}
	}
	fd, l.passed = l.passed, -1
	return fd
}

// openPipe takes the descriptor that has come along for the pipe.
func (l *lane) openPipe() error {
	fd := l.take()
	var st unix.Stat_t
	if fd < 0 || l.pipe >= 0 || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(fd)
		return errOutOfStep
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	// A user may have so many pages in all pipes: what is refused is not needed.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, wireRoom)
	l.pipe = fd
	return nil
}

// next is the next frame's header and marshal once both are in memory; its
// body is then taken by body.
func (l *lane) next() (meta []byte, ok bool, err error) {
	b := l.in[l.at:]
	if l.need = frameHeader - len(b); l.need > 0 {
		return nil, false, nil
	}
	f := readFrame(b)
	if f.meta > f.length || int(f.length) < 0 { // of 32 bits
		return nil, false, errOutOfStep
	}
	n := frameHeader
	switch {
	case f.meta > metaMax-frameHeader:
		l.skip = int(f.meta)
	case (f.kind == kindFile || f.kind == kindRead) && f.length-f.meta <= 16:
		n += int(f.length) // a few bytes more, wanted at once
	default:
		n += int(f.meta)
	}
	if l.need = n - len(b); l.need > 0 {
		return nil, false, nil
	}
	l.frame, l.bodyLeft = f, int(f.length)-(n-frameHeader)-l.skip
	l.at += n
	return b[frameHeader:n], true, nil
}

// last says whether nothing more follows about the request.
func (f frame) last() bool {
	return f.kind == kindFailed || f.flags&flagLast != 0 && f.kind != kindMessage
}

// body takes what has come of the running frame's body; done when that was the
// end of it.
func (l *lane) body() (b []byte, done bool, err error) {
	if l.apart() {
		return l.bodyApart()
	}
	b = l.in[l.at:]
	if len(b) > l.bodyLeft {
		b = b[:l.bodyLeft]
	}
	l.at += len(b)
	l.bodyLeft -= len(b)
	return b, l.bodyLeft == 0, nil
}

// apart says whether the rest of the running frame comes over the wire while
// frames come through a pipe.
func (l *lane) apart() bool {
	return l.bodyLeft > 0 && l.skip == 0 && l.pipe >= 0 && l.frame.flags&flagApart != 0
}

// bodyApart takes what has come of such a body, into the part of the buffer that
// receive leaves free.
func (l *lane) bodyApart() (b []byte, done bool, err error) {
	b = l.in[len(l.in):cap(l.in)]
	n, errno := rawRead(l.wire, b[:min(l.bodyLeft, len(b))])
	switch {
	case errno == unix.EAGAIN:
		return nil, false, nil
	case errno != 0:
		return nil, false, os.NewSyscallError("read", errno)
	case n == 0:
		l.python.eof = true
	}
	l.taken++
	l.bodyLeft -= n
	return b[:n], l.bodyLeft == 0, nil
}

// answer sends an answer to kindRead. What the wire has no room for waits in
// l.out. Python asks for one at a time, so many that wait are its fault.
func (l *lane) answer(f frame, payload []byte) error {
	if len(l.out) > 2*feedMax {
		return errOutOfStep
	}
	var head [frameHeader]byte
	f.length = uint32(len(payload))
	if len(l.out) > 0 {
		l.out = append(f.append(l.out), payload...)
		return nil
	}
	n, errno := rawWritev(l.wire, f.append(head[:0]), payload)
	if errno != 0 && errno != unix.EAGAIN {
		return os.NewSyscallError("writev", errno)
	}
	if n < frameHeader {
		l.out = append(l.out, head[n:]...)
		n = frameHeader
	}
	l.out = append(l.out, payload[n-frameHeader:]...)
	return nil
}

// ready handles an event on the wire or the pipe.
func (l *lane) ready(w *worker, fd int, events uint32) {
	l.flush()
	w.watchWire(l)
	if events&^unix.EPOLLOUT != 0 {
		stray, taken := l.pipe >= 0 && fd == l.wire && unread(fd) > 0, l.taken
		w.replies(l)
		if stray && taken == l.taken {
			w.claim(l)
		}
	}
}

// flush writes what waits in l.out, as far as there is room.
func (l *lane) flush() {
	if len(l.out) == 0 || l.python.closed || l.lost {
		return
	}
	n, errno := rawWrite(l.wire, l.out)
	if errno != 0 && errno != unix.EAGAIN {
		// Python does not read this wire any more: it would be ready for ever.
		l.out = nil
		return
	}
	l.out = append(l.out[:0], l.out[n:]...)
	if len(l.out) == 0 {
		l.out = nil
	}
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
