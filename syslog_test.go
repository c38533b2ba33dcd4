package main

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseSyslogAddr(t *testing.T) {
	for _, tc := range []struct {
		addr, network, host string
		port                int
		err                 string
	}{
		{"udp://localhost:514", "udp", "localhost", 514, ""},
		{"udp://LOG", "udp", "log", 514, ""},
		{"udp://", "udp", "", 514, ""},
		{"tcp://[::1]:5", "tcp", "::1", 5, ""},
		{"tcp://[::1]", "tcp", "::1", 514, ""},
		{"unix:///dev/log", "unix", "/dev/log", 0, ""},
		{"unix:///dev/log#stream", "unix", "/dev/log", 0, ""},
		{"unix:///dev/log#dgram", "unixgram", "/dev/log", 0, ""},
		{"udp://a:", "", "", 0, "'' is not a valid port number."},
		{"udp://a:1x", "", "", 0, "'1x' is not a valid port number."},
		{"udp://a:70000", "", "", 0, "'70000' is not a valid port number."},
		{"unix:/dev/log", "", "", 0, "invalid syslog address"},
		{"localhost:514", "", "", 0, "invalid syslog address"},
		{"", "", "", 0, "invalid syslog address"},
	} {
		network, host, port, err := parseSyslogAddr(tc.addr)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if network != tc.network || host != tc.host || port != tc.port || text != tc.err {
			t.Errorf("%s: %q %q %d %q", tc.addr, network, host, port, text)
		}
	}
}

// datagramSink receives datagrams on a port of the kernel's choice.
func datagramSink(t *testing.T) (to string, receive func() string) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := make([]byte, 1<<16)
	return "udp " + c.LocalAddr().String(), func() string {
		c.SetReadDeadline(time.Now().Add(waitLimit))
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestStatsdRequest(t *testing.T) {
	to, receive := datagramSink(t)
	s, err := openStatsd(&config{statsdTo: to, statsdPrefix: "a", dogstatsdTags: "b:c"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for took, want := range map[time.Duration]string{
		0: "0.0", 999 * time.Nanosecond: "0.0", time.Microsecond: "0.001", 1150 * time.Microsecond: "1.15",
		time.Second: "1000.0", 61*time.Second + 20*time.Microsecond: "61000.02",
	} {
		s.request([]byte("200 OK"), took, 0)
		s.flush(int64(statsdWait))
		got := []string{receive(), receive(), receive()}
		if want := []string{
			"a.gunicorn.request.duration:" + want + "|ms|#b:c", "a.gunicorn.requests:1|c|@1.0|#b:c",
			"a.gunicorn.request.status.200:1|c|@1.0|#b:c",
		}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// More than one batch between two flushes arrives, all of it.
func TestStatsdBatches(t *testing.T) {
	to, receive := datagramSink(t)
	s, err := openStatsd(&config{statsdTo: to})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	const n = datagramBatch + 2
	for range n {
		s.request([]byte("404"), time.Millisecond, 0)
	}
	s.flush(int64(statsdWait))
	count := map[string]int{}
	for range 3 * n {
		count[receive()]++
	}
	for _, metric := range []string{"gunicorn.request.duration:1.0|ms", "gunicorn.requests:1|c|@1.0", "gunicorn.request.status.404:1|c|@1.0"} {
		if count[metric] != n {
			t.Errorf("%s came %d times, not %d", metric, count[metric], n)
		}
	}
}

func TestMetricsAndSyslogAllocations(t *testing.T) {
	to, _ := datagramSink(t)
	s, err := openStatsd(&config{statsdTo: to, statsdPrefix: "a", dogstatsdTags: "b:c"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := openSyslog(&config{syslog: true, syslogTo: to, syslogFacility: "user"})
	if err != nil {
		t.Fatal(err)
	}
	status, line := []byte("200 OK"), []byte(strings.Repeat("x", 100))
	for range 100 {
		s.request(status, 0, 0)
		l.access(line)
	}
	if n := testing.AllocsPerRun(1000, func() {
		s.request(status, time.Second, 0)
		l.access(line)
		s.flush(int64(statsdWait))
		l.flush()
	}); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

// A record that is longer than a datagram can be is cut, and one that is longer
// than the queue of a stream does not get in.
func TestSyslogLong(t *testing.T) {
	to, receive := datagramSink(t)
	long := strings.Repeat("x", syslogPending)
	l, err := openSyslog(&config{syslog: true, syslogTo: to, syslogFacility: "user"})
	if err != nil {
		t.Fatal(err)
	}
	l.text(levelInfo, "error", []byte(long), true)
	if got := receive(); len(got) != datagramMax {
		t.Errorf("%d bytes", len(got))
	}
	var said []string
	l, err = openSyslog(&config{syslog: true, syslogTo: "tcp 127.0.0.1:1", syslogAddr: "S", syslogFacility: "user"})
	if err != nil {
		t.Fatal(err)
	}
	l.report = func(_ string, args ...any) { said = append(said, args[0].(string)) }
	l.text(levelInfo, "error", []byte(long), true)
	l.text(levelInfo, "error", []byte(long), true)
	if want := []string{"syslog S: it does not take them; records for it may be lost"}; !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
	l.close()
}
