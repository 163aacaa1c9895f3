//go:build peers

package main

// Whether anything grows: with the number of members (bench/scaling.sh), with time (bench/soak.sh), and past 64 MiB
// (bench/limit.sh). Beside peers_linux_test.go, whose ways of starting and measuring these use.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// leaveRoom says secure-close and waits for the answer.
func leaveRoom(l *session) error {
	buf, err := l.append(nil, kindClose, []byte(closeText))
	if err == nil {
		err = l.write(buf)
	}
	for kind := byte(0); err == nil && kind != kindClose; {
		kind, _, err = l.read()
	}
	return err
}

// visit joins, says count lines, waits until they are acknowledged, and leaves: with secure-close, or just so.
func visit(addr string, me *party, count int, politely bool) error {
	l, err := dialRoom(addr, me, true)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	message := appendLinesHeader(nil, 1, itemSay, "")
	for range count {
		message = appendLine(message, bytes.Repeat([]byte("x"), lineBytes))
	}
	buf, err := l.append(nil, kindText, message)
	if err == nil {
		err = l.write(buf)
	}
	for acked := uint64(0); err == nil && acked < uint64(count); {
		var kind byte
		var payload []byte
		if kind, payload, err = l.read(); err == nil && kind == kindAck {
			acked = binary.BigEndian.Uint64(payload)
		}
	}
	if err == nil && politely {
		err = leaveRoom(l)
	}
	return err
}

// ours is who we are, and the room of a command.
func (a *lists) ours(command string) (*party, chatRow) {
	me, err := newParty(a.keys.signer, a.keys.encryption)
	if err != nil {
		a.Fatal(err)
	}
	return me, chatRow{"securechat", command, func(addr string, listens bool) (*chatter, error) { return joinRoom(addr, me, listens) }}
}

// open counts r's open files.
func (a *lists) open(r *running) int {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid))
	if err != nil {
		a.Fatalf("%v: the server hides itself from its own user; measure as root", err)
	}
	return len(files)
}

// goroutines ends r by a dump of its goroutines, and counts them.
func (a *lists) goroutines(r *running) int {
	r.cmd.Process.Signal(syscall.SIGQUIT)
	<-r.ended
	dump, err := os.ReadFile(filepath.Join(r.cmd.Dir, "errors"))
	if err != nil {
		a.Fatal(err)
	}
	return strings.Count(string(dump), "\ngoroutine ") - strings.Count(string(dump), "\ngoroutine 0 ")
}

// BenchmarkPeersSoak is b.N minutes of a server where people join, talk, leave, break off and do not get in, while ten stay and
// count what they hear. Its log is rotated every minute.
func BenchmarkPeersSoak(b *testing.B) {
	if firstTry(b) {
		return
	}
	const (
		stayers = 10
		workers = 4
		saying  = 5 // lines of a visit
		command = "exec BIN -listen 127.0.0.1:PORT </dev/null >/dev/null 2>errors"
	)
	a := newLists(b)
	me, row := a.ours(command)
	settle := func() { <-time.After(6 * time.Second) }

	fresh, port, _ := a.serve(command)
	a.crowd(row, "127.0.0.1:"+port, stayers)
	settle()
	goroutinesBefore := a.goroutines(fresh)

	server, port, _ := a.serve(command)
	addr := "127.0.0.1:" + port
	var heard, visits, said, cut, strangers, failed atomic.Int64
	for range stayers {
		l, err := dialRoom(addr, me, true)
		if err != nil {
			b.Fatal(err)
		}
		l.conn.SetDeadline(time.Time{})
		b.Cleanup(func() { l.conn.Close() })
		go hearRoom(l, func([]byte) { heard.Add(1) })
		alive := time.NewTicker(pingInterval)
		go func() {
			for range alive.C {
				if writePing(l) != nil {
					return
				}
			}
		}()
	}
	settle()
	fmt.Printf("\n| minute | visits | lines said | cut off | no handshake | failed | RSS, KiB | peak RSS | threads | open files |\n|---|---|---|---|---|---|---|---|---|---|\n")
	sample := func(when string) (resident float64, open int) {
		resident, open = a.status(server, "VmRSS:"), a.open(server)
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %.0f | %.0f | %.0f | %d |\n", when, visits.Load(), said.Load(), cut.Load(), strangers.Load(), failed.Load(), resident, a.status(server, "VmHWM:"), a.status(server, "Threads:"), open)
		return resident, open
	}
	_, openBefore := sample("before")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if n%16 == 15 { // somebody who speaks another protocol
					conn, err := net.Dial("tcp", addr)
					if err == nil {
						_, err = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
						conn.Close()
					}
					if err != nil {
						b.Error(err)
						return
					}
					strangers.Add(1)
					continue
				}
				politely := n%8 != 3
				if err := visit(addr, me, saying, politely); err != nil {
					b.Errorf("a visit: %v", err)
					failed.Add(1)
					continue
				}
				visits.Add(1)
				said.Add(saying)
				if !politely {
					cut.Add(1)
				}
			}
		})
	}
	log := filepath.Join(server.cmd.Dir, "connection.log")
	minutes := time.NewTicker(time.Minute)
	for n := range b.N {
		<-minutes.C
		sample(fmt.Sprint(n + 1))
		err1 := os.Rename(log, log+".1")
		err2 := server.cmd.Process.Signal(syscall.SIGHUP)
		if err := errors.Join(err1, err2); err != nil {
			b.Error(err)
			break
		}
	}
	minutes.Stop()
	close(stop)
	wg.Wait()
	settle()
	resident, open := sample("after")
	least, most := said.Load(), said.Load()+failed.Load()*saying // of those who failed some may be in the log
	if n := heard.Load(); n < least*stayers || n > most*stayers {
		b.Errorf("those who stayed heard %d lines, not %d", n, least*stayers)
	}
	if open != openBefore {
		b.Errorf("%d files are open, not %d", open, openBefore)
	}
	if most := 48 << 10; resident > float64(most) {
		b.Errorf("%.0f KiB resident, more than %d", resident, most)
	}
	if out, err := exec.Command(a.binary, "-verify-log", log+".1", log).CombinedOutput(); err != nil {
		b.Errorf("the log: %v: %s", err, out)
	}
	after := a.goroutines(server)
	fmt.Printf("\ngoroutines with %d members: %d of a fresh server, %d after\nthose who stayed heard %d lines each, of %d acknowledged\nthe server's words:\n", stayers, goroutinesBefore, after, heard.Load()/stayers, said.Load())
	words, err := os.ReadFile(filepath.Join(server.cmd.Dir, "errors"))
	if err != nil {
		b.Fatal(err)
	}
	reasons := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^securechat: refused (?:\S+|\S+, \S+): (.*)$`).FindAllStringSubmatch(string(words), -1) {
		reasons[m[1]]++
	}
	for reason, n := range reasons {
		fmt.Printf("%8d refused: %s\n", n, reason)
	}
	if after > goroutinesBefore {
		b.Errorf("%d goroutines, not %d", after, goroutinesBefore)
	}
}
