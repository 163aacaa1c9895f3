package main

// The server in conditions that need Linux: full and read-only file systems, abstract sockets, disabled core dumps, and
// the cost that a client which has stopped reading causes for others (BenchmarkStalledReader).

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
			if err := verifyLogs([]string{path}, io.Discard); err != nil {
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
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	unlock = lock()
	server.cmd.Process.Signal(unix.SIGHUP)
	server.err.match(t, `reopening the log .*; it continues in the old file`)
	bob.send(`{"text":"two"}` + "\n")
	bob.out.match(t, `"type":"ack","id":2}`)
	unlock()
	if got := messages(t, path+".1"); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("the old file has %q", got)
	}
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	unlock = lock()
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
