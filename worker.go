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
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits in time that have no setting.
const (
	lingerIdle  = 2 * time.Second  // for a client to read the last answer
	lingerLimit = 30 * time.Second // if it sends the rest of its request first
	acceptPause = time.Second      // after running out of descriptors

	// For a client to send a head or to do a handshake; then its place is another's
	// who wants it.
	placePatience = time.Second
	killDelay     = time.Second // from ABRT to KILL of a Python that hangs
)

// Limits in bytes.
const (
	firstRead   = 4 << 10   // of a response that its client does not take at once
	headRead    = 16 << 10  // at once, of a head and what follows it
	held        = 1 << 20   // of a body, and of a response, for one connection
	heldPressed = 64 << 10  // the same when half of what all connections may hold is held
	resumeAt    = 256 << 10 // a response goes on below this
	coalesce    = 64 << 10  // of small blocks for one write
	turnMax     = 1 << 20   // sent from a file, or thrown away, before others have their turn
	discardMax  = 64 << 10  // of a body that the application leaves, for the connection's sake
	feedMax     = 256 << 10 // of a body in one frame
	fateMax     = 1 << 10   // of what was running, in one line of the log
)

// Limits in number.
const (
	descriptorsApart = 16 // left for logs that are reopened and the like
	laneDescriptors  = 4  // of each but the first
	filesApart       = 64 // left for files, when connections take all that they may
)

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
	server     string // the Server field of responses
	pid        int
	wake       int // the arbiter's wake pipe

	loop
	nextTick  int64
	listeners []listener
	armed     bool
	paused    int64       // accepting is, until then
	giveFD    int         // hand-over, the end for sending
	takeFD    int         // and the end for receiving
	alone     bool        // no siblings: nothing is gained by handing over
	tls       *terminator // nil without TLS
	pumps     int

	python   *python
	reload   *reloader // nil without --reload
	waiting  []*turn   // complete requests, oldest first
	overload overload
	conns    []*conn // by descriptor
	open     int
	files    int // to be sent, or of the spool
	spool    spool
	resting  idlers // idle connections, the longest idle first
	lagging  idlers // those on which a part of a request or of a handshake has come

	descriptors int   // that connections, files, pumps and lanes may take
	silent      int64 // about a crowd, until then
	gaveWay     int   // connections that ended for want of memory, of which the log does not know yet
	hushed      int64 // about these, until then
	pool        pool
	idle        []*turn // for reuse

	rbuf    []byte // what comes from any client, until it is known how much that is
	obuf    []byte // what goes to obufFor next
	obufFor *conn
	resp    response
	text    []byte // latin-1 of headers that are not ASCII
	fbuf    []byte
	batch   []*turn // whose requests go into one message
	wbuf    []byte  // for what is on a wire, when no lane has it

	asgi      bool
	talks     int // WebSockets
	sockets   wsPool
	deflater  wsDeflater
	deflating bool          // the message whose body is coming is
	partAt    int64         // when streams are told to end, if they have not
	parting   time.Duration // and how long they have for it

	dispatched int
	maxServed  int   // 0 for no limit
	counted    int   // dispatched at the last tick
	born       int64 // when this worker started, and how long its Python took to be ready
	bootTook   int64

	renamed  bool  // USR1 came while Python was booting: forward it once Python is ready
	termAt   int64 // when TERM came, 0 for not yet
	deadline int64 // when to quit at the latest, 0 for never
	memory   memoryWatch
	exit     int
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
	fdErrorlog             // if it is a file
	fdAccesslog            // the same
	fdFork                 // where the mold is asked for a Python; no socket without one
	fdRecords              // where records of the logs go, if Python makes them
	fdBridge               // the Python half, for a Python of its own
	fdVault                // where certificates are, if there are any
	fdListeners            // first listener; the rest follow
)

// runWorker is the whole life of a worker process; it returns the exit status.
func runWorker() int {
	w, err := newWorker()
	if err != nil {
		if w != nil && w.log != nil {
			w.log.errorf("Exception in worker process: %v", err)
		} else {
			fmt.Fprintf(os.Stderr, "gunicorn: worker: %v\n", err)
		}
		return exitBoot
	}
	w.log.infof("Booting worker with pid: %d", w.pid)
	if err := w.boot(); err != nil {
		w.log.errorf("Exception in worker process: %v", err)
		return exitBoot
	}
	w.serve()
	w.relay()
	w.access.flush()
	w.log.infof("Worker exiting (pid: %d)", w.pid)
	w.log.close()
	return w.exit
}

func newWorker() (*worker, error) {
	// Nothing is allocated in the steady state; what little garbage there is
	// should not make a worker twice as large as it must be.
	debug.SetGCPercent(25)
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
		rbuf:      make([]byte, heldPressed),
		alone:     cfg.workers < 2,
		maxServed: cfg.maxRequests,
	}
	if cfg.maxRequests > 0 && cfg.maxRequestsJitter > 0 {
		w.maxServed += int(uint64(time.Now().UnixNano()^int64(w.pid)*7919) % uint64(cfg.maxRequestsJitter+1))
	}
	out, err := inheritSink(cfg.errorlog, fdErrorlog, unix.Stderr)
	if err != nil {
		return w, err
	}
	w.log = newErrorLog(out, cfg.loglevel)
	if err := w.log.join(cfg); err != nil {
		return w, err
	}
	if cfg.accesslog != "" {
		if out, err = inheritSink(cfg.accesslog, fdAccesslog, unix.Stdout); err != nil {
			return w, err
		}
		if w.access, err = newAccessLog(out, cfg.accessLogFormat); err != nil {
			return w, err
		}
	}
	if w.access, err = w.access.join(cfg, w.log.syslog); err != nil {
		return w, err
	}
	if cfg.logs {
		if w.access, err = cfg.inPython(w.log, w.access, &recorder{fd: fdRecords}); err != nil {
			return w, err
		}
	}
	w.server = cfg.serverField()
	w.deflater.pool = &w.sockets
	w.spool = newSpool(cfg)
	w.asgi = cfg.family() == familyASGI
	w.pool.limit = heldLimit("", cfg.workers)
	// Near this the collector works harder. It is the garbage on top and the worker itself.
	debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), int64(w.pool.limit)*5/4+24<<20))
	if cfg.credential != nil {
		if err := checkCredential(cfg.credential); err != nil {
			return w, err
		}
	}
	if w.slot, err = mapSlot(fdSlot); err != nil {
		return w, err
	}
	w.memory = watchMemory("")
	if w.loop, err = openLoop(); err != nil {
		return w, err
	}
	w.born = w.now
	w.slot.heartbeat.Store(sharedTime())
	w.clock.refresh()
	for fd := fdListeners; ; fd++ {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			break
		}
		unix.CloseOnExec(fd)
		w.listeners = append(w.listeners, newListener(fd, sa))
	}
	return w, w.openTLS()
}

func newListener(fd int, sa unix.Sockaddr) listener {
	l := listener{fd: fd}
	if own := addrPort(sa); own.IsValid() {
		l.tcp = true
		l.peer.serverName, l.peer.serverPort = own.Addr().String(), strconv.Itoa(int(own.Port()))
	} else if sa, ok := sa.(*unix.SockaddrUnix); ok {
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
	if err := w.listen(r, unix.EPOLLIN, ownerFunc((*worker).signals)); err != nil {
		return err
	}
	if err := w.listen(fdLifeline, unix.EPOLLIN|unix.EPOLLRDHUP, ownerFunc((*worker).parentGone)); err != nil {
		return err
	}
	fork := fdFork
	if _, err := unix.Getsockname(fork); err != nil {
		fork = -1
	}
	w.python, err = openPython(w.cfg, os.NewFile(fdBridge, "bridge"), os.Environ(), fork)
	if err != nil {
		return err
	}
	w.isPython(w.python.pid)
	if w.python.fate >= 0 {
		if err := w.listen(w.python.fate, unix.EPOLLIN, ownerFunc((*worker).readFate)); err != nil {
			return err
		}
	}
	if w.cfg.reload {
		w.log.warningf("Reloader is on. Use in development only!")
		wake, err := w.startReload()
		if err != nil {
			return err
		}
		if err := w.listen(wake, unix.EPOLLIN, ownerFunc((*worker).fileChanged)); err != nil {
			return err
		}
	}
	if w.relays() {
		if err := w.listen(w.python.lanes[0].queue, unix.EPOLLIN, ownerFunc(func(w *worker, _ int, _ uint32) { w.relay() })); err != nil {
			return err
		}
	}
	if err := w.listenTo(w.python.lanes[0]); err != nil {
		return err
	}
	return w.countDescriptors()
}

// listenTo puts a lane's wire under epoll.
func (w *worker) listenTo(l *lane) error {
	l.events = unix.EPOLLIN
	return w.listen(l.wire, unix.EPOLLIN, l)
}

// listenToPipe is called when frames will come through a pipe. What comes over
// the wire then is only of interest when one has said so, so that an event tells
// of it once.
func (w *worker) listenToPipe(l *lane) error {
	if err := l.openPipe(); err != nil {
		return err
	}
	w.change(l.wire, unix.EPOLLIN|unix.EPOLLET)
	return w.listen(l.pipe, unix.EPOLLIN, l)
}

// claim is called when something has come over the wire, and not because of a
// frame that was in the pipe by then. It can be a descriptor whose frame is still
// to come. Bytes would be taken for those of another response.
func (w *worker) claim(l *lane) {
	if p := w.python; p.closed || p.eof || l.lost || l.choked != nil || l.passed >= 0 {
		return
	}
	var b [1]byte
	_, passed, errno := rawRecvmsg(l.wire, b[:])
	if errno == 0 && passed == -1 {
		w.outOfStep(l, errOutOfStep)
	}
	l.keep(passed)
}

// deafen ends listening to a lane.
func (w *worker) deafen(l *lane) {
	w.forget(l.wire)
	if l.pipe >= 0 {
		w.forget(l.pipe)
	}
}

// isPython notes who the Python is. When memory runs out the kernel should
// rather end it than this worker, which can still answer for it.
func (w *worker) isPython(pid int) {
	w.slot.python.Store(uint64(pid))
	if pid == 0 {
		return // the mold will say
	}
	own, _ := strconv.Atoi(strings.TrimSpace(readText("/proc/self/oom_score_adj")))
	adj := strconv.Itoa(min(own+victimScore, 1000))
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(adj), 0); err != nil {
		w.log.debugf("%v", err)
	}
}

// victimScore is added to oom_score_adj, as proc_pid_oom_score_adj(5) has it:
// as if the Python had a tenth of the memory more.
const victimScore = 100

// catchSignals turns signals into bytes on a pipe and returns its read end.
// ABRT is left to the runtime: it comes when this loop hangs, and the runtime's
// answer, the stack of every goroutine, is what one wants to see then.
func (w *worker) catchSignals() (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	caught := make(chan os.Signal, 16)
	signal.Notify(caught, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCHLD,
		unix.SIGXFSZ) // a file that is as long as it may be is an error of the write, too
	go func() {
		for s := range caught {
			_, _ = unix.Write(p[1], []byte{byte(s.(syscall.Signal))})
		}
	}()
	return p[0], nil
}

// serve runs until the worker has nothing left to do.
func (w *worker) serve() {
	w.setTimers()
	for !w.finished() {
		w.turn(w.wait())
	}
}

// obeyDue is when a TERM has to be obeyed of which nobody has said what it means.
func (w *worker) obeyDue() int64 {
	if w.termAt == 0 || w.stopping() {
		return 0
	}
	return w.termAt + int64(groupWait)
}

// parentGone is called when the arbiter is no more.
func (w *worker) parentGone(int, uint32) {
	w.forget(fdLifeline)
	w.log.python = nil // killed with its parent
	w.log.infof("Parent changed, shutting down: <Worker %d>", w.pid)
	w.deadline = w.now + int64(w.cfg.gracefulTimeout)
	w.end()
}

// stopping reports whether this worker takes no more work of its own accord.
func (w *worker) stopping() bool { return w.slot.phase().stops() }

// draining reports whether all workers stop, and this one serves what has been accepted.
func (w *worker) draining() bool { return w.slot.phase() == phaseDraining }

// enter is the one place where a worker's phase changes. The arbiter is told.
func (w *worker) enter(p phase) {
	if from := w.slot.phase(); strict && !slices.Contains(phaseSteps[from], p) {
		panic(fmt.Sprintf("a worker goes from phase %d to %d", from, p))
	}
	w.slot.state.Store(uint64(p))
	_, _ = unix.Write(w.wake, []byte{0})
}

// finished ends a worker that stops: first its Python, then itself.
func (w *worker) finished() bool {
	p := w.python
	if w.stopping() && !p.ended && len(w.listeners) == 0 && w.open == 0 && len(p.busy) == 0 &&
		len(w.waiting) == 0 && !(w.draining() && !p.closed && !w.python.gone && readable(w.takeFD)) {
		p.end()
		if w.python.killAt == 0 {
			w.python.killAt = w.now + int64(w.cfg.gracefulTimeout)
			if w.python.hung != "" { // a thread that nobody waits for
				w.python.killAt = w.now + int64(killDelay)
			}
		}
	}
	return w.python.gone && (w.slot.phase() == phaseQuitting || p.ended || !p.ready)
}

// Signals -------------------------------------------------------------------

func (w *worker) signals(fd int, _ uint32) {
	var b [64]byte
	n, _ := rawRead(fd, b[:])
	for _, s := range b[:n] {
		switch s := syscall.Signal(s); s {
		case unix.SIGTERM:
			if w.termAt == 0 {
				w.termAt = w.now
			}
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
		if w.now >= w.obeyDue() {
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
	if w.cfg.captureOutput && w.log.out.file {
		if err := w.log.out.capture(); err != nil {
			w.log.errorf("capture_output: %v", err)
		}
	}
	// Before its handler is there the signal would end it.
	if w.renamed = !w.python.ready; !w.renamed {
		w.signalPython(unix.SIGUSR1)
	}
}

// retire stops taking work and leaves what has not begun to the siblings, or
// to the worker that replaces this one.
func (w *worker) retire() {
	if w.stopping() {
		return
	}
	w.partLater(true)
	w.enter(phaseRetiring)
	w.disarm()
	w.closeListeners()
	for _, t := range w.waiting {
		w.giveAway(t.conn)
	}
	w.keepWaiting()
	for _, c := range w.conns {
		switch {
		case c == nil || c.gone:
		case c.state == lingering:
			c.closeAt = min(c.closeAt, w.now+int64(lingerIdle))
		case c.state != handshaking && !c.between():
		case c.secure != nil:
			w.stay(c)
		default:
			w.giveAway(c)
			if !c.gone && len(c.in) == 0 {
				w.close(c)
			}
		}
	}
	if !w.python.ready {
		w.killPython(unix.SIGKILL)
	}
}

// end stops for good, as all workers do: what has been accepted is answered,
// what waits to be accepted too.
func (w *worker) end() {
	if p := w.slot.phase(); p == phaseDraining || p == phaseQuitting {
		return
	}
	w.partLater(false)
	w.enter(phaseDraining)
	if w.slot.order.Load() == orderLeave {
		w.disarm()
		w.closeListeners()
	}
	for _, c := range w.conns {
		if c != nil && c.state == lingering {
			c.closeAt = min(c.closeAt, w.now+int64(lingerIdle))
		}
		if c != nil && c.turn != nil && c.turn.taken {
			w.endTaken(c)
		}
		if c == nil || c.gone || c.state != handshaking && !c.between() {
			continue
		}
		// What has come already is not to be lost for want of a look.
		if c.between() && len(c.in) == 0 {
			c.unread = true
			w.advance(c)
		} else if c.state == handshaking && c.secure == nil {
			c.unread = true
			w.readHello(c)
		}
		switch {
		case c.gone || c.state != handshaking && !c.between():
		case c.secure == nil && len(c.in) == 0, c.between() && len(c.in) == 0:
			w.close(c)
		default:
			c.hasten(w.now + int64(lingerIdle))
		}
	}
	if !w.python.ready {
		w.killPython(unix.SIGKILL)
	}
	w.drainBacklog()
}

// drainBacklog closes each listener once nothing waits in its queue. New
// clients are kept out meanwhile: the arbiter has cut the queue's length.
func (w *worker) drainBacklog() {
	kept := w.listeners[:0]
	for _, l := range w.listeners {
		if w.python.ready && !w.python.closed && readable(l.fd) {
			kept = append(kept, l)
			continue
		}
		w.forget(l.fd)
		unix.Close(l.fd)
	}
	w.listeners = kept
}

// quit leaves at once, whatever runs.
func (w *worker) quit() {
	if w.slot.phase() == phaseQuitting {
		return
	}
	w.enter(phaseQuitting)
	w.disarm()
	w.closeListeners()
	p := w.python
	hooked := p.fate >= 0 && p.ready
	if hooked {
		w.signalPython(unix.SIGQUIT) // for worker_int, which has until killAt
	}
	p.end()
	if len(p.busy) > 0 && !hooked || !p.ready {
		w.killPython(unix.SIGKILL)
	} else {
		w.python.killAt = w.now + int64(killDelay)
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
	if w.draining() {
		w.drainBacklog()
	}
	p := w.python
	want := p.ready && !p.closed && !p.eof && (!w.stopping() || w.draining()) &&
		!p.stuck() && len(w.waiting) < depthMax &&
		(!w.full() || w.slowest() != nil) && w.paused <= w.now &&
		(w.alone || p.idle() > 0 || !w.asgi && p.pace < int64(moment)/4)
	if want == w.armed {
		return
	}
	if !want {
		if w.full() {
			w.crowded("new clients wait")
		}
		w.disarm()
		return
	}
	for _, l := range w.listeners {
		_ = w.listen(l.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).accept))
	}
	_ = w.listen(w.takeFD, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).handedOver))
	w.armed = true
}

func (w *worker) disarm() {
	if !w.armed {
		return
	}
	for _, l := range w.listeners {
		w.forget(l.fd)
	}
	w.forget(w.takeFD)
	w.armed = false
}

// full says whether there are as many connections as there may be. Some
// descriptors are left for files that responses consist of.
func (w *worker) full() bool {
	return w.cfg.workerConnections > 0 && w.open >= w.cfg.workerConnections ||
		w.held() >= w.descriptors-min(filesApart, w.descriptors/4)
}

// held is how many descriptors come and go with clients.
func (w *worker) held() int {
	return w.open + w.files + w.pumps + laneDescriptors*(len(w.python.lanes)-1)
}

// countDescriptors finds how many descriptors clients may take. The runtime has
// raised the limit as far as it goes, and programs that are started get theirs
// back.
func (w *worker) countDescriptors() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	next, err := unix.FcntlInt(uintptr(w.ep), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	unix.Close(next)
	w.descriptors = int(min(limit.Cur, math.MaxInt32)) - next - descriptorsApart
	return nil
}

// slowest is the connection that can make way: the longest idle, or without one
// the oldest of those that lag for too long. A body may take its time while it keeps to the
// least rate, and a handshake's place is not free before it is its client's turn.
func (w *worker) slowest() *conn {
	if w.resting.first != nil {
		return w.resting.first
	}
	for {
		c := w.lagging.first
		if c == nil || w.now-c.lagged < int64(placePatience) {
			return nil
		}
		if !(c.reading() && !c.between() && !c.turn.upload.late(w.now, placePatience) || c.shakes() && !c.secure.waits.Load()) {
			return c
		}
		c.unlist()
		w.lag(c)
	}
}

// makeWay closes the slowest connection, as another client wants its place. One
// that has just sent something may not be slow.
func (w *worker) makeWay() bool {
	for range acceptAtOnce {
		c := w.slowest()
		if c == nil {
			return false
		}
		if (c.state == handshaking || c.reading()) && !c.shakes() && readable(c.fd) {
			c.ready(w, c.fd, unix.EPOLLIN)
			if !c.gone {
				continue
			}
		}
		switch {
		case c.gone:
		case c.list == &w.resting:
			w.crowded("idle ones are closed for new ones")
			w.close(c)
		default:
			w.crowded("slow ones are closed for new ones")
			c.unlist()
			if w.yield(c); !c.gone && !c.shakes() {
				w.close(c)
			}
		}
		w.bury() // its descriptor is wanted now
		return true
	}
	return false
}

// crowded tells, once in a while, that clients get in each other's way.
func (w *worker) crowded(remedy string) {
	if w.silent > w.now {
		return
	}
	w.silent = w.now + int64(time.Minute)
	w.log.warningf("%d connections are open, and worker_connections or the limit of open files allows no more; %s", w.open, remedy)
}

// acceptAtOnce bounds what one turn of the loop takes, so that siblings get
// their share of a burst.
const acceptAtOnce = 8

func (w *worker) accept(fd int, _ uint32) {
	var l *listener
	for i := range w.listeners {
		if w.listeners[i].fd == fd {
			l = &w.listeners[i]
		}
	}
	for range acceptAtOnce {
		if l == nil || w.full() && w.slowest() == nil {
			return
		}
		var sa unix.RawSockaddrAny
		nfd, errno := rawAccept(fd, &sa)
		switch errno {
		case 0:
			if w.full() {
				w.makeWay()
			}
			w.admit(l, nfd, &sa)
			if w.asgi && !w.alone {
				w.stepBack(fd)
				return
			}
		case unix.EAGAIN:
			return
		case unix.EMFILE:
			if w.makeWay() {
				continue
			}
			fallthrough
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

// stepBack puts this worker behind its siblings, of whom the kernel wakes the
// one that has watched a listener for longest. Where a connection may stay for
// hours, and with it all of its work, each is to get as many.
func (w *worker) stepBack(fd int) {
	if w.armed {
		w.forget(fd)
		_ = w.listen(fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).accept))
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
	increase(&w.slot.counters.connections, 1)
	w.introduce(c, true)
	w.awaitHead(c)
	w.advance(c)
}

// sayListening tells where the application can be reached.
func (w *worker) sayListening() {
	for _, l := range w.listeners {
		scheme, address := "http", "unix:"+l.peer.serverName
		if w.tls != nil {
			scheme = "https"
		}
		if l.tcp {
			address = net.JoinHostPort(l.peer.serverName, l.peer.serverPort)
		}
		w.log.infof("ASGI server listening on %s://%s", scheme, address)
	}
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

// introduce says what comes first on a connection, before any request: a PROXY
// header unless it has been read, and a TLS handshake.
func (w *worker) introduce(c *conn, opening bool) {
	c.opening = opening && w.cfg.proxyProtocol != "off"
	c.peer.https = w.tls != nil
	if w.tls != nil && !c.opening {
		c.enter(handshaking)
	}
}

// Dispatching ---------------------------------------------------------------

// dispatch writes waiting requests into lanes, as deep as the pace of late
// allows.
//
// The hand-over socket is the one queue that all workers share, so that nobody
// waits behind a slow request while a lane is idle anywhere: what has waited here
// for too long goes there, and a lane that is free first looks there.
func (w *worker) dispatch() {
	patience := w.patience()
	if patience > 0 && !w.stopping() {
		w.takeWaiting()
	}
	for len(w.waiting) > 0 && w.roomForFile() && len(w.waiting) > 0 && !w.servedAll() {
		i := w.next()
		t := w.waiting[i]
		if !t.waits() {
			w.waiting = slices.Delete(w.waiting, i, i+1)
			continue
		}
		l, err := w.pick()
		if l == nil {
			if err == nil && !w.alone && (w.python.stuck() || patience > 0 && w.now-t.since >= patience) && w.giveAway(t.conn) {
				continue
			}
			break
		}
		if !w.hasLeft(t) && !w.write(l, i) {
			break
		}
	}
	w.slot.busy.Store(uint64(w.python.running()))
	if w.servedAll() {
		if w.slot.phase() != phaseStandingDown {
			w.log.infof("Autorestarting worker after current request.")
		}
		w.because(causeMaxRequests)
		w.retire()
	}
	if w.python.broken {
		w.failPython(causeCrash, 502, unix.SIGKILL)
	}
}

// servedAll reports whether this worker has taken as many requests as max_requests allows.
func (w *worker) servedAll() bool {
	return w.maxServed > 0 && w.dispatched >= w.maxServed && !w.stopping()
}

// write writes the request at i, and others behind it where that saves time, into a
// lane; false when there is no room.
func (w *worker) write(l *lane, i int) bool {
	t := w.waiting[i]
	message, body := w.message(w.fbuf[:0], t)
	w.batch = append(w.batch[:0], t)
	if l.streams != nil || w.python.brief() && w.python.batches {
		message, body = w.gather(l, message, body, w.waiting[i+1:])
	}
	if ok, err := l.send(w.batch, message, body, w.now); !ok {
		for _, t := range w.batch {
			t.fed = 0
		}
		if err != nil {
			w.outOfStep(l, err)
		}
		return false
	}
	for _, t := range w.batch {
		t.enter(inLane)
		t.begun, t.lane = w.now, l
		w.slot.counters.wait.observe(time.Duration(w.now - t.since))
	}
	w.dispatched += len(w.batch)
	w.overload.turns++
	w.waiting = slices.Delete(w.waiting, i, i+len(w.batch))
	return true
}

// batchMax is after how many bytes a message of several requests ends.
const batchMax = 16 << 10

// gather has the requests that wait behind the first of a message go with it while
// there is room: to be received one by one would cost each a system call on
// either side, and a loop that is busy receives neither.
func (w *worker) gather(l *lane, message, body []byte, behind []*turn) ([]byte, []byte) {
	most := w.python.idle()
	if l.streams == nil {
		most = w.python.depth() - len(l.flight)
	}
	if w.maxServed > 0 && !w.stopping() {
		most = min(most, w.maxServed-w.dispatched)
	}
	for _, t := range behind {
		if len(w.batch) >= most || len(message)+len(body) >= batchMax || w.batch[len(w.batch)-1].indirect ||
			!t.waits() || !w.roomForFiles() {
			break
		}
		at := len(message) + len(body)
		longer, rest := w.message(append(message, body...), t)
		if len(longer)+len(rest) > queueMax {
			t.fed = 0
			return longer[:at], nil
		}
		message, body = longer, rest
		w.batch = append(w.batch, t)
	}
	return message, body
}

// pick is the lane for the next request. When there cannot be one more, those
// there are have to do.
func (w *worker) pick() (*lane, error) {
	n := len(w.python.lanes)
	l, err := w.python.pick()
	if err == nil && len(w.python.lanes) > n {
		err = w.listenTo(l)
	}
	if err != nil {
		if w.python.most = max(1, n-1); n > 1 {
			w.log.warningf("only %d requests at a time: %v", w.python.most, err)
			return w.python.pick()
		}
		w.log.errorf("no request can be served: %v", err)
		w.failPython(causeCrash, 503, 0)
		return nil, err
	}
	return l, nil
}

// roomForFile says whether Python may send one more file in place of a body, or
// have one more lane: a descriptor for which there is no room would be lost.
func (w *worker) roomForFile() bool {
	if w.roomForFiles() {
		return true
	}
	n := w.held() + laneDescriptors
	for _, l := range w.python.busy {
		n += len(l.flight) + max(0, len(l.streams)-w.talks)
	}
	return n < w.descriptors || w.makeWay()
}

// roomForFiles says whether it may, even if every connection has one sent.
func (w *worker) roomForFiles() bool {
	return w.held()+laneDescriptors+w.open-w.talks < w.descriptors
}

// message appends the frame for the queue: the environ and, if there is room for
// it as a whole, the body, which stays where it is.
func (w *worker) message(b []byte, t *turn) (longer, body []byte) {
	p := w.python
	if p.number++; p.number == 0 {
		p.number++
	}
	t.number = p.number
	at := len(b)
	b, alike := w.halves(t, append(b, make([]byte, frameHeader)...))
	n := len(b) - at
	f := frame{number: t.number, kind: kindRequest, meta: uint32(n - frameHeader)}
	rest := t.body[t.fed:]
	complete := !t.incomplete() && t.spooled == nil
	t.indirect = n > queueMax
	switch {
	case t.indirect:
		f.kind, f.length, f.meta = kindIndirect, f.meta, 0
		b = b[:at+frameHeader]
		if !complete || len(rest) > 0 {
			f.flags = flagMore
		}
	case complete && n+len(rest) <= queueMax:
		body = rest
		t.fed += len(body)
		f.length = f.meta + uint32(len(body))
	default:
		f.flags = flagMore
		f.length = f.meta
	}
	if w.asgi && len(p.lanes[0].streams)-w.talks >= crowd {
		f.flags |= flagCrowd
	}
	f.append(b[:at])
	if !t.indirect {
		binary.LittleEndian.PutUint16(b[at+frameHeader-2:], uint16(alike))
	}
	w.fbuf = b[:0]
	return b, body
}

// halves appends the environ as a dict of what a client's requests have in
// common, alike bytes of marshal, and a tuple of what each has of its own:
// Python, which knows many of these dicts by their bytes, copies them then, in a
// third of the time that it takes to make one. Where that is unlikely it is one
// dict, and alike is 0.
func (w *worker) halves(t *turn, b []byte) (out []byte, alike int) {
	if w.asgi || t.req.chunked || w.cfg.counted {
		return w.environ(t, b), 0
	}
	at := len(b)
	b, length := t.req.appendCommon(append(b, marshalDict), &t.conn.peer, w.scriptName)
	if len(b)-at >= alikeMax {
		return append(t.req.appendOwn(b, &t.conn.peer, w.scriptName, length), marshalDictEnd), 0
	}
	b = append(b, marshalDictEnd)
	alike = len(b) - at
	b = t.req.appendOwnTuple(b, &t.conn.peer, w.scriptName, length)
	if len(b) > queueMax {
		return w.environ(t, b[:at]), 0 // as Python will ask for it
	}
	return b, alike
}

func (w *worker) environ(t *turn, b []byte) []byte {
	if w.asgi {
		t.trailed = true // ASGI knows no trailers of requests
		return w.appendScope(b, t)
	}
	b = append(b, marshalDict)
	b = t.req.appendEnviron(b, &t.conn.peer, w.scriptName)
	if t.req.chunked {
		// The application reads it in this list, which is filled when the body
		// has ended.
		b = appendTrailer(appendMarshalText(b, "gunicorn.trailers"), t.trailer)
		t.trailed = t.decoder == nil
	}
	if w.cfg.counted {
		b = appendMarshalInt(appendMarshalText(b, "gunicorn.req_number"), int64(t.conn.served)+1)
	}
	return append(b, marshalDictEnd)
}

// feed answers Python's demand for body as soon as there is some.
func (w *worker) feed(t *turn) {
	if t.talk != nil {
		w.hear(t)
		return
	}
	for t.asked && (!t.conn.gone || t.broken != nil) {
		f := frame{number: t.number, kind: kindBody}
		if t.indirect {
			if w.asgi && !t.lane.roomy() {
				t.lane.awaitRoom(t)
				return
			}
			t.indirect, t.asked, t.want = false, false, 0
			f.kind = kindRequest
			b := w.environ(t, w.fbuf[:0])
			w.fbuf = b[:0]
			if w.answer(t.lane, f, b); t.conn.fd < 0 && w.asgi {
				w.tellGone(t, 1006, "", -1) // it could not be told before this
			}
			return
		}
		b, onDisk := t.body[t.fed:], t.spooled.left() > 0
		if onDisk {
			b = w.unspool(t, t.want)
		}
		if len(b) > 0 {
			if w.asgi && !t.lane.roomy() {
				t.lane.awaitRoom(t)
				break
			}
			b = b[:min(len(b), t.want, feedMax)]
			if !onDisk {
				t.fed += len(b)
			} else if t.spooled.left() == 0 {
				w.dropSpooled(t)
			}
			if t.spooled.left() == 0 && t.fed == len(t.body) && !t.incomplete() && t.hasTrailed() {
				f.flags = flagLast
			}
			t.want -= len(b)
			t.asked = w.asgi && t.want > 0 && f.flags == 0
			w.answer(t.lane, f, b)
			continue
		}
		switch {
		case t.broken != nil:
			w.breakOff(t, &f)
		case !t.incomplete():
			f.flags = flagLast
			if !t.hasTrailed() {
				t.asked, t.trailed = false, true
				b := appendTrailer(w.fbuf[:0], t.trailer)
				w.fbuf = b[:0]
				f.meta = uint32(len(b))
				w.answer(t.lane, f, b)
				return
			}
		default:
			if w.readBody(t) {
				continue
			}
			if t.broken == nil {
				t.lane.client.wait(w.now)
				return
			}
			w.breakOff(t, &f)
		}
		t.asked, t.want = false, 0
		w.answer(t.lane, f, nil)
	}
	// Read ahead up to the limit, so that the application finds it here, and not
	// before there is much room: the rest has to be moved to make it.
	for room := w.holdable() / 2; len(t.body)-t.fed < room && t.broken == nil && t.incomplete(); {
		room = w.holdable()
		if !w.readBody(t) {
			return
		}
	}
	t.upload.pause(w.now)
}

// hasTrailed says whether Python knows all that came after the body.
func (t *turn) hasTrailed() bool { return t.trailed || len(t.trailer) == 0 }

// breakOff makes f tell Python that, and why, no more of the body will come.
func (w *worker) breakOff(t *turn, f *frame) {
	f.flags, f.meta, t.told = flagBroken, uint32(t.broken.status), true
	if t.broken.left {
		f.meta = 499
	}
}

func (w *worker) answer(l *lane, f frame, payload []byte) {
	if l.streams != nil {
		w.post(l, f, payload)
		return
	}
	l.client.pause(w.now)
	if err := l.answer(f, payload); err != nil {
		w.outOfStep(l, err)
	}
	w.watchWire(l)
}

// watchWire asks for an event when the wire has room again, while something
// waits for that, and for none while a slow client holds up reading, or a pipe has
// to wait for what comes over the wire.
func (w *worker) watchWire(l *lane) {
	events := uint32(0)
	if l.choked == nil && !l.apart() {
		events |= unix.EPOLLIN
	}
	if len(l.out) > 0 {
		events |= unix.EPOLLOUT
	}
	changed := events ^ l.events
	if changed == 0 || w.python.closed || l.lost {
		return
	}
	l.events = events
	if l.pipe < 0 {
		w.change(l.wire, events)
		return
	}
	if changed&unix.EPOLLIN != 0 {
		w.change(l.pipe, events&unix.EPOLLIN)
	}
	if changed&unix.EPOLLOUT != 0 {
		w.change(l.wire, events|unix.EPOLLIN|unix.EPOLLET)
	}
}

// discardable is how much of a body may be thrown away for the connection's
// sake. With ASGI an answer may come before a body has, which with WSGI would
// have come first.
func (w *worker) discardable() int {
	if w.asgi {
		return held
	}
	return discardMax
}

// holdable is how much of one body or response may be held: less when many
// connections hold much.
func (w *worker) holdable() int {
	if w.pool.out > w.pool.limit/2 {
		return heldPressed
	}
	return held
}

// lanesDue is when a lane has to be looked at.
func (w *worker) lanesDue() (due int64) {
	limit := w.requestLimit()
	for _, l := range w.python.busy {
		due = sooner(due, l.due())
		if limit > 0 && l.client.since == 0 {
			due = sooner(due, w.now+int64(limit-l.ran(w.now)))
		}
	}
	return due
}

// sooner is the earlier of two times, of which 0 means never.
func sooner(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// lookAtLanes finds requests that have run for more than a moment, or for longer than
// they may.
func (w *worker) lookAtLanes() {
	limit := w.requestLimit()
	for i := 0; i < len(w.python.busy); {
		l := w.python.busy[i]
		if limit > 0 && l.ran(w.now) >= limit {
			w.overdue(l)
		} else if at := l.due(); at != 0 && at < w.now {
			w.stall(l)
		}
		if i < len(w.python.busy) && w.python.busy[i] == l {
			i++
		}
	}
}

// stall is called when a request has run for more than a moment: whoever waits
// behind it should not.
func (w *worker) stall(l *lane) {
	if l.streams != nil {
		w.blocked(l)
		return
	}
	if l.halted != 0 {
		w.giveBack(l)
		return
	}
	if !l.headBegun() {
		// It is the machine that is busy, and would be for siblings too.
		l.patience = w.now
		return
	}
	l.stalled = true
	if w.alone && w.python.most == 1 {
		return
	}
	w.giveBack(l)
	l.halt(w.now)
}

// giveBack takes what Python has not begun back among those that wait.
func (w *worker) giveBack(l *lane) {
	w.putBack(append(l.leftOver(), l.takeBack()...))
}

// giveAllBack does so for a lane from which nothing more is believed.
func (w *worker) giveAllBack(l *lane) {
	if l.halt(w.now); l.halted != 0 {
		time.Sleep(settled)
	}
	w.giveBack(l)
}

// leftOf puts back what Python has left of a message, unless that has been taken
// back before.
func (w *worker) leftOf(l *lane, number uint32) error {
	t := l.running()
	if t == nil || t.number != number {
		return nil
	}
	halt := l.python.halts[l.index].Load()
	asked := func(other *turn) bool { return other.message == t.message && other.number == halt }
	if t.started || t.taken || t.asked || !slices.ContainsFunc(l.flight, asked) {
		return errOutOfStep
	}
	l.halted = 0
	w.putBack(l.retrieve(t.message))
	return nil
}

// putBack has requests wait that were in a lane, before all others.
func (w *worker) putBack(back []*turn) {
	w.dispatched -= len(back)
	back = slices.DeleteFunc(back, func(t *turn) bool {
		gone := t.conn.gone // the client has left in the meantime
		if t.enter(waiting); gone {
			w.record(t, []byte("499"), true)
			w.release(t.conn)
		}
		t.fed = 0
		return gone
	})
	if len(back) > 0 {
		w.waiting = append(back, w.waiting...)
		w.keepWaiting()
	}
}

// standDown asks for a replacement and serves until that does: the arbiter says when.
func (w *worker) standDown(cause uint64) {
	w.because(cause)
	w.enter(phaseStandingDown)
}

// aheadLeast is the least max_requests for which the end is foreseen. Who sets
// less wants a fresh process for each few requests.
const aheadLeast = 50

// outgrow lets a worker go that is about to have served max_requests, or whose
// Python has grown past max_memory.
func (w *worker) outgrow() {
	last := w.dispatched - w.counted
	w.counted = w.dispatched
	if w.slot.phase() != phaseServing {
		return
	}
	// What comes until a replacement has booted, and until the next look.
	soon := int64(last) * (w.bootTook + 2*int64(time.Second)) / int64(time.Second)
	if w.maxServed >= aheadLeast && int64(w.maxServed-w.dispatched) <= soon {
		w.log.infof("Autorestarting worker after current request.")
		w.standDown(causeMaxRequests)
		return
	}
	if w.cfg.maxMemory == 0 || w.dispatched == 0 { // one that is too large from the start is no better when it is new
		return
	}
	if python := w.slot.python.Load(); python > 0 {
		if n := residentBytes(int(python)); n > int64(w.cfg.maxMemory) {
			w.log.infof("Worker (pid:%d): its Python (pid:%d) has %sB of memory, which is more than max_memory; another takes its place",
				w.pid, python, size(uint64(n)))
			w.standDown(causeMaxMemory)
		}
	}
}

// Time ----------------------------------------------------------------------

// tick runs once a second: the heartbeat, and every limit in time.
func (w *worker) tick() {
	w.nextTick = w.now + int64(time.Second)
	w.slot.heartbeat.Store(sharedTime())
	w.slot.waiting.Store(uint64(len(w.waiting)))
	w.slot.lanes.Store(uint64(len(w.python.lanes)))
	for _, c := range w.conns {
		if c != nil && !c.gone {
			w.hurry(c)
			w.age(c)
		}
	}
	if l := w.python.oldest(); l != nil {
		if t := l.eldest(); t != nil {
			w.slot.setRunning(t.line(), max(t.begun, l.begun)+paused.Load())
		}
	}
	w.sweepWaiting()
	w.askPython()
	if w.python.killAt != 0 && w.python.killAt <= w.now {
		w.killPython(unix.SIGKILL)
	}
	if w.deadline != 0 && w.deadline <= w.now {
		w.quit()
	}
	if n := w.access.recovered(); n > 0 {
		w.log.warningf("%d records of the access log were lost", n)
	}
	if w.python.orphaned {
		w.lookForPython()
	}
	w.memory.look()
	w.outgrow()
	w.pool.trim()
	if w.tls != nil {
		w.tls.forgetLeft()
		w.renew()
	}
}

// hurry ends what a client has let wait for too long.
func (w *worker) hurry(c *conn) {
	t := c.turn
	switch {
	case c.expires != 0 && c.expires <= w.now:
		w.expire(c)
	case w.refuses(c):
		w.log.infof("%s: ip=%s does not take its response; closing the connection", t.line(), c.peer.remoteAddr)
		c.reset() // or the kernel would hold for hours what it waits for
		w.lost(c)
	case t == nil:
	case w.asgi && t.state == inLane && w.cfg.requestTimeout > 0 && !t.started &&
		w.now-t.begun >= int64(w.cfg.requestTimeout):
		w.overdueStream(t)
	case w.asgi && t.state == inLane && !c.watched:
		w.watch(c) // an application that waits for long wants to know when its client leaves
	case t.talk != nil && t.talk.bye != nil && t.lane != nil && w.now >= t.talk.byeBy:
		w.answerBye(t)
	case t.talk != nil && t.lane != nil && !c.pending():
		w.keepUp(t)
	case t.upload.late(w.now, w.cfg.clientBodyTimeout):
		w.breakBody(t, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(t)
	case !w.asgi && t.state == inLane && t == t.lane.running() && t.lane.client.late(w.now, w.clientLimit()):
		w.tooSlow(t)
	}
}

// expire ends a wait for a head, for a handshake, or after the last answer.
func (w *worker) expire(c *conn) {
	switch {
	case c.shakes():
		c.secure.giveUp()
		c.expires = 0
	case c.between() && len(c.in) > 0 && !w.draining():
		w.refuse(c, newBadRequest(408, "the request did not come in time", ""))
	default:
		w.close(c) // silently: there is no request yet, or its answer has been sent
	}
}

// requestLimit is how long one request may run, 0 without a limit.
func (w *worker) requestLimit() time.Duration {
	if w.asgi {
		return 0 // each stream has its own
	}
	if w.python.threads {
		return w.cfg.requestTimeout
	}
	return w.clientLimit()
}

// clientLimit is how long a lane waits in all for the client of one request, 0
// without a limit: nobody else is served there meanwhile.
func (w *worker) clientLimit() time.Duration {
	limit := w.cfg.requestTimeout
	if w.cfg.timeout > 0 && (limit == 0 || w.cfg.timeout < limit) {
		limit = w.cfg.timeout
	}
	return limit
}

// tooSlow ends the wait of a lane for its client. The application goes on, and
// is told when it reads or writes.
func (w *worker) tooSlow(t *turn) {
	if t.lane.choked != t {
		w.breakBody(t, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(t)
		return
	}
	w.log.infof("%s: ip=%s takes its response too slowly for an application that has a limit in time; closing the connection",
		t.line(), t.conn.peer.remoteAddr)
	t.conn.reset() // or the kernel would hold for hours what it waits for
	w.lost(t.conn)
}

// overdue is called when the running request has used up its time.
func (w *worker) overdue(l *lane) {
	t := l.running()
	seconds := l.ran(w.now).Round(time.Second)
	w.python.hung = t.line() + " from " + t.conn.peer.remoteAddr
	w.log.criticalf("WORKER TIMEOUT (pid:%d): %s has run for %v", w.pid, w.python.hung, seconds)
	if w.python.threads {
		w.because(causeTimeout)
		w.loseLane(l)
		return
	}
	w.failPython(causeTimeout, 504, unix.SIGABRT)
}

// loseLane gives up one thread, which cannot be ended alone. The others finish
// what they have begun, and then a new worker has to do.
func (w *worker) loseLane(l *lane) {
	w.askFor(flagStacks)
	w.giveAllBack(l)
	l.lost = true
	w.deafen(l)
	w.giveUp(l, newBadRequest(504, "", ""))
	increase(&w.slot.counters.failures, 1)
	w.noteRunning()
	w.retire()
}

// giveUp answers the request that a lane has begun in place of Python. Nothing
// that the lane says from now on reaches anybody.
func (w *worker) giveUp(l *lane, bad *badRequest) {
	list := l.inPython()
	l.flight, l.choked, l.halted = nil, nil, 0
	clear(l.streams)
	l.owner = nil
	l.rest()
	for _, t := range list {
		w.answerFor(t, bad)
	}
}

// answerFor answers a request in place of Python.
func (w *worker) answerFor(t *turn, bad *badRequest) {
	if w.obufFor == t.conn {
		w.obufFor, w.obuf = nil, w.obuf[:0]
	}
	t.conn.keep, t.refused, t.lane = false, true, nil
	if t.started || t.taken {
		if t.taken {
			t.status = append(t.status[:0], "101"...)
		}
		w.record(t, t.status, true)
		if t.talk != nil && !t.talk.within && !t.conn.gone {
			t.enter(draining)
			w.send(t.conn, appendWSClose(nil, 1011, ""), nil)
			w.drained(t.conn)
			return
		}
		t.conn.forbidEnd()
		w.close(t.conn)
		return
	}
	w.record(t, []byte(strconv.Itoa(bad.status)), true)
	if t.conn.gone {
		w.release(t.conn)
	} else {
		w.page(t.conn, bad)
	}
}

// askPython sees to it that the main thread of a Python with threads is alive:
// nobody else would notice when an extension module holds the interpreter's
// lock, or a greenlet never yields.
func (w *worker) askPython() {
	p := w.python
	if !p.threads && !w.asgi || w.cfg.timeout == 0 || !p.ready || p.closed || p.ended || w.python.gone {
		return
	}
	if w.python.askedAt == 0 {
		if len(p.busy) > 0 {
			w.askFor(0)
		}
		return
	}
	silent := time.Duration(w.now - w.python.askedAt)
	if silent < w.cfg.timeout {
		return
	}
	w.python.hung = "nothing"
	if l := p.oldest(); l != nil {
		if t := l.eldest(); t != nil {
			w.python.hung = t.line() + " from " + t.conn.peer.remoteAddr
		}
	}
	w.log.criticalf("WORKER TIMEOUT (pid:%d): its Python has not responded for %v, running %s", w.pid, silent.Round(time.Second), w.python.hung)
	w.failPython(causeTimeout, 504, unix.SIGABRT)
}

func (w *worker) askFor(flags byte) {
	if w.python.ask(flags) && w.python.askedAt == 0 {
		w.python.askedAt = w.now
	}
}

// failPython gives up the Python: the requests that it has begun are answered with
// status, and the process gets sig, unless that is 0. Nothing that it says from now on
// reaches anybody. SIGABRT has it write its stacks, and SIGKILL follows.
func (w *worker) failPython(cause uint64, status int, sig syscall.Signal) {
	p := w.python
	w.because(cause)
	bad := newBadRequest(status, "", "")
	for _, l := range slices.Clone(p.busy) {
		w.giveAllBack(l)
	}
	p.closed, p.broken = true, false
	for _, l := range p.lanes {
		if !l.lost {
			w.deafen(l)
		}
	}
	for _, l := range slices.Clone(p.busy) {
		w.giveUp(l, bad)
	}
	w.slot.begun.Store(0)
	w.slot.busy.Store(0)
	increase(&w.slot.counters.failures, 1)
	w.retire()
	// Whoever could not be handed over gets an answer that says to try again.
	for _, t := range w.waiting {
		if t.waits() {
			w.refuseService(t)
		}
	}
	w.waiting = nil
	if sig != 0 {
		w.killPython(sig)
	}
	if sig == unix.SIGABRT {
		p.killAt = w.now + int64(killDelay)
	}
}

func (w *worker) refuseService(t *turn) {
	w.record(t, []byte("503"), true)
	w.page(t.conn, newBadRequest(503, "", ""))
}

// outOfStep is called when Python speaks no frames any more, or hears none. It is
// not believed from then on, but given up by dispatch, at the end of the turn: who
// calls this may be at work on one of its requests.
func (w *worker) outOfStep(l *lane, err error) {
	if w.python.closed || l.lost || w.python.gone {
		return
	}
	w.log.errorf("Worker (pid:%d): its Python (pid:%d) does not speak as it should (%v) and is replaced", w.pid, w.python.pid, err)
	w.python.closed, w.python.broken = true, true
}

func (w *worker) killPython(sig syscall.Signal) {
	w.python.killAt = 0
	w.signalPython(sig)
}

func (w *worker) signalPython(sig syscall.Signal) {
	if !w.python.gone && w.python.pid > 0 {
		_ = unix.Kill(w.python.pid, sig)
	}
}

// reap takes note of the Python's death.
func (w *worker) reap() {
	for {
		pid, status := reapAny()
		if pid == 0 {
			return
		}
		if w.python != nil && pid == w.python.pid {
			w.died(status)
		}
	}
}

// readFate reads what the mold says of the Python that it has forked: its pid,
// and in the end how it died. A mold that is gone says nothing.
func (w *worker) readFate(int, uint32) {
	var b [16]byte
	n, errno := rawRead(w.python.fate, b[:])
	if errno == unix.EAGAIN {
		return
	}
	if n == 0 {
		w.forget(w.python.fate)
		w.python.orphaned = true
		w.lookForPython()
		return
	}
	for said := b[:n]; len(said) >= 5; said = said[5:] {
		number := binary.LittleEndian.Uint32(said[1:])
		if said[0] == 'P' {
			w.python.pid = int(number)
			w.isPython(int(number))
			if w.stopping() && !w.python.ready {
				w.killPython(unix.SIGKILL)
			}
		} else if !w.python.gone {
			w.died(unix.WaitStatus(number))
		}
	}
}

// lookForPython is what remains when nobody will tell of its death.
func (w *worker) lookForPython() {
	if !w.python.gone && (w.python.pid == 0 || unix.Kill(w.python.pid, 0) != nil) {
		w.died(0)
	}
}

// died is called when the Python has ended.
func (w *worker) died(status unix.WaitStatus) {
	p := w.python
	if p.ready && !p.closed {
		for _, l := range p.lanes { // what it said before it died still holds
			w.replies(l)
		}
	}
	w.python.gone = true
	w.python.killAt = 0
	switch {
	case !p.ready && !w.stopping():
		if w.exit = exitStatus(status); status.Signaled() {
			w.exit = 0 // said here, and need not be said again
			w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s It was loading the application.", w.pid, p.pid, w.fate(status))
		}
		p.closed = true
		w.closeListeners()
		w.logStacks()
	case w.python.hung != "":
		w.logStacks()
	case p.closed || w.slot.phase() == phaseQuitting || !p.ready || p.ended && len(p.busy) == 0:
	default:
		doing := ""
		for _, l := range slices.Clone(p.busy) {
			w.giveAllBack(l)
			for _, t := range l.inPython() {
				if len(doing) < fateMax {
					doing += ", " + t.line() + " from " + t.conn.peer.remoteAddr
				}
			}
		}
		if doing != "" {
			doing = " It was running " + doing[len(", "):]
		}
		w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s%s", w.pid, p.pid, w.fate(status), doing)
		w.logStacks()
		w.failPython(causeCrash, 502, 0)
	}
}

// because notes why this worker leaves; the first reason is the one.
func (w *worker) because(cause uint64) {
	if w.slot.cause.Load() == causeExit {
		w.slot.cause.Store(cause)
	}
}

// fate says how the Python has ended.
func (w *worker) fate(status unix.WaitStatus) string {
	text, memory := w.memory.fate(status)
	if memory {
		w.slot.cause.Store(causeMemory)
	}
	return text
}

// logStacks shows what faulthandler wrote.
func (w *worker) logStacks() {
	if s := w.python.stacks(); s != "" {
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
