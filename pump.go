package main

// A pump joins a client, whose TLS is this worker's, to a plain socket at whose
// other end somebody else speaks for it: a sibling that serves a request which
// would have to wait here, or cannot be served here any more, or an application
// that has taken the connection over. What is on the way
// is bounded both ways: nothing is read from one side that the other has no room
// for.

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A request that is lent costs its connection, and the client a handshake: it
	// waits here for as long as that is the lesser evil.
	lendAfter = 500 * time.Millisecond
	pumpPiece = 16 << 10 // moved at once: a record's worth
	pumpAhead = 64 << 10 // waiting for the client: no more is read for it
)

// pump is the plain side.
type pump struct {
	conn  *conn // the client's
	fd    int
	out   []byte // from the client, waiting for room
	outAt int
	ended bool // the client sends no more, and that was passed on
}

// lend has a sibling serve the request that c has, over a pump. The sibling's
// answer is the last on the connection: here nobody could tell where the next
// request begins.
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

// join makes c a pump to fd, where some bytes of the client go first.
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

// ready handles an event on the plain side.
func (p *pump) ready(w *worker, _ int, _ uint32) {
	if p.conn.pump == p {
		w.move(p.conn)
	}
}

// move takes both directions as far as they go.
func (w *worker) move(c *conn) {
	for !c.gone && c.state == pumping {
		in := w.moveIn(c)
		if c.gone || c.state != pumping || !w.moveOut(c) && !in {
			return
		}
	}
}

// moveIn takes a piece from the client.
func (w *worker) moveIn(c *conn) bool {
	p := c.pump
	if len(p.out) > p.outAt {
		n, errno := rawWrite(p.fd, p.out[p.outAt:])
		if errno != 0 {
			return false // room comes as an event, and its end from the other direction
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

// moveOut takes a piece for the client, or the end of it all. An end that is not
// orderly has closed the other side altogether, and must not look like one here.
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
		w.part(c) // the application has closed it, and its request is not over
		c.enter(open)
	case !taken && (errno != 0 || n == 0 && hungUp(c.pump.fd)):
		w.lost(c)
	case n == 0:
		w.part(c)
		w.leave(c)
	default:
		w.send(c, b[:n], nil)
	}
	return n > 0
}

// part ends the plain side.
func (w *worker) part(c *conn) {
	if p := c.pump; p != nil {
		w.pumps--
		unix.Close(p.fd)
		w.pool.put(p.out)
		c.pump = nil
	}
}

// hungUp says whether the other end of a socket is closed, and not only done
// with sending.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err != nil || n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
}
