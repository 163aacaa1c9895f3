package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Nothing is lost on the way out of the room. A checker compares what each receiver has written out with the log, while
// processes are killed with SIGKILL and connections break.
//
//	go test -run TestNothingMissed -kills 50 -v .
//
// kills the server 50 times and receivers 50 times, once with and once without -sync, and prints the figures.

// TestNothingMissed kills the server and the receivers again and again, with rotations of the log and broken
// connections between, while several clients send to all and to one; some starts are after a power cut that has lost
// nothing. Each receiver has all that was for it in the log's order, and nothing that was for another: with -reconnect
// once, over each killed run with -resume at least once from its file's place on, and at a terminal from the last line
// on that it has reported as shown.
func TestNothingMissed(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"-sync"}} {
		t.Run(strings.Join(args, ""), func(t *testing.T) { t.Parallel(); nothingMissed(t, args) })
	}
}

const (
	senderCount = 5
	roundLines  = 20 // lines of each sender between two kills of the server
)

// hearer is a receiver over all of its runs. Each has a key of its own.
type hearer struct {
	name, dir string
	args      []string
	file      string // of -resume, "" without
	person    bool
	runs      []hearing
}

// hearing is one run of a hearer.
type hearing struct {
	p      *proc
	screen *screen // of a person
	place  string  // the number in the file at the start, "" without
}

// firstWelcome matches the first welcome that -json prints: the number of the first message that can follow.
var firstWelcome = regexp.MustCompile(`^{"type":"welcome",.*?"seq":(\d+)`)

// places returns the numbers behind which the run has to begin: that of its file and that of its welcome.
func (r *hearing) places() (all []int) {
	if n, err := strconv.Atoi(r.place); err == nil {
		all = append(all, n)
	}
	if m := firstWelcome.FindStringSubmatch(r.output()); m != nil {
		n, _ := strconv.Atoi(m[1])
		all = append(all, n-1)
	}
	return all
}

// output returns what the run has written out. Of a terminal these are the rows, since a row can be drawn again.
func (r *hearing) output() string {
	if r.screen == nil {
		return r.p.out.String()
	}
	r.screen.mu.Lock()
	defer r.screen.mu.Unlock()
	return strings.Join(draw(string(r.screen.raw), r.screen.columns), "\n") + "\n"
}

// heardLine matches a line of a message that was written out as a whole. All messages end with a full stop.
var heardLine = regexp.MustCompile(`(?:"text":"|: )(\w+ \d+|the end)\.["\r\n]`)

// theEnd is the last message that counts. A line that a person has typed can be recorded after it.
const theEnd = "the end"

// texts returns the messages up to theEnd that the run has written out as a whole.
func (r *hearing) texts() (all []string) {
	for _, m := range heardLine.FindAllStringSubmatch(r.output(), -1) {
		if all = append(all, m[1]); m[1] == theEnd {
			break
		}
	}
	return all
}

// last returns the run that goes on.
func (h *hearer) last() *hearing { return &h.runs[len(h.runs)-1] }

// start begins a run that connects to addr.
func (h *hearer) start(t *testing.T, addr string) {
	t.Helper()
	args := append([]string{"-connect", addr, "-dir", h.dir, "-reconnect"}, h.args...)
	var r hearing
	if h.file != "" {
		args = append(args, "-resume", h.file)
		if kept, err := os.ReadFile(h.file); !errors.Is(err, fs.ErrNotExist) {
			_, number, _ := strings.Cut(string(kept), " ")
			r.place = strings.TrimSpace(number)
		}
	}
	if h.person {
		args = append(args, "-quiet-joins") // a folded join prints the messages below it once more
		r.screen, r.p = startAtTerminal(t, 200, "", args...)
	} else {
		r.p = start(t, t.TempDir(), append(args, "-stay")...)
	}
	h.runs = append(h.runs, r)
}

// kill ends the run that goes on, without warning.
func (h *hearer) kill() {
	p := h.last().p
	p.cmd.Process.Kill()
	<-p.ended
}

// fingerprint returns the fingerprint of the receiver's key.
func (h *hearer) fingerprint(t *testing.T) string {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(publicKeyOf(t, h.dir)))
	if err != nil {
		t.Fatal(err)
	}
	return fingerprint(key)
}

// hears waits until the run that goes on has written out text.
func (h *hearer) hears(t *testing.T, text string) {
	t.Helper()
	r := h.last()
	if r.screen != nil {
		r.screen.waitText(text)
		return
	}
	r.p.out.match(t, regexp.QuoteMeta(text))
}

// logged is a message of the log.
type logged struct {
	seq      int
	text     string
	from, to string // fingerprints; to is "" for all
}

// loggedMessages returns the messages of a log, without the full stops at their ends.
func loggedMessages(t *testing.T, paths []string) (all []logged) {
	t.Helper()
	for _, path := range paths {
		for _, r := range records(t, path) {
			if r["event"] != eventMessage {
				continue
			}
			all = append(all, logged{int(r["seq"].(float64)), strings.TrimSuffix(recordField(r, "message"), "."),
				recordField(r, "fingerprint"), recordField(r, "receiver")})
			if n := len(all); n > 1 && all[n-1].seq != all[n-2].seq+1 && all[n-1].seq%skipStep != 1 {
				t.Errorf("%s: message %d follows message %d", path, all[n-1].seq, all[n-2].seq)
			}
		}
	}
	return all
}

// check compares the runs with the messages that the log has for this receiver, and returns how many came twice.
func (h *hearer) check(t *testing.T, print string, log []logged) (again int) {
	t.Helper()
	var mine []string
	var seqs []int           // of mine
	own := map[string]bool{} // what this key has said, which its other runs may receive or not
	at := map[string]int{}   // where a text is in mine
	for _, m := range log {
		own[m.text] = m.from == print
		if (m.to == "" || m.to == print) && m.from != print {
			at[m.text] = len(mine)
			mine, seqs = append(mine, m.text), append(seqs, m.seq)
		}
	}
	if len(at) != len(mine) {
		t.Errorf("%s: the log has %d messages twice", h.name, len(mine)-len(at))
	}
	end, most := 0, 0 // of the runs before; most that one run has repeated
	for n := range h.runs {
		r := &h.runs[n]
		if out := r.output(); strings.Contains(out, `"gap":true`) || strings.Contains(out, "were missed") {
			t.Errorf("%s: run %d reports a gap", h.name, n+1)
		}
		texts := slices.DeleteFunc(r.texts(), func(text string) bool { return own[text] })
		if len(texts) == 0 {
			continue
		}
		first, known := at[texts[0]]
		switch {
		case !known || first+len(texts) > len(mine) || !slices.Equal(texts, mine[first:first+len(texts)]):
			same := 0
			for same < min(len(texts), len(mine)-first) && texts[same] == mine[first+same] {
				same++
			}
			t.Errorf("%s: run %d has %d messages; after %d of them comes %q in place of %q", h.name, n+1, len(texts), same,
				texts[same:min(len(texts), same+1)], mine[min(len(mine), first+same):min(len(mine), first+same+1)])
			return again
		case n == 0 && first > 0, (h.file != "" || h.person) && first > end:
			t.Errorf("%s: run %d begins with message %d, and the runs before end with message %d", h.name, n+1, first+1, end)
		case h.file == "" && !h.person && first < end:
			t.Errorf("%s: run %d begins with message %d again", h.name, n+1, first+1)
		}
		for _, place := range r.places() {
			if behind, _ := slices.BinarySearch(seqs, place+1); first != behind {
				t.Errorf("%s: run %d begins with message %d, and not behind number %d", h.name, n+1, first+1, place)
			}
		}
		again += max(0, end-first)
		most = max(most, end-first)
		end = max(end, first+len(texts))
	}
	if end != len(mine) {
		t.Errorf("%s: the runs end with message %d of %d", h.name, end, len(mine))
	}
	if bound := 2 * senderCount * roundLines; !h.person && most > bound {
		t.Errorf("%s: a run repeats %d messages, more than one write has", h.name, most)
	}
	return again
}

// nothingMissed plays the rounds and checks what was heard. args are further arguments of the server.
func nothingMissed(t *testing.T, args []string) {
	random := rand.New(rand.NewPCG(*faultSeed, 17))
	h := newHome(t, append(args, "-history", "100000")...)
	calm := false // guarded by proxy.mu, as choices is
	choices := rand.New(rand.NewPCG(*faultSeed, 18))
	proxy := newFaultProxy(t, h.addr, func() fault {
		if calm || choices.IntN(2) == 0 {
			return fault{}
		}
		// The handshake takes less than 3000 bytes each way, and it passes, since the server's gate counts one that fails.
		f := fault{faultKinds[choices.IntN(4)], choices.IntN(4) == 0, 3000 + choices.IntN(6000)}
		if f.toServer {
			f.at = 3000 + choices.IntN(600) // there is less traffic
		}
		return f
	})
	via := proxy.l.Addr().String()
	key := func(name string) string {
		dir := guest(t, h.dir, h.addr, name)
		pin(t, dir, via, h.dir)
		return dir
	}
	all := []*hearer{
		{name: "cleo", args: []string{"-json"}},
		{name: "kurt"},
		{name: "dora", args: []string{"-json"}, file: filepath.Join(t.TempDir(), "dora")},
		{name: "emil", file: filepath.Join(t.TempDir(), "emil")},
		{name: "faye", person: true},
		{name: "jana", person: true},
		{name: "gina", args: []string{"-json"}},
		{name: "olaf"},
	}
	for _, r := range all {
		r.dir = key(r.name)
		r.start(t, via)
	}
	ear, person, killed := all[0], all[4], all[2:] // the first two are never killed
	for _, r := range all {
		h.server.err.match(t, r.name+" joined")
	}
	bob, hans := key("bob"), key("hans")
	senders := make(map[string]*proc, senderCount)
	for label, to := range map[string][]string{"allbob": {bob}, "allhans": {hans}, "cleo": {bob, "-to", "cleo"},
		"dora": {hans, "-to", "dora"}, "faye": {bob, "-to", "faye"}} {
		senders[label] = start(t, t.TempDir(), append([]string{"-connect", via, "-reconnect", "-dir"}, to...)...)
	}
	labels := slices.Sorted(maps.Keys(senders))
	sent, receivers := 0, 0
	for round := range *killCount {
		for range roundLines {
			sent++
			for _, label := range labels {
				senders[label].send(fmt.Sprintf("%s %d.\n", label, sent))
			}
		}
		ear.hears(t, fmt.Sprintf("allbob %d.", max(1, sent-random.IntN(roundLines))))
		victim := killed[random.IntN(len(killed))]
		victim.kill()
		receivers++
		between := random.IntN(2) == 0 // the receiver starts while no server runs
		if !between {
			victim.start(t, via)
		}
		h.kill()
		switch random.IntN(4) {
		case 0:
			h.rotate()
			h.start()
		case 1:
			h.start()
			h.rotate()
			h.server.cmd.Process.Signal(syscall.SIGHUP)
		case 2:
			if _, err := os.Stat(h.log); err == nil { // otherwise the server was killed before it noticed SIGHUP
				h.reboot("")
			}
			h.start()
		default:
			h.start()
		}
		if between {
			victim.start(t, via)
		}
		person.last().screen.send(fmt.Sprintf("typed %d.\r", round))
	}
	proxy.mu.Lock()
	calm = true
	proxy.mu.Unlock()
	for label, p := range senders {
		p.stdin.Close()
		if code := p.wait(); code != exitDone && code != exitTrouble { // a direct line may be kept
			t.Errorf("the sender %s: exit %d: %s", label, code, p.err)
		}
	}
	h.say(bob, theEnd+".\n", exitDone, "^$")
	for _, r := range all {
		r.hears(t, theEnd+".")
	}
	var paths []string
	for n := h.rotated; n > 0; n-- {
		paths = append(paths, fmt.Sprintf("%s.%d", h.log, n))
	}
	paths = append(paths, h.log)
	if err := verifyLogs(paths, "", io.Discard); err != nil {
		t.Error(err)
	}
	log := loggedMessages(t, paths)
	log = log[:1+slices.IndexFunc(log, func(m logged) bool { return m.text == theEnd })]
	if want := senderCount*sent + 1; len(log) < want {
		t.Errorf("the log has %d messages, and at least %d were sent", len(log), want)
	}
	again := ""
	for _, r := range all {
		again += fmt.Sprintf(" %s %d of %d runs", r.name, r.check(t, r.fingerprint(t), log), len(r.runs))
	}
	t.Logf("seed %d: %d messages in %d files; kills: %d of the server, %d of receivers; connections broken: %v; twice:%s",
		*faultSeed, len(log), len(paths), *killCount, receivers, proxy.struck, again)
}
