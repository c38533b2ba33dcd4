package main

// Files that the worker sends by itself, without its Python (the setting static): which
// requests are about files, how a file is found and opened, which part of it is sent, and
// which fields describe it (RFC 9110, RFC 9111).
//
// Nothing outside of the directory of a mount can be opened. A name is decoded once, and
// refused if any of its segments is empty or begins with a dot. The kernel resolves the
// rest below the directory's descriptor (openat2(2), RESOLVE_BENEATH); where it has no
// openat2, or stops at an absolute link, walkBeneath follows the segments and links one by
// one.

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// ownCost is what an answer without Python counts against fileShare, beside its
	// bytes: opening a file takes about as long as sending that many bytes.
	ownCost = 32 << 10

	// smallFile is the longest file that is read into memory and sent with its head. For
	// a longer file, sendfile(2) is worth its two further system calls.
	smallFile = 32 << 10

	// linksMax is how many symbolic links walkBeneath follows for one name, as the kernel does.
	linksMax = 40

	// aYear is the max-age, in seconds, of a file whose name changes with its content.
	aYear = "31536000"
)

// answerer answers requests in the worker.
type answerer interface {
	// answer sends an answer, or returns false for a request that is the application's.
	answer(w *worker, t *turn) bool
}

// statics is the state with which a worker sends files.
type statics struct {
	mounts []*mount          // longest prefix first
	types  map[string]string // Content-Type by extension
	name   []byte            // scratch: a decoded path, or a name with a zero byte behind it
	walks  bool              // the kernel has no openat2
}

// mount is a directory whose files are sent for the paths below a prefix.
type mount struct {
	prefix string // begins and ends with a slash
	dir    string
	fd     int // the directory, -1 while there is none
	seen   stamp
}

// mountsOf reads the setting static.
func mountsOf(c *config) (list []*mount, err error) {
	for _, text := range c.static {
		prefix, dir, ok := strings.Cut(text, "=")
		switch {
		case !ok || dir == "":
			return nil, sentence("static: %q is not PREFIX=DIR", text)
		case !strings.HasPrefix(prefix, "/"):
			return nil, sentence("static: %q: the prefix does not begin with a slash", text)
		}
		m := &mount{prefix: strings.TrimRight(prefix, "/") + "/", dir: c.inDir(dir), fd: -1}
		if slices.ContainsFunc(list, func(other *mount) bool { return other.prefix == m.prefix }) {
			return nil, sentence("static: %q: the prefix is there twice", text)
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *mount) int { return len(b.prefix) - len(a.prefix) })
	return list, nil
}

// checkStatic tries the directories of static with the rights of a worker.
func (c *config) checkStatic() error {
	list, err := mountsOf(c)
	if err != nil {
		return err
	}
	cred, err := credentialOf(c)
	if err != nil {
		return nil // the start reports this error itself
	}
	for _, m := range list {
		if err := withRightsOf(cred, m.open); err != nil {
			return sentence("static: %q is not a directory that user %d can read: %v", m.dir, c.user, err)
		}
		unix.Close(m.fd)
	}
	return nil
}

// open opens the directory, or opens it again if another has its name by now.
func (m *mount) open() error {
	seen := stampOf(m.dir)
	seen.size, seen.mtime = 0, 0
	if m.fd >= 0 && seen == m.seen {
		return nil
	}
	fd, err := unix.Open(m.dir+"/.", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if m.fd >= 0 {
		unix.Close(m.fd)
	}
	m.fd, m.seen = fd, seen
	return nil
}

// openStatic opens the directories of static. renewStatic opens them again when others
// take their place.
func (w *worker) openStatic() (err error) {
	if w.mounts, err = mountsOf(w.cfg); len(w.mounts) == 0 {
		return err
	}
	w.types = readTypes("/etc/mime.types")
	for _, m := range w.mounts {
		if err := m.open(); err != nil {
			w.log.warningf("static: %s: %v", m.dir, err)
		}
		fd, errno := rawOpenat2(m.fd, []byte(".\x00"), unix.O_PATH)
		w.walks = w.walks || errno == unix.ENOSYS || errno == unix.EPERM // some containers answer EPERM to unknown calls
		if errno == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// renewStatic runs once a second: a directory may have been replaced by another.
func (w *worker) renewStatic() {
	for _, m := range w.mounts {
		_ = m.open()
	}
}

// answersItself reports whether the worker answers some requests without Python.
func (w *worker) answersItself() bool { return len(w.mounts) > 0 }

// unquoted decodes the percent escapes of a path, into scratch if there are any.
func (w *worker) unquoted(path []byte) []byte {
	if bytes.IndexByte(path, '%') < 0 {
		return path
	}
	w.name = appendUnquoted(w.name[:0], path)
	return w.name
}

// answerOwn has a request answered without Python, once files may be sent in this turn of the
// loop. It returns true if the request is the application's after all.
func (w *worker) answerOwn(t *turn) bool {
	if w.share <= 0 {
		w.goOnLater(t.conn)
		return false
	}
	w.share -= ownCost
	own := t.own
	if t.own = nil; own.answer(w, t) || !w.greets(t) || w.limited && t.incomplete() && w.tooMany(t) {
		return false
	}
	if !w.python.gateway.early {
		w.invite(t)
	}
	return !t.conn.gone
}

// file is a file of a mount, open for one answer.
type file struct {
	fd       int // -1 for a directory that has an index, and whose path lacks the slash at the end
	size     int64
	mtime    int64  // nanoseconds
	modified int64  // seconds, for Last-Modified
	coding   string // Content-Encoding, "" for none
	varies   bool   // other clients may get the same file in another coding
}

// answer sends the file that a request asks for. Without one it leaves the request to the
// application, unless static_final is set.
func (m *mount) answer(w *worker, t *turn) bool {
	f, errno := file{fd: -1}, unix.EMFILE
	if w.held() < w.descriptors || w.makeWay() {
		f, errno = m.find(w, &t.req)
	}
	switch method := string(t.req.method); {
	case errno == unix.EMFILE || errno == unix.ENFILE || errno == unix.ENOMEM:
		w.plain(t, 503, "Retry-After", "1")
	case errno != 0 && !w.cfg.staticFinal:
		return false
	case errno != 0:
		w.plain(t, 404, "", "")
	case method != "GET" && method != "HEAD":
		w.plain(t, 405, "Allow", "GET, HEAD")
	case f.fd < 0:
		target := string(t.req.path) + "/"
		if len(t.req.query) > 0 {
			target += "?" + string(t.req.query)
		}
		w.plain(t, 301, "Location", target)
	default:
		w.offer(t, &f)
	}
	if f.fd >= 0 {
		unix.Close(f.fd)
	}
	return true
}

// find opens the file of a path, in the coding that suits the client best.
func (m *mount) find(w *worker, r *request) (f file, errno syscall.Errno) {
	path := w.unquoted(r.path)
	name := append(w.name[:0], path[len(m.prefix):]...)
	w.name = name
	if bytes.Contains(r.path, []byte("%2f")) || bytes.Contains(r.path, []byte("%2F")) || !plainName(name) {
		return file{fd: -1}, unix.ENOENT
	}
	if len(name) == 0 || name[len(name)-1] == '/' {
		if !w.cfg.staticIndex {
			return file{fd: -1}, unix.ENOENT
		}
		name = append(name, "index.html"...)
	}
	w.name = append(name, 0)
	f, errno = m.openFile(w)
	switch {
	case errno == unix.EISDIR && w.cfg.staticIndex:
		w.name = append(name, "/index.html\x00"...)
		if f, errno = m.openFile(w); errno == 0 {
			unix.Close(f.fd)
			f.fd = -1
		}
	case errno == 0 && !bytes.HasSuffix(name, []byte(".gz")) && !bytes.HasSuffix(name, []byte(".br")):
		w.name = name
		m.choose(w, r, &f)
	}
	w.name = name
	return f, errno
}

// plainName reports whether no segment of a name begins with a dot, and none but the last is
// empty.
func plainName(name []byte) bool {
	before := byte('/')
	for _, c := range name {
		if c == 0 || before == '/' && (c == '.' || c == '/') {
			return false
		}
		before = c
	}
	return true
}

// openFile opens the regular file that w.name names. The error is EISDIR for a directory.
func (m *mount) openFile(w *worker) (f file, errno syscall.Errno) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	f.fd, errno = -1, unix.EXDEV
	if !w.walks {
		f.fd, errno = rawOpenat2(m.fd, w.name, flags)
	}
	if errno == unix.EXDEV { // a link leads out, or is absolute
		f.fd, errno = m.walkBeneath(string(w.name[:len(w.name)-1]), flags)
	}
	if errno != 0 {
		return f, errno
	}
	var st unix.Stat_t
	switch err := unix.Fstat(f.fd, &st); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG:
		f.size, f.mtime = st.Size, st.Mtim.Nano()
		f.modified = min(f.mtime/int64(time.Second), w.clock.now.Unix()) // RFC 9110 8.8.2.1
		return f, 0
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		errno = unix.EISDIR
	default:
		errno = unix.ENOENT
	}
	unix.Close(f.fd)
	return file{fd: -1}, errno
}

// codings are the codings of files that stand beside the plain file, by the ending of their
// names, best first.
var codings = [...]struct{ name, ending string }{{"br", ".br\x00"}, {"gzip", ".gz\x00"}}

// choose replaces the file f of the name w.name by the same file in a coding that the client
// accepts, if there is one that is not older. Whole seconds are compared, as some programs
// copy only the whole seconds of a time.
func (m *mount) choose(w *worker, r *request, f *file) {
	name, best := w.name, 0.0
	plain, identity := *f, r.accepts("identity")
	for _, coding := range codings {
		w.name = append(name, coding.ending...)
		weight := r.accepts(coding.name)
		worse := weight <= best || weight < identity
		if worse && f.varies {
			continue
		}
		if worse { // the client gets the plain file; caches have to know of this coding
			var st unix.Stat_t
			err := unix.Fstatat(m.fd, unix.ByteSliceToString(w.name), &st, unix.AT_SYMLINK_NOFOLLOW)
			f.varies = err == nil && st.Mtim.Nano()/int64(time.Second) >= plain.mtime/int64(time.Second)
			continue
		}
		other, errno := m.openFile(w)
		switch {
		case errno != 0:
		case other.mtime/int64(time.Second) < plain.mtime/int64(time.Second):
			unix.Close(other.fd)
		default:
			unix.Close(f.fd)
			*f, best = other, weight
			f.coding, f.varies = coding.name, true
		}
	}
}

// Answers ---------------------------------------------------------------------

// tell adds a field to the answer being made. Its value is the end of w.text, from at on.
func (w *worker) tell(name string, at int) {
	only := unsafe.Slice(unsafe.StringData(name), len(name)) // nobody writes to these bytes
	w.resp.fields = append(w.resp.fields, field{name: only, value: w.text[at:]})
}

func (w *worker) tellText(name, value string) {
	at := len(w.text)
	w.text = append(w.text, value...)
	w.tell(name, at)
}

func (w *worker) tellNumber(name string, value int64) {
	at := len(w.text)
	w.text = strconv.AppendInt(w.text, value, 10)
	w.tell(name, at)
}

// plain sends a status in place of a file, with one more field unless name is empty.
func (w *worker) plain(t *turn, code int, name, value string) {
	w.resp.fields, w.text = w.resp.fields[:0], w.text[:0]
	if name != "" {
		w.tellText(name, value)
	}
	w.deny(t, code)
}

// deny sends a status, which the body repeats, with the fields that have been told.
func (w *worker) deny(t *turn, code int) {
	body := strconv.Itoa(code) + " " + reasonPhrase(code) + "\n"
	w.tellText("Content-Type", "text/plain; charset=utf-8")
	w.tellNumber("Content-Length", int64(len(body)))
	w.finishOwn(t, w.beginOwn(t, code, true), []byte(body))
}

// offer sends a file, or the part of it that the client asks for, or says that the client
// has the file already.
func (w *worker) offer(t *turn, f *file) {
	w.resp.fields, w.text = w.resp.fields[:0], w.text[:0]
	w.text = strconv.AppendUint(append(w.text, '"'), uint64(f.mtime), 16)
	w.text = strconv.AppendUint(append(w.text, '-'), uint64(f.size), 16)
	if f.coding != "" {
		w.text = append(append(w.text, '-'), f.coding...)
	}
	w.text = append(w.text, '"')
	w.tell("ETag", 0)
	at := len(w.text)
	w.text = time.Unix(f.modified, 0).UTC().AppendFormat(w.text, httpTime)
	w.tell("Last-Modified", at)
	if f.varies {
		w.tellText("Vary", "Accept-Encoding")
	}
	code, from, length := t.req.judge(w.text[:at], w.text[at:], f.modified, f.size)
	switch code {
	case 412:
		w.deny(t, code)
		return
	case 416:
		w.tellText("Content-Range", "bytes */"+strconv.FormatInt(f.size, 10))
		w.deny(t, code)
		return
	}
	at = len(w.text)
	w.text = append(w.text, "public, max-age="...)
	if hashed(w.name) {
		w.text = append(w.text, aYear+", immutable"...)
	} else {
		w.text = strconv.AppendInt(w.text, int64(w.cfg.staticMaxAge), 10)
	}
	w.tell("Cache-Control", at)
	if code != 304 {
		w.tellText("Content-Type", w.typeOf(w.name))
		w.tellText("Accept-Ranges", "bytes")
		w.tellNumber("Content-Length", length)
		if f.coding != "" {
			w.tellText("Content-Encoding", f.coding)
		}
	}
	if code == 206 {
		w.tellText("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+length-1, f.size))
	}
	body := w.beginOwn(t, code, true)
	if small := w.rbuf[:min(length, smallFile)]; body && length <= smallFile {
		if n, _ := unix.Pread(f.fd, small, from); n == len(small) {
			w.finishOwn(t, true, small)
			return
		}
	}
	if body && length > 0 {
		t.conn.file, t.conn.fileAt, t.conn.fileEnd = f.fd, from, from+length
		w.files++
		f.fd = -1
	}
	w.finishOwn(t, false, nil)
}

// beginOwn makes the head of an answer with the fields that have been told, and records the
// answer if logged is true. It reports whether a body may follow.
func (w *worker) beginOwn(t *turn, code int, logged bool) bool {
	c := t.conn
	t.upload.pause(w.now)
	t.status = append(strconv.AppendInt(t.status[:0], int64(code), 10), ' ')
	t.status = append(t.status, reasonPhrase(code)...)
	x := exchange{version: t.req.version, minor: t.req.minor, head: string(t.req.method) == "HEAD",
		streamed:  t.req.streamed,
		keepAlive: t.req.keepAlive && w.cfg.keepalive > 0 && !c.lent && w.promises(t), server: w.server}
	w.outFor(c)
	w.resp.status, w.resp.fields = t.status, t.mark(w.resp.fields)
	at := len(w.obuf)
	w.obuf, t.framing, _ = w.resp.appendHead(w.obuf, &x, w.clock.http) // no field of ours is invalid
	w.obuf = c.transport.head(w.obuf, at)
	t.sent, c.keep = t.framing.length, t.framing.keepAlive
	if logged {
		w.record(t, t.status, true)
	}
	return !t.framing.noBody
}

// finishOwn sends the answer whose head has been made, with a body unless that is a file.
func (w *worker) finishOwn(t *turn, body bool, b []byte) {
	c := t.conn
	if w.obufFor = nil; !body {
		b = nil
	}
	w.share -= len(b)
	if c.file >= 0 { // send would put the head behind the file
		file := c.file
		c.file = -1
		w.send(c, w.obuf, nil)
		c.file = file
	} else {
		w.send(c, w.obuf, b)
	}
	w.obuf = w.obuf[:0]
	t.enter(draining)
	w.drained(c)
}

// Conditions and ranges -----------------------------------------------------------

// judge decides by a request's conditions and range how a file is answered (RFC 9110
// 13.2.2): 200, 206 with a part, 304, 412 or 416. modified is the text of seconds.
func (r *request) judge(tag, modified []byte, seconds, size int64) (code int, from, length int64) {
	strong := func(v []byte) bool { return listsTag(v, tag, false) }
	weak := func(v []byte) bool { return listsTag(v, tag, true) }
	since := func(v []byte) bool { at, ok := httpDate(v); return ok && seconds <= at }
	unmodified := func(v []byte) bool { at, ok := httpDate(v); return !ok || seconds <= at }
	same := func(v []byte) bool { return bytes.Equal(v, tag) || bytes.Equal(v, modified) }
	given, holds := r.condition("IF-MATCH", strong)
	if !given {
		given, holds = r.condition("IF-UNMODIFIED-SINCE", unmodified)
	}
	if given && !holds {
		return 412, 0, 0
	}
	if given, holds = r.condition("IF-NONE-MATCH", weak); !given {
		_, holds = r.condition("IF-MODIFIED-SINCE", since)
	}
	if holds {
		return 304, 0, 0
	}
	var ranges []byte
	n := 0 // fields; several are no range, as several parts are none
	r.condition("RANGE", func(v []byte) bool { ranges, n = v, n+1; return false })
	if given, holds = r.condition("IF-RANGE", same); given && !holds || n != 1 || string(r.method) != "GET" {
		return 200, 0, size
	}
	return oneRange(ranges, size)
}

// condition reports whether a request has a field, whose name is given in upper case, and
// whether the condition holds in any field of the name.
func (r *request) condition(name string, in func(value []byte) bool) (given, holds bool) {
	for i := range r.fields {
		if f := &r.fields[i]; foldEqual(f.name, name) {
			given, holds = true, holds || in(f.value)
		}
	}
	return given, holds
}

// listsTag reports whether a list of entity tags has tag, or is a star. A weak comparison
// (RFC 9110 8.8.3.2) ignores the mark of weak tags.
func listsTag(list, tag []byte, weak bool) bool {
	for e := range elements(list) {
		if weak {
			e = bytes.TrimPrefix(e, []byte("W/"))
		}
		if bytes.Equal(e, tag) || string(e) == "*" {
			return true
		}
	}
	return false
}

// httpTime is the form of a date that is sent. Two older forms are understood (RFC 9110 5.6.7).
const httpTime = "Mon, 02 Jan 2006 15:04:05 GMT"

// httpDate reads a date, in seconds.
func httpDate(text []byte) (seconds int64, ok bool) {
	for _, form := range [...]string{httpTime, "Monday, 02-Jan-06 15:04:05 GMT", time.ANSIC} {
		if at, err := time.Parse(form, string(text)); err == nil {
			return at.Unix(), true
		}
	}
	return 0, false
}

// oneRange reads Range for a file of size bytes (RFC 9110 14). A text that is no range, or asks
// for several parts, is ignored: the client gets the whole file.
func oneRange(text []byte, size int64) (code int, from, length int64) {
	unit, set, _ := bytes.Cut(text, []byte("="))
	if !foldEqual(unit, "BYTES") {
		return 200, 0, size
	}
	code, to := 200, size-1
	for e := range elements(set) {
		if len(e) == 0 {
			continue
		}
		a, b, ok := bytes.Cut(e, []byte("-"))
		first, isFirst := digits(a)
		last, isLast := digits(b)
		if !ok || !isFirst && len(a) > 0 || !isLast && len(b) > 0 || !isFirst && !isLast || isFirst && isLast && last < first || code != 200 {
			return 200, 0, size
		}
		switch {
		case isFirst && first < size:
			code, from = 206, first
			if isLast {
				to = min(last, to)
			}
		case !isFirst && size == 0 && last > 0:
			return 200, 0, size // there are no positions that Content-Range could name
		case !isFirst && last > 0:
			code, from = 206, max(0, size-last)
		default:
			code = 416
		}
	}
	return code, from, to - from + 1
}

// digits reads a number of ASCII digits alone; one that is too large becomes the largest.
func digits(text []byte) (n int64, ok bool) {
	if len(text) == 0 || len(bytes.Trim(text, "0123456789")) > 0 {
		return 0, false
	}
	if n = parseLength(text); n < 0 {
		n = math.MaxInt64
	}
	return n, true
}

// accepts returns the weight that Accept-Encoding gives to a coding (RFC 9110 12.5.3), 0 if
// the client does not accept the coding. A wrong weight counts as 0.
func (r *request) accepts(coding string) float64 {
	own, other := -1.0, 0.0
	for i := range r.fields {
		if !foldEqual(r.fields[i].name, "ACCEPT-ENCODING") {
			continue
		}
		for e := range elements(r.fields[i].value) {
			name, rest, weighted := bytes.Cut(e, []byte(";"))
			q := 1.0
			if rest = trimBlanks(rest); weighted {
				q, _ = strconv.ParseFloat(string(rest[min(len("q="), len(rest)):]), 64)
			}
			if !(q >= 0 && q <= 1) {
				q = 0
			}
			switch name = trimBlanks(name); {
			case foldEqual(name, coding), coding == "gzip" && foldEqual(name, "x-gzip"):
				own = max(own, q)
			case string(name) == "*":
				other = q
			}
		}
	}
	if own < 0 {
		return other
	}
	return own
}

// hashed reports whether a file's name has a hash of the content in it: as Django's, twelve
// hexadecimal digits or some other number of them from eight on, between dots or behind a
// hyphen; or as Vite's, eight characters of base64 behind a hyphen or between dots, with
// letters of both cases. A version (3.7.1), a size (1024x768) and a date are none.
func hashed(name []byte) bool {
	name = name[bytes.LastIndexByte(name, '/')+1:]
	end := bytes.LastIndexByte(name, '.')
	if end < 0 {
		return false
	}
	for i, part := range bytes.Split(name[:end], []byte(".")) {
		if i > 0 && isHash(part) {
			return true
		}
		if n := len(part) - 8; n > 1 && part[n-1] == '-' && isHash(part[n:]) || isHash(part[bytes.LastIndexByte(part, '-')+1:]) && bytes.IndexByte(part, '-') > 0 {
			return true
		}
	}
	return false
}

func isHash(part []byte) bool {
	const number, hexadecimal = "0123456789", "abcdef"
	const lower, upper = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	has := func(set string) bool { return bytes.ContainsAny(part, set) }
	if len(bytes.Trim(part, number+hexadecimal)) == 0 {
		return len(part) >= 8 && has(hexadecimal) && (has(number) || len(part) == 12)
	}
	wide := len(part) == 8 && len(bytes.Trim(part, number+lower+upper+"-_")) == 0
	return wide && has(upper) && has(lower+number)
}

// fileTypes are the types of files that web applications consist of. /etc/mime.types adds
// others.
var fileTypes = map[string]string{
	"avif": "image/avif", "bin": "application/octet-stream", "br": "application/x-brotli", "css": "text/css", "csv": "text/csv",
	"eot": "application/vnd.ms-fontobject", "gif": "image/gif", "gz": "application/gzip", "htm": "text/html", "html": "text/html",
	"ico": "image/x-icon", "jpeg": "image/jpeg", "jpg": "image/jpeg", "js": "text/javascript", "json": "application/json",
	"jsonld": "application/ld+json", "map": "application/json", "md": "text/markdown", "mjs": "text/javascript", "mp3": "audio/mpeg",
	"mp4": "video/mp4", "ogg": "audio/ogg", "otf": "font/otf", "pdf": "application/pdf", "png": "image/png", "svg": "image/svg+xml",
	"tar": "application/x-tar", "ttf": "font/ttf", "txt": "text/plain", "wasm": "application/wasm", "webm": "video/webm",
	"webmanifest": "application/manifest+json", "webp": "image/webp", "woff": "font/woff", "woff2": "font/woff2",
	"xhtml": "application/xhtml+xml", "xml": "application/xml", "zip": "application/zip",
}

// readTypes makes the table of types, by extensions with their dots, of fileTypes and of a
// file whose lines have a type and its extensions.
func readTypes(file string) map[string]string {
	types := map[string]string{}
	add := func(extension, kind string) {
		if strings.HasPrefix(kind, "text/") {
			kind += "; charset=utf-8"
		}
		types["."+strings.ToLower(extension)] = kind
	}
	for line := range strings.Lines(readText(file)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		for i := 1; i < len(words) && validValue([]byte(words[0])); i++ {
			add(words[i], words[0])
		}
	}
	for extension, kind := range fileTypes {
		add(extension, kind)
	}
	return types
}

// typeOf is the type of a file by the end of its name.
func (w *worker) typeOf(name []byte) string {
	return cmp.Or(w.types[strings.ToLower(path.Ext(string(name)))], "application/octet-stream")
}

// Opening ---------------------------------------------------------------------

// walkBeneath opens a name as openat2(2) does with RESOLVE_BENEATH: link by link, segment by
// segment, each by the descriptor of the directory before it. A way up leads back to the
// descriptor by which the walk came down, so that no directory moved meanwhile leads out. An
// absolute link into the directory, by the name that the setting has for it or by its real
// one, starts the walk again with the rest of the link.
func (m *mount) walkBeneath(name string, flags int) (fd int, errno syscall.Errno) {
	dirs := []int{m.fd}
	up := func(n int) {
		for _, dir := range dirs[n:] {
			unix.Close(dir)
		}
		dirs = dirs[:n]
	}
	defer func() { up(1) }()
	left, links := strings.Split(name, "/"), 0
	for {
		segment, last := left[0], len(left) == 1
		left = left[1:]
		dir := dirs[len(dirs)-1]
		switch {
		case segment == "..":
			if len(dirs) == 1 {
				return -1, unix.EXDEV
			}
			up(len(dirs) - 1)
			dir = dirs[len(dirs)-1]
			fallthrough
		case segment == "" || segment == ".":
			if last {
				return openOrErrno(dir, ".", flags)
			}
			continue
		}
		how := flags
		if !last {
			how = unix.O_PATH | unix.O_DIRECTORY
		}
		fd, errno := openOrErrno(dir, segment, how|unix.O_NOFOLLOW)
		if errno == unix.ELOOP || errno == unix.ENOTDIR {
			var target [unix.PathMax]byte
			n, err := unix.Readlinkat(dir, segment, target[:])
			switch links++; {
			case err != nil:
				return -1, errno
			case links > linksMax:
				return -1, unix.ELOOP
			case n == 0 || n == len(target):
				return -1, unix.EXDEV
			}
			text := string(target[:n])
			if text[0] == '/' {
				if text = m.rest(text); text == "" {
					return -1, unix.EXDEV
				}
				up(1)
			}
			left = append(strings.Split(text, "/"), left...)
			continue
		}
		if errno != 0 || last {
			return fd, errno
		}
		dirs = append(dirs, fd)
	}
}

// rest returns what an absolute path has behind the name of the directory, "" if it does not
// begin with that.
func (m *mount) rest(target string) string {
	real, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", m.fd))
	for _, dir := range []string{path.Clean(m.dir), real} {
		if behind, ok := strings.CutPrefix(target+"/", dir+"/"); ok && dir != "" {
			return cmp.Or(strings.TrimSuffix(behind, "/"), ".")
		}
	}
	return ""
}

func openOrErrno(dir int, name string, flags int) (int, syscall.Errno) {
	fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		errno, _ := err.(syscall.Errno)
		return -1, errno
	}
	return fd, 0
}
