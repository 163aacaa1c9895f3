package main

// What a client with an admitted key can cost the server: its memory, its places and its log. Linux reports the peak of
// a process's memory.

import (
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// memoryLimit is the memory of a server under attack by 1024 connections, as docs/SECURITY.md has it.
const memoryLimit = 128 << 10 // KiB

// peakMemory returns the largest resident memory that a process has had, in KiB.
func peakMemory(t testing.TB, pid int) (kib int) {
	t.Helper()
	for line := range strings.Lines(readProc(t, pid, "status")) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatal("the system does not report VmHWM")
	return 0
}

func readProc(t testing.TB, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// attacker is one connection of an attack. It reads nothing after the welcome.
type attacker struct {
	*session
	said uint64 // lines of its stream that were sent
}

// joinAll opens n connections of each of these parties, eight at a time. It leaves out those that the server rejects.
func joinAll(t *testing.T, addr string, parties []*party, n int) (all []*attacker) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 8 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n*len(parties) {
					return
				}
				sess, err := attackerSession(addr, parties[i%len(parties)])
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				mu.Lock()
				all = append(all, &attacker{session: sess})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() { closeAttackers(all) })
	return all
}

func attackerSession(addr string, me *party) (*session, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	req := joinRequest{flags: joinListens}
	rand.Read(req.stream[:])
	conn.SetDeadline(time.Now().Add(patience))
	secrets, err := clientHandshake(conn, me, trustAll, nil)
	if err != nil {
		return nil, err
	}
	sess, err := newSession(conn, secrets, false, pipeTraffic)
	if err != nil {
		return nil, err
	}
	if err := writeMessage(sess, kindJoin, req.encode()); err != nil {
		return nil, err
	}
	_, err = readWelcome(sess)
	return sess, err
}

func closeAttackers(all []*attacker) {
	for _, a := range all {
		a.conn.Close()
	}
}

// flood sends what next makes, from all connections at once, until a connection is closed, or blocked for a second, or
// has sent limit bytes.
func flood(all []*attacker, limit int, next func(i int, a *attacker, buf []byte) []byte) {
	var wg sync.WaitGroup
	for i, a := range all {
		wg.Go(func() {
			var buf []byte
			for sent := 0; sent < limit; sent += len(buf) {
				buf = next(i, a, buf[:0])
				a.conn.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := a.conn.Write(buf); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// line seals one message of n lines of size bytes each, to the receiver to if that is not empty.
func (a *attacker) line(buf []byte, n, size int, to string) []byte {
	what := byte(itemSay)
	if to != "" {
		what = itemDirect
	}
	payload := appendLinesHeader(nil, a.said+1, what, to)
	for range n {
		payload = appendLine(payload, make([]byte, size))
	}
	a.said += uint64(n)
	buf, _ = a.append(buf, kindText, payload) // fails only without entropy for a rekey
	return buf
}

var oneAttack = flag.Int("attack", -1, "the number of the one attack of TestMemoryUnderAttack")

// attacks are what 1024 connections send.
var attacks = []struct {
	name string
	send func(all []*attacker)
}{
	{"unfinished messages, and direct lines to keys with many connections", func(all []*attacker) {
		flood(all, 1<<11, func(i int, a *attacker, buf []byte) []byte {
			if i%2 == 1 {
				return a.line(buf, 1, 0, fmt.Sprintf("eve%d", i/2%4))
			}
			for range maxMessage / maxBatch {
				buf = a.out.seal(buf, kindPart, make([]byte, maxBatch))
			}
			return append(binary.BigEndian.AppendUint16(buf, maxPacket-frameHeader), make([]byte, maxPacket/2)...)
		})
	}},
	{"lines of 64 KiB", func(all []*attacker) {
		flood(all, 1<<18, func(_ int, a *attacker, buf []byte) []byte { return a.line(buf, 1, maxLine, "") })
	}},
	{"empty lines", func(all []*attacker) {
		flood(all, 1<<14, func(_ int, a *attacker, buf []byte) []byte {
			return a.line(a.line(buf, maxBatch-linesHeader, 0, ""), maxBatch-linesHeader, 0, "")
		})
	}},
}

// TestMemoryUnderAttack: whatever 1024 connections of four keys send, a third of them each of the attacks, and although
// they read nothing, the server stays below memoryLimit and serves a client of another key afterwards. With -attack it is
// one of them alone, by its number.
func TestMemoryUnderAttack(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	var parties []*party
	for i := range 4 {
		eve := state(t, fmt.Sprintf("eve%d", i))
		admit(t, anna, eve)
		parties = append(parties, partyIn(t, eve))
	}
	server, addr := serve(t, anna)
	all := joinAll(t, addr, parties, maxClients/len(parties))
	joined := peakMemory(t, server.cmd.Process.Pid)
	var wg sync.WaitGroup
	for i, attack := range attacks {
		from, to := i*len(all)/len(attacks), (i+1)*len(all)/len(attacks)
		if *oneAttack >= 0 {
			from, to = 0, len(all)
		}
		if *oneAttack < 0 || *oneAttack == i {
			wg.Go(func() { attack.send(all[from:to]) })
		}
	}
	wg.Wait()
	bob := guest(t, anna, addr, "bob")
	closeAttackers(all[:len(all)/8])
	stderr, code := sendHello(t, bob, addr, "-reconnect")
	wantRun(t, "another client", stderr, code, exitDone, "")
	peak := peakMemory(t, server.cmd.Process.Pid)
	t.Logf("%d connections: peak memory %d KiB, after the attack %d KiB", len(all), joined, peak)
	if peak > memoryLimit {
		t.Errorf("the server used %d KiB, more than %d", peak, memoryLimit)
	}
}

// TestPlacesOfKey: one key cannot take all places. A further client of it hears why, and may join when another one has
// left. When the room is full, the operator's own key still finds a place.
func TestPlacesOfKey(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-max-clients", fmt.Sprint(leastPlaces+1))
	eve, bob, cleo := guest(t, anna, addr, "eve0"), guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	all := joinAll(t, addr, []*party{partyIn(t, eve)}, leastPlaces)
	stderr, code := sendHello(t, eve, addr)
	wantRun(t, "one client more", stderr, code, exitTrouble, "^securechat: the server closed the session: "+
		"the room is full for this key\n$")
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "another key", stderr, code, exitDone, "")
	joinAll(t, addr, []*party{partyIn(t, bob)}, 1)
	stderr, code = sendHello(t, cleo, addr)
	wantRun(t, "a third key", stderr, code, exitTrouble, "^securechat: the server closed the session: the room is full\n$")
	stderr, code = sendHello(t, anna, addr)
	wantRun(t, "the operator's key", stderr, code, exitDone, "")
	patient := start(t, t.TempDir(), "-connect", addr, "-dir", eve, "-reconnect")
	patient.stdin.Close()
	patient.err.match(t, "connecting again")
	closeAttackers(all[:1])
	if code := patient.wait(); code != exitDone {
		t.Errorf("after a client of the key has left: exit %d", code)
	}
	server.err.match(t, fmt.Sprintf(`the room is full for this key: %d clients \(a quarter of -max-clients, at least %d\)`,
		leastPlaces, leastPlaces))
}

// TestKeyLimits: how many places a key has, by -max-clients.
func TestKeyLimits(t *testing.T) {
	for places, want := range map[int]int{1: 1, 15: 15, 16: 16, 17: 16, 64: 16, 68: 17, 1024: 256} {
		k := newKeyLimits(places, 0, "operator")
		now := time.Now()
		taken, operators := 0, 0
		for k.enter("key", now) == nil {
			taken++
		}
		for others := 0; k.enter(fmt.Sprint(others), now) == nil; others++ {
			taken++
		}
		for k.enter("operator", now) == nil {
			operators++
		}
		if k.each != want || taken != places || operators != max(places, leastPlaces) {
			t.Errorf("%d places: %d for a key; %d were taken, and %d by the operator", places, k.each, taken, operators)
		}
		k.leave("key")
		if full := k.enter("another", now); full != nil {
			t.Errorf("%d places: %v after one has left", places, full)
		}
	}
}

// TestRate: with -rate the lines of one key are recorded at that rate after a burst of ten seconds' worth, however many
// connections it has. All of them are recorded, and another key is not delayed.
func TestRate(t *testing.T) {
	t.Parallel()
	const rate, burst, surplus = 100, 1000, 200
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-rate", fmt.Sprint(rate))
	bob, cleo := guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	var senders []*proc
	for range 4 {
		p := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
		go func() { p.send(strings.Repeat("line\n", (burst+surplus)/4)); p.stdin.Close() }()
		senders = append(senders, p)
	}
	stderr, code := sendHello(t, cleo, addr)
	wantRun(t, "another key", stderr, code, exitDone, "")
	for _, p := range senders {
		if code := p.wait(); code != exitDone {
			t.Errorf("exit %d: %s", code, p.err)
		}
	}
	var first, last time.Time
	lines, others := 0, 0
	for _, r := range records(t, server.cmd.Dir+"/connection.log") {
		at, err := time.Parse(time.RFC3339, recordField(r, "time"))
		switch {
		case err != nil:
			t.Fatal(err)
		case r["event"] != eventMessage:
			continue
		case r["name"] == "cleo":
			others++
			continue
		case lines == 0:
			first = at
		}
		lines++
		if allowed := burst + rate*at.Sub(first).Seconds() + 1; float64(lines) > allowed {
			t.Fatalf("%d lines after %v: %.0f are allowed", lines, at.Sub(first), allowed)
		}
		last = at
	}
	if lines != burst+surplus || others != 1 || last.Sub(first) > patience {
		t.Errorf("%d lines in %v, and %d of another key", lines, last.Sub(first), others)
	}
}

// TestRateAndEnd: a client that waits because of -rate does not delay the end of the server.
func TestRateAndEnd(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-rate", "1")
	bob := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
	bob.send(strings.Repeat("{\"text\":\"line\"}\n", 100))
	bob.out.match(t, `"ack","id":10}`)
	server.cmd.Process.Signal(os.Interrupt)
	began := time.Now()
	if code := server.wait(); code != exitDone || time.Since(began) > 5*time.Second {
		t.Errorf("exit %d after %v", code, time.Since(began))
	}
	bob.stdin.Close()
	if code := bob.wait(); code != exitLost {
		t.Errorf("the client: exit %d: %s", code, bob.err)
	}
}

// TestCutLines: lines are cut by their cost, one for each KiB, and one is always cut.
func TestCutLines(t *testing.T) {
	sizes := []int{0, 1, 1024, 1025, 2048, 2049, maxLine, 5}
	costs := []int{1, 1, 1, 2, 2, 3, 64, 1}
	for most := 1; most < 80; most++ {
		p := packedLines{lines: lines{first: 7}, count: len(sizes)}
		for _, size := range sizes {
			p.packed = appendLine(p.packed, make([]byte, size))
		}
		for at := 0; at < len(sizes); {
			first, front, cost := p.first, packedLines{}, 0
			front, cost = p.cut(most)
			want, n := costs[at], 1
			for at+n < len(costs) && want+costs[at+n] <= most {
				want += costs[at+n]
				n++
			}
			texts := appendTexts(nil, front.packed)
			if cost != want || front.count != n || len(texts) != n || front.first != first ||
				p.first != first+uint64(n) || len(texts[n-1]) != sizes[at+n-1] || p.count != len(sizes)-at-n {
				t.Fatalf("at most %d, line %d: %d lines with cost %d, not %d with %d", most, at, front.count, cost, n, want)
			}
			at += n
		}
	}
}

// TestDroppedMessages: when the budget is used up, the key that takes most of it loses its oldest message, and another
// key's message stays, although it is older.
func TestDroppedMessages(t *testing.T) {
	var b partsBudget
	var all []*partialMessage
	released := 0
	begin := func(owner string) *partialMessage {
		p := &partialMessage{owner: owner, abort: func() error { return nil }, gone: make(chan struct{})}
		if err := b.add(p, make([]byte, maxMessage)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	bob := begin("bob")
	for range 3 * budgetBytes / maxMessage {
		all = append(all, begin("eve"))
		dropped := 0
		for i, p := range all {
			if p.cause(nil) != nil {
				dropped++
				if dropped != i+1 {
					t.Fatalf("message %d was dropped before an older one", i)
				}
			}
		}
		for ; released < dropped; released++ {
			b.release(all[released])
		}
		if b.dropped != 0 || b.bytes > budgetBytes || len(b.held) != 1+len(all)-dropped || bob.cause(nil) != nil {
			t.Fatalf("%d bytes of %d messages; %d of %d were dropped", b.bytes, len(b.held), dropped, len(all))
		}
	}
	if dropped := all[0]; b.add(dropped, []byte("x")) != errNoBudget || dropped.cause(net.ErrClosed) != errNoBudget {
		t.Error("a dropped message goes on")
	}
	for _, p := range append(all[released:], bob) {
		b.release(p)
	}
	if b.bytes != 0 || len(b.held) != 0 {
		t.Errorf("%d bytes are left", b.bytes)
	}
}
