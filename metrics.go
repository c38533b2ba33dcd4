package main

// --metrics: the scoreboard in the text format of Prometheus, served by a process
// of its own. The arbiter must never talk to a client, and a worker cannot read
// the pages of other workers. The metrics process runs as the workers' user; of
// the arbiter's descriptors it has only read access to the scoreboard.

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// metricsTitle begins the name of the metrics process in the process list, and
// tells the binary which process to be.
const metricsTitle = "gunicorn: metrics ["

// Limits for clients of the metrics process.
const (
	metricsTime    = 2 * time.Second // longest time for one request and its response
	metricsHead    = 8 << 10         // bytes of a request's head
	metricsClients = 64              // connections at a time; one more closes the oldest
)

// Descriptors of the metrics process.
const (
	fdMetricsLifeline = 3 + iota // read end of a pipe; EOF means the arbiter has ended
	fdMetricsScores              // the scoreboard's first page, read-only
	fdMetricsPages               // the workers' pages, read-only
	fdMetricsListener            // the listener
)

// metrics is the arbiter's hold on it.
type metrics struct {
	helper
	text     string // the setting as it was followed
	listener *bound
}

// set follows the setting, at the start and at each reload. What cannot be
// bound leaves everything as it was.
func (m *metrics) set(a *arbiter, c *config) error {
	if c.metrics == m.text {
		return nil
	}
	var l *bound
	if c.metrics != "" {
		addr, _ := parseBind(c.metrics) // has been checked
		fd, err := a.bindOnce(c, addr)
		if err != nil {
			return fmt.Errorf("metrics: %s: %w", c.metrics, err)
		}
		l = &bound{fd: fd, addr: addr}
	}
	m.close(a)
	m.text, m.listener = c.metrics, l
	return nil
}

// close ends the process.
func (m *metrics) close(a *arbiter) {
	if m.listener != nil {
		a.closeBound([]*bound{m.listener})
	}
	if m.pid > 0 {
		_ = unix.Kill(m.pid, unix.SIGKILL) // it holds nothing
	}
	m.text, m.listener, m.pid = "", nil, 0
}

// start starts the process. An arbiter that another has started leaves the address
// to that one, until it is gone.
func (m *metrics) start(a *arbiter) (pid int, err error) {
	if a.passed.parent > 0 {
		return 0, nil
	}
	if err := m.set(a, a.cfg); err != nil || m.listener == nil {
		return 0, err
	}
	files := []uintptr{0, 1, 2, uintptr(a.lifeR)}
	for _, fd := range []int{a.scores.fd, a.scores.pages} {
		read, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(read)
		files = append(files, uintptr(read))
	}
	return syscall.ForkExec("/proc/self/exe", []string{metricsTitle + a.cfg.name() + "]", m.text}, &syscall.ProcAttr{
		Files: append(files, uintptr(m.listener.fd)),
		Sys:   &syscall.SysProcAttr{Credential: a.cfg.credential},
	})
}

// runMetrics is the whole life of the process.
func runMetrics() int {
	for fd := fdMetricsLifeline; fd <= fdMetricsListener; fd++ {
		unix.CloseOnExec(fd)
	}
	go func() {
		var b [1]byte
		for {
			if n, err := unix.Read(fdMetricsLifeline, b[:]); err != unix.EINTR && n <= 0 {
				os.Exit(0)
			}
		}
	}()
	f := os.NewFile(fdMetricsListener, "listener")
	l, err := net.FileListener(f)
	if err != nil {
		fmt.Fprintf(os.Stderr, "gunicorn: metrics: %v\n", err)
		return exitFailure
	}
	f.Close()
	addr, _ := parseBind(os.Args[1])
	var clients [metricsClients]net.Conn // the newest connections, as a ring; closing a connection twice is harmless
	for i := 0; ; i = (i + 1) % metricsClients {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintf(os.Stderr, "gunicorn: metrics: %v\n", err)
			return exitFailure
		}
		if clients[i] != nil {
			clients[i].Close()
		}
		clients[i] = c
		go func() {
			serveMetrics(c, addr)
			c.Close()
		}()
	}
}

// metricsHost reports whether a request's host may stand for this address. The
// check defeats DNS rebinding: a hostile web page makes a browser request its own
// host name, after the host's name server has changed that name to this address.
func metricsHost(host []byte, addr address) bool {
	name := string(host)
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	_, err := netip.ParseAddr(name)
	return err == nil || name == "" || name == "localhost" || name == addr.host || addr.network == "unix"
}

// serveMetrics answers one request.
func serveMetrics(c net.Conn, addr address) {
	_ = c.SetDeadline(time.Now().Add(metricsTime))
	status, body := "200 OK", ""
	r, bad := readMetricsRequest(c)
	path := ""
	if bad == nil && r != nil {
		path, _, _ = strings.Cut(string(r.target), "?")
	}
	switch {
	case bad != nil:
		status = fmt.Sprintf("%d %s", bad.status, bad.reason)
	case r == nil:
		return // the client has left
	case !metricsHost(r.host, addr) || !metricsHost(r.authority, addr):
		status = "421 Misdirected Request"
	case string(r.method) != "GET" && string(r.method) != "HEAD":
		status = "405 Method Not Allowed"
	case path != "/metrics" && path != "/":
		status = "404 Not Found"
	default:
		scores, err := readScoreboard(fdMetricsScores, fdMetricsPages)
		if err != nil {
			status, body = "500 Internal Server Error", err.Error()+"\n"
			break
		}
		body = string(scores.prometheus(nil))
	}
	if body == "" {
		body = status + "\n"
	}
	head := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n", status, len(body))
	if r != nil && string(r.method) == "HEAD" {
		body = ""
	}
	_, _ = c.Write([]byte(head + body))
}

// readMetricsRequest reads the head of a request, and ignores a body. The request
// is nil without an error if the client has left.
func readMetricsRequest(c net.Conn) (*request, *badRequest) {
	cfg := &config{limitRequestLine: 4094, limitRequestFields: 100, limitRequestFieldSize: 8190}
	r := &request{}
	r.reset()
	b := make([]byte, 0, metricsHead)
	for len(b) < cap(b) {
		n, err := c.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if n, bad := r.parse(b, cfg, false); bad != nil || n > 0 {
			return r, bad
		}
		if err != nil {
			return nil, nil
		}
	}
	return nil, newBadRequest(431, "", "")
}

// prometheus appends the reading in Prometheus's text format 0.0.4.
func (r *reading) prometheus(b []byte) []byte {
	family := func(name, kind, help string) {
		b = fmt.Appendf(b, "# HELP gunicorn_%s %s\n# TYPE gunicorn_%s %s\n", name, help, name, kind)
	}
	one := func(name, kind, help string, value any) {
		family(name, kind, help)
		b = fmt.Appendf(b, "gunicorn_%s %v\n", name, value)
	}
	family("info", "gauge", "The server.")
	b = fmt.Appendf(b, "gunicorn_info{version=%q} 1\n", version)
	one("start_time_seconds", "gauge", "When the arbiter started, as Unix time.", seconds3(r.started))
	one("workers_wanted", "gauge", "Number of workers wanted.", r.target)
	states := map[string]int{}
	var lanes, busy, waiting, open int
	var memory [2]int64
	for _, w := range r.workers {
		states[w.state]++
		lanes, busy, waiting, open = lanes+w.lanes, busy+w.busy, waiting+w.waiting, open+w.open
		memory[0] += residentBytes(w.pid)
		memory[1] += residentBytes(w.python)
	}
	family("workers", "gauge", "Workers by state.")
	for _, state := range []string{"booting", "idle", "busy", "stopping"} {
		b = fmt.Appendf(b, "gunicorn_workers{state=%q} %d\n", state, states[state])
	}
	family("worker_ends_total", "counter", "Workers that have ended, by cause.")
	for i, n := range r.restarts {
		b = fmt.Appendf(b, "gunicorn_worker_ends_total{cause=%q} %d\n", causeNames[i], n)
	}
	one("lanes", "gauge", "Requests that the application can run at a time.", lanes)
	one("lanes_busy", "gauge", "Requests running in the application.", busy)
	one("requests_waiting", "gauge", "Requests waiting for the application.", waiting)
	one("connections", "gauge", "Open connections.", open)
	one("connections_accepted_total", "counter", "Connections accepted.", r.total.connections.Load())
	family("requests_total", "counter", "Responses, by class of status.")
	for class := 1; class < len(r.total.answers); class++ {
		b = fmt.Appendf(b, "gunicorn_requests_total{status=\"%dxx\"} %d\n", class, r.total.answers[class].Load())
	}
	one("request_failures_total", "counter", "Responses with status 500 or above, and responses cut off.", r.total.failures.Load())
	one("response_bytes_total", "counter", "Bytes of response bodies.", r.total.bytes.Load())
	family("request_duration_seconds", "histogram", "Time from the start of a request in the application to the end of its response.")
	b = r.total.duration.prometheus(b, "request_duration_seconds")
	family("queue_wait_seconds", "histogram", "Time from the arrival of a request to its start in the application.")
	b = r.total.wait.prometheus(b, "queue_wait_seconds")
	family("resident_memory_bytes", "gauge", "Resident memory of all workers and of their Pythons; shared memory counts for each.")
	b = fmt.Appendf(b, "gunicorn_resident_memory_bytes{process=\"worker\"} %d\n", memory[0])
	return fmt.Appendf(b, "gunicorn_resident_memory_bytes{process=\"python\"} %d\n", memory[1])
}

func (h *histogram) prometheus(b []byte, name string) []byte {
	n := uint64(0)
	for i := range h.counts {
		n += h.counts[i].Load()
		le := "+Inf"
		if i < len(bounds) {
			le = strconv.FormatFloat(bounds[i].Seconds(), 'g', -1, 64)
		}
		b = fmt.Appendf(b, "gunicorn_%s_bucket{le=%q} %d\n", name, le, n)
	}
	return fmt.Appendf(b, "gunicorn_%s_sum %v\ngunicorn_%s_count %d\n", name, time.Duration(h.sum.Load()).Seconds(), name, n)
}
