package main

// Logs and metrics that other processes receive: records for syslog, metrics for
// statsd, the datagrams that carry both, and what Python has to say to either. A
// receiver that is away, slow or stuck holds up nobody.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syslog --------------------------------------------------------------------
//
// Records for syslog, in the form of Python's SysLogHandler:
//
//	<PRIORITY>gunicorn.NAME.error: [PID] MESSAGE NUL
//
// They go out as datagrams, or over a stream that a goroutine of its own
// writes, from a queue with an end. A daemon that is away, slow or stuck costs
// records, which are counted, and never holds up whoever logs.

const (
	syslogPending = 256 << 10              // bytes that wait for a stream; further records are lost
	syslogPause   = time.Second            // between attempts to connect, and between complaints
	syslogLimit   = 5 * time.Second        // for one attempt to connect or write
	syslogLast    = 200 * time.Millisecond // for what is queued when the process ends
)

// facilities by name, as syslog.h numbers them.
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "security": 4, "syslog": 5, "lpr": 6, "news": 7,
	"uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// severities are syslog's, by level.
var severities = [...]int{levelDebug: 7, levelInfo: 6, levelWarning: 4, levelError: 3, levelCritical: 2}

// syslog sends records. A nil syslog is one that is turned off. Any goroutine
// may use it.
type syslog struct {
	where    string // for people
	facility int
	tag      string // gunicorn.NAME.
	pid      []byte // : [PID] and a blank

	// report says to the operator what is wrong. It comes back here.
	report func(format string, args ...any)

	mu     sync.Mutex
	out    *datagrams // nil for a stream
	queue  []byte     // for the stream: whole records
	wake   chan struct{}
	lost   int   // records since the last complaint
	failed bool  // since the last record that went out
	quiet  int64 // no complaints until then

	idle   atomic.Bool // all that was queued is written
	closed atomic.Bool
}

// openSyslog returns nil when the settings want none. Nothing is sent yet, so
// a daemon that is away is no error.
func openSyslog(c *config) (*syslog, error) {
	if !c.syslog {
		return nil, nil
	}
	name := c.syslogPrefix
	if name == "" {
		name = strings.ReplaceAll(c.name(), ":", ".")
	}
	s := &syslog{
		where:    c.syslogAddr,
		facility: facilities[strings.ToLower(c.syslogFacility)],
		tag:      "gunicorn." + name + ".",
		pid:      fmt.Appendf(nil, ": [%d] ", os.Getpid()),
		report:   func(string, ...any) {},
	}
	network, addr := splitTarget(c.syslogTo)
	if network == "unix" {
		network = unixKind(addr)
	}
	if network == "udp" || network == "unixgram" {
		var err error
		s.out, err = openDatagrams(network, addr)
		return s, err
	}
	s.idle.Store(true)
	s.wake = make(chan struct{}, 1)
	go s.stream(network, addr)
	return s, nil
}

// unixKind finds out of which kind the socket at a path is. One that is not
// there yet is taken for the usual kind.
func unixKind(path string) string {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return "unixgram"
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: path}) == unix.EPROTOTYPE {
		return "unix"
	}
	return "unixgram"
}

// error sends a record of the error log.
func (s *syslog) error(level logLevel, format string, args ...any) {
	if s == nil {
		return
	}
	s.mu.Lock()
	b := s.begin(level, "error")
	b = fmt.Appendf(b, format, args...)
	complaint := s.end(b, true)
	s.mu.Unlock()
	s.complain(complaint)
}

// text sends a record that was made elsewhere, of the log called "error" or
// "access".
func (s *syslog) text(level logLevel, log string, text []byte, now bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	complaint := s.end(append(s.begin(level, log), text...), now)
	s.mu.Unlock()
	s.complain(complaint)
}

// access gathers a record of the access log for flush.
func (s *syslog) access(line []byte) { s.text(levelInfo, "access", line, false) }

func (s *syslog) flush() {
	if s == nil || s.out == nil {
		return
	}
	s.mu.Lock()
	complaint := ""
	if s.out.n > 0 {
		complaint = s.outcome(s.out.flush())
	}
	s.mu.Unlock()
	s.complain(complaint)
}

// begin returns the buffer with what comes before a record's text.
func (s *syslog) begin(level logLevel, log string) []byte {
	b := s.queue
	if s.out != nil {
		b = s.out.buf
	}
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.facility*8+severities[level]), 10)
	b = append(append(append(b, '>'), s.tag...), log...)
	return append(b, s.pid...)
}

// end completes the record that b ends with.
func (s *syslog) end(b []byte, now bool) (complaint string) {
	b = append(b, 0)
	if s.out != nil {
		s.out.buf = b
		lost, err := s.out.end()
		if now && s.out.n > 0 {
			more, again := s.out.flush()
			lost, err = lost+more, errors.Join(err, again)
		}
		if now || err != nil {
			return s.outcome(lost, err)
		}
		return ""
	}
	if len(b) > syslogPending {
		return s.outcome(1, errSyslogSlow) // s.queue is as it was
	}
	s.queue = b
	s.idle.Store(false)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return ""
}

var errSyslogSlow = errors.New("it does not take them")

// outcome counts what was lost, and returns what is to be said: once that
// records are being lost, and later how many were.
func (s *syslog) outcome(lost int, err error) (complaint string) {
	s.lost += lost
	now := monotonic()
	switch {
	case err != nil && !s.failed && now >= s.quiet:
		s.failed = true
		var errno syscall.Errno
		if errors.As(err, &errno) {
			err = errno // without what net says around it
		} else if errors.Is(err, net.ErrClosed) {
			err = errors.New("it has closed the connection")
		}
		return fmt.Sprintf("syslog %s: %v; records for it may be lost", s.where, err)
	case err == nil && s.lost == 0:
		s.failed = false
	case err == nil && now >= s.quiet:
		n := s.lost
		s.lost, s.failed = 0, false
		s.quiet = now + int64(syslogPause)
		return fmt.Sprintf("syslog %s: %d records for it were lost", s.where, n)
	}
	return ""
}

func (s *syslog) complain(text string) {
	if text != "" {
		s.report("%s", text)
	}
}

// stream connects, and writes what is queued.
func (s *syslog) stream(network, addr string) {
	var conn net.Conn
	var batch []byte // being written
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for !s.closed.Load() {
		if len(batch) == 0 {
			if batch = s.take(batch); len(batch) == 0 {
				<-s.wake
				continue
			}
		}
		var n int
		var err error
		if conn == nil {
			if conn, err = net.DialTimeout(network, addr, syslogLimit); err == nil {
				go hangUp(conn)
			}
		}
		if err == nil {
			_ = conn.SetWriteDeadline(time.Now().Add(syslogLimit))
			n, err = conn.Write(batch)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && conn != nil {
			err = nil // slow, and the queue has its own end
		} else if err != nil {
			if conn != nil {
				conn.Close()
				conn = nil
			}
			n = 1 + bytes.LastIndexByte(batch[:n], 0) // what was cut is sent again, whole
		}
		batch = batch[:copy(batch, batch[n:])]
		if err != nil || n > 0 {
			s.mu.Lock()
			complaint := s.outcome(0, err)
			s.mu.Unlock()
			s.complain(complaint)
		}
		if err != nil {
			time.Sleep(syslogPause)
		}
	}
}

// take returns what is queued, and leaves an empty buffer for more.
func (s *syslog) take(empty []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.queue
	s.queue = empty[:0]
	s.idle.Store(len(batch) == 0)
	return batch
}

// hangUp closes a connection when the daemon does: the first write after that
// would succeed, and the records be lost.
func hangUp(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn)
	conn.Close()
}

// close gives a stream a moment for what is queued.
func (s *syslog) close() {
	switch {
	case s == nil:
	case s.out != nil:
		s.flush()
		s.out.close()
	default:
		for end := monotonic() + int64(syslogLast); !s.idle.Load() && monotonic() < end; {
			time.Sleep(time.Millisecond)
		}
		s.closed.Store(true)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// parseSyslogAddr reads syslog_addr. The network is udp, tcp, unixgram, or
// unix for a socket of either kind; then host is a path.
func parseSyslogAddr(s string) (network, host string, port int, err error) {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		path, kind, _ := strings.Cut(path, "#")
		if network = "unix"; kind == "dgram" {
			network = "unixgram"
		}
		return network, path, 0, nil
	}
	network, rest, ok := strings.Cut(s, "://")
	if !ok || network != "udp" && network != "tcp" {
		return "", "", 0, said("invalid syslog address")
	}
	host, text, hasPort := strings.Cut(rest, ":")
	if name, tail, ok := bracketed(rest); ok {
		host = name
		text, hasPort = strings.CutPrefix(tail, ":")
	}
	port = 514
	if hasPort {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return "", "", 0, said("%s is not a valid port number.", pyRepr(text))
		}
		port = int(n)
	}
	return network, strings.ToLower(host), port, nil
}

// checkSyslog checks what only matters when there is a syslog.
func (c *config) checkSyslog() error {
	if !c.syslog {
		return nil
	}
	if _, ok := facilities[strings.ToLower(c.syslogFacility)]; !ok {
		return said("unknown facility name")
	}
	_, _, _, err := parseSyslogAddr(c.syslogAddr)
	return err
}

// Statsd --------------------------------------------------------------------
//
// Metrics for statsd: one datagram each. A datagram costs more than anything
// else that a short request does, so those of requests wait for a moment and
// go out together; what a log counts is sent at once.

// statsd sends metrics. A nil statsd is one that is turned off. Any goroutine
// may use it.
type statsd struct {
	mu     sync.Mutex
	out    *datagrams
	prefix string
	tags   string // what each datagram ends with
	due    int64  // when those of requests must go, 0 without any
}

// statsdWait is how long the metrics of a request may wait.
const statsdWait = 10 * time.Millisecond

// openStatsd returns nil when the settings, or a host that nobody knows, leave
// no address.
func openStatsd(c *config) (*statsd, error) {
	if c.statsdTo == "" {
		return nil, nil
	}
	out, err := openDatagrams(splitTarget(c.statsdTo))
	if err != nil {
		return nil, err
	}
	out.unordered()
	s := &statsd{out: out, prefix: c.statsdPrefix}
	if s.prefix != "" && s.prefix[len(s.prefix)-1] != '.' {
		s.prefix += "."
	}
	if c.dogstatsdTags != "" {
		s.tags = "|#" + c.dogstatsdTags
	}
	return s, nil
}

// request is called once for each request.
func (s *statsd) request(status []byte, took time.Duration, now int64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due == 0 {
		s.due = now + int64(statsdWait)
	}
	b := append(s.begin(), "gunicorn.request.duration:"...)
	s.end(append(appendMillis(b, took), "|ms"...))
	s.end(append(s.begin(), "gunicorn.requests:1|c|@1.0"...))
	b = append(s.begin(), "gunicorn.request.status."...)
	for _, c := range status {
		if c < '0' || c > '9' {
			break
		}
		b = append(b, c)
	}
	s.end(append(b, ":1|c|@1.0"...))
}

// appendMillis appends milliseconds as Python prints a float of them.
func appendMillis(b []byte, d time.Duration) []byte {
	micros := d.Microseconds()
	b = append(strconv.AppendInt(b, micros/1000, 10), '.')
	dot := len(b)
	b = strconv.AppendInt(b, 1000+micros%1000, 10)
	b = append(b[:dot], b[dot+1:]...) // without the 1 that kept the zeros
	for len(b) > dot+1 && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// logged counts a record of the error log, whatever the log's own level.
func (s *statsd) logged(level logLevel) {
	switch level {
	case levelWarning:
		s.send("gunicorn.log.warning:1|c|@1.0")
	case levelError:
		s.send("gunicorn.log.error:1|c|@1.0")
	case levelCritical:
		s.send("gunicorn.log.critical:1|c|@1.0")
	}
}

// send sends one metric, NAME:VALUE|TYPE, now.
func (s *statsd) send(metric string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(append(s.begin(), metric...))
	_, _ = s.out.flush()
}

// dueAt is when flush has to be called, 0 with nothing to send.
func (s *statsd) dueAt() int64 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due
}

// flush sends what request has gathered.
func (s *statsd) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = 0
	_, _ = s.out.flush()
}

func (s *statsd) begin() []byte { return append(s.out.buf, s.prefix...) }

// end completes the metric that b ends with.
func (s *statsd) end(b []byte) {
	s.out.buf = append(b, s.tags...)
	_, _ = s.out.end()
}

func (s *statsd) close() {
	if s != nil {
		_, _ = s.out.flush()
		s.out.close()
	}
}

// Datagrams -----------------------------------------------------------------
//
// Datagrams for syslog and statsd. Nobody answers them and nobody waits for
// them: those that the kernel has no room for are lost.

const (
	datagramBatch = 64       // sent by one system call; the kernel cuts no message into more
	datagramMax   = 60 << 10 // bytes of the longest: more does not fit into UDP
)

// datagrams are messages to one address: the caller appends to buf, says where
// each message ends, and sends many by one system call. The socket is not
// connected, so a receiver that comes back needs no attention.
type datagrams struct {
	fd   int
	buf  []byte
	n    int // messages in buf
	ends [datagramBatch]int

	name unix.RawSockaddrAny
	iov  [datagramBatch]unix.Iovec
	msgs [datagramBatch]mmsghdr

	// segments is the kernel's word that it cuts a message into datagrams of
	// one size (UDP_SEGMENT in udp(7)), which costs a sixth of sending each. It
	// is for those whose order means nothing.
	segments bool
	cuts     [datagramBatch]segment
}

// segment is the control message that says at what size to cut.
type segment struct {
	hdr  unix.Cmsghdr
	size uint16
	_    [6]byte
}

// mmsghdr is the kernel's: Go pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// openDatagrams makes a socket for an address: IP:PORT for the network udp,
// otherwise a path.
func openDatagrams(network, addr string) (*datagrams, error) {
	d := &datagrams{}
	size, err := rawAddress(&d.name, network, addr)
	if err != nil {
		return nil, err
	}
	d.fd, err = unix.Socket(int(d.name.Addr.Family), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for i := range d.msgs {
		h := &d.msgs[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&d.name)), size
	}
	return d, nil
}

// rawAddress fills in what the kernel wants to see, and returns its size.
func rawAddress(raw *unix.RawSockaddrAny, network, addr string) (size uint32, err error) {
	if network != "udp" {
		sa := (*unix.RawSockaddrUnix)(unsafe.Pointer(raw))
		sa.Family = unix.AF_UNIX
		path := unsafe.Slice((*byte)(unsafe.Pointer(&sa.Path[0])), len(sa.Path))
		if len(addr) >= len(path) {
			return 0, fmt.Errorf("%q: the path of a socket has less than %d bytes", addr, len(path))
		}
		return uint32(unsafe.Offsetof(sa.Path)) + uint32(copy(path, addr)) + 1, nil
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, err
	}
	port := [2]byte{byte(to.Port() >> 8), byte(to.Port())}
	ip := to.Addr()
	if ip.Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(raw)) = unix.RawSockaddrInet4{
			Family: unix.AF_INET, Port: *(*uint16)(unsafe.Pointer(&port)), Addr: ip.As4(),
		}
		return unix.SizeofSockaddrInet4, nil
	}
	*(*unix.RawSockaddrInet6)(unsafe.Pointer(raw)) = unix.RawSockaddrInet6{
		Family: unix.AF_INET6, Port: *(*uint16)(unsafe.Pointer(&port)), Addr: ip.As16(), Scope_id: zoneIndex(ip.Zone()),
	}
	return unix.SizeofSockaddrInet6, nil
}

// end says that what was appended to buf since the last time is a message,
// and sends if that makes a batch.
func (d *datagrams) end() (lost int, err error) {
	start := 0
	if d.n > 0 {
		start = d.ends[d.n-1]
	}
	if len(d.buf)-start > datagramMax {
		d.buf = d.buf[:start+datagramMax]
	}
	d.ends[d.n] = len(d.buf)
	if d.n++; d.n == datagramBatch {
		return d.flush()
	}
	return 0, nil
}

// flush sends all messages, and returns how many were lost and why.
func (d *datagrams) flush() (lost int, err error) {
	n := d.n
	groups := d.group()
	d.n, d.buf = 0, d.buf[:0]
	for sent := 0; sent < groups; {
		m, errno := rawSendmmsg(d.fd, d.msgs[sent:groups])
		if errno != 0 {
			if errno != unix.EAGAIN {
				d.segments = false // not to this receiver, perhaps
			}
			return n - sent, errno
		}
		sent += m
	}
	return 0, nil
}

// group makes the kernel's messages, and returns how many there are: one for
// each of ours, or for all of one size.
func (d *datagrams) group() (groups int) {
	var done [datagramBatch]bool
	for i, at := 0, 0; i < d.n; i++ {
		if done[i] {
			continue
		}
		first, size := at, len(d.message(i))
		for j := i; j < d.n; j++ {
			if b := d.message(j); !done[j] && len(b) == size {
				done[j] = true
				d.iov[at].Base = unsafe.SliceData(b)
				d.iov[at].SetLen(size)
				at++
			}
			if !d.segments {
				break
			}
		}
		h := &d.msgs[groups].hdr
		h.Iov = &d.iov[first]
		h.SetIovlen(at - first)
		h.Control = nil
		h.SetControllen(0)
		if at-first > 1 {
			s := &d.cuts[groups]
			s.hdr.Level, s.hdr.Type, s.size = unix.IPPROTO_UDP, unix.UDP_SEGMENT, uint16(size)
			s.hdr.SetLen(unix.CmsgLen(2))
			h.Control = (*byte)(unsafe.Pointer(s))
			h.SetControllen(unix.CmsgSpace(2))
		}
		groups++
	}
	return groups
}

func (d *datagrams) message(i int) []byte {
	if i == 0 {
		return d.buf[:d.ends[0]]
	}
	return d.buf[d.ends[i-1]:d.ends[i]]
}

// unordered lets the kernel have datagrams of one size together.
func (d *datagrams) unordered() {
	d.segments = d.name.Addr.Family != unix.AF_UNIX &&
		unix.SetsockoptInt(d.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0) == nil
}

func (d *datagrams) close() { unix.Close(d.fd) }

// rawSendmmsg sends the messages that there is room for now, one at least.
func rawSendmmsg(fd int, msgs []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(msgs))),
			uintptr(len(msgs)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// resolveLogs looks up where syslog and statsd are, once, for the arbiter and
// its workers: later nothing may wait for a name. Without its metrics a server
// does its work, so what is wrong there is only a warning.
func (c *config) resolveLogs() (warning, err error) {
	if c.syslog {
		network, host, port, err := parseSyslogAddr(c.syslogAddr)
		if err == nil && port > 0 {
			host, err = lookupHost(host, port)
		}
		if err != nil {
			return nil, fmt.Errorf("syslog_addr: %w", err)
		}
		c.syslogTo = network + " " + host
	}
	if c.statsdHost != "" {
		addr, err := parseAddress(c.statsdHost, 0)
		switch {
		case err != nil:
			return nil, fmt.Errorf("statsd_host: %w", err)
		case addr.network == "unix":
			c.statsdTo = "unixgram " + addr.path
		default:
			host, err := lookupHost(addr.host, addr.port)
			if err != nil {
				return fmt.Errorf("statsd_host: %w; no metrics are sent", err), nil
			}
			c.statsdTo = "udp " + host
		}
	}
	return nil, nil
}

// splitTarget splits what resolveLogs has found.
func splitTarget(to string) (network, addr string) {
	network, addr, _ = strings.Cut(to, " ")
	return network, addr
}

func lookupHost(host string, port int) (string, error) {
	if host == "" {
		host = "localhost"
	}
	ip, err := resolve("ip", host)
	if err != nil {
		return "", fmt.Errorf("%s: %w", pyRepr(host), err)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)).String(), nil
}

// From Python ---------------------------------------------------------------
//
// What Python has for syslog and statsd goes through its worker: there is one
// connection for both, and neither a daemon nor a name server can hold up the
// application. A message is a letter, then
//
//	e, a  a level's digit and a record of gunicorn.error or gunicorn.access
//	m     a metric, NAME:VALUE|TYPE

// relayAtOnce bounds what one turn of the loop takes.
const relayAtOnce = 64

// relays says whether Python has anything to relay.
func (w *worker) relays() bool { return w.log.syslog != nil || w.log.statsd != nil }

// relay passes on what Python has sent.
func (w *worker) relay() {
	if !w.relays() {
		return
	}
	b := w.pool.get(queueMax)[:queueMax]
	defer w.pool.put(b)
	for range relayAtOnce {
		n := w.python.relayed(b)
		if n < 2 {
			return
		}
		kind, text := b[0], b[1:n]
		level := logLevel(text[0] - '0')
		switch {
		case kind == 'm':
			w.log.statsd.send(string(text))
		case level > levelCritical:
		case kind == 'e':
			w.log.syslog.text(level, "error", text[1:], true)
		case kind == 'a':
			w.log.syslog.text(level, "access", text[1:], true)
		}
	}
}
