package main

// Where the values of settings come from: defaults, environment, configuration
// file and command line, and how their text becomes checked values. The table of
// settings is in settings.go, the kinds of values are in kind.go.

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// config is one validated set of settings.
type config struct {
	given  map[string]any // checked values from all sources, by name of the setting
	values map[string]any // checked values of all settings, given or default

	positional string // the application named on the command line
	option     string // help or version, if one was given; no setting was read

	// Facts for workers, which the caller of loadConfig adds.
	startDir   string
	argv       []string
	credential *syscall.Credential // user and groups of the workers, nil for ours

	// said holds what a configuration file says other than by settings, and values
	// of settings that marshal cannot express (said in wsgi.py).
	said      map[string]any
	logs      bool     // Python makes the logs
	minLevel  logLevel // lowest level that Python's loggers accept
	logAccess bool     // Python's loggers accept access records
	counted   bool     // a hook sees requests, and their number on the connection

	// The fields below are the values of settings in Go's types. put alone fills them:
	// a field has its setting's name without underscores, in any case.

	// Config File, Server Socket
	wsgiApp string
	paste   string
	bind    []string
	backlog int

	// Worker Processes
	workers, threads, workerConnections      int
	workerClass                              string
	maxRequests, maxRequestsJitter           int
	maxMemory, wsMaxSize                     int64
	websocketMaxMessageSize                  int
	timeout, requestTimeout, gracefulTimeout time.Duration
	keepalive, wsPingInterval, wsPingTimeout time.Duration
	wsPerMessageDeflate                      string
	python                                   string // "" to search for an interpreter

	// Security, Slow Clients
	limitRequestLine, limitRequestFields, limitRequestFieldSize int
	limitRequestBody                                            int64
	clientHeaderTimeout, clientBodyTimeout, clientSendTimeout   time.Duration
	clientMinRate                                               int
	spoolDir                                                    string
	spoolLimit                                                  int64

	// Load Balancers
	health     string // PATH or PATH,PATH
	healthLog  bool
	drainDelay time.Duration

	requestIDHeader string

	queueLimit, limitConnectionsPerClient int
	queueTimeout                          time.Duration

	// Static Files
	static                   []string // PREFIX=DIR
	staticMaxAge             int
	staticIndex, staticFinal bool

	// Debugging
	reload, checkConfig, printConfig bool
	reloadEngine                     string // auto, poll, inotify
	reloadExtraFiles                 []string
	status                           string // off, table, json

	// Server Mechanics
	reusePort, preloadApp, daemon    bool
	chdir, pidfile                   string
	rawEnv                           []string
	user, group, umask               int
	initgroups                       bool
	secureSchemeHeaders              [][2]string // names, and the values that mean https
	forwardedAllowIPs, proxyAllowIPs trustList
	proxyProtocol                    string // off, v1, v2, auto
	forwarderHeaders                 []string
	headerMap                        string // drop, refuse, dangerous

	permitObsoleteFolding, stripHeaderSpaces                        bool
	permitUnconventionalHTTPMethod, permitUnconventionalHTTPVersion bool
	casefoldHTTPMethod                                              bool

	// Logging
	accesslog, accessLogFormat, errorlog, loglevel string
	captureOutput, enableStdioInheritance          bool
	accessLogJSON, disableRedirectAccessToSyslog   bool
	loggerClass                                    string // "" if given as a class object
	logconfig, logconfigJSON                       string
	syslog, enableBacklogMetric                    bool
	syslogAddr, syslogPrefix, syslogFacility       string
	metrics                                        string
	statsdHost, statsdPrefix, dogstatsdTags        string
	syslogTo, statsdTo                             string // addresses found by resolveLogs

	// HTTP/2
	httpProtocols                                     []string
	http2Cleartext                                    string // off, prior-knowledge, upgrade, both
	http2MaxConcurrentStreams, http2InitialWindowSize int
	http2MaxFrameSize, http2MaxHeaderListSize         int

	// SSL, Process Naming
	certfile, keyfile, caCerts, ciphers string
	certReqs                            int
	suppressRaggedEOFs                  bool
	procName, defaultProcName           string
}

// trustList is a set of peers: all peers, or the peers inside some networks.
type trustList struct {
	all  bool
	nets []netip.Prefix
}

// has reports whether addr is trusted. An IPv4 address inside IPv6 counts as IPv4.
func (t trustList) has(addr netip.Addr) bool {
	addr = addr.Unmap()
	return t.all || slices.ContainsFunc(t.nets, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// startError ends the program with an exit status, after its text is printed on
// standard error.
type startError struct {
	status int
	text   string
}

func (e *startError) Error() string { return e.text }

// settingError reports a wrong value from any source except a configuration file.
func settingError(err error) error {
	return &startError{exitFailure, fmt.Sprintf("\nError: %v\n", err)}
}

// bootError reports a value that only the start of the arbiter proves wrong.
func bootError(err error) error {
	return &startError{exitFailure, fmt.Sprintf("\nError: %v\n\n", err)}
}

// plainSentence is the text of an error, for use within another line.
func plainSentence(err error) string {
	return strings.TrimSuffix(strings.TrimPrefix(err.Error(), "gunicorn: "), "\n")
}

// sentence is a start-up error in our own words, for cases in which Gunicorn has
// no message or prints a traceback.
func sentence(format string, args ...any) error {
	return &startError{exitFailure, "gunicorn: " + fmt.Sprintf(format, args...) + "\n"}
}

// loadConfig reads every source, weakest first: defaults, environment,
// configuration file, GUNICORN_CMD_ARGS, command line. args is argv without the
// program's name, env the environment, and dir the directory at the start. eval
// runs a configuration file, PATH or python:MODULE, and returns the result of
// read_config; its settings are the early settings and the defaults of the rest.
//
// An error of eval is returned unchanged; any other error is a *startError. Each
// value is checked, even if a stronger source overrides the value.
func loadConfig(args, env []string, dir string, eval func(c *config, spec string) (map[string]any, error)) (*config, error) {
	at := &start{dir: dir, env: env}
	line, more, err := readFlags(args, at)
	if err != nil {
		return nil, err
	}
	if option := cmp.Or(line.option, more.option); option != "" {
		return &config{option: option}, nil
	}
	environment, err := fromEnvironment(at)
	if err != nil {
		return nil, err
	}
	flags := []*commandLine{more, line}
	early, err := fromFlags(flags, at, true)
	if err != nil {
		return nil, err
	}
	c := &config{positional: line.app}
	if err := c.fill(at, environment, early); err != nil {
		return nil, err
	}
	file, err := c.fromFile(cmp.Or(line.configFile(), more.configFile()), at, eval)
	if err != nil {
		return nil, err
	}
	paste, err := c.fromPaste(at)
	if err != nil {
		return nil, err
	}
	late, err := fromFlags(flags, at, false)
	if err != nil {
		return nil, err
	}
	if err := c.fill(at, environment, paste, file, early, late); err != nil {
		return nil, err
	}
	if err := c.checkSupported(at); err != nil {
		return nil, err
	}
	c.logs = c.logsInPython()
	if c.status != "off" {
		return c, nil
	}
	if c.app() == "" && c.program() == nil {
		return nil, settingError(pyErrorf("No application module specified."))
	}
	if c.checkConfig || c.printConfig {
		return c, nil
	}
	return c, c.checkBoot()
}

// readFlags parses the command line and, unless that has an option such as --help, the flags
// in GUNICORN_CMD_ARGS. It adds the application to at.
func readFlags(args []string, at *start) (line, more *commandLine, err error) {
	if line, err = parseFlags(args); err != nil || line.option != "" {
		return line, line, err
	}
	if paster && line.app != "" {
		line.values["paste"], line.app = line.app, ""
	}
	at.app = line.app
	text, _ := at.lookup("GUNICORN_CMD_ARGS")
	words, err := splitShell(text)
	if err != nil {
		return nil, nil, settingError(err)
	}
	more, err = parseFlags(words)
	return line, more, err
}

// checkBoot makes the checks that Gunicorn makes when its arbiter starts.
func (c *config) checkBoot() error {
	for _, s := range c.bind {
		if _, err := parseBind(s); err != nil {
			return bootError(err)
		}
	}
	if c.metrics != "" {
		addr, err := parseBind(c.metrics)
		if err == nil && addr.network == "fd" {
			err = pyErrorf("%s is not an address for metrics.", pyRepr(c.metrics))
		}
		if err != nil {
			return bootError(fmt.Errorf("metrics: %w", err))
		}
	}
	for _, e := range c.rawEnv {
		if strings.IndexByte(e, '=') < 1 || strings.IndexByte(e, 0) >= 0 {
			return bootError(fmt.Errorf("environment setting %s invalid", pyRepr(e)))
		}
	}
	if err := c.checkSyslog(); err != nil {
		return bootError(err)
	}
	if err := c.checkSpool(); err != nil {
		return err
	}
	if err := c.checkStatic(); err != nil {
		return err
	}
	if err := c.checkHealth(); err != nil {
		return err
	}
	if err := c.checkRequestID(); err != nil {
		return err
	}
	return c.checkTLS()
}

// fill stores the values of the sources, and the defaults of settings that no
// source gives. The last source that gives a setting counts.
func (c *config) fill(at *start, sources ...map[string]any) error {
	c.given, c.values = map[string]any{}, map[string]any{}
	for _, source := range sources {
		maps.Copy(c.given, source)
	}
	for _, r := range settings {
		if v, ok := c.given[r.name]; ok {
			c.put(r, v)
		}
	}
	// Defaults come last because some depend on other settings.
	for _, r := range settings {
		if _, ok := c.given[r.name]; ok {
			continue
		}
		v, err := c.defaultOf(r, at)
		if err != nil {
			return sentence("default of %s: %v", r.name, err)
		}
		c.put(r, v)
	}
	return nil
}

func (c *config) defaultOf(r *setting, at *start) (any, error) {
	text := r.def
	if r.computed != nil {
		text = r.computed(at)
	} else if r.derived != nil {
		text = cmp.Or(r.derived(c), text)
	}
	v, err := r.parse(text)
	if err != nil {
		return nil, err
	}
	return r.check(v, at)
}

// check validates a value from any source and returns its canonical form.
func (r *setting) check(v any, at *start) (any, error) {
	v, err := r.kind.value(v, at)
	if err == nil && !validText(v) {
		err = fmt.Errorf("not valid UTF-8: %s", pyRepr(v))
	}
	return v, err
}

// fieldOf is a pointer to the value's field, nil if only Python reads the value.
func (r *setting) fieldOf(c *config) any {
	if r.field < 0 {
		return nil
	}
	f := reflect.ValueOf(c).Elem().Field(r.field)
	return reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Interface()
}

// put stores a checked value. It returns false if the value does not fit the
// setting's field, which may happen when another process sent the value.
func (c *config) put(r *setting, v any) bool {
	c.values[r.name] = v
	field := r.fieldOf(c)
	return field == nil || store(field, v)
}

// validText reports whether the strings in v can be sent to Python.
func validText(v any) bool {
	switch v := v.(type) {
	case string:
		return utf8.ValidString(v)
	case address:
		return utf8.ValidString(v.String())
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !validText(e) })
	case dict:
		return !slices.ContainsFunc(v, func(e item) bool { return !validText(e.key) || !validText(e.value) })
	}
	return true
}

// parse turns text, as a user types it, into a value for check.
func (r *setting) parse(text string) (any, error) {
	switch {
	case r.kind.text != nil:
		return r.kind.text(text)
	case text == none:
		return nil, nil
	}
	return text, nil
}

func fromEnvironment(at *start) (map[string]any, error) {
	values := map[string]any{}
	for _, r := range settings {
		text, ok := at.lookup(r.env)
		if r.env == "" || !ok {
			continue
		}
		typed := text
		if r.envText != nil {
			typed = r.envText(text)
		}
		v, err := r.parse(typed)
		if err == nil {
			v, err = r.check(v, at)
		}
		if err != nil && r.kind.want != "" {
			return nil, sentence("%s: %q is not %s", r.env, text, r.kind.want)
		} else if err != nil {
			return nil, sentence("%s: %v", r.env, err)
		}
		values[r.name] = v
	}
	return values, nil
}

// fromFile finds the configuration file, runs the file by eval, and returns the
// checked values of the variables that are settings.
func (c *config) fromFile(spec string, at *start, eval func(*config, string) (map[string]any, error)) (map[string]any, error) {
	module := strings.HasPrefix(spec, "python:") || spec == programSpec
	if spec == "" {
		spec = at.path("gunicorn.conf.py")
		if _, err := os.Stat(spec); err != nil && c.paste == "" {
			return nil, nil
		} else if err != nil {
			spec = "" // only the file of PasteDeploy is read
		}
	} else if !module {
		spec = strings.TrimPrefix(spec, "file:")
		if _, err := os.Stat(at.path(spec)); err != nil {
			return nil, settingError(fmt.Errorf("%s doesn't exist", pyRepr(spec)))
		}
	}
	globals, err := eval(c, spec)
	if err != nil {
		return nil, err
	}
	if err := c.keepSaid(globals[saidKey]); err != nil {
		return nil, err
	}
	return checked(at, func(r *setting) (any, bool) {
		v, ok := globals[r.name]
		// A class object of these packages counts like the class's name.
		if bases := c.bases(r.name); len(bases) > 0 && (strings.HasPrefix(bases[0], "gunicorn.") || strings.HasPrefix(bases[0], "uvicorn")) {
			v = bases[0]
		}
		v = fromPython(v)
		return v, ok && !r.flagOnly && (!r.ours || r.meant(v))
	}, func(r *setting, v any, err error) error {
		return &startError{exitFailure, fmt.Sprintf("Invalid value for %s: %s\n\n\nError: %v\n", r.name, pyStr(v), err)}
	})
}

// fromPaste returns the checked settings of PasteDeploy's file, which eval has read.
func (c *config) fromPaste(at *start) (map[string]any, error) {
	given, _ := c.said["paste"].(map[string]any)
	return checked(at, func(r *setting) (any, bool) {
		v, ok := given[r.name]
		return fromPython(v), ok && !r.flagOnly
	}, func(_ *setting, _ any, err error) error { return settingError(err) })
}

// checked returns the checked values of one source, which get reads. wrong words the error
// of a value.
func checked(at *start, get func(*setting) (any, bool), wrong func(*setting, any, error) error) (map[string]any, error) {
	values := map[string]any{}
	for _, r := range settings {
		v, ok := get(r)
		if !ok {
			continue
		}
		var err error
		if values[r.name], err = r.check(v, at); err != nil {
			return nil, wrong(r, v, err)
		}
	}
	return values, nil
}

// meant reports whether a variable of a configuration file is meant for a setting
// that Gunicorn does not have, or has the setting's name by chance.
func (r *setting) meant(v any) bool {
	switch v.(type) {
	case string, bool:
		return true
	case []any, dict:
		return r.kind.repeats
	case int64:
		_, err := r.kind.value(int64(0), nil)
		return err == nil
	}
	return false
}

// fromFlags returns the checked values of command lines, given weakest first:
// either of the early settings or of the others.
func fromFlags(lines []*commandLine, at *start, early bool) (map[string]any, error) {
	values := map[string]any{}
	for _, line := range lines {
		more, err := checked(at, func(r *setting) (any, bool) {
			v, ok := line.values[r.name]
			return v, ok && r.early == early
		}, func(_ *setting, _ any, err error) error { return settingError(err) })
		if err != nil {
			return nil, err
		}
		maps.Copy(values, more)
	}
	return values, nil
}

// checkSupported refuses settings that would otherwise be ignored silently.
func (c *config) checkSupported(at *start) error {
	for _, r := range settings {
		v, given := c.given[r.name]
		if r.unsupported == "" || !given || r.accepts == nil && empty(v) || r.moot != nil && r.moot(c) {
			continue
		}
		if standard, _ := c.defaultOf(r, at); reflect.DeepEqual(v, standard) {
			continue
		}
		if slices.ContainsFunc(r.accepts, func(text string) bool { return v == any(text) }) {
			continue
		}
		if r.accepts != nil {
			if err := c.foreignClass(r); err != nil {
				return err
			}
			continue
		}
		return sentence("%s: not supported by this server: %s", r.name, r.unsupported)
	}
	return nil
}

// saidKey is the key under which read_config returns all that is not a setting.
const saidKey = "gunicorn"

// keepSaid stores what the configuration file says other than by settings.
func (c *config) keepSaid(v any) error {
	c.said, _ = v.(map[string]any)
	name, ok := c.said["server"].(string)
	if ok && strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return sentence("gunicorn.SERVER: %s is not the value of a header", pyRepr(name))
	}
	if names, _ := stringsOf(c.said["replaced"]); len(names) > 0 {
		return sentence("%s: the configuration file replaces it, but this server does not use it", printable(names[0]))
	}
	return nil
}

// bases returns the names of a class that the configuration file gives as an
// object for a setting, followed by the names of its base classes.
func (c *config) bases(name string) []string {
	classes, _ := c.said["classes"].(map[string]any)
	list, _ := stringsOf(classes[name])
	return list
}

// ownFields are the fields that the server adds to responses.
func (c *config) ownFields() (f ownFields) {
	if name, ok := c.said["server"].(string); ok {
		f.line = "Server: " + name
	}
	f.hidden, f.undated = c.class()["hidden"] == true, c.class()["undated"] == true
	return f
}

// program has what a program that runs itself says of itself, nil without one.
func (c *config) program() map[string]any {
	said, _ := c.said["program"].(map[string]any)
	return said
}

// empty reports whether a value leaves its setting turned off.
func empty(v any) bool {
	switch v := v.(type) {
	case []any:
		return len(v) == 0
	case dict:
		return len(v) == 0
	}
	return v == nil || v == false || v == ""
}

// app is the application as MODULE:OBJECT, or PasteDeploy's file.
func (c *config) app() string {
	if c.paste != "" {
		return (&start{dir: c.startDir}).path(c.paste)
	}
	return cmp.Or(c.positional, c.wsgiApp)
}

// name is the server's name in the titles of its processes.
func (c *config) name() string { return cmp.Or(c.procName, c.defaultProcName) }

// change stores settings that a hook has set, after the usual checks.
func (c *config) change(changed map[string]any) error {
	if len(changed) == 0 {
		return nil
	}
	if changed["worker_class"] != nil {
		delete(c.said, "class")
	}
	if err := c.set(changed); err != nil {
		return err
	}
	return c.checkBoot()
}

// set stores settings that Python has set.
func (c *config) set(changed map[string]any) error {
	at := &start{dir: c.startDir, env: os.Environ(), app: c.positional}
	values, err := checked(at, func(r *setting) (any, bool) {
		v, ok := changed[r.name]
		return fromPython(v), ok
	}, func(r *setting, _ any, err error) error { return fmt.Errorf("%s: %w", r.name, err) })
	found := c.python
	if err == nil {
		err = c.fill(at, c.given, values)
	}
	c.python = found
	return err
}

// encode returns a marshal dict of every setting by name, and of the other facts
// that a worker and its Python need.
func (c *config) encode() []byte {
	all := dict{
		{"app", c.app()}, {"start_dir", c.startDir}, {"argv", c.argv}, {"interpreter", c.python}, {"family", c.family()},
		{"syslog_to", c.syslogTo}, {"statsd_to", c.statsdTo}, {"credential", credentialList(c.credential)},
		{"hooks", slices.Sorted(maps.Keys(c.hooks()))}, {"said", c.said},
		{"logs", c.logs}, {"log_level", int64(c.minLevel)}, {"log_access", c.logAccess},
	}
	for _, r := range settings {
		v := c.values[r.name]
		switch {
		case r.kind == anyDict && !empty(v):
			// Marshal cannot express every value of such a dictionary: wsgi.py has
			// stored the value in said, or reads the file again.
			v = c.said[r.name]
		case v == autoWorkers && r.kind == workerCount:
			v = int64(c.workers) // Python expects a number, and the CPUs may change
		}
		all = append(all, item{r.name, v})
	}
	return appendMarshal(nil, all)
}

// settingsTable is a marshal dict of what gunicorn.config of package.py shows of each
// setting: by name a list of section, flags, meta, usage, default, how the flag takes an
// argument, and whether Gunicorn does not have the setting.
func settingsTable() []byte {
	dir, _ := os.Getwd()
	at := &start{dir: dir, env: os.Environ()}
	values, _ := fromEnvironment(at) // the start reports an error of the environment itself
	b := []byte{marshalDict}
	for _, r := range settings {
		v, given := values[r.name]
		if !given {
			v, _ = new(config).defaultOf(r, at)
		}
		b = appendMarshalList(appendMarshalText(b, r.name), 9)
		b = appendMarshal(appendMarshalText(b, r.section), r.flags)
		b = appendMarshal(appendMarshalText(appendMarshalText(b, r.meta), r.usage), v)
		for _, v := range []any{r.kind.alone, r.kind.optional, r.kind.repeats, r.ours} {
			b = appendMarshal(b, v)
		}
	}
	return append(b, marshalDictEnd)
}

// decodeConfig reads the result of encode. A dict loses its order.
func decodeConfig(b []byte) (*config, error) {
	v, err := unmarshal(b)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	all, _ := v.(map[string]any)
	c := &config{values: map[string]any{}}
	for _, r := range settings {
		v, ok := all[r.name]
		if m, isDict := v.(map[string]any); isDict {
			d := dict{}
			for key, e := range m {
				d = append(d, item{key, e})
			}
			v = d
		}
		if r.kind == statsdAddr {
			v, _ = statsdAddr.value(v, nil)
		}
		if !ok || !c.put(r, v) {
			return nil, fmt.Errorf("settings: %s: %w", r.name, errMarshal)
		}
	}
	text := func(key string) string { s, _ := all[key].(string); return s }
	c.positional, c.startDir, c.python = text("app"), text("start_dir"), text("interpreter")
	c.syslogTo, c.statsdTo = text("syslog_to"), text("statsd_to")
	c.argv, _ = stringsOf(all["argv"])
	c.credential = credentialFrom(all["credential"])
	hooks, _ := all["hooks"].([]any)
	c.counted = slices.Contains(hooks, any("pre_request")) || slices.Contains(hooks, any("post_request"))
	c.said, _ = all["said"].(map[string]any)
	c.logs, _ = all["logs"].(bool)
	level, _ := all["log_level"].(int64)
	c.minLevel = logLevel(level)
	c.logAccess, _ = all["log_access"].(bool)
	return c, nil
}

// each calls f with every setting, sorted by name, and its value as Python
// prints it.
func (c *config) each(f func(name, value string)) {
	for _, name := range slices.Sorted(maps.Keys(c.values)) {
		f(name, pyStr(c.values[name]))
	}
}

// print writes the output of --print-config.
func (c *config) print(w io.Writer) {
	width := 0
	for _, r := range settings {
		width = max(width, len(r.name))
	}
	c.each(func(name, value string) { fmt.Fprintf(w, "%-*s = %s\n", width, name, value) })
}

// Command line --------------------------------------------------------------
//
// The command line is read as Python's argparse does, because scripts depend on
// argparse's habits: options and positionals in any order, arguments attached
// or separate, short flags joined, prefixes of long flags, and the messages.

func usageError(format string, args ...any) error {
	return &startError{exitUsage, "usage: gunicorn [OPTIONS] [APP_MODULE]\ngunicorn: error: " + fmt.Sprintf(format, args...) + "\n"}
}

type commandLine struct {
	app    string         // first positional argument
	option string         // option at which parsing stopped, "" for none
	values map[string]any // values by name of the setting, parsed but not checked
}

func (l *commandLine) configFile() string {
	spec, _ := l.values["config"].(string)
	return strip(spec)
}

// word is one argument of a command line after recognise has classified it.
type word struct {
	text   string
	isFlag bool     // the word is a flag, known or not
	end    bool     // the word is the first --
	row    *setting // the setting or option of a known flag
	joined *string  // argument in the same word, nil without one
}

// parseFlags parses one command line. As with argparse, only the first group of
// positionals counts; positionals after a later flag are errors.
func parseFlags(args []string) (*commandLine, error) {
	words, err := recogniseAll(args)
	if err != nil {
		return nil, err
	}
	l := &commandLine{values: map[string]any{}}
	var unknown []string
	var begun, named, over bool // the group of positionals
	for len(words) > 0 && l.option == "" {
		w := words[0]
		if w.isFlag && w.row != nil {
			if words, err = l.flag(words); err != nil {
				return nil, err
			}
			over = begun
			continue
		}
		words = words[1:]
		switch {
		case w.isFlag:
			unknown, over = append(unknown, w.text), begun
		case over:
			unknown = append(unknown, w.text)
		case !w.end && !named:
			l.app, named = w.text, true
		}
		begun = begun || !w.isFlag
	}
	if unknown != nil && l.option == "" {
		return nil, usageError("unrecognized arguments: %s", strings.Join(unknown, " "))
	}
	return l, nil
}

// recogniseAll decides which arguments are flags, before any flag is evaluated.
func recogniseAll(args []string) (words []word, err error) {
	for i, arg := range args {
		if !utf8.ValidString(arg) {
			return nil, sentence("%q is not valid UTF-8", arg)
		}
		if arg == "--" {
			words = append(words, word{text: arg, end: true})
			for _, rest := range args[i+1:] {
				words = append(words, word{text: rest})
			}
			return words, nil
		}
		w, err := recognise(arg)
		if err != nil {
			return nil, err
		}
		words = append(words, w)
	}
	return words, nil
}

func recognise(arg string) (w word, err error) {
	w.text = arg
	if len(arg) < 2 || arg[0] != '-' {
		return w, nil
	}
	w.isFlag = true
	if w.row = rowOf(arg); w.row != nil {
		return w, nil
	}
	name, value, hasValue := strings.Cut(arg, "=")
	if hasValue {
		w.joined = &value
	}
	if w.row = rowOf(name); w.row != nil {
		return w, nil
	}
	if arg[1] != '-' {
		if w.row = rowOf(arg[:2]); w.row != nil {
			rest := arg[2:]
			w.joined = &rest
			return w, nil
		}
	} else {
		var matches []string
		for _, r := range flagged {
			for _, flag := range r.flags {
				if strings.HasPrefix(flag, name) {
					matches, w.row = append(matches, flag), r
				}
			}
		}
		if len(matches) > 1 {
			return w, usageError("ambiguous option: %s could match %s", arg, strings.Join(matches, ", "))
		}
		if len(matches) == 1 {
			return w, nil
		}
	}
	w.isFlag = !negativeNumber(arg) && !strings.Contains(arg, " ")
	return w, nil
}

// rowOf is the setting or option of a flag, nil for an unknown flag.
func rowOf(flag string) *setting {
	for _, r := range flagged {
		if slices.Contains(r.flags, flag) {
			return r
		}
	}
	return nil
}

// negativeNumber reports whether an argument is a number such as -5, not a flag.
func negativeNumber(s string) bool {
	whole, fraction, dot := strings.Cut(s[1:], ".")
	if dot && fraction == "" || !dot && whole == "" {
		return false
	}
	return strings.Trim(whole+fraction, "0123456789") == ""
}

// flag evaluates the flag that words begin with, the short flags joined to it, and
// its argument. It returns the words after these.
func (l *commandLine) flag(words []word) ([]word, error) {
	w, r, joined := words[0], words[0].row, words[0].joined
	words = words[1:]
	var alone []*setting
	for joined != nil && r.takesNone() {
		var next *setting
		if *joined != "" && !strings.HasPrefix(w.text, "--") {
			next = rowOf("-" + (*joined)[:1])
		}
		if next == nil {
			return nil, usageError("argument %s: ignored explicit argument %s", strings.Join(r.flags, "/"), pyRepr(*joined))
		}
		alone, r = append(alone, r), next
		rest := (*joined)[1:]
		if joined = &rest; rest == "" {
			joined = nil
		}
	}
	if joined == nil && !r.takesNone() {
		switch {
		case len(words) > 0 && !words[0].isFlag && !words[0].end:
			joined, words = &words[0].text, words[1:]
		case !r.kind.optional:
			return nil, usageError("argument %s: expected one argument", strings.Join(r.flags, "/"))
		}
	}
	for _, r := range alone {
		if err := l.take(r, nil); err != nil || l.option != "" {
			return words, err
		}
	}
	return words, l.take(r, joined)
}

func (r *setting) takesNone() bool {
	return r.kind == nil || r.kind.alone != nil && !r.kind.optional
}

func (l *commandLine) take(r *setting, arg *string) error {
	if r.kind == nil {
		l.option = r.name
		return nil
	}
	if arg == nil {
		l.values[r.name] = r.kind.alone
		return nil
	}
	var v any = *arg
	if r.kind.text != nil {
		var err error
		if v, err = r.kind.text(*arg); err != nil {
			return usageError("argument %s: %v", strings.Join(r.flags, "/"), err)
		}
	}
	if r.kind.repeats {
		before, _ := l.values[r.name].([]any)
		v = append(before, v)
	}
	l.values[r.name] = v
	return nil
}

// splitShell splits text into words as a POSIX shell does: quotes and
// backslashes, no expansion.
func splitShell(text string) ([]string, error) {
	var words []string
	var w []byte
	in, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case quote == 0 && strings.IndexByte(" \t\r\n", ch) >= 0:
			if in {
				words = append(words, string(w))
			}
			w, in = w[:0], false
			continue
		case ch == '\\' && quote != '\'':
			if i++; i == len(text) {
				return nil, pyErrorf("No escaped character")
			}
			if quote != 0 && text[i] != '"' && text[i] != '\\' {
				w = append(w, ch)
			}
			w = append(w, text[i])
		case ch == quote:
			quote = 0
		case quote == 0 && (ch == '\'' || ch == '"'):
			quote = ch
		default:
			w = append(w, ch)
		}
		in = true
	}
	if quote != 0 {
		return nil, pyErrorf("No closing quotation")
	}
	if in {
		words = append(words, string(w))
	}
	return words, nil
}
