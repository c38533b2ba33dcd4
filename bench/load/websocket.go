package main

// The WebSocket modes. All connections belong to one epoll loop with plain
// reads and writes, so that what is measured is the server: a goroutine for
// each connection takes several times as long for a message.

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	wsText  = 0x81 // the only frame of its message
	wsRSV1  = 0x40 // compressed (RFC 7692)
	wsClose = 0x88
	wsPing  = 0x89
	wsPong  = 0x8a
)

// wsGUID is what RFC 6455 1.3 has a server add to the key.
const wsGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// socket is a WebSocket.
type socket struct {
	fd      int
	deflate bool      // permessage-deflate is agreed on
	in      []byte    // bytes of frames that are not complete
	want    string    // the text that must come back, "" while none is due
	sent    time.Time // when it was sent
	count   int       // messages that came back
	err     error     // why it has ended
}

type sockets struct {
	ep     int
	all    map[int]*socket // by descriptor
	buffer []byte
	next   bool // an echo is followed by the next message
	took   []time.Duration
}

// echo has each connection send a message when it has the last one back.
func echo(addr string) (o outcome) {
	s := dialAll(addr)
	s.next = true
	begin := time.Now()
	for _, c := range s.all {
		s.send(c, text(32))
	}
	for end := begin.Add(*duration); s.poll(time.Until(end)); {
	}
	// One that has ended does not get another chance: errors are connections.
	counts := []int{}
	for _, c := range s.all {
		counts = append(counts, c.count)
		if c.err != nil {
			o.Errors++
			o.Problem = c.err.Error()
		}
	}
	if len(s.took) > 0 {
		o.Slowest = float64(slices.Min(counts)) * float64(*connections) / float64(len(s.took))
	}
	o.Rate = float64(len(s.took)) / duration.Seconds()
	o.Short = summary(s.took)
	return o
}

// hold opens connections, has one message echoed on each, and keeps them until
// standard input ends. It says how many had agreed on compression, and in the
// end how many are left.
func hold(addr string) (o outcome) {
	s := dialAll(addr)
	for _, c := range s.all {
		s.send(c, text(256)) // long enough to be worth compressing
		for end := time.Now().Add(30 * time.Second); c.want != "" && c.err == nil && s.poll(time.Until(end)); {
		}
		if c.err == nil && c.want != "" {
			c.err = errors.New("no echo in 30 s")
		}
		if c.err != nil {
			fatal(c.err.Error())
		}
		if c.deflate {
			o.Deflate++
		}
	}
	fmt.Println(o.Deflate)
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for waiting := true; waiting; {
		s.poll(50 * time.Millisecond)
		select {
		case <-ended:
			waiting = false
		default:
		}
	}
	for _, c := range s.all {
		if c.err == nil {
			o.Left++
		} else {
			o.Problem = c.err.Error()
		}
	}
	return o
}

func dialAll(addr string) *sockets {
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().Is4() {
		fatal(addr + ": not an IPv4 address with a port")
	}
	s := &sockets{all: map[int]*socket{}, buffer: make([]byte, 1<<16)}
	if s.ep, err = unix.EpollCreate1(0); err != nil {
		fatal(err.Error())
	}
	for range *connections {
		c, err := dialSocket(to)
		if err == nil {
			err = unix.EpollCtl(s.ep, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)})
		}
		if err != nil {
			fatal(fmt.Sprintf("WebSocket %d: %v", len(s.all), err))
		}
		s.all[c.fd] = c
		s.poll(0) // the first ones may be asked for a sign of life meanwhile
	}
	return s
}

func dialSocket(to netip.AddrPort) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &socket{fd: fd}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return nil, err
	}
	if err := c.shakeHands(to.String()); err != nil {
		return nil, err
	}
	return c, unix.SetNonblock(fd, true)
}

func (c *socket) shakeHands(host string) error {
	var nonce [16]byte
	binary.NativeEndian.PutUint64(nonce[:], rand.Uint64())
	binary.NativeEndian.PutUint64(nonce[8:], rand.Uint64())
	key := base64.StdEncoding.EncodeToString(nonce[:])
	request := "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n"
	if *deflate {
		request += "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" // as browsers do
	}
	if _, err := unix.Write(c.fd, []byte(request+"\r\n")); err != nil {
		return err
	}
	var head []byte
	buffer := make([]byte, 4096)
	for !bytes.Contains(head, []byte("\r\n\r\n")) {
		n, err := unix.Read(c.fd, buffer)
		if err == unix.EINTR {
			continue // the runtime's own signals end a read that has a time limit
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("the handshake ends after %q", head)
		}
		head = append(head, buffer[:n]...)
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return err
	}
	sum := sha1.Sum([]byte(key + wsGUID))
	extensions := response.Header.Get("Sec-WebSocket-Extensions")
	switch {
	case response.StatusCode != 101:
		return errors.New("the handshake gets " + response.Status)
	case response.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return errors.New("wrong Sec-WebSocket-Accept")
	case extensions != "" && !(*deflate && strings.HasPrefix(extensions, "permessage-deflate")):
		return fmt.Errorf("extensions that were not offered: %q", extensions)
	}
	c.deflate = extensions != ""
	_, rest, _ := bytes.Cut(head, []byte("\r\n\r\n"))
	c.in = append(c.in, rest...)
	return nil
}

// poll waits for at most d and answers what has come; false when the time is over.
func (s *sockets) poll(d time.Duration) bool {
	if d < 0 {
		return false
	}
	var events [128]unix.EpollEvent
	n, err := unix.EpollWait(s.ep, events[:], int((d+time.Millisecond-1)/time.Millisecond))
	if err != nil && err != unix.EINTR {
		fatal(err.Error())
	}
	for i := range max(n, 0) {
		c := s.all[int(events[i].Fd)]
		if err := s.read(c); err != nil {
			c.err = err
			_ = unix.EpollCtl(s.ep, unix.EPOLL_CTL_DEL, c.fd, nil)
		}
	}
	return true
}

// read takes all frames that are whole.
func (s *sockets) read(c *socket) error {
	n, err := unix.Read(c.fd, s.buffer)
	if err == unix.EAGAIN || err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	if n == 0 {
		return io.ErrUnexpectedEOF
	}
	in := s.buffer[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, in...)
		in = c.in
	}
	for len(in) >= 2 {
		// What is expected is shorter than 64 KB.
		size, start := int(in[1]), 2
		if size == 126 && len(in) >= 4 {
			size, start = int(binary.BigEndian.Uint16(in[2:])), 4
		} else if size > 125 && size != 126 {
			return fmt.Errorf("a frame that begins with %x", in[:2])
		} else if size == 126 {
			break
		}
		if len(in) < start+size {
			break
		}
		if err := s.frame(c, in[0], in[start:start+size]); err != nil {
			return err
		}
		in = in[start+size:]
	}
	c.in = append(c.in[:0], in...)
	return nil
}

func (s *sockets) frame(c *socket, first byte, payload []byte) error {
	switch {
	case first == wsPing:
		return c.write(wsPong, payload)
	case first == wsPong:
		return nil
	case first == wsClose:
		return fmt.Errorf("the server closes it: %q", payload)
	case first == wsText|wsRSV1 && c.deflate:
		// What RFC 7692 7.2.2 has the receiver add, and an empty last block.
		packed := io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))
		plain, err := io.ReadAll(flate.NewReader(packed))
		if err != nil {
			return err
		}
		payload = plain
	case first != wsText:
		return fmt.Errorf("a frame that begins with %x", first)
	}
	if c.want == "" || string(payload) != c.want {
		return fmt.Errorf("%q came back for %q", payload, c.want)
	}
	now := time.Now()
	c.want = ""
	c.count++
	if s.next {
		s.took = append(s.took, now.Sub(c.sent))
		return s.sendAt(c, text(32), now)
	}
	return nil
}

// text is a message like no other, so that an echo of an earlier one is noticed.
func text(n int) string {
	var b [256]byte
	r := rand.Uint64()
	for i := range n {
		b[i] = "0123456789abcdef"[r>>(4*(i%16))&15]
	}
	return string(b[:n])
}

func (s *sockets) send(c *socket, message string) {
	if err := s.sendAt(c, message, time.Now()); err != nil {
		c.err = err
	}
}

func (s *sockets) sendAt(c *socket, message string, now time.Time) error {
	c.want, c.sent = message, now
	if !c.deflate {
		return c.write(wsText, []byte(message))
	}
	// The first message of a connection needs none of the context of others,
	// and hold sends no more.
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err == nil {
		_, err = w.Write([]byte(message))
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	return c.write(wsText|wsRSV1, bytes.TrimSuffix(packed.Bytes(), []byte("\x00\x00\xff\xff")))
}

// write sends a frame. It always fits, since little is ever unanswered.
func (c *socket) write(first byte, payload []byte) error {
	var b [4 + 4 + 512]byte
	frame := append(b[:0], first)
	if len(payload) < 126 {
		frame = append(frame, 0x80|byte(len(payload)))
	} else {
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(len(payload)))
	}
	mask := rand.Uint32()
	frame = binary.LittleEndian.AppendUint32(frame, mask)
	for i, octet := range payload {
		frame = append(frame, octet^byte(mask>>(8*(i%4))))
	}
	n, err := unix.Write(c.fd, frame)
	if err == nil && n < len(frame) {
		err = io.ErrShortWrite
	}
	return err
}
