package main

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
