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
	"runtime"
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

// The words beside the descriptor in an epoll event say in their low bits what it is.
const (
	onBits = 8
	onMask = 1<<onBits - 1
)

const (
	onListener = iota
	onHandover
	onClient
	onWire
	onSignal
	onLifeline
	onFate
	onRelay
	onReload
	onHandshakes
	onPump
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

	ep        int
	now       int64 // monotonic, of this turn of the loop
	listeners []listener
	armed     bool
	paused    int64         // accepting is, until then
	giveFD    int           // hand-over, the end for sending
	takeFD    int           // and the end for receiving
	alone     bool          // no siblings: nothing is gained by handing over
	tls       *terminator   // nil without TLS
	pumps     map[int]*conn // by their plain descriptors

	python  *python
	lanes   []*lane   // by the descriptors of their wires and pipes
	reload  *reloader // nil without --reload
	waiting []*conn   // complete requests, oldest first
	late    []*conn   // those that go behind them, as their clients may leave too soon
	leaving leaving
	conns   []*conn // by descriptor
	open    int
	serial  int32 // of the newest connection
	files   int   // to be sent, or of the spool
	spool   spool
	resting idlers // idle connections, the longest idle first
	lagging idlers // those on which a part of a request or of a handshake has come

	descriptors int   // that connections, files, pumps and lanes may take
	silent      int64 // about a crowd, until then
	gaveWay     int   // connections that ended for want of memory, of which the log does not know yet
	hushed      int64 // about these, until then
	pool        pool
	idle        []*request // parsed heads for reuse

	rbuf    []byte // what comes from any client, until it is known how much that is
	obuf    []byte // what goes to obufFor next
	obufFor *conn
	again   []*conn // had their turn and could go on
	resp    response
	text    []byte // latin-1 of headers that are not ASCII
	fbuf    []byte
	batch   []*conn // whose requests go into one message
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

	renamed    bool  // the log files are, and Python, which boots, does not know yet
	told       bool  // TERM came
	obeyAt     int64 // and, if nobody says what it means, means this worker alone from then on
	stopping   bool  // takes no more work
	ending     bool  // and so do all siblings
	deadline   int64 // of stopping, once the arbiter is gone
	quitting   bool
	killAt     int64 // when to kill the Python
	pythonGone bool
	memory     memoryWatch
	moldGone   bool   // and will not say when the Python ends
	hung       string // what was running when the Python was given up
	askedAt    int64  // when it was asked whether it is alive, 0 if it has answered
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
	w.loop()
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
	w.now = monotonic()
	w.born = w.now
	w.slot.heartbeat.Store(sharedTime())
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
	if err := epollAdd(w.ep, r, unix.EPOLLIN, onSignal); err != nil {
		return err
	}
	if err := epollAdd(w.ep, fdLifeline, unix.EPOLLIN|unix.EPOLLRDHUP, onLifeline); err != nil {
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
		if err := epollAdd(w.ep, w.python.fate, unix.EPOLLIN, onFate); err != nil {
			return err
		}
	}
	if w.cfg.reload {
		w.log.warningf("Reloader is on. Use in development only!")
		wake, err := w.startReload()
		if err != nil {
			return err
		}
		if err := epollAdd(w.ep, wake, unix.EPOLLIN, onReload); err != nil {
			return err
		}
	}
	if w.relays() {
		if err := epollAdd(w.ep, w.python.lanes[0].queue, unix.EPOLLIN, onRelay); err != nil {
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
	return w.listenAt(l, l.wire)
}

func (w *worker) listenAt(l *lane, fd int) error {
	for fd >= len(w.lanes) {
		w.lanes = append(w.lanes, make([]*lane, max(64, fd+1-len(w.lanes)))...)
	}
	w.lanes[fd] = l
	return epollAdd(w.ep, fd, unix.EPOLLIN, onWire)
}

// listenToPipe is called when frames will come through a pipe. What comes over
// the wire then is only of interest when one has said so, so that an event tells
// of it once.
func (w *worker) listenToPipe(l *lane) error {
	if err := l.openPipe(); err != nil {
		return err
	}
	epollMod(w.ep, l.wire, unix.EPOLLIN|unix.EPOLLET, onWire)
	return w.listenAt(l, l.pipe)
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
	epollDel(w.ep, l.wire)
	if l.pipe >= 0 {
		epollDel(w.ep, l.pipe)
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

// loop runs until the worker has nothing left to do.
func (w *worker) loop() {
	events := make([]unix.EpollEvent, 128)
	w.now = monotonic()
	nextTick := w.now + int64(time.Second)
	for !w.finished() {
		wait := nextTick - w.now
		limit := w.requestLimit()
		for _, l := range w.python.busy {
			if at := l.due(); at != 0 {
				wait = min(wait, at-w.now)
			}
			if limit > 0 && l.client.since == 0 {
				wait = min(wait, int64(limit-l.ran(w.now)))
			}
		}
		if w.obeyAt != 0 && !w.stopping {
			wait = min(wait, w.obeyAt-w.now)
		}
		if w.partAt != 0 {
			wait = min(wait, w.partAt-w.now)
		}
		if c := w.lagging.first; c != nil && !w.armed {
			wait = sooner(wait, c.since+int64(placePatience)-w.now)
		}
		if t := w.tls; t != nil && len(t.queue) > 0 {
			t.makeRoom(w.now, len(t.queue))
			wait = sooner(wait, t.running[0].begun+int64(placePatience)-w.now)
		}
		if patience := w.patience(); len(w.waiting) > 0 && patience > 0 {
			wait = sooner(wait, w.waiting[0].since+patience-w.now)
		}
		if left := w.log.statsd.flush(w.now); left >= 0 {
			wait = min(wait, left)
		}
		if len(w.again) > 0 || len(w.late) > 0 && len(w.waiting) == 0 && w.python.idle() > 0 {
			wait = 0
		}
		n := epollWait(w.ep, events, time.Duration(max(wait, 0)))
		w.now = wake(w.now)
		w.clock.refresh()
		for i := range events[:n] {
			w.handle(&events[i])
			w.relieve()
		}
		if w.tls != nil && w.tls.alone && len(w.tls.running) > 0 {
			runtime.Gosched()
		}
		w.goOn()
		w.flushOut()
		if w.told && !w.stopping {
			w.obey()
		}
		if w.now >= nextTick {
			w.tick()
			nextTick = w.now + int64(time.Second)
		}
		if w.partAt != 0 && w.partAt <= w.now {
			w.partAll()
			w.flushOut()
		}
		w.lookAtLanes(limit)
		w.dispatch()
		w.flushStreams()
		w.arm()
		w.access.flush()
	}
}

// sooner is the wait for what is due at a time of its own, if that is still to come.
func sooner(wait, left int64) int64 {
	if left > 0 {
		return min(wait, left)
	}
	return wait
}

func (w *worker) handle(e *unix.EpollEvent) {
	fd := int(e.Fd)
	switch e.Pad & onMask {
	case onListener:
		w.accept(fd)
	case onHandover:
		// An event that came before may have changed our mind: who leaves
		// must not be given anything any more.
		if w.armed {
			w.takeOver()
		}
	case onClient:
		// Another event of this turn may have closed the connection that is
		// meant, and accepted one with the same descriptor.
		if c := w.conns[fd]; c != nil && c.word() == e.Pad {
			w.client(c, e.Events)
		}
	case onWire:
		l := w.lanes[fd]
		l.flush()
		w.watchWire(l)
		if e.Events&^unix.EPOLLOUT != 0 {
			stray, taken := l.pipe >= 0 && fd == l.wire && unread(fd) > 0, l.taken
			w.replies(l)
			if stray && taken == l.taken {
				w.claim(l)
			}
		}
	case onSignal:
		w.signals(fd)
	case onFate:
		w.readFate()
	case onRelay:
		w.relay()
	case onReload:
		w.fileChanged(fd)
	case onPump:
		if c := w.pumps[fd]; c != nil {
			w.move(c)
		}
	case onHandshakes:
		w.handshakesEnded()
	case onLifeline:
		epollDel(w.ep, fdLifeline)
		w.log.python = nil // killed with its parent
		w.log.infof("Parent changed, shutting down: <Worker %d>", w.pid)
		w.deadline = w.now + int64(w.cfg.gracefulTimeout)
		w.end()
	}
}

// finished ends a worker that stops: first its Python, then itself.
func (w *worker) finished() bool {
	p := w.python
	if w.stopping && !p.ended && len(w.listeners) == 0 && w.open == 0 && len(p.busy) == 0 &&
		len(w.waiting) == 0 && !(w.ending && !p.closed && !w.pythonGone && readable(w.takeFD)) {
		p.end()
		if w.killAt == 0 {
			w.killAt = w.now + int64(w.cfg.gracefulTimeout)
			if w.hung != "" { // a thread that nobody waits for
				w.killAt = w.now + int64(killDelay)
			}
		}
	}
	return w.pythonGone && (w.quitting || p.ended || !p.ready)
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
	if w.stopping {
		return
	}
	w.stopping = true
	w.partLater(true)
	w.slot.state.Store(stateStopping)
	_, _ = unix.Write(w.wake, []byte{0}) // the arbiter may start the next
	w.disarm()
	w.closeListeners()
	w.recall(len(w.late))
	for _, c := range w.waiting {
		w.giveAway(c)
	}
	w.keepWaiting()
	for _, c := range w.conns {
		switch {
		case c == nil:
		case c.state == lingering:
			c.closeAt = min(c.closeAt, w.now+int64(lingerIdle))
		case c.state > readingHead:
		case c.secure != nil:
			w.stay(c)
		default:
			w.giveAway(c)
			if c.fd >= 0 && len(c.in) == 0 {
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
	if w.ending {
		return
	}
	w.partLater(false)
	w.ending, w.stopping = true, true
	w.slot.state.Store(stateStopping)
	if w.slot.order.Load() == orderLeave {
		w.disarm()
		w.closeListeners()
	}
	for _, c := range w.conns {
		if c != nil && c.state == lingering {
			c.closeAt = min(c.closeAt, w.now+int64(lingerIdle))
		}
		if c != nil && c.taken {
			w.endTaken(c)
		}
		if c == nil || c.state > readingHead {
			continue
		}
		// What has come already is not to be lost for want of a look.
		if c.state == readingHead && len(c.in) == 0 {
			c.unread = true
			w.advance(c)
		} else if c.state == handshaking && c.secure == nil {
			c.unread = true
			w.readHello(c)
		}
		switch {
		case c.fd < 0 || c.state > readingHead:
		case c.secure == nil && len(c.in) == 0, c.state == readingHead && len(c.in) == 0:
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
		epollDel(w.ep, l.fd)
		unix.Close(l.fd)
	}
	w.listeners = kept
}

// quit leaves at once, whatever runs.
func (w *worker) quit() {
	if w.quitting {
		return
	}
	w.quitting, w.stopping = true, true
	w.slot.state.Store(stateStopping)
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
	p := w.python
	want := p.ready && !p.closed && !p.eof && (!w.stopping || w.ending) && !w.quitting &&
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

// full says whether there are as many connections as there may be. Some
// descriptors are left for files that responses consist of.
func (w *worker) full() bool {
	return w.cfg.workerConnections > 0 && w.open >= w.cfg.workerConnections ||
		w.held() >= w.descriptors-min(filesApart, w.descriptors/4)
}

// held is how many descriptors come and go with clients.
func (w *worker) held() int {
	return w.open + w.files + len(w.pumps) + laneDescriptors*(len(w.python.lanes)-1)
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
		if c == nil || w.now-c.since < int64(placePatience) {
			return nil
		}
		if !(c.state == readingBody && !c.upload.late(w.now, placePatience) || c.shakes() && !c.secure.waits.Load()) {
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
		if c.state <= readingBody && !c.shakes() && readable(c.fd) {
			w.client(c, unix.EPOLLIN)
			if c.fd >= 0 {
				continue
			}
		}
		switch {
		case c.fd < 0:
		case c.list == &w.resting:
			w.crowded("idle ones are closed for new ones")
			w.close(c)
		default:
			w.crowded("slow ones are closed for new ones")
			c.unlist()
			if w.yield(c); c.fd >= 0 && !c.shakes() {
				w.close(c)
			}
		}
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

func (w *worker) accept(fd int) {
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
		epollDel(w.ep, fd)
		_ = epollAdd(w.ep, fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, onListener)
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
	w.serial++
	c := &conn{fd: fd, serial: w.serial, peer: peer, trusted: trusted, unread: true, file: -1, state: readingHead}
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
		c.state = handshaking
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
	if patience > 0 && !w.stopping {
		w.takeWaiting()
	}
	w.sweepLate()
	w.recallPatient()
	if len(w.waiting) == 0 {
		w.recall(w.python.idle())
	}
	done := 0
	for done < len(w.waiting) && w.roomForFile() {
		c := w.waiting[done]
		if c.fd < 0 || c.state != waiting {
			done++
			continue
		}
		if w.maxServed > 0 && w.dispatched >= w.maxServed && !w.stopping {
			break
		}
		l, err := w.pick()
		if l == nil {
			if err == nil && !w.alone && (w.python.stuck() || patience > 0 && w.now-c.since >= patience) && w.giveAway(c) {
				done++
				continue
			}
			break
		}
		if !w.asgi && w.python.pace >= int64(brief) && w.setAside(c) {
			done++
			continue
		}
		message, body := w.message(w.fbuf[:0], c)
		w.batch = append(w.batch[:0], c)
		if l.streams != nil || w.python.brief() && w.python.batches {
			message, body = w.gather(l, message, body, w.waiting[done+1:])
		}
		ok, err := l.send(w.batch, message, body, w.now)
		if !ok {
			for _, c := range w.batch {
				c.fed = 0
			}
			if err != nil {
				w.outOfStep(l, err)
			}
			break
		}
		done += len(w.batch)
		w.leaving.turn = !c.late
		for _, c := range w.batch {
			c.state, c.begun, c.lane = inLane, w.now, l
			w.slot.counters.wait.observe(time.Duration(w.now - c.since))
			w.dispatched++
		}
	}
	if done > 0 {
		w.slot.busy.Store(uint64(w.python.running()))
		n := copy(w.waiting, w.waiting[done:])
		clear(w.waiting[n:])
		w.waiting = w.waiting[:n]
	}
	if w.maxServed > 0 && w.dispatched >= w.maxServed && !w.stopping {
		if w.slot.state.Load() != stateLeaving {
			w.log.infof("Autorestarting worker after current request.")
		}
		w.because(causeMaxRequests)
		w.retire()
	}
	if w.python.broken {
		w.abandon(newBadRequest(502, "", ""))
		w.killPython(unix.SIGKILL)
	}
}

// batchMax is after how many bytes a message of several requests ends.
const batchMax = 16 << 10

// gather has the requests that wait behind the first of a message go with it while
// there is room: to be received one by one would cost each a system call on
// either side, and a loop that is busy receives neither.
func (w *worker) gather(l *lane, message, body []byte, behind []*conn) ([]byte, []byte) {
	most := w.python.idle()
	if l.streams == nil {
		most = w.python.depth() - len(l.flight)
	}
	if w.maxServed > 0 && !w.stopping {
		most = min(most, w.maxServed-w.dispatched)
	}
	for _, c := range behind {
		if len(w.batch) >= most || len(message)+len(body) >= batchMax || w.batch[len(w.batch)-1].indirect ||
			c.fd < 0 || c.state != waiting || !w.roomForFiles() {
			break
		}
		at := len(message) + len(body)
		longer, rest := w.message(append(message, body...), c)
		if len(longer)+len(rest) > queueMax {
			c.fed = 0
			return longer[:at], nil
		}
		message, body = longer, rest
		w.batch = append(w.batch, c)
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
		w.abandon(newBadRequest(503, "", ""))
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
func (w *worker) message(b []byte, c *conn) (longer, body []byte) {
	p := w.python
	if p.number++; p.number == 0 {
		p.number++
	}
	c.number = p.number
	at := len(b)
	b, alike := w.halves(c, append(b, make([]byte, frameHeader)...))
	n := len(b) - at
	f := frame{number: c.number, kind: kindRequest, meta: uint32(n - frameHeader)}
	rest := c.body[c.fed:]
	complete := !c.incomplete() && c.spooled == nil
	c.indirect = n > queueMax
	switch {
	case c.indirect:
		f.kind, f.length, f.meta = kindIndirect, f.meta, 0
		b = b[:at+frameHeader]
		if !complete || len(rest) > 0 {
			f.flags = flagMore
		}
	case complete && n+len(rest) <= queueMax:
		body = rest
		c.fed += len(body)
		f.length = f.meta + uint32(len(body))
	default:
		f.flags = flagMore
		f.length = f.meta
	}
	if w.asgi && len(p.lanes[0].streams)-w.talks >= crowd {
		f.flags |= flagCrowd
	}
	f.append(b[:at])
	if !c.indirect {
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
func (w *worker) halves(c *conn, b []byte) (out []byte, alike int) {
	if w.asgi || c.req.chunked || w.cfg.counted {
		return w.environ(c, b), 0
	}
	at := len(b)
	b, length := c.req.appendCommon(append(b, marshalDict), &c.peer, w.scriptName)
	if len(b)-at >= alikeMax {
		return append(c.req.appendOwn(b, &c.peer, w.scriptName, length), marshalDictEnd), 0
	}
	b = append(b, marshalDictEnd)
	alike = len(b) - at
	b = c.req.appendOwnTuple(b, &c.peer, w.scriptName, length)
	if len(b) > queueMax {
		return w.environ(c, b[:at]), 0 // as Python will ask for it
	}
	return b, alike
}

func (w *worker) environ(c *conn, b []byte) []byte {
	if w.asgi {
		c.trailed = true // ASGI knows no trailers of requests
		return w.appendScope(b, c)
	}
	b = append(b, marshalDict)
	b = c.req.appendEnviron(b, &c.peer, w.scriptName)
	if c.req.chunked {
		// The application reads it in this list, which is filled when the body
		// has ended.
		b = appendTrailer(appendMarshalText(b, "gunicorn.trailers"), c.trailer)
		c.trailed = c.decoder == nil
	}
	if w.cfg.counted {
		b = appendMarshalInt(appendMarshalText(b, "gunicorn.req_number"), int64(c.served)+1)
	}
	return append(b, marshalDictEnd)
}

// feed answers Python's demand for body as soon as there is some.
func (w *worker) feed(c *conn) {
	if c.talk != nil {
		w.hear(c)
		return
	}
	for c.asked && c.fd >= 0 || c.asked && c.broken != nil {
		f := frame{number: c.number, kind: kindBody}
		if c.indirect {
			if w.asgi && !c.lane.roomy() {
				c.lane.awaitRoom(c)
				return
			}
			c.indirect, c.asked, c.want = false, false, 0
			f.kind = kindRequest
			b := w.environ(c, w.fbuf[:0])
			w.fbuf = b[:0]
			if w.answer(c.lane, f, b); c.fd < 0 && w.asgi {
				w.tellGone(c, 1006, "", -1) // it could not be told before this
			}
			return
		}
		b, onDisk := c.body[c.fed:], c.spooled.left() > 0
		if onDisk {
			b = w.unspool(c, c.want)
		}
		if len(b) > 0 {
			if w.asgi && !c.lane.roomy() {
				c.lane.awaitRoom(c)
				break
			}
			b = b[:min(len(b), c.want, feedMax)]
			if !onDisk {
				c.fed += len(b)
			} else if c.spooled.left() == 0 {
				w.dropSpooled(c)
			}
			if c.spooled.left() == 0 && c.fed == len(c.body) && !c.incomplete() && c.hasTrailed() {
				f.flags = flagLast
			}
			c.want -= len(b)
			c.asked = w.asgi && c.want > 0 && f.flags == 0
			w.answer(c.lane, f, b)
			continue
		}
		switch {
		case c.broken != nil:
			w.breakOff(c, &f)
		case !c.incomplete():
			f.flags = flagLast
			if !c.hasTrailed() {
				c.asked, c.trailed = false, true
				b := appendTrailer(w.fbuf[:0], c.trailer)
				w.fbuf = b[:0]
				f.meta = uint32(len(b))
				w.answer(c.lane, f, b)
				return
			}
		default:
			if w.readBody(c) {
				continue
			}
			if c.broken == nil {
				c.lane.client.wait(w.now)
				return
			}
			w.breakOff(c, &f)
		}
		c.asked, c.want = false, 0
		w.answer(c.lane, f, nil)
	}
	// Read ahead up to the limit, so that the application finds it here, and not
	// before there is much room: the rest has to be moved to make it.
	for room := w.holdable() / 2; len(c.body)-c.fed < room && c.fd >= 0 && c.broken == nil && c.incomplete(); {
		room = w.holdable()
		if !w.readBody(c) {
			return
		}
	}
	c.upload.pause(w.now)
}

// hasTrailed says whether Python knows all that came after the body.
func (c *conn) hasTrailed() bool { return c.trailed || len(c.trailer) == 0 }

// breakOff makes f tell Python that, and why, no more of the body will come.
func (w *worker) breakOff(c *conn, f *frame) {
	f.flags, f.meta, c.told = flagBroken, uint32(c.broken.status), true
	if c.broken.left {
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
		epollMod(w.ep, l.wire, events, onWire)
		return
	}
	if changed&unix.EPOLLIN != 0 {
		epollMod(w.ep, l.pipe, events&unix.EPOLLIN, onWire)
	}
	if changed&unix.EPOLLOUT != 0 {
		epollMod(w.ep, l.wire, events|unix.EPOLLIN|unix.EPOLLET, onWire)
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

// lookAtLanes finds requests that have run for more than a moment, or for more
// than limit, which is 0 for none.
func (w *worker) lookAtLanes(limit time.Duration) {
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
	c := l.running()
	if c == nil || c.number != number {
		return nil
	}
	halt := l.python.halts[l.index].Load()
	asked := func(other *conn) bool { return other.message == c.message && other.number == halt }
	if c.started || c.taken || c.asked || !slices.ContainsFunc(l.flight, asked) {
		return errOutOfStep
	}
	l.halted = 0
	w.putBack(l.retrieve(c.message))
	return nil
}

// putBack has requests wait that were in a lane, before all others.
func (w *worker) putBack(back []*conn) {
	w.dispatched -= len(back)
	back = slices.DeleteFunc(back, func(c *conn) bool {
		c.state, c.fed = waiting, 0
		if c.fd < 0 { // its client has left in the meantime
			w.record(c, []byte("499"), true)
			w.release(c)
		}
		return c.fd < 0
	})
	if len(back) > 0 {
		w.waiting = append(back, w.waiting...)
		w.keepWaiting()
	}
}

// standDown asks for a replacement and serves until that does: the arbiter says when.
func (w *worker) standDown(cause uint64) {
	w.because(cause)
	w.slot.state.Store(stateLeaving)
	_, _ = unix.Write(w.wake, []byte{0})
}

// aheadLeast is the least max_requests for which the end is foreseen. Who sets
// less wants a fresh process for each few requests.
const aheadLeast = 50

// outgrow lets a worker go that is about to have served max_requests, or whose
// Python has grown past max_memory.
func (w *worker) outgrow() {
	last := w.dispatched - w.counted
	w.counted = w.dispatched
	if w.stopping || w.slot.state.Load() != stateServing {
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
	w.slot.heartbeat.Store(sharedTime())
	w.slot.waiting.Store(uint64(len(w.waiting) + len(w.late)))
	w.slot.lanes.Store(uint64(len(w.python.lanes)))
	for _, c := range w.conns {
		if c != nil {
			w.hurry(c)
			w.age(c)
		}
	}
	if l := w.python.oldest(); l != nil {
		if c := l.eldest(); c != nil {
			w.slot.setRunning(c.line(), max(c.begun, l.begun)+paused.Load())
		}
	}
	w.askPython()
	if w.killAt != 0 && w.killAt <= w.now {
		w.killPython(unix.SIGKILL)
	}
	if w.deadline != 0 && w.deadline <= w.now {
		w.quit()
	}
	if n := w.access.recovered(); n > 0 {
		w.log.warningf("%d records of the access log were lost", n)
	}
	if w.moldGone {
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
	switch {
	case c.expires != 0 && c.expires <= w.now:
		w.expire(c)
	case w.asgi && c.state == inLane && w.cfg.requestTimeout > 0 && !c.started && c.fd >= 0 &&
		w.now-c.begun >= int64(w.cfg.requestTimeout):
		w.overdueStream(c)
	case w.asgi && c.state == inLane && !c.watched:
		w.watch(c) // an application that waits for long wants to know when its client leaves
	case c.talk != nil && c.talk.bye != nil && c.lane != nil && c.fd >= 0 && w.now >= c.talk.byeBy:
		w.answerBye(c)
	case c.talk != nil && c.lane != nil && c.fd >= 0 && !c.pending():
		w.keepUp(c)
	case w.refuses(c):
		w.log.infof("%s: ip=%s does not take its response; closing the connection", c.line(), c.peer.remoteAddr)
		c.reset() // or the kernel would hold for hours what it waits for
		w.lost(c)
	case c.upload.late(w.now, w.cfg.clientBodyTimeout):
		w.breakBody(c, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(c)
	case !w.asgi && c.state == inLane && c.fd >= 0 && c == c.lane.running() && c.lane.client.late(w.now, w.clientLimit()):
		w.tooSlow(c)
	}
}

// expire ends a wait for a head, for a handshake, or after the last answer.
func (w *worker) expire(c *conn) {
	switch {
	case c.shakes():
		c.secure.giveUp()
		c.expires = 0
	case c.state == readingHead && len(c.in) > 0 && !w.ending:
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
func (w *worker) tooSlow(c *conn) {
	if c.lane.choked != c {
		w.breakBody(c, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(c)
		return
	}
	w.log.infof("%s: ip=%s takes its response too slowly for an application that has a limit in time; closing the connection",
		c.line(), c.peer.remoteAddr)
	c.reset() // or the kernel would hold for hours what it waits for
	w.lost(c)
}

// overdue is called when the running request has used up its time.
func (w *worker) overdue(l *lane) {
	c := l.running()
	seconds := l.ran(w.now).Round(time.Second)
	w.hung = c.line() + " from " + c.peer.remoteAddr
	w.because(causeTimeout)
	w.log.criticalf("WORKER TIMEOUT (pid:%d): %s has run for %v", w.pid, w.hung, seconds)
	if w.python.threads {
		w.loseLane(l)
		return
	}
	w.abandon(newBadRequest(504, "", ""))
	w.killPython(unix.SIGABRT)
	w.killAt = w.now + int64(killDelay)
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
	for _, c := range list {
		w.answerFor(c, bad)
	}
}

// answerFor answers a request in place of Python.
func (w *worker) answerFor(c *conn, bad *badRequest) {
	if w.obufFor == c {
		w.obufFor, w.obuf = nil, w.obuf[:0]
	}
	c.keep, c.refused, c.lane = false, true, nil
	if c.started || c.taken {
		if c.taken {
			c.status = append(c.status[:0], "101"...)
		}
		w.record(c, c.status, true)
		if c.talk != nil && !c.talk.within && c.fd >= 0 {
			c.state = draining // it may be lost in this, and has no lane
			w.send(c, appendWSClose(nil, 1011, ""), nil)
			w.drained(c)
			return
		}
		c.forbidEnd()
		w.close(c)
		return
	}
	w.record(c, []byte(strconv.Itoa(bad.status)), true)
	if c.fd >= 0 {
		w.page(c, bad)
	} else {
		w.release(c)
	}
}

// askPython sees to it that the main thread of a Python with threads is alive:
// nobody else would notice when an extension module holds the interpreter's
// lock, or a greenlet never yields.
func (w *worker) askPython() {
	p := w.python
	if !p.threads && !w.asgi || w.cfg.timeout == 0 || !p.ready || p.closed || p.ended || w.pythonGone {
		return
	}
	if w.askedAt == 0 {
		if len(p.busy) > 0 {
			w.askFor(0)
		}
		return
	}
	silent := time.Duration(w.now - w.askedAt)
	if silent < w.cfg.timeout {
		return
	}
	w.hung = "nothing"
	if l := p.oldest(); l != nil {
		if c := l.eldest(); c != nil {
			w.hung = c.line() + " from " + c.peer.remoteAddr
		}
	}
	w.log.criticalf("WORKER TIMEOUT (pid:%d): its Python has not responded for %v, running %s", w.pid, silent.Round(time.Second), w.hung)
	w.abandon(newBadRequest(504, "", ""))
	w.killPython(unix.SIGABRT)
	w.killAt = w.now + int64(killDelay)
}

func (w *worker) askFor(flags byte) {
	if w.python.ask(flags) && w.askedAt == 0 {
		w.askedAt = w.now
	}
}

// abandon gives up the Python and answers the requests that it had begun.
// Nothing that it says from now on reaches anybody.
func (w *worker) abandon(bad *badRequest) {
	p := w.python
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

// outOfStep is called when Python speaks no frames any more, or hears none. It is
// not believed from then on, but given up by dispatch, at the end of the turn: who
// calls this may be at work on one of its requests.
func (w *worker) outOfStep(l *lane, err error) {
	if w.python.closed || l.lost || w.pythonGone {
		return
	}
	w.log.errorf("Worker (pid:%d): its Python (pid:%d) does not speak as it should (%v) and is replaced", w.pid, w.python.pid, err)
	w.because(causeCrash)
	w.python.closed, w.python.broken = true, true
}

func (w *worker) killPython(sig syscall.Signal) {
	w.killAt = 0
	w.signalPython(sig)
}

func (w *worker) signalPython(sig syscall.Signal) {
	if !w.pythonGone && w.python.pid > 0 {
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
func (w *worker) readFate() {
	var b [16]byte
	n, errno := rawRead(w.python.fate, b[:])
	if errno == unix.EAGAIN {
		return
	}
	if n == 0 {
		epollDel(w.ep, w.python.fate)
		w.moldGone = true
		w.lookForPython()
		return
	}
	for said := b[:n]; len(said) >= 5; said = said[5:] {
		number := binary.LittleEndian.Uint32(said[1:])
		if said[0] == 'P' {
			w.python.pid = int(number)
			w.isPython(int(number))
			if w.stopping && !w.python.ready {
				w.killPython(unix.SIGKILL)
			}
		} else if !w.pythonGone {
			w.died(unix.WaitStatus(number))
		}
	}
}

// lookForPython is what remains when nobody will tell of its death.
func (w *worker) lookForPython() {
	if !w.pythonGone && (w.python.pid == 0 || unix.Kill(w.python.pid, 0) != nil) {
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
	w.pythonGone = true
	w.killAt = 0
	switch {
	case !p.ready && !w.stopping:
		if w.exit = exitStatus(status); status.Signaled() {
			w.exit = 0 // said here, and need not be said again
			w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s It was loading the application.", w.pid, p.pid, w.fate(status))
		}
		p.closed = true
		w.stopping = true
		w.closeListeners()
		w.logStacks()
	case w.hung != "":
		w.logStacks()
	case p.closed || w.quitting || !p.ready || p.ended && len(p.busy) == 0:
	default:
		doing := ""
		for _, l := range slices.Clone(p.busy) {
			w.giveAllBack(l)
			for _, c := range l.inPython() {
				if len(doing) < fateMax {
					doing += ", " + c.line() + " from " + c.peer.remoteAddr
				}
			}
		}
		if doing != "" {
			doing = " It was running " + doing[len(", "):]
		}
		w.because(causeCrash)
		w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s%s", w.pid, p.pid, w.fate(status), doing)
		w.logStacks()
		w.abandon(newBadRequest(502, "", ""))
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
