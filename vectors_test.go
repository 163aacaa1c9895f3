package main

// The vectors of both protocols. TestVectors runs each file of testdata/vectors with the program's own code; the format
// is in testdata/vectors/README.md. The generator is in vectors_make_test.go.

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"

	"golang.org/x/crypto/ssh"
)

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
		for b := v.hex(t, "payload"); len(b) > 0; {
			it, rest, err := cutItem(b)
			if err != nil {
				return out, err
			}
			put("item", fmt.Sprintf("%d %d %s %q %x", it.seq, it.time.UnixMilli(), itemNames[it.what], it.name, it.text))
			b = rest
		}
		return out, nil
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
