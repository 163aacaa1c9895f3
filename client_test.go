package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// The client: use in scripts, JSON objects, history after an absence, and hostile peers.

// TestObjects: with -json, a client and the server read and print objects only.
func TestObjects(t *testing.T) {
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-json")
	bob := guest(t, anna, addr, "bob")
	client := start(t, t.TempDir(), "-connect", addr, "-dir", bob, "-json")
	client.out.match(t, `"type":"welcome"`)
	server.out.match(t, `"type":"join"`)
	client.send(`{"text":"hi\u001b[2J"}` + "\n" + `{"text":"waves","what":"action"}` + "\n" +
		`{"text":"psst","to":"anna"}` + "\n" +
		`{"base64":"/w=="}` + "\n" + `{"type":"ack","id":1}` + "\n" + `{"text":"none","to":"nobody"}` + "\n")
	server.send(`{"text":"hello"}` + "\n" + "no object\n" + `{"text":"again","to":"bob"}` + "\n")
	server.out.match(t, `"id":2}`)
	client.out.match(t, `"again"`)
	client.out.match(t, `"id":5}`)
	client.out.match(t, `"undelivered".*nobody here is called`)
	client.send("{]\n")
	client.stdin.Close()
	if code := client.wait(); code != exitTrouble {
		t.Errorf("exit %d", code)
	}
	client.err.match(t, "line 7: no JSON object")
	server.err.match(t, "line 2: no JSON object")
	server.out.match(t, `"leave"`)
	key, err := loadKeys(keyOptions{dir: anna})
	if err != nil {
		t.Fatal(err)
	}
	type want map[string]any
	for _, c := range []struct {
		out  string
		want []want
	}{
		{server.out.String(), []want{
			{"type": "welcome", "name": "anna", "server": "anna"},
			{"type": "join", "name": "bob", "text": ""},
			{"type": "message", "name": "bob", "what": "say", "text": "hi\x1b[2J"},
			{"type": "message", "name": "bob", "what": "action", "text": "waves"},
			{"type": "message", "name": "bob", "what": "direct", "text": "psst"},
			{"type": "message", "name": "bob", "what": "say", "text": "\ufffd", "base64": "/w=="},
			{"type": "ack", "id": 2.0},
			{"type": "error", "line": 2.0},
			{"type": "leave", "name": "bob"},
		}},
		{client.out.String(), []want{
			{"type": "welcome", "name": "bob", "server": "anna"},
			{"type": "message", "name": "anna", "what": "say", "text": "hello"},
			{"type": "message", "name": "anna", "what": "direct", "text": "again"},
			{"type": "ack", "id": 5.0},
			{"type": "undelivered"},
			{"type": "error", "line": 7.0},
		}},
	} {
		got := objects(t, c.out)
		for _, w := range c.want {
			if !slices.ContainsFunc(got, func(o map[string]any) bool {
				for k, v := range w {
					if o[k] != v {
						return false
					}
				}
				return w["type"] == "ack" || w["type"] == "error" || o["origin"] == key.fingerprint() && o["server"] == "anna"
			}) {
				t.Errorf("no %v in %s", w, c.out)
			}
		}
	}
}

// TestBridge: lines that a bridge sends with -json for other speakers keep the speaker's name, and the bridge does not
// receive its own lines.
func TestBridge(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-json")
	bob := guest(t, anna, addr, "bob")
	client := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	server.out.match(t, `"join"`)
	own := objects(t, server.out.String())[0]["origin"].(string)
	server.send(fmt.Sprintf(`{"type":"message","name":"bob","text":"ours","origin":%q}`, own) + "\n" +
		`{"type":"message","name":"cleo~1a2b3c4d","text":"one","origin":"SHA256:x","server":"pi"}` + "\n" +
		`{"type":"message","name":"e v\u001bil@x","text":"two","origin":"SHA256:abcdefghij","server":""}` + "\n" +
		`{"type":"message","name":"cleo","what":"direct","text":"to her operator","origin":"SHA256:x","server":"pi"}` + "\n" +
		`{"type":"leave","name":"cleo","text":"","origin":"SHA256:x","server":"pi"}` + "\n" +
		`{"type":"message","name":"dora","text":"three","origin":"SHA256:x","server":"pi","to":"bob"}` + "\n" +
		`{"name":"eve","text":"as whom?"}` + "\n" +
		`{"type":"message","text":"as whom?","origin":"SHA256:x","server":"pi","to":"bob"}` + "\n" +
		`{"text":"as whom?","server":"pi"}` + "\n" +
		`{"text":"four"}` + "\n")
	client.out.match(t, `four`)
	if got, want := client.out.String(), "cleo~1a2b3c4d@pi: one\ne-v-il-x@abcdefgh: two\ndora@pi (to you): "+
		"three\nanna: four\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	wantRefusedObjects(t, server, 7, 9)
	if strings.Contains(server.out.String(), "one") {
		t.Error("what came in goes out again")
	}
	var from []any
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventMessage {
			from = append(from, r["from"])
		}
	}
	if !slices.Equal(from, []any{"cleo~1a2b3c4d@pi", "e-v-il-x@abcdefgh", "dora@pi", nil}) {
		t.Errorf("the log has from %v", from)
	}
}

// wantRefusedObjects checks that a server has refused, of the lines of its stdin, first to last and no other.
func wantRefusedObjects(t *testing.T, server *proc, first, last int) {
	t.Helper()
	for line := first; line <= last; line++ {
		server.err.match(t, fmt.Sprintf(`line %d: an object without "origin" and "name" of another server`, line))
		server.out.match(t, fmt.Sprintf(`"type":"error","line":%d,`, line))
	}
	if got := strings.Count(server.out.String(), `"type":"error"`); got != last-first+1 {
		t.Errorf("%d objects were refused: %s", got, server.out)
	}
}

// TestBridgeSpeaksForOthers: with -bridge no object that comes in speaks as the operator.
func TestBridgeSpeaksForOthers(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-bridge")
	client := start(t, t.TempDir(), "-connect", addr, "-dir", guest(t, anna, addr, "bob"))
	server.out.match(t, `"join"`)
	server.send(`{"text":"as whom?"}` + "\n" +
		`{"type":"message","text":"as whom?","to":"bob","what":"direct"}` + "\n" +
		`{"name":"eve","origin":"SHA256:x","text":"as whom?","name":"","origin":"","server":null}` + "\n" +
		`{"type":"ack","id":1}` + "\n" +
		`{"name":"eve","origin":"SHA256:x","server":"pi","text":"hello"}` + "\n")
	client.out.match(t, `hello`)
	if got := client.out.String(); got != "eve@pi: hello\n" {
		t.Errorf("the room heard %q", got)
	}
	wantRefusedObjects(t, server, 1, 3)
}

func TestRemoteName(t *testing.T) {
	long := strings.Repeat("n", 100)
	for _, c := range [][4]string{
		{"bob", "pi", "SHA256:x", "bob@pi"},
		{"bob@pi", "router", "SHA256:x", "bob-pi@router"},
		{"", "", "", "somebody@elsewhere"},
		{"~", "//", "SHA256:+/+/+/+/+", "somebody@elsewhere"},
		{"bob~1234abcX", "pi", "SHA256:x", "bob-1234abcX@pi"},
		{long, long, "", long[:maxName] + "@" + long[:maxName]},
		{long[:maxName] + "~12345678", long, "", long[:maxName] + "~12345678@" + long[:maxName]},
	} {
		if got := remoteName(c[0], c[1], c[2]); got != c[3] || !validShown(got) || len(got) > maxShown {
			t.Errorf("remoteName(%q, %q, %q) = %q, want %q", c[0], c[1], c[2], got, c[3])
		}
	}
	for _, bad := range notShown {
		if validShown(bad) {
			t.Errorf("%q can be shown", bad)
		}
	}
}

// TestObjectSizes: a text of the greatest length arrives whole in an object, and a longer one is reported.
func TestObjectSizes(t *testing.T) {
	dir := state(t, "anna")
	server, addr := serve(t, dir)
	longest := strings.Repeat("\x01", maxLine)
	in, err := json.Marshal(map[string]string{"text": longest})
	if err != nil {
		t.Fatal(err)
	}
	over, err := json.Marshal(map[string]string{"text": longest + "x"})
	if err != nil {
		t.Fatal(err)
	}
	huge := `{"text":"` + strings.Repeat("x", maxObject)
	_, stderr, code := runToEnd(t, t.TempDir(), fmt.Sprintf("%s\n%s\n%s\n{\"text\":\"last\"}\n", in, over, huge),
		"-connect", addr, "-dir", dir, "-json")
	if code != exitTrouble || !strings.Contains(stderr, "line 2: ") || !strings.Contains(stderr, "line 3 is longer") {
		t.Errorf("exit %d: %.300s", code, stderr)
	}
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); len(got) != 2 || got[0] != longest ||
		got[1] != "last" {
		t.Errorf("the log has %d messages", len(got))
	}
}

// TestShellEnds runs the client with closed, full and missing standard streams, as a shell can set them up.
func TestShellEnds(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	server, addr := serve(t, dir)
	client := "$SECURECHAT -connect " + addr + " -dir " + dir
	for _, c := range []struct {
		script string
		stdout string
		code   int
		stderr string
	}{
		{client + " <&-", "", exitDone, "^$"},
		{client + " </dev/null", "", exitDone, "^$"},
		{client + " -stay -timeout 10ms <&-", "", exitTimeout, "-timeout ran out"},
		{`yes '{"text":"x"}' | head -20000 | ` + client + " -json | head -1; exit ${PIPESTATUS[2]}",
			`^{"type":"welcome".*}\n$`, exitDone, "^$"},
		{"echo x | " + client + " -json >/dev/full", "", exitTrouble, "cannot write standard output: .*no space"},
		// The client prints nothing, so the full device does not matter.
		{"echo x | " + client + " >/dev/full", "", exitDone, "^$"},
		{"echo x | " + client + " >&-", "", exitDone, "^$"},
		{"echo x | " + client + " 2>&-", "", exitDone, "^$"},
		{client + " -json <<< '{'", `{"type":"error","line":1,`, exitTrouble, "line 1: no JSON object"},
		{client + " -json <<< '7'", `{"type":"error","line":1,`, exitTrouble, "line 1: a JSON number and no object"},
		{client + ` -json <<< '{"text":7}'`, `{"type":"error","line":1,`, exitTrouble,
			`line 1: "text" cannot be a JSON number`},
		{"echo x | " + client + " -to nobody", "", exitTrouble, "nobody here is called nobody"},
		{client + " -count 0", "", exitUsage, "-count"},
	} {
		cmd := exec.Command("bash", "-c", c.script)
		cmd.Env = append(os.Environ(), asSecurechat+"=1", "SECURECHAT="+os.Args[0], "HOME="+t.TempDir())
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		code := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if !matches(cmp.Or(c.stdout, "^$"), string(out)) || code != c.code || !matches(c.stderr, stderr.String()) {
			t.Errorf("%s: exit %d, want %d; stdout %.200q; stderr %q", c.script, code, c.code, out, stderr.String())
		}
	}
	n := 0
	for _, text := range messages(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if text != "x" {
			t.Fatalf("%q was sent", text)
		}
		n++
	}
	if n < 20000+4 {
		t.Errorf("the log has %d messages", n)
	}
}

// TestOutputReaderEnds: the reader of stdout ends, as head does. The client still sends all its input and exits with
// status 0. The input is longer than what a client keeps without an acknowledgement, so the client has received "more"
// before it sends the last lines.
func TestOutputReaderEnds(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	bob := guest(t, anna, addr, "bob")
	cmd := exec.Command("bash", "-c", "mkfifo more && (seq 30000; cat more) | $SECURECHAT -stay -connect "+addr+" -dir "+
		bob+" | (head -1; exec <&-; echo gone >&2); exit ${PIPESTATUS[1]}")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), asSecurechat+"=1", "SECURECHAT="+os.Args[0], "HOME="+cmd.Dir)
	stdout, stderr := newWatched(), newWatched()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	server.out.match(t, `bob: 30000\n`)
	server.send("go\n")
	stderr.match(t, "gone")
	witness := start(t, t.TempDir(), "-connect", addr, "-dir", anna)
	server.err.match(t, `(?m)anna~?\S* joined`)
	server.send("more\nmore\n")
	witness.out.match(t, `anna: more\n.*more\n`)
	witness.stdin.Close()
	witness.wait()
	const large = 2 * outboxBytes / maxLine
	input := strings.Repeat(strings.Repeat("x", maxLine)+"\n", large) + "last\n"
	if err := os.WriteFile(filepath.Join(cmd.Dir, "more"), []byte(input), 0); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || stdout.String() != "anna: go\n" ||
		strings.Contains(stderr.String(), "securechat: ") {
		t.Errorf("%v, stdout %q, stderr %q", err, stdout, stderr)
	}
	got := messages(t, filepath.Join(server.cmd.Dir, "connection.log"))
	if len(got) != 30000+3+large+1 || got[len(got)-1] != "last" {
		t.Errorf("the log has %d messages, of %d", len(got), 30000+3+large+1)
	}
}

// TestHistory: a person receives the lines that were sent while the person was away, a bot receives none, and a gap is
// reported.
func TestHistory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		history string
		want    []string
		gap     bool
	}{{"1000", []string{"2 messages while you were away:", "a1", "a2"}, false},
		{"1", []string{"1 message while you were away:", "a2"}, true}, {"0", nil, true}} {
		anna := state(t, "anna")
		server, addr := serve(t, anna, "-history", c.history)
		bob := guest(t, anna, addr, "bob")
		me := partyIn(t, bob)
		// visit joins with req, collects what it receives up to the operator's line say, and leaves.
		visit := func(req joinRequest, say string) (w welcome, got []string, last uint64) {
			sess, w := joinSession(t, addr, me, req)
			defer sess.conn.Close()
			server.send(say + "\n")
			for {
				kind, payload, err := sess.read()
				if err != nil {
					t.Fatal(err)
				}
				for kind == kindText && len(payload) > 0 {
					var it item
					if it, payload, err = cutItem(payload); err != nil {
						t.Fatal(err)
					}
					last = max(last, it.seq)
					if string(it.text) == say {
						err := writeMessage(sess, kindAck, binary.BigEndian.AppendUint64(nil, last))
						if err == nil {
							err = writeMessage(sess, kindClose, []byte(closeText))
						}
						for err == nil {
							_, _, err = sess.read()
						}
						return w, got, last
					}
					got = append(got, string(it.text))
					if history := it.seq <= w.present; history != (it.what != itemNotice || it.seq == 0) {
						t.Errorf("history %s: %q, number %d, is marked wrong: %d were before", c.history, it.text, it.seq, w.present)
					}
				}
			}
		}
		person := joinRequest{stream: streamID{1}, flags: joinListens | joinPerson}
		w, got, seen := visit(person, "first")
		if !slices.Equal(got, []string{"2 here: anna, bob"}) || w.flags != 0 {
			t.Errorf("a newcomer got %q", got)
		}
		server.err.match(t, "bob left")
		server.say(filepath.Join(server.cmd.Dir, "connection.log"), "a1\na2\n")
		person.stream[0]++
		if w, got, _ := visit(person, "second"); !slices.Equal(got, c.want) || (w.flags == welcomeGap) != c.gap {
			t.Errorf("history %s: a person got %q, flags %d", c.history, got, w.flags)
		}
		if w, got, _ := visit(joinRequest{stream: streamID{9}, flags: joinListens}, "third"); len(got) != 0 || w.flags != 0 {
			t.Errorf("history %s: a bot got %q, flags %d", c.history, got, w.flags)
		}
		cut := joinRequest{stream: streamID{1}, flags: joinListens | joinPlace, epoch: w.epoch, seen: seen}
		if w, got, _ := visit(cut, "fourth"); c.history == "1000" &&
			(!slices.Contains(got, "a1") || !slices.Contains(got, "second") || w.flags != 0) ||
			c.history != "1000" && (slices.Contains(got, "a1") || w.flags != welcomeGap) {
			t.Errorf("history %s: the client that was cut off received %q, flags %d", c.history, got, w.flags)
		}
	}
}

// hostileText contains everything that must not reach a terminal, and letters contains what must.
const (
	hostileText = "a\x00\x07\x08\r\x1b[2J\x1b]8;;http://x\x07y\x1b]52;c;eA==\x1b\\\x7f\u0085\u009b2J\x9b2J\xff" +
		"\u200b\u200e\u202e\u2066\u2028\u2029\ufeff\u00ad\u3164\u115f\u1160\uffa0\u034f\u2800z" + strayMarks
	strayMarks = "\ufe0fx\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301"
	letters    = "Ελληνικά 中文 العربية e\u0301 👩\u200d👩\u200d👧 🇬🇷 ❤\ufe0f"
)

// harmful describes what in out must not reach a terminal, or returns "". Lines may contain the program's own colours.
func harmful(out string) string {
	for i, r := range out {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 ||
			strings.ContainsRune("\u200b\u200e\u202e\u2066\u2028\u2029\ufeff\u00ad\ufffd", r) ||
			strings.ContainsRune("\u3164\u115f\u1160\uffa0\u034f\u2800", r) ||
			strings.HasPrefix(out[i:], "z"+strayMarks[:3]) || strings.HasPrefix(out[i:], strayMarks[3:]) {
			return fmt.Sprintf("%q", out[max(0, i-20):min(len(out), i+20)])
		}
	}
	return ""
}

// TestHostileClient sends harmful text over a session that the test writes. Every receiver shows it as one line of its
// sender.
func TestHostileClient(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	bob, eve := guest(t, anna, addr, "bob"), guest(t, anna, addr, "eve")
	hears := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	reads := start(t, t.TempDir(), "-connect", addr, "-dir", bob, "-json")
	server.err.match(t, `(?s)bob joined.*bob joined`)
	sess, _ := joinSession(t, addr, partyIn(t, eve), joinRequest{stream: streamID{6, 6, 6}})
	evil := []string{hostileText, "x\nanna: forged", "\r\nsecurechat: forged", letters}
	packet, err := sess.append(nil, kindText, linesOf(1, itemSay, "", evil...))
	if err == nil {
		packet, err = sess.append(packet, kindText, linesOf(5, itemAction, "", "end\n"+hostileText))
	}
	if err == nil {
		packet, err = sess.append(packet, kindText, linesOf(6, itemDirect, "nobody", "to nobody"))
	}
	if err == nil {
		packet, err = sess.append(packet, kindText, linesOf(7, itemSay, "", "done"))
	}
	if err == nil {
		err = sess.write(packet)
	}
	if err != nil {
		t.Fatal(err)
	}
	hears.out.match(t, `done\n`)
	reads.out.match(t, `done`)
	server.out.match(t, `done\n`)
	for name, out := range map[string]string{
		"stdout": hears.out.String(), "stderr": hears.err.String(), "objects": reads.out.String(),
		"server stdout": server.out.String(), "server stderr": server.err.String(),
	} {
		if bad := harmful(out); bad != "" {
			t.Errorf("%s has %s", name, bad)
		}
		for line := range strings.Lines(out) {
			if strings.HasSuffix(name, "stdout") && !strings.HasPrefix(line, "eve: ") && !strings.HasPrefix(line, "* eve ") {
				t.Errorf("%s has a line of another speaker: %q", name, line)
			}
		}
	}
	if !strings.Contains(hears.out.String(), "eve: "+letters+"\n") || strings.Count(hears.out.String(), "\n") != 6 {
		t.Errorf("letters: %q", hears.out)
	}
	log := filepath.Join(server.cmd.Dir, "connection.log")
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if bad := harmful(string(raw)); bad != "" {
		t.Errorf("the log has %s", bad)
	}
	exact := 0
	for _, r := range records(t, log) {
		if r["base64"] == base64.StdEncoding.EncodeToString([]byte(hostileText)) || r["message"] == letters ||
			r["message"] == evil[1] {
			exact++
		}
	}
	if exact != 3 {
		t.Errorf("the log has %d of 3 texts as they were", exact)
	}
}

// openSession returns a session with the server at addr, before its first packet, that the test reads and writes
// itself.
func openSession(t testing.TB, addr string, me *party) *session {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	secrets, err := clientHandshake(conn, me, trustAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	sess, err := newSession(conn, secrets, false, pipeTraffic)
	if err != nil {
		t.Fatal(err)
	}
	return sess
}

// joinSession joins the room at addr as me, with req, over a session that the test reads and writes itself.
func joinSession(t testing.TB, addr string, me *party, req joinRequest) (*session, welcome) {
	t.Helper()
	sess := openSession(t, addr, me)
	if err := writeMessage(sess, kindJoin, req.encode()); err != nil {
		t.Fatal(err)
	}
	kind, payload, err := sess.read()
	if err != nil || kind != kindJoin {
		t.Fatalf("kind %d: %v", kind, err)
	}
	w, err := parseWelcome(payload)
	if err != nil {
		t.Fatal(err)
	}
	return sess, w
}

// TestHostileServer sends harmful texts, notices and names to a client.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	for _, c := range []struct {
		name string // The last item's name.
		code int
	}{{"bob", exitDone}, {"b\x1b[2J", exitLost}, {"b\nanna", exitLost}, {"b\u202e", exitLost}, {"-", exitLost},
		{"b@x@y", exitLost}} {
		addr := fakeServer(t, dir, func(sess *session) error {
			w := welcome{name: "anna", server: "anna"}
			packet, err := sess.append(nil, kindJoin, w.encode())
			var items []byte
			for i, what := range []byte{itemSay, itemAction, itemDirect, itemLeave, itemNotice, itemUndelivered, itemJoin} {
				it := item{time: time.Now(), what: what, name: "bob", text: []byte(hostileText + "\nanna: forged")}
				switch what {
				case itemSay, itemAction, itemDirect:
					it.seq = uint64(i + 1)
				case itemNotice, itemUndelivered:
					it.name = ""
				case itemJoin:
					it.text = nil
				}
				items = it.append(items)
			}
			items = item{seq: 9, time: time.Now(), what: itemSay, name: c.name, text: []byte(letters)}.append(items)
			if err == nil {
				packet, err = sess.append(packet, kindText, items)
			}
			if err == nil {
				err = sess.write(packet)
			}
			for err == nil { // The loop ends with the client's close.
				var kind byte
				if kind, _, err = sess.read(); err == nil && kind == kindClose {
					err = writeMessage(sess, kindClose, []byte(closeText))
					return err
				}
			}
			return nil
		})
		for _, args := range [][]string{{"-count", "4"}, {"-count", "4", "-json"}} {
			out, stderr, code := runToEnd(t, t.TempDir(), "", append([]string{"-connect", addr, "-dir", dir}, args...)...)
			// An undelivered line makes exit status 1.
			if want := c.code; code != want && !(want == exitDone && code == exitTrouble) {
				t.Errorf("%q: exit %d, want %d: %s", c.name, code, want, stderr)
			}
			if bad := harmful(out + stderr); bad != "" {
				t.Errorf("%q: %s", c.name, bad)
			}
			for line := range strings.Lines(out) {
				if len(args) == 2 && !strings.HasPrefix(line, "bob") && !strings.HasPrefix(line, "* bob") {
					t.Errorf("a line of another speaker: %q", line)
				}
			}
			for line := range strings.Lines(stderr) {
				if !strings.HasPrefix(line, "* ") && !strings.HasPrefix(line, "securechat: ") {
					t.Errorf("a line of another speaker: %q", line)
				}
			}
			if len(args) == 2 && c.code == exitDone && !strings.Contains(out, letters) {
				t.Errorf("letters: %q", out)
			}
		}
	}
}

// TestLongCertificates: a certificate with a key id and a principal of several kilobytes and forged lines costs each
// side one short line and one short record, whether it is refused or not.
func TestLongCertificates(t *testing.T) {
	t.Parallel()
	anna, bob, eve := state(t, "anna"), state(t, "bob"), state(t, "eve")
	ca := filepath.Join(t.TempDir(), "ca")
	runTool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ca)
	long := strings.Repeat("\nsecurechat: forged\x1b[2J\u202e", 100)
	sign := func(dir string, args ...string) {
		args = append([]string{"-q", "-s", ca, "-I", long}, args...)
		runTool(t, "ssh-keygen", append(args, filepath.Join(dir, "identity.pub"))...)
	}
	sign(eve, "-n", long+",bob")
	sign(anna, "-h", "-n", long+"x")
	server, addr := serve(t, anna)
	pin(t, eve, addr, anna)
	_, code := sendHello(t, eve, addr)
	appendFile(t, filepath.Join(anna, "authorized_keys"), "cert-authority,principals=\"nobody\" "+readText(t, ca+".pub"))
	_, again := sendHello(t, eve, addr)
	if code != exitUntrusted || again != exitUntrusted {
		t.Errorf("exit %d and %d", code, again)
	}
	put(t, filepath.Join(anna, "authorized_keys"), []byte("cert-authority "+readText(t, ca+".pub")))
	_, admitted := sendHello(t, eve, addr)
	if admitted != exitDone {
		t.Errorf("exit %d", admitted)
	}
	server.err.match(t, `\* \S+ left`)
	if log := records(t, filepath.Join(server.cmd.Dir, "connection.log")); len(log) < 6 {
		t.Errorf("%d records", len(log))
	}
	shown := map[string]string{"stderr": server.err.String(),
		"the log": readText(t, filepath.Join(server.cmd.Dir, "connection.log"))}
	appendFile(t, filepath.Join(bob, "known_hosts"), "@cert-authority * "+readText(t, ca+".pub"))
	shown["the client's stderr"], _ = sendHello(t, bob, addr)
	for name, out := range shown {
		if bad := harmful(out); bad != "" {
			t.Errorf("%s has %s", name, bad)
		}
		for line := range strings.Lines(out) {
			if len(line) > 6*maxReason && !strings.HasPrefix(line, "securechat: hint: ") || strings.HasPrefix(line,
				"securechat: forged") {
				t.Errorf("%s has a line of %d bytes: %.100q", name, len(line), line)
			}
		}
	}
}

// TestGoodbyeBeforeWelcome: nothing that a server sends in the place of its welcome does harm, and only a close is
// shown as a goodbye.
func TestGoodbyeBeforeWelcome(t *testing.T) {
	dir := state(t, "anna")
	notice := item{what: itemNotice, text: []byte(hostileText + "\nanna: forged")}.append(nil)
	removed := item{what: itemRemoved, text: []byte("x")}.append(nil)
	for _, c := range []struct {
		payload []byte
		then    byte
		want    string
	}{
		{notice, kindClose, "securechat: the server closed the session: "},
		{notice, kindPing, errMalformed.Error()},
		{notice, kindText, errMalformed.Error()},
		{notice[1:], kindClose, errMalformed.Error()},
		{append(bytes.Clone(notice), notice...), kindClose, errMalformed.Error()},
		{removed, kindClose, errMalformed.Error()},
		{nil, kindClose, errMalformed.Error()},
	} {
		addr := fakeServer(t, dir, func(sess *session) error {
			packet, err := sess.append(nil, kindText, c.payload)
			if err == nil {
				packet, err = sess.append(packet, c.then, []byte(closeText))
			}
			if err == nil {
				err = sess.write(packet)
			}
			return err
		})
		out, stderr, code := runToEnd(t, t.TempDir(), "hello\n", "-connect", addr, "-dir", dir)
		if code != exitTrouble || out != "" || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 ||
			harmful(stderr) != "" {
			t.Errorf("after %d bytes, kind %d: exit %d: %q%q", len(c.payload), c.then, code, out, stderr)
		}
	}
}

// fakeServer listens with the identity in dir and calls serve with each session after it has read the join.
func fakeServer(t *testing.T, dir string, serve func(*session) error) (addr string) {
	t.Helper()
	me := partyIn(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			secrets, _, err := serverHandshake(conn, me, 0, func(ssh.PublicKey, []byte, []byte, []byte, bool) error {
				return nil
			})
			var sess *session
			if err == nil {
				sess, err = newSession(conn, secrets, true, pipeTraffic)
			}
			if err == nil {
				_, _, err = sess.read()
			}
			if err == nil {
				err = serve(sess)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("the test's server: %v", err)
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// stuckLink is a link whose read never returns, like one that waits for stdout.
type stuckLink struct {
	link
	free chan struct{}
}

func (l stuckLink) append(buf []byte, kind byte, _ []byte) ([]byte, error) {
	return append(buf, kind), nil
}

func (l stuckLink) write([]byte) error { return nil }

func (l stuckLink) read() (byte, []byte, error) { <-l.free; return 0, nil, errTruncated }

func (l stuckLink) ready() bool { return true }

func (l stuckLink) setReadTimeout(time.Duration, bool) {}

// quietEndpoint returns an endpoint of securechat/2, and a server that it trusts, for sessions that need no handshake.
func quietEndpoint(t *testing.T) (endpoint, *peer) {
	tr := openTrust(t.TempDir(), nil, "", nil)
	_, key := newEd25519(t)
	put(t, tr.path("known_hosts"), []byte("[127.0.0.1]:9000 "+publicLine(key, "")))
	server := &peer{remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9000}}
	server.identify(key)
	proto := &securechat2{trust: tr, client: securechat2Client{addr: "127.0.0.1:9000"}}
	return endpoint{protocol: proto, trust: tr}, server
}

// TestDistrustBeforeSession: a session begins with a check of the server's key, since the server can delay its welcome
// after the handshake.
func TestDistrustBeforeSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, server := quietEndpoint(t)
		c := newClient(clientConfig{
			endpoint: end, console: newConsole(strings.NewReader(""), io.Discard, io.Discard, nil, consoleOptions{}),
		})
		defer c.console.close()
		put(t, c.trust.path("revoked_keys"), []byte(publicLine(server.key, "")))
		conn, other := net.Pipe()
		defer other.Close()
		l := stuckLink{free: make(chan struct{})}
		defer close(l.free)
		begin := time.Now()
		err := c.session(&clientConn{conn, server, l, welcome{name: "bob"}})
		if d := time.Since(begin); !isRefusal(err) || d > time.Second {
			t.Errorf("after %v it ended with %v", d, err)
		}
	})
}

// TestTimeoutStuck: -timeout ends a client that has sent its close and whose reader is stuck.
func TestTimeoutStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, server := quietEndpoint(t)
		c := newClient(clientConfig{
			endpoint: end, keepReceiving: true,
			console: newConsole(strings.NewReader(""), io.Discard, io.Discard, nil, consoleOptions{}),
		})
		defer c.console.close()
		time.AfterFunc(time.Second, func() { c.leave(errTimeout) })
		conn, other := net.Pipe()
		defer other.Close()
		l := stuckLink{free: make(chan struct{})}
		defer close(l.free)
		err := c.session(&clientConn{conn, server, l, welcome{name: "bob"}})
		if err != nil || !errors.Is(c.result(), errTimeout) {
			t.Errorf("it ended with %v, result %v", err, c.result())
		}
	})
}

// TestTimeoutSilent: -timeout also ends a connection attempt to a server that accepts and sends nothing.
func TestTimeoutSilent(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-connect", silent.Addr().String(), "-timeout", "100ms", "-dir",
		state(t, "anna"))
	if code != exitTimeout {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// TestClientDeadline: a server that reads but stops sending delays a client at most until the handshake's deadline,
// which includes the first packet.
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
			if _, err := c.join(t.Context(), here); !errors.Is(err, os.ErrDeadlineExceeded) {
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

// TestAckOverReconnect: with -sync, lines sent on the last connection can become durable after the welcome of this one.
func TestAckOverReconnect(t *testing.T) {
	b := newOutbox()
	for range 10 {
		b.add(outLine{text: []byte("x"), what: itemSay}, true)
	}
	b.resume(0, false)
	b.take(nil) // The connection is lost after the server has written these lines and before it has synced them.
	if _, _, err := b.resume(0, false); err != nil {
		t.Fatal(err)
	}
	if err := b.acknowledge(10); err != nil { // The pending sync ends before the client's writer starts.
		t.Errorf("the acknowledgement: %v", err)
	}
}

// TestSentBeforeBadLine: a line is sent at once although the line that came with it is rejected and nothing follows.
func TestSentBeforeBadLine(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	_, addr := serve(t, anna)
	client := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
	client.out.match(t, `"type":"welcome"`)
	client.send(`{"text":"first"}` + "\n")
	client.out.match(t, `"id":1}`)
	begin := time.Now()
	client.send(`{"text":"good"}` + "\nbad\n")
	client.out.match(t, `"id":2}`)
	if d := time.Since(begin); d > pingInterval/2 {
		t.Errorf("the line was acknowledged after %v", d)
	}
	client.stdin.Close()
	if code := client.wait(); code != exitTrouble {
		t.Errorf("exit %d", code)
	}
}

// scriptedLink is a link whose other side is the test: it receives the kinds that are written, and sends messages to
// read.
type scriptedLink struct {
	link
	kinds chan byte
	reads chan receivedMessage
}

func newScriptedLink() *scriptedLink {
	return &scriptedLink{kinds: make(chan byte, 16), reads: make(chan receivedMessage, 16)}
}

func (l *scriptedLink) append(buf []byte, kind byte, _ []byte) ([]byte, error) {
	return append(buf, kind), nil
}

func (l *scriptedLink) write(buf []byte) error {
	for _, kind := range buf {
		if kind != kindPing {
			l.kinds <- kind
		}
	}
	return nil
}

func (l *scriptedLink) read() (byte, []byte, error) {
	m := <-l.reads
	return m.kind, m.payload, m.err
}

func (l *scriptedLink) ready() bool { return false }

func (l *scriptedLink) setReadTimeout(time.Duration, bool) {}

func (l *scriptedLink) wipe() {}

// number is the payload of kindAck and kindSent.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// fullDisk is a standard output that takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// TestSessionEnds: how a session with one line ends, by what the server sends after the line and after secure-close.
func TestSessionEnds(t *testing.T) {
	said := item{seq: 1, what: itemSay, name: "bob", text: []byte("last")}.append(nil)
	ack, sent := receivedMessage{kind: kindAck, payload: number(1)}, receivedMessage{kind: kindSent, payload: number(1)}
	bye, cut := receivedMessage{kind: kindClose, payload: []byte(closeText)}, receivedMessage{err: errTruncated}
	removed := receivedMessage{kind: kindText, payload: item{what: itemRemoved, text: []byte("removed")}.append(nil)}
	lost := func(n int) func(error) bool {
		return func(err error) bool {
			var e *errLost
			return errors.As(err, &e) && e.unacknowledged == n
		}
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, c := range []struct {
		name     string
		line     []receivedMessage // after the line
		goodbye  []receivedMessage // after the client's secure-close
		fullDisk bool
		want     func(error) bool
		trouble  bool // which another connection may mend
	}{
		{"all well", []receivedMessage{ack}, []receivedMessage{bye}, false, is(nil), false},
		{"a connection that is cut after secure-close", []receivedMessage{ack}, []receivedMessage{cut}, false, is(nil),
			false},
		{"a forged packet after secure-close", []receivedMessage{ack}, []receivedMessage{{err: errBadPacket}}, false,
			is(errBadPacket), false},
		{"a full disk after secure-close", []receivedMessage{ack},
			[]receivedMessage{{kind: kindText, payload: said}, bye}, true, is(syscall.ENOSPC), false},
		{"a cut before the acknowledgement", []receivedMessage{cut}, nil, false, lost(1), true},
		{"a server that stops", []receivedMessage{bye}, nil, false, lost(1), true},
		{"removed", []receivedMessage{removed, bye}, nil, false, is(errRemoved), false},
		{"a text without an item", []receivedMessage{{kind: kindText}, bye}, nil, false, func(err error) bool {
			return lost(1)(err) && strings.Contains(err.Error(), errMalformed.Error())
		}, true},
		{"an acknowledgement of what was not sent", []receivedMessage{{kind: kindAck, payload: number(2)}}, nil, false,
			lost(1), true},
		{"handed over, and the server closes", []receivedMessage{sent}, []receivedMessage{bye}, false, is(nil), false},
		{"handed over, and the connection is cut", []receivedMessage{sent}, []receivedMessage{cut}, false, lost(1), true},
		{"handed over, and cut before secure-close", []receivedMessage{sent, cut}, nil, false, lost(1), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end, server := quietEndpoint(t)
				cl := newClient(clientConfig{
					endpoint: end, console: unstartedConsole(strings.NewReader(""), io.Discard),
				})
				if c.fullDisk {
					cl.console.out = newOutput(fullDisk{})
				}
				conn, other := net.Pipe()
				defer other.Close()
				l := newScriptedLink()
				go func() {
					defer close(l.kinds) // a write after this would panic
					if kind := <-l.kinds; kind != kindText {
						t.Errorf("the client sent kind %d", kind)
					}
					for _, m := range c.line {
						l.reads <- m
					}
					if c.goodbye == nil {
						return
					}
					if kind := <-l.kinds; kind != kindClose {
						t.Errorf("the client sent kind %d", kind)
					}
					for _, m := range c.goodbye {
						l.reads <- m
					}
				}()
				cl.box.add(outLine{text: []byte("line"), what: itemSay}, true)
				if c.goodbye != nil {
					cl.box.close()
				}
				err := cl.session(&clientConn{conn, server, l, welcome{name: "anna"}})
				if !c.want(err) || isTrouble(err) != c.trouble {
					t.Errorf("the session ended with %v; trouble %v", err, isTrouble(err))
				}
			})
		})
	}
}

// TestClosedOutputPatience: lines that are piped in have any time to be acknowledged, also with -stay and a closed
// output.
func TestClosedOutputPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end, server := quietEndpoint(t)
		c := newClient(clientConfig{
			endpoint: end, keepReceiving: true,
			console: unstartedConsole(strings.NewReader("line\n"), io.Discard),
		})
		conn, other := net.Pipe()
		defer other.Close()
		l := newScriptedLink()
		begin := time.Now()
		time.AfterFunc(time.Second, func() {
			if err := c.printed(syscall.EPIPE); err != nil {
				t.Error(err)
			}
		})
		time.AfterFunc(time.Minute, func() { l.reads <- receivedMessage{kind: kindAck, payload: number(1)} })
		go func() {
			for kind := range l.kinds {
				if kind == kindClose {
					l.reads <- receivedMessage{kind: kindClose, payload: []byte(closeText)}
					return
				}
			}
		}()
		go c.input()
		if err := c.session(&clientConn{conn, server, l, welcome{name: "anna"}}); err != nil || c.result() != nil {
			t.Errorf("it ended with %v", err)
		}
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("it ended after %v", d)
		}
	})
}

// TestResumeTooFar: a server cannot acknowledge lines that were never sent.
func TestResumeTooFar(t *testing.T) {
	b := newOutbox()
	for range 3 {
		b.add(outLine{text: []byte("x"), what: itemSay}, true)
	}
	if _, _, err := b.resume(1, false); !errors.Is(err, errMalformed) {
		t.Errorf("resume: %v", err)
	}
	b.take(nil)
	if _, _, err := b.resume(2, false); err != nil || b.unacknowledged() != 1 {
		t.Errorf("resume: %v, %d lines unacknowledged", err, b.unacknowledged())
	}
	if first, batch, done := b.take(nil); first != 3 || len(batch) != 1 || done {
		t.Errorf("%d lines from %d, %v", len(batch), first, done)
	}
}

// TestResume: what a client that comes back learns from the number of lines that the server has. Ten lines were sent.
func TestResume(t *testing.T) {
	none := span{}
	for _, c := range []struct {
		acked, recorded uint64
		forgotten       bool
		lost, doubtful  span
	}{
		{0, 0, false, none, none}, // the server never had a line
		{4, 4, false, none, none},
		{4, 10, false, none, none}, // the last acknowledgement was lost
		{4, 1, false, span{2, 4}, none},
		{4, 0, false, span{1, 4}, none},
		{4, 0, true, none, span{5, 10}},
		{0, 0, true, none, span{1, 10}},
		{10, 0, true, none, none},
	} {
		b := newOutbox()
		for range 10 {
			b.add(outLine{text: []byte("x"), what: itemSay}, true)
		}
		b.take(nil)
		if err := b.acknowledge(c.acked); err != nil {
			t.Fatal(err)
		}
		for again := range 2 { // A second connection reports the same loss no more.
			lost, doubtful, err := b.resume(c.recorded, c.forgotten)
			wantLost := c.lost
			if again > 0 {
				wantLost = none
			}
			if err != nil || lost.len() != wantLost.len() || lost.len() > 0 && lost != wantLost ||
				doubtful.len() != c.doubtful.len() || doubtful.len() > 0 && doubtful != c.doubtful {
				t.Errorf("%+v: lost %v, doubtful %v, %v", c, lost, doubtful, err)
			}
		}
		if first, batch, _ := b.take(nil); first != max(c.acked, c.recorded)+1 || first+uint64(len(batch)) != 11 {
			t.Errorf("%+v: it sends %d lines from %d on", c, len(batch), first)
		}
	}
}

// TestLeavingOffline: leaving ends a client that has no connection at once. One that was leaving before it lost the
// connection has leaveTimeout to deliver its lines.
func TestLeavingOffline(t *testing.T) {
	for _, c := range []struct {
		leaves, ends time.Duration
		cause, want  error
	}{
		{time.Second, time.Second, errQuit, errOffline},
		{time.Second, time.Second, errTimeout, errTimeout},
		{0, leaveTimeout, errCountReached, errOffline},
	} {
		synctest.Test(t, func(t *testing.T) {
			cl := newClient(clientConfig{
				endpoint: endpoint{protocol: &securechat2{}}, addr: "127.0.0.1:1",
				console: unstartedConsole(strings.NewReader(""), io.Discard),
			})
			begin := time.Now()
			if c.leaves == 0 {
				cl.leave(c.cause)
			} else {
				time.AfterFunc(c.leaves, func() { cl.leave(c.cause) })
			}
			conn, err := cl.connectAgain(&backoff{next: time.Hour}) // no attempt comes before the end
			if conn != nil || !errors.Is(err, c.want) || time.Since(begin) != c.ends {
				t.Errorf("%v: it ended with %v after %v", c.cause, err, time.Since(begin))
			}
			synctest.Wait()
			if !cl.box.finished() {
				t.Error("the outbox is open")
			}
		})
	}
}

// TestWhatIsRetried checks after which errors a client connects again. It does so after trouble of the network, and
// when the server stops or is full; it does not after an answer that another attempt would only receive again.
func TestWhatIsRetried(t *testing.T) {
	lost := &errLost{1, errors.New("connection reset")}
	full := fmt.Errorf("%w: the room is full", errServerLeft)
	for _, err := range []error{errServerLeft, full, errUnreachable{io.EOF}, lost} {
		if !isTrouble(err) {
			t.Errorf("not retried: %v", err)
		}
	}
	notAdmitted := (&securechat2{me: partyOf(t, fixedSigner(t, "client"), onceKeys["client"]())}).notAdmitted()
	for _, err := range []error{
		errRemoved, &errLost{1, errRemoved}, notAdmitted, &untrusted{kind: changedKey}, errPermanent{io.EOF}, errUnverified,
	} {
		if isTrouble(err) {
			t.Errorf("retried: %v", err)
		}
	}
}

// unstartedConsole returns a console without the goroutine that prints its notes; printNotes prints them. Its stdout
// is discarded.
func unstartedConsole(stdin io.Reader, stderr io.Writer) *console {
	c := &console{display: display{stderr: stderr}, out: newOutput(io.Discard), lines: newLineReader(stdin, maxLine)}
	c.notes = newNoteQueue(c.print)
	return c
}

// printNotes prints the notes that wait in an unstarted console.
func printNotes(c *console) {
	for len(c.notes.queue) > 0 {
		c.print(<-c.notes.queue)
	}
}

// TestShow prints each kind of item in each mode. Text from a peer is printed in its safe form only.
func TestShow(t *testing.T) {
	at := time.Date(2026, 11, 23, 21, 36, 0, 0, time.UTC)
	items := []item{
		{what: itemSay, seq: 5, name: "bob", text: []byte("old")},
		{what: itemSay, seq: 6, name: "bob", text: []byte("hi\x1b[2J")},
		{what: itemAction, seq: 7, name: "bob", text: []byte("waves")},
		{what: itemDirect, name: "bob", text: []byte("psst")},
		{what: itemJoin, name: "ann"},
		{what: itemLeave, name: "ann"},
		{what: itemLeave, name: "ann", text: []byte("lost\n")},
		{what: itemNotice, text: []byte("here: ann")},
		{what: itemUndelivered, text: []byte("no bob")},
		{what: itemRemoved, text: []byte("removed by the operator")},
	}
	messages := "bob: old\nbob: hi\\x1b[2J\n* bob waves\nbob (to you): psst\n"
	events := "* ann joined\n* ann left\n* ann left: lost\\n\n* here: ann\nsecurechat: no bob\n* removed by the operator\n"
	for _, c := range []struct {
		name           string
		options        consoleOptions
		stdout, stderr string
	}{
		{"pipe", consoleOptions{}, messages, events},
		{"quiet", consoleOptions{quiet: true}, messages, "securechat: no bob\n"},
	} {
		var stdout, stderr strings.Builder
		con := newConsole(strings.NewReader(""), &stdout, &stderr, nil, c.options)
		con.setRoom("pi", "SHA256:abc", 5)
		for _, it := range items {
			it.time = at
			if err := con.show(it); err != nil {
				t.Error(err)
			}
		}
		if stdout.Len() > 0 {
			t.Errorf("%s: written before flush: %q", c.name, stdout.String())
		}
		if err := con.flush(); err != nil {
			t.Error(err)
		}
		con.mute()
		if err := errors.Join(con.show(items[0]), con.flush()); err != nil {
			t.Error(err)
		}
		con.close()
		if stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("%s: %q and %q, want %q and %q", c.name, stdout.String(), stderr.String(), c.stdout, c.stderr)
		}
	}
	var stdout strings.Builder
	con := newConsole(strings.NewReader(""), &stdout, io.Discard, nil, consoleOptions{json: true})
	defer con.close()
	con.setRoom("pi", "SHA256:abc", 5)
	for _, it := range items[:2] {
		it.time = at
		if err := con.show(it); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(con.acked(7), con.welcome(welcome{name: "ann", seq: 6, epoch: [8]byte{1, 2},
		flags: welcomeGap})); err != nil {
		t.Error(err)
	}
	const start = `{"type":"message","seq":%d,"time":"2026-11-23T21:36:00.000Z","name":"bob","what":"say","text":`
	want := fmt.Sprintf(start, 5) + `"old","history":true,"server":"pi","origin":"SHA256:abc"}` + "\n" +
		fmt.Sprintf(start, 6) + `"hi\u001b[2J","server":"pi","origin":"SHA256:abc"}` + "\n" +
		`{"type":"ack","id":7}` + "\n" +
		`{"type":"welcome","name":"ann","seq":7,"epoch":"0102000000000000","gap":true,"server":"pi","origin":"SHA256:abc"}` +
		"\n"
	if stdout.String() != want {
		t.Errorf("objects: %s, want %s", stdout.String(), want)
	}
}

// stuckWriter blocks every write until free is closed.
type stuckWriter struct{ free chan struct{} }

func (w stuckWriter) Write(b []byte) (int, error) {
	<-w.free
	return len(b), nil
}

// TestNotesStuck checks that a stuck stderr delays no note, and the end by no more than notesTimeout.
func TestNotesStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stuckWriter{make(chan struct{})}
		c := newConsole(strings.NewReader(""), io.Discard, w, nil, consoleOptions{})
		for n := range maxNotes + 10 {
			c.note("%d\n%d", n, n)
		}
		synctest.Wait()
		if n := c.notes.dropped.Load(); n < 2*8 || n > 2*10 {
			t.Errorf("%d lines were dropped", n)
		}
		begin := time.Now()
		c.close()
		if d := time.Since(begin); d != notesTimeout {
			t.Errorf("close took %v", d)
		}
		close(w.free)
		c.close()
	})
}

// TestNotesDropped checks that the number of dropped lines is printed after stderr works again.
func TestNotesDropped(t *testing.T) {
	var printed []string
	q := newNoteQueue(func(text string) { printed = append(printed, text) })
	for n := range maxNotes + 3 {
		q.add([]string{fmt.Sprint(n), "second line"})
	}
	go q.run()
	ended := q.close(time.Minute)
	all := strings.Join(printed, "\n")
	if !ended || len(printed) != maxNotes+1 || strings.Count(all, "6 more lines could not be shown") != 1 {
		t.Errorf("ended %v, %d notes: %q", ended, len(printed), printed[:min(len(printed), 3)])
	}
}

// TestParseTyped reads what a person types, and each way to reject it.
func TestParseTyped(t *testing.T) {
	for _, c := range []struct {
		line, text, to string
		what           byte
		command, arg   string
		err            string
	}{
		{line: "hi", text: "hi", what: itemSay},
		{line: "", text: "", what: itemSay},
		{line: "//who", text: "/who", what: itemSay},
		{line: " /who", text: " /who", what: itemSay},
		{line: "/me  waves ", text: "waves", what: itemAction},
		{line: "/me", err: "/me TEXT"},
		{line: "/msg bob  hi there", text: "hi there", to: "bob", what: itemDirect},
		{line: "/msg bob", err: "/msg NAME TEXT"},
		{line: "/msg", err: "/msg NAME TEXT"},
		{line: "/msg " + strings.Repeat("n", maxShown+1) + " x", err: "/msg NAME TEXT"},
		{line: "/msg bob: hi", err: `not sent: "bob:" is no name`},
		{line: "/msg bob~1234abcd hi", text: "hi", to: "bob~1234abcd", what: itemDirect},
		{line: "/msg bob~1234ABCD hi", err: `"bob~1234ABCD" is no name`},
		{line: "/kick  bob ", command: "/kick", arg: "bob"},
		{line: "/", command: "/"},
		{line: "/ x", command: "/", arg: "x"},
		{line: "/nonsense", command: "/nonsense"},
	} {
		out, command, arg, err := parseTyped([]byte(c.line))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %s", c.line, err, c.err)
			}
			continue
		}
		if err != nil || string(out.text) != c.text || out.to != c.to || out.what != c.what || command != c.command ||
			arg != c.arg {
			t.Errorf("%q: %q, %q, %q, %v", c.line, out.text, command, arg, err)
		}
	}
}

func BenchmarkShow(b *testing.B) {
	for name, options := range map[string]consoleOptions{"pipe": {}, "json": {json: true}} {
		b.Run(name, func(b *testing.B) {
			c := newConsole(strings.NewReader(""), io.Discard, io.Discard, nil, options)
			defer c.close()
			text := []byte(strings.Repeat("a plain line ", 8))
			it := item{seq: 7, time: time.Now(), what: itemSay, name: "bob", text: text}
			b.ReportAllocs()
			for b.Loop() {
				if err := c.show(it); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestNoteArguments: bytes of a peer in an argument begin no line of their own and reach the terminal escaped.
func TestNoteArguments(t *testing.T) {
	var out bytes.Buffer
	c := unstartedConsole(strings.NewReader(""), &out)
	c.note("refused %s: %v%s", "peer\nsecurechat: room open", errors.New("unknown algorithm \x1b[2J\r\nx"),
		ownLines("\nhint: two\nlines"))
	printNotes(c)
	want := "securechat: refused peer\\nsecurechat: room open: unknown algorithm \\x1b[2J\\r\\nx\nhint: two\nlines\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// TestClip: a long reason is cut between characters.
func TestClip(t *testing.T) {
	for text, want := range map[string]string{"short": "short", "exactly": "exactly", "1234567é": "1234567…",
		"123456é9": "123456…"} {
		if got := clip(text, 7); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// requestLink is a link that only notes the kinds of messages.
type requestLink struct {
	link
	kinds []byte
}

func (l *requestLink) append(buf []byte, kind byte, _ []byte) ([]byte, error) {
	l.kinds = append(l.kinds, kind)
	return buf, nil
}

// TestHistoryWaitsForList: the client asks for the history after the list of people has arrived, because a server drops
// the request while a notice waits. A notice that is no list makes it ask for the list again.
func TestHistoryWaitsForList(t *testing.T) {
	l := &requestLink{}
	s := &clientSession{client: &client{box: newOutbox()}, clientConn: &clientConn{link: l}}
	requests := func(want ...byte) {
		t.Helper()
		l.kinds = nil
		if _, err := s.appendRequests(nil); err != nil || !slices.Equal(l.kinds, want) {
			t.Errorf("%v, %v; want %v", l.kinds, err, want)
		}
	}
	notice := func(text string) item { return item{what: itemNotice, time: time.Now(), text: []byte(text)} }
	s.people.want()
	s.asksWho.Store(true)
	s.asksHistory.Store(3)
	requests(kindWho)
	requests()
	if s.heardList(notice("2 messages while you were away:")) {
		t.Error("a notice is not shown")
	}
	requests(kindWho)
	if s.heardList(notice("2 here: anna, bob")) {
		t.Error("the first list is not shown")
	}
	requests(kindHistory)
	if s.heardList(notice("the last 3 messages:")) || !s.heardList(notice("2 here: anna, bob")) {
		t.Error("a list that nobody asked for is shown")
	}
	s.people.ask()
	if s.heardList(notice("2 here: anna, bob")) {
		t.Error("the answer to /who is not shown")
	}
	requests()
}

// TestPeople: the names for completion follow lists, joins and leaves, also of several connections with one name, and
// of joins that the server counted in the list already.
func TestPeople(t *testing.T) {
	var p people
	at := time.UnixMilli(1_000_000)
	saw := func(what byte, name string, after time.Duration) {
		p.saw(item{what: what, name: name, time: at.Add(after)})
	}
	want := func(names ...string) {
		t.Helper()
		if got := p.names(); !slices.Equal(got, names) {
			t.Errorf("%q, want %q", got, names)
		}
	}
	saw(itemSay, "anna", -2)
	want("anna")
	p.list([]string{"anna", "bob"}, at)
	saw(itemJoin, "bob", 0) // it is in the list
	saw(itemLeave, "anna", 0)
	want("anna", "bob")
	saw(itemLeave, "bob", 1)
	want("anna")
	saw(itemJoin, "carol", 2)
	saw(itemJoin, "carol", 3)
	saw(itemLeave, "carol", 4)
	want("anna", "carol")
	saw(itemSay, "carol", 5)
	saw(itemLeave, "carol", 6)
	want("anna")
	for i := range 2 * maxPeople {
		saw(itemJoin, fmt.Sprint(i), 7)
	}
	if n := len(p.names()); n != maxPeople {
		t.Errorf("%d names", n)
	}
	for text, want := range map[string]int{"2 here: a, b": 2, "1 here: a~12345678": 1, "3 here: a, b": 0, "1 here: a b": 0,
		"0 here: ": 0, "x here: a": 0, "2 messages while you were away:": 0, "1 here: \x1b[2J": 0} {
		if names, ok := parseWhoLine(text); len(names) != want || ok != (want > 0) {
			t.Errorf("%q: %q, %v", text, names, ok)
		}
	}
}
