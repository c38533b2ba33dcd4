package test

// The Autobahn test suite's sections against the whole server. Its fuzzing client
// is not to be had for Python 3, so this is a client of our own: it sends what
// wsCases has, to an application that echoes, and judges as the suite does. What
// the codec understands of a case says what the server must answer.

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

const echoApp = `
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        await send(dict(event, type="websocket.send"))
`

// Frames.
const (
	opContinuation, opText, opBinary = 0, 1, 2
	opClose, opPing, opPong          = 8, 9, 10
	wsFin, wsRSV1, wsMasked          = 0x80, 0x40, 0x80
	wsTail                           = "\x00\x00\xff\xff" // the end of a flushed block, which compressed messages leave out
	deflateMin                       = 128                // shorter messages are not compressed
)

const (
	kosme   = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5" // κόσμε
	hello   = "Hello, world!"
	goodKey = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)

// maskedFrame is a frame as clients send it.
func maskedFrame(first byte, mask [4]byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, wsMasked|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, wsMasked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, wsMasked|127), uint64(n))
	}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

func clientFrame(first byte, payload string) string {
	return maskedFrame(first, [4]byte{0x37, 0xfa, 0x21, byte(len(payload))}, payload)
}

// Frames of one letter: the capital has FIN.
func wsT(p string) string { return clientFrame(wsFin|opText, p) }
func wst(p string) string { return clientFrame(opText, p) }
func wsb(p string) string { return clientFrame(opBinary, p) }
func wsC(p string) string { return clientFrame(wsFin|opContinuation, p) }

func wsPingFrame(p string) string { return clientFrame(wsFin|opPing, p) }

func wsCloseFrame(code uint16, reason string) string {
	return clientFrame(wsFin|opClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

// squeeze compresses as another implementation might.
func squeeze(s string, level int) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, level)
	io.WriteString(w, s)
	w.Flush()
	return strings.TrimSuffix(b.String(), wsTail)
}

// wsPeer is a client. It makes a transcript of what the server says, which is held
// against the rules of RFC 6455 and RFC 7692.
type wsPeer struct {
	net.Conn
	in       *bufio.Reader
	log      strings.Builder
	open     byte // opcode of the message that has begun, 0 for none
	packed   bool // the messages are compressed
	message  []byte
	window   []byte // the end of what has been decompressed, which later messages refer to
	closed   bool
	answer   http.Header // to the handshake
	squeezed int         // frames of the server's that begin a compressed message
}

// joinWebSocket does the handshake over c, with an offer of extensions if that is
// not empty.
func joinWebSocket(c net.Conn, target, offer string) (*wsPeer, error) {
	c.SetDeadline(time.Now().Add(3 * waitLimit))
	p := &wsPeer{Conn: c, in: bufio.NewReaderSize(c, 64<<10)}
	if offer != "" {
		offer = "Sec-WebSocket-Extensions: " + offer + "\r\n"
	}
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n%s\r\n%s\r\n",
		target, goodKey, offer)
	resp, err := http.ReadResponse(p.in, nil)
	if err == nil && resp.StatusCode != 101 {
		err = errors.New(resp.Status)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	p.answer = resp.Header
	return p, nil
}

func (p *wsPeer) deflates() bool { return p.answer.Get("Sec-WebSocket-Extensions") != "" }

func (p *wsPeer) send(raw string) error {
	_, err := io.WriteString(p, raw)
	return err
}

// frame reads one frame of the server's.
func (p *wsPeer) frame() error {
	head, err := p.in.Peek(2)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	first, n, size := head[0], uint64(head[1]), 2
	switch n {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	if head, err = p.in.Peek(size); err != nil {
		return err
	}
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		n = binary.BigEndian.Uint64(head[2:])
	}
	switch op := first & 0x0f; {
	case head[1]&wsMasked != 0:
		return fmt.Errorf("frame %x is masked", head)
	case size == 4 && n < 126, size == 10 && n < 1<<16, n >= 1<<31:
		return fmt.Errorf("frame %x has its length in the wrong form", head)
	case op >= opClose && (n > 125 || first&wsFin == 0), op > opBinary && op < opClose, op > opPong:
		return fmt.Errorf("no such frame: %x", head)
	case first&0x70 != 0 && (first&0x70 != wsRSV1 || !p.deflates() || op != opText && op != opBinary):
		return fmt.Errorf("frame %x has reserved bits", head)
	case op < opClose && (op == opContinuation) != (p.open != 0):
		return fmt.Errorf("frame %x, and message %x is open", head, p.open)
	}
	p.in.Discard(size)
	payload := make([]byte, n)
	if _, err := io.ReadFull(p.in, payload); err != nil {
		return io.ErrUnexpectedEOF
	}
	if p.closed {
		return fmt.Errorf("frame %x %.100q after the close frame", first, payload)
	}
	switch op := first & 0x0f; op {
	case opPing:
		fmt.Fprintf(&p.log, "ping %q\n", payload)
	case opPong:
		fmt.Fprintf(&p.log, "pong %q\n", payload)
	case opClose:
		return p.close(payload)
	default:
		if op != opContinuation {
			p.open, p.packed = op, first&wsRSV1 != 0
		}
		if p.message = append(p.message, payload...); first&wsFin != 0 {
			return p.whole()
		}
	}
	return nil
}

func (p *wsPeer) close(payload []byte) error {
	p.closed = true
	code := 1005 // 1005 stands for no code
	if len(payload) > 0 {
		if len(payload) == 1 || !utf8.Valid(payload[2:]) {
			return fmt.Errorf("close frame of %q", payload)
		}
		code, payload = int(binary.BigEndian.Uint16(payload)), payload[2:]
		if code < 1000 || code > 1003 && code < 1007 || code > 1014 && code < 3000 || code >= 5000 {
			return fmt.Errorf("close code %d", code)
		}
	}
	fmt.Fprintf(&p.log, "close %d %q\n", code, payload)
	return nil
}

// whole takes a message that is complete.
func (p *wsPeer) whole() error {
	message := p.message
	if p.packed {
		p.squeezed++
		// What a sender leaves out of a message's end, and a last block.
		packed := io.MultiReader(bytes.NewReader(message), strings.NewReader(wsTail+"\x01\x00\x00\xff\xff"))
		var err error
		if message, err = io.ReadAll(flate.NewReaderDict(packed, p.window)); err != nil {
			return err
		}
		p.window = append(p.window, message...)
		p.window = p.window[max(0, len(p.window)-32<<10):]
	}
	if p.open == opText && !utf8.Valid(message) {
		return fmt.Errorf("text %.100q", message)
	}
	p.log.WriteString(transcript(p.open == opText, message) + "\n")
	p.open, p.message = 0, p.message[:0]
	return nil
}

// transcript is a message's line, as the server's own tests have it.
func transcript(text bool, message []byte) string {
	kind := "binary"
	if text {
		kind = "text"
	}
	if len(message) < 200 {
		return fmt.Sprintf("%s %q", kind, message)
	}
	h := fnv.New32a()
	h.Write(message)
	return fmt.Sprintf("%s %d %x", kind, len(message), h.Sum32())
}

// said is the transcript so far, line by line.
func (p *wsPeer) said() []string { return lines(p.log.String()) }

func lines(text string) []string {
	if text = strings.TrimSuffix(text, "\n"); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// await reads until the server has said so much.
func (p *wsPeer) await(n int) error {
	for strings.Count(p.log.String(), "\n") < n {
		if err := p.frame(); err != nil {
			return fmt.Errorf("%w after %.300q", err, p.said())
		}
	}
	return nil
}

// end reads until the server closes the connection, which it must do without
// being asked, and in order.
func (p *wsPeer) end() error {
	for {
		if err := p.frame(); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w after %.300q", err, p.said())
		}
	}
}

// echoed is what an echo server says to somebody of whom a codec understands want.
func echoed(want []string) (list []string) {
	for _, line := range want {
		kind, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.HasSuffix(line, " unfinished"), kind == "pong":
		case kind == "ping":
			list = append(list, "pong "+rest)
		case kind == "bad":
			list = append(list, "close "+rest+" ")
		case kind == "close":
			code, _, _ := strings.Cut(rest, " ")
			if code == "1005" { // a close frame without a code is answered with 1000
				code = "1000"
			}
			list = append(list, "close "+code+` ""`)
		default:
			list = append(list, line)
		}
	}
	return list
}

// judge compares. Pongs may overtake echoes, which take the longer way, unless
// every answer has been waited for, which is strict. What comes just before a
// mistake may have lost its echo, as the suite has it for cases as 3.2; complete
// says that there was none.
func judge(got, want []string, strict, complete bool) error {
	var lists [2][2][]string
	for i, list := range [][]string{got, want} {
		for _, line := range list {
			kind := 0
			if !strict && (strings.HasPrefix(line, "text ") || strings.HasPrefix(line, "binary ")) {
				kind = 1
			}
			lists[i][kind] = append(lists[i][kind], line)
		}
	}
	control, wanted, data := lists[0][0], lists[1][0], lists[0][1]
	ok := len(control) == len(wanted) && len(data) <= len(lists[1][1]) && (!complete || len(data) == len(lists[1][1]))
	for i := 0; ok && i < len(control); i++ {
		ok = control[i] == wanted[i] || strings.HasSuffix(wanted[i], " ") && strings.HasPrefix(control[i], wanted[i])
	}
	for i := 0; ok && i < len(data); i++ {
		ok = data[i] == lists[1][1][i]
	}
	if !ok {
		return fmt.Errorf("%.1000q, want %.1000q", got, want)
	}
	return nil
}

// Ways to send a case.
const (
	sendWhole  = "whole"
	sendBytes  = "byte by byte"
	sendSteps  = "frame by frame, each answer awaited"
	sendNoMore = "nothing beyond the mistake"
)

// wsCase is a case of the server's own tests, and what its decoder makes of it.
type wsCase struct {
	Name    string
	In      []byte
	Want    string // lines, "|" between them
	Deflate bool
	Limit   int64
	At      int // when not 0: the byte with which a mistake is one
	Steps   []struct {
		Frame []byte
		Lines []string // lines that the event adds to the transcript
	}
	Closed bool // a close frame was read
	Open   bool // a close frame behind it is not read as one: it ends within a frame
	Bad    bool // there is a mistake, of that close frame too if Open
}

// play sends a case one way and judges what comes back.
func (tt *wsCase) play(c net.Conn, way string) error {
	defer c.Close()
	offer := ""
	if tt.Deflate {
		offer = "permessage-deflate"
	}
	p, err := joinWebSocket(c, "/", offer)
	if err != nil {
		return err
	}
	if p.deflates() != tt.Deflate {
		return fmt.Errorf("extensions: %v", p.answer)
	}
	var want []string
	if tt.Want != "" {
		want = echoed(strings.Split(tt.Want, "|"))
	}
	switch way {
	case sendWhole:
		err = p.send(string(tt.In))
	case sendNoMore:
		err = p.send(string(tt.In[:tt.At]))
	case sendBytes:
		for i := 0; i < len(tt.In) && err == nil; i++ {
			err = p.send(string(tt.In[i : i+1]))
		}
	case sendSteps:
		var understood []string
		for _, step := range tt.Steps {
			if err = p.send(string(step.Frame)); err != nil {
				break
			}
			understood = append(understood, step.Lines...)
			if err = p.await(len(echoed(understood))); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return err
	}
	strict := way == sendSteps
	if tt.Open || !tt.Closed && !tt.Bad {
		if err := p.await(len(want)); err != nil {
			return err
		}
		strict = strict || len(want) < 2 // nothing is left out
		if tt.Open {
			return judge(p.said(), want, strict, !tt.Bad) // the server was cut off in a frame, and the client leaves
		}
		want = append(want, `close 1000 ""`)
		if err := p.send(wsCloseFrame(1000, "")); err != nil {
			return err
		}
	}
	if err := p.end(); err != nil {
		return err
	}
	return judge(p.said(), want, strict, !tt.Bad)
}

// autobahnServer echoes.
func autobahnServer(t *testing.T, args ...string) *server {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "app.py"), []byte(echoApp))
	if len(args) > 0 && args[0] == "--certfile" {
		newAuthority(t, "authority").pair(t, dir, "server")
	}
	s := startServer(t, dir, append(args, "-k", "asgi", "--pid", "gunicorn.pid", "app:app")...)
	s.waitWorkers(1)
	return s
}

// inParallel runs what is sent to it, over a few connections at a time.
func inParallel[T any](t *testing.T, list []T, run func(T) error) {
	var wg sync.WaitGroup
	work := make(chan T)
	for range 4 * runtime.NumCPU() {
		wg.Go(func() {
			for one := range work {
				if err := run(one); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, one := range list {
		work <- one
	}
	close(work)
	wg.Wait()
}

// servesOn looks whether a server has come through: the same Python echoes, and
// no connection is open beside the one that asks.
func servesOn(t *testing.T, s *server, python []int) {
	t.Helper()
	c := s.dial(1)
	defer c.Close()
	p, err := joinWebSocket(c, "/", "")
	if err == nil {
		err = p.send(wsT(hello))
	}
	if err == nil {
		err = p.await(1)
	}
	if err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if now := s.python(); len(now) != len(python) || now[0] != python[0] {
		t.Errorf("Pythons: %v, were %v", now, python)
	}
	var status string
	if !poll(waitLimit, func() bool {
		out, err := underTest(t, s.dir, nil, "--status=json", "--pid", "gunicorn.pid").CombinedOutput()
		status = string(out)
		return err == nil && strings.Contains(status, `"connections":1,`)
	}) {
		t.Errorf("connections are left: %s", status)
	}
}

// TestAutobahn has sections 1 to 7, and of 9 and 12 what concerns single frames.
func TestAutobahn(t *testing.T) {
	if reference {
		t.SkipNow()
	}
	type play struct {
		*wsCase
		way string
	}
	var all []wsCase
	askModel(t, "TestModelWebSocket", nil, &all)
	for name, args := range map[string][]string{
		"1M":       {"--ws-max-size", "1M"},
		"10 bytes": {"--ws-max-size", "10"},
		"no limit": {"--ws-max-size", "0"},
		"TLS":      {"--certfile", "server.pem", "--keyfile", "server.key", "--ws-max-size", "1M"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := autobahnServer(t, args...)
			python := s.python()
			var plays []play
			cases := 0
			for _, tt := range all {
				on := "1M"
				switch {
				case tt.Limit > 0:
					on = fmt.Sprintf("%d bytes", tt.Limit)
				case strings.HasPrefix(tt.Name, "9 longer"):
					on = "no limit"
				}
				if on != name && (name != "TLS" || on != "1M") {
					continue
				}
				cases++
				closeCode := strings.HasPrefix(tt.Name, "7 code") // there are two thousand
				plays = append(plays, play{&tt, sendWhole})
				if tt.At > 0 && !closeCode {
					plays = append(plays, play{&tt, sendNoMore})
				}
				if name == "TLS" || closeCode {
					continue
				}
				plays = append(plays, play{&tt, sendSteps})
				if len(tt.In) < 200 {
					plays = append(plays, play{&tt, sendBytes})
				}
			}
			t.Logf("%d cases, %d connections", cases, len(plays))
			inParallel(t, plays, func(p play) error {
				if err := p.play(s.dial(1), p.way); err != nil {
					return fmt.Errorf("%s, %s: %w", p.Name, p.way, err)
				}
				return nil
			})
			servesOn(t, s, python)
		})
	}
}

// wsLoad is a number of equal messages, as sections 9, 10, 12 and 13 send them.
type wsLoad struct {
	name     string
	offers   string // of extensions
	declined bool   // none of them can be had
	text     bool
	payload  string
	times    int
	fragment int // bytes of payload in a frame, 0 for all of them
	chop     int // bytes in a write, 0 for all of them
}

// frames is one of the messages.
func (l *wsLoad) frames(deflate bool) string {
	payload, first := l.payload, byte(opBinary)
	if l.text {
		first = opText
	}
	if deflate {
		payload, first = squeeze(payload, 1), first|wsRSV1
	}
	size := l.fragment
	if size == 0 {
		size = max(1, len(payload))
	}
	var raw strings.Builder
	for at := 0; ; at += size {
		end := min(at+size, len(payload))
		if end == len(payload) {
			raw.WriteString(clientFrame(first|wsFin, payload[at:end]))
			return raw.String()
		}
		raw.WriteString(clientFrame(first, payload[at:end]))
		first = opContinuation
	}
}

func (l *wsLoad) play(c net.Conn) error {
	defer c.Close()
	p, err := joinWebSocket(c, "/", l.offers)
	if err != nil {
		return err
	}
	if p.deflates() != (l.offers != "" && !l.declined) {
		return fmt.Errorf("extensions: %v", p.answer)
	}
	raw := l.frames(p.deflates())
	sent := make(chan error, 1)
	go func() { // the server stops reading when its echoes are not taken
		for range l.times {
			for at, size := 0, l.chop; at < len(raw); at += size {
				if size == 0 {
					size = len(raw)
				}
				if err := p.send(raw[at:min(at+size, len(raw))]); err != nil {
					sent <- err
					return
				}
			}
		}
		sent <- nil
	}()
	if err := p.await(l.times); err != nil {
		return err
	}
	if err := <-sent; err != nil {
		return err
	}
	if err := p.send(wsCloseFrame(1000, "")); err != nil {
		return err
	}
	if err := p.end(); err != nil {
		return err
	}
	if p.deflates() != (p.squeezed > 0) && len(l.payload) >= deflateMin {
		return fmt.Errorf("%d compressed messages", p.squeezed)
	}
	want := strings.Repeat(transcript(l.text, []byte(l.payload))+"\n", l.times) + "close 1000 \"\"\n"
	if got := p.log.String(); got != want {
		return fmt.Errorf("%.300q, want %.300q", got, want)
	}
	return nil
}

// wsLoads are the cases, named as the suite numbers them. Of its thousand messages
// of a size there are fewer when they are large.
func wsLoads() (list []wsLoad) {
	sized := func(s string, n int) string {
		s = strings.Repeat(s, n/len(s)+1)[:n]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
		return s
	}
	noise := func(n int) string {
		b, random := make([]byte, n), rand.New(rand.NewPCG(uint64(n), 2))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return string(b)
	}
	const greek, json = kosme + " \u00b5@\u00df\u00f6\u00e4\u00fc\u00e0\u00e1 UTF-8!! ", `{"name": "value", "list": [1, 2, 3.25, null]}, `
	add := func(l wsLoad, format string, args ...any) {
		if l.name = fmt.Sprintf(format, args...); l.times == 0 {
			l.times = 1
		}
		list = append(list, l)
	}
	both := func(section, i, n int, l wsLoad) { // the odd sections are of text
		l.text, l.payload = true, sized(greek, n)
		add(l, "9.%d.%d", section, i)
		l.text, l.payload = false, noise(n)
		add(l, "9.%d.%d", section+1, i)
	}
	for i, n := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20} {
		both(1, i+1, n, wsLoad{})
	}
	for i := range 9 {
		both(3, i+1, 4<<20, wsLoad{fragment: 64 << (2 * i)})
	}
	for i := range 6 {
		both(5, i+1, 1<<20, wsLoad{chop: 64 << i})
	}
	for i, n := range []int{0, 16, 64, 256, 1024, 4096} {
		both(7, i+1, n, wsLoad{times: 1000})
	}
	add(wsLoad{text: true, payload: sized("*", 65536), fragment: 1300}, "10.1.1")
	sizes := []struct{ n, fragment int }{
		{16, 0}, {64, 0}, {256, 0}, {1 << 10, 0}, {4 << 10, 0}, {8 << 10, 0}, {16 << 10, 0}, {32 << 10, 0}, {64 << 10, 0}, {128 << 10, 0},
		{8 << 10, 256}, {16 << 10, 256}, {32 << 10, 256}, {64 << 10, 256}, {128 << 10, 256}, {128 << 10, 1 << 10}, {128 << 10, 4 << 10}, {128 << 10, 32 << 10},
	}
	for i, kind := range []string{json, "", "The quick brown fox jumps over the lazy dog. ", "Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor quer \u00fcber. ", greek} {
		for j, size := range sizes {
			l := wsLoad{text: kind != "", payload: noise(size.n), fragment: size.fragment, offers: "permessage-deflate; client_max_window_bits",
				times: min(1000, 2<<20/size.n)}
			if l.text {
				l.payload = sized(kind, size.n)
			}
			add(l, "12.%d.%d", i+1, j+1)
		}
	}
	for i, offer := range []struct {
		text     string
		declined bool
	}{
		{"permessage-deflate; client_max_window_bits", false},
		{"permessage-deflate; client_max_window_bits; server_no_context_takeover", false},
		{"permessage-deflate; client_max_window_bits; server_max_window_bits=9", true},
		{"permessage-deflate; client_max_window_bits; server_max_window_bits=15", false},
		{"permessage-deflate; client_max_window_bits; server_no_context_takeover; server_max_window_bits=9", true},
		{"permessage-deflate; client_max_window_bits; server_no_context_takeover; server_max_window_bits=15", false},
		{"permessage-deflate; server_no_context_takeover; server_max_window_bits=9, permessage-deflate; server_no_context_takeover, permessage-deflate", false},
	} {
		for j, size := range sizes {
			add(wsLoad{text: true, payload: sized(json, size.n), fragment: size.fragment, offers: offer.text, declined: offer.declined,
				times: min(1000, 1<<20/size.n)}, "13.%d.%d", i+1, j+1)
		}
	}
	return list
}

// TestAutobahnLoad has sections 9, 10, 12 and 13. Over TLS it has what is special
// there: large messages and many small ones, cut where records end.
func TestAutobahnLoad(t *testing.T) {
	if reference {
		t.SkipNow()
	}
	for name, args := range map[string][]string{
		"TCP": nil,
		"TLS": {"--certfile", "server.pem", "--keyfile", "server.key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := autobahnServer(t, args...)
			python, list := s.python(), wsLoads()
			if name == "TLS" {
				list = slices.DeleteFunc(list, func(l wsLoad) bool { return strings.HasPrefix(l.name, "12.") || strings.HasPrefix(l.name, "13.") })
			}
			t.Logf("%d cases", len(list))
			inParallel(t, list, func(l wsLoad) error {
				if err := l.play(s.dial(1)); err != nil {
					return fmt.Errorf("%s: %w", l.name, err)
				}
				return nil
			})
			servesOn(t, s, python)
		})
	}
}
