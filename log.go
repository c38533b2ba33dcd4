package main

// The error log, the access log, and what both write to. A log must never hold up serving:
// where a reader of our standard output has stalled, a disk is full or a pipe is
// closed, records are lost and counted, and clients get their responses.
//
// Text from clients is escaped, by the callers of the error log (printable) and
// by the access log (appendLogText), so that no client can forge a line.

import (
	"bytes"
	"cmp"
	"encoding/base64"
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
	// pipeAtomic is PIPE_BUF: writes up to this length do not mix with the writes of
	// other processes on the same pipe.
	pipeAtomic = 4096
)

// clock keeps the date texts of the current second, so that a busy worker formats
// dates once a second and not once a request.
type clock struct {
	now    time.Time // time of the last set
	second int64     // Unix time that the texts stand for
	http   []byte    // value of a Date field
	local  []byte    // local time as access logs write it
}

// set makes the texts of a time, whose slices are valid until the next call.
func (c *clock) set(now time.Time) {
	c.now = now
	second := now.Unix()
	if second == c.second && c.http != nil {
		return
	}
	c.second = second
	c.http = now.UTC().AppendFormat(c.http[:0], httpTime)
	c.local = now.AppendFormat(c.local[:0], "[02/Jan/2006:15:04:05 -0700]")
}

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
	level := slices.Index(levelNames[:], strings.ToUpper(name))
	if level < 0 {
		return levelInfo
	}
	return logLevel(level)
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

func newErrorLog(out sink, level string) *errorLog {
	return &errorLog{level: parseLevel(level), out: out, pid: os.Getpid()}
}

// openLogs opens both logs with syslog and statsd, as far as the settings ask for them. In
// a worker, the descriptors of log files come from the arbiter, because the worker's user
// may lack permission to open the files; the arbiter gives -1.
func openLogs(c *config, errorFD, accessFD int) (log *errorLog, access *accessLog, err error) {
	out, err := openSink(c.errorlog, errorFD, unix.Stderr)
	if err != nil {
		return nil, nil, err
	}
	log = newErrorLog(out, c.loglevel)
	if c.accesslog != "" {
		if out, err = openSink(c.accesslog, accessFD, unix.Stdout); err != nil {
			return log, nil, err
		}
		if access, err = newAccessLog(out, c.accessLogFormat); err != nil {
			out.close()
			return log, nil, err
		}
	}
	if log.syslog, err = openSyslog(c); err != nil {
		return log, access, fmt.Errorf("syslog_addr: %w", err)
	}
	if log.statsd, err = openStatsd(c); err != nil {
		return log, access, fmt.Errorf("statsd_host: %w", err)
	}
	if log.syslog != nil {
		log.syslog.report = log.warningf
		if access == nil && !c.disableRedirectAccessToSyslog { // only syslog receives the access log
			access, err = newAccessLog(sink{fd: -1}, c.accessLogFormat)
		}
	}
	if access != nil {
		access.json = c.accessLogJSON
		if !c.disableRedirectAccessToSyslog {
			access.syslog = log.syslog
		}
	}
	return log, access, err
}

func (l *errorLog) debugf(format string, args ...any)   { l.record(levelDebug, format, args...) }
func (l *errorLog) infof(format string, args ...any)    { l.record(levelInfo, format, args...) }
func (l *errorLog) warningf(format string, args ...any) { l.record(levelWarning, format, args...) }
func (l *errorLog) errorf(format string, args ...any)   { l.record(levelError, format, args...) }

func (l *errorLog) criticalf(format string, args ...any) {
	l.record(levelCritical, format, args...)
}

func (l *errorLog) record(level logLevel, format string, args ...any) {
	l.statsd.logged(level)
	if level < l.level {
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

// reopenLogs opens the files of both logs again. A file that cannot be opened stays as it is.
func reopenLogs(log *errorLog, access *accessLog) {
	if err := log.reopen(); err != nil {
		log.errorf("errorlog: %v", err)
	}
	if err := access.reopen(); err != nil {
		log.errorf("accesslog: %v", err)
	}
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

// openSink opens path for appending, or uses the descriptor passed for that path, unless
// passed is -1. For "-", it opens the standard descriptor std.
func openSink(path string, passed, std int) (sink, error) {
	if path != "-" {
		// Keep the absolute path: the working directory may change before a reopen.
		full, err := filepath.Abs(path)
		if err == nil && passed < 0 {
			passed, err = openAppend(full)
		}
		if err != nil {
			return sink{}, fmt.Errorf("Error: %w", unwritable(path, err))
		}
		return sink{fd: passed, path: full, file: isRegular(passed)}, nil
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

// shared is the descriptor to pass to a worker, -1 if the sink is opened anew.
func (s *sink) shared() int {
	if s.path == "" {
		return -1
	}
	return s.fd
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
	class := map[unix.Errno]string{
		unix.ENOENT: "FileNotFoundError", unix.EACCES: "PermissionError", unix.EPERM: "PermissionError",
		unix.EISDIR: "IsADirectoryError", unix.ENOTDIR: "NotADirectoryError",
	}[errno]
	return fmt.Errorf("'%s' isn't writable [%s(%d, '%s')]", path, cmp.Or(class, "OSError"), int(errno), capitalized(errno.Error()))
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

// Access log -----------------------------------------------------------------
//
// The access log: one line for each request, in a format with Python's %
// operator or as a JSON object.

const (
	accessFlush   = 32 << 10  // bytes that are written at once instead of at the end of the loop's turn
	accessPending = 256 << 10 // bytes kept for a reader that takes none; further records are dropped
)

// accessEntry is one request, as an access log can describe it.
type accessEntry struct {
	now        *clock
	req        *request
	endpoint   *endpoint
	scriptName string        // SCRIPT_NAME from the server's environment
	parsed     bool          // the head was complete, so that there was an environ
	status     []byte        // status of the response, "200 OK"
	fields     []field       // fields of the response
	bytes      int64         // bytes of the response's body, without framing
	duration   time.Duration // from the start of the request in the application to the response's end
	pid        int           // process ID of the worker
	id         []byte        // id of the request, empty without request_id_header
}

// accessLog writes one line for each request. A nil accessLog is turned off.
// Only the worker's loop uses it.
type accessLog struct {
	out     sink
	pieces  []accessPiece // access_log_format, compiled
	buf     []byte        // records not yet written
	scratch []byte        // decoded text that is about to be escaped
	dropped int           // records dropped since the last report of recovered
	json    bool          // records are JSON objects, not lines of the format
	syslog  *syslog       // receives the records too, or alone; nil without
	python  *recorder     // Python writes the log instead of out; nil without
}

func newAccessLog(out sink, format string) (*accessLog, error) {
	pieces, err := compileAccessFormat(format)
	if err != nil {
		return nil, fmt.Errorf("access_log_format: %w", err)
	}
	return &accessLog{out: out, pieces: pieces}, nil
}

// record formats e into the buffer, which the next flush writes.
func (a *accessLog) record(e *accessEntry) {
	if a == nil {
		return
	}
	if a.python != nil {
		if !a.python.access(a, e) {
			a.dropped++
		}
		if a.syslog == nil {
			return
		}
	}
	from := len(a.buf)
	full := from >= accessPending
	if full {
		a.dropped++
		if a.syslog == nil {
			return
		}
	}
	a.format(e, a.json)
	a.put(from, full)
}

// format appends the text of e to the buffer.
func (a *accessLog) format(e *accessEntry, json bool) {
	if json {
		a.object(e)
		return
	}
	for i := range a.pieces {
		a.piece(&a.pieces[i], e)
	}
}

// put ends a record that has been appended to the buffer at from.
func (a *accessLog) put(from int, full bool) {
	a.syslog.record(levelInfo, "access", a.buf[from:])
	if full || a.out.fd < 0 {
		a.buf = a.buf[:from]
		return
	}
	a.buf = append(a.buf, '\n')
	if len(a.buf) >= accessFlush {
		a.flush()
	}
}

// text returns the text of e, valid until the next record.
func (a *accessLog) text(e *accessEntry) []byte {
	if a == nil {
		return nil
	}
	from := len(a.buf)
	a.format(e, a.json && a.python == nil)
	text := a.buf[from:]
	a.buf = a.buf[:from]
	return text
}

// line records a text that has been made before.
func (a *accessLog) line(text []byte, pid int) {
	if a == nil {
		return
	}
	if a.python != nil && !a.python.line(text, pid) || len(a.buf) >= accessPending {
		a.dropped++
		return
	}
	from := len(a.buf)
	a.buf = append(a.buf, text...)
	a.put(from, false)
}

// flush writes as much of the buffer as the descriptor takes without waiting.
func (a *accessLog) flush() {
	if a == nil || len(a.buf) == 0 {
		return
	}
	if n, _ := a.out.write(a.buf, 0); n > 0 {
		a.buf = a.buf[:copy(a.buf, a.buf[n:])]
	}
}

// recovered returns how many records were dropped, once the buffer has been
// written, for the caller to report; until then 0.
func (a *accessLog) recovered() int {
	if a == nil || len(a.buf) > 0 {
		return 0
	}
	n := a.dropped
	a.dropped = 0
	return n
}

// reopen opens the file by its name again; earlier records go to the old file.
func (a *accessLog) reopen() error {
	if a == nil {
		return nil
	}
	a.flush()
	return a.out.reopen()
}

func (a *accessLog) shared() int {
	if a == nil {
		return -1
	}
	return a.out.shared()
}

func (a *accessLog) close() {
	if a != nil {
		a.flush()
		a.out.close()
	}
}

// accessPiece is one part of a compiled access_log_format: literal text, then
// one conversion of Python's % operator.
type accessPiece struct {
	literal string
	atom    byte   // letter of accessAtoms, i, o or e; 0 for no conversion, '-' if unknown
	name    string // NAME of {NAME}i, {NAME}o and {NAME}e, in upper case
	verb    string // fmt verb for a number, empty for a plain %d or %s
	repr    bool   // the conversion of a text is %r or %a
	fit     string // fmt verb that gives a text its width and limit, empty without
}

const (
	accessAtoms   = "hlutrsmUqHbBfaTMDLpI" // atoms of one letter
	accessNumbers = "BTMD"                 // atoms that may be converted as numbers
)

// compileAccessFormat reads a template in the syntax of Python's % operator
// with a mapping as its operand. A template that Python would refuse at each
// request is refused at the start.
func compileAccessFormat(format string) ([]accessPiece, error) {
	var pieces []accessPiece
	literal := ""
	for rest := format; ; {
		text, tail, found := strings.Cut(rest, "%")
		literal += text
		if !found {
			return append(pieces, accessPiece{literal: literal}), nil
		}
		if strings.HasPrefix(tail, "%") {
			literal, rest = literal+"%", tail[1:]
			continue
		}
		p, n, err := compileConversion(tail)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", rest[len(text):], err)
		}
		p.literal, literal, rest = literal, "", tail[n:]
		pieces = append(pieces, p)
	}
}

// compileConversion reads the text after a percent sign,
// (NAME)[FLAGS][WIDTH][.PRECISION][hlL]CONVERSION, and returns its length.
func compileConversion(s string) (p accessPiece, n int, err error) {
	if !strings.HasPrefix(s, "(") {
		return p, 0, errors.New("no name in parentheses after the percent sign")
	}
	end, depth := 1, 1
	for ; depth > 0 && end < len(s); end++ {
		switch s[end] {
		case '(':
			depth++
		case ')':
			depth--
		}
	}
	if depth > 0 {
		return p, 0, errors.New("no closing parenthesis")
	}
	name, rest := s[1:end-1], s[end:]
	p.atom, p.name = accessAtom(name)
	span := func(set string) (taken string) {
		left := strings.TrimLeft(rest, set)
		taken, rest = rest[:len(rest)-len(left)], left
		return taken
	}
	const digits = "0123456789"
	flags, width, precision := span("#0- +"), span(digits), ""
	if after, ok := strings.CutPrefix(rest, "."); ok {
		rest = after
		precision = "." + span(digits)
	}
	if len(width) > 4 || len(precision) > 5 {
		return p, 0, errors.New("the width is too large")
	}
	if width+precision != "" {
		p.fit = "%" + width + precision + "s"
		if strings.Contains(flags, "-") {
			p.fit = "%-" + p.fit[1:]
		}
	}
	span("hlL")
	if rest == "" {
		return p, 0, errors.New("no conversion letter at the end")
	}
	number := strings.IndexByte(accessNumbers, p.atom) >= 0
	switch c := rest[0]; {
	case c == 's':
	case c == 'r' || c == 'a':
		p.repr = !number
	case number && strings.IndexByte("diu", c) >= 0:
		if flags+width+precision != "" {
			p.verb = "%" + flags + width + precision + "d"
		}
	case number && strings.IndexByte("oxXeEfFgG", c) >= 0:
		if precision == "" && strings.IndexByte("gG", c) >= 0 {
			precision = ".6"
		}
		p.verb = "%" + flags + width + precision + string(c)
	case strings.IndexByte("diuoxXeEfFgG", c) >= 0:
		return p, 0, fmt.Errorf("%%%c needs a number, which %q is not", c, name)
	default:
		return p, 0, fmt.Errorf("%q is no conversion", c)
	}
	return p, len(s) - len(rest) + 1, nil
}

// accessAtom reads the name of an atom. Names in braces ignore case.
func accessAtom(key string) (atom byte, name string) {
	if len(key) == 1 && strings.Contains(accessAtoms, key) {
		return key[0], ""
	}
	if n := len(key); n > 3 && key[0] == '{' && key[n-2] == '}' {
		if kind := key[n-1] | 0x20; strings.IndexByte("ioe", kind) >= 0 {
			return kind, strings.ToUpper(key[1 : n-2])
		}
	}
	return '-', ""
}

func (a *accessLog) piece(p *accessPiece, e *accessEntry) {
	a.buf = append(a.buf, p.literal...)
	if p.atom == 0 {
		return
	}
	if p.verb != "" {
		n := accessNumber(p.atom, e)
		if strings.IndexByte("doxX", p.verb[len(p.verb)-1]) >= 0 {
			a.buf = fmt.Appendf(a.buf, p.verb, n)
		} else {
			a.buf = fmt.Appendf(a.buf, p.verb, float64(n))
		}
		return
	}
	from := len(a.buf)
	if p.repr {
		a.buf = append(a.buf, '\'')
	}
	at := len(a.buf)
	if !a.value(p, e) {
		a.buf = append(a.buf[:at], '-')
	}
	if p.repr {
		a.buf = append(a.buf, '\'')
	}
	if p.fit != "" {
		a.buf = fmt.Appendf(a.buf[:from], p.fit, string(a.buf[from:])) // both count characters, as Python does
	}
}

func accessNumber(atom byte, e *accessEntry) int64 {
	switch atom {
	case 'b', 'B':
		return e.bytes
	case 'T':
		return int64(e.duration / time.Second)
	case 'M':
		return e.duration.Milliseconds()
	}
	return e.duration.Microseconds()
}

// value appends the text of one atom. It returns false for an atom without a
// value, which the log shows as a dash.
func (a *accessLog) value(p *accessPiece, e *accessEntry) bool {
	r := e.req
	switch p.atom {
	case 'h':
		a.buf = appendLogText(a.buf, e.endpoint.remoteAddr)
	case 'u':
		if !e.parsed {
			return false
		}
		name := a.userName(r.fields)
		a.buf = appendLogText(a.buf, name)
		return len(name) > 0
	case 't':
		a.buf = append(a.buf, e.now.local...)
	case 'r':
		a.buf = append(appendLogText(a.buf, r.method), ' ')
		a.buf = append(appendLogText(a.buf, r.target), ' ')
		a.buf = appendLogText(a.buf, r.version)
	case 's':
		status, _, _ := bytes.Cut(e.status, []byte(" "))
		a.buf = appendLogText(a.buf, status)
	case 'm':
		a.buf = appendLogText(a.buf, r.method)
	case 'U':
		if !e.parsed {
			a.buf = append(a.buf, "None"...)
			return true
		}
		a.buf = appendLogText(a.buf, a.path(e))
	case 'q':
		a.buf = appendLogText(a.buf, r.query)
	case 'H':
		a.buf = appendLogText(a.buf, r.version)
	case 'b', 'B', 'T', 'M', 'D':
		a.buf = strconv.AppendInt(a.buf, accessNumber(p.atom, e), 10)
	case 'f':
		return e.parsed && a.joinedFields(r.fields, "REFERER")
	case 'a':
		return e.parsed && a.joinedFields(r.fields, "USER-AGENT")
	case 'L':
		a.buf = appendSeconds(a.buf, e.duration)
	case 'p':
		a.buf = append(a.buf, '<')
		a.buf = strconv.AppendInt(a.buf, int64(e.pid), 10)
		a.buf = append(a.buf, '>')
	case 'I':
		a.buf = append(a.buf, e.id...)
		return len(e.id) > 0
	case 'i':
		return a.lastField(r.fields, p.name)
	case 'o':
		return a.lastField(e.fields, p.name)
	case 'e':
		return a.environ(p.name, e)
	default:
		return false
	}
	return true
}

// path is PATH_INFO in latin-1, valid until scratch is used again.
func (a *accessLog) path(e *accessEntry) []byte {
	a.scratch = e.req.appendPathInfo(a.scratch[:0], e.scriptName)
	path, _ := latin(a.scratch[:0], a.scratch)
	return path
}

func appendSeconds(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, d.Truncate(time.Microsecond).Seconds(), 'f', 6, 64)
}

// userName is the name in Basic credentials, nil without credentials; valid until
// scratch is used again.
func (a *accessLog) userName(fields []field) []byte {
	const scheme = "basic "
	for i := range fields {
		f := &fields[i]
		if !foldEqual(f.name, "AUTHORIZATION") {
			continue
		}
		v := f.value
		if len(v) < len(scheme) || !strings.EqualFold(string(v[:len(scheme)]), scheme) {
			return nil
		}
		var err error
		a.scratch, err = base64.StdEncoding.AppendDecode(a.scratch[:0], bytes.TrimSpace(v[len(scheme):]))
		name, _, _ := bytes.Cut(a.scratch, []byte(":"))
		if err != nil || len(name) == 0 || !utf8.Valid(name) {
			return nil
		}
		return name
	}
	return nil
}

// lastField returns the value of the last field of a name, given in upper case.
func lastField(fields []field, name string) (value []byte, ok bool) {
	for i := len(fields) - 1; i >= 0; i-- {
		if foldEqual(fields[i].name, name) {
			return fields[i].value, true
		}
	}
	return nil, false
}

// lastField appends the value of the last field of a name, if there is one.
func (a *accessLog) lastField(fields []field, name string) bool {
	v, ok := lastField(fields, name)
	a.buf = appendLogText(a.buf, v)
	return ok
}

// joinedFields appends the values of all fields of a name, given in upper case,
// joined by commas as in the environ.
func (a *accessLog) joinedFields(fields []field, name string) bool {
	found := false
	for i := range fields {
		if !foldEqual(fields[i].name, name) {
			continue
		}
		if found {
			a.buf = append(a.buf, ',')
		}
		a.buf = appendLogText(a.buf, fields[i].value)
		found = true
	}
	return found
}

// environ appends the value of an environ key, given in upper case, as the
// application received it. Values that the application adds stay in Python.
func (a *accessLog) environ(name string, e *accessEntry) bool {
	if !e.parsed {
		return false
	}
	a.scratch = e.req.appendEnviron(a.scratch[:0], e.endpoint, e.scriptName)
	for r := (marshalReader{b: a.scratch}); len(r.b) > 0; {
		key, value := r.text(), r.text()
		if foldEqual(key, name) {
			value, _ = latin(value[:0], value)
			a.buf = appendLogText(a.buf, value)
			return true
		}
	}
	return false
}

// object appends e as a JSON object. The manual names the keys, and other
// programs read them: neither the keys nor their order may change.
func (a *accessLog) object(e *accessEntry) {
	r := e.req
	b := e.now.now.AppendFormat(append(a.buf, `{"time":"`...), "2006-01-02T15:04:05.000Z07:00")
	b = appendJSONOrNull(append(b, `","remote_addr":`...), e.endpoint.remoteAddr)
	var user []byte
	if e.parsed {
		user = a.userName(r.fields)
	}
	b = appendJSONOrNull(append(b, `,"remote_user":`...), user)
	b = appendJSONOrNull(append(b, `,"method":`...), r.method)
	b = appendJSONOrNull(append(b, `,"target":`...), r.target)
	b = append(b, `,"path":`...)
	if e.parsed {
		b = appendJSON(b, a.path(e))
	} else {
		b = append(b, "null"...)
	}
	b = appendJSONOrNull(append(b, `,"query":`...), r.query)
	b = appendJSONOrNull(append(b, `,"protocol":`...), r.version)
	b = appendJSONField(append(b, `,"host":`...), e, "HOST")
	b = append(b, `,"status":`...)
	if status, _, _ := bytes.Cut(e.status, []byte(" ")); len(bytes.Trim(status, "0123456789")) == 0 && len(status) == 3 && status[0] != '0' {
		b = append(b, status...)
	} else {
		b = append(b, "null"...)
	}
	b = strconv.AppendInt(append(b, `,"bytes":`...), e.bytes, 10)
	b = appendSeconds(append(b, `,"duration":`...), e.duration)
	b = appendJSONField(append(b, `,"referer":`...), e, "REFERER")
	b = appendJSONField(append(b, `,"user_agent":`...), e, "USER-AGENT")
	b = strconv.AppendInt(append(b, `,"worker":`...), int64(e.pid), 10)
	if len(e.id) > 0 {
		b = append(append(append(b, `,"request_id":"`...), e.id...), '"')
	}
	a.buf = append(b, '}')
}

// appendJSONField appends the value of the request's last field of a name, which
// is given in upper case, or null.
func appendJSONField(b []byte, e *accessEntry, name string) []byte {
	if v, ok := lastField(e.req.fields, name); e.parsed && ok {
		return appendJSON(b, v)
	}
	return append(b, "null"...)
}

// appendJSONOrNull appends text as a JSON string, or null for an empty text.
func appendJSONOrNull[T []byte | string](b []byte, text T) []byte {
	if len(text) == 0 {
		return append(b, "null"...)
	}
	return appendJSON(b, text)
}

func appendJSON[T []byte | string](b []byte, text T) []byte {
	return append(appendEscaped(append(b, '"'), text, inJSON), '"')
}
