//go:build unix

package main

// The server in trouble: a log that cannot be written, stuck clients, and new clients behind many silent connections.

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLogTrouble: while the log's folder is missing, lines wait, and they are acknowledged once it exists. A client
// that connects meanwhile is refused and gets in later. The operator sees one message.
func TestLogTrouble(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "connection.log")
	server, addr := serve(t, anna, "-log", path)
	early := start(t, t.TempDir(), "-connect", addr, "-dir", anna)
	server.err.match(t, `joined`)
	early.send("one\n")
	server.out.match(t, `: one`)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	early.send("two\n")
	early.stdin.Close()
	early.err.match(t, `cannot write its log just now`)
	late := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-reconnect")
	late.send("three\n")
	late.stdin.Close()
	late.err.match(t, `the server closed the session: it cannot write the log; connecting again`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if a, b := early.wait(), late.wait(); a != exitDone || b != exitDone {
		t.Errorf("exit %d and %d", a, b)
	}
	server.err.match(t, `the log can be written again`)
	if got := messages(t, path); !slices.Equal(got, []string{"two", "three"}) &&
		!slices.Equal(got, []string{"three", "two"}) {
		t.Errorf("the log has %q", got)
	}
	if n := strings.Count(server.err.String(), "cannot write the log "+path); n != 1 {
		t.Errorf("the operator saw the message %d times", n)
	}
}

// TestFullRoom: a client that finds the room full is sent the reason, and with -reconnect it joins as soon as another
// client leaves.
func TestFullRoom(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-max-clients", "1")
	first := start(t, t.TempDir(), "-connect", addr, "-dir", anna)
	server.err.match(t, `joined`)
	const full = "the server closed the session: the room is full"
	if out, stderr, code := runToEnd(t, t.TempDir(), "lost\n", "-connect", addr, "-dir", anna); code != exitTrouble ||
		stderr != "securechat: "+full+"\n" {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	patient := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-reconnect")
	patient.send("hello\n")
	patient.stdin.Close()
	patient.err.match(t, full+"; connecting again")
	first.stdin.Close()
	if a, b := first.wait(), patient.wait(); a != exitDone || b != exitDone {
		t.Errorf("exit %d and %d", a, b)
	}
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); !slices.Equal(got, []string{"hello"}) {
		t.Errorf("the log has %q", got)
	}
	server.err.match(t, `refused 127\.0\.0\.1:\d+, SHA256:\S+: the room is full: 1 clients \(-max-clients\)`)
}

// stuckPipe returns the write end of a full pipe without a reader.
func stuckPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	w.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for err == nil {
		_, err = w.Write(make([]byte, 4096))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return w
}

// TestShutdownStreamsStuck: with any of its streams stuck and a client that reads nothing, the server still accepts
// lines. The first signal ends it properly within five seconds, and a second signal ends it at once.
func TestShutdownStreamsStuck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		out, err, second bool
	}{{"stdout", true, false, false}, {"stderr", false, true, false}, {"both", true, true, false},
		{"both, second signal", true, true, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			anna := state(t, "anna")
			addr := freeAddr(t)
			cmd := exec.Command(os.Args[0], "-listen", addr, "-dir", anna)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), asSecurechat+"=1")
			server := &proc{t: t, cmd: cmd, err: newWatched(), ended: make(chan struct{})}
			if c.out {
				cmd.Stdout = stuckPipe(t)
			}
			if c.err {
				cmd.Stderr = stuckPipe(t)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { cmd.Wait(); close(server.ended) }()
			defer cmd.Process.Kill()
			deaf := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-reconnect", "-json")
			deaf.out.match(t, `"type":"welcome"`)
			deaf.cmd.Process.Signal(syscall.SIGSTOP)
			defer deaf.cmd.Process.Signal(syscall.SIGCONT)
			const said = 100 // These lines fill the pipes but not the room.
			input := strings.Repeat(strings.Repeat("x", maxLine)+"\n", said)
			if _, stderr, code := runToEnd(t, t.TempDir(), input, "-connect", addr, "-dir", anna); code != exitDone {
				t.Errorf("exit %d: %s", code, stderr)
			}
			witness := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
			witness.out.match(t, `"type":"welcome"`)
			begin := time.Now()
			cmd.Process.Signal(syscall.SIGTERM)
			if c.second {
				if code := witness.wait(); code != exitTrouble {
					t.Errorf("the witness: exit %d: %s", code, witness.err)
				}
				cmd.Process.Signal(syscall.SIGTERM)
				<-server.ended
				if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() {
					t.Errorf("it ended with %v", cmd.ProcessState)
				}
				return
			}
			code, took := server.wait(), time.Since(begin)
			if code != exitDone || took > 5*time.Second {
				t.Errorf("exit %d after %v", code, took)
			}
			t.Logf("ended after %v", took)
			all := records(t, filepath.Join(cmd.Dir, "connection.log"))
			ends := 0
			for _, r := range all {
				if r["event"] == eventDisconnect {
					ends++
				}
			}
			if last := all[len(all)-1]; last["event"] != eventStop || ends != 3 {
				t.Errorf("%d disconnects of 3; the log ends with %v", ends, last)
			}
		})
	}
}

// TestShutdownStuck: the server ends within five seconds while one client is stopped and another is in its handshake.
func TestShutdownStuck(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	stuck := start(t, t.TempDir(), "-connect", addr, "-dir", anna)
	server.err.match(t, `joined`)
	stuck.cmd.Process.Signal(syscall.SIGSTOP)
	defer stuck.cmd.Process.Signal(syscall.SIGCONT)
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silent.Read(make([]byte, 1))
	begin := time.Now()
	server.cmd.Process.Signal(syscall.SIGTERM)
	if code := server.wait(); code != exitDone || time.Since(begin) > 5*time.Second {
		t.Errorf("exit %d after %v", code, time.Since(begin))
	}
	ends := 0
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventDisconnect || r["event"] == eventRefused {
			ends++
			if recordField(r, "reason") == "" {
				t.Error("an end without a reason")
			}
		}
	}
	if ends != 2 {
		t.Errorf("%d ends of 2 connections in the log", ends)
	}
}

// TestClientBehindSilentCrowd: a new client is admitted while very many silent connections are open.
func TestClientBehindSilentCrowd(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	var crowd []net.Conn
	for range 1000 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, conn)
	}
	defer func() {
		for _, conn := range crowd {
			conn.Close()
		}
	}()
	begin := time.Now()
	out, stderr, code := runToEnd(t, t.TempDir(), "hello\n", "-connect", addr, "-dir", anna, "-reconnect")
	t.Logf("with 1000 silent connections a newcomer's line is acknowledged after %v; the server's %s", time.Since(begin),
		memoryOf(server.cmd.Process.Pid))
	if code != exitDone {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
}
