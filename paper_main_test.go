package main

// The program with -paper: against the Python peer, against itself, and against TCP peers that break the rules.

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// paperFiles returns a folder with the vectors' keys, the keys of a third party and a key that is too long, named as
// the paper's programs name them.
func paperFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	v := paperVector(t)
	for name, key := range map[string]*rsa.PrivateKey{
		"client": v.client, "server": v.server, "third": testKey(t, "paper-third.pem"),
		"big": testKey(t, "paper-rsa3072.pem"),
	} {
		writePEM(t, filepath.Join(dir, name+"_pri.pem"), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
		spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, filepath.Join(dir, name+"_pub.pem"), "PUBLIC KEY", spki)
	}
	return dir
}

// paperArgs returns a command line for -paper without delays; the key files are in the folder keys.
func paperArgs(keys, own string, peers []string, more ...string) []string {
	args := []string{"-paper", "-dir", filepath.Join(keys, "state"), "-delay", "0s", "-identity",
		filepath.Join(keys, own+"_pri.pem")}
	for _, p := range peers {
		args = append(args, "-peer", filepath.Join(keys, p+"_pub.pem"))
	}
	return append(args, more...)
}

func paperServe(t *testing.T, keys string, peers []string, more ...string) (*proc, string) {
	t.Helper()
	p := start(t, t.TempDir(), append(paperArgs(keys, "server", peers, "-listen", "127.0.0.1:0"), more...)...)
	return p, p.err.match(t, `room open on (127\.0\.0\.1:\d+) as key-\S+, key SHA256:\S+`)[1]
}

func checkWarning(t *testing.T, who, stderr string) {
	t.Helper()
	if strings.Count(stderr, "securechat: "+strings.SplitN(paperWarning, "\n", 2)[0]) != 1 ||
		strings.Count(stderr, "nothing is acknowledged") != 1 {
		t.Errorf("%s was not warned once: %s", who, stderr)
	}
}

// TestPaperProgramPythonClient connects the paper's client to securechat's server.
func TestPaperProgramPythonClient(t *testing.T) {
	t.Parallel()
	server, addr := paperServe(t, paperFiles(t), []string{"third", "client"})
	want := []string{"hello there", "γειά", "0123456789abcdef", "two\tparts", "last"}
	cmd := paperPython(t, "client", addr)
	cmd.Stdin = strings.NewReader(strings.Join(want, "\n") + "\n")
	if words, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, words)
	}
	server.err.match(t, `(?m)^\* client left$`)
	server.out.match(t,
		`(?s)^client: hello there\nclient: γειά\nclient: 0123456789abcdef\nclient: two.{1,4}parts\nclient: last\n$`)
	checkWarning(t, "the server", server.err.String())
	log := filepath.Join(server.cmd.Dir, "connection.log")
	if got := messages(t, log); !slices.Equal(got, want) {
		t.Errorf("the log has %q", got)
	}
	id := 0.0
	for _, r := range records(t, log) {
		switch r["event"] {
		case eventConnect:
			if r["by"] != "-peer client" {
				t.Errorf("admitted by %v", r["by"])
			}
		case eventDisconnect:
			if r["reason"] != "left" {
				t.Errorf("left for %v", r["reason"])
			}
		case eventMessage:
			id++
			for _, field := range []string{"time", "client", "name", "fingerprint", "stream"} {
				if r[field] == nil || r[field] == "" {
					t.Errorf("a record has no %s: %v", field, r)
				}
			}
			if r["name"] != "client" || r["msg_id"] != id || len(r["sha512"].(string)) != 128 ||
				int(r["msg_len"].(float64)) != len(r["message"].(string)) {
				t.Errorf("record %v: %v", id, r)
			}
		}
	}
}

// pythonServer starts the Python server and returns it, its output and its address.
func pythonServer(t *testing.T) (cmd *exec.Cmd, out *watched, words *bufio.Reader, addr string) {
	t.Helper()
	cmd, out = paperPython(t, "server", "127.0.0.1:0"), newWatched()
	cmd.Stdout = out
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	words = bufio.NewReader(stderr)
	var port int
	if _, err := fmt.Fscanf(words, "listening %d\n", &port); err != nil {
		t.Fatal(err)
	}
	return cmd, out, words, fmt.Sprint("127.0.0.1:", port)
}

// TestPaperProgramPythonServer connects securechat's client to the paper's server, which receives each line, also an
// empty one, and one of 64 KiB in pieces.
func TestPaperProgramPythonServer(t *testing.T) {
	t.Parallel()
	cmd, out, words, addr := pythonServer(t)
	long := strings.Repeat("0123456789abcdeé", maxLine/17) + "x"
	stdout, stderr, code := runToEnd(t, t.TempDir(), "one\n\n0123456789abcdef\n"+long+"\nlast",
		paperArgs(paperFiles(t), "client", []string{"server"}, "-connect", addr)...)
	if code != exitDone || stdout != "" {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	checkWarning(t, "the client", stderr)
	rest, _ := io.ReadAll(words)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, rest)
	}
	lines := strings.Split(out.String(), "\n")
	n := len(lines)
	if n < 8 || !slices.Equal(lines[:3], []string{"one", "", "0123456789abcdef"}) ||
		strings.Join(lines[3:n-2], "") != long || lines[n-2] != "last" {
		t.Errorf("it printed %d lines: %.200q", n, out.String())
	}
}

// TestPaperProgramBothEnds connects two securechat clients to a securechat server, which distinguishes them by their
// keys.
func TestPaperProgramBothEnds(t *testing.T) {
	t.Parallel()
	keys := paperFiles(t)
	server, addr := paperServe(t, keys, []string{"client", "third"}, "-json")
	for _, who := range []string{"client", "third"} {
		stdout, stderr, code := runToEnd(t, t.TempDir(), "I am "+who+"\n\n",
			paperArgs(keys, who, []string{"server"}, "-connect", addr, "-quiet")...)
		if code != exitDone || stdout != "" {
			t.Errorf("%s: exit %d: %s%s", who, code, stdout, stderr)
		}
		server.out.match(t, `"name":"`+who+`"[^\n]*"text":"I am `+who+`"`)
	}
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); !slices.Equal(got,
		[]string{"I am client", "", "I am third", ""}) {
		t.Errorf("the log has %q", got)
	}

	// The client reports each line that the paper's session cannot carry, and sends the others.
	stdout, stderr, code := runToEnd(t, t.TempDir(), "fine\n\xff\nsecure-close\nfine too\n",
		paperArgs(keys, "client", []string{"server"}, "-connect", addr)...)
	if code != exitTrouble || stdout != "" || !regexp.MustCompile(`line 2: .*not UTF-8`).MatchString(stderr) ||
		!strings.Contains(stderr, "line 3: secure-close was not sent") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	// -json accepts objects and reports no acknowledgement.
	stdout, stderr, code = runToEnd(t, t.TempDir(), `{"text":"an object"}`+"\n"+`{"text":"x","to":"third"}`+"\n",
		paperArgs(keys, "client", []string{"server"}, "-connect", addr, "-json")...)
	if code != exitTrouble || strings.Contains(stdout, "ack") ||
		!strings.Contains(stderr, "line 2: the paper's session carries plain text alone") {
		t.Errorf("-json: exit %d: %s%s", code, stdout, stderr)
	}
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); !slices.Equal(got[4:],
		[]string{"fine", "fine too", "an object"}) {
		t.Errorf("the log has %q", got)
	}

	server.cmd.Process.Signal(os.Interrupt)
	if code := server.wait(); code != exitDone {
		t.Errorf("the server: exit %d", code)
	}
}

// TestPaperProgramLoss: if the server ends in any way, the client exits with status 4 and the number of all lines that
// it sent.
func TestPaperProgramLoss(t *testing.T) {
	t.Parallel()
	keys := paperFiles(t)
	for _, end := range []func(p *proc){
		func(p *proc) { p.cmd.Process.Kill() },
		func(p *proc) { p.cmd.Process.Signal(os.Interrupt) },
	} {
		server, addr := paperServe(t, keys, []string{"client"})
		client := start(t, t.TempDir(), paperArgs(keys, "client", []string{"server"}, "-connect", addr)...)
		client.send(strings.Repeat("a line\n", 50))
		server.out.match(t, `(?s)a line\n.*a line\n`)
		end(server)
		if code := client.wait(); code != exitLost {
			t.Errorf("exit %d", code)
		}
		client.err.match(t, `connection lost: .*; 50 lines not acknowledged`)
		server.wait()
	}
	// Without a line sent no line is lost, but the end is not a clean one.
	server, addr := paperServe(t, keys, []string{"client"})
	client := start(t, t.TempDir(), paperArgs(keys, "client", []string{"server"}, "-connect", addr)...)
	server.err.match(t, `client joined`)
	server.cmd.Process.Kill()
	if code := client.wait(); code != exitLost {
		t.Errorf("exit %d", code)
	}
}

// TestPaperProgramReset: a server that reads everything and then resets the connection has not confirmed anything.
func TestPaperProgramReset(t *testing.T) {
	t.Parallel()
	v := paperVector(t)
	for _, reset := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			key, err := refServer(t, conn, v, 0, true)
			if err != nil {
				t.Error(err)
			}
			p := newPaperConn(conn, &key)
			for text := []byte{}; err == nil && string(text) != paperClose; {
				text, err = p.readText()
			}
			if reset {
				conn.(*net.TCPConn).SetLinger(0)
			}
			conn.Close()
		}()
		_, stderr, code := runToEnd(t, t.TempDir(), "one\ntwo\n", paperArgs(paperFiles(t), "client", []string{"server"},
			"-connect", l.Addr().String())...)
		if reset && (code != exitLost || !strings.Contains(stderr, "2 lines not acknowledged")) ||
			!reset && code != exitDone {
			t.Errorf("reset %t: exit %d: %s", reset, code, stderr)
		}
		l.Close()
	}
}

// TestPaperProgramUnlisted: the server logs which check failed, and the client exits with status 3 and a hint.
func TestPaperProgramUnlisted(t *testing.T) {
	t.Parallel()
	keys := paperFiles(t)
	server, addr := paperServe(t, keys, []string{"client"})
	_, stderr, code := runToEnd(t, t.TempDir(), "let me in\n", paperArgs(keys, "third", []string{"server"}, "-connect",
		addr)...)
	if code != exitUntrusted ||
		!strings.Contains(stderr, "stage 2: the server closed the connection after 0 of 896 bytes: its log has the reason") ||
		!strings.Contains(stderr, "man-in-the-middle") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	server.err.match(t,
		`refused 127\.0\.0\.1:\d+: stage 1: .*no client \(-peer\) signed it: it might be a man-in-the-middle attack`)
	_, stderr, code = runToEnd(t, t.TempDir(), "let me in\n", paperArgs(keys, "client", []string{"third"}, "-connect",
		addr)...)
	if code != exitUntrusted || !strings.Contains(stderr, "stage 2: ") {
		t.Errorf("the server's key is another: exit %d: %s", code, stderr)
	}
	refused := 0
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventRefused && strings.Contains(r["reason"].(string), "man-in-the-middle") {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("the log tells of %d refusals", refused)
	}
}

// TestPaperProgramFalseServer: after a false message of a server, in any stage, the client sends nothing and exits with
// status 3.
func TestPaperProgramFalseServer(t *testing.T) {
	t.Parallel()
	v, third := paperVector(t), testKey(t, "paper-third.pem")
	keys := paperFiles(t)
	stage2 := func(seq, ra string) []byte { return refSeal(t, v.server, v.client, seq+ra+testRb) }
	encode := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }
	for _, c := range []struct {
		what   string
		stage2 func(ra string) []byte
		stage4 func(ra string) []byte // after a valid stage 2
		want   string
	}{
		{"bad signature", func(ra string) []byte {
			return flip(stage2("00000010", ra), 40)
		}, nil, `stage 2: the message does not open, or the server did not sign it`},
		{"another's signature", func(ra string) []byte { return refSeal(t, third, v.client, "00000010"+ra+testRb) }, nil,
			`stage 2: .*did not sign it`},
		{"wrong serial", func(string) []byte { return stage2("00000010", testRa) }, nil, `stage 2: .*different serial_a`},
		{"wrong seq_id", func(ra string) []byte { return stage2("00000011", ra) }, nil, `stage 2: .*seq_id other than 2`},
		{"a replayed stage 2", func(string) []byte { return v.stages[1].wire }, nil, `stage 2: .*different serial_a`},
		{"another's signature, stage 4", nil, func(string) []byte {
			return encode(refSeal(t, third, v.client, string(v.key[:])))
		}, `stage 4: .*did not sign it`},
		{"stage 2 as stage 4", nil, func(ra string) []byte {
			return encode(stage2("00000010", ra))
		}, `stage 4: .*did not sign it`},
		{"wrong seq_id, stage 4", nil, func(string) []byte {
			return encode(refSeal(t, v.server, v.client, "00000100"+string(v.key[:])))
		}, `stage 4: .*seq_id other than 5`},
		{"no base64", nil, func(string) []byte { return make([]byte, paperBase64) }, `stage 4: .*not base64`},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan error, 1)
		go func() {
			told <- func() error {
				conn, err := l.Accept()
				if err != nil {
					return err
				}
				defer conn.Close()
				wire := make([]byte, paperSealed)
				if _, err := io.ReadFull(conn, wire); err != nil {
					return err
				}
				m, err := refOpen(v.client, v.server, wire)
				if err != nil {
					return err
				}
				answer := c.stage2
				if c.stage4 != nil {
					answer = c.stage4
					conn.Write(stage2("00000010", m[8:]))
					if _, err := io.ReadFull(conn, wire); err != nil {
						return err
					}
				}
				conn.Write(answer(m[8:]))
				if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
					return fmt.Errorf("%d bytes more, %w", len(rest), err)
				}
				return nil
			}()
		}()
		stdout, stderr, code := runToEnd(t, t.TempDir(), "hello\n", paperArgs(keys, "client", []string{"server"}, "-connect",
			l.Addr().String())...)
		if code != exitUntrusted || stdout != "" || !regexp.MustCompile(c.want).MatchString(stderr) ||
			!strings.Contains(stderr, "might be a man-in-the-middle attack") {
			t.Errorf("%s: exit %d: %s", c.what, code, stderr)
		}
		l.Close()
		if err := <-told; err != nil {
			t.Errorf("%s: the peer saw: %v", c.what, err)
		}
	}
}

// TestPaperProgramFalseClient: after a false message of a client, the server logs it, sends nothing and keeps serving.
func TestPaperProgramFalseClient(t *testing.T) {
	t.Parallel()
	v, third := paperVector(t), testKey(t, "paper-third.pem")
	server, addr := paperServe(t, paperFiles(t), []string{"client", "third"})
	log := filepath.Join(server.cmd.Dir, "connection.log")
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		return conn
	}
	closed := func(what string, conn net.Conn) {
		if rest, err := io.ReadAll(conn); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the peer got %d bytes, %v", what, len(rest), err)
		}
		conn.Close()
	}
	good1 := func() []byte { return refSeal(t, v.client, v.server, "00000001"+testRa) }
	for _, c := range []struct {
		what   string
		stage1 []byte
		stage3 func(rb string) []byte // after a valid stage 1
		want   string
	}{
		{"bad signature", flip(good1(), 500), nil, `stage 1: the message does not open, or no client \(-peer\) signed it`},
		{"wrong seq_id", refSeal(t, v.client, v.server, "00000010"+testRa), nil, `stage 1: .*seq_id other than 1`},
		{"a replayed stage 3 for stage 1", v.stages[2].wire, nil, `stage 1: .*seq_id other than 1`},
		{"a replayed stage 1 alone", v.stages[0].wire, func(string) []byte {
			return v.stages[2].wire
		}, `stage 3: .*different serial_b`},
		{"wrong serial", good1(), func(string) []byte {
			return refSeal(t, v.client, v.server, "00000011"+testRa)
		}, `stage 3: .*different serial_b`},
		{"wrong seq_id, stage 3", good1(), func(rb string) []byte { return refSeal(t, v.client, v.server, "00000001"+rb) },
			`stage 3: .*seq_id other than 3`},
		{"another listed client's signature", good1(), func(rb string) []byte {
			return refSeal(t, third, v.server, "00000011"+rb)
		}, `stage 3: .*the client did not sign it`},
	} {
		conn := dial()
		conn.Write(c.stage1)
		if c.stage3 != nil {
			wire := make([]byte, paperSealed)
			if _, err := io.ReadFull(conn, wire); err != nil {
				t.Fatal(c.what, err)
			}
			m, err := refOpen(v.server, v.client, wire)
			if err != nil {
				t.Fatal(c.what, err)
			}
			conn.Write(c.stage3(m[40:]))
		}
		closed(c.what, conn)
		server.err.match(t, `refused `+conn.LocalAddr().String()+`: `+c.want+`.*might be a man-in-the-middle attack`)
		if !slices.ContainsFunc(records(t, log), func(r map[string]any) bool {
			return r["event"] == eventRefused && r["client"] == conn.LocalAddr().String() &&
				regexp.MustCompile(c.want).MatchString(r["reason"].(string))
		}) {
			t.Errorf("%s: not in the log", c.what)
		}
	}

	for what, build := range map[string]func(plain []byte) (changed []byte, want string){
		"another digest":   func(p []byte) ([]byte, string) { return flip(p, 5), `without this session's digest` },
		"msg_len too long": func(p []byte) ([]byte, string) { p[paperHead-1] ^= 1; return p, `msg_len is not the length` },
		"msg_len no number": func(p []byte) ([]byte, string) {
			p[paperHead-1] = '2'
			return p, `msg_len is no binary number`
		},
		"msg_len of gigabyte": func(p []byte) ([]byte, string) {
			p[paperDigest] = '1'
			return p, `msg_len is no binary number`
		},
	} {
		conn := dial()
		key, err := refClient(t, conn, v, 0)
		if err != nil {
			t.Fatal(err)
		}
		changed, want := build(decryptECB(key, refPacket(key, "0123456789")))
		conn.Write(refPacket(key, "good: "+what))
		conn.Write(encryptECB(key, changed))
		closed(what, conn)
		server.err.match(t, `\* client left: a packet .*`+want+`.*might be a man-in-the-middle attack`)
	}

	// A client's message is one line on the screen, whatever it contains.
	conn := dial()
	key, err := refClient(t, conn, v, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(refPacket(key, "a\nthird: forged\x1b[31m\xff"))
	conn.Write(refPacket(key, paperClose))
	closed("a good end", conn)
	server.out.match(t, `(?m)^client: a\S*third: forged[^\x1b\n]*$`)
	if strings.Contains(server.out.String(), "\nthird:") || strings.Contains(server.out.String(), "\x1b") {
		t.Errorf("a client forged a line: %q", server.out)
	}
}

// TestPaperProgramKeys uses keys that openssl and ssh-keygen made, in every format, for a whole session each.
func TestPaperProgramKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	tool := func(name string, args ...string) []byte {
		t.Helper()
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			t.Fatalf("%s %s (install it): %v", name, strings.Join(args, " "), err)
		}
		return out
	}
	tool("openssl", "genrsa", "-traditional", "-out", file("pkcs1_pri.pem"), "2048")
	tool("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", file("pkcs1_pri.pem"), "-out", file("pkcs8_pri.pem"))
	tool("openssl", "pkcs8", "-topk8", "-passout", "pass:x", "-in", file("pkcs1_pri.pem"), "-out", file("locked_pri.pem"))
	tool("openssl", "rsa", "-in", file("pkcs1_pri.pem"), "-pubout", "-out", file("spki_pub.pem"))
	tool("openssl", "rsa", "-in", file("pkcs1_pri.pem"), "-RSAPublicKey_out", "-out", file("rsa_pub.pem"))
	pkcs1, err := os.ReadFile(file("pkcs1_pri.pem"))
	if err == nil {
		err = os.WriteFile(file("openssh_pri.pem"), pkcs1, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	tool("ssh-keygen", "-q", "-p", "-N", "", "-f", file("openssh_pri.pem"))
	if converted, err := os.ReadFile(file("openssh_pri.pem")); err != nil ||
		!strings.Contains(string(converted), "OPENSSH PRIVATE KEY") {
		t.Fatalf("ssh-keygen made %.40s, %v", converted, err)
	}
	if err := os.WriteFile(file("line_pub.pem"), tool("ssh-keygen", "-y", "-f", file("openssh_pri.pem")),
		0o600); err != nil {
		t.Fatal(err)
	}
	tool("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", file("server_pri.pem"))
	if err := os.Rename(file("server_pri.pem.pub"), file("server_pub.pem")); err != nil {
		t.Fatal(err)
	}
	tool("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "x", "-a", "1", "-f", file("sshlocked_pri.pem"))
	tool("ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", file("big_pri.pem"))
	if err := os.Rename(file("big_pri.pem.pub"), file("big_pub.pem")); err != nil {
		t.Fatal(err)
	}

	for i, public := range []string{"spki", "rsa", "line"} {
		private := []string{"pkcs1", "pkcs8", "openssh"}[i]
		server, addr := paperServe(t, dir, []string{public})
		_, stderr, code := runToEnd(t, t.TempDir(), "with "+private+"\n",
			paperArgs(dir, private, []string{"server"}, "-connect", addr)...)
		if code != exitDone {
			t.Errorf("%s: exit %d: %s", private, code, stderr)
		}
		server.out.match(t, `^`+public+`: with `+private+`\n`)
	}

	// A state folder whose keys are used for the default protocol.
	state := state(t, "anna")
	for from, to := range map[string]string{"pkcs8_pri.pem": "identity", "line_pub.pem": "identity.pub"} {
		data, err := os.ReadFile(file(from))
		if err == nil {
			err = os.WriteFile(filepath.Join(state, to), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	listed := t.TempDir()
	line, err := os.ReadFile(file("line_pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(listed, "authorized_keys"), append([]byte("# bob\n"), line...),
		0o600); err != nil {
		t.Fatal(err)
	}
	in := func(state string, args []string) []string { args[2] = state; return args }
	listen := []string{"-listen", "127.0.0.1:0"}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{in(state, paperArgs(dir, "pkcs1", []string{"server"}, listen...)), exitTrouble,
			`pkcs1_pri.pem: this key serves the default protocol too`},
		{append(in(state, paperArgs(dir, "pkcs1", []string{"server"}, listen...)), "-identity",
			filepath.Join(state, "encryption")), exitTrouble, `encryption: this key serves the default protocol`},
		{in(listed, paperArgs(dir, "openssh", []string{"server"}, listen...)), exitTrouble,
			`openssh_pri.pem: this key serves the default protocol too`},
		{in(listed, paperArgs(dir, "server", []string{"spki"}, listen...)), exitTrouble,
			`spki_pub.pem: this key serves the default protocol too`},
		{paperArgs(dir, "big", []string{"server"}, listen...), exitTrouble,
			`big_pri.pem: .*RSA-2048 keys, this one is RSA-3072`},
		{paperArgs(dir, "pkcs1", []string{"big"}, listen...), exitTrouble,
			`big_pub.pem: .*RSA-2048 keys, this one is RSA-3072`},
		{paperArgs(dir, "locked", []string{"server"}, listen...), exitTrouble,
			`locked_pri.pem: the key has a passphrase.*ssh-keygen -p`},
		{paperArgs(dir, "sshlocked", []string{"server"}, listen...), exitTrouble, `the key has a passphrase.*ssh-keygen -p`},
		{append(paperArgs(dir, "server", []string{"spki"}, listen...), "-identity", file("server_pub.pem")), exitTrouble,
			`server_pub.pem: it holds no private key`},
		{append(paperArgs(dir, "server", []string{"spki"}, listen...), "-identity", file("spki_pub.pem")), exitTrouble,
			`spki_pub.pem: it holds a public key: give the private one`},
		{append(paperArgs(dir, "server", nil, listen...), "-peer", file("pkcs1_pri.pem")), exitTrouble,
			`pkcs1_pri.pem: .*never a private one`},
		{paperArgs(dir, "server", []string{"server"}, listen...), exitTrouble,
			`server_pub.pem is the public key of -identity`},
		{paperArgs(dir, "none", []string{"server"}, listen...), exitTrouble, `none_pri.pem`},
		{paperArgs(dir, "server", nil, listen...), exitUsage, `-paper needs -identity FILE.* and -peer FILE`},
		{[]string{"-paper", "-listen", ":0", "-peer", "x"}, exitUsage, `-paper needs -identity FILE`},
		{paperArgs(dir, "pkcs1", []string{"server", "spki"}, "-connect", "127.0.0.1:1"), exitUsage, `takes one -peer`},
		{paperArgs(dir, "pkcs1", []string{"server"}, "-connect", "127.0.0.1:1", "-reconnect"), exitUsage,
			`-reconnect and -paper exclude each other`},
		{paperArgs(dir, "pkcs1", []string{"server"}, "-connect", "127.0.0.1:1"), exitTrouble, `cannot reach 127.0.0.1:1`},
		{[]string{"-connect", "127.0.0.1:1", "-peer", "x"}, exitUsage, `-peer belongs to -paper`},
	} {
		stdout, stderr, code := runToEnd(t, t.TempDir(), "", c.args...)
		said := strings.Replace(stderr, "securechat: "+paperWarning+"\n", "", 1)
		if i := strings.Index(stderr, "nothing is acknowledged"); i >= 0 { // printed before the client connects
			said = stderr[i+strings.Index(stderr[i:], "\n")+1:]
		}
		if code != c.code || stdout != "" || !regexp.MustCompile(c.want).MatchString(said) || strings.Count(said, "\n") != 1 {
			t.Errorf("%s: exit %d, want %d: %s", strings.Join(c.args, " "), code, c.code, stderr)
		}
	}
}

// TestTraceProgram: -trace prints each stage of both protocols with its sizes, and no secret byte.
func TestTraceProgram(t *testing.T) {
	t.Parallel()
	v, keys := paperVector(t), paperFiles(t)
	fields := map[int]string{1: `sign 256 ‖ seq_id \(1\) 8 ‖ serial_a 32`,
		2: `sign 256 ‖ seq_id \(2\) 8 ‖ serial_a 32 ‖ serial_b 32`,
		3: `sign 256 ‖ seq_id \(3\) 8 ‖ serial_b 32`, 4: `sign 256 ‖ session key 32`}
	lines := func(checks ...string) (all []string) {
		for i, check := range checks {
			way, size := toServer, "  896"
			if i%2 == 1 {
				way = toClient
			}
			if i == 3 {
				size = " 1196"
			}
			all = append(all, fmt.Sprintf(`stage %d  %s  %s bytes  %s   %s   \d\.\d\d\ds`, i+1, way, size, fields[i+1], check))
		}
		return all
	}
	// The words of a trace are names, sizes and results of checks. This matches bytes.
	bytes := regexp.MustCompile(`[0-9A-Fa-f]{9,}|[01]{8}|[A-Za-z0-9+/]{20,}`)
	check := func(who, stderr, prefix string, want []string) {
		t.Helper()
		got := regexp.MustCompile(`(?m)^`+prefix+`stage .*$`).FindAllString(stderr, -1)
		if len(got) != len(want) {
			t.Fatalf("%s: %d lines: %s", who, len(got), stderr)
		}
		for i, line := range got {
			if !regexp.MustCompile(`^`+prefix+want[i]+`$`).MatchString(line) || bytes.MatchString(line) {
				t.Errorf("%s: %q, want %q", who, line, want[i])
			}
		}
	}

	server, addr := paperServe(t, keys, []string{"client"}, "-trace")
	_, stderr, code := runToEnd(t, t.TempDir(), "hello\n", paperArgs(keys, "client", []string{"server"}, "-connect", addr,
		"-trace")...)
	if code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	check("the paper's client", stderr, "", lines("sent", "signature ok, seq_id ok, serial_a ok", "sent",
		"signature ok, key length ok"))
	server.err.match(t, `client left`)
	check("the paper's server", server.err.String(), `127\.0\.0\.1:\d+  `,
		lines("signature ok, seq_id ok", "sent", "signature ok, seq_id ok, serial_b ok", "sent"))

	// The same with a server whose serials, key and signatures are known. The trace contains none of them, in any form.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			refServer(t, conn, v, 0, false)
			conn.Close()
		}
	}()
	_, stderr, code = runToEnd(t, t.TempDir(), "hello\n", paperArgs(keys, "client", []string{"server"}, "-connect",
		l.Addr().String(), "-trace")...)
	if code != exitLost {
		t.Errorf("a server that closes: exit %d", code)
	}
	check("the paper's client", stderr, "", lines("sent", "signature ok, seq_id ok, serial_a ok", "sent",
		"signature ok, key length ok"))
	digest := sha512.Sum512(v.key[:])
	for what, secret := range map[string][]byte{"session key": v.key[:], "digest": digest[:],
		"serial_b": []byte("10101110010101011011111010111101")} {
		for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret)} {
			if strings.Contains(strings.ToLower(stderr), strings.ToLower(form[:min(16, len(form))])) {
				t.Errorf("the trace has the %s", what)
			}
		}
	}

	// The trace shows a stage that fails.
	_, stderr, _ = runToEnd(t, t.TempDir(), "", paperArgs(keys, "third", []string{"server"}, "-connect", addr,
		"-trace")...)
	check("a refused client", stderr, "",
		append(lines("sent"), `stage 2  S → C  failed: the server closed the connection .*   \d\.\d\d\ds`))

	// The same with the default protocol.
	dir := state(t, "anna")
	server, addr = serve(t, dir, "-trace")
	if _, stderr, code = runToEnd(t, t.TempDir(), "hello\n", "-connect", addr, "-dir", dir, "-trace"); code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	server.err.match(t, ` left`)
	for who, out := range map[string]string{"the client": stderr, "the server": server.err.String()} {
		all := strings.Join(regexp.MustCompile(`(?m)^(127\.0\.0\.1:\d+  )?(stage|session) .*$`).FindAllString(out, -1), "\n")
		if s := bytes.FindString(all); s != "" {
			t.Errorf("%s: %q in %s", who, s, all)
		}
		if !regexp.MustCompile(`(?s)stage 1  C → S .*sign \d+.*Ra 24.*stage 2  S → C .*Ra 24 ‖ Rb 24.*stage 3  C ` +
			`→ S .*Rb 24.*stage 4  S → C .*Sm \d+.*session [0-9a-f]{8}  `).MatchString(all) {
			t.Errorf("%s: %s", who, all)
		}
	}
}

// TestPaperDelayFlag: with -paper, both sides wait for one second by default.
func TestPaperDelayFlag(t *testing.T) {
	for _, c := range []struct {
		args string
		want time.Duration
	}{
		{"-paper -listen :0 -identity x -peer y", time.Second},
		{"-paper -connect x:1 -identity x -peer y", time.Second},
		{"-paper -connect x:1 -identity x -peer y -delay 0s", 0},
		{"-paper -connect x:1 -identity x -peer y -delay 2s", 2 * time.Second},
		{"-listen :0", 0},
	} {
		o, err := parseFlags(strings.Fields(c.args))
		if err != nil || o.server.delay != c.want {
			t.Errorf("%s: %v, %v", c.args, o, err)
		}
	}
}

// TestPaperDelays: after each stage its sender waits. The two sides wait at the same time, so a run takes two delays.
func TestPaperDelays(t *testing.T) {
	v := paperVector(t)
	synctest.Test(t, func(t *testing.T) {
		c, s := net.Pipe()
		began := time.Now()
		server := make(chan time.Duration, 1)
		go func() {
			if _, _, err := paperServerHandshake(s, v.server, []*rsa.PublicKey{&v.client.PublicKey}, time.Second,
				nil); err != nil {
				t.Error(err)
			}
			server <- time.Since(began)
		}()
		if _, err := paperClientHandshake(c, v.client, &v.server.PublicKey, time.Second, nil); err != nil {
			t.Error(err)
		}
		client := time.Since(began)
		// net.Pipe has no buffer: the server's write of stage 2 and 4 waits for the client, which sleeps after 1 and 3.
		if server := <-server; client != 3*time.Second || server != 4*time.Second {
			t.Errorf("the client took %v, the server %v", client, server)
		}
	})
}

// linkPair is a client's link and the other end of its connection.
func linkPair() (*paperClientLink, net.Conn) {
	c, s := net.Pipe()
	key := [32]byte{1}
	return newPaperClientLink(c, &key), s
}

// sendLine sends one line over a client's link and counts it.
func sendLine(t *testing.T, l *paperClientLink, text string) {
	t.Helper()
	if err := writeMessage(l, kindText, linesOf(1, itemSay, "", text)); err != nil {
		t.Error(err)
	}
	if kind, n, err := l.read(); kind != kindSent || err != nil || !bytes.Equal(n, []byte{7: 1}) {
		t.Errorf("%d, %x, %v", kind, n, err)
	}
}

// TestPaperLinkEnds: only a close after the client's secure-close confirms what was sent.
func TestPaperLinkEnds(t *testing.T) {
	for what, c := range map[string]struct {
		peer func(s net.Conn, sent chan struct{}) // sent is closed when the line has been sent and counted.
		want error
	}{
		"closes after secure-close": {func(s net.Conn, sent chan struct{}) {
			io.ReadFull(s, make([]byte, 176+176))
			s.Close()
		}, nil},
		"closes at once": {func(s net.Conn, sent chan struct{}) {
			io.ReadFull(s, make([]byte, 176))
			<-sent
			s.Close()
		}, errTruncated},
		"never closes, and talks": {func(s net.Conn, sent chan struct{}) {
			go io.Copy(io.Discard, s)
			for range 100 {
				if _, err := s.Write(make([]byte, 100)); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, os.ErrDeadlineExceeded},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, s := linkPair()
			sent, over := make(chan struct{}), make(chan struct{})
			go func() { c.peer(s, sent); close(over) }()
			sendLine(t, l, "hello")
			close(sent)
			werr := writeMessage(l, kindClose, []byte(closeText))
			if (werr != nil) != (c.want == errTruncated) {
				t.Errorf("%s: secure-close: %v", what, werr)
			}
			l.setReadTimeout(goodbyeTimeout, false)
			began := time.Now()
			kind, _, err := l.read()
			if !errors.Is(err, c.want) || c.want == nil && kind != kindClose {
				t.Errorf("%s: %d, %v", what, kind, err)
			}
			if time.Since(began) > paperCloseTimeout {
				t.Errorf("%s: it took %v", what, time.Since(began))
			}
			l.conn.Close()
			<-over
			l.wipe()
		})
	}
}

// TestPaperLinkStuck: the client gives up after one write's time if the server does not read, and never if it is only
// idle.
func TestPaperLinkStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := linkPair()
		defer s.Close()
		l.setReadTimeout(peerTimeout, true)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if len(l.gone) > 0 {
			t.Errorf("a silent day ended the session: %v", <-l.gone)
		}
		err := writeMessage(l, kindText, linesOf(1, itemSay, "", "x"))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write that the other side does not read: %v", err)
		}
		l.setReadTimeout(goodbyeTimeout, false)
		if _, _, err := l.read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		l.conn.Close()
	})
}

// TestPaperPrefixes: no prefix of a stage is accepted, and none is answered.
func TestPaperPrefixes(t *testing.T) {
	v := paperVector(t)
	for _, wire := range [][]byte{v.stages[1].wire, v.stages[3].wire} {
		for n := range wire {
			c, s := net.Pipe()
			go func() { s.Write(wire[:n]); s.Close() }()
			if got, err := paperReceive(c, len(wire), "server"); got != nil || !errors.Is(err, io.EOF) &&
				!errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d of %d bytes: %v", n, len(wire), err)
			}
			c.Close()
		}
	}
}

// TestPaperStage2Flips: no byte of stage 2 can be changed.
func TestPaperStage2Flips(t *testing.T) {
	t.Parallel()
	v := paperVector(t)
	good := refSeal(t, v.server, v.client, "00000010"+testRa+testRb)
	if m, sign := paperOpen(v.client, good, paperStage2); !paperVerify(&v.server.PublicKey, sign, m) {
		t.Fatal("stage 2 as it was does not verify")
	}
	for i := 0; i < paperSealed; i += 7 {
		if m, sign := paperOpen(v.client, flip(good, i), paperStage2); paperVerify(&v.server.PublicKey, sign, m) {
			t.Errorf("byte %d of stage 2 was changed unnoticed", i)
		}
	}
}
