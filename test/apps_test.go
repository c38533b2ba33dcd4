package test

// Real applications, used by real clients: testdata/apps has a Flask and a
// Django site, one page in Bottle and in Falcon, a program that uses each of
// them over HTTP, one that uses a browser, and an application that does what
// applications do besides answering.

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// siteLimit bounds a client's whole visit, and whatever prepares a site.
const siteLimit = 3 * time.Minute

// site is a copy of an application below testdata/apps in a fresh directory,
// where data/ is for its files.
type site struct {
	t   *testing.T
	dir string
}

// newSite copies a directory or single file of testdata/apps.
func newSite(t *testing.T, name string) site {
	t.Helper()
	s := site{t, t.TempDir()}
	from := filepath.Join("testdata/apps", name)
	stat, err := os.Stat(from)
	if err == nil && stat.IsDir() {
		err = os.CopyFS(s.dir, os.DirFS(from))
	} else if err == nil {
		var text []byte
		if text, err = os.ReadFile(from); err == nil {
			err = os.WriteFile(filepath.Join(s.dir, name), text, 0o644)
		}
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(s.dir, "data", "media"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s site) data() string { return "SITE_DATA=" + filepath.Join(s.dir, "data") }

// start serves the site.
func (s site) start(t *testing.T, args ...string) *server {
	t.Helper()
	args = append([]string{"-e", s.data()}, args...)
	if reference {
		args = append(args, "--pythonpath", packages(t))
	}
	return startServer(t, s.dir, args...)
}

// packages is where the tests' Python has its packages: the reference runs in
// a Python of its own, which need not have them.
func packages(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(testPython(t), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// python runs Python in the site's directory, to its successful end.
func (s site) python(t *testing.T, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command(testPython(t), args...)
	cmd.Dir = s.dir
	cmd.Env = append(environment(t, s.dir), append(env, s.data())...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(siteLimit, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	kill.Stop()
	if out.Len() > 0 {
		t.Logf("%s", out.Bytes())
	}
	if err != nil {
		t.Fatalf("%s: %v", args[0], err)
	}
}

// tool is the absolute path of a program in testdata/apps.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata/apps", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// crews are numbers and kinds of workers, and numbers of clients to keep them busy.
var crews = []crew{
	{"one worker", nil, 1},
	{"four workers", []string{"-w", "4"}, 4},
	{"four threads", []string{"--threads", "4"}, 4},
	{"greenlets", []string{"-k", "gevent", "-w", "2"}, 4},
}

type crew struct {
	name    string
	args    []string
	clients int
}

// visit serves the site with such a crew and lets the clients of that name in.
func (s site) visit(c crew, client, app string, expected ...string) *server {
	s.t.Helper()
	return s.visitBy("client.py", c, client, app, expected...)
}

// visitBy does so with another program than client.py.
func (s site) visitBy(program string, c crew, client, app string, expected ...string) *server {
	t := s.t
	t.Helper()
	// On a busy host a client may think for longer than the two seconds an idle
	// connection has by default.
	srv := s.start(t, append(c.args, "--keep-alive", "30", "--access-logfile", "-", app)...)
	for _, re := range expected {
		srv.expected = append(srv.expected, compile(t, re))
	}
	var env []string
	if name := filepath.Join(s.dir, "authority.pem"); srv.secure {
		env = []string{"AUTHORITY=" + name}
	}
	args := []string{tool(t, program), "--threads", strconv.Itoa(c.clients)}
	if !reference { // whose sync worker closes each connection
		args = append(args, "--keepalive")
	}
	s.python(t, env, append(args, client, srv.url)...)
	return srv
}

func TestFlask(t *testing.T) {
	for _, c := range crews {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, "flask_site")
			srv := s.visit(c, "flask", "guestbook:app", `Exception on /boom \[GET\]$`)
			for _, re := range []string{
				`^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000\] \[\d+\] \[INFO\] an info record \w{32}$`,
				`^\[.*\] \[\d+\] \[WARNING\] a warning record \w{32}$`,
				`\[ERROR\] Exception on /boom \[GET\]\nTraceback \(most recent call last\):\n(  .*\n)+RuntimeError: boom \w{32}$`,
			} {
				srv.waitLog(re)
			}
			if strings.Contains(srv.log(), "a debug record") {
				t.Error("the application's debug records are in the log, and its level is info")
			}
			size := strconv.Itoa(3 << 20)
			if reference {
				size = "0" // Gunicorn does not count bytes that it sends by sendfile
			}
			for _, re := range []string{
				`^127\.0\.0\.1 - - \[.*\] "POST /upload HTTP/1\.1" 200 \d+ "-" "python-requests/[\d.]+"$`,
				`"GET /hello/Zo%C3%AB%20%3F\?a=1&a=%E2%82%AC&b= HTTP/1\.1" 200 `,
				`"GET /picture HTTP/1\.1" 200 ` + size + ` `,
				`"GET /picture HTTP/1\.1" 206 \d+ `,
				`"GET /picture HTTP/1\.1" 304 0 `,
				`"GET /boom\?id=\w+ HTTP/1\.1" 500 \d+ `,
			} {
				srv.waitText("standard output", re, srv.stdout)
			}
		})
	}
}

// newDjangoSite makes the database, its administrator and the static files.
func newDjangoSite(t *testing.T) site {
	t.Helper()
	s := newSite(t, "django_site")
	password := []string{"DJANGO_SUPERUSER_PASSWORD=correct horse"}
	s.python(t, nil, "manage.py", "migrate", "-v0")
	s.python(t, password, "manage.py", "createsuperuser", "-v0", "--noinput", "--username", "admin", "--email", "admin@example.org")
	s.python(t, nil, "manage.py", "collectstatic", "-v0", "--noinput")
	return s
}

func TestDjango(t *testing.T) {
	for _, c := range crews {
		t.Run(c.name, func(t *testing.T) {
			s := newDjangoSite(t)
			srv := s.visit(c, "django", "bookshop.wsgi",
				`Internal Server Error: /boom/$`, `Invalid HTTP_HOST header: 'evil\.example'`)
			srv.waitLog(`\[ERROR\] Internal Server Error: /boom/\nTraceback \(most recent call last\):\n(  .*\n)+RuntimeError: boom \w{32}$`)
			srv.waitLog(`\[WARNING\] Forbidden \(CSRF token missing\.\): /admin/login/$`)
		})
	}
}

// TestDjangoBrowser needs Chromium and its driver, and says so without them.
func TestDjangoBrowser(t *testing.T) {
	s := newDjangoSite(t)
	srv := s.start(t, "-w", "2", "bookshop.wsgi:application")
	s.python(t, browsers(), tool(t, "admin_browser.py"), srv.url)
}

// TestStaticBrowser has the server send the site's style sheets and scripts, under the names
// that have a hash, and compressed.
func TestStaticBrowser(t *testing.T) {
	if reference {
		t.Log("differs: it sends no files by itself")
		return
	}
	s := newDjangoSite(t)
	_, data, _ := strings.Cut(s.data(), "=")
	srv := s.start(t, "--static", "/static/="+filepath.Join(data, "static"), "--static-final",
		"--access-logfile", "-", "--access-logformat", "%(U)s %(s)s %({content-encoding}o)s %({cache-control}o)s", "bookshop.wsgi:application")
	s.python(t, browsers(), tool(t, "admin_browser.py"), srv.url)
	for _, re := range []string{
		`^/static/admin/css/base\.\w{12}\.css 200 gzip public, max-age=31536000, immutable$`,
		`^/static/admin/js/core\.\w{12}\.js 200 gzip public, max-age=31536000, immutable$`,
		`^/static/admin/img/[\w-]+\.\w{12}\.svg 200 gzip public, max-age=31536000, immutable$`,
	} {
		srv.waitText("standard output", re, srv.stdout)
	}
	if other := regexp.MustCompile(`(?m)^/static/\S+ [^23].*`).FindString(srv.stdout()); other != "" {
		t.Error(other)
	}
}

// browsers is the environment that says where to find one.
func browsers() (env []string) {
	for _, name := range []string{"CHROMIUM", "CHROMEDRIVER"} {
		if path, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+path)
		}
	}
	return env
}

func TestBottle(t *testing.T) {
	for _, c := range crews {
		t.Run(c.name, func(t *testing.T) {
			newSite(t, "bottle_hello.py").visit(c, "bottle", "bottle_hello:app")
		})
	}
}

func TestFalcon(t *testing.T) {
	for _, c := range crews {
		t.Run(c.name, func(t *testing.T) {
			newSite(t, "falcon_hello.py").visit(c, "falcon", "falcon_hello:app")
		})
	}
}

// TestOpenTelemetry starts the server as `opentelemetry-instrument gunicorn`,
// which patches, through PYTHONPATH, whatever Python comes to run the
// application: the one that is found first, for nobody names another.
func TestOpenTelemetry(t *testing.T) {
	s := newSite(t, "flask_site")
	bin := filepath.Dir(testPython(t))
	first := t.TempDir()
	if err := os.Symlink(testBinary, filepath.Join(first, "gunicorn")); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"PATH=" + first + ":" + bin + ":" + os.Getenv("PATH"),
		"OTEL_TRACES_EXPORTER=console", "OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none",
		"OTEL_BSP_SCHEDULE_DELAY=50", "OTEL_SERVICE_NAME=guest book",
	}
	args := []string{filepath.Join(bin, "opentelemetry-instrument"), "gunicorn"}
	if reference {
		env = append(env, "PYTHONPATH="+packages(t))
		args = append(args, "--no-control-socket")
	}
	args = append(args, "-b", "127.0.0.1:0", "-e", s.data(), "guestbook:app")
	srv := &server{t: t, dir: s.dir, ended: make(chan struct{}), cmd: exec.Command(args[0], args[1:]...)}
	srv.cmd.Dir, srv.cmd.Env = s.dir, append(environment(t, s.dir), env...)
	for i, stream := range []*io.Writer{&srv.cmd.Stdout, &srv.cmd.Stderr} {
		srv.files[i] = filepath.Join(first, strconv.Itoa(i+1))
		f, err := os.Create(srv.files[i])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		*stream = f
	}
	if err := srv.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	srv.pid = srv.cmd.Process.Pid // exec(3) makes the server of it
	go func() {
		srv.cmd.Wait()
		close(srv.ended)
	}()
	t.Cleanup(srv.finish)
	srv.waitBooted()
	srv.expected = append(srv.expected, compile(t, `Exception on /boom \[GET\]$`))

	for path, want := range map[string]int{"/hello/traced?a=1": 200, "/boom?id=0": 500} {
		if status, _ := fetch(t, srv.url+path); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
	for _, re := range []string{
		`"name": "GET /hello/<name>"`,
		`"kind": "SpanKind.SERVER"`,
		`"http.target": "/hello/traced\?a=1"`,
		`"http.route": "/hello/<name>"`,
		`"http.status_code": 200`,
		`"http.status_code": 500`,
		`"service.name": "guest book"`,
	} {
		srv.waitText("standard output", re, srv.stdout)
	}
}

// fetch asks for a page on a connection of its own. Status 0 is no answer.
func fetch(t testing.TB, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * waitLimit}
	r, err := client.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return r.StatusCode, string(body) + "(" + err.Error() + ")"
	}
	return r.StatusCode, string(body)
}

// peculiar serves testdata/apps/peculiar.py and answers questions about it.
type peculiar struct {
	*server
}

func startPeculiar(t *testing.T, args ...string) peculiar {
	t.Helper()
	s := newSite(t, "peculiar.py")
	return peculiar{startServer(t, s.dir, append(args, "-e", "FRUIT=apple", "peculiar:app")...)}
}

// want asks for a page, whose body must match, and gives it back.
func (p peculiar) want(path string, status int, re string) string {
	p.t.Helper()
	got, body := fetch(p.t, p.url+path)
	if got != status || !regexp.MustCompile(`^(?s:`+re+`)$`).MatchString(body) {
		p.t.Errorf("%s: status %d, %q; want %d, %s", path, got, body, status, re)
	}
	return body
}

// number is want for a page that is a number.
func (p peculiar) number(path string) int {
	p.t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(p.want(path, 200, `\d+\n`)))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

const errorPage = `<html>.*<h1><p>Internal Server Error</p></h1>.*`

func TestPeculiarImport(t *testing.T) {
	p := startPeculiar(t)
	p.want("/imported", 200, `\{"main_thread": true, "server_software": "gunicorn/[\d.]+", "argv": \["[^"]*gunicorn",.* "peculiar:app"\], `+
		`"cwd": "`+p.dir+`", "path0": "`+p.dir+`", "fruit": "apple"\}\n`)
	p.want("/software", 200, `\{"environ": "gunicorn/[\d.]+", "os.environ": "gunicorn/[\d.]+", "exact_dict": true, "mutable": "own"\}\n`)

	// The same as in a Python that nobody stands above.
	cmd := exec.Command(testPython(t), "-c", "import peculiar, json; print(json.dumps(peculiar.limits({}, {})))")
	cmd.Dir, cmd.Env = p.dir, environment(t, p.dir)
	plain, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	plain = bytes.TrimSuffix(plain, []byte("atexit ran\n"))
	p.want("/limits", 200, regexp.QuoteMeta(string(plain)))
}

func TestPeculiarProcesses(t *testing.T) {
	p := startPeculiar(t)
	p.want("/run", 200, `\{"status": 3, "system": 4, "piped": "PIPED", "blocked": "0+", "ignored": "0+", "sigchld": true\}\n`)
	p.want("/fork", 200, `\{"said": "from the child", "status": 5\}\n`)
	p.want("/processes", 200, `\{"fork": \[true, 0, true\], "spawn": \[true, 0, true\], "forkserver": \[true, 0, true\]\}\n`)
	if !reference { // whose children inherit its handler
		for range 20 {
			p.want("/terminate", 200, `-15\n`)
		}
	}
	for _, path := range []string{"/background", "/fork_and_go_on"} {
		// The answer comes whole, with its end, and so do the next ones.
		pid := p.number(path)
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
		p.number("/ticks")
	}
	// What goes on is no reason not to stop.
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestPeculiarThreads(t *testing.T) {
	p := startPeculiar(t)
	for n := range 3 {
		p.want("/threads", 200, fmt.Sprintf(`\{"squares": true, "count": %d, "main_thread": true\}\n`, n+1))
	}
	// A thread of the application's goes on between requests.
	before := p.number("/ticks")
	if !poll(waitLimit, func() bool { return p.number("/ticks") > before+20 }) {
		t.Error("the application's thread stands still")
	}
	p.want("/alarm", 200, `\[true, true\]\n`)
}

func TestPeculiarOutput(t *testing.T) {
	p := startPeculiar(t)
	p.want("/log?word=w0rd", 200, `"w0rd"\n`)
	for _, re := range []string{
		`^\[.*\] \[\d+\] \[WARNING\] to the error log: w0rd$`,
		`^from a logger without handler: w0rd$`,
		`^to wsgi\.errors: w0rd$`,
		`^to stderr: w0rd$`,
	} {
		p.waitLog(re)
	}
	p.waitText("standard output", `^to descriptor 1: w0rd$`, p.stdout)
	if strings.Contains(p.log(), "below") {
		t.Error("the log has records below their loggers' levels")
	}
	// What Python holds back, and what is registered for its end, comes at its end.
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	p.waitText("standard output", `^to stdout: w0rd$`, p.stdout)
	p.waitText("standard output", `^atexit ran$`, p.stdout)
}

func TestPeculiarBodies(t *testing.T) {
	p := startPeculiar(t)
	p.expected = append(p.expected, compile(t, `Error handling request`))
	p.want("/late", 200, "late answer")
	p.want("/write", 200, "written twice, then returned")
	p.want("/exc_info", 503, "recovered")
	p.want("/lines?word=whole", 200, "one\ntwo\nthree\n")
	p.want("/lines?word=none&fail=one", 500, errorPage)
	p.want("/lines?word=half&fail=two", 200, `one\n\(unexpected EOF\)`)
	r, err := http.Head(p.url + "/lines?word=head")
	if err != nil || r.StatusCode != 200 {
		t.Errorf("HEAD: %v, %v", r, err)
	}
	for _, word := range []string{"whole", "none", "half", "head"} {
		p.waitText("standard output", `^closed 1 `+word+`$`, p.stdout)
	}
	if strings.Contains(p.stdout(), "closed 2") {
		t.Error("an iterable was closed twice")
	}
}

func TestPeculiarEnds(t *testing.T) {
	p := startPeculiar(t)
	p.expected = append(p.expected, compile(t, `Error handling request GET /exit\?status=3$`), compile(t, `exited with code 7`),
		compile(t, `/die|/crash|/broken_pipe|SIGSEGV|Python stacks|Socket error`))
	p.want("/threads", 200, `.*"count": 1.*`)
	p.want("/exit?status=3", 500, errorPage)
	p.waitLog(`^SystemExit: 3$`)
	p.want("/threads", 200, `.*"count": 2.*`) // by the same Python
	if reference {
		// It has nobody left to answer, and takes the application's OSError for its own.
		for _, path := range []string{"/die", "/crash", "/broken_pipe"} {
			p.want(path, 0, `.*`)
		}
	} else {
		for _, path := range []string{"/die", "/crash"} {
			p.want(path, 502, `<html>.*`)
			p.want("/threads", 200, `.*"count": 1.*`)
		}
		p.want("/broken_pipe", 500, errorPage)
		p.waitLog(`SIGSEGV`)
	}
	p.want("/threads", 200, `.*`)
}

func TestPeculiarFactory(t *testing.T) {
	s := newSite(t, "peculiar.py")
	p := peculiar{startServer(t, s.dir, `peculiar:Application("a name")`)}
	p.want("/", 200, "a name")
}
