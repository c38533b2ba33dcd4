package main

// Messages of the arbiter to a service manager (sd_notify(3)): datagrams with lines
// of NAME=VALUE, sent to the socket in NOTIFY_SOCKET.

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// barrierWait bounds the wait for a manager to read messages that it must have
// before this process ends. A manager that is slower than 2 s is stuck.
const barrierWait = 2 * time.Second

// serviceManager sends messages to the service manager, if there is one.
type serviceManager struct {
	log      *errorLog
	path     string        // socket of the manager, "" without a manager
	silent   bool          // another process is the main process of the service
	watchdog time.Duration // time between two heartbeats, 0 for no heartbeats
	beaten   int64         // time of the last heartbeat
	said     string        // last status line of serving
}

// open reads the manager's socket and watchdog from the environment. silent means
// that this arbiter is not yet the main process of the service.
func (m *serviceManager) open(log *errorLog, silent bool) {
	m.log, m.path, m.silent = log, os.Getenv("NOTIFY_SOCKET"), silent
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		m.watchdog = time.Duration(usec) * time.Microsecond / 2 // as sd_watchdog_enabled(3) advises
	}
}

// ready reports that the server is ready, after the start or a reload.
func (m *serviceManager) ready() { m.send("READY=1", "STATUS=Gunicorn arbiter booted") }

// reloading reports the start of a reload. The time lets a manager with
// Type=notify-reload match the message to its HUP.
func (m *serviceManager) reloading() {
	m.send("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", sharedTime()/1000), "STATUS=Reloading")
}

// stopping reports the end of this arbiter, and the process ID of the heir that
// continues the service, 0 for none. By default a manager accepts messages only
// from the main process, so the heir cannot announce itself.
func (m *serviceManager) stopping(heir int) {
	if heir == 0 {
		m.send("STOPPING=1", "STATUS=Stopping")
		return
	}
	m.send(fmt.Sprintf("MAINPID=%d", heir))
	m.barrier()
}

// promoted makes this process the main process of the service.
func (m *serviceManager) promoted() {
	m.silent = false
	m.send(fmt.Sprintf("MAINPID=%d", os.Getpid()), "READY=1", "STATUS=Gunicorn arbiter booted")
}

// serving shows the number of workers in the status line.
func (m *serviceManager) serving(n, target int) {
	if m.path == "" {
		return
	}
	status := fmt.Sprintf("STATUS=%d of %d workers are serving", n, target)
	if status != m.said {
		m.said = status
		m.send(status)
	}
}

// beat sends a heartbeat if one is due. It returns the time until the next.
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

// sendWith sends lines and a descriptor, -1 for no descriptor.
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
	// unix.SockaddrUnix takes a name with a leading @ for an abstract socket.
	err = unix.Sendmsg(fd, []byte(strings.Join(lines, "\n")), rights, &unix.SockaddrUnix{Name: m.path}, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if err != nil {
		m.log.debugf("NOTIFY_SOCKET: %v", err)
	}
}

// barrier waits until the manager has read all earlier messages. The manager then
// closes the pipe that BARRIER=1 carries (sd_notify_barrier(3)).
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
	poll(p[0], 0, barrierWait)
}
