package main

// One client's connection: a small state machine that reads requests, waits
// while Python has one, and drains the response at the client's pace. What it
// holds in memory is bounded, and so is every wait.

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The states of a connection, and what brings it from one to another:
//
//	handshaking --TLS is agreed--> open <--the pump ends--> pumping
//	     |                          |                          |
//	     |        the last response is written                 |
//	     |                          v                          |
//	     +---------- alert ---> lingering <--------------------+
//
// A connection in any of them is gone when its client is lost or has to go; the loop
// buries it at the end of its turn.
type connState uint8

const (
	open        connState = iota // idle, or its turn says more
	handshaking                  // waits for the first byte of a TLS handshake, or for its end
	pumping                      // somebody else speaks for it
	lingering                    // the last response is written: what still comes is thrown away
)

// The states of a turn:
//
//	readingHead --> readingBody --> waiting <--> inLane --> draining --> discarding --> (idle)
//	     |               |             |                        ^
//	     +---------------+-------------+----error page----------+
//
// A request that Python has not begun is taken back from inLane to waiting. Of a turn
// that is over nothing remains.
type turnState uint8

const (
	readingHead turnState = iota
	readingBody           // until it ends, or a lane may begin with what is there
	waiting               // for a lane
	inLane                // in the queue, or Python has it
	draining              // the response is complete and not yet all written
	discarding            // a rest of the request's body that the application has not read
)

// Pairs of states that may follow each other, by the state that is left.
var (
	connSteps = [...][]connState{
		open:        {handshaking, pumping, lingering},
		handshaking: {open, lingering},
		pumping:     {open, lingering},
		lingering:   {},
	}
	turnSteps = [...][]turnState{
		readingHead: {readingBody, draining},
		readingBody: {waiting, draining},
		waiting:     {inLane, draining},
		inLane:      {waiting, draining},
		draining:    {discarding},
		discarding:  {},
	}
)

// strict makes a step that no table has a panic, as tests want it.
var strict bool

// enter is the one place where a connection's state changes.
func (c *conn) enter(s connState) {
	if strict && !slices.Contains(connSteps[c.state], s) {
		panic(fmt.Sprintf("a connection goes from state %d to %d", c.state, s))
	}
	c.state = s
}

// enter is the one place where a turn's state changes.
func (t *turn) enter(s turnState) {
	if strict && !slices.Contains(turnSteps[t.state], s) {
		panic(fmt.Sprintf("a turn goes from state %d to %d", t.state, s))
	}
	t.state = s
}

// conn is one client.
type conn struct {
	fd      int // -1 once buried
	state   connState
	gone    bool  // the client is lost or has to go: the loop buries this connection
	watched bool  // epoll watches the socket: edge-triggered, from then on
	unread  bool  // the socket may hold bytes, or an end, not seen yet
	ending  bool  // an end has been announced: reading goes on until it is seen
	later   bool  // waits for the next turn of the loop, others having their share
	trusted bool  // by the address of the socket's peer, whatever a proxy says
	opening bool  // a PROXY header may come
	lent    bool  // the TLS is a sibling's, which lends this connection for one request
	shared  bool  // the application has seen the socket, and may have it open for longer than its request takes
	keep    bool  // another request may follow
	cut     bool  // the response ended where it must not
	served  int   // requests before this one
	expires int64 // when the wait for a head, the idle time or lingering ends; 0 for never
	closeAt int64 // when lingering ends, whatever still comes
	shaken  int64 // when the handshake began, or began to wait for its place
	lagged  int64 // since when a part of something is there
	peer    endpoint
	secure  *secure // nil without TLS
	pump    *pump   // where another speaks for this connection

	list          *idlers // the worker's list that this connection is in
	before, after *conn   // its neighbours there

	weight int   // bytes held beside the pool's buffers, as last weighed
	slow   uint8 // seconds for which the client has been waited for while something was held for it

	in    []byte // from the head's first byte on
	tried int    // bytes of in that parse has seen
	output

	turn *turn // nil while idle
}

// output is what waits for the client to take it.
type output struct {
	out     []byte // out[outAt:] is not written yet
	outAt   int
	unsent  int // bytes that the kernel held for the client when last looked at
	given   int // bytes that the kernel was given since
	reply   passage
	file    int // descriptor of the file that comes after out, -1 for none
	fileAt  int64
	fileEnd int64
	filed   bool   // the file is the spool's
	rest    []byte // comes after the file
}

// owed is what Python is still to be given of a request, on its demand.
type owed uint8

const (
	owesNothing owed = iota // the message had all of it, or it has been given since
	owesEnviron             // the environ, which was too long for a message, and then the body
	owesBody                // the body
	owesTrailer             // the body, and then the trailer, which had not come when the environ was made
	toldBroken              // nothing: Python knows that the body will never be complete
)

// supply is what Python gets of a request on its demand.
type supply struct {
	owed    owed        // what Python is still to be given
	want    int         // bytes for which Python waits, 0 for none
	broken  *badRequest // why the body will never be complete
	thirsty bool        // listed as waiting for room on the wire
}

// turn is one request and its response.
type turn struct {
	conn     *conn
	state    turnState
	shed     []byte // the buffer that the head's slices are in, when that is no longer in
	head     int    // length of the parsed head
	next     int    // where in in the next request begins
	req      request
	body     []byte // bytes not yet given to Python are body[fed:]
	fed      int
	ownBody  bool     // body is a buffer of its own, not a part of in
	bodyLeft int64    // to be read from the client
	spooled  *spooled // comes before body; nil for nothing
	upload   passage
	decoder  *chunkedDecoder
	trailer  []field // of a body that has been read to its end
	supply
	taken      bool         // the application has the socket
	hello      *wsHandshake // the request asks for a WebSocket, and has no answer yet
	talk       *talk        // it is one
	uncredited int          // bytes of the response for which Python has no credit yet
	lane       *lane        // that has the request
	number     uint32       // of the request there
	message    uint32       // number of the first in the message that it came in
	since      int64        // when it began to wait for one
	begun      int64        // when it was given to the lane
	started    bool         // the response's head is made
	refused    bool         // what the application still says goes nowhere
	dropped    bool         // and was too much for a client, which has its whole response
	framing    framing
	status     []byte
	meta       []byte // of the response, for the access log, when it came in several frames
	sent       int64  // bytes of body from the application
	burst      int    // bytes that went into the spool since others had their turn
	junk       int    // bytes thrown away
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
	if c.watched || c.gone {
		return
	}
	if err := w.listen(c.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, c); err != nil {
		w.log.errorf("%v", err)
		w.lost(c)
		return
	}
	c.watched = true
}

// ready handles an event on the client's socket.
func (c *conn) ready(w *worker, _ int, events uint32) {
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.unread = true
		c.ending = c.ending || events&^(unix.EPOLLIN|unix.EPOLLOUT) != 0
		if c.secure != nil {
			c.secure.dry = false
		}
	}
	switch {
	case c.gone:
	case c.state == handshaking:
		w.greet(c, events)
	case events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 && !c.reading(),
		events&unix.EPOLLRDHUP != 0 && w.python.gateway.watches && c.awaitsHead() && (c.secure != nil || ended(c.fd)):
		w.lost(c)
	default:
		if events&unix.EPOLLOUT != 0 && c.pending() {
			w.drain(c)
		}
		w.advance(c)
	}
}

// between reports whether no request is complete up to its head: c is idle, or a head comes.
func (c *conn) between() bool {
	return c.state == open && (c.turn == nil || c.turn.state == readingHead)
}

// reading reports whether all that is due is more of a request.
func (c *conn) reading() bool {
	return c.between() || c.state == open && c.turn.state == readingBody
}

// awaitsHead reports whether a request is complete and with Python, and is no WebSocket.
func (c *conn) awaitsHead() bool {
	t := c.turn
	return c.state == open && t != nil && t.state == inLane && !t.incomplete() && t.talk == nil
}

// Reading -------------------------------------------------------------------

// advance takes c as far as the bytes that are there lead.
func (w *worker) advance(c *conn) {
	for more := true; more && !c.gone; {
		switch {
		case c.state == handshaking:
			w.watch(c) // greet hears of the first byte
			if c.secure == nil {
				w.readHello(c)
			}
			return
		case c.state == pumping:
			w.move(c)
			return
		case c.state == lingering:
			w.linger(c)
			return
		case !c.between():
			more = w.advanceTurn(c.turn)
		case len(c.in) > c.tried:
			more = w.parse(c)
		default:
			more = w.readHead(c)
		}
	}
}

// advanceTurn goes on with a request whose head is complete; false when that needs
// something to happen.
func (w *worker) advanceTurn(t *turn) bool {
	switch t.state {
	case readingBody:
		switch {
		case !t.incomplete() || w.overflows(t) && !w.spill(t):
			w.enqueue(t)
		case t.burst >= turnMax:
			t.burst = 0
			w.goOnLater(t.conn)
		case w.readBody(t):
			return true
		case t.state != readingBody:
		case w.python.gateway.early:
			w.enqueue(t)
		default:
			w.lag(t.conn)
		}
	case inLane:
		w.feed(t)
	case discarding:
		w.discard(t)
	}
	return false
}

// receive reads once into the free part of b. n is 0 when nothing is there;
// end says that nothing will come any more.
func (w *worker) receive(c *conn, b []byte) (n int, end bool) {
	if !c.unread || c.gone {
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
		c.lagged = w.now
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
func (w *worker) readProxy(c *conn) bool {
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
		c.peer.setClient(h)
		c.in = w.pool.fit(c.in, c.in[n:])
		c.opening, c.tried = false, 0
	}
	return true
}

// parse looks at the head: false when the request is refused.
func (w *worker) parse(c *conn) bool {
	if c.opening {
		if !w.readProxy(c) {
			return false
		}
		if !c.opening && w.tls != nil {
			c.enter(handshaking)
			w.awaitHead(c)
		} else if c.opening {
			w.lag(c)
		}
		return true
	}
	if c.turn == nil {
		c.turn = w.newTurn(c)
	}
	c.tried = len(c.in)
	n, bad := c.turn.req.parse(c.in, w.cfg, c.trusted)
	if bad == nil && n > 0 {
		bad = c.turn.req.checkScriptName(w.scriptName)
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
	c.turn.head, c.turn.next = n, n
	c.expires = 0
	c.turn.enter(readingBody)
	w.weigh(c)
	if limit := w.cfg.limitRequestBody; limit > 0 && c.turn.req.contentLength > limit {
		w.refuse(c, badBodyLimit(limit))
		return false
	}
	if g := w.python.gateway; g.greet != nil && c.turn.req.upgrades && !g.greet(w, c.turn) {
		return false
	}
	rest := c.in[n:]
	switch {
	case c.turn.req.chunked:
		c.turn.decoder = &chunkedDecoder{}
		if len(rest) > 0 {
			return w.decode(c.turn, rest)
		}
	case c.turn.req.contentLength > 0:
		take := int(min(c.turn.req.contentLength, int64(len(rest))))
		c.turn.body = rest[:take:take]
		c.turn.next = n + take
		c.turn.bodyLeft = c.turn.req.contentLength - int64(take)
	}
	if c.turn.req.expect && len(rest) == 0 && (c.turn.decoder != nil || c.turn.bodyLeft > 0) {
		w.send(c, []byte("HTTP/1.1 100 Continue\r\n\r\n"), nil)
	}
	return !c.gone
}

// readBody reads more of a body; false when nothing more is there now.
func (w *worker) readBody(t *turn) bool {
	room, direct := w.rbuf, false
	if t.decoder == nil {
		if free := cap(t.body) - len(t.body); t.ownBody && (free >= len(w.rbuf) || int64(free) >= t.bodyLeft) {
			direct = true
			room = t.body[len(t.body):cap(t.body)]
		}
		room = room[:min(int64(len(room)), t.bodyLeft)]
	}
	n, end := w.receive(t.conn, room)
	if end {
		w.breakBody(t, leftEarly(400, "the client left before its request was complete"))
		return false
	}
	if n == 0 {
		t.upload.wait(w.now)
		return false
	}
	t.upload.move(w.now, n, w.cfg.clientMinRate)
	if t.state == discarding {
		t.junk += n
	}
	if t.decoder != nil {
		return w.decode(t, room[:n])
	}
	if direct {
		t.body = t.body[:len(t.body)+n]
	} else {
		w.makeRoom(t, n)
		t.body = append(t.body, room[:n]...)
	}
	t.bodyLeft -= int64(n)
	return true
}

// readAhead reads a body up to the limit, so that the application finds it here, and not
// before there is much room: the rest has to be moved to make it.
func (w *worker) readAhead(t *turn) {
	for room := w.holdable() / 2; len(t.body)-t.fed < room && t.broken == nil && t.incomplete(); {
		room = w.holdable()
		if !w.readBody(t) {
			return
		}
	}
	t.upload.pause(w.now)
}

// makeRoom sees to it that c.body is a buffer with room for n bytes more.
func (w *worker) makeRoom(t *turn, n int) {
	if t.ownBody && len(t.body)+n <= cap(t.body) {
		return
	}
	rest := t.body[t.fed:]
	if t.ownBody && len(rest)+n <= cap(t.body) {
		t.body = t.body[:copy(t.body, rest)]
	} else {
		b := append(w.pool.get(len(rest)+n), rest...)
		if t.ownBody {
			w.pool.put(t.body)
		}
		t.body, t.ownBody = b, true
	}
	t.fed = 0
}

// decode takes raw bytes of a chunked body. What follows the body is the next
// request and goes where that is looked for.
func (w *worker) decode(t *turn, raw []byte) bool {
	w.makeRoom(t, len(raw))
	out, n, done, bad := t.decoder.decode(t.body, raw, w.cfg)
	t.body = out
	if bad != nil {
		w.breakBody(t, bad)
		return false
	}
	if done {
		t.trailer, t.decoder = t.decoder.trailer, nil
		w.stash(t, raw[n:])
	}
	w.weigh(t.conn)
	return true
}

// stash puts bytes of the next request behind this one's head, whose slices
// must stay where they are: a buffer that is too small is left to them.
func (w *worker) stash(t *turn, rest []byte) {
	if t.head+len(rest) > cap(t.conn.in) {
		bigger := w.pool.get(t.head + len(rest))
		t.shed, t.conn.in = t.conn.in, append(bigger, t.conn.in[:t.head]...)
	}
	t.conn.in = append(t.conn.in[:t.head], rest...)
	t.next = t.head
}

// breakBody ends a body that cannot be completed. The application is told if
// it has the request; otherwise it never hears of it.
func (w *worker) breakBody(t *turn, bad *badRequest) {
	t.upload.pause(w.now)
	switch t.state {
	case readingBody:
		w.refuse(t.conn, bad)
	case discarding:
		w.close(t.conn)
	default:
		if t.broken == nil {
			w.warnBad(t.conn, bad)
		}
		t.broken = bad
	}
}

// refuse answers a client's mistake and closes.
func (w *worker) refuse(c *conn, bad *badRequest) {
	w.warnBad(c, bad)
	if parsed := !c.between(); c.turn != nil && (bad.access || parsed) {
		w.record(c.turn, []byte(strconv.Itoa(bad.status)), parsed)
	}
	w.page(c, bad)
}

func (w *worker) warnBad(c *conn, bad *badRequest) {
	w.log.warningf("Invalid request from ip=%s: %s", c.peer.remoteAddr, bad.text)
}

// page writes an error page and closes politely.
func (w *worker) page(c *conn, bad *badRequest) {
	if c.gone {
		return
	}
	if c.turn == nil {
		c.turn = w.newTurn(c) // of which nothing was read
	}
	c.keep = false
	c.turn.enter(draining)
	w.send(c, c.turn.appendPage(nil, bad), nil)
	w.drained(c)
}

// appendPage appends an error page, without its body in answer to HEAD.
func (t *turn) appendPage(b []byte, bad *badRequest) []byte {
	at := len(b)
	b = appendErrorPage(b, bad)
	if string(t.req.method) == "HEAD" {
		b = b[:at+bytes.Index(b[at:], []byte("\r\n\r\n"))+4]
	}
	return b
}

// Writing -------------------------------------------------------------------

func (c *conn) pending() bool { return len(c.out) > c.outAt || c.file >= 0 }

// send writes a and b to the client, as far as it takes them; the rest waits.
func (w *worker) send(c *conn, a, b []byte) {
	if c.gone || len(a)+len(b) == 0 {
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
	for len(c.out) > c.outAt && !c.gone {
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
	if l := c.lane(); l != nil {
		l.clientTook(w, c.turn)
	}
	w.resume(c)
	if t := c.turn; t != nil && t.state == draining {
		w.drained(c)
	}
}

// resume lets the lane go on once there is room for more of the response.
func (w *worker) resume(c *conn) {
	room := len(c.out)-c.outAt < resumeAt
	if c.file >= 0 {
		room = len(c.rest) == 0
	}
	if l := c.lane(); l != nil && l.choked == c.turn && room {
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
			w.log.errorf("%s: the file cannot be read: %v; closing the connection", c.turn.line(), err)
			w.lost(c)
			return false
		case err != nil:
			w.lost(c)
			return false
		case n == 0:
			w.log.errorf("%s: the file became shorter while it was sent; closing the connection", c.turn.line())
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
	return !c.gone
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
	if c.gone || c.file >= 0 && len(c.out) == c.outAt && !w.drainFile(c) || c.pending() {
		return
	}
	if c.keep {
		c.turn.enter(discarding)
		w.discard(c.turn)
		return
	}
	if c.cut && (c.lent || c.turn != nil && c.turn.endless()) {
		w.close(c) // with a reset, or what a pump takes for one
		return
	}
	if !c.cut && c.secure.sayEnd() && c.pending() {
		w.watch(c)
		return
	}
	w.leave(c)
}

// incomplete says whether more of the body is to come.
func (t *turn) incomplete() bool { return t.bodyLeft > 0 || t.decoder != nil }

// discard throws away what the application has not read, within limits, so
// that the connection can go on. Never is it taken for the next request.
func (w *worker) discard(t *turn) {
	for t.incomplete() {
		if t.junk > w.python.gateway.discardable {
			w.leave(t.conn)
			return
		}
		if t.ownBody {
			t.body, t.fed = t.body[:0], 0
		}
		if !w.readBody(t) {
			return
		}
	}
	w.nextRequest(t.conn)
}

// nextRequest makes c ready for what follows a complete exchange.
func (w *worker) nextRequest(c *conn) {
	c.served++
	rest := c.in[c.turn.next:]
	w.recycle(c)
	c.in = w.pool.fit(c.in, rest)
	w.awaitHead(c)
	if w.stopping() {
		if len(c.in) == 0 && w.draining() {
			w.close(c)
			return
		}
		if !w.draining() && w.giveAway(c) {
			return
		}
		if c.secure != nil {
			w.stay(c)
		}
	}
	w.advance(c)
}

// leave closes after the last response. Closing while the client still sends
// would reset the connection and take the response away from it, so the rest
// is read and thrown away first, within limits.
func (w *worker) leave(c *conn) {
	c.secure = nil // what still comes is not worth decrypting
	_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	w.release(c)
	c.enter(lingering)
	c.unread = true
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

// orphan lets Python know that the client of a request has left.
func (w *worker) orphan(t *turn) {
	l := t.lane
	w.python.giveUp[l.index].Store(t.number)
	w.log.debugf("Closing connection. The client of %s has left", t.line())
	t.broken = leftEarly(499, "the client left")
	if t.talk != nil {
		t.talk.decoder.release()
	} else if t.decoder != nil {
		t.decoder.partial = nil
	}
	w.weigh(t.conn)
	if l.choked == t {
		w.unchoke(l)
		w.replies(l)
	}
	if t.lane == l {
		w.feed(t)
	}
	if t.lane == l {
		l.clientLeft(w, t)
	}
}

// forbidEnd makes closing a reset when an orderly end would pass for the end of
// the body.
func (c *conn) forbidEnd() {
	if !c.gone && (c.turn != nil && c.turn.endless() || c.state == pumping) {
		c.reset()
	}
}

// reset makes closing forget what the client has not taken.
func (c *conn) reset() {
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// endless says whether nothing but the connection's end ends the response.
func (t *turn) endless() bool {
	return t.started && !t.framing.chunked && t.framing.length < 0 && !t.framing.noBody
}

// unplug closes the client's socket and keeps the rest.
func (w *worker) unplug(c *conn) {
	c.unlist()
	if c.between() && !c.cut && !c.pending() { // close has forgotten the turn of a response that was cut off
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
			w.forget(c.fd)
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

// release gives back the buffers of a connection that is closed, or will be after
// what is left to be said.
func (w *worker) release(c *conn) {
	w.recycle(c)
	w.pool.put(c.in)
	c.in = nil
}

// recycle forgets a request; c.in stays for the next.
func (w *worker) recycle(c *conn) {
	t := c.turn
	c.turn, c.tried, c.reply, c.unsent, c.given = nil, 0, passage{}, 0, 0
	if t != nil {
		if t.ownBody {
			w.pool.put(t.body)
		}
		w.dropSpooled(t)
		w.pool.put(t.shed)
		if t.talk != nil {
			t.talk.decoder.release()
			w.talks--
		}
		t.body, t.fed, t.ownBody, t.shed, t.talk, t.lane = nil, 0, false, nil, nil, nil
		w.spent = append(w.spent, t)
	}
	w.weigh(c)
}

// newTurn is for a request of which the first bytes have come.
func (w *worker) newTurn(c *conn) *turn {
	if n := len(w.idle); n > 0 {
		t := w.idle[n-1]
		w.idle = w.idle[:n-1]
		t.conn = c
		return t
	}
	t := &turn{conn: c}
	t.req.reset()
	return t
}

// reuse keeps a turn that is over for another request. Lists of those that wait may
// still have one that waited.
func (w *worker) reuse(t *turn) {
	if t.state == waiting || len(w.idle) >= poolKeep || cap(t.req.fields) > fewFields {
		return
	}
	fields, upper := t.req.fields, t.req.upper
	*t = turn{status: t.status[:0]}
	t.req.fields, t.req.upper = fields, upper
	t.req.reset()
	w.idle = append(w.idle, t)
}

// lane is where the request is that c has, nil for nowhere.
func (c *conn) lane() *lane {
	if c.turn == nil {
		return nil
	}
	return c.turn.lane
}

// line names a request for the log: "GET /path".
func (t *turn) line() string {
	if t == nil || len(t.req.target) == 0 {
		return "(no URI read)"
	}
	return printable(t.req.method) + " " + printable(t.req.target)
}
