package main

// What the arbiter tells a service manager, by sd_notify(3): datagrams of
// NAME=VALUE lines to the socket that NOTIFY_SOCKET names.

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// barrierWait bounds the wait until the manager has read what must arrive
// before this process ends.
const barrierWait = 2 * time.Second

// serviceManager is nobody until open has found one.
type serviceManager struct {
	log      *errorLog
	path     string
	silent   bool          // another process speaks for the service
	watchdog time.Duration // how often to say that we live, 0 for never
	beaten   int64
	said     string
}

// open finds out whom to tell. silent is for an arbiter that is not yet the
// main process of the service.
func (m *serviceManager) open(log *errorLog, silent bool) {
	m.log, m.path, m.silent = log, os.Getenv("NOTIFY_SOCKET"), silent
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		m.watchdog = time.Duration(usec) * time.Microsecond / 2 // as sd_watchdog_enabled(3) advises
	}
}

// ready says that clients can connect, for the first time or again.
func (m *serviceManager) ready() { m.send("READY=1", "STATUS=Gunicorn arbiter booted") }

// reloading must carry the time, or a unit of Type=notify-reload cannot tell
// which HUP it answers.
func (m *serviceManager) reloading() {
	m.send("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", sharedTime()/1000), "STATUS=Reloading")
}

// stopping also says who goes on, if somebody does. Only the main process of a
// service is believed that by default, so the one that leaves has to say it.
func (m *serviceManager) stopping(heir int) {
	if heir == 0 {
		m.send("STOPPING=1", "STATUS=Stopping")
		return
	}
	m.send(fmt.Sprintf("MAINPID=%d", heir))
	m.barrier()
}

// promoted makes this process the one that speaks.
func (m *serviceManager) promoted() {
	m.silent = false
	m.send(fmt.Sprintf("MAINPID=%d", os.Getpid()), "READY=1", "STATUS=Gunicorn arbiter booted")
}

// serving keeps the number of workers in the status line.
func (m *serviceManager) serving(n, target int) {
	status := fmt.Sprintf("STATUS=%d of %d workers are serving", n, target)
	if status != m.said {
		m.said = status
		m.send(status)
	}
}

// beat says that the arbiter's loop turns. It returns how long that holds.
func (m *serviceManager) beat() time.Duration {
	if m.watchdog == 0 || m.path == "" {
		return time.Hour
	}
	now := sharedTime() // the manager's clock goes on while this process is stopped
	if left := m.beaten + int64(m.watchdog) - now; left > 0 {
		return time.Duration(left)
	}
	m.beaten = now
	m.send("WATCHDOG=1")
	return m.watchdog
}

func (m *serviceManager) send(lines ...string) {
	if m.path != "" && !m.silent {
		m.sendWith(-1, lines...)
	}
}

// sendWith passes a descriptor along, -1 for none.
func (m *serviceManager) sendWith(passed int, lines ...string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		m.log.debugf("NOTIFY_SOCKET: %v", err)
		return
	}
	defer unix.Close(fd)
	var rights []byte
	if passed >= 0 {
		rights = unix.UnixRights(passed)
	}
	// A name with a leading @ is abstract, for the kernel and for us.
	err = unix.Sendmsg(fd, []byte(strings.Join(lines, "\n")), rights, &unix.SockaddrUnix{Name: m.path}, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if err != nil {
		m.log.debugf("NOTIFY_SOCKET: %v", err)
	}
}

// barrier waits until the manager has read all that was sent: it closes the
// descriptor that comes with it (sd_notify_barrier(3)).
func (m *serviceManager) barrier() {
	if m.path == "" || m.silent {
		return
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return
	}
	defer unix.Close(p[0])
	m.sendWith(p[1], "BARRIER=1")
	unix.Close(p[1])
	for end := monotonic() + int64(barrierWait); ; {
		left := end - monotonic()
		if left <= 0 {
			return
		}
		fds := []unix.PollFd{{Fd: int32(p[0])}}
		if n, err := unix.Poll(fds, int(left/1e6)+1); err != unix.EINTR && (err != nil || n >= 0) {
			return
		}
	}
}
