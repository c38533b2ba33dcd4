package main

// Frames between a worker and its Python: the table of frames, the wire on which they
// travel, and Python's marshal format, in which their contents are written.
//
// A wire joins a lane to one thread of Python and carries frames both ways over a socket.
// Python may make a pipe and pass the end for reading to the worker. From then on Python's
// frames come through the pipe, which takes less time than the socket. Descriptors come over
// the socket, and long bodies too, if they find no room in shared memory (shared.go).

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// frameHeader is the size of a frame's header: length of the payload (4 bytes), request
// number (4), length of the marshal at the front of the payload (4), kind (1), flags (1),
// and two bytes that are reserved, except in a REQUEST frame: there they are the length of
// the part of the marshal that the client's next request will probably share.
const frameHeader = 16

// Kinds of frames that only the worker sends. The table frameKinds has the rules of each.
const (
	kindRequest  = 1 + iota // environ, body
	kindIndirect            // a request whose environ is too long for a message: Python sends READ to get the environ
	kindBody                // answers kindRead
	kindOpen                // opens a lane: its number, with its descriptors
	kindAsk                 // asks the main thread whether it is alive
	kindLent                // answers kindSocket, with a descriptor
	kindRecord              // an access log's line that Python makes of a request that it has not answered: its parts, and the finished line as the worker would write it
)

// Kinds of frames that only Python sends.
const (
	kindReady    = 8 + iota // the application is loaded; with MORE, only its start-up has begun
	kindResponse            // status and headers of a response, and the start of its body
	kindBlock               // a further piece of a response's body
	kindFile                // a response whose body is part of a file: status and headers, offset, length; with the file's descriptor
	kindFailed              // the application has failed: the response ends here; Python has logged the traceback
	kindRead                // asks for a number of bytes of the request's body
	kindHints               // headers of an interim response 103
	kindWatch               // files that the application consists of, to be watched by --reload
	kindRetire              // a worker hook wants this worker to leave
	kindLogged              // Python writes this request's line of the access log, or its loggers want none; number 0: the application has changed the loggers
	kindHere                // answers kindAsk
	kindSocket              // asks for the client's socket
	kindPipe                // Python's frames come through this pipe from now on; with the pipe's descriptor
	kindLeft                // Python leaves this request, and those behind it in the same message, to the worker
	kindTail                // fields to send behind the response's body, over HTTP/2
)

// Kinds of frames that only streams have.
const (
	kindGone    = 32 + iota // the client has left, or the server closes its connection
	kindCredit              // the client has taken a number of bytes: as many more may be sent
	kindMessage             // a WebSocket message; from the client, a piece of a message
	kindAccept              // the application accepts the WebSocket
	kindShut                // the application closes the WebSocket
	kindTrailer             // fields after the response's body
	kindBye                 // the client closes the WebSocket; its earlier messages have all been passed on
)

// Flags of frames.
const (
	flagLast   = 1 << iota // the body ends with this frame
	flagMore               // the rest of the request's body has to be asked for
	flagBroken             // the body will never be complete
	flagQuiet              // of FAILED: close the connection without an error page
	flagClose              // close the connection after this response
	flagStacks             // write every thread's stack before the answer
	flagTaken              // the client's socket is the application's from now on
	flagPumped             // the descriptor is one end of a pump (handover.go), not the client's socket
)

// Flags whose bit has another meaning on other frames.
const (
	flagApart  = flagMore   // of RESPONSE and BLOCK: the head came through the pipe, the body follows on the socket, which is faster for large bodies
	flagShared = flagStacks // of REQUEST, RESPONSE and BLOCK: the body is in the memory of shared.go, at the place that follows the marshal
	flagText   = flagQuiet  // of MESSAGE: the message is text, not binary
	flagCrowd  = flagQuiet  // of a stream's REQUEST: Python runs at least gateway.crowd other requests
	flagExpect = flagLast   // of a stream's REQUEST: the client sends the body once READ has asked for it
)

// anyLength marks frames whose marshal is followed by a body of any length.
const anyLength = -1

// frameKind is a row of the table of frames.
type frameKind struct {
	name       string   // name of the constant in python/, which log lines use too
	only       *gateway // the only interface that has the frame; nil for all interfaces
	descriptor bool     // a descriptor comes along
	numbered   bool     // the frame bears a request's number, although it is about a lane
	tail       int      // number of bytes after the marshal, or anyLength

	when  func(t *turn) bool                               // reports whether the frame is legal for the request now; nil for always
	said  func(w *worker, t *turn, r *marshalReader) error // handles a frame about a request
	end   func(w *worker, t *turn)                         // handles the end of the frame's body
	aside func(w *worker, l *lane, r *marshalReader) error // handles a frame about the process or a lane
}

// frameKinds is the table of frames, by number. init fills it, because Go forbids an initial
// value whose functions refer to the variable.
var frameKinds [256]frameKind

func init() {
	frameKinds = [256]frameKind{
		kindRequest:  {name: "REQUEST", tail: anyLength},
		kindIndirect: {name: "INDIRECT"},
		kindBody:     {name: "BODY", tail: anyLength},
		kindOpen:     {name: "OPEN", descriptor: true},
		kindAsk:      {name: "ASK"},
		kindLent:     {name: "LENT", descriptor: true},
		kindRecord:   {name: "RECORD", tail: anyLength},

		kindReady:    {name: "READY", aside: (*worker).pythonReady},
		kindResponse: {name: "RESPONSE", tail: anyLength, when: (*turn).unanswered, said: (*worker).response, end: (*worker).endPart},
		kindBlock:    {name: "BLOCK", tail: anyLength, when: (*turn).answering, said: (*worker).beginBlock, end: (*worker).endPart},
		kindFile:     {name: "FILE", descriptor: true, tail: 16, when: (*turn).unanswered, said: (*worker).attach},
		kindFailed:   {name: "FAILED", said: (*worker).failed},
		kindRead:     {name: "READ", tail: 4, said: (*worker).demand},
		kindHints:    {name: "HINTS", said: (*worker).hints},
		kindWatch:    {name: "WATCH", aside: (*worker).watchFiles},
		kindRetire:   {name: "RETIRE", aside: (*worker).askedToRetire},
		kindLogged:   {name: "LOGGED", said: (*worker).loggedInPython, aside: (*worker).loggersChanged},
		kindHere:     {name: "HERE", aside: (*worker).pythonHere},
		kindSocket:   {name: "SOCKET", only: &wsgi, when: (*turn).ownsSocket, said: (*worker).lendSocket},
		kindPipe:     {name: "PIPE", descriptor: true, aside: (*worker).listenToPipe},
		kindLeft:     {name: "LEFT", only: &wsgi, numbered: true, aside: (*worker).leftOf},
		kindTail:     {name: "TAIL", only: &wsgi, said: (*worker).tail},

		kindGone:    {name: "GONE", only: &asgi},
		kindCredit:  {name: "CREDIT", only: &asgi},
		kindMessage: {name: "MESSAGE", only: &asgi, tail: anyLength, when: (*turn).talks, said: (*worker).beginMessage, end: (*worker).endMessage},
		kindAccept:  {name: "ACCEPT", only: &asgi, when: (*turn).greets, said: (*worker).agree},
		kindShut:    {name: "SHUT", only: &asgi, when: (*turn).talks, said: (*worker).shut},
		kindTrailer: {name: "TRAILER", only: &asgi, when: (*turn).answering, said: (*worker).trailerSection},
		kindBye:     {name: "BYE", only: &asgi},
	}
}

// The states of a turn in which frames are legal.
func (t *turn) unanswered() bool { return !t.started && !t.taken }
func (t *turn) answering() bool  { return t.started && t.talk == nil }
func (t *turn) ownsSocket() bool { return !t.taken }
func (t *turn) greets() bool     { return t.hello != nil && !t.started }
func (t *turn) talks() bool      { return t.talk != nil }

// protocolError is a fault after which the Python is given up, with all requests that run
// there: bytes that are no frame, or a frame with a number that no request has had. Its
// text is the reason in the log.
type protocolError string

func (e protocolError) Error() string { return string(e) }

// wrongFrame is a fault that ends one request: a frame that is not legal at this moment, or
// whose marshal cannot be read. Its text is the reason in the log.
type wrongFrame string

func (e wrongFrame) Error() string { return string(e) }

// frame is the header of a frame.
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

// unexpected is the error about a frame that must not come at all.
func (f frame) unexpected() error { return protocolError("unexpected " + f.String()) }

// last reports whether this frame is the last about its request.
func (f frame) last() bool {
	return f.kind == kindFailed || f.flags&flagLast != 0 && f.kind != kindMessage
}

// wire is the worker's end of a wire.
type wire struct {
	fd     int    // the socket
	pipe   int    // the pipe for Python's frames; -1 if they come over the socket
	events uint32 // events of epoll that the loop watches the socket for

	ring     ring   // where Python puts long bodies
	inRing   bool   // the body of the frame at hand is in the ring
	in       []byte // in[at:] is received and not yet handled
	at       int
	frame    frame         // header of the frame at hand
	marshal  marshalReader // marshal of the frame at hand
	tail     []byte        // bytes after the marshal of the frame at hand, if its kind has a fixed number of them
	bodyLeft int           // bytes of the body of the frame at hand that have not been handled
	skip     int           // bytes of an overlong marshal that remain to be skipped
	need     int           // bytes missing from the next frame's header and marshal
	taken    int           // number of receptions on the socket while frames come through the pipe
	passed   int           // a received descriptor whose frame has not come yet, -1 for none
	file     int           // descriptor of the frame at hand, -1 for none
	out      []byte        // frames that wait for room on the socket
}

// receive reads from the wire into s.in, and reports whether there may be more to read. A
// descriptor that comes along is kept in s.passed. The descriptor belongs to the last frame
// that begins in the bytes received, because the kernel ends a read at a descriptor. No
// bytes beyond that frame are read until it is complete, so that no second descriptor comes
// before.
func (s *wire) receive() (more bool, err error) {
	if s.at > 0 {
		n := copy(s.in[:cap(s.in)], s.in[s.at:])
		s.in, s.at = s.in[:n], 0
	}
	if len(s.in) >= s.limit() {
		// Only a frame's header and marshal, metaMax bytes at most, must be in memory as a
		// whole, so the buffer grows for nothing else.
		s.in = append(make([]byte, 0, 2*cap(s.in)), s.in...)
	}
	room, passed := s.in[len(s.in):s.limit()], -1
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
		return false, io.EOF // Python has closed its end
	}
	if passed != -1 {
		s.keep(passed)
		more = true
	}
	s.in = s.in[:len(s.in)+n]
	return more || len(s.in) >= s.limit(), nil
}

// keep stores a descriptor that has come; a negative number means that it was lost.
func (s *wire) keep(passed int) {
	if s.passed >= 0 {
		unix.Close(s.passed)
	}
	s.passed = max(passed, -1)
}

// limit is the part of the buffer that receive fills. The rest is for bodies that come over
// the socket (bodyApart).
func (s *wire) limit() int {
	if s.pipe < 0 {
		return cap(s.in)
	}
	return cap(s.in) - wireRoom/2
}

// take returns the descriptor that has come with the frame at hand, -1 for none. A pipe
// cannot pass descriptors: Python sends them over the socket, with one byte each, before
// the frame comes through the pipe.
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

// openPipe makes the descriptor of the frame at hand the wire's pipe.
func (s *wire) openPipe() error {
	fd := s.file
	var st unix.Stat_t
	if fd < 0 || s.pipe >= 0 || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return s.frame.unexpected()
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	// The kernel bounds the pages that a user may have in pipes. The pipe works at its
	// present size too, so a refusal is ignored.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, wireRoom)
	s.pipe, s.file = fd, -1
	return nil
}

// next takes the next frame's header, marshal and tail, once they are in memory. The method
// body then takes the frame's body.
func (s *wire) next() (ok bool, err error) {
	b := s.in[s.at:]
	if s.need = frameHeader - len(b); s.need > 0 {
		return false, nil
	}
	f := readFrame(b)
	if f.meta > f.length || int(f.length) < 0 { // negative if an int has 32 bits
		return false, protocolError("impossible length of a " + f.String())
	}
	meta, tail := int(f.meta), frameKinds[f.kind].tail
	if s.skip = 0; meta > metaMax-frameHeader {
		meta, s.skip = 0, meta
	}
	s.inRing = tail == anyLength && f.flags&flagShared != 0 && s.skip == 0
	switch {
	case s.inRing:
		tail = placeSize
	case tail == anyLength, int(f.length-f.meta) != tail, s.skip > 0:
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
	if s.inRing {
		s.ring.at, s.bodyLeft = binary.LittleEndian.Uint32(s.tail), int(binary.LittleEndian.Uint32(s.tail[4:]))
		if f.length != f.meta+placeSize || s.bodyLeft < 0 || s.bodyLeft > len(s.ring.memory) {
			return false, protocolError("impossible place of a " + f.String())
		}
	}
	return true, nil
}

// body takes as much of the body of the frame at hand as has come.
func (s *wire) body() (b []byte, err error) {
	switch {
	case s.apart():
		return s.bodyApart()
	case s.inRing:
		b = s.ring.next(s.bodyLeft)
	default:
		b = s.in[s.at:]
		b = b[:min(len(b), s.bodyLeft)]
		s.at += len(b)
	}
	s.bodyLeft -= len(b)
	return b, nil
}

// apart reports whether the rest of the frame at hand comes over the socket, although frames
// come through a pipe.
func (s *wire) apart() bool {
	return s.bodyLeft > 0 && s.skip == 0 && s.pipe >= 0 && s.frame.flags&flagApart != 0
}

// bodyApart reads the body of the frame at hand from the socket, into the part of the buffer
// that receive leaves free.
func (s *wire) bodyApart() (b []byte, err error) {
	b = s.in[len(s.in):cap(s.in)]
	n, errno := rawRead(s.fd, b[:min(s.bodyLeft, len(b))])
	switch {
	case errno == unix.EAGAIN:
		return nil, nil
	case errno != 0:
		return nil, os.NewSyscallError("read", errno)
	case n == 0:
		return nil, io.EOF
	}
	s.taken++
	s.bodyLeft -= n
	return b[:n], nil
}

// write sends an answer at once. Bytes for which the socket has no room wait in out. Python
// asks for one answer at a time; if many answers wait, Python is at fault.
func (s *wire) write(f frame, payload []byte) error {
	if len(s.out) > 2*feedMax {
		return protocolError("Python asks and does not take the answers")
	}
	var room [frameHeader]byte
	f.length = uint32(len(payload))
	head, n := f.append(room[:0]), 0
	if len(s.out) == 0 {
		var errno syscall.Errno
		if n, errno = rawWritev(s.fd, head, payload); errno != 0 && errno != unix.EAGAIN {
			return os.NewSyscallError("writev", errno)
		}
	}
	s.out = append(s.out, head[min(n, frameHeader):]...)
	s.out = append(s.out, payload[max(n-frameHeader, 0):]...)
	return nil
}

// post queues a frame for the next flush.
func (s *wire) post(f frame, payload []byte) {
	f.length = uint32(len(payload))
	s.out = append(f.append(s.out), payload...)
}

// extend adds payload to the queued frame that begins at out[at], if that frame is the last
// in out and no byte of it has been sent. Without this, a message in a million fragments
// would become a million frames.
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

// flush writes the bytes in out, as far as the socket has room.
func (s *wire) flush() {
	if len(s.out) == 0 {
		return
	}
	n, errno := rawWrite(s.fd, s.out)
	if errno != 0 && errno != unix.EAGAIN {
		// Python has closed the wire. With bytes left in out, epoll would
		// report the socket as writable for ever.
		s.out = nil
		return
	}
	s.out = append(s.out[:0], s.out[n:]...)
	if len(s.out) == 0 {
		s.out = nil
	}
}

// roomy reports whether frames that can wait may be posted. Frames that cannot wait are
// posted in any case.
func (s *wire) roomy() bool { return len(s.out) < wireRoom }

// Python's marshal format -----------------------------------------------------

// Frames and settings are written in Python's marshal format, version 2. This version has
// been stable since Python 2.4, has no back references, and Python reads and writes it with
// one C call. The writer here appends and the reader slices, so that neither allocates for
// a request.
//
// The types used: N None, T F bool, i int32, l long, u text (UTF-8),
// t the same interned, s bytes, ( tuple, [ list, { dict ended by 0, g float.

const (
	marshalDict    = '{' // followed by key, value pairs and marshalDictEnd
	marshalDictEnd = '0'
	marshalNone    = 'N'
)

// errMarshal is the error about input that marshal.dumps(x, 2) would not write.
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

// appendMarshalInt writes an int. A value that does not fit into 32 bits becomes a long of
// 15-bit digits, the least significant first; the sign of their count is that of the value.
func appendMarshalInt(b []byte, v int64) []byte {
	if v == int64(int32(v)) {
		return appendCount(b, 'i', int(v))
	}
	u, sign := uint64(v), 1
	if v < 0 {
		u, sign = -u, -1
	}
	b = appendCount(b, 'l', sign*(bits.Len64(u)+14)/15)
	for ; u > 0; u >>= 15 {
		b = binary.LittleEndian.AppendUint16(b, uint16(u&0x7fff))
	}
	return b
}

// appendCount appends a type and the number that follows most types, in 32 bits.
func appendCount(b []byte, kind byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, kind), uint32(n))
}

// appendMarshalTuple opens a tuple of n values, which the caller appends next.
func appendMarshalTuple(b []byte, n int) []byte { return appendCount(b, '(', n) }

// appendMarshalList opens a list of n values, which the caller appends next.
func appendMarshalList(b []byte, n int) []byte { return appendCount(b, '[', n) }

func appendMarshalBytes[T []byte | string](b []byte, v T) []byte {
	return append(appendCount(b, 's', len(v)), v...)
}

// appendMarshalText writes valid UTF-8 as str.
func appendMarshalText[T []byte | string](b []byte, v T) []byte {
	return append(appendCount(b, 'u', len(v)), v...)
}

// appendMarshalLatin writes bytes as a str of the same code points, the form in which
// PEP 3333 passes the bytes of a request to the application.
func appendMarshalLatin[T []byte | string](b []byte, v T) []byte {
	at := len(b) + 1
	b = appendLatin(appendCount(b, 'u', 0), v)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// appendLatin converts v from latin-1 to UTF-8 and appends the result. Nearly always v is
// ASCII and stays the same, so v is copied first and checked afterwards.
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

// marshalReader takes values off the front of b. After the first error, err stays set and
// every read returns a zero value.
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

// kind returns the type byte of the next value without taking it.
func (r *marshalReader) kind() byte {
	if r.err != nil || len(r.b) == 0 {
		r.fail()
		return 0
	}
	return r.b[0]
}

// is takes the type byte of the next value, which must be one of kinds.
func (r *marshalReader) is(kinds string) bool {
	if kind := r.kind(); r.err != nil || kind != kinds[0] && strings.IndexByte(kinds[1:], kind) < 0 {
		r.fail()
		return false
	}
	r.b = r.b[1:]
	return true
}

func (r *marshalReader) bool() bool {
	v := r.kind() == 'T'
	return r.is("TF") && v
}

func (r *marshalReader) uint32() uint32 {
	if v := r.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

// sized reads a value of one of these types: a length of four bytes and as many bytes as
// the length says. The slice shares the reader's memory.
func (r *marshalReader) sized(kinds string) []byte {
	if !r.is(kinds) {
		return nil
	}
	return r.take(int(r.uint32()))
}

// text returns the UTF-8 of a str.
func (r *marshalReader) text() []byte { return r.sized("ut") }

func (r *marshalReader) bytes() []byte { return r.sized("s") }

// sequence opens a tuple or a list and returns its length. Each value takes at least one
// byte, so a length that exceeds the remaining input is refused before anybody allocates
// memory for it.
func (r *marshalReader) sequence() int {
	if !r.is("([") {
		return 0
	}
	n := r.uint32()
	if uint64(n) > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

// int reads an int or a long (appendMarshalInt). A value that does not fit into 64 bits is
// refused.
func (r *marshalReader) int() int64 {
	kind := r.kind()
	if !r.is("il") {
		return 0
	}
	n := int64(int32(r.uint32()))
	if kind == 'i' {
		return n
	}
	sign := int64(1)
	if n < 0 {
		n, sign = -n, -1
	}
	if n > 5 {
		r.fail()
		return 0
	}
	var v uint64
	digits := r.take(2 * int(n))
	for len(digits) > 0 {
		d := uint64(binary.LittleEndian.Uint16(digits[len(digits)-2:]))
		if d > 0x7fff || v > math.MaxInt64>>15 {
			r.fail()
			return 0
		}
		v, digits = v<<15|d, digits[:len(digits)-2]
	}
	return sign * int64(v)
}

// unmarshal reads one value of any type: nil, bool, int64, float64, string,
// []byte, []any, or map[string]any. Input after the value is an error.
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
	switch r.kind() {
	case marshalNone:
		r.is("N")
		return nil
	case 'T', 'F':
		return r.bool()
	case 'i', 'l':
		return r.int()
	case 'g':
		if v := r.take(9); v != nil {
			return math.Float64frombits(binary.LittleEndian.Uint64(v[1:]))
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
	case marshalDict:
		m := map[string]any{}
		for r.is("{"); r.err == nil && r.kind() != marshalDictEnd; {
			key := string(r.text())
			m[key] = r.value(depth + 1)
		}
		r.is("0")
		return m
	}
	r.fail()
	return nil
}

// appendMarshal writes any value that unmarshal can return, and int.
func appendMarshal(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil, callable:
		return append(b, marshalNone)
	case address:
		return appendMarshalText(b, v.String())
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
	case dict:
		b = append(b, marshalDict)
		for _, e := range v {
			b = appendMarshal(appendMarshal(b, e.key), e.value)
		}
		return append(b, marshalDictEnd)
	}
	panic(fmt.Sprintf("marshal: no form for %T", v))
}
