package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

var serial = int64(4096)

// issue makes a certificate for a public key; without an authority it is one
// itself.
func (a *authority) issue(t testing.TB, name string, key crypto.Signer) []byte {
	t.Helper()
	serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name, Organization: []string{"Tests, Inc."}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	parent, signer := template, key
	if a != nil {
		parent, signer = a.cert, a.key
	} else {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	a.pem = (*authority)(nil).issue(t, name, a.key)
	block, _ := pem.Decode(a.pem)
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// pair puts a certificate and its key into two files, and returns it.
func (a *authority) pair(t testing.TB, dir, name string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	cert := a.issue(t, name, key)
	put(t, filepath.Join(dir, name+".pem"), cert)
	put(t, filepath.Join(dir, name+".key"), keyPEM(t, key))
	pair, err := tls.X509KeyPair(cert, keyPEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// put writes a file as a careful program does: it is never half there.
func put(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path+"~", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

// notOverTLS are scripts that are not for it, and why.
var notOverTLS = map[string]string{
	"sec_proxy":         "its headers come before TLS, as in TestTLSProxy",
	"sec_upload_memory": "it has a client of its own, and TestTLSBodies does the same",
	"sec_stream_memory": "the same",
	"sec_descriptors":   "it has a client of its own",
	"wsgi_cut_close":    "it has a client of its own, and TestTLSEnds does the same",
	"sec_chunks_late":   "when the application begins depends on how the bytes come",
	"wsgi_client_left":  "to close the sending half of TLS leaves that of TCP open",
	"sec_connections":   "who waits to be accepted cannot shake hands meanwhile",

	"crash_python_keeps_others": "the same",
	"sec_unread_cap":            "a client that writes on after an alert fails at another place",
	"spool_limit":               "it has a client of its own",
	"static_replaced":           "it has a client of its own",
}

// TestScriptsTLS runs the scripts about requests and responses once more, over
// TLS: nothing of them may depend on what carries the bytes.
func TestScriptsTLS(t *testing.T) {
	if reference {
		return
	}
	dir := t.TempDir()
	newAuthority(t, "authority").pair(t, dir, "server")
	flags := []string{"--certfile", filepath.Join(dir, "server.pem"), "--keyfile", filepath.Join(dir, "server.key")}
	for _, kind := range []string{"http_", "wsgi_", "sec_", "errors_", "workers_", "crash_", "hang", "socket", "spool", "static"} {
		names, _ := filepath.Glob("testdata/script/" + kind + "*.txt")
		for _, name := range names {
			if base := strings.TrimSuffix(filepath.Base(name), ".txt"); notOverTLS[base] == "" {
				t.Run(base, func(t *testing.T) {
					t.Parallel()
					runScript(t, name, flags)
				})
			}
		}
	}
}

const tlsApp = `
import os, time
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/facts":
        lines = ["%s=%s" % (k, v) for k, v in sorted(environ.items())
                 if k.startswith(("SSL_", "HTTPS")) or k in ("wsgi.url_scheme", "REMOTE_ADDR", "HTTP_SSL_CLIENT_VERIFY")]
        body = [("\n".join(lines) + "\n").encode("latin-1")]
    elif path == "/socket":
        sock = environ["gunicorn.socket"]
        cert, der = sock.getpeercert(), sock.getpeercert(True)
        text = "%s %s %s " % (cert and cert["subject"][-1][0][1], type(der).__name__, sock.getpeername()[0])
        try:
            sock.recv(1)
        except OSError as e:
            text += str(e)
        body = [text.encode()]
    elif path == "/upload":
        n = 0
        while True:
            block = environ["wsgi.input"].read(65536)
            if not block:
                break
            n += len(block)
        body = [b"%d" % n]
    elif path == "/download":
        start_response("200 OK", [("Content-Length", str(50 << 20))])
        return (b"x" * 65536 for _ in range(800))
    elif path == "/file":
        f = open("file", "rb")
        start_response("200 OK", [("Content-Length", str(os.fstat(f.fileno()).st_size))])
        return environ["wsgi.file_wrapper"](f)
    elif path == "/cut":
        def broken():
            yield b"abc"
            raise ValueError("cut")
        start_response("200 OK", [])
        return broken()
    elif path == "/cut-close":
        start_response("200 OK", [("Content-Length", "9")])
        return [b"abc"]
    elif path == "/slower":
        print("in app", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        body = [b"%d" % os.getppid()]
    elif path == "/slow":
        print("in app", flush=True)
        time.sleep(1)
        body = [b"slow"]
    else:
        body = [b"%d" % os.getppid()]
    start_response("200 OK", [("Content-Length", str(sum(map(len, body))))])
    return body
`

// tlsServer starts a server with a certificate of a, and returns a way for
// clients to trust it.
func tlsServer(t *testing.T, args ...string) (*server, *authority, *tls.Config) {
	t.Helper()
	if reference {
		t.SkipNow()
	}
	t.Parallel()
	dir := t.TempDir()
	a := newAuthority(t, "authority")
	a.pair(t, dir, "server")
	put(t, filepath.Join(dir, "authority.pem"), a.pem)
	put(t, filepath.Join(dir, "app.py"), []byte(tlsApp))
	s := startServer(t, dir, append([]string{"--certfile", "server.pem", "--keyfile", "server.key"}, append(args, "app:app")...)...)
	// More workers may begin while this looks.
	if !poll(waitLimit, func() bool { n := len(s.workers()); return n > 0 && len(s.python()) == n }) {
		t.Fatal("a worker has no Python")
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return s, a, &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

// over returns a client of net/http.
func over(c *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c, MaxIdleConnsPerHost: 64}, Timeout: 6 * waitLimit}
}

func get(t testing.TB, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %s, %v, %s", url, resp.Status, err, cut(string(body)))
	}
	return string(body)
}

// openssl runs s_client, which sends the input and reads until the server
// closes.
func openssl(t testing.TB, s *server, input string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed; it is in the Debian package openssl")
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_client", "-connect", s.addr, "-ign_eof"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const closingRequest = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// TestTLSOffer tries whatever OpenSSL can speak, and finds that only what is
// good is answered.
func TestTLSOffer(t *testing.T) {
	s, a, _ := tlsServer(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, filepath.Join(dir, "rsa.pem"), append(a.issue(t, "server", key), keyPEM(t, key)...))
	put(t, filepath.Join(dir, "app.py"), []byte(tlsApp))
	for _, version := range []string{"-tls1", "-tls1_1"} {
		if out, err := openssl(t, s, closingRequest, version, "-cipher", "ALL:@SECLEVEL=0"); err == nil || strings.Contains(out, "200 OK") {
			t.Errorf("%s: %s", version, out)
		}
	}
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		if out, err := openssl(t, s, closingRequest, "-tls1_3", "-ciphersuites", suite); err != nil || !strings.Contains(out, "200 OK") {
			t.Errorf("%s: %v %s", suite, err, out)
		}
	}
	for _, suite := range []string{"TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"} {
		if out, err := openssl(t, s, closingRequest, "-tls1_3", "-ciphersuites", suite); err == nil {
			t.Errorf("%s: %s", suite, out)
		}
	}
	list, err := exec.Command("openssl", "ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSpace(string(list)), ":")
	if len(names) < 50 {
		t.Fatalf("OpenSSL has only %q", names)
	}
	both := []*server{s, startServer(t, dir, "--certfile", "rsa.pem", "app:app")}
	for i, kind := range []string{"ECDSA", "RSA"} {
		got := []string{}
		for _, name := range names {
			out, err := openssl(t, both[i], closingRequest, "-tls1_2", "-cipher", name+":@SECLEVEL=0")
			if strings.Contains(out, "200 OK") {
				got = append(got, name)
			} else if err == nil {
				t.Errorf("%s: connected without an answer: %s", name, out)
			}
		}
		want := []string{"ECDHE-" + kind + "-AES128-GCM-SHA256", "ECDHE-" + kind + "-AES256-GCM-SHA384", "ECDHE-" + kind + "-CHACHA20-POLY1305"}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s of %d suites: accepted %q", kind, len(names), got)
		}
	}
	// A client cannot renegotiate, and can change its keys.
	if out, _ := openssl(t, s, "R\n"+closingRequest, "-tls1_2", "-nocommands"); !strings.Contains(out, "400 Bad Request") {
		t.Errorf("R as text: %s", out)
	}
}

func TestTLSFacts(t *testing.T) {
	s, a, config := tlsServer(t, "--cert-reqs", "1", "--ca-certs", "authority.pem", "-w", "2")
	want := func(c *tls.Config, want ...string) {
		t.Helper()
		client := over(c)
		defer client.CloseIdleConnections()
		facts := get(t, client, s.url+"/facts")
		for _, re := range append(want, `^HTTPS=on$`, `^wsgi.url_scheme=https$`) {
			if !compile(t, re).MatchString(facts) {
				t.Errorf("%q: not in %s", re, facts)
			}
		}
	}
	want(config, `^SSL_CLIENT_VERIFY=NONE$`, `^SSL_PROTOCOL=TLSv1.3$`, `^SSL_CIPHER=TLS_AES_128_GCM_SHA256$`,
		`^SSL_TLS_SNI=localhost$`, `^SSL_SESSION_RESUMED=Initial$`)
	old := config.Clone()
	old.MaxVersion, old.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
	want(old, `^SSL_PROTOCOL=TLSv1.2$`, `^SSL_CIPHER=ECDHE-ECDSA-CHACHA20-POLY1305$`)
	known := config.Clone()
	key := newKey(t)
	pair, err := tls.X509KeyPair(a.issue(t, "k\u00fcnstler\n", key), keyPEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	known.Certificates = []tls.Certificate{pair}
	cert, _ := x509.ParseCertificate(known.Certificates[0].Certificate[0])
	text := strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})), "+", `\+`)
	want(known, `^SSL_CLIENT_VERIFY=SUCCESS$`, `^SSL_CLIENT_S_DN=CN=k\x{fc}nstler\\0A,O=Tests\\, Inc\.$`, `^SSL_CLIENT_S_DN_CN=k\x{fc}nstler\\0A$`,
		`^SSL_CLIENT_I_DN=CN=authority,O=Tests\\, Inc\.$`, `^SSL_CLIENT_M_SERIAL=`+fmt.Sprintf("%04X", cert.SerialNumber)+`$`,
		`^SSL_CLIENT_V_START=[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d 20\d\d GMT$`, `^SSL_CLIENT_V_END=.* GMT$`, `^SSL_CLIENT_CERT=`+text)
	// Who is not known is not connected, and what a header says is another thing.
	forger := config.Clone()
	forger.Certificates = []tls.Certificate{newAuthority(t, "authority").pair(t, t.TempDir(), "forger")}
	if resp, err := over(forger).Get(s.url + "/facts"); err == nil {
		t.Errorf("a certificate of an unknown authority: %s", resp.Status)
	}
	s.waitLog(`\[WARNING\] Invalid request from ip=127\.0\.0\.1: tls: failed to verify certificate`)
	// The name of a server is one that Host could have.
	for _, name := range []string{"a\nSet-Cookie: x", "\x1b[31m", "a\u009bb", "a\x9b", "a b", "\x7f", strings.Repeat("x", 256)} {
		out, _ := openssl(t, s, closingRequest, "-servername", name)
		if strings.Contains(out, "HTTP/1.1") {
			t.Errorf("%q is the name of a server: %s", name, out)
		}
	}
	s.waitLog(`\[WARNING\] Invalid request from ip=127\.0\.0\.1: "a\\nSet-Cookie: x" is not the name of a server`)
	for _, name := range []string{"a_b.example", "192.0.2.1", "xn--e1afmkfd", strings.Repeat("x", 255)} {
		if out, _ := openssl(t, s, closingRequest, "-servername", name); !strings.Contains(out, "HTTP/1.1 ") {
			t.Errorf("%q is no name of a server: %s", name, out)
		}
	}
	req, _ := http.NewRequest("GET", s.url+"/facts", nil)
	req.Header.Set("SSL-Client-Verify", "SUCCESS")
	resp, err := over(config).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if !compile(t, `^SSL_CLIENT_VERIFY=NONE$`).Match(body) || !compile(t, `^HTTP_SSL_CLIENT_VERIFY=SUCCESS$`).Match(body) {
		t.Errorf("a header for a fact: %s", body)
	}
}

func TestTLSClientRequired(t *testing.T) {
	s, a, config := tlsServer(t, "--cert-reqs", "2", "--ca-certs", "authority.pem")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := config.Clone()
		c.MaxVersion = version
		if resp, err := over(c).Get(s.url); err == nil {
			t.Errorf("without a certificate: %s", resp.Status)
		}
		c.Certificates = []tls.Certificate{newAuthority(t, "authority").pair(t, t.TempDir(), "forger")}
		if resp, err := over(c).Get(s.url); err == nil {
			t.Errorf("with a wrong certificate: %s", resp.Status)
		}
		c.Certificates = []tls.Certificate{a.pair(t, s.dir, "client")}
		get(t, over(c), s.url)
	}
	s.waitLog(`\[WARNING\] Invalid request from ip=127\.0\.0\.1: tls: client didn't provide a certificate`)
}

// TestTLSSessions resumes what another worker began.
func TestTLSSessions(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s, _, config := tlsServer(t, "-w", "3", "--keep-alive", "0")
			s.waitWorkers(3)
			config.MaxVersion, config.ClientSessionCache = version, tls.NewLRUClientSessionCache(4)
			client, workers := over(config), map[string]bool{}
			// The workers after HUP are others, and resume sessions of the workers
			// before HUP.
			for i, end := 0, time.Now().Add(2*waitLimit); i < 10 || len(workers) < 2 && time.Now().Before(end); i++ {
				facts := get(t, client, s.url+"/facts")
				if i > 0 && !strings.Contains(facts, "SSL_SESSION_RESUMED=Resumed\n") {
					t.Fatalf("connection %d: %s", i, facts)
				}
				workers[get(t, client, s.url)] = true
				if i == 5 {
					s.signal(syscall.SIGHUP)
				}
			}
			if len(workers) < 2 {
				t.Errorf("only workers %v were met", workers)
			}
		})
	}
}

// TestTLSBodies moves 50 MB each way; what the worker holds stays small.
func TestTLSBodies(t *testing.T) {
	s, _, config := tlsServer(t)
	client := over(config)
	random := make([]byte, 50<<20)
	rand.Read(random)
	put(t, filepath.Join(s.dir, "file"), random)
	resp, err := client.Post(s.url+"/upload", "", bytes.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); string(body) != strconv.Itoa(len(random)) {
		t.Errorf("upload: %s", body)
	}
	resp.Body.Close()
	if body := get(t, client, s.url+"/download"); body != strings.Repeat("x", 50<<20) {
		t.Errorf("download: %d bytes", len(body))
	}
	if body := get(t, client, s.url+"/file"); body != string(random) {
		t.Errorf("file: %d bytes", len(body))
	}
	// One that is not read waits in the application and in the file.
	for _, path := range []string{"/download", "/file"} {
		conn := s.dial(1)
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		io.ReadFull(conn, make([]byte, 1000))
		if path == "/file" {
			break
		}
		conn.Close()
	}
	status := readAll(fmt.Sprintf("/proc/%d/status", s.workers()[0]))
	var high int
	fmt.Sscan(compile(t, `^VmHWM:\s+(\d+) kB`).FindStringSubmatch(status)[1], &high)
	if high > 40<<10 {
		t.Errorf("the worker had %d KB", high)
	}
}

// TestTLSHandshakes: clients that do not finish theirs keep nobody waiting, and
// are disconnected.
func TestTLSHandshakes(t *testing.T) {
	s, _, config := tlsServer(t, "--worker-connections", "2000")
	hello := clientHello(t, s)
	var stuck []net.Conn
	for i := range 600 { // more than the limit of clients at a time
		conn := s.dialPlain(1)
		defer conn.Close()
		switch i % 3 {
		case 0:
			conn.Write(hello[:len(hello)/2])
		default:
			conn.Write(hello)
		}
		stuck = append(stuck, conn)
	}
	began := time.Now()
	for range 20 {
		client := over(config)
		get(t, client, s.url)
		client.CloseIdleConnections()
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("20 requests took %v", took)
	}
	for _, conn := range stuck {
		conn.SetDeadline(began.Add(10*time.Second + waitLimit))
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("not disconnected: %v", err)
		}
	}
	s.waitLog(`\[WARNING\] Invalid request from ip=127\.0\.0\.1: the TLS handshake was not done in time`)
	get(t, over(config), s.url)
}

// TestTLSCrowd: thousands of clients that send a byte, or a record with half a
// message of a handshake, keep nobody waiting.
func TestTLSCrowd(t *testing.T) {
	s, _, config := tlsServer(t, "--worker-connections", "0")
	for _, begun := range []string{"\x16", "\x16\x03\x01\x00\x02\x01\x00"} {
		for range 3000 {
			conn := s.dialPlain(1)
			defer conn.Close()
			io.WriteString(conn, begun)
		}
		began := time.Now()
		client := over(config)
		get(t, client, s.url)
		client.CloseIdleConnections()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("a request behind %q took %v", begun, took)
		}
	}
}

// clientHello is what a client says first.
func clientHello(t *testing.T, s *server) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go tls.Client(ours, &tls.Config{ServerName: "localhost"}).Handshake()
	b := make([]byte, 1<<16)
	n, err := theirs.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	ours.Close()
	return b[:n]
}

// tap is a connection whose records can be counted and cut.
type tap struct {
	net.Conn
	cut  int // after so many bytes more, if not 0
	last []byte
}

func (c *tap) Write(b []byte) (int, error) {
	if c.cut > 0 {
		c.Conn.Write(b[:c.cut])
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.last = append(c.last, b[:n]...)
	return n, err
}

// TestTLSEnds: an end is said when it is one, and believed only then.
func TestTLSEnds(t *testing.T) {
	s, _, config := tlsServer(t, "--log-level", "debug", "--keep-alive", "1")
	s.expected = append(s.expected, compile(t, `Error handling request GET /cut`), compile(t, `has 3 bytes and its Content-Length says 9`), compile(t, "Traceback"))
	get(t, over(config), s.url)
	dial := func() (*tap, *tls.Conn) {
		raw := &tap{Conn: s.dialPlain(1)}
		raw.SetDeadline(time.Now().Add(waitLimit))
		conn := tls.Client(raw, config)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return raw, conn
	}
	// With a whole response, or an idle connection, comes close_notify; an
	// EOF without it is io.ErrUnexpectedEOF here, or a reset.
	for request, whole := range map[string]bool{
		closingRequest:                               true,
		"GET / HTTP/1.0\r\n\r\n":                     true,
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":          true, // and is idle then
		"bad\r\n\r\n":                                true,
		"GET /cut HTTP/1.1\r\nHost: x\r\n\r\n":       false,
		"GET /cut HTTP/1.0\r\n\r\n":                  false,
		"GET /cut-close HTTP/1.1\r\nHost: x\r\n\r\n": false,
	} {
		raw, conn := dial()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(conn)
		if len(body) == 0 && whole {
			t.Errorf("%q: no answer: %v", request, err)
		}
		if notified := err == nil && bytes.HasSuffix(raw.last, lastRecord(raw.last)) && len(lastRecord(raw.last)) == 24; notified != whole {
			t.Errorf("%q: ended with close_notify: %v, %v after %q", request, notified, err, cut(string(body)))
		}
		conn.Close()
	}
	// Many requests at once, and the end of what is sent.
	_, conn := dial()
	io.WriteString(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 500)+closingRequest)
	conn.CloseWrite()
	if body, err := io.ReadAll(conn); err != nil || strings.Count(string(body), "200 OK") != 501 {
		t.Errorf("pipelined: %d answers, %v", strings.Count(string(body), "200 OK"), err)
	}
	// A body that is cut between records, or within one, never looks whole.
	for _, at := range []int{0, 1, 4, 5, 20} {
		raw, conn := dial()
		io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n"+strings.Repeat("a", 100))
		if at == 0 {
			raw.Close()
			continue
		}
		raw.cut = at
		io.WriteString(conn, strings.Repeat("a", 100))
	}
	// So is one byte of a record that is wrong.
	raw, conn := dial()
	raw.Conn.Write([]byte{23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20})
	if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("a forged record: %v", err)
	}
	s.waitLog(`\[DEBUG\] ssl connection closed: ip=127\.0\.0\.1: .*bad record MAC`)
	// Plain HTTP, and what is neither.
	plain := s.dialPlain(1)
	io.WriteString(plain, closingRequest)
	if body, _ := io.ReadAll(plain); len(body) > 0 {
		t.Errorf("plain HTTP: %q", body)
	}
	s.waitLog(`\[WARNING\] Invalid request from ip=127\.0\.0\.1: plain HTTP was sent to a port that speaks TLS`)
	plain = s.dialPlain(1)
	io.WriteString(plain, "\x16\x03\x01 nonsense")
	io.ReadAll(plain)
	get(t, over(config), s.url)
}

// lastRecord is the last of a stream of records.
func lastRecord(b []byte) []byte {
	for len(b) >= 5 {
		n := 5 + int(b[3])<<8 + int(b[4])
		if n >= len(b) {
			return b
		}
		b = b[n:]
	}
	return nil
}

// TestTLSKeys: a key update, and renegotiation, which is refused.
func TestTLSKeys(t *testing.T) {
	s, _, _ := tlsServer(t)
	for command, version := range map[string]string{"k": "-tls1_3", "K": "-tls1_3", "R": "-tls1_2"} {
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", s.addr, version)
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		cmd.Stderr = cmd.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(in, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		r := bufio.NewReader(out)
		for line := ""; !strings.HasPrefix(line, "HTTP/1.1 200"); {
			var err error
			if line, err = r.ReadString('\n'); err != nil {
				t.Fatalf("%s: %v", command, err)
			}
		}
		io.WriteString(in, command+"\n")
		time.AfterFunc(200*time.Millisecond, func() { io.WriteString(in, closingRequest) })
		rest, _ := io.ReadAll(r)
		cmd.Wait()
		if answered := strings.Contains(string(rest), "HTTP/1.1 200"); answered != (command != "R") {
			t.Errorf("after %s: %s", command, rest)
		}
	}
}

// TestTLSProxy: a PROXY header comes before TLS, by whichever cut.
func TestTLSProxy(t *testing.T) {
	s, _, config := tlsServer(t, "--proxy-protocol", "auto")
	for _, pause := range []int{0, 3, 20, 60} {
		raw := s.dialPlain(1)
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(waitLimit))
		header := "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"
		conn := tls.Client(&prefixed{Conn: raw, prefix: []byte(header), pause: pause}, config)
		for range 2 {
			io.WriteString(conn, "GET /facts HTTP/1.1\r\nHost: x\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(resp.Body); !strings.Contains(string(body), "REMOTE_ADDR=192.0.2.1\n") {
				t.Errorf("%s", body)
			}
		}
	}
	get(t, over(config), s.url) // nor need there be one
}

// prefixed sends something before the first write, in one piece with it or, if
// pause is not 0, with a cut after that many bytes of both.
type prefixed struct {
	net.Conn
	prefix []byte
	pause  int
}

func (c *prefixed) Write(b []byte) (int, error) {
	n := len(b)
	b = append(c.prefix, b...)
	c.prefix = nil
	if c.pause > 0 {
		c.Conn.Write(b[:c.pause])
		time.Sleep(20 * time.Millisecond)
		b, c.pause = b[c.pause:], 0
	}
	_, err := c.Conn.Write(b)
	return n, err
}

// TestTLSRenewal puts another certificate in the place of the first under load,
// then a broken one, which is not used.
func TestTLSRenewal(t *testing.T) {
	s, a, config := tlsServer(t, "-w", "2")
	s.expected = append(s.expected, compile(t, `keyfile: "server.key" is not the key of the certificate in "server.pem"; the certificate that was there stays in use\.`))
	stop := loadTLS(t, s, config)
	serialNow := func() int64 {
		conn, err := tls.Dial("tcp", s.addr, config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	first := serialNow()
	next := a.pair(t, s.dir, "server") // certificate and key, one after the other
	cert, _ := x509.ParseCertificate(next.Certificate[0])
	if !poll(waitLimit, func() bool { return serialNow() == cert.SerialNumber.Int64() }) {
		t.Fatalf("the certificate is still %d", first)
	}
	put(t, filepath.Join(s.dir, "server.pem"), a.issue(t, "server", newKey(t)))
	s.waitLog(`\[ERROR\] keyfile: "server.key" is not the key`)
	for range 4 {
		if n := serialNow(); n != cert.SerialNumber.Int64() {
			t.Errorf("a certificate without its key is used: %d", n)
		}
		time.Sleep(time.Second / 2)
	}
	if n := len(compile(t, `is not the key`).FindAllString(s.log(), -1)); n != 1 {
		t.Errorf("said %d times", n)
	}
	stop()
}

// loadTLS makes requests over connections that are kept and over new ones until stop is
// called; none may fail. A request may find that a kept connection is closed: net/http then
// makes the request once more, as RFC 9110 §9.2.2 has clients do.
func loadTLS(t *testing.T, s *server, config *tls.Config) (stop func()) {
	t.Helper()
	var clients sync.WaitGroup
	var done atomic.Bool
	var served atomic.Int64
	for i := range 6 {
		clients.Go(func() {
			client := over(config)
			client.Transport.(*http.Transport).DisableKeepAlives = i == 0
			defer client.CloseIdleConnections()
			for !done.Load() {
				resp, err := client.Get(s.url)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if done.Load() {
					return
				}
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("under load: %v, %v", resp, err)
					return
				}
				served.Add(1)
			}
		})
	}
	return func() {
		t.Helper()
		done.Store(true)
		clients.Wait()
		if served.Load() < 100 {
			t.Errorf("only %d requests", served.Load())
		}
	}
}

// TestTLSReload replaces workers, by HUP and max_requests, under load.
func TestTLSReload(t *testing.T) {
	s, _, config := tlsServer(t, "-w", "2", "--max-requests", "200", "--max-requests-jitter", "50")
	stop := loadTLS(t, s, config)
	for range 3 {
		before := len(compile(t, "Booting worker").FindAllString(s.log(), -1))
		s.signal(syscall.SIGHUP)
		if !poll(waitLimit, func() bool { return len(compile(t, "Booting worker").FindAllString(s.log(), -1)) >= before+2 }) {
			t.Fatal("no new workers")
		}
		time.Sleep(time.Second / 2)
	}
	stop()
	if !strings.Contains(s.log(), "Autorestarting worker") {
		t.Error("max_requests was not reached")
	}
}

// TestTLSLast: what a worker that leaves still answers, and what it closes.
func TestTLSLast(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			s, _, config := tlsServer(t, "--keep-alive", "60")
			dial := func() (*tls.Conn, *bufio.Reader) {
				conn, err := tls.Dial("tcp", s.addr, config)
				if err != nil {
					t.Fatal(err)
				}
				conn.SetDeadline(time.Now().Add(waitLimit))
				return conn, bufio.NewReader(conn)
			}
			ask := func(conn *tls.Conn, r *bufio.Reader, path string) *http.Response {
				t.Helper()
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(resp.Body); err != nil {
					t.Fatal(err)
				}
				return resp
			}
			idle, idleIn := dial()
			late, lateIn := dial()
			running, runningIn := dial()
			waiting, waitingIn := dial()
			for _, c := range []struct {
				conn *tls.Conn
				r    *bufio.Reader
			}{{idle, idleIn}, {late, lateIn}, {waiting, waitingIn}} {
				if resp := ask(c.conn, c.r, "/"); resp.Close {
					t.Fatal("not kept")
				}
			}
			fmt.Fprint(running, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
			s.waitText("standard output", "in app", s.stdout)
			fmt.Fprint(waiting, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			s.signal(sig)
			s.waitLog("Handling signal")
			if sig == syscall.SIGHUP { // the next on a connection that is kept is its last
				s.waitLog(`Hang up[^\0]*Booting worker`)
				if !poll(waitLimit, func() bool { return ask(late, lateIn, "/").Close }) {
					t.Error("the connection is kept")
				}
			}
			for _, r := range []*bufio.Reader{runningIn, waitingIn} {
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || !resp.Close && sig == syscall.SIGTERM {
					t.Errorf("%s, close %v: %s", resp.Status, resp.Close, body)
				}
			}
			if rest, err := io.ReadAll(idleIn); err != nil || len(rest) > 0 {
				t.Errorf("the idle connection: %q, %v", rest, err)
			}
		})
	}
}

// TestTLSClients: programs that people use.
func TestTLSClients(t *testing.T) {
	s, _, _ := tlsServer(t)
	url := strings.Replace(s.url, "127.0.0.1", "localhost", 1)
	for _, args := range [][]string{
		{"curl", "-sS", "--fail", "--http1.1", "--cacert", "authority.pem", url, url + "/facts"},
		{"curl", "-sS", "--fail", "--cacert", "authority.pem", "--tls-max", "1.2", url + "/facts"},
		{testPython(t), "-c", `
import requests, sys
with requests.Session() as s:
    s.verify = "authority.pem"
    for _ in range(3):
        assert s.get(sys.argv[1] + "/facts").text.startswith("HTTPS=on")
    assert s.post(sys.argv[1] + "/upload", data=b"x" * 3000000).text == "3000000"
    assert len(s.get(sys.argv[1] + "/download").content) == 50 << 20`, url},
		{testPython(t), "-c", `
import http.client, ssl, sys
context = ssl.create_default_context(cafile="authority.pem")
context.set_alpn_protocols(["h2", "http/1.1"])
c = http.client.HTTPSConnection("localhost", int(sys.argv[1].rpartition(":")[2]), context=context)
for _ in range(3):
    c.request("POST", "/upload", iter([b"abc", b"def"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert c.getresponse().read() == b"6"
assert c.sock.selected_alpn_protocol() == "http/1.1"
c.sock.unwrap()`, url},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = s.dir, environment(t, s.dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", args[0], err, out)
		}
	}
}

// TestTLSLend: a request that would wait behind a slow one is served by another
// worker, and everything is as if it were not so.
func TestTLSLend(t *testing.T) {
	s, _, config := tlsServer(t, "-w", "2", "--keep-alive", "30", "--timeout", "60")
	s.expected = append(s.expected, compile(t, `Error handling request GET /cut`), compile(t, "Traceback"))
	s.waitWorkers(2)
	put(t, filepath.Join(s.dir, "file"), bytes.Repeat([]byte("abcdefgh"), 1<<20))
	type client struct {
		raw  *tap
		conn *tls.Conn
		r    *bufio.Reader
	}
	home := map[string][]client{} // by their worker
	dial := func() client {
		raw := &tap{Conn: s.dialPlain(1)}
		conn := tls.Client(raw, config)
		raw.SetDeadline(time.Now().Add(3 * waitLimit))
		return client{raw, conn, bufio.NewReader(conn)}
	}
	read := func(c client) (*http.Response, string) {
		t.Helper()
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return resp, err.Error()
		}
		return resp, string(body)
	}
	one, need := "", 7
	for i := 0; len(home[one]) < need; i++ {
		if i == 200 {
			t.Fatal("one worker gets all connections")
		}
		c := dial()
		fmt.Fprint(c.conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, worker := read(c)
		home[worker] = append(home[worker], c)
		if one == "" || len(home[worker]) > len(home[one]) {
			one = worker
		}
	}
	clients := home[one]
	slow, rest := clients[0], clients[1:]
	fmt.Fprint(slow.conn, "GET /slower HTTP/1.1\r\nHost: x\r\n\r\n")
	s.waitText("standard output", "in app", s.stdout)
	ask := func(c client, request string) (*http.Response, string) {
		t.Helper()
		io.WriteString(c.conn, request)
		resp, body := read(c)
		if !resp.Close {
			t.Errorf("%s: is kept", request)
		}
		return resp, body
	}
	if _, worker := ask(rest[0], "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); worker == one || worker == "" {
		t.Errorf("served by %q, the busy one", worker)
	}
	if end, err := io.ReadAll(rest[0].r); err != nil || len(end) > 0 || len(lastRecord(rest[0].raw.last)) != 24 {
		t.Errorf("the end: %q, %v", end, err)
	}
	if _, facts := ask(rest[1], "GET /facts HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.Contains(facts, "HTTPS=on\n") ||
		!strings.Contains(facts, "SSL_PROTOCOL=TLSv1.3\n") || !strings.Contains(facts, "REMOTE_ADDR=127.0.0.1\n") || !strings.Contains(facts, "wsgi.url_scheme=https") {
		t.Errorf("facts: %s", facts)
	}
	if _, body := ask(rest[2], "GET /file HTTP/1.1\r\nHost: x\r\n\r\n"); len(body) != 8<<20 {
		t.Errorf("file: %d bytes", len(body))
	}
	if _, body := ask(rest[3], "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n"+strings.Repeat("u", 40)); body != "40" {
		t.Errorf("upload: %s", body)
	}
	if _, body := ask(rest[4], "GET /download HTTP/1.1\r\nHost: x\r\n\r\n"); len(body) != 50<<20 {
		t.Errorf("download: %d bytes", len(body))
	}
	io.WriteString(rest[5].conn, "GET /cut HTTP/1.0\r\n\r\n")
	if body, err := io.ReadAll(rest[5].r); err == nil {
		t.Errorf("a response that was cut looks whole: %q", body)
	}
	put(t, filepath.Join(s.dir, "go"), nil)
	if resp, body := read(slow); body != one || resp.Close {
		t.Errorf("the slow one: %q", body)
	}
}
