package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The room's memory: what was said reaches those it was for, once and in order, over restarts of the server and of the
// clients, and nobody else.

// home is a server's place: its keys, its log and its address, over restarts.
type home struct {
	t         *testing.T
	dir, addr string
	log       string
	args      []string
	rotated   int // files that rotate has made
	server    *proc
}

func newHome(t *testing.T, args ...string) *home {
	t.Helper()
	h := &home{t: t, dir: state(t, "anna"), addr: freeAddr(t), log: filepath.Join(t.TempDir(), "connection.log"), args: args}
	h.start()
	return h
}

func (h *home) start() {
	h.t.Helper()
	h.server = start(h.t, h.t.TempDir(), append([]string{"-listen", h.addr, "-dir", h.dir, "-log", h.log}, h.args...)...)
	h.server.err.match(h.t, "room open on ")
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

// TestResumeFile: a program with -resume gets each message once, over kills of the server, a rotation, and starts of its own.
// Without the file it begins with now.
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
	put(t, file, []byte("no place\n"))
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-connect", h.addr, "-dir", cleo, "-resume", file)
	wantRun(t, "a damaged file", stderr, code, exitTrouble, "has no place in a room: remove it")
}

// TestReconnectWithoutSeam: a receiver that reconnects gets each message once over a restart of the server, and is told
// of no gap. One that cannot be given everything is told of it, with the number that follows.
func TestReconnectWithoutSeam(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		gap  bool
	}{"text": {nil, false}, "digests": {[]string{"-log-text=false"}, true}, "no history": {[]string{"-history", "0"}, true},
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

// TestReadingRestored: a person gets after a restart what the terminal has not acknowledged, without the own lines; joins
// and leaves take no places of the history.
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
	req := joinRequest{stream: streamID{3}, flags: joinListens | joinPlace, epoch: r.epoch, seen: uint64(queueBytes/maxLine + 3)}
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

// TestRecallBeforePlace: the messages that a member asks to read again come from before its place. Those that it has not
// received yet come once and in order: a client that had the last of them first would lose the others with a connection.
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

// TestLastHasWhatWasMissed: -last N does not leave out a missed message because the key's other terminal sent N more.
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
	wantHeard(t, r, again, "say bob missed", "say anna own", "say anna more")
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
