package test

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
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawCase is a case: its bytes, and the words of its settings line.
type rawCase struct {
	name     string
	raw      []byte
	settings []string
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

// A model is asked what the server's parser alone makes of bytes: it is the test
// binary of the package beside this one, which knows the parser. (See
// http_test.go there.)

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
	Environ map[string]string
	Body    []byte
}

// model has the parser answer questions.
func model(t testing.TB, questions []question) (answers []answer) {
	t.Helper()
	askModel(t, "TestModelHTTP", questions, &answers)
	if len(answers) != len(questions) {
		t.Fatalf("%d answers to %d questions", len(answers), len(questions))
	}
	return answers
}

func askModel(t testing.TB, test string, questions, answers any) {
	t.Helper()
	binary, err := modelBinary()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "model")
	b, err := json.Marshal(questions)
	if err == nil {
		err = os.WriteFile(file, b, 0o644)
	}
	if err == nil {
		cmd := exec.Command(binary, "-test.run", "^"+test+"$", "-model", file)
		cmd.Dir = ".."
		if out, runErr := cmd.CombinedOutput(); runErr != nil {
			err = fmt.Errorf("%s: %w\n%s", test, runErr, out)
		}
	}
	if err == nil {
		b, err = os.ReadFile(file)
	}
	if err == nil {
		err = json.Unmarshal(b, answers)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var modelBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(testBinary), "model")
	if out, err := exec.Command("go", "test", "-c", "-o", path, "..").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c: %w\n%s", err, out)
	}
	return path, nil
})

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
	callsRequest = "GET /foo/calls HTTP/1.0\r\n\r\n"
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
			s := startRecorder(t, cases[0].settings)
			var questions []question
			for _, c := range cases {
				stream := slices.Concat([]byte(goodRequest), c.raw)
				questions = append(questions, question{s.settings, stream},
					question{s.settings, slices.Concat(stream, []byte(afterRequest))})
			}
			answers := model(t, questions)
			for i, c := range cases {
				last, more := questions[2*i].Stream, questions[2*i+1].Stream
				s.check(c.name+", the last", last, len(last), answers[2*i].Outcomes)
				s.check(c.name+", with one after it", more, len(last), answers[2*i+1].Outcomes)
				if len(c.raw) < 1000 {
					s.check(c.name+", dripping in", last, 1, answers[2*i].Outcomes)
				}
			}
		})
	}
}

// recorderServer runs recorderApp with the settings of a case.
type recorderServer struct {
	*server
	settings []string // of the model: the case's, and the addresses of this server and its clients
}

func startRecorder(t *testing.T, settings []string) *recorderServer {
	t.Helper()
	dir := t.TempDir()
	allowed := "10.0.0.1"
	if slices.Contains(settings, "trusted") {
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
	s := &recorderServer{startServer(t, dir, append(args, "app:app")...), settings}
	s.calls() // a client that has half closed is not waited for while Python starts
	conn := s.dial(1)
	defer conn.Close()
	name, port, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil { // a unix socket has no port
		s.settings = append(s.settings, "server_name="+conn.RemoteAddr().String())
	} else {
		s.settings = append(s.settings, "server_name="+name, "server_port="+port, "remote_addr=127.0.0.1", "remote_port=")
	}
	return s
}

// check sends a stream in pieces of a size and compares answers and calls.
func (s *recorderServer) check(name string, stream []byte, piece int, want []outcome) {
	t := s.t
	t.Helper()
	conn := s.dial(1)
	defer conn.Close()
	_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
	got, err := exchangeStream(conn, stream, piece, want)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	calls := s.calls()
	var statuses []int
	for _, o := range want {
		if statuses = append(statuses, o.Status); o.Status == 200 {
			if len(calls) == 0 {
				t.Fatalf("%s: one call less, answers %v", name, got)
			}
			if calls[0]["REMOTE_PORT"] == port {
				calls[0]["REMOTE_PORT"] = "" // as the model has it, which knows no client
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

func compareCall(t testing.TB, name string, call map[string]string, want *outcome) {
	t.Helper()
	for k, v := range want.Environ {
		if got, ok := call[k]; !ok || got != v {
			t.Fatalf("%s: %s is %q, want %q", name, k, got, v)
		}
	}
	for k := range call {
		if _, ok := want.Environ[k]; !ok && (strings.HasPrefix(k, "HTTP_") || strings.HasPrefix(k, "CONTENT_")) {
			t.Fatalf("%s: %s is %q, want none", name, k, call[k])
		}
	}
	if body := call["body"]; body != latinText(want.Body) {
		t.Fatalf("%s: body %q, want %q", name, body, latinText(want.Body))
	}
}

// latinText is how Python shows bytes in a str.
func latinText(b []byte) string {
	text := make([]rune, len(b))
	for i, c := range b {
		text[i] = rune(c)
	}
	return string(text)
}

// exchangeStream sends all, then reads all: the statuses of the answers.
func exchangeStream(conn net.Conn, stream []byte, piece int, want []outcome) (statuses []int, err error) {
	conn.SetDeadline(time.Now().Add(waitLimit))
	for b := range slices.Chunk(stream, piece) {
		if _, err := conn.Write(b); err != nil {
			break // the server has refused an earlier request
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
		if n := len(statuses); n < len(want) && want[n].Head {
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
