package main

// A generation is one reading of the settings, with everything that lives as long as those
// settings are in force. A reload opens a second generation beside the first. Once enough
// workers of the new generation serve, the former generation is closed. If the new
// generation fails, it is closed instead, and nothing has changed.

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

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
	kept, file, ran := g.host, "", false
	defer func() {
		if err != nil {
			g.template.close()
			if kept != nil {
				kept.undo()
			}
		}
	}()
	env := os.Environ()
	if kept != nil && kept.program {
		args = []string{"-c", programSpec}
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, "GUNICORN_CMD_ARGS=") })
	}
	python := "" // interpreter that the configuration file names
	for g.bridge == nil {
		g.cfg, err = loadConfig(args, env, dir, func(c *config, spec string) (globals map[string]any, err error) {
			if file, ran = spec, true; kept != nil {
				return kept.reread(c, spec)
			}
			c.python = cmp.Or(python, c.python)
			globals, g.template, err = evalConfig(c, spec)
			return globals, err
		})
		if c := g.cfg; err != nil || c.option != "" {
			return g, err
		}
		if g.cfg.status != "off" {
			return g, os.Chdir(g.cfg.chdir)
		}
		if said := g.cfg.program(); said != nil {
			if g.cfg.python, err = kept.interpreter(g.cfg, said); err != nil {
				return nil, err
			}
			break // the program forks all Pythons
		}
		found, bridge, err := findPython(g.cfg)
		if err != nil {
			return nil, err
		}
		// The workers' Pythons are forks of the process that has run the file. If the file
		// names another interpreter, that interpreter runs the file again.
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
	if said := c.program(); said != nil {
		c.argv, _ = stringsOf(said["argv"])
	}
	serve := !c.checkConfig && !c.printConfig
	if serve {
		if c.credential, err = credentialOf(c); err != nil {
			return nil, err
		}
	}
	if kept != nil && !ran {
		if _, err = kept.reread(c, ""); err != nil {
			return nil, err
		}
	}
	fresh := kept != nil && (kept.loaded || c.reload || kept.python != c.python)
	plain := c.sharesLibrary() && !c.preloadApp && g.template == nil && kept == nil
	if serve && c.program() == nil && (plain || c.preloadApp && g.template == nil || fresh) || c.classInPython() && g.template == nil && kept == nil {
		if _, g.template, err = evalConfig(c, file); err != nil {
			return nil, err
		}
		g.template.plain = plain
	}
	if c.classInPython() {
		if err = cmp.Or(g.template, kept).classify(c); err != nil {
			return nil, err
		}
	}
	if err = c.checkPackage(kept); err != nil {
		return nil, err
	}
	g.template = cmp.Or(g.template, kept)
	g.host = cmp.Or(kept, g.template)
	return g, os.Chdir(c.chdir)
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
func without(list, other []*bound) (rest []*bound) {
	for _, l := range list {
		if !slices.Contains(other, l) {
			rest = append(rest, l)
		}
	}
	return rest
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
