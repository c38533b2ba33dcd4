package test

// Other parsers' opinions: Go's net/http, h11, and llhttp by way of httptools
// read each case of testdata/http too. Where they differ from this server,
// testdata/http/differences.txt says why; a difference without a reason fails
// as a reason without a difference does.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// opinion is what one parser makes of one case.
type opinion struct {
	Name    string
	Peer    string
	Verdict string // accepts, refuses or waits for more
	Why     string
	Method  string
	Target  string
	Fields  [][2]string
	Body    string
	Rest    string
	Keep    bool
}

// differs names what the peer sees in another way.
func (o *opinion) differs(p *opinion) (in []string) {
	if o.Verdict != p.Verdict {
		return []string{p.Verdict}
	}
	if o.Verdict != "accepts" {
		return nil
	}
	for name, same := range map[string]bool{
		"method": o.Method == p.Method, "target": o.Target == p.Target, "fields": sameFields(o.Fields, p.Fields),
		"body": o.Body == p.Body, "rest": o.Rest == p.Rest, "keep-alive": o.Keep == p.Keep,
	} {
		if !same {
			in = append(in, name)
		}
	}
	slices.Sort(in)
	return in
}

// sameFields compares without regard to the order of different names, which
// net/http does not keep, and to the case of letters.
func sameFields(a, b [][2]string) bool {
	fold := func(list [][2]string) map[string][]string {
		m := map[string][]string{}
		for _, f := range list {
			name := strings.ToLower(f[0])
			m[name] = append(m[name], f[1])
		}
		return m
	}
	return maps.EqualFunc(fold(a), fold(b), slices.Equal)
}

var (
	hostLine    = regexp.MustCompile(`(?im)^host[ \t]*:`)
	requestLine = regexp.MustCompile(`^[^\r\n]* HTTP/1\.1\r\n`)
)

// withHost returns the cases with the Host field that HTTP/1.1 demands, for the lack of which
// alone the peers would refuse a case, unless the field would change the subject of the case.
// It also returns how this server understands each case.
func withHost(t *testing.T, cases []rawCase) (raws [][]byte, own []opinion) {
	t.Helper()
	var questions []question
	for _, c := range cases {
		with := c.raw
		if line := requestLine.Find(c.raw); line != nil && !hostLine.Match(c.raw) {
			with = slices.Concat(line, []byte("Host: x\r\n"), c.raw[len(line):])
		}
		questions = append(questions, question{c.settings, c.raw}, question{c.settings, with})
	}
	answers := model(t, questions)
	for i := 0; i < len(answers); i += 2 {
		raw, o := questions[i].Stream, answers[i].First
		if with := answers[i+1].First; with.Verdict == o.Verdict && with.Why == o.Why {
			raw, o = questions[i+1].Stream, with
		}
		raws, own = append(raws, raw), append(own, o)
	}
	return raws, own
}

// goServer is net/http's server on connections in memory. Each connection has
// one request, which its handler takes off the connection to see what follows.
type goServer struct {
	conns chan *memoryConn
}

func startGoServer(t *testing.T) *goServer {
	s := &goServer{make(chan *memoryConn)}
	server := http.Server{
		Handler: http.HandlerFunc(s.ServeHTTP), DisableGeneralOptionsHandler: true, ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, s, c) },
	}
	go server.Serve(s)
	t.Cleanup(func() { server.Close() })
	return s
}

func (s *goServer) Accept() (net.Conn, error) {
	if c, ok := <-s.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (s *goServer) Close() error   { close(s.conns); return nil }
func (s *goServer) Addr() net.Addr { return &net.TCPAddr{} }

// memoryConn is a client that has said all it will.
type memoryConn struct {
	net.Conn // nil: the server calls what is here
	in       *bytes.Reader
	out      bytes.Buffer
	closed   chan struct{}
	once     sync.Once
	said     *opinion
}

func (c *memoryConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *memoryConn) Write(b []byte) (int, error)      { return c.out.Write(b) }
func (c *memoryConn) Close() error                     { c.once.Do(func() { close(c.closed) }); return nil }
func (c *memoryConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memoryConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// opinion is what the server makes of raw.
func (s *goServer) opinion(raw []byte) *opinion {
	c := &memoryConn{in: bytes.NewReader(raw), closed: make(chan struct{})}
	s.conns <- c
	<-c.closed
	switch {
	case c.said != nil:
		return c.said
	case c.out.Len() > 0:
		return &opinion{Verdict: "refuses", Why: c.out.String()}
	}
	return &opinion{Verdict: "waits"}
}

func (s *goServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o := &opinion{Verdict: "accepts", Method: r.Method, Target: latinText([]byte(r.RequestURI)), Keep: !r.Close}
	for name, values := range r.Header {
		for _, v := range values {
			o.Fields = append(o.Fields, [2]string{latinText([]byte(name)), latinText([]byte(v))})
		}
	}
	// These have been taken out of the header.
	if r.Host != "" {
		o.Fields = append(o.Fields, [2]string{"Host", latinText([]byte(r.Host))})
	}
	if r.TransferEncoding != nil {
		o.Fields = append(o.Fields, [2]string{"Transfer-Encoding", strings.Join(r.TransferEncoding, ", ")})
	}
	body, err := io.ReadAll(r.Body)
	switch {
	case err == io.ErrUnexpectedEOF:
		o = &opinion{Verdict: "waits"}
	case err != nil:
		o = &opinion{Verdict: "refuses", Why: err.Error()}
	}
	conn, in, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err) // this server's connections can be hijacked
	}
	if rest, _ := io.ReadAll(in); o.Verdict == "accepts" {
		o.Body, o.Rest = latinText(body), latinText(rest)
	}
	r.Context().Value(s).(*memoryConn).said = o
	conn.Close()
}

// pythonOpinions are those of the parsers in testdata/apps/parsers.py.
func pythonOpinions(t *testing.T, cases []rawCase, raws [][]byte) (list []*opinion) {
	t.Helper()
	var in bytes.Buffer
	for i, c := range cases {
		json.NewEncoder(&in).Encode(map[string]string{"name": c.name, "raw": latinText(raws[i])})
	}
	ctx, cancel := context.WithTimeout(context.Background(), siteLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, testPython(t), tool(t, "parsers.py"))
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		o := &opinion{}
		if err := d.Decode(o); err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, o)
	}
}

func TestDifferential(t *testing.T) {
	cases := rawCases(t)
	raws, opinions := withHost(t, cases)
	own := map[string]*opinion{}
	var peers []*opinion
	server := startGoServer(t)
	for i, c := range cases {
		own[c.name] = &opinions[i]
		o := server.opinion(raws[i])
		o.Name, o.Peer = c.name, "net/http"
		peers = append(peers, o)
	}
	peers = append(peers, pythonOpinions(t, cases, raws)...)
	if len(peers) != 3*len(cases) {
		t.Fatalf("%d opinions on %d cases", len(peers), len(cases))
	}
	reasons := readDifferences(t)
	count := map[string]int{}
	for _, p := range peers {
		o := own[p.Name]
		in := o.differs(p)
		if len(in) == 0 {
			continue
		}
		count[p.Peer]++
		line := fmt.Sprintf("%s %s %s", p.Name, p.Peer, strings.Join(in, " "))
		if !reasons[line] {
			t.Errorf("no reason: %s\nhere: %+v\nthere: %+v", line, *o, *p)
		}
		delete(reasons, line)
	}
	for line := range reasons {
		t.Errorf("no difference: %s", line)
	}
	t.Logf("%d cases, differences: %v", len(cases), count)
}

// readDifferences reads the lines that have a reason: NAME PEER WHAT, indented
// below it.
func readDifferences(t *testing.T) map[string]bool {
	t.Helper()
	lines := map[string]bool{}
	reason := ""
	for line := range strings.Lines(readAll("testdata/http/differences.txt")) {
		text := strings.TrimSpace(line)
		switch {
		case text == "":
			reason = ""
		case line[0] != ' ':
			reason = text
		case reason == "" || lines[text]:
			t.Errorf("differences.txt: no reason above it, or twice: %s", text)
		default:
			lines[text] = true
		}
	}
	return lines
}
