package main

// Heads of HTTP/1.1 requests as pure functions: bytes to a parsed head. No function
// here uses a descriptor, a clock or a log, and parsing an ordinary request allocates
// nothing: the parts of a request are slices of the caller's buffer.
//
// The parser refuses many messages that RFC 9112 lets a server repair. A proxy
// in front may read a doubtful message differently, and the difference is a
// second request that only one of the two sees.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// longestLine bounds the request line when limit_request_line is 0, because
	// one client could fill the memory: 128 times the largest limit.
	longestLine = 1 << 20
	// maxLineLimit caps limit_request_line, as Gunicorn does.
	maxLineLimit = 8190
	// maxFieldsLimit caps limit_request_fields, as Gunicorn does.
	maxFieldsLimit = 32768
	// defaultFieldSize stands in for limit_request_field_size 0 where the size
	// of a whole head is bounded.
	defaultFieldSize = 8190
	// maxQuoted bounds how much of a bad line an error message repeats: the
	// length of the longest line within limit_request_line.
	maxQuoted = 8190
	// maxServerName bounds the server name in a TLS handshake (RFC 1035 2.3.4).
	maxServerName = 255
	// fewFields is how many fields are compared one by one to find duplicates,
	// a little more than the default limit of 100. appendRepeated handles longer
	// lists with a map.
	fewFields = 128
)

// environByte maps a byte of a field name to the byte of its environ key, and
// every byte that is no token character to zero.
var environByte = func() (t [256]byte) {
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = byte(c-'a'+'A'), byte(c-'a'+'A')
	}
	for _, c := range "!#$%&'*+.^_`|~0123456789" {
		t[c] = byte(c)
	}
	t['-'] = '_'
	return t
}()

// field is one header field. Both slices belong to the buffer that was parsed.
type field struct {
	name  []byte // name as received; strip_header_spaces cuts blanks before the colon
	value []byte // value without surrounding blanks
}

// request is one parsed head. Its slices belong to the buffer that was parsed;
// reset empties the request for the next head and keeps the allocated memory.
type request struct {
	method        []byte  // request method, after casefold_http_method
	target        []byte  // request target exactly as received
	path          []byte  // path part of the target, not decoded
	query         []byte  // query part of the target, without the question mark
	version       []byte  // protocol version as received, "HTTP/1.1"
	minor         int     // minor version for the response's framing: 0 or 1
	fields        []field // header fields that the application may see
	contentLength int64   // value of Content-Length, -1 without the field
	chunked       bool    // the body is chunked
	expect        bool    // the client waits for 100 Continue (HTTP/1.1 only)
	keepAlive     bool    // the client wants the connection to persist
	https         bool    // a trusted peer's secure_scheme_headers say https
	schemeGiven   bool    // https was set by a field, not by the connection
	scriptName    []byte  // SCRIPT_NAME field of a trusted peer, nil without one
	host          []byte  // value of Host, nil without the field
	authority     []byte  // authority of a target in absolute form

	blank    int    // length of an empty line before the request line
	line     int    // length of the request line with its CRLF, 0 until parsed
	scanned  int    // bytes of the buffer already searched for a line's end
	names    uint64 // bit set of hashes of the fields' environ keys
	repeated bool   // two fields may have the same environ key
	upper    []byte // scratch: a field name in upper case
	closes   bool   // a Connection field has the option close
	persists bool   // a Connection field has the option keep-alive
	upgrades bool   // a Connection field has the option upgrade
	streamed bool   // the request is a stream of HTTP/2, so that its version is 2.0
	tunnel   bool   // the stream asks for a WebSocket (RFC 8441)
}

// reset prepares r for the next head.
func (r *request) reset() {
	*r = request{fields: r.fields[:0], upper: r.upper[:0], contentLength: -1}
}

// parse reads one head at the start of buf. n > 0 is the length of a complete
// head; n == 0 without an error asks for more bytes. The caller then passes buf
// again, longer and perhaps at another address, with the same bytes in front:
// between calls r keeps only offsets, so that a head that arrives byte by byte
// is scanned once. The request line is judged as soon as the line is complete,
// the fields when the head is.
//
// trusted means that the peer is in forwarded_allow_ips. casefold_http_method
// and permit_obsolete_folding rewrite parts of buf, so that a second parse of
// buf gives the same request.
func (r *request) parse(buf []byte, c *config, trusted bool) (n int, err *badRequest) {
	judged := r.line > 0
	if !judged && r.blank == 0 && bytes.HasPrefix(buf, []byte("\r\n")) {
		r.blank, r.scanned = 2, 0 // one empty line, which some clients send behind a body, is ignored (RFC 9112 2.2)
	}
	buf = buf[r.blank:]
	if !judged {
		if r.line, err = r.findLine(buf, c); r.line == 0 {
			return 0, err
		}
		if err = r.parseLine(buf[:r.line-2], c); err != nil {
			return 0, err
		}
		r.scanned = r.line - 2
	}
	bound := c.headBound()
	i := bytes.Index(buf[r.scanned:], []byte("\r\n\r\n"))
	if i < 0 {
		if bareLF(buf, r.scanned) {
			return 0, badText(400, bareText)
		}
		r.scanned = max(r.scanned, len(buf)-3)
		if len(buf)-r.line > bound {
			return 0, badLimit("max buffer headers")
		}
		return 0, nil
	}
	end := r.scanned + i + 2 // of the last field's CRLF
	if end+2-r.line > bound {
		return 0, badLimit("max buffer headers")
	}
	if judged {
		r.parseLine(buf[:r.line-2], c) // buf may have moved
	}
	if err = r.parseFields(buf[r.line:end], c, trusted, false); err != nil {
		if bareLF(buf[:end], r.line) { // the same text as when the head comes in pieces
			err = badText(400, bareText)
		}
		return 0, err
	}
	if err = r.frame(); err != nil {
		return 0, err
	}
	return r.blank + end + 2, nil
}

const bareText = "Invalid HTTP Header: 'bare LF as line terminator'"

// bareLF reports whether a line that ends in b[at:] ends with LF alone. A client that ends
// lines so has perhaps sent its whole head, and no CRLF would ever come.
func bareLF(b []byte, at int) bool {
	for ; ; at++ {
		i := bytes.IndexByte(b[at:], '\n')
		if at += i; i < 0 || b[at-1] != '\r' {
			return i >= 0
		}
	}
}

// headBound is the largest size of the fields of one head, in bytes.
func (c *config) headBound() int {
	size := c.limitRequestFieldSize
	if size <= 0 {
		size = defaultFieldSize
	}
	return c.fieldsLimit()*(min(size, math.MaxInt32)+2) + 4
}

func (c *config) fieldsLimit() int {
	if c.limitRequestFields <= 0 {
		return maxFieldsLimit
	}
	return min(c.limitRequestFields, maxFieldsLimit)
}

// findLine returns the length of the request line with its CRLF, 0 while the
// line is incomplete.
func (r *request) findLine(buf []byte, c *config) (int, *badRequest) {
	limit := longestLine
	if c.limitRequestLine > 0 {
		limit = min(c.limitRequestLine, maxLineLimit)
	}
	i := bytes.IndexByte(buf[r.scanned:], '\n')
	if i >= 0 {
		i += r.scanned - 1
		if i < 0 || buf[i] != '\r' {
			return 0, badLine("Invalid Request Line", "Invalid HTTP request line: ", "'bare LF as line terminator'")
		}
		if i > limit {
			return 0, badLineLimit(i, limit)
		}
		return i + 2, nil
	}
	if len(buf)-2 > limit {
		return 0, badLineLimit(len(buf), limit)
	}
	r.scanned = len(buf)
	return 0, nil
}

// indexCRLF returns where the first CR LF begins, or -1.
func indexCRLF(b []byte) int {
	for i := 0; ; i++ {
		j := bytes.IndexByte(b[i:], '\r')
		if i += j; j < 0 || i+1 == len(b) {
			return -1
		}
		if b[i+1] == '\n' {
			return i
		}
	}
}

func (r *request) parseLine(line []byte, c *config) *badRequest {
	i := bytes.IndexByte(line, ' ')
	j := bytes.IndexByte(line[i+1:], ' ')
	if i < 0 || j < 0 {
		return badLine("Invalid Request Line", "Invalid HTTP request line: ", repr(line))
	}
	r.method, r.target, r.version = line[:i:i], line[i+1:i+1+j], line[i+j+2:]
	if !validMethod(r.method, c.permitUnconventionalHTTPMethod) {
		return badLine("Invalid Method", "Invalid HTTP method: ", repr(r.method))
	}
	if c.casefoldHTTPMethod {
		for i, ch := range r.method {
			r.method[i] = upper(ch)
		}
	}
	if !r.splitTarget() {
		return badLine("Invalid Request Line", "Invalid HTTP request line: ", repr(line))
	}
	return r.parseVersion(c.permitUnconventionalHTTPVersion || r.streamed)
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	return c
}

// validMethod accepts tokens that look like registered methods, and any token
// if unconventional methods are permitted.
func validMethod(m []byte, unconventional bool) bool {
	if len(m) == 0 || !unconventional && (len(m) < 3 || len(m) > 20) {
		return false
	}
	for _, c := range m {
		if environByte[c] == 0 || !unconventional && (c == '#' || 'a' <= c && c <= 'z') {
			return false
		}
	}
	return true
}

// splitTarget checks the four forms of RFC 9112 3.2 against the method. Path
// and query are split as Python's urlsplit does, because Gunicorn's
// applications see urlsplit's parts: the fragment is dropped, and so is a
// CONNECT target's host where the host looks like a URL scheme.
func (r *request) splitTarget() bool {
	t := r.target
	for i := 0; i < len(t); {
		c, size := rune(t[i]), 1
		if c >= utf8.RuneSelf {
			if wide, n := utf8.DecodeRune(t[i:]); n > 1 {
				c, size = wide, n
			}
		}
		// Applications log targets, so a target must have no control characters:
		// neither ASCII's nor those from U+0080 on, in UTF-8 or as single bytes.
		if c <= ' ' || 0x7f <= c && c < 0xa0 {
			return false
		}
		i += size
	}
	switch {
	case string(r.method) == "CONNECT":
		colon := bytes.LastIndexByte(t, ':')
		if !validAuthority(t) || colon < 0 || colon == len(t)-1 || t[len(t)-1] == ']' {
			return false
		}
		r.path, r.query = t, t[len(t):]
		if scheme := bytes.IndexByte(t, ':'); isScheme(t[:scheme]) {
			r.path = t[scheme+1:]
		}
		return true
	case string(t) == "*":
		r.path, r.query = t, t[1:]
		return string(r.method) == "OPTIONS"
	case len(t) > 0 && t[0] == '/':
	default:
		colon := bytes.IndexByte(t, ':')
		if colon < 0 || !foldEqual(t[:colon], "HTTP") && !foldEqual(t[:colon], "HTTPS") {
			return false
		}
		if t = t[colon+1:]; len(t) < 2 || t[0] != '/' || t[1] != '/' {
			return false
		}
		t = t[2:]
		end := bytes.IndexAny(t, "/?#")
		if end < 0 {
			end = len(t)
		}
		if r.authority, t = t[:end], t[end:]; !validAuthority(r.authority) {
			return false
		}
	}
	if i := bytes.IndexByte(t, '#'); i >= 0 {
		t = t[:i]
	}
	r.path, r.query = t, t[len(t):]
	if i := bytes.IndexByte(t, '?'); i >= 0 {
		r.path, r.query = t[:i], t[i+1:]
	}
	return true
}

// validAuthority accepts host or host:port. The host is a name, an IPv4 address
// or a bracketed IPv6 address. User information is refused (RFC 9110 4.2.4).
func validAuthority(a []byte) bool {
	host, port := a, []byte(nil)
	if i := bytes.LastIndexByte(a, ':'); i >= 0 && a[len(a)-1] != ']' {
		host, port = a[:i], a[i+1:]
	}
	for _, c := range port {
		if c < '0' || c > '9' {
			return false
		}
	}
	if len(port) > 5 || len(host) == 0 {
		return false
	}
	allowed := "-._~!$&'()*+,;=%"
	if host[0] == '[' && host[len(host)-1] == ']' {
		host, allowed = host[1:len(host)-1], ":.%-_~"
	}
	for _, c := range host {
		if !isAlphanumeric(c) && strings.IndexByte(allowed, c) < 0 {
			return false
		}
	}
	return len(host) > 0
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= upper(c) && upper(c) <= 'Z'
}

// isScheme reports whether s has the syntax of a URL scheme (RFC 3986 3.1).
func isScheme(s []byte) bool {
	for i, c := range s {
		if !isAlphanumeric(c) && strings.IndexByte("+-.", c) < 0 || i == 0 && upper(c) < 'A' {
			return false
		}
	}
	return len(s) > 0
}

// foldEqual compares two texts, ignoring the case of ASCII letters. Field names
// and options have no other letters.
func foldEqual[T []byte | string](b []byte, s T) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		if upper(b[i]) != upper(s[i]) {
			return false
		}
	}
	return true
}

func (r *request) parseVersion(unconventional bool) *badRequest {
	v := r.version
	if len(v) != 8 || string(v[:5]) != "HTTP/" || v[6] != '.' ||
		v[5] < '0' || v[5] > '9' || v[7] < '0' || v[7] > '9' {
		return badLine("Invalid HTTP Version", "Invalid HTTP Version: ", repr(v))
	}
	if v[5] != '1' && !unconventional {
		return badLine("Invalid HTTP Version", "Invalid HTTP Version: ", "("+string(v[5])+", "+string(v[7])+")")
	}
	r.minor = 0
	if v[5] > '1' || v[5] == '1' && v[7] > '0' {
		r.minor = 1
	}
	return nil
}

// parseFields reads field lines, each ended by CRLF. The fields of a trailer
// section follow the same syntax, but change nothing about the request.
func (r *request) parseFields(block []byte, c *config, trusted, trailer bool) *badRequest {
	limit, count := c.fieldsLimit(), 0
	for len(block) > 0 {
		if count++; count > limit {
			return badLimit("limit request headers fields")
		}
		end := indexCRLF(block)
		line := block[:end:end]
		n, err := nameLen(line, c.stripHeaderSpaces)
		if err != nil {
			return err
		}
		f := field{name: line[:n]}
		colon := n
		for line[colon] != ':' {
			colon++
		}
		if trailer && forbiddenTrailer(f.name) {
			return badName(bytes.ToUpper(f.name))
		}
		f.value = trimBlanks(line[colon+1:])
		if end+2 < len(block) && isBlank(block[end+2]) {
			if !c.permitObsoleteFolding {
				return badText(400, "Obsolete line folding is unacceptable: "+repr(bytes.ToUpper(f.name)))
			}
			end, f.value = unfold(block, colon+1)
			if foldEqual(f.name, "CONTENT-LENGTH") {
				return badField(f.name, true) // another parser may read its first line alone
			}
		}
		block = block[end+2:]
		if !validValue(f.value) {
			return badField(f.name, false)
		}
		if size := c.limitRequestFieldSize; size > 0 && end+2 > size {
			return badLimit("limit request headers fields size")
		}
		keep, err := r.apply(f, c, trusted, trailer)
		if err != nil {
			return err
		}
		if keep {
			r.noteName(f.name)
			r.fields = append(r.fields, f)
		}
	}
	return nil
}

// nameLen returns the length of the field name at the start of line. A colon
// follows immediately, or after blanks if strip_header_spaces allows blanks.
func nameLen(line []byte, strip bool) (int, *badRequest) {
	n := tokenLen(line)
	if n > 0 && n < len(line) && line[n] == ':' {
		return n, nil
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return 0, badText(400, "Invalid HTTP Header: "+repr(line))
	}
	name := line[:colon]
	if strip {
		name = bytes.TrimRight(name, " \t")
	}
	if n == 0 || n < len(name) {
		return 0, badName(name)
	}
	return n, nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func trimBlanks(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isBlank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// unfold joins the value that begins at start with its continuation lines by
// single spaces, and pads the freed bytes with blanks. end is where the last
// line ends.
func unfold(block []byte, start int) (end int, value []byte) {
	end = indexCRLF(block)
	to := start + copy(block[start:], trimBlanks(block[start:end]))
	for end+2 < len(block) && isBlank(block[end+2]) {
		from := end + 2
		end = from + indexCRLF(block[from:])
		block[to] = ' '
		to += 1 + copy(block[to+1:], trimBlanks(block[from:end]))
	}
	for i := to; i < end; i++ {
		block[i] = ' '
	}
	return end, trimBlanks(block[start:to])
}

// validValue refuses control bytes other than TAB. The loop takes eight bytes
// at a time because values are most of a request's bytes.
func validValue(v []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for len(v) >= 8 {
		x := binary.LittleEndian.Uint64(v)
		del := x ^ 0x7f*ones
		if ((x-0x20*ones)&^x|(del-ones)&^del)&tops != 0 && !validBytes(v[:8]) {
			return false
		}
		v = v[8:]
	}
	return validBytes(v)
}

func validBytes(v []byte) bool {
	for _, c := range v {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// apply carries out what a field asks of the server. keep reports whether the
// application may see the field.
func (r *request) apply(f field, c *config, trusted, trailer bool) (keep bool, err *badRequest) {
	switch len(f.name) {
	case len("HOST"):
		if foldEqual(f.name, "HOST") {
			// RFC 9112 3.2 wants one well-formed Host. Applications build links from Host.
			if r.host != nil || len(f.value) > 0 && !validAuthority(f.value) {
				return false, badField(f.name, true)
			}
			r.host = f.value
		}
	case len("EXPECT"):
		if !trailer && foldEqual(f.name, "EXPECT") {
			if !foldEqual(f.value, "100-CONTINUE") {
				return false, badText(417, "Unable to comply with expectation: "+repr(f.value))
			}
			r.expect = r.minor > 0
		}
	case len("CONNECTION"):
		if foldEqual(f.name, "CONNECTION") {
			r.addOptions(f.value)
		}
	case len("CONTENT-TYPE"):
		if foldEqual(f.name, "CONTENT-TYPE") && r.has("CONTENT-TYPE") {
			return false, badField(f.name, true)
		}
	}
	if trusted {
		for _, h := range c.secureSchemeHeaders {
			if !foldEqual(f.name, h[0]) {
				continue
			}
			// Some proxies (Traefik) say wss for the handshake of a WebSocket over TLS.
			https := string(f.value) == h[1] || h[1] == "https" && string(f.value) == "wss"
			if r.schemeGiven && https != r.https {
				return false, badText(400, "Contradictory scheme headers")
			}
			r.schemeGiven, r.https = true, https
		}
	}
	if bytes.IndexByte(f.name, '_') < 0 { // a name that forwarder_headers cannot have
		return true, nil
	}
	r.upper = append(r.upper[:0], f.name...)
	for i, ch := range r.upper {
		r.upper[i] = upper(ch)
	}
	for _, name := range c.forwarderHeaders {
		if trusted && (name == "*" || name == string(r.upper)) {
			if string(r.upper) == "SCRIPT_NAME" {
				r.scriptName = f.value
			}
			return true, nil
		}
	}
	switch c.headerMap {
	case "dangerous":
		return true, nil
	case "refuse":
		return false, badName(r.upper)
	}
	return false, nil
}

// addOptions adds the options of one Connection field. close wins wherever the
// option stands (RFC 9112 9.3): a client or proxy that sent close does not
// expect a second response on this connection.
func (r *request) addOptions(list []byte) {
	for option := range elements(list) {
		r.closes = r.closes || foldEqual(option, "CLOSE")
		r.persists = r.persists || foldEqual(option, "KEEP-ALIVE")
		r.upgrades = r.upgrades || foldEqual(option, "UPGRADE")
	}
}

// elements yields the elements of a comma-separated list (RFC 9110 5.6.1),
// empty elements included, without the blanks around each.
func elements(list []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest, more := list, true; more; {
			var e []byte
			e, rest, more = bytes.Cut(rest, []byte(","))
			if !yield(trimBlanks(e)) {
				return
			}
		}
	}
}

// hasField reports whether fields has a field of this name, given in upper case.
func hasField(fields []field, name string) bool {
	_, has := lastField(fields, name)
	return has
}

func (r *request) has(name string) bool { return hasField(r.fields, name) }

// noteName sets repeated if an earlier field has the same environ key. Fields
// are compared only when the hashes of two keys collide, and in long lists not
// at all: appendRepeated sorts those out.
func (r *request) noteName(name []byte) {
	h := uint(len(name)) + 5*uint(environByte[name[0]]) +
		11*uint(environByte[name[len(name)/2]]) + 23*uint(environByte[name[len(name)-1]])
	bit := uint64(1) << (h % 64)
	if r.names&bit != 0 && !r.repeated {
		r.repeated = len(r.fields) >= fewFields
		for i := 0; i < len(r.fields) && !r.repeated; i++ {
			r.repeated = sameKey(r.fields[i].name, name)
		}
	}
	r.names |= bit
}

// sameKey reports whether two field names give the same environ key.
func sameKey(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if environByte[a[i]] != environByte[b[i]] {
			return false
		}
	}
	return true
}

// forbiddenTrailer reports whether a field must not be a trailer, because the
// field would change how the message itself is read (RFC 9110 6.5.1).
func forbiddenTrailer(name []byte) bool {
	list := [...]string{"HOST", "CONTENT-LENGTH", "TRANSFER-ENCODING", "TRAILER", "AUTHORIZATION", "TE"}
	return slices.ContainsFunc(list[:], func(s string) bool { return foldEqual(name, s) })
}

// frame decides where the body ends and whether the connection persists after
// the body.
func (r *request) frame() *badRequest {
	// After a 200 to CONNECT, a proxy treats the connection as a tunnel and
	// passes on whatever a client sends. Those bytes must not become a request.
	tunnel := string(r.method) == "CONNECT"
	r.keepAlive = !r.closes && !tunnel && !r.streamed && (r.minor > 0 || r.persists)
	if r.host == nil && r.minor > 0 {
		// RFC 9112 3.2 wants a Host field, which may be empty.
		return badText(400, "No Host header in an HTTP/1.1 request").logged()
	}
	if r.authority != nil && r.host != nil && !foldEqual(r.host, r.authority) {
		if !sameAuthority(r.host, r.authority, upper(r.target[len("http")]) == 'S') {
			return badField([]byte("HOST"), true)
		}
	}
	coded := false
	for _, f := range r.fields {
		switch len(f.name) {
		case len("UPGRADE"):
			// Some proxies (Varnish's pipe) tunnel from an Upgrade request on and
			// ignore a refusal. The bytes they pass on must not become a request.
			r.keepAlive = r.keepAlive && !foldEqual(f.name, "UPGRADE")
		case len("CONTENT-LENGTH"):
			if foldEqual(f.name, "CONTENT-LENGTH") {
				// Equal duplicates are refused although RFC 9112 6.3 lets us
				// fold them: both ends must agree on where this body stops.
				n := parseLength(f.value)
				if n < 0 || r.contentLength >= 0 {
					return badField(f.name, true)
				}
				r.contentLength = n
			}
		case len("TRANSFER-ENCODING"):
			if foldEqual(f.name, "TRANSFER-ENCODING") {
				coded = true
				if err := r.addCodings(f); err != nil {
					return err
				}
			}
		}
	}
	if coded && (!r.chunked || r.minor == 0) {
		return badField([]byte("TRANSFER-ENCODING"), true)
	}
	if coded && r.contentLength >= 0 {
		return badField([]byte("CONTENT-LENGTH"), true)
	}
	return nil
}

// sameAuthority reports whether two authorities are one, with or without the default port.
func sameAuthority(a, b []byte, https bool) bool {
	port := ":80"
	if https {
		port = ":443"
	}
	return foldEqual(withoutPort(a, port), withoutPort(b, port))
}

// withoutPort cuts the default port, or an empty port, off an authority (RFC 9110 4.2.3).
func withoutPort(authority []byte, port string) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(authority, []byte(port)), []byte(":"))
}

// parseLength returns the value of a text of ASCII digits alone, or -1.
func parseLength(v []byte) int64 {
	if len(v) == 0 {
		return -1
	}
	n := int64(0)
	for _, c := range v {
		d := int64(c) - '0'
		if d < 0 || d > 9 || n > (math.MaxInt64-d)/10 {
			return -1
		}
		n = 10*n + d
	}
	return n
}

// addCodings adds the codings of one Transfer-Encoding field. chunked comes
// once and last. The other known codings are left to the application to decode,
// as Gunicorn does; the connection then ends with the body.
func (r *request) addCodings(f field) *badRequest {
	for coding := range elements(f.value) {
		chunked := foldEqual(coding, "CHUNKED")
		switch {
		case chunked, foldEqual(coding, "IDENTITY"), foldEqual(coding, "GZIP"),
			foldEqual(coding, "DEFLATE"), foldEqual(coding, "COMPRESS"):
		default:
			return badText(501, "Unsupported transfer coding: "+repr(f.value))
		}
		if r.chunked {
			return badField(f.name, true)
		}
		r.chunked = chunked
		r.keepAlive = r.keepAlive && chunked
	}
	return nil
}

// unhex returns the value of a hex digit, or -1.
func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= upper(c) && upper(c) <= 'F':
		return int(upper(c)-'A') + 10
	}
	return -1
}

// The texts of the mistakes below are Gunicorn's where Gunicorn has one, because
// people search their logs for those.

// badLine refuses a request line, by the title of the page and the text of the log.
func badLine(title, text, quoted string) *badRequest {
	text += quoted
	return newBadRequest(400, text, title+" '"+text+"'")
}

func badLineLimit(n, limit int) *badRequest {
	return badText(414, fmt.Sprintf("Request Line is too large (%d > %d)", n, limit))
}

func badLimit(text string) *badRequest {
	return newBadRequest(431, text, "Error parsing headers: '"+text+"'")
}

func badBodyLimit(limit int64) *badRequest {
	return badText(413, fmt.Sprintf("Request body is too large (> %d)", limit)).logged()
}

// badField refuses a field whose syntax is right and whose meaning is not. access
// means that the rest of the request has been understood.
func badField(name []byte, access bool) *badRequest {
	err := badText(400, "Invalid HTTP Header: "+repr(bytes.ToUpper(name)))
	err.access = access
	return err
}

func badName(name []byte) *badRequest {
	return badText(400, "Invalid HTTP header name: "+repr(name))
}

// repr is Python's repr of the text whose latin-1 is v, cut to maxQuoted bytes.
// The result has no control characters.
func repr(v []byte) string {
	return pyRepr(string(appendLatin(nil, v[:min(len(v), maxQuoted)])))
}
