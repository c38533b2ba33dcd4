package main

// The command line, read as Python's argparse does, on whose habits scripts
// depend: options and positionals in any order, arguments attached or not,
// short flags joined, prefixes of long flags, and its messages. What flags
// there are is in the table of settings.go.

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// options are the flags that are not settings. Reading ends at one with a
// field; --man is the caller's.
var options = []option{
	{[]string{"-h", "--help"}, "show this help and exit", func(c *config) *bool { return &c.help }},
	{[]string{"-v", "--version"}, "show the version and exit", func(c *config) *bool { return &c.version }},
	{[]string{"--man"}, "show the source of the manual and exit", nil},
}

type option struct {
	flags []string
	usage string
	field func(c *config) *bool
}

func usageError(format string, args ...any) error {
	return &startError{exitUsage, "usage: gunicorn [OPTIONS] [APP_MODULE]\ngunicorn: error: " + fmt.Sprintf(format, args...) + "\n"}
}

// flagValues is what one command line says.
type flagValues struct {
	app    string         // first positional
	stop   *option        // the option that reading ended at
	values map[string]any // by name of the setting, parsed but not checked
}

// stopped is the settings when reading ended at an option.
func (f *flagValues) stopped() *config {
	c := &config{}
	*f.stop.field(c) = true
	return c
}

func (f *flagValues) configFile() string {
	spec, _ := f.values["config"].(string)
	return strip(spec)
}

// word is one argument of a command line as it was recognised.
type word struct {
	text   string
	isFlag bool // the word is a flag, known or not
	end    bool // the word is the first --
	flag   string
	joined *string // argument in the same word
}

// flagParser reads one command line. Positionals count up to the first flag after
// them.
type flagParser struct {
	flags map[string]flagRow
	order []string
	words []word
	out   *flagValues
}

// flagRow is what a flag stands for: a setting or an option.
type flagRow struct {
	names string // all flags of the setting or option, for messages
	row   *setting
	stop  *option
}

func parseFlags(args []string) (*flagValues, error) {
	p := &flagParser{flags: map[string]flagRow{}, out: &flagValues{values: map[string]any{}}}
	add := func(flags []string, r flagRow) {
		r.names = strings.Join(flags, "/")
		for _, f := range flags {
			p.flags[f] = r
			p.order = append(p.order, f)
		}
	}
	for i := range options {
		if options[i].field != nil {
			add(options[i].flags, flagRow{stop: &options[i]})
		}
	}
	for i := range settings {
		add(settings[i].flags, flagRow{row: &settings[i]})
	}
	if err := p.recognise(args); err != nil {
		return nil, err
	}
	return p.out, p.parse()
}

func (p *flagParser) known(flag string) bool { return p.flags[flag].names != "" }

// recognise decides which arguments are flags, before any is acted on.
func (p *flagParser) recognise(args []string) error {
	for i, arg := range args {
		if !utf8.ValidString(arg) {
			return sentence("%q is not valid UTF-8", arg)
		}
		if arg == "--" {
			p.words = append(p.words, word{text: arg, end: true})
			for _, rest := range args[i+1:] {
				p.words = append(p.words, word{text: rest})
			}
			return nil
		}
		w, err := p.flagOf(arg)
		if err != nil {
			return err
		}
		p.words = append(p.words, w)
	}
	return nil
}

func (p *flagParser) flagOf(arg string) (word, error) {
	w := word{text: arg, isFlag: true}
	if len(arg) < 2 || arg[0] != '-' {
		w.isFlag = false
		return w, nil
	}
	name, value, hasValue := strings.Cut(arg, "=")
	if p.known(arg) {
		w.flag = arg
		return w, nil
	}
	if hasValue {
		w.joined = &value
	}
	if p.known(name) {
		w.flag = name
		return w, nil
	}
	if arg[1] != '-' {
		if p.known(arg[:2]) {
			rest := arg[2:]
			w.flag, w.joined = arg[:2], &rest
			return w, nil
		}
	} else {
		var matches []string
		for _, f := range p.order {
			if strings.HasPrefix(f, name) {
				matches = append(matches, f)
			}
		}
		if len(matches) > 1 {
			return w, usageError("ambiguous option: %s could match %s", arg, strings.Join(matches, ", "))
		}
		if len(matches) == 1 {
			w.flag = matches[0]
			return w, nil
		}
	}
	w.isFlag = !negativeNumber(arg) && !strings.Contains(arg, " ")
	w.joined = nil
	return w, nil
}

// negativeNumber tells an argument such as -5 from a flag.
func negativeNumber(s string) bool {
	whole, fraction, dot := strings.Cut(s[1:], ".")
	if dot && fraction == "" || !dot && whole == "" {
		return false
	}
	return strings.Trim(whole+fraction, "0123456789") == ""
}

func (p *flagParser) parse() error {
	var unknown []string
	seen := false
	for i := 0; i < len(p.words) && p.out.stop == nil; {
		switch {
		case p.words[i].isFlag && p.words[i].flag == "":
			unknown = append(unknown, p.words[i].text)
			i++
		case p.words[i].isFlag:
			next, err := p.flag(i)
			if err != nil {
				return err
			}
			i = next
		default:
			var group []string
			first := ""
			for found := false; i < len(p.words) && !p.words[i].isFlag; i++ {
				if group = append(group, p.words[i].text); !p.words[i].end && !found {
					first, found = p.words[i].text, true
				}
			}
			if !seen {
				p.out.app, seen = first, true
			} else {
				unknown = append(unknown, group...)
			}
		}
	}
	if unknown != nil && p.out.stop == nil {
		return usageError("unrecognized arguments: %s", strings.Join(unknown, " "))
	}
	return nil
}

// flag takes the flag at word i, those joined to it, and its argument. It
// returns the word to go on with.
func (p *flagParser) flag(i int) (int, error) {
	name, joined := p.words[i].flag, p.words[i].joined
	i++
	var alone []string
	for joined != nil && p.takesNone(name) {
		if *joined == "" || name[1] == '-' || !p.known("-"+(*joined)[:1]) {
			return 0, usageError("argument %s: ignored explicit argument %s", p.flags[name].names, pyRepr(*joined))
		}
		alone = append(alone, name)
		name = "-" + (*joined)[:1]
		if rest := (*joined)[1:]; rest != "" {
			joined = &rest
		} else {
			joined = nil
		}
	}
	if joined == nil && !p.takesNone(name) {
		switch r := p.flags[name].row; {
		case i < len(p.words) && !p.words[i].isFlag && !p.words[i].end:
			joined = &p.words[i].text
			i++
		case !r.kind.optional:
			return 0, usageError("argument %s: expected one argument", p.flags[name].names)
		}
	}
	for _, f := range alone {
		if err := p.take(f, nil); err != nil || p.out.stop != nil {
			return i, err
		}
	}
	return i, p.take(name, joined)
}

func (p *flagParser) takesNone(flag string) bool {
	r := p.flags[flag].row
	return r == nil || r.kind.alone != nil && !r.kind.optional
}

// take notes one flag and its argument.
func (p *flagParser) take(flag string, arg *string) error {
	r := p.flags[flag].row
	if p.out.stop = p.flags[flag].stop; p.out.stop != nil {
		return nil
	}
	if arg == nil {
		p.out.values[r.name] = r.kind.alone
		return nil
	}
	var v any = *arg
	if r.kind.text != nil {
		var err error
		if v, err = r.kind.text(*arg); err != nil {
			return usageError("argument %s: %v", p.flags[flag].names, err)
		}
	}
	if r.kind.repeats {
		before, _ := p.out.values[r.name].([]any)
		v = append(before, v)
	}
	p.out.values[r.name] = v
	return nil
}

// splitShell splits text into words as a POSIX shell does: quotes and
// backslashes, no expansion.
func splitShell(text string) ([]string, error) {
	var words []string
	var w []byte
	in, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case quote == 0 && strings.IndexByte(" \t\r\n", ch) >= 0:
			if in {
				words = append(words, string(w))
			}
			w, in = w[:0], false
			continue
		case ch == '\\' && quote != '\'':
			if i++; i == len(text) {
				return nil, said("No escaped character")
			}
			if quote != 0 && text[i] != '"' && text[i] != '\\' {
				w = append(w, ch)
			}
			w = append(w, text[i])
		case ch == quote:
			quote = 0
		case quote == 0 && (ch == '\'' || ch == '"'):
			quote = ch
		default:
			w = append(w, ch)
		}
		in = true
	}
	if quote != 0 {
		return nil, said("No closing quotation")
	}
	if in {
		words = append(words, string(w))
	}
	return words, nil
}
