package test

// What dist/build makes: the same bytes in any directory, packages that Debian
// accepts, and wheels that pip installs in place of Gunicorn.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestDist(t *testing.T) {
	if reference {
		t.Skip("about this program's packages")
	}
	arches := []string{"amd64", "arm64"} // architectures with packages for Debian
	if !slices.Contains(arches, runtime.GOARCH) {
		arches = append(arches, runtime.GOARCH)
	}
	dirs := []string{t.TempDir(), filepath.Join(t.TempDir(), "a longer name")}
	var wait sync.WaitGroup
	for i, dir := range dirs {
		copySource(t, dir)
		umask, zone := []string{"022", "077"}[i], []string{"TZ=UTC", "TZ=Asia/Tokyo"}[i]
		wait.Go(func() {
			cmd := exec.Command("sh", "-c", `umask `+umask+`; exec dist/build --arch `+strings.Join(arches, ","))
			cmd.Dir, cmd.Env = dir, append(os.Environ(), zone, "SOURCE_DATE_EPOCH=")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("dist/build: %v\n%s", err, out)
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	out := filepath.Join(dirs[0], "dist", "out")
	sums := readAll(filepath.Join(out, "SHA256SUMS"))
	if again := readAll(filepath.Join(dirs[1], "dist", "out", "SHA256SUMS")); sums == "" || again != sums {
		t.Fatalf("not the same bytes in another directory:\n%s\n%s", sums, again)
	}
	if text, err := command(out, nil, "sha256sum", "--strict", "-c", "SHA256SUMS"); err != nil {
		t.Error(text, err)
	}
	if made, _ := filepath.Glob(out + "/*"); len(made) != strings.Count(sums, "\n")+1 {
		t.Errorf("SHA256SUMS lists not all of %q", made)
	}
	t.Run("debian", func(t *testing.T) { t.Parallel(); checkDebian(t, out) })
	for _, python := range pythons(t) {
		t.Run("wheel in "+filepath.Base(filepath.Dir(filepath.Dir(python)))+" "+filepath.Base(python), func(t *testing.T) {
			t.Parallel()
			checkWheel(t, out, python)
		})
	}
}

// copySource copies what a clean checkout has and dist/build needs.
func copySource(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{"*.go", "go.*", "gunicorn.1", "LICENSE", "python/*.py", "dist/*", "dist/gunicorn/*.py"} {
		names, _ := filepath.Glob(filepath.Join("..", pattern))
		for _, name := range names {
			stat, err := os.Stat(name)
			if err == nil && stat.Mode().IsRegular() {
				to := filepath.Join(dir, strings.TrimPrefix(name, "../"))
				os.MkdirAll(filepath.Dir(to), 0o755)
				err = os.WriteFile(to, []byte(readAll(name)), stat.Mode().Perm())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// command runs a program in dir and returns its output and errors.
func command(dir string, env []string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return string(out), err
}

// checkDebian installs the package into a root of its own, as any user.
func checkDebian(t *testing.T, out string) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("this is no Debian")
	}
	debs, _ := filepath.Glob(out + "/*_*.deb")
	if len(debs) != 2 {
		t.Fatalf("packages: %q", debs)
	}
	if _, err := exec.LookPath("lintian"); err == nil {
		if text, err := command(out, nil, append([]string{"lintian", "--fail-on", "error,warning"}, debs...)...); err != nil {
			t.Error(text, err)
		}
	}
	root := t.TempDir()
	for _, dir := range []string{"info", "updates"} {
		os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755)
	}
	os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644)
	text, err := command(out, []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, "dpkg", "--root="+root, "--log=/dev/null",
		"--force-not-root", "--force-script-chrootless", "--force-architecture", "-i", debs[slices.Index([]string{"amd64", "arm64"}, runtime.GOARCH)])
	if err != nil {
		t.Fatal(text, err)
	}
	if text, err := command(root, nil, "usr/bin/gunicorn", "--version"); err != nil || !strings.HasPrefix(text, "gunicorn (version ") {
		t.Error(text, err)
	}
	manual := []string{"MANPATH=" + root + "/usr/share/man", "MANPAGER=cat", "MANWIDTH=80"}
	if text, err := command(root, manual, "man", "--warnings", "gunicorn"); err != nil || !strings.Contains(text, "serve a Python web application") {
		t.Error(cut(text), err)
	}
	examples := root + "/usr/share/doc/gunicorn/examples/"
	for name, want := range map[string]string{
		"../copyright": "The Go Authors", "gunicorn.service": "ExecStart=/usr/bin/gunicorn\n", "gunicorn.socket": "ListenStream=", "gunicorn.conf.py": "wsgi_app =",
	} {
		if !strings.Contains(readAll(examples+name), want) {
			t.Errorf("%s has no %q", name, want)
		}
	}
	// systemd and the server read the examples.
	dir := t.TempDir()
	args := []string{"systemd-analyze", "verify", "--man=no"}
	for _, kind := range []string{"service", "socket"} {
		unit := strings.ReplaceAll(readAll(examples+"gunicorn."+kind), "/usr/bin/gunicorn", root+"/usr/bin/gunicorn")
		os.WriteFile(filepath.Join(dir, "shop."+kind), []byte(unit), 0o644)
		args = append(args, filepath.Join(dir, "shop."+kind))
	}
	if text, err := command(dir, nil, args...); err != nil || text != "" {
		t.Error(text, err)
	}
	os.WriteFile(dir+"/app.py", []byte("app = print\n"), 0o644)
	if text, err := command(dir, nil, root+"/usr/bin/gunicorn", "--python", testPython(t), "-c", examples+"gunicorn.conf.py", "--check-config", "app:app"); err != nil {
		t.Error(text, err)
	}
}

// pythons lists the interpreters that are here, one for each version that the
// server supports: those of pyenv and those on PATH.
func pythons(t *testing.T) (list []string) {
	home, _ := os.UserHomeDir()
	for minor := 8; minor < 20; minor++ {
		name := fmt.Sprintf("python3.%d", minor)
		found, _ := filepath.Glob(fmt.Sprintf("%s/.pyenv/versions/3.%d.*/bin/%s", home, minor, name))
		for _, path := range append(found, name) {
			if _, err := command("/", nil, path, "-c", "import ensurepip, venv"); err == nil {
				list = append(list, path)
				break
			}
		}
	}
	if len(list) == 0 {
		t.Error("no Python has the module venv")
	}
	return list
}

const distApp = `
import os, sys, gunicorn
from gunicorn.app.base import BaseApplication

def app(environ, start_response):
    start_response("200 OK", [])
    return [("%s %s %s %d %s" % (gunicorn.__version__, gunicorn.__file__, sys.prefix, sys.flags.optimize,
                                 os.environ.get("PYTHONUNBUFFERED"))).encode()]
`

// ownServer is a program that runs itself.
const ownServer = `
import os, sys
from gunicorn.app.base import Application

class Server(Application):
    def init(self, parser, opts, args):
        return {"workers": 1}

    def load(self):
        return app

def app(environ, start_response):
    start_response("200 OK", [])
    return [("%s %s" % (__name__, sys.prefix)).encode()]

server = Server()
try:
    server.run()
except SystemExit as e:
    if not server.callable:  # not in a worker
        print("left with", e.code, flush=True)
        sys.exit(5)
`

// distProgram imports the package in a Python that no server has started.
const distProgram = `
import os; kill = os.kill
import importlib.util, pickle, gunicorn.config
from gunicorn.app.base import BaseApplication
from gunicorn.workers.sync import SyncWorker
assert gunicorn.config.Config().settings is not None
assert pickle.loads(pickle.dumps(SyncWorker)) is SyncWorker
assert importlib.util.find_spec("gunicorn.glogging") and not importlib.util.find_spec("gunicorn.nosuch")
assert gunicorn.__spec__.origin.endswith("/site-packages/gunicorn/__init__.py"), gunicorn.__spec__
assert os.kill is kill
import gunicorn.__main__, _gunicorn.hooks
print(gunicorn.__version__)
`

// checkWheel installs the wheel into a fresh virtualenv and uses it.
func checkWheel(t *testing.T, out, python string) {
	dir, venv := t.TempDir(), t.TempDir()
	env := []string{"HOME=" + dir, "PIP_DISABLE_PIP_VERSION_CHECK=1", "PYTHONDONTWRITEBYTECODE=1"}
	own := filepath.Join(venv, "bin", "python")
	must := func(args ...string) string {
		t.Helper()
		text, err := command(dir, env, args...)
		if err != nil {
			t.Fatal(text, err)
		}
		return strings.TrimSpace(text)
	}
	must(python, "-m", "venv", "--without-pip", venv)
	pip := python
	if _, err := command(dir, env, pip, "-m", "pip", "--version"); err != nil {
		pip = testPython(t)
	}
	must(pip, "-m", "pip", "--python", own, "install", "--quiet", "--no-index", "--find-links", out, "gunicorn[gthread]>=20,<28")

	version := must(filepath.Join(venv, "bin", "gunicorn"), "--version")
	for _, args := range [][]string{{"--version"}, {"--python", "/none", "--version"}} {
		if got := must(append([]string{own, "-m", "gunicorn"}, args...)...); got != version {
			t.Errorf("-m gunicorn %q: %q, want %q", args, got, version)
		}
	}
	if got := must(own, "-m", "gunicorn", "--man"); got != strings.TrimSpace(readAll("../gunicorn.1")) {
		t.Error("-m gunicorn --man is not the manual")
	}
	number := must(own, "-c", distProgram)
	if label := must(own, "-c", "import importlib.metadata as m; print(m.version('gunicorn'))"); !strings.HasPrefix(label, number+"+go") {
		t.Errorf("version %s of the distribution, %s of the package", label, number)
	}

	// Under the server the package is the server's own, even if the installed one was
	// imported by sitecustomize.
	for name, text := range map[string]string{
		"app.py":           distApp,
		"sitecustomize.py": "import gunicorn.app.base\n",
		"gunicorn":         "#!/bin/sh\nshift 2 # the --python of all tests\nexec " + own + " -u -O -m gunicorn \"$@\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := launch(t, dir, []string{"PYTHONPATH=" + dir}, nil, "-b", "127.0.0.1:0", "app:app")
	t.Cleanup(s.finish)
	s.waitBooted()
	s.waitLog(fmt.Sprintf(`\(%d\)$`, s.pid)) // exec(3) made the server of it
	want := fmt.Sprintf("%s <gunicorn package.py> %s 1 1", number, venv)
	if status, body := fetch(t, s.url); status != 200 || body != want {
		t.Errorf("status %d, %q; want %q", status, body, want)
	}

	s.signal(syscall.SIGTERM)
	if status := s.wait(); status != 0 {
		t.Errorf("status %d", status)
	}

	// A program that is its own server.
	os.WriteFile(filepath.Join(dir, "own.py"), []byte(ownServer), 0o644)
	os.WriteFile(filepath.Join(dir, "gunicorn"), []byte("#!/bin/sh\nshift 2\nexec "+own+" own.py \"$@\"\n"), 0o755)
	s = launch(t, dir, nil, nil, "-b", "127.0.0.1:0", "-w", "2")
	t.Cleanup(s.finish)
	s.waitBooted()
	s.waitLog(fmt.Sprintf(`\(%d\)$`, s.pid))
	if status, body := fetch(t, s.url); status != 200 || body != "__main__ "+venv {
		t.Errorf("status %d, %q", status, body)
	}
	s.signal(syscall.SIGTERM)
	if status := s.wait(); status != 5 || !strings.Contains(s.stdout(), "left with 0") {
		t.Errorf("status %d, %q", status, s.stdout())
	}
	entry := `import importlib.metadata as m; print([e.load().__name__ for e in m.distribution("gunicorn").entry_points])`
	if got := must(own, "-c", entry); got != "['paster', 'serve']" {
		t.Error("entry points:", got)
	}
	if got := must(filepath.Join(venv, "bin", "gunicorn_paster"), "--version"); got != version {
		t.Errorf("gunicorn_paster: %q, want %q", got, version)
	}

	text, err := command(dir, env, own, "-m", "gunicorn", "nosuch:app")
	if err == nil || err.(interface{ Unwrap() error }).Unwrap().(*exec.ExitError).ExitCode() != 3 {
		t.Error("an application that is not there:", text, err)
	}
	os.Remove(filepath.Join(venv, "bin", "gunicorn"))
	if text, err := command(dir, env, own, "-m", "gunicorn", "--version"); err == nil || !strings.HasPrefix(text, "gunicorn: the server is not in any of "+venv) {
		t.Error("without the server:", text, err)
	}
}
