package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The server in conditions that need Linux: full and read-only file systems, abstract sockets, disabled core dumps, and
// the cost that a client which has stopped reading causes for others (BenchmarkStalledReader).

// mount mounts a file system on dir until the test ends. It returns false if the process may not mount.
func mount(t *testing.T, source, dir, kind string, flags uintptr, data string) bool {
	t.Helper()
	if err := unix.Mount(source, dir, kind, flags, data); err != nil {
		t.Logf("mounting on %s: %v; done another way", dir, err)
		return false
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return true
}

// TestFullDisk fills the disk in two ways: by a limit on the size of files and, if mounting is permitted, on a small
// file system. Until there is space again, no line is acknowledged or in the log. Then everything continues, and a
// client that left meanwhile is in the log.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"limit", "disk", "disk, -sync"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			anna := state(t, "anna")
			dir := t.TempDir()
			if kind != "limit" && !mount(t, "tmpfs", dir, "tmpfs", 0, "size=128k,mode=0700") {
				kind = "limit"
			}
			path, filler := filepath.Join(dir, "connection.log"), filepath.Join(dir, "filler")
			server, addr := serve(t, anna, "-log", path, fmt.Sprintf("-sync=%v", strings.HasSuffix(kind, "sync")))
			limit := func(n uint64) {
				if err := unix.Prlimit(server.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY},
					nil); err != nil {
					t.Fatal(err)
				}
			}
			fill := func() {
				if kind == "limit" {
					limit(uint64(len(contents(t, path))) + 100) // The limit cuts a record.
					return
				}
				f, err := os.Create(filler)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				for err == nil {
					_, err = f.Write(make([]byte, 4096))
				}
			}
			free := func() {
				if kind == "limit" {
					limit(unix.RLIM_INFINITY)
				} else if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
			}
			bob := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
			bob.out.match(t, `"type":"welcome"`)
			var said []string
			for turn := range 2 {
				text := fmt.Sprintf("short %d", turn)
				said = append(said, text)
				bob.send(fmt.Sprintf("{\"text\":%q}\n", text))
				bob.out.match(t, fmt.Sprintf(`"type":"ack","id":%d}`, len(said)))
				cleo := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
				cleo.out.match(t, `"type":"welcome"`)
				fill()
				long := strings.Repeat("x", 9000) + text // The line is longer than the rest of a block.
				bob.send(fmt.Sprintf("{\"text\":%q}\n", long))
				bob.out.match(t, fmt.Sprintf(`(?s)"ack","id":%d}.*cannot write its log just now`, len(said)))
				cleo.stdin.Close()
				if code := cleo.wait(); code != exitDone {
					t.Errorf("cleo: exit %d: %s", code, cleo.err)
				}
				if got := messages(t, path); !slices.Equal(got, said) {
					t.Errorf("the log has %d messages, %d were acknowledged", len(got), len(said))
				}
				if strings.Contains(bob.out.String(), fmt.Sprintf(`"ack","id":%d}`, len(said)+1)) {
					t.Error("acknowledged without a record")
				}
				free()
				said = append(said, long)
				bob.out.match(t, fmt.Sprintf(`"type":"ack","id":%d}`, len(said)))
				// A small record may fit although a large one did not, because a block is freed in between. So this case is
				// separate.
				if told := strings.Count(server.err.String(), "cannot write the log "+path); told < turn+1 || told > 2*(turn+1) {
					t.Errorf("%d messages to the operator in %d rounds", told, turn+1)
				}
				server.err.match(t, strings.Repeat(`(?s)the log can be written again.*`, turn+1))
			}
			bob.stdin.Close()
			a := bob.wait()
			server.cmd.Process.Signal(syscall.SIGTERM)
			if b := server.wait(); a != exitDone || b != exitDone {
				t.Errorf("exit %d and %d", a, b)
			}
			if got := messages(t, path); !slices.Equal(got, said) {
				t.Errorf("the log has %d messages of %d", len(got), len(said))
			}
			ends := 0
			for _, r := range records(t, path) {
				if r["event"] == eventDisconnect {
					ends++
				}
			}
			if ends != 3 {
				t.Errorf("%d disconnects of 3", ends)
			}
			if err := verifyLogs([]string{path}, "", io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReadOnlyLog: the server reports at start that it cannot write the log. If the log becomes unwritable later, it
// waits. If a rotation fails, it reports that and continues with the old file.
func TestReadOnlyLog(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "connection.log")
	// lock makes the folder read-only. If even root may not mount, it moves the folder away.
	lock := func() (unlock func()) {
		t.Helper()
		away := dir + ".away"
		var err error
		switch {
		case os.Geteuid() != 0:
			err, unlock = os.Chmod(dir, 0o500), func() { os.Chmod(dir, 0o700) }
		case mount(t, dir, dir, "", unix.MS_BIND, ""):
			err, unlock = unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""), func() {
				unix.Unmount(dir, unix.MNT_DETACH)
			}
		default:
			err, unlock = os.Rename(dir, away), func() { os.Rename(away, dir) }
		}
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
	unlock := lock()
	if _, stderr, code := runToEnd(t, t.TempDir(), "", "-listen", "127.0.0.1:0", "-dir", anna, "-log",
		path); code != exitTrouble ||
		!strings.HasPrefix(stderr, "securechat: cannot write the log "+path) || !strings.Contains(stderr, "-log FILE") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	unlock()
	server, addr := serve(t, anna, "-log", path)
	bob := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
	bob.send(`{"text":"one"}` + "\n")
	bob.out.match(t, `"type":"ack","id":1}`)
	resume := suspend(t, server)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	unlock = lock()
	resume()
	server.cmd.Process.Signal(unix.SIGHUP)
	server.err.match(t, `reopening the log .*; it continues in the old file`)
	bob.send(`{"text":"two"}` + "\n")
	bob.out.match(t, `"type":"ack","id":2}`)
	resume = suspend(t, server)
	unlock()
	if got := messages(t, path+".1"); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("the old file has %q", got)
	}
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	unlock = lock()
	resume()
	bob.send(`{"text":"three"}` + "\n")
	bob.out.match(t, `cannot write its log just now`)
	unlock()
	bob.out.match(t, `"type":"ack","id":3}`)
	bob.stdin.Close()
	if code := bob.wait(); code != exitDone {
		t.Errorf("exit %d: %s", code, bob.err)
	}
	server.err.match(t, `(?s)cannot write the log .*the log can be written again`)
	if got := messages(t, path); !slices.Equal(got, []string{"three"}) {
		t.Errorf("the new file has %q", got)
	}
	if _, err := verifyLog(bytes.NewReader(contents(t, path))); err != nil {
		t.Error(err)
	}
}

// TestAbstractNotify: a NOTIFY_SOCKET that begins with @ is a name outside the file system (sd_notify(3)).
func TestAbstractNotify(t *testing.T) {
	name := fmt.Sprintf("@securechat-test-%d", os.Getpid())
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	if err := sdNotify("READY=1"); err != nil {
		t.Fatal(err)
	}
	told.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 100)
	if n, err := told.Read(b); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
}

// TestNoDumps looks at a running server, and at what noDumps leaves in this process.
func TestNoDumps(t *testing.T) {
	server, _ := serve(t, state(t, "anna"))
	limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(server.cmd.Process.Pid), "limits"))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core dumps are on: %v\n%s", err, limits)
	}
	noDumps()
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); n != 0 || err != nil {
		t.Errorf("dumpable: %d, %v", n, err)
	}
}

// attend joins addr over a session that the benchmark reads and writes itself.
func attend(b *testing.B, addr string, me *party, flags byte) *session {
	b.Helper()
	req := joinRequest{flags: flags}
	rand.Read(req.stream[:])
	sess, _ := joinSession(b, addr, me, req)
	return sess
}

// BenchmarkStalledReader sends b.N lines, 100 a second, to four readers and reports the delay of their delivery while
// 200 more clients are connected. Some of those stopped reading before 6 MiB were sent, and the others receive no
// lines. The figures in KiB are the server's memory (VmRSS): alone, with the 200, after the 6 MiB and at the end.
func BenchmarkStalledReader(b *testing.B) {
	for _, stalled := range []int{0, 1, 200} {
		b.Run(fmt.Sprintf("stalled=%d", stalled), func(b *testing.B) {
			anna := state(b, "anna")
			server, addr := serve(b, anna)
			me := partyIn(b, anna)
			memory := func(at string) {
				var kib float64
				fmt.Sscanf(memoryOf(server.cmd.Process.Pid), "VmRSS: %f", &kib)
				b.ReportMetric(kib, "KiB-"+at)
			}
			memory("alone")
			for n := range 200 {
				attend(b, addr, me, map[bool]byte{true: joinListens}[n < stalled])
			}
			memory("200-clients")
			const burst = 6 << 20 / maxLine
			done := make(chan []time.Duration)
			ready := make(chan struct{})
			readers := 4
			for range readers {
				sess := attend(b, addr, me, joinListens)
				go func() {
					var late []time.Duration
					for n := 0; n < burst+b.N; {
						kind, payload, err := sess.read()
						if err != nil {
							b.Error(err)
							break
						}
						for kind == kindText && len(payload) > 0 {
							var it item
							if it, payload, err = cutItem(payload); err != nil {
								b.Error(err)
							}
							if it.what != itemSay {
								continue
							}
							if n++; n == burst {
								ready <- struct{}{}
							} else if n > burst {
								late = append(late, time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(it.text)))))
							}
						}
					}
					done <- late
				}()
			}
			speaker := attend(b, addr, me, 0)
			go func() {
				for {
					if _, _, err := speaker.read(); err != nil {
						return
					}
				}
			}()
			said := uint64(0)
			say := func(text string) {
				said++
				err := writeMessage(speaker, kindText, linesOf(said, itemSay, "", text))
				if err != nil && err != io.EOF {
					b.Fatal(err)
				}
			}
			for range burst {
				say(strings.Repeat("x", maxLine))
			}
			for range readers {
				<-ready
			}
			memory("burst")
			ticks := time.NewTicker(10 * time.Millisecond)
			defer ticks.Stop()
			for range b.N {
				<-ticks.C
				say(string(binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))) + strings.Repeat("y", 100))
			}
			var late []time.Duration
			for range readers {
				late = append(late, <-done...)
			}
			slices.Sort(late)
			memory("end")
			b.ReportMetric(float64(late[len(late)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(late[len(late)*99/100].Microseconds()), "µs-p99")
		})
	}
}

// The server in trouble: a log that cannot be written, stuck clients, and new clients behind many silent connections.

// TestLogTrouble: while the log's folder is missing, lines wait, and they are acknowledged once it exists. A client
// that connects meanwhile is refused and gets in later. The operator sees one message.
func TestLogTrouble(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "connection.log")
	server, addr := serve(t, anna, "-log", path)
	early := start(t, t.TempDir(), "-connect", addr, "-dir", anna)
	server.err.match(t, `joined`)
	early.send("one\n")
	server.out.match(t, `: one`)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	early.send("two\n")
	early.stdin.Close()
	early.err.match(t, `cannot write its log just now`)
	late := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-reconnect")
	late.send("three\n")
	late.stdin.Close()
	late.err.match(t, `the server closed the session: it cannot write the log; connecting again`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if a, b := early.wait(), late.wait(); a != exitDone || b != exitDone {
		t.Errorf("exit %d and %d", a, b)
	}
	server.err.match(t, `the log can be written again`)
	if got := messages(t, path); !slices.Equal(got, []string{"two", "three"}) &&
		!slices.Equal(got, []string{"three", "two"}) {
		t.Errorf("the log has %q", got)
	}
	if n := strings.Count(server.err.String(), "cannot write the log "+path); n != 1 {
		t.Errorf("the operator saw the message %d times", n)
	}
}

// TestFullRoom: a client that finds the room full is sent the reason, and with -reconnect it joins as soon as another
// client leaves.
func TestFullRoom(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-max-clients", "1")
	bob, cleo := guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	first := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	server.err.match(t, `joined`)
	const full = "the server closed the session: the room is full"
	if out, stderr, code := runToEnd(t, t.TempDir(), "lost\n", "-connect", addr, "-dir", cleo); code != exitTrouble ||
		stderr != "securechat: "+full+"\n" {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	patient := start(t, t.TempDir(), "-connect", addr, "-dir", cleo, "-reconnect")
	patient.send("hello\n")
	patient.stdin.Close()
	patient.err.match(t, full+"; connecting again")
	first.stdin.Close()
	if a, b := first.wait(), patient.wait(); a != exitDone || b != exitDone {
		t.Errorf("exit %d and %d", a, b)
	}
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); !slices.Equal(got, []string{"hello"}) {
		t.Errorf("the log has %q", got)
	}
	server.err.match(t, `refused 127\.0\.0\.1:\d+, SHA256:\S+: the room is full: 1 clients \(-max-clients\)`)
}

// TestLogLeavesSpace: the log leaves 1 % of its file system free, which other programs can use. Until there is more
// space it behaves as on a full disk, and the operator sees why.
func TestLogLeavesSpace(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprintf("-sync=%v", sync), func(t *testing.T) {
			t.Parallel()
			const size, spare, page = 4 << 20, 4 << 20 / sparePart, 4 << 10
			anna := state(t, "anna")
			dir := t.TempDir()
			if !mount(t, "tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)) {
				return // TestLogSpace counts the bytes without a file system.
			}
			filler := put(t, filepath.Join(dir, "filler"), make([]byte, size*3/4))
			path := filepath.Join(dir, "connection.log")
			server, addr := serve(t, anna, "-log", path, fmt.Sprintf("-sync=%v", sync))
			bob := start(t, t.TempDir(), "-connect", addr, "-dir", anna)
			var said []string
			for i := range 1500 {
				said = append(said, fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)))
			}
			go func() { bob.send(strings.Join(said, "\n") + "\n"); bob.stdin.Close() }()
			server.err.match(t, fmt.Sprintf("cannot write the log .*: the log leaves %d KiB of its file system free", spare>>10))
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil {
				t.Fatal(err)
			}
			if free := int64(st.Bavail) * st.Bsize; free < spare-page || free > spare+maxLogBuffer/8 {
				t.Errorf("%d bytes are free, and %d should be", free, spare)
			}
			put(t, filepath.Join(dir, "other"), make([]byte, spare-2*page))
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if code := bob.wait(); code != exitDone {
				t.Errorf("exit %d", code)
			}
			if got := messages(t, path); !slices.Equal(got, said) {
				t.Errorf("the log has %d messages of %d", len(got), len(said))
			}
		})
	}
}

// TestLogSpace: after how many bytes or how much time the free space is read again, and which writes it permits.
func TestLogSpace(t *testing.T) {
	const gib = 1 << 30
	now := time.Now()
	for _, c := range []struct {
		name        string
		free, total uint64
		n           int64
		later       time.Duration // since the last reading, which found much space
		reads       int
		permitted   bool
	}{
		{"much space", 100 * gib, 1000 * gib, 100, 0, 0, true},
		{"less space than at the last reading", 0, 1000 * gib, 100, 0, 0, true},
		{"the same a second later", 0, 1000 * gib, 100, spaceTime, 1, false},
		{"the same after the clock was set back", 0, 1000 * gib, 100, -1, 1, false},
		{"a write that is larger than a step", 0, 1000 * gib, spaceStep + 1, 0, 1, false},
		{"16 MiB of a large file system, exactly", spareBytes + 100, 1000 * gib, 100, spaceTime, 1, true},
		{"one byte less", spareBytes + 99, 1000 * gib, 100, spaceTime, 1, false},
		{"1 % of a small one, exactly", gib/100 + 100, gib, 100, spaceTime, 1, true},
		{"one byte less than that", gib/100 + 99, gib, 100, spaceTime, 1, false},
		{"an unknown file system", 0, 0, 100, spaceTime, 1, true},
	} {
		reads := 0
		s := logSpace{left: spaceStep, read: now, measure: func(*os.File) (free, total uint64) {
			reads++
			return c.free, c.total
		}}
		err := s.take(nil, c.n, now.Add(c.later))
		if reads != c.reads || (err == nil) != c.permitted || err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %d readings, %v", c.name, reads, err)
		}
	}
	// Near the limit each write is counted, whatever their sizes: together they never take the spare space.
	free := uint64(spareBytes + 3*spaceStep)
	s := logSpace{measure: func(*os.File) (uint64, uint64) { return free, 1000 * gib }}
	for n := int64(1); ; n = n*7%10007 + 1 {
		if err := s.take(nil, n, now); err != nil {
			break
		}
		free -= uint64(n)
	}
	if free < spareBytes || free > spareBytes+10007 {
		t.Errorf("%d bytes are left", free)
	}
}

// stuckPipe returns the write end of a full pipe without a reader.
func stuckPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	w.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for err == nil {
		_, err = w.Write(make([]byte, 4096))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return w
}

// TestShutdownStreamsStuck: with any of its streams stuck and a client that reads nothing, the server still accepts
// lines. The first signal ends it properly within five seconds, and a second signal ends it at once.
func TestShutdownStreamsStuck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		out, err, second bool
	}{{"stdout", true, false, false}, {"stderr", false, true, false}, {"both", true, true, false},
		{"both, second signal", true, true, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			anna := state(t, "anna")
			addr := freeAddr(t)
			cmd := exec.Command(os.Args[0], "-listen", addr, "-dir", anna)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), asSecurechat+"=1")
			server := &proc{t: t, cmd: cmd, err: newWatched(), ended: make(chan struct{})}
			if c.out {
				cmd.Stdout = stuckPipe(t)
			}
			if c.err {
				cmd.Stderr = stuckPipe(t)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { cmd.Wait(); close(server.ended) }()
			defer cmd.Process.Kill()
			deaf := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-reconnect", "-json")
			deaf.out.match(t, `"type":"welcome"`)
			deaf.cmd.Process.Signal(syscall.SIGSTOP)
			defer deaf.cmd.Process.Signal(syscall.SIGCONT)
			const said = 100 // These lines fill the pipes but not the room.
			input := strings.Repeat(strings.Repeat("x", maxLine)+"\n", said)
			if _, stderr, code := runToEnd(t, t.TempDir(), input, "-connect", addr, "-dir", anna); code != exitDone {
				t.Errorf("exit %d: %s", code, stderr)
			}
			witness := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
			witness.out.match(t, `"type":"welcome"`)
			begin := time.Now()
			cmd.Process.Signal(syscall.SIGTERM)
			if c.second {
				witness.out.match(t, "the server is stopping") // The server would end by itself soon.
				cmd.Process.Signal(syscall.SIGTERM)
				<-server.ended
				if code := witness.wait(); code != exitTrouble {
					t.Errorf("the witness: exit %d: %s", code, witness.err)
				}
				if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() {
					t.Errorf("it ended with %v", cmd.ProcessState)
				}
				return
			}
			code, took := server.wait(), time.Since(begin)
			if code != exitDone || took > 5*time.Second {
				t.Errorf("exit %d after %v", code, took)
			}
			t.Logf("ended after %v", took)
			all := records(t, filepath.Join(cmd.Dir, "connection.log"))
			ends := 0
			for _, r := range all {
				if r["event"] == eventDisconnect {
					ends++
				}
			}
			if last := all[len(all)-1]; last["event"] != eventStop || ends != 3 {
				t.Errorf("%d disconnects of 3; the log ends with %v", ends, last)
			}
		})
	}
}

// TestShutdownStuck: the server ends within five seconds while one client is stopped and another is in its handshake.
func TestShutdownStuck(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	stuck := start(t, t.TempDir(), "-connect", addr, "-dir", anna)
	server.err.match(t, `joined`)
	stuck.cmd.Process.Signal(syscall.SIGSTOP)
	defer stuck.cmd.Process.Signal(syscall.SIGCONT)
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silent.Read(make([]byte, 1))
	begin := time.Now()
	server.cmd.Process.Signal(syscall.SIGTERM)
	if code := server.wait(); code != exitDone || time.Since(begin) > 5*time.Second {
		t.Errorf("exit %d after %v", code, time.Since(begin))
	}
	ends := 0
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventDisconnect || r["event"] == eventRefused {
			ends++
			if recordField(r, "reason") == "" {
				t.Error("an end without a reason")
			}
		}
	}
	if ends != 2 {
		t.Errorf("%d ends of 2 connections in the log", ends)
	}
}

// TestClientBehindSilentCrowd: a new client is admitted while very many silent connections are open.
func TestClientBehindSilentCrowd(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	var crowd []net.Conn
	for range 1000 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		crowd = append(crowd, conn)
	}
	defer func() {
		for _, conn := range crowd {
			conn.Close()
		}
	}()
	begin := time.Now()
	out, stderr, code := runToEnd(t, t.TempDir(), "hello\n", "-connect", addr, "-dir", anna, "-reconnect")
	t.Logf("with 1000 silent connections a newcomer's line is acknowledged after %v; the server's %s", time.Since(begin),
		memoryOf(server.cmd.Process.Pid))
	if code != exitDone {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
}

// The operating system's part: owners and modes of files, file systems without space, service managers.

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

// TestLogReadableByOthers checks that a server reports a log that other users can read, at its start and after a
// rotation, and nothing about a log that it has made itself.
func TestLogReadableByOthers(t *testing.T) {
	t.Parallel()
	anna, dir := state(t, "anna"), t.TempDir()
	log := filepath.Join(dir, "connection.log")
	listen := func() *proc {
		p := start(t, dir, "-listen", "127.0.0.1:0", "-dir", anna)
		p.err.match(t, `room open on`)
		return p
	}
	stop := func(p *proc) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.wait()
	}
	const words = `other users can access connection\.log: run chmod 600 connection\.log`
	p := listen()
	stop(p)
	if matches(words, p.err.String()) {
		t.Errorf("a new log: %s", p.err)
	}
	for _, mode := range []fs.FileMode{0o604, 0o640, 0o622} {
		if err := os.Chmod(log, mode); err != nil {
			t.Fatal(err)
		}
		p = listen()
		p.err.match(t, words)
		stop(p)
	}
	if err := os.Chmod(log, 0o600); err != nil {
		t.Fatal(err)
	}
	p = listen()
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	put(t, log, nil)
	if err := errors.Join(os.Chmod(log, 0o644), p.cmd.Process.Signal(syscall.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	p.err.match(t, words)
	stop(p)
}

// limited starts securechat from a shell script, which sets a limit and then runs "$@".
func limited(t *testing.T, script, stdin string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, out: newWatched(), err: newWatched(), ended: make(chan struct{})}
	p.cmd = exec.Command("sh", append([]string{"-c", script, "sh", os.Args[0]}, args...)...)
	detach(p.cmd)
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

// BenchmarkNewcomer reports how long a client takes from its start to its exit, with one line acknowledged, while all
// of an IPv4 /24 and of an IPv6 /48 attack the server: half of the attackers' connections stay silent until the server
// closes them, the others send a stage 1 whose RSA block does not open, and each is replaced at once. It needs a
// network namespace in which these networks are local, which bench/gate.sh makes.
func BenchmarkNewcomer(b *testing.B) {
	anna, bob := state(b, "anna"), state(b, "bob")
	admit(b, anna, bob)
	server := start(b, b.TempDir(), "-listen", ":0", "-dir", anna)
	port := server.err.match(b, `room open on .*:(\d+) as`)[1]
	stage1 := appendVector(appendVector(nil, make([]byte, 1500)), bytes.Repeat([]byte{1}, 256+128))
	var tried, unreached, open atomic.Int64
	attack := func(silent bool, from func() net.IP, to string) {
		for range 150 {
			go func() { // ends with the benchmark
				for b.Context().Err() == nil {
					dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from()}}
					conn, err := dialer.Dial("tcp", net.JoinHostPort(to, port))
					if err != nil {
						unreached.Add(1)
						continue
					}
					tried.Add(1)
					open.Add(1)
					if _, err := readFrame(conn, maxHandshakeFrame); err == nil && !silent {
						writeFrame(conn, stage1) // an error is the attacker's loss
					}
					conn.Read(make([]byte, 1))
					conn.Close()
					open.Add(-1)
				}
			}()
		}
	}
	v4 := func() net.IP { return net.IPv4(198, 51, 100, byte(1+mrand.N(254))) }
	v6 := func() net.IP {
		ip := net.ParseIP("2001:db8:1::1")
		binary.BigEndian.PutUint16(ip[6:], uint16(mrand.N(1<<16)))
		return ip
	}
	for _, attacked := range []bool{false, true} {
		b.Run(fmt.Sprintf("attacked=%v", attacked), func(b *testing.B) {
			if attacked && tried.Load() == 0 {
				for _, silent := range []bool{false, true} {
					attack(silent, v4, "198.51.100.1")
					attack(silent, v6, "2001:db8:1::1")
				}
				for tried.Load() < 30000 { // the attack has filled its networks and met their penalties
					runtime.Gosched()
				}
			}
			before, begin := tried.Load(), time.Now()
			var took []time.Duration
			failed := 0
			for b.Loop() {
				begin := time.Now()
				_, _, code := runToEnd(b, b.TempDir(), "hello\n", "-connect", "192.0.2.1:"+port, "-dir", bob, "-accept-new")
				if code != exitDone {
					failed++
				}
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-longest")
			b.ReportMetric(float64(failed), "failed")
			b.ReportMetric(float64(tried.Load()-before)/time.Since(begin).Seconds(), "attacks/s")
			b.ReportMetric(float64(open.Load()), "attackers-connected")
			b.ReportMetric(float64(unreached.Load()), "attackers-unreached")
			b.ReportMetric(0, "ns/op")
		})
	}
	b.Logf("the server's %s", memoryOf(server.cmd.Process.Pid))
}

// serviceState returns a state folder that belongs to the user of a service, if the test runs as root.
func serviceState(t *testing.T) (dir string, uid int) {
	t.Helper()
	dir, uid = state(t, "service"), os.Geteuid()
	if uid != 0 {
		return dir, uid
	}
	uid = 65532
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Lchown(filepath.Join(dir, name.Name()), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	return dir, uid
}

// TestRootInServiceFolder checks that all files that root's commands create in the folder of a service belong to the
// service's user.
func TestRootInServiceFolder(t *testing.T) {
	t.Parallel()
	dir, uid := serviceState(t)
	for _, name := range []string{"encryption", "identity", "identity.pub", "lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	bob := filepath.Join(state(t, "bob"), "identity.pub")
	for _, args := range [][]string{{"-keygen"}, {"-invite", "ben"}, {"-allow", bob}} {
		if _, stderr, code := runToEnd(t, dir, "", append(args, "-dir", dir)...); code != exitDone {
			t.Fatalf("%v: exit %d: %s", args, code, stderr)
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var created []string
	for _, name := range names {
		info, err := name.Info()
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != uid {
			t.Errorf("%s belongs to user %d, not to %d", name.Name(), owner, uid)
		}
		created = append(created, name.Name())
	}
	want := []string{"authorized_keys", "encryption", "identity", "invites", "lock"}
	for _, name := range want {
		if !slices.Contains(created, name) {
			t.Errorf("%s was not created: %v", name, created)
		}
	}
}

// TestRootFollowsNoPlantedLink lets the user of a service plant links in its folder. Root's commands must neither
// change nor copy the files that they lead to. For a user without root's rights such a link is its own.
func TestRootFollowsNoPlantedLink(t *testing.T) {
	t.Parallel()
	const secret = "root's own file\n"
	bob := filepath.Join(state(t, "bob"), "identity.pub")
	for _, c := range []struct {
		name string
		link func(from, to string) error
	}{{"authorized_keys", os.Symlink}, {"authorized_keys", os.Link}, {"lock", os.Symlink}, {"identity", os.Symlink}} {
		dir, uid := serviceState(t)
		target := put(t, filepath.Join(t.TempDir(), "target"), []byte(secret))
		planted := filepath.Join(dir, c.name)
		if err := os.Remove(planted); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := c.link(target, planted); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := runToEnd(t, dir, "", "-allow", bob, "-dir", dir)
		if os.Geteuid() == 0 {
			wantRun(t, c.name, stderr, code, exitTrouble, "is a link in the folder of another user|too many levels")
		}
		info, err := os.Stat(target)
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) == uid && uid != os.Geteuid() {
			t.Errorf("%s: the target belongs to the service now", c.name)
		}
		if text := readText(t, target); os.Geteuid() == 0 && text != secret {
			t.Errorf("%s: the target has %q", c.name, text)
		}
	}
}

// TestRootLogsInServiceFolder: a server of root's in the folder of a service leaves a log that the service can write,
// and neither makes nor writes a file to which the service has planted a link, at the start or in place of its log.
func TestRootLogsInServiceFolder(t *testing.T) {
	t.Parallel()
	dir, uid := serviceState(t)
	path, target := filepath.Join(dir, "connection.log"), filepath.Join(t.TempDir(), "target")
	server, _ := serve(t, dir, "-log", path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != uid {
		t.Errorf("the log belongs to user %d, not to %d", owner, uid)
	}
	for _, link := range []func() error{
		func() error { return os.Symlink(target, path) },
		func() error { return os.Link(put(t, target, nil), path) },
	} {
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		if err := link(); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			server.err.match(t, "reopening the log .*: (.*too many levels|.* is a link in the folder of another user)")
			if text, err := os.ReadFile(target); len(text) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the target has %q, %v", text, err)
			}
			_, stderr, code := runToEnd(t, dir, "", "-listen", "127.0.0.1:0", "-dir", dir, "-log", path)
			wantRun(t, "-listen", stderr, code, exitTrouble, "too many levels|is a link in the folder of another user")
		}
	}
	if info, err := os.Lstat(target); os.Geteuid() == 0 && (err != nil || int(info.Sys().(*syscall.Stat_t).Uid) == uid) {
		t.Errorf("the target belongs to the service now: %v", err)
	}
}

// TestFolderOwner checks the decision itself, for any user that runs the test.
func TestFolderOwner(t *testing.T) {
	dir, uid := serviceState(t)
	if o := ownerOf(dir, 1000); o != nil {
		t.Errorf("not root: %v", o)
	}
	if o := ownerOf("/", 0); o != nil {
		t.Errorf("root's own folder: %v", o)
	}
	if o := ownerOf(filepath.Join(dir, "none"), 0); o != nil {
		t.Errorf("no folder: %v", o)
	}
	if o := ownerOf(dir, 0); o == nil || o.uid != uid {
		t.Errorf("the folder of user %d: %v", uid, o)
	}
	empty := t.TempDir()
	if got := serviceFolder([]string{empty, "/none", dir}, 0); got != dir {
		t.Errorf("the service's folder: %q", got)
	}
	if got := serviceFolder([]string{dir}, 1000); got != "" {
		t.Errorf("not root: %q", got)
	}
}

// TestServiceChosen checks when a command uses the folder of the service: in the modes of its operator, unless another
// folder was named or root has keys of its own, about which the operator is notified.
func TestServiceChosen(t *testing.T) {
	t.Setenv("SECURECHAT_DIR", "")
	own := state(t, "own")
	for _, c := range []struct {
		mode, dir, named, service string
		want, note                string
	}{
		{"invite", "/none", "", "/service", "/service", "using the service's folder /service"},
		{"allow", "/none", "", "/service", "/service", "using the service's folder /service"},
		{"fingerprint", "/none", "", "/service", "/service", "using the service's folder /service"},
		{"fingerprint", own, "", "/service", own, "using the keys in " + own + "; for the service's room add -dir /service"},
		{"fingerprint", "/named", "/named", "/service", "/named", ""},
		{"fingerprint", "/none", "", "", "/none", ""},
		{"listen", "/none", "", "/service", "/none", ""},
		{"connect", "/none", "", "/service", "/none", ""},
		{"keygen", "/none", "", "/service", "/none", ""},
	} {
		o := &options{mode: c.mode}
		o.keys.dir = c.named
		var stderr bytes.Buffer
		p := &process{options: o, console: newConsole(strings.NewReader(""), io.Discard, &stderr, nil, consoleOptions{}),
			dir: c.dir}
		p.chooseService(c.service)
		p.console.close()
		if p.dir != c.want || !strings.Contains(stderr.String(), c.note) || c.note == "" && stderr.Len() > 0 {
			t.Errorf("-%s with the keys in %s: %s, %q", c.mode, c.dir, p.dir, stderr.String())
		}
	}
}

// TestServiceFolderOfRoot runs -fingerprint without -dir as root, in a mount namespace with the service's folder.
// Without the permission to make one, -dir names the folder, and no message names a service.
func TestServiceFolderOfRoot(t *testing.T) {
	t.Parallel()
	dir, uid := serviceState(t)
	cmd := exec.Command(os.Args[0], "-fingerprint", "-dir", dir)
	note := ""
	if uid != os.Geteuid() {
		const script = `mount -t tmpfs none /var/lib && cp -a "$1" /var/lib/securechat && exec "$0" -fingerprint`
		cmd = exec.Command("sh", "-euc", script, os.Args[0], dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		note = "using the service's folder /var/lib/securechat"
	}
	cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+t.TempDir(), "SECURECHAT_DIR=", "XDG_CONFIG_HOME=")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || !strings.Contains(stdout.String(), "SHA256:") ||
		!strings.Contains(stderr.String(), note) || note == "" && strings.Contains(stderr.String(), "service") {
		t.Errorf("%v: %s%s", err, &stdout, &stderr)
	}
}

// TestLogToStdout checks that -log - writes whole records and nothing else to stdout, before and after SIGHUP, creates
// no file, and that flags which need a file or stdout itself are refused.
func TestLogToStdout(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-log", "-")
	for _, text := range []string{"before", "after"} {
		if _, stderr, code := runToEnd(t, t.TempDir(), text+"\r\n", "-connect", addr, "-dir", anna); code != exitDone {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		if err := server.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := server.wait(); code != exitDone {
		t.Errorf("exit %d", code)
	}
	if names, err := os.ReadDir(server.cmd.Dir); err != nil || len(names) != 0 {
		t.Errorf("files were created: %v, %v", names, err)
	}
	path := put(t, filepath.Join(t.TempDir(), "log"), []byte(server.out.String()))
	if _, stderr, code := runToEnd(t, t.TempDir(), "", "-verify-log", path); code != exitDone {
		t.Errorf("stdout is no log: exit %d, %s", code, stderr)
	}
	if got := messages(t, path); !slices.Equal(got, []string{"before", "after"}) { // and CRLF ends a line
		t.Errorf("messages: %q", got)
	}
	for _, flag := range []string{"-sync", "-raw"} {
		_, stderr, code := runToEnd(t, t.TempDir(), "", "-listen", "127.0.0.1:0", "-dir", anna, "-log", "-", flag)
		wantRun(t, flag, stderr, code, exitUsage, "^securechat: -log -: "+flag)
	}
}

// TestMovedLog checks that an idle server notices without a signal that its log was renamed or removed, and begins a
// new file that continues the chain.
func TestMovedLog(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	path := filepath.Join(t.TempDir(), "connection.log")
	server, addr := serve(t, anna, "-log", path)
	for i, text := range []string{"one", "two", "three"} {
		if _, stderr, code := runToEnd(t, t.TempDir(), text+"\n", "-connect", addr, "-dir", anna); code != exitDone {
			t.Fatalf("exit %d: %s", code, stderr)
		}
		waitForRecord(t, path, "disconnect")
		if i == 2 {
			break
		}
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, 2-i)); err != nil {
			t.Fatal(err)
		}
		waitForRecord(t, path, "rotate")
	}
	if _, stderr, code := runToEnd(t, t.TempDir(), "", "-verify-log", path+".2", path+".1", path); code != exitDone {
		t.Errorf("exit %d: %s", code, stderr)
	}
	v, err := verifyFile(path, func(int, [32]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	server.err.match(t, `the log was removed; it continues in a new file`)
	waitForRecord(t, path, "rotate")
	if after, err := verifyFile(path, func(int, [32]byte) {}); err != nil || after.first != v.head {
		t.Errorf("the new file does not follow the removed one: %v", err)
	}
	if strings.Contains(server.err.String(), "reopening") {
		t.Errorf("%s", server.err)
	}
}

// waitForRecord waits until the log at path has a record of the event.
func waitForRecord(t *testing.T, path, event string) {
	t.Helper()
	for begin := time.Now(); ; runtime.Gosched() {
		data, err := os.ReadFile(path)
		if err == nil && bytes.Contains(data, []byte(`"event":"`+event+`"`)) {
			return
		}
		if time.Since(begin) > patience {
			t.Fatalf("%s has no record %q: %s, %v", path, event, data, err)
		}
	}
}

// suspend stops the process, so that what follows is one step for it, and returns what lets it run again.
func suspend(t *testing.T, p *proc) (resume func()) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	status := fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)
	for begin := time.Now(); !matches(`(?m)^State:\s+T`, readText(t,
		status)); runtime.Gosched() { // it stops a moment later
		if time.Since(begin) > patience {
			t.Fatal("the process does not stop")
		}
	}
	return func() { p.cmd.Process.Signal(syscall.SIGCONT) }
}

// TestDistrustCountsLines checks that a client that no longer trusts its server reports how many lines the server has
// not acknowledged, and does not connect again.
func TestDistrustCountsLines(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	bob := guest(t, anna, addr, "bob")
	client := start(t, t.TempDir(), "-connect", addr, "-dir", bob, "-stay", "-reconnect")
	client.send("one\n")
	server.out.match(t, `bob: one`)
	suspend(t, server)
	client.send("two\nthree\n")
	appendFile(t, filepath.Join(bob, "known_hosts"), "@revoked * "+publicKeyOf(t, anna)+"\n")
	wantRun(t, "a revoked server", client.err.String(), client.wait(), exitUntrusted, ``)
	const words = `connection lost: key SHA256:\S+ is revoked by \S+known_hosts:2; [12] lines not acknowledged`
	if !matches(words, client.err.String()) {
		t.Errorf("%q", client.err)
	}
}

// What a client with an admitted key can cost the server: its memory, its places and its log. Linux reports the peak of
// a process's memory.

// memoryLimit is the memory of a server under attack by 1024 connections, as docs/SECURITY.md has it.
const memoryLimit = 128 << 10 // KiB

// peakMemory returns the largest resident memory that a process has had, in KiB.
func peakMemory(t testing.TB, pid int) (kib int) {
	t.Helper()
	for line := range strings.Lines(readProc(t, pid, "status")) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatal("the system does not report VmHWM")
	return 0
}

func readProc(t testing.TB, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// attacker is one connection of an attack. It reads nothing after the welcome.
type attacker struct {
	*session
	said uint64 // lines of its stream that were sent
}

// joinAll opens n connections of each of these parties, eight at a time. It leaves out those that the server rejects.
func joinAll(t *testing.T, addr string, parties []*party, n int) (all []*attacker) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 8 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n*len(parties) {
					return
				}
				sess, err := attackerSession(addr, parties[i%len(parties)])
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				mu.Lock()
				all = append(all, &attacker{session: sess})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() { closeAttackers(all) })
	return all
}

func attackerSession(addr string, me *party) (*session, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	req := joinRequest{flags: joinListens}
	rand.Read(req.stream[:])
	conn.SetDeadline(time.Now().Add(patience))
	secrets, err := clientHandshake(conn, me, trustAll, nil)
	if err != nil {
		return nil, err
	}
	sess, err := newSession(conn, secrets, false, pipeTraffic)
	if err != nil {
		return nil, err
	}
	if err := writeMessage(sess, kindJoin, req.encode()); err != nil {
		return nil, err
	}
	_, err = readWelcome(sess)
	return sess, err
}

func closeAttackers(all []*attacker) {
	for _, a := range all {
		a.conn.Close()
	}
}

// flood sends what next makes, from all connections at once, until a connection is closed, or blocked for a second, or
// has sent limit bytes.
func flood(all []*attacker, limit int, next func(i int, a *attacker, buf []byte) []byte) {
	var wg sync.WaitGroup
	for i, a := range all {
		wg.Go(func() {
			var buf []byte
			for sent := 0; sent < limit; sent += len(buf) {
				buf = next(i, a, buf[:0])
				a.conn.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := a.conn.Write(buf); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// line seals one message of n lines of size bytes each, to the receiver to if that is not empty.
func (a *attacker) line(buf []byte, n, size int, to string) []byte {
	what := byte(itemSay)
	if to != "" {
		what = itemDirect
	}
	payload := appendLinesHeader(nil, a.said+1, what, to)
	for range n {
		payload = appendLine(payload, make([]byte, size))
	}
	a.said += uint64(n)
	buf, _ = a.append(buf, kindText, payload) // fails only without entropy for a rekey
	return buf
}

var oneAttack = flag.Int("attack", -1, "the number of the one attack of TestMemoryUnderAttack")

// attacks are what 1024 connections send.
var attacks = []struct {
	name string
	send func(all []*attacker)
}{
	{"unfinished messages, and direct lines to keys with many connections", func(all []*attacker) {
		flood(all, 1<<11, func(i int, a *attacker, buf []byte) []byte {
			if i%2 == 1 {
				return a.line(buf, 1, 0, fmt.Sprintf("eve%d", i/2%4))
			}
			for range maxMessage / maxBatch {
				buf = a.out.seal(buf, kindPart, make([]byte, maxBatch))
			}
			return append(binary.BigEndian.AppendUint16(buf, maxPacket-frameHeader), make([]byte, maxPacket/2)...)
		})
	}},
	{"lines of 64 KiB", func(all []*attacker) {
		flood(all, 1<<18, func(_ int, a *attacker, buf []byte) []byte { return a.line(buf, 1, maxLine, "") })
	}},
	{"empty lines", func(all []*attacker) {
		flood(all, 1<<14, func(_ int, a *attacker, buf []byte) []byte {
			return a.line(a.line(buf, maxBatch-linesHeader, 0, ""), maxBatch-linesHeader, 0, "")
		})
	}},
}

// TestMemoryUnderAttack: whatever 1024 connections of four keys send, a third of them each of the attacks, and although
// they read nothing, the server stays below memoryLimit and serves a client of another key afterwards. With -attack it
// is one of them alone, by its number.
func TestMemoryUnderAttack(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	var parties []*party
	for i := range 4 {
		eve := state(t, fmt.Sprintf("eve%d", i))
		admit(t, anna, eve)
		parties = append(parties, partyIn(t, eve))
	}
	server, addr := serve(t, anna)
	all := joinAll(t, addr, parties, maxClients/len(parties))
	joined := peakMemory(t, server.cmd.Process.Pid)
	var wg sync.WaitGroup
	for i, attack := range attacks {
		from, to := i*len(all)/len(attacks), (i+1)*len(all)/len(attacks)
		if *oneAttack >= 0 {
			from, to = 0, len(all)
		}
		if *oneAttack < 0 || *oneAttack == i {
			wg.Go(func() { attack.send(all[from:to]) })
		}
	}
	wg.Wait()
	bob := guest(t, anna, addr, "bob")
	closeAttackers(all[:len(all)/8])
	stderr, code := sendHello(t, bob, addr, "-reconnect")
	wantRun(t, "another client", stderr, code, exitDone, "")
	peak := peakMemory(t, server.cmd.Process.Pid)
	t.Logf("%d connections: peak memory %d KiB, after the attack %d KiB", len(all), joined, peak)
	if peak > memoryLimit {
		t.Errorf("the server used %d KiB, more than %d", peak, memoryLimit)
	}
}

// TestPlacesOfKey: one key cannot take all places. A further client of it hears why, and may join when another one has
// left. When the room is full, the operator's own key still finds a place.
func TestPlacesOfKey(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-max-clients", fmt.Sprint(leastPlaces+1))
	eve, bob, cleo := guest(t, anna, addr, "eve0"), guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	all := joinAll(t, addr, []*party{partyIn(t, eve)}, leastPlaces)
	stderr, code := sendHello(t, eve, addr)
	wantRun(t, "one client more", stderr, code, exitTrouble, "^securechat: the server closed the session: "+
		"the room is full for this key\n$")
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "another key", stderr, code, exitDone, "")
	joinAll(t, addr, []*party{partyIn(t, bob)}, 1)
	stderr, code = sendHello(t, cleo, addr)
	wantRun(t, "a third key", stderr, code, exitTrouble, "^securechat: the server closed the session: the room is full\n$")
	stderr, code = sendHello(t, anna, addr)
	wantRun(t, "the operator's key", stderr, code, exitDone, "")
	patient := start(t, t.TempDir(), "-connect", addr, "-dir", eve, "-reconnect")
	patient.stdin.Close()
	patient.err.match(t, "connecting again")
	closeAttackers(all[:1])
	if code := patient.wait(); code != exitDone {
		t.Errorf("after a client of the key has left: exit %d", code)
	}
	server.err.match(t, fmt.Sprintf(`the room is full for this key: %d clients \(a quarter of -max-clients, at least %d\)`,
		leastPlaces, leastPlaces))
}

// TestKeyLimits: how many places a key has, by -max-clients.
func TestKeyLimits(t *testing.T) {
	for places, want := range map[int]int{1: 1, 15: 15, 16: 16, 17: 16, 64: 16, 68: 17, 1024: 256} {
		k := newKeyLimits(places, 0, "operator")
		now := time.Now()
		taken, operators := 0, 0
		for k.enter("key", now) == nil {
			taken++
		}
		for others := 0; k.enter(fmt.Sprint(others), now) == nil; others++ {
			taken++
		}
		for k.enter("operator", now) == nil {
			operators++
		}
		if k.each != want || taken != places || operators != max(places, leastPlaces) {
			t.Errorf("%d places: %d for a key; %d were taken, and %d by the operator", places, k.each, taken, operators)
		}
		k.leave("key")
		if full := k.enter("another", now); full != nil {
			t.Errorf("%d places: %v after one has left", places, full)
		}
	}
}

// TestRate: with -rate the lines of one key are recorded at that rate after a burst of ten seconds' worth, however many
// connections it has. All of them are recorded, and another key is not delayed.
func TestRate(t *testing.T) {
	t.Parallel()
	const rate, burst, surplus = 100, 1000, 200
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-rate", fmt.Sprint(rate))
	bob, cleo := guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	var senders []*proc
	for range 4 {
		p := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
		go func() { p.send(strings.Repeat("line\n", (burst+surplus)/4)); p.stdin.Close() }()
		senders = append(senders, p)
	}
	stderr, code := sendHello(t, cleo, addr)
	wantRun(t, "another key", stderr, code, exitDone, "")
	for _, p := range senders {
		if code := p.wait(); code != exitDone {
			t.Errorf("exit %d: %s", code, p.err)
		}
	}
	var first, last time.Time
	lines, others := 0, 0
	for _, r := range records(t, server.cmd.Dir+"/connection.log") {
		at, err := time.Parse(time.RFC3339, recordField(r, "time"))
		switch {
		case err != nil:
			t.Fatal(err)
		case r["event"] != eventMessage:
			continue
		case r["name"] == "cleo":
			others++
			continue
		case lines == 0:
			first = at
		}
		lines++
		if allowed := burst + rate*at.Sub(first).Seconds() + 1; float64(lines) > allowed {
			t.Fatalf("%d lines after %v: %.0f are allowed", lines, at.Sub(first), allowed)
		}
		last = at
	}
	if lines != burst+surplus || others != 1 || last.Sub(first) > patience {
		t.Errorf("%d lines in %v, and %d of another key", lines, last.Sub(first), others)
	}
}

// TestRateAndEnd: a client that waits because of -rate does not delay the end of the server.
func TestRateAndEnd(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-rate", "1")
	bob := start(t, t.TempDir(), "-connect", addr, "-dir", anna, "-json")
	bob.send(strings.Repeat("{\"text\":\"line\"}\n", 100))
	bob.out.match(t, `"ack","id":10}`)
	server.cmd.Process.Signal(os.Interrupt)
	began := time.Now()
	if code := server.wait(); code != exitDone || time.Since(began) > 5*time.Second {
		t.Errorf("exit %d after %v", code, time.Since(began))
	}
	bob.stdin.Close()
	if code := bob.wait(); code != exitLost {
		t.Errorf("the client: exit %d: %s", code, bob.err)
	}
}

// TestCutLines: lines are cut by their cost, one for each KiB, and one is always cut.
func TestCutLines(t *testing.T) {
	sizes := []int{0, 1, 1024, 1025, 2048, 2049, maxLine, 5}
	costs := []int{1, 1, 1, 2, 2, 3, 64, 1}
	for most := 1; most < 80; most++ {
		p := packedLines{lines: lines{first: 7}, count: len(sizes)}
		for _, size := range sizes {
			p.packed = appendLine(p.packed, make([]byte, size))
		}
		for at := 0; at < len(sizes); {
			first, front, cost := p.first, packedLines{}, 0
			front, cost = p.cut(most)
			want, n := costs[at], 1
			for at+n < len(costs) && want+costs[at+n] <= most {
				want += costs[at+n]
				n++
			}
			texts := appendTexts(nil, front.packed)
			if cost != want || front.count != n || len(texts) != n || front.first != first ||
				p.first != first+uint64(n) || len(texts[n-1]) != sizes[at+n-1] || p.count != len(sizes)-at-n {
				t.Fatalf("at most %d, line %d: %d lines with cost %d, not %d with %d", most, at, front.count, cost, n, want)
			}
			at += n
		}
	}
}

// TestDroppedMessages: when the budget is used up, the key that takes most of it loses its oldest message, and another
// key's message stays, although it is older.
func TestDroppedMessages(t *testing.T) {
	var b partsBudget
	var all []*partialMessage
	released := 0
	begin := func(owner string) *partialMessage {
		p := &partialMessage{owner: owner, abort: func() error { return nil }, gone: make(chan struct{})}
		if err := b.add(p, make([]byte, maxMessage)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	bob := begin("bob")
	for range 3 * budgetBytes / maxMessage {
		all = append(all, begin("eve"))
		dropped := 0
		for i, p := range all {
			if p.cause(nil) != nil {
				dropped++
				if dropped != i+1 {
					t.Fatalf("message %d was dropped before an older one", i)
				}
			}
		}
		for ; released < dropped; released++ {
			b.release(all[released])
		}
		if b.dropped != 0 || b.bytes > budgetBytes || len(b.held) != 1+len(all)-dropped || bob.cause(nil) != nil {
			t.Fatalf("%d bytes of %d messages; %d of %d were dropped", b.bytes, len(b.held), dropped, len(all))
		}
	}
	if dropped := all[0]; b.add(dropped, []byte("x")) != errNoBudget || dropped.cause(net.ErrClosed) != errNoBudget {
		t.Error("a dropped message goes on")
	}
	for _, p := range append(all[released:], bob) {
		b.release(p)
	}
	if b.bytes != 0 || len(b.held) != 0 {
		t.Errorf("%d bytes are left", b.bytes)
	}
}

// TestNullStdout: nothing is put together for the null device, as a service has it (contrib/securechat.service), but
// for any other device.
func TestNullStdout(t *testing.T) {
	t.Parallel()
	for device, want := range map[string]bool{os.DevNull: false, "/dev/zero": true} {
		f, err := os.OpenFile(device, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		asked := false
		out := newOutput(f)
		err = out.print(func(b []byte, _ *roomState) []byte { asked = true; return append(b, "a line\n"...) })
		if err := errors.Join(err, out.flush()); err != nil || asked != want {
			t.Errorf("%s: asked for the text: %v, %v", device, asked, err)
		}
	}
}

// TestResumeNullStdout: a program with stdout at the null device has read what it wrote there, so its place moves on.
func TestResumeNullStdout(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	bob, cleo := guest(t, h.dir, h.addr, "bob"), guest(t, h.dir, h.addr, "cleo")
	file := filepath.Join(t.TempDir(), "place")
	cmd := exec.Command(os.Args[0], "-connect", h.addr, "-dir", cleo, "-resume", file, "-count", "1")
	cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+t.TempDir())
	if err := cmd.Start(); err != nil { // without a Stdout, which makes it the null device
		t.Fatal(err)
	}
	h.server.err.match(t, "cleo joined")
	h.say(bob, "one\ntwo\n", exitDone, "^$")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := h.resume(cleo, file, 1); got != "bob: two\n" {
		t.Errorf("after one message: %q", got)
	}
}
