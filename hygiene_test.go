package main

// What becomes of keys: they are overwritten, they reach no output, and later theft of the long-term ones opens nothing
// that was recorded, but in -paper.

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// TestKeysOverwritten looks at the structs and slices that held a session's keys.
func TestKeysOverwritten(t *testing.T) {
	tr := transcript{}
	tr.start([]byte("hello"))
	export, sm := bytes.Repeat([]byte{1}, 64), bytes.Repeat([]byte{2}, smSize)
	keys, err := tr.newSecrets(export, sm, true)
	if err != nil {
		t.Fatal(err)
	}
	if !zero(export) || !zero(sm) {
		t.Error("HPKE's secret or Sm outlives the session's secrets")
	}
	sess, err := newSession(&bufferConn{}, keys, true, chatTraffic)
	if err != nil {
		t.Fatal(err)
	}
	if !zero(keys.toServer[:]) || !zero(keys.toClient[:]) {
		t.Error("the secrets outlive the session's start")
	}
	old := sess.out.secret
	if err := sess.out.ratchet(); err != nil || sess.out.secret == old || zero(sess.out.secret[:]) {
		t.Errorf("a rekey did not overwrite the old secret: %v", err)
	}
	sess.wipe()
	if !zero(sess.in.secret[:]) || !zero(sess.out.secret[:]) || sess.in.aead != nil || sess.out.aead != nil {
		t.Error("wipe leaves a key")
	}
	key := [32]byte{1}
	paper := newPaperServerLink(&bufferConn{}, &key)
	if !zero(key[:]) {
		t.Error("-paper: the session key outlives the handshake")
	}
	paper.wipe()
	if paper.block != nil {
		t.Error("-paper: wipe leaves the key")
	}
}

func zero(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }

// TestNoKeyByValue: a panic's trace shows the arguments of its functions, arrays and structs byte by byte. So no key is
// handed over by value, only by pointer or as a slice. Hashes of log records are no secret.
func TestNoKeyByValue(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") || f == "record.go" || f == "log.go" || f == "verify.go" {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			decl, ok := n.(*ast.FuncDecl)
			if !ok {
				return true
			}
			params := decl.Type.Params.List
			if decl.Recv != nil {
				params = append(slices.Clone(params), decl.Recv.List...)
			}
			for _, p := range params {
				array, ok := p.Type.(*ast.ArrayType)
				name, _ := p.Type.(*ast.Ident)
				if ok && array.Len != nil || name != nil && slices.Contains([]string{"secrets", "halfConn", "session", "inviteCode", "invite", "paperConn", "party", "wrapper"}, name.Name) {
					t.Errorf("%s: %s takes a key by value", f, decl.Name.Name)
				}
			}
			return true
		})
	}
}

// secretsIn is what must not be told of the keys in a state folder.
func secretsIn(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, name := range []string{"identity", "encryption"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := ssh.ParseRawPrivateKey(data)
		if err != nil {
			t.Fatal(err)
		}
		switch key := raw.(type) {
		case *ed25519.PrivateKey:
			all[dir+" identity"] = key.Seed()
		case *rsa.PrivateKey:
			all[dir+" d"], all[dir+" p"], all[dir+" q"] = key.D.Bytes(), key.Primes[0].Bytes(), key.Primes[1].Bytes()
		default:
			t.Fatalf("%T", key)
		}
	}
	return all
}

// tap keeps what goes through a connection, in frames or not.
type tap struct {
	net.Conn
	read, wrote *bytes.Buffer
}

func (c tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Write(b[:n])
	return n, err
}

func (c tap) Write(b []byte) (int, error) {
	c.wrote.Write(b)
	return c.Conn.Write(b)
}

// thief has both sides' long-term keys and a recording, and computes all that can be had of them.
type thief struct {
	caller          ssh.PublicKey
	ra, rb, sm, enc []byte
	tr              transcript // at h4
}

func (f *thief) open(client, server *rsa.PrivateKey, toServer, toClient io.Reader) error {
	hello, err := readFrame(toClient, maxHandshakeFrame)
	if err != nil {
		return err
	}
	h0 := f.tr.start(hello)
	next := func(stage byte, r io.Reader, wrap *wrapper, key *rsa.PrivateKey, clearSize, serialsSize int) (*stageMessage, error) {
		body, err := readFrame(r, maxHandshakeFrame)
		if err == nil && wrap != nil {
			body, err = wrap.open(stage, body)
		}
		if err != nil {
			return nil, err
		}
		return f.tr.open(stage, key, body, clearSize, serialsSize)
	}
	m, err := next(1, toServer, nil, server, anySize, nonceSize)
	if err != nil {
		return err
	}
	f.ra = m.serials()
	c, err := openClaim(m.clear, f.ra, h0)
	if err != nil {
		return err
	}
	f.caller = c.id
	wrap, err := newWrapper(f.ra, f.tr.sum())
	if err != nil {
		return err
	}
	if m, err = next(2, toClient, wrap, client, hpkeEncSize, 2*nonceSize); err != nil {
		return err
	}
	f.enc, f.rb = m.clear, m.serials()[nonceSize:]
	if _, err = next(3, toServer, wrap, server, 0, nonceSize); err != nil {
		return err
	}
	m, err = next(4, toClient, wrap, client, 0, smSize)
	if err == nil {
		f.sm = m.serials()
	}
	return err
}

// guess makes the session's secrets with an HPKE private key.
func (f *thief) guess(kem hpke.PrivateKey, aes bool) (*secrets, error) {
	recipient, err := hpke.NewRecipient(f.enc, kem, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return nil, err
	}
	export, err := recipient.Export(protocolName, 64)
	if err != nil {
		return nil, err
	}
	return f.tr.newSecrets(export, bytes.Clone(f.sm), aes)
}

// TestNothingSecretIsTold runs what tells most, -trace on both sides, refusals, wrong commands, and looks for private keys,
// serials, Sm and session secrets in all that came out, raw, in hex and in base64.
func TestNothingSecretIsTold(t *testing.T) {
	a := newArena(t, "-trace")
	hidden := secretsIn(t, a.annaDir)
	for name, b := range secretsIn(t, a.bobDir) {
		hidden[name] = b
	}

	// a run whose secrets we know, for we are the client
	conn, err := net.Dial("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	taped := tap{conn, new(bytes.Buffer), new(bytes.Buffer)}
	keys, err := clientHandshake(taped, a.bob, trustAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	hidden["to server"], hidden["to client"] = bytes.Clone(keys.toServer[:]), bytes.Clone(keys.toClient[:])
	var all thief
	if err := all.open(a.bob.encryption, a.anna.encryption, taped.wrote, taped.read); err != nil {
		t.Fatal(err)
	}
	hidden["Ra"], hidden["Rb"], hidden["Sm"] = all.ra, all.rb, all.sm
	sess, err := newSession(conn, keys, false, chatTraffic)
	if err != nil {
		t.Fatal(err)
	}
	buf, err := sess.append(nil, kindJoin, joinRequest{}.encode())
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(append(buf, "not a packet, but as long as one may well be"...))

	var told strings.Builder
	tell := func(texts ...string) {
		for _, text := range texts {
			told.WriteString(text)
		}
	}
	pin(t, a.bobDir, a.addr, a.annaDir)
	for _, args := range [][]string{
		{"-connect", a.addr, "-dir", a.bobDir, "-trace"},
		{"-connect", a.addr, "-dir", a.bobDir, "-json"},
		{"-connect", a.addr, "-dir", state(t, "stranger"), "-trace"},
		{"-connect", a.addr, "-dir", a.bobDir, "-identity", filepath.Join(a.annaDir, "encryption")},
		{"-fingerprint", "-dir", a.bobDir}, {"-keygen", "-dir", a.bobDir}, {"-allow", filepath.Join(a.bobDir, "identity"), "-dir", a.annaDir},
		{"-paper", "-connect", a.addr, "-identity", filepath.Join(a.bobDir, "encryption"), "-peer", filepath.Join(a.bobDir, "identity"), "-dir", a.bobDir},
	} {
		stdout, stderr, _ := runToEnd(t, t.TempDir(), "hello\n", args...)
		tell(stdout, stderr)
	}
	a.attack("bad block", noBlock, answer(make([]byte, 0), appendVector(nil, appendVector(appendVector(nil, make([]byte, 1300)), make([]byte, 384)))))
	a.serves()
	log, err := os.ReadFile(filepath.Join(a.server.cmd.Dir, "connection.log"))
	if err != nil {
		t.Fatal(err)
	}
	tell(string(log), a.server.out.String(), a.server.err.String())
	text := told.String()
	if !strings.Contains(text, "stage 4  S → C") || !strings.Contains(text, "refused ") {
		t.Fatalf("too little was told: %.2000s", text)
	}
	joined := strings.Join(strings.Fields(text), "") // base64 of files may be wrapped
	for name, secret := range hidden {
		for _, b := range [][]byte{secret, secret[:16], secret[len(secret)-16:]} {
			std := base64.StdEncoding.EncodeToString(b)
			for _, form := range []string{string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), std[:len(std)-4], base64.RawURLEncoding.EncodeToString(b)} {
				if strings.Contains(text, form) || strings.Contains(joined, form) {
					t.Errorf("%s was told", name)
				}
			}
		}
	}
}

// TestForwardSecrecy: a thief of all long-term keys of both sides opens who called, the serials and Sm of a recording, and
// not one packet. That the thief does what can be done is shown with a vector: given the HPKE key too, it has the session.
func TestForwardSecrecy(t *testing.T) {
	a := newArena(t)
	run := a.recordRun()
	var f thief
	if err := f.open(a.bob.encryption, a.anna.encryption, bytes.NewReader(slices.Concat(run[true]...)), bytes.NewReader(slices.Concat(run[false]...))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.caller.Marshal(), a.bob.identity) || len(f.sm) != smSize {
		t.Error("the thief did not get what it can")
	}
	other, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, aes := range []bool{false, true} {
		keys, err := f.guess(other, aes)
		if err != nil {
			t.Fatal(err)
		}
		without, err := f.tr.newSecrets(make([]byte, 64), bytes.Clone(f.sm), aes)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []*secrets{keys, without} {
			for toServer, secret := range map[bool]*[64]byte{true: &k.toServer, false: &k.toClient} {
				first := map[bool]int{true: 2, false: 3}[toServer]
				h, err := newHalfConn(secret, &k.digest, aes)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := h.open(bytes.Clone(run[toServer][first][frameHeader:])); err == nil {
					t.Error("stolen keys opened a recorded packet")
				}
			}
		}
	}

	v := readVector(t, filepath.Join(vectorFolder, "handshake-client-run.txt"))
	var in, out bytes.Buffer
	for buf, key := range map[*bytes.Buffer]string{&in: "receive", &out: "out send"} {
		for _, x := range v.all(key) {
			b, err := hex.DecodeString(x)
			if err != nil {
				t.Fatal(err)
			}
			buf.Write(b)
		}
	}
	var g thief
	if err := g.open(vectorRSA(t, "client"), vectorRSA(t, "server"), &out, &in); err != nil {
		t.Fatal(err)
	}
	kem, err := hpke.MLKEM768X25519().NewPrivateKey(v.hex(t, "hpke private key"))
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := g.guess(kem, true); err != nil || !bytes.Equal(keys.toServer[:], v.hex(t, "out to server")) {
		t.Errorf("the thief cannot do what it should: %v", err)
	}
	if keys, err := g.guess(other, true); err != nil || bytes.Equal(keys.toServer[:], v.hex(t, "out to server")) {
		t.Errorf("another HPKE key will do: %v", err)
	}
}

// TestPaperHasNoForwardSecrecy: there the client's key opens the recording, as README.md says.
func TestPaperHasNoForwardSecrecy(t *testing.T) {
	_, addr, client := paperArena(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var toServer, toClient bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		left, err := l.Accept()
		if err != nil {
			return
		}
		defer left.Close()
		right, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer right.Close()
		wg.Go(func() {
			io.Copy(io.MultiWriter(right, &toServer), left)
			right.(*net.TCPConn).CloseWrite()
		})
		io.Copy(io.MultiWriter(left, &toClient), right)
	})
	if _, stderr, code := runToEnd(t, t.TempDir(), "once a secret\n", append(client, "-connect", l.Addr().String())...); code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	wg.Wait()
	stage4, err := base64.StdEncoding.DecodeString(toClient.String()[paperSealed:][:paperBase64])
	if err != nil {
		t.Fatal(err)
	}
	plain, err := paperRSACBC.open(vectorRSA(t, "paper-client"), stage4)
	if err != nil {
		t.Fatal(err)
	}
	text, err := newPaperConn(cannedConn(toServer.Bytes()[2*paperSealed:]), (*[32]byte)(plain[paperSign:])).readText()
	if err != nil || string(text) != "once a secret" {
		t.Errorf("%q, %v: if -paper keeps its recordings shut now, README.md and docs/SECURITY.md must say so", text, err)
	}
}
