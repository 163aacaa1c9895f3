//go:build peers

package main

// Whether anything grows: with the number of members (bench/scaling.sh) and with time (bench/soak.sh). Servers are started and
// measured as in peers_linux_test.go.

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// leaveRoom says secure-close and waits for the answer.
func leaveRoom(l *session) error {
	buf, err := l.append(nil, kindClose, []byte(closeText))
	if err == nil {
		err = l.write(buf)
	}
	for kind := byte(0); err == nil && kind != kindClose; {
		kind, _, err = l.read()
	}
	return err
}

// visit joins, says count lines, waits until they are acknowledged, and leaves: with secure-close, or just so.
func visit(addr string, me *party, count int, politely bool) error {
	l, err := dialRoom(addr, me, true)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	message := appendLinesHeader(nil, 1, itemSay, "")
	for range count {
		message = appendLine(message, bytes.Repeat([]byte("x"), lineBytes))
	}
	buf, err := l.append(nil, kindText, message)
	if err == nil {
		err = l.write(buf)
	}
	for acked := uint64(0); err == nil && acked < uint64(count); {
		var kind byte
		var payload []byte
		if kind, payload, err = l.read(); err == nil && kind == kindAck {
			acked = binary.BigEndian.Uint64(payload)
		}
	}
	if err == nil && politely {
		err = leaveRoom(l)
	}
	return err
}

// open counts r's open files.
func (a *lists) open(r *running) int {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid))
	if err != nil {
		a.Fatalf("%v: the server hides itself from its own user; measure as root", err)
	}
	return len(files)
}

// goroutines ends r by a dump of its goroutines, and counts them.
func (a *lists) goroutines(r *running) int {
	r.cmd.Process.Signal(syscall.SIGQUIT)
	<-r.ended
	dump, err := os.ReadFile(filepath.Join(r.cmd.Dir, "errors"))
	if err != nil {
		a.Fatal(err)
	}
	return strings.Count(string(dump), "\ngoroutine ") - strings.Count(string(dump), "\ngoroutine 0 ")
}

// BenchmarkPeersSoak is b.N minutes of a server where people join, talk, leave, break off and do not get in, while ten stay and
// count what they hear. Its log is rotated every minute.
func BenchmarkPeersSoak(b *testing.B) {
	if firstTry(b) {
		return
	}
	const (
		stayers = 10
		workers = 4
		saying  = 5 // lines of a visit
		command = "exec BIN -listen 127.0.0.1:PORT </dev/null >/dev/null 2>errors"
	)
	a := newLists(b)
	me, row := a.ours(command)
	settle := func() { <-time.After(6 * time.Second) }

	fresh, port := a.serve(command)
	a.crowd(row, "127.0.0.1:"+port, stayers)
	settle()
	goroutinesBefore := a.goroutines(fresh)

	server, port := a.serve(command)
	addr := "127.0.0.1:" + port
	var heard, visits, said, cut, strangers, failed atomic.Int64
	leave := a.populate(server, me, stayers, &heard)
	settle()
	fmt.Printf("\n| minute | visits | lines said | cut off | no handshake | failed | RSS, KiB | peak RSS | threads | open files |\n|---|---|---|---|---|---|---|---|---|---|\n")
	sample := func(when string) (resident float64, open int) {
		resident, open = a.status(server, "VmRSS:"), a.open(server)
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %.0f | %.0f | %.0f | %d |\n", when, visits.Load(), said.Load(), cut.Load(), strangers.Load(), failed.Load(), resident, a.status(server, "VmHWM:"), a.status(server, "Threads:"), open)
		return resident, open
	}
	_, openBefore := sample("before")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if n%16 == 15 { // somebody who speaks another protocol
					conn, err := net.Dial("tcp", addr)
					if err == nil {
						_, err = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
						conn.Close()
					}
					if err != nil {
						b.Error(err)
						return
					}
					strangers.Add(1)
					continue
				}
				politely := n%8 != 3
				if err := visit(addr, me, saying, politely); err != nil {
					b.Errorf("a visit: %v", err)
					failed.Add(1)
					continue
				}
				visits.Add(1)
				said.Add(saying)
				if !politely {
					cut.Add(1)
				}
			}
		})
	}
	log := filepath.Join(server.cmd.Dir, "connection.log")
	minutes := time.NewTicker(time.Minute)
	for n := range b.N {
		<-minutes.C
		sample(fmt.Sprint(n + 1))
		err1 := os.Rename(log, log+".1")
		err2 := server.cmd.Process.Signal(syscall.SIGHUP)
		if err := errors.Join(err1, err2); err != nil {
			b.Error(err)
			break
		}
	}
	minutes.Stop()
	close(stop)
	wg.Wait()
	settle()
	resident, open := sample("after")
	least, most := said.Load(), said.Load()+failed.Load()*saying // of those who failed some may be in the log
	if n := heard.Load(); n < least*stayers || n > most*stayers {
		b.Errorf("those who stayed heard %d lines, not %d", n, least*stayers)
	}
	if open != openBefore {
		b.Errorf("%d files are open, not %d", open, openBefore)
	}
	if most := 48 << 10; resident > float64(most) {
		b.Errorf("%.0f KiB resident, more than %d", resident, most)
	}
	if out, err := exec.Command(a.binary, "-verify-log", log+".1", log).CombinedOutput(); err != nil {
		b.Errorf("the log: %v: %s", err, out)
	}
	after := a.goroutines(server)
	leave()
	fmt.Printf("\ngoroutines with %d members: %d of a fresh server, %d after\nthose who stayed heard %d lines each, of %d acknowledged\nthe server's words:\n", stayers, goroutinesBefore, after, heard.Load()/stayers, said.Load())
	words, err := os.ReadFile(filepath.Join(server.cmd.Dir, "errors"))
	if err != nil {
		b.Fatal(err)
	}
	reasons := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^securechat: refused (?:\S+|\S+, \S+): (.*)$`).FindAllStringSubmatch(string(words), -1) {
		reasons[regexp.MustCompile(`tcp \S+->\S+: `).ReplaceAllString(m[1], "")]++
	}
	for reason, n := range reasons {
		fmt.Printf("%8d refused: %s\n", n, reason)
	}
	if after > goroutinesBefore {
		b.Errorf("%d goroutines, not %d", after, goroutinesBefore)
	}
}

// keepAlive pings for clients until it is told to end.
type keepAlive struct {
	mu    sync.Mutex
	links []*session
}

func (k *keepAlive) add(l *session) {
	k.mu.Lock()
	k.links = append(k.links, l)
	k.mu.Unlock()
}

func (k *keepAlive) run(done chan struct{}) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		k.mu.Lock()
		links := k.links // only ever longer
		k.mu.Unlock()
		for _, l := range links {
			_ = pingRoom(l) // whoever is gone is missed where it counts
		}
	}
}

// populate joins n receivers of one identity, eight at a time, who hear from the first and go on saying that they are alive.
func (a *lists) populate(server *running, me *party, n int, delivered *atomic.Int64) (leave func()) {
	var alive keepAlive
	done := make(chan struct{})
	var all, joining sync.WaitGroup
	all.Go(func() { alive.run(done) })
	var next atomic.Int64
	for range 8 {
		joining.Go(func() {
			for {
				i := next.Add(1)
				if int(i) > n || a.Failed() {
					return
				}
				l, err := dialRoom(server.addr, me, true)
				if err != nil {
					a.Errorf("client %d: %v", i, err)
					return
				}
				l.conn.SetDeadline(time.Time{})
				alive.add(l)
				all.Go(func() {
					hearRoom(l, func(line []byte) {
						if len(line) == lineBytes {
							delivered.Add(1)
						}
					})
				})
			}
		})
	}
	joining.Wait()
	leave = func() {
		close(done)
		for _, l := range alive.links {
			l.conn.Close()
		}
		all.Wait()
	}
	if a.Failed() {
		leave()
		a.FailNow()
	}
	return leave
}

// each is the server's processor time for each of n times act, once next to nothing is left to do of them, in µs.
func (a *lists) each(server *running, n int, act func() error) float64 {
	used := a.cpu(server)
	for range n {
		if err := act(); err != nil {
			a.Fatal(err)
		}
	}
	for last := used; a.cpu(server)-last > 10*time.Millisecond; <-time.After(300 * time.Millisecond) {
		last = a.cpu(server)
	}
	return float64((a.cpu(server) - used).Microseconds()) / float64(n)
}

// BenchmarkPeersScaling is what a connection and a delivery cost a server that has N members already. It prints a table and
// draws docs/scaling.svg.
func BenchmarkPeersScaling(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	me, row := a.ours(roomCommand)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	shake := func(addr string) func() error {
		return func() error { // and no more: the room does not hear of it
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			_, err = clientHandshake(conn, me, trustAll, nil)
			return err
		}
	}
	come := func(addr string) func() error {
		return func() error {
			l, err := dialRoom(addr, me, false)
			if err != nil {
				return err
			}
			defer l.conn.Close()
			return leaveRoom(l)
		}
	}
	series := []*curve{
		{name: "resident memory for a member, KiB", colour: "#1f6fb2", format: "%.1f"},
		{name: "CPU of a handshake, ms", colour: "#b2401f", format: "%.2f"},
		{name: "CPU of telling a member that somebody came or left, µs", colour: "#7a3fa0", format: "%.2f"},
		{name: "CPU of delivering a line of 100 bytes, µs", colour: "#2c8a3d", format: "%.3f"},
		{name: "CPU of a handshake with so many keys in authorized_keys, ms", format: "%.2f"},
	}
	var members []int
	for _, n := range []int{10, 30, 100, 300, 1000, 3000, 10000} {
		if uint64(n)+100 > limit.Cur {
			fmt.Printf("%d members need a limit of open files of %d at least (ulimit -n), here and for the server; it is %d\n", n, n+100, limit.Cur)
			continue
		}
		var got [5]figures
		for range b.N {
			began := time.Now()
			server, _ := a.serve(roomCommand)
			a.each(server, 20, come(server.addr)) // what the first ones cost is nobody's
			alone := a.each(server, 100, come(server.addr))
			<-time.After(3 * freePause)
			before := a.resident(server)
			var delivered atomic.Int64
			leave := a.populate(server, me, n, &delivered)
			<-time.After(3 * freePause)
			memory := (a.resident(server) - before) / float64(n) / 1024
			handshake := a.each(server, 100, shake(server.addr))
			visits := max(10, min(100, 30000/n))
			told := (a.each(server, visits, come(server.addr)) - alone) / 2 / float64(n)
			if n < 100 { // so few are lost in what the rest of the server does
				memory = math.NaN()
			}
			if n < 300 { // and what they are told, in what a handshake varies by
				told = math.NaN()
			}
			count := max(batchLines, 2000000/n/batchLines*batchLines)
			_, used := a.pour(row, server, &delivered, n, count)
			listed := filepath.Join(a.state, "authorized_keys")
			if err := os.WriteFile(listed, strangersKeys(b, n), 0o600); err != nil {
				b.Fatal(err)
			}
			among := a.each(server, 30, shake(server.addr))
			if err := os.Remove(listed); err != nil {
				b.Fatal(err)
			}
			leave()
			server.stop()
			for i, v := range []float64{memory, handshake / 1000, told, float64(used.Nanoseconds()) / 1000 / float64(n*count), among / 1000} {
				got[i].add("", v)
			}
			fmt.Fprintf(os.Stderr, "%d members: %.0f s\n", n, time.Since(began).Seconds())
		}
		members = append(members, n)
		for i := range got {
			v := slices.Sorted(slices.Values(got[i].values[""]))
			series[i].values = append(series[i].values, v[len(v)/2])
		}
	}
	fmt.Print("\n| members |")
	for _, c := range series {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print("\n|", strings.Repeat("---|", 1+len(series)), "\n")
	for i, n := range members {
		fmt.Printf("| %d |", n)
		for _, c := range series {
			fmt.Printf(" %s |", strings.ReplaceAll(fmt.Sprintf(c.format, c.values[i]), "NaN", "–"))
		}
		fmt.Println()
	}
	if err := os.WriteFile("docs/scaling.svg", plot(members, series[:4]), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, c := range series[:4] { // the time to parse a file grows with the file
		from := slices.IndexFunc(c.values, func(v float64) bool { return v > 0 })
		for i, v := range c.values {
			if from < 0 || v > 3*c.values[from] {
				b.Errorf("%s: %.2f with %d members, more than thrice what it was with the fewest", c.name, v, members[i])
			}
		}
	}
}

// strangersKeys are n lines for authorized_keys.
func strangersKeys(b *testing.B, n int) (text []byte) {
	for i := range n {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		key, err := ssh.NewPublicKey(public)
		if err != nil {
			b.Fatal(err)
		}
		text = append(text, publicLine(key, fmt.Sprintf("k%d", i))...)
	}
	return text
}

// curve is one line of a plot.
type curve struct {
	name, colour, format string
	values               []float64
}

// plot draws curves over members as an SVG, both axes logarithmic.
func plot(members []int, curves []*curve) []byte {
	const width, height, left, top, right, bottom = 760, 440, 60, 20, 20, 120
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, c := range curves {
		for _, v := range c.values {
			if v > 0 {
				lowest, highest = min(lowest, v), max(highest, v)
			}
		}
	}
	low, high := math.Floor(math.Log10(lowest)), math.Ceil(math.Log10(highest))
	first, last := math.Log10(float64(members[0])), math.Log10(float64(members[len(members)-1]))
	x := func(n float64) float64 { return left + (math.Log10(n)-first)/(last-first)*(width-left-right) }
	y := func(v float64) float64 { return top + (high-math.Log10(v))/(high-low)*(height-top-bottom) }
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n", width, height)
	fmt.Fprintf(&b, "<title>What a member costs the server, by the number of members</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width, height)
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&b, "<path d=\"M%d %.1fH%d\" stroke=\"#ccc\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", left, y(v), width-right, left-8, y(v)+4, v)
	}
	for _, n := range members {
		fmt.Fprintf(&b, "<path d=\"M%.1f %dV%d\" stroke=\"#eee\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", x(float64(n)), top, height-bottom, x(float64(n)), height-bottom+18, n)
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">members</text>\n", (left+width-right)/2, height-bottom+36)
	for i, c := range curves {
		var points []string
		for j, v := range c.values {
			if v > 0 {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(members[j])), y(v)))
			}
		}
		fmt.Fprintf(&b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", strings.Join(points, " "), c.colour)
		for _, p := range points {
			at, on, _ := strings.Cut(p, ",")
			fmt.Fprintf(&b, "<circle cx=\"%s\" cy=\"%s\" r=\"3\" fill=\"%s\"/>\n", at, on, c.colour)
		}
		at := height - bottom + 56 + 17*i
		fmt.Fprintf(&b, "<path d=\"M%d %dh24\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%d\" y=\"%d\">%s</text>\n", left, at-4, c.colour, left+32, at, c.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
