package main

// What Python says, frame by frame, and what becomes of it: a response's head
// and body for the client, a demand for more of the request, a failure.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// replies takes what a lane has said. What is in memory comes first, so that the
// buffer never has to grow for a body.
func (w *worker) replies(l *lane) {
	p, ended := w.python, w.python.eof
	if l.streams != nil {
		l.patience, l.stalled = w.now, false
	}
	if l.in == nil {
		l.in, w.wbuf = w.wbuf, nil
		if l.in == nil {
			l.in = make([]byte, 0, wireRoom)
		}
	}
	for more := true; !p.closed && !l.lost; {
		if err := w.frames(l); err != nil {
			w.outOfStep(l, err)
			break
		}
		if !more || p.closed || p.eof || l.choked != nil || l.apart() {
			break
		}
		var err error
		if more, err = l.receive(); err != nil {
			w.outOfStep(l, err)
			break
		}
	}
	if p.eof && !ended && !p.closed {
		// It is dying, or ought to: SIGCHLD tells how.
		w.deafen(l)
		if w.killAt == 0 && !w.pythonGone {
			w.killAt = w.now + int64(killDelay)
		}
	}
	if l.at == len(l.in) {
		if cap(l.in) == wireRoom {
			w.wbuf = l.in[:0]
		}
		l.in, l.at = nil, 0
	}
	w.watchWire(l)
	w.flushOut()
	w.relieve() // not before: who has to go may be the one that this lane waits for
}

// frames handles the frames that are in memory.
func (w *worker) frames(l *lane) error {
	for l.choked == nil {
		if l.bodyLeft+l.skip == 0 {
			meta, ok, err := l.next()
			if err != nil || !ok {
				return err
			}
			if err := w.openFrame(l, meta); err != nil {
				return err
			}
		}
		if n := min(l.skip, len(l.in)-l.at); l.skip > 0 {
			l.at += n
			if l.skip -= n; l.skip > 0 {
				return nil
			}
		}
		if l.bodyLeft == 0 {
			w.endFrame(l)
			continue
		}
		b, done, err := l.body()
		if err != nil || len(b) == 0 {
			return err
		}
		switch {
		case l.owner == nil:
		case w.deflating && l.frame.kind == kindMessage:
			l.owner.owed += len(b)
			w.deflate(l.owner, b, done)
		default:
			l.owner.owed += len(b)
			w.block(l.owner, b)
		}
		if done {
			w.endFrame(l)
		}
	}
	return nil
}

// openFrame handles a frame's head and marshal.
func (w *worker) openFrame(l *lane, meta []byte) error {
	f := l.frame
	if f.number == 0 || f.kind == kindLeft && l.streams == nil {
		if l.bodyLeft+l.skip > 0 {
			return errOutOfStep
		}
		l.owner = nil
		return w.aside(l, meta)
	}
	c, ok := l.whose(f.number)
	if !ok || !w.python.ready {
		return errOutOfStep
	}
	l.owner = c
	if f.kind == kindFile {
		l.file = l.take()
	}
	var err error
	if c == nil {
		w.unwanted(l)
	} else if err = w.said(c, meta); err != nil {
		if wrong, ok := err.(wrongFrame); ok {
			w.refuseFrame(l, c, wrong)
			err = nil
		}
	}
	if l.file >= 0 {
		unix.Close(l.file)
		l.file = -1
	}
	return err
}

// aside handles what Python says beside responses.
func (w *worker) aside(l *lane, meta []byte) error {
	p, f := w.python, l.frame
	switch f.kind {
	case kindReady:
		if p.ready {
			return errOutOfStep
		}
		p.ready = true
		if w.renamed {
			w.reopen()
		}
		w.bootTook = w.now - w.born
		w.slot.state.Store(stateServing)
		_, _ = unix.Write(w.wake, []byte{0})
		if l.streams != nil {
			w.sayListening()
		}
	case kindPipe:
		return w.listenToPipe(l)
	case kindWatch:
		return w.watchFiles(&marshalReader{b: meta[:f.meta]})
	case kindHere:
		if w.askedAt = 0; f.flags&flagStacks != 0 {
			w.logStacks()
		}
	case kindRetire:
		w.retire()
	case kindLeft:
		return w.leftOf(l, f.number)
	default:
		return errOutOfStep
	}
	return nil
}

// said handles what Python says about a request that runs.
func (w *worker) said(c *conn, meta []byte) error {
	l, f := c.lane, c.lane.frame
	switch {
	case l.skip > 0:
		return wrongFrame("status and headers of more than 4 MB")
	case l.bodyLeft > 0 && f.kind != kindResponse && f.kind != kindBlock && f.kind != kindMessage:
		return wrongFrame("a body where there is none")
	}
	r := &marshalReader{b: meta[:f.meta]}
	switch f.kind {
	case kindResponse, kindFile:
		if c.started || c.taken {
			return wrongFrame("a second response")
		}
		if f.kind == kindFile {
			return w.attach(c, r, meta[f.meta:])
		}
		w.begin(c, r)
		if c.framing.chunked && l.bodyLeft > 0 {
			w.obuf = appendChunkSize(w.obuf, l.bodyLeft)
		}
	case kindBlock:
		if !c.started || c.talk != nil {
			return wrongFrame("a body without a head")
		}
		w.outFor(c)
		if c.framing.chunked && !c.refused && l.bodyLeft > 0 {
			w.obuf = appendChunkSize(w.obuf, l.bodyLeft)
		}
	case kindFailed:
		w.failed(c, f.flags)
	case kindRead:
		if f.length != 4 || c.asked && l.streams == nil || len(meta) != 4 {
			return wrongFrame("a second demand for the body")
		}
		c.asked = true
		if l.streams == nil {
			c.want = 0 // it asks for one piece at a time
		}
		c.want += int(min(binary.LittleEndian.Uint32(meta), feedMax))
		w.feed(c)
	case kindHints:
		w.hints(c, r)
	case kindFields:
		w.addFields(c, r)
	case kindSocket:
		return w.lendSocket(c)
	case kindAccept:
		return w.agree(c, r)
	case kindMessage:
		return w.beginMessage(c)
	case kindShut:
		return w.shut(c, r)
	case kindTrailer:
		return w.trailerSection(c, r)
	default:
		return wrongFrame("a frame of an unknown kind")
	}
	return nil
}

// refuseFrame ends a request of which Python has said what it must not: with 500,
// or a closed connection if the answer has begun. What else it says of that request
// goes nowhere.
func (w *worker) refuseFrame(l *lane, c *conn, why wrongFrame) {
	last := l.frame.last()
	if l.owner = nil; !c.refused {
		w.log.errorf("Error handling request %s: %v", c.line(), why)
	}
	switch {
	case l.streams != nil:
		increase(&w.slot.counters.failures, 1)
		w.tellGone(c, 1006, "", -1)
		l.bury(c)
		w.answerFor(c, newBadRequest(500, "", ""))
		w.unwanted(l)
		return
	case c.refused:
	case c.started || c.taken:
		c.refused, c.cut = true, true
		w.lost(c)
	default:
		w.serverError(c)
	}
	if last {
		w.flushOut()
		w.complete(c)
	}
}

// errBadType is an application's mistake, not a lane's.
var errBadType = errors.New("status and headers must be strings")

// readResponse fills w.resp with slices of the frame's memory. What is of a wrong
// type leaves an empty status, which begin refuses.
func (w *worker) readResponse(r *marshalReader) {
	w.text = w.text[:0]
	w.resp.status, w.resp.fields = nil, w.resp.fields[:0]
	good := r.sequence() == 2
	status := w.readText(r, &good)
	w.readFields(r, &good)
	if good {
		w.resp.status = status
	}
}

// readFields adds to w.resp.fields. What Python can put into marshal and this
// server cannot read is of a wrong type too.
func (w *worker) readFields(r *marshalReader, good *bool) {
	defer func() { *good = *good && r.err == nil }()
	if k := r.kind(); k != '(' && k != '[' {
		r.value(0)
		*good = false
		return
	}
	for n := r.sequence(); n > 0 && r.err == nil; n-- {
		if k := r.kind(); k != '(' && k != '[' {
			r.value(0)
			*good = false
			continue
		}
		if pair := r.sequence(); pair != 2 {
			for ; pair > 0 && r.err == nil; pair-- {
				r.value(0)
			}
			*good = false
			continue
		}
		name, value := w.readText(r, good), w.readText(r, good)
		w.resp.fields = append(w.resp.fields, field{name: name, value: value})
	}
}

// readText is the latin-1 of the next value, which should be a str; with ASGI it
// is bytes.
func (w *worker) readText(r *marshalReader, good *bool) []byte {
	if k := r.kind(); k == 's' && w.asgi {
		return r.bytes()
	} else if k != 'u' && k != 't' {
		r.value(0)
		*good = false
		return nil
	}
	at := len(w.text)
	text := r.text()
	b, ok := latin(w.text[at:], text)
	if !ok {
		*good = false
		return nil
	}
	if len(text) > 0 && len(b) != len(text) {
		w.text = append(w.text[:at], b...)
	}
	return b
}

// begin makes the response's head.
func (w *worker) begin(c *conn, r *marshalReader) {
	meta := r.b
	w.readResponse(r)
	w.outFor(c)
	at := len(w.obuf)
	c.started = true
	x := exchange{version: c.req.version, minor: c.req.minor, head: string(c.req.method) == "HEAD",
		keepAlive: c.keep && !w.quitting && !(w.stopping && (w.ending || c.secure != nil)), server: w.server, own: w.asgi}
	if c.bodyLeft > int64(w.discardable()) || c.broken != nil {
		// The rest of the body may never be read; then the connection cannot
		// go on. Better to say so than to promise.
		x.keepAlive = false
	}
	if c.lane.frame.flags&flagClose != 0 {
		x.keepAlive = false
	}
	var err error
	if w.resp.status == nil {
		err = errBadType
	} else {
		w.obuf, c.framing, err = w.resp.appendHead(w.obuf, &x, w.clock.httpDate())
	}
	if err != nil {
		w.log.errorf("Error handling request %s: %v", c.line(), err)
		w.serverError(c)
		return
	}
	if c.told && c.framing.code == 500 {
		// What a framework makes of an error that is the client's.
		w.obuf = w.obuf[:at]
		w.serverError(c)
		return
	}
	c.keep = c.framing.keepAlive
	if w.asgi && c.lane.frame.flags&flagLast == 0 {
		w.watch(c)
	}
	c.status = append(c.status[:0], w.resp.status...)
	if w.access != nil && (c.lane.frame.flags&flagLast == 0 || c.lane.apart() || c.lane.bodyLeft > len(c.lane.in)-c.lane.at) {
		c.meta = append(c.meta[:0], meta...)
	}
}

// serverError answers 500 in place of what the application made.
func (w *worker) serverError(c *conn) {
	c.started, c.refused = true, true
	c.status = append(c.status[:0], "500 Internal Server Error"...)
	c.meta, c.keep = nil, false
	w.resp.fields = w.resp.fields[:0]
	bad := c.broken
	if bad == nil {
		bad = newBadRequest(500, "", "")
	} else {
		c.status = append(c.status[:0], strconv.Itoa(bad.status)+" "+bad.reason...)
	}
	c.framing = framing{code: bad.status, noBody: true}
	w.outFor(c)
	w.obuf = c.appendPage(w.obuf, bad)
}

// outFor makes c the connection that w.obuf is for.
func (w *worker) outFor(c *conn) {
	if w.obufFor != c {
		w.flushOut()
		w.obufFor = c
	}
}

func (w *worker) flushOut() {
	if c := w.obufFor; c != nil {
		w.obufFor = nil
		w.send(c, w.obuf, nil)
		w.obuf = w.obuf[:0]
		w.hold(c)
	}
}

// hold leaves on the wire what the client is not ready for.
func (w *worker) hold(c *conn) {
	if w.asgi {
		w.credit(c)
		return
	}
	l := c.lane
	if l == nil || c.fd < 0 {
		return
	}
	if c.file < 0 {
		if len(c.out)-c.outAt <= w.holdable() {
			return
		}
		w.spoolReply(c)
	}
	switch {
	case c.file < 0 || len(c.rest) > 0:
		l.client.wait(w.now)
	case c.burst < turnMax:
		return
	default:
		c.burst = 0
		w.goOnLater(c)
	}
	l.choked = c
	w.watchWire(l)
}

// unchoke reads the wire again: the client is ready for more.
func (w *worker) unchoke(l *lane) {
	l.choked = nil
	l.client.pause(w.now)
	w.watchWire(l)
}

// block takes a piece of the response's body.
func (w *worker) block(c *conn, b []byte) {
	if c.refused {
		return
	}
	w.outFor(c)
	if c.framing.noBody {
		kind := "WSGI"
		if w.asgi {
			kind = "ASGI"
		}
		// ASGI frameworks leave it to the server to answer HEAD.
		if !w.asgi || string(c.req.method) != "HEAD" {
			w.log.warningf("%s app sent body bytes on a no-body response (method=%s status=%d); dropping per RFC 9110.",
				kind, c.req.method, c.framing.code)
		}
		c.dropped, c.refused = true, true
		return
	}
	if c.framing.length >= 0 && c.sent+int64(len(b)) > c.framing.length {
		w.log.warningf("%s: the response body is longer than its Content-Length, %d; the rest is dropped",
			c.line(), c.framing.length)
		b = b[:c.framing.length-c.sent]
		c.dropped, c.refused = true, true
	}
	c.sent += int64(len(b))
	if len(w.obuf)+len(b) <= coalesce {
		w.obuf = append(w.obuf, b...)
		return
	}
	w.obufFor = nil
	w.send(c, w.obuf, b)
	w.obuf = w.obuf[:0]
	w.hold(c)
}

// endFrame handles the end of a frame.
func (w *worker) endFrame(l *lane) {
	f, c := l.frame, l.owner
	if c == nil || f.kind != kindResponse && f.kind != kindBlock && f.kind != kindMessage {
		return
	}
	if f.kind == kindMessage {
		w.endMessage(c)
		return
	}
	if c.framing.chunked && !c.refused {
		w.outFor(c)
		if f.length > f.meta {
			w.obuf = append(w.obuf, "\r\n"...)
		}
		if f.flags&flagLast != 0 {
			w.obuf = append(w.obuf, "0\r\n\r\n"...)
		}
	}
	if f.flags&flagLast != 0 {
		w.flushOut()
		w.complete(c)
	} else if w.asgi {
		w.credit(c) // for what was thrown away too
	}
}

// unwanted handles a frame of a request that is over for its client. A thread that
// asks for something waits for an answer.
func (w *worker) unwanted(l *lane) {
	f := l.frame
	switch {
	case l.streams != nil:
		if f.last() {
			l.over(f.number, w.now)
			w.noteRunning()
		}
	case f.kind == kindRead:
		w.answer(l, frame{number: f.number, meta: tooLate, kind: kindBody, flags: flagBroken}, nil)
	case f.kind == kindSocket:
		w.answer(l, frame{number: f.number, kind: kindLent, flags: flagBroken}, nil)
	}
}

// tooLate stands in place of a status in an answer to kindRead: the response was
// complete before.
const tooLate = 410

// noteRunning tells the scoreboard how much runs.
func (w *worker) noteRunning() {
	w.slot.busy.Store(uint64(w.python.running()))
	if len(w.python.busy) == 0 {
		w.slot.begun.Store(0)
	}
}

// attach puts the file that came along behind the head, as far as the head has
// promised it: a file can have grown since.
func (w *worker) attach(c *conn, r *marshalReader, numbers []byte) error {
	n := marshalReader{b: numbers}
	offset, size, l := n.uint64(), n.uint64(), c.lane
	if l.file < 0 || n.err != nil || int64(offset) < 0 || int64(size) < 0 || int64(offset+size) < 0 {
		return wrongFrame("a file that is none")
	}
	if w.begin(c, r); c.framing.length >= 0 {
		size = min(size, uint64(c.framing.length))
	}
	if c.refused || c.framing.noBody || size == 0 || c.fd < 0 {
		if c.framing.chunked && !c.refused {
			w.obuf = append(w.obuf, "0\r\n\r\n"...)
		}
	} else {
		if c.framing.chunked {
			w.obuf = appendChunkSize(w.obuf, int(size))
			c.rest = w.pool.extend(nil, []byte("\r\n0\r\n\r\n"))
		}
		w.flushOut()
		if c.sent = int64(size); c.fd >= 0 {
			c.file, c.fileAt, c.fileEnd = l.file, int64(offset), int64(offset+size)
			l.file = -1
			w.files++
		}
	}
	w.flushOut()
	w.complete(c)
	return nil
}

func (w *worker) hints(c *conn, r *marshalReader) {
	if c.started || c.taken || c.req.minor == 0 {
		return
	}
	good := true
	w.text, w.resp.fields = w.text[:0], w.resp.fields[:0]
	w.readFields(r, &good)
	err := errBadType
	if good {
		w.outFor(c)
		w.obuf, err = appendEarlyHints(w.obuf, w.resp.fields)
	}
	if err != nil {
		w.log.errorf("Error in early hints of %s: %v", c.line(), err)
	}
}

// addFields takes headers that pre_request has added: the access log has them
// as if they had been sent.
func (w *worker) addFields(c *conn, r *marshalReader) {
	good := true
	w.text, w.resp.fields = w.text[:0], w.resp.fields[:0]
	w.readFields(r, &good)
	for _, f := range w.resp.fields {
		if good {
			c.req.fields = append(c.req.fields, field{bytes.Clone(f.name), bytes.Clone(f.value)})
		}
	}
}

// failed ends a response that the application did not finish.
func (w *worker) failed(c *conn, flags byte) {
	if c.taken {
		c.status = append(c.status[:0], "101"...)
		c.dropped = flags&flagQuiet != 0
		w.cut(c)
		return
	}
	if !c.started && flags&flagQuiet == 0 {
		w.serverError(c)
		w.flushOut()
		w.complete(c)
		return
	}
	if !c.started {
		c.status = append(c.status[:0], "499"...)
	}
	w.flushOut()
	w.cut(c)
}

// cut ends a response in the middle, so that no client takes it for complete.
func (w *worker) cut(c *conn) {
	c.keep, c.refused, c.cut = false, true, true
	c.forbidEnd()
	w.complete(c)
}

// complete is reached once for every request that Python has begun: its
// response is in the hands of this worker, or was cut off.
func (w *worker) complete(c *conn) {
	l := c.lane
	if c.framing.length > c.sent && !c.refused && !c.framing.noBody {
		w.log.errorf("%s: the response body has %d bytes and its Content-Length says %d; closing the connection",
			c.line(), c.sent, c.framing.length)
		c.keep, c.refused, c.cut = false, true, true
	}
	w.record(c, c.status, true)
	w.dropSpooled(c)
	if c.asked && l.streams == nil {
		// A thread, or one that a timeout of the application's has interrupted.
		w.answer(l, frame{number: c.number, meta: tooLate, kind: kindBody, flags: flagBroken}, nil)
	}
	l.over(c.number, w.now)
	if l.owner == c {
		l.owner = nil
	}
	c.lane = nil
	w.noteRunning()
	if c.framing.code >= 500 || c.refused && !c.dropped {
		increase(&w.slot.counters.failures, 1)
	}
	if l.choked == c {
		w.unchoke(l)
	}
	if c.bodyLeft > int64(w.discardable()) || c.broken != nil {
		c.keep = false // what is unread must never be taken for a request
	}
	if c.taken && !w.takeSocketBack(c) {
		return
	}
	if c.fd < 0 {
		w.release(c)
		return
	}
	c.state = draining
	w.drained(c)
}

// record counts an answer and writes the access log's line.
func (w *worker) record(c *conn, status []byte, parsed bool) {
	began := c.begun
	if began == 0 {
		began = w.now
	}
	took := time.Duration(w.now - began)
	w.log.statsd.request(status, took, w.now)
	w.slot.counters.count(status, took, c.sent)
	if w.access == nil {
		return
	}
	if c.meta != nil {
		w.readResponse(&marshalReader{b: c.meta})
	} else if !parsed || c.refused || c.talk != nil {
		w.resp.fields = w.resp.fields[:0]
	}
	w.access.record(&accessEntry{
		now: &w.clock, req: c.req, endpoint: &c.peer, scriptName: w.scriptName, parsed: parsed,
		status: status, fields: w.resp.fields, bytes: c.sent, duration: took, pid: w.pid,
	})
}
