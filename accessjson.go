package main

// The access log as JSON: one object a line, its keys in one order. The
// manual names the keys, and others' programs read them: none may change.

import (
	"bytes"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// object appends e as a JSON object.
func (a *accessLog) object(e *accessEntry) {
	r := e.req
	b := append(a.buf, `{"time":"`...)
	b = e.now.now.AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(b, `","remote_addr":`...)
	b = appendJSONOrNull(b, e.endpoint.remoteAddr)
	b = append(b, `,"remote_user":`...)
	var user []byte
	if e.parsed {
		user = a.userName(r.fields)
	}
	b = appendJSONOrNull(b, user)
	b = append(b, `,"method":`...)
	b = appendJSONOrNull(b, r.method)
	b = append(b, `,"target":`...)
	b = appendJSONOrNull(b, r.target)
	b = append(b, `,"path":`...)
	if e.parsed {
		a.scratch = r.appendPathInfo(a.scratch[:0], e.scriptName)
		path, _ := latin(a.scratch[:0], a.scratch)
		b = appendJSON(b, path)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"query":`...)
	b = appendJSONOrNull(b, r.query)
	b = append(b, `,"protocol":`...)
	b = appendJSONOrNull(b, r.version)
	b = append(b, `,"host":`...)
	b = appendJSONField(b, e, "HOST")
	b = append(b, `,"status":`...)
	if status, _, _ := bytes.Cut(e.status, []byte(" ")); len(bytes.Trim(status, "0123456789")) == 0 && len(status) == 3 && status[0] != '0' {
		b = append(b, status...)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, e.bytes, 10)
	b = append(b, `,"duration":`...)
	b = appendSeconds(b, e.duration)
	b = append(b, `,"referer":`...)
	b = appendJSONField(b, e, "REFERER")
	b = append(b, `,"user_agent":`...)
	b = appendJSONField(b, e, "USER-AGENT")
	b = append(b, `,"worker":`...)
	b = strconv.AppendInt(b, int64(e.pid), 10)
	a.buf = append(b, '}')
}

// appendJSONField appends the value of a header field, the last one of that
// name, which is in upper case.
func appendJSONField(b []byte, e *accessEntry, name string) []byte {
	if e.parsed {
		for i := len(e.req.fields) - 1; i >= 0; i-- {
			if f := &e.req.fields[i]; foldEqual(f.name, name) {
				return appendJSON(b, f.value)
			}
		}
	}
	return append(b, "null"...)
}

// appendJSONOrNull appends null for nothing.
func appendJSONOrNull[T []byte | string](b []byte, text T) []byte {
	if len(text) == 0 {
		return append(b, "null"...)
	}
	return appendJSON(b, text)
}

// appendJSON appends text as a JSON string. What is not printable is escaped,
// too: a terminal that shows the log should not obey a client.
func appendJSON[T []byte | string](b []byte, text T) []byte {
	b = append(b, '"')
	done := 0
	for i := 0; i < len(text); {
		c := text[i]
		if plainByte[c] {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
			if size > 1 && unicode.IsPrint(r) {
				i += size
				continue
			}
		}
		b = append(b, text[done:i]...)
		i += size
		done = i
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case r > 0xffff:
			r -= 0x10000
			b = appendJSONEscape(appendJSONEscape(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
		default: // also utf8.RuneError, for a byte that is not UTF-8
			b = appendJSONEscape(b, r)
		}
	}
	return append(append(b, text[done:]...), '"')
}

func appendJSONEscape(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}
