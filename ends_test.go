package main

// How connections end: for every way there is one record, with one reason; and who is dead is found out.

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// joined is a client in the room of a quietServer, over a pipe; test code speaks for it.
type joined struct {
	s    *server
	c    *client
	conn net.Conn // its end
	sess *session
	w    welcome
	over chan struct{} // closed when the server is done with it
}

// asTCP is a pipe whose reader hears of its own Close in TCP's words.
type asTCP struct{ net.Conn }

func (c asTCP) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == io.ErrClosedPipe {
		err = net.ErrClosed
	}
	return n, err
}

// joinOver makes c join s, in a bubble of synctest; fresh gives it a stream of its own.
func joinOver(t *testing.T, s *server, c *client, fresh bool) *joined {
	t.Helper()
	here, there := net.Pipe()
	over := make(chan struct{})
	go func() {
		defer close(over)
		serveConn(s, asTCP{there})
	}()
	c.box = newOutbox()
	if fresh {
		rand.Read(c.stream[:])
	}
	l, w, err := c.meet(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	return &joined{s, c, here, l.(*session), w, over}
}

func (j *joined) send(t *testing.T, kind byte, payload []byte) {
	t.Helper()
	buf, err := j.sess.append(nil, kind, payload)
	if err == nil {
		_, err = j.conn.Write(buf)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestEnds: whatever ends a client's connection is in the log once, and under its own name.
func TestEnds(t *testing.T) {
	drain := func(j *joined) { go io.Copy(io.Discard, j.conn) }
	speak := func(t *testing.T, j *joined, n int) {
		cleo, _ := enter(t, j.s.room, "cleo", "key c", 9)
		j.s.room.mute(cleo)
		for i := range n {
			if err := j.s.room.say(cleo, says(uint64(i+1), strings.Repeat("x", maxLine))); err != nil {
				t.Error(err)
			}
		}
	}
	for _, c := range []struct {
		name, want string
		end        func(t *testing.T, j *joined)
	}{
		{"left", "left", func(t *testing.T, j *joined) { drain(j); j.send(t, kindClose, []byte(closeText)) }},
		{"left, and the line is cut at once", "left", func(t *testing.T, j *joined) { j.send(t, kindClose, []byte(closeText)); j.conn.Close() }},
		{"killed", errTruncated.Error(), func(t *testing.T, j *joined) { j.conn.Close() }},
		{"slow", slowConsumer, func(t *testing.T, j *joined) { speak(t, j, queueBytes/maxLine+1) }},
		{"stuck", "slow consumer: it does not read", func(t *testing.T, j *joined) { speak(t, j, 1) }},
		{"kicked", removed, func(t *testing.T, j *joined) { drain(j); j.s.room.kick("anna") }},
		{"kicked, and stuck", removed, func(t *testing.T, j *joined) { j.s.room.kick("anna") }},
		{"kicked, and killed", removed, func(t *testing.T, j *joined) { j.s.room.kick("anna"); j.conn.Close() }},
		{"replaced", "replaced by a newer connection", func(t *testing.T, j *joined) {
			drain(j)
			<-joinOver(t, j.s, j.c, false).over // dead, and so in the log after it
		}},
		{"silent", "nothing heard from it for too long", func(t *testing.T, j *joined) { drain(j) }},
		{"man in the middle", errBadPacket.Error() + ": possible man-in-the-middle attack", func(t *testing.T, j *joined) {
			drain(j)
			j.conn.Write(appendVector(nil, make([]byte, 32)))
		}},
		{"log trouble", errLog.Error(), func(t *testing.T, j *joined) {
			drain(j)
			l := j.s.log
			readOnly, err := os.Open(l.path)
			if err != nil {
				t.Fatal(err)
			}
			l.mu.Lock()
			good := l.f
			l.f = readOnly
			l.mu.Unlock()
			j.send(t, kindText, linesOf(1, itemSay, "", "x"))
			<-j.over
			l.mu.Lock()
			l.f = good
			l.mu.Unlock()
			readOnly.Close()
			l.record(func(b []byte) []byte { return appendRecord(b, time.Now(), eventRotate, nil, "", "") }, nil)
		}},
		{"server stop", "the server is stopping", func(t *testing.T, j *joined) { drain(j); j.s.room.close("the server is stopping") }},
		{"server stop, and stuck", "the server is stopping", func(t *testing.T, j *joined) { j.s.room.close("the server is stopping") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, cl, _ := quietServer(t)
			synctest.Test(t, func(t *testing.T) {
				j := joinOver(t, s, cl, true)
				c.end(t, j)
				<-j.over
				j.conn.Close()
			})
			var reasons []any
			for _, r := range records(t, s.log.path) {
				if r["event"] == eventDisconnect || r["event"] == eventRefused {
					reasons = append(reasons, r["reason"])
				}
			}
			if c.name == "replaced" {
				reasons = slices.DeleteFunc(reasons, func(r any) bool { return r == "slow consumer: it does not read" }) // the newer one
			}
			if !slices.Equal(reasons, []any{c.want}) {
				t.Errorf("the log's reasons: %q, not %q", reasons, c.want)
			}
		})
	}
}

// TestKeepalive: either side finds a dead peer within 90 seconds, whether the network still takes what is sent or not, and
// keeps one that is silent and alive.
func TestKeepalive(t *testing.T) {
	const limit = 90 * time.Second
	for _, takes := range []bool{true, false} {
		s, c, _ := quietServer(t)
		c.console.out = newOutput(io.Discard)
		synctest.Test(t, func(t *testing.T) {
			j := joinOver(t, s, c, true)
			begin := time.Now()
			if takes {
				go io.Copy(io.Discard, j.conn)
			}
			<-j.over
			if d := time.Since(begin); d > limit || d < pingInterval {
				t.Errorf("it takes what is sent: %v: the server found a dead client after %v", takes, d)
			}
			j.conn.Close()
		})
		synctest.Test(t, func(t *testing.T) {
			j := joinOver(t, s, c, true)
			here, there := net.Pipe() // a dead server from here on
			j.sess.conn, j.sess.packets.conn = here, here
			begin := time.Now()
			if takes {
				go io.Copy(io.Discard, there)
			}
			var lost *errLost
			if err := c.session(here, j.sess, j.w, &leaving{}); !errors.As(err, &lost) {
				t.Error(err)
			}
			if d := time.Since(begin); d > limit || d < pingInterval {
				t.Errorf("it takes what is sent: %v: the client found a dead server after %v", takes, d)
			}
			there.Close()
			j.conn.Close()
			<-j.over
		})
	}
	s, c, _ := quietServer(t)
	c.console.out = newOutput(io.Discard)
	synctest.Test(t, func(t *testing.T) {
		j := joinOver(t, s, c, true)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if err := c.session(j.conn, j.sess, j.w, &leaving{signal: ctx.Done()}); err != nil || ctx.Err() == nil {
			t.Errorf("after a day of silence: %v", err)
		}
		<-j.over
	})
}

// stuckOnce is a standard output that takes its first write after 80 seconds.
type stuckOnce struct{ stuck bool }

func (w *stuckOnce) Write(b []byte) (int, error) {
	if !w.stuck {
		w.stuck = true
		time.Sleep(peerTimeout + 5*time.Second)
	}
	return len(b), nil
}

// TestLongLinesKeepalive: what counts as silence begins anew with each packet of a long line. A server is alive though its lines
// waited for a stuck standard output, and is dead though a part of a line came right behind its first words.
func TestLongLinesKeepalive(t *testing.T) {
	s, c, _ := quietServer(t)
	talk := func(out io.Writer, welcome bool, server func(there net.Conn, sess *session)) (lasted time.Duration, err error) {
		synctest.Test(t, func(t *testing.T) {
			c.console.out = newOutput(out)
			j := joinOver(t, s, c, true)
			here, there := net.Pipe()
			go io.Copy(io.Discard, there)
			mine, err1 := newSession(here, &secrets{}, false, pipeTraffic)
			theirs, err2 := newSession(there, &secrets{}, true, pipeTraffic)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			c.seen = 0
			go server(there, theirs)
			if welcome { // which has been read before the session begins
				if _, _, err := mine.read(); err != nil {
					t.Error(err)
				}
			}
			begin := time.Now()
			defer time.AfterFunc(24*time.Hour, func() { there.Close() }).Stop()
			err = c.session(here, mine, j.w, &leaving{})
			lasted = time.Since(begin)
			there.Close()
			j.conn.Close()
			<-j.over
		})
		return lasted, err
	}
	packets := func(sess *session, kind byte, payload []byte) []byte {
		buf, err := sess.append(nil, kind, payload)
		if err != nil {
			t.Error(err)
		}
		return buf
	}

	const lines = 20
	lasted, err := talk(&stuckOnce{}, false, func(there net.Conn, sess *session) {
		var all []byte
		for i := range uint64(lines) {
			all = append(all, packets(sess, kindText, item{seq: i + 1, what: itemSay, name: "ann", text: make([]byte, 60000)}.append(nil))...)
		}
		there.Write(all)
		for range 10 { // five minutes
			if _, err := there.Write(packets(sess, kindPing, nil)); err != nil {
				return
			}
			time.Sleep(pingInterval)
		}
	})
	if c.seen != lines || lasted < 5*time.Minute {
		t.Errorf("%d of %d long lines were shown, in %v: %v", c.seen, lines, lasted, err)
	}

	lasted, err = talk(io.Discard, true, func(there net.Conn, sess *session) {
		there.Write(append(packets(sess, kindPing, nil), packets(sess, kindPart, []byte("a part"))...))
	})
	if lost := new(errLost); !errors.As(err, &lost) || lasted < peerTimeout || lasted > 90*time.Second {
		t.Errorf("a server that died in a line was found after %v: %v", lasted, err)
	}
}

// TestSilentClient: a client receives a ping pingInterval after the last write to it, and its goroutine waits in between.
func TestSilentClient(t *testing.T) {
	s, c, _ := quietServer(t)
	synctest.Test(t, func(t *testing.T) {
		j := joinOver(t, s, c, true)
		begin := time.Now()
		time.AfterFunc(pingInterval+10*time.Second, func() { enter(t, s.room, "cleo", "key c", 9) })
		for _, want := range []struct {
			kind byte
			at   time.Duration
		}{{kindPing, pingInterval}, {kindText, pingInterval + 10*time.Second}, {kindPing, 2*pingInterval + 10*time.Second}} {
			kind, _, err := j.sess.read()
			if at := time.Since(begin); kind != want.kind || at != want.at || err != nil {
				t.Errorf("kind %d came after %v, %v; want kind %d after %v", kind, at, err, want.kind, want.at)
			}
			synctest.Wait()
			s.room.mu.Lock()
			for m := range s.room.members {
				if m.peer.name == "anna" && !m.waiting {
					t.Errorf("after %v the goroutine of %s does not wait", want.at, m.name)
				}
			}
			s.room.mu.Unlock()
		}
		j.conn.Close()
		<-j.over
	})
}
