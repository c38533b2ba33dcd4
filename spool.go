package main

// The spool: files that take what does not fit into memory while a client is
// slow, so that no application waits with it. A request goes to Python when its
// body is complete, and Python is done with a response once it is made. The
// files have no names, so nothing is left of them when a worker ends.

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// spool is one worker's.
type spool struct {
	dir    string // "" for none
	limit  int64  // bytes in all files
	used   int64
	silent int64 // about disks, until then
}

// spooled is a part of a request's body: bytes from at to end are for Python.
type spooled struct {
	file    int
	at, end int64
}

func (s *spooled) left() int64 {
	if s == nil {
		return 0
	}
	return s.end - s.at
}

// newSpool is for lanes that one request holds: streams of ASGI wait for nobody
// but their own client.
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

// spoolPath is where workers find the directory, whose own is chdir.
func (c *config) spoolPath() string {
	if filepath.IsAbs(c.spoolDir) {
		return c.spoolDir
	}
	return filepath.Join(c.chdir, c.spoolDir)
}

// checkSpool makes a file there as workers will: nothing else tells of a file
// system that cannot be written to, or of access control lists.
func (c *config) checkSpool() error {
	if c.spoolDir == "" {
		return nil
	}
	cred, err := credentialOf(c)
	if err != nil {
		return nil // the start says so itself
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
	if err == unix.EOPNOTSUPP || err == unix.EISDIR { // by the file system, or by an old kernel
		return openNamedFile(dir)
	}
	return fd, err
}

// openNamedFile makes one that has had a name, where the file system knows no
// others.
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

// openSpool is a file for a body, -1 if there cannot be one.
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

// writeSpool appends b to a file of that size, and returns how much of b is there.
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

// spoolFails tells, once in a while, why clients keep applications waiting.
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

// spill moves what has come of a request's body to the disk: false when there
// is no room for all of it, and the application has to take the rest as it comes.
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

// overflows says whether no more of a body is to be read into memory.
func (w *worker) overflows(t *turn) bool {
	if t.spooled != nil {
		return len(t.body) >= heldPressed
	}
	return len(t.body) >= w.holdable()
}

// unspool is the next piece of a body for Python, in w.rbuf; what cannot be read
// breaks the body.
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

// dropSpooled forgets what is spooled of a request's body.
func (w *worker) dropSpooled(t *turn) {
	if s := t.spooled; s != nil {
		w.closeSpool(s.file, s.end)
		t.spooled = nil
	}
}

// spoolReply lets the response go on in a file, behind what is in memory.
func (w *worker) spoolReply(c *conn) {
	if file := w.openSpool(); file >= 0 {
		c.file, c.fileAt, c.fileEnd, c.filed = file, 0, 0, true
	}
}

// sendBehind puts what comes while a file is sent behind it: into it as long as
// the spool has room, and then into memory.
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
