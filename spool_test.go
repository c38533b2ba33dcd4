package main

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSpoolFiles makes the two sorts of files: they have no names and keep what
// is written.
func TestSpoolFiles(t *testing.T) {
	dir := t.TempDir()
	for name, open := range map[string]func(string) (int, error){"unnamed": openSpoolFile, "named": openNamedFile} {
		fd, err := open(dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b := make([]byte, 4)
		if _, err := unix.Pwrite(fd, []byte("text"), 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := unix.Pread(fd, b, 0); string(b[:n]) != "text" || err != nil {
			t.Errorf("%s: read %q, %v", name, b[:n], err)
		}
		unix.Close(fd)
		if _, err := open(dir + "/none"); err != unix.ENOENT {
			t.Errorf("%s: no directory: %v", name, err)
		}
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
