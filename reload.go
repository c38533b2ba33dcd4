package main

// With the setting reload, a worker watches the files of its application and ends
// when a file changes. Python reports the files (debug.py); a goroutine beside
// the worker's loop watches them, because expanding a pattern over a large tree or
// checking a file on a network takes time. The goroutine owns all state. Lists of
// files arrive over one channel, the first change is sent over another, and a
// byte on a pipe wakes the loop.
//
// inotify watches directories, because editors replace files by renaming. Only
// events of watched files count: otherwise a log written beside the application
// would cause endless restarts, each of which writes to the log.

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	reloadCheck = time.Second            // least time between two checks of all files
	reloadQuiet = 100 * time.Millisecond // time without a change after which an editor or git has finished
	reloadLimit = time.Second            // longest wait for such a quiet time, as a program may write for ever
	reloadFiles = 1 << 16                // most files that are watched
	reloadLists = 64                     // most lists that wait for the goroutine
)

// Stamps that are not modification times.
const (
	stampUnknown = -1 - iota // the file has not been checked yet
	stampAbsent              // the file does not exist
)

// watched is a file that Python has loaded.
type watched struct {
	path  string // absolute path
	stamp int64  // modification time of the loaded content in nanoseconds, or stampUnknown
}

// watchedFile is the last known state of a watched file.
type watchedFile struct {
	stamp int64 // modification time in nanoseconds, stampUnknown or stampAbsent
	extra bool  // the file is checked every time, even with inotify, as a link may hide changes
}

// reloader watches files. The fields after the empty line belong to the goroutine.
type reloader struct {
	at       *start         // directory to which the names in extra are relative
	extra    []string       // reload_extra_files: names and patterns
	reported chan []watched // lists of files from Python
	changed  chan string    // the first file that has changed
	wakeW    int            // pipe that wakes the loop
	taken    int            // number of files that the loop has reported

	files   map[string]watchedFile
	inotify int                // descriptor of inotify, -1 if not available
	polling bool               // all files are checked once a second
	dirs    map[int32][]string // names of a watched directory, by inotify's number
	watches map[string]bool    // names of all watched directories
}

// startReload starts the goroutine. wake becomes readable when a file has
// changed.
func (w *worker) startReload() (wake int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	r := &reloader{
		at: &start{dir: w.cfg.startDir}, extra: w.cfg.reloadExtraFiles, wakeW: p[1],
		reported: make(chan []watched, reloadLists), changed: make(chan string, 1),
		files: map[string]watchedFile{}, inotify: -1, polling: true,
		dirs: map[int32][]string{}, watches: map[string]bool{},
	}
	if w.cfg.reloadEngine != "poll" {
		if r.inotify, err = unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
			w.log.warningf("reload: inotify_init1: %v; files are polled", err)
		}
		r.polling = err != nil
	}
	w.reload = r
	go r.watch()
	return p[0], nil
}

// watchFiles handles a WATCH frame: a list of files that Python reports.
func (w *worker) watchFiles(l *lane, r *marshalReader) error {
	if !w.python.ready || w.reload == nil {
		return l.frame.unexpected()
	}
	var list []watched
	for n := r.sequence(); n > 0 && r.err == nil; n-- {
		if r.sequence() != 2 {
			return protocolError("malformed WATCH frame")
		}
		list = append(list, watched{path: string(r.bytes()), stamp: r.int()})
	}
	if r.err != nil {
		return protocolError("malformed WATCH frame")
	}
	if !w.reload.report(list) {
		w.log.warningf("reload: %d files are too many and are not watched", len(list))
	}
	return nil
}

// fileChanged retires the worker, so that a new worker loads the new code.
func (w *worker) fileChanged(wake int, _ uint32) {
	w.forget(wake)
	w.log.infof("Worker reloading: %s modified", <-w.reload.changed)
	w.because(causeReload)
	w.retire()
}

// warnOfPatterns warns of patterns in reload_extra_files that match no file.
func (c *config) warnOfPatterns(log *errorLog) {
	at := &start{dir: c.startDir}
	for _, name := range c.reloadExtraFiles {
		if c.reload && isPattern(name) && len(expand(at.path(name))) == 0 {
			log.warningf("Pattern %s currently matches no files.", name)
		}
	}
}

// report passes a list from the loop to the goroutine. It returns false if there
// are too many files or lists; the list is then not watched.
func (r *reloader) report(list []watched) bool {
	if r.taken += len(list); r.taken > reloadFiles {
		return false
	}
	select {
	case r.reported <- list:
		return true
	default:
		return false
	}
}

// watch is the goroutine. It ends when a file has changed and the changes have come to rest.
func (r *reloader) watch() {
	var events chan []byte
	if r.inotify >= 0 {
		events = make(chan []byte)
		go readInotify(r.inotify, events)
	}
	var first string
	var limit time.Time
	var quiet <-chan time.Time
	check := time.NewTimer(0)
	for {
		name := ""
		select {
		case list := <-r.reported:
			for _, f := range list {
				name = cmp.Or(name, r.add(f.path, f.stamp, false))
			}
		case b := <-events:
			name = r.events(b)
		case <-check.C:
			began := time.Now()
			name = r.checkFiles(r.polling)
			// Use at most a tenth of a processor, however large the tree is.
			check.Reset(max(reloadCheck, 10*time.Since(began)))
		case <-quiet:
			r.changed <- first
			_, _ = unix.Write(r.wakeW, []byte{0})
			return
		}
		if name == "" {
			continue
		}
		if first == "" {
			first, limit = name, time.Now().Add(reloadLimit)
		}
		quiet = time.After(min(reloadQuiet, time.Until(limit)))
	}
}

// checkFiles checks the extra files, or all files, and returns a file that has changed.
func (r *reloader) checkFiles(all bool) (changed string) {
	for _, name := range r.extra {
		paths := []string{r.at.path(name)}
		if isPattern(name) {
			paths = expand(paths[0])
		}
		for _, path := range paths {
			changed = cmp.Or(changed, r.add(path, stampUnknown, true))
		}
	}
	for path, f := range r.files {
		if all || f.extra {
			changed = cmp.Or(changed, r.compare(path, f))
		}
	}
	return changed
}

// compare updates the stamp of a file, and returns path if the file has changed.
func (r *reloader) compare(path string, f watchedFile) string {
	now := int64(stampAbsent)
	if s := stampOf(path); s != (stamp{}) {
		now = s.mtime
	}
	was := f.stamp
	f.stamp = now
	r.files[path] = f
	if now == was || was == stampUnknown {
		return ""
	}
	return path
}

// add watches one more file, and returns its path if the file has changed since
// Python loaded the file: somebody may save again while the first version is
// being loaded.
func (r *reloader) add(path string, stamp int64, extra bool) string {
	path = filepath.Clean(path)
	if _, known := r.files[path]; known || len(r.files) >= reloadFiles {
		return ""
	}
	f := watchedFile{stamp: stamp, extra: extra}
	r.files[path] = f
	r.watchDir(filepath.Dir(path))
	// Watch a link's target as well, because people edit the target.
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSymlink != 0 {
		if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
			r.add(target, stampUnknown, extra)
		}
	}
	return r.compare(path, f)
}

// Inotify -------------------------------------------------------------------

// inotifyEvents has the events to watch a directory for. touch(1) causes IN_ATTRIB.
const inotifyEvents = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVED_FROM |
	unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watchDir asks inotify for the events of a directory. When the kernel has no more
// watches, all files are polled instead.
func (r *reloader) watchDir(dir string) {
	if r.inotify < 0 || r.watches[dir] {
		return
	}
	wd, err := unix.InotifyAddWatch(r.inotify, dir, inotifyEvents)
	switch err {
	case nil:
		r.watches[dir] = true
		r.dirs[int32(wd)] = append(r.dirs[int32(wd)], dir)
	case unix.ENOSPC, unix.ENOMEM:
		r.polling = true
	}
}

// readInotify passes the kernel's events to the goroutine.
func readInotify(fd int, events chan<- []byte) {
	f, b := os.NewFile(uintptr(fd), "inotify"), make([]byte, 64<<10)
	for {
		n, err := f.Read(b)
		if err != nil {
			return
		}
		events <- bytes.Clone(b[:n])
	}
}

// events returns a watched file that has changed according to the events.
func (r *reloader) events(b []byte) (changed string) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			break
		}
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
		b = b[end:]
		if mask&(unix.IN_Q_OVERFLOW|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_UNMOUNT) != 0 {
			changed = cmp.Or(changed, r.checkFiles(true))
		}
		if mask&unix.IN_IGNORED != 0 {
			for _, dir := range r.dirs[wd] {
				delete(r.watches, dir)
			}
			delete(r.dirs, wd)
		}
		for _, dir := range r.dirs[wd] {
			path := filepath.Join(dir, name)
			f, known := r.files[path]
			if !known || name == "" {
				continue
			}
			differs := r.compare(path, f)
			if mask&unix.IN_ATTRIB == 0 {
				differs = path // the content has changed even if the stamp, whose clock is coarse, has not
			}
			changed = cmp.Or(changed, differs)
		}
	}
	return changed
}

// Patterns ------------------------------------------------------------------

func isPattern(name string) bool { return strings.ContainsAny(name, "*?[") }

// expand lists the files that match an absolute pattern, by the rules of Python's
// glob: ** matches any number of directories, and only a dot matches a leading
// dot. ** does not follow links to directories, which may lead in a circle.
func expand(pattern string) []string {
	paths := []string{"/"}
	parts := strings.Split(strings.Trim(filepath.Clean(pattern), "/"), "/")
	for i, part := range parts {
		var next []string
		for _, dir := range paths {
			switch {
			case part == "**":
				next = appendTree(next, dir, i == len(parts)-1)
			case isPattern(part):
				next = appendMatches(next, dir, part)
			default:
				path := filepath.Join(dir, part)
				if _, err := os.Lstat(path); err == nil {
					next = append(next, path)
				}
			}
			if len(next) > reloadFiles {
				break
			}
		}
		paths = next
	}
	return paths
}

func appendMatches(paths []string, dir, part string) []string {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		hidden := strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(part, ".")
		if ok, _ := filepath.Match(goPattern(part), e.Name()); ok && !hidden {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// appendTree lists dir and the directories below, and with files also the files.
func appendTree(paths []string, dir string, files bool) []string {
	paths = append(paths, dir)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), ".") || len(paths) > reloadFiles:
		case e.IsDir():
			paths = appendTree(paths, filepath.Join(dir, e.Name()), files)
		case files:
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// goPattern converts one component of a pattern to the syntax of filepath.Match.
// In Python's glob, a backslash and an unclosed bracket stand for themselves.
func goPattern(part string) string {
	var b []byte
	for part != "" {
		c, rest := part[0], part[1:]
		members, not := strings.CutPrefix(rest, "!")
		n := 0
		if c == '[' && members != "" {
			n = 1 + strings.IndexByte(members[1:], ']') // as the first member of a set, ] does not end the set
		}
		switch {
		case n > 0:
			b = append(b, '[')
			if not {
				b = append(b, '^')
			}
			for i, m := range members[:n] {
				if m != '-' || i == 0 || i == n-1 {
					b = append(b, '\\')
				}
				b = utf8.AppendRune(b, m)
			}
			b, rest = append(b, ']'), members[n+1:]
		case c == '[' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
		part = rest
	}
	return string(b)
}
