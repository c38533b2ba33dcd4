package main

// Listeners, the sockets that the arbiter binds or gets from a service manager, and from
// which workers accept connections; and the notation of addresses.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	if passed := passedListeners(); passed > 0 {
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

// addressesOf parses the setting bind, whose syntax has been checked.
func addressesOf(c *config) (list []address) {
	for _, text := range c.bind {
		addr, _ := parseBind(text)
		list = append(list, addr)
	}
	return list
}

// passedListeners is the number of sockets that a service manager has passed, from
// descriptor 3 on (sd_listen_fds(3)).
func passedListeners() int {
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
	var sa unix.Sockaddr
	family := unix.AF_INET
	switch addr.network {
	case "unix":
		family = unix.AF_UNIX
		sa = &unix.SockaddrUnix{Name: addr.path}
		if err := clearSocket(addr.path); err != nil {
			return -1, err
		}
	default:
		ip, err := addr.resolve()
		if err != nil {
			return -1, err
		}
		sa, family = sockaddr(netip.AddrPortFrom(ip, uint16(addr.port)))
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

// address is an address to listen on.
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
	host, text, hasPort := strings.Cut(strings.TrimPrefix(s, "tcp://"), ":")
	if name, rest, ok := bracketed(strings.TrimPrefix(s, "tcp://")); ok {
		host = name
		text, hasPort = strings.CutPrefix(rest, ":")
	}
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

// bracketed splits [HOST]REST.
func bracketed(s string) (host, rest string, ok bool) {
	if strings.HasPrefix(s, "[") {
		host, rest, ok = strings.Cut(s[1:], "]")
	}
	return host, rest, ok
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
