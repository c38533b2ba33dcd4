package main

// With reload a worker watches the files that its application consists of, and
// leaves when one changes. Python says which files those are (reload.py); they
// are watched here, beside the worker's loop and not in it: a pattern over a
// large tree, or a file on a network, takes its time. One goroutine owns all
// state; lists of files come to it over a channel, and the first change leaves
// it over another, with a byte on a pipe to wake the loop.
//
// inotify watches directories, where editors rename things, but only events of
// the files in question count: a log written beside the application would
// restart it for ever, by its own lines about that.

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	reloadCheck = time.Second            // from one look at all files to the next, at least
	reloadQuiet = 100 * time.Millisecond // without a change: an editor, or git, has finished
	reloadLimit = time.Second            // from the first change: it may never finish
	reloadFiles = 1 << 16                // are watched at most
	reloadLists = 64                     // wait for the watching goroutine at most
)

// Stamps that are no time of modification.
const (
	stampUnknown = -1 - iota // not looked at yet
	stampAbsent
)

// watched is a file, and the stamp of what Python has read of it.
type watched struct {
	path  string // absolute
	stamp int64  // time of modification in nanoseconds, or one of the above
}

// watchedFile is what is known of a watched file.
type watchedFile struct {
	stamp int64
	extra bool // looked at each time, even with inotify: it may be behind a link
}

type reloader struct {
	at       *start   // names count from there
	extra    []string // names and patterns
	reported chan []watched
	changed  chan string // the file for which the worker has to leave
	wakeW    int
	taken    int // files that the loop has passed on

	files   map[string]watchedFile
	inotify int // -1: not available
	polling bool
	dirs    map[int32][]string // by watch; one directory may have several names
	watches map[string]bool    // directories
}

// startReload begins to watch and returns the descriptor that has something to
// read when a file has changed.
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

// watchFiles takes a list that Python reports.
func (w *worker) watchFiles(r *marshalReader) error {
	if !w.python.ready || w.reload == nil {
		return errOutOfStep
	}
	var list []watched
	for n := r.sequence(); n > 0 && r.err == nil; n-- {
		if r.sequence() != 2 {
			return errOutOfStep
		}
		list = append(list, watched{path: string(r.bytes()), stamp: r.int()})
	}
	if r.err != nil {
		return errOutOfStep
	}
	if !w.reload.report(list) {
		w.log.warningf("reload: %d files are too many and are not watched", len(list))
	}
	return nil
}

// fileChanged makes way for a worker with the new code.
func (w *worker) fileChanged(wake int, _ uint32) {
	w.forget(wake)
	w.log.infof("Worker reloading: %s modified", <-w.reload.changed)
	w.retire()
}

// warnOfPatterns tells of those that match nothing, which may be a mistake.
func (c *config) warnOfPatterns(log *errorLog) {
	at := &start{dir: c.startDir}
	for _, name := range c.reloadExtraFiles {
		if c.reload && isPattern(name) && len(expand(at.path(name))) == 0 {
			log.warningf("Pattern %s currently matches no files.", name)
		}
	}
}

// report passes on a list that Python gave; it belongs to the loop. False says
// that the files will not be watched.
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

// watch runs until a file has changed and what else is changing has settled.
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
				name = either(name, r.add(f.path, f.stamp, false))
			}
		case b := <-events:
			name = r.events(b)
		case <-check.C:
			began := time.Now()
			name = r.look(r.polling)
			// However large the tree is, it does not keep a processor busy.
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

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// look looks at every file, or at the extra ones alone, and returns one that
// has changed.
func (r *reloader) look(all bool) (changed string) {
	for _, name := range r.extra {
		paths := []string{r.at.path(name)}
		if isPattern(name) {
			paths = expand(paths[0])
		}
		for _, path := range paths {
			changed = either(changed, r.add(path, stampUnknown, true))
		}
	}
	for path, f := range r.files {
		if all || f.extra {
			changed = either(changed, r.compare(path, f))
		}
	}
	return changed
}

// compare returns path if the file is not as it was.
func (r *reloader) compare(path string, f watchedFile) string {
	now := stampOf(path)
	if now == f.stamp {
		return ""
	}
	was := f.stamp
	f.stamp = now
	r.files[path] = f
	if was == stampUnknown {
		return ""
	}
	return path
}

// add watches one more file. It has changed already if its stamp is not the
// one that Python saw, as when somebody saves twice: the second time while the
// code of the first is being loaded.
func (r *reloader) add(path string, stamp int64, extra bool) string {
	path = filepath.Clean(path)
	if _, known := r.files[path]; known || len(r.files) >= reloadFiles {
		return ""
	}
	f := watchedFile{stamp: stamp, extra: extra}
	r.files[path] = f
	r.watchDir(filepath.Dir(path))
	// A link's target is what people edit.
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSymlink != 0 {
		if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
			r.add(target, stampUnknown, extra)
		}
	}
	return r.compare(path, f)
}

// stampOf is the time of the file's last modification.
func stampOf(path string) int64 {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stampAbsent
	}
	return st.Mtim.Nano()
}

// Inotify -------------------------------------------------------------------

// IN_ATTRIB is what touch(1) makes.
const inotifyEvents = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVED_FROM |
	unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// watchDir asks for the events of one directory. When there are no more
// watches to be had everything is polled.
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

// readInotify passes on what the kernel says.
func readInotify(fd int, events chan<- []byte) {
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		events <- bytes.Clone(b[:n])
	}
}

// events returns a file in question that one of the events is about.
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
			changed = either(changed, r.look(true))
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
				differs = path // even if the clock is too coarse to tell
			}
			changed = either(changed, differs)
		}
	}
	return changed
}

// Patterns ------------------------------------------------------------------

// isPattern says whether a name stands for any number of files.
func isPattern(name string) bool { return strings.ContainsAny(name, "*?[") }

// expand lists the files that match an absolute pattern, as Python's glob does:
// ** is any number of directories, and a leading dot is matched by none but
// itself. Directories that are links are not searched by **, because they may
// lead in a circle.
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
		if strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(part, ".") {
			continue
		}
		if ok, _ := filepath.Match(goPattern(part), e.Name()); ok {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths
}

// appendTree lists dir and the directories below it, and the files too.
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

// goPattern writes a component of a pattern as filepath.Match has it. In
// Python's a backslash means itself, and so does a bracket that is not closed.
func goPattern(part string) string {
	var b strings.Builder
	for i := 0; i < len(part); i++ {
		switch part[i] {
		case '\\':
			b.WriteString(`\\`)
		case '[':
			// A ] in the first place is a member of the set.
			start := i + 1
			if strings.HasPrefix(part[start:], "!") {
				start++
			}
			n := -1
			if start < len(part) {
				n = strings.IndexByte(part[start+1:], ']')
			}
			if n < 0 {
				b.WriteString(`\[`)
				continue
			}
			members := strings.NewReplacer(`\`, `\\`, "^", `\^`, "]", `\]`).Replace(part[start : start+1+n])
			if before, ok := strings.CutSuffix(members, "-"); ok {
				members = before + `\-`
			}
			if after, ok := strings.CutPrefix(members, "-"); ok {
				members = `\-` + after
			}
			b.WriteByte('[')
			if start == i+2 {
				b.WriteByte('^')
			}
			b.WriteString(members)
			b.WriteByte(']')
			i = start + 1 + n
		default:
			b.WriteByte(part[i])
		}
	}
	return b.String()
}
