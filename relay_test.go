package main

// What a delivery costs the room: BenchmarkRelay, which is also where its allocations are looked for (-memprofile).

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// relayMember makes a member of s over loopback TCP, as if after its handshake, and returns the client's end of it once it is in.
func relayMember(b *testing.B, s *server, wg *sync.WaitGroup, n int, listens bool) (conn net.Conn, in, out *halfConn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if conn, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	shared := secrets{toServer: [64]byte{1}, toClient: [64]byte{2}, aes: true}
	in, err1 := newHalfConn(&shared.toClient, &shared.digest, true)
	out, err2 := newHalfConn(&shared.toServer, &shared.digest, true)
	sess, err3 := newSession(there, &shared, true, chatTraffic)
	if err1 != nil || err2 != nil || err3 != nil {
		b.Fatal(err1, err2, err3)
	}
	p := &peer{name: "anna", suffix: "XXXX", fingerprint: "SHA256:anna", addr: "127.0.0.1:1"}
	binary.BigEndian.PutUint64(p.stream[:], uint64(n))
	req := joinRequest{stream: p.stream}
	if listens {
		req.flags = joinListens
	}
	wg.Go(func() {
		if serve := s.join(there, p, sess, req); serve != nil {
			serve()
		}
		there.Close()
	})
	conn.SetDeadline(time.Now().Add(patience))
	welcome, err := readFrame(conn, maxPacket)
	if err == nil {
		_, _, err = in.open(welcome)
	}
	if err != nil {
		b.Fatal(err)
	}
	conn.SetDeadline(time.Time{})
	return conn, in, out
}

// relayHear opens a member's packets until the connection ends, without an allocation of its own, and counts what is said.
func relayHear(conn net.Conn, in *halfConn, said func(n int)) error {
	buf := make([]byte, 4*maxPacket)
	for r, w := 0, 0; ; {
		for w-r < frameHeader || w-r < frameHeader+int(binary.BigEndian.Uint16(buf[r:])) {
			w = copy(buf, buf[r:w])
			r = 0
			n, err := conn.Read(buf[w:])
			if err != nil {
				return err
			}
			w += n
		}
		end := r + frameHeader + int(binary.BigEndian.Uint16(buf[r:]))
		kind, payload, err := in.open(buf[r+frameHeader : end])
		if err == nil && kind == kindRekey {
			err = in.ratchet()
		}
		if err != nil {
			return err
		}
		items := 0
		for kind == kindText && len(payload) > 0 {
			n, width := binary.Uvarint(payload)
			if payload[width+8+8] == itemSay {
				items++
			}
			payload = payload[width+int(n):]
		}
		if items > 0 {
			said(items)
		}
		r = end
	}
}

// BenchmarkRelay is one sender's lines of 100 bytes, each a packet of its own, through the room, its log and the members'
// sessions: an op is a line to all of them. The allocations are all of the process's, and those who hear make none.
func BenchmarkRelay(b *testing.B) {
	for _, members := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) { benchmarkRelay(b, int64(members)) })
	}
}

func benchmarkRelay(b *testing.B, members int64) {
	const batch, ahead = 16, 256 // lines in a write; that the sender is ahead of the average member
	log, err := openLog(filepath.Join(b.TempDir(), "connection.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.close()
	s, err := newServer(serverConfig{
		endpoint: endpoint{name: "server"}, log: log, clients: maxClients, console: &console{stderr: io.Discard, notes: make(chan string, maxNotes)},
	})
	if err != nil {
		b.Fatal(err)
	}
	defer s.free.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	var delivered atomic.Int64
	more, broken := make(chan struct{}, 1), make(chan error, members+1)
	var sender net.Conn
	var out *halfConn
	for n := range members + 1 { // the last is the sender
		conn, in, its := relayMember(b, s, &wg, int(n), n < members)
		defer conn.Close()
		sender, out = conn, its
		wg.Go(func() { broken <- relayHear(conn, in, func(n int) { delivered.Add(int64(n)); wake(more) }) })
	}

	late := time.After(patience) // from now on: to bring a thousand in takes seconds
	var said int64
	line, packets := bytes.Repeat([]byte("x"), 100), []byte(nil)
	message := make([]byte, 0, maxMsg)
	say := func(n int64) {
		packets = packets[:0]
		for range n {
			if out.full() {
				packets = out.seal(packets, kindRekey)
				if err := out.ratchet(); err != nil {
					b.Fatal(err)
				}
			}
			said++
			message = appendLine(appendLinesHeader(message[:0], uint64(said), itemSay, ""), line)
			packets = out.seal(packets, kindText, message)
		}
		if _, err := sender.Write(packets); err != nil {
			b.Fatal(err)
		}
	}
	heard := func(lines int64) {
		for delivered.Load() < lines*members {
			select {
			case <-more:
			case err := <-broken:
				b.Fatal(err)
			case <-late:
				b.Fatalf("%d of %d delivered", delivered.Load(), lines*members)
			}
		}
	}
	say(ahead) // all have come, and buffers have their size
	heard(said)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ReportAllocs()
	b.ResetTimer()
	for left := int64(b.N); left > 0; left -= batch {
		say(min(batch, left))
		heard(said - ahead)
	}
	heard(said)
	b.StopTimer()
	runtime.ReadMemStats(&after)
	deliveries := float64(members) * float64(b.N)
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/deliveries, "ns/delivery")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/deliveries, "allocs/delivery")
}
