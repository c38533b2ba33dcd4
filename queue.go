package main

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The requests that wait in a worker: in what order they run, who hands some over
// to siblings, and what becomes of those whose clients leave.

func (w *worker) enqueue(c *conn) {
	c.state, c.expires, c.since, c.late = waiting, 0, w.now, false
	c.upload.pause(w.now)
	c.unlist()
	// A Python whose wire has ended is dying, even if nobody has said so yet.
	gone := w.python.closed || w.python.eof
	if (w.stopping || gone) && w.giveAway(c) {
		return
	}
	if gone {
		w.refuseService(c)
		return
	}
	c.keep = c.req.keepAlive && w.cfg.keepalive > 0 && !c.lent
	w.waiting = append(w.waiting, c)
}

// keepWaiting forgets those that wait no longer.
func (w *worker) keepWaiting() {
	kept := w.waiting[:0]
	for _, c := range w.waiting {
		if c.fd >= 0 && c.state == waiting {
			kept = append(kept, c)
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

// leaving is what clients that left while their requests waited have told.
type leaving struct {
	after int64 // how long they waited of late: nanoseconds, smoothed
	seen  int64 // when the last one was found, 0 for never
	sweep int64 // when those that are late are looked at next
	turn  bool  // the next request may be one that is late: the last was not
	info  unix.TCPInfo
}

const (
	// halfClosedFor is how old the request must be of a client that has closed its
	// sending half to count as gone: one that leaves looks like that until something
	// is sent to it, and those that mean to wait are rare, and mostly served by then.
	halfClosedFor = 500 * time.Millisecond

	// patientAfter is how many times as long as those that left a client must have
	// stayed to have shown that it will.
	patientAfter = 4

	// leavingKept is how long clients that left count for the others.
	leavingKept = 10 * time.Second
)

// setAside says that a request whose turn has come is not to be run now. Its client may
// have left: to run it would take the time of those that are there. And a queue in
// which everybody waits for about as long as clients do would be served too late from
// its first to its last: while clients leave, a request that is half as old as theirs
// were goes behind the others. It runs when nobody else waits, or its client is patient.
func (w *worker) setAside(c *conn) bool {
	age, stayed, left := w.presence(c)
	if left {
		w.left(c, stayed)
		return true
	}
	if c.late || w.stopping || !w.impatient() || age <= w.leaving.after/2 {
		return false
	}
	c.late = true
	w.late = append(w.late, c)
	return true
}

// presence is how long ago a request came, how long its client stayed, and whether
// it has left (tcp(7), TCP_INFO: milliseconds since data and since anything came).
func (w *worker) presence(c *conn) (age, stayed int64, left bool) {
	info := &w.leaving.info
	if rawTCPInfo(c.fd, info) != 0 { // a unix socket
		p := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		_, err := unix.Poll(p, 0)
		age = w.now - c.since
		return age, age, err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	}
	age = int64(info.Last_data_recv) * int64(time.Millisecond)
	stayed = age - int64(info.Last_ack_recv)*int64(time.Millisecond)
	closed := info.State == unix.BPF_TCP_CLOSE_WAIT && age >= int64(halfClosedFor)
	return age, stayed, closed || info.State == unix.BPF_TCP_CLOSE
}

// impatient says whether clients have left of late while their requests waited.
func (w *worker) impatient() bool {
	return w.leaving.seen > 0 && w.now-w.leaving.seen < int64(leavingKept)
}

// left takes note of a client that has left, and lets go of it.
func (w *worker) left(c *conn, stayed int64) {
	stayed = max(stayed, int64(halfClosedFor)) // one that never meant to wait must not put off everybody
	if !w.impatient() {
		w.leaving.after = stayed
	}
	w.leaving.after += (stayed - w.leaving.after) / 8
	w.leaving.seen = w.now
	w.lost(c)
}

// recall has some of those that are late wait with the others: the newest, who
// have the most time left.
func (w *worker) recall(n int) {
	for n > 0 && len(w.late) > 0 {
		last := len(w.late) - 1
		if c := w.late[last]; c.fd >= 0 && c.state == waiting {
			w.waiting = append(w.waiting, c)
			n--
		}
		w.late[last] = nil
		w.late = w.late[:last]
	}
}

// recallPatient has the oldest of those that are late go first when its client has
// stayed for much longer than those that left. Every other turn is for such, so that
// nobody waits for as long as there is a crowd.
func (w *worker) recallPatient() {
	if !w.leaving.turn || len(w.late) == 0 || len(w.waiting) > 0 && w.waiting[0].late {
		return
	}
	c := w.late[0]
	if w.now-c.since <= patientAfter*w.leaving.after {
		return
	}
	w.late = slices.Delete(w.late, 0, 1)
	if c.fd >= 0 && c.state == waiting {
		w.waiting = slices.Insert(w.waiting, 0, c)
	}
}

// sweepLate lets go of those that are late and have left, several times in the time
// that a client stays.
func (w *worker) sweepLate() {
	if len(w.late) == 0 || w.now < w.leaving.sweep {
		return
	}
	w.leaving.sweep = w.now + min(max(w.leaving.after/8, int64(10*time.Millisecond)), int64(time.Second))
	w.late = slices.DeleteFunc(w.late, func(c *conn) bool {
		if c.fd < 0 || c.state != waiting {
			return true
		}
		_, stayed, left := w.presence(c)
		if left {
			w.left(c, stayed)
		}
		return left
	})
}
