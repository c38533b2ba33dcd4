// Load asks what wrk cannot: clients that do not wait for one another (open),
// requests of two kinds whose times are told apart (closed), and WebSockets
// (echo, hold). It writes what it saw to standard output as JSON.
//
//	load closed [flags] HOST:PORT   each connection asks again when it has the answer
//	load open [flags] HOST:PORT     requests come when they come
//	load ideal [flags]              what closed would see if one queue fed all lanes
//	load echo [flags] HOST:PORT     each WebSocket sends the next message when it has the last one back
//	load hold [flags] HOST:PORT     WebSockets stay open until standard input ends; a line, how many may
//	                                compress, says that all are there
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

var (
	connections = flag.Int("connections", 16, "of closed and ideal; the most of open")
	duration    = flag.Duration("duration", 5*time.Second, "of the load")
	short       = flag.String("short", "/", "path of most requests")
	long        = flag.String("long", "", "path of the others")
	share       = flag.Float64("share", 0.05, "of the others")
	rate        = flag.Float64("rate", 0, "of open, requests/s")
	patience    = flag.Duration("patience", time.Second, "of an open client, after which it leaves")
	lanes       = flag.Int("lanes", 8, "of ideal")
	shortTime   = flag.Duration("short-time", time.Millisecond, "of ideal")
	longTime    = flag.Duration("long-time", 100*time.Millisecond, "of ideal")
	deflate     = flag.Bool("deflate", false, "offer permessage-deflate, of hold")
	seed        = flag.Uint64("seed", 1, "of what is random")
)

// outcome is what is written.
type outcome struct {
	Rate    float64 `json:"rate"`    // of good answers a second
	Errors  int     `json:"errors"`  // answers that were none, or not 200
	Late    int     `json:"late"`    // no answer in the client's patience
	Slowest float64 `json:"slowest"` // answers on the connection that got fewest, of the mean
	Short   times   `json:"short"`
	Long    times   `json:"long"`
	Deflate int     `json:"deflate"` // WebSockets of hold that agreed to compress
	Left    int     `json:"left"`    // and that were there in the end
	Problem string  `json:"problem"` // of the WebSockets that were not
}

// times are in milliseconds.
type times struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}

const usage = "usage: load closed|open|ideal|echo|hold [flags] [HOST:PORT]"

func main() {
	if len(os.Args) < 2 {
		fatal(usage)
	}
	mode := os.Args[1]
	_ = flag.CommandLine.Parse(os.Args[2:])
	var o outcome
	switch {
	case mode == "closed" && flag.NArg() == 1:
		o = closed(flag.Arg(0))
	case mode == "open" && flag.NArg() == 1 && *rate > 0:
		o = open(flag.Arg(0))
	case mode == "ideal" && flag.NArg() == 0:
		o = ideal()
	case mode == "echo" && flag.NArg() == 1 && !*deflate:
		o = echo(flag.Arg(0))
	case mode == "hold" && flag.NArg() == 1:
		o = hold(flag.Arg(0))
	default:
		fatal(usage)
	}
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		fatal(err.Error())
	}
}

func fatal(text string) {
	fmt.Fprintln(os.Stderr, "load: "+text)
	os.Exit(1)
}

func summary(all []time.Duration) (t times) {
	if len(all) == 0 {
		return t
	}
	slices.Sort(all)
	at := func(share float64) float64 {
		return float64(all[int(share*float64(len(all)-1))]) / 1e6
	}
	return times{len(all), at(0.5), at(0.99), at(0.999), at(1)}
}

// client is one connection, opened when it is wanted.
type client struct {
	addr  string
	conn  net.Conn
	in    *bufio.Reader
	fresh bool // no answer has come yet
}

// ask sends a request and reads the answer.
func (c *client) ask(path string, deadline time.Time) error {
	for {
		err := c.askOnce(path, deadline)
		if err == nil {
			return nil
		}
		fresh := c.fresh
		c.close()
		// A server may close an idle connection at any time.
		if !fresh && (errors.Is(err, io.EOF) || errors.Is(err, errReset)) {
			continue
		}
		return err
	}
}

var errReset = errors.New("reset")

func (c *client) askOnce(path string, deadline time.Time) error {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.addr, max(time.Until(deadline), time.Millisecond))
		if err != nil {
			return err
		}
		c.conn, c.in, c.fresh = conn, bufio.NewReader(conn), true
	}
	_ = c.conn.SetDeadline(deadline)
	if _, err := c.conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: " + c.addr + "\r\n\r\n")); err != nil {
		return errReset
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		if len(line) == 0 && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
			return errReset
		}
		return err
	}
	good := bytes.HasPrefix(line, []byte("HTTP/1.1 200 "))
	length, chunked, last := -1, false, false
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return noEOF(err)
		}
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		if len(name) == 0 {
			break
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("connection")):
			last = bytes.EqualFold(value, []byte("close"))
		}
	}
	switch {
	case chunked:
		if _, err = io.Copy(io.Discard, httputil.NewChunkedReader(c.in)); err == nil {
			_, err = c.in.ReadSlice('\n') // the end of the trailer section
		}
	case length < 0:
		return errors.New("an answer without an end")
	default:
		_, err = c.in.Discard(length)
	}
	if err != nil {
		return noEOF(err)
	}
	if c.fresh = false; last || !good {
		c.close()
	}
	if !good {
		return errors.New("not 200")
	}
	return nil
}

// noEOF is for the middle of an answer.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// kinds says which of a connection's requests are long ones, the same in every
// run.
func kinds(connection int) func() bool {
	r := rand.New(rand.NewPCG(*seed, uint64(connection)))
	return func() bool { return *long != "" && r.Float64() < *share }
}

func closed(addr string) (o outcome) {
	begin := time.Now()
	end := begin.Add(*duration)
	counts := make([]int, *connections)
	var shorts, longs []time.Duration
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range *connections {
		all.Go(func() {
			next, c, failed := kinds(i), &client{addr: addr}, 0
			var mine [2][]time.Duration
			for now := time.Now(); now.Before(end); {
				path, kind := *short, 0
				if next() {
					path, kind = *long, 1
				}
				err := c.ask(path, end)
				then := now
				now = time.Now()
				if err == nil {
					mine[kind] = append(mine[kind], now.Sub(then))
				} else if now.Before(end) {
					failed++
					time.Sleep(time.Millisecond) // whoever refuses is not asked in a tight loop
					now = time.Now()
				}
			}
			c.close()
			mu.Lock()
			defer mu.Unlock()
			shorts, longs = append(shorts, mine[0]...), append(longs, mine[1]...)
			counts[i] = len(mine[0]) + len(mine[1])
			o.Errors += failed
		})
	}
	all.Wait()
	total := len(shorts) + len(longs)
	o.Rate = float64(total) / duration.Seconds()
	if total > 0 {
		o.Slowest = float64(slices.Min(counts)) * float64(*connections) / float64(total)
	}
	o.Short, o.Long = summary(shorts), summary(longs)
	return o
}

// open has clients arrive at random, at a rate on average. Each takes a
// connection that is idle, as behind a proxy, or opens one. Time counts from
// when it was to arrive, so that a client that was held up here counts, too.
func open(addr string) (o outcome) {
	var mu sync.Mutex
	var idle []*client
	var took []time.Duration
	var all sync.WaitGroup
	opened := 0
	serve := func(arrival time.Time) {
		mu.Lock()
		var c *client
		if n := len(idle); n > 0 {
			c, idle = idle[n-1], idle[:n-1]
		} else if opened < *connections {
			c = &client{addr: addr}
			opened++
		}
		if c == nil {
			o.Late++
			mu.Unlock()
			return
		}
		mu.Unlock()
		all.Go(func() {
			err := c.ask(*short, arrival.Add(*patience))
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			idle = append(idle, c)
			switch {
			case err == nil:
				took = append(took, now.Sub(arrival))
			case errors.Is(err, os.ErrDeadlineExceeded):
				o.Late++
			default:
				o.Errors++
			}
		})
	}
	r := rand.New(rand.NewPCG(*seed, 0))
	begin := time.Now()
	for at := time.Duration(0); at < *duration; at += time.Duration(r.ExpFloat64() / *rate * 1e9) {
		if wait := time.Until(begin.Add(at)); wait > 0 {
			time.Sleep(wait)
		}
		serve(begin.Add(at))
	}
	all.Wait()
	for _, c := range idle {
		c.close()
	}
	o.Rate = float64(len(took)) / duration.Seconds()
	o.Short = summary(took)
	return o
}

// ideal is a simulation of closed: the same requests, one queue, and lanes that
// take the next request at once, with nothing that costs time but the work.
func ideal() (o outcome) {
	var shorts, longs []time.Duration
	next := make([]func() bool, *connections)
	asked := make([]time.Duration, *connections) // when the request came
	queue := make([]int, *connections)
	for i := range queue {
		next[i], queue[i] = kinds(i), i
	}
	free := make([]time.Duration, *lanes) // when the lane is idle again
	running := make([]int, *lanes)        // whose request it has until then
	isLong := make([]bool, *connections)
	for i := range running {
		running[i] = -1
	}
	for now := time.Duration(0); now < *duration; {
		for i := range running {
			if running[i] >= 0 && free[i] <= now {
				c := running[i]
				if took := now - asked[c]; isLong[c] {
					longs = append(longs, took)
				} else {
					shorts = append(shorts, took)
				}
				asked[c], running[i] = now, -1
				queue = append(queue, c)
			}
		}
		for i := range running {
			if running[i] < 0 && len(queue) > 0 {
				c := queue[0]
				queue = queue[1:]
				work := *shortTime
				if isLong[c] = next[c](); isLong[c] {
					work = *longTime
				}
				running[i], free[i] = c, now+work
			}
		}
		now = 1 << 62
		for i := range running {
			if running[i] >= 0 {
				now = min(now, free[i])
			}
		}
	}
	o.Rate = float64(len(shorts)+len(longs)) / duration.Seconds()
	o.Slowest = 1
	o.Short, o.Long = summary(shorts), summary(longs)
	return o
}
