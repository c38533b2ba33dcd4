package main

// The cases are those of the Autobahn test suite, by its numbers, as far as
// they concern the codec: what a client sends, and what is understood. Each is
// fed whole, cut at every byte and byte by byte.

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
	"unsafe"
)

// clientFrame is a frame as clients send it, masked.
func clientFrame(first byte, payload string) string {
	mask := [4]byte{0x37, 0xfa, 0x21, byte(len(payload))}
	b := appendWSHead(nil, first, len(payload))
	b[1] |= wsMasked
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

// Frames of one letter for the tables: the capital has FIN.
func wsT(p string) string { return clientFrame(wsFin|opText, p) }

func wst(p string) string { return clientFrame(opText, p) }

func wsB(p string) string { return clientFrame(wsFin|opBinary, p) }

func wsb(p string) string { return clientFrame(opBinary, p) }

func wsC(p string) string { return clientFrame(wsFin|opContinuation, p) }

func wsc(p string) string { return clientFrame(opContinuation, p) }

func wsZ(p string) string { return clientFrame(wsFin|wsRSV1|opText, p) }

func wsz(p string) string { return clientFrame(wsRSV1|opText, p) }

func wsPingFrame(p string) string { return clientFrame(wsFin|opPing, p) }

func wsPongFrame(p string) string { return clientFrame(wsFin|opPong, p) }

func wsCloseFrame(code uint16, reason string) string {
	return clientFrame(wsFin|opClose, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

// wsReader makes a transcript of what a decoder reports. A message has one
// line, whatever pieces it came in.
type wsReader struct {
	d       *wsDecoder
	log     strings.Builder
	message []byte
	open    bool
	text    bool
	rest    []byte // bytes that the decoder has left: the beginning of a frame
	pieces  int
	bad     *wsError
	closed  bool
	fault   string // a promise that was broken
}

func (r *wsReader) failf(format string, args ...any) {
	if r.fault == "" {
		r.fault = fmt.Sprintf(format, args...)
	}
}

// feed gives more bytes to the decoder until it wants yet more.
func (r *wsReader) feed(more []byte) {
	in := append(r.rest, more...)
	defer func() { r.rest = in }()
	for {
		n, e, bad := r.d.next(in)
		if n < 0 || n > len(in) {
			r.failf("consumed %d of %d bytes", n, len(in))
			return
		}
		in = in[n:]
		switch {
		case bad != nil:
			if r.bad != nil || r.closed || !reflect.DeepEqual(e, wsEvent{}) {
				r.failf("%v after the end, with %+v", bad, e)
			}
			r.bad, r.open = bad, false
			fmt.Fprintf(&r.log, "bad %d\n", bad.code)
		case e.op != 0 && (r.bad != nil || r.closed):
			r.failf("%+v after the end", e)
		case e.op == 0 && n == 0:
			if len(in) >= 2+4+maxWSControl {
				r.failf("%d bytes left alone", len(in))
			}
			return
		default:
			r.take(e)
		}
	}
}

func (r *wsReader) take(e wsEvent) {
	text := e.op == opText
	switch e.op {
	case opText, opBinary:
		if r.open && text != r.text || len(e.payload) == 0 && !e.last {
			r.failf("piece %+v of a message that is open: %v", e, r.open)
		}
		r.pieces++
		r.open, r.text = !e.last, text
		r.message = append(r.message, e.payload...)
		if e.last {
			r.say(text, "")
		}
	case opPing:
		fmt.Fprintf(&r.log, "ping %q\n", e.payload)
	case opPong:
		fmt.Fprintf(&r.log, "pong %q\n", e.payload)
	case opClose:
		r.closed = true
		fmt.Fprintf(&r.log, "close %d %q\n", e.code, e.reason)
	}
}

func (r *wsReader) say(text bool, more string) {
	kind := "binary"
	if text {
		kind = "text"
		if more == "" && !utf8.Valid(r.message) {
			r.failf("text %q", r.message)
		}
	}
	if len(r.message) < 200 {
		fmt.Fprintf(&r.log, "%s %q%s\n", kind, r.message, more)
	} else {
		fmt.Fprintf(&r.log, "%s %d %x%s\n", kind, len(r.message), hashOf(r.message), more)
	}
	r.message = r.message[:0]
}

func hashOf(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

// understandWS feeds raw cut into pieces, each in a buffer of its own, which is
// overwritten when it has been read.
func understandWS(d *wsDecoder, raw string, cuts ...int) *wsReader {
	r := &wsReader{d: d}
	at := 0
	for _, cut := range append(cuts, len(raw)) {
		buf := []byte(raw[at:cut])
		r.feed(buf)
		for i := range buf {
			buf[i] = 0xff
		}
		at = cut
	}
	if r.open {
		r.say(r.text, " unfinished")
	}
	return r
}

func everyByte(n int) []int {
	cuts := make([]int, n)
	for i := range cuts {
		cuts[i] = i
	}
	return cuts
}

type wsCase struct {
	name    string
	in      string
	want    string // lines, "|" between them
	deflate bool
	limit   int64
	at      int // when not 0: the byte with which a mistake is one
}

// bound is the longest message that may come, 0 for any.
func (tt *wsCase) bound() int64 {
	switch {
	case tt.limit > 0:
		return tt.limit
	case strings.HasPrefix(tt.name, "9 longer"):
		return 0
	default:
		return 1 << 20
	}
}

// squeeze compresses as another implementation might.
func squeeze(s string, level int, flushAt ...int) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, level)
	at := 0
	for _, cut := range append(flushAt, len(s)) {
		io.WriteString(w, s[at:cut])
		w.Flush()
		at = cut
	}
	return strings.TrimSuffix(b.String(), wsTail)
}

const (
	kosme = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5" // κόσμε
	hello = "Hello, world!"
)

func wsCases() []wsCase {
	long := func(n int) string { return strings.Repeat("*", n) }
	said := func(kind, s string) string {
		r := &wsReader{message: []byte(s)}
		r.say(kind == "text", "")
		return strings.TrimSuffix(r.log.String(), "\n")
	}
	cases := []wsCase{
		{name: "1 cut off in a head", in: wsT(hello)[:5], want: ""},
		{name: "1 cut off in a payload", in: wsT(hello)[:9], want: `text "Hel" unfinished`},
		{name: "1 messages after another", in: wsT("a") + wsB("b") + wsT(""), want: `text "a"|binary "b"|text ""`},
		{name: "1 length not minimal, 16 bits", in: "\x82\xfe\x00\x7d....", want: "bad 1002", at: 8},
		{name: "1 length not minimal, 64 bits", in: "\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff....", want: "bad 1002", at: 14},
		{name: "1 length with its top bit", in: "\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00....", want: "bad 1002", at: 14},
		{name: "1 not masked", in: "\x81\x05Hello", want: "bad 1002", at: 2},
		{name: "1 close not masked", in: "\x88\x02\x03\xe8", want: "bad 1002", at: 2},

		{name: "2.1", in: wsPingFrame(""), want: `ping ""`},
		{name: "2.2", in: wsPingFrame(hello), want: `ping "Hello, world!"`},
		{name: "2.3", in: wsPingFrame("\x00\xff\xfe\xfd\xfc\xfb\x00\xff"), want: `ping "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"`},
		{name: "2.4", in: wsPingFrame(long(125)), want: `ping "` + long(125) + `"`},
		{name: "2.5", in: wsPingFrame(long(126)), want: "bad 1002", at: 2},
		{name: "2.7", in: wsPongFrame(""), want: `pong ""`},
		{name: "2.8", in: wsPongFrame("unasked"), want: `pong "unasked"`},
		{name: "2.9", in: wsPongFrame("unasked") + wsPingFrame("p"), want: `pong "unasked"|ping "p"`},
		{name: "2.10", in: strings.Repeat(wsPingFrame("x"), 10), want: strings.Repeat(`ping "x"|`, 9) + `ping "x"`},

		{name: "3.1", in: clientFrame(wsFin|0x40|opText, hello), want: "bad 1002", at: 2},
		{name: "3.2", in: wsT(hello) + clientFrame(wsFin|0x20|opText, hello) + wsPingFrame(""), want: `text "Hello, world!"|bad 1002`},
		{name: "3.3", in: clientFrame(wsFin|0x30|opText, hello), want: "bad 1002"},
		{name: "3.5", in: clientFrame(wsFin|0x50|opBinary, hello), want: "bad 1002"},
		{name: "3.6", in: clientFrame(wsFin|0x60|opPing, hello), want: "bad 1002"},
		{name: "3.7", in: clientFrame(wsFin|0x70|opClose, ""), want: "bad 1002"},
		{name: "3 RSV2 with deflate", in: clientFrame(wsFin|0x20|opText, hello), want: "bad 1002", deflate: true},
		{name: "3 RSV1 of a ping", in: clientFrame(wsFin|0x40|opPing, hello), want: "bad 1002", deflate: true, at: 2},
		{name: "3 RSV1 of a continuation", in: wsz("") + clientFrame(wsFin|0x40, "\x00"), want: "bad 1002", deflate: true, at: 8},

		{name: "5.1", in: clientFrame(opPing, "frag") + wsC("ment"), want: "bad 1002", at: 2},
		{name: "5.2", in: clientFrame(opPong, "frag") + wsC("ment"), want: "bad 1002", at: 2},
		{name: "5.3", in: wst("frag") + wsC("ment"), want: `text "fragment"`},
		{name: "5.6", in: wst("frag") + wsPingFrame("ping") + wsC("ment"), want: `ping "ping"|text "fragment"`},
		{name: "5.9", in: wsC("not a continuation") + wsT(hello), want: "bad 1002", at: 2},
		{name: "5.12", in: wsc("not a continuation") + wsT(hello), want: "bad 1002", at: 2},
		{name: "5.15", in: wst("fragment1") + wsC("fragment2") + wsc("fragment3") + wst("fragment4"),
			want: `text "fragment1fragment2"|bad 1002`},
		{name: "5.18", in: wst("fragment1") + wsT("fragment2"), want: "bad 1002", at: 17},
		{name: "5.19", in: wst("1") + wsc("2") + wsPingFrame("p") + wsc("3") + wsc("4") + wsPingFrame("q") + wsC("5"),
			want: `ping "p"|ping "q"|text "12345"`},
		{name: "5 empty fragments", in: wst("") + wsc("") + wsPingFrame("") + wsC(""), want: `ping ""|text ""`},
		{name: "5 empty fragments around", in: wsb("") + wsc("x") + wsc("") + wsC(""), want: `binary "x"`},
		{name: "5 unfinished", in: wsb("x") + wsc("y"), want: `binary "xy" unfinished`},

		{name: "6.1.1", in: wsT(""), want: `text ""`},
		{name: "6.1.3", in: wst("") + wsc("middle") + wsC(""), want: `text "middle"`},
		{name: "6.2.3", in: wst("Hello-\xc2") + wsc("\xb5@\xc3") + wsC("\x9f"), want: `text "Hello-µ@ß"`},
		{name: "6.3.1", in: wsT(kosme + "\xed\xa0\x80edited"), want: "bad 1007"},
		{name: "6.4.1", in: wst(kosme) + wsc("\xf4\x90\x80\x80") + wsC("edited"), want: "bad 1007", at: 17 + 6 + 2},
		{name: "6.4.2", in: wst(kosme+"\xf4") + wsc("\x90") + wsC("\x80\x80edited"), want: "bad 1007", at: 18 + 6 + 1},
		{name: "6.4.3", in: wsT(kosme + "\xf4\x90\x80\x80edited"), want: "bad 1007", at: 6 + 11 + 2},
		{name: "6 cut off at the end", in: wsT(kosme + "\xf4\x8f\xbf"), want: "bad 1007"},
		{name: "6 cut off at the end, empty last", in: wst("\xc3") + wsC(""), want: "bad 1007", at: 7 + 6},
		{name: "6 whatever in binary", in: wsB("\xff\xfe"), want: `binary "\xff\xfe"`},
		{name: "6 text after binary", in: wsb("\xc3") + wsC("") + wsT("\xc3\xa9"), want: `binary "\xc3"|text "é"`},

		{name: "7.1.1", in: wsT(hello) + wsCloseFrame(1000, ""), want: `text "Hello, world!"|close 1000 ""`},
		{name: "7.1.2", in: wsCloseFrame(1000, "") + wsCloseFrame(1000, ""), want: `close 1000 ""`},
		{name: "7.1.3", in: wsCloseFrame(1000, "") + wsPingFrame("late"), want: `close 1000 ""`},
		{name: "7.1.4", in: wsCloseFrame(1000, "") + wsT(hello), want: `close 1000 ""`},
		{name: "7.1.5", in: wst("fragment1") + wsCloseFrame(1000, "") + wsC("fragment2"), want: `close 1000 ""|text "fragment1" unfinished`},
		{name: "7.1.6", in: wsT(long(256<<10)) + wsCloseFrame(1000, "") + wsPingFrame(""), want: said("text", long(256<<10)) + `|close 1000 ""`},
		{name: "7.1 junk after close", in: wsCloseFrame(1001, "") + "\xff\x00junk", want: `close 1001 ""`},
		{name: "7.1 junk after a mistake", in: wsC("") + wsT(hello) + "\xff\x00junk", want: "bad 1002"},
		{name: "7.3.1", in: clientFrame(wsFin|opClose, ""), want: `close 1005 ""`},
		{name: "7.3.2", in: clientFrame(wsFin|opClose, "a"), want: "bad 1002"},
		{name: "7.3.4", in: wsCloseFrame(1000, "Hello World!"), want: `close 1000 "Hello World!"`},
		{name: "7.3.5", in: wsCloseFrame(1000, long(123)), want: `close 1000 "` + long(123) + `"`},
		{name: "7.3.6", in: wsCloseFrame(1000, long(124)), want: "bad 1002", at: 2},
		{name: "7.5.1", in: wsCloseFrame(1000, kosme+"\xed\xa0\x80edited"), want: "bad 1007"},

		{name: "9 too big", in: wsB(long(11)), want: "bad 1009", limit: 10, at: 6},
		{name: "9 as big as may be", in: wsB(long(10)), want: `binary "**********"`, limit: 10},
		{name: "9 too big in the end", in: wsb(long(4)) + wsc(long(6)) + wsC("x"), want: "bad 1009", limit: 10, at: 10 + 12 + 6},
		{name: "9 ping in a message of that size", in: wsb(long(10)) + wsPingFrame(long(11)) + wsC(""),
			want: `ping "***********"|binary "**********"`, limit: 10},
		{name: "9 messages add to nothing", in: wsB(long(10)) + wsB(long(10)), want: `binary "**********"|binary "**********"`, limit: 10},
		{name: "9 as long as can be said", in: "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff....", want: "bad 1009", limit: 10, at: 14},
		{name: "9 longer than can be said", in: "\x02\xff\x7f\xff\xff\xff\xff\xff\xff\xff....x", want: `binary "V" unfinished`},
		{name: "9 compressed, too big packed", in: wsZ(long(90)), want: "bad 1009", limit: 10, deflate: true, at: 6},
		{name: "9 compressed, too big", in: wsZ(squeeze(long(11), 9)), want: "bad 1009", limit: 10, deflate: true},
		{name: "9 compressed, as big as may be", in: wsZ(squeeze(long(10), 9)), want: `text "**********"`, limit: 10, deflate: true},
		{name: "9 compressed, grown", in: wsZ(squeeze("0123456789", 0)), want: `text "0123456789"`, limit: 10, deflate: true},

		{name: "12 RFC 7692 7.2.3.1", in: wsZ("\xf2\x48\xcd\xc9\xc9\x07\x00"), want: `text "Hello"`, deflate: true},
		{name: "12 in two frames", in: wsz("\xf2\x48\xcd") + wsC("\xc9\xc9\x07\x00"), want: `text "Hello"`, deflate: true},
		{name: "12 RFC 7692 7.2.3.3", in: wsZ("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), want: `text "Hello"`, deflate: true},
		{name: "12 RFC 7692 7.2.3.4", in: wsZ("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), want: `text "Hello"`, deflate: true},
		{name: "12 RFC 7692 7.2.3.5", in: wsZ("\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), want: `text "Hello"`, deflate: true},
		{name: "12 RFC 7692 7.2.3.6", in: wsZ("\x00"), want: `text ""`, deflate: true},
		{name: "12 nothing for nothing", in: wsZ(""), want: `text ""`, deflate: true},
		{name: "12 final block at the very end", in: wsZ("\xf3\x48\xcd\xc9\xc9\x07\x00"), want: `text "Hello"`, deflate: true},
		{name: "12 two final blocks", in: wsZ("\xf3\x48\xcd\xc9\xc9\x07\x00\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), want: `text "HelloHello"`, deflate: true},
		{name: "12 not compressed", in: wsT(hello), want: `text "Hello, world!"`, deflate: true},
		{name: "12 ping within", in: wsz("\xf2\x48\xcd") + wsPingFrame("p") + wsC("\xc9\xc9\x07\x00"), want: `ping "p"|text "Hello"`, deflate: true},
		{name: "12 close within", in: wsz("\xf2\x48\xcd") + wsCloseFrame(1001, ""), want: `close 1001 ""`, deflate: true},
		{name: "12 binary", in: clientFrame(wsFin|wsRSV1|opBinary, squeeze("\xff\xfe", 1)), want: `binary "\xff\xfe"`, deflate: true},
		{name: "12 text that is none", in: wsZ(squeeze("\xff\xfe", 1)), want: "bad 1007", deflate: true},
		{name: "12 text that ends early", in: wsZ(squeeze("abc\xc3", 1)), want: "bad 1007", deflate: true},
		{name: "12 corrupt", in: wsZ("\xff\xff\xff\xff"), want: "bad 1007", deflate: true},
		{name: "12 cut off", in: wsZ("\xf2\x48\xcd"), want: "bad 1007", deflate: true},
		{name: "12 junk after a final block", in: wsZ("\xf3\x48\xcd\xc9\xc9\x07\x00\xff\xff"), want: "bad 1007", deflate: true},
		{name: "12 no window from the last message", in: wsZ(squeeze("Hello", 9)) + wsZ("\xf2\x00\x11\x00\x00"), want: `text "Hello"|bad 1007`, deflate: true},
		{name: "12 flushed within", in: wsZ(squeeze("Hello, Hello, Hello", 9, 3, 7, 7, 12)) + wsT("x"), want: `text "Hello, Hello, Hello"|text "x"`, deflate: true},
		{name: "12 not negotiated", in: wsZ("\x00"), want: "bad 1002", at: 2},
	}
	for _, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		cases = append(cases,
			wsCase{name: fmt.Sprintf("1.1 text of %d", n), in: wsT(long(n)), want: said("text", long(n))},
			wsCase{name: fmt.Sprintf("1.2 binary of %d", n), in: wsB(strings.Repeat("\xfe", n)), want: said("binary", strings.Repeat("\xfe", n))})
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		cases = append(cases,
			wsCase{name: fmt.Sprintf("4 opcode %d", op), in: clientFrame(wsFin|op, hello), want: "bad 1002", at: 2},
			wsCase{name: fmt.Sprintf("4 opcode %d after text", op), in: wsT(hello) + clientFrame(wsFin|op, "") + wsPingFrame(""), want: `text "Hello, world!"|bad 1002`})
	}
	for _, s := range goodUTF8 {
		cases = append(cases, wsCase{name: fmt.Sprintf("6 %q", s), in: wsT(s), want: said("text", s)},
			wsCase{name: fmt.Sprintf("6 %q compressed", s), in: wsZ(squeeze(s, 1)), want: said("text", s), deflate: true})
	}
	for _, s := range badUTF8 {
		cases = append(cases, wsCase{name: fmt.Sprintf("6 %q", s), in: wsT(s), want: "bad 1007"},
			wsCase{name: fmt.Sprintf("6 %q within", s), in: wsT("some text before " + s + " and some after"), want: "bad 1007"})
	}
	for code := range 5100 {
		want := "bad 1002"
		switch {
		case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
			want = fmt.Sprintf("close %d \"\"", code)
		}
		if code%50 < 20 { // 7.7, 7.9 and all around
			cases = append(cases, wsCase{name: fmt.Sprintf("7 code %d", code), in: wsCloseFrame(uint16(code), ""), want: want})
		}
	}
	return append(cases, wsCase{name: "7.13.2", in: wsCloseFrame(65535, ""), want: "bad 1002"})
}

// goodUTF8 and badUTF8 are Markus Kuhn's, as the suite has them.
var goodUTF8 = []string{
	"hello$world", "hello\u00a2world", "hello\u20acworld", "hello\U00024b62world", kosme,
	kosme[:2], kosme[:5], kosme[:7], kosme[:9], "\x00", "\x7f", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000",
	"\ud7ff", "\ue000", "\ufffd", "\U0010ffff", "\ufffe", "\U0001fffe", "\U000fffff", "\ufff9\ufffa\ufffb\ufffc",
}

var badUTF8 = []string{
	kosme[:1], kosme[:3], kosme[:4], kosme[:6], kosme[:8], kosme[:10],
	"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf",
	"\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80\xbf",
	"\xc0 \xc1 ", "\xe0 \xe1 ", "\xf0 \xf1 ", "\xc0", "\xe0\x80", "\xf0\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf",
	"\xfe", "\xff", "\xfe\xfe\xff\xff", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",
	"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xed\xa0\x80", "\xed\xad\xbf", "\xed\xb0\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80",
}

func TestWebSocketFrames(t *testing.T) {
	pool := &wsPool{}
	for _, tt := range wsCases() {
		limit := tt.bound()
		want := strings.ReplaceAll(tt.want, "|", "\n")
		if want != "" {
			want += "\n"
		}
		check := func(how string, cuts ...int) {
			r := understandWS(newWSDecoder(limit, tt.deflate, pool), tt.in, cuts...)
			if r.log.String() != want || r.fault != "" {
				t.Fatalf("%s, %s:\n%swant:\n%s%s", tt.name, how, &r.log, want, r.fault)
			}
		}
		check("whole")
		check("byte by byte", everyByte(len(tt.in))...)
		for cut := 1; cut < len(tt.in); cut++ {
			if len(tt.in) < 1000 || cut < 20 || cut > len(tt.in)-20 {
				check(fmt.Sprintf("cut at %d", cut), cut)
			}
		}
		if tt.at > 0 {
			early := understandWS(newWSDecoder(limit, tt.deflate, pool), tt.in[:tt.at-1])
			if r := understandWS(newWSDecoder(limit, tt.deflate, pool), tt.in[:tt.at]); early.bad != nil || r.bad == nil {
				t.Errorf("%s: %v before byte %d, %v with it", tt.name, early.bad, tt.at, r.bad)
			}
		}
	}
}

// TestWebSocketLarge has messages of 16 MB, in frames of all sizes (9 and 10 of
// the suite), which must come out in pieces no longer than those that went in.
func TestWebSocketLarge(t *testing.T) {
	const size = 16 << 20
	message := strings.Repeat("The quick brown fox ju\u0308mps over the lazy dog.\n", size/45+1)[:size]
	for !utf8.ValidString(message) {
		message = message[:len(message)-1]
	}
	pool := &wsPool{}
	for _, fragment := range []int{1300, 64 << 10, 1 << 20, size} {
		for _, deflate := range []bool{false, true} {
			payload := message
			if deflate {
				payload = squeeze(message, 1)
			}
			raw, first := strings.Builder{}, byte(opText)
			if deflate {
				first |= wsRSV1
			}
			for at := 0; at < len(payload); at += fragment {
				end := min(at+fragment, len(payload))
				if end == len(payload) {
					first |= wsFin
				}
				raw.WriteString(clientFrame(first, payload[at:end]))
				first = opContinuation
			}
			var cuts []int
			for at := 0; at < raw.Len(); at += 65521 {
				cuts = append(cuts, at)
			}
			r := understandWS(newWSDecoder(int64(len(message)), deflate, pool), raw.String(), cuts...)
			want := fmt.Sprintf("text %d %x\n", len(message), hashOf([]byte(message)))
			if r.log.String() != want || r.fault != "" || r.pieces < len(message)/maxWSPiece {
				t.Errorf("fragments of %d, deflate %v: %s in %d pieces, want %s %s", fragment, deflate, &r.log, r.pieces, want, r.fault)
			}
			if r = understandWS(newWSDecoder(int64(len(message))-1, deflate, pool), raw.String(), cuts...); r.bad == nil || r.bad.code != wsTooBig {
				t.Errorf("fragments of %d, deflate %v: %v with a limit below", fragment, deflate, r.bad)
			}
		}
	}
}

// TestWebSocketEmptyBlocks: what says little may, what says nothing may not go on
// for long.
func TestWebSocketEmptyBlocks(t *testing.T) {
	var flushes []int
	for i := range 100000 {
		flushes = append(flushes, i)
	}
	for _, tt := range []struct{ name, in, want string }{
		{"a flush after every byte", squeeze(strings.Repeat("x", 100000), 0, flushes...), fmt.Sprintf("text 100000 %x\n", hashOf(bytes.Repeat([]byte("x"), 100000)))},
		{"few", strings.Repeat("\x00\x00\x00\xff\xff", 10000) + "\x00", "text \"\"\n"},
		{"many", strings.Repeat("\x00\x00\x00\xff\xff", 20000) + "\x00", "bad 1007\n"},
		{"many after some", squeeze(strings.Repeat("x", 5000), 1) + "\x00\x00\xff\xff" + strings.Repeat("\x00\x00\x00\xff\xff", 30000) + "\x00", "bad 1007\n"},
		{"final ones", strings.Repeat("\x03\x00", 40000) + "\x00", "bad 1007\n"},
	} {
		r := understandWS(newWSDecoder(0, true, &wsPool{}), wsZ(tt.in))
		if r.log.String() != tt.want || r.fault != "" {
			t.Errorf("%s: %s %v %s", tt.name, &r.log, r.bad, r.fault)
		}
	}
}

// TestWebSocketIdle: a thousand connections on which nothing happens are a
// thousand small structs.
func TestWebSocketIdle(t *testing.T) {
	if size := unsafe.Sizeof(wsDecoder{}); size >= 128 {
		t.Errorf("%d bytes", size)
	}
	pool := &wsPool{}
	for _, in := range []string{wsT(hello), wsZ(squeeze(hello, 1)), wsPingFrame("x"), wsz("\xf2\x48\xcd") + wsC("\xc9\xc9\x07\x00")} {
		d := newWSDecoder(1<<20, true, pool)
		understandWS(d, in, everyByte(len(in))...)
		if d.packed != nil || d.flate != nil {
			t.Errorf("%q: %+v", in, d)
		}
	}
	if len(pool.inflaters) != 1 {
		t.Errorf("%d inflaters", len(pool.inflaters))
	}
	in := wsZ(squeeze(strings.Repeat("x", 1<<20), 1))
	var busy []*wsDecoder
	for range 2 * maxInflaters {
		d := newWSDecoder(1<<20, true, pool)
		d.next([]byte(in))
		if busy = append(busy, d); d.flate == nil {
			t.Fatal("the message is over")
		}
	}
	for _, d := range busy {
		r := &wsReader{d: d, open: true, text: true}
		if r.feed(nil); r.open {
			t.Error("the message has no end")
		}
	}
	if len(pool.inflaters) != maxInflaters || cap(pool.packed) > maxSparePacked {
		t.Errorf("%d inflaters, %d bytes kept", len(pool.inflaters), cap(pool.packed))
	}
}

func TestWebSocketNoAllocation(t *testing.T) {
	pool := &wsPool{}
	d := newWSDecoder(1<<20, true, pool)
	for _, raw := range []string{wsT(hello), wsb(hello) + wsPingFrame(hello) + wsC(kosme), wsT(strings.Repeat(kosme, 100)), wsZ("\xf2\x48\xcd\xc9\xc9\x07\x00")} {
		buf, out := make([]byte, len(raw)), make([]byte, 0, 1<<10)
		allocs := testing.AllocsPerRun(100, func() {
			in := buf[:copy(buf, raw)]
			for len(in) > 0 {
				n, e, bad := d.next(in)
				if bad != nil {
					t.Fatal(bad)
				}
				out = append(appendWSHead(out[:0], wsFin|opText, len(e.payload)), e.payload...)
				out = pool.deflate(out[:0], wsRSV1|opText, e.payload, true)
				in = in[n:]
			}
		})
		if allocs > 0 {
			t.Errorf("%q: %v allocations", raw, allocs)
		}
	}
}

func TestUnmask(t *testing.T) {
	for n := range 80 {
		for start := range 9 {
			in := make([]byte, start+n)
			mask := [4]byte{1, 20, 130, 240}
			rest := unmask(in[start:], binary.LittleEndian.Uint32(mask[:]))
			for i, c := range in[start:] {
				if c != mask[i%4] {
					t.Fatalf("%d bytes: %x", n, in)
				}
			}
			if byte(rest) != mask[n%4] || byte(rest>>24) != mask[(n+3)%4] {
				t.Fatalf("%d bytes: goes on with %x", n, rest)
			}
		}
	}
}

// TestUTF8Checker compares with the library, over everything of three bytes that
// may matter, in pieces.
func TestUTF8Checker(t *testing.T) {
	some := []byte{0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef,
		0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff}
	n := len(some)
	for i := range n * n * n * n {
		p := []byte{some[i%n], some[i/n%n], some[i/n/n%n], some[i/n/n/n]}
		for cut := range 4 {
			var u utf8Checker
			if ok := u.add(p[:cut]) && u.add(p[cut:]) && u.whole(); ok != utf8.Valid(p) {
				t.Fatalf("%x cut at %d: %v", p, cut, ok)
			}
		}
	}
	// A beginning is refused if and only if nothing can follow that makes it
	// good.
	for i := range n * n * n {
		p := []byte{some[i%n], some[i/n%n], some[i/n/n]}
		hope := false
		for _, end := range []string{"", "\x80", "\x80\x80", "\x80\x80\x80", "\xa0\x80", "\x90\x80\x80"} {
			hope = hope || utf8.Valid(append(p[:3:3], end...))
		}
		var u utf8Checker
		if ok := u.add(p); ok != hope {
			t.Fatalf("%x: %v", p, ok)
		}
	}
}

func TestWebSocketHead(t *testing.T) {
	for n, want := range map[int]string{
		0: "\x81\x00", 125: "\x81\x7d", 126: "\x81\x7e\x00\x7e", 65535: "\x81\x7e\xff\xff",
		65536: "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", math.MaxInt64: "\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
	} {
		if got := string(appendWSHead([]byte("before"), wsFin|opText, n)); got != "before"+want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if got := string(appendWSHead(nil, wsRSV1|opBinary, 1)); got != "\x42\x01" {
		t.Errorf("%q", got)
	}
}

func TestWebSocketClose(t *testing.T) {
	for _, tt := range []struct {
		code         uint16
		reason, want string
	}{
		{1000, "", "\x88\x02\x03\xe8"},
		{1005, "never said", "\x88\x02\x03\xe8"},
		{1001, "bye", "\x88\x05\x03\xe9bye"},
		{1011, strings.Repeat("x", 123), "\x88\x7d\x03\xf3" + strings.Repeat("x", 123)},
		{1011, strings.Repeat("x", 124), "\x88\x7d\x03\xf3" + strings.Repeat("x", 123)},
		{1011, strings.Repeat("x", 122) + "é", "\x88\x7c\x03\xf3" + strings.Repeat("x", 122)},
		{1011, strings.Repeat("€", 99), "\x88\x7d\x03\xf3" + strings.Repeat("€", 41)},
		{1011, "x" + strings.Repeat("€", 99), "\x88\x7b\x03\xf3x" + strings.Repeat("€", 40)},
	} {
		if got := string(appendWSClose([]byte("before"), tt.code, tt.reason)); got != "before"+tt.want {
			t.Errorf("%d %q: %q, want %q", tt.code, tt.reason, got, tt.want)
		}
	}
}

// asClient turns frames of the server's into a client's, and checks that no
// other form would have been shorter.
func asClient(t testing.TB, in []byte) (out string) {
	t.Helper()
	for len(in) > 0 {
		if len(in) < 2 || in[1]&wsMasked != 0 {
			t.Fatalf("frame %x", in)
		}
		head, n, bad := frameLen(in)
		if bad != nil || head == 0 || int64(len(in)-head) < n {
			t.Fatalf("frame %x: %v", in, bad)
		}
		out += clientFrame(in[0], string(in[head:head+int(n)]))
		in = in[head+int(n):]
	}
	return out
}

func TestWebSocketDeflater(t *testing.T) {
	pool := &wsPool{}
	noise := make([]byte, 200000)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for _, pieces := range [][]string{
		{""}, {"Hello"}, {"", ""}, {"Hello", ""}, {"", "Hello"}, {"Hello, ", "Hello, ", "Hello"},
		{strings.Repeat("x", 1<<20)}, {string(noise)}, {string(noise[:65530]), string(noise[:126]), kosme, ""},
	} {
		b, first := []byte("before"), byte(wsRSV1|opBinary)
		var second []byte
		for i, p := range pieces {
			last := i == len(pieces)-1
			b = pool.deflate(b, first, []byte(p), last)
			second = pool.deflate(second, first&^opBinary|first&opBinary>>1, []byte("x"), last) // messages may be under way together
			first = opContinuation
		}
		frames := b[len("before"):]
		raw := asClient(t, frames)
		whole := strings.Join(pieces, "")
		r := understandWS(newWSDecoder(1<<20, true, pool), raw+asClient(t, second))
		w := &wsReader{message: []byte(whole)}
		w.say(false, "")
		w.message = []byte(strings.Repeat("x", len(pieces)))
		w.say(true, "")
		if r.log.String() != w.log.String() || r.fault != "" {
			t.Errorf("%.40q: %s want %s %s", pieces, &r.log, &w.log, r.fault)
		}
		if len(pieces) == 1 && frames[0] != wsFin|wsRSV1|opBinary || len(pieces) > 1 && frames[0] != wsRSV1|opBinary {
			t.Errorf("%.40q begin with %x", pieces, frames[0])
		}
	}
	if got := string(pool.deflate(nil, wsRSV1|opText, nil, true)); got != "\xc1\x01\x00" {
		t.Errorf("empty message: %x", got)
	}
}

const goodKey = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

func TestWebSocketHandshake(t *testing.T) {
	const upgrade, version = "Upgrade: websocket|Connection: Upgrade|", "Sec-WebSocket-Version: 13|"
	const good = upgrade + version + goodKey
	const deflate = " deflate permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	const accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo= []"
	for _, tt := range []struct{ line, fields, want string }{
		{"", good, accept}, // RFC 6455 1.3
		{"", "upgrade: foo, WebSocket|connection: keep-alive, UPGRADE|" + version + goodKey, accept},
		{"", "Upgrade: foo|Upgrade: websocket|Connection: keep-alive|Connection: upgrade|" + version + goodKey, accept},
		{"", "Content-Length: 0|" + good, accept},
		{"", upgrade + version + "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==", "OfS0wDaT5NoxF2gqm7Zj2YtetzM= []"},

		{"POST / HTTP/1.1", good, "HTTP"},
		{"HEAD / HTTP/1.1", good, "HTTP"},
		{"GET / HTTP/1.0", good, "HTTP"},
		{"", "Connection: Upgrade|" + version + goodKey, "HTTP"},
		{"", "Upgrade: websocket|" + version + goodKey, "HTTP"},
		{"", "Upgrade: websocket|Connection: close|" + version + goodKey, "HTTP"},
		{"", "Upgrade: h2c|Connection: Upgrade|" + version + goodKey, "HTTP"},
		{"", "Upgrade: websockets|Connection: Upgrade|" + version + goodKey, "HTTP"},

		{"", upgrade + "Sec-WebSocket-Version: 8|" + goodKey, "426 Unsupported WebSocket version: '8'"},
		{"", upgrade + "Sec-WebSocket-Version: 013|" + goodKey, "426 Unsupported WebSocket version: '013'"},
		{"", upgrade + "Sec-WebSocket-Version: 13, 8|" + goodKey, "426 Unsupported WebSocket version: '13, 8'"},
		{"", upgrade + goodKey, "426 Unsupported WebSocket version: ''"},
		{"", good + "|" + version, "400 Invalid HTTP Header: 'SEC-WEBSOCKET-VERSION'"},
		{"", good + "|" + goodKey, "400 Invalid HTTP Header: 'SEC-WEBSOCKET-KEY'"},
		{"", upgrade + version, "400 Invalid HTTP Header: 'SEC-WEBSOCKET-KEY'"},
		{"", upgrade + version + "Sec-WebSocket-Key:", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-KEY'"},
		{"", upgrade + version + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-KEY'"},
		{"", upgrade + version + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE=", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-KEY'"},
		{"", upgrade + version + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTEy", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-KEY'"},
		{"", upgrade + version + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j!!==", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-KEY'"},
		{"", good + "|Content-Length: 1", "400 Invalid HTTP Header: 'CONTENT-LENGTH'"},
		{"", good + "|Transfer-Encoding: chunked", "400 Invalid HTTP Header: 'TRANSFER-ENCODING'"},

		{"", good + "|Sec-WebSocket-Protocol: chat, superchat|Sec-WebSocket-Protocol: v1.x", strings.Replace(accept, "[]", "[chat superchat v1.x]", 1)},
		{"", good + "|Sec-WebSocket-Protocol: , a,, b ,|Sec-WebSocket-Protocol:", strings.Replace(accept, "[]", "[a b]", 1)},
		{"", good + "|Sec-WebSocket-Protocol: a b", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-PROTOCOL'"},
		{"", good + "|Sec-WebSocket-Protocol: a|Sec-WebSocket-Protocol: \"b\"", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-PROTOCOL'"},
		{"", good + "|Sec-WebSocket-Protocol: \xc3\xa9", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-PROTOCOL'"},

		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: Permessage-Deflate;Client_Max_Window_Bits=8", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate ; server_no_context_takeover ; client_no_context_takeover", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15", accept + deflate + "; server_max_window_bits=15"},
		{"", good + `|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits = "1\5"`, accept + deflate + "; server_max_window_bits=15"},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=16", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10, permessage-deflate", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10|Sec-WebSocket-Extensions: permessage-deflate", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate; server_max_window_bits=15", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=7", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=08", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=x", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; client_max_window_bits", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover=1", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; server_no_context_takeover", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; unknown", accept},
		{"", good + "|Sec-WebSocket-Extensions: x-webkit-deflate-frame, bar; baz=\"2\", , permessage-deflate", accept + deflate},
		{"", good + "|Sec-WebSocket-Extensions: x-webkit-deflate-frame", accept},
		{"", good + "|Sec-WebSocket-Extensions:", accept},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate;", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate bar", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
		{"", good + "|Sec-WebSocket-Extensions: permessage-deflate; a=", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
		{"", good + `|Sec-WebSocket-Extensions: permessage-deflate; a="`, "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
		{"", good + `|Sec-WebSocket-Extensions: permessage-deflate; a=""`, "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
		{"", good + `|Sec-WebSocket-Extensions: permessage-deflate; a="b\`, "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
		{"", good + `|Sec-WebSocket-Extensions: permessage-deflate; a="b c"`, "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
		{"", good + "|Sec-WebSocket-Extensions: ; a", "400 Invalid HTTP Header: 'SEC-WEBSOCKET-EXTENSIONS'"},
	} {
		if tt.line == "" {
			tt.line = "GET / HTTP/1.1"
		}
		raw := tt.line + "\r\nHost: x\r\n" + strings.ReplaceAll(strings.TrimSuffix(tt.fields, "|"), "|", "\r\n") + "\r\n\r\n"
		if got := shakeHands(t, raw); got != tt.want {
			t.Errorf("%q:\n%s, want\n%s", raw, got, tt.want)
		}
	}
	page := string(appendErrorPage(nil, badWebsocketVersion(nil)))
	checkPage(t, page)
	for _, line := range []string{"HTTP/1.1 426 Upgrade Required\r\n", "\r\nUpgrade: websocket\r\n", "\r\nSec-WebSocket-Version: 13\r\n", "\r\nConnection: Upgrade\r\n"} {
		if !strings.Contains(page, line) {
			t.Errorf("%q is not in %q", line, page)
		}
	}
}

// shakeHands describes what is made of an opening handshake.
func shakeHands(t testing.TB, raw string) string {
	h := newHTTPCase()
	var r request
	buf, n, bad := h.parsePieces(&r, []byte(raw))
	if bad != nil || n == 0 {
		t.Fatalf("%q: %d, %v", raw, n, bad)
	}
	shake, asked, bad := websocketHandshake(&r)
	switch {
	case string(buf) != raw:
		t.Fatalf("%q is %q now", raw, buf)
	case !asked && bad == nil:
		return "HTTP"
	case bad != nil:
		if !asked || !bad.access {
			t.Errorf("%q: asked %v, access %v", raw, asked, bad.access)
		}
		return fmt.Sprintf("%d %s", bad.status, bad.text)
	}
	got := fmt.Sprintf("%s %v", shake.accept, shake.protocols)
	if shake.extension != "" {
		got += " deflate " + shake.extension
	}
	return got
}

// FuzzWebSocketHandshake: whatever the fields hold, what is agreed on is of one
// of two forms, and what is understood has been said.
func FuzzWebSocketHandshake(f *testing.F) {
	f.Add("dGhlIHNhbXBsZSBub25jZQ==", "a, b", "permessage-deflate; client_max_window_bits, x; y=\"z\"")
	f.Fuzz(func(t *testing.T, key, protocols, extensions string) {
		for _, v := range []string{key, protocols, extensions} {
			if !validValue([]byte(v)) {
				return
			}
		}
		r := request{method: []byte("GET"), minor: 1, upgrades: true, contentLength: -1, fields: []field{
			{[]byte("Upgrade"), []byte("websocket")}, {[]byte("Sec-WebSocket-Version"), []byte("13")},
			{[]byte("Sec-WebSocket-Key"), []byte(key)}, {[]byte("Sec-WebSocket-Protocol"), []byte(protocols)},
			{[]byte("Sec-WebSocket-Extensions"), []byte(extensions)},
		}}
		h, asked, bad := websocketHandshake(&r)
		if !asked {
			t.Fatal("not asked")
		}
		if bad != nil {
			checkPage(t, string(appendErrorPage(nil, bad)))
			return
		}
		if _, err := base64.StdEncoding.DecodeString(string(h.accept[:])); err != nil {
			t.Fatalf("accept %q", h.accept)
		}
		for _, p := range h.protocols {
			if p == "" || tokenLen([]byte(p)) < len(p) || !strings.Contains(protocols, p) {
				t.Fatalf("protocol %q of %q", p, protocols)
			}
		}
		if h.extension != "" && !strings.Contains(strings.ToLower(extensions), "permessage-deflate") {
			t.Fatalf("deflate by %q", extensions)
		}
		if strings.Contains(h.extension, "window") && !strings.Contains(strings.ToLower(extensions), "server_max_window_bits") {
			t.Fatalf("window by %q", extensions)
		}
	})
}

// FuzzWebSocket: however a stream is cut, the same is understood; no message is
// longer than the limit, no text is not UTF-8, and nothing follows the end.
func FuzzWebSocket(f *testing.F) {
	for i, tt := range wsCases() {
		if len(tt.in) < 500 && (!strings.HasPrefix(tt.name, "7 code") || i%50 == 0) {
			f.Add([]byte(tt.in), uint16(len(tt.in)/2), uint16(len(tt.in)-1), uint16(tt.limit), tt.deflate)
		}
	}
	pool := &wsPool{}
	f.Fuzz(func(t *testing.T, raw []byte, cut, second, limit uint16, deflate bool) {
		var last string
		a := min(int(cut), len(raw))
		b := max(a, min(int(second), len(raw)))
		for _, cuts := range [][]int{nil, {a, b}, everyByte(min(len(raw), 300))} {
			d := newWSDecoder(int64(limit), deflate, pool)
			r := &wsReader{d: d}
			at := 0
			for _, end := range append(cuts, len(raw)) {
				buf := bytes.Clone(raw[at:end])
				r.feed(buf)
				clear(buf)
				at = end
				if limit > 0 && len(r.message) > int(limit) {
					t.Fatalf("%d bytes with a limit of %d", len(r.message), limit)
				}
				if limit > 0 && len(d.packed) > int(limit)+int(limit)/4+64 {
					t.Fatalf("%d compressed bytes with a limit of %d", len(d.packed), limit)
				}
			}
			if r.open {
				r.say(r.text, " unfinished")
			}
			got := r.log.String()
			if r.bad != nil {
				got += r.bad.text
				if r.bad.code != wsProtocol && r.bad.code != wsInvalidData && r.bad.code != wsTooBig {
					t.Fatalf("code %d", r.bad.code)
				}
			}
			if r.fault != "" {
				t.Fatal(r.fault)
			}
			if cuts != nil && got != last {
				t.Fatalf("cut at %v:\n%s\notherwise:\n%s", cuts, got, last)
			}
			last = got
		}
	})
}

// FuzzWebSocketRoundTrip: what is encoded, plain or compressed, whole or in
// pieces, is what a decoder reports.
func FuzzWebSocketRoundTrip(f *testing.F) {
	f.Add([]byte(hello), uint16(5), true, true, uint16(1000))
	f.Add([]byte(kosme), uint16(3), false, true, uint16(3999))
	f.Add(bytes.Repeat([]byte("x"), 300), uint16(126), true, false, uint16(1005))
	pool := &wsPool{}
	f.Fuzz(func(t *testing.T, message []byte, cut uint16, compress, text bool, code uint16) {
		text = text && utf8.Valid(message)
		at := min(int(cut), len(message))
		var b []byte
		op := byte(opBinary)
		if text {
			op = opText
		}
		if compress {
			b = pool.deflate(nil, wsRSV1|op, message[:at], false)
			b = pool.deflate(b, opContinuation, message[at:], true)
			b = pool.deflate(b, wsRSV1|op, message, true)
		} else {
			b = append(appendWSHead(nil, op, at), message[:at]...)
			b = append(appendWSHead(b, wsFin|opContinuation, len(message)-at), message[at:]...)
			b = append(appendWSHead(b, wsFin|op, len(message)), message...)
		}
		reason := ""
		if text {
			reason = string(message)
		}
		if !validCloseCode(code) {
			code = 1000
		}
		b = appendWSClose(b, code, reason)
		w := &wsReader{}
		for range 2 {
			w.message = append(w.message, message...)
			w.say(text, "")
		}
		raw := asClient(t, b)
		r := understandWS(newWSDecoder(0, compress, pool), raw, min(int(cut), len(raw)))
		got, closing, _ := strings.Cut(r.log.String(), "close ")
		if got != w.log.String() || r.fault != "" || !r.closed {
			t.Fatalf("%s, want %s %s %v", got, &w.log, r.fault, r.bad)
		}
		if !strings.HasPrefix(closing, fmt.Sprint(code)) {
			t.Fatalf("close %s, want %d", closing, code)
		}
	})
}

func BenchmarkWebSocket(b *testing.B) {
	for _, bb := range []struct {
		name    string
		first   byte
		payload string
	}{
		{"binary 64K", wsFin | opBinary, strings.Repeat("x", 65000)},
		{"text 64K ASCII", wsFin | opText, strings.Repeat("x", 65000)},
		{"text 64K Greek", wsFin | opText, strings.Repeat(kosme, 5900)},
		{"text 64K German", wsFin | opText, strings.Repeat("Zwölf Boxkämpfer jagen Viktor quer über. ", 1500)},
		{"text 16", wsFin | opText, "0123456789abcdef"},
		{"ping", wsFin | opPing, "0123456789abcdef"},
		{"compressed 16", wsFin | wsRSV1 | opText, squeeze("0123456789abcdef", 1)},
		{"compressed 1K", wsFin | wsRSV1 | opText, squeeze(strings.Repeat("{\"name\": \"value\"}", 60), 1)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			raw := []byte(clientFrame(bb.first, bb.payload))
			copy(raw[len(raw)-len(bb.payload)-4:], make([]byte, 4)) // a mask of zeros leaves the payload as it is
			copy(raw[len(raw)-len(bb.payload):], bb.payload)
			d := newWSDecoder(1<<20, true, &wsPool{})
			b.SetBytes(int64(len(bb.payload)))
			b.ReportAllocs()
			for b.Loop() {
				if _, e, bad := d.next(raw); bad != nil || e.op == 0 {
					b.Fatal(bad)
				}
			}
		})
	}
}

func BenchmarkWebSocketDeflater(b *testing.B) {
	for _, n := range []int{64, 1024, 65536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := []byte(strings.Repeat("{\"name\": \"value\", \"n\": 17}", n/26+1)[:n])
			pool := &wsPool{}
			var out []byte
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				out = pool.deflate(out[:0], wsRSV1|opText, p, true)
			}
		})
	}
}
