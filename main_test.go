package main

// Black-box tests: the test binary runs itself as securechat, with real pipes, real TCP on 127.0.0.1 and its exit code.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asSecurechat in the environment makes the test binary be securechat.
const asSecurechat = "SECURECHAT_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(asSecurechat) != "" {
		os.Unsetenv(asSecurechat)
		main()
	}
	code := m.Run()
	os.RemoveAll(testKeys.dir)
	os.Exit(code)
}

// patience bounds every wait of a black-box test; nothing ever waits for it to pass.
const patience = 60 * time.Second

// state makes a state folder with keys in it; keys are made once and copied, for making RSA keys takes time.
func state(t testing.TB, name string) string {
	t.Helper()
	testKeys.once.Do(func() { testKeys.dir, testKeys.err = os.MkdirTemp("", "securechat-test-keys") })
	if testKeys.err != nil {
		t.Fatal(testKeys.err)
	}
	dir := filepath.Join(t.TempDir(), name)
	testKeys.Lock()
	defer testKeys.Unlock()
	made := filepath.Join(testKeys.dir, name)
	if _, err := loadKeys(keyOptions{dir: made, comment: name}); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(made)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"identity", "encryption"} {
		if err := os.Chmod(filepath.Join(dir, f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var testKeys struct {
	sync.Mutex
	once sync.Once
	dir  string
	err  error
}

// admit appends the public key of the state folder who to the authorized_keys of server.
func admit(t testing.TB, server, who string) {
	t.Helper()
	line, err := os.ReadFile(filepath.Join(who, "identity.pub"))
	if err != nil {
		t.Fatal(err)
	}
	appendFile(t, filepath.Join(server, "authorized_keys"), string(line))
}

// pin makes the state folder who know the server at addr.
func pin(t testing.TB, who, addr, server string) {
	t.Helper()
	line, err := os.ReadFile(filepath.Join(server, "identity.pub"))
	if err != nil {
		t.Fatal(err)
	}
	appendFile(t, filepath.Join(who, "known_hosts"), fmt.Sprintf("[127.0.0.1]:%s %s", addr[strings.LastIndex(addr, ":")+1:], line))
}

func appendFile(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// proc is a running securechat.
type proc struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *watched
	err   *watched
	ended chan struct{}
}

// start runs securechat in folder wd with these arguments, its stdin a pipe that stays open.
func start(t testing.TB, wd string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, out: newWatched(), err: newWatched(), ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Dir = wd
	p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+wd, "SECURECHAT_DIR=", "XDG_CONFIG_HOME=")
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("securechat %s\nstdout: %.2000s\nstderr: %.4000s", strings.Join(args, " "), p.out, p.err)
		}
	})
	return p
}

// wait waits for the process to end and returns its exit code.
func (p *proc) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("securechat did not end: %s", p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// send writes lines to stdin.
func (p *proc) send(lines string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, lines); err != nil {
		p.t.Fatal(err)
	}
}

// runToEnd runs securechat to its end with stdin as its input.
func runToEnd(t testing.TB, wd, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := start(t, wd, args...)
	go func() { io.WriteString(p.stdin, stdin); p.stdin.Close() }()
	code = p.wait()
	return p.out.String(), p.err.String(), code
}

// serve starts a server on a free port with the state folder dir and returns it and its address once it listens.
func serve(t testing.TB, dir string, args ...string) (*proc, string) {
	t.Helper()
	p := start(t, t.TempDir(), append([]string{"-listen", "127.0.0.1:0", "-dir", dir}, args...)...)
	m := p.err.match(t, `room open on (127\.0\.0\.1:\d+)`)
	return p, m[1]
}

// watched collects output and can be waited on.
type watched struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func newWatched() *watched { return &watched{more: make(chan struct{})} }

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(b)
	close(w.more)
	w.more = make(chan struct{})
	return len(b), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// match waits until what was written matches and returns the match.
func (w *watched) match(t testing.TB, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for {
		w.mu.Lock()
		m, more := re.FindStringSubmatch(w.buf.String()), w.more
		w.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no %q in time in: %.4000s", pattern, w)
		}
	}
}

// records reads a log.
func records(t testing.TB, path string) (all []map[string]any) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var r map[string]any
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatalf("record %d: %v: %s", len(all)+1, err, s.Bytes())
		}
		all = append(all, r)
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	return all
}

// messages returns the texts of a log's messages.
func messages(t testing.TB, path string) (texts []string) {
	t.Helper()
	for _, r := range records(t, path) {
		if r["event"] == eventMessage {
			texts = append(texts, r["message"].(string))
		}
	}
	return texts
}

// TestNewcomer is the newcomer's: an empty folder, a server, a client by the same user, nothing asked.
func TestNewcomer(t *testing.T) {
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

// TestPipe sends a hundred thousand lines: all are in the log, once and in order, when the client says so.
func TestPipe(t *testing.T) {
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

// TestStranger is refused without a reason, and admitted once the line that the server printed is in authorized_keys.
func TestStranger(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	_, stderr, code := runToEnd(t, t.TempDir(), "let me in\n", "-connect", addr, "-dir", bob)
	if code != exitUntrusted || !strings.Contains(stderr, "without letting us in") {
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
		refused = refused || r["event"] == eventRefused && r["fingerprint"] != "" && r["reason"] != ""
	}
	if !refused {
		t.Error("the log does not tell of the refusal")
	}
}

// TestUnknownServer is refused where nobody can be asked.
func TestUnknownServer(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	_, addr := serve(t, anna)
	_, stderr, code := runToEnd(t, t.TempDir(), "hello\n", "-connect", addr, "-dir", bob)
	if code != exitUntrusted || !strings.Contains(stderr, "SHA256:") || !strings.Contains(stderr, "known_hosts") {
		t.Fatalf("exit %d: %s", code, stderr)
	}
}

// TestRelay has three in the room and the operator: each hears the others in one order, and not itself.
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
		t.Errorf("dora heard %q, the server %q", got, want)
	}
	if strings.Contains(bob.out.String(), "bob: ") {
		t.Error("bob hears himself")
	}
}

// TestShutdown tells every client and ends cleanly, on either signal.
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

// TestKilledServer leaves its client with an exit code of its own and a count.
func TestKilledServer(t *testing.T) {
	dir := state(t, "anna")
	server, addr := serve(t, dir)
	client := start(t, t.TempDir(), "-connect", addr, "-dir", dir)
	server.err.match(t, `joined`)
	server.cmd.Process.Kill()
	if code := client.wait(); code != exitLost {
		t.Errorf("exit %d", code)
	}
	client.err.match(t, `connection lost`)
}

// TestWrongUse gives each mistake one sentence that names the thing and the remedy, and its exit code.
func TestWrongUse(t *testing.T) {
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
		{[]string{"-listen", "9000"}, exitUsage, `host and a port`},
		{[]string{"-connect", "localhost:99999"}, exitUsage, `no port`},
		{[]string{"-connect", "x:1", "-log", "f"}, exitUsage, `-log belongs to -listen`},
		{[]string{"-listen", ":0", "extra"}, exitUsage, `unexpected argument`},
		{[]string{"-listen", ":0", "-delay", "1h"}, exitUsage, `-delay`},
		{[]string{"-listen", ":0", "-dir", dir, "-type", "dsa"}, exitUsage, `dsa`},
		{[]string{"-listen", addr, "-dir", dir}, exitTrouble, `another program has this port`},
		{[]string{"-connect", "127.0.0.1:1", "-dir", dir}, exitTrouble, `cannot reach 127.0.0.1:1: .*refused`},
		{[]string{"-connect", "no.such.host.invalid:9000", "-dir", dir}, exitTrouble, `cannot reach no.such.host.invalid:9000`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", readable}, exitTrouble, `chmod 600 \S*identity`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", garbage}, exitTrouble, `identity`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", dir, "-log", "/no/such/folder/log"}, exitTrouble, `cannot write the log.*-log`},
		{[]string{"-listen", "127.0.0.1:0", "-dir", dir, "-log", os.TempDir()}, exitTrouble, `cannot write the log.*-log`},
	} {
		out, stderr, code := runToEnd(t, t.TempDir(), "", c.args...)
		if code != c.code || out != "" || !regexp.MustCompile(c.want).MatchString(stderr) || strings.Count(strings.TrimSpace(stderr), "\n") > 1 {
			t.Errorf("securechat %s: exit %d, want %d; stdout %q; stderr %q, want %q", strings.Join(c.args, " "), code, c.code, out, stderr, c.want)
		}
	}
}

// TestHelp answers on stdout.
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

// TestLongLine sends what it can, names the line it cannot, and fails at the end.
func TestLongLine(t *testing.T) {
	dir := state(t, "anna")
	server, addr := serve(t, dir)
	longest := strings.Repeat("x", maxLine)
	_, stderr, code := runToEnd(t, t.TempDir(), "one\n"+longest+"\n"+longest+"y\nfour\n", "-connect", addr, "-dir", dir)
	if code != exitTrouble || !strings.Contains(stderr, "line 3 ") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); len(got) != 3 || got[1] != longest || got[2] != "four" {
		t.Errorf("the log has %d messages", len(got))
	}
}
