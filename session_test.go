package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Sessions: messages in packets, changes of keys, and the layouts of messages.

// bufferConn is a connection whose buffer holds all that the other side has sent.
type bufferConn struct {
	net.Conn
	bytes.Buffer
}

func (b *bufferConn) Read(p []byte) (int, error) { return b.Buffer.Read(p) }

func (b *bufferConn) Write(p []byte) (int, error) { return b.Buffer.Write(p) }

func (b *bufferConn) SetWriteDeadline(time.Time) error { return nil }

// twoSessions returns both sides of a session and the buffer that each reads from.
func twoSessions(t testing.TB, aes bool) (client, server *session, toClient, toServer *bufferConn) {
	t.Helper()
	toClient, toServer = new(bufferConn), new(bufferConn)
	keys := secrets{digest: [64]byte{1}, toServer: [64]byte{2}, toClient: [64]byte{3}, aes: aes}
	forClient, forServer := keys, keys
	client, err := newSession(toClient, &forClient, false, chatTraffic)
	if err != nil {
		t.Fatal(err)
	}
	if server, err = newSession(toServer, &forServer, true, chatTraffic); err != nil {
		t.Fatal(err)
	}
	if forClient.toServer != [64]byte{} || forClient.toClient != [64]byte{} {
		t.Error("the secrets were not wiped")
	}
	return client, server, toClient, toServer
}

// putMessage appends a message to a buffer and returns its number of packets.
func putMessage(t testing.TB, s *session, to *bufferConn, kind byte, payload []byte) (packets int) {
	t.Helper()
	buf, err := s.append(nil, kind, payload)
	if err != nil {
		t.Fatal(err)
	}
	to.Write(buf)
	for ; len(buf) > 0; packets++ {
		var ok bool
		if _, buf, ok = cutVector(buf); !ok {
			t.Fatal("not a whole number of packets")
		}
	}
	return packets
}

// mustRead reads one message and fails if it is not the expected one.
func mustRead(t testing.TB, s *session, kind byte, payload []byte) {
	t.Helper()
	got, p, err := s.read()
	if err != nil || got != kind || !bytes.Equal(p, payload) {
		t.Fatalf("kind %d, %d bytes, %v; want kind %d, %d bytes", got, len(p), err, kind, len(payload))
	}
}

func wantReadError(t testing.TB, what string, s *session, want error) {
	t.Helper()
	if kind, payload, err := s.read(); !errors.Is(err, want) || kind != 0 || payload != nil {
		t.Errorf("%s: kind %d, %d bytes, %v; want %v", what, kind, len(payload), err, want)
	}
}

// TestReadyAfterTheEnd: a session can be asked for more after its connection has ended.
func TestReadyAfterTheEnd(t *testing.T) {
	here, there := net.Pipe()
	in, err := newSession(here, &secrets{}, false, pipeTraffic)
	if err != nil {
		t.Fatal(err)
	}
	out, err := newSession(there, &secrets{}, true, pipeTraffic)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- writeMessage(out, kindPing, nil); there.Close() }()
	if kind, _, err := in.read(); kind != kindPing || err != nil {
		t.Fatalf("kind %d: %v", kind, err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := in.read(); err != errTruncated {
			t.Errorf("reading after the end: %v", err)
		}
		if in.ready() {
			t.Error("a message is ready after the end")
		}
	}
}

func TestMessageSizes(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		client, server, toClient, toServer := twoSessions(t, aes)
		text := make([]byte, maxMessage+1)
		rand.Read(text)
		for _, n := range []int{0, 1, maxBatch - 1, maxBatch, maxBatch + 1, 2*maxBatch - 1, 2 * maxBatch, 2*maxBatch + 1,
			maxLine, maxMessage} {
			if packets, want := putMessage(t, client, toServer, kindText, text[:n]), max(1,
				(n+maxBatch-1)/maxBatch); packets != want {
				t.Errorf("%d bytes took %d packets, not %d", n, packets, want)
			}
			putMessage(t, client, toServer, kindPing, nil)
			mustRead(t, server, kindText, text[:n])
			mustRead(t, server, kindPing, nil)
			putMessage(t, server, toClient, kindText, text[:n])
			mustRead(t, client, kindText, text[:n])
		}
		putMessage(t, client, toServer, kindText, text)
		wantReadError(t, "one byte too many", server, errMalformed)
	})
}

func TestMessageParts(t *testing.T) {
	for what, c := range map[string]struct {
		kinds []byte
		sizes []int
	}{
		"an empty part":         {[]byte{kindPart}, []int{0}},
		"an empty part behind":  {[]byte{kindPart, kindPart}, []int{1, 0}},
		"an empty end":          {[]byte{kindPart, kindText}, []int{1, 0}},
		"parts without an end":  {bytes.Repeat([]byte{kindPart}, 17), slices.Repeat([]int{maxBatch}, 17)},
		"two bytes in parts":    {[]byte{kindPart, kindText}, []int{1, 1}},
		"a packet's in parts":   {[]byte{kindPart, kindPart, kindText}, []int{1, maxBatch - 2, 1}},
		"a ping in parts":       {[]byte{kindPart, kindPing}, []int{1, maxBatch - 1}},
		"a rekey with contents": {[]byte{kindRekey}, []int{1}},
	} {
		client, server, _, toServer := twoSessions(t, false)
		for i, kind := range c.kinds {
			toServer.Write(client.out.seal(nil, kind, make([]byte, c.sizes[i])))
		}
		wantReadError(t, what, server, errMalformed)
	}
	client, server, _, toServer := twoSessions(t, false)
	for _, kind := range []byte{kindPart, kindText} { // Parts need not fill their packets.
		toServer.Write(client.out.seal(nil, kind, make([]byte, maxBatch/2+1)))
	}
	mustRead(t, server, kindText, make([]byte, 2*(maxBatch/2+1)))
}

// TestRekey sets the counters near each of the limits. The keys change at the same packet on both sides, also within a
// message in parts, and the session continues.
func TestRekey(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		for what, set := range map[string]func(h *halfConn){
			"packets": func(h *halfConn) { h.packets = rekeyPackets - 3 },
			"bytes":   func(h *halfConn) { h.bytes = rekeyBytes - maxPacket - 2*maxPlain },
		} {
			client, server, _, toServer := twoSessions(t, aes)
			set(client.out)
			set(server.in)
			before, old := server.in.secret, *client.out
			text := make([]byte, 5*maxBatch)
			rand.Read(text)
			if packets := putMessage(t, client, toServer, kindText, text); packets != 6 {
				t.Errorf("%s: %d packets, not five and the rekey", what, packets)
			}
			mustRead(t, server, kindText, text)
			if server.in.secret == before || server.in.secret != client.out.secret || server.in.packets != 3 ||
				client.out.packets != 3 {
				t.Errorf("%s: %d and %d packets since the change", what, client.out.packets, server.in.packets)
			}
			putMessage(t, client, toServer, kindText, text[:1])
			mustRead(t, server, kindText, text[:1])
			old.nonce = client.out.nonce
			toServer.Write(old.seal(nil, kindText, nil))
			wantReadError(t, "the old key", server, errBadPacket)
		}
	})
}

// TestAppendRaw: bulk data that is sealed in place has the same wire form as its pieces, across a change of keys, for
// every length of the last piece, and also if the buffer has no room behind it.
func TestAppendRaw(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		for n := range 2*packetAlign + 1 {
			for _, n := range []int{n, maxBatch - n, 4*maxBatch + n} {
				for _, room := range []int{0, packetAlign} {
					bulk, _, _, _ := twoSessions(t, aes)
					pieces, _, _, _ := twoSessions(t, aes)
					bulk.out.packets, pieces.out.packets = rekeyPackets-3, rekeyPackets-3
					in := make([]byte, msgHeader+n, msgHeader+n+room)
					rand.Read(in)
					var want []byte
					for rest := in[msgHeader:]; len(rest) > 0; rest = rest[min(len(rest), maxBatch):] {
						var err error
						if want, err = pieces.append(want, kindRaw, rest[:min(len(rest), maxBatch)]); err != nil {
							t.Fatal(err)
						}
					}
					if got, err := bulk.appendRaw(nil, in); err != nil || !bytes.Equal(got, want) ||
						bulk.out.secret != pieces.out.secret || bulk.out.nonce != pieces.out.nonce {
						t.Errorf("%d bytes with room for %d more: %d bytes on the wire, not %d, or others; %v", n, room, len(got),
							len(want), err)
					}
				}
			}
		}
	})
}

// TestRekeyIsDue: a peer that keeps its old key for too long is rejected, and one that changes at the last permitted
// packet is not.
func TestRekeyIsDue(t *testing.T) {
	t.Parallel()
	for what, set := range map[string]func(h *halfConn){
		"packets": func(h *halfConn) { h.packets = rekeyPackets - 1 },
		"bytes":   func(h *halfConn) { h.bytes = rekeyBytes - packetAlign },
	} {
		client, server, _, toServer := twoSessions(t, false)
		set(server.in)
		toServer.Write(client.out.seal(nil, kindRekey, nil))
		if err := client.out.ratchet(); err != nil {
			t.Fatal(err)
		}
		toServer.Write(client.out.seal(nil, kindPing, nil))
		mustRead(t, server, kindPing, nil)

		client, server, _, toServer = twoSessions(t, false)
		set(server.in)
		toServer.Write(client.out.seal(nil, kindPing, nil))
		toServer.Write(client.out.seal(nil, kindPing, nil))
		mustRead(t, server, kindPing, nil)
		wantReadError(t, what, server, errBadPacket)
	}
	// The output of append is always accepted: the largest packets pass at each distance from the limit. The distances
	// near a packet's edge are all tested, the others in steps.
	for bytesLeft := int64(maxPacket-maxPlain) + 1; bytesLeft < 3*maxPacket; bytesLeft++ { // At least this much is left.
		if edge := bytesLeft % maxPacket; edge > 4*packetAlign && edge < maxPacket-4*packetAlign && bytesLeft%37 != 0 {
			continue
		}
		client, server, _, toServer := twoSessions(t, true)
		client.out.bytes = rekeyBytes - bytesLeft
		server.in.bytes = client.out.bytes
		for range 3 {
			putMessage(t, client, toServer, kindText, make([]byte, maxBatch))
		}
		if client.out.bytes > rekeyBytes {
			t.Errorf("with %d left: %d bytes under one key", bytesLeft, client.out.bytes)
		}
		for range 3 {
			mustRead(t, server, kindText, make([]byte, maxBatch))
		}
	}
}

// skip makes h continue as after n packets under the same key.
func (h *halfConn) skip(n int) {
	h.packets += int64(n)
	binary.BigEndian.PutUint64(h.nonce[4:], uint64(n))
}

// TestRekeyTooEarly: a peer that changes its key after fewer than 4096 packets and 1 MiB is rejected, for the first key
// and each further one, because a change costs the receiver much more than a packet. One that waits as long is not.
func TestRekeyTooEarly(t *testing.T) {
	for what, c := range map[string]struct {
		packets int64
		bytes   int64
		want    error
	}{
		"at once":                   {0, 0, errMalformed},
		"4095 packets":              {leastRekeyPackets - 2, 0, errMalformed},
		"4096 packets":              {leastRekeyPackets - 1, 0, nil},
		"almost a MiB":              {1, leastRekeyBytes - packetAlign - 1, errMalformed},
		"a MiB in one large packet": {1, leastRekeyBytes - packetAlign, nil},
	} {
		client, server, _, toServer := twoSessions(t, true)
		for range 3 {
			server.in.packets, server.in.bytes = c.packets, c.bytes
			toServer.Write(client.out.seal(nil, kindRekey))
			if err := client.out.ratchet(); err != nil {
				t.Fatal(err)
			}
			if c.want != nil {
				wantReadError(t, what, server, c.want)
				break
			}
			putMessage(t, client, toServer, kindPing, nil)
			mustRead(t, server, kindPing, nil)
		}
	}
}

// TestReadRefusals: each alteration of the stream ends the session with the right error.
func TestReadRefusals(t *testing.T) {
	make3 := func() (*session, *bufferConn, [][]byte) {
		client, server, _, toServer := twoSessions(t, false)
		var packets [][]byte
		for _, text := range []string{"one", "two", "three"} {
			buf, err := client.append(nil, kindText, []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			packets = append(packets, buf)
		}
		return server, toServer, packets
	}
	_, _, packets := make3()
	stream := bytes.Join(packets, nil)
	for i := range stream {
		server, to, _ := make3()
		to.Write(stream[:i])
		for _, text := range []string{"one", "two", "three"}[:i/len(packets[0])] {
			mustRead(t, server, kindText, []byte(text))
		}
		wantReadError(t, fmt.Sprintf("%d bytes of three packets", i), server, errTruncated)
	}
	for _, n := range []int{0, 1, packetAlign + aeadOverhead - 1, maxPacket - frameHeader + 1, 0xffff} {
		server, to, _ := make3()
		to.Write(append(binary.BigEndian.AppendUint16(nil, uint16(n)), make([]byte, n)...))
		wantReadError(t, fmt.Sprintf("a length of %d", n), server, errBadPacket)
	}
	for what, order := range map[string][]int{"twice": {0, 0}, "in the wrong order": {1, 0}, "one lost": {0, 2}} {
		server, to, packets := make3()
		for _, i := range order {
			to.Write(packets[i])
		}
		if order[0] == 0 {
			mustRead(t, server, kindText, []byte("one"))
		}
		wantReadError(t, what, server, errBadPacket)
	}
	client, _, toClient, _ := twoSessions(t, false)
	putMessage(t, client, toClient, kindText, []byte("to the server"))
	wantReadError(t, "reflected", client, errBadPacket)
}

func TestReady(t *testing.T) {
	client, server, _, toServer := twoSessions(t, false)
	if server.ready() {
		t.Error("nothing has come")
	}
	putMessage(t, client, toServer, kindPing, nil)
	putMessage(t, client, toServer, kindPing, nil)
	buf, err := client.append(nil, kindPing, nil)
	if err != nil {
		t.Fatal(err)
	}
	toServer.Write(buf[:len(buf)-1])
	mustRead(t, server, kindPing, nil)
	if !server.ready() {
		t.Error("the second packet is there")
	}
	mustRead(t, server, kindPing, nil)
	if server.ready() {
		t.Error("the third is not whole")
	}
	toServer.Write(buf[len(buf)-1:])
	mustRead(t, server, kindPing, nil)
}

// TestWriteDeadline: a peer that reads nothing blocks a writer for the write timeout and no longer.
func TestWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, other := net.Pipe()
		defer other.Close()
		sess, err := newSession(conn, &secrets{}, true, chatTraffic)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if err := sess.write([]byte("text")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != writeTimeout {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

// refusesPrefixes fails if parse accepts a proper prefix of b, or b with a byte appended.
func refusesPrefixes(t *testing.T, b []byte, parse func([]byte) error) {
	t.Helper()
	if err := parse(b); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	for i := range b {
		if err := parse(b[:i]); !errors.Is(err, errMalformed) {
			t.Errorf("the first %d of %d bytes: %v", i, len(b), err)
		}
	}
}

func TestJoinForm(t *testing.T) {
	j := joinRequest{stream: streamID{1, 2}, flags: joinFlags &^ joinLast, epoch: [8]byte{3}, seen: 1 << 60}
	if got, err := parseJoin(j.encode()); err != nil || got != j || len(j.encode()) != joinSize {
		t.Errorf("%v, %v", got, err)
	}
	parse := func(b []byte) error { _, err := parseJoin(b); return err }
	refusesPrefixes(t, j.encode(), parse)
	if parse(append(j.encode(), 0)) == nil {
		t.Error("a byte too many")
	}
	j.flags = joinFlags + 1
	if parse(j.encode()) == nil {
		t.Error("an unknown flag")
	}
}

func TestWelcomeForm(t *testing.T) {
	w := welcome{epoch: [8]byte{1}, seq: 2, present: 2, recorded: 1 << 63, flags: welcomeGap, name: "bob~12345678",
		server: strings.Repeat("s", maxName) + "~12345678@" + strings.Repeat("t", maxName)}
	for _, w := range []welcome{w, {name: "a", server: "b"}} {
		if got, err := parseWelcome(w.encode()); err != nil || got != w {
			t.Errorf("%v, %v", got, err)
		}
	}
	parse := func(b []byte) error { _, err := parseWelcome(b); return err }
	refusesPrefixes(t, w.encode(), parse)
	if parse(append(w.encode(), 0)) == nil {
		t.Error("a byte too many")
	}
	long := w.encode()
	long[len(long)-maxShown-1]++
	if parse(append(long, 's')) == nil {
		t.Error("a name too long")
	}
	for what, w := range map[string]welcome{
		"an unknown flag":              {flags: welcomeFlags + 1},
		"messages from the future":     {seq: 2, present: 1},
		"a busy room":                  {flags: welcomeBusy},
		"a forgotten stream, recorded": {flags: welcomeForgotten, recorded: 1},
	} {
		w.name, w.server = "a", "b"
		if err := parse(w.encode()); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, w := range []welcome{{flags: welcomeRaw | welcomeBusy}, {flags: welcomeForgotten, seq: 3, present: 3}} {
		w.name, w.server = "a", "b"
		if err := parse(w.encode()); err != nil {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

// notShown are names that no party of a room can have.
var notShown = []string{
	"-", "@", "a@", "@b", "a@b@c", "a@b~12345678", "a b@c", "a@b\n", "b\x1b[2J", "b\u202e", "../x", "a~", "~12345678",
	"a~1234567", "a~123456789", "a~123456789@b", "a~1234567g", "a~1234567G", "a~ABCDEF12", "a~1234-678", "a~........",
	strings.Repeat("n", maxName+1),
}

// longestName is the longest name that a party of a room can have.
var longestName = strings.Repeat("n", maxName) + "~0123abcd@" + strings.Repeat("s", maxName)

func linesOf(first uint64, what byte, to string, texts ...string) []byte {
	b := appendLinesHeader(nil, first, what, to)
	for _, text := range texts {
		b = appendLine(b, []byte(text))
	}
	return b
}

func TestLinesForm(t *testing.T) {
	parse := func(b []byte) error { _, err := parseLines(b, nil); return err }
	longest := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		what  byte
		to    string
		texts []string
	}{{itemSay, "", []string{"one", "", "three"}}, {itemAction, "", []string{""}}, {itemDirect, "bob", []string{"psst"}},
		{itemDirect, longestName, []string{longest}}, {itemDirect, "Bob~0123abcd", []string{"psst"}}} {
		b := linesOf(7, c.what, c.to, c.texts...)
		l, err := parseLines(b, [][]byte{})
		var texts []string
		for _, text := range l.texts {
			texts = append(texts, string(text))
		}
		if err != nil || l.first != 7 || l.what != c.what || l.to != c.to || !slices.Equal(texts, c.texts) ||
			len(b) > maxMessage {
			t.Errorf("%d texts for %q in %d bytes: %v, %v", len(texts), l.to, len(b), l.what, err)
		}
	}
	// A prefix that ends with a line is a message with fewer lines. No other prefix is a message.
	b := linesOf(1, itemDirect, "bob", "one", "two", strings.Repeat("x", 200))
	whole := map[int]bool{len(linesOf(1, itemDirect, "bob", "one")): true,
		len(linesOf(1, itemDirect, "bob", "one", "two")): true}
	for i := range b {
		if err := parse(b[:i]); (err == nil) != whole[i] || err != nil && !errors.Is(err, errMalformed) {
			t.Errorf("the first %d bytes: %v", i, err)
		}
	}
	for _, to := range notShown {
		if err := parse(linesOf(1, itemDirect, to, "x")); !errors.Is(err, errMalformed) {
			t.Errorf("direct to %q: %v", to, err)
		}
	}
	for what, b := range map[string][]byte{
		"no line":             linesOf(1, itemSay, ""),
		"a length of 2 bytes": append(linesOf(1, itemSay, ""), 0x81, 0x00, 'x'),
		"a length of 10 bytes": append(linesOf(1, itemSay, ""), 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00,
			'x'),
		"line number 0":         linesOf(0, itemSay, "", "x"),
		"a number near the end": linesOf(1<<62+1, itemSay, "", "x"), // The numbers of further lines would wrap around.
		"kind 0":                linesOf(1, 0, "", "x"),
		"what a server says":    linesOf(1, itemNotice, "", "x"),
		"a join":                linesOf(1, itemJoin, "", "x"),
		"direct to nobody":      linesOf(1, itemDirect, "", "x"),
		"said to somebody":      linesOf(1, itemSay, "bob", "x"),
		"a line too long":       linesOf(1, itemSay, "", longest+"x"),
		"a length without end":  append(linesOf(1, itemSay, ""), 0x80),
		"a length over 64 bits": append(linesOf(1, itemSay, ""), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"a length of 2^63":      append(linesOf(1, itemSay, ""), 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01),
		"a name too long":       append(append(linesOf(1, itemDirect, "")[:9], maxShown+1), make([]byte, maxShown+3)...),
		"more than one packet":  linesOf(1, itemSay, "", make([]string, maxBatch)...),
	} {
		if err := parse(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestItemForm(t *testing.T) {
	now := time.UnixMilli(time.Now().UnixMilli())
	var b []byte
	items := []item{
		{1, now, itemSay, "bob", []byte("hello")},
		{0, time.UnixMilli(0), itemNotice, "", nil},
		{0, now, itemLeave, longestName, bytes.Repeat([]byte("x"), maxLine)},
		{1<<64 - 1, time.UnixMilli(-1), itemDirect, "bob~12345678@pi", nil},
		{2, now, itemAction, "bob", []byte("waves")},
		{0, now, itemJoin, "bob", nil},
		{0, now, itemUndelivered, "", []byte("x")},
		{0, now, itemRemoved, "", []byte("x")},
	}
	for _, it := range items {
		b = it.append(b)
	}
	for _, want := range items {
		var it item
		var err error
		if it, b, err = cutItem(b); err != nil || it.seq != want.seq || !it.time.Equal(want.time) || it.what != want.what ||
			it.name != want.name || !bytes.Equal(it.text, want.text) {
			t.Fatalf("%v, %v", it, err)
		}
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left", len(b))
	}
	refusesPrefixes(t, items[0].append(nil), func(b []byte) error { _, _, err := cutItem(b); return err })
	for what, it := range map[string]item{
		"kind 0":          {1, now, 0, "bob", nil},
		"an unknown kind": {1, now, itemRemoved + 1, "bob", nil},
		"a text too long": {1, now, itemSay, "bob", make([]byte, maxLine+1)},

		"a say without a number":       {0, now, itemSay, "bob", []byte("x")},
		"an action without a number":   {0, now, itemAction, "bob", []byte("x")},
		"a direct line without number": {0, now, itemDirect, "bob", []byte("x")},
		"a join with a number":         {1, now, itemJoin, "bob", nil},
		"a leave with a number":        {1, now, itemLeave, "bob", nil},
		"a notice with a number":       {1, now, itemNotice, "", []byte("x")},
		"an undelivered with a number": {1, now, itemUndelivered, "", []byte("x")},
		"a removed with a number":      {1, now, itemRemoved, "", []byte("x")},

		"a say of no speaker":         {1, now, itemSay, "", []byte("x")},
		"an action of no speaker":     {1, now, itemAction, "", []byte("x")},
		"a direct line of no speaker": {1, now, itemDirect, "", []byte("x")},
		"a join of nobody":            {0, now, itemJoin, "", nil},
		"a leave of nobody":           {0, now, itemLeave, "", nil},
		"a notice of a speaker":       {0, now, itemNotice, "bob", []byte("x")},
		"an undelivered of a speaker": {0, now, itemUndelivered, "bob", []byte("x")},
		"a removed of a speaker":      {0, now, itemRemoved, "bob", []byte("x")},
		"a join with a text":          {0, now, itemJoin, "bob", []byte("x")},
	} {
		if _, _, err := cutItem(it.append(nil)); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range notShown {
		if _, _, err := cutItem(item{1, now, itemSay, name, []byte("x")}.append(nil)); !errors.Is(err, errMalformed) {
			t.Errorf("a say of %q: %v", name, err)
		}
	}
	short := items[1].append(nil)
	short[0]-- // The name's length is beyond the end.
	long := slices.Concat([]byte{items[1].append(nil)[0] | 0x80, 0}, items[1].append(nil)[1:])
	for what, b := range map[string][]byte{"short": short, "a length of two bytes": long, "nothing": nil} {
		if _, _, err := cutItem(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestReasonForm: the reason before a close is one notice and nothing else.
func TestReasonForm(t *testing.T) {
	of := func(it item) []byte { return it.append(nil) }
	notice := item{what: itemNotice, text: []byte("full")}
	if reason, err := parseReason(of(notice)); reason != "full" || err != nil {
		t.Errorf("%q, %v", reason, err)
	}
	refusesPrefixes(t, of(notice), func(b []byte) error { _, err := parseReason(b); return err })
	for what, b := range map[string][]byte{
		"two notices":    notice.append(of(notice)),
		"a byte more":    append(of(notice), 0),
		"a removed item": of(item{what: itemRemoved, text: []byte("x")}),
		"an undelivered": of(item{what: itemUndelivered, text: []byte("x")}),
		"a say":          of(item{seq: 1, what: itemSay, name: "bob", text: []byte("x")}),
		"a name":         of(item{what: itemNotice, name: "bob", text: []byte("x")}),
		"a number":       of(item{seq: 1, what: itemNotice, text: []byte("x")}),
	} {
		if reason, err := parseReason(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %q, %v", what, reason, err)
		}
	}
}

// TestLineReader checks where lines end, and that a line which is too long is dropped alone.
func TestLineReader(t *testing.T) {
	longest := strings.Repeat("x", maxLine)
	l := newLineReader(strings.NewReader("one\n\nthree\r\n"+longest+"\n"+longest+"yy\nsix\n"+longest+"y\n"+longest+"\r\n"+
		longest+longest), maxLine)
	for i, want := range []string{"one", "", "three", longest, "", "six", "", longest, ""} {
		line, err := l.next()
		var long errLongLine
		if i == 4 || i == 6 || i == 8 {
			if !errors.As(err, &long) || long.number != i+1 || !strings.Contains(err.Error(), fmt.Sprintf("line %d ", i+1)) {
				t.Errorf("line %d: %d bytes, %v", i+1, len(line), err)
			}
			continue
		}
		if err != nil || string(line) != want {
			t.Errorf("line %d: %d bytes, %v", i+1, len(line), err)
		}
	}
	if _, err := l.next(); err != io.EOF {
		t.Error(err)
	}
	l = newLineReader(strings.NewReader("no end"), maxLine)
	if line, err := l.next(); string(line) != "no end" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	broken := errors.New("broken")
	l = newLineReader(io.MultiReader(strings.NewReader("a\nb\nc"), brokenReader{broken}), maxLine)
	if l.ready() {
		t.Error("nothing was read yet")
	}
	for range 2 {
		if _, err := l.next(); err != nil {
			t.Error(err)
		}
	}
	if _, err := l.next(); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

func FuzzJoin(f *testing.F) {
	f.Add(joinRequest{stream: streamID{1}, flags: joinFlags &^ joinLast, seen: 7}.encode())
	f.Add([]byte{})
	addVectors(f, "join", "payload", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := parseJoin(b); err == nil && !bytes.Equal(j.encode(), b) {
			t.Error("encoded again it is something else")
		}
	})
}

func FuzzWelcome(f *testing.F) {
	f.Add(welcome{epoch: [8]byte{1}, seq: 2, present: 2, recorded: 3, flags: 1, name: "bob", server: "anna"}.encode())
	f.Add([]byte{})
	addVectors(f, "welcome", "payload", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := parseWelcome(b); err == nil && !bytes.Equal(w.encode(), b) {
			t.Error("encoded again it is something else")
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add(linesOf(1, itemSay, "", "one", "", "three"))
	f.Add(linesOf(9, itemDirect, "bob", "psst"))
	f.Add(linesOf(9, itemDirect, "bob~1234abcd@pi", "psst"))
	addVectors(f, "lines", "payload", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLines(b, nil)
		if err != nil {
			return
		}
		again := appendLinesHeader(nil, l.first, l.what, l.to)
		for _, text := range l.texts {
			again = appendLine(again, text)
		}
		l2, err := parseLines(again, nil)
		if err != nil || !bytes.Equal(again, b) || l2.first != l.first || l2.what != l.what || l2.to != l.to ||
			!slices.EqualFunc(l.texts, l2.texts, bytes.Equal) {
			t.Errorf("encoded again it is something else: %v", err)
		}
	})
}

func FuzzItem(f *testing.F) {
	f.Add(item{1, time.UnixMilli(1), itemSay, "bob", []byte("hello")}.append(nil))
	f.Add(item{0, time.UnixMilli(-1), itemNotice, "", nil}.append(nil))
	f.Add(item{0, time.UnixMilli(1), itemJoin, "bob~1234abcd@pi", nil}.append(nil))
	addVectors(f, "items", "payload", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		it, rest, err := cutItem(b)
		if err != nil {
			return
		}
		if !bytes.Equal(it.append(nil), b[:len(b)-len(rest)]) || !bytes.HasSuffix(b, rest) {
			t.Error("encoded again it is something else")
		}
	})
}

// TestUnknownKinds checks that a session ends with errMalformed at a packet of a kind that does not exist on the wire.
// One of them is kindSent, by which the paper's link reports lines that no server has acknowledged.
func TestUnknownKinds(t *testing.T) {
	for kind := range 256 {
		if kindFirst <= kind && kind <= kindLast {
			continue
		}
		client, server, _, toServer := twoSessions(t, false)
		toServer.Write(client.out.seal(nil, byte(kind), make([]byte, 8)))
		wantReadError(t, fmt.Sprintf("kind %d", kind), server, errMalformed)
	}
}

// TestReadyBehindRekey checks that ready looks behind a rekey: a rekey alone is no message, and the message behind it
// is one.
func TestReadyBehindRekey(t *testing.T) {
	client, server, _, toServer := twoSessions(t, false)
	for _, behind := range []bool{false, true} {
		client.out.bytes, server.in.bytes = leastRekeyBytes, leastRekeyBytes
		putMessage(t, client, toServer, kindPing, nil)
		toServer.Write(client.out.seal(nil, kindRekey))
		if err := client.out.ratchet(); err != nil {
			t.Fatal(err)
		}
		if behind {
			putMessage(t, client, toServer, kindText, []byte("behind"))
		}
		mustRead(t, server, kindPing, nil) // receives all
		if ready := server.ready(); ready != behind {
			t.Errorf("a message behind the rekey: %v; ready: %v", behind, ready)
		}
	}
	mustRead(t, server, kindText, []byte("behind"))
}

// TestSlowPacket checks that the read timeout bounds the time for a whole packet: single bytes do not renew it.
func TestSlowPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, other := net.Pipe()
		sess, err := newSession(conn, &secrets{}, true, chatTraffic)
		if err != nil {
			t.Fatal(err)
		}
		sess.setReadTimeout(peerTimeout, true)
		over := make(chan struct{})
		go func() { // ends when conn is closed
			defer close(over)
			for err := error(nil); err == nil; <-time.After(peerTimeout / 10) {
				_, err = other.Write([]byte{1})
			}
		}()
		begin := time.Now()
		_, _, err = sess.read()
		if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took != peerTimeout {
			t.Errorf("reading ended after %v with %v", took, err)
		}
		conn.Close()
		<-over
	})
}

// Packets: a packet opens once, in order, at the other end of its direction, and no other packet opens.

// halves returns both ends of one direction, with secrets derived from seed.
func halves(t testing.TB, aes bool, seed byte) (out, in *halfConn) {
	t.Helper()
	secret, digest := [64]byte{seed}, [64]byte{1, seed}
	for _, h := range []**halfConn{&out, &in} {
		var err error
		if *h, err = newHalfConn(&secret, &digest, aes); err != nil {
			t.Fatal(err)
		}
	}
	return out, in
}

// bothCiphers runs fn for each AEAD.
func bothCiphers(t *testing.T, fn func(t *testing.T, aes bool)) {
	t.Run("ChaCha20-Poly1305", func(t *testing.T) { fn(t, false) })
	t.Run("AES-256-GCM", func(t *testing.T) { fn(t, true) })
}

// sealPlain seals any plaintext as the body of the next packet.
func sealPlain(h *halfConn, plain []byte) []byte {
	body := h.aead.Seal(nil, h.nonce[:], plain, h.digest[:])
	h.count(len(plain))
	return body
}

// mustNotOpen fails if body opens, or if the attempt changes which packet opens next.
func mustNotOpen(t *testing.T, what string, in *halfConn, body []byte) {
	t.Helper()
	before := *in
	if kind, payload, err := in.open(bytes.Clone(body)); !errors.Is(err, errBadPacket) || kind != 0 || payload != nil {
		t.Errorf("%s: kind %d, %d bytes, %v", what, kind, len(payload), err)
	}
	if in.nonce != before.nonce || in.packets != before.packets || in.bytes != before.bytes {
		t.Errorf("%s: the rejected packet was counted", what)
	}
}

func TestPacketSizes(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		out, in := halves(t, aes, 0)
		payload := make([]byte, maxMsg-1)
		rand.Read(payload)
		for n := range maxMsg {
			frame := out.seal([]byte("before"), byte(n), payload[:n])[len("before"):]
			body, rest, ok := cutVector(frame)
			if !ok || len(rest) != 0 || len(frame) > maxPacket || len(body)%packetAlign != 0 ||
				len(body)-n > 2*packetAlign+msgLenSize {
				t.Fatalf("%d bytes: the packet has %d", n, len(frame))
			}
			kind, got, err := in.open(body)
			if err != nil || kind != byte(n) || !bytes.Equal(got, payload[:n]) {
				t.Fatalf("%d bytes: kind %d, %d bytes, %v", n, kind, len(got), err)
			}
		}
		if out.packets != maxMsg || in.packets != out.packets || in.bytes != out.bytes {
			t.Errorf("counted %d and %d packets, %d and %d bytes", out.packets, in.packets, out.bytes, in.bytes)
		}
		if len(out.seal(nil, 1, payload))+packetAlign <= maxPacket {
			t.Error("a larger packet would fit the limit")
		}
	})
}

// TestPacketForm checks that packets of the wrong form are rejected also from a peer that has the keys.
func TestPacketForm(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		plain := func(size int, msgLen uint32, fill byte) []byte {
			p := bytes.Repeat([]byte{fill}, size)
			binary.BigEndian.PutUint32(p, msgLen)
			return p
		}
		for what, p := range map[string][]byte{
			"nothing":             {},
			"15 bytes":            plain(15, 1, 0),
			"17 bytes":            plain(17, 1, 0),
			"no kind":             plain(16, 0, 0),
			"longer than it is":   plain(16, 13, 0),
			"4 GiB":               plain(32, 0xffffffff, 0),
			"padding of 16 bytes": plain(32, 12, 0),
			"padding of a packet": plain(maxPlain, 1, 0),
			"padding not zero":    plain(16, 11, 1),
			"last byte not zero":  append(plain(15, 1, 0), 1),
		} {
			out, in := halves(t, aes, 0)
			mustNotOpen(t, what, in, sealPlain(out, p))
		}
		out, in := halves(t, aes, 0)
		for _, p := range [][]byte{plain(16, 12, 7), plain(32, 13, 0), append(plain(15, 11, 7), 0)} {
			if _, _, err := in.open(sealPlain(out, p)); err != nil {
				t.Errorf("%x: %v", p, err)
			}
		}
	})
}

// TestPacketRefusals changes, repeats, reorders and reflects packets.
func TestPacketRefusals(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		out, in := halves(t, aes, 0)
		first := out.seal(nil, kindText, []byte("the first packet"))[frameHeader:]
		second := out.seal(nil, kindText, []byte("the second"))[frameHeader:]
		for i := range first {
			for bit := range 8 {
				flipped := bytes.Clone(first)
				flipped[i] ^= 1 << bit
				mustNotOpen(t, fmt.Sprintf("byte %d, bit %d", i, bit), in, flipped)
			}
			mustNotOpen(t, fmt.Sprintf("%d bytes of it", i), in, first[:i])
		}
		mustNotOpen(t, "a byte more", in, append(bytes.Clone(first), 0))
		mustNotOpen(t, "the second one first", in, second)
		other, _ := halves(t, aes, 1)
		mustNotOpen(t, "of another secret", in, other.seal(nil, kindText, nil)[frameHeader:])
		otherDigest, _ := halves(t, aes, 0)
		otherDigest.digest[0] ^= 1
		mustNotOpen(t, "of another digest", in, otherDigest.seal(nil, kindText, nil)[frameHeader:])
		otherCipher, _ := halves(t, !aes, 0)
		mustNotOpen(t, "of the other cipher", in, otherCipher.seal(nil, kindText, nil)[frameHeader:])
		if _, payload, err := in.open(bytes.Clone(first)); err != nil || string(payload) != "the first packet" {
			t.Fatal(err)
		}
		mustNotOpen(t, "the first one twice", in, first)
		if _, _, err := in.open(bytes.Clone(second)); err != nil {
			t.Fatal(err)
		}
		mustNotOpen(t, "the first one later", in, first)
	})
}

// TestNonces checks that a nonce is used once with one key, and that the numbers continue when the key changes.
func TestNonces(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		out, in := halves(t, aes, 0)
		old := *out
		for i := range uint64(1000) {
			if got := binary.BigEndian.Uint64(out.nonce[4:]); got != i || [4]byte(out.nonce[:4]) != [4]byte{} {
				t.Fatalf("packet %d has nonce %x", i, out.nonce)
			}
			if i%300 == 299 {
				before := out.secret
				if err := errors.Join(out.ratchet(), in.ratchet()); err != nil {
					t.Fatal(err)
				}
				if out.secret == before || out.secret != in.secret || out.packets != 0 || out.bytes != 0 {
					t.Fatal("the ratchet did not replace the secret")
				}
				old.nonce = out.nonce
				mustNotOpen(t, "of the old key", in, old.seal(nil, kindText, nil)[frameHeader:])
			}
			if _, _, err := in.open(out.seal(nil, kindText, nil)[frameHeader:]); err != nil {
				t.Fatal(err)
			}
		}
		out.wipe()
		if out.secret != [64]byte{} || out.aead != nil {
			t.Error("the secret is still there")
		}
	})
}

func FuzzPacket(f *testing.F) {
	out, _ := halves(f, false, 0)
	f.Add(out.seal(nil, kindText, []byte("text"))[frameHeader:], false)
	f.Add([]byte{0, 0, 0, 1, kindPing, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Add(make([]byte, 32), true)
	addVectors(f, "packets", "stream", func(b []byte) { f.Add(b[frameHeader:], false) })
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		out, in := halves(t, false, 0)
		if sealed { // as only a peer with the keys can do
			b = sealPlain(out, b)
		}
		n := len(b)
		kind, payload, err := in.open(b)
		if err != nil {
			if !errors.Is(err, errBadPacket) || payload != nil {
				t.Error(err, payload)
			}
			return
		}
		again, _ := halves(t, false, 0)
		if want := again.seal(nil, kind, payload); sealed && n <= maxPacket-frameHeader && len(want) != frameHeader+n {
			t.Errorf("a packet of %d bytes, where %d are enough", n, len(want)-frameHeader)
		}
	})
}

func benchmarkPacket(b *testing.B, run func(b *testing.B, aes bool, size int)) {
	for _, aes := range []bool{false, true} {
		for _, size := range []int{100, maxMsg - 1} {
			b.Run(fmt.Sprintf("aes=%v/%d", aes, size), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size))
				run(b, aes, size)
			})
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	benchmarkPacket(b, func(b *testing.B, aes bool, size int) {
		out, _ := halves(b, aes, 0)
		payload, buf := make([]byte, size), make([]byte, 0, maxPacket)
		for b.Loop() {
			out.seal(buf, kindText, payload)
		}
	})
}

// BenchmarkOpen opens one packet repeatedly, by setting the nonce back.
func BenchmarkOpen(b *testing.B) {
	benchmarkPacket(b, func(b *testing.B, aes bool, size int) {
		out, in := halves(b, aes, 0)
		frame := out.seal(nil, kindText, make([]byte, size))
		body := make([]byte, len(frame)-frameHeader)
		for b.Loop() {
			copy(body, frame[frameHeader:])
			in.nonce = [12]byte{}
			if _, _, err := in.open(body); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestForeignProtocols: what else may listen on a port or call it is named by its first bytes, before a frame of its
// length could be there.
func TestForeignProtocols(t *testing.T) {
	hello := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	for first, want := range map[string]string{
		"SSH-2.0-OpenSSH_9.2\r\n": "an SSH", "HTTP/1.1 400 Bad Request\r\n": "an HTTP", "GET / HTTP/1.1\r\n": "an HTTP",
		"POST / HTTP/1.1\r\n": "an HTTP", "220 mail ESMTP\r\n": "an SMTP or FTP", "220-mail\r\n": "an SMTP or FTP",
		"EHLO x\r\n": "an SMTP or FTP", string(hello): "a TLS",
	} {
		r, w := net.Pipe()
		go w.Write([]byte(first)) // the pipe stays open
		_, err := readFrame(r, maxHandshakeFrame)
		var foreign errForeign
		if !errors.As(err, &foreign) || string(foreign) != want || !errors.Is(err, errMalformed) {
			t.Errorf("%q: %v, not %s", first, err, want)
		}
		r.Close()
	}
	hello[8]++ // the lengths do not match
	frame := append(hello, make([]byte, 0x1603)...)[:frameHeader+0x1603]
	if body, err := readFrame(bytes.NewReader(frame), maxHandshakeFrame); err != nil || !bytes.Equal(body, frame[2:]) {
		t.Errorf("a frame that only begins like TLS: %d bytes, %v", len(body), err)
	}
}
