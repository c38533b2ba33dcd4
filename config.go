package main

// Where the values of settings come from: the one path by which defaults,
// environment, configuration file and flags become checked values. What can be
// set is in the table of settings.go, what kinds of values there are in kind.go,
// and how a command line is read in flag.go.

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
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
	given  map[string]any // checked values that sources gave, by name of the setting
	values []any          // of each row of the table, given or by default
	// The fields of settings repeat values as Go wants them; put alone fills them.

	positional    string // the application named on the command line
	help, version bool   // --help and --version: nothing else was read

	// Facts for workers, which the caller of loadConfig adds.
	startDir   string
	argv       []string
	credential *syscall.Credential // what workers switch to, nil for no change
	// said has what a configuration file says in other ways than by settings, and
	// what could not be sent as the value of a setting (said in wsgi.py).
	said      map[string]any
	logs      bool     // Python makes the logs
	logLevel  logLevel // what the loggers of that Python want to have
	logAccess bool     // those loggers want the access log
	counted   bool     // hooks look at requests, and at their number on a connection

	// Config File, Server Socket
	configFile, wsgiApp string
	bind                []string
	backlog             int

	// Worker Processes
	workers, threads, workerConnections      int
	workerClass                              string
	maxRequests, maxRequestsJitter           int
	maxMemory, wsMaxSize                     int64
	timeout, requestTimeout, gracefulTimeout time.Duration
	keepalive, wsPingInterval, wsPingTimeout time.Duration
	wsPerMessageDeflate                      string
	python                                   string // "" look for one

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
	loggerClass                                    string // "" for a class that was given as an object
	logconfig, logconfigJSON                       string
	syslog, backlogMetric                          bool
	syslogAddr, syslogPrefix, syslogFacility       string
	metrics                                        string
	statsdHost, statsdPrefix, dogstatsdTags        string
	syslogTo, statsdTo                             string // addresses that resolveLogs has found

	// SSL, Process Naming
	certfile, keyfile, caCerts, ciphers string
	certReqs                            int
	suppressRaggedEOFs                  bool
	procName, defaultProcName           string
}

// trustList is a set of peers: every one, or those inside the networks.
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

// startError ends the program with a status; all of its text goes to standard error.
type startError struct {
	status int
	text   string
}

func (e *startError) Error() string { return e.text }

// settingError reports a wrong value of any source but a configuration file.
func settingError(err error) error {
	return &startError{exitFailure, fmt.Sprintf("\nError: %v\n", err)}
}

// bootError reports a value that turns out wrong when the arbiter starts.
func bootError(err error) error {
	return &startError{exitFailure, fmt.Sprintf("\nError: %v\n\n", err)}
}

// plainSentence is the text of an error as a part of another line.
func plainSentence(err error) string {
	return strings.TrimSuffix(strings.TrimPrefix(err.Error(), "gunicorn: "), "\n")
}

// sentence is a start-up error in our own words, where Gunicorn has none or shows a
// traceback.
func sentence(format string, args ...any) error {
	return &startError{exitFailure, "gunicorn: " + fmt.Sprintf(format, args...) + "\n"}
}

// loadConfig reads every source, weakest first: defaults, environment,
// configuration file, GUNICORN_CMD_ARGS, command line. args is argv without
// the program's name, env the environment and dir the directory we were
// started in. eval runs a configuration file, PATH or python:MODULE, and
// returns what read_config does; an error of eval is returned unchanged. The
// settings that eval gets are the early ones and the defaults of the rest.
//
// Any other error is a *startError. Each value that a source gives must be right,
// also where a stronger source has another value.
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
		return nil, settingError(said("No application module specified."))
	}
	if c.checkConfig || c.printConfig {
		return c, nil
	}
	return c, c.checkBoot()
}

// checkBoot checks what Gunicorn does not check before its arbiter starts.
func (c *config) checkBoot() error {
	for _, s := range c.bind {
		if _, err := parseBind(s); err != nil {
			return bootError(err)
		}
	}
	if c.metrics != "" {
		addr, err := parseBind(c.metrics)
		if err == nil && addr.network == "fd" {
			err = said("%s is not an address for metrics.", pyRepr(c.metrics))
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

// fill stores the values of the sources, of which the last to name a setting
// counts, and the defaults of all other settings.
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
	// Defaults come last: some depend on what was given.
	return c.putDefaults(at, func(*setting) bool { return true })
}

// putDefaults stores the defaults of rows that nobody has given a value.
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

// check gives the value of any source its one form.
func (r *setting) check(v any, at *start) (any, error) {
	v, err := r.kind.value(v, at)
	if err == nil && !validText(v) {
		err = fmt.Errorf("not valid UTF-8: %s", pyRepr(v))
	}
	return v, err
}

// put stores a checked value.
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

// parse turns what a user would type into a value to check.
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

// fromFile finds the configuration file, has it run, and takes the variables
// that are settings.
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
	if err := c.hear(globals[saidKey]); err != nil {
		return nil, err
	}
	values := map[string]any{}
	for i := range settings {
		r := &settings[i]
		v, ok := globals[r.name]
		// A class of these packages counts as its name does.
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

// meant tells a value for a setting that is ours from a variable of a file that
// has the setting's name by chance.
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

// fromFlags are the values of command lines, weakest first: of early settings,
// or of the others.
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

// checkSupported refuses what would be ignored in silence.
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

// foreignClass says what is wrong with a worker class that is not made here:
// which class was meant, what kind of workers the class is for, or nothing better.
func (c *config) foreignClass(r *setting) error {
	name, why := c.workerClass, ""
	names := c.bases(r.name)
	if name != "" {
		if meant := nearest(name, r.accepts); meant != "" {
			return sentence("%s: %s is not a worker class; did you mean %s?", r.name, pyRepr(name), meant)
		}
		names = append([]string{name}, names...)
	}
	for i, name := range names {
		what := familyOf(name).what
		switch {
		case what == "":
			continue
		case i == 0:
			why = name + " is a class of workers for " + what + "; "
		default:
			why = names[0] + " is derived from a class of workers for " + what + "; "
		}
		break
	}
	switch {
	case why != "" || len(names) == 0:
	case !strings.ContainsAny(names[0], ".:"): // the name of a class of Python would have one
		return sentence("%s: %s is not a worker class; %s", r.name, pyRepr(name), r.unsupported)
	default:
		why = printable(names[0]) + " is a class of its own, and workers are not made in Python; "
	}
	return sentence("%s: not supported by this server: %s%s", r.name, why, r.unsupported)
}

// nearest is the one of names that a misspelled name probably means, or "": one
// that goes on after the name with a dot, or that differs from the name in one
// place, by at most two letters. Another first letter is no misspelling: wsgi does
// not mean asgi.
func nearest(name string, names []string) (best string) {
	fewest := 3
	for _, other := range names {
		a, b := strings.ToLower(name), strings.ToLower(other)
		if strings.HasPrefix(b, a+".") {
			return other
		}
		replaced := len(a) == len(b) && a[0] != b[0]
		for a != "" && b != "" && a[0] == b[0] {
			a, b = a[1:], b[1:]
		}
		for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
			a, b = a[:len(a)-1], b[:len(b)-1]
		}
		if n := max(len(a), len(b)); n < fewest && !replaced {
			best, fewest = other, n
		}
	}
	return best
}

// familyOf finds the family of a class; it has no name for any other class.
func familyOf(class string) family {
	class = strings.TrimPrefix(class, "egg:gunicorn#")
	for _, f := range families {
		for _, name := range append(strings.Fields(f.classes), f.name) {
			if class == name || strings.HasSuffix(name, ".") && strings.HasPrefix(class, name) {
				return f
			}
		}
	}
	return family{}
}

// family is the kind of workers that there will be: several threads make gthread
// of sync.
func (c *config) family() string {
	name := familyOf(c.workerClass).name
	if name == familySync && c.threads > 1 {
		return familyThread
	}
	return name
}

// className is the worker class as the log has it.
func (c *config) className() string {
	if name := c.family(); familyOf(c.workerClass).name != name {
		return name
	}
	return c.workerClass
}

// concurrency is how many requests a worker runs at once.
func (c *config) concurrency() int {
	switch c.family() {
	case familyThread:
		return max(1, min(c.threads, lanesMax-1))
	case familyGevent, familyEventlet:
		if c.workerConnections > 0 {
			return min(c.workerConnections, lanesMax-1)
		}
		return lanesMax - 1
	case familyASGI:
		return math.MaxInt32 // as many as there are connections
	}
	return 1
}

// warnOfThreads tells of a combination that keeps no connection.
func (c *config) warnOfThreads(log *errorLog) {
	if c.family() == familyThread && c.keepalive > 0 && c.workerConnections > 0 && c.workerConnections <= c.threads {
		log.warningf("No keepalived connections can be handled. Check the number of worker connections and threads.")
	}
}

// saidKey is where read_config puts what is not a setting.
const saidKey = "gunicorn"

// hear keeps what the configuration file has said otherwise than by settings.
func (c *config) hear(v any) error {
	c.said, _ = v.(map[string]any)
	name, ok := c.said["server"].(string)
	if ok && strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return sentence("gunicorn.SERVER: %s is not the value of a header", pyRepr(name))
	}
	return nil
}

// bases are the names of the class that the configuration file gives for a
// setting as an object, and of those it is derived from.
func (c *config) bases(name string) []string {
	classes, _ := c.said["classes"].(map[string]any)
	list, _ := stringsOf(classes[name])
	return list
}

// serverField is the Server field of responses where it is not the usual one.
func (c *config) serverField() string {
	if name, ok := c.said["server"].(string); ok {
		return "Server: " + name
	}
	return ""
}

// empty reports whether a value turns nothing on.
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

// name is what the titles of the processes say.
func (c *config) name() string {
	if c.procName != "" {
		return c.procName
	}
	return c.defaultProcName
}

// change takes settings that a hook has set, checked like any others.
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

// encode writes a marshal dict of every setting by name, and what else a
// worker and its Python want to know.
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
			// Not all of such a dictionary can be expressed: wsgi.py has written
			// the value, or reads the file again.
			b = appendMarshal(b, c.said[settings[i].name])
			continue
		}
		if v == autoWorkers && settings[i].kind == workerCount {
			v = int64(c.workers) // one count for all, and a number for Python
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

// decodeConfig reads what encode wrote. A dict loses its order.
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

// print writes what --print-config shows.
func (c *config) print(w io.Writer) {
	width := 0
	for i := range settings {
		width = max(width, len(settings[i].name))
	}
	c.each(func(name, value string) { fmt.Fprintf(w, "%-*s = %s\n", width, name, value) })
}

// printHelp writes what --help shows: every flag, and no setting without one.
func printHelp(w io.Writer) {
	fmt.Fprint(w, "usage: gunicorn [OPTIONS] [APP_MODULE]\n\noptions:\n")
	for _, o := range options {
		printFlag(w, strings.Join(o.flags, ", "), o.usage)
	}
	section := ""
	for i := range settings {
		r := &settings[i]
		if r.flags == nil {
			continue
		}
		if r.section != section {
			section = r.section
			fmt.Fprintf(w, "\n%s:\n", section)
		}
		argument := ""
		switch {
		case r.kind.optional:
			argument = " [" + r.meta + "]"
		case r.meta != "":
			argument = " " + r.meta
		}
		usage := r.usage + " [" + r.def + "]"
		if r.unsupported != "" && r.accepts == nil {
			usage = "(not supported) " + r.unsupported
		}
		printFlag(w, strings.Join(r.flags, argument+", ")+argument, usage)
	}
}

// printFlag writes flags in one column and their usage in another.
func printFlag(w io.Writer, flags, usage string) {
	const column, width = 24, 78
	line := "  " + flags
	if len(line) > column-2 {
		fmt.Fprintln(w, line)
		line = ""
	}
	line += strings.Repeat(" ", column-len(line))
	for i, word := range strings.Split(usage, " ") {
		if i > 0 && len(line)+1+len(word) > width {
			fmt.Fprintln(w, line)
			line = strings.Repeat(" ", column)
		} else if i > 0 {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(w, line)
}
