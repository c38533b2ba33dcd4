package main

// What a worker holds for its clients, in memory (the pool) and on disk (the spool).
//
// All memory for clients is counted and bounded in the pool. Buffers for heads, bodies
// and responses come from the pool; the memory that parsers, inflaters and crypto/tls
// keep for a connection is estimated and added. When the sum exceeds the limit,
// connections are ended until the sum is well below the limit. Connections that hold no
// more than an ordinary request are ended last. Among the others, connections that wait for
// their clients are ended first, beginning with the most memory, held for the longest
// time.

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// heldTotal is the most memory that the connections of one worker may hold: enough
	// for some hundred bodies or responses of the largest size in memory (held).
	heldTotal = 128 << 20
	// heldPart limits the connections of all workers to a quarter of the memory
	// that the control group allows: Python and the workers need the rest.
	heldPart = 4
	// heldLeast is the smallest limit, however little the control group allows: a
	// smaller limit would refuse ordinary requests.
	heldLeast = 4 << 20
	// heldModest is the memory of an ordinary request: a head, a body and a
	// response of usual sizes.
	heldModest = 32 << 10
	// slowMost bounds the seconds of slowness that count against a connection, so that
	// a long download does not become the first connection to be ended. After eight
	// seconds of waiting its memory counts ninefold.
	slowMost = 8
)

// heldLimit is the memory that the connections of one worker may hold, given the
// number of workers.
func heldLimit(root string, workers int) int {
	limit := int64(heldTotal)
	if n := memoryLimit(root); n > 0 {
		limit = min(limit, n/heldPart/int64(max(1, workers)))
	}
	return int(max(limit, heldLeast))
}

// unusedHeap is the memory of Go's runtime up to which a worker does without a collector:
// the memory that a worker has mapped once it serves, and 2 MB.
const unusedHeap = 8 << 20

// limitMemory sets the limit of the pool, and puts off the first collection of garbage,
// which takes half a megabyte for the collector itself: a worker whose clients keep their
// connections allocates next to nothing, and may never need one. From then on collections are
// frequent: they are cheap, while Go's usual 100 % would let garbage double the size of a
// worker. Near the limit of Go's memory the collector works harder. Beyond the memory of
// clients this limit leaves a quarter for garbage, and 24 MB for the worker itself.
func (w *worker) limitMemory() {
	w.pool.limit = heldLimit("", w.cfg.workers)
	limit := min(debug.SetMemoryLimit(-1), int64(w.pool.limit)*5/4+24<<20)
	runtime.AddCleanup(new([64]byte), func(limit int64) {
		debug.SetGCPercent(25)
		debug.SetMemoryLimit(limit)
	}, limit)
	debug.SetMemoryLimit(min(limit, unusedHeap))
}

// weigh updates the pool's sum with the memory that c holds beside pool buffers.
func (w *worker) weigh(c *conn) {
	n := c.beside()
	w.pool.out += n - c.weight
	c.weight = n
}

// beside estimates the memory that c's parsers and transport use outside the pool.
func (c *conn) beside() int {
	_, n := c.transport.held()
	if c.carrier != nil {
		n += c.carrier.held()
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

// held estimates all memory that is held for c.
func (c *conn) held() int {
	n := c.weight + cap(c.in) + cap(c.out)
	if t := c.turn; t != nil {
		n += cap(t.shed)
		if t.store == pooled {
			n += cap(t.body)
		}
	}
	if c.pump != nil {
		n += cap(c.pump.out)
	}
	pooled, _ := c.transport.held()
	return n + pooled
}

// modest is 1 for a connection that holds no more than an ordinary request, else
// 0. Modest connections are ended last, because ending them frees little.
func (c *conn) modest() int {
	if c.held() <= heldModest {
		return 1
	}
	return 0
}

// Ranks of connections; a lower rank is ended first.
const (
	awaited = iota // the worker waits for the client to send or to receive
	queued         // the request waits for a lane
	applied        // the request is in the application
	staying        // never ended: a lane's memory is freed only when its request ends
)

// rank ranks c by what its memory is held for.
func (w *worker) rank(c *conn) int {
	t := c.turn
	switch {
	case t != nil && t.state == waiting:
		return queued
	case t == nil || t.state != inLane || c.state != open || c.pending() || t.talk != nil || t.want > 0 && t.incomplete():
		return awaited
	case w.python.gateway.cancels:
		return applied
	}
	return staying
}

// countSlow counts the seconds for which the worker has been waiting for c's client. It
// is called once a second.
func (w *worker) countSlow(c *conn) {
	if w.rank(c) != awaited || c.held() == 0 {
		c.slow = 0
	} else if c.slow < slowMost {
		c.slow++
	}
}

// relieve ends connections if all together hold more memory than the limit. It frees a
// sixteenth of the limit in addition: otherwise the next few bytes would exceed the
// limit again, and all connections would be sorted again.
func (w *worker) relieve() {
	over := w.pool.out - w.pool.limit
	if over <= 0 {
		return
	}
	over += w.pool.limit / 16
	var list []*conn
	w.each(func(c *conn) {
		if c.held() > 0 && w.rank(c) < staying {
			list = append(list, c)
		}
	})
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
		w.gaveWay, w.hushed = 0, w.after(time.Second)
	}
}

// yield ends a connection to free its memory, with a response where one is still
// possible.
func (w *worker) yield(c *conn) {
	t, bad := c.turn, newBadRequest(503, "", "")
	switch {
	case c.shakes():
		c.tls().abort()
		w.weigh(c)
		return
	case c.carrier != nil:
		c.transport.reset(c)
		w.lost(c)
	case c.state == handshaking, c.between() && len(c.in) == 0:
		w.close(c)
	case c.between():
		w.page(c, bad)
	case c.state == open && (t.state == readingBody || t.state == waiting):
		w.record(t, []byte("503"), true)
		w.page(c, bad)
	case c.state == open && t.state == inLane && t.talk != nil && !t.talk.within && !c.pending():
		w.tellGone(t, 1013, "", graceSet)
		w.endTalk(t, 1013, "")
	case c.state == open && t.state == inLane && w.python.gateway.cancels && !t.started && !t.taken:
		w.cancel(t, 0, bad)
	default:
		c.transport.reset(c)
		w.lost(c)
	}
	if t := c.turn; t != nil && t.state == draining {
		c.transport.reset(c)
		w.lost(c) // the client does not even receive the response
	}
}

// pool keeps buffers for reuse, and counts the memory held for clients.
type pool struct {
	free  [poolClasses][][]byte // spare buffers, by class of size
	out   int                   // bytes in use: buffers, and the weights of connections
	limit int                   // value of out above which relieve ends connections
}

const (
	poolSmallest = 512                               // smallest size of a buffer
	poolClasses  = 13                                // classes of sizes, each twice the one before
	poolLongest  = poolSmallest << (poolClasses - 1) // 2 MiB; longer buffers are not kept
	poolLarge    = 8                                 // smallest class that trim shrinks: 128 KiB
	poolKeep     = 64                                // most spare buffers of a class
	poolKeepPart = 32                                // the spare buffers of a class hold at most limit/poolKeepPart bytes
)

// poolClass is the class and the size of the smallest buffer for n bytes. Sizes
// double up to poolLongest; above they are whole megabytes, because doubling would
// waste up to half of a large buffer.
func poolClass(n int) (class, size int) {
	if n > poolLongest {
		return poolClasses, (n + 1<<20 - 1) &^ (1<<20 - 1)
	}
	class = bits.Len(uint(max(n, poolSmallest)-1) / poolSmallest)
	return class, poolSmallest << class
}

// get returns an empty buffer with room for at least n bytes.
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

// put takes a buffer back, and keeps it as a spare unless its class has enough.
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

// extend appends read to b, in the smallest buffer that fits: the client may be
// slow to send more.
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

// fit returns rest, a part of b, in the smallest buffer that fits, or nil if rest
// is empty.
func (p *pool) fit(b, rest []byte) []byte {
	if _, size := poolClass(len(rest)); len(rest) > 0 && size == cap(b) {
		return b[:copy(b, rest)]
	}
	rest = p.extend(nil, rest)
	p.put(b)
	return rest
}

// grow returns b's content in a buffer with room for n more bytes. The buffer is
// at least twice as large, or a quarter larger beyond poolLongest.
func (p *pool) grow(b []byte, n int) []byte {
	bigger := append(p.get(max(cap(b)+max(min(cap(b), poolLongest), cap(b)/4), len(b)+n)), b...)
	p.put(b)
	return bigger
}

// trim frees one large spare buffer of each class, so that the memory of a burst
// is returned over time.
func (p *pool) trim() {
	for class := poolLarge; class < poolClasses; class++ {
		if n := len(p.free[class]); n > 0 {
			p.free[class][n-1] = nil
			p.free[class] = p.free[class][:n-1]
		}
	}
}

// bodyStore says whose memory the received part of a request's body is in.
type bodyStore uint8

const (
	inHead   bodyStore = iota // a part of conn.in, behind the head
	pooled                    // a buffer of the pool
	inShared                  // a place in the memory shared with Python (shared.go)
)

// freeBody forgets the received part of a request's body.
func (w *worker) freeBody(t *turn) {
	switch t.store {
	case pooled:
		w.pool.put(t.body)
	case inShared:
		w.python.giveBack(t.body)
	}
	t.body, t.store, t.fed = nil, inHead, 0
}

// Spool ---------------------------------------------------------------------
//
// The spool keeps bodies in files while a client is slow and its body exceeds its share
// of memory, so that no application has to wait for a client. A request goes to Python
// when its body is complete, and Python is free as soon as it has produced the
// response. The files have no names: when a worker ends, the kernel removes them.

// spool is the spool of one worker.
type spool struct {
	dir    string // directory of the files, "" for no spool
	limit  int64  // most bytes in all files
	used   int64  // bytes in all files
	silent int64  // time before which no further warning about the spool is logged
}

// spooled is the spooled part of a request's body.
type spooled struct {
	file int   // descriptor of the file
	at   int64 // offset of the next byte for Python
	end  int64 // size of the file
}

// left is the number of spooled bytes that Python does not have yet.
func (s *spooled) left() int64 {
	if s == nil {
		return 0
	}
	return s.end - s.at
}

// newSpool makes the spool of a worker. ASGI needs none: a stream that waits for
// its client keeps no other stream waiting.
func newSpool(c *config) spool {
	if c.spoolDir == "" || c.family() == familyASGI {
		return spool{}
	}
	return spool{dir: c.inDir(c.spoolDir), limit: cmp.Or(c.spoolLimit, math.MaxInt64)}
}

// checkSpool tries to make a file in spool_dir, with the rights of a worker. Only the
// attempt finds read-only file systems and access control lists.
func (c *config) checkSpool() error {
	if c.spoolDir == "" {
		return nil
	}
	cred, err := credentialOf(c)
	if err != nil {
		return nil // the start reports this error itself
	}
	err = withRightsOf(cred, func() error {
		fd, err := openSpoolFile(c.inDir(c.spoolDir))
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	if err != nil {
		return sentence("spool_dir: %q is not a directory in which user %d can make files: %v", c.spoolDir, c.user, err)
	}
	return nil
}

// openSpoolFile makes a file and removes its name. O_TMPFILE would do so at once, but not
// in every file system.
func openSpoolFile(dir string) (int, error) {
	name := filepath.Join(dir, fmt.Sprintf(".gunicorn-%d-%d", os.Getpid(), monotonic()))
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, err
	}
	if err := unix.Unlink(name); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openSpool opens a file for a body. It returns -1 if there is no spool, no room
// or no descriptor.
func (w *worker) openSpool() int {
	s := &w.spool
	if s.dir == "" || !w.roomForFiles() {
		return -1
	}
	if s.used >= s.limit {
		w.spoolFails(unix.EDQUOT)
		return -1
	}
	fd, err := openSpoolFile(s.dir)
	if err != nil {
		w.spoolFails(err)
		return -1
	}
	w.files++
	return fd
}

// writeSpool appends b to a file of the given size, and counts the bytes written, n, in
// the size and in the turn's share of this turn of the loop.
func (w *worker) writeSpool(t *turn, file int, size *int64, b []byte) (n int) {
	s := &w.spool
	for n < len(b) {
		piece := b[n:min(int64(len(b)), int64(n)+s.limit-s.used)]
		m, err := 0, error(unix.EDQUOT)
		if len(piece) > 0 {
			m, err = unix.Pwrite(file, piece, *size)
		}
		if err != nil && err != unix.EINTR {
			w.spoolFails(err)
			break
		}
		m = max(m, 0)
		n += m
		s.used += int64(m)
		*size += int64(m)
	}
	t.burst += n
	w.slot.spooled.Store(uint64(s.used))
	return n
}

// spoolFails warns, at most once a minute, that applications wait for slow clients
// because the spool cannot take their bodies.
func (w *worker) spoolFails(err error) {
	if w.spool.silent > w.now {
		return
	}
	w.spool.silent = w.after(time.Minute)
	why := fmt.Sprintf("spool_dir: %s: %v", w.spool.dir, err)
	if err == unix.EDQUOT && w.spool.used >= w.spool.limit {
		why = fmt.Sprintf("spool_limit: %sB are in use", size(uint64(w.spool.used)))
	}
	w.log.warningf("%s; requests wait for slow clients in the application", why)
}

// closeSpool closes a file of the given size in the spool. A file that is not in the
// spool has size 0.
func (w *worker) closeSpool(file int, size int64) {
	unix.Close(file)
	w.files--
	w.spool.used -= size
	w.slot.spooled.Store(uint64(w.spool.used))
}

// spill moves the received part of a request's body to the spool. It returns false
// if the spool has no room; the application then has to read the body as it comes.
func (w *worker) spill(t *turn) bool {
	if t.spooled == nil {
		file := w.openSpool()
		if file < 0 {
			return false
		}
		t.spooled = &spooled{file: file}
	}
	n := w.writeSpool(t, t.spooled.file, &t.spooled.end, t.body)
	switch {
	case n == len(t.body):
		w.freeBody(t)
	case t.store == inHead:
		t.body = t.body[n:]
	default:
		t.body = t.body[:copy(t.body, t.body[n:])]
	}
	return len(t.body) == 0
}

// overflows reports whether a body has filled its share of memory.
func (w *worker) overflows(t *turn) bool {
	if t.spooled != nil {
		return len(t.body) >= heldPressed
	}
	return len(t.body) >= w.holdable()
}

// unspool returns the next piece of a spooled body for Python, in w.rbuf. A read
// error breaks the body.
func (w *worker) unspool(t *turn, most int) []byte {
	s := t.spooled
	for {
		n, err := unix.Pread(s.file, w.rbuf[:min(int64(most), int64(len(w.rbuf)), s.left())], s.at)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EIO
		}
		if err != nil {
			w.log.errorf("%s: spool_dir: %v", t.line(), err)
			t.broken = newBadRequest(500, "the request body is lost", "")
			return nil
		}
		s.at += int64(n)
		return w.rbuf[:n]
	}
}

// dropSpooled closes the spooled part of a request's body.
func (w *worker) dropSpooled(t *turn) {
	if s := t.spooled; s != nil {
		w.closeSpool(s.file, s.end)
		t.spooled = nil
	}
}

// spoolReply opens a file for the part of a response that follows the part in
// memory.
func (w *worker) spoolReply(c *conn) {
	if file := w.openSpool(); file >= 0 {
		c.file, c.fileAt, c.fileEnd, c.filed = file, 0, 0, true
	}
}

// sendBehind queues pieces of a response behind c.file: in the file while the spool
// has room, and then in memory.
func (w *worker) sendBehind(c *conn, pieces ...[]byte) {
	for _, b := range pieces {
		if c.filed && len(c.rest) == 0 {
			b = b[w.writeSpool(c.turn, c.file, &c.fileEnd, b):]
		}
		c.rest = w.pool.extend(c.rest, b)
	}
}
