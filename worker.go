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
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

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

// worker is one worker process.
type worker struct {
	cfg        *config
	log        *errorLog
	access     *accessLog // nil without one
	slot       *slot      // this worker's page of the scoreboard
	scriptName string     // SCRIPT_NAME of the server's environment
	server     string     // the Server field of responses
	pid        int
	wake       int  // the arbiter's wake pipe
	alone      bool // there are no siblings: nothing is gained by handing over

	life
	loop
	acceptor
	clients
	scratch
	streaming
	clock    clock
	tls      *terminator // nil without TLS
	python   *python
	reload   *reloader // nil without --reload
	waiting  []*turn   // complete requests, oldest first
	overload overload
	spool    spool
	memory   memoryWatch
}

// life is how far a worker has come, and when it has to end.
type life struct {
	born       int64 // when this worker started
	bootTook   int64 // how long its Python took to be ready
	nextTick   int64 // when the limits in time are looked at next
	dispatched int   // requests written into lanes and not taken back
	counted    int   // dispatched at the last tick
	maxServed  int   // requests after which this worker leaves, 0 for no limit
	renamed    bool  // USR1 came while Python was booting: forward it once Python is ready
	termAt     int64 // when TERM came, 0 for not yet
	deadline   int64 // when to quit at the latest, 0 for never
	exit       int   // the exit status
}

// acceptor is what decides whether new connections are taken.
type acceptor struct {
	listeners   []listener
	armed       bool  // the loop watches the listeners and the hand-over socket
	paused      int64 // accepting pauses until then
	giveFD      int   // the hand-over socket's end for sending
	takeFD      int   // the hand-over socket's end for receiving
	descriptors int   // how many connections, files, pumps and lanes may take
	silent      int64 // no word about a crowd before then
}

// clients are the connections, and what is held for them.
type clients struct {
	conns   []*conn // by descriptor
	open    int     // connections
	files   int     // files to be sent, or of the spool
	pumps   int
	resting idlers // idle connections, the longest idle first
	lagging idlers // connections on which a part of a request or of a handshake has come
	gaveWay int    // connections that ended for want of memory since the log last said so
	hushed  int64  // no word about gaveWay before then
	pool    pool
	idle    []*turn // turns that can be reused
}

// scratch is memory that every turn of the loop uses again.
type scratch struct {
	rbuf    []byte   // what comes from any client, until its length is known
	obuf    []byte   // what goes to obufFor next
	obufFor *conn    // nil while obuf is empty
	resp    response // the head that Python has just sent
	text    []byte   // latin-1 of header fields that are not ASCII
	fbuf    []byte   // the frame that is being made
	batch   []*turn  // the requests that go into one message
	wbuf    []byte   // the buffer of a wire, while no lane has it
}

// streaming is what ASGI needs beside a lane (asgi.go).
type streaming struct {
	talks     int // WebSockets
	sockets   wsPool
	deflater  wsDeflater
	deflating bool          // the message being received from Python is sent compressed
	partAt    int64         // when streams are told to end, 0 for not at all
	parting   time.Duration // how long streams then have
}

// Descriptors a worker starts with.
const (
	fdLifeline  = 3 + iota // read end; EOF means the arbiter is gone
	fdSlot                 // this worker's page of the scoreboard
	fdSettings             // what encode wrote
	fdGive                 // hand-over
	fdTake                 //
	fdWake                 // a byte here makes the arbiter look
	fdErrorlog             // if it is a file
	fdAccesslog            // the same
	fdFork                 // where the template is asked for a Python; no socket without one
	fdRecords              // where records of the logs go, if Python makes them
	fdBridge               // the Python half, for a Python of its own
	fdVault                // where certificates are, if there are any
	fdListeners            // first listener; the rest follow
)

// workerFiles lists the descriptors of a new worker. Where a worker needs none, its
// lifeline takes the number: otherwise the worker could get a file of its own there.
func workerFiles(files map[int]int, listeners []*bound) []uintptr {
	list := []uintptr{0, 1, 2}
	for number := len(list); number < fdListeners; number++ {
		fd, needed := files[number]
		if !needed || fd < 0 {
			fd = files[fdLifeline]
		}
		list = append(list, uintptr(fd))
	}
	for _, l := range listeners {
		list = append(list, uintptr(l.fd))
	}
	return list
}

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
		wake:       fdWake,
		alone:      cfg.workers < 2,
		life:       life{maxServed: cfg.maxRequests},
		acceptor:   acceptor{giveFD: fdGive, takeFD: fdTake},
		scratch:    scratch{rbuf: make([]byte, heldPressed)},
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
	return w.listen(l.fd, unix.EPOLLIN, l)
}

// listenToPipe is called when frames will come through a pipe. What comes over
// the wire then is only of interest when one has said so, so that an event tells
// of it once.
func (w *worker) listenToPipe(l *lane, _ *marshalReader) error {
	if err := l.openPipe(); err != nil {
		return err
	}
	w.change(l.fd, unix.EPOLLIN|unix.EPOLLET)
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
	_, passed, errno := rawRecvmsg(l.fd, b[:])
	if errno == 0 && passed == -1 {
		w.outOfStep(l, protocolError("bytes beside its pipe that belong to no frame"))
	}
	l.keep(passed)
}

// deafen ends listening to a lane.
func (w *worker) deafen(l *lane) {
	w.forget(l.fd)
	if l.pipe >= 0 {
		w.forget(l.pipe)
	}
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

// feed answers Python's demand for more of a request as soon as there is some.
func (w *worker) feed(t *turn) {
	if t.talk != nil {
		w.hear(t)
		return
	}
	for t.want > 0 && (!t.conn.gone || t.broken != nil) {
		switch {
		case t.owed == owesEnviron:
			if t.lane.roomFor(t) {
				w.giveEnviron(t)
			}
			return
		case t.fed < len(t.body) || t.spooled.left() > 0:
			if !t.lane.roomFor(t) {
				w.readAhead(t)
				return
			}
			w.giveBody(t)
		case t.broken != nil:
			w.giveReason(t)
		case !t.incomplete():
			w.giveEnd(t)
		case !w.readBody(t) && t.broken == nil:
			t.lane.client.wait(w.now)
			return
		}
	}
	w.readAhead(t)
}

// giveEnviron gives Python what did not fit into a message.
func (w *worker) giveEnviron(t *turn) {
	t.want = 0
	b := w.python.gateway.environ(w, t, w.fbuf[:0])
	w.fbuf = b[:0]
	t.lane.answer(w, frame{number: t.number, kind: kindRequest}, b)
	if t.conn.fd < 0 {
		t.lane.clientLeft(w, t) // the application could not be told before
	}
}

// giveBody gives Python a piece of the body. One that cannot be read off the disk breaks
// the body.
func (w *worker) giveBody(t *turn) {
	b, most := t.body[t.fed:], min(t.want, feedMax)
	if t.spooled.left() > 0 {
		if b = w.unspool(t, most); b == nil {
			w.giveReason(t)
			return
		}
		if t.spooled.left() == 0 {
			w.dropSpooled(t)
		}
	} else {
		b = b[:min(len(b), most)]
		t.fed += len(b)
	}
	t.lane.met(t, len(b))
	f := frame{number: t.number, kind: kindBody}
	if t.spooled.left() == 0 && t.fed == len(t.body) && !t.incomplete() && t.hasTrailed() {
		f.flags, t.owed, t.want = flagLast, owesNothing, 0
	}
	t.lane.answer(w, f, b)
}

// giveEnd tells Python that the body has ended, with its trailer if Python has not got it.
func (w *worker) giveEnd(t *turn) {
	f, b := frame{number: t.number, kind: kindBody, flags: flagLast}, []byte(nil)
	if !t.hasTrailed() {
		b = appendTrailer(w.fbuf[:0], t.trailer)
		w.fbuf = b[:0]
		f.meta = uint32(len(b))
	}
	t.want, t.owed = 0, owesNothing
	t.lane.answer(w, f, b)
}

// giveReason tells Python that, and why, no more of the body will come.
func (w *worker) giveReason(t *turn) {
	f := frame{number: t.number, kind: kindBody, flags: flagBroken, meta: uint32(t.broken.status)}
	if t.broken.left {
		f.meta = 499
	}
	t.want, t.owed = 0, toldBroken
	t.lane.answer(w, f, nil)
}

// hasTrailed says whether Python knows all that came after the body.
func (t *turn) hasTrailed() bool { return t.owed != owesTrailer || len(t.trailer) == 0 }

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
		w.change(l.fd, events)
		return
	}
	if changed&unix.EPOLLIN != 0 {
		w.change(l.pipe, events&unix.EPOLLIN)
	}
	if changed&unix.EPOLLOUT != 0 {
		w.change(l.fd, events|unix.EPOLLIN|unix.EPOLLET)
	}
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
		} else if at := l.due(); at != 0 && at <= w.now {
			l.stall(w)
		}
		if i < len(w.python.busy) && w.python.busy[i] == l {
			i++
		}
	}
}

// giveBack takes what Python has not begun back among those that wait.
func (w *worker) giveBack(l *lane) { w.putBack(l.takeBack()) }

// giveAllBack does so for a lane from which nothing more is believed.
func (w *worker) giveAllBack(l *lane) {
	l.settle(w.now)
	w.giveBack(l)
}

// leftOf puts back what Python has left of a message, unless that has been taken
// back before.
func (w *worker) leftOf(l *lane, _ *marshalReader) error {
	q := l.laneKind.(*queueLane)
	t := q.eldest()
	if t == nil || t.number != l.frame.number {
		return nil
	}
	halt := l.python.halts[l.index].Load()
	asked := func(other *turn) bool { return other.message == t.message && other.number == halt }
	if t.started || t.taken || t.want > 0 || !slices.ContainsFunc(q.flight, asked) {
		return l.frame.unexpected()
	}
	q.halted = 0
	w.putBack(q.retrieve(t.message))
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
