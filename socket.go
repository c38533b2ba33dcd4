package main

// gunicorn.socket: an application that speaks another protocol than HTTP, mostly
// WebSocket, wants the client's connection itself. It asks for it over its lane
// and gets a descriptor.
//
// On a request with Upgrade (RFC 9110 7.8) the connection is the application's
// from then on: this worker neither reads nor writes it until the request ends,
// and then closes it. The descriptor is the socket's own where that will do.
// Where this worker has something the socket has not, TLS or bytes that the
// client sent behind the request's head, the application gets the plain side of
// a pump.
//
// On any other request the descriptor is for looking: who the peer is, whether
// it is still there. This worker goes on answering.

import (
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// upgrade says whether the client has asked for another protocol. HTTP/1.0 has
// no such thing.
func (r *request) upgrade() bool {
	return r.minor > 0 && r.upgrades && r.has("UPGRADE")
}

// lendSocket answers an application's demand for the client's socket.
func (w *worker) lendSocket(t *turn, _ *marshalReader) error {
	f := frame{number: t.number, kind: kindLent}
	if w.flushOut(); t.conn.gone {
		f.flags = flagBroken
		return w.lendTo(t, f, -1)
	}
	t.conn.shared = true
	if !t.req.upgrade() || t.started || t.bodyLeft > 0 || t.decoder != nil {
		return w.lendTo(t, f, t.conn.fd)
	}
	ahead := t.conn.in[t.next:]
	fd := t.conn.fd
	if f.flags = flagTaken; t.conn.secure != nil || len(ahead) > 0 || t.conn.pending() {
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

// endTaken tells an application that nothing will come from its client, as it
// would learn if that had left: the server stops, and waits no longer than
// graceful_timeout. It can still send.
func (w *worker) endTaken(c *conn) {
	if p := c.pump; p == nil {
		_ = unix.Shutdown(c.fd, unix.SHUT_RD)
	} else if !p.ended {
		p.ended = true
		_ = unix.Shutdown(p.fd, unix.SHUT_WR)
	}
}

// lendTo sends a descriptor, and what one of a pump does not know: where the
// connection's ends are, and the client's certificate.
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
		return protocolError("it asks for a socket and does not take other answers")
	}
	// Python waits for this and nothing else, so the wire has room.
	err := unix.Sendmsg(l.fd, append(f.append(nil), ends...), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return os.NewSyscallError("sendmsg", err)
}

// appendEnds appends the addresses of both ends.
func (c *conn) appendEnds(b []byte) []byte {
	if c.lent { // this socket is not the client's
		b = appendAddress(b, c.peer.remoteAddr, c.peer.remotePort)
		return appendAddress(b, c.peer.serverName, c.peer.serverPort)
	}
	peer, _ := unix.Getpeername(c.fd)
	own, _ := unix.Getsockname(c.fd)
	return appendSockaddr(appendSockaddr(b, peer), own)
}

func appendAddress(b []byte, addr, port string) []byte {
	n, _ := strconv.Atoi(port)
	return appendMarshalInt(appendMarshalText(appendMarshalTuple(b, 2), addr), int64(n))
}

// appendSockaddr appends an address as Python's socket module has it.
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

// takeSocketBack is called when the request of an application that has taken
// the connection is over. It says whether the connection is this worker's to
// close: a pump goes on until the application has closed its end, but not for
// long.
func (w *worker) takeSocketBack(t *turn) bool {
	if !t.conn.gone && t.conn.pump != nil {
		t.conn.expires = w.now + int64(lingerIdle)
		return false
	}
	if t.conn.gone {
		return true
	}
	// Python had it blocking, and so the client's end is for both.
	_ = unix.SetNonblock(t.conn.fd, true)
	t.conn.unread = true
	return true
}
