package main

// HTTP/1.1 responses as pure functions: the head that an application gave
// becomes bytes and a decision how the body is sent; a client's mistake becomes
// a page.

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// response is the head of a response as the application gave it, in latin-1.
type response struct {
	status []byte // code and reason: "200 OK"
	fields []field
}

// exchange has the facts on which a response depends, beside the application's head.
type exchange struct {
	version   []byte // version of the request, "HTTP/1.1"
	minor     int    // minor version of the request: 0 or 1
	streamed  bool   // the request is a stream of HTTP/2, whose frames tell where the body ends
	head      bool   // the request's method is HEAD
	keepAlive bool   // client and server both allow the connection to persist
	server    ownFields
	own       bool // the application's Server, Date and "Connection: close" are kept (ASGI)
}

// framing is how a response's body is sent.
type framing struct {
	code      int   // status code
	noBody    bool  // no body may be sent (HEAD, 1xx, 204, 304); the application's is dropped
	chunked   bool  // the body is sent in chunks
	length    int64 // bytes of the body, -1 when not known in advance
	keepAlive bool  // the connection persists after the response
	upgrade   bool  // the response says Connection: upgrade
}

// appendHead appends the head of the response and decides how the body is sent.
// An error is the application's mistake; what has been appended is then invalid.
func (p *response) appendHead(b []byte, x *exchange, date []byte) (out []byte, f framing, err error) {
	if f, err = p.frame(x); err != nil {
		return b, f, err
	}
	b = append(append(b, x.version...), ' ')
	b = append(b, p.status...)
	if len(p.status) == 3 {
		b = append(b, ' ') // RFC 9112 4 wants the space even without a reason phrase
	}
	b = append(b, "\r\n"...)
	b = p.appendOwn(b, x.own, x.server, date)
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

// ownFields says what the server adds to responses of its own accord.
type ownFields struct {
	line            string // the Server field, "" for the default
	hidden, undated bool   // no Server field, no Date field (server_header and date_header of uvicorn)
}

// appendOwn appends Server and Date. If own is true, a field of the two that the application
// has set is used in place of the server's.
func (p *response) appendOwn(b []byte, own bool, server ownFields, date []byte) []byte {
	if !server.hidden && (!own || !hasField(p.fields, "SERVER")) {
		b = append(b, cmp.Or(server.line, "Server: gunicorn")...)
		b = append(b, "\r\n"...)
	}
	if !server.undated && (!own || !hasField(p.fields, "DATE")) {
		b = append(b, "Date: "...)
		b = append(b, date...)
		b = append(b, "\r\n"...)
	}
	return b
}

// frame checks the response and decides where its body ends.
func (p *response) frame(x *exchange) (framing, error) {
	f, closes := framing{length: -1}, false
	code, reason := p.status[:min(3, len(p.status))], p.status[min(3, len(p.status)):]
	f.code = int(parseLength(code))
	if f.code < 100 || len(reason) > 0 && reason[0] != ' ' || !validValue(reason) {
		return f, fmt.Errorf("invalid status: %q", p.status)
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
	f.chunked = f.length < 0 && x.minor > 0 && !x.streamed
	// A client takes the response after a 1xx for the final response to the same
	// request, so no other response may follow a 1xx that the application ended with.
	f.keepAlive = x.keepAlive && !closes && (f.length >= 0 || f.chunked) && f.code >= 200
	return f, nil
}

// checkField checks an application's field. The error names the field but not
// the value, which may be a secret (a cookie) that must not be logged.
func checkField(name, value []byte) error {
	if len(name) == 0 || tokenLen(name) < len(name) {
		return fmt.Errorf("invalid header name: %q", name)
	}
	if !validValue(value) {
		return fmt.Errorf("invalid value of header %q", name)
	}
	return nil
}

type fieldKind uint8

const (
	plainField      fieldKind = iota // sent as the application gave the field
	lengthField                      // Content-Length
	connectionField                  // Connection
	upgradeField                     // Upgrade
	hopField                         // for the server to decide; the application's is dropped
)

// serverFields are the fields of responses that are not plain, by the length
// of the name. KEEP-ALIVE, as long as CONNECTION, is in kindOf.
var serverFields = [...]struct {
	name string
	kind fieldKind
}{
	2:  {"TE", hopField},
	4:  {"DATE", hopField},
	6:  {"SERVER", hopField},
	7:  {"UPGRADE", upgradeField},
	8:  {"TRAILERS", hopField},
	10: {"CONNECTION", connectionField},
	14: {"CONTENT-LENGTH", lengthField},
	17: {"TRANSFER-ENCODING", hopField},
	18: {"PROXY-AUTHENTICATE", hopField},
	19: {"PROXY-AUTHORIZATION", hopField},
}

// kindOf returns what a field of the application means to the server.
func kindOf(name []byte) fieldKind {
	if len(name) >= len(serverFields) {
		return plainField
	}
	f := &serverFields[len(name)]
	switch {
	case foldEqual(name, f.name):
		return f.kind
	case foldEqual(name, "KEEP-ALIVE"):
		return hopField
	}
	return plainField
}

func appendField(b, name, value []byte) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// appendEarlyHints appends a 103 response (RFC 8297). HTTP/1.0 has no 1xx, so
// the caller has checked that the client speaks HTTP/1.1.
func appendEarlyHints(b []byte, fields []field) ([]byte, error) {
	out, err := appendFields(append(b, "HTTP/1.1 103 Early Hints\r\n"...), fields, plainField)
	if err != nil {
		return b, err
	}
	return append(out, "\r\n"...), nil
}

// appendFields appends those fields of the application that are plain or of the kind also.
func appendFields(b []byte, fields []field, also fieldKind) ([]byte, error) {
	for i := range fields {
		name, value := fields[i].name, trimBlanks(fields[i].value)
		if err := checkField(name, value); err != nil {
			return b, err
		}
		if kind := kindOf(name); kind == plainField || kind == also {
			b = appendField(b, name, value)
		}
	}
	return b, nil
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

// badRequest is a client's mistake: a response to send and a line to log.
type badRequest struct {
	status  int    // status code of the response
	reason  string // reason phrase of the response
	fields  string // additional response fields, each with its CRLF
	text    string // ERROR in the log line `Invalid request from ip=IP: ERROR`
	message string // sentence on the response's page, before escaping
	access  bool   // the request was understood well enough for the access log
	left    bool   // the client has closed the connection or is unreachable
}

func (e *badRequest) Error() string { return e.text }

// newBadRequest makes a badRequest with a text for the error log and a message
// for the page.
func newBadRequest(status int, text, message string) *badRequest {
	return &badRequest{status: status, reason: reasonPhrase(status), text: text, message: message}
}

// badText makes a badRequest that the page and the log describe alike.
func badText(status int, text string) *badRequest {
	return newBadRequest(status, text, text)
}

// leftEarly makes the badRequest of a client that left before its request was complete.
func leftEarly(status int, text string) *badRequest {
	return &badRequest{status: status, reason: reasonPhrase(status), text: text, left: true}
}

// logged marks a mistake in a request that the access log can describe.
func (e *badRequest) logged() *badRequest {
	e.access = true
	return e
}

// reasonPhrases are the phrases of the statuses that the server itself sends.
var reasonPhrases = map[int]string{
	200: "OK",
	206: "Partial Content",
	301: "Moved Permanently",
	304: "Not Modified",
	400: "Bad Request",
	403: "Forbidden",
	404: "Not Found",
	405: "Method Not Allowed",
	408: "Request Timeout",
	412: "Precondition Failed",
	413: "Content Too Large",
	414: "URI Too Long",
	416: "Range Not Satisfiable",
	417: "Expectation Failed",
	426: "Upgrade Required",
	431: "Request Header Fields Too Large",
	501: "Not Implemented",
	502: "Bad Gateway",
	503: "Service Unavailable",
	504: "Gateway Timeout",
}

func reasonPhrase(status int) string {
	return cmp.Or(reasonPhrases[status], "Internal Server Error")
}

// appendErrorPage appends the whole response to a bad request, after which the
// connection closes. The page is latin-1 where its text allows, as Gunicorn's is.
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

// latin converts UTF-8 to latin-1. ASCII text is returned unchanged; other text
// is converted by appending to dst, which may be text[:0]. ok is false for
// characters that latin-1 does not have.
func latin(dst, text []byte) (out []byte, ok bool) {
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
