package main

// What a worker holds in memory for its clients is counted in one place, the pool, and
// bounded there. Buffers for heads, bodies and responses are the pool's own; what
// parsers, inflaters and crypto/tls keep for a connection is weighed and added. When
// the sum passes the limit, connections end until it is well below: those first
// that hold most, and longest, while the worker waits for their clients.

import (
	"cmp"
	"slices"
	"time"
	"unsafe"
)

const (
	// All connections of a worker hold no more than this, nor more than a part
	// of the memory that the control group allows: Python has to live there, too.
	heldTotal  = 128 << 20
	heldPart   = 4
	heldLeast  = 4 << 20  // however little is allowed
	heldModest = 32 << 10 // a head, a body and a response of usual sizes
	// A client that is slow for longer than these seconds is just slow: a long
	// download must not become the first to go.
	slowMost = 8
)

// heldLimit is what one of so many workers may hold.
func heldLimit(root string, workers int) int {
	limit := int64(heldTotal)
	if n := memoryLimit(root); n > 0 {
		limit = min(limit, n/heldPart/int64(max(1, workers)))
	}
	return int(max(limit, heldLeast))
}

// weigh brings the account up to date with what c holds beside the pool's buffers.
func (w *worker) weigh(c *conn) {
	n := c.beside()
	w.pool.out += n - c.weight
	c.weight = n
}

// beside is the memory of parsers and of TLS.
func (c *conn) beside() (n int) {
	if c.secure != nil {
		n += c.secure.held()
	}
	t := c.turn
	if t == nil {
		return n
	}
	n += cap(t.req.fields) * int(unsafe.Sizeof(field{}))
	if t.decoder != nil {
		n += cap(t.decoder.partial)
	}
	for i := range t.trailer {
		n += int(unsafe.Sizeof(field{})) + len(t.trailer[i].name) + len(t.trailer[i].value)
	}
	if t.talk != nil {
		n += t.talk.decoder.held()
	}
	return n
}

// held is all that is held for c.
func (c *conn) held() int {
	n := c.weight + cap(c.in) + cap(c.out)
	if t := c.turn; t != nil {
		n += cap(t.shed)
		if t.ownBody {
			n += cap(t.body)
		}
	}
	if c.pump != nil {
		n += cap(c.pump.out)
	}
	return n
}

// modest is 1 for a connection for which no more is held than an ordinary request needs,
// and 0 for others. The modest ones give way last: that they go helps nobody much.
func (c *conn) modest() int {
	if c.held() <= heldModest {
		return 1
	}
	return 0
}

// Whose turn it is to give way.
const (
	awaited = iota // the client has to send or to take something
	queued         // its request waits for a lane
	applied        // the application has it
	staying        // it would not help: a lane's memory comes back when its request ends
)

func (w *worker) rank(c *conn) int {
	t := c.turn
	switch {
	case t != nil && t.state == waiting:
		return queued
	case t == nil || t.state != inLane || c.state != open || c.pending() || t.talk != nil || t.asked && t.incomplete():
		return awaited
	case w.asgi:
		return applied
	}
	return staying
}

// age is called once a second.
func (w *worker) age(c *conn) {
	if w.rank(c) != awaited || c.held() == 0 {
		c.slow = 0
	} else if c.slow < slowMost {
		c.slow++
	}
}

// relieve ends connections when all together hold more than they may, and a
// sixteenth more than that, so that it is not called for each byte.
func (w *worker) relieve() {
	over := w.pool.out - w.pool.limit
	if over <= 0 {
		return
	}
	over += w.pool.limit / 16
	var list []*conn
	for _, c := range w.conns {
		if c != nil && !c.gone && c.held() > 0 && w.rank(c) < staying {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *conn) int {
		return cmp.Or(a.modest()-b.modest(), w.rank(a)-w.rank(b), b.held()*(1+int(b.slow))-a.held()*(1+int(a.slow)))
	})
	for _, c := range list {
		if over <= 0 {
			break
		}
		if !c.gone {
			over -= c.held()
			w.gaveWay++
			w.yield(c)
		}
	}
	if w.gaveWay > 0 && w.hushed <= w.now {
		w.log.warningf("clients hold more than %d MB in memory; closed for that: %d connections", w.pool.limit>>20, w.gaveWay)
		w.gaveWay, w.hushed = 0, w.now+int64(time.Second)
	}
}

// yield ends a connection for the sake of others: with an answer where there can
// be one.
func (w *worker) yield(c *conn) {
	t, bad := c.turn, newBadRequest(503, "", "")
	switch {
	case c.shakes():
		c.secure.giveUp()
		w.weigh(c)
		return
	case c.state == handshaking, c.between() && len(c.in) == 0:
		w.close(c)
	case c.between():
		w.page(c, bad)
	case c.state == open && (t.state == readingBody || t.state == waiting):
		w.record(t, []byte("503"), true)
		w.page(c, bad)
	case c.state == open && t.state == inLane && t.talk != nil && !t.talk.within && !c.pending():
		w.tellGone(t, 1013, "", -1)
		w.endTalk(t, 1013, "")
	case c.state == open && t.state == inLane && w.asgi && !t.started && !t.taken && !t.indirect:
		w.tellGone(t, 1006, "", 0)
		t.lane.bury(t)
		w.answerFor(t, bad)
	default:
		c.reset()
		w.lost(c)
	}
	if t := c.turn; t != nil && t.state == draining {
		c.reset()
		w.lost(c) // it does not even take the answer
	}
}

// pool keeps buffers of a few sizes for reuse, and the account of all that is held
// for clients (memory.go).
type pool struct {
	free  [poolClasses][][]byte
	out   int // bytes held, with what is weighed
	limit int // that out is brought back to
}

const (
	poolSmallest = 512
	poolClasses  = 13 // up to poolLongest; longer ones are not kept
	poolLongest  = poolSmallest << (poolClasses - 1)
	poolLarge    = 8  // 128 KB
	poolKeep     = 64 // of each size, and no more of it than this part of the limit
	poolKeepPart = 32
)

// class is the index of the smallest size that holds n. Sizes double up to the longest
// that is kept; from there on they are whole megabytes, as half of a large buffer would
// be a lot of nothing.
func poolClass(n int) (class, size int) {
	if n > poolLongest {
		return poolClasses, (n + 1<<20 - 1) &^ (1<<20 - 1)
	}
	for size = poolSmallest; size < n; size *= 2 {
		class++
	}
	return class, size
}

// get returns an empty buffer with room for n bytes at least.
func (p *pool) get(n int) []byte {
	class, size := poolClass(n)
	p.out += size
	if class < poolClasses {
		if list := p.free[class]; len(list) > 0 {
			b := list[len(list)-1]
			p.free[class] = list[:len(list)-1]
			return b
		}
	}
	return make([]byte, 0, size)
}

func (p *pool) put(b []byte) {
	if cap(b) == 0 {
		return
	}
	class, size := poolClass(cap(b))
	p.out -= size
	if size == cap(b) && class < poolClasses && len(p.free[class]) < max(1, min(poolKeep, p.limit/poolKeepPart/size)) {
		p.free[class] = append(p.free[class], b[:0])
	}
}

// extend appends what was read to b: in a buffer that is no larger than it must
// be, as the next byte may be long in coming.
func (p *pool) extend(b, read []byte) []byte {
	if len(read) == 0 {
		return b
	}
	if len(b)+len(read) > cap(b) {
		bigger := append(p.get(len(b)+len(read)), b...)
		p.put(b)
		b = bigger
	}
	return append(b, read...)
}

// fit returns rest, a part of b, in a buffer of its size: none if it is empty.
func (p *pool) fit(b, rest []byte) []byte {
	if _, size := poolClass(len(rest)); len(rest) > 0 && size == cap(b) {
		return b[:copy(b, rest)]
	}
	rest = p.extend(nil, rest)
	p.put(b)
	return rest
}

// grow returns b's content in a buffer with room for n bytes more, twice as
// large at least, or by a quarter when that is much.
func (p *pool) grow(b []byte, n int) []byte {
	bigger := append(p.get(max(cap(b)+max(min(cap(b), poolLongest), cap(b)/4), len(b)+n)), b...)
	p.put(b)
	return bigger
}

// trim lets go of one large buffer of each size, so that what a burst needed
// does not stay for ever.
func (p *pool) trim() {
	for class := poolLarge; class < poolClasses; class++ {
		if n := len(p.free[class]); n > 0 {
			p.free[class][n-1] = nil
			p.free[class] = p.free[class][:n-1]
		}
	}
}
