package main

// Connections that change hands. A worker that stops, or is busy, sends a client to
// whichever sibling is free first: the descriptor and the bytes read so far go through
// the hand-over socket, which all workers share. A TLS connection cannot be handed over,
// because its keys stay with the worker. Instead, a pump joins the client to a plain
// socket, at whose other end a sibling serves the client, or an application that has
// taken the connection over. The bytes inside a pump are bounded in both directions:
// the pump reads from one side only what it has room to keep for the other.

import (
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// To a sibling ----------------------------------------------------------------

// giveAway hands a connection, with the bytes read so far, to whichever worker is free
// first. It returns false, and the connection stays, if the hand-over socket is full, if
// the request is too long for a message, if bytes still wait for the client, or if a
// chunked body is partly decoded. A TLS connection is lent instead (lend).
func (w *worker) giveAway(c *conn) bool {
	return !w.draining() && !c.gone && c.carrier == nil && !c.pending() && c.transport.give(w, c)
}

// decodes reports whether a chunked body is decoded, perhaps in part.
func (c *conn) decodes() bool {
	return c.turn != nil && (c.turn.decoder != nil || c.turn.req.chunked && !c.between())
}

// sendAway sends the descriptor fd and the state of connection c to a sibling.
func (w *worker) sendAway(c *conn, fd int, lent bool) error {
	in, body := c.in, []byte(nil)
	if c.turn != nil && c.turn.store != inHead {
		in, body = c.in[:c.turn.head], c.turn.body
	}
	var section []byte
	https := int8(0)
	s, streamed := c.transport.(*stream)
	if streamed {
		section, https = s.section, s.https
	}
	if len(in)+len(body)+len(section)+len(c.peer.facts) > queueMax-1024 || c.turn != nil && c.turn.spooled != nil {
		return unix.EMSGSIZE
	}
	proxy := c.peer.proxy
	if proxy == nil {
		proxy = &proxied{}
	}
	b := appendMarshalTuple(w.fbuf[:0], 18)
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
	b = appendMarshalBool(b, streamed)
	b = appendMarshalBytes(b, section)
	b = appendMarshalInt(b, int64(https))
	w.fbuf = b[:0]
	return unix.Sendmsg(w.giveFD, b, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// takeOver receives a connection that a sibling has sent, and serves it as if it were
// newly accepted. It returns false if there is none.
func (w *worker) takeOver() bool {
	b := w.takeWbuf()
	defer func() { w.wbuf = b[:0] }()
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
	streamed, section, https := r.bool(), r.bytes(), int8(r.int())
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
	// Trust goes by the socket's peer: the address in peer may come from a PROXY header.
	c := w.add(fd, peer, peer.unix || !lent && w.trusts(fd) || lent && trusted)
	c.served, c.lent = served, lent
	if lent {
		c.peer.https, c.peer.facts = len(facts) > 0, append([]byte(nil), facts...)
	} else {
		w.introduce(c, opening)
		w.countClient(c, true)
	}
	if streamed {
		w.takeStream(c, in, body, section, https)
		return true
	}
	if len(in)+len(body) > 0 {
		c.in = append(append(w.pool.get(len(in)+len(body)), in...), body...)
	}
	w.awaitHead(c)
	w.advance(c)
	return true
}

// trusts reports whether the peer of a TCP socket is one of forwarded_allow_ips.
func (w *worker) trusts(fd int) bool {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return false // the peer has left
	}
	peer := addrPort(sa)
	return peer.IsValid() && w.cfg.forwardedAllowIPs.has(peer.Addr())
}

// Pumps ----------------------------------------------------------------------

const (
	// lendAfter is how long a request waits before a sibling serves the request.
	// Lending ends the connection and costs the client a new handshake, so the request
	// first waits for as long as a user hardly notices.
	lendAfter = 500 * time.Millisecond
	// pumpPiece is the most bytes that are copied at a time: one TLS record.
	pumpPiece = 16 << 10
	// pumpAhead is how many bytes may wait for the client before the pump stops
	// reading from the plain socket: four TLS records, so that a client that takes
	// bytes in bursts finds the next ones ready.
	pumpAhead = 64 << 10
)

// pump is the plain side of a client's connection.
type pump struct {
	conn  *conn  // the client's connection
	fd    int    // our end of the plain socket
	out   []byte // bytes of the client that the plain socket has not taken
	outAt int    // bytes of out already written
	ended bool   // the client has shut down sending, and so has our end; for a stream, the sibling has ended its answer

	// For a stream that was lent, out has the beginning of a frame of the sibling.
	block []byte // field block of the sibling's that is incomplete
	tail  bool   // the incomplete field block is that of a trailer section
	begun bool   // the response's head has come
}

// lend has a sibling serve the request of c, over a pump. The response is the
// last on the connection, because this worker cannot tell where a next request
// would begin.
func (w *worker) lend(c *conn) bool {
	near, far, err := socketpair(unix.SOCK_STREAM | unix.SOCK_NONBLOCK)
	if err != nil {
		return false
	}
	defer unix.Close(far)
	if err := w.sendAway(c, far, true); err != nil {
		unix.Close(near)
		return false
	}
	w.release(c)
	w.join(c, near, nil)
	return true
}

// join connects c to the plain socket fd. ahead are the client's first bytes for
// the plain socket.
func (w *worker) join(c *conn, fd int, ahead []byte) {
	p := &pump{fd: fd, conn: c}
	if err := w.listen(fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET, p); err != nil {
		w.log.errorf("%v", err)
		unix.Close(fd)
		w.lost(c)
		return
	}
	w.pumps++
	c.pump = p
	if len(ahead) > 0 {
		c.pump.out = append(w.pool.get(len(ahead)), ahead...)
	}
	c.enter(pumping)
	c.expires, c.unread = 0, true
	w.watch(c)
	w.move(c)
}

// ready handles an event on the plain socket.
func (p *pump) ready(w *worker, _ int, _ uint32) {
	if p.conn.pump == p {
		w.move(p.conn)
	}
}

// move copies in both directions until neither makes progress.
func (w *worker) move(c *conn) {
	for !c.gone && c.state == pumping && c.transport.move(w, c) {
	}
}

// moveIn copies a piece from the client to the plain socket, and reports whether
// anything moved.
func (w *worker) moveIn(c *conn) bool {
	p := c.pump
	if len(p.out) > p.outAt {
		n, errno := rawWrite(p.fd, p.out[p.outAt:])
		if errno != 0 {
			return false // room raises an event; moveOut notices a closed socket
		}
		p.outAt += n
		return true
	}
	w.pool.put(p.out)
	p.out, p.outAt = nil, 0
	if p.ended {
		return false
	}
	b := w.pool.get(pumpPiece)
	n, end := w.receive(c, b[:pumpPiece])
	if end {
		p.ended = true
		_ = unix.Shutdown(p.fd, unix.SHUT_WR)
	}
	if n == 0 || c.pump == nil {
		w.pool.put(b)
		return false
	}
	p.out = b[:n]
	return true
}

// moveOut copies a piece from the plain socket to the client, or ends the pump. A
// sibling that has died has closed its socket in both directions; the client must
// then not see an orderly end of the response.
func (w *worker) moveOut(c *conn) bool {
	if len(c.out)-c.outAt > pumpAhead {
		return false
	}
	b := w.pool.get(pumpPiece)
	defer w.pool.put(b)
	n, errno := rawRead(c.pump.fd, b[:pumpPiece])
	taken := c.turn != nil && c.turn.taken
	switch {
	case errno == unix.EAGAIN:
		return false
	case taken && n == 0 && c.lane() != nil:
		w.part(c) // the application has closed its socket, and its request goes on
		c.enter(open)
	case !taken && (errno != 0 || n == 0 && hungUp(c.pump.fd)):
		w.lost(c)
	case n == 0:
		w.pumpEnds(c)
	default:
		w.send(c, b[:n], nil)
	}
	return n > 0
}

// pumpEnds ends c's pump in good order: the client gets the bytes that wait, and then learns
// that nothing was cut off.
func (w *worker) pumpEnds(c *conn) {
	w.part(c)
	c.enter(open)
	if c.keep = false; c.turn == nil {
		c.turn = w.newTurn(c)
	}
	c.turn.enter(draining)
	w.drained(c)
}

// part ends c's pump, if any. The client's connection stays.
func (w *worker) part(c *conn) {
	if p := c.pump; p != nil {
		w.pumps--
		unix.Close(p.fd)
		w.pool.put(p.out)
		c.pump = nil
	}
}

// hungUp reports whether the other end of a socket is closed in both directions,
// not merely shut down for sending.
func hungUp(fd int) bool { return poll(fd, 0, 0) != 0 }

// To the application ----------------------------------------------------------

// gunicorn.socket in the environ: an application that speaks another protocol than
// HTTP, mostly WebSocket, wants the client's connection itself. Python asks for the
// connection over its lane, and gets a descriptor.
//
// If the request has Upgrade (RFC 9110 7.8), the application takes the connection over:
// this worker neither reads nor writes the connection until the request ends, and then
// closes it. The descriptor is the client's socket, unless the bytes on that socket are
// not all: with TLS, or when the worker already has bytes from behind the request's
// head or for the client, the application gets the plain side of a pump.
//
// On any other request the descriptor is for looking only: who the peer is, and whether
// the peer is still connected. This worker goes on serving the connection.

// upgrade reports whether the client has asked for another protocol. HTTP/1.0 has no
// Upgrade.
func (r *request) upgrade() bool {
	return r.minor > 0 && r.upgrades && r.has("UPGRADE")
}

// lendSocket answers an application that asks for the client's socket.
func (w *worker) lendSocket(t *turn, _ *marshalReader) error {
	f := frame{number: t.number, kind: kindLent}
	if w.flushOut(); t.conn.gone || t.conn.fd == noSocket { // a stream has no socket
		f.flags = flagBroken
		return w.lendTo(t, f, -1)
	}
	t.conn.shared = true
	if !t.req.upgrade() || t.started || t.bodyLeft > 0 || t.decoder != nil {
		return w.lendTo(t, f, t.conn.fd)
	}
	ahead := t.conn.in[t.next:]
	fd := t.conn.fd
	if f.flags = flagTaken; !t.conn.transport.portable() || len(ahead) > 0 || t.conn.pending() {
		near, far, err := socketpair(unix.SOCK_STREAM | unix.SOCK_NONBLOCK)
		if err != nil {
			w.log.errorf("gunicorn.socket: %v", err)
			f.flags = flagBroken
			return w.lendTo(t, f, -1)
		}
		defer unix.Close(far)
		f.flags |= flagPumped
		fd = far
		defer w.join(t.conn, near, ahead)
	} else if t.conn.watched {
		w.forget(t.conn.fd)
		t.conn.watched = false
	}
	if t.conn.lent {
		f.flags |= flagPumped
	}
	t.taken, t.conn.keep, t.conn.expires = true, false, 0
	if err := w.lendTo(t, f, fd); err != nil {
		return err
	}
	if w.draining() {
		w.endTaken(t.conn)
	}
	return nil
}

// endTaken tells an application that has taken over c that the server is stopping: the
// application reads an end of the client's bytes, and can still send until
// graceful_timeout is over.
func (w *worker) endTaken(c *conn) {
	if p := c.pump; p == nil {
		_ = unix.Shutdown(c.fd, unix.SHUT_RD)
	} else if !p.ended {
		p.ended = true
		_ = unix.Shutdown(p.fd, unix.SHUT_WR)
	}
}

// lendTo sends Python the descriptor fd, or none if fd is negative. With the descriptor go
// the addresses of the connection's two ends and the client's certificate, because the
// plain socket of a pump knows neither.
func (w *worker) lendTo(t *turn, f frame, fd int) error {
	var rights []byte
	var ends []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
		ends = appendMarshalTuple(nil, 3)
		ends = t.conn.appendEnds(ends)
		if t.conn.peer.https {
			ends = appendMarshalBytes(ends, t.conn.peer.certificate())
		} else {
			ends = append(ends, marshalNone)
		}
	}
	f.length, f.meta = uint32(len(ends)), uint32(len(ends))
	l := t.lane
	if len(l.out) > 0 {
		return protocolError("Python asks for a socket and does not take other answers")
	}
	// Python waits for this answer and for nothing else, so the wire has room.
	err := unix.Sendmsg(l.fd, append(f.append(nil), ends...), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return os.NewSyscallError("sendmsg", err)
}

// appendEnds appends the addresses of the connection's two ends, the client's first.
func (c *conn) appendEnds(b []byte) []byte {
	if c.lent { // the socket is one of a pair, without addresses
		b = appendAddress(b, c.peer.remoteAddr, c.peer.remotePort)
		return appendAddress(b, c.peer.serverName, c.peer.serverPort)
	}
	peer, _ := unix.Getpeername(c.fd)
	own, _ := unix.Getsockname(c.fd)
	return appendSockaddr(appendSockaddr(b, peer), own)
}

// appendAddress appends an address and a port as a pair, as Python's socket module and ASGI
// represent them.
func appendAddress(b []byte, addr, port string) []byte {
	n, _ := strconv.Atoi(port)
	return appendMarshalInt(appendMarshalText(appendMarshalTuple(b, 2), addr), int64(n))
}

// appendSockaddr appends an address as Python's socket module represents it.
func appendSockaddr(b []byte, sa unix.Sockaddr) []byte {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		b = appendMarshalText(appendMarshalTuple(b, 2), netip.AddrFrom4(sa.Addr).String())
		return appendMarshalInt(b, int64(sa.Port))
	case *unix.SockaddrInet6:
		b = appendMarshalText(appendMarshalTuple(b, 4), netip.AddrFrom16(sa.Addr).String())
		b = appendMarshalInt(b, int64(sa.Port))
		return appendMarshalInt(appendMarshalInt(b, 0), int64(sa.ZoneId))
	case *unix.SockaddrUnix:
		return appendMarshalText(b, sa.Name)
	}
	return appendMarshalText(b, "")
}

// takeSocketBack is called when the request of an application that has taken the
// connection over has ended. It reports whether the caller has to close the connection
// now. A pump goes on until the application has closed its end, for lingerIdle at most.
func (w *worker) takeSocketBack(t *turn) bool {
	switch c := t.conn; {
	case c.gone:
	case c.pump != nil:
		c.expires = w.after(lingerIdle)
		return false
	default:
		// Python made the socket blocking, for this process too: both share its flags.
		_ = unix.SetNonblock(c.fd, true)
		c.unread = true
	}
	return true
}
