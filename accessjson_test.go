package main

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAccessObject(t *testing.T) {
	a := &accessLog{json: true}
	a.object(testEntry("Host", "example.org", "User-Agent", `M "x" \`, "Cookie", "secret", "Authorization", "Basic YW5uYTp4"))
	const want = `{"time":"2026-11-22T20:15:26.000+01:30","remote_addr":"192.0.2.7","remote_user":"anna",` +
		`"method":"GET","target":"/a%20b?x=1","path":"/a b","query":"x=1","protocol":"HTTP/1.1","host":"example.org",` +
		`"status":200,"bytes":14,"duration":2.034567,"referer":null,"user_agent":"M \"x\" \\","worker":77}`
	if got := string(a.buf); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	e := testEntry()
	e.parsed, e.status, e.req = false, nil, &request{}
	a.buf = a.buf[:0]
	a.object(e)
	var v map[string]any
	if err := json.Unmarshal(a.buf, &v); err != nil || len(v) != 15 || v["status"] != nil || v["method"] != nil {
		t.Errorf("nothing known: %s: %v", a.buf, err)
	}
	// The manual has every key, in this order.
	keys := "time, remote_addr, remote_user, method, target, path, query, protocol, host, status, bytes, duration, referer, user_agent and worker,"
	at := 0
	for _, key := range strings.Split(strings.Trim(strings.ReplaceAll(keys, " and ", ", "), ","), ", ") {
		i := strings.Index(want, `"`+key+`":`)
		if i < at {
			t.Errorf("key %s is at %d", key, i)
		}
		at = i
	}
	if !strings.Contains(strings.ReplaceAll(manual, "\n", " "), keys) {
		t.Errorf("the manual does not say %q", keys)
	}
}

func TestAccessObjectAllocations(t *testing.T) {
	a, err := openAccessLog("/dev/null", "")
	if err != nil {
		t.Fatal(err)
	}
	a.json = true
	e := testEntry("Host", "é", "User-Agent", "\xff\x00𝄞\u2028", "Authorization", "Basic YW5uYTp4")
	for range 1000 { // let the buffer find its size
		a.record(e)
	}
	if n := testing.AllocsPerRun(2000, func() { a.record(e); a.flush() }); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func FuzzAppendJSON(f *testing.F) {
	for _, text := range []string{"", "a\"b\\c", "\x00\x1f\x7f\n\r\t", "ä𝄞\u2028\u0085\ufffd", "\xff\xc3", "\U000e0001"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := appendJSON(nil, text)
		var got string
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%q gives %q: %v", text, line, err)
		}
		if want := strings.ToValidUTF8(text, "\ufffd"); got != want && utf8.ValidString(text) {
			t.Errorf("%q comes back as %q", text, got)
		}
		var theirs string
		b, _ := json.Marshal(text)
		if err := json.Unmarshal(b, &theirs); err != nil || !reflect.DeepEqual(theirs, got) {
			t.Errorf("%q comes back as %q, and from encoding/json as %q", text, got, theirs)
		}
		for _, r := range string(line) {
			if r < ' ' || r == 0x7f {
				t.Errorf("%q gives %q", text, line)
			}
		}
	})
}
