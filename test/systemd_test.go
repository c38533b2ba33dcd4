package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnits has systemd read the units that the manual and README give.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("systemd-analyze is not installed; it is in the Debian package systemd")
	}
	manual := strings.ReplaceAll(readAll("../gunicorn.1"), `\-`, "-")
	_, service, _ := strings.Cut(manual, "\n.Pa shop.service ,\n")
	_, service, _ = strings.Cut(service, "indent\n")
	service, _, _ = strings.Cut(service, ".Ed\n")
	_, socket, _ := strings.Cut(manual, "\n.Pa shop.socket\n")
	_, socket, _ = strings.Cut(socket, "indent\n")
	socket, _, _ = strings.Cut(socket, ".Ed\n")
	_, short, _ := strings.Cut(readAll("../README.md"), "## Under systemd\n\n")
	short, _, _ = strings.Cut(short, "\n\nWith a socket")
	for name, units := range map[string]map[string]string{
		"manual": {"shop.service": service, "shop.socket": socket},
		"README": {"shop.service": strings.ReplaceAll(short, "    ", "")},
	} {
		dir := t.TempDir()
		args := []string{"verify", "--man=no"}
		for unit, text := range units {
			if !strings.Contains(text, "[Install]") {
				t.Fatalf("%s has no %s", name, unit)
			}
			text = strings.ReplaceAll(text, "/usr/local/bin/gunicorn", testBinary)
			path := filepath.Join(dir, unit)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			args = append(args, path)
		}
		if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: systemd-analyze: %v\n%s", name, err, out)
		}
	}
}
