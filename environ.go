package main

// The environ of PEP 3333: a request and the facts of its connection, written
// as the marshal of a Python dict. Pure functions, as in http.go. Also ids of requests, which
// applications find in the environ.

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// endpoint has the connection's part of the environ of each request.
type endpoint struct {
	unix       bool   // the listener is a unix socket
	serverName string // host of the listener, or path of the unix socket
	serverPort string
	remoteAddr string
	remotePort string   // empty for a unix socket
	https      bool     // the connection is TLS
	facts      []byte   // marshal of the environ entries about TLS
	proxy      *proxied // addresses of the PROXY header, nil without the header
}

// forwardedFor returns the client's address by X-Forwarded-For, whose fields are one list:
// the last address that is not a trusted proxy's, or the first if all are. The port is 0 if
// there is none.
func (r *request) forwardedFor(trusted trustList) (host string, port uint16) {
	var list [][]byte
	for i := range r.fields {
		if f := &r.fields[i]; len(f.name) == len("X-FORWARDED-FOR") && foldEqual(f.name, "X-FORWARDED-FOR") {
			list = slices.AppendSeq(list, elements(f.value))
		}
	}
	if trusted.all {
		list = list[:min(1, len(list))]
	}
	for i := len(list) - 1; i >= 0; i-- {
		host, port = splitForwarded(string(list[i]))
		if addr, err := netip.ParseAddr(host); err != nil || !trusted.has(addr) {
			break
		}
	}
	return host, port
}

// splitForwarded splits an element of X-Forwarded-For: an address, which a port may follow
// if the address is one of IPv4 or in brackets.
func splitForwarded(s string) (host string, port uint16) {
	if inner, ok := strings.CutPrefix(strings.TrimSuffix(s, "]"), "["); ok && len(inner)+2 == len(s) {
		return inner, 0
	}
	end := strings.LastIndexByte(s, ':')
	if end < 0 || strings.IndexByte(s, ':') < end && (s[0] != '[' || s[end-1] != ']') {
		return s, 0
	}
	n, err := strconv.ParseUint(s[end+1:], 10, 16)
	if err != nil {
		return s, 0
	}
	return strings.Trim(s[:end], "[]"), uint16(n)
}

// checkScriptName refuses a path outside of SCRIPT_NAME. The parameter is the
// value from the server's environment; a trusted peer's field takes precedence.
func (r *request) checkScriptName(scriptName string) *badRequest {
	if r.scriptName != nil {
		scriptName = string(r.scriptName)
	}
	if n := len(scriptName); len(r.path) < n || string(r.path[:n]) != scriptName {
		return badText(500, "Configuration problem: Request path "+repr(r.path)+
			" does not start with SCRIPT_NAME "+repr([]byte(scriptName))).logged()
	}
	return nil
}

// appendPathInfo appends PATH_INFO in UTF-8.
func (r *request) appendPathInfo(b []byte, scriptName string) []byte {
	skip := len(scriptName)
	if r.scriptName != nil {
		skip = len(r.scriptName)
	}
	p := r.path[min(skip, len(r.path)):]
	if bytes.IndexByte(p, '%') < 0 && isASCII(p) {
		return append(b, p...)
	}
	raw := utf8.Valid(p)
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c >= utf8.RuneSelf && !raw:
			// Gunicorn's path went through Python's unquote, which takes the byte
			// for a latin-1 character and encodes the character in UTF-8. Each of
			// the resulting bytes is a character of the environ.
			b = utf8.AppendRune(b, rune(0xc0|c>>6))
			c = 0x80 | c&0x3f
		case c == '%' && i+2 < len(p) && unhex(p[i+1]) >= 0 && unhex(p[i+2]) >= 0:
			c = byte(unhex(p[i+1])<<4 | unhex(p[i+2]))
			i += 2
		}
		b = utf8.AppendRune(b, rune(c))
	}
	return b
}

// appendUnquoted appends a path after decoding its percent escapes.
func appendUnquoted(b, p []byte) []byte {
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' && i+2 < len(p) && unhex(p[i+1]) >= 0 && unhex(p[i+2]) >= 0 {
			c = byte(unhex(p[i+1])<<4 | unhex(p[i+2]))
			i += 2
		}
		b = append(b, c)
	}
	return b
}

func (r *request) appendMarshalPath(b []byte, scriptName string) []byte {
	b = append(b, 'u', 0, 0, 0, 0)
	at := len(b)
	b = r.appendPathInfo(b, scriptName)
	binary.LittleEndian.PutUint32(b[at-4:], uint32(len(b)-at))
	return b
}

// appendEnviron appends the entries of a marshal dict that come from the
// request and its connection, without the dict's begin and end. scriptName is
// the one that checkScriptName has accepted.
func (r *request) appendEnviron(b []byte, e *endpoint, scriptName string) []byte {
	b, length := r.appendCommon(b, e, scriptName)
	return r.appendOwn(b, e, scriptName, length)
}

// appendCommon appends the entries that the client's next request will probably
// repeat. Content-Length is not appended but returned, as it usually changes.
func (r *request) appendCommon(b []byte, e *endpoint, scriptName string) (out, length []byte) {
	b = appendMarshalText(appendMarshalText(b, "REQUEST_METHOD"), r.method)
	b = appendMarshalText(appendMarshalText(b, "SERVER_PROTOCOL"), r.version)

	b = appendMarshalText(b, "SCRIPT_NAME")
	if r.scriptName != nil {
		b = appendMarshalLatin(b, r.scriptName)
	} else {
		b = appendMarshalLatin(b, scriptName)
	}

	scheme, port := "http", "80"
	if e.https && !r.schemeGiven || r.https {
		scheme, port = "https", "443"
	}
	b = appendMarshalText(appendMarshalText(b, "wsgi.url_scheme"), scheme)
	b = appendMarshalText(appendMarshalText(b, "REMOTE_ADDR"), e.remoteAddr)
	if e.proxy != nil {
		b = e.proxy.append(b)
	}
	if e.unix {
		b = appendServerFromHost(b, r.host, e.serverName, port)
	} else {
		b = appendMarshalLatin(appendMarshalText(b, "SERVER_NAME"), e.serverName)
		b = appendMarshalText(appendMarshalText(b, "SERVER_PORT"), e.serverPort)
	}
	b = append(b, e.facts...)
	if r.repeated {
		return r.appendRepeated(b), nil
	}
	for i := range r.fields {
		f := &r.fields[i]
		if length == nil && isContentLength(f.name) {
			length = f.value
			continue
		}
		b = appendMarshalLatin(appendEnvironKey(b, f.name), f.value)
	}
	return b, length
}

// appendOwn appends the entries that differ from request to request, among them
// the Content-Length that appendCommon returned.
func (r *request) appendOwn(b []byte, e *endpoint, scriptName string, length []byte) []byte {
	b = appendMarshalLatin(appendMarshalText(b, "RAW_URI"), r.target)
	b = appendMarshalLatin(appendMarshalText(b, "QUERY_STRING"), r.query)
	b = r.appendMarshalPath(appendMarshalText(b, "PATH_INFO"), scriptName)
	if e.remotePort != "" { // empty for a unix socket
		b = appendMarshalText(appendMarshalText(b, "REMOTE_PORT"), e.remotePort)
	}
	if length != nil {
		b = appendMarshalLatin(appendMarshalText(b, "CONTENT_LENGTH"), length)
	}
	return b
}

// appendOwnTuple appends the entries of appendOwn as a tuple, None for a missing
// entry, and the request's id if requests have ids. lane.py unpacks the tuple in the same order.
func (r *request) appendOwnTuple(b []byte, e *endpoint, scriptName string, length, id []byte) []byte {
	n := 5
	if len(id) > 0 {
		n++
	}
	b = appendMarshalLatin(appendMarshalTuple(b, n), r.target)
	b = r.appendMarshalPath(appendMarshalLatin(b, r.query), scriptName)
	if e.remotePort != "" {
		b = appendMarshalText(b, e.remotePort)
	} else {
		b = append(b, marshalNone)
	}
	if length != nil {
		b = appendMarshalLatin(b, length)
	} else {
		b = append(b, marshalNone)
	}
	if len(id) > 0 {
		b = appendMarshalText(b, id)
	}
	return b
}

// appendTrailer appends the fields of a trailer section as a list of pairs.
func appendTrailer(b []byte, fields []field) []byte {
	b = appendMarshalList(b, len(fields))
	for i := range fields {
		b = appendMarshalTuple(b, 2)
		b = appendMarshalText(b, bytes.ToUpper(fields[i].name))
		b = appendMarshalLatin(b, fields[i].value)
	}
	return b
}

// appendServerFromHost takes SERVER_NAME and SERVER_PORT of a unix socket from
// the Host field: PEP 3333 (environ Variables) wants both, and not empty.
func appendServerFromHost(b, host []byte, socket, scheme string) []byte {
	name, port := host, []byte(nil)
	from := max(0, bytes.IndexByte(host, ']')) // skip the colons of an IPv6 address
	if i := bytes.IndexByte(host[from:], ':'); i >= 0 {
		name, port = host[:from+i], host[from+i+1:]
	}
	b = appendMarshalText(b, "SERVER_NAME")
	switch {
	case len(name) > 0:
		b = appendMarshalLatin(b, name)
	case socket != "":
		b = appendMarshalLatin(b, socket)
	default: // an inherited socket without a path
		b = appendMarshalText(b, "localhost")
	}
	b = appendMarshalText(b, "SERVER_PORT")
	if len(port) > 0 {
		return appendMarshalLatin(b, port)
	}
	return appendMarshalText(b, scheme)
}

// appendEnvironKey appends the environ key of a field name.
func appendEnvironKey(b, name []byte) []byte {
	switch {
	case len(name) == len("CONTENT-TYPE") && foldEqual(name, "CONTENT-TYPE"):
		return appendMarshalText(b, "CONTENT_TYPE")
	case isContentLength(name):
		return appendMarshalText(b, "CONTENT_LENGTH")
	}
	b = binary.LittleEndian.AppendUint32(append(b, 'u'), uint32(len("HTTP_")+len(name)))
	b = append(b, "HTTP_"...)
	at := len(b)
	b = append(b, name...)
	for i, c := range b[at:] {
		b[at+i] = environByte[c]
	}
	return b
}

func isContentLength(name []byte) bool {
	return len(name) == len("CONTENT-LENGTH") && foldEqual(name, "CONTENT-LENGTH")
}

// appendRepeated appends fields of which some share an environ key. Their values
// are joined by commas, in the place of the first.
func (r *request) appendRepeated(b []byte) []byte {
	next := make([]int, len(r.fields)) // index of the next field with the same key, or 0
	last := make(map[string]int, len(r.fields))
	first := make([]bool, len(r.fields))
	for i := range r.fields {
		key := string(appendEnvironKey(nil, r.fields[i].name))
		j, ok := last[key]
		if first[i] = !ok; ok {
			next[j] = i
		}
		last[key] = i
	}
	for i := range r.fields {
		if !first[i] {
			continue
		}
		b = append(appendEnvironKey(b, r.fields[i].name), 'u', 0, 0, 0, 0)
		at := len(b)
		b = appendLatin(b, r.fields[i].value)
		for j := next[i]; j > 0; j = next[j] {
			b = appendLatin(append(b, ','), r.fields[j].value)
		}
		binary.LittleEndian.PutUint32(b[at-4:], uint32(len(b)-at))
	}
	return b
}

// Ids ------------------------------------------------------------------------
//
// Request ids: one for each request, by which the lines of several programs and logs about
// the request are found. The id is that of a trusted proxy if there is a well-formed one,
// and otherwise made here. The application finds the id among the header fields, in place
// of what an untrusted client may have sent under that name, and the client in the response.

const (
	idSize = 16        // random bytes of an id
	idMax  = 128       // bytes of the longest id that is taken from a proxy
	idsAt  = 4 << 10   // random bytes that are read at once, for 256 ids
	idMark = "-_.:+/=" // characters of an id beside letters and digits: enough for UUIDs, base64, traces and ULIDs
)

// ids makes request ids.
type ids struct {
	name   []byte // the setting request_id_header
	random [idsAt]byte
	left   int // bytes of random that are not used yet
}

// append appends a new id.
func (i *ids) append(b []byte) []byte {
	if i.left == 0 {
		_, _ = rand.Read(i.random[:]) // never fails
		i.left = idsAt
	}
	i.left -= idSize
	return hex.AppendEncode(b, i.random[i.left:][:idSize])
}

// wellFormedID reports whether a text can be an id: nothing in it needs to be quoted in a
// log or a header field.
func wellFormedID(b []byte) bool {
	return len(b) > 0 && len(b) <= idMax && !slices.ContainsFunc(b, func(c byte) bool {
		return !isAlphanumeric(c) && strings.IndexByte(idMark, c) < 0
	})
}

// identify gives a request its id. The field of the setting's name, of which one is left, gets
// the id as its value.
func (w *worker) identify(t *turn) {
	name := w.ids.name
	var given []byte
	n := 0
	t.req.fields = slices.DeleteFunc(t.req.fields, func(f field) bool {
		same := sameKey(f.name, name)
		if same {
			given, n = f.value, n+1
		}
		return same
	})
	if t.idName = name; n == 1 && t.conn.trusted && wellFormedID(given) {
		t.id = append(t.id[:0], given...)
	} else {
		t.id = w.ids.append(t.id[:0])
	}
	t.req.fields = append(t.req.fields, field{name, t.id})
}

// tag names the request's id for the log, "" without one.
func (t *turn) tag() string {
	if t == nil || len(t.id) == 0 {
		return ""
	}
	return " id=" + string(t.id)
}

// mark puts the request's id among the fields of its response, in place of one that the
// application has set.
func (t *turn) mark(fields []field) []field {
	if len(t.id) == 0 {
		return fields
	}
	fields = slices.DeleteFunc(fields, func(f field) bool { return foldEqual(f.name, t.idName) })
	return append(fields, field{t.idName, t.id})
}

// checkRequestID checks the setting request_id_header.
func (c *config) checkRequestID() error {
	name := []byte(c.requestIDHeader)
	switch {
	case len(name) == 0:
		return nil
	case tokenLen(name) < len(name):
		return sentence("request_id_header: %q is not the name of a header", name)
	}
	for _, taken := range []string{"HOST", "CONTENT-TYPE", "EXPECT", "COOKIE", "SET-COOKIE", "AUTHORIZATION", "LOCATION", "TE",
		"X-FORWARDED-FOR", "X-FORWARDED-PROTO"} {
		if foldEqual(name, taken) || kindOf(name) != plainField {
			return sentence("request_id_header: %q has another meaning in HTTP", name)
		}
	}
	return nil
}
