// Floor answers what bench/ asks with bytes that are ready in memory: one epoll
// loop a process, and no more of HTTP than where a request ends. It calls no
// application. No server can be faster on the same machine by much.
//
//	floor PORT WORKERS FILE
package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const inherited = 3 // the listener, in a child

// client is a connection.
type client struct {
	in   []byte
	out  []byte // of an answer, what is not yet sent
	file int    // bytes of the file that are to follow
	last bool   // the connection ends with this answer
}

type floor struct {
	ep, listener, file int
	fileSize           int
	clients            []*client // by descriptor
	answers            map[string][]byte
	buffer             []byte
}

func main() {
	if len(os.Args) != 4 {
		fatal("usage: floor PORT WORKERS FILE")
	}
	port, err := strconv.Atoi(os.Args[1])
	workers, err2 := strconv.Atoi(os.Args[2])
	if err != nil || err2 != nil {
		fatal("usage: floor PORT WORKERS FILE")
	}
	if workers == 0 {
		serve(inherited, os.Args[3])
	}
	listener := listen(port)
	if workers == 1 {
		serve(listener, os.Args[3])
	}
	for range workers {
		_, err := syscall.ForkExec("/proc/self/exe", []string{os.Args[0], os.Args[1], "0", os.Args[3]}, &syscall.ProcAttr{
			Files: []uintptr{0, 1, 2, uintptr(listener)},
			Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
		})
		check(err)
	}
	for err == nil { // until TERM
		_, err = unix.Wait4(-1, nil, 0, nil)
	}
}

func listen(port int) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	check(err)
	check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	check(unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	check(unix.Listen(fd, 1024))
	return fd
}

func serve(listener int, path string) {
	f := &floor{listener: listener, answers: answers(), buffer: make([]byte, 1<<17), clients: make([]*client, 1<<16)}
	var err error
	if f.file, err = unix.Open(path, unix.O_RDONLY, 0); err == nil {
		var st unix.Stat_t
		check(unix.Fstat(f.file, &st))
		f.fileSize = int(st.Size)
	}
	f.ep, err = unix.EpollCreate1(0)
	check(err)
	f.add(f.listener, unix.EPOLLIN|unix.EPOLLEXCLUSIVE)
	events := make([]unix.EpollEvent, 128)
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(f.ep), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), ^uintptr(0), 0, 0)
		if errno != 0 {
			continue
		}
		for _, e := range events[:n] {
			if int(e.Fd) == f.listener {
				f.accept()
			} else if c := f.clients[e.Fd]; !f.write(int(e.Fd), c) || !f.read(int(e.Fd), c) {
				f.clients[e.Fd] = nil
				unix.Close(int(e.Fd))
			}
		}
	}
}

// answers are by the line that a request begins with.
func answers() map[string][]byte {
	head := func(n int) []byte {
		return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: floor\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"+
			"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n", n)
	}
	var block []byte
	stream := []byte("HTTP/1.1 200 OK\r\nServer: floor\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n" +
		"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	for i := range 256 {
		piece := bytes.Repeat([]byte{byte(i)}, 4096)
		block = append(block, piece...)
		stream = fmt.Appendf(stream, "1000\r\n%s\r\n", piece)
	}
	stream = append(stream, "0\r\n\r\n"...)
	return map[string][]byte{
		"GET /":       append(head(14), "Hello, World!\n"...),
		"POST /post":  append(head(6), "65536\n"...),
		"GET /block":  append(head(len(block)), block...),
		"GET /stream": stream,
		"GET /file":   head(len(block)),
	}
}

func (f *floor) add(fd int, events uint32) {
	check(unix.EpollCtl(f.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

func (f *floor) accept() {
	for {
		fd, _, err := unix.Accept4(f.listener, unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		f.clients[fd] = &client{}
		f.add(fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET)
	}
}

// read takes requests one after another; false when the connection has ended.
func (f *floor) read(fd int, c *client) bool {
	for len(c.out) == 0 && c.file == 0 {
		if c.last {
			return false
		}
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&f.buffer[0])), uintptr(len(f.buffer)))
		if errno == unix.EAGAIN {
			return true
		}
		if errno != 0 || n == 0 {
			return false
		}
		in := f.buffer[:n]
		if len(c.in) > 0 {
			c.in = append(c.in, in...)
			in = c.in
		}
		if !complete(in) {
			c.in = append(c.in[:0], in...)
			continue
		}
		line, _, _ := bytes.Cut(in, []byte(" HTTP/1.1\r\n"))
		c.last = bytes.Contains(in[:min(len(in), 512)], []byte("\nConnection: close\r"))
		c.in = c.in[:0]
		if c.out = f.answers[string(line)]; c.out == nil {
			return false
		}
		if c.last {
			c.out = bytes.Replace(c.out, []byte("\r\n"), []byte("\r\nConnection: close\r\n"), 1)
		}
		if string(line) == "GET /file" {
			c.file = f.fileSize
		}
		if !f.write(fd, c) {
			return false
		}
		// What comes later is an event of its own.
		if n < uintptr(len(f.buffer)) && !c.last {
			return true
		}
	}
	return true
}

// complete says whether b holds a request to its end. Clients send the next
// one when they have the answer.
func complete(b []byte) bool {
	head := bytes.Index(b, []byte("\r\n\r\n"))
	if head < 0 {
		return false
	}
	if b[0] == 'G' {
		return true
	}
	_, value, ok := bytes.Cut(b[:head+1], []byte("Content-Length: "))
	if !ok {
		return true
	}
	value, _, _ = bytes.Cut(value, []byte("\r"))
	n, err := strconv.Atoi(string(value))
	return err != nil || len(b) >= head+4+n
}

// write sends what fits; false when the connection has ended.
func (f *floor) write(fd int, c *client) bool {
	for len(c.out) > 0 {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&c.out[0])), uintptr(len(c.out)))
		if errno == unix.EAGAIN {
			return true
		}
		if errno != 0 {
			return false
		}
		c.out = c.out[n:]
	}
	for c.file > 0 {
		at := int64(f.fileSize - c.file)
		n, err := unix.Sendfile(fd, f.file, &at, c.file)
		if err == unix.EAGAIN {
			return true
		}
		if err != nil || n == 0 {
			return false
		}
		c.file -= n
	}
	return !c.last
}

func check(err error) {
	if err != nil {
		fatal(err.Error())
	}
}

func fatal(text string) {
	fmt.Fprintln(os.Stderr, "floor: "+text)
	os.Exit(1)
}
