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
	values []any          // checked value of each row of the table, given or default

	positional    string // the application named on the command line
	help, version bool   // --help or --version was given; no setting was read

	// Facts for workers, which the caller of loadConfig adds.
	startDir   string
	argv       []string
	credential *syscall.Credential // user and groups of the workers, nil for ours

	// said holds what a configuration file says other than by settings, and values
	// of settings that marshal cannot express (said in wsgi.py).
	said      map[string]any
	logs      bool     // Python makes the logs
	logLevel  logLevel // lowest level that Python's loggers accept
	logAccess bool     // Python's loggers accept access records
	counted   bool     // a hook sees requests, and their number on the connection

	// The fields below are the values of settings in Go's types; put alone fills
	// them, by the table's field functions.

	// Config File, Server Socket
	configFile, wsgiApp string
	bind                []string
	backlog             int

	// Worker Processes
	workers, threads, workerConnections      int
	workerClass                              string
	maxRequests, maxRequestsJitter           int
	maxMemory, wsMaxSize                     int64
	wsMaxMessage                             int
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

	// Debugging
	reload, spew, checkConfig, printConfig bool
	reloadEngine                           string // auto, poll, inotify
	reloadExtraFiles                       []string
	status                                 string // off, table, json

	// Server Mechanics
	sendfile, reusePort, preloadApp, daemon bool // sendfile: false with --no-sendfile
	chdir, pidfile, pythonpath              string
	rawEnv                                  []string
	user, group, umask                      int
	initgroups                              bool
	secureSchemeHeaders                     map[string]string
	forwardedAllowIPs, proxyAllowIPs        trustList
	proxyProtocol                           string // off, v1, v2, auto
	forwarderHeaders                        []string
	headerMap                               string // drop, refuse, dangerous

	permitObsoleteFolding, stripHeaderSpaces                        bool
	permitUnconventionalHTTPMethod, permitUnconventionalHTTPVersion bool
	casefoldHTTPMethod                                              bool

	// Logging
	accesslog, accessLogFormat, errorlog, loglevel string
	captureOutput, enableStdioInheritance          bool
	accessLogJSON, accessOffSyslog                 bool
	loggerClass                                    string // "" if given as a class object
	logconfig, logconfigJSON                       string
	syslog, backlogMetric                          bool
	syslogAddr, syslogPrefix, syslogFacility       string
	metrics                                        string
	statsdHost, statsdPrefix, dogstatsdTags        string
	syslogTo, statsdTo                             string // addresses found by resolveLogs

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
	if t.all {
		return true
	}
	addr = addr.Unmap()
	for _, n := range t.nets {
		if n.Contains(addr) {
			return true
		}
	}
	return false
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
	line, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	if line.stop != nil {
		return line.stopped(), nil
	}
	at := &start{dir: dir, env: env, app: line.app}
	text, _ := at.lookup("GUNICORN_CMD_ARGS")
	extra, err := splitShell(text)
	if err != nil {
		return nil, settingError(err)
	}
	more, err := parseFlags(extra)
	if err != nil {
		return nil, err
	}
	if more.stop != nil {
		return more.stopped(), nil
	}

	environment, err := fromEnvironment(at)
	if err != nil {
		return nil, err
	}
	flags := []*flagValues{more, line}
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
	late, err := fromFlags(flags, at, false)
	if err != nil {
		return nil, err
	}
	if err := c.fill(at, environment, file, early, late); err != nil {
		return nil, err
	}
	if err := c.checkSupported(at); err != nil {
		return nil, err
	}
	c.logs = c.logsInPython()
	if c.status != "off" {
		return c, nil
	}
	if c.app() == "" {
		return nil, settingError(pyErrorf("No application module specified."))
	}
	if c.checkConfig || c.printConfig {
		return c, nil
	}
	return c, c.checkBoot()
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
	return c.checkTLS()
}

// fill stores the values of the sources, and the defaults of settings that no
// source gives. The last source that gives a setting counts.
func (c *config) fill(at *start, sources ...map[string]any) error {
	c.given, c.values = map[string]any{}, make([]any, len(settings))
	for _, source := range sources {
		maps.Copy(c.given, source)
	}
	for i := range settings {
		if v, ok := c.given[settings[i].name]; ok {
			c.put(i, v)
		}
	}
	// Defaults come last because some depend on other settings.
	return c.putDefaults(at, func(*setting) bool { return true })
}

// putDefaults stores the defaults of the rows that which accepts and that no
// source has given.
func (c *config) putDefaults(at *start, which func(r *setting) bool) error {
	for i := range settings {
		r := &settings[i]
		if _, ok := c.given[r.name]; ok || !which(r) {
			continue
		}
		v, err := c.defaultOf(r, at)
		if err != nil {
			return sentence("default of %s: %v", r.name, err)
		}
		c.put(i, v)
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

// put stores a checked value. It returns false if the value does not fit the
// setting's field, which may happen when another process sent the value.
func (c *config) put(i int, v any) bool {
	c.values[i] = v
	if settings[i].field == nil {
		return true
	}
	put := settings[i].kind.store
	if put == nil {
		put = store
	}
	return put(settings[i].field(c), v)
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
	for i := range settings {
		r := &settings[i]
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
	module := strings.HasPrefix(spec, "python:")
	if spec == "" {
		spec = at.path("gunicorn.conf.py")
		if _, err := os.Stat(spec); err != nil {
			return nil, nil
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
	values := map[string]any{}
	for i := range settings {
		r := &settings[i]
		v, ok := globals[r.name]
		// A class object of these packages counts like the class's name.
		if bases := c.bases(r.name); len(bases) > 0 && (strings.HasPrefix(bases[0], "gunicorn.") || strings.HasPrefix(bases[0], "uvicorn")) {
			v = bases[0]
		}
		if !ok || r.flagOnly || r.ours && !r.meant(v) {
			continue
		}
		v = fromPython(v)
		if values[r.name], err = r.check(v, at); err != nil {
			return nil, &startError{exitFailure, fmt.Sprintf("Invalid value for %s: %s\n\n\nError: %v\n", r.name, pyStr(v), err)}
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
	case int64:
		_, err := r.kind.value(int64(0), nil)
		return err == nil
	}
	return false
}

// fromFlags returns the checked values of command lines, given weakest first:
// either of the early settings or of the others.
func fromFlags(lines []*flagValues, at *start, early bool) (map[string]any, error) {
	values := map[string]any{}
	for _, line := range lines {
		for i := range settings {
			r := &settings[i]
			v, ok := line.values[r.name]
			if !ok || r.early != early {
				continue
			}
			var err error
			if values[r.name], err = r.check(v, at); err != nil {
				return nil, settingError(err)
			}
		}
	}
	return values, nil
}

// checkSupported refuses settings that would otherwise be ignored silently.
func (c *config) checkSupported(at *start) error {
	for i := range settings {
		r := &settings[i]
		v, given := c.given[r.name]
		if r.unsupported == "" || !given || r.accepts == nil && empty(v) {
			continue
		}
		if standard, _ := c.defaultOf(r, at); reflect.DeepEqual(v, standard) {
			continue
		}
		if slices.ContainsFunc(r.accepts, func(text string) bool { return v == any(text) }) {
			continue
		}
		if r.accepts != nil {
			return c.foreignClass(r)
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
	return nil
}

// bases returns the names of a class that the configuration file gives as an
// object for a setting, followed by the names of its base classes.
func (c *config) bases(name string) []string {
	classes, _ := c.said["classes"].(map[string]any)
	list, _ := stringsOf(classes[name])
	return list
}

// serverField is the Server field of responses, or "" for the default.
func (c *config) serverField() string {
	if name, ok := c.said["server"].(string); ok {
		return "Server: " + name
	}
	return ""
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

// app is the application as MODULE:OBJECT.
func (c *config) app() string {
	if c.positional != "" {
		return c.positional
	}
	return c.wsgiApp
}

// name is the server's name in the titles of its processes.
func (c *config) name() string {
	if c.procName != "" {
		return c.procName
	}
	return c.defaultProcName
}

// change stores settings that a hook has set, after the usual checks.
func (c *config) change(changed map[string]any) error {
	at := &start{dir: c.startDir, env: os.Environ(), app: c.positional}
	for i := range settings {
		r := &settings[i]
		v, ok := changed[r.name]
		if !ok {
			continue
		}
		v, err := r.check(fromPython(v), at)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		c.given[r.name] = v
		c.put(i, v)
	}
	if err := c.putDefaults(at, func(r *setting) bool { return r.derived != nil }); err != nil {
		return err
	}
	return c.checkBoot()
}

// encode returns a marshal dict of every setting by name, and of the other facts
// that a worker and its Python need.
func (c *config) encode() []byte {
	b := []byte{marshalDict}
	for _, e := range (dict{
		{"app", c.app()}, {"start_dir", c.startDir}, {"argv", c.argv}, {"interpreter", c.python}, {"family", c.family()},
		{"syslog_to", c.syslogTo}, {"statsd_to", c.statsdTo}, {"credential", credentialList(c.credential)},
		{"hooks", slices.Sorted(maps.Keys(c.hooks()))}, {"said", c.said},
		{"logs", c.logs}, {"log_level", int64(c.logLevel)}, {"log_access", c.logAccess},
	}) {
		b = appendMarshal(appendMarshal(b, e.key), e.value)
	}
	for i, v := range c.values {
		b = appendMarshalText(b, settings[i].name)
		if d, ok := v.(dict); ok && settings[i].kind == anyDict && len(d) > 0 {
			// Marshal cannot express every value of such a dictionary: wsgi.py has
			// stored the value in said, or reads the file again.
			b = appendMarshal(b, c.said[settings[i].name])
			continue
		}
		if v == autoWorkers && settings[i].kind == workerCount {
			v = int64(c.workers) // Python expects a number, and the CPUs may change
		}
		switch v := v.(type) {
		case callable:
			b = append(b, marshalNone)
		case address:
			b = appendMarshalText(b, v.String())
		case dict:
			b = append(b, marshalDict)
			for _, e := range v {
				b = appendMarshal(appendMarshal(b, e.key), e.value)
			}
			b = append(b, marshalDictEnd)
		default:
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
	c := &config{values: make([]any, len(settings))}
	for i := range settings {
		name := settings[i].name
		v, ok := all[name]
		if m, isDict := v.(map[string]any); isDict {
			d := dict{}
			for key, e := range m {
				d = append(d, item{key, e})
			}
			v = d
		}
		if settings[i].kind == statsdAddr {
			v, _ = statsdAddr.value(v, nil)
		}
		if !ok || !c.put(i, v) {
			return nil, fmt.Errorf("settings: %s: %w", name, errMarshal)
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
	c.logLevel = logLevel(level)
	c.logAccess, _ = all["log_access"].(bool)
	return c, nil
}

// each calls f with every setting, sorted by name, and its value as Python
// prints it.
func (c *config) each(f func(name, value string)) {
	values := map[string]any{}
	for i, v := range c.values {
		values[settings[i].name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f(name, pyStr(values[name]))
	}
}

// print writes the output of --print-config.
func (c *config) print(w io.Writer) {
	width := 0
	for i := range settings {
		width = max(width, len(settings[i].name))
	}
	c.each(func(name, value string) { fmt.Fprintf(w, "%-*s = %s\n", width, name, value) })
}

// Command line --------------------------------------------------------------
//
// The command line is read as Python's argparse does, because scripts depend on
// argparse's habits: options and positionals in any order, arguments attached
// or separate, short flags joined, prefixes of long flags, and the messages.

// options are the flags that are not settings. Parsing stops at an option that
// has a field. --man has none, because runCommand handles --man itself.
var options = []option{
	{[]string{"-h", "--help"}, "show this help and exit", func(c *config) *bool { return &c.help }},
	{[]string{"-v", "--version"}, "show the version and exit", func(c *config) *bool { return &c.version }},
	{[]string{"--man"}, "show the source of the manual and exit", nil},
}

type option struct {
	flags []string
	usage string
	field func(c *config) *bool
}

func usageError(format string, args ...any) error {
	return &startError{exitUsage, "usage: gunicorn [OPTIONS] [APP_MODULE]\ngunicorn: error: " + fmt.Sprintf(format, args...) + "\n"}
}

// flagValues is the content of one command line.
type flagValues struct {
	app    string         // first positional argument
	stop   *option        // option at which parsing stopped, nil for none
	values map[string]any // values by name of the setting, parsed but not checked
}

// stopped returns settings that hold nothing but the option stop.
func (f *flagValues) stopped() *config {
	c := &config{}
	*f.stop.field(c) = true
	return c
}

func (f *flagValues) configFile() string {
	spec, _ := f.values["config"].(string)
	return strip(spec)
}

// word is one argument of a command line after recognise has classified it.
type word struct {
	text   string
	isFlag bool    // the word is a flag, known or not
	end    bool    // the word is the first --
	flag   string  // full name of the flag, "" if unknown
	joined *string // argument in the same word, nil without one
}

// flagParser parses one command line. As with argparse, only the first group of
// positionals counts; positionals after a later flag are errors.
type flagParser struct {
	flags map[string]flagRow
	order []string // keys of flags, in the order of the table
	words []word
	out   *flagValues
}

// flagRow is the setting or the option that a flag belongs to.
type flagRow struct {
	names string   // all flags of the setting or option, for messages
	row   *setting // nil for an option
	stop  *option  // nil for a setting
}

func parseFlags(args []string) (*flagValues, error) {
	p := &flagParser{flags: map[string]flagRow{}, out: &flagValues{values: map[string]any{}}}
	add := func(flags []string, r flagRow) {
		r.names = strings.Join(flags, "/")
		for _, f := range flags {
			p.flags[f] = r
			p.order = append(p.order, f)
		}
	}
	for i := range options {
		if options[i].field != nil {
			add(options[i].flags, flagRow{stop: &options[i]})
		}
	}
	for i := range settings {
		add(settings[i].flags, flagRow{row: &settings[i]})
	}
	if err := p.recognise(args); err != nil {
		return nil, err
	}
	return p.out, p.parse()
}

func (p *flagParser) known(flag string) bool { return p.flags[flag].names != "" }

// recognise decides which arguments are flags, before any flag is evaluated.
func (p *flagParser) recognise(args []string) error {
	for i, arg := range args {
		if !utf8.ValidString(arg) {
			return sentence("%q is not valid UTF-8", arg)
		}
		if arg == "--" {
			p.words = append(p.words, word{text: arg, end: true})
			for _, rest := range args[i+1:] {
				p.words = append(p.words, word{text: rest})
			}
			return nil
		}
		w, err := p.flagOf(arg)
		if err != nil {
			return err
		}
		p.words = append(p.words, w)
	}
	return nil
}

func (p *flagParser) flagOf(arg string) (word, error) {
	w := word{text: arg, isFlag: true}
	if len(arg) < 2 || arg[0] != '-' {
		w.isFlag = false
		return w, nil
	}
	name, value, hasValue := strings.Cut(arg, "=")
	if p.known(arg) {
		w.flag = arg
		return w, nil
	}
	if hasValue {
		w.joined = &value
	}
	if p.known(name) {
		w.flag = name
		return w, nil
	}
	if arg[1] != '-' {
		if p.known(arg[:2]) {
			rest := arg[2:]
			w.flag, w.joined = arg[:2], &rest
			return w, nil
		}
	} else {
		var matches []string
		for _, f := range p.order {
			if strings.HasPrefix(f, name) {
				matches = append(matches, f)
			}
		}
		if len(matches) > 1 {
			return w, usageError("ambiguous option: %s could match %s", arg, strings.Join(matches, ", "))
		}
		if len(matches) == 1 {
			w.flag = matches[0]
			return w, nil
		}
	}
	w.isFlag = !negativeNumber(arg) && !strings.Contains(arg, " ")
	w.joined = nil
	return w, nil
}

// negativeNumber reports whether an argument is a number such as -5, not a flag.
func negativeNumber(s string) bool {
	whole, fraction, dot := strings.Cut(s[1:], ".")
	if dot && fraction == "" || !dot && whole == "" {
		return false
	}
	return strings.Trim(whole+fraction, "0123456789") == ""
}

func (p *flagParser) parse() error {
	var unknown []string
	seen := false
	for i := 0; i < len(p.words) && p.out.stop == nil; {
		switch {
		case p.words[i].isFlag && p.words[i].flag == "":
			unknown = append(unknown, p.words[i].text)
			i++
		case p.words[i].isFlag:
			next, err := p.flag(i)
			if err != nil {
				return err
			}
			i = next
		default:
			var group []string
			first := ""
			for found := false; i < len(p.words) && !p.words[i].isFlag; i++ {
				if group = append(group, p.words[i].text); !p.words[i].end && !found {
					first, found = p.words[i].text, true
				}
			}
			if !seen {
				p.out.app, seen = first, true
			} else {
				unknown = append(unknown, group...)
			}
		}
	}
	if unknown != nil && p.out.stop == nil {
		return usageError("unrecognized arguments: %s", strings.Join(unknown, " "))
	}
	return nil
}

// flag evaluates the flag at word i, the short flags joined to it, and its
// argument. It returns the index of the next word.
func (p *flagParser) flag(i int) (int, error) {
	name, joined := p.words[i].flag, p.words[i].joined
	i++
	var alone []string
	for joined != nil && p.takesNone(name) {
		if *joined == "" || name[1] == '-' || !p.known("-"+(*joined)[:1]) {
			return 0, usageError("argument %s: ignored explicit argument %s", p.flags[name].names, pyRepr(*joined))
		}
		alone = append(alone, name)
		name = "-" + (*joined)[:1]
		if rest := (*joined)[1:]; rest != "" {
			joined = &rest
		} else {
			joined = nil
		}
	}
	if joined == nil && !p.takesNone(name) {
		switch r := p.flags[name].row; {
		case i < len(p.words) && !p.words[i].isFlag && !p.words[i].end:
			joined = &p.words[i].text
			i++
		case !r.kind.optional:
			return 0, usageError("argument %s: expected one argument", p.flags[name].names)
		}
	}
	for _, f := range alone {
		if err := p.take(f, nil); err != nil || p.out.stop != nil {
			return i, err
		}
	}
	return i, p.take(name, joined)
}

func (p *flagParser) takesNone(flag string) bool {
	r := p.flags[flag].row
	return r == nil || r.kind.alone != nil && !r.kind.optional
}

// take stores the value of one flag.
func (p *flagParser) take(flag string, arg *string) error {
	r := p.flags[flag].row
	if p.out.stop = p.flags[flag].stop; p.out.stop != nil {
		return nil
	}
	if arg == nil {
		p.out.values[r.name] = r.kind.alone
		return nil
	}
	var v any = *arg
	if r.kind.text != nil {
		var err error
		if v, err = r.kind.text(*arg); err != nil {
			return usageError("argument %s: %v", p.flags[flag].names, err)
		}
	}
	if r.kind.repeats {
		before, _ := p.out.values[r.name].([]any)
		v = append(before, v)
	}
	p.out.values[r.name] = v
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
