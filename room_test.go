package main

// The room: each line once, in one order for all, and nobody waits for anybody.

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// stubReceiver takes deliveries and counts aborts.
type stubReceiver struct{ aborted int }

func (s *stubReceiver) deliver(*delivery) error { return nil }
func (s *stubReceiver) abort()                  { s.aborted++ }

// quietRoom returns a room whose log is a file, and the file's path.
func quietRoom(t *testing.T) (*room, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "connection.log")
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.close() })
	r, err := newRoom(log, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	return r, path
}

// stubMember makes a member that is not in a room.
func stubMember(name, key string, stream byte) *member {
	p := &peer{name: name, addr: "192.0.2.1:1", fingerprint: key, suffix: key[len(key)-1:] + "XXX", stream: streamID{stream}}
	return newMember(p, &stubReceiver{})
}

// enter makes a member with this name, key and stream join.
func enter(t *testing.T, r *room, name, key string, stream byte) (*member, welcome) {
	t.Helper()
	m := stubMember(name, key, stream)
	w, err := r.join(m, joinRequest{}, true)
	if err != nil {
		t.Fatal(err)
	}
	return m, w
}

// take takes what there is for m.
func take(r *room, m *member) (items [][]byte, missed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.takeLocked(m, nil)
}

// endOf returns why m has to leave, once everything is delivered to it.
func endOf(r *room, m *member) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !m.doneLocked(r) {
		return ""
	}
	return m.ending.reason
}

func says(first uint64, texts ...string) lines {
	l := lines{first: first, what: itemSay}
	for _, text := range texts {
		l.texts = append(l.texts, []byte(text))
	}
	return l
}

// heard takes all that is there for m, in words.
func heard(t *testing.T, r *room, m *member) (all []string) {
	t.Helper()
	for {
		items, missed := take(r, m)
		if missed > 0 {
			t.Errorf("%s missed %d items and was not told", m.name, missed)
		}
		if len(items) == 0 {
			return all
		}
		for _, enc := range items {
			it, rest, err := cutItem(enc)
			if err != nil || len(rest) != 0 {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%s %s %s", itemNames[it.what], it.name, it.text))
		}
	}
}

func wantHeard(t *testing.T, r *room, m *member, want ...string) {
	t.Helper()
	if got := heard(t, r, m); !slices.Equal(got, want) {
		t.Errorf("%s heard %q, not %q", m.name, got, want)
	}
}

func ackedOf(r *room, m *member) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return m.stream.durable
}

// TestRoomOnce: lines that come again, in part or in full, on this connection or the next, are recorded and relayed once.
func TestRoomOnce(t *testing.T) {
	r, path := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	bob, w := enter(t, r, "bob", "key b", 2)
	if w.recorded != 0 || w.name != "bob" || w.epoch != r.epoch {
		t.Errorf("welcome %v", w)
	}
	for i, l := range []lines{says(1, "one", "two"), says(1, "one", "two"), says(2, "two", "three"), says(1, "one")} {
		if err := r.say(bob, l); err != nil {
			t.Fatal(err)
		}
		if got := ackedOf(r, bob); got != []uint64{2, 2, 3, 3}[i] {
			t.Errorf("%d lines acknowledged after message %d", got, i)
		}
	}
	for _, first := range []uint64{5, 6, 1<<64 - 1} {
		if err := r.say(bob, says(first, "gap")); !errors.Is(err, errMalformed) {
			t.Errorf("line %d after line 3: %v", first, err)
		}
	}
	again, w := enter(t, r, "bob", "key b", 2)
	if w.recorded != 3 || again.name != "bob" {
		t.Errorf("on its return: %v", w)
	}
	if err := r.say(again, says(3, "three", "four")); err != nil {
		t.Fatal(err)
	}
	thief, w := enter(t, r, "mallory", "key m", 2)
	if w.recorded != 0 {
		t.Error("a stream's count is told to another key")
	}
	if err := r.say(thief, says(1, "not bob")); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, path); !slices.Equal(got, []string{"one", "two", "three", "four", "not bob"}) {
		t.Errorf("the log has %q", got)
	}
	wantHeard(t, r, anna, "join bob ", "say bob one", "say bob two", "say bob three", "join bob ", "say bob four", "join mallory ", "say mallory not bob")
	wantHeard(t, r, again, "join mallory ", "say mallory not bob")
	if ending := endOf(r, bob); ending != "" && !strings.Contains(ending, "replaced") {
		t.Errorf("the old connection ends with %q", ending)
	}
	heard(t, r, bob)
	if ending := endOf(r, bob); !strings.Contains(ending, "replaced by a newer connection") {
		t.Errorf("the old connection ends with %q", ending)
	}
}

// TestRoomOrder has many speak at once: all receivers and the log have one order.
func TestRoomOrder(t *testing.T) {
	r, path := quietRoom(t)
	listeners := []*member{}
	for i := range byte(3) {
		m, _ := enter(t, r, fmt.Sprintf("listener%d", i), fmt.Sprint(i), 100+i)
		listeners = append(listeners, m)
	}
	for _, m := range listeners {
		heard(t, r, m)
	}
	speakers := []*member{}
	for i := range byte(5) {
		m, _ := enter(t, r, fmt.Sprintf("speaker%d", i), fmt.Sprintf("s%d", i), i+1)
		speakers = append(speakers, m)
	}
	done := make(chan error, len(speakers))
	for i, m := range speakers {
		go func() {
			var err error
			for n := range uint64(200) {
				err = errors.Join(err, r.say(m, says(n+1, fmt.Sprintf("%d-%d", i, n))))
			}
			done <- err
		}()
	}
	for range speakers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	first := heard(t, r, listeners[0])
	for _, m := range listeners[1:] {
		wantHeard(t, r, m, first...)
	}
	var logged []string
	for i, text := range messages(t, path) {
		logged = append(logged, text)
		if said := first[len(speakers)+i]; !strings.HasSuffix(said, " "+text) {
			t.Fatalf("message %d is %q in the log and %q in the room", i, text, said)
		}
	}
	if len(logged) != 1000 {
		t.Errorf("%d messages in the log", len(logged))
	}
	for i, m := range speakers {
		for _, said := range heard(t, r, m) {
			if strings.HasPrefix(said, fmt.Sprintf("say speaker%d ", i)) {
				t.Fatalf("%s hears itself", m.name)
			}
		}
	}
}

// TestSlowConsumer is dropped when the queue has passed it; whoever keeps up hears everything. Answers that
// somebody else asks for fill nothing.
func TestSlowConsumer(t *testing.T) {
	for what, fill := range map[string]func(r *room, m *member, n uint64) error{
		"lines": func(r *room, m *member, n uint64) error { return r.say(m, says(n, strings.Repeat("x", maxLine))) },
	} {
		r, path := quietRoom(t)
		slow, _ := enter(t, r, "slow", "key s", 1)
		quick, _ := enter(t, r, "quick", "key q", 2)
		loud, _ := enter(t, r, "loud", "key l", 3)
		for range 1 << 17 {
			r.who(loud)
		}
		if len(loud.notices) != maxNotices || slow.ending.reason != "" {
			t.Errorf("%d notices wait; slow: %q", len(loud.notices), slow.ending.reason)
		}
		heard(t, r, quick)
		heard(t, r, loud)
		n := 0
		for ; slow.out.(*stubReceiver).aborted == 0 && n < 2*queueBytes/maxLine; n++ {
			if err := fill(r, loud, uint64(n+1)); err != nil {
				t.Fatal(err)
			}
			heard(t, r, quick)
			heard(t, r, loud)
		}
		if n < queueBytes/maxLine-2 || n > queueBytes/maxLine+2 || slow.out.(*stubReceiver).aborted != 1 || quick.out.(*stubReceiver).aborted+loud.out.(*stubReceiver).aborted != 0 {
			t.Errorf("%s: dropped after %d of them, closed %d times", what, n, slow.out.(*stubReceiver).aborted)
		}
		if r.queue.bytes > queueBytes {
			t.Errorf("%s: the room holds %d bytes", what, r.queue.bytes)
		}
		r.leave(slow, "closed")
		wantHeard(t, r, quick, "leave slow "+slow.ending.reason)
		if got := records(t, path); !strings.HasPrefix(fmt.Sprint(got[len(got)-1]["reason"]), "slow consumer") {
			t.Errorf("%s: the log says %v", what, got[len(got)-1])
		}
	}
}

// TestDeaf: who does not listen is no slow consumer, and the console misses what it cannot keep up with.
func TestDeaf(t *testing.T) {
	r, _ := quietRoom(t)
	deaf, _ := enter(t, r, "deaf", "key d", 1)
	r.mute(deaf)
	console, _ := enter(t, r, "anna", "key a", 2)
	console.operator = true
	loud, _ := enter(t, r, "loud", "key l", 3)
	r.mute(loud)
	for n := range uint64(2 * queueBytes / maxLine) {
		if err := r.say(loud, says(n+1, strings.Repeat("x", maxLine))); err != nil {
			t.Fatal(err)
		}
	}
	if deaf.ending.reason != "" || console.ending.reason != "" {
		t.Errorf("dropped: %q, %q", deaf.ending.reason, console.ending.reason)
	}
	if items, _ := take(r, deaf); len(items) != 0 {
		t.Errorf("who does not listen got %d items", len(items))
	}
	if items, missed := take(r, console); missed == 0 || len(items) == 0 {
		t.Errorf("the console missed %d items and got %d", missed, len(items))
	}
}

func TestRoomNames(t *testing.T) {
	r, _ := quietRoom(t)
	for _, c := range []struct {
		name, key string
		want      string
	}{{"bob", "1", "bob"}, {"bob", "1", "bob"}, {"bob", "2", "bob~2XXX"}, {"B0B", "3", "B0B~3XXX"}, {"rob", "4", "rob"}} {
		m, w := enter(t, r, c.name, c.key, byte(len(r.members))+1)
		if m.name != c.want || w.name != c.want {
			t.Errorf("%s with key %s is %s, and told %s", c.name, c.key, m.name, w.name)
		}
	}
	if got := whoLine(r.names()); got != "4 here: B0B~3XXX, bob, bob~2XXX, rob" {
		t.Error(got)
	}
}

// TestNotices reach the one they are for: not another key that shows the same stream, nor one with an empty stream.
func TestNotices(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	mallory, _ := enter(t, r, "mallory", "key m", 2)
	nobody, _ := enter(t, r, "nobody", "key n", 0)
	everybody := []*member{anna, bob, mallory, nobody}
	for _, m := range everybody {
		heard(t, r, m)
	}
	for _, to := range everybody {
		r.notify(to, "for "+to.name)
		for _, m := range everybody {
			var want []string
			if m == to {
				want = []string{"notice  for " + m.name}
			}
			wantHeard(t, r, m, want...)
		}
	}
	if err := r.say(mallory, says(1, "hello")); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, r, bob, "say mallory hello")
	wantHeard(t, r, mallory)
}

// TestWhoFlood: who asks again and again who is here, and does not read, has as many answers waiting as it may have notices.
func TestWhoFlood(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 0)
	for range 10 * maxNotices {
		r.who(anna)
	}
	wantHeard(t, r, anna, slices.Repeat([]string{"notice  1 here: anna"}, maxNotices)...)
	r.who(anna)
	wantHeard(t, r, anna, "notice  1 here: anna")
}

// TestLostTail: a sender whose acknowledged lines a power cut took from the log goes on, and each line that is left is recorded
// once; a gap later in a connection is refused as ever.
func TestLostTail(t *testing.T) {
	r, path := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	if err := r.say(anna, says(1, "one")); err != nil {
		t.Fatal(err)
	}
	r.leave(anna, "closed")
	anna, w := enter(t, r, "anna", "key a", 1)
	if w.recorded != 1 {
		t.Errorf("recorded %d", w.recorded)
	}
	if err := r.say(anna, says(4, "four")); err != nil {
		t.Fatal(err)
	}
	if err := r.say(anna, says(6, "six")); !errors.Is(err, errMalformed) {
		t.Errorf("a gap within a connection: %v", err)
	}
	if got := messages(t, path); !slices.Equal(got, []string{"one", "four"}) || ackedOf(r, anna) != 4 {
		t.Errorf("the log has %q", got)
	}
}

// TestNotBefore: nobody gets what was said before it first came, whatever it says it has seen.
func TestNotBefore(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 1000
	anna, _ := enter(t, r, "anna", "key a", 1)
	if err := r.say(anna, says(1, "before")); err != nil {
		t.Fatal(err)
	}
	for _, seen := range []uint64{1, 1<<64 - 1} {
		m := stubMember("mallory", "key m", byte(seen))
		if _, err := r.join(m, joinRequest{epoch: r.epoch, seen: seen, flags: joinListens}, true); err != nil {
			t.Fatal(err)
		}
		for _, got := range heard(t, r, m) {
			if strings.Contains(got, "before") || strings.Contains(got, "anna") {
				t.Errorf("seen %d: a newcomer heard %q", seen, got)
			}
		}
	}
}

// TestUndelivered: who sends to somebody that cannot hear it, be it itself, is told so.
func TestUndelivered(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	deaf, _ := enter(t, r, "deaf", "key d", 2)
	r.mute(deaf)
	for n, to := range []string{"anna", "deaf", "nobody"} {
		heard(t, r, anna)
		if err := r.say(anna, lines{first: uint64(n) + 1, what: itemDirect, to: to, texts: [][]byte{[]byte("psst")}}); err != nil {
			t.Fatal(err)
		}
		if got := heard(t, r, anna); len(got) != 1 || !strings.HasPrefix(got[0], "undelivered") {
			t.Errorf("to %s: the sender heard %q", to, got)
		}
	}
	bob, _ := enter(t, r, "bob", "key b", 3)
	heard(t, r, anna)
	if err := r.say(anna, lines{first: 4, what: itemDirect, to: "bob", texts: [][]byte{[]byte("psst")}}); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, r, anna)
	wantHeard(t, r, bob, "direct anna psst")
}

func TestRoomCloses(t *testing.T) {
	r, path := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "last words")); err != nil {
		t.Fatal(err)
	}
	r.close("the server is stopping")
	if _, err := r.join(stubMember("late", "key l", 9), joinRequest{}, true); err == nil {
		t.Error("somebody joined a room that was closing")
	}
	wantHeard(t, r, anna, "join bob ", "say bob last words")
	for _, m := range []*member{anna, bob} {
		take(r, m)
		if ending := endOf(r, m); ending != "the server is stopping" {
			t.Errorf("%s ends with %q", m.name, ending)
		}
		for range 2 { // once is enough, twice does no harm
			r.leave(m, "left")
		}
	}
	var reasons []any
	for _, rec := range records(t, path) {
		if rec["event"] == eventDisconnect {
			reasons = append(reasons, rec["reason"])
		}
	}
	if !slices.Equal(reasons, []any{"the server is stopping", "the server is stopping"}) {
		t.Errorf("the log's reasons: %q", reasons)
	}
}

// TestStreamsBounded: an identity has so many streams, and cannot make the room forget another's.
func TestStreamsBounded(t *testing.T) {
	r, err := newRoom(&connLog{}, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "one")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxStreams {
		m, _ := enter(t, r, "cleo", "key c", byte(i))
		r.streams.join(m.peer.fingerprint, streamID{byte(i >> 8), byte(i), 1})
		r.leave(m, "")
	}
	if own := r.streams.byKey["key c"]; len(own) != maxStreams {
		t.Errorf("%d streams of one identity", len(own))
	}
	if _, w := enter(t, r, "bob", "key b", 2); w.recorded != 1 {
		t.Errorf("bob's stream is at %d", w.recorded)
	}
}

// TestNoLogNoAcknowledgement: what could not be recorded is neither acknowledged nor relayed, and can be said again.
func TestNoLogNoAcknowledgement(t *testing.T) {
	r, path := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	heard(t, r, anna)
	good := r.log.f
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	r.log.f = readOnly
	if err := r.say(bob, says(1, "one")); err == nil || !strings.Contains(err.Error(), "cannot write the log") {
		t.Error(err)
	}
	if _, err := r.join(stubMember("late", "key l", 9), joinRequest{}, true); err == nil {
		t.Error("somebody joined whose coming could not be recorded")
	}
	if got := ackedOf(r, bob); got != 0 {
		t.Errorf("%d lines acknowledged", got)
	}
	wantHeard(t, r, anna)
	r.log.f = good
	if err := r.say(bob, says(1, "one")); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, r, anna, "say bob one")
	if got := messages(t, path); !slices.Equal(got, []string{"one"}) || ackedOf(r, bob) != 1 {
		t.Errorf("the log has %q", got)
	}
}

// quietServer returns a server and a client with the same identity, which each lists, and what the server prints.
func quietServer(t *testing.T) (*server, *client, *bytes.Buffer) {
	t.Helper()
	r, _ := quietRoom(t)
	var notes bytes.Buffer
	me := partyOf(t, fixedSigner(t, "server"), onceKeys["server"]())
	tr := openTrust(t.TempDir(), me.signer.PublicKey(), "anna", nil)
	put(t, tr.path("authorized_keys"), []byte(publicLine(tr.own, "anna"))) // a pipe has no address of this machine
	put(t, tr.path("known_hosts"), []byte("[127.0.0.1]:9000 "+publicLine(tr.own, "")))
	s, err := newServer(serverConfig{
		endpoint: endpoint{&securechat2{me: me, trust: tr}, me.signer.PublicKey(), "anna", tr}, log: r.log, clients: maxClients,
		console: &console{stderr: &notes, notes: make(chan string, maxNotes)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.free.Stop() })
	proto := &securechat2{me: me, trust: tr, client: securechat2Client{addr: "127.0.0.1:9000"}}
	c := &client{addr: "127.0.0.1:9000", protocol: proto, trust: tr, console: &console{stderr: io.Discard}, box: newOutbox()}
	return s, c, &notes
}

// serveConn serves one connection to its end.
func serveConn(s *server, conn net.Conn) {
	var wg sync.WaitGroup
	s.handle(conn, &wg, s.join)
	wg.Wait()
}

// TestServerDeadline: a client that stalls at any point up to its first packet is gone after the deadline, and told
// nothing; its server serves the next.
func TestServerDeadline(t *testing.T) {
	s, c, notes := quietServer(t)
	for frames := range 3 {
		synctest.Test(t, func(t *testing.T) {
			here, middle := net.Pipe()
			inside, there := net.Pipe()
			begin := time.Now()
			go func() {
				for range frames {
					if body, err := readFrame(middle, maxHandshakeFrame); err == nil {
						inside.Write(appendVector(nil, body))
					}
				}
			}()
			go func() {
				for { // back to the client, until the server ends
					body, err := readFrame(inside, maxHandshakeFrame)
					if err != nil {
						middle.Close()
						return
					}
					middle.Write(appendVector(nil, body))
				}
			}()
			go c.meet(t.Context(), here)
			s.gate.inProgress = 1
			serveConn(s, there)
			if d := time.Since(begin); d != handshakeTimeout || s.gate.inProgress != 0 {
				t.Errorf("%d frames: it ended after %v with %d handshakes in progress", frames, d, s.gate.inProgress)
			}
			for len(s.console.notes) > 0 {
				s.console.print(<-s.console.notes)
			}
			if !strings.Contains(notes.String(), "i/o timeout") {
				t.Errorf("%d frames: the operator was told %q", frames, notes)
			}
			notes.Reset()
			here.Close()
			middle.Close()
			synctest.Wait()
		})
	}
}

// TestClientDeadline: a server that reads and says nothing more holds a client up for the handshake's deadline, its first
// packet included.
func TestClientDeadline(t *testing.T) {
	_, c, _ := quietServer(t)
	for _, reads := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			begin, over := time.Now(), make(chan struct{})
			go func() {
				defer there.Close()
				there.SetDeadline(begin.Add(handshakeTimeout))
				if _, _, err := serverHandshake(there, c.protocol.(*securechat2).me, 0, admitAll); err != nil {
					t.Error(err)
				}
				there.SetDeadline(time.Time{})
				if reads {
					readFrame(there, maxHandshakeFrame)
				}
				<-over
			}()
			if _, _, err := c.meet(t.Context(), here); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it reads: %v: %v", reads, err)
			}
			if d := time.Since(begin); d != handshakeTimeout {
				t.Errorf("it reads: %v: the client ended after %v", reads, d)
			}
			close(over)
			here.Close()
		})
	}
}

// TestServerRefusals: whatever a client that was let in does wrong ends its connection, without a word to it; the log says
// why, and the next client is served.
func TestServerRefusals(t *testing.T) {
	s, c, _ := quietServer(t)
	message := func(kind byte, payload []byte) func(*session) ([]byte, error) {
		return func(sess *session) ([]byte, error) { return sess.append(nil, kind, payload) }
	}
	for what, do := range map[string]struct {
		send func(*session) ([]byte, error)
		want string
	}{
		"secure-close":         {message(kindClose, []byte(closeText)), "left"},
		"another closing word": {message(kindClose, []byte("bye")), errMalformed.Error()},
		"an unknown kind":      {message(99, nil), errMalformed.Error()},
		"kind 0":               {message(0, nil), errMalformed.Error()},
		"an acknowledgement":   {message(kindAck, make([]byte, 8)), errMalformed.Error()},
		"a second join":        {message(kindJoin, joinRequest{}.encode()), errMalformed.Error()},
		"raw bytes":            {message(kindRaw, []byte("x")), errMalformed.Error()},
		"lines of no form":     {message(kindText, []byte("x")), errMalformed.Error()},
		"a gap": {func(sess *session) ([]byte, error) {
			buf, err := sess.append(nil, kindText, linesOf(7, itemSay, "", "x"))
			if err != nil {
				return nil, err
			}
			return sess.append(buf, kindText, linesOf(9, itemSay, "", "x"))
		}, "line 9 came after line 7: " + errMalformed.Error()},
		"parts without an end":  {message(kindText, make([]byte, maxMessage+1)), errMalformed.Error()},
		"a packet that is none": {func(*session) ([]byte, error) { return appendVector(nil, make([]byte, 32)), nil }, errBadPacket.Error() + ": possible man-in-the-middle attack"},
		"nothing more":          {func(*session) ([]byte, error) { return nil, nil }, "nothing heard from it for too long"},
		"half a packet":         {func(*session) ([]byte, error) { return []byte{0, 32, 1}, nil }, "nothing heard from it for too long"},
	} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			go serveConn(s, there)
			c.box = newOutbox()
			rand.Read(c.stream[:])
			sess, _, err := c.meet(t.Context(), here)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			buf, err := do.send(sess.(*session))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := here.Write(buf); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%s: %v", what, err)
			}
			kind, payload, err := byte(kindPing), []byte(nil), error(nil)
			for (kind == kindPing || kind == kindAck) && err == nil {
				kind, payload, err = sess.read()
			}
			if do.want == "left" && (kind != kindClose || string(payload) != closeText) || do.want != "left" && !errors.Is(err, errTruncated) {
				t.Errorf("%s: the client got kind %d, %q, %v", what, kind, payload, err)
			}
			here.Close()
			synctest.Wait()
		})
		all := records(t, s.log.path)
		if last := all[len(all)-1]; last["event"] != eventDisconnect || last["reason"] != do.want {
			t.Errorf("%s: the log says %v", what, last)
		}
		if len(s.room.members) != 0 {
			t.Errorf("%s: it is still in the room", what)
		}
	}
}

// TestFirstPacketRefusals: a client is there from its first packet on, which has to be a join.
func TestFirstPacketRefusals(t *testing.T) {
	s, c, notes := quietServer(t)
	for what, payload := range map[string][]byte{"a text": linesOf(1, itemSay, "", "x"), "a join of no form": make([]byte, joinSize-1)} {
		kind := map[bool]byte{true: kindText, false: kindJoin}[what == "a text"]
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			go serveConn(s, there)
			here.SetDeadline(time.Now().Add(handshakeTimeout))
			keys, err := clientHandshake(here, c.protocol.(*securechat2).me, trustAll, nil)
			if err != nil {
				t.Fatal(err)
			}
			sess, err := newSession(here, keys, false, chatTraffic)
			if err != nil {
				t.Fatal(err)
			}
			buf, err := sess.append(nil, kind, payload)
			if err != nil {
				t.Fatal(err)
			}
			here.Write(buf)
			wantReadError(t, what, sess, errTruncated)
			here.Close()
			synctest.Wait()
		})
		for len(s.console.notes) > 0 {
			s.console.print(<-s.console.notes)
		}
		if !strings.Contains(notes.String(), "first packet: "+errMalformed.Error()) {
			t.Errorf("%s: the operator was told %q", what, notes)
		}
		notes.Reset()
	}
	for _, r := range records(t, s.log.path) {
		if r["event"] != eventRefused {
			t.Errorf("the log has %v", r)
		}
	}
}

// scriptLink has said what stands in messages, all of which came together but for where one is nil. A second passes with each read,
// and payloads share their memory, as a session's do.
type scriptLink struct {
	link     // nil: nothing else is asked
	messages []*scriptMessage
	payload  []byte
}

type scriptMessage struct {
	kind    byte
	payload []byte
	err     error
}

func (l *scriptLink) ready() bool { return len(l.messages) > 0 && l.messages[0] != nil }

func (l *scriptLink) read() (byte, []byte, error) {
	if len(l.messages) == 0 {
		return 0, nil, errTruncated
	}
	time.Sleep(time.Second)
	if l.messages[0] == nil {
		l.messages = l.messages[1:]
	}
	m := l.messages[0]
	l.messages = l.messages[1:]
	clear(l.payload)
	l.payload = append(l.payload[:0], m.payload...)
	return m.kind, l.payload, m.err
}

// TestGathered: what came together is recorded together, in its order, once, and whatever comes after it.
func TestGathered(t *testing.T) {
	text := func(first uint64, what byte, to string, texts ...string) *scriptMessage {
		b := appendLinesHeader(nil, first, what, to)
		for _, text := range texts {
			b = appendLine(b, []byte(text))
		}
		return &scriptMessage{kind: kindText, payload: b}
	}
	say := func(first uint64, texts ...string) *scriptMessage { return text(first, itemSay, "", texts...) }
	var many []*scriptMessage
	var manyHeard []string
	for i := range batchLines + 2 {
		many = append(many, say(uint64(i+1), fmt.Sprint(i)))
		manyHeard = append(manyHeard, fmt.Sprintf("%vs say bob %d", batchLines+1+i/batchLines, i))
	}
	long := strings.Repeat("x", batchBytes)
	bye := &scriptMessage{kind: kindClose, payload: []byte(closeText)}
	broken := &scriptMessage{err: errBadPacket}
	for _, c := range []struct {
		name     string
		messages []*scriptMessage
		heard    []string // by another, each with the second it was recorded in: what is full, when more comes
		err      error
	}{
		{"one after another", []*scriptMessage{say(1, "a"), nil, say(2, "b")}, []string{"1s say bob a", "2s say bob b"}, nil},
		{"together", []*scriptMessage{say(1, "a", "b"), say(3, ""), say(4, "d")}, []string{"3s say bob a", "3s say bob b", "3s say bob ", "3s say bob d"}, nil},
		{"another kind of line", []*scriptMessage{say(1, "a"), text(2, itemAction, "", "nods"), text(3, itemDirect, "anna", "psst"), text(4, itemDirect, "cleo", "psst"), say(5, "b")},
			[]string{"2s say bob a", "3s action bob nods", "4s direct bob psst", "5s say bob b"}, nil},
		{"said again", []*scriptMessage{say(1, "a", "b"), say(2, "b", "c"), say(1, "a"), say(4, "d")}, []string{"2s say bob a", "2s say bob b", "3s say bob c", "4s say bob d"}, nil},
		{"a gap", []*scriptMessage{say(1, "a"), say(2, "b"), say(4, "d")}, []string{"3s say bob a", "3s say bob b"}, errMalformed},
		{"malformed", []*scriptMessage{say(1, "a"), say(2, "b"), {kind: kindText, payload: []byte("?")}, say(3, "c")}, []string{"3s say bob a", "3s say bob b"}, errMalformed},
		{"half malformed", []*scriptMessage{say(1, "a"), {kind: kindText, payload: append(say(2, "b").payload, 9)}}, []string{"2s say bob a"}, errMalformed},
		{"a kind that is none", []*scriptMessage{say(1, "a"), {kind: kindRaw}}, []string{"2s say bob a"}, errMalformed},
		{"a forged packet", []*scriptMessage{say(1, "a"), say(2, "b"), broken}, []string{"3s say bob a", "3s say bob b"}, errBadPacket},
		{"a ping between", []*scriptMessage{say(1, "a"), {kind: kindPing}, say(2, "b")}, []string{"2s say bob a", "3s say bob b"}, nil},
		{"goodbye", []*scriptMessage{say(1, "a"), say(2, "b"), bye, say(3, "c")}, []string{"3s say bob a", "3s say bob b"}, errLeft},
		{"too many lines", many, manyHeard, nil},
		{"too many bytes", []*scriptMessage{say(1, "a"), say(2, long), say(3, "c"), say(4, "d")},
			[]string{"3s say bob a", "3s say bob " + long, "4s say bob c", "4s say bob d"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, _ := quietServer(t)
			synctest.Test(t, func(t *testing.T) {
				anna, _ := enter(t, s.room, "anna", "key a", 1)
				bob, _ := enter(t, s.room, "bob", "key b", 2)
				heard(t, s.room, anna)
				began := time.Now()
				l := &scriptLink{messages: c.messages}
				want := c.err
				if want == nil {
					want = errTruncated // the messages are over
				}
				if err := s.read(bob, l); !errors.Is(err, want) {
					t.Errorf("it ended with %v, not %v", err, want)
				}
				var got []string
				items, _ := take(s.room, anna)
				for _, enc := range items {
					it, _, err := cutItem(enc)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprintf("%vs %s %s %s", it.time.Sub(began).Seconds(), itemNames[it.what], it.name, it.text))
				}
				if !slices.Equal(got, c.heard) {
					t.Errorf("heard %q", got)
				}
			})
		})
	}
}

// TestGatheredWaits: a line does not wait for what comes late behind it: the rest of a line in parts, or what follows a change of
// keys.
func TestGatheredWaits(t *testing.T) {
	line := func(n uint64, text string) []byte {
		return appendLine(appendLinesHeader(nil, n, itemSay, ""), []byte(text))
	}
	for _, rekey := range []bool{false, true} {
		s, _, _ := quietServer(t)
		synctest.Test(t, func(t *testing.T) {
			anna, _ := enter(t, s.room, "anna", "key a", 1)
			bob, _ := enter(t, s.room, "bob", "key b", 2)
			heard(t, s.room, anna)
			client, server, _, _ := twoSessions(t, true)
			here, there := net.Pipe()
			server.conn, server.packets.conn = there, there
			server.setReadTimeout(peerTimeout, true)
			long := strings.Repeat("x", maxBatch)
			if rekey {
				client.out.packets, server.in.packets, long = rekeyPackets-2, rekeyPackets-2, "y"
			}
			first, err1 := client.append(nil, kindText, line(1, "short"))
			second, err2 := client.append(nil, kindText, line(2, long))
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			_, after, ok := cutVector(second) // a part, or the change of keys
			if !ok || len(after) == 0 {
				t.Fatal("it went into one packet")
			}
			ended := make(chan error, 1)
			go func() { ended <- s.read(bob, server) }()
			here.Write(append(first, second[:len(second)-len(after)]...))
			synctest.Wait()
			wantHeard(t, s.room, anna, "say bob short")
			here.Write(after[:1])
			synctest.Wait()
			here.Write(after[1:])
			synctest.Wait()
			wantHeard(t, s.room, anna, "say bob "+long)
			here.Close()
			if err := <-ended; !errors.Is(err, errTruncated) {
				t.Error(err)
			}
		})
	}
}

// TestRoomQueue: whatever the sizes of what is said, the queue has the latest of it, keeps nothing else, and takes no more than
// its bytes.
func TestRoomQueue(t *testing.T) {
	r, _ := quietRoom(t)
	r.mu.Lock()
	defer r.mu.Unlock()
	var texts []string
	for size := 1; size < maxLine; size *= 16 {
		for range 3 * queueBytes / (size + itemOverhead + queueItemSize) {
			texts = append(texts, fmt.Sprint(len(texts)))
			r.queue.add(nil, item{what: itemSay, name: "n", text: append(make([]byte, size), texts[len(texts)-1]...)}, nil, nil)
		}
		total, kept := 0, 0
		for i := range r.queue.items {
			it, _, err := cutItem(r.queue.items[i].enc)
			n := int(r.queue.first) + i
			if err != nil || int(it.seq) != n || strings.TrimLeft(string(it.text), "\x00") != texts[n-1] {
				t.Fatalf("item %d is %d %q: %v", n, it.seq, it.text, err)
			}
			total += len(r.queue.items[i].enc) + queueItemSize
		}
		for i := range r.queue.array {
			if r.queue.array[i].enc != nil {
				kept++
			}
		}
		if total != r.queue.bytes || total > queueBytes || total < queueBytes-2*(size+64+queueItemSize) || kept != len(r.queue.items) || int(r.queue.first)+len(r.queue.items) != len(texts)+1 {
			t.Errorf("lines of %d bytes: %d items of %d bytes, counted as %d; %d are kept", size, len(r.queue.items), total, r.queue.bytes, kept)
		}
		if room := len(r.queue.array) * int(unsafe.Sizeof(queueItem{})); room > queueBytes {
			t.Errorf("lines of %d bytes: the space takes %d bytes", size, room)
		}
	}
}
