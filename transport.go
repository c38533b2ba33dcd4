package main

// The transport of a connection carries its bytes: a plain socket, TLS on a socket (tls.go), or
// a stream of HTTP/2 (carrier.go). A connection asks its transport wherever the three differ.

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// transport carries the bytes of a connection. The results of reading and writing are those
// of rawRead, rawWritev and rawSendfile.
type transport interface {
	// read reads bytes of the client.
	read(c *conn, b []byte) (int, syscall.Errno)
	// write writes a and then b, behind the bytes that already wait for the client.
	write(c *conn, a, b []byte) (int, syscall.Errno)
	// push writes bytes that have been waiting for the client, in c.out.
	push(c *conn, b []byte) (int, syscall.Errno)
	// sendFile writes the next piece of c.file.
	sendFile(w *worker, c *conn) (int, error)
	// meter meters how much of the response the client has taken.
	meter(w *worker, c *conn)

	// describe adds to a request the facts that its head cannot express.
	describe(r *request)
	// head takes a head, made for HTTP/1.1, out of b[at:] if the transport has another form
	// for heads.
	head(b []byte, at int) []byte
	// trailer sends the fields in w.resp as the response's trailer section.
	trailer(w *worker, t *turn)
	// bodyEnds is called when no more of a request's body will come. It returns false if the
	// body is not complete.
	bodyEnds(w *worker, t *turn) bool
	// over is called when a turn is over.
	over()

	// portable reports whether a sibling can go on with the client's socket.
	portable() bool
	// give has a sibling serve the connection, or its request, and reports whether one will.
	give(w *worker, c *conn) bool
	// move copies a piece in each direction between the client and c's pump, and reports
	// whether anything moved.
	move(w *worker, c *conn) bool

	// end ends the connection after its last response, which may have broken off.
	end(w *worker, c *conn)
	// forbidEnd makes close reset the connection if the client would take an orderly end for
	// the end of the response's body.
	forbidEnd(c *conn)
	// reset makes close reset the connection, and the kernel forget bytes that the client has
	// not taken.
	reset(c *conn)
	// unplug closes the socket, or the stream, of a connection that is buried.
	unplug(w *worker, c *conn)
	// held estimates the memory of the transport: in buffers of the pool, and beside them.
	held() (pooled, beside int)
}

// plain is a socket without TLS. Its state stands in conn.
type plain struct{}

func (plain) read(c *conn, b []byte) (int, syscall.Errno) {
	n, errno := rawRead(c.fd, b)
	if n > 0 && n < len(b) && c.watched && !c.ending {
		// A short read has emptied the socket. Reading on until EAGAIN would cost each
		// request a system call.
		c.unread = false
	}
	return n, errno
}

func (plain) write(c *conn, a, b []byte) (int, syscall.Errno) {
	switch {
	case c.pending():
		return 0, unix.EAGAIN
	case len(b) == 0:
		return rawWrite(c.fd, a)
	}
	return rawWritev(c.fd, a, b)
}

func (plain) push(c *conn, b []byte) (int, syscall.Errno) { return rawWrite(c.fd, b) }

func (plain) sendFile(_ *worker, c *conn) (int, error) {
	n, errno := rawSendfile(c.fd, c.file, &c.fileAt, int(min(c.fileEnd-c.fileAt, feedMax)))
	if errno != 0 {
		return 0, errno
	}
	c.given += n
	return n, nil
}

// meter looks at the number of bytes in the kernel's send buffer, which shows that a slow
// client takes some earlier than an event does: the kernel announces room only when a
// large part of the buffer is free.
func (plain) meter(w *worker, c *conn) {
	left := unsent(c.fd)
	c.reply.move(w.now, c.unsent+c.given-left, w.cfg.clientMinRate)
	c.unsent, c.given = left, 0
	c.reply.wait(w.now)
}

func (plain) describe(*request) {}

func (plain) head(b []byte, _ int) []byte { return b }

func (plain) trailer(w *worker, t *turn) {
	if t.framing.chunked {
		w.obuf = append(w.appendSection(append(w.obuf, "0\r\n"...), t), "\r\n"...)
	}
}

func (plain) bodyEnds(w *worker, t *turn) bool {
	w.breakBody(t, leftEarly(400, "the client left before its request was complete"))
	return false
}

func (plain) over() {}

func (plain) portable() bool { return true }

// give sends the socket to whichever worker is free first, with the bytes read so far.
func (plain) give(w *worker, c *conn) bool {
	if c.decodes() {
		return false
	}
	if err := w.sendAway(c, c.fd, c.lent); err != nil {
		w.watch(c) // edge-triggered, so that bytes already there do not make us try again at once
		return false
	}
	if c.watched {
		w.forget(c.fd) // epoll would go on watching: the socket stays open in the sibling
		c.watched = false
	}
	w.close(c)
	return true
}

func (plain) move(w *worker, c *conn) bool {
	in := w.moveIn(c)
	return !c.gone && c.state == pumping && (w.moveOut(c) || in)
}

func (plain) end(w *worker, c *conn) {
	if c.cut && (c.lent || c.turn != nil && c.turn.endless()) {
		w.close(c) // by a reset, or by a closed socket that the sibling's pump takes for one
		return
	}
	w.leave(c)
}

func (plain) forbidEnd(c *conn) {
	if !c.gone && (c.turn != nil && c.turn.endless() || c.state == pumping) {
		c.transport.reset(c)
	}
}

func (plain) reset(c *conn) {
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func (plain) unplug(w *worker, c *conn) {
	if c.shared {
		// The application may have the socket open. A thread of it that reads the
		// socket must not block for ever, and epoll would go on watching the socket
		// under this descriptor's number, which another socket will get.
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
		if c.watched {
			w.forget(c.fd)
		}
	}
	if c.carrier != nil {
		w.dropCarrier(c.carrier)
	}
	w.conns[c.fd] = nil
	unix.Close(c.fd)
	w.open--
	w.slot.connections.Store(uint64(w.open))
}

func (plain) held() (pooled, beside int) { return 0, 0 }
