package main

// A worker serves clients: one thread, one epoll instance, non-blocking
// descriptors, no locks. It parses requests, hands complete ones to its Python
// through a lane and drains the responses to the clients at the clients' pace,
// so that a slow client never blocks Python, nor a slow Python a client, beyond
// fixed buffers. Python is a process of its own: when Python dies, the clients
// still get an answer.
//
// A connection is not tied to its worker: a request that the worker cannot serve
// soon, or will not serve any more, goes to its siblings through the hand-over
// socket.
//
// This room has the worker's start, its phases and signals, and when the sockets of its
// lanes are watched.

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits in time that have no setting.
const (
	// lingerIdle is how long a connection that has had its last response waits for
	// the client's next byte or end: long enough for one lost packet, which TCP
	// repeats after a second, and a slow round trip.
	lingerIdle = 2 * time.Second

	// lingerLimit is how long such a connection waits in all, for a client that
	// still sends the rest of its request.
	lingerLimit = 30 * time.Second

	// acceptPause is how long accepting rests when descriptors or memory run out.
	// The listeners stay readable, so that without a pause the loop would spin; a
	// client hardly notices a second in the kernel's queue.
	acceptPause = time.Second

	// placePatience is how long a client may take over a head or a handshake before
	// its connection is closed for another client, if one wants its place. Honest
	// clients need a few round trips.
	placePatience = time.Second

	// killDelay is how long a Python that hangs has between ABRT and KILL, for
	// faulthandler to write its stacks, which takes milliseconds.
	killDelay = time.Second
)

// Limits in bytes.
const (
	// firstRead is the smallest buffer for the part of a response that its client has
	// not taken.
	firstRead = 4 << 10

	// headRead is the most bytes of one read while a head is expected: several times
	// an ordinary head.
	headRead = 16 << 10

	// held is the most bytes of one body, and of one response, in memory: most uploads
	// and pages fit.
	held = 1 << 20

	// heldPressed replaces held while all connections together use more than half of
	// pool.limit: about what a socket's buffer holds anyway.
	heldPressed = 64 << 10

	// resumeAt is how few bytes have to wait for the client before more of the
	// response is read from Python: a quarter of held, so that the client does not run
	// dry.
	resumeAt = 256 << 10

	// coalesce is the most bytes of small blocks that are gathered for one write;
	// larger ones are not worth a copy.
	coalesce = 64 << 10

	// turnMax is the most bytes thrown away before other connections go on: about a
	// millisecond's work.
	turnMax = 1 << 20

	// fileShare is the most bytes sent from files, for all connections together, before
	// the loop looks at its events and at Python again: 0.1 ms of work for one long file,
	// 0.3 ms for many short ones.
	fileShare = 256 << 10

	// discardMax is the most bytes of an unread body that are thrown away: more would
	// cost more than a new connection.
	discardMax = 64 << 10

	// feedMax is the most bytes of a body in one frame: as many as a wire's buffer has
	// room for (wireRoom).
	feedMax = 256 << 10

	// fateMax is the length in bytes after which a log line about a dead Python names
	// no further request.
	fateMax = 1 << 10
)

// Limits in number.
const (
	descriptorsApart = 16 // descriptors kept free for logs that are reopened and the like
	laneDescriptors  = 4  // descriptors of a lane; the first lane's are open before clients come
	filesApart       = 64 // descriptors that connections leave to files and further lanes
)

// worker is one worker process.
type worker struct {
	cfg        *config
	log        *errorLog
	access     *accessLog // nil without an access log
	slot       *slot      // this worker's page of the scoreboard
	scriptName string     // SCRIPT_NAME of the server's environment, unless the gateway ignores it
	server     ownFields  // the fields that the server adds to responses
	pid        int
	arbiter    int  // pid of the arbiter
	wake       int  // the arbiter's wake pipe
	alone      bool // the only worker: there is no sibling to hand a connection to

	life
	loop
	acceptor
	clients
	crowd
	scratch
	streaming
	statics
	clock    clock
	tls      *terminator // nil without TLS
	python   *python
	ids      *ids        // nil without request_id_header
	others   *neighbours // nil unless a setting needs the whole scoreboard
	reload   *reloader   // nil without --reload
	waiting  []*turn     // complete requests, oldest first
	overload overload
	spool    spool
	memory   memoryWatch
}

// life is how far a worker has come, and when it has to end. Times are those of
// the loop's clock.
type life struct {
	born       int64          // when this worker started
	bootTook   time.Duration  // how long the Python took to be ready
	nextTick   int64          // when tick runs next
	dispatched int            // requests written into lanes, less those taken back
	counted    int            // value of dispatched at the last tick
	maxServed  int            // requests after which this worker retires, 0 for no limit
	renamed    bool           // USR1 came while Python was booting: forward it once Python is ready
	termAt     int64          // when TERM came, 0 for not yet
	deadline   int64          // when to quit at the latest, 0 for never
	quitAt     int64          // when a worker that quits ends its Python, 0 for not quitting or done
	exit       int            // the exit status
	told       syscall.Signal // stop signal that Python has been told of, 0 for none yet
	leaving    bool           // this worker quits; once its lanes have settled, siblings get the requests that Python has not begun
}

// acceptor is the state of accepting: what the worker listens to, and whether it takes
// connections now.
type acceptor struct {
	listeners   []listener
	accepting   bool  // the loop watches the listeners
	armed       bool  // the loop watches the hand-over socket
	paused      int64 // time until which no connection is accepted
	giveFD      int   // the hand-over socket's end for sending
	takeFD      int   // the hand-over socket's end for receiving
	descriptors int   // most descriptors that connections, files, pumps and lanes may use
	silent      int64 // time before which crowded logs no further warning
	guardAt     int64 // when guard looks for clients next

	health *checker // answers for the paths of health; nil without
}

// clients are the connections, and the memory and files held for them.
type clients struct {
	conns   []*conn // the connections, indexed by descriptor
	open    int     // number of connections
	carried int     // number of streams of HTTP/2
	files   int     // open files: to be sent as responses, or of the spool
	pumps   int     // number of pumps (handover.go)
	resting idlers  // idle connections, the longest idle first
	lagging idlers  // connections that have sent a part of a request or of a handshake, the first to do so first
	gaveWay int     // connections ended to free memory since the last warning about them
	hushed  int64   // time before which no further warning about gaveWay is logged
	pool    pool    // the buffers, and the count of all memory held for clients
	idle    []*turn // spare turns, for the next requests
	prior   bool    // a client may begin with HTTP/2 on a plain connection
	upgrade bool    // a client may change to HTTP/2 on a plain connection
}

// scratch is memory that every turn of the loop uses again.
type scratch struct {
	rbuf    []byte     // bytes just read from any client
	obuf    []byte     // bytes of a response, gathered for one write to obufFor
	obufFor *conn      // the connection that obuf is for, nil while obuf is empty
	resp    response   // the response's head that Python has just sent
	text    []byte     // header fields that are not ASCII, encoded as Latin-1
	wrong   bool       // a value of the frame at hand has a wrong type
	fbuf    []byte     // the frame being made
	batch   []*turn    // the requests of the message being made
	wbuf    []byte     // a spare buffer for a wire or the hand-over socket, nil while in use
	cbuf    []byte     // bytes just read from a carrier, nil before the first
	list    *fieldList // fields that a carrier has just read, nil before the first carrier
	hbuf    []byte     // the head of a stream, as HTTP/1.1 has it
	dirty   []*carrier // carriers with frames to write
	blanks  [][]byte   // spare buffers for frames
}

// streaming is the state of ASGI's streams and WebSockets outside their lane (asgi.go).
type streaming struct {
	talks     int // number of open WebSockets
	sockets   wsPool
	deflating bool          // the message being received from Python is sent compressed
	squeeze   byte          // first byte of that message's next frame
	partAt    int64         // when streams will be told to end, 0 for never
	parting   time.Duration // how long streams have to end after partAt
}

// Descriptors a worker starts with. A number whose descriptor is not needed holds a
// copy of the lifeline (workerFiles).
const (
	fdLifeline  = 3 + iota // read end; EOF means the arbiter is gone
	fdSlot                 // this worker's page of the scoreboard
	fdSettings             // the settings, written by config.encode
	fdGive                 // hand-over socket, end for sending a connection to a sibling
	fdTake                 // hand-over socket, end for receiving a connection
	fdWake                 // a byte written here makes the arbiter look at this worker's page
	fdErrorlog             // error log, if that is a file
	fdAccesslog            // access log, if that is a file
	fdFork                 // socket to ask the template process for a Python; no socket without a template
	fdRecords              // socket for log records, if Python formats the logs
	fdBridge               // the embedded Python files, for a Python that is started afresh
	fdVault                // the vault with the TLS certificates, if there are any
	fdScores               // the arbiter's page of the scoreboard, read-only, if a setting needs it
	fdPages                // the pages of all workers, read-only, as well
	fdClients              // the census of clients, with limit_connections_per_client
	fdListeners            // first listener; the rest follow
)

// workerFiles lists the descriptors of a new worker. A number whose descriptor is not
// needed gets the lifeline: a free number could later be given to a file that the
// worker opens, and be taken for the missing descriptor.
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
		if readable(fdLifeline) {
			w.sayOrphaned() // what it asked of the arbiter's other processes has failed for that
		} else {
			w.log.errorf("Exception in worker process: %v", err)
		}
		return exitBoot
	}
	if w.oversubscribed() {
		if err := waitForOthers(); err != nil {
			w.log.debugf("%v", err)
		}
	}
	w.serve()
	w.relay()
	w.access.flush()
	w.log.infof("Worker exiting (pid: %d)", w.pid)
	w.log.close()
	return w.exit
}

// newWorker makes a worker of the descriptors and the settings that the arbiter has
// passed on. It may return a worker beside an error, for the worker's error log.
func newWorker() (*worker, error) {
	debug.SetGCPercent(-1) // until limitMemory's cleanup
	cfg, err := passedConfig()
	if err != nil {
		return nil, err
	}
	w := &worker{
		cfg:        cfg,
		pid:        os.Getpid(),
		arbiter:    os.Getppid(),
		scriptName: os.Getenv("SCRIPT_NAME"),
		wake:       fdWake,
		alone:      cfg.workers < 2,
		life:       life{maxServed: maxServed(cfg)},
		acceptor:   acceptor{giveFD: fdGive, takeFD: fdTake},
		scratch:    scratch{rbuf: make([]byte, heldPressed)},
	}
	if cfg.family() == familyASGI {
		w.scriptName = ""
	}
	w.log, w.access, err = openLogs(cfg, fdErrorlog, fdAccesslog)
	if err == nil && cfg.logs {
		w.access, err = cfg.inPython(w.log, w.access, &recorder{fd: fdRecords})
	}
	if err != nil {
		return w, err
	}
	w.server = cfg.ownFields()
	w.openH2()
	w.spool = newSpool(cfg)
	w.limitMemory()
	if cfg.credential != nil {
		if err := checkCredential(cfg.credential); err != nil {
			return w, err
		}
	}
	if err := w.openBoard(); err != nil {
		return w, err
	}
	w.limited = cfg.limitsQueue()
	if cfg.requestIDHeader != "" {
		w.ids = &ids{name: []byte(cfg.requestIDHeader)}
	}
	if live, ready := cfg.healthPaths(); live != "" {
		w.health = &checker{live, ready}
	}
	w.memory = watchMemory("")
	if err := w.openStatic(); err != nil {
		return w, err
	}
	if w.loop, err = openLoop(); err != nil {
		return w, err
	}
	w.born = w.now
	w.slot.heartbeat.Store(sharedTime())
	w.clock.set(time.Now())
	w.listeners = passedListeners()
	return w, w.openTLS()
}

// maxServed is max_requests with a jitter. Workers that start together have neighbouring pids
// and nearly the same time. The factor, the thousandth prime, scatters neighbouring pids over
// the range of the jitter, so that such workers do not retire together.
func maxServed(c *config) int {
	if c.maxRequests == 0 {
		return 0
	}
	return c.maxRequests + int(uint64(time.Now().UnixNano()^int64(os.Getpid())*7919)%uint64(c.maxRequestsJitter+1))
}

// passedConfig reads the settings that the arbiter has passed on. Programs that this worker
// starts get none of the passed descriptors.
func passedConfig() (*config, error) {
	for fd := fdLifeline; fd < fdListeners; fd++ {
		unix.CloseOnExec(fd)
	}
	raw, err := readFile(fdSettings, 16<<20)
	if err != nil {
		return nil, err
	}
	unix.Close(fdSettings)
	return decodeConfig(raw)
}

// passedListeners describes the listeners that the arbiter has passed on.
func passedListeners() (list []listener) {
	for fd := fdListeners; ; fd++ {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return list
		}
		unix.CloseOnExec(fd)
		list = append(list, newListener(fd, sa))
	}
}

// openBoard maps the worker's own page of the scoreboard, and what it may see of the others.
func (w *worker) openBoard() error {
	at, err := unix.Seek(fdSlot, 0, unix.SEEK_CUR)
	if err != nil {
		return os.NewSyscallError("lseek", err)
	}
	if w.slot, err = mapSlot(fdSlot); err != nil {
		return err
	}
	if w.others, err = openNeighbours(w.cfg, fdScores, fdPages); err == nil && w.cfg.limitConnectionsPerClient > 0 {
		w.census, err = joinCensus(fdClients, int(at)/boardStride, w.others)
	}
	return err
}

// boot starts the Python and puts the worker's own descriptors under the loop's watch.
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
	w.python, err = openPython(w.cfg, os.NewFile(fdBridge, "bridge"), os.Environ(), fork, w.listeners)
	if err != nil {
		return err
	}
	if w.python.own {
		w.closeListeners()
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

// listenToPipe is called when Python announces that its frames will come through a
// pipe. From then on the wire brings only large bodies and descriptors, each
// announced by a frame in the pipe. The wire is therefore watched edge-triggered:
// bytes that wait there for their frame must not wake the loop again and again.
func (w *worker) listenToPipe(l *lane, _ *marshalReader) error {
	if err := l.openPipe(); err != nil {
		return err
	}
	w.change(l.fd, unix.EPOLLIN|unix.EPOLLET)
	return w.listen(l.pipe, unix.EPOLLIN, l)
}

// claim receives what has come over the wire when no frame in the pipe has
// announced anything. A descriptor may come before its frame, and is kept. A plain
// byte is a protocol error: it would be taken for a part of some response.
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

// deafen takes a lane's descriptors out of the loop's watch.
func (w *worker) deafen(l *lane) {
	w.forget(l.fd)
	if l.pipe >= 0 {
		w.forget(l.pipe)
	}
}

// catchSignals turns signals into bytes on a pipe and returns its read end.
// ABRT is left to Go's runtime: the arbiter sends ABRT when this loop hangs, and
// the runtime prints the stack of every goroutine, which shows where.
func (w *worker) catchSignals() (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	caught := make(chan os.Signal, 16)
	if w.cfg.family() == familyOwn {
		signal.Notify(caught, unix.SIGABRT) // for the class
	}
	signal.Notify(caught, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCHLD,
		unix.SIGXFSZ) // uncaught, it would end the process; write reports a file at its size limit anyway
	go func() {
		for s := range caught {
			_, _ = unix.Write(p[1], []byte{byte(s.(syscall.Signal))})
		}
	}()
	return p[0], nil
}

// serve runs until the worker has nothing left to do.
func (w *worker) serve() {
	w.nextTick = w.after(time.Second)
	for !w.finished() {
		w.turn(w.wait())
	}
}

// obeyDue is when a TERM is obeyed for which the arbiter has given no order, 0 for
// no such TERM.
func (w *worker) obeyDue() int64 {
	if w.termAt == 0 || w.stopping() {
		return 0
	}
	return w.termAt + int64(groupWait)
}

// oversubscribed reports whether all workers and their Pythons are more than the processors.
// A worker that wakes then takes the processor from a Python, which costs both more than the
// worker needs to pass on an answer: the worker had better wait until the Python pauses.
func (w *worker) oversubscribed() bool { return 2*w.cfg.workers > runtime.NumCPU() }

// parentGone is called when the arbiter has died. The worker then ends by itself.
func (w *worker) parentGone(int, uint32) {
	w.forget(fdLifeline)
	w.sayOrphaned()
	w.deadline = w.after(w.cfg.gracefulTimeout)
	w.end()
}

// sayOrphaned logs that the arbiter has died, and its logging process with it.
func (w *worker) sayOrphaned() {
	w.log.python = nil
	w.log.infof("Parent changed, shutting down: <Worker %d>", w.pid)
}

// stopping reports whether this worker takes no more work of its own accord.
func (w *worker) stopping() bool { return w.slot.phase().stops() }

// draining reports whether all workers are stopping: with no sibling left to take
// them over, this worker serves its connections to the end.
func (w *worker) draining() bool { return w.slot.phase() == phaseDraining }

// enter is the one place where a worker's phase changes. It wakes the arbiter, which
// reads the phase from the scoreboard.
func (w *worker) enter(p phase) {
	if from := w.slot.phase(); strict && !from.mayBecome(p) {
		panic(fmt.Sprintf("a worker goes from phase %d to %d", from, p))
	}
	w.slot.state.Store(uint64(p))
	_, _ = unix.Write(w.wake, []byte{0})
}

// finished reports whether the worker's life is over. When a worker that is stopping
// has nothing left to serve, finished first has its Python end.
func (w *worker) finished() bool {
	p := w.python
	if w.quitAt != 0 && (len(p.busy) == 0 || !p.ready) {
		w.quitPython()
	}
	if w.stopping() && !p.ended && len(w.listeners) == 0 && !w.expects() && len(p.busy) == 0 &&
		len(w.waiting) == 0 && !(w.draining() && !p.closed && !w.python.gone && !p.own && readable(w.takeFD)) {
		if p.own && !p.closed {
			w.announce(unix.SIGTERM)
		}
		p.end()
		if w.python.killAt == 0 && (w.python.hung != "" || w.streams() == nil) { // partAt bounds what streams do after their responses
			w.python.killAt = w.after(w.cfg.gracefulTimeout)
			if w.python.hung != "" { // a thread still runs a request that was given up
				w.python.killAt = w.after(killDelay)
			}
		}
	}
	served := w.open == 0 || w.deadline != 0 && w.python.gone && !slices.ContainsFunc(w.conns, unanswered) // at the deadline the arbiter kills this worker
	return w.python.gone && (w.slot.phase() == phaseQuitting || p.ended && served || !p.ready && (!w.stopping() || w.open == 0))
}

// unanswered reports whether a part of c's last response may not be sent yet.
func unanswered(c *conn) bool { return c != nil && (c.state != lingering || c.lent) }

// expects reports whether a client may still send a request: Python need not wait for clients
// that only have to take their last response.
func (w *worker) expects() bool {
	return w.open > 0 && slices.ContainsFunc(w.conns, func(c *conn) bool {
		return c != nil && c.state != lingering && (c.state != open || c.turn == nil || c.turn.state != draining || c.keep)
	})
}

// Signals -------------------------------------------------------------------

// signals acts on the signals that catchSignals has written to the pipe.
func (w *worker) signals(fd int, _ uint32) {
	var b [64]byte
	n, _ := rawRead(fd, b[:])
	for _, s := range b[:n] {
		s := syscall.Signal(s)
		if w.python.own && slices.Contains(ownSignals, s) {
			w.announce(s)
		}
		switch s {
		case unix.SIGTERM:
			if w.termAt == 0 {
				w.termAt = w.now
			}
			w.obey()
		case unix.SIGHUP: // meant for the arbiter, as an application's parent is the arbiter under Gunicorn
			if os.Getppid() != w.arbiter || unix.Kill(w.arbiter, s) != nil {
				w.retire()
			}
		case unix.SIGUSR2:
			w.retire() // meant for the arbiter, which replaces a worker that retires
		case unix.SIGINT, unix.SIGQUIT:
			w.quit()
		case unix.SIGUSR1:
			w.reopen()
		case unix.SIGCHLD:
			w.reap()
		case unix.SIGWINCH:
			if !w.python.own {
				w.log.debugf("worker: SIGWINCH ignored.")
			}
		}
	}
}

// groupWait is how long a worker with an unexplained TERM waits for the arbiter's
// order. A service manager sends TERM to all processes at once; the worker then must
// not count on siblings. The arbiter needs a few milliseconds to write the order,
// more on a loaded machine.
const groupWait = 200 * time.Millisecond

// obey acts on TERM: as the arbiter has ordered, or by retiring if no order comes in
// time.
func (w *worker) obey() {
	switch w.slot.order.Load() {
	case orderDrain, orderLeave:
		w.end()
	case orderRetire:
		w.retire()
	default:
		if w.now < w.obeyDue() {
			return
		}
		w.retire()
	}
	w.announce(unix.SIGTERM)
}

// A stop signal is announced to Python by the real-time signal whose number is announced
// minus that of the stop signal.
const announced = syscall.Signal(64)

// announce has Python run the handler that the application may have for a stop signal.
// Without such a handler nothing is sent: Python has none for the announcement either,
// and would die of it. A class that serves by itself gets the stop signal as it is, and
// after it only a harsher one.
func (w *worker) announce(s syscall.Signal) {
	stops := s == unix.SIGTERM || s == unix.SIGQUIT || s == unix.SIGINT
	switch {
	case w.python.own && (!stops || w.told == 0 || w.told == unix.SIGTERM && s != unix.SIGTERM):
		if stops {
			w.told = s
		}
		w.signalPython(s)
	case !w.python.own && w.told != s && w.handles(s):
		w.told = s
		w.signalPython(announced - s)
	}
}

// ownSignals are the signals to this worker that are meant for a class that serves by itself.
// TERM waits for the arbiter's order, and USR1 until the class has a handler.
var ownSignals = []syscall.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH, unix.SIGABRT}

// handles reports whether the application has a handler for a stop signal.
func (w *worker) handles(s syscall.Signal) bool {
	p := w.python
	return p.ready && !p.gone && catches(p.pid, announced-s)
}

// reopen reopens the log files, and has Python do the same.
func (w *worker) reopen() {
	reopenLogs(w.log, w.access)
	if w.cfg.captureOutput && w.log.out.file {
		if err := w.log.out.capture(); err != nil {
			w.log.errorf("capture_output: %v", err)
		}
	}
	// A Python that is still booting has no handler for USR1 and would die of it.
	if w.renamed = !w.python.ready; !w.renamed {
		w.signalPython(unix.SIGUSR1)
	}
}

// retire stops taking work, and hands requests that have not begun to the siblings
// or to the worker that replaces this one.
func (w *worker) retire() {
	if w.stopping() {
		return
	}
	w.partLater(true)
	w.enter(phaseRetiring)
	w.disarm()
	w.closeListeners()
	w.handOver()
	w.endBoot()
}

// handOver gives the siblings the requests that wait and the connections that are idle.
func (w *worker) handOver() {
	w.someWait()
	for _, t := range w.waiting {
		w.giveAway(t.conn)
	}
	w.keepWaiting()
	for _, c := range w.conns {
		switch {
		case c == nil || c.gone:
		case c.state == lingering:
			c.closeAt = min(c.closeAt, w.after(lingerIdle))
		case c.carrier != nil:
			w.dismiss(c)
		case c.state != handshaking && !c.between():
		case !c.transport.portable():
			w.stay(c)
		default:
			w.giveAway(c)
			if !c.gone && len(c.in) == 0 {
				w.close(c)
			}
		}
	}
}

// endBoot ends a Python that is not ready, because nobody waits for it any more. A start-up
// that has begun is cancelled, and has graceful_timeout to tidy up.
func (w *worker) endBoot() {
	switch {
	case w.python.ready:
	case w.python.starting:
		if w.python.own {
			w.announce(unix.SIGTERM)
		}
		w.python.end()
		w.python.killAt = w.after(w.cfg.gracefulTimeout)
	default:
		w.killPython(unix.SIGKILL)
	}
}

// end stops this worker together with all others: connections that have been
// accepted, or wait to be accepted, still get their answers.
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
			c.closeAt = min(c.closeAt, w.after(lingerIdle))
		}
		if c != nil && c.turn != nil && c.turn.taken {
			w.endTaken(c)
		}
		if c == nil || c.gone || c.state != handshaking && !c.between() {
			continue
		}
		// A request may be in the socket that this turn of the loop has not read.
		if c.carrier != nil {
			c.unread = true
			w.advance(c)
			w.dismiss(c)
			continue
		}
		if c.between() && len(c.in) == 0 {
			c.unread = true
			w.advance(c)
		} else if c.state == handshaking && !c.shakes() {
			c.unread = true
			w.readHello(c)
		}
		switch {
		case c.gone || c.state != handshaking && !c.between():
		case len(c.in) == 0 && !c.shakes():
			w.endIdle(c)
		default:
			c.hasten(w.after(lingerIdle))
		}
	}
	w.endBoot()
	w.drainBacklog()
}

// endIdle ends an idle connection when all workers stop. gthread, as in Gunicorn, first leaves
// lingerIdle for a request that the client may be sending on a connection it was promised.
func (w *worker) endIdle(c *conn) {
	if w.python.threads && c.served > 0 {
		c.hasten(w.after(lingerIdle))
	} else {
		w.close(c)
	}
}

// drainBacklog closes each listener once no client waits in its queue. Hardly any
// new client can join meanwhile: the arbiter has cut the queue's length.
func (w *worker) drainBacklog() {
	kept := w.listeners[:0]
	for _, l := range w.listeners {
		if w.python.ready && !w.python.closed && !w.python.ended && readable(l.fd) {
			kept = append(kept, l)
			continue
		}
		w.forget(l.fd)
		unix.Close(l.fd)
	}
	w.listeners = kept
}

// quitGrace is how long running requests have when their worker quits, as in Gunicorn.
const quitGrace = 100 * time.Millisecond

// quit ends the worker at once: requests that still run after quitGrace are lost. Requests
// that have not begun, and idle connections, go to the other workers if there are any.
func (w *worker) quit() {
	if w.slot.phase() == phaseQuitting {
		return
	}
	order := w.slot.order.Load()
	alone := w.draining() || order == orderDrain || order == orderLeave
	w.enter(phaseQuitting)
	w.disarm()
	w.closeListeners()
	for _, c := range w.conns {
		if c != nil && c.carrier != nil {
			w.dismiss(c) // so that the client knows which requests it may repeat
		}
	}
	if w.leaving = !alone; w.leaving {
		w.handOver()
	}
	w.announce(unix.SIGQUIT)
	w.quitAt = w.after(quitGrace)
}

// quitPython ends the Python of a worker that quits.
func (w *worker) quitPython() {
	p := w.python
	w.quitAt = 0
	if w.streams() != nil {
		w.endTasks(0)
	}
	handled := w.handles(unix.SIGQUIT) // the handler, or worker_int, has until killAt
	p.end()
	if len(p.busy) > 0 && !handled || !p.ready {
		w.killPython(unix.SIGKILL)
	} else if p.own {
		p.killAt = w.after(w.cfg.gracefulTimeout)
	} else {
		p.killAt = w.after(killDelay)
	}
}

// closeListeners closes this worker's copies of the listeners.
func (w *worker) closeListeners() {
	for _, l := range w.listeners {
		unix.Close(l.fd)
	}
	w.listeners = nil
}

// watchWire sets which events of a lane the loop waits for: room on the wire while
// frames wait to be sent, and frames from Python unless a slow client holds up
// reading or the rest of a body has to come over the wire first.
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
	reads := events & unix.EPOLLIN
	if reads == 0 {
		reads = unix.EPOLLET // the wire's end is reported in any case: once, and not in each turn
	}
	if l.pipe < 0 {
		w.change(l.fd, reads|events)
		return
	}
	if changed&unix.EPOLLIN != 0 {
		w.change(l.pipe, reads)
	}
	if changed&unix.EPOLLOUT != 0 {
		w.change(l.fd, events|unix.EPOLLIN|unix.EPOLLET)
	}
}

// holdable is how many bytes of one body or response may be in memory: fewer when all
// connections together use more than half of their limit.
func (w *worker) holdable() int {
	if w.pool.out > w.pool.limit/2 {
		return heldPressed
	}
	return held
}

// standDown asks the arbiter for a replacement, and serves until the arbiter has the
// replacement ready and sends TERM.
func (w *worker) standDown(cause uint64) {
	w.because(cause)
	w.enter(phaseStandingDown)
}

// aheadLeast is the least max_requests for which a replacement is booted in advance.
// A worker with less has few requests to serve, and would ask for its replacement as
// soon as its own Python is ready.
const aheadLeast = 50

// outgrow asks for a replacement when this worker will soon have served max_requests,
// or its Python has grown beyond max_memory. It runs once a second.
func (w *worker) outgrow() {
	last := w.dispatched - w.counted
	w.counted = w.dispatched
	if w.slot.phase() != phaseServing {
		return
	}
	// Requests expected until a replacement has booted, at the rate of the last
	// second, with two seconds to spare for the next tick and a rising rate.
	soon := int64(last) * int64(w.bootTook+2*time.Second) / int64(time.Second)
	if w.maxServed >= aheadLeast && int64(w.maxServed-w.dispatched) <= soon {
		w.log.infof("Autorestarting worker after current request.")
		w.standDown(causeMaxRequests)
		return
	}
	if w.cfg.maxMemory == 0 || w.dispatched == 0 && !w.python.own { // a Python too large before its first request would be so again
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
