package main

// Connections that speak HTTP/2 (http2.go). Such a connection is a carrier: its socket
// carries streams. Each stream is a conn without a socket, and serves one request, by the
// code that serves a request of HTTP/1.1. The conn reads and writes the bytes of bodies;
// this room puts them into frames, within the windows of both sides.
//
// Frames are gathered in a carrier, and written at the end of each turn of the loop. The
// frames that wait in a carrier are bounded. A response that finds no room waits in its
// stream, as a response waits for a slow client in HTTP/1.1.

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	noSocket     = -2          // conn.fd of a stream
	carrierAhead = 64 << 10    // bytes of frames that wait for a client before responses have to wait
	carrierShare = 16 << 10    // bytes that a response sends before the next one has its turn
	carrierRead  = 64 << 10    // bytes read at once
	streamCost   = 1 << 10     // memory of a stream beside its buffers
	prefaceLimit = time.Second // longest wait for the rest of a connection preface, as in Gunicorn
	noiseSpan    = 10          // seconds in which noise is counted
)

// carrier is the HTTP/2 of one connection.
type carrier struct {
	h2
	w       *worker
	conn    *conn
	part    [h2FrameHead + 8]byte // the beginning of a frame whose rest has not come
	parts   int
	dirty   bool      // the carrier is in worker.dirty
	blocked []*stream // streams whose responses wait for room on the connection, first come, first served
	deaf    bool      // nothing is read any more
	ending  bool      // the connection ends when its streams have ended
	ticks   int       // seconds since noise was last forgotten
}

// feed is a carrier's state of a stream, beside the state that http2.go keeps.
type feed struct {
	conn    *conn
	carrier *carrier
	in      []byte // bytes of the request's body that have come: in[inAt:] is not read yet
	inAt    int
	ownIn   bool   // in is a buffer of the pool
	poured  bool   // pour lets this stream send now
	share   int    // bytes that the stream may still send before pour turns to the next
	queued  bool   // the stream is in carrier.blocked
	counted bool   // no Python has the request any more, so that the stream no longer counts against maxStreams
	socket  bool   // the stream asks for a WebSocket
	https   int8   // the scheme that a trusted client has named: 1 for https, -1 for http, 0 for none
	code    h2Code // why the stream ends before its time
	tail    []byte // field block of the response's trailer section
}

// each calls f for every connection, and for every stream.
func (w *worker) each(f func(c *conn)) {
	for _, c := range w.conns {
		if c == nil || c.gone {
			continue
		}
		if f(c); c.carrier != nil {
			for _, s := range c.carrier.streams {
				if s.conn != nil && !s.conn.gone {
					f(s.conn)
				}
			}
		}
	}
}

// Beginning -------------------------------------------------------------------

// speaksH2 reports whether HTTP/2 is among http_protocols.
func (c *config) speaksH2() bool { return slices.Contains(c.httpProtocols, "h2") }

// alpn lists the protocols offered over TLS, in the order of http_protocols.
func (c *config) alpn() (list []string) {
	if !c.speaksH2() {
		return []string{"http/1.1"}
	}
	for _, p := range c.httpProtocols {
		list = append(list, map[string]string{"h1": "http/1.1", "h2": "h2"}[p])
	}
	return list
}

// warnOfH2 warns, in Gunicorn's words, that no client will be able to speak HTTP/2.
func (c *config) warnOfH2() {
	if c.speaksH2() && !c.usesTLS() && c.http2Cleartext == "off" {
		fmt.Fprintln(os.Stderr, "Warning: http_protocols includes h2 but there is no TLS and http2_cleartext is off, so HTTP/2 will never be negotiated.")
	}
}

// openH2 notes which clients may speak HTTP/2 without TLS.
func (w *worker) openH2() {
	if w.cfg.speaksH2() && !w.cfg.usesTLS() {
		how := w.cfg.http2Cleartext
		w.prior = how == "prior-knowledge" || how == "both"
		w.upgrade = how == "upgrade" || how == "both"
	}
}

// awaitPreface looks for the connection preface at the start of a client's bytes. It returns
// false if the client may speak HTTP/1.1.
func (w *worker) awaitPreface(c *conn) bool {
	n := min(len(c.in), len(h2Preface))
	only := w.cfg.http2Cleartext == "prior-knowledge"
	switch {
	case n == len(h2Preface) && string(c.in[:n]) == h2Preface, only && !requestLike(c.in):
		w.becomeCarrier(c)
	case string(c.in[:n]) == h2Preface[:n]:
		if c.tried = len(c.in); only {
			c.hasten(w.after(prefaceLimit))
		}
		w.lag(c)
	case only:
		w.refuse(c, badPreface(c.in))
	default:
		return false
	}
	return true
}

// requestLike reports whether bytes may be the beginning of a request of HTTP/1, or of a
// preface. A client that has sent anything else is told so by a frame of HTTP/2.
func requestLike(b []byte) bool {
	_, target, found := bytes.Cut(b, []byte(" "))
	return !found || len(target) == 0 || bytes.IndexByte([]byte("/*hH"), target[0]) >= 0
}

// badPreface is the answer to a client that has to speak HTTP/2 and sends something else.
func badPreface(b []byte) *badRequest {
	return badText(400, "Expected HTTP/2 connection preface, got b"+repr(b[:min(len(b), len(h2Preface))]))
}

// prefaceStalls reports whether a client that has to speak HTTP/2 has sent a part of the
// preface only.
func (w *worker) prefaceStalls(c *conn) bool {
	return w.prior && w.cfg.http2Cleartext == "prior-knowledge" && c.carrier == nil && c.trusted && c.served == 0 &&
		c.turn == nil && !c.opening && len(c.in) > 0
}

// newCarrier makes the HTTP/2 of a connection.
func (w *worker) newCarrier(c *conn) *carrier {
	k := &carrier{w: w, conn: c, h2: newH2(w.cfg.http2MaxConcurrentStreams, w.cfg.http2InitialWindowSize,
		w.cfg.http2MaxFrameSize, w.cfg.http2MaxHeaderListSize, w.cfg.headBound())}
	if w.list == nil {
		w.list = k.list
	}
	c.carrier, k.list = k, w.list
	c.unlist()
	c.expires = 0
	w.touch(k)
	w.watch(c)
	return k
}

// becomeCarrier starts HTTP/2 on a connection.
func (w *worker) becomeCarrier(c *conn) {
	k := w.newCarrier(c)
	k.greet(w.python.gateway.greet != nil)
	if in := c.in; len(in) > 0 {
		c.in, c.tried = nil, 0
		w.digest(k, in)
		w.pool.put(in)
	}
	if len(k.streams) == 0 && !c.gone {
		w.awaitHead(c)
	}
}

// Reading -------------------------------------------------------------------

// carry reads the frames that have come, and handles them.
func (w *worker) carry(c *conn) {
	k := c.carrier
	if w.pour(k); w.cbuf == nil {
		w.cbuf = make([]byte, carrierRead)
	}
	for turn := 0; !c.gone && c.state == open && !k.deaf && k.waits() <= 2*carrierAhead; {
		if turn >= turnMax {
			w.goOnLater(c)
			break
		}
		at := copy(w.cbuf, k.part[:k.parts])
		n, end := w.receive(c, w.cbuf[at:])
		if end {
			w.carrierEnds(k)
			break
		}
		if n == 0 {
			break
		}
		turn += n
		w.digest(k, w.cbuf[:at+n])
	}
	if !c.gone && (k.opens.id != 0 || k.parts > 0) {
		w.lag(c) // not idle
	}
	if k.opens.id != 0 && c.expires == 0 && w.cfg.clientHeaderTimeout > 0 {
		c.expires = w.after(w.cfg.clientHeaderTimeout)
	} else if k.opens.id == 0 && len(k.streams) > 0 {
		c.expires = 0
	}
	w.weigh(c)
}

// waits is how many bytes of frames the client has not taken.
func (k *carrier) waits() int { return len(k.out) + len(k.conn.out) - k.conn.outAt }

// held estimates the memory of a carrier without its streams. Each stream is counted
// separately, and ended separately when memory runs out.
func (k *carrier) held() int { return int(unsafe.Sizeof(*k)) + cap(k.block) + 2*k.table.size }

// tick is called once a second.
func (k *carrier) tick() {
	if k.ticks++; k.ticks >= noiseSpan {
		k.ticks = 0
		k.quieten()
	}
	if k.sliver { // the client may have given room for a little more
		k.sliver = false
		k.w.widenAll(k)
	}
	if k.ending {
		k.w.touch(k) // so that flushCarriers ends the connection once the client has taken everything
	}
}

// digest handles the frames in bytes of the client. An incomplete frame at the end is
// kept until more has come.
func (w *worker) digest(k *carrier, in []byte) {
	k.arm()
	for !k.conn.gone && !k.deaf {
		n, e, bad := k.next(in)
		if in = in[n:]; bad != nil {
			w.breakCarrier(k, bad)
			return
		}
		switch e.kind {
		case h2Opened:
			w.openStream(k, e.stream)
		case h2Piece:
			w.gain(e.stream, e.piece)
		case h2Broken:
			w.breakStream(k, e.stream, e.bad)
		case h2Room:
			w.widen(k, e.stream)
		case h2Resized:
			w.widenAll(k)
		case h2Nothing:
			if n == 0 {
				k.parts = copy(k.part[:], in)
				w.touch(k)
				return
			}
		}
	}
}

// changeTo2 answers a request that has asked for HTTP/2 by Upgrade: the request becomes the
// first stream.
func (w *worker) changeTo2(t *turn) {
	c, settings := t.conn, t.settings
	t.settings = nil
	w.send(c, []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), nil)
	if c.gone {
		return
	}
	in, rest := c.in, c.in[t.next:]
	c.turn, c.in, c.tried = nil, w.pool.extend(nil, rest), 0
	k := w.newCarrier(c)
	k.adopt(settings)
	k.greet(w.python.gateway.greet != nil)
	s := k.begin(1)
	sc := w.newStream(k, s)
	sc.in, sc.turn, t.conn = in, t, sc
	t.req.version, t.req.streamed, t.req.keepAlive = []byte("HTTP/2.0"), true, false
	t.req.fields = slices.DeleteFunc(t.req.fields, func(f field) bool {
		return foldEqual(f.name, "CONNECTION") || foldEqual(f.name, "UPGRADE") || foldEqual(f.name, "HTTP2-SETTINGS")
	})
	w.weigh(sc)
	w.enqueue(t)
	if in := c.in; len(in) > 0 {
		c.in = nil
		w.digest(k, in)
		w.pool.put(in)
	}
	w.goOnLater(c)
}

// newStream makes the conn of a stream.
func (w *worker) newStream(k *carrier, s *stream) *conn {
	c := &conn{fd: noSocket, transport: s, peer: k.conn.peer, trusted: k.conn.trusted, lent: k.conn.lent, watched: true,
		served: k.conn.served, output: output{file: -1}}
	k.conn.served++
	k.conn.expires = 0
	if k.conn.list == &w.resting {
		k.conn.unlist()
	}
	s.conn, s.carrier = c, k
	w.carried++
	w.weigh(c)
	return c
}

// openStream starts the request of a stream that the client has opened.
func (w *worker) openStream(k *carrier, s *stream) {
	c := w.newStream(k, s)
	c.turn = w.newTurn(c)
	c.turn.req.streamed = true
	if k.list.over {
		s.ended = true
		w.refuse(c, badLimit("max buffer headers"))
		return
	}
	var q h2Request
	head, bad := k.list.head(w.hbuf[:0], &q)
	w.hbuf = head[:0]
	if q.protocol != nil && bad == nil && (w.python.gateway.greet == nil || !foldEqual(q.protocol, "WEBSOCKET")) {
		bad = badField([]byte(":protocol"), false)
	}
	if bad != nil {
		s.code = h2ProtocolError
		w.refuse(c, bad)
		return
	}
	if s.socket = q.protocol != nil; !s.socket {
		s.length = k.list.contentLength()
	} else if s.ended { // the client has left before it could say anything
		c.unread = true
	}
	if s.ended && s.length > 0 {
		s.code = h2ProtocolError
		w.breakStream(k, s, "the body is not as long as its Content-Length")
		return
	}
	if c.trusted && len(q.scheme) > 0 {
		if s.https = -1; foldEqual(q.scheme, "HTTPS") {
			s.https = 1
		}
	}
	if w.stopping() || w.others.drains() {
		w.dismiss(k.conn) // before the answer, after which the client would send the next request
	}
	c.in = w.pool.extend(nil, head)
	w.advance(c)
}

// describe adds to a request the facts that its head cannot express.
func (s *stream) describe(r *request) {
	r.tunnel, r.upgrades = s.socket, s.socket
	r.chunked = (!s.ended || len(s.in) > 0) && !s.socket
	if s.https != 0 && !r.schemeGiven {
		r.schemeGiven, r.https = true, s.https > 0
	}
}

// gain takes a piece of a request's body, or its end.
func (w *worker) gain(s *stream, piece []byte) {
	c := s.conn
	if c == nil || c.gone || s.done {
		return
	}
	if len(s.section) > 0 {
		w.weigh(c)
	}
	t := c.turn
	if limit := w.cfg.limitRequestBody; limit > 0 && s.received > limit && !s.socket && t != nil && t.broken == nil && t.incomplete() {
		if w.breakBody(t, badBodyLimit(limit)); c.lane() != nil {
			w.feed(t)
		}
		return
	}
	if s.inAt < len(s.in) {
		s.in = w.pool.extend(w.pool.fit(s.in, s.in[s.inAt:]), piece)
		s.inAt = 0
	} else {
		s.in, s.inAt = piece, 0
	}
	c.unread = true
	w.advance(c)
	if !s.ownIn && s.inAt < len(s.in) && !s.done {
		s.in = w.pool.extend(nil, s.in[s.inAt:])
		s.inAt, s.ownIn = 0, true
	} else if !s.ownIn {
		s.in, s.inAt = nil, 0
	}
}

// read reads bytes of the request's body.
func (s *stream) read(_ *conn, b []byte) (int, syscall.Errno) {
	n := copy(b, s.in[s.inAt:])
	if s.inAt += n; n > 0 {
		if s.inAt == len(s.in) {
			s.drop()
		}
		s.carrier.arm()
		s.carrier.credit(s, n)
		s.carrier.w.touch(s.carrier)
		return n, 0
	}
	switch {
	case s.ended:
		return 0, 0
	case s.done || s.carrier.deaf:
		return 0, unix.ECONNRESET
	}
	return 0, unix.EAGAIN
}

// drop gives back the buffer of bytes that have been read, or that nobody will read.
func (s *stream) drop() {
	if s.ownIn {
		s.carrier.w.pool.put(s.in)
	}
	s.in, s.inAt, s.ownIn = nil, 0, false
}

// bodyEnds notes that the request's body is complete, or broken because the client has left or
// has sent a wrong trailer section.
func (s *stream) bodyEnds(w *worker, t *turn) bool {
	if !s.ended {
		return plain{}.bodyEnds(w, t)
	}
	var trailer request
	if bad := trailer.parseFields(s.section, w.cfg, false, true); bad != nil {
		w.breakBody(t, bad.logged())
		return false
	}
	t.bodyLeft, t.trailer = 0, trailer.fields
	w.weigh(t.conn)
	return true
}

// breakStream ends a stream that its client has reset, or, with a text for the log, a
// stream whose client has made a mistake.
func (w *worker) breakStream(k *carrier, s *stream, text string) {
	if text != "" {
		w.log.warningf("Invalid request from ip=%s: HTTP/2: %s%s", k.conn.peer.remoteAddr, text, s.tag())
	}
	if s.conn != nil {
		w.lost(s.conn)
	}
}

// tag names the id of the stream's request for the log, "" without one.
func (s *stream) tag() string {
	if s.conn == nil {
		return ""
	}
	return s.conn.turn.tag()
}

// carrierEnds is called when no more will come from the client. Responses to earlier requests
// may still reach the client.
func (w *worker) carrierEnds(k *carrier) {
	c := k.conn
	if k.deaf = true; len(k.streams) == 0 || hungUp(c.fd) {
		w.lost(c)
		return
	}
	k.ending = true
	c.probe()
	for _, s := range k.streams {
		if t := s.conn.turn; !s.ended && t != nil && (t.incomplete() || t.talk != nil) {
			s.conn.unread = true
			w.advance(s.conn)
		}
		s.conn.ending = true
		s.meter(w, s.conn)
	}
}

// Writing -------------------------------------------------------------------

// arm gives a carrier a buffer for frames.
func (k *carrier) arm() {
	if n := len(k.w.blanks); k.out == nil && n > 0 {
		k.out, k.w.blanks = k.w.blanks[n-1], k.w.blanks[:n-1]
	}
}

// touch has a carrier's frames written at the end of this turn of the loop.
func (w *worker) touch(k *carrier) {
	if !k.dirty {
		k.dirty = true
		w.dirty = append(w.dirty, k)
	}
}

// flushCarriers writes the frames that were gathered in this turn of the loop.
func (w *worker) flushCarriers() {
	for i := 0; i < len(w.dirty); i++ {
		k := w.dirty[i]
		k.dirty = false
		w.flushFrames(k)
		w.pour(k)
	}
	clear(w.dirty) // else carriers that are gone would stay
	w.dirty = w.dirty[:0]
}

// flushFrames writes a carrier's frames. The buffer is kept for other carriers.
func (w *worker) flushFrames(k *carrier) {
	b := k.out
	k.out, k.lastID = nil, 0
	if len(b) > 0 && !k.conn.gone && k.conn.state == open {
		w.send(k.conn, b, nil)
	}
	if cap(b) > 0 && cap(b) <= 2*carrierAhead && len(w.blanks) < poolKeep {
		w.blanks = append(w.blanks, b[:0])
	}
}

// head sends the head that stands in b[at:] as HTTP/1.1 has it, and returns b with what is
// before and behind that head.
func (s *stream) head(b []byte, at int) []byte {
	k := s.carrier
	var room [512]byte
	block, size := appendBlock(room[:0], b[at:])
	if !s.done {
		k.arm()
		k.h2.head(s, block)
		k.w.touch(k)
	}
	return append(b[:at], b[at+size:]...)
}

// trailer keeps the response's trailer section for the frame that ends the stream.
func (s *stream) trailer(w *worker, t *turn) {
	if !t.framing.noBody && len(s.tail) < metaMax {
		s.tail, _ = appendBlock(s.tail, w.appendSection(nil, t))
		w.weigh(t.conn)
	}
}

// roomFor is how many of n bytes may be sent now. mine reports that the stream's own
// window is the limit, and not the connection or other streams.
func (s *stream) roomFor(n int) (most int, mine bool) {
	k := s.carrier
	switch most, mine = k.allowed(s, n); {
	case most == 0:
		return 0, mine
	case s.poured:
		most = min(most, s.share)
	case len(k.blocked) > 0 && !s.socket:
		return 0, false
	}
	space := carrierAhead - k.waits()
	if space < min(most, h2Sliver) {
		return 0, false
	}
	return min(most, space), false
}

func (s *stream) write(c *conn, a, b []byte) (int, syscall.Errno) {
	if c.pending() {
		return 0, unix.EAGAIN
	}
	return s.body(a, b)
}

func (s *stream) push(_ *conn, b []byte) (int, syscall.Errno) { return s.body(b, nil) }

// body sends bytes of the response's body, as rawWritev does to a socket.
func (s *stream) body(a, b []byte) (n int, errno syscall.Errno) {
	k := s.carrier
	if s.done {
		return 0, unix.EPIPE
	}
	k.arm()
	for len(a)+len(b) > 0 {
		most, mine := s.roomFor(len(a) + len(b))
		if most <= 0 {
			if s.wait(mine); n == 0 {
				return 0, unix.EAGAIN
			}
			return n, 0
		}
		if len(a) == 0 {
			a, b = b, nil
		}
		m := min(most, len(a))
		k.body(s, a[:m])
		k.w.touch(k)
		a = a[m:]
		n += m
		if s.share -= m; len(k.out) >= carrierAhead {
			k.w.flushFrames(k)
			k.arm()
		}
	}
	return n, 0
}

// wait queues a stream for room on the connection, unless the limit is the stream's own
// window (mine).
func (s *stream) wait(mine bool) {
	if !mine && !s.queued {
		s.queued = true
		s.carrier.blocked = append(s.carrier.blocked, s)
	}
}

// sendFile sends a piece of the response's file. The bytes are copied: a frame has 16 KB,
// and sendfile(2) with a head for each frame would take more system calls than read(2)
// and one write(2).
func (s *stream) sendFile(_ *worker, c *conn) (int, error) {
	k := s.carrier
	most, mine := s.roomFor(int(min(c.fileEnd-c.fileAt, filePiece)))
	if most <= 0 {
		s.wait(mine)
		return 0, unix.EAGAIN
	}
	b := k.w.pool.get(most)
	defer k.w.pool.put(b)
	n, err := unix.Pread(c.file, b[:most], c.fileAt)
	if n > 0 {
		m, errno := s.body(b[:n], nil)
		c.fileAt += int64(m)
		if c.given += m; errno != 0 {
			return m, errno
		}
		return m, nil
	}
	return n, err
}

// meter meters how much of the response the client takes. A response that waits for other
// streams of its connection is not held against its client.
func (s *stream) meter(w *worker, c *conn) {
	c.reply.move(w.now, c.given, w.cfg.clientMinRate)
	c.given = 0
	if most, _ := s.carrier.allowed(s, h2FrameLeast); !c.pending() || most > 0 {
		return
	}
	if c.reply.wait(w.now); s.carrier.deaf { // no more room will come
		w.lost(c)
	}
}

// widen goes on with the response of a stream, or with all responses if s is nil, after
// the client has opened a window.
func (w *worker) widen(k *carrier, s *stream) {
	if s == nil {
		w.pour(k)
	} else if c := s.conn; c != nil && !c.gone && c.pending() {
		w.drain(c)
	}
}

// widenAll goes on with the responses of all streams.
func (w *worker) widenAll(k *carrier) {
	for _, s := range k.streams {
		w.widen(k, s)
	}
	w.touch(k)
}

// pour lets the responses that wait for room on the connection send a share each, in
// turn.
func (w *worker) pour(k *carrier) {
	turn, stuck := 0, 0 // bytes sent, and streams in succession that could send nothing
	for stuck < len(k.blocked) && !k.conn.gone && k.waits() <= carrierAhead-h2Sliver {
		if turn >= turnMax {
			w.goOnLater(k.conn)
			return
		}
		s := k.blocked[0]
		k.blocked = k.blocked[:copy(k.blocked, k.blocked[1:])]
		if s.queued = false; s.conn.gone || !s.conn.pending() {
			continue
		}
		before := k.window
		s.poured, s.share = true, carrierShare
		w.drain(s.conn)
		s.poured = false
		turn += int(before - k.window)
		if stuck++; k.window != before {
			stuck = 0
		}
	}
	w.maybeLeave(k)
}

// To a sibling ----------------------------------------------------------------
//
// A request that would wait here is lent to a sibling: the sibling gets the request and
// one end of a socket, and serves the request as the only stream of a carrier. The
// sibling's frames are passed on to the client, in the stream that the client has opened.

func (s *stream) portable() bool { return false }

func (s *stream) give(w *worker, c *conn) bool {
	t := c.turn
	return t != nil && t.state == waiting && !t.incomplete() && !s.socket && w.slot.phase() != phaseQuitting && w.lend(c)
}

// takeStream serves the request of a stream that a sibling has lent.
func (w *worker) takeStream(c *conn, head, body, section []byte, https int8) {
	k := w.newCarrier(c)
	k.preface, k.settled, k.ending = len(h2Preface), true, true
	k.window, k.theirWindow = math.MaxInt64/2, math.MaxInt64/2
	s := k.begin(1)
	s.https, s.section = https, bytes.Clone(section)
	sc := w.newStream(k, s)
	if len(body) > 0 {
		s.in, s.ownIn, sc.unread = w.pool.extend(nil, body), true, true
	}
	sc.turn = w.newTurn(sc)
	sc.turn.req.streamed = true
	sc.in = w.pool.extend(nil, head)
	w.advance(sc)
}

// move passes on the frames of a sibling that was lent a stream. It returns false if there
// are none.
func (s *stream) move(w *worker, c *conn) bool {
	p := c.pump
	if len(c.out)-c.outAt > pumpAhead {
		return false
	}
	b := w.pool.get(pumpPiece + len(p.out))[:pumpPiece+len(p.out)]
	at := copy(b, p.out)
	n, errno := rawRead(p.fd, b[at:])
	if errno == unix.EAGAIN {
		w.pool.put(b)
		return false
	}
	b = b[:at+max(n, 0)]
	w.pool.put(p.out)
	p.out = nil
	rest := b
	for len(rest) >= h2FrameHead && !c.gone && c.pump == p {
		length, kind, flags := int(rest[0])<<16|int(rest[1])<<8|int(rest[2]), rest[3], rest[4]
		if len(rest) < h2FrameHead+length {
			break
		}
		payload := rest[h2FrameHead : h2FrameHead+length]
		rest = rest[h2FrameHead+length:]
		s.pass(w, c, kind, flags, payload)
	}
	if len(rest) > 0 && !c.gone && c.pump == p {
		p.out = append(w.pool.get(len(rest)), rest...)
	}
	w.pool.put(b)
	if n <= 0 && !c.gone && c.pump == p {
		s.passEnd(w, c)
	}
	return c.pump == p
}

// passEnd ends a stream as the sibling has. What the sibling has sent before goes to the client
// first, even of an answer that has broken off.
func (s *stream) passEnd(w *worker, c *conn) {
	c.cut = !c.pump.ended
	w.pumpEnds(c)
}

// pass passes on a frame of a sibling. Heads and trailer sections are passed on when they are
// complete, as one frame each.
func (s *stream) pass(w *worker, c *conn, kind, flags byte, payload []byte) {
	p := c.pump
	switch kind {
	case h2Data:
		w.send(c, payload, nil)
	case h2Headers, h2Continuation:
		p.block = append(p.block, payload...)
		if kind == h2Headers {
			p.tail = p.begun && flags&h2EndStream != 0
		}
		switch interim := len(p.block) > 2 && p.block[0] == 0x08 && p.block[2] == '1'; {
		case flags&h2EndHeaders == 0:
		case p.tail:
			s.tail, p.block = p.block, nil
		default:
			s.carrier.arm()
			s.carrier.h2.head(s, p.block)
			w.touch(s.carrier)
			p.begun, p.block = !interim, p.block[:0]
		}
	case h2RstStream:
		if s.code = h2Code(binary.BigEndian.Uint32(payload)); !p.ended {
			s.passEnd(w, c)
		}
	}
	p.ended = p.ended || flags&h2EndStream != 0 && kind <= h2Headers
}

// Ending --------------------------------------------------------------------

func (s *stream) end(w *worker, c *conn) {
	k := s.carrier
	if !s.done {
		if k.arm(); c.turn != nil && c.turn.framing.noBody {
			s.tail = nil
		}
		if c.cut {
			k.reset(s, cmp.Or(s.code, h2InternalError))
		} else if k.end(s, s.tail); s.ended && s.code == 0 {
			k.h2.close(s, false)
		} else {
			k.reset(s, s.code) // the rest of the request is not wanted
		}
		w.touch(k)
	}
	w.close(c)
}

// forbidEnd does nothing: a frame tells where the body ends.
func (s *stream) forbidEnd(*conn) {}

func (s *stream) reset(*conn) { s.code = h2Cancel }

func (s *stream) unplug(w *worker, c *conn) {
	k := s.carrier
	if !s.done {
		k.arm()
		if s.socket && s.ended { // the client has closed without a close frame (RFC 8441 5)
			s.code = cmp.Or(s.code, h2Cancel)
		}
		k.reset(s, cmp.Or(s.code, h2InternalError))
		w.touch(k)
	}
	s.drop()
	if w.carried--; c.turn == nil || c.turn.lane == nil {
		s.over()
	}
	if len(k.streams) == 0 && !k.conn.gone && k.conn.state == open {
		if w.awaitHead(k.conn); w.cfg.keepalive == 0 {
			k.conn.hasten(w.after(lingerIdle))
		}
		w.touch(k)
	}
}

// over counts a stream no longer against the limit of the connection: no Python has its
// request any more. Until then even a stream that its client has reset counts, so that a
// client that resets its streams has no more requests running than others.
func (s *stream) over() {
	if !s.counted {
		s.counted = true
		s.carrier.busy--
	}
}

func (s *stream) held() (pooled, beside int) {
	if s.ownIn {
		pooled = cap(s.in)
	}
	if s.conn.fd == noSocket {
		beside = streamCost + cap(s.section) + cap(s.tail)
	}
	return pooled, beside
}

// dropCarrier is called when the socket of a carrier is closed.
func (w *worker) dropCarrier(k *carrier) {
	k.deaf = true
	for _, s := range k.streams {
		s.done = true
		w.lost(s.conn)
	}
	clear(k.streams)
	k.blocked = nil
}

// blame counts a refused request as noise, and adds the 3 that its answer, a head and a frame
// of the body, takes off the count: over HTTP/1.1 one mistake ends a connection, and writes one
// line into the log. The connection's other requests, which may be those of other clients of a
// proxy, are still served.
func (w *worker) blame(k *carrier) {
	if k.noise += 1 + 3; k.noise > h2NoiseMost && !k.said {
		k.noise = 0 // a new count for the streams that the client opens before it hears of the end
		w.announceEnd(k, &h2Error{h2EnhanceYourCalm, "too many requests are malformed"})
		k.ending = true
	}
}

// announceEnd logs a client's mistake for which its connection ends, and tells the client.
func (w *worker) announceEnd(k *carrier, bad *h2Error) {
	w.log.warningf("Invalid request from ip=%s: HTTP/2: %s", k.conn.peer.remoteAddr, bad.text)
	k.arm()
	k.goaway(bad.code, bad.text)
	w.touch(k)
}

// breakCarrier ends a connection because of its client's mistake.
func (w *worker) breakCarrier(k *carrier, bad *h2Error) {
	w.announceEnd(k, bad)
	w.stopCarrier(k)
}

// stopCarrier ends a connection with all its streams, once the frames that wait are
// written.
func (w *worker) stopCarrier(k *carrier) {
	k.deaf, k.ending = true, true
	for _, s := range k.streams {
		s.done = true
		w.lost(s.conn)
	}
	clear(k.streams)
	w.touch(k)
}

// dismiss announces the end of a connection: streams that the client has opened are still
// served.
func (w *worker) dismiss(c *conn) {
	k := c.carrier
	if c.gone || c.state != open {
		return
	}
	k.arm()
	k.goaway(h2NoError, "")
	k.ending = true
	w.touch(k)
}

// lags reports whether all that a connection is for are requests whose clients are slow with a body
// that no Python has begun.
func (k *carrier) lags() bool {
	for _, s := range k.streams {
		if t := s.conn.turn; t == nil || t.state != readingBody || !t.upload.late(k.w.now, placePatience) {
			return false
		}
	}
	return true
}

// giveUpIdle closes an idle or lagging connection at once, because another client wants its place.
func (w *worker) giveUpIdle(c *conn) {
	if c.carrier != nil {
		w.dismiss(c)
		w.flushFrames(c.carrier)
	}
	w.close(c)
}

// maybeLeave ends a connection that is about to end, once no stream and no frame is left.
func (w *worker) maybeLeave(k *carrier) {
	c := k.conn
	if !k.ending || len(k.streams) > 0 || c.gone || c.state != open || len(k.out) > 0 {
		return
	}
	if c.pending() {
		if k.deaf { // after a mistake nobody waits for long
			c.hasten(w.after(lingerIdle))
		}
		return
	}
	if !k.deaf && unsent(c.fd) > 0 {
		// The client still reads, and sends frames that give room as it does. A closed
		// socket would answer these with a reset, upon which the client's kernel throws
		// away what the client has not read.
		c.transport.meter(w, c)
		return
	}
	c.transport.end(w, c)
}

// expireCarrier ends a connection that is idle, or whose client is slow with a field block.
func (w *worker) expireCarrier(k *carrier) {
	c := k.conn
	if c.expires = 0; k.said {
		if k.deaf || !c.pending() && unsent(c.fd) == 0 {
			w.close(c)
		}
		return
	}
	if k.opens.id != 0 {
		w.breakCarrier(k, &h2Error{h2EnhanceYourCalm, "a field block did not come in time"})
		return
	}
	if k.preface < len(h2Preface) {
		w.close(c)
		return
	}
	w.dismiss(c)
}
