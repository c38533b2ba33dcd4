package main

// The settings: one table, and the one path by which defaults, environment,
// configuration file and flags become a checked value. Whoever wants to know
// what can be set, how, and what it means reads the table; the functions below
// it only walk it. What kinds of values there are is in kind.go, and how a
// command line is read in flag.go.

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// config is one validated set of settings. The table in this file is the only
// code that fills it.
type config struct {
	values     []any  // one for each row of the table, as its kind keeps it
	positional string // the application named on the command line

	help, version bool // --help and --version: nothing else was read

	// What the caller adds, and the workers want to know.
	startDir string
	argv     []string
	bridge   *os.File // wsgi.py as python wants it, for all of its kind
	mold     *mold    // which ran the configuration file, if it is still needed
	// credential is what workers switch to, nil for no change.
	credential *syscall.Credential
	// said is what a configuration file has said otherwise than by settings,
	// or could not be sent as their values (said in wsgi.py).
	said      map[string]any
	logger    *logger  // the arbiter's, where Python makes the logs
	logs      bool     // it does
	logLevel  logLevel // what it wants to have
	logAccess bool
	counted   bool   // hooks look at requests, and at their number on a connection
	vault     *vault // the arbiter's, with TLS

	// Config File
	configFile string
	wsgiApp    string

	// Server Socket
	bind    []string
	backlog int

	// Worker Processes
	workers           int
	workerClass       string
	threads           int
	workerConnections int
	maxRequests       int
	maxRequestsJitter int
	maxMemory         int64 // ours
	timeout           time.Duration
	requestTimeout    time.Duration // ours
	wsMaxSize         int64         // ours, and so are those that follow
	wsPingInterval    time.Duration
	wsPingTimeout     time.Duration

	wsPerMessageDeflate string

	gracefulTimeout time.Duration
	keepalive       time.Duration
	python          string // ours: --python PATH; "" look for one

	// Security
	limitRequestLine      int
	limitRequestFields    int
	limitRequestFieldSize int
	limitRequestBody      int64 // ours

	// Slow Clients, ours
	clientHeaderTimeout time.Duration
	clientBodyTimeout   time.Duration
	clientSendTimeout   time.Duration
	clientMinRate       int

	// Debugging
	reload           bool
	reloadEngine     string // auto, poll, inotify
	reloadExtraFiles []string
	spew             bool
	checkConfig      bool
	status           string // ours: off, table, json
	printConfig      bool

	// Server Mechanics
	sendfile            bool // effective value: false with --no-sendfile
	reusePort           bool
	chdir               string
	rawEnv              []string
	pidfile             string
	preloadApp          bool
	daemon              bool
	user                int
	group               int
	initgroups          bool
	umask               int
	secureSchemeHeaders map[string]string
	forwardedAllowIPs   trustList
	proxyProtocol       string // off, v1, v2, auto
	proxyAllowIPs       trustList
	pythonpath          string

	permitObsoleteFolding           bool
	stripHeaderSpaces               bool
	permitUnconventionalHTTPMethod  bool
	permitUnconventionalHTTPVersion bool
	casefoldHTTPMethod              bool
	forwarderHeaders                []string
	headerMap                       string // drop, refuse, dangerous

	// Logging
	accesslog              string
	accessLogFormat        string
	errorlog               string
	captureOutput          bool
	enableStdioInheritance bool
	loglevel               string
	loggerClass            string // "" for one that was given as an object
	logconfig              string
	logconfigJSON          string

	accessLogJSON   bool // ours
	syslog          bool
	syslogAddr      string
	syslogPrefix    string
	syslogFacility  string
	accessOffSyslog bool
	metrics         string // ours
	statsdHost      string
	statsdPrefix    string
	dogstatsdTags   string
	backlogMetric   bool
	syslogTo        string // as resolveLogs has found them
	statsdTo        string

	// SSL
	keyfile            string
	certfile           string
	certReqs           int
	caCerts            string
	suppressRaggedEOFs bool
	ciphers            string

	// Process Naming
	procName        string
	defaultProcName string
}

// trustList is a set of peers: every one, or those inside the networks.
type trustList struct {
	all  bool
	nets []netip.Prefix
}

// has says whether addr is trusted. An IPv4 address inside IPv6 counts as IPv4.
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

// setting is a row of the table: all that flags, environment, configuration
// file, --help, --print-config, the manual and their tests know of it.
type setting struct {
	name    string   // key of a configuration file
	flags   []string // none: configuration file only
	meta    string   // argument of the flags
	section string
	kind    *kind
	def     string // as a user would type it, or none
	usage   string // one line of help
	doc     string // what else there is to say: units, bounds, zero

	// computed gives a default that depends on how the server was started;
	// def then describes it.
	computed func(s *start) string

	env     string                   // variable that replaces the default
	envText func(text string) string // what its text means, as a user would type it

	// early settings decide how the file is read: their flags count before it
	// too. ours are unknown to Gunicorn, so that another variable of a file may
	// have the name: only text and truth are taken for a value.
	early, ours bool

	// flagOnly settings mean nothing in the file.
	flagOnly bool

	// unsupported says what to do instead. Any value is then refused but the
	// default, an empty one, or one that accepts lists.
	unsupported string
	accepts     []string

	field func(c *config) any
}

// none is the default of a setting that has none.
const none = "None"

// start is what defaults and relative paths depend on.
type start struct {
	dir string
	env []string
	app string // the application named on the command line
}

// lookup finds a variable in the environment we were started with.
func (s *start) lookup(name string) (string, bool) {
	for _, e := range s.env {
		if key, value, ok := strings.Cut(e, "="); ok && key == name {
			return value, true
		}
	}
	return "", false
}

// What to do instead, where several rows give the same answer.
const (
	onlyHTTP1   = "only HTTP/1.1 is served; let a proxy in front speak HTTP/2"
	noContext   = "a context of Python is of no use to this server; see the settings of the section SSL"
	noPaste     = "name the application as MODULE:OBJECT"
	noUWSGI     = "let the proxy speak HTTP, as proxy_pass of nginx does"
	noControl   = "control the server with signals"
	noDirty     = "there are no dirty arbiters; use a task queue"
	harmless    = "Accepted so that existing configurations work, and without meaning here: "
	controlPath = "gunicorn.ctl below XDG_RUNTIME_DIR or ~/.gunicorn"
)

// settings is the table, in the order of --help.
var settings = []setting{
	{
		name:     "config",
		flags:    []string{"-c", "--config"},
		meta:     "CONFIG",
		section:  "Config File",
		kind:     textKind,
		def:      "./gunicorn.conf.py",
		early:    true,
		flagOnly: true,
		usage:    "configuration file: PATH, file:PATH or python:MODULE",
		doc: `It is a Python program whose variables are the settings.
A path counts from the directory the server was started in, whatever chdir says.
In the file itself this has no effect.
The default file need not exist; one that is named must.`,
		field: func(c *config) any { return &c.configFile },
	},
	{
		name:    "wsgi_app",
		section: "Config File",
		kind:    textKind,
		def:     none,
		usage:   "application as MODULE:OBJECT",
		doc:     `An application named on the command line goes before it.`,
		field:   func(c *config) any { return &c.wsgiApp },
	},
	{
		name:    "bind",
		flags:   []string{"-b", "--bind"},
		meta:    "ADDRESS",
		section: "Server Socket",
		kind:    list,
		def:     "127.0.0.1:8000",
		env:     "PORT",
		envText: func(port string) string { return "0.0.0.0:" + port },
		usage:   "address to listen on; repeat it for several",
		doc: `One of HOST, HOST:PORT, :PORT, [IPV6]:PORT, tcp://HOST:PORT, unix:PATH or fd://NUMBER.
Without a port it is 8000, and without a host every IPv4 address.
PORT in the environment stands for 0.0.0.0 and that port.`,
		field: func(c *config) any { return &c.bind },
	},
	{
		name:    "backlog",
		flags:   []string{"--backlog"},
		meta:    "INT",
		section: "Server Socket",
		kind:    posInt,
		def:     "2048",
		usage:   "connections that may wait to be accepted",
		doc: `It is the argument of listen(2), for each listener.
The kernel caps it at net.core.somaxconn.`,
		field: func(c *config) any { return &c.backlog },
	},
	{
		name:    "workers",
		flags:   []string{"-w", "--workers"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    workerCount,
		def:     "1",
		env:     "WEB_CONCURRENCY",
		usage:   "number of worker processes, or auto",
		doc: `With sync each runs one request at a time; a busy host usually wants two to four for each core.
auto is one for each CPU that the server may use: by its affinity, and by the quota of its control group, of which a part of a CPU counts as one.
Waiting for a database needs more workers than that.
TTIN and TTOU change the number at run time and HUP restores it.
With 0 the arbiter runs alone.`,
		field: func(c *config) any { return &c.workers },
	},
	{
		name:        "worker_class",
		flags:       []string{"-k", "--worker-class"},
		meta:        "STRING",
		section:     "Worker Processes",
		kind:        class,
		def:         "sync",
		accepts:     ownClasses,
		unsupported: "the classes are sync, gthread, gevent, eventlet and asgi",
		usage:       "kind of workers: sync, gthread, gevent, eventlet or asgi",
		doc: `sync runs one request at a time, gthread as many as --threads says, gevent and eventlet as many as --worker-connections says, each in a greenlet; these two want the package of that name, and change the standard library by it before the application is imported.
asgi is for ASGI applications, and runs as many requests as come; uvicorn.workers.UvicornWorker and uvicorn_worker.UvicornWorker are names of it, under which a trusted proxy's X-Forwarded-For says who the client is, too.
In every class a worker holds many connections, so that neither slow clients nor idle ones keep it from working.
Gunicorn's names of these classes mean the same: gunicorn.workers.ggevent.GeventWorker, gevent_pywsgi, egg:gunicorn#gthread and the like.`,
		field: func(c *config) any { return &c.workerClass },
	},
	{
		name:    "threads",
		flags:   []string{"--threads"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    posInt,
		def:     "1",
		usage:   "threads of each worker, for gthread",
		doc: `More than one makes gthread of sync.
They are started when requests need them.
0 means 1.`,
		field: func(c *config) any { return &c.threads },
	},
	{
		name:    "worker_connections",
		flags:   []string{"--worker-connections"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    posInt,
		def:     "1000",
		usage:   "connections that one worker holds at once",
		doc: `Idle ones count, and make way: when there are so many, each new one closes the one that has been idle for longest, or without one the oldest on which half a request came more than a second ago, and waits to be accepted if there is none.
With gevent and eventlet it is also the number of requests that run at once.
With asgi the default is no limit.
0 is no limit but that of open files, which bounds them in any case.`,
		field: func(c *config) any { return &c.workerConnections },
	},
	{
		name:    "max_requests",
		flags:   []string{"--max-requests"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    posInt,
		def:     "0",
		usage:   "requests after which a worker is replaced",
		doc: `This limits what a leak of memory can do.
0 never replaces one.`,
		field: func(c *config) any { return &c.maxRequests },
	},
	{
		name:    "max_memory",
		flags:   []string{"--max-memory"},
		meta:    "SIZE",
		section: "Worker Processes",
		kind:    byteSize,
		def:     "0",
		ours:    true,
		usage:   "memory a Python may have before its worker is replaced",
		doc: `A number of bytes, as 512M; K, M and G are powers of 1024.
Once a second the resident memory of the Python is looked at, that which it shares with others included.
The worker goes when another has booted in its place, and no request is interrupted.
0 is no limit.`,
		field: func(c *config) any { return &c.maxMemory },
	},
	{
		name:    "max_requests_jitter",
		flags:   []string{"--max-requests-jitter"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    posInt,
		def:     "0",
		usage:   "most that chance adds to max_requests",
		doc: `Each worker adds a number from 0 to this, so that not all are replaced at once.
Without max_requests it means nothing.`,
		field: func(c *config) any { return &c.maxRequestsJitter },
	},
	{
		name:    "timeout",
		flags:   []string{"-t", "--timeout"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    seconds,
		def:     "30",
		usage:   "seconds a worker may be stuck before it is killed and replaced",
		doc: `With sync, a request that runs for longer in the application counts as stuck; a client that is slow to send or to read does not.
With the other classes requests may run for longer, and the worker is stuck when its Python has not run another thread or greenlet for so long.
0 waits for ever.`,
		field: func(c *config) any { return &c.timeout },
	},
	{
		name:    "request_timeout",
		flags:   []string{"--request-timeout"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    seconds,
		def:     "0",
		ours:    true,
		usage:   "seconds that one request may run in the application",
		doc: `A request that runs for longer is answered 504; the log has the request and the stack of every thread.
With asgi that is the time until the response begins, and the request's task is cancelled.
Otherwise, since a thread cannot be ended alone, the worker then finishes its other requests and is replaced.
0 is no limit; with sync the smaller of this and --timeout counts.`,
		field: func(c *config) any { return &c.requestTimeout },
	},
	{
		name:    "graceful_timeout",
		flags:   []string{"--graceful-timeout"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    seconds,
		def:     "30",
		usage:   "seconds that requests get to finish in when the server stops",
		doc: `Workers that still run then are killed.
0 gives them no time.
Workers that a reload replaces have as long as --timeout lets them.
With asgi this counts for these too: what has not ended by then is told to, and WebSockets are closed with code 1012, or 1001 when the server stops.`,
		field: func(c *config) any { return &c.gracefulTimeout },
	},
	{
		name:    "keepalive",
		flags:   []string{"--keep-alive"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    seconds,
		def:     "2",
		usage:   "seconds an idle connection stays open for the next request",
		doc: `A server behind a proxy wants more than the proxy's own limit.
0 closes each connection after its response.`,
		field: func(c *config) any { return &c.keepalive },
	},
	{
		name:    "limit_request_line",
		flags:   []string{"--limit-request-line"},
		meta:    "INT",
		section: "Security",
		kind:    posInt,
		def:     "4094",
		usage:   "longest request line in bytes",
		doc: `It counts without the line's end.
More than 8190 means 8190, and 0 sets no limit but the size of the buffer.`,
		field: func(c *config) any { return &c.limitRequestLine },
	},
	{
		name:    "limit_request_fields",
		flags:   []string{"--limit-request-fields"},
		meta:    "INT",
		section: "Security",
		kind:    posInt,
		def:     "100",
		usage:   "most header fields of a request",
		doc:     `More than 32768, or 0, means 32768.`,
		field:   func(c *config) any { return &c.limitRequestFields },
	},
	{
		name:    "limit_request_field_size",
		flags:   []string{"--limit-request-field_size"},
		meta:    "INT",
		section: "Security",
		kind:    posInt,
		def:     "8190",
		usage:   "longest header field in bytes",
		doc: `It counts name, colon, value and the line's end.
With 0 only limit_request_fields times 8190 bytes bound the whole head.`,
		field: func(c *config) any { return &c.limitRequestFieldSize },
	},
	{
		name:    "limit_request_body",
		flags:   []string{"--limit-request-body"},
		meta:    "INT",
		section: "Security",
		kind:    byteCount,
		def:     "0",
		usage:   "longest request body in bytes",
		doc: `A request that announces more gets 413 before its body is read; one in chunks gets it when more has come, unless the response has begun by then, and wsgi.input raises an OSError.
0 sets no limit.`,
		field: func(c *config) any { return &c.limitRequestBody },
	},
	{
		name:    "client_header_timeout",
		flags:   []string{"--client-header-timeout"},
		meta:    "INT",
		section: "Slow Clients",
		kind:    seconds,
		def:     "30",
		usage:   "seconds a client has for the whole head of a request",
		doc: `They count from its first byte; a new connection has as long to send that.
Who has begun a request gets 408.
0 sets no limit.`,
		field: func(c *config) any { return &c.clientHeaderTimeout },
	},
	{
		name:    "client_body_timeout",
		flags:   []string{"--client-body-timeout"},
		meta:    "INT",
		section: "Slow Clients",
		kind:    seconds,
		def:     "30",
		usage:   "seconds a client may send nothing of a request's body",
		doc: `Only time counts in which the server waits for the client.
The client gets 408, unless the response has begun, and wsgi.input raises a TimeoutError.
0 sets no limit, whatever client_min_rate says.`,
		field: func(c *config) any { return &c.clientBodyTimeout },
	},
	{
		name:    "client_send_timeout",
		flags:   []string{"--client-send-timeout"},
		meta:    "INT",
		section: "Slow Clients",
		kind:    seconds,
		def:     "60",
		usage:   "seconds a client may take nothing of its response",
		doc: `Only time counts in which the server waits for the client.
The connection is closed.
0 sets no limit, whatever client_min_rate says.`,
		field: func(c *config) any { return &c.clientSendTimeout },
	},
	{
		name:    "client_min_rate",
		flags:   []string{"--client-min-rate"},
		meta:    "INT",
		section: "Slow Clients",
		kind:    posInt,
		def:     "500",
		usage:   "bytes a second that a client must send of a body, or take of a response",
		doc: `A client may be slow now and then: so many bytes make up for a second of waiting, and only what is not made up for counts against client_body_timeout, or client_send_timeout.
With 0 a single byte makes up for all.`,
		field: func(c *config) any { return &c.clientMinRate },
	},
	{
		name:    "reload",
		flags:   []string{"--reload"},
		section: "Debugging",
		kind:    boolean,
		def:     "False",
		usage:   "restart workers when the code changes",
		doc: `For development.
Every worker watches the files of the modules that its application has loaded, and leaves for a fresh one when one of them changes; what runs is finished.
An application that cannot be loaded does not stop the server: every request is answered with status 500 and the traceback until a file changes, which may be the broken one.
Code that was loaded by preload_app stays as it is.`,
		field: func(c *config) any { return &c.reload },
	},
	{
		name:    "reload_engine",
		flags:   []string{"--reload-engine"},
		meta:    "STRING",
		section: "Debugging",
		kind:    choice("Invalid reload_engine: '%s'", "", "auto", "poll", "inotify"),
		def:     "auto",
		usage:   "how reload watches files: auto, poll or inotify",
		doc: `With poll each file is looked at once a second.
With inotify, and auto, the kernel tells of a change at once; where it does not tell, as for files on a network or shared by a virtual machine's host, take poll.
If the kernel has no more watches the files are polled.`,
		field: func(c *config) any { return &c.reloadEngine },
	},
	{
		name:    "reload_extra_files",
		flags:   []string{"--reload-extra-file"},
		meta:    "FILES",
		section: "Debugging",
		kind:    existingFiles,
		def:     none,
		usage:   "further file that reload watches; repeat it for several",
		doc: `A name with *, ? or [ is a pattern for files that are there or will be, where ** means any directories.
Other files must exist.
Names count from the directory that the server was started in.`,
		field: func(c *config) any { return &c.reloadExtraFiles },
	},
	{
		name:    "spew",
		flags:   []string{"--spew"},
		section: "Debugging",
		kind:    boolean,
		def:     "False",
		usage:   "print every line of Python that runs",
		doc: `For development.
Before a line of the application, or of a module that it uses, runs, it is written to standard output as MODULE:LINE: SOURCE.`,
		field: func(c *config) any { return &c.spew },
	},
	{
		name:    "check_config",
		flags:   []string{"--check-config"},
		section: "Debugging",
		kind:    boolean,
		def:     "False",
		early:   true,
		usage:   "check the settings, load the application, and exit",
		doc: `The status is 0 if both went well and 1 if not.
No address is bound and no log is written, but it is checked that they could be.
A variable of the configuration file whose name is nearly that of a setting is pointed out.`,
		field: func(c *config) any { return &c.checkConfig },
	},
	{
		name:     "status",
		flags:    []string{"--status"},
		meta:     "FORMAT",
		section:  "Debugging",
		kind:     statusFormat,
		def:      "off",
		ours:     true,
		early:    true,
		flagOnly: true,
		usage:    "print what the server with this pidfile is doing, and exit: table or json",
		doc: `It reads the memory that arbiter and workers share, so it must run as the user of the arbiter, or as root.
The flag alone means table; no application need be named.
What counts requests has those of workers that have ended too.`,
		field: func(c *config) any { return &c.status },
	},
	{
		name:    "print_config",
		flags:   []string{"--print-config"},
		section: "Debugging",
		kind:    boolean,
		def:     "False",
		usage:   "print the value of every setting, then do as check_config",
		doc:     `The settings are sorted by name, and values printed as Python does.`,
		field:   func(c *config) any { return &c.printConfig },
	},
	{
		name:    "preload_app",
		flags:   []string{"--preload"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "load the application once, before the workers start",
		doc: `A Python that has loaded the application is forked for each worker, which saves time and memory.
HUP loads it anew.`,
		field: func(c *config) any { return &c.preloadApp },
	},
	{
		name:    "sendfile",
		flags:   []string{"--no-sendfile"},
		section: "Server Mechanics",
		kind:    onUnlessFalse,
		def:     none,
		env:     "SENDFILE",
		envText: func(text string) string {
			switch strings.ToLower(text) {
			case "y", "1", "yes", "true":
				return "True"
			}
			return "False"
		},
		usage: "send the files of wsgi.file_wrapper without sendfile(2)",
		doc: `The key in a configuration file says the opposite: False does without, True and None use it.
SENDFILE is one of y, 1, yes and true, or anything else to do without.`,
		field: func(c *config) any { return &c.sendfile },
	},
	{
		name:    "reuse_port",
		flags:   []string{"--reuse-port"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "let other servers of the same user listen on the same addresses",
		doc: `The kernel then spreads new clients over all that do (SO_REUSEPORT).
The workers of one server share its listeners in any case, so that none has a queue of its own.
It is not for unix sockets.`,
		field: func(c *config) any { return &c.reusePort },
	},
	{
		name:     "chdir",
		flags:    []string{"--chdir"},
		meta:     "DIR",
		section:  "Server Mechanics",
		kind:     directory,
		def:      "the directory it was started in",
		computed: func(s *start) string { return s.dir },
		usage:    "directory to enter before the application is loaded",
		doc:      `It must exist, and becomes the first place where Python looks for modules.`,
		field:    func(c *config) any { return &c.chdir },
	},
	{
		name:    "daemon",
		flags:   []string{"-D", "--daemon"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "run in the background",
		doc: `The command returns once the settings are right, and the arbiter goes on in a session of its own, with mask 022 and its standard descriptors on /dev/null; name an errorlog to know how it fares.
The configuration file is read a second time there.`,
		field: func(c *config) any { return &c.daemon },
	},
	{
		name:    "raw_env",
		flags:   []string{"-e", "--env"},
		meta:    "ENV",
		section: "Server Mechanics",
		kind:    list,
		def:     none,
		usage:   "environment variable KEY=VALUE for the application; repeat it for several",
		doc:     `The configuration file does not see it.`,
		field:   func(c *config) any { return &c.rawEnv },
	},
	{
		name:    "pidfile",
		flags:   []string{"-p", "--pid"},
		meta:    "FILE",
		section: "Server Mechanics",
		kind:    textKind,
		def:     none,
		usage:   "file for the number of the arbiter's process",
		doc:     `It is removed at the end if it still holds that number.`,
		field:   func(c *config) any { return &c.pidfile },
	},
	{
		name:    "worker_tmp_dir",
		flags:   []string{"--worker-tmp-dir"},
		meta:    "DIR",
		section: "Server Mechanics",
		kind:    textKind,
		def:     none,
		usage:   "directory for heartbeat files; there are none",
		doc:     harmless + `the heartbeat of a worker is in shared memory.`,
	},
	{
		name:     "user",
		flags:    []string{"-u", "--user"},
		meta:     "USER",
		section:  "Server Mechanics",
		kind:     userID,
		def:      "the user that started it",
		computed: func(*start) string { return strconv.Itoa(os.Geteuid()) },
		usage:    "name or number of the user that workers run as",
		doc: `Only a server started by root can change it.
The arbiter and the configuration file keep root's rights; log files and unix sockets are given to user and group.
Names are looked up in /etc/passwd and /etc/group alone.`,
		field: func(c *config) any { return &c.user },
	},
	{
		name:     "group",
		flags:    []string{"-g", "--group"},
		meta:     "GROUP",
		section:  "Server Mechanics",
		kind:     groupID,
		def:      "the group that started it",
		computed: func(*start) string { return strconv.Itoa(os.Getegid()) },
		usage:    "name or number of the group that workers run as",
		doc: `Workers that switch are in no other group, unless initgroups is set.
Those of another user are not left in root's group: without this they get the user's own, or 65534 if the system does not know the user.`,
		field: func(c *config) any { return &c.group },
	},
	{
		name:    "umask",
		flags:   []string{"-m", "--umask"},
		meta:    "INT",
		section: "Server Mechanics",
		kind:    modeInt,
		def:     "0",
		usage:   "mode bits that a unix socket does not get",
		doc: `The flag takes 0o117, or 0117 for the same; a file takes 0o117, 79 or the text "0o117".
It is not the mask of the processes, which they inherit.`,
		field: func(c *config) any { return &c.umask },
	},
	{
		name:    "initgroups",
		flags:   []string{"--initgroups"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "give workers all groups that their user is listed in",
		doc:     `It matters to workers that switch to another user or group.`,
		field:   func(c *config) any { return &c.initgroups },
	},
	{
		name:    "tmp_upload_dir",
		section: "Server Mechanics",
		kind:    textKind,
		def:     none,
		usage:   "directory for uploads; there are none",
		doc:     harmless + `a request body is never written to a file.`,
	},
	{
		name:    "secure_scheme_headers",
		section: "Server Mechanics",
		kind:    stringDict,
		def:     "X-FORWARDED-PROTOCOL=ssl,X-FORWARDED-PROTO=https,X-FORWARDED-SSL=on",
		usage:   "headers by which a trusted proxy says that its client used https",
		doc: `The keys are names in capitals, the values what says https exactly; any other value says http.
Who is trusted is in forwarded_allow_ips.
Headers that contradict each other are answered with 400.`,
		field: func(c *config) any { return &c.secureSchemeHeaders },
	},
	{
		name:    "forwarded_allow_ips",
		flags:   []string{"--forwarded-allow-ips"},
		meta:    "STRING",
		section: "Server Mechanics",
		kind:    networks,
		def:     "127.0.0.1,::1",
		env:     "FORWARDED_ALLOW_IPS",
		usage:   "proxies to trust: addresses, networks, or * for every peer",
		doc: `Only from them are secure_scheme_headers and forwarder_headers believed.
A peer on a unix socket is always trusted.`,
		field: func(c *config) any { return &c.forwardedAllowIPs },
	},
	{
		name:    "accesslog",
		flags:   []string{"--access-logfile"},
		meta:    "FILE",
		section: "Logging",
		kind:    textKind,
		def:     none,
		usage:   "file for the access log, or - for standard output",
		doc:     `Without it there is no access log but that of syslog.`,
		field:   func(c *config) any { return &c.accesslog },
	},
	{
		name:    "disable_redirect_access_to_syslog",
		flags:   []string{"--disable-redirect-access-to-syslog"},
		section: "Logging",
		kind:    boolean,
		def:     "False",
		usage:   "keep the access log out of syslog",
		doc:     `Without syslog it means nothing.`,
		field:   func(c *config) any { return &c.accessOffSyslog },
	},
	{
		name:    "access_log_format",
		flags:   []string{"--access-logformat"},
		meta:    "STRING",
		section: "Logging",
		kind:    textKind,
		def:     `%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"`,
		usage:   "line of the access log",
		doc:     `What is not known about a request is written as a hyphen.`,
		field:   func(c *config) any { return &c.accessLogFormat },
	},
	{
		name:    "access_log_json",
		flags:   []string{"--access-log-json"},
		section: "Logging",
		kind:    boolean,
		def:     "False",
		ours:    true,
		usage:   "write the access log as one JSON object a line",
		doc: `The keys are time, remote_addr, remote_user, method, target, path, query, protocol, host, status, bytes, duration, referer, user_agent and worker, in this order.
Where and when it is written does not change, and access_log_format is not used.
time is that of the record, with its offset, after RFC 3339; duration is in seconds; bytes counts the body of the response; path is decoded and target is not; worker is a process id.
What a request does not have is null; a byte that is not UTF-8 becomes U+FFFD.
Of the credentials only the user is logged, and no cookie.`,
		field: func(c *config) any { return &c.accessLogJSON },
	},
	{
		name:    "errorlog",
		flags:   []string{"--error-logfile", "--log-file"},
		meta:    "FILE",
		section: "Logging",
		kind:    textKind,
		def:     "-",
		usage:   "file for the error log, or - for standard error",
		doc:     `What the application prints does not go there without capture_output.`,
		field:   func(c *config) any { return &c.errorlog },
	},
	{
		name:    "loglevel",
		flags:   []string{"--log-level"},
		meta:    "LEVEL",
		section: "Logging",
		kind:    textKind,
		def:     "info",
		usage:   "least level of the error log: debug, info, warning, error or critical",
		doc:     `Any other word means info.`,
		field:   func(c *config) any { return &c.loglevel },
	},
	{
		name:    "capture_output",
		flags:   []string{"--capture-output"},
		section: "Logging",
		kind:    boolean,
		def:     "False",
		usage:   "send standard output and standard error to the file of errorlog",
		doc: `What the application prints is then in that file too, also after it was reopened.
It means nothing while errorlog is no file.`,
		field: func(c *config) any { return &c.captureOutput },
	},
	{
		name:    "logger_class",
		flags:   []string{"--logger-class"},
		meta:    "STRING",
		section: "Logging",
		kind:    class,
		def:     "gunicorn.glogging.Logger",
		usage:   "Python class that makes the logs",
		doc: `A class of the configuration file, or MODULE.CLASS; usually it is derived from gunicorn.glogging.Logger, which can be imported even where no package of that name is installed.
Methods that it replaces, such as setup, access and atoms, are called as Gunicorn calls them, but not in the workers: with any class but the default one a process of its own makes the logs of the whole server, and each worker makes another instance for what its application logs.
A class of the configuration file has the file run once more in each of them.`,
		field: func(c *config) any { return &c.loggerClass },
	},
	{
		name:    "logconfig",
		flags:   []string{"--log-config"},
		meta:    "FILE",
		section: "Logging",
		kind:    textKind,
		def:     none,
		usage:   "INI file for the logging module of Python",
		doc: `It counts from chdir, and may name the loggers gunicorn.error and gunicorn.access.
Like the next two it turns the access log on, is applied after the handlers of errorlog and accesslog are there, holds for the application's loggers too, and has a process of its own make the logs of the server.
When that cannot keep up, records of the access log are dropped and counted, and those of the error log go to errorlog as if there were no configuration.`,
		field: func(c *config) any { return &c.logconfig },
	},
	{
		name:    "logconfig_dict",
		section: "Logging",
		kind:    anyDict,
		def:     "{}",
		usage:   "dictionary for the logging module of Python",
		doc: `Its keys replace those of CONFIG_DEFAULTS in gunicorn.glogging.
It goes before logconfig_json, and that before logconfig.
A dictionary with classes or objects has the configuration file run once more in each process that makes logs.`,
	},
	{
		name:    "logconfig_json",
		flags:   []string{"--log-config-json"},
		meta:    "FILE",
		section: "Logging",
		kind:    textKind,
		def:     none,
		usage:   "JSON file for the logging module of Python",
		doc: `It holds what logconfig_dict would.
A file that is not there counts for nothing.`,
		field: func(c *config) any { return &c.logconfigJSON },
	},
	{
		name:    "syslog_addr",
		flags:   []string{"--log-syslog-to"},
		meta:    "SYSLOG_ADDR",
		section: "Logging",
		kind:    textKind,
		def:     "udp://localhost:514",
		usage:   "address of syslog",
		doc: `One of udp://HOST:PORT, tcp://HOST:PORT, unix://PATH or unix://PATH#dgram.
The port may be left out, and is 514 then.
A unix socket is used as what it is, for datagrams or a stream; with #dgram it must be for datagrams.
A name is looked up once, when the server starts or reloads.
A daemon that is away or stuck costs records, which are counted, and holds up nobody.`,
		field: func(c *config) any { return &c.syslogAddr },
	},
	{
		name:    "syslog",
		flags:   []string{"--log-syslog"},
		section: "Logging",
		kind:    boolean,
		def:     "False",
		usage:   "send the logs to syslog too",
		doc:     `That is the error log and the access log, and what the application logs as gunicorn.error and gunicorn.access.`,
		field:   func(c *config) any { return &c.syslog },
	},
	{
		name:    "syslog_prefix",
		flags:   []string{"--log-syslog-prefix"},
		meta:    "SYSLOG_PREFIX",
		section: "Logging",
		kind:    textKind,
		def:     none,
		usage:   "name of the program in syslog",
		doc: `Records are tagged gunicorn.PREFIX.error and gunicorn.PREFIX.access.
Without this it is the name of the processes, a dot in place of each colon.`,
		field: func(c *config) any { return &c.syslogPrefix },
	},
	{
		name:    "syslog_facility",
		flags:   []string{"--log-syslog-facility"},
		meta:    "SYSLOG_FACILITY",
		section: "Logging",
		kind:    textKind,
		def:     "user",
		usage:   "facility in syslog",
		doc:     `One of auth, authpriv, cron, daemon, ftp, kern, lpr, mail, news, security, syslog, user, uucp, or local0 to local7.`,
		field:   func(c *config) any { return &c.syslogFacility },
	},
	{
		name:    "enable_stdio_inheritance",
		flags:   []string{"-R", "--enable-stdio-inheritance"},
		section: "Logging",
		kind:    boolean,
		def:     "False",
		usage:   "keep standard output and standard error in the background",
		doc:     `One that is a terminal is left all the same.`,
		field:   func(c *config) any { return &c.enableStdioInheritance },
	},
	{
		name:    "metrics",
		flags:   []string{"--metrics"},
		meta:    "ADDRESS",
		section: "Logging",
		kind:    textKind,
		def:     none,
		ours:    true,
		usage:   "address to serve metrics on, for Prometheus",
		doc: `HOST:PORT or unix:PATH; what is there is said in the text form of Prometheus, at /metrics.
A process of its own serves it, with the rights of the workers.
Anybody who can connect can read it, so it had better be an address of this host.
While two arbiters run after USR2, it has the figures of the old one.`,
		field: func(c *config) any { return &c.metrics },
	},
	{
		name:    "statsd_host",
		flags:   []string{"--statsd-host"},
		meta:    "STATSD_ADDR",
		section: "Logging",
		kind:    statsdAddr,
		def:     none,
		usage:   "address of statsd, which gets metrics",
		doc: `HOST, HOST:PORT or unix:PATH; without a port it is 8125.
Each metric is a datagram of its own, sent without waiting.
For each request they are gunicorn.request.duration in milliseconds, gunicorn.requests and gunicorn.request.status.CODE.
The error log counts gunicorn.log.critical, gunicorn.log.error, gunicorn.log.warning and, for Python's tracebacks, gunicorn.log.exception; gunicorn.workers is a gauge.
The application sends its own by the logger gunicorn.error: extra={"metric": NAME, "value": NUMBER, "mtype": TYPE}, where TYPE is gauge, counter, histogram or timer.
An empty message is not logged then.`,
		field: func(c *config) any { return &c.statsdHost },
	},
	{
		name:    "dogstatsd_tags",
		flags:   []string{"--dogstatsd-tags"},
		meta:    "DOGSTATSD_TAGS",
		section: "Logging",
		kind:    textKind,
		def:     "",
		usage:   "tags for statsd, separated by commas",
		doc:     `They end each metric, as DogStatsD reads them.`,
		field:   func(c *config) any { return &c.dogstatsdTags },
	},
	{
		name:    "statsd_prefix",
		flags:   []string{"--statsd-prefix"},
		meta:    "STATSD_PREFIX",
		section: "Logging",
		kind:    textKind,
		def:     "",
		usage:   "text before each metric's name",
		doc:     `A dot is put between the two unless the prefix has it.`,
		field:   func(c *config) any { return &c.statsdPrefix },
	},
	{
		name:    "enable_backlog_metric",
		flags:   []string{"--enable-backlog-metric"},
		section: "Logging",
		kind:    boolean,
		def:     "False",
		usage:   "measure how many connections wait to be accepted",
		doc:     `The arbiter sends the sum of all TCP listeners about once a second as the histogram gunicorn.backlog.`,
		field:   func(c *config) any { return &c.backlogMetric },
	},
	{
		name:    "proc_name",
		flags:   []string{"-n", "--name"},
		meta:    "STRING",
		section: "Process Naming",
		kind:    textKind,
		def:     none,
		usage:   "name of the processes in ps(1) and top(1)",
		doc:     `Without it they bear the name of the application.`,
		field:   func(c *config) any { return &c.procName },
	},
	{
		name:    "default_proc_name",
		section: "Process Naming",
		kind:    textKind,
		def:     "the application named on the command line, or gunicorn",
		computed: func(s *start) string {
			if s.app != "" {
				return s.app
			}
			return "gunicorn"
		},
		usage: "name of the processes without proc_name",
		field: func(c *config) any { return &c.defaultProcName },
	},
	{
		name:    "pythonpath",
		flags:   []string{"--pythonpath"},
		meta:    "STRING",
		section: "Server Mechanics",
		kind:    textKind,
		def:     none,
		usage:   "directories where Python looks for modules first, separated by commas",
		doc:     `The last one is the first to be looked at.`,
		field:   func(c *config) any { return &c.pythonpath },
	},
	{
		name:        "paste",
		flags:       []string{"--paste", "--paster"},
		meta:        "STRING",
		section:     "Server Mechanics",
		kind:        textKind,
		def:         none,
		unsupported: noPaste,
		usage:       "PasteDeploy file that names the application",
	},
	{
		name:    "on_starting",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "OnStarting.on_starting",
		usage:   "called with the arbiter before it listens",
		doc: `Called in the Python of the configuration file, the pidfile being written.
An exception stops the start with status 1.`,
	},
	{
		name:    "on_reload",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "OnReload.on_reload",
		usage:   "called with the arbiter when HUP starts new workers",
		doc: `Called in the Python of the new configuration file, before its workers start.
An exception leaves the old configuration in force.`,
	},
	{
		name:    "when_ready",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "WhenReady.when_ready",
		usage:   "called with the arbiter when it listens",
		doc: `Called once; the listeners are open and no worker runs yet.
An exception stops the start with status 1.`,
	},
	{
		name:    "pre_fork",
		section: "Server Hooks",
		kind:    hook(2, 2),
		def:     "Prefork.pre_fork",
		usage:   "called with arbiter and worker before a worker starts",
		doc: `Called in the Python of the configuration file; the worker has no pid yet.
An exception stops the server with status 255.`,
	},
	{
		name:    "post_fork",
		section: "Server Hooks",
		kind:    hook(2, 2),
		def:     "Postfork.post_fork",
		usage:   "called with arbiter and worker in a worker that starts",
		doc: `Called in the worker's Python, before it changes its user and loads the application.
An exception counts as a failure to boot.`,
	},
	{
		name:    "post_worker_init",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "PostWorkerInit.post_worker_init",
		usage:   "called with the worker when it has loaded the application",
		doc: `Called in the worker's Python when the application is loaded.
An exception counts as a failure to boot.`,
	},
	{
		name:    "worker_int",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "WorkerInt.worker_int",
		usage:   "called with the worker on INT or QUIT",
		doc:     `Called in the worker's Python on INT or QUIT.`,
	},
	{
		name:    "worker_abort",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "WorkerAbort.worker_abort",
		usage:   "called with the worker on ABRT",
		doc:     `Called in the worker's Python when a request has run for longer than timeout, unless it hangs in code that is not Python.`,
	},
	{
		name:    "pre_exec",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "PreExec.pre_exec",
		usage:   "called with the arbiter before USR2 executes another",
		doc: `Called in the Python of the configuration file.
After an exception the binary is not executed.`,
	},
	{
		name:    "pre_request",
		section: "Server Hooks",
		kind:    hook(2, 2),
		def:     "PreRequest.pre_request",
		usage:   "called with worker and request before the application is",
		doc: `Called in the worker's Python.
An exception is answered with status 500.
Header fields that it appends to the request reach the application.`,
	},
	{
		name:    "post_request",
		section: "Server Hooks",
		kind:    hook(2, 4),
		def:     "PostRequest.post_request",
		usage:   "called with worker, request, environ and response after a request",
		doc: `Called in the worker's Python, also after a failure.
It may take two, three or four arguments.
An exception is only logged.`,
	},
	{
		name:    "child_exit",
		section: "Server Hooks",
		kind:    hook(2, 2),
		def:     "ChildExit.child_exit",
		usage:   "called with arbiter and worker when a worker has ended",
		doc: `Called in the Python of the configuration file, unless the worker could not boot.
An exception stops the server with status 255.`,
	},
	{
		name:    "worker_exit",
		section: "Server Hooks",
		kind:    hook(2, 2),
		def:     "WorkerExit.worker_exit",
		usage:   "called with arbiter and worker in a worker that ends",
		doc: `Called in the worker's Python as the last thing.
An exception is only logged.`,
	},
	{
		name:    "nworkers_changed",
		section: "Server Hooks",
		kind:    hook(3, 3),
		def:     "NumWorkersChanged.nworkers_changed",
		usage:   "called with the arbiter and the new and old number of workers",
		doc:     `Called at the start, where the old number is None, on TTIN and TTOU, and on each reload.`,
	},
	{
		name:    "on_exit",
		section: "Server Hooks",
		kind:    hook(1, 1),
		def:     "OnExit.on_exit",
		usage:   "called with the arbiter before it exits",
		doc: `Called as the last thing, the pidfile being removed.
An exception makes the status 1.`,
	},
	{
		name:        "ssl_context",
		section:     "Server Hooks",
		kind:        hook(2, 2),
		def:         "NewSSLContext.ssl_context",
		unsupported: noContext,
		usage:       "called with the settings and a factory to make a TLS context",
	},
	{
		name:    "proxy_protocol",
		flags:   []string{"--proxy-protocol"},
		meta:    "MODE",
		section: "Server Mechanics",
		kind:    proxyMode,
		def:     "off",
		usage:   "take a PROXY header before the first request: off, v1, v2 or auto",
		doc: `Proxies say with it whom they speak for, once for each connection.
v1 is the text form, v2 the binary one and auto either; the flag alone means auto, and must not stand before the application.
Every request of the connection then has the client's address and port as REMOTE_ADDR and REMOTE_PORT, those that it had connected to as PROXY_ADDR and PROXY_PORT, and TCP4 or TCP6 as PROXY_PROTOCOL.
With UNKNOWN, LOCAL or UNSPEC there the proxy gave no addresses, and the socket's remain.
A connection without a header is served as it is.
A malformed header, a line of more than 107 bytes or a binary header of more than 4096 are answered with 400.
Who is trusted in forwarded_allow_ips stays a matter of the socket's address.`,
		field: func(c *config) any { return &c.proxyProtocol },
	},
	{
		name:    "proxy_allow_ips",
		flags:   []string{"--proxy-allow-from"},
		meta:    "STRING",
		section: "Server Mechanics",
		kind:    networks,
		def:     "127.0.0.1,::1",
		usage:   "proxies that may send a PROXY header: addresses, networks, or * for every peer",
		doc: `Anyone else who sends one is answered with 403.
A peer on a unix socket always may.`,
		field: func(c *config) any { return &c.proxyAllowIPs },
	},
	{
		name:        "protocol",
		flags:       []string{"--protocol"},
		meta:        "STRING",
		section:     "Server Mechanics",
		kind:        textKind,
		def:         "http",
		unsupported: noUWSGI,
		usage:       "protocol of clients: http or uwsgi",
	},
	{
		name:        "uwsgi_allow_ips",
		flags:       []string{"--uwsgi-allow-from"},
		meta:        "STRING",
		section:     "Server Mechanics",
		kind:        networks,
		def:         "127.0.0.1,::1",
		unsupported: noUWSGI,
		usage:       "peers that may speak uwsgi",
	},
	{
		name:    "keyfile",
		flags:   []string{"--keyfile"},
		meta:    "FILE",
		section: "SSL",
		kind:    textKind,
		def:     none,
		usage:   "file with the private key of the certificate, in PEM form",
		doc: `Without it the key is looked for in certfile.
It must not be encrypted.`,
		field: func(c *config) any { return &c.keyfile },
	},
	{
		name:    "certfile",
		flags:   []string{"--certfile"},
		meta:    "FILE",
		section: "SSL",
		kind:    textKind,
		def:     none,
		usage:   "file with the certificate, in PEM form, which turns TLS on",
		doc: `The certificates of the authorities between follow the server's own.
All listeners then speak TLS 1.2 or 1.3, and nothing else.
The files of certificate, key and authorities are read by the arbiter, with its rights, and again when they have changed.`,
		field: func(c *config) any { return &c.certfile },
	},
	{
		name:    "ssl_version",
		flags:   []string{"--ssl-version"},
		meta:    "SSL_VERSION",
		section: "SSL",
		kind:    anything,
		def:     "2",
		usage:   "version of TLS, which is negotiated",
		doc:     harmless + `it is always the newest of TLS 1.3 and 1.2 that the client has, and any other value than the default gets a warning.`,
	},
	{
		name:    "cert_reqs",
		flags:   []string{"--cert-reqs"},
		meta:    "INT",
		section: "SSL",
		kind:    lateInt,
		def:     "0",
		usage:   "certificates of clients: 0 none, 1 optional, 2 required",
		doc: `With 1 or 2 the certificate that a client sends must come from ca_certs, be valid, and be meant for clients if it says what for; otherwise the client is not connected.
What the application learns of it is said under TLS.`,
		field: func(c *config) any { return &c.certReqs },
	},
	{
		name:    "ca_certs",
		flags:   []string{"--ca-certs"},
		meta:    "FILE",
		section: "SSL",
		kind:    textKind,
		def:     none,
		usage:   "file with certificates of authorities, in PEM form",
		doc:     `Certificates of clients must come from one of them; cert_reqs needs this.`,
		field:   func(c *config) any { return &c.caCerts },
	},
	{
		name:    "suppress_ragged_eofs",
		flags:   []string{"--suppress-ragged-eofs"},
		section: "SSL",
		kind:    boolean,
		def:     "True",
		usage:   "take a TLS connection that is cut for one that is closed",
		doc: `With False, which only a configuration file can say, one that ends without the message for that gets a warning.
What was incomplete by then is refused in any case.`,
		field: func(c *config) any { return &c.suppressRaggedEOFs },
	},
	{
		name:    "do_handshake_on_connect",
		flags:   []string{"--do-handshake-on-connect"},
		section: "SSL",
		kind:    boolean,
		def:     "False",
		usage:   "do the TLS handshake before anything else, as is always done",
		doc:     harmless + `a handshake begins with the first byte of the client, beside whatever the worker does.`,
	},
	{
		name:    "ciphers",
		flags:   []string{"--ciphers"},
		meta:    "STRING",
		section: "SSL",
		kind:    textKind,
		def:     none,
		usage:   "ciphers of TLS 1.2, as a list of OpenSSL",
		doc: `It takes from these: ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-AES128-GCM-SHA256, ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-RSA-AES256-GCM-SHA384, ECDHE-ECDSA-CHACHA20-POLY1305 and ECDHE-RSA-CHACHA20-POLY1305.
Names of others are read over, and a list must leave one.
Their order does not matter.
Those of TLS 1.3 are always on.`,
		field: func(c *config) any { return &c.ciphers },
	},
	{
		name:        "http_protocols",
		flags:       []string{"--http-protocols"},
		meta:        "STRING",
		section:     "HTTP/2",
		kind:        words,
		def:         "h1",
		unsupported: onlyHTTP1,
		usage:       "versions of HTTP by preference: h1, h2, h3",
	},
	{
		name:    "http2_cleartext",
		flags:   []string{"--http2-cleartext"},
		meta:    "STRING",
		section: "HTTP/2",
		kind: choice("http2_cleartext must be: off, prior-knowledge, upgrade, or both", "",
			"off|false", "prior-knowledge|true", "upgrade", "both"),
		def:         "off",
		unsupported: onlyHTTP1,
		usage:       "HTTP/2 without TLS: off, prior-knowledge, upgrade or both",
	},
	{
		name:        "http2_max_concurrent_streams",
		flags:       []string{"--http2-max-concurrent-streams"},
		meta:        "INT",
		section:     "HTTP/2",
		kind:        posInt,
		def:         "100",
		unsupported: onlyHTTP1,
		usage:       "most streams of a connection",
	},
	{
		name:        "http2_initial_window_size",
		flags:       []string{"--http2-initial-window-size"},
		meta:        "INT",
		section:     "HTTP/2",
		kind:        posInt,
		def:         "65535",
		unsupported: onlyHTTP1,
		usage:       "first flow control window in bytes",
	},
	{
		name:        "http2_max_frame_size",
		flags:       []string{"--http2-max-frame-size"},
		meta:        "INT",
		section:     "HTTP/2",
		kind:        frameSize,
		def:         "16384",
		unsupported: onlyHTTP1,
		usage:       "longest frame in bytes",
	},
	{
		name:        "http2_max_header_list_size",
		flags:       []string{"--http2-max-header-list-size"},
		meta:        "INT",
		section:     "HTTP/2",
		kind:        posInt,
		def:         "65536",
		unsupported: onlyHTTP1,
		usage:       "longest list of header fields in bytes",
	},
	{
		name:        "raw_paste_global_conf",
		flags:       []string{"--paste-global"},
		meta:        "CONF",
		section:     "Server Mechanics",
		kind:        list,
		def:         none,
		unsupported: noPaste,
		usage:       "global KEY=VALUE of PasteDeploy; repeat it for several",
	},
	{
		name:    "permit_obsolete_folding",
		flags:   []string{"--permit-obsolete-folding"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "accept header fields that go on in the next line",
		doc:     `Otherwise such a request is answered with 400.`,
		field:   func(c *config) any { return &c.permitObsoleteFolding },
	},
	{
		name:    "strip_header_spaces",
		flags:   []string{"--strip-header-spaces"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "accept blanks between the name of a header field and its colon",
		doc: `Otherwise such a request is answered with 400.
Proxies differ about such names, so this invites request smuggling.`,
		field: func(c *config) any { return &c.stripHeaderSpaces },
	},
	{
		name:    "permit_unconventional_http_method",
		flags:   []string{"--permit-unconventional-http-method"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "accept any token as a method",
		doc:     `Otherwise it has 3 to 20 characters, no small letter and no number sign.`,
		field:   func(c *config) any { return &c.permitUnconventionalHTTPMethod },
	},
	{
		name:    "permit_unconventional_http_version",
		flags:   []string{"--permit-unconventional-http-version"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "accept any one-digit numbers as a version of HTTP",
		doc:     `Otherwise the version begins with 1.`,
		field:   func(c *config) any { return &c.permitUnconventionalHTTPVersion },
	},
	{
		name:    "casefold_http_method",
		flags:   []string{"--casefold-http-method"},
		section: "Server Mechanics",
		kind:    boolean,
		def:     "False",
		usage:   "give the application methods in capitals",
		doc:     `Small letters need permit_unconventional_http_method too.`,
		field:   func(c *config) any { return &c.casefoldHTTPMethod },
	},
	{
		name:    "forwarder_headers",
		flags:   []string{"--forwarder-headers"},
		meta:    "STRING",
		section: "Server Mechanics",
		kind:    words,
		def:     "SCRIPT_NAME,PATH_INFO",
		usage:   "headers with an underscore that a trusted proxy may send",
		doc: `They are names in capitals separated by commas, or * for all.
SCRIPT_NAME is where the application is mounted.
Who is trusted is in forwarded_allow_ips.`,
		field: func(c *config) any { return &c.forwarderHeaders },
	},
	{
		name:    "header_map",
		flags:   []string{"--header-map"},
		meta:    "STRING",
		section: "Server Mechanics",
		kind:    choice("Invalid header map behaviour: %s", "", "drop", "refuse", "dangerous"),
		def:     "drop",
		usage:   "headers with an underscore in their name: drop, refuse or dangerous",
		doc: `drop ignores the header, and refuse answers 400.
dangerous lets any client send what the application takes for the header with a hyphen.`,
		field: func(c *config) any { return &c.headerMap },
	},
	{
		name:    "asgi_loop",
		flags:   []string{"--asgi-loop"},
		meta:    "STRING",
		section: "Worker Processes",
		kind:    choice("Invalid ASGI loop: %s", "", "auto", "asyncio", "uvloop"),
		def:     "auto",
		usage:   "event loop of ASGI: auto, asyncio or uvloop",
		doc: `auto is uvloop where that package is installed.
Without it, uvloop is asyncio with a warning.`,
	},
	{
		name:    "asgi_lifespan",
		flags:   []string{"--asgi-lifespan"},
		meta:    "STRING",
		section: "Worker Processes",
		kind:    choice("Invalid ASGI lifespan: %s", "", "auto", "on", "off"),
		def:     "auto",
		usage:   "lifespan protocol of ASGI: auto, on or off",
		doc: `An application whose start-up fails ends the server, as one that cannot be imported does.
auto takes an exception for an application without a lifespan, on does not, and off does not ask.`,
	},
	{
		name:    "asgi_disconnect_grace_period",
		flags:   []string{"--asgi-disconnect-grace-period"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    posInt,
		def:     "3",
		usage:   "seconds an ASGI application may go on without its client",
		doc: `Then its task is cancelled.
0 cancels it at once.`,
	},
	{
		name:    "http_parser",
		flags:   []string{"--http-parser"},
		meta:    "STRING",
		section: "Worker Processes",
		kind: choice("http_parser must be one of: auto, fast, python", "http_parser must be a string",
			"auto", "fast", "python"),
		def:   "auto",
		usage: "HTTP parser: auto, fast or python, which are the same one",
		doc:   harmless + `there is one parser.`,
	},
	{
		name:    "root_path",
		flags:   []string{"--root-path"},
		meta:    "STRING",
		section: "Server Mechanics",
		kind:    textKind,
		def:     "",
		usage:   "where an ASGI application is mounted",
		doc:     `The root_path of its scopes; the path stays as it is.`,
	},
	{
		name:    "ws_max_size",
		flags:   []string{"--ws-max-size"},
		meta:    "SIZE",
		section: "Worker Processes",
		kind:    byteSize,
		def:     "16M",
		ours:    true,
		usage:   "length of a WebSocket's message",
		doc: `A number of bytes, as 512K; K, M and G are powers of 1024.
A client that sends a longer one is closed with code 1009.`,
		field: func(c *config) any { return &c.wsMaxSize },
	},
	{
		name:    "ws_ping_interval",
		flags:   []string{"--ws-ping-interval"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    seconds,
		def:     "20",
		ours:    true,
		usage:   "seconds of silence after which a WebSocket's client is pinged",
		doc:     `0 never pings.`,
		field:   func(c *config) any { return &c.wsPingInterval },
	},
	{
		name:    "ws_ping_timeout",
		flags:   []string{"--ws-ping-timeout"},
		meta:    "INT",
		section: "Worker Processes",
		kind:    seconds,
		def:     "20",
		ours:    true,
		usage:   "seconds in which it has to answer",
		doc: `Then the WebSocket is closed with code 1011.
0 waits for ever.`,
		field: func(c *config) any { return &c.wsPingTimeout },
	},
	{
		name:    "ws_per_message_deflate",
		flags:   []string{"--ws-per-message-deflate"},
		meta:    "STRING",
		section: "Worker Processes",
		kind:    choice("Invalid ws_per_message_deflate: %s", "", "on", "off"),
		def:     "on",
		ours:    true,
		usage:   "compress WebSocket messages if the client wants it: on or off",
		doc:     `Each for itself (RFC 7692), so that nothing has to be kept between them.`,
		field:   func(c *config) any { return &c.wsPerMessageDeflate },
	},
	{
		name:    "control_socket",
		flags:   []string{"--control-socket"},
		meta:    "PATH",
		section: "Control",
		kind:    textKind,
		def:     controlPath,
		computed: func(s *start) string {
			if dir, _ := s.lookup("XDG_RUNTIME_DIR"); dir != "" {
				if st, err := os.Stat(dir); err == nil && st.IsDir() {
					return dir + "/gunicorn.ctl"
				}
			}
			home, _ := s.lookup("HOME")
			return home + "/.gunicorn/gunicorn.ctl"
		},
		unsupported: noControl,
		usage:       "socket for commands to the server",
	},
	{
		name:        "control_socket_mode",
		flags:       []string{"--control-socket-mode"},
		meta:        "INT",
		section:     "Control",
		kind:        modeInt,
		def:         "0600",
		unsupported: noControl,
		usage:       "mode bits of control_socket",
	},
	{
		name:    "control_socket_disable",
		flags:   []string{"--no-control-socket"},
		section: "Control",
		kind:    boolean,
		def:     "False",
		usage:   "do without control_socket, as this server always does",
		doc:     harmless + `there is no such socket.`,
	},
	{
		name:        "dirty_apps",
		flags:       []string{"--dirty-app"},
		meta:        "STRING",
		section:     "Dirty Arbiters",
		kind:        list,
		def:         none,
		unsupported: noDirty,
		usage:       "application for long calls; repeat it for several",
	},
	{
		name:        "dirty_workers",
		flags:       []string{"--dirty-workers"},
		meta:        "INT",
		section:     "Dirty Arbiters",
		kind:        posInt,
		def:         "0",
		unsupported: noDirty,
		usage:       "processes for long calls",
	},
	{
		name:        "dirty_timeout",
		flags:       []string{"--dirty-timeout"},
		meta:        "INT",
		section:     "Dirty Arbiters",
		kind:        posInt,
		def:         "300",
		unsupported: noDirty,
		usage:       "seconds a long call may take",
	},
	{
		name:        "dirty_threads",
		flags:       []string{"--dirty-threads"},
		meta:        "INT",
		section:     "Dirty Arbiters",
		kind:        posInt,
		def:         "1",
		unsupported: noDirty,
		usage:       "threads of each process for long calls",
	},
	{
		name:        "dirty_graceful_timeout",
		flags:       []string{"--dirty-graceful-timeout"},
		meta:        "INT",
		section:     "Dirty Arbiters",
		kind:        posInt,
		def:         "30",
		unsupported: noDirty,
		usage:       "seconds that long calls get to finish in",
	},
	{
		name:        "on_dirty_starting",
		section:     "Dirty Arbiter Hooks",
		kind:        hook(1, 1),
		def:         "OnDirtyStarting.on_dirty_starting",
		unsupported: noDirty,
		usage:       "called with the dirty arbiter before it listens",
	},
	{
		name:        "dirty_post_fork",
		section:     "Dirty Arbiter Hooks",
		kind:        hook(2, 2),
		def:         "DirtyPostFork.dirty_post_fork",
		unsupported: noDirty,
		usage:       "called with arbiter and worker in a dirty worker that starts",
	},
	{
		name:        "dirty_worker_init",
		section:     "Dirty Arbiter Hooks",
		kind:        hook(1, 1),
		def:         "DirtyWorkerInit.dirty_worker_init",
		unsupported: noDirty,
		usage:       "called with a dirty worker when it has loaded its applications",
	},
	{
		name:        "dirty_worker_exit",
		section:     "Dirty Arbiter Hooks",
		kind:        hook(2, 2),
		def:         "DirtyWorkerExit.dirty_worker_exit",
		unsupported: noDirty,
		usage:       "called with arbiter and worker when a dirty worker has ended",
	},
	{
		name:    "python",
		flags:   []string{"--python"},
		meta:    "PATH",
		section: "Worker Processes",
		kind:    textKind,
		def:     none,
		early:   true,
		ours:    true,
		usage:   "interpreter that runs the application and the configuration file",
		doc: `A name without a slash is looked for in PATH.
Without this it is the one of the virtual environment that VIRTUAL_ENV names, or else python3 or python.
A configuration file that sets it has itself been run by one found without it.`,
		field: func(c *config) any { return &c.python },
	},
}

// startError ends the program. text is all that goes to standard error.
type startError struct {
	status int
	text   string
}

func (e *startError) Error() string { return e.text }

// settingError is about a value, from anywhere but a configuration file.
func settingError(err error) error {
	return &startError{1, fmt.Sprintf("\nError: %v\n", err)}
}

// bootError is about a value that turns out wrong when the arbiter starts.
func bootError(err error) error {
	return &startError{1, fmt.Sprintf("\nError: %v\n\n", err)}
}

// plainSentence is an error as a part of another line.
func plainSentence(err error) string {
	return strings.TrimSuffix(strings.TrimPrefix(err.Error(), "gunicorn: "), "\n")
}

// sentence is an error that Gunicorn does not have, or shows as a traceback.
func sentence(format string, args ...any) error {
	return &startError{1, "gunicorn: " + fmt.Sprintf(format, args...) + "\n"}
}

// loadConfig reads every source, weakest first: defaults, environment,
// configuration file, GUNICORN_CMD_ARGS, command line. args is argv without
// the program's name, env the environment and dir the directory we were
// started in. eval runs a configuration file, PATH or python:MODULE, and
// returns what read_config does; its error is returned as it is. The settings
// it gets are the early ones and the defaults of the rest.
//
// Any other error is a *startError.
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

	c := &config{positional: line.app}
	if err := c.setDefaults(at); err != nil {
		return nil, err
	}
	defaults := slices.Clone(c.values)
	if err := c.setFromEnv(at); err != nil {
		return nil, err
	}
	isEarly := func(r *setting) bool { return r.early }
	for _, given := range []*flagValues{more, line} {
		if err := c.setFromFlags(given, at, isEarly); err != nil {
			return nil, err
		}
	}
	if err := c.setFromFile(line, more, at, eval); err != nil {
		return nil, err
	}
	all := func(*setting) bool { return true }
	for _, given := range []*flagValues{more, line} {
		if err := c.setFromFlags(given, at, all); err != nil {
			return nil, err
		}
	}
	if err := c.checkSupported(defaults); err != nil {
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

// checkBoot looks at what Gunicorn does not before its arbiter starts.
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
	return c.checkTLS()
}

// set checks the value of row i and puts it where it belongs.
func (c *config) set(i int, v any, at *start) error {
	k := settings[i].kind
	v, err := k.value(v, at)
	if err != nil {
		return err
	}
	if !validText(v) {
		return fmt.Errorf("not valid UTF-8: %s", pyRepr(v))
	}
	c.put(i, v)
	return nil
}

// put stores a checked value.
func (c *config) put(i int, v any) bool {
	c.values[i] = v
	return settings[i].field == nil || settings[i].kind.store(settings[i].field(c), v)
}

// validText says whether the strings in v can be sent to Python.
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

func (c *config) setDefaults(at *start) error {
	c.values = make([]any, len(settings))
	for i := range settings {
		r := &settings[i]
		text := r.def
		if r.computed != nil {
			text = r.computed(at)
		}
		v, err := r.parse(text)
		if err == nil {
			err = c.set(i, v, at)
		}
		if err != nil {
			return sentence("default of %s: %v", r.name, err)
		}
	}
	return nil
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

func (c *config) setFromEnv(at *start) error {
	for i := range settings {
		r := &settings[i]
		if r.env == "" {
			continue
		}
		text, ok := at.lookup(r.env)
		if !ok {
			continue
		}
		typed := text
		if r.envText != nil {
			typed = r.envText(text)
		}
		v, err := r.parse(typed)
		if err == nil {
			err = c.set(i, v, at)
		}
		if err != nil && r.kind.want != "" {
			return sentence("%s: %q is not %s", r.env, text, r.kind.want)
		} else if err != nil {
			return sentence("%s: %v", r.env, err)
		}
	}
	return nil
}

// setFromFile finds the configuration file, has it run, and takes the
// variables that are settings.
func (c *config) setFromFile(line, more *flagValues, at *start, eval func(*config, string) (map[string]any, error)) error {
	spec := line.configFile()
	if spec == "" {
		spec = more.configFile()
	}
	module := strings.HasPrefix(spec, "python:")
	if spec == "" {
		spec = at.path("gunicorn.conf.py")
		if _, err := os.Stat(spec); err != nil {
			return nil
		}
	} else if !module {
		spec = strings.TrimPrefix(spec, "file:")
		if _, err := os.Stat(at.path(spec)); err != nil {
			return settingError(fmt.Errorf("%s doesn't exist", pyRepr(spec)))
		}
	}
	globals, err := eval(c, spec)
	if err != nil {
		return err
	}
	if err := c.hear(globals[saidKey]); err != nil {
		return err
	}
	for i := range settings {
		r := &settings[i]
		v, ok := globals[r.name]
		if bases := c.bases(r.name); len(bases) > 0 && (strings.HasPrefix(bases[0], "gunicorn.") || strings.HasPrefix(bases[0], "uvicorn")) {
			v = bases[0]
		}
		_, text := v.(string)
		_, truth := v.(bool)
		_, whole := v.(int64)
		if !ok || r.flagOnly || r.ours && !text && !truth && !(whole && r.kind == byteSize) {
			continue
		}
		v = fromPython(v)
		if err := c.set(i, v, at); err != nil {
			return &startError{1, fmt.Sprintf("Invalid value for %s: %s\n\n\nError: %v\n", r.name, pyStr(v), err)}
		}
	}
	return nil
}

func (c *config) setFromFlags(given *flagValues, at *start, which func(*setting) bool) error {
	for i := range settings {
		r := &settings[i]
		v, ok := given.values[r.name]
		if !ok || !which(r) {
			continue
		}
		if err := c.set(i, v, at); err != nil {
			return settingError(err)
		}
	}
	return nil
}

// checkSupported refuses what would be ignored in silence.
func (c *config) checkSupported(defaults []any) error {
	for i := range settings {
		r, v := &settings[i], c.values[i]
		if r.unsupported == "" || reflect.DeepEqual(v, defaults[i]) || r.accepts == nil && empty(v) {
			continue
		}
		if slices.ContainsFunc(r.accepts, func(text string) bool {
			parsed, err := r.parse(text)
			return err == nil && reflect.DeepEqual(v, parsed)
		}) {
			continue
		}
		return sentence("%s: not supported by this server: %s%s", r.name, c.foreign(r), r.unsupported)
	}
	return nil
}

// foreign names a worker class that is not made here, and what it is for.
func (c *config) foreign(r *setting) string {
	if r.name != "worker_class" {
		return ""
	}
	names := append([]string{c.workerClass}, c.bases(r.name)...)
	if c.workerClass == "" {
		names = names[1:]
	}
	for i, name := range names {
		what := familyOf(name).what
		switch {
		case what == "":
			continue
		case i == 0:
			return name + " is a class of workers for " + what + "; "
		}
		return names[0] + " is derived from a class of workers for " + what + "; "
	}
	if len(names) == 0 {
		return ""
	}
	return printable([]byte(names[0])) + " is a class of its own, and workers are not made in Python; "
}

// family is a kind of workers under all the names that its classes have.
type family struct {
	name    string
	classes string // what ends in a dot begins a name
	what    string // the workers are for
}

// families are the worker classes that people use most.
var families = [...]family{
	{familySync, "gunicorn.workers.sync.", "one request at a time"},
	{familyThread, "gunicorn.workers.gthread.", "threads"},
	{familyGevent, "gevent_wsgi gevent_pywsgi gunicorn.workers.ggevent.", "gevent"},
	{familyEventlet, "gunicorn.workers.geventlet.", "eventlet"},
	{"tornado", "gunicorn.workers.gtornado.", "Tornado"},
	{familyASGI, "gunicorn.workers.gasgi. uvicorn.workers. uvicorn_worker.", "ASGI applications"},
}

// The families that are made here.
const (
	familySync     = "sync"
	familyThread   = "gthread"
	familyGevent   = "gevent"
	familyEventlet = "eventlet"
	familyASGI     = "asgi"
)

// connectionsDefault is worker_connections where nobody has said otherwise.
const connectionsDefault = 1000

// ownClasses are the names of their classes.
var ownClasses = []string{
	familySync, "egg:gunicorn#sync", "gunicorn.workers.sync.SyncWorker",
	familyThread, "egg:gunicorn#gthread", "gunicorn.workers.gthread.ThreadWorker",
	familyGevent, "egg:gunicorn#gevent", "gunicorn.workers.ggevent.GeventWorker",
	"gevent_wsgi", "egg:gunicorn#gevent_wsgi", "gevent_pywsgi", "egg:gunicorn#gevent_pywsgi",
	"gunicorn.workers.ggevent.GeventPyWSGIWorker",
	familyEventlet, "egg:gunicorn#eventlet", "gunicorn.workers.geventlet.EventletWorker",
	familyASGI, "egg:gunicorn#asgi", "gunicorn.workers.gasgi.ASGIWorker",
	"uvicorn.workers.UvicornWorker", "uvicorn.workers.UvicornH11Worker",
	"uvicorn_worker.UvicornWorker", "uvicorn_worker.UvicornH11Worker",
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

// saidKey is where read_config puts what is no setting.
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

// empty says that a value turns nothing on.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case dict:
		return len(v) == 0
	}
	return false
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
	at := &start{dir: c.startDir, env: os.Environ()}
	for i := range settings {
		if v, ok := changed[settings[i].name]; ok {
			if err := c.set(i, fromPython(v), at); err != nil {
				return fmt.Errorf("%s: %w", settings[i].name, err)
			}
		}
	}
	return c.checkBoot()
}

// encode writes a marshal dict of every setting by name, and what else a
// worker and its Python want to know.
func (c *config) encode() []byte {
	b := []byte{marshalDict}
	b = appendMarshalText(appendMarshalText(b, "app"), c.app())
	b = appendMarshalText(appendMarshalText(b, "start_dir"), c.startDir)
	b = appendMarshal(appendMarshalText(b, "argv"), c.argv)
	b = appendMarshalText(appendMarshalText(b, "interpreter"), c.python)
	b = appendMarshalText(appendMarshalText(b, "syslog_to"), c.syslogTo)
	b = appendMarshalText(appendMarshalText(b, "statsd_to"), c.statsdTo)
	b = appendMarshalText(appendMarshalText(b, "family"), c.family())
	b = appendMarshal(appendMarshalText(b, "hooks"), slices.Sorted(maps.Keys(c.hooks())))
	b = appendMarshal(appendMarshalText(b, "credential"), credentialList(c.credential))
	said := map[string]any{}
	for key, v := range c.said {
		said[key] = v
	}
	b = appendMarshal(appendMarshalText(b, "said"), said)
	b = appendMarshalBool(appendMarshalText(b, "logs"), c.logs)
	b = appendMarshalInt(appendMarshalText(b, "log_level"), int64(c.logLevel))
	b = appendMarshalBool(appendMarshalText(b, "log_access"), c.logAccess)
	for i, v := range c.values {
		b = appendMarshalText(b, settings[i].name)
		if d, ok := v.(dict); ok && settings[i].kind == anyDict && len(d) > 0 {
			// Not all of it can be expressed: wsgi.py has written it, or
			// reads it from the file again.
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
	c.positional, _ = all["app"].(string)
	c.startDir, _ = all["start_dir"].(string)
	c.argv, _ = stringsOf(all["argv"])
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
	c.python, _ = all["interpreter"].(string)
	c.syslogTo, _ = all["syslog_to"].(string)
	c.statsdTo, _ = all["statsd_to"].(string)
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
	order := make([]int, len(settings))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(settings[a].name, settings[b].name) })
	for _, i := range order {
		f(settings[i].name, pyStr(c.values[i]))
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
	for i := range settings {
		r := &settings[i]
		if r.flags == nil {
			continue
		}
		forms := make([]string, len(r.flags))
		for j, f := range r.flags {
			switch forms[j] = f; {
			case r.kind.optional:
				forms[j] += " [" + r.meta + "]"
			case r.meta != "":
				forms[j] += " " + r.meta
			}
		}
		usage := r.usage + " [" + r.def + "]"
		if r.unsupported != "" && r.accepts == nil {
			usage = r.usage + " (not supported)"
		}
		printFlag(w, strings.Join(forms, ", "), usage)
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

// manSettings is the settings part of the manual, in mdoc: a subsection for
// each section of the table, an item for each row.
func manSettings() string {
	var b strings.Builder
	var sections []string
	for i := range settings {
		if !slices.Contains(sections, settings[i].section) {
			sections = append(sections, settings[i].section)
		}
	}
	for _, section := range sections {
		fmt.Fprintf(&b, ".Ss %s\n.Bl -tag -width Ds\n", section)
		for i := range settings {
			if settings[i].section == section {
				settings[i].man(&b)
			}
		}
		b.WriteString(".El\n")
	}
	return b.String()
}

func (r *setting) man(b *strings.Builder) {
	b.WriteString(".It ")
	for i, f := range r.flags {
		if i > 0 {
			b.WriteString(" , ")
		}
		b.WriteString("Fl " + f[1:])
		switch {
		case r.kind.optional:
			b.WriteString(" Op Ar " + r.meta)
		case r.meta != "":
			b.WriteString(" Ar " + r.meta)
		}
	}
	if r.flags == nil {
		b.WriteString("Va " + r.name)
	}
	fmt.Fprintf(b, "\n%s%s.\n", strings.ToUpper(r.usage[:1]), manText(r.usage[1:]))
	for _, s := range strings.Split(r.doc, "\n") {
		if s != "" {
			fmt.Fprintln(b, manText(s))
		}
	}
	if r.unsupported != "" && r.accepts == nil {
		fmt.Fprintf(b, "Not supported: %s.\n", manText(r.unsupported))
	} else if r.kind.alone == nil && r.def != none && r.def != "" {
		literal := strings.ReplaceAll(manText(r.def), `"`, `\(dq`)
		switch {
		case r.computed != nil:
			fmt.Fprintf(b, "The default is %s.\n", manText(r.def))
		case r.kind == stringDict:
			v, _ := r.parse(r.def)
			fmt.Fprintf(b, "The default is\n%s.\n", manText(pyStr(v)))
		case len(literal) > 40: // too long to fill lines with
			fmt.Fprintf(b, "The default is\n.Dl %s\n", literal)
		default:
			fmt.Fprintf(b, "The default is\n.Ql %s .\n", literal)
		}
	}
	if r.env != "" {
		fmt.Fprintf(b, "The variable\n.Ev %s\nreplaces the default.\n", r.env)
	}
	if r.flags != nil && !slices.Contains(r.flags, "--"+strings.ReplaceAll(r.name, "_", "-")) {
		fmt.Fprintf(b, "The key in a configuration file is\n.Va %s .\n", r.name)
	}
}

// manText escapes what mdoc would interpret.
func manText(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// address is where to listen.
type address struct {
	network string // "tcp", "tcp6", "unix", "fd"
	host    string
	port    int
	path    string
	fd      int
}

// parseBind reads one address of bind. Its errors are those of the original.
func parseBind(s string) (address, error) { return parseAddress(s, 8000) }

// parseAddress reads an address, which has the port given if it says none.
func parseAddress(s string, port int) (address, error) {
	if rest, ok := strings.CutPrefix(s, "fd://"); ok {
		fd, err := pyInt(rest, 10)
		if err != nil || fd < 0 || fd > 1<<20 {
			return address{}, said("%s is not a valid file descriptor.", pyRepr(rest))
		}
		return address{network: "fd", fd: int(fd)}, nil
	}
	if rest, ok := strings.CutPrefix(s, "unix:"); ok {
		path := strings.TrimPrefix(rest, "//")
		if path == "" {
			return address{}, said("%s has no path of a socket.", pyRepr(s))
		}
		return address{network: "unix", path: path}, nil
	}
	a := address{network: "tcp", port: port}
	host, text, hasPort := strings.Cut(strings.TrimPrefix(s, "tcp://"), ":")
	if name, rest, ok := bracketed(strings.TrimPrefix(s, "tcp://")); ok {
		host = name
		text, hasPort = strings.CutPrefix(rest, ":")
	}
	if host == "" || host == "0" {
		host = "0.0.0.0"
	}
	if hasPort {
		text, _, _ = strings.Cut(text, ":")
		n, err := pyInt(text, 10)
		if err != nil || n < 0 || n > 65535 {
			return address{}, said("%s is not a valid port number.", pyRepr(text))
		}
		a.port = int(n)
	}
	a.host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(a.host); err == nil && ip.Is6() {
		a.network = "tcp6"
	}
	return a, nil
}

// bracketed splits [HOST]REST.
func bracketed(s string) (host, rest string, ok bool) {
	if strings.HasPrefix(s, "[") {
		host, rest, ok = strings.Cut(s[1:], "]")
	}
	return host, rest, ok
}

// String is the address as parseAddress takes it.
func (a address) String() string {
	switch a.network {
	case "unix":
		return "unix:" + a.path
	case "fd":
		return "fd://" + strconv.Itoa(a.fd)
	}
	return net.JoinHostPort(a.host, strconv.Itoa(a.port))
}

// tuple is the address as Python's log lines show it.
func (a address) tuple() string {
	switch a.network {
	case "unix":
		return a.path
	case "fd":
		return strconv.Itoa(a.fd)
	}
	return fmt.Sprintf("(%s, %d)", pyRepr(a.host), a.port)
}
