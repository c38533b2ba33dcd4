package main

// The error log, and what both logs write to. A log must never hold up serving:
// where a reader of our standard output has stalled, a disk is full or a pipe is
// closed, records are lost and counted, and clients get their responses.
//
// Text from clients is escaped, by the callers of the error log (printable) and
// by the access log (appendLogText), so that no client can forge a line.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// errorWait is how long one record of the error log waits for a slow reader:
	// long enough for a busy terminal, too short for a client to notice.
	errorWait = 100 * time.Millisecond
	// pipeAtomic is PIPE_BUF: writes up to this length do not mix with those of
	// other processes on the same pipe.
	pipeAtomic = 4096
)

// clock keeps the date texts of the current second, so that a busy worker formats
// dates once a second and not once a request.
type clock struct {
	now    time.Time // time of the last refresh
	second int64     // Unix time that the texts stand for
	http   []byte    // value of a Date field
	local  []byte    // local time as access logs write it
}

// refresh reads the wall clock once.
func (c *clock) refresh() { c.set(time.Now()) }

func (c *clock) set(now time.Time) {
	c.now = now
	second := now.Unix()
	if second == c.second && c.http != nil {
		return
	}
	c.second = second
	c.http = now.UTC().AppendFormat(c.http[:0], "Mon, 02 Jan 2006 15:04:05 GMT")
	c.local = now.AppendFormat(c.local[:0], "[02/Jan/2006:15:04:05 -0700]")
}

// httpDate returns the value of a Date field, valid until the next refresh.
func (c *clock) httpDate() []byte { return c.http }

// clf returns the local time as access logs write it, brackets included, valid
// until the next refresh.
func (c *clock) clf() []byte { return c.local }

type logLevel int

const (
	levelDebug logLevel = iota
	levelInfo
	levelWarning
	levelError
	levelCritical
)

var levelNames = [...]string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}

// parseLevel reads a level's name in any case. An unknown name means info.
func parseLevel(name string) logLevel {
	for level, n := range levelNames {
		if strings.EqualFold(n, name) {
			return logLevel(level)
		}
	}
	return levelInfo
}

// errorLog writes one line, with one write(2), for each thing that the
// operator should know. Any goroutine may use it.
type errorLog struct {
	level logLevel
	out   sink
	pid   int
	lost  atomic.Int64 // records that could not be written and were not reported yet

	syslog *syslog   // receives the records too; nil without
	statsd *statsd   // counts the records; nil without
	python *recorder // Python writes the log instead of out; nil without
}

// openErrorLog opens path for appending, or standard error for "-".
func openErrorLog(path, level string) (*errorLog, error) {
	out, err := openSink(path, unix.Stderr)
	if err != nil {
		return nil, err
	}
	return newErrorLog(out, level), nil
}

func newErrorLog(out sink, level string) *errorLog {
	return &errorLog{level: parseLevel(level), out: out, pid: os.Getpid()}
}

// join opens syslog and statsd if the settings ask for them.
func (l *errorLog) join(c *config) (err error) {
	if l.syslog, err = openSyslog(c); err != nil {
		return fmt.Errorf("syslog_addr: %w", err)
	}
	if l.syslog != nil {
		l.syslog.report = l.warningf
	}
	if l.statsd, err = openStatsd(c); err != nil {
		return fmt.Errorf("statsd_host: %w", err)
	}
	return nil
}

func (l *errorLog) enabled(level logLevel) bool { return level >= l.level }

func (l *errorLog) debugf(format string, args ...any) { l.record(levelDebug, format, args...) }

func (l *errorLog) infof(format string, args ...any) { l.record(levelInfo, format, args...) }

func (l *errorLog) warningf(format string, args ...any) { l.record(levelWarning, format, args...) }

func (l *errorLog) errorf(format string, args ...any) { l.record(levelError, format, args...) }

func (l *errorLog) criticalf(format string, args ...any) {
	l.record(levelCritical, format, args...)
}

func (l *errorLog) record(level logLevel, format string, args ...any) {
	l.statsd.logged(level)
	if !l.enabled(level) {
		return
	}
	text := fmt.Appendf(nil, format, args...)
	l.syslog.record(level, "error", text)
	if l.python != nil && l.python.record(level, l.pid, string(text)) {
		return
	}
	// Wait for a slow reader, but not while records are being lost: a client that
	// provokes warnings must not make the worker wait for each of them.
	wait := errorWait
	if lost := l.lost.Load(); lost > 0 {
		wait = 0
		notice := l.line(levelWarning, fmt.Appendf(nil, "%d records of this log were lost", lost))
		if n, _ := l.out.write(notice, wait); n == len(notice) {
			l.lost.Add(-lost)
		}
	}
	line := l.line(level, text)
	if n, _ := l.out.write(line, wait); n < len(line) {
		l.lost.Add(1)
	}
}

func (l *errorLog) line(level logLevel, text []byte) []byte {
	b := time.Now().AppendFormat(make([]byte, 0, 256), "[2006-01-02 15:04:05 -0700] ")
	b = fmt.Appendf(b, "[%d] [%s] ", l.pid, levelNames[level])
	return append(append(b, text...), '\n')
}

// reopen opens the file again by its name, after log rotation has renamed the old
// file. On failure the old file stays in use.
func (l *errorLog) reopen() error { return l.out.reopen() }

func (l *errorLog) close() {
	l.syslog.close()
	l.statsd.close()
	l.out.close()
}

// escape is a style in which appendEscaped writes unprintable characters.
type escape byte

const (
	inLine   escape = iota // bytes as \xNN; quotes and backslashes unchanged
	inQuotes               // bytes as \xNN; quotes and backslashes after a backslash
	inJSON                 // characters as \uNNNN; quotes and backslashes after a backslash
	inName                 // bytes as \NN (RFC 4514 2.4); quotes and backslashes unchanged
)

// printable escapes a client's text for the error log: control characters and
// bytes that are not UTF-8 become \xNN.
func printable[T []byte | string](text T) string {
	return string(appendEscaped(nil, text, inLine))
}

// appendLogText appends a client's text escaped for double quotes in the access
// log. Backslashes are escaped as well: otherwise a client's backslash would
// cancel the backslash that we put before a quote.
func appendLogText[T []byte | string](b []byte, text T) []byte {
	return appendEscaped(b, text, inQuotes)
}

// plainByte holds true for the bytes that need no escape in any style.
var plainByte = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendEscaped appends text from outside with unprintable characters escaped.
// A terminal would obey control characters, both ASCII's and those from U+0080
// to U+009F, and some programs would end a line at them.
func appendEscaped[T []byte | string](b []byte, text T, how escape) []byte {
	done := 0
	for i := 0; i < len(text); {
		c := text[i]
		if plainByte[c] {
			i++
			continue
		}
		r, size := rune(c), 1
		quote := c == '"' || c == '\\'
		ok := quote && (how == inLine || how == inName)
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
			ok = size > 1 && strconv.IsPrint(r)
		}
		if ok {
			i += size
			continue
		}
		b = append(b, text[done:i]...)
		done = i + size
		switch {
		case quote:
			b = append(b, '\\', c)
		case how == inJSON: // r is utf8.RuneError for a byte that is not UTF-8
			if r > 0xffff {
				r -= 0x10000
				b = appendHex(append(b, `\u`...), 0xd800+r>>10, 4, "0123456789abcdef")
				r = 0xdc00 + r&0x3ff
			}
			b = appendHex(append(b, `\u`...), r, 4, "0123456789abcdef")
		case how == inName:
			for ; i < done; i++ {
				b = appendHex(append(b, '\\'), rune(text[i]), 2, "0123456789ABCDEF")
			}
		default:
			for ; i < done; i++ {
				b = appendHex(append(b, `\x`...), rune(text[i]), 2, "0123456789abcdef")
			}
		}
		i = done
	}
	return append(b, text[done:]...)
}

func appendHex(b []byte, n rune, digits int, hex string) []byte {
	for digits--; digits >= 0; digits-- {
		b = append(b, hex[n>>(4*digits)&15])
	}
	return b
}

// sink is a descriptor to which a log is written.
type sink struct {
	fd   int
	path string // absolute path for reopening; "" for an inherited descriptor
	file bool   // fd is a regular file, which never blocks
}

// inheritSink is openSink for a worker. A file's descriptor comes from the
// arbiter, because the worker's user may lack permission to open the file.
func inheritSink(path string, fd, std int) (sink, error) {
	if path == "-" {
		return openSink(path, std)
	}
	full, err := filepath.Abs(path)
	return sink{fd: fd, path: full, file: isRegular(fd)}, err
}

// openSink opens path for appending, or the standard descriptor std for "-".
func openSink(path string, std int) (sink, error) {
	if path != "-" {
		// Keep the absolute path: the working directory may change before a reopen.
		full, err := filepath.Abs(path)
		if err != nil {
			return sink{}, fmt.Errorf("Error: %w", unwritable(path, err))
		}
		fd, err := openAppend(full)
		if err != nil {
			return sink{}, fmt.Errorf("Error: %w", unwritable(path, err))
		}
		return sink{fd: fd, path: full, file: isRegular(fd)}, nil
	}
	if isRegular(std) {
		return sink{fd: std, file: true}, nil
	}
	// Setting O_NONBLOCK on an inherited descriptor would affect every process
	// that shares it, so a pipe or a terminal is opened again. Where opening
	// fails (a socket, another user's pipe), poll alone guards against blocking.
	if fd, err := openAppend("/proc/self/fd/" + strconv.Itoa(std)); err == nil {
		return sink{fd: fd}, nil
	}
	return sink{fd: std}, nil
}

// write writes b and returns how many bytes were written. A pipe's reader is
// waited for at most wait, a disk for as long as the disk takes. The lines of
// several processes on one pipe do not mix unless longer than pipeAtomic.
func (s *sink) write(b []byte, wait time.Duration) (int, error) {
	n := 0
	for n < len(b) {
		part := b[n:]
		if !s.file {
			if poll(s.fd, unix.POLLOUT, wait) == 0 {
				return n, unix.EAGAIN
			}
			if len(part) > pipeAtomic {
				part = part[:pipeAtomic]
				if end := bytes.LastIndexByte(part, '\n'); end >= 0 {
					part = part[:end+1]
				}
			}
		}
		m, err := unix.Write(s.fd, part)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// reopen opens path and gives the new file the old descriptor's number, so that a
// concurrent write reaches either file but never a closed descriptor.
func (s *sink) reopen() error {
	if s.path == "" {
		return nil
	}
	fd, err := openAppend(s.path)
	if err != nil && !s.file {
		return nil // a device such as /dev/stdout, which nobody renames
	}
	if err != nil {
		return unwritable(s.path, err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("dup3", unix.Dup3(fd, s.fd, unix.O_CLOEXEC))
}

// give changes the file's owner to the workers' user, so that workers can open
// the file after a rotation. A file with several names is left alone: in a
// directory of the workers' user, a hard link could lead to any file.
func (s *sink) give(cred *syscall.Credential) error {
	if cred == nil || s.path == "" || !s.file {
		return nil
	}
	var open, named unix.Stat_t
	if err := unix.Fstat(s.fd, &open); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := unix.Lstat(s.path, &named); err != nil || named.Ino != open.Ino || named.Dev != open.Dev || open.Nlink != 1 {
		return nil
	}
	if err := unix.Fchown(s.fd, int(cred.Uid), int(cred.Gid)); err != nil {
		return unwritable(s.path, err)
	}
	return nil
}

// capture makes the log the standard output and standard error of this process.
// Programs do not expect O_NONBLOCK there, so a pipe is opened once more.
func (s *sink) capture() error {
	if s.path == "" {
		return nil
	}
	fd := s.fd
	if !s.file {
		var err error
		if fd, err = openAppend(s.path); err != nil {
			return unwritable(s.path, err)
		}
		defer unix.Close(fd)
		if err := unix.SetNonblock(fd, false); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	for std := unix.Stdout; std <= unix.Stderr; std++ {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	return nil
}

// shared is the descriptor for inheritSink, -1 if the sink is opened anew.
func (s *sink) shared() int {
	if s.path == "" {
		return -1
	}
	return s.fd
}

func (a *accessLog) shared() int {
	if a == nil {
		return -1
	}
	return a.out.shared()
}

// close leaves the standard descriptors to others.
func (s *sink) close() {
	if s.fd > unix.Stderr {
		unix.Close(s.fd)
	}
}

// unwritable words the error of a log that cannot be opened as Gunicorn does,
// with the name of Python's exception.
func unwritable(path string, err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("'%s' isn't writable [%w]", path, err)
	}
	class := "OSError"
	switch errno {
	case unix.ENOENT:
		class = "FileNotFoundError"
	case unix.EACCES, unix.EPERM:
		class = "PermissionError"
	case unix.EISDIR:
		class = "IsADirectoryError"
	case unix.ENOTDIR:
		class = "NotADirectoryError"
	}
	return fmt.Errorf("'%s' isn't writable [%s(%d, '%s')]", path, class, int(errno), capitalized(errno.Error()))
}

// openAppend opens path for appending. A named pipe without a reader is an error,
// because waiting for a reader would hold up the start.
func openAppend(path string) (int, error) {
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK
	for {
		fd, err := unix.Open(path, flags, 0o644)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func isRegular(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// Logs made in Python ---------------------------------------------------------

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
