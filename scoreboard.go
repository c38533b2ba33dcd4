package main

// The scoreboard: shared memory in which the arbiter and its workers say what
// they are doing. It is two files: in one the arbiter has a page, and in the
// other each worker has one, of which it maps no more than its own. Whoever may
// look into the arbiter's descriptors can read all of it (status.go). No file is
// touched, so nothing stalls on a disk and a read-only system will do. Each field
// has one writer.
//
// Workers may run as another user than the arbiter, and whoever has the
// descriptor of a page can write to all pages of that file. So the arbiter's own
// page is not in it, the kernel lets nobody shorten it (a page that is gone is a
// SIGBUS for whoever looks), and the arbiter reads there only what may be wrong.

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// phase is what a worker is about. It is stored once, in the worker's slot:
//
//	booting --> serving --> standing down --> retiring --> draining --> quitting
//
// Every phase but the first may be left for any of the later ones.
type phase uint64

const (
	phaseBooting phase = iota // its Python imports the application
	phaseServing
	phaseStandingDown // serves until its replacement does
	phaseRetiring     // takes no more work: siblings take over
	phaseDraining     // all workers stop: what has been accepted is answered
	phaseQuitting     // leaves at once, whatever runs
)

// phaseSteps are the phases that may follow each.
var phaseSteps = [...][]phase{
	phaseBooting:      {phaseServing, phaseRetiring, phaseDraining, phaseQuitting},
	phaseServing:      {phaseStandingDown, phaseRetiring, phaseDraining, phaseQuitting},
	phaseStandingDown: {phaseRetiring, phaseDraining, phaseQuitting},
	phaseRetiring:     {phaseDraining, phaseQuitting},
	phaseDraining:     {phaseQuitting},
	phaseQuitting:     {},
}

// serves reports whether a worker in this phase takes requests.
func (p phase) serves() bool { return p == phaseServing || p == phaseStandingDown }

// stops reports whether a worker in this phase is on its way out.
func (p phase) stops() bool {
	return p == phaseRetiring || p == phaseDraining || p == phaseQuitting
}

func (s *slot) phase() phase { return phase(s.state.Load()) }

// What the arbiter means by TERM.
const (
	orderNone   = iota // the signal is not its own, or not yet
	orderRetire        // siblings take over
	orderDrain         // all stop; whoever waits to be accepted is served first
	orderLeave         // all stop; the listeners outlive us, their next owner serves
)

// Why a worker has left, as the arbiter counts.
const (
	causeExit        = iota // it ended by itself, for no reason that is known
	causeReload             // HUP, TTOU, a file that has changed
	causeMaxRequests        //
	causeMaxMemory          //
	causeTimeout            // a request has run for too long, or the worker was silent
	causeCrash              // its Python, or itself, was ended by a signal or an exit
	causeMemory             // the same by the kernel, for want of memory
	causeBoot               // it could not load the application
	causes
)

// causeNames are what metrics and the status call them.
var causeNames = [causes]string{"exit", "reload", "max_requests", "max_memory", "timeout", "crash", "out_of_memory", "boot"}

const (
	pageSize   = 4096
	runningMax = 1024
)

// boardLayout changes with the structs below, so that nobody reads one for
// another.
const boardLayout = 0x67756e69_0002

// board is the arbiter's page.
type board struct {
	layout  atomic.Uint64
	pid     atomic.Uint64
	started atomic.Int64  // Unix time, nanoseconds
	target  atomic.Uint64 // workers that there should be
	heir    atomic.Uint64 // the same of the arbiter that USR2 has started, written by that
	serving atomic.Uint64 // workers that have booted and do not leave
	slots   atomic.Uint64 // workers' pages

	// Of workers that have ended. A reader believes what it has read while
	// folds was even and the same before and after.
	folds    atomic.Uint64
	ended    counters
	restarts [causes]atomic.Uint64
}

// slot is a worker's page. Times are those of sharedTime.
type slot struct {
	// Written by the worker.
	heartbeat   atomic.Int64
	state       atomic.Uint64
	connections atomic.Uint64 // open now
	waiting     atomic.Uint64 // requests that wait for a lane now
	busy        atomic.Uint64 // lanes in a request now
	lanes       atomic.Uint64 // how many there are
	python      atomic.Uint64 // pid of the Python
	cause       atomic.Uint64 // why it leaves
	begun       atomic.Int64  // when the oldest running request began, 0 if none
	counters    counters
	runningSize atomic.Uint64    // its method and target, as printed; for people,
	running     [runningMax]byte // so a torn read does no harm

	// Written by the arbiter, for others to read.
	pid     atomic.Uint64 // 0 when nobody has the page
	age     atomic.Uint64 // serial number of the worker
	started atomic.Int64  // Unix time, nanoseconds
	order   atomic.Uint64
}

// counters only grow.
type counters struct {
	answers     [6]atomic.Uint64 // by the first digit of the status; [0] is any other
	failures    atomic.Uint64    // 500 and above, or cut off
	bytes       atomic.Uint64    // of response bodies
	connections atomic.Uint64    // accepted
	duration    histogram        // of requests, from lane to end
	wait        histogram        // for a lane
}

// bounds are the upper ends of a histogram's buckets; the last has none.
var bounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

type histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Uint64 // nanoseconds
}

// increase is Add for a field with one writer, who needs no locked instruction.
func increase(a *atomic.Uint64, n uint64) { a.Store(a.Load() + n) }

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	increase(&h.counts[i], 1)
	increase(&h.sum, uint64(max(d, 0)))
}

// all is every field, in an order of their own.
func (c *counters) all() []*atomic.Uint64 {
	n := int(unsafe.Sizeof(*c) / unsafe.Sizeof(atomic.Uint64{}))
	words := unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(c)), n)
	list := make([]*atomic.Uint64, n)
	for i := range words {
		list[i] = &words[i]
	}
	return list
}

// add adds what other has counted.
func (c *counters) add(other *counters) {
	mine, more := c.all(), other.all()
	for i := range mine {
		increase(mine[i], more[i].Load())
	}
}

// scoreboard is the arbiter's hold on all of it.
type scoreboard struct {
	fd    int
	board *board
	pages int     // the file of workers' pages
	slots []*slot // by page; mapped for good
	held  []bool  // by a worker
}

// The files' names in /proc/PID/fd.
const (
	boardName = "gunicorn-scoreboard"
	pagesName = "gunicorn-workers"
)

// boardStride is how far the pages are apart.
var boardStride = max(pageSize, os.Getpagesize())

func newScoreboard() (*scoreboard, error) {
	fd, err := memfd(boardName, make([]byte, boardStride))
	if err != nil {
		return nil, err
	}
	// Whoever is another user, and has it to read, must not open it to write.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	b, err := mapPage(fd, 0)
	if err != nil {
		return nil, err
	}
	pages, err := memfd(pagesName, nil)
	if err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(pages), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	s := &scoreboard{fd: fd, board: (*board)(unsafe.Pointer(&b[0])), pages: pages}
	s.board.pid.Store(uint64(os.Getpid()))
	s.board.started.Store(time.Now().UnixNano())
	s.board.layout.Store(boardLayout)
	return s, nil
}

func mapPage(fd int, at int64) ([]byte, error) {
	b, err := unix.Mmap(fd, at, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return b, os.NewSyscallError("mmap", err)
}

// take gives a page to a worker to be. The descriptor is for it to inherit, and
// stands at that page.
func (s *scoreboard) take(age int) (l *slot, fd int, err error) {
	i := slices.Index(s.held, false)
	if i < 0 {
		i = len(s.slots)
		// Not ftruncate, which would shorten a file that a worker has made longer.
		if err := unix.Fallocate(s.pages, 0, int64(i*boardStride), int64(boardStride)); err != nil {
			return nil, -1, os.NewSyscallError("fallocate", err)
		}
		b, err := mapPage(s.pages, int64(i*boardStride))
		if err != nil {
			return nil, -1, err
		}
		s.slots = append(s.slots, (*slot)(unsafe.Pointer(&b[0])))
		s.held = append(s.held, false)
		s.board.slots.Store(uint64(len(s.slots)))
	}
	at := int64(i * boardStride)
	l = s.slots[i]
	clear(unsafe.Slice((*byte)(unsafe.Pointer(l)), pageSize))
	l.heartbeat.Store(sharedTime())
	l.age.Store(uint64(age))
	// A descriptor with a position of its own.
	fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", s.pages), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("open", err)
	}
	if _, err = unix.Seek(fd, at, unix.SEEK_SET); err != nil {
		unix.Close(fd)
		return nil, -1, os.NewSyscallError("lseek", err)
	}
	return l, fd, nil
}

// hold keeps a page for the worker that has been started with it.
func (s *scoreboard) hold(l *slot) { s.held[slices.Index(s.slots, l)] = true }

// fold adds an ended worker's counters to those of all that have ended, and
// frees its page.
func (s *scoreboard) fold(l *slot, cause uint64) {
	b := s.board
	b.folds.Add(1)
	b.ended.add(&l.counters)
	increase(&b.restarts[min(cause, causes-1)], 1)
	l.pid.Store(0)
	b.folds.Add(1)
	s.held[slices.Index(s.slots, l)] = false
}

// mapSlot maps the page at which fd stands, and closes fd.
func mapSlot(fd int) (*slot, error) {
	at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return nil, os.NewSyscallError("lseek", err)
	}
	b, err := mapPage(fd, at)
	unix.Close(fd)
	if err != nil {
		return nil, err
	}
	return (*slot)(unsafe.Pointer(&b[0])), nil
}

// setRunning says which request runs; text is already fit for a log.
func (s *slot) setRunning(text string, begun int64) {
	n := copy(s.running[:], text)
	s.runningSize.Store(uint64(n))
	s.begun.Store(begun)
}

// runningText is what setRunning stored, or "" when nothing runs. Neither size nor
// text is trusted: a worker may write what it likes, and be killed while it does.
func (s *slot) runningText() string {
	if s.begun.Load() == 0 {
		return ""
	}
	return printable(bytes.Clone(s.running[:min(s.runningSize.Load(), runningMax)]))
}

// count takes note of an answer, whatever kind it was.
func (c *counters) count(status []byte, took time.Duration, body int64) {
	class := 0
	if len(status) > 0 && status[0] >= '1' && status[0] <= '5' {
		class = int(status[0] - '0')
	}
	increase(&c.answers[class], 1)
	increase(&c.bytes, uint64(body))
	c.duration.observe(took)
}
