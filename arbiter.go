package main

// The arbiter binds the listeners, starts the workers and replaces those that
// die or fall silent. Its state is one struct, touched by one goroutine (run);
// the only other goroutine turns signals into bytes on the wake pipe. It never
// touches a client.

import (
	"errors"
	"fmt"
	"net/netip"
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
	bindTries   = 5
	bindPause   = time.Second
	firstPause  = time.Second // before a worker that could not boot is tried again,
	longestWait = 30 * time.Second
	quickLimit  = 2 * time.Second // from a second signal to KILL
	silence     = 5 * time.Second // without a heartbeat, beyond --timeout
)

type arbiter struct {
	load   func() (*config, error) // reads every source of settings anew
	cfg    *config
	log    *errorLog
	access *accessLog // for workers to inherit
	master string     // how log lines name this process

	listeners []*bound
	wakeR     int
	wakeW     int
	lifeR     int // workers hold this end; EOF tells them that we are gone
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
	notBefore  int64
	previous   *config // during a reload: what to go back to
	again      bool    // and another HUP has come
	replaced   []*bound
	ownPid     string // the pidfile that we have written
	untidy     bool   // settings have been read and workers started of late
}

// child is a worker as the arbiter sees it.
type child struct {
	pid        int
	age        int
	generation int
	slot       *slot
	booted     bool // its application is loaded
	told       bool // to leave
	aborted    bool // for its silence
	killed     bool // by us
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
	a.master = "Master"
	a.workers = map[int]*child{}
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
	if m := a.cfg.mold; m != nil {
		if err := m.start(a.cfg, childEnv(a.cfg)); err != nil {
			return err
		}
	}
	a.target = a.cfg.workers
	if err := a.hook("nworkers_changed", a.target, nil); err != nil {
		return err
	}
	a.log.infof("Starting gunicorn %s", version)
	if err := a.writePidfile(); err != nil {
		return err
	}
	if err := a.openPipes(); err != nil {
		return err
	}
	if err := a.hook("on_starting"); err != nil {
		return err
	}
	if a.cfg.vault, err = openVault(a.cfg, nil); err != nil {
		return err
	}
	if a.listeners, err = a.openListeners(a.cfg, nil); err != nil {
		return err
	}
	if err := a.hook(""); err != nil {
		return err
	}
	a.log.debugf("Arbiter booted")
	a.log.infof("Listening at: %s (%d)", a.listening(), os.Getpid())
	a.cfg.warnOfPatterns(a.log)
	a.cfg.warnOfVersion(a.log)
	a.log.infof("Using worker: %s", a.cfg.className())
	a.cfg.warnOfThreads(a.log)
	notifyReady(a.log)
	if err := a.hook("when_ready"); err != nil {
		return err
	}
	a.manage()
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
	if a.give, a.take, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(a.give, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	a.wakeR, a.wakeW, a.lifeR, a.lifeW = wake[0], wake[1], life[0], life[1]
	caught := make(chan os.Signal, 64)
	for s := range signalNames {
		signal.Notify(caught, s)
	}
	go func() {
		for s := range caught {
			_, _ = unix.Write(a.wakeW, []byte{byte(s.(syscall.Signal))})
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
// that came. A zero byte is a worker's that only wants to be looked at.
func (a *arbiter) sleep(d time.Duration) []syscall.Signal {
	if ok, err := selectRead(a.wakeR, d); err != nil || !ok {
		return nil
	}
	var b [256]byte
	n, _ := rawRead(a.wakeR, b[:])
	var signals []syscall.Signal
	for _, s := range b[:n] {
		if s != 0 {
			signals = append(signals, syscall.Signal(s))
		}
	}
	return signals
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
		a.log.warningf("USR2 signal ignored. This server cannot replace its binary yet: start a new one.")
	case unix.SIGWINCH:
		if !a.cfg.daemon {
			a.log.debugf("SIGWINCH ignored. Not daemonized")
			break
		}
		a.log.infof("graceful stop of workers")
		a.want(0)
		for pid, w := range a.workers {
			w.told = true
			w.slot.order.Store(orderLeave) // nobody is there to take over
			_ = unix.Kill(pid, unix.SIGTERM)
		}
	}
	return nil
}

// openLogs opens both logs, gives their files to whom workers switch to, and
// sends our output there if it is to be captured.
func openLogs(c *config) (log *errorLog, access *accessLog, err error) {
	warning, err := c.resolveLogs()
	if err != nil {
		return nil, nil, err
	}
	if log, err = openErrorLog(c.errorlog, c.loglevel); err != nil {
		return nil, nil, err
	}
	access, err = openAccessLog(c.accesslog, c.accessLogFormat)
	if err == nil {
		err = log.join(c)
	}
	if err == nil {
		access, err = access.join(c, log.syslog)
	}
	if err == nil {
		err = giveLogs(c, log, access)
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
	if a.cfg.logger != nil {
		a.cfg.logger.reopen()
	}
	err := giveLogs(a.cfg, a.log, a.access)
	if err == nil && a.cfg.captureOutput && a.log.out.file {
		err = a.log.out.capture()
	}
	if err != nil {
		a.log.errorf("%v", err)
	}
	if m := a.cfg.mold; m != nil { // what it forks has its files
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
	for n := a.target - len(active); n > 0 && monotonic() >= a.notBefore; n-- {
		if err := a.spawn(); err != nil {
			a.log.errorf("worker: %v", err)
			a.backOff()
			return
		}
	}
	for len(active) > a.target {
		a.tell(active[0])
		active = active[1:]
	}
	a.measure()
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
		if w.generation == a.generation && !w.told && w.slot.state.Load() != stateStopping {
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
	for _, w := range a.workers {
		if w.slot.state.Load() != stateServing {
			continue
		}
		a.served = true
		if w.generation == a.generation && !w.told {
			serving++
			if !w.booted {
				w.booted, a.pause, a.notBefore = true, 0, 0
				a.untidy = true
			}
		}
	}
	if a.previous == nil || serving < a.target {
		return
	}
	a.previous.mold.close()
	a.previous.logger.close()
	a.previous.vault.close()
	a.previous = nil
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
	fd, slot, err := newSlot()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	slot.heartbeat.Store(monotonic())
	slot.age.Store(uint64(a.age + 1))
	settings, err := memfd("settings", a.cfg.encode())
	if err != nil {
		slot.unmap()
		return err
	}
	defer unix.Close(settings)
	files := []uintptr{0, 1, 2, uintptr(a.lifeR), uintptr(fd), uintptr(settings), uintptr(a.give), uintptr(a.take), uintptr(a.wakeW), a.log.out.passed(a.lifeR), a.access.passed(a.lifeR)}
	forks := uintptr(a.lifeR) // which keeps the number from being given to something else
	if a.cfg.mold != nil {
		forks = uintptr(a.cfg.mold.forks)
	}
	files = append(files, forks, a.cfg.logger.passed(a.lifeR), a.cfg.bridge.Fd(), a.cfg.vault.passed(a.lifeR))
	for _, l := range a.listeners {
		files = append(files, uintptr(l.fd))
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{workerTitle + a.cfg.name() + "]"}, &syscall.ProcAttr{
		Env: childEnv(a.cfg), Files: files,
		Sys: &syscall.SysProcAttr{Credential: a.cfg.credential},
	})
	if err != nil {
		slot.unmap()
		return err
	}
	a.age++
	a.workers[pid] = &child{pid: pid, age: a.age, generation: a.generation, slot: slot}
	return nil
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
		if m := a.cfg.mold; m != nil && pid == m.pid {
			if h = a.moldDied(status); h != nil {
				return h
			}
			continue
		}
		if a.cfg.logger.died(pid) {
			a.log.errorf("The Python that makes the logs (pid:%d) %s Another is started.", pid, fate(status))
			continue
		}
		w := a.workers[pid]
		if w == nil {
			a.log.debugf("Reaped unknown child process (pid:%d, status:%d)", pid, status)
			continue
		}
		delete(a.workers, pid)
		booted := w.slot.state.Load() != stateBooting
		if python := int(w.slot.python.Load()); status.Signaled() && a.cfg.mold != nil && python > 0 {
			// Its Python is not its child, and would not die with it.
			_ = unix.Kill(python, unix.SIGKILL)
		}
		w.slot.unmap()
		code := exitStatus(status)
		switch {
		case w.killed:
		case status.Signaled() && status.Signal() == unix.SIGKILL:
			a.log.errorf("Worker (pid:%d) was sent SIGKILL! Perhaps out of memory?", pid)
		case status.Signaled() && status.Signal() == unix.SIGTERM:
			a.log.infof("Worker (pid:%d) was sent SIGTERM!", pid)
		case status.Signaled():
			a.log.warningf("Worker (pid:%d) was sent %s!", pid, unix.SignalName(status.Signal()))
		case code != 0:
			a.log.errorf("Worker (pid:%d) exited with code %d.", pid, code)
		}
		if booted || w.told || h != nil {
			continue
		}
		switch {
		case w.generation != a.generation:
		case a.previous != nil:
			a.abandonReload()
		case a.served:
			a.backOff()
		case code == exitBoot:
			h = &halt{"Worker failed to boot.", code}
		case code == exitLoad:
			h = &halt{"App failed to load.", code}
		default:
			a.backOff()
		}
	}
}

// backOff slows down a crash loop.
func (a *arbiter) backOff() {
	a.pause = min(max(2*a.pause, firstPause), longestWait)
	a.notBefore = monotonic() + int64(a.pause)
	a.log.warningf("A worker could not boot; the next try is in %v", a.pause)
}

// murder ends workers whose loop has fallen silent: ABRT, and KILL in the next
// pass. A request that hangs is the worker's own affair; here it is the worker
// that hangs.
func (a *arbiter) murder() {
	if a.cfg.timeout == 0 {
		return
	}
	now := monotonic()
	for _, w := range a.workers {
		silent := time.Duration(now - w.slot.heartbeat.Load())
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
// tells the mold of the listeners, which hooks in its children see.
func (a *arbiter) hookOf(c *config, listeners []*bound, name string, args ...any) error {
	if c.mold == nil || name != "" && !c.hooks()[name] {
		return nil
	}
	addresses, entries := []any{}, []any{}
	for _, l := range listeners {
		addr := any(l.addr.path)
		switch sa, _ := unix.Getsockname(l.fd); sa := sa.(type) {
		case *unix.SockaddrInet4:
			addr = []any{netip.AddrFrom4(sa.Addr).String(), sa.Port}
		case *unix.SockaddrInet6:
			addr = []any{netip.AddrFrom16(sa.Addr).String(), sa.Port}
		}
		addresses = append(addresses, addr)
		entries = append(entries, []any{l.String(), addr, l.fd, addr})
	}
	if listeners == nil { // not yet open
		for _, addr := range addressesOf(c) {
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
	answer, err := c.mold.ask(map[string]any{"do": "hook", "name": name, "args": args, "facts": map[string]any{
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

// moldDied is called when the Python of the configuration file has ended. An
// exception in one of its hooks has ended it with 255, and ends the server; for
// anything else a reload makes another.
func (a *arbiter) moldDied(status unix.WaitStatus) *halt {
	m := a.cfg.mold
	m.close()
	a.cfg.mold = nil
	if exitStatus(status) == 255 {
		return &halt{"A server hook failed.", 255}
	}
	a.log.errorf("The Python of the configuration file (pid:%d) %s A reload starts another.", m.pid, fate(status))
	_, _ = unix.Write(a.wakeW, []byte{byte(unix.SIGHUP)})
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
	cfg, err := a.load()
	if err != nil {
		fmt.Fprint(os.Stderr, err.Error())
		a.log.errorf("The new configuration cannot be used; the old one stays in force.")
		return
	}
	log, access, err := openLogs(cfg)
	if err != nil {
		a.log.errorf("%v; the old configuration stays in force.", err)
		return
	}
	old := a.target
	a.target = cfg.workers
	listeners, err := a.openListeners(cfg, a.listeners)
	if err == nil && cfg.mold != nil {
		if err = cfg.mold.start(cfg, childEnv(cfg)); err == nil {
			err = a.hookOf(cfg, listeners, "nworkers_changed", cfg.workers, old)
		}
		for _, name := range []string{"on_reload", ""} {
			if err == nil {
				err = a.hookOf(cfg, listeners, name)
			}
		}
	}
	if err == nil {
		cfg.vault, err = openVault(cfg, a.cfg.vault)
	}
	if err != nil {
		a.target = old
		log.close()
		access.close()
		cfg.mold.close()
		cfg.logger.close()
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
		old := addressesOf(a.previous)
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
	a.cfg.mold.close()
	a.cfg.logger.close()
	a.cfg.vault.close()
	a.cfg, a.previous = a.previous, nil
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
	a.shutListeners()
	sig := unix.SIGQUIT
	if graceful {
		sig = unix.SIGTERM
	}
	a.signalAll(sig)
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
	a.cfg.mold.close()
	a.log.close()
	return status
}

// shutListeners keeps new clients out and leaves those that wait to the
// workers: the queue's length is cut to nothing, which drops nobody who is in
// it. A socket that is not ours stays as it is for its next user.
func (a *arbiter) shutListeners() {
	order := uint64(orderDrain)
	for _, l := range a.listeners {
		if l.inherited {
			order = orderLeave
		}
	}
	for _, w := range a.workers {
		w.told = true
		w.slot.order.Store(order)
	}
	a.unlinkSockets()
	for _, l := range append(a.listeners, a.replaced...) {
		if !l.inherited {
			_ = unix.Listen(l.fd, 0)
		}
		unix.Close(l.fd)
	}
	a.listeners, a.replaced = nil, nil
}

func (a *arbiter) unlinkSockets() {
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

// notifyReady tells a service manager that clients can connect
// (sd_notify(3)).
func notifyReady(log *errorLog) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		// Name with a leading @ is abstract, for the kernel and for us.
		err = unix.Sendto(fd, []byte("READY=1\nSTATUS=Gunicorn arbiter booted"), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: path})
		unix.Close(fd)
	}
	if err != nil {
		log.debugf("NOTIFY_SOCKET: %v", err)
	}
}
