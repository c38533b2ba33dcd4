package main

// Chunked bodies as pure functions, as in http.go: raw bytes to the body's data and its
// trailer section.

import (
	"bytes"
	"math"
)

const (
	// maxChunkLine bounds the line before a chunk: 16 digits and room for a
	// signature of 64 to 128 hex digits, the longest extension in use.
	maxChunkLine = 256
	// freeChunkLine is the length up to which a chunk's size line costs no
	// allowance: the longest size without an extension.
	freeChunkLine = len("0123456789ABCDEF\r\n")
	// chunkAllowance is how many bytes of size lines beyond freeChunkLine a body
	// may have in addition to its data. Tiny chunks with long lines cost the
	// server a thousand times what they carry; large signed chunks stay below
	// one byte of line for each byte of data.
	chunkAllowance = 16 << 10
)

// chunkedDecoder decodes a chunked body that arrives in pieces cut anywhere.
// The zero value is ready. The decoder consumes every byte of the body: a size
// line or a trailer section that is not yet complete is kept in partial.
type chunkedDecoder struct {
	state   chunkState
	left    int64   // bytes of the current chunk still to come
	data    int64   // bytes of data in all chunks so far
	excess  int64   // bytes of size lines beyond freeChunkLine in each
	partial []byte  // incomplete line or trailer: at most maxChunkLine or headBound
	trailer []field // fields of the trailer section, set at chunkDone
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkData
	chunkCR
	chunkLF
	chunkTrailer
	chunkDone
)

// decode appends the data in `in` to dst. n is how many bytes of in belong to
// the body; done reports whether the body is complete.
func (d *chunkedDecoder) decode(dst, in []byte, c *config) (out []byte, n int, done bool, err *badRequest) {
	for n < len(in) && d.state != chunkDone && err == nil {
		rest := in[n:]
		used := 1
		switch d.state {
		case chunkSize:
			used, err = d.takeSize(rest, c)
		case chunkData:
			used = int(min(d.left, int64(len(rest))))
			dst = append(dst, rest[:used]...)
			d.data += int64(used)
			if d.left -= int64(used); d.left == 0 {
				d.state = chunkCR
			}
		case chunkCR:
			d.state = chunkLF
			if rest[0] != '\r' {
				err = badText(400, terminatorText+repr(rest[:1]))
			}
		case chunkLF:
			d.state = chunkSize
			if rest[0] != '\n' {
				err = badText(400, terminatorText+repr([]byte{'\r', rest[0]}))
			}
		case chunkTrailer:
			used, err = d.takeTrailer(rest, c)
		}
		n += used
	}
	if err != nil {
		return dst, n, false, err.logged()
	}
	return dst, n, d.state == chunkDone, nil
}

const terminatorText = `Invalid chunk terminator is not '\r\n': `

// takeSize reads a size line, or keeps the part that has arrived.
func (d *chunkedDecoder) takeSize(in []byte, c *config) (used int, err *badRequest) {
	end := bytes.IndexByte(in, '\n')
	used = end + 1
	if end < 0 {
		used = len(in)
	}
	if len(d.partial)+used > maxChunkLine {
		return used, badText(400, "Chunk size line is too long")
	}
	line := in[:used]
	if end < 0 || len(d.partial) > 0 {
		d.partial = append(d.partial, line...)
		line = d.partial
	}
	if end < 0 {
		return used, nil
	}
	d.partial = d.partial[:0]
	if d.left, err = parseChunkSize(line); err != nil {
		return used, err
	}
	if limit := c.limitRequestBody; limit > 0 && d.left > limit-d.data {
		return used, badBodyLimit(limit)
	}
	d.excess += int64(max(0, len(line)-freeChunkLine))
	if d.excess > chunkAllowance+d.data {
		return used, badText(400, "Chunk extensions are too long")
	}
	if d.state = chunkData; d.left == 0 {
		d.state = chunkTrailer
	}
	return used, nil
}

// parseChunkSize reads a line that ends in LF. Blanks are allowed only before
// an extension.
func parseChunkSize(line []byte) (int64, *badRequest) {
	if !bytes.HasSuffix(line, []byte("\r\n")) {
		return 0, badChunkSize(line)
	}
	digits, extension, extended := bytes.Cut(line[:len(line)-2], []byte(";"))
	if extended {
		digits = bytes.TrimRight(digits, " \t")
	}
	if len(digits) == 0 {
		return 0, badChunkSize(digits)
	}
	size := int64(0)
	for _, c := range digits {
		d := unhex(c)
		if d < 0 || size > math.MaxInt64>>4 {
			return 0, badChunkSize(digits)
		}
		size = size<<4 | int64(d)
	}
	if extended && !validExtensions(extension) {
		return 0, badText(400, "Invalid chunk extension: "+repr(extension))
	}
	return size, nil
}

// validExtensions checks the extensions of a chunk behind the first semicolon (RFC 9112
// 7.1.1): names, each with a token or a quoted text if it has a value, and blanks between.
func validExtensions(b []byte) bool {
	token := func() bool {
		b = bytes.TrimLeft(b, " \t")
		n := tokenLen(b)
		b = b[n:]
		return n > 0
	}
	separator := func(c byte) bool {
		rest := bytes.TrimLeft(b, " \t")
		if len(rest) == 0 || rest[0] != c {
			return false
		}
		b = bytes.TrimLeft(rest[1:], " \t")
		return true
	}
	quoted := func() bool {
		for i := 1; i < len(b) && b[0] == '"' && validBytes(b[i:i+1]); i++ {
			switch b[i] {
			case '"':
				b = b[i+1:]
				return true
			case '\\':
				if i++; !validBytes(b[i:min(i+1, len(b))]) {
					return false
				}
			}
		}
		return false
	}
	for {
		if !token() || separator('=') && !quoted() && !token() {
			return false
		}
		if !separator(';') {
			return len(b) == 0
		}
	}
}

func badChunkSize(digits []byte) *badRequest {
	return badText(400, "Invalid chunk size: "+repr(digits))
}

// takeTrailer collects the trailer section. Trailer fields never become part of
// the head, because the server has already acted on the head (RFC 9110 6.5.1).
func (d *chunkedDecoder) takeTrailer(in []byte, c *config) (used int, err *badRequest) {
	if len(d.partial) == 0 && bytes.HasPrefix(in, []byte("\r\n")) {
		d.state = chunkDone
		return 2, nil
	}
	for used < len(in) {
		end := bytes.IndexByte(in[used:], '\n')
		line := in[used : used+end+1]
		if end < 0 {
			line = in[used:]
		}
		used += len(line)
		d.partial = append(d.partial, line...)
		if len(d.partial) > c.headBound() {
			return used, badLimit("max buffer headers")
		}
		if end >= 0 && !bytes.HasSuffix(d.partial, []byte("\r\n")) {
			return used, badText(400, bareText)
		}
		if string(d.partial) == "\r\n" {
			d.state = chunkDone
			return used, nil
		}
		if end >= 0 && bytes.HasSuffix(d.partial, []byte("\r\n\r\n")) {
			d.state = chunkDone
			section := d.partial[:len(d.partial)-2]
			d.partial = nil
			var trailer request
			err = trailer.parseFields(section, c, false, true)
			d.trailer = trailer.fields
			return used, err
		}
	}
	return used, nil
}
