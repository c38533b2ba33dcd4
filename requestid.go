package main

// Request ids: one for each request, by which the lines of several programs and logs about
// the request are found. The id is that of a trusted proxy if there is a well-formed one,
// and otherwise made here. The application finds the id among the header fields, in place
// of what an untrusted client may have sent under that name, and the client in the response.

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
)

const (
	idSize = 16        // random bytes of an id
	idMax  = 128       // bytes of the longest id that is taken from a proxy
	idsAt  = 4 << 10   // random bytes that are read at once, for 256 ids
	idMark = "-_.:+/=" // characters of an id beside letters and digits: those of UUIDs, base64, traces and ULIDs
)

// ids makes request ids.
type ids struct {
	name   []byte // the setting request_id_header
	random [idsAt]byte
	left   int // bytes of random that are not used yet
}

// append appends a new id.
func (i *ids) append(b []byte) []byte {
	if i.left == 0 {
		_, _ = rand.Read(i.random[:]) // never fails
		i.left = idsAt
	}
	i.left -= idSize
	return hex.AppendEncode(b, i.random[i.left:][:idSize])
}

// wellFormedID reports whether a text can be an id: nothing in it needs to be quoted in a
// log or a header field.
func wellFormedID(b []byte) bool {
	return len(b) > 0 && len(b) <= idMax && !slices.ContainsFunc(b, func(c byte) bool {
		return !isAlphanumeric(c) && strings.IndexByte(idMark, c) < 0
	})
}

// identify gives a request its id, and makes the id the value of the one field of its name.
func (w *worker) identify(t *turn) {
	name := w.ids.name
	var given []byte
	n := 0
	t.req.fields = slices.DeleteFunc(t.req.fields, func(f field) bool {
		same := sameKey(f.name, name)
		if same {
			given, n = f.value, n+1
		}
		return same
	})
	if t.idName = name; n == 1 && t.conn.trusted && wellFormedID(given) {
		t.id = append(t.id[:0], given...)
	} else {
		t.id = w.ids.append(t.id[:0])
	}
	t.req.fields = append(t.req.fields, field{name, t.id})
}

// tag names the request's id for the log, "" without one.
func (t *turn) tag() string {
	if t == nil || len(t.id) == 0 {
		return ""
	}
	return " id=" + string(t.id)
}

// mark puts the request's id among the fields of its response, in place of one that the
// application has set.
func (t *turn) mark(fields []field) []field {
	if len(t.id) == 0 {
		return fields
	}
	fields = slices.DeleteFunc(fields, func(f field) bool { return foldEqual(f.name, t.idName) })
	return append(fields, field{t.idName, t.id})
}

// checkRequestID checks the setting request_id_header.
func (c *config) checkRequestID() error {
	name := []byte(c.requestIDHeader)
	switch {
	case len(name) == 0:
		return nil
	case tokenLen(name) < len(name):
		return sentence("request_id_header: %q is not the name of a header", name)
	}
	for _, taken := range []string{"HOST", "CONTENT-TYPE", "EXPECT", "COOKIE", "SET-COOKIE", "AUTHORIZATION", "LOCATION", "TE",
		"X-FORWARDED-FOR", "X-FORWARDED-PROTO"} {
		if foldEqual(name, taken) || kindOf(name) != plainField {
			return sentence("request_id_header: %q has another meaning in HTTP", name)
		}
	}
	return nil
}
