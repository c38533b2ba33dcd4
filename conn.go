package main

// One client's connection, and its turns: a turn is one request and its response. Both
// are small state machines, which read a request, wait while Python has the request,
// and write the response at the client's pace. The memory of a connection is bounded,
// and so is each of its waits.

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// The states of a connection, and what leads from one to another:
//
//	handshaking --agreed or failed--> open --a pump joins--> pumping
//	                                   |  <--the pump ends---
//	            the last response, or the alert, is written
//	                                   v
//	                               lingering
//
// A connection opens in the state open, and enters handshaking at once, or after its
// PROXY header, if TLS is on. In any state it can be marked gone, when its client has
// left or has to leave; the loop buries marked connections at the end of its turn.
type connState uint8

const (
	open        connState = iota // idle, or in the state that its turn has
	handshaking                  // a TLS handshake is expected or under way
	pumping                      // a pump joins the client to a sibling or to the application (handover.go)
	lingering                    // the last response is written; bytes that still come are thrown away
)

// The states of a turn:
//
//	readingHead --> readingBody --> waiting <--> inLane --> draining --> discarding --> (idle)
//	     |               |             |                        ^
//	     +---------------+-------------+----error page----------+
//
// A request that Python has not begun can be taken back, from inLane to waiting. A
// turn that is over is forgotten: its connection has none while it is idle.
type turnState uint8

const (
	readingHead turnState = iota // the request's head is incomplete
	readingBody                  // the body is read, until it is complete or an application may have its beginning
	waiting                      // the request waits for a lane
	inLane                       // the request is in a lane's queue, or Python has it
	draining                     // the response is complete, but not all written yet
	discarding                   // the body's rest, which the application has not read, is thrown away
)

// The states that may follow each state.
var (
	connSteps = [...][]connState{
		open:        {handshaking, pumping, lingering},
		handshaking: {open},
		pumping:     {open},
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

// strict is set by tests: a step that is not in the tables then panics.
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

// conn is the connection of one client. Times are those of the loop's clock.
type conn struct {
	fd        int // the client's socket, noSocket for a stream of HTTP/2, -1 once buried
	state     connState
	gone      bool   // marked: the loop closes this connection at the end of its turn
	watched   bool   // epoll watches the socket, edge-triggered
	unread    bool   // the socket may hold bytes or an end that have not been read
	ending    bool   // epoll has announced the client's end: read until the end is seen
	dry       bool   // with TLS: the socket has no bytes until the next event, but crypto/tls may have some
	later     bool   // put off to the next turn of the loop, so that others get their share
	trusted   bool   // the socket's peer is in forwarded_allow_ips, whatever a PROXY header says
	opening   bool   // a PROXY header may still come first
	lent      bool   // the socket leads to the pump of a sibling, which has the client's TLS
	shared    bool   // the application has the socket too, perhaps for longer than its request
	keep      bool   // another request may follow the current one
	cut       bool   // the response broke off before its end
	served    int    // requests served before the current one
	client    uint64 // key under which the census counts the connection, 0 if it does not
	expires   int64  // when the wait for a head or a handshake, the idle time or lingering ends; 0 for never
	closeAt   int64  // when lingering ends, even if the client still sends
	shaken    int64  // when the handshake began, or began to wait for its turn
	listed    int64  // when it came into the list of idlers that it is in
	peer      endpoint
	carrier   *carrier  // the HTTP/2 on this socket, nil for HTTP/1.1
	pump      *pump     // joins the client to a sibling or to the application, nil for none
	transport transport // carries the bytes: a socket, TLS on a socket, or a stream of HTTP/2

	list          *idlers // the worker's list that this connection is in
	before, after *conn   // neighbours in that list

	weight int   // bytes of memory beside the pool's buffers, as weigh last found them
	slow   uint8 // seconds for which the client has kept memory in use by being slow

	in    []byte // bytes received, from the first byte of the current head on
	tried int    // length of in when parse last looked
	output

	turn *turn // the current request and its response, nil while idle
}

// output is the part of responses that the client has not taken yet: first out, then a
// file, then rest.
type output struct {
	out     []byte  // bytes for the client, of which out[outAt:] are not written yet
	outAt   int     // bytes of out already written
	unsent  int     // bytes in the kernel's send buffer, as meter last found them
	given   int     // bytes written to the kernel since meter last looked
	reply   passage // how long the client has stalled the response
	file    int     // descriptor of the file that follows out, -1 for none
	fileAt  int64   // offset of the file's next byte
	fileEnd int64   // offset at which the file's part of the response ends
	filed   bool    // the file belongs to the spool
	rest    []byte  // bytes that follow the file
}

// turn is one request and its response.
type turn struct {
	conn     *conn
	state    turnState
	shed     []byte // former buffer of conn.in, to which the slices of req still point
	head     int    // length of the parsed head
	next     int    // offset in conn.in at which the next request begins
	req      request
	body     []byte          // bytes of the request's body, of which Python does not have body[fed:] yet
	fed      int             // bytes of body given to Python
	store    bodyStore       // the memory that body is in
	bodyLeft int64           // bytes of a body with Content-Length that have not been received
	spooled  *spooled        // the part of the body in the spool, which precedes body; nil for none
	upload   passage         // how long the client has stalled the body
	decoder  *chunkedDecoder // decodes a chunked body, nil once the body is complete
	trailer  []field         // the trailer of a chunked body that is complete
	supply
	own        answerer     // answers in place of Python, unless it leaves the request to the application; nil for none
	taken      bool         // the application has taken over the connection
	aside      aside        // whether the client may have left (overload)
	settings   []byte       // the client's settings, if it asks for HTTP/2 by Upgrade
	hello      *wsHandshake // a WebSocket's opening handshake that is not answered yet, nil for none
	talk       *talk        // the WebSocket, once its handshake is answered; nil for none
	uncredited int          // bytes of the response received since Python was last given credit
	lane       *lane        // the lane that has the request, nil for none
	number     uint32       // number of the request in its frames
	message    uint32       // number of the first request in this request's message
	since      int64        // when the request began to wait for a lane
	begun      int64        // when the request was written into its lane, 0 for in none
	result
	id, idName []byte // the request's id, and the name of its field; nil without request_id_header
	burst      int    // bytes written to the spool since other connections had their share
	junk       int    // bytes of the request's body thrown away
}

// result has the known facts about a turn's response.
type result struct {
	started bool    // the response's head is made
	refused bool    // body bytes that the application still sends are ignored
	dropped bool    // body bytes were ignored because the response was already complete
	framing framing // how the response's end is told
	status  []byte  // the response's status line, without the version
	logged  bool    // Python writes the access log's line
	meta    []byte  // status and headers of a response in several frames, kept for the access log
	sent    int64   // bytes of the response's body from the application
}

// watch puts c under the loop's watch, once, for both directions and edge-triggered:
// no further system call is needed however often the connection changes its state.
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
		c.dry = false
	}
	switch {
	case c.gone:
	case c.state == handshaking:
		w.greet(c, events)
	case events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 && !c.reading():
		w.lost(c)
	default:
		if events&unix.EPOLLRDHUP != 0 && w.python.gateway.watches && !c.reading() {
			c.probe()
		}
		if events&unix.EPOLLOUT != 0 && c.pending() {
			w.drain(c)
		}
		w.advance(c)
	}
}

// between reports whether c has no complete head: it is idle, or a head is coming in.
func (c *conn) between() bool {
	return c.state == open && (c.turn == nil || c.turn.state == readingHead)
}

// reading reports whether the next thing due on c is more of a request.
func (c *conn) reading() bool {
	return c.between() || c.state == open && c.turn.state == readingBody
}

// probe has the kernel ask every 10 seconds whether a client that has ended its side still
// has the connection. A client that has only closed its sending half says yes. The kernel of
// a client that has left says yes for a minute (tcp_fin_timeout in tcp(7)), and then resets
// the connection, for which ready ends it.
func (c *conn) probe() {
	for _, o := range [...][3]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 10}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10}} {
		_ = unix.SetsockoptInt(c.fd, o[0], o[1], o[2]) // a unix socket has no need: its end is that of both sides
	}
}

// Reading -------------------------------------------------------------------

// advance takes c through its states as far as the received bytes allow.
func (w *worker) advance(c *conn) {
	for more := true; more && !c.gone; {
		switch {
		case c.state == handshaking:
			w.watch(c) // greet handles the event of the first byte
			if !c.shakes() {
				w.readHello(c)
			}
			return
		case c.state == pumping:
			w.move(c)
			return
		case c.state == lingering:
			w.linger(c)
			return
		case c.carrier != nil:
			w.carry(c)
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

// advanceTurn goes on with a request whose head is complete. It returns false if the
// request now waits for an event.
func (w *worker) advanceTurn(t *turn) bool {
	switch t.state {
	case readingBody:
		switch {
		case t.settings != nil && !t.incomplete():
			w.changeTo2(t)
		case t.own != nil:
			return w.answerOwn(t)
		case !t.incomplete() || t.req.expect || w.overflows(t) && !w.spill(t):
			w.enqueue(t)
		case t.burst >= turnMax:
			t.burst = 0
			w.goOnLater(t.conn)
		case w.readBody(t):
			return true
		case t.state != readingBody:
		case w.python.gateway.early && t.settings == nil:
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

// receive reads once from the client into b. n is 0 if no bytes are there; end reports
// that no more will come, because the client has shut down or the socket failed.
func (w *worker) receive(c *conn, b []byte) (n int, end bool) {
	if !c.unread || c.gone {
		return 0, false
	}
	n, errno := c.transport.read(c, b)
	switch {
	case errno == unix.EAGAIN:
		c.unread = false
		w.watch(c) // bytes that come from now on raise an event
		return 0, false
	case errno != 0 || n == 0:
		return 0, true
	}
	return n, false
}

// readHead reads more of a head. It returns false if nothing is there.
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

// awaitHead sets the time by which a head has to be complete, or has to begin on an
// idle connection.
func (w *worker) awaitHead(c *conn) {
	limit := w.cfg.clientHeaderTimeout
	switch {
	case len(c.in) == 0 && c.served > 0:
		limit = w.cfg.keepalive
	case len(c.in) > 0 && c.state == handshaking:
		limit = handshakeLimit
	}
	if c.expires = 0; limit > 0 {
		c.expires = w.after(limit)
	}
	if c.unlist(); len(c.in) == 0 {
		w.resting.add(c, w.now)
	}
}

// lag lists c as lagging: its client has sent only a part of a PROXY header, of a TLS
// handshake, of a head, or of a body that Python has not begun.
func (w *worker) lag(c *conn) {
	if s, streamed := c.transport.(*stream); streamed {
		c = s.carrier.conn // a stream takes no place that another client might have
	}
	w.lagging.add(c, w.now)
}

// hasten moves the end of c's wait forward to by, if it is later or never.
func (c *conn) hasten(by int64) {
	if c.expires == 0 || c.expires > by {
		c.expires = by
	}
}

// idlers is a list of connections that wait for their clients, in the order in which they began
// to wait.
type idlers struct{ first, last *conn }

// add moves a connection from the list that it is in, if any, to the end of this one. A
// connection that is in this list stays at its place.
func (l *idlers) add(c *conn, now int64) {
	if c.list == l {
		return
	}
	c.unlist()
	c.list, c.listed, c.before = l, now, l.last
	if l.last == nil {
		l.first = c
	} else {
		l.last.after = c
	}
	l.last = c
}

// unlist takes c out of the list that it is in, if any.
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

// readProxy looks for a PROXY header at the start of c's bytes. It returns false if the
// header is refused. A connection that begins without a header goes on without.
func (w *worker) readProxy(c *conn) bool {
	c.tried = len(c.in)
	parse, open := proxyForm(c.in, w.cfg.proxyProtocol)
	if open {
		return true
	}
	if parse == nil {
		c.opening, c.tried = false, 0
		return true
	}
	if addr, err := netip.ParseAddr(c.peer.remoteAddr); !c.peer.unix && (err != nil || !w.cfg.proxyAllowIPs.has(addr)) {
		w.refuse(c, forbiddenProxy(c.peer.remoteAddr))
		return false
	}
	h, n, bad := parse(c.in)
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

// parse looks for a complete head in the bytes that have come. It returns false if the request
// is refused.
func (w *worker) parse(c *conn) bool {
	if c.opening {
		if !w.readProxy(c) || !w.countClient(c, false) {
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
		if w.prior && c.served == 0 && c.trusted && w.awaitPreface(c) {
			return !c.gone
		}
		c.turn = w.newTurn(c)
	}
	c.tried = len(c.in)
	n, bad := c.turn.req.parse(c.in, w.cfg, c.trusted)
	if !w.python.gateway.mounts {
		c.turn.req.scriptName = nil
	} else if bad == nil && n > 0 && !w.health.asked(&c.turn.req) {
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
	return w.headComplete(c.turn, n)
}

// ownAnswer returns the part of the worker that may answer a request without Python, nil
// for none.
func (w *worker) ownAnswer(r *request) answerer {
	if w.health.asked(r) {
		return w.health
	}
	if len(w.mounts) == 0 {
		return nil
	}
	path := w.unquoted(r.path)
	for _, m := range w.mounts {
		if bytes.HasPrefix(path, []byte(m.prefix)) {
			return m
		}
	}
	return nil
}

// headComplete begins with the body of a request whose head has n bytes. It returns false if the
// request is refused.
func (w *worker) headComplete(t *turn, n int) bool {
	c := t.conn
	c.unlist()
	t.head, t.next = n, n
	c.expires = 0
	t.enter(readingBody)
	w.weigh(c)
	c.transport.describe(&t.req)
	if limit := w.cfg.limitRequestBody; limit > 0 && t.req.contentLength > limit {
		w.refuse(c, badBodyLimit(limit))
		return false
	}
	if w.upgrade && c.trusted && t.req.upgrades {
		t.settings = h2UpgradeSettings(&t.req)
	}
	if w.ids != nil {
		w.identify(t)
	}
	if t.own = w.ownAnswer(&t.req); t.own == nil && !w.greets(t) {
		return false
	}
	rest := c.in[n:]
	t.req.expect = t.req.expect && len(rest) == 0 && (t.req.chunked || t.req.contentLength > 0)
	switch {
	case t.req.streamed:
		if t.req.chunked {
			t.bodyLeft = h2Unknown
		}
	case t.req.chunked:
		t.decoder = &chunkedDecoder{}
		if len(rest) > 0 && !w.decode(t, rest) {
			return false
		}
	case t.req.contentLength > 0:
		take := int(min(t.req.contentLength, int64(len(rest))))
		t.body = rest[:take:take]
		t.next = n + take
		t.bodyLeft = t.req.contentLength - int64(take)
	}
	if w.limited && t.own == nil && t.incomplete() && w.tooMany(t) {
		return false // before its body is read
	}
	if t.own == nil && !w.python.gateway.early {
		w.invite(t)
	}
	return !c.gone
}

// greets reports whether a request that may ask for another protocol can go on.
func (w *worker) greets(t *turn) bool {
	g := w.python.gateway
	return g.greet == nil || !t.req.upgrades || g.greet(w, t)
}

// refuse logs a client's mistake, answers with an error page and closes the connection.
func (w *worker) refuse(c *conn, bad *badRequest) {
	if w.ids != nil && c.turn != nil && len(c.turn.id) == 0 {
		w.identify(c.turn) // a client may ask about a request, even if its head was not understood
	}
	w.warnBad(c, bad)
	if parsed := !c.between(); c.turn != nil && (bad.access || parsed) {
		w.record(c.turn, []byte(strconv.Itoa(bad.status)), parsed)
	}
	w.page(c, bad)
	if s, streamed := c.transport.(*stream); streamed {
		w.blame(s.carrier)
	}
}

// warnBad logs a client's mistake.
func (w *worker) warnBad(c *conn, bad *badRequest) {
	w.log.warningf("Invalid request from ip=%s: %s%s", c.peer.remoteAddr, bad.text, c.turn.tag())
}

// page writes an error page, and closes the connection once the client has taken it.
func (w *worker) page(c *conn, bad *badRequest) {
	if c.gone {
		return
	}
	if c.turn == nil {
		c.turn = w.newTurn(c) // the client has sent nothing of a request
	}
	c.keep = false
	c.turn.enter(draining)
	w.makePage(c.turn, bad)
	w.flushOut()
	w.drained(c)
}

// makePage makes an error page, in w.obuf.
func (w *worker) makePage(t *turn, bad *badRequest) {
	w.outFor(t.conn)
	at := len(w.obuf)
	w.obuf = t.conn.transport.head(t.appendPage(w.obuf, bad), at)
}

// appendPage appends an error page; in answer to HEAD, only the page's head.
func (t *turn) appendPage(b []byte, bad *badRequest) []byte {
	at := len(b)
	if len(t.id) > 0 {
		marked := *bad
		marked.fields += string(appendField(nil, t.idName, t.id))
		bad = &marked
	}
	b = appendErrorPage(b, bad)
	if string(t.req.method) == "HEAD" {
		b = b[:at+bytes.Index(b[at:], []byte("\r\n\r\n"))+4]
	}
	return b
}

// Writing -------------------------------------------------------------------

// pending reports whether bytes or a file wait for the client.
func (c *conn) pending() bool { return len(c.out) > c.outAt || c.file >= 0 }

// send writes a and b to the client. Bytes for which there is no room now are kept until the
// client has made room.
func (w *worker) send(c *conn, a, b []byte) {
	if c.gone || len(a)+len(b) == 0 {
		return
	}
	if c.file >= 0 {
		w.sendBehind(c, a, b)
		return
	}
	n, errno := c.transport.write(c, a, b)
	if errno != 0 && errno != unix.EAGAIN {
		w.lost(c)
		return
	}
	if n < len(a)+len(b) {
		c.given += n
		if n < len(a) {
			w.put(c, a[n:])
			n = len(a)
		}
		w.put(c, b[n-len(a):])
	}
	if c.pending() {
		w.awaitTaking(c)
	}
}

// awaitTaking waits until the client has made room for more of the response.
func (w *worker) awaitTaking(c *conn) {
	c.transport.meter(w, c)
	w.watch(c)
}

// refuses reports whether the client takes its response too slowly.
func (w *worker) refuses(c *conn) bool {
	if c.lent || !c.reply.late(w.now, w.cfg.clientSendTimeout) {
		return false // the sibling with the client's TLS enforces the limit
	}
	c.transport.meter(w, c)
	return c.reply.late(w.now, w.cfg.clientSendTimeout)
}

// put appends b to the bytes that wait for the client.
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

// drain writes bytes that wait for the client, and then goes on with c.
func (w *worker) drain(c *conn) {
	for len(c.out) > c.outAt && !c.gone {
		n, errno := c.transport.push(c, c.out[c.outAt:])
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
	} else if c.pump != nil { // its socket raised an event while there was no room
		w.move(c)
	}
	if c.carrier != nil {
		w.pour(c.carrier)
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

// drainFile sends the file that follows out, and then rest. It returns false if the
// client is slow or the connection is gone.
func (w *worker) drainFile(c *conn) bool {
	for c.fileAt < c.fileEnd {
		if w.share <= 0 {
			w.goOnLater(c)
			return false
		}
		n, err := c.transport.sendFile(w, c)
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
		w.share -= n
	}
	rest := c.rest
	c.rest = nil
	w.closeFile(c)
	w.send(c, rest, nil)
	w.pool.put(rest)
	return !c.gone
}

// drained goes on after a complete response, if all of it has been written: with the
// next request, or by closing the connection.
func (w *worker) drained(c *conn) {
	if c.gone || c.file >= 0 && len(c.out) == c.outAt && !w.drainFile(c) || c.pending() {
		return
	}
	if c.keep {
		c.turn.enter(discarding)
		w.discard(c.turn)
		return
	}
	c.transport.end(w, c)
}

// nextRequest makes c ready for the next request after a complete exchange.
func (w *worker) nextRequest(c *conn) {
	c.served++
	rest := c.in[c.turn.next:]
	w.recycle(c)
	c.in = w.pool.fit(c.in, rest)
	w.awaitHead(c)
	if w.stopping() {
		if len(c.in) == 0 && w.draining() {
			if w.endIdle(c); c.gone {
				return
			}
		}
		if !w.draining() && w.giveAway(c) {
			return
		}
		if !c.transport.portable() {
			w.stay(c)
		}
	}
	w.advance(c)
}

// leave closes the connection after the last response. Closing while the client still
// sends would reset the connection, and the client could lose the response (RFC 9112
// 9.6). So the bytes that still come are first read and thrown away, within limits.
func (w *worker) leave(c *conn) {
	c.transport = plain{} // bytes that still come are thrown away, encrypted or not
	_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	w.release(c)
	c.enter(lingering)
	c.unread = true
	if c.lent { // the client may be slow, and a socket closed now would look like a broken response
		c.expires, c.closeAt = 0, math.MaxInt64 // the sibling with the client's TLS enforces the limits
	} else {
		c.expires = w.after(lingerIdle)
		c.closeAt = w.after(lingerLimit)
		w.resting.add(c, w.now)
	}
	w.linger(c)
}

// linger throws away bytes that come after the last response, until the client's end
// or a limit.
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
			c.expires = w.after(lingerIdle)
		}
	}
	w.goOnLater(c)
}

// orphan tells Python that the client of its request has left, and frees what only the
// client needed.
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

// endless reports whether only the connection's end tells the client where the
// response ends.
func (t *turn) endless() bool {
	return t.started && !t.framing.chunked && t.framing.length < 0 && !t.framing.noBody
}

// unplug closes the client's socket, but keeps the turn for Python.
func (w *worker) unplug(c *conn) {
	c.unlist()
	w.part(c)
	c.transport.unplug(w, c)
	c.fd = -1
	if c.client != 0 {
		w.census.add(c.client, -1)
	}
	w.closeFile(c)
	w.pool.put(c.out)
	c.out, c.outAt = nil, 0
	w.weigh(c)
}

// closeFile closes the file of a response, and drops the bytes that follow the file.
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

// release gives back all buffers for requests of a connection that will not have
// another.
func (w *worker) release(c *conn) {
	w.recycle(c)
	w.pool.put(c.in)
	c.in = nil
}

// recycle forgets c's turn. The bytes in c.in are kept: the next request may be among
// them.
func (w *worker) recycle(c *conn) {
	t := c.turn
	c.turn, c.tried, c.reply, c.unsent, c.given = nil, 0, passage{}, 0, 0
	if t != nil {
		w.freeBody(t)
		w.dropSpooled(t)
		w.pool.put(t.shed)
		if t.talk != nil {
			t.talk.decoder.release()
			w.talks--
		}
		t.shed, t.talk, t.lane = nil, nil, nil
		w.spent = append(w.spent, t)
		c.transport.over()
	}
	w.weigh(c)
}

// newTurn makes the turn of c's next request, from the spare ones if there are any.
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

// reuse keeps a turn that is over as a spare one. A turn that ended while it waited, or was
// answered without a lane, is not kept: the list of waiting requests may still hold it.
func (w *worker) reuse(t *turn) {
	if t.since != 0 && t.begun == 0 || len(w.idle) >= poolKeep || cap(t.req.fields) > fewFields {
		return
	}
	status, fields, upper, id := t.status[:0], t.req.fields, t.req.upper, t.id[:0]
	*t = turn{} // in place: with fields set, it would be made elsewhere and copied
	t.status, t.req.fields, t.req.upper, t.id = status, fields, upper, id
	t.req.reset()
	w.idle = append(w.idle, t)
}

// lane is the lane that has c's request, nil for none.
func (c *conn) lane() *lane {
	if c.turn == nil {
		return nil
	}
	return c.turn.lane
}

// line names a request for the log, as in "GET /path".
func (t *turn) line() string {
	if t == nil || len(t.req.target) == 0 {
		return "(no URI read)" + t.tag()
	}
	return printable(t.req.method) + " " + printable(t.req.target) + t.tag()
}
