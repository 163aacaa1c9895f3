package main

// Black-box tests of questions and commands at a terminal.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// atTerminal runs securechat at a terminal of its own.
func atTerminal(t *testing.T, args ...string) (*proc, *screen) {
	t.Helper()
	s := newScreen(t, 200)
	p := &proc{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+p.cmd.Dir, "TERM=xterm", "NO_COLOR=1", "SECURECHAT_DIR=", "XDG_CONFIG_HOME=")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = s.slave, s.slave, s.slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended })
	return p, s
}

// sees waits until the output contains a pattern, and returns the last match.
func (s *screen) sees(pattern string) []string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	var all [][]string
	s.wait(pattern, func(output string) bool { all = re.FindAllStringSubmatch(output, -1); return all != nil })
	return all[len(all)-1]
}

// ends waits for the process to end and checks its exit code.
func ends(t *testing.T, p *proc, s *screen, want int) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		s.mu.Lock()
		defer s.mu.Unlock()
		t.Fatalf("securechat did not end: %q", s.raw)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != want {
		s.mu.Lock()
		defer s.mu.Unlock()
		t.Errorf("exit %d, want %d: %q", code, want, s.raw)
	}
}

// TestFirstContact answers the question about an unknown server with yes, no and fingerprints.
func TestFirstContact(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server, addr := serve(t, anna)
	print := server.err.match(t, `key (SHA256:\S+)`)[1]
	known := filepath.Join(bob, "known_hosts")
	other := "SHA256:" + strings.Repeat("A", 43)
	const question, again = `Trust it\? \(yes / no / paste the fingerprint\)`, `Please type yes, no, or the fingerprint:`
	for _, c := range []struct {
		name    string
		answers []string
		code    int
		prints  string
	}{
		{"yes", []string{"yes"}, exitDone, `joined 127\.0\.0\.1:\d+ as bob`},
		{"no", []string{"no"}, exitUntrusted, `securechat: 127\.0\.0\.1:\d+ was not trusted`},
		{"the fingerprint", []string{print}, exitDone, `joined`},
		{"ssh-keygen's line", []string{"256 " + print + " anna (ED25519)"}, exitDone, `joined`},
		{"another fingerprint", []string{other}, exitUntrusted, `securechat: the key of 127\.0\.0\.1:\d+ is SHA256:\S+, not the one you expect\r\nsecurechat: hint: someone may be in the middle`},
		{"nonsense, then yes", []string{"well", "", "y", "yes"}, exitDone, `joined`},
		{"Ctrl-C", []string{"\x03"}, exitUntrusted, `was not trusted`},
		{"Ctrl-D", []string{"\x04"}, exitUntrusted, `was not trusted`},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(known)
			p, s := atTerminal(t, "-connect", addr, "-dir", bob)
			s.sees(`(?s)The server 127\.0\.0\.1:\d+ is unknown here\. Its key is.*ssh-ed25519 ` + regexp.QuoteMeta(print))
			s.sees(question)
			for i, a := range c.answers {
				if i > 0 {
					s.wait("another question", func(output string) bool { return strings.Count(output, "\x1b[?7l"+again) >= i })
				}
				if a != "\x03" && a != "\x04" {
					a += "\r"
				}
				s.send(a)
			}
			s.sees(c.prints)
			if c.code == exitDone {
				s.send("\r")
			}
			ends(t, p, s, c.code)
			if exists(known) != (c.code == exitDone) {
				t.Error("known_hosts does not follow the answer")
			}
			if c.code == exitDone {
				stderr, code := tell(t, bob, addr)
				wantRun(t, "the next time", stderr, code, exitDone, `^$`)
			}
		})
	}

	put(t, known, []byte("[127.0.0.1]:"+portOf(addr)+" "+publicKeyOf(t, bob)+"\n"))
	p, s := atTerminal(t, "-connect", addr, "-dir", bob)
	s.sees(`has changed: \S+known_hosts:1 pins`)
	ends(t, p, s, exitUntrusted)
	if s.mu.Lock(); strings.Contains(string(s.raw), "Trust it?") {
		t.Error("the client asks about a changed key")
	}
	s.mu.Unlock()
}

// TestOperator uses /invite and /allow at the server's prompt. The guest types the code, which is not shown.
func TestOperator(t *testing.T) {
	anna, bob, cleo, dora, emil := state(t, "anna"), state(t, "bob"), state(t, "cleo"), state(t, "dora"), state(t, "emil")
	server, op := atTerminal(t, "-listen", "127.0.0.1:0", "-dir", anna)
	addr := op.sees(`room open on (127\.0\.0\.1:\d+)`)[1]

	op.send("/invite bob\r")
	code := op.sees(`  ([A-Z2-7]{6}-[A-Z2-7-]+)\r`)[1]
	p, s := atTerminal(t, "-connect", addr, "-dir", bob, "-join")
	s.sees(`Invite code: `)
	s.send(code[:len(code)-2] + "\r")
	s.sees(`the invite code has a typing error or is incomplete: copy all of it again`)
	s.send(code + "\r")
	s.sees(`joined 127\.0\.0\.1:\d+ as bob`)
	s.send("hello all\r")
	op.sees(`bob\S*: hello all`)
	if s.mu.Lock(); strings.Contains(string(s.raw), code[:13]) {
		t.Error("the code is shown where it is typed")
	}
	s.mu.Unlock()
	if strings.Contains(readText(t, filepath.Join(server.cmd.Dir, "connection.log")), code[:13]) {
		t.Error("the code is in the log")
	}
	s.send("/quit\r")
	ends(t, p, s, exitDone)
	wantAdmitted(t, "/invite", server, "bob", `^invite, now authorized_keys:1$`)
	stderr, exit := tell(t, bob, addr)
	wantRun(t, "the second time", stderr, exit, exitDone, `^$`)

	op.send("/invite two words\r")
	op.sees(`"two words" is no name: letters`)
	op.send("/allow\r")
	op.sees(`no unknown key has been refused since the start`)
	pin(t, cleo, addr, anna)
	pin(t, dora, addr, anna)
	stderr, exit = tell(t, cleo, addr)
	wantRun(t, "a stranger", stderr, exit, exitUntrusted, `without letting us in; its log says why\n.*have this line added to its authorized_keys: ssh-ed25519 `)
	op.sees(`refused 127\.0\.0\.1:\d+, SHA256:\S+: key SHA256:\S+ is not in \S+authorized_keys`)
	op.sees(`hint: or type /allow NAME`)
	op.send("/allow cleo\r")
	op.sees(`cleo may join now \(` + regexp.QuoteMeta(strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(cleo, "identity.pub")))[1]) + `, authorized_keys:2\)`)
	stderr, exit = tell(t, cleo, addr)
	wantRun(t, "allowed", stderr, exit, exitDone, `^$`)
	wantAdmitted(t, "/allow", server, "cleo", `^authorized_keys:2$`)
	allowed := 0
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventAllow && r["name"] == "cleo" && r["by"] == "authorized_keys:2" {
			allowed++
		}
	}
	if allowed != 1 {
		t.Errorf("%d records of /allow", allowed)
	}

	// If two unknown keys have been refused, /allow needs a fingerprint.
	pin(t, emil, addr, anna)
	for _, dir := range []string{dora, emil} {
		if _, exit := tell(t, dir, addr); exit != exitUntrusted {
			t.Errorf("a stranger: exit %d", exit)
		}
		key := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(dir, "identity.pub")))[1]
		op.sees(`refused \S+, ` + regexp.QuoteMeta(key)) // the client may receive the refusal before the operator does
	}
	op.send("/allow dora\r")
	op.sees(`several unknown keys have been refused: say which, as /allow NAME SHA256:…\r\n.*  SHA256:\S+\r\n.*  SHA256:\S+`)
	print := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(dora, "identity.pub")))[1]
	op.send("/allow dora SHA256:x\r")
	op.sees(`that is none of the keys refused lately, which are\r\n.*  SHA256:`)
	op.send("/allow dora " + print + "\r")
	op.sees(`dora may join now \(` + regexp.QuoteMeta(print) + `, authorized_keys:3\)`)
	if _, exit := tell(t, emil, addr); exit != exitUntrusted {
		t.Errorf("the other stranger: exit %d", exit)
	}
	op.send("/quit\r")
	ends(t, server, op, exitDone)

	p, s = atTerminal(t, "-connect", addr, "-dir", bob, "-join")
	for i := range 3 {
		s.wait("a question", func(output string) bool { return strings.Count(output, "typing error") == i })
		s.sees(`Invite code: `)
		s.send("nonsense\r")
	}
	s.sees(`no valid invite code in three attempts`)
	ends(t, p, s, exitUsage)
}

// TestPassphraseAtTerminal checks that a passphrase is asked for three times at most and never shown.
func TestPassphraseAtTerminal(t *testing.T) {
	anna := state(t, "anna")
	path := filepath.Join(anna, "identity")
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", path)
	p, s := atTerminal(t, "-fingerprint", "-dir", anna)
	s.sees(`Passphrase for \S+identity: `)
	s.send("open barley\r")
	s.wait("a second question", func(output string) bool { return strings.Count(output, "Passphrase for") >= 2 })
	s.send("open sesame\r")
	s.sees(`SHA256:\S+ anna\r\n`)
	ends(t, p, s, exitDone)
	if s.mu.Lock(); strings.Contains(string(s.raw), "sesame") || strings.Contains(string(s.raw), "barley") {
		t.Error("the passphrase is shown")
	}
	s.mu.Unlock()

	p, s = atTerminal(t, "-fingerprint", "-dir", anna)
	for i := range 3 {
		s.wait("a question", func(output string) bool { return strings.Count(output, "Passphrase for") >= 2*i+1 })
		s.send("x\r")
	}
	s.sees(`none of three passphrases opens \S+identity`)
	ends(t, p, s, exitTrouble)
}

// TestAllowAtTerminal checks that -allow - at a terminal reads a pasted line until Ctrl-D.
func TestAllowAtTerminal(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	p, s := atTerminal(t, "-allow", "-", "-dir", anna)
	s.sees(`paste the public key line, then press Enter and Ctrl-D`)
	s.send(readText(t, filepath.Join(bob, "identity.pub")) + "\x04")
	s.sees(`bob may join now`)
	ends(t, p, s, exitDone)
	p, s = atTerminal(t, "-keygen", "-dir", anna)
	s.sees(fmt.Sprintf(`%s anna\r\nSHA256:\S+\r\n`, regexp.QuoteMeta(publicKeyOf(t, anna))))
	ends(t, p, s, exitDone)
}

// TestAmbiguousName checks that /msg with an ambiguous name is refused with the choices.
func TestAmbiguousName(t *testing.T) {
	anna, bob, alike := state(t, "anna"), state(t, "bob"), state(t, "alike")
	put(t, filepath.Join(anna, "authorized_keys"), []byte(publicKeyOf(t, bob)+" bob\n"+publicKeyOf(t, alike)+" B0b\n"))
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	pin(t, alike, addr, anna)
	first := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	server.err.match(t, `bob joined`)
	second := start(t, t.TempDir(), "-connect", addr, "-dir", alike)
	suffix := server.err.match(t, `B0b~([0-9a-f]{8}) joined`)[1]
	p, s := atTerminal(t, "-connect", addr, "-dir", anna)
	s.sees(`joined \S+ as anna`)
	s.send("/msg bob for one of you\r")
	choice := s.sees(`bob is ambiguous: say which, B0b~` + suffix + ` or (bob~[0-9a-f]{8}); what you sent is in the log only`)[1]
	s.send("/msg " + choice + " for bob\r")
	s.send("/msg B0b~" + suffix + " for the other\r")
	first.out.match(t, `(?m)^anna \(to you\): for bob$`)
	second.out.match(t, `(?m)^anna \(to you\): for the other$`)
	first.stdin.Close()
	if code := first.wait(); code != exitDone {
		t.Errorf("bob: exit %d", code)
	}
	s.sees(`\* bob left`)
	s.send("/msg bob where are you\r")
	s.sees(`nobody here is called bob; B0b~` + suffix + ` is here`)
	s.send("\r")
	ends(t, p, s, exitDone)
	if out := first.out.String() + second.out.String(); strings.Contains(out, "one of you") || strings.Contains(out, "where are you") {
		t.Errorf("a message without a receiver was delivered: %q", out)
	}
}
