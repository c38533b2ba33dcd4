package main

// System calls that golang.org/x/sys/unix has no form of that fits: each
// wrapper makes one call and says what it does about EINTR and EAGAIN.
//
// The ones called for every request are raw: they never block, so the Go
// scheduler need not be told, and telling it costs more than the call. The
// one place where a worker may sleep is epollWait.

import (
	"encoding/binary"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawRead reads what is there: n > 0 bytes, 0 at end of file, or an error
// (EAGAIN when nothing is there yet). It works on sockets and pipes.
func rawRead(fd int, b []byte) (int, syscall.Errno) { return rawTransfer(unix.SYS_READ, fd, b) }

// rawWrite writes what fits now. MSG_NOSIGNAL is not needed: the runtime
// ignores SIGPIPE for descriptors above 2.
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

// rawWritev writes two pieces by one call, as much as fits now.
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

// rawSend sends one message of two pieces. The usual one has no second, and then
// the simpler call does.
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

// unsent is how many bytes a socket still has that its peer has not taken.
func unsent(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

// unread is how many bytes a socket has for us.
func unread(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// rawAccept takes one connection, non-blocking and close-on-exec. The address
// is left in sa.
func rawAccept(fd int, sa *unix.RawSockaddrAny) (int, syscall.Errno) {
	for {
		size := uint32(unix.SizeofSockaddrAny)
		nfd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(sa)),
			uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == 0 {
			return int(nfd), 0
		}
		// A client that left while it waited is no reason to stop.
		if errno != unix.EINTR && errno != unix.ECONNABORTED {
			return -1, errno
		}
	}
}

// shortWait is how long a worker waits for the next event without telling the
// scheduler. Under load something comes sooner, and a sleep that the scheduler
// knows of costs two more futex calls and a wake-up of another thread.
const shortWait = time.Millisecond

// epollWait waits for events, at most d, and returns how many there are; a
// signal ends the wait with none. The first shortWait of it is raw.
func epollWait(ep int, events []unix.EpollEvent, d time.Duration) int {
	first := min(d, shortWait)
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), uintptr((first+time.Millisecond-1)/time.Millisecond), 0, 0)
	if errno != 0 {
		return 0
	}
	if n > 0 || d <= shortWait {
		return int(n)
	}
	n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), uintptr((d - first).Milliseconds()), 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// epollAdd, epollMod and epollDel keep data in the event: the descriptor and
// a word of the caller's.
func epollAdd(ep, fd int, events uint32, word int32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: word}))
}

func epollMod(ep, fd int, events uint32, word int32) {
	_ = unix.EpollCtl(ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: word})
}

func epollDel(ep, fd int) {
	_ = unix.EpollCtl(ep, unix.EPOLL_CTL_DEL, fd, nil)
}

// rawRecvmsg reads from a unix socket and takes one passed descriptor, which
// the kernel makes close-on-exec; passed is -1 without one, and -2 if it is lost,
// because there was no room for it or several came. A datagram that is longer than
// b is EMSGSIZE.
func rawRecvmsg(fd int, b []byte) (n, passed int, errno syscall.Errno) {
	var control [cmsgOneFD]byte
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	msg := unix.Msghdr{Iov: &iov, Control: &control[0]}
	msg.SetIovlen(1)
	for {
		msg.SetControllen(unix.CmsgLen(4)) // CMSG_SPACE would let two in
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

// cmsgOneFD is room for one descriptor on every architecture: CMSG_SPACE(4).
const cmsgOneFD = 24

// memfd makes an anonymous file in memory that holds b, its offset at 0.
func memfd(name string, b []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	for at := 0; at < len(b); {
		n, err := unix.Pwrite(fd, b[at:], int64(at))
		if err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("pwrite", err)
		}
		at += n
	}
	return fd, nil
}

// seal makes a memfd read-only for whoever has it, for ever.
func seal(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS,
		unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return os.NewSyscallError("fcntl", err)
}

// readFile reads a memfd or other regular file from its start, at most limit
// bytes of it.
func readFile(fd int, limit int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	b := make([]byte, min(st.Size, int64(limit)))
	for at := 0; at < len(b); {
		n, err := unix.Pread(fd, b[at:], int64(at))
		if err != nil {
			return nil, os.NewSyscallError("pread", err)
		}
		if n == 0 {
			return b[:at], nil
		}
		at += n
	}
	return b, nil
}

// socketpair makes a connected pair of unix sockets, close-on-exec.
func socketpair(kind int) (a, b int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	return p[0], p[1], nil
}

// selectRead waits until fd is readable, at most d. A signal ends the wait
// with false: the caller is about to look at its clock and queue anyway, and a
// second full wait would make it late.
func selectRead(fd int, d time.Duration) (bool, error) {
	var set unix.FdSet
	set.Set(fd)
	tv := unix.NsecToTimeval(d.Nanoseconds())
	n, err := unix.Select(fd+1, &set, nil, nil, &tv)
	if err == unix.EINTR {
		return false, nil
	}
	return n > 0, os.NewSyscallError("select", err)
}

// readable says whether fd has something to read or accept now.
func readable(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// rawTCPInfo is what the kernel knows of a TCP connection (tcp(7), TCP_INFO).
func rawTCPInfo(fd int, info *unix.TCPInfo) syscall.Errno {
	size := uint32(unsafe.Sizeof(*info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&size)), 0)
	return errno
}

// ended says whether a socket has nothing to read any more but its end.
func ended(fd int) bool {
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n == 0 && err == nil
}

// reapAny takes one dead child: 0 when there is none.
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

// monotonic is CLOCK_MONOTONIC, which no one can set, without the pauses in which
// this process did not run: nanoseconds. The system call is made once; after that
// the runtime reads the clock without one.
func monotonic() int64 { return sharedTime() - paused.Load() }

// sharedTime is the same in every process.
func sharedTime() int64 { return clockBase + int64(time.Since(clockStart)) }

// paused is how long this process did not run, as far as it has noticed.
var paused atomic.Int64

// tickLate is how late a loop that looks at the clock once a second may be on a
// busy machine.
const tickLate = time.Second

// wake is the time, for a loop that looks at the clock at least once a second and
// did so at the time last. When much more has passed, the process was stopped, and
// most likely everything with it: a container that is frozen, a virtual machine, a
// laptop with its lid closed. Such time counts for no limit.
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

// addrPort is the address of a TCP socket, without its zone; it is not valid for a
// socket of another family.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
