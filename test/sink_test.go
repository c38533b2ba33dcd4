package test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// logSink receives what a script's server sends to syslog or statsd, and keeps it
// in a file of its own name. Datagrams become lines.
type logSink struct {
	addr  string
	close func()
}

func (s *script) openSink(name, network string) {
	s.t.Helper()
	addr := "127.0.0.1:0"
	old := s.sinks[name]
	if old != nil {
		old.close()
		addr = old.addr
	} else if network == "unix" || network == "unixgram" {
		addr = filepath.Join(s.t.TempDir(), "sock")
	}
	out, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	k := &logSink{}
	switch network {
	case "udp", "unixgram":
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			s.t.Fatal(err)
		}
		k.addr, k.close = c.LocalAddr().String(), func() { c.Close(); os.Remove(addr) }
		go func() {
			defer out.Close()
			b := make([]byte, 1<<16)
			for {
				n, _, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				out.Write(append(b[:n:n], '\n'))
			}
		}()
	default: // tcp, unix; stalled is tcp that nobody reads
		if network == "stalled" {
			network = "tcp"
			out.Close()
			out = nil
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			s.t.Fatal(err)
		}
		var open []net.Conn
		done := make(chan struct{})
		k.addr = l.Addr().String()
		k.close = func() {
			l.Close()
			<-done
			for _, c := range open {
				c.Close()
			}
		}
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				open = append(open, c)
				if out != nil {
					go io.Copy(out, c)
				}
			}
		}()
	}
	k.close = sync.OnceFunc(k.close)
	s.t.Cleanup(k.close)
	s.sinks[name] = k
}

func init() {
	commands["sink"] = func(s *script, w []scriptWord) { s.t.Helper(); s.openSink(w[0].text, w[1].text) }
	commands["unsink"] = func(s *script, w []scriptWord) { s.sinks[w[0].text].close() }
	arity["sink"], arity["unsink"] = 2, 1
}
