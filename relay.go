package main

// What Python has for syslog and statsd goes through its worker: there is one
// connection for both, and neither a daemon nor a name server can hold up the
// application. A message is a letter, then
//
//	e, a  a level's digit and a record of gunicorn.error or gunicorn.access
//	m     a metric, NAME:VALUE|TYPE

// relayAtOnce bounds what one turn of the loop takes.
const relayAtOnce = 64

// relays says whether Python has anything to relay.
func (w *worker) relays() bool { return w.log.syslog != nil || w.log.statsd != nil }

// relay passes on what Python has sent.
func (w *worker) relay() {
	if !w.relays() {
		return
	}
	b := w.pool.get(queueMax)[:queueMax]
	defer w.pool.put(b)
	for range relayAtOnce {
		n := w.python.relayed(b)
		if n < 2 {
			return
		}
		kind, text := b[0], b[1:n]
		level := logLevel(text[0] - '0')
		switch {
		case kind == 'm':
			w.log.statsd.send(string(text))
		case level > levelCritical:
		case kind == 'e':
			w.log.syslog.text(level, "error", text[1:], true)
		case kind == 'a':
			w.log.syslog.text(level, "access", text[1:], true)
		}
	}
}
