package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// binaryProxy is a header of version 2 around the rest.
func binaryProxy(command, family byte, rest string) string {
	return proxySignature + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	inet  = "\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb" // 192.0.2.1:56324 to 198.51.100.1:443
	inet6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xdc\x04\x01\xbb"
)

var proxyCases = []struct {
	name, raw, mode string
	want            string // what describeProxy says, without what follows the header
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
	{"v2 far longer", proxySignature + "\x21\x11\xff\xff", "v2", "400 Invalid PROXY header: too long: 65551"},
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

// describeProxy says what is made of raw when it arrives in such pieces, and
// what follows the header.
func describeProxy(raw []byte, mode string, cuts ...int) (said string, rest []byte) {
	for _, cut := range append(cuts, len(raw)) {
		buf := bytes.Clone(raw[:cut])
		form := proxyFormOf(buf, mode)
		if form == proxyNone {
			return "none", raw
		}
		if form == proxyOpen {
			continue
		}
		h, n, err := parseProxy(buf, form)
		clear(buf)
		if err != nil {
			return fmt.Sprintf("%d %s", err.status, err.text), nil
		}
		if n == 0 {
			continue
		}
		var e endpoint
		e.introduce(h)
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
