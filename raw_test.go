package main

// -raw: bytes in, the same bytes out, and an exit code that says whether all of them arrived.

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// carryServer starts a server with -raw. Its stdin is a pipe that stays open.
func carryServer(t *testing.T, dir string, args ...string) (*proc, string) {
	t.Helper()
	p := start(t, t.TempDir(), append([]string{"-listen", "127.0.0.1:0", "-raw", "-dir", dir}, args...)...)
	return p, p.err.match(t, `waiting for one client on (127\.0\.0\.1:\d+)`)[1]
}

func randomBytes(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return string(b)
}

// TestRaw carries data of sizes around a packet's and a chunk's, in both directions at once, and both ends of file. The
// log has the number of bytes.
func TestRaw(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	sizes := []int{0, 1, maxBatch - 1, maxBatch, maxBatch + 1, rawChunk - 1, rawChunk, rawChunk + 1, 5<<20 + 3}
	for i, n := range sizes {
		up, down := randomBytes(n), randomBytes(sizes[len(sizes)-1-i])
		server, addr := carryServer(t, dir)
		go func() { fmt.Fprint(server.stdin, down); server.stdin.Close() }()
		out, stderr, code := runToEnd(t, t.TempDir(), up, "-connect", addr, "-raw", "-dir", dir)
		if code != exitDone || out != down || stderr != "" {
			t.Fatalf("%d bytes: the client: exit %d, %d bytes came of %d: %s", n, code, len(out), len(down), stderr)
		}
		if code := server.wait(); code != exitDone || server.out.String() != up {
			t.Fatalf("%d bytes: the server: exit %d, %d bytes came: %s", n, code, len(server.out.String()), server.err)
		}
		var last map[string]any
		for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
			if r["event"] == eventDisconnect {
				last = r
			}
		}
		if last["received"] != float64(len(up)) || last["sent"] != float64(len(down)) ||
			last["acknowledged"] != float64(len(down)) {
			t.Errorf("%d bytes: the log has %v", n, last)
		}
	}
}

// TestRawEndOfFile: each direction's end of file is forwarded at once, not together with the other.
func TestRawEndOfFile(t *testing.T) {
	dir := state(t, "anna")
	server, addr := carryServer(t, dir)
	client := start(t, t.TempDir(), "-connect", addr, "-raw", "-dir", dir)
	client.send("a question\x00")
	server.out.match(t, "a question\x00")
	server.send("an answer")
	client.out.match(t, "an answer")
	client.stdin.Close()
	server.send(", and more after the other's end")
	client.out.match(t, "other's end$")
	server.stdin.Close()
	if client.wait() != exitDone || server.wait() != exitDone {
		t.Errorf("%s %s", client.err, server.err)
	}
}

// TestRawCut: if a side dies, stops or cannot write, neither side reports that all data arrived.
func TestRawCut(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	for _, c := range []struct {
		name           string
		end            func(server, client *proc)
		server, client int
		want           string
	}{
		{"the server is killed", func(s, c *proc) {
			s.cmd.Process.Kill()
		}, -1, exitLost, `not all has arrived: .*what came stops after 2 bytes`},
		{"the client is killed", func(s, c *proc) {
			c.cmd.Process.Kill()
		}, exitLost, -1, `not all has arrived: .*what came stops after 2 bytes`},
		{"the server is stopped", func(s, c *proc) {
			s.cmd.Process.Signal(syscall.SIGTERM)
		}, exitLost, exitLost, `the other side gave up|signal received`},
		{"the client is stopped", func(s, c *proc) {
			c.cmd.Process.Signal(os.Interrupt)
		}, exitLost, exitLost, `the other side gave up|signal received`},
	} {
		server, addr := carryServer(t, dir)
		client := start(t, t.TempDir(), "-connect", addr, "-raw", "-dir", dir)
		client.send("up")
		server.send("dn")
		server.out.match(t, "up")
		client.out.match(t, "dn")
		c.end(server, client)
		if got := server.wait(); got != c.server {
			t.Errorf("%s: the server: exit %d: %s", c.name, got, server.err)
		} else if got == exitLost {
			server.err.match(t, c.want)
		}
		if got := client.wait(); got != c.client {
			t.Errorf("%s: the client: exit %d: %s", c.name, got, client.err)
		} else if got == exitLost {
			client.err.match(t, c.want)
		}
	}
}

// TestRawStoppedBeforeClient: a server that is stopped before a client came exits with the code for lost data.
func TestRawStoppedBeforeClient(t *testing.T) {
	server, _ := carryServer(t, state(t, "anna"))
	server.cmd.Process.Signal(syscall.SIGTERM)
	if code := server.wait(); code != exitLost {
		t.Errorf("exit %d: %s", code, server.err)
	}
}

// TestRawServesOneClient: the server serves the first admitted client. It refuses unlisted keys before that, and every
// client after that.
func TestRawServesOneClient(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	server, addr := carryServer(t, anna)
	pin(t, bob, addr, anna)
	if _, stderr, code := runToEnd(t, t.TempDir(), "x", "-connect", addr, "-raw", "-dir", bob); code != exitUntrusted {
		t.Fatalf("a stranger: exit %d: %s", code, stderr)
	}
	if _, stderr, code := runToEnd(t, t.TempDir(), "x", "-connect", addr, "-dir", anna); code != exitTrouble ||
		!strings.Contains(stderr, "connect with -raw") {
		t.Fatalf("without -raw: exit %d: %s", code, stderr)
	}
	first := start(t, t.TempDir(), "-connect", addr, "-raw", "-dir", anna)
	server.err.match(t, "anna joined")
	if _, stderr, code := runToEnd(t, t.TempDir(), "x", "-connect", addr, "-raw", "-dir", anna); code != exitTrouble ||
		!strings.Contains(stderr, "another client") {
		t.Fatalf("a second: exit %d: %s", code, stderr)
	}
	first.send("mine")
	first.stdin.Close()
	server.stdin.Close()
	if first.wait() != exitDone || server.wait() != exitDone || server.out.String() != "mine" {
		t.Errorf("%s; %s; %q", first.err, server.err, server.out)
	}
	room, addr := serve(t, anna)
	if _, stderr, code := runToEnd(t, t.TempDir(), "x", "-connect", addr, "-raw", "-dir", anna); code != exitTrouble ||
		!strings.Contains(stderr, "is a room") {
		t.Fatalf("-raw to a room: exit %d: %s", code, stderr)
	}
	room.err.match(t, "refused .*-raw")
}

// TestRawTimeout: -timeout ends a joined client with its own exit code, and the server with that of a lost connection.
// The timeout is long enough to join on a busy machine.
func TestRawTimeout(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	server, addr := carryServer(t, dir)
	if _, stderr, code := runToEnd(t, t.TempDir(), "x", "-connect", addr, "-raw", "-timeout", "5s", "-dir",
		dir); code != exitTimeout {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if code := server.wait(); code != exitLost {
		t.Errorf("the server: exit %d: %s", code, server.err)
	}
}

// TestRawProgress checks the progress line: bytes, rate and time left.
func TestRawProgress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := newRawPipe(false, f, f, nil, func() {})
	p.acked.Store(1024)
	if got, want := p.line(2e9, true), "sent 1.00 KiB of 4.00 KiB, 25%, 512 B/s, 7s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.acked.Store(4096)
	p.received.Store(5 << 30)
	if got, want := p.line(10e9,
		false), "sent 4.00 KiB of 4.00 KiB, 100%, received 5.00 GiB, 512 MiB/s, in 10s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestRawGoodbye: the close waits for the chunk of stdin that is being sent and for no other, is the last packet, and
// ends reading from stdin. Unread data stays for the next reader of that stdin.
func TestRawGoodbye(t *testing.T) {
	client, server, _, _ := twoSessions(t, true)
	here, there := net.Pipe()
	client.conn, server.conn, client.patient = here, there, true
	server.packets.conn = there
	defer here.Close()
	server.setReadTimeout(patience, true)
	stdin, err := os.Create(filepath.Join(t.TempDir(), "stdin"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := stdin.Truncate(4 * rawChunk); err != nil {
		t.Fatal(err)
	}
	p := newRawPipe(false, stdin, nil, nil, func() {})
	pumped, gone := make(chan error, 1), make(chan error, 1)
	go func() { pumped <- p.pump(client) }()
	kind, payload, err := server.read()
	if err != nil || kind != kindRaw {
		t.Fatal(kind, err)
	}
	go func() { gone <- p.goodbye(client) }()
	for !p.closed.Load() {
		runtime.Gosched()
	}
	for got := len(payload); ; got += len(payload) {
		if kind, payload, err = server.read(); err != nil {
			t.Fatal(err)
		}
		if kind == kindClose {
			if got != rawPiece || p.sent.Load() != rawPiece {
				t.Errorf("%d bytes came before secure-close, of %d sent, not %d", got, p.sent.Load(), rawPiece)
			}
			break
		}
	}
	if err := errors.Join(<-gone, <-pumped); err != nil {
		t.Error(err)
	}
	if at, err := stdin.Seek(0, io.SeekCurrent); err != nil || at != rawChunk {
		t.Errorf("%d bytes of standard input were read, not %d: %v", at, rawChunk, err)
	}
}

// TestRawBadPacket checks that carry sends nothing after a packet that cannot be verified, not even secure-close.
func TestRawBadPacket(t *testing.T) {
	_, server, _, _ := twoSessions(t, true)
	sent, err := carryScript(t, true, server, appendVector(nil, make([]byte, packetAlign+aeadOverhead)))
	if len(sent) > 0 || !errors.Is(err, errBadPacket) {
		t.Errorf("%d bytes were sent after a packet that cannot be verified; %v", len(sent), err)
	}
}

// TestRawReason: a client accepts one notice as the reason of the close behind it. A server accepts no reason, and
// sends nothing after one.
func TestRawReason(t *testing.T) {
	notice := item{what: itemNotice, text: []byte("revoked")}.append(nil)
	gaveUp, malformed := errGaveUp.Error(), errMalformed.Error()
	for _, c := range []struct {
		name   string
		server bool
		text   []byte
		then   byte
		want   string
	}{
		{"to a client", false, notice, kindClose, gaveUp},
		{"to a client, without a close", false, notice, kindPing, malformed},
		{"to a client, twice", false, append(bytes.Clone(notice), notice...), kindClose, malformed},
		{"to a client, removed", false, item{what: itemRemoved}.append(nil), kindClose, malformed},
		{"to a server", true, notice, kindClose, malformed},
	} {
		client, server, _, _ := twoSessions(t, true)
		here, there := client, server
		if c.server {
			here, there = server, client
		}
		script, err := there.append(nil, kindText, c.text)
		if err == nil {
			script, err = there.append(script, c.then, []byte(closeText))
		}
		if err != nil {
			t.Fatal(err)
		}
		sent, err := carryScript(t, c.server, here, script)
		if !strings.Contains(err.Error(), c.want) || (c.want == gaveUp) != strings.Contains(err.Error(), "revoked") {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if c.want == malformed && len(sent) > 0 {
			t.Errorf("%s: %d bytes were sent after it", c.name, len(sent))
		}
	}
}

// carryScript runs carry over s, whose peer sends script and then reads. It returns what s sent, and carry's error.
func carryScript(t *testing.T, isServer bool, s *session, script []byte) (sent []byte, err error) {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	s.conn, s.packets.conn = there, there
	stdin, stdinWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer stdinWriter.Close()
	stdout, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	carried := make(chan error, 1)
	go func() { carried <- newRawPipe(isServer, stdin, stdout, nil, func() {}).carry(t.Context(), there, s) }()
	wrote := make(chan error, 1)
	go func() { // The peer may end the connection before it has read the whole script.
		_, err := here.Write(script)
		wrote <- err
	}()
	sent, err = io.ReadAll(here)
	if err := errors.Join(err, ignoreClosed(<-wrote)); err != nil {
		t.Error(err)
	}
	return sent, <-carried
}

// ignoreClosed returns nil for the error of a write to a pipe that the other side has closed.
func ignoreClosed(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}
