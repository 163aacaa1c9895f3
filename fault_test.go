//go:build unix

package main

// Faults between reconnecting clients and the server: a proxy breaks connections in many ways, and processes are killed
// with SIGKILL. The tests compare what was sent, acknowledged, logged and received: no line may be lost, doubled or out
// of order. -v prints the figures, -faults 200 -kills 50 -streams 600 runs the long form, -seed repeats a run.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	faultCount  = flag.Int("faults", 12, "faults of TestFaultsAndKills")
	killCount   = flag.Int("kills", 4, "kill -9 of TestFaultsAndKills, TestManyStreams and TestNothingMissed")
	faultSeed   = flag.Uint64("seed", 1, "of its random choices")
	streamCount = flag.Int("streams", 24, "clients of TestManyStreams, all with one key")
	everyByte   = flag.Bool("everybyte", false, "TestFaultAtEachByte takes each byte, not one in many")
)

// fault is what a proxy does to one connection after at bytes have passed in one direction.
type fault struct {
	kind     string
	toServer bool
	at       int
}

// faultKinds: cut closes the connection, reset sends an RST, half closes one direction, stall stops forwarding for a
// while and then closes, bytes forwards one byte at a time, delay forwards each read late, and double sends everything
// on a second connection too.
var faultKinds = []string{"cut", "reset", "half", "stall", "bytes", "delay", "double"}

const (
	stallTime = 300 * time.Millisecond
	delayTime = 10 * time.Millisecond
)

// faultProxy forwards connections to a server, each with the fault that plan returns.
type faultProxy struct {
	l      net.Listener
	wg     sync.WaitGroup
	mu     sync.Mutex
	target string
	plan   func() fault // Called for each connection, with mu held.
	struck map[string]int
}

func newFaultProxy(t *testing.T, target string, plan func() fault) *faultProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultProxy{l: l, target: target, plan: plan, struck: map[string]int{}}
	p.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.carry(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { l.Close(); p.wg.Wait() })
	return p
}

func (p *faultProxy) strike(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.struck[kind]++
}

func (p *faultProxy) count() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.struck {
		n += k
	}
	return n
}

func (p *faultProxy) carry(client *net.TCPConn) {
	defer client.Close()
	p.mu.Lock()
	f, target := p.plan(), p.target
	p.mu.Unlock()
	conn, err := net.Dial("tcp", target)
	if err != nil {
		return // The server is not running.
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	var twin io.Writer = io.Discard
	if f.kind == "double" {
		if second, err := net.Dial("tcp", target); err == nil {
			defer second.Close()
			go io.Copy(io.Discard, second)
			twin = second
			p.strike(f.kind)
		}
		f.kind, f.at = "cut", f.at+8000 // A connection that goes on must end too, so that the next one can start.
	}
	end := func() { client.Close(); server.Close() }
	var both sync.WaitGroup
	copy := func(to, from *net.TCPConn, mine bool, twin io.Writer) {
		buf, passed := make([]byte, 4096), 0
		due := mine && f.kind != ""
		for {
			n, err := from.Read(buf)
			if due && n > 0 && f.kind == "delay" && passed+n >= f.at { // only the direction that is due may use f
				p.strike(f.kind)
				<-time.After(delayTime)
				f.kind, f.at = "cut", passed+n+8000
			}
			b := buf[:n]
			if due && f.kind != "delay" && passed+n >= f.at {
				due = false
				if f.kind == "bytes" {
					for ; len(b) > 0; b = b[1:] {
						to.Write(b[:1])
					}
					if due = true; passed > f.at+4096 {
						p.strike(f.kind)
						f.kind, f.at = "cut", passed+n+8000
					}
				} else {
					to.Write(b[:f.at-passed])
					p.strike(f.kind)
					switch f.kind {
					case "half":
						to.CloseWrite()
						return
					case "stall":
						<-time.After(stallTime)
					case "reset":
						client.SetLinger(0)
						server.SetLinger(0)
					}
					end()
					return
				}
			}
			passed += n
			twin.Write(b)
			if _, werr := to.Write(b); err != nil || werr != nil {
				if err == io.EOF && werr == nil {
					to.CloseWrite()
				} else {
					end()
				}
				return
			}
		}
	}
	both.Go(func() { copy(server, client, f.toServer, twin) })
	both.Go(func() { copy(client, server, !f.toServer, io.Discard) })
	both.Wait()
}

// ear collects the objects that a client prints.
type ear struct {
	mu    sync.Mutex
	line  []byte
	acked int
	heard []string
	bad   error
	news  chan struct{}
}

func (e *ear) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.line = append(e.line, b...)
	for {
		line, rest, whole := bytes.Cut(e.line, []byte("\n"))
		if !whole {
			break
		}
		var o struct {
			Type, Text string
			ID         int
		}
		if err := json.Unmarshal(line, &o); err != nil {
			e.bad = err
		}
		switch o.Type {
		case "ack":
			e.acked = o.ID
		case "message":
			e.heard = append(e.heard, o.Text)
		}
		e.line = rest
	}
	wake(e.news)
	return len(b), nil
}

func (e *ear) state() (acked int, heard []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.acked, e.heard
}

// speaker is one process of a client that sends lines "label 1", "label 2" and so on.
type speaker struct {
	*proc
	*ear
	label string
	sent  int
	code  int // The exit code, or -1 if the process was killed.
}

func startSpeaker(t *testing.T, label string, args ...string) *speaker {
	t.Helper()
	s := &speaker{proc: &proc{t: t, err: newWatched(), ended: make(chan struct{})},
		ear: &ear{news: make(chan struct{}, 1)}, label: label}
	s.cmd = exec.Command(os.Args[0], append([]string{"-json"}, args...)...)
	s.cmd.Dir = t.TempDir()
	s.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+s.cmd.Dir)
	s.cmd.Stdout, s.cmd.Stderr = s.ear, s.proc.err
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.cmd.Wait(); close(s.ended) }()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
		if t.Failed() {
			t.Logf("%s: %.2000s", s.label, s.proc.err)
		}
	})
	return s
}

// speak sends lines, at most window of them unacknowledged, until stop is closed or the process ends.
func (s *speaker) speak(stop chan struct{}) {
	const window = 50
	for {
		acked, _ := s.state()
		for s.sent < acked+window {
			s.sent++
			if _, err := fmt.Fprintf(s.stdin, "{\"text\":\"%s %d\"}\n", s.label, s.sent); err != nil {
				return
			}
		}
		select {
		case <-stop:
			return
		case <-s.ended:
			return
		case <-s.ear.news:
		}
	}
}

// checkSpoken compares what was sent and acknowledged with the log, and what each client received with the log's order.
func checkSpoken(t *testing.T, logged []string, speakers []*speaker) (sent, acked, heard int) {
	t.Helper()
	place := map[string]int{}
	count := map[string]int{}
	for i, text := range logged {
		if _, twice := place[text]; twice {
			t.Errorf("%q is in the log twice", text)
		}
		place[text] = i
		var label string
		var n int
		fmt.Sscan(text, &label, &n)
		if count[label]++; n != count[label] {
			t.Fatalf("%q is number %d of its speaker in the log", text, count[label])
		}
	}
	for _, s := range speakers {
		a, h := s.state()
		if s.bad != nil {
			t.Errorf("%s: %v", s.label, s.bad)
		}
		switch n := count[s.label]; {
		case n < a:
			t.Errorf("%s: %d lines acknowledged, %d in the log", s.label, a, n)
		case n > s.sent:
			t.Errorf("%s: %d lines sent, %d in the log", s.label, s.sent, n)
		case s.code == exitDone && (n != s.sent || a != s.sent):
			t.Errorf("%s: all went well with %d sent, %d acknowledged and %d in the log", s.label, s.sent, a, n)
		case s.code > 0:
			t.Errorf("%s: exit %d: %s", s.label, s.code, s.proc.err)
		}
		last := -1
		for _, text := range h {
			at, there := place[text]
			if !there || at <= last {
				t.Fatalf("%s received %q, which is at %d in the log, after the line at %d", s.label, text, at, last)
			}
			if own := s.label + " "; strings.HasPrefix(text, own) {
				t.Errorf("%s received its own line", s.label)
			}
			if s.sent == 0 && last >= 0 && at != last+1 { // The receiver had one connection, so it has no gap.
				t.Fatalf("%s received nothing between %q and %q", s.label, logged[last], text)
			}
			last = at
		}
		sent, acked, heard = sent+s.sent, acked+a, heard+len(h)
	}
	return sent, acked, heard
}

// TestFaultsAndKills runs real clients and a real server with random faults and kills.
func TestFaultsAndKills(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(*faultSeed, 6))
	anna := state(t, "anna")
	wd := t.TempDir()
	log := filepath.Join(wd, "connection.log")
	addr := "127.0.0.1:0"
	eve := state(t, "eve")
	admit(t, anna, eve)
	var all []*speaker
	var server *proc
	restart := func() {
		server = serveAt(t, wd, addr, "-dir", anna)
		if fresh := server.err.match(t, `room open on (127\.0\.0\.1:\d+)`)[1]; fresh != addr {
			addr = fresh
			pin(t, eve, addr, anna)
		}
		listener := startSpeaker(t, fmt.Sprintf("listener%d", len(all)), "-connect", addr, "-dir", eve, "-stay")
		listener.stdin.Close()
		listener.code = -1
		all = append(all, listener)
	}
	restart()
	var mu sync.Mutex // Guards rng and calm.
	calm := false
	stop := make(chan struct{})
	names := []string{"bob", "cleo", "dora"}
	dirs := []string{}
	proxies := []*faultProxy{}
	rows := make([]int, len(names)) // Each client's number of connections since its process started.
	current := make([]*speaker, len(names))
	begin := func(i int) {
		mu.Lock()
		rows[i] = 0
		mu.Unlock()
		s := startSpeaker(t, fmt.Sprintf("%s%d", names[i], len(all)), "-connect", proxies[i].l.Addr().String(), "-dir",
			dirs[i], "-reconnect")
		current[i], all = s, append(all, s)
		go func() { s.speak(stop); s.stdin.Close() }()
	}
	for i, name := range names {
		proxies = append(proxies, newFaultProxy(t, addr, func() fault {
			mu.Lock()
			defer mu.Unlock()
			if calm {
				return fault{}
			}
			f := fault{kind: faultKinds[rng.IntN(len(faultKinds))], toServer: rng.IntN(2) == 0, at: rng.IntN(20000)}
			if rng.IntN(3) == 0 {
				f.at %= 3000 // The fault occurs in the handshake.
			}
			// The first connection and every fourth one after it pass the handshake, so the client never sees so
			// many failures in a row that it takes them for a refusal.
			if rows[i]++; rows[i]%4 == 1 {
				f = fault{faultKinds[rng.IntN(4)], f.toServer, 8000 + f.at}
			}
			return f
		}))
		dirs = append(dirs, state(t, name))
		admit(t, anna, dirs[i])
		pin(t, dirs[i], proxies[i].l.Addr().String(), anna)
		begin(i)
	}
	news := time.NewTicker(10 * time.Millisecond)
	defer news.Stop()
	count := func() int { return proxies[0].count() + proxies[1].count() + proxies[2].count() }
	wait := func(n int) {
		t.Helper()
		for deadline := time.After(patience); count() < n; {
			select {
			case <-news.C:
			case <-deadline:
				t.Fatalf("%d faults, %d wanted", count(), n)
			}
		}
	}
	killed := map[string]int{}
	for k := range *killCount {
		wait(k * *faultCount / *killCount)
		mu.Lock()
		pause, ofServer := rng.IntN(300), rng.IntN(2) == 0
		mu.Unlock()
		<-time.After(time.Duration(pause) * time.Millisecond) // The kill occurs at a random time between two faults.
		if ofServer {
			server.cmd.Process.Kill()
			<-server.ended
			restart()
			killed["server"]++
			continue
		}
		mu.Lock()
		i := rng.IntN(len(names))
		mu.Unlock()
		s := current[i]
		s.cmd.Process.Kill()
		<-s.ended
		s.code = -1
		begin(i)
		killed["client"]++
	}
	wait(*faultCount)
	mu.Lock()
	calm = true
	mu.Unlock()
	close(stop)
	for _, s := range current {
		s.code = s.wait()
	}
	server.cmd.Process.Signal(syscall.SIGTERM)
	if code := server.wait(); code != exitDone {
		t.Errorf("the server: exit %d: %s", code, server.err)
	}
	for _, s := range all {
		<-s.ended
	}
	logged := messages(t, log)
	sent, acked, heard := checkSpoken(t, logged, all)
	if err := verifyLogs([]string{log}, "", io.Discard); err != nil {
		t.Error(err)
	}
	struck := map[string]int{}
	for _, p := range proxies {
		for kind, n := range p.struck {
			struck[kind] += n
		}
	}
	t.Logf("seed %d: faults %v, kills %v, processes %d: %d lines sent, %d acknowledged, %d logged, %d heard",
		*faultSeed, struck, killed, len(all), sent, acked, len(logged), heard)
	if len(logged) == 0 || heard == 0 {
		t.Error("no line was sent or received")
	}
}

// TestFaultAtEachByte resets a short session at each of its bytes, in both directions, from the handshake to the close.
// The client reconnects, and each of its lines is in the log once.
func TestFaultAtEachByte(t *testing.T) {
	t.Parallel()
	s, c, _ := quietServer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx, []net.Listener{l}, s.join) }()
	stride := 211
	if *everyByte {
		stride = 1
	}
	type place struct {
		toServer bool
		at       int
	}
	places := make(chan place)
	go func() {
		defer close(places)
		for at := 0; at < 8000; at += stride {
			places <- place{true, at}
			places <- place{false, at}
		}
	}()
	struck := map[bool]int{}
	var mu sync.Mutex
	var workers sync.WaitGroup
	said := 0
	for range 24 {
		workers.Go(func() {
			for p := range places {
				first := true
				proxy := newFaultProxy(t, l.Addr().String(), func() fault {
					defer func() { first = false }()
					return map[bool]fault{true: {"reset", p.toServer, p.at}}[first]
				})
				label := fmt.Sprintf("%v:%d", p.toServer, p.at)
				var b strings.Builder
				for n := range 5 {
					fmt.Fprintf(&b, "%s %d\n", label, n+1)
				}
				addr := proxy.l.Addr().String()
				proto := *c.protocol.(*securechat2)
				proto.client.addr = addr
				one := newClient(clientConfig{
					endpoint: endpoint{protocol: &proto, trust: c.trust}, addr: addr, reconnect: true, persist: true,
					console: unstartedConsole(strings.NewReader(b.String()), io.Discard),
				})
				err := one.run(context.Background())
				n := proxy.count()
				if err != nil {
					t.Errorf("%s: %v", label, err)
				}
				mu.Lock()
				struck[p.toServer] += n
				if err == nil {
					said++
				}
				mu.Unlock()
				proxy.l.Close()
				proxy.wg.Wait()
			}
		})
	}
	workers.Wait()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	counts := map[string]int{}
	for _, text := range messages(t, s.log.path) {
		var label string
		var n int
		fmt.Sscan(text, &label, &n)
		if counts[label]++; n != counts[label] {
			t.Errorf("%q is line %d of its speaker", text, counts[label])
		}
	}
	full := 0
	for _, n := range slices.Collect(maps.Values(counts)) {
		if n == 5 {
			full++
		}
	}
	if full < said || struck[true] == 0 || struck[false] == 0 {
		t.Errorf("%d clients say that all went well, %d have all their lines in the log", said, full)
	}
	t.Logf("resets: %d on the way to the server, %d on the way back; %d of %d clients delivered all, %d are in the log "+
		"whole", struck[true], struck[false], said, 2*((8000+stride-1)/stride), full)
}

// TestManyStreams: many clients have one key and send through links that break, while their server is killed again and
// again. Each line is recorded once, in order, and each client ends with success.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	const each = 3 // lines that a client sends before each kill
	anna := state(t, "anna")
	args := []string{"-max-clients", fmt.Sprint(2 * *streamCount)}
	server, addr := serve(t, anna, args...)
	log := filepath.Join(server.cmd.Dir, "connection.log")
	rng, rows := rand.New(rand.NewPCG(*faultSeed, 16)), 0
	proxy := newFaultProxy(t, addr, func() fault {
		if rows++; rng.IntN(3) > 0 { // Most connections are whole, so that the run has an end.
			return fault{}
		}
		return fault{faultKinds[rng.IntN(2)], rng.IntN(2) == 0, 3000 + rng.IntN(4000)}
	})
	via := proxy.l.Addr().String()
	pin(t, anna, via, anna)
	k, err := loadKeys(keyOptions{dir: anna})
	if err != nil {
		t.Fatal(err)
	}
	trust := openTrust(anna, k.signer.PublicKey(), "anna", nil)
	rounds := make([]chan struct{}, *killCount+1)
	for i := range rounds {
		rounds[i] = make(chan struct{})
	}
	var clients sync.WaitGroup
	for i := range *streamCount {
		stdin, write := io.Pipe()
		clients.Go(func() {
			n := 0
			for _, begin := range rounds {
				<-begin
				for range each {
					n++
					fmt.Fprintf(write, "c%d %d\n", i, n)
				}
			}
			write.Close()
		})
		clients.Go(func() {
			proto := &securechat2{me: partyIn(t, anna), trust: trust, client: securechat2Client{addr: via}}
			err := newClient(clientConfig{
				endpoint: endpoint{protocol: proto, id: k.signer.PublicKey(), trust: trust}, addr: via, reconnect: true,
				persist: true, console: unstartedConsole(stdin, io.Discard),
			}).run(context.Background())
			if err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	news := time.NewTicker(10 * time.Millisecond)
	defer news.Stop()
	for round, begin := range rounds {
		close(begin)
		if round == *killCount {
			break
		}
		want := *streamCount * each * (2*round + 1) / 2 // half of the round's lines
		for deadline := time.After(10 * patience); bytes.Count(contents(t, log), []byte(`"event":"message"`)) < want; {
			select {
			case <-news.C:
			case <-deadline:
				t.Fatalf("round %d: %d lines did not come", round, want)
			}
		}
		server = serveAgain(t, server, anna, addr, func() {}, args...)
	}
	clients.Wait()
	last := map[string]int{}
	logged, twice := messages(t, log), 0
	for _, text := range logged {
		var label string
		var n int
		fmt.Sscan(text, &label, &n)
		if n <= last[label] {
			twice++
		} else if n != last[label]+1 {
			t.Errorf("%q comes after line %d", text, last[label])
		}
		last[label] = max(last[label], n)
	}
	if want := *streamCount * each * len(rounds); twice > 0 || len(logged) != want {
		t.Errorf("%d lines are in the log, %d of them again; %d were sent", len(logged), twice, want)
	}
	t.Logf("seed %d: %d streams of one key, %d kills, %d connections, faults %v: %d lines logged, %d twice; server %s",
		*faultSeed, *streamCount, *killCount, rows, proxy.struck, len(logged), twice, memoryOf(server.cmd.Process.Pid))
}

// serveAgain kills a server, runs change, and starts a server at the same address with the same folders.
func serveAgain(t *testing.T, server *proc, dir, addr string, change func(), args ...string) *proc {
	t.Helper()
	server.cmd.Process.Kill()
	<-server.ended
	change()
	return serveAt(t, server.cmd.Dir, addr, append([]string{"-dir", dir}, args...)...)
}

// TestLostAcknowledged: a power cut removes acknowledged lines from the log. The client that comes back says how many,
// sends the other lines, and ends with status 4.
func TestLostAcknowledged(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	client := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-reconnect", "-json")
	client.send("{\"text\":\"1\"}\n{\"text\":\"2\"}\n{\"text\":\"3\"}\n")
	client.out.match(t, `"id":3}`)
	log := filepath.Join(server.cmd.Dir, "connection.log")
	serveAgain(t, server, anna, addr, func() {
		b := contents(t, log)
		cut := bytes.Index(b, []byte(`"message":"2"`))
		if err := os.Truncate(log, int64(bytes.LastIndexByte(b[:cut], '\n')+1)); err != nil {
			t.Fatal(err)
		}
	})
	client.err.match(t, `the server no longer has 2 lines that it acknowledged: lines 2 to 3`)
	client.send("{\"text\":\"4\"}\n")
	client.out.match(t, `"id":4}`)
	client.stdin.Close()
	if code := client.wait(); code != exitLost {
		t.Errorf("exit %d", code)
	}
	if !strings.HasSuffix(client.err.String(), "securechat: the server no longer has 2 lines that it acknowledged\n") {
		t.Errorf("stderr %q", client.err)
	}
	if got := messages(t, log); !slices.Equal(got, []string{"1", "4"}) {
		t.Errorf("the log has %q", got)
	}
}

// TestForgottenStream: a server had to forget the stream of a client whose lines it may have, or keeps no log. The
// client says so, sends the lines again and ends with status 4. Without lines of that kind it ends with status 0.
func TestForgottenStream(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		inFlight bool
		args     []string
	}{{"a line in flight", true, nil}, {"none", false, nil}, {"no log", true, []string{"-log", "off"}}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			anna := state(t, "anna")
			server, addr := serve(t, anna, c.args...)
			proxy := newMuteProxy(t, addr)
			via := proxy.l.Addr().String()
			pin(t, anna, via, anna)
			client := start(t, t.TempDir(), "-connect", via, "-dir", anna, "-reconnect", "-json")
			client.send("{\"text\":\"1\"}\n{\"text\":\"2\"}\n")
			client.out.match(t, `"id":2}`)
			if c.inFlight {
				proxy.mute.Store(true)
				client.send("{\"text\":\"3\"}\n{\"text\":\"4\"}\n")
				server.out.match(t, `: 4\n`)
			}
			serveAgain(t, server, anna, addr, func() {
				proxy.mute.Store(false)
				if c.args == nil {
					crowd(t, filepath.Join(server.cmd.Dir, "connection.log"), anna)
				}
			}, c.args...)
			client.err.match(t, `connected to`)
			client.stdin.Close()
			code, stderr := client.wait(), client.err.String()
			const doubt = "securechat: lines 3 to 4 may be recorded already, and with the same numbers again\n"
			if c.inFlight && (code != exitLost || !strings.HasSuffix(stderr, doubt)) {
				t.Errorf("exit %d: %s", code, stderr)
			}
			if !c.inFlight && (code != exitDone || strings.Contains(stderr, "already")) {
				t.Errorf("exit %d: %s", code, stderr)
			}
			if c.args == nil && c.inFlight {
				got := messages(t, filepath.Join(server.cmd.Dir, "connection.log"))
				if !slices.Equal(got, []string{"1", "2", "3", "4", "3", "4"}) {
					t.Errorf("the log has %q", got)
				}
			}
		})
	}
}

// muteProxy forwards connections to a server. While mute is set, nothing that the server sends reaches the client.
type muteProxy struct {
	l    net.Listener
	mute atomic.Bool
}

func newMuteProxy(t *testing.T, target string) *muteProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &muteProxy{l: l}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close() // The server is not running.
				continue
			}
			wg.Go(func() { defer server.Close(); io.Copy(server, client) })
			wg.Go(func() {
				defer client.Close()
				for buf := make([]byte, 4096); ; {
					n, err := server.Read(buf)
					if !p.mute.Load() {
						client.Write(buf[:n])
					}
					if err != nil {
						return
					}
				}
			})
		}
	})
	return p
}

// crowd makes the log's server forget the only stream of the key in dir: maxKeyStreams others have sent lines since. It
// takes no lock of the log, which another process that is starting could hold.
func crowd(t *testing.T, path, dir string) {
	t.Helper()
	k, err := loadKeys(keyOptions{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	log := contents(t, path)
	for line := range bytes.Lines(log) {
		m.restore(line, false)
	}
	for n := range maxKeyStreams {
		st := m.streams.find(k.fingerprint(), streamID{byte(n >> 8), byte(n)})
		st.last, st.durable = 1, 1
	}
	marks := m.streams.appendMarks(nil)
	chain(marks, sha256.Sum256(log[bytes.LastIndexByte(log[:len(log)-1], '\n')+1:]))
	appendFile(t, path, string(marks))
}

// TestSignalBeforeEnd: a sender that receives a signal before the end of its input ends with status 4 and the number of
// lines that it sent. One that has read all of it, or has sent nothing, ends with status 0.
func TestSignalBeforeEnd(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	log := filepath.Join(server.cmd.Dir, "connection.log")
	join := func(args ...string) *proc {
		return start(t, t.TempDir(), append([]string{"-connect", addr, "-dir", anna, "-json"}, args...)...)
	}
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		sender := join()
		go func() { // its input does not end
			for range 200 {
				if _, err := io.WriteString(sender.stdin, strings.Repeat("{\"text\":\"x\"}\n", 100)); err != nil {
					return
				}
			}
		}()
		sender.out.match(t, `"type":"ack"`)
		before := len(messages(t, log))
		sender.cmd.Process.Signal(sig)
		code := sender.wait()
		m := sender.err.match(t,
			`securechat: a signal came before the end of the input: (\d+) lines? sent(, at least [1-9]\d* not sent)?\n$`)
		if code != exitLost || m[1] == "0" || before == 0 {
			t.Errorf("%v: exit %d: %s", sig, code, sender.err)
		}
	}
	idle := join()
	idle.send("{\"text\":\"one\"}\n")
	idle.out.match(t, `"id":1}`)
	idle.cmd.Process.Signal(syscall.SIGTERM)
	code := idle.wait()
	wantRun(t, "more input could follow", idle.err.String(), code, exitLost, "end of the input: 1 line sent\n$")
	silent := join()
	silent.out.match(t, `"welcome"`)
	silent.cmd.Process.Signal(syscall.SIGTERM)
	code = silent.wait()
	wantRun(t, "nothing sent", silent.err.String(), code, exitDone, "^$")
	whole := join("-stay")
	whole.send("{\"text\":\"one\"}\n")
	whole.stdin.Close()
	whole.out.match(t, `"id":1}`)
	whole.cmd.Process.Signal(syscall.SIGTERM)
	code = whole.wait()
	wantRun(t, "all sent", whole.err.String(), code, exitDone, "^$")
}

// TestShortPauses: a link breaks again and again after lines were recorded, and before their acknowledgements. The
// client learns from each welcome that they were, so its pauses do not grow: seven growing ones take six seconds at
// least.
func TestShortPauses(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	const lines = 10
	recorded := uint64(0)
	addr := fakeServer(t, anna, func(sess *session) error {
		w := welcome{recorded: recorded, name: "anna", server: "anna"}
		if err := writeMessage(sess, kindJoin, w.encode()); err != nil {
			return err
		}
		if recorded == lines {
			return writeMessage(sess, kindClose, []byte(closeText))
		}
		for {
			kind, payload, err := sess.read()
			if err != nil {
				return err
			}
			if kind == kindText {
				l, err := parseLines(payload, nil)
				recorded = l.first
				return err
			}
		}
	})
	pin(t, anna, addr, anna)
	begin := time.Now()
	_, stderr, code := runToEnd(t, t.TempDir(), strings.Repeat("x\n", lines), "-connect", addr, "-dir", anna, "-reconnect")
	if d := time.Since(begin); code != exitDone || d > 20*time.Second {
		t.Errorf("exit %d after %v: %s", code, d, stderr)
	}
}

// TestMarksAtEachStart: a server is killed twice, its log is rotated after each kill, and it starts again. A line sent
// again by a client from before the first kill is recorded once.
func TestMarksAtEachStart(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	log := filepath.Join(server.cmd.Dir, "connection.log")
	me := partyIn(t, anna)
	req := joinRequest{stream: streamID{7}}
	sess, _ := joinSession(t, addr, me, req)
	if err := writeMessage(sess, kindText, linesOf(1, itemSay, "", "once")); err != nil {
		t.Fatal(err)
	}
	server.out.match(t, `once`)
	sess.conn.Close()
	for range 2 {
		server = serveAgain(t, server, anna, addr, func() {
			if err := os.Rename(log, log+".1"); err != nil {
				t.Fatal(err)
			}
		})
	}
	sess, w := joinSession(t, addr, me, req)
	defer sess.conn.Close()
	if w.recorded != 1 {
		t.Errorf("the server knows %d lines of the stream", w.recorded)
	}
	if r := records(t, log)[0]; r["event"] != eventRoom {
		t.Errorf("the log begins with %v", r)
	}
}
