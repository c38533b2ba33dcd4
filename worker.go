package main

// A worker serves clients: one thread, one epoll instance, non-blocking
// descriptors, no locks. It parses requests, hands complete ones to its Python
// through a lane and drains the responses to the clients at the clients' pace,
// so that neither ever waits for the other beyond fixed buffers. Its Python is
// its own child; when that dies, the clients still get an answer.
//
// A connection is never tied to a worker: what a worker cannot serve soon, or
// will not serve any more, goes to its siblings through the hand-over socket.

import (
	"errors"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits in time that no setting gives yet.
const (
	headLimit   = 30 * time.Second // for a whole head, from its first byte
	bodyLimit   = 30 * time.Second // without a byte of a body
	writeLimit  = 60 * time.Second // without a client taking a byte
	lingerLimit = 2 * time.Second  // for a client to read the last answer
	acceptPause = time.Second      // after running out of descriptors
	killDelay   = time.Second      // from ABRT to KILL of a Python that hangs
)

// Limits in bytes.
const (
	firstRead   = 4 << 10   // most heads fit
	held        = 1 << 20   // of a body, and of a response, for one connection
	heldPressed = 64 << 10  // the same when all connections together hold much
	heldTotal   = 128 << 20 // which is this much
	resumeAt    = 256 << 10 // a response goes on below this
	coalesce    = 64 << 10  // of small blocks for one write
	lingerBytes = 64 << 10  // read and thrown away before closing
	feedMax     = 256 << 10 // of a body in one frame
)

// The words beside the descriptor in an epoll event say what it is.
const (
	onListener = iota
	onHandover
	onClient
	onWire
	onSignal
	onLifeline
)

// States of a connection.
const (
	readingHead = iota // or idle, when no byte of one has come
	readingBody
	waiting  // for a lane
	inLane   // its request is in the queue or runs
	draining // the response is complete and not yet all written
	lingering
)

// conn is one client.
type conn struct {
	fd      int // -1 once closed
	state   uint8
	watched bool // by epoll; edge-triggered, once and for all
	unread  bool // the socket may hold bytes, or an end, not seen yet
	trusted bool
	expires int64 // monotonic, 0 for never; what happens then depends on state
	peer    endpoint
	served  int // requests

	in    []byte   // from the head's first byte on
	tried int      // bytes of in that parse has seen
	head  int      // length of the parsed head
	next  int      // where in in the next request begins
	req   *request // nil while idle

	body     []byte // bytes not yet given to Python are body[fed:]
	fed      int
	ownBody  bool  // body is a buffer of its own, not a part of in
	bodyLeft int64 // to be read from the client
	decoder  *chunkedDecoder
	asked    bool        // Python waits for body
	want     int         // this many bytes at most
	broken   *badRequest // why the body will never be complete
	indirect bool        // Python asks for the environ first

	number  uint32 // of the request in the lane
	begun   int64  // when it was given to the lane
	started bool   // the response's head is made
	refused bool   // what the application still says goes nowhere
	dropped bool   // and was too much for a client, which has its whole response
	keep    bool
	framing framing
	status  []byte
	meta    []byte // of the response, for the access log, when it came in several frames
	sent    int64  // bytes of body from the application
	out     []byte // out[outAt:] waits for the client
	outAt   int
	file    int // descriptor of what comes after out, -1 for none
	fileAt  int64
	fileEnd int64
	tail    string // after the file
	junk    int    // bytes thrown away while lingering
}

type listener struct {
	fd   int
	peer endpoint // of its connections, without the remote half
	tcp  bool
}

type worker struct {
	cfg        *config
	log        *errorLog
	access     *accessLog
	clock      clock
	slot       *slot
	scriptName string
	pid        int
	wake       int // the arbiter's wake pipe

	ep        int
	now       int64 // monotonic, of this turn of the loop
	listeners []listener
	armed     bool
	paused    int64 // accepting is, until then
	giveFD    int   // hand-over, the end for sending
	takeFD    int   // and the end for receiving
	alone     bool  // no siblings: nothing is gained by handing over

	lane    *lane
	waiting []*conn // complete requests, oldest first
	conns   []*conn // by descriptor
	open    int
	pool    pool
	idle    []*request // parsed heads for reuse

	obuf    []byte // what goes to obufFor next
	obufFor *conn
	choked  *conn // its client is slow: the wire is not read until it has taken enough
	resp    response
	text    []byte // latin-1 of headers that are not ASCII
	fbuf    []byte

	stalled    bool
	dispatched int
	maxServed  int // 0 for no limit
	served     uint64

	told       bool  // TERM came
	obeyAt     int64 // and, if nobody says what it means, means this worker alone from then on
	stopping   bool  // takes no more work
	ending     bool  // and so do all siblings
	deadline   int64 // of stopping, once the arbiter is gone
	quitting   bool
	killAt     int64 // when to kill the Python
	pythonGone bool
	hung       string // what was running when the Python was given up
	exit       int
}

// Descriptors a worker starts with, in the order in which spawn hands them
// over.
const (
	fdLifeline  = 3 + iota // read end; EOF means the arbiter is gone
	fdSlot                 // this worker's page of the scoreboard
	fdSettings             // what encode wrote
	fdGive                 // hand-over
	fdTake                 //
	fdWake                 // a byte here makes the arbiter look
	fdListeners            // first listener; the rest follow
)

// runWorker is the whole life of a worker process; it returns the exit status.
func runWorker() int {
	w, err := newWorker()
	if err != nil {
		if w != nil && w.log != nil {
			w.log.errorf("Exception in worker process: %v", err)
		} else {
			fatalf("worker: %v", err)
		}
		return exitBoot
	}
	w.log.infof("Booting worker with pid: %d", w.pid)
	if err := w.boot(); err != nil {
		w.log.errorf("Exception in worker process: %v", err)
		return exitBoot
	}
	w.loop()
	w.access.flush()
	w.log.infof("Worker exiting (pid: %d)", w.pid)
	return w.exit
}

func newWorker() (*worker, error) {
	// Nothing is allocated in the steady state; what little garbage there is
	// should not make a worker twice as large as it must be.
	debug.SetGCPercent(50)
	for fd := fdLifeline; fd < fdListeners; fd++ {
		unix.CloseOnExec(fd)
	}
	raw, err := readFile(fdSettings, 16<<20)
	if err != nil {
		return nil, err
	}
	unix.Close(fdSettings)
	cfg, err := decodeConfig(raw)
	if err != nil {
		return nil, err
	}
	w := &worker{
		cfg:        cfg,
		pid:        os.Getpid(),
		scriptName: os.Getenv("SCRIPT_NAME"),
		giveFD:     fdGive, takeFD: fdTake, wake: fdWake,
		alone:     cfg.workers < 2,
		maxServed: cfg.maxRequests,
	}
	if cfg.maxRequests > 0 && cfg.maxRequestsJitter > 0 {
		w.maxServed += int(uint64(time.Now().UnixNano()^int64(w.pid)*7919) % uint64(cfg.maxRequestsJitter+1))
	}
	if w.log, err = openErrorLog(cfg.errorlog, cfg.loglevel); err != nil {
		return w, err
	}
	if w.access, err = openAccessLog(cfg.accesslog, cfg.accessLogFormat); err != nil {
		return w, err
	}
	if w.slot, err = mapSlot(fdSlot); err != nil {
		return w, err
	}
	w.now = monotonic()
	w.slot.heartbeat.Store(w.now)
	w.clock.refresh()
	if w.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return w, os.NewSyscallError("epoll_create1", err)
	}
	for fd := fdListeners; ; fd++ {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			break
		}
		unix.CloseOnExec(fd)
		w.listeners = append(w.listeners, newListener(fd, sa))
	}
	return w, nil
}

func newListener(fd int, sa unix.Sockaddr) listener {
	l := listener{fd: fd}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		l.tcp = true
		l.peer.serverName = netip.AddrFrom4(sa.Addr).String()
		l.peer.serverPort = strconv.Itoa(sa.Port)
	case *unix.SockaddrInet6:
		l.tcp = true
		l.peer.serverName = netip.AddrFrom16(sa.Addr).String()
		l.peer.serverPort = strconv.Itoa(sa.Port)
	case *unix.SockaddrUnix:
		l.peer.unix = true
		l.peer.serverName = sa.Name
	}
	return l
}

// boot starts the Python and whatever the loop listens to.
func (w *worker) boot() error {
	r, err := w.catchSignals()
	if err != nil {
		return err
	}
	if err := epollAdd(w.ep, r, unix.EPOLLIN, onSignal); err != nil {
		return err
	}
	if err := epollAdd(w.ep, fdLifeline, unix.EPOLLIN|unix.EPOLLRDHUP, onLifeline); err != nil {
		return err
	}
	w.lane, err = openLane(w.cfg, os.Environ())
	if err != nil {
		return err
	}
	w.slot.python.Store(uint64(w.lane.pid))
	return epollAdd(w.ep, w.lane.wire, unix.EPOLLIN, onWire)
}

// catchSignals turns signals into bytes on a pipe and returns its read end.
// ABRT is left to the runtime: it comes when this loop hangs, and the runtime's
// answer, the stack of every goroutine, is what one wants to see then.
func (w *worker) catchSignals() (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	caught := make(chan os.Signal, 16)
	signal.Notify(caught, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCHLD)
	go func() {
		for s := range caught {
			_, _ = unix.Write(p[1], []byte{byte(s.(syscall.Signal))})
		}
	}()
	return p[0], nil
}

// loop runs until the worker has nothing left to do.
func (w *worker) loop() {
	events := make([]unix.EpollEvent, 128)
	nextTick := w.now + int64(time.Second)
	for !w.finished() {
		wait := nextTick - w.now
		if len(w.lane.flight) > 0 && !w.stalled {
			wait = min(wait, w.lane.patience+int64(moment)-w.now)
		}
		if w.obeyAt != 0 && !w.stopping {
			wait = min(wait, w.obeyAt-w.now)
		}
		if w.cfg.timeout > 0 && len(w.lane.flight) > 0 {
			wait = min(wait, w.lane.begun+int64(w.cfg.timeout)-w.now)
		}
		n := epollWait(w.ep, events, time.Duration(max(wait, 0)))
		w.now = monotonic()
		w.clock.refresh()
		for i := range events[:n] {
			w.handle(&events[i])
		}
		w.flushOut()
		if w.told && !w.stopping {
			w.obey()
		}
		if w.now >= nextTick {
			w.tick()
			nextTick = w.now + int64(time.Second)
		}
		if c := w.lane.running(); c != nil && w.cfg.timeout > 0 && w.now-w.lane.begun >= int64(w.cfg.timeout) {
			w.overdue(c)
		}
		if !w.stalled && w.lane.stalled(w.now) {
			w.stall()
		}
		w.dispatch()
		w.arm()
		w.access.flush()
	}
}

func (w *worker) handle(e *unix.EpollEvent) {
	fd := int(e.Fd)
	switch e.Pad {
	case onListener:
		w.accept(fd)
	case onHandover:
		w.takeOver()
	case onClient:
		if c := w.conns[fd]; c != nil {
			w.client(c, e.Events)
		}
	case onWire:
		w.lane.flush()
		w.watchWire()
		if e.Events&^unix.EPOLLOUT != 0 {
			w.replies()
		}
	case onSignal:
		w.signals(fd)
	case onLifeline:
		epollDel(w.ep, fdLifeline)
		w.log.infof("Parent changed, shutting down: <Worker %d>", w.pid)
		w.deadline = w.now + int64(w.cfg.gracefulTimeout)
		w.end()
	}
}

// finished ends a worker that stops: first its Python, then itself.
func (w *worker) finished() bool {
	if w.stopping && w.lane.queue >= 0 && len(w.listeners) == 0 && w.open == 0 && len(w.lane.flight) == 0 &&
		len(w.waiting) == 0 && !(w.ending && !w.lane.closed && !w.pythonGone && readable(w.takeFD)) {
		w.lane.endQueue()
		if w.killAt == 0 {
			w.killAt = w.now + int64(w.cfg.gracefulTimeout)
		}
	}
	return w.pythonGone && (w.quitting || w.lane.queue < 0 || !w.lane.ready)
}

// Signals -------------------------------------------------------------------

func (w *worker) signals(fd int) {
	var b [64]byte
	n, _ := rawRead(fd, b[:])
	for _, s := range b[:n] {
		switch s := syscall.Signal(s); s {
		case unix.SIGTERM:
			w.told = true
			w.obey()
		case unix.SIGHUP, unix.SIGUSR2:
			w.retire() // meant for the arbiter; being replaced does no harm
		case unix.SIGINT, unix.SIGQUIT:
			w.quit()
		case unix.SIGUSR1:
			w.reopen()
		case unix.SIGCHLD:
			w.reap()
		case unix.SIGWINCH:
			w.log.debugf("worker: SIGWINCH ignored.")
		}
	}
}

// groupWait is how long a TERM that is not the arbiter's waits for the
// arbiter's word: a service manager sends it to all processes at once, and then
// nobody will be there to take anything over.
const groupWait = 200 * time.Millisecond

// obey acts on TERM once it is known what is meant.
func (w *worker) obey() {
	switch w.slot.order.Load() {
	case orderDrain, orderLeave:
		w.end()
	case orderRetire:
		w.retire()
	default:
		if w.obeyAt == 0 {
			w.obeyAt = w.now + int64(groupWait)
		} else if w.obeyAt <= w.now {
			w.retire()
		}
	}
}

func (w *worker) reopen() {
	if err := w.log.reopen(); err != nil {
		w.log.errorf("errorlog: %v", err)
	}
	if err := w.access.reopen(); err != nil {
		w.log.errorf("accesslog: %v", err)
	}
	if w.lane.ready && !w.pythonGone {
		_ = unix.Kill(w.lane.pid, unix.SIGUSR1)
	}
}

// retire stops taking work and leaves what has not begun to the siblings, or
// to the worker that replaces this one.
func (w *worker) retire() {
	if w.stopping {
		return
	}
	w.stopping = true
	w.slot.state.Store(stateStopping)
	_, _ = unix.Write(w.wake, []byte{0}) // the arbiter may start the next
	w.disarm()
	w.closeListeners()
	for _, c := range w.waiting {
		w.giveAway(c)
	}
	w.keepWaiting()
	for _, c := range w.conns {
		if c != nil && c.state == readingHead {
			w.giveAway(c)
			if c.fd >= 0 && len(c.in) == 0 {
				w.close(c)
			}
		}
	}
	if !w.lane.ready {
		w.killPython(unix.SIGKILL)
	}
}

// end stops for good, as all workers do: what has been accepted is answered,
// what waits to be accepted too.
func (w *worker) end() {
	if w.ending {
		return
	}
	w.ending, w.stopping = true, true
	w.slot.state.Store(stateStopping)
	if w.slot.order.Load() == orderLeave {
		w.disarm()
		w.closeListeners()
	}
	for _, c := range w.conns {
		switch {
		case c == nil || c.state != readingHead:
		case len(c.in) == 0:
			w.close(c)
		default:
			c.expires = min(c.expires, w.now+int64(lingerLimit))
		}
	}
	if !w.lane.ready {
		w.killPython(unix.SIGKILL)
	}
	w.drainBacklog()
}

// drainBacklog closes each listener once nothing waits in its queue. New
// clients are kept out meanwhile: the arbiter has cut the queue's length.
func (w *worker) drainBacklog() {
	kept := w.listeners[:0]
	for _, l := range w.listeners {
		if w.lane.ready && !w.lane.closed && readable(l.fd) {
			kept = append(kept, l)
			continue
		}
		epollDel(w.ep, l.fd)
		unix.Close(l.fd)
	}
	w.listeners = kept
}

// quit leaves at once, whatever runs.
func (w *worker) quit() {
	w.quitting, w.stopping = true, true
	w.slot.state.Store(stateStopping)
	w.disarm()
	w.closeListeners()
	w.lane.endQueue()
	if len(w.lane.flight) > 0 || !w.lane.ready {
		w.killPython(unix.SIGKILL)
	} else {
		w.killAt = w.now + int64(killDelay)
	}
}

func (w *worker) closeListeners() {
	for _, l := range w.listeners {
		unix.Close(l.fd)
	}
	w.listeners = nil
}

// Accepting -----------------------------------------------------------------

// arm watches the listeners while a request that comes in could be served
// soon, so that new connections go to workers that are free. A worker in the
// middle of a short call stays armed: what it accepts then waits for less than
// the system calls that changing its mind would take, and is handed over if
// that proves wrong.
func (w *worker) arm() {
	if w.ending {
		w.drainBacklog()
	}
	want := w.lane.ready && !w.lane.closed && !w.lane.eof && (!w.stopping || w.ending) && !w.quitting &&
		!w.stalled && len(w.waiting) < depthMax &&
		w.open < w.cfg.workerConnections && w.paused <= w.now &&
		(w.alone || len(w.lane.flight) == 0 || w.lane.pace < int64(moment)/4)
	if want == w.armed {
		return
	}
	if !want {
		w.disarm()
		return
	}
	for _, l := range w.listeners {
		_ = epollAdd(w.ep, l.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, onListener)
	}
	_ = epollAdd(w.ep, w.takeFD, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, onHandover)
	w.armed = true
}

func (w *worker) disarm() {
	if !w.armed {
		return
	}
	for _, l := range w.listeners {
		epollDel(w.ep, l.fd)
	}
	epollDel(w.ep, w.takeFD)
	w.armed = false
}

// acceptAtOnce bounds what one turn of the loop takes, so that siblings get
// their share of a burst.
const acceptAtOnce = 8

func (w *worker) accept(fd int) {
	var l *listener
	for i := range w.listeners {
		if w.listeners[i].fd == fd {
			l = &w.listeners[i]
		}
	}
	for range acceptAtOnce {
		if l == nil || w.open >= w.cfg.workerConnections {
			return
		}
		var sa unix.RawSockaddrAny
		nfd, errno := rawAccept(fd, &sa)
		switch errno {
		case 0:
			w.admit(l, nfd, &sa)
		case unix.EAGAIN:
			return
		default:
			// Out of descriptors or memory: clients wait in the kernel's
			// queue until some of ours have left.
			if w.paused < w.now {
				w.log.errorf("accept: %v; accepting pauses for %v", errno, acceptPause)
			}
			w.paused = w.now + int64(acceptPause)
			return
		}
	}
}

func (w *worker) admit(l *listener, fd int, sa *unix.RawSockaddrAny) {
	peer := l.peer
	trusted := peer.unix
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		addr := netip.AddrFrom4(in.Addr)
		peer.remoteAddr, peer.remotePort = addr.String(), port(in.Port)
		trusted = w.cfg.forwardedAllowIPs.has(addr)
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		addr := netip.AddrFrom16(in.Addr)
		peer.remoteAddr, peer.remotePort = addr.String(), port(in.Port)
		trusted = w.cfg.forwardedAllowIPs.has(addr)
	}
	c := w.add(fd, peer, trusted)
	c.expires = w.now + int64(headLimit)
	w.advance(c)
}

// port turns a port in network order, as the kernel left it, into text.
func port(p uint16) string {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return strconv.Itoa(int(b[0])<<8 | int(b[1]))
}

func (w *worker) add(fd int, peer endpoint, trusted bool) *conn {
	for fd >= len(w.conns) {
		w.conns = append(w.conns, make([]*conn, max(64, fd+1-len(w.conns)))...)
	}
	c := &conn{fd: fd, peer: peer, trusted: trusted, unread: true, file: -1}
	w.conns[fd] = c
	w.open++
	w.slot.connections.Store(uint64(w.open))
	return c
}

// watch puts c under epoll. Both directions once and edge-triggered: no further
// system call is needed however often the connection changes its state.
func (w *worker) watch(c *conn) {
	if c.watched || c.fd < 0 {
		return
	}
	if err := epollAdd(w.ep, c.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, onClient); err != nil {
		w.log.errorf("%v", err)
		w.lost(c)
		return
	}
	c.watched = true
}

// client handles an event on a connection.
func (w *worker) client(c *conn, events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.unread = true
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 && c.state != readingHead && c.state != readingBody {
		w.lost(c)
		return
	}
	if events&unix.EPOLLOUT != 0 && c.pending() {
		w.drain(c)
	}
	if c.fd >= 0 {
		w.advance(c)
	}
}

// Reading -------------------------------------------------------------------

// advance takes c as far as the bytes that are there lead.
func (w *worker) advance(c *conn) {
	for c.fd >= 0 {
		switch c.state {
		case readingHead:
			if len(c.in) > c.tried {
				if !w.parse(c) {
					return
				}
				continue
			}
			if !w.readHead(c) {
				return
			}
		case readingBody:
			if c.bodyLeft == 0 && c.decoder == nil || len(c.body) >= w.holdable() {
				w.enqueue(c)
				return
			}
			if !w.readBody(c) {
				return
			}
		case inLane:
			w.feed(c)
			return
		case lingering:
			w.linger(c)
			return
		default:
			return
		}
	}
}

// receive reads once into the free part of b. n is 0 when nothing is there;
// end says that nothing will come any more.
func (w *worker) receive(c *conn, b []byte) (n int, end bool) {
	if !c.unread {
		return 0, false
	}
	n, errno := rawRead(c.fd, b)
	switch {
	case errno == unix.EAGAIN:
		if c.watched {
			c.unread = false
		} else {
			w.watch(c) // what came in between is an event of its own
			c.unread = false
		}
		return 0, false
	case errno != 0 || n == 0:
		return 0, true
	}
	return n, false
}

func (w *worker) readHead(c *conn) bool {
	if len(c.in) == cap(c.in) {
		c.in = w.pool.grow(c.in, firstRead)
	}
	n, end := w.receive(c, c.in[len(c.in):cap(c.in)])
	if end {
		w.close(c) // silently: there is no request yet
		return false
	}
	if n == 0 {
		if len(c.in) == 0 {
			w.pool.put(c.in)
			c.in = nil
		}
		return false
	}
	if len(c.in) == 0 {
		c.expires = w.now + int64(headLimit)
	}
	c.in = c.in[:len(c.in)+n]
	return true
}

// parse looks at the head: false when the request is refused.
func (w *worker) parse(c *conn) bool {
	if c.req == nil {
		c.req = w.newRequest()
	}
	c.tried = len(c.in)
	n, bad := c.req.parse(c.in, w.cfg, c.trusted)
	if bad == nil && n > 0 {
		bad = c.req.checkScriptName(w.scriptName)
	}
	if bad != nil {
		w.refuse(c, bad)
		return false
	}
	if n == 0 {
		return true
	}
	c.head, c.next = n, n
	c.state = readingBody
	c.expires = w.now + int64(bodyLimit)
	rest := c.in[n:]
	switch {
	case c.req.chunked:
		c.decoder = &chunkedDecoder{}
		if len(rest) > 0 {
			return w.decode(c, rest)
		}
	case c.req.contentLength > 0:
		take := int(min(c.req.contentLength, int64(len(rest))))
		c.body = rest[:take:take]
		c.next = n + take
		c.bodyLeft = c.req.contentLength - int64(take)
	}
	if c.req.expect && len(rest) == 0 && (c.decoder != nil || c.bodyLeft > 0) {
		w.send(c, []byte("HTTP/1.1 100 Continue\r\n\r\n"), nil)
	}
	return c.fd >= 0
}

// readBody reads more of a body; false when nothing more is there now.
func (w *worker) readBody(c *conn) bool {
	if c.decoder != nil {
		buf := w.pool.get(heldPressed)
		defer func() { w.pool.put(buf) }()
		n, end := w.receive(c, buf[:cap(buf)])
		if end {
			w.breakBody(c, newBadRequest(400, "the client left before its request was complete", ""))
			return false
		}
		if n == 0 {
			return false
		}
		c.expires = w.now + int64(bodyLimit)
		return w.decode(c, buf[:n])
	}
	w.makeRoom(c)
	room := c.body[len(c.body):cap(c.body)]
	n, end := w.receive(c, room[:min(int64(len(room)), c.bodyLeft)])
	if end {
		w.breakBody(c, newBadRequest(400, "the client left before its request was complete", ""))
		return false
	}
	if n == 0 {
		return false
	}
	c.expires = w.now + int64(bodyLimit)
	c.body = c.body[:len(c.body)+n]
	c.bodyLeft -= int64(n)
	return true
}

// makeRoom sees to it that c.body is a buffer with room.
func (w *worker) makeRoom(c *conn) {
	if !c.ownBody {
		b := w.pool.get(max(firstRead, 2*(len(c.body)-c.fed)))
		b = append(b, c.body[c.fed:]...)
		c.body, c.fed, c.ownBody = b, 0, true
		return
	}
	if c.fed > 0 && len(c.body) == cap(c.body) || c.fed == len(c.body) {
		n := copy(c.body, c.body[c.fed:])
		c.body, c.fed = c.body[:n], 0
	}
	if len(c.body) == cap(c.body) {
		c.body = w.pool.grow(c.body, firstRead)
	}
}

// decode takes raw bytes of a chunked body. What follows the body is the next
// request and goes where that is looked for.
func (w *worker) decode(c *conn, raw []byte) bool {
	if !c.ownBody {
		c.body, c.fed, c.ownBody = w.pool.get(firstRead), 0, true
	}
	for len(c.body)+len(raw) > cap(c.body) {
		if c.fed > 0 {
			n := copy(c.body, c.body[c.fed:])
			c.body, c.fed = c.body[:n], 0
			continue
		}
		c.body = w.pool.grow(c.body, firstRead)
	}
	out, n, done, bad := c.decoder.decode(c.body, raw, w.cfg)
	c.body = out
	if bad != nil {
		w.breakBody(c, bad)
		return false
	}
	if done {
		c.decoder = nil
		w.stash(c, raw[n:])
	}
	return true
}

// stash puts bytes of the next request behind this one's head, whose slices
// must stay where they are: a buffer that is too small is left to them.
func (w *worker) stash(c *conn, rest []byte) {
	if c.head+len(rest) > cap(c.in) {
		bigger := w.pool.get(c.head + len(rest))
		w.pool.forget(c.in)
		c.in = append(bigger, c.in[:c.head]...)
	}
	c.in = append(c.in[:c.head], rest...)
	c.next = c.head
}

// breakBody ends a body that cannot be completed. The application is told if
// it has the request; otherwise it never hears of it.
func (w *worker) breakBody(c *conn, bad *badRequest) {
	if c.state == readingBody {
		w.refuse(c, bad)
		return
	}
	c.broken = bad
}

// refuse answers a client's mistake and closes.
func (w *worker) refuse(c *conn, bad *badRequest) {
	w.log.warningf("Invalid request from ip=%s: %s", c.peer.remoteAddr, bad.text)
	if c.req != nil && (bad.access || c.state != readingHead) {
		w.record(c, []byte(strconv.Itoa(bad.status)), false)
	}
	w.page(c, bad)
}

// page writes an error page and closes politely.
func (w *worker) page(c *conn, bad *badRequest) {
	if c.fd < 0 {
		return
	}
	c.keep, c.state = false, draining
	w.send(c, appendErrorPage(nil, bad), nil)
	w.drained(c)
}

// Dispatching ---------------------------------------------------------------

func (w *worker) enqueue(c *conn) {
	c.state, c.expires = waiting, 0
	if w.stopping && w.giveAway(c) {
		return
	}
	if w.lane.closed || w.lane.eof {
		w.refuseService(c)
		return
	}
	c.keep = c.req.keepAlive && w.cfg.keepalive > 0
	w.waiting = append(w.waiting, c)
}

// keepWaiting forgets those that wait no longer.
func (w *worker) keepWaiting() {
	kept := w.waiting[:0]
	for _, c := range w.waiting {
		if c.fd >= 0 && c.state == waiting {
			kept = append(kept, c)
		}
	}
	clear(w.waiting[len(kept):])
	w.waiting = kept
}

// dispatch writes waiting requests into the lane, as deep as the pace of late
// allows.
func (w *worker) dispatch() {
	done := 0
	for done < len(w.waiting) && !w.stalled && w.lane.free() {
		c := w.waiting[done]
		if c.fd < 0 || c.state != waiting {
			done++
			continue
		}
		if w.maxServed > 0 && w.dispatched >= w.maxServed && !w.stopping {
			break
		}
		ok, err := w.lane.send(c, w.message(c), w.now)
		if err != nil {
			w.outOfStep(err)
			break
		}
		if !ok {
			break
		}
		done++
		c.state, c.begun = inLane, w.now
		w.dispatched++
	}
	if done > 0 {
		w.slot.busy.Store(1)
		n := copy(w.waiting, w.waiting[done:])
		clear(w.waiting[n:])
		w.waiting = w.waiting[:n]
	}
	if w.maxServed > 0 && w.dispatched >= w.maxServed && !w.stopping {
		w.log.infof("Autorestarting worker after current request.")
		w.retire()
	}
}

// message makes the frame for the queue: the environ and, if there is room,
// the body.
func (w *worker) message(c *conn) []byte {
	l := w.lane
	if l.number++; l.number == 0 {
		l.number++
	}
	c.number = l.number
	b := w.environ(c, append(w.fbuf[:0], make([]byte, frameHeader)...))
	f := frame{number: c.number, kind: kindRequest, meta: uint32(len(b) - frameHeader)}
	body := c.body[c.fed:]
	complete := c.bodyLeft == 0 && c.decoder == nil
	c.indirect = len(b) > queueMax
	switch {
	case c.indirect:
		f.kind, f.length, f.meta = kindIndirect, f.meta, 0
		b = b[:frameHeader]
		if !complete || len(body) > 0 {
			f.flags = flagMore
		}
	case complete && len(b)+len(body) <= queueMax:
		b = append(b, body...)
		c.fed = len(c.body)
		f.length = uint32(len(b) - frameHeader)
	default:
		f.flags = flagMore
		f.length = f.meta
	}
	f.append(b[:0])
	w.fbuf = b[:0]
	return b
}

func (w *worker) environ(c *conn, b []byte) []byte {
	b = append(b, marshalDict)
	b = c.req.appendEnviron(b, &c.peer, w.scriptName)
	return append(b, marshalDictEnd)
}

// feed answers Python's demand for body as soon as there is some.
func (w *worker) feed(c *conn) {
	for c.asked && c.fd >= 0 || c.asked && c.broken != nil {
		f := frame{number: c.number, kind: kindBody}
		if c.indirect {
			c.indirect, c.asked = false, false
			f.kind = kindRequest
			b := w.environ(c, w.fbuf[:0])
			w.fbuf = b[:0]
			w.answer(f, b)
			return
		}
		if b := c.body[c.fed:]; len(b) > 0 {
			b = b[:min(len(b), c.want, feedMax)]
			c.fed += len(b)
			if c.fed == len(c.body) && c.bodyLeft == 0 && c.decoder == nil {
				f.flags = flagLast
			}
			c.asked = false
			w.answer(f, b)
			continue
		}
		switch {
		case c.broken != nil:
			f.flags = flagBroken
		case c.bodyLeft == 0 && c.decoder == nil:
			f.flags = flagLast
		default:
			c.expires = w.now + int64(bodyLimit)
			if w.readBody(c) {
				continue
			}
			if c.broken == nil {
				return
			}
			f.flags = flagBroken
		}
		c.asked = false
		w.answer(f, nil)
	}
	// Read ahead up to the limit, so that the application finds it here.
	for c.fd >= 0 && c.broken == nil && (c.bodyLeft > 0 || c.decoder != nil) && len(c.body)-c.fed < w.holdable() {
		if !w.readBody(c) {
			return
		}
	}
}

func (w *worker) answer(f frame, payload []byte) {
	if err := w.lane.answer(f, payload); err != nil {
		w.outOfStep(err)
	}
	w.watchWire()
}

// watchWire asks for an event when the wire has room again, while something
// waits for that, and for none while a slow client holds up reading.
func (w *worker) watchWire() {
	events := uint32(0)
	if w.choked == nil {
		events |= unix.EPOLLIN
	}
	if len(w.lane.out) > 0 {
		events |= unix.EPOLLOUT
	}
	if events != w.lane.events && !w.lane.closed {
		w.lane.events = events
		epollMod(w.ep, w.lane.wire, events, onWire)
	}
}

// holdable is how much of one body or response may be held: less when many
// connections hold much.
func (w *worker) holdable() int {
	if w.pool.out > heldTotal {
		return heldPressed
	}
	return held
}

// stall is called when a request has run for more than a moment: whoever waits
// behind it should not.
func (w *worker) stall() {
	if !w.lane.headBegun() {
		// It is the machine that is busy, and would be for siblings too.
		w.lane.patience = w.now
		return
	}
	w.stalled = true
	if w.alone {
		return
	}
	w.giveBack()
	for _, c := range w.waiting {
		w.giveAway(c)
	}
	w.keepWaiting()
}

// giveBack takes what Python has not begun back among those that wait.
func (w *worker) giveBack() {
	back := w.lane.takeBack()
	for _, c := range back {
		c.state = waiting
		c.fed = 0
		w.dispatched--
	}
	if len(back) > 0 {
		w.waiting = append(back, w.waiting...)
		w.keepWaiting()
	}
}

// Responses -----------------------------------------------------------------

// replies takes what Python has said.
func (w *worker) replies() {
	l := w.lane
	for w.choked == nil && !l.closed {
		more, err := l.receive()
		if err == nil {
			err = w.frames()
		}
		if err != nil {
			w.outOfStep(err)
			return
		}
		if l.eof {
			// It is dying, or ought to: SIGCHLD tells how.
			epollDel(w.ep, l.wire)
			if w.killAt == 0 && !w.pythonGone {
				w.killAt = w.now + int64(killDelay)
			}
			break
		}
		if !more || len(l.in) < cap(l.in) {
			break
		}
	}
	w.flushOut()
}

// frames handles the frames that are in memory.
func (w *worker) frames() error {
	l := w.lane
	for w.choked == nil {
		if l.bodyLeft == 0 {
			meta, ok, err := l.next()
			if err != nil || !ok {
				return err
			}
			if err := w.openFrame(meta); err != nil {
				return err
			}
			if l.bodyLeft == 0 {
				w.endFrame()
				continue
			}
		}
		b, done := l.body()
		if len(b) == 0 {
			return nil
		}
		w.block(l.running(), b)
		if done {
			w.endFrame()
		}
	}
	return nil
}

// openFrame handles a frame's head and marshal.
func (w *worker) openFrame(meta []byte) error {
	l := w.lane
	f := l.frame
	if l.bodyLeft > 0 && f.kind != kindResponse && f.kind != kindBlock {
		return errOutOfStep
	}
	if f.kind == kindReady {
		if f.number != 0 || l.ready {
			return errOutOfStep
		}
		l.ready = true
		w.slot.state.Store(stateServing)
		_, _ = unix.Write(w.wake, []byte{0})
		return nil
	}
	c := l.running()
	if c == nil || c.number != f.number || !l.ready {
		return errOutOfStep
	}
	r := &marshalReader{b: meta[:f.meta]}
	switch f.kind {
	case kindResponse, kindFile:
		if c.started {
			return errOutOfStep
		}
		if err := w.readResponse(r); err != nil {
			return err
		}
		w.begin(c, meta[:f.meta])
		if f.kind == kindFile {
			return w.attach(c, meta[f.meta:])
		}
		if c.framing.chunked && l.bodyLeft > 0 {
			w.obuf = appendChunkSize(w.obuf, l.bodyLeft)
		}
	case kindBlock:
		if !c.started {
			return errOutOfStep
		}
		w.outFor(c)
		if c.framing.chunked && !c.refused && l.bodyLeft > 0 {
			w.obuf = appendChunkSize(w.obuf, l.bodyLeft)
		}
	case kindFailed:
		w.failed(c, f.flags)
	case kindRead:
		if f.length != 4 || c.asked || len(meta) != 4 {
			return errOutOfStep
		}
		c.asked = true
		c.want = int(uint32(meta[0]) | uint32(meta[1])<<8 | uint32(meta[2])<<16 | uint32(meta[3])<<24)
		w.feed(c)
	case kindHints:
		return w.hints(c, r)
	default:
		return errOutOfStep
	}
	return nil
}

// errBadType is an application's mistake, not a lane's.
var errBadType = errors.New("status and headers must be strings")

// readResponse fills w.resp with slices of the frame's memory. What is well
// formed and of a wrong type leaves an empty status, which begin refuses.
func (w *worker) readResponse(r *marshalReader) error {
	w.text = w.text[:0]
	w.resp.status, w.resp.fields = nil, w.resp.fields[:0]
	if r.sequence() != 2 {
		return errOutOfStep
	}
	good := true
	status := w.readText(r, &good)
	w.readFields(r, &good)
	if r.err != nil {
		return errOutOfStep
	}
	if good {
		w.resp.status = status
	}
	return nil
}

func (w *worker) readFields(r *marshalReader, good *bool) {
	if k := r.kind(); k != '(' && k != '[' {
		r.value(0)
		*good = false
		return
	}
	for n := r.sequence(); n > 0 && r.err == nil; n-- {
		if k := r.kind(); k != '(' && k != '[' {
			r.value(0)
			*good = false
			continue
		}
		if pair := r.sequence(); pair != 2 {
			for ; pair > 0 && r.err == nil; pair-- {
				r.value(0)
			}
			*good = false
			continue
		}
		name, value := w.readText(r, good), w.readText(r, good)
		w.resp.fields = append(w.resp.fields, field{name: name, value: value})
	}
}

// readText is the latin-1 of the next value, which should be a str.
func (w *worker) readText(r *marshalReader, good *bool) []byte {
	if k := r.kind(); k != 'u' && k != 't' {
		r.value(0)
		*good = false
		return nil
	}
	at := len(w.text)
	text := r.text()
	b, ok := latin(w.text[at:], text)
	if !ok {
		*good = false
		return nil
	}
	if len(text) > 0 && len(b) != len(text) {
		w.text = append(w.text[:at], b...)
	}
	return b
}

// begin makes the response's head.
func (w *worker) begin(c *conn, meta []byte) {
	w.outFor(c)
	c.started = true
	x := exchange{version: c.req.version, minor: c.req.minor, head: string(c.req.method) == "HEAD",
		keepAlive: c.keep && !w.ending && !w.quitting}
	if c.bodyLeft > 0 || c.decoder != nil {
		// The rest of the body may never be read; then the connection cannot
		// go on. Better to say so than to promise.
		x.keepAlive = false
	}
	var err error
	if w.resp.status == nil {
		err = errBadType
	} else {
		w.obuf, c.framing, err = w.resp.appendHead(w.obuf, &x, w.clock.httpDate())
	}
	if err != nil {
		w.log.errorf("Error handling request %s: %v", c.line(), err)
		w.serverError(c)
		return
	}
	c.keep = c.framing.keepAlive
	c.status = append(c.status[:0], w.resp.status...)
	if w.access != nil && (w.lane.frame.flags&flagLast == 0 || w.lane.bodyLeft > len(w.lane.in)-w.lane.at) {
		c.meta = append(c.meta[:0], meta...)
	}
}

// serverError answers 500 in place of what the application made.
func (w *worker) serverError(c *conn) {
	c.started, c.refused = true, true
	c.status = append(c.status[:0], "500 Internal Server Error"...)
	c.meta, c.keep = nil, false
	w.resp.fields = w.resp.fields[:0]
	bad := c.broken
	if bad == nil {
		bad = newBadRequest(500, "", "")
	} else {
		c.status = append(c.status[:0], strconv.Itoa(bad.status)+" "+bad.reason...)
	}
	c.framing = framing{code: bad.status, noBody: true}
	w.outFor(c)
	w.obuf = appendErrorPage(w.obuf, bad)
}

// outFor makes c the connection that w.obuf is for.
func (w *worker) outFor(c *conn) {
	if w.obufFor != c {
		w.flushOut()
		w.obufFor = c
	}
}

func (w *worker) flushOut() {
	if c := w.obufFor; c != nil {
		w.obufFor = nil
		w.send(c, w.obuf, nil)
		w.obuf = w.obuf[:0]
	}
}

// block takes a piece of the response's body.
func (w *worker) block(c *conn, b []byte) {
	if c.refused {
		return
	}
	w.outFor(c)
	if c.framing.noBody {
		w.log.warningf("WSGI app sent body bytes on a no-body response (method=%s status=%d); dropping per RFC 9110.",
			c.req.method, c.framing.code)
		c.dropped, c.refused = true, true
		return
	}
	if c.framing.length >= 0 && c.sent+int64(len(b)) > c.framing.length {
		w.log.warningf("%s: the response body is longer than its Content-Length, %d; the rest is dropped",
			c.line(), c.framing.length)
		b = b[:c.framing.length-c.sent]
		c.dropped, c.refused = true, true
	}
	c.sent += int64(len(b))
	if len(w.obuf)+len(b) <= coalesce {
		w.obuf = append(w.obuf, b...)
		return
	}
	w.obufFor = nil
	w.send(c, w.obuf, b)
	w.obuf = w.obuf[:0]
	if len(c.out)-c.outAt > w.holdable() && c.fd >= 0 {
		w.choked = c
		w.watchWire()
	}
}

// endFrame handles the end of a frame.
func (w *worker) endFrame() {
	f := w.lane.frame
	if f.kind != kindResponse && f.kind != kindBlock {
		return
	}
	c := w.lane.running()
	if c == nil {
		return
	}
	if c.framing.chunked && !c.refused {
		w.outFor(c)
		if f.length > f.meta {
			w.obuf = append(w.obuf, "\r\n"...)
		}
		if f.flags&flagLast != 0 {
			w.obuf = append(w.obuf, "0\r\n\r\n"...)
		}
	}
	if f.flags&flagLast != 0 {
		w.flushOut()
		w.complete(c)
	}
}

// attach puts the file that came along behind the head.
func (w *worker) attach(c *conn, numbers []byte) error {
	r := marshalReader{b: numbers}
	offset, size := r.uint64(), r.uint64()
	fd := w.lane.passed
	w.lane.passed = -1
	if r.err != nil || fd < 0 || int64(offset) < 0 || int64(size) < 0 {
		return errOutOfStep
	}
	if c.refused || c.framing.noBody || size == 0 || c.fd < 0 {
		unix.Close(fd)
		if c.framing.chunked && !c.refused {
			w.obuf = append(w.obuf, "0\r\n\r\n"...)
		}
	} else {
		if c.framing.chunked {
			w.obuf = appendChunkSize(w.obuf, int(size))
			c.tail = "\r\n0\r\n\r\n"
		}
		w.flushOut()
		c.sent = int64(size)
		if c.fd < 0 {
			unix.Close(fd)
		} else {
			c.file, c.fileAt, c.fileEnd = fd, int64(offset), int64(offset+size)
		}
	}
	w.flushOut()
	w.complete(c)
	return nil
}

func (w *worker) hints(c *conn, r *marshalReader) error {
	good := true
	w.text, w.resp.fields = w.text[:0], w.resp.fields[:0]
	w.readFields(r, &good)
	if r.err != nil {
		return errOutOfStep
	}
	if c.started || c.req.minor == 0 || c.req.version == nil {
		return nil
	}
	err := errBadType
	if good {
		w.outFor(c)
		w.obuf, err = appendEarlyHints(w.obuf, w.resp.fields)
	}
	if err != nil {
		w.log.errorf("Error in early hints of %s: %v", c.line(), err)
	}
	return nil
}

// failed ends a response that the application did not finish.
func (w *worker) failed(c *conn, flags byte) {
	if !c.started && flags&flagQuiet == 0 {
		w.serverError(c)
		w.flushOut()
		w.complete(c)
		return
	}
	if !c.started {
		c.status = append(c.status[:0], "499"...)
	}
	w.flushOut()
	w.cut(c)
}

// cut ends a response in the middle, so that no client takes it for complete.
func (w *worker) cut(c *conn) {
	c.keep, c.refused = false, true
	if c.fd >= 0 && c.started && !c.framing.chunked && c.framing.length < 0 && !c.framing.noBody {
		// Only a reset tells the client: an orderly close is this body's end.
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	w.complete(c)
}

// complete is reached once for every request that Python has begun: its
// response is in the hands of this worker, or was cut off.
func (w *worker) complete(c *conn) {
	l := w.lane
	if c.framing.length > c.sent && !c.refused && !c.framing.noBody {
		w.log.errorf("%s: the response body has %d bytes and its Content-Length says %d; closing the connection",
			c.line(), c.sent, c.framing.length)
		c.keep, c.refused = false, true
	}
	w.record(c, c.status, true)
	l.answered(w.now)
	w.stalled = false
	if len(l.flight) == 0 {
		w.slot.busy.Store(0)
		w.slot.begun.Store(0)
	}
	w.served++
	w.slot.requests.Store(w.served)
	if c.framing.code >= 500 || c.refused && !c.dropped {
		w.slot.failures.Add(1)
	}
	w.slot.bytes.Add(uint64(c.sent))
	if w.choked == c {
		w.choked = nil
		w.watchWire()
	}
	if c.bodyLeft > 0 || c.decoder != nil {
		c.keep = false // what is unread must never be taken for a request
	}
	if c.fd < 0 {
		w.release(c)
		return
	}
	c.state = draining
	w.drained(c)
}

// record writes the access log's line.
func (w *worker) record(c *conn, status []byte, parsed bool) {
	if w.access == nil {
		return
	}
	if c.meta != nil {
		_ = w.readResponse(&marshalReader{b: c.meta})
	} else if !parsed || c.refused {
		w.resp.fields = w.resp.fields[:0]
	}
	began := c.begun
	if began == 0 {
		began = w.now
	}
	w.access.record(&accessEntry{
		now: &w.clock, req: c.req, endpoint: &c.peer, scriptName: w.scriptName, parsed: parsed,
		status: status, fields: w.resp.fields, bytes: c.sent, duration: time.Duration(w.now - began), pid: w.pid,
	})
}

// Writing -------------------------------------------------------------------

func (c *conn) pending() bool { return len(c.out) > c.outAt || c.file >= 0 }

// send writes a and b to the client, as far as it takes them; the rest waits.
func (w *worker) send(c *conn, a, b []byte) {
	if c.fd < 0 || len(a)+len(b) == 0 {
		return
	}
	n := 0
	if !c.pending() {
		var errno syscall.Errno
		if len(b) == 0 {
			n, errno = rawWrite(c.fd, a)
		} else {
			n, errno = rawWritev(c.fd, a, b)
		}
		if errno != 0 && errno != unix.EAGAIN {
			w.lost(c)
			return
		}
		if n == len(a)+len(b) {
			return
		}
		c.expires = w.now + int64(writeLimit)
	}
	if n < len(a) {
		w.put(c, a[n:])
		n = len(a)
	}
	w.put(c, b[n-len(a):])
	w.watch(c)
}

func (w *worker) put(c *conn, b []byte) {
	if c.outAt > 0 && len(c.out)+len(b) > cap(c.out) {
		n := copy(c.out, c.out[c.outAt:])
		c.out, c.outAt = c.out[:n], 0
	}
	for len(c.out)+len(b) > cap(c.out) {
		c.out = w.pool.grow(c.out, max(firstRead, len(b)))
	}
	c.out = append(c.out, b...)
}

// drain writes what waits for the client.
func (w *worker) drain(c *conn) {
	for len(c.out) > c.outAt {
		n, errno := rawWrite(c.fd, c.out[c.outAt:])
		if errno == unix.EAGAIN {
			break
		}
		if errno != 0 {
			w.lost(c)
			return
		}
		c.outAt += n
		c.expires = w.now + int64(writeLimit)
	}
	if len(c.out) == c.outAt {
		w.pool.put(c.out)
		c.out, c.outAt = nil, 0
		if c.file >= 0 && !w.drainFile(c) {
			return
		}
	}
	if w.choked == c && len(c.out)-c.outAt < resumeAt {
		w.choked = nil
		w.watchWire()
		w.replies()
	}
	if c.fd >= 0 && c.state == draining {
		w.drained(c)
	}
}

// drainFile sends the file behind the head; false when the client is slow or
// the connection gone.
func (w *worker) drainFile(c *conn) bool {
	for c.fileAt < c.fileEnd {
		n, err := unix.Sendfile(c.fd, c.file, &c.fileAt, int(min(c.fileEnd-c.fileAt, feedMax)))
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			w.watch(c)
			return false
		case err != nil:
			w.lost(c)
			return false
		case n == 0:
			w.log.errorf("%s: the file became shorter while it was sent; closing the connection", c.line())
			w.lost(c)
			return false
		}
		c.expires = w.now + int64(writeLimit)
	}
	unix.Close(c.file)
	c.file = -1
	if tail := c.tail; tail != "" {
		c.tail = ""
		w.send(c, []byte(tail), nil)
	}
	return c.fd >= 0
}

// drained goes on after a response, once it is written.
func (w *worker) drained(c *conn) {
	if c.fd < 0 {
		return
	}
	if c.file >= 0 && len(c.out) == c.outAt && !w.drainFile(c) || c.pending() {
		if c.fd >= 0 {
			c.expires = w.now + int64(writeLimit)
			w.watch(c)
		}
		return
	}
	if !c.keep {
		w.leave(c)
		return
	}
	c.served++
	rest := c.in[c.next:]
	w.recycle(c)
	n := copy(c.in[:cap(c.in)], rest)
	c.in = c.in[:n]
	c.state = readingHead
	c.expires = w.now + int64(w.cfg.keepalive)
	if n > 0 {
		c.expires = w.now + int64(headLimit)
	}
	if w.stopping {
		if n == 0 && w.ending {
			w.close(c)
			return
		}
		if !w.ending && w.giveAway(c) {
			return
		}
	}
	w.advance(c)
}

// leave closes after the last response. Closing while the client still sends
// would reset the connection and take the response away from it, so the rest
// is read and thrown away first, within limits.
func (w *worker) leave(c *conn) {
	_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	w.recycle(c)
	c.state, c.unread = lingering, true
	c.expires = w.now + int64(lingerLimit)
	w.linger(c)
}

func (w *worker) linger(c *conn) {
	b := w.pool.get(firstRead)
	defer w.pool.put(b)
	for c.junk <= lingerBytes {
		n, end := w.receive(c, b[:cap(b)])
		if end {
			break
		}
		if n == 0 {
			return
		}
		c.junk += n
	}
	w.close(c)
}

// lost is called when the client is gone, or deserves no more.
func (w *worker) lost(c *conn) {
	switch c.state {
	case waiting:
		w.record(c, []byte("499"), true)
	case inLane:
		// Python may be at it: it is told, and what it says goes nowhere.
		w.lane.giveUp.Store(c.number)
		w.log.debugf("Closing connection. The client of %s has left", c.line())
		w.unplug(c)
		c.broken = newBadRequest(499, "the client left", "")
		if w.choked == c {
			w.choked = nil
			w.watchWire()
			w.replies()
		}
		w.feed(c)
		return
	}
	w.close(c)
}

// unplug closes the client's socket and keeps the rest.
func (w *worker) unplug(c *conn) {
	if c.fd < 0 {
		return
	}
	w.conns[c.fd] = nil
	unix.Close(c.fd)
	c.fd = -1
	w.open--
	w.slot.connections.Store(uint64(w.open))
	if c.file >= 0 {
		unix.Close(c.file)
		c.file = -1
	}
	w.pool.put(c.out)
	c.out, c.outAt = nil, 0
}

// close ends a connection of which nothing is in the lane.
func (w *worker) close(c *conn) {
	w.unplug(c)
	w.release(c)
}

// release gives a closed connection's buffers back.
func (w *worker) release(c *conn) {
	w.recycle(c)
	w.pool.put(c.in)
	c.in = nil
}

// recycle forgets a request; c.in stays for the next.
func (w *worker) recycle(c *conn) {
	if c.req != nil {
		c.req.reset()
		w.idle = append(w.idle, c.req)
		c.req = nil
	}
	if c.ownBody {
		w.pool.put(c.body)
	}
	c.body, c.fed, c.ownBody = nil, 0, false
	c.bodyLeft, c.decoder, c.broken = 0, nil, nil
	c.asked, c.indirect = false, false
	c.started, c.refused, c.dropped, c.keep = false, false, false, false
	c.framing, c.meta, c.sent, c.tail = framing{}, nil, 0, ""
	c.tried, c.head, c.next = 0, 0, 0
	c.begun, c.number = 0, 0
}

func (w *worker) newRequest() *request {
	if n := len(w.idle); n > 0 {
		r := w.idle[n-1]
		w.idle = w.idle[:n-1]
		return r
	}
	r := &request{}
	r.reset()
	return r
}

// line names a request for the log: "GET /path".
func (c *conn) line() string {
	if c.req == nil || len(c.req.target) == 0 {
		return "(no URI read)"
	}
	return printable(c.req.method) + " " + printable(c.req.target)
}

// Time ----------------------------------------------------------------------

// tick runs once a second: the heartbeat, and every limit in time.
func (w *worker) tick() {
	w.slot.heartbeat.Store(w.now)
	for _, c := range w.conns {
		if c != nil && c.expires != 0 && c.expires <= w.now {
			w.expire(c)
		}
	}
	if c := w.lane.running(); c != nil {
		w.slot.setRunning(c.line(), w.lane.begun)
	}
	if w.killAt != 0 && w.killAt <= w.now {
		w.killPython(unix.SIGKILL)
	}
	if w.deadline != 0 && w.deadline <= w.now {
		w.quit()
	}
	if n := w.access.recovered(); n > 0 {
		w.log.warningf("%d records of the access log were lost", n)
	}
	w.pool.trim()
}

func (w *worker) expire(c *conn) {
	switch {
	case c.state == readingHead && (len(c.in) == 0 || w.ending), c.state == lingering:
		w.close(c)
	case c.state == readingHead, c.state == readingBody:
		w.refuse(c, newBadRequest(408, "the request did not come in time", ""))
	case c.state == draining:
		w.lost(c)
	case c.state == inLane && c.pending():
		w.log.debugf("%s: the client does not take its response", c.line())
		w.lost(c)
	case c.state == inLane && c.asked:
		w.breakBody(c, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(c)
	default:
		c.expires = 0
	}
}

// overdue is called when the running request has used up its time. When that
// was the client's doing it is the client that has to go.
func (w *worker) overdue(c *conn) {
	l := w.lane
	if c.fd >= 0 && c.asked {
		l.begun = w.now
		w.breakBody(c, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(c)
		return
	}
	if w.choked == c {
		l.begun = w.now
		w.lost(c)
		return
	}
	seconds := time.Duration(w.now - l.begun).Round(time.Second)
	w.hung = c.line() + " from " + c.peer.remoteAddr
	w.log.criticalf("WORKER TIMEOUT (pid:%d): %s has run for %v", w.pid, w.hung, seconds)
	w.abandon(c, newBadRequest(504, "", ""))
	w.killPython(unix.SIGABRT)
	w.killAt = w.now + int64(killDelay)
}

// abandon gives up the Python and answers the request that it had begun.
// Nothing that it says from now on reaches anybody.
func (w *worker) abandon(running *conn, bad *badRequest) {
	l := w.lane
	w.giveBack()
	l.closed = true
	epollDel(w.ep, l.wire)
	l.flight = nil
	w.choked, w.stalled = nil, false
	w.slot.begun.Store(0)
	w.slot.busy.Store(0)
	w.slot.failures.Add(1)
	w.obufFor, w.obuf = nil, w.obuf[:0]
	if running != nil {
		c := running
		c.keep, c.refused = false, true
		if c.started {
			w.record(c, c.status, true)
			if c.fd >= 0 {
				_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			}
			w.close(c)
		} else {
			w.record(c, []byte(strconv.Itoa(bad.status)), true)
			if c.fd >= 0 {
				w.page(c, bad)
			} else {
				w.release(c)
			}
		}
	}
	w.retire()
	// Whoever could not be handed over gets an answer that says to try again.
	for _, c := range w.waiting {
		if c.fd >= 0 && c.state == waiting {
			w.refuseService(c)
		}
	}
	w.waiting = nil
}

func (w *worker) refuseService(c *conn) {
	w.record(c, []byte("503"), true)
	w.page(c, newBadRequest(503, "", ""))
}

// outOfStep is called when Python has said what it must not.
func (w *worker) outOfStep(err error) {
	if w.lane.closed || w.pythonGone {
		return
	}
	w.log.errorf("Worker (pid:%d): its Python (pid:%d) does not speak as it should (%v) and is replaced", w.pid, w.lane.pid, err)
	w.abandon(w.lane.running(), newBadRequest(502, "", ""))
	w.killPython(unix.SIGKILL)
}

func (w *worker) killPython(sig syscall.Signal) {
	w.killAt = 0
	if !w.pythonGone {
		_ = unix.Kill(w.lane.pid, sig)
	}
}

// reap takes note of the Python's death.
func (w *worker) reap() {
	for {
		pid, status := reapAny()
		if pid == 0 {
			return
		}
		if w.lane != nil && pid == w.lane.pid {
			w.died(status)
		}
	}
}

func (w *worker) died(status unix.WaitStatus) {
	l := w.lane
	if l.ready && !l.closed {
		w.replies() // what it said before it died still holds
	}
	w.pythonGone = true
	w.killAt = 0
	switch {
	case !l.ready && !w.stopping:
		if w.exit = exitStatus(status); status.Signaled() {
			w.exit = 0 // said here, and need not be said again
			w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s It was loading the application.", w.pid, l.pid, fate(status))
		}
		l.closed = true
		w.stopping = true
		w.closeListeners()
		w.logStacks()
	case w.hung != "":
		w.logStacks()
	case l.closed || w.quitting || l.queue < 0 && len(l.flight) == 0:
	default:
		w.giveBack()
		running := l.running()
		doing := ""
		if running != nil {
			doing = " It was running " + running.line() + " from " + running.peer.remoteAddr
		}
		w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s%s", w.pid, l.pid, fate(status), doing)
		w.logStacks()
		w.abandon(running, newBadRequest(502, "", ""))
	}
}

// logStacks shows what faulthandler wrote.
func (w *worker) logStacks() {
	if s := w.lane.stacks(); s != "" {
		w.log.errorf("Python stacks of worker (pid:%d):\n%s", w.pid, s)
	}
}

// fate says how a process ended, in words that people look for in logs.
func fate(s unix.WaitStatus) string {
	switch {
	case s.Signaled() && s.Signal() == unix.SIGKILL:
		return "was sent SIGKILL! Perhaps out of memory?"
	case s.Signaled():
		return "was sent " + unix.SignalName(s.Signal()) + "!"
	}
	return "exited with code " + strconv.Itoa(s.ExitStatus()) + "."
}

// Hand-over -----------------------------------------------------------------

// giveAway hands a connection to whichever worker is free first, with the bytes
// read so far. It fails when the socket between them is full, or the request is
// too long for a message; then the connection stays.
func (w *worker) giveAway(c *conn) bool {
	if w.ending || c.fd < 0 || c.pending() || c.decoder != nil || c.req != nil && c.req.chunked && c.state != readingHead {
		return false
	}
	in, body := c.in, []byte(nil)
	if c.ownBody {
		in, body = c.in[:c.head], c.body
	}
	if len(in)+len(body) > queueMax-1024 {
		return false
	}
	b := appendMarshalTuple(w.fbuf[:0], 8)
	b = appendMarshalBool(b, c.peer.unix)
	b = appendMarshalText(b, c.peer.serverName)
	b = appendMarshalText(b, c.peer.serverPort)
	b = appendMarshalText(b, c.peer.remoteAddr)
	b = appendMarshalText(b, c.peer.remotePort)
	b = appendMarshalInt(b, int64(c.served))
	b = appendMarshalBytes(b, in)
	b = appendMarshalBytes(b, body)
	w.fbuf = b[:0]
	if c.watched {
		epollDel(w.ep, c.fd) // the kernel would keep watching: the socket lives on
		c.watched = false
	}
	if err := unix.Sendmsg(w.giveFD, b, unix.UnixRights(c.fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		c.unread = true
		w.watch(c)
		return false
	}
	w.close(c)
	return true
}

// takeOver receives a connection as accept would a new one.
func (w *worker) takeOver() {
	b := w.pool.get(2 * queueMax)
	defer w.pool.put(b)
	n, fd, errno := rawRecvmsg(w.takeFD, b[:cap(b)])
	if errno != 0 || fd < 0 {
		return
	}
	r := &marshalReader{b: b[:n]}
	var peer endpoint
	r.sequence()
	peer.unix = r.kind() == 'T'
	r.is('T', 'F')
	peer.serverName, peer.serverPort = string(r.text()), string(r.text())
	peer.remoteAddr, peer.remotePort = string(r.text()), string(r.text())
	served := int(r.int())
	in, body := r.bytes(), r.bytes()
	if r.err != nil {
		w.log.errorf("hand-over: %v", r.err)
		unix.Close(fd)
		return
	}
	trusted := peer.unix
	if addr, err := netip.ParseAddr(peer.remoteAddr); err == nil {
		trusted = w.cfg.forwardedAllowIPs.has(addr)
	}
	c := w.add(fd, peer, trusted)
	c.served = served
	c.expires = w.now + int64(headLimit)
	if len(in)+len(body) > 0 {
		c.in = append(append(w.pool.get(max(firstRead, len(in)+len(body))), in...), body...)
	} else {
		c.expires = w.now + int64(w.cfg.keepalive)
	}
	w.advance(c)
}

// Buffers -------------------------------------------------------------------

// pool keeps buffers of a few sizes for reuse.
type pool struct {
	free [poolClasses][][]byte
	out  int // bytes in use
}

const (
	poolSmallest = 4 << 10
	poolClasses  = 10 // up to 2 MB; longer ones are not kept
	poolKeep     = 64 // of each size, and no more than poolKeepBytes of it
	poolKeepSize = 1 << 20
)

// class is the index of the smallest size that holds n.
func poolClass(n int) (class, size int) {
	for size = poolSmallest; size < n; size *= 2 {
		class++
	}
	return class, size
}

// get returns an empty buffer with room for n bytes at least.
func (p *pool) get(n int) []byte {
	class, size := poolClass(n)
	p.out += size
	if class < poolClasses {
		if list := p.free[class]; len(list) > 0 {
			b := list[len(list)-1]
			p.free[class] = list[:len(list)-1]
			return b
		}
	}
	return make([]byte, 0, size)
}

// forget takes note that a buffer will not come back.
func (p *pool) forget(b []byte) {
	_, size := poolClass(cap(b))
	p.out -= size
}

func (p *pool) put(b []byte) {
	if cap(b) == 0 {
		return
	}
	class, size := poolClass(cap(b))
	p.out -= size
	if size == cap(b) && class < poolClasses && len(p.free[class]) < max(1, min(poolKeep, poolKeepSize/size)) {
		p.free[class] = append(p.free[class], b[:0])
	}
}

// grow returns b's content in a buffer with room for n bytes more, twice as
// large at least.
func (p *pool) grow(b []byte, n int) []byte {
	bigger := append(p.get(max(2*cap(b), len(b)+n)), b...)
	p.put(b)
	return bigger
}

// trim lets go of one large buffer of each size, so that what a burst needed
// does not stay for ever.
func (p *pool) trim() {
	for class := 5; class < poolClasses; class++ {
		if n := len(p.free[class]); n > 0 {
			p.free[class][n-1] = nil
			p.free[class] = p.free[class][:n-1]
		}
	}
}
