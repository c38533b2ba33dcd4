package main

// Which work a worker takes, and in which order. The worker accepts connections while
// it can serve them soon, lines up requests that wait for a lane, writes requests into
// lanes, and takes them back from there. A request that would wait here while a sibling is
// free goes to that sibling (handover.go).

import (
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Accepting -------------------------------------------------------------------

// listener is a socket on which clients connect.
type listener struct {
	fd   int
	peer endpoint // the part that all its connections share: the local address
	tcp  bool     // a TCP socket, not a unix socket
}

// newListener describes a listening socket that is bound to sa.
func newListener(fd int, sa unix.Sockaddr) listener {
	l := listener{fd: fd}
	if own := addrPort(sa); own.IsValid() {
		l.tcp = true
		l.peer.serverName, l.peer.serverPort = own.Addr().String(), strconv.Itoa(int(own.Port()))
	} else if sa, ok := sa.(*unix.SockaddrUnix); ok {
		l.peer.unix = true
		l.peer.serverName = sa.Name
	}
	return l
}

// arm watches the listeners and the hand-over socket while this worker could serve a
// new request soon, and stops watching otherwise, so that new connections go to
// workers that are free.
//
// A worker whose calls are short, on average less than a quarter of a moment, stays
// armed during a call: disarming and arming again around each call would cost several
// system calls, and save a new connection only the wait for the end of one short call.
// If that call turns out to be long, the connection is handed over.
//
// A worker that answers some requests itself accepts clients whatever its Python does, and
// hands over requests for the application. It takes no handed-over request that it could
// only hand on.
func (w *worker) arm() {
	if w.draining() {
		w.drainBacklog()
	}
	p := w.python
	able := !p.own && (!w.stopping() || w.draining()) && (!w.full() || w.slowest() != nil) && w.paused <= w.now
	armed := able && p.takes() && !p.stuck() && len(w.waiting) < depthMax &&
		(w.alone || p.idle() > 0 || !p.gateway.stays && p.pace < int64(moment)/4)
	accepting := armed || able && w.answersItself() && !p.closed && !p.eof && !p.ended
	if accepting == w.accepting && armed == w.armed {
		return
	}
	if w.accepting && !accepting && w.full() {
		w.crowded("new clients wait")
	}
	w.watchFor(accepting, armed)
}

// watchFor begins or ends the watch on the listeners, and on the hand-over socket. A worker
// that is busy by now begins anew: the kernel wakes the worker that has watched for longest,
// and new clients should come to workers that are free.
func (w *worker) watchFor(accepting, armed bool) {
	if accepting && w.armed && !armed {
		w.disarm()
	}
	if accepting != w.accepting {
		w.accepting, w.guardAt = accepting, w.after(guardPause)
		for _, l := range w.listeners {
			if accepting {
				_ = w.listen(l.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).accept))
			} else {
				w.forget(l.fd)
			}
		}
	}
	if armed != w.armed {
		w.armed = armed
		if armed {
			_ = w.listen(w.takeFD, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).handedOver))
		} else {
			w.forget(w.takeFD)
		}
	}
}

// disarm stops watching for new connections.
func (w *worker) disarm() { w.watchFor(false, false) }

// full reports whether the worker has as many connections as it may have. Some
// descriptors, filesApart or a quarter if there are few, are left for files that
// responses consist of.
func (w *worker) full() bool {
	return w.cfg.workerConnections > 0 && w.open >= w.cfg.workerConnections ||
		w.held() >= w.descriptors-min(filesApart, w.descriptors/4)
}

// held is how many descriptors are in use for clients: connections, files, pumps and
// all lanes but the first.
func (w *worker) held() int {
	return w.open + w.files + w.pumps + laneDescriptors*(len(w.python.lanes)-1)
}

// countDescriptors finds how many descriptors clients may use, and has room made for the first
// tableAtStart of them. Go's runtime has raised the soft limit to the hard limit already, and
// gives the original limit to programs that this process starts.
func (w *worker) countDescriptors() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	next, err := unix.FcntlInt(uintptr(w.ep), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	unix.Close(next)
	w.descriptors = int(min(limit.Cur, math.MaxInt32)) - next - descriptorsApart
	w.room = tableAtStart
	go enlargeTable(w.room)
	return nil
}

// makeWay closes the slowest connection, because another client wants its place, and
// reports whether it did. A connection with unread bytes is read first, and may then
// no longer be the slowest.
func (w *worker) makeWay() bool {
	for range acceptAtOnce {
		c := w.slowest()
		if c == nil {
			return false
		}
		if (c.state == handshaking || c.reading()) && !c.shakes() && readable(c.fd) {
			c.ready(w, c.fd, unix.EPOLLIN)
			if !c.gone {
				continue
			}
		}
		switch {
		case c.gone:
		case c.list == &w.resting:
			w.crowded("idle ones are closed for new ones")
			w.giveUpIdle(c)
		default:
			w.crowded("slow ones are closed for new ones")
			if c.unlist(); c.carrier != nil {
				w.giveUpIdle(c)
			} else if w.yield(c); !c.gone && !c.shakes() {
				w.close(c)
			}
		}
		w.bury() // the caller needs the free descriptor at once
		return true
	}
	return false
}

// firstPatience is how long a client may take over its first byte before its connection is
// closed for another client. Honest clients send the byte as soon as they are connected, and
// clients that send nothing must not hold all places for long.
const firstPatience = 50 * time.Millisecond

// slowest is the connection to close for a new client, nil for none: the connection that
// has been idle for longest, unless its client has just connected; without an idle one,
// the first whose client may have left; failing that, the one that has been slow for longest
// with the rest of a request or handshake, if for longer than placePatience. Three kinds of slow connection are spared: a
// body that keeps to client_min_rate, a handshake in which the server's part is due, and one of
// HTTP/2 with a stream that is not slow.
func (w *worker) slowest() *conn {
	if c := w.resting.first; c != nil && (c.served > 0 || w.since(c.listed) >= firstPatience) {
		return c
	}
	if t := w.firstAside(); t != nil {
		return t.conn
	}
	for {
		c := w.lagging.first
		if c == nil || w.since(c.listed) < placePatience {
			return nil
		}
		if !(c.reading() && !c.between() && !c.turn.upload.late(w.now, placePatience) || c.computes() || c.carrier != nil && !c.carrier.lags()) {
			return c
		}
		c.unlist()
		w.lag(c)
	}
}

// crowded warns, at most once a minute, that the worker has as many connections as it
// may have.
func (w *worker) crowded(remedy string) {
	if w.silent > w.now {
		return
	}
	w.silent = w.after(time.Minute)
	w.log.warningf("%d connections are open, and worker_connections or the limit of open files allows no more; %s", w.open, remedy)
}

// acceptAtOnce is the most connections that one event on a listener takes: few enough
// that siblings get their share of a burst, and enough that a turn of the loop spends
// little on epoll for each.
const acceptAtOnce = 8

// accept takes connections from a listener.
func (w *worker) accept(fd int, _ uint32) {
	var l *listener
	for i := range w.listeners {
		if w.listeners[i].fd == fd {
			l = &w.listeners[i]
		}
	}
	for range acceptAtOnce {
		if l == nil || w.full() && w.slowest() == nil {
			return
		}
		var sa unix.RawSockaddrAny
		nfd, errno := rawAccept(fd, &sa)
		switch errno {
		case 0:
			if w.full() {
				w.makeWay()
			}
			w.admit(l, nfd, &sa)
			if w.python.gateway.stays && !w.alone {
				w.stepBack(fd)
				return
			}
		case unix.EAGAIN:
			return
		case unix.EMFILE:
			if w.makeWay() {
				continue
			}
			fallthrough
		default:
			// Out of descriptors or memory: new clients wait in the kernel's
			// queue until some connections of this worker have ended.
			if w.paused < w.now {
				w.log.errorf("accept: %v; accepting pauses for %v", errno, acceptPause)
			}
			w.paused = w.after(acceptPause)
			return
		}
	}
}

// stepBack puts this worker last among the workers that the kernel wakes for a listener: the
// kernel wakes the worker that has watched the listener for longest. Where a connection,
// such as a WebSocket, stays with its worker for hours, all workers get equally many
// connections in this way.
func (w *worker) stepBack(fd int) {
	if w.accepting {
		w.forget(fd)
		_ = w.listen(fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).accept))
	}
}

// admit starts serving a connection that accept has taken.
func (w *worker) admit(l *listener, fd int, sa *unix.RawSockaddrAny) {
	peer := l.peer
	trusted := peer.unix
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		addr := netip.AddrFrom4(in.Addr)
		peer.remoteAddr, peer.remotePort = addr.String(), port(in.Port)
		trusted = w.cfg.forwardedAllowIPs.has(addr)
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		addr := netip.AddrFrom16(in.Addr)
		peer.remoteAddr, peer.remotePort = addr.String(), port(in.Port)
		trusted = w.cfg.forwardedAllowIPs.has(addr)
	}
	c := w.add(fd, peer, trusted)
	increase(&w.slot.counters.connections, 1)
	w.introduce(c, true)
	if !w.countClient(c, false) {
		return
	}
	w.awaitHead(c)
	w.advance(c)
}

// sayListening logs the addresses at which the application can be reached.
func (w *worker) sayListening() {
	for _, l := range w.listeners {
		scheme, address := "http", "unix:"+l.peer.serverName
		if w.tls != nil {
			scheme = "https"
		}
		if l.tcp {
			address = net.JoinHostPort(l.peer.serverName, l.peer.serverPort)
		}
		w.log.infof("ASGI server listening on %s://%s", scheme, address)
	}
}

// port turns a port in network order, as the kernel left it, into text.
func port(p uint16) string {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return strconv.Itoa(int(b[0])<<8 | int(b[1]))
}

// add makes a connection of a client's socket.
func (w *worker) add(fd int, peer endpoint, trusted bool) *conn {
	for fd >= len(w.conns) {
		w.conns = append(w.conns, make([]*conn, max(64, fd+1-len(w.conns)))...)
	}
	c := &conn{fd: fd, transport: plain{}, peer: peer, trusted: trusted, unread: true, output: output{file: -1}}
	w.conns[fd] = c
	w.open++
	w.slot.connections.Store(uint64(w.open))
	return c
}

// introduce sets what is expected on a connection before any request: a PROXY header,
// unless opening is false because a sibling has read the header, and a TLS handshake.
func (w *worker) introduce(c *conn, opening bool) {
	c.opening = opening && w.cfg.proxyProtocol != "off"
	c.peer.https = w.tls != nil
	if w.tls != nil && !c.opening {
		c.enter(handshaking)
	}
}

// Waiting ---------------------------------------------------------------------

// enqueue has a request wait for a lane, here or with a sibling.
func (w *worker) enqueue(t *turn) {
	t.enter(waiting)
	t.conn.expires, t.since = 0, w.now
	t.upload.pause(w.now)
	t.conn.unlist()
	gone := !w.python.takes() && (w.python.ready || w.python.gone)
	if (w.stopping() || gone) && w.giveAway(t.conn) {
		return
	}
	if gone {
		w.refuseService(t)
		return
	}
	if w.limited {
		if w.tooMany(t) {
			return
		}
		if timeout := w.cfg.queueTimeout; timeout > 0 && w.oldest == 0 {
			w.oldest = w.after(timeout)
		}
	}
	t.conn.keep = t.req.keepAlive && w.cfg.keepalive > 0 && !t.conn.lent
	w.waiting = append(w.waiting, t)
}

// waits reports whether t still waits for a lane among w.waiting. It may have gone to a
// sibling or have been set aside, or its client may have left.
func (t *turn) waits() bool { return t.stays() && t.aside != isAside }

// stays reports whether t still waits for a lane, perhaps set aside.
func (t *turn) stays() bool { return t.state == waiting && t.conn.turn == t && !t.conn.gone }

// keepWaiting removes from the waiting list the requests that no longer wait.
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

// patience is how long a request waits in this worker before it is offered to all
// siblings, 0 for no limit. It grows as calls become shorter: a queue of short calls
// drains by itself, and a hand-over costs time. Handing over every call of 0.5 ms cost
// a tenth of the throughput, so below half a moment (1 ms) a request waits ten moments
// (20 ms), in which some twenty calls or more end. Brief calls are not handed over at
// all.
func (w *worker) patience() time.Duration {
	switch pace := time.Duration(w.python.pace); {
	case w.alone || pace < brief:
		return 0
	case pace < moment/2:
		return 10 * moment
	}
	return moment
}

// patienceDue is when the patience of the first waiting request ends, 0 for never.
func (w *worker) patienceDue() int64 {
	if len(w.waiting) == 0 {
		return 0
	}
	if patience := w.patience(); patience > 0 && w.since(w.waiting[0].since) < patience {
		return w.waiting[0].since + int64(patience)
	}
	return 0
}

// takeWaiting takes requests that siblings have handed over, as many as there are free
// lanes. They go in front of this worker's own waiting requests, because they have
// waited longer.
func (w *worker) takeWaiting() {
	p, own := w.python, len(w.waiting)
	for range acceptAtOnce {
		if !p.takes() || w.full() || len(w.waiting)-own >= p.idle() || !w.takeOver() {
			break
		}
	}
	if taken := w.waiting[own:]; len(taken) > 0 && own > 0 {
		w.waiting = append(slices.Clone(taken), w.waiting[:own]...)
	}
}

// handedOver takes a connection from a sibling. An earlier event of the same turn may
// have disarmed this worker, and a worker that stops must not take a connection.
func (w *worker) handedOver(int, uint32) {
	if w.armed {
		w.takeOver()
	}
}

// overload is the state of adaptive LIFO (Maurer, "Fail at Scale", ACM Queue 13(8),
// 2015). In a queue served in order, once the wait is as long as clients' patience,
// every request is served too late. Therefore, while clients whose requests wait here
// give up and leave, the newest request runs first, and a request whose client has left
// is dropped. A request whose client may have left is set aside, and runs when no other
// request waits.
type overload struct {
	leftAt int64        // when the client of a waiting request was last found to have left, or to have ended its side; 0 for never
	turns  int          // messages written into lanes since the worker started
	aside  []*turn      // waiting requests that have been set aside, the first ones in front
	quiet  int64        // since when only requests that were set aside have waited, 0 while others wait
	info   unix.TCPInfo // memory for hasLeft
}

// aside says whether a request has been set aside because its client may have left. A
// request is set aside at most once.
type aside uint8

const (
	neverAside aside = iota
	isAside
	wasAside
)

const (
	// leavingKept is how long the queue stays reversed after the last client left: long
	// enough for clients with timeouts of a few seconds to leave again if the overload
	// lasts.
	leavingKept = 10 * time.Second

	// oldestEvery gives every 32nd turn to the oldest request while the queue is
	// reversed, so that a client that stays is served in the end. At most a
	// thirty-second of the work is lost, if each of these clients leaves all the same.
	oldestEvery = 32

	// halfClosedFor is how long after its last byte a client that has closed its sending
	// half is set aside. Until the server sends something, a client that has left looks
	// the same as a client that waits for its response. Few clients wait with a closed
	// half, and most of them are served within half a second.
	halfClosedFor = 500 * time.Millisecond

	// quietFor is for how long no other request waits before one that was set aside may
	// run: longer than the gaps between the clients of an overload.
	quietFor = 20 * time.Millisecond

	// asideMax is how many requests are set aside: half as many as the default of
	// worker_connections, so that living clients find room. For a further one, the client
	// of the first counts as gone.
	asideMax = 500
)

// next is the index of the waiting request to run next.
func (w *worker) next() int {
	o := &w.overload
	if o.leftAt == 0 || w.since(o.leftAt) >= leavingKept || w.stopping() || w.python.pace < int64(brief) || o.turns%oldestEvery == 0 {
		return 0
	}
	return len(w.waiting) - 1
}

// hasLeft asks the kernel whether the client of a waiting request has left (tcp(7),
// TCP_INFO), and ends the connection if so. If the client has only ended its side, the
// request is set aside. In both cases the request is not to run now. Where calls are brief
// hasLeft does not look: the system call would cost about as much as running the request.
func (w *worker) hasLeft(t *turn) bool {
	if w.python.pace < int64(brief) || t.conn.fd == noSocket { // a stream's end is read at once
		return false
	}
	o := &w.overload
	left, ended := false, false
	if rawTCPInfo(t.conn.fd, &o.info) == 0 {
		left = o.info.State == unix.BPF_TCP_CLOSE
		ended = o.info.State == unix.BPF_TCP_CLOSE_WAIT && int64(o.info.Last_data_recv)*int64(time.Millisecond) >= int64(halfClosedFor)
	} else { // a unix socket
		left = hungUp(t.conn.fd)
	}
	switch {
	case left:
		w.lost(t.conn)
	case ended && t.aside == neverAside && !w.stopping():
		if first := w.firstAside(); len(o.aside) >= asideMax {
			w.lost(first.conn)
		}
		t.aside = isAside
		o.aside = append(o.aside, t)
		t.conn.probe()
	default:
		return false
	}
	o.leftAt = w.now
	return true
}

// recall puts the first of the requests that were set aside in front of the waiting
// requests. It returns false if there is none.
func (w *worker) recall() bool {
	t := w.firstAside()
	if t != nil {
		w.overload.aside = w.overload.aside[1:]
		t.aside = wasAside
		w.waiting = slices.Insert(w.waiting, 0, t)
	}
	return t != nil
}

// firstAside is the first of the requests that were set aside, nil for none.
func (w *worker) firstAside() *turn {
	for o := &w.overload; len(o.aside) > 0; o.aside = o.aside[1:] {
		if t := o.aside[0]; t.aside == isAside && t.stays() {
			return t
		}
	}
	return nil
}

// sweepWaiting runs once a second and drops waiting requests whose clients have left.
// It is needed while the queue is reversed, because old requests are then hardly
// looked at.
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

// Dispatching -----------------------------------------------------------------

// dispatch writes waiting requests into lanes, as many into each as recent calls have
// shown to finish within a moment.
//
// The hand-over socket is the one queue that all workers share, so that no request
// waits behind a slow one while another worker has a free lane. A request that has
// waited here for longer than patience goes into the hand-over socket, and a worker
// with a free lane takes from the hand-over socket first.
func (w *worker) dispatch() {
	patience := w.patience()
	if patience > 0 && !w.stopping() {
		w.takeWaiting()
	}
	if w.limited {
		w.expireWaiting()
		defer w.publishQueue()
	}
	for w.someWait() && w.roomForFile() && len(w.waiting) > 0 && !w.servedAll() {
		i := w.next()
		t := w.waiting[i]
		if !t.waits() {
			w.waiting = slices.Delete(w.waiting, i, i+1)
			continue
		}
		l, err := w.pick()
		if l == nil {
			if err == nil && w.impatient(t, patience) && w.giveAway(t.conn) {
				w.waiting = slices.Delete(w.waiting, i, i+1)
				t.since = 0 // no list holds t, so that reuse may keep it
				continue
			}
			break
		}
		if !w.hasLeft(t) && !w.write(l, i) {
			break
		}
	}
	w.slot.busy.Store(uint64(w.python.running()))
	if w.servedAll() {
		if w.slot.phase() != phaseStandingDown {
			w.log.infof("Autorestarting worker after current request.")
		}
		w.because(causeMaxRequests)
		w.retire()
	}
	if f := w.python.failure; (f != nil || w.leaving) && w.settled() {
		w.giveBackAll()
		if w.leaving {
			w.leaving = false
			w.handOver()
		}
		if f != nil {
			w.abandonPython(f)
		}
	}
}

// impatient reports whether a request that finds no lane should go to whichever sibling is
// free. While this worker's Python boots, a worker of an earlier generation may be free even
// if the settings want only one worker.
func (w *worker) impatient(t *turn, patience time.Duration) bool {
	if w.limited {
		return w.giveToSpare()
	}
	return !w.python.ready || !w.alone && (w.python.stuck() || patience > 0 && w.since(t.since) >= patience)
}

// someWait reports whether requests wait. A request that was set aside waits again when no
// other has come for quietFor, or when this worker stops.
func (w *worker) someWait() bool {
	o := &w.overload
	for w.stopping() && w.recall() {
	}
	switch {
	case len(w.waiting) > 0:
		if w.waiting[0].aside != wasAside {
			o.quiet = 0
		}
	case o.quiet == 0:
		o.quiet = w.now
	case w.now >= o.quiet+int64(quietFor) && w.python.idle() > 0:
		w.recall()
	}
	return len(w.waiting) > 0
}

// asideDue is when a request that was set aside may wait again, 0 for no such time.
func (w *worker) asideDue() int64 {
	if o := &w.overload; len(o.aside) > 0 && o.quiet != 0 && w.python.idle() > 0 {
		return o.quiet + int64(quietFor)
	}
	return 0
}

// servedAll reports whether this worker has taken as many requests as max_requests allows.
func (w *worker) servedAll() bool {
	return w.maxServed > 0 && w.dispatched >= w.maxServed && !w.stopping()
}

// write writes the waiting request at i into a lane, and further requests behind it if
// the lane takes several at once. It returns false if the lane has no room.
func (w *worker) write(l *lane, i int) bool {
	t := w.waiting[i]
	message, body := w.message(l, w.fbuf[:0], t)
	w.batch = append(w.batch[:0], t)
	if l.room() > 1 {
		message, body = w.gather(l, message, body, w.waiting[i+1:])
	}
	if ok, err := l.send(w.batch, message, body, w.now); !ok {
		for _, t := range w.batch {
			t.fed = 0
		}
		if err != nil {
			w.outOfStep(l, err)
		}
		return false
	}
	for _, t := range w.batch {
		t.enter(inLane)
		t.begun, t.lane = w.now, l
		if w.python.gateway.watches {
			w.watch(t.conn)
		}
		w.slot.counters.wait.observe(w.since(t.since))
	}
	w.dispatched += len(w.batch)
	w.waiting = slices.Delete(w.waiting, i, i+len(w.batch))
	if w.overload.turns++; w.overload.turns%oldestEvery == 0 {
		w.recall()
	}
	return true
}

// batchMax is the size in bytes at which a message takes no further request. By then a
// dozen ordinary requests share its system calls, and more would save little.
const batchMax = 16 << 10

// gather appends further waiting requests to a message while there is room. Sent one
// by one, each request would cost a system call on either side.
func (w *worker) gather(l *lane, message, body []byte, behind []*turn) ([]byte, []byte) {
	most := l.room()
	if w.maxServed > 0 && !w.stopping() {
		most = min(most, w.maxServed-w.dispatched)
	}
	for _, t := range behind {
		if len(w.batch) >= most || len(message)+len(body) >= batchMax || w.batch[len(w.batch)-1].owed == owesEnviron ||
			!t.waits() || !w.roomForFiles() {
			break
		}
		at := len(message) + len(body)
		longer, rest := w.message(l, append(message, body...), t)
		if len(longer)+len(rest) > queueMax {
			t.fed = 0
			return longer[:at], nil
		}
		message, body = longer, rest
		w.batch = append(w.batch, t)
	}
	return message, body
}

// pick returns the lane for the next request, nil for none. If no further lane can be
// opened, the worker makes do with the lanes it has.
func (w *worker) pick() (*lane, error) {
	n := len(w.python.lanes)
	l, err := w.python.pick()
	if err == nil && len(w.python.lanes) > n {
		err = w.listenTo(l)
	}
	if err != nil {
		if w.python.most = max(1, n-1); n > 1 {
			w.log.warningf("only %d requests at a time: %v", w.python.most, err)
			return w.python.pick()
		}
		w.log.errorf("no request can be served: %v", err)
		w.failPython(causeCrash, 503, 0)
		return nil, err
	}
	return l, nil
}

// roomForFile reports whether there are descriptors for one more request: Python may
// answer with a file, or need a new lane. A descriptor that Python sends is lost if the
// worker has no room for it.
func (w *worker) roomForFile() bool {
	if w.roomForFiles() {
		return true
	}
	n := w.held() + laneDescriptors
	for _, l := range w.python.busy {
		n += max(0, l.load()-w.talks) // a WebSocket is not answered with a file
	}
	return n < w.descriptors || w.makeWay()
}

// roomForFiles reports whether there would be descriptors even if every request were
// answered with a file.
func (w *worker) roomForFiles() bool {
	return w.held()+laneDescriptors+w.open+w.carried-w.talks < w.descriptors
}

// message appends a request's frame for the queue, with the environ. If the message has
// room for the whole body, the body is returned separately, to save a copy.
func (w *worker) message(l *lane, b []byte, t *turn) (longer, body []byte) {
	p := w.python
	if p.number++; p.number == 0 {
		p.number++
	}
	t.number, t.owed = p.number, owesBody
	at := len(b)
	b, alike := w.halves(t, append(b, make([]byte, frameHeader)...))
	n := len(b) - at
	f := frame{number: t.number, kind: kindRequest, meta: uint32(n - frameHeader)}
	rest := t.body[t.fed:]
	complete := !t.incomplete() && t.spooled == nil
	switch {
	case n > queueMax:
		t.owed = owesEnviron
		f.kind, f.length, f.meta = kindIndirect, f.meta, 0
		b = b[:at+frameHeader]
		if !complete || len(rest) > 0 {
			f.flags = flagMore
		}
	case complete && t.store == inShared && t.fed == 0 && n <= queueMax-placeSize:
		t.owed = owesNothing
		t.fed = len(t.body)
		f.flags = flagShared
		b = binary.LittleEndian.AppendUint32(b, uint32(p.offset(t.body)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(t.body)))
		f.length = f.meta + placeSize
	case complete && n+len(rest) <= queueMax:
		t.owed = owesNothing
		body = rest
		t.fed += len(body)
		f.length = f.meta + uint32(len(body))
	default:
		f.flags = flagMore
		f.length = f.meta
	}
	if crowd := p.gateway.crowd; crowd > 0 && l.load()-w.talks >= crowd {
		f.flags |= flagCrowd
	}
	if t.req.expect {
		f.flags |= flagExpect
	}
	f.append(b[:at])
	if f.kind == kindRequest {
		binary.LittleEndian.PutUint16(b[at+frameHeader-2:], uint16(alike))
	}
	w.fbuf = b[:0]
	return b, body
}

// halves appends the environ in two halves: a dict of the items that a client's
// requests have in common, alike bytes long, and a tuple of the items that belong to
// this request. Python keeps the dicts that it has made, by their bytes, and copies a
// known dict in a third of the time that making one takes. If the dict is unlikely to
// come again, the environ is a single dict, and alike is 0.
func (w *worker) halves(t *turn, b []byte) (out []byte, alike int) {
	if g := w.python.gateway; !g.halves || t.req.chunked || w.cfg.counted {
		return g.environ(w, t, b), 0
	}
	at := len(b)
	fields := t.req.fields
	if len(t.id) > 0 {
		t.req.fields = fields[:len(fields)-1] // without the id, which identify has put at the end
	}
	b, length := t.req.appendCommon(append(b, marshalDict), &t.conn.peer, w.scriptName)
	if t.req.fields = fields; len(b)-at >= alikeMax {
		if len(t.id) > 0 {
			return w.environ(t, b[:at]), 0
		}
		return append(t.req.appendOwn(b, &t.conn.peer, w.scriptName, length), marshalDictEnd), 0
	}
	b = append(b, marshalDictEnd)
	alike = len(b) - at
	b = t.req.appendOwnTuple(b, &t.conn.peer, w.scriptName, length, t.id)
	if len(b) > queueMax {
		return w.environ(t, b[:at]), 0 // too long for a message: Python will ask for the environ as one dict
	}
	return b, alike
}

// environ appends the environ of a WSGI request as one dict.
func (w *worker) environ(t *turn, b []byte) []byte {
	t.owed = owesBody
	b = append(b, marshalDict)
	b = t.req.appendEnviron(b, &t.conn.peer, w.scriptName)
	if t.req.chunked {
		// The application finds the trailer in this list, which Python fills when
		// the body has ended.
		b = appendTrailer(appendMarshalText(b, "gunicorn.trailers"), t.trailer)
		if t.decoder != nil {
			t.owed = owesTrailer
		}
	}
	if w.cfg.counted {
		b = appendMarshalInt(appendMarshalText(b, "gunicorn.req_number"), int64(t.conn.served)+1)
	}
	return append(b, marshalDictEnd)
}

// Taking back -------------------------------------------------------------------

// giveBack takes the requests that Python has not begun out of a lane, and puts them
// back among the waiting requests.
func (w *worker) giveBack(l *lane) {
	w.putBack(l.takeBack())
	w.sendLines()
}

// giveBackAll puts back the requests that Python has not begun in any lane.
func (w *worker) giveBackAll() {
	for _, l := range slices.Clone(w.python.busy) {
		w.giveBack(l)
	}
}

// leftOf handles Python's word that it has stopped within a message, as this worker
// asked, or (flagBroken) because an exception came before it began: the requests that
// Python has not begun wait again. Requests that were taken back before are not put
// back twice.
func (w *worker) leftOf(l *lane, _ *marshalReader) error {
	q := l.laneKind.(*queueLane)
	t := q.eldest()
	if t == nil || t.number != l.frame.number {
		return nil
	}
	halt := l.python.halts[l.index].Load()
	asked := func(other *turn) bool { return other.message == t.message && other.number == halt }
	if t.started || t.taken || t.want > 0 || l.frame.flags&flagBroken == 0 && !slices.ContainsFunc(q.flight, asked) {
		return l.frame.unexpected()
	}
	l.halted = 0
	w.putBack(q.retrieve(func(other *turn) bool { return other.message == t.message }))
	return nil
}

// putBack puts requests that were in a lane in front of all waiting requests.
func (w *worker) putBack(back []*turn) {
	w.dispatched -= len(back)
	back = slices.DeleteFunc(back, func(t *turn) bool {
		gone := t.conn.gone // the client has left in the meantime
		if t.enter(waiting); gone {
			w.record(t, []byte("499"), true)
			w.release(t.conn)
		}
		t.fed, t.begun = 0, 0
		return gone
	})
	if len(back) > 0 {
		w.waiting = append(back, w.waiting...)
		w.keepWaiting()
		if w.cfg.queueTimeout > 0 {
			w.oldest = w.now // the requests of back have waited for longer than expireWaiting knows
		}
	}
}
