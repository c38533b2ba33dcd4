package test

// A mistake costs one request. Applications that do at random what they must not
// run beside clients that ask for what is right, in every class of worker: no
// request of the others is lost, and their Python stays the same process.

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var blastFrom = flag.Uint64("blast", 0, "number of the first mistake that TestBlast makes, 0 for any")

// blastHello asks for a WebSocket.
const blastHello = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// blastFaults is what the log must not have: all else that an application's mistakes bring
// about is expected. A regular expression would be slower than the log grows.
var blastFaults = [...]string{"protocol error", "WORKER TIMEOUT", "exited with code", "was sent SIG", "panic:", "goroutine "}

func TestBlast(t *testing.T) {
	if reference {
		t.Log("what is promised here is not promised there")
		return
	}
	from := *blastFrom
	if from == 0 {
		from = rand.Uint64N(1e9) + 1
	}
	for name, args := range map[string][]string{
		"sync":    {"-w", "2", "blast_wsgi:app"},
		"gthread": {"--threads", "8", "blast_wsgi:app"},
		"gevent":  {"-k", "gevent", "blast_wsgi:app"},
		"asgi":    {"-k", "asgi", "blast_asgi:app"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blast(t, name == "asgi", from, args)
		})
	}
}

// blaster is a number of clients for whose requests the application makes mistakes.
type blaster struct {
	t       *testing.T
	s       *server
	next    atomic.Uint64 // number of the last mistake
	sockets bool          // there are WebSockets
	streams *http.Client  // speaks HTTP/2, on one connection
	running sync.Map      // numbers of mistakes
	halt    atomic.Bool
	clients sync.WaitGroup
}

func blast(t *testing.T, sockets bool, from uint64, args []string) {
	dir := t.TempDir()
	for _, name := range []string{"blast_wsgi.py", "blast_asgi.py"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(readAll("testdata/apps/"+name)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Go's client sends no more of a body once a status of 300 or more has come, and then waits
	// for the end of the answer, while the application may wait for the rest of the body: for
	// client_body_timeout, which must be over before this client's patience is.
	s := startServer(t, dir, append([]string{"--keep-alive", "60", "--client-body-timeout", "5", "--http-protocols", "h2,h1", "--http2-cleartext", "both", "--access-logfile", "access", "--access-logformat", "%(r)s %({wsgi.input}e)s %({new}e)s"}, args...)...)
	s.expected = append(s.expected, compile(t, `.`))
	l := startLoad(t, s, 8)
	l.waitAnswers(100)
	pythons := s.python()
	b := &blaster{t: t, s: s, sockets: sockets, streams: h2Client()}
	b.next.Store(from - 1)
	t.Cleanup(func() { b.halt.Store(true) })
	for range 6 {
		b.clients.Add(1)
		go b.client()
	}
	b.clients.Add(1)
	go b.honest()
	for range 4 {
		if sockets {
			b.clients.Add(1)
			go b.echo()
		}
	}
	log, err := os.Open(s.files[1])
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// In half an hour the log grows to gigabytes, so each line is looked at once.
	lines := bufio.NewReaderSize(log, 1<<20)
	part := ""
	faults := func() (found []string) {
		for {
			more, err := lines.ReadString('\n')
			if part += more; err != nil {
				return found
			}
			if slices.ContainsFunc(blastFaults[:], func(text string) bool { return strings.Contains(part, text) }) {
				found = append(found, part)
			}
			part = ""
		}
	}
	for end := time.Now().Add(time.Duration(times(6, 1800)) * time.Second); time.Now().Before(end) && !t.Failed(); {
		time.Sleep(100 * time.Millisecond) // the clients are at work: this is no wait
		for _, line := range faults() {
			t.Errorf("in the log: %s", line)
		}
		if t.Failed() {
			b.running.Range(func(number, _ any) bool {
				t.Logf("about to happen: -blast %d", number)
				return true
			})
		}
	}
	b.halt.Store(true)
	b.clients.Wait()
	l.waitAnswers(100)
	l.stop()
	l.nothingLost()
	t.Logf("mistakes %d to %d", from, b.next.Load())
	if now := s.python(); !slices.Equal(now, pythons) {
		t.Errorf("the Pythons were %v and are %v", pythons, now)
	}
	for _, line := range faults() {
		t.Errorf("in the log: %s", line)
	}
}

// client asks for mistakes.
func (b *blaster) client() {
	defer b.clients.Done()
	for !b.halt.Load() {
		number := b.next.Add(1)
		b.running.Store(number, nil)
		ask := b.ask
		if number%4 == 0 {
			ask = b.askStream
		}
		if err := ask(number); err != nil {
			b.t.Errorf("mistake %d: %v", number, err)
			return
		}
		b.running.Delete(number)
	}
}

// ask asks for one mistake, in a way that its number says too. All that is wanted is
// an end.
func (b *blaster) ask(number uint64) error {
	r := rand.New(rand.NewPCG(number, 0))
	c, err := net.Dial("tcp", b.s.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * waitLimit))
	method := []string{"GET", "GET", "POST", "POST", "HEAD"}[r.IntN(5)]
	body := ""
	if method == "POST" {
		body = strings.Repeat("u", []int{0, 10, 1000, 70_000, 300_000, 1_500_000}[r.IntN(6)])
	}
	fields := fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n", len(body))
	if r.IntN(4) == 0 {
		body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		fields = "Connection: close\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n"
	}
	if b.sockets && r.IntN(2) == 0 {
		method, fields = "GET", blastHello
		body = []string{"", wsT("a"), wsT("a") + clientFrame(wsFin|opClose, "\x03\xe8"), wsT("a") + "\xff\xff\xff", wsT(strings.Repeat("b", 70_000))}[r.IntN(5)]
	}
	text := fmt.Sprintf("%s /bad?%d HTTP/1.1\r\nHost: x\r\n%s\r\n%s", method, number, fields, body)
	for at, parts := 0, 1+r.IntN(3); parts > 0; parts-- {
		end := len(text)
		if parts > 1 {
			end = at + r.IntN(len(text)-at+1)
		}
		if _, err := io.WriteString(c, text[at:end]); err != nil {
			break // refused
		}
		if at = end; parts > 1 {
			time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond) // a client that is slow
		}
		if r.IntN(16) == 0 {
			return nil // the client leaves
		}
	}
	if r.IntN(8) == 0 {
		_, _ = io.CopyN(io.Discard, c, int64(r.IntN(1000)))
		return nil
	}
	if r.IntN(4) == 0 {
		time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond) // the client reads slowly
	}
	if _, err = io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("no end in time")
	}
	return nil
}

// h2Client is a client that has one connection and speaks HTTP/2.
func h2Client() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: 3 * waitLimit}
}

// askStream asks for one mistake by a stream of HTTP/2. All that is wanted is an end.
func (b *blaster) askStream(number uint64) error {
	r := rand.New(rand.NewPCG(number, 1))
	method, body := "GET", io.Reader(nil)
	if r.IntN(2) == 0 {
		method = "POST"
		if body = strings.NewReader(strings.Repeat("u", []int{1, 1000, 70_000, 300_000, 1_500_000}[r.IntN(5)])); r.IntN(2) == 0 {
			body = io.MultiReader(body) // of a length that is not known before
		}
	}
	request, err := http.NewRequest(method, fmt.Sprintf("http://%s/bad?%d", b.s.addr, number), body)
	if err != nil {
		return err
	}
	answer, err := b.streams.Do(request)
	if err == nil {
		defer answer.Body.Close()
		if r.IntN(8) == 0 {
			_, _ = io.CopyN(io.Discard, answer.Body, int64(r.IntN(1000)))
			return nil // the client resets the stream
		}
		_, err = io.Copy(io.Discard, answer.Body)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no end in time: %w", err)
	}
	return nil
}

// honest asks for what is right, on the connection whose other streams are mistakes. Its
// numbers are none of those of the other honest clients.
func (b *blaster) honest() {
	defer b.clients.Done()
	for n := -1; !b.halt.Load(); n-- {
		want := strconv.Itoa(n)
		answer, err := b.streams.Get("http://" + b.s.addr + "/?" + want)
		if err != nil {
			b.t.Errorf("honest request %s: %v", want, err)
			return
		}
		got, err := io.ReadAll(answer.Body)
		if answer.Body.Close(); answer.StatusCode != 200 || string(got) != want || err != nil {
			b.t.Errorf("honest request %s: %d %q, %v", want, answer.StatusCode, got, err)
			return
		}
	}
}

// echo is an honest client of WebSockets: each message is to come back.
func (b *blaster) echo() {
	defer b.clients.Done()
	c, err := net.Dial("tcp", b.s.addr)
	if err != nil {
		b.t.Errorf("connect: %v", err)
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /echo HTTP/1.1\r\nHost: x\r\n%s\r\n", blastHello)
	r := bufio.NewReader(c)
	c.SetDeadline(time.Now().Add(3 * waitLimit))
	if status, _, _, err := readAnswer(r); err != nil || status != "101" {
		b.t.Errorf("WebSocket: status %q, %v", status, err)
		return
	}
	for n := 0; !b.halt.Load(); n++ {
		want := fmt.Sprintf("message %d %s", n, strings.Repeat("m", n*37%3000))
		c.SetDeadline(time.Now().Add(3 * waitLimit))
		if _, err := io.WriteString(c, wsT(want)); err != nil {
			b.t.Errorf("message %d: %v", n, err)
			return
		}
		if got, err := readMessage(r); err != nil || got != want {
			b.t.Errorf("message %d: %s came back, %v", n, cut(got), err)
			return
		}
	}
}

// readMessage reads a message of less than 64 KB, in one frame.
func readMessage(r io.Reader) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return "", err
	}
	n := int(head[1])
	if n == 126 {
		if _, err := io.ReadFull(r, head[2:]); err != nil {
			return "", err
		}
		n = int(binary.BigEndian.Uint16(head[2:]))
	}
	payload := make([]byte, n)
	_, err := io.ReadFull(r, payload)
	if head[0] != 0x80|opText {
		err = fmt.Errorf("a frame that begins with %x", head[0])
	}
	return string(payload), err
}
