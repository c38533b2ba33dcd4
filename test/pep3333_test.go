package test

// PEP 3333 to the letter: what it says that servers must, must not and should
// do, each rule by the heading under which it stands. testdata/apps/pep3333.py
// is the application; scripts that begin with wsgi_ go deeper into some.
//
// Two rules of the rank of "should" are not followed, as under Gunicorn:
// hop-by-hop fields of an application are dropped and not an error, and what an
// operator wants to tell the application is in os.environ, not in environ.
// A third is half followed: errors in headers are found when they would be sent,
// and not yet in start_response.

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// pepRule is one sentence or several that say the same.
type pepRule struct {
	section string
	rule    string
	check   func(p *pepTest)
}

var pepRules = []pepRule{
	{"Specification Details", "the application is called with positional arguments", answers("/arguments", "yes")},
	{"Specification Details", "environ is a builtin dictionary that can be changed", answers("/dictionary", "yes")},
	{"Specification Details", "start_response returns a write callable", answers("/arguments", "yes")},
	{"Specification Details", "a bytestring is transmitted before the next is requested", (*pepTest).unbuffered},
	{"Specification Details", "bytestrings are not altered", (*pepTest).binary},
	{"Specification Details", "close() is called after a whole response", leaves("/close-normal", "closed-normal", 200)},
	{"Specification Details", "close() is called after an error in the iteration", leaves("/close-error", "closed-error", 0)},
	{"Specification Details", "close() is called after an error before the first block", leaves("/close-early", "closed-early", 500)},
	{"Specification Details", "close() is called when the client leaves", (*pepTest).clientLeaves},
	{"Specification Details", "start_response may be called by the first iteration", answers("/late-start", "yes")},
	{"Specification Details", "no other attributes of the iterable are used", (*pepTest).attributes},

	{"environ Variables", "what is required is there, native strings, and what is missing is left out", (*pepTest).variables},
	{"environ Variables", "SERVER_NAME and SERVER_PORT are never empty", (*pepTest).serverNames},
	{"environ Variables", "HTTP_ variables are latin-1 of what was sent", (*pepTest).latin},
	{"environ Variables", "wsgi.* are there and of the types given", answers("/wsgi", "yes")},
	{"environ Variables", "without multithread no second thread calls the application", (*pepTest).oneAtATime},
	{"URL Reconstruction", "the URL can be put together again", (*pepTest).url},

	{"Input and Error Streams", "read, readline, readlines and iteration work as a file's", (*pepTest).input},
	{"Input and Error Streams", "read() returns all that is left, then nothing", (*pepTest).readAll},
	{"Input and Error Streams", "the end of the body is the end of the file, whatever follows", (*pepTest).readPast},
	{"Input and Error Streams", "what is not read is not taken for a request", (*pepTest).unread},
	{"Input and Error Streams", "errors has write, writelines and flush, and takes any text", (*pepTest).errors},

	{"The start_response() Callable", "headers wait for the first block that is not empty", (*pepTest).heldBack},
	{"The start_response() Callable", "headers are sent when the iterable ends without a block", answers("/length-zero", "")},
	{"The start_response() Callable", "with exc_info the headers are replaced", (*pepTest).replaced},
	{"The start_response() Callable", "with exc_info, headers sent, the exception is raised again", (*pepTest).reraised},
	{"The start_response() Callable", "a second call without exc_info is an error", fails("/twice", "Response headers already set!")},
	{"The start_response() Callable", "no reference to exc_info is kept", answers("/no-reference", "yes")},
	{"The start_response() Callable", "what HTTP requires is added, and once", (*pepTest).added},
	{"The start_response() Callable", "names of headers have no case", (*pepTest).noCase},
	{"The start_response() Callable", "hop-by-hop headers are not sent", (*pepTest).hopByHop},
	{"The start_response() Callable", "control characters in headers are refused", fails("/control", "X-A")},
	{"The start_response() Callable", "control characters in the status are refused", fails("/control-status", "200 OK.r.nX-B")},

	{"Handling the Content-Length Header", "no more is sent, and the iteration stops", (*pepTest).tooLong},
	{"Handling the Content-Length Header", "write() past it is an error", (*pepTest).writtenPast},
	{"Handling the Content-Length Header", "too little closes the connection and is logged", (*pepTest).tooShort},
	{"Handling the Content-Length Header", "without it HTTP/1.1 gets chunks and keeps the connection, 1.0 does not", (*pepTest).noLength},

	{"Buffering and Streaming", "no block is delayed", (*pepTest).unbuffered},
	{"The write() Callable", "what is written is sent before it returns, and before what is yielded", (*pepTest).written},

	{"Unicode Issues", "what is not latin-1 is an error", fails("/unicode", "Error handling request")},
	{"Unicode Issues", "a block that is not bytes is an error", fails("/not-bytes", "is not a byte")},
	{"Unicode Issues", "write() of what is not bytes is an error", fails("/not-bytes-written", "is not a byte")},

	{"Error Handling", "an exception is logged, and answered if nothing was sent", fails("/raises", "before start_response")},
	{"Error Handling", "headers that were not sent are forgotten", (*pepTest).forgotten},
	{"Error Handling", "an exception in the body aborts the response", (*pepTest).aborted},

	{"HTTP 1.1 Expect/Continue", "the client is told to continue", (*pepTest).expect},
	{"HTTP 1.1 Expect/Continue", "it is not in HTTP/1.0", (*pepTest).expectOld},

	{"Other HTTP Features", "incoming transfer codings are the server's affair", (*pepTest).chunked},
	{"Other HTTP Features", "the response is not changed", (*pepTest).unchanged},

	{"Optional Platform-Specific File Handling", "the wrapper takes one argument or two, and is iterable", answers("/wrapper", "yes")},
	{"Optional Platform-Specific File Handling", "what is like a file is read from its position, and closed", (*pepTest).wrapped},
	{"Optional Platform-Specific File Handling", "a file is sent from its position, up to Content-Length", answers("/wrapped-file", "yes")},
	{"Optional Platform-Specific File Handling", "a wrapper that is not returned sends nothing", answers("/wrapper-thrown-away", "yes")},

	{"RFC 9110 6.4.1", "HEAD, 204 and 304 have no body, and shift no other response", (*pepTest).noBody},
	{"RFC 9110 15.2", "an interim status has no body, and no response comes after it", (*pepTest).interim},
}

// pepTest is one rule's test.
type pepTest struct {
	*testing.T
	s *server
}

func TestPEP3333(t *testing.T) {
	site := newSite(t, "pep3333.py")
	s := site.start(t, "pep3333:app")
	if !reference {
		s.expected = append(s.expected, regexp.MustCompile(`.`)) // many fail on purpose
	}
	for i, r := range pepRules {
		t.Run(fmt.Sprintf("%02d %s: %s", i+1, r.section, r.rule), func(t *testing.T) {
			os.Remove(filepath.Join(s.dir, "seen"))
			r.check(&pepTest{t, s})
		})
	}
}

// exchange sends raw text and reads until the server closes.
func (p *pepTest) exchange(raw string) string {
	p.Helper()
	c := p.s.dial(1)
	defer c.Close()
	c.SetDeadline(time.Now().Add(waitLimit))
	io.WriteString(c, raw)
	b, err := io.ReadAll(c)
	if err != nil && len(b) == 0 {
		p.Fatal(err)
	}
	return string(b)
}

func (p *pepTest) ask(path, more string) string {
	p.Helper()
	return p.exchange("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + more + "\r\n")
}

// get reads a response as a client does.
func (p *pepTest) get(path string, header ...string) (*http.Response, string) {
	p.Helper()
	req, err := http.NewRequest("GET", p.s.url+path, nil)
	if err != nil {
		p.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	req.Close = true
	client := http.Client{Timeout: waitLimit}
	resp, err := client.Do(req)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp, string(body) + " " + err.Error()
	}
	return resp, string(body)
}

func (p *pepTest) want(got, want string) {
	p.Helper()
	if got != want {
		p.Fatalf("%q, want %q", got, want)
	}
}

func (p *pepTest) wantMatch(got, re string) {
	p.Helper()
	if !regexp.MustCompile(re).MatchString(got) {
		p.Fatalf("%q does not match %q", got, re)
	}
}

func (p *pepTest) post(body, more string) string {
	p.Helper()
	return p.exchange("POST " + more + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)) + body)
}

func (p *pepTest) there(name string) bool {
	_, err := os.Stat(filepath.Join(p.s.dir, name))
	return err == nil
}

func (p *pepTest) waitFile(name string) {
	p.Helper()
	if !poll(waitLimit, func() bool { return p.there(name) }) {
		p.Fatalf("no file %s", name)
	}
}

// see tells the application that the client has.
func (p *pepTest) see() {
	if err := os.WriteFile(filepath.Join(p.s.dir, "seen"), nil, 0o644); err != nil {
		p.Fatal(err)
	}
}

// answers is a rule that the application finds kept.
func answers(path, want string) func(p *pepTest) {
	return func(p *pepTest) {
		resp, body := p.get(path)
		if resp.StatusCode != 200 || body != want {
			p.Fatalf("%s: %q, want %q", resp.Status, body, want)
		}
	}
}

// fails is a rule that makes an answer of 500, and a record that says why.
func fails(path, why string) func(p *pepTest) {
	return func(p *pepTest) {
		before := len(p.s.log())
		resp, body := p.get(path)
		if resp.StatusCode != 500 || strings.Contains(body, "never") || resp.Header.Get("X-B") != "" {
			p.Fatalf("%s: %q", resp.Status, body)
		}
		re := regexp.MustCompile(why)
		if !poll(waitLimit, func() bool { return re.MatchString(p.s.log()[before:]) }) {
			p.Fatalf("the log does not have %q", why)
		}
	}
}

// leaves is a rule whose sign is a file.
func leaves(path, file string, status int) func(p *pepTest) {
	return func(p *pepTest) {
		if got := p.ask(path, ""); status > 0 && !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", status)) {
			p.Fatalf("%q", got)
		}
		p.waitFile(file)
	}
}

func (p *pepTest) unbuffered() {
	c := p.open("GET /unbuffered HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	p.readUntil(c, "\r\n5\r\nfirst\r\n")
	p.see()
	p.readUntil(c, "6\r\nsecond\r\n0\r\n\r\n")
}

// open sends raw and leaves the connection open.
func (p *pepTest) open(raw string) net.Conn {
	p.Helper()
	c := p.s.dial(1)
	p.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(waitLimit))
	io.WriteString(c, raw)
	return c
}

// readUntil reads byte by byte up to the text.
func (p *pepTest) readUntil(c net.Conn, text string) string {
	p.Helper()
	var got []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(got), text); got = append(got, b[0]) {
		if _, err := io.ReadFull(c, b); err != nil {
			p.Fatalf("%v after %q, before %q", err, got, text)
		}
	}
	return string(got)
}

func (p *pepTest) binary() {
	_, body := p.get("/binary")
	var want []byte
	for i := range 256 {
		want = append(want, byte(i))
	}
	p.want(body, string(want)+"\r\n\n\r")
}

func (p *pepTest) clientLeaves() {
	c := p.open("GET /close-gone HTTP/1.1\r\nHost: x\r\n\r\n")
	p.readUntil(c, "xxx")
	c.Close()
	p.waitFile("closed-gone")
}

func (p *pepTest) attributes() {
	p.get("/attributes")
	_, body := p.get("/attributes-seen")
	p.want(body, "yes")
}

func (p *pepTest) variables() {
	got := p.exchange("GET /variables?a=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/x\r\n" +
		"X-There: 1\r\nX-There: 2\r\nX-Empty:\r\nContent-Length: 2\r\n\r\nab")
	p.wantMatch(got, `yes\r\n0`)
}

func (p *pepTest) serverNames() {
	host, port, _ := net.SplitHostPort(p.s.addr)
	_, body := p.get("/server")
	p.want(body, host+"|"+port)
	if reference {
		return // has no port of a unix socket without Host
	}
	s := newSite(p.T, "pep3333.py").start(p.T, "-b", "unix:app.sock", "pep3333:app")
	unix := &pepTest{p.T, s}
	for host, want := range map[string]string{
		"Host: h\r\n": "h|80", "Host: h:81\r\n": "h|81", "Host: h:\r\n": "h|80",
		"Host:\r\n": "app.sock|80", "Host:\r\nX-Forwarded-Proto: https\r\n": "app.sock|443",
	} {
		got := unix.exchange("GET /server HTTP/1.1\r\nConnection: close\r\n" + host + "\r\n")
		p.wantMatch(got, `\r\n`+regexp.QuoteMeta(want)+`\r\n`)
	}
}

func (p *pepTest) latin() {
	got := p.ask("/bytes?\xc3\xa9", "X: \xc3\xa9\xe2\x82\xac\r\n")
	p.wantMatch(got, `yes\r\n0`)
}

func (p *pepTest) oneAtATime() {
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, body := p.get("/threads"); body != "1 True" {
				p.Errorf("%q", body)
			}
		})
	}
	wait.Wait()
}

func (p *pepTest) url() {
	got := p.exchange("GET /url?a=%20b HTTP/1.0\r\nHost: shop.example:81\r\n\r\n")
	p.wantMatch(got, `http://shop\.example:81/url\?a=%20b\z`)
	got = p.exchange("GET /url?q HTTP/1.0\r\n\r\n")
	p.wantMatch(got, regexp.QuoteMeta(p.s.url)+`/url\?q\z`)
}

func (p *pepTest) input() {
	got := p.post("one\ntwo\nthree\nfour\nfive", "/input HTTP/1.0\r\n")
	p.wantMatch(got, `\r\n\r\nyes\z`)
}

func (p *pepTest) readAll() {
	got := p.post(strings.Repeat("x", 200000), "/read-all HTTP/1.0\r\n")
	p.wantMatch(got, `200000 b''\z`)
}

func (p *pepTest) readPast() {
	got := p.exchange("POST /read-past HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\none" +
		"GET /read-past HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	p.wantMatch(got, `\r\n3\r\none\r\n0\r\n\r\n`)
}

func (p *pepTest) unread() {
	got := p.exchange("POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 41\r\n\r\nGET /late-start HTTP/1.1\r\nHost: inside\r\n\r\n" +
		"GET /late-start HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if n := strings.Count(got, "yes"); n > 1 {
		p.Fatalf("%d answers: %q", n, got)
	}
}

func (p *pepTest) errors() {
	for _, args := range [][]string{nil, {"--error-logfile", "error.log"}} {
		site := newSite(p.T, "pep3333.py")
		s := site.start(p.T, append(args, "-e", "LC_ALL=C", "-e", "PYTHONCOERCECLOCALE=0", "-e", "PYTHONUTF8=0", "pep3333:app")...)
		of := &pepTest{p.T, s}
		_, body := of.get("/errors")
		p.want(body, "yes")
		s.waitLog(`^plain$`)
		s.waitLog(`^\S+ \S+ \\ud800$`)
		s.waitLog(`^lines 1\nlines 2$`)
	}
}

func (p *pepTest) heldBack() {
	c := p.open("GET /held-back HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	p.waitFile("empty")
	p.see()
	// Had the first status been sent, it would come first.
	got, err := io.ReadAll(c)
	if err != nil {
		p.Fatal(err)
	}
	p.wantMatch(string(got), `(?s)\AHTTP/1\.1 500 Oops\r\n.*\r\n5\r\nsorry\r\n0\r\n\r\n\z`)
}

func (p *pepTest) replaced() {
	resp, body := p.get("/replaced")
	if resp.Status != "500 Oops" || resp.Header.Get("X-First") != "" || resp.Header.Get("X-Second") != "2" || body != "sorry" {
		p.Fatalf("%s %v %q", resp.Status, resp.Header, body)
	}
}

func (p *pepTest) reraised() {
	got := p.ask("/reraised", "")
	p.wantMatch(got, `(?s)\AHTTP/1\.1 200 OK\r\n.*\r\n4\r\nsent\r\n\z`)
	p.waitFile("reraised")
}

func (p *pepTest) added() {
	for _, path := range []string{"/case", "/late-start", "/length-zero", "/binary"} {
		got := p.ask(path, "")
		for _, name := range []string{"Date", "Server", "Connection"} {
			if n := len(regexp.MustCompile(`(?i)\r\n`+name+`:`).FindAllString(got, -1)); n != 1 {
				p.Fatalf("%s: %d times %s in %q", path, n, name, got)
			}
		}
		p.wantMatch(got, `\r\nServer: gunicorn\r\n`)
		p.wantMatch(got, `\r\nDate: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n`)
	}
}

func (p *pepTest) noCase() {
	resp, body := p.get("/case")
	if resp.ContentLength != 3 || body != "yes" {
		p.Fatalf("%d %q", resp.ContentLength, body)
	}
}

func (p *pepTest) hopByHop() {
	got := p.exchange("GET /hop HTTP/1.1\r\nHost: x\r\n\r\nGET /hop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	for _, name := range []string{"Keep-Alive: ", "gzip", "TE: ", "Upgrade: ", "Proxy-Authenticate: "} {
		if strings.Contains(got, name) {
			p.Errorf("%s in %q", name, got)
		}
	}
}

func (p *pepTest) tooLong() {
	for path, file := range map[string]string{"/too-long": "long", "/too-long-block": "long-block"} {
		before := len(p.s.log())
		_, body := p.get(path)
		p.want(body, "yes")
		p.waitFile("closed-" + file)
		if p.there("went-on") || p.there("went-on-block") {
			p.Fatal("the iteration went on")
		}
		re := regexp.MustCompile(`longer than its Content-Length`)
		if !poll(waitLimit, func() bool { return re.MatchString(p.s.log()[before:]) }) {
			p.Fatal("nothing in the log")
		}
	}
}

func (p *pepTest) writtenPast() {
	_, body := p.get("/written-past")
	p.want(body, "yes")
	p.waitFile("refused")
}

func (p *pepTest) tooShort() {
	got := p.exchange("GET /too-short HTTP/1.1\r\nHost: x\r\n\r\n")
	p.wantMatch(got, `\r\n\r\nshort\z`)
	p.s.waitLog(`/too-short: the response body has 5 bytes and its Content-Length says 10; closing the connection`)
}

func (p *pepTest) noLength() {
	got := p.exchange("GET /no-length HTTP/1.1\r\nHost: x\r\n\r\nGET /no-length HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if n := strings.Count(got, "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"); n != 2 {
		p.Fatalf("%d bodies in %q", n, got)
	}
	got = p.exchange("GET /no-length HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
	p.wantMatch(got, `(?s)Connection: close\r\n.*\r\n\r\nonetwo\z`)
}

func (p *pepTest) written() {
	c := p.open("GET /written HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	p.readUntil(c, "6\r\nfirst \r\n")
	p.see()
	p.readUntil(c, "7\r\nsecond \r\n5\r\nthird\r\n0\r\n\r\n")
}

func (p *pepTest) forgotten() {
	resp, body := p.get("/raises-later")
	if resp.StatusCode != 500 || resp.Header.Get("Set-Cookie") != "" {
		p.Fatalf("%s %v %q", resp.Status, resp.Header, body)
	}
}

func (p *pepTest) aborted() {
	got := p.ask("/raises-late", "")
	p.wantMatch(got, `\r\n7\r\npartial\r\n\z`)
	p.s.waitLog(`RuntimeError: after the body began`)
}

func (p *pepTest) expect() {
	c := p.open("POST /read-all HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	p.want(p.readUntil(c, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n")
	io.WriteString(c, "abc")
	p.readUntil(c, "3 b''")
}

func (p *pepTest) expectOld() {
	c := p.open("POST /read-all HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	io.WriteString(c, "abc")
	p.wantMatch(p.readUntil(c, "3 b''"), `\AHTTP/1\.0 200 OK\r\n`)
}

func (p *pepTest) chunked() {
	got := p.exchange("POST /read-all HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	p.wantMatch(got, `3 b''`)
}

func (p *pepTest) unchanged() {
	got := p.ask("/codings", "Accept-Encoding: identity\r\nRange: bytes=0-1\r\nIf-None-Match: \"x\"\r\n")
	p.wantMatch(got, `(?s)\AHTTP/1\.1 200 OK\r\n.*Content-Encoding: gzip\r\nETag: "x"\r\nContent-Length: 8\r\n\r\nnot gzip\z`)
}

func (p *pepTest) wrapped() {
	_, body := p.get("/wrapped")
	p.want(body, "yes")
	p.waitFile("closed-reader")
}

func (p *pepTest) noBody() {
	got := p.exchange("HEAD /head HTTP/1.1\r\nHost: x\r\n\r\n" +
		"GET /status?204+No+Content HTTP/1.1\r\nHost: x\r\n\r\n" +
		"GET /status?304+Not+Modified HTTP/1.1\r\nHost: x\r\n\r\n" +
		"GET /late-start HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	p.wantMatch(got, `(?s)\AHTTP/1\.1 200 OK\r\n[^\x00]*?Content-Length: 4\r\n\r\nHTTP/1\.1 204 No Content\r\n.*?\r\n\r\n`+
		`HTTP/1\.1 304 Not Modified\r\n.*?\r\n\r\nHTTP/1\.1 200 OK\r\n.*?\r\n\r\n3\r\nyes\r\n0\r\n\r\n\z`)
	if strings.Contains(got, "body") {
		p.Fatalf("%q", got)
	}
}

func (p *pepTest) interim() {
	got := p.exchange("GET /status?103+Early HTTP/1.1\r\nHost: x\r\n\r\nGET /late-start HTTP/1.1\r\nHost: x\r\n\r\n")
	p.wantMatch(got, `(?s)\AHTTP/1\.1 103 Early\r\n.*?\r\n\r\n\z`)
	if strings.Contains(got, "body") {
		p.Fatalf("%q", got)
	}
}
