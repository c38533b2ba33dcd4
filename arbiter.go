package main

// The arbiter binds the listeners, starts the workers and replaces workers that die or
// fall silent. Its state is one struct, touched by one goroutine (run); the only other
// goroutine queues signals and wakes the first. The arbiter never touches a client.
//
// With --user the arbiter is root and its workers are not, so the arbiter trusts nothing
// that workers can write: a byte on the wake pipe means no more than "look", only the
// arbiter's own children are signalled, and a page of the scoreboard can at worst harm the
// worker to which it belongs.

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
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
	firstPause   = time.Second            // first pause before a failed boot is tried again
	longestWait  = 30 * time.Second       // longest such pause: the pause doubles with each failure
	pauseAlone   = 250 * time.Millisecond // first pause while no worker serves, when every moment is an outage
	longestAlone = 5 * time.Second        // longest pause while no worker serves
	soon         = time.Second            // a crash within this time of a worker's start may belong to a crash loop
	quickLimit   = 2 * time.Second        // time from a second stop signal to KILL
	silence      = 5 * time.Second        // how much longer than --timeout a worker may be silent: long enough for the worker to end its own hanging requests first
	lookPause    = 20 * time.Millisecond  // least time between two passes of the loop that workers ask for
	leaversMax   = 32                     // workers that may be leaving of their own accord, beyond the number wanted: honest workers never leave in such numbers
)

type arbiter struct {
	*generation             // the generation in force, of which new workers are made
	former      *generation // during a reload: the generation to return to if the new one fails
	again       bool        // HUP came during a reload: reload once more afterwards
	load        func(now *generation) (*generation, error)
	left        *halt // a hook has called sys.exit, or failed where that ends the server

	wakeR  int // read end of the wake pipe: readable when there is something to do; the bytes have no meaning
	wakeW  int // write end of the wake pipe; workers hold a copy
	caught chan syscall.Signal
	later  []syscall.Signal // signals caught while a bind was retried, to be handled later
	lifeR  int              // read end of the lifeline, of which workers hold a copy: EOF tells them that the arbiter has ended
	lifeW  int
	give   int // sending end of the hand-over socket, kept open here so that connections in it outlive every worker
	take   int

	workers   map[int]*child
	target    int           // number of workers wanted
	counted   int           // number of workers as statsd was last told
	age       int           // age of the newest worker
	served    bool          // a worker has served at some time since the start
	pause     time.Duration // latest pause of the back-off, 0 after a successful boot
	notBefore int64         // earliest start of replacements for workers that failed
	failed    int           // replacements that wait for notBefore
	early     int           // number of workers in a row that have crashed soon after their start

	drainBy  int64  // when the stop begins that TERM has asked for, 0 before TERM
	heir     helper // the arbiter that USR2 has started
	metrics  metrics
	scores   *scoreboard
	census   int // file of the census of clients, 0 for none yet
	manager  serviceManager
	memory   memoryWatch
	nextLook int64  // when to look at the memory again
	awake    int64  // when the arbiter's loop last ran; a gap means that the process was paused (wake)
	untidy   bool   // the loop has used memory (reading settings, starting workers) that can be returned
	master   string // how log lines name this process
	ownPid   string // the pidfile that this process has written
	heritage
}

// heritage is what an arbiter gets from a service manager, or from the old arbiter that USR2
// has told to start it.
type heritage struct {
	systemd     bool     // the listeners come from a service manager
	passed      passedOn // things inherited from the old arbiter
	parentBoard *board   // the old arbiter's page of its scoreboard; nil without one, or if it has another version
	orphans     []*bound // listeners of the old arbiter that the settings do not name
}

// child is a worker as the arbiter sees it.
type child struct {
	pid        int
	age        int
	generation *generation
	slot       *slot
	started    int64 // start of the process, on the monotonic clock
	heartbeat  int64 // heartbeat as last read; only a change of it counts
	heardAt    int64 // when the heartbeat last changed, on the monotonic clock
	booted     bool  // the application is loaded
	left       bool  // the worker leaves of its own accord
	told       bool  // the arbiter has told the worker to leave
	aborted    bool  // the arbiter has sent ABRT, because the worker was silent
	killed     bool  // the arbiter has sent KILL
}

// halt is the reason to stop the server because of a child's exit status.
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
		return a.notStarted(err)
	}
	for {
		a.promote()
		if now := monotonic(); now >= a.nextLook {
			a.memory.look()
			a.nextLook = now + int64(time.Second)
		}
		signals := a.sleep(a.untilDrained(time.Second))
		for _, s := range signals {
			if stop := a.handle(s); stop != nil && !(stop.graceful && a.drain()) {
				return a.stop(stop.graceful, "", 0)
			}
		}
		if a.untilDrained(1) == 0 {
			return a.stop(true, "", 0)
		}
		a.settle()
		if h := a.reap(); h != nil {
			return a.stop(true, h.reason, h.status)
		}
		a.murder()
		a.manage()
		if a.left != nil {
			return a.stop(true, a.left.reason, a.left.status)
		}
		if a.untidy && len(signals) == 0 {
			a.untidy = false
			debug.FreeOSMemory() // signals, reloads above all, take memory that is not needed again
			forgetStart()
		}
		a.publish()
		a.startHelpers()
		a.keep()
	}
}

// notStarted tidies up after a start that has failed, reports the error unless somebody else
// has, and returns the exit status.
func (a *arbiter) notStarted(err error) int {
	a.unlinkSockets()
	a.removePidfile()
	var start *startError
	var left hookExit
	var ended templateEnded
	switch {
	case errors.As(err, &start):
		fmt.Fprint(os.Stderr, start.text)
		return start.status
	case errors.As(err, &left):
		return int(left)
	case errors.As(err, &ended):
		if status, known := awaitEnd(int(ended), quickLimit); known && status.Exited() {
			return status.ExitStatus() // by os._exit, which says nothing
		}
		fallthrough
	case !errors.Is(err, errCannotBind) && !errors.Is(err, errInterrupted):
		fmt.Fprintf(os.Stderr, "\nError: %v\n\n", err)
		if a.cfg.daemon && a.log != nil { // nobody reads a daemon's standard error
			a.log.errorf("%v", err)
		}
	}
	return exitFailure
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
	a.cfg.warnOfH2()
	a.manager.open(a.log, a.passed.parent > 0)
	a.manager.ready()
	if err := a.hook("when_ready"); err != nil {
		return err
	}
	a.manage()
	a.publish()
	return nil
}

// announce writes the pidfile and calls on_starting.
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
		a.parentBoard, err = mapPage[board](fds[2], 0, readWrite)
		unix.Close(fds[2])
		if err != nil {
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
			_, _ = unix.Write(a.wakeW, []byte{0}) // a full pipe wakes the loop, too
		}
	}()
	return nil
}

// signalNames has the signals that the arbiter acts on, with their names in the log.
var signalNames = map[syscall.Signal]string{
	unix.SIGHUP: "hup", unix.SIGQUIT: "quit", unix.SIGINT: "int", unix.SIGTERM: "term",
	unix.SIGTTIN: "ttin", unix.SIGTTOU: "ttou", unix.SIGUSR1: "usr1", unix.SIGUSR2: "usr2",
	unix.SIGWINCH: "winch", unix.SIGCHLD: "cld",
}

// sleep waits for a byte on the wake pipe, at most d, and returns the signals that came. If
// no signal came, the byte is from a worker that has news; sleep then pauses, so that a
// worker that writes all the time cannot keep the arbiter busy.
func (a *arbiter) sleep(d time.Duration) (signals []syscall.Signal) {
	signals, a.later = a.later, nil
	if len(signals) > 0 {
		return signals
	}
	come := poll(a.wakeR, unix.POLLIN, min(d, a.manager.beat()))
	a.awake = wake(a.awake)
	if come == 0 {
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

// order is an instruction to stop the server.
type order struct{ graceful bool }

// handle acts on one signal. The result is nil unless the server has to stop.
func (a *arbiter) handle(s syscall.Signal) *order {
	if s == unix.SIGCHLD {
		a.log.debugf("Handling signal: %s", signalNames[s])
		return nil // reaping follows in any case
	}
	a.log.infof("Handling signal: %s", signalNames[s])
	if a.drainBy != 0 && (s == unix.SIGHUP || s == unix.SIGUSR2) {
		a.log.infof("It is ignored: the server is about to stop")
		return nil
	}
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
	if err := a.hook("nworkers_changed", n, old); err != nil && a.left == nil {
		a.log.errorf("nworkers_changed: %v", err)
	}
}

func (a *arbiter) signalAll(s syscall.Signal) {
	for pid := range a.workers {
		_ = unix.Kill(pid, s)
	}
}

// Workers -------------------------------------------------------------------

// manage keeps the number of workers at the target. A leaving worker does not count, so its
// replacement boots while the worker finishes.
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

// limitLeavers bounds the number of workers that leave and do not end. It is called
// before another worker is started. A compromised worker could report that it leaves and
// stay, and so could each of its successors. At the bound, the oldest such worker is
// killed.
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
	if !a.cfg.enableBacklogMetric {
		return
	}
	backlog, known := 0, false
	for _, l := range a.listeners {
		// For a listening TCP socket, Unacked is the length of the accept
		// queue. Unix sockets have no such figure.
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

// tell asks a worker to leave. Successors of a class that serves by itself take over no
// connections.
func (a *arbiter) tell(w *child) {
	w.told = true
	order := uint64(orderRetire)
	if w.generation != a.generation && a.cfg.family() == familyOwn {
		order = orderLeave
	}
	w.slot.order.Store(order)
	_ = unix.Kill(w.pid, unix.SIGTERM)
}

// settle notes which workers have booted and which leave, and ends a reload once enough
// workers of the new generation serve.
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

// stale reports whether a worker leaves because a file of the application has changed, and
// the template process, from which the replacement would be forked, may have loaded the old
// file.
func (a *arbiter) stale(w *child) bool {
	return a.cfg.reload && a.template != nil && !a.template.program && w.generation == a.generation && w.slot.cause.Load() == causeReload
}

// spawn starts one worker: this binary again, under a title of its own.
func (a *arbiter) spawn() error {
	// The worker inherits this directory, because its user may lack the right to
	// enter it. A failed reload may have left the arbiter in another directory.
	if err := os.Chdir(a.cfg.chdir); err != nil {
		return err
	}
	slot, page, err := a.scores.take(a.age + 1)
	if err != nil {
		return err
	}
	own := map[int]int{fdSlot: page}
	defer func() {
		for _, fd := range own {
			unix.Close(fd)
		}
	}()
	if err := a.openFor(slot, own); err != nil {
		return err
	}
	files := a.sharedFiles()
	maps.Copy(files, own)
	pid, err := syscall.ForkExec("/proc/self/exe", []string{workerTitle + a.cfg.name() + a.suffix() + "]"}, &syscall.ProcAttr{
		Env: childEnv(a.cfg), Files: workerFiles(files, a.listeners),
		Sys: &syscall.SysProcAttr{Credential: a.cfg.credential},
	})
	if err != nil {
		return fmt.Errorf("/proc/self/exe: %w", err) // the file is missing if /proc is not mounted
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
	return a.host.adopt(a.age, pid, own[fdForkFar]) // if it fails, the worker finds its socket closed
}

// fdForkFar is no descriptor of a worker: under this number openFor keeps the template
// process's end of the socket whose other end is fdFork.
const fdForkFar = -1

// openFor opens the files that a new worker shares with no other, adds them to own by their
// numbers in the worker, and makes the worker's part of the census.
func (a *arbiter) openFor(slot *slot, own map[int]int) (err error) {
	if own[fdSettings], err = memfd("settings", a.cfg.encode()); err != nil {
		return err
	}
	if a.cfg.needsNeighbours() {
		for number, fd := range map[int]int{fdScores: a.scores.fd, fdPages: a.scores.pages} {
			if own[number], err = openAnew(fd, unix.O_RDONLY); err != nil {
				return err
			}
		}
	}
	if a.template != nil {
		if own[fdFork], own[fdForkFar], err = socketpair(unix.SOCK_SEQPACKET); err != nil {
			return err
		}
	}
	if a.cfg.limitConnectionsPerClient == 0 {
		return nil
	}
	if a.census == 0 {
		if a.census, err = openCensus(); err != nil {
			return err
		}
	}
	return clearPart(a.census, slices.Index(a.scores.slots, slot))
}

// sharedFiles are the files that all workers get, by their numbers in a worker.
func (a *arbiter) sharedFiles() map[int]int {
	files := map[int]int{
		fdLifeline: a.lifeR, fdGive: a.give, fdTake: a.take, fdWake: a.wakeW,
		fdErrorlog: a.log.out.shared(), fdAccesslog: a.access.shared(), fdBridge: int(a.bridge.Fd()),
	}
	if a.logger != nil {
		files[fdRecords] = a.logger.give
	}
	if a.vault != nil {
		files[fdVault] = a.vault.shared
	}
	if a.cfg.limitConnectionsPerClient > 0 {
		files[fdClients] = a.census
	}
	return files
}

// ownEnv has the variables that the server adds to the environment.
func (c *config) ownEnv() []string {
	return append([]string{"SERVER_SOFTWARE=gunicorn/" + version}, c.rawEnv...)
}

// childEnv is the arbiter's environment with the variables of ownEnv. Each name occurs
// once, as programs differ in which of two values they use.
func childEnv(c *config) []string {
	env := os.Environ()
	for _, set := range c.ownEnv() {
		name, _, _ := strings.Cut(set, "=")
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		env = append(env, set)
	}
	return env
}

// reap takes note of every dead child. An arbiter that is process 1 of a container also
// inherits strangers' children.
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
			// No worker serves any more: try failed boots again soon.
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

// backOff slows down a crash loop: the place of a worker that has failed stays empty for a
// pause, which doubles each time. Other places are filled at once.
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

// serves reports whether any worker takes requests.
func (a *arbiter) serves() bool {
	for _, w := range a.workers {
		if w.slot.phase().serves() {
			return true
		}
	}
	return false
}

// diedSoon slows down a loop of workers that crash as soon as they serve. A few early
// crashes are no loop: they may be chance, or one bad request.
func (a *arbiter) diedSoon(w *child) {
	if monotonic()-w.started > int64(soon) {
		a.early = 0
		return
	}
	if a.early++; a.early > 2*a.target+2 {
		a.backOff(fmt.Sprintf("%d workers in a row have crashed within %v of their start", a.early, soon))
	}
}

// murder ends workers whose event loop has fallen silent, by ABRT, and by KILL in the next
// pass. Here a worker itself hangs; a request that hangs is ended by its worker.
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
	said      string // error of the last start, kept so that it is logged once
}

// helperRow is a row of the table of helpers.
type helperRow struct {
	*helper
	name  string
	after string                             // last sentence of the log line about the helper's death
	start func() (pid int, err error)        // starts the helper again; nil if the arbiter does not
	died  func(status unix.WaitStatus) *halt // acts on the helper's death; nil for no action
}

// helpers is the table of helpers.
func (a *arbiter) helpers() []helperRow {
	list := []helperRow{
		{helper: &a.heir, name: "new arbiter", after: "This one goes on.", died: a.heirDied},
		{helper: &a.metrics.helper, name: "process that serves metrics", after: "Another is started.",
			start: func() (int, error) { return a.metrics.start(a) }},
	}
	for _, g := range a.generations() {
		for _, t := range g.templates() {
			name := "Python of the configuration file"
			switch {
			case t.plain:
				name = "Python that forks those of the workers"
			case t.loaded:
				name = "Python that has loaded the application"
			}
			list = append(list, helperRow{helper: &t.helper, name: name, after: "A reload starts another.",
				died: func(status unix.WaitStatus) *halt { return a.templateDied(t, status) }})
		}
		if g.logger != nil {
			list = append(list, helperRow{helper: &g.logger.helper, name: "Python that makes the logs", after: "Another is started.",
				start: func() (int, error) { return g.logger.restart(g) }})
		}
	}
	return list
}

// helperOf returns the helper with this pid, nil if there is none.
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

// startHelpers starts missing helpers, each at most once a second.
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

// drain begins drain_delay: the server says that it is not ready, closes connections after
// their next response, and goes on serving until load balancers have turned away. It returns
// false if the stop has to begin now: without a delay, after a second signal, or where another
// arbiter serves the same listeners.
func (a *arbiter) drain() bool {
	if a.drainBy != 0 || a.cfg.drainDelay == 0 || a.shared() {
		return false
	}
	a.drainBy = monotonic() + int64(a.cfg.drainDelay)
	a.scores.board.draining.Store(1)
	a.manager.stopping(0)
	a.log.infof("Draining: the stop begins in %v", a.cfg.drainDelay)
	return true
}

// untilDrained is how long the arbiter may sleep, at most d, before the stop begins.
func (a *arbiter) untilDrained(d time.Duration) time.Duration {
	if a.drainBy == 0 {
		return d
	}
	return min(d, max(0, time.Duration(a.drainBy-monotonic())))
}

// stop ends all workers and returns the exit status. On a graceful stop, accepted
// connections and connections that wait to be accepted are answered first, unless a second
// signal cuts this short.
func (a *arbiter) stop(graceful bool, reason string, status int) int {
	if a.drainBy == 0 {
		a.manager.stopping(a.heir.pid)
	}
	a.scores.board.draining.Store(1)
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
	if a.left == nil { // sys.exit in a hook leaves Gunicorn's master without on_exit, too
		if err := a.hook("on_exit"); a.left != nil {
			status = a.left.status
		} else if err != nil && status == 0 {
			status = exitFailure
		}
	}
	a.host.end()
	a.log.close()
	return status
}

// leaving is the order for workers that leave without replacements by this arbiter.
func (a *arbiter) leaving() uint64 {
	if a.successors() {
		return orderRetire
	}
	return orderLeave // no other worker can take over connections
}

// shutListeners keeps new clients out and leaves waiting clients to the workers. A backlog
// of 0 admits no new connection, and drops none that is in the queue. A socket that others
// use too stays as it is.
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
