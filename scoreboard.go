package main

// The scoreboard: one page of shared memory for each worker, mapped by the
// arbiter and that worker. A worker says there that it is alive and what it is
// doing; the arbiter reads. No file is touched, so nothing stalls on a disk
// and a read-only system will do. Each field has one writer.

import (
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a worker is doing.
const (
	stateBooting = iota // its Python imports the application
	stateServing
	stateStopping
)

// What the arbiter means by TERM.
const (
	orderNone   = iota // the signal is not its own, or not yet
	orderRetire        // siblings take over
	orderDrain         // all stop; whoever waits to be accepted is served first
	orderLeave         // all stop; the listeners outlive us, their next owner serves
)

const (
	pageSize   = 4096
	runningMax = 1024
)

// slot is the layout of a page. Times are monotonic nanoseconds.
type slot struct {
	// Written by the worker.
	heartbeat   atomic.Int64
	state       atomic.Uint64
	requests    atomic.Uint64    // answered
	failures    atomic.Uint64    // answered with 500 and above, or cut off
	bytes       atomic.Uint64    // of response bodies
	connections atomic.Uint64    // open now
	busy        atomic.Uint64    // lanes in a request now
	python      atomic.Uint64    // pid of the Python
	begun       atomic.Int64     // when the oldest running request began, 0 if none
	runningSize atomic.Uint64    // its method and target, as printed; for people,
	running     [runningMax]byte // so a torn read does no harm

	// Written by the arbiter.
	age   atomic.Uint64 // serial number of the worker
	order atomic.Uint64
}

// newSlot makes a page and returns its descriptor and mapping.
func newSlot() (fd int, s *slot, err error) {
	fd, err = memfd("gunicorn-worker", nil)
	if err != nil {
		return -1, nil, err
	}
	if err := unix.Ftruncate(fd, pageSize); err != nil {
		unix.Close(fd)
		return -1, nil, os.NewSyscallError("ftruncate", err)
	}
	s, err = mapSlot(fd)
	if err != nil {
		unix.Close(fd)
	}
	return fd, s, err
}

func mapSlot(fd int) (*slot, error) {
	b, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return (*slot)(unsafe.Pointer(&b[0])), nil
}

func (s *slot) unmap() {
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(s)), pageSize))
}

// setRunning says which request runs; text is already fit for a log.
func (s *slot) setRunning(text string, begun int64) {
	n := copy(s.running[:], text)
	s.runningSize.Store(uint64(n))
	s.begun.Store(begun)
}

// runningText is what setRunning stored, or "" when nothing runs. The size is
// not trusted: a page may be half written when its worker is killed.
func (s *slot) runningText() string {
	if s.begun.Load() == 0 {
		return ""
	}
	return string(s.running[:min(s.runningSize.Load(), runningMax)])
}
