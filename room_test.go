package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// The room: each line is recorded and delivered once, in one order, and no member waits for another. BenchmarkRelay
// measures deliveries.

// stubReceiver counts aborts.
type stubReceiver struct{ aborted int }

func (s *stubReceiver) deliver(*delivery) error { return nil }

func (s *stubReceiver) abort() { s.aborted++ }

// quietRoom returns a room whose log is a file, and the file's path.
func quietRoom(t *testing.T) (*room, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "connection.log")
	log, err := openLog(logOptions{path: path})
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

// stubMember returns a member that is not in a room.
func stubMember(name, key string, stream byte) *member {
	p := &peer{name: name, addr: "192.0.2.1:1", fingerprint: key, suffix: key[len(key)-1:] + "XXX",
		stream: streamID{stream}}
	return newMember(p, &stubReceiver{})
}

// enter makes a member with this name, key and stream join the room.
func enter(t *testing.T, r *room, name, key string, stream byte) (*member, welcome) {
	t.Helper()
	m := stubMember(name, key, stream)
	w, err := r.join(m, joinRequest{}, true)
	if err != nil {
		t.Fatal(err)
	}
	return m, w
}

// take returns what is queued for m.
func take(r *room, m *member) (items [][]byte, missed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.takeLocked(m, nil, takeBytes)
}

// endOf returns the reason for which m has to leave, once everything is delivered to it.
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

// heard returns all that is queued for m, as text.
func heard(t *testing.T, r *room, m *member) (all []string) {
	t.Helper()
	for {
		items, missed := take(r, m)
		if missed > 0 {
			t.Errorf("%s missed %d items without a notice", m.name, missed)
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
		t.Errorf("%s received %q, not %q", m.name, got, want)
	}
}

func ackedOf(r *room, m *member) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return m.stream.durable
}

// TestRoomRecordsOnce: lines that are sent again, in part or in full, on the same connection or the next, are recorded
// and relayed once.
func TestRoomRecordsOnce(t *testing.T) {
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
		t.Error("a stream's count is sent to another key")
	}
	if err := r.say(thief, says(1, "not bob")); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, path); !slices.Equal(got, []string{"one", "two", "three", "four", "not bob"}) {
		t.Errorf("the log has %q", got)
	}
	wantHeard(t, r, anna, "join bob ", "say bob one", "say bob two", "say bob three", "join bob ", "say bob four",
		"join mallory ", "say mallory not bob")
	wantHeard(t, r, again, "join mallory ", "say mallory not bob")
	if ending := endOf(r, bob); ending != "" && !strings.Contains(ending, "replaced") {
		t.Errorf("the old connection ends with %q", ending)
	}
	heard(t, r, bob)
	if ending := endOf(r, bob); !strings.Contains(ending, "replaced by a newer connection") {
		t.Errorf("the old connection ends with %q", ending)
	}
}

// TestRoomOrder: many members send at once, and all receivers and the log have the same order.
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
				t.Fatalf("%s receives its own lines", m.name)
			}
		}
	}
}

// TestSlowConsumer: a member is dropped when the queue has discarded lines that it has not read, and a member that
// keeps up receives everything. Answers to other members' requests do not fill a member's queue.
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
		if len(loud.notices) != 1 || slow.ending.reason != "" {
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
		if n < queueBytes/maxLine-2 || n > queueBytes/maxLine+2 || slow.out.(*stubReceiver).aborted != 1 ||
			quick.out.(*stubReceiver).aborted+loud.out.(*stubReceiver).aborted != 0 {
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

// TestNonListener: a member that receives no lines is never a slow consumer, and the console skips lines that it is too
// slow for.
func TestNonListener(t *testing.T) {
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
		t.Errorf("a member that receives no lines got %d items", len(items))
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
			t.Errorf("%s with key %s is %s, and its welcome says %s", c.name, c.key, m.name, w.name)
		}
	}
	if got := whoLine(r.names()); got != "4 here: B0B~3XXX, bob~1XXX, bob~2XXX, rob" {
		t.Error(got)
	}
}

// TestNotices: a notice reaches only its recipient, not another key with the same stream ID, nor a member with an empty
// stream.
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

// TestManyWhoRequests: a member that asks again and again who is in the room and does not read has one answer waiting,
// and later requests are answered with the members of that time.
func TestManyWhoRequests(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 0)
	for range 10 * maxNotices {
		r.who(anna)
	}
	wantHeard(t, r, anna, "notice  1 here: anna")
	bob, _ := enter(t, r, "bob", "key b", 1)
	r.who(anna)
	wantHeard(t, r, anna, "notice  2 here: anna, bob", "join bob ")
	r.leave(bob, "closed")
	r.who(anna)
	wantHeard(t, r, anna, "notice  1 here: anna", "leave bob closed")
}

// TestLostTail: after a power cut has removed acknowledged lines from the log, their sender can go on, and each
// remaining line is recorded once. A later gap within a connection is rejected as usual.
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

// TestHistoryStartsAtFirstJoin: a member receives no line from before its first join, whatever sequence number it
// reports.
func TestHistoryStartsAtFirstJoin(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 1000
	anna, _ := enter(t, r, "anna", "key a", 1)
	if err := r.say(anna, says(1, "before")); err != nil {
		t.Fatal(err)
	}
	for _, seen := range []uint64{1, 1<<64 - 1} {
		m := stubMember("mallory", "key m", byte(seen))
		if _, err := r.join(m, joinRequest{epoch: r.epoch, seen: seen, flags: joinListens | joinPlace}, true); err != nil {
			t.Fatal(err)
		}
		for _, got := range heard(t, r, m) {
			if strings.Contains(got, "before") || strings.Contains(got, "anna") {
				t.Errorf("seen %d: a new member received %q", seen, got)
			}
		}
	}
}

// TestUndelivered: a sender is notified if a recipient cannot receive its line, also if the recipient is the sender.
func TestUndelivered(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	deaf, _ := enter(t, r, "deaf", "key d", 2)
	r.mute(deaf)
	for n, c := range [][2]string{{"anna", "anna is you"}, {"deaf", "deaf does not listen"},
		{"nobody", "nobody here is called nobody"}} {
		to := c[0]
		heard(t, r, anna)
		if err := r.say(anna, lines{first: uint64(n) + 1, what: itemDirect, to: to,
			texts: [][]byte{[]byte("psst")}}); err != nil {
			t.Fatal(err)
		}
		wantHeard(t, r, anna, "undelivered  "+c[1]+"; what you sent is in the log only")
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
		for range 2 { // A second call changes nothing.
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

// TestStreamsBounded: the number of streams of an identity is bounded, the one absent longest is forgotten first, and
// none that is in the room or has lines that are not on disk yet. Only a client whose stream may have been forgotten
// with lines in it is notified.
func TestStreamsBounded(t *testing.T) {
	s := newStreams()
	id := func(n int) streamID { return streamID{byte(n >> 8), byte(n), 1} }
	present := s.join("key c", id(0))
	present.last, present.durable = 1, 1
	pending := s.join("key c", id(1))
	pending.last = 1
	s.leave(pending, false)
	for n := 2; n < maxKeyStreams; n++ {
		st := s.join("key c", id(n))
		st.last, st.durable = 1, 1
		s.leave(st, false)
	}
	again := s.join("key c", id(2))
	s.leave(again, false)
	silent := s.join("key c", id(3))
	silent.last, silent.durable = 0, 0
	s.leave(silent, false)
	if st := s.join("key b", id(5)); st.unsure || len(s.known) != maxKeyStreams+1 {
		t.Fatalf("%d streams; unsure: %v", len(s.known), st.unsure)
	}
	for n := range 3 {
		st := s.join("key c", id(maxKeyStreams+n))
		s.leave(st, false)
	}
	o := s.owners["key c"]
	for n, want := range map[int]bool{0: true, 1: true, 2: true, 3: true, 4: false, 5: false, 6: false, 7: true} {
		if got := s.known[streamKey{o, id(n)}] != nil; got != want {
			t.Errorf("stream %d is remembered: %v, want %v", n, got, want)
		}
	}
	if o.streams.Len() != maxKeyStreams || len(s.known) != maxKeyStreams+1 {
		t.Errorf("%d streams of one identity, %d in all", o.streams.Len(), len(s.known))
	}
	if st := s.join("key c", id(7)); st.unsure || st.last != 1 {
		t.Errorf("a stream that is known: unsure %v, at %d", st.unsure, st.last)
	}
	for key, want := range map[string]bool{"key c": true, "key d": false} {
		if st := s.join(key, id(4)); st.unsure != want {
			t.Errorf("%s: unsure %v, want %v", key, st.unsure, want)
		}
	}
}

// TestAllStreamsBounded: the streams of all identities together are bounded in memory and in the log, and the marks of
// all of them, with what was forgotten, are what a start reads back.
func TestAllStreamsBounded(t *testing.T) {
	s := newStreams()
	key := func(n int) string { return fmt.Sprintf("SHA256:%043d", n) }
	before := heapBytes()
	for n := range maxStreams + 2 {
		st := s.join(key(n), streamID{1})
		st.last, st.durable = maxNumber-uint64(n), maxNumber-uint64(n)
		s.leave(st, false)
	}
	used := heapBytes() - before
	marks := s.appendMarks(nil)
	again := newStreams()
	for line := range bytes.Lines(marks) {
		if len(line) > 2*maxMarkRecord {
			t.Fatalf("a record of %d bytes", len(line))
		}
		streamMarksOf(line, again.replay)
	}
	t.Logf("%d streams: %d bytes of memory each, %d bytes of marks each", len(s.known), used/maxStreams,
		len(marks)/maxStreams)
	if len(s.known) != maxStreams || used/maxStreams > 512 || len(marks)+markBytes+maxRecord > tailBytes {
		t.Errorf("%d streams take %d bytes of memory, and %d of the log", len(s.known), used, len(marks))
	}
	if len(again.known) != maxStreams || !again.forgot {
		t.Fatalf("%d streams are read back; forgotten: %v", len(again.known), again.forgot)
	}
	for n := maxStreams + 1; n >= 0; n-- {
		st := again.join(key(n), streamID{1})
		want := maxNumber - uint64(n)
		if n < 2 {
			want = 0
		}
		if st.last != want || want == 0 && !st.unsure {
			t.Fatalf("stream %d is at %d, want %d; unsure: %v", n, st.last, want, st.unsure)
		}
	}
}

// heapBytes returns the bytes of all reachable objects.
func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestNoLogNoAcknowledgement: a line that could not be recorded is neither acknowledged nor relayed, and can be sent
// again.
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

// TestRoomQueue: for any sizes of lines, the queue holds the latest of them, nothing else, and at most its limit of
// bytes.
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
		if total != r.queue.bytes || total > queueBytes || total < queueBytes-2*(size+64+queueItemSize) ||
			kept != len(r.queue.items) || int(r.queue.first)+len(r.queue.items) != len(texts)+1 {
			t.Errorf("lines of %d bytes: %d items of %d bytes, counted as %d; %d are kept", size, len(r.queue.items), total,
				r.queue.bytes, kept)
		}
		if room := len(r.queue.array) * int(unsafe.Sizeof(queueItem{})); room > queueBytes {
			t.Errorf("lines of %d bytes: the space takes %d bytes", size, room)
		}
	}
}

// TestQueueAudience: the receivers of direct items count in the queue's limit, once for items in sequence.
func TestQueueAudience(t *testing.T) {
	const streams, takes = 256, audienceSize + 8*256
	newAudience := func() *audience { return &audience{&visitor{}, make([]*stream, streams)} }
	var q queue
	shared := newAudience()
	for range 3 {
		q.add(nil, item{what: itemDirect}, nil, shared)
	}
	enc := len(q.items[0].enc)
	if want := 3*(enc+queueItemSize) + takes; q.bytes != want {
		t.Errorf("3 items for the same receivers take %d bytes, not %d", q.bytes, want)
	}
	for range 2 * queueBytes / takes {
		q.add(nil, item{what: itemDirect}, nil, newAudience())
	}
	if n, most := len(q.items), queueBytes/(enc+queueItemSize+takes); n != most || q.bytes > queueBytes {
		t.Errorf("%d items of %d are kept and take %d bytes", n, most, q.bytes)
	}
}

// relayMember adds a member to s over loopback TCP, as after a handshake, and returns the client's end after the join.
func relayMember(b *testing.B, s *server, wg *sync.WaitGroup, n int, listens bool) (conn net.Conn, in, out *halfConn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if conn, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	shared := secrets{toServer: [64]byte{1}, toClient: [64]byte{2}, aes: true}
	in, err1 := newHalfConn(&shared.toClient, &shared.digest, true)
	out, err2 := newHalfConn(&shared.toServer, &shared.digest, true)
	sess, err3 := newSession(there, &shared, true, chatTraffic)
	if err1 != nil || err2 != nil || err3 != nil {
		b.Fatal(err1, err2, err3)
	}
	p := &peer{name: "anna", suffix: "XXXX", fingerprint: "SHA256:anna", addr: "127.0.0.1:1"}
	binary.BigEndian.PutUint64(p.stream[:], uint64(n))
	req := joinRequest{stream: p.stream}
	if listens {
		req.flags = joinListens
	}
	wg.Go(func() {
		if serve := s.join(there, p, sess, req); serve != nil {
			serve()
		}
		there.Close()
	})
	conn.SetDeadline(time.Now().Add(patience))
	welcome, err := readFrame(conn, maxPacket)
	if err == nil {
		_, _, err = in.open(welcome)
	}
	if err != nil {
		b.Fatal(err)
	}
	conn.SetDeadline(time.Time{})
	return conn, in, out
}

// relayHear opens a member's packets until the connection ends, and counts lines. It does not allocate.
func relayHear(conn net.Conn, in *halfConn, said func(n int)) error {
	buf := make([]byte, 4*maxPacket)
	for r, w := 0, 0; ; {
		for w-r < frameHeader || w-r < frameHeader+int(binary.BigEndian.Uint16(buf[r:])) {
			w = copy(buf, buf[r:w])
			r = 0
			n, err := conn.Read(buf[w:])
			if err != nil {
				return err
			}
			w += n
		}
		end := r + frameHeader + int(binary.BigEndian.Uint16(buf[r:]))
		kind, payload, err := in.open(buf[r+frameHeader : end])
		if err == nil && kind == kindRekey {
			err = in.ratchet()
		}
		if err != nil {
			return err
		}
		items := 0
		for kind == kindText && len(payload) > 0 {
			n, width := binary.Uvarint(payload)
			if payload[width+8+8] == itemSay {
				items++
			}
			payload = payload[width+int(n):]
		}
		if items > 0 {
			said(items)
		}
		r = end
	}
}

// BenchmarkRelay sends one member's lines of 100 bytes, each in a packet of its own, through the room, its log and the
// members' sessions. One op is one line to all members. The allocations are those of the whole process, and the
// receivers make none.
func BenchmarkRelay(b *testing.B) {
	for _, members := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) { benchmarkRelay(b, int64(members)) })
	}
}

func benchmarkRelay(b *testing.B, members int64) {
	const batch, ahead = 16, 256 // The lines in one write, and how far the sender may be ahead of the average member.
	log, err := openLog(logOptions{path: filepath.Join(b.TempDir(), "connection.log")})
	if err != nil {
		b.Fatal(err)
	}
	defer log.close()
	s, err := newServer(serverConfig{
		endpoint: endpoint{name: "server"}, log: log, clients: maxClients, console: unstartedConsole(nil, io.Discard),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer s.freeMemory.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	var delivered atomic.Int64
	more, broken := make(chan struct{}, 1), make(chan error, members+1)
	var sender net.Conn
	var out *halfConn
	for n := range members + 1 { // The last one is the sender.
		conn, in, its := relayMember(b, s, &wg, int(n), n < members)
		defer conn.Close()
		sender, out = conn, its
		wg.Go(func() { broken <- relayHear(conn, in, func(n int) { delivered.Add(int64(n)); wake(more) }) })
	}

	late := time.After(patience) // The time starts here, because a thousand joins take seconds.
	var said int64
	line, packets := bytes.Repeat([]byte("x"), 100), []byte(nil)
	message := make([]byte, 0, maxMsg)
	say := func(n int64) {
		packets = packets[:0]
		for range n {
			if out.full() {
				packets = out.seal(packets, kindRekey)
				if err := out.ratchet(); err != nil {
					b.Fatal(err)
				}
			}
			said++
			message = appendLine(appendLinesHeader(message[:0], uint64(said), itemSay, ""), line)
			packets = out.seal(packets, kindText, message)
		}
		if _, err := sender.Write(packets); err != nil {
			b.Fatal(err)
		}
	}
	heard := func(lines int64) {
		for delivered.Load() < lines*members {
			select {
			case <-more:
			case err := <-broken:
				b.Fatal(err)
			case <-late:
				b.Fatalf("%d of %d delivered", delivered.Load(), lines*members)
			}
		}
	}
	say(ahead) // After this all members have joined, and buffers have their final size.
	heard(said)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ReportAllocs()
	b.ResetTimer()
	for left := int64(b.N); left > 0; left -= batch {
		say(min(batch, left))
		heard(said - ahead)
	}
	heard(said)
	b.StopTimer()
	runtime.ReadMemStats(&after)
	deliveries := float64(members) * float64(b.N)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/deliveries, "ns/delivery")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/deliveries, "allocs/delivery")
}

// TestKickEndsDelivery checks that a member receives the lines sent before the operator removed it and none
// sent afterwards, also if both are delivered at once.
func TestKickEndsDelivery(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "before")); err != nil {
		t.Fatal(err)
	}
	if err := r.kick("anna"); err != nil {
		t.Fatal(err)
	}
	if err := r.say(bob, says(2, "after")); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, r, anna, "join bob ", "say bob before")
}

// slowReceiver reports each delivery, and does not return from it before it is told to.
type slowReceiver struct{ begun, end chan struct{} }

func (s slowReceiver) deliver(*delivery) error {
	s.begun <- struct{}{}
	<-s.end
	return nil
}

func (s slowReceiver) abort() {}

// TestOneWriter checks that a member has one goroutine while there is something to deliver, whatever comes meanwhile,
// and none afterwards.
func TestOneWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := quietRoom(t)
		anna, _ := enter(t, r, "anna", "key a", 1)
		bob, _ := enter(t, r, "bob", "key b", 2)
		out := slowReceiver{make(chan struct{}, 9), make(chan struct{})}
		anna.out = out
		deliveries := func(want int) {
			t.Helper()
			if synctest.Wait(); len(out.begun) != want {
				t.Fatalf("%d deliveries have begun, not %d", len(out.begun), want)
			}
		}
		r.start(anna)
		deliveries(1) // bob joined
		for n := range uint64(3) {
			if err := r.say(bob, says(n+1, "text")); err != nil {
				t.Fatal(err)
			}
			deliveries(1)
		}
		out.end <- struct{}{}
		deliveries(2)
		out.end <- struct{}{}
		deliveries(2)
		running := func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return anna.writer.running
		}
		if !running() {
			t.Error("the goroutine does not wait, although somebody has just spoken")
		}
		time.Sleep(linger)
		synctest.Wait()
		if running() {
			t.Error("the goroutine still runs, with nothing to deliver")
		}
		r.readOver(anna, errLeft)
		deliveries(3) // the goodbye
		out.end <- struct{}{}
		if err := <-anna.written; err != nil {
			t.Error(err)
		}
	})
}

// pingTimes notes when pings are delivered.
type pingTimes struct{ at []time.Time }

func (p *pingTimes) deliver(d *delivery) error {
	if d.ping {
		p.at = append(p.at, time.Now())
	}
	return nil
}

func (p *pingTimes) abort() {}

// TestPingWhileOthersTalk: a member gets a ping pingInterval after the last delivery, also while others send each other
// direct messages, of which the member receives nothing.
func TestPingWhileOthersTalk(t *testing.T) {
	for _, every := range []time.Duration{linger / 3, 7 * time.Second, pingInterval - linger/2} {
		synctest.Test(t, func(t *testing.T) {
			r, _ := quietRoom(t)
			carl, _ := enter(t, r, "carl", "key c", 3)
			anna, _ := enter(t, r, "anna", "key a", 1)
			bob, _ := enter(t, r, "bob", "key b", 2)
			var out pingTimes
			carl.out = &out
			r.start(carl)
			began := time.Now()
			l := lines{what: itemDirect, to: "bob", texts: [][]byte{[]byte("text")}}
			for time.Since(began) < 3*pingInterval {
				time.Sleep(every)
				l.first++
				if err := r.say(anna, l); err != nil {
					t.Fatal(err)
				}
				if err := r.hasRead(bob, r.queue.said); err != nil {
					t.Fatal(err)
				}
			}
			r.readOver(carl, errLeft)
			if err := <-carl.written; err != nil {
				t.Error(err)
			}
			if len(out.at) < 3 {
				t.Fatalf("%d pings in %v with a message every %v, want 3", len(out.at), time.Since(began), every)
			}
			for n, at := range out.at[:3] {
				if after := at.Sub(began); after != time.Duration(n+1)*pingInterval {
					t.Errorf("with a message every %v, ping %d came after %v", every, n+1, after)
				}
			}
		})
	}
}

// TestMarks: marks name each stream with lines, of a key the longest absent first and those in the room last, and what
// had to be forgotten.
func TestMarks(t *testing.T) {
	s := newStreams()
	for n := range 3 {
		st := s.join("key b", streamID{byte(n)})
		st.last = uint64(n) + 5
		if n > 0 {
			s.leave(st, false)
		}
	}
	silent := s.join("key c", streamID{1})
	s.leave(silent, false)
	other := s.join("key d", streamID{1})
	other.last = 9
	s.owners["key d"].forgot = true
	marks := s.appendMarks(nil)
	var r struct{ Streams json.RawMessage }
	if err := json.Unmarshal(marks, &r); err != nil {
		t.Fatalf("%v: %s", err, marks)
	}
	id := func(n int) string { return streamID{byte(n)}.String() }
	want := fmt.Sprintf(`{"key b":{"%s":6,"%s":7,"%s":5},"key d":{"forgotten":1,"%s":9}}`, id(1), id(2), id(0), id(1))
	if string(r.Streams) != want {
		t.Errorf("%s, want %s", r.Streams, want)
	}
}

// TestOneProcessor: on one processor, those who send at full speed let those who receive run, and make none of them a
// slow consumer. It is not parallel, since it takes the processors from everything else.
func TestOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, _ := quietRoom(t)
	var members []*member
	for i := range byte(8) {
		m, _ := enter(t, r, fmt.Sprintf("pipe%d", i), fmt.Sprint("key ", i), i+1)
		r.start(m)
		members = append(members, m)
	}
	texts := slices.Repeat([][]byte{bytes.Repeat([]byte("x"), 1000)}, 16)
	var senders sync.WaitGroup
	for _, m := range members {
		senders.Go(func() {
			for n := range 200 {
				l := lines{first: uint64(n*len(texts)) + 1, what: itemSay, texts: texts}
				if err := r.say(m, l); err != nil {
					t.Errorf("%s, batch %d: %v", m.name, n, err)
					return
				}
			}
		})
	}
	senders.Wait()
	for _, m := range members {
		r.readOver(m, errLeft)
		if err := <-m.written; err != nil || m.ending.reason != "" {
			t.Errorf("%s: %v; %q", m.name, err, m.ending.reason)
		}
	}
	if n := r.ahead.Load(); n != 0 {
		t.Errorf("%d bytes wait for a writer that has run", n)
	}
}

// TestOwnLinesAreNotUnread: a member whose goroutine does not run is no slow consumer of its own lines.
func TestOwnLinesAreNotUnread(t *testing.T) {
	r, _ := quietRoom(t)
	loud, _ := enter(t, r, "loud", "key l", 1)
	heard(t, r, loud)
	for n := range 2 * queueBytes / maxLine {
		if err := r.say(loud, says(uint64(n+1), strings.Repeat("x", maxLine))); err != nil {
			t.Fatal(err)
		}
	}
	if loud.ending.reason != "" || loud.out.(*stubReceiver).aborted != 0 {
		t.Errorf("a member that sent %d MiB has to leave: %q", 2*queueBytes>>20, loud.ending.reason)
	}
}

// TestManyConnectionsOfOne: a direct message takes one item however many connections its receiver has, so it pushes no
// member out of the queue. Each connection gets it once, also one that has just taken the place of another.
func TestManyConnectionsOfOne(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	idle, _ := enter(t, r, "idle", "key i", 1)
	for stream := range byte(queueBytes / maxLine) {
		enter(t, r, "bob", "key b", stream)
	}
	bob, _ := enter(t, r, "bob", "key b", 0) // in place of the first
	other, _ := enter(t, r, "bob", "key b", 255)
	for _, m := range []*member{anna, idle, bob, other} {
		heard(t, r, m)
	}
	text := strings.Repeat("x", maxLine)
	if err := r.say(anna, lines{first: 1, what: itemDirect, to: "bob", texts: [][]byte{[]byte(text)}}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{anna, idle} {
		wantHeard(t, r, m)
		if m.ending.reason != "" {
			t.Errorf("%s has to leave: %s", m.name, m.ending.reason)
		}
	}
	for _, m := range []*member{bob, other} {
		wantHeard(t, r, m, "direct anna "+text)
	}
}

// The gate: connections that are dropped before the handshake, for failures of their address or because of a crowd.

// shut is a connection that can only be closed, and counts that.
type shut struct{ times int }

func (s *shut) Close() error { s.times++; return nil }

// enters reports whether a handshake from ip may begin, which it ends at once, and the rejection otherwise.
func (g *gate) enters(ip string, now time.Time) *rejection {
	e, r := g.enter(new(shut), netip.MustParseAddr(ip), now)
	if r == nil {
		r = g.leave(e, now)
	}
	return r
}

// fill begins n handshakes, each from the address that from returns for its number.
func (g *gate) fill(t *testing.T, n int, from func(i int) netip.Addr) (entries []*entry) {
	t.Helper()
	for i := range n {
		e, r := g.enter(new(shut), from(i), testNow)
		if r != nil {
			t.Fatalf("%v, number %d: %v", from(i), i+1, r)
		}
		entries = append(entries, e)
	}
	return entries
}

func TestNetworks(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "[192.0.2.1 192.0.2.0/24 all networks]", "::ffff:192.0.2.1": "[192.0.2.1 192.0.2.0/24 all networks]",
		"2001:db8:1:2:3::4": "[2001:db8:1:2::/64 2001:db8:1::/56 2001:db8:1::/48 all networks]",
		"fe80::1%eth0":      "[fe80::/64 fe80::/56 fe80::/48 all networks]",
		"127.0.0.1":         "[loopback all networks]", "127.9.9.9": "[loopback all networks]",
		"::1":              "[loopback all networks]",
		"::ffff:127.0.0.1": "[loopback all networks]",
	} {
		if got := fmt.Sprint(networksOf(netip.MustParseAddr(ip))); got != want {
			t.Errorf("%s: %s, want %s", ip, got, want)
		}
	}
	if got := fmt.Sprint(networksOf(netip.Addr{})); got != "[loopback all networks]" {
		t.Errorf("no address: %s", got)
	}
}

// TestPenalties: failures add up, block an address after more than penaltyStart of them, are reported once, expire, and
// can be cleared.
func TestPenalties(t *testing.T) {
	g := newGate()
	now := testNow
	bad, mapped := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.1")
	for range 3 {
		g.penalise(bad, penaltyRefused, now)
		if r := g.enters("192.0.2.1", now); r != nil {
			t.Fatal("kept out for what is tolerated")
		}
	}
	g.penalise(mapped, penaltyRefused, now)
	r := g.enters("192.0.2.1", now)
	if r == nil || !r.first || r.Error() != "too many failed tries from 192.0.2.1: it is kept out for 20s" {
		t.Fatalf("got %+v", r)
	}
	if r := g.enters("::ffff:192.0.2.1", now); r == nil || r.first {
		t.Fatalf("a second time: %+v", r)
	}
	if g.enters("192.0.2.2", now) != nil || g.enters("127.0.0.1", now) != nil {
		t.Error("others are kept out too")
	}
	now = now.Add(19 * time.Second)
	if g.enters("192.0.2.1", now) == nil {
		t.Error("a penalty that has begun ends before its time")
	}
	now = now.Add(time.Second)
	if g.enters("192.0.2.1", now) != nil {
		t.Error("a penalty does not end")
	}
	for range 1000 {
		g.penalise(bad, penaltyInvite, now)
		g.penalise(netip.MustParseAddr("::1"), penaltyInvite, now)
	}
	if g.enters("192.0.2.1", now) == nil || g.enters("::1", now) != nil {
		t.Error("loopback is penalised, or the other is not")
	}
	if g.enters("192.0.2.2", now) != nil {
		t.Error("the failures of one address keep its network out")
	}
	if until := g.penalties[networksOf(bad)[0]].until; until != now.Add(penaltyMost) {
		t.Errorf("until %v, %v from now", until, until.Sub(now))
	}
	g.forgive(mapped)
	if g.enters("192.0.2.1", now) != nil {
		t.Error("a penalty outlives success")
	}
}

// TestNetworkPenalties: whoever owns a network has a fixed number of failures in it, however many addresses it has. Its
// networks then have to wait, and no others. A success at one of its addresses does not help the rest.
func TestNetworkPenalties(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		from         func(i int) netip.Addr
		most         int
		inside, last string
		outside      string
	}{
		{"an IPv4 /24", func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }, 25,
			"192.0.2.200", "192.0.2.0/24", "192.0.3.1"},
		{"the same in IPv6's form", func(i int) netip.Addr {
			return netip.AddrFrom16(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).As16())
		}, 25, "192.0.2.200", "192.0.2.0/24", "192.0.3.1"},
		{"an IPv6 /56", func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 0, byte(i)})
		}, 7, "2001:db8:1:a0::1", "2001:db8:1::/56", "2001:db8:1:100::1"},
		{"an IPv6 /48", func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, byte(i), byte(i >> 8)})
		}, 13, "2001:db8:1:ffff::1", "2001:db8:1::/48", "2001:db8:2::1"},
	} {
		g, failed := newGate(), 0
		for i := range 65536 {
			if g.enters(c.from(i).String(), testNow) == nil {
				failed++
				g.penalise(c.from(i), penaltyRefused, testNow)
			}
		}
		if failed != c.most {
			t.Errorf("%s: %d failures, want %d", c.name, failed, c.most)
		}
		g.forgive(netip.MustParseAddr(c.inside))
		if r := g.enters(c.inside, testNow); r == nil || !strings.HasPrefix(r.Error(), "too many failed tries from "+c.last) {
			t.Errorf("%s: %v", c.name, r)
		}
		if r := g.enters(c.outside, testNow); r != nil {
			t.Errorf("%s: its neighbour: %v", c.name, r)
		}
	}
}

// TestPenaltyBeforeTurn: a handshake that had begun before its network has to wait ends at its turn.
func TestPenaltyBeforeTurn(t *testing.T) {
	g := newGate()
	bad := netip.MustParseAddr("2001:db8::1")
	e := g.fill(t, 1, func(int) netip.Addr { return bad })[0]
	if err := g.hear(e, testNow); err != nil {
		t.Fatal(err)
	}
	g.penalise(bad, penaltyStart+time.Second, testNow)
	var r *rejection
	if err := g.hear(e, testNow); !errors.As(err, &r) || !r.first {
		t.Errorf("got %v", err)
	}
	if err := g.hear(e, testNow); !errors.As(err, &r) || r.first {
		t.Errorf("a second time: %v", err)
	}
}

// TestPenaltiesAreBounded: the number of penalties is bounded. The one that would expire first is removed.
func TestPenaltiesAreBounded(t *testing.T) {
	t.Parallel()
	g := newGate()
	source := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, byte(i >> 8), byte(i), 1}) }
	for i := range maxPenalties {
		g.penalise(source(i), penaltySilent+time.Duration(maxPenalties-i)*time.Millisecond, testNow)
	}
	for range 2 {
		g.penalise(netip.MustParseAddr("192.0.2.1"), penaltyInvite, testNow)
	}
	if len(g.penalties) != maxPenalties || g.penalties[networksOf(source(0))[0]] == nil ||
		g.penalties[networksOf(source(0))[1]] != nil {
		t.Errorf("%d penalties, or the wrong one is gone", len(g.penalties))
	}
	if g.enters("192.0.2.1", testNow) == nil {
		t.Error("a connection beyond a full table is admitted")
	}
	g.penalise(netip.MustParseAddr("192.0.2.2"), penaltyLeft, testNow.Add(time.Hour))
	if len(g.penalties) != 2 {
		t.Errorf("%d penalties are kept after their time", len(g.penalties))
	}
}

// TestCrowd: handshakes in progress are limited in each network and in all together. A full network reports this
// seldom.
func TestCrowd(t *testing.T) {
	for name, c := range map[string]struct {
		most    int
		from    func(i int) netip.Addr
		another string
	}{
		"an address": {64, func(int) netip.Addr { return netip.MustParseAddr("192.0.2.1") }, "192.0.2.1"},
		"an IPv4 /24": {96, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) },
			"192.0.2.95"},
		"an IPv6 /64": {64, func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 15: byte(i)}) }, "2000::ffff"},
		"an IPv6 /56": {96, func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 7: byte(i)}) }, "2000:0:0:5f::1"},
		"an IPv6 /48": {128, func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 6: byte(i)}) },
			"2000:0:0:7f00::1"},
		"loopback": {maxHandshakes, func(int) netip.Addr { return netip.MustParseAddr("127.0.0.1") }, "::1"},
		"all": {maxHandshakes, func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(i), 1}) },
			"192.0.255.1"},
	} {
		g := newGate()
		entries := g.fill(t, c.most, c.from)
		for _, e := range entries {
			if err := g.hear(e, testNow); err != nil {
				t.Fatal(err)
			}
		}
		reports := 0
		for i := range 120 {
			if r := g.enters(c.another, testNow.Add(time.Duration(i)*time.Second)); r == nil {
				t.Fatalf("%s: one too many is let in", name)
			} else if r.first {
				reports++
			}
		}
		if reports != 2 {
			t.Errorf("%s: %d reports in two minutes", name, reports)
		}
		for _, e := range entries {
			if r := g.leave(e, testNow); r != nil || e.conn.(*shut).times != 0 {
				t.Errorf("%s: ended for one that was rejected: %v", name, r)
			}
		}
		if r := g.enters(c.another, testNow); r != nil || len(g.entries) != 0 || len(g.held) != 0 {
			t.Errorf("%s: room again, and yet %v, %d entries, %d networks", name, r, len(g.entries), len(g.held))
		}
	}
}

// TestNewcomerInACrowd: a newcomer in a full network replaces the oldest handshake of the neighbour that has the most,
// in each tier and among all networks.
func TestNewcomerInACrowd(t *testing.T) {
	v4 := func(ip ...byte) netip.Addr { return netip.AddrFrom4([4]byte(ip)) }
	for name, c := range map[string]struct {
		most     int
		from     func(i int) netip.Addr
		newcomer string
		evicted  int // the number of the handshake that ends
	}{
		"one address fills its /24": {96, func(i int) netip.Addr { return v4(192, 0, 2, byte(max(0, 32-i))) }, "192.0.2.99",
			32},
		"one /64 fills its /56": {96, func(i int) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 7: byte(max(0, 32-i))})
		}, "2000:0:0:99::1", 32},
		"three networks fill the server": {256, func(i int) netip.Addr {
			return v4(192, 0, []byte{1, 2, 3}[min(2, i/85)], byte(i%85))
		}, "2000::1", 170},
		"everyone has one":            {256, func(i int) netip.Addr { return v4(192, 0, byte(i), 1) }, "2000::1", 0},
		"loopback has all":            {256, func(int) netip.Addr { return netip.MustParseAddr("::1") }, "2000::1", 0},
		"loopback has been silent":    {256, func(int) netip.Addr { return netip.MustParseAddr("::1") }, "127.0.0.1", 1},
		"one address has been silent": {64, func(int) netip.Addr { return v4(192, 0, 2, 1) }, "192.0.2.1", 1},
		"loopback comes": {256, func(i int) netip.Addr { return v4(192, 0, byte(i%4), byte(i)) }, "127.0.0.1",
			0},
	} {
		g := newGate()
		entries := g.fill(t, c.most, c.from)
		if err := g.hear(entries[0], testNow); err != nil {
			t.Fatal(err)
		}
		now := testNow.Add(silentGrace - 1)
		if strings.HasSuffix(name, "silent") {
			if r := g.enters(c.newcomer, now); r == nil {
				t.Errorf("%s, for too short a time: it is replaced", name)
			}
			now = now.Add(1)
		}
		if r := g.enters(c.newcomer, now); r != nil {
			t.Errorf("%s: %v", name, r)
			continue
		}
		for i, e := range entries {
			r := g.leave(e, testNow)
			if gone := r != nil; gone != (i == c.evicted) || e.conn.(*shut).times != map[bool]int{true: 1}[gone] {
				t.Errorf("%s: number %d: %v, closed %d times", name, i, r, e.conn.(*shut).times)
			}
		}
		if len(g.entries) != 0 || len(g.held) != 0 {
			t.Errorf("%s: %d entries and %d networks are left", name, len(g.entries), len(g.held))
		}
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
		{os.ErrDeadlineExceeded, penaltySilent}, {fmt.Errorf("%w: %w", errBusy, io.EOF), 0}, {io.ErrUnexpectedEOF,
			penaltyLeft}, {errTruncated, penaltyLeft},
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

// farServer is a server in a synctest bubble whose clients come from any address.
type farServer struct {
	*farListener
	t    *testing.T
	me   *party // of the server and of all clients
	told *watched
}

// serveFar runs test in a bubble, with a server, which it stops afterwards. The log can then be read.
func serveFar(t *testing.T, test func(t *testing.T, s *farServer)) (path string) {
	t.Helper()
	dir := state(t, "anna")
	k, err := loadKeys(keyOptions{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	me := partyOf(t, k.signer, k.encryption)
	path = filepath.Join(t.TempDir(), "log")
	put(t, filepath.Join(dir, "authorized_keys"), []byte(publicLine(k.signer.PublicKey(), "anna")))
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
		test(t, &farServer{l, t, me, told})
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		c.close()
		if err := log.close(); err != nil {
			t.Error(err)
		}
	})
	return path
}

// silent connects from ip, and returns the connection if the server sends a hello, else nil.
func (s *farServer) silent(ip string) net.Conn {
	conn := s.dial(ip)
	if _, err := readFrame(conn, maxHandshakeFrame); err != nil {
		conn.Close()
		return nil
	}
	return conn
}

// try fails a handshake and reports whether the server sent a hello.
func (s *farServer) try(ip string) bool {
	conn := s.silent(ip)
	if conn == nil {
		return false
	}
	defer conn.Close()
	if err := writeFrame(conn, make([]byte, 100)); err != nil {
		s.t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		s.t.Errorf("after a failure: %v", err)
	}
	return true
}

// succeed joins from ip and leaves.
func (s *farServer) succeed(ip string) error {
	conn := s.dial(ip)
	defer conn.Close()
	secrets, err := clientHandshake(conn, s.me, trustAll, nil)
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

// refusals counts the log's records of refusals of client whose reason starts with text.
func refusals(t *testing.T, path, client, text string) (n int) {
	t.Helper()
	for _, r := range records(t, path) {
		if r["event"] == eventRefused && strings.HasPrefix(r["reason"].(string), text) && r["client"] == client {
			n++
		}
	}
	return n
}

// TestServerPenalises: the server drops connections of an address with too many failures before any cryptography, and
// of no other address. A success clears the failures.
func TestServerPenalises(t *testing.T) {
	path := serveFar(t, func(t *testing.T, s *farServer) {
		for i := range 4 {
			if !s.try("192.0.2.1") {
				t.Errorf("try %d: kept out already", i+1)
			}
		}
		for range 10 {
			if s.try("192.0.2.1") {
				t.Error("not kept out after four failures")
			}
			if !s.try("127.0.0.1") {
				t.Error("loopback is kept out")
			}
		}
		if err := s.succeed("192.0.2.2"); err != nil {
			t.Errorf("a neighbour: %v", err)
		}
		<-time.After(20 * time.Second)
		for range 3 {
			if !s.try("192.0.2.1") {
				t.Error("kept out for too long")
			}
		}
		if err := s.succeed("192.0.2.1"); err != nil {
			t.Error(err)
		}
		for range 2 {
			if !s.try("192.0.2.1") {
				t.Error("success does not clear what failed before")
			}
		}
		for range 2 {
			if s.silent("192.0.2.3") == nil {
				t.Error("kept out before it was silent")
			}
		}
		<-time.After(handshakeTimeout + time.Second)
		if s.try("192.0.2.3") {
			t.Error("silence costs nothing")
		}
		early := s.silent("192.0.2.4")
		for range 4 {
			s.try("192.0.2.4")
		}
		if err := writeFrame(early, make([]byte, 100)); err != nil {
			t.Error(err)
		}
		s.told.match(t, "refused 192.0.2.4:4711: stage 1: too many failed tries from 192.0.2.4: it is kept out for 20s")
		s.told.match(t, "refused 192.0.2.1:4711: too many failed tries from 192.0.2.1: it is kept out for")
	})
	if n := refusals(t, path, "192.0.2.1:4711", "too many failed tries from 192.0.2.1:"); n != 1 {
		t.Errorf("%d records of it", n)
	}
}

// TestServerUnderAttack: an attacker with all of a /24 and a /48 fills its networks with silent connections and fails
// as often as it can. Clients from elsewhere join at once, also when further networks take all places.
func TestServerUnderAttack(t *testing.T) {
	path := serveFar(t, func(t *testing.T, s *farServer) {
		join := func(ip string) {
			t.Helper()
			begin := time.Now()
			if err := s.succeed(ip); err != nil || time.Since(begin) > time.Second {
				t.Errorf("%s: %v after %v", ip, err, time.Since(begin))
			}
		}
		var silent []net.Conn
		hold := func(n int, from func(i int) string) (held int) {
			for i := range n {
				if conn := s.silent(from(i)); conn != nil {
					silent = append(silent, conn)
					held++
				}
			}
			return held
		}
		tries := 0
		for i := range 1000 {
			if s.try(fmt.Sprintf("2001:db8:1:%x::1", i*64)) {
				tries++
			}
			if s.try(fmt.Sprintf("198.51.100.%d", i%256)) {
				tries++
			}
		}
		if tries != 13+25 {
			t.Errorf("%d failures are free", tries)
		}
		join("203.0.113.1")
		<-time.After(penaltyMost)
		if n := hold(400, func(i int) string { return "198.51.100.1" }); n != 64 {
			t.Errorf("one address has %d places", n)
		}
		hold(400, func(i int) string { return fmt.Sprintf("198.51.100.%d", i%256) })
		hold(400, func(i int) string { return fmt.Sprintf("2001:db8:1:%x::1", i*64) })
		join("203.0.113.1")
		join("2001:db8:2::1")
		for i := range 100 {
			hold(10, func(int) string { return fmt.Sprintf("10.%d.0.1", i) })
		}
		join("203.0.113.1")
		join("127.0.0.1")
		for _, conn := range silent {
			conn.Close()
		}
		synctest.Wait()
	})
	const full = "64 handshakes from 198.51.100.1 are in progress: dropped 1 conn"
	if n := refusals(t, path, "198.51.100.1:4711", full); n != 1 {
		t.Errorf("%d records of full networks", n)
	}
}

// The room's memory: what was said reaches those it was for, once and in order, over restarts of the server and of the
// clients, and nobody else.

// home is a server's place: its keys, its log and its address, over restarts.
type home struct {
	t         *testing.T
	dir, addr string
	log       string
	args      []string
	rotated   int // files that rotate has made
	boots     int // calls of reboot
	server    *proc
}

func newHome(t *testing.T, args ...string) *home {
	t.Helper()
	h := &home{t: t, dir: state(t, "anna"), addr: freeAddr(t), log: filepath.Join(t.TempDir(), "connection.log"),
		args: args}
	h.start()
	return h
}

func (h *home) start() {
	h.t.Helper()
	h.server = serveAt(h.t, h.t.TempDir(), h.addr, append([]string{"-dir", h.dir, "-log", h.log}, h.args...)...)
}

func (h *home) kill() {
	h.t.Helper()
	h.server.cmd.Process.Kill()
	<-h.server.ended
}

func (h *home) restart() {
	h.t.Helper()
	h.kill()
	h.start()
}

// rotate renames the log as logrotate does, and the files that earlier rotations have left. The server has to be
// restarted or hung up.
func (h *home) rotate() {
	h.t.Helper()
	for n := h.rotated; n >= 0; n-- {
		from := fmt.Sprintf("%s.%d", h.log, n)
		if n == 0 {
			from = h.log
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", h.log, n+1)); err != nil {
			h.t.Fatal(err)
		}
	}
	h.rotated++
}

// connect starts a client of the key in dir.
func (h *home) connect(dir string, args ...string) *proc {
	h.t.Helper()
	return start(h.t, h.t.TempDir(), append([]string{"-connect", h.addr, "-dir", dir}, args...)...)
}

// say sends lines as the key in dir and checks the exit status and stderr.
func (h *home) say(dir, lines string, code int, words string, args ...string) {
	h.t.Helper()
	_, stderr, got := runToEnd(h.t, h.t.TempDir(), lines,
		append([]string{"-connect", h.addr, "-dir", dir, "-quiet"}, args...)...)
	wantRun(h.t, "sending "+lines, stderr, got, code, words)
}

// resume runs a program that keeps its place in file and ends after n messages, and returns these.
func (h *home) resume(dir, file string, n int) string {
	h.t.Helper()
	p := h.connect(dir, "-resume", file, "-count", fmt.Sprint(n))
	if code := p.wait(); code != exitDone {
		h.t.Errorf("-resume: exit %d: %s", code, p.err)
	}
	return p.out.String()
}

// seqs returns the numbers of the messages in a log.
func seqs(t *testing.T, paths ...string) (all []int) {
	t.Helper()
	for _, path := range paths {
		for _, r := range records(t, path) {
			if r["event"] == eventMessage {
				all = append(all, int(r["seq"].(float64)))
			}
		}
	}
	return all
}

// TestNumbersGoOn: the numbers of messages and the epoch go on over a kill, a stop and a rotation; without a log to go
// on from there is another epoch.
func TestNumbersGoOn(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	bob := guest(t, h.dir, h.addr, "bob")
	h.say(bob, "one\ntwo\n", exitDone, "^$")
	h.restart()
	h.say(bob, "three\n", exitDone, "^$")
	h.kill()
	h.rotate()
	h.start()
	h.say(bob, "four\n", exitDone, "^$")
	if got := seqs(t, h.log+".1", h.log); !slices.Equal(got, []int{1, 2, 3, 4}) {
		t.Errorf("the messages have the numbers %v", got)
	}
	epochs := map[string]bool{}
	for _, path := range []string{h.log + ".1", h.log} {
		for _, r := range records(t, path) {
			if r["event"] == eventStart {
				epochs[recordField(r, "epoch")] = true
			}
		}
	}
	h.kill()
	if err := os.Rename(h.log, h.log+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(h.log + ".1"); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.say(bob, "five\n", exitDone, "^$")
	if other := recordField(records(t, h.log)[0], "epoch"); len(epochs) != 1 || epochs[other] || len(other) != 16 {
		t.Errorf("epochs %v, and then %s", epochs, other)
	}
}

// TestResumeFile: a program with -resume gets each message once, over kills of the server, a rotation, and starts of
// its own. Without the file it begins with now.
func TestResumeFile(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	bob, cleo := guest(t, h.dir, h.addr, "bob"), guest(t, h.dir, h.addr, "cleo")
	h.say(cleo, "", exitDone, "^$") // cleo has been here
	h.say(bob, "before\n", exitDone, "^$")
	file := filepath.Join(t.TempDir(), "place")
	p := h.connect(cleo, "-resume", file, "-count", "1")
	h.server.err.match(t, "(?s)cleo joined.*cleo joined")
	h.say(bob, "one\ntwo\nthree\n", exitDone, "^$")
	if p.wait(); p.out.String() != "bob: one\n" {
		t.Errorf("first %q", p.out)
	}
	h.kill()
	h.rotate()
	h.start()
	h.say(bob, "four\n", exitDone, "^$")
	h.restart()
	if got := h.resume(cleo, file, 2); got != "bob: two\nbob: three\n" {
		t.Errorf("after restarts %q", got)
	}
	h.say(bob, "five\n", exitDone, "^$")
	if got := h.resume(cleo, file, 2); got != "bob: four\nbob: five\n" {
		t.Errorf("at last %q", got)
	}
	since := h.connect(cleo, "-json", "-since", "4", "-count", "2")
	if since.wait(); !matches(`(?s)"seq":5.*"four".*"seq":6.*"five"`, since.out.String()) ||
		matches(`"gap"|"join"`, since.out.String()) {
		t.Errorf("-since 4: %s", since.out)
	}
	last := h.connect(cleo, "-last", "2", "-count", "2")
	if last.wait(); last.out.String() != "bob: four\nbob: five\n" {
		t.Errorf("-last 2: %q", last.out)
	}
	left := file + "-folder"
	others := []string{".place.1", ".place.securechat-x", ".place.securechat-2", ".placebo.securechat-1", "place.1",
		".place.securechat-"}
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * leftoverAge)
	for _, name := range append(others, ".place.securechat-1") {
		put(t, filepath.Join(left, name), nil)
		if err := os.Chtimes(filepath.Join(left, name), long, long); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(left, ".place.securechat-2"), nil) // perhaps of a program that runs
	h.say(cleo, "", exitDone, "^$", "-resume", filepath.Join(left, "place"))
	if got := entryNames(t, left); !slices.Equal(got, slices.Sorted(slices.Values(append(others, "place")))) {
		t.Errorf("the folder of the file has %q", got)
	}
	put(t, file, []byte("no place\n"))
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-connect", h.addr, "-dir", cleo, "-resume", file)
	wantRun(t, "a damaged file", stderr, code, exitTrouble, "has no place in a room: remove it")
}

// bootField matches the field of a record that has the system's start.
var bootField = regexp.MustCompile(`"boot":"[^"]*"`)

// reboot kills the server and makes its log one of another start of the system, which ends before the message text, or
// has all of it if text is "".
func (h *home) reboot(text string) {
	h.t.Helper()
	h.kill()
	h.boots++
	log := readText(h.t, h.log)
	if at := strings.Index(log, `"message":"`+text+`"`); text != "" && at > 0 {
		log = log[:strings.LastIndexByte(log[:at], '\n')+1]
	}
	b := []byte(bootField.ReplaceAllString(log, fmt.Sprintf(`"boot":"another %d"`, h.boots)))
	b = b[:bytes.LastIndexByte(b, '\n')+1] // without a torn record
	head, _ := prevOf(b[:bytes.IndexByte(b, '\n')+1])
	chain(b, head)
	put(h.t, h.log, b)
}

// TestPowerCut: after a power cut that has shortened the log, no number is used again, and a client whose place the log
// does not reach is told of a gap and receives what follows. The others, and everybody after a power cut without a
// loss, receive what they missed without a word about a gap, also after further restarts.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	h := newHome(t, "-history", "6")
	bob := guest(t, h.dir, h.addr, "bob")
	files := t.TempDir()
	dirs := map[string]string{}
	resume := func(name string, n int) string { // what a program with this key and a file gets, with the reports of gaps
		t.Helper()
		p := h.connect(dirs[name], "-resume", filepath.Join(files, name), "-count", fmt.Sprint(n))
		if code := p.wait(); code != exitDone {
			t.Errorf("-resume: exit %d", code)
		}
		return strings.ReplaceAll(p.out.String(), "\n", " ") + p.err.String()
	}
	visit := func(name string) {
		p := h.connect(dirs[name], "-resume", filepath.Join(files, name))
		p.stdin.Close()
		p.wait()
	}
	for _, name := range []string{"behind", "ahead", "later", "first"} {
		dirs[name] = guest(t, h.dir, h.addr, name)
		visit(name)
	}
	const gap = "securechat: some messages were missed: the server no longer has them\n"
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s got %q, want %q", what, got, want)
		}
	}
	h.say(bob, "one\ntwo\n", exitDone, "^$")
	want("ahead", resume("ahead", 2), "bob: one bob: two ")
	h.reboot("two")
	h.start()
	h.server.err.match(t, "the last messages may be missing; further ones have numbers above 1000000000")
	want("first", resume("first", 1), "bob: one ")
	visit("first")
	h.restart()
	h.say(bob, "three\n", exitDone, "^$")
	want("first, which came before the first message after the loss,", resume("first", 1), "bob: three ")
	want("behind, before the loss is known,", resume("behind", 2), "bob: one bob: three ")
	want("ahead", resume("ahead", 1), "bob: three "+gap)
	want("later, which has missed what ahead had,", resume("later", 2), "bob: one bob: three "+gap)
	h.say(bob, "four\n", exitDone, "^$")
	h.restart()
	h.say(bob, "five\n", exitDone, "^$")
	want("behind, after a kill,", resume("behind", 2), "bob: four bob: five ")
	h.reboot("")
	h.start()
	h.say(bob, "six\n", exitDone, "^$")
	want("ahead, after a power cut without a loss,", resume("ahead", 3), "bob: four bob: five bob: six ")
	h.restart()
	want("later, after a further kill,", resume("later", 3), "bob: four bob: five bob: six ")
	h.server.cmd.Process.Signal(os.Interrupt)
	h.server.wait()
	h.reboot("")
	h.start()
	h.say(bob, "seven\n", exitDone, "^$")
	want("behind, after a stop,", resume("behind", 2), "bob: six bob: seven ")
	all := h.connect(dirs["later"], "-since", "0", "-count", "6")
	all.wait()
	want("-since 0, whose history reaches over both,", strings.ReplaceAll(all.out.String(), "\n", " ")+all.err.String(),
		"bob: one bob: three bob: four bob: five bob: six bob: seven ")
	if got, want := seqs(t, h.log), []int{1, 1e9 + 1, 1e9 + 2, 1e9 + 3, 2e9 + 1, 2e9 + 2}; !slices.Equal(got, want) {
		t.Errorf("the messages have the numbers %v, want %v", got, want)
	}
}

// TestStartIsOnDisk: after a power cut that leaves what was synced and nothing else, no number is used again, also if
// the log ended with a stop before the last start, or if this start itself has skipped numbers.
func TestStartIsOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	var onDisk []byte
	used := map[uint64]bool{}
	start := func(boot int) *room { // of a system that had a power cut, unless boot is that of the start before
		t.Helper()
		l, err := openLog(logOptions{path: path})
		if err != nil {
			t.Fatal(err)
		}
		l.syncFile = func(*os.File) error {
			onDisk = []byte(bootField.ReplaceAllString(readText(t, path), fmt.Sprintf(`"boot":"%d"`, boot)))
			return nil
		}
		r, err := newRoom(l, 10, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.recordStart(recordOf(time.Now(), eventStart, r.began(), "", "")); err != nil {
			t.Fatal(err)
		}
		m, _ := enter(t, r, "anna", "key a", byte(boot))
		if err := r.say(m, says(1, "text")); err != nil {
			t.Fatal(err)
		}
		if used[r.queue.said] {
			t.Errorf("start %d: number %d is used again", boot, r.queue.said)
		}
		used[r.queue.said] = true
		return r
	}
	r := start(1)
	r.log.record(recordOf(time.Now(), eventStop, nil, "", ""), nil)
	r.log.close()
	for boot := range 3 {
		start(boot + 2).log.close()
		put(t, path, onDisk)
	}
}

// entryNames returns the names of what is in a folder.
func entryNames(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestReconnectWithoutSeam: a receiver that reconnects gets each message once over a restart of the server, and is told
// of no gap. One that cannot be given everything is told of it, with the number that follows.
func TestReconnectWithoutSeam(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		gap  bool
	}{"text": {nil, false}, "digests": {[]string{"-log-text=false"}, true}, "no history": {[]string{"-history", "0"},
		true},
		"no log": {[]string{"-log", "off"}, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t, c.args...)
			bob, cleo := guest(t, h.dir, h.addr, "bob"), guest(t, h.dir, h.addr, "cleo")
			file := filepath.Join(t.TempDir(), "place")
			h.say(bob, "", exitDone, "^$")
			ear := h.connect(cleo, "-json", "-reconnect", "-stay")
			ear.out.match(t, `"type":"welcome"`)
			program := h.connect(cleo, "-resume", file, "-count", "1")
			h.server.err.match(t, "(?s)cleo joined.*cleo joined")
			h.say(bob, "one\n", exitDone, "^$")
			ear.out.match(t, `"one"`)
			program.wait()
			h.say(bob, "two\n", exitDone, "^$") // cleo's program is not here
			ear.out.match(t, `"two"`)
			h.restart()
			ear.out.match(t, `(?s)"two".*"type":"welcome"`)
			h.say(bob, "three\n", exitDone, "^$")
			ear.out.match(t, `"three"`)
			missed := name == "no log" // then the server cannot know
			if got := strings.Contains(ear.out.String(), `"gap":true`); got != missed {
				t.Errorf("who missed nothing is told of a gap: %v", got)
			}
			if got := strings.Count(ear.out.String(), `"what":"say"`); got != 3 {
				t.Errorf("%d messages", got)
			}
			again := h.connect(cleo, "-json", "-resume", file, "-to", "nobody")
			again.send("{\"text\":\"x\"}\n") // what was missed comes before the acknowledgement
			again.stdin.Close()
			again.wait()
			out := again.out.String()
			switch {
			case c.gap && name == "digests" && !matches(`"seq":3,"epoch":"\w+","gap":true.*\n.*"seq":3.*"three"`, out),
				c.gap && !strings.Contains(out, `"gap":true`),
				!c.gap && (strings.Contains(out, `"gap"`) || !strings.Contains(out, `"two"`)):
				t.Errorf("after a restart: %s", out)
			}
		})
	}
}

// TestKeptDirect: a direct message to somebody who is away is kept, over a restart, for that key alone, and the sender
// is told so. One that the receiver's client has read is delivered, one that it does not read is kept.
func TestKeptDirect(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	bob, cleo, dora := guest(t, h.dir, h.addr, "bob"), guest(t, h.dir, h.addr, "cleo"), guest(t, h.dir, h.addr, "dora")
	h.say(bob, "lost\n", exitTrouble, "nobody here is called cleo", "-to", "cleo")
	files := map[string]string{cleo: filepath.Join(t.TempDir(), "c"), dora: filepath.Join(t.TempDir(), "d")}
	for dir, file := range files {
		p := h.connect(dir, "-resume", file)
		p.stdin.Close()
		p.wait()
	}
	h.say(bob, "psst\n", exitTrouble, "cleo is not here; what you sent is kept for cleo", "-to", "cleo")
	h.restart()
	h.say(bob, "all\n", exitDone, "^$")
	if got := h.resume(dora, files[dora], 1); got != "bob: all\n" {
		t.Errorf("dora got %q", got)
	}
	if got := h.resume(cleo, files[cleo], 2); got != "bob (to you): psst\nbob: all\n" {
		t.Errorf("cleo got %q", got)
	}
	here := h.connect(cleo, "-stay")
	h.server.err.match(t, "(?s)cleo joined.*cleo joined")
	h.say(bob, "now\n", exitDone, "^$", "-to", "cleo")
	here.out.match(t, "bob \\(to you\\): now\n")
	deaf, _ := joinSession(t, h.addr, partyIn(t, dora), joinRequest{stream: streamID{1}, flags: joinListens})
	h.say(bob, "hello?\n", exitTrouble, "dora has not read it yet; what you sent is kept for dora", "-to", "dora")
	deaf.conn.Close()
	if got := h.resume(dora, files[dora], 1); got != "bob (to you): hello?\n" {
		t.Errorf("dora got %q", got)
	}
}

// TestNameOfTwoKeys: a direct message to a name that a key here and a key that is away have goes to neither. With the
// suffix it goes to one, and once the key that is away is not admitted any more, the name alone means the other. Nobody
// can be taken for the one who left: the other has the suffix from its first join on.
func TestNameOfTwoKeys(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	list := filepath.Join(h.dir, "authorized_keys")
	bob, first, second := guest(t, h.dir, h.addr, "bob"), guest(t, h.dir, h.addr, "first"), guest(t, h.dir, h.addr,
		"second")
	line := func(dir, name string) string { return publicKeyOf(t, dir) + " " + name + "\n" }
	put(t, list, []byte(line(bob, "bob")+line(first, "anne")+line(second, "Anne")))
	h.say(first, "I was here\n", exitDone, "^$")
	h.restart()
	here := h.connect(second, "-stay", "-reconnect")
	h.server.err.match(t, `Anne~\w{8} joined`)
	h.say(bob, "which\n", exitTrouble,
		`anne is ambiguous: say which, Anne~\w{8} or anne~\w{8}; what you sent is in the log only`,
		"-to", "anne")
	_, stderr, _ := runToEnd(t, t.TempDir(), "which\n", "-connect", h.addr, "-dir", bob, "-to", "anne")
	full := regexp.MustCompile(`anne~\w{8}`).FindString(stderr)
	h.say(bob, "to the one away\n", exitTrouble, "anne is not here; what you sent is kept for anne", "-to", full)
	p := h.connect(first, "-since", "0", "-count", "2")
	if p.wait(); p.out.String() != "anne: I was here\nbob (to you): to the one away\n" {
		t.Errorf("the one who was away got %q", p.out)
	}
	h.server.err.match(t, "anne~\\w{8} left")
	put(t, list, []byte(line(bob, "bob")+line(second, "Anne")))
	h.restart()
	h.server.err.match(t, "Anne joined")
	h.say(bob, "to the one here\n", exitDone, "^$", "-to", "anne")
	here.out.match(t, `bob \(to you\): to the one here\n`)
	if strings.Contains(here.out.String(), "which") || strings.Contains(here.out.String(), "away") {
		t.Errorf("the one here got %q", here.out)
	}
}

// TestNotForStrangers: what was said before a key first came, or while it was revoked, is not for it, also after a
// restart.
func TestNotForStrangers(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	bob, cleo := guest(t, h.dir, h.addr, "bob"), guest(t, h.dir, h.addr, "cleo")
	list := filepath.Join(h.dir, "authorized_keys")
	everybody := readText(t, list)
	onlyBob := everybody[:strings.Index(everybody, "\n")+1]
	all := func() string {
		t.Helper()
		p := h.connect(cleo, "-since", "0", "-to", "nobody")
		p.send("x\n") // what was missed comes before the acknowledgement
		p.stdin.Close()
		p.wait()
		return p.out.String()
	}
	h.say(bob, "before\n", exitDone, "^$")
	h.restart()
	if got := all(); got != "" {
		t.Errorf("a newcomer got %q", got)
	}
	h.say(bob, "for cleo too\n", exitDone, "^$")
	h.restart()
	if got := all(); got != "bob: for cleo too\n" {
		t.Errorf("cleo got %q", got)
	}
	h.kill()
	put(t, list, []byte(onlyBob))
	h.start() // the list has changed while no server was running
	h.say(bob, "without cleo\n", exitDone, "^$")
	h.kill()
	put(t, list, []byte(everybody))
	h.start()
	if got := all(); got != "" {
		t.Errorf("after the revocation cleo got %q", got)
	}
	h.say(bob, "again\n", exitDone, "^$")
	h.restart()
	if got := all(); got != "bob: again\n" {
		t.Errorf("at last cleo got %q", got)
	}
}

// TestOldLog: a server goes on with a log of an earlier version, whose messages have no numbers.
func TestOldLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	who := newPeerFields("192.0.2.1:1", "bob", "key b", streamID{2}.String(), nil)
	b := appendRecord(nil, time.Now(), eventStart, nil, "", "")
	b = appendRecord(b, time.Now(), eventConnect, who, "by", "authorized_keys:1")
	message := appendMessages(nil, time.Now(), who, says(1, "old"), 1, false)
	b = append(b, bytes.Replace(message, []byte(`,"seq":1`), nil, 1)...)
	chain(b, [32]byte{})
	put(t, path, b)
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	r, err := newRoom(l, 10, false)
	if err != nil || r.queue.said != 0 || r.epoch == [8]byte{} {
		t.Fatalf("%d messages, %v", r.queue.said, err)
	}
	m, w := enter(t, r, "bob", "key b", 2)
	if w.recorded != 1 || w.flags != 0 {
		t.Errorf("welcome %v", w)
	}
	wantHeard(t, r, m)
}

// TestNumberTooLarge: a start refuses a log with numbers that come near those that no start reads. A number that
// no record of this program has counts as none.
func TestNumberTooLarge(t *testing.T) {
	const limit = 1 << 61
	for number, refused := range map[uint64]bool{limit: false, limit + 1: true, 1 << 62: true, 1<<62 + 1: false} {
		for _, event := range []string{eventRoom, eventMessage} {
			path := filepath.Join(t.TempDir(), "connection.log")
			put(t, path, fmt.Appendf(nil, recordBegin+`2026-01-02T03:04:05.000000Z","event":"%s","epoch":"0011223344556677",`+
				`"seq":%d,"message":"x"`+recordPrev+noHash+recordEnd, event, number))
			l, err := openLog(logOptions{path: path})
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if _, err := newRoom(l, 10, false); refused != (err != nil) {
				t.Errorf("number %d in a record %s: %v", number, event, err)
			}
		}
	}
}

// reopened returns the room that a start makes of the log of r.
func reopened(t *testing.T, r *room, history int) *room {
	t.Helper()
	r.log.close()
	l, err := openLog(logOptions{path: r.log.path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	again, err := newRoom(l, history, false)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// visit makes a person at a terminal join.
func visit(t *testing.T, r *room, name, key string, stream byte) (*member, welcome) {
	t.Helper()
	m := stubMember(name, key, stream)
	w, err := r.join(m, joinRequest{stream: streamID{stream}, flags: joinListens | joinPerson}, true)
	if err != nil {
		t.Fatal(err)
	}
	return m, w
}

// TestReadingRestored: a person gets after a restart what the terminal has not acknowledged, without the own lines;
// joins and leaves take no places of the history.
func TestReadingRestored(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 100
	anna, _ := visit(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	heard(t, r, anna)
	if err := r.say(bob, says(1, "one", "\x00\xff two \"\\", "three")); err != nil {
		t.Fatal(err)
	}
	heard(t, r, anna)
	if err := r.hasRead(anna, 1); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(6) {
		if err := r.hasRead(anna, seq); (err == nil) != (seq == 1) && seq != 2 && seq != 3 || seq > 3 && err == nil {
			t.Errorf("an acknowledgement of %d: %v", seq, err)
		}
		anna.read = 1
	}
	r.visitors.byKey["key a"].read = 1
	if err := r.say(anna, says(1, "my own")); err != nil {
		t.Fatal(err)
	}
	for n := range byte(60) {
		m, _ := enter(t, r, "cleo", "key c", 10+n)
		r.leave(m, "lost")
	}
	r = reopened(t, r, 4)
	anna, w := visit(t, r, "anna", "key a", 3)
	if w.flags != 0 || w.seq != 1 || w.present != 4 {
		t.Errorf("welcome %+v", w)
	}
	wantHeard(t, r, anna, "notice  2 messages while you were away:", "say bob \x00\xff two \"\\", "say bob three")
	r.leave(anna, errLeft.Error()) // without an acknowledgement
	r = reopened(t, r, 2)
	anna, w = visit(t, r, "anna", "key a", 4)
	if w.flags != welcomeGap || w.seq != 2 {
		t.Errorf("welcome %+v", w)
	}
	wantHeard(t, r, anna, "notice  1 message while you were away:", "say bob three")
	if err := r.hasRead(anna, 4); err != nil {
		t.Fatal(err)
	}
	r.leave(anna, "lost")
	anna, w = visit(t, reopened(t, r, 100), "anna", "key a", 5)
	if w.flags != 0 || len(anna.notices) != 0 {
		t.Errorf("welcome %+v, %q", w, anna.notices)
	}
}

// TestGapOnlyForThoseWhoMissed: messages that the room has no more are a gap only for those whom they were for.
func TestGapOnlyForThoseWhoMissed(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 1 << 20
	anna, _ := visit(t, r, "anna", "key a", 1)
	bob, _ := visit(t, r, "bob", "key b", 2)
	cleo, _ := visit(t, r, "cleo", "key c", 3)
	loud, _ := visit(t, r, "loud", "key l", 4)
	if err := r.say(loud, says(1, "begin")); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{anna, bob, cleo} {
		heard(t, r, m)
		if err := r.hasRead(m, 1); err != nil {
			t.Fatal(err)
		}
	}
	r.leave(anna, "left")
	r.leave(bob, "left")
	heard(t, r, loud)
	fill := strings.Repeat("x", maxLine)
	for n := range uint64(queueBytes/maxLine + 2) {
		l := says(n+2, fill)
		l.what, l.to = itemDirect, "bob"
		if err := r.say(loud, l); err != nil {
			t.Fatal(err)
		}
		heard(t, r, cleo)
	}
	for name, gap := range map[string]bool{"anna": false, "bob": true} {
		if _, w := visit(t, r, name, "key "+name[:1], 9); (w.flags&welcomeGap != 0) != gap {
			t.Errorf("%s: flags %d", name, w.flags)
		}
	}
	for n := range uint64(queueBytes/maxLine + 2) {
		if err := r.say(cleo, says(n+1, fill)); err != nil {
			t.Fatal(err)
		}
		heard(t, r, cleo)
	}
	m := stubMember("cleo", "key c", 3)
	req := joinRequest{stream: streamID{3}, flags: joinListens | joinPlace, epoch: r.epoch,
		seen: uint64(queueBytes/maxLine + 3)}
	if w, err := r.join(m, req, true); err != nil || w.flags != 0 {
		t.Errorf("who sent everything that is lost: flags %d, %v", w.flags, err)
	}
	dora := stubMember("anna", "key a", 8)
	req.stream = streamID{8}
	if w, err := r.join(dora, req, true); err != nil || w.flags != welcomeGap {
		t.Errorf("who missed it: flags %d, %v", w.flags, err)
	}
}

// TestVisitorsBounded: the room remembers a bounded number of keys, and those that are here.
func TestVisitorsBounded(t *testing.T) {
	r, _ := quietRoom(t)
	enter(t, r, "anna", "key a", 1)
	for n := range maxVisitors + 10 {
		r.visitors.put(&visitor{fingerprint: fmt.Sprint(n)})
	}
	if len(r.visitors.byKey) != maxVisitors || r.visitors.byKey["key a"] == nil || r.visitors.byKey["9"] != nil {
		t.Errorf("%d visitors", len(r.visitors.byKey))
	}
}

// TestRecallBeforePlace: the messages that a member asks to read again come from before its place. Those that it has
// not received yet come once and in order: a client that had the last of them first would lose the others with a
// connection.
func TestRecallBeforePlace(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 100
	anna, _ := visit(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	heard(t, r, anna)
	if err := r.say(bob, says(1, "one", "two", "three")); err != nil {
		t.Fatal(err)
	}
	r.recall(anna, 2)
	wantHeard(t, r, anna, "notice  no messages to show", "say bob one", "say bob two", "say bob three")
	r.recall(anna, 2)
	r.recall(anna, 3) // dropped, since the notice of the first is not delivered
	wantHeard(t, r, anna, "notice  the last 2 messages:", "say bob two", "say bob three")
	r.recall(anna, 1<<63)
	wantHeard(t, r, anna, "notice  the last 3 messages:", "say bob one", "say bob two", "say bob three")
}

// TestRecallTooOften: the clients of one key are answered ten requests for the history at once, and then one a second.
// Another key does not wait for them.
func TestRecallTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := quietRoom(t)
		anna, _ := visit(t, r, "anna", "key a", 1)
		again, _ := visit(t, r, "anna", "key a", 2)
		bob, _ := visit(t, r, "bob", "key b", 3)
		const answer = "notice  no messages to show"
		const refusal = "notice  too many requests for the history: one a second is answered"
		for _, m := range []*member{anna, again, bob} {
			heard(t, r, m)
		}
		for n := range 10 {
			m := []*member{anna, again}[n%2]
			r.recall(m, 2)
			wantHeard(t, r, m, answer)
		}
		for range 2 {
			r.recall(anna, 2)
			wantHeard(t, r, anna, refusal)
			r.recall(again, 2)
			wantHeard(t, r, again, refusal)
			r.recall(bob, 2)
			wantHeard(t, r, bob, answer)
			time.Sleep(recallPause)
			r.recall(again, 2)
			wantHeard(t, r, again, answer)
		}
	})
}

// TestLastHasWhatWasMissed: -last N does not leave out a missed message because the key's other terminal sent N more,
// and leaves out neither the count of missed messages nor, at the first visit, who is here.
func TestLastHasWhatWasMissed(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 100
	anna, _ := visit(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "missed")); err != nil {
		t.Fatal(err)
	}
	if err := r.say(anna, says(1, "own", "more")); err != nil { // the terminal has not shown what bob said
		t.Fatal(err)
	}
	again := stubMember("anna", "key a", 3)
	req := joinRequest{flags: joinListens | joinPerson | joinLast, seen: 2}
	if _, err := r.join(again, req, true); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, r, again, "notice  1 message while you were away, among the last ones:", "say bob missed",
		"say anna own", "say anna more")
	cleo := stubMember("cleo", "key c", 4)
	if _, err := r.join(cleo, req, true); err != nil {
		t.Fatal(err)
	}
	wantHeard(t, r, cleo, "notice  3 here: anna, bob, cleo")
}

// TestShown: how far a terminal has come moves over its own lines, and not over what was dropped before it was shown.
func TestShown(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := visit(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	heard(t, r, anna)
	for n := range uint64(3) {
		if err := r.say(anna, says(n+1, "own")); err != nil {
			t.Fatal(err)
		}
	}
	if anna.shown != 2 || anna.read != 0 { // each line is shown when the next one is sent
		t.Errorf("shown up to %d, read up to %d", anna.shown, anna.read)
	}
	if err := r.say(bob, says(1, "never read")); err != nil {
		t.Fatal(err)
	}
	heard(t, r, anna) // its connection has it, and the terminal does not
	for n := range uint64(queueBytes/maxLine + 2) {
		if err := r.say(anna, says(n+4, strings.Repeat("x", maxLine))); err != nil {
			t.Fatal(err)
		}
	}
	r.leave(anna, "lost")
	if v := r.visitors.byKey["key a"]; v.read > 3 {
		t.Errorf("read up to %d, of which message 4 was not", v.read)
	}
	if _, w := visit(t, r, "anna", "key a", 3); w.flags&welcomeGap == 0 {
		t.Error("a message that is lost is no gap")
	}
}

// TestRevokedWhileLeaving: what is said after a key was revoked is not for it once it is admitted again, even if a
// connection of it was about to leave for another reason, or stays longer than the revocation; also after a restart.
func TestRevokedWhileLeaving(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 100
	bob, _ := enter(t, r, "bob", "key b", 2)
	for n, kick := range []bool{true, false} {
		stream := byte(10 * (n + 1))
		anna, _ := visit(t, r, "anna", "key a", stream)
		if err := r.hasRead(anna, r.queue.said); err != nil {
			t.Fatal(err)
		}
		if kick {
			if err := r.kick("anna"); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range r.due(time.Now(), true) {
			if m == anna {
				r.expel(m)
			}
		}
		if err := r.say(bob, says(bob.stream.last+1, "secret")); err != nil {
			t.Fatal(err)
		}
		if err := r.hasRead(anna, r.queue.said); err != nil { // it claims to have read that
			t.Fatal(err)
		}
		if kick {
			r.leave(anna, "lost")
		}
		back, w := visit(t, r, "anna", "key a", stream+1)
		if back.presence.returned || w.seq != r.queue.said {
			t.Errorf("kick %v: welcome %+v", kick, w)
		}
		r.leave(back, "lost")
		r.leave(anna, "lost") // a second time, or after the key was admitted again
		if err := r.say(bob, says(bob.stream.last+1, "for anna again")); err != nil {
			t.Fatal(err)
		}
		r = reopened(t, r, 100)
		bob, _ = enter(t, r, "bob", "key b", 2)
		back, _ = visit(t, r, "anna", "key a", stream+2)
		wantHeard(t, r, back, "notice  1 message while you were away:", "say bob for anna again")
		r.leave(back, "lost")
	}
}

// TestDirectBeyondHistory: after a restart, a direct message that the history does not reach is a gap only for its
// receiver.
func TestDirectBeyondHistory(t *testing.T) {
	r, _ := quietRoom(t)
	r.history = 100
	anna, _ := visit(t, r, "anna", "key a", 1)
	bob, _ := visit(t, r, "bob", "key b", 2)
	cleo, _ := visit(t, r, "cleo", "key c", 3)
	r.leave(anna, "lost")
	r.leave(bob, "lost")
	l := says(1, "for bob")
	l.what, l.to = itemDirect, "bob"
	for _, l := range []lines{l, says(2, "to all")} {
		if err := r.say(cleo, l); err != nil {
			t.Fatal(err)
		}
	}
	r = reopened(t, r, 1)
	for name, gap := range map[string]bool{"anna": false, "bob": true} {
		if _, w := visit(t, r, name, "key "+name[:1], 9); (w.flags&welcomeGap != 0) != gap {
			t.Errorf("%s: flags %d", name, w.flags)
		}
	}
}

// TestStartWithManyKeys: a start remembers at most maxVisitors keys, however many the log has.
func TestStartWithManyKeys(t *testing.T) {
	for _, keys := range []int{1, 2 * maxVisitors} {
		m := newMemory()
		var log []byte
		for n := range 20000 {
			v := visitor{fingerprint: fmt.Sprint("SHA256:", n%keys), name: "anna"}
			log = v.appendMark(log, time.Now())
		}
		for record := range bytes.Lines(log) {
			m.restore(record, true)
		}
		if len(m.visitors.byKey) != min(keys, maxVisitors) {
			t.Errorf("%d keys: %d visitors", keys, len(m.visitors.byKey))
		}
	}
}

// FuzzRestore: whatever stands in a log, a start with it neither panics nor uses a number twice, and every receiver
// accepts what it sends.
func FuzzRestore(f *testing.F) {
	key, keyB := "SHA256:"+strings.Repeat("A", 43), "SHA256:"+strings.Repeat("B", 43)
	const stream = "00112233445566778899aabbccddeeff"
	record := func(event, rest string) string {
		return recordBegin + "2026-01-02T03:04:05.000000Z" + `","event":"` + event + `"` + rest + recordPrev + noHash +
			recordEnd
	}
	who := `,"name":"anna","fingerprint":"` + key + `","stream":"` + stream + `"`
	for _, n := range []string{"0", "1", "999999999", "4611686018427387904", "18446744073700000000",
		"18446744073709551615"} {
		room := record(eventRoom, `,"epoch":"0011223344556677","seq":`+n+`,"skipped_from":1,"skipped_to":`+n+
			`,"boot":"\"\u0000"`)
		f.Add(record(eventMessage, who+`,"seq":`+n+`,"msg_id":`+n+`,"msg_len":1,"message":"x"`) + room)
		f.Add(room + record(eventMessage, who+`,"seq":`+n+`,"what":"direct","receiver":"`+key+`","message":"x"`))
		f.Add(room + record(eventVisitor, `,"name":"anna","fingerprint":"`+key+`","since":`+n+`,"read":`+n))
		f.Add(record(eventStream, `,"streams":{"`+key+`":{"`+stream+`":`+n+`,"forgotten":1}}`) + record(eventStop, ""))
	}
	for _, n := range []string{"2305843009213693952", "4611686018427387904"} { // maxSaid and maxNumber
		f.Add(record(eventMessage, who+`,"seq":`+n+`,"message":"x"`) + record(eventStop, ""))
	}
	f.Add(record(eventVisitor, `,"name":"AnnA","fingerprint":"","since":0`))
	f.Add(record(eventVisitor, `,"name":"\\\\\\\\","fingerprint":"\\\\","since":1,"until":"99999-12-31T00:00:00.000000Z"`))
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "connection.log")
		put(t, path, []byte(text))
		used, said := map[uint64]bool{}, uint64(0)
		for n := range byte(2) {
			l, err := openLog(logOptions{path: path})
			if err != nil {
				return // it is no log
			}
			defer l.close()
			r, err := newRoom(l, 10, false)
			if err != nil {
				if n > 0 && said <= maxSaid {
					t.Fatal(err)
				}
				return // it has a number that no room reaches
			}
			anna, bob := stubMember("anna", key, n), stubMember("bob", keyB, n)
			anna.peer.suffix, bob.peer.suffix = suffixOf(key), suffixOf(keyB)
			anna.peer.stream.parse([]byte(stream))
			for _, m := range []*member{anna, bob} {
				w, err := r.join(m, joinRequest{flags: joinListens | joinPerson}, true)
				w.server = "server"
				if _, perr := parseWelcome(w.encode()); err != nil || perr != nil {
					t.Fatal(err, perr)
				}
			}
			for range 2 {
				if err := r.say(bob, says(bob.stream.last+1, "text")); err != nil {
					t.Fatal(err)
				}
				if used[r.queue.said] {
					t.Errorf("number %d is used twice", r.queue.said)
				}
				used[r.queue.said] = true
			}
			said = r.queue.said
			if len(heard(t, r, anna)) < 2 {
				t.Error("a message does not arrive")
			}
			r.leave(anna, "left")
			l.close()
		}
	})
}
