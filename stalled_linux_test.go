package main

// BenchmarkStalledReader: what one client that has stopped reading costs the others, and the server.

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// attend joins addr over a session that the test reads and writes itself.
func attend(b *testing.B, addr string, me *party, flags byte) *session {
	b.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	secrets, err := clientHandshake(conn, me, trustAll, nil)
	if err != nil {
		b.Fatal(err)
	}
	sess, err := newSession(conn, secrets, false, pipeTraffic)
	if err != nil {
		b.Fatal(err)
	}
	req := joinRequest{flags: flags}
	rand.Read(req.stream[:])
	packet, err := sess.append(nil, kindJoin, req.encode())
	if err == nil {
		err = sess.write(packet)
	}
	if err == nil {
		_, _, err = sess.read()
	}
	if err != nil {
		b.Fatal(err)
	}
	return sess
}

// BenchmarkStalledReader says b.N lines, 100 a second, to four readers, and reports how late they hear them while 200 more
// clients are there of whom so many have stopped reading before 6 MiB were said; the others of them do not listen. KiB are the
// server's memory (VmRSS): alone, with the 200, after the 6 MiB and at the end.
func BenchmarkStalledReader(b *testing.B) {
	for _, stalled := range []int{0, 1, 200} {
		b.Run(fmt.Sprintf("stalled=%d", stalled), func(b *testing.B) {
			anna := state(b, "anna")
			server, addr := serve(b, anna)
			k, err := loadKeys(keyOptions{dir: anna})
			if err != nil {
				b.Fatal(err)
			}
			me, err := newParty(k.signer, k.encryption)
			if err != nil {
				b.Fatal(err)
			}
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
				packet, err := speaker.append(nil, kindText, linesOf(said, itemSay, "", text))
				if err == nil {
					err = speaker.write(packet)
				}
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
