package main

// The template process is the Python that has run the configuration file. It calls the
// hooks of that file, and forks the Python of each worker. So every worker has the changes
// that the file has made to its process (environment, paths, logging, patches), as under
// Gunicorn, and also the hooks' state and, with --preload, the loaded application. Without
// a file, a template process exists only for --preload. Its Python half is hooks.py.

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type template struct {
	helper
	python string // path of the interpreter
	sock   int    // the arbiter's end of the control socket: one question and answer at a time
	child  int    // the template's end of the control socket, until the process is started
}

// evalConfig runs a configuration file, "" for none, and returns the file's globals and the
// template process, which the caller has to close. The file prints to our standard output
// and error; if the file fails, Python has printed the reason there.
func evalConfig(c *config, spec string) (globals map[string]any, t *template, err error) {
	python, bridge, err := findPython(c)
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for _, r := range settings {
		names = append(names, r.name)
	}
	question, err := memfd("question", appendMarshal(nil, map[string]any{
		"spec": spec, "dir": startDir(), "names": names, "check": c.checkConfig,
	}))
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(question)
	t = &template{python: python}
	if err := t.open(); err != nil {
		return nil, nil, err
	}
	interrupted := func() syscall.Signal { return 0 }
	out, err := readPython(0, func(out int) (pid int, err error) {
		t.pid, err = startPython(python, bridge, "config", os.Environ(), question, out, t.child)
		interrupted = interrupt(t.pid, terminalWait)
		return t.pid, err
	})
	signal := interrupted()
	unix.Close(t.child)
	if err != nil {
		t.close()
		return nil, nil, err
	}
	if signal != 0 {
		t.close()
		waitFor(t.pid)
		return nil, nil, &startError{status: 128 + int(signal)}
	}
	if len(out) == 0 {
		t.close()
		return nil, nil, &startError{status: exitStatus(waitFor(t.pid))} // the file may have called exit()
	}
	v, err := unmarshal(out)
	globals, ok := v.(map[string]any)
	if err != nil || !ok {
		t.close()
		return nil, nil, fmt.Errorf("config: %s: %w", spec, errMarshal)
	}
	return globals, t, nil
}

// open makes the control socket.
func (t *template) open() (err error) {
	if t.sock, t.child, err = socketpair(unix.SOCK_SEQPACKET); err != nil {
		return err
	}
	for _, fd := range []int{t.sock, t.child} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	}
	return nil
}

// templateRoom is the length of the longest question: large enough for settings with a
// logconfig_dict.
const templateRoom = 160 << 10

// hooks returns the names of the hooks that the configuration file defines.
func (c *config) hooks() map[string]bool {
	set := map[string]bool{}
	for _, r := range settings {
		if v, ok := c.given[r.name]; ok && r.section == "Server Hooks" && v != "" {
			set[r.name] = true
		}
	}
	return set
}

// close closes the control socket. The template process ends after the last Python that it
// has forked.
func (t *template) close() {
	if t != nil && t.sock >= 0 {
		unix.Close(t.sock)
		t.sock = -1
	}
}

// errTemplate means that the template process has ended, or has sent something other than
// an answer.
var errTemplate = errors.New("the Python of the configuration file has ended")

// terminalWait is how long a Python gets to end by itself when a terminal has sent INT to the
// whole foreground process group, Python included.
const terminalWait = 200 * time.Millisecond

// interrupt guards a wait for a Python that may never finish. If a signal comes that ends
// the server, Python gets INT after the given time, upon which it prints where it was, and
// later KILL if INT does not help. The returned function ends the guard and returns the
// signal that has come, 0 for none.
func interrupt(pid int, wait time.Duration) func() syscall.Signal {
	caught := make(chan os.Signal, 4)
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGQUIT} {
		if !signal.Ignored(s) {
			signal.Notify(caught, s)
		}
	}
	ended, result := make(chan struct{}), make(chan syscall.Signal)
	go func() {
		var first syscall.Signal
		var late, later <-chan time.Time
		for {
			select {
			case s := <-caught:
				if first == 0 {
					first = s.(syscall.Signal)
					late, later = time.After(wait), time.After(wait+quickLimit)
				} else {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			case <-late:
				_ = unix.Kill(pid, unix.SIGINT)
			case <-later:
				_ = unix.Kill(pid, unix.SIGKILL)
			case <-ended:
				result <- first
				return
			}
		}
	}()
	return func() syscall.Signal {
		signal.Stop(caught)
		close(ended)
		return <-result
	}
}

// ask sends a question and waits for the answer without a limit, as hooks take whatever time
// they take. A signal that ends the server ends the wait, too.
func (t *template) ask(question map[string]any) (answer map[string]any, err error) {
	wait, starting := quickLimit, question["do"] != "hook"
	if starting {
		wait = terminalWait
	}
	interrupted := interrupt(t.pid, wait)
	answer, err = t.exchange(question)
	if s := interrupted(); s != 0 && starting {
		return nil, &startError{status: exitFailure} // before the start, the arbiter does not catch signals itself
	}
	return answer, err
}

func (t *template) exchange(question map[string]any) (answer map[string]any, err error) {
	b := appendMarshal(nil, question)
	if len(b) > templateRoom {
		return nil, fmt.Errorf("%d bytes of settings are too many for hooks", len(b))
	}
	if err := unix.Sendto(t.sock, b, unix.MSG_NOSIGNAL, nil); err != nil {
		return nil, errTemplate
	}
	room := make([]byte, 2*templateRoom)
	for {
		n, _, err := unix.Recvfrom(t.sock, room, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return nil, errTemplate
		}
		v, err := unmarshal(room[:n])
		answer, ok := v.(map[string]any)
		if err != nil || !ok {
			return nil, errTemplate
		}
		if answer["ok"] != true {
			return nil, &startError{status: exitFailure} // the template has printed the reason
		}
		return answer, nil
	}
}

// prepare gives the settings to the template process. After "start" the template can fork;
// "check" only tests whether the application can be loaded.
func (t *template) prepare(do string, c *config) error {
	all, err := unmarshal(c.encode())
	if err != nil {
		return err
	}
	question := map[string]any{"do": do, "settings": all, "env": c.ownEnv()}
	if do == "start" {
		question["pid"] = os.Getpid()
	}
	_, err = t.ask(question)
	return err
}

// adopt tells the template process of a worker, and passes it the socket on which the worker
// asks for its Python, once. The template learns from the arbiter which worker asks,
// because it may have more rights than workers and must not believe them. When the worker
// ends, the socket closes, and the template ends the worker's Python. There is no answer.
func (t *template) adopt(age, pid, fd int) error {
	b := appendMarshal(nil, map[string]any{"do": "adopt", "age": age, "worker": pid})
	return os.NewSyscallError("sendmsg", unix.Sendmsg(t.sock, b, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
}

// askFork asks the template process for a Python that has the given descriptors. The
// template answers with the pid, and later with the exit status.
func askFork(sock int, fds ...int) error {
	return os.NewSyscallError("sendmsg", unix.Sendmsg(sock, []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL))
}

// Hooks ---------------------------------------------------------------------

// hook calls a server hook, if the configuration file defines that hook.
func (a *arbiter) hook(name string, args ...any) error {
	return a.hookOf(a.generation, name, args...)
}

// hookOf calls a hook of g's configuration file. If name is "", it only tells the template
// process of the listeners, so that hooks in forked Pythons see them.
func (a *arbiter) hookOf(g *generation, name string, args ...any) error {
	if g.template == nil || name != "" && !g.cfg.hooks()[name] {
		return nil
	}
	addresses, entries := []any{}, []any{}
	for _, l := range g.listeners {
		addr := any(l.addr.path)
		sa, _ := unix.Getsockname(l.fd)
		if own := addrPort(sa); own.IsValid() {
			addr = []any{own.Addr().String(), int(own.Port())}
		}
		addresses = append(addresses, addr)
		entries = append(entries, []any{l.String(), addr, l.fd, addr})
	}
	if g.listeners == nil { // not yet open
		for _, addr := range addressesOf(g.cfg) {
			if addr.network == "unix" {
				addresses = append(addresses, addr.path)
			} else {
				addresses = append(addresses, []any{addr.host, addr.port})
			}
		}
	}
	if args == nil {
		args = []any{}
	}
	answer, err := g.template.ask(map[string]any{"do": "hook", "name": name, "args": args, "facts": map[string]any{
		"num_workers": a.target, "address": addresses, "listeners": entries,
	}})
	if err != nil {
		return err
	}
	if n, ok := answer["num_workers"].(int64); ok && n >= 0 && n <= 1<<16 {
		a.target = int(n)
	}
	changed, _ := answer["changed"].(map[string]any)
	return g.cfg.change(changed)
}

// templateDied is called when the template process of a generation has ended. Status 255
// means an exception in a hook, which stops the server. After any other status, a reload
// starts another template process.
func (a *arbiter) templateDied(g *generation, status unix.WaitStatus) *halt {
	g.template.close()
	g.template = nil
	if g == a.generation && exitStatus(status) == 255 {
		return &halt{"A server hook failed.", 255}
	}
	a.later = append(a.later, unix.SIGHUP)
	return nil
}
