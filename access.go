package main

// The access log: one line for each request, in a format with Python's %
// operator or as a JSON object.

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

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

// openAccessLog opens path for appending, or standard output for "-". The log is
// nil for "".
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

// join adds syslog to the log a. Where a is nil, join makes a log that only
// syslog receives.
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
	width   int    // least number of characters
	left    bool   // pad on the right
	limit   int    // most characters of a text, -1 for no limit
}

const (
	accessAtoms   = "hlutrsmUqHbBfaTMDLp" // atoms of one letter
	accessNumbers = "BTMD"                // atoms that may be converted as numbers
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
		a.buf = pad(a.buf, from, p)
	}
}

// accessNumber returns the value of an atom of accessNumbers.
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

// pad gives the text b[from:] the width and the limit of a conversion. Both count
// characters, as Python does.
func pad(b []byte, from int, p *accessPiece) []byte {
	n := utf8.RuneCount(b[from:])
	if p.limit >= 0 && n > p.limit {
		end := from
		for n = 0; n < p.limit; n++ {
			_, size := utf8.DecodeRune(b[end:])
			end += size
		}
		b = b[:end]
	}
	blanks := max(p.width-n, 0)
	end := len(b)
	for range blanks {
		b = append(b, ' ')
	}
	if !p.left {
		copy(b[from+blanks:], b[from:end])
		for i := range blanks {
			b[from+i] = ' '
		}
	}
	return b
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
		a.buf = appendLogText(a.buf, a.path(e))
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

// path is PATH_INFO in latin-1, valid until scratch is used again.
func (a *accessLog) path(e *accessEntry) []byte {
	a.scratch = e.req.appendPathInfo(a.scratch[:0], e.scriptName)
	path, _ := latin(a.scratch[:0], a.scratch)
	return path
}

// appendSeconds appends seconds with six decimals.
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

// appendJSON appends text as a JSON string.
func appendJSON[T []byte | string](b []byte, text T) []byte {
	return append(appendEscaped(append(b, '"'), text, inJSON), '"')
}
