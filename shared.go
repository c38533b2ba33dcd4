package main

// The memory that a worker shares with its Python: a memfd that both map. It has three
// parts. Words are read and written by both without a system call. Places hold requests'
// bodies, which the worker receives there and Python reads. Rings hold the bodies of
// responses, one ring for each of the first lanes: Python writes there, and the worker
// sends to the client from there. Through sockets each of these bodies would be copied twice
// more, into memory that the kernel takes and gives back each time.
//
// A frame announces the content of a place or a ring. The system calls that carry the frame
// make sure that the other side finds there all that was written before.

import (
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	wordSorts = 4                        // sorts of words, each with one word for each lane
	wordsSize = wordSorts * 4 * lanesMax // bytes of all words

	placePiece = 64 << 10        // bytes of a piece of memory: a place is one piece, or several in succession
	placesSize = 64 * placePiece // bytes of all places
	placeLeast = smallMax        // bytes below which a body is passed on as fast in a message

	ringSize = 4 << 20 // bytes of a ring, a power of two: responses of 1 MB while the worker sends some before
	ringsMax = 8       // lanes that have a ring: as many as run at once in most servers
)

// placeSize is the size of the two numbers that follow the marshal of a frame with
// flagShared: where the body begins, in the places or as a count of all bytes that the ring
// has held, and its length.
const placeSize = 8

// shared is the worker's view of the memory.
type shared struct {
	// giveUp is the number of the request whose client has left; Python reads it after
	// each block. begun and halts serve messages of several requests: before each request
	// Python writes its number to begun, and then reads from halts the number of the first
	// request that Python must leave to the worker. taken counts the bytes of the ring that
	// the worker needs no more.
	giveUp, begun, halts, taken []atomic.Uint32

	places []byte
	inUse  uint64 // a bit for each piece
	rings  []byte
	active bool // places or rings were used since trim last looked
}

// openShared makes the memory, with a number of rings, and with places if places is true. Pages that were
// never written to take no memory, and trim gives back pages that are no longer used. The
// caller passes fd to Python, and closes it.
func openShared(places bool, rings int) (s shared, fd int, err error) {
	size := wordsSize
	if places {
		size += placesSize + rings*ringSize
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && limit.Cur < uint64(size) {
		size = wordsSize
	}
	if fd, err = memfd("shared", nil); err != nil {
		return s, -1, err
	}
	if err = unix.Ftruncate(fd, int64(size)); err != nil {
		err = os.NewSyscallError("ftruncate", err)
	} else {
		err = addSeals(fd, 0) // a process that finds pages missing is killed
	}
	var b []byte
	if err == nil {
		b, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		err = os.NewSyscallError("mmap", err)
	}
	if err != nil {
		unix.Close(fd)
		return s, -1, err
	}
	words := unsafe.Slice((*atomic.Uint32)(unsafe.Pointer(&b[0])), wordSorts*lanesMax)
	for i, sort := range []*[]atomic.Uint32{&s.giveUp, &s.begun, &s.halts, &s.taken} {
		*sort = words[i*lanesMax : (i+1)*lanesMax]
	}
	if size > wordsSize {
		s.places, s.rings = b[wordsSize:wordsSize+placesSize], b[wordsSize+placesSize:]
	}
	return s, fd, nil
}

// place returns room for a request's body of n bytes, or nil if there is none. The room is
// taken until the request is over, so that Python may read at any time in between.
func (s *shared) place(n int) []byte {
	pieces := (n + placePiece - 1) / placePiece
	free := ^s.inUse // a bit for each piece with which a run of free pieces begins
	for range pieces - 1 {
		free &= free >> 1
	}
	if len(s.places) == 0 || pieces > 64 || free == 0 {
		return nil
	}
	at := bits.TrailingZeros64(free)
	s.inUse |= (1<<pieces - 1) << at
	s.active = true
	at *= placePiece
	return s.places[at : at : at+pieces*placePiece]
}

// giveBack frees the room of a body.
func (s *shared) giveBack(b []byte) {
	s.inUse &^= (1<<(cap(b)/placePiece) - 1) << (s.offset(b) / placePiece)
}

// offset is where the room of a body begins.
func (s *shared) offset(b []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(s.places))))
}

// ring is the ring of a lane, with its end.
func (s *shared) ring(index int) ring {
	at := index * ringSize
	if at >= len(s.rings) {
		return ring{}
	}
	return ring{memory: s.rings[at : at+ringSize : at+ringSize], taken: &s.taken[index]}
}

// trim gives back the memory once it has not been used for a second. No lane may be busy:
// Python writes to a ring before it says so.
func (s *shared) trim() {
	if !s.active && s.inUse == 0 && len(s.places) > 0 {
		_ = unix.Madvise(s.places[:len(s.places)+len(s.rings)], unix.MADV_REMOVE)
	}
	s.active = false
}

// ring is the worker's end of a lane's ring. The zero ring has no room.
type ring struct {
	memory []byte
	taken  *atomic.Uint32
	at     uint32 // count of the bytes before the body at hand
}

// next is as much of a body with left bytes as lies in one piece in the ring.
func (r *ring) next(left int) []byte {
	b := r.memory[r.at%ringSize:]
	return b[:min(len(b), left)]
}

// took has Python use the room of n bytes again.
func (r *ring) took(n int) {
	r.at += uint32(n)
	r.taken.Store(r.at)
}
