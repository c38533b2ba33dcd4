package main

// The access log as JSON: one object a line, its keys in one order. The
// manual names the keys, and others' programs read them: none may change.

import (
	"bytes"
	"strconv"
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

// appendJSON appends text as a JSON string.
func appendJSON[T []byte | string](b []byte, text T) []byte {
	return append(appendEscaped(append(b, '"'), text, inJSON), '"')
}
