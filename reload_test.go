package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What Python's glob.glob(pattern, recursive=True) lists, sorted.
func TestExpand(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.py", "b.py", ".hidden.py", "x/a.py", "x/y/a.py", ".git/a.py", "[b]", `c\d`, "e-f", "g^h", "]"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(".", filepath.Join(dir, "x", "loop")); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]string{
		"*.py":        "a.py b.py",
		"?.py":        "a.py b.py",
		".*.py":       ".hidden.py",
		"[!a].py":     "b.py",
		"[a-b].py":    "a.py b.py",
		"[a-].py":     "a.py",
		"[]a].py":     "a.py",
		"[]]":         "]",
		"[[]b]":       "[b]",
		"[b":          "",
		`c\*`:         `c\d`,
		`c[\]d`:       `c\d`,
		"e[-x]f":      "e-f",
		"g[^]h":       "g^h",
		"g[!x]h":      "g^h",
		"*/a.py":      "x/a.py",
		"**/a.py":     "a.py x/a.py x/y/a.py",
		"x/**":        "x x/a.py x/loop x/y x/y/a.py",
		"x/**/y/*":    "x/y/a.py",
		"**/*.html":   "",
		"none/*":      "",
		"x/../*.py":   "a.py b.py",
		"a.py/*":      "",
		"**/.git/*":   ".git/a.py",
		"**.py":       "a.py b.py",
		"x/*/a.py":    "x/loop/a.py x/y/a.py",
		"**/y":        "x/y",
		"x/y/[a]*.p?": "x/y/a.py",
	} {
		t.Run(strings.ReplaceAll(pattern, "/", "_"), func(t *testing.T) {
			var got []string
			for _, path := range expand(filepath.Join(dir, pattern)) {
				got = append(got, strings.TrimPrefix(path, dir+"/"))
			}
			slices.Sort(got)
			if text := strings.Join(got, " "); text != want {
				t.Errorf("got %q, want %q", text, want)
			}
		})
	}
}
