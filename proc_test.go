package main

// The harness of the black-box tests. The test binary starts itself as securechat, with real pipes, real TCP on
// 127.0.0.1 and its exit code. The helpers start, watch and stop such processes, and read the log that they write.

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// asSecurechat in the environment makes the test binary run as securechat.
const asSecurechat = "SECURECHAT_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(asSecurechat) != "" {
		os.Unsetenv(asSecurechat)
		main()
	}
	// The tests that run in parallel spend much of their time waiting. A test that opens a locked file, such as a log, in
	// this process a second time must not be parallel: a child process that another test is starting holds the lock
	// between fork and exec.
	if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	for name, value := range map[string]string{"TERM": "xterm", "TZ": "UTC"} { // whatever the caller has
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	os.RemoveAll(testKeys.dir)
	os.Exit(code)
}

// patience bounds every wait of a black-box test. A test that passes never waits that long.
const patience = 60 * time.Second

// state makes a state folder with keys in it. Keys are made once for each name and copied, because making RSA keys is
// slow.
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

// admit appends the public key of the state folder client to the authorized_keys of the state folder server.
func admit(t testing.TB, server, client string) {
	t.Helper()
	line, err := os.ReadFile(filepath.Join(client, "identity.pub"))
	if err != nil {
		t.Fatal(err)
	}
	appendFile(t, filepath.Join(server, "authorized_keys"), string(line))
}

// pin adds the key of the state folder server, for addr, to the known_hosts of the state folder client.
func pin(t testing.TB, client, addr, server string) {
	t.Helper()
	line, err := os.ReadFile(filepath.Join(server, "identity.pub"))
	if err != nil {
		t.Fatal(err)
	}
	appendFile(t, filepath.Join(client, "known_hosts"),
		fmt.Sprintf("[127.0.0.1]:%s %s", portOf(addr), line))
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

// start runs securechat with these arguments in the folder wd. Its stdin is a pipe that stays open.
func start(t testing.TB, wd string, args ...string) *proc {
	t.Helper()
	return startWith(t, wd, nil, args...)
}

// startWith is start with more variables in the environment. Unlike t.Setenv it works in parallel tests.
func startWith(t testing.TB, wd string, env []string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, out: newWatched(), err: newWatched(), ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	detach(p.cmd)
	p.cmd.Dir = wd
	p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+wd, "SECURECHAT_DIR=", "XDG_CONFIG_HOME=")
	p.cmd.Env = append(p.cmd.Env, env...)
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
		if raw := rawError.FindString(p.err.String()); raw != "" {
			t.Errorf("stderr has an error that is not in plain words: %q", raw)
		}
		if t.Failed() {
			t.Logf("securechat %s\nstdout: %.2000s\nstderr: %.4000s", strings.Join(args, " "), p.out, p.err)
		}
	})
	return p
}

// rawError matches errors of Go's libraries about connections and keys, which no person should read.
var rawError = regexp.MustCompile(`(dial|read|write|accept) (tcp|unix)|` +
	`(read|write|connect): (connection|broken|use of)|i/o timeout|\bEOF\b|` +
	`closed network|lookup \S+( on|:)|deadline exceeded|panic:|asn1:|x509:|json:|base64:|illegal base64|strconv\.`)

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

// say makes the operator of a server say these lines, and returns once the log at path has them: who joins after that
// has missed them.
func (p *proc) say(path, lines string) {
	p.t.Helper()
	want := len(messages(p.t, path)) + strings.Count(lines, "\n")
	p.send(lines)
	waitFor(func() bool { return len(messages(p.t, path)) >= want })
}

// waitFor waits until done returns true.
func waitFor(done func() bool) {
	for !done() {
		runtime.Gosched()
	}
}

// runToEnd runs securechat to its end with stdin as its input.
func runToEnd(t testing.TB, wd, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return runToEndWith(t, wd, nil, stdin, args...)
}

// runToEndWith is runToEnd with more variables in the environment.
func runToEndWith(t testing.TB, wd string, env []string, stdin string, args ...string) (stdout, stderr string,
	code int) {
	t.Helper()
	p := startWith(t, wd, env, args...)
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

// serveAt starts a server in the folder wd at an address where another one was, and returns it once it listens. While
// none runs, an outgoing connection can have the port, even one to this port.
func serveAt(t testing.TB, wd, addr string, args ...string) *proc {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		p := start(t, wd, append([]string{"-listen", addr}, args...)...)
		if p.err.match(t, `room open on |another program has this port`)[0] == "room open on " {
			return p
		}
		if p.wait(); time.Now().After(end) {
			t.Fatalf("%s is not free", addr)
		}
	}
}

// watched collects output and lets a test wait for it.
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

// match waits until the output matches pattern, and returns the match.
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

// records reads a log. A server may be writing to it, so an incomplete last line is ignored.
func records(t testing.TB, path string) (all []map[string]any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data[:bytes.LastIndexByte(data, '\n')+1]) {
		var r map[string]any
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("record %d: %v: %s", len(all)+1, err, line)
		}
		all = append(all, r)
	}
	return all
}

// recordField returns the text of a record's field, and "" if the record has no such field.
func recordField(record map[string]any, name string) string {
	text, _ := record[name].(string)
	return text
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

// objects parses the output of -json.
func objects(t *testing.T, out string) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(out) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		all = append(all, o)
	}
	return all
}

func matches(pattern, text string) bool {
	return regexp.MustCompile(pattern).MatchString(text)
}

// sendHello runs a client that joins the room at addr, sends one line and leaves.
func sendHello(t *testing.T, dir, addr string, args ...string) (stderr string, code int) {
	t.Helper()
	_, stderr, code = runToEnd(t, t.TempDir(), "hello\n", append([]string{"-connect", addr, "-dir", dir}, args...)...)
	return stderr, code
}

// wantRun checks the exit code of securechat and what it printed.
func wantRun(t *testing.T, what, stderr string, code, wantCode int, words string) {
	t.Helper()
	if code != wantCode || !regexp.MustCompile(words).MatchString(stderr) {
		t.Errorf("%s: exit %d, want %d; stderr %q, want %q", what, code, wantCode, stderr, words)
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func publicKeyOf(t *testing.T, dir string) string {
	t.Helper()
	f := strings.Fields(readText(t, filepath.Join(dir, "identity.pub")))
	return f[0] + " " + f[1]
}

// freeAddr returns an address on which nothing listens.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// runTool runs another program, such as ssh-keygen, and returns its output.
func runTool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func put(t testing.TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// closedDir returns a new state folder, which only this user can access.
func closedDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := makeFolder(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// memoryOf returns the resident memory of a process, if the system shows it.
func memoryOf(pid int) string {
	b, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	for line := range strings.SplitSeq(string(b), "\n") {
		if strings.HasPrefix(line, "VmRSS:") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	return "memory unknown"
}

// guest makes the state folder name. The server in dir at addr admits its key, and it knows the server's.
func guest(t *testing.T, dir, addr, name string) string {
	t.Helper()
	client := state(t, name)
	admit(t, dir, client)
	pin(t, client, addr, dir)
	return client
}

// wantError checks that err contains words.
func wantError(t *testing.T, err error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Fatalf("got %v, want an error with %q", err, words)
	}
}
