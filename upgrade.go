package main

// USR2: the arbiter executes the program as it is on the disk now, with the same listeners.
// Both programs serve until one of the two arbiters is told to stop. They also share the
// hand-over socket, so that idle connections move between workers of both, and no client
// notices the upgrade or its reversal.

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Variables by which an arbiter passes things to the arbiter that it executes. The first two
// are Gunicorn's.
const (
	envParent    = "GUNICORN_PID"      // pid of the old arbiter
	envListeners = "GUNICORN_FD"       // descriptors of listeners, separated by commas
	envHandover  = "GUNICORN_HANDOVER" // handoverVersion:GIVE,TAKE,BOARD
)

// handoverVersion changes whenever the format of giveAway's messages or of the board
// changes. An arbiter of another version makes a hand-over socket of its own, and
// connections do not move between the two.
const handoverVersion = 1

// passedOn has the things that an arbiter has inherited from the arbiter that executed it.
type passedOn struct {
	parent    int // pid of the old arbiter, 0 for none
	systemd   bool
	listeners []int
	handover  []int // descriptors of give, take and board; none if the old arbiter has another version
}

// takePassedOn reads the old arbiter's variables, and removes them from the environment, so
// that the application does not see them.
func takePassedOn() (p passedOn) {
	p.parent, _ = strconv.Atoi(os.Getenv(envParent))
	if p.parent > 0 {
		if p.systemd = os.Getenv("LISTEN_PID") == strconv.Itoa(p.parent); p.systemd {
			forgetListeners()
		}
		p.listeners = descriptors(os.Getenv(envListeners))
		version, fds, _ := strings.Cut(os.Getenv(envHandover), ":")
		p.handover = descriptors(fds)
		if n, _ := strconv.Atoi(version); n != handoverVersion || len(p.handover) != 3 {
			for _, fd := range p.handover {
				unix.Close(fd)
			}
			p.handover = nil
		}
	}
	for _, name := range []string{envParent, envListeners, envHandover} {
		os.Unsetenv(name)
	}
	return p
}

// descriptors reads a list of descriptors, and makes each close-on-exec. The result omits
// descriptors that are not open.
func descriptors(text string) (list []int) {
	for word := range strings.SplitSeq(text, ",") {
		fd, err := strconv.Atoi(word)
		if err != nil || fd < 3 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err == nil {
			list = append(list, fd)
		}
	}
	return list
}

// adoptBoard maps the old arbiter's page.
func (a *arbiter) adoptBoard(fd int) (err error) {
	defer unix.Close(fd)
	a.parentBoard, err = mapPage[board](fd, 0)
	return err
}

// adoptListeners takes over the old arbiter's listeners that the settings name. The other
// listeners are kept as orphans, to be closed when the old arbiter has ended.
func (a *arbiter) adoptListeners(c *config) (list []*bound) {
	addrs := addressesOf(c)
	ofManager := a.passed.systemd || slices.ContainsFunc(addrs, func(addr address) bool { return addr.network == "fd" })
	for _, fd := range a.passed.listeners {
		l := &bound{fd: fd}
		if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || n == 0 {
			a.log.warningf("%s: descriptor %d is not a listening socket", envListeners, fd)
			unix.Close(fd)
			continue
		}
		if ofManager {
			l.inherited = true
			list = append(list, l)
			continue
		}
		i := slices.IndexFunc(addrs, l.matches)
		if i < 0 {
			a.orphans = append(a.orphans, l)
			continue
		}
		l.addr = addrs[i]
		addrs = slices.Delete(addrs, i, i+1)
		list = append(list, l)
	}
	a.passed.listeners = nil
	return list
}

// matches reports whether the socket is bound to addr.
func (l *bound) matches(addr address) bool {
	sa, err := unix.Getsockname(l.fd)
	if err != nil {
		return false
	}
	if sa, ok := sa.(*unix.SockaddrUnix); ok {
		l.addr = address{network: "unix", path: sa.Name}
		return l.addr == addr
	}
	if addr.network != "tcp" && addr.network != "tcp6" {
		return false
	}
	ip, err := addr.resolve()
	if err != nil {
		return false
	}
	own := addrPort(sa)
	return own.Addr() == ip.WithZone("") && (addr.port == int(own.Port()) || addr.port == 0)
}

// upgrade executes the program anew (USR2).
func (a *arbiter) upgrade() {
	switch {
	case a.heir.pid > 0:
		a.log.warningf("USR2 signal ignored. Child exists.")
		return
	case a.passed.parent > 0:
		a.log.warningf("USR2 signal ignored. Parent exists.")
		return
	}
	if err := a.hook("pre_exec"); err != nil {
		a.log.errorf("pre_exec: the binary is not executed")
		return
	}
	path := a.cfg.argv[0]
	pid, err := a.execute(path)
	if err != nil {
		a.log.errorf("Cannot execute %s: %v", path, err)
		return
	}
	a.heir.pid = pid
	a.scores.board.heir.Store(0)
	a.log.infof("Executed %s (pid:%d)", path, pid)
}

// execute starts the program as the user did, with the same file name (by now perhaps a new
// file), arguments, directory and environment. Listeners have the first descriptors, as
// those that a service manager passes.
func (a *arbiter) execute(path string) (pid int, err error) {
	files := []uintptr{0, 1, 2}
	var numbers []string
	pass := func(fd int) {
		numbers = append(numbers, strconv.Itoa(len(files)))
		files = append(files, uintptr(fd))
	}
	for _, l := range a.listeners {
		pass(l.fd)
	}
	n := len(numbers)
	for _, fd := range []int{a.give, a.take, a.scores.fd} {
		pass(fd)
	}
	env := append(slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "WATCHDOG_PID=") // the new arbiter's pid will differ
	}),
		fmt.Sprintf("%s=%d", envParent, os.Getpid()),
		envListeners+"="+strings.Join(numbers[:n], ","),
		fmt.Sprintf("%s=%d:%s", envHandover, handoverVersion, strings.Join(numbers[n:], ",")))
	if a.systemd {
		// LISTEN_PID should be the new arbiter's pid, which is not known
		// before the fork. takePassedOn accepts the parent's pid.
		env = append(env, fmt.Sprintf("LISTEN_PID=%d", os.Getpid()), fmt.Sprintf("LISTEN_FDS=%d", n))
	}
	return syscall.ForkExec(path, os.Args, &syscall.ProcAttr{Dir: a.cfg.startDir, Env: env, Files: files})
}

// heirDied is called when the new arbiter has ended. The old arbiter goes on.
func (a *arbiter) heirDied(unix.WaitStatus) *halt {
	a.scores.board.heir.Store(0)
	return nil
}

// promote checks whether the old arbiter has ended, and if so makes this arbiter the only
// one.
func (a *arbiter) promote() {
	if a.passed.parent == 0 || os.Getppid() == a.passed.parent {
		return
	}
	a.passed.parent, a.parentBoard = 0, nil
	a.master = "Master"
	a.log.infof("Master has been promoted.")
	a.use(a.generation)     // writes the pidfile under its final name
	a.closeBound(a.orphans) // no other arbiter serves these listeners any more
	a.orphans = nil
	a.manager.promoted()
}

// shared reports whether another arbiter has the same listeners.
func (a *arbiter) shared() bool {
	return a.heir.pid > 0 || a.passed.parent > 0 && os.Getppid() == a.passed.parent
}

// successors reports whether the other arbiter has, or is starting, workers that take over
// connections. Until those workers have booted, connections wait in the hand-over socket.
func (a *arbiter) successors() bool {
	switch {
	case a.heir.pid > 0:
		return a.scores.board.heir.Load() > 0
	case a.parentBoard != nil && a.shared():
		return a.parentBoard.target.Load() > 0
	}
	return false
}

// publish writes the number of workers to the scoreboard, for the other arbiter, the service
// manager and --status.
func (a *arbiter) publish() {
	serving := uint64(0)
	for _, w := range a.workers {
		if !w.told && w.slot.phase().serves() {
			serving++
		}
	}
	a.scores.board.serving.Store(serving)
	a.scores.board.target.Store(uint64(a.target))
	a.manager.serving(int(serving), a.target)
	if a.parentBoard != nil {
		a.parentBoard.heir.Store(uint64(a.target))
	}
}

// suffix is appended to names (pidfile, process titles) until the old arbiter has ended.
func (a *arbiter) suffix() string {
	if a.passed.parent > 0 {
		return ".2"
	}
	return ""
}
