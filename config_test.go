package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// source is what loadConfig reads.
type source struct {
	args []string
	env  []string
	file map[string]any // variables of conf.py, as read_config gives them; nil: no file
	dir  string
}

// load reads s. The file is faked, at the one place where Python comes in.
func load(t *testing.T, s source) (*config, error) {
	t.Helper()
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	if s.file != nil {
		conf := filepath.Join(s.dir, "gunicorn.conf.py")
		if err := os.WriteFile(conf, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return loadConfig(s.args, s.env, s.dir, func(c *config, spec string) (map[string]any, error) {
		if !strings.HasSuffix(spec, "gunicorn.conf.py") && (spec != "" || c.paste == "") {
			t.Errorf("eval of %q", spec)
		}
		return s.file, nil
	})
}

func mustLoad(t *testing.T, s source) *config {
	t.Helper()
	c, err := load(t, s)
	if err != nil {
		t.Fatalf("%+v: %v", s, err)
	}
	return c
}

// wantFailure checks the status and the whole text of a failure.
func wantFailure(t *testing.T, err error, status int, text string) {
	t.Helper()
	var e *startError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want status %d and %q", err, status, text)
	}
	if e.status != status || e.text != text {
		t.Errorf("got status %d and %q\nwant status %d and %q", e.status, e.text, status, text)
	}
}

func usage(text string) string {
	return "usage: gunicorn [OPTIONS] [APP_MODULE]\ngunicorn: error: " + text + "\n"
}

func shown(c *config, name string) string {
	value := "no such setting"
	c.each(func(n, v string) {
		if n == name {
			value = v
		}
	})
	return value
}

// stored is the field of a row, nil if it has none.
func stored(c *config, r *setting) any {
	if r.field < 0 {
		return nil
	}
	return reflect.ValueOf(r.fieldOf(c)).Elem().Interface()
}

// printed is what `gunicorn --print-config app:app` of Python's Gunicorn
// 27.0.1 prints in /start with HOME=/home/u, and uid and gid of ours.
const printed = `access_log_format                  = %(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"
access_log_json                    = False
accesslog                          = None
asgi_disconnect_grace_period       = 3
asgi_lifespan                      = auto
asgi_loop                          = auto
backlog                            = 2048
bind                               = ['127.0.0.1:8000']
ca_certs                           = None
capture_output                     = False
casefold_http_method               = False
cert_reqs                          = 0
certfile                           = None
chdir                              = START
check_config                       = False
child_exit                         = <ChildExit.child_exit()>
ciphers                            = None
client_body_timeout                = 30
client_header_timeout              = 30
client_min_rate                    = 500
client_send_timeout                = 60
config                             = ./gunicorn.conf.py
control_socket                     = /home/u/.gunicorn/gunicorn.ctl
control_socket_disable             = False
control_socket_mode                = 384
daemon                             = False
default_proc_name                  = app:app
dirty_apps                         = []
dirty_graceful_timeout             = 30
dirty_post_fork                    = <DirtyPostFork.dirty_post_fork()>
dirty_threads                      = 1
dirty_timeout                      = 300
dirty_worker_exit                  = <DirtyWorkerExit.dirty_worker_exit()>
dirty_worker_init                  = <DirtyWorkerInit.dirty_worker_init()>
dirty_workers                      = 0
disable_redirect_access_to_syslog  = False
do_handshake_on_connect            = False
dogstatsd_tags                     = 
drain_delay                        = 0
enable_backlog_metric              = False
enable_stdio_inheritance           = False
errorlog                           = -
forwarded_allow_ips                = ['127.0.0.1', '::1']
forwarder_headers                  = ['SCRIPT_NAME', 'PATH_INFO']
graceful_timeout                   = 30
group                              = GID
header_map                         = drop
health                             = None
health_log                         = False
http2_cleartext                    = off
http2_initial_window_size          = 65535
http2_max_concurrent_streams       = 100
http2_max_frame_size               = 16384
http2_max_header_list_size         = 65536
http_parser                        = auto
http_protocols                     = ['h1']
initgroups                         = False
keepalive                          = 2
keyfile                            = None
limit_connections_per_client       = 0
limit_request_body                 = 0
limit_request_field_size           = 8190
limit_request_fields               = 100
limit_request_line                 = 4094
logconfig                          = None
logconfig_dict                     = {}
logconfig_json                     = None
logger_class                       = gunicorn.glogging.Logger
loglevel                           = info
max_memory                         = 0
max_requests                       = 0
max_requests_jitter                = 0
metrics                            = None
nworkers_changed                   = <NumWorkersChanged.nworkers_changed()>
on_dirty_starting                  = <OnDirtyStarting.on_dirty_starting()>
on_exit                            = <OnExit.on_exit()>
on_reload                          = <OnReload.on_reload()>
on_starting                        = <OnStarting.on_starting()>
paste                              = None
permit_obsolete_folding            = False
permit_unconventional_http_method  = False
permit_unconventional_http_version = False
pidfile                            = None
post_fork                          = <Postfork.post_fork()>
post_request                       = <PostRequest.post_request()>
post_worker_init                   = <PostWorkerInit.post_worker_init()>
pre_exec                           = <PreExec.pre_exec()>
pre_fork                           = <Prefork.pre_fork()>
pre_request                        = <PreRequest.pre_request()>
preload_app                        = False
print_config                       = True
proc_name                          = None
protocol                           = http
proxy_allow_ips                    = ['127.0.0.1', '::1']
proxy_protocol                     = off
python                             = None
pythonpath                         = None
queue_limit                        = 0
queue_timeout                      = 0
raw_env                            = []
raw_paste_global_conf              = []
reload                             = False
reload_engine                      = auto
reload_extra_files                 = []
request_id_header                  = None
request_timeout                    = 0
reuse_port                         = False
root_path                          = 
secure_scheme_headers              = {'X-FORWARDED-PROTOCOL': 'ssl', 'X-FORWARDED-PROTO': 'https', 'X-FORWARDED-SSL': 'on'}
sendfile                           = None
spew                               = False
spool_dir                          = None
spool_limit                        = 1073741824
ssl_context                        = <NewSSLContext.ssl_context()>
ssl_version                        = 2
static                             = []
static_final                       = False
static_index                       = False
static_max_age                     = 60
statsd_host                        = None
statsd_prefix                      = 
status                             = off
strip_header_spaces                = False
suppress_ragged_eofs               = True
syslog                             = False
syslog_addr                        = udp://localhost:514
syslog_facility                    = user
syslog_prefix                      = None
threads                            = 1
timeout                            = 30
tmp_upload_dir                     = None
umask                              = 0
user                               = UID
uwsgi_allow_ips                    = ['127.0.0.1', '::1']
websocket_max_message_size         = 16777216
when_ready                         = <WhenReady.when_ready()>
worker_abort                       = <WorkerAbort.worker_abort()>
worker_class                       = sync
worker_connections                 = 1000
worker_exit                        = <WorkerExit.worker_exit()>
worker_int                         = <WorkerInt.worker_int()>
worker_tmp_dir                     = None
workers                            = 1
ws_max_size                        = 16777216
ws_per_message_deflate             = on
ws_ping_interval                   = 20
ws_ping_timeout                    = 20
wsgi_app                           = None
`

func TestPrintConfig(t *testing.T) {
	dir := t.TempDir()
	c := mustLoad(t, source{args: []string{"--print-config", "app:app"}, env: []string{"HOME=/home/u"}, dir: dir})
	var got bytes.Buffer
	c.print(&got)
	want := strings.NewReplacer("START", dir, "GID", fmt.Sprint(os.Getegid()), "UID", fmt.Sprint(os.Geteuid())).Replace(printed)
	lines := strings.Split(got.String(), "\n")
	for i, line := range strings.Split(want, "\n") {
		t.Run(strings.Fields(line + " end")[0], func(t *testing.T) {
			if i >= len(lines) || lines[i] != line {
				t.Errorf("got  %q\nwant %q", lines[min(i, len(lines)-1)], line)
			}
		})
	}
}

// sample sets one row. Of the values, as typed, each source takes one: the
// configuration file, GUNICORN_CMD_ARGS and the command line.
type sample struct {
	name   string
	values []string
	def    any      // the field by default; nil: the row has none
	fields []any    // the field for each of the values
	shown  []string // by --print-config, if not as typed
}

func texts(values ...any) []any { return values }

var samples = []sample{
	{name: "wsgi_app", values: []string{"a:b"}, def: "", fields: texts("a:b")},
	{name: "paste", values: []string{"a.ini", "b.ini#c", "d.ini"}, def: "", fields: texts("a.ini", "b.ini#c", "d.ini")},
	{name: "raw_paste_global_conf", values: []string{"A=b", "C=d", "E=f"}, shown: []string{"['A=b']", "['C=d']", "['E=f']"}},
	{
		name: "bind", values: []string{"a:1", "unix:/b", ":3"}, def: []string{"127.0.0.1:8000"},
		fields: texts([]string{"a:1"}, []string{"unix:/b"}, []string{":3"}),
		shown:  []string{"['a:1']", "['unix:/b']", "[':3']"},
	},
	{name: "backlog", values: []string{"1", "0", "3"}, def: 2048, fields: texts(1, 0, 3)},
	{name: "workers", values: []string{"5", "6", "7"}, def: 1, fields: texts(5, 6, 7)},
	{
		name:   "worker_class",
		values: []string{"gunicorn.workers.sync.SyncWorker", "egg:gunicorn#gthread", "gevent"}, def: "sync",
		fields: texts("gunicorn.workers.sync.SyncWorker", "egg:gunicorn#gthread", "gevent"),
	},
	{name: "threads", values: []string{"0", "1", "8"}, def: 1, fields: texts(0, 1, 8)},
	{name: "worker_connections", values: []string{"1", "2", "3"}, def: 1000, fields: texts(1, 2, 3)},
	{name: "max_requests", values: []string{"1", "2", "3"}, def: 0, fields: texts(1, 2, 3)},
	{name: "max_memory", values: []string{"1", "2k", "3MB"}, def: int64(0), fields: texts(int64(1), int64(2048), int64(3<<20)), shown: []string{"1", "2048", "3145728"}},
	{name: "metrics", values: []string{"a:1", "unix:/b", ":3"}, def: "", fields: texts("a:1", "unix:/b", ":3")},
	{name: "max_requests_jitter", values: []string{"1", "2", "3"}, def: 0, fields: texts(1, 2, 3)},
	{name: "timeout", values: []string{"1", "0", "3"}, def: 30 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "request_timeout", values: []string{"1", "0", "3"}, def: time.Duration(0),
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "graceful_timeout", values: []string{"1", "0", "3"}, def: 30 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "keepalive", values: []string{"1", "0", "3"}, def: 2 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "limit_request_line", values: []string{"1", "0", "3"}, def: 4094, fields: texts(1, 0, 3)},
	{name: "limit_request_fields", values: []string{"1", "0", "3"}, def: 100, fields: texts(1, 0, 3)},
	{name: "limit_request_field_size", values: []string{"1", "0", "3"}, def: 8190, fields: texts(1, 0, 3)},
	{name: "limit_request_body", values: []string{"1", "0", "5000000000"}, def: int64(0),
		fields: texts(int64(1), int64(0), int64(5000000000))},
	{name: "client_header_timeout", values: []string{"1", "0", "3"}, def: 30 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "client_body_timeout", values: []string{"1", "0", "3"}, def: 30 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "client_send_timeout", values: []string{"1", "0", "3"}, def: 60 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "spool_dir", values: []string{"/tmp", "/var/tmp", "/dev/shm"}, def: "", fields: texts("/tmp", "/var/tmp", "/dev/shm")},
	{name: "spool_limit", values: []string{"1", "2k", "0"}, def: int64(1 << 30), fields: texts(int64(1), int64(2048), int64(0)), shown: []string{"1", "2048", "0"}},
	{name: "health", values: []string{"/a", "/a,/b", "/c"}, def: "", fields: texts("/a", "/a,/b", "/c")},
	{name: "request_id_header", values: []string{"X-Request-ID", "a", "B"}, def: "", fields: texts("X-Request-ID", "a", "B")},
	{name: "queue_limit", values: []string{"1", "0", "3"}, def: 0, fields: texts(1, 0, 3)},
	{name: "queue_timeout", values: []string{"1", "0", "3"}, def: time.Duration(0), fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "limit_connections_per_client", values: []string{"1", "0", "3"}, def: 0, fields: texts(1, 0, 3)},
	{name: "drain_delay", values: []string{"1", "0", "3"}, def: time.Duration(0), fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "client_min_rate", values: []string{"1", "0", "3"}, def: 500, fields: texts(1, 0, 3)},
	{
		name: "static", values: []string{"/a/=/", "/b=/tmp", "/c=/usr"}, def: []string{},
		fields: texts([]string{"/a/=/"}, []string{"/b=/tmp"}, []string{"/c=/usr"}),
		shown:  []string{"['/a/=/']", "['/b=/tmp']", "['/c=/usr']"},
	},
	{name: "static_max_age", values: []string{"1", "0", "3"}, def: 60, fields: texts(1, 0, 3)},
	{name: "reload_engine", values: []string{"POLL", "inotify", "auto"}, def: "auto",
		fields: texts("poll", "inotify", "auto"), shown: []string{"poll", "inotify", "auto"}},
	{
		name: "reload_extra_files", values: []string{"/", "none*", "/tmp"}, def: []string{},
		fields: texts([]string{"/"}, []string{"none*"}, []string{"/tmp"}),
		shown:  []string{"['/']", "['none*']", "['/tmp']"},
	},
	{name: "chdir", values: []string{"/", "/tmp", "/usr"}, fields: texts("/", "/tmp", "/usr")},
	{
		name: "raw_env", values: []string{"A=1", "B=2", "C=x=y"}, def: []string{},
		fields: texts([]string{"A=1"}, []string{"B=2"}, []string{"C=x=y"}),
		shown:  []string{"['A=1']", "['B=2']", "['C=x=y']"},
	},
	{name: "pidfile", values: []string{"a", "b", ""}, def: "", fields: texts("a", "b", "")},
	{name: "worker_tmp_dir", values: []string{"/dev/shm", "b", "c"}},
	{name: "user", values: []string{"54321", "1", "0"}, def: os.Geteuid(), fields: texts(54321, 1, 0)},
	{name: "group", values: []string{"54321", "1", "0"}, def: os.Getegid(), fields: texts(54321, 1, 0)},
	{name: "umask", values: []string{"0o22", "0x1f", "0117"}, def: 0, fields: texts(18, 31, 79),
		shown: []string{"18", "31", "79"}},
	{name: "tmp_upload_dir", values: []string{"/tmp"}},
	{
		name: "forwarded_allow_ips", values: []string{"1.2.3.4", "*", "10.0.0.0/8, ::1"},
		def: trustList{nets: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}},
		fields: texts(trustList{nets: []netip.Prefix{netip.MustParsePrefix("1.2.3.4/32")}},
			trustList{all: true},
			trustList{nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}),
		shown: []string{"['1.2.3.4']", "['*']", "['10.0.0.0/8', '::1']"},
	},
	{
		name: "proxy_allow_ips", values: []string{"1.2.3.4", "*", "10.0.0.0/8, ::1"},
		def: trustList{nets: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}},
		fields: texts(trustList{nets: []netip.Prefix{netip.MustParsePrefix("1.2.3.4/32")}},
			trustList{all: true},
			trustList{nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}),
		shown: []string{"['1.2.3.4']", "['*']", "['10.0.0.0/8', '::1']"},
	},
	{name: "accesslog", values: []string{"-", "b", "c"}, def: "", fields: texts("-", "b", "c")},
	{name: "access_log_format", values: []string{"%(h)s", "µ", "é"},
		def: `%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"`, fields: texts("%(h)s", "µ", "é")},
	{name: "errorlog", values: []string{"a", "-", "c"}, def: "-", fields: texts("a", "-", "c")},
	{name: "logger_class", values: []string{"a.B", "simple", "c.D"}, def: "gunicorn.glogging.Logger",
		fields: texts("a.B", "simple", "c.D")},
	{name: "logconfig", values: []string{"a", "b", "c"}, def: "", fields: texts("a", "b", "c")},
	{name: "logconfig_json", values: []string{"a", "b", "c"}, def: "", fields: texts("a", "b", "c")},
	{name: "syslog_addr", values: []string{"tcp://a:1", "unix:///dev/log#dgram", "udp://[::1]"}, def: "udp://localhost:514",
		fields: texts("tcp://a:1", "unix:///dev/log#dgram", "udp://[::1]")},
	{name: "syslog_prefix", values: []string{"a", "b", "c"}, def: "", fields: texts("a", "b", "c")},
	{name: "syslog_facility", values: []string{"MAIL", "local0", "cron"}, def: "user", fields: texts("MAIL", "local0", "cron")},
	{
		name: "statsd_host", values: []string{"a", "[::1]:5", "unix:///a/b"}, def: "",
		fields: texts("a:8125", "[::1]:5", "unix:/a/b"),
		shown:  []string{"('a', 8125)", "('::1', 5)", "/a/b"},
	},
	{name: "statsd_prefix", values: []string{"a", "b.", "c"}, def: "", fields: texts("a", "b.", "c")},
	{name: "dogstatsd_tags", values: []string{"a:b", "c", "d,e:f"}, def: "", fields: texts("a:b", "c", "d,e:f")},
	{name: "loglevel", values: []string{"DEBUG", "error", "nonsense"}, def: "info", fields: texts("DEBUG", "error", "nonsense")},
	{name: "proc_name", values: []string{"a", "b", "c"}, def: "", fields: texts("a", "b", "c")},
	{name: "default_proc_name", values: []string{"a"}, def: "app:app", fields: texts("a")},
	{name: "pythonpath", values: []string{"a", "b", "a,b"}},
	{
		name: "forwarder_headers", values: []string{"A", "*", "B,,C "}, def: []string{"SCRIPT_NAME", "PATH_INFO"},
		fields: texts([]string{"A"}, []string{"*"}, []string{"B", "C"}),
		shown:  []string{"['A']", "['*']", "['B', 'C']"},
	},
	{name: "header_map", values: []string{"Refuse", "dangerous", " drop "}, def: "drop",
		fields: texts("refuse", "dangerous", "drop"), shown: []string{"refuse", "dangerous", "drop"}},
	{name: "certfile", values: []string{"a", "b", "c"}, def: "", fields: texts("a", "b", "c")},
	{name: "ssl_version", values: []string{"3", "b", "c"}},
	{name: "cert_reqs", values: []string{"1", "0x2", "0"}, def: 0, fields: texts(1, 2, 0), shown: []string{"1", "2", "0"}},
	{name: "ca_certs", values: []string{"a", "b", "c"}, def: "", fields: texts("a", "b", "c")},
	{name: "ciphers", values: []string{"a", "b", "c"}, def: "", fields: texts("a", "b", "c")},
	{name: "http_protocols", values: []string{"h2,h1", " H2 ", "h1,,h2"}, def: []string{"h1"},
		fields: texts([]string{"h2", "h1"}, []string{"h2"}, []string{"h1", "h2"}),
		shown:  []string{"['h2', 'h1']", "['h2']", "['h1', 'h2']"}},
	{name: "http2_cleartext", values: []string{"both", "Prior-Knowledge", "upgrade"}, def: "off",
		fields: texts("both", "prior-knowledge", "upgrade"), shown: []string{"both", "prior-knowledge", "upgrade"}},
	{name: "http2_max_concurrent_streams", values: []string{"1", "200", "3"}, def: 100, fields: texts(1, 200, 3)},
	{name: "http2_initial_window_size", values: []string{"0", "2147483647", "65536"}, def: 65535, fields: texts(0, 2147483647, 65536)},
	{name: "http2_max_frame_size", values: []string{"16384", "16777215", "20000"}, def: 16384, fields: texts(16384, 16777215, 20000)},
	{name: "http2_max_header_list_size", values: []string{"0", "1", "100000"}, def: 65536, fields: texts(0, 1, 100000)},
	{name: "http_parser", values: []string{"FAST", "python", "auto"}, shown: []string{"fast", "python", "auto"}},
	{name: "asgi_loop", values: []string{"asyncio", "UVLOOP", "auto"}, shown: []string{"asyncio", "uvloop", "auto"}},
	{name: "asgi_lifespan", values: []string{"on", "OFF", "auto"}, shown: []string{"on", "off", "auto"}},
	{name: "asgi_disconnect_grace_period", values: []string{"0", "1", "5"}},
	{name: "root_path", values: []string{"/a", "/b", "/c"}},
	{name: "websocket_max_message_size", values: []string{"1", "0", "3"}, def: 16 << 20, fields: texts(1, 0, 3)},
	{name: "ws_max_size", values: []string{"1", "2k", "3MB"}, def: int64(16 << 20),
		fields: texts(int64(1), int64(2048), int64(3<<20)), shown: []string{"1", "2048", "3145728"}},
	{name: "ws_ping_interval", values: []string{"1", "0", "3"}, def: 20 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "ws_ping_timeout", values: []string{"1", "0", "3"}, def: 20 * time.Second,
		fields: texts(time.Second, time.Duration(0), 3*time.Second)},
	{name: "ws_per_message_deflate", values: []string{"OFF", "on", "off"}, def: "on", fields: texts("off", "on", "off"),
		shown: []string{"off", "on", "off"}},
}

// sampleOf finds or, for the rows whose flag takes no argument, makes one.
func sampleOf(r *setting) *sample {
	for i := range samples {
		if samples[i].name == r.name {
			return &samples[i]
		}
	}
	return nil
}

func TestSources(t *testing.T) {
	for _, r := range settings {
		s := sampleOf(r)
		if s == nil {
			continue
		}
		check := func(name string, from source, want int) {
			t.Run(r.name+"/"+name, func(t *testing.T) {
				if r.name != "wsgi_app" {
					from.args = append(from.args, "app:app")
				}
				c := mustLoad(t, from)
				if s.def == nil && s.fields == nil {
					// nothing reads it
				} else if want < 0 {
					if got := stored(c, r); s.def != nil && !reflect.DeepEqual(got, s.def) {
						t.Errorf("stored %#v, want %#v", got, s.def)
					}
				} else if got := stored(c, r); !reflect.DeepEqual(got, s.fields[want]) {
					t.Errorf("stored %#v, want %#v", got, s.fields[want])
				}
				if want >= 0 {
					text := s.values[want]
					if s.shown != nil {
						text = s.shown[want]
					}
					if got := shown(c, r.name); got != text {
						t.Errorf("printed %s, want %s", got, text)
					}
				}
			})
		}
		file := map[string]any{r.name: s.values[0]}
		if r.name != "wsgi_app" {
			check("default", source{}, -1)
		}
		check("file", source{file: file}, 0)
		if r.flags == nil {
			continue
		}
		quoted := r.flags[0] + " '" + s.values[1] + "'"
		cmdArgs := []string{"GUNICORN_CMD_ARGS=" + quoted}
		for _, f := range r.flags {
			check("flag "+f, source{args: []string{f, s.values[2]}}, 2)
			check("flag "+f+"=", source{args: []string{f + "=" + s.values[2]}}, 2)
		}
		check("cmd_args over file", source{env: cmdArgs, file: file}, 1)
		check("flag over cmd_args", source{args: []string{r.flags[0], s.values[2]}, env: cmdArgs, file: file}, 2)
	}
}

// switches are the rows whose flag stands alone, with their field by default
// and with the flag.
func TestSwitches(t *testing.T) {
	for _, r := range settings {
		on, ok := r.kind.alone.(bool)
		if !ok || r.unsupported != "" {
			continue
		}
		for _, flag := range r.flags {
			cases := []struct {
				name string
				from source
				want bool
			}{
				{"default", source{}, r.def == "True" || !on},
				{"file on", source{file: map[string]any{r.name: true}}, true},
				{"file off", source{file: map[string]any{r.name: false}}, false},
				{"file none", source{file: map[string]any{r.name: nil}}, !on},
				{"file text", source{file: map[string]any{r.name: " TRUE"}}, true},
				{"file text off", source{file: map[string]any{r.name: "False"}}, false},
				{"flag", source{args: []string{flag}}, on},
				{"cmd_args", source{env: []string{"GUNICORN_CMD_ARGS=" + flag}}, on},
				{"flag over file", source{args: []string{flag}, file: map[string]any{r.name: !on}}, on},
				{"cmd_args over file", source{env: []string{"GUNICORN_CMD_ARGS=" + flag}, file: map[string]any{r.name: !on}}, on},
			}
			for _, tc := range cases {
				t.Run(r.name+"/"+tc.name, func(t *testing.T) {
					tc.from.args = append(tc.from.args, "app:app")
					c := mustLoad(t, tc.from)
					if got, ok := stored(c, r).(bool); ok && got != tc.want {
						t.Errorf("stored %v, want %v", got, tc.want)
					}
				})
			}
		}
	}
}

func TestSecureSchemeHeaders(t *testing.T) {
	c := mustLoad(t, source{args: []string{"app:app"}})
	want := [][2]string{{"X-FORWARDED-PROTO", "https"}, {"X-FORWARDED-PROTOCOL", "ssl"}, {"X-FORWARDED-SSL", "on"}}
	if !reflect.DeepEqual(c.secureSchemeHeaders, want) {
		t.Errorf("default %v", c.secureSchemeHeaders)
	}
	c = mustLoad(t, source{args: []string{"app:app"}, file: map[string]any{
		"secure_scheme_headers": pyDict("Z", "1", "A", "2"),
	}})
	if got := shown(c, "secure_scheme_headers"); got != "{'Z': '1', 'A': '2'}" {
		t.Errorf("printed %s", got)
	}
	if !reflect.DeepEqual(c.secureSchemeHeaders, [][2]string{{"A", "2"}, {"Z", "1"}}) {
		t.Errorf("stored %v", c.secureSchemeHeaders)
	}
}

// pyDict, pyFunction and pyObject are values as read_config describes them.
func pyDict(parts ...any) map[string]any {
	items := []any{}
	for i := 0; i < len(parts); i += 2 {
		items = append(items, []any{parts[i], parts[i+1]})
	}
	return map[string]any{"type": "dict", "items": items}
}

func pyFunction(name string, params int64) map[string]any {
	return map[string]any{"type": "callable", "name": name, "params": params}
}

func pyObject(class, repr string) map[string]any {
	return map[string]any{"type": "object", "class": class, "repr": repr}
}

// evalOnly runs a file for its values.
func evalOnly(c *config, spec string) (map[string]any, error) {
	globals, m, err := evalConfig(c, spec)
	m.close()
	return globals, err
}

// A hook is a function with the right number of parameters, or a dotted name,
// and the rows that are set are the ones that need a template.
func TestHookRows(t *testing.T) {
	for _, r := range settings {
		if r.section != "Server Hooks" || r.unsupported != "" {
			continue
		}
		params := int64(0)
		for n := int64(1); n <= 4 && params == 0; n++ {
			if _, err := r.kind.value(callable{"f", n}, nil); err == nil {
				params = n
			}
		}
		for _, value := range []any{pyFunction("f", params), "module.function"} {
			c := mustLoad(t, source{args: []string{"app:app"}, file: map[string]any{r.name: value}})
			if set := c.hooks(); len(set) != 1 || !set[r.name] {
				t.Errorf("%s = %v: hooks %v", r.name, value, set)
			}
		}
		if _, err := r.kind.value(callable{"f", 9}, nil); err == nil {
			t.Errorf("%s takes 9 parameters", r.name)
		}
	}
	if c := mustLoad(t, source{args: []string{"app:app"}}); len(c.hooks()) != 0 {
		t.Errorf("hooks %v without a file", c.hooks())
	}
}

// Every row is tried by one of the tests above or below.
func TestEveryRowHasATest(t *testing.T) {
	elsewhere := []string{"config", "python", "keyfile", "secure_scheme_headers", "logconfig_dict"}
	names := map[string]bool{}
	for _, r := range settings {
		if names[r.name] {
			t.Errorf("%s: two rows", r.name)
		}
		names[r.name] = true
		hooked := r.section == "Server Hooks" // TestHookRows
		if sampleOf(r) == nil && !hooked && r.kind.alone == nil && r.unsupported == "" && !slices.Contains(elsewhere, r.name) {
			t.Errorf("%s: no sample", r.name)
		}
		if r.flags != nil && r.meta == "" && r.kind.alone == nil {
			t.Errorf("%s: flag without a name for its argument", r.name)
		}
	}
	if len(settings) != 120+len(additions) {
		t.Errorf("%d rows, want Gunicorn's 120 and %q", len(settings), additions)
	}
}

// additions are the settings that Gunicorn has not.
var additions = []string{
	"python", "request_timeout", "access_log_json", "limit_request_body",
	"client_header_timeout", "client_body_timeout", "client_send_timeout", "client_min_rate",
	"max_memory", "metrics", "status", "spool_dir", "spool_limit",
	"static", "static_max_age", "static_index", "static_final",
	"ws_max_size", "ws_ping_interval", "ws_ping_timeout", "ws_per_message_deflate",
	"health", "health_log", "drain_delay", "request_id_header",
	"queue_limit", "queue_timeout", "limit_connections_per_client",
}

// other has a value for each unsupported row that is not its default.
var other = map[string]any{
	"worker_class": "gunicorn.workers.gtornado.Any",
	"protocol":     "uwsgi", "uwsgi_allow_ips": "*",
	"control_socket": "x", "control_socket_mode": "0o644", "dirty_apps": "a:B", "dirty_workers": "1",
	"dirty_timeout": "1", "dirty_threads": "2", "dirty_graceful_timeout": "1",
}

func TestUnsupported(t *testing.T) {
	for _, r := range settings {
		if r.unsupported == "" {
			continue
		}
		why := r.unsupported
		if r.name == "worker_class" {
			why = "gunicorn.workers.gtornado.Any is a class of workers for Tornado; " + why
		}
		want := "gunicorn: " + r.name + ": not supported by this server: " + why + "\n"
		refused := func(name string, from source) {
			t.Run(r.name+"/"+name, func(t *testing.T) {
				from.args = append(from.args, "app:app")
				_, err := load(t, from)
				wantFailure(t, err, 1, want)
			})
		}
		accepted := func(name string, from source) {
			t.Run(r.name+"/"+name, func(t *testing.T) {
				from.args = append(from.args, "app:app")
				mustLoad(t, from)
			})
		}
		v, ok := other[r.name]
		switch {
		case r.flags == nil: // a hook
			for n := int64(1); n <= 2; n++ {
				if _, err := r.kind.value(callable{"f", n}, nil); err == nil {
					v = pyFunction("f", n)
				}
			}
		case r.kind.alone != nil && !r.kind.optional:
			accepted("default", source{file: map[string]any{r.name: r.def == "True"}})
			accepted("off", source{file: map[string]any{r.name: false}})
			if r.def == "True" {
				accepted("flag", source{args: r.flags[:1]})
				continue
			}
			v = true
			for _, f := range r.flags {
				refused("flag "+f, source{args: []string{f}})
			}
		case !ok:
			t.Errorf("%s: no value to refuse", r.name)
		default:
			if r.computed == nil && r.def != none && r.def != "{}" {
				accepted("default", source{file: map[string]any{r.name: strings.Replace(r.def, "0600", "0o600", 1)}})
			}
			if r.accepts == nil && r.def == none {
				accepted("none", source{file: map[string]any{r.name: nil}})
			}
			for _, f := range r.flags {
				refused("flag "+f, source{args: []string{f + "=" + v.(string)}})
				refused("cmd_args "+f, source{env: []string{"GUNICORN_CMD_ARGS=" + f + " " + v.(string)}})
			}
		}
		file := map[string]any{r.name: v}
		if r.moot != nil {
			accepted("moot", source{file: map[string]any{r.name: v}})
			file["certfile"] = "a.pem"
		}
		refused("file", source{file: file})
	}
	t.Run("overridden", func(t *testing.T) {
		mustLoad(t, source{args: []string{"-k", "sync", "app:app"}, file: map[string]any{"worker_class": "gunicorn.workers.gtornado.Any"}})
	})
}

// A worker class that is misspelled is told from one that somebody has written.
func TestWorkerClassNames(t *testing.T) {
	const classes = "the classes are sync, gthread, gevent, eventlet, asgi and tornado"
	for class, want := range map[string]string{
		"gthred":                        "'gthred' is not a worker class; did you mean gthread?",
		"thread":                        "'thread' is not a worker class; did you mean gthread?",
		"GEvent":                        "'GEvent' is not a worker class; did you mean gevent?",
		"snyc":                          "'snyc' is not a worker class; did you mean sync?",
		"gasgi":                         "'gasgi' is not a worker class; did you mean asgi?",
		"asg":                           "'asg' is not a worker class; did you mean asgi?",
		"evenlet":                       "'evenlet' is not a worker class; did you mean eventlet?",
		"uvicorn":                       "'uvicorn' is not a worker class; did you mean uvicorn.workers.UvicornWorker?",
		"uvicorn.worker.UvicornWorker":  "'uvicorn.worker.UvicornWorker' is not a worker class; did you mean uvicorn.workers.UvicornWorker?",
		"gunicorn.workers.gthread":      "'gunicorn.workers.gthread' is not a worker class; did you mean gunicorn.workers.gthread.ThreadWorker?",
		"wsgi":                          "'wsgi' is not a worker class; " + classes,
		"":                              "not supported by this server: " + classes,
		"mine":                          "'mine' is not a worker class; " + classes,
		"gunicorn.workers.gtornado.Any": "not supported by this server: gunicorn.workers.gtornado.Any is a class of workers for Tornado; " + classes,
	} {
		_, err := load(t, source{args: []string{"-k", class, "app:app"}})
		wantFailure(t, err, 1, "gunicorn: worker_class: "+want+"\n")
	}
}

// A default may depend on other settings, and a value that somebody has given
// is not taken for it.
func TestComputedDefault(t *testing.T) {
	asgi := []string{"-k", "uvicorn.workers.UvicornWorker", "app:app"}
	for _, tc := range []struct {
		from source
		want int
	}{
		{source{args: []string{"app:app"}}, 1000},
		{source{args: asgi}, 0},
		{source{args: append([]string{"--worker-connections=1000"}, asgi...)}, 1000},
		{source{args: asgi, env: []string{"GUNICORN_CMD_ARGS=--worker-connections 1000"}}, 1000},
		{source{args: asgi, file: map[string]any{"worker_connections": int64(1000)}}, 1000},
		{source{args: []string{"app:app"}, file: map[string]any{"worker_class": "asgi"}}, 0},
	} {
		c := mustLoad(t, tc.from)
		if c.workerConnections != tc.want || shown(c, "worker_connections") != fmt.Sprint(tc.want) {
			t.Errorf("%v: %d, printed %s, want %d", tc.from, c.workerConnections, shown(c, "worker_connections"), tc.want)
		}
	}
	c := mustLoad(t, source{args: []string{"app:app"}})
	c.startDir = "/"
	if err := c.change(map[string]any{"worker_class": "asgi"}); err != nil || c.workerConnections != 0 {
		t.Errorf("%d after a hook's change, %v", c.workerConnections, err)
	}
}

func TestEnvironment(t *testing.T) {
	for _, tc := range []struct {
		env, name, want string
	}{
		{"WEB_CONCURRENCY=4", "workers", "4"},
		{"WEB_CONCURRENCY= 4 ", "workers", "4"},
		{"PORT=80", "bind", "['0.0.0.0:80']"},
		{"FORWARDED_ALLOW_IPS=*", "forwarded_allow_ips", "['*']"},
		{"FORWARDED_ALLOW_IPS=", "forwarded_allow_ips", "[]"},
		{"SENDFILE=Yes", "sendfile", "True"},
		{"SENDFILE=0", "sendfile", "False"},
		{"SENDFILE=", "sendfile", "False"},
		{"XDG_RUNTIME_DIR=/tmp", "control_socket", "/tmp/gunicorn.ctl"},
		{"XDG_RUNTIME_DIR=/nonexistent", "control_socket", "/.gunicorn/gunicorn.ctl"},
	} {
		t.Run(tc.env, func(t *testing.T) {
			if got := shown(mustLoad(t, source{args: []string{"app:app"}, env: []string{tc.env}}), tc.name); got != tc.want {
				t.Errorf("%s is %s, want %s", tc.name, got, tc.want)
			}
		})
		r := settings[slices.IndexFunc(settings, func(r *setting) bool { return r.name == tc.name })]
		if r.env == "" {
			continue
		}
		t.Run(tc.env+" below the file", func(t *testing.T) {
			v := any("true")
			if s := sampleOf(r); s != nil {
				v = s.values[0]
			}
			c := mustLoad(t, source{args: []string{"app:app"}, env: []string{tc.env}, file: map[string]any{r.name: v}})
			alone := mustLoad(t, source{args: []string{"app:app"}, file: map[string]any{r.name: v}})
			if got, want := stored(c, r), stored(alone, r); !reflect.DeepEqual(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
	for env, text := range map[string]string{
		"WEB_CONCURRENCY=abc":            `gunicorn: WEB_CONCURRENCY: "abc" is not zero, a positive whole number or auto`,
		"WEB_CONCURRENCY=":               `gunicorn: WEB_CONCURRENCY: "" is not zero, a positive whole number or auto`,
		"WEB_CONCURRENCY=-2":             `gunicorn: WEB_CONCURRENCY: "-2" is not zero, a positive whole number or auto`,
		"WEB_CONCURRENCY=2.5":            `gunicorn: WEB_CONCURRENCY: "2.5" is not zero, a positive whole number or auto`,
		"FORWARDED_ALLOW_IPS=abc":        `gunicorn: FORWARDED_ALLOW_IPS: 'abc' does not appear to be an IPv4 or IPv6 network`,
		"FORWARDED_ALLOW_IPS=10.0.0.1/8": `gunicorn: FORWARDED_ALLOW_IPS: 10.0.0.1/8 has host bits set`,
		"PORT=abc":                       "\nError: 'abc' is not a valid port number.\n",
		"PORT=":                          "\nError: '' is not a valid port number.\n",
	} {
		t.Run(env, func(t *testing.T) {
			_, err := load(t, source{args: []string{"app:app"}, env: []string{env}})
			wantFailure(t, err, 1, text+"\n")
		})
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct{ line, text string }{
		{"--nosuchflag", "unrecognized arguments: --nosuchflag"},
		{"--nosuch a --alsono b app:app", "unrecognized arguments: --nosuch --alsono b app:app"},
		{"-Z", "unrecognized arguments: -Z"},
		{"--wsgi-app x", "unrecognized arguments: --wsgi-app"},
		{"app:app -w 3 b", "unrecognized arguments: b"},
		{"a -w 3 -- b --check-config", "unrecognized arguments: -- b --check-config"},
		{"-5 --check-config app:app", "unrecognized arguments: app:app"},
		{"-5x", "unrecognized arguments: -5x"},
		{"-w -3 --nosuch", "unrecognized arguments: --nosuch"},
		{"-w abc", "argument -w/--workers: invalid int value: 'abc'"},
		{"-w=", "argument -w/--workers: invalid int value: ''"},
		{"-w 4_", "argument -w/--workers: invalid int value: '4_'"},
		{"-w 0x3", "argument -w/--workers: invalid int value: '0x3'"},
		{"-w 3.0 -v", "argument -w/--workers: invalid int value: '3.0'"},
		{"-m abc", "argument -m/--umask: invalid auto_int value: 'abc'"},
		{"-m 08", "argument -m/--umask: invalid auto_int value: '08'"},
		{"app:app -c", "argument -c/--config: expected one argument"},
		{"-w --bind x", "argument -w/--workers: expected one argument"},
		{"-w -- 3", "argument -w/--workers: expected one argument"},
		{"--log-file", "argument --error-logfile/--log-file: expected one argument"},
		{"--check-config=x", "argument --check-config: ignored explicit argument 'x'"},
		{"-Dx", "argument -D/--daemon: ignored explicit argument 'x'"},
		{"-D=", "argument -D/--daemon: ignored explicit argument ''"},
		{"-DRx", "argument -R/--enable-stdio-inheritance: ignored explicit argument 'x'"},
		{"--help=3", "argument -h/--help: ignored explicit argument '3'"},
		{"-vx", "argument -v/--version: ignored explicit argument 'x'"},
		{"--wor 3", "ambiguous option: --wor could match --workers, --worker-class, --worker-connections, --worker-tmp-dir"},
		{"--work=3", "ambiguous option: --work=3 could match --workers, --worker-class, --worker-connections, --worker-tmp-dir"},
		{"--no", "ambiguous option: --no could match --no-sendfile, --no-control-socket"},
		{"-v --no", "ambiguous option: --no could match --no-sendfile, --no-control-socket"},
		{"--limit-request-field 3", "ambiguous option: --limit-request-field could match --limit-request-fields, --limit-request-field_size"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			_, err := load(t, source{args: strings.Fields(tc.line)})
			wantFailure(t, err, 2, usage(tc.text))
		})
		if len(tc.line) > 12 {
			t.Run("GUNICORN_CMD_ARGS="+tc.line, func(t *testing.T) {
				_, err := load(t, source{args: []string{"app:app"}, env: []string{"GUNICORN_CMD_ARGS=" + tc.line}})
				wantFailure(t, err, 2, usage(tc.text))
			})
		}
	}
}

func TestFlagForms(t *testing.T) {
	for _, tc := range []struct {
		line, name, want string
	}{
		{"-w 3 app:app", "workers", "3"},
		{"-w3 app:app", "workers", "3"},
		{"-w=3 app:app", "workers", "3"},
		{"--workers 3 app:app", "workers", "3"},
		{"--workers=3 app:app", "workers", "3"},
		{"app:app --workers 3", "workers", "3"},
		{"-t 9 app:app -w 3", "workers", "3"},
		{"-w 2 --workers 3 app:app", "workers", "3"},
		{"-w +3 app:app", "workers", "3"},
		{"-w 1_0 app:app", "workers", "10"},
		{"--time 3 app:app", "timeout", "3"},
		{"--time=3 app:app", "timeout", "3"},
		{"--worker-cl sync app:app", "worker_class", "sync"},
		{"-b a -b b:1 --bind=c app:app", "bind", "['a', 'b:1', 'c']"},
		{"-bi=3 app:app", "bind", "['i=3']"},
		{"-b -5 app:app", "bind", "['-5']"},
		{"--bind= app:app", "bind", "['']"},
		{"-e A=1 --env B=2 app:app", "raw_env", "['A=1', 'B=2']"},
		{"--pid= app:app", "pidfile", ""},
		{"-m 0117 app:app", "umask", "79"},
		{"-m 0o17 app:app", "umask", "15"},
		{"-m 0b11 app:app", "umask", "3"},
		{"-m 1_0 app:app", "umask", "10"},
		{"--limit-request-field_size 5 app:app", "limit_request_field_size", "5"},
		{"--proxy-protocol=off app:app", "proxy_protocol", "off"},
		{"--proxy-protocol off app:app", "proxy_protocol", "off"},
		{"--proxy-protocol V2 app:app", "proxy_protocol", "v2"},
		{"--proxy-protocol=true app:app", "proxy_protocol", "auto"},
		{"app:app --proxy-protocol", "proxy_protocol", "auto"},
		{"--proxy-protocol -w 3 app:app", "proxy_protocol", "auto"},
		{"-w 3 -- app:app", "workers", "3"},
		{"-w 3 app:app -- -w", "workers", "3"},
		{"-w 3 app:app -", "default_proc_name", "app:app"},
		{"-w 3 app:app ignored", "default_proc_name", "app:app"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			c := mustLoad(t, source{args: append(strings.Fields(tc.line), "--check-config")[:len(strings.Fields(tc.line))]})
			if got := shown(c, tc.name); got != tc.want {
				t.Errorf("%s is %s, want %s", tc.name, got, tc.want)
			}
			if c.app() != "app:app" {
				t.Errorf("app %q", c.app())
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for line, help := range map[string]bool{
		"-h": true, "--help": true, "-hv": true, "app:app -h": true, "-h --nosuch": true, "-h -w abc": true, "--hel": true,
		"-v": false, "--version": false, "-vh": false, "-v -w abc": false, "--nosuch -v": false,
	} {
		t.Run(line, func(t *testing.T) {
			c := mustLoad(t, source{args: strings.Fields(line), env: []string{"WEB_CONCURRENCY=abc", "GUNICORN_CMD_ARGS=\""}})
			if (c.option == "help") != help {
				t.Errorf("option %s", c.option)
			}
		})
	}
	if c := mustLoad(t, source{env: []string{"GUNICORN_CMD_ARGS=-v"}}); c.option != "version" {
		t.Error("-v in GUNICORN_CMD_ARGS")
	}
}

func TestCmdArgs(t *testing.T) {
	for text, want := range map[string][]string{
		``:                nil,
		` a  b	c `:        {"a", "b", "c"},
		"a\nb":            {"a", "b"},
		`"a b" c\ d`:      {"a b", "c d"},
		`'a"b' "c'd"`:     {`a"b`, `c'd`},
		`"a\"b\n\\c"`:     {`a"b\n\c`},
		`'a\b' a"b"'c'`:   {`a\b`, `abc`},
		`"" x`:            {"", "x"},
		`a#b # c $HOME *`: {"a#b", "#", "c", "$HOME", "*"},
	} {
		got, err := splitShell(text)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		`"a`: "No closing quotation", `'a`: "No closing quotation", `a\`: "No escaped character",
	} {
		_, err := load(t, source{args: []string{"app:app"}, env: []string{"GUNICORN_CMD_ARGS=" + text}})
		wantFailure(t, err, 1, "\nError: "+want+"\n")
	}
	c := mustLoad(t, source{args: []string{"app:app", "-w", "7"}, env: []string{"GUNICORN_CMD_ARGS=-w 5 --timeout 4 other:app -"}})
	if c.app() != "app:app" || c.workers != 7 || c.timeout != 4*time.Second {
		t.Errorf("%q %d %v", c.app(), c.workers, c.timeout)
	}
	_, err := load(t, source{env: []string{"GUNICORN_CMD_ARGS=app:app"}})
	wantFailure(t, err, 1, "\nError: No application module specified.\n")
}

// Values that a flag gives and its check refuses.
func TestFlagErrors(t *testing.T) {
	for _, tc := range []struct{ flag, value, text string }{
		{"--umask", "0o10000", "Value must be a mode, at most 0o7777: 4096"},
		{"-w", "-3", "Value must be positive: -3"},
		{"-m", "-1", "Value must be positive: -1"},
		{"--threads", "-1", "Value must be positive: -1"},
		{"--forwarded-allow-ips", "10.0.0.1/8", "10.0.0.1/8 has host bits set"},
		{"--forwarded-allow-ips", "abc", "'abc' does not appear to be an IPv4 or IPv6 network"},
		{"--forwarded-allow-ips", "*,x", "'x' does not appear to be an IPv4 or IPv6 network"},
		{"--forwarded-allow-ips", "1.2.3.4/33", "'1.2.3.4/33' does not appear to be an IPv4 or IPv6 network"},
		{"--proxy-allow-from", "abc", "'abc' does not appear to be an IPv4 or IPv6 network"},
		{"--header-map", "maybe", "Invalid header map behaviour: maybe"},
		{"--http-parser", "x", "http_parser must be one of: auto, fast, python"},
		{"--chdir", "/nonexistent", "can't chdir to '/nonexistent'"},
		{"-u", "no'such", `No such user: "no'such"`},
		{"-g", "nosuch", "No such group: 'nosuch'"},
		{"--reload-engine", "x", "Invalid reload_engine: 'x'"},
		{"--reload-extra-file", "x", "File x does not exists."},
		{"--http-protocols", "h3", "Invalid protocol 'h3'. Valid protocols: h1, h2"},
		{"--http-protocols", "h1,spdy", "Invalid protocol 'spdy'. Valid protocols: h1, h2"},
		{"--http-protocols", "h2,H2", "Duplicate protocols specified"},
		{"--http2-cleartext", " Maybe", "Invalid http2_cleartext: maybe"},
		{"--http2-max-concurrent-streams", "0", "HTTP/2 max concurrent streams must be at least 1: 0"},
		{"--http2-max-concurrent-streams", "-1", "Value must be positive: -1"},
		{"--http2-initial-window-size", "2147483648", "HTTP/2 window size must be at most 2147483647: 2147483648"},
		{"--http2-max-frame-size", "16777216", "http2_max_frame_size must be between 16384 and 16777215, got 16777216"},
		{"--http2-max-frame-size", "1", "http2_max_frame_size must be between 16384 and 16777215, got 1"},
		{"--proxy-protocol", "app:app", "proxy_protocol must be: off, v1, v2, or auto"},
		{"--asgi-loop", "x", "Invalid ASGI loop: x"},
		{"--asgi-lifespan", "x", "Invalid ASGI lifespan: x"},
		{"--cert-reqs", "CERT_NONE", "invalid literal for int() with base 0: 'CERT_NONE'"},
		{"-c", "nosuch.py", "'nosuch.py' doesn't exist"},
		{"-c", "file:nosuch.py", "'nosuch.py' doesn't exist"},
		{"-c", "./gunicorn.conf.py", "'./gunicorn.conf.py' doesn't exist"},
	} {
		t.Run(tc.flag+" "+tc.value, func(t *testing.T) {
			_, err := load(t, source{args: []string{"app:app", tc.flag, tc.value}})
			wantFailure(t, err, 1, "\nError: "+tc.text+"\n")
		})
	}
	t.Run("no application", func(t *testing.T) {
		_, err := load(t, source{})
		wantFailure(t, err, 1, "\nError: No application module specified.\n")
	})
	t.Run("not UTF-8", func(t *testing.T) {
		_, err := load(t, source{args: []string{"app:app", "-p", "a\xff"}})
		wantFailure(t, err, 1, "gunicorn: \"a\\xff\" is not valid UTF-8\n")
	})
	for flag, text := range map[string]string{
		"-b=a:x":      "'x' is not a valid port number.",
		"--bind=fd:a": "'a' is not a valid port number.",
		"-bfd://a":    "'a' is not a valid file descriptor.",
		"-e=X":        "environment setting 'X' invalid",
		"-e==v":       "environment setting '=v' invalid",
	} {
		t.Run(flag, func(t *testing.T) {
			_, err := load(t, source{args: []string{"app:app", flag}})
			wantFailure(t, err, 1, "\nError: "+text+"\n\n")
			mustLoad(t, source{args: []string{"app:app", flag, "--check-config"}})
		})
	}
}

func TestFileErrors(t *testing.T) {
	notText := "Not a string: %v"
	badInt := "int() can't convert non-string with explicit base"
	for _, tc := range []struct {
		name   string
		value  any
		shown  string
		reason string
	}{
		{"workers", "abc", "abc", "invalid literal for int() with base 0: 'abc'"},
		{"workers", "03", "03", "invalid literal for int() with base 0: '03'"},
		{"workers", "", "", "invalid literal for int() with base 0: ''"},
		{"workers", []byte("x"), "b'x'", "invalid literal for int() with base 0: b'x'"},
		{"workers", 2.5, "2.5", badInt},
		{"workers", nil, "None", badInt},
		{"workers", []any{}, "[]", badInt},
		{"workers", int64(-1), "-1", "Value must be positive: -1"},
		{"timeout", 1e20, "1e+20", badInt},
		{"umask", "022", "022", "invalid literal for int() with base 0: '022'"},
		{"reload", "yes", "yes", "Invalid boolean: yes"},
		{"reload", int64(1), "1", "Invalid type for casting: 1"},
		{"check_config", 2.0, "2.0", "Invalid type for casting: 2.0"},
		{"sendfile", "x", "x", "Invalid boolean: x"},
		{"bind", int64(5), "5", "'int' object is not iterable"},
		{"bind", true, "True", "'bool' object is not iterable"},
		{"bind", pyObject("X", "<X>"), "<X>", "'X' object is not iterable"},
		{"bind", []any{"a", int64(5)}, "['a', 5]", fmt.Sprintf(notText, 5)},
		{"bind", []byte("x"), "b'x'", fmt.Sprintf(notText, 120)},
		{"pidfile", int64(5), "5", fmt.Sprintf(notText, 5)},
		{"pidfile", []byte("x'"), `b"x'"`, `Not a string: b"x'"`},
		{"loglevel", pyDict("a", nil), "{'a': None}", "Not a string: {'a': None}"},
		{"forwarded_allow_ips", []any{"1.2.3.4"}, "['1.2.3.4']", "Not a string: ['1.2.3.4']"},
		{"forwarded_allow_ips", "10.0.0.1/8", "10.0.0.1/8", "10.0.0.1/8 has host bits set"},
		{"forwarder_headers", []any{}, "[]", "Not a string: []"},
		{"secure_scheme_headers", nil, "None", "Value is not a dictionary: None "},
		{"secure_scheme_headers", []any{}, "[]", "Value is not a dictionary: [] "},
		{"secure_scheme_headers", pyDict("A", int64(1)), "{'A': 1}", fmt.Sprintf(notText, 1)},
		{"header_map", "x", "x", "Invalid header map behaviour: x"},
		{"header_map", int64(5), "5", "Invalid type for casting: 5"},
		{"http_parser", int64(5), "5", "http_parser must be a string"},
		{"proxy_protocol", int64(5), "5", "proxy_protocol must be string or bool"},
		{"chdir", nil, "None", "join() argument must be str, bytes, or os.PathLike object, not 'NoneType'"},
		{"chdir", "/nonexistent", "/nonexistent", "can't chdir to '/nonexistent'"},
		{"user", 2.5, "2.5", "'float' object has no attribute 'isdigit'"},
		{"user", "nosuch", "nosuch", "No such user: 'nosuch'"},
		{"worker_class", int64(5), "5", fmt.Sprintf(notText, 5)},
		{"post_fork", pyFunction("f", 1), "<f()>", "Value must have an arity of: 2"},
		{"post_fork", int64(5), "5", "Value is not callable: 5"},
		{"post_request", pyFunction("f", 1), "<f()>", "Value must have an arity of: 4"},
		{"post_request", pyFunction("f", 5), "<f()>", "Value must have an arity of: 4"},
		{"on_exit", nil, "None", "Value is not callable: None"},
	} {
		t.Run(tc.name+"="+tc.shown, func(t *testing.T) {
			_, err := load(t, source{args: []string{"app:app"}, file: map[string]any{tc.name: tc.value}})
			wantFailure(t, err, 1, fmt.Sprintf("Invalid value for %s: %s\n\n\nError: %s\n", tc.name, tc.shown, tc.reason))
		})
	}
	for _, tc := range []struct {
		name  string
		value any
		want  string
	}{
		{"workers", "0x10", "16"},
		{"workers", " 1_0 ", "10"},
		{"workers", true, "1"},
		{"workers", []byte("3"), "3"},
		{"workers", "0", "0"},
		{"umask", int64(18), "18"},
		{"check_config", nil, "None"},
		{"bind", nil, "[]"},
		{"bind", "", "[]"},
		{"bind", "a,b ", "['a,b']"},
		{"bind", []any{" a ", "b"}, "['a', 'b']"},
		{"bind", false, "[]"},
		{"raw_env", pyDict("A=1", nil), "['A=1']"},
		{"raw_env", []any{"a=\"b'", "c=\x01\u2028é\n."}, `['a="b\'', 'c=\x01\u2028é\n.']`},
		{"pidfile", nil, "None"},
		{"loglevel", " INFO\n", "INFO"},
		{"forwarded_allow_ips", nil, "[]"},
		{"header_map", nil, "drop"},
		{"proxy_protocol", false, "off"},
		{"proxy_protocol", nil, "off"},
		{"http2_cleartext", false, "off"},
		{"user", nil, fmt.Sprint(os.Geteuid())},
		{"chdir", "", "DIR"},
		{"chdir", "sub/..", "DIR"},
		{"config", "elsewhere", "./gunicorn.conf.py"},
		{"python", "elsewhere", "elsewhere"},
		{"python", int64(3), "None"},
		{"request_timeout", int64(7), "7"},
		{"ws_ping_interval", int64(7), "7"},
		{"ws_max_size", int64(7), "7"},
		{"max_memory", []any{}, "0"},
		{"metrics", int64(7), "None"},
		{"preload", true, "no such setting"},
	} {
		t.Run(tc.name+" as "+tc.want, func(t *testing.T) {
			dir := t.TempDir()
			c := mustLoad(t, source{args: []string{"app:app"}, file: map[string]any{tc.name: tc.value}, dir: dir})
			if got, want := shown(c, tc.name), strings.ReplaceAll(tc.want, "DIR", dir); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
}

func TestWhichFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"gunicorn.conf.py", "a.py", "b.py"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ line, cmdArgs, want string }{
		{"", "", dir + "/gunicorn.conf.py"},
		{"-c a.py", "", "a.py"},
		{"-c file:a.py", "", "a.py"},
		{"-c python:a.b", "", "python:a.b"},
		{"", "-c b.py", "b.py"},
		{"-c a.py", "-c b.py", "a.py"},
		{"--config=", "", dir + "/gunicorn.conf.py"},
		{"-ca.py --chdir /", "", "a.py"},
		{"--chdir /", "", dir + "/gunicorn.conf.py"},
		{"--python /x/python -c a.py", "--python y", "a.py"},
	} {
		t.Run(tc.line+" "+tc.cmdArgs, func(t *testing.T) {
			calls := 0
			_, err := loadConfig(append(strings.Fields(tc.line), "app:app"), []string{"GUNICORN_CMD_ARGS=" + tc.cmdArgs}, dir,
				func(c *config, spec string) (map[string]any, error) {
					calls++
					if spec != tc.want {
						t.Errorf("reads %q, want %q", spec, tc.want)
					}
					if want := ""; strings.Contains(tc.line, "--python") {
						if want = "/x/python"; c.python != want {
							t.Errorf("with %q", c.python)
						}
					}
					return nil, nil
				})
			if err != nil || calls != 1 {
				t.Errorf("%v, %d calls", err, calls)
			}
		})
	}
	failure := errors.New("it said so itself")
	_, err := loadConfig([]string{"app:app"}, nil, dir, func(*config, string) (map[string]any, error) { return nil, failure })
	if err != failure {
		t.Errorf("got %v", err)
	}
}

func TestNames(t *testing.T) {
	c := mustLoad(t, source{args: []string{"a:b"}, file: map[string]any{"wsgi_app": "c:d"}})
	if c.app() != "a:b" || c.name() != "a:b" {
		t.Errorf("%s %s", c.app(), c.name())
	}
	c = mustLoad(t, source{file: map[string]any{"wsgi_app": "c:d"}})
	if c.app() != "c:d" || c.name() != "gunicorn" {
		t.Errorf("%s %s", c.app(), c.name())
	}
	c = mustLoad(t, source{args: []string{"a:b", "-n", "shop"}, file: map[string]any{"default_proc_name": "x"}})
	if c.name() != "shop" || c.defaultProcName != "x" {
		t.Errorf("%s %s", c.name(), c.defaultProcName)
	}
}

// What a worker decodes is what the arbiter had, row by row.
func TestEncode(t *testing.T) {
	for _, r := range settings {
		t.Run(r.name, func(t *testing.T) {
			from := source{args: []string{"app:app"}, dir: t.TempDir()}
			if s := sampleOf(r); s != nil {
				from.file = map[string]any{r.name: s.values[0]}
			} else if r.unsupported == "" && r.kind.alone != nil {
				from.file = map[string]any{r.name: r.kind.alone}
			}
			c := mustLoad(t, from)
			c.startDir, c.argv, c.python = "/start", []string{"gunicorn", "-x"}, "/usr/bin/python3"
			back, err := decodeConfig(c.encode())
			if err != nil {
				t.Fatal(err)
			}
			got, want := stored(back, r), stored(c, r)
			for _, pairs := range []any{got, want} { // a dict loses its order
				if pairs, ok := pairs.([][2]string); ok {
					slices.SortFunc(pairs, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("stored %#v, want %#v", got, want)
			}
			if back.app() != c.app() || back.startDir != c.startDir || !slices.Equal(back.argv, c.argv) || back.python != c.python {
				t.Errorf("%q %q %q %q", back.app(), back.startDir, back.argv, back.python)
			}
			if _, isCallable := c.values[r.name].(callable); !isCallable && r.name != "secure_scheme_headers" {
				if got, want := shown(back, r.name), shown(c, r.name); got != want {
					t.Errorf("printed %s, want %s", got, want)
				}
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	c := mustLoad(t, source{args: []string{"app:app"}})
	good := c.encode()
	for n := range len(good) {
		if _, err := decodeConfig(good[:n]); err == nil {
			t.Fatalf("%d bytes of %d are accepted", n, len(good))
		}
	}
	c.values["backlog"] = "not a number"
	if _, err := decodeConfig(c.encode()); err == nil {
		t.Errorf("%s of the wrong type is accepted", "backlog")
	}
}

func TestHelp(t *testing.T) {
	var b strings.Builder
	printHelp(&b)
	help := b.String()
	for _, line := range strings.Split(help, "\n") {
		if len(line) > 79 {
			t.Errorf("long line: %s", line)
		}
	}
	for _, flag := range []string{"  -h, --help ", "  -v, --version ", "  --man "} {
		if strings.Count(help, "\n"+flag) != 1 {
			t.Errorf("no %q", flag)
		}
	}
	at := 0
	for _, r := range settings {
		if r.flags == nil {
			continue
		}
		var found []int
		for _, end := range []string{" ", ",", "\n"} {
			start := "\n  " + r.flags[0] + end
			if strings.Count(help, start) > 0 {
				found = append(found, strings.Index(help, start), strings.LastIndex(help, start))
			}
		}
		if len(found) != 2 || found[0] != found[1] || found[0] < at {
			t.Errorf("%s is at %v, want one after %d", r.flags[0], found, at)
			continue
		}
		at = found[0]
	}
	if n := strings.Count(strings.Join(strings.Fields(help), " "), "(not supported)"); n < 8 {
		t.Errorf("only %d are not supported", n)
	}
}

func TestParseBind(t *testing.T) {
	for s, want := range map[string]address{
		"127.0.0.1:8000":  {network: "tcp", host: "127.0.0.1", port: 8000},
		"":                {network: "tcp", host: "0.0.0.0", port: 8000},
		":80":             {network: "tcp", host: "0.0.0.0", port: 80},
		"0:80":            {network: "tcp", host: "0.0.0.0", port: 80},
		"[0]:80":          {network: "tcp", host: "0.0.0.0", port: 80},
		"h":               {network: "tcp", host: "h", port: 8000},
		"HoSt:1":          {network: "tcp", host: "host", port: 1},
		"host: 1_0 ":      {network: "tcp", host: "host", port: 10},
		"[::1]:80":        {network: "tcp6", host: "::1", port: 80},
		"[::1]":           {network: "tcp6", host: "::1", port: 8000},
		"[FE80::1%lo]:80": {network: "tcp6", host: "fe80::1%lo", port: 80},
		"tcp://a:1":       {network: "tcp", host: "a", port: 1},
		"tcp://[::]:0":    {network: "tcp6", host: "::", port: 0},
		"tcp://":          {network: "tcp", host: "0.0.0.0", port: 8000},
		"unix:/a":         {network: "unix", path: "/a"},
		"unix://a":        {network: "unix", path: "a"},
		"unix:///A/b":     {network: "unix", path: "/A/b"},
		"unix:rel/x":      {network: "unix", path: "rel/x"},
		"fd://3":          {network: "fd", fd: 3},
	} {
		if got, err := parseBind(s); err != nil || got != want {
			t.Errorf("%q: %+v %v, want %+v", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		":":              "'' is not a valid port number.",
		"::1":            "'' is not a valid port number.",
		"http://a:1":     "'//a' is not a valid port number.",
		"a:abc":          "'abc' is not a valid port number.",
		"a:-1":           "'-1' is not a valid port number.",
		"a:65536":        "'65536' is not a valid port number.",
		"[::1]:":         "'' is not a valid port number.",
		"a:b:c":          "'b' is not a valid port number.",
		"fd://x":         "'x' is not a valid file descriptor.",
		"fd://":          "'' is not a valid file descriptor.",
		"fd://-1":        "'-1' is not a valid file descriptor.",
		"fd://999999999": "'999999999' is not a valid file descriptor.",
		"unix:":          "'unix:' has no path of a socket.",
	} {
		if _, err := parseBind(s); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", s, err, want)
		}
	}
	for s, want := range map[string]string{
		"127.0.0.1:8000": "('127.0.0.1', 8000)", "[::1]:80": "('::1', 80)", "unix:/a": "/a", "fd://3": "3",
	} {
		if a, _ := parseBind(s); a.tuple() != want {
			t.Errorf("%q: %s, want %s", s, a.tuple(), want)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	for s, want := range map[string]string{
		"1.2.3.4":                "1.2.3.4/32",
		"10.0.0.0/8":             "10.0.0.0/8",
		"10.0.0.0/08":            "10.0.0.0/8",
		"10.0.0.0/255.0.0.0":     "10.0.0.0/8",
		"10.0.0.0/0.255.255.255": "10.0.0.0/8",
		"0.0.0.0/0.0.0.0":        "0.0.0.0/0",
		"1.2.3.4/0.0.0.0":        "1.2.3.4/0 has host bits set",
		"::/0":                   "::/0",
		"::1":                    "::1/128",
		"::ffff:10.0.0.0/104":    "10.0.0.0/8",
		"::1/64":                 "::1/64 has host bits set",
		"10.0.0.0/255.255.0.255": "'10.0.0.0/255.255.0.255' does not appear to be an IPv4 or IPv6 network",
		"::1/129":                "'::1/129' does not appear to be an IPv4 or IPv6 network",
		"1.2.3.4/":               "'1.2.3.4/' does not appear to be an IPv4 or IPv6 network",
		"1.2.3.4/+8":             "'1.2.3.4/+8' does not appear to be an IPv4 or IPv6 network",
		"1.2.3.4/8/9":            "'1.2.3.4/8/9' does not appear to be an IPv4 or IPv6 network",
		"01.2.3.4":               "'01.2.3.4' does not appear to be an IPv4 or IPv6 network",
		"fe80::1%eth0":           "'fe80::1%eth0' does not appear to be an IPv4 or IPv6 network",
		"":                       "'' does not appear to be an IPv4 or IPv6 network",
	} {
		n, err := parseNetwork(s)
		got := n.String()
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
	trusted, err := trust([]any{"10.0.0.0/8", "::ffff:1.2.3.4"})
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "1.2.3.4": true, "1.2.3.5": false, "::1": false,
	} {
		if got := trusted.has(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}

func TestPythonText(t *testing.T) {
	for want, v := range map[string]any{
		"None": nil, "True": true, "-5": int64(-5), "2.5": 2.5, "2.0": 2.0, "1e+20": 1e20, "1e-07": 1e-7, "0.0001": 1e-4,
		`'a'`: "a", `"it's"`: "it's", `'"it\'s"'`: `"it's"`, `'\\\n\t\r\x00\x7f'`: "\\\n\t\r\x00\x7f",
		`'\u2028\U000e0001é'`: "\u2028\U000e0001é", `'\udcff'`: "\xff", `b'\xff\n"'`: []byte("\xff\n\""),
		"[1, 'a']": []any{int64(1), "a"}, "{1: None}": dict{{int64(1), nil}}, "<f()>": callable{"f", 1}, "<X>": object{"X", "<X>"},
	} {
		if got := pyRepr(v); got != want {
			t.Errorf("%#v: %s, want %s", v, got, want)
		}
	}
}

// One file through Python, for what read_config makes of every type.
func TestRealFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	file := `
import collections, enum, os, sys
class Count(enum.IntEnum):
    three = 3
class Text(str):
    def __str__(self):
        return "no"
def helper(a, b=1, *c, d=2): pass
workers = Count.three
bind = ("127.0.0.1:%d" % n for n in (1, 2))
bind = tuple(bind)
proc_name = Text("yes")
pidfile = __name__ + sys.modules["__config__"].__name__
raw_env = ["DIR=" + os.path.basename(os.path.dirname(__file__))]
secure_scheme_headers = collections.OrderedDict(B="1", A="2")
reload = False
prelaod = object()
globals()["timeout"] = "0x5"
assert sys.path[0] == os.getcwd()
`
	if err := os.WriteFile("conf.py", []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig([]string{"-c", "conf.py", "app:app"}, os.Environ(), dir, evalOnly)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"workers": "3", "bind": "['127.0.0.1:1', '127.0.0.1:2']", "proc_name": "yes", "pidfile": "__config____config__",
		"raw_env": "['DIR=" + filepath.Base(dir) + "']", "secure_scheme_headers": "{'B': '1', 'A': '2'}", "timeout": "5",
	} {
		if got := shown(c, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for line, want := range map[string]string{
		"workers = helper":        "Invalid value for workers: <helper()>\n\n\nError: int() can't convert non-string with explicit base\n",
		"bind = object":           "Invalid value for bind: <object()>\n\n\nError: 'function' object is not iterable\n",
		"pre_exec = helper":       "Invalid value for pre_exec: <helper()>\n\n\nError: Value must have an arity of: 1\n",
		"workers = -10**30":       "Invalid value for workers: -1000000000000000000000000000000\n\n\nError: Value must be positive: -9223372036854775808\n",
		"bind = [['x', None]]":    "Invalid value for bind: [['x', None]]\n\n\nError: Not a string: ['x', None]\n",
		"pidfile = {1: (2, b'')}": "Invalid value for pidfile: {1: [2, b'']}\n\n\nError: Not a string: {1: [2, b'']}\n",
	} {
		if err := os.WriteFile("conf.py", []byte("def helper(a, b=1, *c, d=2): pass\n"+line), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := loadConfig([]string{"-c", "conf.py", "app:app"}, os.Environ(), dir, evalOnly)
		wantFailure(t, err, 1, want)
	}
}

// Whatever is typed, there is a configuration or one complete message.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{"-w 3 app:app", "--time=3 x", "-DRw3", "-c '' \"", "--bind=[::1]:x a", "--forwarded-allow-ips 1.2.3.4/0.0.0.0 a", "-m 0_7", "-- --"} {
		f.Add(line, line)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, line, cmdArgs string) {
		c, err := loadConfig(strings.Fields(line), []string{"GUNICORN_CMD_ARGS=" + cmdArgs}, dir,
			func(*config, string) (map[string]any, error) { return nil, nil })
		var e *startError
		switch {
		case err == nil && c.option == "":
			if _, err := decodeConfig(c.encode()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			c.print(new(bytes.Buffer))
		case err != nil && (!errors.As(err, &e) || e.status < 1 || e.status > 2 || !strings.HasSuffix(e.text, "\n")):
			t.Errorf("%q: %v", line, err)
		}
	})
}

// A flag's value means the same in GUNICORN_CMD_ARGS, and is the same for the
// worker that gets it.
func FuzzSetting(f *testing.F) {
	var flags []string
	for i := range settings {
		for _, flag := range settings[i].flags {
			if settings[i].meta != "" && strings.HasPrefix(flag, "--") {
				flags = append(flags, flag)
				f.Add(uint8(len(flags)-1), settings[i].def)
			}
		}
	}
	for i := range flags {
		f.Add(uint8(i), "[0]8")
		for j, text := range []string{"", "1", "-1", "0x1f", "0o22", "é", "\xff", " a , b=c ", "'\"\\", "[::1]:80", "10.0.0.0/8,::/0,*", "udp://h:514", "%(h)s"} {
			if (i+j)%5 == 0 {
				f.Add(uint8(i), text)
			}
		}
	}
	dir := f.TempDir()
	none := func(*config, string) (map[string]any, error) { return nil, nil }
	quote := strings.NewReplacer(`'`, `'"'"'`)
	f.Fuzz(func(t *testing.T, i uint8, text string) {
		word := flags[int(i)%len(flags)] + "=" + text
		if strings.ContainsRune(text, 0) {
			return // neither arguments nor variables can have one
		}
		c, err := loadConfig([]string{word, "app:app"}, nil, dir, none)
		d, errVar := loadConfig([]string{"app:app"}, []string{"GUNICORN_CMD_ARGS='" + quote.Replace(word) + "'"}, dir, none)
		if (err == nil) != (errVar == nil) {
			t.Fatalf("%q: %v; in the variable: %v", word, err, errVar)
		}
		if err != nil {
			var e *startError
			if !errors.As(err, &e) || !strings.HasSuffix(e.text, "\n") {
				t.Fatalf("%q: %q", word, err)
			}
			return
		}
		w, err := decodeConfig(c.encode())
		if err != nil {
			t.Fatalf("%q: %v", word, err)
		}
		for name, other := range map[string]*config{"the variable": d, "a worker": w} {
			c.each(func(row, value string) {
				// A hook stays where Python is, and a table has no order on its way.
				apart := other == w && (strings.HasPrefix(value, "<") || strings.HasPrefix(value, "{"))
				if got := shown(other, row); got != value && !apart {
					t.Fatalf("%q: %s is %s, and in %s %s", word, row, value, name, got)
				}
			})
		}
	})
}

// TestManual holds the manual against the table: each section has exactly the
// rows of the table, in its order, and what of a row can be checked stands there
// too. Settings that are refused are listed under BUGS with what to do instead.
func TestManual(t *testing.T) {
	_, rest, _ := strings.Cut(manual, "\n.Ss "+sections[0].title+"\n")
	for i, s := range sections {
		var items []manualItem
		items, rest = manualList(rest)
		compareItems(t, s.title, items, s.rows)
		next := ".Ss "
		if i+1 < len(sections) {
			next += sections[i+1].title + "\n"
		}
		var found bool
		if rest, found = strings.CutPrefix(rest, next); !found {
			t.Fatalf("after the section %s stands %.40q, want %q", s.title, rest, next)
		}
	}
	_, bugs, _ := strings.Cut(manual, "\n.Sh BUGS\n")
	items, _ := manualList(bugs)
	var rows []setting
	for _, s := range refused {
		rows = append(rows, s.rows...)
		last := len(rows) - 1
		if want := capital(s.title) + ".\n"; last < len(items) && items[last].text != want {
			t.Errorf("BUGS: %q has %q, want %q", items[last].head, items[last].text, want)
		}
	}
	compareItems(t, "BUGS", items, rows)
}

// manualItem is an item of a list, with all that follows its line.
type manualItem struct{ head, text string }

// manualList reads the list that text has next, and returns what follows it.
func manualList(text string) (items []manualItem, rest string) {
	depth := 0
	for {
		line, after, _ := strings.Cut(text, "\n")
		text = after
		switch {
		case strings.HasPrefix(line, ".Bl "):
			depth++
		case line == ".El":
			depth--
		}
		switch {
		case depth == 0 && (items != nil || text == ""):
			return items, text
		case depth == 1 && strings.HasPrefix(line, ".It "):
			items = append(items, manualItem{head: line})
		case items != nil:
			items[len(items)-1].text += line + "\n"
		}
	}
}

func compareItems(t *testing.T, where string, items []manualItem, rows []setting) {
	for i := range max(len(items), len(rows)) {
		switch {
		case i >= len(rows):
			t.Errorf("%s: %q is no setting", where, items[i].head)
			continue
		case i >= len(items):
			t.Errorf("%s: %s is not there", where, rows[i].name)
			continue
		}
		r := settings[slices.IndexFunc(settings, func(r *setting) bool { return r.name == rows[i].name })]
		if want := manualHead(r); items[i].head != want {
			t.Errorf("%s: %q, want %q", where, items[i].head, want)
		} else if r.section != notSupported {
			checkItem(t, r, items[i].text)
		}
	}
}

// manualHead is the line that begins the item of a row.
func manualHead(r *setting) string {
	if r.flags == nil {
		return ".It Va " + r.name
	}
	argument := ""
	switch {
	case r.kind.optional:
		argument = " Op Ar " + r.meta
	case r.meta != "":
		argument = " Ar " + r.meta
	}
	var forms []string
	for _, f := range r.flags {
		forms = append(forms, "Fl "+f[1:]+argument)
	}
	return ".It " + strings.Join(forms, " , ")
}

// checkItem looks for what the item of a row has to say: the line of --help as
// the first sentence, the default, the variable, and the key in a file that is not
// the name of a flag.
func checkItem(t *testing.T, r *setting, text string) {
	plain := strings.NewReplacer(`\e`, `\`, `\&`, "", `\(dq`, `"`).Replace(text)
	if want := capital(r.usage) + ".\n"; !strings.HasPrefix(plain, want) {
		t.Errorf("%s: begins with %.60q, want %q", r.name, plain, want)
	}
	var wants []string
	isHook := r.section == "Server Hooks"
	if r.kind.alone == nil && !isHook && r.def != none && r.def != "" {
		def := r.def
		if r.kind == stringDict {
			v, _ := r.parse(r.def)
			def = pyStr(v)
		}
		if !slices.ContainsFunc([]string{" " + def + ".\n", "\n" + def + ".\n", "\n.Ql " + def + " .\n", "\n.Dl " + def + "\n"},
			func(form string) bool { return strings.Contains(plain, "\nThe default is"+form) }) {
			t.Errorf("%s: the default %s is not there", r.name, def)
		}
	}
	if r.env != "" {
		wants = append(wants, "The variable\n.Ev "+r.env+"\nreplaces the default.\n")
	}
	if r.flags != nil && !slices.Contains(r.flags, "--"+strings.ReplaceAll(r.name, "_", "-")) {
		wants = append(wants, "The key in a configuration file is\n.Va "+r.name+" .\n")
	}
	if r.field < 0 && !isHook && !slices.Contains(forPython, r.name) {
		wants = append(wants, "Accepted so that existing configurations work, and without meaning here: ")
	}
	for _, want := range wants {
		if !strings.Contains(plain, want) {
			t.Errorf("%s: %q is not there", r.name, want)
		}
	}
}

// forPython are the rows without a field whose values Python reads, or the file's finder.
var forPython = []string{"raw_paste_global_conf",
	"asgi_loop", "asgi_lifespan", "asgi_disconnect_grace_period", "config", "logconfig_dict", "pythonpath", "root_path", "sendfile", "spew",
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// TestManualLint formats the manual with all that people read it by; each has
// complaints of its own.
func TestManualLint(t *testing.T) {
	for _, c := range []struct{ debian, command string }{
		{"mandoc", "mandoc -T lint -W warning gunicorn.1"},
		{"groff-base", "groff -mdoc -Tutf8 -ww -z gunicorn.1"},
		{"man-db", "man --warnings -l gunicorn.1"},
	} {
		words := strings.Fields(c.command)
		if _, err := exec.LookPath(words[0]); err != nil {
			t.Errorf("%s is not installed; it is in the Debian package %s", words[0], c.debian)
			continue
		}
		var complaints bytes.Buffer
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		cmd.Stderr = &complaints
		if words[0] == "mandoc" { // man writes the page there
			cmd.Stdout = &complaints
		}
		if err := cmd.Run(); err != nil || complaints.Len() > 0 {
			t.Errorf("%s: %v\n%s", c.command, err, &complaints)
		}
	}
}
