package main

// A worker's event loop: one epoll instance, in which each descriptor has an owner, and
// the tasks that have a time of their own. Whatever breaks a connection during a turn of
// the loop only marks the connection; marked connections are buried when the turn ends.

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// An owner handles the events of the descriptors that the loop watches for it.
type owner interface {
	ready(w *worker, fd int, events uint32)
}

// ownerFunc makes a method of the worker the owner of a descriptor.
type ownerFunc func(w *worker, fd int, events uint32)

func (f ownerFunc) ready(w *worker, fd int, events uint32) { f(w, fd, events) }

// loop is the state of the event loop. All times are nanoseconds of a monotonic clock.
type loop struct {
	ep     int                    // the epoll instance
	clock  func(last int64) int64 // reads the clock: wake, or a test's function
	now    int64                  // time of this turn
	seats  []seat                 // owners of descriptors, by descriptor
	room   int                    // size to which the table of descriptors was enlarged, 0 while it is left to the kernel
	serial int32                  // serial number of the latest listen
	events [128]unix.EpollEvent   // room for the events of one turn
	again  []*conn                // connections that had their share of this turn and can do more at once
	share  int                    // bytes of files that may still be sent before other work has its turn
	doomed []*conn                // marked connections, to be buried at the end of this turn
	spent  []*turn                // requests that are over: their turns are reused after this turn of the loop
}

// seat holds the owner of one descriptor. The serial number tells apart the owners
// that a descriptor's number has had: each event carries the serial number under which
// its descriptor was watched, and an event for a former owner is dropped.
type seat struct {
	owner  owner
	serial int32
}

// openLoop makes a loop that watches nothing yet.
func openLoop() (l loop, err error) {
	l.clock, l.now = wake, monotonic()
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		err = os.NewSyscallError("epoll_create1", err)
	}
	return l, err
}

// listen watches a descriptor for its owner, until forget or until the descriptor is
// closed.
func (l *loop) listen(fd int, events uint32, o owner) error {
	for fd >= len(l.seats) {
		l.seats = append(l.seats, make([]seat, max(64, fd+1-len(l.seats)))...)
	}
	if l.room > 0 && fd >= l.room/2 {
		l.room *= 2
		go enlargeTable(l.room) // while the loop goes on in the other half
	}
	l.serial++
	l.seats[fd] = seat{o, l.serial}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, l.event(fd, events)))
}

// change sets the events for which a descriptor is watched.
func (l *loop) change(fd int, events uint32) {
	_ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, fd, l.event(fd, events))
}

// forget ends the watch on a descriptor.
func (l *loop) forget(fd int) { _ = unix.EpollCtl(l.ep, unix.EPOLL_CTL_DEL, fd, nil) }

// event describes a descriptor to epoll_ctl(2). Events of the descriptor will carry the
// serial number of its seat.
func (l *loop) event(fd int, events uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: l.seats[fd].serial}
}

// after is the time at which d will have passed.
func (l *loop) after(d time.Duration) int64 { return l.now + int64(d) }

// since is how long ago a time was.
func (l *loop) since(at int64) time.Duration { return time.Duration(l.now - at) }

// goOnLater puts off the rest of c's work to the next turn of the loop, so that other
// connections get their share of this turn.
func (l *loop) goOnLater(c *conn) {
	if !c.later {
		c.later = true
		l.again = append(l.again, c)
	}
}

// wait is how long the loop may sleep: a second at most, less if a task is due earlier
// or work is left over.
func (w *worker) wait() time.Duration {
	if len(w.again) > 0 || len(w.doomed) > 0 {
		return 0
	}
	wait := int64(time.Second)
	for _, at := range [...]int64{w.obeyDue(), w.nextTick, w.partAt, w.quitAt, w.lanesDue(), w.patienceDue(), w.placeDue(), w.asideDue(), w.guardDue(), w.queueDue()} {
		if at != 0 {
			wait = min(wait, at-w.now)
		}
	}
	return time.Duration(max(wait, 0))
}

// runDue does the tasks that are due, except for tasks that every turn of the loop does anyway:
// for these, the loop only has to wake.
func (w *worker) runDue() {
	due := func(at int64) bool { return at != 0 && at <= w.now }
	if due(w.obeyDue()) {
		w.obey()
	}
	if due(w.nextTick) {
		w.tick()
	}
	if due(w.quitAt) {
		w.quitPython()
	}
	if due(w.partAt) {
		w.partAll()
	}
	if due(w.guardDue()) {
		w.guard()
	}
	w.lookAtLanes()
}

// placeDue is when the patience with the slowest client ends while other clients wait
// for its place: a connection, or a handshake. It returns 0 for never.
func (w *worker) placeDue() (due int64) {
	ends := func(began int64, patience time.Duration) {
		if at := began + int64(patience); at > w.now { // arm, at the end of each turn, makes use of a place that is due already
			due = sooner(due, at)
		}
	}
	if c := w.resting.first; c != nil && !w.accepting {
		ends(c.listed, firstPatience)
	}
	if c := w.lagging.first; c != nil && !w.accepting {
		ends(c.listed, placePatience)
	}
	if t := w.tls; t != nil && len(t.queue) > 0 {
		t.evict(w.now, len(t.queue))
		ends(t.running[0].shaken, placePatience)
	}
	return due
}

// sooner is the earlier of two times, of which 0 means never.
func sooner(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// turn is one turn of the loop: it waits for events, handles them, and does what is
// due. It returns the number of descriptors that had an event.
func (w *worker) turn(wait time.Duration) int {
	if p := w.python; wait > 0 && len(p.busy) == 1 {
		nap(p.busy[0].slack(w.now))
	}
	n := epollWait(w.ep, w.events[:], wait)
	w.now = w.loop.clock(w.now)
	w.clock.set(time.Now())
	w.share = 0 // files come last, so that nobody else waits for them
	for i := range w.events[:n] {
		w.handle(&w.events[i])
		w.relieve()
	}
	if w.tls != nil && w.tls.alone && len(w.tls.running) > 0 {
		runtime.Gosched()
	}
	w.flushOut()
	w.runDue()
	w.settle()
	if len(w.again) > 0 {
		w.goOn()
		w.flushOut()
		w.settle()
	}
	w.flushStreams()
	w.flushCarriers()
	w.arm()
	w.access.flush()
	return n
}

// settle closes the connections that are marked, and gives Python what it can run.
func (w *worker) settle() {
	w.bury()
	w.dispatch()
	w.bury()
}

// handle gives an event to the owner of its descriptor.
func (w *worker) handle(e *unix.EpollEvent) {
	if s := &w.seats[e.Fd]; s.serial == e.Pad {
		s.owner.ready(w, int(e.Fd), e.Events)
	}
}

// goOn resumes the connections that goOnLater put off in the turn before. Those that have
// waited longest for their share of the files come first.
func (w *worker) goOn() {
	list := w.again
	w.again, w.share = nil, fileShare
	for i, c := range list {
		if w.share <= 0 {
			w.again = append(list[i:], w.again...)
			return
		}
		c.later = false
		pending := c.pending()
		if pending {
			w.drain(c)
		}
		if !pending || c.carrier != nil || c.turn != nil && c.turn.talk != nil { // HTTP/2 and WebSockets read even while bytes wait
			w.advance(c)
		}
	}
}

// lost ends a connection whose client has left or broken a limit: from now on nothing
// is read from the connection or written to it.
func (w *worker) lost(c *conn) {
	if !c.gone {
		c.transport.forbidEnd(c)
		w.mark(c)
	}
}

// close ends a connection that is complete, or that a sibling has now.
func (w *worker) close(c *conn) {
	if c.gone { // the client left while Python had its request
		w.release(c)
		return
	}
	w.recycle(c)
	w.mark(c)
}

// mark has bury close a connection at the end of this turn.
func (w *worker) mark(c *conn) {
	if !c.gone {
		c.gone = true
		w.doomed = append(w.doomed, c)
	}
}

// bury closes the marked connections. It runs at the end of a turn, and in makeWay, so
// that a connection exists as long as any function works on it. A request that Python may
// have begun is kept until Python is done with it: Python is told that the client has
// left, and the response is thrown away.
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
				w.overload.leftAt = w.now
				fallthrough
			default:
				w.release(c)
			}
		}
	}
	for _, t := range w.spent {
		w.reuse(t)
	}
	clear(w.spent) // else turns that are not reused, and the heads that these refer to, would stay
	w.spent = w.spent[:0]
}
