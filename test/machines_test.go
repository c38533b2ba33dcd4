package test

// Several machines: servers in network namespaces of their own, with HAProxy or nginx in
// front, configured as the manual says, and the load of lives_test.go, whose numbered
// requests show what is lost and what is done twice.

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// manualText is a literal example of the manual, from the line that begins with first on.
func manualText(t *testing.T, first string) string {
	t.Helper()
	_, text, found := strings.Cut(readAll("../gunicorn.1"), "-offset indent\n"+strings.ReplaceAll(first, "-", `\-`))
	if !found {
		t.Fatalf("the manual has no example that begins with %q", first)
	}
	text, _, _ = strings.Cut(text, ".Ed\n")
	return first + strings.ReplaceAll(text, `\-`, "-")
}

// machine is a network namespace with an address, and the server in it.
type machine struct {
	t      *testing.T
	name   string
	addr   string // of the server
	dir    string
	args   []string
	cmd    *exec.Cmd
	ended  chan struct{}
	stderr string
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v %s", strings.Join(args, " "), err, out)
	}
}

var networks atomic.Int32 // made so far: the kernel takes a while to forget one

// machines makes n namespaces, joined to ours by a bridge, and starts a server in each.
func machines(t *testing.T, n int, dir string, args ...string) (list []*machine) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces")
	}
	number := networks.Add(1)
	trial := fmt.Sprintf("g%d-%d", os.Getpid(), number)
	if out, err := exec.Command("ip", "netns", "add", trial).CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %v %s", err, out)
	}
	ip(t, "netns", "del", trial)
	var tag, subnet string
	claimed := false
	for _, n := range rand.Perm(127) { // other runs of the tests have subnets, too
		tag, subnet = fmt.Sprintf("g%d-%d", 128+n, number), fmt.Sprintf("10.%d.%d", 128+n, number)
		if claimed = exec.Command("ip", "link", "add", tag+"b", "type", "bridge").Run() == nil; claimed {
			break
		}
	}
	if !claimed {
		t.Fatal("no bridge can be made")
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", tag+"b").Run() })
	ip(t, "addr", "add", subnet+".254/24", "dev", tag+"b")
	ip(t, "link", "set", tag+"b", "up")
	for i := 1; i <= n; i++ {
		m := &machine{t: t, name: tag + strconv.Itoa(i), dir: dir, args: args, addr: fmt.Sprintf("%s.%d:8000", subnet, i)}
		near, far := m.name+"n", m.name+"f"
		ip(t, "netns", "add", m.name)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", m.name).Run() })
		ip(t, "link", "add", near, "type", "veth", "peer", "name", far, "netns", m.name)
		ip(t, "link", "set", near, "master", tag+"b", "up")
		ip(t, "-n", m.name, "addr", "add", fmt.Sprintf("%s.%d/24", subnet, i), "dev", far)
		ip(t, "-n", m.name, "link", "set", far, "up")
		ip(t, "-n", m.name, "link", "set", "lo", "up")
		m.start()
		t.Cleanup(m.kill)
		list = append(list, m)
	}
	for _, m := range list {
		m.wait("/ready", 200)
	}
	return list
}

func (m *machine) start() {
	m.t.Helper()
	m.stderr = filepath.Join(m.t.TempDir(), "stderr")
	f, err := os.Create(m.stderr)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	m.cmd = exec.Command("ip", slices.Concat([]string{"netns", "exec", m.name, testBinary, "--python", testPython(m.t),
		"--access-logfile", m.name + ".log"}, m.args)...)
	m.cmd.Dir, m.cmd.Stderr = m.dir, f
	m.cmd.Env = environment(m.t, m.dir)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	m.ended = ended
	go func(cmd *exec.Cmd) {
		cmd.Wait()
		close(ended)
	}(m.cmd)
}

// wait waits until a path of the server has a status.
func (m *machine) wait(path string, status int) {
	m.t.Helper()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if !poll(3*waitLimit, func() bool {
		r, err := client.Get("http://" + m.addr + path)
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == status
	}) {
		m.t.Fatalf("%s%s is never %d\n%s", m.addr, path, status, readAll(m.stderr))
	}
}

// stop sends TERM and waits for the end.
func (m *machine) stop() {
	m.t.Helper()
	m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(4 * waitLimit):
		m.t.Fatalf("the server does not end\n%s", readAll(m.stderr))
	}
	if status := m.cmd.ProcessState.ExitCode(); status != 0 {
		m.t.Errorf("the server's status was %d\n%s", status, readAll(m.stderr))
	}
	if lines := errorLine.FindAllString(readAll(m.stderr), -1); lines != nil {
		m.t.Errorf("unasked: %q", lines)
	}
}

// kill ends all processes of the machine at once, as a failure of power would.
func (m *machine) kill() {
	syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
	<-m.ended
	poll(waitLimit, func() bool {
		out, _ := exec.Command("ip", "netns", "pids", m.name).Output()
		for _, pid := range strings.Fields(string(out)) {
			n, _ := strconv.Atoi(pid)
			syscall.Kill(n, syscall.SIGKILL)
		}
		return len(out) == 0
	})
}

// balancer starts HAProxy or nginx with an example of the manual, in which only addresses
// and numbers differ, and returns its address.
func balancer(t *testing.T, list []*machine, command func(conf string) *exec.Cmd, text string, pairs ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for i, m := range list {
		pairs = append(pairs, fmt.Sprintf("10.0.0.%d:8000", i+1), m.addr)
	}
	pairs = append(pairs, "bind :80", "bind "+addr, "listen 80", "listen "+addr)
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	text = strings.NewReplacer(append(pairs, "DIR", dir)...).Replace(text)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := command(conf)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = waitLimit
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (apt-get install nginx-light haproxy)", err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s%s", out.String(), readAll(filepath.Join(dir, "error.log")))
		}
	})
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if !poll(3*waitLimit, func() bool {
		r, err := client.Get("http://" + addr + "/live") // of which the application does not hear
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == 200
	}) {
		t.Fatalf("nobody is served: %s\n%s", out.String(), text)
	}
	return addr
}

// waitDone waits until the balancer gives requests to a machine again.
func (l *liveLoad) waitDone(m *machine) {
	l.t.Helper()
	served := func() int { return strings.Count(readAll(filepath.Join(m.dir, m.name+".log")), "\n") }
	n := served()
	if !poll(3*waitLimit, func() bool { return served() > n+20 }) {
		l.t.Fatalf("%s gets no requests", m.addr)
	}
}

// machinesLoad starts three servers as the manual does, with fewer workers.
func machinesLoad(t *testing.T) (list []*machine, s *server) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(livesApp), 0o644); err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(strings.TrimPrefix(manualText(t, "$ gunicorn -w 4 --threads 2 "), "$ gunicorn "))
	args := strings.Fields(strings.NewReplacer("-w 4", "-w 2", "shop.wsgi", "app:app").Replace(line))
	list = machines(t, 3, dir, args...)
	return list, &server{t: t, dir: dir}
}

// TestMachinesUpgrade replaces one server after the other under load.
func TestMachinesUpgrade(t *testing.T) {
	if reference {
		return
	}
	t.Parallel()
	for name, front := range map[string]struct {
		command func(string) *exec.Cmd
		text    string
	}{
		"HAProxy": {haproxy, manualText(t, "defaults\n")},
		"nginx": {func(conf string) *exec.Cmd { return exec.Command(proxyPath("nginx"), "-c", conf) }, "daemon off; worker_processes 1; pid DIR/nginx.pid; error_log DIR/error.log;\nevents {}\nhttp {\naccess_log off;\n" +
			"client_body_temp_path DIR; proxy_temp_path DIR; fastcgi_temp_path DIR; scgi_temp_path DIR; uwsgi_temp_path DIR;\n" +
			manualText(t, "upstream shop {\n") + "}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list, s := machinesLoad(t)
			s.addr = balancer(t, list, front.command, front.text, "maxconn 8", "maxconn 4")
			l := startLoad(t, s, 16)
			l.pause = func() string { return "&0.01" }
			l.waitAnswers(100)
			for range times(1, 10) {
				for _, m := range list {
					m.stop()
					m.start()
					m.wait("/ready", 200)
					l.waitDone(m)
				}
			}
			l.stop()
			if n := l.count(fateRefused) + l.count(fateCut); n > 0 {
				t.Errorf("%d requests failed: %v", n, l.statuses)
			}
		})
	}
}

// TestMachinesCrash ends a server by SIGKILL: what ran there is lost, four requests at most,
// and what HAProxy could not deliver is served by the others. If it may send a GET again, as
// the manual says, none is lost.
func TestMachinesCrash(t *testing.T) {
	if reference {
		return
	}
	t.Parallel()
	t.Run("once", func(t *testing.T) { crashMachines(t, false) })
	t.Run("again", func(t *testing.T) { crashMachines(t, true) })
}

func crashMachines(t *testing.T, again bool) {
	t.Parallel()
	list, s := machinesLoad(t)
	pairs := []string{"maxconn 8", "maxconn 4"}
	if again {
		pairs = append(pairs, "\nbackend shop\n", "\nbackend shop\n"+manualText(t, "    retry-on conn-failure empty-response\n"))
	}
	s.addr = balancer(t, list, haproxy, manualText(t, "defaults\n"), pairs...)
	l := startLoad(t, s, 32)
	l.twice = again
	l.pause = func() string { return "&0.05" }
	l.waitAnswers(100)
	for i := range times(2, 20) {
		m := list[i%len(list)]
		m.kill()
		l.waitAnswers(200)
		m.start()
		m.wait("/ready", 200)
		l.waitDone(m)
	}
	l.stop()
	begun := 0
	done := "\n" + readAll(filepath.Join(s.dir, "done"))
	for number, fate := range l.fates {
		if fate != fateAnswered && strings.Contains(done, fmt.Sprintf("\n%d\n", number)) {
			begun++
		}
	}
	lost := l.count(fateRefused) + l.count(fateCut)
	t.Logf("lost: %d, of which %d had begun", lost, begun)
	if again && lost > 0 {
		t.Errorf("%d requests were lost that HAProxy may repeat: %v", lost, l.statuses)
	}
	if most := 4 * times(2, 20); begun > most {
		t.Errorf("%d requests that had begun were lost with servers that ran %d", begun, most)
	}
	// The processes of a server die one after the other, and until the last has died the
	// kernel accepts connections for it, to which HAProxy gives requests.
	if most := 8 * times(2, 20); lost-begun > most {
		t.Errorf("%d requests were lost that had not begun: %v", lost-begun, l.statuses)
	}
}

// TestKubernetes does what a kubelet does with the pod of the manual: it probes, and
// sends TERM while the service still sends clients for a while.
func TestKubernetes(t *testing.T) {
	if reference {
		return
	}
	t.Parallel()
	text := manualText(t, "spec:\n")
	args := strings.Split(regexp.MustCompile(`args: \[gunicorn, (.*)\]`).FindStringSubmatch(text)[1], ", ")
	for i := range args {
		args[i] = strings.Trim(args[i], `"`)
	}
	number := func(re string) int {
		n, _ := strconv.Atoi(regexp.MustCompile(re).FindStringSubmatch(text)[1])
		return n
	}
	grace := number(`terminationGracePeriodSeconds: (\d+)`)
	drain := number(`--drain-delay, "(\d+)"`)
	if stop := number(`--graceful-timeout, "(\d+)"`); drain+stop >= grace {
		t.Errorf("%d seconds are less than %d and %d", grace, drain, stop)
	}
	if notice := number(`(?s)readinessProbe:.*?periodSeconds: (\d+)`) * number(`(?s)readinessProbe:.*?failureThreshold: (\d+)`); notice >= drain {
		t.Errorf("%d seconds until the pod counts as not ready, and a delay of %d", notice, drain)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(livesApp), 0o644); err != nil {
		t.Fatal(err)
	}
	line := strings.NewReplacer("0.0.0.0:8000", "127.0.0.1:0", "shop.wsgi", "app:app").Replace(strings.Join(args, " "))
	s := startServer(t, dir, strings.Fields(line)...)
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	probe := func(kind string) bool {
		path := regexp.MustCompile(`(?s)` + kind + `Probe:\s*httpGet: \{path: (\S+), port: 8000\}`).FindStringSubmatch(text)[1]
		r, err := client.Get("http://" + s.addr + path)
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode >= 200 && r.StatusCode < 400
	}
	if !poll(waitLimit, func() bool { return probe("startup") }) {
		t.Fatal("the pod does not start")
	}
	if !probe("liveness") || !probe("readiness") {
		t.Error("the pod is not alive, or not ready")
	}
	l := startLoad(t, s, 8)
	l.waitAnswers(50)
	s.signal(syscall.SIGTERM)
	if !poll(time.Second, func() bool { return !probe("readiness") }) || !probe("liveness") {
		t.Error("after TERM the pod is still ready, or not alive")
	}
	l.waitAnswers(200)
	l.stop()
	if n := l.count(fateRefused) + l.count(fateCut); n > 0 {
		t.Errorf("%d requests failed: %v", n, l.statuses)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(grace)*time.Second)
	defer cancel()
	select {
	case <-s.ended:
	case <-ctx.Done():
		t.Error("the server does not end in time")
	}
}
