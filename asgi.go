package main

// ASGI: one lane carries all requests of a worker at once. Each is a stream,
// known by its number, and its application is a task in Python's event loop
// (asgi.py). A request comes to Python through the queue, as with any lane, and
// can be taken back from there when the loop is blocked; all else goes over the
// wire.
//
// The wire is never choked for the sake of one client. What Python may have
// sent of a stream beyond what its client has taken is bounded by a window
// instead, and so is what it is sent of a request's body, or of a WebSocket's
// messages, beyond what its application has taken.

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kinds of frames that only streams have.
const (
	kindGone    = 32 + iota // to Python: the client has left, or has to
	kindCredit              // to Python: the client has taken so many bytes
	kindMessage             // both ways: a message, or from the client a piece of one
	kindAccept              // the application wants the WebSocket
	kindShut                // and wants it no more
	kindTrailer             // fields after the body
	kindBye                 // to Python: the client closes the WebSocket, after what came before this
)

// Flags that mean something else on the frames of streams.
const (
	flagText  = flagQuiet // of a message
	flagCrowd = flagQuiet // of a request: Python has at least crowd others
)

const (
	crowd       = 4         // requests from which on it is better to do several and then answer them
	window      = 256 << 10 // bytes of a stream that one side may send ahead; asgi.py has it too
	messageCost = 64        // what a message's frame counts for beside its bytes
	pongsMax    = 4 << 10   // bytes for a client that does not read: then only its latest ping is answered
	deflateMin  = 128       // shorter messages do not become shorter
)

const (
	blockedAfter = 20 * time.Millisecond // without a sign of life of a loop that has a request to receive
	partingMax   = 3 * time.Second       // of the grace period, for what is told to leave
	shutLimit    = 5 * time.Second       // after that, on a reload
	answerLimit  = 5 * time.Second       // for an application to take what a client has sent before it closed
)

// talk is what a connection has more when it is a WebSocket.
type talk struct {
	decoder *wsDecoder
	deflate bool
	heard   int64 // when the client was last heard of
	pinged  int64 // and was asked for a sign of life, 0 if it need not give one

	within  bool     // a frame to the client, which is sent in pieces
	ping    []byte   // the latest, as long as it cannot be answered; nil for none
	bye     *wsError // the client's close frame, as long as that has no answer
	byeBy   int64    // which it gets then, at the latest
	closing *wsError // what to close with when the frame is complete
}

// Streams of a lane ----------------------------------------------------------

// received notes that Python has received the request with that number, and
// with it all before.
func (l *lane) received(number uint32) {
	n := 0
	for n < len(l.unread) && int32(l.unread[n]-number) <= 0 {
		n++
	}
	if n > 0 {
		l.unread = l.unread[:copy(l.unread, l.unread[n:])]
	}
}

// inPython are the connections whose requests Python has, the oldest first.
func (l *lane) inPython() (list []*conn) {
	if l.streams == nil {
		return slices.Clone(l.flight)
	}
	for _, number := range slices.Sorted(maps.Keys(l.streams)) {
		if c := l.streams[number]; c != nil {
			list = append(list, c)
		}
	}
	return list
}

// eldest is the connection whose request has run for longest, nil for none.
// WebSockets are not meant unless there is nothing else.
func (l *lane) eldest() (eldest *conn) {
	if l.streams == nil {
		return l.running()
	}
	for _, c := range l.streams {
		if c != nil && (eldest == nil || eldest.talk != nil && c.talk == nil ||
			(eldest.talk == nil) == (c.talk == nil) && c.begun < eldest.begun) {
			eldest = c
		}
	}
	return eldest
}

// blocked looks whether Python's loop still receives requests. If it does not,
// those that wait for it are served by siblings.
func (w *worker) blocked(l *lane) {
	first := l.unread[0]
	if head, ok := l.queued(); ok {
		l.received(head - 1)
	} else {
		l.unread = l.unread[:0]
	}
	if l.patience = w.now; len(l.unread) == 0 || l.unread[0] != first || w.alone {
		return
	}
	l.stalled = true
	w.giveBack(l)
	w.askFor(0) // the answer ends it
}

// post has a frame written to Python at the end of this turn of the loop.
func (w *worker) post(l *lane, f frame, payload []byte) {
	if l.python.closed {
		return
	}
	f.length = uint32(len(payload))
	l.out = append(f.append(l.out), payload...)
}

// roomy says whether there is room for more than what must be said.
func (l *lane) roomy() bool { return len(l.out) < wireRoom }

// flushStreams writes what has been posted, and lets those go on that had to
// wait for it.
func (w *worker) flushStreams() {
	l := w.python.lanes[0]
	for l.streams != nil && len(l.out) > 0 {
		l.flush()
		w.watchWire(l)
		if len(l.thirsty) == 0 || !l.roomy() {
			return
		}
		thirsty := l.thirsty
		l.thirsty = nil
		for _, c := range thirsty {
			c.thirsty = false
			if c.lane == l {
				w.feed(c)
			}
		}
	}
}

// awaitRoom has c fed when the wire has room again.
func (l *lane) awaitRoom(c *conn) {
	if !c.thirsty {
		c.thirsty = true
		l.thirsty = append(l.thirsty, c)
	}
}

// credit tells Python what its client has taken, once that is worth a frame.
func (w *worker) credit(c *conn) {
	l := c.lane
	if l == nil || c.owed < window/2 || c.fd >= 0 && len(c.out)-c.outAt >= window/2 {
		return
	}
	w.post(l, frame{number: c.number, kind: kindCredit, meta: uint32(c.owed)}, nil)
	c.owed = 0
}

// tellGone tells the application that its client has left. Its task is
// cancelled after grace; asgi_disconnect_grace_period counts when that is
// negative.
func (w *worker) tellGone(c *conn, code uint16, reason string, grace time.Duration) {
	w.postGone(c, kindGone, code, reason, grace)
}

func (w *worker) postGone(c *conn, kind byte, code uint16, reason string, grace time.Duration) {
	b := appendMarshalTuple(w.fbuf[:0], 3)
	b = appendMarshalInt(b, int64(code))
	b = appendMarshalText(b, strings.ToValidUTF8(reason, "\uFFFD"))
	if grace > 0 {
		grace /= time.Millisecond
	}
	b = appendMarshalInt(b, int64(grace))
	w.fbuf = b[:0]
	w.post(c.lane, frame{number: c.number, kind: kind}, b)
}

// bury leaves nothing of a stream but its number, which Python still uses: its
// connection goes its own way.
func (l *lane) bury(c *conn) {
	l.streams[c.number] = nil
	if l.owner == c {
		l.owner = nil
	}
	c.lane = nil
}

// overdueStream answers in place of an application that has not begun to.
func (w *worker) overdueStream(c *conn) {
	w.log.errorf("Request timeout (pid:%d): %s from %s has run for %v and is cancelled", w.pid, c.line(), c.peer.remoteAddr,
		time.Duration(w.now-c.begun).Round(time.Second))
	increase(&w.slot.counters.failures, 1)
	w.tellGone(c, 1006, "", 0)
	c.lane.bury(c)
	w.answerFor(c, newBadRequest(504, "", ""))
}

// The end of the grace period ------------------------------------------------

// partLater sets when streams that do not end by themselves are told to. On a
// stop that is early enough for them to obey before the arbiter's patience ends.
func (w *worker) partLater(reload bool) {
	if w.python.lanes[0].streams == nil {
		return
	}
	grace := w.cfg.gracefulTimeout
	w.parting = min(partingMax, grace/3)
	if reload {
		w.parting = shutLimit
	} else {
		grace -= w.parting
		if n := len(w.python.lanes[0].streams); n > 0 && !w.ending {
			w.log.infof("Waiting for %d connections to finish...", n)
		}
	}
	if at := w.now + int64(grace); w.partAt == 0 || at < w.partAt {
		w.partAt = at
	}
}

// partAll tells every stream that its time is over. WebSockets are closed with a
// code that says what their clients may expect; other applications hear that
// their client has left, and what they still say is heard.
func (w *worker) partAll() {
	code := uint16(1001)
	if !w.ending {
		code = 1012
	}
	w.partAt = 0
	list := w.python.lanes[0].inPython()
	if len(list) > 0 {
		w.log.warningf("Forcing close of %d connections", len(list))
	}
	for _, c := range list {
		switch {
		case c.fd < 0 || c.lane == nil:
		case c.talk != nil:
			w.tellGone(c, code, "", w.parting/3)
			w.endTalk(c, code, "")
		default:
			w.tellGone(c, code, "", w.parting/3)
		}
	}
	if w.deadline == 0 {
		w.deadline = w.now + int64(w.parting)
	}
}

// Requests -------------------------------------------------------------------

// appendScope appends what asgi.py makes a scope of.
func (w *worker) appendScope(b []byte, c *conn) []byte {
	r, e := c.req, &c.peer
	scheme := "http"
	if e.https && !r.schemeGiven || r.https {
		scheme = "https"
	}
	b = appendMarshalTuple(b, 11)
	if c.hello == nil {
		b = append(b, marshalNone)
	} else {
		scheme = "ws" + scheme[len("http"):]
		b = appendMarshalList(b, len(c.hello.protocols))
		for _, p := range c.hello.protocols {
			b = appendMarshalLatin(b, p)
		}
	}
	b = appendMarshalText(b, "1."+strconv.Itoa(r.minor))
	b = appendMarshalText(b, r.method)
	b = append(b, 's', 0, 0, 0, 0)
	at := len(b)
	b = appendUnquoted(b, r.path)
	binary.LittleEndian.PutUint32(b[at-4:], uint32(len(b)-at))
	if utf8.Valid(b[at:]) {
		b[at-5] = 'u' // Python replaces what is no text
	}
	b = appendMarshalBytes(b, r.path)
	b = appendMarshalBytes(b, r.query)
	b = appendMarshalList(b, len(r.fields))
	trailers := false
	for i := range r.fields {
		f := &r.fields[i]
		b = appendMarshalTuple(b, 2)
		b = appendMarshalBytes(b, f.name)
		for i, ch := range b[len(b)-len(f.name):] {
			if 'A' <= ch && ch <= 'Z' {
				b[len(b)-len(f.name)+i] = ch + 'a' - 'A'
			}
		}
		b = appendMarshalBytes(b, f.value)
		trailers = trailers || len(f.name) == 2 && foldEqual(f.name, "TE") && bytes.Contains(f.value, []byte("trailers"))
	}
	b = w.appendClient(b, c)
	switch {
	case e.unix && e.serverName == "":
		b = append(b, marshalNone)
	case e.unix:
		b = append(appendMarshalLatin(appendMarshalTuple(b, 2), e.serverName), marshalNone)
	default:
		b = appendHostPort(b, e.serverName, e.serverPort)
	}
	b = appendMarshalText(b, scheme)
	return appendMarshalBool(b, trailers && r.minor > 0)
}

func appendHostPort(b []byte, host, port string) []byte {
	n, _ := strconv.Atoi(port)
	return appendMarshalInt(appendMarshalText(appendMarshalTuple(b, 2), host), int64(n))
}

// appendClient appends the client's address. Under uvicorn's classes it is the
// one that a trusted proxy tells, as there: the last that is not trusted.
func (w *worker) appendClient(b []byte, c *conn) []byte {
	if w.cfg.proxied() && c.trusted {
		for i := len(c.req.fields) - 1; i >= 0; i-- {
			f := &c.req.fields[i]
			if len(f.name) != len("X-FORWARDED-FOR") || !foldEqual(f.name, "X-FORWARDED-FOR") {
				continue
			}
			hosts, host := strings.Split(string(f.value), ","), ""
			for j := len(hosts) - 1; j >= 0; j-- {
				host = strings.TrimSpace(hosts[j])
				if addr, err := netip.ParseAddr(host); err != nil || !w.cfg.forwardedAllowIPs.has(addr) {
					break
				}
			}
			if host != "" {
				return appendMarshalInt(appendMarshalLatin(appendMarshalTuple(b, 2), host), 0)
			}
		}
	}
	if c.peer.remotePort == "" {
		return append(b, marshalNone) // a unix socket's
	}
	return appendHostPort(b, c.peer.remoteAddr, c.peer.remotePort)
}

// greetSocket looks whether a request asks for a WebSocket: false when it asks
// in a way that is refused.
func (w *worker) greetSocket(c *conn) bool {
	h, asked, bad := websocketHandshake(c.req)
	if bad != nil {
		w.refuse(c, bad)
		return false
	}
	if asked {
		h.deflate = h.deflate && w.cfg.wsPerMessageDeflate == "on"
		c.hello = &h
	}
	return true
}

// trailerSection ends a chunked body with fields.
func (w *worker) trailerSection(c *conn, r *marshalReader) error {
	if !c.started || c.talk != nil {
		return wrongFrame("trailers without a head")
	}
	good := true
	w.text, w.resp.fields = w.text[:0], w.resp.fields[:0]
	w.readFields(r, &good)
	w.outFor(c)
	if c.framing.chunked && !c.refused {
		b := append(w.obuf, "0\r\n"...)
		if !good {
			w.log.errorf("Error in trailers of %s: %v", c.line(), errBadType)
			w.resp.fields = nil
		}
		for _, f := range w.resp.fields {
			value := trimBlanks(f.value)
			if checkField(f.name, value) != nil || forbiddenTrailer(f.name) || kindOf(f.name) != plainField {
				w.log.errorf("Error in trailers of %s: invalid header name: %q", c.line(), f.name)
				break
			}
			b = appendField(b, f.name, value)
		}
		w.obuf = append(b, "\r\n"...)
	}
	w.flushOut()
	w.complete(c)
	return nil
}

// WebSockets -----------------------------------------------------------------

// agree answers the handshake as the application wants it.
func (w *worker) agree(c *conn, r *marshalReader) error {
	if c.hello == nil || c.started {
		return wrongFrame("a WebSocket where there is none")
	}
	good := r.sequence() == 2
	w.text, w.resp.fields = w.text[:0], w.resp.fields[:0]
	protocol := w.readText(r, &good)
	w.readFields(r, &good)
	if !good {
		return wrongFrame(errBadType.Error())
	}
	w.outFor(c)
	b := append(w.obuf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = append(append(b, c.hello.accept[:]...), "\r\n"...)
	if c.hello.deflate {
		b = append(c.hello.appendExtension(append(b, "Sec-WebSocket-Extensions: "...)), "\r\n"...)
	}
	if len(protocol) > 0 {
		w.resp.fields = append(w.resp.fields, field{[]byte("Sec-WebSocket-Protocol"), protocol})
	}
	b = w.appendOwnFields(b)
	for _, f := range w.resp.fields {
		value := trimBlanks(f.value)
		if err := checkField(f.name, value); err != nil {
			return wrongFrame(err.Error())
		}
		if kind := kindOf(f.name); kind == plainField || kind == hopField {
			b = appendField(b, f.name, value)
		}
	}
	w.obuf = append(b, "\r\n"...)
	c.started, c.keep = true, false
	c.status = append(c.status[:0], "101"...)
	c.framing = framing{code: 101, length: -1}
	c.talk = &talk{decoder: newWSDecoder(w.cfg.wsMaxSize, c.hello.deflate, &w.sockets), deflate: c.hello.deflate, heard: w.now}
	c.hello = nil
	w.talks++
	if rest := c.in[c.next:]; len(rest) > 0 {
		w.makeRoom(c, len(rest))
		c.body = append(c.body, rest...)
	}
	c.asked, c.want = true, window
	w.hear(c)
	return nil
}

// appendOwnFields appends Server and Date, where the application gives none.
func (w *worker) appendOwnFields(b []byte) []byte {
	if !w.resp.has("SERVER") {
		b = append(append(b, cmp.Or(w.server, "Server: gunicorn")...), "\r\n"...)
	}
	if !w.resp.has("DATE") {
		b = append(append(append(b, "Date: "...), w.clock.httpDate()...), "\r\n"...)
	}
	return b
}

// hear takes what a WebSocket's client says, as far as the application has taken
// what came before.
func (w *worker) hear(c *conn) {
	defer w.weigh(c)
	piece := -1 // where on the wire its latest frame begins, while more can be added to that
	for turn := 0; c.fd >= 0 && c.lane != nil; {
		if c.want <= 0 || c.talk.bye != nil {
			return
		}
		if !c.lane.roomy() {
			c.lane.awaitRoom(c)
			return
		}
		n, e, bad := c.talk.decoder.next(c.body[c.fed:])
		c.fed += n
		turn += n
		if bad != nil {
			w.log.debugf("Closing connection. %s from ip=%s: %s", c.line(), c.peer.remoteAddr, bad.text)
			w.tellGone(c, bad.code, bad.text, -1)
			w.endTalk(c, bad.code, bad.text)
			return
		}
		switch e.kind {
		case wsData:
			f := frame{number: c.number, kind: kindMessage}
			if e.text {
				f.flags |= flagText
			}
			if e.last {
				f.flags |= flagLast
			}
			if piece >= 0 && c.lane.extend(piece, f, e.payload) {
				c.want -= len(e.payload)
			} else {
				piece = len(c.lane.out)
				w.post(c.lane, f, e.payload)
				c.want -= len(e.payload) + messageCost
			}
			if e.last {
				piece = -1
			}
		case wsPing:
			if w.takesPong(c) {
				c.talk.ping = nil
				w.control(c, opPong, e.payload)
			} else {
				c.talk.ping = append([]byte{}, e.payload...)
			}
		case wsClose:
			// Its answer comes when the application has had what came before, so
			// that what it says to that is not lost. Without a code the answer
			// has none either (RFC 6455 5.5.1).
			c.talk.bye, c.talk.byeBy = &wsError{code: e.code}, w.now+int64(answerLimit)
			w.postGone(c, kindBye, e.code, e.reason, -1)
			return
		case wsNone:
			if n > 0 {
				continue
			}
			if turn >= window {
				// What says nothing, as pongs and empty fragments, has no window.
				w.goOnLater(c)
				return
			}
			if !w.hearMore(c) {
				return
			}
		}
	}
}

// extend adds to the frame that begins at at, if that is the last on the wire and
// not under way: a message in a million fragments is not to be as many frames.
func (l *lane) extend(at int, f frame, payload []byte) bool {
	if at+frameHeader > len(l.out) {
		return false
	}
	head := l.out[at:]
	n := int(binary.LittleEndian.Uint32(head))
	if len(head) != frameHeader+n {
		return false
	}
	f.length = uint32(n + len(payload))
	f.append(head[:0])
	l.out = append(l.out, payload...)
	return true
}

// hearMore reads: false when nothing is there.
func (w *worker) hearMore(c *conn) bool {
	if c.fed == len(c.body) && c.ownBody {
		w.pool.put(c.body) // an idle client needs none
		c.body, c.ownBody, c.fed = nil, false, 0
	}
	n, end := w.receive(c, w.rbuf)
	if end {
		w.lost(c)
		return false
	}
	if n == 0 {
		return false
	}
	c.talk.heard, c.talk.pinged = w.now, 0
	w.makeRoom(c, n)
	c.body = append(c.body, w.rbuf[:n]...)
	return true
}

// takesPong says whether a pong can be sent now: not between the bytes of a
// frame, and not to a client that does not read.
func (w *worker) takesPong(c *conn) bool {
	if w.obufFor == c && len(w.obuf) >= pongsMax {
		w.flushOut()
	}
	return c.fd >= 0 && !c.talk.within && len(c.out)-c.outAt < pongsMax
}

// pongLate answers a ping that had to wait.
func (w *worker) pongLate(c *conn) {
	if t := c.talk; t != nil && t.ping != nil && c.lane != nil && w.takesPong(c) {
		w.control(c, opPong, t.ping)
		t.ping = nil
	}
}

// endMessage is reached when a message is complete, and makes up for what must
// not come between its bytes.
func (w *worker) endMessage(c *conn) {
	w.credit(c)
	if c.talk.within = false; c.talk.closing != nil {
		w.endTalk(c, c.talk.closing.code, c.talk.closing.text)
		return
	}
	w.pongLate(c)
}

func (w *worker) control(c *conn, opcode byte, payload []byte) {
	w.outFor(c)
	w.obuf = append(appendWSHead(w.obuf, opcode, true, false, len(payload)), payload...)
}

// endTalk closes a WebSocket: the client gets the code, and is left. Python is
// told by who knows why, or has said so itself.
func (w *worker) endTalk(c *conn, code uint16, reason string) {
	l := c.lane
	if c.talk.within {
		// Python has given all of the frame, which comes soon. The client may not
		// have the close frame before, and is not listened to any more.
		if c.talk.closing == nil {
			c.talk.closing = &wsError{code, reason}
		}
		c.talk.decoder.release()
		return
	}
	w.outFor(c)
	w.obuf = appendWSClose(w.obuf, code, reason)
	w.flushOut()
	if c.lane == nil {
		return
	}
	w.record(c, c.status, true)
	if l.bury(c); c.fd < 0 {
		w.release(c)
		return
	}
	c.keep, c.refused, c.state = false, true, draining
	w.drained(c)
}

// shut closes a WebSocket for the application.
func (w *worker) shut(c *conn, r *marshalReader) error {
	if c.talk == nil {
		return wrongFrame("the end of a WebSocket where there is none")
	}
	r.sequence()
	code, reason := r.int(), string(r.text())
	if r.err != nil {
		return wrongFrame("no code or reason to close a WebSocket with")
	}
	if bye := c.talk.bye; bye != nil {
		code, reason = int64(bye.code), ""
	} else if code < 0 || code > math.MaxUint16 || !validCloseCode(uint16(code)) {
		w.log.warningf("%s: %d is no code to close a WebSocket with; 1011 is sent", c.line(), code)
		code = 1011
	}
	number, l := c.number, c.lane
	w.endTalk(c, uint16(code), reason)
	l.over(number, w.now)
	return nil
}

// beginMessage begins a message to the client.
func (w *worker) beginMessage(c *conn) error {
	if c.talk == nil {
		return wrongFrame("a message where there is no WebSocket")
	}
	f, opcode := c.lane.frame, byte(opBinary)
	if f.flags&flagText != 0 {
		opcode = opText
	}
	w.outFor(c)
	if w.deflating = c.talk.deflate && f.length >= deflateMin; w.deflating {
		w.obuf = w.deflater.begin(w.obuf, opcode == opText)
	} else {
		c.talk.within = true
		w.obuf = appendWSHead(w.obuf, opcode, true, false, int(f.length))
	}
	return nil
}

// deflate takes a piece of a message that is sent in compressed form.
func (w *worker) deflate(c *conn, b []byte, last bool) {
	if c.fd < 0 {
		return
	}
	w.outFor(c)
	w.obuf = w.deflater.piece(w.obuf, b, last)
	if c.sent += int64(len(b)); len(w.obuf) > coalesce {
		w.flushOut()
	}
}

// answerBye closes a WebSocket whose client has, in place of an application that
// has not heard of it.
func (w *worker) answerBye(c *conn) {
	bye := c.talk.bye
	c.talk.bye = nil
	w.tellGone(c, bye.code, "", -1)
	w.endTalk(c, bye.code, "")
}

// keepUp pings a client that has been silent, and ends a connection on which
// nothing comes back.
func (w *worker) keepUp(c *conn) {
	t := c.talk
	switch {
	case w.cfg.wsPingInterval == 0 || t.within || t.bye != nil:
	case c.want <= 0:
		t.pinged = 0 // it is the application that does not listen
	case t.pinged == 0:
		if w.now-t.heard >= int64(w.cfg.wsPingInterval) && !c.pending() {
			t.pinged = w.now
			w.control(c, opPing, nil)
			w.flushOut()
		}
	case w.cfg.wsPingTimeout > 0 && w.now-t.pinged >= int64(w.cfg.wsPingTimeout):
		w.log.debugf("Closing connection. %s from ip=%s does not answer a ping", c.line(), c.peer.remoteAddr)
		w.tellGone(c, 1011, "keepalive ping timeout", -1)
		w.endTalk(c, 1011, "keepalive ping timeout")
	}
}

// proxied says whether proxies tell who the client is.
func (c *config) proxied() bool { return strings.HasPrefix(c.workerClass, "uvicorn") }
