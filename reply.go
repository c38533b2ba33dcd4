package main

// Frames from Python, and what the worker does about each: a response's head and body go
// to the client, a demand for more of the request's body is met, a failure becomes an
// error page or a cut connection.

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// replies handles the frames that have come on a lane. Frames that are in memory are handled
// before more is received, so that the buffer never has to grow for a body.
func (w *worker) replies(l *lane) {
	p := w.python
	l.heard(w.now)
	if l.in == nil {
		l.in = w.takeWbuf()
	}
	var err error
	for more := true; err == nil && !p.closed && !l.lost; {
		if err = w.frames(l); err == nil {
			if !more || p.closed || l.choked != nil || l.apart() {
				break
			}
			more, err = l.receive()
		}
	}
	switch {
	case err == io.EOF && !p.closed:
		w.pythonEnds(l)
	case err != nil && err != io.EOF:
		w.outOfStep(l, err)
	}
	if l.at == len(l.in) {
		if cap(l.in) == wireRoom {
			w.wbuf = l.in[:0]
		}
		l.in, l.at = nil, 0
	}
	w.watchWire(l)
	w.flushOut()
}

// takeWbuf returns an empty buffer of wireRoom bytes, which the caller should put into
// w.wbuf once it is no longer needed.
func (w *worker) takeWbuf() []byte {
	b := w.wbuf
	if w.wbuf = nil; b == nil {
		b = make([]byte, 0, wireRoom)
	}
	return b
}

// frames handles the frames that are in memory.
func (w *worker) frames(l *lane) error {
	for l.choked == nil {
		if l.bodyLeft+l.skip == 0 {
			if ok, err := l.next(); err != nil || !ok {
				return err
			}
			if err := w.openFrame(l); err != nil {
				return err
			}
		}
		if n := min(l.skip, len(l.in)-l.at); l.skip > 0 {
			l.at += n
			if l.skip -= n; l.skip > 0 {
				return nil
			}
		}
		if l.bodyLeft > 0 {
			b, err := l.body()
			if err != nil || len(b) == 0 {
				return err
			}
			if t := l.owner; t != nil {
				if t.uncredited += len(b); w.deflating && l.frame.kind == kindMessage {
					w.deflate(t, b, l.bodyLeft == 0)
				} else {
					w.block(t, b)
				}
			}
			if l.inRing {
				l.ring.took(len(b))
				w.python.active = true
			}
			if l.bodyLeft > 0 {
				continue
			}
		}
		if end := frameKinds[l.frame.kind].end; end != nil && l.owner != nil {
			end(w, l.owner)
		}
	}
	return nil
}

// openFrame handles a frame's head and marshal as the table of frames prescribes.
func (w *worker) openFrame(l *lane) error {
	f := l.frame
	k := &frameKinds[f.kind]
	if k.descriptor {
		l.file = l.take()
	}
	err := w.heed(l, f, k)
	if l.file >= 0 {
		unix.Close(l.file)
		l.file = -1
	}
	return err
}

// heed distinguishes frames about the process or a lane from frames about a request.
func (w *worker) heed(l *lane, f frame, k *frameKind) error {
	l.owner = nil
	switch aside := k.aside != nil && k.numbered == (f.number != 0) && w.has(k); {
	case aside && l.bodyLeft+l.skip == 0:
		return k.aside(w, l, &l.marshal)
	case aside, f.number == 0:
		return f.unexpected()
	}
	t, ok := l.whose(f.number)
	if !ok || !w.python.ready {
		return f.unexpected()
	}
	if t == nil {
		l.unwanted(w, f)
		return nil
	}
	l.owner = t
	err := w.said(t, k)
	if wrong, ok := err.(wrongFrame); ok {
		// The request ends with 500, or with a closed connection if the response has
		// begun. Further frames about the request are ignored.
		if l.owner = nil; !t.refused {
			w.log.errorf("Error handling request %s: %v", t.line(), wrong)
		}
		l.refuse(w, t, newBadRequest(500, "", ""))
		return nil
	}
	return err
}

// has reports whether frames of this kind exist in the application's interface.
func (w *worker) has(k *frameKind) bool { return k.only == nil || k.only == w.python.gateway }

// said handles a frame about a running request, if the frame is legal now.
func (w *worker) said(t *turn, k *frameKind) error {
	l := t.lane
	switch {
	case k.said == nil || !w.has(k) || k.when != nil && !k.when(t):
		return wrongFrame("unexpected " + frame{kind: l.frame.kind}.String())
	case l.skip > 0:
		return wrongFrame(k.name + " frame with status and headers of more than 4 MB")
	case k.tail != anyLength && len(l.tail)+l.bodyLeft != k.tail:
		return wrongFrame(k.name + " frame of a wrong length")
	}
	w.text, w.wrong = w.text[:0], false
	return k.said(w, t, &l.marshal)
}

// pythonReady is called when the application is loaded.
func (w *worker) pythonReady(l *lane, _ *marshalReader) error {
	p := w.python
	if p.own && p.ready { // hearClass has not waited for the class
		return nil
	}
	if p.ready || p.starting && l.frame.flags&flagMore != 0 {
		return l.frame.unexpected()
	}
	if p.starting = true; l.frame.flags&flagMore != 0 {
		return nil
	}
	w.pythonServes()
	return nil
}

// pythonServes is called when Python takes requests.
func (w *worker) pythonServes() {
	p := w.python
	p.ready = true
	if w.renamed {
		w.reopen()
	}
	w.bootTook = w.since(w.born)
	forgetStart()
	if w.slot.phase() == phaseBooting {
		w.enter(phaseServing)
	}
	if p.gateway.ready != nil {
		p.gateway.ready(w)
	}
}

// pythonHere handles the main thread's answer to an ASK frame, a sign of life.
func (w *worker) pythonHere(l *lane, _ *marshalReader) error {
	if w.python.askedAt = 0; l.frame.flags&flagStacks != 0 {
		w.logStacks()
	}
	return nil
}

// askedToRetire handles a RETIRE frame: a worker hook wants this worker to leave.
func (w *worker) askedToRetire(*lane, *marshalReader) error {
	w.retire()
	return nil
}

// response handles the start of a RESPONSE frame.
func (w *worker) response(t *turn, r *marshalReader) error {
	w.begin(t, r)
	return w.beginBlock(t, r)
}

// beginBlock handles the start of a piece of the response's body.
func (w *worker) beginBlock(t *turn, _ *marshalReader) error {
	if w.outFor(t.conn); t.framing.chunked && !t.refused && t.lane.bodyLeft > 0 {
		w.obuf = appendChunkSize(w.obuf, t.lane.bodyLeft)
	}
	return nil
}

// demand notes how many bytes of the request's body Python waits for, and sends what is
// there.
func (w *worker) demand(t *turn, _ *marshalReader) error {
	n := int(min(binary.LittleEndian.Uint32(t.lane.tail), feedMax))
	if !t.lane.demand(t, max(n, 1)) {
		return wrongFrame("second READ frame")
	}
	if !t.started {
		w.invite(t)
	}
	w.feed(t)
	return nil
}

// errBadType is a mistake of the application's: the lane goes on.
var errBadType = errors.New("status and headers must be strings")

// readResponse fills w.resp with slices of the frame's memory, or notes in w.wrong that a
// value has a wrong type.
func (w *worker) readResponse(r *marshalReader) {
	w.text, w.wrong = w.text[:0], r.sequence() != 2
	w.resp.status = w.readText(r)
	w.readFields(r)
}

// readFields fills w.resp.fields, or notes in w.wrong that a value has a wrong type. Types
// that exist in Python's marshal but not in this reader are wrong too.
func (w *worker) readFields(r *marshalReader) {
	w.resp.fields = w.resp.fields[:0]
	for n := w.readSequence(r); n > 0 && r.err == nil; n-- {
		pair := w.readSequence(r)
		if pair == 2 {
			name, value := w.readText(r), w.readText(r)
			w.resp.fields = append(w.resp.fields, field{name: name, value: value})
			continue
		}
		for w.wrong = true; pair > 0 && r.err == nil; pair-- {
			r.value(0)
		}
	}
	w.wrong = w.wrong || r.err != nil
}

// readSequence opens the next value, a tuple or a list, and returns its length.
func (w *worker) readSequence(r *marshalReader) int {
	if k := r.kind(); k == '(' || k == '[' {
		return r.sequence()
	}
	r.value(0)
	w.wrong = true
	return 0
}

// readText returns the next value, a str, in latin-1. With ASGI the value may be bytes.
func (w *worker) readText(r *marshalReader) []byte {
	switch k := r.kind(); {
	case k == 's' && w.python.gateway.octets:
		return r.bytes()
	case k != 'u' && k != 't':
		r.value(0)
		w.wrong = true
		return nil
	}
	at := len(w.text)
	text := r.text()
	b, ok := latin(w.text[at:], text)
	if w.wrong = w.wrong || !ok; len(b) != len(text) {
		w.text = append(w.text[:at], b...)
	}
	return b
}

// begin writes the response's head.
func (w *worker) begin(t *turn, r *marshalReader) {
	meta := r.b
	w.readResponse(r)
	w.outFor(t.conn)
	at := len(w.obuf)
	t.started = true
	x := exchange{version: t.req.version, minor: t.req.minor, head: string(t.req.method) == "HEAD",
		streamed: t.req.streamed, keepAlive: t.conn.keep && w.promises(t) && t.lane.frame.flags&flagClose == 0, server: w.server, own: w.python.gateway.overrides}
	err := errBadType
	if w.resp.fields = t.mark(w.resp.fields); !w.wrong {
		w.obuf, t.framing, err = w.resp.appendHead(w.obuf, &x, w.clock.http)
	}
	if err != nil {
		w.log.errorf("Error handling request %s: %v", t.line(), err)
		w.serverError(t)
		return
	}
	if t.owed == toldBroken && t.framing.code == 500 {
		// The framework has made a 500 of the error that reading the broken
		// body raised. The mistake is the client's, with a status of its own.
		w.obuf = w.obuf[:at]
		w.serverError(t)
		return
	}
	w.obuf = t.conn.transport.head(w.obuf, at)
	t.conn.keep = t.framing.keepAlive
	if w.python.gateway.watches && t.lane.frame.flags&flagLast == 0 {
		w.watch(t.conn)
	}
	t.status = append(t.status[:0], w.resp.status...)
	if w.access != nil && (t.lane.frame.flags&flagLast == 0 || t.lane.apart() || t.lane.bodyLeft > len(t.lane.in)-t.lane.at) {
		t.meta = append(t.meta[:0], meta...)
	}
}

// promises reports whether another request may follow on the connection: not while all
// workers stop or are about to, and not in a retiring worker if no other worker can go on
// with the connection, as with TLS.
func (w *worker) promises(t *turn) bool {
	p := w.slot.phase()
	return p != phaseDraining && p != phaseQuitting && (p != phaseRetiring || t.conn.transport.portable()) && !w.others.drains() && !w.leavesRest(t)
}

// leavesRest reports whether the rest of the request's body may never be read, or come. The
// connection must then not be kept: the rest would be taken for a request.
func (w *worker) leavesRest(t *turn) bool {
	return t.bodyLeft > int64(w.python.gateway.discardable) || t.broken != nil || t.req.expect
}

// serverError answers 500, or the status of a broken request, in place of the application's
// response.
func (w *worker) serverError(t *turn) {
	t.started, t.refused = true, true
	t.meta, t.conn.keep = nil, false
	w.resp.fields = w.resp.fields[:0]
	bad := cmp.Or(t.broken, newBadRequest(500, "", ""))
	t.status = fmt.Appendf(t.status[:0], "%d %s", bad.status, bad.reason)
	t.framing = framing{code: bad.status, noBody: true}
	w.makePage(t, bad)
}

// outFor makes c the connection whose output is collected in w.obuf.
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
		if c.turn != nil {
			w.hold(c.turn)
		}
	}
}

// hold bounds how much of a response may wait for its client.
func (w *worker) hold(t *turn) {
	if l := t.lane; l != nil {
		l.hold(w, t)
	}
}

// unchoke resumes reading a wire, once the slow client is ready for more.
func (w *worker) unchoke(l *lane) {
	l.choked = nil
	l.client.pause(w.now)
	w.watchWire(l)
}

// block sends a piece of the response's body.
func (w *worker) block(t *turn, b []byte) {
	if t.refused {
		return
	}
	w.outFor(t.conn)
	if t.framing.noBody {
		if g := w.python.gateway; !g.dropsHead || string(t.req.method) != "HEAD" {
			w.log.warningf("%s app sent body bytes on a no-body response (method=%s status=%d); dropping per RFC 9110.",
				g.name, t.req.method, t.framing.code)
		}
		t.dropped, t.refused = true, true
		return
	}
	if t.framing.length >= 0 && t.sent+int64(len(b)) > t.framing.length {
		w.log.warningf("%s: the response body is longer than its Content-Length, %d; the rest is dropped",
			t.line(), t.framing.length)
		b = b[:t.framing.length-t.sent]
		t.dropped, t.refused = true, true
	}
	t.sent += int64(len(b))
	if len(w.obuf)+len(b) <= coalesce {
		w.obuf = append(w.obuf, b...)
		return
	}
	w.obufFor = nil
	w.send(t.conn, w.obuf, b)
	w.obuf = w.obuf[:0]
	w.hold(t)
}

// endPart handles the end of a RESPONSE or BLOCK frame; the last such frame ends the body.
func (w *worker) endPart(t *turn) {
	f := t.lane.frame
	if t.framing.chunked && !t.refused {
		w.outFor(t.conn)
		if f.length > f.meta {
			w.obuf = append(w.obuf, "\r\n"...)
		}
		if f.flags&flagLast != 0 {
			w.obuf = append(w.obuf, "0\r\n\r\n"...)
		}
	}
	if f.flags&flagLast != 0 {
		w.complete(t)
	} else {
		t.lane.clientTook(w, t) // bytes that were discarded count as taken
	}
}

// tooLate stands in place of a status in the answer to a READ frame that comes after the
// response is complete.
const tooLate = 410

// noteRunning writes to the scoreboard how many requests run.
func (w *worker) noteRunning() {
	w.slot.busy.Store(uint64(w.python.running()))
	if len(w.python.busy) == 0 {
		w.slot.begun.Store(0)
	}
}

// attach handles a FILE frame: the file's contents become the body of the response, cut to
// the Content-Length, as the file may have grown since.
func (w *worker) attach(t *turn, r *marshalReader) error {
	l := t.lane
	offset, size := binary.LittleEndian.Uint64(l.tail), binary.LittleEndian.Uint64(l.tail[8:])
	if l.file < 0 || int64(offset) < 0 || int64(size) < 0 || int64(offset+size) < 0 {
		return wrongFrame("FILE frame without a file")
	}
	if w.begin(t, r); t.framing.length >= 0 {
		size = min(size, uint64(t.framing.length))
	}
	if t.refused || t.framing.noBody || size == 0 || t.conn.gone {
		if t.framing.chunked && !t.refused {
			w.obuf = append(w.obuf, "0\r\n\r\n"...)
		}
	} else {
		if t.framing.chunked {
			w.obuf = appendChunkSize(w.obuf, int(size))
			t.conn.rest = w.pool.extend(nil, []byte("\r\n0\r\n\r\n"))
		}
		w.flushOut()
		if t.sent = int64(size); !t.conn.gone {
			t.conn.file, t.conn.fileAt, t.conn.fileEnd = l.file, int64(offset), int64(offset+size)
			l.file = -1
			w.files++
		}
	}
	w.complete(t)
	return nil
}

// hints sends an interim response 103 (RFC 8297) ahead of the response.
func (w *worker) hints(t *turn, r *marshalReader) error {
	if t.started || t.taken || t.req.minor == 0 {
		return nil
	}
	w.readFields(r)
	err := errBadType
	if !w.wrong {
		w.outFor(t.conn)
		at := len(w.obuf)
		if w.obuf, err = appendEarlyHints(w.obuf, w.resp.fields); err == nil {
			w.obuf = t.conn.transport.head(w.obuf, at)
		}
	}
	if err != nil {
		w.log.errorf("Error in early hints of %s: %v", t.line(), err)
	}
	return nil
}

// loggedInPython notes that the access log's line is Python's.
func (w *worker) loggedInPython(t *turn, _ *marshalReader) error {
	t.logged = true
	return nil
}

// loggersChanged notes that the application has changed the loggers of the access log. From
// now on Python makes the lines of requests that it has not answered, too.
func (w *worker) loggersChanged(*lane, *marshalReader) error {
	w.python.records = true
	return nil
}

// failed handles a FAILED frame: the application did not finish its response.
func (w *worker) failed(t *turn, _ *marshalReader) error {
	quiet := t.lane.frame.flags&flagQuiet != 0
	switch {
	case t.taken:
		t.status = append(t.status[:0], "101"...)
		t.dropped = quiet
		w.cut(t)
	case !t.started && !quiet:
		t.logged = t.logged && t.broken == nil
		w.serverError(t)
		w.complete(t)
	default:
		if !t.started {
			t.status, t.logged = append(t.status[:0], "499"...), false
		}
		w.cut(t)
	}
	return nil
}

// cut ends a response in the middle, in such a way that no client takes the response for
// complete.
func (w *worker) cut(t *turn) {
	t.conn.keep, t.refused, t.conn.cut = false, true, true
	t.conn.transport.forbidEnd(t.conn)
	w.complete(t)
}

// complete is called once for every request that Python has begun, when the whole response
// has come to this worker or the response was cut.
func (w *worker) complete(t *turn) {
	w.flushOut()
	l := t.lane
	if t.framing.length > t.sent && !t.refused && !t.framing.noBody {
		w.log.errorf("%s: the response body has %d bytes and its Content-Length says %d; closing the connection",
			t.line(), t.sent, t.framing.length)
		t.conn.keep, t.refused, t.conn.cut = false, true, true
	}
	w.record(t, t.status, true)
	w.dropSpooled(t)
	l.over(w, t)
	if l.owner == t {
		l.owner = nil
	}
	t.lane = nil
	w.noteRunning()
	if t.framing.code >= 500 || t.refused && !t.dropped {
		increase(&w.slot.counters.failures, 1)
	}
	if l.choked == t {
		w.unchoke(l)
	}
	t.conn.keep = t.conn.keep && !w.leavesRest(t)
	if t.taken && !w.takeSocketBack(t) {
		return
	}
	if t.conn.gone {
		w.release(t.conn)
		return
	}
	t.enter(draining)
	w.drained(t.conn)
}

// record counts an answer and writes the access log's line.
func (w *worker) record(t *turn, status []byte, parsed bool) {
	began := t.begun
	if began == 0 {
		began = w.now
	}
	took := w.since(began)
	w.log.statsd.request(status, took)
	w.slot.counters.count(status, took, t.sent)
	if w.access == nil && !w.python.records || t.logged {
		return
	}
	if t.meta != nil {
		w.readResponse(&marshalReader{b: t.meta})
	} else if !parsed || t.refused || t.talk != nil {
		w.resp.fields = w.resp.fields[:0]
	}
	e := &accessEntry{
		now: &w.clock, req: &t.req, endpoint: &t.conn.peer, scriptName: w.scriptName, parsed: parsed,
		status: status, fields: w.resp.fields, bytes: t.sent, duration: took, pid: w.pid, id: t.id,
	}
	if !w.python.records || !w.python.record(w.access, e) {
		w.access.record(e)
	}
}
