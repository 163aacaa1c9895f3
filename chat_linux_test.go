package main

// The program at terminals: real processes, each on a pty of its own.

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sit starts securechat at a terminal of its own.
func sit(t *testing.T, env string, args ...string) (*screen, *exec.Cmd) {
	t.Helper()
	s := newScreen(t, 60)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+cmd.Dir, "TERM=xterm", "NO_COLOR=1", "TZ=UTC")
	if env != "" {
		cmd.Env = append(cmd.Env, env)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.slave, s.slave, s.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return s, cmd
}

// says waits until the screen's output has text.
func (s *screen) says(text string) {
	s.t.Helper()
	s.wait(text, func(output string) bool { return strings.Contains(output, text) })
}

// leaves waits for cmd to end with code, and finds the terminal as it was: echo, lines, no paste marks.
func (s *screen) leaves(cmd *exec.Cmd, code int) {
	s.t.Helper()
	kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer kill.Stop()
	cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit %d, want %d", got, code)
	}
	state, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	if state.Lflag&unix.ECHO == 0 || state.Lflag&unix.ICANON == 0 || state.Oflag&unix.OPOST == 0 {
		s.t.Errorf("the terminal is left raw: %+v", state)
	}
	s.wait("the end of marked pastes", func(out string) bool { return strings.LastIndex(out, pasteOff) >= strings.LastIndex(out, pasteOn) })
}

// TestConversation has three at terminals: what each types and hears, commands, a paste, a kick, and every way to leave.
func TestConversation(t *testing.T) {
	anna := state(t, "anna")
	operator, server := sit(t, "", "-listen", "127.0.0.1:0", "-dir", anna, "-json=false")
	var addr string
	operator.wait("an address", func(out string) bool {
		_, rest, found := strings.Cut(out, "room open on ")
		addr, _, _ = strings.Cut(rest, " ")
		return found && strings.Contains(rest, " ")
	})
	bobDir, cleoDir := guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	bob, bobCmd := sit(t, "", "-connect", addr, "-dir", bobDir)
	bob.says("bob> ")
	cleo, cleoCmd := sit(t, "NO_COLOR=", "-connect", addr, "-dir", cleoDir)
	cleo.says("joined " + addr)
	bob.says("* cleo joined")

	bob.send("Καλημέρα 中文 👩\u200d👩\u200d👧\r")
	cleo.says(nameColor("bob") + "bob" + colorOff + ": Καλημέρα 中文 👩\u200d👩\u200d👧")
	operator.says("bob: Καλημέρα")
	operator.send("morning\r")
	bob.says("anna: morning")
	bob.send("/me waves\r")
	cleo.says("waves")
	bob.send("/who\r")
	bob.says("* 3 here: anna, bob, cleo")
	cleo.send("/ms\tbo\tpsst\r")
	bob.says("cleo (to you): psst")
	bob.says("\a")
	bob.send("a" + pasteMark("one\r\r/quit\r") + "\r")
	cleo.says(": /quit")
	cleo.says(": aone")
	bob.send("still here\r") // the Enter behind the paste did not leave
	cleo.says(": still here")

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
	bob.says("removed by the operator")
	bob.leaves(bobCmd, exitTrouble)
	operator.send("\r/who\r") // an empty line is nothing to an operator
	operator.says("* 2 here: anna, cleo")
	operator.send("missed\r")
	cleo.says(": missed")

	for _, c := range []struct {
		keys string
		code int
	}{{"\r", exitDone}, {"\x04", exitDone}, {"\x03", exitDone}, {"/quit\r", exitDone}} {
		again, cmd := sit(t, "", "-connect", addr, "-dir", bobDir, "-nobell")
		again.says("bob> ")
		if c.keys == "\r" {
			again.says("1 said while you were away:")
			again.wait("a dated line", func(out string) bool { return matches(`\d{4}-\d\d-\d\d \d\d:\d\d anna: missed`, out) })
		}
		again.send(c.keys)
		again.leaves(cmd, c.code)
	}
	dumb, cmd := sit(t, "TERM=dumb", "-connect", addr, "-dir", bobDir, "-nobell")
	dumb.says("bob> ")
	operator.send("/msg bob hush\r")
	dumb.says("anna (to you): hush")
	dumb.send("\n")
	dumb.leaves(cmd, exitDone)
	dumb.mu.Lock()
	if out := string(dumb.raw); strings.ContainsAny(out, "\a\x1b") {
		t.Errorf("a dumb terminal got %q", out)
	}
	dumb.mu.Unlock()

	once, cmd := sit(t, "", "-connect", addr, "-dir", bobDir, "-reconnect=false")
	once.says("bob> ")
	server.Process.Kill() // the connection is lost
	once.leaves(cmd, exitLost)
	cleo.says("connecting again")
	cleo.send("\x03")
	cleo.leaves(cleoCmd, exitTrouble)
}

func pasteMark(text string) string { return "\x1b" + pasteStart + text + "\x1b" + pasteEnd }

// TestOperatorLeaves closes the room from its terminal, by each key that does.
func TestOperatorLeaves(t *testing.T) {
	anna := state(t, "anna")
	for _, keys := range []string{"\x03", "\x04", "/quit\r"} {
		operator, server := sit(t, "", "-listen", "127.0.0.1:0", "-dir", anna)
		operator.says("anna> ")
		operator.send(keys)
		operator.leaves(server, exitDone)
	}
}

// TestFirstConnectDown: with -reconnect a person waits for a server that is not there yet, and is told who they are when it is.
func TestFirstConnectDown(t *testing.T) {
	anna := state(t, "anna")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	person, cmd := sit(t, "", "-connect", addr, "-dir", anna, "-reconnect")
	person.says("connecting again")
	start(t, t.TempDir(), "-listen", addr, "-dir", anna)
	person.says("joined " + addr + " as anna;")
	person.says("connected\r\n")
	person.wait("one greeting", func(out string) bool { return strings.Count(out, "joined") == 1 })
	person.send("\r")
	person.leaves(cmd, exitDone)
}
