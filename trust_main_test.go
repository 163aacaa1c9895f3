package main

// Black-box tests of keys and trust: the program, ssh-keygen and ssh-agent work on the same files.

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// decision returns the last record of a connect or a refusal in a server's log.
func decision(t *testing.T, server *proc) map[string]any {
	t.Helper()
	all := records(t, filepath.Join(server.cmd.Dir, "connection.log"))
	for _, r := range slices.Backward(all) {
		if r["event"] == eventConnect || r["event"] == eventRefused {
			return r
		}
	}
	return map[string]any{"event": "no decision yet"}
}

// wantAdmitted checks that the last decision admitted a client, its name, and the line or CA that admitted it.
func wantAdmitted(t *testing.T, what string, server *proc, name, by string) {
	t.Helper()
	r := decision(t, server)
	got, _ := r["by"].(string)
	if r["event"] != eventConnect || r["name"] != name || !regexp.MustCompile(by).MatchString(got) ||
		!strings.HasPrefix(fmt.Sprint(r["client"]), "127.0.0.1:") ||
		!strings.HasPrefix(fmt.Sprint(r["fingerprint"]), "SHA256:") {
		t.Errorf("%s: the log has %v, want %s by %q", what, r, name, by)
	}
}

// wantRefused waits until the last decision in the log kept a client out for the reason. The client learns of a refusal
// before the server records it.
func wantRefused(t *testing.T, what string, server *proc, reason string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		server.err.mu.Lock()
		more := server.err.more // The channel closes at the server's next output, which follows the record.
		server.err.mu.Unlock()
		r := decision(t, server)
		got, _ := r["reason"].(string)
		if r["event"] == eventRefused && regexp.MustCompile(reason).MatchString(got) &&
			strings.HasPrefix(fmt.Sprint(r["client"]), "127.0.0.1:") &&
			strings.HasPrefix(fmt.Sprint(r["fingerprint"]), "SHA256:") {
			return
		}
		select {
		case <-more:
		case <-timeout:
			t.Errorf("%s: the log has %v, want %q", what, r, reason)
			return
		}
	}
}

// TestFirstContactPiped checks that a client without a terminal refuses an unknown server, that -accept-new pins it,
// and that a changed key is refused even then.
func TestFirstContactPiped(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server, addr := serve(t, anna)
	known := filepath.Join(bob, "known_hosts")
	host := "[127.0.0.1]:" + portOf(addr)

	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "unknown", stderr, code, exitUntrusted,
		`the server \S+ is unknown: its key is SHA256:\S+\n.*add to \S+known_hosts: \[127\.0\.0\.1\]:\d+ ssh-ed25519 `+
			`\S+\n.*-accept-new.*-join`)
	server.err.match(t, "it left before saying who it is") // follows the record, which follows the client's end
	if r := decision(t, server); !strings.Contains(fmt.Sprint(r["reason"]), "it left before saying who it is") {
		t.Errorf("the log has %v", r)
	}
	line := regexp.MustCompile(`(?m)add to \S+: (.*)$`).FindStringSubmatch(stderr)
	if line == nil {
		t.Fatal("no line to add")
	}
	appendFile(t, known, line[1]+"\n")
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "with the line from the message", stderr, code, exitDone, `^$`)
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}

	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "-accept-new", stderr, code, exitDone, `the key of 127\.0\.0\.1:\d+ is now pinned: SHA256:`)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "once pinned", stderr, code, exitDone, `^$`)
	if text := readText(t, known); !strings.HasPrefix(text, "|1|") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("known_hosts is not hashed: %s", text)
	}
	if out := runTool(t, "ssh-keygen", "-F", host, "-f", known); !strings.Contains(out, "found: line 1") {
		t.Errorf("ssh-keygen -F: %s", out)
	}
	runTool(t, "ssh-keygen", "-lf", known)
	runTool(t, "ssh-keygen", "-R", host, "-f", known)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "after ssh-keygen -R", stderr, code, exitUntrusted, `is unknown`)

	appendFile(t, known, host+" "+publicKeyOf(t, bob)+"\n")
	for _, args := range [][]string{nil, {"-accept-new"}} {
		before := readText(t, known)
		stderr, code = sendHello(t, bob, addr, args...)
		wantRun(t, "a changed key", stderr, code, exitUntrusted,
			`the key of 127\.0\.0\.1:\d+ has changed: \S+/known_hosts:1 pins SHA256:\S+, the server shows `+
				`SHA256:\S+\n.*someone may be in the middle.*ssh-keygen -R`)
		if readText(t, known) != before {
			t.Error("a changed key changes known_hosts")
		}
	}
	command := regexp.MustCompile(`ssh-keygen (-R .*)\n`).FindStringSubmatch(stderr + "\n")
	runTool(t, "sh", "-c", "ssh-keygen "+command[1])
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "after the hint's command", stderr, code, exitDone, `is now pinned`)
}

// TestKnownHosts reads known_hosts lines in every form that ssh writes.
func TestKnownHosts(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	ca, caPub := testCA(t)
	_, other := testCA(t)
	runTool(t, "ssh-keygen", "-q", "-s", ca, "-h", "-I", "anna's", "-n", "127.0.0.1,localhost",
		filepath.Join(anna, "identity.pub"))
	_, addr := serve(t, anna)
	key, port := publicKeyOf(t, anna), portOf(addr)
	known := filepath.Join(bob, "known_hosts")
	for _, c := range []struct {
		name, text string
		hash       bool
		code       int
		words      string
	}{
		{"[host]:port", "[127.0.0.1]:" + port + " " + key, false, exitDone, `^$`},
		{"a host without its port", "127.0.0.1 " + key, false, exitDone, `^$`},
		{"a list and a pattern", "other,[127.0.0.?]:" + port + " " + key, false, exitDone, `^$`},
		{"hashed by ssh-keygen", "[127.0.0.1]:" + port + " " + key, true, exitDone, `^$`},
		{"another port's key", "[127.0.0.1]:1 " + publicKeyOf(t, bob), false, exitUntrusted, `is unknown`},
		{"excepted", "![127.0.0.1]:" + port + ",* " + key, false, exitUntrusted, `is unknown`},
		{"CA", "@cert-authority 127.0.0.* " + keyLine(caPub), false, exitDone, `^$`},
		{"CA by [host]:port", "@cert-authority [127.0.0.1]:" + port + " " + keyLine(caPub), false, exitDone, `^$`},
		{"another CA", "@cert-authority * " + keyLine(other), false, exitUntrusted,
			`is signed by CA SHA256:\S+, but \S+known_hosts:1 requires CA SHA256:`},
		{"revoked", "[127.0.0.1]:" + port + " " + key + "\n@revoked * " + key, false, exitUntrusted,
			`key SHA256:\S+ is revoked by \S+known_hosts:2`},
		{"CA revoked", "@cert-authority * " + keyLine(caPub) + "\n@revoked * " + keyLine(caPub), false, exitUntrusted,
			`is revoked by \S+known_hosts:2`},
		{"broken @revoked", "[127.0.0.1]:" + port + " " + key + "\n@revoked * nonsense", false, exitUntrusted,
			`known_hosts:2, which may revoke a key, cannot be read`},
		{"broken line", "what is this\n[127.0.0.1]:" + port + " " + key, false, exitDone,
			`known_hosts:1 trusts no server: it is not a known_hosts line`},
		{"changed, hashed", "[127.0.0.1]:" + port + " " + publicKeyOf(t, bob), true, exitUntrusted,
			`has changed: \S+known_hosts:1 pins`},
	} {
		put(t, known, []byte(c.text+"\n"))
		if c.hash {
			runTool(t, "ssh-keygen", "-H", "-f", known)
			if !strings.HasPrefix(readText(t, known), "|1|") {
				t.Errorf("%s: not hashed", c.name)
			}
		}
		stderr, code := sendHello(t, bob, addr)
		wantRun(t, c.name, stderr, code, c.code, c.words)
		if c.code == exitUntrusted && !strings.Contains(c.words, "unknown") {
			stderr, code := sendHello(t, bob, addr, "-accept-new")
			wantRun(t, c.name+" -accept-new", stderr, code, c.code, c.words)
		}
	}
}

// TestIPv6 checks that IPv6 addresses are pinned and found in the form that ssh uses.
func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Log("this machine has no IPv6; TestCheckServer covers the names")
		return
	}
	l.Close()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server := start(t, t.TempDir(), "-listen", "[::1]:0", "-dir", anna)
	port := server.err.match(t, `room open on \[::1\]:(\d+)`)[1]
	known := filepath.Join(bob, "known_hosts")
	stderr, code := sendHello(t, bob, "[::1]:"+port, "-accept-new")
	wantRun(t, "-accept-new", stderr, code, exitDone, `is now pinned`)
	if out := runTool(t, "ssh-keygen", "-F", "[::1]:"+port, "-f", known); !strings.Contains(out, "found: line 1") {
		t.Errorf("ssh-keygen -F: %s", out)
	}
	stderr, code = sendHello(t, bob, "[0:0:0:0:0:0:0:1]:"+port)
	wantRun(t, "another spelling", stderr, code, exitDone, `^$`)
	put(t, known, []byte("[::1]:"+port+" "+publicKeyOf(t, bob)+"\n"))
	stderr, code = sendHello(t, bob, "[::1]:"+port)
	wantRun(t, "changed", stderr, code, exitUntrusted, `has changed`)
}

var inviteLine = regexp.MustCompile(`(?m)^ *([A-Z2-7]{6}(?:-[A-Z2-7]{1,6})+)$`)

// TestInvites creates invites with and without a running server. Each can be used once, and all refusals look the same
// to the client.
func TestInvites(t *testing.T) {
	anna, bob, cleo, dora := state(t, "anna"), state(t, "bob"), state(t, "cleo"), state(t, "dora")
	invite := func(dir, name string) string {
		out, stderr, code := runToEnd(t, t.TempDir(), "", "-invite", name, "-dir", dir)
		if code != exitDone || !inviteLine.MatchString(out) || strings.Count(out, "\n") != 1 ||
			inviteLine.MatchString(stderr) ||
			!strings.Contains(stderr, "securechat -connect ") || !strings.Contains(stderr, " -join") {
			t.Fatalf("-invite: exit %d, stdout %q, stderr %q", code, out, stderr)
		}
		return strings.TrimSpace(out)
	}
	join := func(dir, addr, code string) (string, int) {
		t.Setenv("SECURECHAT_INVITE", code)
		defer os.Unsetenv("SECURECHAT_INVITE")
		return sendHello(t, dir, addr, "-join")
	}
	early := invite(anna, "robert") // No server runs yet.
	server, addr := serve(t, anna, "-invite", "beside")
	beside := inviteLine.FindStringSubmatch(server.err.match(t, `(?m)^  [A-Z2-7]{6}-\S+$`)[0])[1]
	if strings.ReplaceAll(early, "-", "") == strings.ReplaceAll(beside, "-", "") {
		t.Error("two invites have the same code")
	}

	stderr, code := join(bob, addr, early)
	wantRun(t, "an invite", stderr, code, exitDone, `is now pinned: SHA256:`)
	wantAdmitted(t, "an invite", server, "robert", `^invite, now authorized_keys:1$`)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the second time", stderr, code, exitDone, `^$`)
	wantAdmitted(t, "the second time", server, "robert", `^authorized_keys:1$`)

	used, usedCode := join(cleo, addr, early)
	wantRefused(t, "used", server, `joins by an invite that is wrong, used or expired`)
	wrongText := wrongCode(t, early)
	wrong, wrongExit := join(cleo, addr, wrongText)
	wantRefused(t, "wrong", server, `joins by an invite that is wrong, used or expired`)
	expiring := invite(anna, "cleo") // The server runs.
	waits := filepath.Join(anna, "invites")
	put(t, waits,
		[]byte(regexp.MustCompile(` \d{4}-\S+ cleo`).ReplaceAllString(readText(t, waits), " 2020-01-01T00:00:00Z cleo")))
	expired, expiredCode := join(cleo, addr, expiring)
	wantRefused(t, "expired", server, `joins by an invite that is wrong, used or expired`)
	wantRun(t, "a used invite", used, usedCode, exitUntrusted,
		`does not admit this key.*\n.*the invite may be used or expired: ask for a new code`)
	if wrong != used || expired != used || wrongExit != usedCode || expiredCode != usedCode {
		t.Errorf("they differ: used %d %q, wrong %d %q, expired %d %q", usedCode, used, wrongExit, wrong, expiredCode,
			expired)
	}
	if readText(t, filepath.Join(cleo, "identity.pub")) == "" || exists(filepath.Join(cleo, "known_hosts")) {
		t.Error("a refused invite pins the server")
	}

	stderr, code = join(cleo, addr, strings.ToLower(strings.ReplaceAll(beside, "-", " ")))
	wantRun(t, "in small letters with blanks", stderr, code, exitDone, `is now pinned`)
	wantAdmitted(t, "beside -listen", server, "beside", `^invite, now authorized_keys:2$`)

	elsewhere := invite(state(t, "elsewhere"), "dora")
	stderr, code = join(dora, addr, elsewhere)
	wantRun(t, "another server's", stderr, code, exitUntrusted,
		`shows key SHA256:\S+, and the invite is from another server\n.*check the address`)
	typo := "A" + elsewhere[1:]
	if typo == elsewhere {
		typo = "B" + elsewhere[1:]
	}
	stderr, code = join(dora, "127.0.0.1:1", typo)
	wantRun(t, "a typing error", stderr, code, exitUsage,
		`\$SECURECHAT_INVITE: the invite code has a typing error or is incomplete: copy all of it again`)
	stderr, code = sendHello(t, dora, addr, "-join")
	wantRun(t, "no code", stderr, code, exitUsage,
		`-join needs the invite's code: type it at a terminal, or set \$SECURECHAT_INVITE`)
	for _, args := range [][]string{{"-join", elsewhere}, {"-join=" + elsewhere}, {"--join=" + elsewhere}} {
		stderr, code = sendHello(t, dora, addr, args...)
		wantRun(t, "on the command line", stderr, code, exitUsage, `-join takes no code`)
		if strings.Contains(stderr, elsewhere) {
			t.Error("the code is printed")
		}
	}
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-invite", "two words", "-dir", anna)
	wantRun(t, "no name", stderr, code, exitUsage, `"two words" is no name: letters, digits`)

	// An unset variable of a script gives such an argument.
	for _, mode := range []string{"-invite", "-allow", "-listen", "-connect"} {
		_, stderr, code = runToEnd(t, t.TempDir(), "", mode, "", "-dir", anna)
		wantRun(t, mode+" with nothing", stderr, code, exitUsage, `empty one|"" is no name`)
	}

	all := server.err.String() + readText(t,
		filepath.Join(server.cmd.Dir, "connection.log")) + used + wrong + expired + readText(t, waits)
	for _, c := range []string{early, expiring, wrongText} {
		if strings.Contains(all, c) || strings.Contains(all, strings.ReplaceAll(c, "-", "")) {
			t.Error("a code is in the log, in the files or on stderr")
		}
	}
	if strings.Contains(readText(t, filepath.Join(server.cmd.Dir, "connection.log")), beside) {
		t.Error("the code beside -listen is in the log")
	}
}

// wrongCode returns a code of the same server with another secret.
func wrongCode(t *testing.T, code string) string {
	t.Helper()
	b, err := inviteEncoding.DecodeString(strings.ReplaceAll(code, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	b[1+32] ^= 1
	return formatInviteCode(b[1:][:32], b[1+32:][:inviteSecret])
}

// TestAllowFlag checks that -allow adds one valid public key line, and nothing else.
func TestAllowFlag(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	keys := filepath.Join(anna, "authorized_keys")
	file := filepath.Join(bob, "identity.pub")
	bobLine, annaLine := readText(t, file), readText(t, filepath.Join(anna, "identity.pub"))
	weak := filepath.Join(t.TempDir(), "weak")
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", weak)
	for _, c := range []struct {
		name, stdin string
		code        int
		words       string
	}{
		{"a private key", readText(t, filepath.Join(bob, "identity")), exitTrouble,
			`that is a private key, which must stay with its owner: give the public key, the \.pub file`},
		{"two lines", bobLine + annaLine, exitTrouble, `that is more than one line: give one public key at a time`},
		{"nothing", "\n# a comment\n", exitTrouble, `there is no public key line, such as ssh-ed25519 AAAA`},
		{"nonsense", "hello\n", exitTrouble, `the line is not accepted: it is not a public key line`},
		{"an unknown option", "command=\"ls\" " + bobLine, exitTrouble,
			`the line is not accepted: option "command": unknown`},
		{"RSA-1024", readText(t, weak+".pub"), exitTrouble, `an RSA key of 1024 bits is not accepted: use 2048 to 4096 bits`},
		{"too long", strings.Repeat("x", 1<<20), exitTrouble, `too long`},
	} {
		out, stderr, code := runToEnd(t, t.TempDir(), c.stdin, "-allow", "-", "-dir", anna)
		wantRun(t, c.name, stderr, code, c.code, c.words)
		if out != "" || exists(keys) || strings.Contains(stderr, "BEGIN") {
			t.Errorf("%s: stdout %q, or something was written", c.name, out)
		}
	}
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-allow", "/no/such/file", "-dir", anna)
	wantRun(t, "no file", stderr, code, exitTrouble, `reading the public key: open /no/such/file: no such file .*; -allow needs the path of a public key, or - to `)

	_, code = sendHello(t, bob, addr)
	if code != exitUntrusted {
		t.Fatalf("a stranger: exit %d", code)
	}
	wantRefused(t, "a stranger", server, `key SHA256:\S+ is not in \S+authorized_keys`)
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-allow", file, "-dir", anna)
	wantRun(t, "a file", stderr, code, exitDone, `bob may join now \(SHA256:\S+, authorized_keys:1\)`)
	_, stderr, code = runToEnd(t, t.TempDir(), bobLine, "-allow", "-", "-dir", anna)
	wantRun(t, "a duplicate", stderr, code, exitDone,
		`nothing to do: that key is already listed as bob in \S+authorized_keys:1`)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "allowed", stderr, code, exitDone, `^$`)
	wantAdmitted(t, "allowed", server, "bob", `^authorized_keys:1$`)
	if info, err := os.Stat(keys); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("authorized_keys: %v, %v", info, err)
	}
	runTool(t, "ssh-keygen", "-lf", keys)
}

// TestUserCertificatesEndToEnd joins with certificates that ssh-keygen has made.
func TestUserCertificatesEndToEnd(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	ca, caPub := testCA(t)
	otherCA, _ := testCA(t)
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	pub := filepath.Join(bob, "identity.pub")
	lists := filepath.Join(anna, "authorized_keys")
	revoked := filepath.Join(anna, "revoked_keys")
	krl := filepath.Join(t.TempDir(), "krl")
	line := "cert-authority " + keyLine(caPub)
	bobKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(readText(t, pub)))
	if err != nil {
		t.Fatal(err)
	}
	bobHex := keyHex(bobKey, 8)
	for _, c := range []struct {
		name, line string
		ca         string
		args       []string
		revoke     func(cert string) []byte
		as, words  string // The name and what admits it, or the reason of the refusal.
	}{
		{"good", line, ca, []string{"-I", "bob.b", "-z", "5", "-n", "bob"}, nil, "bob.b",
			`^certificate "bob\.b" serial 5 by CA authorized_keys:1$`},
		{"named by its principal", line, ca, []string{"-I", "Bob of ops!", "-n", "bob@ops"}, nil, "bob-ops",
			`CA authorized_keys:1`},
		{"principal", line[:14] + `,principals="x,ops"` + line[14:], ca, []string{"-I", "bob", "-n", "ops"}, nil, "ops",
			`CA authorized_keys:1`},
		{"the operator's name by a limited CA", line[:14] + `,principals="guest"` + line[14:], ca,
			[]string{"-I", "anna", "-n", "guest"}, nil, "guest", `CA authorized_keys:1`},
		{"the operator's name", line, ca, []string{"-I", "anna", "-n", "bob"}, nil, "key-" + bobHex, `CA authorized_keys:1`},
		{"another key's name", line + "\n" + keyLine(caPub) + " cleo", ca, []string{"-I", "cleo", "-n", "bob"}, nil,
			"key-" + bobHex, `CA authorized_keys:1`},
		{"from here", line[:14] + `,from="127.0.0.0/8"` + line[14:], ca, []string{"-I", "bob", "-n", "ops"}, nil, "bob",
			`CA authorized_keys:1`},
		{"wrong principal", line[:14] + `,principals="ops"` + line[14:], ca, []string{"-I", "bob", "-n", "bob"}, nil, "",
			`by CA authorized_keys:1: none of its principals \["bob"\] is accepted`},
		{"no principal", line, ca, []string{"-I", "bob"}, nil, "", `by CA authorized_keys:1: it names no principal`},
		{"expired", line, ca, []string{"-I", "bob", "-n", "bob", "-V", "20200101:20200102"}, nil, "",
			`it expired at 20(20|19)-`},
		{"not yet valid", line, ca, []string{"-I", "bob", "-n", "bob", "-V", "+1w:+2w"}, nil, "",
			`it is not valid before 20`},
		{"a host's", line, ca, []string{"-I", "bob", "-n", "bob", "-h"}, nil, "", `it is not a user certificate`},
		{"another CA's", line, otherCA, []string{"-I", "bob", "-n", "bob"}, nil, "",
			`certificate "bob" serial 0 is signed by CA SHA256:\S+, and authorized_keys lists neither that CA nor key`},
		{"unknown critical option", line, ca, []string{"-I", "bob", "-n", "bob", "-O", "critical:x@example.com=1"}, nil, "",
			`its critical option "x@example\.com" is unknown`},
		{"force-command", line, ca, []string{"-I", "bob", "-n", "bob", "-O", "force-command=ls"}, nil, "",
			`its critical option "force-command" is unknown`},
		{"source-address elsewhere", line, ca, []string{"-I", "bob", "-n", "bob", "-O", "source-address=192.0.2.0/24"}, nil,
			"", `its source-address does not admit it from 127\.0\.0\.1`},
		{"revoked by fingerprint", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte(strings.Fields(runTool(t, "ssh-keygen", "-lf", pub))[1] + "\n")
		}, "", `: revoked by revoked_keys`},
		{"revoked by key", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte(readText(t, pub))
		}, "", `: revoked by revoked_keys`},
		{"CA revoked", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte(keyLine(caPub) + "\n")
		}, "", `its CA is revoked by revoked_keys`},
		{"revoked by KRL", line, ca, []string{"-I", "bob", "-n", "bob", "-z", "7"}, func(cert string) []byte {
			runTool(t, "ssh-keygen", "-q", "-k", "-f", krl, cert)
			return []byte(readText(t, krl))
		}, "", `certificate "bob" serial 7 is revoked by its serial by revoked_keys`},
		{"another revoked by KRL", line, ca, []string{"-I", "bob", "-n", "bob", "-z", "8"}, func(string) []byte {
			return []byte(readText(t, krl))
		}, "bob", `serial 8 by CA`},
		{"revoked_keys broken", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte("nonsense\n")
		}, "", `no key is trusted while \S+revoked_keys cannot be read: line 1 is neither a public key nor a SHA256: ` +
			`fingerprint`},
	} {
		put(t, lists, []byte(c.line+"\n"))
		runTool(t, "ssh-keygen", slices.Concat([]string{"-q", "-s", c.ca}, c.args, []string{pub})...)
		cert := filepath.Join(bob, "identity-cert.pub")
		os.Remove(revoked)
		if c.revoke != nil {
			put(t, revoked, c.revoke(cert))
		}
		stderr, code := sendHello(t, bob, addr)
		if c.as != "" {
			wantRun(t, c.name, stderr, code, exitDone, `^$`)
			wantAdmitted(t, c.name, server, c.as, c.words)
			continue
		}
		if strings.Contains(c.words, "cannot be read") { // The server could not decide, so it sends no refusal.
			wantRun(t, c.name, stderr, code, exitTrouble,
				`^securechat: handshake with \S+: the server closed the connection: .*\n$`)
		} else {
			wantRun(t, c.name, stderr, code, exitUntrusted, `does not admit this key; its log says why`)
		}
		wantRefused(t, c.name, server, c.words)
	}
}

// TestHostCertificatesEndToEnd connects to a server with certificates that ssh-keygen has made.
func TestHostCertificatesEndToEnd(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	ca, caPub := testCA(t)
	otherCA, _ := testCA(t)
	pub, known := filepath.Join(anna, "identity.pub"), filepath.Join(bob, "known_hosts")
	put(t, known, []byte("@cert-authority 127.0.0.1 "+keyLine(caPub)+"\n"))
	krl := filepath.Join(t.TempDir(), "krl")
	for _, c := range []struct {
		name  string
		args  []string
		krl   bool
		code  int
		words string
	}{
		{"good", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1"}, false, exitDone, `^$`},
		{"a pattern", []string{"-s", ca, "-h", "-I", "a", "-n", "127.*"}, false, exitDone, `^$`},
		{"another name", []string{"-s", ca, "-h", "-I", "a", "-n", "example.org"}, false, exitUntrusted,
			`certificate "a" serial 0 of 127\.0\.0\.1:\d+ by CA known_hosts:1: none of its principals \["example\.org"\] is ` +
				`accepted`},
		{"no name", []string{"-s", ca, "-h", "-I", "a"}, false, exitUntrusted, `it names no principal`},
		{"expired", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-V", "20200101:20200102"}, false, exitUntrusted,
			`it expired at`},
		{"not yet valid", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-V", "+1w:+2w"}, false, exitUntrusted,
			`it is not valid before`},
		{"a user's", []string{"-s", ca, "-I", "a", "-n", "127.0.0.1"}, false, exitUntrusted, `it is not a host certificate`},
		{"another CA's", []string{"-s", otherCA, "-h", "-I", "a", "-n", "127.0.0.1"}, false, exitUntrusted,
			`is signed by CA SHA256:\S+, but \S+known_hosts:1 requires CA SHA256:`},
		{"unknown critical option", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-O", "critical:x@example.com=1"},
			false, exitUntrusted, `its critical option "x@example\.com" is unknown`},
		{"revoked by KRL", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-z", "3"}, true, exitUntrusted,
			`certificate "a" serial 3 is revoked by its serial by revoked_keys`},
	} {
		runTool(t, "ssh-keygen", slices.Concat([]string{"-q"}, c.args, []string{pub})...)
		if c.krl {
			runTool(t, "ssh-keygen", "-q", "-k", "-f", krl, filepath.Join(anna, "identity-cert.pub"))
			put(t, filepath.Join(bob, "revoked_keys"), []byte(readText(t, krl)))
		}
		server, addr := serve(t, anna)
		stderr, code := sendHello(t, bob, addr)
		wantRun(t, c.name, stderr, code, c.code, c.words)
		if c.code != exitDone {
			stderr, code = sendHello(t, bob, addr, "-accept-new")
			wantRun(t, c.name+" -accept-new", stderr, code, c.code, c.words)
		}
		server.cmd.Process.Kill()
		server.wait()
	}
}

// TestAuthorizedKeysOptions checks the options of authorized_keys. A line with an unknown option admits no key and is
// reported once, and the other lines stay valid.
func TestAuthorizedKeysOptions(t *testing.T) {
	t.Parallel()
	anna, bob, cleo := state(t, "anna"), state(t, "bob"), state(t, "cleo")
	admit(t, anna, cleo)
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	pin(t, cleo, addr, anna)
	key := publicKeyOf(t, bob) + " bob"
	cleoLine := publicKeyOf(t, cleo) + " cleo\n"
	file := filepath.Join(anna, "authorized_keys")
	for _, c := range []struct {
		options  string
		reported string // A part of the server's stderr.
		refused  string // Empty: the key is admitted.
	}{
		{`from="127.0.0.0/8" `, "", ""},
		{`from="!127.0.0.2,127.0.0.*" `, "", ""},
		{`from="192.0.2.0/24" `, "", `authorized_keys:1 does not admit it from 127\.0\.0\.1`},
		{`from="127.*,!127.0.0.1" `, "", `authorized_keys:1 does not admit it from 127\.0\.0\.1`},
		{`expiry-time="20990101" `, "", ""},
		{`expiry-time="20200101" `, "", `authorized_keys:1 expired at`},
		{`expiry-time="20990101",from="127.0.0.1" `, "", ""},
		{`cert-authority `, "", `is not in \S+authorized_keys`},
		{`command="ls" `, `authorized_keys:1 admits no key: option "command": unknown`, `is not in \S+authorized_keys`},
		{`restrict,no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc,no-touch-required `, "", ""},
		{`restrict="x" `, `authorized_keys:1 admits no key: option "restrict": unknown`, `is not in \S+authorized_keys`},
		{`pty `, `authorized_keys:1 admits no key: option "pty": unknown`, `is not in \S+authorized_keys`},
		{`from="host.example" `, `authorized_keys:1 admits no key: option "from": "host\.example" is not an address`,
			`is not in \S+authorized_keys`},
		{`expiry-time="tomorrow" `, `authorized_keys:1 admits no key: option "expiry-time": "tomorrow" is not a time`,
			`is not in \S+authorized_keys`},
		{`principals="bob" `,
			`authorized_keys:1 admits no key: option "principals": it has no meaning without cert-authority`,
			`is not in \S+authorized_keys`},
		{`ssh-nonsense `, `authorized_keys:1 admits no key: option "ssh-nonsense"`, `is not in \S+authorized_keys`},
	} {
		put(t, file, []byte(c.options+key+"\n"+cleoLine))
		stderr, code := sendHello(t, bob, addr)
		if c.refused == "" {
			wantRun(t, c.options, stderr, code, exitDone, `^$`)
			wantAdmitted(t, c.options, server, "bob", `^authorized_keys:1$`)
		} else {
			wantRun(t, c.options, stderr, code, exitUntrusted, `does not admit this key`)
			wantRefused(t, c.options, server, c.refused)
		}
		for range 2 {
			stderr, code = sendHello(t, cleo, addr)
			wantRun(t, c.options+"the other line", stderr, code, exitDone, `^$`)
			wantAdmitted(t, c.options+"the other line", server, "cleo", `^authorized_keys:2$`)
		}
		if n := len(regexp.MustCompile(c.reported).FindAllString(server.err.String(), -1)); c.reported != "" && n != 1 {
			t.Errorf("%sreported %d times: %s", c.options, n, server.err)
		}
	}

	put(t, file, []byte("rubbish\n"+cleoLine))
	again, _ := serve(t, anna)
	again.err.match(t, `authorized_keys:1 admits no key: it is not a public key line`)
	put(t, filepath.Join(anna, "revoked_keys"), []byte("rubbish\n"))
	again, _ = serve(t, anna)
	again.err.match(t, `no key is trusted while \S+revoked_keys cannot be read: line 1`)
}

// TestIdentities uses identities of every type that ssh-keygen makes, as files, with passphrases and through ssh-agent.
func TestIdentities(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	keys := t.TempDir()
	pass := put(t, filepath.Join(keys, "pass"), []byte("open sesame\n"))
	wrong := put(t, filepath.Join(keys, "wrong"), []byte("open barley\n"))
	credentials := t.TempDir()
	put(t, filepath.Join(credentials, "passphrase"), []byte("open sesame"))
	agent := "SSH_AUTH_SOCK=" + startAgent(t)
	env := []string{agent}
	hello := func(args ...string) (stderr string, code int) {
		t.Helper()
		args = append([]string{"-connect", addr, "-dir", bob}, args...)
		_, stderr, code = runToEndWith(t, t.TempDir(), env, "hello\n", args...)
		return stderr, code
	}
	for _, c := range []struct{ typ, bits string }{
		{"rsa", "2048"}, {"rsa", "3072"}, {"ecdsa", "256"}, {"ecdsa", "384"}, {"ecdsa", "521"}, {"ed25519", "256"},
	} {
		name := c.typ + "-" + c.bits
		path := filepath.Join(keys, name)
		runTool(t, "ssh-keygen", "-q", "-t", c.typ, "-b", c.bits, "-N", "", "-C", name, "-f", path)
		put(t, filepath.Join(anna, "authorized_keys"), []byte(readText(t, path+".pub")))
		try := func(how string, args ...string) {
			t.Helper()
			stderr, code := hello(args...)
			wantRun(t, name+" "+how, stderr, code, exitDone, `^$`)
			wantAdmitted(t, name+" "+how, server, name, `^authorized_keys:1$`)
		}
		try("file", "-identity", path)
		runTool(t, "env", agent, "ssh-add", "-q", path)
		try("agent", "-identity", path+".pub")
		if c.bits == "2048" || c.bits == "256" { // The file's encryption does not depend on the key's size.
			runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-a", "1", "-f", path)
			try("passphrase file", "-identity", path, "-passphrase-file", pass)
		}
	}

	path := filepath.Join(keys, "ed25519-256")
	stderr, code := hello("-identity", path)
	wantRun(t, "a passphrase and no terminal", stderr, code, exitUsage,
		`has a passphrase and there is no terminal to ask for it: use -passphrase-file`)
	stderr, code = hello("-identity", path, "-passphrase-file", wrong)
	wantRun(t, "a wrong passphrase", stderr, code, exitUsage,
		`wrong passphrase: the one in \S+wrong does not open \S+ed25519-256`)
	if err := os.Chmod(pass, 0o644); err != nil {
		t.Fatal(err)
	}
	stderr, code = hello("-identity", path, "-passphrase-file", pass)
	wantRun(t, "a passphrase for all to read", stderr, code, exitTrouble,
		`other users can access \S+pass: run chmod 600 \S+pass`)
	env = append(env, "CREDENTIALS_DIRECTORY="+credentials)
	stderr, code = hello("-identity", path)
	wantRun(t, "a systemd credential", stderr, code, exitDone, `^$`)
	runTool(t, "env", agent, "ssh-add", "-q", "-D")
	stderr, code = hello("-identity", path+".pub")
	wantRun(t, "a key the agent has not", stderr, code, exitTrouble,
		`ssh-agent does not have the key SHA256:\S+ of \S+: add it with ssh-add`)
	env = append(env, "SSH_AUTH_SOCK=")
	stderr, code = hello("-identity", path+".pub")
	wantRun(t, "no agent", stderr, code, exitTrouble, `is a public key, and there is no ssh-agent to sign with`)
	stderr, code = hello("-identity", filepath.Join(keys, "absent"))
	wantRun(t, "no file", stderr, code, exitTrouble, `reading the identity: open \S+absent: no such file .*; without -identity the key is in \S+bob`)

	weak := filepath.Join(keys, "weak")
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", weak)
	stderr, code = hello("-identity", weak)
	wantRun(t, "RSA-1024", stderr, code, exitTrouble, `1024`)
	appendFile(t, filepath.Join(anna, "authorized_keys"), readText(t, weak+".pub"))
	stderr, code = hello()
	wantRun(t, "a stranger beside it", stderr, code, exitUntrusted, `does not admit this key`)
	server.err.match(t, `authorized_keys:2 admits no key: an RSA key of 1024 bits is not accepted`)
}

// TestKeygenFlag checks that -keygen makes keys that ssh-keygen reads, and never replaces them.
func TestKeygenFlag(t *testing.T) {
	t.Parallel()
	ca, _ := testCA(t)
	_, other := newEd25519(t)
	certified := certify(t, ca, other, "-I", "other")
	for _, c := range []struct {
		args []string
		want string // A part of the output of ssh-keygen -lf.
	}{
		{nil, `^256 SHA256:\S+ \S+ \(ED25519\)`},
		{[]string{"-type", "ecdsa", "-comment", "anna"}, `^256 SHA256:\S+ anna \(ECDSA\)`},
		{[]string{"-type", "rsa"}, `^3072 SHA256:\S+ \S+ \(RSA\)`},
		{[]string{"-type", "rsa", "-bits", "2048", "-comment", "my router"}, `^2048 SHA256:\S+ my router \(RSA\)`},
	} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		args := append([]string{"-keygen", "-dir", dir}, c.args...)
		out, stderr, code := runToEnd(t, t.TempDir(), "", args...)
		wantRun(t, fmt.Sprint(c.args), stderr, code, exitDone, `made an identity: \S+identity \(SHA256:`)
		path := filepath.Join(dir, "identity")
		listed := runTool(t, "ssh-keygen", "-lf", path)
		if !regexp.MustCompile(c.want).MatchString(listed) || !strings.Contains(out, strings.Fields(listed)[1]) {
			t.Errorf("%v: ssh-keygen -lf printed %q; stdout %q", c.args, listed, out)
		}
		if made := runTool(t, "ssh-keygen", "-y", "-f", path); !strings.HasPrefix(out,
			strings.Join(strings.Fields(made)[:2], " ")) {
			t.Errorf("%v: ssh-keygen -y printed %q; stdout %q", c.args, made, out)
		}
		for file, mode := range map[string]os.FileMode{"": 0o700, "identity": 0o600, "encryption": 0o600,
			"identity.pub": 0o600} {
			if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", file, info.Mode(), err)
			}
		}
		before := readText(t, path)
		again, stderr, code := runToEnd(t, t.TempDir(), "", "-keygen", "-dir", dir, "-type", "ecdsa", "-comment", "x")
		wantRun(t, "twice", stderr, code, exitDone, `the keys are there already, so none were made`)
		if again != out || readText(t, path) != before {
			t.Errorf("%v: the second time: %q", c.args, again)
		}
		otherCertificate := filepath.Join(dir, "identity-cert.pub") // one that is reported and ignored
		if err := os.WriteFile(otherCertificate, ssh.MarshalAuthorizedKey(certified), 0o644); err != nil {
			t.Fatal(err)
		}
		_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-dir", dir)
		wantRun(t, "with the certificate of another key", stderr, code, exitDone, `so none were made`)
		if err := os.Remove(otherCertificate); err != nil {
			t.Fatal(err)
		}
		out, stderr, code = runToEnd(t, t.TempDir(), "", "-fingerprint", "-dir", dir)
		if code != exitDone || stderr != "" || !strings.HasPrefix(out, strings.Fields(listed)[1]+" ") {
			t.Errorf("-fingerprint: exit %d, %q, %q", code, out, stderr)
		}
	}

	dir := state(t, "anna")
	path := filepath.Join(dir, "identity")
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-a", "1", "-f", path)
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-a", "1", "-f", filepath.Join(dir, "encryption"))
	pass := put(t, filepath.Join(t.TempDir(), "pass"), []byte("secret"))
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-fingerprint", "-dir", dir, "-passphrase-file", pass)
	wantRun(t, "after ssh-keygen -p", stderr, code, exitDone, `^$`)
	for _, c := range []struct {
		path string
		mode os.FileMode
		want string
	}{
		{path, 0o640, `other users can access \S+identity: run chmod 600 \S+identity`},
		{filepath.Join(dir, "encryption"), 0o604, `other users can access \S+encryption: run chmod 600 \S+encryption`},
		{dir, 0o750, `other users can access the folder \S+anna: run chmod 700 \S+anna`},
	} {
		info, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(c.path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := runToEnd(t, t.TempDir(), "", "-fingerprint", "-dir", dir, "-passphrase-file", pass)
		wantRun(t, c.path, stderr, code, exitTrouble, c.want)
		command := regexp.MustCompile(`chmod \d+ \S+`).FindString(stderr)
		runTool(t, "sh", "-c", command)
		if now, err := os.Stat(c.path); err != nil || now.Mode() != info.Mode() {
			t.Errorf("%q does not help", command)
		}
	}
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-dir", filepath.Join(t.TempDir(), "x"), "-type", "rsa",
		"-bits", "1024")
	wantRun(t, "-bits 1024", stderr, code, exitUsage, `an RSA key of 1024 bits: use 2048 to 4096`)
}

// TestNamesInTheRoom checks that two keys with the same name, or with names that look alike, are shown under different
// names.
func TestNamesInTheRoom(t *testing.T) {
	t.Parallel()
	anna, bob, twin, alike, fake := state(t, "anna"), state(t, "bob"), state(t, "twin"), state(t, "alike"), state(t,
		"fake")
	put(t, filepath.Join(anna, "authorized_keys"), []byte(publicKeyOf(t, bob)+" bob\n"+publicKeyOf(t, twin)+" bob\n"+
		publicKeyOf(t, alike)+" B0b\n"+publicKeyOf(t, fake)+" anna\n"))
	server, addr := serve(t, anna)
	join := func(dir, shows string) *proc {
		pin(t, dir, addr, anna)
		p := start(t, t.TempDir(), "-connect", addr, "-dir", dir)
		server.err.match(t, `(?m)^\* `+shows+` joined$`)
		return p
	}
	first := join(bob, `bob`)
	join(twin, `bob~[0-9a-f]{8}`)
	third := join(alike, `B0b~[0-9a-f]{8}`)
	operator := join(fake, `anna~[0-9a-f]{8}`)
	// The same key connects from another place, and gets the same name.
	second := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	server.err.match(t, `(?s)\* bob joined\n.*\* bob joined\n`)
	second.send("it is me again\n")
	third.send("and I am not he\n")
	operator.send("nor am I the operator\n")
	first.out.match(t, `(?m)^bob: it is me again$`)
	first.out.match(t, `(?m)^B0b~[0-9a-f]{8}: and I am not he$`)
	first.out.match(t, `(?m)^anna~[0-9a-f]{8}: nor am I the operator$`)
}

// TestRefusalTable checks that the program's source contains the messages in docs/KEYS.md, and that the table there has
// each reason of a decision against a peer.
func TestRefusalTable(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			source.WriteString(readText(t, f))
		}
	}
	text := regexp.MustCompile(`" \+\n\s*"`).ReplaceAllString(source.String(), "") // messages over several lines
	_, table, found := strings.Cut(readText(t, filepath.Join("docs", "KEYS.md")),
		"| sentence | where | exit |\n|---|---|---|\n")
	if !found {
		t.Fatal("no table")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	n := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 {
			break
		}
		n++
		for part := range strings.SplitSeq(strings.TrimPrefix(cells[0], "| "), "…") {
			if !strings.Contains(text, strings.TrimSpace(part)) {
				t.Errorf("no message of the program contains %q", part)
			}
		}
	}
	if n < 40 {
		t.Errorf("%d sentences", n)
	}
	// The reverse: the table has the longest part of each reason of a decision against a peer.
	reasons := regexp.MustCompile(`(?:\brefuse\(|reason:\s*(?:fmt\.Sprintf\(\s*)?)"([^"]+)"`).FindAllStringSubmatch(text, -1)
	for _, reason := range reasons {
		longest := ""
		for _, part := range regexp.MustCompile(`%\S`).Split(reason[1], -1) {
			if part = strings.Trim(part, " :,;"); len(part) > len(longest) {
				longest = part
			}
		}
		if !strings.Contains(table, longest) {
			t.Errorf("the table has no %q", reason[1])
		}
	}
	if len(reasons) < 15 {
		t.Errorf("%d reasons", len(reasons))
	}
}

// TestOwnIdentityAndPins checks that lines decide before the machine's own identity does, on both sides.
func TestOwnIdentityAndPins(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	_, addr := serve(t, bob)
	known, listed := filepath.Join(bob, "known_hosts"), filepath.Join(bob, "authorized_keys")
	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "the own room, without a line", stderr, code, exitDone, `^$`)

	// A relay from anna's address to bob's own room looks like this to bob's client.
	pin(t, bob, addr, anna)
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "the own identity at a pinned address", stderr, code, exitUntrusted,
		`the key of \S+ has changed: \S+known_hosts:1 pins`)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	put(t, known, []byte("[localhost]:"+port+" "+publicKeyOf(t, anna)+"\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity where localhost is pinned", stderr, code, exitUntrusted,
		`is unknown: its key is SHA256:`)
	put(t, known, []byte("@cert-authority * "+publicKeyOf(t, anna)+"\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity where a CA has a line", stderr, code, exitUntrusted,
		`is unknown: its key is SHA256:\S+, without a certificate by CA`)
	put(t, known, []byte("[127.0.0.1]:"+port+" ssh-ed25519 AAAAdamaged\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity where a line cannot be parsed", stderr, code, exitUntrusted,
		`known_hosts:1 trusts no server: .*\n(.*\n)*.*is unknown: (.*\n)*.*own identity, but a line of known_hosts names this`)
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}
	put(t, listed, []byte(`from="192.0.2.0/24" `+publicKeyOf(t, bob)+" bob\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity, limited by its line", stderr, code, exitUntrusted, `does not admit this key`)
	put(t, listed, []byte(publicKeyOf(t, bob)+" robert\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity, named by its line", stderr, code, exitDone, `^$`)
}

// TestExactLineBeforeLoose checks that a host's line without a port counts only if no line names the port.
func TestExactLineBeforeLoose(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	_, addr := serve(t, anna)
	known := filepath.Join(bob, "known_hosts")
	put(t, known, []byte("127.0.0.1 "+publicKeyOf(t, anna)+"\n"))
	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "a loose line alone", stderr, code, exitDone, `^$`)
	pin(t, bob, addr, bob)
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "with an exact line for another key", stderr, code, exitUntrusted, `has changed: \S+known_hosts:2 pins`)
}

// TestCAAndNoCertificate checks that a CA's line leaves a server without a certificate unknown, so that an invite and
// -accept-new still pin it.
func TestCAAndNoCertificate(t *testing.T) {
	anna, bob, cleo := state(t, "anna"), state(t, "bob"), state(t, "cleo")
	admit(t, anna, bob)
	_, ca := testCA(t)
	_, addr := serve(t, anna)
	for _, dir := range []string{bob, cleo} {
		put(t, filepath.Join(dir, "known_hosts"), []byte("@cert-authority * "+keyLine(ca)+"\n"))
	}
	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "unknown", stderr, code, exitUntrusted,
		`the server \S+ is unknown: its key is SHA256:\S+, without a certificate by CA SHA256:\S+ of `+
			`\S+known_hosts:1\n.*add to`)
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "-accept-new", stderr, code, exitDone, `is now pinned`)
	out, _, _ := runToEnd(t, t.TempDir(), "", "-invite", "cleo", "-dir", anna)
	t.Setenv("SECURECHAT_INVITE", strings.TrimSpace(out))
	stderr, code = sendHello(t, cleo, addr, "-join")
	wantRun(t, "an invite", stderr, code, exitDone, `is now pinned`)
	os.Unsetenv("SECURECHAT_INVITE")
	for _, dir := range []string{bob, cleo} {
		stderr, code = sendHello(t, dir, addr)
		wantRun(t, "pinned by its own line", stderr, code, exitDone, `^$`)
	}
}

// TestRevocationShapes checks through the binary that a revocation is either obeyed or makes its file unusable,
// whatever the shape of the file.
func TestRevocationShapes(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	_, otherKey := testCA(t)
	other, key := keyLine(otherKey), publicKeyOf(t, bob)
	print := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(bob, "identity.pub")))[1]
	revoked := filepath.Join(anna, "revoked_keys")
	for _, c := range []struct{ name, text, words string }{
		{"joined lines", other + " x" + key + "\n",
			`no key is trusted while \S+revoked_keys cannot be read: line 1 contains AAAA\S+, which has no effect there`},
		{"two fingerprints", "SHA256:" + strings.Repeat("A", 43) + " " + print + "\n",
			`line 1 contains SHA256:\S+, which has no effect there`},
		{"after #", "\n# " + print + "\n", `line 2 contains SHA256:\S+, which has no effect there`},
		{"after CR", "# x\r" + key + "\n", `line 1 contains AAAA\S+, which has no effect there`},
		{"after a byte order mark", other + "\n\ufeff" + key + "\n", `: revoked by revoked_keys`},
		{"after a zero-width character", "\u200b" + print + "\n", `line 1 is neither a public key nor a SHA256: fingerprint`},
		{"empty", "", `cannot be read: it is empty`},
		{"UTF-16", string(utf16Text(key + "\n")), `revoked_keys is UTF-16 text: save it as UTF-8`},
	} {
		put(t, revoked, []byte(c.text))
		stderr, code := sendHello(t, bob, addr)
		if strings.Contains(c.words, ": revoked by ") {
			wantRun(t, c.name, stderr, code, exitUntrusted, `does not admit this key`)
		} else { // The server could not decide, so it sends no refusal.
			wantRun(t, c.name, stderr, code, exitTrouble,
				`^securechat: handshake with \S+: the server closed the connection: .*\n$`)
		}
		wantRefused(t, c.name, server, c.words)
	}
	if err := os.Remove(revoked); err != nil {
		t.Fatal(err)
	}

	known, annas := filepath.Join(bob, "known_hosts"), publicKeyOf(t, anna)
	pinned := readText(t, known)
	for _, c := range []struct{ name, text, words string }{
		{"after the hosts", "* @revoked " + annas, `known_hosts:2, which may revoke a key, cannot be read`},
		{"after a byte order mark", "\ufeff@revoked * " + annas, `key SHA256:\S+ is revoked by \S+known_hosts:2`},
		{"after a zero-width character", "\u200b@revoked * " + annas,
			`known_hosts:2, which may revoke a key, cannot be read`},
		{"of a CA", "@cert-authority @revoked " + annas, `known_hosts:2, which may revoke a key, cannot be read`},
		{"joined to a line", other + "@revoked * " + annas, `known_hosts:2, which may revoke a key, cannot be read`},
	} {
		put(t, known, []byte(pinned+c.text+"\n"))
		stderr, code := sendHello(t, bob, addr, "-accept-new")
		wantRun(t, c.name, stderr, code, exitUntrusted, c.words)
	}

	cleo := state(t, "cleo")
	pin(t, cleo, addr, anna)
	put(t, filepath.Join(anna, "authorized_keys"), []byte(publicKeyOf(t, cleo)+" cleo"+key+" bob\n"))
	stderr, code := sendHello(t, cleo, addr)
	wantRun(t, "the first key of joined lines", stderr, code, exitDone, `^$`)
	wantAdmitted(t, "the first key of joined lines", server, "cleo", `^authorized_keys:1$`)
	server.err.match(t, `authorized_keys:1 admits one key and leaves out SHA256:\S+ \(bob\): put it on a line of its own`)
}

// TestAddressSpellings checks that every spelling of an address is the same address, in -connect and in known_hosts.
func TestAddressSpellings(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	_, addr := serve(t, anna)
	port := portOf(addr)
	known := filepath.Join(bob, "known_hosts")
	spellings := []string{"127.0.0.1:" + port, "127.0.0.1:0" + port, "127.0.0.1:+" + port, "[::ffff:127.0.0.1]:" + port,
		"[::FFFF:7f00:1]:000" + port}
	for _, s := range spellings {
		put(t, known, []byte("[127.0.0.1]:"+port+" "+publicKeyOf(t, anna)+"\n"))
		stderr, code := sendHello(t, bob, s)
		wantRun(t, "-connect "+s, stderr, code, exitDone, `^$`)
	}
	for _, s := range spellings {
		if !strings.HasPrefix(s, "[") {
			s = "[127.0.0.1]:" + portOf(s)
		}
		put(t, known, []byte(s+" "+publicKeyOf(t, bob)+"\n"))
		stderr, code := sendHello(t, bob, addr, "-accept-new")
		wantRun(t, "in the file: "+s, stderr, code, exitUntrusted, `has changed: \S+known_hosts:1 pins`)
		command := regexp.MustCompile(`ssh-keygen (-R .*)\n`).FindStringSubmatch(stderr + "\n")
		runTool(t, "sh", "-c", "ssh-keygen "+command[1])
		if text := readText(t, known); text != "" {
			t.Errorf("%s does not remove the line: %s", command[0], text)
		}
	}
}

// TestTakenNames checks through the binary that no command gives a name to a second key without saying so.
func TestTakenNames(t *testing.T) {
	t.Parallel()
	anna, bob, twin := state(t, "anna"), state(t, "bob"), state(t, "twin")
	admit(t, anna, bob)
	line := publicKeyOf(t, twin)
	for _, name := range []string{"bob", "B0b"} {
		_, stderr, code := runToEnd(t, t.TempDir(), line+" "+name+"\n", "-allow", "-", "-dir", anna)
		wantRun(t, "-allow", stderr, code, exitTrouble,
			`the name `+name+` already belongs to another key \(authorized_keys:1\): choose another name, or use -force`)
		_, stderr, code = runToEnd(t, t.TempDir(), "", "-invite", name, "-dir", anna)
		wantRun(t, "-invite", stderr, code, exitTrouble,
			`the name `+name+` already belongs to another key \(authorized_keys:1\)`)
	}
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-invite", "anna", "-dir", anna)
	wantRun(t, "the server's name", stderr, code, exitTrouble,
		`the name anna already belongs to another key \(the server's own key\)`)
	_, stderr, code = runToEnd(t, t.TempDir(), publicKeyOf(t, state(t, "cleo"))+" bob\n", "-allow", "-", "-force", "-dir",
		anna)
	wantRun(t, "-force", stderr, code, exitDone, `bob may join now`)
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-fingerprint", "-force", "-dir", anna)
	wantRun(t, "-force alone", stderr, code, exitUsage, `-force`)
	_, stderr, code = runToEnd(t, t.TempDir(), line+" twin\n", "-allow", "-", "-dir", anna)
	wantRun(t, "a free name", stderr, code, exitDone, `twin may join now`)

	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := makeFolder(fresh); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(fresh, "authorized_keys"), []byte(publicKeyOf(t, bob)+" bob\n"))
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-comment", "bob", "-dir", fresh)
	wantRun(t, "-keygen", stderr, code, exitTrouble, `the name bob already belongs to another key \(authorized_keys:1\)`)
	if exists(filepath.Join(fresh, "identity")) {
		t.Error("an identity was generated")
	}
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-comment", "fresh", "-dir", fresh)
	wantRun(t, "-keygen with a free name", stderr, code, exitDone, `made an identity`)
}

// TestPaperKeyElsewhere checks that -paper refuses a key that has served the default protocol by -identity, or that
// known_hosts lists.
func TestPaperKeyElsewhere(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	_, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	keys := t.TempDir()
	for _, name := range []string{"used", "locked", "pinned", "free"} {
		runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", filepath.Join(keys, name))
	}
	used, locked, pinned, free := filepath.Join(keys, "used"), filepath.Join(keys, "locked"), filepath.Join(keys,
		"pinned"), filepath.Join(keys, "free")
	for range 2 {
		sendHello(t, bob, addr, "-identity", used)
	}
	if text := readText(t, filepath.Join(bob, usedIdentities)); strings.Count(text, "\n") != 1 {
		t.Errorf("the key is recorded more than once: %q", text)
	}
	appendFile(t, filepath.Join(bob, "known_hosts"), "[192.0.2.1]:9000 "+readText(t, pinned+".pub"))
	locking := state(t, "cleo")
	put(t, filepath.Join(locking, "identity"), []byte(readText(t, locked)))
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-a", "1", "-f", filepath.Join(locking, "identity"))
	if err := os.Remove(filepath.Join(locking, "identity.pub")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, identity, peer string
		words               string
	}{
		{bob, used, free, `used: this key serves the default protocol too \(\S+used_identities\)`},
		{bob, free, used, `used\.pub: this key serves the default protocol too \(\S+used_identities\)`},
		{bob, pinned, free, `pinned: this key serves the default protocol too \(\S+known_hosts:2\)`},
		{bob, free, pinned, `pinned\.pub: this key serves the default protocol too \(\S+known_hosts:2\)`},
		{locking, locked, free, `locked: this key serves the default protocol too \(\S+identity\)`},
	} {
		_, stderr, code := runToEnd(t, t.TempDir(), "", "-paper", "-connect", "127.0.0.1:1", "-dir", c.dir, "-identity",
			c.identity, "-peer", c.peer+".pub")
		wantRun(t, c.identity, stderr, code, exitTrouble, c.words)
	}
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-paper", "-connect", "127.0.0.1:1", "-dir", anna, "-identity", used,
		"-peer", free+".pub")
	wantRun(t, "with another state folder", stderr, code, exitTrouble, `connection was refused`)
}

// TestRevocationReachesSessions: a client or a server that is no longer trusted loses its session within seconds: its
// line is gone, its key is revoked, or its admission has expired. No later line is sent to a key that was
// expelled, also after it is admitted again.
func TestRevocationReachesSessions(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	log := filepath.Join(server.cmd.Dir, "connection.log")
	list := filepath.Join(anna, "authorized_keys")
	join := func(name string, args ...string) (*proc, string) {
		dir := guest(t, anna, addr, name)
		p := start(t, t.TempDir(), append([]string{"-connect", addr, "-dir", dir, "-stay"}, args...)...)
		server.err.match(t, `(?m)^\* `+name+` joined`)
		return p, dir
	}
	wantExpelled := func(p *proc, name string) {
		t.Helper()
		p.err.match(t, `the key is no longer admitted`)
		server.err.match(t, `(?m)^\* `+name+` left: the key is no longer admitted`)
		if code := p.wait(); code != exitTrouble {
			t.Errorf("%s: exit %d", name, code)
		}
		all := records(t, log)
		last := all[len(all)-1]
		if last["event"] != eventDisconnect || last["reason"] != reasonNotAdmitted || last["name"] != name {
			t.Errorf("%s: the log has %v", name, last)
		}
	}

	bob, _ := join("bob")
	put(t, list, []byte(regexp.MustCompile(`(?m)^.* bob\n`).ReplaceAllString(readText(t, list), "")))
	wantExpelled(bob, "bob")

	cleo, cleoDir := join("cleo")
	put(t, filepath.Join(anna, "revoked_keys"), []byte(readText(t, filepath.Join(cleoDir, "identity.pub"))))
	wantExpelled(cleo, "cleo")
	put(t, filepath.Join(anna, "revoked_keys"), []byte("rubbish\n"))
	server.err.match(t, `(?m)^securechat: no key is trusted while \S+revoked_keys cannot be read: line 1`)
	put(t, filepath.Join(anna, "revoked_keys"), []byte("# none\n"))

	dora, _ := join("dora")
	until := time.Now().UTC().Add(3 * time.Second).Format("20060102150405Z")
	expiring := regexp.MustCompile(`(?m)^(.* dora)$`).ReplaceAllString(readText(t, list), `expiry-time="`+until+`" $1`)
	put(t, list, []byte(expiring))
	wantExpelled(dora, "dora")

	emil, emilDir := join("emil", "-reconnect")
	appendFile(t, filepath.Join(emilDir, "known_hosts"), "@revoked * "+readText(t, filepath.Join(anna, "identity.pub")))
	if code := emil.wait(); code != exitUntrusted || !strings.Contains(emil.err.String(), "revoked by") {
		t.Errorf("a revoked server: exit %d, %s", code, emil.err)
	}
}

// TestRevocationReachesRawSessions does the same for -raw: the server ends the session of a client that it no longer
// admits, with the reason, and a client that of a server that it no longer trusts. No later byte is written.
func TestRevocationReachesRawSessions(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	key := publicKeyOf(t, bob) + " bob\n"
	list, known := filepath.Join(anna, "authorized_keys"), filepath.Join(bob, "known_hosts")
	for _, c := range []struct {
		name           string
		revoke         func()
		client, server int
		clientErr      string
		serverErr      string
	}{
		{"its line is gone", func() { put(t, list, nil) }, exitLost, exitUntrusted,
			`not all has arrived: the other side gave up: the key is no longer admitted; `,
			`bob has to leave: key SHA256:\S+ is not in (.*\n)*securechat: not all has arrived: key SHA256:\S+ is not in`},
		{"its line expires", func() {
			until := time.Now().UTC().Add(2 * time.Second).Format("20060102150405Z")
			put(t, list, []byte(`expiry-time="`+until+`" `+key))
		}, exitLost, exitUntrusted, `the key is no longer admitted`, `authorized_keys:1 expired at`},
		{"the server's key is revoked", func() { appendFile(t, known, "@revoked * "+publicKeyOf(t, anna)+"\n") },
			exitUntrusted, exitLost, `not all has arrived: key SHA256:\S+ is revoked by \S+known_hosts:2`,
			`the connection ended without secure-close|the other side ended the connection`},
	} {
		put(t, list, []byte(key))
		server := start(t, t.TempDir(), "-raw", "-listen", "127.0.0.1:0", "-dir", anna)
		addr := server.err.match(t, `waiting for one client on (127\.0\.0\.1:\d+)`)[1]
		put(t, known, nil)
		pin(t, bob, addr, anna)
		client := start(t, t.TempDir(), "-raw", "-connect", addr, "-dir", bob)
		client.send("before")
		server.out.match(t, `^before$`)
		c.revoke()
		code := client.wait()
		wantRun(t, c.name+": the client", client.err.String(), code, c.client, c.clientErr)
		code = server.wait()
		wantRun(t, c.name+": the server", server.err.String(), code, c.server, c.serverErr)
	}
}

// TestRevocationReachesPaperSessions does the same for -paper, whose keys must be neither revoked nor keys of the
// default protocol.
func TestRevocationReachesPaperSessions(t *testing.T) {
	t.Parallel()
	anna, bob, keys := closedDir(t), closedDir(t), t.TempDir()
	at := func(name string) string { return filepath.Join(keys, name) }
	for _, name := range []string{"s", "c"} {
		runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM", "-f", at(name))
	}
	server := start(t, t.TempDir(), "-paper", "-listen", "127.0.0.1:0", "-dir", anna, "-identity", at("s"), "-peer",
		at("c.pub"))
	addr := server.err.match(t, `room open on (127\.0\.0\.1:\d+)`)[1]
	call := []string{"-paper", "-connect", addr, "-dir", bob, "-identity", at("c"), "-peer", at("s.pub"), "-stay"}
	for _, c := range []struct {
		list, key string
		code      int
		words     string // of the side that has the list
	}{
		{filepath.Join(anna, "revoked_keys"), "c.pub", exitLost, `c has to leave: key SHA256:\S+: revoked by revoked_keys`},
		{filepath.Join(anna, "authorized_keys"), "c.pub", exitLost,
			`c has to leave: this key serves the default protocol too \(\S+authorized_keys:1\)`},
		{filepath.Join(bob, "revoked_keys"), "s.pub", exitUntrusted, `key SHA256:\S+: revoked by revoked_keys`},
	} {
		client := start(t, t.TempDir(), call...)
		client.send("hello\n")
		server.out.match(t, `c: hello\n`)
		put(t, c.list, []byte(readText(t, at(c.key))))
		code := client.wait()
		wantRun(t, c.list, client.err.String(), code, c.code, ``)
		if c.code == exitUntrusted {
			client.err.match(t, c.words)
		} else {
			server.err.match(t, c.words)
		}
		_, stderr, code := runToEnd(t, t.TempDir(), "", call...)
		if code == exitDone {
			t.Errorf("%s: the next time: %s", c.list, stderr)
		}
		if err := os.Remove(c.list); err != nil {
			t.Fatal(err)
		}
		server.out.mu.Lock()
		server.out.buf.Reset()
		server.out.mu.Unlock()
	}
}
