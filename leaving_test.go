package main

// Who leaves, is let go, or does not listen.

import (
	"bytes"
	"crypto/rand"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeafKept: who does not listen (-norelay, -paper) is no slow consumer, however much the room is told between two pings, and
// its lines are acknowledged.
func TestDeafKept(t *testing.T) {
	for _, speaks := range []bool{false, true} {
		t.Run(map[bool]string{false: "silent", true: "says a line"}[speaks], func(t *testing.T) {
			s, c, _ := quietServer(t)
			s.norelay = true
			synctest.Test(t, func(t *testing.T) {
				j := joinOver(t, s, c, true)
				synctest.Wait()
				cleo, _ := enter(t, s.room, "cleo", "key c", 9)
				s.room.mute(cleo)
				for i := range queueBytes/maxLine + 1 {
					if err := s.room.say(cleo, says(uint64(i+1), strings.Repeat("x", maxLine))); err != nil {
						t.Fatal(err)
					}
				}
				want := byte(kindPing)
				if speaks {
					want = kindAck
					j.send(t, kindText, linesOf(1, itemSay, "", "recorded"))
				}
				if kind, _, err := j.sess.read(); kind != want || err != nil {
					t.Errorf("who does not listen got kind %d, %v; want %d", kind, err, want)
				}
				j.conn.Close()
				<-j.over
			})
		})
	}
}

// TestAfterKick: who is kicked hears nothing that is said after it.
func TestAfterKick(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	r.mute(bob)
	for i := range 4 {
		if err := r.say(bob, says(uint64(i+1), strings.Repeat("x", maxLine))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.kick("anna"); err != nil {
		t.Fatal(err)
	}
	heard := 0
	for n := uint64(5); n < 1000; n++ { // anna reads one take a round, the room goes on
		if err := r.say(bob, says(n, "secret "+strings.Repeat("x", maxLine-7))); err != nil {
			t.Fatal(err)
		}
		items, _ := take(r, anna)
		for _, enc := range items {
			if bytes.Contains(enc, []byte("secret")) {
				heard++
			}
		}
		if endOf(r, anna) != "" {
			break
		}
	}
	if heard > 0 {
		t.Errorf("after the kick she got %d more messages", heard)
	}
}

// TestAckOverReconnect: -sync: lines said on the last connection become durable after this one's welcome.
func TestAckOverReconnect(t *testing.T) {
	b := newOutbox()
	for range 10 {
		b.add(outLine{text: []byte("x"), what: itemSay}, true)
	}
	b.resume(0)
	b.take(nil) // sent, the connection is lost, the server has written and not yet synced them
	if err := b.resume(0); err != nil {
		t.Fatal(err)
	}
	if err := b.acknowledge(10); err != nil { // the sync that was under way ends before our writer begins
		t.Errorf("the acknowledgement: %v", err)
	}
}

// TestBusyTold: a client that keeps sending hears why it has to go: kicked, or the server stops.
func TestBusyTold(t *testing.T) {
	for _, how := range []string{"kick", "stop"} {
		t.Run(how, func(t *testing.T) {
			const rounds = 20
			told := 0
			for range rounds {
				s, c, _ := quietServer(t)
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				over := make(chan struct{})
				go func() {
					defer close(over)
					conn, err := ln.Accept()
					if err != nil {
						t.Error(err)
						return
					}
					serveConn(s, conn)
				}()
				conn, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				c.box = newOutbox()
				rand.Read(c.stream[:])
				l, _, err := c.meet(t.Context(), conn)
				if err != nil {
					t.Fatal(err)
				}
				acked, ended := make(chan struct{}, 1), make(chan bool, 1)
				go func() {
					for {
						kind, _, err := l.read()
						if err != nil || kind == kindClose {
							ended <- err == nil
							return
						}
						if kind == kindAck {
							wake(acked)
						}
					}
				}()
				stop := make(chan struct{})
				done := make(chan struct{})
				go func() {
					defer close(done)
					for n := uint64(1); ; n++ {
						buf, err := l.append(nil, kindText, linesOf(n, itemSay, "", "a line"))
						if err == nil {
							err = l.write(buf)
						}
						if err != nil {
							return
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				}()
				<-acked
				if how == "kick" {
					if err := s.room.kick("anna"); err != nil {
						t.Fatal(err)
					}
				} else {
					s.room.close("the server is stopping")
				}
				select {
				case ok := <-ended:
					if ok {
						told++
					}
				case <-time.After(10 * time.Second):
					t.Fatal("no end")
				}
				close(stop)
				conn.Close()
				<-done
				<-over
				ln.Close()
			}
			if told != rounds {
				t.Errorf("%d of %d busy clients were told", told, rounds)
			}
		})
	}
}
