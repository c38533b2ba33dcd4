package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func h2Bytes(f h2Frame, payload string) string {
	f.length = len(payload)
	return string(appendH2Head(nil, f)) + payload
}

// h2Heard feeds a client's bytes, cut at each multiple of step, and describes what happens.
func h2Heard(t *testing.T, h *h2, in string, step int) string {
	t.Helper()
	var out strings.Builder
	var pending []byte
	for at := 0; at < len(in); at += step {
		pending = append(pending, in[at:min(at+step, len(in))]...)
		for {
			n, e, bad := h.next(pending)
			pending = pending[n:]
			if bad != nil {
				return out.String() + "error " + string('0'+rune(bad.code)) + " " + bad.text
			}
			switch e.kind {
			case h2Opened:
				head, wrong := h.list.head(nil, &h2Request{})
				if wrong != nil {
					head = []byte(wrong.text + " ")
				}
				out.WriteString(strings.ReplaceAll(string(head), "\r\n", "|"))
			case h2Piece:
				out.Write(e.piece)
				if e.stream.ended {
					out.WriteString("<" + strings.ReplaceAll(string(e.stream.section), "\r\n", "|") + ">")
				}
			case h2Broken:
				out.WriteString("broken " + e.bad + " ")
			case h2Nothing:
			default:
				out.WriteString("room ")
			}
			if e.kind == h2Nothing && n == 0 {
				break
			}
		}
	}
	return out.String()
}

func newTestH2() h2 { return newH2(10, h2Window, h2FrameLeast, 65536, 1<<20) }

const h2Get = "\x82\x86\x84\x41\x01x" // GET / of the authority x over http

func TestH2Frames(t *testing.T) {
	settings := h2Bytes(h2Frame{kind: h2Settings}, "")
	ask := func(flags byte, id uint32, block string) string {
		return h2Bytes(h2Frame{kind: h2Headers, flags: flags, id: id}, block)
	}
	data := func(flags byte, id uint32, payload string) string {
		return h2Bytes(h2Frame{kind: h2Data, flags: flags, id: id}, payload)
	}
	more := func(flags byte, id uint32, block string) string {
		return h2Bytes(h2Frame{kind: h2Continuation, flags: flags, id: id}, block)
	}
	for _, test := range []struct{ name, in, want string }{
		{"get", ask(5, 1, h2Get), "GET / HTTP/2.0|host: x||"},
		{"padded", ask(5|h2Padded, 1, "\x03"+h2Get+"\x00\x00\x00"), "GET / HTTP/2.0|host: x||"},
		{"priority", ask(5|h2Prioritary, 1, "\x00\x00\x00\x00\x10"+h2Get), "GET / HTTP/2.0|host: x||"},
		{"depends on itself", ask(5|h2Prioritary, 1, "\x00\x00\x00\x01\x10"+h2Get), "broken a stream depends on itself "},
		{"continued", ask(1, 1, h2Get[:2]) + more(0, 1, "") + more(4, 1, h2Get[2:]), "GET / HTTP/2.0|host: x||"},
		{"interrupted", ask(1, 1, h2Get[:2]) + settings, "error 1 a field block is interrupted"},
		{"body", ask(4, 1, h2Get) + data(0, 1, "abc") + data(1, 1, ""), "GET / HTTP/2.0|host: x||abc<>"},
		{"padded body", ask(4, 1, h2Get) + data(1|h2Padded, 1, "\x02abc\x00\x00"), "GET / HTTP/2.0|host: x||abc<>"},
		{"only padding", ask(4, 1, h2Get) + data(h2Padded, 1, "\x03abc"), "GET / HTTP/2.0|host: x||"},
		{"too much padding", ask(4, 1, h2Get) + data(h2Padded, 1, "\x04abc"), "GET / HTTP/2.0|host: x||error 1 a frame has more padding than payload"},
		{"trailer", ask(4, 1, h2Get) + data(0, 1, "abc") + ask(5, 1, "\x00\x01a\x01b"), "GET / HTTP/2.0|host: x||abc<a: b|>"},
		{"trailer without end", ask(4, 1, h2Get) + ask(4, 1, "\x00\x01a\x01b"), "GET / HTTP/2.0|host: x||broken a trailer section does not end its request "},
		{"pseudo-trailer", ask(4, 1, h2Get) + ask(5, 1, "\x82"), "GET / HTTP/2.0|host: x||broken a trailer section is malformed "},
		{"late", ask(5, 1, h2Get) + data(1, 1, "abc"), "GET / HTTP/2.0|host: x||broken DATA comes after the end of its request "},
		{"idle", data(1, 1, "abc"), "error 1 DATA is on a stream that is not open"},
		{"even", ask(5, 2, h2Get), "error 1 a frame is on a stream that no client can open"},
		{"backwards", ask(5, 3, h2Get) + ask(5, 1, h2Get), "GET / HTTP/2.0|host: x||error 1 a stream's number is not above those before"},
		{"push", h2Bytes(h2Frame{kind: h2PushPromise, id: 1}, "abcd"), "error 1 a client has sent PUSH_PROMISE"},
		{"window", h2Bytes(h2Frame{kind: h2WindowUpdate}, "\x7f\xff\xff\xff"), "error 3 the connection's window is too large"},
		{"no credit", h2Bytes(h2Frame{kind: h2WindowUpdate}, "\x00\x00\x00\x00"), "error 1 WINDOW_UPDATE adds nothing"},
		{"short", h2Bytes(h2Frame{kind: h2Ping}, "1234567"), "error 6 a frame has a wrong length"},
		{"setting", h2Bytes(h2Frame{kind: h2Settings}, "\x00\x04\x80\x00\x00\x00"), "error 3 SETTINGS_INITIAL_WINDOW_SIZE is too large"},
		{"unknown", h2Bytes(h2Frame{kind: 77, id: 9}, "anything") + ask(5, 1, h2Get), "GET / HTTP/2.0|host: x||"},
		{"reset", ask(4, 1, h2Get) + h2Bytes(h2Frame{kind: h2RstStream, id: 1}, "\x00\x00\x00\x08"), "GET / HTTP/2.0|host: x||broken  "},
		{"goaway", h2Bytes(h2Frame{kind: h2Goaway}, "\x00\x00\x00\x00\x00\x00\x00\x00bye") + ask(5, 1, h2Get), "GET / HTTP/2.0|host: x||"},
		{"upper case", ask(5, 1, h2Get+"\x00\x01A\x01b"), "Invalid HTTP header name: 'A' "},
		{"connection", ask(5, 1, h2Get+"\x00\x0aconnection\x01b"), "Invalid HTTP Header: 'CONNECTION' "},
		{"te", ask(5, 1, h2Get+"\x00\x02te\x08trailers"), "GET / HTTP/2.0|te: trailers|host: x||"},
		{"two lines", ask(5, 1, h2Get+"\x00\x01a\x04b\r\nc"), "Invalid HTTP Header: 'A' "},
		{"blank", ask(5, 1, h2Get+"\x00\x01a\x02 b"), "Invalid HTTP Header: 'A' "},
		{"cookies", ask(5, 1, h2Get+"\x00\x06cookie\x01a\x00\x06cookie\x01b"), "GET / HTTP/2.0|host: x|cookie: a; b||"},
		{"another host", ask(5, 1, h2Get+"\x00\x04host\x01y"), "Invalid HTTP Header: 'HOST' "},
		{"the same host", ask(5, 1, h2Get+"\x00\x04host\x04X:80"), "GET / HTTP/2.0|host: X:80||"},
		{"pseudo last", ask(5, 1, "\x82\x86\x84\x00\x01a\x01b\x41\x01x"), "Invalid HTTP header name: ':authority' "},
		{"connect", ask(5, 1, "\x02\x07CONNECT\x41\x03x:1"), "CONNECT x:1 HTTP/2.0|host: x:1||"},
		{"no path", ask(5, 1, "\x82\x86\x41\x01x"), "Invalid HTTP Header: ':PATH' "},
		{"absolute", ask(5, 1, "\x82\x86\x04\x08http://y\x41\x01x"), "Invalid HTTP Header: ':PATH' "},
		{"empty authority", ask(5, 1, "\x82\x86\x84\x41\x00"), "Invalid HTTP Header: ':AUTHORITY' "},
		{"empty host", ask(5, 1, "\x82\x86\x84\x00\x04host\x00"), "Invalid HTTP Header: 'HOST' "},
		{"another scheme", ask(5, 1, "\x82\x84\x41\x01x\x06\x03ftp"), "Invalid HTTP Header: ':SCHEME' "},
		{"idle stream depends on itself", h2Bytes(h2Frame{kind: h2Priority, id: 1}, "\x00\x00\x00\x01\x00"), "error 1 a stream depends on itself"},
		{"index", ask(5, 1, "\xff\x00"), "error 9 a field block cannot be decoded"},
	} {
		for _, step := range []int{1, 7, 1 << 20} {
			h := newTestH2()
			if got := h2Heard(t, &h, h2Preface+settings+test.in, step); got != test.want {
				t.Errorf("%s, cut at %d: got %q, want %q", test.name, step, got, test.want)
			}
		}
	}
}

// The examples of RFC 7541 C.4 and C.6, with Huffman's code and a dynamic table.
func TestHpackExamples(t *testing.T) {
	var table = hpackTable{most: 256}
	list := fieldList{limit: 1 << 20}
	for _, test := range []struct{ in, want string }{
		{"488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
			":status: 302|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com|"},
		{"4883640effc1c0bf", ":status: 307|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com|"},
		{"88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
			":status: 200|cache-control: private|date: Mon, 21 Oct 2013 20:13:22 GMT|location: https://www.example.com|content-encoding: gzip|" +
				"set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1|"},
	} {
		b, _ := hex.DecodeString(test.in)
		if bad := table.decode(b, &list); bad != nil {
			t.Fatal(bad)
		}
		if got := piped(list.fields); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	if table.size != 215 || len(table.entries) != 3 {
		t.Errorf("the table has %d entries of %d bytes", len(table.entries), table.size)
	}
}

// piped writes fields as the tests here want them: each with a bar behind it.
func piped(fields []field) string {
	var b strings.Builder
	for _, f := range fields {
		b.WriteString(string(f.name) + ": " + string(f.value) + "|")
	}
	return b.String()
}

// A head that was made for HTTP/1.1 as a field block, and back.
func TestH2Block(t *testing.T) {
	long := strings.Repeat("v", 300)
	for _, test := range []struct{ head, want string }{
		{"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nX-Own: a b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nbody", ":status: 200|server: gunicorn|x-own: a b|"},
		{"HTTP/1.1 418 \r\nX: \r\nLong: " + long + "\r\n\r\n", ":status: 418|x: |long: " + long + "|"},
		{"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", ":status: 103|link: </a>|"},
		{"Grpc-Status: 0\r\n", "grpc-status: 0|"},
	} {
		block, size := appendBlock(nil, []byte(test.head))
		if rest := test.head[size:]; rest != "" && rest != "body" {
			t.Errorf("%q is left", rest)
		}
		table, list := hpackTable{most: h2TableSize}, fieldList{limit: 1 << 20}
		if bad := table.decode(block, &list); bad != nil {
			t.Fatal(bad)
		}
		if got := piped(list.fields); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// The raw cases of HTTP/1.1, as far as they mean something in HTTP/2, have the same verdicts.
func TestH2Corpus(t *testing.T) {
	names, _ := filepath.Glob("test/testdata/http/*.req")
	c, done := &config{limitRequestFieldSize: 8190, limitRequestFields: 100, limitRequestLine: 4094, headerMap: "drop"}, 0
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(raw), "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		words := strings.Split(lines[0], " ")
		if len(words) != 3 || words[2] != "HTTP/1.1" || !strings.HasPrefix(words[1], "/") {
			continue
		}
		list := fieldList{fields: []field{{[]byte(":method"), []byte(words[0])}, {[]byte(":scheme"), []byte("http")}, {[]byte(":path"), []byte(words[1])}}}
		known := true
		for _, line := range lines[1:] {
			name, value, found := strings.Cut(line, ":")
			switch name = strings.ToLower(name); name {
			case "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "cookie":
				known = false
			}
			if name == "host" && strings.TrimSpace(value) == "" {
				known = false // refused, by RFC 9113 8.3.1
			}
			known = known && found && len(value)-len(strings.TrimSpace(value)) < 2 && !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t")
			list.fields = append(list.fields, field{[]byte(name), trimBlanks([]byte(value))})
		}
		if !known {
			continue
		}
		verdict := func(r *request, head string) (status int) {
			if _, bad := r.parse([]byte(head), c, false); bad != nil {
				return bad.status
			}
			return 200
		}
		want := verdict(&request{contentLength: -1}, head+"\r\n\r\n")
		got := 400
		if b, bad := list.head(nil, &h2Request{}); bad == nil {
			got = verdict(&request{contentLength: -1, streamed: true}, string(b))
		}
		if done++; got != want {
			t.Errorf("%s: %d, with HTTP/1.1 %d", name, got, want)
		}
	}
	if done < 100 {
		t.Errorf("only %d cases", done)
	}
	t.Log(done, "cases")
}

// Windows: what is sent, and what may be sent next.
func TestH2Windows(t *testing.T) {
	h := newTestH2()
	h2Heard(t, &h, h2Preface+h2Bytes(h2Frame{kind: h2Settings}, "\x00\x04\x00\x00\x00\x0a")+
		h2Bytes(h2Frame{kind: h2Headers, flags: 5, id: 1}, h2Get), 1<<20)
	s := h.streams[1]
	allowed := func(n, want int, wantMine bool) {
		t.Helper()
		if got, mine := h.allowed(s, n); got != want || mine != wantMine {
			t.Fatalf("of %d bytes, %d are allowed (%v)", n, got, mine)
		}
	}
	allowed(100, 10, true)
	h.body(s, make([]byte, 10))
	h2Heard(t, &h, h2Bytes(h2Frame{kind: h2Settings}, "\x00\x04\x00\x00\x00\x05"), 1<<20)
	allowed(100, 0, true)
	h2Heard(t, &h, h2Bytes(h2Frame{kind: h2WindowUpdate, id: 1}, "\x00\x01\x00\x00"), 1<<20)
	allowed(1<<20, 65525, false)
	allowed(40000, 40000, false)
	h.out, h.lastID = nil, 0
	h.body(s, make([]byte, 40000))
	h.end(s, nil)
	lengths := []int{}
	for b := h.out; len(b) > 0; b = b[9+lengths[len(lengths)-1]:] {
		lengths = append(lengths, int(binary.BigEndian.Uint32(b)>>8))
		if last := len(b) == 9+lengths[len(lengths)-1]; last != (b[4] == h2EndStream) {
			t.Error("END_STREAM is not on the last frame")
		}
	}
	if len(lengths) != 3 || lengths[2] != 40000-2*h2FrameLeast {
		t.Errorf("frames of %v bytes", lengths)
	}
}

// FuzzH2 checks promises about any bytes of a client: whole or cut, the same events; memory
// within bounds; and heads that HTTP/1.1 reads as one request.
func FuzzH2(f *testing.F) {
	settings := h2Bytes(h2Frame{kind: h2Settings}, "")
	f.Add([]byte(settings + h2Bytes(h2Frame{kind: h2Headers, flags: 5, id: 1}, h2Get)))
	f.Add([]byte(settings + h2Bytes(h2Frame{kind: h2Headers, flags: 4, id: 1}, h2Get+"\x40\x01a\x01b\xbe") + h2Bytes(h2Frame{kind: h2Data, flags: 9, id: 1}, "\x01abc")))
	f.Add([]byte(settings + h2Bytes(h2Frame{kind: h2Headers, id: 1}, "\x82") + h2Bytes(h2Frame{kind: h2Continuation, flags: 4, id: 1}, "\x86\x84") + settings))
	c := &config{limitRequestFieldSize: 8190, limitRequestFields: 100, limitRequestLine: 4094, headerMap: "drop"}
	f.Fuzz(func(t *testing.T, raw []byte) {
		whole, cut := newTestH2(), newTestH2()
		a, b := h2Heard(t, &whole, h2Preface+string(raw), 1<<20), h2Heard(t, &cut, h2Preface+string(raw), 3)
		if a != b {
			t.Fatalf("whole %q, cut %q", a, b)
		}
		if len(whole.streams) > 10 || len(whole.block) > whole.blockMost || whole.table.size > h2TableSize {
			t.Fatal("a bound is exceeded")
		}
		for len(raw) > 0 {
			n, _, bad := whole.next(raw)
			if raw = raw[n:]; bad != nil || n == 0 {
				break
			}
		}
		head, bad := whole.list.head(nil, &h2Request{})
		if bad == nil {
			r := request{streamed: true, contentLength: -1}
			if n, err := r.parse(head, c, false); err == nil && n != len(head) {
				t.Fatalf("%q is read as %d bytes of a head", head, n)
			}
			if bytes.Count(head, []byte("\r\n\r\n")) != 1 {
				t.Fatalf("%q is not one head", head)
			}
		}
	})
}
