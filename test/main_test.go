// Package test has the tests that know nothing of the source: TestMain builds the
// real binary, and TestScripts drives it by testdata/script/NAME.txt. A script is
// lines of commands, then files as `-- NAME --` and their text, which are put into
// a fresh directory, the server's working directory. A blank separates words; '...' quotes one. Text
// to send or to compare has Go's escapes (\r \n \xNN) and may be repeated:
// 'ab'*1000. A word written ~'...' is a regular expression (multi-line mode).
// $ADDR $PORT $PID $DIR $PYTHON $GUNICORN stand for what their names say, and
// $WORKER for the pid of the oldest worker. A copy of the program at
// $DIR/gunicorn is run in its place.
//
//	differs: REASON        first line: not run against the reference
//	env K=V                for what is started after it
//	inherit                opens a listener that the next start gets as fd 3
//	start ARGS...          starts the server on a port of the kernel's choice
//	                       and waits until it listens and has a worker
//	start! ARGS...         starts it with just these arguments, waits for nothing
//	program ARGS...        starts Python with the package of the wheel installed, and waits
//	                       as start does; program! does not wait
//	run ARGS...            runs the program to its end; exit, stdout and stderr are
//	                       about it until the next start or signal
//	sink NAME KIND         receives what is sent to $NAME and keeps it in the file NAME:
//	                       udp and unixgram as lines, tcp, unix; stalled reads nothing
//	unsink NAME            stops that; opened again it has the same address
//	adopt FILE             the server is now the daemon whose number is in FILE
//	listener N             further connections go to the Nth address (from 1)
//	conn [NAME]            goes on with another connection, opened by its first send
//	send TEXT...           sends text
//	close, shut, reset     closes; closes the sending half; closes with RST
//	reply [HEAD] STATUS [BODY]  reads a whole response: BODY is TEXT... or ~RE
//	head STATUS            reads a response's head alone
//	body ~RE, !body ~RE    looks at the last response's body again
//	header NAME VALUE      a header field of the last response: text or ~RE
//	!header NAME           it has no such field
//	fields ~RE, !fields ~RE     the last response's head as it came
//	raw TEXT               the next bytes are these
//	rest ~RE               everything until the server closes matches
//	closed                 the server closes, and nothing more was to be read
//	get PATH STATUS [BODY] one request on a connection of its own
//	wait log|stdout RE     waits for it in the error log or standard output
//	log RE, !log RE        it is, is not in the error log by now
//	count N RE             it is there N times
//	stdout RE, stderr RE   the same for standard output and error (also with !)
//	workers N              waits until there are N workers, each with its Python
//	pid-changed worker|python   waits until as many as then have replaced them all
//	pid-same worker|python      they are the same still
//	signal NAME [arbiter|worker|python]   to the arbiter or to the first of those
//	kill -9 WHO            is signal KILL WHO
//	exit N                 waits for the end of the run or server and its status
//	file NAME RE           waits until the file is there and matches
//	nofile NAME            waits until it is not there
//	sh COMMAND             a shell command, to be successful; its Pythons find the
//	                       modules of testdata/lib
//	expect-error RE        asks for ERROR and CRITICAL lines, or for a Traceback, that
//	                       would be failures
//
// Every wait ends with its condition or, as a failure, after waitLimit. When a
// script ends, a server that still runs must end by TERM with status 0, and
// must have left no process, socket, pid file or unasked error.
//
// With GUNICORN_REFERENCE naming a Python Gunicorn the same scripts run
// against that.
package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waitLimit bounds every single wait.
const waitLimit = 10 * time.Second

var (
	testBinary string // the program under test
	reference  bool   // the program under test is a Python Gunicorn
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests spend most of their time on waiting, so more run at once than there are processors.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0)))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if testBinary = os.Getenv("GUNICORN_REFERENCE"); testBinary != "" {
		reference = true
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "gunicorn-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	testBinary = filepath.Join(dir, "gunicorn")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-w", "-o", testBinary, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
		return 1
	}
	return m.Run()
}

// TestScripts runs every script, or those that -run 'TestScripts/NAME' names.
func TestScripts(t *testing.T) {
	names, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	t.Parallel()
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, name, nil)
		})
	}
}

// A Python to run applications with.

var pythonOnce = sync.OnceValues(makePython)

// testPython returns the python3 of a virtualenv that has what
// testdata/requirements.txt asks for. It is made once for each content of that
// file and kept in the user's cache directory. GUNICORN_PYTHON names another
// Python, for scripts that need none of that.
func testPython(t testing.TB) string {
	t.Helper()
	python, err := pythonOnce()
	if err != nil {
		t.Fatal(err)
	}
	return python
}

func makePython() (string, error) {
	if python := os.Getenv("GUNICORN_PYTHON"); python != "" {
		return python, nil
	}
	wanted, err := os.ReadFile("testdata/requirements.txt")
	if err != nil {
		return "", err
	}
	return makeVenv(wanted)
}

// makeVenv makes a virtualenv with what wanted asks for, in the form of requirements.txt.
func makeVenv(wanted []byte) (string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable, sys.version)").Output()
	if err != nil {
		return "", fmt.Errorf("python3: %w", err)
	}
	base, _, _ := strings.Cut(string(out), " ")
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(slices.Concat(out, wanted))
	dir := filepath.Join(cache, "gunicorn-test", fmt.Sprintf("%x", hash[:8]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	// Test processes of several packages or trees may come here at one time.
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("%s: %w", lock.Name(), err)
	}
	python := filepath.Join(dir, "bin", "python3")
	complete := filepath.Join(dir, "complete")
	if _, err := os.Stat(complete); err == nil {
		return python, nil
	}
	for _, args := range [][]string{
		{base, "-m", "venv", "--clear", dir},
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "/dev/stdin"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin = bytes.NewReader(wanted)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("the tests' virtualenv: %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return python, os.WriteFile(complete, nil, 0o644)
}

// Processes, as /proc shows them.

type process struct {
	pid, ppid int
	title     string // argv[0]
	args      string
}

// processes lists what runs in dir's name: its environment has HOME=dir, which
// every process of the tests gets and passes on. Zombies are not listed.
func processes(dir string) []process {
	mark := []byte("HOME=" + dir + "\x00")
	entries, _ := os.ReadDir("/proc")
	var list []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !bytes.Contains(environ, mark) {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if rest[0] == "Z" || rest[0] == "X" {
			continue
		}
		ppid, _ := strconv.Atoi(rest[1])
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		title, _, _ := bytes.Cut(cmdline, []byte{0})
		args := strings.ReplaceAll(string(cmdline), "\x00", " ")
		list = append(list, process{pid, ppid, string(title), args})
	}
	return list
}

// poll waits until done says so.
func poll(limit time.Duration, done func() bool) bool {
	for end := time.Now().Add(limit); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// compile makes sense of a regular expression of a test.
func compile(t testing.TB, re string) *regexp.Regexp {
	t.Helper()
	r, err := regexp.Compile("(?m)" + re)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The server under test.

type server struct {
	addr   string // of its first listener: HOST:PORT or unix:PATH
	url    string // http://HOST:PORT, for TCP
	secure bool   // https
	pid    int    // of the arbiter

	t         testing.TB
	dir       string
	cmd       *exec.Cmd
	listeners []string
	files     [2]string // standard output and error
	errorlog  string    // file named by the arguments, if any
	ended     chan struct{}
	expected  []*regexp.Regexp // errors that are asked for
	killed    bool             // the test took the arbiter's chance to tidy up
}

// startServer starts the program in dir, on a port of the kernel's choice
// unless args have -b, and waits until it listens and has a worker. When the
// test ends it must stop by TERM and leave nothing behind.
func startServer(t testing.TB, dir string, args ...string) *server {
	t.Helper()
	s := launch(t, dir, nil, nil, withBind(args)...)
	t.Cleanup(s.finish)
	s.waitBooted()
	return s
}

// withBind adds an address to arguments that name none.
func withBind(args []string) []string {
	for _, a := range args {
		if strings.HasPrefix(a, "-b") || strings.HasPrefix(a, "--bind") {
			return args
		}
	}
	return append([]string{"-b", "127.0.0.1:0"}, args...)
}

// launch starts the program in dir. Files become its descriptors from 3 on.
func launch(t testing.TB, dir string, env []string, files []*os.File, args ...string) *server {
	t.Helper()
	if !reference {
		args = append([]string{"--python", testPython(t)}, args...)
	}
	return launchCommand(t, underTest(t, dir, env, args...), files)
}

// launchCommand starts what underTest or program has made.
func launchCommand(t testing.TB, cmd *exec.Cmd, files []*os.File) *server {
	t.Helper()
	s := &server{t: t, dir: cmd.Dir, cmd: cmd, ended: make(chan struct{})}
	dir, env := cmd.Dir, cmd.Env
	if slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "LISTEN_FDS=") }) {
		// LISTEN_PID is for the process itself to be, so a shell has to help.
		s.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, s.cmd.Args...)
		s.cmd.Path = "/bin/sh"
	}
	s.cmd.ExtraFiles = files
	for i := range s.cmd.Args {
		switch name, value, _ := strings.Cut(s.cmd.Args[i], "="); name {
		case "--error-logfile", "--log-file":
			if value == "" && i+1 < len(s.cmd.Args) {
				value = s.cmd.Args[i+1]
			}
			if value != "-" {
				s.errorlog = filepath.Join(dir, value)
			}
		}
	}
	out := t.TempDir()
	for i, name := range []string{"stdout", "stderr"} {
		s.files[i] = filepath.Join(out, name)
		f, err := os.Create(s.files[i])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if i == 0 {
			s.cmd.Stdout = f
		} else {
			s.cmd.Stderr = f
		}
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = s.cmd.Process.Pid
	go func() {
		s.cmd.Wait()
		close(s.ended)
	}()
	return s
}

// underTest is the program with the surroundings every test has.
func underTest(t testing.TB, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	if reference { // which would make a socket of a kind that we have not
		args = append([]string{"--no-control-socket"}, args...)
	}
	binary := testBinary
	if own := filepath.Join(dir, "gunicorn"); !reference && readAll(own) != "" {
		binary = own // a copy that a test may replace
	}
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	cmd.Env = slices.Concat(environment(t, dir), env)
	return cmd
}

// program is Python with these arguments and the package gunicorn: the wheel's, or that of the
// reference.
func program(t testing.TB, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	python := filepath.Join(filepath.Dir(testBinary), "python")
	own := environment(t, dir)
	if !reference {
		lib, err := installed()
		if err != nil {
			t.Fatal(err)
		}
		python = testPython(t)
		own = append(own, "PYTHONPATH="+lib)
	}
	cmd := exec.Command(python, args...)
	cmd.Dir, cmd.Env = dir, slices.Concat(own, env)
	return cmd
}

// installed is the directory into which pip has put a wheel with the program under test.
var installed = sync.OnceValues(func() (string, error) {
	python, err := pythonOnce()
	if err != nil {
		return "", err
	}
	lib := filepath.Join(filepath.Dir(testBinary), "lib")
	cmd := exec.Command("sh", "-ec", `mkdir "$3" "$3"/out
"$0" -c 'import importlib.machinery as m, sys
build = m.SourceFileLoader("build", "../dist/build").load_module()
build.OUT = sys.argv[2] + "/out"
build.wheel("any", build.read(sys.argv[1]), build.version(), 0)' "$1" "$3"
"$0" -m pip install --quiet --disable-pip-version-check --no-index --target "$2" "$3"/out/*.whl`, python, testBinary, lib, lib+".wheel")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("the package of the wheel: %w\n%s", err, out)
	}
	return lib, err
})

// environment leaves out whatever could change what a server does.
func environment(t testing.TB, dir string) []string {
	t.Helper()
	path := os.Getenv("PATH")
	if !reference {
		path = filepath.Dir(testPython(t)) + ":" + path
	}
	return []string{
		"HOME=" + dir,
		"LANG=C.UTF-8",
		"PATH=" + path,
		"PYTHONDONTWRITEBYTECODE=1", // a reload within a second must see new source
		"TZ=UTC",
	}
}

func (s *server) stdout() string { return readAll(s.files[0]) }

// log is standard error, and the error log if that is a file.
func (s *server) log() string {
	text := readAll(s.files[1])
	if s.errorlog != "" {
		text += readAll(s.errorlog)
	}
	return text
}

// readAll is a file's text, nothing if there is no such file.
func readAll(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

func (s *server) waitLog(re string) {
	s.t.Helper()
	s.waitText("the log", re, s.log)
}

func (s *server) waitText(what, re string, text func() string) {
	s.t.Helper()
	r := compile(s.t, re)
	if !poll(waitLimit, func() bool { return r.MatchString(text()) }) {
		s.t.Fatalf("%s never had %q", what, re)
	}
}

var listening = regexp.MustCompile(`(?m)Listening at: (\S*) \(\d+\)$`)

// waitBooted waits until the server listens and has begun a worker.
func (s *server) waitBooted() {
	s.t.Helper()
	s.waitListening()
	s.waitLog(`Booting worker with pid`)
}

// waitListening learns the server's addresses from its log.
func (s *server) waitListening() {
	s.t.Helper()
	var m []string
	ok := poll(waitLimit, func() bool {
		ended := s.hasEnded() // before the look, so as not to miss the last lines
		m = listening.FindStringSubmatch(s.log())
		return m != nil || ended
	})
	if !ok || m == nil {
		s.t.Fatal("the server does not listen")
	}
	s.listeners = strings.Split(m[1], ",")
	for i, l := range s.listeners {
		name, ok := strings.CutPrefix(l, "https://")
		s.secure = s.secure || ok
		s.listeners[i] = strings.TrimPrefix(name, "http://")
	}
	s.addr = s.listeners[0]
	s.url = "http://" + s.addr
	if s.secure {
		s.url = "https://" + s.addr
	}
}

// dial connects to the server's nth address, from 1, by TLS if it speaks that.
func (s *server) dial(n int) net.Conn {
	s.t.Helper()
	c := s.dialPlain(n)
	if s.secure {
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	return c
}

func (s *server) dialPlain(n int) net.Conn {
	s.t.Helper()
	if s.addr == "" {
		s.waitListening()
	}
	if n > len(s.listeners) {
		s.t.Fatalf("listener %d: there are only %q", n, s.listeners)
	}
	network, addr := "tcp", s.listeners[n-1]
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
		if !filepath.IsAbs(path) {
			addr = filepath.Join(s.dir, path)
		}
	}
	c, err := net.DialTimeout(network, addr, waitLimit)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// family lists the pids of the workers, oldest first, and of the Pythons that
// run the application, both from one look at the processes.
func (s *server) family() (workers, pythons []int) {
	all := processes(s.dir)
	// A template, a child of the arbiter too, is the parent of the Pythons that it has
	// forked. A new arbiter is the parent of its workers, and nothing is asked of it here.
	var parents []int
	for _, p := range all {
		switch {
		case p.ppid != s.pid:
		case reference || strings.HasPrefix(p.title, "gunicorn: worker ["):
			workers = append(workers, p.pid)
			parents = append(parents, p.pid)
		case filepath.Base(p.title) != "gunicorn":
			parents = append(parents, p.pid)
		}
	}
	if reference {
		return workers, workers
	}
	for _, p := range all {
		if slices.Contains(parents, p.ppid) {
			pythons = append(pythons, p.pid)
		}
	}
	return workers, pythons
}

func (s *server) workers() []int {
	workers, _ := s.family()
	return workers
}

func (s *server) python() []int {
	_, pythons := s.family()
	return pythons
}

// waitWorkers waits until there are n workers, each with its Python.
func (s *server) waitWorkers(n int) (workers, pythons []int) {
	s.t.Helper()
	if !poll(waitLimit, func() bool {
		workers, pythons = s.family()
		return len(workers) == n && len(pythons) == n
	}) {
		s.t.Fatalf("there are %d workers and %d Pythons, not %d", len(workers), len(pythons), n)
	}
	return workers, pythons
}

// waitReplaced waits until none of the old processes are left and as many as
// they were, listed by list, are there in their place.
func (s *server) waitReplaced(old []int, list func() []int) {
	s.t.Helper()
	var now []int
	if !poll(waitLimit, func() bool {
		now = list()
		return len(now) == len(old) && !slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(old, pid) })
	}) {
		s.t.Fatalf("processes: were %v, are %v", old, now)
	}
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.killed = s.killed || sig == syscall.SIGKILL
	if err := syscall.Kill(s.pid, sig); err != nil {
		s.t.Fatalf("%v to the arbiter: %v", sig, err)
	}
}

// adopt goes on with the daemon that the file names. Its status, which nobody
// learns, counts as that of what started it.
func (s *server) adopt(pidfile string) {
	s.t.Helper()
	var err error
	if !poll(waitLimit, func() bool {
		s.pid, err = strconv.Atoi(strings.TrimSpace(readAll(pidfile)))
		return err == nil
	}) {
		s.t.Fatalf("%s: no number of a process", pidfile)
	}
	pid, ended := s.pid, make(chan struct{})
	s.ended = ended
	go func() {
		for slices.ContainsFunc(processes(s.dir), func(p process) bool { return p.pid == pid }) {
			time.Sleep(20 * time.Millisecond)
		}
		close(ended)
	}()
}

func (s *server) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// wait waits for the arbiter's end: its exit status, or minus the signal.
func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(waitLimit):
		s.t.Fatal("the server does not end")
	}
	return statusOf(s.cmd.ProcessState)
}

func statusOf(state *os.ProcessState) int {
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return -int(ws.Signal())
	}
	return state.ExitCode()
}

var (
	errorLine = regexp.MustCompile(`(?m)^\[[^]]*\] \[\d+\] \[(ERROR|CRITICAL)\] .*$`)
	traceback = regexp.MustCompile(`(?m)^Traceback \(most recent call last\)`)
	goCrash   = regexp.MustCompile(`(?m)^(panic|fatal error|runtime): .*|^goroutine \d+ .*`)
)

// finish stops the server, if need be, and makes the checks nobody writes.
func (s *server) finish() {
	t := s.t
	t.Helper()
	if !s.hasEnded() {
		syscall.Kill(s.pid, syscall.SIGTERM)
		select {
		case <-s.ended:
			if status := statusOf(s.cmd.ProcessState); status != 0 && !s.killed {
				t.Errorf("after TERM the server's status was %d", status)
			}
		case <-time.After(waitLimit):
			t.Error("the server did not end by TERM")
			syscall.Kill(s.pid, syscall.SIGKILL)
			<-s.ended
		}
	}
	var left []process
	if !poll(3*time.Second, func() bool { left = processes(s.dir); return len(left) == 0 }) {
		for _, p := range left {
			t.Errorf("left behind: process %d: %s", p.pid, p.args)
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	if !s.killed {
		filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && (d.Type()&fs.ModeSocket != 0 || strings.HasSuffix(path, ".pid")) {
				t.Errorf("left behind: %s", path)
			}
			return nil
		})
	}
	s.checkLog()
	if t.Failed() {
		t.Logf("standard output:\n%s", s.stdout())
		t.Logf("log:\n%s", s.log())
	}
}

// checkLog finds errors that were not asked for, and the other way round.
func (s *server) checkLog() {
	s.t.Helper()
	text := s.log()
	met := make([]bool, len(s.expected))
	trace := traceback.FindString(text)
	for i, re := range s.expected {
		met[i] = trace != "" && re.MatchString(trace)
	}
	for _, line := range errorLine.FindAllString(text, -1) {
		asked := false
		for i, re := range s.expected {
			if re.MatchString(line) {
				met[i], asked = true, true
			}
		}
		if !asked {
			s.t.Errorf("unasked: %s", line)
		}
	}
	for i, re := range s.expected {
		if !met[i] {
			s.t.Errorf("expect-error %v: there was none", re)
		}
	}
	if len(s.expected) == 0 && trace != "" {
		s.t.Error("unasked traceback")
	}
	if line := goCrash.FindString(text); line != "" {
		s.t.Errorf("crash: %s", line)
	}
}

// Scripts.

type script struct {
	t        testing.TB
	dir      string
	tls      []string // flags for it, given to each start
	env      []string
	files    []*os.File // for the next server to inherit
	srv      *server
	expected []*regexp.Regexp
	marked   map[string][]int // the pids of each kind of process when last counted
	ran      *ran             // the last run, unless a start came after it
	conns    map[string]*clientConn
	conn     string // key in conns
	sinks    map[string]*logSink
	listener int
	fields   string // of the last response: its head as it came
	body     string
}

// ran is what a program left that ran to its end.
type ran struct {
	stdout, stderr string
	status         int
}

// clientConn is one connection to the server.
type clientConn struct {
	net.Conn
	r *bufio.Reader
}

// scriptWord is one word of a command line.
type scriptWord struct {
	text  string // as written between the quotes
	re    bool   // written ~'...'
	times int    // 'text'*times
}

// arg is the word as an argument of a program.
func (w scriptWord) arg() string { return strings.ReplaceAll(w.text, `\'`, `'`) }

// bytes is the word as text to send or to compare.
func (w scriptWord) bytes(t testing.TB) string {
	t.Helper()
	quoted := strings.NewReplacer(`\'`, `'`, `\\`, `\\`, `"`, `\"`, `\`, `\`).Replace(w.text)
	text, err := strconv.Unquote(`"` + quoted + `"`)
	if err != nil {
		t.Fatalf("%s: %v", w.text, err)
	}
	return strings.Repeat(text, w.times)
}

// matches compares got with the word, whichever kind that is.
func (w scriptWord) matches(t testing.TB, got string) bool {
	t.Helper()
	if w.re {
		return compile(t, w.text).MatchString(got)
	}
	return got == w.bytes(t)
}

var wordSyntax = regexp.MustCompile(`^(~?)(?:'((?:[^'\\]|\\.)*)'(?:\*(\d+))?|([^'\s]\S*))(?:\s+|$)`)

func splitWords(line string) ([]scriptWord, error) {
	var words []scriptWord
	for line != "" {
		m := wordSyntax.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("not a word: %s", line)
		}
		w := scriptWord{text: m[2] + m[4], re: m[1] != "", times: 1}
		if m[3] != "" {
			w.times, _ = strconv.Atoi(m[3])
		}
		words = append(words, w)
		line = line[len(m[0]):]
	}
	return words, nil
}

var fileMark = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func runScript(t *testing.T, name string, secure []string) {
	text := readAll(name)
	s := &script{t: t, dir: t.TempDir(), tls: secure, conns: map[string]*clientConn{}, sinks: map[string]*logSink{}, listener: 1}
	marks := fileMark.FindAllStringSubmatchIndex(text, -1)
	commands := text
	for i, m := range marks {
		end := len(text)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		if i == 0 {
			commands = text[:m[0]]
		}
		path := filepath.Join(s.dir, text[m[2]:m[3]])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text[m[1]:end]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if reason, ok := strings.CutPrefix(commands, "differs: "); ok && reference {
		t.Logf("differs: %s", reason[:strings.IndexByte(reason, '\n')])
		return
	}
	at := 0
	defer func() {
		if t.Failed() {
			t.Logf("%s:%d", name, at)
		}
		s.finish()
	}()
	for line := range strings.Lines(commands) {
		at++
		line = strings.TrimSpace(line)
		if line != "" && line[0] != '#' && !strings.HasPrefix(line, "differs:") {
			s.do(line)
		}
	}
}

func (s *script) finish() {
	s.t.Helper()
	for _, c := range s.conns {
		c.Close()
	}
	clear(s.conns)
	if s.srv != nil {
		s.srv.expected = s.expected
		s.srv.finish()
	}
	s.srv, s.expected = nil, nil
}

func (s *script) do(line string) {
	s.t.Helper()
	line = s.expand(line)
	name, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	command := commands[name]
	if command == nil {
		s.t.Fatalf("no such command: %s", line)
	}
	words := []scriptWord{{text: rest}}
	if name != "sh" {
		var err error
		if words, err = splitWords(rest); err != nil {
			s.t.Fatal(err)
		}
	}
	if len(words) < arity[name] {
		s.t.Fatalf("too few words: %s", line)
	}
	before := s.t.Failed()
	command(s, words)
	if !before && s.t.Failed() {
		s.t.FailNow()
	}
}

func (s *script) expand(line string) string {
	if !strings.Contains(line, "$") {
		return line
	}
	pairs := []string{"$DIR", s.dir, "$GUNICORN", testBinary}
	for name, k := range s.sinks {
		pairs = append(pairs, "$"+name, k.addr)
	}
	if strings.Contains(line, "$PYTHON") {
		pairs = append(pairs, "$PYTHON", testPython(s.t))
	}
	if s.srv != nil {
		if s.srv.addr == "" && strings.Contains(line, "$ADDR") {
			s.srv.waitListening()
		}
		port := s.srv.addr[strings.LastIndexByte(s.srv.addr, ':')+1:]
		if strings.Contains(line, "$WORKER") {
			pairs = append(pairs, "$WORKER", fmt.Sprint(append(s.srv.workers(), 0)[0]))
		}
		pairs = append(pairs, "$PID", strconv.Itoa(s.srv.pid), "$ADDR", s.srv.addr, "$PORT", port)
	}
	return strings.NewReplacer(pairs...).Replace(line)
}

// server is the one that runs; most commands need it.
func (s *script) server() *server {
	s.t.Helper()
	if s.srv == nil {
		s.t.Fatal("no server was started")
	}
	return s.srv
}

// client is the current connection, opened if need be.
func (s *script) client() *clientConn {
	s.t.Helper()
	c := s.conns[s.conn]
	if c == nil {
		conn := s.server().dial(s.listener)
		c = &clientConn{conn, bufio.NewReaderSize(conn, 1<<17)}
		s.conns[s.conn] = c
	}
	c.SetDeadline(time.Now().Add(waitLimit))
	return c
}

// drop forgets the current connection.
func (s *script) drop() {
	s.client().Close()
	delete(s.conns, s.conn)
}

// readReply reads a response, the body too if it is wanted.
func (s *script) readReply(method, status string, body bool) {
	s.t.Helper()
	r := s.client().r
	s.fields, s.body = peekHead(r), ""
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		s.t.Fatalf("no response: %v in %s", err, cut(s.fields))
	}
	if body {
		b, err := io.ReadAll(resp.Body)
		s.body = string(b)
		if err != nil {
			s.t.Fatalf("status %s, then %v after %s", resp.Status, err, cut(s.body))
		}
	}
	if strconv.Itoa(resp.StatusCode) != status {
		s.t.Fatalf("status %s, not %s, body %s", resp.Status, status, cut(s.body))
	}
}

// peekHead returns the head of the response to be read next, as far as it
// comes. (net/http hides the fields that it makes use of.)
func peekHead(r *bufio.Reader) string {
	for n := 1; ; n++ {
		head, err := r.Peek(n)
		if err != nil || bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			return string(head)
		}
	}
}

// field is a header field of the last response; repeated ones are joined by |.
func (s *script) field(name string) (string, bool) {
	var values []string
	for line := range strings.SplitSeq(s.fields, "\r\n") {
		if got, value, ok := strings.Cut(line, ": "); ok && strings.EqualFold(got, name) {
			values = append(values, value)
		}
	}
	return strings.Join(values, "|"), values != nil
}

// checkBody compares the last body with words that need not be there: an
// expression, or texts that follow one another.
func (s *script) checkBody(words []scriptWord) {
	s.t.Helper()
	if len(words) == 0 {
		return
	}
	if words[0].re {
		if !words[0].matches(s.t, s.body) {
			s.t.Fatalf("body %s does not match %s", cut(s.body), words[0].text)
		}
		return
	}
	var want strings.Builder
	for _, w := range words {
		want.WriteString(w.bytes(s.t))
	}
	if s.body != want.String() {
		s.t.Fatalf("body %s, not %s", cut(s.body), cut(want.String()))
	}
}

// afresh finishes the server that runs, if any, and returns the arguments of the next.
func (s *script) afresh(words []scriptWord) (args []string) {
	s.t.Helper()
	if s.srv != nil {
		s.finish()
	}
	for _, w := range words {
		args = append(args, w.arg())
	}
	return args
}

func (s *script) start(words []scriptWord, bind bool) {
	s.t.Helper()
	args := s.afresh(words)
	if bind && s.files == nil {
		args = withBind(args)
	}
	s.launched(launch(s.t, s.dir, s.env, s.files, slices.Concat(s.tls, args)...), bind)
}

func (s *script) program(words []scriptWord, wait bool) {
	s.t.Helper()
	args := s.afresh(words)
	s.launched(launchCommand(s.t, program(s.t, s.dir, s.env, args...), s.files), wait)
}

func (s *script) launched(srv *server, wait bool) {
	s.t.Helper()
	s.srv, s.ran = srv, nil
	for _, f := range s.files {
		f.Close()
	}
	s.files = nil
	if wait {
		s.srv.waitBooted()
	}
}

func (s *script) run(words []scriptWord) {
	s.t.Helper()
	var args []string
	for _, w := range words {
		args = append(args, w.arg())
	}
	var stdout, stderr bytes.Buffer
	cmd := underTest(s.t, s.dir, s.env, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Start()
	if err != nil {
		s.t.Fatal(err)
	}
	watch := time.AfterFunc(waitLimit, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	s.ran = &ran{stdout.String(), stderr.String(), statusOf(cmd.ProcessState)}
	if !watch.Stop() || errors.Is(err, exec.ErrWaitDelay) {
		s.t.Fatalf("run: no end in time\n%s%s", s.ran.stdout, s.ran.stderr)
	}
}

// text is what the program wrote: by run, or else by the server.
func (s *script) text(what string) string {
	s.t.Helper()
	switch {
	case s.ran != nil && what == "stdout":
		return s.ran.stdout
	case s.ran != nil && what == "stderr":
		return s.ran.stderr
	case what == "stdout":
		return s.server().stdout()
	default:
		return s.server().log()
	}
}

// check looks for a regular expression, or for its absence.
func (s *script) check(what string, w scriptWord, want bool) {
	s.t.Helper()
	text := s.text(what)
	if compile(s.t, w.text).MatchString(text) != want {
		s.t.Fatalf("%s: %q: want %v in %s", what, w.text, want, cut(text))
	}
}

// signal sends one to the arbiter, the oldest worker or its Python.
func (s *script) signal(name, who string) {
	s.t.Helper()
	sig := unix.SignalNum("SIG" + name)
	if sig == 0 {
		s.t.Fatalf("no such signal: %s", name)
	}
	if who == "arbiter" {
		s.ran = nil
		s.server().signal(sig)
		return
	}
	pids := s.pids(who)
	if len(pids) == 0 {
		s.t.Fatalf("there is no %s", who)
	}
	// A Python that gets a signal just before a system call runs its handler after the call. An
	// idle one is asleep, and a busy one sees the signal soon.
	poll(time.Second, func() bool { return strings.Contains(readAll(fmt.Sprintf("/proc/%d/stat", pids[0])), ") S ") })
	if err := syscall.Kill(pids[0], sig); err != nil {
		s.t.Fatal(err)
	}
	// What is counted next must not count what is about to die.
	if sig == syscall.SIGKILL && !poll(waitLimit, func() bool { return !slices.Contains(s.pids(who), pids[0]) }) {
		s.t.Fatalf("%s %d is still there", who, pids[0])
	}
}

// pids lists the processes of a kind.
func (s *script) pids(kind string) []int {
	s.t.Helper()
	switch kind {
	case "python":
		return s.server().python()
	case "worker":
		return s.server().workers()
	}
	s.t.Fatalf("no kind of process: %s", kind)
	return nil
}

func (s *script) shell(command string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*waitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.WaitDelay = time.Second // processes that the command leaves in the background write elsewhere
	cmd.Dir = s.dir
	lib, _ := filepath.Abs("testdata/lib")
	cmd.Env = slices.Concat(environment(s.t, s.dir), []string{"PYTHONPATH=" + lib}, s.env)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// cut shortens text for a message.
func cut(text string) string {
	if len(text) > 1000 {
		return fmt.Sprintf("%.1000q... (%d bytes)", text, len(text))
	}
	return fmt.Sprintf("%q", text)
}

// arity is the least number of words of a command, where it is not 0.
var arity = map[string]int{
	"env": 1, "adopt": 1, "listener": 1, "send": 1, "reply": 1, "head": 1, "body": 1, "!body": 1,
	"header": 2, "!header": 1, "fields": 1, "!fields": 1, "raw": 1, "rest": 1, "get": 2, "wait": 2, "log": 1, "!log": 1,
	"count": 2, "stdout": 1, "!stdout": 1, "stderr": 1, "!stderr": 1, "workers": 1,
	"pid-changed": 1, "pid-same": 1, "signal": 1, "kill": 2, "exit": 1, "file": 2, "nofile": 1,
	"expect-error": 1,
}

var commands map[string]func(*script, []scriptWord)

func init() { // not a literal: the commands reach back to the map
	commands = map[string]func(*script, []scriptWord){
		"env":      func(s *script, w []scriptWord) { s.env = append(s.env, w[0].arg()) },
		"start":    func(s *script, w []scriptWord) { s.t.Helper(); s.start(w, true) },
		"start!":   func(s *script, w []scriptWord) { s.t.Helper(); s.start(w, false) },
		"run":      (*script).run,
		"program":  func(s *script, w []scriptWord) { s.t.Helper(); s.program(w, true) },
		"program!": func(s *script, w []scriptWord) { s.t.Helper(); s.program(w, false) },
		"adopt":    func(s *script, w []scriptWord) { s.server().adopt(filepath.Join(s.dir, w[0].text)) },
		"inherit": func(s *script, w []scriptWord) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				s.t.Fatal(err)
			}
			defer l.Close()
			f, err := l.(*net.TCPListener).File()
			if err != nil {
				s.t.Fatal(err)
			}
			s.files = append(s.files, f)
		},
		"listener": func(s *script, w []scriptWord) { s.listener = s.number(w[0]) },
		"conn":     func(s *script, w []scriptWord) { s.conn = append(w, scriptWord{})[0].text },
		"send": func(s *script, w []scriptWord) {
			for _, text := range w {
				if _, err := io.WriteString(s.client(), text.bytes(s.t)); err != nil {
					s.t.Fatal(err)
				}
			}
		},
		"close": func(s *script, w []scriptWord) { s.drop() },
		"shut": func(s *script, w []scriptWord) {
			s.client().Conn.(interface{ CloseWrite() error }).CloseWrite()
		},
		"reset": func(s *script, w []scriptWord) {
			conn := s.client().Conn
			if c, ok := conn.(*tls.Conn); ok {
				conn = c.NetConn()
			}
			conn.(*net.TCPConn).SetLinger(0)
			s.drop()
		},
		"reply": func(s *script, w []scriptWord) {
			method := "GET"
			if w[0].text == "HEAD" {
				method, w = "HEAD", w[1:]
			}
			s.readReply(method, w[0].text, true)
			s.checkBody(w[1:])
		},
		"head": func(s *script, w []scriptWord) { s.readReply("GET", w[0].text, false) },
		"body": func(s *script, w []scriptWord) { s.checkBody(w) },
		"!body": func(s *script, w []scriptWord) {
			if w[0].matches(s.t, s.body) {
				s.t.Fatalf("body %s", cut(s.body))
			}
		},
		"header": func(s *script, w []scriptWord) {
			value, ok := s.field(w[0].text)
			if !ok || !w[1].matches(s.t, value) {
				s.t.Fatalf("%s: %q, not %q in %q", w[0].text, value, w[1].text, s.fields)
			}
		},
		"!header": func(s *script, w []scriptWord) {
			if value, ok := s.field(w[0].text); ok {
				s.t.Fatalf("%s: %q", w[0].text, value)
			}
		},
		"fields": func(s *script, w []scriptWord) {
			if !w[0].matches(s.t, s.fields) {
				s.t.Fatalf("head %s, not %s", cut(s.fields), w[0].text)
			}
		},
		"!fields": func(s *script, w []scriptWord) {
			if w[0].matches(s.t, s.fields) {
				s.t.Fatalf("head %s", cut(s.fields))
			}
		},
		"raw": func(s *script, w []scriptWord) {
			want := w[0].bytes(s.t)
			got := make([]byte, len(want))
			n, err := io.ReadFull(s.client().r, got)
			if err != nil || string(got) != want {
				s.t.Fatalf("read %s, not %s: %v", cut(string(got[:n])), cut(want), err)
			}
		},
		"rest": func(s *script, w []scriptWord) {
			got, err := io.ReadAll(s.client().r)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				s.t.Fatalf("read %s: %v", cut(string(got)), err)
			}
			s.body = string(got)
			s.checkBody(w)
			s.drop()
		},
		"closed": func(s *script, w []scriptWord) {
			got, err := io.ReadAll(s.client().r)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				s.t.Fatalf("not closed: %v", err)
			}
			if len(got) > 0 {
				s.t.Fatalf("not closed: got %s", cut(string(got)))
			}
			s.drop()
		},
		"get": func(s *script, w []scriptWord) {
			current := s.conn
			s.conn = "get"
			fmt.Fprintf(s.client(), "GET %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", w[0].bytes(s.t))
			s.readReply("GET", w[1].text, true)
			s.drop()
			s.conn = current
			s.checkBody(w[2:])
		},
		"wait": func(s *script, w []scriptWord) {
			s.server().waitText("the "+w[0].text, w[1].text, func() string { return s.text(w[0].text) })
		},
		"log":     func(s *script, w []scriptWord) { s.check("log", w[0], true) },
		"!log":    func(s *script, w []scriptWord) { s.check("log", w[0], false) },
		"stdout":  func(s *script, w []scriptWord) { s.check("stdout", w[0], true) },
		"!stdout": func(s *script, w []scriptWord) { s.check("stdout", w[0], false) },
		"stderr":  func(s *script, w []scriptWord) { s.check("stderr", w[0], true) },
		"!stderr": func(s *script, w []scriptWord) { s.check("stderr", w[0], false) },
		"count": func(s *script, w []scriptWord) {
			if n := len(compile(s.t, w[1].text).FindAllString(s.text("log"), -1)); n != s.number(w[0]) {
				s.t.Fatalf("%q: %d times, not %s", w[1].text, n, w[0].text)
			}
		},
		"workers": func(s *script, w []scriptWord) {
			workers, pythons := s.server().waitWorkers(s.number(w[0]))
			s.marked = map[string][]int{"worker": workers, "python": pythons}
		},
		"pid-changed": func(s *script, w []scriptWord) {
			s.server().waitReplaced(s.marked[w[0].text], func() []int { return s.pids(w[0].text) })
		},
		"pid-same": func(s *script, w []scriptWord) {
			for _, pid := range s.pids(w[0].text) {
				if !slices.Contains(s.marked[w[0].text], pid) {
					s.t.Fatalf("%s %d is new", w[0].text, pid)
				}
			}
		},
		"signal": func(s *script, w []scriptWord) { s.signal(w[0].text, append(w, scriptWord{text: "arbiter"})[1].text) },
		"kill":   func(s *script, w []scriptWord) { s.signal("KILL", w[1].text) },
		"exit": func(s *script, w []scriptWord) {
			status, text := 0, ""
			if s.ran != nil {
				status, text = s.ran.status, s.ran.stdout+s.ran.stderr
			} else {
				status = s.server().wait()
			}
			if status != s.number(w[0]) {
				s.t.Fatalf("exit status %d, not %s\n%s", status, w[0].text, text)
			}
		},
		"file": func(s *script, w []scriptWord) {
			path := filepath.Join(s.dir, w[0].text)
			if re := compile(s.t, w[1].text); !poll(waitLimit, func() bool {
				b, err := os.ReadFile(path)
				return err == nil && re.Match(b)
			}) {
				s.t.Fatalf("%s: %q: not in %s", w[0].text, w[1].text, cut(readAll(path)))
			}
		},
		"nofile": func(s *script, w []scriptWord) {
			path := filepath.Join(s.dir, w[0].text)
			if !poll(waitLimit, func() bool { _, err := os.Lstat(path); return errors.Is(err, fs.ErrNotExist) }) {
				s.t.Fatalf("%s is there", w[0].text)
			}
		},
		"sh":           func(s *script, w []scriptWord) { s.shell(w[0].text) },
		"expect-error": func(s *script, w []scriptWord) { s.expected = append(s.expected, compile(s.t, w[0].text)) },
	}
}

func (s *script) number(w scriptWord) int {
	s.t.Helper()
	n, err := strconv.Atoi(w.text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
