package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestFrameConstants: both ends of the wire give frames and flags the same numbers.
func TestFrameConstants(t *testing.T) {
	inPython := map[string]int{}
	for _, name := range []string{"wsgi.py", "asgi.py"} {
		source, err := os.ReadFile("python/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^([A-Z]+(?:, [A-Z]+)*) = (\w+(?:, \w+)*)(?: *#.*)?$`).FindAllStringSubmatch(string(source), -1) {
			names, values := strings.Split(m[1], ", "), strings.Split(m[2], ", ")
			for i := range min(len(names), len(values)) {
				if n, err := strconv.Atoi(values[i]); err == nil {
					inPython[names[i]] = n
				} else if n, ok := inPython[values[i]]; ok {
					inPython[names[i]] = n
				}
			}
		}
	}
	want := map[string]int{
		"LAST": flagLast, "MORE": flagMore, "BROKEN": flagBroken, "QUIET": flagQuiet, "CLOSE": flagClose,
		"STACKS": flagStacks, "TAKEN": flagTaken, "PUMPED": flagPumped, "TEXT": flagText, "CROWD": flagCrowd,
	}
	for kind, k := range frameKinds {
		if k.name != "" {
			want[k.name] = kind
		}
		if k.name != "" && k.from&sentByPython != 0 != (k.said != nil || k.aside != nil) {
			t.Errorf("%s: sent by %d, handled: %v, %v", k.name, k.from, k.said != nil, k.aside != nil)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, ok := inPython[name]; !ok || got != want[name] {
			t.Errorf("%s is %d, in Python %d (there at all: %v)", name, want[name], got, ok)
		}
	}
}

// TestFrameNames: an error says which frame it is about.
func TestFrameNames(t *testing.T) {
	for want, f := range map[string]frame{
		"unexpected FILE frame for request 12":               {kind: kindFile, number: 12},
		"unexpected READY frame":                             {kind: kindReady},
		"unexpected frame of unknown kind 77 for request 12": {kind: 77, number: 12},
	} {
		if got := fmt.Sprint(f.unexpected()); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
