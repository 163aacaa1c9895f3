package main

// What a client with an admitted key can cost the server: its memory, its places and its log. Linux reports the peak of
// a process's memory.

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

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

// attacks are what each of 1024 connections sends.
var attacks = []struct {
	name string
	send func(all []*attacker)
}{
	{"unfinished messages", func(all []*attacker) {
		flood(all, 1, func(_ int, a *attacker, buf []byte) []byte {
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
		flood(all, 1<<16, func(_ int, a *attacker, buf []byte) []byte {
			return a.line(a.line(buf, maxBatch-linesHeader, 0, ""), maxBatch-linesHeader, 0, "")
		})
	}},
	{"direct lines to a key with many connections", func(all []*attacker) {
		flood(all, 1<<14, func(i int, a *attacker, buf []byte) []byte {
			for range 64 {
				buf = a.line(a.line(buf, 1, 0, fmt.Sprintf("eve%d", i%4)), 1, 0, "")
			}
			return buf
		})
	}},
	{"questions who is in the room", func(all []*attacker) {
		flood(all, 1<<16, func(_ int, a *attacker, buf []byte) []byte {
			for range 64 {
				buf = a.out.seal(buf, kindWho)
			}
			return buf
		})
	}},
}

// TestMemoryUnderAttack: whatever 1024 connections of four keys send, and although they read nothing, the server stays
// below memoryLimit and serves a client of another key afterwards.
func TestMemoryUnderAttack(t *testing.T) {
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
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
			attack.send(all)
			bob := guest(t, anna, addr, "bob")
			closeAttackers(all[:len(all)/8])
			stderr, code := sendHello(t, bob, addr, "-reconnect")
			wantRun(t, "another client", stderr, code, exitDone, "")
			peak := peakMemory(t, server.cmd.Process.Pid)
			t.Logf("%d connections: peak memory %d KiB, after the attack %d KiB", len(all), joined, peak)
			if peak > memoryLimit {
				t.Errorf("the server used %d KiB, more than %d", peak, memoryLimit)
			}
		})
	}
}
