package main

// HTTP/2 (RFC 9113), the server's side, as pure functions: a client's bytes to events,
// responses to frames. No function here uses a descriptor, a clock or a log.
//
// The meaning of requests and responses is not decided here. The head of a request becomes the
// same bytes that HTTP/1.1 would have had, and goes to the parser of HTTP/1.1 (http.go); the
// head of a response is made for HTTP/1.1 (response.go) and becomes a field block here. So
// one policy holds for both protocols.

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"slices"
)

// h2Preface is what a client's side of a connection begins with (RFC 9113 3.4).
const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Types of frames (RFC 9113 6).
const (
	h2Data = iota
	h2Headers
	h2Priority
	h2RstStream
	h2Settings
	h2PushPromise
	h2Ping
	h2Goaway
	h2WindowUpdate
	h2Continuation
)

// Flags of frames.
const (
	h2EndStream  = 0x1 // of DATA and HEADERS
	h2Ack        = 0x1 // of SETTINGS and PING
	h2EndHeaders = 0x4
	h2Padded     = 0x8
	h2Prioritary = 0x20 // HEADERS begins with a priority
)

// Settings (RFC 9113 6.5.2, RFC 8441 3).
const (
	h2HeaderTable     = 0x1
	h2EnablePush      = 0x2
	h2MaxStreams      = 0x3
	h2InitialWindow   = 0x4
	h2MaxFrame        = 0x5
	h2MaxHeaderList   = 0x6
	h2ConnectProtocol = 0x8
)

// h2Code is an error code (RFC 9113 7).
type h2Code uint32

const (
	h2NoError h2Code = iota
	h2ProtocolError
	h2InternalError
	h2FlowControlError
	h2SettingsTimeout
	h2StreamClosed
	h2FrameSizeError
	h2RefusedStream
	h2Cancel
	h2CompressionError
	h2ConnectError
	h2EnhanceYourCalm
)

const (
	h2FrameHead   = 9
	h2Window      = 65535     // window of a connection, and of a stream unless a setting says otherwise
	h2WindowMost  = 1<<31 - 1 // largest window
	h2FrameLeast  = 16384     // largest payload that every side accepts
	h2PiecesMost  = 1<<24 - 1 // largest value of SETTINGS_MAX_FRAME_SIZE
	h2TableSize   = 4096      // size of HPACK's dynamic table
	h2Unknown     = 1 << 62   // stands for the length of a body that only its end will tell
	h2ClosedKept  = 64        // ended streams that are remembered: their frames may still be under way
	h2NoiseMost   = 1000      // frames without use that a client may send in noiseSpan: honest clients send a few
	h2ResetsMost  = 200       // streams that a client may open and reset in noiseSpan: a browser resets the streams of a page that its user leaves
	h2Sliver      = 1024      // a piece of a longer body is not sent while the client gives room for fewer bytes
	h2SmallCredit = 256       // a WINDOW_UPDATE for fewer bytes counts as noise
	h2BlockSlack  = 64 << 10  // bytes by which a field block may be longer than the list of its fields
)

// h2Error is a mistake after which the connection ends.
type h2Error struct {
	code h2Code
	text string
}

func h2Mistake(text string) *h2Error { return &h2Error{h2ProtocolError, text} }

// h2Event is an event that next has found.
type h2Event struct {
	kind   h2Kind
	stream *stream
	piece  []byte // of h2Piece: bytes of the body
	bad    string // of h2Broken: the client's mistake
}

type h2Kind uint8

const (
	h2Nothing h2Kind = iota
	h2Opened         // a request: its fields are in h2.list
	h2Piece          // a piece of a request's body, or its end, or both
	h2Broken         // the stream is reset: by the client, or because of its mistake
	h2Room           // the client takes more of this stream, or of all if stream is nil
	h2Resized        // the windows of all streams have changed
)

// stream is one request and its response on an HTTP/2 connection.
type stream struct {
	id       uint32
	window   int64  // bytes of the response's body that the client takes
	room     int64  // bytes of the request's body that the client may send
	taken    int64  // bytes that the application has taken since the client was last given room
	received int64  // bytes of the request's body so far
	length   int64  // value of Content-Length, -1 without the field
	ended    bool   // the request is complete
	done     bool   // the response is complete, or the stream is reset
	section  []byte // trailer section of the request, as HTTP/1.1 has it

	feed // the carrier's state of the stream (carrier.go)
}

// h2 is the state of one connection.
type h2 struct {
	out    []byte // frames for the client
	lastAt int    // where the last HEADERS or DATA frame in out begins
	lastID uint32 // stream of the HEADERS or DATA frame at lastAt, 0 for no such frame

	// The settings that this side has announced.
	maxStreams int
	initial    int64 // window of a new stream
	frameMost  int   // longest frame that is accepted
	listMost   int   // largest list of fields, 0 for no limit
	blockMost  int   // longest field block

	// The settings that the client has announced.
	theirWindow int64 // window of a new stream
	theirFrame  int   // longest frame that the client accepts
	shrunk      bool  // the client keeps less than h2TableSize of responses' fields, and the next field block has to say so

	window  int64 // bytes of all responses' bodies that the client takes
	sliver  bool  // a sliver of a body has been sent since the last second began
	room    int64 // bytes of all requests' bodies that the client may send
	taken   int64 // bytes of bodies that have come since the client was last given room for all streams
	streams map[uint32]*stream
	busy    int    // streams that count against maxStreams, also streams that were reset while Python still has their requests
	newest  uint32 // the last stream that the client has opened
	said    bool   // GOAWAY has been sent
	final   uint32 // the last stream that will be served, once GOAWAY has been sent
	noise   int    // frames without use in the present noiseSpan
	resets  int    // streams opened and reset in the present noiseSpan

	closed [h2ClosedKept]uint32 // streams that have ended, shifted by one bit; the lowest bit is set if this side reset the stream
	ends   int                  // number of streams that have ended

	h2Input
	table hpackTable
	list  *fieldList // fields of the latest block; connections may share the list
}

// h2Input is how far the client's bytes have been read.
type h2Input struct {
	preface  int      // bytes of the preface received so far
	settled  bool     // the client's first SETTINGS frame has come
	f        h2Frame  // the frame at hand
	within   bool     // a part of the frame at hand is still to come
	left     int      // bytes to come of the payload at hand, without padding
	padding  int      // bytes of padding behind the payload at hand
	cold     bool     // the payload at hand is thrown away
	opens    h2Frame  // the HEADERS frame whose field block is incomplete; id 0 for none
	block    []byte   // the bytes of the incomplete field block that have come
	wrong    string   // a mistake in the HEADERS frame whose field block is incomplete
	settings [2]int64 // of the SETTINGS frame at hand: window and frame size, -1 for not given
}

type h2Frame struct {
	length int
	kind   byte
	flags  byte
	id     uint32
}

// newH2 makes the state of a connection. listMost is the largest list of fields, headBound the
// largest head of HTTP/1.1, both in bytes.
func newH2(maxStreams, initial, frameMost, listMost, headBound int) h2 {
	bound := headBound
	if listMost = min(listMost, h2WindowMost-h2BlockSlack); listMost > 0 {
		bound = listMost
	}
	return h2{maxStreams: min(maxStreams, h2WindowMost), initial: int64(initial), frameMost: frameMost, listMost: listMost,
		blockMost: bound + h2BlockSlack, theirWindow: h2Window, theirFrame: h2FrameLeast,
		window: h2Window, room: h2Window, table: hpackTable{most: h2TableSize}, list: &fieldList{limit: bound},
		streams: map[uint32]*stream{}}
}

// Reading -------------------------------------------------------------------

// next consumes n bytes at the front of in, and reports at most one event. The caller
// passes the rest until next consumes nothing and reports nothing; that rest, with
// further bytes behind it, is for a later call. An event is valid until the next call.
func (h *h2) next(in []byte) (n int, e h2Event, bad *h2Error) {
	if h.preface < len(h2Preface) {
		n = min(len(in), len(h2Preface)-h.preface)
		if string(in[:n]) != h2Preface[h.preface:h.preface+n] {
			return n, e, h2Mistake("the connection preface is wrong")
		}
		h.preface += n
		return n, e, nil
	}
	if !h.within {
		if n, bad = h.takeHead(in); n == 0 || bad != nil {
			return n, e, bad
		}
		if e, bad = h.open(); bad != nil || e.kind != h2Nothing {
			return n, e, bad
		}
	}
	m, e, bad := h.payload(in[n:])
	return n + m, e, bad
}

// takeHead reads the head of a frame, with the lengths that its payload begins with. It
// returns 0 while these are incomplete.
func (h *h2) takeHead(in []byte) (n int, bad *h2Error) {
	if len(in) < h2FrameHead {
		return 0, nil
	}
	f := h2Frame{length: int(in[0])<<16 | int(in[1])<<8 | int(in[2]), kind: in[3], flags: in[4],
		id: binary.BigEndian.Uint32(in[5:]) & h2WindowMost}
	if bad = h.checkHead(f); bad != nil {
		return 0, bad
	}
	ahead, pads := 0, f.flags&h2Padded != 0 && (f.kind == h2Data || f.kind == h2Headers)
	if pads {
		ahead = 1
	}
	if f.kind == h2Headers && f.flags&h2Prioritary != 0 {
		ahead += 5
	}
	if ahead > f.length {
		return 0, &h2Error{h2FrameSizeError, "a frame is too short"}
	}
	if n = h2FrameHead + ahead; len(in) < n {
		return 0, nil
	}
	h.padding = 0
	if pads {
		h.padding = int(in[h2FrameHead])
	}
	if h.left = f.length - ahead - h.padding; h.left < 0 {
		return 0, h2Mistake("a frame has more padding than payload")
	}
	h.f, h.within, h.cold, h.wrong = f, true, false, ""
	if ahead >= 5 && binary.BigEndian.Uint32(in[n-5:])&h2WindowMost == f.id {
		h.wrong = "a stream depends on itself"
	}
	return n, nil
}

// checkHead judges a frame by its head and by the frames before.
func (h *h2) checkHead(f h2Frame) *h2Error {
	if f.length > h.frameMost {
		return &h2Error{h2FrameSizeError, "a frame is too long"}
	}
	switch {
	case !h.settled && (f.kind != h2Settings || f.flags&h2Ack != 0):
		return h2Mistake("the first frame is not SETTINGS")
	case (h.opens.id != 0) != (f.kind == h2Continuation) || h.opens.id != 0 && h.opens.id != f.id:
		return h2Mistake("a field block is interrupted")
	}
	size := -1
	switch f.kind {
	case h2Data, h2Headers, h2Continuation:
		if f.id&1 == 0 {
			return h2Mistake("a frame is on a stream that no client can open")
		}
	case h2Priority:
		size = 5
	case h2RstStream:
		size = 4
	case h2Ping:
		size = 8
	case h2WindowUpdate:
		size = 4
	case h2PushPromise:
		return h2Mistake("a client has sent PUSH_PROMISE")
	case h2Settings:
		if f.length%6 != 0 || f.flags&h2Ack != 0 && f.length > 0 {
			size = f.length + 1
		}
	case h2Goaway:
		size = max(8, f.length)
	}
	switch f.kind {
	case h2Settings, h2Ping, h2Goaway:
		if f.id != 0 {
			return h2Mistake("a frame about the connection is on a stream")
		}
	case h2Priority, h2RstStream:
		if f.id == 0 {
			return h2Mistake("a frame about a stream is on none")
		}
	}
	if size >= 0 && f.length != size {
		return &h2Error{h2FrameSizeError, "a frame has a wrong length"}
	}
	return nil
}

// open begins with a frame whose head has been read.
func (h *h2) open() (e h2Event, bad *h2Error) {
	f := h.f
	switch f.kind {
	case h2Data:
		return h.openData(f)
	case h2Headers:
		h.block, h.opens = h.block[:0], f
	case h2Settings:
		h.settled = true
		h.settings = [2]int64{-1, -1}
		bad = h.loud()
	case h2Continuation:
		if f.length == 0 {
			bad = h.loud()
		}
	case h2RstStream, h2WindowUpdate:
		if f.id > h.newest || f.id != 0 && f.id&1 == 0 {
			bad = h2Mistake("a frame is on a stream that is not open")
		}
	default: // among them GOAWAY: the client opens no more streams, and will leave
		h.cold = f.kind > h2Continuation
		bad = h.loud()
	}
	return e, bad
}

// loud counts a frame without use. A client that sends very many of them is an attacker.
func (h *h2) loud() *h2Error {
	if h.noise++; h.noise > h2NoiseMost {
		return &h2Error{h2EnhanceYourCalm, "too many frames without use"}
	}
	return nil
}

// quieten forgets the noise that the client has made. It is called every noiseSpan
// seconds.
func (h *h2) quieten() { h.noise, h.resets = 0, 0 }

// openData counts the bytes of a DATA frame against the windows.
func (h *h2) openData(f h2Frame) (e h2Event, bad *h2Error) {
	if f.id > h.newest {
		return e, h2Mistake("DATA is on a stream that is not open")
	}
	if h.room -= int64(f.length); h.room < 0 {
		return e, &h2Error{h2FlowControlError, "the connection's window is exceeded"}
	}
	if h.taken += int64(f.length); h.taken >= h2Window/2 {
		// The connection as a whole gets its room back at once: only a stream's own
		// window may hold the stream up.
		h.out = appendH2Number(h.out, h2WindowUpdate, 0, uint32(h.taken))
		h.room, h.taken = h.room+h.taken, 0
	}
	s := h.streams[f.id]
	if h.cold = true; s == nil {
		if h.ours(f.id) || h.said && f.id > h.final {
			return e, nil // sent before the client had heard of the end
		}
		h.out = appendH2Number(h.out, h2RstStream, f.id, uint32(h2StreamClosed))
		return e, h.loud()
	}
	if s.ended {
		return h.fail(s, h2StreamClosed, "DATA comes after the end of its request"), nil
	}
	if s.room -= int64(f.length); s.room < 0 {
		return h.fail(s, h2FlowControlError, "the stream's window is exceeded"), nil
	}
	if s.received += int64(h.left); s.length >= 0 && (s.received > s.length || f.flags&h2EndStream != 0 && s.received < s.length) {
		return h.fail(s, h2ProtocolError, "the body is not as long as its Content-Length"), nil
	}
	if h.left == 0 && f.flags&h2EndStream == 0 {
		bad = h.loud()
	}
	h.credit(s, f.length-h.left)
	h.cold = false
	return e, bad
}

// fail resets a stream because of its client's mistake.
func (h *h2) fail(s *stream, code h2Code, text string) h2Event {
	h.reset(s, code)
	return h2Event{kind: h2Broken, stream: s, bad: text}
}

// payload handles the bytes of a frame's payload that have come.
func (h *h2) payload(in []byte) (n int, e h2Event, bad *h2Error) {
	fixed := 0 // bytes of the payload that can only be read together
	switch {
	case h.cold:
		h.left, h.padding = h.left+h.padding, 0
	case h.f.kind == h2Settings && h.left > 0:
		fixed = 6
	case h.f.kind == h2Goaway && h.left == h.f.length:
		fixed = 8
	case h.f.kind == h2Priority, h.f.kind == h2RstStream, h.f.kind == h2Ping, h.f.kind == h2WindowUpdate:
		fixed = h.left
	}
	if len(in) < fixed {
		return 0, e, nil
	}
	if n = fixed; fixed == 0 {
		n = min(h.left, len(in))
	}
	piece := in[:n]
	h.left -= n
	pad := 0
	if h.left == 0 {
		pad = min(h.padding, len(in)-n)
		h.padding -= pad
	}
	last := h.left == 0 && h.padding == 0
	h.within = !last
	switch {
	case h.cold:
	case h.f.kind == h2Data:
		e = h.data(piece, last)
	case h.f.kind == h2Headers, h.f.kind == h2Continuation:
		e, bad = h.fragment(piece, last)
	case h.f.kind == h2Settings:
		if bad = h.setting(piece, last); last && h.settings[0] >= 0 {
			e.kind = h2Resized
		}
	case h.f.kind == h2Priority:
		if binary.BigEndian.Uint32(piece)&h2WindowMost == h.f.id {
			if s := h.streams[h.f.id]; s != nil {
				e = h.fail(s, h2ProtocolError, "a stream depends on itself")
			} else {
				bad = h2Mistake("a stream depends on itself")
			}
		}
	case h.f.kind == h2RstStream:
		e, bad = h.abandoned(h.f.id)
	case h.f.kind == h2Ping && h.f.flags&h2Ack == 0:
		h.out = append(appendH2Head(h.out, h2Frame{8, h2Ping, h2Ack, 0}), piece...)
	case h.f.kind == h2WindowUpdate:
		e, bad = h.widen(h.f.id, binary.BigEndian.Uint32(piece)&h2WindowMost)
	}
	return n + pad, e, bad
}

func (h *h2) data(piece []byte, last bool) (e h2Event) {
	s := h.streams[h.f.id]
	if s == nil { // reset since the frame began
		return e
	}
	if last && h.f.flags&h2EndStream != 0 {
		s.ended = true
	}
	if len(piece) > 0 || s.ended {
		e = h2Event{kind: h2Piece, stream: s, piece: piece}
	}
	return e
}

// abandoned handles RST_STREAM.
func (h *h2) abandoned(id uint32) (e h2Event, bad *h2Error) {
	s := h.streams[id]
	if s == nil {
		return e, h.loud()
	}
	if h.resets++; h.resets > h2ResetsMost {
		return e, &h2Error{h2EnhanceYourCalm, "too many requests are opened and reset"}
	}
	h.close(s, false)
	return h2Event{kind: h2Broken, stream: s}, nil
}

// widen handles WINDOW_UPDATE.
func (h *h2) widen(id, n uint32) (e h2Event, bad *h2Error) {
	if n < h2SmallCredit {
		bad = h.loud()
	}
	if id == 0 {
		switch h.window += int64(n); {
		case n == 0:
			return e, h2Mistake("WINDOW_UPDATE adds nothing")
		case h.window > h2WindowMost:
			return e, &h2Error{h2FlowControlError, "the connection's window is too large"}
		}
		return h2Event{kind: h2Room}, bad
	}
	s := h.streams[id]
	if s == nil {
		return e, bad
	}
	switch s.window += int64(n); {
	case n == 0:
		return h.fail(s, h2ProtocolError, "WINDOW_UPDATE adds nothing"), bad
	case s.window > h2WindowMost:
		return h.fail(s, h2FlowControlError, "the stream's window is too large"), bad
	}
	return h2Event{kind: h2Room, stream: s}, bad
}

// setting reads one of the client's settings, and applies all at the end of their frame: a
// new window is a task for each stream.
func (h *h2) setting(piece []byte, last bool) *h2Error {
	if len(piece) == 6 {
		switch v := int64(binary.BigEndian.Uint32(piece[2:])); binary.BigEndian.Uint16(piece) {
		case h2HeaderTable:
			h.shrunk = h.shrunk || v < h2TableSize
		case h2EnablePush:
			if v > 1 {
				return h2Mistake("SETTINGS_ENABLE_PUSH is neither 0 nor 1")
			}
		case h2InitialWindow:
			if h.settings[0] = v; v > h2WindowMost {
				return &h2Error{h2FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE is too large"}
			}
		case h2MaxFrame:
			if h.settings[1] = v; v < h2FrameLeast || v > h2PiecesMost {
				return h2Mistake("SETTINGS_MAX_FRAME_SIZE is out of its bounds")
			}
		}
	}
	if !last || h.f.flags&h2Ack != 0 {
		return nil
	}
	if v := h.settings[0]; v >= 0 {
		for _, s := range h.streams {
			if s.window += v - h.theirWindow; s.window > h2WindowMost {
				return &h2Error{h2FlowControlError, "a stream's window is too large"}
			}
		}
		h.theirWindow = v
	}
	if v := h.settings[1]; v >= 0 {
		h.theirFrame = int(v)
	}
	h.out = appendH2Head(h.out, h2Frame{0, h2Settings, h2Ack, 0})
	return nil
}

// fragment collects a field block, and decodes the block when it is complete. Every block
// is decoded, even if nobody wants its fields: later blocks refer to them.
func (h *h2) fragment(piece []byte, last bool) (e h2Event, bad *h2Error) {
	whole := last && h.f.flags&h2EndHeaders != 0
	if !whole || len(h.block) > 0 {
		if len(h.block)+len(piece) > h.blockMost {
			return e, &h2Error{h2EnhanceYourCalm, "a field block is too long"}
		}
		if h.block = append(h.block, piece...); !whole {
			return e, nil
		}
		piece = h.block
	}
	f := h.opens
	h.opens.id = 0
	if bad = h.table.decode(piece, h.list); bad != nil {
		return e, bad
	}
	if cap(h.block) > h2FrameLeast {
		h.block = nil
	}
	return h.headers(f)
}

// headers handles a complete list of fields: of a request, or of a trailer section.
func (h *h2) headers(f h2Frame) (e h2Event, bad *h2Error) {
	ends := f.flags&h2EndStream != 0
	if s := h.streams[f.id]; s != nil {
		switch {
		case s.ended:
			return h.fail(s, h2StreamClosed, "HEADERS come after the end of their request"), nil
		case h.wrong != "":
			return h.fail(s, h2ProtocolError, h.wrong), nil
		case !ends:
			return h.fail(s, h2ProtocolError, "a trailer section does not end its request"), nil
		case s.length >= 0 && s.received < s.length:
			return h.fail(s, h2ProtocolError, "the body is not as long as its Content-Length"), nil
		}
		for i := range h.list.fields {
			l := &h.list.fields[i]
			if l.check() != nil || l.name[0] == ':' {
				return h.fail(s, h2ProtocolError, "a trailer section is malformed"), nil
			}
			s.section = appendField(s.section, l.name, l.value)
		}
		if h.list.over {
			return h.fail(s, h2EnhanceYourCalm, "a trailer section is too long"), nil
		}
		s.ended = true
		return h2Event{kind: h2Piece, stream: s}, nil
	}
	switch {
	case f.id <= h.newest && h.ours(f.id):
		return e, h.loud()
	case f.id <= h.newest && h.ended(f.id):
		return e, &h2Error{h2StreamClosed, "HEADERS are on a stream that has ended"}
	case f.id <= h.newest:
		return e, h2Mistake("a stream's number is not above those before")
	}
	h.newest = f.id
	s := &stream{id: f.id, window: h.theirWindow, room: max(h.initial, h2Window), length: -1, ended: ends}
	switch {
	case h.said, max(h.busy, len(h.streams)) >= h.maxStreams:
		h.reset(s, h2RefusedStream)
		return e, h.loud()
	case h.wrong != "":
		return h.fail(s, h2ProtocolError, h.wrong), nil
	}
	h.streams[f.id] = s
	h.busy++
	if !ends && h.initial < h2FrameLeast {
		h.out = appendH2Number(h.out, h2WindowUpdate, s.id, uint32(h2FrameLeast-h.initial))
	}
	return h2Event{kind: h2Opened, stream: s}, nil
}

// ended reports whether a stream is among the last that have ended.
func (h *h2) ended(id uint32) bool {
	return slices.ContainsFunc(h.closed[:], func(e uint32) bool { return e>>1 == id>>1 && e != 0 })
}

// ours reports whether this side has reset a stream: ids are odd, and so is the entry in
// closed of a stream that this side has reset.
func (h *h2) ours(id uint32) bool { return slices.Contains(h.closed[:], id) }

// close forgets a stream.
func (h *h2) close(s *stream, ours bool) {
	id := s.id
	if !ours {
		id--
	}
	h.closed[h.ends%h2ClosedKept] = id
	h.ends++
	s.done = true
	delete(h.streams, s.id)
}

// Writing -------------------------------------------------------------------

func appendH2Head(b []byte, f h2Frame) []byte {
	b = append(b, byte(f.length>>16), byte(f.length>>8), byte(f.length), f.kind, f.flags)
	return binary.BigEndian.AppendUint32(b, f.id)
}

// appendH2Number appends a frame whose payload is one number.
func appendH2Number(b []byte, kind byte, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendH2Head(b, h2Frame{4, kind, 0, id}), n)
}

// greet announces the settings of this side.
func (h *h2) greet(sockets bool) {
	set := func(id uint16, v int) {
		h.out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(h.out, id), uint32(v))
	}
	at := len(h.out)
	h.out = appendH2Head(h.out, h2Frame{0, h2Settings, 0, 0})
	set(h2MaxStreams, h.maxStreams)
	set(h2InitialWindow, int(h.initial))
	set(h2MaxFrame, h.frameMost)
	if h.listMost > 0 {
		set(h2MaxHeaderList, h.listMost)
	}
	if sockets {
		set(h2ConnectProtocol, 1)
	}
	h.out[at+2] = byte(len(h.out) - at - h2FrameHead)
}

// head sends a field block: of a response, an interim response or a trailer section.
func (h *h2) head(s *stream, block []byte) {
	h.lastAt, h.lastID = len(h.out), s.id
	if h.shrunk { // RFC 7541 4.2; the table of responses is not used, so no size is smaller than its own
		h.shrunk, block = false, append([]byte{0x20}, block...)
	}
	kind := byte(h2Headers)
	for {
		n, flags := min(len(block), h.theirFrame), byte(0)
		if n == len(block) {
			flags = h2EndHeaders
		}
		h.out = append(appendH2Head(h.out, h2Frame{n, kind, flags, s.id}), block[:n]...)
		if block, kind = block[n:], h2Continuation; len(block) == 0 {
			return
		}
	}
}

// allowed is how many of n bytes of a body the client takes on a stream now. mine reports that
// the stream's own window is what holds the rest up. A sliver of a long body is sent once a
// second only: every few bytes of room would come back as another sliver.
func (h *h2) allowed(s *stream, n int) (most int, mine bool) {
	least := int64(1)
	if h.sliver {
		least = min(int64(n), h2Sliver)
	}
	if s.window < min(least, max(1, h.theirWindow/4)) {
		return 0, true
	}
	if h.window < least {
		return 0, false
	}
	return int(min(s.window, h.window, int64(n))), s.window <= h.window
}

// body sends bytes of a response's body, no more than allowed.
func (h *h2) body(s *stream, b []byte) {
	s.window -= int64(len(b))
	h.window -= int64(len(b))
	h.sliver = h.sliver || len(b) < h2Sliver && min(s.window, h.window) == 0
	for len(b) > 0 {
		h.noise = max(0, h.noise-2) // the client gives room back, on the stream and on the connection
		n := min(len(b), h.theirFrame, h2FrameLeast)
		h.lastAt, h.lastID = len(h.out), s.id
		h.out = append(appendH2Head(h.out, h2Frame{n, h2Data, 0, s.id}), b[:n]...)
		b = b[n:]
	}
}

// end ends a response, after its trailer section if it has one.
func (h *h2) end(s *stream, tail []byte) {
	if len(tail) > 0 {
		h.head(s, tail)
	}
	if h.lastID == s.id {
		h.out[h.lastAt+4] |= h2EndStream
	} else {
		h.out = appendH2Head(h.out, h2Frame{0, h2Data, h2EndStream, s.id})
	}
	h.noise, h.resets = max(0, h.noise-1), max(0, h.resets-1)
}

// reset ends a stream at once.
func (h *h2) reset(s *stream, code h2Code) {
	h.out = appendH2Number(h.out, h2RstStream, s.id, uint32(code))
	h.close(s, true)
}

// goaway announces the end of the connection: streams that the client opens from now on are
// refused.
func (h *h2) goaway(code h2Code, text string) {
	if h.said && code == h2NoError {
		return
	}
	if !h.said {
		h.final = h.newest
	}
	h.said = true
	h.out = appendH2Head(h.out, h2Frame{8 + len(text), h2Goaway, 0, 0})
	h.out = binary.BigEndian.AppendUint32(h.out, h.final)
	h.out = append(binary.BigEndian.AppendUint32(h.out, uint32(code)), text...)
}

// credit gives the client room for n more bytes on a stream, once half a window has gathered.
func (h *h2) credit(s *stream, n int) {
	if s.taken += int64(n); s.done || s.ended || s.taken < max(h.initial, h2FrameLeast)/2 {
		return
	}
	h.out = appendH2Number(h.out, h2WindowUpdate, s.id, uint32(s.taken))
	s.room, s.taken = s.room+s.taken, 0
}

// Heads -----------------------------------------------------------------------

// h2Request has the values of a request's pseudo-fields (RFC 9113 8.3.1).
type h2Request struct {
	method, scheme, authority, path, protocol []byte
}

// head appends the head of a request as HTTP/1.1 has it. A head that HTTP/1.1 cannot express,
// or that RFC 9113 8.2 and 8.3 call malformed, is refused. The parser of HTTP/1.1 judges every
// other head.
func (l *fieldList) head(b []byte, q *h2Request) (head []byte, bad *badRequest) {
	if bad = q.read(l); bad != nil {
		return b, bad
	}
	method, target := q.method, q.path
	switch {
	case q.protocol != nil: // RFC 8441: as the handshake of HTTP/1.1
		method = []byte("GET")
	case string(method) == "CONNECT":
		target = q.authority
	}
	b = append(append(append(append(b, method...), ' '), target...), " HTTP/2.0\r\n"...)
	hosts, crumbs := 0, 0
	for _, f := range l.fields {
		switch {
		case f.name[0] == ':':
		case string(f.name) == "cookie":
			crumbs++
		default:
			if string(f.name) == "host" {
				hosts++
				if len(f.value) == 0 || q.authority != nil && !sameAuthority(f.value, q.authority, foldEqual(q.scheme, "HTTPS")) {
					return b, badField([]byte("HOST"), true)
				}
			}
			b = appendField(b, f.name, f.value)
		}
	}
	if hosts == 0 && q.authority != nil {
		b = appendField(b, []byte("host"), q.authority)
	}
	if crumbs > 0 {
		b = l.appendCookie(b)
	}
	return append(b, "\r\n"...), nil
}

// appendCookie appends one field of all cookies (RFC 9113 8.2.3).
func (l *fieldList) appendCookie(b []byte) []byte {
	between := "cookie: "
	for _, f := range l.fields {
		if string(f.name) == "cookie" {
			b = append(append(b, between...), f.value...)
			between = "; "
		}
	}
	return append(b, "\r\n"...)
}

// read checks the fields of a request.
func (q *h2Request) read(l *fieldList) *badRequest {
	for i := range l.fields {
		f := &l.fields[i]
		if bad := f.check(); bad != nil {
			return bad
		}
		if f.name[0] != ':' {
			continue
		}
		var to *[]byte
		switch string(f.name) {
		case ":method":
			to = &q.method
		case ":scheme":
			to = &q.scheme
		case ":authority":
			to = &q.authority
		case ":path":
			to = &q.path
		case ":protocol":
			to = &q.protocol
		}
		if to == nil || *to != nil || i > 0 && l.fields[i-1].name[0] != ':' {
			return badName(f.name)
		}
		*to = f.value[:len(f.value):len(f.value)]
		if *to == nil {
			*to = []byte{}
		}
	}
	plain := string(q.method) != "CONNECT"
	missing := ""
	switch {
	case len(q.method) == 0 || tokenLen(q.method) < len(q.method):
		missing = ":method"
	case q.protocol != nil && plain:
		missing = ":protocol"
	case !plain && q.protocol == nil && (q.scheme != nil || q.path != nil || q.authority == nil):
		missing = ":authority"
	case q.authority != nil && len(q.authority) == 0:
		missing = ":authority"
	case (plain || q.protocol != nil) && !foldEqual(q.scheme, "HTTP") && !foldEqual(q.scheme, "HTTPS"):
		missing = ":scheme"
	case (plain || q.protocol != nil) && (len(q.path) == 0 || q.path[0] != '/' && string(q.path) != "*"):
		missing = ":path"
	}
	if missing != "" {
		return badField([]byte(missing), false)
	}
	return nil
}

// check refuses a field that HTTP/2 must not have (RFC 9113 8.2). Other mistakes are found by
// the parser of HTTP/1.1.
func (f *field) check() *badRequest {
	name := f.name
	if len(name) > 1 && name[0] == ':' {
		name = name[1:]
	}
	if len(name) == 0 || tokenLen(name) < len(name) || bytes.ContainsFunc(name, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		return badName(f.name)
	}
	v := f.value
	if bytes.ContainsAny(v, "\x00\r\n") || len(trimBlanks(v)) < len(v) {
		return badField(f.name, false)
	}
	switch string(f.name) {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return badField(f.name, false)
	case "te":
		if !foldEqual(v, "TRAILERS") {
			return badField(f.name, false)
		}
	}
	return nil
}

// Upgrade ---------------------------------------------------------------------

// h2UpgradeMost is the longest body of a request that may ask for HTTP/2, as in Gunicorn.
const h2UpgradeMost = 65536

// h2UpgradeSettings reads the settings with which a request asks for HTTP/2 (RFC 7540
// 3.2). It returns nil for a request that does not ask, or asks in a wrong way: such a
// request is served over HTTP/1.1.
func h2UpgradeSettings(r *request) []byte {
	var value []byte
	asked, count, named := false, 0, false
	for _, f := range r.fields {
		switch {
		case foldEqual(f.name, "UPGRADE"):
			asked = foldEqual(f.value, "H2C")
		case foldEqual(f.name, "HTTP2-SETTINGS"):
			value = f.value
			count++
		case foldEqual(f.name, "CONNECTION"):
			for option := range elements(f.value) {
				named = named || foldEqual(option, "HTTP2-SETTINGS")
			}
		}
	}
	if !asked || !named || count != 1 || r.minor == 0 || r.chunked || r.expect || r.contentLength > h2UpgradeMost {
		return nil
	}
	b, err := base64.RawURLEncoding.AppendDecode([]byte{}, bytes.TrimRight(value, "="))
	var trial h2
	if err != nil || !trial.adopt(b) {
		return nil
	}
	return b
}

// adopt takes the client's settings from a request that asks for HTTP/2.
func (h *h2) adopt(settings []byte) bool {
	h.settings = [2]int64{-1, -1}
	for at := 0; at < len(settings); at += 6 {
		if len(settings) < at+6 || h.setting(settings[at:at+6], at+6 == len(settings)) != nil {
			return false
		}
	}
	h.out = h.out[:0] // the answer with status 101 acknowledges the settings
	return true
}

// begin adds a stream that has not begun with a HEADERS frame.
func (h *h2) begin(id uint32) *stream {
	s := &stream{id: id, window: h.theirWindow, length: -1, ended: true}
	h.streams[id], h.newest = s, id
	h.busy++
	return s
}

// contentLength is the value of Content-Length in a list of fields, -1 if there is none
// or a wrong value, which the parser of HTTP/1.1 refuses.
func (l *fieldList) contentLength() int64 {
	for _, f := range l.fields {
		if string(f.name) == "content-length" {
			return parseLength(f.value)
		}
	}
	return -1
}
