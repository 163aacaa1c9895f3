package main

// The gate: connections that are dropped before the handshake, for failures of their address or because of a crowd.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSources(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
		"fe80::1%eth0": "fe80::/64", "127.0.0.1": "invalid Prefix", "127.9.9.9": "invalid Prefix", "::1": "invalid Prefix",
		"::ffff:127.0.0.1": "invalid Prefix",
	} {
		if got := sourceOf(netip.MustParseAddr(ip)).String(); got != want {
			t.Errorf("%s: %s, want %s", ip, got, want)
		}
	}
	if sourceOf(netip.Addr{}).IsValid() {
		t.Error("no address is a source")
	}
}

// TestPenalties: failures add up, block an address after more than penaltyStart of them, are reported once, expire, and
// can be cleared.
func TestPenalties(t *testing.T) {
	var g gate
	now := testNow
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	enters := func(ip netip.Addr) bool {
		t.Helper()
		r := g.enter(ip, now)
		if r == nil {
			g.leave()
		}
		return r == nil
	}
	for range 3 {
		g.penalise(bad, penaltyRefused, now)
		if !enters(bad) {
			t.Fatal("kept out for what is tolerated")
		}
	}
	g.penalise(mapped, penaltyRefused, now)
	r := g.enter(bad, now)
	if r == nil || !r.first || r.Error() != "too many failed tries from 192.0.2.1: it is kept out for 20s" {
		t.Fatalf("got %+v", r)
	}
	if r := g.enter(mapped, now); r == nil || r.first {
		t.Fatalf("a second time: %+v", r)
	}
	if !enters(good) || !enters(netip.MustParseAddr("127.0.0.1")) {
		t.Error("others are kept out too")
	}
	now = now.Add(19 * time.Second)
	if enters(bad) {
		t.Error("a penalty that has begun ends before its time")
	}
	now = now.Add(time.Second)
	if !enters(bad) {
		t.Error("a penalty does not end")
	}
	for range 1000 {
		g.penalise(bad, penaltyInvite, now)
		g.penalise(netip.MustParseAddr("::1"), penaltyInvite, now)
	}
	if enters(bad) || !enters(netip.MustParseAddr("::1")) {
		t.Error("loopback is penalised, or the other is not")
	}
	if until := g.sources[sourceOf(bad)].until; until != now.Add(penaltyMost) {
		t.Errorf("until %v, %v from now", until, until.Sub(now))
	}
	g.forgive(mapped)
	if !enters(bad) || len(g.sources) != 0 {
		t.Error("a penalty outlives success")
	}
}

// TestPenaltiesAreBounded: the number of penalties is bounded. The one that would expire first is removed.
func TestPenaltiesAreBounded(t *testing.T) {
	var g gate
	source := func(i int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, byte(i >> 8), byte(i)})
	}
	for i := range maxSources {
		g.penalise(source(i), penaltySilent+time.Duration(maxSources-i)*time.Millisecond, testNow)
	}
	for range 2 {
		g.penalise(netip.MustParseAddr("192.0.2.1"), penaltyInvite, testNow)
	}
	if len(g.sources) != maxSources || g.sources[sourceOf(source(maxSources-1))] != nil ||
		g.sources[sourceOf(source(0))] == nil {
		t.Errorf("%d sources, or the wrong one is gone", len(g.sources))
	}
	if g.enter(netip.MustParseAddr("192.0.2.1"), testNow) == nil {
		t.Error("a connection beyond a full table is admitted")
	}
	g.penalise(netip.MustParseAddr("192.0.2.2"), penaltyLeft, testNow.Add(time.Hour))
	if len(g.sources) != 1 {
		t.Errorf("%d sources are kept after their time", len(g.sources))
	}
}

// TestCrowd: the gate drops a share of new connections that grows with their number, up to all of them. It reports this
// seldom, and never drops a loopback connection at random.
func TestCrowd(t *testing.T) {
	for n, want := range map[int]int{0: 0, 9: 0, 10: 30, 55: 65, 99: 99, 100: 100, 1000: 100} {
		if got := dropPercent(n); got != want {
			t.Errorf("%d in progress: %d %%, want %d", n, got, want)
		}
	}
	var g gate
	here := netip.MustParseAddr("127.0.0.1")
	for i := range startupsFull {
		if r := g.enter(here, testNow); r != nil {
			t.Fatalf("number %d: %v", i+1, r)
		}
	}
	words := 0
	for i := range 120 {
		if r := g.enter(netip.MustParseAddr("192.0.2.1"), testNow.Add(time.Duration(i)*time.Second)); r == nil {
			t.Fatal("one too many is let in")
		} else if r.first {
			words++
		}
	}
	if g.enter(here, testNow) == nil {
		t.Error("one too many from loopback is let in")
	}
	if words != 2 {
		t.Errorf("%d words of it in two minutes", words)
	}
	for range startupsFull {
		g.leave()
	}
	if g.enter(netip.MustParseAddr("192.0.2.1"), testNow) != nil || g.inProgress != 1 {
		t.Error("room again, and yet shut")
	}
}

func TestPenaltyFor(t *testing.T) {
	wrong := refuse("x")
	wrong.kind = invalidInvite
	for _, c := range []struct {
		err  error
		want time.Duration
	}{
		{refuse("x"), penaltyRefused}, {wrong, penaltyInvite}, {fmt.Errorf("stage 1: %w", errUnverified), penaltyRefused},
		{os.ErrDeadlineExceeded, penaltySilent}, {io.ErrUnexpectedEOF, penaltyLeft}, {errTruncated, penaltyLeft},
		{errors.New("cannot write the log"), 0},
	} {
		if got := penaltyFor(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

// farListener's connections are pipes with any remote address. Nothing leaves the process.
type farListener struct {
	conns chan net.Conn
	shut  chan struct{}
}

type farConn struct {
	net.Conn
	from net.Addr
}

func (c farConn) RemoteAddr() net.Addr { return c.from }

func (l *farListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.shut:
		return nil, net.ErrClosed
	}
}

func (l *farListener) Close() error { close(l.shut); return nil }

func (l *farListener) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects from the address ip.
func (l *farListener) dial(ip string) net.Conn {
	here, there := net.Pipe()
	l.conns <- farConn{there, &net.TCPAddr{IP: net.ParseIP(ip), Port: 4711}}
	return here
}

// TestServerPenalises: the server drops connections of an address with too many failures before any cryptography, and
// of no other address. A success clears the failures.
func TestServerPenalises(t *testing.T) {
	dir := state(t, "anna")
	k, err := loadKeys(keyOptions{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	me := partyOf(t, k.signer, k.encryption)
	path := filepath.Join(t.TempDir(), "log")
	put(t, filepath.Join(dir, "authorized_keys"), []byte(publicLine(k.signer.PublicKey(), "anna")))
	put(t, filepath.Join(dir, "known_hosts"), []byte("* "+publicLine(k.signer.PublicKey(), "")))
	synctest.Test(t, func(t *testing.T) {
		log, err := openLog(logOptions{path: path})
		if err != nil {
			t.Fatal(err)
		}
		told := newWatched()
		c := newConsole(strings.NewReader(""), io.Discard, told, nil, consoleOptions{})
		tr := openTrust(dir, k.signer.PublicKey(), "anna", nil)
		s, err := newServer(serverConfig{
			endpoint: endpoint{&securechat2{me: me, trust: tr}, me.signer.PublicKey(), "anna", tr}, log: log,
			clients: maxClients, console: c,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.freeMemory.Stop()
		l := &farListener{make(chan net.Conn), make(chan struct{})}
		ctx, stop := context.WithCancel(context.Background())
		served := make(chan error)
		go func() { served <- s.serve(ctx, []net.Listener{l}, s.join) }()

		// try fails a handshake and reports whether the server sent a hello.
		try := func(ip string) bool {
			conn := l.dial(ip)
			defer conn.Close()
			if _, err := readFrame(conn, maxHandshakeFrame); err != nil {
				return false
			}
			if err := writeFrame(conn, make([]byte, 100)); err != nil {
				t.Error(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after a failure: %v", err)
			}
			return true
		}
		succeed := func(ip string) error {
			conn := l.dial(ip)
			secrets, err := clientHandshake(conn, me, trustAll, nil)
			if err != nil {
				return err
			}
			sess, err := newSession(conn, secrets, false, pipeTraffic)
			if err != nil {
				return err
			}
			if err := writeMessage(sess, kindJoin, joinRequest{}.encode()); err != nil {
				return err
			}
			_, _, err = sess.read()
			conn.Close()
			synctest.Wait()
			return err
		}
		for i := range 4 {
			if !try("192.0.2.1") {
				t.Errorf("try %d: kept out already", i+1)
			}
		}
		for range 10 {
			if try("192.0.2.1") {
				t.Error("not kept out after four failures")
			}
			if !try("127.0.0.1") {
				t.Error("loopback is kept out")
			}
		}
		if err := succeed("192.0.2.2"); err != nil {
			t.Errorf("a neighbour: %v", err)
		}
		<-time.After(20 * time.Second)
		for range 3 {
			if !try("192.0.2.1") {
				t.Error("kept out for too long")
			}
		}
		if err := succeed("192.0.2.1"); err != nil {
			t.Error(err)
		}
		for range 2 {
			if !try("192.0.2.1") {
				t.Error("success does not clear what failed before")
			}
		}
		silent := []net.Conn{l.dial("192.0.2.3"), l.dial("192.0.2.3")}
		for _, conn := range silent {
			if _, err := readFrame(conn, maxHandshakeFrame); err != nil {
				t.Error(err)
			}
		}
		<-time.After(handshakeTimeout + time.Second)
		if try("192.0.2.3") {
			t.Error("silence costs nothing")
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		c.close()
		if err := log.close(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(told.String(),
			"refused 192.0.2.1:4711: too many failed tries from 192.0.2.1: it is kept out for"); n != 1 {
			t.Errorf("reported %d times: %s", n, told)
		}
	})
	n := 0
	for _, r := range records(t, path) {
		if r["event"] == eventRefused && strings.HasPrefix(r["reason"].(string), "too many failed tries from 192.0.2.1:") &&
			r["client"] == "192.0.2.1:4711" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d records of it", n)
	}
}
