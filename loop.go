package main

// A worker's event loop: one epoll instance, in which each descriptor has an owner,
// and the times at which somebody wants to be woken. Whatever breaks a connection
// during a turn of the loop only marks it; the connection is buried when the turn ends.

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// owner is told what happens to a descriptor that it has put under the loop's watch.
type owner interface {
	ready(w *worker, fd int, events uint32)
}

// ownerFunc is a method of the worker as the owner of a descriptor.
type ownerFunc func(w *worker, fd int, events uint32)

func (f ownerFunc) ready(w *worker, fd int, events uint32) { f(w, fd, events) }

// timer is something that has to be done at a time which its room knows.
type timer struct {
	due func() int64 // monotonic; 0 for not at all
	run func()       // called when due has passed; nil if every turn looks by itself
}

// loop is the state of the event loop. All times are monotonic nanoseconds.
type loop struct {
	ep     int
	clock  func(last int64) int64 // wake, or a test's
	now    int64                  // of this turn
	seats  []seat
	serial int32
	events [128]unix.EpollEvent
	timers []timer
	again  []*conn // had their share of this turn and could go on
	doomed []*conn // marked, to be buried at the end of this turn
	spent  []*turn // over, to be reused after this turn
}

// seat is the place of one descriptor. An event carries the serial number of the
// listening that it belongs to, so that none reaches the next owner of the same number.
type seat struct {
	owner  owner
	serial int32
}

func openLoop() (l loop, err error) {
	l.clock, l.now = wake, monotonic()
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		err = os.NewSyscallError("epoll_create1", err)
	}
	return l, err
}

// listen watches a descriptor for its owner until forget, or until it is closed.
func (l *loop) listen(fd int, events uint32, o owner) error {
	for fd >= len(l.seats) {
		l.seats = append(l.seats, make([]seat, max(64, fd+1-len(l.seats)))...)
	}
	l.serial++
	l.seats[fd] = seat{o, l.serial}
	return epollAdd(l.ep, fd, events, l.serial)
}

// change watches a descriptor for other events.
func (l *loop) change(fd int, events uint32) {
	epollMod(l.ep, fd, events, l.seats[fd].serial)
}

func (l *loop) forget(fd int) { epollDel(l.ep, fd) }

// goOnLater lets the others have their share while c could go on.
func (l *loop) goOnLater(c *conn) {
	if !c.later {
		c.later = true
		l.again = append(l.again, c)
	}
}

// wait is how long the loop may sleep.
func (l *loop) wait() time.Duration {
	if len(l.again) > 0 || len(l.doomed) > 0 {
		return 0
	}
	wait := int64(time.Second)
	for i := range l.timers {
		if at := l.timers[i].due(); at != 0 {
			wait = min(wait, at-l.now)
		}
	}
	return time.Duration(max(wait, 0))
}

// runTimers does what has come due.
func (l *loop) runTimers() {
	for i := range l.timers {
		if t := &l.timers[i]; t.run != nil {
			if at := t.due(); at != 0 && at <= l.now {
				t.run()
			}
		}
	}
}

// setTimers lists who wants to be woken and when.
func (w *worker) setTimers() {
	w.nextTick = w.now + int64(time.Second)
	w.timers = []timer{
		{func() int64 { return w.obeyDue() }, w.obey},
		{func() int64 { return w.nextTick }, w.tick},
		{func() int64 { return w.partAt }, w.partAll},
		{w.lanesDue, w.lookAtLanes},
		{w.patienceDue, nil},
		{w.placeDue, nil},
		{w.log.statsd.dueAt, func() { w.log.statsd.flush() }},
	}
}

// placeDue is when somebody who has kept others waiting for a place has had it for long enough.
func (w *worker) placeDue() (due int64) {
	if c := w.lagging.first; c != nil && !w.armed {
		due = sooner(due, c.lagged+int64(placePatience))
	}
	if t := w.tls; t != nil && len(t.queue) > 0 {
		t.evict(w.now, len(t.queue))
		due = sooner(due, t.running[0].shaken+int64(placePatience))
	}
	if due <= w.now {
		return 0 // arm sees to the rest
	}
	return due
}

// turn waits until something happens, and does all that follows from it. It returns
// how many descriptors had an event.
func (w *worker) turn(wait time.Duration) int {
	n := epollWait(w.ep, w.events[:], wait)
	w.now = w.loop.clock(w.now)
	w.clock.refresh()
	for i := range w.events[:n] {
		w.handle(&w.events[i])
		w.relieve()
	}
	if w.tls != nil && w.tls.alone && len(w.tls.running) > 0 {
		runtime.Gosched()
	}
	w.goOn()
	w.flushOut()
	w.runTimers()
	w.bury()
	w.dispatch()
	w.bury()
	w.flushStreams()
	w.arm()
	w.access.flush()
	return n
}

func (w *worker) handle(e *unix.EpollEvent) {
	if s := &w.seats[e.Fd]; s.serial == e.Pad {
		s.owner.ready(w, int(e.Fd), e.Events)
	}
}

// goOn is for those that could have gone on in the turn before.
func (w *worker) goOn() {
	list := w.again
	w.again = nil
	for _, c := range list {
		c.later = false
		pending := c.pending()
		if pending {
			w.drain(c)
		}
		if !pending || c.turn != nil && c.turn.talk != nil { // which has two directions
			w.advance(c)
		}
	}
}

// lost marks a connection whose client has left or broken a limit. Nothing is read
// from it or written to it any more.
func (w *worker) lost(c *conn) {
	if !c.gone {
		c.forbidEnd()
		w.mark(c)
	}
}

// close marks a connection that has come to its end, or is somebody else's.
func (w *worker) close(c *conn) {
	if c.gone { // its client left while Python had the request
		w.release(c)
		return
	}
	w.recycle(c)
	w.mark(c)
}

func (w *worker) mark(c *conn) {
	if !c.gone {
		c.gone = true
		w.doomed = append(w.doomed, c)
	}
}

// bury closes the connections that are marked, so that nobody has to ask after each
// call whether its connection is still there. A request that Python may have begun
// stays: Python is told, and what it says goes nowhere.
func (w *worker) bury() {
	for len(w.doomed) > 0 {
		list := w.doomed
		w.doomed = nil
		for _, c := range list {
			w.unplug(c)
			switch t := c.turn; {
			case t != nil && t.lane != nil:
				w.orphan(t)
			case t != nil && t.state == waiting:
				w.record(t, []byte("499"), true)
				fallthrough
			default:
				w.release(c)
			}
		}
	}
	for _, t := range w.spent {
		w.reuse(t)
	}
	w.spent = w.spent[:0]
}
