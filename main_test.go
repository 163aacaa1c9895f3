package main

// The program as a new user sees it: the first run, a chat, a pipe, the refusal of an unknown key, the end, and exit
// codes.

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestNewUser starts a server and a client of the same user in an empty folder. Neither asks a question.
func TestNewUser(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	server := start(t, home, "-listen", "127.0.0.1:0")
	addr := server.err.match(t, `room open on (127\.0\.0\.1:\d+) as \S+, key SHA256:\S+`)[1]
	server.err.match(t, `made an identity: \S+ \(SHA256:\S+\)`)
	server.err.match(t, `securechat -connect localhost:\d+`)
	out, stderr, code := runToEnd(t, home, "hello there\n\nγειά\nlast", "-connect", addr)
	if code != exitDone || out != "" || stderr != "" {
		t.Fatalf("the client: exit %d, stdout %q, stderr %q", code, out, stderr)
	}
	server.out.match(t, `(?s)^\S+: hello there\n\S+: \n\S+: γειά\n\S+: last\n$`)
	log := filepath.Join(home, "connection.log")
	if got := messages(t, log); strings.Join(got, "|") != "hello there||γειά|last" {
		t.Errorf("the log has %q", got)
	}
	if info, err := os.Stat(log); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log's mode: %v, %v", info.Mode(), err)
	}
	for _, r := range records(t, log) {
		if r["event"] != eventMessage {
			continue
		}
		for _, field := range []string{"time", "client", "name", "fingerprint", "stream", "msg_id", "msg_len", "sha512"} {
			if r[field] == nil || r[field] == "" {
				t.Errorf("a record has no %s: %v", field, r)
			}
		}
		if len(r["sha512"].(string)) != 128 || int(r["msg_len"].(float64)) != len(r["message"].(string)) {
			t.Errorf("a record's digest or length is wrong: %v", r)
		}
	}
}

// TestPipe sends a hundred thousand lines. When the client exits, all are in the log, once and in order.
func TestPipe(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	server, addr := serve(t, dir)
	var in strings.Builder
	for i := range 100000 {
		fmt.Fprintln(&in, i+1)
	}
	if _, stderr, code := runToEnd(t, t.TempDir(), in.String(), "-connect", addr, "-dir", dir); code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	got := strings.Join(messages(t, filepath.Join(server.cmd.Dir, "connection.log")), "\n") + "\n"
	if got != in.String() {
		t.Error("the log does not hold exactly these lines in this order")
	}
}

// TestUnlistedClient: an unlisted key is refused, and admitted once the line that the server printed is in
// authorized_keys.
func TestUnlistedClient(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	_, stderr, code := runToEnd(t, t.TempDir(), "let me in\n", "-connect", addr, "-dir", bob)
	if code != exitUntrusted || !strings.Contains(stderr, "does not admit this key") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	line := server.err.match(t, `(ssh-ed25519 \S+) guest-`)[1]
	appendFile(t, filepath.Join(anna, "authorized_keys"), line+" bob\n")
	if _, stderr, code := runToEnd(t, t.TempDir(), "thank you\n", "-connect", addr, "-dir", bob); code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	server.out.match(t, `(?m)^bob: thank you$`)
	refused := false
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		refused = refused || r["event"] == eventRefused &&
			recordField(r, "fingerprint") == strings.Fields(runTool(t, "ssh-keygen", "-l", "-f",
				filepath.Join(bob, "identity.pub")))[1] &&
			recordField(r, "reason") != ""
	}
	if !refused {
		t.Error("the log does not record the refusal")
	}
}

// TestUnknownServer: a client without a terminal refuses an unknown server.
func TestUnknownServer(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	_, addr := serve(t, anna)
	_, stderr, code := runToEnd(t, t.TempDir(), "hello\n", "-connect", addr, "-dir", bob)
	if code != exitUntrusted || !strings.Contains(stderr, "SHA256:") || !strings.Contains(stderr, "known_hosts") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
}

// TestRelay has three clients and the operator in the room. Each receives the lines of the others in one order, and not
// its own.
func TestRelay(t *testing.T) {
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	join := func(name string) *proc {
		dir := state(t, name)
		admit(t, anna, dir)
		pin(t, dir, addr, anna)
		p := start(t, t.TempDir(), "-connect", addr, "-dir", dir)
		server.err.match(t, name+` joined`)
		return p
	}
	bob, cleo, dora := join("bob"), join("cleo"), join("dora")
	server.send("welcome all\n")
	for _, p := range []*proc{bob, cleo, dora} {
		p.out.match(t, `(?m)^anna: welcome all$`)
	}
	for i := range 50 {
		bob.send(fmt.Sprintf("b%d\n", i))
		cleo.send(fmt.Sprintf("c%d\n", i))
	}
	bob.stdin.Close()
	cleo.stdin.Close()
	if bob.wait() != exitDone || cleo.wait() != exitDone {
		t.Fatal("a sender failed")
	}
	server.out.match(t, `(?s)b49.*c49|c49.*b49`)
	dora.out.match(t, `(?s)b49.*c49|c49.*b49`)
	if got, want := dora.out.String(), server.out.String(); "anna: welcome all\n"+want != got {
		t.Errorf("dora received %q, the server %q", got, want)
	}
	if strings.Contains(bob.out.String(), "bob: ") {
		t.Error("bob receives his own lines")
	}
}

// TestShutdown: on either signal, the server sends its reason to every client and exits with status 0.
func TestShutdown(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		dir := state(t, "anna")
		server, addr := serve(t, dir)
		client := start(t, t.TempDir(), "-connect", addr, "-dir", dir)
		server.err.match(t, `joined`)
		server.cmd.Process.Signal(sig)
		if code := server.wait(); code != exitDone {
			t.Errorf("%v: the server: exit %d", sig, code)
		}
		if code := client.wait(); code != exitTrouble {
			t.Errorf("%v: the client: exit %d", sig, code)
		}
		client.err.match(t, `the server is stopping`)
	}
}

// TestKilledServer: the client of a killed server exits with status 4 and reports the number of lines without an
// acknowledgement. The killed server had acknowledged every line; the second server, which is the test, reads three
// lines and acknowledges the first.
func TestKilledServer(t *testing.T) {
	dir := state(t, "anna")
	server, addr := serve(t, dir)
	client := start(t, t.TempDir(), "-connect", addr, "-dir", dir, "-json")
	client.send("{\"text\":\"one\"}\n")
	client.out.match(t, `"type":"ack","id":1}`)
	server.cmd.Process.Kill()
	if code := client.wait(); code != exitLost {
		t.Errorf("exit %d", code)
	}
	client.err.match(t, `connection lost: .*; every line sent was acknowledged\n$`)

	addr = fakeServer(t, dir, func(sess *session) error {
		w := welcome{name: "anna", server: "anna"}
		err := writeMessage(sess, kindJoin, w.encode())
		for received := uint64(0); err == nil && received < 3; {
			var kind byte
			var payload []byte
			if kind, payload, err = sess.read(); err != nil || kind != kindText {
				continue
			}
			l, malformed := parseLines(payload, nil)
			received, err = l.first+uint64(len(l.texts))-1, malformed
		}
		if err == nil {
			err = writeMessage(sess, kindAck, binary.BigEndian.AppendUint64(nil, 1))
		}
		return err
	})
	client = start(t, t.TempDir(), "-connect", addr, "-dir", dir)
	client.send("one\ntwo\nthree\n")
	if code := client.wait(); code != exitLost {
		t.Errorf("exit %d", code)
	}
	client.err.match(t, `connection lost: .*; 2 lines not acknowledged`)
}

// TestWrongUse: each mistake gives one sentence that names the mistake and the remedy, and the right exit code.
func TestWrongUse(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	_, addr := serve(t, dir)
	readable := state(t, "anna")
	if err := os.Chmod(filepath.Join(readable, "identity"), 0o640); err != nil {
		t.Fatal(err)
	}
	garbage := state(t, "anna")
	if err := os.WriteFile(filepath.Join(garbage, "identity"), []byte("this is no key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, `-listen :9000 opens a room`},
		{[]string{"-lissten", ":9000"}, exitUsage, `-lissten.*-help`},
		{[]string{"-listen", ":9000", "-connect", "x:1"}, exitUsage, `exclude each other`},
		{[]string{"-listen", "localhost:"}, exitUsage, `host and a port`},
		{[]string{"-connect", "localhost:99999"}, exitUsage, `not a port`},
		{[]string{"-connect", "x:1", "-log", "f"}, exitUsage, `-log belongs to -listen`},
		{[]string{"-listen", ":0", "extra"}, exitUsage, `unexpected argument`},
		{[]string{"-listen", ":0", "-delay", "1h"}, exitUsage, `-delay`},
		{[]string{"-listen", ":0", "-dir", dir, "-type", "dsa"}, exitUsage, `dsa`},
		{[]string{"-listen", addr, "-dir", dir}, exitTrouble, `another program has this port`},
		{[]string{"-connect", "127.0.0.1:1", "-dir", dir}, exitTrouble, `cannot reach 127.0.0.1:1: .*refused`},
		{[]string{"-connect", "no.such.host.invalid:9000", "-dir", dir}, exitTrouble,
			`cannot reach no.such.host.invalid:9000`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", readable}, exitTrouble, `chmod 600 \S*identity`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", garbage}, exitTrouble, `identity`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", dir, "-log", "/no/such/folder/log"}, exitTrouble,
			`cannot write the log.*-log`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", dir, "-log", os.TempDir()}, exitTrouble, `cannot write the log.*-log`},
	} {
		out, stderr, code := runToEnd(t, t.TempDir(), "", c.args...)
		if code != c.code || out != "" || !regexp.MustCompile(c.want).MatchString(stderr) ||
			strings.Count(strings.TrimSpace(stderr), "\n") > 1 {
			t.Errorf("securechat %s: exit %d, want %d; stdout %q; stderr %q, want %q", strings.Join(c.args, " "), code, c.code,
				out, stderr, c.want)
		}
	}
}

// TestQuiet: with -quiet a first run, an invite and a first contact print nothing on stderr, and what went wrong once.
func TestQuiet(t *testing.T) {
	t.Parallel()
	home, guest := t.TempDir(), state(t, "ben")
	code, stderr, exit := runToEnd(t, home, "", "-invite", "ben", "-quiet")
	if exit != exitDone || stderr != "" || strings.Count(code, "\n") != 1 {
		t.Errorf("an invite: exit %d, stdout %q, stderr %q", exit, code, stderr)
	}
	_, addr := serve(t, filepath.Join(home, ".config", "securechat"))
	for _, c := range []struct {
		in, flag string
		exit     int
		stderr   string
	}{
		{"hello\n", "-join", exitDone, "^$"},
		{"hello again\n", "-reconnect", exitDone, "^$"},
		{strings.Repeat("x", maxLine+1) + "\nnext\n", "-reconnect", exitTrouble, "^securechat: line 1 is longer than 65536 " +
			"bytes.*\nsecurechat: some lines were not delivered; see the messages above\n$"},
	} {
		_, stderr, exit := runToEndWith(t, home, []string{"SECURECHAT_INVITE=" + code}, c.in,
			"-connect", addr, "-dir", guest, "-quiet", c.flag)
		if exit != c.exit || !regexp.MustCompile(c.stderr).MatchString(stderr) {
			t.Errorf("%s: exit %d, stderr %q", c.flag, exit, stderr)
		}
	}
}

// TestOtherProtocol: a client names another kind of server at once, and a server the kind of a client.
func TestOtherProtocol(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answered := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			io.WriteString(conn, "220 mail ESMTP\r\n")
		}
		answered <- conn
	}()
	dir := state(t, "anna")
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-connect", l.Addr().String(), "-dir", dir)
	if code != exitTrouble || !strings.Contains(stderr, "that is an SMTP or FTP server: check the address and the port") {
		t.Errorf("exit %d, %q", code, stderr)
	}
	(<-answered).Close()
	server, addr := serve(t, dir)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n")
	server.err.match(t, `refused 127\.0\.0\.1:\d+: .*that is an HTTP program`)
}

// TestInviteAddress: an invite names the address of the room that was opened last, and its words come before the code.
func TestInviteAddress(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	invite := func(name, addr string) {
		t.Helper()
		out, stderr, code := runToEnd(t, t.TempDir(), "", "-invite", name, "-dir", dir)
		if code != exitDone || !strings.Contains(stderr, " -connect "+addr+" -join") || strings.Count(out, "\n") != 1 {
			t.Errorf("an invite to %s: exit %d, stdout %q, stderr %q", addr, code, out, stderr)
		}
	}
	invite("ben", host+":"+defaultPort)
	_, addr := serve(t, dir)
	invite("eve", "localhost:"+portOf(addr))
	for text, want := range map[string]string{
		"[::]:9010\n": host + ":9010", "192.0.2.7:80\n": "192.0.2.7:80", "9010\n": host + ":" + defaultPort,
		strings.Repeat("1", maxAddress+1): host + ":" + defaultPort,
		"[fe80::1%eth0]:9010":             "[fe80::1%eth0]:9010", "[fe80::1%$(id)\x1b]:9010": host + ":" + defaultPort,
	} {
		put(t, filepath.Join(dir, addressFile), []byte(text))
		invite("guest"+strconv.Itoa(len(text)), want)
	}
}

// TestHintsForClients: the operator does not read what a client could do about a failed handshake.
func TestHintsForClients(t *testing.T) {
	t.Parallel()
	server, addr := serve(t, state(t, "anna"))
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := writeFrame(conn, make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	server.err.match(t, `refused 127\.0\.0\.1:\d+: stage 1: .*man-in-the-middle attack\n`)
	if text := server.err.String(); strings.Contains(text, "hint") {
		t.Error(text)
	}
}

// TestHelp: -help and -version print on stdout.
func TestHelp(t *testing.T) {
	out, stderr, code := runToEnd(t, t.TempDir(), "", "-help")
	if code != exitDone || stderr != "" || !strings.HasPrefix(out, "usage:") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, stderr)
	}
	out, _, code = runToEnd(t, t.TempDir(), "", "-version")
	if code != exitDone || !strings.HasPrefix(out, "securechat ") {
		t.Errorf("-version: exit %d, %q", code, out)
	}
}

// TestLongLine: the client sends the other lines, names the line that is too long once, and exits with status 1.
func TestLongLine(t *testing.T) {
	dir := state(t, "anna")
	server, addr := serve(t, dir)
	longest := strings.Repeat("x", maxLine)
	_, stderr, code := runToEnd(t, t.TempDir(), "one\n"+longest+"\n"+longest+"y\nfour\n", "-connect", addr, "-dir", dir)
	if code != exitTrouble || strings.Count(stderr, "line 3 ") != 1 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); len(got) != 3 || got[1] != longest ||
		got[2] != "four" {
		t.Errorf("the log has %d messages", len(got))
	}
}
