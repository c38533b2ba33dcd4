package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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

// TestRightsOfWorkers looks at a directory of root's with the eyes of workers
// that are somebody else.
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
