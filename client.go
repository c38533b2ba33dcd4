package main

// One client's connection: a small state machine that reads requests, waits
// while Python has one, and drains the response at the client's pace. What it
// holds in memory is bounded, and so is every wait.

import (
	"bytes"
	"math"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// States of a connection.
const (
	handshaking = iota // or waiting for its first byte; only under TLS
	readingHead        // or idle, when no byte of one has come
	readingBody
	waiting    // for a lane
	inLane     // its request is in the queue or runs
	draining   // the response is complete and not yet all written
	discarding // a rest of the body that the application has not read
	lingering
	pumping // another speaks for it
)

// conn is one client.
type conn struct {
	fd      int // -1 once closed
	serial  int32
	state   uint8
	watched bool  // by epoll; edge-triggered, once and for all
	unread  bool  // the socket may hold bytes, or an end, not seen yet
	ending  bool  // an end has been announced: reading goes on until it is seen
	later   bool  // it has had its turn, and goes on after others have had theirs
	trusted bool  // by its socket's address, whatever a proxy says
	opening bool  // a PROXY header may come
	expires int64 // monotonic, 0 for never; of a head, an idle connection, a lingering one
	peer    endpoint
	secure  *secure // nil without TLS
	pump    *pump   // where another speaks for it
	lent    bool    // its TLS is a sibling's, which lends it for one request
	served  int     // requests

	list          *idlers // that it is in, of the worker's
	before, after *conn   // there

	weight int   // bytes held for it beside the pool's buffers, as last weighed
	slow   uint8 // seconds for which the client has been waited for while something was held for it

	in    []byte   // from the head's first byte on
	shed  []byte   // the buffer that the head's slices are in, when that is no longer in
	tried int      // bytes of in that parse has seen
	head  int      // length of the parsed head
	next  int      // where in in the next request begins
	req   *request // nil while idle

	body     []byte // bytes not yet given to Python are body[fed:]
	fed      int
	ownBody  bool     // body is a buffer of its own, not a part of in
	bodyLeft int64    // to be read from the client
	spooled  *spooled // comes before body; nil for nothing
	upload   passage
	decoder  *chunkedDecoder
	trailer  []field     // of a body that has been read to its end
	trailed  bool        // Python has the trailer
	asked    bool        // Python waits for body
	want     int         // this many bytes at most
	broken   *badRequest // why the body will never be complete
	told     bool        // Python knows
	thirsty  bool        // it waits for room on the wire
	indirect bool        // Python asks for the environ first
	taken    bool        // the application has the socket
	shared   bool        // it has seen it, and may have it open for longer than its request takes

	hello *wsHandshake // the request asks for a WebSocket, and has no answer yet
	talk  *talk        // it is one
	owed  int          // bytes of the response for which Python has no credit yet

	lane    *lane  // that has the request
	number  uint32 // of the request there
	message uint32 // number of the first in the message that it came in
	since   int64  // when it began to wait for one
	begun   int64  // when it was given to the lane
	late    bool   // it waits behind the others
	started bool   // the response's head is made
	refused bool   // what the application still says goes nowhere
	cut     bool   // the response ends where it must not
	dropped bool   // and was too much for a client, which has its whole response
	keep    bool
	framing framing
	status  []byte
	meta    []byte // of the response, for the access log, when it came in several frames
	sent    int64  // bytes of body from the application
	out     []byte // out[outAt:] waits for the client
	outAt   int
	unsent  int // bytes that the kernel held for the client when last looked at
	given   int // and was given since
	reply   passage
	file    int // descriptor of what comes after out, -1 for none
	fileAt  int64
	fileEnd int64
	filed   bool   // the file is the spool's
	rest    []byte // after the file
	burst   int    // bytes that went into the spool since others had their turn
	junk    int    // bytes thrown away
	closeAt int64  // while lingering, whatever still comes
}

// passage is how a body passes in one direction, as far as it is the client's
// doing. Waiting spends patience, bytes that pass restore it. So a client may
// be slow now and then, and cannot stay for a byte from time to time.
type passage struct {
	since int64 // the client is waited for since then, 0 for not now
	spent int64 // before that
}

func (p *passage) wait(now int64) {
	if p.since == 0 {
		p.since = now
	}
}

func (p *passage) pause(now int64) {
	if p.since != 0 {
		p.spent += now - p.since
		p.since = 0
	}
}

// move takes note of n bytes that have passed. Without a rate to keep, any
// restore it all.
func (p *passage) move(now int64, n, rate int) {
	p.pause(now)
	switch {
	case n <= 0:
	case rate == 0:
		p.spent = 0
	default:
		p.spent = max(0, p.spent-int64(n)*int64(time.Second)/int64(rate))
	}
}

func (p *passage) late(now int64, limit time.Duration) bool {
	return p.since != 0 && limit > 0 && p.waited(now) >= int64(limit)
}

// waited is for how long the client has been waited for and has not made up.
func (p *passage) waited(now int64) int64 {
	if p.since == 0 {
		return p.spent
	}
	return p.spent + now - p.since
}

// watch puts c under epoll. Both directions once and edge-triggered: no further
// system call is needed however often the connection changes its state.
func (w *worker) watch(c *conn) {
	if c.watched || c.fd < 0 {
		return
	}
	if err := epollAdd(w.ep, c.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, c.word()); err != nil {
		w.log.errorf("%v", err)
		w.lost(c)
		return
	}
	c.watched = true
}

// word is what comes with the connection's events: its number beside their kind.
func (c *conn) word() int32 { return c.serial<<onBits | onClient }

// client handles an event on a connection.
func (w *worker) client(c *conn, events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.unread = true
		c.ending = c.ending || events&^(unix.EPOLLIN|unix.EPOLLOUT) != 0
		if c.secure != nil {
			c.secure.dry = false
		}
	}
	if c.state == handshaking {
		w.greet(c, events)
		return
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 && c.state != readingHead && c.state != readingBody {
		w.lost(c)
		return
	}
	if events&unix.EPOLLRDHUP != 0 && w.asgi && c.state == inLane && !c.incomplete() && c.talk == nil && (c.secure != nil || ended(c.fd)) {
		w.lost(c)
		return
	}
	if events&unix.EPOLLOUT != 0 && c.pending() {
		w.drain(c)
	}
	if c.fd >= 0 {
		w.advance(c)
	}
}

// Reading -------------------------------------------------------------------

// advance takes c as far as the bytes that are there lead.
func (w *worker) advance(c *conn) {
	for c.fd >= 0 {
		switch c.state {
		case handshaking:
			w.watch(c) // greet hears of the first byte
			if c.secure == nil {
				w.readHello(c)
			}
			return
		case readingHead:
			if len(c.in) > c.tried {
				if !w.parse(c) {
					return
				}
				continue
			}
			if !w.readHead(c) {
				return
			}
		case readingBody:
			if !c.incomplete() || w.overflows(c) && !w.spill(c) {
				w.enqueue(c)
				return
			}
			if c.burst >= turnMax {
				c.burst = 0
				w.goOnLater(c)
				return
			}
			if !w.readBody(c) {
				switch {
				case c.state != readingBody || c.fd < 0:
				case w.asgi:
					w.enqueue(c) // it may answer before it has seen all
				default:
					w.lag(c)
				}
				return
			}
		case inLane:
			w.feed(c)
			return
		case discarding:
			w.discard(c)
			return
		case lingering:
			w.linger(c)
			return
		case pumping:
			w.move(c)
			return
		default:
			return
		}
	}
}

// receive reads once into the free part of b. n is 0 when nothing is there;
// end says that nothing will come any more.
func (w *worker) receive(c *conn, b []byte) (n int, end bool) {
	if !c.unread {
		return 0, false
	}
	n, errno := c.read(b)
	switch {
	case errno == unix.EAGAIN:
		c.unread = false
		w.watch(c) // what comes from now on is an event of its own
		return 0, false
	case errno != 0 || n == 0:
		return 0, true
	case n < len(b) && c.watched && !c.ending && c.secure == nil:
		// That was all: asking once more costs a system call a request.
		c.unread = false
	}
	return n, false
}

func (w *worker) readHead(c *conn) bool {
	n, end := w.receive(c, w.rbuf[:headRead])
	if end {
		w.close(c) // silently: there is no request yet
		return false
	}
	if n == 0 {
		return false
	}
	first := len(c.in) == 0
	c.in = w.pool.extend(c.in, w.rbuf[:n])
	if first {
		w.awaitHead(c)
	}
	return true
}

// awaitHead sets the time by which a head has to be there, or its first byte.
func (w *worker) awaitHead(c *conn) {
	limit := w.cfg.clientHeaderTimeout
	switch {
	case len(c.in) == 0 && c.served > 0:
		limit = w.cfg.keepalive
	case len(c.in) > 0 && c.state == handshaking:
		limit = handshakeLimit
	}
	if c.expires = 0; limit > 0 {
		c.expires = w.now + int64(limit)
	}
	if c.unlist(); len(c.in) == 0 {
		w.resting.add(c)
	}
}

// lag is called when a client has sent a part of something: of a PROXY header, of a
// TLS handshake, of a head, or of a body that nobody has yet.
func (w *worker) lag(c *conn) {
	if c.list != &w.lagging {
		c.since = w.now
		w.lagging.add(c)
	}
}

// hasten lets the wait end by then.
func (c *conn) hasten(by int64) {
	if c.expires == 0 || c.expires > by {
		c.expires = by
	}
}

// idlers are the connections on which a client lets us wait, in the order in which
// they began to.
type idlers struct{ first, last *conn }

func (l *idlers) add(c *conn) {
	if c.list == l {
		return
	}
	c.unlist()
	c.list, c.before = l, l.last
	if l.last == nil {
		l.first = c
	} else {
		l.last.after = c
	}
	l.last = c
}

// unlist takes it out of the list that it is in, if it is in one.
func (c *conn) unlist() {
	l := c.list
	if l == nil {
		return
	}
	if c.before == nil {
		l.first = c.after
	} else {
		c.before.after = c.after
	}
	if c.after == nil {
		l.last = c.before
	} else {
		c.after.before = c.before
	}
	c.list, c.before, c.after = nil, nil, nil
}

// parseProxy looks for a PROXY header: false when it is refused. Without one
// the connection goes on as it is.
func (w *worker) parseProxy(c *conn) bool {
	c.tried = len(c.in)
	form := proxyFormOf(c.in, w.cfg.proxyProtocol)
	switch form {
	case proxyOpen:
		return true
	case proxyNone:
		c.opening, c.tried = false, 0
		return true
	}
	if addr, err := netip.ParseAddr(c.peer.remoteAddr); !c.peer.unix && (err != nil || !w.cfg.proxyAllowIPs.has(addr)) {
		w.refuse(c, forbiddenProxy(c.peer.remoteAddr))
		return false
	}
	h, n, bad := parseProxy(c.in, form)
	if bad != nil {
		w.refuse(c, bad)
		return false
	}
	if n > 0 {
		c.peer.introduce(h)
		c.in = w.pool.fit(c.in, c.in[n:])
		c.opening, c.tried = false, 0
	}
	return true
}

// parse looks at the head: false when the request is refused.
func (w *worker) parse(c *conn) bool {
	if c.opening {
		if !w.parseProxy(c) {
			return false
		}
		if !c.opening && w.tls != nil {
			c.state = handshaking
			w.awaitHead(c)
		} else if c.opening {
			w.lag(c)
		}
		return true
	}
	if c.req == nil {
		c.req = w.newRequest()
	}
	c.tried = len(c.in)
	n, bad := c.req.parse(c.in, w.cfg, c.trusted)
	if bad == nil && n > 0 {
		bad = c.req.checkScriptName(w.scriptName)
	}
	if bad != nil {
		w.refuse(c, bad)
		return false
	}
	if n == 0 {
		w.lag(c)
		return true
	}
	c.unlist()
	c.head, c.next = n, n
	c.state, c.expires = readingBody, 0
	w.weigh(c)
	if limit := w.cfg.limitRequestBody; limit > 0 && c.req.contentLength > limit {
		w.refuse(c, badBodyLimit(limit))
		return false
	}
	if w.asgi && c.req.upgrades && !w.greetSocket(c) {
		return false
	}
	rest := c.in[n:]
	switch {
	case c.req.chunked:
		c.decoder = &chunkedDecoder{}
		if len(rest) > 0 {
			return w.decode(c, rest)
		}
	case c.req.contentLength > 0:
		take := int(min(c.req.contentLength, int64(len(rest))))
		c.body = rest[:take:take]
		c.next = n + take
		c.bodyLeft = c.req.contentLength - int64(take)
	}
	if c.req.expect && len(rest) == 0 && (c.decoder != nil || c.bodyLeft > 0) {
		w.send(c, []byte("HTTP/1.1 100 Continue\r\n\r\n"), nil)
	}
	return c.fd >= 0
}

// readBody reads more of a body; false when nothing more is there now.
func (w *worker) readBody(c *conn) bool {
	room, direct := w.rbuf, false
	if c.decoder == nil {
		if free := cap(c.body) - len(c.body); c.ownBody && (free >= len(w.rbuf) || int64(free) >= c.bodyLeft) {
			direct = true
			room = c.body[len(c.body):cap(c.body)]
		}
		room = room[:min(int64(len(room)), c.bodyLeft)]
	}
	n, end := w.receive(c, room)
	if end {
		w.breakBody(c, leftEarly(400, "the client left before its request was complete"))
		return false
	}
	if n == 0 {
		c.upload.wait(w.now)
		return false
	}
	c.upload.move(w.now, n, w.cfg.clientMinRate)
	if c.state == discarding {
		c.junk += n
	}
	if c.decoder != nil {
		return w.decode(c, room[:n])
	}
	if direct {
		c.body = c.body[:len(c.body)+n]
	} else {
		w.makeRoom(c, n)
		c.body = append(c.body, room[:n]...)
	}
	c.bodyLeft -= int64(n)
	return true
}

// makeRoom sees to it that c.body is a buffer with room for n bytes more.
func (w *worker) makeRoom(c *conn, n int) {
	if c.ownBody && len(c.body)+n <= cap(c.body) {
		return
	}
	rest := c.body[c.fed:]
	if c.ownBody && len(rest)+n <= cap(c.body) {
		c.body = c.body[:copy(c.body, rest)]
	} else {
		b := append(w.pool.get(len(rest)+n), rest...)
		if c.ownBody {
			w.pool.put(c.body)
		}
		c.body, c.ownBody = b, true
	}
	c.fed = 0
}

// decode takes raw bytes of a chunked body. What follows the body is the next
// request and goes where that is looked for.
func (w *worker) decode(c *conn, raw []byte) bool {
	w.makeRoom(c, len(raw))
	out, n, done, bad := c.decoder.decode(c.body, raw, w.cfg)
	c.body = out
	if bad != nil {
		w.breakBody(c, bad)
		return false
	}
	if done {
		c.trailer, c.decoder = c.decoder.trailer, nil
		w.stash(c, raw[n:])
	}
	w.weigh(c)
	return true
}

// stash puts bytes of the next request behind this one's head, whose slices
// must stay where they are: a buffer that is too small is left to them.
func (w *worker) stash(c *conn, rest []byte) {
	if c.head+len(rest) > cap(c.in) {
		bigger := w.pool.get(c.head + len(rest))
		c.shed, c.in = c.in, append(bigger, c.in[:c.head]...)
	}
	c.in = append(c.in[:c.head], rest...)
	c.next = c.head
}

// breakBody ends a body that cannot be completed. The application is told if
// it has the request; otherwise it never hears of it.
func (w *worker) breakBody(c *conn, bad *badRequest) {
	c.upload.pause(w.now)
	switch c.state {
	case readingBody:
		w.refuse(c, bad)
	case discarding:
		w.close(c)
	default:
		if c.broken == nil {
			w.warnBad(c, bad)
		}
		c.broken = bad
	}
}

// refuse answers a client's mistake and closes.
func (w *worker) refuse(c *conn, bad *badRequest) {
	w.warnBad(c, bad)
	if c.req != nil && (bad.access || c.state != readingHead) {
		w.record(c, []byte(strconv.Itoa(bad.status)), c.state != readingHead)
	}
	w.page(c, bad)
}

func (w *worker) warnBad(c *conn, bad *badRequest) {
	w.log.warningf("Invalid request from ip=%s: %s", c.peer.remoteAddr, bad.text)
}

// page writes an error page and closes politely.
func (w *worker) page(c *conn, bad *badRequest) {
	if c.fd < 0 {
		return
	}
	c.keep, c.state = false, draining
	w.send(c, c.appendPage(nil, bad), nil)
	w.drained(c)
}

// appendPage appends an error page, without its body in answer to HEAD.
func (c *conn) appendPage(b []byte, bad *badRequest) []byte {
	at := len(b)
	b = appendErrorPage(b, bad)
	if c.req != nil && string(c.req.method) == "HEAD" {
		b = b[:at+bytes.Index(b[at:], []byte("\r\n\r\n"))+4]
	}
	return b
}

// Writing -------------------------------------------------------------------

func (c *conn) pending() bool { return len(c.out) > c.outAt || c.file >= 0 }

// send writes a and b to the client, as far as it takes them; the rest waits.
func (w *worker) send(c *conn, a, b []byte) {
	if c.fd < 0 || len(a)+len(b) == 0 {
		return
	}
	if c.file >= 0 {
		w.sendBehind(c, a, b)
		return
	}
	if c.secure != nil {
		w.seal(c, a, b)
		return
	}
	n := 0
	if !c.pending() {
		var errno syscall.Errno
		if len(b) == 0 {
			n, errno = rawWrite(c.fd, a)
		} else {
			n, errno = rawWritev(c.fd, a, b)
		}
		if errno != 0 && errno != unix.EAGAIN {
			w.lost(c)
			return
		}
		if n == len(a)+len(b) {
			return
		}
		c.given += n
	}
	if n < len(a) {
		w.put(c, a[n:])
		n = len(a)
	}
	w.put(c, b[n-len(a):])
	w.awaitTaking(c)
}

// awaitTaking is called when the kernel has no room for more of the response.
func (w *worker) awaitTaking(c *conn) {
	w.lookAtReply(c)
	w.watch(c)
}

// lookAtReply takes note of what the client has taken. The kernel tells of room
// only when there is much; what it still holds shows that a slow client is
// alive.
func (w *worker) lookAtReply(c *conn) {
	left := unsent(c.fd)
	c.reply.move(w.now, c.unsent+c.given-left, w.cfg.clientMinRate)
	c.unsent, c.given = left, 0
	c.reply.wait(w.now)
}

// refuses says whether the client takes too little of its response.
func (w *worker) refuses(c *conn) bool {
	if c.lent || !c.reply.late(w.now, w.cfg.clientSendTimeout) {
		return false // where it is lent, the sibling looks at it
	}
	w.lookAtReply(c)
	return c.reply.late(w.now, w.cfg.clientSendTimeout)
}

func (w *worker) put(c *conn, b []byte) {
	if c.outAt > 0 && len(c.out)+len(b) > cap(c.out) {
		n := copy(c.out, c.out[c.outAt:])
		c.out, c.outAt = c.out[:n], 0
	}
	for len(c.out)+len(b) > cap(c.out) {
		c.out = w.pool.grow(c.out, max(firstRead, len(b)))
	}
	c.out = append(c.out, b...)
}

// drain writes what waits for the client.
func (w *worker) drain(c *conn) {
	for len(c.out) > c.outAt {
		n, errno := rawWrite(c.fd, c.out[c.outAt:])
		if errno == unix.EAGAIN {
			w.awaitTaking(c)
			break
		}
		if errno != 0 {
			w.lost(c)
			return
		}
		c.outAt += n
		c.given += n
	}
	if len(c.out) == c.outAt {
		w.pool.put(c.out)
		c.out, c.outAt = nil, 0
		c.unread = c.unread || c.secure != nil // which may have waited for room
		if c.file >= 0 && !w.drainFile(c) {
			w.resume(c)
			return
		}
	}
	if !c.pending() {
		c.reply.pause(w.now)
	}
	if w.asgi {
		w.credit(c)
		w.pongLate(c)
	}
	w.resume(c)
	if c.fd >= 0 && c.state == draining {
		w.drained(c)
	}
}

// resume lets the lane go on once there is room for more of the response.
func (w *worker) resume(c *conn) {
	room := len(c.out)-c.outAt < resumeAt
	if c.file >= 0 {
		room = len(c.rest) == 0
	}
	if l := c.lane; l != nil && l.choked == c && room {
		w.unchoke(l)
		w.replies(l)
	}
}

// drainFile sends the file behind the head; false when the client is slow or
// the connection gone.
func (w *worker) drainFile(c *conn) bool {
	for turn := c.fileAt + turnMax; c.fileAt < c.fileEnd; {
		if c.fileAt >= turn {
			w.goOnLater(c)
			return false
		}
		n, err := w.sendFile(c)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			w.awaitTaking(c)
			return false
		case err == unix.EIO:
			w.log.errorf("%s: the file cannot be read: %v; closing the connection", c.line(), err)
			w.lost(c)
			return false
		case err != nil:
			w.lost(c)
			return false
		case n == 0:
			w.log.errorf("%s: the file became shorter while it was sent; closing the connection", c.line())
			w.lost(c)
			return false
		}
		if c.secure == nil { // which counts what it has made of it
			c.given += n
		}
	}
	rest := c.rest
	c.rest = nil
	w.closeFile(c)
	w.send(c, rest, nil)
	w.pool.put(rest)
	return c.fd >= 0
}

// sendFile sends the next piece of the file.
func (w *worker) sendFile(c *conn) (int, error) {
	if c.secure != nil {
		return w.sealFile(c)
	}
	return unix.Sendfile(c.fd, c.file, &c.fileAt, int(min(c.fileEnd-c.fileAt, feedMax)))
}

// drained goes on after a response, once it is written.
func (w *worker) drained(c *conn) {
	if c.fd < 0 {
		return
	}
	if c.file >= 0 && len(c.out) == c.outAt && !w.drainFile(c) || c.pending() {
		return
	}
	if !c.keep {
		if c.cut && (c.lent || c.endless()) {
			w.close(c) // with a reset, or what a pump takes for one
			return
		}
		if !c.cut && c.secure.sayEnd() && c.pending() {
			w.watch(c)
			return
		}
		w.leave(c)
		return
	}
	c.state = discarding
	w.discard(c)
}

// incomplete says whether more of the body is to come.
func (c *conn) incomplete() bool { return c.bodyLeft > 0 || c.decoder != nil }

// discard throws away what the application has not read, within limits, so
// that the connection can go on. Never is it taken for the next request.
func (w *worker) discard(c *conn) {
	for c.incomplete() {
		if c.junk > w.discardable() {
			w.leave(c)
			return
		}
		if c.ownBody {
			c.body, c.fed = c.body[:0], 0
		}
		if !w.readBody(c) {
			return
		}
	}
	w.nextRequest(c)
}

// nextRequest makes c ready for what follows a complete exchange.
func (w *worker) nextRequest(c *conn) {
	c.served++
	rest := c.in[c.next:]
	w.recycle(c)
	c.in = w.pool.fit(c.in, rest)
	c.state = readingHead
	w.awaitHead(c)
	if w.stopping {
		if len(c.in) == 0 && w.ending {
			w.close(c)
			return
		}
		if !w.ending && w.giveAway(c) {
			return
		}
		if c.secure != nil {
			w.stay(c)
		}
	}
	w.advance(c)
}

// goOnLater lets the others have their turn while c could go on.
func (w *worker) goOnLater(c *conn) {
	if !c.later {
		c.later = true
		w.again = append(w.again, c)
	}
}

// goOn is the turn of those that could have gone on.
func (w *worker) goOn() {
	list := w.again
	w.again = nil
	for _, c := range list {
		c.later = false
		pending := c.pending()
		if c.fd >= 0 && pending {
			w.drain(c)
		}
		if c.fd >= 0 && (!pending || c.talk != nil) { // which has two directions
			w.advance(c)
		}
		w.relieve()
	}
}

// leave closes after the last response. Closing while the client still sends
// would reset the connection and take the response away from it, so the rest
// is read and thrown away first, within limits.
func (w *worker) leave(c *conn) {
	c.secure = nil // what still comes is not worth decrypting
	_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	w.release(c)
	c.state, c.unread = lingering, true
	if c.lent { // its client may be slow, and closing now would pass for a cut
		c.expires, c.closeAt = 0, math.MaxInt64 // the sibling has the limits
	} else {
		c.expires = w.now + int64(lingerIdle)
		c.closeAt = w.now + int64(lingerLimit)
		w.resting.add(c)
	}
	w.linger(c)
}

func (w *worker) linger(c *conn) {
	for turn := 0; turn < turnMax; {
		n, end := w.receive(c, w.rbuf)
		if end || c.closeAt <= w.now {
			w.close(c)
			return
		}
		if n == 0 {
			return
		}
		turn += n
		if !c.lent {
			c.expires = w.now + int64(lingerIdle)
		}
	}
	w.goOnLater(c)
}

// lost is called when the client is gone, or deserves no more.
func (w *worker) lost(c *conn) {
	if c.state == pumping && c.lane != nil {
		c.state = inLane
	}
	switch c.state {
	case waiting:
		w.record(c, []byte("499"), true)
	case inLane:
		// Python may be at it: it is told, and what it says goes nowhere.
		l := c.lane
		w.python.giveUp[l.index].Store(c.number)
		w.log.debugf("Closing connection. The client of %s has left", c.line())
		c.forbidEnd()
		w.unplug(c)
		c.broken = leftEarly(499, "the client left")
		if c.talk != nil {
			c.talk.decoder.release()
		} else if c.decoder != nil {
			c.decoder.partial = nil
		}
		w.weigh(c)
		if l.choked == c {
			w.unchoke(l)
			w.replies(l)
		}
		if c.lane == l {
			w.feed(c)
		}
		if w.asgi && c.lane == l && !c.indirect {
			w.tellGone(c, 1006, "", -1)
		}
		return
	}
	c.forbidEnd()
	w.close(c)
}

// forbidEnd makes closing a reset when an orderly end would pass for the end of
// the body.
func (c *conn) forbidEnd() {
	if c.fd >= 0 && (c.endless() || c.state == pumping) {
		c.reset()
	}
}

// reset makes closing forget what the client has not taken.
func (c *conn) reset() {
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// endless says whether nothing but the connection's end ends the response.
func (c *conn) endless() bool {
	return c.started && !c.framing.chunked && c.framing.length < 0 && !c.framing.noBody
}

// unplug closes the client's socket and keeps the rest.
func (w *worker) unplug(c *conn) {
	if c.fd < 0 {
		return
	}
	c.unlist()
	if c.state == readingHead && !c.pending() {
		c.secure.sayEnd()
	}
	c.secure = nil
	w.part(c)
	if c.shared {
		// A thread there that still reads must not do so for ever. And epoll
		// must not go on watching what lives on, under a number that will be
		// another's.
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
		if c.watched {
			epollDel(w.ep, c.fd)
		}
	}
	w.conns[c.fd] = nil
	unix.Close(c.fd)
	c.fd = -1
	w.open--
	w.slot.connections.Store(uint64(w.open))
	w.closeFile(c)
	w.pool.put(c.out)
	c.out, c.outAt = nil, 0
	w.weigh(c)
}

func (w *worker) closeFile(c *conn) {
	if c.file >= 0 {
		size := int64(0)
		if c.filed {
			size = c.fileEnd
		}
		w.closeSpool(c.file, size)
		c.file, c.filed = -1, false
	}
	w.pool.put(c.rest)
	c.rest = nil
}

// close ends a connection of which nothing is in the lane.
func (w *worker) close(c *conn) {
	w.unplug(c)
	w.release(c)
}

// release gives back the buffers of a connection that is closed, or will be after
// what is left to be said.
func (w *worker) release(c *conn) {
	w.recycle(c)
	w.pool.put(c.in)
	c.in = nil
}

// recycle forgets a request; c.in stays for the next.
func (w *worker) recycle(c *conn) {
	if c.req != nil {
		c.req.reset()
		if len(w.idle) < poolKeep && cap(c.req.fields) <= fewFields {
			w.idle = append(w.idle, c.req)
		}
		c.req = nil
	}
	if c.ownBody {
		w.pool.put(c.body)
	}
	w.dropSpooled(c)
	w.pool.put(c.shed)
	c.shed = nil
	c.body, c.fed, c.ownBody = nil, 0, false
	c.bodyLeft, c.decoder, c.broken = 0, nil, nil
	c.trailer, c.trailed = nil, false
	c.upload, c.reply, c.unsent, c.given = passage{}, passage{}, 0, 0
	c.asked, c.told, c.indirect, c.lane, c.want, c.owed = false, false, false, nil, 0, 0
	if c.talk != nil {
		c.talk.decoder.release()
		w.talks--
	}
	c.hello, c.talk = nil, nil
	c.taken = false
	c.started, c.refused, c.dropped, c.keep, c.cut = false, false, false, false, false
	c.framing, c.meta, c.sent, c.burst = framing{}, nil, 0, 0
	c.tried, c.head, c.next, c.junk = 0, 0, 0, 0
	c.begun, c.number = 0, 0
	w.weigh(c)
}

func (w *worker) newRequest() *request {
	if n := len(w.idle); n > 0 {
		r := w.idle[n-1]
		w.idle = w.idle[:n-1]
		return r
	}
	r := &request{}
	r.reset()
	return r
}

// line names a request for the log: "GET /path".
func (c *conn) line() string {
	if c.req == nil || len(c.req.target) == 0 {
		return "(no URI read)"
	}
	return printable(c.req.method) + " " + printable(c.req.target)
}

// Hand-over -----------------------------------------------------------------

// giveAway hands a connection to whichever worker is free first, with the bytes
// read so far. It fails when the socket between them is full, or the request is
// too long for a message; then the connection stays.
func (w *worker) giveAway(c *conn) bool {
	if w.ending || c.fd < 0 || c.pending() || c.decoder != nil || c.req != nil && c.req.chunked && c.state != readingHead {
		return false
	}
	if c.secure != nil {
		return c.state == waiting && (w.stopping || w.now-c.since >= int64(lendAfter)) && w.lend(c)
	}
	if err := w.sendAway(c, c.fd, c.lent); err != nil {
		w.watch(c) // once: an event of its own each time would have us try without a pause
		return false
	}
	if c.watched {
		epollDel(w.ep, c.fd) // the kernel would keep watching: the socket lives on
		c.watched = false
	}
	w.close(c)
	return true
}

// sendAway sends a descriptor and what is known of its connection.
func (w *worker) sendAway(c *conn, fd int, lent bool) error {
	in, body := c.in, []byte(nil)
	if c.ownBody {
		in, body = c.in[:c.head], c.body
	}
	if len(in)+len(body)+len(c.peer.facts) > queueMax-1024 || c.spooled != nil {
		return unix.EMSGSIZE
	}
	proxy := c.peer.proxy
	if proxy == nil {
		proxy = &proxied{}
	}
	b := appendMarshalTuple(w.fbuf[:0], 15)
	b = appendMarshalBool(b, c.peer.unix)
	b = appendMarshalText(b, c.peer.serverName)
	b = appendMarshalText(b, c.peer.serverPort)
	b = appendMarshalText(b, c.peer.remoteAddr)
	b = appendMarshalText(b, c.peer.remotePort)
	b = appendMarshalBool(b, c.opening)
	b = appendMarshalText(b, proxy.protocol)
	b = appendMarshalText(b, proxy.addr)
	b = appendMarshalText(b, proxy.port)
	b = appendMarshalInt(b, int64(c.served))
	b = appendMarshalBytes(b, in)
	b = appendMarshalBytes(b, body)
	b = appendMarshalBool(b, lent)
	b = appendMarshalBool(b, c.trusted)
	b = appendMarshalBytes(b, c.peer.facts)
	w.fbuf = b[:0]
	return unix.Sendmsg(w.giveFD, b, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// takeOver receives a connection as accept would a new one; false when there is
// none.
func (w *worker) takeOver() bool {
	b := w.pool.get(2 * queueMax)
	defer w.pool.put(b)
	n, fd, errno := rawRecvmsg(w.takeFD, b[:cap(b)])
	if errno != 0 || fd < 0 {
		return false
	}
	r := &marshalReader{b: b[:n]}
	var peer endpoint
	r.sequence()
	peer.unix = r.bool()
	peer.serverName, peer.serverPort = string(r.text()), string(r.text())
	peer.remoteAddr, peer.remotePort = string(r.text()), string(r.text())
	opening := r.bool()
	proxy := proxied{string(r.text()), string(r.text()), string(r.text())}
	served := int(r.int())
	in, body := r.bytes(), r.bytes()
	lent, trusted, facts := r.bool(), r.bool(), r.bytes()
	if r.err != nil {
		w.log.errorf("hand-over: %v", r.err)
		unix.Close(fd)
		return true
	}
	if proxy.protocol != "" {
		peer.proxy = &proxy
	}
	if w.full() {
		w.makeWay()
	}
	// The socket knows whom to trust; the address may be a proxy's word.
	c := w.add(fd, peer, peer.unix || !lent && w.trusts(fd) || lent && trusted)
	c.served, c.lent = served, lent
	if lent {
		c.peer.https, c.peer.facts = true, append([]byte(nil), facts...)
	} else {
		w.introduce(c, opening)
	}
	if len(in)+len(body) > 0 {
		c.in = append(append(w.pool.get(len(in)+len(body)), in...), body...)
	}
	w.awaitHead(c)
	w.advance(c)
	return true
}

// trusts says whether the peer of a TCP socket is one of forwarded_allow_ips.
func (w *worker) trusts(fd int) bool {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return false // it has left
	}
	peer := addrPort(sa)
	return peer.IsValid() && w.cfg.forwardedAllowIPs.has(peer.Addr())
}

// Buffers -------------------------------------------------------------------

// pool keeps buffers of a few sizes for reuse, and the account of all that is held
// for clients (memory.go).
type pool struct {
	free  [poolClasses][][]byte
	out   int // bytes held, with what is weighed
	limit int // that out is brought back to
}

const (
	poolSmallest = 512
	poolClasses  = 13 // up to poolLongest; longer ones are not kept
	poolLongest  = poolSmallest << (poolClasses - 1)
	poolLarge    = 8  // 128 KB
	poolKeep     = 64 // of each size, and no more of it than this part of the limit
	poolKeepPart = 32
)

// class is the index of the smallest size that holds n. Sizes double up to the longest
// that is kept; from there on they are whole megabytes, as half of a large buffer would
// be a lot of nothing.
func poolClass(n int) (class, size int) {
	if n > poolLongest {
		return poolClasses, (n + 1<<20 - 1) &^ (1<<20 - 1)
	}
	for size = poolSmallest; size < n; size *= 2 {
		class++
	}
	return class, size
}

// get returns an empty buffer with room for n bytes at least.
func (p *pool) get(n int) []byte {
	class, size := poolClass(n)
	p.out += size
	if class < poolClasses {
		if list := p.free[class]; len(list) > 0 {
			b := list[len(list)-1]
			p.free[class] = list[:len(list)-1]
			return b
		}
	}
	return make([]byte, 0, size)
}

func (p *pool) put(b []byte) {
	if cap(b) == 0 {
		return
	}
	class, size := poolClass(cap(b))
	p.out -= size
	if size == cap(b) && class < poolClasses && len(p.free[class]) < max(1, min(poolKeep, p.limit/poolKeepPart/size)) {
		p.free[class] = append(p.free[class], b[:0])
	}
}

// extend appends what was read to b: in a buffer that is no larger than it must
// be, as the next byte may be long in coming.
func (p *pool) extend(b, read []byte) []byte {
	if len(read) == 0 {
		return b
	}
	if len(b)+len(read) > cap(b) {
		bigger := append(p.get(len(b)+len(read)), b...)
		p.put(b)
		b = bigger
	}
	return append(b, read...)
}

// fit returns rest, a part of b, in a buffer of its size: none if it is empty.
func (p *pool) fit(b, rest []byte) []byte {
	if _, size := poolClass(len(rest)); len(rest) > 0 && size == cap(b) {
		return b[:copy(b, rest)]
	}
	rest = p.extend(nil, rest)
	p.put(b)
	return rest
}

// grow returns b's content in a buffer with room for n bytes more, twice as
// large at least, or by a quarter when that is much.
func (p *pool) grow(b []byte, n int) []byte {
	bigger := append(p.get(max(cap(b)+max(min(cap(b), poolLongest), cap(b)/4), len(b)+n)), b...)
	p.put(b)
	return bigger
}

// trim lets go of one large buffer of each size, so that what a burst needed
// does not stay for ever.
func (p *pool) trim() {
	for class := poolLarge; class < poolClasses; class++ {
		if n := len(p.free[class]); n > 0 {
			p.free[class][n-1] = nil
			p.free[class] = p.free[class][:n-1]
		}
	}
}
