package main

// HPACK (RFC 7541), the compression of header fields in HTTP/2, as pure functions.
//
// Field blocks of responses use the static table and literals only. They are a little longer
// than with a dynamic table, but need no state: an idle connection costs less, and a block
// that another worker has made can be passed on as it is.

import (
	"bytes"
	"math"
	"math/bits"
	"strings"
)

// Writing ---------------------------------------------------------------------

// appendBlock appends the field block of a head that was made for HTTP/1.1. size is the
// length of that head.
func appendBlock(b, head []byte) (block []byte, size int) {
	if at := bytes.Index(head, []byte(" ")); bytes.HasPrefix(head, []byte("HTTP/")) {
		b = appendStatus(b, head[at+1:at+4])
		size = indexCRLF(head) + 2
	}
	for size < len(head) {
		end := indexCRLF(head[size:])
		line := head[size : size+end]
		if size += end + 2; end == 0 {
			break
		}
		colon := bytes.IndexByte(line, ':')
		b = appendLiteral(b, line[:colon], trimBlanks(line[colon+1:]))
	}
	return b, size
}

// indexedStatuses are the statuses that have an index of their own in the static table, from 8
// on (RFC 7541, appendix A).
const indexedStatuses = "200 204 206 304 400 404 500"

// appendStatus appends the status of a response, which has three digits.
func appendStatus(b, code []byte) []byte {
	if i := strings.Index(indexedStatuses, string(code)); i >= 0 {
		return append(b, 0x88+byte(i/4))
	}
	return append(append(b, 0x08, 3), code...)
}

// appendLiteral appends a field, unless HTTP/2 must not have it (RFC 9113 8.2.2).
func appendLiteral(b, name, value []byte) []byte {
	var lower [64]byte
	low := lower[:0]
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		low = append(low, c)
	}
	switch string(low) {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return b
	}
	if i := hpackNames[string(low)]; i > 0 {
		b = appendHpackInt(b, 0, 4, i)
	} else {
		b = append(appendHpackInt(append(b, 0), 0, 7, len(low)), low...)
	}
	return append(appendHpackInt(b, 0, 7, len(value)), value...)
}

// appendHpackInt appends a number whose first byte has a prefix of n bits (RFC 7541 5.1).
func appendHpackInt(b []byte, first byte, n, v int) []byte {
	most := 1<<n - 1
	if v < most {
		return append(b, first|byte(v))
	}
	b = append(b, first|byte(most))
	for v -= most; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// Reading ---------------------------------------------------------------------

// fieldList is the decoded form of a field block. Slices are valid until the next block.
type fieldList struct {
	fields []field
	text   []byte // memory of decoded texts
	limit  int    // largest size, as RFC 9113 10.5.1 counts
	size   int
	over   bool // the list was too large, and has only its first fields
}

func (l *fieldList) add(name, value []byte) {
	l.size += len(name) + len(value) + 32
	if l.over = l.over || l.size > l.limit; !l.over {
		l.fields = append(l.fields, field{name, value})
	}
}

// hpackTable is the dynamic table of a decoder. An entry's size is that of its texts and 32.
type hpackTable struct {
	entries []field // the newest last
	size    int
	most    int // size above which entries are evicted, as the client last set it
}

var (
	errHpack     = &h2Error{h2CompressionError, "a field block cannot be decoded"}
	errHpackLate = &h2Error{h2CompressionError, "a field block changes the size of the table behind a field"}
)

// decode decodes a block.
func (t *hpackTable) decode(b []byte, l *fieldList) *h2Error {
	*l = fieldList{fields: l.fields[:0], text: l.text[:0], limit: l.limit}
	if cap(l.text) > h2BlockSlack {
		l.text = nil
	}
	for begun := false; len(b) > 0; {
		var name, value []byte
		var n int
		ok := true
		switch c := b[0]; {
		case c&0x80 != 0:
			if n, b, ok = hpackInt(b, 7); !ok || !t.entry(n, &name, &value) {
				return errHpack
			}
			l.add(name, value)
		case c&0xe0 == 0x20:
			if n, b, ok = hpackInt(b, 5); !ok || n > h2TableSize {
				return errHpack
			}
			if begun {
				return errHpackLate
			}
			t.most = n
			t.evict(0)
			continue
		default:
			prefix := 4
			if c&0x40 != 0 {
				prefix = 6
			}
			if n, b, ok = hpackInt(b, prefix); !ok || n > 0 && !t.entry(n, &name, &value) {
				return errHpack
			}
			if n == 0 {
				name, b, ok = l.decodeText(b)
			}
			if ok {
				value, b, ok = l.decodeText(b)
			}
			if !ok {
				return errHpack
			}
			if l.add(name, value); prefix == 6 {
				t.insert(name, value)
			}
		}
		begun = true
	}
	return nil
}

// entry finds a field by its index.
func (t *hpackTable) entry(n int, name, value *[]byte) bool {
	if n == 0 {
		return false
	}
	if n <= len(hpackStatic) {
		f := &hpackStatic[n-1]
		*name, *value = f.name, f.value
		return true
	}
	n -= len(hpackStatic)
	if n > len(t.entries) {
		return false
	}
	f := &t.entries[len(t.entries)-n]
	*name, *value = f.name, f.value
	return true
}

// insert copies a field into the table, in place of the oldest entries.
func (t *hpackTable) insert(name, value []byte) {
	size := len(name) + len(value) + 32
	t.evict(size)
	if size > t.most {
		return
	}
	text := append(append(make([]byte, 0, len(name)+len(value)), name...), value...)
	t.entries = append(t.entries, field{text[:len(name):len(name)], text[len(name):]})
	t.size += size
}

// evict makes room for size bytes.
func (t *hpackTable) evict(size int) {
	n := 0
	for n < len(t.entries) && t.size+size > t.most {
		t.size -= len(t.entries[n].name) + len(t.entries[n].value) + 32
		n++
	}
	if n > 0 {
		kept := copy(t.entries, t.entries[n:])
		clear(t.entries[kept:])
		t.entries = t.entries[:kept]
	}
}

// hpackInt reads a number whose first byte has a prefix of n bits.
func hpackInt(b []byte, n int) (v int, rest []byte, ok bool) {
	most := 1<<n - 1
	if v = int(b[0]) & most; v < most {
		return v, b[1:], true
	}
	for i, c := range b[1:] {
		if i == 4 { // no honest number is as long
			return 0, nil, false
		}
		if v += int(c&0x7f) << (7 * i); c&0x80 == 0 {
			return v, b[i+2:], v <= math.MaxInt32
		}
	}
	return 0, nil, false
}

// decodeText reads a text, which may be in Huffman's code.
func (l *fieldList) decodeText(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 {
		return nil, nil, false
	}
	packed := b[0]&0x80 != 0
	n, b, ok := hpackInt(b, 7)
	if !ok || n > len(b) {
		return nil, nil, false
	}
	if !packed {
		return b[:n:n], b[n:], true
	}
	at := len(l.text)
	if l.text, ok = unhuffman(l.text, b[:n]); !ok {
		return nil, nil, false
	}
	return l.text[at:len(l.text):len(l.text)], b[n:], true
}

// The code of RFC 7541 B is canonical: the codes of one length are consecutive numbers in
// the order of the symbols, and codes grow with their length. So the lengths of the codes
// define the code. huffmanLengths has a letter for each symbol, 'A' for 5 bits.
const huffmanLengths = "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHF" +
	"IBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIX" +
	"PRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRS" +
	"VVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWV"

const huffmanShort = 8 // bits of the codes that are found at one look

// huffman has, for codes of each length, the first code, and where the code's symbol stands
// among all symbols in the order of the codes.
var huffman = func() (t struct {
	symbols      [256]byte
	first, after [31]uint32 // the first code of a length, and the number behind the last one
	at           [31]int
	short        [1 << huffmanShort]struct{ symbol, bits byte }
}) {
	code, n := uint32(0), 0
	for length := 5; length <= 30; length++ {
		code <<= 1
		t.first[length], t.at[length] = code, n
		for symbol := range huffmanLengths {
			if int(huffmanLengths[symbol]-'A')+5 != length {
				continue
			}
			t.symbols[n] = byte(symbol)
			if length <= huffmanShort {
				for i := range uint32(1) << (huffmanShort - length) {
					s := &t.short[code<<(huffmanShort-length)|i]
					s.symbol, s.bits = byte(symbol), byte(length)
				}
			}
			code++
			n++
		}
		t.after[length] = code
	}
	return t
}()

// unhuffman appends the decoded form of b. The last byte is filled up with ones.
func unhuffman(dst, b []byte) (out []byte, ok bool) {
	have, n := uint64(0), 0 // bits that are not decoded yet
	for {
		for n <= 56 && len(b) > 0 {
			have, n, b = have<<8|uint64(b[0]), n+8, b[1:]
		}
		if n >= huffmanShort {
			if s := huffman.short[byte(have>>(n-huffmanShort))]; s.bits > 0 {
				dst, n = append(dst, s.symbol), n-int(s.bits)
				continue
			}
		}
		length := 5
		for ; length <= min(n, 30); length++ {
			code := uint32(have>>(n-length)) & (1<<length - 1)
			if code >= huffman.first[length] && code < huffman.after[length] {
				dst = append(dst, huffman.symbols[huffman.at[length]+int(code-huffman.first[length])])
				break
			}
		}
		if length <= min(n, 30) {
			n -= length
			continue
		}
		return dst, n < 8 && bits.TrailingZeros64(^have) >= n
	}
}

// hpackStatic is the static table (RFC 7541 A), hpackNames where a name stands first in it.
var hpackStatic, hpackNames = func() (table [61]field, names map[string]int) {
	names = map[string]int{}
	for i, line := range bytes.Split([]byte(hpackStaticText), []byte("\n")) {
		name, value, _ := bytes.Cut(line, []byte(" "))
		table[i] = field{name, value}
		if names[string(name)] == 0 {
			names[string(name)] = i + 1
		}
	}
	return table, names
}()

const hpackStaticText = `:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate`
