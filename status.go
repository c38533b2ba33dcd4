package main

// The state of a server, for people and for programs. gunicorn --status reads the
// scoreboard of a running server through /proc, so that the kernel decides
// whether the user may.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reading is a consistent copy of the scoreboard.
type reading struct {
	pid      int            // process ID of the arbiter
	started  time.Time      // start of the arbiter
	target   int            // number of workers wanted
	serving  int            // number of workers that serve
	ended    *counters      // sums of the workers that have ended
	restarts [causes]uint64 // workers that have ended, by cause
	workers  []workerReading
	total    *counters // sums of all workers, including ended ones
}

// workerReading is the state of one worker.
type workerReading struct {
	pid, python, age int           // process IDs of worker and Python, serial number
	state            string        // booting, idle, busy or stopping
	started          time.Time     // start of the worker
	silent           time.Duration // time since the last heartbeat
	lanes, busy      int           // lanes to the application, and lanes in use
	waiting, open    int           // requests that wait for a lane, open connections
	counters         *counters
	running          string        // request line of the longest running request, or ""
	since            time.Duration // time for which that request has been running
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
	return nil, errors.New("the scoreboard does not come to rest")
}

func newReading(first *board, slots []byte) *reading {
	r := &reading{
		pid: int(first.pid.Load()), started: time.Unix(0, first.started.Load()),
		target: int(first.target.Load()), serving: int(first.serving.Load()), ended: &first.ended, total: &counters{},
	}
	r.total.add(r.ended)
	for i := range r.restarts {
		r.restarts[i] = first.restarts[i].Load()
	}
	now := sharedTime()
	for at := 0; at+pageSize <= len(slots); at += boardStride {
		s := (*slot)(unsafe.Pointer(&slots[at]))
		if s.pid.Load() == 0 {
			continue
		}
		w := workerReading{
			pid: int(s.pid.Load()), python: int(s.python.Load()), age: int(s.age.Load()), state: "stopping",
			started: time.Unix(0, s.started.Load()), silent: time.Duration(now - s.heartbeat.Load()),
			lanes: int(s.lanes.Load()), busy: int(s.busy.Load()), waiting: int(s.waiting.Load()), open: int(s.connections.Load()),
			counters: &s.counters, running: s.runningText(),
		}
		switch p := s.phase(); {
		case p == phaseBooting:
			w.state = "booting"
		case p.serves() && w.busy > 0:
			w.state = "busy"
		case p.serves():
			w.state = "idle"
		}
		if begun := s.begun.Load(); begun > 0 {
			w.since = time.Duration(now - begun)
		}
		r.workers = append(r.workers, w)
		r.total.add(w.counters)
	}
	return r
}

// sum adds up a list of counters.
func sum(list []atomic.Uint64) (n uint64) {
	for i := range list {
		n += list[i].Load()
	}
	return n
}

// residentBytes is the resident memory of a process, 0 if there is no process.
func residentBytes(pid int) int64 {
	if pid <= 0 {
		return 0
	}
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
	fd, err := openScoreboard(pid, boardName)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("status: %s: process %d does not run", path, pid)
	}
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	defer unix.Close(fd)
	pages, err := openScoreboard(pid, pagesName)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	defer unix.Close(pages)
	r, err := readScoreboard(fd, pages)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if c.status == "json" {
		_, err = out.Write(append(r.json(nil), '\n'))
	} else {
		err = r.table(out)
	}
	return err
}

// table writes the status for people.
func (r *reading) table(out io.Writer) error {
	fmt.Fprintf(out, "Arbiter %d, up %v: %d of %d workers serve\n", r.pid, uptime(r.started), r.serving, r.target)
	fmt.Fprintf(out, "Requests: %d", sum(r.total.answers[:]))
	for class := 1; class < len(r.total.answers); class++ {
		fmt.Fprintf(out, ", %dxx %d", class, r.total.answers[class].Load())
	}
	fmt.Fprintf(out, "\nWorkers that have ended:")
	ended := uint64(0)
	for i, n := range r.restarts {
		if ended += n; n > 0 {
			fmt.Fprintf(out, " %s %d", causeNames[i], n)
		}
	}
	if ended == 0 {
		fmt.Fprint(out, " none")
	}
	fmt.Fprint(out, "\n\n")
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PID\tPYTHON\tAGE\tSTATE\tUP\tREQUESTS\tFAILED\tSENT\tOPEN\tWAITING\tMEMORY\tRUNNING")
	for _, w := range r.workers {
		running := w.running
		if running != "" {
			running += fmt.Sprintf(" for %v", w.since.Round(100*time.Millisecond))
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%s\t%v\t%d\t%d\t%s\t%d\t%d\t%s\t%s\n", w.pid, w.python, w.age, w.state, uptime(w.started),
			sum(w.counters.answers[:]), w.counters.failures.Load(), size(w.counters.bytes.Load()), w.open, w.waiting,
			size(uint64(residentBytes(w.pid)+residentBytes(w.python))), running)
	}
	return t.Flush()
}

func uptime(since time.Time) time.Duration { return time.Since(since).Round(time.Second) }

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

// json appends the status for programs.
func (r *reading) json(b []byte) []byte {
	b = fmt.Appendf(b, `{"pid":%d,"started":%s,"workers_wanted":%d,"workers_serving":%d,`, r.pid, seconds3(r.started), r.target, r.serving)
	b = r.total.json(b)
	b = append(b, `,"ended":{`...)
	for i, n := range r.restarts {
		b = fmt.Appendf(b, `%q:%d,`, causeNames[i], n)
	}
	b = append(b[:len(b)-1], `},"workers":[`...)
	for i, w := range r.workers {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"pid":%d,"python":%d,"age":%d,"state":%q,"started":%s,"heartbeat":%.3f,`+
			`"lanes":%d,"busy":%d,"waiting":%d,"connections":%d,"memory":{"worker":%d,"python":%d},"running":`,
			w.pid, w.python, w.age, w.state, seconds3(w.started), w.silent.Seconds(),
			w.lanes, w.busy, w.waiting, w.open, residentBytes(w.pid), residentBytes(w.python))
		if w.running == "" {
			b = append(b, `null,"running_for":null,`...)
		} else {
			b = appendJSON(b, w.running)
			b = fmt.Appendf(b, `,"running_for":%.3f,`, w.since.Seconds())
		}
		b = append(w.counters.json(b), '}')
	}
	return append(b, "]}"...)
}

// seconds3 formats a time as Unix time with milliseconds.
func seconds3(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

func (c *counters) json(b []byte) []byte {
	b = fmt.Appendf(b, `"requests":%d,"status":{`, sum(c.answers[:]))
	for class := 1; class < len(c.answers); class++ {
		b = fmt.Appendf(b, `"%dxx":%d,`, class, c.answers[class].Load())
	}
	b = fmt.Appendf(b[:len(b)-1], `},"failures":%d,"bytes":%d,"accepted":%d,"duration":`,
		c.failures.Load(), c.bytes.Load(), c.connections.Load())
	b = c.duration.json(b)
	b = append(b, `,"wait":`...)
	return c.wait.json(b)
}

// json appends the sum in seconds and the count; only metrics show the buckets.
func (h *histogram) json(b []byte) []byte {
	total, n := time.Duration(h.sum.Load()).Seconds(), sum(h.counts[:])
	return fmt.Appendf(b, `{"seconds":%.6f,"count":%d}`, total, n)
}
