package main

// A worker's Python as a process: the limits in time of connections and requests, how
// Python is asked whether it is alive, given up and killed, and what becomes of the
// requests that a Python had when it was given up or died.

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits in time --------------------------------------------------------------

// tick runs once a second. It renews the heartbeat, enforces limits in time and looks
// at memory.
func (w *worker) tick() {
	w.nextTick = w.after(time.Second)
	w.slot.heartbeat.Store(sharedTime())
	w.takeAstray()
	if w.sayCrowds(); !w.limited { // publishQueue stores it more often
		w.slot.waiting.Store(uint64(len(w.waiting) + len(w.overload.aside)))
	}
	w.slot.lanes.Store(uint64(len(w.python.lanes)))
	w.slot.stuck.Store(w.stuckSince())
	w.each(func(c *conn) {
		w.hurry(c)
		w.countSlow(c)
		if c.carrier != nil {
			c.carrier.tick()
		}
	})
	if t := w.python.eldest(); t != nil {
		w.slot.setRunning(t.line(), max(t.begun, t.lane.begun)+paused.Load())
	}
	w.sweepWaiting()
	w.askPython()
	w.hearClass()
	if w.python.killAt != 0 && w.python.killAt <= w.now {
		w.killPython(unix.SIGKILL)
	}
	if w.deadline != 0 && w.deadline <= w.now {
		w.quit()
	}
	if n := w.access.recovered(); n > 0 {
		w.log.warningf("%d records of the access log were lost", n)
	}
	if w.python.orphaned {
		w.lookForPython()
	}
	w.memory.look()
	w.renewStatic()
	w.outgrow()
	w.pool.trim()
	if len(w.python.busy) == 0 {
		w.python.trim()
	}
	if w.tls != nil {
		w.tls.forgetLeft()
		w.renewTLS()
	}
}

// lanesDue is when lookAtLanes is needed next, 0 for never.
func (w *worker) lanesDue() (due int64) {
	if len(w.python.lanes[0].lines) > 0 {
		due = w.after(moment)
	}
	limit := w.requestLimit()
	for _, l := range w.python.busy {
		due = sooner(due, l.due())
		if limit > 0 && l.client.since == 0 && l.halted == 0 {
			due = sooner(due, w.after(limit-l.ran(w.now)))
		}
	}
	return due
}

// lookAtLanes finds requests that have run for more than a moment, and requests that
// have used up their time. Lines of the access log that wait for room are sent.
func (w *worker) lookAtLanes() {
	w.sendLines()
	p, limit := w.python, w.requestLimit()
	for i := 0; i < len(p.busy) && !p.closed && !w.leaving; {
		l := p.busy[i]
		if limit > 0 && l.ran(w.now) >= limit && l.settle(w.now) {
			w.overdue(l)
		} else if at := l.due(); at != 0 && at <= w.now {
			l.stall(w)
		}
		if i < len(p.busy) && p.busy[i] == l {
			i++
		}
	}
}

// hurry enforces the limits in time of a connection and its request.
func (w *worker) hurry(c *conn) {
	t := c.turn
	switch {
	case c.expires != 0 && c.expires <= w.now:
		w.expire(c)
	case w.refuses(c):
		w.log.infof("%s: ip=%s does not take its response; closing the connection", t.line(), c.peer.remoteAddr)
		c.transport.reset(c) // without a reset the kernel would hold the unsent bytes, for hours at worst
		w.lost(c)
	case t == nil:
	case t.lane != nil && t.lane.hurry(w, t):
	case !t.req.expect && t.upload.late(w.now, w.cfg.clientBodyTimeout):
		w.breakBody(t, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(t)
	}
}

// expire ends a connection that has waited too long for a head, for a handshake, or
// for the client's end after the last response.
func (w *worker) expire(c *conn) {
	switch {
	case c.shakes():
		c.tls().abort()
		c.expires = 0
	case c.carrier != nil && c.state == open:
		w.expireCarrier(c.carrier)
	case w.prefaceStalls(c):
		w.refuse(c, badPreface(c.in))
	case c.between() && len(c.in) > 0 && string(c.in) != "\r\n" && !w.draining():
		w.refuse(c, newBadRequest(408, "the request did not come in time", ""))
	default:
		w.close(c) // silently: there is no request yet, or its response has been sent
	}
}

// requestLimit is how long a lane's request may run, 0 without a limit.
func (w *worker) requestLimit() time.Duration {
	if w.python.gateway.cancels {
		return 0 // each ASGI stream has a limit of its own
	}
	if w.python.threads {
		return w.cfg.requestTimeout
	}
	return w.clientLimit()
}

// clientLimit is how long a lane waits in all for the client of one request, 0
// without a limit. There is a limit because the lane serves no other request
// meanwhile.
func (w *worker) clientLimit() time.Duration {
	limit := w.cfg.requestTimeout
	if w.cfg.timeout > 0 && (limit == 0 || w.cfg.timeout < limit) {
		limit = w.cfg.timeout
	}
	return limit
}

// tooSlow ends a lane's wait for the client of its request. The application goes on,
// and its next read or write fails.
func (w *worker) tooSlow(t *turn) {
	if t.lane.choked != t {
		w.breakBody(t, newBadRequest(408, "the request body did not come in time", ""))
		w.feed(t)
		return
	}
	w.log.infof("%s: ip=%s takes its response too slowly for an application that has a limit in time; closing the connection",
		t.line(), t.conn.peer.remoteAddr)
	t.conn.transport.reset(t.conn) // without a reset the kernel would hold the unsent bytes, for hours at worst
	w.lost(t.conn)
}

// overdue gives up a lane's running request, which has used up its time: with its
// thread if Python has several, else with the whole Python.
func (w *worker) overdue(l *lane) {
	t := l.eldest()
	seconds := l.ran(w.now).Round(time.Second)
	w.python.hung = t.line() + " from " + t.conn.peer.remoteAddr
	w.setRan(w.python.hung)
	w.log.criticalf("WORKER TIMEOUT (pid:%d): %s has run for %v", w.pid, w.python.hung, seconds)
	if w.python.threads {
		w.because(causeTimeout)
		w.loseLane(l)
		return
	}
	w.failPython(causeTimeout, 504, unix.SIGABRT)
}

// loseLane gives up one thread of Python. A thread cannot be killed alone, so the
// worker retires: the other threads finish their requests, and a new worker takes
// over.
func (w *worker) loseLane(l *lane) {
	w.askFor(flagStacks)
	w.giveBack(l)
	l.lost = true
	w.deafen(l)
	w.giveUp(l, newBadRequest(504, "", ""))
	increase(&w.slot.counters.failures, 1)
	w.noteRunning()
	w.retire()
}

// askPython checks that the main thread answers, where requests run in other threads,
// greenlets or tasks. Otherwise nobody would notice that an extension module holds the
// interpreter's lock, or that a greenlet never yields.
func (w *worker) askPython() {
	p := w.python
	if !p.threads && !p.gateway.answers || w.cfg.timeout == 0 || !p.ready || p.closed || p.ended || w.python.gone {
		return
	}
	if w.python.askedAt == 0 {
		if len(p.busy) > 0 {
			w.askFor(0)
		}
		return
	}
	silent := w.since(w.python.askedAt)
	if silent < w.cfg.timeout {
		return
	}
	w.python.hung = "nothing"
	if t := p.eldest(); t != nil {
		w.python.hung = t.line() + " from " + t.conn.peer.remoteAddr
	}
	w.setRan(w.python.hung)
	w.log.criticalf("WORKER TIMEOUT (pid:%d): its Python has not responded for %v, running %s", w.pid, silent.Round(time.Second), w.python.hung)
	w.failPython(causeTimeout, 504, unix.SIGABRT)
}

// ownStart is how long a class that serves by itself may take for its first notify(), if it
// has to call that at all, until it is believed to serve.
const ownStart = 2 * time.Second

// countClass counts the requests of a class that serves by itself, as of its last notify().
func (w *worker) countClass() {
	p := w.python
	n := p.halts[0].Load()
	increase(&w.slot.counters.answers[0], uint64(n-p.counted))
	p.counted = n
}

// hearClass checks that a class that serves by itself calls notify() in time.
func (w *worker) hearClass() {
	p := w.python
	if p.own {
		w.countClass()
	}
	if !p.own || !p.starting || p.closed || p.gone || w.stopping() {
		return
	}
	if beat := p.begun[0].Load(); beat != p.beat || p.heardAt == 0 {
		p.beat, p.heardAt = beat, w.now
	}
	silent := w.since(p.heardAt)
	if !p.ready && w.cfg.timeout == 0 && silent >= ownStart {
		w.pythonServes()
	}
	if w.cfg.timeout == 0 || silent < w.cfg.timeout {
		return
	}
	w.log.criticalf("WORKER TIMEOUT (pid:%d): %s has not called notify() for %v", w.pid, w.cfg.className(), silent.Round(time.Second))
	p.hung = w.cfg.className()
	w.signalPython(announced - unix.SIGABRT) // the stacks
	w.failPython(causeTimeout, 504, unix.SIGABRT)
}

// askFor asks Python's main thread for an answer, and notes since when one is due.
func (w *worker) askFor(flags byte) {
	if w.python.ask(flags) && w.python.askedAt == 0 {
		w.python.askedAt = w.now
	}
}

// Giving up a Python ----------------------------------------------------------

// giveUp answers the requests that a lane has begun, in place of Python. Whatever the
// lane sends for them from now on is ignored.
func (w *worker) giveUp(l *lane, bad *badRequest) {
	list := l.inPython()
	l.clear()
	l.choked, l.owner = nil, nil
	l.rest()
	for _, t := range list {
		w.answerFor(t, bad)
	}
}

// answerFor answers a request in place of Python.
func (w *worker) answerFor(t *turn, bad *badRequest) {
	if w.obufFor == t.conn {
		w.obufFor, w.obuf = nil, w.obuf[:0]
	}
	t.conn.keep, t.refused, t.logged, t.lane = false, true, false, nil
	if t.started || t.taken {
		if t.taken {
			t.status = append(t.status[:0], "101"...)
		}
		w.record(t, t.status, true)
		if t.talk != nil && !t.talk.within && !t.conn.gone {
			t.enter(draining)
			w.send(t.conn, appendWSClose(nil, 1011, ""), nil)
			w.drained(t.conn)
			return
		}
		t.conn.transport.forbidEnd(t.conn)
		w.close(t.conn)
		return
	}
	w.record(t, []byte(strconv.Itoa(bad.status)), true)
	if t.conn.gone {
		w.release(t.conn)
	} else {
		w.page(t.conn, bad)
	}
}

// failure says how a Python is given up.
type failure struct {
	cause  uint64         // why the worker ends
	status int            // status of the answers to the requests that Python has begun
	sig    syscall.Signal // signal for the process, 0 for none; after SIGABRT, on which faulthandler writes the stacks, SIGKILL follows
}

// failPython gives up the Python: nothing more is sent to it, and nothing that it sends is
// believed. dispatch completes this at the end of the turn, as the caller may be working
// on one of Python's requests, or when all lanes have settled.
func (w *worker) failPython(cause uint64, status int, sig syscall.Signal) {
	p := w.python
	p.closed, p.failure = true, &failure{cause, status, sig}
	for _, l := range p.lanes {
		if !l.lost {
			w.deafen(l)
		}
	}
}

// settled reports whether Python can begin no further request. While Python may, lanesDue
// has the loop wake for the next look.
func (w *worker) settled() bool {
	all := true
	for _, l := range w.python.busy {
		all = l.settle(w.now) && all
	}
	return all
}

// abandonPython answers the requests that were begun by a Python that failPython has given up,
// hands over all others, and retires.
func (w *worker) abandonPython(f *failure) {
	p := w.python
	p.failure = nil
	w.because(f.cause)
	for _, l := range slices.Clone(p.busy) {
		w.giveUp(l, newBadRequest(f.status, "", ""))
	}
	w.slot.begun.Store(0)
	w.slot.busy.Store(0)
	increase(&w.slot.counters.failures, 1)
	w.retire()
	w.refuseWaiting()
	if f.sig != 0 {
		w.killPython(f.sig)
	}
	if f.sig == unix.SIGABRT {
		p.killAt = w.after(killDelay)
	}
}

// refuseWaiting answers the requests that nobody will run, and that could not be handed
// over, with 503: try again.
func (w *worker) refuseWaiting() {
	for _, t := range w.waiting {
		if t.waits() {
			w.refuseService(t)
		}
	}
	w.waiting = nil
}

// refuseService answers a request that nobody will run.
func (w *worker) refuseService(t *turn) {
	w.record(t, []byte("503"), true)
	w.page(t.conn, newBadRequest(503, "", ""))
}

// outOfStep gives up a Python that breaks the protocol of frames, or takes no frames any
// more.
func (w *worker) outOfStep(l *lane, err error) {
	if w.python.closed || l.lost || w.python.gone {
		return
	}
	if poll(l.fd, unix.POLLRDHUP, 0) != 0 {
		w.pythonEnds(l) // a Python that is killed may leave half a frame
		return
	}
	w.log.errorf("Worker (pid:%d): protocol error from its Python (%v); replacing it", w.pid, err)
	w.failPython(causeCrash, 502, unix.SIGKILL)
}

// pythonEnds is called when Python has closed a wire: Python is dying, or should be.
// SIGCHLD will report its status. What it has written to its other lanes is still read.
func (w *worker) pythonEnds(l *lane) {
	w.python.eof = true
	w.deafen(l)
	if w.python.killAt == 0 && !w.python.gone {
		w.python.killAt = w.after(killDelay)
	}
}

// killPython sends Python a signal that is to end it, in place of a SIGKILL that was
// due later.
func (w *worker) killPython(sig syscall.Signal) {
	w.python.killAt = 0
	w.signalPython(sig)
}

// signalPython sends Python a signal, if Python is known and still exists.
func (w *worker) signalPython(sig syscall.Signal) {
	if !w.python.gone && w.python.pid > 0 {
		_ = unix.Kill(w.python.pid, sig)
	}
}

// The process -----------------------------------------------------------------

// isPython notes the Python's pid, and raises its score for the kernel's out-of-memory
// killer: better that Python dies than this worker, which can still answer Python's
// clients.
func (w *worker) isPython(pid int) {
	w.slot.python.Store(uint64(pid))
	if pid == 0 {
		return // the template process forks the Python and will send its pid
	}
	own, _ := strconv.Atoi(strings.TrimSpace(readText("/proc/self/oom_score_adj")))
	adj := strconv.Itoa(min(own+victimScore, 1000))
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(adj), 0); err != nil {
		w.log.debugf("%v", err)
	}
}

// victimScore is how much higher a Python's oom_score_adj is than its worker's. By
// proc_pid_oom_score_adj(5) 100 counts like a tenth of all memory, more than any worker
// process should use beside its Python.
const victimScore = 100

// reap collects dead children. If the Python is one, died is told.
func (w *worker) reap() {
	for {
		pid, status := reapAny()
		if pid == 0 {
			return
		}
		if w.python != nil && pid == w.python.pid {
			w.died(status)
		}
	}
}

// readFate reads what the template process reports about the Python that it has forked
// for this worker: first the pid, at the end the wait status. If the template is gone,
// no report will come, and tick looks for the Python instead: not at once, as a template
// that ended with the arbiter is no news of the Python.
func (w *worker) readFate(int, uint32) {
	var b [16]byte
	n, errno := rawRead(w.python.fate, b[:])
	if errno == unix.EAGAIN {
		return
	}
	if n == 0 {
		w.forget(w.python.fate)
		w.python.orphaned = true
		return
	}
	for said := b[:n]; len(said) >= 5; said = said[5:] {
		number := binary.LittleEndian.Uint32(said[1:])
		if said[0] == 'P' {
			w.python.pid = int(number)
			w.isPython(int(number))
			if w.stopping() && !w.python.ready {
				w.killPython(unix.SIGKILL)
			}
		} else if !w.python.gone {
			w.died(unix.WaitStatus(number))
		}
	}
}

// lookForPython checks whether a Python still exists whose template process is gone:
// nobody else will report its death.
func (w *worker) lookForPython() {
	if !w.python.gone && (w.python.pid == 0 || unix.Kill(w.python.pid, 0) != nil) {
		w.died(0)
	}
}

// died is called when the Python's process has ended. An unexpected
// death is logged and ends the worker.
func (w *worker) died(status unix.WaitStatus) {
	p := w.python
	if p.ready && !p.closed {
		for _, l := range p.lanes { // responses that Python sent before it died are still delivered
			w.replies(l)
		}
	}
	w.python.gone = true
	w.python.killAt = 0
	if first := p.lanes[0]; first.load() == 0 {
		w.giveBack(first) // lines of the access log that Python has not made
	}
	if !p.ready { // a worker that answers some requests itself has clients by now
		w.handOver()
		w.refuseWaiting()
	}
	switch {
	case !p.ready && !w.stopping():
		if w.exit = exitStatus(status); status.Signaled() {
			w.exit = 0 // logged here: the arbiter need not log this death again
			w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s It was loading the application.", w.pid, p.pid, w.fate(status))
		}
		p.closed = true
		w.closeListeners()
		w.logStacks()
	case w.python.hung != "":
		w.logStacks()
	case p.own && status.Exited():
		w.countClass()
		if w.exit = exitStatus(status); w.exit == 0 {
			w.because(causeMaxRequests)
		}
		p.closed = true
		w.retire()
		p.end()
	case p.closed || w.slot.phase() == phaseQuitting || !p.ready || p.ended && len(p.busy) == 0:
	default:
		doing := ""
		w.giveBackAll()
		for _, l := range p.busy {
			for _, t := range l.inPython() {
				if len(doing) < fateMax {
					doing += ", " + t.line() + " from " + t.conn.peer.remoteAddr
				}
			}
		}
		if doing != "" {
			doing = " It was running " + doing[len(", "):]
		}
		w.log.errorf("Worker (pid:%d): its Python (pid:%d) %s%s", w.pid, p.pid, w.fate(status), doing)
		w.setRan(strings.TrimPrefix(doing, " It was running "))
		w.logStacks()
		w.failPython(causeCrash, 502, 0)
	}
}

// because notes why this worker ends. The first cause is kept: later ones follow from
// it.
func (w *worker) because(cause uint64) {
	if w.slot.cause.Load() == causeExit {
		w.slot.cause.Store(cause)
	}
}

// setRan has the stacks that are about to be logged name the requests that ran, if requests
// have ids by which somebody may look for them.
func (w *worker) setRan(requests string) {
	if w.ids != nil && requests != "" {
		w.python.ran = ", which ran " + requests
	}
}

// logStacks logs the stacks that faulthandler wrote, if any.
func (w *worker) logStacks() {
	if s := w.python.stacks(); s != "" {
		w.log.errorf("Python stacks of worker (pid:%d)%s:\n%s", w.pid, w.python.ran, s)
	}
}

// fate describes how the Python has ended, and notes if memory was the cause.
func (w *worker) fate(status unix.WaitStatus) string {
	text, memory := w.memory.death(status)
	if memory {
		w.slot.cause.Store(causeMemory)
	}
	return text
}

// fate describes how a process ended, in Gunicorn's words, which people search logs for.
func fate(s unix.WaitStatus) string {
	switch {
	case s.Signaled() && s.Signal() == unix.SIGKILL:
		return "was sent SIGKILL! Perhaps out of memory?"
	case s.Signaled():
		return "was sent " + unix.SignalName(s.Signal()) + "!"
	}
	return "exited with code " + strconv.Itoa(s.ExitStatus()) + "."
}
