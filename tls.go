package main

// TLS on a client's connection. crypto/tls wants a connection that it can read
// and write as it likes; the one that it gets here never blocks the loop. The
// handshake, whose arithmetic takes a thousand times as long as a record's, runs
// in a goroutine, which sleeps on a channel while its client has to say
// something: no thread waits for a slow one, and the loop, which watches the
// socket as always, wakes it. From then on the connection is the loop's alone.
// A read that finds nothing fails for the time being, which crypto/tls takes
// from errors that are Temporary; a write never fails for want of room, as
// what the socket does not take waits in conn.out, whose length holds back
// the plaintext.
//
// Keys cannot be handed over, so such a connection ends in the worker that it
// began in.

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	handshakeLimit = 10 * time.Second // from the first byte to the last
	handshakesMax  = 512              // of one worker at a time
	handshakeMax   = 64 << 10         // of a client: a long chain of certificates has a tenth of that
	handshakeCost  = 64 << 10         // of memory, while it lasts
	secureCost     = 8 << 10          // of memory from then on, beside what a record takes
	sealedMax      = 256 << 10        // waiting in out: no more is read, which might cause answers
	filePiece      = 64 << 10         // of a file, encrypted at once
)

// terminator is what a worker has of TLS.
type terminator struct {
	config *tls.Config // of new connections
	number uint64      // of the keyring that it was made of
	failed bool        // a keyring could not be used, and that was said

	running []*conn       // whose handshakes do, oldest first
	queue   []*conn       // wait for a place among them
	ended   chan *secure  // on their way back to the loop
	wake    int           // eventfd: there are some
	turns   chan struct{} // held while a handshake computes
	alone   bool          // there is one processor, so the loop must yield it
}

// secure is the TLS of one connection.
type secure struct {
	w     *worker
	c     *conn
	fd    int
	tls   *tls.Conn
	early []byte // what was read before TLS began
	eof   bool   // the socket has ended, whatever TLS said
	dry   bool   // it has nothing until an event says so
	took  int    // bytes of the handshake
	room  int    // crypto/tls's for a record, as seen from reads

	// A goroutine has it between start and the end of the handshake.
	shaking bool
	heard   bool          // a byte of the client
	ready   chan struct{} // the socket may be so again
	waits   atomic.Bool   // for that
	over    atomic.Bool   // time is up
	out     []byte        // for the client
	err     error         // how it ended
}

// openTLS makes the terminator, nil without TLS.
func (w *worker) openTLS() (err error) {
	if !w.cfg.usesTLS() {
		return nil
	}
	processors := runtime.GOMAXPROCS(0)
	t := &terminator{
		ended: make(chan *secure, handshakesMax),
		turns: make(chan struct{}, max(1, processors-1)), // and one for the loop
		alone: processors == 1,
	}
	if t.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	k, number, err := readVault(fdVault, 0)
	if err != nil {
		return err
	}
	if t.config, err = k.tls(w.cfg); err != nil {
		return err
	}
	t.number, w.tls = number, t
	return w.listen(t.wake, unix.EPOLLIN, ownerFunc((*worker).handshakesEnded))
}

// renew takes the newest keyring for what connects from now on.
func (w *worker) renew() {
	t := w.tls
	k, number, err := readVault(fdVault, t.number)
	if err == nil && k == nil {
		return
	}
	var fresh *tls.Config
	if err == nil {
		fresh, err = k.tls(w.cfg)
	}
	if err != nil {
		if !t.failed {
			w.log.errorf("TLS: %v", err)
		}
		t.failed = true
		return
	}
	t.config, t.number, t.failed = fresh, number, false
}

// stay is what becomes of a secure connection in a worker that others replace:
// it has a moment for the request that its client may be sending just now, and
// the answer says that it is the last.
func (w *worker) stay(c *conn) {
	if len(c.in) == 0 {
		c.hasten(w.now + int64(lingerIdle))
	}
}

// Handshake -----------------------------------------------------------------

// greet handles an event on a connection that is not yet secure.
func (w *worker) greet(c *conn, events uint32) {
	if c.secure != nil {
		c.secure.poke()
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		w.readHello(c)
	}
}

// readHello reads the client's first record. Until that is whole there is no
// handshake: who sends a byte costs no more than with half a head, and takes
// nobody's place.
func (w *worker) readHello(c *conn) {
	for !wholeRecord(c.in) {
		if !w.readHead(c) {
			if !c.gone && len(c.in) > 0 {
				w.lag(c)
			}
			return
		}
	}
	w.shake(c)
}

// wholeRecord says whether b begins with a record of a handshake (RFC 8446 5.1), or
// with what will never be one.
func wholeRecord(b []byte) bool {
	if len(b) < 5 {
		return len(b) > 0 && b[0] != 22
	}
	n := int(b[3])<<8 | int(b[4])
	return len(b) >= 5+n || b[0] != 22 || n > 1<<14
}

// shake starts the handshake, when there is a place for it. What has been read
// of it by now is in c.in.
func (w *worker) shake(c *conn) {
	t := w.tls
	w.lag(c)
	if len(t.running) >= handshakesMax {
		if c.shaken == 0 {
			c.shaken = w.now
			t.queue = append(t.queue, c)
			t.makeRoom(w.now, 1)
		}
		return
	}
	s := &secure{w: w, c: c, fd: c.fd, shaking: true, ready: make(chan struct{}, 1)}
	s.early = append(s.early, c.in...)
	w.pool.put(c.in)
	c.in = nil
	s.tls = tls.Server(s, t.config)
	c.secure = s
	c.shaken = w.now
	w.weigh(c)
	t.running = append(t.running, c)
	go s.run(t)
}

// forgetLeft takes those out of the queue that are gone: nobody gets to its end while
// there are newer ones.
func (t *terminator) forgetLeft() {
	t.queue = slices.DeleteFunc(t.queue, func(c *conn) bool { return c.gone })
}

// makeRoom ends up to n handshakes that have waited for their clients for long
// enough while others want their places. One that waits for a processor stays.
func (t *terminator) makeRoom(now int64, n int) {
	for _, c := range t.running {
		if n == 0 || now-c.shaken < int64(placePatience) {
			return
		}
		if s := c.secure; s.waits.Load() && !s.over.Load() {
			s.giveUp()
			n--
		}
	}
}

// fill starts those that have waited for a place, the newest first: behind a crowd of
// clients that only begin handshakes, first come first served would have everybody
// wait for as long as the crowd.
func (w *worker) fill() {
	t := w.tls
	for len(t.queue) > 0 && len(t.running) < handshakesMax {
		last := len(t.queue) - 1
		c := t.queue[last]
		t.queue = t.queue[:last]
		if !c.gone && c.state == handshaking && c.secure == nil {
			w.shake(c)
		}
	}
}

// run is the goroutine.
func (s *secure) run(t *terminator) {
	t.turns <- struct{}{}
	s.err = s.tls.Handshake()
	<-t.turns
	t.ended <- s
	_, _ = rawWrite(t.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// poke lets the goroutine look at its socket.
func (s *secure) poke() {
	select {
	case s.ready <- struct{}{}:
	default: // it will look in any case
	}
}

// giveUp ends a handshake at its next step. It still owns the descriptor until
// it has come back.
func (s *secure) giveUp() {
	s.over.Store(true)
	s.poke()
}

// shakes says whether the handshake's goroutine has the connection.
func (c *conn) shakes() bool { return c.state == handshaking && c.secure != nil }

// held is about the memory that it has of its own. That of a handshake which has been
// given up comes back soon.
func (s *secure) held() int {
	switch {
	case !s.shaking:
		return secureCost + s.room
	case s.over.Load():
		return 0
	}
	return handshakeCost
}

// handshakesEnded takes back what handshakes have become.
func (w *worker) handshakesEnded(int, uint32) {
	var b [8]byte
	_, _ = rawRead(w.tls.wake, b[:])
	for {
		select {
		case s := <-w.tls.ended:
			w.handshaken(s)
		default:
			w.fill()
			return
		}
	}
}

// handshaken goes on with a connection: with its first request, or its end.
func (w *worker) handshaken(s *secure) {
	c, t := s.c, w.tls
	i := slices.Index(t.running, c)
	t.running = slices.Delete(t.running, i, i+1)
	s.shaking, s.ready = false, nil
	c.shaken, c.unread = 0, true
	w.weigh(c)
	if len(s.out) > 0 {
		w.put(c, s.out)
		s.out = nil
	}
	if s.err != nil {
		w.refuseTLS(c, s)
		return
	}
	c.peer.facts = appendFacts(nil, s.tls.ConnectionState())
	c.enter(open)
	w.awaitHead(c)
	if w.stopping() {
		c.hasten(w.now + int64(lingerIdle))
	}
	w.advance(c)
}

// refuseTLS ends a connection that did not become secure. The client gets an
// alert if the protocol has one for the case.
func (w *worker) refuseTLS(c *conn, s *secure) {
	var record tls.RecordHeaderError
	text := s.err.Error()
	switch {
	case !s.heard || errors.Is(s.err, io.EOF) || errors.Is(s.err, io.ErrUnexpectedEOF) || errors.Is(s.err, unix.ECONNRESET) || errors.Is(s.err, unix.EPIPE):
		w.log.debugf("ssl connection closed: ip=%s left during the handshake", c.peer.remoteAddr)
		text = ""
	case errors.Is(s.err, errHandshakeTime) && c.expires > w.now:
		w.log.debugf("ssl connection closed: ip=%s was slow with the handshake, and its place was wanted", c.peer.remoteAddr)
		text = ""
	case errors.As(s.err, &record) && looksLikeHTTP(record.RecordHeader[:]):
		text = "plain HTTP was sent to a port that speaks TLS"
	}
	if text != "" {
		w.log.warningf("Invalid request from ip=%s: %s", c.peer.remoteAddr, printable(text))
	}
	c.secure = nil
	c.enter(open)
	c.keep, c.turn = false, w.newTurn(c)
	c.turn.enter(draining)
	w.drained(c)
}

// looksLikeHTTP says whether five bytes are the beginning of a request line.
func looksLikeHTTP(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return (c < 'A' || c > 'Z') && c != ' ' && c != '/' })
}

// Facts ---------------------------------------------------------------------

// appendFacts adds what is known of the connection to an environ, by the names
// that Apache's mod_ssl gave them. No header field of a client can have such a
// key.
func appendFacts(b []byte, state tls.ConnectionState) []byte {
	add := func(key, value string) { b = appendMarshalLatin(appendMarshalText(b, key), value) }
	add("HTTPS", "on")
	add("SSL_PROTOCOL", "TLSv1."+string('0'+rune(state.Version-tls.VersionTLS10)))
	add("SSL_CIPHER", cipherName(state.CipherSuite))
	if state.ServerName != "" {
		add("SSL_TLS_SNI", state.ServerName)
	}
	add("SSL_SESSION_RESUMED", map[bool]string{false: "Initial", true: "Resumed"}[state.DidResume])
	if len(state.PeerCertificates) == 0 {
		add("SSL_CLIENT_VERIFY", "NONE")
		return b
	}
	cert := state.PeerCertificates[0]
	add("SSL_CLIENT_VERIFY", "SUCCESS") // or there would be no connection
	add("SSL_CLIENT_S_DN", certName(cert.Subject.String()))
	add("SSL_CLIENT_S_DN_CN", certName(cert.Subject.CommonName))
	add("SSL_CLIENT_I_DN", certName(cert.Issuer.String()))
	add("SSL_CLIENT_M_SERIAL", fmt.Sprintf("%X", cert.SerialNumber.Bytes()))
	add("SSL_CLIENT_V_START", certTime(cert.NotBefore))
	add("SSL_CLIENT_V_END", certTime(cert.NotAfter))
	add("SSL_CLIENT_CERT", certPEM(cert))
	return b
}

// certName escapes what would break a line that the application writes.
func certName(s string) string { return string(appendEscaped(nil, s, inName)) }

func certTime(t time.Time) string { return t.UTC().Format("Jan _2 15:04:05 2006 GMT") }

func certPEM(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

// Records -------------------------------------------------------------------

// read reads from the client: the one place where bytes come in. It is as
// rawRead, whatever the connection is.
func (c *conn) read(b []byte) (int, syscall.Errno) {
	if c.secure != nil {
		return c.secure.open(b)
	}
	return rawRead(c.fd, b)
}

// open reads plaintext. Records that are in memory come first, so it has to be
// called until it says EAGAIN: no event will tell of them.
func (s *secure) open(b []byte) (int, syscall.Errno) {
	if len(s.c.out)-s.c.outAt > sealedMax {
		return 0, unix.EAGAIN // drain asks again
	}
	n, err := s.tls.Read(b)
	switch {
	case n > 0:
		return n, 0
	case errors.Is(err, errWouldBlock):
		return 0, unix.EAGAIN
	case !errors.Is(err, io.EOF):
		s.w.log.debugf("ssl connection closed: ip=%s: %s", s.c.peer.remoteAddr, printable(err.Error()))
		return 0, unix.EPROTO
	case s.eof && !s.w.cfg.suppressRaggedEOFs:
		s.w.log.warningf("ip=%s cut its TLS connection", s.c.peer.remoteAddr)
	}
	return 0, 0
}

// certificate is the client's, empty if it has shown none.
func (e *endpoint) certificate() []byte {
	i := bytes.Index(e.facts, []byte("-----BEGIN"))
	if i < 0 {
		return nil
	}
	block, _ := pem.Decode(e.facts[i:])
	if block == nil {
		return nil
	}
	return block.Bytes
}

// seal writes plaintext.
func (w *worker) seal(c *conn, pieces ...[]byte) {
	for _, b := range pieces {
		if len(b) == 0 {
			continue
		}
		if _, err := c.secure.tls.Write(b); err != nil {
			w.lost(c)
			return
		}
	}
	if c.pending() {
		w.awaitTaking(c)
	}
}

// sealFile writes the next piece of the file: it cannot be sent past us.
func (w *worker) sealFile(c *conn) (int, error) {
	if len(c.out) > c.outAt {
		return 0, unix.EAGAIN
	}
	b := w.pool.get(filePiece)
	defer w.pool.put(b)
	n, err := unix.Pread(c.file, b[:min(c.fileEnd-c.fileAt, filePiece)], c.fileAt)
	if n > 0 {
		c.fileAt += int64(n)
		_, err = c.secure.tls.Write(b[:n])
	}
	return n, err
}

// sayEnd sends close_notify, once: what came before is all there was. It is
// false if there is no TLS to say it in.
func (s *secure) sayEnd() bool {
	if s != nil {
		_ = s.tls.CloseWrite()
	}
	return s != nil
}

// The connection beneath ----------------------------------------------------

// errWouldBlock is what reading nothing is outside of a handshake.
var errWouldBlock net.Error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string { return "would block" }

func (wouldBlock) Timeout() bool { return true }

func (wouldBlock) Temporary() bool { return true }

var (
	errHandshakeTime = errors.New("the TLS handshake was not done in time")
	errHandshakeLong = errors.New("the TLS handshake is too long")
)

// Read is crypto/tls's.
func (s *secure) Read(b []byte) (int, error) {
	if len(s.early) > 0 {
		n := copy(b, s.early)
		s.early, s.heard = s.early[n:], true
		return n, nil
	}
	for {
		if s.shaking {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
		if s.dry {
			return 0, errWouldBlock
		}
		n, errno := rawRead(s.fd, b)
		switch {
		case errno == unix.EAGAIN && !s.shaking:
			return 0, errWouldBlock
		case errno == unix.EAGAIN:
			if err := s.await(); err != nil {
				return 0, err
			}
		case errno != 0:
			return 0, os.NewSyscallError("read", errno)
		case n == 0:
			s.eof = true
			return 0, io.EOF
		default:
			s.heard = true
			if s.shaking {
				if s.took += n; s.took > handshakeMax {
					return 0, errHandshakeLong
				}
			} else if len(b) > s.room {
				s.room = len(b)
				s.w.weigh(s.c)
			}
			s.dry = n < len(b) && !s.shaking && s.c.watched && !s.c.ending // as receive has it
			return n, nil
		}
	}
}

// await sleeps until there may be more to read. Others compute meanwhile.
func (s *secure) await() error {
	t := s.w.tls
	s.waits.Store(true)
	<-t.turns
	<-s.ready
	t.turns <- struct{}{}
	s.waits.Store(false)
	if s.over.Load() {
		return errHandshakeTime
	}
	return nil
}

// Write takes everything.
func (s *secure) Write(b []byte) (int, error) {
	if s.shaking {
		s.out = append(s.out, b...)
		return len(b), s.flush()
	}
	n := 0
	if len(s.c.out) == s.c.outAt {
		var errno syscall.Errno
		if n, errno = rawWrite(s.fd, b); errno != 0 && errno != unix.EAGAIN {
			return 0, os.NewSyscallError("write", errno)
		}
		s.c.given += n
	}
	if n < len(b) {
		s.w.put(s.c, b[n:])
	}
	return len(b), nil
}

// flush writes what a handshake has to say, as far as the socket takes it.
func (s *secure) flush() error {
	for len(s.out) > 0 {
		n, errno := rawWrite(s.fd, s.out)
		if errno == unix.EAGAIN {
			return nil
		}
		if errno != 0 {
			return os.NewSyscallError("write", errno)
		}
		s.out = s.out[n:]
	}
	return nil
}

// The rest of a net.Conn. Limits in time are the loop's.

func (s *secure) Close() error { return nil }

func (s *secure) LocalAddr() net.Addr { return nil }

func (s *secure) RemoteAddr() net.Addr { return nil }

func (s *secure) SetDeadline(time.Time) error { return nil }

func (s *secure) SetReadDeadline(time.Time) error { return nil }

func (s *secure) SetWriteDeadline(time.Time) error { return nil }
