package main

// TLS on a client's connection. crypto/tls expects a net.Conn whose Read and
// Write block; the net.Conn here (secure) never blocks the loop.
//
// A handshake computes a thousand times as long as a record, so each handshake
// runs in a goroutine of its own. While the client has to send, the goroutine
// sleeps on a channel; the loop watches the socket and wakes the goroutine. No
// thread waits for a slow client.
//
// After the handshake only the loop touches the connection. A Read without input
// returns a Temporary error, after which crypto/tls can go on later. A Write
// always succeeds: bytes that the socket does not take wait in conn.out, and the
// loop encrypts no more while conn.out is long.
//
// Keys cannot be handed over, so a TLS connection ends in the worker in which it
// began.

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	handshakeLimit = 10 * time.Second // longest handshake, from the client's first byte to the last
	handshakesMax  = 512              // handshakes in progress in one worker; 512 * handshakeCost is 32 MiB
	handshakeMax   = 64 << 10         // bytes a client may send in a handshake; a long certificate chain has 6 KiB
	handshakeCost  = 64 << 10         // memory of a handshake in progress
	secureCost     = 8 << 10          // memory of an established connection, without record buffers
	sealedMax      = 256 << 10        // bytes in conn.out above which no record is read, as records may need replies
	filePiece      = 64 << 10         // bytes of a file that are encrypted at a time: four records
)

// terminator is the TLS state of a worker.
type terminator struct {
	config *tls.Config // configuration for new connections
	number uint64      // number of the keyring behind config
	failed bool        // the newest keyring is unusable, and the log says so

	running []*conn       // connections whose handshakes are in progress, oldest first
	queue   []*conn       // connections that wait until fewer handshakes are running
	ended   chan *secure  // finished handshakes, to be collected by the loop
	wake    int           // eventfd that tells the loop to look at ended
	turns   chan struct{} // semaphore held while a handshake computes
	alone   bool          // there is only one processor, so the loop must yield to handshakes
}

// secure is the TLS state of one connection, and the net.Conn that crypto/tls
// uses.
type secure struct {
	plain
	net.Conn // nil: secure has all methods that crypto/tls calls

	w     *worker
	c     *conn
	fd    int
	tls   *tls.Conn
	early []byte // bytes read before the handshake started
	eof   bool   // the socket has ended, perhaps without a close_notify
	took  int    // bytes read by the handshake
	room  int    // size of crypto/tls's record buffer, as seen from its reads

	// While shaking is true, the handshake's goroutine owns the fields of this
	// struct, except the atomic ones and the channel.
	shaking bool
	heard   bool          // the client has sent at least one byte
	ready   chan struct{} // signalled when the socket may be readable
	waits   atomic.Bool   // the goroutine is blocked on ready
	ends    atomic.Bool   // the handshake must end: its time is up
	out     []byte        // handshake bytes that the socket has not taken
	err     error         // result of the handshake
}

func (w *worker) openTLS() (err error) {
	if !w.cfg.usesTLS() {
		return nil
	}
	processors := runtime.GOMAXPROCS(0)
	t := &terminator{
		ended: make(chan *secure, handshakesMax),
		turns: make(chan struct{}, max(1, processors-1)), // leaves one processor to the loop
		alone: processors == 1,
	}
	if t.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if err := t.renew(w.cfg); err != nil {
		return err
	}
	w.tls = t
	return w.listen(t.wake, unix.EPOLLIN, ownerFunc((*worker).handshakesEnded))
}

// renewTLS makes the newest keyring the one for new connections.
func (w *worker) renewTLS() {
	if err := w.tls.renew(w.cfg); err != nil {
		if !w.tls.failed {
			w.log.errorf("TLS: %v", err)
		}
		w.tls.failed = true
	}
}

// renew reads the newest keyring, if that is not in use already.
func (t *terminator) renew(c *config) error {
	k, number, err := readVault(fdVault, t.number)
	if err != nil || k == nil {
		return err
	}
	fresh, err := k.tls(c)
	if err == nil {
		t.config, t.number, t.failed = fresh, number, false
	}
	return err
}

// stay shortens the life of an idle secure connection in a worker that is being
// replaced. A request that the client is just sending is still served; its
// response says that the connection closes.
func (w *worker) stay(c *conn) {
	if len(c.in) == 0 {
		c.hasten(w.after(lingerIdle))
	}
}

// Handshake -----------------------------------------------------------------

// greet handles an event on a connection that is not yet secure.
func (w *worker) greet(c *conn, events uint32) {
	if s := c.tls(); s != nil {
		nudge(s.ready) // the goroutine looks at its socket
		return
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		w.readHello(c)
	}
}

// readHello reads the client's first record. The handshake starts only when the
// record is complete: a client that sends a single byte costs no more than a
// client with half a request head, and takes no place among the handshakes.
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

// wholeRecord reports whether b begins with a complete handshake record (RFC 8446
// 5.1), or with bytes that cannot become one.
func wholeRecord(b []byte) bool {
	if len(b) < 5 {
		return len(b) > 0 && b[0] != 22
	}
	n := int(b[3])<<8 | int(b[4])
	return len(b) >= 5+n || b[0] != 22 || n > 1<<14
}

// shake starts the handshake of c, or queues c while too many are in progress.
// The bytes in c.in are the handshake's first.
func (w *worker) shake(c *conn) {
	t := w.tls
	w.lag(c)
	if len(t.running) >= handshakesMax {
		if c.shaken == 0 {
			c.shaken = w.now
			t.queue = append(t.queue, c)
			t.evict(w.now, 1)
		}
		return
	}
	s := &secure{w: w, c: c, fd: c.fd, shaking: true, ready: make(chan struct{}, 1)}
	s.early = append(s.early, c.in...)
	w.pool.put(c.in)
	c.in = nil
	s.tls = tls.Server(s, t.config)
	c.transport = s
	c.shaken = w.now
	w.weigh(c)
	t.running = append(t.running, c)
	go s.run(t)
}

// forgetLeft removes closed connections from the queue. startQueued takes the
// newest first and might never reach the closed ones.
func (t *terminator) forgetLeft() {
	t.queue = slices.DeleteFunc(t.queue, func(c *conn) bool { return c.gone })
}

// evict ends up to n handshakes whose clients have been silent for longer than
// placePatience, oldest first. A handshake that waits for a processor is spared.
func (t *terminator) evict(now int64, n int) {
	for _, c := range t.running {
		if n == 0 || now-c.shaken < int64(placePatience) {
			return
		}
		if s := c.tls(); s.waits.Load() && !s.ends.Load() {
			s.abort()
			n--
		}
	}
}

// startQueued starts queued handshakes, the newest first. In the order of arrival,
// everybody would wait behind a crowd of clients that never finish a handshake.
func (w *worker) startQueued() {
	t := w.tls
	for len(t.queue) > 0 && len(t.running) < handshakesMax {
		last := len(t.queue) - 1
		c := t.queue[last]
		t.queue = t.queue[:last]
		if !c.gone && c.state == handshaking && !c.shakes() {
			w.shake(c)
		}
	}
}

// run is the goroutine of one handshake.
func (s *secure) run(t *terminator) {
	t.turns <- struct{}{}
	s.err = s.tls.Handshake()
	// Nothing is sent after the client's last message, so that the kernel would delay its
	// acknowledgement by 40 ms, and a client without TCP_NODELAY holds its first request
	// back until then. A unix socket has no such option, and no need.
	_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	<-t.turns
	t.ended <- s
	_, _ = rawWrite(t.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// abort makes a handshake fail at its next step. The goroutine owns the
// descriptor until the loop has collected the result.
func (s *secure) abort() {
	s.ends.Store(true)
	nudge(s.ready)
}

// tls is the connection's TLS, nil for none or before the handshake.
func (c *conn) tls() *secure {
	s, _ := c.transport.(*secure)
	return s
}

// shakes reports whether a handshake's goroutine owns the connection.
func (c *conn) shakes() bool { return c.state == handshaking && c.tls() != nil }

// computes reports whether the server's part of a handshake is due.
func (c *conn) computes() bool { return c.shakes() && !c.tls().waits.Load() }

// held counts a handshake that has been given up as zero, because its memory is about to be
// freed.
func (s *secure) held() (pooled, beside int) {
	switch {
	case !s.shaking:
		return 0, secureCost + s.room
	case s.ends.Load():
		return 0, 0
	}
	return 0, handshakeCost
}

func (w *worker) handshakesEnded(int, uint32) {
	var b [8]byte
	_, _ = rawRead(w.tls.wake, b[:])
	for {
		select {
		case s := <-w.tls.ended:
			w.handshaken(s)
		default:
			w.startQueued()
			return
		}
	}
}

// handshaken continues a connection after its handshake: with the first request, or by an
// end of the connection.
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
	if s.tls.ConnectionState().NegotiatedProtocol == "h2" {
		w.becomeCarrier(c)
	}
	if w.stopping() {
		c.hasten(w.after(lingerIdle))
	}
	w.advance(c)
}

// requestLine has the bytes with which a request line may begin.
const requestLine = "ABCDEFGHIJKLMNOPQRSTUVWXYZ /"

// refuseTLS ends a connection whose handshake failed, after the alert that
// crypto/tls may have written.
func (w *worker) refuseTLS(c *conn, s *secure) {
	var record tls.RecordHeaderError
	text := s.err.Error()
	quiet := "" // why the handshake ended, if that needs no warning
	switch {
	case !s.heard || errors.Is(s.err, io.EOF) || errors.Is(s.err, io.ErrUnexpectedEOF) || errors.Is(s.err, unix.ECONNRESET) || errors.Is(s.err, unix.EPIPE):
		quiet = "left during the handshake"
	case errors.Is(s.err, errHandshakeTime) && c.expires > w.now:
		quiet = "was slow with the handshake, and its place was wanted"
	case errors.As(s.err, &record) && strings.Trim(string(record.RecordHeader[:]), requestLine) == "":
		text = "plain HTTP was sent to a port that speaks TLS"
	}
	if quiet != "" {
		w.log.debugf("ssl connection closed: ip=%s %s", c.peer.remoteAddr, quiet)
	} else {
		w.log.warningf("Invalid request from ip=%s: %s", c.peer.remoteAddr, printable(text))
	}
	c.transport = plain{}
	c.enter(open)
	c.keep, c.turn = false, w.newTurn(c)
	c.turn.enter(draining)
	w.drained(c)
}

// Facts ---------------------------------------------------------------------

// appendFacts appends environ entries about a TLS connection, under the names of
// Apache's mod_ssl. A client cannot forge them, because the keys of header fields
// begin with HTTP_.
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
	add("SSL_CLIENT_VERIFY", "SUCCESS") // an unverified certificate fails the handshake
	// Unprintable characters could forge lines in the application's logs.
	add("SSL_CLIENT_S_DN", string(appendEscaped(nil, cert.Subject.String(), inName)))
	add("SSL_CLIENT_S_DN_CN", string(appendEscaped(nil, cert.Subject.CommonName, inName)))
	add("SSL_CLIENT_I_DN", string(appendEscaped(nil, cert.Issuer.String(), inName)))
	add("SSL_CLIENT_M_SERIAL", fmt.Sprintf("%X", cert.SerialNumber.Bytes()))
	add("SSL_CLIENT_V_START", cert.NotBefore.UTC().Format(certTime))
	add("SSL_CLIENT_V_END", cert.NotAfter.UTC().Format(certTime))
	add("SSL_CLIENT_CERT", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	return b
}

// certTime is how mod_ssl shows a time.
const certTime = "Jan _2 15:04:05 2006 GMT"

// Records -------------------------------------------------------------------

// read reads plaintext. Records may be buffered in memory, for which no event
// will come, so the caller must go on until EAGAIN.
func (s *secure) read(c *conn, b []byte) (int, syscall.Errno) {
	if len(c.out)-c.outAt > sealedMax {
		return 0, unix.EAGAIN // until push has written c.out
	}
	n, err := s.tls.Read(b)
	switch {
	case n > 0:
		return n, 0
	case errors.Is(err, errWouldBlock):
		return 0, unix.EAGAIN
	case !errors.Is(err, io.EOF):
		s.w.log.debugf("ssl connection closed: ip=%s: %s", c.peer.remoteAddr, printable(err.Error()))
		return 0, unix.EPROTO
	case s.eof && !s.w.cfg.suppressRaggedEOFs:
		s.w.log.warningf("ip=%s cut its TLS connection", c.peer.remoteAddr)
	}
	return 0, 0
}

// certificate returns the client's certificate in DER, nil if there is none.
func (e *endpoint) certificate() []byte {
	_, text, _ := bytes.Cut(e.facts, []byte("-----BEGIN"))
	if block, _ := pem.Decode(append([]byte("-----BEGIN"), text...)); block != nil {
		return block.Bytes
	}
	return nil
}

// write encrypts everything: what the socket does not take, Write keeps.
func (s *secure) write(_ *conn, a, b []byte) (int, syscall.Errno) {
	for _, piece := range [...][]byte{a, b} {
		if len(piece) == 0 {
			continue
		}
		if _, err := s.tls.Write(piece); err != nil {
			return 0, unix.EPIPE
		}
	}
	return len(a) + len(b), 0
}

// push writes what is encrypted already. After the last byte, there is room for the replies
// that records may need, so that read can go on.
func (s *secure) push(c *conn, b []byte) (int, syscall.Errno) {
	n, errno := s.plain.push(c, b)
	c.unread = c.unread || n == len(b)
	return n, errno
}

// sendFile encrypts a piece of the file, in place of sendfile(2).
func (s *secure) sendFile(w *worker, c *conn) (int, error) {
	if len(c.out) > c.outAt {
		return 0, unix.EAGAIN
	}
	b := w.pool.get(filePiece)
	defer w.pool.put(b)
	n, err := unix.Pread(c.file, b[:min(c.fileEnd-c.fileAt, filePiece)], c.fileAt)
	if n > 0 {
		c.fileAt += int64(n)
		_, err = s.tls.Write(b[:n])
	}
	return n, err
}

// portable: the keys stay with this worker.
func (s *secure) portable() bool { return false }

// give lends a request that waits: in a worker that stops at once, and otherwise after
// lendAfter.
func (s *secure) give(w *worker, c *conn) bool {
	t := c.turn
	return t != nil && t.state == waiting && !c.decodes() && w.slot.phase() != phaseQuitting &&
		(w.stopping() || w.since(t.since) >= lendAfter) && w.lend(c)
}

// end first sends close_notify, which tells the client that nothing was cut off.
func (s *secure) end(w *worker, c *conn) {
	if !c.cut {
		if _ = s.tls.CloseWrite(); c.pending() {
			w.watch(c)
			return
		}
	}
	s.plain.end(w, c)
}

func (s *secure) unplug(w *worker, c *conn) {
	if c.between() && !c.cut && !c.pending() { // cut: close has forgotten the turn of a response that broke off
		_ = s.tls.CloseWrite()
	}
	c.transport = plain{}
	s.plain.unplug(w, c)
}

// The connection beneath ----------------------------------------------------

// errWouldBlock is the error of Read without input after the handshake. crypto/tls
// lets its caller retry after a net.Error that is Temporary, as EAGAIN is.
const errWouldBlock = unix.EAGAIN

var (
	errHandshakeTime = errors.New("the TLS handshake was not done in time")
	errHandshakeLong = errors.New("the TLS handshake is too long")
)

// Read gives crypto/tls bytes of the client.
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
		if !s.shaking && s.c.dry {
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
			if !s.shaking {
				s.c.dry = n < len(b) && s.c.watched && !s.c.ending // as in plain.read
			}
			return n, nil
		}
	}
}

// await sleeps until the socket may be readable, and lets other handshakes compute
// meanwhile.
func (s *secure) await() error {
	t := s.w.tls
	s.waits.Store(true)
	<-t.turns
	<-s.ready
	t.turns <- struct{}{}
	s.waits.Store(false)
	if s.ends.Load() {
		return errHandshakeTime
	}
	return nil
}

// Write writes b, or keeps the bytes that the socket does not take. Write never
// blocks.
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

// flush writes the handshake's pending bytes, as far as the socket takes them.
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

// SetWriteDeadline is called by CloseWrite. The loop keeps the deadlines.
func (s *secure) SetWriteDeadline(time.Time) error { return nil }

// Certificates ---------------------------------------------------------------
//
// Certificates, their private key, the authorities for clients' certificates, and
// the keys of session tickets. The arbiter reads the files, because the workers'
// user may lack permission, checks once a second whether the files have changed,
// and publishes valid content in memory shared with the workers. A renewed
// certificate therefore needs no reload, and a session resumes in any worker.

const (
	ticketLife  = 8 * time.Hour // time until a new key encrypts new session tickets
	ticketSize  = 32            // bytes of a key
	ticketsKept = 3             // keys whose tickets are accepted; three times ticketLife is a day
	certFileMax = 1 << 20       // bytes of one file; a system's bundle of authorities has 200 KB
	vaultMax    = 4 << 20       // bytes of one keyring: three files and the ticket keys
)

func (c *config) usesTLS() bool { return c.certfile != "" || c.keyfile != "" }

// checkTLS checks the settings for TLS, without reading the files.
func (c *config) checkTLS() error {
	if !c.usesTLS() {
		return nil
	}
	if _, err := selectSuites(c.ciphers); err != nil {
		return err
	}
	switch {
	case c.certfile == "":
		return sentence("keyfile: %q needs certfile, the certificate that belongs to it", c.keyfile)
	case c.certReqs > 2:
		return sentence("cert_reqs: %d is none of 0 (no certificate of the client), 1 (optional) and 2 (required)", c.certReqs)
	case c.certReqs > 0 && c.caCerts == "":
		return sentence("cert_reqs: %d needs ca_certs, the authorities that the certificates of clients come from", c.certReqs)
	}
	return nil
}

// warnOfVersion warns that ssl_version is ignored.
func (c *config) warnOfVersion(log *errorLog) {
	if v, given := c.given["ssl_version"]; c.usesTLS() && given && v != int64(2) && v != nil {
		log.warningf("ssl_version is ignored: TLS 1.3 and 1.2 are spoken")
	}
}

// keyring is everything secret or renewable that TLS needs.
type keyring struct {
	cert, key, ca []byte // content of the files, in PEM
	tickets       []byte // keys of session tickets, newest first
}

// readKeyring reads and checks the files named by the settings.
func readKeyring(c *config) (*keyring, error) {
	k := &keyring{}
	for _, f := range []struct {
		setting, path string
		to            *[]byte
	}{{"certfile", c.certfile, &k.cert}, {"keyfile", c.keyfile, &k.key}, {"ca_certs", c.caCerts, &k.ca}} {
		if f.path == "" {
			continue
		}
		b, err := readCertFile(c.inDir(f.path))
		if err != nil {
			return nil, sentence("%s: %q: %v", f.setting, f.path, err)
		}
		*f.to = b
	}
	if c.keyfile == "" {
		k.key = k.cert
	}
	_, err := k.tls(c)
	return k, err
}

// inDir makes a path absolute, relative to the directory of the application.
func (c *config) inDir(path string) string {
	return (&start{dir: c.chdir}).path(path)
}

func readCertFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller's message names the path
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, certFileMax+1))
	if len(b) > certFileMax {
		return nil, fmt.Errorf("the file is longer than %d bytes", certFileMax)
	}
	return b, errors.Unwrap(err)
}

// tls makes the configuration of handshakes from a keyring. Errors are sentences.
func (k *keyring) tls(c *config) (*tls.Config, error) {
	ids, err := selectSuites(c.ciphers)
	if err != nil {
		return nil, err
	}
	pair, err := k.pair(c)
	if err != nil {
		return nil, err
	}
	t := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		CipherSuites: ids,
		NextProtos:   c.alpn(),
		// Use full records from the start. Short first records would show the
		// beginning of a page earlier, but cost every small response more than
		// they gain.
		DynamicRecordSizingDisabled: true,
		GetConfigForClient:          checkServerName,
	}
	if c.certReqs > 0 {
		t.ClientAuth = tls.VerifyClientCertIfGiven
		if c.certReqs == 2 {
			t.ClientAuth = tls.RequireAndVerifyClientCert
		}
		t.ClientCAs = x509.NewCertPool()
		if !t.ClientCAs.AppendCertsFromPEM(k.ca) {
			return nil, sentence("ca_certs: %q has no certificate in PEM form", c.caCerts)
		}
	}
	if len(k.tickets) > 0 {
		var keys [][32]byte
		for key := range slices.Chunk(k.tickets, ticketSize) {
			keys = append(keys, [32]byte(key))
		}
		t.SetSessionTicketKeys(keys)
	}
	return t, nil
}

// checkServerName refuses a handshake whose server name (RFC 6066 3) could not be
// a Host: applications find the name in their environ.
func checkServerName(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if name := hello.ServerName; name != "" && (len(name) > maxServerName || !validAuthority([]byte(name))) {
		return nil, fmt.Errorf("%.*q is not the name of a server", maxServerName, name)
	}
	return nil, nil
}

// pair loads the certificate and its key. Go's errors are worded for programmers,
// so the usual mistakes of operators are checked first.
func (k *keyring) pair(c *config) (pair tls.Certificate, err error) {
	setting, path := "keyfile", c.keyfile
	if path == "" {
		setting, path = "certfile", c.certfile
	}
	types := typesPEM(k.key)
	switch {
	case !strings.Contains(typesPEM(k.cert), "CERTIFICATE\n"):
		return pair, sentence("certfile: %q has no certificate in PEM form", c.certfile)
	case strings.Contains(types, "ENCRYPTED"):
		return pair, sentence("%s: %q has a key that is encrypted, and nobody can be asked for the passphrase; "+
			"decrypt it with `openssl pkey`", setting, path)
	case !strings.Contains(types, "PRIVATE KEY\n"):
		return pair, sentence("%s: %q has no private key in PEM form", setting, path)
	}
	if pair, err = tls.X509KeyPair(k.cert, k.key); err != nil {
		text := strings.TrimPrefix(err.Error(), "tls: ")
		if strings.Contains(text, "does not match") {
			return pair, sentence("%s: %q is not the key of the certificate in %q", setting, path, c.certfile)
		}
		return pair, sentence("%s: %q: %s", setting, path, text)
	}
	if key, ok := pair.Leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 1024 {
		return pair, sentence("certfile: %q has an RSA key of %d bits; 2048 are the least that clients accept", c.certfile, key.N.BitLen())
	}
	return pair, nil
}

// typesPEM lists the types of b's PEM blocks. An old encrypted key says so in a header.
func typesPEM(b []byte) (types string) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		types += block.Headers["Proc-Type"] + block.Type + "\n"
	}
	return types
}

func (k *keyring) encode() []byte {
	return appendMarshal(nil, []any{k.cert, k.key, k.ca, k.tickets})
}

func decodeKeyring(b []byte) (*keyring, error) {
	v, err := unmarshal(b)
	list, _ := v.([]any)
	k := &keyring{}
	to := []*[]byte{&k.cert, &k.key, &k.ca, &k.tickets}
	if err != nil || len(list) != len(to) {
		return nil, fmt.Errorf("certificates: %w", errMarshal)
	}
	for i := range to {
		*to[i], _ = list[i].([]byte)
	}
	k.tickets = k.tickets[:len(k.tickets)/ticketSize*ticketSize]
	return k, nil
}

// Shared memory ---------------------------------------------------------------

// vault publishes the newest keyring to the workers, in shared memory: a number,
// and two places for a keyring. The number's parity selects the current place.
// The next keyring is written to the other place before the number changes, so
// that workers never read a half-written keyring.
type vault struct {
	fd     int
	shared int // read-only descriptor of the same memory, for workers
	cfg    *config
	number uint64   // number of the current keyring
	ring   *keyring // the current keyring
	known  [3]stamp // stamps of the files when they were last read, valid or not
	seen   [3]stamp // stamps of the files at the last check
	looked int64    // time of the last check
	turned int64    // time when the newest ticket key was made
}

const vaultHead = 4096 // offset of the first place, after the number

// openVault reads the files for the first time. During a reload, old is the vault
// of the previous settings: its tickets stay valid unless cert_reqs or the
// authorities for clients' certificates have changed.
func openVault(c *config, old *vault) (v *vault, err error) {
	if !c.usesTLS() {
		return nil, nil
	}
	v = &vault{cfg: c, turned: monotonic(), looked: monotonic()}
	v.known = v.stamps()
	v.seen = v.known
	if v.ring, err = readKeyring(c); err != nil {
		return nil, err
	}
	if old != nil && old.cfg.certReqs == c.certReqs && bytes.Equal(old.ring.ca, v.ring.ca) {
		v.ring.tickets, v.turned = old.ring.tickets, old.turned
	} else {
		v.newTicketKey()
	}
	if v.fd, err = memfd("certificates", nil); err != nil {
		return nil, err
	}
	if v.shared, err = openAnew(v.fd, unix.O_RDONLY); err != nil {
		return nil, err
	}
	return v, v.publish()
}

func (v *vault) close() {
	if v != nil && v.fd >= 0 {
		unix.Close(v.fd)
		unix.Close(v.shared)
		v.fd = -1
	}
}

func (v *vault) stamps() (s [3]stamp) {
	for i, path := range []string{v.cfg.certfile, v.cfg.keyfile, v.cfg.caCerts} {
		if path != "" {
			s[i] = stampOf(v.cfg.inDir(path))
		}
	}
	return s
}

func (v *vault) newTicketKey() {
	keys := make([]byte, ticketSize, ticketsKept*ticketSize)
	_, _ = rand.Read(keys) // never fails
	v.ring.tickets = append(keys, v.ring.tickets[:min(len(v.ring.tickets), cap(keys)-ticketSize)]...)
	v.turned = monotonic()
}

func (v *vault) publish() error {
	b := v.ring.encode()
	if len(b) > vaultMax-8 {
		return fmt.Errorf("certfile, keyfile and ca_certs have more than %d bytes", vaultMax)
	}
	number := v.number + 1
	at := int64(vaultHead + number%2*vaultMax)
	place := append(binary.LittleEndian.AppendUint64(nil, uint64(len(b))), b...)
	_, err := unix.Pwrite(v.fd, place, at)
	if err == nil {
		_, err = unix.Pwrite(v.fd, binary.LittleEndian.AppendUint64(nil, number), 0)
	}
	if err == nil {
		v.number = number
	}
	return os.NewSyscallError("pwrite", err)
}

// keep checks once a second whether the files have changed, and reads changed
// files a second later: certificate and key are seldom written at the same time.
// Invalid files are reported once, and the old keyring stays in use.
func (v *vault) keep(log *errorLog) {
	now := monotonic()
	if v == nil || v.fd < 0 || now-v.looked < int64(time.Second) {
		return
	}
	v.looked = now
	seen := v.stamps()
	changed := seen == v.seen && seen != v.known
	v.seen = seen
	due := now-v.turned >= int64(ticketLife)
	if !changed && !due {
		return
	}
	if changed {
		v.known = seen
		ring, err := readKeyring(v.cfg)
		if err != nil {
			log.errorf("%s; the certificate that was there stays in use.", plainSentence(err))
			return
		}
		if bytes.Equal(ring.ca, v.ring.ca) {
			ring.tickets = v.ring.tickets
		} else {
			due = true
		}
		v.ring = ring
		log.infof("TLS: the files of the certificate have changed and are in use.")
	}
	if due {
		v.newTicketKey()
	}
	if err := v.publish(); err != nil {
		log.errorf("TLS: %v", err)
	}
}

// readVault returns the current keyring, or nil if its number is still number. A
// keyring that is replaced during the read is read again.
func readVault(fd int, number uint64) (*keyring, uint64, error) {
	for {
		newest, err := vaultWord(fd, 0)
		if err != nil || newest == number {
			return nil, number, err
		}
		at := int64(vaultHead + newest%2*vaultMax)
		size, _ := vaultWord(fd, at)
		b := make([]byte, min(size, vaultMax-8))
		_, err = unix.Pread(fd, b, at+8)
		if again, changed := vaultWord(fd, 0); changed == nil && again != newest {
			continue
		}
		if err != nil {
			return nil, number, os.NewSyscallError("pread", err)
		}
		k, err := decodeKeyring(b)
		return k, newest, err
	}
}

func vaultWord(fd int, at int64) (uint64, error) {
	var b [8]byte
	if n, err := unix.Pread(fd, b[:], at); err != nil || n < len(b) {
		return 0, fmt.Errorf("certificates: %w", errMarshal)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}
