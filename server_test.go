package main

// The server in this process: how connections end (one record with one reason each), which packets it rejects, and how
// it batches messages that have already arrived.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// quietServer returns a server, a client with the same identity, which each of them lists, and the server's output.
func quietServer(t *testing.T) (*server, *client, *bytes.Buffer) {
	t.Helper()
	r, _ := quietRoom(t)
	var notes bytes.Buffer
	me := partyOf(t, fixedSigner(t, "server"), onceKeys["server"]())
	tr := openTrust(t.TempDir(), me.signer.PublicKey(), "anna", nil)
	// A pipe has no local address, so the server's own key must be listed.
	put(t, tr.path("authorized_keys"), []byte(publicLine(tr.own, "anna")))
	put(t, tr.path("known_hosts"), []byte("[127.0.0.1]:9000 "+publicLine(tr.own, "")))
	s, err := newServer(serverConfig{
		endpoint: endpoint{&securechat2{me: me, trust: tr}, me.signer.PublicKey(), "anna", tr}, log: r.log,
		clients: maxClients,
		console: unstartedConsole(strings.NewReader(""), &notes),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.freeMemory.Stop() })
	proto := &securechat2{me: me, trust: tr, client: securechat2Client{addr: "127.0.0.1:9000"}}
	c := newClient(clientConfig{
		endpoint: endpoint{protocol: proto, trust: tr}, addr: "127.0.0.1:9000",
		console: unstartedConsole(strings.NewReader(""), io.Discard),
	})
	return s, c, &notes
}

// serveConn serves one connection to its end.
func serveConn(s *server, conn net.Conn) {
	var wg sync.WaitGroup
	e, rejected := s.gate.enter(conn, remoteIP(conn.RemoteAddr()), time.Now())
	if rejected != nil {
		panic(rejected)
	}
	s.handle(conn, e, &wg, s.join)
	wg.Wait()
}

// TestServerDeadline: the server closes the connection of a client that stalls at any point up to its first packet when
// the deadline passes, and sends nothing. It then serves the next client.
func TestServerDeadline(t *testing.T) {
	s, c, notes := quietServer(t)
	for frames := range 3 {
		synctest.Test(t, func(t *testing.T) {
			here, middle := net.Pipe()
			inside, there := net.Pipe()
			begin := time.Now()
			go func() {
				for range frames {
					if body, err := readFrame(middle, maxHandshakeFrame); err == nil {
						inside.Write(appendVector(nil, body))
					}
				}
			}()
			go func() {
				for { // Relays to the client until the server ends.
					body, err := readFrame(inside, maxHandshakeFrame)
					if err != nil {
						middle.Close()
						return
					}
					middle.Write(appendVector(nil, body))
				}
			}()
			go c.join(t.Context(), here)
			serveConn(s, there)
			if d := time.Since(begin); d != handshakeTimeout || len(s.gate.entries) != 0 {
				t.Errorf("%d frames: it ended after %v with %d handshakes in progress", frames, d, len(s.gate.entries))
			}
			printNotes(s.console)
			if !strings.Contains(notes.String(), "did not answer in time") {
				t.Errorf("%d frames: the operator saw %q", frames, notes)
			}
			notes.Reset()
			here.Close()
			middle.Close()
			synctest.Wait()
		})
	}
}

// TestServerReportsBusy: the server does not blame a client's trust if the client leaves while others wait for their
// turn.
func TestServerReportsBusy(t *testing.T) {
	s, _, notes := quietServer(t)
	for waiting, want := range []string{"perhaps because it does not trust this server's key yet",
		"while handshakes waited for the processor (1): this server is busy"} {
		synctest.Test(t, func(t *testing.T) {
			s.turns = newTurns(waiting ^ 1)
			if waiting == 1 {
				go s.turns.take(true)
				synctest.Wait()
				defer s.turns.end()
			}
			here, there := net.Pipe()
			go serveConn(s, there)
			if _, err := readFrame(here, maxHandshakeFrame); err != nil {
				t.Error(err)
			}
			synctest.Wait() // until the server reads: a pipe has another error before that
			here.Close()
			synctest.Wait()
		})
		printNotes(s.console)
		if !strings.Contains(notes.String(), "it left before saying who it is, "+want) {
			t.Errorf("the operator saw %q", notes)
		}
		notes.Reset()
	}
}

// TestServerRefusals: any violation by an admitted client ends its connection without an answer. The log has the
// reason, and the next client is served.
func TestServerRefusals(t *testing.T) {
	s, c, _ := quietServer(t)
	message := func(kind byte, payload []byte) func(*session) ([]byte, error) {
		return func(sess *session) ([]byte, error) { return sess.append(nil, kind, payload) }
	}
	for what, do := range map[string]struct {
		send func(*session) ([]byte, error)
		want string
	}{
		"secure-close":         {message(kindClose, []byte(closeText)), "left"},
		"another closing word": {message(kindClose, []byte("bye")), errMalformed.Error()},
		"an unknown kind":      {message(99, nil), errMalformed.Error()},
		"kind 0":               {message(0, nil), errMalformed.Error()},
		"an acknowledgement":   {message(kindAck, bytes.Repeat([]byte{1}, 8)), errMalformed.Error()},
		"a second join":        {message(kindJoin, joinRequest{}.encode()), errMalformed.Error()},
		"raw bytes":            {message(kindRaw, []byte("x")), errMalformed.Error()},
		"lines of no form":     {message(kindText, []byte("x")), errMalformed.Error()},
		"no line":              {message(kindText, linesOf(1, itemSay, "")), errMalformed.Error()},
		"to what is no name":   {message(kindText, linesOf(1, itemDirect, "b\x1b[2J", "x")), errMalformed.Error()},
		"an overlong length":   {message(kindText, append(linesOf(1, itemSay, ""), 0x81, 0, 'x')), errMalformed.Error()},
		"needless parts": {func(sess *session) ([]byte, error) {
			buf, err := sess.append(nil, kindPart, []byte("x"))
			if err != nil {
				return nil, err
			}
			return sess.append(buf, kindPing, []byte("x"))
		}, errMalformed.Error()},
		"a gap": {func(sess *session) ([]byte, error) {
			buf, err := sess.append(nil, kindText, linesOf(7, itemSay, "", "x"))
			if err != nil {
				return nil, err
			}
			return sess.append(buf, kindText, linesOf(9, itemSay, "", "x"))
		}, "line 9 came after line 7: " + errMalformed.Error()},
		"parts without an end": {message(kindText, make([]byte, maxMessage+1)), errMalformed.Error()},
		"a packet that is none": {func(*session) ([]byte, error) { return appendVector(nil, make([]byte, 32)), nil },
			errBadPacket.Error() + ": possible man-in-the-middle attack"},
		"nothing more": {func(*session) ([]byte, error) { return nil, nil }, "nothing heard from it for too long"},
		"half a packet": {func(*session) ([]byte, error) {
			return []byte{0, 32, 1}, nil
		}, "nothing heard from it for too long"},
	} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			go serveConn(s, there)
			c := newClient(c.clientConfig)
			joined, err := c.join(t.Context(), here)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			sess := joined.link.(*session)
			buf, err := do.send(sess)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := here.Write(buf); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%s: %v", what, err)
			}
			kind, payload, err := byte(kindPing), []byte(nil), error(nil)
			for (kind == kindPing || kind == kindAck) && err == nil {
				kind, payload, err = sess.read()
			}
			if do.want == "left" && (kind != kindClose || string(payload) != closeText) || do.want != "left" &&
				!errors.Is(err, errTruncated) {
				t.Errorf("%s: the client got kind %d, %q, %v", what, kind, payload, err)
			}
			here.Close()
			synctest.Wait()
		})
		all := records(t, s.log.path)
		if last := all[len(all)-1]; last["event"] != eventDisconnect || last["reason"] != do.want {
			t.Errorf("%s: the log says %v", what, last)
		}
		if len(s.room.members) != 0 {
			t.Errorf("%s: it is still in the room", what)
		}
	}
}

// TestFirstPacketRefusals: a client's first packet must be a join.
func TestFirstPacketRefusals(t *testing.T) {
	s, c, notes := quietServer(t)
	for what, payload := range map[string][]byte{"a text": linesOf(1, itemSay, "", "x"),
		"a join of no form": make([]byte, joinSize-1)} {
		kind := map[bool]byte{true: kindText, false: kindJoin}[what == "a text"]
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			go serveConn(s, there)
			here.SetDeadline(time.Now().Add(handshakeTimeout))
			keys, err := clientHandshake(here, c.protocol.(*securechat2).me, trustAll, nil)
			if err != nil {
				t.Fatal(err)
			}
			sess, err := newSession(here, keys, false, chatTraffic)
			if err != nil {
				t.Fatal(err)
			}
			buf, err := sess.append(nil, kind, payload)
			if err != nil {
				t.Fatal(err)
			}
			here.Write(buf)
			wantReadError(t, what, sess, errTruncated)
			here.Close()
			synctest.Wait()
		})
		printNotes(s.console)
		if !strings.Contains(notes.String(), "first packet: "+errMalformed.Error()) {
			t.Errorf("%s: the operator saw %q", what, notes)
		}
		notes.Reset()
	}
	for _, r := range records(t, s.log.path) {
		if r["event"] != eventRefused && r["event"] != eventRoom {
			t.Errorf("the log has %v", r)
		}
	}
}

// scriptLink is a link that returns messages. All of them have arrived already, except that a nil message makes a read
// wait. Each read takes one second, and payloads share memory, as a session's do.
type scriptLink struct {
	link     // A nil interface: no other method may be called.
	messages []*scriptMessage
	payload  []byte
}

type scriptMessage struct {
	kind    byte
	payload []byte
	err     error
}

func (l *scriptLink) ready() bool { return len(l.messages) > 0 && l.messages[0] != nil }

func (l *scriptLink) dropped() <-chan struct{} { return nil }

func (l *scriptLink) read() (byte, []byte, error) {
	if len(l.messages) == 0 {
		return 0, nil, errTruncated
	}
	time.Sleep(time.Second)
	if l.messages[0] == nil {
		l.messages = l.messages[1:]
	}
	m := l.messages[0]
	l.messages = l.messages[1:]
	clear(l.payload)
	l.payload = append(l.payload[:0], m.payload...)
	return m.kind, l.payload, m.err
}

// TestGathered: messages that arrived together are recorded together, in order and once, whatever follows them.
func TestGathered(t *testing.T) {
	text := func(first uint64, what byte, to string, texts ...string) *scriptMessage {
		return &scriptMessage{kind: kindText, payload: linesOf(first, what, to, texts...)}
	}
	say := func(first uint64, texts ...string) *scriptMessage { return text(first, itemSay, "", texts...) }
	var many []*scriptMessage
	var manyHeard []string
	for i := range batchLines + 2 {
		many = append(many, say(uint64(i+1), fmt.Sprint(i)))
		manyHeard = append(manyHeard, fmt.Sprintf("%vs say bob %d", batchLines+1+i/batchLines, i))
	}
	long := strings.Repeat("x", batchBytes)
	bye := &scriptMessage{kind: kindClose, payload: []byte(closeText)}
	broken := &scriptMessage{err: errBadPacket}
	for _, c := range []struct {
		name     string
		messages []*scriptMessage
		// The other member's items, each with the second at which it was recorded, when the batch was full or more arrived.
		heard []string
		err   error
	}{
		{"one after another", []*scriptMessage{say(1, "a"), nil, say(2, "b")}, []string{"1s say bob a", "2s say bob b"}, nil},
		{"together", []*scriptMessage{say(1, "a", "b"), say(3, ""), say(4, "d")},
			[]string{"3s say bob a", "3s say bob b", "3s say bob ", "3s say bob d"}, nil},
		{"another kind of line", []*scriptMessage{say(1, "a"), text(2, itemAction, "", "nods"),
			text(3, itemDirect, "anna", "psst"), text(4, itemDirect, "cleo", "psst"), say(5, "b")},
			[]string{"2s say bob a", "3s action bob nods", "4s direct bob psst", "5s say bob b"}, nil},
		{"said again", []*scriptMessage{say(1, "a", "b"), say(2, "b", "c"), say(1, "a"), say(4, "d")},
			[]string{"2s say bob a", "2s say bob b", "3s say bob c", "4s say bob d"}, nil},
		{"a gap", []*scriptMessage{say(1, "a"), say(2, "b"), say(4, "d")}, []string{"3s say bob a", "3s say bob b"},
			errMalformed},
		{"malformed", []*scriptMessage{say(1, "a"), say(2, "b"), {kind: kindText, payload: []byte("?")}, say(3, "c")},
			[]string{"3s say bob a", "3s say bob b"}, errMalformed},
		{"half malformed", []*scriptMessage{say(1, "a"), {kind: kindText, payload: append(say(2, "b").payload, 9)}},
			[]string{"2s say bob a"}, errMalformed},
		{"a kind that is none", []*scriptMessage{say(1, "a"), {kind: kindRaw}}, []string{"2s say bob a"}, errMalformed},
		{"a forged packet", []*scriptMessage{say(1, "a"), say(2, "b"), broken}, []string{"3s say bob a", "3s say bob b"},
			errBadPacket},
		{"a ping between", []*scriptMessage{say(1, "a"), {kind: kindPing}, say(2, "b")},
			[]string{"2s say bob a", "3s say bob b"}, nil},
		{"goodbye", []*scriptMessage{say(1, "a"), say(2, "b"), bye, say(3, "c")}, []string{"3s say bob a", "3s say bob b"},
			errLeft},
		{"too many lines", many, manyHeard, nil},
		{"too many bytes", []*scriptMessage{say(1, "a"), say(2, long), say(3, "c"), say(4, "d")},
			[]string{"2s say bob a", "2s say bob " + long, "4s say bob c", "4s say bob d"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, _ := quietServer(t)
			synctest.Test(t, func(t *testing.T) {
				anna, _ := enter(t, s.room, "anna", "key a", 1)
				bob, _ := enter(t, s.room, "bob", "key b", 2)
				heard(t, s.room, anna)
				began := time.Now()
				l := &scriptLink{messages: c.messages}
				want := c.err
				if want == nil {
					want = errTruncated // No more messages follow.
				}
				if err := s.read(bob, l); !errors.Is(err, want) {
					t.Errorf("it ended with %v, not %v", err, want)
				}
				var got []string
				items, _ := take(s.room, anna)
				for _, enc := range items {
					it, _, err := cutItem(enc)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, fmt.Sprintf("%vs %s %s %s", it.time.Sub(began).Seconds(), itemNames[it.what], it.name, it.text))
				}
				if !slices.Equal(got, c.heard) {
					t.Errorf("received %q", got)
				}
			})
		})
	}
}

// TestGatheredWaits: a complete line is not delayed by what follows it late, such as the rest of a line in parts or the
// packets after a change of keys.
func TestGatheredWaits(t *testing.T) {
	line := func(n uint64, text string) []byte { return linesOf(n, itemSay, "", text) }
	for _, rekey := range []bool{false, true} {
		s, _, _ := quietServer(t)
		synctest.Test(t, func(t *testing.T) {
			anna, _ := enter(t, s.room, "anna", "key a", 1)
			bob, _ := enter(t, s.room, "bob", "key b", 2)
			heard(t, s.room, anna)
			client, server, _, _ := twoSessions(t, true)
			here, there := net.Pipe()
			server.conn, server.packets.conn = there, there
			server.setReadTimeout(peerTimeout, true)
			long := strings.Repeat("x", maxBatch)
			if rekey {
				client.out.packets, server.in.packets, long = rekeyPackets-2, rekeyPackets-2, "y"
			}
			first, err1 := client.append(nil, kindText, line(1, "short"))
			second, err2 := client.append(nil, kindText, line(2, long))
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			_, after, ok := cutVector(second) // The rest is a part of a line, or the change of keys.
			if !ok || len(after) == 0 {
				t.Fatal("it went into one packet")
			}
			ended := make(chan error, 1)
			go func() { ended <- s.read(bob, server) }()
			here.Write(append(first, second[:len(second)-len(after)]...))
			synctest.Wait()
			wantHeard(t, s.room, anna, "say bob short")
			here.Write(after[:1])
			synctest.Wait()
			here.Write(after[1:])
			synctest.Wait()
			wantHeard(t, s.room, anna, "say bob "+long)
			here.Close()
			if err := <-ended; !errors.Is(err, errTruncated) {
				t.Error(err)
			}
		})
	}
}

// joined is a client in the room of a quietServer, over a pipe. The test reads and writes for it.
type joined struct {
	s      *server
	c      *client
	conn   net.Conn // its end
	server *peer
	sess   *session
	w      welcome
	over   chan struct{} // closed when the server is done with it
}

// asTCP is a pipe whose reader gets TCP's error after its own Close.
type asTCP struct{ net.Conn }

func (c asTCP) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == io.ErrClosedPipe {
		err = net.ErrClosed
	}
	return n, err
}

// joinOver lets c join s inside a synctest bubble. With fresh, it gets a new stream.
func joinOver(t *testing.T, s *server, c *client, fresh bool) *joined {
	t.Helper()
	here, there := net.Pipe()
	over := make(chan struct{})
	go func() {
		defer close(over)
		serveConn(s, asTCP{there})
	}()
	again := newClient(c.clientConfig) // its channels belong to the bubble
	if !fresh {
		again.stream = c.stream
	}
	c = again
	conn, err := c.join(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	return &joined{s, c, here, conn.server, conn.link.(*session), conn.welcome, over}
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

// TestConnectionEndReasons: every way in which a client's connection can end is in the log once, with its own reason.
func TestConnectionEndReasons(t *testing.T) {
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
		{"left, and the line is cut at once", "left", func(t *testing.T, j *joined) {
			j.send(t, kindClose, []byte(closeText))
			j.conn.Close()
		}},
		{"killed", errTruncated.Error(), func(t *testing.T, j *joined) {
			drain(j)
			synctest.Wait() // Otherwise a write of the server to a closed pipe would be the reason.
			j.conn.Close()
		}},
		{"slow", reasonSlow, func(t *testing.T, j *joined) { speak(t, j, queueBytes/maxLine+1) }},
		{"stuck", "slow consumer: it does not read", func(t *testing.T, j *joined) { speak(t, j, 1) }},
		{"kicked", reasonRemoved, func(t *testing.T, j *joined) { drain(j); j.s.room.kick("anna") }},
		{"kicked, and stuck", reasonRemoved, func(t *testing.T, j *joined) { j.s.room.kick("anna") }},
		{"kicked, and killed", reasonRemoved, func(t *testing.T, j *joined) { j.s.room.kick("anna"); j.conn.Close() }},
		{"replaced", "replaced by a newer connection", func(t *testing.T, j *joined) {
			drain(j)
			<-joinOver(t, j.s, j.c, false).over // The log has the end after that.
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
			l.record(recordOf(time.Now(), eventRotate, nil, "", ""), nil)
		}},
		{"server stop", "the server is stopping", func(t *testing.T, j *joined) {
			drain(j)
			j.s.room.close("the server is stopping")
		}},
		{"server stop, and stuck", "the server is stopping", func(t *testing.T, j *joined) {
			j.s.room.close("the server is stopping")
		}},
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
				// This is the newer connection.
				reasons = slices.DeleteFunc(reasons, func(r any) bool { return r == "slow consumer: it does not read" })
			}
			if !slices.Equal(reasons, []any{c.want}) {
				t.Errorf("the log's reasons: %q, not %q", reasons, c.want)
			}
		})
	}
}

// TestKeepalive: each side detects a dead peer within 90 seconds, whether the network still accepts data or not, and
// keeps a connection to a peer that is idle but alive.
func TestKeepalive(t *testing.T) {
	t.Parallel()
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
			here, there := net.Pipe() // From here on the server is dead.
			j.sess.conn, j.sess.packets.conn = here, here
			begin := time.Now()
			if takes {
				go io.Copy(io.Discard, there)
			}
			var lost *errLost
			if err := j.c.session(&clientConn{here, j.server, j.sess, j.w}); !errors.As(err, &lost) {
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
		time.AfterFunc(24*time.Hour, func() { j.c.leave(errQuit) })
		if err := j.c.session(&clientConn{j.conn, j.server, j.sess, j.w}); err != nil || j.c.leaving.Err() == nil {
			t.Errorf("after a day of silence: %v", err)
		}
		<-j.over
	})
}

// stuckOnce is a stdout whose first write takes 80 seconds.
type stuckOnce struct{ stuck bool }

func (w *stuckOnce) Write(b []byte) (int, error) {
	if !w.stuck {
		w.stuck = true
		time.Sleep(peerTimeout + 5*time.Second)
	}
	return len(b), nil
}

// TestLongLinesKeepalive: each packet of a long line restarts the silence timeout. A server counts as alive although
// its lines waited for a stuck stdout, and as dead although a part of a line arrived right after its first packets.
func TestLongLinesKeepalive(t *testing.T) {
	s, c, _ := quietServer(t)
	var seen uint64
	talk := func(out io.Writer, welcome bool, server func(net.Conn, *session)) (lasted time.Duration, err error) {
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
			j.c.place.seen = 0
			go server(there, theirs)
			if welcome { // The welcome has been read before the session starts.
				if _, _, err := mine.read(); err != nil {
					t.Error(err)
				}
			}
			begin := time.Now()
			defer time.AfterFunc(24*time.Hour, func() { there.Close() }).Stop()
			err = j.c.session(&clientConn{here, j.server, mine, j.w})
			seen = j.c.place.seen
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
			all = append(all,
				packets(sess, kindText, item{seq: i + 1, what: itemSay, name: "ann", text: make([]byte, 60000)}.append(nil))...)
		}
		there.Write(all)
		for range 10 { // These are five minutes.
			if _, err := there.Write(packets(sess, kindPing, nil)); err != nil {
				return
			}
			time.Sleep(pingInterval)
		}
	})
	if seen != lines || lasted < 5*time.Minute {
		t.Errorf("%d of %d long lines were shown, in %v: %v", seen, lines, lasted, err)
	}

	lasted, err = talk(io.Discard, true, func(there net.Conn, sess *session) {
		there.Write(append(packets(sess, kindPing, nil), packets(sess, kindPart, []byte("a part"))...))
	})
	if lost := new(errLost); !errors.As(err, &lost) || lasted < peerTimeout || lasted > 90*time.Second {
		t.Errorf("a server that died in a line was found after %v: %v", lasted, err)
	}
}

// TestSilentClient: a client receives a ping pingInterval after the last write to it, and its goroutine waits in
// between.
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
				if m.peer.name == "anna" && m.writer.running {
					t.Errorf("after %v the goroutine of %s still runs", want.at, m.name)
				}
			}
			s.room.mu.Unlock()
		}
		j.conn.Close()
		<-j.over
	})
}

// TestNonListenerKept: a client that receives no lines (-norelay, -paper) is never a slow consumer, however many lines
// the room gets between two of its pings, and its lines are acknowledged.
func TestNonListenerKept(t *testing.T) {
	t.Parallel()
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
					t.Errorf("the client that receives no lines got kind %d, %v; want %d", kind, err, want)
				}
				j.conn.Close()
				<-j.over
			})
		})
	}
}

// TestAfterKick: a kicked client receives no line that was sent after the kick.
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
	for n := uint64(5); n < 1000; n++ { // Anna reads once per round while the room goes on.
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
		t.Errorf("after the kick the client received %d more messages", heard)
	}
}

// TestCuriousClientLeaves: a client that has to leave gets its goodbye although it asks for the list of the members
// again and again.
func TestCuriousClientLeaves(t *testing.T) {
	r, _ := quietRoom(t)
	anna, _ := enter(t, r, "anna", "key a", 1)
	r.who(anna)
	r.expel(anna)
	var d *delivery
	for range 3 {
		r.who(anna) // while the goroutine that delivers is about to send
		d, _ = r.next(anna, nil)
	}
	if d == nil || !d.goodbye || d.reason != reasonNotAdmitted {
		t.Errorf("the client stays: %+v", d)
	}
}

// TestBusyClientHearsReason: a client that keeps sending receives the reason for its end: a kick, or the server's stop.
func TestBusyClientHearsReason(t *testing.T) {
	t.Parallel()
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
				c = newClient(c.clientConfig)
				joined, err := c.join(t.Context(), conn)
				if err != nil {
					t.Fatal(err)
				}
				l := joined.link
				acked, ended := make(chan struct{}, 1), make(chan error, 1)
				go func() {
					for {
						kind, _, err := l.read()
						if err != nil || kind == kindClose {
							ended <- err
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
						if err := writeMessage(l, kindText, linesOf(n, itemSay, "", "a line")); err != nil {
							return
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				}()
				select {
				case <-acked:
				case err := <-ended:
					t.Fatalf("the session ended before a line was acknowledged: %v", err)
				}
				if how == "kick" {
					if err := s.room.kick("anna"); err != nil {
						t.Fatal(err)
					}
				} else {
					s.room.close("the server is stopping")
				}
				select {
				case err := <-ended:
					if err == nil {
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
				t.Errorf("%d of %d busy clients received the reason", told, rounds)
			}
		})
	}
}

// serveInBackground makes a server serve a connection whose other end is here, until over is closed.
func serveInBackground(t *testing.T, s *server) (here net.Conn, over chan struct{}) {
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close() })
	over = make(chan struct{})
	go func() {
		defer close(over)
		serveConn(s, asTCP{there})
	}()
	return here, over
}

// TestTurnedAwayFreesPlace checks that a client that is turned away after its handshake does not keep a place.
func TestTurnedAwayFreesPlace(t *testing.T) {
	s, c, _ := quietServer(t)
	here, over := serveInBackground(t, s)
	if _, _, _, err := c.protocol.dial(newPacedConn(here, nil, nil), joinRequest{flags: joinRaw}); err != nil {
		t.Fatal(err)
	}
	<-over
	if n := s.limits.keys[fingerprint(s.id)].places; n != 0 {
		t.Errorf("%d places are taken", n)
	}
}

// TestRecheck checks which sessions a server ends: none while it cannot read its files, and without a change of them
// those whose admission has expired. A key that was expelled counts as one that has never been here.
func TestRecheck(t *testing.T) {
	s, _, _ := quietServer(t)
	list := s.trust.path("authorized_keys")
	line := readText(t, list)
	m := stubMember("anna", fingerprint(s.id), 1)
	m.peer.key, m.peer.remote = s.id, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	if _, err := s.room.join(m, joinRequest{}, true); err != nil {
		t.Fatal(err)
	}
	check := func(what string, changed bool, want string) {
		t.Helper()
		s.recheck(changed)
		if m.ending.reason != want {
			t.Fatalf("%s: the session ends by %q, want %q", what, m.ending.reason, want)
		}
	}
	check("nothing has changed", true, "")
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(list, 0o700); err != nil {
		t.Fatal(err)
	}
	check("authorized_keys cannot be read", true, "")
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	put(t, list, []byte(`expiry-time="20200101" `+line))
	check("no expiry is known of the session", false, "")
	s.room.renew(m, time.Now().Add(-time.Second))
	check("the admission has expired", false, reasonNotAdmitted)
	s.room.leave(m, "")
	if _, known := s.room.visitors.byKey[m.peer.fingerprint]; known {
		t.Error("the first visit of an expelled key is still known")
	}

	// The same for a key that is away when its admission ends: its line is removed, or expires.
	visit := func(lines string, until time.Time) {
		t.Helper()
		put(t, list, []byte(lines))
		m := stubMember("anna", fingerprint(s.id), 1)
		m.peer.key, m.peer.remote, m.peer.until = s.id, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, until
		if _, err := s.room.join(m, joinRequest{}, true); err != nil {
			t.Fatal(err)
		}
		s.room.leave(m, "")
	}
	known := func() bool { _, known := s.room.visitors.byKey[m.peer.fingerprint]; return known }
	visit(line, time.Time{})
	if s.recheck(true); !known() {
		t.Error("a key that is away and still admitted is forgotten")
	}
	put(t, list, nil)
	if s.recheck(true); known() {
		t.Error("a key that lost its line while it was away is still known")
	}
	visit(`expiry-time="20200101" `+line, time.Now().Add(-time.Second))
	if s.recheck(false); known() {
		t.Error("a key that expired while it was away is still known")
	}
	visit(line, time.Now().Add(-time.Second))
	if s.recheck(false); !known() || !s.room.visitors.byKey[m.peer.fingerprint].until.IsZero() {
		t.Error("a key whose line was renewed while it was away is forgotten, or still expires")
	}

	// The same for a key that came before the start, of which only the log is left.
	before := func(lines, listed string, until time.Time) *visitor {
		t.Helper()
		put(t, list, []byte(lines))
		s.room.visitors = newVisitors()
		s.room.restore(appendRecord(nil, time.Now(), eventConnect, peerFields(fmt.Sprintf(
			`,"name":"anna","fingerprint":"%s","since":0%s,"until":"%s"`, fingerprint(s.id), listed,
			until.UTC().Format(recordTime))), "", ""), false)
		s.recheck(false)
		return s.room.visitors.byKey[fingerprint(s.id)]
	}
	past, future := time.Now().Add(-time.Second), time.Now().Add(time.Hour)
	if before(`expiry-time="20200101" `+line, `,"listed":true`, past) != nil {
		t.Error("a key from before the start whose line has expired is still known")
	}
	if before("", "", past) != nil {
		t.Error("a key from before the start whose certificate has expired is still known")
	}
	if v := before("", "", future); v == nil || !v.until.Equal(future.Truncate(time.Microsecond)) {
		t.Error("a key from before the start whose certificate is valid is forgotten")
	}
	if v := before(`expiry-time="20200101" `+line+`expiry-time="20990101" `+line, `,"listed":true`, past); v == nil ||
		v.until.Year() < 2090 {
		t.Error("a key from before the start whose line was renewed is forgotten, or still expires")
	}
	if v := before(line, `,"listed":true`, past); v == nil || !v.until.IsZero() {
		t.Error("a key from before the start whose new line has no expiry is forgotten, or still expires")
	}
}

// TestRevokedBeforeJoining: a client that is admitted, and that lets the server wait for its first message until its
// key is revoked, is checked again after it has joined.
func TestRevokedBeforeJoining(t *testing.T) {
	s, c, _ := quietServer(t)
	here, over := serveInBackground(t, s)
	secrets, err := clientHandshake(here, c.protocol.(*securechat2).me, trustAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	sess, err := newSession(here, secrets, false, pipeTraffic)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s.trust.path("revoked_keys"), []byte(publicLine(s.id, "")))
	s.recheck(true) // as after the change, when the client is no member yet
	req := joinRequest{stream: c.stream, flags: joinListens}
	if err := writeMessage(sess, kindJoin, req.encode()); err != nil {
		t.Fatal(err)
	}
	if kind, _, err := sess.read(); kind != kindJoin || err != nil {
		t.Fatal(kind, err)
	}
	select {
	case <-s.recheckAll:
	case <-time.After(patience):
		t.Fatal("no further check is due")
	}
	s.recheck(true)
	for err == nil {
		var kind byte
		if kind, _, err = sess.read(); kind == kindClose {
			here.Close()
			<-over
			return
		}
	}
	t.Errorf("the session of a revoked key ended with %v", err)
}

func TestJoinCommands(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{
		"[::]:9000":      "securechat -connect localhost:9000 here, securechat -connect " + host + ":9000 from elsewhere",
		"0.0.0.0:9000":   "securechat -connect localhost:9000 here, securechat -connect " + host + ":9000 from elsewhere",
		"127.0.0.1:9000": "securechat -connect localhost:9000 here",
		"[::1]:9000":     "securechat -connect localhost:9000 here",
		"192.0.2.1:9000": "securechat -connect 192.0.2.1:9000",
	} {
		if got := joinCommands(addr, ""); got != want {
			t.Errorf("%s: %q, not %q", addr, got, want)
		}
	}
}
