package main

// Logs made in Python. If logger_class or logconfig and its like configure
// Python's logging module, one Python process (the logger) writes the logs of the
// whole server. The arbiter and the workers send their records to the logger's
// socket, and the logger passes each to the configured Python logger (package.py,
// keep_log). The socket is the only queue, and no sender waits: if the queue is
// full, a record of the error log is written as if there were no logger, and a
// record of the access log is dropped and counted.
//
// As root the logger only opens the files of the logs. Then it takes the workers'
// user, because the text of the records comes from clients.
//
// The logger ends after the last process that holds the sending end, so that no
// worker's record is lost.

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// recorder sends records to the logger.
type recorder struct {
	fd     int
	spared atomic.Int64 // time until which the logger gets no error records, after its queue was full
}

// logger is that Python, as the arbiter sees it.
type logger struct {
	helper
	give    int      // where records go in
	take    int      // where that Python reads records: kept, so that they outlive it
	rotated bool     // that Python has to open its files again, and was too busy to be told
	files   []string // files of the logs, if that Python has other rights than the arbiter
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
	if c.logconfig != "" || c.logconfigJSON != "" || c.said["loggers"] == true {
		return true
	}
	if _, isClass := c.given["logger_class"].(callable); isClass {
		return true
	}
	if d, _ := c.given["logconfig_dict"].(dict); len(d) > 0 {
		return true
	}
	return !slices.Contains(ownLoggers, c.loggerClass)
}

// openLogger starts the Python that makes the logs of c, and waits until it has
// read their configuration.
func openLogger(g *generation) (l *logger, err error) {
	l = &logger{}
	if l.give, l.take, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(l.give, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		l.close()
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(p[0])
	l.pid, err = l.start(g, p[1])
	unix.Close(p[1])
	if err == nil {
		err = g.cfg.readLogger(l, p[0])
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
	settings, err := memfd("settings", g.cfg.encode())
	if err != nil {
		return 0, err
	}
	defer unix.Close(settings)
	return startPython(g.cfg.python, g.bridge, "log", childEnv(g.cfg), settings, l.take, answer)
}

// readLogger reads what the new Python says of its loggers, or of what is
// wrong with them.
func (c *config) readLogger(l *logger, fd int) error {
	var out []byte
	b := make([]byte, 64<<10)
	for limit := monotonic() + int64(loggerWait); ; {
		if poll(fd, unix.POLLIN, time.Duration(limit-monotonic())) == 0 {
			return errors.New("the configuration of the logs takes too long")
		}
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || len(out) > len(b) {
			break
		}
		out = append(out, b[:n]...)
	}
	v, err := unmarshal(out)
	facts, ok := v.(map[string]any)
	if err != nil || !ok {
		return errors.New("the Python that makes the logs has ended")
	}
	if text, ok := facts["error"].(string); ok {
		return errors.New(text)
	}
	level, _ := facts["level"].(int64)
	c.logLevel = logLevel(min(max((level+9)/10-1, int64(levelDebug)), int64(levelCritical)))
	c.logAccess, _ = facts["access"].(bool)
	files, _ := facts["files"].([]any)
	for _, file := range files {
		if name, ok := file.(string); ok {
			l.files = append(l.files, name)
		}
	}
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

// close lets the Python go once the workers that still speak to it have ended.
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
	for end := monotonic() + int64(loggerEnd); l.pid > 0 && monotonic() < end; {
		if pid, _ := unix.Wait4(l.pid, nil, unix.WNOHANG, nil); pid == l.pid {
			l.pid = 0
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// send sends a message, and returns false if there is no room for the message.
func (r *recorder) send(message []byte) (bool, error) {
	for {
		err := unix.Sendto(r.fd, message, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
		if err == unix.EAGAIN {
			r.spared.Store(monotonic() + int64(loggerRest))
		}
		if err != unix.EINTR {
			return err == nil, err
		}
	}
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
	ok, _ := r.send(appendMarshalText(b, strings.ToValidUTF8(text, "\ufffd")))
	return ok
}

// renew creates the log files anew after a rotation has renamed them. The logger
// itself, as the workers' user, may lack permission in the directory.
func (l *logger) renew(cred *syscall.Credential) error {
	for _, name := range l.files {
		s, err := openSink(name, -1)
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
	ok, _ := r.send(appendRecord(nil, 2, -1, os.Getpid()))
	l.rotated = !ok
}

// access sends a record of the access log: all parts of which a format may make a
// line, or the finished line if the parts are too long for one message.
func (r *recorder) access(a *accessLog, e *accessEntry) bool {
	b := appendRecord(a.scratch[:0], 7, 0, e.pid)
	b = append(b, marshalDict)
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
	b = appendMarshalInt(appendMarshalInt(b, e.bytes), e.duration.Microseconds())
	a.scratch = b[:0]
	ok, err := r.send(b)
	if err != unix.EMSGSIZE {
		return ok
	}
	for i := range a.pieces {
		a.piece(&a.pieces[i], e)
	}
	b = appendMarshalText(appendRecord(nil, 3, 0, e.pid), strings.ToValidUTF8(string(a.buf), "\ufffd"))
	a.buf = a.buf[:0]
	ok, _ = r.send(b)
	return ok
}

// inPython makes both logs send their records to the logger. access is nil if
// accesslog is not set, but Python's loggers may want access records nevertheless.
func (c *config) inPython(log *errorLog, access *accessLog, r *recorder) (*accessLog, error) {
	log.python, log.level = r, c.logLevel
	if access == nil {
		var err error
		if access, err = newAccessLog(sink{}, c.accessLogFormat); err != nil {
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
