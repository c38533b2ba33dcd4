package main

// USR2: the program that is on the disk now is executed beside this one, with
// the same listeners. Both serve until one of the two arbiters is told to stop.
// They also share the hand-over socket, so that an idle connection moves
// between workers of both, and no client notices which way it goes.

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a new arbiter learns from its environment. The first two are
// Gunicorn's.
const (
	envParent    = "GUNICORN_PID"      // the old arbiter
	envListeners = "GUNICORN_FD"       // listeners, separated by commas
	envHandover  = "GUNICORN_HANDOVER" // handoverVersion:GIVE,TAKE,BOARD
)

// handoverVersion changes with what giveAway writes and with the board. An
// arbiter that speaks another one makes a socket of its own, and connections
// do not move between the two.
const handoverVersion = 1

// passedOn is what an arbiter has been given by the one before it.
type passedOn struct {
	parent    int // its pid
	systemd   bool
	listeners []int
	handover  []int // give, take, board; none if it speaks another version
}

// takePassedOn reads the environment, and leaves nothing of this in it for
// the application to see.
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

// descriptors reads a list of them, and sees to it that nobody inherits them
// by accident. What is not open is not in the result.
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
func (a *arbiter) adoptBoard(fd int) error {
	b, err := mapPage(fd, 0)
	unix.Close(fd)
	if err != nil {
		return err
	}
	a.parentBoard = (*board)(unsafe.Pointer(&b[0]))
	return nil
}

// adoptListeners takes over those of the old arbiter that the settings ask for.
// The others stay the old one's, to be closed with it.
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

// matches says whether the socket is what binding addr would make.
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

// execute starts the program as the user did: the same file name, which may
// mean another file by now, arguments, directory and environment. Listeners
// come first, as a service manager passes them.
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
		return strings.HasPrefix(e, "WATCHDOG_PID=") // it will be another
	}),
		fmt.Sprintf("%s=%d", envParent, os.Getpid()),
		envListeners+"="+strings.Join(numbers[:n], ","),
		fmt.Sprintf("%s=%d:%s", envHandover, handoverVersion, strings.Join(numbers[n:], ",")))
	if a.systemd {
		// Its own number is what the variable should have, and nobody
		// knows it yet.
		env = append(env, fmt.Sprintf("LISTEN_PID=%d", os.Getpid()), fmt.Sprintf("LISTEN_FDS=%d", n))
	}
	return syscall.ForkExec(path, os.Args, &syscall.ProcAttr{Dir: a.cfg.startDir, Env: env, Files: files})
}

// heirDied is called when the new arbiter has ended: this one serves on.
func (a *arbiter) heirDied(unix.WaitStatus) *halt {
	a.scores.board.heir.Store(0)
	return nil
}

// promote notices that the old arbiter is gone.
func (a *arbiter) promote() {
	if a.passed.parent == 0 || os.Getppid() == a.passed.parent {
		return
	}
	a.passed.parent, a.parentBoard = 0, nil
	a.master = "Master"
	a.log.infof("Master has been promoted.")
	a.use(a.generation)     // whose pidfile has another name now
	a.closeBound(a.orphans) // nobody else has them now
	a.orphans = nil
	a.manager.promoted()
}

// shared says whether another arbiter has the same listeners.
func (a *arbiter) shared() bool {
	return a.heir.pid > 0 || a.passed.parent > 0 && os.Getppid() == a.passed.parent
}

// successors says whether the other arbiter has workers, or starts them, that
// take over connections. Until they have booted, these wait in the socket.
func (a *arbiter) successors() bool {
	switch {
	case a.heir.pid > 0:
		return a.scores.board.heir.Load() > 0
	case a.parentBoard != nil && a.shared():
		return a.parentBoard.target.Load() > 0
	}
	return false
}

// publish tells the other arbiter, and whoever reads the scoreboard, how many
// workers there are.
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

// suffix is what names have until the old arbiter is gone.
func (a *arbiter) suffix() string {
	if a.passed.parent > 0 {
		return ".2"
	}
	return ""
}
