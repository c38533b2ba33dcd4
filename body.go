package main

// The body of a request on its way from the client to Python: reading the body, the limits for
// a client that stalls, throwing away a part that nobody wants, and answering Python's
// demands.

import (
	"time"
)

// owed is the part of a request that Python does not have yet, and gets when it asks.
type owed uint8

const (
	owesNothing owed = iota // nothing: Python has the whole request
	owesEnviron             // the environ, which was too long for a message, then the body
	owesBody                // the body
	owesTrailer             // the body, then the trailer, which had not come when the environ was made
	toldBroken              // nothing: Python knows that the body will never be complete
)

// supply meters the part of a request that Python gets when it asks.
type supply struct {
	owed    owed        // the part that Python does not have yet
	want    int         // bytes that Python waits for, 0 for none
	broken  *badRequest // why the body will never be complete
	thirsty bool        // in the ASGI lane's list of requests that wait for room on the wire
}

// A passage meters how long the client has stalled a body, in one direction. Stalling
// uses up an allowance; bytes restore it. A client may thus be slow now and then, but
// cannot hold a connection with a byte from time to time.
type passage struct {
	since int64 // since when the client is being waited for, 0 for not now
	spent int64 // allowance used up by earlier waits
}

// wait notes that the client is being waited for from now on.
func (p *passage) wait(now int64) {
	if p.since == 0 {
		p.since = now
	}
}

// pause notes that the client is no longer being waited for.
func (p *passage) pause(now int64) {
	if p.since != 0 {
		p.spent += now - p.since
		p.since = 0
	}
}

// move restores the allowance for n bytes that have passed: by the time that n bytes
// take at the least rate, or wholly if rate is 0 and no rate is demanded.
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

// late reports whether a client that is being waited for has used up limit, 0 for none.
func (p *passage) late(now int64, limit time.Duration) bool {
	return p.since != 0 && limit > 0 && p.waited(now) >= int64(limit)
}

// waited is the used part of the allowance.
func (p *passage) waited(now int64) int64 {
	if p.since == 0 {
		return p.spent
	}
	return p.spent + now - p.since
}

// invite tells a client that waits for 100 Continue to send the request's body.
func (w *worker) invite(t *turn) {
	if t.req.expect {
		t.req.expect = false
		w.outFor(t.conn)
		at := len(w.obuf)
		w.obuf = append(w.obuf, "HTTP/1.1 100 Continue\r\n\r\n"...)
		w.obuf = t.conn.transport.head(w.obuf, at)
		w.flushOut()
	}
}

// readBody reads more of a body. It returns false if no more is there now, or if the
// body has broken off.
func (w *worker) readBody(t *turn) bool {
	room, direct := w.rbuf, false
	if t.decoder == nil {
		if t.store == inHead {
			w.placeBody(t)
		}
		if free := cap(t.body) - len(t.body); t.store != inHead && (free >= len(w.rbuf) || int64(free) >= t.bodyLeft) {
			direct = true
			room = t.body[len(t.body):cap(t.body)]
		}
		room = room[:min(int64(len(room)), t.bodyLeft)]
	}
	n, end := w.receive(t.conn, room)
	if end {
		return t.conn.transport.bodyEnds(w, t)
	}
	if n == 0 {
		t.upload.wait(w.now)
		return false
	}
	t.upload.move(w.now, n, w.cfg.clientMinRate)
	t.req.expect = false // the client has not waited
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

// placeBody has the rest of a body received where Python can read it, if the request is to wait
// until its body is complete.
func (w *worker) placeBody(t *turn) {
	size := int64(len(t.body)) + t.bodyLeft
	if t.state != readingBody || size < placeLeast || size > held || t.own != nil || t.spooled != nil || w.python.gateway.early {
		return
	}
	if b := w.python.place(int(size)); b != nil {
		t.body, t.store = append(b, t.body...), inShared
	}
}

// readAhead reads a body up to holdable bytes before the application asks, so that the
// application finds them here. It begins once half of this room is free: making room
// copies the bytes that are still unread, which is not worth doing for a few more.
func (w *worker) readAhead(t *turn) {
	for room := w.holdable() / 2; len(t.body)-t.fed < room && t.broken == nil && t.incomplete(); {
		room = w.holdable()
		if !w.readBody(t) {
			return
		}
	}
	t.upload.pause(w.now)
}

// makeRoom makes t.body a buffer of its own with room for n more bytes.
func (w *worker) makeRoom(t *turn, n int) {
	if t.store != inHead && len(t.body)+n <= cap(t.body) {
		return
	}
	rest := t.body[t.fed:]
	if t.store != inHead && len(rest)+n <= cap(t.body) {
		t.body = t.body[:copy(t.body, rest)]
	} else {
		b := append(w.pool.get(len(rest)+n), rest...)
		w.freeBody(t)
		t.body, t.store = b, pooled
	}
	t.fed = 0
}

// decode decodes raw bytes of a chunked body. Bytes behind the body belong to the next
// request, and are put where parse will look for it.
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

// stash puts bytes of the next request behind the current head in conn.in. Slices of
// req point into the current head, so a buffer that is too small is kept for them (as
// shed), and the bytes go into a larger copy.
func (w *worker) stash(t *turn, rest []byte) {
	if t.head+len(rest) > cap(t.conn.in) {
		bigger := w.pool.get(t.head + len(rest))
		t.shed, t.conn.in = t.conn.in, append(bigger, t.conn.in[:t.head]...)
	}
	t.conn.in = append(t.conn.in[:t.head], rest...)
	t.next = t.head
}

// breakBody ends a body that cannot be completed. An application that has the request
// is told; otherwise the request is refused and the application never hears of it.
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

// incomplete reports whether more of the request's body is to come.
func (t *turn) incomplete() bool { return t.bodyLeft > 0 || t.decoder != nil }

// discard throws away the part of a body that the application has not read, within
// limits, so that the connection can be used again: those bytes must never be taken
// for the next request.
func (w *worker) discard(t *turn) {
	for t.incomplete() {
		if t.junk > w.python.gateway.discardable {
			w.leave(t.conn)
			return
		}
		if t.store != inHead {
			t.body, t.fed = t.body[:0], 0
		}
		if !w.readBody(t) {
			return
		}
	}
	w.nextRequest(t.conn)
}

// To Python -------------------------------------------------------------------

// feed gives Python more of a request, if Python has asked for more and more has come.
func (w *worker) feed(t *turn) {
	if t.talk != nil {
		w.hear(t)
		return
	}
	for t.want > 0 && (!t.conn.gone || t.broken != nil) {
		switch {
		case t.owed == owesEnviron:
			if t.lane.roomFor(t) {
				w.giveEnviron(t)
			}
			return
		case t.fed < len(t.body) || t.spooled.left() > 0:
			if !t.lane.roomFor(t) {
				w.readAhead(t)
				return
			}
			w.giveBody(t)
		case t.broken != nil:
			w.giveReason(t)
		case !t.incomplete():
			w.giveEnd(t)
		case !w.readBody(t) && t.broken == nil:
			t.lane.client.wait(w.now)
			return
		}
	}
	w.readAhead(t)
}

// giveEnviron gives Python an environ that was too long for a message of the queue.
func (w *worker) giveEnviron(t *turn) {
	t.want = 0
	b := w.python.gateway.environ(w, t, w.fbuf[:0])
	w.fbuf = b[:0]
	t.lane.answer(w, frame{number: t.number, kind: kindRequest}, b)
	if t.conn.fd < 0 {
		t.lane.clientLeft(w, t) // the client left before Python knew of the request
	}
}

// giveBody gives Python a piece of the body. If the piece cannot be read from the
// spool, Python is told instead that the body is broken.
func (w *worker) giveBody(t *turn) {
	b, most := t.body[t.fed:], min(t.want, feedMax)
	if t.spooled.left() > 0 {
		if b = w.unspool(t, most); b == nil {
			w.giveReason(t)
			return
		}
		if t.spooled.left() == 0 {
			w.dropSpooled(t)
		}
	} else {
		b = b[:min(len(b), most)]
		t.fed += len(b)
	}
	t.lane.met(t, len(b))
	f := frame{number: t.number, kind: kindBody}
	if t.spooled.left() == 0 && t.fed == len(t.body) && !t.incomplete() && t.hasTrailed() {
		f.flags, t.owed, t.want = flagLast, owesNothing, 0
	}
	t.lane.answer(w, f, b)
}

// giveEnd tells Python that the body has ended, and gives it the trailer if Python
// does not have the trailer yet.
func (w *worker) giveEnd(t *turn) {
	f, b := frame{number: t.number, kind: kindBody, flags: flagLast}, []byte(nil)
	if !t.hasTrailed() {
		b = appendTrailer(w.fbuf[:0], t.trailer)
		w.fbuf = b[:0]
		f.meta = uint32(len(b))
	}
	t.want, t.owed = 0, owesNothing
	t.lane.answer(w, f, b)
}

// giveReason tells Python why the rest of the body will never come.
func (w *worker) giveReason(t *turn) {
	f := frame{number: t.number, kind: kindBody, flags: flagBroken, meta: uint32(t.broken.status)}
	if t.broken.left {
		f.meta = 499
	}
	t.want, t.owed = 0, toldBroken
	t.lane.answer(w, f, nil)
}

// hasTrailed reports whether Python has the trailer, or there is none.
func (t *turn) hasTrailed() bool { return t.owed != owesTrailer || len(t.trailer) == 0 }
