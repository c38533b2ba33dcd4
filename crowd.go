package main

// Crowds: more requests than the application can run soon, or more connections of one
// client than a client should have. A request or connection beyond a limit gets 503 at once,
// so that the others are served in time and the client can go elsewhere.
//
// The limits are those of the whole server. Each worker publishes how many requests wait in
// it and how many more it could run, and its own part of the census of clients. Each worker
// reads the figures of all others. Where a limit of the queue is set, requests wait in the worker that
// has accepted them, where they are counted, and go to a sibling only when one is free.

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The limits by which a request or a connection is turned away.
const (
	shedLimit   = iota // queue_limit
	shedTimeout        // queue_timeout
	shedClient         // limit_connections_per_client
	sheds
)

var shedNames = [sheds]string{"queue_limit", "queue_timeout", "limit_connections_per_client"}

const (
	// crowdPause is the time between two looks for a sibling that is free, while requests
	// wait here: a look at 64 siblings takes some microseconds.
	crowdPause = time.Millisecond

	// retryMax is the longest time in seconds after which a client is told to try again.
	retryMax = 60
)

// crowd is the state with which a worker limits its queue and its clients.
type crowd struct {
	limited bool       // the queue has a limit
	oldest  int64      // when the first waiting request will have waited for queue_timeout, 0 while none waits
	spareAt int64      // when spare was counted
	spare   int        // requests that siblings can take before spare is counted again
	astray  bool       // requests were in the hand-over socket at the last tick
	shed    [sheds]int // requests and connections turned away since the last log line, by limit
	census  *census    // nil without limit_connections_per_client
}

// Queue -----------------------------------------------------------------------

func (c *config) limitsQueue() bool { return c.queueLimit > 0 || c.queueTimeout > 0 }

// spareElsewhere is how many further requests the siblings could run at once. Requests
// given away are subtracted at once, before the siblings publish their new figures.
func (w *worker) spareElsewhere() int {
	if w.spareAt == 0 || w.since(w.spareAt) >= crowdPause {
		w.spareAt, w.spare = w.now, 0
		for _, s := range w.others.all() {
			if pid := s.pid.Load(); pid != uint64(w.pid) && pid != 0 && s.phase().serves() {
				w.spare += int(s.idle.Load())
			}
		}
	}
	return w.spare
}

// giveToSpare reports whether a request that waits here should go to a sibling that is free.
func (w *worker) giveToSpare() bool {
	if w.spareElsewhere() <= 0 {
		return false
	}
	w.spare--
	return true
}

// behind is how many requests wait in this worker, including requests that wait in lanes
// behind others.
func (w *worker) behind() int {
	n := len(w.waiting)
	if !w.python.gateway.cancels { // an ASGI lane runs all that it has
		for _, l := range w.python.busy {
			n += max(0, l.load()-1)
		}
	}
	return n
}

// publishQueue tells the siblings how many requests wait here, and how many more could run.
func (w *worker) publishQueue() {
	idle := 0
	if p := w.python; p.takes() && !w.stopping() {
		idle = max(0, p.idle()-len(w.waiting))
	}
	w.slot.idle.Store(uint64(idle))
	w.slot.waiting.Store(uint64(w.behind() + len(w.overload.aside)))
}

// tooMany answers a request with 503 if it would have to wait behind too many others, or, by
// the recent pace, for too long. It returns false for a request that may wait.
func (w *worker) tooMany(t *turn) bool {
	p := w.python
	if p.takes() && p.idle() > len(w.waiting) || w.spareElsewhere() > 0 {
		return false
	}
	ahead, capacity := w.behind(), p.most
	for _, s := range w.others.all() {
		if pid := s.pid.Load(); pid != uint64(w.pid) && pid != 0 && s.phase().serves() {
			ahead += int(min(s.waiting.Load(), 1<<20))
			capacity += p.most
		}
	}
	wait := time.Duration(int64(ahead) * p.pace / int64(max(1, capacity)))
	switch {
	case w.cfg.queueLimit > 0 && ahead >= w.cfg.queueLimit:
		w.turnAway(t, shedLimit, wait)
	case w.cfg.queueTimeout > 0 && wait > w.cfg.queueTimeout:
		w.turnAway(t, shedTimeout, wait)
	default:
		return false
	}
	return true
}

// takeAstray takes over the requests that have been in the hand-over socket for a second,
// because several workers have seen the same sibling free. Here the limits apply to them.
func (w *worker) takeAstray() {
	there := w.limited && !w.stopping() && w.python.takes() && readable(w.takeFD)
	for there && w.astray && !w.full() && w.takeOver() {
	}
	w.astray = there
}

// turnAway answers a request with 503, and says when to try again.
func (w *worker) turnAway(t *turn, limit int, wait time.Duration) {
	w.shed[limit]++
	increase(&w.slot.counters.shed[limit], 1)
	w.record(t, []byte("503"), true)
	w.page(t.conn, busyPage(wait))
}

func busyPage(wait time.Duration) *badRequest {
	bad := newBadRequest(503, "", "")
	bad.fields = "Retry-After: " + strconv.Itoa(int(min(max(wait.Round(time.Second)/time.Second, 1), retryMax))) + "\r\n"
	return bad
}

// expireWaiting answers requests that have waited for queue_timeout.
func (w *worker) expireWaiting() {
	if w.cfg.queueTimeout == 0 || w.oldest == 0 || w.oldest > w.now {
		return
	}
	w.oldest = 0
	for _, t := range w.waiting {
		if !t.waits() {
			continue
		}
		if due := t.since + int64(w.cfg.queueTimeout); due > w.now {
			w.oldest = sooner(w.oldest, due)
		} else {
			w.turnAway(t, shedTimeout, 0)
		}
	}
	w.keepWaiting()
}

// queueDue is when requests that wait have to be looked at, 0 for never.
func (w *worker) queueDue() int64 {
	if !w.limited || len(w.waiting) == 0 {
		return 0
	}
	if w.alone {
		return w.oldest
	}
	return sooner(w.oldest, w.after(crowdPause))
}

// sayCrowds logs once a second how many requests and connections were turned away.
func (w *worker) sayCrowds() {
	for i, n := range w.shed {
		switch w.shed[i] = 0; {
		case n == 0:
		case i == shedClient:
			w.log.warningf("%s: %d connections were closed: their clients have %d each", shedNames[i], n, w.cfg.limitConnectionsPerClient)
		case i == shedLimit:
			w.log.warningf("%s: %d requests got 503: %d others waited", shedNames[i], n, w.cfg.queueLimit)
		default:
			w.log.warningf("%s: %d requests got 503: they waited for %v, or would have", shedNames[i], n, w.cfg.queueTimeout)
		}
	}
}

// Clients ---------------------------------------------------------------------

// A census counts the connections of each client. Each worker has a part in a file that all
// workers can read, with two rows of counters. A client counts in one place of each row, and
// has at most as many connections as the smaller of the two says. Two clients with the same
// two places are taken for one; among twenty thousand clients, one in five shares a place of
// each row with somebody, and mostly with somebody who has few connections.
const (
	censusRow  = 1 << 15
	censusPart = 2 * 4 * censusRow
	censusHead = 64 << 10 // bytes before the first part: the seed, and the rest of the largest page that any kernel has
)

type censusCounts [2][censusRow]atomic.Uint32

type census struct {
	fd     int
	seed   uint64
	own    *censusCounts
	others *neighbours
	parts  []*censusCounts // in the order of the pages of the scoreboard
}

// openCensus makes the file, in the arbiter. The seed keeps clients from choosing addresses
// that are counted together.
func openCensus() (int, error) {
	head := make([]byte, censusHead)
	_, _ = rand.Read(head[:8]) // never fails
	fd, err := memfd("gunicorn-clients", head)
	if err == nil { // a worker must not be able to shorten what others have mapped
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	return fd, err
}

// clearPart makes the part of a page's next worker, or forgets what the last one has counted.
func clearPart(fd, page int) error {
	at := int64(censusHead + page*censusPart)
	err := unix.Fallocate(fd, 0, at, censusPart)
	if err == nil {
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, censusPart)
	}
	if err != nil {
		return fmt.Errorf("limit_connections_per_client: %w", err)
	}
	return nil
}

// joinCensus maps the part of this worker, which has the given page of the scoreboard.
func joinCensus(fd, page int, others *neighbours) (*census, error) {
	var head [8]byte
	if _, err := unix.Pread(fd, head[:], 0); err != nil {
		return nil, fmt.Errorf("limit_connections_per_client: %w", err)
	}
	c := &census{fd: fd, seed: binary.LittleEndian.Uint64(head[:]), others: others}
	var err error
	c.own, err = c.part(page, unix.PROT_READ|unix.PROT_WRITE)
	return c, err
}

func (c *census) part(page, rights int) (*censusCounts, error) {
	b, err := unix.Mmap(c.fd, int64(censusHead+page*censusPart), censusPart, rights, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("limit_connections_per_client: mmap: %w", err)
	}
	return (*censusCounts)(unsafe.Pointer(&b[0])), nil
}

// key is the number under which a client's connections are counted: made of its address,
// or for IPv6 of its network, in which a client has as many addresses as it likes. The
// key is 0 for no address.
func (c *census) key(text string) uint64 {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return 0
	}
	b := addr.Unmap().As16()
	high, low := binary.BigEndian.Uint64(b[:]), uint64(0)
	if addr.Unmap().Is4() {
		low = binary.BigEndian.Uint64(b[8:])
	}
	mixed := c.seed
	for _, x := range [...]uint64{high, low} {
		hi, lo := bits.Mul64(mixed^x, 0x9e3779b97f4a7c15)
		mixed = hi ^ lo ^ bits.RotateLeft64(mixed, 23)
	}
	return max(mixed, 1)
}

// places are the places of a key in the two rows.
func places(key uint64) [2]uint32 {
	return [2]uint32{uint32(key) % censusRow, uint32(key>>32) % censusRow}
}

// connections is how many connections a client has with all workers.
func (c *census) connections(key uint64) int {
	var n [2]uint32
	at := places(key)
	for i, s := range c.others.all() {
		for i >= len(c.parts) {
			part, err := c.part(len(c.parts), unix.PROT_READ)
			if err != nil {
				return 0 // without memory nobody is turned away
			}
			c.parts = append(c.parts, part)
		}
		if s.pid.Load() == 0 {
			continue
		}
		for row := range n {
			n[row] += c.parts[i][row][at[row]].Load()
		}
	}
	return int(min(n[0], n[1]))
}

// add counts a connection more, or one less.
func (c *census) add(key uint64, n int32) {
	for row, at := range places(key) {
		count := &c.own[row][at]
		count.Store(count.Load() + uint32(n))
	}
}

// countClient counts a connection of a client. If the client has too many already, and
// may is false, the connection is turned away and the result is false. Connections of
// trusted proxies are not counted, unless a PROXY header names the client.
func (w *worker) countClient(c *conn, may bool) bool {
	if w.census == nil || c.opening || c.client != 0 || !c.peer.proxied() && (c.trusted || w.maySendProxy(c)) {
		return true
	}
	key := w.census.key(c.peer.remoteAddr)
	if key == 0 {
		return true
	}
	if !may && w.census.connections(key) >= w.cfg.limitConnectionsPerClient {
		w.shed[shedClient]++
		increase(&w.slot.counters.shed[shedClient], 1)
		if w.tls != nil {
			w.close(c) // a handshake would cost more than the client should
		} else {
			w.page(c, busyPage(0))
		}
		return false
	}
	c.client = key
	w.census.add(key, 1)
	return true
}

// proxied reports whether a PROXY header has named the client.
func (e *endpoint) proxied() bool { return e.proxy != nil && e.proxy.addr != "" }

// maySendProxy reports whether a connection is that of a proxy that could have sent a PROXY
// header.
func (w *worker) maySendProxy(c *conn) bool {
	if w.cfg.proxyProtocol == "off" {
		return false
	}
	addr, err := netip.ParseAddr(c.peer.remoteAddr)
	return err == nil && w.cfg.proxyAllowIPs.has(addr)
}
