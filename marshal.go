package main

// Python's marshal format, version 2: the language of the frames between a
// worker and its Python, and of the settings both read. Version 2 has been
// stable since Python 2.4, has no back references, and is made and read by
// one C call on the other side. The writer appends and the reader slices:
// neither allocates for what a request needs.
//
// The types used: N None, T F bool, i int32, l long, u text (UTF-8),
// t the same interned, s bytes, ( tuple, [ list, { dict ended by 0, g float.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

const (
	marshalDict    = '{' // followed by key, value pairs and marshalDictEnd
	marshalDictEnd = '0'
	marshalNone    = 'N'
)

// errMarshal is any input that is not what dumps(x, 2) writes.
var errMarshal = errors.New("malformed marshal data")

// marshalDepth bounds nesting: a worker's own frames need three levels, a
// settings file's dictionaries a few more.
const marshalDepth = 32

func appendMarshalBool(b []byte, v bool) []byte {
	if v {
		return append(b, 'T')
	}
	return append(b, 'F')
}

// appendMarshalInt writes an int, as a long of 15-bit digits when it does not
// fit 32 bits.
func appendMarshalInt(b []byte, v int64) []byte {
	if v == int64(int32(v)) {
		return binary.LittleEndian.AppendUint32(append(b, 'i'), uint32(v))
	}
	u := uint64(v)
	if v < 0 {
		u = -u
	}
	var digits [5]uint16
	n := 0
	for ; u > 0; u >>= 15 {
		digits[n] = uint16(u & 0x7fff)
		n++
	}
	size := int32(n)
	if v < 0 {
		size = -size
	}
	b = binary.LittleEndian.AppendUint32(append(b, 'l'), uint32(size))
	for _, d := range digits[:n] {
		b = binary.LittleEndian.AppendUint16(b, d)
	}
	return b
}

func appendMarshalBytes[T []byte | string](b []byte, v T) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, 's'), uint32(len(v)))
	return append(b, v...)
}

// appendMarshalText writes valid UTF-8 as str.
func appendMarshalText[T []byte | string](b []byte, v T) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, 'u'), uint32(len(v)))
	return append(b, v...)
}

// appendMarshalLatin writes bytes as the str of the same code points, which is
// how PEP 3333 hands the bytes of a request to Python.
func appendMarshalLatin[T []byte | string](b []byte, v T) []byte {
	at := len(b) + 1
	b = binary.LittleEndian.AppendUint32(append(b, 'u'), uint32(len(v)))
	b = appendLatin(b, v)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// appendLatin appends v, read as latin-1, as UTF-8. Nearly always that is v
// itself, so v is copied first and looked at afterwards.
func appendLatin[T []byte | string](b []byte, v T) []byte {
	at := len(b)
	b = append(b, v...)
	if isASCII(b[at:]) {
		return b
	}
	b = b[:at]
	for i := 0; i < len(v); i++ {
		b = utf8.AppendRune(b, rune(v[i]))
	}
	return b
}

func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&0x8080808080808080 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// appendMarshalTuple and appendMarshalList open a sequence of n values, which
// the caller appends next.
func appendMarshalTuple(b []byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, '('), uint32(n))
}

func appendMarshalList(b []byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(b, '['), uint32(n))
}

// marshalReader takes values off the front of b. After the first error every
// read returns a zero value and err stays.
type marshalReader struct {
	b   []byte
	err error
}

func (r *marshalReader) fail() {
	r.b, r.err = nil, errMarshal
}

func (r *marshalReader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// kind returns the type byte of the next value, which stays where it is.
func (r *marshalReader) kind() byte {
	if r.err != nil || len(r.b) == 0 {
		r.fail()
		return 0
	}
	return r.b[0]
}

func (r *marshalReader) is(kinds ...byte) bool {
	k := r.kind()
	for _, want := range kinds {
		if k == want && r.err == nil {
			r.b = r.b[1:]
			return true
		}
	}
	r.fail()
	return false
}

func (r *marshalReader) bool() bool {
	v := r.kind() == 'T'
	r.is('T', 'F')
	return v
}

func (r *marshalReader) uint32() uint32 {
	v := r.take(4)
	if v == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(v)
}

func (r *marshalReader) uint64() uint64 {
	v := r.take(8)
	if v == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(v)
}

// sized reads a four-byte length and that many bytes.
func (r *marshalReader) sized() []byte {
	n := r.uint32()
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	return r.take(int(n))
}

// text returns the UTF-8 of a str. The slice shares the reader's memory.
func (r *marshalReader) text() []byte {
	if !r.is('u', 't') {
		return nil
	}
	v := r.sized()
	return v
}

func (r *marshalReader) bytes() []byte {
	if !r.is('s') {
		return nil
	}
	return r.sized()
}

// sequence opens a tuple or a list and returns its length. A value takes one
// byte at least, so a length that cannot be true is refused here and nobody
// allocates for it.
func (r *marshalReader) sequence() int {
	if !r.is('(', '[') {
		return 0
	}
	n := r.uint32()
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *marshalReader) int() int64 {
	switch {
	case r.kind() == 'i':
		r.is('i')
		return int64(int32(r.uint32()))
	case r.is('l'):
		return r.long()
	}
	return 0
}

// long reads digits of 15 bits, least significant first; the sign of their
// number is the sign of the value. What does not fit 64 bits is refused.
func (r *marshalReader) long() int64 {
	size := int32(r.uint32())
	n, negative := int(size), size < 0
	if negative {
		n = -n
	}
	if n > 5 {
		r.fail()
		return 0
	}
	var v uint64
	digits := r.take(2 * n)
	for i := n - 1; i >= 0 && digits != nil; i-- {
		d := uint64(binary.LittleEndian.Uint16(digits[2*i:]))
		if d > 0x7fff || v > math.MaxInt64>>15 {
			r.fail()
			return 0
		}
		v = v<<15 | d
	}
	if negative {
		return -int64(v)
	}
	return int64(v)
}

// unmarshal reads one value of any type: nil, bool, int64, float64, string,
// []byte, []any, or map[string]any. Nothing may follow it.
func unmarshal(b []byte) (any, error) {
	r := &marshalReader{b: b}
	v := r.value(0)
	if r.err == nil && len(r.b) != 0 {
		r.fail()
	}
	if r.err != nil {
		return nil, r.err
	}
	return v, nil
}

func (r *marshalReader) value(depth int) any {
	if depth > marshalDepth {
		r.fail()
		return nil
	}
	switch k := r.kind(); k {
	case 'N':
		r.is('N')
		return nil
	case 'T', 'F':
		r.is('T', 'F')
		return k == 'T'
	case 'i', 'l':
		return r.int()
	case 'g':
		r.is('g')
		if v := r.take(8); v != nil {
			return math.Float64frombits(binary.LittleEndian.Uint64(v))
		}
		return nil
	case 'u', 't':
		return string(r.text())
	case 's':
		return append([]byte{}, r.bytes()...)
	case '(', '[':
		list := []any{}
		for n := r.sequence(); n > 0 && r.err == nil; n-- {
			list = append(list, r.value(depth+1))
		}
		return list
	case '{':
		r.is('{')
		m := map[string]any{}
		for r.err == nil && r.kind() != marshalDictEnd {
			key := string(r.text())
			m[key] = r.value(depth + 1)
		}
		r.is(marshalDictEnd)
		return m
	}
	r.fail()
	return nil
}

// appendMarshal writes any value that unmarshal can return, and int.
func appendMarshal(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, marshalNone)
	case bool:
		return appendMarshalBool(b, v)
	case int:
		return appendMarshalInt(b, int64(v))
	case int64:
		return appendMarshalInt(b, v)
	case float64:
		return binary.LittleEndian.AppendUint64(append(b, 'g'), math.Float64bits(v))
	case string:
		return appendMarshalText(b, v)
	case []byte:
		return appendMarshalBytes(b, v)
	case []string:
		b = appendMarshalList(b, len(v))
		for _, s := range v {
			b = appendMarshalText(b, s)
		}
		return b
	case []any:
		b = appendMarshalList(b, len(v))
		for _, e := range v {
			b = appendMarshal(b, e)
		}
		return b
	case map[string]any:
		b = append(b, marshalDict)
		for k, e := range v {
			b = appendMarshal(appendMarshalText(b, k), e)
		}
		return append(b, marshalDictEnd)
	}
	panic(fmt.Sprintf("marshal: no form for %T", v))
}
