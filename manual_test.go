package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var updateManual = flag.Bool("update-manual", false, "rewrite the generated part of gunicorn.1")

// TestManual compares the settings part of the manual with the table.
func TestManual(t *testing.T) {
	const (
		begin = ".\\\" settings: generated, see manual_test.go\n"
		end   = ".\\\" end of settings\n"
	)
	text := readAll("gunicorn.1")
	before, rest, begins := strings.Cut(text, begin)
	_, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		t.Fatalf("gunicorn.1 has no lines %q and %q", begin, end)
	}
	want := before + begin + manSettings() + end + after
	switch {
	case text == want:
	case *updateManual:
		if err := os.WriteFile("gunicorn.1", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("the settings in gunicorn.1 are stale; go test -run TestManual -update-manual rewrites them")
	}
}

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
