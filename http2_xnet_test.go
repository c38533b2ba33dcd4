//go:build xnet

package main

// HPACK and frames beside golang.org/x/net, which is no requirement of the program:
//
//	go test -modfile=test/xnet.mod -tags xnet -fuzz FuzzHpack .
//	go test -modfile=test/xnet.mod -tags xnet -fuzz FuzzFramer .

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// FuzzHpack decodes two blocks in succession, as the second may refer to the first.
func FuzzHpack(f *testing.F) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	_ = e.WriteField(hpack.HeaderField{Name: ":method", Value: "GET"})
	_ = e.WriteField(hpack.HeaderField{Name: "x-own", Value: "any \x00\xff text"})
	first := bytes.Clone(b.Bytes())
	b.Reset()
	_ = e.WriteField(hpack.HeaderField{Name: "x-own", Value: "any \x00\xff text"})
	e.SetMaxDynamicTableSize(64)
	_ = e.WriteField(hpack.HeaderField{Name: "cookie", Value: "a=b", Sensitive: true})
	f.Add(first, b.Bytes())
	f.Add([]byte("\x3f\xe1\x1f\x40\x01a\x82\xff\xff"), []byte("\x20\xbe"))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		table, list := hpackTable{most: h2TableSize}, fieldList{limit: 1 << 30}
		var theirs []hpack.HeaderField
		d := hpack.NewDecoder(h2TableSize, func(f hpack.HeaderField) { theirs = append(theirs, f) })
		for _, block := range [][]byte{one, two} {
			theirs = theirs[:0]
			_, err := d.Write(block)
			if err == nil {
				err = d.Close()
			}
			bad := table.decode(block, &list)
			if bad == errHpackLate || bad != nil && longNumber(block) {
				return // x/net is more lenient
			}
			if bad == nil && err != nil && strings.Contains(err.Error(), "table size update") {
				return // x/net knows one update of a table that is in use, where RFC 7541 4.2 has two
			}
			if (bad == nil) != (err == nil) {
				t.Fatalf("%x: ours %v, theirs %v", block, bad, err)
			}
			if bad != nil {
				return
			}
			if len(theirs) != len(list.fields) {
				t.Fatalf("%x: %d fields, and theirs are %d", block, len(list.fields), len(theirs))
			}
			for i, f := range list.fields {
				if string(f.name) != theirs[i].Name || string(f.value) != theirs[i].Value {
					t.Fatalf("%x: %q: %q, and theirs is %v", block, f.name, f.value, theirs[i])
				}
			}
		}
	})
}

// longNumber reports whether a block may have a number that is written in more bytes than we
// accept.
func longNumber(b []byte) bool {
	run := 0
	for _, c := range b {
		if run++; c < 0x80 {
			run = 0
		}
		if run >= 4 {
			return true
		}
	}
	return false
}

// FuzzBlock has their decoder read the blocks that we write.
func FuzzBlock(f *testing.F) {
	f.Add("Content-Type", "text/plain")
	f.Fuzz(func(t *testing.T, name, value string) {
		if checkField([]byte(name), []byte(value)) != nil || len(trimBlanks([]byte(value))) < len(value) {
			return
		}
		b := appendLiteral(nil, []byte(name), []byte(value))
		got, err := hpack.NewDecoder(0, nil).DecodeFull(b)
		if err != nil || len(b) > 0 && (len(got) != 1 || got[0].Value != value || !foldEqual([]byte(got[0].Name), name)) {
			t.Fatalf("%x: %v, %v", b, got, err)
		}
	})
}

// FuzzFramer has their framer read the same frames: the bodies of requests are the same. A
// client may have sent DATA on a stream that it has not opened, which their framer, unlike
// their server, does not know.
func FuzzFramer(f *testing.F) {
	settings := h2Bytes(h2Frame{kind: h2Settings}, "")
	f.Add([]byte(settings + h2Bytes(h2Frame{kind: h2Headers, flags: 4, id: 1}, h2Get) + h2Bytes(h2Frame{kind: h2Data, flags: 9, id: 1}, "\x01abc")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := newTestH2()
		var ours, theirs []byte
		ok, opened := true, map[uint32]bool{}
		for in := append([]byte(h2Preface), raw...); ok; {
			n, e, bad := h.next(in)
			if in = in[n:]; bad != nil || e.kind == h2Broken {
				return
			}
			switch e.kind {
			case h2Opened:
				opened[e.stream.id] = true
			case h2Piece:
				ours = append(ours, e.piece...)
			}
			ok = n > 0 || e.kind != h2Nothing
		}
		fr := http2.NewFramer(io.Discard, bytes.NewReader(raw))
		for {
			frame, err := fr.ReadFrame()
			if err != nil {
				break
			}
			if d, ok := frame.(*http2.DataFrame); ok && opened[d.StreamID] {
				theirs = append(theirs, d.Data()...)
			}
		}
		if !bytes.HasPrefix(ours, theirs) {
			t.Fatalf("%x: body %q, theirs %q", raw, ours, theirs)
		}
	})
}
