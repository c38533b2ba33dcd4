package main

// The PROXY protocol, versions 1 and 2, as pure functions. A proxy sends a header
// as the first bytes of a connection, with the addresses of the client for which
// the proxy speaks. The grammar is HAProxy's proxy-protocol.txt, read strictly:
// headers that two receivers could understand differently are refused.

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
)

const (
	// maxProxyLine is the longest line of version 1, including its CRLF.
	maxProxyLine = 107
	// maxProxyHeader bounds a header of version 2, whose length field allows 64
	// KiB. Addresses take 36 bytes; cloud providers and TLS terminators add more,
	// for which nginx has the same bound.
	maxProxyHeader = 4096
	// proxyFixed is the length of a version 2 header before its addresses:
	// signature, version and command, family, length.
	proxyFixed = 16
)

// proxyHeader is a parsed PROXY header. The addresses are invalid if the proxy
// speaks for itself or does not know its client.
type proxyHeader struct {
	protocol string         // TCP4, TCP6, UNKNOWN, LOCAL, UNSPEC
	client   netip.AddrPort // address of the client
	server   netip.AddrPort // address to which the client connected
}

// proxyParser reads a header at the start of b. n is the header's length, 0 without an
// error while the header is incomplete.
type proxyParser func(b []byte) (h proxyHeader, n int, err *badRequest)

// proxyForms are the forms of a header, with the value of proxy_protocol that allows that
// form alone.
var proxyForms = [...]struct {
	mode, start string
	parse       proxyParser
}{
	{"v1", "PROXY ", parseProxyLine},
	{"v2", "\r\n\r\n\x00\r\nQUIT\n", parseProxyBinary},
}

// proxyForm returns the parser for the header at the start of a connection's bytes, nil if
// there is none; open tells that more bytes are needed to know. mode is the setting
// proxy_protocol, but not off.
func proxyForm(b []byte, mode string) (parse proxyParser, open bool) {
	for _, f := range proxyForms {
		n := min(len(b), len(f.start))
		if mode != f.mode && mode != "auto" || string(b[:n]) != f.start[:n] {
			continue
		}
		if n == len(f.start) {
			return f.parse, false
		}
		open = true
	}
	return nil, open
}

// parseProxyLine reads PROXY TCP4 CLIENT SERVER PORT PORT, the same with TCP6, or
// PROXY UNKNOWN and any other words.
func parseProxyLine(b []byte) (h proxyHeader, n int, err *badRequest) {
	b = b[:min(len(b), maxProxyLine)]
	end := bytes.IndexByte(b, '\n')
	switch {
	case end < 0 && len(b) == maxProxyLine:
		return h, 0, badProxyLine("line too long ", b)
	case end < 0:
		return h, 0, nil
	case bytes.IndexByte(b[:end], '\r') != end-1:
		return h, 0, badProxyLine("", b[:end+1])
	}
	line := b[:end-1]
	words := bytes.Split(line, []byte(" "))
	h.protocol = string(words[1])
	switch h.protocol {
	case "UNKNOWN":
		// The protocol wants the other words ignored.
		return h, end + 1, nil
	case "TCP4", "TCP6":
	default:
		return h, 0, badProxyLine("protocol "+repr(words[1])+" not supported ", line)
	}
	if len(words) != 6 {
		return h, 0, badProxyLine("", line)
	}
	if h.client, err = proxyEnd(line, words[2], words[4], h.protocol); err == nil {
		h.server, err = proxyEnd(line, words[3], words[5], h.protocol)
	}
	return h, end + 1, err
}

// proxyEnd reads the address of one end of the proxied connection.
func proxyEnd(line, address, port []byte, protocol string) (netip.AddrPort, *badRequest) {
	addr, err := netip.ParseAddr(string(address))
	if err != nil || addr.Is4() != (protocol == "TCP4") || addr.Zone() != "" {
		return netip.AddrPort{}, badProxyLine("", line)
	}
	n := parseLength(port)
	if n < 0 || n > 65535 || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, badProxyLine("invalid port ", line)
	}
	return netip.AddrPortFrom(addr, uint16(n)), nil
}

// parseProxyBinary reads a header of version 2. Fields after the addresses (TLVs)
// are skipped.
func parseProxyBinary(b []byte) (h proxyHeader, n int, err *badRequest) {
	if len(b) < proxyFixed {
		return h, 0, nil
	}
	length := int(binary.BigEndian.Uint16(b[14:]))
	version, command := b[12]>>4, b[12]&0xf
	family, transport := b[13]>>4, b[13]&0xf
	n = proxyFixed + length
	switch {
	case version != 2:
		return h, 0, badProxyHeader("version ", int(version))
	case command > 1:
		return h, 0, badProxyHeader("command ", int(command))
	case n > maxProxyHeader:
		return h, 0, badProxyHeader("too long: ", n)
	case command == 0:
		h.protocol = "LOCAL" // the proxy speaks for itself: family and addresses are ignored
	case transport > 1 || transport == 0 && family != 0:
		return h, 0, badProxyHeader("transport ", int(transport))
	case family > 2:
		return h, 0, badProxyHeader("address family ", int(family))
	default:
		h.protocol = [...]string{"UNSPEC", "TCP4", "TCP6"}[family]
	}
	size := map[string]int{"TCP4": 4, "TCP6": 16}[h.protocol] // of an address
	if size > 0 && length < 2*size+4 {
		return h, 0, badProxyHeader("too short: ", length)
	}
	if len(b) < n {
		return h, 0, nil
	}
	if size > 0 {
		addresses, ports := b[proxyFixed:proxyFixed+2*size], b[proxyFixed+2*size:]
		client, _ := netip.AddrFromSlice(addresses[:size])
		server, _ := netip.AddrFromSlice(addresses[size:])
		h.client = netip.AddrPortFrom(client, binary.BigEndian.Uint16(ports))
		h.server = netip.AddrPortFrom(server, binary.BigEndian.Uint16(ports[2:]))
	}
	return h, n, nil
}

func badProxyLine(what string, line []byte) *badRequest {
	text := "Invalid PROXY line: " + what + repr(line)
	return newBadRequest(400, text, "'"+text+"'")
}

func badProxyHeader(what string, n int) *badRequest {
	text := "Invalid PROXY header: " + what + strconv.Itoa(n)
	return newBadRequest(400, text, "'"+text+"'")
}

func forbiddenProxy(addr string) *badRequest {
	return newBadRequest(403, "Proxy request from "+repr([]byte(addr))+" not allowed", "Request forbidden")
}

// proxied is a PROXY header's part of the environ, beside the client's address.
type proxied struct {
	protocol   string // PROXY_PROTOCOL
	addr, port string // PROXY_ADDR, PROXY_PORT: empty without addresses
}

// setClient replaces the peer's address by the client's address in a PROXY
// header. A header without addresses leaves the proxy's own address.
func (e *endpoint) setClient(h proxyHeader) {
	e.proxy = &proxied{protocol: h.protocol}
	if h.client.IsValid() {
		e.remoteAddr, e.remotePort = h.client.Addr().String(), strconv.Itoa(int(h.client.Port()))
		e.proxy.addr, e.proxy.port = h.server.Addr().String(), strconv.Itoa(int(h.server.Port()))
	}
}

// append appends the header's entries of the environ.
func (p *proxied) append(b []byte) []byte {
	b = appendMarshalText(appendMarshalText(b, "PROXY_PROTOCOL"), p.protocol)
	if p.port != "" {
		b = appendMarshalText(appendMarshalText(b, "PROXY_ADDR"), p.addr)
		b = appendMarshalText(appendMarshalText(b, "PROXY_PORT"), p.port)
	}
	return b
}
