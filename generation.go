package main

// A generation is one reading of the settings, with everything that lives as long as those
// settings are in force. A reload opens a second generation beside the first. Once enough
// workers of the new generation serve, the former generation is closed. If the new
// generation fails, it is closed instead, and nothing has changed.

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type generation struct {
	cfg       *config
	bridge    *os.File  // the Python half in the form that bootstrap reads, shared by every Python
	template  *template // the process that forks Pythons; nil if each worker starts its Python afresh
	host      *template // the process in which the arbiter's hooks run, mostly the same
	log       *errorLog
	access    *accessLog // the access log, which workers inherit; nil for none
	logger    *logger    // the process that makes the logs in Python; nil if the logs are made in Go
	vault     *vault     // certificates and keys; nil without TLS
	listeners []*bound
}

// readGeneration reads every source of settings, and finds the things that they name: the
// interpreter, its packages, the user. A command such as --print-config needs the settings
// only. now is the generation in force, nil at the start.
func readGeneration(args []string, dir string, now *generation) (_ *generation, err error) {
	if err := os.Chdir(dir); err != nil {
		return nil, err
	}
	g := &generation{}
	if now != nil && now.keepsHost() {
		g.host = now.host
	}
	kept := g.host
	defer func() {
		if err != nil {
			g.template.close()
			if kept != nil {
				kept.undo()
			}
		}
	}()
	if kept != nil && kept.program {
		args = []string{"-c", programSpec}
	}
	file, err := g.readSettings(args, dir)
	c := g.cfg
	if err != nil || c.option != "" {
		return g, err
	}
	if c.status != "off" {
		return g, os.Chdir(c.chdir)
	}
	c.startDir, c.argv = dir, append([]string{programPath()}, args...)
	if said := c.program(); said != nil {
		c.argv, _ = stringsOf(said["argv"])
	}
	serve := !c.checkConfig && !c.printConfig
	if serve {
		if c.credential, err = credentialOf(c); err != nil {
			return nil, err
		}
	}
	if err = g.openTemplates(file, serve); err != nil {
		return nil, err
	}
	return g, os.Chdir(c.chdir)
}

// readSettings reads all sources of settings, and finds the interpreter. It returns the
// configuration file, nil if there is none; a file of PasteDeploy alone is "". The Python that
// has run the file, unless that was the host, becomes g.template.
func (g *generation) readSettings(args []string, dir string) (file *string, err error) {
	env := os.Environ()
	if g.host != nil && g.host.program {
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, "GUNICORN_CMD_ARGS=") })
	}
	python := "" // interpreter that the configuration file names
	for {
		g.cfg, err = loadConfig(args, env, dir, func(c *config, spec string) (globals map[string]any, err error) {
			if file = &spec; g.host != nil {
				return g.host.reread(c, spec)
			}
			c.python = cmp.Or(python, c.python)
			globals, g.template, err = evalConfig(c, spec)
			return globals, err
		})
		if err != nil || g.cfg.option != "" || g.cfg.status != "off" {
			return file, err
		}
		if said := g.cfg.program(); said != nil { // the program forks all Pythons
			g.cfg.python, err = g.host.interpreter(g.cfg, said)
			return file, err
		}
		found, bridge, err := findPython(g.cfg)
		if err != nil {
			return file, err
		}
		// The workers' Pythons are forks of the process that has run the file. If the file
		// names another interpreter, that interpreter runs the file again.
		if t := g.template; t == nil || t.python == found {
			g.cfg.python, g.bridge = found, bridge
			return file, nil
		} else if python != "" {
			return file, fmt.Errorf("python: the configuration file wants %q, and run by that it wants %q", python, found)
		}
		g.template.close()
		g.template, python = nil, found
	}
}

// openTemplates decides which process forks the Pythons of g, and starts that process if it is
// not there: for the application's new code, for --preload, for a shared standard library,
// or for a worker class that Python has to find.
func (g *generation) openTemplates(file *string, serve bool) (err error) {
	c, kept, spec := g.cfg, g.host, ""
	if file != nil {
		spec = *file
	} else if kept != nil {
		if _, err = kept.reread(c, ""); err != nil {
			return err
		}
	}
	fresh := kept != nil && (kept.loaded || c.reload || kept.python != c.python)
	plain := c.sharesLibrary() && !c.preloadApp && g.template == nil && kept == nil
	if serve && c.program() == nil && (plain || c.preloadApp && g.template == nil || fresh) || c.classInPython() && g.template == nil && kept == nil {
		if _, g.template, err = evalConfig(c, spec); err != nil {
			return err
		}
		g.template.plain = plain
	}
	if c.classInPython() {
		if err = cmp.Or(g.template, kept).classify(c); err != nil {
			return err
		}
	}
	if err = c.checkPackage(kept); err != nil {
		return err
	}
	g.template = cmp.Or(g.template, kept)
	g.host = cmp.Or(kept, g.template)
	return nil
}

// open makes everything that the workers of g need. The order matters: the logs come first,
// as later errors go there; hooks come next, as they may change settings and make files;
// listeners come last, because clients see them. announce is called as soon as hooks can
// be called.
func (a *arbiter) open(g *generation, announce func() error) (err error) {
	if err := g.openLogs(); err != nil {
		return err
	}
	if err := g.prepare(g == a.generation); err != nil {
		return err
	}
	var before any // old number of workers; None for the hook at the start
	if g != a.generation {
		before = a.target
	}
	a.target = g.cfg.workers
	if err := a.hookOf(g, "nworkers_changed", a.target, before); err != nil {
		return err
	}
	if err := announce(); err != nil {
		return err
	}
	if g.vault, err = openVault(g.cfg, a.vault); err != nil {
		return err
	}
	if g.listeners, err = a.openListeners(g.cfg, a.listeners); err != nil {
		return err
	}
	if err := a.hookOf(g, ""); err != nil {
		return err
	}
	if a.passed.parent == 0 {
		return a.metrics.set(a, g.cfg)
	}
	return nil
}

// close closes everything of g that kept, the generation in force, does not share.
func (a *arbiter) close(g, kept *generation) {
	for _, t := range g.templates() {
		if t != kept.host && t != kept.template {
			t.close()
		}
	}
	g.logger.close()
	g.vault.close()
	if g.log != nil {
		g.log.close()
	}
	g.access.close()
	a.closeBound(without(g.listeners, kept.listeners))
}

// generations returns the generation in force and, during a reload, the former generation.
func (a *arbiter) generations() []*generation {
	if a.former == nil {
		return []*generation{a.generation}
	}
	return []*generation{a.generation, a.former}
}

// allListeners returns the listeners of all generations, each once.
func (a *arbiter) allListeners() []*bound {
	if a.former == nil {
		return a.listeners
	}
	return append(without(a.former.listeners, a.listeners), a.listeners...)
}

// keep tells the logger process again to reopen its files, if it was too busy to be told at
// USR1, and reads certificates that have changed.
func (g *generation) keep() {
	if g.logger != nil && g.logger.rotated {
		g.logger.reopen()
	}
	g.vault.keep(g.log)
}

// without returns the listeners of list that are not in other.
func without(list, other []*bound) []*bound {
	return slices.DeleteFunc(slices.Clone(list), func(l *bound) bool { return slices.Contains(other, l) })
}

// use puts a generation in force: new workers belong to it.
func (a *arbiter) use(g *generation) {
	a.generation, a.manager.log = g, g.log
	a.removePidfile()
	if err := a.writePidfile(); err != nil {
		a.log.errorf("%v", err)
	}
}

// openLogs opens both logs, gives their files to the user that workers switch to, and with
// capture_output redirects the server's output to the error log.
func (g *generation) openLogs() (err error) {
	c := g.cfg
	warning, err := c.resolveLogs()
	if err != nil {
		return err
	}
	if g.log, g.access, err = openLogs(c, -1, -1); err == nil {
		err = g.giveLogs()
	}
	if err == nil {
		err = g.capture()
	}
	if err == nil && c.logs {
		if g.logger, err = openLogger(g); err == nil {
			g.access, err = c.inPython(g.log, g.access, &recorder{fd: g.logger.give})
		}
	}
	if err == nil && warning != nil {
		g.log.warningf("%v", warning)
	}
	return err
}

// giveLogs gives the log files to the workers' user, so that workers can reopen them.
func (g *generation) giveLogs() error {
	err := g.log.out.give(g.cfg.credential)
	if err == nil && g.access != nil {
		err = g.access.out.give(g.cfg.credential)
	}
	return err
}

// capture makes the error log the standard output and error, if capture_output is set.
func (g *generation) capture() error {
	if !g.cfg.captureOutput {
		return nil
	}
	return g.log.out.capture()
}

// reopen opens the log files by their names again (USR1). The arbiter does so
// before the workers, who may lack the permission to create the files.
func (g *generation) reopen() {
	reopenLogs(g.log, g.access)
	err := g.giveLogs()
	if g.logger != nil {
		if err == nil {
			err = g.logger.renew(g.cfg.credential)
		}
		g.logger.reopen()
	}
	if err == nil && g.log.out.file {
		err = g.capture()
	}
	if err != nil {
		g.log.errorf("%v", err)
	}
	for _, t := range g.templates() {
		if t.pid > 0 { // Pythons forked later inherit the template's log files
			_ = unix.Kill(t.pid, unix.SIGUSR1)
		}
	}
}

// Reload --------------------------------------------------------------------

// reload reads the settings anew and boots new workers. The old workers serve until the new
// workers do, and go on serving if anything is wrong with the new settings or the
// application.
func (a *arbiter) reload() {
	if a.former != nil {
		a.again = true // changes made since this reload began must not be missed
		return
	}
	a.again = false
	a.manager.reloading()
	next, err := a.load(a.generation)
	if err != nil {
		fmt.Fprint(os.Stderr, err.Error())
		a.log.errorf("The new configuration cannot be used; the old one stays in force.")
		a.manager.ready()
		return
	}
	next.listeners = a.listeners // hooks see the old listeners until the new ones are open
	old := a.target
	err = a.open(next, func() error { return nil })
	if err == nil {
		err = a.hookOf(next, "on_reload")
	}
	if err != nil {
		a.target = old
		a.discard(next)
		if a.left != nil {
			return
		}
		if err.Error() == "" { // Python has printed the reason
			a.log.errorf("The new configuration cannot be used; the old configuration stays in force.")
		} else {
			a.log.errorf("%s; the old configuration stays in force.", plainSentence(err))
		}
		return
	}
	a.former = a.generation
	a.use(next)
	if !slices.Equal(a.cfg.bind, a.former.cfg.bind) {
		a.log.infof("Listening at: %s", a.listening())
	}
	a.pause, a.notBefore = 0, 0
	a.manage()
}

// endReload is called when enough workers of the new generation serve.
func (a *arbiter) endReload() {
	former := a.former
	a.former = nil
	a.manager.ready()
	for _, w := range a.workers {
		if w.generation != a.generation && !w.told {
			a.tell(w)
		}
	}
	a.close(former, a.generation)
	if former.host != nil && former.host == a.host {
		a.host.keep()
	}
	if a.again {
		a.reload()
	}
}

// abandonReload is called when a worker of the new generation could not boot. The former
// workers have never stopped serving, and stay.
func (a *arbiter) abandonReload() {
	a.log.errorf("The reload is abandoned: a worker could not boot. The former workers go on.")
	for _, w := range a.workers {
		if w.generation == a.generation {
			a.tell(w)
		}
	}
	failed := a.generation
	a.use(a.former)
	a.former, a.target = nil, a.cfg.workers
	a.discard(failed)
	if a.again {
		a.reload()
	}
}

// discard closes a failed generation, and restores the parts of the generation in force that
// the failed one had replaced.
func (a *arbiter) discard(g *generation) {
	a.close(g, a.generation)
	if g.host != nil && g.host == a.host {
		a.host.undo()
	}
	if err := a.capture(); err != nil {
		a.log.errorf("%v", err)
	}
	if a.passed.parent == 0 && a.metrics.set(a, a.cfg) != nil {
		a.metrics.close(a) // startHelpers tries again, and logs the error
	}
	a.manager.ready() // the service manager may still believe in a reload
}

// The template process --------------------------------------------------------
//
// The template process is the Python that has run the configuration file. It calls the
// hooks of that file, and forks the Python of each worker. So every worker has the changes
// that the file has made to its process (environment, paths, logging, patches), as under
// Gunicorn, and also the hooks' state and, with --preload, the loaded application. Without
// a file, a template process exists for --preload and for workers that share the standard
// library. Its Python half is hooks.py.
//
// Gunicorn's master runs the file again on a reload and keeps whatever hooks have started.
// So does the template process, as the host of the hooks. Where it has the application's
// code, or shall not keep what it has imported, another process runs the file too, loads
// the new code and forks for the host: the forker. The host keeps its control socket.

type template struct {
	helper
	python string // path of the interpreter
	sock   int    // the arbiter's end of the control socket: one question and answer at a time
	child  int    // the template's end of the control socket, until the process is started
	loaded bool   // the process has loaded the application
	plain  bool   // the process has run no configuration file, and is there for what its children share

	program bool // the process is a fork of a program that runs itself, and reads settings from there
}

// hostHooks are the hooks that are called in the host.
var hostHooks = []string{"on_starting", "when_ready", "nworkers_changed", "pre_fork", "child_exit", "on_reload", "on_exit"}

// keepsHost reports whether the next generation has the same host. A host in which none of the
// arbiter's hooks has run makes way for a process with the new code: the application in that
// host may have started threads, which should not run twice.
func (g *generation) keepsHost() bool {
	if g.host == nil || g.host.program {
		return g.host != nil
	}
	called := g.cfg.hooks()
	return g.template == g.host && !g.host.loaded && !g.host.plain && !g.cfg.reload ||
		slices.ContainsFunc(hostHooks, func(name string) bool { return called[name] })
}

// templates are the processes that have run g's configuration file.
func (g *generation) templates() (list []*template) {
	for _, t := range []*template{g.host, g.template} {
		if t != nil && !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list
}

// evalConfig runs a configuration file, "" for none, and returns the file's globals and the
// template process, which the caller has to close. The file prints to our standard output
// and error; if the file fails, Python has printed the reason there.
func evalConfig(c *config, spec string) (globals map[string]any, t *template, err error) {
	python, bridge, err := findPython(c)
	if err != nil {
		return nil, nil, err
	}
	question, err := memfd("question", appendMarshal(nil, map[string]any{
		"spec": spec, "paste": c.paste, "dir": startDir(), "names": settingNames(), "check": c.checkConfig,
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
	if globals, err = globalsOf(spec, out); err != nil {
		t.close()
	}
	return globals, t, err
}

// reread has the process of t run a configuration file again, "" for none, and returns the
// file's globals. undo or keep has to follow.
func (t *template) reread(c *config, spec string) (map[string]any, error) {
	into, err := memfd("globals", nil)
	if err != nil {
		return nil, err
	}
	defer unix.Close(into)
	if _, err := t.ask(map[string]any{"do": "read", "spec": spec, "paste": c.paste, "dir": startDir(), "names": settingNames()}, into); err != nil {
		return nil, err
	}
	out, err := readFile(into, outputMax)
	if err != nil {
		return nil, err
	}
	return globalsOf(spec, out)
}

// undo has the process forget the file that reread has run; keep has it forget the former file.
func (t *template) undo() { _, _ = t.ask(map[string]any{"do": "back"}) }
func (t *template) keep() { _, _ = t.ask(map[string]any{"do": "keep"}) }

func settingNames() (names []string) {
	for _, r := range settings {
		names = append(names, r.name)
	}
	return names
}

func globalsOf(spec string, out []byte) (map[string]any, error) {
	v, err := unmarshal(out)
	globals, ok := v.(map[string]any)
	if err != nil || !ok {
		return nil, fmt.Errorf("config: %s: %w", spec, errMarshal)
	}
	return globals, nil
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

// sharesLibrary reports whether the template process imports what most applications use of
// the standard library, so that workers have it in memory once. The template takes some
// 10 MB itself, and each worker shares 4 to 6 MB: with two workers nothing is saved.
// Greenlets are left out, as gevent and eventlet patch modules before others import them,
// and reload, where each change would start another template.
func (c *config) sharesLibrary() bool {
	family := c.family()
	return c.workers > 2 && !c.reload && (family == familySync || family == familyThread || family == familyASGI)
}

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

// end waits for a host that has nothing to do any more, so that what it has registered
// for its exit runs.
func (t *template) end() {
	if t == nil || t.program {
		return // leave follows
	}
	t.close()
	awaitEnd(t.pid, quickLimit)
}

// close closes the control socket. The template process ends after the last Python that it
// has forked.
func (t *template) close() {
	if t != nil && t.sock >= 0 {
		unix.Close(t.sock)
		t.sock = -1
	}
}

// templateEnded is the process ID of a template process that has ended, or has sent something
// other than an answer.
type templateEnded int

func (pid templateEnded) Error() string { return "the Python of the configuration file has ended" }

// terminalWait is how long a Python gets to end by itself when a terminal has sent INT to the
// whole foreground process group, Python included.
const terminalWait = 200 * time.Millisecond

// interrupt guards a wait for a Python that may never finish. If a signal comes that ends
// the server, Python gets INT after the given time, upon which it prints where it was, and
// later KILL if INT does not help; without a time, another signal than INT is KILL at once.
// The returned function ends the guard and returns the signal that has come, 0 for none.
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
				if first == 0 && (wait > 0 || s == unix.SIGINT) {
					first, wait = s.(syscall.Signal), cmp.Or(wait, terminalWait)
					late, later = time.After(wait), time.After(wait+quickLimit)
				} else {
					first = cmp.Or(first, s.(syscall.Signal))
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

// hookExit is the exit status with which a hook has called sys.exit.
type hookExit int

func (s hookExit) Error() string { return "" }

// ask sends a question and waits for the answer without a limit, as hooks take whatever time
// they take. A signal that ends the server ends the wait, too. As under Gunicorn, TERM ends
// the import of the application (load) at once.
func (t *template) ask(question map[string]any, fds ...int) (answer map[string]any, err error) {
	wait, load, starting := quickLimit, question["load"] == true, question["do"] != "hook"
	if load {
		wait = 0
	} else if starting {
		wait = terminalWait
	}
	interrupted := interrupt(t.pid, wait)
	answer, err = t.exchange(question, fds)
	s := interrupted()
	switch {
	case s == 0 || !starting: // before the start, the arbiter does not catch signals itself
		return answer, err
	case load && s != unix.SIGINT:
		return nil, hookExit(0)
	}
	return nil, &startError{status: 128 + int(s)}
}

func (t *template) exchange(question map[string]any, fds []int) (answer map[string]any, err error) {
	b, rights := appendMarshal(nil, question), []byte(nil)
	if len(b) > templateRoom {
		return nil, fmt.Errorf("%d bytes of settings are too many for hooks", len(b))
	}
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(t.sock, b, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		return nil, templateEnded(t.pid)
	}
	room := make([]byte, 2*templateRoom)
	for {
		n, _, err := unix.Recvfrom(t.sock, room, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return nil, templateEnded(t.pid)
		}
		v, err := unmarshal(room[:n])
		answer, ok := v.(map[string]any)
		if err != nil || !ok {
			return nil, templateEnded(t.pid)
		}
		if status, exits := answer["exit"].(int64); exits {
			return nil, hookExit(status)
		}
		if answer["ok"] != true {
			return nil, &startError{status: exitFailure} // the template has printed the reason
		}
		return answer, nil
	}
}

// prepare gives the settings to the template process. After "start" the template can fork;
// "check" only tests whether the application can be loaded.
func (t *template) prepare(do string, c *config, more map[string]any) (answer map[string]any, err error) {
	all, err := unmarshal(c.encode())
	if err != nil {
		return nil, err
	}
	question := map[string]any{"do": do, "settings": all, "env": c.ownEnv()}
	maps.Copy(question, more)
	return t.ask(question)
}

// classify has the process of t import the worker class, and adds to c the facts about the
// class and the settings that its CONFIG_KWARGS mean.
func (t *template) classify(c *config) error {
	answer, err := t.prepare("class", c, nil)
	if err != nil {
		return err
	}
	if why, wrong := answer["wrong"].(string); wrong {
		status, _ := answer["status"].(int64)
		return &startError{int(status), "gunicorn: worker_class: " + printable(why) + "\n"}
	}
	facts, _ := answer["class"].(map[string]any)
	if c.said == nil {
		c.said = map[string]any{}
	}
	c.said["class"] = facts
	changed, _ := answer["settings"].(map[string]any)
	if err := c.set(changed); err != nil {
		return sentence("worker_class: %s: CONFIG_KWARGS: %v", c.className(), err)
	}
	if name := c.beyondClass(); c.classFamily() == familyOwn && name != "" {
		return sentence("%s: %s serves by itself, and this server does not see its requests", name, facts["name"])
	}
	return c.checkSupported(&start{dir: c.startDir, env: os.Environ(), app: c.positional})
}

// beyondClass names a setting that acts on requests in the worker, and so cannot act on the
// requests of a class that serves by itself; "" if no such setting is used.
func (c *config) beyondClass() string {
	for _, setting := range [...]struct {
		name string
		set  bool
	}{
		{"static", len(c.static) > 0},
		{"health", c.health != ""},
		{"request_id_header", c.requestIDHeader != ""},
		{"queue_limit", c.queueLimit > 0},
		{"queue_timeout", c.queueTimeout > 0},
		{"limit_connections_per_client", c.limitConnectionsPerClient > 0},
		{"spool_dir", c.spoolDir != ""},
		{"proxy_protocol", c.proxyProtocol != "off"},
		{"http2_cleartext", c.http2Cleartext != "off"},
		{"http_protocols", c.speaksH2()},
	} {
		if setting.set {
			return setting.name
		}
	}
	return ""
}

// prepare makes g's template processes ready for hooks and forks. first is false for a reload.
func (g *generation) prepare(first bool) error {
	for _, t := range slices.Backward(g.templates()) { // the application first, as it may fail
		load := t == g.template && g.cfg.preloadApp
		t.loaded = t.loaded || load
		share := t == g.template && !load && !t.program && g.cfg.sharesLibrary()
		if _, err := t.prepare("start", g.cfg, map[string]any{"pid": os.Getpid(), "load": load, "share": share, "forks": t != g.host, "first": first}); err != nil {
			return err
		}
	}
	return nil
}

// adopt tells the template process of a worker, and passes it the socket on which the worker
// asks for its Python, once. The template learns from the arbiter which worker asks,
// because it may have more rights than workers and must not believe them. When the worker
// ends, the socket closes, and the template ends the worker's Python. There is no answer.
func (t *template) adopt(age, pid, fd int) error {
	b := appendMarshal(nil, map[string]any{"do": "adopt", "age": age, "worker": pid})
	err := unix.Sendmsg(t.sock, b, unix.UnixRights(fd), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err == unix.EPIPE {
		return nil // the template process has ended: the worker will say so, and the arbiter acts on it
	}
	return os.NewSyscallError("sendmsg", err)
}

// askFork asks the template process for a Python that has the given descriptors. The
// template answers with the pid, and later with the exit status.
func askFork(sock int, fds ...int) error {
	err := unix.Sendmsg(sock, []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	if err == unix.EPIPE {
		return errors.New("the process from which its Python is forked has ended")
	}
	return os.NewSyscallError("sendmsg", err)
}

// Programs that run themselves ------------------------------------------------
//
// A program that calls BaseApplication.run becomes the arbiter by executing this binary. Its
// fork, the template process, is there already (program.py), and speaks for the program:
// there is no configuration file, command line or GUNICORN_CMD_ARGS but what the
// program itself reads. Nobody else can load its application, so the template process
// stays the same as long as the arbiter.

// envProgram is the variable with the pid of the template process and the descriptor of our
// end of its control socket.
const envProgram = "GUNICORN_PROGRAM"

// programSpec stands for the configuration file.
const programSpec = "program:"

// takeProgram returns the template process of the program that has executed this binary, nil
// for none.
func takeProgram() *template {
	pid, sock, _ := strings.Cut(os.Getenv(envProgram), ",")
	os.Unsetenv(envProgram)
	fds := descriptors(sock)
	n, err := strconv.Atoi(pid)
	if err != nil || len(fds) != 1 {
		return nil
	}
	return &template{helper: helper{pid: n}, sock: fds[0], program: true}
}

// interpreter is the Python of the program, which the setting python cannot change.
func (t *template) interpreter(c *config, said map[string]any) (string, error) {
	t.python, _ = said["python"].(string)
	if c.python != "" && c.python != t.python {
		return "", sentence("python: %q is not the Python that runs the program, %q", c.python, t.python)
	}
	return t.python, nil
}

// leave ends a program that runs itself: there, run raises SystemExit with the server's status,
// and the rest of the program decides about the final status. A signal that ends the server
// ends the wait for the program.
func (t *template) leave(status int) int {
	if t == nil || t.pid == 0 || t.sock < 0 {
		return status
	}
	interrupted := interrupt(t.pid, quickLimit)
	_ = unix.Sendto(t.sock, appendMarshal(nil, map[string]any{"do": "leave", "status": status}), unix.MSG_NOSIGNAL, nil)
	t.close()
	status = exitStatus(waitFor(t.pid))
	interrupted()
	return status
}

// forkLogger has the process fork the Python that makes the logs, and returns its pid.
func (t *template) forkLogger(c *config, records, answer int) (int, error) {
	all, err := unmarshal(c.encode())
	if err != nil {
		return 0, err
	}
	// The Python's parent, a process in between, ends at once. Become the new parent.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	said, err := t.ask(map[string]any{"do": "log", "settings": all, "env": c.ownEnv()}, records, answer)
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	pid, _ := said["pid"].(int64)
	return int(pid), err
}

// Hooks ---------------------------------------------------------------------

// hook calls a server hook, if the configuration file defines that hook.
func (a *arbiter) hook(name string, args ...any) error {
	return a.hookOf(a.generation, name, args...)
}

// hookOf calls a hook of g's configuration file. If name is "", it only tells the template
// process of the listeners, so that hooks in forked Pythons see them, and
// gives a forker to its host.
func (a *arbiter) hookOf(g *generation, name string, args ...any) error {
	if g.host == nil || name != "" && !g.cfg.hooks()[name] {
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
	question := map[string]any{"do": "hook", "name": name, "args": args, "facts": map[string]any{
		"num_workers": a.target, "address": addresses, "listeners": entries,
	}}
	if t := g.template; name == "" && t != g.host {
		if _, err := t.ask(question); err != nil {
			return err
		}
		if _, err := g.host.ask(map[string]any{"do": "follow"}, t.sock); err != nil {
			return err
		}
		t.close()
	}
	answer, err := g.host.ask(question)
	var status hookExit
	if errors.As(err, &status) {
		a.left = &halt{"", int(status)}
	}
	if err != nil {
		return err
	}
	if n, ok := answer["num_workers"].(int64); ok && n >= 0 && n <= 1<<16 {
		a.target = int(n)
	}
	changed, _ := answer["changed"].(map[string]any)
	return g.cfg.change(changed)
}

// templateDied is called when a template process has ended. If the host has exited, which
// only hooks can have caused, the server stops; status 255 means an exception in a hook.
// After any other end, a reload starts another template process.
func (a *arbiter) templateDied(t *template, status unix.WaitStatus) *halt {
	t.close()
	host := t == a.host
	for _, g := range a.generations() {
		if t == g.host {
			g.host, g.template = nil, nil
		} else if t == g.template {
			g.template = nil
		}
	}
	if host && t.program && !status.Exited() {
		a.left = &halt{"The process of the program " + fate(status), exitFailure}
		return a.left
	}
	if host && status.Exited() {
		a.left = &halt{"", exitStatus(status)}
		if a.left.status == 255 {
			a.left.reason = "A server hook or the worker class failed."
		}
		return a.left
	}
	a.later = append(a.later, unix.SIGHUP)
	return nil
}
