package main

// WebSocket (RFC 6455) with permessage-deflate (RFC 7692), the server's side,
// as pure functions: the fields of a handshake, a client's bytes to events, a
// message to frames. No function here uses a descriptor, a clock or a log.
//
// A client's bytes are passed on as they arrive, unmasked in place: a message
// is never whole in memory, however long. The exception are compressed
// messages. Go's inflater cannot wait for input, so the compressed bytes are
// collected first, and the inflated bytes are reported in pieces.
//
// No compression state is kept between messages (both sides use
// no_context_takeover), and inflaters and deflaters belong to the worker: an
// idle connection costs one small struct.

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

// Opcodes (RFC 6455 5.2). Opcodes from opClose on are of control frames.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// Bits of a frame's first two bytes beside the opcode and the length.
const (
	wsFin    = 0x80 // first byte: the frame ends its message
	wsRSV1   = 0x40 // first byte: the message is compressed (RFC 7692 6)
	wsRSV23  = 0x30 // first byte: reserved bits, always zero
	wsMasked = 0x80 // second byte: the payload is masked
)

const (
	maxWSControl = 125 // longest payload of a control frame (RFC 6455 5.5)
	// maxProtocols bounds the subprotocols that a client may offer. Each takes a
	// string header of 16 bytes, so that a long head of one-byte names would
	// take ten times its size in memory.
	maxProtocols = 128
	// maxWSPiece bounds how much of a compressed message one event reports.
	maxWSPiece = 64 << 10
	// maxInflaters is how many idle inflaters a worker keeps. More are in use at
	// a time only while slow clients are in the middle of compressed messages.
	maxInflaters = 4
	// inflaterCost is the memory of one inflater: a piece, and flate's window and tables.
	inflaterCost = 110 << 10
	// maxSparePacked is the largest buffer for compressed bytes that a worker keeps
	// for the next message. Chat-sized messages, the usual ones, fit.
	maxSparePacked = 4 << 10
	// idlePacked is how many bytes of a compressed message may inflate to nothing.
	idlePacked = 64 << 10
)

// wsGUID is the constant that a server appends to the key (RFC 6455 1.3).
const wsGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// wsHandshake is the result of a client's opening handshake.
type wsHandshake struct {
	accept    [28]byte // value of Sec-WebSocket-Accept
	protocols []string // offered subprotocols, in the client's order
	extension string   // value of Sec-WebSocket-Extensions, empty without compression
}

// websocketHandshake reads the opening handshake by the rules of RFC 6455
// 4.2.1. asked is false for a request that does not ask for a WebSocket.
func websocketHandshake(r *request) (h wsHandshake, asked bool, bad *badRequest) {
	if string(r.method) != "GET" || r.minor == 0 || !r.upgrades {
		return h, false, nil
	}
	asked = r.tunnel
	var key, version []byte
	for _, f := range r.fields {
		ok := true
		switch {
		case foldEqual(f.name, "UPGRADE"):
			for protocol := range elements(f.value) {
				asked = asked || foldEqual(protocol, "WEBSOCKET")
			}
		case foldEqual(f.name, "SEC-WEBSOCKET-KEY"):
			ok, key = key == nil, f.value
		case foldEqual(f.name, "SEC-WEBSOCKET-VERSION"):
			ok, version = version == nil, f.value
		case foldEqual(f.name, "SEC-WEBSOCKET-PROTOCOL"):
			ok = h.addProtocols(f.value)
		case foldEqual(f.name, "SEC-WEBSOCKET-EXTENSIONS"):
			ok = h.addOffers(f.value)
		}
		if !ok && bad == nil {
			bad = badField(f.name, true)
		}
	}
	switch {
	case !asked:
		return h, false, nil
	case string(version) != "13":
		bad = badWebsocketVersion(version)
	case !r.tunnel && !validNonce(key): // HTTP/2 needs no key (RFC 8441 5)
		bad = badField([]byte("SEC-WEBSOCKET-KEY"), true)
	// Refuse a body: a proxy could take for a body what we take for frames.
	case r.contentLength > 0:
		bad = badField([]byte("CONTENT-LENGTH"), true)
	case r.chunked:
		bad = badField([]byte("TRANSFER-ENCODING"), true)
	}
	if bad != nil {
		return h, true, bad
	}
	sum := sha1.Sum(append(key[:len(key):len(key)], wsGUID...))
	base64.StdEncoding.Encode(h.accept[:], sum[:])
	return h, true, nil
}

// validNonce reports whether a key is 16 bytes in base64. The last digit may have any
// spare bits, so the decoder is not strict: the example key of RFC 6455 4.1 has bits that
// are not zero.
func validNonce(key []byte) bool {
	var nonce [18]byte
	if len(key) != 24 {
		return false
	}
	n, err := base64.StdEncoding.Decode(nonce[:], key)
	return n == 16 && err == nil
}

// badWebsocketVersion refuses a version and names ours (RFC 6455 4.4).
func badWebsocketVersion(version []byte) *badRequest {
	bad := badText(426, "Unsupported WebSocket version: "+repr(version)).logged()
	bad.fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
	return bad
}

// addProtocols adds the subprotocols of one Sec-WebSocket-Protocol field. Empty
// elements of the list are skipped (RFC 9110 5.6.1.2).
func (h *wsHandshake) addProtocols(list []byte) bool {
	for name := range elements(list) {
		if len(name) == 0 {
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

// wsOffer is one offered extension.
type wsOffer struct {
	known    bool  // the extension is permessage-deflate
	declined bool  // a parameter makes the offer unacceptable
	seen     uint8 // parameters of the offer, as bits
}

// Parameters of permessage-deflate, as bits of wsOffer.seen.
const (
	serverTakes  = 1 << iota // server_no_context_takeover
	clientTakes              // client_no_context_takeover
	serverWindow             // server_max_window_bits
	clientWindow             // client_max_window_bits
)

// addOffers reads one Sec-WebSocket-Extensions field, a list of extensions with
// parameters, and accepts the first permessage-deflate that we can speak. A
// syntax error ends the handshake (RFC 6455 9.1): addOffers then returns false.
func (h *wsHandshake) addOffers(b []byte) bool {
	for {
		b = bytes.TrimLeft(b, " \t,")
		if len(b) == 0 {
			return true
		}
		var name, value []byte
		if name, b = cutToken(b); len(name) == 0 {
			return false
		}
		offer := wsOffer{known: foldEqual(name, "PERMESSAGE-DEFLATE")}
		for ok := true; len(b) > 0 && b[0] == ';'; {
			name, b = cutToken(bytes.TrimLeft(b[1:], " \t"))
			if value, b, ok = cutValue(b); !ok || len(name) == 0 {
				return false
			}
			offer.add(name, value)
		}
		if len(b) > 0 && b[0] != ',' {
			return false
		}
		if offer.known && !offer.declined && h.extension == "" {
			// client_no_context_takeover needs no offer (RFC 7692 7.1.1.2); a requested
			// server window must be confirmed (7.1.2.1).
			h.extension = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
			if offer.seen&serverWindow != 0 {
				h.extension += "; server_max_window_bits=15"
			}
		}
	}
}

// cutToken cuts a token and the blanks behind it off the front of b; the token may be
// empty.
func cutToken(b []byte) (token, rest []byte) {
	n := tokenLen(b)
	return b[:n], bytes.TrimLeft(b[n:], " \t")
}

// cutValue cuts an optional `=value` and the blanks behind it off the front of b; value is
// nil without one. A value, quoted or not, must be a token (RFC 6455 9.1).
func cutValue(b []byte) (value, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '=' {
		return nil, b, true
	}
	b = bytes.TrimLeft(b[1:], " \t")
	if len(b) == 0 || b[0] != '"' {
		value, rest = cutToken(b)
		return value, rest, len(value) > 0
	}
	for b = b[1:]; len(b) > 0 && b[0] != '"'; b = b[1:] {
		if b[0] == '\\' {
			b = b[1:]
		}
		if len(b) == 0 || environByte[b[0]] == 0 {
			return nil, nil, false
		}
		value = append(value, b[0])
	}
	if len(b) == 0 || len(value) == 0 {
		return nil, nil, false
	}
	return value, bytes.TrimLeft(b[1:], " \t"), true
}

// add adds one parameter. A parameter that is unknown, malformed or repeated
// makes the server decline the offer (RFC 7692 7), and so does a server window
// smaller than 15 bits, because compress/flate has no other.
func (o *wsOffer) add(name, value []byte) {
	bit, ok := uint8(0), false
	switch {
	case foldEqual(name, "SERVER_NO_CONTEXT_TAKEOVER"):
		bit, ok = serverTakes, value == nil
	case foldEqual(name, "CLIENT_NO_CONTEXT_TAKEOVER"):
		bit, ok = clientTakes, value == nil
	case foldEqual(name, "SERVER_MAX_WINDOW_BITS"):
		bit, ok = serverWindow, string(value) == "15"
	case foldEqual(name, "CLIENT_MAX_WINDOW_BITS"):
		// The client may use a smaller window: our inflater handles any size.
		bit, ok = clientWindow, value == nil || isWindowBits(value)
	}
	o.declined = o.declined || !ok || o.seen&bit != 0
	o.seen |= bit
}

// isWindowBits reports whether v is 8 to 15 without a leading zero (RFC 7692
// 7.1.2.1).
func isWindowBits(v []byte) bool {
	n := parseLength(v)
	return n >= 8 && n <= 15 && v[0] != '0'
}

// wsError is a client's mistake after the handshake, by the code and the reason
// of the close frame that answers the mistake.
type wsError struct {
	code uint16
	text string
}

func (e *wsError) Error() string { return e.text }

// Close codes of RFC 6455 7.4.1.
const (
	wsProtocol    = 1002
	wsNoCode      = 1005 // stands for an empty close frame; never sent
	wsInvalidData = 1007
	wsTooBig      = 1009
)

func wsMistake(text string) *wsError { return &wsError{wsProtocol, text} }

// wsEvent is an event that next has found. payload is valid until the next call for any
// decoder with the same pool.
type wsEvent struct {
	op      uint8  // opText or opBinary: a piece of a message; opPing, opPong, opClose; 0: nothing
	last    bool   // the message ends with this piece, which may be empty
	code    uint16 // code of a close frame, or wsNoCode
	reason  string // reason of a close frame
	payload []byte // the piece of the message, or the payload of a ping or pong
}

// wsDecoder decodes the frames of one client.
type wsDecoder struct {
	limit  int64       // largest size of one message, inflated
	pool   *wsPool     // buffers and inflaters of the worker
	left   int64       // bytes of the current frame's payload still to come
	total  int64       // bytes of the current message; restarts when inflating
	packed []byte      // compressed bytes of the current message
	flate  *wsInflater // inflates the current message, nil until it is complete

	opcode   uint8       // opcode of the current frame
	mask     uint32      // mask, rotated so that the next byte's is lowest
	fin      bool        // the current frame ends its message
	deflate  bool        // permessage-deflate is agreed on
	message  uint8       // opcode of the current message, 0 between messages
	squeezed bool        // the current message is compressed
	ended    bool        // a close frame or a mistake came: ignore further input
	utf8     utf8Checker // checks the current message, if text
}

// newWSDecoder makes a decoder; limit is the largest size of one message after
// decompression, 0 for no limit.
func newWSDecoder(limit int64, deflate bool, pool *wsPool) *wsDecoder {
	if limit <= 0 {
		limit = math.MaxInt64
	}
	return &wsDecoder{limit: limit, deflate: deflate, pool: pool}
}

// next consumes n bytes at the front of in, unmasking them in place, and reports
// at most one event. The caller passes the rest, even if empty, until next
// consumes nothing and reports nothing; the next call then begins with what is left:
// the head of a frame, or a control frame, that is incomplete.
func (d *wsDecoder) next(in []byte) (n int, e wsEvent, bad *wsError) {
	switch {
	case d.ended: // input after the end is ignored (RFC 6455 5.5.1, 7.1.7)
		return len(in), e, nil
	case d.flate != nil:
		e, bad = d.inflate()
	default:
		n, e, bad = d.step(in)
	}
	if bad != nil || e.op == opClose {
		d.release()
	}
	return n, e, bad
}

// release returns the decoder's buffers to the pool and ends decoding. A second
// call does nothing.
func (d *wsDecoder) release() {
	if d.flate != nil {
		d.pool.giveInflater(d.flate)
	}
	d.flate, d.packed, d.ended = nil, nil, true
}

// held is the memory that the decoder holds beyond the struct, in bytes.
func (d *wsDecoder) held() int {
	if d.flate != nil {
		return cap(d.flate.packed) + inflaterCost
	}
	return cap(d.packed)
}

func (d *wsDecoder) step(in []byte) (n int, e wsEvent, bad *wsError) {
	if d.left == 0 {
		if n, bad = d.takeHead(in); n == 0 || bad != nil {
			return n, e, bad
		}
	}
	k := int(min(d.left, int64(len(in)-n)))
	p := in[n : n+k]
	n += k
	d.left -= int64(k)
	d.mask = unmask(p, d.mask)
	last := d.left == 0 && d.fin
	switch {
	case d.opcode == opClose:
		e, bad = closeEvent(p)
	case d.opcode > opClose:
		e = wsEvent{op: d.opcode, payload: p}
	case !d.squeezed:
		e, bad = d.data(p, last)
	default:
		if d.packed = append(d.packed, p...); last {
			d.flate, d.packed, d.total = d.pool.takeInflater(d.packed), nil, 0
			e, bad = d.inflate()
		}
	}
	return n, e, bad
}

// takeHead reads the head of the next frame and returns its length, 0 while the head, or
// the payload of a control frame, is incomplete. The first two bytes are judged before the
// rest has arrived.
func (d *wsDecoder) takeHead(in []byte) (n int, bad *wsError) {
	if len(in) < 2 {
		return 0, nil
	}
	if bad = d.checkHead(in[0], in[1]); bad != nil {
		return 0, bad
	}
	n, left, bad := frameLen(in)
	if n += 4; n == 4 || len(in) < n {
		return 0, nil
	}
	if bad != nil {
		return n, bad
	}
	op := in[0] & 0x0f
	if op >= opClose && int64(len(in)-n) < left {
		return 0, nil
	}
	d.opcode, d.left, d.mask = op, left, binary.LittleEndian.Uint32(in[n-4:])
	if op >= opClose {
		return n, nil
	}
	return n, d.beginFrame(in[0])
}

// frameLen reads the length of a frame's payload; n is the length of the head up to the
// mask, 0 while that part is incomplete. Only the shortest form of a length is allowed
// (RFC 6455 5.2).
func frameLen(head []byte) (n int, payload int64, bad *wsError) {
	var long, least uint64
	switch short := head[1] &^ wsMasked; {
	case short < 126:
		return 2, int64(short), nil
	case short == 126 && len(head) >= 4:
		n, long, least = 4, uint64(binary.BigEndian.Uint16(head[2:])), 126
	case short == 127 && len(head) >= 10:
		n, long, least = 10, binary.BigEndian.Uint64(head[2:]), math.MaxUint16+1
	}
	switch {
	case long > math.MaxInt64:
		bad = wsMistake("length has its top bit set")
	case long < least:
		bad = wsMistake("length is not in its shortest form")
	}
	return n, int64(long), bad
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
		return wsMistake("reserved bits are set") // only a message's first frame has RSV1 (RFC 7692 6.1)
	case second&wsMasked == 0:
		return wsMistake("frame is not masked")
	case op >= opClose && first&wsFin == 0:
		return wsMistake("control frame is fragmented")
	case op >= opClose && second&^wsMasked > maxWSControl:
		return wsMistake("control frame is too long")
	case op == opContinuation && d.message == 0:
		return wsMistake("continuation without a message")
	case (op == opText || op == opBinary) && d.message != 0:
		return wsMistake("message begins within another")
	}
	return nil
}

// beginFrame starts a frame of a message after its head has been read.
func (d *wsDecoder) beginFrame(first byte) *wsError {
	d.fin = first&wsFin != 0
	if d.opcode != opContinuation {
		d.message, d.total, d.utf8 = d.opcode, 0, utf8Checker{}
		if d.squeezed = first&wsRSV1 != 0; d.squeezed && d.left > 0 {
			d.packed = d.pool.takePacked()
		}
	}
	limit := d.limit
	if d.squeezed && limit < math.MaxInt64/2 {
		// Incompressible data grows by compression, with zlib's least favourable
		// settings by an eighth. Twice that, and room for a short message, pass.
		limit += limit>>2 + 64
	}
	if d.left > limit-d.total {
		return wsOversize()
	}
	d.total += d.left
	return nil
}

func wsOversize() *wsError { return &wsError{wsTooBig, "message is too big"} }

// data reports a piece of a message, inflated if the message was compressed.
func (d *wsDecoder) data(p []byte, last bool) (e wsEvent, bad *wsError) {
	if d.message == opText && (!d.utf8.add(p) || last && !d.utf8.whole()) {
		return e, &wsError{wsInvalidData, "text is not UTF-8"}
	}
	if len(p) == 0 && !last {
		return e, nil
	}
	e = wsEvent{op: d.message, payload: p, last: last}
	if last {
		d.message = 0
	}
	return e, nil
}

// closeEvent reads the payload of a close frame (RFC 6455 5.5.1).
func closeEvent(p []byte) (e wsEvent, bad *wsError) {
	if len(p) == 0 {
		return wsEvent{op: opClose, code: wsNoCode}, nil
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
	return wsEvent{op: opClose, code: code, reason: string(p[2:])}, nil
}

// validCloseCode reports whether a close frame may have this code: a code that
// IANA has registered for close frames, or a code from the ranges of RFC 6455
// 7.4.2 for libraries and applications.
func validCloseCode(code uint16) bool {
	switch {
	case code < 1000, code >= 5000:
		return false
	case code >= 3000:
		return true
	case code > 1014: // 1015 reports a TLS failure to an application, never on the wire
		return false
	}
	return code < 1004 || code > 1006
}

// inflate reports the next piece of a compressed message. All of the message's
// compressed bytes have arrived.
func (d *wsDecoder) inflate() (e wsEvent, bad *wsError) {
	p, last, err := d.flate.inflate()
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
	d.flate = nil
	return e, nil
}

// unmask applies a mask (RFC 6455 5.3) to p, beginning with the mask's lowest
// byte, and returns the mask rotated for the bytes after p.
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

// utf8Checker checks that a text which arrives in pieces is UTF-8. Its zero
// value is ready.
type utf8Checker struct {
	cut  [utf8.UTFMax]byte // beginning of a character that the last piece has cut in two
	have uint8             // bytes of cut
}

// whole reports whether the last piece ended with a complete character.
func (u *utf8Checker) whole() bool { return u.have == 0 }

// add reports whether the text is UTF-8 so far. A piece is refused as soon as no
// further byte could make the text valid, not when the character is complete.
func (u *utf8Checker) add(p []byte) bool {
	for u.have > 0 && len(p) > 0 {
		u.cut[u.have] = p[0]
		u.have++
		p = p[1:]
		if b := u.cut[:u.have]; utf8.FullRune(b) {
			if !utf8.Valid(b) {
				return false
			}
			u.have = 0
		}
	}
	end := len(p)
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if last := p[len(p)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				end -= n
			}
			break
		}
	}
	if end < len(p) {
		u.have = uint8(copy(u.cut[:], p[end:]))
	}
	return utf8.Valid(p[:end])
}

// wsPool is shared by the WebSockets of one worker. Its zero value is ready.
type wsPool struct {
	inflaters []*wsInflater // idle inflaters
	packed    []byte        // spare buffer for the compressed bytes of a message
	deflater  *flate.Writer // the one deflater, nil before its first use
	deflated  bytes.Buffer  // where deflater writes to
}

func (p *wsPool) takeInflater(packed []byte) *wsInflater {
	var z *wsInflater
	if n := len(p.inflaters); n > 0 {
		z, p.inflaters[n-1] = p.inflaters[n-1], nil
		p.inflaters = p.inflaters[:n-1]
	} else {
		z = &wsInflater{}
		z.r = flate.NewReader(z)
	}
	if len(packed) == 0 {
		packed = append(packed, wsNothing...)
	}
	z.size, z.packed = len(packed), append(packed, wsTail+wsEnd...)
	z.at, z.made = 0, 0
	z.rewind()
	return z
}

func (p *wsPool) giveInflater(z *wsInflater) {
	if b := z.packed; cap(b) <= maxSparePacked && cap(b) > cap(p.packed) {
		p.packed = b[:0]
	}
	if z.packed = nil; len(p.inflaters) < maxInflaters {
		p.inflaters = append(p.inflaters, z)
	}
}

func (p *wsPool) takePacked() []byte {
	b := p.packed
	p.packed = nil
	return b
}

const (
	// wsTail is the empty block that a sender removes from the end of a compressed
	// message (RFC 7692 7.2.1).
	wsTail = "\x00\x00\xff\xff"
	// wsEnd is an empty block marked as the last: behind it, the inflater can tell the
	// end of a message from a pause in the middle.
	wsEnd = "\x01\x00\x00\xff\xff"
	// wsNothing is the compressed form of an empty message (RFC 7692 7.2.3.6). Some
	// clients send no bytes at all instead.
	wsNothing = "\x00"
)

// wsInflater inflates one message at a time. Go's inflater reads the compressed bytes
// from it, and takes no more of them than it needs, because wsInflater is an
// io.ByteReader.
type wsInflater struct {
	r      io.ReadCloser    // Go's inflater
	packed []byte           // the compressed message, wsTail and wsEnd
	size   int              // length of the message in packed
	at     int              // bytes of packed that have been read
	end    int              // bytes of packed that may be read so far
	made   int64            // bytes inflated so far
	out    [maxWSPiece]byte // the current piece
}

func (z *wsInflater) ReadByte() (byte, error) {
	if z.at == z.end {
		return 0, io.ErrUnexpectedEOF
	}
	z.at++
	return z.packed[z.at-1], nil
}

func (z *wsInflater) Read(b []byte) (int, error) {
	if z.at == z.end {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(b, z.packed[z.at:z.end])
	z.at += n
	return n, nil
}

func (z *wsInflater) rewind() { z.r.(flate.Resetter).Reset(z, nil) }

// inflate inflates up to one full out; last reports that the message is complete.
func (z *wsInflater) inflate() (p []byte, last bool, err error) {
	n := 0
	for n < len(z.out) {
		// Bound the input by the output: megabytes of empty blocks would keep the
		// worker busy for seconds. Beyond idlePacked, 12 compressed bytes must give
		// at least one; a sender that flushes after every byte needs that much.
		z.end = len(z.packed)
		if most := idlePacked + 12*z.made; most < int64(z.size) {
			z.end = int(most)
		}
		k, err := z.r.Read(z.out[n:])
		n += k
		z.made += int64(k)
		switch {
		case err == io.EOF && (z.at == z.size || z.at == len(z.packed)):
			return z.out[:n], true, nil // the message ended itself, or wsEnd has been read
		case err == io.EOF:
			z.rewind() // a sender may mark any block as the last (RFC 7692 7.2.3.4)
		case err != nil:
			return nil, false, err
		}
	}
	return z.out[:n], false, nil
}

// deflate appends a frame with a compressed piece of a message. first is the frame's first
// byte, apart from wsFin: the opcode and wsRSV1 in a message's first frame, then
// opContinuation. No compression state is kept between pieces, so that any number of
// messages can be in progress with one deflater. Compression suffers little: a message in
// several pieces has long pieces.
func (p *wsPool) deflate(b []byte, first byte, piece []byte, last bool) []byte {
	p.deflated.Reset()
	if p.deflater == nil {
		p.deflater, _ = flate.NewWriter(&p.deflated, flate.BestSpeed) // an error means an invalid level
	} else {
		p.deflater.Reset(&p.deflated)
	}
	p.deflater.Write(piece)
	p.deflater.Flush()
	payload := p.deflated.Bytes()
	if last {
		first |= wsFin
		payload = payload[:len(payload)-len(wsTail)] // RFC 7692 7.2.1
	}
	return append(appendWSHead(b, first, len(payload)), payload...)
}

// appendWSHead appends the head of a frame with a payload of n bytes.
func appendWSHead(b []byte, first byte, n int) []byte {
	switch {
	case n < 126:
		return append(b, first, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, first, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, first, 127), uint64(n))
}

// appendWSClose appends a close frame, with 1000 (normal closure) for wsNoCode: the answer to
// an empty close frame says that all is well. A reason that is too long for a control frame is
// cut between two characters.
func appendWSClose(b []byte, code uint16, reason string) []byte {
	if code == wsNoCode {
		code, reason = 1000, ""
	}
	if n := maxWSControl - 2; len(reason) > n {
		for n > 0 && !utf8.RuneStart(reason[n]) {
			n--
		}
		reason = reason[:n]
	}
	b = appendWSHead(b, wsFin|opClose, 2+len(reason))
	return append(binary.BigEndian.AppendUint16(b, code), reason...)
}
