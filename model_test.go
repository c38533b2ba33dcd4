package main

// The model: what the parsers alone make of bytes. Tests in test/ hold the server
// against it. They cannot call the parsers, so they run this package's tests with
// -model FILE: TestModelHTTP answers the questions in FILE, TestModelWebSocket
// writes its cases there, both as JSON.

import (
	"encoding/json"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"
)

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
		head := wsHeadLen(raw[1])
		if len(raw) < head || raw[1]&wsMasked == 0 {
			break
		}
		n, bad := frameLen([]byte(raw[:head-4]))
		if bad != nil || int64(len(raw)-head) < n {
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
