package main

// The system: system calls for which golang.org/x/sys/unix has no suitable form,
// the clock, users and groups, control groups and limits. Each wrapper makes one
// call and says what it does about EINTR and EAGAIN.
//
// Calls made for every request are raw: they never block, so the Go scheduler
// need not be told, and telling the scheduler costs more than the call. A worker's
// loop sleeps only in epollWait.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawRead reads the available bytes of a socket or a pipe: n > 0 bytes, 0 at end
// of file, or an error (EAGAIN if there is no input yet).
func rawRead(fd int, b []byte) (int, syscall.Errno) { return rawTransfer(unix.SYS_READ, fd, b) }

// rawWrite writes as much as fits now. MSG_NOSIGNAL is not needed, because the
// runtime ignores SIGPIPE for descriptors above 2.
func rawWrite(fd int, b []byte) (int, syscall.Errno) { return rawTransfer(unix.SYS_WRITE, fd, b) }

func rawTransfer(call uintptr, fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// rawWritev writes two pieces by one call, as much of them as fits now.
func rawWritev(fd int, a, b []byte) (int, syscall.Errno) {
	iov := [2]unix.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	iov[0].SetLen(len(a))
	iov[1].SetLen(len(b))
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), 2)
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// rawSend sends one message of two pieces. Usually b is empty, and the cheaper
// sendto(2) is enough.
func rawSend(fd int, a, b []byte) (errno syscall.Errno) {
	iov := [2]unix.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	iov[0].SetLen(len(a))
	iov[1].SetLen(len(b))
	msg := unix.Msghdr{Iov: &iov[0]}
	msg.SetIovlen(2)
	for {
		if len(b) == 0 {
			_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(iov[0].Base)),
				uintptr(len(a)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		} else {
			_, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)),
				unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// unsent is the number of bytes in a socket that its peer has not received yet.
func unsent(fd int) int { return queuedBytes(fd, unix.SIOCOUTQ) }

// unread is the number of bytes in a socket that we have not read yet.
func unread(fd int) int { return queuedBytes(fd, unix.TIOCINQ) }

func queuedBytes(fd int, request uint) int {
	n, err := unix.IoctlGetInt(fd, request)
	if err != nil {
		return 0
	}
	return n
}

// rawAccept accepts one connection, non-blocking and close-on-exec, and stores the
// client's address in sa.
func rawAccept(fd int, sa *unix.RawSockaddrAny) (int, syscall.Errno) {
	for {
		size := uint32(unix.SizeofSockaddrAny)
		nfd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(sa)),
			uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == 0 {
			return int(nfd), 0
		}
		// ECONNABORTED means that this client has left; the next one may be waiting.
		if errno != unix.EINTR && errno != unix.ECONNABORTED {
			return -1, errno
		}
	}
}

// tableAtStart is how many descriptors the kernel's table of a worker has room for, in 8 KB:
// enough for most workers.
const tableAtStart = 1024

// enlargeTable has the kernel enlarge its table of this process's descriptors to n, or to the
// limit of open files. The kernel does so by itself when the table is full, but then the thread
// that needs a descriptor waits for 10 ms or more, until no other thread can be looking at the
// former table (expand_fdtable in Linux's fs/file.c).
func enlargeTable(n int) {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur < uint64(n) {
		n = int(limit.Cur)
	}
	if fd, err := unix.FcntlInt(fdLifeline, unix.F_DUPFD_CLOEXEC, n-1); err == nil {
		unix.Close(fd)
	}
}

// shortWait is how long a worker waits for an event without telling the
// scheduler. Under load, events come sooner than this, and a wait known to the
// scheduler costs two more futex calls and wakes another thread.
const shortWait = time.Millisecond

// epollWait waits for events, at most d, and returns their number. A signal ends
// the wait with 0. The scheduler is not told of the first shortWait.
func epollWait(ep int, events []unix.EpollEvent, d time.Duration) int {
	first := min(d, shortWait)
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), uintptr((first+time.Millisecond-1)/time.Millisecond), 0, 0)
	if errno == 0 && n == 0 && d > shortWait {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), uintptr((d - first).Milliseconds()), 0, 0)
	}
	if errno != 0 {
		return 0
	}
	return int(n)
}

// nap sleeps for d, at most shortWait, without telling the scheduler.
func nap(d time.Duration) {
	if d > 0 {
		t := unix.NsecToTimespec(int64(min(d, shortWait)))
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
	}
}

// waitForOthers has the kernel let a process that runs finish its turn before a thread of
// this process that has woken (SCHED_BATCH, sched(7)). A policy that the operator has chosen
// stays. Processes that this one starts later inherit the policy.
func waitForOthers() error {
	if policy, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0); errno != 0 || policy != unix.SCHED_NORMAL {
		return nil
	}
	var priority int32 // 0, as only real-time policies have priorities
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_BATCH, uintptr(unsafe.Pointer(&priority)))
	if errno != 0 {
		return os.NewSyscallError("sched_setscheduler", errno)
	}
	return nil
}

// rawRecvmsg reads from a unix socket and receives at most one descriptor, made
// close-on-exec. passed is -1 without a descriptor, and -2 if descriptors were
// lost, because the process may open no more files or several were sent. A
// datagram longer than b is an error, EMSGSIZE.
func rawRecvmsg(fd int, b []byte) (n, passed int, errno syscall.Errno) {
	var control [cmsgOneFD]byte
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	msg := unix.Msghdr{Iov: &iov, Control: &control[0]}
	msg.SetIovlen(1)
	for {
		msg.SetControllen(unix.CmsgLen(4)) // CMSG_SPACE would have room for two descriptors
		r, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return 0, -1, e
		}
		passed = -1
		if uintptr(msg.Controllen) >= uintptr(unix.CmsgLen(4)) {
			passed = int(int32(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):])))
		}
		if msg.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			if passed >= 0 {
				unix.Close(passed)
			}
			passed = -2
		}
		if msg.Flags&unix.MSG_TRUNC != 0 {
			return 0, -1, unix.EMSGSIZE
		}
		return int(r), passed, 0
	}
}

// cmsgOneFD is CMSG_SPACE(4), the room for one descriptor, on every architecture.
const cmsgOneFD = 24

// memfd makes an anonymous file in memory with the content b and offset 0. No other user
// can open the file anew by way of /proc, only use a descriptor that we pass.
func memfd(name string, b []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return -1, os.NewSyscallError("fchmod", err)
	}
	n, err := unix.Pwrite(fd, b, 0)
	if err == nil && n < len(b) {
		err = unix.ENOSPC
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("pwrite", err)
	}
	return fd, nil
}

// seal makes a memfd read-only for every process and for good.
func seal(fd int) error { return addSeals(fd, unix.F_SEAL_WRITE) }

// addSeals fixes the size of a memfd, and forbids what further seals say, for good.
func addSeals(fd, further int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL|further)
	return os.NewSyscallError("fcntl", err)
}

// sendfileCall is the number of the call that takes an offset of 64 bits: sendfile64(2) on the
// architectures of 32 bits.
var sendfileCall = func() uintptr {
	if math.MaxInt == math.MaxInt32 {
		return 239 // of 386 and arm
	}
	return unix.SYS_SENDFILE
}()

// rawSendfile sends the next bytes of a file, and moves at. The scheduler, if told, would look
// for the loop's thread every 20 microseconds, which took a third of the time.
func rawSendfile(socket, file int, at *int64, most int) (int, syscall.Errno) {
	n, _, errno := unix.RawSyscall6(sendfileCall, uintptr(socket), uintptr(file), uintptr(unsafe.Pointer(at)), uintptr(most), 0, 0)
	return int(n), errno
}

// rawOpenat2 opens a name, which ends with a zero byte, below the directory dir. It follows
// links, but none that leads out of dir. EAGAIN means that a directory was moved meanwhile.
func rawOpenat2(dir int, name []byte, flags int) (int, syscall.Errno) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_LARGEFILE), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for tries := 0; ; tries++ {
		fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT2, uintptr(dir), uintptr(unsafe.Pointer(&name[0])),
			uintptr(unsafe.Pointer(&how)), unix.SizeofOpenHow, 0, 0)
		if errno == 0 {
			return int(fd), 0
		}
		if errno != unix.EINTR && (errno != unix.EAGAIN || tries == 10) {
			return -1, errno
		}
	}
}

// openAnew opens the file behind a descriptor again: the new descriptor has a file
// position and rights of its own.
func openAnew(fd, flags int) (int, error) {
	anew, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_CLOEXEC, 0)
	return anew, os.NewSyscallError("open", err)
}

// stamp identifies a version of a file's content. That of a missing file is zero.
type stamp struct {
	dev, ino    uint64
	size, mtime int64
}

func stampOf(path string) (s stamp) {
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		s = stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano()}
	}
	return s
}

// readFile reads at most limit bytes from the start of a memfd or a regular file.
func readFile(fd int, limit int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	b := make([]byte, min(st.Size, int64(limit)))
	n, err := unix.Pread(fd, b, 0)
	return b[:max(n, 0)], os.NewSyscallError("pread", err)
}

// socketpair makes a connected pair of unix sockets, close-on-exec.
func socketpair(kind int) (a, b int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	return p[0], p[1], nil
}

// poll waits until one of events, an error or the peer's end happens on fd, at most
// d. It returns what has happened, 0 after d or for an error of poll(2). A signal
// does not end the wait.
func poll(fd int, events int16, d time.Duration) int16 {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	end := int64(0)
	if d > 0 {
		end = monotonic() + int64(d)
	}
	for {
		_, err := unix.Poll(fds[:], int(max(0, d+time.Millisecond-1)/time.Millisecond))
		if err != unix.EINTR {
			return fds[0].Revents
		}
		d = time.Duration(end - monotonic())
	}
}

// readable reports whether fd has bytes to read or connections to accept.
func readable(fd int) bool { return poll(fd, unix.POLLIN, 0) != 0 }

// rawTCPInfo stores the kernel's information about a TCP connection in info
// (tcp(7), TCP_INFO).
func rawTCPInfo(fd int, info *unix.TCPInfo) syscall.Errno {
	size := uint32(unsafe.Sizeof(*info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&size)), 0)
	return errno
}

// reapAny reaps one dead child; pid is 0 if there is none.
func reapAny() (pid int, status unix.WaitStatus) {
	for {
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return 0, 0
		}
		return pid, status
	}
}

// monotonic is the time in nanoseconds for limits in this process: CLOCK_MONOTONIC,
// which cannot be set, minus the pauses noticed by wake.
func monotonic() int64 { return sharedTime() - paused.Load() }

// sharedTime is CLOCK_MONOTONIC in nanoseconds, the same in every process. The
// runtime reads the clock without a system call.
func sharedTime() int64 { return clockBase + int64(time.Since(clockStart)) }

// paused is the total time for which this process was stopped, in nanoseconds.
var paused atomic.Int64

// tickLate is how late a loop with ticks of one second may be on a busy machine.
// Anything later counts as a pause.
const tickLate = time.Second

// wake returns the time for a loop that calls wake at least once a second; last is
// the result of the previous call. If far more than a second has passed, the
// process was stopped, and most likely its peers as well: by a frozen container,
// a suspended virtual machine, or a laptop's closed lid. Such a pause is added to
// paused, and so counts towards no limit.
func wake(last int64) int64 {
	now := monotonic()
	if late := now - last - int64(time.Second); late > int64(tickLate) {
		paused.Add(late)
		now -= late
	}
	return now
}

var clockStart, clockBase = func() (time.Time, int64) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Now(), ts.Nano()
}()

// addrPort is the address of a TCP socket, without a zone. The result is invalid
// for a socket of another family.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// sockaddr is the reverse of addrPort, with the zone, and the address's family.
func sockaddr(a netip.AddrPort) (sa unix.Sockaddr, family int) {
	port, ip := int(a.Port()), a.Addr()
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: ip.As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: port, Addr: ip.As16(), ZoneId: zoneIndex(ip.Zone())}, unix.AF_INET6
}

// catches reports whether a process has a handler for a signal.
func catches(pid int, s syscall.Signal) bool {
	_, text, _ := strings.Cut(readText(fmt.Sprintf("/proc/%d/status", pid)), "\nSigCgt:\t")
	text, _, _ = strings.Cut(text, "\n")
	set, _ := strconv.ParseUint(text, 16, 64)
	return set>>(s-1)&1 != 0
}

// Users and groups ----------------------------------------------------------
//
// The user and the groups that workers switch to, and the way of the arbiter
// into the background.

// noGroup (nogroup) is the group of a user that the system does not know.
const noGroup = 65534

// credentialOf is the user and the groups that workers switch to, nil if workers
// keep ours. The list of groups is complete: workers lose all our other groups.
func credentialOf(c *config) (*syscall.Credential, error) {
	uid, gid := os.Geteuid(), os.Getegid()
	if (c.user == uid || c.user == 0) && (c.group == gid || c.group == 0) {
		return nil, nil
	}
	for _, id := range []struct {
		name  string
		value int
	}{{"user", c.user}, {"group", c.group}} {
		if id.value < 0 || int64(id.value) >= math.MaxUint32 { // (uint32)-1 means no ID
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
		// No group is set, so c.group is root's. Workers must not keep root's group.
		cred.Gid = noGroup
		if known != nil {
			cred.Gid = groupNumber(known.Gid)
		}
	}
	cred.Groups = []uint32{cred.Gid}
	if !c.initgroups || known == nil {
		return cred, nil
	}
	groups, err := known.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %d: %w", c.user, err)
	}
	for _, group := range groups {
		// Like initgroups(3), use the configured group in place of the user's own.
		if n := groupNumber(group); group != known.Gid && !slices.Contains(cred.Groups, n) {
			cred.Groups = append(cred.Groups, n)
		}
	}
	return cred, nil
}

// groupNumber reads what os/user has checked to be a number.
func groupNumber(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}

// checkCredential checks that this process has the users and groups of cred and no
// others, so that an incomplete switch cannot go unnoticed.
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

// withRightsOf runs f with cred's access to files. Only the current thread changes
// its user and groups, and changes back after f.
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

// setThreadGroups is setgroups(2) for the current thread alone.
func setThreadGroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	return nil
}

// credentialList converts a credential for marshal.
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

// daemonStep is the environment variable that tells a process which step of
// daemonize to carry out.
const daemonStep = "GUNICORN_DAEMON_STEP"

// daemonize starts step 1, a process of this program that leads a session without
// a terminal. Step 1 starts step 2, the arbiter, and ends; the arbiter can never
// acquire a terminal, because it leads no session. A Go program cannot fork, so
// each step reads the settings again.
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
		err = errors.New("the intermediate process has failed")
	}
	if err != nil {
		return fmt.Errorf("daemon: %w", err)
	}
	return nil
}

// daemonStage carries out this process's step of daemonize. It returns true in
// step 2, the arbiter in the background.
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
		nameProcess()
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

// Control groups and limits -------------------------------------------------
//
// Control groups (cgroups(7)) say how much CPU time and memory this process may
// use, and count the processes killed for want of memory: cpu.max, memory.max
// and memory.events in version 2; cpu.cfs_quota_us, memory.limit_in_bytes and
// memory.oom_control in version 1. getrlimit(2) says how many files a process
// may open and how many processes a user may have.

// cgroupDirs returns the directories of our control group and its ancestors,
// nearest first: of version 2 if controller is "", else of a controller of version
// 1. Tests pass a root directory; otherwise root is "".
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
		// The mount may show only a part of the tree, as in a container.
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

// readText is the text of a small file, "" if the file cannot be read.
func readText(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

// forgetStart unmaps the pages of this program's code, of which the start has used twice as
// many as serving does. The kernel maps those again that are used. Code alone is as it is in
// the file: read-only data may have been relocated at the start, and would be lost.
func forgetStart() {
	for line := range strings.Lines(readText("/proc/self/maps")) {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err == nil && mode[1] != 'w' && mode[2] == 'x' && strings.Contains(line, "/") {
			_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

// quotaCPUs is the number of CPUs that the control groups allow, rounded up, or 0
// without a limit.
func quotaCPUs(root string) (cpus int) {
	for _, dir := range append(cgroupDirs(root, ""), cgroupDirs(root, "cpu")...) {
		f := strings.Fields(readText(dir+"/cpu.max") + readText(dir+"/cpu.cfs_quota_us") + readText(dir+"/cpu.cfs_period_us"))
		if len(f) != 2 {
			continue
		}
		quota, _ := strconv.Atoi(f[0]) // 0 for "max", -1 for no limit
		period, _ := strconv.Atoi(f[1])
		if quota > 0 && period > 0 && (cpus == 0 || (quota+period-1)/period < cpus) {
			cpus = (quota + period - 1) / period
		}
	}
	return cpus
}

// memoryLimit is the memory that the control groups allow in bytes, 0 without a
// limit.
func memoryLimit(root string) (least int64) {
	for _, dir := range append(cgroupDirs(root, ""), cgroupDirs(root, "memory")...) {
		text := readText(dir+"/memory.max") + readText(dir+"/memory.limit_in_bytes")
		// "max" is no number; version 1 writes a huge number for no limit.
		if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// usableCPUs is the number of CPUs that this process can keep busy.
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

// memoryWatch follows the number of processes in our control group that the
// kernel has killed for want of memory.
type memoryWatch struct {
	file   string // file with the number, "" if the system has none
	before int    // number at the second to last look
	latest int    // number at the last look
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

// kills is the current number, -1 if the file cannot be read.
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

// look reads the number; the caller calls look once a second. Two numbers are
// kept because a large process takes a while to end after being counted.
func (m *memoryWatch) look() {
	if m.file != "" {
		m.before, m.latest = m.latest, m.kills()
	}
}

// death describes how a process ended; memory reports whether for want of memory.
// The kernel does not say which process was counted, but if the number grew when
// our process was killed, our process was almost certainly the victim.
func (m *memoryWatch) death(s unix.WaitStatus) (text string, memory bool) {
	switch {
	case m.file == "" || !s.Signaled() || s.Signal() != unix.SIGKILL:
		return fate(s), false
	case m.kills() > m.before:
		return "was sent SIGKILL! It was out of memory.", true
	}
	return "was sent SIGKILL!", false
}

// Least resources with which a worker can serve.
const (
	ownFiles   = 16 // descriptors that a worker opens for itself
	leastFiles = 16 // descriptors for clients
	ownTasks   = 8  // threads of a worker and of its Python, with one thread in the application
)

// checkLimits refuses limits under which workers would start, perhaps again and
// again, but serve nobody. Go's runtime has already raised the soft limit of open
// files to the hard limit.
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
		return nil // root has no limit, and a million threads are enough
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

// tasksOf is the number of threads of a user, which RLIMIT_NPROC limits.
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
	leastPythonFiles = 64   // open files with which a Python can import and serve an application
	usualFiles       = 1024 // usual soft limit of open files, and the most that select(2) can handle
)

// allowFiles raises a Python's soft limit of open files to the usual limit if the limit is too
// low for any application. Otherwise the application keeps the limit with which the server was
// started.
func allowFiles(pid int) {
	var limit unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit) == nil && limit.Cur < leastPythonFiles {
		limit.Cur = min(limit.Max, usualFiles)
		_ = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
	}
}
