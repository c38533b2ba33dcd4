package main

// Listeners, the sockets from which workers accept connections, and who owns them: the
// arbiter binds them, gets them from a service manager, or passes them on by USR2 to
// another arbiter. Also the notation of addresses, messages to the service manager, and the
// pidfile.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listening is the list of listeners for the log.
func (a *arbiter) listening() string {
	var names []string
	for _, l := range a.listeners {
		name := l.String()
		if rest, ok := strings.CutPrefix(name, "http:"); ok && a.cfg.usesTLS() {
			name = "https:" + rest
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

// bound is one listening socket.
type bound struct {
	fd        int
	addr      address // address as configured
	inherited bool    // the socket came from fd:// or a service manager, to which it belongs
}

func (l *bound) String() string {
	sa, err := unix.Getsockname(l.fd)
	if err != nil {
		return err.Error()
	}
	if sa, ok := sa.(*unix.SockaddrUnix); ok {
		return "unix:" + sa.Name
	}
	if addr := addrPort(sa); addr.IsValid() {
		return "http://" + addr.String()
	}
	return "unknown"
}

// openListeners binds the addresses of c, and takes over listeners in old that have the same
// address. Sockets from a service manager or fd:// replace all others. If there is an error,
// list has the listeners that were opened before the error.
func (a *arbiter) openListeners(c *config, old []*bound) (list []*bound, err error) {
	if passed := managersListeners(); passed > 0 {
		a.systemd = true
		for fd := 3; fd < 3+passed; fd++ {
			list = append(list, &bound{fd: fd, inherited: true})
		}
	}
	if len(a.passed.listeners) > 0 {
		a.systemd = a.passed.systemd
		old = a.adoptListeners(c)
	}
	if len(old) > 0 && old[0].inherited {
		return old, nil
	}
	addrs := addressesOf(c)
	for _, addr := range addrs {
		if addr.network == "fd" {
			list = append(list, &bound{fd: addr.fd, addr: addr, inherited: true})
		}
	}
	for _, l := range list {
		if _, err := unix.Getsockname(l.fd); err != nil {
			return nil, fmt.Errorf("fd://%d: %w", l.fd, err)
		}
		unix.CloseOnExec(l.fd)
		if err := a.listen(l.fd, c.backlog); err != nil {
			return nil, fmt.Errorf("fd://%d: %w", l.fd, err)
		}
	}
	if len(list) > 0 {
		return list, nil
	}
	for _, addr := range addrs {
		i := slices.IndexFunc(old, func(l *bound) bool { return l.addr == addr && !slices.Contains(list, l) })
		if i >= 0 {
			list = append(list, old[i])
			continue
		}
		fd, err := a.bind(c, addr)
		if err != nil {
			return list, err
		}
		list = append(list, &bound{fd: fd, addr: addr})
	}
	return list, nil
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

// addressesOf parses the setting bind, whose syntax has been checked.
func addressesOf(c *config) (list []address) {
	for _, text := range c.bind {
		addr, _ := parseBind(text)
		list = append(list, addr)
	}
	return list
}

// managersListeners is the number of sockets that a service manager has passed, from
// descriptor 3 on (sd_listen_fds(3)).
func managersListeners() int {
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); pid != os.Getpid() {
		return 0
	}
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	forgetListeners()
	return max(0, min(n, 1000))
}

// forgetListeners removes the service manager's variables, so that the application does not
// take the listeners for its own.
func forgetListeners() {
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
}

// bind makes several attempts, as the last owner of the address may be about to end.
func (a *arbiter) bind(c *config, addr address) (int, error) {
	for try := 1; ; try++ {
		fd, err := a.bindOnce(c, addr)
		if err == nil {
			return fd, nil
		}
		var errno syscall.Errno
		text := err.Error()
		if errors.As(err, &errno) {
			text = fmt.Sprintf("[Errno %d] %s", int(errno), capitalized(errno.Error()))
			switch errno {
			case unix.EADDRINUSE:
				a.log.errorf("Connection in use: %s", addr.tuple())
			case unix.EADDRNOTAVAIL:
				a.log.errorf("Invalid address: %s", addr.tuple())
			}
		} else if errors.Is(err, errNotSocket) {
			return -1, err
		}
		a.log.errorf("connection to %s failed: %s", addr.tuple(), text)
		if try == bindTries {
			a.log.errorf("Can't connect to %s", addr.tuple())
			return -1, errCannotBind
		}
		a.log.debugf("Retrying in 1 second.")
		if a.interrupted(bindPause) {
			return -1, errInterrupted
		}
	}
}

var (
	errNotSocket   = errors.New("is not a socket")
	errCannotBind  = errors.New("no listener")
	errInterrupted = errors.New("interrupted")
)

// interrupted waits, and reports whether a signal to stop has come meanwhile. Other signals
// are kept for later.
func (a *arbiter) interrupted(d time.Duration) bool {
	var later []syscall.Signal
	end := monotonic() + int64(d)
	for left := int64(d); left > 0; left = end - monotonic() {
		for _, s := range a.sleep(time.Duration(left)) {
			switch s {
			case unix.SIGTERM, unix.SIGINT, unix.SIGQUIT:
				return true
			}
			later = append(later, s)
		}
	}
	a.later = later
	return false
}

// capitalized spells an error as the C library does.
func capitalized(s string) string {
	return strings.ToUpper(s[:1]) + s[1:]
}

func (a *arbiter) bindOnce(c *config, addr address) (fd int, err error) {
	family, sa := unix.AF_UNIX, unix.Sockaddr(&unix.SockaddrUnix{Name: addr.path})
	if addr.network == "unix" {
		err = clearSocket(addr.path)
	} else {
		var ip netip.Addr
		if ip, err = addr.resolve(); err == nil {
			sa, family = sockaddr(netip.AddrPortFrom(ip, uint16(addr.port)))
		}
	}
	if err != nil {
		return -1, err
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if family == unix.AF_UNIX {
		old := unix.Umask(c.umask)
		err = unix.Bind(fd, sa)
		unix.Umask(old)
		if err == nil && c.credential != nil {
			err = unix.Lchown(addr.path, int(c.credential.Uid), int(c.credential.Gid))
		}
	} else {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return -1, os.NewSyscallError("setsockopt", err)
		}
		if c.reusePort {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return -1, os.NewSyscallError("setsockopt", err)
			}
		}
		// Accepted connections inherit TCP_NODELAY.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, a.listen(fd, c.backlog)
}

func (a *arbiter) listen(fd, backlog int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return os.NewSyscallError("listen", unix.Listen(fd, backlog))
}

// clearSocket removes the socket file of a server that has ended. A socket on which somebody
// listens, or another kind of file, is an error.
func clearSocket(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil // bind says what is wrong with the path
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("'%s' %w", path, errNotSocket)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// EAGAIN means that the listener's queue is full.
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == nil || err == unix.EAGAIN {
		return unix.EADDRINUSE
	}
	return os.NewSyscallError("unlink", unix.Unlink(path))
}

var errNoHost = errors.New("[Errno -2] Name or service not known")

// resolve returns the IP address of a host to listen on. A name stands for an IPv4 address,
// and an IPv6 address stands in brackets.
func (a address) resolve() (netip.Addr, error) {
	ip, err := resolve("ip4", a.host)
	if err == nil && ip.Is6() && a.network != "tcp6" {
		err = errNoHost
	}
	return ip, err
}

// resolve looks up a host, which is a name or an address. The network is "ip4", or "ip" for
// both kinds of addresses.
func resolve(network, host string) (netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil || len(ips) == 0 {
		return netip.Addr{}, errNoHost
	}
	// If a name has addresses of both kinds, prefer IPv4, on which daemons (syslog,
	// statsd) have always listened.
	i := slices.IndexFunc(ips, func(a netip.Addr) bool { return a.Unmap().Is4() })
	return ips[max(i, 0)].Unmap(), nil
}

func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	n, _ := strconv.Atoi(zone)
	return uint32(n)
}

func (a *arbiter) closeBound(list []*bound) {
	for _, l := range list {
		if l.addr.network == "unix" && !l.inherited && !a.shared() {
			_ = unix.Unlink(l.addr.path)
		}
		unix.Close(l.fd)
	}
}

// Addresses ------------------------------------------------------------------

type address struct {
	network string // "tcp", "tcp6", "unix", "fd"
	host    string
	port    int
	path    string
	fd      int
}

// parseBind reads one address of the setting bind. Its errors are worded as Gunicorn's.
func parseBind(s string) (address, error) { return parseAddress(s, 8000) }

// parseAddress reads an address; port is the default.
func parseAddress(s string, port int) (address, error) {
	if rest, ok := strings.CutPrefix(s, "fd://"); ok {
		fd, err := pyInt(rest, 10)
		if err != nil || fd < 0 || fd > 1<<20 {
			return address{}, pyErrorf("%s is not a valid file descriptor.", pyRepr(rest))
		}
		return address{network: "fd", fd: int(fd)}, nil
	}
	if rest, ok := strings.CutPrefix(s, "unix:"); ok {
		path := strings.TrimPrefix(rest, "//")
		if path == "" {
			return address{}, pyErrorf("%s has no path of a socket.", pyRepr(s))
		}
		return address{network: "unix", path: path}, nil
	}
	a := address{network: "tcp", port: port}
	host, text, hasPort := splitHost(strings.TrimPrefix(s, "tcp://"))
	if host == "" || host == "0" {
		host = "0.0.0.0"
	}
	if hasPort {
		text, _, _ = strings.Cut(text, ":")
		n, err := pyInt(text, 10)
		if err != nil || n < 0 || n > 65535 {
			return address{}, pyErrorf("%s is not a valid port number.", pyRepr(text))
		}
		a.port = int(n)
	}
	a.host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(a.host); err == nil && ip.Is6() {
		a.network = "tcp6"
	}
	return a, nil
}

// splitHost splits HOST[:PORT] or [HOST][:PORT].
func splitHost(s string) (host, port string, hasPort bool) {
	if inner, rest, ok := strings.Cut(s, "]"); ok && strings.HasPrefix(s, "[") {
		port, hasPort = strings.CutPrefix(rest, ":")
		return inner[1:], port, hasPort
	}
	return strings.Cut(s, ":")
}

// String is the address in the notation that parseAddress reads.
func (a address) String() string {
	switch a.network {
	case "unix":
		return "unix:" + a.path
	case "fd":
		return "fd://" + strconv.Itoa(a.fd)
	}
	return net.JoinHostPort(a.host, strconv.Itoa(a.port))
}

// tuple is the address as Gunicorn's log lines show it.
func (a address) tuple() string {
	switch a.network {
	case "unix":
		return a.path
	case "fd":
		return strconv.Itoa(a.fd)
	}
	return fmt.Sprintf("(%s, %d)", pyRepr(a.host), a.port)
}

// Upgrade --------------------------------------------------------------------
//
// USR2: the arbiter executes the program as it is on the disk now, with the same listeners.
// Both programs serve until one of the two arbiters is told to stop. They also share the
// hand-over socket, so that idle connections move between workers of both, and no client
// notices the upgrade or its reversal.

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
// listeners from a service manager have.
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
	args := os.Args
	if a.cfg.program() != nil {
		args = a.cfg.argv
	}
	return syscall.ForkExec(path, args, &syscall.ProcAttr{Dir: a.cfg.startDir, Env: env, Files: files})
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

// Service manager --------------------------------------------------------------
//
// Messages of the arbiter to a service manager (sd_notify(3)): datagrams with lines
// of NAME=VALUE, sent to the socket in NOTIFY_SOCKET.

// barrierWait bounds the wait for a manager to read messages that it must have
// before this process ends. A manager that is slower than 2 s is stuck.
const barrierWait = 2 * time.Second

// serviceManager sends messages to the service manager, if there is one.
type serviceManager struct {
	log      *errorLog
	path     string        // socket of the manager, "" without a manager
	silent   bool          // another process is the main process of the service
	watchdog time.Duration // time between two heartbeats, 0 for no heartbeats
	beaten   int64         // time of the last heartbeat
	said     string        // last status line of serving
}

// open reads the manager's socket and watchdog from the environment. silent means
// that this arbiter is not yet the main process of the service.
func (m *serviceManager) open(log *errorLog, silent bool) {
	m.log, m.path, m.silent = log, os.Getenv("NOTIFY_SOCKET"), silent
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		m.watchdog = time.Duration(usec) * time.Microsecond / 2 // as sd_watchdog_enabled(3) advises
	}
}

// ready reports that the server is ready, after the start or a reload.
func (m *serviceManager) ready() { m.send("READY=1", "STATUS=Gunicorn arbiter booted") }

// reloading reports the start of a reload. The time lets a manager with
// Type=notify-reload match the message to its HUP.
func (m *serviceManager) reloading() {
	m.send("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", sharedTime()/1000), "STATUS=Reloading")
}

// stopping reports the end of this arbiter, and the process ID of the heir that
// continues the service, 0 for none. By default a manager accepts messages only
// from the main process, so the heir cannot announce itself.
func (m *serviceManager) stopping(heir int) {
	if heir == 0 {
		m.send("STOPPING=1", "STATUS=Stopping")
		return
	}
	m.send(fmt.Sprintf("MAINPID=%d", heir))
	m.barrier()
}

// promoted makes this process the main process of the service.
func (m *serviceManager) promoted() {
	m.silent = false
	m.send(fmt.Sprintf("MAINPID=%d", os.Getpid()), "READY=1", "STATUS=Gunicorn arbiter booted")
}

// serving shows the number of workers in the status line.
func (m *serviceManager) serving(n, target int) {
	if m.path == "" {
		return
	}
	status := fmt.Sprintf("STATUS=%d of %d workers are serving", n, target)
	if status != m.said {
		m.said = status
		m.send(status)
	}
}

// beat sends a heartbeat if one is due. It returns the time until the next.
func (m *serviceManager) beat() time.Duration {
	if m.watchdog == 0 || m.path == "" {
		return time.Hour
	}
	now := sharedTime() // the manager's clock goes on while this process is stopped
	if left := m.beaten + int64(m.watchdog) - now; left > 0 {
		return time.Duration(left)
	}
	m.beaten = now
	m.send("WATCHDOG=1")
	return m.watchdog
}

func (m *serviceManager) send(lines ...string) { m.sendWith(nil, lines...) }

// sendWith sends lines, and rights to a descriptor.
func (m *serviceManager) sendWith(rights []byte, lines ...string) {
	if m.path == "" || m.silent {
		return
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		m.log.debugf("NOTIFY_SOCKET: %v", err)
		return
	}
	defer unix.Close(fd)
	// unix.SockaddrUnix takes a name with a leading @ for an abstract socket.
	err = unix.Sendmsg(fd, []byte(strings.Join(lines, "\n")), rights, &unix.SockaddrUnix{Name: m.path}, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if err != nil {
		m.log.debugf("NOTIFY_SOCKET: %v", err)
	}
}

// barrier waits until the manager has read all earlier messages. The manager then
// closes the pipe that BARRIER=1 carries (sd_notify_barrier(3)).
func (m *serviceManager) barrier() {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return
	}
	defer unix.Close(p[0])
	m.sendWith(unix.UnixRights(p[1]), "BARRIER=1")
	unix.Close(p[1])
	poll(p[0], 0, barrierWait)
}

// Pidfile -------------------------------------------------------------------

// writePidfile claims the pidfile; a living owner is an error. A rename makes the file
// appear with its contents.
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

// pidfileOwner is the pid in a pidfile, 0 if there is none.
func pidfileOwner(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// removePidfile removes the pidfile, if it still has this process's pid.
func (a *arbiter) removePidfile() {
	if a.ownPid != "" && pidfileOwner(a.ownPid) == os.Getpid() {
		_ = os.Remove(a.ownPid)
	}
	a.ownPid = ""
}
