//go:build unix

package main

// The operating system's part: owners and modes of files, file systems without space, service managers.

import (
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ownedFile is the FileInfo of a file with another owner or mode.
type ownedFile struct {
	fs.FileInfo
	uid  uint32
	mode fs.FileMode
}

func (f ownedFile) Mode() fs.FileMode { return f.mode }

func (f ownedFile) Sys() any { return &syscall.Stat_t{Uid: f.uid} }

func TestCheckPrivate(t *testing.T) {
	ours := uint32(os.Geteuid())
	for _, c := range []struct {
		uid  uint32
		mode fs.FileMode
		ok   bool
	}{
		{ours, 0o600, true}, {ours, 0o400, true}, {ours, 0o640, false}, {ours, 0o604, false},
		{ours + 1, 0o640, true}, {ours + 1, 0o440, true}, {ours + 1, 0o660, false}, {ours + 1, 0o644, false},
	} {
		if err := checkPrivate("key", ownedFile{uid: c.uid, mode: c.mode}); (err == nil) != c.ok {
			t.Errorf("owner %d, mode %o: %v", c.uid, c.mode, err)
		}
	}
}

// limited starts securechat from a shell script, which sets a limit and then runs "$@".
func limited(t *testing.T, script, stdin string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, out: newWatched(), err: newWatched(), ended: make(chan struct{})}
	p.cmd = exec.Command("sh", append([]string{"-c", script, "sh", os.Args[0]}, args...)...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+p.cmd.Dir)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Stdin = p.out, p.err, strings.NewReader(stdin)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended })
	return p
}

// TestInviteWithoutSpace checks that an invite stays valid if authorized_keys cannot be written.
func TestInviteWithoutSpace(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	out, _, code := runToEnd(t, t.TempDir(), "", "-invite", "robert", "-dir", anna)
	if code != exitDone {
		t.Fatal(code)
	}
	t.Setenv("SECURECHAT_INVITE", strings.TrimSpace(out))
	// The file is larger than the limit.
	put(t, filepath.Join(anna, "authorized_keys"), []byte(strings.Repeat("# filler\n", 20000)))
	invites := readText(t, filepath.Join(anna, "invites"))

	p := limited(t, `ulimit -f 100; exec "$@"`, "", "-listen", "127.0.0.1:0", "-dir", anna)
	addr := p.err.match(t, `room open on (127\.0\.0\.1:\d+)`)[1]
	if _, code := sendHello(t, bob, addr, "-join"); code == exitDone {
		t.Error("joined by an invite that could not be used")
	}
	p.err.match(t, `refused 127\.0\.0\.1:\d+, SHA256:\S+: key SHA256:\S+ cannot join by its invite, which stays valid: `+
		`cannot write \S+authorized_keys: .*: free some space and try again`)
	if now := readText(t, filepath.Join(anna, "invites")); now != invites {
		t.Errorf("the invite is gone: %q", now)
	}

	_, addr = serve(t, anna) // This server has no limit.
	stderr, code := sendHello(t, bob, addr, "-join")
	wantRun(t, "the same invite", stderr, code, exitDone, `is now pinned`)
	os.Unsetenv("SECURECHAT_INVITE")
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the second time", stderr, code, exitDone, `^$`)
}

// readOnly starts a program without root's right to write to any folder.
const readOnly = `if [ "$(id -u)" = 0 ]; then exec setpriv --bounding-set=-dac_override,-dac_read_search "$@"; fi; ` +
	`exec "$@"`

// TestReadOnlyFolder: a state folder that cannot be written works if it contains all that is needed. A failed write is
// reported with the remedy.
func TestReadOnlyFolder(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	_, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	if err := os.Remove(filepath.Join(bob, "identity.pub")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{anna, bob} {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(dir, 0o700) })
	}
	p := limited(t, readOnly, "hello\n", "-connect", addr, "-dir", bob)
	code := p.wait()
	wantRun(t, "a client", p.err.String(), code, exitDone, `^$`)
	p = limited(t, readOnly, "", "-fingerprint", "-dir", bob)
	if code := p.wait(); code != exitDone || p.err.String() != "" || !strings.HasPrefix(p.out.String(), "SHA256:") {
		t.Errorf("-fingerprint: exit %d, %q, %q", code, p.out, p.err)
	}
	for _, args := range [][]string{{"-invite", "cleo"}, {"-allow", filepath.Join(anna, "identity.pub")}} {
		p = limited(t, readOnly, "", append(args, "-dir", anna)...)
		code = p.wait()
		wantRun(t, args[0], p.err.String(), code, exitTrouble,
			`permission denied: allow this user to write to the folder and try again`)
	}
	if exists(filepath.Join(anna, "invites")) ||
		regexp.MustCompile(`anna`).MatchString(readText(t, filepath.Join(anna, "authorized_keys"))) {
		t.Error("something was written")
	}
}

// TestServiceManager passes a listening socket to the server, and receives READY=1, WATCHDOG=1 and STOPPING=1 from it.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	name := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	heard := make(chan string, 1<<16) // Datagrams are read at once, because the kernel queues only a few.
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
			t.Fatalf("the service manager received nothing: %s", p.err)
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
	if _, stderr, code := runToEnd(t, t.TempDir(), "hello\n", "-connect", l.Addr().String(), "-dir",
		anna); code != exitDone {
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

// TestNoSocket checks that -listen systemd is rejected without inherited sockets, and with too many.
func TestNoSocket(t *testing.T) {
	for _, c := range []struct{ pid, fds, want string }{{"1", "1", "no socket"}, {"", "", "no socket"},
		{"self", "0", "no socket"}, {"self", "99", "at most"}} {
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
