package main

// The table of settings: one row for each, under the title of its section. A
// row is all that flags, environment, configuration file, --help and
// --print-config know of a setting. The description of a setting is in
// gunicorn.1, which config_test.go compares with the table. config.go reads the
// sources of values, kind.go has the kinds of values. Below the table are the
// classes of workers and --help.

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

type setting struct {
	name  string // key of a configuration file
	form  string // flags and their argument, as --help shows them; none: configuration file only
	kind  *kind
	def   string // the default as a user would type it, or none
	usage string // one line of help

	// computed gives a default that depends on how the server was started; def then
	// describes that default. derived gives a default that depends on other
	// settings, or "" for def.
	computed func(s *start) string
	derived  func(c *config) string

	env     string                   // variable that replaces the default
	envText func(text string) string // turns the variable's text into a value as a user would type it

	early    bool // the setting decides how the configuration file is read, so its flags are read before the file
	ours     bool // Gunicorn does not have the setting, so a file's variable may have the name by chance (see meant)
	flagOnly bool // the setting is ignored in a configuration file

	// unsupported says what to do instead of using the setting. Every value is
	// then refused, except the default, an empty value, and the values in accepts.
	unsupported string
	accepts     []string
	moot        func(c *config) bool // whether nothing would look at the setting; any value is then accepted

	// flatten fills in the fields below.
	section string   // title above the row
	flags   []string // flags in form
	meta    string   // argument of the flags in form
	field   int      // index of the value's field in config, -1 if only Python reads the value
}

// none is the default of a setting without a value.
const none = "None"

// start holds the facts that defaults and relative paths depend on.
type start struct {
	dir string   // directory in which the server was started
	env []string // environment at the start
	app string   // application named on the command line
}

// lookup finds a variable in the environment at the start.
func (s *start) lookup(name string) (string, bool) {
	for _, e := range s.env {
		if key, value, ok := strings.Cut(e, "="); ok && key == name {
			return value, true
		}
	}
	return "", false
}

type section struct {
	title string
	rows  []setting
}

// settings is every row, in the order of --help and of the manual.
var settings = flatten(sections, refused)

// options are the flags that are not settings. The rows have no kind.
var options = flatten([]section{{"options", []setting{
	{name: "help", form: "-h, --help", usage: "show this help and exit"},
	{name: "version", form: "-v, --version", usage: "show the version and exit"},
	{name: "man", form: "--man", usage: "show the source of the manual and exit"},
}}}, nil)

// flagged are the rows whose flags a command line may have anywhere. --man stands alone.
var flagged = slices.Concat(options[:2], settings)

// notSupported is the title above the rows of refused.
const notSupported = "Not Supported"

func flatten(sections, refused []section) []*setting {
	fields, all := map[string]int{}, []*setting{}
	for i := range reflect.TypeFor[config]().NumField() {
		fields[strings.ToLower(reflect.TypeFor[config]().Field(i).Name)] = i
	}
	for i, s := range slices.Concat(sections, refused) {
		for _, r := range s.rows {
			if r.section = s.title; i >= len(sections) {
				r.section, r.unsupported = notSupported, s.title
			}
			r.field = -1
			if field, ok := fields[strings.ReplaceAll(r.name, "_", "")]; ok {
				r.field = field
			}
			for _, word := range strings.Fields(r.form) {
				if strings.HasPrefix(word, "-") {
					r.flags = append(r.flags, strings.TrimSuffix(word, ","))
				} else {
					r.meta = word
				}
			}
			all = append(all, &r)
		}
	}
	return all
}

var sections = []section{
	{"Config File", []setting{
		{name: "config", form: "-c, --config CONFIG", kind: textKind, def: "./gunicorn.conf.py", early: true, flagOnly: true,
			usage: "configuration file: PATH, file:PATH or python:MODULE"},
		{name: "wsgi_app", kind: textKind, def: none,
			usage: "application as MODULE:OBJECT"},
		{name: "paste", form: "--paste, --paster STRING", kind: textKind, def: none, early: true,
			usage: "PasteDeploy's file with the application: FILE or FILE#NAME"},
		{name: "raw_paste_global_conf", form: "--paste-global CONF", kind: list, def: none,
			usage: "global variable KEY=VALUE for PasteDeploy; may be repeated"},
	}},
	{"Server Socket", []setting{
		{name: "bind", form: "-b, --bind ADDRESS", kind: list, def: "127.0.0.1:8000", env: "PORT", envText: onEveryHost,
			usage: "address to listen on; may be repeated"},
		{name: "backlog", form: "--backlog INT", kind: posInt, def: "2048",
			usage: "maximum number of connections waiting to be accepted"},
	}},
	{"Worker Processes", []setting{
		{name: "workers", form: "-w, --workers INT", kind: workerCount, def: "1", env: "WEB_CONCURRENCY",
			usage: "number of worker processes, or auto"},
		{name: "worker_class", form: "-k, --worker-class STRING", kind: class, def: "sync",
			accepts: ownClasses, unsupported: "the classes are sync, gthread, gevent, eventlet, asgi and tornado",
			usage: "worker class: sync, gthread, gevent, eventlet, asgi, tornado or MODULE.CLASS"},
		{name: "threads", form: "--threads INT", kind: posInt, def: "1",
			usage: "number of threads in each gthread worker"},
		{name: "worker_connections", form: "--worker-connections INT", kind: posInt, def: "1000",
			derived: noLimitForASGI,
			usage:   "maximum number of connections per worker"},
		{name: "max_requests", form: "--max-requests INT", kind: posInt, def: "0",
			usage: "requests after which a worker is replaced; 0 for no limit"},
		{name: "max_memory", form: "--max-memory SIZE", kind: byteSize, def: "0", ours: true,
			usage: "memory a worker's Python may use before the worker is replaced; 0 for no limit"},
		{name: "max_requests_jitter", form: "--max-requests-jitter INT", kind: posInt, def: "0",
			usage: "maximum random number added to max_requests"},
		{name: "timeout", form: "-t, --timeout INT", kind: posInt, def: "30",
			usage: "seconds a worker may be stuck before it is killed and replaced"},
		{name: "request_timeout", form: "--request-timeout INT", kind: posInt, def: "0", ours: true,
			usage: "seconds a request may run in the application; 0 for no limit"},
		{name: "graceful_timeout", form: "--graceful-timeout INT", kind: posInt, def: "30",
			usage: "seconds that running requests have to finish when the server stops"},
		{name: "keepalive", form: "--keep-alive INT", kind: posInt, def: "2",
			usage: "seconds an idle connection stays open for another request"},
		{name: "asgi_loop", form: "--asgi-loop STRING", def: "auto",
			kind:  choice("Invalid ASGI loop: %s", "", "auto", "asyncio", "uvloop"),
			usage: "event loop for ASGI: auto, asyncio or uvloop"},
		{name: "asgi_lifespan", form: "--asgi-lifespan STRING", def: "auto",
			kind:  choice("Invalid ASGI lifespan: %s", "", "auto", "on", "off"),
			usage: "ASGI lifespan protocol: auto, on or off"},
		{name: "asgi_disconnect_grace_period", form: "--asgi-disconnect-grace-period INT", kind: posInt, def: "3",
			usage: "seconds an ASGI application may go on after its client has left"},
		{name: "http_parser", form: "--http-parser STRING", def: "auto",
			kind:  choice("http_parser must be one of: auto, fast, python", "http_parser must be a string", "auto", "fast", "python"),
			usage: "HTTP parser: auto, fast or python, which are all the same"},
		{name: "websocket_max_message_size", form: "--websocket-max-message-size INT", kind: posInt, def: "16777216",
			usage: "maximum length of a WebSocket message; 0 for no limit"},
		{name: "ws_max_size", form: "--ws-max-size SIZE", kind: byteSize, def: "16M", ours: true,
			derived: func(c *config) string { return strconv.Itoa(c.websocketMaxMessageSize) },
			usage:   "maximum length of a WebSocket message"},
		{name: "ws_ping_interval", form: "--ws-ping-interval INT", kind: posInt, def: "20", ours: true,
			usage: "seconds of silence after which a WebSocket client is pinged"},
		{name: "ws_ping_timeout", form: "--ws-ping-timeout INT", kind: posInt, def: "20", ours: true,
			usage: "seconds a client has to answer a ping"},
		{name: "ws_per_message_deflate", form: "--ws-per-message-deflate STRING", def: "on",
			kind: choice("Invalid ws_per_message_deflate: %s", "", "on", "off"), ours: true,
			usage: "compress WebSocket messages if the client supports it: on or off"},
		{name: "python", form: "--python PATH", kind: textKind, def: none, early: true, ours: true,
			usage: "Python interpreter for the application and the configuration file"},
	}},
	{"Security", []setting{
		{name: "limit_request_line", form: "--limit-request-line INT", kind: posInt, def: "4094",
			usage: "maximum length of a request line in bytes"},
		{name: "limit_request_fields", form: "--limit-request-fields INT", kind: posInt, def: "100",
			usage: "maximum number of header fields in a request"},
		{name: "limit_request_field_size", form: "--limit-request-field_size INT", kind: posInt, def: "8190",
			usage: "maximum length of a header field in bytes"},
		{name: "limit_request_body", form: "--limit-request-body INT", kind: posInt, def: "0",
			usage: "maximum length of a request body in bytes; 0 for no limit"},
	}},
	{"Slow Clients", []setting{
		{name: "client_header_timeout", form: "--client-header-timeout INT", kind: posInt, def: "30",
			usage: "seconds a client has to send the head of a request"},
		{name: "client_body_timeout", form: "--client-body-timeout INT", kind: posInt, def: "30",
			usage: "seconds a client may pause while sending a request body"},
		{name: "client_send_timeout", form: "--client-send-timeout INT", kind: posInt, def: "60",
			usage: "seconds a client may pause while receiving a response"},
		{name: "client_min_rate", form: "--client-min-rate INT", kind: posInt, def: "500",
			usage: "bytes per second that a client must send of a body or receive of a response"},
		{name: "spool_dir", form: "--spool-dir DIR", kind: textKind, def: none, ours: true,
			usage: "directory for bodies that slow clients send and read"},
		{name: "spool_limit", form: "--spool-limit SIZE", kind: byteSize, def: "1G", ours: true,
			usage: "bytes that a worker may have in spool_dir"},
	}},
	{"Load Balancers", []setting{
		{name: "health", form: "--health PATHS", kind: textKind, def: none, ours: true,
			usage: "paths at which the server says whether it is alive, and ready: PATH or PATH,PATH"},
		{name: "health_log", form: "--health-log", kind: boolean, def: "False", ours: true,
			usage: "write requests for the paths of health to the access log, and count them"},
		{name: "drain_delay", form: "--drain-delay INT", kind: posInt, def: "0", ours: true,
			usage: "seconds from TERM to the stop, for load balancers to turn away"},
		{name: "request_id_header", form: "--request-id-header NAME", kind: textKind, def: none, ours: true,
			usage: "header with the id of each request"},
		{name: "queue_limit", form: "--queue-limit INT", kind: posInt, def: "0", ours: true,
			usage: "requests that may wait for the application; 0 for no limit"},
		{name: "queue_timeout", form: "--queue-timeout INT", kind: posInt, def: "0", ours: true,
			usage: "seconds a request may wait for the application; 0 for no limit"},
		{name: "limit_connections_per_client", form: "--limit-connections-per-client INT", kind: posInt, def: "0", ours: true,
			usage: "connections that one client may have; 0 for no limit"},
	}},
	{"Static Files", []setting{
		{name: "static", form: "--static PREFIX=DIR", kind: mountList, def: none, ours: true,
			usage: "directory whose files are sent for paths below a prefix; may be repeated"},
		{name: "static_max_age", form: "--static-max-age INT", kind: posInt, def: "60", ours: true,
			usage: "seconds for which caches may keep a static file without asking again"},
		{name: "static_index", form: "--static-index", kind: boolean, def: "False", ours: true,
			usage: "send index.html for a directory below a static prefix"},
		{name: "static_final", form: "--static-final", kind: boolean, def: "False", ours: true,
			usage: "answer 404 for a path below a static prefix that is no file"},
	}},
	{"Debugging", []setting{
		{name: "reload", form: "--reload", kind: boolean, def: "False",
			usage: "restart workers when code changes"},
		{name: "reload_engine", form: "--reload-engine STRING", def: "auto",
			kind:  choice("Invalid reload_engine: '%s'", "", "auto", "poll", "inotify"),
			usage: "how reload watches files: auto, poll or inotify"},
		{name: "reload_extra_files", form: "--reload-extra-file FILES", kind: existingFiles, def: none,
			usage: "additional file for reload to watch; may be repeated"},
		{name: "spew", form: "--spew", kind: boolean, def: "False",
			usage: "print every line of Python before the line runs"},
		{name: "check_config", form: "--check-config", kind: boolean, def: "False", early: true,
			usage: "check the settings, load the application, and exit"},
		{name: "status", form: "--status FORMAT", kind: statusFormat, def: "off", early: true, ours: true, flagOnly: true,
			usage: "print the state of the server that pidfile names, and exit: table or json"},
		{name: "print_config", form: "--print-config", kind: boolean, def: "False",
			usage: "print the value of every setting, then do as check_config"},
	}},
	{"Server Mechanics", []setting{
		{name: "preload_app", form: "--preload", kind: boolean, def: "False",
			usage: "load the application once, before workers start"},
		{name: "sendfile", form: "--no-sendfile", kind: onUnlessFalse, def: none, env: "SENDFILE", envText: truthy,
			usage: "send files of wsgi.file_wrapper without sendfile(2)"},
		{name: "reuse_port", form: "--reuse-port", kind: boolean, def: "False",
			usage: "let other servers of the same user listen on the same addresses"},
		{name: "chdir", form: "--chdir DIR", kind: directory, def: "the directory it was started in",
			computed: func(s *start) string { return s.dir },
			usage:    "directory to change to before the application is loaded"},
		{name: "daemon", form: "-D, --daemon", kind: boolean, def: "False",
			usage: "run in the background"},
		{name: "raw_env", form: "-e, --env ENV", kind: list, def: none,
			usage: "environment variable KEY=VALUE for the application; may be repeated"},
		{name: "pidfile", form: "-p, --pid FILE", kind: textKind, def: none,
			usage: "file for the process ID of the arbiter"},
		{name: "worker_tmp_dir", form: "--worker-tmp-dir DIR", kind: textKind, def: none,
			usage: "directory for heartbeat files; ignored, as there are none"},
		{name: "user", form: "-u, --user USER", kind: userID, def: "the user that started it",
			computed: func(*start) string { return strconv.Itoa(os.Geteuid()) },
			usage:    "name or ID of the user that workers run as"},
		{name: "group", form: "-g, --group GROUP", kind: groupID, def: "the group that started it",
			computed: func(*start) string { return strconv.Itoa(os.Getegid()) },
			usage:    "name or ID of the group that workers run as"},
		{name: "umask", form: "-m, --umask INT", kind: modeInt, def: "0",
			usage: "umask for unix sockets"},
		{name: "initgroups", form: "--initgroups", kind: boolean, def: "False",
			usage: "give workers all groups of their user"},
		{name: "tmp_upload_dir", kind: textKind, def: none,
			usage: "directory for uploads; ignored, as there are none"},
		{name: "secure_scheme_headers", kind: stringDict, def: "X-FORWARDED-PROTOCOL=ssl,X-FORWARDED-PROTO=https,X-FORWARDED-SSL=on",
			usage: "headers by which a trusted proxy says that its client used https"},
		{name: "forwarded_allow_ips", form: "--forwarded-allow-ips STRING", kind: networks, def: "127.0.0.1,::1", env: "FORWARDED_ALLOW_IPS",
			usage: "trusted proxies: addresses, networks, or * for every peer"},
		{name: "pythonpath", form: "--pythonpath STRING", kind: textKind, def: none,
			usage: "directories that Python searches for modules first, separated by commas"},
		{name: "proxy_protocol", form: "--proxy-protocol MODE", kind: proxyMode, def: "off",
			usage: "accept a PROXY header before the first request: off, v1, v2 or auto"},
		{name: "proxy_allow_ips", form: "--proxy-allow-from STRING", kind: networks, def: "127.0.0.1,::1",
			usage: "proxies that may send a PROXY header: addresses, networks, or * for every peer"},
		{name: "permit_obsolete_folding", form: "--permit-obsolete-folding", kind: boolean, def: "False",
			usage: "accept header fields that continue on the next line"},
		{name: "strip_header_spaces", form: "--strip-header-spaces", kind: boolean, def: "False",
			usage: "accept spaces between the name of a header field and its colon"},
		{name: "permit_unconventional_http_method", form: "--permit-unconventional-http-method", kind: boolean, def: "False",
			usage: "accept any token as a request method"},
		{name: "permit_unconventional_http_version", form: "--permit-unconventional-http-version", kind: boolean, def: "False",
			usage: "accept HTTP versions that do not begin with 1"},
		{name: "casefold_http_method", form: "--casefold-http-method", kind: boolean, def: "False",
			usage: "convert request methods to upper case"},
		{name: "forwarder_headers", form: "--forwarder-headers STRING", kind: words, def: "SCRIPT_NAME,PATH_INFO",
			usage: "headers with an underscore that a trusted proxy may send"},
		{name: "header_map", form: "--header-map STRING", def: "drop",
			kind:  choice("Invalid header map behaviour: %s", "", "drop", "refuse", "dangerous"),
			usage: "what to do with headers with an underscore: drop, refuse or dangerous"},
		{name: "root_path", form: "--root-path STRING", kind: textKind, def: "",
			usage: "path at which an ASGI application is mounted"},
		{name: "control_socket_disable", form: "--no-control-socket", kind: boolean, def: "False",
			usage: "do without a control socket, as this server always does"},
	}},
	{"Logging", []setting{
		{name: "accesslog", form: "--access-logfile FILE", kind: textKind, def: none,
			usage: "file for the access log, or - for standard output"},
		{name: "disable_redirect_access_to_syslog", form: "--disable-redirect-access-to-syslog", kind: boolean, def: "False",
			usage: "keep the access log out of syslog"},
		{name: "access_log_format", form: "--access-logformat STRING", kind: textKind, def: `%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"`,
			usage: "format of a line of the access log"},
		{name: "access_log_json", form: "--access-log-json", kind: boolean, def: "False", ours: true,
			usage: "write each line of the access log as a JSON object"},
		{name: "errorlog", form: "--error-logfile, --log-file FILE", kind: textKind, def: "-",
			usage: "file for the error log, or - for standard error"},
		{name: "loglevel", form: "--log-level LEVEL", kind: textKind, def: "info",
			usage: "lowest level in the error log: debug, info, warning, error or critical"},
		{name: "capture_output", form: "--capture-output", kind: boolean, def: "False",
			usage: "send standard output and standard error to the file of errorlog"},
		{name: "logger_class", form: "--logger-class STRING", kind: class, def: "gunicorn.glogging.Logger",
			usage: "Python class that makes the logs"},
		{name: "logconfig", form: "--log-config FILE", kind: textKind, def: none,
			usage: "INI file that configures the logging module of Python"},
		{name: "logconfig_dict", kind: anyDict, def: "{}",
			usage: "dictionary that configures the logging module of Python"},
		{name: "logconfig_json", form: "--log-config-json FILE", kind: textKind, def: none,
			usage: "JSON file that configures the logging module of Python"},
		{name: "syslog_addr", form: "--log-syslog-to SYSLOG_ADDR", kind: textKind, def: "udp://localhost:514",
			usage: "address of syslog"},
		{name: "syslog", form: "--log-syslog", kind: boolean, def: "False",
			usage: "send the logs to syslog as well"},
		{name: "syslog_prefix", form: "--log-syslog-prefix SYSLOG_PREFIX", kind: textKind, def: none,
			usage: "name of the program in syslog"},
		{name: "syslog_facility", form: "--log-syslog-facility SYSLOG_FACILITY", kind: textKind, def: "user",
			usage: "syslog facility"},
		{name: "enable_stdio_inheritance", form: "-R, --enable-stdio-inheritance", kind: boolean, def: "False",
			usage: "keep standard output and standard error open in the background"},
		{name: "metrics", form: "--metrics ADDRESS", kind: textKind, def: none, ours: true,
			usage: "address at which Prometheus can read metrics"},
		{name: "statsd_host", form: "--statsd-host STATSD_ADDR", kind: statsdAddr, def: none,
			usage: "address of the statsd server that gets metrics"},
		{name: "dogstatsd_tags", form: "--dogstatsd-tags DOGSTATSD_TAGS", kind: textKind, def: "",
			usage: "tags for every statsd metric, separated by commas"},
		{name: "statsd_prefix", form: "--statsd-prefix STATSD_PREFIX", kind: textKind, def: "",
			usage: "prefix for the names of statsd metrics"},
		{name: "enable_backlog_metric", form: "--enable-backlog-metric", kind: boolean, def: "False",
			usage: "report how many connections wait to be accepted"},
	}},
	{"Process Naming", []setting{
		{name: "proc_name", form: "-n, --name STRING", kind: textKind, def: none,
			usage: "process name in ps(1) and top(1)"},
		{name: "default_proc_name", kind: textKind, def: "the application named on the command line, or gunicorn",
			computed: func(s *start) string { return cmp.Or(s.app, "gunicorn") },
			usage:    "process name where proc_name is not set"},
	}},
	{"Server Hooks", []setting{
		{name: "on_starting", kind: hook(1, 1), def: "OnStarting.on_starting", usage: "called with the arbiter before it listens"},
		{name: "on_reload", kind: hook(1, 1), def: "OnReload.on_reload", usage: "called with the arbiter when HUP starts new workers"},
		{name: "when_ready", kind: hook(1, 1), def: "WhenReady.when_ready", usage: "called with the arbiter when it listens"},
		{name: "pre_fork", kind: hook(2, 2), def: "Prefork.pre_fork", usage: "called with arbiter and worker before a worker starts"},
		{name: "post_fork", kind: hook(2, 2), def: "Postfork.post_fork", usage: "called with arbiter and worker in a worker that starts"},
		{name: "post_worker_init", kind: hook(1, 1), def: "PostWorkerInit.post_worker_init",
			usage: "called with the worker when it has loaded the application"},
		{name: "worker_int", kind: hook(1, 1), def: "WorkerInt.worker_int", usage: "called with the worker on INT or QUIT"},
		{name: "worker_abort", kind: hook(1, 1), def: "WorkerAbort.worker_abort", usage: "called with the worker on ABRT"},
		{name: "pre_exec", kind: hook(1, 1), def: "PreExec.pre_exec", usage: "called with the arbiter before USR2 executes a new server"},
		{name: "pre_request", kind: hook(2, 2), def: "PreRequest.pre_request",
			usage: "called with worker and request before the application is called"},
		{name: "post_request", kind: hook(2, 4), def: "PostRequest.post_request",
			usage: "called with worker, request, environ and response after a request"},
		{name: "child_exit", kind: hook(2, 2), def: "ChildExit.child_exit",
			usage: "called with arbiter and worker when a worker has ended"},
		{name: "worker_exit", kind: hook(2, 2), def: "WorkerExit.worker_exit",
			usage: "called with arbiter and worker in a worker that ends"},
		{name: "nworkers_changed", kind: hook(3, 3), def: "NumWorkersChanged.nworkers_changed",
			usage: "called with the arbiter and the new and old number of workers"},
		{name: "on_exit", kind: hook(1, 1), def: "OnExit.on_exit", usage: "called with the arbiter before it exits"},
	}},
	{"SSL", []setting{
		{name: "keyfile", form: "--keyfile FILE", kind: textKind, def: none,
			usage: "PEM file with the private key of the certificate"},
		{name: "certfile", form: "--certfile FILE", kind: textKind, def: none,
			usage: "PEM file with the certificate; turns TLS on"},
		{name: "ssl_version", form: "--ssl-version SSL_VERSION", kind: anything, def: "2",
			usage: "version of TLS; ignored, as the version is negotiated"},
		{name: "cert_reqs", form: "--cert-reqs INT", kind: lateInt, def: "0",
			usage: "client certificates: 0 none, 1 optional, 2 required"},
		{name: "ca_certs", form: "--ca-certs FILE", kind: textKind, def: none,
			usage: "PEM file with the authorities for client certificates"},
		{name: "suppress_ragged_eofs", form: "--suppress-ragged-eofs", kind: boolean, def: "True",
			usage: "treat a TLS connection that is cut off as one that is closed"},
		{name: "do_handshake_on_connect", form: "--do-handshake-on-connect", kind: boolean, def: "False",
			usage: "do the TLS handshake first, as this server always does"},
		{name: "ciphers", form: "--ciphers STRING", kind: textKind, def: none,
			usage: "ciphers for TLS 1.2, as an OpenSSL cipher list"},
	}},
	{"HTTP/2", []setting{
		{name: "http_protocols", form: "--http-protocols STRING", kind: protocols, def: "h1",
			usage: "protocols that clients may speak, by preference: h1, h2"},
		{name: "http2_cleartext", form: "--http2-cleartext STRING", kind: http2Cleartext, def: "off",
			usage: "HTTP/2 without TLS, from forwarded_allow_ips: off, prior-knowledge, upgrade, both"},
		{name: "http2_max_concurrent_streams", form: "--http2-max-concurrent-streams INT", kind: streamLimit, def: "100",
			usage: "requests that may run at once on one connection"},
		{name: "http2_initial_window_size", form: "--http2-initial-window-size INT", kind: windowSize, def: "65535",
			usage: "bytes of a request body that a client may send ahead"},
		{name: "http2_max_frame_size", form: "--http2-max-frame-size INT", kind: frameSize, def: "16384",
			usage: "largest frame that a client may send"},
		{name: "http2_max_header_list_size", form: "--http2-max-header-list-size INT", kind: posInt, def: "65536",
			usage: "bytes of all header fields of a request; 0 for the limits of HTTP/1.1"},
	}},
}

// refused are the settings that this server recognises only to refuse them. The
// title of each section says what to do instead.
var refused = []section{
	{"a context of Python is of no use to this server; see the settings of the section SSL", []setting{
		{name: "ssl_context", kind: hook(2, 2), def: "NewSSLContext.ssl_context",
			moot: func(c *config) bool {
				return !c.usesTLS() || c.classInPython() && cmp.Or(c.classFamily(), familyOwn) == familyOwn
			}},
	}},
	{"let the proxy speak HTTP, as proxy_pass of nginx does", []setting{
		{name: "protocol", form: "--protocol STRING", kind: textKind, def: "http"},
		{name: "uwsgi_allow_ips", form: "--uwsgi-allow-from STRING", kind: networks, def: "127.0.0.1,::1"},
	}},
	{"control the server with signals", []setting{
		{name: "control_socket", form: "--control-socket PATH", kind: textKind, def: "gunicorn.ctl below XDG_RUNTIME_DIR or ~/.gunicorn", computed: controlPath},
		{name: "control_socket_mode", form: "--control-socket-mode INT", kind: modeInt, def: "0600"},
	}},
	{"there are no dirty arbiters; use a task queue", []setting{
		{name: "dirty_apps", form: "--dirty-app STRING", kind: list, def: none},
		{name: "dirty_workers", form: "--dirty-workers INT", kind: posInt, def: "0"},
		{name: "dirty_timeout", form: "--dirty-timeout INT", kind: posInt, def: "300"},
		{name: "dirty_threads", form: "--dirty-threads INT", kind: posInt, def: "1"},
		{name: "dirty_graceful_timeout", form: "--dirty-graceful-timeout INT", kind: posInt, def: "30"},
		{name: "on_dirty_starting", kind: hook(1, 1), def: "OnDirtyStarting.on_dirty_starting"},
		{name: "dirty_post_fork", kind: hook(2, 2), def: "DirtyPostFork.dirty_post_fork"},
		{name: "dirty_worker_init", kind: hook(1, 1), def: "DirtyWorkerInit.dirty_worker_init"},
		{name: "dirty_worker_exit", kind: hook(2, 2), def: "DirtyWorkerExit.dirty_worker_exit"},
	}},
}

// onEveryHost turns the variable PORT into an address.
func onEveryHost(port string) string { return "0.0.0.0:" + port }

// noLimitForASGI gives worker_connections no limit by default with asgi, because
// a connection may be a WebSocket that stays for hours.
func noLimitForASGI(c *config) string {
	if c.classFamily() == familyASGI {
		return "0"
	}
	return ""
}

// truthy turns the variable SENDFILE into a boolean, as Gunicorn does.
func truthy(text string) string {
	switch strings.ToLower(text) {
	case "y", "1", "yes", "true":
		return "True"
	}
	return "False"
}

func controlPath(s *start) string {
	if dir, _ := s.lookup("XDG_RUNTIME_DIR"); dir != "" {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir + "/gunicorn.ctl"
		}
	}
	home, _ := s.lookup("HOME")
	return home + "/.gunicorn/gunicorn.ctl"
}

// family is a group of worker classes that work alike.
type family struct {
	name    string
	classes string // names of the classes; a name that ends in a dot is a prefix
	what    string // purpose of such workers, for messages
}

// families are Gunicorn's and uvicorn's worker classes.
var families = [...]family{
	{familySync, "gunicorn.workers.sync.", "one request at a time"},
	{familyThread, "gunicorn.workers.gthread.", "threads"},
	{familyGevent, "gevent_wsgi gevent_pywsgi gunicorn.workers.ggevent.", "gevent"},
	{familyEventlet, "gunicorn.workers.geventlet.", "eventlet"},
	{familyOwn, "tornado gunicorn.workers.gtornado.", "Tornado"},
	{familyASGI, "gunicorn.workers.gasgi. uvicorn.workers. uvicorn_worker.", "ASGI applications"},
}

// Families that this server supports.
const (
	familySync     = "sync"
	familyThread   = "gthread"
	familyGevent   = "gevent"
	familyEventlet = "eventlet"
	familyASGI     = "asgi"
	familyOwn      = "own" // a class that has a server of its own, in Python: the user's, or Tornado's
)

// ownClasses are the names of all worker classes that this server accepts.
var ownClasses = []string{
	familySync, "egg:gunicorn#sync", "gunicorn.workers.sync.SyncWorker",
	familyThread, "egg:gunicorn#gthread", "gunicorn.workers.gthread.ThreadWorker",
	familyGevent, "egg:gunicorn#gevent", "gunicorn.workers.ggevent.GeventWorker",
	"gevent_wsgi", "egg:gunicorn#gevent_wsgi", "gevent_pywsgi", "egg:gunicorn#gevent_pywsgi",
	"gunicorn.workers.ggevent.GeventPyWSGIWorker",
	familyEventlet, "egg:gunicorn#eventlet", "gunicorn.workers.geventlet.EventletWorker",
	familyASGI, "egg:gunicorn#asgi", "gunicorn.workers.gasgi.ASGIWorker",
	"tornado", "egg:gunicorn#tornado", "gunicorn.workers.gtornado.TornadoWorker",
	"uvicorn.workers.UvicornWorker", "uvicorn.workers.UvicornH11Worker",
	"uvicorn_worker.UvicornWorker", "uvicorn_worker.UvicornH11Worker",
}

// foreignClass is the error for a name that can be no worker class: a misspelled name, or the
// name of a class of Gunicorn's which this server does not have. Python finds out about a
// class of the user's own (template.classify).
func (c *config) foreignClass(r *setting) error {
	name := c.workerClass
	what := familyOf(name).what
	switch meant := nearest(name, r.accepts); {
	case name == "" && len(c.bases(r.name)) > 0:
		return nil
	case name == "":
		return sentence("%s: not supported by this server: %s", r.name, r.unsupported)
	case meant != "":
		return sentence("%s: %s is not a worker class; did you mean %s?", r.name, pyRepr(name), meant)
	case what != "" && !strings.HasPrefix(name, "uvicorn"):
		return sentence("%s: not supported by this server: %s is a class of workers for %s; %s", r.name, name, what, r.unsupported)
	case !strings.ContainsAny(name, ".:"): // names of Python classes have a dot or a colon
		return sentence("%s: %s is not a worker class; %s", r.name, pyRepr(name), r.unsupported)
	}
	return nil
}

// classInPython reports whether Python has to find the worker class: a class of the user's, a
// class that serves in Python, or uvicorn's if the configuration file has imported that, and so
// may have changed it.
func (c *config) classInPython() bool {
	return !slices.Contains(ownClasses, c.workerClass) || familyOf(c.workerClass).name == familyOwn || c.said["uvicorn"] == true && strings.HasPrefix(c.workerClass, "uvicorn")
}

// class has the facts that Python has found out about the worker class (classes.py).
func (c *config) class() map[string]any {
	facts, _ := c.said["class"].(map[string]any)
	return facts
}

// classFamily is the name of the worker class's family.
func (c *config) classFamily() string {
	if name, ok := c.class()["family"].(string); ok {
		return name
	}
	return familyOf(c.workerClass).name
}

// nearest returns the name out of names that a misspelled name probably means, or
// "". A candidate continues the misspelled name after a dot, or differs in one
// place by at most two letters. A different first letter is no misspelling: wsgi
// does not mean asgi.
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

// familyOf returns the family of a class, or a family without a name.
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

// family is the name of the workers' family. sync with several threads is gthread.
func (c *config) family() string {
	name := c.classFamily()
	if name == familySync && c.threads > 1 && c.class() == nil {
		return familyThread
	}
	return name
}

// className is the worker class for the log.
func (c *config) className() string {
	if name := c.family(); c.classFamily() != name {
		return name
	}
	if name, ok := c.class()["name"].(string); ok && c.workerClass == "" {
		return name[strings.LastIndexByte(name, '.')+1:]
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
	case familyOwn:
		return 0
	}
	return 1
}

// warnOfThreads tells of a combination that keeps no connection.
func (c *config) warnOfThreads(log *errorLog) {
	if c.family() == familyThread && c.keepalive > 0 && c.workerConnections > 0 && c.workerConnections <= c.threads {
		log.warningf("No keepalived connections can be handled. Check the number of worker connections and threads.")
	}
}

// printHelp writes the output of --help: every flag, by section.
func printHelp(w io.Writer) {
	fmt.Fprint(w, "usage: gunicorn [OPTIONS] [APP_MODULE]\n")
	section := ""
	for _, r := range slices.Concat(options, settings) {
		if r.flags == nil {
			continue
		}
		if r.section != section {
			section = r.section
			fmt.Fprintf(w, "\n%s:\n", section)
		}
		argument, usage := "", r.usage
		switch {
		case r.kind != nil && r.kind.optional:
			argument = " [" + r.meta + "]"
		case r.meta != "":
			argument = " " + r.meta
		}
		if r.unsupported != "" && r.accepts == nil {
			usage = "(not supported) " + r.unsupported
		} else if r.kind != nil {
			usage += " [" + r.def + "]"
		}
		printFlag(w, strings.Join(r.flags, argument+", ")+argument, usage)
	}
}

// printFlag writes flags in one column and their usage in a second.
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
