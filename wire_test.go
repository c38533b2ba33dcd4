package main

// Python's marshal format, as Go writes and reads it.

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

// marshalCases are values and what Python's marshal.dumps(VALUE, 2) writes.
var marshalCases = []struct {
	value any
	bytes string
}{
	{nil, "N"},
	{true, "T"},
	{false, "F"},
	{int64(0), "i\x00\x00\x00\x00"},
	{int64(-1), "i\xff\xff\xff\xff"},
	{int64(math.MaxInt32), "i\xff\xff\xff\x7f"},
	{int64(math.MinInt32), "i\x00\x00\x00\x80"},
	{int64(math.MaxInt32 + 1), "l\x03\x00\x00\x00\x00\x00\x00\x00\x02\x00"},
	{int64(math.MinInt32 - 1), "l\xfd\xff\xff\xff\x01\x00\x00\x00\x02\x00"},
	{int64(math.MaxInt64), "l\x05\x00\x00\x00\xff\x7f\xff\x7f\xff\x7f\xff\x7f\x07\x00"},
	{int64(-math.MaxInt64), "l\xfb\xff\xff\xff\xff\x7f\xff\x7f\xff\x7f\xff\x7f\x07\x00"},
	{1.5, "g\x00\x00\x00\x00\x00\x00\xf8?"},
	{"", "u\x00\x00\x00\x00"},
	{"é€😀", "u\t\x00\x00\x00\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
	{"\xed\xa0\x80", "u\x03\x00\x00\x00\xed\xa0\x80"}, // '\ud800'
	{[]byte("\x00\xff"), "s\x02\x00\x00\x00\x00\xff"},
	{[]any{int64(1), "a"}, "[\x02\x00\x00\x00i\x01\x00\x00\x00u\x01\x00\x00\x00a"},
	{map[string]any{"a": []any{nil}}, "{u\x01\x00\x00\x00a[\x01\x00\x00\x00N0"},
	{map[string]any{}, "{0"},
}

func TestMarshal(t *testing.T) {
	for _, tt := range marshalCases {
		if got := appendMarshal([]byte("x"), tt.value); string(got) != "x"+tt.bytes {
			t.Errorf("%#v: %q, want %q", tt.value, got, tt.bytes)
		}
		got, err := unmarshal([]byte(tt.bytes))
		if err != nil || !reflect.DeepEqual(got, tt.value) {
			t.Errorf("%q: %#v, %v, want %#v", tt.bytes, got, err, tt.value)
		}
	}
	if got, err := unmarshal(appendMarshal(nil, 7)); err != nil || got != int64(7) {
		t.Errorf("%#v, %v", got, err)
	}
	list, err := unmarshal(appendMarshal(nil, []string{"a", "b"}))
	if want := []any{"a", "b"}; err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("%v, %v, want %v", list, err, want)
	}
}

// TestUnmarshalOther reads what Python writes and Go does not.
func TestUnmarshalOther(t *testing.T) {
	for in, want := range map[string]any{
		"(\x00\x00\x00\x00":                        []any{},
		"(\x01\x00\x00\x00T":                       []any{true},
		"t\x01\x00\x00\x00a":                       "a",
		"l\x00\x00\x00\x00":                        int64(0),
		"{t\x01\x00\x00\x00aNt\x01\x00\x00\x00aT0": map[string]any{"a": true},
	} {
		if got, err := unmarshal([]byte(in)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %#v, %v, want %#v", in, got, err, want)
		}
	}
}

func TestUnmarshalMalformed(t *testing.T) {
	for _, in := range []string{
		"", "x", "0", "NN", "{", "{0N", "{N", "{NN0", "{u\x01\x00\x00\x00a0",
		"i\x00\x00\x00", "s\x02\x00\x00\x00a", "s\xff\xff\xff\xffa", "u\xff\xff\xff\x7fa",
		"[\xff\xff\xff\xffN", "(\x02\x00\x00\x00N", "g\x00\x00\x00\x00\x00\x00\xf8",
		"l\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00", // 2**63
		"l\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00",
		"l\x00\x00\x00\x80", "l\x01\x00\x00\x00\x00\x80", // no such length, no such digit
		strings.Repeat("[\x01\x00\x00\x00", marshalDepth+1) + "N",
	} {
		if got, err := unmarshal([]byte(in)); err == nil {
			t.Errorf("%q: %#v", in, got)
		}
	}
	if _, err := unmarshal([]byte(strings.Repeat("[\x01\x00\x00\x00", marshalDepth) + "N")); err != nil {
		t.Errorf("depth %d: %v", marshalDepth, err)
	}
	for _, tt := range marshalCases {
		for cut := range tt.bytes {
			if got, err := unmarshal([]byte(tt.bytes[:cut])); err == nil {
				t.Errorf("%q: %#v", tt.bytes[:cut], got)
			}
		}
	}
}

// TestMarshalReader reads as a worker does, value by value.
func TestMarshalReader(t *testing.T) {
	b := appendMarshalTuple(nil, 5)
	b = appendMarshalLatin(b, "200 \xe9")
	b = appendMarshalList(b, 1)
	b = appendMarshalBytes(b, "body")
	b = appendMarshalInt(b, 1<<40)
	b = appendMarshalText(b, []byte("é"))
	b = appendMarshalBool(b, true)
	r := marshalReader{b: b}
	if n := r.sequence(); n != 5 {
		t.Fatal("tuple of", n)
	}
	if s := r.text(); string(s) != "200 é" {
		t.Fatalf("text %q", s)
	}
	if n := r.sequence(); n != 1 {
		t.Fatal("list of", n)
	}
	if s := r.bytes(); string(s) != "body" {
		t.Fatalf("bytes %q", s)
	}
	if n := r.int(); n != 1<<40 {
		t.Fatal("int", n)
	}
	if r.kind() != 'u' || string(r.text()) != "é" {
		t.Fatal("text")
	}
	if r.int() != 0 || r.err == nil {
		t.Fatal("read a bool as an int")
	}
	// After an error everything is empty.
	if r.sequence() != 0 || r.text() != nil || r.bytes() != nil || r.int() != 0 || r.kind() != 0 || r.is("T") {
		t.Fatal("read on after an error")
	}
}

func FuzzMarshal(f *testing.F) {
	for _, tt := range marshalCases {
		f.Add([]byte(tt.bytes))
	}
	f.Add([]byte("(\x02\x00\x00\x00t\x01\x00\x00\x00al\x01\x00\x00\x00\x05\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if back, ok := latin(nil, appendLatin(nil, in)); !ok || !bytes.Equal(back, in) {
			t.Fatalf("latin-1 %q comes back as %q", in, back)
		}
		v, err := unmarshal(in)
		if err != nil {
			if v != nil {
				t.Fatalf("%#v and %v", v, err)
			}
			return
		}
		out := appendMarshal(nil, v)
		if len(out) > len(in) {
			t.Fatalf("%q is longer than %q", out, in)
		}
		again, err := unmarshal(out)
		if err != nil || fmt.Sprintf("%#v", again) != fmt.Sprintf("%#v", v) { // NaN prints the same
			t.Fatalf("%#v comes back as %#v, %v", v, again, err)
		}
		// A reader that expects something else stops, too.
		r := marshalReader{b: in}
		for n := r.sequence(); n > 0 && r.err == nil; n-- {
			r.text()
			r.bytes()
		}
		if len(r.b) > len(in) {
			t.Fatal("reader grew")
		}
	})
}
