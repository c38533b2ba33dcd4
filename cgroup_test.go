package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

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
		if text, memory := m.fate(killed); memory || text != "was sent SIGKILL!" {
			t.Errorf("%s: %q, %v", name, text, memory)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte("low 0\noom 3\noom_kill 3\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		m.look() // between the count and the end
		if text, memory := m.fate(killed); !memory || text != "was sent SIGKILL! It was out of memory." {
			t.Errorf("%s: %q, %v", name, text, memory)
		}
		if _, memory := m.fate(unix.WaitStatus(unix.SIGSEGV)); memory {
			t.Errorf("%s: a segmentation fault is none", name)
		}
		m.look()
		if _, memory := m.fate(killed); memory {
			t.Errorf("%s: a kill long after", name)
		}
	}
	m := watchMemory(fakeRoot(t, nil))
	m.look()
	if text, memory := m.fate(killed); memory || text != "was sent SIGKILL! Perhaps out of memory?" {
		t.Errorf("nothing is known: %q, %v", text, memory)
	}
}
