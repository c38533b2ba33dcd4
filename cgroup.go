package main

// What the kernel's control groups say of this process: how much CPU time and
// memory it may have, and whether a process beside it was killed for want of
// memory (cgroups(7); cpu.max, memory.max and memory.events of version 2,
// cpu.cfs_quota_us, memory.limit_in_bytes and memory.oom_control of version 1).

import (
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
