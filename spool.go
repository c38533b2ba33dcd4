package main

// The spool: files for bodies that do not fit into memory while a client is slow,
// so that no application has to wait for a client. A request goes to Python when
// its body is complete, and Python is free as soon as it has produced a response.
// The files have no names, so that none are left when a worker ends.

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// spool is the spool of one worker.
type spool struct {
	dir    string // directory of the files, "" for no spool
	limit  int64  // most bytes in all files
	used   int64  // bytes in all files
	silent int64  // time before which no further warning about the spool is logged
}

// spooled is the spooled part of a request's body.
type spooled struct {
	file int
	at   int64 // offset of the next byte for Python
	end  int64 // size of the file
}

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
	s := spool{dir: c.spoolPath(), limit: c.spoolLimit}
	if s.limit == 0 {
		s.limit = math.MaxInt64
	}
	return s
}

// spoolPath is the absolute path of the directory; a relative spool_dir counts
// from chdir.
func (c *config) spoolPath() string {
	if filepath.IsAbs(c.spoolDir) {
		return c.spoolDir
	}
	return filepath.Join(c.chdir, c.spoolDir)
}

// checkSpool makes a file in the directory as workers will do. No other check
// finds read-only file systems and access control lists.
func (c *config) checkSpool() error {
	if c.spoolDir == "" {
		return nil
	}
	cred, err := credentialOf(c)
	if err != nil {
		return nil // the start reports this error itself
	}
	err = withRightsOf(cred, func() error {
		fd, err := openSpoolFile(c.spoolPath())
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

// openSpoolFile makes a file without a name.
func openSpoolFile(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == unix.EOPNOTSUPP || err == unix.EISDIR { // the file system or the kernel does not know O_TMPFILE
		return openNamedFile(dir)
	}
	return fd, err
}

// openNamedFile makes a file and removes its name, for file systems without
// O_TMPFILE.
func openNamedFile(dir string) (int, error) {
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

// writeSpool appends b to a file of the given size, and returns the number of
// bytes written.
func (w *worker) writeSpool(file int, size int64, b []byte) (n int) {
	s := &w.spool
	for n < len(b) {
		piece := b[n:min(int64(len(b)), int64(n)+s.limit-s.used)]
		m, err := 0, error(unix.EDQUOT)
		if len(piece) > 0 {
			m, err = unix.Pwrite(file, piece, size+int64(n))
		}
		if err != nil && err != unix.EINTR {
			w.spoolFails(err)
			break
		}
		n += max(m, 0)
		s.used += int64(max(m, 0))
	}
	return n
}

// spoolFails warns, at most once a minute, that applications wait for slow clients
// because the spool cannot take their bodies.
func (w *worker) spoolFails(err error) {
	if w.spool.silent > w.now {
		return
	}
	w.spool.silent = w.now + int64(time.Minute)
	why := fmt.Sprintf("spool_dir: %s: %v", w.spool.dir, err)
	if err == unix.EDQUOT && w.spool.used >= w.spool.limit {
		why = fmt.Sprintf("spool_limit: %sB are in use", size(uint64(w.spool.used)))
	}
	w.log.warningf("%s; requests wait for slow clients in the application", why)
}

func (w *worker) closeSpool(file int, size int64) {
	unix.Close(file)
	w.files--
	w.spool.used -= size
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
	n := w.writeSpool(t.spooled.file, t.spooled.end, t.body)
	t.spooled.end += int64(n)
	t.burst += n
	switch {
	case !t.ownBody:
		t.body = t.body[n:]
	case n == len(t.body):
		w.pool.put(t.body)
		t.body, t.ownBody = nil, false
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
			n := w.writeSpool(c.file, c.fileEnd, b)
			c.fileEnd += int64(n)
			c.turn.burst += n
			b = b[n:]
		}
		c.rest = w.pool.extend(c.rest, b)
	}
}
