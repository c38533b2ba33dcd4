package test

// Real nginx and HAProxy in front, over TCP and unix sockets, with the PROXY
// protocol and with TLS. Whatever comes through them of testdata/http, no
// request reaches the application that the proxy did not mean as one: it gives
// each a serial number and says what it takes it for, and the application
// tells what it got.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// frontApp notes each call in a file, one line for each.
const frontApp = `
import json, os

seen = os.open("seen", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    call = {k: v for k, v in environ.items() if type(v) is str}
    call["body"] = body.decode("latin-1")
    os.write(seen, json.dumps(call).encode() + b"\n")
    start_response("200 OK", [
        ("Content-Length", "5"),
        ("X-Answer", call.get("HTTP_X_SERIAL", "none") + " " + call["RAW_URI"].encode("latin-1").hex()),
    ])
    return [b"taken"]
`

// front is one way of putting a proxy in front.
type front struct {
	name    string
	args    []string // of the server
	unix    bool     // the proxy's way to it
	tls     bool
	proxy   bool // the client's address comes by the PROXY protocol
	stream  bool // and that of another proxy's between the two
	command func(conf string) *exec.Cmd
	conf    string // template of its configuration
	server  string // how the template names the server, with %s for its address
	more    string // further text of the template
}

var fronts = []front{
	{name: "nginx", command: nginx, conf: nginxConf, server: "%s"},
	{name: "nginx, unix socket, lenient", unix: true, command: nginx, conf: nginxConf, server: "unix:%s",
		more: "ignore_invalid_headers off; underscores_in_headers on; proxy_request_buffering off;"},
	{name: "nginx, TLS", tls: true, command: nginx, conf: nginxConf, server: "%s"},
	{name: "nginx, PROXY v1", stream: true, proxy: true, args: []string{"--proxy-protocol"},
		command: nginx, conf: nginxConf, server: "%s"},
	{name: "nginx, PROXY v1, TLS", stream: true, proxy: true, tls: true, args: []string{"--proxy-protocol", "v1"},
		command: nginx, conf: nginxConf, server: "%s"},
	{name: "HAProxy", command: haproxy, conf: haproxyConf, server: "%s"},
	{name: "HAProxy, unix socket, lenient", unix: true, command: haproxy, conf: haproxyConf, server: "unix@%s",
		more: "option accept-invalid-http-request"},
	{name: "HAProxy, TLS", tls: true, command: haproxy, conf: haproxyConf, server: "%s ssl verify none"},
	{name: "HAProxy, PROXY v1", proxy: true, args: []string{"--proxy-protocol", "v1"},
		command: haproxy, conf: haproxyConf, server: "%s send-proxy"},
	{name: "HAProxy, PROXY v2, unix socket", proxy: true, unix: true, args: []string{"--proxy-protocol", "v2"},
		command: haproxy, conf: haproxyConf, server: "unix@%s send-proxy-v2"},
	{name: "HAProxy, PROXY v2, TLS", proxy: true, tls: true, args: []string{"--proxy-protocol"},
		command: haproxy, conf: haproxyConf, server: "%s send-proxy-v2 ssl verify none"},
}

// A proxy inherits its listening socket as descriptor 3, and a second one as 4,
// so that their ports are the kernel's choice.
// The PROXY protocol is another module's in nginx, behind which HTTP goes on.
const nginxConf = `
{{if .Stream}}
load_module {{.Modules}}/ngx_stream_module.so;
stream {
	server { listen {{index .Listen 1}}; proxy_pass {{.Server}}; proxy_protocol on; }
}
{{end}}
daemon off; worker_processes 1; {{with .User}}user {{.}};{{end}} pid {{.Dir}}/nginx.pid; error_log {{.Dir}}/error.log;
events { worker_connections 1024; }
http {
	log_format serial "$request_id $status";
	access_log {{.Dir}}/log serial;
	client_body_temp_path {{.Dir}}/1; proxy_temp_path {{.Dir}}/2; fastcgi_temp_path {{.Dir}}/3;
	uwsgi_temp_path {{.Dir}}/4; scgi_temp_path {{.Dir}}/5;
	client_header_timeout 4s; client_body_timeout 4s; keepalive_timeout 4s; lingering_timeout 1s;
	upstream app { server {{if .Stream}}{{index .Listen 1}}{{else}}{{.Server}}{{end}}; keepalive 4; }
	server {
		listen {{index .Listen 0}};
		{{.More}}
		location / {
			proxy_pass http{{if .TLS}}s{{end}}://app;
			proxy_http_version 1.1;
			proxy_next_upstream off;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header X-Serial $request_id;
			proxy_set_header X-Method $request_method;
			proxy_set_header X-Target $request_uri;
			proxy_set_header X-Client $remote_port;
		}
	}
}
`

const haproxyConf = `
global
	log stdout format raw local0
	maxconn 1024
	nbthread 1 # others may lose lines of the log
defaults
	mode http
	timeout connect 5s
	timeout client 4s
	timeout http-request 4s
	timeout server 10s
	retries 0
frontend front
	bind fd@3
	{{.More}}
	log global
	log-format "%[var(txn.serial)] %ST"
	http-request set-var(txn.serial) uuid()
	http-request set-header X-Serial %[var(txn.serial)]
	http-request set-header X-Method %[method]
	http-request set-header X-Target %[url]
	http-request set-header X-Client %[src_port]
	default_backend app
backend app
	http-reuse always
	server app {{.Server}}
`

func nginx(conf string) *exec.Cmd {
	cmd := exec.Command(proxyPath("nginx"), "-c", conf, "-p", filepath.Dir(conf), "-e", filepath.Join(filepath.Dir(conf), "error.log"))
	cmd.Env = []string{"NGINX=3;4;"}
	return cmd
}

func haproxy(conf string) *exec.Cmd {
	return exec.Command(proxyPath("haproxy"), "-db", "-f", conf)
}

// proxyPath looks where Debian has it, which only root's PATH names.
func proxyPath(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return "/usr/sbin/" + name
}

func TestFront(t *testing.T) {
	if reference {
		t.Log("differs: it has other answers to testdata/http")
		return
	}
	certificate := newAuthority(t, "authority")
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			f.test(t, certificate)
		})
	}
}

// running is a proxy with its server behind it.
type running struct {
	*front
	t    *testing.T
	addr string
	dir  string // the proxy's
	srv  *server
}

func (f *front) test(t *testing.T, certificate *authority) {
	r := f.start(t, certificate)
	cases := rawCases(t)
	var questions []question
	for _, c := range cases {
		questions = append(questions, question{Stream: c.withInnocent()})
	}
	waits := map[string]bool{} // the server, for more than the case has
	for i, a := range model(t, questions) {
		waits[cases[i].name] = a.First.Verdict == "waits"
	}
	var mu sync.Mutex
	answers := map[string]string{} // serial: client, target in hex
	work := make(chan rawCase)
	var wg sync.WaitGroup
	for range 64 { // most of them wait for the proxy's patience to end
		wg.Go(func() {
			for c := range work {
				client, raw := r.exchange(t, c, waits[c.name])
				mu.Lock()
				for _, m := range answerLine.FindAllSubmatch(raw, -1) {
					answers[string(m[1])] = client + " " + string(m[2])
				}
				mu.Unlock()
			}
		})
	}
	for _, c := range cases {
		if t.Failed() {
			break
		}
		work <- c
	}
	close(work)
	wg.Wait()
	if !t.Failed() {
		r.check(r.calls(), answers, len(cases))
	}
}

var answerLine = regexp.MustCompile(`(?m)^X-Answer: (\S+) (\w*)\r$`)

// withInnocent is a case and an innocent request behind it.
func (c *rawCase) withInnocent() []byte {
	return fmt.Appendf(slices.Clone(c.raw), "GET /behind/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", c.name)
}

// exchange sends a case and an innocent request behind it, then one on a
// connection of its own, which the case must not have touched.
func (r *running) exchange(t *testing.T, c rawCase, waits bool) (client string, answers []byte) {
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_, client, _ = net.SplitHostPort(conn.LocalAddr().String())
	limit := waitLimit
	if waits {
		limit = 6 * time.Second // a little longer than the proxy should
	}
	conn.SetDeadline(time.Now().Add(limit))
	conn.Write(c.withInnocent()) // the proxy may close before it has all
	answers, err = io.ReadAll(io.LimitReader(conn, 1<<20))
	if err != nil && !isReset(err) && !(waits && os.IsTimeout(err)) {
		t.Errorf("%s: %v after %s", c.name, err, cut(string(answers)))
	}
	resp, err := freshClient.Get("http://" + r.addr + "/fresh/" + c.name)
	if err != nil {
		t.Errorf("after %s: %v", c.name, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	_, target, _ := strings.Cut(resp.Header.Get("X-Answer"), " ")
	if want := fmt.Sprintf("%x", "/fresh/"+c.name); err != nil || resp.StatusCode != 200 || string(body) != "taken" || target != want {
		t.Errorf("after %s: %s, %q, %v: an answer to %s, not to %s", c.name, resp.Status, body, err, target, want)
	}
	return client, answers
}

func isReset(err error) bool { return strings.Contains(err.Error(), syscall.ECONNRESET.Error()) }

var freshClient = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: waitLimit}

// start starts the server, then the proxy.
func (f *front) start(t *testing.T, certificate *authority) *running {
	t.Helper()
	r := &running{front: f, t: t, dir: t.TempDir()}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(frontApp), 0o644); err != nil {
		t.Fatal(err)
	}
	args := append(f.args, "-w", "2", "--keep-alive", "30", "app:app")
	if f.tls {
		certificate.pair(t, dir, "server")
		args = append([]string{"--certfile", "server.pem", "--keyfile", "server.key"}, args...)
	}
	if f.unix {
		args = append([]string{"-b", "unix:app.sock"}, args...)
	}
	r.srv = startServer(t, dir, args...)
	addr := r.srv.addr
	if f.unix {
		addr = filepath.Join(dir, "app.sock")
	}
	files, listen := listenFor(t, 2)
	r.addr = listen[0]
	server := fmt.Sprintf(f.server, addr)
	conf := filepath.Join(r.dir, "conf")
	user := "" // who started nginx, which as root would run as somebody else
	if os.Geteuid() == 0 {
		user = "root"
	}
	var text bytes.Buffer
	err := template.Must(template.New("").Parse(f.conf)).Execute(&text, map[string]any{
		"Dir": r.dir, "Listen": listen, "Server": server, "More": f.more, "User": user,
		"TLS": f.tls, "Stream": f.stream, "Modules": "/usr/lib/nginx/modules"})
	if err == nil {
		err = os.WriteFile(conf, text.Bytes(), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.run(f.command(conf), files)
	return r
}

// listenFor opens n sockets for a proxy to inherit.
func listenFor(t *testing.T, n int) (files []*os.File, addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		files, addrs = append(files, f), append(addrs, l.Addr().String())
	}
	return files, addrs
}

func (r *running) run(cmd *exec.Cmd, files []*os.File) {
	t := r.t
	t.Helper()
	out, err := os.Create(filepath.Join(r.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = r.dir, out, out, files
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (apt-get install nginx-light libnginx-mod-stream haproxy)", err)
	}
	for _, f := range files {
		f.Close()
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(waitLimit, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
		if t.Failed() {
			t.Logf("%s:\n%.500s\n%.2000s", cmd, r.log(), readAll(filepath.Join(r.dir, "error.log")))
		}
	})
}

// log is the proxy's, with the serial of each request that it took.
func (r *running) log() string {
	return readAll(filepath.Join(r.dir, "log")) + readAll(filepath.Join(r.dir, "out"))
}

// calls are those that the application has noted.
func (r *running) calls() (calls []map[string]string) {
	for line := range strings.Lines(readAll(filepath.Join(r.srv.dir, "seen"))) {
		var call map[string]string
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			r.t.Fatal(err)
		}
		calls = append(calls, call)
	}
	return calls
}

// check compares what the application got with what the proxy meant, and the
// answers with what the clients got.
func (r *running) check(calls []map[string]string, answers map[string]string, fresh int) {
	t := r.t
	if len(calls) < fresh {
		t.Errorf("%d calls are too few", len(calls))
	}
	seen := map[string]bool{}
	for _, call := range calls {
		serial := call["HTTP_X_SERIAL"]
		if len(serial) < 32 || strings.Contains(serial, ",") || seen[serial] {
			t.Errorf("not a fresh serial: %s", cut(fmt.Sprint(call)))
			continue
		}
		seen[serial] = true
		if !poll(waitLimit, func() bool { return strings.Contains(r.log(), serial) }) {
			t.Errorf("the proxy does not know %s", cut(fmt.Sprint(call)))
		}
		meant := call["HTTP_X_TARGET"]
		if strings.HasPrefix(meant, "?") { // of http://host?query; nginx puts the path in
			meant = "/" + meant
		}
		if call["REQUEST_METHOD"] != call["HTTP_X_METHOD"] || call["RAW_URI"] != meant {
			t.Errorf("the proxy meant %s %q: %s", call["HTTP_X_METHOD"], meant, cut(fmt.Sprint(call)))
		}
		if r.proxy && (call["PROXY_PROTOCOL"] != "TCP4" || call["REMOTE_ADDR"] != "127.0.0.1" ||
			call["REMOTE_PORT"] != call["HTTP_X_CLIENT"] && !r.stream) {
			t.Errorf("the client's port was %s: %s", call["HTTP_X_CLIENT"], cut(fmt.Sprint(call)))
		}
		if scheme := call["wsgi.url_scheme"]; (scheme == "https") != r.tls && call["HTTP_X_FORWARDED_PROTO"] == "" &&
			call["HTTP_X_FORWARDED_SSL"] == "" && call["HTTP_X_FORWARDED_PROTOCOL"] == "" {
			t.Errorf("the scheme is %s: %s", scheme, cut(fmt.Sprint(call)))
		}
		want := call["HTTP_X_CLIENT"] + " " + fmt.Sprintf("%x", latinBytes(call["RAW_URI"]))
		if got, ok := answers[serial]; ok && got != want {
			t.Errorf("the answer to %s went to %s", want, got)
		}
		delete(answers, serial)
	}
	for serial, answer := range answers {
		t.Errorf("an answer with serial %q to nobody's request: %s", serial, answer)
	}
	t.Logf("%d requests", len(calls))
}

// latinBytes is the bytes that Python shows as text.
func latinBytes(text string) []byte {
	var b []byte
	for _, r := range text {
		b = append(b, byte(r))
	}
	return b
}

const proxyApp = `
def app(environ, start_response):
    text = " ".join(environ[name] for name in
        ("PROXY_PROTOCOL", "REMOTE_ADDR", "REMOTE_PORT", "PROXY_ADDR", "PROXY_PORT", "wsgi.url_scheme"))
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]
`

// TestHAProxy asks the application whom it sees when HAProxy is in front.
func TestHAProxy(t *testing.T) {
	for mode, option := range map[string]string{"v1": "send-proxy", "v2": "send-proxy-v2", "auto": "send-proxy-v2-ssl-cn"} {
		t.Run(option, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(proxyApp), 0o644); err != nil {
				t.Fatal(err)
			}
			s := startServer(t, dir, "--proxy-protocol="+mode, "-w", "2", "app:app")
			front := startHAProxy(t, dir, "server s "+s.addr+" "+option)
			for range 2 {
				askThroughProxy(t, front)
			}
		})
	}
}

// askThroughProxy makes two requests on one connection.
func askThroughProxy(t *testing.T, front string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", front, waitLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(waitLimit))
	r := bufio.NewReader(c)
	us := strings.Replace(c.LocalAddr().String(), ":", " ", 1)
	want := "TCP4 " + us + " " + strings.Replace(front, ":", " ", 1) + " http"
	for range 2 {
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 || string(body) != want {
			t.Fatalf("%s: %q, %v, want %q", resp.Status, body, err, want)
		}
	}
}

// startHAProxy runs HAProxy with the given line for its server, and returns
// the address that it listens on.
func startHAProxy(t *testing.T, dir, server string) string {
	t.Helper()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Fatal("haproxy is not installed; it is in the Debian package haproxy")
	}
	files, addrs := listenFor(t, 1)
	defer files[0].Close()
	conf := filepath.Join(dir, "haproxy.cfg")
	text := "defaults\n mode http\n timeout connect 10s\n timeout client 20s\n timeout server 20s\n" +
		"listen test\n bind fd@3\n " + server + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-db", "-q", "-f", conf)
	cmd.ExtraFiles = files
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy: %s", out.Bytes())
		}
	})
	return addrs[0]
}
