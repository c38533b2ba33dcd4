package main

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The requests that wait in a worker: in what order they run, who hands some over
// to siblings, and what becomes of those whose clients leave.

func (w *worker) enqueue(t *turn) {
	t.enter(waiting)
	t.conn.expires, t.since = 0, w.now
	t.upload.pause(w.now)
	t.conn.unlist()
	// A Python whose wire has ended is dying, even if nobody has said so yet.
	gone := w.python.closed || w.python.eof
	if (w.stopping() || gone) && w.giveAway(t.conn) {
		return
	}
	if gone {
		w.refuseService(t)
		return
	}
	t.conn.keep = t.req.keepAlive && w.cfg.keepalive > 0 && !t.conn.lent
	w.waiting = append(w.waiting, t)
}

// waits reports whether t still waits for a lane: a sibling may have it by now.
func (t *turn) waits() bool { return t.state == waiting && t.conn.turn == t && !t.conn.gone }

// keepWaiting forgets those that wait no longer.
func (w *worker) keepWaiting() {
	kept := w.waiting[:0]
	for _, t := range w.waiting {
		if t.waits() {
			kept = append(kept, t)
		}
	}
	clear(w.waiting[len(kept):])
	w.waiting = kept
}

// patience is how long a request waits here while siblings may be free, 0 for as
// long as it takes. A queue of short calls drains by itself, and faster than the
// queue that all share: there, a hand-over of each would take a tenth of the time.
func (w *worker) patience() int64 {
	switch pace := w.python.pace; {
	case w.alone || pace < int64(brief):
		return 0
	case pace < int64(moment)/2:
		return 10 * int64(moment)
	}
	return int64(moment)
}

// patienceDue is when the first request has waited here for long enough.
func (w *worker) patienceDue() int64 {
	if len(w.waiting) == 0 {
		return 0
	}
	if patience := w.patience(); patience > 0 && w.waiting[0].since+patience > w.now {
		return w.waiting[0].since + patience
	}
	return 0
}

// takeWaiting puts requests that siblings have handed over, which have waited for
// longest, in front of our own, as many as there are lanes for.
func (w *worker) takeWaiting() {
	p, own := w.python, len(w.waiting)
	for range acceptAtOnce {
		if !p.ready || p.closed || p.eof || w.full() || len(w.waiting)-own >= p.idle() || !w.takeOver() {
			break
		}
	}
	if taken := w.waiting[own:]; len(taken) > 0 && own > 0 {
		w.waiting = append(slices.Clone(taken), w.waiting[:own]...)
	}
}

// overload is what adaptive LIFO needs to know (Maurer, "Fail at Scale", ACM Queue 13(8),
// 2015). A queue in which everybody waits for about as long as clients do is served too
// late from its first to its last. So, while clients leave whose requests wait here, the
// newest request runs first, and whoever has left when its turn comes is not served.
type overload struct {
	leftAt int64 // when a client that waited was last found to have left, 0 for never
	turns  int   // requests that ran since the server started
	info   unix.TCPInfo
}

const (
	// leavingKept is how long the queue stays reversed after the last client that left.
	leavingKept = 10 * time.Second

	// oldestEvery is which turn goes to the oldest request while the queue is reversed,
	// so that a client that stays is served in the end. It costs a thirty-second of the
	// work at most, if that client then leaves too.
	oldestEvery = 32

	// halfClosedFor is how old the request must be of a client that has closed its sending
	// half to count as gone: a client that leaves looks like that until something is sent
	// to it, and those that mean to wait are rare, and mostly served by then.
	halfClosedFor = 500 * time.Millisecond
)

// next is the index of the waiting request whose turn it is.
func (w *worker) next() int {
	o := &w.overload
	if o.leftAt == 0 || w.now-o.leftAt >= int64(leavingKept) || w.stopping() || w.python.pace < int64(brief) || o.turns%oldestEvery == 0 {
		return 0
	}
	return len(w.waiting) - 1
}

// hasLeft looks whether the client of a waiting request is still there, where that costs
// less than the request does, and lets go of one that is not.
func (w *worker) hasLeft(t *turn) bool {
	if w.asgi || w.python.pace < int64(brief) || !w.departed(t) {
		return false
	}
	w.overload.leftAt = w.now
	w.lost(t.conn)
	return true
}

// departed asks the kernel about a client (tcp(7), TCP_INFO).
func (w *worker) departed(t *turn) bool {
	info := &w.overload.info
	if rawTCPInfo(t.conn.fd, info) != 0 { // a unix socket
		return hungUp(t.conn.fd)
	}
	return info.State == unix.BPF_TCP_CLOSE ||
		info.State == unix.BPF_TCP_CLOSE_WAIT && int64(info.Last_data_recv)*int64(time.Millisecond) >= int64(halfClosedFor)
}

// sweepWaiting lets go of the clients that have left, once a second: while the queue is
// reversed, the turn of the oldest may be long in coming.
func (w *worker) sweepWaiting() {
	if w.next() > 0 {
		for _, t := range w.waiting {
			if t.waits() {
				w.hasLeft(t)
			}
		}
		w.keepWaiting()
	}
}

// handedOver takes a connection from a sibling. An event that came before may have
// changed our mind: a worker that leaves must not be given anything any more.
func (w *worker) handedOver(int, uint32) {
	if w.armed {
		w.takeOver()
	}
}
