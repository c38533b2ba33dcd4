package main

// The error log and the access log. A log must never hold up serving: a
// reader of our standard output that has stalled, a full disk or a closed pipe
// costs records, which are counted, and never costs a client its answer.
//
// Text that a client sent is escaped before it gets here (error log, see
// printable) or here (access log), so nobody outside can forge a line.

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	accessFlush   = 32 << 10  // bytes of the access log that are written without waiting for the loop's end
	accessPending = 256 << 10 // bytes kept for a descriptor that takes none; further records are dropped
	errorWait     = 100 * time.Millisecond
	pipeAtomic    = 4096 // PIPE_BUF: what several writers of one pipe can write without mixing
)

// clock keeps the texts of the current second, so that a busy worker formats
// a date once a second and not once a request.
type clock struct {
	now    time.Time // of the last refresh
	second int64     // that the texts are for
	http   []byte
	local  []byte
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

// httpDate returns the value of a Date field. It changes with the next refresh.
func (c *clock) httpDate() []byte { return c.http }

// clf returns the local time as access logs write it, brackets included. It
// changes with the next refresh.
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

// parseLevel takes a name in any case; what is no name counts as info.
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
	lost  atomic.Int64 // records since the last one that could be written

	syslog *syslog   // gets the records too
	statsd *statsd   // gets their number
	python *recorder // gets the records instead (logger.go)
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

// join opens what else gets records.
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
	l.syslog.error(level, format, args...)
	if l.python != nil && l.python.record(level, l.pid, fmt.Sprintf(format, args...)) {
		return
	}
	// A reader that is merely slow is waited for, once: while records are being
	// lost a client that provokes warnings must not make each of them wait.
	wait := errorWait
	if lost := l.lost.Load(); lost > 0 {
		wait = 0
		notice := l.line(levelWarning, "%d records of this log were lost", lost)
		if n, _ := l.out.write(notice, wait); n == len(notice) {
			l.lost.Add(-lost)
		}
	}
	line := l.line(level, format, args...)
	if n, _ := l.out.write(line, wait); n < len(line) {
		l.lost.Add(1)
	}
}

func (l *errorLog) line(level logLevel, format string, args ...any) []byte {
	b := time.Now().AppendFormat(make([]byte, 0, 256), "[2006-01-02 15:04:05 -0700] ")
	b = fmt.Appendf(b, "[%d] [%s] ", l.pid, levelNames[level])
	return append(fmt.Appendf(b, format, args...), '\n')
}

// reopen opens the file again by its name, after somebody renamed it. When
// that fails the old file stays in use.
func (l *errorLog) reopen() error { return l.out.reopen() }

func (l *errorLog) close() {
	l.syslog.close()
	l.statsd.close()
	l.out.close()
}

// accessEntry is what an access log can tell of one request.
type accessEntry struct {
	now        *clock
	req        *request
	endpoint   *endpoint
	scriptName string // of the server's environment, as appendEnviron takes it
	parsed     bool   // the head was read whole, so that there was an environ
	status     []byte // "200 OK"
	fields     []field
	bytes      int64 // of the response's body, without framing
	duration   time.Duration
	pid        int
}

// accessLog writes one line for each request. A nil accessLog is one that is
// turned off. Only the worker's loop uses it.
type accessLog struct {
	out     sink
	pieces  []accessPiece
	buf     []byte
	scratch []byte // for what is decoded before it is escaped
	dropped int    // records, since recovered last told of some
	json    bool
	syslog  *syslog   // gets the records too, or alone
	python  *recorder // gets them, and then no file does (logger.go)
}

// openAccessLog opens path for appending, standard output for "-", nothing
// for "".
func openAccessLog(path, format string) (*accessLog, error) {
	if path == "" {
		return nil, nil
	}
	out, err := openSink(path, unix.Stdout)
	if err != nil {
		return nil, err
	}
	a, err := newAccessLog(out, format)
	if err != nil {
		out.close()
	}
	return a, err
}

func newAccessLog(out sink, format string) (*accessLog, error) {
	pieces, err := compileAccessFormat(format)
	if err != nil {
		return nil, fmt.Errorf("access_log_format: %w", err)
	}
	return &accessLog{out: out, pieces: pieces}, nil
}

// join makes a the log that the settings want: in syslog too, or there alone.
func (a *accessLog) join(c *config, s *syslog) (*accessLog, error) {
	if c.accessOffSyslog {
		s = nil
	}
	if a == nil && s != nil {
		var err error
		if a, err = newAccessLog(sink{fd: -1}, c.accessLogFormat); err != nil {
			return nil, err
		}
	}
	if a != nil {
		a.syslog, a.json = s, c.accessLogJSON
	}
	return a, nil
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
	if a.json {
		a.object(e)
	} else {
		for i := range a.pieces {
			a.piece(&a.pieces[i], e)
		}
	}
	a.syslog.access(a.buf[from:])
	if full || a.out.fd < 0 {
		a.buf = a.buf[:from]
		return
	}
	a.buf = append(a.buf, '\n')
	if len(a.buf) >= accessFlush {
		a.flush()
	}
}

// flush writes what it can without waiting. The rest is kept for the next
// time.
func (a *accessLog) flush() {
	if a == nil {
		return
	}
	a.syslog.flush()
	if len(a.buf) == 0 {
		return
	}
	if n, _ := a.out.write(a.buf, 0); n > 0 {
		a.buf = a.buf[:copy(a.buf, a.buf[n:])]
	}
}

// recovered returns how many records were dropped once everything else could
// be written, for the caller to say so; otherwise 0.
func (a *accessLog) recovered() int {
	if a == nil || len(a.buf) > 0 {
		return 0
	}
	n := a.dropped
	a.dropped = 0
	return n
}

// reopen is the errorLog's; records made before it go to the old file.
func (a *accessLog) reopen() error {
	if a == nil {
		return nil
	}
	a.flush()
	return a.out.reopen()
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
	atom    byte   // 0 none, a letter of the table of atoms, '-' one that is unknown
	name    string // of {NAME}i, {NAME}o and {NAME}e, in upper case
	verb    string // of fmt, for a number that is not a plain %d or %s
	repr    bool   // %r and %a of text
	width   int
	left    bool
	limit   int // precision: characters of text; -1 all
}

// accessAtoms are those without a name; the numbers among them may be
// converted like numbers.
const (
	accessAtoms   = "hlutrsmUqHbBfaTMDLp"
	accessNumbers = "BTMD"
)

// compileAccessFormat reads a template in the syntax of Python's % operator
// with a mapping on its right. What Python would refuse at each request is
// refused here.
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

// compileConversion reads what follows a percent sign and returns its length:
// (NAME)[FLAGS][WIDTH][.PRECISION][hlL]CONVERSION.
func compileConversion(s string) (p accessPiece, n int, err error) {
	if !strings.HasPrefix(s, "(") {
		return p, 0, errors.New("no name in parentheses after the percent sign")
	}
	end, depth := 0, 0
	for ; end < len(s); end++ {
		if s[end] == '(' {
			depth++
		} else if s[end] == ')' {
			depth--
		}
		if depth == 0 {
			break
		}
	}
	if depth != 0 {
		return p, 0, errors.New("no closing parenthesis")
	}
	p.atom, p.name = accessAtom(s[1:end])
	i := end + 1
	span := func(set string) string {
		from := i
		for i < len(s) && strings.IndexByte(set, s[i]) >= 0 {
			i++
		}
		return s[from:i]
	}
	const digits = "0123456789"
	flags, width, precision := span("#0- +"), span(digits), ""
	p.limit = -1
	if i < len(s) && s[i] == '.' {
		i++
		precision = "." + span(digits)
		p.limit, _ = strconv.Atoi(precision[1:])
	}
	if len(width) > 4 || len(precision) > 5 {
		return p, 0, errors.New("the width is too large")
	}
	p.width, _ = strconv.Atoi(width)
	p.left = strings.Contains(flags, "-")
	span("hlL")
	if i == len(s) {
		return p, 0, errors.New("no conversion letter at the end")
	}
	number := strings.IndexByte(accessNumbers, p.atom) >= 0
	switch c := s[i]; {
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
		return p, 0, fmt.Errorf("%%%c needs a number, which %q is not", c, s[1:end])
	default:
		return p, 0, fmt.Errorf("%q is no conversion", c)
	}
	return p, i + 1, nil
}

// accessAtom reads the name of an atom. Those in braces have no case.
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

// piece appends one literal and one value to the buffer.
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
	if p.width > 0 || p.limit >= 0 {
		a.buf = fit(a.buf, from, p)
	}
}

// accessNumber returns the value of one of accessNumbers.
func accessNumber(atom byte, e *accessEntry) int64 {
	switch atom {
	case 'B':
		return e.bytes
	case 'T':
		return int64(e.duration / time.Second)
	case 'M':
		return e.duration.Milliseconds()
	}
	return e.duration.Microseconds()
}

// fit makes the text from a position on as wide as a conversion asks for.
// Python counts characters, and so does this.
func fit(b []byte, from int, p *accessPiece) []byte {
	n := utf8.RuneCount(b[from:])
	if p.limit >= 0 && n > p.limit {
		end := from
		for n = 0; n < p.limit; n++ {
			_, size := utf8.DecodeRune(b[end:])
			end += size
		}
		b = b[:end]
	}
	pad := max(p.width-n, 0)
	end := len(b)
	for range pad {
		b = append(b, ' ')
	}
	if !p.left {
		copy(b[from+pad:], b[from:end])
		for i := range pad {
			b[from+i] = ' '
		}
	}
	return b
}

// value appends the text of one atom, or says that there is none.
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
		a.buf = append(a.buf, e.now.clf()...)
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
		a.scratch = r.appendPathInfo(a.scratch[:0], e.scriptName)
		path, _ := latin(a.scratch[:0], a.scratch)
		a.buf = appendLogText(a.buf, path)
	case 'q':
		a.buf = appendLogText(a.buf, r.query)
	case 'H':
		a.buf = appendLogText(a.buf, r.version)
	case 'b':
		a.buf = strconv.AppendInt(a.buf, e.bytes, 10)
	case 'B', 'T', 'M', 'D':
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

// appendSeconds appends seconds with six decimals.
func appendSeconds(b []byte, d time.Duration) []byte {
	micros := d.Microseconds()
	b = strconv.AppendInt(b, micros/1e6, 10)
	dot := len(b)
	b = strconv.AppendInt(b, 1e6+micros%1e6, 10)
	b[dot] = '.' // in place of the 1 that kept the zeros
	return b
}

// userName is the name in Basic credentials, nil without one. It lasts until
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

// lastField appends the value of the last field of that name, which is in
// upper case.
func (a *accessLog) lastField(fields []field, name string) bool {
	for i := len(fields) - 1; i >= 0; i-- {
		if foldEqual(fields[i].name, name) {
			a.buf = appendLogText(a.buf, fields[i].value)
			return true
		}
	}
	return false
}

// joinedFields appends the values of all fields of that name, which is in
// upper case, as the environ joins them.
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

// environ appends what the application finds in its environ under name, which
// is in upper case. What the application itself puts there stays in Python.
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

// escape is how appendEscaped writes what may not stand as it is.
type escape byte

const (
	inLine   escape = iota // bytes as \xNN; quotes and backslashes stay
	inQuotes               // bytes as \xNN; a backslash before a quote and a backslash
	inJSON                 // characters as \uNNNN; the same
	inName                 // bytes as \NN, as RFC 4514 2.4 has them; quotes and backslashes stay
)

// printable returns text from a client as it may stand in the error log:
// control characters and bytes that are not UTF-8 as \xNN.
func printable[T []byte | string](text T) string {
	return string(appendEscaped(nil, text, inLine))
}

// appendLogText appends text as it may stand between double quotes in the
// access log. The backslash is escaped too: a client's own backslash would
// otherwise disarm the one that is put before its quote.
func appendLogText[T []byte | string](b []byte, text T) []byte {
	return appendEscaped(b, text, inQuotes)
}

// plainByte tells which bytes need no escape, wherever they are.
var plainByte = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendEscaped is the way of all text from outside into logs and variables.
// What is not printable, as control characters of ASCII and of Unicode's second
// 128 are not, would be obeyed by a terminal or end a line for some program.
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

// sink is a descriptor that takes log records.
type sink struct {
	fd   int
	path string // to open again; "" for a descriptor we were started with
	file bool   // a regular file, which is always ready
}

// inheritSink is openSink for a worker: a file is the arbiter's descriptor, as
// the worker's user need not have the right to open it.
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
		// The working directory may change before somebody asks for a reopen.
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
	// O_NONBLOCK on the descriptor we were given would be felt by whoever
	// else has it, so a pipe or a terminal is opened once more. Where that is
	// not allowed (a socket, another user's pipe) poll alone has to do.
	if fd, err := openAppend("/proc/self/fd/" + strconv.Itoa(std)); err == nil {
		return sink{fd: fd}, nil
	}
	return sink{fd: std}, nil
}

// write writes b and returns how much went out. It waits for a reader only
// while wait lasts, for a disk as long as the disk takes. The lines of several
// processes on one pipe stay whole unless they are longer than pipeAtomic.
func (s *sink) write(b []byte, wait time.Duration) (int, error) {
	n := 0
	for n < len(b) {
		part := b[n:]
		if !s.file {
			if err := pollWrite(s.fd, wait); err != nil {
				return n, err
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

// reopen puts the file that has the name now under the number of the old
// descriptor, so that a write in another thread meets one or the other.
func (s *sink) reopen() error {
	if s.path == "" {
		return nil
	}
	fd, err := openAppend(s.path)
	if err != nil && !s.file {
		return nil // /dev/stdout, say, which nobody renames
	}
	if err != nil {
		return unwritable(s.path, err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("dup3", unix.Dup3(fd, s.fd, unix.O_CLOEXEC))
}

// give makes the file the user's that workers switch to, who opens it again
// after a rotation. A file that has other names is left as it is: in a
// directory of that user's they could be made to lead to any file.
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

// capture makes what has the name the standard output and standard error of
// this process, which are not to be O_NONBLOCK like ours.
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

// passed is the descriptor for inheritSink, or another if that needs none.
func (s *sink) passed(other int) uintptr {
	if s.path == "" {
		return uintptr(other)
	}
	return uintptr(s.fd)
}

func (a *accessLog) passed(other int) uintptr {
	if a == nil {
		return uintptr(other)
	}
	return a.out.passed(other)
}

// close leaves the standard descriptors to others.
func (s *sink) close() {
	if s.fd > unix.Stderr {
		unix.Close(s.fd)
	}
}

// unwritable words the error of a log that cannot be opened as people know it
// from Python.
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
	text := errno.Error()
	text = strings.ToUpper(text[:1]) + text[1:]
	return fmt.Errorf("'%s' isn't writable [%s(%d, '%s')]", path, class, int(errno), text)
}

// openAppend does not wait for the reader of a named pipe: without one, it is
// an error.
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

// pollWrite returns nil when fd takes bytes and EAGAIN when it does not within
// wait. Signals are rare enough for a wait to begin again after one.
func pollWrite(fd int, wait time.Duration) error {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		n, err := unix.Poll(fds[:], int(wait.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EAGAIN
		}
		return err
	}
}
