package main

// The wire joins a lane to its thread of Python and carries frames both ways. Python may
// make a pipe and pass its end for reading: from then on its frames come there, which
// takes less time, and only long bodies and descriptors come over the wire's socket.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A frame's header: length of the payload, request number, bytes of marshal at the front
// of the payload, kind, flags, two reserved bytes; in a request, the length of the part
// of its marshal that the client's next request will probably begin with, too.
const frameHeader = 16

// Kinds of frames. The table frameKinds says what each is.
const (
	kindRequest  = 1 + iota // environ, body
	kindIndirect            // the environ is too long for a message: Python asks for it
	kindBody                // an answer to kindRead
	kindOpen                // a new lane's number, with its descriptors
	kindAsk                 // asks the main thread for a sign of life
	kindLent                // an answer to kindSocket, with a descriptor
)

const (
	kindReady    = 8 + iota // the application is loaded
	kindResponse            // status and headers, body
	kindBlock               // more body
	kindFile                // status and headers, offset, length; with the file's descriptor
	kindFailed              // no more will come; Python has logged the traceback
	kindRead                // asks for so many bytes of the body
	kindHints               // headers of a 103
	kindWatch               // files that the application consists of, for reload
	kindRetire              // a worker hook wants this worker to leave
	kindFields              // headers that a hook has added to the request, for the access log
	kindHere                // the answer to kindAsk
	kindSocket              // asks for the client's socket
	kindPipe                // Python's frames come through this pipe from now on
	kindLeft                // Python has left this request and those behind it in its message
)

// Kinds of frames that only streams have.
const (
	kindGone    = 32 + iota // the client has left, or has to
	kindCredit              // the client has taken so many bytes
	kindMessage             // a WebSocket message; from the client, a piece of one
	kindAccept              // the application accepts the WebSocket
	kindShut                // the application closes the WebSocket
	kindTrailer             // fields after the response's body
	kindBye                 // the client closes the WebSocket; all that it sent before has been passed on
)

const (
	flagLast   = 1 << iota // nothing follows of this body
	flagMore               // the rest of the body has to be asked for
	flagBroken             // the body will never be complete
	flagQuiet              // the application wants the connection closed, and no error
	flagClose              // no keep-alive after this response
	flagStacks             // write every thread's stack before the answer
	flagTaken              // the client's socket is the application's from now on
	flagPumped             // the descriptor is one end of a pump, not the client's socket
)

// Flags that mean something else on other frames.
const (
	flagApart = flagMore  // of RESPONSE and BLOCK: the head came through the pipe, the body follows on the socket, which is faster for large bodies
	flagText  = flagQuiet // of MESSAGE: text
	flagCrowd = flagQuiet // of a stream's REQUEST: Python has at least crowd others
)

// Where a frame may come from.
const (
	sentByWorker = 1 << iota
	sentByPython
)

// anyLength is the tail of frames that end with a body.
const anyLength = -1

// frameKind is a row of the table of frames.
type frameKind struct {
	name       string   // of the constant in python/
	from       byte     // the sides that send it
	only       *gateway // whose applications have it; nil for all
	descriptor bool     // a descriptor comes along
	numbered   bool     // a request's number comes along, although the frame is about a lane
	tail       int      // bytes behind the marshal, or anyLength

	when  func(t *turn) bool                               // the request may have it now; nil for always
	said  func(w *worker, t *turn, r *marshalReader) error // handles it, if it is about a request
	end   func(w *worker, t *turn)                         // handles the end of its body
	aside func(w *worker, l *lane, r *marshalReader) error // handles it, if it is about the process or a lane
}

// frameKinds is the table of frames, by number. It is filled by init, because its
// functions look into it.
var frameKinds [256]frameKind

func init() {
	for kind, k := range map[byte]frameKind{
		kindRequest:  {name: "REQUEST", from: sentByWorker, tail: anyLength},
		kindIndirect: {name: "INDIRECT", from: sentByWorker},
		kindBody:     {name: "BODY", from: sentByWorker, tail: anyLength},
		kindOpen:     {name: "OPEN", from: sentByWorker, descriptor: true},
		kindAsk:      {name: "ASK", from: sentByWorker},
		kindLent:     {name: "LENT", from: sentByWorker, descriptor: true},

		kindReady:    {name: "READY", from: sentByPython, aside: (*worker).pythonReady},
		kindResponse: {name: "RESPONSE", from: sentByPython, tail: anyLength, when: (*turn).unanswered, said: (*worker).response, end: (*worker).endPart},
		kindBlock:    {name: "BLOCK", from: sentByPython, tail: anyLength, when: (*turn).answering, said: (*worker).beginBlock, end: (*worker).endPart},
		kindFile:     {name: "FILE", from: sentByPython, descriptor: true, tail: 16, when: (*turn).unanswered, said: (*worker).attach},
		kindFailed:   {name: "FAILED", from: sentByPython, said: (*worker).failed},
		kindRead:     {name: "READ", from: sentByPython, tail: 4, said: (*worker).demand},
		kindHints:    {name: "HINTS", from: sentByPython, said: (*worker).hints},
		kindWatch:    {name: "WATCH", from: sentByPython, aside: (*worker).watchFiles},
		kindRetire:   {name: "RETIRE", from: sentByPython, aside: (*worker).askedToRetire},
		kindFields:   {name: "FIELDS", from: sentByPython, said: (*worker).addFields},
		kindHere:     {name: "HERE", from: sentByPython, aside: (*worker).pythonHere},
		kindSocket:   {name: "SOCKET", from: sentByPython, only: &wsgi, when: (*turn).ownsSocket, said: (*worker).lendSocket},
		kindPipe:     {name: "PIPE", from: sentByPython, descriptor: true, aside: (*worker).listenToPipe},
		kindLeft:     {name: "LEFT", from: sentByPython, only: &wsgi, numbered: true, aside: (*worker).leftOf},

		kindGone:    {name: "GONE", from: sentByWorker, only: &asgi},
		kindCredit:  {name: "CREDIT", from: sentByWorker, only: &asgi},
		kindMessage: {name: "MESSAGE", from: sentByWorker | sentByPython, only: &asgi, tail: anyLength, when: (*turn).talks, said: (*worker).beginMessage, end: (*worker).endMessage},
		kindAccept:  {name: "ACCEPT", from: sentByPython, only: &asgi, when: (*turn).greets, said: (*worker).agree},
		kindShut:    {name: "SHUT", from: sentByPython, only: &asgi, when: (*turn).talks, said: (*worker).shut},
		kindTrailer: {name: "TRAILER", from: sentByPython, only: &asgi, when: (*turn).answering, said: (*worker).trailerSection},
		kindBye:     {name: "BYE", from: sentByWorker, only: &asgi},
	} {
		frameKinds[kind] = k
	}
}

// When frames are legal.
func (t *turn) unanswered() bool { return !t.started && !t.taken }
func (t *turn) answering() bool  { return t.started && t.talk == nil }
func (t *turn) ownsSocket() bool { return !t.taken }
func (t *turn) greets() bool     { return t.hello != nil && !t.started }
func (t *turn) talks() bool      { return t.talk != nil }

// protocolError ends a Python, with all that it runs: the reason is for the log.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// wrongFrame ends one request: the reason is for the log.
type wrongFrame string

func (e wrongFrame) Error() string { return string(e) }

// frame is one header.
type frame struct {
	length, number, meta uint32
	kind, flags          byte
}

func (f frame) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, f.length)
	b = binary.LittleEndian.AppendUint32(b, f.number)
	b = binary.LittleEndian.AppendUint32(b, f.meta)
	return append(b, f.kind, f.flags, 0, 0)
}

func readFrame(b []byte) frame {
	return frame{
		length: binary.LittleEndian.Uint32(b),
		number: binary.LittleEndian.Uint32(b[4:]),
		meta:   binary.LittleEndian.Uint32(b[8:]),
		kind:   b[12],
		flags:  b[13],
	}
}

// String names a frame for the log.
func (f frame) String() string {
	text := frameKinds[f.kind].name + " frame"
	if frameKinds[f.kind].name == "" {
		text = fmt.Sprintf("frame of unknown kind %d", f.kind)
	}
	if f.number != 0 {
		text += fmt.Sprintf(" for request %d", f.number)
	}
	return text
}

// unexpected is the error of a frame that must not come at all.
func (f frame) unexpected() error { return protocolError("unexpected " + f.String()) }

// last says whether nothing more follows about the request.
func (f frame) last() bool {
	return f.kind == kindFailed || f.flags&flagLast != 0 && f.kind != kindMessage
}

// wire is the worker's end.
type wire struct {
	fd     int    // the socket
	pipe   int    // Python's frames come here; -1 if they come over the socket
	events uint32 // watched for
	eof    bool   // Python has closed its end

	in       []byte // in[at:] is received and not yet handled
	at       int
	frame    frame         // the one at hand
	marshal  marshalReader // its marshal
	tail     []byte        // the few bytes behind the marshal that its kind has, if not a body
	bodyLeft int           // bytes of its body that are still to come
	skip     int           // bytes of marshal before the body, too many to be read
	need     int           // bytes that the next frame's head and marshal lack
	taken    int           // how often something was received on the socket beside a pipe
	passed   int           // a descriptor whose frame is still to come, -1 for none
	file     int           // the descriptor of the frame at hand, -1 for none
	out      []byte        // waits for room on the socket
}

// receive takes what is on the wire into s.in: false when that is all. A
// descriptor that came along is kept in s.passed. It belongs to the last frame that
// begins there, as the kernel does not read on after one; and until that frame is
// there as a whole no more is read, so that no other descriptor comes.
func (s *wire) receive() (more bool, err error) {
	if s.at > 0 {
		n := copy(s.in[:cap(s.in)], s.in[s.at:])
		s.in, s.at = s.in[:n], 0
	}
	if s.full() {
		// Only a frame's head and marshal must be in memory as a whole.
		if cap(s.in) >= 2*metaMax {
			return false, protocolError("a frame's head and marshal do not fit into memory")
		}
		s.in = append(make([]byte, 0, 2*cap(s.in)), s.in...)
	}
	room, passed := s.in[len(s.in):cap(s.in)-s.spare()], -1
	if more = s.passed >= 0 && s.need > 0; more {
		room = room[:min(len(room), s.need)]
	}
	var n int
	var errno syscall.Errno
	if s.pipe < 0 {
		n, passed, errno = rawRecvmsg(s.fd, room)
	} else {
		n, errno = rawRead(s.pipe, room)
	}
	switch {
	case errno == unix.EAGAIN:
		return false, nil
	case errno != 0:
		return false, os.NewSyscallError("recvmsg", errno)
	case n == 0:
		s.eof = true
		return false, nil
	}
	if passed != -1 {
		s.keep(passed)
		more = true
	}
	s.in = s.in[:len(s.in)+n]
	return more || s.full(), nil
}

// keep takes note of a descriptor that has come, or was lost.
func (s *wire) keep(passed int) {
	if s.passed >= 0 {
		unix.Close(s.passed)
	}
	s.passed = max(passed, -1)
}

// full says whether there is no room to receive more.
func (s *wire) full() bool { return len(s.in) >= cap(s.in)-s.spare() }

// spare is room that is left for bodies that come apart.
func (s *wire) spare() int {
	if s.pipe < 0 {
		return 0
	}
	return wireRoom / 2
}

// take is the descriptor that has come along, -1 for none. A pipe takes none:
// it comes over the wire with a byte, before its frame comes here.
func (s *wire) take() (fd int) {
	if s.pipe >= 0 && s.passed < 0 {
		var b [1]byte
		if _, passed, errno := rawRecvmsg(s.fd, b[:]); errno == 0 {
			s.keep(passed)
			s.taken++
		}
	}
	fd, s.passed = s.passed, -1
	return fd
}

// openPipe makes the descriptor of the frame at hand the pipe.
func (s *wire) openPipe() error {
	fd := s.file
	var st unix.Stat_t
	if fd < 0 || s.pipe >= 0 || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return s.frame.unexpected()
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	// A user may have so many pages in all pipes: what is refused is not needed.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, wireRoom)
	s.pipe, s.file = fd, -1
	return nil
}

// next takes the next frame's head, marshal and tail, once they are in memory. A body is
// then taken by body.
func (s *wire) next() (ok bool, err error) {
	b := s.in[s.at:]
	if s.need = frameHeader - len(b); s.need > 0 {
		return false, nil
	}
	f := readFrame(b)
	if f.meta > f.length || int(f.length) < 0 { // of 32 bits
		return false, protocolError("impossible length of a " + f.String())
	}
	meta, tail := int(f.meta), frameKinds[f.kind].tail
	if s.skip = 0; meta > metaMax-frameHeader {
		meta, s.skip = 0, meta
	}
	if tail == anyLength || int(f.length-f.meta) != tail || s.skip > 0 {
		tail = 0
	}
	n := frameHeader + meta + tail
	if s.need = n - len(b); s.need > 0 {
		return false, nil
	}
	s.frame, s.bodyLeft = f, int(f.length-f.meta)-tail
	s.marshal = marshalReader{b: b[frameHeader : frameHeader+meta]}
	s.tail = b[frameHeader+meta : n]
	s.at += n
	return true, nil
}

// body takes what has come of the running frame's body; done when that was the
// end of it.
func (s *wire) body() (b []byte, done bool, err error) {
	if s.apart() {
		return s.bodyApart()
	}
	b = s.in[s.at:]
	if len(b) > s.bodyLeft {
		b = b[:s.bodyLeft]
	}
	s.at += len(b)
	s.bodyLeft -= len(b)
	return b, s.bodyLeft == 0, nil
}

// apart says whether the rest of the running frame comes over the wire while
// frames come through a pipe.
func (s *wire) apart() bool {
	return s.bodyLeft > 0 && s.skip == 0 && s.pipe >= 0 && s.frame.flags&flagApart != 0
}

// bodyApart takes what has come of such a body, into the part of the buffer that
// receive leaves free.
func (s *wire) bodyApart() (b []byte, done bool, err error) {
	b = s.in[len(s.in):cap(s.in)]
	n, errno := rawRead(s.fd, b[:min(s.bodyLeft, len(b))])
	switch {
	case errno == unix.EAGAIN:
		return nil, false, nil
	case errno != 0:
		return nil, false, os.NewSyscallError("read", errno)
	case n == 0:
		s.eof = true
	}
	s.taken++
	s.bodyLeft -= n
	return b[:n], s.bodyLeft == 0, nil
}

// write sends an answer at once. What the socket has no room for waits in out. Python
// asks for one answer at a time, so many that wait are its fault.
func (s *wire) write(f frame, payload []byte) error {
	if len(s.out) > 2*feedMax {
		return protocolError("it asks and does not take the answers")
	}
	var head [frameHeader]byte
	f.length = uint32(len(payload))
	if len(s.out) > 0 {
		s.out = append(f.append(s.out), payload...)
		return nil
	}
	n, errno := rawWritev(s.fd, f.append(head[:0]), payload)
	if errno != 0 && errno != unix.EAGAIN {
		return os.NewSyscallError("writev", errno)
	}
	if n < frameHeader {
		s.out = append(s.out, head[n:]...)
		n = frameHeader
	}
	s.out = append(s.out, payload[n-frameHeader:]...)
	return nil
}

// post has a frame written by the next flush.
func (s *wire) post(f frame, payload []byte) {
	f.length = uint32(len(payload))
	s.out = append(f.append(s.out), payload...)
}

// extend adds to the frame that begins at at, if that is the last on the wire and
// not under way: a message in a million fragments is not to be as many frames.
func (s *wire) extend(at int, f frame, payload []byte) bool {
	if at+frameHeader > len(s.out) {
		return false
	}
	head := s.out[at:]
	n := int(binary.LittleEndian.Uint32(head))
	if len(head) != frameHeader+n {
		return false
	}
	f.length = uint32(n + len(payload))
	f.append(head[:0])
	s.out = append(s.out, payload...)
	return true
}

// flush writes what waits in out, as far as there is room.
func (s *wire) flush() {
	if len(s.out) == 0 {
		return
	}
	n, errno := rawWrite(s.fd, s.out)
	if errno != 0 && errno != unix.EAGAIN {
		// Python does not read this wire any more: it would be ready for ever.
		s.out = nil
		return
	}
	s.out = append(s.out[:0], s.out[n:]...)
	if len(s.out) == 0 {
		s.out = nil
	}
}

// roomy says whether there is room for more than what must be said.
func (s *wire) roomy() bool { return len(s.out) < wireRoom }

// Python's marshal format -----------------------------------------------------

// Python's marshal format, version 2: the language of the frames between a
// worker and its Python, and of the settings both read. Version 2 has been
// stable since Python 2.4, has no back references, and is made and read by
// one C call on the other side. The writer appends and the reader slices:
// neither allocates for what a request needs.
//
// The types used: N None, T F bool, i int32, l long, u text (UTF-8),
// t the same interned, s bytes, ( tuple, [ list, { dict ended by 0, g float.

const (
	marshalDict    = '{' // followed by key, value pairs and marshalDictEnd
	marshalDictEnd = '0'
	marshalNone    = 'N'
)

// errMarshal is any input that is not what dumps(x, 2) writes.
var errMarshal = errors.New("malformed marshal data")

// marshalDepth bounds nesting: a worker's own frames need three levels, a
// settings file's dictionaries a few more.
const marshalDepth = 32

func appendMarshalBool(b []byte, v bool) []byte {
	if v {
		return append(b, 'T')
	}
	return append(b, 'F')
}

// appendMarshalInt writes an int, as a long of 15-bit digits when it does not
// fit 32 bits.
func appendMarshalInt(b []byte, v int64) []byte {
	if v == int64(int32(v)) {
		return binary.LittleEndian.AppendUint32(append(b, 'i'), uint32(v))
	}
	u := uint64(v)
	if v < 0 {
		u = -u
	}
	var digits [5]uint16
	n := 0
	for ; u > 0; u >>= 15 {
		digits[n] = uint16(u & 0x7fff)
		n++
	}
	size := int32(n)
	if v < 0 {
		size = -size
	}
	b = binary.LittleEndian.AppendUint32(append(b, 'l'), uint32(size))
	for _, d := range digits[:n] {
		b = binary.LittleEndian.AppendUint16(b, d)
	}
	return b
}

func appendMarshalBytes[T []byte | string](b []byte, v T) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, 's'), uint32(len(v)))
	return append(b, v...)
}

// appendMarshalText writes valid UTF-8 as str.
func appendMarshalText[T []byte | string](b []byte, v T) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, 'u'), uint32(len(v)))
	return append(b, v...)
}

// appendMarshalLatin writes bytes as the str of the same code points, which is
// how PEP 3333 hands the bytes of a request to Python.
func appendMarshalLatin[T []byte | string](b []byte, v T) []byte {
	at := len(b) + 1
	b = binary.LittleEndian.AppendUint32(append(b, 'u'), uint32(len(v)))
	b = appendLatin(b, v)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// appendLatin appends v, read as latin-1, as UTF-8. Nearly always that is v
// itself, so v is copied first and looked at afterwards.
func appendLatin[T []byte | string](b []byte, v T) []byte {
	at := len(b)
	b = append(b, v...)
	if isASCII(b[at:]) {
		return b
	}
	b = b[:at]
	for i := 0; i < len(v); i++ {
		b = utf8.AppendRune(b, rune(v[i]))
	}
	return b
}

func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// appendMarshalTuple and appendMarshalList open a sequence of n values, which
// the caller appends next.
func appendMarshalTuple(b []byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, '('), uint32(n))
}

func appendMarshalList(b []byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, '['), uint32(n))
}

// marshalReader takes values off the front of b. After the first error every
// read returns a zero value and err stays.
type marshalReader struct {
	b   []byte
	err error
}

func (r *marshalReader) fail() {
	r.b, r.err = nil, errMarshal
}

func (r *marshalReader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// kind returns the type byte of the next value, which stays where it is.
func (r *marshalReader) kind() byte {
	if r.err != nil || len(r.b) == 0 {
		r.fail()
		return 0
	}
	return r.b[0]
}

func (r *marshalReader) is(kinds ...byte) bool {
	k := r.kind()
	for _, want := range kinds {
		if k == want && r.err == nil {
			r.b = r.b[1:]
			return true
		}
	}
	r.fail()
	return false
}

func (r *marshalReader) bool() bool {
	v := r.kind() == 'T'
	r.is('T', 'F')
	return v
}

func (r *marshalReader) uint32() uint32 {
	v := r.take(4)
	if v == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(v)
}

func (r *marshalReader) uint64() uint64 {
	v := r.take(8)
	if v == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(v)
}

// sized reads a four-byte length and that many bytes.
func (r *marshalReader) sized() []byte {
	n := r.uint32()
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	return r.take(int(n))
}

// text returns the UTF-8 of a str. The slice shares the reader's memory.
func (r *marshalReader) text() []byte {
	if !r.is('u', 't') {
		return nil
	}
	v := r.sized()
	return v
}

func (r *marshalReader) bytes() []byte {
	if !r.is('s') {
		return nil
	}
	return r.sized()
}

// sequence opens a tuple or a list and returns its length. A value takes one
// byte at least, so a length that cannot be true is refused here and nobody
// allocates for it.
func (r *marshalReader) sequence() int {
	if !r.is('(', '[') {
		return 0
	}
	n := r.uint32()
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *marshalReader) int() int64 {
	switch {
	case r.kind() == 'i':
		r.is('i')
		return int64(int32(r.uint32()))
	case r.is('l'):
		return r.long()
	}
	return 0
}

// long reads digits of 15 bits, least significant first; the sign of their
// number is the sign of the value. What does not fit 64 bits is refused.
func (r *marshalReader) long() int64 {
	size := int32(r.uint32())
	n, negative := int(size), size < 0
	if negative {
		n = -n
	}
	if n > 5 {
		r.fail()
		return 0
	}
	var v uint64
	digits := r.take(2 * n)
	for i := n - 1; i >= 0 && digits != nil; i-- {
		d := uint64(binary.LittleEndian.Uint16(digits[2*i:]))
		if d > 0x7fff || v > math.MaxInt64>>15 {
			r.fail()
			return 0
		}
		v = v<<15 | d
	}
	if negative {
		return -int64(v)
	}
	return int64(v)
}

// unmarshal reads one value of any type: nil, bool, int64, float64, string,
// []byte, []any, or map[string]any. Nothing may follow it.
func unmarshal(b []byte) (any, error) {
	r := &marshalReader{b: b}
	v := r.value(0)
	if r.err == nil && len(r.b) != 0 {
		r.fail()
	}
	if r.err != nil {
		return nil, r.err
	}
	return v, nil
}

func (r *marshalReader) value(depth int) any {
	if depth > marshalDepth {
		r.fail()
		return nil
	}
	switch k := r.kind(); k {
	case 'N':
		r.is('N')
		return nil
	case 'T', 'F':
		r.is('T', 'F')
		return k == 'T'
	case 'i', 'l':
		return r.int()
	case 'g':
		r.is('g')
		if v := r.take(8); v != nil {
			return math.Float64frombits(binary.LittleEndian.Uint64(v))
		}
		return nil
	case 'u', 't':
		return string(r.text())
	case 's':
		return append([]byte{}, r.bytes()...)
	case '(', '[':
		list := []any{}
		for n := r.sequence(); n > 0 && r.err == nil; n-- {
			list = append(list, r.value(depth+1))
		}
		return list
	case '{':
		r.is('{')
		m := map[string]any{}
		for r.err == nil && r.kind() != marshalDictEnd {
			key := string(r.text())
			m[key] = r.value(depth + 1)
		}
		r.is(marshalDictEnd)
		return m
	}
	r.fail()
	return nil
}

// appendMarshal writes any value that unmarshal can return, and int.
func appendMarshal(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, marshalNone)
	case bool:
		return appendMarshalBool(b, v)
	case int:
		return appendMarshalInt(b, int64(v))
	case int64:
		return appendMarshalInt(b, v)
	case float64:
		return binary.LittleEndian.AppendUint64(append(b, 'g'), math.Float64bits(v))
	case string:
		return appendMarshalText(b, v)
	case []byte:
		return appendMarshalBytes(b, v)
	case []string:
		b = appendMarshalList(b, len(v))
		for _, s := range v {
			b = appendMarshalText(b, s)
		}
		return b
	case []any:
		b = appendMarshalList(b, len(v))
		for _, e := range v {
			b = appendMarshal(b, e)
		}
		return b
	case map[string]any:
		b = append(b, marshalDict)
		for k, e := range v {
			b = appendMarshal(appendMarshalText(b, k), e)
		}
		return append(b, marshalDictEnd)
	}
	panic(fmt.Sprintf("marshal: no form for %T", v))
}
