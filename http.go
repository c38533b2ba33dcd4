package main

// HTTP/1.1 as pure functions: bytes to a request, a request to the environ of
// PEP 3333, an application's answer to bytes. Nothing here knows a descriptor,
// a clock or a log, and an ordinary request allocates nothing: what is parsed
// is a slice of the caller's buffer, what is written is appended to another.
//
// What is accepted is narrower than what RFC 9112 lets a server repair. A
// proxy in front may read a doubtful message in another way than we do, and
// the difference is a second request that only one of the two sees.

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// longestLine stands for limit_request_line 0: the line has no limit of its
	// own then, but a client must not fill the memory with it.
	longestLine = 1 << 20
	// Above these, settings act as these.
	maxLineLimit   = 8190
	maxFieldsLimit = 32768
	// defaultFieldSize counts for the bound of the whole head when
	// limit_request_field_size is 0.
	defaultFieldSize = 8190
	// maxQuoted bounds how much of a bad line an error repeats: as much as a
	// line within its limits can have.
	maxQuoted = 8190
	// maxServerName bounds the name in a TLS handshake, as RFC 1035 2.3.4 does.
	maxServerName = 255
	// fewFields is how many fields are searched for duplicates one by one; the
	// default limit is 100. appendRepeated takes care of more.
	fewFields = 128
	// maxChunkLine bounds the line before a chunk: 16 digits and room for a
	// signature of 64 to 128 hex digits, the longest extension in use.
	maxChunkLine = 256
	// A size line of this length is free. What is longer counts against the
	// allowance, which grows with the data: tiny chunks in long lines cost the
	// server a thousand times what they carry, large signed ones do not.
	freeChunkLine  = len("0123456789ABCDEF\r\n")
	chunkAllowance = 16 << 10
)

// environByte maps a byte of a field name to that of its environ key, and
// whatever is not a token character to zero.
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
	name  []byte // as received (blanks before the colon cut by strip_header_spaces)
	value []byte // without the blanks around it
}

// request is one parsed head. Its slices belong to the buffer that was parsed;
// reset empties it for the next without giving memory back.
type request struct {
	method        []byte // after casefold_http_method
	target        []byte // exactly as received
	path          []byte // undecoded path part of target
	query         []byte // without the question mark
	version       []byte // "HTTP/1.1"
	minor         int    // 0 or 1 (what the response's framing goes by)
	fields        []field
	contentLength int64 // -1 when there is none
	chunked       bool
	expect        bool   // Expect: 100-continue, HTTP/1.1
	keepAlive     bool   // what the client asks for
	https         bool   // by secure_scheme_headers from a trusted peer
	schemeGiven   bool   // such a header came; else the connection decides
	scriptName    []byte // SCRIPT_NAME field of a trusted peer, nil when there is none
	host          []byte // nil when there is none
	authority     []byte // of a target in absolute form

	line     int    // length of the request line with its CRLF, once judged
	scanned  int    // bytes of buf that need no second look for a line's end
	schemes  uint64 // set of lengths of the names in secure_scheme_headers
	names    uint64 // set of hashes of the fields' environ keys
	repeated bool   // two fields may have the same environ key
	upper    []byte // scratch: a field name in upper case
	closes   bool   // a Connection field has the option close
	persists bool   // or keep-alive
	upgrades bool   // or upgrade
}

// badRequest is a client's mistake: it becomes a reply, and a line in the log.
type badRequest struct {
	status  int    // 400, 403, 413, 414, 417, 426, 431, 501, 505
	reason  string // of the status line
	fields  string // that the answer has beside the usual, each with its CRLF
	text    string // ERROR of the log line `Invalid request from ip=IP: ERROR`
	message string // what the page says, before escaping
	access  bool   // the request is understood so far that the access log has it
	left    bool   // the client has closed, or is gone
}

func (e *badRequest) Error() string { return e.text }

// endpoint is what a connection, not a request, adds to the environ.
type endpoint struct {
	unix       bool
	serverName string // unix: path of the socket
	serverPort string
	remoteAddr string
	remotePort string
	https      bool     // TLS
	facts      []byte   // marshal of what TLS adds to the environ
	proxy      *proxied // nil without a PROXY header
}

// response is the head of an answer as the application gave it, in latin-1.
type response struct {
	status []byte // "200 OK"
	fields []field
}

// exchange is what a response has to know of its request. keepAlive says that
// client and server both allow it.
type exchange struct {
	version   []byte
	minor     int
	head      bool // method HEAD
	keepAlive bool
	server    string // the Server field; empty for the usual one
	own       bool   // Server, Date and "Connection: close" of the application count (ASGI)
}

// framing is how the body goes after the head.
type framing struct {
	code      int
	noBody    bool // HEAD, 1xx, 204, 304: what the application gives is dropped
	chunked   bool
	length    int64 // bytes that follow the head, -1 when only the end will tell
	keepAlive bool
	upgrade   bool // Connection: upgrade
}

// reset prepares for the next head.
func (r *request) reset() {
	*r = request{fields: r.fields[:0], upper: r.upper[:0], contentLength: -1}
}

// parse reads one head at the start of buf. n > 0 is the length of a complete
// one; 0 without an error asks for more bytes. Then buf comes again, longer
// and perhaps elsewhere, but with the same bytes in front: between calls r
// keeps offsets only, so that a head that drips in is read once. The request
// line is judged as soon as it is there, the fields when all are.
//
// trusted says that the peer is one of forwarded_allow_ips. With
// casefold_http_method and permit_obsolete_folding buf is changed to what was
// understood, which reads the same the next time.
func (r *request) parse(buf []byte, c *config, trusted bool) (n int, err *badRequest) {
	judged := r.line > 0
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
		return 0, err
	}
	if err = r.frame(); err != nil {
		return 0, err
	}
	return end + 2, nil
}

// headBound is the most that the fields of one head can have.
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

// findLine returns the length of the request line with its CRLF, 0 while it is
// not there.
func (r *request) findLine(buf []byte, c *config) (int, *badRequest) {
	limit := longestLine
	if c.limitRequestLine > 0 {
		limit = min(c.limitRequestLine, maxLineLimit)
	}
	i := indexCRLF(buf[r.scanned:])
	if i >= 0 {
		if i += r.scanned; i > limit {
			return 0, badLineLimit(i, limit)
		}
		return i + 2, nil
	}
	if len(buf)-2 > limit {
		return 0, badLineLimit(len(buf), limit)
	}
	r.scanned = max(0, len(buf)-1)
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
		return badLine(line)
	}
	r.method, r.target, r.version = line[:i:i], line[i+1:i+1+j], line[i+j+2:]
	if !validMethod(r.method, c.permitUnconventionalHTTPMethod) {
		return badMethod(r.method)
	}
	if c.casefoldHTTPMethod {
		for i, ch := range r.method {
			r.method[i] = upper(ch)
		}
	}
	if !r.splitTarget() {
		return badLine(line)
	}
	return r.parseVersion(c.permitUnconventionalHTTPVersion)
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		c -= 'a' - 'A'
	}
	return c
}

// validMethod takes tokens, and of these only what looks like the registered
// methods unless the unconventional is permitted.
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

// splitTarget checks the four forms of RFC 9112 3.2 against the method. The
// parts are those of Python's urlsplit, which applications have always seen:
// no fragment, and what looks like a scheme is none of the path of a CONNECT.
func (r *request) splitTarget() bool {
	t := r.target
	for i := 0; i < len(t); {
		c, size := rune(t[i]), 1
		if c >= utf8.RuneSelf {
			if wide, n := utf8.DecodeRune(t[i:]); n > 1 {
				c, size = wide, n
			}
		}
		// What logs, as many an application does, gets no control characters:
		// those from U+0080 on neither in UTF-8 nor as bytes of their own.
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

// validAuthority takes host or host:port, the host as a name, an IPv4 or a
// bracketed IPv6 address. User information has no place in a request.
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

// isScheme takes what RFC 3986 3.1 calls a scheme.
func isScheme(s []byte) bool {
	for i, c := range s {
		if !isAlphanumeric(c) && strings.IndexByte("+-.", c) < 0 || i == 0 && upper(c) < 'A' {
			return false
		}
	}
	return len(s) > 0
}

// foldEqual compares without regard to the case of ASCII letters, the only
// ones that have one here.
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
		return badVersion(repr(v))
	}
	if v[5] != '1' && !unconventional {
		return badVersion("(" + string(v[5]) + ", " + string(v[7]) + ")")
	}
	r.minor = 0
	if v[5] > '1' || v[5] == '1' && v[7] > '0' {
		r.minor = 1
	}
	return nil
}

// parseFields reads lines, each ended by CRLF. The fields of a trailer section
// obey the same rules but mean nothing, and nobody is trusted with them.
func (r *request) parseFields(block []byte, c *config, trusted, trailer bool) *badRequest {
	if trusted {
		for name := range c.secureSchemeHeaders {
			r.schemes |= 1 << (len(name) % 64)
		}
	}
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
			return badName(upperName(f.name))
		}
		f.value = trimBlanks(line[colon+1:])
		if end+2 < len(block) && isBlank(block[end+2]) {
			if !c.permitObsoleteFolding {
				return badFolding(f.name)
			}
			end, f.value = unfold(block, colon+1)
			if foldEqual(f.name, "CONTENT-LENGTH") {
				return badField(f.name, true) // others may read its first line alone
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

// nameLen returns the length of the field name that line begins with. A colon
// follows at once, or after blanks if those may be stripped.
func nameLen(line []byte, strip bool) (int, *badRequest) {
	n := 0
	for n < len(line) && environByte[line[n]] != 0 {
		n++
	}
	if n > 0 && n < len(line) && line[n] == ':' {
		return n, nil
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return 0, badHeaderLine(line)
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

// unfold joins the value that begins at start with its continuation lines, a
// space between two, and fills the room that is left with blanks. It returns
// where the last line ends.
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

// validValue refuses control bytes other than TAB. Eight bytes at a time: the
// values are most of what a request consists of.
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

// apply does what a field asks for and says whether the application sees it.
func (r *request) apply(f field, c *config, trusted, trailer bool) (keep bool, err *badRequest) {
	switch len(f.name) {
	case len("HOST"):
		if foldEqual(f.name, "HOST") {
			// RFC 9112 3.2: one, and well formed. Applications make links of it.
			if r.host != nil || len(f.value) > 0 && !validAuthority(f.value) {
				return false, badField(f.name, true)
			}
			r.host = f.value
		}
	case len("EXPECT"):
		if !trailer && foldEqual(f.name, "EXPECT") {
			if !foldEqual(f.value, "100-CONTINUE") {
				return false, badExpect(f.value)
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
	// Few fields go further: those with a name that a map or a list may have.
	scheme := r.schemes>>(len(f.name)%64)&1 == 1
	mapped := bytes.IndexByte(f.name, '_') >= 0
	if !scheme && !mapped {
		return true, nil
	}
	r.upper = append(r.upper[:0], f.name...)
	for i, ch := range r.upper {
		r.upper[i] = upper(ch)
	}
	if want, ok := c.secureSchemeHeaders[string(r.upper)]; ok && scheme {
		https := string(f.value) == want
		if r.schemeGiven && https != r.https {
			return false, badScheme()
		}
		r.schemeGiven, r.https = true, https
	}
	if !mapped {
		return true, nil
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

// addOptions takes the options of one Connection field. The option close holds
// wherever it stands (RFC 9112 9.3): a client or a proxy that has sent it takes
// what comes after this response for nobody's.
func (r *request) addOptions(list []byte) {
	for rest, more := list, true; more; {
		var option []byte
		option, rest, more = bytes.Cut(rest, []byte(","))
		option = trimBlanks(option)
		r.closes = r.closes || foldEqual(option, "CLOSE")
		r.persists = r.persists || foldEqual(option, "KEEP-ALIVE")
		r.upgrades = r.upgrades || foldEqual(option, "UPGRADE")
	}
}

func (r *request) has(name string) bool {
	for i := range r.fields {
		if foldEqual(r.fields[i].name, name) {
			return true
		}
	}
	return false
}

// noteName looks for an earlier field with the same environ key. The set of
// hashes makes that rare, and long lists are left to appendRepeated.
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

// sameKey says whether two field names give the same environ key.
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

// forbiddenTrailer names what would change a message that is being read.
func forbiddenTrailer(name []byte) bool {
	for _, s := range [...]string{"HOST", "CONTENT-LENGTH", "TRANSFER-ENCODING", "TRAILER", "AUTHORIZATION", "TE"} {
		if foldEqual(name, s) {
			return true
		}
	}
	return false
}

// frame decides where the body ends and whether the connection outlives it.
func (r *request) frame() *badRequest {
	// A proxy takes a connection on which CONNECT was answered with 200 for a
	// tunnel and passes on whatever a client sends. There must be no next
	// request on it.
	tunnel := string(r.method) == "CONNECT"
	r.keepAlive = !r.closes && !tunnel && (r.minor > 0 || r.persists)
	if r.host == nil && r.minor > 0 {
		return badHost() // RFC 9112 3.2; an empty one is a Host
	}
	if r.authority != nil && r.host != nil && !foldEqual(r.host, r.authority) {
		return badField([]byte("HOST"), true)
	}
	coded := false
	for _, f := range r.fields {
		switch len(f.name) {
		case len("UPGRADE"):
			// Proxies that tunnel from the request on, as Varnish's pipe does,
			// never see a refusal: what they pass on then is no request either.
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

// parseLength returns the number that ASCII digits alone write, or -1.
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

// addCodings takes the codings of one Transfer-Encoding field. chunked comes
// once and last. Those that may stand before it are not decoded, as ever; the
// connection then ends with the body.
func (r *request) addCodings(f field) *badRequest {
	for rest, more := f.value, true; more; {
		var coding []byte
		coding, rest, more = bytes.Cut(rest, []byte(","))
		coding = trimBlanks(coding)
		chunked := foldEqual(coding, "CHUNKED")
		switch {
		case chunked, foldEqual(coding, "IDENTITY"), foldEqual(coding, "GZIP"),
			foldEqual(coding, "DEFLATE"), foldEqual(coding, "COMPRESS"):
		default:
			return badCoding(f.value)
		}
		if r.chunked {
			return badField(f.name, true)
		}
		r.chunked = chunked
		r.keepAlive = r.keepAlive && chunked
	}
	return nil
}

// checkScriptName refuses a path outside of SCRIPT_NAME. scriptName is that of
// the server's environment; a trusted peer's field replaces it.
func (r *request) checkScriptName(scriptName string) *badRequest {
	if r.scriptName != nil {
		if !bytes.HasPrefix(r.path, r.scriptName) {
			return badScriptName(r.path, r.scriptName)
		}
		return nil
	}
	if n := len(scriptName); len(r.path) < n || string(r.path[:n]) != scriptName {
		return badScriptName(r.path, []byte(scriptName))
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
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c >= utf8.RuneSelf:
			// Python's unquote takes text: the byte is a character to it, whose
			// UTF-8 then counts as bytes, each a character of the environ.
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

// appendUnquoted appends a path with its escapes undone.
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

// appendEnviron appends the entries of a marshal dict that come from the
// request and its connection, without the dict's begin and end. For
// scriptName see checkScriptName, which has passed.
func (r *request) appendEnviron(b []byte, e *endpoint, scriptName string) []byte {
	b, length := r.appendCommon(b, e, scriptName)
	return r.appendOwn(b, e, scriptName, length)
}

// appendCommon appends those that a client's next request will probably have,
// too. A Content-Length that it has left out is returned.
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

// appendOwn appends the others, and the length.
func (r *request) appendOwn(b []byte, e *endpoint, scriptName string, length []byte) []byte {
	b = appendMarshalLatin(appendMarshalText(b, "RAW_URI"), r.target)
	b = appendMarshalLatin(appendMarshalText(b, "QUERY_STRING"), r.query)
	b = r.appendMarshalPath(appendMarshalText(b, "PATH_INFO"), scriptName)
	if e.remotePort != "" { // no unix socket's
		b = appendMarshalText(appendMarshalText(b, "REMOTE_PORT"), e.remotePort)
	}
	if length != nil {
		b = appendMarshalLatin(appendMarshalText(b, "CONTENT_LENGTH"), length)
	}
	return b
}

// appendOwnTuple appends the same as a tuple, None for what there is not:
// wsgi.py knows the order.
func (r *request) appendOwnTuple(b []byte, e *endpoint, scriptName string, length []byte) []byte {
	b = appendMarshalLatin(appendMarshalTuple(b, 5), r.target)
	b = r.appendMarshalPath(appendMarshalLatin(b, r.query), scriptName)
	if e.remotePort != "" {
		b = appendMarshalText(b, e.remotePort)
	} else {
		b = append(b, marshalNone)
	}
	if length != nil {
		return appendMarshalLatin(b, length)
	}
	return append(b, marshalNone)
}

// appendTrailer appends the fields of a trailer section as a list of pairs.
func appendTrailer(b []byte, fields []field) []byte {
	b = appendMarshalList(b, len(fields))
	for i := range fields {
		b = appendMarshalTuple(b, 2)
		b = appendMarshalText(b, upperName(fields[i].name))
		b = appendMarshalLatin(b, fields[i].value)
	}
	return b
}

// appendServerFromHost makes up for a unix socket's want of a name and a port,
// which are never empty (PEP 3333, environ Variables).
func appendServerFromHost(b, host []byte, socket, scheme string) []byte {
	name, port := host, []byte(nil)
	from := max(0, bytes.IndexByte(host, ']')) // no colon of an IPv6 address
	if i := bytes.IndexByte(host[from:], ':'); i >= 0 {
		name, port = host[:from+i], host[from+i+1:]
	}
	b = appendMarshalText(b, "SERVER_NAME")
	switch {
	case len(name) > 0:
		b = appendMarshalLatin(b, name)
	case socket != "":
		b = appendMarshalLatin(b, socket)
	default: // it was inherited, and has no path
		b = appendMarshalText(b, "localhost")
	}
	b = appendMarshalText(b, "SERVER_PORT")
	if len(port) > 0 {
		return appendMarshalLatin(b, port)
	}
	return appendMarshalText(b, scheme)
}

// appendEnvironKey appends the key that a field has in the environ.
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

// appendRepeated appends fields some of which share a key: the values are
// joined by commas where the first one stood.
func (r *request) appendRepeated(b []byte) []byte {
	next := make([]int, len(r.fields)) // field with the same key, 0 for none
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

// The mistakes a client can make, with the texts that Gunicorn's users search
// their logs for.

func newBadRequest(status int, text, message string) *badRequest {
	return &badRequest{status: status, reason: reasonPhrase(status), text: text, message: message}
}

// badText is for those whose page says what the log says.
func badText(status int, text string) *badRequest {
	return newBadRequest(status, text, text)
}

// leftEarly is for a client that does not complete its request.
func leftEarly(status int, text string) *badRequest {
	return &badRequest{status: status, reason: reasonPhrase(status), text: text, left: true}
}

func badLine(line []byte) *badRequest {
	text := "Invalid HTTP request line: " + repr(line)
	return newBadRequest(400, text, "Invalid Request Line '"+text+"'")
}

func badLineLimit(n, limit int) *badRequest {
	return badText(400, fmt.Sprintf("Request Line is too large (%d > %d)", n, limit))
}

func badMethod(method []byte) *badRequest {
	text := "Invalid HTTP method: " + repr(method)
	return newBadRequest(400, text, "Invalid Method '"+text+"'")
}

func badVersion(version string) *badRequest {
	text := "Invalid HTTP Version: " + version
	return newBadRequest(400, text, "Invalid HTTP Version '"+text+"'")
}

func badLimit(text string) *badRequest {
	return newBadRequest(431, text, "Error parsing headers: '"+text+"'")
}

func badBodyLimit(limit int64) *badRequest {
	err := badText(413, fmt.Sprintf("Request body is too large (> %d)", limit))
	err.access = true
	return err
}

func badHeaderLine(line []byte) *badRequest {
	return badText(400, "Invalid HTTP Header: "+repr(line))
}

// badField is for a field that is well formed and cannot be taken. With access
// the request is known apart from it.
func badField(name []byte, access bool) *badRequest {
	err := badText(400, "Invalid HTTP Header: "+repr(upperName(name)))
	err.access = access
	return err
}

func badName(name []byte) *badRequest {
	return badText(400, "Invalid HTTP header name: "+repr(name))
}

func badFolding(name []byte) *badRequest {
	return badText(400, "Obsolete line folding is unacceptable: "+repr(upperName(name)))
}

func badScheme() *badRequest {
	return badText(400, "Contradictory scheme headers")
}

func badHost() *badRequest {
	err := badText(400, "No Host header in an HTTP/1.1 request")
	err.access = true
	return err
}

func badExpect(value []byte) *badRequest {
	return badText(417, "Unable to comply with expectation: "+repr(value))
}

func badCoding(value []byte) *badRequest {
	return badText(501, "Unsupported transfer coding: "+repr(value))
}

func badScriptName(path, prefix []byte) *badRequest {
	err := badText(500, "Configuration problem: Request path "+repr(path)+
		" does not start with SCRIPT_NAME "+repr(prefix))
	err.access = true
	return err
}

func reasonPhrase(status int) string {
	switch status {
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 408:
		return "Request Timeout"
	case 413:
		return "Content Too Large"
	case 417:
		return "Expectation Failed"
	case 426:
		return "Upgrade Required"
	case 431:
		return "Request Header Fields Too Large"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	}
	return "Internal Server Error"
}

func upperName(name []byte) []byte { return bytes.ToUpper(name) }

// repr is Python's repr of the text whose latin-1 is v. No control byte gets
// through.
func repr(v []byte) string {
	return pyRepr(string(appendLatin(nil, v[:min(len(v), maxQuoted)])))
}

// appendErrorPage appends the whole answer to a bad request, after which the
// connection closes. It is latin-1, as the texts are.
func appendErrorPage(b []byte, e *badRequest) []byte {
	message := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;",
		`"`, "&quot;", "'", "&#x27;").Replace(e.message)
	page := []byte("<html>\n  <head>\n    <title>" + e.reason + "</title>\n  </head>\n" +
		"  <body>\n    <h1><p>" + e.reason + "</p></h1>\n    " + message + "\n  </body>\n</html>\n")
	if l, ok := latin(nil, page); ok {
		page = l
	}
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Type: text/html\r\n"+
		"Content-Length: %d\r\n%s\r\n", e.status, e.reason, len(page), e.fields)
	return append(b, page...)
}

// latin turns text into the latin-1 that HTTP has for bytes. ASCII is text
// itself; else it is appended to dst, which may be text[:0]. It fails on what
// latin-1 has no byte for.
func latin(dst, text []byte) ([]byte, bool) {
	if isASCII(text) {
		return text, true
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c >= utf8.RuneSelf {
			i++
			if c&^1 != 0xc2 || i == len(text) || text[i]&0xc0 != 0x80 {
				return nil, false
			}
			c = c<<6 | text[i]&0x3f
		}
		dst = append(dst, c)
	}
	return dst, true
}

// chunkedDecoder takes a chunked body apart as it comes in, cut anywhere. Its
// zero value is ready. It takes every byte up to the end of the body: a size
// line or a trailer section that is not yet whole stays in partial.
type chunkedDecoder struct {
	state   chunkState
	left    int64   // bytes of this chunk still to come
	data    int64   // bytes of all chunks so far
	excess  int64   // bytes of size lines beyond freeChunkLine each
	partial []byte  // at most maxChunkLine, or the bound of a head's fields
	trailer []field // once done
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkData
	chunkCR
	chunkLF
	chunkTrailer
	chunkDone
)

// decode appends the data in `in` to dst and says how many bytes of in belong
// to the body and whether it is complete.
func (d *chunkedDecoder) decode(dst, in []byte, c *config) (out []byte, n int, done bool, err *badRequest) {
	for n < len(in) && d.state != chunkDone && err == nil {
		rest := in[n:]
		used := 1
		switch d.state {
		case chunkSize:
			used, err = d.takeSize(rest, c)
		case chunkData:
			used = int(min(d.left, int64(len(rest))))
			dst = append(dst, rest[:used]...)
			d.data += int64(used)
			if d.left -= int64(used); d.left == 0 {
				d.state = chunkCR
			}
		case chunkCR:
			d.state = chunkLF
			if rest[0] != '\r' {
				err = badTerminator(rest[:1])
			}
		case chunkLF:
			d.state = chunkSize
			if rest[0] != '\n' {
				err = badTerminator([]byte{'\r', rest[0]})
			}
		case chunkTrailer:
			used, err = d.takeTrailer(rest, c)
		}
		n += used
	}
	if err != nil {
		err.access = true
		return dst, n, false, err
	}
	return dst, n, d.state == chunkDone, nil
}

func badTerminator(got []byte) *badRequest {
	return badText(400, `Invalid chunk terminator is not '\r\n': `+repr(got))
}

// takeSize reads a size line, as far as it is there.
func (d *chunkedDecoder) takeSize(in []byte, c *config) (used int, err *badRequest) {
	end := bytes.IndexByte(in, '\n')
	used = end + 1
	if end < 0 {
		used = len(in)
	}
	if len(d.partial)+used > maxChunkLine {
		return used, badText(400, "Chunk size line is too long")
	}
	line := in[:used]
	if end < 0 || len(d.partial) > 0 {
		d.partial = append(d.partial, line...)
		line = d.partial
	}
	if end < 0 {
		return used, nil
	}
	d.partial = d.partial[:0]
	if d.left, err = parseChunkSize(line); err != nil {
		return used, err
	}
	if limit := c.limitRequestBody; limit > 0 && d.left > limit-d.data {
		return used, badBodyLimit(limit)
	}
	d.excess += int64(max(0, len(line)-freeChunkLine))
	if d.excess > chunkAllowance+d.data {
		return used, badText(400, "Chunk extensions are too long")
	}
	if d.state = chunkData; d.left == 0 {
		d.state = chunkTrailer
	}
	return used, nil
}

// parseChunkSize reads a line that ends in LF. Blanks may stand before an
// extension and nowhere else.
func parseChunkSize(line []byte) (int64, *badRequest) {
	if !bytes.HasSuffix(line, []byte("\r\n")) {
		return 0, badChunkSize(line)
	}
	digits, extension, extended := bytes.Cut(line[:len(line)-2], []byte(";"))
	if extended {
		digits = bytes.TrimRight(digits, " \t")
	}
	if !validBytes(extension) {
		return 0, badText(400, "Invalid chunk extension: "+repr(extension))
	}
	if len(digits) == 0 {
		return 0, badChunkSize(digits)
	}
	size := int64(0)
	for _, c := range digits {
		d := unhex(c)
		if d < 0 || size > math.MaxInt64>>4 {
			return 0, badChunkSize(digits)
		}
		size = size<<4 | int64(d)
	}
	return size, nil
}

func badChunkSize(digits []byte) *badRequest {
	return badText(400, "Invalid chunk size: "+repr(digits))
}

// takeTrailer gathers the trailer section. Its fields never become part of the
// head: what has been decided by that stands (RFC 9110 6.5.1).
func (d *chunkedDecoder) takeTrailer(in []byte, c *config) (used int, err *badRequest) {
	if len(d.partial) == 0 && bytes.HasPrefix(in, []byte("\r\n")) {
		d.state = chunkDone
		return 2, nil
	}
	for used < len(in) {
		end := bytes.IndexByte(in[used:], '\n')
		line := in[used : used+end+1]
		if end < 0 {
			line = in[used:]
		}
		used += len(line)
		d.partial = append(d.partial, line...)
		if len(d.partial) > c.headBound() {
			return used, badLimit("max buffer headers")
		}
		if string(d.partial) == "\r\n" {
			d.state = chunkDone
			return used, nil
		}
		if end >= 0 && bytes.HasSuffix(d.partial, []byte("\r\n\r\n")) {
			d.state = chunkDone
			section := d.partial[:len(d.partial)-2]
			d.partial = nil
			var trailer request
			err = trailer.parseFields(section, c, false, true)
			d.trailer = trailer.fields
			return used, err
		}
	}
	return used, nil
}

// appendHead appends the head of the answer and says how the body goes. After
// an error, which is the application's, nothing of it may be used.
func (p *response) appendHead(b []byte, x *exchange, date []byte) (out []byte, f framing, err error) {
	if f, err = p.frame(x); err != nil {
		return b, f, err
	}
	b = append(append(b, x.version...), ' ')
	b = append(b, p.status...)
	if len(p.status) == 3 {
		b = append(b, ' ') // RFC 9112 4: the space stays without a reason
	}
	b = append(b, "\r\n"...)
	if !x.own || !p.has("SERVER") {
		b = append(b, cmp.Or(x.server, "Server: gunicorn")...)
		b = append(b, "\r\n"...)
	}
	if !x.own || !p.has("DATE") {
		b = append(b, "Date: "...)
		b = append(b, date...)
		b = append(b, "\r\n"...)
	}
	switch {
	case f.upgrade:
		b = append(b, "Connection: upgrade\r\n"...)
	case f.keepAlive:
		b = append(b, "Connection: keep-alive\r\n"...)
	default:
		b = append(b, "Connection: close\r\n"...)
	}
	if f.chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	lengths := 0
	for i := range p.fields {
		switch name, value := p.fields[i].name, trimBlanks(p.fields[i].value); kindOf(name) {
		case lengthField:
			if lengths++; lengths == 1 && f.code >= 200 && f.code != 204 {
				b = appendField(b, name, value)
			}
		case upgradeField:
			if foldEqual(value, "WEBSOCKET") {
				b = appendField(b, name, value)
			}
		case hopField:
			if x.own && (len(name) == len("DATE") || len(name) == len("SERVER")) {
				b = appendField(b, name, value)
			}
		case plainField:
			b = appendField(b, name, value)
		}
	}
	return append(b, "\r\n"...), f, nil
}

// has says whether a field is there, by its name in upper case.
func (p *response) has(name string) bool {
	for i := range p.fields {
		if foldEqual(p.fields[i].name, name) {
			return true
		}
	}
	return false
}

// frame checks the answer and decides where its body ends.
func (p *response) frame(x *exchange) (framing, error) {
	f, closes := framing{length: -1}, false
	if len(p.status) < 3 || len(p.status) > 3 && p.status[3] != ' ' || !validValue(p.status) {
		return f, fmt.Errorf("invalid status: %q", p.status)
	}
	for i, c := range p.status[:3] {
		if c < '0' || c > '9' || i == 0 && c == '0' {
			return f, fmt.Errorf("invalid status: %q", p.status)
		}
		f.code = 10*f.code + int(c-'0')
	}
	for i := range p.fields {
		name, value := p.fields[i].name, trimBlanks(p.fields[i].value)
		if err := checkField(name, value); err != nil {
			return f, err
		}
		switch kindOf(name) {
		case lengthField:
			n := parseLength(value)
			if n < 0 || f.length >= 0 && n != f.length {
				return f, fmt.Errorf("invalid Content-Length: %q", value)
			}
			f.length = n
		case connectionField:
			f.upgrade = f.upgrade || foldEqual(value, "UPGRADE")
			closes = closes || x.own && foldEqual(value, "CLOSE")
		}
	}
	f.noBody = x.head || f.code < 200 || f.code == 204 || f.code == 304
	if f.noBody {
		f.length = 0
	}
	f.chunked = f.length < 0 && x.minor > 0
	// A client takes what follows an interim answer for the final one, so it
	// must not be the answer to its next request.
	f.keepAlive = x.keepAlive && !closes && (f.length >= 0 || f.chunked) && f.code >= 200
	return f, nil
}

// checkField names the field at fault and keeps its value, which may be a
// cookie, out of the log.
func checkField(name, value []byte) error {
	for _, c := range name {
		if environByte[c] == 0 {
			return fmt.Errorf("invalid header name: %q", name)
		}
	}
	if len(name) == 0 {
		return fmt.Errorf("invalid header name: %q", name)
	}
	if !validValue(value) {
		return fmt.Errorf("invalid value of header %q", name)
	}
	return nil
}

type fieldKind uint8

const (
	plainField fieldKind = iota
	lengthField
	connectionField
	upgradeField
	hopField // the server's own affair, dropped
)

// kindOf says what an application's field is to the server.
func kindOf(name []byte) fieldKind {
	kind, s := plainField, ""
	switch len(name) {
	case 2:
		kind, s = hopField, "TE"
	case 4:
		kind, s = hopField, "DATE"
	case 6:
		kind, s = hopField, "SERVER"
	case 7:
		kind, s = upgradeField, "UPGRADE"
	case 8:
		kind, s = hopField, "TRAILERS"
	case 10:
		kind, s = connectionField, "CONNECTION"
		if upper(name[0]) == 'K' {
			kind, s = hopField, "KEEP-ALIVE"
		}
	case 14:
		kind, s = lengthField, "CONTENT-LENGTH"
	case 17:
		kind, s = hopField, "TRANSFER-ENCODING"
	case 18:
		kind, s = hopField, "PROXY-AUTHENTICATE"
	case 19:
		kind, s = hopField, "PROXY-AUTHORIZATION"
	}
	if kind != plainField && !foldEqual(name, s) {
		kind = plainField
	}
	return kind
}

func appendField(b, name, value []byte) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// appendEarlyHints appends a 103 answer. Only HTTP/1.1 clients know it.
func appendEarlyHints(b []byte, fields []field) ([]byte, error) {
	out := append(b, "HTTP/1.1 103 Early Hints\r\n"...)
	for i := range fields {
		name, value := fields[i].name, trimBlanks(fields[i].value)
		if err := checkField(name, value); err != nil {
			return b, err
		}
		if kindOf(name) == plainField {
			out = appendField(out, name, value)
		}
	}
	return append(out, "\r\n"...), nil
}

// appendChunkSize appends the line before a chunk of n bytes.
func appendChunkSize(b []byte, n int) []byte {
	at := len(b)
	b = strconv.AppendUint(b, uint64(n), 16)
	for i := range b[at:] {
		b[at+i] = upper(b[at+i])
	}
	return append(b, "\r\n"...)
}
