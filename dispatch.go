package main

// Which work a worker takes, and in which order: connections from the listeners while
// it can serve soon, requests that wait, and requests that go into a lane. A request
// that would wait here while a sibling is free goes there (handover.go).

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

type listener struct {
	fd   int
	peer endpoint // of its connections, without the remote half
	tcp  bool
}

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

// arm watches the listeners while a request that comes in could be served
// soon, so that new connections go to workers that are free. A worker in the
// middle of a short call stays armed: what it accepts then waits for less than
// the system calls that changing its mind would take, and is handed over if
// that proves wrong.
func (w *worker) arm() {
	if w.draining() {
		w.drainBacklog()
	}
	p := w.python
	want := p.ready && !p.closed && !p.eof && (!w.stopping() || w.draining()) &&
		!p.stuck() && len(w.waiting) < depthMax &&
		(!w.full() || w.slowest() != nil) && w.paused <= w.now &&
		(w.alone || p.idle() > 0 || !p.gateway.stays && p.pace < int64(moment)/4)
	if want == w.armed {
		return
	}
	if !want {
		if w.full() {
			w.crowded("new clients wait")
		}
		w.disarm()
		return
	}
	for _, l := range w.listeners {
		_ = w.listen(l.fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).accept))
	}
	_ = w.listen(w.takeFD, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).handedOver))
	w.armed = true
}

func (w *worker) disarm() {
	if !w.armed {
		return
	}
	for _, l := range w.listeners {
		w.forget(l.fd)
	}
	w.forget(w.takeFD)
	w.armed = false
}

// full says whether there are as many connections as there may be. Some
// descriptors are left for files that responses consist of.
func (w *worker) full() bool {
	return w.cfg.workerConnections > 0 && w.open >= w.cfg.workerConnections ||
		w.held() >= w.descriptors-min(filesApart, w.descriptors/4)
}

// held is how many descriptors come and go with clients.
func (w *worker) held() int {
	return w.open + w.files + w.pumps + laneDescriptors*(len(w.python.lanes)-1)
}

// countDescriptors finds how many descriptors clients may take. The runtime has
// raised the limit as far as it goes, and programs that are started get theirs
// back.
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
	return nil
}

// makeWay closes the slowest connection, as another client wants its place. One
// that has just sent something may not be slow.
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
			w.close(c)
		default:
			w.crowded("slow ones are closed for new ones")
			c.unlist()
			if w.yield(c); !c.gone && !c.shakes() {
				w.close(c)
			}
		}
		w.bury() // its descriptor is wanted now
		return true
	}
	return false
}

// slowest is the connection that can make way: the longest idle, or without one
// the oldest of those that lag for too long. A body may take its time while it keeps to the
// least rate, and a handshake's place is not free before it is its client's turn.
func (w *worker) slowest() *conn {
	if w.resting.first != nil {
		return w.resting.first
	}
	for {
		c := w.lagging.first
		if c == nil || w.now-c.lagged < int64(placePatience) {
			return nil
		}
		if !(c.reading() && !c.between() && !c.turn.upload.late(w.now, placePatience) || c.shakes() && !c.secure.waits.Load()) {
			return c
		}
		c.unlist()
		w.lag(c)
	}
}

// crowded tells, once in a while, that clients get in each other's way.
func (w *worker) crowded(remedy string) {
	if w.silent > w.now {
		return
	}
	w.silent = w.now + int64(time.Minute)
	w.log.warningf("%d connections are open, and worker_connections or the limit of open files allows no more; %s", w.open, remedy)
}

// acceptAtOnce bounds what one turn of the loop takes, so that siblings get
// their share of a burst.
const acceptAtOnce = 8

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
			// Out of descriptors or memory: clients wait in the kernel's
			// queue until some of ours have left.
			if w.paused < w.now {
				w.log.errorf("accept: %v; accepting pauses for %v", errno, acceptPause)
			}
			w.paused = w.now + int64(acceptPause)
			return
		}
	}
}

// stepBack puts this worker behind its siblings, of whom the kernel wakes the
// one that has watched a listener for longest. Where a connection may stay for
// hours, and with it all of its work, each is to get as many.
func (w *worker) stepBack(fd int) {
	if w.armed {
		w.forget(fd)
		_ = w.listen(fd, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownerFunc((*worker).accept))
	}
}

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
	w.awaitHead(c)
	w.advance(c)
}

// sayListening tells where the application can be reached.
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

func (w *worker) add(fd int, peer endpoint, trusted bool) *conn {
	for fd >= len(w.conns) {
		w.conns = append(w.conns, make([]*conn, max(64, fd+1-len(w.conns)))...)
	}
	c := &conn{fd: fd, peer: peer, trusted: trusted, unread: true, output: output{file: -1}}
	w.conns[fd] = c
	w.open++
	w.slot.connections.Store(uint64(w.open))
	return c
}

// introduce says what comes first on a connection, before any request: a PROXY
// header unless it has been read, and a TLS handshake.
func (w *worker) introduce(c *conn, opening bool) {
	c.opening = opening && w.cfg.proxyProtocol != "off"
	c.peer.https = w.tls != nil
	if w.tls != nil && !c.opening {
		c.enter(handshaking)
	}
}

// Waiting ---------------------------------------------------------------------

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

// handedOver takes a connection from a sibling. An event that came before may have
// changed our mind: a worker that leaves must not be given anything any more.
func (w *worker) handedOver(int, uint32) {
	if w.armed {
		w.takeOver()
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
	if w.python.pace < int64(brief) || !w.departed(t) {
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

// Dispatching -----------------------------------------------------------------

// dispatch writes waiting requests into lanes, as deep as the pace of late
// allows.
//
// The hand-over socket is the one queue that all workers share, so that nobody
// waits behind a slow request while a lane is idle anywhere: what has waited here
// for too long goes there, and a lane that is free first looks there.
func (w *worker) dispatch() {
	patience := w.patience()
	if patience > 0 && !w.stopping() {
		w.takeWaiting()
	}
	for len(w.waiting) > 0 && w.roomForFile() && len(w.waiting) > 0 && !w.servedAll() {
		i := w.next()
		t := w.waiting[i]
		if !t.waits() {
			w.waiting = slices.Delete(w.waiting, i, i+1)
			continue
		}
		l, err := w.pick()
		if l == nil {
			if err == nil && !w.alone && (w.python.stuck() || patience > 0 && w.now-t.since >= patience) && w.giveAway(t.conn) {
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
	if w.python.broken {
		w.failPython(causeCrash, 502, unix.SIGKILL)
	}
}

// servedAll reports whether this worker has taken as many requests as max_requests allows.
func (w *worker) servedAll() bool {
	return w.maxServed > 0 && w.dispatched >= w.maxServed && !w.stopping()
}

// write writes the request at i, and others behind it where that saves time, into a
// lane; false when there is no room.
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
		w.slot.counters.wait.observe(time.Duration(w.now - t.since))
	}
	w.dispatched += len(w.batch)
	w.overload.turns++
	w.waiting = slices.Delete(w.waiting, i, i+len(w.batch))
	return true
}

// batchMax is after how many bytes a message of several requests ends.
const batchMax = 16 << 10

// gather has the requests that wait behind the first of a message go with it while
// there is room: to be received one by one would cost each a system call on
// either side, and a loop that is busy receives neither.
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

// pick is the lane for the next request. When there cannot be one more, those
// there are have to do.
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

// roomForFile says whether Python may send one more file in place of a body, or
// have one more lane: a descriptor for which there is no room would be lost.
func (w *worker) roomForFile() bool {
	if w.roomForFiles() {
		return true
	}
	n := w.held() + laneDescriptors
	for _, l := range w.python.busy {
		n += l.mayPass(w.talks)
	}
	return n < w.descriptors || w.makeWay()
}

// roomForFiles says whether it may, even if every connection has one sent.
func (w *worker) roomForFiles() bool {
	return w.held()+laneDescriptors+w.open-w.talks < w.descriptors
}

// message appends the frame for the queue: the environ and, if there is room for
// it as a whole, the body, which stays where it is.
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
	case complete && n+len(rest) <= queueMax:
		t.owed = owesNothing
		body = rest
		t.fed += len(body)
		f.length = f.meta + uint32(len(body))
	default:
		f.flags = flagMore
		f.length = f.meta
	}
	f.flags |= l.flags(w.talks)
	f.append(b[:at])
	if f.kind == kindRequest {
		binary.LittleEndian.PutUint16(b[at+frameHeader-2:], uint16(alike))
	}
	w.fbuf = b[:0]
	return b, body
}

// halves appends the environ as a dict of what a client's requests have in
// common, alike bytes of marshal, and a tuple of what each has of its own:
// Python, which knows many of these dicts by their bytes, copies them then, in a
// third of the time that it takes to make one. Where that is unlikely it is one
// dict, and alike is 0.
func (w *worker) halves(t *turn, b []byte) (out []byte, alike int) {
	if g := w.python.gateway; !g.halves || t.req.chunked || w.cfg.counted {
		return g.environ(w, t, b), 0
	}
	at := len(b)
	b, length := t.req.appendCommon(append(b, marshalDict), &t.conn.peer, w.scriptName)
	if len(b)-at >= alikeMax {
		return append(t.req.appendOwn(b, &t.conn.peer, w.scriptName, length), marshalDictEnd), 0
	}
	b = append(b, marshalDictEnd)
	alike = len(b) - at
	b = t.req.appendOwnTuple(b, &t.conn.peer, w.scriptName, length)
	if len(b) > queueMax {
		return w.environ(t, b[:at]), 0 // as Python will ask for it
	}
	return b, alike
}

func (w *worker) environ(t *turn, b []byte) []byte {
	t.owed = owesBody
	b = append(b, marshalDict)
	b = t.req.appendEnviron(b, &t.conn.peer, w.scriptName)
	if t.req.chunked {
		// The application reads it in this list, which is filled when the body
		// has ended.
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
