package test

// Programs from PyPI that start gunicorn themselves.

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMLflow has the server of MLflow run python -m gunicorn, and uses it.
func TestMLflow(t *testing.T) {
	if !*livesLong {
		t.Skip("takes 850 MB of packages; without -long")
	}
	python, err := makeVenv([]byte("mlflow==3.17.2\n"))
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0") // MLflow does not say what port the kernel chose
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().(*net.TCPAddr)
	free.Close()
	dir := t.TempDir()
	cmd := program(t, dir, []string{"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"}, filepath.Join(filepath.Dir(python), "mlflow"), "server", "--port", strconv.Itoa(addr.Port),
		"--backend-store-uri", "sqlite:///"+dir+"/mlflow.db", "--workers", "2", "--gunicorn-opts", "--log-level debug --timeout 60")
	cmd.Path, cmd.Args[0] = python, python
	s := launchCommand(t, cmd, nil)
	t.Cleanup(s.finish)
	var m []string
	if !poll(siteLimit, func() bool {
		m = regexp.MustCompile(`Listening at: http://` + addr.String() + ` \((\d+)\)`).FindStringSubmatch(s.log())
		return m != nil || s.hasEnded()
	}) || m == nil {
		t.Fatal("the server does not listen")
	}
	arbiter, _ := strconv.Atoi(m[1])
	if exe, _ := os.Readlink("/proc/" + m[1] + "/exe"); !strings.HasSuffix(exe, "/bin/gunicorn") {
		t.Errorf("the server is %s", exe)
	}
	for _, request := range [][3]string{
		{"/health", "", "OK"}, {"/api/2.0/mlflow/experiments/create", `{"name": "first"}`, "experiment_id"},
		{"/api/2.0/mlflow/experiments/get-by-name?experiment_name=first", "", "artifact_location"},
	} {
		var resp *http.Response
		url := "http://" + addr.String() + request[0]
		if request[1] == "" {
			resp, err = http.Get(url)
		} else {
			resp, err = http.Post(url, "application/json", strings.NewReader(request[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(body), request[2]) {
			t.Errorf("%s: status %d, %s", request[0], resp.StatusCode, cut(string(body)))
		}
	}
	unix.Kill(arbiter, unix.SIGTERM)
	if !poll(siteLimit, s.hasEnded) {
		t.Fatal("the server does not end")
	}
	if status := s.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}
