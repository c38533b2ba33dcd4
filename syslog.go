package main

// Records for syslog, in the form of Python's SysLogHandler:
//
//	<PRIORITY>gunicorn.NAME.error: [PID] MESSAGE NUL
//
// They go out as datagrams, or over a stream that a goroutine of its own
// writes, from a queue with an end. A daemon that is away, slow or stuck costs
// records, which are counted, and never holds up whoever logs.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

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
