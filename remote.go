package main

// Logs and metrics for other processes: records for syslog, metrics for statsd,
// the datagrams that carry both, and records and metrics from Python. A receiver
// that is absent, slow or stuck delays nothing.

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
// Records are sent as datagrams, or through a bounded queue over a stream, which
// a goroutine writes. If the daemon is absent, slow or stuck, records are lost and
// counted.

const (
	syslogPending = 256 << 10              // bytes queued for a stream; further records are lost
	syslogPause   = time.Second            // time between attempts to connect, and between complaints
	syslogLimit   = 5 * time.Second        // longest attempt to connect or to write
	syslogLast    = 200 * time.Millisecond // time for the queued records when the process ends
)

// facilities are the numbers of syslog.h, by name.
var facilities = map[string]int{
	"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "security": 4, "syslog": 5, "lpr": 6, "news": 7,
	"uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11,
	"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}

// severities are syslog's severities, by level.
var severities = [...]int{levelDebug: 7, levelInfo: 6, levelWarning: 4, levelError: 3, levelCritical: 2}

// syslog sends records. A nil syslog is turned off. Any goroutine may use it.
type syslog struct {
	where    string // address for messages
	facility int
	tag      string // gunicorn.NAME.
	pid      []byte // : [PID] and a blank

	// report writes a complaint to the error log, which sends the complaint to
	// this syslog as well.
	report func(format string, args ...any)

	mu     sync.Mutex
	out    *datagrams    // nil for a stream
	queue  []byte        // whole records that wait for the stream
	wake   chan struct{} // signalled when the stream's queue has records
	lost   int           // records lost since the last complaint
	failed bool          // the last attempt to send failed
	quiet  int64         // time before which no complaint is made

	idle   atomic.Bool // the stream has written all queued records
	closed atomic.Bool // the stream's goroutine must end
}

// openSyslog returns nil if the settings want no syslog. Nothing is sent yet, so
// an absent daemon is no error.
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
	network, addr := splitAddress(c.syslogTo)
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

// unixKind returns the network of the socket at a path, unix or unixgram. A socket
// that does not exist yet is assumed to be unixgram, the usual type.
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

// text sends a finished record of the log named "error" or "access"; now is false
// for a record that may wait for flush.
func (s *syslog) text(level logLevel, log string, text []byte, now bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	complaint := s.end(append(s.begin(level, log), text...), now)
	s.mu.Unlock()
	s.complain(complaint)
}

// access collects a record of the access log for flush.
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

// begin returns the buffer after appending the start of a record.
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

// end completes the record at the end of b, and sends datagrams if now.
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
		return s.outcome(1, errSyslogSlow) // s.queue keeps its old length
	}
	s.queue = b
	s.idle.Store(false)
	nudge(s.wake)
	return ""
}

// nudge wakes the goroutine that waits on c, unless an earlier nudge is pending.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var errSyslogSlow = errors.New("it does not take them")

// outcome counts lost records and returns a complaint, if one is due: first that
// records may be lost, and after recovery how many were.
func (s *syslog) outcome(lost int, err error) (complaint string) {
	s.lost += lost
	now := monotonic()
	switch {
	case err != nil && !s.failed && now >= s.quiet:
		s.failed = true
		var errno syscall.Errno
		if errors.As(err, &errno) {
			err = errno // omit the words that package net adds
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

// stream is the goroutine that connects to the daemon and writes queued records.
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
			err = nil // the daemon is slow, and the queue is bounded
		} else if err != nil {
			if conn != nil {
				conn.Close()
				conn = nil
			}
			n = 1 + bytes.LastIndexByte(batch[:n], 0) // a record that was cut is sent again whole
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

// take returns the queued records, and makes empty the new queue.
func (s *syslog) take(empty []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.queue
	s.queue = empty[:0]
	s.idle.Store(len(batch) == 0)
	return batch
}

// hangUp closes a connection once the daemon has closed its end. Otherwise the
// next write would succeed and its records would be lost.
func hangUp(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn)
	conn.Close()
}

// close sends the remaining records; a stream has syslogLast to do so.
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
		nudge(s.wake)
	}
}

// parseSyslogAddr reads syslog_addr. The network is udp, tcp, unixgram, or unix for
// a unix socket of either type. host is a path for unix sockets.
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
		return "", "", 0, pyErrorf("invalid syslog address")
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
			return "", "", 0, pyErrorf("%s is not a valid port number.", pyRepr(text))
		}
		port = int(n)
	}
	return network, strings.ToLower(host), port, nil
}

// checkSyslog checks the settings for syslog if syslog is turned on.
func (c *config) checkSyslog() error {
	if !c.syslog {
		return nil
	}
	if _, ok := facilities[strings.ToLower(c.syslogFacility)]; !ok {
		return pyErrorf("unknown facility name")
	}
	_, _, _, err := parseSyslogAddr(c.syslogAddr)
	return err
}

// Statsd --------------------------------------------------------------------
//
// Metrics for statsd, one in each datagram. Sending a datagram costs more than
// anything else in a short request, so metrics of requests wait a moment and are
// sent together. Counts of log records are sent at once.

// statsd sends metrics. A nil statsd is turned off. Any goroutine may use it.
type statsd struct {
	mu     sync.Mutex
	out    *datagrams
	prefix string
	tags   string // end of each datagram
	due    int64  // time by which waiting metrics must be sent, 0 without any
}

// statsdWait is how long metrics of requests may wait: too short to be seen in
// statsd's intervals of seconds, long enough to fill a batch under load.
const statsdWait = 10 * time.Millisecond

// openStatsd returns nil without an address, either because the settings want no
// statsd or because its host could not be resolved.
func openStatsd(c *config) (*statsd, error) {
	if c.statsdTo == "" {
		return nil, nil
	}
	out, err := openDatagrams(splitAddress(c.statsdTo))
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

// request queues the metrics of one request.
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

// appendMillis appends a duration in milliseconds, as Python prints a float.
func appendMillis(b []byte, d time.Duration) []byte {
	micros := d.Microseconds()
	b = append(strconv.AppendInt(b, micros/1000, 10), '.')
	dot := len(b)
	b = strconv.AppendInt(b, 1000+micros%1000, 10)
	b = append(b[:dot], b[dot+1:]...) // drop the leading 1 that kept the zeros
	for len(b) > dot+1 && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// logged counts a record of the error log, even if the log's level hides it.
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

// dueAt is the time at which to call flush, 0 if no metrics wait.
func (s *statsd) dueAt() int64 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due
}

// flush sends the metrics of requests.
func (s *statsd) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = 0
	_, _ = s.out.flush()
}

func (s *statsd) begin() []byte { return append(s.out.buf, s.prefix...) }

// end completes the metric at the end of b.
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
// Datagrams for syslog and statsd. There are no replies, and sending never waits:
// datagrams for which the kernel has no room are lost.

const (
	datagramBatch = 64       // datagrams sent by one system call; also UDP_SEGMENT's limit
	datagramMax   = 60 << 10 // bytes of the longest datagram; UDP's own limit is 64 KiB
)

// datagrams sends messages to one address. The caller appends a message to buf and
// calls end; flush sends up to datagramBatch messages by one system call. The
// socket is not connected, so that a receiver may come back without our help.
type datagrams struct {
	fd   int
	buf  []byte
	n    int                // messages in buf
	ends [datagramBatch]int // offsets in buf at which messages end

	name unix.RawSockaddrAny // address of the receiver
	iov  [datagramBatch]unix.Iovec
	msgs [datagramBatch]mmsghdr

	// segments means that the kernel may cut one message into datagrams of equal
	// size (UDP_SEGMENT in udp(7)), which costs a sixth of sending each datagram.
	// Grouping by size changes the order, so syslog does not use segments.
	segments bool
	cuts     [datagramBatch]segment
}

// segment is the control message for UDP_SEGMENT.
type segment struct {
	hdr  unix.Cmsghdr
	size uint16 // bytes of each datagram
	_    [6]byte
}

// mmsghdr is struct mmsghdr of sendmmsg(2). Go pads the struct as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// openDatagrams makes a socket for an address, which is IP:PORT for the network
// udp and otherwise a path.
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

// rawAddress writes an address in the kernel's form and returns its size.
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

// end makes one message of the bytes appended to buf since the last call, and
// sends a full batch.
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

// flush sends all messages. It returns how many were lost, and why.
func (d *datagrams) flush() (lost int, err error) {
	n := d.n
	groups := d.group()
	d.n, d.buf = 0, d.buf[:0]
	for sent := 0; sent < groups; {
		m, errno := rawSendmmsg(d.fd, d.msgs[sent:groups])
		if errno != 0 {
			if errno != unix.EAGAIN {
				d.segments = false // the route to this receiver may not support them
			}
			return n - sent, errno
		}
		sent += m
	}
	return 0, nil
}

// group prepares msgs and returns their number: one for each of our messages, or
// with segments one for all messages of the same size.
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

// unordered allows messages of the same size to be sent together, out of order.
func (d *datagrams) unordered() {
	d.segments = d.name.Addr.Family != unix.AF_UNIX &&
		unix.SetsockoptInt(d.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0) == nil
}

func (d *datagrams) close() { unix.Close(d.fd) }

// rawSendmmsg sends as many messages as the kernel has room for, at least one.
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

// resolveLogs resolves the hosts of syslog and statsd, once, for the arbiter and
// its workers, so that no name server can delay them later. A statsd host that
// cannot be resolved is only a warning, because the server works without metrics.
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

// splitAddress splits syslogTo or statsdTo.
func splitAddress(to string) (network, addr string) {
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
// Python's records for syslog and metrics for statsd go through the worker, over
// one socket. So neither a daemon nor a name server can delay the application. A
// message is a letter, followed by
//
//	e, a  a level's digit and a record of gunicorn.error or gunicorn.access
//	m     a metric, NAME:VALUE|TYPE

// relayAtOnce bounds the messages that one turn of the loop passes on, so that
// clients do not wait: 64 take well below a millisecond.
const relayAtOnce = 64

// relays reports whether messages from Python have a receiver.
func (w *worker) relays() bool { return w.log.syslog != nil || w.log.statsd != nil }

// relay passes on messages that Python has sent.
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
