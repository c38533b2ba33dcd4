package test

// Nothing accepted is lost: a load of numbered requests on kept connections,
// while the server is reloaded, recycled, upgraded, stopped and killed. The
// application writes down every number that it is called with, so that what the
// clients have seen can be held against what was done.

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var livesLong = flag.Bool("long", false, "run TestLives and TestBlast for about an hour, and TestMLflow")

// livesApp writes its number, and takes as long as it is told.
const livesApp = `
import os, time
done = os.open("done", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

def app(environ, start_response):
    number, _, pause = environ["QUERY_STRING"].partition("&")
    os.write(done, number.encode() + b"\n")
    if pause:
        time.sleep(float(pause))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(number)))])
    return [number.encode()]
`

// What becomes of a request.
const (
	fateSent     = iota // nothing is known yet
	fateAnswered        // by the application
	fateRefused         // by the server: 502, 503
	fateCut             // the connection ended
)

// liveLoad is a number of clients that ask all the time.
type liveLoad struct {
	t     *testing.T
	s     *server
	pause func() string // for the application
	twice bool          // a request may be executed again

	next    atomic.Int64
	closed  atomic.Int64 // connections that the server has closed
	last    atomic.Int64 // when an answer came
	gap     atomic.Int64 // the longest time without one
	halt    atomic.Bool
	closing atomic.Bool // the server may refuse connections now
	clients sync.WaitGroup

	mu       sync.Mutex
	fates    map[int64]int
	statuses map[string]int
}

// startLoad lets n clients ask the server until stop.
func startLoad(t *testing.T, s *server, n int) *liveLoad {
	l := &liveLoad{t: t, s: s, fates: map[int64]int{}, statuses: map[string]int{}, pause: func() string { return "" }}
	l.last.Store(time.Now().UnixNano())
	t.Cleanup(func() { // after a failure
		l.closing.Store(true)
		l.halt.Store(true)
	})
	for range n {
		l.clients.Add(1)
		go l.client()
	}
	return l
}

func (l *liveLoad) client() {
	defer l.clients.Done()
	for !l.halt.Load() {
		c, err := l.dial()
		if err != nil {
			if !l.closing.Load() {
				l.t.Errorf("connect: %v", err)
			}
			return
		}
		l.talk(c)
		c.Close()
	}
}

func (l *liveLoad) dial() (net.Conn, error) {
	if path, ok := strings.CutPrefix(l.s.addr, "unix:"); ok {
		return net.Dial("unix", filepath.Join(l.s.dir, path))
	}
	return net.Dial("tcp", l.s.addr)
}

// talk asks on one connection until it is closed.
func (l *liveLoad) talk(c net.Conn) {
	r := bufio.NewReader(c)
	for !l.halt.Load() {
		number := l.next.Add(1)
		l.note(number, fateSent)
		c.SetDeadline(time.Now().Add(3 * waitLimit))
		_, err := fmt.Fprintf(c, "GET /?%d%s HTTP/1.1\r\nHost: x\r\n\r\n", number, l.pause())
		var status, body string
		var last bool
		if err == nil {
			status, body, last, err = readAnswer(r)
		}
		switch {
		case err != nil:
			if errors.Is(err, os.ErrDeadlineExceeded) {
				l.t.Errorf("request %d: no answer in time", number)
			}
			l.note(number, fateCut)
			l.closed.Add(1)
			return
		case status == "200" && body == strconv.FormatInt(number, 10):
			l.note(number, fateAnswered)
			l.seen()
		case status == "200":
			l.t.Errorf("request %d was answered %q", number, body)
		default:
			l.note(number, fateRefused)
			l.mu.Lock()
			l.statuses[status]++
			l.mu.Unlock()
		}
		if last {
			l.closed.Add(1)
			return
		}
	}
}

// readAnswer reads a response that has a Content-Length.
func readAnswer(r *bufio.Reader) (status, body string, last bool, err error) {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", "", false, err
		}
		line = strings.TrimSpace(line)
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case first:
			_, status, _ = strings.Cut(line, " ")
			status, _, _ = strings.Cut(status, " ")
		case line == "":
			b := make([]byte, length)
			_, err := io.ReadFull(r, b)
			return status, string(b), last, err
		case strings.EqualFold(name, "Content-Length"):
			length, _ = strconv.Atoi(value)
		case strings.EqualFold(name, "Connection"):
			last = strings.EqualFold(value, "close")
		}
	}
}

func (l *liveLoad) note(number int64, what int) {
	l.mu.Lock()
	l.fates[number] = what
	l.mu.Unlock()
}

// seen keeps the longest time without an answer.
func (l *liveLoad) seen() {
	now := time.Now().UnixNano()
	gap := now - l.last.Swap(now)
	for {
		longest := l.gap.Load()
		if gap <= longest || l.gap.CompareAndSwap(longest, gap) {
			return
		}
	}
}

// answers is how many there have been.
func (l *liveLoad) count(what int) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, fate := range l.fates {
		if fate == what {
			n++
		}
	}
	return n
}

// waitAnswers waits for n more answers, on a machine that may be busy.
func (l *liveLoad) waitAnswers(n int) {
	l.t.Helper()
	n += l.count(fateAnswered)
	if !poll(3*waitLimit, func() bool { return l.count(fateAnswered) >= n }) {
		l.t.Fatal("the server does not answer")
	}
}

// stop ends the load and holds what the clients have seen against what the
// application has done: no request was executed twice, and each that was
// answered was executed.
func (l *liveLoad) stop() {
	l.t.Helper()
	l.halt.Store(true)
	l.clients.Wait()
	done := map[int64]int{}
	for line := range strings.Lines(readAll(filepath.Join(l.s.dir, "done"))) {
		number, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			l.t.Errorf("the application wrote %q", line)
		}
		done[number]++
	}
	for number, n := range done {
		if n > 1 && !l.twice {
			l.t.Errorf("request %d was executed %d times", number, n)
		}
	}
	for number, fate := range l.fates {
		if fate == fateAnswered && done[number] == 0 {
			l.t.Errorf("request %d was answered and not executed", number)
		}
		if fate == fateSent {
			l.t.Errorf("request %d has no fate", number)
		}
	}
	l.t.Logf("%d requests: %d answered, %d refused %v, %d cut off; %d connections closed by the server; longest time without an answer %v",
		len(l.fates), l.count(fateAnswered), l.count(fateRefused), l.statuses, l.count(fateCut), l.closed.Load(),
		time.Duration(l.gap.Load()).Round(time.Millisecond))
}

// nothingLost is what a client must not notice of a restart.
func (l *liveLoad) nothingLost() {
	l.t.Helper()
	if n := l.count(fateRefused) + l.count(fateCut); n > 0 {
		l.t.Errorf("%d requests failed", n)
	}
	if n := l.closed.Load(); n > 0 {
		l.t.Errorf("the server closed %d connections", n)
	}
}

// livesServer starts a server with the application, and a pid file.
func livesServer(t *testing.T, args ...string) *server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(livesApp), 0o644); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, dir, append(args, "--pid", "one.pid", "--keep-alive", "60", "app:app")...)
	return s
}

// times is how often a scenario does what it does.
func times(short, long int) int {
	if *livesLong {
		return long
	}
	return short
}

func TestLives(t *testing.T) {
	if reference {
		t.Log("what is promised here is not promised there")
		return
	}
	for _, workers := range []string{"1", "4"} {
		t.Run("reload/"+workers, func(t *testing.T) { livesReload(t, workers) })
		t.Run("recycle/"+workers, func(t *testing.T) { livesRecycle(t, workers) })
		t.Run("upgrade/"+workers, func(t *testing.T) { livesUpgrade(t, workers) })
		t.Run("quit/"+workers, func(t *testing.T) { livesQuit(t, workers) })
		t.Run("stop/"+workers, func(t *testing.T) { livesStop(t, workers) })
	}
	t.Run("crash/python", func(t *testing.T) { livesCrash(t, false) })
	t.Run("crash/any", func(t *testing.T) { livesCrash(t, true) })
	t.Run("arbiter", livesArbiter)
}

func livesReload(t *testing.T, workers string) {
	s := livesServer(t, "-w", workers)
	l := startLoad(t, s, 64)
	l.waitAnswers(100)
	for range times(4, 50) {
		old := s.workers()
		s.signal(syscall.SIGHUP)
		s.waitReplaced(old, s.workers)
		l.waitAnswers(100)
	}
	l.stop()
	l.nothingLost()
}

func livesRecycle(t *testing.T, workers string) {
	s := livesServer(t, "-w", workers, "--max-requests", "100", "--max-requests-jitter", "20")
	l := startLoad(t, s, 64)
	for range times(2, 100) {
		l.waitAnswers(400)
	}
	l.stop()
	l.nothingLost()
}

func livesUpgrade(t *testing.T, workers string) {
	s := livesServer(t, "-w", workers)
	l := startLoad(t, s, 64)
	l.waitAnswers(100)
	second := filepath.Join(s.dir, "one.pid.2")
	for range times(2, 20) {
		// There, and back.
		pid := s.reexec(second)
		l.waitAnswers(100)
		syscall.Kill(pid, syscall.SIGTERM)
		s.gone(second)
		poll(waitLimit, func() bool { return syscall.Kill(pid, 0) != nil }) // until then the old arbiter ignores USR2
		l.waitAnswers(100)
		// There, and on.
		s.reexec(second)
		l.waitAnswers(100)
		s.signal(syscall.SIGTERM)
		<-s.ended
		s.gone(second)
		s.adopt(filepath.Join(s.dir, "one.pid"))
		l.waitAnswers(100)
	}
	l.stop()
	l.nothingLost()
}

// livesQuit ends the old server by QUIT: requests that have not begun there go to the new one,
// and requests that run have the time to end.
func livesQuit(t *testing.T, workers string) {
	s := livesServer(t, "-w", workers)
	l := startLoad(t, s, 64)
	l.waitAnswers(100)
	for range times(2, 20) {
		second := filepath.Join(s.dir, "one.pid.2")
		s.reexec(second)
		l.waitAnswers(100)
		s.signal(syscall.SIGQUIT)
		<-s.ended
		s.gone(second)
		s.adopt(filepath.Join(s.dir, "one.pid"))
		l.waitAnswers(100)
	}
	l.stop()
	if n := l.count(fateRefused) + l.count(fateCut); n > 0 {
		t.Errorf("%d requests failed: %v", n, l.statuses)
	}
}

// reexec starts another arbiter and waits until it has its workers.
func (s *server) reexec(pidfile string) (pid int) {
	s.t.Helper()
	s.signal(syscall.SIGUSR2)
	n := len(s.workers())
	if !poll(waitLimit, func() bool {
		pid, _ = strconv.Atoi(strings.TrimSpace(readAll(pidfile)))
		other := &server{t: s.t, dir: s.dir, pid: pid}
		return pid > 0 && len(other.python()) == n
	}) {
		s.t.Fatal("there is no new arbiter")
	}
	return pid
}

// gone waits until a file is.
func (s *server) gone(path string) {
	s.t.Helper()
	if !poll(waitLimit, func() bool { _, err := os.Stat(path); return os.IsNotExist(err) }) {
		s.t.Fatalf("%s stays", path)
	}
}

// livesStop sends TERM in the middle of it. What a worker has read is answered;
// on a kept connection a request may cross its end, but is not executed then.
func livesStop(t *testing.T, workers string) {
	for range times(1, 10) {
		s := livesServer(t, "-w", workers)
		idle, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		l := startLoad(t, s, 64)
		l.pause = func() string { return "&0.01" }
		l.waitAnswers(100)
		l.closing.Store(true)
		s.signal(syscall.SIGTERM)
		select {
		case <-s.ended:
		case <-time.After(waitLimit):
			t.Fatal("the server does not end")
		}
		l.stop()
		if n := l.count(fateRefused); n > 0 {
			t.Errorf("%d requests were refused", n)
		}
		executed := bytes.Fields([]byte(readAll(filepath.Join(s.dir, "done"))))
		if n := l.count(fateAnswered); n != len(executed) {
			t.Errorf("%d requests were executed and %d answered", len(executed), n)
		}
	}
}

// livesCrash kills Pythons at random, and workers too if any is set. Only what
// ran there fails: one request for each Python, and what is connected to a
// worker.
func livesCrash(t *testing.T, any bool) {
	s := livesServer(t, "-w", "4")
	s.expected = append(s.expected, compile(t, `(its Python|Worker) \(pid:\d+\) was sent SIGKILL!`))
	l := startLoad(t, s, 64)
	l.waitAnswers(100)
	l.gap.Store(0) // the server had to boot
	pythons, workers := 0, 0
	for end := time.Now().Add(time.Duration(times(5, 150)) * time.Second); time.Now().Before(end); {
		time.Sleep(time.Duration(200+rand.IntN(800)) * time.Millisecond) // at random moments: this is no wait
		victims, count := s.python(), &pythons
		if any && rand.IntN(2) == 0 {
			victims, count = s.workers(), &workers
		}
		if len(victims) > 0 && syscall.Kill(victims[rand.IntN(len(victims))], syscall.SIGKILL) == nil {
			*count++
		}
		l.waitAnswers(10)
	}
	l.stop()
	t.Logf("killed: %d Pythons, %d workers", pythons, workers)
	if n := l.statuses["502"]; n > pythons {
		t.Errorf("%d requests got 502 from %d killed Pythons", n, pythons)
	}
	if n := l.count(fateRefused) - l.statuses["502"]; n > 0 {
		t.Errorf("%d requests were refused: %v", n, l.statuses)
	}
	// A second is what is promised; this machine may be busy with other tests.
	if gap := time.Duration(l.gap.Load()); gap > 3*time.Second {
		t.Errorf("for %v nobody was served", gap)
	}
	if workers == 0 && l.count(fateCut) > 0 {
		t.Errorf("%d requests were cut off", l.count(fateCut))
	}
}

// livesArbiter kills the arbiter: what finish finds left behind is the test.
func livesArbiter(t *testing.T) {
	for range times(2, 20) {
		s := livesServer(t, "-w", "4", "--graceful-timeout", "3")
		s.expected = append(s.expected, compile(t, `.`))
		l := startLoad(t, s, 64)
		l.waitAnswers(100)
		l.closing.Store(true)
		s.signal(syscall.SIGKILL)
		if !poll(waitLimit, func() bool { return len(processes(s.dir)) == 0 }) {
			t.Errorf("left behind: %v", processes(s.dir))
		}
		l.stop()
		if n := l.count(fateRefused); n > 0 {
			t.Errorf("%d requests were refused: %v", n, l.statuses)
		}
		s.expected = nil
	}
}
