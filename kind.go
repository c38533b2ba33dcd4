package main

// Kinds are the types of settings. The first half of the file turns the text of
// flags, and values of any Python type from a configuration file, into the
// canonical form of each kind. Error texts are Python's and Gunicorn's own,
// because people search for them. The second half prints values as Python does,
// and the end reads lists of ciphers.
//
// A checked value is nil, a bool, an int64, a string, a []any of strings, a dict,
// an address, or a callable.

import (
	"cmp"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

type kind struct {
	alone    any    // value of a flag without an argument; nil if the flag needs one
	optional bool   // the flag may have an argument although alone is set
	repeats  bool   // a repeated flag adds to a list
	want     string // description of valid values, for an error message

	// text converts the text of flags, environment variables and defaults; nil
	// keeps the text. An error of text is a usage error.
	text func(s string) (any, error)

	value check // of values from any source
}

// store puts a checked value into the field of a config. It returns false if the
// types differ, which may happen when another process sent the value.
func store(field, v any) bool {
	ok := false
	switch f := field.(type) {
	case *bool:
		*f, ok = v.(bool)
		return ok || v == nil
	case *string:
		if addr, isAddress := v.(address); isAddress {
			v = addr.String()
		}
		*f, ok = v.(string)
		return ok || v == nil
	case *[]string:
		*f, ok = stringsOf(v)
	case *trustList:
		var err error
		*f, err = trust(v)
		return err == nil
	case *[][2]string:
		var d dict
		d, ok = v.(dict)
		*f = nil
		for _, e := range d {
			key, isKey := e.key.(string)
			value, isText := e.value.(string)
			*f, ok = append(*f, [2]string{key, value}), ok && isKey && isText
		}
		slices.SortFunc(*f, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	default:
		var n int64
		if n, ok = v.(int64); v == autoWorkers {
			n, ok = int64(usableCPUs()), true
		}
		switch f := field.(type) {
		case *int:
			*f = int(n)
		case *int64:
			*f = n
		case *time.Duration: // a number too large for a duration, like sys.maxsize, means the longest
			*f = time.Duration(min(n, math.MaxInt64/int64(time.Second))) * time.Second
		}
	}
	return ok
}

// dict is a Python dict with its order. A Go map would print differently each
// time.
type dict []item

type item struct{ key, value any }

// callable describes a function or a class of a configuration file. The object
// itself stays in Python.
type callable struct {
	name   string
	params int64 // number of positional parameters
}

// object describes a Python value of any other type. No setting accepts objects.
type object struct{ class, repr string }

// fromPython restores dicts, callables and objects in a value of read_config,
// which describes these types by maps because marshal cannot express them. A
// user's dict never arrives as a map.
func fromPython(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = fromPython(v[i])
		}
	case map[string]any:
		text := func(key string) string { s, _ := v[key].(string); return s }
		switch v["type"] {
		case "callable":
			params, _ := v["params"].(int64)
			return callable{text("name"), params}
		case "dict":
			d := dict{}
			items, _ := v["items"].([]any)
			for _, e := range items {
				if pair, ok := e.([]any); ok && len(pair) == 2 {
					d = append(d, item{fromPython(pair[0]), fromPython(pair[1])})
				}
			}
			return d
		}
		return object{text("class"), text("repr")}
	}
	return v
}

// pyErrorf is an error in the words of Python or Gunicorn.
func pyErrorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// textKind is a string, or None.
var textKind = &kind{value: checkText}

func checkText(v any, _ *start) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return strip(v), nil
	}
	return nil, notString(v)
}

func notString(v any) error { return pyErrorf("Not a string: %s", pyStr(v)) }

// strip cuts the white space that Python's str.strip cuts.
func strip(s string) string {
	return strings.TrimFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
	})
}

var posInt = &kind{
	want:  "zero or a positive whole number",
	text:  decimal,
	value: checkPosInt,
}

var workerCount = &kind{
	want: "zero, a positive whole number or auto",
	text: func(s string) (any, error) {
		if strip(s) == autoWorkers {
			return s, nil
		}
		return decimal(s)
	},
	value: func(v any, at *start) (any, error) {
		if s, _ := v.(string); strip(s) == autoWorkers {
			return autoWorkers, nil
		}
		return checkPosInt(v, at)
	},
}

const autoWorkers = "auto"

func decimal(s string) (any, error) {
	n, err := pyInt(s, 10)
	if err != nil {
		return nil, fmt.Errorf("invalid int value: %s", pyRepr(s))
	}
	return n, nil
}

// lateInt is a posInt whose flag also takes 0x, 0o and 0b prefixes: the text is
// converted by checkPosInt.
var lateInt = &kind{value: checkPosInt}

// modeInt is a posInt for file modes, whose flag also takes octal numbers like
// chmod's.
var modeInt = bounded(0, 0o7777, "Value must be a mode, at most 0o7777: %d", func(s string) (any, error) {
	base := 0
	if len(s) > 1 && s[0] == '0' && strings.Trim(s, "0123456789") == "" { // octal like 022, not 0o22 or 22
		base = 8
	}
	n, err := pyInt(s, base)
	if err != nil {
		return nil, fmt.Errorf("invalid auto_int value: %s", pyRepr(s))
	}
	return n, nil
})

// frameSize is a posInt within the range of SETTINGS_MAX_FRAME_SIZE (RFC 9113).
var frameSize = bounded(16384, 16777215, "http2_max_frame_size must be between 16384 and 16777215, got %d", decimal)

// streamLimit and windowSize have the bounds of their settings in RFC 9113.
var (
	streamLimit = bounded(1, math.MaxInt64, "HTTP/2 max concurrent streams must be at least 1: %d", decimal)
	windowSize  = bounded(0, h2WindowMost, "HTTP/2 window size must be at most 2147483647: %d", decimal)
)

// bounded makes a posInt from least to most; wrong is the error for other numbers.
func bounded(least, most int64, wrong string, text func(s string) (any, error)) *kind {
	return &kind{text: text, value: then(checkPosInt, func(v any, _ *start) (any, error) {
		if n := v.(int64); n < least || n > most {
			return nil, pyErrorf(wrong, n)
		}
		return v, nil
	})}
}

// check validates a value, and returns its canonical form.
type check func(v any, at *start) (any, error)

// then makes a second check of what a first check accepts.
func then(first, second check) check {
	return func(v any, at *start) (any, error) {
		v, err := first(v, at)
		if err != nil {
			return nil, err
		}
		return second(v, at)
	}
}

func checkPosInt(v any, _ *start) (any, error) {
	var n int64
	switch t := v.(type) {
	case bool:
		if t {
			n = 1
		}
	case int64:
		n = t
	case string, []byte:
		text, ok := t.(string)
		if !ok {
			text = string(t.([]byte))
		}
		var err error
		if n, err = pyInt(text, 0); err != nil {
			return nil, fmt.Errorf("invalid literal for int() with base 0: %s", pyRepr(v))
		}
	default:
		return nil, errors.New("int() can't convert non-string with explicit base")
	}
	if n < 0 {
		return nil, pyErrorf("Value must be positive: %d", n)
	}
	return n, nil
}

// pyInt reads a whole number as Python's int(s, base) does; base is 0, 8 or 10.
// Python's numbers are unlimited; a number beyond int64 becomes the nearest int64.
func pyInt(s string, base int) (int64, error) {
	s = strip(s)
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 {
		return 0, strconv.ErrSyntax
	}
	switch {
	case base == 0 && len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "0_") != "" &&
		!strings.ContainsRune("xXoObB", rune(digits[1])):
		return 0, strconv.ErrSyntax // Go reads 022 as octal, Python refuses it
	case base == 10:
		if strings.HasPrefix(digits, "_") || strings.HasSuffix(digits, "_") || strings.Contains(digits, "__") {
			return 0, strconv.ErrSyntax
		}
		s = strings.ReplaceAll(s, "_", "")
	}
	n, err := strconv.ParseInt(s, base, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil
	}
	return n, err
}

var statsdAddr = &kind{
	value: then(checkText, func(v any, _ *start) (any, error) {
		if v == nil {
			return nil, nil
		}
		addr, err := parseAddress(v.(string), 8125)
		if err != nil || addr.network == "fd" {
			return nil, pyErrorf("Value must be one of ('host:port', 'unix://PATH')")
		}
		return addr, nil
	}),
}

var boolean = &kind{alone: true, value: checkBool}

func checkBool(v any, _ *start) (any, error) {
	switch v := v.(type) {
	case nil, bool:
		return v, nil
	case string:
		switch strings.ToLower(strip(v)) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, pyErrorf("Invalid boolean: %s", v)
	}
	return nil, badCast(v)
}

func badCast(v any) error { return pyErrorf("Invalid type for casting: %s", pyStr(v)) }

// onUnlessFalse is a boolean whose flag turns the setting off.
var onUnlessFalse = &kind{alone: false, value: checkBool}

var list = &kind{repeats: true, value: checkList}

func checkList(v any, _ *start) (any, error) {
	strs := []any{}
	var from []any
	switch t := v.(type) {
	case nil:
	case string:
		if t != "" {
			from = []any{t}
		}
	case []any:
		from = t
	case dict:
		for _, e := range t {
			from = append(from, e.key)
		}
	case []byte:
		for _, b := range t {
			from = append(from, int64(b))
		}
	default:
		if v == any(false) || v == any(int64(0)) || v == any(0.0) {
			break
		}
		return nil, fmt.Errorf("'%s' object is not iterable", pyClass(v))
	}
	for _, e := range from {
		s, ok := e.(string)
		if !ok {
			return nil, notString(e)
		}
		strs = append(strs, strip(s))
	}
	return strs, nil
}

// mountList is a list of PREFIX=DIR, in a configuration file also a dict of prefixes and
// directories.
var mountList = &kind{
	repeats: true,
	value: func(v any, at *start) (any, error) {
		d, ok := v.(dict)
		if !ok {
			return checkList(v, at)
		}
		if v, err := stringDict.value(d, at); err != nil {
			return v, err
		}
		list := []any{}
		for _, e := range d {
			list = append(list, e.key.(string)+"="+e.value.(string))
		}
		return list, nil
	},
}

// existingFiles is a list of existing files and of patterns. A pattern need not
// match a file yet.
var existingFiles = &kind{
	repeats: true,
	value: then(checkList, func(v any, at *start) (any, error) {
		for _, name := range v.([]any) {
			name := name.(string)
			if isPattern(name) {
				continue
			}
			if _, err := os.Stat(at.path(name)); err != nil {
				return nil, pyErrorf("File %s does not exists.", name)
			}
		}
		return v, nil
	}),
}

func stringsOf(v any) ([]string, bool) {
	from, ok := v.([]any)
	strs := make([]string, len(from))
	for i, e := range from {
		s, isText := e.(string)
		strs[i], ok = s, ok && isText
	}
	return strs, ok
}

// words is a list of strings, written as one string with commas.
var words = &kind{value: checkWords}

func checkWords(v any, at *start) (any, error) {
	strs := []any{}
	switch v := v.(type) {
	case nil:
	case string:
		for _, s := range strings.Split(v, ",") {
			if s = strip(s); s != "" {
				strs = append(strs, s)
			}
		}
	default:
		return nil, notString(v)
	}
	return strs, nil
}

// protocols are the names of protocols, each once. No name at all stands for h1.
var protocols = &kind{value: func(v any, _ *start) (any, error) {
	text, ok := v.(string)
	if v != nil && !ok {
		return nil, pyErrorf("http_protocols must be a string")
	}
	list, _ := checkWords(strings.ToLower(text), nil)
	names := list.([]any)
	for i, name := range names {
		if name != "h1" && name != "h2" {
			return nil, pyErrorf("Invalid protocol '%s'. Valid protocols: h1, h2", name)
		}
		if slices.Contains(names[:i], name) {
			return nil, pyErrorf("Duplicate protocols specified")
		}
	}
	if len(names) == 0 {
		names = append(names, "h1")
	}
	return names, nil
}}

// networks is a words of IP addresses, networks, or * for every peer.
var networks = &kind{
	value: then(checkWords, func(v any, _ *start) (any, error) {
		_, err := trust(v)
		return v, err
	}),
}

func trust(v any) (t trustList, err error) {
	strs, ok := stringsOf(v)
	if !ok {
		return t, errors.New("not a list of strings")
	}
	for _, s := range strs {
		if s == "*" {
			t.all = true
			continue
		}
		n, err := parseNetwork(s)
		if err != nil {
			return t, err
		}
		t.nets = append(t.nets, n)
	}
	return t, nil
}

// parseNetwork reads an address, or a network with a prefix length or, for IPv4,
// a mask.
func parseNetwork(s string) (netip.Prefix, error) {
	text, mask, masked := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(text)
	size := addr.BitLen()
	if masked && err == nil {
		size, err = prefixLen(mask, size)
	}
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%s does not appear to be an IPv4 or IPv6 network", pyRepr(s))
	}
	n := netip.PrefixFrom(addr, size)
	if n.Masked() != n {
		return netip.Prefix{}, fmt.Errorf("%s has host bits set", n)
	}
	if addr.Is4In6() && size >= 96 { // trustList.has compares such peers as IPv4
		n = netip.PrefixFrom(addr.Unmap(), size-96)
	}
	return n, nil
}

func prefixLen(mask string, most int) (int, error) {
	if strings.Trim(mask, "0123456789") == "" {
		n, err := strconv.Atoi(mask)
		if err == nil && n > most {
			err = strconv.ErrRange
		}
		return n, err
	}
	addr, err := netip.ParseAddr(mask)
	if err != nil || most != 32 || !addr.Is4() {
		return 0, strconv.ErrSyntax
	}
	m := binary.BigEndian.Uint32(addr.AsSlice())
	for _, m := range []uint32{m, ^m} { // a netmask, or a hostmask as Python also accepts
		if n := bits.LeadingZeros32(^m); m<<n == 0 {
			return n, nil
		}
	}
	return 0, strconv.ErrSyntax
}

// choice is one of several words, in any case. A name may list more spellings
// after bars; the first name stands for None. wrong is the error for any other
// word, with %s for the word, and notText the error for a value of another type.
func choice(wrong, notText string, names ...string) *kind {
	spellings := map[string]string{}
	first, _, _ := strings.Cut(names[0], "|")
	for _, name := range names {
		words := strings.Split(name, "|")
		for _, word := range words {
			spellings[word] = words[0]
		}
	}
	return &kind{
		value: func(v any, _ *start) (any, error) {
			text, ok := v.(string)
			switch v {
			case nil:
				return first, nil
			case true:
				text = "true"
			case false:
				text = "false"
			}
			name, known := spellings[strings.ToLower(strip(text))]
			switch {
			case known:
				return name, nil
			case ok:
				return nil, errors.New(strings.Replace(wrong, "%s", text, 1))
			case notText != "":
				return nil, errors.New(notText)
			}
			return nil, badCast(v)
		},
	}
}

// alone changes a choice so that its flag may stand alone and then means v.
func alone(v string, k *kind) *kind {
	k.alone, k.optional = v, true
	return k
}

var proxyMode = alone("auto", choice("proxy_protocol must be: off, v1, v2, or auto",
	"proxy_protocol must be string or bool", "off|false|0|none", "v1", "v2", "auto|true|1"))

// byteSize is a number of bytes, such as 1000000 or 512M. K, M, G and T are powers
// of 1024, as in systemd.
var byteSize = &kind{
	want: "a number of bytes, as 512M",
	value: func(v any, at *start) (any, error) {
		text, ok := v.(string)
		if !ok {
			return checkPosInt(v, at)
		}
		number, shift := strip(text), 0
		number = strings.TrimSuffix(strings.ToUpper(number), "B")
		if n := len(number); n > 0 {
			if i := strings.IndexByte("KMGT", number[n-1]); i >= 0 {
				number, shift = number[:n-1], 10*(i+1)
			}
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64>>shift {
			return nil, pyErrorf("%s is not a number of bytes, as 512M.", pyRepr(v))
		}
		return n << shift, nil
	},
}

// http2Cleartext is a choice whose error repeats the word in lower case, as in Gunicorn.
var http2Cleartext = &kind{value: then(func(v any, _ *start) (any, error) {
	if text, ok := v.(string); ok {
		return strings.ToLower(strip(text)), nil
	}
	return v, nil
}, choice("Invalid http2_cleartext: %s", "", "off|false", "prior-knowledge|true", "upgrade", "both").value)}

var statusFormat = alone("table", choice("status must be: table or json", "", "off", "table", "json"))

var class = &kind{
	value: func(v any, at *start) (any, error) {
		if c, ok := v.(callable); ok {
			return c, nil
		}
		return checkText(v, at)
	},
}

// hook is a function of a configuration file, or a function's dotted name. The
// function takes from least to most positional parameters.
func hook(least, most int64) *kind {
	return &kind{
		text: func(s string) (any, error) { return callable{s, most}, nil }, // the text is a default's
		value: func(v any, _ *start) (any, error) {
			switch v := v.(type) {
			case string:
				return v, nil
			case callable:
				if v.params < least || v.params > most {
					return nil, pyErrorf("Value must have an arity of: %d", most)
				}
				return v, nil
			}
			return nil, pyErrorf("Value is not callable: %s", pyStr(v))
		},
	}
}

var stringDict = &kind{
	text: func(s string) (any, error) { // the text is a default's
		d := dict{}
		for _, e := range strings.Split(s, ",") {
			key, value, _ := strings.Cut(e, "=")
			d = append(d, item{key, value})
		}
		return d, nil
	},
	value: then(checkDict, func(v any, _ *start) (any, error) {
		for _, e := range v.(dict) {
			for _, part := range []any{e.key, e.value} {
				if _, ok := part.(string); !ok {
					return nil, notString(part)
				}
			}
		}
		return v, nil
	}),
}

var anyDict = &kind{
	text:  func(string) (any, error) { return dict{}, nil }, // the text is a default's
	value: checkDict,
}

func checkDict(v any, _ *start) (any, error) {
	if _, ok := v.(dict); !ok {
		return nil, pyErrorf("Value is not a dictionary: %s ", pyStr(v))
	}
	return v, nil
}

// directory is an existing directory; a relative path counts from the directory
// in which the server was started.
var directory = &kind{
	value: then(checkText, func(v any, at *start) (any, error) {
		if v == nil {
			return nil, errors.New("join() argument must be str, bytes, or os.PathLike object, not 'NoneType'")
		}
		path := at.path(v.(string))
		if st, err := os.Stat(path); err != nil || !st.IsDir() {
			return nil, fmt.Errorf("can't chdir to %s", pyRepr(v))
		}
		return path, nil
	}),
}

// path makes name absolute, relative to the directory in which the server was
// started.
func (s *start) path(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(s.dir, name)
}

var userID = identity("user", os.Geteuid, func(name string) (id string, err error) {
	u, err := user.Lookup(name)
	if err == nil {
		id = u.Uid
	}
	return id, err
})

var groupID = identity("group", os.Getegid, func(name string) (id string, err error) {
	g, err := user.LookupGroup(name)
	if err == nil {
		id = g.Gid
	}
	return id, err
})

// identity is a user or a group, by number or by name.
func identity(what string, own func() int, lookup func(string) (string, error)) *kind {
	return &kind{value: func(v any, at *start) (any, error) {
		switch v := v.(type) {
		case nil:
			return int64(own()), nil
		case int64:
			return v, nil
		case bool:
			return checkPosInt(v, at)
		case string:
			id := v
			if strings.Trim(v, "0123456789") != "" || v == "" {
				var err error
				if id, err = lookup(v); err != nil {
					return nil, pyErrorf("No such %s: %s", what, pyRepr(v))
				}
			}
			return pyInt(id, 10)
		}
		return nil, fmt.Errorf("'%s' object has no attribute 'isdigit'", pyClass(v))
	}}
}

// anything is not checked, because no code reads the value.
var anything = &kind{
	value: func(v any, _ *start) (any, error) {
		if s, ok := v.(string); ok {
			if n, err := pyInt(s, 10); err == nil {
				return n, nil
			}
		}
		return v, nil
	},
}

// pyStr is Python's str of a value.
func pyStr(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return pyRepr(v)
}

// pyRepr is Python's repr of a value.
func pyRepr(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return pyFloat(v)
	case string:
		return pyQuote(v, func(r rune) bool { return unicode.IsPrint(r) })
	case []byte:
		latin := string(appendLatin(nil, v))
		return "b" + pyQuote(latin, func(r rune) bool { return r >= ' ' && r <= '~' })
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = pyRepr(e)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case dict:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = pyRepr(e.key) + ": " + pyRepr(e.value)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case callable:
		return "<" + v.name + "()>"
	case address:
		if v.network == "unix" {
			return v.path
		}
		return v.tuple()
	case object:
		return v.repr
	}
	panic(fmt.Sprintf("config: no Python form for %T", v))
}

func pyFloat(f float64) string {
	switch a := math.Abs(f); {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64)), "+")
	case a != 0 && (a < 1e-4 || a >= 1e16):
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pyQuote quotes s, preferring single quotes, and escapes characters that plain
// refuses.
func pyQuote(s string, plain func(rune) bool) string {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b := []byte(string(quote))
	for i, r := range s {
		switch {
		case r == quote || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd"):
			b = fmt.Appendf(b, `\udc%02x`, s[i])
		case plain(r):
			b = utf8.AppendRune(b, r)
		case r < 0x100:
			b = fmt.Appendf(b, `\x%02x`, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return string(b) + string(quote)
}

var pyClasses = map[string]string{
	"<nil>": "NoneType", "bool": "bool", "int64": "int", "float64": "float", "string": "str", "[]uint8": "bytes",
	"[]interface {}": "list", "main.dict": "dict", "main.callable": "function",
}

// pyClass is the name of the Python type of a value.
func pyClass(v any) string {
	if v, ok := v.(object); ok {
		return v.class
	}
	return pyClasses[fmt.Sprintf("%T", v)]
}

// Ciphers -------------------------------------------------------------------
//
// The setting ciphers is a list in OpenSSL's language (openssl-ciphers(1)), which
// selects from the suites that this server offers for TLS 1.2. All of them have
// forward secrecy and authenticated encryption. The suites of TLS 1.3 are always
// on; OpenSSL's list does not affect them either.

// suite is a cipher suite of TLS 1.2 that this server offers.
type suite struct {
	id    uint16
	name  string // OpenSSL's name
	words string // words of OpenSSL's language that select this suite among others
}

var suites = []suite{
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256", "aECDSA ECDSA AES AES128 AESGCM"},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256", "aRSA AES AES128 AESGCM"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384", "aECDSA ECDSA AES AES256 AESGCM"},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384", "aRSA AES AES256 AESGCM"},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305", "aECDSA ECDSA CHACHA20"},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305", "aRSA CHACHA20"},
}

// allSuites are the words that select every suite.
var allSuites = strings.Fields("ALL DEFAULT HIGH TLSv1.2 ECDHE EECDH kECDHE kEECDH ECDH")

// otherWords are words of the language that select only suites not offered here.
var otherWords = strings.Fields(`COMPLEMENTOFALL COMPLEMENTOFDEFAULT MEDIUM LOW EXP EXPORT EXPORT40 EXPORT56
	aNULL eNULL NULL kRSA RSA kECDH DH DHE EDH kDHE kEDH kDH kDHr kDHd ADH AECDH aDH aDSS DSS DES 3DES RC4 RC2 IDEA SEED
	CAMELLIA CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 ARIAGCM AESCCM AESCCM8 CBC MD5 SHA SHA1 SHA256 SHA384
	SSLv2 SSLv3 TLSv1 TLSv1.0 TLSv1.1 PSK kPSK kECDHEPSK kDHEPSK kRSAPSK aPSK SRP kSRP aSRP KRB5 kKRB5 aKRB5
	aGOST aGOST01 kGOST GOST94 GOST89MAC GOST aECDH kECDHr kECDHe FZA kFZA aFZA eFZA`)

// nameParts are the parts of the names of all suites that OpenSSL has or had.
var nameParts = strings.Fields(`EXP EXP1024 ECDHE ECDH DHE EDH DH ADH AECDH RSA ECDSA DSS PSK SRP KRB5 NULL AES128 AES256
	GCM CCM CCM8 CBC CBC3 RC4 RC2 DES DES3 IDEA SEED CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 CHACHA20 POLY1305
	MD5 SHA SHA256 SHA384 AES 128 256 3DES EDE`)

// selectSuites returns the suites that a list selects; "" selects all.
func selectSuites(list string) ([]uint16, error) {
	list = cmp.Or(list, "ALL")
	chosen, killed := map[uint16]bool{}, map[uint16]bool{}
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(":, ;", r) }) {
		if item == "@STRENGTH" || strings.HasPrefix(item, "@SECLEVEL=") {
			continue // Go orders the suites itself, and no suite here is weak
		}
		words := strings.TrimLeft(item[:1], "!-+") + item[1:]
		met, err := suitesOf(words)
		if err != nil {
			return nil, err
		}
		for _, s := range met {
			switch item[0] {
			case '!':
				killed[s.id] = true
			case '-':
				delete(chosen, s.id)
			case '+': // only changes the order
			default:
				chosen[s.id] = true
			}
		}
	}
	var ids []uint16
	for _, s := range suites {
		if chosen[s.id] && !killed[s.id] {
			ids = append(ids, s.id)
		}
	}
	if ids == nil {
		return nil, sentence("ciphers: %q leaves no cipher; those for TLS 1.2 are %s", list, suiteNames())
	}
	return ids, nil
}

func suiteNames() string {
	var names []string
	for _, s := range suites {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// suitesOf returns the suites that every one of some words, joined by plus, selects.
func suitesOf(words string) (met []suite, err error) {
	met = slices.Clone(suites)
	for word := range strings.SplitSeq(words, "+") {
		selects := func(s suite) bool {
			return word == s.name || word == tls.CipherSuiteName(s.id) || slices.Contains(allSuites, word) ||
				slices.Contains(strings.Fields(s.words), word)
		}
		if !slices.ContainsFunc(suites, selects) && !slices.Contains(otherWords, word) && !isSuiteName(word) {
			return nil, sentence("ciphers: %q is no word of a list of ciphers", word)
		}
		met = slices.DeleteFunc(met, func(s suite) bool { return !selects(s) })
	}
	return met, nil
}

// isSuiteName reports whether a word looks like the name of a suite.
func isSuiteName(word string) bool {
	if all := append(tls.CipherSuites(), tls.InsecureCipherSuites()...); strings.HasPrefix(word, "TLS_") {
		return slices.ContainsFunc(all, func(s *tls.CipherSuite) bool { return s.Name == word })
	}
	parts := strings.Split(word, "-")
	return len(parts) > 1 && !slices.ContainsFunc(parts, func(part string) bool { return !slices.Contains(nameParts, part) })
}

// cipherName is OpenSSL's name of a suite.
func cipherName(id uint16) string {
	if i := slices.IndexFunc(suites, func(s suite) bool { return s.id == id }); i >= 0 {
		return suites[i].name
	}
	return tls.CipherSuiteName(id) // a suite of TLS 1.3, for which OpenSSL uses the same name
}
