package main

// The arbiter binds the listeners, starts the workers and replaces those that
// die or fall silent. Its state is one struct, touched by one goroutine (run);
// the only other goroutine queues signals and wakes it. It never touches a
// client.
//
// With --user the arbiter is root and its workers are not, so nothing that they
// can write is believed: a byte on the wake pipe says no more than "look", the
// processes that are signalled are the arbiter's own children, and a page of the
// scoreboard can at worst harm the worker that has it.

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bindTries    = 5
	bindPause    = time.Second
	firstPause   = time.Second // before a worker that could not boot is tried again,
	longestWait  = 30 * time.Second
	pauseAlone   = 250 * time.Millisecond // the first pause while nobody serves,
	longestAlone = 5 * time.Second        // and the longest
	soon         = time.Second            // after its start, a crash is an early one
	quickLimit   = 2 * time.Second        // from a second signal to KILL
	silence      = 5 * time.Second        // without a heartbeat, beyond --timeout
	lookPause    = 20 * time.Millisecond  // between two looks that workers ask for
	leaversMax   = 32                     // workers that leave of their own accord, beside one for each that is wanted
)

type arbiter struct {
	load   func() (*generation, error) // reads every source of settings anew
	cfg    *generation
	log    *errorLog
	access *accessLog // for workers to inherit
	master string     // how log lines name this process

	listeners []*bound
	wakeR     int // readable when there is something to look at; what the bytes are says nothing
	wakeW     int // workers hold this end too
	caught    chan syscall.Signal
	later     []syscall.Signal // caught while others were waited for
	lifeR     int              // workers hold this end; EOF tells them that we are gone
	lifeW     int
	give      int // the hand-over socket outlives every worker
	take      int

	workers    map[int]*child
	target     int // how many there should be
	counted    int // how many there were of late
	age        int // of the newest
	generation int // of the settings that new workers get
	newest     int // the last generation that was tried
	former     int // during a reload: what to go back to
	served     bool
	pause      time.Duration // the back-off, 0 after a successful boot
	notBefore  int64         // then those are replaced that have failed
	failed     int           // so many
	early      int           // workers that have crashed soon after their start, in a row
	previous   *generation   // during a reload: what to go back to
	again      bool          // and another HUP has come
	replaced   []*bound
	ownPid     string // the pidfile that we have written
	untidy     bool   // settings have been read and workers started of late

	memory      memoryWatch
	nextLook    int64
	awake       int64 // when the loop was last seen to run
	metrics     metrics
	scores      *scoreboard
	manager     serviceManager
	systemd     bool     // the listeners are a service manager's
	heir        int      // the arbiter that USR2 has started, 0 if none
	passed      passedOn // by the arbiter that has started us
	parentBoard *board   // its page, nil when it is gone or speaks another version
	orphans     []*bound // its listeners that our settings do not ask for
}

// child is a worker as the arbiter sees it.
type child struct {
	pid        int
	age        int
	generation int
	slot       *slot
	started    int64 // monotonic, as are the other times here
	heartbeat  int64 // as last read: a time of the worker's, of which only a change counts
	heardAt    int64 // when it changed
	booted     bool  // its application is loaded
	left       bool  // it has said that it leaves, which nobody had told it to
	told       bool  // to leave
	aborted    bool  // for its silence
	killed     bool  // by us
}

// bound is one listening socket.
type bound struct {
	fd        int
	addr      address // as configured
	inherited bool    // from fd:// or a service manager, whose it remains
}

// halt stops the server because of a worker's exit status.
type halt struct {
	reason string
	status int
}

// generation is one reading of the settings, with what lives as long as they hold.
type generation struct {
	*config
	bridge *os.File // wsgi.py as python wants it, for every Python
	template   *template    // the Python that ran the configuration file, if still needed
	logger *logger  // nil unless Python makes the logs
	vault  *vault   // nil without TLS
}

func (g *generation) close() {
	g.template.close()
	g.logger.close()
	g.vault.close()
}

// run is the life of the arbiter; it returns the exit status.
func (a *arbiter) run() (status int) {
	debug.SetGCPercent(50)
	a.master = "Master" + a.suffix()
	a.workers = map[int]*child{}
	a.awake = monotonic()
	defer func() {
		a.cfg.logger.finish()
		if a.previous != nil {
			a.previous.logger.finish()
		}
	}()
	if err := a.start(); err != nil {
		a.unlinkSockets()
		a.removePidfile()
		var start *startError
		switch {
		case errors.As(err, &start):
			fmt.Fprint(os.Stderr, start.text)
		case !errors.Is(err, errCannotBind) && !errors.Is(err, errInterrupted):
			fmt.Fprintf(os.Stderr, "\nError: %v\n\n", err)
			if a.cfg.daemon && a.log != nil { // nobody reads the other
				a.log.errorf("%v", err)
			}
		}
		return exitFailure
	}
	for {
		a.promote()
		if now := monotonic(); now >= a.nextLook {
			a.memory.look()
			a.nextLook = now + int64(time.Second)
		}
		signals := a.sleep(time.Second)
		for _, s := range signals {
			if stop := a.handle(s); stop != nil {
				return a.stop(stop.graceful, "", 0)
			}
		}
		a.settle()
		if h := a.reap(); h != nil {
			return a.stop(true, h.reason, h.status)
		}
		a.murder()
		a.manage()
		if a.untidy && len(signals) == 0 {
			a.untidy = false
			debug.FreeOSMemory() // what that took is not needed again
		}
		a.publish()
		a.metrics.keep(a)
		if err := a.cfg.logger.keep(a.cfg); err != nil {
			a.log.errorf("logger: %v", err)
		}
		a.cfg.vault.keep(a.log)
	}
}

// start opens everything that workers need.
func (a *arbiter) start() (err error) {
	if a.log, a.access, err = openLogs(a.cfg); err != nil {
		return err
	}
	if m := a.cfg.template; m != nil {
		if err := m.start(a.cfg.config, childEnv(a.cfg.config)); err != nil {
			return err
		}
	}
	a.memory = watchMemory("")
	a.target = a.cfg.workers
	if err := a.hook("nworkers_changed", a.target, nil); err != nil {
		return err
	}
	a.log.infof("Starting gunicorn %s", version)
	// Who reads the pidfile may send a signal, which is to be heard.
	if err := a.openPipes(); err != nil {
		return err
	}
	if err := a.writePidfile(); err != nil {
		return err
	}
	if err := a.hook("on_starting"); err != nil {
		return err
	}
	if a.cfg.vault, err = openVault(a.cfg.config, nil); err != nil {
		return err
	}
	if a.listeners, err = a.openListeners(a.cfg.config, nil); err != nil {
		return err
	}
	if err := a.hook(""); err != nil {
		return err
	}
	if a.passed.parent == 0 {
		if err := a.metrics.set(a, a.cfg.config); err != nil {
			return err
		}
	}
	a.log.debugf("Arbiter booted")
	a.log.infof("Listening at: %s (%d)", a.listening(), os.Getpid())
	a.cfg.warnOfPatterns(a.log)
	a.cfg.warnOfVersion(a.log)
	a.log.infof("Using worker: %s", a.cfg.className())
	a.cfg.warnOfThreads(a.log)
	a.manager.open(a.log, a.passed.parent > 0)
	a.manager.ready()
	if err := a.hook("when_ready"); err != nil {
		return err
	}
	a.manage()
	a.publish()
	return nil
}

func (a *arbiter) openPipes() error {
	var wake, life [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	if err := unix.Pipe2(life[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	var err error
	if a.scores, err = newScoreboard(); err != nil {
		return err
	}
	if fds := a.passed.handover; fds != nil {
		a.give, a.take = fds[0], fds[1]
		if err := a.adoptBoard(fds[2]); err != nil {
			return err
		}
	} else if a.give, a.take, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(a.give, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	a.wakeR, a.wakeW, a.lifeR, a.lifeW = wake[0], wake[1], life[0], life[1]
	caught := make(chan os.Signal, 64)
	for s := range signalNames {
		signal.Notify(caught, s)
	}
	a.caught = make(chan syscall.Signal, 64)
	go func() {
		for s := range caught {
			a.caught <- s.(syscall.Signal)
			_, _ = unix.Write(a.wakeW, []byte{0}) // a pipe that is full wakes, too
		}
	}()
	return nil
}

// signalNames are the signals that the arbiter acts on, as its log has them.
var signalNames = map[syscall.Signal]string{
	unix.SIGHUP: "hup", unix.SIGQUIT: "quit", unix.SIGINT: "int", unix.SIGTERM: "term",
	unix.SIGTTIN: "ttin", unix.SIGTTOU: "ttou", unix.SIGUSR1: "usr1", unix.SIGUSR2: "usr2",
	unix.SIGWINCH: "winch", unix.SIGCHLD: "cld",
}

// sleep waits for a byte on the wake pipe, at most d, and returns the signals
// that came. Without a signal, the byte is a worker's that wants to be looked at,
// and one that asks all the time is not to keep the arbiter busy.
func (a *arbiter) sleep(d time.Duration) (signals []syscall.Signal) {
	signals, a.later = a.later, nil
	if len(signals) > 0 {
		return signals
	}
	ok, err := selectRead(a.wakeR, min(d, a.manager.beat()))
	a.awake = wake(a.awake)
	if err != nil || !ok {
		return nil
	}
	var b [256]byte
	_, _ = rawRead(a.wakeR, b[:])
	for {
		select {
		case s := <-a.caught:
			signals = append(signals, s)
			continue
		default:
		}
		if len(signals) == 0 {
			time.Sleep(lookPause)
		}
		return signals
	}
}

// order says how to stop.
type order struct{ graceful bool }

// handle acts on one signal; the result says to stop.
func (a *arbiter) handle(s syscall.Signal) *order {
	if s == unix.SIGCHLD {
		a.log.debugf("Handling signal: %s", signalNames[s])
		return nil // reaping follows in any case
	}
	a.log.infof("Handling signal: %s", signalNames[s])
	switch s {
	case unix.SIGTERM:
		return &order{graceful: true}
	case unix.SIGINT, unix.SIGQUIT:
		return &order{}
	case unix.SIGHUP:
		a.log.infof("Hang up: %s", a.master)
		a.reload()
	case unix.SIGTTIN:
		a.want(a.target + 1)
	case unix.SIGTTOU:
		if a.target > 1 {
			a.want(a.target - 1)
		}
	case unix.SIGUSR1:
		a.reopen()
		a.signalAll(unix.SIGUSR1)
	case unix.SIGUSR2:
		a.upgrade()
	case unix.SIGWINCH:
		if !a.cfg.daemon {
			a.log.debugf("SIGWINCH ignored. Not daemonized")
			break
		}
		a.log.infof("graceful stop of workers")
		a.want(0)
		for pid, w := range a.workers {
			w.told = true
			w.slot.order.Store(a.leaving())
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}
	return nil
}

// openLogs opens both logs, gives their files to whom workers switch to, and
// sends our output there if it is to be captured.
func openLogs(c *generation) (log *errorLog, access *accessLog, err error) {
	warning, err := c.resolveLogs()
	if err != nil {
		return nil, nil, err
	}
	if log, err = openErrorLog(c.errorlog, c.loglevel); err != nil {
		return nil, nil, err
	}
	access, err = openAccessLog(c.accesslog, c.accessLogFormat)
	if err == nil {
		err = log.join(c.config)
	}
	if err == nil {
		access, err = access.join(c.config, log.syslog)
	}
	if err == nil {
		err = giveLogs(c.config, log, access)
	}
	if err == nil && c.captureOutput {
		err = log.out.capture()
	}
	if err == nil && c.logs {
		if c.logger == nil {
			c.logger, err = openLogger(c)
		}
		if err == nil {
			access, err = c.inPython(log, access, &recorder{fd: c.logger.give})
		}
	}
	if err != nil {
		log.close()
		access.close()
		return nil, nil, err
	}
	if warning != nil {
		log.warningf("%v", warning)
	}
	return log, access, nil
}

// giveLogs makes log files that have been opened by their names ready for
// workers to do the same.
func giveLogs(c *config, log *errorLog, access *accessLog) error {
	err := log.out.give(c.credential)
	if err == nil && access != nil {
		err = access.out.give(c.credential)
	}
	return err
}

// reopen comes before the workers': they may have no right to make new files.
func (a *arbiter) reopen() {
	if err := a.log.reopen(); err != nil {
		a.log.errorf("errorlog: %v", err)
	}
	if err := a.access.reopen(); err != nil {
		a.log.errorf("accesslog: %v", err)
	}
	err := giveLogs(a.cfg.config, a.log, a.access)
	if l := a.cfg.logger; l != nil {
		if err == nil {
			err = l.renew(a.cfg.credential)
		}
		l.reopen()
	}
	if err == nil && a.cfg.captureOutput && a.log.out.file {
		err = a.log.out.capture()
	}
	if err != nil {
		a.log.errorf("%v", err)
	}
	if m := a.cfg.template; m != nil { // what it forks has its files
		_ = unix.Kill(m.pid, unix.SIGUSR1)
	}
}

// want changes the number of workers.
func (a *arbiter) want(n int) {
	old := a.target
	a.target = n
	if err := a.hook("nworkers_changed", n, old); err != nil {
		a.log.errorf("nworkers_changed: %v", err)
	}
}

func (a *arbiter) signalAll(s syscall.Signal) {
	for pid := range a.workers {
		_ = unix.Kill(pid, s)
	}
}

// Workers -------------------------------------------------------------------

// manage keeps as many workers as there should be. One that is leaving does
// not count, so its replacement boots while it finishes.
func (a *arbiter) manage() {
	active := a.active()
	if monotonic() >= a.notBefore {
		a.failed = 0
	}
	for n := a.target - len(active) - a.failed; n > 0; n-- {
		a.limitLeavers()
		if err := a.spawn(); err != nil {
			a.log.errorf("worker: %v", err)
			a.backOff("A worker could not be started")
			a.failed += n - 1 // the others would fare no better
			return
		}
	}
	for len(active) > a.target {
		a.tell(active[0])
		active = active[1:]
	}
	a.measure()
}

// limitLeavers is called before another worker is started. To say that it leaves
// and to stay is all that a worker needs for that, and its successor can do the
// same: there is a bound, at which the one that has been there for longest goes.
func (a *arbiter) limitLeavers() {
	var oldest *child
	n := 0
	for _, w := range a.workers {
		if w.left && !w.killed {
			if n++; oldest == nil || w.age < oldest.age {
				oldest = w
			}
		}
	}
	if n < a.target+leaversMax {
		return
	}
	a.log.warningf("%d workers leave and have not finished; the oldest (pid:%d) is killed", n, oldest.pid)
	oldest.killed = true
	_ = unix.Kill(oldest.pid, unix.SIGKILL)
}

// measure sends what the arbiter knows to statsd.
func (a *arbiter) measure() {
	if n := len(a.active()); n != a.counted {
		a.counted = n
		a.log.debugf("%d workers", n)
		a.log.statsd.send("gunicorn.workers:" + strconv.Itoa(n) + "|g")
	}
	if !a.cfg.backlogMetric {
		return
	}
	backlog, known := 0, false
	for _, l := range a.listeners {
		// Of a listener this is the length of its queue; a unix socket has
		// no such thing.
		if info, err := unix.GetsockoptTCPInfo(l.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			backlog, known = backlog+int(info.Unacked), true
		}
	}
	if known {
		a.log.debugf("socket backlog: %d", backlog)
		a.log.statsd.send("gunicorn.backlog:" + strconv.Itoa(backlog) + "|h")
	}
}

// active are the workers of the newest settings that are not leaving, oldest
// first.
func (a *arbiter) active() []*child {
	var list []*child
	for _, w := range a.workers {
		if w.generation == a.generation && !w.told && (w.slot.phase() == phaseBooting || w.slot.phase() == phaseServing) {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(x, y *child) int { return x.age - y.age })
	return list
}

// tell asks a worker to leave.
func (a *arbiter) tell(w *child) {
	w.told = true
	w.slot.order.Store(orderRetire)
	_ = unix.Kill(w.pid, unix.SIGTERM)
}

// settle notes which workers have booted, and ends a reload when all have.
func (a *arbiter) settle() {
	serving := 0
	var leaving []*child
	for _, w := range a.workers {
		if w.slot.phase() > phaseServing && !w.told {
			w.left = true
		}
		if !w.slot.phase().serves() {
			continue
		}
		a.served = true
		if w.slot.phase() == phaseStandingDown {
			leaving = append(leaving, w)
			continue
		}
		if w.generation == a.generation && !w.told {
			serving++
			if !w.booted {
				w.booted, a.untidy = true, true
				if a.early == 0 {
					a.pause, a.notBefore = 0, 0
				}
			}
		}
	}
	for _, w := range leaving {
		if serving >= a.target && !w.told {
			a.tell(w)
		}
	}
	if a.previous == nil || serving < a.target {
		return
	}
	a.previous.close()
	a.previous = nil
	a.manager.ready()
	for _, w := range a.workers {
		if w.generation != a.generation && !w.told {
			a.tell(w)
		}
	}
	a.closeBound(a.replaced)
	a.replaced = nil
	if a.again {
		a.reload()
	}
}

// spawn starts one worker: this binary again, under a title of its own.
func (a *arbiter) spawn() error {
	// Ours and not only the worker's, who may be a user without the right to
	// enter it. (A reload that failed may have left us elsewhere.)
	if err := os.Chdir(a.cfg.chdir); err != nil {
		return err
	}
	slot, fd, err := a.scores.take(a.age + 1)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	settings, err := memfd("settings", a.cfg.encode())
	if err != nil {
		return err
	}
	defer unix.Close(settings)
	files := []uintptr{0, 1, 2, uintptr(a.lifeR), uintptr(fd), uintptr(settings), uintptr(a.give), uintptr(a.take), uintptr(a.wakeW), a.log.out.passed(a.lifeR), a.access.passed(a.lifeR)}
	fork := a.lifeR // which keeps the number from being given to something else
	far := -1
	if a.cfg.template != nil {
		if fork, far, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
			return err
		}
		defer unix.Close(fork)
		defer unix.Close(far)
	}
	files = append(files, uintptr(fork), a.cfg.logger.passed(a.lifeR), a.cfg.bridge.Fd(), a.cfg.vault.passed(a.lifeR))
	for _, l := range a.listeners {
		files = append(files, uintptr(l.fd))
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{workerTitle + a.cfg.name() + a.suffix() + "]"}, &syscall.ProcAttr{
		Env: childEnv(a.cfg.config), Files: files,
		Sys: &syscall.SysProcAttr{Credential: a.cfg.credential},
	})
	if err != nil {
		return fmt.Errorf("/proc/self/exe: %w", err) // not there without /proc
	}
	slot.started.Store(time.Now().UnixNano())
	slot.pid.Store(uint64(pid))
	a.age++
	a.scores.hold(slot)
	now := monotonic()
	a.workers[pid] = &child{pid: pid, age: a.age, generation: a.generation, slot: slot, started: now, heardAt: now}
	if a.cfg.template == nil {
		return nil
	}
	return a.cfg.template.adopt(a.age, pid, far) // if it fails, the worker finds its socket closed
}

// childEnv is our environment and what raw_env adds. A name stands in it once, as
// programs differ in which of two they believe.
func childEnv(c *config) []string {
	env := os.Environ()
	for _, set := range append([]string{"SERVER_SOFTWARE=gunicorn/" + version}, c.rawEnv...) {
		name, _, _ := strings.Cut(set, "=")
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		env = append(env, set)
	}
	return env
}

// reap takes note of every dead child. As process 1 there are others than
// workers among them.
func (a *arbiter) reap() (h *halt) {
	for {
		pid, status := reapAny()
		if pid == 0 {
			return h
		}
		if m := a.cfg.template; m != nil && pid == m.pid {
			if h = a.templateDied(status); h != nil {
				return h
			}
			continue
		}
		if a.cfg.logger.died(pid) {
			a.log.errorf("The Python that makes the logs (pid:%d) %s Another is started.", pid, fate(status))
			continue
		}
		if a.metrics.died(pid) {
			a.log.errorf("The process that serves metrics (pid:%d) %s Another is started.", pid, fate(status))
			continue
		}
		if pid == a.heir {
			a.heirDied(pid, status)
			continue
		}
		w := a.workers[pid]
		if w == nil {
			a.log.debugf("Reaped unknown child process (pid:%d, status:%d)", pid, status)
			continue
		}
		delete(a.workers, pid)
		booted := w.slot.phase() != phaseBooting
		cause := w.cause(status)
		text, memory := a.memory.fate(status)
		if memory {
			cause = causeMemory
		}
		a.scores.fold(w.slot, cause)
		code := exitStatus(status)
		switch {
		case w.killed:
		case status.Signaled() && status.Signal() == unix.SIGKILL:
			a.log.errorf("Worker (pid:%d) %s", pid, text)
		case status.Signaled() && status.Signal() == unix.SIGTERM:
			a.log.infof("Worker (pid:%d) was sent SIGTERM!", pid)
		case status.Signaled():
			a.log.warningf("Worker (pid:%d) was sent %s!", pid, unix.SignalName(status.Signal()))
		case code != 0:
			a.log.errorf("Worker (pid:%d) exited with code %d.", pid, code)
		}
		if booted && !a.serves() {
			// Nobody is left: those who have failed are tried again soon.
			a.notBefore = min(a.notBefore, monotonic()+int64(pauseAlone))
		}
		if booted && !w.told && (cause == causeCrash || cause == causeMemory || cause == causeExit) {
			a.diedSoon(w)
		}
		if booted || w.told || h != nil {
			continue
		}
		switch {
		case w.generation != a.generation:
		case a.previous != nil:
			a.abandonReload()
		case a.served:
			a.backOff("A worker could not boot")
		case code == exitBoot:
			h = &halt{"Worker failed to boot.", code}
		case code == exitLoad:
			h = &halt{"App failed to load.", code}
		default:
			a.backOff("A worker could not boot")
		}
	}
}

// cause is why a worker has ended.
func (w *child) cause(status unix.WaitStatus) uint64 {
	switch {
	case w.aborted:
		return causeTimeout
	case status.Signaled() && !w.killed && !w.told:
		return causeCrash
	case w.slot.phase() == phaseBooting && !w.told:
		return causeBoot
	case w.slot.cause.Load() == causeExit && w.told:
		return causeReload
	}
	return w.slot.cause.Load()
}

// backOff slows down a crash loop: the place of a worker that has failed stays
// empty for a while, longer each time. Others are filled at once.
func (a *arbiter) backOff(what string) {
	a.failed++
	if monotonic() < a.notBefore {
		return
	}
	first, longest := firstPause, longestWait
	if !a.serves() {
		first, longest = pauseAlone, longestAlone
	}
	a.pause = min(max(2*a.pause, first), longest)
	a.notBefore = monotonic() + int64(a.pause)
	a.log.warningf("%s; the next try is in %v", what, a.pause)
}

// serves says whether any worker does.
func (a *arbiter) serves() bool {
	for _, w := range a.workers {
		if w.slot.phase().serves() {
			return true
		}
	}
	return false
}

// diedSoon slows down workers that crash as soon as they serve. A few may do so
// by chance, or because of one request: that is no loop.
func (a *arbiter) diedSoon(w *child) {
	if monotonic()-w.started > int64(soon) {
		a.early = 0
		return
	}
	if a.early++; a.early > 2*a.target+2 {
		a.backOff(fmt.Sprintf("%d workers in a row have crashed within %v of their start", a.early, soon))
	}
}

// murder ends workers whose loop has fallen silent: ABRT, and KILL in the next
// pass. A request that hangs is the worker's own affair; here it is the worker
// that hangs.
func (a *arbiter) murder() {
	if a.cfg.timeout == 0 {
		return
	}
	now := wake(a.awake)
	a.awake = now
	for _, w := range a.workers {
		if beat := w.slot.heartbeat.Load(); beat != w.heartbeat {
			w.heartbeat, w.heardAt = beat, now
		}
		silent := time.Duration(now - w.heardAt)
		if silent <= a.cfg.timeout+silence {
			continue
		}
		if w.aborted {
			_ = unix.Kill(w.pid, unix.SIGKILL)
			continue
		}
		w.aborted = true
		running := w.slot.runningText()
		if running != "" {
			running = ", running " + running
		}
		a.log.criticalf("WORKER TIMEOUT (pid:%d): no sign of life for %v%s", w.pid, silent.Round(time.Second), running)
		_ = unix.Kill(w.pid, unix.SIGABRT)
	}
}

// Hooks ---------------------------------------------------------------------

// hook calls a server hook of the configuration file, if it has that one.
func (a *arbiter) hook(name string, args ...any) error {
	return a.hookOf(a.cfg, a.listeners, name, args...)
}

// hookOf calls a hook of the file that c was read from. Without a name it only
// tells the template of the listeners, which hooks in its children see.
func (a *arbiter) hookOf(c *generation, listeners []*bound, name string, args ...any) error {
	if c.template == nil || name != "" && !c.hooks()[name] {
		return nil
	}
	addresses, entries := []any{}, []any{}
	for _, l := range listeners {
		addr := any(l.addr.path)
		sa, _ := unix.Getsockname(l.fd)
		if own := addrPort(sa); own.IsValid() {
			addr = []any{own.Addr().String(), int(own.Port())}
		}
		addresses = append(addresses, addr)
		entries = append(entries, []any{l.String(), addr, l.fd, addr})
	}
	if listeners == nil { // not yet open
		for _, addr := range addressesOf(c.config) {
			if addr.network == "unix" {
				addresses = append(addresses, addr.path)
			} else {
				addresses = append(addresses, []any{addr.host, addr.port})
			}
		}
	}
	if args == nil {
		args = []any{}
	}
	answer, err := c.template.ask(map[string]any{"do": "hook", "name": name, "args": args, "facts": map[string]any{
		"num_workers": a.target, "address": addresses, "listeners": entries,
	}})
	if err != nil {
		return err
	}
	if n, ok := answer["num_workers"].(int64); ok && n >= 0 && n <= 1<<16 {
		a.target = int(n)
	}
	changed, _ := answer["changed"].(map[string]any)
	return c.change(changed)
}

// templateDied is called when the Python of the configuration file has ended. An
// exception in one of its hooks has ended it with 255, and ends the server; for
// anything else a reload makes another.
func (a *arbiter) templateDied(status unix.WaitStatus) *halt {
	m := a.cfg.template
	m.close()
	a.cfg.template = nil
	if exitStatus(status) == 255 {
		return &halt{"A server hook failed.", 255}
	}
	a.log.errorf("The Python of the configuration file (pid:%d) %s A reload starts another.", m.pid, fate(status))
	a.later = append(a.later, unix.SIGHUP)
	return nil
}

// Reload --------------------------------------------------------------------

// reload reads the settings anew and boots a new set of workers. The old ones
// serve until the new ones do; when anything about the new settings or the
// application is wrong, they simply go on.
func (a *arbiter) reload() {
	if a.previous != nil {
		a.again = true // what has changed since must not be missed
		return
	}
	a.again = false
	a.manager.reloading()
	defer func() {
		if a.previous == nil {
			a.manager.ready() // as before
		}
	}()
	cfg, err := a.load()
	if err != nil {
		fmt.Fprint(os.Stderr, err.Error())
		a.log.errorf("The new configuration cannot be used; the old one stays in force.")
		return
	}
	log, access, err := openLogs(cfg)
	if err != nil {
		cfg.close()
		a.log.errorf("%v; the old configuration stays in force.", err)
		return
	}
	old := a.target
	a.target = cfg.workers
	listeners, err := a.openListeners(cfg.config, a.listeners)
	if err == nil && cfg.template != nil {
		if err = cfg.template.start(cfg.config, childEnv(cfg.config)); err == nil {
			err = a.hookOf(cfg, listeners, "nworkers_changed", cfg.workers, old)
		}
		for _, name := range []string{"on_reload", ""} {
			if err == nil {
				err = a.hookOf(cfg, listeners, name)
			}
		}
	}
	if err == nil {
		cfg.vault, err = openVault(cfg.config, a.cfg.vault)
	}
	if err == nil && a.passed.parent == 0 {
		err = a.metrics.set(a, cfg.config)
	}
	if err != nil {
		a.target = old
		log.close()
		access.close()
		cfg.close()
		for _, l := range listeners {
			if !slices.Contains(a.listeners, l) {
				a.closeBound([]*bound{l})
			}
		}
		if err.Error() == "" { // Python has said what is wrong
			a.log.errorf("The new configuration cannot be used; the old configuration stays in force.")
		} else {
			a.log.errorf("%s; the old configuration stays in force.", plainSentence(err))
		}
		return
	}
	a.log.close()
	a.access.close()
	a.log, a.access = log, access
	if !slices.Equal(cfg.bind, a.cfg.bind) {
		for _, l := range a.listeners {
			if !slices.Contains(listeners, l) {
				a.replaced = append(a.replaced, l)
			}
		}
		a.listeners = listeners
		a.log.infof("Listening at: %s", a.listening())
	}
	a.previous, a.cfg = a.cfg, cfg
	a.former = a.generation
	a.newest++
	a.generation = a.newest
	a.pause, a.notBefore = 0, 0
	a.removePidfile()
	if err := a.writePidfile(); err != nil {
		a.log.errorf("%v", err)
	}
	a.manage()
}

// abandonReload is called when a worker of the new settings could not boot:
// the old ones have never stopped serving, and stay.
func (a *arbiter) abandonReload() {
	a.log.errorf("The reload is abandoned: a worker could not boot. The workers that were there go on.")
	for _, w := range a.workers {
		if w.generation == a.generation {
			a.tell(w)
		}
	}
	a.generation = a.former
	if a.replaced != nil {
		old := addressesOf(a.previous.config)
		kept := a.replaced
		for _, l := range a.listeners {
			if slices.Contains(old, l.addr) {
				kept = append(kept, l)
			} else {
				a.closeBound([]*bound{l})
			}
		}
		a.listeners, a.replaced = kept, nil
	}
	a.cfg.close()
	a.cfg, a.previous = a.previous, nil
	a.manager.ready()
	a.target = a.cfg.workers
	if log, access, err := openLogs(a.cfg); err == nil {
		a.log.close()
		a.access.close()
		a.log, a.access = log, access
	}
	if a.again {
		a.reload()
	}
}

// Stopping ------------------------------------------------------------------

// stop ends all workers and returns the exit status. Gracefully, what has been
// accepted and what waits to be accepted is answered first; a second signal
// ends that.
func (a *arbiter) stop(graceful bool, reason string, status int) int {
	a.manager.stopping(a.heir)
	a.metrics.close(a)
	a.shutListeners()
	sig := unix.SIGQUIT
	if graceful {
		sig = unix.SIGTERM
	}
	a.signalAll(sig)
	a.publish()
	limit := monotonic() + int64(a.cfg.gracefulTimeout)
	for {
		a.reap()
		left := limit - monotonic()
		if len(a.workers) == 0 || left <= 0 {
			break
		}
		for _, s := range a.sleep(min(time.Duration(left), time.Second)) {
			switch s {
			case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
				a.log.infof("Quick shutdown requested")
				a.signalAll(unix.SIGQUIT)
				limit = min(limit, monotonic()+int64(quickLimit))
			}
		}
	}
	for pid, w := range a.workers {
		a.log.warningf("Worker (pid:%d) has not finished in time and is killed", pid)
		w.killed = true
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for len(a.workers) > 0 {
		a.sleep(100 * time.Millisecond)
		a.reap()
	}
	if reason != "" {
		a.log.errorf("Shutting down: %s", a.master)
		a.log.errorf("Reason: %s", reason)
	} else {
		a.log.infof("Shutting down: %s", a.master)
	}
	a.removePidfile()
	if err := a.hook("on_exit"); err != nil && status == 0 {
		status = exitFailure
	}
	a.cfg.template.close()
	a.log.close()
	return status
}

// leaving is how workers are to leave when no more of ours will come.
func (a *arbiter) leaving() uint64 {
	if a.successors() {
		return orderRetire
	}
	return orderLeave // nobody is there to take over
}

// shutListeners keeps new clients out and leaves those that wait to the
// workers: the queue's length is cut to nothing, which drops nobody who is in
// it. A socket that is not ours alone stays as it is for its next user.
func (a *arbiter) shutListeners() {
	shared := a.shared()
	order := uint64(orderDrain)
	for _, l := range a.listeners {
		if l.inherited {
			order = orderLeave
		}
	}
	if shared {
		order = a.leaving()
	}
	for _, w := range a.workers {
		w.told = true
		w.slot.order.Store(order)
	}
	a.unlinkSockets()
	for _, l := range append(a.listeners, a.replaced...) {
		if !l.inherited && !shared {
			_ = unix.Listen(l.fd, 0)
		}
		unix.Close(l.fd)
	}
	a.listeners, a.replaced = nil, nil
}

// unlinkSockets removes the files of unix sockets, unless another arbiter still
// listens there.
func (a *arbiter) unlinkSockets() {
	if a.shared() {
		return
	}
	for _, l := range append(a.listeners, a.replaced...) {
		if l.addr.network == "unix" && !l.inherited {
			_ = unix.Unlink(l.addr.path)
		}
	}
}

// Pidfile -------------------------------------------------------------------

// writePidfile claims the pidfile: a live owner is an error. It appears whole,
// by a rename.
func (a *arbiter) writePidfile() error {
	path := a.cfg.pidfile
	if path == "" {
		return nil
	}
	path += a.suffix()
	dir := filepath.Dir(path)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return said("%s doesn't exist. Can't create pidfile.", dir)
	}
	if owner := pidfileOwner(path); owner > 0 && owner != os.Getpid() {
		if err := unix.Kill(owner, 0); err == nil || err == unix.EPERM {
			return said("Already running on PID %d (or pid file '%s' is stale)", owner, path)
		}
	}
	temporary, err := os.CreateTemp(dir, ".gunicorn-pid-*")
	if err != nil {
		return fmt.Errorf("pidfile: %w", err)
	}
	_, err = fmt.Fprintf(temporary, "%d\n", os.Getpid())
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
		return fmt.Errorf("pidfile: %w", err)
	}
	a.ownPid = path
	return nil
}

// pidfileOwner is the pid in the file, 0 when there is none.
func pidfileOwner(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// removePidfile removes it if it is still ours.
func (a *arbiter) removePidfile() {
	if a.ownPid != "" && pidfileOwner(a.ownPid) == os.Getpid() {
		_ = os.Remove(a.ownPid)
	}
	a.ownPid = ""
}
