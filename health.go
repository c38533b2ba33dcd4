package main

// Answers to load balancers: whether the server is alive, and whether it is ready.
// Workers answer without their Python, from the scoreboard, even while the Python boots,
// hangs or is busy; the metrics process answers the same from its own reading of the
// scoreboard.
//
// A server is ready if one of its workers can run a request now or soon, whichever worker
// was asked: a client cannot choose its worker.

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stuckLimit is how long all lanes of a worker may run the same requests, or a worker
	// may be silent, before the worker no longer counts as ready: longer than nearly all
	// requests take, and so short that a check every few seconds tells in time.
	stuckLimit = 5 * time.Second

	// guardPause is how long a new client waits for a free worker before a busy worker
	// looks at the client's request.
	guardPause = 20 * time.Millisecond

	// guardAtOnce bounds the clients that guard takes in one turn of the loop, which goes
	// on with the others' work in between.
	guardAtOnce = 64
)

// neighbours is a worker's read-only view of the whole scoreboard.
type neighbours struct {
	board *board
	pages int     // descriptor of the file of workers' pages
	slots []*slot // pages that are mapped, in the order of the file
}

// needsNeighbours reports whether workers have to see the whole scoreboard.
func (c *config) needsNeighbours() bool {
	return c.health != "" || c.drainDelay > 0 || c.limitsQueue() || c.limitConnectionsPerClient > 0
}

func openNeighbours(c *config, boardFD, pages int) (*neighbours, error) {
	if !c.needsNeighbours() {
		return nil, nil
	}
	b, err := mapPage[board](boardFD, 0, unix.PROT_READ)
	unix.Close(boardFD)
	return &neighbours{board: b, pages: pages}, err
}

// all are the pages of all workers, some of which may be free.
func (n *neighbours) all() []*slot {
	for len(n.slots) < int(n.board.slots.Load()) {
		s, err := mapPage[slot](n.pages, int64(len(n.slots)*boardStride), unix.PROT_READ)
		if err != nil {
			break // without memory, fewer workers are seen
		}
		n.slots = append(n.slots, s)
	}
	return n.slots
}

// drains reports whether the arbiter waits for load balancers to turn away from this server.
func (n *neighbours) drains() bool { return n != nil && n.board.draining.Load() != 0 }

// lives reports whether the loop of the worker that has this page runs.
func (s *slot) lives(now int64) bool {
	return s.pid.Load() != 0 && now-s.heartbeat.Load() < int64(stuckLimit)
}

// able reports whether a worker can run a request now or soon.
func (s *slot) able(now int64) bool {
	stuck := s.stuck.Load()
	return s.lives(now) && s.phase().serves() && (stuck == 0 || now-stuck < int64(stuckLimit))
}

func anyAble(slots []*slot) bool {
	now := sharedTime()
	return slices.ContainsFunc(slots, func(s *slot) bool { return s.able(now) })
}

// unready says why a server is not ready, or "" for one that is.
func unready(b *board, slots []*slot) string {
	switch {
	case b.draining.Load() != 0:
		return "the server is about to stop"
	case anyAble(slots):
		return ""
	case slices.ContainsFunc(slots, func(s *slot) bool { return s.pid.Load() != 0 && s.phase().serves() }):
		return "all workers are stuck"
	case slices.ContainsFunc(slots, func(s *slot) bool { return s.pid.Load() != 0 && s.phase() == phaseBooting }):
		return "the application is being loaded"
	}
	return "no worker serves"
}

// unready says to the metrics process why the server is not ready, or "" if it is.
func (r *reading) unready() string { return unready(r.board, r.workers) }

// alive reports to the metrics process whether any worker lives.
func (r *reading) alive() bool {
	return slices.ContainsFunc(r.workers, func(s *slot) bool { return s.lives(r.now) })
}

// stuckSince is since when no lane of this worker's Python could have taken a request, 0 if
// one can.
func (w *worker) stuckSince() (since int64) {
	p := w.python
	if p.askedAt != 0 {
		since = p.askedAt
	} else if p.idle() <= 0 {
		for _, l := range p.busy {
			since = max(since, l.begun)
		}
	}
	if since != 0 {
		since += paused.Load()
	}
	return since
}

// healthPaths are the paths of the setting health, "" for none.
func (c *config) healthPaths() (live, ready string) {
	live, ready, _ = strings.Cut(c.health, ",")
	return strip(live), strip(ready)
}

// checkHealth checks the setting health.
func (c *config) checkHealth() error {
	if c.health == "" {
		return nil
	}
	list := strings.Split(c.health, ",")
	for _, path := range list {
		path = strip(path)
		if !strings.HasPrefix(path, "/") {
			return sentence("health: %q is not a path, which begins with a slash", path)
		}
		if strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '?' || r == '#' }) {
			return sentence("health: %q has a character that no path of a request has", path)
		}
	}
	live, ready := c.healthPaths()
	mounts, _ := mountsOf(c) // checkStatic reports an error
	for _, m := range mounts {
		for _, path := range []string{live, ready} {
			if strings.HasPrefix(path, m.prefix) {
				return sentence("health: %q is below %q, a prefix of static", path, m.prefix)
			}
		}
	}
	switch {
	case len(list) > 2:
		return sentence("health: %q has more than two paths, one for live and one for ready", c.health)
	case live == ready:
		return sentence("health: %q is the path of both live and ready", live)
	}
	return nil
}

// healthOf answers a request with a path of the setting health. known is false for any other.
func healthOf(live, ready, path, method string, alive bool, why func() string) (status, body string, known bool) {
	switch {
	case path == "" || path != live && path != ready:
		return "", "", false
	case method != "GET" && method != "HEAD":
		return "405 Method Not Allowed", "only GET and HEAD\n", true
	case path == live && alive:
		return "200 OK", "live\n", true
	case path == live:
		return "503 Service Unavailable", "not alive\n", true
	}
	if reason := why(); reason != "" {
		return "503 Service Unavailable", "not ready: " + reason + "\n", true
	}
	return "200 OK", "ready\n", true
}

// retryAfter is the shortest Retry-After, in seconds.
const retryAfter = "1"

// healthField is the further field that a status of healthOf needs, "" for none.
func healthField(status string) (name, value string) {
	switch status[:3] {
	case "405":
		return "Allow", "GET, HEAD"
	case "503":
		return "Retry-After", retryAfter
	}
	return "", ""
}

// checker answers requests for the paths of the setting health.
type checker struct{ live, ready string }

// asked reports whether a request has one of the paths.
func (h *checker) asked(r *request) bool {
	return h != nil && len(r.path) > 0 && (string(r.path) == h.live || string(r.path) == h.ready)
}

func (h *checker) answer(w *worker, t *turn) bool {
	status, body, _ := healthOf(h.live, h.ready, string(t.req.path), string(t.req.method), true, func() string {
		if w.draining() {
			return "the server stops"
		}
		w.slot.stuck.Store(w.stuckSince()) // tick does so once a second
		return unready(w.others.board, w.others.all())
	})
	w.resp.fields, w.text = w.resp.fields[:0], w.text[:0]
	w.tellText("Content-Type", healthType)
	w.tellText("Cache-Control", "no-store")
	if name, value := healthField(status); name != "" {
		w.tellText(name, value)
	}
	w.tellNumber("Content-Length", int64(len(body)))
	code, _ := strconv.Atoi(status[:3])
	w.finishOwn(t, w.beginOwn(t, code, w.cfg.healthLog), []byte(body))
	return true
}

// healthType is the Content-Type of answers about health.
const healthType = "text/plain; charset=utf-8"

// Guard -----------------------------------------------------------------------

// guards reports whether this worker looks at new clients although it cannot serve them
// soon: some may ask something that it can answer itself, or be too many. While its own
// application is loaded, the worker does so only if no other worker serves.
func (w *worker) guards() bool {
	p := w.python
	return (w.health != nil || w.limited) && !w.accepting && !w.stopping() && len(w.listeners) > 0 && w.paused <= w.now &&
		(w.health != nil && !p.ready && !p.gone && !anyAble(w.others.all()) || p.takes()) && (!w.full() || w.slowest() != nil)
}

// guardDue is when guard looks next, 0 for never. Only a worker that does not watch the
// listeners has to look.
func (w *worker) guardDue() int64 {
	if w.health == nil && !w.limited || w.accepting || w.stopping() || len(w.listeners) == 0 {
		return 0
	}
	return max(w.guardAt, 1)
}

// guard takes clients whom no free worker has taken in time. Their requests for the
// application wait here, as they would have waited in the kernel, or go to whichever
// worker is free first.
func (w *worker) guard() {
	w.guardAt = w.after(guardPause)
	if !w.guards() {
		return
	}
	for i := range w.listeners {
		for n := 0; i < len(w.listeners) && readable(w.listeners[i].fd); n += acceptAtOnce {
			if n >= guardAtOnce {
				w.guardAt = w.now // the next clients come in the next turn
				break
			}
			w.accept(w.listeners[i].fd, 0)
		}
	}
}
