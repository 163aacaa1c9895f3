//go:build unix

package main

// systemd's agreements, with a fake of its side.

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServiceManager hands a socket over, and hears READY=1, WATCHDOG=1 and STOPPING=1.
func TestServiceManager(t *testing.T) {
	anna := state(t, "anna")
	name := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	heard := make(chan string, 1<<16) // read at once: the kernel holds few datagrams
	go func() {
		defer close(heard)
		b := make([]byte, 100)
		for {
			n, err := told.Read(b)
			if err != nil {
				return
			}
			heard <- string(b[:n])
		}
	}()
	p := &proc{t: t, out: newWatched(), err: newWatched(), ended: make(chan struct{})}
	hear := func() string {
		t.Helper()
		select {
		case s := <-heard:
			return s
		case <-time.After(patience):
			t.Fatalf("the service manager heard nothing: %s", p.err)
			return ""
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.cmd = exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", os.Args[0], "-listen", "systemd", "-dir", anna)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "LISTEN_FDS=1", "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=200000")
	p.cmd.ExtraFiles = []*os.File{f}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.ended) }()
	defer p.cmd.Process.Kill()
	if got := hear(); got != "READY=1" {
		t.Errorf("first it says %q: %s", got, p.err)
	}
	if _, stderr, code := runToEnd(t, t.TempDir(), "hello\n", "-connect", l.Addr().String(), "-dir", anna); code != exitDone {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if got := hear(); got != "WATCHDOG=1" {
		t.Errorf("then it says %q", got)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	for hear() != "STOPPING=1" {
	}
	if code := p.wait(); code != exitDone {
		t.Errorf("exit %d: %s", code, p.err)
	}
}

func TestNoSocket(t *testing.T) {
	for _, c := range []struct{ pid, fds, want string }{{"1", "1", "no socket"}, {"", "", "no socket"}, {"self", "0", "no socket"}, {"self", "99", "at most"}} {
		if c.pid == "self" {
			c.pid = strconv.Itoa(os.Getpid())
		}
		t.Setenv("LISTEN_PID", c.pid)
		t.Setenv("LISTEN_FDS", c.fds)
		if _, err := sdListeners(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
