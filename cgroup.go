package main

// What the kernel allows. Control groups say how much CPU time and memory this
// process may have, and whether a process beside it was killed for want of
// memory (cgroups(7); cpu.max, memory.max and memory.events of version 2,
// cpu.cfs_quota_us, memory.limit_in_bytes and memory.oom_control of version 1);
// limits (getrlimit(2)) how many files a process may open and how many processes
// a user may have.

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupDirs are the directories of our group and those above it, nearest
// first: of version 2 with "" for a controller, or of a controller of version
// 1. Everything is looked for below root, which is "" but for tests.
func cgroupDirs(root, controller string) (dirs []string) {
	own := ""
	for line := range strings.Lines(readText(root + "/proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && slices.Contains(strings.Split(f[1], ","), controller) {
			own = f[2]
		}
	}
	if own == "" {
		return nil
	}
	for line := range strings.Lines(readText(root + "/proc/self/mountinfo")) {
		before, after, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(g) < 3 {
			continue
		}
		if controller == "" && g[0] != "cgroup2" ||
			controller != "" && (g[0] != "cgroup" || !slices.Contains(strings.Split(g[2], ","), controller)) {
			continue
		}
		// The mount may show a part of the tree only, as in a container.
		below, ok := strings.CutPrefix(own, strings.TrimSuffix(f[3], "/"))
		if !ok || strings.HasPrefix(own, "/..") {
			below = ""
		}
		for dir := path.Clean("/" + below); ; dir = path.Dir(dir) {
			dirs = append(dirs, filepath.Join(root, f[4], dir))
			if dir == "/" {
				return dirs
			}
		}
	}
	return nil
}

// readText is a small file's text, "" when there is none.
func readText(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

// quotaCPUs is how many CPUs the groups allow, in the whole: a part of one
// counts as one. It is 0 when they set no limit.
func quotaCPUs(root string) (cpus int) {
	limit := func(quota, period string) {
		q, err := strconv.ParseInt(quota, 10, 64)
		p, err2 := strconv.ParseInt(period, 10, 64)
		if err != nil || err2 != nil || q <= 0 || p <= 0 {
			return // max, or -1
		}
		n := int((q + p - 1) / p)
		if cpus == 0 || n < cpus {
			cpus = n
		}
	}
	for _, dir := range cgroupDirs(root, "") {
		if f := strings.Fields(readText(dir + "/cpu.max")); len(f) == 2 {
			limit(f[0], f[1])
		}
	}
	for _, dir := range cgroupDirs(root, "cpu") {
		limit(strings.TrimSpace(readText(dir+"/cpu.cfs_quota_us")), strings.TrimSpace(readText(dir+"/cpu.cfs_period_us")))
	}
	return cpus
}

// memoryLimit is how many bytes the groups allow, 0 when they set no limit.
func memoryLimit(root string) (least int64) {
	for _, place := range []struct{ controller, file string }{{"", "/memory.max"}, {"memory", "/memory.limit_in_bytes"}} {
		for _, dir := range cgroupDirs(root, place.controller) {
			n, err := strconv.ParseInt(strings.TrimSpace(readText(dir+place.file)), 10, 64)
			if err == nil && n > 0 && (least == 0 || n < least) { // max is none; version 1 says none by a huge one
				least = n
			}
		}
	}
	return least
}

// usableCPUs is how many CPUs this process can keep busy.
func usableCPUs() int {
	n := 1
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err == nil {
		n = max(n, set.Count())
	}
	if quota := quotaCPUs(""); quota > 0 {
		n = min(n, quota)
	}
	return n
}

// memoryWatch follows how many processes of our group the kernel has killed for
// want of memory.
type memoryWatch struct {
	file           string // "" where nothing is said
	before, latest int    // at the last two looks
}

func watchMemory(root string) memoryWatch {
	for _, place := range []struct{ controller, file string }{{"", "/memory.events"}, {"memory", "/memory.oom_control"}} {
		if dirs := cgroupDirs(root, place.controller); len(dirs) > 0 {
			m := memoryWatch{file: dirs[0] + place.file}
			if m.latest = m.kills(); m.latest >= 0 {
				m.before = m.latest
				return m
			}
		}
	}
	return memoryWatch{}
}

// kills is the count now, -1 if there is none.
func (m *memoryWatch) kills() int {
	for line := range strings.Lines(readText(m.file)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			if n, err := strconv.Atoi(f[1]); err == nil {
				return n
			}
		}
	}
	return -1
}

// look is to be called once a second. Two looks are kept, because a large
// process takes a while to end after it has been counted.
func (m *memoryWatch) look() {
	if m.file != "" {
		m.before, m.latest = m.latest, m.kills()
	}
}

// fate says how a process ended, and whether for want of memory. The kernel
// does not say whom it has counted, but a process that was killed while the
// count grew hardly was another.
func (m *memoryWatch) fate(s unix.WaitStatus) (text string, memory bool) {
	switch {
	case m.file == "" || !s.Signaled() || s.Signal() != unix.SIGKILL:
		return fate(s), false
	case m.kills() > m.before:
		return "was sent SIGKILL! It was out of memory.", true
	}
	return "was sent SIGKILL!", false
}

// What a worker takes at least.
const (
	ownFiles   = 16 // descriptors of its own beside those that it inherits
	leastFiles = 16 // for clients
	ownTasks   = 8  // threads of a worker and of a Python that has one
)

// checkLimits says when the limits are too low for workers to serve: they would
// start, or be started again and again, and answer nobody. The runtime has raised
// the limit of open files as far as it goes.
func checkLimits(c *config) error {
	var files, tasks unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	need := uint64(fdListeners + len(c.bind) + ownFiles + descriptorsApart + leastFiles)
	if files.Cur < need {
		return fmt.Errorf("limit of open files (ulimit -n): %d is too low; a worker needs %d", files.Cur, need)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &tasks); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	uid := os.Getuid()
	if c.credential != nil {
		uid = int(c.credential.Uid)
	}
	most := c.workers * ownTasks
	if c.family() == familyThread {
		most += c.workers * c.concurrency()
	}
	if uid == 0 || tasks.Cur >= 1<<20 {
		return nil // no limit, or none that a server would notice
	}
	has := tasksOf(uid)
	if need = uint64(has + most); tasks.Cur < need && need <= tasks.Max {
		tasks.Cur = tasks.Max
		return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NPROC, &tasks))
	}
	if tasks.Cur < need {
		return fmt.Errorf("limit of processes (ulimit -u): %d is too low; user %d has %d threads, and the workers need %d more", tasks.Cur, uid, has, most)
	}
	return nil
}

// tasksOf is how many threads a user has, which is what that limit is about.
func tasksOf(uid int) (n int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/task")
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil && int(st.Uid) == uid {
			tasks, _ := os.ReadDir(dir)
			n += len(tasks)
		}
	}
	return n
}

const (
	leastPythonFiles = 64   // open files with which a Python can import an application and serve it
	usualFiles       = 1024 // what most systems let a process open, and select(2) can take
)

// allowFiles raises a Python's limit of open files to what is usual where the limit is too
// low for any application. Otherwise the application has the limit that the server was
// started with.
func allowFiles(pid int) {
	var limit unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit) == nil && limit.Cur < leastPythonFiles {
		limit.Cur = min(limit.Max, usualFiles)
		_ = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
	}
}
