package test

import (
	"crypto/tls"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestWebSocket has libraries that use gunicorn.socket speak with a client that knows nothing
// of this server.
func TestWebSocket(t *testing.T) {
	for name, args := range map[string][]string{
		"sync":     {"-w", "2"},
		"TLS":      nil,
		"threads":  {"--threads", "4"},
		"gevent":   {"-k", "gevent"},
		"eventlet": {"-k", "eventlet"},
	} {
		t.Run(name, func(t *testing.T) {
			site, url := newSite(t, "sockets.py"), "ws://"
			if name == "TLS" {
				newAuthority(t, "authority").pair(t, site.dir, "server")
				url = "wss://"
				args = []string{"--certfile", filepath.Join(site.dir, "server.pem"), "--keyfile", filepath.Join(site.dir, "server.key")}
			}
			s := site.start(t, append(args, "--access-logfile", "-", "sockets:app")...)
			s.expected = append(s.expected, regexp.MustCompile(`^Traceback`)) // of /error
			client := []string{tool(t, "sockets_client.py"), url + s.addr, "/echo"}
			if name == "sync" || name == "eventlet" { // eventlet's WebSocket is of no use among threads
				client = append(client, "/eventlet")
			}
			site.python(t, nil, client...)
			s.waitText("the access log", `"GET /echo HTTP/1\.1" 101 `, s.stdout)
		})
	}
}

// TestTLSPeercert asks gunicorn.socket who the client is.
func TestTLSPeercert(t *testing.T) {
	s, a, config := tlsServer(t, "--cert-reqs", "1", "--ca-certs", "authority.pem")
	ask := func(c *tls.Config, want string) {
		t.Helper()
		client := over(c)
		defer client.CloseIdleConnections()
		for range 2 { // looking at the socket does not take it away
			if got := get(t, client, s.url+"/socket"); !strings.HasPrefix(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
	ask(config, "None NoneType 127.0.0.1 [Errno 95] TLS:")
	known := config.Clone()
	known.Certificates = []tls.Certificate{a.pair(t, t.TempDir(), "somebody")}
	ask(known, "somebody bytes 127.0.0.1 [Errno 95] TLS:")
}
