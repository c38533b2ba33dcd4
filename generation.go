package main

// A generation is one reading of the settings, with everything that lives as long
// as they are in force. A reload opens a second one beside it. When enough workers
// of the new generation serve, the former one is closed; when the new one is of no
// use, it is closed instead, and nothing has changed.

import (
	"cmp"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

type generation struct {
	cfg       *config
	bridge    *os.File  // the Python half as the interpreter wants it, shared by every Python
	template  *template // nil without a configuration file and --preload
	log       *errorLog
	access    *accessLog // for workers to inherit
	logger    *logger    // nil unless Python makes the logs
	vault     *vault     // nil without TLS
	listeners []*bound
}

// readGeneration reads every source of settings, and finds what they name: the
// interpreter, its packages, the user. Only a server needs more than the settings.
func readGeneration(args []string, dir string) (_ *generation, err error) {
	if err := os.Chdir(dir); err != nil {
		return nil, err
	}
	g := &generation{}
	defer func() {
		if err != nil {
			g.template.close()
		}
	}()
	python := "" // the one that the file wants to be run by
	for g.bridge == nil {
		g.cfg, err = loadConfig(args, os.Environ(), dir, func(c *config, spec string) (globals map[string]any, err error) {
			c.python = cmp.Or(python, c.python)
			globals, g.template, err = evalConfig(c, spec)
			return globals, err
		})
		if c := g.cfg; err != nil || c.help || c.version {
			return g, err
		}
		if g.cfg.status != "off" {
			return g, os.Chdir(g.cfg.chdir)
		}
		found, bridge, err := findPython(g.cfg)
		if err != nil {
			return nil, err
		}
		// The workers' Pythons are forks of the one that runs the file. A file that names
		// another interpreter is run once more, by that.
		if t := g.template; t != nil && t.python != found {
			if python != "" {
				return nil, fmt.Errorf("python: the configuration file wants %q, and run by that it wants %q", python, found)
			}
			t.close()
			g.template, python = nil, found
			continue
		}
		g.cfg.python, g.bridge = found, bridge
	}
	c := g.cfg
	c.startDir, c.argv = dir, append([]string{programPath()}, args...)
	if err := c.checkPackage(); err != nil {
		return nil, err
	}
	serve := !c.checkConfig && !c.printConfig
	if serve {
		if c.credential, err = credentialOf(c); err != nil {
			return nil, err
		}
	}
	if serve && c.preloadApp && g.template == nil {
		if _, g.template, err = evalConfig(c, ""); err != nil {
			return nil, err
		}
	}
	return g, os.Chdir(c.chdir)
}

// open makes what the workers of g need. The order matters: what goes wrong later
// is told in the logs, hooks may change settings and make files, and a listener is
// bound last, because clients see it. announce is called once hooks can be.
func (a *arbiter) open(g *generation, announce func() error) (err error) {
	if err := g.openLogs(); err != nil {
		return err
	}
	if g.template != nil {
		if err := g.template.prepare("start", g.cfg); err != nil {
			return err
		}
	}
	var before any // None, at the start
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

// close ends what g has alone; kept is the generation that goes on.
func (a *arbiter) close(g, kept *generation) {
	g.template.close()
	g.logger.close()
	g.vault.close()
	if g.log != nil {
		g.log.close()
	}
	g.access.close()
	a.closeBound(without(g.listeners, kept.listeners))
}

// generations are the one in force and the one to go back to.
func (a *arbiter) generations() []*generation {
	if a.former == nil {
		return []*generation{a.generation}
	}
	return []*generation{a.generation, a.former}
}

// allListeners are those of all generations.
func (a *arbiter) allListeners() []*bound {
	if a.former == nil {
		return a.listeners
	}
	return append(without(a.former.listeners, a.listeners), a.listeners...)
}

// keep makes up for what had to wait, and reads certificates that have changed.
func (g *generation) keep() {
	if g.logger != nil && g.logger.rotated {
		g.logger.reopen()
	}
	g.vault.keep(g.log)
}

// without are the listeners of list that are not in other.
func without(list, other []*bound) (rest []*bound) {
	for _, l := range list {
		if !slices.Contains(other, l) {
			rest = append(rest, l)
		}
	}
	return rest
}

// use puts a generation in force: new workers are of it.
func (a *arbiter) use(g *generation) {
	a.generation, a.manager.log = g, g.log
	a.removePidfile()
	if err := a.writePidfile(); err != nil {
		a.log.errorf("%v", err)
	}
}

// openLogs opens both logs, gives their files to the user that workers switch to,
// and sends the server's output there if that is to be captured.
func (g *generation) openLogs() (err error) {
	c := g.cfg
	warning, err := c.resolveLogs()
	if err != nil {
		return err
	}
	if g.log, err = openErrorLog(c.errorlog, c.loglevel); err != nil {
		return err
	}
	g.access, err = openAccessLog(c.accesslog, c.accessLogFormat)
	if err == nil {
		err = g.log.join(c)
	}
	if err == nil {
		g.access, err = g.access.join(c, g.log.syslog)
	}
	if err == nil {
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

// giveLogs makes the log files the workers' user's, so that workers can reopen them.
func (g *generation) giveLogs() error {
	err := g.log.out.give(g.cfg.credential)
	if err == nil && g.access != nil {
		err = g.access.out.give(g.cfg.credential)
	}
	return err
}

// capture makes the error log the standard output, if that is wanted.
func (g *generation) capture() error {
	if !g.cfg.captureOutput {
		return nil
	}
	return g.log.out.capture()
}

// reopen opens the log files by their names again (USR1). The arbiter does so
// before the workers, who may lack the permission to create the files.
func (g *generation) reopen() {
	if err := g.log.reopen(); err != nil {
		g.log.errorf("errorlog: %v", err)
	}
	if err := g.access.reopen(); err != nil {
		g.log.errorf("accesslog: %v", err)
	}
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
	if g.template != nil && g.template.pid > 0 { // the Pythons that it will fork have its files
		_ = unix.Kill(g.template.pid, unix.SIGUSR1)
	}
}

// Reload --------------------------------------------------------------------

// reload reads the settings anew and boots a new set of workers. The old ones
// serve until the new ones do; when anything about the new settings or the
// application is wrong, they simply go on.
func (a *arbiter) reload() {
	if a.former != nil {
		a.again = true // what has changed since must not be missed
		return
	}
	a.again = false
	a.manager.reloading()
	next, err := a.load()
	if err != nil {
		fmt.Fprint(os.Stderr, err.Error())
		a.log.errorf("The new configuration cannot be used; the old one stays in force.")
		a.manager.ready()
		return
	}
	next.listeners = a.listeners // as far as hooks see, until others are open
	old := a.target
	err = a.open(next, func() error { return nil })
	if err == nil {
		err = a.hookOf(next, "on_reload")
	}
	if err != nil {
		a.target = old
		a.discard(next)
		if err.Error() == "" { // Python has said what is wrong
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
	if a.again {
		a.reload()
	}
}

// abandonReload is called when a worker of the new generation could not boot: the
// former workers have never stopped serving, and stay.
func (a *arbiter) abandonReload() {
	a.log.errorf("The reload is abandoned: a worker could not boot. The workers that were there go on.")
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

// discard closes a generation that is of no use beside the one in force.
func (a *arbiter) discard(g *generation) {
	a.close(g, a.generation)
	if err := a.capture(); err != nil {
		a.log.errorf("%v", err)
	}
	if a.passed.parent == 0 && a.metrics.set(a, a.cfg) != nil {
		a.metrics.close(a) // startHelpers tries again, and tells
	}
	a.manager.ready() // as before
}
