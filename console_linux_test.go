package main

// The program at terminals: real processes, each on its own pseudo-terminal, from the question about an unknown key to
// the last line of the chat.

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startAtTerminal starts securechat with a terminal of its own. env is one more variable of its environment, or empty.
func startAtTerminal(t *testing.T, columns int, env string, args ...string) (*screen, *proc) {
	t.Helper()
	s := newScreen(t, columns)
	p := &proc{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+p.cmd.Dir, "SECURECHAT_DIR=", "XDG_CONFIG_HOME=",
		"TERM=xterm", "NO_COLOR=1", "TZ=UTC")
	if env != "" {
		p.cmd.Env = append(p.cmd.Env, env)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = s.slave, s.slave, s.slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended })
	return s, p
}

// waitText waits until the screen's output contains text.
func (s *screen) waitText(text string) {
	s.t.Helper()
	s.wait(text, func(output string) bool { return strings.Contains(output, text) })
}

// waitExit waits for p to exit with code, and checks that the terminal is as it was: echo, line mode, no paste marks.
func (s *screen) waitExit(p *proc, code int) {
	s.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Fatalf("securechat did not end: %q", s.raw)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		s.mu.Lock()
		s.t.Errorf("exit %d, want %d: %q", got, code, s.raw)
		s.mu.Unlock()
	}
	state, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	if state.Lflag&unix.ECHO == 0 || state.Lflag&unix.ICANON == 0 || state.Oflag&unix.OPOST == 0 {
		s.t.Errorf("the terminal is left raw: %+v", state)
	}
	s.wait("the end of marked pastes", func(out string) bool {
		return strings.LastIndex(out, pasteOff) >= strings.LastIndex(out, pasteOn)
	})
}

// TestConversation: three people at terminals type lines, commands and a paste, see each other's lines and a kick, and
// leave in every way.
func TestConversation(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	operator, server := startAtTerminal(t, 60, "", "-listen", "127.0.0.1:0", "-dir", anna, "-json=false")
	var addr string
	operator.wait("an address", func(out string) bool {
		_, rest, found := strings.Cut(out, "room open on ")
		addr, _, _ = strings.Cut(rest, " ")
		return found && strings.Contains(rest, " ")
	})
	bobDir, cleoDir := guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	bob, bobCmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", bobDir)
	bob.waitText("bob> ")
	cleo, cleoCmd := startAtTerminal(t, 60, "NO_COLOR=", "-connect", addr, "-dir", cleoDir)
	cleo.waitText("joined " + addr)
	bob.waitText("* cleo joined")

	bob.send("Καλημέρα 中文 👩\u200d👩\u200d👧\r")
	cleo.waitText(nameColor("bob") + "bob" + colorOff + ": Καλημέρα 中文 👩\u200d👩\u200d👧")
	operator.waitText("bob: Καλημέρα")
	operator.send("morning\r")
	bob.waitText("anna: morning")
	bob.send("/me waves\r")
	cleo.waitText("waves")
	bob.send("/who\r")
	bob.waitText("* 3 here: anna, bob, cleo")
	cleo.send("/ms\tbo\tpsst\r")
	bob.waitText("cleo (to you): psst")
	bob.waitText("\a")
	bob.send("a" + pasteMark("one\r\r/quit\r") + "\r")
	cleo.waitText(": /quit")
	cleo.waitText(": aone")
	bob.send("still here\r") // The Enter in the paste did not end the session.
	cleo.waitText(": still here")

	bob.mu.Lock()
	out := string(bob.raw)
	bob.mu.Unlock()
	if strings.Contains(out, "bob: Καλημέρα") {
		t.Error("bob sees his own line twice")
	}
	operator.mu.Lock()
	out = string(operator.raw)
	operator.mu.Unlock()
	if strings.Contains(out, "psst") {
		t.Error("the operator sees what was for bob alone")
	}

	operator.send("/kick bob\r")
	bob.waitText("removed by the operator")
	bob.waitExit(bobCmd, exitTrouble)
	operator.waitText("bob left: removed by the operator")
	operator.send("\r/who\r") // an empty line is nothing to an operator
	operator.waitText("* 2 here: anna, cleo")
	operator.send("missed\r")
	cleo.waitText(": missed")

	for _, c := range []struct {
		keys string
		code int
	}{{"\r", exitDone}, {"\x04", exitDone}, {"\x03", exitDone}, {"/quit\r", exitDone}} {
		again, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", bobDir, "-nobell")
		again.waitText("bob> ")
		if c.keys == "\r" {
			again.waitText("1 said while you were away:")
			again.wait("a dated line", func(out string) bool { return matches(`\d{4}-\d\d-\d\d \d\d:\d\d anna: missed`, out) })
		}
		again.send(c.keys)
		again.waitExit(cmd, c.code)
	}
	dumb, cmd := startAtTerminal(t, 60, "TERM=dumb", "-connect", addr, "-dir", bobDir, "-nobell")
	dumb.waitText("bob> ")
	operator.send("/msg bob hush\r")
	dumb.waitText("anna (to you): hush")
	dumb.send("\n")
	dumb.waitExit(cmd, exitDone)
	dumb.mu.Lock()
	if out := string(dumb.raw); strings.ContainsAny(out, "\a\x1b") {
		t.Errorf("a dumb terminal got %q", out)
	}
	dumb.mu.Unlock()

	once, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", bobDir, "-reconnect=false")
	once.waitText("bob> ")
	server.cmd.Process.Kill() // The connection is lost.
	once.waitExit(cmd, exitLost)
	cleo.waitText("connecting again")
	cleo.send("\x03")
	cleo.waitExit(cleoCmd, exitTrouble)
}

func pasteMark(text string) string { return pasteStart + text + pasteEnd }

// TestOperatorLeaves closes the room from its terminal with each key that does.
func TestOperatorLeaves(t *testing.T) {
	anna := state(t, "anna")
	for _, keys := range []string{"\x03", "\x04", "/quit\r"} {
		operator, server := startAtTerminal(t, 60, "", "-listen", "127.0.0.1:0", "-dir", anna)
		operator.waitText("anna> ")
		operator.send(keys)
		operator.waitExit(server, exitDone)
	}
}

// TestFirstConnectRetries: with -reconnect, the client at a terminal waits for a server that is not running yet, and
// prints its name and the server's after the connection.
func TestFirstConnectRetries(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	addr := freeAddr(t)
	person, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", anna, "-reconnect")
	person.waitText("connecting again")
	start(t, t.TempDir(), "-listen", addr, "-dir", anna)
	person.waitText("joined " + addr + " as anna;")
	person.waitText("connected to " + addr)
	person.wait("one greeting", func(out string) bool { return strings.Count(out, "joined") == 1 })
	person.send("\r")
	person.waitExit(cmd, exitDone)
}

// TestTypedTo: with -to every typed line is for one receiver alone, and /me, which is for all, is not sent.
func TestTypedTo(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	bob, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", guest(t, anna, addr, "bob"), "-to", "anna")
	bob.waitText("bob> ")
	bob.send("psst\r")
	bob.send("/me waves\r")
	bob.waitText("not sent: /me goes to everyone, and with -to every line is for anna alone")
	bob.send("a" + pasteMark("one\r") + "\r")
	bob.send("/quit\r")
	bob.waitExit(cmd, exitDone)
	var got []string
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventMessage {
			got = append(got, recordField(r, "message")+" to "+recordField(r, "to"))
		}
	}
	if want := []string{"psst to anna", "aone to anna"}; !slices.Equal(got, want) {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

// TestInterruptWhileConnecting: Ctrl-C at a terminal ends a client at once while its server does not answer: in the
// first connection, and in the one after the question about an unknown server.
func TestInterruptWhileConnecting(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	_, server := serve(t, anna)
	for _, c := range []struct {
		answered int // connections that reach the server
		flag     string
		env      string // TERM=dumb: the terminal is not in raw mode, so Ctrl-C is a signal
	}{{0, "-reconnect=false", ""}, {0, "-reconnect", ""}, {0, "-reconnect", "TERM=dumb"}, {1, "-reconnect", ""}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		person, cmd := startAtTerminal(t, 60, c.env, "-connect", l.Addr().String(), "-dir", state(t, "bob"), c.flag)
		for range c.answered {
			here, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			there, err := net.Dial("tcp", server)
			if err != nil {
				t.Fatal(err)
			}
			go func() { io.Copy(here, there); here.Close() }()
			go func() { io.Copy(there, here); there.Close() }()
			person.waitText("Trust it?")
			person.send("yes\r")
		}
		silent, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		person.send("\x03")
		person.waitText("left while there was no connection")
		person.waitExit(cmd, exitTrouble)
	}
}

// match waits until the output matches a pattern, and returns the last match.
func (s *screen) match(pattern string) []string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	var all [][]string
	s.wait(pattern, func(output string) bool { all = re.FindAllStringSubmatch(output, -1); return all != nil })
	return all[len(all)-1]
}

// TestFirstContact answers the question about an unknown server with yes, with no and with fingerprints.
func TestFirstContact(t *testing.T) {
	t.Parallel()
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
		{"another fingerprint", []string{other}, exitUntrusted,
			`securechat: the key of 127\.0\.0\.1:\d+ is SHA256:\S+, not the one you expect\r\nsecurechat: hint: someone may ` +
				`be in the middle`},
		{"nonsense, then yes", []string{"well", "", "y", "yes"}, exitDone, `joined`},
		{"Ctrl-C", []string{"\x03"}, exitUntrusted, `was not trusted`},
		{"Ctrl-D", []string{"\x04"}, exitUntrusted, `was not trusted`},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(known)
			s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob)
			s.match(`(?s)The server 127\.0\.0\.1:\d+ is unknown here\. Its key is.*ssh-ed25519 ` + regexp.QuoteMeta(print))
			s.match(question)
			for i, a := range c.answers {
				if i > 0 {
					s.wait("another question", func(output string) bool { return strings.Count(output, "\x1b[?7l"+again) >= i })
				}
				if a != "\x03" && a != "\x04" {
					a += "\r"
				}
				s.send(a)
			}
			s.match(c.prints)
			if c.code == exitDone {
				s.send("\r")
			}
			s.waitExit(p, c.code)
			if exists(known) != (c.code == exitDone) {
				t.Error("known_hosts does not follow the answer")
			}
			if c.code == exitDone {
				stderr, code := sendHello(t, bob, addr)
				wantRun(t, "the next time", stderr, code, exitDone, `^$`)
			}
		})
	}

	put(t, known, []byte("[127.0.0.1]:"+portOf(addr)+" "+publicKeyOf(t, bob)+"\n"))
	s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob)
	s.match(`has changed: \S+known_hosts:1 pins`)
	s.waitExit(p, exitUntrusted)
	if s.mu.Lock(); strings.Contains(string(s.raw), "Trust it?") {
		t.Error("the client asks about a changed key")
	}
	s.mu.Unlock()
}

// TestOperator uses /invite and /allow at the server's prompt. The guest types the code, which is not shown.
func TestOperator(t *testing.T) {
	t.Parallel()
	anna, bob, cleo, dora, emil := state(t, "anna"), state(t, "bob"), state(t, "cleo"), state(t, "dora"), state(t, "emil")
	op, server := startAtTerminal(t, 200, "", "-listen", "127.0.0.1:0", "-dir", anna)
	addr := op.match(`room open on (127\.0\.0\.1:\d+)`)[1]

	op.send("/invite bob\r")
	code := op.match(`  ([A-Z2-7]{6}-[A-Z2-7-]+)\r`)[1]
	s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob, "-join")
	s.match(`Invite code: `)
	s.send(code[:len(code)-2] + "\r")
	s.match(`the invite code has a typing error or is incomplete: copy all of it again`)
	s.send(code + "\r")
	s.match(`joined 127\.0\.0\.1:\d+ as bob`)
	s.send("hello all\r")
	op.match(`bob\S*: hello all`)
	if s.mu.Lock(); strings.Contains(string(s.raw), code[:13]) {
		t.Error("the code is shown where it is typed")
	}
	s.mu.Unlock()
	if strings.Contains(readText(t, filepath.Join(server.cmd.Dir, "connection.log")), code[:13]) {
		t.Error("the code is in the log")
	}
	s.send("/quit\r")
	s.waitExit(p, exitDone)
	wantAdmitted(t, "/invite", server, "bob", `^invite, now authorized_keys:1$`)
	stderr, exit := sendHello(t, bob, addr)
	wantRun(t, "the second time", stderr, exit, exitDone, `^$`)

	op.send("/invite two words\r")
	op.match(`"two words" is no name: letters`)
	op.send("/allow\r")
	op.match(`no unknown key has been refused since the start`)
	pin(t, cleo, addr, anna)
	pin(t, dora, addr, anna)
	stderr, exit = sendHello(t, cleo, addr)
	wantRun(t, "a stranger", stderr, exit, exitUntrusted,
		`does not admit this key; its log says why\n.*have this line added to its authorized_keys: ssh-ed25519 `)
	op.match(`refused 127\.0\.0\.1:\d+, SHA256:\S+: key SHA256:\S+ is not in \S+authorized_keys`)
	op.match(`hint: or type /allow NAME`)
	op.send("/allow cleo\r")
	op.match(`cleo may join now \(` +
		regexp.QuoteMeta(strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(cleo, "identity.pub")))[1]) +
		`, authorized_keys:2\)`)
	stderr, exit = sendHello(t, cleo, addr)
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
		if _, exit := sendHello(t, dir, addr); exit != exitUntrusted {
			t.Errorf("a stranger: exit %d", exit)
		}
		key := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(dir, "identity.pub")))[1]
		// The client may receive the refusal before the operator's line appears.
		op.match(`refused \S+, ` + regexp.QuoteMeta(key))
	}
	op.send("/allow dora\r")
	op.match(`several unknown keys have been refused: say which, as /allow NAME SHA256:…\r\n.*  SHA256:\S+\r\n.*  ` +
		`SHA256:\S+`)
	print := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(dora, "identity.pub")))[1]
	op.send("/allow dora SHA256:x\r")
	op.match(`that is none of the keys refused lately, which are\r\n.*  SHA256:`)
	op.send("/allow dora " + print + "\r")
	op.match(`dora may join now \(` + regexp.QuoteMeta(print) + `, authorized_keys:3\)`)
	if _, exit := sendHello(t, emil, addr); exit != exitUntrusted {
		t.Errorf("the other stranger: exit %d", exit)
	}
	op.send("/quit\r")
	op.waitExit(server, exitDone)

	s, p = startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob, "-join")
	for i := range 3 {
		s.wait("a question", func(output string) bool { return strings.Count(output, "typing error") == i })
		s.match(`Invite code: `)
		s.send("nonsense\r")
	}
	s.match(`no valid invite code in three attempts`)
	s.waitExit(p, exitUsage)
}

// TestPassphraseAtTerminal checks that a passphrase is asked for three times at most and never shown.
func TestPassphraseAtTerminal(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	path := filepath.Join(anna, "identity")
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", path)
	s, p := startAtTerminal(t, 200, "", "-fingerprint", "-dir", anna)
	s.match(`Passphrase for \S+identity: `)
	s.send("open barley\r")
	s.wait("a second question", func(output string) bool { return strings.Count(output, "Passphrase for") >= 2 })
	s.send("open sesame\r")
	s.match(`SHA256:\S+ anna\r\n`)
	s.waitExit(p, exitDone)
	if s.mu.Lock(); strings.Contains(string(s.raw), "sesame") || strings.Contains(string(s.raw), "barley") {
		t.Error("the passphrase is shown")
	}
	s.mu.Unlock()

	s, p = startAtTerminal(t, 200, "", "-fingerprint", "-dir", anna)
	for i := range 3 {
		s.wait("a question", func(output string) bool { return strings.Count(output, "Passphrase for") >= 2*i+1 })
		s.send("x\r")
	}
	s.match(`none of three passphrases opens \S+identity`)
	s.waitExit(p, exitTrouble)
}

// TestAllowAtTerminal checks that -allow - at a terminal reads a pasted line until Ctrl-D.
func TestAllowAtTerminal(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	s, p := startAtTerminal(t, 200, "", "-allow", "-", "-dir", anna)
	s.match(`paste the public key line, then press Enter and Ctrl-D`)
	s.send(readText(t, filepath.Join(bob, "identity.pub")) + "\x04")
	s.match(`bob may join now`)
	s.waitExit(p, exitDone)
	s, p = startAtTerminal(t, 200, "", "-keygen", "-dir", anna)
	s.match(fmt.Sprintf(`%s anna\r\nSHA256:\S+\r\n`, regexp.QuoteMeta(publicKeyOf(t, anna))))
	s.waitExit(p, exitDone)
}

// TestAmbiguousName checks that /msg with an ambiguous name is refused with the choices.
func TestAmbiguousName(t *testing.T) {
	t.Parallel()
	anna, bob, alike := state(t, "anna"), state(t, "bob"), state(t, "alike")
	put(t, filepath.Join(anna, "authorized_keys"), []byte(publicKeyOf(t, bob)+" bob\n"+publicKeyOf(t, alike)+" B0b\n"))
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	pin(t, alike, addr, anna)
	first := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	server.err.match(t, `bob joined`)
	second := start(t, t.TempDir(), "-connect", addr, "-dir", alike)
	suffix := server.err.match(t, `B0b~([0-9a-f]{8}) joined`)[1]
	s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", anna)
	s.match(`joined \S+ as anna`)
	s.send("/msg bob for one of you\r")
	choice := s.match(`bob is ambiguous: say which, B0b~` + suffix +
		` or (bob~[0-9a-f]{8}); what you sent is in the log only`)[1]
	s.send("/msg " + choice + " for bob\r")
	s.send("/msg B0b~" + suffix + " for the other\r")
	first.out.match(t, `(?m)^anna \(to you\): for bob$`)
	second.out.match(t, `(?m)^anna \(to you\): for the other$`)
	first.stdin.Close()
	if code := first.wait(); code != exitDone {
		t.Errorf("bob: exit %d", code)
	}
	s.match(`\* bob left`)
	s.send("/msg bob where are you\r")
	s.match(`nobody here is called bob; B0b~` + suffix + ` is here`)
	s.send("\r")
	s.waitExit(p, exitDone)
	if out := first.out.String() + second.out.String(); strings.Contains(out, "one of you") ||
		strings.Contains(out, "where are you") {
		t.Errorf("a message without a receiver was delivered: %q", out)
	}
}

// TestPaperProgramTerminal: with -paper at a terminal, Enter sends a line and an empty line ends the session, as in the
// paper.
func TestPaperProgramTerminal(t *testing.T) {
	t.Parallel()
	keys := paperFiles(t)
	server, addr := paperServe(t, keys, []string{"client"})
	s, p := startAtTerminal(t, 100, "", paperArgs(keys, "client", []string{"server"}, "-connect", addr)...)
	s.wait("joined", func(output string) bool { return strings.Contains(output, "an empty line leaves") })
	s.send("typed\r")
	server.out.match(t, `^client: typed\n`)
	s.send("secure-close\r")
	s.wait("the word", func(output string) bool { return strings.Contains(output, "secure-close was not sent") })
	s.send("\r")
	s.waitExit(p, exitDone)
	server.err.match(t, `(?m)^\* client left$`)
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); !slices.Equal(got, []string{"typed"}) {
		t.Errorf("the log has %q", got)
	}
}
