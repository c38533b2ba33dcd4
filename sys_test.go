package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
		"nonsense":               `"nonsense" is no word of a list of ciphers`,
		"HIGH:ECDHE+nonsense":    `"nonsense" is no word of a list of ciphers`,
		"!":                      `"" is no word of a list of ciphers`,
		"TLSv1":                  `"TLSv1" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
		"ALL:!ECDHE":             `"ALL:!ECDHE" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
		"TLS_AES_128_GCM_SHA256": `"TLS_AES_128_GCM_SHA256" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
		":":                      `":" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
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
