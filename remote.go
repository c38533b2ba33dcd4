package main

// Logs and metrics for other processes: records for syslog, metrics for statsd,
// the datagrams that carry both, records and metrics from Python, and records for
// a Python that makes logs. A receiver that is absent, slow or stuck delays nothing.

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

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
	queue  []byte        // whole records that wait for the stream; scratch memory for datagrams
	wake   chan struct{} // signalled when the stream's queue has records
	lost   int           // records lost since the last complaint
	failed bool          // the last attempt to send failed
	quiet  int64         // time before which no complaint is made

	idle   atomic.Bool // the stream has written all queued records
	closed atomic.Bool // the stream's goroutine must end
}

// openSyslog returns nil if the settings want no syslog. Nothing is sent yet, so
// an absent daemon is no error.
func openSyslog(c *config) (s *syslog, err error) {
	if !c.syslog {
		return nil, nil
	}
	name := cmp.Or(c.syslogPrefix, strings.ReplaceAll(c.name(), ":", "."))
	s = &syslog{
		where:    c.syslogAddr,
		facility: facilities[strings.ToLower(c.syslogFacility)],
		tag:      "gunicorn." + name + ".",
		pid:      fmt.Appendf(nil, ": [%d] ", os.Getpid()),
		report:   func(string, ...any) {},
	}
	network, addr, _ := strings.Cut(c.syslogTo, " ")
	if network == "unix" {
		network = unixKind(addr)
	}
	if network == "udp" || network == "unixgram" {
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

// record sends a record of the log named "error" or "access".
func (s *syslog) record(level logLevel, log string, text []byte) {
	if s == nil {
		return
	}
	s.mu.Lock()
	b := strconv.AppendInt(append(s.queue, '<'), int64(s.facility*8+severities[level]), 10)
	b = append(append(append(append(b, '>'), s.tag...), log...), s.pid...)
	b = append(append(b, text...), 0)
	complaint := ""
	switch {
	case s.out != nil:
		s.queue = b[:0]
		complaint = s.outcome(1, s.out.send(b))
	case len(b) > syslogPending:
		complaint = s.outcome(1, errSyslogSlow) // s.queue keeps its old length
	default:
		s.queue = b
		s.idle.Store(false)
		nudge(s.wake)
	}
	s.mu.Unlock()
	s.complain(complaint)
}

// nudge wakes the goroutine that waits on c, unless an earlier nudge is pending.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var errSyslogSlow = errors.New("it does not take them")

// outcome counts the records that an error has lost, and returns a complaint, if one is due:
// first that records may be lost, and after recovery how many were.
func (s *syslog) outcome(records int, err error) (complaint string) {
	if err != nil {
		s.lost += records
	}
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

// close gives a stream syslogLast to send the remaining records.
func (s *syslog) close() {
	switch {
	case s == nil:
	case s.out != nil:
		unix.Close(s.out.fd)
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
	host, text, hasPort := splitHost(rest)
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
// Metrics for statsd, one in each datagram.

// statsd sends metrics. A nil statsd is turned off. Any goroutine may use it.
type statsd struct {
	mu     sync.Mutex
	out    *datagrams
	buf    []byte // scratch memory for a metric
	prefix string
	tags   string // end of each datagram
}

// openStatsd returns nil without an address, either because the settings want no
// statsd or because its host could not be resolved.
func openStatsd(c *config) (*statsd, error) {
	if c.statsdTo == "" {
		return nil, nil
	}
	network, addr, _ := strings.Cut(c.statsdTo, " ")
	out, err := openDatagrams(network, addr)
	if err != nil {
		return nil, err
	}
	s := &statsd{out: out, prefix: c.statsdPrefix}
	if s.prefix != "" && s.prefix[len(s.prefix)-1] != '.' {
		s.prefix += "."
	}
	if c.dogstatsdTags != "" {
		s.tags = "|#" + c.dogstatsdTags
	}
	return s, nil
}

func (s *statsd) request(status []byte, took time.Duration) {
	if s == nil {
		return
	}
	var text [32]byte
	micros := took.Microseconds()
	millis := strconv.AppendFloat(text[:0], float64(micros)/1000, 'f', -1, 64)
	if micros%1000 == 0 {
		millis = append(millis, ".0"...) // as Python prints a float
	}
	digits := len(status) - len(bytes.TrimLeft(status, "0123456789"))
	s.send("gunicorn.request.duration:", string(millis), "|ms")
	s.send("gunicorn.requests:1|c|@1.0")
	s.send("gunicorn.request.status.", string(status[:digits]), ":1|c|@1.0")
}

// logged counts a record of the error log, even if the log's level hides it.
func (s *statsd) logged(level logLevel) {
	if level >= levelWarning {
		s.send("gunicorn.log.", strings.ToLower(levelNames[level]), ":1|c|@1.0")
	}
}

// send sends one metric, NAME:VALUE|TYPE, given in parts.
func (s *statsd) send(parts ...string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf = append(s.buf[:0], s.prefix...)
	for _, part := range parts {
		s.buf = append(s.buf, part...)
	}
	s.buf = append(s.buf, s.tags...)
	_ = s.out.send(s.buf)
}

func (s *statsd) close() {
	if s != nil {
		unix.Close(s.out.fd)
	}
}

// Datagrams -----------------------------------------------------------------
//
// Datagrams for syslog and statsd. There are no replies, and sending never waits:
// datagrams for which the kernel has no room are lost.

// datagramMax bounds a datagram; UDP's own limit is 64 KiB.
const datagramMax = 60 << 10

// datagrams sends messages to one address. The socket is not connected, so that a
// receiver may come back without our help.
type datagrams struct {
	fd int
	to unix.Sockaddr
}

// openDatagrams makes a socket for an address, which is IP:PORT for the network
// udp and otherwise a path.
func openDatagrams(network, addr string) (d *datagrams, err error) {
	d = &datagrams{to: &unix.SockaddrUnix{Name: addr}}
	family := unix.AF_UNIX
	if network == "udp" {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		d.to, family = sockaddr(to)
	} else if most := len(unix.RawSockaddrUnix{}.Path); len(addr) >= most {
		return nil, fmt.Errorf("%q: the path of a socket has less than %d bytes", addr, most)
	}
	d.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return d, os.NewSyscallError("socket", err)
}

// send never waits, and so no signal interrupts it.
func (d *datagrams) send(b []byte) error {
	return unix.Sendto(d.fd, b[:min(len(b), datagramMax)], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, d.to)
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

func lookupHost(host string, port int) (string, error) {
	host = cmp.Or(host, "localhost")
	ip, err := resolve("ip", host)
	if err != nil {
		return "", fmt.Errorf("%s: %w", pyRepr(host), err)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)).String(), nil
}

// From Python ---------------------------------------------------------------
//
// Python's records for syslog and metrics for statsd go through the worker, so that
// neither a daemon nor a name server can delay the application. They come back through
// the first queue, because a message is written whole there, whichever of Python's
// threads writes it. A message is a letter, followed by
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
	if !w.relays() || w.python.ended {
		return
	}
	b := w.pool.get(queueMax)[:queueMax]
	defer w.pool.put(b)
	for range relayAtOnce {
		n := recv(w.python.lanes[0].queue, b, 0)
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
			w.log.syslog.record(level, "error", text[1:])
		case kind == 'a':
			w.log.syslog.record(level, "access", text[1:])
		}
	}
}

// Logs made in Python ---------------------------------------------------------
//
// If logger_class, logconfig or a similar setting configures Python's logging module, one
// Python process (the logger) writes the logs of the whole server. The arbiter and the
// workers send their records to the logger's socket, and the logger passes each record to
// the configured Python logger (keep_log in glogging.py). The socket is the only queue, and
// no sender waits: if the queue is full, a record of the error log is written as if there
// were no logger, and a record of the access log is dropped and counted.
//
// As root the logger only opens the files of the logs. Then it takes the workers'
// user, because the text of the records comes from clients.
//
// The logger ends after the last process that holds the sending end, so that no
// worker's record is lost.

// recorder sends records to the logger.
type recorder struct {
	fd     int
	spared atomic.Int64 // time until which the logger gets no error records, after its queue was full
}

// logger is the Python that makes the logs, as the arbiter sees it.
type logger struct {
	helper
	give    int      // the socket's end for sending records
	take    int      // the socket's end from which the logger reads: kept open, so that records outlive the logger
	rotated bool     // USR1 came while the socket was full: ask the logger once more to open its files again
	files   []string // names of the log files, if the logger has other rights than the arbiter
}

const (
	loggerWait = 30 * time.Second // longest start of a logger: imports, and connections of its handlers
	loggerEnd  = 2 * time.Second  // time for the last records when the arbiter ends
	loggerRest = 2 * time.Second  // pause after a full queue, in which the warning itself is not queued
)

// ownLoggers are the values of logger_class that need no Python.
var ownLoggers = []string{"", "simple", "gunicorn.glogging.Logger", "gunicorn.instrument.statsd.Statsd"}

// logsInPython reports whether Python writes the logs.
func (c *config) logsInPython() bool {
	_, isClass := c.given["logger_class"].(callable)
	dict, _ := c.given["logconfig_dict"].(dict)
	return c.logconfig != "" || c.logconfigJSON != "" || len(dict) > 0 || c.said["loggers"] == true ||
		isClass || !slices.Contains(ownLoggers, c.loggerClass)
}

// openLogger starts the Python that makes the logs of c, and waits until it has
// read their configuration.
func openLogger(g *generation) (l *logger, err error) {
	l = &logger{}
	if l.give, l.take, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(l.give, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	answer, err := readPython(loggerWait, func(out int) (int, error) {
		l.pid, err = l.start(g, out)
		return l.pid, err
	})
	if err == nil {
		err = g.cfg.readLogger(l, answer)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("the configuration of the logs takes too long")
	}
	if err != nil {
		if l.pid > 0 {
			_ = unix.Kill(l.pid, unix.SIGKILL)
			waitFor(l.pid)
			l.pid = 0
		}
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *logger) start(g *generation, answer int) (pid int, err error) {
	if g.host != nil && g.host.program {
		return g.host.forkLogger(g.cfg, l.take, answer)
	}
	settings, err := memfd("settings", g.cfg.encode())
	if err != nil {
		return 0, err
	}
	defer unix.Close(settings)
	return startPython(g.cfg.python, g.bridge, "log", childEnv(g.cfg), settings, l.take, answer)
}

// readLogger reads the facts about its loggers that the new Python sends, or the reason why
// it cannot make the logs.
func (c *config) readLogger(l *logger, answer []byte) error {
	v, err := unmarshal(answer)
	facts, ok := v.(map[string]any)
	if err != nil || !ok {
		return errors.New("the Python that makes the logs has ended")
	}
	if text, ok := facts["error"].(string); ok {
		return errors.New(text)
	}
	level, _ := facts["level"].(int64)
	c.minLevel = logLevel(min(max((level+9)/10-1, int64(levelDebug)), int64(levelCritical)))
	c.logAccess, _ = facts["access"].(bool)
	l.files, _ = stringsOf(facts["files"])
	return nil
}

// restart starts another Python after one has died. Nobody waits for its answer.
func (l *logger) restart(g *generation) (pid int, err error) {
	nobody, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(nobody)
		pid, err = l.start(g, nobody)
	}
	if err != nil {
		return 0, fmt.Errorf("logger: %w", err)
	}
	return pid, nil
}

// close closes the arbiter's ends of the socket. The logger ends after the last worker that
// still has the socket.
func (l *logger) close() {
	if l != nil && l.give >= 0 {
		unix.Close(l.give)
		unix.Close(l.take)
		l.give = -1
	}
}

// finish waits until the logger has written the last records and ended. When the
// arbiter ends, the kernel kills its remaining children.
func (l *logger) finish() {
	l.close()
	if l == nil {
		return
	}
	awaitEnd(l.pid, loggerEnd)
}

// send sends a message, or fails if there is no room for the message.
func (r *recorder) send(message []byte) error {
	err := unix.Sendto(r.fd, message, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	if err == unix.EAGAIN {
		r.spared.Store(monotonic() + int64(loggerRest))
	}
	return err
}

func appendRecord(b []byte, n, level, pid int) []byte {
	return appendMarshalInt(appendMarshalInt(appendMarshalTuple(b, n), int64(level)), int64(pid))
}

// record sends a record of the error log.
func (r *recorder) record(level logLevel, pid int, text string) bool {
	if r.spared.Load() > monotonic() {
		return false
	}
	b := appendRecord(make([]byte, 0, 256), 3, (int(level)+1)*10, pid)
	return r.send(appendMarshalText(b, strings.ToValidUTF8(text, "\ufffd"))) == nil
}

// renew creates the log files anew after a rotation has renamed them. The logger
// itself, as the workers' user, may lack permission in the directory.
func (l *logger) renew(cred *syscall.Credential) error {
	for _, name := range l.files {
		s, err := openSink(name, -1, -1)
		if err == nil {
			err = s.give(cred)
			s.close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reopen asks the logger to reopen its files by their names, after the records
// sent so far.
func (l *logger) reopen() {
	r := recorder{fd: l.give}
	l.rotated = r.send(appendRecord(nil, 2, -1, os.Getpid())) != nil
}

// access sends a record of the access log: all parts of which a format may make a
// line, or the finished line if the parts are too long for one message.
func (r *recorder) access(a *accessLog, e *accessEntry) bool {
	b := appendEntry(appendRecord(a.scratch[:0], 3, 0, e.pid), e)
	a.scratch = b[:0]
	if err := r.send(b); err != unix.EMSGSIZE {
		return err == nil
	}
	return r.line(a.text(e), e.pid)
}

// line sends a finished line of the access log.
func (r *recorder) line(text []byte, pid int) bool {
	return r.send(appendMarshalText(appendRecord(nil, 3, 0, pid), strings.ToValidUTF8(string(text), "\ufffd"))) == nil
}

// appendEntry appends the parts of an entry of the access log, for Python.
func appendEntry(b []byte, e *accessEntry) []byte {
	b = append(appendMarshalTuple(b, 5), marshalDict)
	if e.parsed {
		b = e.req.appendEnviron(b, e.endpoint, e.scriptName)
	} else {
		b = appendMarshalLatin(appendMarshalText(b, "REMOTE_ADDR"), e.endpoint.remoteAddr)
		b = appendMarshalLatin(appendMarshalText(b, "REQUEST_METHOD"), e.req.method)
		b = appendMarshalLatin(appendMarshalText(b, "RAW_URI"), e.req.target)
		b = appendMarshalLatin(appendMarshalText(b, "SERVER_PROTOCOL"), e.req.version)
		b = appendMarshalLatin(appendMarshalText(b, "QUERY_STRING"), e.req.query)
	}
	b = append(b, marshalDictEnd)
	b = appendMarshalLatin(b, e.status)
	b = appendMarshalList(b, len(e.fields))
	for _, f := range e.fields {
		b = appendMarshalLatin(appendMarshalLatin(appendMarshalTuple(b, 2), f.name), f.value)
	}
	return appendMarshalInt(appendMarshalInt(b, e.bytes), e.duration.Microseconds())
}

// inPython makes both logs send their records to the logger. access is nil if
// accesslog is not set, but Python's loggers may want access records nevertheless.
func (c *config) inPython(log *errorLog, access *accessLog, r *recorder) (*accessLog, error) {
	log.python, log.level = r, c.minLevel
	if access == nil {
		var err error
		if access, err = newAccessLog(sink{fd: -1}, c.accessLogFormat); err != nil {
			return nil, err
		}
	}
	access.out.close()
	access.out = sink{fd: -1}
	if c.logAccess {
		access.python = r
	}
	if access.python == nil && access.syslog == nil {
		return nil, nil
	}
	return access, nil
}

// Lines of the application's loggers --------------------------------------------
//
// If the application has changed the loggers of the access log, the worker's Python makes the
// lines of requests that it has not answered, too. The worker sends it their parts in RECORD
// frames.

const (
	recordsMax = queueMax // most bytes in the first queue when a RECORD frame is added: a message of any length then still finds room
	linesMax   = 1000     // RECORD frames that wait for room in the first queue
)

// record has Python make a line of the access log. The result is false if Python is not there
// to do so, or has too much to do: then the worker writes the line.
func (p *python) record(a *accessLog, e *accessEntry) bool {
	l := p.lanes[0]
	if !p.takes() || len(l.lines) >= linesMax {
		return false
	}
	b := appendEntry(make([]byte, frameHeader, 1<<10), e)
	f := frame{kind: kindRecord, meta: uint32(len(b) - frameHeader)}
	b = append(b, a.text(e)...)
	f.length = uint32(len(b) - frameHeader)
	f.append(b[:0])
	if len(b) > queueMax {
		return false
	}
	l.lines = append(l.lines, b)
	return true
}

// sendLines sends the RECORD frames that wait, or writes their lines if Python is dying.
func (w *worker) sendLines() {
	l, n := w.python.lanes[0], 0
	for _, b := range l.lines {
		if !w.python.takes() {
			w.access.line(b[frameHeader+readFrame(b).meta:], w.pid)
		} else if waiting, err := unix.IoctlGetInt(l.queue, unix.SIOCOUTQ); err != nil || waiting > recordsMax || rawSend(l.queue, b, nil) != 0 {
			break
		}
		n++
	}
	l.lines = slices.Delete(l.lines, 0, n)
}
