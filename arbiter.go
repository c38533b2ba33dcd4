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
	*generation             // in force: new workers are of it
	former      *generation // during a reload: what to go back to
	again       bool        // HUP came during a reload, which another one has to follow
	load        func() (*generation, error)

	wakeR  int // readable when there is something to look at; what the bytes are says nothing
	wakeW  int // workers hold this end too
	caught chan syscall.Signal
	later  []syscall.Signal // caught while something else was waited for
	lifeR  int              // workers hold this end; EOF tells them that the arbiter is gone
	lifeW  int
	give   int // the hand-over socket outlives every worker
	take   int

	workers   map[int]*child
	target    int           // number of workers wanted
	counted   int           // number of workers as statsd was last told
	age       int           // of the newest worker
	served    bool          // a worker has served since the start
	pause     time.Duration // the back-off, 0 after a successful boot
	notBefore int64         // earliest start of replacements for workers that failed
	failed    int           // replacements that wait for notBefore
	early     int           // workers that have crashed soon after their start, in a row

	heir     helper // the arbiter that USR2 has started
	metrics  metrics
	scores   *scoreboard
	manager  serviceManager
	memory   memoryWatch
	nextLook int64  // when to look at the memory again
	awake    int64  // when the loop was last seen to run
	untidy   bool   // memory was used for settings or a start, and can be returned
	master   string // how log lines name this process
	ownPid   string // the pidfile that this process has written

	systemd     bool     // the listeners are a service manager's
	passed      passedOn // by the arbiter that has started this one
	parentBoard *board   // that arbiter's page, nil when it is gone or speaks another version
	orphans     []*bound // that arbiter's listeners that the settings do not ask for
}

// child is a worker as the arbiter sees it.
type child struct {
	pid        int
	age        int
	generation *generation
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

// run is the life of the arbiter; it returns the exit status.
func (a *arbiter) run() (status int) {
	debug.SetGCPercent(50)
	a.master = "Master" + a.suffix()
	a.workers = map[int]*child{}
	a.awake = monotonic()
	defer func() {
		for _, g := range a.generations() {
			g.logger.finish()
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
		a.startHelpers()
		a.keep()
	}
}

// start opens everything that workers need.
func (a *arbiter) start() error {
	a.memory = watchMemory("")
	if err := a.open(a.generation, a.announce); err != nil {
		return err
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

// announce makes the arbiter known to who may signal it.
func (a *arbiter) announce() error {
	a.log.infof("Starting gunicorn %s", version)
	// Catch signals before the pidfile exists: whoever reads it may signal at once.
	if err := a.openPipes(); err != nil {
		return err
	}
	if err := a.writePidfile(); err != nil {
		return err
	}
	return a.hook("on_starting")
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
		for _, g := range a.generations() {
			g.reopen()
		}
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
	serving, stale := 0, false
	var leaving []*child
	for _, w := range a.workers {
		if w.slot.phase() > phaseServing && !w.told {
			stale = stale || !w.left && a.stale(w)
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
	if a.former != nil && serving >= a.target {
		a.endReload()
	}
	if stale {
		a.reload()
	}
}

// stale reports whether a worker leaves because a file has changed that the
// template process may have loaded, from which its replacement would be forked.
func (a *arbiter) stale(w *child) bool {
	return a.cfg.reload && a.template != nil && w.generation == a.generation && w.slot.cause.Load() == causeReload
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
	files := map[int]int{
		fdLifeline: a.lifeR, fdSlot: fd, fdSettings: settings, fdGive: a.give, fdTake: a.take, fdWake: a.wakeW,
		fdErrorlog: a.log.out.shared(), fdAccesslog: a.access.shared(), fdBridge: int(a.bridge.Fd()),
	}
	far := -1
	if a.template != nil {
		if files[fdFork], far, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
			return err
		}
		defer unix.Close(files[fdFork])
		defer unix.Close(far)
	}
	if a.logger != nil {
		files[fdRecords] = a.logger.give
	}
	if a.vault != nil {
		files[fdVault] = a.vault.shared
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{workerTitle + a.cfg.name() + a.suffix() + "]"}, &syscall.ProcAttr{
		Env: childEnv(a.cfg), Files: workerFiles(files, a.listeners),
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
	if a.template == nil {
		return nil
	}
	return a.template.adopt(a.age, pid, far) // if it fails, the worker finds its socket closed
}

// ownEnv is what the server adds to the environment.
func (c *config) ownEnv() []string {
	return append([]string{"SERVER_SOFTWARE=gunicorn/" + version}, c.rawEnv...)
}

// childEnv is the arbiter's environment with what the server adds. A name stands in
// it once, as programs differ in which of two they believe.
func childEnv(c *config) []string {
	env := os.Environ()
	for _, set := range c.ownEnv() {
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
		if helper := a.helperOf(pid); helper != nil {
			if failed := a.reapHelper(helper, status); failed != nil {
				return failed
			}
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
		text, memory := a.memory.death(status)
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
		case a.former != nil:
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

// Helpers -------------------------------------------------------------------

// helper is the state of a child process that is no worker.
type helper struct {
	pid       int    // 0 while there is none
	notBefore int64  // the earliest time of the next start
	said      string // the error of the last start, which is logged once
}

// helperRow is what the arbiter does about one helper.
type helperRow struct {
	*helper
	name  string
	after string                             // the log line of its death ends with this
	start func() (pid int, err error)        // nil if the arbiter does not start another
	died  func(status unix.WaitStatus) *halt // nil if nothing more has to be done
}

// helpers is the table of the helpers.
func (a *arbiter) helpers() []helperRow {
	list := []helperRow{
		{helper: &a.heir, name: "new arbiter", after: "This one goes on.", died: a.heirDied},
		{helper: &a.metrics.helper, name: "process that serves metrics", after: "Another is started.",
			start: func() (int, error) { return a.metrics.start(a) }},
	}
	for _, g := range a.generations() {
		if g.template != nil {
			list = append(list, helperRow{helper: &g.template.helper, name: "Python of the configuration file", after: "A reload starts another.",
				died: func(status unix.WaitStatus) *halt { return a.templateDied(g, status) }})
		}
		if g.logger != nil {
			list = append(list, helperRow{helper: &g.logger.helper, name: "Python that makes the logs", after: "Another is started.",
				start: func() (int, error) { return g.logger.restart(g) }})
		}
	}
	return list
}

// helperOf is the helper that a child is, nil for a worker or a stranger.
func (a *arbiter) helperOf(pid int) *helperRow {
	for _, h := range a.helpers() {
		if h.pid == pid {
			return &h
		}
	}
	return nil
}

// reapHelper takes note of the death of a helper.
func (a *arbiter) reapHelper(h *helperRow, status unix.WaitStatus) *halt {
	pid := h.pid
	h.pid, h.notBefore = 0, monotonic()+int64(time.Second)
	if h.died != nil {
		if stop := h.died(status); stop != nil {
			return stop
		}
	}
	if status == 0 {
		a.log.infof("The %s (pid:%d) has stopped. %s", h.name, pid, h.after)
	} else {
		a.log.errorf("The %s (pid:%d) %s %s", h.name, pid, fate(status), h.after)
	}
	return nil
}

// startHelpers starts those that are missing, each at most once a second.
func (a *arbiter) startHelpers() {
	for _, h := range a.helpers() {
		if h.start == nil || h.pid > 0 || monotonic() < h.notBefore {
			continue
		}
		h.notBefore = monotonic() + int64(time.Second)
		text := ""
		var err error
		if h.pid, err = h.start(); err != nil {
			text = err.Error()
		}
		if text != "" && text != h.said {
			a.log.errorf("%s", text)
		}
		h.said = text
	}
}

// Stopping ------------------------------------------------------------------

// stop ends all workers and returns the exit status. Gracefully, what has been
// accepted and what waits to be accepted is answered first; a second signal
// ends that.
func (a *arbiter) stop(graceful bool, reason string, status int) int {
	a.manager.stopping(a.heir.pid)
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
	a.template.close()
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
	for _, l := range a.allListeners() {
		if !l.inherited && !shared {
			_ = unix.Listen(l.fd, 0)
		}
		unix.Close(l.fd)
	}
	for _, g := range a.generations() {
		g.listeners = nil
	}
}

// unlinkSockets removes the files of unix sockets, unless another arbiter still
// listens there.
func (a *arbiter) unlinkSockets() {
	if a.shared() {
		return
	}
	for _, l := range a.allListeners() {
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
		return pyErrorf("%s doesn't exist. Can't create pidfile.", dir)
	}
	if owner := pidfileOwner(path); owner > 0 && owner != os.Getpid() {
		if err := unix.Kill(owner, 0); err == nil || err == unix.EPERM {
			return pyErrorf("Already running on PID %d (or pid file '%s' is stale)", owner, path)
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
