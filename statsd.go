package main

// Metrics for statsd: one datagram each. A datagram costs more than anything
// else that a short request does, so those of requests wait for a moment and
// go out together; what a log counts is sent at once.

import (
	"strconv"
	"sync"
	"time"
)

// statsd sends metrics. A nil statsd is one that is turned off. Any goroutine
// may use it.
type statsd struct {
	mu     sync.Mutex
	out    *datagrams
	prefix string
	tags   string // what each datagram ends with
	due    int64  // when those of requests must go, 0 without any
}

// statsdWait is how long the metrics of a request may wait.
const statsdWait = 10 * time.Millisecond

// openStatsd returns nil when the settings, or a host that nobody knows, leave
// no address.
func openStatsd(c *config) (*statsd, error) {
	if c.statsdTo == "" {
		return nil, nil
	}
	out, err := openDatagrams(splitTarget(c.statsdTo))
	if err != nil {
		return nil, err
	}
	out.unordered()
	s := &statsd{out: out, prefix: c.statsdPrefix}
	if s.prefix != "" && s.prefix[len(s.prefix)-1] != '.' {
		s.prefix += "."
	}
	if c.dogstatsdTags != "" {
		s.tags = "|#" + c.dogstatsdTags
	}
	return s, nil
}

// request is called once for each request.
func (s *statsd) request(status []byte, took time.Duration, now int64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due == 0 {
		s.due = now + int64(statsdWait)
	}
	b := append(s.begin(), "gunicorn.request.duration:"...)
	s.end(append(appendMillis(b, took), "|ms"...))
	s.end(append(s.begin(), "gunicorn.requests:1|c|@1.0"...))
	b = append(s.begin(), "gunicorn.request.status."...)
	for _, c := range status {
		if c < '0' || c > '9' {
			break
		}
		b = append(b, c)
	}
	s.end(append(b, ":1|c|@1.0"...))
}

// appendMillis appends milliseconds as Python prints a float of them.
func appendMillis(b []byte, d time.Duration) []byte {
	micros := d.Microseconds()
	b = append(strconv.AppendInt(b, micros/1000, 10), '.')
	dot := len(b)
	b = strconv.AppendInt(b, 1000+micros%1000, 10)
	b = append(b[:dot], b[dot+1:]...) // without the 1 that kept the zeros
	for len(b) > dot+1 && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

// logged counts a record of the error log, whatever the log's own level.
func (s *statsd) logged(level logLevel) {
	switch level {
	case levelWarning:
		s.send("gunicorn.log.warning:1|c|@1.0")
	case levelError:
		s.send("gunicorn.log.error:1|c|@1.0")
	case levelCritical:
		s.send("gunicorn.log.critical:1|c|@1.0")
	}
}

// send sends one metric, NAME:VALUE|TYPE, now.
func (s *statsd) send(metric string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(append(s.begin(), metric...))
	_, _ = s.out.flush()
}

// flush sends what request has gathered, if it is time, and returns how long
// it can wait otherwise; negative with nothing to wait for.
func (s *statsd) flush(now int64) (wait int64) {
	if s == nil {
		return -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due == 0 {
		return -1
	}
	if now < s.due {
		return s.due - now
	}
	s.due = 0
	_, _ = s.out.flush()
	return -1
}

func (s *statsd) begin() []byte { return append(s.out.buf, s.prefix...) }

// end completes the metric that b ends with.
func (s *statsd) end(b []byte) {
	s.out.buf = append(b, s.tags...)
	_, _ = s.out.end()
}

func (s *statsd) close() {
	if s != nil {
		_, _ = s.out.flush()
		s.out.close()
	}
}
