package main

// Requests of ASGI applications: the lane that carries them, their scopes, and WebSockets.
//
// One lane carries all requests of a worker at once. Each request is a stream, known by its
// number, and is served by a task in Python's event loop (asgi.py). A request comes to
// Python through the queue, as on any lane, and can be taken back from the queue when the
// event loop is blocked. Everything else goes over the wire.
//
// One slow client must not stop the others, so the worker never ceases to read the wire.
// Instead, a window bounds how many bytes of a stream Python may send that the client has not
// taken, and how many bytes of a request's body, or of a WebSocket's messages, Python is sent
// that the application has not taken.

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	window      = 256 << 10 // bytes of a stream that one side may send ahead; the same as WINDOW in asgi.py
	messageCost = 64        // bytes that each message adds to its own against the window, for its frame and Python objects; as MESSAGE_COST in asgi.py
	pongsMax    = 4 << 10   // bytes of output waiting for a client, beyond which only the latest ping is answered
	deflateMin  = 128       // shortest message that is compressed: a shorter one gains too little
)

const (
	blockedAfter = 20 * time.Millisecond // time without a frame after which an event loop with a request to receive counts as blocked: far above what a task should take
	partingMax   = 3 * time.Second       // longest part of the grace period left for streams to end after they are told to
	shutLimit    = 5 * time.Second       // on a reload, time for streams to end after they are told to
	answerLimit  = 5 * time.Second       // longest wait for an application to take what a client sent before it closed its WebSocket
)

// talk is the further state of a turn whose connection has become a WebSocket.
type talk struct {
	decoder *wsDecoder
	heard   int64 // when the client last sent something
	pinged  int64 // when the client was sent a ping that it has not answered, 0 for none

	within  bool     // a frame to the client has been sent in part
	ping    []byte   // payload of the latest ping that cannot be answered yet, nil for none
	bye     *wsError // the client's close frame, until it is answered
	byeBy   int64    // latest time to answer the client's close frame
	closing *wsError // close frame to send once the frame sent in part is complete
}

// asgi is the gateway of the ASGI specification, version 3.
var asgi = gateway{
	name:    "ASGI",
	kind:    func(l *lane) laneKind { return &streamLane{lane: l, streams: map[uint32]*turn{}} },
	pick:    (*python).pickStream,
	running: func(p *python) int { return p.lanes[0].load() },
	environ: (*worker).appendScope,
	greet:   (*worker).greetSocket,
	ready:   (*worker).sayListening,

	early:     true,
	octets:    true,
	overrides: true,
	dropsHead: true,
	watches:   true,
	cancels:   true,
	answers:   true,
	stays:     true,

	// An application may answer before the request's body has arrived, while WSGI
	// waits for the body: more of it may have to be discarded.
	discardable: held,

	crowd: 4, // batches of fewer gain nothing
}

// Lanes of ASGI --------------------------------------------------------------

// streamLane carries many requests at once.
type streamLane struct {
	lane *lane
	// streams has the requests by number. A request that is over for its client, but not
	// yet for Python, is nil.
	streams map[uint32]*turn
	unread  []uint32 // numbers of requests that Python may not have received, in order
	thirsty []*turn  // turns with input that waits for room on the wire
}

// streams is the lane of an ASGI application, nil for one of WSGI.
func (w *worker) streams() *streamLane {
	s, _ := w.python.lanes[0].laneKind.(*streamLane)
	return s
}

// pickStream returns the only lane, unless that lane is blocked or full.
func (p *python) pickStream() (*lane, error) {
	if p.idle() == 0 {
		return nil, nil
	}
	return p.lanes[0], nil
}

func (s *streamLane) load() int { return len(s.streams) }
func (s *streamLane) room() int { return s.lane.python.idle() }

func (s *streamLane) sent(batch []*turn, now int64) {
	if len(s.unread) == 0 {
		s.lane.patience = now
	}
	for _, t := range batch {
		s.streams[t.number] = t
		s.unread = append(s.unread, t.number)
	}
}

// takeBack reads each message whole, because the numbers of its streams stand in it.
func (s *streamLane) takeBack() (back []*turn) {
	message := make([]byte, queueMax)
	for {
		n := s.lane.retake(message)
		if n == 0 {
			s.unread = s.unread[:0]
			return back
		}
		for rest := message[:n]; len(rest) >= frameHeader; {
			f := readFrame(rest)
			if t := s.streams[f.number]; t != nil {
				t.lane, t.want = nil, 0
				back = append(back, t)
			}
			delete(s.streams, f.number)
			if f.kind != kindRequest {
				break
			}
			rest = rest[min(frameHeader+int(f.length), len(rest)):]
		}
		s.lane.rest()
	}
}

func (s *streamLane) settle(int64) bool { return true }
func (s *streamLane) clear()            { clear(s.streams) }

func (s *streamLane) whose(number uint32) (*turn, bool) {
	t, ok := s.streams[number]
	s.received(number)
	return t, ok || int32(number-s.lane.python.number) <= 0
}

// received notes that Python has received the request with this number, and thus all earlier
// requests.
func (s *streamLane) received(number uint32) {
	n := 0
	for n < len(s.unread) && int32(s.unread[n]-number) <= 0 {
		n++
	}
	if n > 0 {
		s.unread = s.unread[:copy(s.unread, s.unread[n:])]
	}
}

func (s *streamLane) inPython() (list []*turn) {
	for _, number := range slices.Sorted(maps.Keys(s.streams)) {
		if t := s.streams[number]; t != nil {
			list = append(list, t)
		}
	}
	return list
}

// eldest is a WebSocket only if there are no other requests.
func (s *streamLane) eldest() (eldest *turn) {
	for _, t := range s.streams {
		if t != nil && (eldest == nil || eldest.talk != nil && t.talk == nil ||
			(eldest.talk == nil) == (t.talk == nil) && t.begun < eldest.begun) {
			eldest = t
		}
	}
	return eldest
}

// slack is 0, as any stream may wait for its next event.
func (s *streamLane) slack(int64) time.Duration { return 0 }

func (s *streamLane) due() int64 {
	if s.lane.stalled || len(s.unread) == 0 {
		return 0
	}
	return s.lane.patience + int64(blockedAfter)
}

// stall checks whether Python's event loop still receives requests. If the loop is blocked,
// the requests in the queue are given to other workers.
func (s *streamLane) stall(w *worker) {
	l, first := s.lane, s.unread[0]
	if head, ok := l.queued(); ok {
		s.received(head - 1)
	} else {
		s.unread = s.unread[:0]
	}
	if l.patience = w.now; len(s.unread) == 0 || s.unread[0] != first || w.alone && w.cfg.queueTimeout == 0 {
		return
	}
	l.stalled = true
	w.giveBack(l)
	w.askFor(0) // the answer to this question ends the stall
}

func (s *streamLane) hurry(w *worker, t *turn) bool {
	switch limit := w.cfg.requestTimeout; {
	case limit > 0 && !t.started && w.since(t.begun) >= limit:
		w.overdueStream(t)
	case !t.conn.watched:
		w.watch(t.conn) // an application that waits for long wants to know when its client leaves
	case t.talk != nil && t.talk.bye != nil && w.now >= t.talk.byeBy:
		w.answerBye(t)
	case t.talk != nil && !t.conn.pending():
		w.keepUp(t)
	case t.talk == nil && t.conn.ending && !t.started && !t.incomplete():
		// The client has ended its side, and most that do so have left: the application is
		// told. Its answer is sent nevertheless, as the client may wait for the answer.
		w.tellGone(t, 1006, "", graceNever)
	default:
		return false
	}
	return true
}

func (s *streamLane) heard(now int64) { s.lane.patience, s.lane.stalled = now, false }

func (s *streamLane) demand(t *turn, n int) bool {
	t.want += n
	return true
}

func (s *streamLane) met(t *turn, n int)                        { t.want -= n }
func (s *streamLane) answer(w *worker, f frame, payload []byte) { w.post(s.lane, f, payload) }

func (s *streamLane) roomFor(t *turn) bool {
	if s.lane.roomy() {
		return true
	}
	if !t.thirsty {
		t.thirsty = true
		s.thirsty = append(s.thirsty, t)
	}
	return false
}

// hold bounds a slow client's response by the window, as the wire, which all streams share,
// must be read.
func (s *streamLane) hold(w *worker, t *turn) { w.credit(t) }

func (s *streamLane) clientTook(w *worker, t *turn) {
	w.credit(t)
	w.pongLate(t)
}

// clientLeft tells the application that the client has left, if Python has the request.
func (s *streamLane) clientLeft(w *worker, t *turn) {
	if t.owed != owesEnviron {
		w.tellGone(t, 1006, "", graceSet)
	}
}

func (s *streamLane) refuse(w *worker, t *turn, why *badRequest) {
	f := s.lane.frame
	increase(&w.slot.counters.failures, 1)
	w.cancel(t, -1, why)
	s.unwanted(w, f)
}

// unwanted forgets a stream that was answered in place of Python, once Python ends it too.
func (s *streamLane) unwanted(w *worker, f frame) {
	if f.last() {
		s.forget(f.number)
		w.noteRunning()
	}
}

func (s *streamLane) over(_ *worker, t *turn) { s.forget(t.number) }

func (s *streamLane) forget(number uint32) {
	delete(s.streams, number)
	s.lane.rest()
}

// bury detaches the turn from its stream. Only the stream's number stays, until Python ends
// the stream too.
func (s *streamLane) bury(t *turn) {
	s.streams[t.number] = nil
	if s.lane.owner == t {
		s.lane.owner = nil
	}
	t.lane = nil
}

// cancel answers a request in place of its application. The application is told that the
// client has left, and its task is cancelled after grace.
func (w *worker) cancel(t *turn, grace time.Duration, bad *badRequest) {
	w.tellGone(t, 1006, "", grace)
	w.streams().bury(t)
	w.answerFor(t, bad)
}

// post queues a frame to Python, which is written at the end of this pass of the event loop.
func (w *worker) post(l *lane, f frame, payload []byte) {
	if !l.python.closed {
		l.wire.post(f, payload)
	}
}

// flushStreams writes the queued frames, and resumes the turns that waited for room on the
// wire: also when an event of the wire has emptied the queue before.
func (w *worker) flushStreams() {
	s := w.streams()
	for s != nil && len(s.lane.out)+len(s.thirsty) > 0 {
		s.lane.flush()
		w.watchWire(s.lane)
		if len(s.thirsty) == 0 || !s.lane.roomy() {
			return
		}
		thirsty := s.thirsty
		s.thirsty = nil
		for _, t := range thirsty {
			t.thirsty = false
			if t.lane == s.lane {
				w.feed(t)
			}
		}
	}
}

// credit tells Python how much the client has taken, once half a window has gathered.
func (w *worker) credit(t *turn) {
	l := t.lane
	if l == nil || t.uncredited < window/2 || len(t.conn.out)-t.conn.outAt >= window/2 {
		return
	}
	w.post(l, frame{number: t.number, kind: kindCredit, meta: uint32(t.uncredited)}, nil)
	t.uncredited = 0
}

// Values in place of a grace period. Python compares them as numbers.
const (
	graceSet   = -1 // asgi_disconnect_grace_period
	graceNever = -2 // the task is not cancelled, and what it sends still counts
)

// tellGone tells the application that its client has left. The task is cancelled after
// grace.
func (w *worker) tellGone(t *turn, code uint16, reason string, grace time.Duration) {
	w.postGone(t.lane, frame{number: t.number, kind: kindGone}, code, reason, grace)
}

func (w *worker) postGone(l *lane, f frame, code uint16, reason string, grace time.Duration) {
	b := appendMarshalTuple(w.fbuf[:0], 3)
	b = appendMarshalInt(b, int64(code))
	b = appendMarshalText(b, strings.ToValidUTF8(reason, "\uFFFD"))
	if grace > 0 {
		grace /= time.Millisecond
	}
	b = appendMarshalInt(b, int64(grace))
	w.fbuf = b[:0]
	w.post(l, f, b)
}

// overdueStream answers 504 in place of an application that has exceeded request_timeout
// without starting a response.
func (w *worker) overdueStream(t *turn) {
	w.log.errorf("Request timeout (pid:%d): %s from %s has run for %v and is cancelled", w.pid, t.line(), t.conn.peer.remoteAddr,
		w.since(t.begun).Round(time.Second))
	increase(&w.slot.counters.failures, 1)
	w.cancel(t, 0, newBadRequest(504, "", ""))
}

// The end of the grace period ------------------------------------------------

// partLater closes the WebSockets, and sets the time at which other streams that have not
// ended are told to end, and tasks are cancelled. On a stop this time is early enough for
// them to obey, and for the application to shut down, before the arbiter kills the worker.
func (w *worker) partLater(reload bool) {
	s := w.streams()
	if s == nil {
		return
	}
	grace := w.cfg.gracefulTimeout
	w.parting = min(partingMax, grace/3)
	if reload {
		w.parting = shutLimit
	} else {
		grace -= w.parting
		if n := s.load(); n > 0 && !w.draining() {
			w.log.infof("Waiting for %d connections to finish...", n)
		}
	}
	if at := w.after(grace); w.partAt == 0 || at < w.partAt {
		w.partAt = at
	}
	closed := 0
	for _, t := range s.lane.inPython() {
		if w.partTalk(t, reload) {
			closed++
		}
	}
	if closed > 0 {
		w.log.warningf("Forcing close of %d connections", closed)
	}
}

// partTalk closes a WebSocket with 1001 (going away) or, on a reload, 1012 (service restart).
// Its application has the grace period to end. It returns false for a turn that is none.
func (w *worker) partTalk(t *turn, reload bool) bool {
	if t.talk == nil || t.conn.gone || t.lane == nil {
		return false
	}
	code := uint16(1001)
	if reload {
		code = 1012
	}
	w.tellGone(t, code, "", time.Duration(w.partAt-w.now)+w.parting/3)
	w.endTalk(t, code, "")
	return true
}

// partAll ends the grace period. The application of every request is told that the client
// has left, and may still complete its response until its task is cancelled. Python takes no
// further requests, and shuts the application down once its tasks have ended.
func (w *worker) partAll() {
	w.partAt = 0
	list := w.python.lanes[0].inPython()
	if len(list) > 0 {
		w.log.warningf("Forcing close of %d connections", len(list))
	}
	for _, t := range list {
		if !t.conn.gone && t.lane != nil {
			w.tellGone(t, 1001, "", w.parting/3)
		}
	}
	w.endTasks(w.parting / 3)
	w.refuseWaiting()
	w.python.end()
	if w.deadline == 0 {
		w.deadline = w.after(w.parting)
	}
	w.flushOut()
}

// endTasks has Python cancel all tasks after grace, and then shut the application down.
func (w *worker) endTasks(grace time.Duration) {
	w.postGone(w.python.lanes[0], frame{kind: kindGone}, 0, "", grace)
}

// Requests -------------------------------------------------------------------

// appendScope appends the values from which asgi.py makes a scope. ASGI has no trailers of
// requests.
func (w *worker) appendScope(t *turn, b []byte) []byte {
	t.owed = owesBody
	r, e := &t.req, &t.conn.peer
	scheme := "http"
	if e.https && !r.schemeGiven || r.https {
		scheme = "https"
	}
	b = appendMarshalTuple(b, 11)
	if t.hello == nil {
		b = append(b, marshalNone)
	} else {
		scheme = "ws" + scheme[len("http"):]
		b = appendMarshalList(b, len(t.hello.protocols))
		for _, p := range t.hello.protocols {
			b = appendMarshalLatin(b, p)
		}
	}
	version := "1." + strconv.Itoa(r.minor)
	if r.streamed {
		version = "2"
	}
	b = appendMarshalText(b, version)
	b = appendMarshalText(b, r.method)
	b = append(b, 's', 0, 0, 0, 0)
	at := len(b)
	b = appendUnquoted(b, r.path)
	binary.LittleEndian.PutUint32(b[at-4:], uint32(len(b)-at))
	if utf8.Valid(b[at:]) {
		b[at-5] = 'u' // bytes that are not UTF-8 are replaced in Python
	}
	b = appendMarshalBytes(b, r.path)
	b = appendMarshalBytes(b, r.query)
	b = appendMarshalList(b, len(r.fields))
	trailers := false
	for i := range r.fields {
		f := &r.fields[i]
		b = appendMarshalTuple(b, 2)
		b = appendMarshalBytes(b, f.name)
		for i, ch := range b[len(b)-len(f.name):] {
			if 'A' <= ch && ch <= 'Z' {
				b[len(b)-len(f.name)+i] = ch + 'a' - 'A'
			}
		}
		b = appendMarshalBytes(b, f.value)
		trailers = trailers || len(f.name) == 2 && foldEqual(f.name, "TE") && bytes.Contains(f.value, []byte("trailers"))
	}
	b = w.appendClient(b, t)
	switch {
	case e.unix && e.serverName == "":
		b = append(b, marshalNone)
	case e.unix:
		b = append(appendMarshalLatin(appendMarshalTuple(b, 2), e.serverName), marshalNone)
	default:
		b = appendAddress(b, e.serverName, e.serverPort)
	}
	b = appendMarshalText(b, scheme)
	return appendMarshalBool(b, trailers && r.minor > 0)
}

// appendClient appends the client's address. Under uvicorn's worker classes, as in uvicorn,
// a trusted proxy's X-Forwarded-For gives the address.
func (w *worker) appendClient(b []byte, t *turn) []byte {
	if w.cfg.proxied() && t.conn.trusted {
		if host, port := t.req.forwardedFor(w.cfg.forwardedAllowIPs); host != "" {
			return appendMarshalInt(appendMarshalLatin(appendMarshalTuple(b, 2), host), int64(port))
		}
	}
	if t.conn.peer.remotePort == "" {
		return append(b, marshalNone) // the client of a unix socket has no address
	}
	return appendAddress(b, t.conn.peer.remoteAddr, t.conn.peer.remotePort)
}

// greetSocket notes whether a request asks for a WebSocket. The result is false if the
// handshake is wrong and has been refused. Where uvicorn's setting ws is none, the application
// sees a plain request.
func (w *worker) greetSocket(t *turn) bool {
	if w.cfg.class()["deaf"] == true {
		return true
	}
	h, asked, bad := websocketHandshake(&t.req)
	if bad != nil {
		w.refuse(t.conn, bad)
		return false
	}
	if asked {
		if w.cfg.wsPerMessageDeflate != "on" {
			h.extension = ""
		}
		t.hello = &h
	}
	return true
}

// trailerSection handles a TRAILER frame: trailer fields end the chunked body.
func (w *worker) trailerSection(t *turn, r *marshalReader) error {
	w.readFields(r)
	w.outFor(t.conn)
	if !t.refused {
		t.conn.transport.trailer(w, t)
	}
	w.complete(t)
	return nil
}

// appendSection appends the fields of a trailer section that have just been read.
func (w *worker) appendSection(b []byte, t *turn) []byte {
	if w.wrong {
		w.log.errorf("Error in trailers of %s: %v", t.line(), errBadType)
		return b
	}
	for _, f := range w.resp.fields {
		value := trimBlanks(f.value)
		if checkField(f.name, value) != nil || forbiddenTrailer(f.name) || kindOf(f.name) != plainField {
			w.log.errorf("Error in trailers of %s: invalid header name: %q", t.line(), f.name)
			break
		}
		b = appendField(b, f.name, value)
	}
	return b
}

// tail handles a TAIL frame: fields that an application of WSGI sends behind its response.
func (w *worker) tail(t *turn, r *marshalReader) error {
	w.readFields(r)
	if t.req.streamed {
		t.conn.transport.trailer(w, t)
	}
	return nil
}

// WebSockets -----------------------------------------------------------------

// agree handles an ACCEPT frame: the handshake is answered with the application's
// subprotocol and headers.
func (w *worker) agree(t *turn, r *marshalReader) error {
	w.wrong = r.sequence() != 2
	protocol := w.readText(r)
	w.readFields(r)
	if w.wrong {
		return wrongFrame(errBadType.Error())
	}
	w.outFor(t.conn)
	b, at, code := w.obuf, len(w.obuf), 101
	if t.req.tunnel {
		b, code = append(b, "HTTP/1.1 200 OK\r\n"...), 200
	} else {
		b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
		b = append(append(b, t.hello.accept[:]...), "\r\n"...)
	}
	deflate := t.hello.extension != ""
	if deflate {
		b = appendField(b, []byte("Sec-WebSocket-Extensions"), []byte(t.hello.extension))
	}
	if len(protocol) > 0 {
		w.resp.fields = append(w.resp.fields, field{[]byte("Sec-WebSocket-Protocol"), protocol})
	}
	w.resp.fields = t.mark(w.resp.fields)
	b, err := appendFields(w.resp.appendOwn(b, true, w.server, w.clock.http), w.resp.fields, hopField)
	if err != nil {
		return wrongFrame(err.Error())
	}
	w.obuf = append(b, "\r\n"...)
	w.obuf = t.conn.transport.head(w.obuf, at)
	t.started, t.conn.keep = true, false
	t.status = strconv.AppendInt(t.status[:0], int64(code), 10)
	t.framing = framing{code: code, length: -1}
	t.talk = &talk{decoder: newWSDecoder(w.cfg.wsMaxSize, deflate, &w.sockets), heard: w.now}
	t.hello = nil
	w.talks++
	if rest := t.conn.in[t.next:]; len(rest) > 0 {
		w.makeRoom(t, len(rest))
		t.body = append(t.body, rest...)
	}
	t.want = window
	if w.hear(t); w.partAt != 0 {
		w.partTalk(t, !w.draining())
	}
	return nil
}

// hear reads frames from a WebSocket's client, as far as the application's window is open.
func (w *worker) hear(t *turn) {
	defer w.weigh(t.conn)
	piece := -1 // where in the wire's output the message's latest frame begins, -1 if nothing can be added to that frame
	for turn := 0; !t.conn.gone && t.lane != nil; {
		if t.want <= 0 || t.talk.bye != nil {
			return
		}
		if !t.lane.roomFor(t) {
			return
		}
		n, e, bad := t.talk.decoder.next(t.body[t.fed:])
		t.fed += n
		turn += n
		if bad != nil {
			w.log.debugf("Closing connection. %s from ip=%s: %s", t.line(), t.conn.peer.remoteAddr, bad.text)
			w.tellGone(t, bad.code, bad.text, graceSet)
			w.endTalk(t, bad.code, bad.text)
			return
		}
		switch e.op {
		case opText, opBinary:
			piece = w.postPiece(t, e, piece)
		case opPing:
			if w.takesPong(t) {
				t.talk.ping = nil
				w.control(t.conn, opPong, e.payload)
			} else {
				t.talk.ping = append([]byte{}, e.payload...)
			}
		case opClose:
			// The close frame is answered once the application has received
			// all earlier messages, so that its replies to them are not lost.
			t.talk.bye, t.talk.byeBy = &wsError{code: e.code}, w.after(answerLimit)
			w.postGone(t.lane, frame{number: t.number, kind: kindBye}, e.code, e.reason, -1)
			return
		case 0:
			if n > 0 {
				continue
			}
			if turn >= window {
				// Pongs and empty fragments take nothing off the window: let
				// other connections have their turn.
				w.goOnLater(t.conn)
				return
			}
			if !w.hearMore(t) {
				return
			}
		}
	}
}

// postPiece queues a piece of a message from the client, as a part of the queued frame that
// begins at piece in the wire's output if the piece fits there. It returns where the frame
// with this piece begins, or -1 if the message is complete.
func (w *worker) postPiece(t *turn, e wsEvent, piece int) int {
	f := frame{number: t.number, kind: kindMessage}
	if e.op == opText {
		f.flags |= flagText
	}
	if e.last {
		f.flags |= flagLast
	}
	if t.want -= len(e.payload); piece < 0 || !t.lane.extend(piece, f, e.payload) {
		piece = len(t.lane.out)
		w.post(t.lane, f, e.payload)
		t.want -= messageCost
	}
	if e.last {
		return -1
	}
	return piece
}

// hearMore reads from a WebSocket's client: false if nothing has come.
func (w *worker) hearMore(t *turn) bool {
	if t.fed == len(t.body) {
		w.freeBody(t) // an idle client needs no buffer
	}
	n, end := w.receive(t.conn, w.rbuf)
	if end {
		w.lost(t.conn)
		return false
	}
	if n == 0 {
		return false
	}
	t.talk.heard, t.talk.pinged = w.now, 0
	w.makeRoom(t, n)
	t.body = append(t.body, w.rbuf[:n]...)
	return true
}

// takesPong reports whether a pong can be sent now: not within another frame, and not to a
// client that does not read.
func (w *worker) takesPong(t *turn) bool {
	if w.obufFor == t.conn && len(w.obuf) >= pongsMax {
		w.flushOut()
	}
	return !t.conn.gone && !t.talk.within && len(t.conn.out)-t.conn.outAt < pongsMax
}

// pongLate answers a ping that had to wait.
func (w *worker) pongLate(c *turn) {
	if t := c.talk; t != nil && t.ping != nil && c.lane != nil && w.takesPong(c) {
		w.control(c.conn, opPong, t.ping)
		t.ping = nil
	}
}

// endMessage handles the end of a message to the client, and sends the close frame or the
// pong that had to wait for that end.
func (w *worker) endMessage(t *turn) {
	w.credit(t)
	if t.talk.within = false; t.talk.closing != nil {
		w.endTalk(t, t.talk.closing.code, t.talk.closing.text)
		return
	}
	w.pongLate(t)
}

// control sends a control frame: a ping or a pong.
func (w *worker) control(c *conn, opcode byte, payload []byte) {
	w.outFor(c)
	w.obuf = append(appendWSHead(w.obuf, wsFin|opcode, len(payload)), payload...)
}

// endTalk closes a WebSocket: the client gets a close frame, and the connection ends. The
// caller tells Python, unless Python asked for the close.
func (w *worker) endTalk(t *turn, code uint16, reason string) {
	if t.talk.within {
		// A frame to the client has been sent in part, and the rest of it comes
		// from Python soon. The close frame has to wait for the end of that
		// frame; from now on the client's input is ignored.
		if t.talk.closing == nil {
			t.talk.closing = &wsError{code, reason}
		}
		t.talk.decoder.release()
		return
	}
	w.outFor(t.conn)
	w.obuf = appendWSClose(w.obuf, code, reason)
	w.flushOut()
	if t.lane == nil {
		return
	}
	w.record(t, t.status, true)
	if w.streams().bury(t); t.conn.gone {
		w.release(t.conn)
		return
	}
	t.conn.keep, t.refused = false, true
	t.enter(draining)
	w.drained(t.conn)
}

// shut handles a SHUT frame: the application closes the WebSocket.
func (w *worker) shut(t *turn, r *marshalReader) error {
	r.sequence()
	code, reason := r.int(), string(r.text())
	if r.err != nil {
		return wrongFrame("SHUT frame without code and reason")
	}
	if bye := t.talk.bye; bye != nil {
		code, reason = int64(bye.code), ""
	} else if code < 0 || code > math.MaxUint16 || !validCloseCode(uint16(code)) {
		w.log.warningf("%s: %d is no code to close a WebSocket with; 1011 is sent", t.line(), code)
		code = 1011
	}
	number := t.number
	w.endTalk(t, uint16(code), reason)
	w.streams().forget(number)
	return nil
}

// beginMessage handles the start of a MESSAGE frame from Python, a message to the client.
func (w *worker) beginMessage(t *turn, _ *marshalReader) error {
	f, opcode := t.lane.frame, byte(opBinary)
	if f.flags&flagText != 0 {
		opcode = opText
	}
	w.outFor(t.conn)
	if w.deflating = t.talk.decoder.deflate && f.length >= deflateMin; w.deflating {
		w.squeeze = opcode | wsRSV1
	} else {
		t.talk.within = true
		w.obuf = appendWSHead(w.obuf, wsFin|opcode, int(f.length))
	}
	return nil
}

// deflate compresses a piece of a message to the client.
func (w *worker) deflate(t *turn, b []byte, last bool) {
	w.outFor(t.conn)
	w.obuf, w.squeeze = w.sockets.deflate(w.obuf, w.squeeze, b, last), opContinuation
	if t.sent += int64(len(b)); len(w.obuf) > coalesce {
		w.flushOut()
	}
}

// answerBye answers the client's close frame in place of an application that has not taken
// the messages before it in time.
func (w *worker) answerBye(t *turn) {
	bye := t.talk.bye
	t.talk.bye = nil
	w.tellGone(t, bye.code, "", graceSet)
	w.endTalk(t, bye.code, "")
}

// keepUp sends a ping to a client that has been silent, and closes the WebSocket if the
// ping is not answered in time.
func (w *worker) keepUp(c *turn) {
	t := c.talk
	switch {
	case w.cfg.wsPingInterval == 0 || t.within || t.bye != nil:
	case c.want <= 0:
		t.pinged = 0 // the worker is not reading from this client, because the application does not receive
	case t.pinged == 0:
		if w.since(t.heard) >= w.cfg.wsPingInterval && !c.conn.pending() {
			t.pinged = w.now
			w.control(c.conn, opPing, nil)
			w.flushOut()
		}
	case w.cfg.wsPingTimeout > 0 && w.since(t.pinged) >= w.cfg.wsPingTimeout:
		w.log.debugf("Closing connection. %s from ip=%s does not answer a ping", c.line(), c.conn.peer.remoteAddr)
		w.tellGone(c, 1011, "keepalive ping timeout", graceSet)
		w.endTalk(c, 1011, "keepalive ping timeout")
	}
}

// proxied reports whether the client's address is taken from X-Forwarded-For, as uvicorn
// does.
func (c *config) proxied() bool {
	return c.class()["uvicorn"] == true || strings.HasPrefix(c.workerClass, "uvicorn")
}
