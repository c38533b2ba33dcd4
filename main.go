// Gunicorn serves Python web applications (WSGI, PEP 3333, and ASGI). DESIGN.md draws
// the processes, states, frames and limits on one page; this is the map of the source.
//
// One binary plays three parts. The arbiter is what a user starts: it reads the
// settings, binds the listeners and keeps the workers alive. A worker, which the arbiter
// starts by executing the binary again, speaks HTTP with clients, and frames with a
// Python of its own, in which the application runs. A third process serves --metrics.
//
// The arbiter:
//
//	main.go       parts of the binary, exit statuses, the search for a Python
//	arbiter.go    the arbiter's loop: signals, workers' lives, helper processes, stop
//	generation.go one reading of the settings and what lives as long; reload; the Python that has
//	              run the configuration file, and its hooks
//	listen.go     listeners; USR2, another binary beside this one; the service manager
//
// A worker and its clients:
//
//	worker.go     a worker's life: start, signals, phases, stop
//	loop.go       the event loop: descriptors, timers, burial
//	dispatch.go   the choice of connections and requests to take, and their order
//	conn.go       one client's connection and its turns; body.go request bodies
//	transport.go  what a connection's bytes travel over: socket, TLS or stream
//	carrier.go    connections that speak HTTP/2, and their streams
//	handover.go   connections that go to other workers or to the application, and pumps
//	memory.go     the memory held for all clients, who gives way, the spool on disk
//	health.go     whether this server lives and is ready, and clients that ask while it is busy
//	crowd.go      limits of the queue, and of the connections of a client
//	tls.go        TLS of a connection; certificates and keys
//	static.go     files that the worker sends without Python
//
// A worker and its Python:
//
//	python.go     the Python as a process: limits in time, failures
//	lane.go       requests on their way to Python, one after another (WSGI)
//	asgi.go       requests that share a lane, and WebSockets (ASGI)
//	wire.go       frames: their table, and how they are sent and received; marshal
//	shared.go     memory shared with Python, through which long bodies go
//	reply.go      frames from Python, and what becomes of them for the client
//	reload.go     files that --reload watches
//
// Grammars, bytes to values and values to bytes:
//
//	http.go       HTTP/1.1 requests; chunked.go their bodies in chunks; response.go responses
//	http2.go      HTTP/2: frames, and the heads in them; hpack.go their compression
//	environ.go    the environ, in which an application sees a request; ids of requests
//	websocket.go  WebSocket frames (RFC 6455, RFC 7692)
//	proxy.go      the PROXY protocol
//
// Settings, logs and the system:
//
//	settings.go   the table of settings; kind.go their types, and lists of ciphers
//	config.go     where values come from: flags, environment, configuration file
//	log.go        the error log and the access log
//	remote.go     syslog, statsd, and logs that are made in Python
//	status.go     the scoreboard in shared memory, --status and --metrics
//	sys.go        system calls; users and groups, daemons, control groups, limits
//
// The Python half, in python/:
//
//	wsgi.py       runs first: loads the application, holds what all Python processes share
//	logs.py       the loggers of a Python; access.py lines of the access log that the worker cannot make
//	lane.py       runs a WSGI application's requests; asgi.py an ASGI one's; websocket.py its WebSockets
//	lifespan.py   starts an ASGI application up and shuts it down
//	call.py       one WSGI request: its input, its response, its socket
//	hooks.py      runs the configuration file's hooks, and forks workers' Pythons
//	program.py    programs that run themselves, by BaseApplication.run or python -m gunicorn
//	package.py    the gunicorn package that Python code may import; glogging.py its Logger, and logs made in Python
//	facade.py     the cfg, worker, request and response that hooks and package show
//	classes.py    tells kinds of worker classes of the user's, and knows uvicorn's options
//	workers.py    makes workers of such classes, and is what Gunicorn's classes do for them
//	http.py       HTTP in Python, for such classes that need it; servers.py their servers
//	patches.py    finds parts of Gunicorn's server that a configuration file has replaced
//	debug.py      the Python side of --reload and --spew
//
// dist/build makes what is installed: binaries, packages for Debian, and wheels with the
// package in dist/gunicorn.
//
// The tests in test/ drive the binary and know nothing of the source. Tests that call the
// source stand beside the source.
package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// version is the version of this program, as in --version and SERVER_SOFTWARE.
const version = "0.1.0"

// Exit statuses; the manual explains them.
const (
	exitFailure = 1
	exitUsage   = 2
	exitBoot    = 3 // of a worker: the application's module could not be imported
	exitLoad    = 4 // of a worker: the application's module has no object of the given name
)

// workerTitle begins the name of a worker in the process list, and tells the binary to be a
// worker.
const workerTitle = "gunicorn: worker ["

// settingsTitle is the name by which the package of a program executes the binary to get the
// table of settings.
const settingsTitle = "gunicorn: settings"

// paster reports whether this is the command gunicorn_paster, whose argument is the setting
// paste.
var paster = filepath.Base(os.Args[0]) == "gunicorn_paster"

//go:embed gunicorn.1
var manual string

func main() {
	if strings.HasPrefix(os.Args[0], workerTitle) {
		nameProcess()
		os.Exit(runWorker())
	}
	if os.Args[0] == settingsTitle {
		_, _ = os.Stdout.Write(settingsTable())
		return
	}
	if strings.HasPrefix(os.Args[0], metricsTitle) {
		runMetrics()
	}
	program := takeProgram()
	os.Exit(program.leave(runCommand(os.Args[1:], program)))
}

// fatalf ends the process with one sentence on standard error.
func fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "gunicorn: "+format+"\n", args...)
	os.Exit(exitFailure)
}

// complain prints one sentence on standard error.
func complain(err error) int {
	fmt.Fprintf(os.Stderr, "gunicorn: %v\n", err)
	return exitFailure
}

// runCommand is the life of the process that a user has started: the arbiter, or a command
// such as --check-config.
func runCommand(args []string, program *template) int {
	if len(args) > 0 && args[0] == "--man" {
		fmt.Print(manual)
		return 0
	}
	background := daemonStage()
	passed := takePassedOn()
	dir := startDir()
	load := func(now *generation) (*generation, error) { return readGeneration(args, dir, now) }
	var before *generation
	if program != nil {
		before = &generation{host: program, template: program}
	}
	g, err := load(before)
	var start *startError
	switch {
	case errors.As(err, &start):
		fmt.Fprint(os.Stderr, start.text)
		return start.status
	case err != nil:
		return complain(err)
	}
	if status, done := g.answerOnly(); done {
		return status
	}
	c := g.cfg
	if err := checkLimits(c); err != nil {
		return complain(err)
	}
	// An arbiter started by another arbiter is in the background already.
	if c.daemon && !background && passed.parent == 0 {
		// Check the certificates while the terminal can still show errors,
		// unless a hook may be about to make the files.
		if c.usesTLS() && !c.hooks()["on_starting"] {
			if _, err := readKeyring(c); err != nil {
				fmt.Fprint(os.Stderr, err)
				return exitFailure
			}
		}
		if err := daemonize(c); err != nil {
			return complain(err)
		}
		return 0
	}
	a := &arbiter{generation: g, load: load, heritage: heritage{passed: passed}}
	return a.run()
}

// answerOnly carries out a command that does not start a server. done is false if there is no
// such command.
func (g *generation) answerOnly() (status int, done bool) {
	switch c := g.cfg; {
	case c.option == "help":
		printHelp(os.Stdout)
	case c.option == "version":
		fmt.Printf("gunicorn (version %s)\n", version)
	case c.status != "off":
		if err := printStatus(c, os.Stdout); err != nil {
			return complain(err), true
		}
	case c.checkConfig || c.printConfig:
		if c.printConfig {
			c.print(os.Stdout)
		}
		if err := checkPlaces(c); err != nil && c.checkConfig {
			fmt.Fprint(os.Stderr, err)
			return exitFailure, true
		}
		return checkApp(g), true
	default:
		return 0, false
	}
	return 0, true
}

// startDir is the current directory, by the user's name for it ($PWD) if that name is right.
func startDir() string {
	dir, err := os.Getwd() // Getwd prefers $PWD if it names the same directory
	if err != nil {
		fatalf("start directory: %v", err)
	}
	return dir
}

// programPath is the path by which the program was called, which the application sees as
// sys.argv[0]. The path is found out once, before the arbiter changes its directory.
var programPath = sync.OnceValue(func() string {
	if path, err := exec.LookPath(os.Args[0]); err == nil {
		if path, err = filepath.Abs(path); err == nil {
			return path
		}
	}
	return os.Args[0]
})

// ownVenv is the bin directory of the virtualenv into which this program was copied or
// linked, "" if there is none: there, Gunicorn's script names the virtualenv's Python.
func ownVenv() string {
	file, _ := os.Executable()
	for _, path := range []string{programPath(), file} {
		bin := filepath.Dir(path)
		if _, err := os.Stat(filepath.Join(filepath.Dir(bin), "pyvenv.cfg")); err == nil {
			return bin
		}
	}
	return ""
}

// checkPlaces checks whether the files and directories that the settings name could be
// opened, without opening them for writing.
func checkPlaces(c *config) error {
	if err := c.checkBoot(); err != nil {
		return err
	}
	if c.usesTLS() {
		if _, err := readKeyring(c); err != nil {
			return err
		}
	}
	for _, path := range []string{c.errorlog, c.accesslog} {
		if path == "" || path == "-" {
			continue
		}
		err := unix.Access(path, unix.W_OK)
		if err == unix.ENOENT {
			err = unix.Access(filepath.Dir(path), unix.W_OK)
		}
		if err != nil {
			return bootError(fmt.Errorf("Error: %w", unwritable(path, err))) // "Error:" is there twice, as in Gunicorn
		}
	}
	return nil
}

// checkApp checks for --check-config whether the application can be loaded.
func checkApp(g *generation) int {
	if g.template != nil {
		if _, err := g.template.prepare("check", g.cfg, nil); err != nil {
			fmt.Fprint(os.Stderr, err)
			return exitFailure
		}
		return 0
	}
	settings, err := memfd("settings", g.cfg.encode())
	if err != nil {
		fatalf("%v", err)
	}
	pid, err := startPython(g.cfg.python, g.bridge, "check", os.Environ(), settings)
	if err != nil {
		fatalf("%v", err)
	}
	return exitStatus(waitFor(pid))
}

// exitStatus is a process's exit status as a shell shows it.
func exitStatus(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// Python --------------------------------------------------------------------

// oldest is the first version that wsgi.py runs on.
const oldest = "3.8"

// probe is a program that makes an interpreter write its version, whether the version is
// recent enough, and its path; after this line, the bridge that bootstrap reads. The path
// differs from the path called if the latter is a version manager's script.
const probe = `import marshal, sys
w = open(3, 'wb')
w.write(("%d.%d %d %s\n" % (sys.version_info[0], sys.version_info[1], sys.version_info >= (3, 8), sys.executable)).encode())
files = marshal.loads(open(4, 'rb').read())
for name in 'wsgi.py', 'logs.py', 'call.py', 'lane.py', 'access.py', 'hooks.py', 'facade.py':
    files[name + 'c'] = marshal.dumps(compile(files[name], '<gunicorn ' + name + '>', 'exec'))
index, at = {}, 0
for name, text in files.items():
    index[name] = at, len(text)
    at += len(text)
head = marshal.dumps((sys.version, index))
w.write(len(head).to_bytes(4, 'little') + head + b''.join(files.values()))
w.close()`

// probed is the answer of the interpreter probed last, with the path by which it was called.
// The answer stays valid while the file is the same, so that a reload need not wait for
// another Python to start.
var probed struct {
	path   string
	file   stamp
	bridge *os.File
}

// pythonNames are the names of interpreters for the application, the preferred one first:
// --python alone, or that of the virtualenv in which this program is, that of the active
// virtualenv, and those on PATH.
func pythonNames(c *config) (names []string) {
	if c.python != "" {
		return []string{c.python}
	}
	if bin := ownVenv(); bin != "" {
		names = append(names, filepath.Join(bin, "python3"), filepath.Join(bin, "python"))
	}
	if venv := os.Getenv("VIRTUAL_ENV"); venv != "" {
		names = append(names, filepath.Join(venv, "bin", "python3"))
	}
	return append(names, "python3", "python")
}

// findPython returns the interpreter for the application, and a bridge for that interpreter.
func findPython(c *config) (python string, bridge *os.File, err error) {
	var tried []string
	for _, name := range pythonNames(c) {
		path, err := exec.LookPath(name)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			tried = append(tried, name+" (not found)")
			continue
		}
		file := stampOf(path)
		if path == probed.path && file == probed.file {
			return path, probed.bridge, nil
		}
		words, rest, err := runProbe(path)
		switch {
		case words == nil:
			return "", nil, err
		case len(words) == 3 && words[1] != "1":
			tried = append(tried, path+" (is "+words[0]+")")
		case err != nil || len(words) != 3:
			tried = append(tried, path+" (does not run)")
		default:
			fd, err := memfd("bridge", rest)
			if err == nil {
				// All Pythons share the bridge, and may run as different users:
				// none must be able to change it.
				err = seal(fd)
			}
			if err != nil {
				return "", nil, err
			}
			bridge := os.NewFile(uintptr(fd), "bridge")
			if words[2] == path { // a version manager's script may choose another interpreter next time: do not remember its answer
				probed.path, probed.file, probed.bridge = path, file, bridge
			} else if words[2] != "" {
				path = words[2]
			}
			return path, bridge, nil
		}
	}
	return "", nil, fmt.Errorf("python: no Python %s or newer was found; tried %s", oldest, strings.Join(tried, ", "))
}

// runProbe runs the probe, and returns the words of its first line and the bridge behind that
// line. words is nil if the probe could not be given the sources.
func runProbe(path string) (words []string, bridge []byte, err error) {
	source, err := memfd("sources", sources())
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(source)
	var pid int
	out, err := readPython(0, func(out int) (_ int, err error) {
		pid, err = syscall.ForkExec(path, []string{path, "-S", "-E", "-c", probe}, &syscall.ProcAttr{
			Env: os.Environ(), Files: []uintptr{0, 1, 2, uintptr(out), uintptr(source)},
			Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}, // as in startPython
		})
		return pid, err
	})
	if err == nil {
		waitFor(pid)
	}
	line, bridge, _ := bytes.Cut(out, []byte("\n"))
	return strings.SplitN(string(line), " ", 3), bridge, err
}

// checkPackage looks for the package that the worker class needs, so that a missing package
// is reported once, at the start.
func (c *config) checkPackage(host *template) error {
	name := c.family()
	if name != familyGevent && name != familyEventlet {
		return nil
	}
	if host != nil && host.program {
		if answer, err := host.ask(map[string]any{"do": "find", "name": name}); err != nil || answer["found"] == true {
			return err
		}
		return missingPackage(c, name)
	}
	pid, err := syscall.ForkExec(c.python, []string{c.python, "-c", "import importlib.util, sys; sys.exit(not importlib.util.find_spec('" + name + "'))"}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
	})
	if err == nil && exitStatus(waitFor(pid)) == 0 {
		return nil
	}
	return missingPackage(c, name)
}

func missingPackage(c *config, name string) error {
	return bootError(pyErrorf("class uri %s invalid or not found: %s has no package %s", pyRepr(c.workerClass), c.python, name))
}

// outputMax bounds the output of a Python that runs a configuration file: far more than any
// settings take.
const outputMax = 16 << 20

// readPython starts an interpreter that writes to the descriptor out, and returns everything
// written there until the interpreter closed out, within a time if wait is not 0. Standard
// output and error are ours.
func readPython(wait time.Duration, start func(out int) (pid int, err error)) (out []byte, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	_ = unix.SetNonblock(p[0], true) // otherwise a read has no deadline
	in := os.NewFile(uintptr(p[0]), "answer")
	defer in.Close()
	pid, err := start(p[1])
	unix.Close(p[1])
	if err != nil {
		return nil, err
	}
	if wait > 0 {
		_ = in.SetReadDeadline(time.Now().Add(wait))
	}
	out, err = io.ReadAll(io.LimitReader(in, outputMax+1))
	if len(out) > outputMax {
		_ = unix.Kill(pid, unix.SIGKILL)
		waitFor(pid)
		err = fmt.Errorf("python: more than %d bytes of settings", outputMax)
	}
	return out, err
}

func waitFor(pid int) (status unix.WaitStatus) {
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			return status
		}
	}
}

// awaitEnd waits for the end of a child, for d at most; 0 stands for no child. It reports
// whether the status is known.
func awaitEnd(pid int, d time.Duration) (status unix.WaitStatus, known bool) {
	for limit := monotonic() + int64(d); pid > 0 && monotonic() < limit; time.Sleep(time.Millisecond) {
		if ended, err := unix.Wait4(pid, &status, unix.WNOHANG, nil); ended != 0 && err != unix.EINTR {
			return status, err == nil
		}
	}
	return status, false
}

// nameProcess names this process in the process list. The kernel has named it after the
// executed file, /proc/self/exe.
func nameProcess() {
	name, _ := unix.BytePtrFromString("gunicorn")
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
}
