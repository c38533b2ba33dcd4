package main

// Who a process is: the user and the groups that workers switch to, and how
// the arbiter leaves the terminal it was started from.

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noGroup is the group of a user whom the system does not know.
const noGroup = 65534

// credentialOf is what workers switch to, nil when they stay who we are. The
// groups are complete: whatever else we are a member of, they are not.
func credentialOf(c *config) (*syscall.Credential, error) {
	uid, gid := os.Geteuid(), os.Getegid()
	if (c.user == uid || c.user == 0) && (c.group == gid || c.group == 0) {
		return nil, nil
	}
	for _, id := range []struct {
		name  string
		value int
	}{{"user", c.user}, {"group", c.group}} {
		if id.value < 0 || int64(id.value) >= math.MaxUint32 { // the last one means none
			return nil, fmt.Errorf("%s: %d is out of range", id.name, id.value)
		}
	}
	if uid != 0 {
		return nil, fmt.Errorf("user %d, group %d: only root can run workers as somebody else, and this is user %d, group %d",
			c.user, c.group, uid, gid)
	}
	known, err := user.LookupId(strconv.Itoa(c.user))
	var unknown user.UnknownUserIdError
	if err != nil && !errors.As(err, &unknown) {
		return nil, fmt.Errorf("user %d: %w", c.user, err)
	}
	cred := &syscall.Credential{Uid: uint32(c.user), Gid: uint32(c.group)}
	if c.group == 0 && c.user != 0 {
		// The group that nobody has named is ours, and the last that a
		// worker should keep.
		cred.Gid = noGroup
		if known != nil {
			n, err := strconv.ParseUint(known.Gid, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("group of user %d: %w", c.user, err)
			}
			cred.Gid = uint32(n)
		}
	}
	cred.Groups = []uint32{cred.Gid}
	if !c.initgroups || known == nil {
		return cred, nil
	}
	names, err := known.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %d: %w", c.user, err)
	}
	for _, name := range names {
		n, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("groups of user %d: %w", c.user, err)
		}
		// initgroups(3) takes the named group for the user's first.
		if name != known.Gid && !slices.Contains(cred.Groups, uint32(n)) {
			cred.Groups = append(cred.Groups, uint32(n))
		}
	}
	return cred, nil
}

// checkCredential says what a process has that is not in cred: the kernel's
// word that the switch was complete.
func checkCredential(cred *syscall.Credential) error {
	uid, gid := int(cred.Uid), int(cred.Gid)
	if r, e, s := unix.Getresuid(); r != uid || e != uid || s != uid {
		return fmt.Errorf("identity: this process should be user %d and is %d, %d, %d", uid, r, e, s)
	}
	if r, e, s := unix.Getresgid(); r != gid || e != gid || s != gid {
		return fmt.Errorf("identity: this process should be group %d and is %d, %d, %d", gid, r, e, s)
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return os.NewSyscallError("getgroups", err)
	}
	for _, g := range groups {
		if !slices.Contains(cred.Groups, uint32(g)) {
			return fmt.Errorf("identity: this process is still in group %d", g)
		}
	}
	return nil
}

// withRightsOf runs f with the rights that cred has to files. Only this thread
// is changed, and back again.
func withRightsOf(cred *syscall.Credential, f func() error) error {
	if cred == nil {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := unix.Getgroups()
	if err != nil {
		return os.NewSyscallError("getgroups", err)
	}
	groups := make([]uint32, len(own))
	for i, g := range own {
		groups[i] = uint32(g)
	}
	if err := setThreadGroups(cred.Groups); err != nil {
		return err
	}
	gid, _ := unix.SetfsgidRetGid(int(cred.Gid))
	uid, _ := unix.SetfsuidRetUid(int(cred.Uid))
	err = f()
	_, _ = unix.SetfsuidRetUid(uid)
	_, _ = unix.SetfsgidRetGid(gid)
	return errors.Join(err, setThreadGroups(groups))
}

// setThreadGroups is setgroups(2) for this thread alone.
func setThreadGroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	return nil
}

// credentialList is a credential among the settings of a worker.
func credentialList(cred *syscall.Credential) any {
	if cred == nil {
		return nil
	}
	var groups []any
	for _, g := range cred.Groups {
		groups = append(groups, int64(g))
	}
	return []any{int64(cred.Uid), int64(cred.Gid), groups}
}

// credentialFrom reads what credentialList wrote.
func credentialFrom(v any) *syscall.Credential {
	list, _ := v.([]any)
	if len(list) != 3 {
		return nil
	}
	id := func(v any) uint32 { n, _ := v.(int64); return uint32(n) }
	cred := &syscall.Credential{Uid: id(list[0]), Gid: id(list[1])}
	groups, _ := list[2].([]any)
	for _, g := range groups {
		cred.Groups = append(cred.Groups, id(g))
	}
	return cred
}

// daemonStep tells the binary that it is on its way into the background, and
// how far it has come.
const daemonStep = "GUNICORN_DAEMON_STEP"

// daemonize starts this program once more, as the leader of a session without
// a terminal. That one starts the arbiter, which cannot get a terminal because
// it leads nothing, and ends. A Go program cannot fork, so each reads the
// settings anew.
func daemonize(c *config) error {
	if os.Getenv("NOTIFY_SOCKET") != "" {
		fmt.Fprintln(os.Stderr, "Warning: you shouldn't specify `daemon = True` when launching by systemd with `Type = notify`")
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("daemon: /dev/null: %w", err)
	}
	defer unix.Close(null)
	files := []uintptr{uintptr(null), uintptr(null), uintptr(null)}
	if c.enableStdioInheritance {
		for fd := unix.Stdout; fd <= unix.Stderr; fd++ {
			if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
				files[fd] = uintptr(fd)
			}
		}
	}
	pid, err := executeSelf(c.startDir, "1", files, true)
	if err == nil && exitStatus(waitFor(pid)) != 0 {
		err = errors.New("the process in between has failed")
	}
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	return nil
}

// daemonStage is the part of a process that daemonize has led to: the first
// starts the second and ends, the second is the arbiter.
func daemonStage() (daemon bool) {
	step := os.Getenv(daemonStep)
	os.Unsetenv(daemonStep)
	switch step {
	case "1":
		if _, err := executeSelf("", "2", []uintptr{0, 1, 2}, false); err != nil {
			fatalf("daemon: %v", err)
		}
		os.Exit(0)
	case "2":
		// Executed as /proc/self/exe, the process would be called exe.
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(cString("gunicorn")), 0, 0, 0)
		unix.Umask(0o022)
		return true
	}
	return false
}

func executeSelf(dir, step string, files []uintptr, session bool) (int, error) {
	return syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Dir:   dir,
		Env:   append(os.Environ(), daemonStep+"="+step),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: session},
	})
}
