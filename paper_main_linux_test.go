package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPaperProgramTerminal: at a terminal a line is sent with Enter, and an empty one leaves, as the paper has it.
func TestPaperProgramTerminal(t *testing.T) {
	t.Parallel()
	keys := paperFiles(t)
	server, addr := paperServe(t, keys, []string{"client"})
	s := newScreen(t, 100)
	cmd := exec.Command(os.Args[0], paperArgs(keys, "client", []string{"server"}, "-connect", addr)...)
	cmd.Env = append(os.Environ(), asSecurechat+"=1", "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.slave, s.slave, s.slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	s.wait("joined", func(output string) bool { return strings.Contains(output, "an empty line leaves") })
	s.send("typed\r")
	server.out.match(t, `^client: typed\n`)
	s.send("secure-close\r")
	s.wait("the word", func(output string) bool { return strings.Contains(output, "secure-close was not sent") })
	s.send("\r")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	server.err.match(t, `(?m)^\* client left$`)
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); !slices.Equal(got, []string{"typed"}) {
		t.Errorf("the log has %q", got)
	}
}
