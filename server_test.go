package main

// Tests of what stands around the protocols: logs, metrics, the system, certificates,
// reload's files, memory, and the arbiter's care for its workers.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const defaultAccessFormat = `%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"`

func openErrorLog(path, level string) (*errorLog, error) {
	l, _, err := openLogs(&config{errorlog: path, loglevel: level}, -1, -1)
	return l, err
}

func openAccessLog(path, format string) (*accessLog, error) {
	_, a, err := openLogs(&config{errorlog: "-", accesslog: path, accessLogFormat: format}, -1, -1)
	return a, err
}

func testFields(pairs ...string) []field {
	var fields []field
	for i := 0; i < len(pairs); i += 2 {
		fields = append(fields, field{[]byte(pairs[i]), []byte(pairs[i+1])})
	}
	return fields
}

// testEntry is a request as an ordinary client makes it.
func testEntry(fields ...string) *accessEntry {
	now := new(clock)
	now.set(time.Date(2026, 11, 22, 20, 15, 26, 0, time.FixedZone("", 5400)))
	return &accessEntry{
		now: now,
		req: &request{
			method: []byte("GET"), target: []byte("/a%20b?x=1"), path: []byte("/a%20b"),
			query: []byte("x=1"), version: []byte("HTTP/1.1"), fields: testFields(fields...),
		},
		endpoint: &endpoint{serverName: "127.0.0.1", serverPort: "8000", remoteAddr: "192.0.2.7", remotePort: "4321"},
		parsed:   true,
		status:   []byte("200 OK"),
		fields:   testFields("X-Id", "1", "x-id", "2"),
		bytes:    14,
		duration: 2*time.Second + 34567*time.Microsecond,
		pid:      77,
	}
}

// formatAccess returns the line for e without the newline.
func formatAccess(t *testing.T, format string, e *accessEntry) string {
	t.Helper()
	pieces, err := compileAccessFormat(format)
	if err != nil {
		t.Fatal(err)
	}
	a := &accessLog{pieces: pieces}
	a.record(e)
	line, ok := strings.CutSuffix(string(a.buf), "\n")
	if !ok {
		t.Fatalf("no newline after %q", line)
	}
	return line
}

func TestClock(t *testing.T) {
	var c clock
	c.set(time.Date(2026, 11, 2, 1, 15, 26, 999, time.FixedZone("", -3*3600)))
	if got := string(c.http); got != "Mon, 02 Nov 2026 04:15:26 GMT" {
		t.Errorf("httpDate: %s", got)
	}
	if got := string(c.local); got != "[02/Nov/2026:01:15:26 -0300]" {
		t.Errorf("clf: %s", got)
	}
	c.set(c.now.Add(time.Second))
	if got := string(c.http); got != "Mon, 02 Nov 2026 04:15:27 GMT" {
		t.Errorf("httpDate a second later: %s", got)
	}
	c.set(time.Now())
	if n := testing.AllocsPerRun(100, func() { c.set(c.now.Add(time.Second)) }); n != 0 {
		t.Errorf("%v allocations for a new second", n)
	}
}

func TestAccessFormat(t *testing.T) {
	ordinary := testEntry("Host", "example.org", "Referer", "http://r/", "User-Agent", "curl/8",
		"Authorization", "bAsIc YW5uYTpzZWNyZXQ6eA==", "Accept", "a", "accept", "b", "Content-Type", "text/plain")
	ordinary.req.repeated = true
	bare := testEntry()
	local := testEntry("Host", "h.example:81")
	local.req.host = []byte("h.example:81")
	local.endpoint = &endpoint{unix: true, serverName: "/run/s"}
	failed := testEntry("X-Seen", "1", "User-Agent", "curl/8")
	failed.parsed, failed.status, failed.bytes = false, []byte("400 Bad Request"), 0
	mounted := testEntry()
	mounted.scriptName, mounted.req.path = "/app", []byte("/app/caf%C3%A9%2e")
	for _, test := range []struct {
		format string
		entry  *accessEntry
		want   string
	}{
		{defaultAccessFormat, ordinary, `192.0.2.7 - anna [22/Nov/2026:20:15:26 +0130] "GET /a%20b?x=1 HTTP/1.1" 200 14 "http://r/" "curl/8"`},
		{defaultAccessFormat, bare, `192.0.2.7 - - [22/Nov/2026:20:15:26 +0130] "GET /a%20b?x=1 HTTP/1.1" 200 14 "-" "-"`},
		{defaultAccessFormat, local, ` - - [22/Nov/2026:20:15:26 +0130] "GET /a%20b?x=1 HTTP/1.1" 200 14 "-" "-"`},
		{defaultAccessFormat, failed, `192.0.2.7 - - [22/Nov/2026:20:15:26 +0130] "GET /a%20b?x=1 HTTP/1.1" 400 0 "-" "-"`},
		{"%(U)s %(q)s %(m)s %(H)s", bare, "/a b x=1 GET HTTP/1.1"},
		{"%(I)s|%(I)5s|%(I)r", bare, "-|    -|'-'"},
		{"%(U)s %({X-Seen}i)s %({REMOTE_ADDR}e)s", failed, "None 1 -"},
		{"%(U)s %({PATH_INFO}e)s %({SCRIPT_NAME}e)s", mounted, "/café. /café. /app"},
		{"%(T)s %(M)s %(D)s %(L)s %(p)s %(B)s", bare, "2 2034 2034567 2.034567 <77> 14"},
		{"%(T)d|%(T)5d|%(T)-5d|%(T)05i|%(T)+u|%(T)ld", bare, "2|    2|2    |00002|+2|2"},
		{"%(D)x|%(B)o|%(B)#x|%(T)f|%(T).1f|%(B)8.2e|%(M)g", bare, "1f0b87|16|0xe|2.000000|2.0|1.40e+01|2034"},
		{"%(m)6s|%(m)-6s|%(m).2s|%(m)5.1s|%(D)9s|%(m)02s", bare, "   GET|GET   |GE|    G|  2034567|GET"},
		{"%(U)9s|%(U).6s", mounted, "   /café.|/café."},
		{"%(s)r %(B)r %(zz)a", bare, "'200' 14 '-'"},
		{"100%% %%(h)s", bare, "100% %(h)s"},
		{"%({Accept}i)s %({ACCEPT}I)s %({missing}i)s", ordinary, "b b -"},
		{"%({x-id}o)s %({X-Other}o)s", ordinary, "2 -"},
		{"%({HTTP_ACCEPT}e)s %({http_host}e)s %({Content_Type}e)s", ordinary, "a,b example.org text/plain"},
		{"%({SERVER_NAME}e)s:%({SERVER_PORT}e)s %({REMOTE_PORT}e)s %({wsgi.url_scheme}e)s", ordinary, "127.0.0.1:8000 4321 http"},
		{"%({SERVER_NAME}e)s:%({SERVER_PORT}e)s %({REMOTE_PORT}e)s", local, "h.example:81 -"},
		{"%(h)s%(Z)s%()s%({}i)s%({x}q)s%({x)s%(hh)s%(-)s%(i)s%(e)s", bare, "192.0.2.7---------"},
		{"%({a(b)c}i)s", bare, "-"},
		{"no atom", bare, "no atom"},
		{"", bare, ""},
	} {
		if got := formatAccess(t, test.format, test.entry); got != test.want {
			t.Errorf("%q:\n got %q\nwant %q", test.format, got, test.want)
		}
	}
}

func TestAccessUser(t *testing.T) {
	for value, want := range map[string]string{
		"Basic YW5uYTp4":       "anna", // anna:x
		"BASIC   YW5uYTp4  ":   "anna",
		"Basic YW5uYQ==":       "anna",     // anna
		"Basic OnNlY3JldA==":   "-",        // :secret
		"Basic YW5uYTp4!":      "-",        // not base64
		"Basic YW5uYTp4Y":      "-",        // cut off
		"Basic /zp4":           "-",        // not UTF-8
		"Basic w6k6eA==":       "é",        // é:x
		"Basic YSIKYjp4":       `a\"\x0ab`, // a"LFb:x
		"Basic":                "-",
		"Basic ":               "-",
		"BasicYW5uYTp4":        "-",
		"Bearer YW5uYTp4":      "-",
		"Digest username=anna": "-",
	} {
		if got := formatAccess(t, "%(u)s", testEntry("Authorization", value)); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

// Whatever a client sends, its record is one line, and the quoted parts of it
// end where they should.
func TestAccessInjection(t *testing.T) {
	var nasty []byte
	for c := range 256 {
		nasty = append(nasty, byte(c))
	}
	nasty = append(nasty, "\u202e\u2028\u0085\u00a0\ufeff\xc3\" \\\" \\\\\" 200 0 \"-\"\r\n10.0.0.1 - -\x1b[2J"...)
	quoted := regexp.MustCompile(`^"(?:[^"\\]|\\.)*" end$`)
	for _, last := range []byte("\"\\\n\r\x1b\x00\xc3\xff") {
		text := append(nasty[:len(nasty):len(nasty)], last)
		e := testEntry("Referer", string(text), "User-Agent", string(text), "X", string(text))
		e.req.method, e.req.target, e.req.query, e.req.version = text, text, text, text
		e.req.path = []byte("/%0d%0A%22%00%1b" + string(text))
		e.fields = testFields("X", string(text))
		e.status = text
		for _, atom := range strings.Fields("r m U q H s f a {X}i {X}o {HTTP_X}e {QUERY_STRING}e {PATH_INFO}e") {
			line := formatAccess(t, fmt.Sprintf(`"%%(%s)s" end`, atom), e)
			if !quoted.MatchString(line) {
				t.Errorf("%s: the quotes do not hold: %q", atom, line)
			}
			for _, r := range line {
				if r < ' ' || r >= 0x7f && r < 0xa1 || r == 0xfffd || r == 0x202e || r == 0x2028 {
					t.Errorf("%s: %q comes through in %q", atom, r, line)
				}
			}
		}
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "",
		"plain \\ \"text\"":  "plain \\ \"text\"",
		"a\r\nb\tc\x7f":      `a\x0d\x0ab\x09c\x7f`,
		"é\xe9 \xe2\x82 €":   `é\xe9 \xe2\x82 €`,
		"\u0085\u202e":       `\xc2\x85\xe2\x80\xae`,
		"\xed\xa0\x80\ufffd": `\xed\xa0\x80` + "\ufffd",
	} {
		if got := printable([]byte(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestEscapes has one text for every way of escaping.
func TestEscapes(t *testing.T) {
	const text = "a\x1b\x7f\x9b\u009b\u2028\U000e0001\"\\\u0410"
	for how, want := range map[escape]string{
		inLine:   `a\x1b\x7f\x9b\xc2\x9b\xe2\x80\xa8\xf3\xa0\x80\x81"\` + "\u0410",
		inQuotes: `a\x1b\x7f\x9b\xc2\x9b\xe2\x80\xa8\xf3\xa0\x80\x81\"\\` + "\u0410",
		inJSON:   `a\u001b\u007f\ufffd\u009b\u2028\udb40\udc01\"\\` + "\u0410",
		inName:   `a\1B\7F\9B\C2\9B\E2\80\A8\F3\A0\80\81"\` + "\u0410",
	} {
		if got := string(appendEscaped(nil, text, how)); got != want {
			t.Errorf("%d: %s, want %s", how, got, want)
		}
	}
}

func TestAccessFormatErrors(t *testing.T) {
	for format, want := range map[string]string{
		"a %":              `"%": no name in parentheses after the percent sign`,
		"%s":               `"%s": no name in parentheses after the percent sign`,
		"%-5(h)s":          `"%-5(h)s": no name in parentheses after the percent sign`,
		"x %(h":            `"%(h": no closing parenthesis`,
		"%(h)":             `"%(h)": no conversion letter at the end`,
		"%(h)5.":           `"%(h)5.": no conversion letter at the end`,
		"%(h)d":            `"%(h)d": %d needs a number, which "h" is not`,
		"%(nothing)d":      `"%(nothing)d": %d needs a number, which "nothing" is not`,
		"%(h)y tail":       `"%(h)y tail": 'y' is no conversion`,
		"%(T)*d":           `"%(T)*d": '*' is no conversion`,
		"%(h)99999s":       `"%(h)99999s": the width is too large`,
		"%(h).99999s":      `"%(h).99999s": the width is too large`,
		"%(h)s\n%(h) \xff": `"%(h) \xff": 'ÿ' is no conversion`,
	} {
		a, err := openAccessLog("/dev/null", format)
		if a != nil || err == nil || err.Error() != "access_log_format: "+want {
			t.Errorf("%q: got %v, want %s", format, err, want)
		}
	}
}

func TestAccessAllocations(t *testing.T) {
	a, err := openAccessLog("/dev/null", defaultAccessFormat+" %(U)s %(D)s %({Host}i)s %({HTTP_HOST}e)s")
	if err != nil {
		t.Fatal(err)
	}
	e := testEntry("Host", "example.org", "User-Agent", `Mozilla/5.0 "é" \`, "Authorization", "Basic YW5uYTp4")
	for range 1000 { // let the buffer find its size
		a.record(e)
	}
	if n := testing.AllocsPerRun(2000, func() { a.record(e); a.flush() }); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func BenchmarkAccessRecord(b *testing.B) {
	a, err := openAccessLog("/dev/null", defaultAccessFormat)
	if err != nil {
		b.Fatal(err)
	}
	e := testEntry("Host", "example.org", "Accept", "*/*",
		"User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
	for b.Loop() {
		a.record(e)
	}
}

func TestAccessOff(t *testing.T) {
	a, err := openAccessLog("", "%(")
	if a != nil || err != nil {
		t.Fatal(a, err)
	}
	a.record(testEntry())
	a.flush()
	a.close()
	if a.reopen() != nil || a.recovered() != 0 {
		t.Error("a log that is off did something")
	}
}

func readLog(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLogReopen(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	a, err := openAccessLog("access", "%(m)s")
	if err != nil {
		t.Fatal(err)
	}
	l, err := openErrorLog("error", "info")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("/")
	a.record(testEntry())
	l.infof("one")
	for _, name := range []string{"/access", "/error"} {
		if err := os.Rename(dir+name, dir+name+".1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.reopen(); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	a.record(testEntry())
	a.record(testEntry())
	a.flush()
	l.infof("two")
	if got := readLog(t, dir+"/access.1"); got != "GET\n" {
		t.Errorf("old access log %q", got)
	}
	if got := readLog(t, dir+"/access"); got != "GET\nGET\n" {
		t.Errorf("new access log %q", got)
	}
	if got := readLog(t, dir+"/error.1"); !strings.HasSuffix(got, "] one\n") {
		t.Errorf("old error log %q", got)
	}
	if got := readLog(t, dir+"/error"); !strings.HasSuffix(got, "] two\n") {
		t.Errorf("new error log %q", got)
	}
	if flags, err := unix.FcntlInt(uintptr(l.out.fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x %v", flags, err)
	}
	if st, err := os.Stat(dir + "/error"); err != nil || st.Mode().Perm()&^0o644 != 0 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}

	// Where it cannot be opened again, the log stays where it was.
	if err := os.Rename(dir+"/error", dir+"/error.2"); err != nil {
		t.Fatal(err)
	}
	l.out.path = dir + "/gone/error"
	if err := l.reopen(); err == nil {
		t.Error("no error from reopen")
	}
	l.infof("three")
	if got := readLog(t, dir+"/error.2"); !strings.HasSuffix(got, "] three\n") {
		t.Errorf("error log %q", got)
	}
	a.record(testEntry())
	a.close()
	l.close()
	if got := readLog(t, dir+"/access"); got != "GET\nGET\nGET\n" {
		t.Errorf("access log after close %q", got)
	}
}

func TestErrorLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "error")
	form := regexp.MustCompile(fmt.Sprintf(
		`(?m)^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[%d\] \[([A-Z]+)\] \S`, os.Getpid()))
	for level, want := range map[string]string{
		"debug":    "DEBUG INFO WARNING ERROR CRITICAL",
		"WARNING":  "WARNING ERROR CRITICAL",
		"nonsense": "INFO WARNING ERROR CRITICAL",
		"Critical": "CRITICAL",
	} {
		l, err := openErrorLog(path, level)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
		l.debugf("%d%%", 1)
		l.infof("100%%")
		l.warningf("%s", "w")
		l.errorf("e\nTraceback:\n  x")
		l.criticalf("c")
		got := readLog(t, path)
		var levels []string
		for _, m := range form.FindAllStringSubmatch(got, -1) {
			levels = append(levels, m[1])
		}
		if strings.Join(levels, " ") != want {
			t.Errorf("level %s: %s in\n%s", level, levels, got)
		}
		if (l.level == levelDebug) != (level == "debug") {
			t.Errorf("level %s: debug is wrong", level)
		}
		if level == "debug" && !strings.Contains(got, "[ERROR] e\nTraceback:\n  x\n") {
			t.Errorf("traceback in %q", got)
		}
	}
}

func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	fifo := dir + "/fifo"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir + "/no/log": "FileNotFoundError(2, 'No such file or directory')",
		dir:             "IsADirectoryError(21, 'Is a directory')",
		"/dev/null/log": "NotADirectoryError(20, 'Not a directory')",
		fifo:            "OSError(6, 'No such device or address')",
	} {
		want = "Error: '" + path + "' isn't writable [" + want + "]"
		if _, err := openErrorLog(path, "info"); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if _, err := openAccessLog(path, ""); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestFullDisk(t *testing.T) {
	a, err := openAccessLog("/dev/full", defaultAccessFormat)
	if err != nil {
		t.Fatal(err)
	}
	const records = 10000
	for range records {
		a.record(testEntry())
	}
	a.flush()
	if len(a.buf) > accessPending+1024 || a.dropped == 0 {
		t.Errorf("%d bytes kept, %d records dropped", len(a.buf), a.dropped)
	}
	if a.recovered() != 0 {
		t.Error("a full disk counts as recovered")
	}
	a.out.path = filepath.Join(t.TempDir(), "log")
	dropped := a.dropped
	if err := a.reopen(); err != nil {
		t.Fatal(err)
	}
	a.flush()
	if got := a.recovered(); got != dropped {
		t.Errorf("%d of %d dropped records told", got, dropped)
	}
	if a.recovered() != 0 {
		t.Error("told twice")
	}
	if got := strings.Count(readLog(t, a.out.path), "\n"); got != records-dropped {
		t.Errorf("%d lines, want %d", got, records-dropped)
	}

	l, err := openErrorLog("/dev/full", "info")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		l.infof("%d", i)
	}
	l.out.path = filepath.Join(t.TempDir(), "log")
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	l.infof("more")
	l.infof("last")
	got := strings.SplitAfter(readLog(t, l.out.path), "\n")
	if len(got) != 4 || !strings.HasSuffix(got[0], "[WARNING] 3 records of this log were lost\n") ||
		!strings.HasSuffix(got[2], "[INFO] last\n") {
		t.Errorf("%q", got)
	}
}

func testPipe(t *testing.T) (r *os.File, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r = os.NewFile(uintptr(p[0]), "pipe")
	t.Cleanup(func() { r.Close() })
	return r, p[1]
}

// testPipeLog is an access log whose standard output is w.
func testPipeLog(t *testing.T, w int) *accessLog {
	t.Helper()
	out, err := openSink("-", -1, w)
	if err != nil {
		t.Fatal(err)
	}
	pieces, err := compileAccessFormat(defaultAccessFormat)
	if err != nil {
		t.Fatal(err)
	}
	return &accessLog{out: out, pieces: pieces}
}

func TestClosedPipe(t *testing.T) {
	r, w := testPipe(t)
	a := testPipeLog(t, w)
	l := &errorLog{out: a.out}
	r.Close()
	for range 5000 {
		a.record(testEntry())
	}
	l.infof("nobody hears")
	if a.dropped == 0 || l.lost.Load() != 1 {
		t.Errorf("dropped %d records, lost %d", a.dropped, l.lost.Load())
	}
}

// A reader that stalls costs records, not time; the pipe stays a blocking one
// for whoever else has it, and lines of two writers do not mix.
func TestStalledReader(t *testing.T) {
	for _, reopened := range []bool{true, false} {
		r, w := testPipe(t)
		logs := []*accessLog{testPipeLog(t, w), testPipeLog(t, w)}
		if logs[0].out.fd == w {
			t.Fatal("the pipe was not opened again")
		}
		if !reopened { // as if that had not been allowed
			logs[0].close()
			logs[1].close()
			logs = logs[:1]
			logs[0].out.fd = w
		}
		if flags, err := unix.FcntlInt(uintptr(w), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Fatalf("flags %#x %v", flags, err)
		}
		const records = 8000
		start := time.Now()
		var writers sync.WaitGroup
		for _, a := range logs {
			writers.Go(func() {
				for i := range records {
					a.record(testEntry("User-Agent", strings.Repeat("x", 1+i%300)))
					if i%10 == 0 {
						a.flush()
					}
				}
			})
		}
		writers.Wait()
		l := &errorLog{out: logs[0].out}
		for range 20 {
			l.infof("no room")
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("a stalled reader held the log up for %v", d)
		}

		lines := make(chan int)
		go func() {
			n := 0
			whole := regexp.MustCompile(`^192\.0\.2\.7 - - \[.* "GET /a%20b\?x=1 HTTP/1.1" 200 14 "-" "x+"$|\] 20 records of this log were lost$|\] room$`)
			for s := bufio.NewScanner(r); s.Scan(); {
				if !whole.Match(s.Bytes()) {
					t.Errorf("mixed line %q", s.Text())
				} else if bytes.HasPrefix(s.Bytes(), []byte("192")) {
					n++
				}
			}
			lines <- n
		}()
		dropped := 0
		for _, a := range logs {
			for len(a.buf) > 0 {
				a.flush()
				time.Sleep(time.Millisecond)
			}
			dropped += a.recovered()
		}
		if dropped == 0 {
			t.Error("nothing was dropped")
		}
		l.infof("room")
		for _, a := range logs {
			a.close()
		}
		if reopened {
			unix.Close(w)
		}
		if n := <-lines; n+dropped != records*len(logs) {
			t.Errorf("%d lines and %d dropped of %d", n, dropped, records*len(logs))
		}
	}
}

// A record larger than a pipe arrives whole when its reader is only slow.
func TestSlowReader(t *testing.T) {
	r, w := testPipe(t)
	l := &errorLog{out: testPipeLog(t, w).out}
	unix.Close(w)
	trace := strings.Repeat("  File \"x.py\", line 1\n", 10000)
	go func() {
		l.errorf("%s", trace)
		l.close()
	}()
	time.Sleep(20 * time.Millisecond)
	got, err := io.ReadAll(r)
	if err != nil || !strings.HasSuffix(string(got), trace+"\n") {
		t.Errorf("%d of %d bytes, %v", len(got), len(trace), err)
	}
}

// Whatever a client sends, and whatever the format, a record is one line, in
// which nothing of the client's is a control byte.
func FuzzAccessLog(f *testing.F) {
	for _, format := range []string{
		`%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"`, "%(m)r %(U)-9.3s|%(q)s %(H)a %(B)d", "%({x-a}i)s %({a}o)5s %({a}e)s",
		"%(T)d %(M)05d %(D)x %(L)s %(p)s %%", "%(D).3e %(a", "100%", "%(x)s%()s%(a)9999.9999s",
	} {
		f.Add(format, []byte("GET /a?b HTTP/1.1\r\nHost: x\r\nUser-Agent: \xe9\"\\\r\nX-A: \t\x80\r\nAuthorization: Basic YQo6Yg==\r\n\r\n"))
		f.Add(format, []byte("X\x00\n HTTP/1.1\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, format string, raw []byte) {
		pieces, err := compileAccessFormat(format)
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' }) {
				t.Fatalf("%q: %q", format, err)
			}
			return
		}
		for i := range pieces {
			if strings.ContainsFunc(pieces[i].literal, func(c rune) bool { return c < ' ' || 0x7f <= c && c < 0xa0 }) {
				return // the format itself has the character
			}
		}
		h := newHTTPCase()
		e := testEntry()
		e.req = &request{}
		_, n, bad := h.parsePieces(e.req, raw)
		e.parsed = bad == nil && n > 0
		e.fields = e.req.fields // as an application that echoes does
		a := &accessLog{out: sink{fd: 1}, pieces: pieces}
		for _, json := range []bool{false, true} {
			a.json = json
			a.record(e)
		}
		text, object, ok := strings.Cut(string(a.buf), "\n")
		if !ok || !strings.HasSuffix(object, "}\n") || !jsonValid(object) {
			t.Fatalf("%q: not two lines: %q", format, a.buf)
		}
		if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || 0x7f <= c && c < 0xa0 }) {
			t.Fatalf("%q: %q", format, text)
		}
		if most := len(format) + len(pieces)*(10000+64*(len(raw)+100)); len(text) > most {
			t.Fatalf("%q: %d bytes", format, len(text))
		}
	})
}

func jsonValid(line string) bool {
	return json.Valid([]byte(line)) && strings.Count(line, "\n") == 1
}

func TestAccessObject(t *testing.T) {
	a := &accessLog{json: true}
	a.object(testEntry("Host", "example.org", "User-Agent", `M "x" \`, "Cookie", "secret", "Authorization", "Basic YW5uYTp4"))
	const want = `{"time":"2026-11-22T20:15:26.000+01:30","remote_addr":"192.0.2.7","remote_user":"anna",` +
		`"method":"GET","target":"/a%20b?x=1","path":"/a b","query":"x=1","protocol":"HTTP/1.1","host":"example.org",` +
		`"status":200,"bytes":14,"duration":2.034567,"referer":null,"user_agent":"M \"x\" \\","worker":77}`
	if got := string(a.buf); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	e := testEntry()
	e.parsed, e.status, e.req = false, nil, &request{}
	a.buf = a.buf[:0]
	a.object(e)
	var v map[string]any
	if err := json.Unmarshal(a.buf, &v); err != nil || len(v) != 15 || v["status"] != nil || v["method"] != nil {
		t.Errorf("nothing known: %s: %v", a.buf, err)
	}
	// The manual has every key, in this order.
	keys := "time, remote_addr, remote_user, method, target, path, query, protocol, host, status, bytes, duration, referer, user_agent and worker,"
	at := 0
	for _, key := range strings.Split(strings.Trim(strings.ReplaceAll(keys, " and ", ", "), ","), ", ") {
		i := strings.Index(want, `"`+key+`":`)
		if i < at {
			t.Errorf("key %s is at %d", key, i)
		}
		at = i
	}
	if !strings.Contains(strings.ReplaceAll(manual, "\n", " "), keys) {
		t.Errorf("the manual does not say %q", keys)
	}
}

func TestAccessObjectAllocations(t *testing.T) {
	a, err := openAccessLog("/dev/null", "")
	if err != nil {
		t.Fatal(err)
	}
	a.json = true
	e := testEntry("Host", "é", "User-Agent", "\xff\x00𝄞\u2028", "Authorization", "Basic YW5uYTp4")
	for range 1000 { // let the buffer find its size
		a.record(e)
	}
	if n := testing.AllocsPerRun(2000, func() { a.record(e); a.flush() }); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func FuzzAppendJSON(f *testing.F) {
	for _, text := range []string{"", "a\"b\\c", "\x00\x1f\x7f\n\r\t", "ä𝄞\u2028\u0085\ufffd", "\xff\xc3", "\U000e0001"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := appendJSON(nil, text)
		var got string
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%q gives %q: %v", text, line, err)
		}
		if want := strings.ToValidUTF8(text, "\ufffd"); got != want && utf8.ValidString(text) {
			t.Errorf("%q comes back as %q", text, got)
		}
		var theirs string
		b, _ := json.Marshal(text)
		if err := json.Unmarshal(b, &theirs); err != nil || !reflect.DeepEqual(theirs, got) {
			t.Errorf("%q comes back as %q, and from encoding/json as %q", text, got, theirs)
		}
		for _, r := range string(line) {
			if r < ' ' || r == 0x7f {
				t.Errorf("%q gives %q", text, line)
			}
		}
	})
}

func TestParseSyslogAddr(t *testing.T) {
	for _, tc := range []struct {
		addr, network, host string
		port                int
		err                 string
	}{
		{"udp://localhost:514", "udp", "localhost", 514, ""},
		{"udp://LOG", "udp", "log", 514, ""},
		{"udp://", "udp", "", 514, ""},
		{"tcp://[::1]:5", "tcp", "::1", 5, ""},
		{"tcp://[::1]", "tcp", "::1", 514, ""},
		{"unix:///dev/log", "unix", "/dev/log", 0, ""},
		{"unix:///dev/log#stream", "unix", "/dev/log", 0, ""},
		{"unix:///dev/log#dgram", "unixgram", "/dev/log", 0, ""},
		{"udp://a:", "", "", 0, "'' is not a valid port number."},
		{"udp://a:1x", "", "", 0, "'1x' is not a valid port number."},
		{"udp://a:70000", "", "", 0, "'70000' is not a valid port number."},
		{"unix:/dev/log", "", "", 0, "invalid syslog address"},
		{"localhost:514", "", "", 0, "invalid syslog address"},
		{"", "", "", 0, "invalid syslog address"},
	} {
		network, host, port, err := parseSyslogAddr(tc.addr)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if network != tc.network || host != tc.host || port != tc.port || text != tc.err {
			t.Errorf("%s: %q %q %d %q", tc.addr, network, host, port, text)
		}
	}
}

// datagramSink receives datagrams on a port of the kernel's choice.
func datagramSink(t *testing.T) (to string, receive func() string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := make([]byte, 1<<16)
	return "udp " + c.LocalAddr().String(), func() string {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestStatsdRequest(t *testing.T) {
	to, receive := datagramSink(t)
	s, err := openStatsd(&config{statsdTo: to, statsdPrefix: "a", dogstatsdTags: "b:c"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for took, want := range map[time.Duration]string{
		0: "0.0", 999 * time.Nanosecond: "0.0", time.Microsecond: "0.001", 1150 * time.Microsecond: "1.15",
		time.Second: "1000.0", 61*time.Second + 20*time.Microsecond: "61000.02",
	} {
		s.request([]byte("200 OK"), took)
		got := []string{receive(), receive(), receive()}
		if want := []string{
			"a.gunicorn.request.duration:" + want + "|ms|#b:c", "a.gunicorn.requests:1|c|@1.0|#b:c",
			"a.gunicorn.request.status.200:1|c|@1.0|#b:c",
		}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestMetricsAndSyslogAllocations(t *testing.T) {
	to, _ := datagramSink(t)
	s, err := openStatsd(&config{statsdTo: to, statsdPrefix: "a", dogstatsdTags: "b:c"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := openSyslog(&config{syslog: true, syslogTo: to, syslogFacility: "user"})
	if err != nil {
		t.Fatal(err)
	}
	status, line := []byte("200 OK"), []byte(strings.Repeat("x", 100))
	for range 100 {
		s.request(status, 0)
		l.record(levelInfo, "access", line)
	}
	if n := testing.AllocsPerRun(1000, func() {
		s.request(status, time.Second)
		l.record(levelInfo, "access", line)
	}); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

// A record that is longer than a datagram can be is cut, and one that is longer
// than the queue of a stream does not get in.
func TestSyslogLong(t *testing.T) {
	to, receive := datagramSink(t)
	long := strings.Repeat("x", syslogPending)
	l, err := openSyslog(&config{syslog: true, syslogTo: to, syslogFacility: "user"})
	if err != nil {
		t.Fatal(err)
	}
	l.record(levelInfo, "error", []byte(long))
	if got := receive(); len(got) != datagramMax {
		t.Errorf("%d bytes", len(got))
	}
	var said []string
	l, err = openSyslog(&config{syslog: true, syslogTo: "tcp 127.0.0.1:1", syslogAddr: "S", syslogFacility: "user"})
	if err != nil {
		t.Fatal(err)
	}
	l.report = func(_ string, args ...any) { said = append(said, args[0].(string)) }
	l.record(levelInfo, "error", []byte(long))
	l.record(levelInfo, "error", []byte(long))
	if want := []string{"syslog S: it does not take them; records for it may be lost"}; !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
	l.close()
}

// System ----------------------------------------------------------------------

// fakeRoot makes files, and their directories, below a directory of its own.
func fakeRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	mountTwo    = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountCPU    = "34 25 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
	mountMemory = "35 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)

func TestQuotaCPUs(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int
	}{
		"nothing is mounted": {map[string]string{"proc/self/cgroup": "0::/\n"}, 0},
		"no limit": {map[string]string{
			"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": mountTwo,
			"sys/fs/cgroup/app/cpu.max": "max 100000\n"}, 0},
		"a part of a CPU": {map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mountTwo,
			"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1},
		"one and a half": {map[string]string{
			"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": mountTwo,
			"sys/fs/cgroup/app/cpu.max": "150000 100000\n"}, 2},
		"less above": {map[string]string{
			"proc/self/cgroup": "0::/shop.slice/app\n", "proc/self/mountinfo": mountTwo,
			"sys/fs/cgroup/shop.slice/app/cpu.max": "800000 100000\n",
			"sys/fs/cgroup/shop.slice/cpu.max":     "300000 100000\n"}, 3},
		"version 1 in a container": {map[string]string{
			"proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n0::/\n", "proc/self/mountinfo": mountCPU,
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":  "200000\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2},
		"version 1 without a limit": {map[string]string{
			"proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n", "proc/self/mountinfo": mountCPU,
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":  "-1\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 0},
	} {
		if got := quotaCPUs(fakeRoot(t, c.files)); got != c.want {
			t.Errorf("%s: %d, not %d", name, got, c.want)
		}
	}
	if n := usableCPUs(); n < 1 {
		t.Errorf("usable CPUs: %d", n)
	}
}

// TestMemoryWatch has each of the ways in which the kernel may count, and one
// in which it does not.
func TestMemoryWatch(t *testing.T) {
	const killed = unix.WaitStatus(unix.SIGKILL)
	for name, files := range map[string]map[string]string{
		"sys/fs/cgroup/app/memory.events":             {"proc/self/cgroup": "0::/app\n", "proc/self/mountinfo": mountTwo},
		"sys/fs/cgroup/memory/app/memory.oom_control": {"proc/self/cgroup": "3:memory:/app\n0::/\n", "proc/self/mountinfo": mountMemory},
	} {
		files[name] = "low 0\noom 2\noom_kill 2\n"
		root := fakeRoot(t, files)
		m := watchMemory(root)
		if text, memory := m.death(killed); memory || text != "was sent SIGKILL!" {
			t.Errorf("%s: %q, %v", name, text, memory)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte("low 0\noom 3\noom_kill 3\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		m.look() // between the count and the end
		if text, memory := m.death(killed); !memory || text != "was sent SIGKILL! It was out of memory." {
			t.Errorf("%s: %q, %v", name, text, memory)
		}
		if _, memory := m.death(unix.WaitStatus(unix.SIGSEGV)); memory {
			t.Errorf("%s: a segmentation fault is none", name)
		}
		m.look()
		if _, memory := m.death(killed); memory {
			t.Errorf("%s: a kill long after", name)
		}
	}
	m := watchMemory(fakeRoot(t, nil))
	m.look()
	if text, memory := m.death(killed); memory || text != "was sent SIGKILL! Perhaps out of memory?" {
		t.Errorf("nothing is known: %q, %v", text, memory)
	}
}

// A process that is anything but what it should be says so.
func TestCheckCredential(t *testing.T) {
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	own := syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
	for _, g := range groups {
		own.Groups = append(own.Groups, uint32(g))
	}
	if err := checkCredential(&own); err != nil {
		t.Error(err)
	}
	for _, change := range []func(c *syscall.Credential){
		func(c *syscall.Credential) { c.Uid++ },
		func(c *syscall.Credential) { c.Gid++ },
		func(c *syscall.Credential) { c.Groups = nil },
	} {
		c := own
		change(&c)
		if err := checkCredential(&c); err == nil && (c.Groups != nil || groups != nil) {
			t.Errorf("%+v passes for %+v", own, c)
		}
	}
	back := credentialFrom(credentialList(&own))
	if back.Uid != own.Uid || back.Gid != own.Gid || !slices.Equal(back.Groups, own.Groups) {
		t.Errorf("%+v became %+v", own, *back)
	}
}

// What Python's glob.glob(pattern, recursive=True) lists, sorted.
func TestExpand(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.py", "b.py", ".hidden.py", "x/a.py", "x/y/a.py", ".git/a.py", "[b]", `c\d`, "e-f", "g^h", "]"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(".", filepath.Join(dir, "x", "loop")); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]string{
		"*.py":        "a.py b.py",
		"?.py":        "a.py b.py",
		".*.py":       ".hidden.py",
		"[!a].py":     "b.py",
		"[a-b].py":    "a.py b.py",
		"[a-].py":     "a.py",
		"[]a].py":     "a.py",
		"[]]":         "]",
		"[[]b]":       "[b]",
		"[b":          "",
		`c\*`:         `c\d`,
		`c[\]d`:       `c\d`,
		"e[-x]f":      "e-f",
		"g[^]h":       "g^h",
		"g[!x]h":      "g^h",
		"*/a.py":      "x/a.py",
		"**/a.py":     "a.py x/a.py x/y/a.py",
		"x/**":        "x x/a.py x/loop x/y x/y/a.py",
		"x/**/y/*":    "x/y/a.py",
		"**/*.html":   "",
		"none/*":      "",
		"x/../*.py":   "a.py b.py",
		"a.py/*":      "",
		"**/.git/*":   ".git/a.py",
		"**.py":       "a.py b.py",
		"x/*/a.py":    "x/loop/a.py x/y/a.py",
		"**/y":        "x/y",
		"x/y/[a]*.p?": "x/y/a.py",
	} {
		t.Run(strings.ReplaceAll(pattern, "/", "_"), func(t *testing.T) {
			var got []string
			for _, path := range expand(filepath.Join(dir, pattern)) {
				got = append(got, strings.TrimPrefix(path, dir+"/"))
			}
			slices.Sort(got)
			if text := strings.Join(got, " "); text != want {
				t.Errorf("got %q, want %q", text, want)
			}
		})
	}
}

// TestCiphers reads lists as OpenSSL does, as far as our suites go.
func TestCiphers(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed; it is in the Debian package openssl")
	}
	lists := []string{
		"ALL", "DEFAULT", "HIGH:!aNULL:!MD5", "ECDHE+AESGCM", "EECDH+AESGCM:EDH+AESGCM:AES256+EECDH", "ECDHE+CHACHA20:ECDHE+AES256",
		"HIGH:!aRSA", "HIGH:-aRSA:aRSA+AES128", "ALL:!AESGCM", "ALL:!CHACHA20:@STRENGTH", "ECDHE-RSA-AES128-GCM-SHA256",
		"kECDHE:!AES256", "aECDSA", "aRSA:!AES", "TLSv1.2", "AES128:AES256:RSA", "HIGH:+AES128", "ALL:-ALL:AESGCM+aECDSA",
		"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" +
			"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384",
		"ECDH+AESGCM:DH+AESGCM:ECDH+AES256:DH+AES256:ECDH+AES128:DH+AES:RSA+AESGCM:RSA+AES:!aNULL:!MD5:!DSS",
		"ECDHE-RSA-AES256-SHA,ECDHE-RSA-AES256-GCM-SHA384 AES128-SHA",
	}
	for _, list := range lists {
		out, err := exec.Command("openssl", "ciphers", "-s", "-tls1_2", list).Output()
		if err != nil {
			t.Fatalf("openssl ciphers %s: %v", list, err)
		}
		var want, got []string
		for _, name := range strings.Split(strings.TrimSpace(string(out)), ":") {
			if slices.ContainsFunc(suites, func(s suite) bool { return s.name == name }) {
				want = append(want, name)
			}
		}
		ids, err := selectSuites(list)
		for _, id := range ids {
			got = append(got, cipherName(id))
		}
		slices.Sort(want)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v\nOpenSSL has %v", list, got, err, want)
		}
	}
	for list, want := range map[string]string{
		"nonsense":               `gunicorn: ciphers: "nonsense" is no word of a list of ciphers` + "\n",
		"HIGH:ECDHE+nonsense":    `gunicorn: ciphers: "nonsense" is no word of a list of ciphers` + "\n",
		"!":                      `gunicorn: ciphers: "" is no word of a list of ciphers` + "\n",
		"TLSv1":                  `gunicorn: ciphers: "TLSv1" leaves no cipher; those for TLS 1.2 are ` + suiteNames() + "\n",
		"ALL:!ECDHE":             `gunicorn: ciphers: "ALL:!ECDHE" leaves no cipher; those for TLS 1.2 are ` + suiteNames() + "\n",
		"TLS_AES_128_GCM_SHA256": `gunicorn: ciphers: "TLS_AES_128_GCM_SHA256" leaves no cipher; those for TLS 1.2 are ` + suiteNames() + "\n",
		":":                      `gunicorn: ciphers: ":" leaves no cipher; those for TLS 1.2 are ` + suiteNames() + "\n",
	} {
		if ids, err := selectSuites(list); err == nil || err.Error() != want {
			t.Errorf("%s: %v, %v", list, ids, err)
		}
	}
	// Every suite that OpenSSL knows has a name that is understood.
	out, err := exec.Command("openssl", "ciphers", "ALL:COMPLEMENTOFALL").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split(strings.TrimSpace(string(out)), ":") {
		if _, err := suitesOf(name); err != nil {
			t.Error(err)
		}
	}
}

// TestVaultChanges: a worker that boots while the arbiter publishes a keyring gets
// one.
func TestVaultChanges(t *testing.T) {
	v := &vault{cfg: &config{}, ring: &keyring{cert: []byte("a certificate"), key: make([]byte, 1<<15)}}
	var err error
	if v.fd, err = memfd("certificates", nil); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(v.fd)
	if err := v.publish(); err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = v.publish()
			}
		}
	}()
	for range 100000 {
		if k, number, err := readVault(v.fd, 0); k == nil || err != nil || number == 0 {
			t.Errorf("keyring %v, number %d, %v", k, number, err)
			break
		}
	}
	close(stop)
	<-ended
}

func TestHeldLimit(t *testing.T) {
	two := func(own, above string) map[string]string {
		return map[string]string{"proc/self/cgroup": "0::/shop.slice/app\n", "proc/self/mountinfo": mountTwo,
			"sys/fs/cgroup/shop.slice/app/memory.max": own, "sys/fs/cgroup/shop.slice/memory.max": above}
	}
	one := func(limit string) map[string]string {
		return map[string]string{"proc/self/cgroup": "3:memory:/app\n0::/\n", "proc/self/mountinfo": mountMemory,
			"sys/fs/cgroup/memory/app/memory.limit_in_bytes": limit}
	}
	for name, c := range map[string]struct {
		files   map[string]string
		workers int
		want    int // MB
	}{
		"nothing is mounted":  {nil, 1, 128},
		"no limit":            {two("max\n", "max\n"), 1, 128},
		"a small container":   {two("268435456\n", "max\n"), 1, 64},
		"of several workers":  {two("268435456\n", "max\n"), 4, 16},
		"no worker":           {two("268435456\n", "max\n"), 0, 64},
		"less above":          {two("1073741824\n", "134217728\n"), 1, 32},
		"a large one":         {two("68719476736\n", "max\n"), 8, 128},
		"next to nothing":     {two("4096\n", "max\n"), 8, 4},
		"version 1":           {one("268435456\n"), 1, 64},
		"version 1, no limit": {one("9223372036854771712\n"), 1, 128},
	} {
		if got := heldLimit(fakeRoot(t, c.files), c.workers); got != c.want<<20 {
			t.Errorf("%s: %d bytes, not %d MB", name, got, c.want)
		}
	}
}

// The spool -------------------------------------------------------------------

// TestSpoolFiles: a file of the spool has no name and keeps what is written.
func TestSpoolFiles(t *testing.T) {
	dir := t.TempDir()
	fd, err := openSpoolFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b := make([]byte, 4)
	if _, err := unix.Pwrite(fd, []byte("text"), 0); err != nil {
		t.Error(err)
	}
	if n, err := unix.Pread(fd, b, 0); string(b[:n]) != "text" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
	if _, err := openSpoolFile(dir + "/none"); err != unix.ENOENT {
		t.Errorf("no directory: %v", err)
	}
	if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

// TestRightsOfWorkers looks at a directory of root's with the rights of workers that run as
// another user.
func TestRightsOfWorkers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	dir := t.TempDir()
	make := func() error {
		fd, err := openSpoolFile(dir)
		unix.Close(fd)
		return err
	}
	group := &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{65534, 12345}}
	for _, c := range []struct {
		mode os.FileMode
		gid  int
		cred *syscall.Credential
		want error
	}{
		{0o700, 0, nil, nil},
		{0o700, 0, group, unix.EACCES},
		{0o770, 0, group, unix.EACCES},
		{0o770, 12345, group, nil},
		{0o777, 0, group, nil},
	} {
		if err := os.Chown(dir, 0, c.gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, c.mode); err != nil {
			t.Fatal(err)
		}
		// Above it nobody else may look.
		if err := os.Chmod(dir+"/..", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := withRightsOf(c.cred, make); err != c.want && !(c.want != nil && err != nil && err.Error() == c.want.Error()) {
			t.Errorf("mode %v, group %d, %v: %v, want %v", c.mode, c.gid, c.cred, err, c.want)
		}
		if err := make(); err != nil {
			t.Errorf("as root again: %v", err)
		}
	}
}

// The arbiter -----------------------------------------------------------------

// testChild is a worker that is a process which does nothing.
func testChild(t *testing.T, a *arbiter, age int) *child {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	w := &child{pid: cmd.Process.Pid, age: age, slot: &slot{}, started: monotonic(), heardAt: monotonic()}
	a.workers[w.pid] = w
	return w
}

func testArbiter(t *testing.T) *arbiter {
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(null) })
	return &arbiter{generation: &generation{cfg: &config{timeout: time.Second}, log: newErrorLog(sink{fd: null, file: true}, "info")},
		workers: map[int]*child{}, target: 1, awake: monotonic()}
}

// A worker lives by its heartbeats, not by what they say.
func TestMurder(t *testing.T) {
	a := testArbiter(t)
	quiet, future, lively := testChild(t, a, 1), testChild(t, a, 2), testChild(t, a, 3)
	future.slot.heartbeat.Store(1 << 62)
	a.murder()
	long := int64(a.cfg.timeout + silence + time.Second)
	for _, w := range a.workers {
		w.heardAt -= long
	}
	lively.slot.heartbeat.Store(-1)
	a.murder()
	if !quiet.aborted || !future.aborted || lively.aborted {
		t.Errorf("silent: %v, in the future: %v, alive: %v", quiet.aborted, future.aborted, lively.aborted)
	}
}

// When the arbiter has not run for long, it does not know that others have not.
func TestMurderAfterPause(t *testing.T) {
	defer paused.Store(paused.Load())
	a := testArbiter(t)
	w := testChild(t, a, 1)
	a.murder()
	a.awake -= int64(time.Hour)
	w.heardAt -= int64(time.Hour)
	before := monotonic()
	a.murder()
	if w.aborted {
		t.Error("killed after a pause")
	}
	if gone := before - monotonic(); gone < int64(time.Hour-2*time.Second) {
		t.Errorf("the clock leaves out %v", time.Duration(gone))
	}
}

// Workers that say that they leave, and stay, are bounded.
func TestLimitLeavers(t *testing.T) {
	a := testArbiter(t)
	first := testChild(t, a, 1)
	for age := 2; age <= a.target+leaversMax; age++ {
		a.workers[-age] = &child{pid: 1<<30 + age, age: age, slot: &slot{}, left: true}
	}
	a.limitLeavers()
	if first.killed {
		t.Fatal("killed while there was room")
	}
	first.left = true
	a.limitLeavers()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(first.pid, &status, 0, nil); err != nil || status.Signal() != syscall.SIGKILL || !first.killed {
		t.Errorf("the oldest: %v, %v", status, err)
	}
}

// Whoever has the pages of workers can neither shorten them nor keep the arbiter
// from adding one.
func TestScoreboardHostile(t *testing.T) {
	s, err := newScoreboard()
	if err != nil {
		t.Fatal(err)
	}
	l, fd, err := s.take(1)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s.hold(l)
	if err := unix.Ftruncate(fd, 0); err != unix.EPERM {
		t.Errorf("to shorten the pages: %v", err)
	}
	if err := unix.Ftruncate(fd, 1<<30); err != nil {
		t.Fatal(err)
	}
	l.pid.Store(0) // as if it were nobody's
	l.runningSize.Store(1 << 60)
	l.begun.Store(1)
	copy(l.running[:], "\x1b[2Jx")
	if text := l.runningText(); len(text) > 4*runningMax || text[0] == '\x1b' {
		t.Errorf("running %.20q", text)
	}
	other, fd2, err := s.take(2)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd2)
	if other == l {
		t.Error("two workers have one page")
	}
	r, err := readScoreboard(s.fd, s.pages)
	if err != nil || len(r.workers) != 0 {
		t.Errorf("%v, %v", r, err)
	}
}

// TestSlack asks when a worker sleeps through events: only while nobody loses by it.
func TestSlack(t *testing.T) {
	for _, test := range []struct {
		name   string
		want   time.Duration
		change func(p *python, q *queueLane)
	}{
		{"sixteen calls of 100 µs", napMax, func(*python, *queueLane) {}},
		{"one call", 0, func(_ *python, q *queueLane) { q.flight = q.flight[:1] }},
		{"calls so short that answers gather", 0, func(p *python, _ *queueLane) { p.pace = 30_000 }},
		{"another thread is free", 0, func(p *python, _ *queueLane) { p.most, p.pace = 4, int64(brief) }},
		{"a long response before", 0, func(_ *python, q *queueLane) { q.long = true }},
		{"a response that has begun", 0, func(_ *python, q *queueLane) { q.flight[0].started = true }},
		{"a body that is owed", 0, func(_ *python, q *queueLane) { q.flight[3].owed = owesBody }},
		{"an oldest request of 400 µs", 40 * time.Microsecond, func(_ *python, q *queueLane) { q.flight[0].since = 9_600_000 }},
	} {
		p := &python{most: 1, pace: 100_000}
		q := &queueLane{lane: &lane{python: p}}
		for range 16 {
			q.flight = append(q.flight, &turn{since: 1_000_000, supply: supply{owed: owesNothing}})
		}
		test.change(p, q)
		if got := q.slack(10_000_000); got != test.want {
			t.Errorf("%s: a nap of %v, want %v", test.name, got, test.want)
		}
	}
}
