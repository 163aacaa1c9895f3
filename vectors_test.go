package main

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/ssh"
)

// The vectors of both protocols. TestVectors runs each file of testdata/vectors with the program's own code; the format
// is in testdata/vectors/README.md. The generator is in vectors_make_test.go.

const vectorFolder = "testdata/vectors"

// vector is one case: keys and values in order. The code under test produces the values whose key begins with "out ".
type vector struct {
	name   string
	fields [][2]string
}

func (v *vector) add(key, value string) { v.fields = append(v.fields, [2]string{key, value}) }

func (v *vector) all(key string) (values []string) {
	for _, f := range v.fields {
		if f[0] == key {
			values = append(values, f[1])
		}
	}
	return values
}

func (v *vector) get(key string) string { return strings.Join(v.all(key), "") }

func (v *vector) hex(t *testing.T, key string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.get(key))
	if err != nil {
		t.Fatalf("%s: %s: %v", v.name, key, err)
	}
	return b
}

func readVector(t testing.TB, path string) *vector {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v := &vector{name: filepath.Base(path)}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			t.Fatalf("%s: a line without a colon", path)
		}
		v.add(key, strings.TrimPrefix(value, " "))
	}
	return v
}

// TestVectors runs every vector.
func TestVectors(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(vectorFolder, "*.txt"))
	if err != nil || len(paths) < 200 {
		t.Fatalf("%d vectors, %v", len(paths), err)
	}
	for _, path := range paths {
		v := readVector(t, path)
		t.Run(v.name, func(t *testing.T) { checkVector(t, v) })
	}
}

// addVectors calls add with each input of one kind, for the seeds of a fuzz target.
func addVectors(f *testing.F, what, key string, add func(input []byte)) {
	f.Helper()
	paths, err := filepath.Glob(filepath.Join(vectorFolder, strings.ReplaceAll(what, " ", "-")+"-*.txt"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no vectors of %s: %v", what, err)
	}
	for _, path := range paths {
		for _, value := range readVector(f, path).all(key) {
			b, err := hex.DecodeString(value)
			if key == "code" {
				b, err = []byte(value), nil
			}
			if err != nil {
				f.Fatal(err)
			}
			if len(b) > frameHeader {
				add(b)
			}
		}
	}
}

// checkVector runs v and compares the result with what v expects.
func checkVector(t *testing.T, v *vector) {
	t.Helper()
	out, err := runVector(t, v)
	var want [][2]string
	for _, f := range v.fields {
		if strings.HasPrefix(f[0], "out ") {
			want = append(want, f)
		}
	}
	if !slices.Equal(out, want) {
		t.Errorf("%s: made\n%.600v\nwanted\n%.600v", v.name, out, want)
	}
	switch v.get("expect") {
	case "accept":
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	case "refuse":
		if err == nil || !strings.Contains(err.Error(), cmp.Or(v.get("check"), "no check named")) {
			t.Errorf("%s: %v, wanted %q", v.name, err, v.get("check"))
		}
	default:
		t.Errorf("%s expects nothing", v.name)
	}
}

// canned is a connection whose other side sends fixed bytes, whatever it receives.
type canned struct {
	net.Conn
	in  bytes.Reader
	out [][]byte
}

func cannedConn(wire ...[]byte) *canned {
	c := &canned{}
	c.in.Reset(slices.Concat(wire...))
	return c
}

func (c *canned) Read(b []byte) (int, error) { return c.in.Read(b) }
func (c *canned) Write(b []byte) (int, error) {
	c.out = append(c.out, bytes.Clone(b))
	return len(b), nil
}

// vectorRSA reads one of the vectors' RSA keys.
func vectorRSA(t *testing.T, name string) *rsa.PrivateKey {
	t.Helper()
	return testKey(t, filepath.Join("vectors", "keys", name+".pem"))
}

// vectorSigner returns one of the vectors' identities: the key files rsa and ecdsa, or an Ed25519 key whose seed is the
// name and zeros.
func vectorSigner(t *testing.T, name string) ssh.Signer {
	t.Helper()
	switch name {
	case "rsa":
		return keySigner(t, vectorRSA(t, "other"))
	case "ecdsa":
		data, err := os.ReadFile(filepath.Join(vectorFolder, "keys", "ecdsa.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return keySigner(t, key)
	}
	return fixedSigner(t, name)
}

// vectorParty returns a party with the identity and the encryption key of these names.
func vectorParty(t *testing.T, identity, encryption string, aes bool) *party {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 0) // for an ECDSA signature in the hello
	p := partyOf(t, vectorSigner(t, identity), vectorRSA(t, encryption))
	p.aes = aes
	return p
}

// runVector does what a vector says, with the program's own code.
func runVector(t *testing.T, v *vector) (out [][2]string, err error) {
	t.Helper()
	put := func(key, value string) { out = append(out, [2]string{"out " + key, value}) }
	putHex := func(key string, value []byte) { put(key, hex.EncodeToString(value)) }
	switch what := v.get("what"); what {
	case "handshake", "paper handshake":
		seed, err := strconv.ParseUint(v.get("seed"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		conn := cannedConn()
		for _, wire := range v.all("receive") {
			b, err := hex.DecodeString(wire)
			if err != nil {
				t.Fatal(err)
			}
			conn = cannedConn(append(readAll(&conn.in), b...))
		}
		if what == "handshake" {
			me := vectorParty(t, v.get("identity"), v.get("encryption"), v.get("aes") == "1")
			keys, err := vectorHandshake(t, v.get("side"), conn, me, seed, v.get("admit"))
			for _, wire := range conn.out {
				putHex("send", wire)
			}
			if errors.Is(err, errRefused) {
				stage, _, _ := strings.Cut(err.Error(), ":")
				put("refused", "in the place of "+stage)
				return out, nil
			}
			if err != nil {
				return out, err
			}
			putHex("digest", keys.digest[:])
			putHex("to server", keys.toServer[:])
			putHex("to client", keys.toClient[:])
			putHex("session id", keys.id[:])
			put("cipher", keys.cipher())
			return out, nil
		}
		key, err := vectorPaperHandshake(t, v.get("side"), conn, seed)
		for _, wire := range conn.out {
			putHex("send", wire)
		}
		if err == nil {
			putHex("session key", key[:])
		}
		return out, err
	case "packets":
		keys := secrets{digest: [64]byte(v.hex(t, "digest")), toServer: [64]byte(v.hex(t, "secret")),
			aes: v.get("cipher") == "AES-256-GCM"}
		s, err := newSession(cannedConn(v.hex(t, "stream")), &keys, true, chatTraffic)
		if err != nil {
			t.Fatal(err)
		}
		if before := v.get("before"); before != "" {
			n, err := strconv.Atoi(before)
			if err != nil {
				t.Fatal(err)
			}
			s.in.skip(n)
		}
		for {
			kind, payload, err := s.read()
			if err == errTruncated && s.packets.r == s.packets.w && s.partial == nil {
				return out, nil
			}
			if err != nil {
				return out, err
			}
			put("message", fmt.Sprintf("%d %x", kind, payload))
		}
	case "paper packets":
		p := newPaperConn(cannedConn(v.hex(t, "stream")), (*[32]byte)(v.hex(t, "key")))
		for {
			text, err := p.readText()
			if err == io.EOF {
				return out, nil
			}
			if err != nil {
				return out, err
			}
			putHex("text", text)
		}
	case "RSA-CBC":
		cbc := paperRSACBC
		if v.get("hash") == "SHA-256" {
			tr := transcript{midway: [64]byte(v.hex(t, "midway"))}
			stage, err := strconv.Atoi(v.get("stage"))
			if err != nil {
				t.Fatal(err)
			}
			cbc = tr.rsaCBC(byte(stage))
		}
		msg, err := cbc.open(vectorRSA(t, v.get("key")), v.hex(t, "sealed"))
		if err == nil {
			putHex("message", msg)
		}
		return out, err
	case "encryption key":
		key, err := parseEncryptionKey(v.hex(t, "wire"))
		if err == nil {
			put("bits", strconv.Itoa(key.N.BitLen()))
		}
		return out, err
	case "identity":
		id, err := parseIdentity(v.hex(t, "wire"))
		if err == nil {
			put("fingerprint", fingerprint(id))
		}
		return out, err
	case "join":
		j, err := parseJoin(v.hex(t, "payload"))
		if err == nil {
			putHex("stream", j.stream[:])
			put("flags", strconv.Itoa(int(j.flags)))
			putHex("epoch", j.epoch[:])
			put("seen", strconv.FormatUint(j.seen, 10))
		}
		return out, err
	case "welcome":
		w, err := parseWelcome(v.hex(t, "payload"))
		if err == nil {
			putHex("epoch", w.epoch[:])
			put("seq", strconv.FormatUint(w.seq, 10))
			put("present", strconv.FormatUint(w.present, 10))
			put("recorded", strconv.FormatUint(w.recorded, 10))
			put("flags", strconv.Itoa(int(w.flags)))
			put("name", w.name)
			put("server", w.server)
		}
		return out, err
	case "lines":
		l, err := parseLines(v.hex(t, "payload"), nil)
		if err == nil {
			put("first", strconv.FormatUint(l.first, 10))
			put("what", itemNames[l.what])
			put("to", l.to)
			for _, text := range l.texts {
				putHex("line", text)
			}
		}
		return out, err
	case "items":
		for b := v.hex(t, "payload"); ; {
			it, rest, err := cutItem(b)
			if err != nil {
				return out, err
			}
			put("item", fmt.Sprintf("%d %d %s %q %x", it.seq, it.time.UnixMilli(), itemNames[it.what], it.name, it.text))
			if b = rest; len(b) == 0 {
				return out, nil
			}
		}
	case "invite code":
		c, err := parseInviteCode(v.get("code"))
		if err == nil {
			putHex("server", c.server[:])
			putHex("key", c.key[:])
		}
		return out, err
	case "invite proof":
		if !bytes.Equal(inviteProof(v.hex(t, "key"), v.hex(t, "h0"), v.hex(t, "hpke"), v.hex(t, "wire")), v.hex(t, "proof")) {
			return nil, errors.New("the proof does not match")
		}
		return nil, nil
	default:
		t.Fatalf("%s: what is %q?", v.name, what)
	}
	return nil, nil
}

func readAll(r io.Reader) []byte {
	b, _ := io.ReadAll(r) // of a buffer: it cannot fail
	return b
}

// vectorHandshake runs one side on what the other side sends. Randomness follows from the seed. A server admits the
// client unless admit says otherwise.
func vectorHandshake(t *testing.T, side string, conn net.Conn, me *party, seed uint64, admit string) (*secrets, error) {
	cryptotest.SetGlobalRandom(t, seed)
	if side == "client" {
		return clientHandshake(conn, me, trustAll, nil)
	}
	keys, _, err := serverHandshake(conn, me, 0, func(_ ssh.PublicKey, _, _, _ []byte, confirmed bool) error {
		switch {
		case admit == "undecided":
			return &untrusted{kind: undecided, reason: "authorized_keys cannot be read"}
		case admit == "nobody", admit == "nobody at stage 3" && confirmed:
			return refuse("the client is not listed")
		}
		return nil
	})
	return keys, err
}

func vectorPaperHandshake(t *testing.T, side string, conn net.Conn, seed uint64) (key [32]byte, err error) {
	client, server := vectorRSA(t, "paper-client"), vectorRSA(t, "paper-server")
	cryptotest.SetGlobalRandom(t, seed)
	if side == "client" {
		return paperClientHandshake(conn, client, &server.PublicKey, 0, nil)
	}
	key, _, err = paperServerHandshake(conn, server,
		[]*rsa.PublicKey{&client.PublicKey, &vectorRSA(t, "paper-third").PublicKey}, 0, nil)
	return key, err
}

// The worked example in docs/PROTOCOL.md: one session with every secret and every frame. It is made from the vectors,
// and TestMakeVectors writes it. The document's formulas for keys are applied here as they stand there, without the
// program's key schedule.

const (
	protocolDocument = "docs/PROTOCOL.md"
	exampleBegin     = "## Example\n"
	exampleEnd       = "## The paper's own protocol\n"
)

// TestProtocolExample checks that the example in the document equals the vectors.
func TestProtocolExample(t *testing.T) {
	document, err := os.ReadFile(protocolDocument)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(document), exampleBegin)
	got, _, found := strings.Cut(rest, exampleEnd)
	if want := protocolExample(t); !found || got != want {
		t.Errorf("%s has another example than the vectors: run go test -tags vectors -run TestMakeVectors",
			protocolDocument)
	}
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(line) - 1; n > 120 {
			t.Errorf("a line of %d columns in the example: %.40s…", n, line)
		}
	}
}

// TestProtocolOfServer holds a server to what the document says about lines before the welcome, repeated lines, lines
// to the server, acks of a client that receives nothing, and the end of each session.
func TestProtocolOfServer(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	me := partyIn(t, guest(t, anna, addr, "bob"))
	for _, c := range []struct {
		name string
		sent []exampleMessage // in one write
		want string           // a pattern for the kinds and numbers received; an error ends them
	}{
		{"lines and close before the welcome", []exampleMessage{
			{kind: kindText, payload: linesOf(1, itemSay, "", "early")},
			{kind: kindClose, payload: []byte(closeText)},
		}, "welcome, ack 1, close, the connection ended without secure-close"},
		{"lines that are repeated", []exampleMessage{
			{kind: kindText, payload: linesOf(1, itemSay, "", "one", "two")},
			{kind: kindText, payload: linesOf(1, itemSay, "", "one", "two")},
			{kind: kindText, payload: linesOf(3, itemSay, "", "three")},
			{kind: kindText, payload: linesOf(2, itemSay, "", "two")},
			{kind: kindClose, payload: []byte(closeText)},
		}, "welcome, ack 3, close, the connection ended without secure-close"},
		{"a line to the server", []exampleMessage{
			{kind: kindText, payload: linesOf(1, itemDirect, "Anna", "psst")},
			{kind: kindClose, payload: []byte(closeText)},
		}, "welcome, ack 1, close, the connection ended without secure-close"},
		{"a number that is left out", []exampleMessage{
			{kind: kindText, payload: linesOf(5, itemSay, "", "a stream that is not known begins with 5")},
			{kind: kindText, payload: linesOf(7, itemSay, "", "6 is missing")},
		}, "welcome(, ack 5)?, the connection ended without secure-close"},
		{"an ack of a client without flag 1", []exampleMessage{
			{kind: kindAck, payload: make([]byte, 8)},
		}, "welcome, the connection ended without secure-close"},
	} {
		sess := openSession(t, addr, me)
		join := joinRequest{stream: streamID([]byte(c.name))}
		buf, err := sess.append(nil, kindJoin, join.encode())
		for _, m := range c.sent {
			if err == nil {
				buf, err = sess.append(buf, m.kind, m.payload)
			}
		}
		if err == nil {
			err = sess.write(buf)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(receivedKinds(sess), ", "); !regexp.MustCompile("^(" + c.want + ")$").MatchString(got) {
			t.Errorf("%s: received %s; the document says %q", c.name, got, c.want)
		}
	}
	server.out.match(t, `early\n(?s:.*)psst`)
}

// receivedKinds reads until an error, which is the last entry. Acks are merged if one follows another, because a server
// may acknowledge the lines of one write together or one after the other.
func receivedKinds(sess *session) (all []string) {
	sess.setReadTimeout(patience, false)
	for {
		kind, payload, err := sess.read()
		if err != nil {
			return append(all, err.Error())
		}
		word := map[byte]string{kindJoin: "welcome", kindText: "text", kindClose: "close"}[kind]
		if kind == kindAck {
			word = fmt.Sprintf("ack %d", binary.BigEndian.Uint64(payload))
			if strings.HasPrefix(all[len(all)-1], "ack") {
				all = all[:len(all)-1]
			}
		}
		all = append(all, word)
	}
}

// exampleMessage is one packet of the example, in the order in which the two sides send.
type exampleMessage struct {
	direction string
	words     string
	kind      byte
	payload   []byte
}

// exampleSession returns the packets of a client named anna in a room with bob.
func exampleSession() []exampleMessage {
	at := func(second int64) time.Time { return time.UnixMilli(1700000000000 + 1000*second) }
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	text := func(first uint64, what byte, to string, texts ...string) []byte {
		b := appendLinesHeader(nil, first, what, to)
		for _, text := range texts {
			b = appendLine(b, []byte(text))
		}
		return b
	}
	items := func(all ...item) (b []byte) {
		for _, it := range all {
			b = it.append(b)
		}
		return b
	}
	join := joinRequest{stream: streamID(bytes.Repeat([]byte{0xab}, 16)), flags: joinListens | joinPerson}
	w := welcome{epoch: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, name: "anna", server: "router"}
	said := item{3, at(3), itemSay, "bob", []byte("hi anna")}
	whispered := item{5, at(4), itemDirect, "bob", []byte("psst")}
	notice := func(second int64, text string) item { return item{0, at(second), itemNotice, "", []byte(text)} }
	return []exampleMessage{
		{toServer, "join: flags 1 and 2", kindJoin, join.encode()},
		{toClient, "welcome: seq, present and recorded 0, name anna, server router", kindJoin, w.encode()},
		{toServer, "text: lines 1 and 2, say", kindText, text(1, itemSay, "", "hello", "is bob here?")},
		{toClient, "ack: lines up to 2 are recorded", kindAck, number(2)},
		{toClient, "text: bob joined, message 3 is a say", kindText,
			items(item{0, at(2), itemJoin, "bob", nil}, said)},
		{toServer, "text: line 3, direct to bob, which becomes message 4", kindText,
			text(3, itemDirect, "bob", "psst")},
		{toClient, "text: message 5, direct from bob", kindText, items(whispered)},
		{toServer, "ack: messages up to 5 are written out", kindAck, number(5)},
		{toClient, "ack: line 3 is recorded and bob has read it", kindAck, number(3)},
		{toServer, "text: line 4, action", kindText, text(4, itemAction, "", "waves")},
		{toClient, "ack: lines up to 4 are recorded", kindAck, number(4)},
		{toServer, "who", kindWho, nil},
		{toClient, "text: a notice", kindText, items(notice(5, "2 here: anna, bob"))},
		{toServer, "history: the last 2 messages", kindHistory, number(2)},
		{toClient, "text: a notice, and messages 5 and 6, of which 6 is C's own line 4", kindText,
			items(notice(6, "the last 2 messages:"), whispered, item{6, at(5), itemAction, "anna", []byte("waves")})},
		{toServer, "text: line 5, direct to carl", kindText, text(5, itemDirect, "carl", "psst")},
		{toClient, "ack: lines up to 5 are recorded", kindAck, number(5)},
		{toClient, "text: undelivered", kindText, items(item{0, at(7), itemUndelivered, "",
			[]byte("nobody here is called carl; what you sent is in the log only")})},
		{toServer, "ack: messages up to 6 are written out", kindAck, number(6)},
		{toServer, "ping", kindPing, nil},
		{toClient, "ping", kindPing, nil},
		{toClient, "text: bob left", kindText, items(item{0, at(8), itemLeave, "bob", nil})},
		{toServer, "close", kindClose, []byte(closeText)},
		{toClient, "close", kindClose, []byte(closeText)},
	}
}

// exampleWriter writes the example's values.
type exampleWriter struct {
	strings.Builder
	t *testing.T
}

// value writes a value in hex, in lines of at most 120 columns.
func (e *exampleWriter) value(name string, b []byte) {
	const indent, digits = "    ", 112
	text := hex.EncodeToString(b)
	if len(text) <= 80 {
		fmt.Fprintf(e, "%-28s %s\n", name, text)
		return
	}
	fmt.Fprintf(e, "%s (%d bytes)\n", name, len(b))
	for len(text) > 0 {
		n := min(digits, len(text))
		e.WriteString(indent + text[:n] + "\n")
		text = text[n:]
	}
}

func (e *exampleWriter) begin(text string) { e.WriteString("\n" + text + "\n\n```text\n") }
func (e *exampleWriter) end()              { e.WriteString("```\n") }

// must fails the test after an error in the example.
func (e *exampleWriter) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// derive is the document's HKDF.
func (e *exampleWriter) derive(salt, ikm []byte, info string, n int) []byte {
	b, err := hkdf.Key(sha512.New, ikm, salt, info, n)
	e.must(err)
	return b
}

// expand is the document's Expand.
func (e *exampleWriter) expand(prk []byte, info string, n int) []byte {
	b, err := hkdf.Expand(sha512.New, prk, info, n)
	e.must(err)
	return b
}

// unbox is the inverse of the document's box. number is the last byte of the nonce.
func (e *exampleWriter) unbox(key []byte, number byte, sealed []byte) []byte {
	aead, err := chacha20poly1305.New(key)
	e.must(err)
	plain, err := aead.Open(nil, append(make([]byte, 11), number), sealed, nil)
	e.must(err)
	return plain
}

// stage opens a stage of the handshake and writes its values. id is the sender's, key the receiver's.
func (e *exampleWriter) stage(
	tr *transcript, n byte, id ssh.PublicKey, key *rsa.PrivateKey, body []byte, serials int,
) *stageMessage {
	_, rest, _ := cutVector(body)
	sealed, _, _ := cutVector(rest)
	m, err := tr.open(n, key, body, anySize, serials)
	e.must(err)
	e.must(tr.verify(m, id))
	cbc := tr.rsaCBC(n)
	_, b := cbc.sizes(&key.PublicKey)
	iv := sealed[len(sealed)-b:]
	e.value("t", tr.midway[:])
	e.value("fields", m.fields)
	e.value("signed statement", tr.statement(n, m.fields))
	e.value("sign", m.sign)
	e.value("IV", iv)
	e.value("label L of block 0 of 1", cbc.label(0, 1, iv))
	e.value("sealed", sealed)
	e.value(fmt.Sprintf("h after stage %d", n), tr.sum())
	return m
}

// vectorBytes returns the values of a key in a vector.
func vectorBytes(t *testing.T, v *vector, key string) (all [][]byte) {
	t.Helper()
	for _, value := range v.all(key) {
		b, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func exampleVector(t *testing.T, name string) *vector {
	t.Helper()
	return readVector(t, filepath.Join(vectorFolder, name+".txt"))
}

// protocolExample returns the text of the document's section.
func protocolExample(t *testing.T) string {
	e := &exampleWriter{t: t}
	e.WriteString(`
This is one session, from the files handshake-client-run, packets-example-to-server and packets-example-to-client of
[testdata/vectors](../testdata/vectors/README.md). Both sides send aes 1; after stage 4, a client that sends aes 0
differs in the cipher alone, of which a packet follows below. A refusal, an invite and that packet are of other
sessions. Values are in hex. TestMakeVectors writes this section from the files, and TestProtocolExample compares it
with them.
`)
	secrets := e.handshake(exampleVector(t, "handshake-client-run"))
	e.packets(secrets)
	e.otherMessages()
	e.refusal(exampleVector(t, "handshake-server-run-not-listed"), exampleVector(t, "handshake-client-run").hex(t, "ra"))
	e.chaCha(exampleVector(t, "packets-ChaCha20-Poly1305-payload-of-1"))
	e.invite()
	return e.String() + "\n"
}

// handshake writes the handshake of a vector of the client's side, and returns its secrets.
func (e *exampleWriter) handshake(v *vector) *secrets {
	t := e.t
	client, server := vectorParty(t, "client", "client", true), vectorParty(t, "server", "server", true)
	sent, received := vectorBytes(t, v, "out send"), vectorBytes(t, v, "receive")
	e.begin(`### Keys of the example

The seed of each Ed25519 key is the word client or server, followed by zeros to 32 bytes. p and q are the primes of the
RSA keys.`)
	for _, side := range []struct {
		name string
		*party
	}{{"C's", client}, {"S's", server}} {
		e.value(side.name+" identity", side.identity)
		e.value(side.name+" p", side.encryption.Primes[0].Bytes())
		e.value(side.name+" q", side.encryption.Primes[1].Bytes())
		e.value(side.name+" encryption key", marshalEncryptionKey(&side.encryption.PublicKey))
	}
	e.end()

	hello := received[0][frameHeader:]
	e.begin("### Hello of the example, S → C")
	e.value("Rs", hello[13:45])
	e.value("signed statement", helloStatement(marshalEncryptionKey(&server.encryption.PublicKey)))
	e.value("signature", hello[len(hello)-64:])
	e.value("frame", received[0])
	tr := &transcript{}
	h0 := tr.start(hello)
	e.value("h0", h0)
	e.end()

	e.begin("### Stage 1 of the example, C → S\n\nThe private HPKE key is X-Wing's seed: " +
		"SHAKE256 makes ML-KEM's d ‖ z and X25519's private key of it, 96 bytes.")
	ra, body := v.hex(t, "ra"), sent[0][frameHeader:]
	clearPart, _, _ := cutVector(body)
	boxKey := e.derive(h0, ra, "securechat/2 credential box", 32)
	e.value("Ra", ra)
	e.value("private HPKE key", v.hex(t, "hpke private key"))
	e.value("HPKE public key", clearPart[1:1+hpkePublicSize])
	e.value("box's key", boxKey)
	e.value("credential", e.unbox(boxKey, 0, clearPart[1+hpkePublicSize:]))
	e.stage(tr, 1, client.signer.PublicKey(), server.encryption, body, nonceSize)
	e.value("frame", sent[0])
	h1 := tr.sum()
	toClientKey := e.derive(h1, ra, "securechat/2 wrap server to client", 32)
	toServerKey := e.derive(h1, ra, "securechat/2 wrap client to server", 32)
	e.value("wrap key, S to C", toClientKey)
	e.value("wrap key, C to S", toServerKey)
	e.end()

	var enc, sm []byte
	for _, s := range []struct {
		heading   string
		n         byte
		key       []byte
		from, to  *party
		frame     []byte
		serials   int
		keepClear *[]byte
	}{
		{"### Stage 2 of the example, S → C", 2, toClientKey, server, client, received[1], 2 * nonceSize, &enc},
		{"### Stage 3 of the example, C → S", 3, toServerKey, client, server, sent[1], nonceSize, nil},
		{"### Stage 4 of the example, S → C", 4, toClientKey, server, client, received[2], smSize, nil},
	} {
		e.begin(s.heading)
		m := e.stage(tr, s.n, s.from.signer.PublicKey(), s.to.encryption,
			e.unbox(s.key, s.n, s.frame[frameHeader:]), s.serials)
		e.value("frame", s.frame)
		e.end()
		if s.keepClear != nil {
			*s.keepClear = m.clear
		}
		sm = m.serials()
	}
	return e.keys(v, tr.sum(), enc, sm)
}

// keys writes the keys of the session and compares them with the vector.
func (e *exampleWriter) keys(v *vector, h4, enc, sm []byte) *secrets {
	private, err := hpke.MLKEM768X25519().NewPrivateKey(v.hex(e.t, "hpke private key"))
	e.must(err)
	recipient, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte("securechat/2"))
	e.must(err)
	export, err := recipient.Export("securechat/2", 64)
	e.must(err)
	key, err := hkdf.Extract(sha512.New, slices.Concat(export, sm), h4)
	e.must(err)
	s := &secrets{digest: sha512.Sum512(key), aes: true}
	copy(s.toServer[:], e.expand(key, "securechat/2 client to server", 64))
	copy(s.toClient[:], e.expand(key, "securechat/2 server to client", 64))
	e.begin("### Keys of the session of the example")
	e.value("enc", enc)
	e.value("export", export)
	e.value("Sm", sm)
	e.value("key", key)
	e.value("digest", s.digest[:])
	e.value("to server", s.toServer[:])
	e.value("to client", s.toClient[:])
	e.value("id", e.expand(key, "securechat/2 session id", 16))
	e.value("packet key, C to S", e.expand(s.toServer[:], "securechat/2 packet key", 32))
	e.value("packet key, S to C", e.expand(s.toClient[:], "securechat/2 packet key", 32))
	e.end()
	derived := map[string][]byte{"digest": s.digest[:], "to server": s.toServer[:], "to client": s.toClient[:]}
	for name, value := range derived {
		if !bytes.Equal(value, v.hex(e.t, "out "+name)) {
			e.t.Errorf("the document's formulas give another %s than the vector", name)
		}
	}
	return s
}

// packets writes the packets of the session, which the vectors of both directions have.
func (e *exampleWriter) packets(s *secrets) {
	e.begin("### Packets of the example\n\n" +
		"The AEAD is AES-256-GCM. Each frame is the packet with the next number of its direction.")
	streams := map[string][]byte{}
	for direction, name := range map[string]string{toServer: "to-server", toClient: "to-client"} {
		streams[direction] = exampleVector(e.t, "packets-example-"+name).hex(e.t, "stream")
	}
	gcm := map[string]cipher.AEAD{}
	for direction, secret := range map[string][]byte{toServer: s.toServer[:], toClient: s.toClient[:]} {
		block, err := aes.NewCipher(e.expand(secret, "securechat/2 packet key", 32))
		e.must(err)
		gcm[direction], err = cipher.NewGCM(block)
		e.must(err)
	}
	sent := map[string]uint64{}
	for _, m := range exampleSession() {
		body, rest, ok := cutVector(streams[m.direction])
		nonce := binary.BigEndian.AppendUint64(make([]byte, 4), sent[m.direction])
		plain, err := gcm[m.direction].Open(nil, nonce, body, s.digest[:])
		e.must(err)
		msg := append([]byte{m.kind}, m.payload...)
		want := append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
		if !ok || !bytes.HasPrefix(plain, want) {
			e.t.Errorf("the vector has another packet than %q", m.words)
		}
		fmt.Fprintf(e, "%s  packet %d, %s\n", m.direction, sent[m.direction], m.words)
		e.value("  msg", msg)
		e.value("  plain", plain)
		e.value("  frame", appendVector(nil, body))
		streams[m.direction] = rest
		sent[m.direction]++
	}
	e.end()
}

// otherMessages writes the messages that the session has not.
func (e *exampleWriter) otherMessages() {
	e.begin("### Other messages of the example\n\nEach value is a msg, which is a kind and a payload.")
	removed := item{time: time.UnixMilli(1700000000000), what: itemRemoved, text: []byte(reasonRemoved)}
	e.value("removed, before a close", removed.append([]byte{kindText}))
	e.value("rekey", []byte{kindRekey})
	e.value("raw, 5 bytes", append([]byte{kindRaw}, "hello"...))
	e.value("raw, the end", []byte{kindRaw})
	e.value("ack of raw and its end", binary.BigEndian.AppendUint64([]byte{kindAck}, 6))
	welcomed := welcome{flags: welcomeRaw | welcomeBusy, name: "anna", server: "router"}
	e.value("welcome, raw and busy", append([]byte{kindJoin}, welcomed.encode()...))
	placed := joinRequest{flags: joinListens | joinPlace, epoch: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, seen: 5}
	copy(placed.stream[:], bytes.Repeat([]byte{0xab}, 16))
	e.value("join with a place", append([]byte{kindJoin}, placed.encode()...))
	e.end()
	e.WriteString(`
The text with line 6 of 5000 bytes has a payload of 5012 bytes. It is a part with the first 4059 of them, and a text
with the other 953.
`)
}

// refusal writes the refusal of a vector whose stage 1 is that of the example.
func (e *exampleWriter) refusal(v *vector, ra []byte) {
	sent, stage1 := vectorBytes(e.t, v, "out send"), v.hex(e.t, "receive")[frameHeader:]
	server := vectorParty(e.t, "server", "server", true)
	tr := &transcript{}
	tr.start(sent[0][frameHeader:])
	_, err := tr.open(1, server.encryption, stage1, anySize, nonceSize)
	e.must(err)
	sign := e.unbox(e.derive(tr.sum(), ra, "securechat/2 wrap server to client", 32), 255, sent[1][frameHeader:])
	e.must(verifyData(server.signer.PublicKey(), tr.refusalStatement(), sign))
	e.begin("### Refusal of the example\n\nS sends this in the place of stage 2 if it does not admit C.")
	e.value("signed statement", tr.refusalStatement())
	e.value("sign", sign)
	e.value("frame", sent[1])
	e.end()
}

// chaCha writes a vector of one packet with the other AEAD.
func (e *exampleWriter) chaCha(v *vector) {
	key := e.expand(v.hex(e.t, "secret"), "securechat/2 packet key", 32)
	aead, err := chacha20poly1305.New(key)
	e.must(err)
	frame := v.hex(e.t, "stream")
	plain, err := aead.Open(nil, make([]byte, 12), frame[frameHeader:], v.hex(e.t, "digest"))
	e.must(err)
	e.begin("### Packet with ChaCha20-Poly1305 of the example\n\nThis is packet 0 of another session.")
	e.value("digest", v.hex(e.t, "digest"))
	e.value("secret", v.hex(e.t, "secret"))
	e.value("packet key", key)
	e.value("plain", plain)
	e.value("frame", frame)
	e.end()
}

// invite writes an invite and a proof with its key.
func (e *exampleWriter) invite() {
	code, proof := exampleVector(e.t, "invite-code-good"), exampleVector(e.t, "invite-proof-good")
	secret, server := bytes.Repeat([]byte{9}, inviteSecret), code.hex(e.t, "out server")
	key := e.derive(server, secret, "securechat/2 invite key", 32)
	if !bytes.Equal(key, code.hex(e.t, "out key")) || !bytes.Equal(key, proof.hex(e.t, "key")) {
		e.t.Error("the document's formula gives another invite key than the vector")
	}
	e.begin("### Invite of the example\n\n" +
		"The proof is for the h0 below, an HPKE public key of 1216 bytes 03, and C's identity.")
	fmt.Fprintf(e, "code\n    %s\n", code.get("code"))
	e.value("server", server)
	e.value("secret", secret)
	e.value("invite key", key)
	e.value("h0", proof.hex(e.t, "h0"))
	e.value("proof", proof.hex(e.t, "proof"))
	e.end()
}
