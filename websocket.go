package main

// WebSocket (RFC 6455) with permessage-deflate (RFC 7692), the server's side,
// as pure functions: the handshake's fields, a client's bytes to events, a
// message to frames. Nothing here knows a descriptor, a clock or a log.
//
// What a client sends is passed on as it arrives, unmasked where it lies: a
// message is never whole in memory, however long it may be. The exception is a
// compressed one. Go's inflater cannot wait for input, so that the compressed
// bytes are gathered first, and what becomes of them comes out in pieces.
//
// Nothing is kept from one message to the next (both sides use
// no_context_takeover), and what inflates and deflates belongs to the worker:
// a connection on which nothing happens costs one small struct.

import (
	"bytes"
	"compress/flate"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"math"
	"math/bits"
	"unicode/utf8"
)

// Opcodes (RFC 6455 5.2). Those from opClose on are control frames.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// The first byte's bits beside the opcode, and the second's beside the length.
const (
	wsFin    = 0x80
	wsRSV1   = 0x40 // of a compressed message (RFC 7692 6)
	wsRSV23  = 0x30
	wsMasked = 0x80
)

const (
	maxWSHead    = 2 + 8 + 4
	maxWSControl = 125 // payload of a control frame (RFC 6455 5.5)
	// maxProtocols is how many a client may offer: as values of one byte, those of a
	// long head would take ten times its room.
	maxProtocols = 128
	// maxWSPiece is the most that one event has of a compressed message.
	maxWSPiece = 64 << 10
	// A worker keeps as many inflaters for the next message. More are in use only
	// while clients wait in the middle of messages.
	maxInflaters = 4
	inflaterCost = 110 << 10 // of memory, each
	// maxSparePacked is how long a buffer for compressed bytes may be to be
	// worth keeping for the next message.
	maxSparePacked = 4 << 10
	// idlePacked is how many bytes of a compressed message may say nothing.
	idlePacked = 64 << 10
)

// wsGUID is what RFC 6455 1.3 has a server add to the key.
const wsGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// wsHandshake is what a client's opening handshake asks for.
type wsHandshake struct {
	accept    [28]byte // value of Sec-WebSocket-Accept
	protocols []string // offered, in the client's order
	deflate   bool     // permessage-deflate is agreed on
	window    bool     // with a window of 15 bits that the client has named
}

// websocketHandshake reads the opening handshake. Not asked, the request is
// one for HTTP. RFC 6455 4.2.1 has the rules for the fields.
func websocketHandshake(r *request) (h wsHandshake, asked bool, bad *badRequest) {
	if string(r.method) != "GET" || r.minor == 0 || !r.upgrades || !r.listsWebsocket() {
		return h, false, nil
	}
	var key, version []byte
	for _, f := range r.fields {
		one := &key
		switch {
		case foldEqual(f.name, "SEC-WEBSOCKET-KEY"):
		case foldEqual(f.name, "SEC-WEBSOCKET-VERSION"):
			one = &version
		default:
			continue
		}
		if *one != nil {
			return h, true, badField(f.name, true)
		}
		*one = f.value
	}
	if string(version) != "13" {
		return h, true, badWebsocketVersion(version)
	}
	// The bits that base64 leaves over may be anything: they are not zero in
	// the very example of RFC 6455 4.1.
	var nonce [18]byte
	if len(key) != 24 {
		return h, true, badField([]byte("SEC-WEBSOCKET-KEY"), true)
	}
	if n, err := base64.StdEncoding.Decode(nonce[:], key); n != 16 || err != nil {
		return h, true, badField([]byte("SEC-WEBSOCKET-KEY"), true)
	}
	// A body would be read as frames by one side and as a body by the other.
	if r.contentLength > 0 {
		return h, true, badField([]byte("CONTENT-LENGTH"), true)
	}
	if r.chunked {
		return h, true, badField([]byte("TRANSFER-ENCODING"), true)
	}
	for _, f := range r.fields {
		ok := true
		switch {
		case foldEqual(f.name, "SEC-WEBSOCKET-PROTOCOL"):
			ok = h.addProtocols(f.value)
		case foldEqual(f.name, "SEC-WEBSOCKET-EXTENSIONS"):
			ok = h.addOffers(f.value)
		}
		if !ok {
			return h, true, badField(f.name, true)
		}
	}
	sum := sha1.Sum(append(key[:len(key):len(key)], wsGUID...))
	base64.StdEncoding.Encode(h.accept[:], sum[:])
	return h, true, nil
}

// listsWebsocket looks through all Upgrade fields.
func (r *request) listsWebsocket() bool {
	for _, f := range r.fields {
		if !foldEqual(f.name, "UPGRADE") {
			continue
		}
		for rest, more := f.value, true; more; {
			var protocol []byte
			protocol, rest, more = bytes.Cut(rest, []byte(","))
			if foldEqual(trimBlanks(protocol), "WEBSOCKET") {
				return true
			}
		}
	}
	return false
}

// badWebsocketVersion tells the client what it may try (RFC 6455 4.4).
func badWebsocketVersion(version []byte) *badRequest {
	bad := badText(426, "Unsupported WebSocket version: "+repr(version))
	bad.fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
	bad.access = true
	return bad
}

// addProtocols takes one field. Empty elements of a list mean nothing (RFC
// 9110 5.6.1.2).
func (h *wsHandshake) addProtocols(list []byte) bool {
	for rest, more := list, true; more; {
		var name []byte
		name, rest, more = bytes.Cut(rest, []byte(","))
		if name = trimBlanks(name); len(name) == 0 {
			continue
		}
		if tokenLen(name) < len(name) || len(h.protocols) == maxProtocols {
			return false
		}
		h.protocols = append(h.protocols, string(name))
	}
	return true
}

// tokenLen returns the length of the token (RFC 9110 5.6.2) in front of b.
func tokenLen(b []byte) int {
	n := 0
	for n < len(b) && environByte[b[n]] != 0 {
		n++
	}
	return n
}

// wsOffer is permessage-deflate as it is offered, parameter by parameter.
type wsOffer struct {
	known        bool // it is permessage-deflate
	declined     bool
	serverTakes  bool // server_no_context_takeover was there
	clientTakes  bool
	serverWindow bool
	clientWindow bool
}

// addOffers takes one Sec-WebSocket-Extensions field: a list of extensions,
// each with parameters, of which the first that can be had is agreed on. What
// does not have this form ends the handshake (RFC 6455 9.1).
func (h *wsHandshake) addOffers(b []byte) bool {
	for {
		for len(b) > 0 && (isBlank(b[0]) || b[0] == ',') {
			b = b[1:]
		}
		if len(b) == 0 {
			return true
		}
		n := tokenLen(b)
		if n == 0 {
			return false
		}
		offer := wsOffer{known: foldEqual(b[:n], "PERMESSAGE-DEFLATE")}
		b = skipBlanks(b[n:])
		for len(b) > 0 && b[0] == ';' {
			b = skipBlanks(b[1:])
			if n = tokenLen(b); n == 0 {
				return false
			}
			name := b[:n]
			value, rest, ok := parameterValue(skipBlanks(b[n:]))
			if !ok {
				return false
			}
			offer.add(name, value)
			b = skipBlanks(rest)
		}
		if len(b) > 0 && b[0] != ',' {
			return false
		}
		if offer.known && !offer.declined && !h.deflate {
			h.deflate, h.window = true, offer.serverWindow
		}
	}
}

func skipBlanks(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	return b
}

// parameterValue takes `=value` in front of b, if it is there: value is nil if
// not. Quoted or not, it is a token (RFC 6455 9.1).
func parameterValue(b []byte) (value, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '=' {
		return nil, b, true
	}
	b = skipBlanks(b[1:])
	if len(b) == 0 || b[0] != '"' {
		n := tokenLen(b)
		return b[:n], b[n:], n > 0
	}
	for i := 1; i < len(b); i++ {
		switch {
		case b[i] == '"':
			return value, b[i+1:], len(value) > 0
		case b[i] == '\\':
			if i++; i == len(b) {
				return nil, nil, false
			}
		}
		if environByte[b[i]] == 0 {
			return nil, nil, false
		}
		value = append(value, b[i])
	}
	return nil, nil, false
}

// add takes one parameter. An offer with one that RFC 7692 7 does not have, has
// in another form or has already had must be declined. So must one of a window
// smaller than the only one compress/flate has.
func (o *wsOffer) add(name, value []byte) {
	var seen *bool
	ok := true
	switch {
	case foldEqual(name, "SERVER_NO_CONTEXT_TAKEOVER"):
		seen, ok = &o.serverTakes, value == nil
	case foldEqual(name, "CLIENT_NO_CONTEXT_TAKEOVER"):
		seen, ok = &o.clientTakes, value == nil
	case foldEqual(name, "SERVER_MAX_WINDOW_BITS"):
		seen, ok = &o.serverWindow, string(value) == "15"
	case foldEqual(name, "CLIENT_MAX_WINDOW_BITS"):
		// A client that keeps less than we look back on is no trouble.
		seen, ok = &o.clientWindow, value == nil || isWindowBits(value)
	}
	if seen == nil || *seen || !ok {
		o.declined = true
		return
	}
	*seen = true
}

// isWindowBits takes 8 to 15, without a zero in front (RFC 7692 7.1.2.1).
func isWindowBits(v []byte) bool {
	n := parseLength(v)
	return n >= 8 && n <= 15 && v[0] != '0'
}

// appendExtension appends the value of Sec-WebSocket-Extensions for the answer,
// or nothing. client_no_context_takeover needs no offer (RFC 7692 7.1.1.2), a
// window that was named must be named again (7.1.2.1).
func (h *wsHandshake) appendExtension(b []byte) []byte {
	if !h.deflate {
		return b
	}
	b = append(b, "permessage-deflate; server_no_context_takeover; client_no_context_takeover"...)
	if h.window {
		b = append(b, "; server_max_window_bits=15"...)
	}
	return b
}

// wsError is a client's mistake after the handshake: what the connection is
// closed with.
type wsError struct {
	code uint16
	text string
}

func (e *wsError) Error() string { return e.text }

// Codes of RFC 6455 7.4.1.
const (
	wsProtocol    = 1002
	wsNoCode      = 1005 // never sent: the close frame was empty
	wsInvalidData = 1007
	wsTooBig      = 1009
)

func wsMistake(text string) *wsError { return &wsError{wsProtocol, text} }

type wsKind uint8

const (
	wsNone wsKind = iota // more bytes are needed, unless some were consumed
	wsData               // a piece of a message
	wsPing               // to be answered with a pong that has its payload
	wsPong
	wsClose // nothing comes after it
)

// wsEvent is what next has found. payload is valid until the next call for any
// decoder with the same pool.
type wsEvent struct {
	kind    wsKind
	text    bool // wsData: of a text message
	first   bool // wsData: the message begins
	last    bool // wsData: the message ends; payload may be empty then
	code    uint16
	payload []byte
	reason  string
}

// wsDecoder takes the frames of one client apart.
type wsDecoder struct {
	limit   int64   // of one message, inflated
	pool    *wsPool // of the worker
	left    int64   // payload of this frame that has not come yet
	total   int64   // of this message so far; begins anew when it is inflated
	control []byte  // payload of a control frame that has come in part
	packed  []byte  // compressed bytes of this message
	flate   *wsInflater

	head     [maxWSHead]byte
	headed   uint8  // bytes of head that are there
	opcode   uint8  // of this frame
	mask     uint32 // its next byte is the lowest
	fin      bool   // this frame ends its message
	deflate  bool   // messages may be compressed
	message  bool   // one has begun
	text     bool   // it is text
	squeezed bool   // it is compressed
	fresh    bool   // none of it has been reported
	ended    bool   // a close frame or a mistake: nothing matters any more
	utf8     utf8State
}

// newWSDecoder: limit is that of one message after decompression, 0 for none.
func newWSDecoder(limit int64, deflate bool, pool *wsPool) *wsDecoder {
	if limit <= 0 {
		limit = math.MaxInt64
	}
	return &wsDecoder{limit: limit, deflate: deflate, pool: pool}
}

// next consumes n bytes at the front of in, which it changes, and reports at
// most one event. It wants to be called with the rest, an empty one too, until
// it consumes nothing and reports nothing.
func (d *wsDecoder) next(in []byte) (n int, e wsEvent, bad *wsError) {
	switch {
	case d.ended: // RFC 6455 5.5.1, 7.1.7
		return len(in), e, nil
	case d.flate != nil:
		e, bad = d.inflate()
	default:
		n, e, bad = d.step(in)
	}
	if bad != nil || e.kind == wsClose {
		d.release()
	}
	if bad != nil {
		e = wsEvent{}
	}
	return n, e, bad
}

// release gives back what the decoder has, which is at its end. That of a
// connection which ends otherwise may be released, too.
func (d *wsDecoder) release() {
	if d.flate != nil {
		d.pool.giveInflater(d.flate)
	}
	d.flate, d.packed, d.control, d.ended = nil, nil, nil, true
}

// held is the memory that it has of its own.
func (d *wsDecoder) held() int {
	if d.flate != nil {
		return cap(d.packed) + inflaterCost
	}
	return cap(d.packed)
}

func (d *wsDecoder) step(in []byte) (n int, e wsEvent, bad *wsError) {
	if d.left == 0 {
		var ok bool
		if n, ok, bad = d.takeHead(in); !ok {
			return n, e, bad
		}
	}
	k := int(min(d.left, int64(len(in)-n)))
	p := in[n : n+k]
	n += k
	d.left -= int64(k)
	d.mask = unmask(p, d.mask)
	switch {
	case d.opcode >= opClose:
		e, bad = d.takeControl(p)
	case d.squeezed:
		d.packed = append(d.packed, p...)
		if d.left == 0 && d.fin {
			d.total = 0
			d.flate = d.pool.takeInflater(d.packed)
			e, bad = d.inflate()
		}
	default:
		e, bad = d.data(p, d.left == 0 && d.fin)
	}
	return n, e, bad
}

// takeHead gathers the head of a frame and says whether it is whole. It is
// judged as early as it can be.
func (d *wsDecoder) takeHead(in []byte) (n int, ok bool, bad *wsError) {
	want := 2
	for {
		if d.headed >= 2 {
			want = wsHeadLen(d.head[1])
		}
		k := copy(d.head[d.headed:want], in[n:])
		n += k
		if d.headed += uint8(k); int(d.headed) < want {
			return n, false, nil
		}
		if want > 2 {
			break
		}
		if bad = d.checkHead(d.head[0], d.head[1]); bad != nil {
			return n, false, bad
		}
	}
	d.headed = 0
	d.mask = binary.LittleEndian.Uint32(d.head[want-4:])
	if d.left, bad = frameLen(d.head[:want-4]); bad != nil {
		return n, false, bad
	}
	if bad = d.begin(d.head[0]); bad != nil {
		return n, false, bad
	}
	return n, true, nil
}

// wsHeadLen is the length of a client's frame head by its second byte.
func wsHeadLen(second byte) int {
	switch second &^ wsMasked {
	case 126:
		return 2 + 2 + 4
	case 127:
		return 2 + 8 + 4
	}
	return 2 + 4
}

// frameLen reads the length in a head. The shortest form is the only one (RFC
// 6455 5.2).
func frameLen(head []byte) (int64, *wsError) {
	switch head[1] &^ wsMasked {
	case 126:
		n := int64(binary.BigEndian.Uint16(head[2:]))
		if n < 126 {
			return 0, wsMistake("length is not in its shortest form")
		}
		return n, nil
	case 127:
		n := binary.BigEndian.Uint64(head[2:])
		if n > math.MaxInt64 {
			return 0, wsMistake("length has its top bit set")
		}
		if n <= math.MaxUint16 {
			return 0, wsMistake("length is not in its shortest form")
		}
		return int64(n), nil
	}
	return int64(head[1] &^ wsMasked), nil
}

// checkHead judges the first two bytes of a frame (RFC 6455 5.1 to 5.5).
func (d *wsDecoder) checkHead(first, second byte) *wsError {
	op := first & 0x0f
	switch {
	case op > opBinary && op < opClose || op > opPong:
		return wsMistake("unknown opcode")
	case first&wsRSV23 != 0:
		return wsMistake("reserved bits are set")
	case first&wsRSV1 != 0 && (!d.deflate || op != opText && op != opBinary):
		return wsMistake("reserved bits are set") // RFC 7692 6.1: of the first frame only
	case second&wsMasked == 0:
		return wsMistake("frame is not masked")
	case op >= opClose && first&wsFin == 0:
		return wsMistake("control frame is fragmented")
	case op >= opClose && second&^wsMasked > maxWSControl:
		return wsMistake("control frame is too long")
	case op == opContinuation && !d.message:
		return wsMistake("continuation without a message")
	case (op == opText || op == opBinary) && d.message:
		return wsMistake("message begins within another")
	}
	return nil
}

// begin enters a frame, the length of which is known.
func (d *wsDecoder) begin(first byte) *wsError {
	if d.opcode = first & 0x0f; d.opcode >= opClose {
		return nil
	}
	d.fin = first&wsFin != 0
	if d.opcode != opContinuation {
		d.message, d.fresh, d.total, d.utf8 = true, true, 0, utf8Whole
		d.text, d.squeezed = d.opcode == opText, first&wsRSV1 != 0
		if d.squeezed && d.left > 0 {
			d.packed = d.pool.takePacked()
		}
	}
	limit := d.limit
	if d.squeezed && limit < math.MaxInt64/2 {
		// What cannot be compressed grows, with zlib's oddest settings by an
		// eighth, and may be sent so.
		limit += limit>>2 + 64
	}
	if d.left > limit-d.total {
		return wsOversize()
	}
	d.total += d.left
	return nil
}

func wsOversize() *wsError { return &wsError{wsTooBig, "message is too big"} }

// data reports a piece of a message that is not compressed, or no longer.
func (d *wsDecoder) data(p []byte, last bool) (e wsEvent, bad *wsError) {
	if d.text {
		d.utf8 = d.utf8.through(p)
		if d.utf8 == utf8Bad || last && d.utf8 != utf8Whole {
			return e, &wsError{wsInvalidData, "text is not UTF-8"}
		}
	}
	if len(p) == 0 && !last {
		return e, nil
	}
	e = wsEvent{kind: wsData, payload: p, text: d.text, first: d.fresh, last: last}
	d.fresh = false
	d.message = !last
	return e, nil
}

// takeControl reports a control frame when it is whole.
func (d *wsDecoder) takeControl(p []byte) (e wsEvent, bad *wsError) {
	if d.left > 0 || len(d.control) > 0 {
		d.control = append(d.control, p...)
		p = d.control
	}
	if d.left > 0 {
		return e, nil
	}
	d.control = nil
	switch d.opcode {
	case opPing:
		return wsEvent{kind: wsPing, payload: p}, nil
	case opPong:
		return wsEvent{kind: wsPong, payload: p}, nil
	}
	return closeEvent(p)
}

// closeEvent reads the payload of a close frame (RFC 6455 5.5.1).
func closeEvent(p []byte) (e wsEvent, bad *wsError) {
	if len(p) == 0 {
		return wsEvent{kind: wsClose, code: wsNoCode}, nil
	}
	if len(p) == 1 {
		return e, wsMistake("close frame has half a code")
	}
	code := binary.BigEndian.Uint16(p)
	if !validCloseCode(code) {
		return e, wsMistake("invalid close code")
	}
	if !utf8.Valid(p[2:]) {
		return e, &wsError{wsInvalidData, "close reason is not UTF-8"}
	}
	return wsEvent{kind: wsClose, code: code, reason: string(p[2:])}, nil
}

// validCloseCode says whether a close frame may have this code: those that
// IANA has registered for it, and the ranges of RFC 6455 7.4.2 for libraries
// and applications.
func validCloseCode(code uint16) bool {
	switch {
	case code < 1000, code >= 5000:
		return false
	case code >= 3000:
		return true
	case code > 1014: // 1015 is what an API says after TLS has failed
		return false
	}
	return code < 1004 || code > 1006
}

// inflate reports the next piece of a compressed message that is whole.
func (d *wsDecoder) inflate() (e wsEvent, bad *wsError) {
	p, last, err := d.flate.read()
	if err != nil {
		return e, &wsError{wsInvalidData, "compressed data is corrupt"}
	}
	if d.total += int64(len(p)); d.total > d.limit {
		return e, wsOversize()
	}
	if e, bad = d.data(p, last); bad != nil || !last {
		return e, bad
	}
	d.pool.giveInflater(d.flate)
	d.pool.givePacked(d.packed)
	d.flate, d.packed = nil, nil
	return e, nil
}

// unmask applies a mask (RFC 6455 5.3), of which the lowest byte is next, and
// returns it as it goes on.
func unmask(p []byte, mask uint32) uint32 {
	wide := uint64(mask)<<32 | uint64(mask)
	for len(p) >= 32 {
		q := p[:32:32]
		binary.LittleEndian.PutUint64(q, binary.LittleEndian.Uint64(q)^wide)
		binary.LittleEndian.PutUint64(q[8:], binary.LittleEndian.Uint64(q[8:])^wide)
		binary.LittleEndian.PutUint64(q[16:], binary.LittleEndian.Uint64(q[16:])^wide)
		binary.LittleEndian.PutUint64(q[24:], binary.LittleEndian.Uint64(q[24:])^wide)
		p = p[32:]
	}
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(mask)
		mask = bits.RotateLeft32(mask, -8)
	}
	return mask
}

// utf8State is where in a character a text has been cut: a row of utf8Next, as
// the shift that finds it. Its zero value is between two characters.
type utf8State uint8

// The rows: how many bytes of a character are to come, or what has begun it
// where that narrows the next byte (RFC 3629 4).
const (
	utf8Whole utf8State = 6 * iota
	utf8One
	utf8Two
	utf8Three
	utf8E0 // overlong below A0
	utf8ED // surrogates from A0 on
	utf8F0 // overlong below 90
	utf8F4 // beyond U+10FFFF from 90 on
	utf8Bad
	utf8Rows
)

// utf8Next has, for a byte, the state after it for each state before it, six
// bits each. A load that depends on nothing and a shift for each byte are twice
// as fast as utf8.Valid, or more, where a text is not all ASCII.
var utf8Next = func() (t [256]uint64) {
	for c := range t {
		for s := utf8Whole; s < utf8Rows; s += utf8One {
			t[c] |= uint64(s.after(byte(c))) << s
		}
	}
	return t
}()

// after is the table's source: the state that c leads to. What no byte can make
// good again is bad at once, not when the character is complete.
func (s utf8State) after(c byte) utf8State {
	within := func(low, high byte, next utf8State) utf8State {
		if low <= c && c <= high {
			return next
		}
		return utf8Bad
	}
	switch s {
	case utf8Bad:
		return utf8Bad
	case utf8One:
		return within(0x80, 0xbf, utf8Whole)
	case utf8Two:
		return within(0x80, 0xbf, utf8One)
	case utf8Three:
		return within(0x80, 0xbf, utf8Two)
	case utf8E0:
		return within(0xa0, 0xbf, utf8One)
	case utf8ED:
		return within(0x80, 0x9f, utf8One)
	case utf8F0:
		return within(0x90, 0xbf, utf8Two)
	case utf8F4:
		return within(0x80, 0x8f, utf8Two)
	}
	switch {
	case c < 0x80:
		return utf8Whole
	case c == 0xe0:
		return utf8E0
	case c == 0xed:
		return utf8ED
	case c == 0xf0:
		return utf8F0
	case c == 0xf4:
		return utf8F4
	case c < 0xc2 || c > 0xf4: // C0 and C1 would be overlong
		return utf8Bad
	case c < 0xe0:
		return utf8One
	case c < 0xf0:
		return utf8Two
	}
	return utf8Three
}

// through returns the state after p.
func (s utf8State) through(p []byte) utf8State {
	row := uint64(s) // its six low bits; a shift looks at no others
	for len(p) >= 8 {
		if row&63 == uint64(utf8Whole) {
			n := asciiLen(p)
			if p = p[n:]; len(p) < 8 {
				break
			}
		}
		row = utf8Next[p[0]] >> (row & 63)
		row = utf8Next[p[1]] >> (row & 63)
		row = utf8Next[p[2]] >> (row & 63)
		row = utf8Next[p[3]] >> (row & 63)
		row = utf8Next[p[4]] >> (row & 63)
		row = utf8Next[p[5]] >> (row & 63)
		row = utf8Next[p[6]] >> (row & 63)
		row = utf8Next[p[7]] >> (row & 63)
		p = p[8:]
	}
	for _, c := range p {
		row = utf8Next[c] >> (row & 63)
	}
	return utf8State(row & 63)
}

// asciiLen returns the length of the ASCII in front of p, in words of eight.
func asciiLen(p []byte) (n int) {
	const tops = 0x8080808080808080
	for ; len(p)-n >= 32; n += 32 {
		q := p[n : n+32 : n+32]
		if (binary.LittleEndian.Uint64(q)|binary.LittleEndian.Uint64(q[8:])|
			binary.LittleEndian.Uint64(q[16:])|binary.LittleEndian.Uint64(q[24:]))&tops != 0 {
			break
		}
	}
	for ; len(p)-n >= 8 && binary.LittleEndian.Uint64(p[n:])&tops == 0; n += 8 {
	}
	return n
}

// wsPool is what the connections of one worker share. Its zero value is ready.
type wsPool struct {
	inflaters []*wsInflater
	packed    []byte // spare, for a short message
	deflater  *flate.Writer
	out       wsBuffer // of deflater
}

func (p *wsPool) takeInflater(packed []byte) *wsInflater {
	var z *wsInflater
	if n := len(p.inflaters); n > 0 {
		z, p.inflaters[n-1] = p.inflaters[n-1], nil
		p.inflaters = p.inflaters[:n-1]
	} else {
		z = &wsInflater{}
		z.r = flate.NewReader(&z.from)
	}
	z.start(packed)
	return z
}

func (p *wsPool) giveInflater(z *wsInflater) {
	if z.from = (wsPacked{}); len(p.inflaters) < maxInflaters {
		p.inflaters = append(p.inflaters, z)
	}
}

func (p *wsPool) takePacked() []byte {
	b := p.packed
	p.packed = nil
	return b[:0]
}

func (p *wsPool) givePacked(b []byte) {
	if cap(b) <= maxSparePacked && cap(b) > cap(p.packed) {
		p.packed = b
	}
}

// wsTail is what a sender leaves out at the end of a message (RFC 7692 7.2.1),
// an empty block, and another that says that it is the last: without it the
// end of a message and the middle of one would look alike.
const wsTail = "\x00\x00\xff\xff"

var wsTailEnd = []byte(wsTail + "\x01\x00\x00\xff\xff")

// wsNothing is an empty message (RFC 7692 7.2.3.6). Some send less.
var wsNothing = []byte{0}

// wsPacked is a compressed message with the tail it was sent without. It gives
// single bytes, so that the inflater takes none that it does not need.
type wsPacked struct {
	b      []byte
	at     int
	end    int // how far it may be read by now
	tailed bool
}

// more looks for something to read.
func (p *wsPacked) more() error {
	switch {
	case p.at < p.end:
	case p.at < len(p.b):
		return io.ErrNoProgress
	case p.tailed:
		return io.EOF
	default:
		*p = wsPacked{b: wsTailEnd, end: len(wsTailEnd), tailed: true}
	}
	return nil
}

func (p *wsPacked) ReadByte() (byte, error) {
	if p.at == p.end {
		if err := p.more(); err != nil {
			return 0, err
		}
	}
	c := p.b[p.at]
	p.at++
	return c, nil
}

func (p *wsPacked) Read(b []byte) (int, error) {
	if err := p.more(); err != nil {
		return 0, err
	}
	n := copy(b, p.b[p.at:p.end])
	p.at += n
	return n, nil
}

// wsInflater inflates one message at a time.
type wsInflater struct {
	r    io.ReadCloser
	from wsPacked
	made int64 // bytes that have come out
	out  [maxWSPiece]byte
}

func (z *wsInflater) start(packed []byte) {
	if z.from, z.made = (wsPacked{b: packed}), 0; len(packed) == 0 {
		z.from.b = wsNothing
	}
	z.rewind()
}

func (z *wsInflater) rewind() { z.r.(flate.Resetter).Reset(&z.from, nil) }

// read fills out, as far as there is something to fill it with.
func (z *wsInflater) read() (p []byte, last bool, err error) {
	n := 0
	for n < len(z.out) {
		// The first bytes of a message may come to nothing, and after them eleven
		// of twelve: that is what some pay for a flush after every byte. Megabytes
		// of empty blocks would hold up the worker for seconds.
		z.from.end = int(min(int64(len(z.from.b)), idlePacked+12*z.made))
		k, err := z.r.Read(z.out[n:])
		n += k
		z.made += int64(k)
		switch {
		case err == io.EOF && z.from.at == len(z.from.b):
			return z.out[:n], true, nil // the tail has been read, or was not needed
		case err == io.EOF:
			z.rewind() // a block was marked as the last one (RFC 7692 7.2.3.4)
		case err != nil:
			return nil, false, err
		}
	}
	return z.out[:n], false, nil
}

// appendWSHead appends the head of a frame with a payload of n bytes.
func appendWSHead(b []byte, opcode byte, fin, compressed bool, n int) []byte {
	if fin {
		opcode |= wsFin
	}
	if compressed {
		opcode |= wsRSV1
	}
	switch {
	case n < 126:
		return append(b, opcode, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, opcode, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, opcode, 127), uint64(n))
}

// appendWSClose appends a close frame. 1005 stands for one that says nothing.
// A reason that is too long is cut between two characters.
func appendWSClose(b []byte, code uint16, reason string) []byte {
	if code == wsNoCode {
		return appendWSHead(b, opClose, true, false, 0)
	}
	if n := maxWSControl - 2; len(reason) > n {
		for n > 0 && !utf8.RuneStart(reason[n]) {
			n--
		}
		reason = reason[:n]
	}
	b = appendWSHead(b, opClose, true, false, 2+len(reason))
	return append(binary.BigEndian.AppendUint16(b, code), reason...)
}

// wsBuffer is where a deflater writes to.
type wsBuffer struct{ b []byte }

func (w *wsBuffer) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// wsDeflater makes compressed frames of a message that is given in pieces. It
// is but a few bytes: between two pieces nothing is kept for them, so that any
// number of messages can be under way at a time. That costs little, as pieces
// are long when there are many.
type wsDeflater struct {
	pool   *wsPool
	opcode byte // of the next frame
	first  bool // which is the message's first
}

// begin begins a message.
func (z *wsDeflater) begin(b []byte, text bool) []byte {
	z.opcode, z.first = opBinary, true
	if text {
		z.opcode = opText
	}
	return b
}

// piece appends a frame. The head can be told only after its payload, which
// then makes room for it.
func (z *wsDeflater) piece(b []byte, p []byte, last bool) []byte {
	at := len(b)
	b = z.pool.deflate(b, p)
	if last {
		b = b[:len(b)-len(wsTail)] // RFC 7692 7.2.1
	}
	n := len(b) - at
	var room [2 + 8]byte
	head := appendWSHead(room[:0], z.opcode, last, z.first, n)
	b = append(b, head...)
	copy(b[at+len(head):], b[at:at+n])
	copy(b[at:], head)
	z.opcode, z.first = opContinuation, false
	return b
}

// deflate appends p compressed, up to a byte's end.
func (p *wsPool) deflate(b, in []byte) []byte {
	p.out.b = b
	if p.deflater == nil {
		p.deflater, _ = flate.NewWriter(&p.out, flate.BestSpeed) // fails for other levels only
	} else {
		p.deflater.Reset(&p.out)
	}
	p.deflater.Write(in)
	p.deflater.Flush()
	b, p.out.b = p.out.b, nil
	return b
}
