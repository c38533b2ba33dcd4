package main

// The cases of testdata/http once more, over sockets: the real binary gets each
// behind a good request, and what its application was called with must be what
// the parser alone makes of the same bytes, no call less and none more.

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rawCase is a case: its bytes, and the words of its settings line.
type rawCase struct {
	name     string
	raw      []byte
	settings []string
}

func (c *rawCase) surroundings(t testing.TB) *httpCase {
	t.Helper()
	h := newHTTPCase()
	for _, word := range c.settings {
		if err := h.set(word); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	return h
}

// rawCases reads all cases.
func rawCases(t testing.TB) []rawCase {
	t.Helper()
	names, err := filepath.Glob("testdata/http/*.req")
	if err != nil || len(names) == 0 {
		t.Fatal("no cases in testdata/http:", err)
	}
	var cases []rawCase
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		name = strings.TrimSuffix(name, ".req")
		c := rawCase{name: filepath.Base(name), raw: raw}
		first, _, _ := strings.Cut(readAll(name+".want"), "\n")
		if words, ok := strings.CutPrefix(first, "settings: "); ok {
			c.settings = strings.Fields(words)
		}
		cases = append(cases, c)
	}
	return cases
}

// outcome is what becomes of one request: a call of the application, or the
// status that the client gets instead.
type outcome struct {
	status  int
	head    bool // the answer has no body
	environ map[string]any
	body    []byte
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
		o := outcome{status: 200, head: string(r.method) == "HEAD"}
		if err == nil {
			o.environ = h.environ(&r)
			var used int
			o.body, used, err = h.takeBody(&r, buf[n:])
			at += n + used
		}
		if err != nil {
			return append(list, outcome{status: err.status, head: o.head})
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
		err = statusPage(400)
	}
	return body, n, err
}

// TestOutcomes looks at the model that TestServed takes for the truth.
func TestOutcomes(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for stream, want := range map[string]string{
		"":        "",
		"GET / H": "",
		get + get + "HEAD / HTTP/1.0\r\n\r\n" + get:                                        "200 200 200",
		get + "GET /\r\n\r\n" + get:                                                        "200 400",
		"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab" + get + "GET":                     "200 200",
		"POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\n" + get:                              "400",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + get:   "200 200",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + get:  "400",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n":             "400",
		"GET / HTTP/1.1\r\nConnection: close\r\n\r\n" + get:                                "200",
		"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + get: "400",
	} {
		var got []string
		for _, o := range newHTTPCase().outcomes([]byte(stream)) {
			got = append(got, strconv.Itoa(o.status))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %v, want %s", stream, got, want)
		}
	}
}

// recorder notes each call, and on /foo/calls says which there were.
const recorderApp = `
import json

calls = []

def app(environ, start_response):
    if environ["RAW_URI"] == "/foo/calls":
        body = json.dumps(calls).encode()
        calls.clear()
    else:
        call = {k: v for k, v in environ.items() if type(v) is str}
        calls.append(call)
        call["body"] = environ["wsgi.input"].read().decode("latin-1")
        body = b"taken"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
`

// The good request fits every case's settings, and so do the questions.
const (
	goodRequest  = "GET /foo/good HTTP/1.1\r\nHost: good\r\n\r\n"
	afterRequest = "GET /foo/after HTTP/1.1\r\nHost: after\r\n\r\n"
	callsRequest = "GET /foo/calls HTTP/1.1\r\nConnection: close\r\n\r\n"
)

func TestServed(t *testing.T) {
	if reference {
		t.Log("differs: testdata/http says what is understood here")
		return
	}
	groups := map[string][]rawCase{}
	for _, c := range rawCases(t) {
		key := strings.Join(c.settings, " ")
		groups[key] = append(groups[key], c)
	}
	for settings, cases := range groups {
		t.Run(cmp.Or(settings, "defaults"), func(t *testing.T) {
			t.Parallel()
			h := cases[0].surroundings(t)
			s := startRecorder(t, h, cases[0].settings)
			for _, c := range cases {
				stream := slices.Concat([]byte(goodRequest), c.raw)
				s.check(c.name+", the last", stream, len(stream))
				s.check(c.name+", with one after it", append(stream, afterRequest...), len(stream))
				if len(c.raw) < 1000 {
					s.check(c.name+", dripping in", stream, 1)
				}
			}
		})
	}
}

// recorderServer runs recorderApp with the settings of a case.
type recorderServer struct {
	*server
	h *httpCase
}

func startRecorder(t *testing.T, h *httpCase, settings []string) *recorderServer {
	t.Helper()
	dir := t.TempDir()
	allowed := "10.0.0.1"
	if h.trusted && !h.endpoint.unix {
		allowed = "127.0.0.1"
	}
	args := []string{"--forwarded-allow-ips", allowed}
	var conf strings.Builder
	for _, word := range settings {
		switch name, value, given := strings.Cut(word, "="); name {
		case "trusted":
		case "unix":
			args = append(args, "-b", "unix:app.sock")
		case "https":
			newAuthority(t, "authority").pair(t, dir, "server")
			args = append(args, "--certfile", "server.pem", "--keyfile", "server.key")
		case "script_name":
			args = append(args, "-e", "SCRIPT_NAME="+value)
		default:
			if !given {
				value = "True"
			} else if _, err := strconv.Atoi(value); err != nil {
				value = strconv.Quote(value)
			}
			fmt.Fprintf(&conf, "%s = %s\n", name, value)
		}
	}
	for name, text := range map[string]string{"gunicorn.conf.py": conf.String(), "app.py": recorderApp} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &recorderServer{startServer(t, dir, append(args, "app:app")...), h}
}

// check sends a stream in pieces of a size and compares answers and calls.
func (s *recorderServer) check(name string, stream []byte, piece int) {
	t := s.t
	t.Helper()
	conn := s.dial(1)
	defer conn.Close()
	s.setEndpoint(conn)
	want := s.h.outcomes(stream)
	got, err := exchangeStream(conn, stream, piece, want)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	calls := s.calls()
	var statuses []int
	for _, o := range want {
		if statuses = append(statuses, o.status); o.status == 200 {
			if len(calls) == 0 {
				t.Fatalf("%s: one call less", name)
			}
			compareCall(t, name, calls[0], &o)
			calls = calls[1:]
		}
	}
	if len(calls) > 0 {
		t.Fatalf("%s: the application was called with %v", name, calls)
	}
	if !slices.Equal(got, statuses) {
		t.Fatalf("%s: answers %v, want %v", name, got, statuses)
	}
}

// setEndpoint tells the model what the connection adds to the environ.
func (s *recorderServer) setEndpoint(conn net.Conn) {
	if s.h.endpoint.unix {
		s.h.endpoint.serverName = conn.RemoteAddr().String()
		return
	}
	e := &s.h.endpoint
	e.serverName, e.serverPort, _ = net.SplitHostPort(conn.RemoteAddr().String())
	e.remoteAddr, e.remotePort, _ = net.SplitHostPort(conn.LocalAddr().String())
}

func compareCall(t testing.TB, name string, call map[string]string, want *outcome) {
	t.Helper()
	for k, v := range want.environ {
		if got, ok := call[k]; !ok || got != v {
			t.Fatalf("%s: %s is %q, want %q", name, k, got, v)
		}
	}
	for k := range call {
		if _, ok := want.environ[k]; !ok && (strings.HasPrefix(k, "HTTP_") || strings.HasPrefix(k, "CONTENT_")) {
			t.Fatalf("%s: %s is %q, want none", name, k, call[k])
		}
	}
	if body := call["body"]; body != latinText(want.body) {
		t.Fatalf("%s: body %q, want %q", name, body, latinText(want.body))
	}
}

// latinText is how Python shows bytes in a str.
func latinText(b []byte) string { return string(appendLatin(nil, b)) }

// exchangeStream sends all, then reads all: the statuses of the answers.
func exchangeStream(conn net.Conn, stream []byte, piece int, want []outcome) (statuses []int, err error) {
	conn.SetDeadline(time.Now().Add(waitLimit))
	for b := range slices.Chunk(stream, piece) {
		if _, err := conn.Write(b); err != nil {
			break // it has refused what came before
		}
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	raw, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("after %s: %w", cut(string(raw)), err)
	}
	for r := bufio.NewReader(bytes.NewReader(raw)); ; {
		if _, err := r.Peek(1); err == io.EOF {
			return statuses, nil
		}
		req := &http.Request{Method: "GET"}
		if n := len(statuses); n < len(want) && want[n].head {
			req.Method = "HEAD"
		}
		resp, err := http.ReadResponse(r, req)
		if err != nil {
			return statuses, fmt.Errorf("not an answer: %w in %s", err, cut(string(raw)))
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return statuses, fmt.Errorf("an answer's body: %w in %s", err, cut(string(raw)))
		}
		if resp.StatusCode >= 200 { // the others are no answers
			statuses = append(statuses, resp.StatusCode)
		}
	}
}

// calls asks what the application was called with since the last time.
func (s *recorderServer) calls() (calls []map[string]string) {
	t := s.t
	t.Helper()
	conn := s.dial(1)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(waitLimit))
	io.WriteString(conn, callsRequest)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(resp.Body).Decode(&calls); err != nil {
		t.Fatal(err)
	}
	return calls
}
