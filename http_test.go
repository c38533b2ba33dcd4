package main

// Cases are raw bytes in test/testdata/http/NAME.req and, beside them, what is
// understood in NAME.want: the settings that differ from the defaults, then the
// request, its environ and its body, or the answer. `go test -update-http`
// writes the latter anew.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

var updateHTTP = flag.Bool("update-http", false, "write test/testdata/http/*.want anew")

// httpCase is what surrounds a request: settings, peer and connection.
type httpCase struct {
	config     config
	trusted    bool
	endpoint   endpoint
	scriptName string
}

func newHTTPCase() *httpCase {
	return &httpCase{
		config: config{
			limitRequestLine:      4094,
			limitRequestFields:    100,
			limitRequestFieldSize: 8190,
			forwarderHeaders:      []string{"SCRIPT_NAME", "PATH_INFO"},
			headerMap:             "drop",
			secureSchemeHeaders: [][2]string{
				{"X-FORWARDED-PROTOCOL", "ssl"}, {"X-FORWARDED-PROTO", "https"}, {"X-FORWARDED-SSL", "on"},
			},
		},
		endpoint: endpoint{
			serverName: "127.0.0.1", serverPort: "8000", remoteAddr: "10.0.0.1", remotePort: "54321",
		},
	}
}

// set applies one word of a case's settings line.
func (h *httpCase) set(word string) error {
	name, value, _ := strings.Cut(word, "=")
	c := &h.config
	number := func(n *int) (err error) {
		*n, err = strconv.Atoi(value)
		return err
	}
	switch name {
	case "trusted":
		h.trusted = true
	case "https":
		h.endpoint.https = true
	case "unix":
		h.trusted = true
		h.endpoint = endpoint{unix: true, serverName: "/run/app.sock"}
	case "server_name":
		h.endpoint.serverName = value
	case "server_port":
		h.endpoint.serverPort = value
	case "remote_addr":
		h.endpoint.remoteAddr = value
	case "remote_port":
		h.endpoint.remotePort = value
	case "script_name":
		h.scriptName = value
	case "limit_request_line":
		return number(&c.limitRequestLine)
	case "limit_request_fields":
		return number(&c.limitRequestFields)
	case "limit_request_field_size":
		return number(&c.limitRequestFieldSize)
	case "permit_unconventional_http_method":
		c.permitUnconventionalHTTPMethod = true
	case "permit_unconventional_http_version":
		c.permitUnconventionalHTTPVersion = true
	case "casefold_http_method":
		c.casefoldHTTPMethod = true
	case "permit_obsolete_folding":
		c.permitObsoleteFolding = true
	case "strip_header_spaces":
		c.stripHeaderSpaces = true
	case "header_map":
		c.headerMap = value
	case "forwarder_headers":
		c.forwarderHeaders = strings.Split(value, ",")
	default:
		return fmt.Errorf("unknown setting %q", word)
	}
	return nil
}

// parsePieces feeds raw[:cut] for every cut, each time in another buffer, and
// the whole at the end. A buffer that has been left is overwritten.
func (h *httpCase) parsePieces(r *request, raw []byte, cuts ...int) ([]byte, int, *badRequest) {
	r.reset()
	for _, cut := range append(cuts, len(raw)) {
		buf := bytes.Clone(raw[:cut])
		if n, err := r.parse(buf, &h.config, h.trusted); n > 0 || err != nil {
			return buf, n, err
		}
		clear(buf)
	}
	return nil, 0, nil
}

// understand says what is made of raw when it arrives in such pieces.
func (h *httpCase) understand(raw []byte, cuts ...int) string {
	var r request
	_, n, err := h.parsePieces(&r, raw, cuts...)
	if err == nil && n > 0 {
		err = r.checkScriptName(h.scriptName)
	}
	switch {
	case err != nil:
		return err.describe()
	case n == 0:
		return "incomplete\n"
	}
	var w strings.Builder
	fmt.Fprintf(&w, "%s %q %s keep-alive %v expect %v\n", r.method, r.target, r.version, r.keepAlive, r.expect)
	environ := h.environ(&r)
	keys := make([]string, 0, len(environ))
	for k := range environ {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		fmt.Fprintf(&w, "%s %q\n", k, environ[k])
	}
	rest := raw[n:]
	switch {
	case r.chunked:
		var body []byte
		var done bool
		var d chunkedDecoder
		body, n, done, err = decodePieces(&d, rest, &h.config, shift(cuts, n)...)
		fmt.Fprintf(&w, "chunked %v %q\n", done, body)
		if err != nil {
			return w.String() + err.describe()
		}
		if len(d.trailer) > 0 {
			v, _ := unmarshal(appendTrailer(nil, d.trailer))
			fmt.Fprintf(&w, "trailer %q\n", v)
		}
		rest = rest[n:]
	case r.contentLength >= 0:
		k := min(r.contentLength, int64(len(rest)))
		fmt.Fprintf(&w, "length %d %q\n", r.contentLength, rest[:k])
		rest = rest[k:]
	}
	if len(rest) > 0 {
		fmt.Fprintf(&w, "rest %q\n", rest)
	}
	return w.String()
}

func (e *badRequest) describe() string {
	return fmt.Sprintf("%d %s\nlog %q\npage %q\naccess %v\n", e.status, e.reason, e.text, e.message, e.access)
}

// cut shortens text for a message.
func cut(text string) string {
	if len(text) > 1000 {
		return fmt.Sprintf("%.1000q... (%d bytes)", text, len(text))
	}
	return fmt.Sprintf("%q", text)
}

// shift returns the cuts of what follows n bytes.
func shift(cuts []int, n int) []int {
	out := []int{}
	for _, cut := range cuts {
		if cut > n {
			out = append(out, cut-n)
		}
	}
	return out
}

func (h *httpCase) environ(r *request) map[string]any {
	b := append(r.appendEnviron([]byte{marshalDict}, &h.endpoint, h.scriptName), marshalDictEnd)
	v, err := unmarshal(b)
	if err != nil {
		panic(fmt.Sprintf("environ %q: %v", b, err))
	}
	return v.(map[string]any)
}

func decodePieces(d *chunkedDecoder, in []byte, c *config, cuts ...int) (out []byte, n int, done bool, err *badRequest) {
	from := 0
	for _, cut := range append(cuts, len(in)) {
		piece := bytes.Clone(in[from:cut])
		var k int
		out, k, done, err = d.decode(out, piece, c)
		n += k
		clear(piece)
		if done || err != nil {
			break
		}
		if n != cut {
			panic(fmt.Sprintf("decode left %d of %d bytes", cut-n, cut-from))
		}
		from = cut
	}
	return out, n, done, err
}

// The number of bytes that were too many depends on how many had come.
var lineSize = regexp.MustCompile(`too large \(\d+`)

func TestRequests(t *testing.T) {
	names, err := filepath.Glob("test/testdata/http/*.req")
	if err != nil || len(names) == 0 {
		t.Fatal("no cases in test/testdata/http:", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".req"), func(t *testing.T) { testRequest(t, name) })
	}
}

func testRequest(t *testing.T, name string) {
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	wantName := strings.TrimSuffix(name, ".req") + ".want"
	want, err := os.ReadFile(wantName)
	if err != nil {
		t.Fatal(err)
	}
	h := newHTTPCase()
	settings := ""
	if first, rest, ok := strings.Cut(string(want), "\n"); ok && strings.HasPrefix(first, "settings: ") {
		settings, want = first+"\n", []byte(rest)
		for _, word := range strings.Fields(first)[1:] {
			if err := h.set(word); err != nil {
				t.Fatal(err)
			}
		}
	}
	whole := h.understand(raw)
	if *updateHTTP {
		if err := os.WriteFile(wantName, []byte(settings+whole), 0o666); err != nil {
			t.Fatal(err)
		}
	} else if whole != string(want) {
		t.Fatalf("whole:\n%swant:\n%s", whole, want)
	}
	same := func(how, got string) {
		got, want := lineSize.ReplaceAllString(got, ""), lineSize.ReplaceAllString(whole, "")
		if got != want {
			t.Fatalf("%s:\n%swant:\n%s", how, got, want)
		}
	}
	var drip []int
	for cut := range raw {
		if len(raw) < 1000 || cut%97 == 0 || cut > len(raw)-100 {
			same(fmt.Sprintf("cut at %d", cut), h.understand(raw, cut))
			drip = append(drip, cut)
		}
	}
	same("dripping in", h.understand(raw, drip...))

	var r request
	good := "GET /good HTTP/1.0\r\nConnection: close\r\n\r\n"
	buf, n, bad := h.parsePieces(&r, append([]byte(good), raw...))
	if bad != nil || n != len(good) {
		t.Fatalf("good request: %d, %v", n, bad)
	}
	same("after a good request", h.understand(buf[n:]))
}

func TestErrorPage(t *testing.T) {
	for _, tt := range []struct {
		raw    string
		status string
		length string // by Python
	}{
		{"get / HTTP/1.1\r\n", "400 Bad Request", "184"},
		{"GET /\r\n", "400 Bad Request", "198"},
		{"GET / HTTP/3.0\r\n", "400 Bad Request", "182"},
		{"GET / HTTP/1.1\r\nHost x\r\n\r\n", "400 Bad Request", "160"},
		{"GET / HTTP/1.1\r\nExpect: foo\r\n\r\n", "417 Expectation Failed", "185"},
	} {
		h := newHTTPCase()
		var r request
		_, _, err := h.parsePieces(&r, []byte(tt.raw))
		if err == nil {
			t.Fatalf("%q: no error", tt.raw)
		}
		page := string(appendErrorPage(nil, err))
		head := "HTTP/1.1 " + tt.status + "\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: " + tt.length + "\r\n\r\n<html>\n"
		if !strings.HasPrefix(page, head) {
			t.Errorf("%q: %q, want %q", tt.raw, page, head)
		}
		checkPage(t, page)
	}
	const want = "before" +
		"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: 158\r\n\r\n" +
		"<html>\n  <head>\n    <title>Bad Request</title>\n  </head>\n  <body>\n    <h1><p>Bad Request</p></h1>\n" +
		"    &lt;a&gt; &amp; &quot;b&quot; &#x27;\xe9\n  </body>\n</html>\n"
	if got := string(appendErrorPage([]byte("before"), badText(400, "<a> & \"b\" 'é"))); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for status, reason := range map[int]string{
		408: "Request Timeout", 413: "Content Too Large", 500: "Internal Server Error",
		502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
	} {
		page := string(appendErrorPage(nil, newBadRequest(status, "", "")))
		if want := fmt.Sprintf("HTTP/1.1 %d %s\r\n", status, reason); !strings.HasPrefix(page, want) {
			t.Errorf("%q, want %q", page, want)
		}
		if status == 500 && !strings.Contains(page, "Content-Length: 141\r\n") {
			t.Errorf("%q, want a length of 141", page)
		}
		checkPage(t, page)
	}
}

// checkPage reads an error page as a client does.
func checkPage(t *testing.T, page string) {
	t.Helper()
	from := bufio.NewReader(strings.NewReader(page))
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatalf("%q: %v", page, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || int64(len(body)) != resp.ContentLength || from.Buffered() > 0 || !resp.Close {
		t.Fatalf("%q: %d of %d bytes, %d follow, close %v, %v",
			page, len(body), resp.ContentLength, from.Buffered(), resp.Close, err)
	}
}

func TestRepr(t *testing.T) {
	for in, want := range map[string]string{
		"":                     `''`,
		"it's":                 `"it's"`,
		`it's "x"`:             `'it\'s "x"'`,
		`"`:                    `'"'`,
		"a\tb\r\n\\":           `'a\tb\r\n\\'`,
		"\x00\x1b\x7f":         `'\x00\x1b\x7f'`,
		"\x80\xa0\xa1\xad\xe9": `'\x80\xa0¡\xadé'`,
	} {
		if got := repr([]byte(in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	if got := len(repr(make([]byte, 1<<20))); got != 4*maxQuoted+2 {
		t.Errorf("%d bytes", got)
	}
}

// TestDrip fails by the limit of go test if a head costs more than its length.
func TestDrip(t *testing.T) {
	h := newHTTPCase()
	h.config.limitRequestFieldSize = 0
	for _, raw := range []string{
		"GET / HTTP/1.0\r\nA: " + strings.Repeat("b", 700000) + "\r\n\r\n",
		"GET / HTTP/1.0\r\nA: " + strings.Repeat("\r", 300000),
	} {
		var r request
		r.reset()
		buf := []byte(raw)
		for i := range buf {
			n, err := r.parse(buf[:i+1], &h.config, false)
			if err != nil || n > 0 && n != len(buf) {
				t.Fatalf("%d of %d: %d, %v", i, len(buf), n, err)
			}
		}
	}
}

// TestManyFields fails by the limit of go test if fields cost their square.
func TestManyFields(t *testing.T) {
	h := newHTTPCase()
	h.config.limitRequestFields = 0
	raw := []byte("GET / HTTP/1.0\r\n")
	for i := range maxFieldsLimit {
		raw = fmt.Appendf(raw, "A%05d: x\r\n", i)
	}
	var r request
	if _, n, err := h.parsePieces(&r, append(raw, "\r\n"...)); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	if !r.repeated {
		t.Error("fields were searched one by one")
	}
	environ := h.environ(&r)
	for i := range maxFieldsLimit {
		if key := fmt.Sprintf("HTTP_A%05d", i); environ[key] != "x" {
			t.Fatalf("%s: %v", key, environ[key])
		}
	}
}

func TestNoAllocation(t *testing.T) {
	raw, err := os.ReadFile("test/testdata/http/browser.req")
	if err != nil {
		t.Fatal(err)
	}
	h := newHTTPCase()
	p := &response{status: []byte("200 OK"), fields: []field{
		{[]byte("Content-Type"), []byte("text/plain")}, {[]byte("Content-Length"), []byte("14")},
	}}
	var r request
	var d chunkedDecoder
	out := make([]byte, 0, 1<<16)
	chunks := []byte("5;a=b\r\nhello\r\n0\r\n\r\n")
	allocs := testing.AllocsPerRun(100, func() {
		r.reset()
		if n, err := r.parse(raw[:20], &h.config, true); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := r.parse(raw, &h.config, true); n != len(raw) || err != nil {
			t.Fatal(n, err)
		}
		if err := r.checkScriptName(""); err != nil {
			t.Fatal(err)
		}
		out = r.appendEnviron(out[:0], &h.endpoint, "")
		out, _, err = p.appendHead(out[:0], &exchange{version: r.version, minor: 1, keepAlive: true}, nil)
		d = chunkedDecoder{}
		out, _, _, _ = d.decode(out[:0], chunks, &h.config)
	})
	if allocs > 0 || err != nil || string(out) != "hello" {
		t.Errorf("%v allocations, %v, %q", allocs, err, out)
	}
}

// headCase is one answer of an application; fields are lines of "Name: value".
type headCase struct {
	name     string
	status   string
	fields   []string
	exchange exchange
	head     string // without Server and Date
	framing  framing
	err      string
}

var headCases = []headCase{
	{name: "length", status: "200 OK", fields: []string{"Content-Type: text/plain", "content-length: 14"}, exchange: keep11,
		head:    "HTTP/1.1 200 OK|Connection: keep-alive|Content-Type: text/plain|content-length: 14",
		framing: framing{code: 200, length: 14, keepAlive: true}},
	{name: "length, close", status: "200 OK", fields: []string{"Content-Length: 14"}, exchange: close11,
		head: "HTTP/1.1 200 OK|Connection: close|Content-Length: 14", framing: framing{code: 200, length: 14}},
	{name: "chunked", status: "200 OK", fields: []string{"A: b", "a: c"}, exchange: keep11,
		head:    "HTTP/1.1 200 OK|Connection: keep-alive|Transfer-Encoding: chunked|A: b|a: c",
		framing: framing{code: 200, chunked: true, length: -1, keepAlive: true}},
	{name: "chunked, 205", status: "205 Reset Content", exchange: keep11,
		head:    "HTTP/1.1 205 Reset Content|Connection: keep-alive|Transfer-Encoding: chunked",
		framing: framing{code: 205, chunked: true, length: -1, keepAlive: true}},
	{name: "1.2", status: "200 OK", exchange: exchange{version: []byte("HTTP/1.2"), minor: 1},
		head: "HTTP/1.2 200 OK|Connection: close|Transfer-Encoding: chunked", framing: framing{code: 200, chunked: true, length: -1}},
	{name: "1.0 until close", status: "200 OK", exchange: keep10,
		head: "HTTP/1.0 200 OK|Connection: close", framing: framing{code: 200, length: -1}},
	{name: "1.0 length", status: "200 OK", fields: []string{"Content-Length: 0"}, exchange: keep10,
		head: "HTTP/1.0 200 OK|Connection: keep-alive|Content-Length: 0", framing: framing{code: 200, keepAlive: true}},
	{name: "head", status: "200 OK", exchange: head11,
		head: "HTTP/1.1 200 OK|Connection: keep-alive", framing: framing{code: 200, noBody: true, keepAlive: true}},
	{name: "head length", status: "200 OK", fields: []string{"Content-Length: 14"}, exchange: head11,
		head: "HTTP/1.1 200 OK|Connection: keep-alive|Content-Length: 14", framing: framing{code: 200, noBody: true, keepAlive: true}},
	{name: "204", status: "204 No Content", fields: []string{"Content-Length: 0"}, exchange: keep11,
		head: "HTTP/1.1 204 No Content|Connection: keep-alive", framing: framing{code: 204, noBody: true, keepAlive: true}},
	{name: "304", status: "304 Not Modified", fields: []string{"Content-Length: 9"}, exchange: keep11,
		head: "HTTP/1.1 304 Not Modified|Connection: keep-alive|Content-Length: 9", framing: framing{code: 304, noBody: true, keepAlive: true}},
	{name: "304, 1.0", status: "304 Not Modified", exchange: keep10,
		head: "HTTP/1.0 304 Not Modified|Connection: keep-alive", framing: framing{code: 304, noBody: true, keepAlive: true}},
	{name: "1xx", status: "199 Odd", fields: []string{"Content-Length: 9"}, exchange: keep11,
		head: "HTTP/1.1 199 Odd|Connection: close", framing: framing{code: 199, noBody: true}},
	{name: "upgrade", status: "101 Switching Protocols", exchange: keep11,
		fields:  []string{"Upgrade: WebSocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x"},
		head:    "HTTP/1.1 101 Switching Protocols|Connection: upgrade|Upgrade: WebSocket|Sec-WebSocket-Accept: x",
		framing: framing{code: 101, noBody: true, upgrade: true}},
	{name: "upgrade to another", status: "200 OK", fields: []string{"Upgrade: h2c", "Connection: close"}, exchange: keep11,
		head: "HTTP/1.1 200 OK|Connection: keep-alive|Transfer-Encoding: chunked", framing: framing{code: 200, chunked: true, length: -1, keepAlive: true}},
	{name: "hop by hop", status: "200 OK", exchange: close11, fields: []string{
		"CONNECTION: x", "keep-alive: 5", "Proxy-Authenticate: a", "Proxy-Authorization: b", "te: c", "Trailers: d",
		"Transfer-Encoding: chunked", "Server: e", "Date: f", "Trailer: g", "Content-Length: 1"},
		head: "HTTP/1.1 200 OK|Connection: close|Trailer: g|Content-Length: 1", framing: framing{code: 200, length: 1}},
	{name: "near names", status: "200 OK", exchange: close11, fields: []string{
		"Content_Length: 7", "Datum: x", "T: x", "Upgrades: x", "Location: x", "Content-Lengtg: x", "KEEP_ALIVE: x"},
		head: "HTTP/1.1 200 OK|Connection: close|Transfer-Encoding: chunked|" +
			"Content_Length: 7|Datum: x|T: x|Upgrades: x|Location: x|Content-Lengtg: x|KEEP_ALIVE: x",
		framing: framing{code: 200, chunked: true, length: -1}},
	{name: "values", status: "200 \xe9\t", exchange: close11, fields: []string{"A: \t b \tc\xff ", "B:", "Content-Length: 2", "Content-Length: 2"},
		head: "HTTP/1.1 200 \xe9\t|Connection: close|A: b \tc\xff|B: |Content-Length: 2", framing: framing{code: 200, length: 2}},
	{name: "no reason", status: "200", fields: []string{"Content-Length: 2"}, exchange: close11,
		head: "HTTP/1.1 200 |Connection: close|Content-Length: 2", framing: framing{code: 200, length: 2}},
	{name: "empty reason", status: "999 ", fields: []string{"Content-Length: 2"}, exchange: close11,
		head: "HTTP/1.1 999 |Connection: close|Content-Length: 2", framing: framing{code: 999, length: 2}},

	{name: "status empty", status: "", err: `invalid status: ""`},
	{name: "status word", status: "OK", err: `invalid status: "OK"`},
	{name: "status words", status: "OK 200", err: `invalid status: "OK 200"`},
	{name: "status long", status: "2000 OK", err: `invalid status: "2000 OK"`},
	{name: "status short", status: "20 OK", err: `invalid status: "20 OK"`},
	{name: "status low", status: "099 OK", err: `invalid status: "099 OK"`},
	{name: "status split", status: "200 OK\r\nA: b", err: `invalid status: "200 OK\r\nA: b"`},
	{name: "status DEL", status: "200 \x7f", err: `invalid status: "200 \x7f"`},
	{name: "name blank", status: "200 OK", fields: []string{"X Foo: b"}, err: `invalid header name: "X Foo"`},
	{name: "name empty", status: "200 OK", fields: []string{": b"}, err: `invalid header name: ""`},
	{name: "name split", status: "200 OK", fields: []string{"A\r\nB: b"}, err: `invalid header name: "A\r\nB"`},
	{name: "name 8 bit", status: "200 OK", fields: []string{"\xe9: b"}, err: `invalid header name: "\xe9"`},
	{name: "value split", status: "200 OK", fields: []string{"A: b\r\nC: d"}, err: `invalid value of header "A"`},
	{name: "value NUL", status: "200 OK", fields: []string{"A: b\x00"}, err: `invalid value of header "A"`},
	{name: "value of a dropped field", status: "200 OK", fields: []string{"Date: b\n"}, err: `invalid value of header "Date"`},
	{name: "length word", status: "200 OK", fields: []string{"Content-Length: x"}, err: `invalid Content-Length: "x"`},
	{name: "length empty", status: "200 OK", fields: []string{"Content-Length:"}, err: `invalid Content-Length: ""`},
	{name: "length sign", status: "200 OK", fields: []string{"Content-Length: +1"}, err: `invalid Content-Length: "+1"`},
	{name: "length minus", status: "200 OK", fields: []string{"Content-Length: -1"}, err: `invalid Content-Length: "-1"`},
	{name: "length over", status: "200 OK", fields: []string{"Content-Length: 9223372036854775808"}, err: `invalid Content-Length: "9223372036854775808"`},
	{name: "length twice", status: "200 OK", fields: []string{"Content-Length: 1", "content-length: 2"}, err: `invalid Content-Length: "2"`},
	{name: "length at 204", status: "204 No Content", fields: []string{"Content-Length: x"}, err: `invalid Content-Length: "x"`},
}

var (
	keep11  = exchange{version: []byte("HTTP/1.1"), minor: 1, keepAlive: true}
	keep10  = exchange{version: []byte("HTTP/1.0"), keepAlive: true}
	close11 = exchange{version: []byte("HTTP/1.1"), minor: 1}
	head11  = exchange{version: []byte("HTTP/1.1"), minor: 1, head: true, keepAlive: true}
)

func splitFields(lines []string) (fields []field) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, field{[]byte(name), []byte(value)})
	}
	return fields
}

func TestResponseHead(t *testing.T) {
	const date = "Sun, 22 Nov 2026 20:15:26 GMT"
	for _, tt := range headCases {
		p := response{status: []byte(tt.status), fields: splitFields(tt.fields)}
		out, f, err := p.appendHead([]byte("before"), &tt.exchange, []byte(date))
		if tt.err != "" {
			if err == nil || err.Error() != tt.err || string(out) != "before" {
				t.Errorf("%s: %q, %v, want %s", tt.name, out, err, tt.err)
			}
			continue
		}
		first, rest, _ := strings.Cut(tt.head, "|")
		want := "before" + first + "\r\nServer: gunicorn\r\nDate: " + date + "\r\n" +
			strings.ReplaceAll(rest, "|", "\r\n") + "\r\n\r\n"
		if err != nil || string(out) != want || f != tt.framing {
			t.Errorf("%s: %q, %+v, %v\nwant %q, %+v", tt.name, out, f, err, want, tt.framing)
		}
	}
}

func TestEarlyHints(t *testing.T) {
	out, err := appendEarlyHints([]byte("x"), splitFields([]string{
		"Link: </style.css>; rel=preload ", "Content-Length: 5", "Transfer-Encoding: chunked", "Link: b"}))
	if want := "xHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nLink: b\r\n\r\n"; err != nil || string(out) != want {
		t.Errorf("%q, %v, want %q", out, err, want)
	}
	for _, bad := range []string{"A B: c", "A: b\r\nC: d", ": x"} {
		if out, err := appendEarlyHints([]byte("x"), splitFields([]string{"Link: a", bad})); err == nil || string(out) != "x" {
			t.Errorf("%q: %q, %v", bad, out, err)
		}
	}
}

func TestChunkSize(t *testing.T) {
	for n, want := range map[int]string{0: "x0\r\n", 10: "xA\r\n", 255: "xFF\r\n", 8192: "x2000\r\n"} {
		if got := string(appendChunkSize([]byte("x"), n)); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestLatin(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "é\u0080ÿa": "\xe9\x80\xffa"} {
		if got, ok := latin([]byte("x"), []byte(in)); !ok || strings.TrimPrefix(string(got), "x") != want {
			t.Errorf("%q: %q, %v, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{"Ā", "€", "a😀", "\xed\xa0\x80", "\xc3", "\xc3a", "\xe9", "\xc1\x81", "\xff", "\x80"} {
		if got, ok := latin(nil, []byte(in)); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// seedRequests adds the raw bytes of all cases that are of fuzzing's size.
func seedRequests(f *testing.F, add func(raw []byte)) {
	names, _ := filepath.Glob("test/testdata/http/*.req")
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(raw) < 2000 {
			add(raw)
		}
	}
}

// fuzzCase makes settings of the bits of flags.
func fuzzCase(flags uint16) *httpCase {
	h := newHTTPCase()
	words := []string{"trusted", "https", "unix", "script_name=/foo", "limit_request_line=30", "limit_request_fields=2",
		"limit_request_field_size=20", "permit_unconventional_http_method", "permit_unconventional_http_version",
		"casefold_http_method", "permit_obsolete_folding", "strip_header_spaces", "header_map=refuse",
		"header_map=dangerous", "forwarder_headers=*", "limit_request_fields=0"}
	for i, word := range words {
		if flags>>i&1 == 1 {
			h.set(word)
		}
	}
	return h
}

func FuzzRequest(f *testing.F) {
	seedRequests(f, func(raw []byte) { f.Add(raw, uint16(0), uint16(len(raw)/2)) })
	f.Fuzz(func(t *testing.T, raw []byte, flags, cut uint16) {
		h := fuzzCase(flags)
		whole := lineSize.ReplaceAllString(h.understand(raw), "")
		at := min(int(cut), len(raw))
		if got := lineSize.ReplaceAllString(h.understand(raw, at), ""); got != whole {
			t.Fatalf("cut at %d:\n%swhole:\n%s", at, got, whole)
		}
		var r request
		buf, n, err := h.parsePieces(&r, raw)
		if err != nil {
			if n != 0 || !isPrintable(err.text) || !isPrintable(err.message) {
				t.Fatalf("%d bytes of a bad request, %q", n, err.text)
			}
			checkPage(t, string(appendErrorPage(nil, err)))
			return
		}
		if n < 0 || n > len(raw) {
			t.Fatalf("consumed %d of %d bytes", n, len(raw))
		}
		if n > 0 {
			checkRequest(t, h, &r)
			checkAgainstGo(t, h, &r, buf[:n])
			if again := h.understand(append(buf[:n:n], raw[n:]...)); lineSize.ReplaceAllString(again, "") != whole {
				t.Fatalf("read again:\n%sfirst:\n%s", again, whole)
			}
		}
	})
}

func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || 0x7f <= c && c < 0xa0 })
}

// checkRequest checks what every accepted request has.
func checkRequest(t *testing.T, h *httpCase, r *request) {
	control := func(c rune) bool { return c <= ' ' || 0x7f <= c && c < 0xa0 }
	if bytes.ContainsFunc(r.target, control) || len(r.target) == 0 {
		t.Fatalf("accepted target %q", r.target)
	}
	lengths, codings := 0, 0
	for _, f := range r.fields {
		if len(f.name) == 0 || bytes.ContainsAny(f.name, " \t\r\n\x00:()<>@,;\\\"/[]?={}\x7f") {
			t.Fatalf("accepted name %q", f.name)
		}
		if bytes.ContainsFunc(f.value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			t.Fatalf("accepted value %q", f.value)
		}
		switch strings.ToUpper(string(f.name)) {
		case "CONTENT-LENGTH":
			lengths++
		case "TRANSFER-ENCODING":
			codings++
		}
	}
	if lengths > 1 || lengths == 1 != (r.contentLength >= 0) || codings > 0 != r.chunked || lengths > 0 && codings > 0 {
		t.Fatalf("accepted %d lengths and %d codings as %d, %v", lengths, codings, r.contentLength, r.chunked)
	}
	if r.chunked && r.minor == 0 {
		t.Fatal("accepted chunked in HTTP/1.0")
	}
	if r.checkScriptName(h.scriptName) != nil {
		return
	}
	environ := h.environ(r)
	if environ["PATH_INFO"] != string(r.appendPathInfo(nil, h.scriptName)) {
		t.Fatalf("path %q, PATH_INFO %q", r.path, environ["PATH_INFO"])
	}
	total := 0
	for k, v := range environ {
		if text, ok := v.(string); !ok || strings.ContainsFunc(text, func(c rune) bool { return c > 0xff }) {
			t.Fatalf("%s: %v", k, v)
		}
		if strings.HasPrefix(k, "HTTP_") || strings.HasPrefix(k, "CONTENT_") {
			total += len([]rune(v.(string)))
		}
		if strings.ContainsAny(k, "-abcdefhjkmopqstvxyz") && k != "wsgi.url_scheme" {
			t.Fatalf("key %q", k)
		}
	}
	for _, f := range r.fields {
		total -= len(f.value)
	}
	if total < 0 || total >= max(1, len(r.fields)) {
		t.Fatalf("values in the environ are %d bytes longer than those in the head", total)
	}
}

// checkAgainstGo reads an accepted head with another server's eyes: if that
// accepts it too, the body must end in the same place.
func checkAgainstGo(t *testing.T, h *httpCase, r *request, head []byte) {
	other, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return
	}
	length := max(0, r.contentLength)
	if r.chunked {
		length = -1
	}
	if other.Method != string(r.method) && !h.config.casefoldHTTPMethod || other.RequestURI != string(r.target) ||
		other.ContentLength != length {
		t.Fatalf("%s %q, length %d; Go says %s %q, length %d",
			r.method, r.target, length, other.Method, other.RequestURI, other.ContentLength)
	}
}

func FuzzChunked(f *testing.F) {
	seedRequests(f, func(raw []byte) {
		if _, body, ok := bytes.Cut(raw, []byte("\r\n\r\n")); ok && len(body) > 0 {
			f.Add(body, uint16(len(body)/2), uint16(0))
		}
	})
	f.Fuzz(func(t *testing.T, in []byte, cut, flags uint16) {
		h := fuzzCase(flags)
		var d, e chunkedDecoder
		whole, n, done, err := decodePieces(&d, in, &h.config)
		got, m, gotDone, gotErr := decodePieces(&e, in, &h.config, min(int(cut), len(in)))
		if !bytes.Equal(got, whole) || gotDone != done || !reflect.DeepEqual(gotErr, err) || err == nil && n != m {
			t.Fatalf("cut at %d: %q, %d, %v, %v; whole: %q, %d, %v, %v", cut, got, m, gotDone, gotErr, whole, n, done, err)
		}
		if len(whole) > n || n > len(in) || err == nil && !done && n != len(in) {
			t.Fatalf("%d bytes of data from %d of %d, done %v", len(whole), n, len(in), done)
		}
		if len(e.partial) > max(maxChunkLine, h.config.headBound()+len(in)) || d.left < 0 {
			t.Fatalf("%d bytes kept, %d to come", len(e.partial), d.left)
		}
		if err != nil {
			if !isPrintable(err.text) {
				t.Fatalf("%q", err.text)
			}
			return
		}
		if !done {
			return
		}
		if !bytes.HasSuffix(in[:n], []byte("\r\n\r\n")) {
			t.Fatalf("body ends in %q", in[:n])
		}
		other, otherErr := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in[:n])))
		if otherErr == nil && !bytes.Equal(other, whole) {
			t.Fatalf("data %q, Go says %q", whole, other)
		}
	})
}

func FuzzResponseHead(f *testing.F) {
	for _, tt := range headCases {
		f.Add([]byte(tt.status), []byte(strings.Join(tt.fields, "|")), tt.exchange.keepAlive, tt.exchange.head, tt.exchange.minor == 0)
	}
	f.Fuzz(func(t *testing.T, status, lines []byte, keepAlive, head, old bool) {
		var fields []string
		if len(lines) > 0 {
			fields = strings.Split(string(lines), "|")
		}
		p := response{status: status, fields: splitFields(fields)}
		x := exchange{version: []byte("HTTP/1.1"), minor: 1, head: head, keepAlive: keepAlive}
		if old {
			x.version, x.minor = []byte("HTTP/1.0"), 0
		}
		out, fr, err := p.appendHead(nil, &x, []byte("Sun, 22 Nov 2026 20:15:26 GMT"))
		if hints, hintsErr := appendEarlyHints(nil, p.fields); err == nil && hintsErr != nil || bytes.Count(hints, []byte("\r\n\r\n")) > 1 {
			t.Fatalf("hints %q, %v", hints, hintsErr)
		}
		if err != nil {
			if len(out) != 0 || !isPrintable(err.Error()) {
				t.Fatalf("%q, %v", out, err)
			}
			return
		}
		checkHead(t, &p, &x, out, fr)
	})
}

// checkHead reads a response head line by line, then as a client does.
func checkHead(t *testing.T, p *response, x *exchange, out []byte, f framing) {
	if bytes.Index(out, []byte("\r\n\r\n")) != len(out)-4 || bytes.ContainsAny(out, "\x00\x7f") {
		t.Fatalf("head %q", out)
	}
	lines := strings.Split(string(out[:len(out)-4]), "\r\n")
	given := []string{}
	for _, f := range p.fields {
		given = append(given, string(f.name)+": "+string(trimBlanks(f.value)))
	}
	count := map[string]int{}
	for i, line := range lines {
		name, _, ok := strings.Cut(line, ":")
		count[strings.ToLower(name)]++
		own := i < 4 || f.chunked && i == 4
		if strings.ContainsAny(line, "\r\n") || i > 0 && !ok || !own && !slices.Contains(given, line) {
			t.Fatalf("line %q", line)
		}
	}
	for _, name := range []string{"server", "date", "connection"} {
		if count[name] != 1 {
			t.Fatalf("%d times %s in %q", count[name], name, out)
		}
	}
	lengths, codings := count["content-length"], count["transfer-encoding"]
	if lengths+codings > 1 || codings == 1 != f.chunked || f.noBody && f.length != 0 || f.chunked && (f.length != -1 || f.noBody) ||
		f.keepAlive && (!x.keepAlive || f.length < 0 && !f.chunked) {
		t.Fatalf("framing %+v of %q", f, out)
	}
	req := &http.Request{Method: "GET"}
	if x.head {
		req.Method = "HEAD"
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), req)
	if err != nil {
		t.Fatalf("head %q: %v", out, err)
	}
	if resp.StatusCode != f.code || !f.noBody && resp.ContentLength != f.length {
		t.Fatalf("framing %+v of %q, Go says %d, %d", f, out, resp.StatusCode, resp.ContentLength)
	}
	if f.noBody {
		if body, err := io.ReadAll(resp.Body); len(body) > 0 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("body %q, %v", body, err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"get", "browser"} {
		b.Run(name, func(b *testing.B) {
			raw, err := os.ReadFile("test/testdata/http/" + name + ".req")
			if err != nil {
				b.Fatal(err)
			}
			h := newHTTPCase()
			var r request
			b.ReportAllocs()
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				r.reset()
				if n, err := r.parse(raw, &h.config, true); n == 0 || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func BenchmarkEnviron(b *testing.B) {
	for _, name := range []string{"get", "browser"} {
		b.Run(name, func(b *testing.B) {
			raw, err := os.ReadFile("test/testdata/http/" + name + ".req")
			if err != nil {
				b.Fatal(err)
			}
			h := newHTTPCase()
			var r request
			r.reset()
			if n, err := r.parse(raw, &h.config, true); n == 0 || err != nil {
				b.Fatal(n, err)
			}
			out := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				out = r.appendEnviron(out[:0], &h.endpoint, "")
			}
		})
	}
}

func BenchmarkResponseHead(b *testing.B) {
	p := response{status: []byte("200 OK"), fields: splitFields([]string{
		"Content-Type: text/html; charset=utf-8", "Content-Length: 1400", "X-Frame-Options: DENY", "Vary: Cookie"})}
	out := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		out, _, _ = p.appendHead(out[:0], &keep11, []byte("Sun, 22 Nov 2026 20:15:26 GMT"))
	}
}

// The PROXY protocol --------------------------------------------------------

// binaryProxy is a header of version 2 around the rest.
func binaryProxy(command, family byte, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	inet  = "\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb" // 192.0.2.1:56324 to 198.51.100.1:443
	inet6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xdc\x04\x01\xbb"
)

var proxyCases = []struct {
	name, raw, mode string
	want            string // the text of describeProxy, without the bytes behind the header
}{
	{"v1 TCP4", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", "v1", "TCP4 192.0.2.1:56324 198.51.100.1:443"},
	{"v1 TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", "auto", "TCP6 [2001:db8::1]:56324 [2001:db8::2]:443"},
	{"v1 TCP6 written at length", "PROXY TCP6 2001:0DB8:0:0:0:0:0:1 ::1 1 2\r\n", "v1", "TCP6 [2001:db8::1]:1 [::1]:2"},
	{"v1 TCP6 mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "v1", "TCP6 [::ffff:192.0.2.1]:1 [::1]:2"},
	{"v1 ports", "PROXY TCP4 192.0.2.1 198.51.100.1 0 65535\r\n", "v1", "TCP4 192.0.2.1:0 198.51.100.1:65535"},
	{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", "v1", "UNKNOWN - -"},
	{"v1 UNKNOWN, ignored", "PROXY UNKNOWN ffff::1 whatever 1\r\n", "v1", "UNKNOWN - -"},
	{"v1 longest", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", "v1", "UNKNOWN - -"},
	{"v1 one longer", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", "v1",
		"400 Invalid PROXY line: line too long 'PROXY UNKNOWN " + strings.Repeat("x", 92) + `\r'`},
	{"v1 endless", "PROXY TCP4 " + strings.Repeat("1", 200), "v1",
		"400 Invalid PROXY line: line too long 'PROXY TCP4 " + strings.Repeat("1", 96) + "'"},
	{"v1 LF", "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n", "v1", `400 Invalid PROXY line: 'PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n'`},
	{"v1 CR", "PROXY UNKNOWN a\rb\r\n", "v1", `400 Invalid PROXY line: 'PROXY UNKNOWN a\rb\r\n'`},
	{"v1 empty", "PROXY \r\n", "v1", "400 Invalid PROXY line: protocol '' not supported 'PROXY '"},
	{"v1 lower case", "PROXY tcp4 192.0.2.1 198.51.100.1 1 2\r\n", "v1",
		"400 Invalid PROXY line: protocol 'tcp4' not supported 'PROXY tcp4 192.0.2.1 198.51.100.1 1 2'"},
	{"v1 UDP", "PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n", "v1",
		"400 Invalid PROXY line: protocol 'UDP4' not supported 'PROXY UDP4 192.0.2.1 198.51.100.1 1 2'"},
	{"v1 a request", "PROXY / HTTP/1.1\r\n", "v1", "400 Invalid PROXY line: protocol '/' not supported 'PROXY / HTTP/1.1'"},
	{"v1 five words", "PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4 192.0.2.1 198.51.100.1 1'"},
	{"v1 seven words", "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3'"},
	{"v1 two blanks", "PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4  192.0.2.1 198.51.100.1 1 2'"},
	{"v1 blank at the end", "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4 192.0.2.1 198.51.100.1 1 2 '"},
	{"v1 TAB", "PROXY TCP4\t192.0.2.1 198.51.100.1 1 2\r\n", "v1",
		`400 Invalid PROXY line: protocol 'TCP4\t192.0.2.1' not supported 'PROXY TCP4\t192.0.2.1 198.51.100.1 1 2'`},
	{"v1 TCP4 of IPv6", "PROXY TCP4 ::1 ::1 1 2\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4 ::1 ::1 1 2'"},
	{"v1 TCP6 of IPv4", "PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP6 192.0.2.1 192.0.2.1 1 2'"},
	{"v1 leading zero", "PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4 192.0.2.01 198.51.100.1 1 2'"},
	{"v1 name", "PROXY TCP4 localhost 198.51.100.1 1 2\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4 localhost 198.51.100.1 1 2'"},
	{"v1 server no address", "PROXY TCP4 192.0.2.1 x 1 2\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP4 192.0.2.1 x 1 2'"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "v1", "400 Invalid PROXY line: 'PROXY TCP6 fe80::1%eth0 ::1 1 2'"},
	{"v1 port too large", "PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n", "v1",
		"400 Invalid PROXY line: invalid port 'PROXY TCP4 192.0.2.1 198.51.100.1 65536 2'"},
	{"v1 port signed", "PROXY TCP4 192.0.2.1 198.51.100.1 1 +2\r\n", "v1",
		"400 Invalid PROXY line: invalid port 'PROXY TCP4 192.0.2.1 198.51.100.1 1 +2'"},
	{"v1 port zeros", "PROXY TCP4 192.0.2.1 198.51.100.1 080 2\r\n", "v1",
		"400 Invalid PROXY line: invalid port 'PROXY TCP4 192.0.2.1 198.51.100.1 080 2'"},
	{"v1 NUL", "PROXY TCP4 192.0.2.1\x00 198.51.100.1 1 2\r\n", "v1", `400 Invalid PROXY line: 'PROXY TCP4 192.0.2.1\x00 198.51.100.1 1 2'`},
	{"v1 where v2 is expected", "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n", "v2", "none"},
	{"v1 open", "PROXY TCP4 192.0.2.1", "v1", "open"},
	{"v1 begun", "PROX", "auto", "open"},
	{"nothing", "", "auto", "open"},
	{"a request", "GET / HTTP/1.1\r\n\r\n", "auto", "none"},
	{"nearly v1", "PROXYTCP4", "auto", "none"},

	{"v2 TCP4", binaryProxy(0x21, 0x11, inet), "v2", "TCP4 192.0.2.1:56324 198.51.100.1:443"},
	{"v2 TCP6", binaryProxy(0x21, 0x21, inet6), "auto", "TCP6 [2001:db8::1]:56324 [2001:db8::2]:443"},
	{"v2 TLVs", binaryProxy(0x21, 0x11, inet+"\x04\x00\x03abc"), "v2", "TCP4 192.0.2.1:56324 198.51.100.1:443"},
	{"v2 longest", binaryProxy(0x21, 0x11, inet+strings.Repeat("\x04", maxProxyHeader-proxyFixed-12)), "v2",
		"TCP4 192.0.2.1:56324 198.51.100.1:443"},
	{"v2 one longer", binaryProxy(0x21, 0x11, inet+strings.Repeat("\x04", maxProxyHeader-proxyFixed-11)), "v2",
		"400 Invalid PROXY header: too long: 4097"},
	{"v2 far longer", binaryProxy(0x21, 0x11, "")[:14] + "\xff\xff", "v2", "400 Invalid PROXY header: too long: 65551"},
	{"v2 LOCAL", binaryProxy(0x20, 0x00, ""), "v2", "LOCAL - -"},
	{"v2 LOCAL with addresses", binaryProxy(0x20, 0x11, inet), "v2", "LOCAL - -"},
	{"v2 LOCAL of any family", binaryProxy(0x20, 0xff, "abc"), "v2", "LOCAL - -"},
	{"v2 UNSPEC", binaryProxy(0x21, 0x00, ""), "v2", "UNSPEC - -"},
	{"v2 UNSPEC of a stream", binaryProxy(0x21, 0x01, "abc"), "v2", "UNSPEC - -"},
	{"v2 TCP4 too short", binaryProxy(0x21, 0x11, inet[:11]), "v2", "400 Invalid PROXY header: too short: 11"},
	{"v2 TCP6 too short", binaryProxy(0x21, 0x21, inet6[:35]), "v2", "400 Invalid PROXY header: too short: 35"},
	{"v2 version 1", binaryProxy(0x11, 0x11, inet), "v2", "400 Invalid PROXY header: version 1"},
	{"v2 version 3", binaryProxy(0x31, 0x11, inet), "v2", "400 Invalid PROXY header: version 3"},
	{"v2 command", binaryProxy(0x22, 0x11, inet), "v2", "400 Invalid PROXY header: command 2"},
	{"v2 UDP", binaryProxy(0x21, 0x12, inet), "v2", "400 Invalid PROXY header: transport 2"},
	{"v2 no transport", binaryProxy(0x21, 0x10, inet), "v2", "400 Invalid PROXY header: transport 0"},
	{"v2 unix", binaryProxy(0x21, 0x31, strings.Repeat("\x00", 216)), "v2", "400 Invalid PROXY header: address family 3"},
	{"v2 where v1 is expected", binaryProxy(0x21, 0x11, inet), "v1", "none"},
	{"v2 signature cut", "\r\n\r\n\x00\r\nQUIT", "v2", "open"},
	{"v2 signature wrong", "\r\n\r\n\x00\r\nQUIT\r", "v2", "none"},
	{"v2 open", binaryProxy(0x21, 0x11, inet)[:27], "v2", "open"},
}

// describeProxy describes how raw is understood when it arrives in such pieces, and returns
// the bytes behind the header.
func describeProxy(raw []byte, mode string, cuts ...int) (said string, rest []byte) {
	for _, cut := range append(cuts, len(raw)) {
		buf := bytes.Clone(raw[:cut])
		parse, open := proxyForm(buf, mode)
		if open {
			continue
		}
		if parse == nil {
			return "none", raw
		}
		h, n, err := parse(buf)
		clear(buf)
		if err != nil {
			return fmt.Sprintf("%d %s", err.status, err.text), nil
		}
		if n == 0 {
			continue
		}
		var e endpoint
		e.setClient(h)
		if !h.client.IsValid() {
			return h.protocol + " - -", raw[n:]
		}
		if e.remoteAddr != h.client.Addr().String() || e.proxy.addr != h.server.Addr().String() {
			return "introduce lost an address", nil
		}
		return fmt.Sprintf("%s %v %v", h.protocol, h.client, h.server), raw[n:]
	}
	return "open", nil
}

func TestProxyHeader(t *testing.T) {
	const after = "GET / HTTP/1.1\r\n\r\n"
	for _, tt := range proxyCases {
		complete := !strings.HasPrefix(tt.want, "4") && tt.want != "open" && tt.want != "none"
		raw := tt.raw
		if complete {
			raw += after
		}
		var drip []int
		for cut := 0; cut <= len(raw); cut++ {
			got, rest := describeProxy([]byte(raw), tt.mode, cut)
			if got != tt.want || complete && string(rest) != after {
				t.Errorf("%s, cut at %d: %s, then %q, want %s", tt.name, cut, got, rest, tt.want)
				break
			}
			drip = append(drip, cut)
		}
		if got, _ := describeProxy([]byte(raw), tt.mode, drip...); got != tt.want {
			t.Errorf("%s, dripping in: %s, want %s", tt.name, got, tt.want)
		}
	}
	if e := forbiddenProxy("10.0.0.1"); e.status != 403 || e.reason != "Forbidden" ||
		e.text != "Proxy request from '10.0.0.1' not allowed" || e.message != "Request forbidden" {
		t.Errorf("%+v", e)
	}
}

func FuzzProxyHeader(f *testing.F) {
	modes := []string{"v1", "v2", "auto"}
	for _, tt := range proxyCases {
		for mode := range modes {
			f.Add([]byte(tt.raw), uint8(mode), uint16(len(tt.raw)/2))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, mode uint8, cut uint16) {
		m := modes[int(mode)%len(modes)]
		whole, rest := describeProxy(raw, m)
		if got, _ := describeProxy(raw, m, min(int(cut), len(raw))); got != whole {
			t.Fatalf("cut at %d: %s, whole: %s", cut, got, whole)
		}
		used := len(raw) - len(rest)
		switch {
		case whole == "none" && used != 0, whole == "open" && len(raw) >= maxProxyHeader:
			t.Fatalf("%s of %d bytes", whole, len(raw))
		case whole[0] == '4':
			if !isPrintable(whole) || !strings.HasPrefix(whole, "400 ") {
				t.Fatalf("%q", whole)
			}
		case whole != "none" && whole != "open":
			if used > maxProxyHeader || raw[0] == 'P' && (used > maxProxyLine || !bytes.HasSuffix(raw[:used], []byte("\r\n"))) {
				t.Fatalf("a header of %d bytes: %s", used, whole)
			}
		}
	})
}

// The model -------------------------------------------------------------------

// The model: what the parsers alone make of bytes. Tests in test/ hold the server
// against it. They cannot call the parsers, so they run this package's tests with
// -model FILE: TestModelHTTP answers the questions in FILE, TestModelWebSocket
// writes its cases there, both as JSON.

var model = flag.String("model", "", "exchange with the tests in test/ through `FILE`")

// question is a stream of bytes, and the settings under which it is read.
type question struct {
	Settings []string
	Stream   []byte
}

// answer is what becomes of the whole stream, and of its first request alone.
type answer struct {
	Outcomes []outcome
	First    opinion
}

// outcome is what becomes of one request: a call of the application, or the
// status that the client gets instead.
type outcome struct {
	Status  int
	Head    bool // the answer has no body
	Environ map[string]any
	Body    []byte
}

// opinion is what a parser makes of one request, as text in Latin-1.
type opinion struct {
	Verdict string // accepts, refuses or waits for more
	Why     string
	Method  string
	Target  string
	Fields  [][2]string
	Body    string
	Rest    string
	Keep    bool
}

func TestModelHTTP(t *testing.T) {
	if *model == "" {
		t.Skip("it answers tests in test/")
	}
	var questions []question
	b, err := os.ReadFile(*model)
	if err == nil {
		err = json.Unmarshal(b, &questions)
	}
	if err != nil {
		t.Fatal(err)
	}
	var answers []answer
	for _, q := range questions {
		h := newHTTPCase()
		for _, word := range q.Settings {
			if err := h.set(word); err != nil {
				t.Fatal(err)
			}
		}
		answers = append(answers, answer{h.outcomes(q.Stream), h.opinion(q.Stream)})
	}
	writeModel(t, answers)
}

func writeModel(t *testing.T, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(*model, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// outcomes reads a whole stream, whose client sends nothing after it and waits
// for what comes: one outcome for each answer.
func (h *httpCase) outcomes(stream []byte) (list []outcome) {
	for at := 0; ; {
		var r request
		buf, n, err := h.parsePieces(&r, stream[at:])
		if n == 0 && err == nil {
			return list // without a whole head there is nothing to answer
		}
		if err == nil {
			err = r.checkScriptName(h.scriptName)
		}
		o := outcome{Status: 200, Head: string(r.method) == "HEAD"}
		if err == nil {
			o.Environ = h.environ(&r)
			var used int
			o.Body, used, err = h.takeBody(&r, buf[n:])
			at += n + used
		}
		if err != nil {
			return append(list, outcome{Status: err.status, Head: o.Head})
		}
		if list = append(list, o); !r.keepAlive {
			return list
		}
	}
}

// takeBody reads a body at the front of in. One that never ends is a mistake of
// the client's, which has nothing more to say.
func (h *httpCase) takeBody(r *request, in []byte) (body []byte, n int, err *badRequest) {
	done := true
	switch {
	case r.chunked:
		var d chunkedDecoder
		body, n, done, err = d.decode(nil, in, &h.config)
	case r.contentLength > int64(len(in)):
		done = false
	case r.contentLength > 0:
		n = int(r.contentLength)
		body = in[:n]
	}
	if err == nil && !done {
		err = newBadRequest(400, "", "")
	}
	return body, n, err
}

// opinion is what this server makes of raw.
func (h *httpCase) opinion(raw []byte) opinion {
	var r request
	buf, n, err := h.parsePieces(&r, raw)
	if err == nil && n > 0 {
		err = r.checkScriptName(h.scriptName)
	}
	switch {
	case err != nil:
		return opinion{Verdict: "refuses", Why: err.text}
	case n == 0:
		return opinion{Verdict: "waits"}
	}
	o := opinion{Verdict: "accepts", Method: string(r.method), Target: latinText(r.target), Keep: r.keepAlive}
	for _, f := range r.fields {
		o.Fields = append(o.Fields, [2]string{latinText(f.name), latinText(f.value)})
	}
	body, used, err := h.takeBody(&r, buf[n:])
	switch {
	case err != nil && err.access:
		return opinion{Verdict: "refuses", Why: err.text}
	case err != nil:
		return opinion{Verdict: "waits"}
	}
	o.Body, o.Rest = latinText(body), latinText(raw[n+used:])
	return o
}

// latinText is how Python shows bytes in a str.
func latinText(b []byte) string { return string(appendLatin(nil, b)) }

// TestOutcomes looks at the model that tests take for the truth.
func TestOutcomes(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for stream, want := range map[string]string{
		"":        "",
		"GET / H": "",
		get + get + "HEAD / HTTP/1.0\r\n\r\n" + get:                                                   "200 200 200",
		get + "GET /\r\n\r\n" + get:                                                                   "200 400",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab" + get + "GET":                     "200 200",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n" + get:                              "400",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + get:   "200 200",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + get:  "400",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n":             "400",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + get:                                "200",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + get: "400",
	} {
		var got []string
		for _, o := range newHTTPCase().outcomes([]byte(stream)) {
			got = append(got, strconv.Itoa(o.Status))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", stream, got, want)
		}
	}
}

// wsModel is a case of WebSocket frames, and what the decoder alone makes of it.
type wsModel struct {
	Name    string
	In      []byte
	Want    string // lines, "|" between them
	Deflate bool
	Limit   int64
	At      int      // when not 0: the byte with which a mistake is one
	Steps   []wsStep // its frames, one by one
	Closed  bool     // a close frame was read
	Open    bool     // a close frame behind it is not read as one: it ends within a frame
	Bad     bool     // there is a mistake, of that close frame too if Open
}

// wsStep is a frame, and the lines that it adds to the transcript.
type wsStep struct {
	Frame []byte
	Lines []string
}

func TestModelWebSocket(t *testing.T) {
	if *model == "" {
		t.Skip("it answers tests in test/")
	}
	var list []wsModel
	for _, tt := range wsCases() {
		m := wsModel{Name: tt.name, In: []byte(tt.in), Want: tt.want, Deflate: tt.deflate, Limit: tt.limit, At: tt.at}
		r := &wsReader{d: newWSDecoder(tt.bound(), tt.deflate, &wsPool{})}
		for _, frame := range framesOf(tt.in) {
			r.log.Reset()
			r.feed([]byte(frame))
			m.Steps = append(m.Steps, wsStep{[]byte(frame), strings.Split(strings.TrimSuffix(r.log.String(), "\n"), "\n")})
			if r.log.Len() == 0 {
				m.Steps[len(m.Steps)-1].Lines = nil
			}
		}
		m.Closed, m.Bad = r.closed, r.bad != nil
		if r.feed([]byte(wsCloseFrame(1000, ""))); !m.Closed && !m.Bad {
			m.Open, m.Bad = !r.closed, r.bad != nil
		}
		list = append(list, m)
	}
	writeModel(t, list)
}

// framesOf cuts a client's bytes into frames. What is no frame comes last.
func framesOf(raw string) (list []string) {
	for len(raw) >= 2 {
		head, n, bad := frameLen([]byte(raw))
		if head += 4; head == 4 || raw[1]&wsMasked == 0 || bad != nil || int64(len(raw)-head) < n {
			break
		}
		list = append(list, raw[:head+int(n)])
		raw = raw[head+int(n):]
	}
	if raw != "" {
		list = append(list, raw)
	}
	return list
}
