package main

// The Python of a walk (walk_test.go): what it may say in each state of a request, and, if
// it is hostile, what it may not.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// say has a thread say this. The descriptor is closed when it has gone along.
func (s *walk) say(th *walkThread, b []byte, fd int) {
	s.said += len(b)
	if th.pipe >= 0 && fd >= 0 {
		th.out = append(th.out, walkPiece{b: []byte("-"), fd: fd})
		fd = -1
	}
	if testing.Verbose() && len(b) >= frameHeader {
		s.t.Logf("Python says %+v", readFrame(b))
	}
	first := walkPiece{b: b, fd: fd, pipe: th.pipe >= 0}
	if s.split && len(b) > 1 {
		rest := first
		first.b, rest.b, rest.fd = b[:len(b)/2], b[len(b)/2:], -1
		th.out = append(th.out, first)
		s.split = false
		s.run()
		first = rest
	}
	th.out = append(th.out, first)
	s.write()
}

// write writes what Python has to say, as far as there is room.
func (s *walk) write() (moved bool) {
	for _, th := range s.threads {
		for len(th.out) > 0 {
			p := &th.out[0]
			var n int
			var err error
			switch {
			case p.pipe:
				n, err = unix.Write(th.pipe, p.b)
			case p.fd >= 0:
				n, err = unix.SendmsgN(th.far, p.b, unix.UnixRights(p.fd), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			default:
				n, err = unix.SendmsgN(th.far, p.b, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			}
			if err == unix.EAGAIN {
				break
			}
			moved = true
			if err != nil { // nobody listens
				n = len(p.b)
			}
			closeAll(p.fd)
			p.fd, p.b = -1, p.b[n:]
			if len(p.b) == 0 {
				th.out = th.out[1:]
			}
		}
	}
	return moved
}

// take has a thread receive a message from its queue.
func (s *walk) take(th *walkThread) bool {
	if len(th.batch) > 0 {
		return false // it is busy
	}
	var rights [64]byte
	n, m, _, _, err := unix.Recvmsg(th.back, queueBuf[:], rights[:], unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil || n < frameHeader {
		return false
	}
	var batch []*walkRequest
	for rest := queueBuf[:n]; len(rest) >= frameHeader; {
		f := readFrame(rest)
		end := min(frameHeader+int(f.length), len(rest))
		switch f.kind {
		case kindRequest:
			r := &walkRequest{number: f.number, thread: th, left: -1, more: f.flags&flagMore != 0}
			r.recognize(s, rest[frameHeader:end])
			batch = append(batch, r)
		case kindIndirect:
			r := &walkRequest{number: f.number, thread: th, left: -1, more: f.flags&flagMore != 0, awaits: true}
			batch = append(batch, r)
			end = len(rest)
		case kindOpen:
			s.openThread(rights[:m])
		case kindAsk:
			s.say(th, frame{kind: kindHere, flags: f.flags}.append(nil), -1)
		case kindRecord:
			end = len(rest)
		default:
			s.t.Fatalf("a frame of kind %d in the queue", f.kind)
		}
		rest = rest[end:]
	}
	if s.streams() == nil {
		th.batch, th.several = batch, len(batch) > 1
		s.begin(th)
		return true
	}
	for _, r := range batch {
		s.call(r)
	}
	return true
}

func (s *walk) openThread(rights []byte) {
	list, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(list) != 1 {
		s.t.Fatal("a lane without descriptors")
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 2 {
		s.t.Fatal("a lane without descriptors")
	}
	th := &walkThread{lane: s.python.lanes[len(s.threads)], back: fds[0], far: fds[1], pipe: -1, lent: -1}
	s.threads = append(s.threads, th)
	if len(s.threads)%2 == 0 {
		s.openPipe(th)
	}
}

// recognize finds the mark in what the worker says of a request.
func (r *walkRequest) recognize(s *walk, payload []byte) {
	_, after, ok := bytes.Cut(payload, []byte("/~"))
	mark, _, ok2 := bytes.Cut(after, []byte("~"))
	if !ok || !ok2 {
		return // of no client's own making
	}
	r.mark = string(mark)
	_, _ = fmt.Sscanf(r.mark, "%d.%d.%c", &r.client, &r.nth, &r.kind)
}

// begin has a thread begin the first request of what it has received.
func (s *walk) begin(th *walkThread) {
	if len(th.batch) == 0 {
		return
	}
	r := th.batch[0]
	if i := th.lane.index; th.several {
		s.python.begun[i].Store(r.number)
		if s.python.halts[i].Load() == r.number {
			s.say(th, frame{number: r.number, kind: kindLeft}.append(nil), -1)
			th.batch = nil
			return
		}
	}
	s.call(r)
}

// call is the application being called.
func (s *walk) call(r *walkRequest) {
	s.requests[r.number] = r
	r.hadMore = r.more
	if r.awaits { // an environ that did not fit
		s.ask(r, 1<<20)
		return
	}
	if r.mark != "" && s.begun[r.mark] && !s.hostile {
		s.t.Fatalf("request %s is executed twice", r.mark)
	}
	s.begun[r.mark] = true
}

func (s *walk) ask(r *walkRequest, n uint32) {
	b := frame{length: 4, number: r.number, kind: kindRead}.append(nil)
	s.say(r.thread, binary.LittleEndian.AppendUint32(b, n), -1)
}

// hear takes what the worker says over the wire.
func (s *walk) hear(th *walkThread) (moved bool) {
	for {
		n, fd, errno := rawRecvmsg(th.far, queueBuf[:])
		if fd >= 0 {
			closeAll(th.lent)
			th.lent = fd
		}
		if errno != 0 || n == 0 {
			break
		}
		moved = true
		th.heard = append(th.heard, queueBuf[:n]...)
	}
	for len(th.heard) >= frameHeader {
		f := readFrame(th.heard)
		end := frameHeader + int(f.length)
		if len(th.heard) < end {
			break
		}
		s.heard(th, f, th.heard[frameHeader:end])
		th.heard = th.heard[end:]
	}
	return moved
}

func (s *walk) heard(th *walkThread, f frame, payload []byte) {
	r := s.requests[f.number]
	if r == nil {
		return // it is over, or not begun
	}
	switch f.kind {
	case kindRequest:
		r.awaits = false
		r.recognize(s, payload)
		s.call(r)
	case kindBody:
		r.awaits = false
		r.more = r.more && f.flags&(flagLast|flagBroken) == 0 && (s.streams() != nil || f.meta == 0)
	case kindLent:
		r.awaits = false
		if r.taken = f.flags&flagTaken != 0; r.taken && th.lent >= 0 {
			_, _ = rawWrite(th.lent, fmt.Appendf(nil, "<n%d>", r.number))
		}
		closeAll(th.lent)
		th.lent = -1
	case kindCredit:
		r.sent -= int(f.meta)
	}
}

// end is the application having answered.
func (s *walk) end(r *walkRequest, whole bool) {
	r.done, r.whole, r.thread.moved = true, whole, s.now
	if th := r.thread; s.streams() == nil {
		th.batch = th.batch[1:]
		s.begin(th)
	}
}

// running are the requests that an application could go on with, in order.
func (s *walk) running() (list []*walkRequest) {
	for _, r := range s.requests {
		if !r.done && !(r.awaits && (s.streams() == nil || r.mark == "")) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *walkRequest) int { return int(int32(a.number - b.number)) })
	return list
}

// metaFrame is a frame with marshal and more.
func metaFrame(number uint32, kind, flags byte, meta []byte, body string) []byte {
	f := frame{length: uint32(len(meta) + len(body)), number: number, meta: uint32(len(meta)), kind: kind, flags: flags}
	return append(append(f.append(nil), meta...), body...)
}

func pairsMarshal(b []byte, fields ...string) []byte {
	b = appendMarshalList(b, len(fields)/2)
	for pair := range slices.Chunk(fields, 2) {
		b = appendMarshalText(appendMarshalText(appendMarshalTuple(b, 2), pair[0]), pair[1])
	}
	return b
}

// bodySizes are how long a piece of a body is: mostly short.
var bodySizes = [16]int{0, 1, 10, 10, 100, 100, 100, 100, 1000, 1000, 5000, 17000, 40000, 40000, 100000, 300000}

// body is a piece of an answer. It says whose, and whether it is the last.
func (r *walkRequest) body(size byte, last bool) string {
	b := fmt.Sprintf("<n%d>", r.number) + strings.Repeat("m", bodySizes[size%16])
	if last {
		b += fmt.Sprintf("<e%d>", r.number)
	}
	return b
}

// speak is an application that goes on with a request, as far as lane.py and
// asgi.py let it.
func (s *walk) speak(r *walkRequest, a, b byte) {
	switch {
	case r.kind == askSocket && s.streams() != nil:
		s.speakSocket(r, a, b)
	case r.taken:
		s.fail(r, flagQuiet)
	case !r.started:
		s.speakFirst(r, a, b)
	default:
		s.speakOn(r, a, b)
	}
}

func (s *walk) fail(r *walkRequest, flags byte) {
	s.say(r.thread, frame{number: r.number, kind: kindFailed, flags: flags & flagQuiet}.append(nil), -1)
	s.end(r, false)
}

// speakFirst is an application that has not begun its answer.
func (s *walk) speakFirst(r *walkRequest, a, b byte) {
	th, n := r.thread, r.number
	r.noBody = r.kind == askHead
	switch a % 12 {
	case 0, 1:
		text := r.body(b, true)
		s.respond(r, flagLast, "200 OK", text, "Content-Length", fmt.Sprint(len(text)))
	case 2, 3:
		s.respond(r, flagLast, "200 OK", r.body(b, true))
	case 4, 5:
		s.respond(r, 0, "200 OK", r.body(b, false), []string{"A", "b", "Content-Length", "100"}[b&2:b&2+2]...)
	case 6:
		s.passFile(r, b)
	case 7, 8:
		if r.more {
			r.awaits = true
			s.ask(r, uint32(b)<<8+1)
		} else {
			s.fail(r, 0)
		}
	case 9:
		meta := pairsMarshal(nil, "Link", "</a>")
		if b >= 224 {
			meta = mistake(b)
		}
		s.say(th, metaFrame(n, kindHints, 0, meta, ""), -1)
	case 10:
		switch {
		case s.streams() != nil:
			s.fail(r, b)
		case b&1 != 0:
			s.say(th, frame{number: n * uint32(b>>1&1), kind: kindLogged}.append(nil), -1)
		default:
			r.awaits = true
			s.say(th, frame{number: n, kind: kindSocket}.append(nil), -1)
		}
	case 11:
		// What has no body, or is a mistake of the application's.
		status := []string{"204 No Content", "304 Not Modified", "abc", "200 OK\r\n", "500 Error", "200"}[b/16%6]
		r.noBody, r.started = true, true
		head := pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), status), "A", "b")
		if b >= 96 {
			head = mistake(b)
		}
		s.sayBody(r, kindResponse, b&flagClose|b&flagLast, head, r.body(0, true))
	}
}

// mistake is what an application may have put in the place of a status and its
// headers.
func mistake(b byte) []byte {
	head := appendMarshalText(appendMarshalTuple(nil, 2), "200 OK")
	pair := appendMarshalText(appendMarshalTuple(appendMarshalList(head, 1), 2), "A")
	switch b % 8 {
	case 0: // a set
		return append(head, '<', 0, 0, 0, 0)
	case 1: // a complex number
		return append(pair, 'y', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	case 2: // a number that is too long
		return append(pair, 'l', 9, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0)
	case 3: // lists in lists
		return append(append(pair, bytes.Repeat([]byte{'[', 1, 0, 0, 0}, 3000)...), 'N')
	case 4:
		return append(head, 'N')
	case 5:
		return appendMarshalText(pair, "x\r\ny")
	case 6:
		return appendMarshalInt(pair, 7)
	}
	return pairsMarshal(appendMarshalInt(appendMarshalTuple(nil, 2), 200), "A", "b")
}

// respond begins an answer.
func (s *walk) respond(r *walkRequest, flags byte, status, body string, fields ...string) {
	r.started = true
	if len(fields) == 2 && fields[0] == "Content-Length" && flags&flagLast == 0 {
		if r.left = 100 - len(body); r.left <= 0 { // Python sees to its end, and says no more
			r.left, flags = 0, flagLast
		}
	}
	head := pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), status), fields...)
	s.sayBody(r, kindResponse, flags, head, body)
}

// sayBody says a frame with a piece of the body: a long one goes through the ring, or over
// the wire beside a pipe.
func (s *walk) sayBody(r *walkRequest, kind, flags byte, head []byte, body string) {
	r.sent += len(body)
	th := r.thread
	var place []byte
	if len(body) > smallMax && r.number%2 == 0 {
		place = shout(th.lane, &th.ringAt, body)
	}
	if place != nil {
		s.say(th, metaFrame(r.number, kind, flags|flagShared, head, string(place)), -1)
	} else if th.pipe >= 0 && len(body) > 32768 {
		b := metaFrame(r.number, kind, flags|flagApart, head, body)
		s.say(th, b[:len(b)-len(body)], -1)
		th.out = append(th.out, walkPiece{b: []byte(body), fd: -1})
		s.write()
	} else {
		s.say(th, metaFrame(r.number, kind, flags, head, body), -1)
	}
	if flags&flagLast != 0 {
		s.end(r, true)
	}
}

// passFile answers with a file, which has the request's mark in it.
func (s *walk) passFile(r *walkRequest, b byte) {
	text := r.body(b, true)
	fd, err := memfd("file", []byte("before"+text))
	if err != nil {
		s.t.Fatal(err)
	}
	s.say(r.thread, fileFrame(r.number, 6, uint64(len(text)), "200 OK"), fd)
	s.end(r, true)
}

// speakOn is an application in the middle of its answer.
func (s *walk) speakOn(r *walkRequest, a, b byte) {
	if s.streams() != nil && r.sent >= window {
		s.hear(r.thread)
		if r.sent >= window {
			a = 9 // it waits, unless it fails
		}
	}
	switch a % 10 {
	case 0, 1, 2:
		body := r.body(b, false)
		if r.left >= 0 && len(body) >= r.left {
			s.sayBody(r, kindBlock, flagLast, nil, body)
			return
		}
		r.left -= len(body)
		s.sayBody(r, kindBlock, 0, nil, body)
	case 3, 4, 5:
		r.whole = r.left < 0
		s.sayBody(r, kindBlock, flagLast, nil, r.body(b, true))
	case 6:
		if s.streams() != nil && r.kind == askTrailer {
			s.say(r.thread, metaFrame(r.number, kindTrailer, flagLast, pairsMarshal(nil, "x-t", "t"), ""), -1)
			s.end(r, false)
			return
		}
		s.sayBody(r, kindBlock, flagLast, nil, "")
		r.whole = false
	case 7, 8:
		if r.more {
			r.awaits = true
			s.ask(r, uint32(b)<<8+1)
		}
	case 9:
		s.fail(r, b)
	}
}

// speakSocket is the application of a WebSocket.
func (s *walk) speakSocket(r *walkRequest, a, b byte) {
	n, th := r.number, r.thread
	switch a %= 10; {
	case r.accepted && a < 6:
		if r.sent >= window {
			s.hear(th)
		}
		if r.sent < window {
			text := r.body(b, false)
			r.sent += len(text)
			s.say(th, metaFrame(n, kindMessage, flagLast|b&flagText, nil, text), -1)
		}
	case r.accepted && a < 9:
		meta := appendMarshalText(appendMarshalInt(appendMarshalTuple(nil, 2), 1000+int64(b)*20), strings.Repeat("why", int(b)))
		s.say(th, metaFrame(n, kindShut, flagLast, meta, ""), -1)
		s.end(r, false)
	case r.accepted:
		s.fail(r, flagQuiet)
	case r.started:
		s.speakOn(r, a, b)
	case a < 7:
		meta := pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), ""), "x-a", "b")
		if b >= 224 {
			meta = mistake(b)
		}
		s.say(th, metaFrame(n, kindAccept, 0, meta, ""), -1)
		r.accepted = true
	case a < 8:
		s.respond(r, 0, "403 Forbidden", r.body(b, false))
	case a < 9:
		s.respond(r, flagLast, "403 Forbidden", r.body(b, true))
	default:
		s.fail(r, b)
	}
}

// Steps of an honest Python.
var honestSteps = map[string]func(s *walk, a, b byte){
	"take": func(s *walk, a, b byte) { s.take(s.threads[int(a)%len(s.threads)]) },
	"hear": func(s *walk, a, b byte) { s.hear(s.threads[int(a)%len(s.threads)]) },
	"speak": func(s *walk, a, b byte) {
		if list := s.running(); len(list) > 0 {
			s.speak(list[int(a>>4)%len(list)], a&15, b)
		}
	},
	// The application reads on after the end of its answer.
	"read late": func(s *walk, a, b byte) {
		var late []*walkRequest
		for _, r := range s.requests {
			if r.done && r.hadMore && !r.taken && s.streams() == nil && len(r.thread.batch) == 0 {
				late = append(late, r)
			}
		}
		if len(late) > 0 {
			slices.SortFunc(late, func(a, b *walkRequest) int { return int(int32(b.number - a.number)) })
			s.ask(late[0], uint32(b)+1)
		}
	},
}

// Steps of a hostile one, beside those.
var hostileSteps = map[string]func(s *walk, a, b byte){
	// A frame that could be one.
	"frame": func(s *walk, a, b byte) {
		n := s.anyNumber(a >> 5)
		meta := [][]byte{nil, mistake(b), mistake(b >> 3), pairsMarshal(nil, "A", "b"),
			pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), "200 OK"), "A", "b"),
			pairsMarshal(appendMarshalText(appendMarshalTuple(nil, 2), ""), "A", "b"),
			appendMarshalText(appendMarshalInt(appendMarshalTuple(nil, 2), 1000), "why"),
			appendMarshalTuple(nil, 1<<30)}[b%8]
		body := []string{"", fmt.Sprintf("<n%d>", n), "\x01\x00\x00\x00", strings.Repeat("\x00", 16), strings.Repeat("b", 70000)}[b>>3%5]
		kinds := []byte{kindResponse, kindBlock, kindFile, kindFailed, kindRead, kindHints, kindLogged, kindSocket, kindAccept,
			kindMessage, kindShut, kindTrailer, kindLeft, kindTail, kindHere, kindRetire, kindPipe, kindReady, kindWatch, b}
		s.say(s.threads[0], metaFrame(n, kinds[int(a&31)%len(kinds)], b>>4, meta, body), s.anyDescriptor(a^b))
	},
	// A body in shared memory, which may be anywhere, and longer than all.
	"ring": func(s *walk, a, b byte) {
		place := binary.LittleEndian.AppendUint32(nil, uint32(a)<<(b%32))
		place = binary.LittleEndian.AppendUint32(place, []uint32{uint32(a) << (b % 32), 1 << 20, ringSize, ringSize + 1, 0}[b%5])
		kind := []byte{kindResponse, kindBlock, kindMessage, kindFile}[b>>3%4]
		s.say(s.threads[0], metaFrame(s.anyNumber(a>>5), kind, flagShared|b&flagLast, nil, string(place[:8-b>>5%2])), -1)
	},
	// A header in which everything is anything.
	"header": func(s *walk, a, b byte) {
		n := s.anyNumber(a >> 5)
		s.say(s.threads[0], frame{length: uint32(b) << (a % 25), meta: uint32(b>>4) << (a % 25), number: n, kind: a % 48, flags: b}.append(nil), s.anyDescriptor(b))
	},
	"bytes": func(s *walk, a, b byte) {
		s.say(s.threads[0], bytes.Repeat([]byte{a, b, 0}, int(b)%40+1), s.anyDescriptor(a))
	},
	// Beside a pipe, bytes that belong to no frame.
	"stray": func(s *walk, a, b byte) {
		s.threads[0].out = append(s.threads[0].out, walkPiece{b: []byte{a}, fd: s.anyDescriptor(b)})
	},
	"flood": func(s *walk, a, b byte) {
		n, body := s.anyNumber(a>>5), strings.Repeat("f", 60000)
		kind := []byte{kindBlock, kindMessage, kindResponse, kindHints}[b%4]
		for range 100 {
			s.say(s.threads[0], metaFrame(n, kind, 0, nil, body), -1)
			s.run()
		}
	},
	"ask on": func(s *walk, a, b byte) {
		n := s.anyNumber(a >> 5)
		for range int(b) {
			s.say(s.threads[0], binary.LittleEndian.AppendUint32(frame{length: 4, number: n, kind: kindRead}.append(nil), 1<<31), -1)
		}
	},
	"pipe": func(s *walk, a, b byte) {
		if th := s.threads[0]; th.pipe < 0 && !s.python.closed {
			s.openPipe(th)
		}
	},
	"shut wire": func(s *walk, a, b byte) { _ = unix.Shutdown(s.far, int(b%3)) },
	"close pipe": func(s *walk, a, b byte) {
		if th := s.threads[0]; th.pipe >= 0 {
			closeAll(th.pipe)
			th.pipe = -1
		}
	},
	// What a request is in the shared memory.
	"words": func(s *walk, a, b byte) {
		[]*atomic.Uint32{&s.python.begun[0], &s.python.halts[0], &s.python.giveUp[0], &s.python.taken[0]}[a%4].Store(s.anyNumber(b))
	},
}

// anyNumber is that of a request: a new one mostly, an old one, one to come, none.
func (s *walk) anyNumber(a byte) uint32 {
	switch a %= 8; a {
	case 6:
		return 0
	case 7:
		return s.python.number + 1
	}
	return s.python.number - uint32(a)/2
}

// anyDescriptor is one of a file, of a pipe or of a socket, or mostly none.
func (s *walk) anyDescriptor(a byte) int {
	var ends [2]int
	var err error
	switch a % 16 {
	case 0, 1:
		ends[0], err = memfd("file", make([]byte, 100))
		ends[1] = -1
	case 2:
		err = unix.Pipe2(ends[:], unix.O_CLOEXEC)
	case 3:
		ends[0], ends[1], err = socketpair(unix.SOCK_STREAM)
	default:
		return -1
	}
	if err != nil {
		s.t.Fatal(err)
	}
	closeAll(ends[1])
	return ends[0]
}
