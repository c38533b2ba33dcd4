package main

// Datagrams for syslog and statsd. Nobody answers them and nobody waits for
// them: those that the kernel has no room for are lost.

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	datagramBatch = 64       // sent by one system call; the kernel cuts no message into more
	datagramMax   = 60 << 10 // bytes of the longest: more does not fit into UDP
)

// datagrams are messages to one address: the caller appends to buf, says where
// each message ends, and sends many by one system call. The socket is not
// connected, so a receiver that comes back needs no attention.
type datagrams struct {
	fd   int
	buf  []byte
	n    int // messages in buf
	ends [datagramBatch]int

	name unix.RawSockaddrAny
	iov  [datagramBatch]unix.Iovec
	msgs [datagramBatch]mmsghdr

	// segments is the kernel's word that it cuts a message into datagrams of
	// one size (UDP_SEGMENT in udp(7)), which costs a sixth of sending each. It
	// is for those whose order means nothing.
	segments bool
	cuts     [datagramBatch]segment
}

// segment is the control message that says at what size to cut.
type segment struct {
	hdr  unix.Cmsghdr
	size uint16
	_    [6]byte
}

// mmsghdr is the kernel's: Go pads it as C does.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// openDatagrams makes a socket for an address: IP:PORT for the network udp,
// otherwise a path.
func openDatagrams(network, addr string) (*datagrams, error) {
	d := &datagrams{}
	size, err := rawAddress(&d.name, network, addr)
	if err != nil {
		return nil, err
	}
	d.fd, err = unix.Socket(int(d.name.Addr.Family), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for i := range d.msgs {
		h := &d.msgs[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&d.name)), size
	}
	return d, nil
}

// rawAddress fills in what the kernel wants to see, and returns its size.
func rawAddress(raw *unix.RawSockaddrAny, network, addr string) (size uint32, err error) {
	if network != "udp" {
		sa := (*unix.RawSockaddrUnix)(unsafe.Pointer(raw))
		sa.Family = unix.AF_UNIX
		path := unsafe.Slice((*byte)(unsafe.Pointer(&sa.Path[0])), len(sa.Path))
		if len(addr) >= len(path) {
			return 0, fmt.Errorf("%q: the path of a socket has less than %d bytes", addr, len(path))
		}
		return uint32(unsafe.Offsetof(sa.Path)) + uint32(copy(path, addr)) + 1, nil
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, err
	}
	port := [2]byte{byte(to.Port() >> 8), byte(to.Port())}
	ip := to.Addr()
	if ip.Is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(raw)) = unix.RawSockaddrInet4{
			Family: unix.AF_INET, Port: *(*uint16)(unsafe.Pointer(&port)), Addr: ip.As4(),
		}
		return unix.SizeofSockaddrInet4, nil
	}
	*(*unix.RawSockaddrInet6)(unsafe.Pointer(raw)) = unix.RawSockaddrInet6{
		Family: unix.AF_INET6, Port: *(*uint16)(unsafe.Pointer(&port)), Addr: ip.As16(), Scope_id: zoneIndex(ip.Zone()),
	}
	return unix.SizeofSockaddrInet6, nil
}

// end says that what was appended to buf since the last time is a message,
// and sends if that makes a batch.
func (d *datagrams) end() (lost int, err error) {
	start := 0
	if d.n > 0 {
		start = d.ends[d.n-1]
	}
	if len(d.buf)-start > datagramMax {
		d.buf = d.buf[:start+datagramMax]
	}
	d.ends[d.n] = len(d.buf)
	if d.n++; d.n == datagramBatch {
		return d.flush()
	}
	return 0, nil
}

// flush sends all messages, and returns how many were lost and why.
func (d *datagrams) flush() (lost int, err error) {
	n := d.n
	groups := d.group()
	d.n, d.buf = 0, d.buf[:0]
	for sent := 0; sent < groups; {
		m, errno := rawSendmmsg(d.fd, d.msgs[sent:groups])
		if errno != 0 {
			if errno != unix.EAGAIN {
				d.segments = false // not to this receiver, perhaps
			}
			return n - sent, errno
		}
		sent += m
	}
	return 0, nil
}

// group makes the kernel's messages, and returns how many there are: one for
// each of ours, or for all of one size.
func (d *datagrams) group() (groups int) {
	var done [datagramBatch]bool
	for i, at := 0, 0; i < d.n; i++ {
		if done[i] {
			continue
		}
		first, size := at, len(d.message(i))
		for j := i; j < d.n; j++ {
			if b := d.message(j); !done[j] && len(b) == size {
				done[j] = true
				d.iov[at].Base = unsafe.SliceData(b)
				d.iov[at].SetLen(size)
				at++
			}
			if !d.segments {
				break
			}
		}
		h := &d.msgs[groups].hdr
		h.Iov = &d.iov[first]
		h.SetIovlen(at - first)
		h.Control = nil
		h.SetControllen(0)
		if at-first > 1 {
			s := &d.cuts[groups]
			s.hdr.Level, s.hdr.Type, s.size = unix.IPPROTO_UDP, unix.UDP_SEGMENT, uint16(size)
			s.hdr.SetLen(unix.CmsgLen(2))
			h.Control = (*byte)(unsafe.Pointer(s))
			h.SetControllen(unix.CmsgSpace(2))
		}
		groups++
	}
	return groups
}

func (d *datagrams) message(i int) []byte {
	if i == 0 {
		return d.buf[:d.ends[0]]
	}
	return d.buf[d.ends[i-1]:d.ends[i]]
}

// unordered lets the kernel have datagrams of one size together.
func (d *datagrams) unordered() {
	d.segments = d.name.Addr.Family != unix.AF_UNIX &&
		unix.SetsockoptInt(d.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0) == nil
}

func (d *datagrams) close() { unix.Close(d.fd) }

// rawSendmmsg sends the messages that there is room for now, one at least.
func rawSendmmsg(fd int, msgs []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(msgs))),
			uintptr(len(msgs)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// resolveLogs looks up where syslog and statsd are, once, for the arbiter and
// its workers: later nothing may wait for a name. Without its metrics a server
// does its work, so what is wrong there is only a warning.
func (c *config) resolveLogs() (warning, err error) {
	if c.syslog {
		network, host, port, err := parseSyslogAddr(c.syslogAddr)
		if err == nil && port > 0 {
			host, err = lookupHost(host, port)
		}
		if err != nil {
			return nil, fmt.Errorf("syslog_addr: %w", err)
		}
		c.syslogTo = network + " " + host
	}
	if c.statsdHost != "" {
		addr, err := parseAddress(c.statsdHost, 0)
		switch {
		case err != nil:
			return nil, fmt.Errorf("statsd_host: %w", err)
		case addr.network == "unix":
			c.statsdTo = "unixgram " + addr.path
		default:
			host, err := lookupHost(addr.host, addr.port)
			if err != nil {
				return fmt.Errorf("statsd_host: %w; no metrics are sent", err), nil
			}
			c.statsdTo = "udp " + host
		}
	}
	return nil, nil
}

// splitTarget splits what resolveLogs has found.
func splitTarget(to string) (network, addr string) {
	network, addr, _ = strings.Cut(to, " ")
	return network, addr
}

func lookupHost(host string, port int) (string, error) {
	if host == "" {
		host = "localhost"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil || len(ips) == 0 {
			return "", fmt.Errorf("%s: [Errno -2] Name or service not known", pyRepr(host))
		}
		// Of a name with both kinds of addresses the old kind, where daemons
		// have always listened.
		i := slices.IndexFunc(ips, func(a netip.Addr) bool { return a.Unmap().Is4() })
		ip = ips[max(i, 0)]
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)).String(), nil
}
