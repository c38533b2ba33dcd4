package main

// The scoreboard, and its readers: --status and --metrics.
//
// The scoreboard is shared memory in which the arbiter and its workers publish their state.
// It consists of two memory files. One has the arbiter's page; the other has a page for
// each worker, and a worker maps no page but its own, unless a setting needs all pages
// (neighbours). Any process that may read the arbiter's descriptors can read the scoreboard
// (--status). No file on a disk is involved, so that nothing stalls, and a read-only system
// is good enough. Each field has one writer.
//
// Workers may run as another user than the arbiter, and any process with the descriptor of
// one page can write to all pages of the workers' file. So the arbiter's page is in a file
// of its own; a seal keeps the workers' file from being shortened (reading a page that has
// gone raises SIGBUS); and the arbiter relies on nothing that it reads from workers' pages.

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// phase is the stage of a worker's life, stored in the worker's slot and nowhere else:
//
//	booting --> serving --> standing down --> retiring --> draining --> quitting
//
// Every phase may be left for any of the later ones, but booting not for standing down.
type phase uint64

const (
	phaseBooting phase = iota // Python imports the application
	phaseServing
	phaseStandingDown // the worker serves until its replacement does
	phaseRetiring     // the worker takes no more work: other workers take over
	phaseDraining     // all workers stop: accepted requests are answered
	phaseQuitting     // the worker ends at once, whatever runs
)

// mayBecome reports whether a worker may go from one phase to another.
func (p phase) mayBecome(next phase) bool {
	return next > p && (p != phaseBooting || next != phaseStandingDown)
}

// serves reports whether a worker in this phase takes requests.
func (p phase) serves() bool { return p == phaseServing || p == phaseStandingDown }

// stops reports whether a worker in this phase is on its way out.
func (p phase) stops() bool { return p >= phaseRetiring }

func (s *slot) phase() phase { return phase(s.state.Load()) }

// The meanings of TERM, which the arbiter stores in a worker's slot before the signal.
const (
	orderNone   = iota // no order: TERM came from somebody else
	orderRetire        // leave; other workers take over
	orderDrain         // all workers stop; clients that wait to be accepted are served first
	orderLeave         // all workers stop; waiting clients are left to the next owner of the listeners
)

// The causes by which the arbiter counts the ends of workers.
const (
	causeExit        = iota // the worker ended by itself, for an unknown reason
	causeReload             // HUP, TTOU, or a changed file with --reload
	causeMaxRequests        // the setting max_requests
	causeMaxMemory          // the setting max_memory
	causeTimeout            // a request ran for too long, or the worker fell silent
	causeCrash              // a signal or an exit ended the worker or its Python
	causeMemory             // the kernel killed the worker or its Python for want of memory
	causeBoot               // the worker could not load the application
	causes
)

// causeNames has the names of the causes in --status and --metrics.
var causeNames = [causes]string{"exit", "reload", "max_requests", "max_memory", "timeout", "crash", "out_of_memory", "boot"}

const (
	pageSize   = 4096
	runningMax = 1024
)

// readWrite are the rights to a page that its owner maps.
const readWrite = unix.PROT_READ | unix.PROT_WRITE

// boardLayout changes with the layout of board or slot, so that no program reads the
// scoreboard of another version.
const boardLayout = 0x67756e69_0004

// board is the arbiter's page.
type board struct {
	layout  atomic.Uint64
	pid     atomic.Uint64
	started atomic.Int64  // Unix time, nanoseconds
	target  atomic.Uint64 // number of workers wanted
	heir    atomic.Uint64 // number of workers wanted by the arbiter that USR2 has started, which writes this field
	serving atomic.Uint64 // number of workers that take requests and are not told to leave
	slots   atomic.Uint64 // number of workers' pages

	draining atomic.Uint64 // 1 from TERM on, while drain_delay passes and until the end

	// Sums of the workers that have ended. folds is odd while they change: a copy is
	// consistent if folds was even, and the same before and after copying.
	folds    atomic.Uint64
	ended    counters
	restarts [causes]atomic.Uint64
}

// slot is a worker's page. Times are on the clock of sharedTime.
type slot struct {
	// Written by the worker.
	heartbeat   atomic.Int64
	state       atomic.Uint64
	connections atomic.Uint64 // connections that are open at present
	waiting     atomic.Uint64 // requests that wait for a lane at present
	busy        atomic.Uint64 // lanes that run a request at present
	lanes       atomic.Uint64 // number of lanes
	idle        atomic.Uint64 // requests that the worker could run beside those it has; only with a limit of the queue
	spooled     atomic.Uint64 // bytes that the worker has in spool_dir
	python      atomic.Uint64 // pid of the worker's Python
	cause       atomic.Uint64 // reason for which the worker leaves
	begun       atomic.Int64  // when the oldest running request began, 0 if none
	stuck       atomic.Int64  // since when no lane could have taken a request, 0 if one can
	counters    counters
	runningSize atomic.Uint64    // length of running
	running     [runningMax]byte // method and target of the oldest running request, as printed; people read them, so a torn read does no harm

	// Written by the arbiter, for others to read.
	pid     atomic.Uint64 // pid of the worker, 0 if the page is free
	age     atomic.Uint64 // serial number of the worker
	started atomic.Int64  // Unix time, nanoseconds
	order   atomic.Uint64
}

// counters has numbers that only grow.
type counters struct {
	answers     [6]atomic.Uint64     // responses by the first digit of the status; [0] counts any other status
	failures    atomic.Uint64        // responses with status 500 or above, or cut off
	bytes       atomic.Uint64        // bytes of response bodies
	connections atomic.Uint64        // accepted connections
	shed        [sheds]atomic.Uint64 // requests and connections turned away, by the limit
	duration    histogram            // time from a request's start in the application to the end of its response
	wait        histogram            // time that requests have waited for a lane
}

// bounds has the upper bounds of a histogram's buckets, except for the last bucket, which
// has none.
var bounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

type histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Uint64 // total of the observed times in nanoseconds
}

// increase adds n to a field that has one writer, and so needs no locked instruction.
func increase(a *atomic.Uint64, n uint64) { a.Store(a.Load() + n) }

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	increase(&h.counts[i], 1)
	increase(&h.sum, uint64(max(d, 0)))
}

func (c *counters) add(other *counters) {
	const n = unsafe.Sizeof(*c) / unsafe.Sizeof(atomic.Uint64{}) // a counters consists of these alone
	mine, more := (*[n]atomic.Uint64)(unsafe.Pointer(c)), (*[n]atomic.Uint64)(unsafe.Pointer(other))
	for i := range mine {
		increase(&mine[i], more[i].Load())
	}
}

// scoreboard is the arbiter's access to both files.
type scoreboard struct {
	fd    int
	board *board
	pages int     // descriptor of the file of workers' pages
	slots []*slot // workers' pages in the order of the file, never unmapped
	held  []bool  // for each page: a worker has the page
}

// The files' names in /proc/PID/fd.
const (
	boardName = "gunicorn-scoreboard"
	pagesName = "gunicorn-workers"
)

// boardStride is the distance between pages in the workers' file.
var boardStride = max(pageSize, os.Getpagesize())

func newScoreboard() (*scoreboard, error) {
	fd, err := memfd(boardName, make([]byte, boardStride))
	if err != nil {
		return nil, err
	}
	s := &scoreboard{fd: fd}
	if s.board, err = mapPage[board](fd, 0, readWrite); err != nil {
		return nil, err
	}
	if s.pages, err = memfd(pagesName, nil); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(s.pages), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	s.board.pid.Store(uint64(os.Getpid()))
	s.board.started.Store(time.Now().UnixNano())
	s.board.layout.Store(boardLayout)
	return s, nil
}

func mapPage[T board | slot](fd int, at int64, rights int) (*T, error) {
	b, err := unix.Mmap(fd, at, pageSize, rights, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return (*T)(unsafe.Pointer(&b[0])), nil
}

// take gives a page to a worker that is about to be started. The worker inherits fd, whose
// file position is that of the page.
func (s *scoreboard) take(age int) (l *slot, fd int, err error) {
	i := slices.Index(s.held, false)
	if i < 0 {
		i = len(s.slots)
	}
	at := int64(i * boardStride)
	if i == len(s.slots) {
		// fallocate and not ftruncate, which would shorten a file that a worker has made longer.
		if err := unix.Fallocate(s.pages, 0, at, int64(boardStride)); err != nil {
			return nil, -1, os.NewSyscallError("fallocate", err)
		}
		if l, err = mapPage[slot](s.pages, at, readWrite); err != nil {
			return nil, -1, err
		}
		s.slots, s.held = append(s.slots, l), append(s.held, false)
		s.board.slots.Store(uint64(len(s.slots)))
	}
	l = s.slots[i]
	clear(unsafe.Slice((*byte)(unsafe.Pointer(l)), pageSize))
	l.heartbeat.Store(sharedTime())
	l.age.Store(uint64(age))
	if fd, err = openAnew(s.pages, unix.O_RDWR); err != nil {
		return nil, -1, err
	}
	if _, err = unix.Seek(fd, at, unix.SEEK_SET); err != nil {
		unix.Close(fd)
		return nil, -1, os.NewSyscallError("lseek", err)
	}
	return l, fd, nil
}

// hold reserves a page for the worker that has been started with the page.
func (s *scoreboard) hold(l *slot) { s.held[slices.Index(s.slots, l)] = true }

// fold adds an ended worker's counters to the sums of ended workers, and frees the worker's
// page.
func (s *scoreboard) fold(l *slot, cause uint64) {
	b := s.board
	b.folds.Add(1)
	b.ended.add(&l.counters)
	increase(&b.restarts[min(cause, causes-1)], 1)
	l.pid.Store(0)
	b.folds.Add(1)
	s.held[slices.Index(s.slots, l)] = false
}

// mapSlot maps the page at fd's file position, and closes fd.
func mapSlot(fd int) (*slot, error) {
	at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return nil, os.NewSyscallError("lseek", err)
	}
	defer unix.Close(fd)
	return mapPage[slot](fd, at, readWrite)
}

// setRunning stores which request runs. The text must be printable.
func (s *slot) setRunning(text string, begun int64) {
	n := copy(s.running[:], text)
	s.runningSize.Store(uint64(n))
	s.begun.Store(begun)
}

// runningText is the text stored by setRunning, or "" if no request runs. Neither size nor
// text is trusted: a compromised worker may write anything there, and any worker may be
// killed while it writes.
func (s *slot) runningText() string {
	if s.begun.Load() == 0 {
		return ""
	}
	return printable(bytes.Clone(s.running[:min(s.runningSize.Load(), runningMax)]))
}

func (c *counters) count(status []byte, took time.Duration, body int64) {
	class := 0
	if len(status) > 0 && status[0] >= '1' && status[0] <= '5' {
		class = int(status[0] - '0')
	}
	increase(&c.answers[class], 1)
	increase(&c.bytes, uint64(body))
	c.duration.observe(took)
}

// The status ------------------------------------------------------------------

// gunicorn --status prints the state of a running server, for people or for programs. It
// reads the scoreboard through /proc, so that the kernel decides whether the user may.

// reading is a consistent copy of the scoreboard.
type reading struct {
	*board
	now     int64 // time of the copy
	workers []*slot
	total   counters // sums of all workers, including ended ones
}

// since is the time from a moment on the shared clock to the reading.
func (r *reading) since(at *atomic.Int64) time.Duration { return time.Duration(r.now - at.Load()) }

// stateName is the worker's state for people and programs.
func (s *slot) stateName() string {
	switch p := s.phase(); {
	case p == phaseBooting:
		return "booting"
	case p.serves() && s.busy.Load() > 0:
		return "busy"
	case p.serves():
		return "idle"
	}
	return "stopping"
}

// memory is the resident memory of the worker and of its Python.
func (s *slot) memory() (worker, python int64) {
	return residentBytes(int(s.pid.Load())), residentBytes(int(s.python.Load()))
}

// readTries bounds the attempts at a copy during which no worker ends. Attempts
// are a millisecond apart, so the reader gives up after a tenth of a second.
const readTries = 100

// openScoreboard opens a memory file of a running arbiter.
func openScoreboard(pid int, file string) (fd int, err error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return -1, err
	}
	for _, name := range names {
		path := dir + "/" + name.Name()
		if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, "/memfd:"+file+" ") {
			continue
		}
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
	return -1, fmt.Errorf("process %d is not an arbiter of this program", pid)
}

// readScoreboard copies the scoreboard so that the counters of each worker appear
// once, either in the worker's page or in the sums of ended workers. The number
// of pages comes from the arbiter's page, because the length of the file is not
// reliable: any process that has the file open may lengthen it.
func readScoreboard(fd, pages int) (*reading, error) {
	for range readTries {
		b, err := readFile(fd, pageSize)
		if err != nil {
			return nil, err
		}
		if len(b) < pageSize {
			return nil, errors.New("the scoreboard is not complete")
		}
		// Atomic access needs aligned copies. Go aligns allocations of this size to
		// pages.
		first := (*board)(unsafe.Pointer(&b[0]))
		if first.layout.Load() != boardLayout {
			return nil, errors.New("the scoreboard is that of another version of this program")
		}
		slots, err := readFile(pages, int(first.slots.Load())*boardStride)
		if err != nil {
			return nil, err
		}
		var again [pageSize]byte
		if _, err := unix.Pread(fd, again[:unsafe.Sizeof(board{})], 0); err != nil {
			return nil, os.NewSyscallError("pread", err)
		}
		at := unsafe.Offsetof(first.folds)
		if folds := first.folds.Load(); folds%2 == 0 && bytes.Equal(again[at:at+8], b[at:at+8]) {
			return newReading(first, slots), nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil, errors.New("the scoreboard keeps changing")
}

func newReading(first *board, slots []byte) *reading {
	r := &reading{board: first, now: sharedTime()}
	r.total.add(&first.ended)
	for at := 0; at+pageSize <= len(slots); at += boardStride {
		if s := (*slot)(unsafe.Pointer(&slots[at])); s.pid.Load() != 0 {
			r.workers = append(r.workers, s)
			r.total.add(&s.counters)
		}
	}
	return r
}

func sum(list []atomic.Uint64) (n uint64) {
	for i := range list {
		n += list[i].Load()
	}
	return n
}

// residentBytes is the resident memory of a process, 0 if there is no process.
func residentBytes(pid int) int64 {
	f := strings.Fields(readText(fmt.Sprintf("/proc/%d/statm", pid)))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// printStatus carries out gunicorn --status.
func printStatus(c *config, out io.Writer) error {
	path := c.pidfile
	if path == "" {
		return errors.New("status: name the server's pid file with --pid")
	}
	pid := pidfileOwner(path)
	if pid == 0 {
		return fmt.Errorf("status: %s: no pid file of a server", path)
	}
	r, err := readArbiter(pid)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("status: %s: process %d does not run", path, pid)
	case err != nil:
		return fmt.Errorf("status: %w", err)
	case c.status == "json":
		_, err = out.Write(append(r.json(nil), '\n'))
	default:
		err = r.table(out)
	}
	return err
}

func readArbiter(pid int) (*reading, error) {
	fd, err := openScoreboard(pid, boardName)
	if err != nil {
		return nil, err
	}
	pages, err := openScoreboard(pid, pagesName)
	if err != nil {
		return nil, err
	}
	return readScoreboard(fd, pages)
}

func (r *reading) table(out io.Writer) error {
	fmt.Fprintf(out, "Arbiter %d, up %v: %d of %d workers serve\n", r.pid.Load(), uptime(&r.started), r.serving.Load(), r.target.Load())
	fmt.Fprintf(out, "Requests: %d", sum(r.total.answers[:]))
	for class := 1; class < len(r.total.answers); class++ {
		fmt.Fprintf(out, ", %dxx %d", class, r.total.answers[class].Load())
	}
	fmt.Fprintf(out, "\nWorkers that have ended:")
	for i := range r.restarts {
		if n := r.restarts[i].Load(); n > 0 {
			fmt.Fprintf(out, " %s %d", causeNames[i], n)
		}
	}
	if sum(r.restarts[:]) == 0 {
		fmt.Fprint(out, " none")
	}
	if sum(r.total.shed[:]) > 0 {
		fmt.Fprint(out, "\nTurned away:")
		for i, name := range shedNames {
			fmt.Fprintf(out, " %s %d", name, r.total.shed[i].Load())
		}
	}
	if n := r.spooled(); n > 0 {
		fmt.Fprintf(out, "\nIn spool_dir: %sB", size(n))
	}
	fmt.Fprint(out, "\n\n")
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PID\tPYTHON\tAGE\tSTATE\tUP\tREQUESTS\tFAILED\tSENT\tOPEN\tWAITING\tMEMORY\tRUNNING")
	for _, w := range r.workers {
		running := w.runningText()
		if running != "" {
			running += fmt.Sprintf(" for %v", r.since(&w.begun).Round(100*time.Millisecond))
		}
		worker, python := w.memory()
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%v\t%d\t%d\t%s\t%d\t%d\t%s\t%s\n", w.pid.Load(), w.python.Load(), w.age.Load(), w.stateName(),
			uptime(&w.started), sum(w.counters.answers[:]), w.counters.failures.Load(), size(w.counters.bytes.Load()),
			w.connections.Load(), w.waiting.Load(), size(uint64(worker+python)), running)
	}
	return t.Flush()
}

// spooled is how many bytes all workers have in spool_dir.
func (r *reading) spooled() (n uint64) {
	for _, w := range r.workers {
		n += w.spooled.Load()
	}
	return n
}

func uptime(since *atomic.Int64) time.Duration {
	return time.Since(time.Unix(0, since.Load())).Round(time.Second)
}

// size formats a number of bytes with a decimal prefix.
func size(n uint64) string {
	const units = "kMGT"
	if n < 1000 {
		return strconv.FormatUint(n, 10)
	}
	f, i := float64(n)/1000, 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + units[i:i+1]
}

func (r *reading) json(b []byte) []byte {
	b = fmt.Appendf(b, `{"pid":%d,"started":%s,"workers_wanted":%d,"workers_serving":%d,`,
		r.pid.Load(), seconds3(&r.started), r.target.Load(), r.serving.Load())
	b = r.total.json(b)
	b = append(b, `,"ended":{`...)
	for i := range r.restarts {
		b = fmt.Appendf(b, `%q:%d,`, causeNames[i], r.restarts[i].Load())
	}
	b = append(b[:len(b)-1], `},"workers":[`...)
	for i, w := range r.workers {
		if i > 0 {
			b = append(b, ',')
		}
		worker, python := w.memory()
		b = fmt.Appendf(b, `{"pid":%d,"python":%d,"age":%d,"state":%q,"started":%s,"heartbeat":%.3f,`+
			`"lanes":%d,"busy":%d,"waiting":%d,"connections":%d,"spooled":%d,"memory":{"worker":%d,"python":%d},"running":`,
			w.pid.Load(), w.python.Load(), w.age.Load(), w.stateName(), seconds3(&w.started), r.since(&w.heartbeat).Seconds(),
			w.lanes.Load(), w.busy.Load(), w.waiting.Load(), w.connections.Load(), w.spooled.Load(), worker, python)
		if running := w.runningText(); running != "" {
			b = fmt.Appendf(appendJSON(b, running), `,"running_for":%.3f,`, r.since(&w.begun).Seconds())
		} else {
			b = append(b, `null,"running_for":null,`...)
		}
		b = append(w.counters.json(b), '}')
	}
	return append(b, "]}"...)
}

// seconds3 formats a Unix time in nanoseconds as seconds with milliseconds.
func seconds3(t *atomic.Int64) string {
	return strconv.FormatFloat(float64(t.Load()/1e6)/1000, 'f', 3, 64)
}

func (c *counters) json(b []byte) []byte {
	b = fmt.Appendf(b, `"requests":%d,"status":{`, sum(c.answers[:]))
	for class := 1; class < len(c.answers); class++ {
		b = fmt.Appendf(b, `"%dxx":%d,`, class, c.answers[class].Load())
	}
	b = fmt.Appendf(b[:len(b)-1], `},"failures":%d,"bytes":%d,"accepted":%d,"shed":{`,
		c.failures.Load(), c.bytes.Load(), c.connections.Load())
	for i, name := range shedNames {
		b = fmt.Appendf(b, `%q:%d,`, name, c.shed[i].Load())
	}
	b = append(b[:len(b)-1], `},"duration":`...)
	b = c.duration.json(b)
	b = append(b, `,"wait":`...)
	return c.wait.json(b)
}

// json appends the sum in seconds and the count; only metrics show the buckets.
func (h *histogram) json(b []byte) []byte {
	total, n := time.Duration(h.sum.Load()).Seconds(), sum(h.counts[:])
	return fmt.Appendf(b, `{"seconds":%.6f,"count":%d}`, total, n)
}

// Metrics ---------------------------------------------------------------------

// --metrics: the scoreboard in the text format of Prometheus, served by a process
// of its own. The arbiter must never talk to a client, and a worker cannot read
// the pages of other workers. The metrics process runs as the workers' user; of
// the arbiter's descriptors it has only read access to the scoreboard.

// metricsTitle begins the name of the metrics process in the process list, and
// tells the binary which process to be.
const metricsTitle = "gunicorn: metrics ["

// Limits for clients of the metrics process.
const (
	metricsTime    = 2 * time.Second // longest time for one request and its response
	metricsHead    = 8 << 10         // bytes of a request's head
	metricsClients = 64              // connections at a time; one more closes the oldest
)

// Descriptors of the metrics process.
const (
	fdMetricsLifeline = 3 + iota // read end of a pipe; EOF means the arbiter has ended
	fdMetricsScores              // the scoreboard's first page, read-only
	fdMetricsPages               // the workers' pages, read-only
	fdMetricsListener            // the listener
)

// metrics is the arbiter's view of the metrics process.
type metrics struct {
	helper
	text     string // the address last set, as in the settings
	health   string // the setting health of the process
	listener *bound
}

// set binds the address of the setting metrics, at the start and at each reload. If the
// address cannot be bound, everything stays as it was.
func (m *metrics) set(a *arbiter, c *config) error {
	if c.metrics == m.text {
		if c.health != m.health && m.pid > 0 {
			_ = unix.Kill(m.pid, unix.SIGKILL) // another starts, with the new paths
			m.pid, m.notBefore = 0, 0
		}
		m.health = c.health
		return nil
	}
	var l *bound
	if c.metrics != "" {
		addr, _ := parseBind(c.metrics) // the syntax has been checked
		fd, err := a.bindOnce(c, addr)
		if err != nil {
			return fmt.Errorf("metrics: %s: %w", c.metrics, err)
		}
		l = &bound{fd: fd, addr: addr}
	}
	m.close(a)
	m.text, m.health, m.listener = c.metrics, c.health, l
	return nil
}

// close ends the metrics process and closes its listener.
func (m *metrics) close(a *arbiter) {
	if m.listener != nil {
		a.closeBound([]*bound{m.listener})
	}
	if m.pid > 0 {
		_ = unix.Kill(m.pid, unix.SIGKILL) // the process has nothing to save
	}
	m.text, m.listener, m.pid = "", nil, 0
}

// start starts the metrics process. An arbiter started by USR2 leaves the address to the old
// arbiter until that has ended.
func (m *metrics) start(a *arbiter) (pid int, err error) {
	if a.passed.parent > 0 {
		return 0, nil
	}
	if err := m.set(a, a.cfg); err != nil || m.listener == nil {
		return 0, err
	}
	files := []uintptr{0, 1, 2, uintptr(a.lifeR)}
	for _, fd := range []int{a.scores.fd, a.scores.pages} {
		read, err := openAnew(fd, unix.O_RDONLY)
		if err != nil {
			return 0, err
		}
		defer unix.Close(read)
		files = append(files, uintptr(read))
	}
	return syscall.ForkExec("/proc/self/exe", []string{metricsTitle + a.cfg.name() + "]", m.text, m.health}, &syscall.ProcAttr{
		Files: append(files, uintptr(m.listener.fd)),
		Sys:   &syscall.SysProcAttr{Credential: a.cfg.credential},
	})
}

// runMetrics is the life of the metrics process.
func runMetrics() {
	for fd := fdMetricsLifeline; fd <= fdMetricsListener; fd++ {
		unix.CloseOnExec(fd)
	}
	go func() {
		var b [1]byte
		for {
			if n, err := unix.Read(fdMetricsLifeline, b[:]); err != unix.EINTR && n <= 0 {
				os.Exit(0)
			}
		}
	}()
	f := os.NewFile(fdMetricsListener, "listener")
	l, err := net.FileListener(f)
	if err != nil {
		fatalf("metrics: %v", err)
	}
	f.Close()
	addr, _ := parseBind(os.Args[1])
	cfg := &config{health: os.Args[2]}
	var clients [metricsClients]net.Conn // the newest connections, as a ring; closing a connection twice is harmless
	for i := 0; ; i = (i + 1) % metricsClients {
		c, err := l.Accept()
		if err != nil {
			fatalf("metrics: %v", err)
		}
		if clients[i] != nil {
			clients[i].Close()
		}
		clients[i] = c
		go func() {
			serveMetrics(c, addr, cfg)
			c.Close()
		}()
	}
}

// metricsHost reports whether a request's host may stand for this address. The
// check defeats DNS rebinding: a hostile web page makes a browser request its own
// host name, after the host's name server has changed that name to this address.
func metricsHost(host []byte, addr address) bool {
	name := string(host)
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	_, err := netip.ParseAddr(name)
	return err == nil || name == "" || name == "localhost" || name == addr.host || addr.network == "unix"
}

func serveMetrics(c net.Conn, addr address, cfg *config) {
	_ = c.SetDeadline(time.Now().Add(metricsTime))
	status, body := "200 OK", ""
	fields := "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
	r, bad := readMetricsRequest(c)
	path, method := "", ""
	if bad == nil && r != nil {
		path, method = string(r.path), string(r.method)
	}
	switch {
	case bad != nil:
		status = fmt.Sprintf("%d %s", bad.status, bad.reason)
	case r == nil:
		return // the client has left
	case !metricsHost(r.host, addr) || !metricsHost(r.authority, addr):
		status = "421 Misdirected Request"
	case method != "GET" && method != "HEAD":
		status = "405 Method Not Allowed"
	default:
		scores, err := readScoreboard(fdMetricsScores, fdMetricsPages)
		if err != nil {
			status, body = "500 Internal Server Error", err.Error()+"\n"
			break
		}
		if path == "/metrics" || path == "/" {
			body = string(scores.prometheus(nil))
			break
		}
		live, ready := cfg.healthPaths()
		var known bool
		if status, body, known = healthOf(live, ready, path, method, scores.alive(), scores.unready); !known {
			status, body = "404 Not Found", ""
			break
		}
		fields = "Content-Type: " + healthType + "\r\nCache-Control: no-store\r\n"
		if name, value := healthField(status); name != "" {
			fields += name + ": " + value + "\r\n"
		}
	}
	body = cmp.Or(body, status+"\n")
	head := fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n", status, fields, len(body))
	if method == "HEAD" {
		body = ""
	}
	_, _ = c.Write([]byte(head + body))
}

// readMetricsRequest reads the head of a request, and ignores a body. The request
// is nil without an error if the client has left.
func readMetricsRequest(c net.Conn) (*request, *badRequest) {
	cfg := &config{limitRequestLine: 4094, limitRequestFields: 100, limitRequestFieldSize: 8190}
	r := &request{}
	r.reset()
	b := make([]byte, 0, metricsHead)
	for len(b) < cap(b) {
		n, err := c.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if n, bad := r.parse(b, cfg, false); bad != nil || n > 0 {
			return r, bad
		}
		if err != nil {
			return nil, nil
		}
	}
	return nil, newBadRequest(431, "", "")
}

// prometheus appends the reading in Prometheus's text format 0.0.4.
func (r *reading) prometheus(b []byte) []byte {
	family := func(name, kind, help string) {
		b = fmt.Appendf(b, "# HELP gunicorn_%s %s\n# TYPE gunicorn_%s %s\n", name, help, name, kind)
	}
	one := func(name, kind, help string, value any) {
		family(name, kind, help)
		b = fmt.Appendf(b, "gunicorn_%s %v\n", name, value)
	}
	family("info", "gauge", "The server.")
	b = fmt.Appendf(b, "gunicorn_info{version=%q} 1\n", version)
	one("start_time_seconds", "gauge", "When the arbiter started, as Unix time.", seconds3(&r.started))
	one("workers_wanted", "gauge", "Number of workers wanted.", r.target.Load())
	states := map[string]int{}
	var lanes, busy, waiting, open uint64
	var memory [2]int64
	for _, w := range r.workers {
		states[w.stateName()]++
		lanes, busy, waiting, open = lanes+w.lanes.Load(), busy+w.busy.Load(), waiting+w.waiting.Load(), open+w.connections.Load()
		worker, python := w.memory()
		memory[0], memory[1] = memory[0]+worker, memory[1]+python
	}
	family("workers", "gauge", "Workers by state.")
	for _, state := range []string{"booting", "idle", "busy", "stopping"} {
		b = fmt.Appendf(b, "gunicorn_workers{state=%q} %d\n", state, states[state])
	}
	family("worker_ends_total", "counter", "Workers that have ended, by cause.")
	for i := range r.restarts {
		b = fmt.Appendf(b, "gunicorn_worker_ends_total{cause=%q} %d\n", causeNames[i], r.restarts[i].Load())
	}
	one("lanes", "gauge", "Requests that the application can run at a time.", lanes)
	one("lanes_busy", "gauge", "Requests running in the application.", busy)
	one("requests_waiting", "gauge", "Requests waiting for the application.", waiting)
	one("connections", "gauge", "Open connections.", open)
	one("connections_accepted_total", "counter", "Connections accepted.", r.total.connections.Load())
	family("requests_total", "counter", "Responses, by class of status.")
	if n := r.total.answers[0].Load(); n > 0 { // worker classes that serve by themselves count no more than requests
		b = fmt.Appendf(b, "gunicorn_requests_total{status=\"unknown\"} %d\n", n)
	}
	for class := 1; class < len(r.total.answers); class++ {
		b = fmt.Appendf(b, "gunicorn_requests_total{status=\"%dxx\"} %d\n", class, r.total.answers[class].Load())
	}
	one("request_failures_total", "counter", "Responses with status 500 or above, and responses cut off.", r.total.failures.Load())
	family("shed_total", "counter", "Requests, and connections, turned away because of a limit, by the setting.")
	for i, name := range shedNames {
		b = fmt.Appendf(b, "gunicorn_shed_total{limit=%q} %d\n", name, r.total.shed[i].Load())
	}
	one("response_bytes_total", "counter", "Bytes of response bodies.", r.total.bytes.Load())
	family("request_duration_seconds", "histogram", "Time from the start of a request in the application to the end of its response.")
	b = r.total.duration.prometheus(b, "request_duration_seconds")
	family("queue_wait_seconds", "histogram", "Time from the arrival of a request to its start in the application.")
	b = r.total.wait.prometheus(b, "queue_wait_seconds")
	one("spool_bytes", "gauge", "Bytes of bodies in spool_dir.", r.spooled())
	family("resident_memory_bytes", "gauge", "Resident memory of all workers and of their Pythons; shared memory counts for each.")
	b = fmt.Appendf(b, "gunicorn_resident_memory_bytes{process=\"worker\"} %d\n", memory[0])
	return fmt.Appendf(b, "gunicorn_resident_memory_bytes{process=\"python\"} %d\n", memory[1])
}

func (h *histogram) prometheus(b []byte, name string) []byte {
	n := uint64(0)
	for i := range h.counts {
		n += h.counts[i].Load()
		le := "+Inf"
		if i < len(bounds) {
			le = strconv.FormatFloat(bounds[i].Seconds(), 'g', -1, 64)
		}
		b = fmt.Appendf(b, "gunicorn_%s_bucket{le=%q} %d\n", name, le, n)
	}
	return fmt.Appendf(b, "gunicorn_%s_sum %v\ngunicorn_%s_count %d\n", name, time.Duration(h.sum.Load()).Seconds(), name, n)
}
