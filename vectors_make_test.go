//go:build vectors

package main

// The generator of testdata/vectors, which vectors_test.go runs, and of the example in docs/PROTOCOL.md:
//
//	go test -tags vectors -run TestMakeVectors
//
// It uses the keys in testdata/vectors/keys and fixed randomness (testing/cryptotest), so it writes the same bytes each
// time. It runs each case before it writes it.

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/hpke"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"golang.org/x/crypto/ssh"
)

// vectorMaker writes vectors.
type vectorMaker struct {
	t    *testing.T
	made map[string]bool
}

// TestMakeVectors replaces all vectors. Only this code knows the defect of each invalid one.
func TestMakeVectors(t *testing.T) {
	old, err := filepath.Glob(filepath.Join(vectorFolder, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	m := &vectorMaker{t, map[string]bool{}}
	m.handshakes()
	m.rsaCBCs()
	m.keys()
	m.packets()
	m.messages()
	m.invites()
	m.paperHandshakes()
	m.paperPackets()
	m.example()
}

// example makes the vectors of the session in docs/PROTOCOL.md, and replaces the example in that document.
func (m *vectorMaker) example() {
	run := exampleVector(m.t, "handshake-client-run")
	digest := [64]byte(run.hex(m.t, "out digest"))
	for direction, name := range map[string]string{toServer: "to server", toClient: "to client"} {
		secret := [64]byte(run.hex(m.t, "out "+name))
		h, err := newHalfConn(&secret, &digest, true)
		if err != nil {
			m.t.Fatal(err)
		}
		var stream []byte
		for _, message := range exampleSession() {
			if message.direction == direction {
				stream = h.seal(stream, message.kind, message.payload)
			}
		}
		m.put("packets", "example "+name, "", "", [2]string{"cipher", "AES-256-GCM"}, hexField("digest", digest[:]),
			hexField("secret", secret[:]), hexField("stream", stream))
	}
	document, err := os.ReadFile(protocolDocument)
	if err != nil {
		m.t.Fatal(err)
	}
	front, rest, ok1 := strings.Cut(string(document), exampleBegin)
	_, back, ok2 := strings.Cut(rest, exampleEnd)
	if !ok1 || !ok2 {
		m.t.Fatalf("%s has no example to replace", protocolDocument)
	}
	text := front + exampleBegin + protocolExample(m.t) + exampleEnd + back
	if err := os.WriteFile(protocolDocument, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// put runs a vector and writes it. check is empty if it is accepted.
func (m *vectorMaker) put(what, name, defect, check string, inputs ...[2]string) {
	m.t.Helper()
	file := strings.ReplaceAll(what+" "+name, " ", "-") + ".txt"
	if m.made[file] {
		m.t.Fatalf("%s is made twice", file)
	}
	m.made[file] = true
	v := &vector{name: file}
	if check == "" {
		v.add("expect", "accept")
	} else {
		v.add("expect", "refuse")
		v.add("check", check)
	}
	v.add("defect", cmp.Or(defect, "none"))
	v.add("what", what)
	v.fields = append(v.fields, inputs...)
	out, _ := runVector(m.t, v)
	v.fields = append(v.fields, out...)
	checkVector(m.t, v)
	var b strings.Builder
	for _, f := range v.fields {
		fmt.Fprintf(&b, "%s: %s\n", f[0], f[1])
	}
	if err := os.WriteFile(filepath.Join(vectorFolder, file), []byte(b.String()), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func hexField(key string, b []byte) [2]string { return [2]string{key, hex.EncodeToString(b)} }

// The seed of the randomness, by the role that draws it.
const (
	seedServer = 1 + iota
	seedClient
	seedAttacker
)

func (m *vectorMaker) handshakes() {
	t := m.t
	client, server := vectorParty(t, "client", "client", true), vectorParty(t, "server", "server", true)
	on := func(side string, received ...[]byte) [][]byte { // Returns what the tested side sends.
		conn := cannedConn(received...)
		me, seed := server, uint64(seedServer)
		if side == "client" {
			me, seed = client, seedClient
		}
		vectorHandshake(t, side, conn, me, seed, "")
		return conn.out
	}
	putAs := func(side, identity, encryption, aes, admit, name, defect, check string, received ...[]byte) {
		t.Helper()
		fields := [][2]string{{"side", side}, {"identity", identity}, {"encryption", encryption}, {"aes", aes}}
		if admit != "" {
			fields = append(fields, [2]string{"admit", admit})
		}
		seed := uint64(seedServer)
		if side == "client" {
			seed = seedClient
		}
		fields = append(fields, [2]string{"seed", strconv.FormatUint(seed, 10)})
		if side == "client" { // The values that the side draws, for implementations that draw them otherwise.
			cryptotest.SetGlobalRandom(t, seed)
			fields = append(fields, hexField("ra", newNonce()))
			key, err := hpke.MLKEM768X25519().GenerateKey()
			if err != nil {
				t.Fatal(err)
			}
			private, err := key.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			fields = append(fields, hexField("hpke private key", private))
		}
		for _, r := range received {
			fields = append(fields, hexField("receive", r))
		}
		m.put("handshake", side+" "+name, defect, check, fields...)
	}
	put := func(side, name, defect, check string, received ...[]byte) {
		t.Helper()
		putAs(side, side, side, "1", "", name, defect, check, received...)
	}
	body := func(frame []byte) []byte { return frame[frameHeader:] }
	frame := func(b []byte) []byte { return appendVector(nil, b) }

	hello := on("server")[0]
	stage1 := on("client", hello)[0]
	stage2 := on("server", stage1)[1]
	stage3 := on("client", hello, stage2)[1]
	stage4 := on("server", stage1, stage3)[2]

	put("client", "run", "", "", hello, stage2, stage4)
	put("server", "run", "", "", stage1, stage3)
	putAs("server", "server", "server", "1", "nobody", "run not listed", "the client is not listed: a refusal",
		"the client is not listed", stage1)
	putAs("server", "server", "server", "1", "nobody at stage 3", "run not listed at stage 3",
		"the client is no longer listed at stage 3: a refusal",
		"the client is not listed", stage1, stage3)
	putAs("server", "server", "server", "1", "undecided", "run undecided",
		"the server cannot read its list: nothing is sent", "cannot be read", stage1)

	// Runs with other keys and ciphers: a pair of each.
	for _, c := range []struct{ name, clientID, clientEK, serverID, serverEK, clientAES, serverAES string }{
		{"ecdsa identities", "ecdsa", "client", "ecdsa", "server", "1", "1"},
		{"rsa identities", "rsa", "client", "rsa", "server", "1", "1"},
		{"3072 encryption keys", "client", "3072", "server", "3072", "1", "1"},
		{"no AES at the client", "client", "client", "server", "server", "0", "1"},
		{"no AES at the server", "client", "client", "server", "server", "1", "0"},
	} {
		run := func(side string, received ...[]byte) [][]byte {
			id, ek, aes, seed := c.serverID, c.serverEK, c.serverAES, uint64(seedServer)
			if side == "client" {
				id, ek, aes, seed = c.clientID, c.clientEK, c.clientAES, seedClient
			}
			me := vectorParty(t, id, ek, aes == "1")
			conn := cannedConn(received...)
			vectorHandshake(t, side, conn, me, seed, "")
			return conn.out
		}
		h := run("server")[0]
		s1 := run("client", h)[0]
		s2 := run("server", s1)[1]
		s3 := run("client", h, s2)[1]
		putAs("server", c.serverID, c.serverEK, c.serverAES, "", c.name, "", "", s1, s3)
		putAs("client", c.clientID, c.clientEK, c.clientAES, "", c.name, "", "", h, s2, run("server", s1, s3)[2])
	}

	// The hello.
	sign := func(s ssh.Signer, data []byte) []byte {
		sig, err := signData(s, data)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	ek := marshalEncryptionKey(&server.encryption.PublicKey)
	sig := sign(server.signer, helloStatement(ek))
	cryptotest.SetGlobalRandom(t, seedAttacker)
	mallory := fixedSigner(t, "mallory")
	n := server.encryption.N
	f4 := big.NewInt(65537)
	weak := rsaWire(new(big.Int).SetBit(big.NewInt(1), 1023, 1), f4)
	huge := rsaWire(new(big.Int).SetBit(big.NewInt(1), 16383, 1), f4)
	ek3 := rsaWire(n, big.NewInt(3))
	edit := func(b []byte, i int) []byte { b = bytes.Clone(b); b[i] ^= 1; return b }
	for _, c := range []struct {
		name, defect, check string
		hello               []byte
	}{
		{"empty", "no byte in it", "does not speak", frame(nil)},
		{"other version", "securechat/3", "does not speak", edit(hello, 2+11)},
		{"ssh", "another program's greeting", "does not speak", frame([]byte("SSH-2.0-OpenSSH_9.9"))},
		{"AES byte 2", "the AES byte is 2", "hello: malformed", frame(helloOf(2, server.identity, ek, sig))},
		{"no signature", "the signature is empty", "did not sign", frame(helloOf(0, server.identity, ek, nil))},
		{"bit of signature", "a bit of the signature is flipped", "did not sign", edit(hello, len(hello)-1)},
		{"bit of encryption key", "a bit of the encryption key is flipped", "did not sign", edit(hello, len(hello)-64-2-2)},
		{"other identity", "the identity is not the signer's", "did not sign",
			frame(helloOf(0, mallory.PublicKey().Marshal(), ek, sig))},
		{"other encryption key", "the encryption key is not the one signed", "did not sign",
			frame(helloOf(0, server.identity, marshalEncryptionKey(&client.encryption.PublicKey), sig))},
		{"bare signature", "the signature's context is left out", "did not sign",
			frame(helloOf(0, server.identity, ek, sign(server.signer, ek)))},
		{"trailing byte", "a byte follows the signature", "hello: malformed", frame(append(bytes.Clone(body(hello)), 0))},
		{"no signature vector", "the third vector is missing", "hello: malformed", frame(body(hello)[:len(body(hello))-66])},
		{"cut", "the last byte is missing, the frame's length says so", "hello: malformed",
			frame(body(hello)[:len(body(hello))-1])},
		{"frame cut", "the stream ends inside the frame", "the other side ended the connection", hello[:len(hello)-1]},
		{"frame too long", "a length of 16385", "over the limit", binary.BigEndian.AppendUint16(nil, maxHandshakeFrame+1)},
		{"no identity", "an empty identity", "no SSH key", frame(helloOf(0, nil, ek, sig))},
		{"long identity", "an identity of 8193 bytes", "identity of 8193 bytes",
			frame(helloOf(0, make([]byte, maxIdentity+1), ek, sig))},
		{"identity RSA-1024", "the identity is an RSA key of 1024 bits", "1024 bits", frame(helloOf(0, weak, ek, sig))},
		{"encryption RSA-1024", "the encryption key has 1024 bits; it is signed", "1024 bits",
			frame(helloOf(0, server.identity, weak, sign(server.signer, helloStatement(weak))))},
		{"encryption RSA-16384", "the encryption key has 16384 bits; it is signed", "too long",
			frame(helloOf(0, server.identity, huge, sign(server.signer, helloStatement(huge))))},
		{"encryption exponent 3", "the encryption key's exponent is 3; it is signed", "exponent",
			frame(helloOf(0, server.identity, ek3, sign(server.signer, helloStatement(ek3))))},
		{"encryption Ed25519", "the encryption key is not RSA; it is signed", "not RSA",
			frame(helloOf(0, server.identity, server.identity, sign(server.signer, helloStatement(server.identity))))},
	} {
		put("client", "hello "+c.name, c.defect, c.check, c.hello)
	}
	aesFlipped := edit(hello, 2+12)
	put("server", "stage1 of a hello with AES turned", "the AES byte was changed on the way: C's transcript is another",
		"stage 1: an RSA-CBC", on("client", aesFlipped)[0])
	put("server", "stage1 of a hello with Rs changed", "Rs was changed on the way: C's transcript is another",
		"stage 1: an RSA-CBC", on("client", edit(hello, 2+13))[0])

	// Stages 1 and 3, by a client that knows the protocol and makes one mistake.
	lie := func(alter func(*deed), received ...[]byte) [][]byte {
		conn := cannedConn(received...)
		cryptotest.SetGlobalRandom(t, seedAttacker)
		scriptedClient(conn, client, alter)
		return conn.out
	}
	credential := func(parts ...[]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = appendVector(b, p)
		}
		return b
	}
	cek := marshalEncryptionKey(&client.encryption.PublicKey)
	for _, c := range []struct {
		name, defect, check string
		alter               func(*deed)
	}{
		{"other signer", "signed by another than the identity in the box", "stage 1: bad signature", func(d *deed) {
			d.signer = mallory
		}},
		{"signed by server", "reflection: the server's own identity is claimed", "stage 1: bad signature", func(d *deed) {
			d.cred = credential(server.identity, cek, nil)
		}},
		{"number 4", "seq is 4", "stage 1: an RSA-CBC", func(d *deed) { d.stage = 4 }},
		{"number 2", "seq is 2", "stage 1: an RSA-CBC", func(d *deed) { d.stage = 2 }},
		{"AES byte 2", "the AES byte is 2", "stage 1: malformed", func(d *deed) { d.aes = 2 }},
		{"no HPKE key", "HPKE key and box are left out", "stage 1: malformed", func(d *deed) { d.kem, d.cred = nil, nil }},
		{"HPKE key out of range", "coefficients of the ML-KEM key at 2^12-1", "stage 1: HPKE", func(d *deed) {
			d.kem = bytes.Repeat([]byte{0xff}, hpkePublicSize)
		}},
		{"HPKE coefficient q", "the first coefficient of the ML-KEM key is 3329", "stage 1: HPKE", func(d *deed) {
			d.kem[0], d.kem[1] = 0x01, d.kem[1]&0xf0|0x0d
		}},
		{"X25519 zero", "the X25519 part is the zero point", "HPKE", func(d *deed) { clear(d.kem[1184:]) }},
		{"X25519 one", "the X25519 part is the point of order 4", "HPKE", func(d *deed) {
			clear(d.kem[1184:])
			d.kem[1184] = 1
		}},
		{"X25519 order 8", "the X25519 part is a point of order 8", "HPKE", func(d *deed) {
			p, _ := hex.DecodeString("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
			copy(d.kem[1184:], p)
		}},
		{"short Ra", "Ra has 23 bytes", "stage 1: malformed", func(d *deed) { d.nonces = d.nonces[1:] }},
		{"long Ra", "Ra has 25 bytes", "stage 1: malformed", func(d *deed) { d.nonces = append(d.nonces, 0) }},
		{"box under other Ra", "the box's key is of another Ra", "box does not open", func(d *deed) {
			d.boxKey = newNonce()
		}},
		{"byte behind box", "a byte follows the box", "box does not open", func(d *deed) { d.extra = []byte{0} }},
		{"sealed to itself", "sealed to the client's own key", "stage 1: an RSA-CBC", func(d *deed) {
			d.ek = &client.encryption.PublicKey
		}},
		{"empty credential", "nothing in the box", "malformed credential", func(d *deed) { d.cred = nil }},
		{"no proof vector", "the third vector of the credential is missing", "malformed credential", func(d *deed) {
			d.cred = credential(client.identity, cek)
		}},
		{"proof of 31", "a proof of 31 bytes", "malformed credential", func(d *deed) {
			d.cred = credential(client.identity, cek, make([]byte, 31))
		}},
		{"proof of 33", "a proof of 33 bytes", "malformed credential", func(d *deed) {
			d.cred = credential(client.identity, cek, make([]byte, 33))
		}},
		{"fourth vector", "a fourth vector in the credential", "malformed credential", func(d *deed) {
			d.cred = credential(client.identity, cek, nil, nil)
		}},
		{"no identity", "an empty identity", "no SSH key", func(d *deed) { d.cred = credential(nil, cek, nil) }},
		{"long identity", "an identity of 8193 bytes", "identity of 8193", func(d *deed) {
			d.cred = credential(make([]byte, maxIdentity+1), cek, nil)
		}},
		{"identity RSA-1024", "an identity of 1024 bits", "1024 bits", func(d *deed) { d.cred = credential(weak, cek, nil) }},
		{"encryption RSA-1024", "an encryption key of 1024 bits", "1024 bits", func(d *deed) {
			d.cred = credential(client.identity, weak, nil)
		}},
		{"encryption RSA-16384", "an encryption key of 16384 bits", "too long", func(d *deed) {
			d.cred = credential(client.identity, huge, nil)
		}},
		{"encryption exponent 3", "an encryption key with exponent 3", "exponent", func(d *deed) {
			d.cred = credential(client.identity, ek3, nil)
		}},
		{"encryption even modulus", "an encryption key with an even modulus", "even modulus", func(d *deed) {
			d.cred = credential(client.identity, rsaWire(new(big.Int).SetBit(n, 0, 0), f4), nil)
		}},
		{"encryption Ed25519", "an encryption key that is not RSA", "not RSA", func(d *deed) {
			d.cred = credential(client.identity, client.identity, nil)
		}},
		{"signature too long", "a signature of more than 512 bytes", "stage 1: malformed", func(d *deed) {
			d.signer = wordy{d.signer}
		}},
	} {
		put("server", "stage1 "+c.name, c.defect, c.check, lie(onStage(1, c.alter), hello)[0])
	}
	good := func(*deed) {}
	lied1 := lie(good, hello)[0]
	proofed := lie(onStage(1, func(d *deed) { d.cred = credential(client.identity, cek, make([]byte, 32)) }), hello)[0]
	proofed2 := on("server", proofed)[1]
	put("server", "run with a proof of 32", "", "", proofed,
		lie(onStage(1, func(d *deed) { d.cred = credential(client.identity, cek, make([]byte, 32)) }), hello, proofed2)[1])
	lied2 := on("server", lied1)[1]
	for _, c := range []struct {
		name, defect, check string
		alter               func(*deed)
	}{
		{"good", "", "", good},
		{"other signer", "signed by another than in stage 1", "stage 3: bad signature", func(d *deed) { d.signer = mallory }},
		{"other Rb", "another serial than the server's", "a different challenge", func(d *deed) { d.nonces = newNonce() }},
		{"clear part", "a byte in the clear part", "stage 3: malformed", func(d *deed) { d.extra = []byte{0} }},
		{"number 1", "signed and sealed as stage 1", "stage 3: an RSA-CBC", func(d *deed) { d.stage = 1 }},
		{"number 4", "signed and sealed as stage 4", "stage 3: an RSA-CBC", func(d *deed) { d.stage = 4 }},
		{"seq 1", "seq is 1, changed after signing", "stage 3: malformed", func(d *deed) {
			d.inside = func(msg []byte) []byte { msg[len(msg)-nonceSize-1] = 1; return msg }
		}},
		{"nothing", "an empty body, wrapped", "stage 3: malformed", func(d *deed) {
			d.body = func([]byte) []byte { return nil }
		}},
		{"empty parts", "both parts are empty", "stage 3: an RSA-CBC", func(d *deed) {
			d.body = func([]byte) []byte { return make([]byte, 4) }
		}},
		{"empty message", "nothing in the sealed part", "stage 3: malformed", func(d *deed) {
			d.inside = func([]byte) []byte { return nil }
		}},
		{"unsigned", "no signature before seq", "stage 3: bad signature", func(d *deed) {
			d.inside = func(msg []byte) []byte { return msg[len(msg)-nonceSize-1:] }
		}},
		{"byte behind", "a byte follows the second part, inside the wrapping", "stage 3: malformed", func(d *deed) {
			d.body = func(b []byte) []byte { return append(b, 0) }
		}},
		{"other direction's wrapping", "wrapped under the key of server to client", "wrapping does not open", func(d *deed) {
			d.wrap = &wrapper{d.wrap.toClient, d.wrap.toServer}
		}},
		{"signature too long", "a signature of more than 512 bytes", "stage 3: malformed", func(d *deed) {
			d.signer = wordy{d.signer}
		}},
		{"short Rb", "Rb has 23 bytes", "stage 3: malformed", func(d *deed) { d.nonces = d.nonces[1:] }},
		{"long Rb", "Rb has 25 bytes", "stage 3: malformed", func(d *deed) { d.nonces = append(bytes.Clone(d.nonces), 0) }},
		{"sealed to itself", "sealed to the client's own key", "stage 3: an RSA-CBC", func(d *deed) {
			d.ek = &client.encryption.PublicKey
		}},
		{"without RSA-CBC", "signature, seq and Rb stand in the sealed part as they are", "stage 3: an RSA-CBC",
			func(d *deed) { d.unsealed = true }},
	} {
		put("server", "stage3 "+c.name, c.defect, c.check, lied1, lie(onStage(3, c.alter), hello, lied2)[1])
	}

	// Stages 1 to 4 changed on the way. Offsets are in the frame.
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"AES turned", "the AES byte was changed", "stage 1: an RSA-CBC", edit(stage1, 4)},
		{"bit of ML-KEM key", "a bit of the ML-KEM key is flipped", "stage 1: an RSA-CBC", edit(stage1, 5+100)},
		{"bit of X25519 key", "a bit of the X25519 key is flipped", "stage 1: an RSA-CBC", edit(stage1, 5+1184)},
		{"bit of box", "a bit of the box is flipped", "stage 1: an RSA-CBC", edit(stage1, 5+1216)},
		{"bit of block", "a bit of the RSA block is flipped", "stage 1: an RSA-CBC", edit(stage1, len(stage1)-128-1)},
		{"bit of IV", "a bit of the IV is flipped: the label names it", "stage 1: an RSA-CBC", edit(stage1, len(stage1)-1)},
		{"trailing byte", "a byte follows the sealed part", "stage 1: malformed",
			frame(append(bytes.Clone(body(stage1)), 0))},
		{"cut", "the last byte is missing, the frame's length says so", "stage 1: malformed",
			frame(body(stage1)[:len(body(stage1))-1])},
		{"frame cut", "the stream ends inside the frame", "the other side ended the connection", stage1[:len(stage1)-1]},
		{"empty", "an empty frame", "stage 1: malformed", frame(nil)},
		{"frame too long", "a length of 16385", "over the limit", binary.BigEndian.AppendUint16(nil, maxHandshakeFrame+1)},
		{"is a hello", "reflection: the server's hello comes back", "stage 1: malformed", hello},
		{"is stage 2", "reflection: the server's stage 2 comes back", "stage 1: malformed", stage2},
	} {
		put("server", "stage1 changed "+c.name, c.defect, c.check, c.wire)
	}
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"bit", "a bit is flipped", "stage 3: the wrapping", edit(stage3, 2)},
		{"bit of tag", "a bit of the wrapping's tag is flipped", "stage 3: the wrapping", edit(stage3, len(stage3)-1)},
		{"trailing byte", "a byte more, the frame's length says so", "stage 3: the wrapping",
			frame(append(bytes.Clone(body(stage3)), 0))},
		{"frame cut", "the stream ends inside the frame", "the other side ended the connection", stage3[:len(stage3)-1]},
		{"empty", "an empty frame", "stage 3: the wrapping", frame(nil)},
		{"is stage 1", "stage 1 again", "stage 3: the wrapping", stage1},
		{"is stage 2", "reflection: stage 2 comes back", "stage 3: the wrapping", stage2},
		{"of another run", "stage 3 of a run with another stage 1", "stage 3: the wrapping", lie(good, hello, lied2)[1]},
	} {
		put("server", "stage3 changed "+c.name, c.defect, c.check, stage1, c.wire)
	}
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"bit", "a bit is flipped", "stage 2: the wrapping", edit(stage2, 2)},
		{"bit of tag", "a bit of the wrapping's tag is flipped", "stage 2: the wrapping", edit(stage2, len(stage2)-1)},
		{"trailing byte", "a byte more, the frame's length says so", "stage 2: the wrapping",
			frame(append(bytes.Clone(body(stage2)), 0))},
		{"frame cut", "the stream ends inside the frame", "the other side ended the connection", stage2[:len(stage2)-1]},
		{"empty", "an empty frame", "stage 2: the wrapping", frame(nil)},
		{"is stage 1", "reflection: stage 1 comes back", "stage 2: the wrapping", stage1},
		{"is stage 4", "stage 4 before its time", "stage 2: the wrapping", stage4},
		{"of another run", "stage 2 of a run with another stage 1", "stage 2: the wrapping", lied2},
	} {
		put("client", "stage2 changed "+c.name, c.defect, c.check, hello, c.wire)
	}
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"bit", "a bit is flipped", "stage 4: the wrapping", edit(stage4, 2)},
		{"bit of tag", "a bit of the wrapping's tag is flipped", "stage 4: the wrapping", edit(stage4, len(stage4)-1)},
		{"frame cut", "the stream ends inside the frame", "the other side ended the connection", stage4[:len(stage4)-1]},
		{"empty", "an empty frame", "stage 4: the wrapping", frame(nil)},
		{"is stage 2", "stage 2 again", "stage 4: the wrapping", stage2},
		{"is stage 3", "reflection: stage 3 comes back", "stage 4: the wrapping", stage3},
	} {
		put("client", "stage4 changed "+c.name, c.defect, c.check, hello, stage2, c.wire)
	}

	// Stages 2 and 4, by a server that knows the protocol and makes one mistake.
	own := helloOf(0, server.identity, ek, sig)
	one := on("client", frame(own))[0]
	lies := func(alter func(*deed), received ...[]byte) [][]byte {
		conn := cannedConn(received...)
		cryptotest.SetGlobalRandom(t, seedAttacker)
		scriptedServer(conn, server, own, alter)
		return conn.out
	}
	for _, c := range []struct {
		name, defect, check string
		alter               func(*deed)
	}{
		{"other signer", "signed by another than the hello's identity", "stage 2: bad signature", func(d *deed) {
			d.signer = mallory
		}},
		{"signed by client", "reflection: signed by the client's identity", "stage 2: bad signature", func(d *deed) {
			d.signer = client.signer
		}},
		{"other Ra", "another serial than the client's", "a different challenge", func(d *deed) { d.nonces[0] ^= 1 }},
		{"Rb before Ra", "the serials change places", "a different challenge", func(d *deed) {
			d.nonces = append(d.nonces[nonceSize:], d.nonces[:nonceSize]...)
		}},
		{"short Rb", "Rb has 23 bytes", "stage 2: malformed", func(d *deed) { d.nonces = d.nonces[:2*nonceSize-1] }},
		{"number 4", "seq is 4", "stage 2: an RSA-CBC", func(d *deed) { d.stage = 4 }},
		{"number 1", "seq is 1", "stage 2: an RSA-CBC", func(d *deed) { d.stage = 1 }},
		{"short encapsulation", "an encapsulation of 1119 bytes", "stage 2: malformed", func(d *deed) { d.kem = d.kem[1:] }},
		{"long encapsulation", "an encapsulation of 1121 bytes", "stage 2: malformed", func(d *deed) { d.extra = []byte{0} }},
		{"X25519 zero", "the X25519 part is the zero point", "stage 2: HPKE", func(d *deed) { clear(d.kem[1088:]) }},
		{"X25519 one", "the X25519 part is the point of order 4", "stage 2: HPKE", func(d *deed) {
			clear(d.kem[1088:])
			d.kem[1088] = 1
		}},
		{"sealed to itself", "sealed to the server's own key", "stage 2: an RSA-CBC", func(d *deed) {
			d.ek = &server.encryption.PublicKey
		}},
		{"other direction's wrapping", "wrapped under the key of client to server", "wrapping does not open", func(d *deed) {
			d.wrap = &wrapper{d.wrap.toClient, d.wrap.toServer}
		}},
	} {
		put("client", "stage2 "+c.name, c.defect, c.check, frame(own), lies(onStage(2, c.alter), one)[1])
	}
	two := lies(good, one)[1]
	three := on("client", frame(own), two)[1]
	for _, c := range []struct {
		name, defect, check string
		alter               func(*deed)
	}{
		{"good", "", "", func(*deed) {}},
		{"other signer", "signed by another than the hello's identity", "stage 4: bad signature", func(d *deed) {
			d.signer = mallory
		}},
		{"short Sm", "Sm has 31 bytes", "stage 4: malformed", func(d *deed) { d.nonces = d.nonces[1:] }},
		{"long Sm", "Sm has 33 bytes", "stage 4: malformed", func(d *deed) { d.nonces = append(d.nonces, 0) }},
		{"clear part", "a byte in the clear part", "stage 4: malformed", func(d *deed) { d.extra = []byte{0} }},
		{"number 2", "seq is 2", "stage 4: an RSA-CBC", func(d *deed) { d.stage = 2 }},
		{"other direction's wrapping", "wrapped under the key of client to server", "wrapping does not open", func(d *deed) {
			d.wrap = &wrapper{d.wrap.toClient, d.wrap.toServer}
		}},
		{"sealed to itself", "sealed to the server's own key", "stage 4: an RSA-CBC", func(d *deed) {
			d.ek = &server.encryption.PublicKey
		}},
	} {
		put("client", "stage4 "+c.name, c.defect, c.check, frame(own), two, lies(onStage(4, c.alter), one, three)[2])
	}
	// Refusals, in the place of stages 2 and 4.
	refusal := func(x *exchange) []byte { return x.wrap.seal(refusalNumber, sign(server.signer, x.refusalStatement())) }
	var recorded []byte // The refusal of a run with another hello of the server.
	{
		conn := cannedConn(stage1)
		vectorHandshake(t, "server", conn, server, seedServer, "nobody")
		recorded = body(conn.out[1])
	}
	putRefusal := func(name, defect, check string, body func(x *exchange) []byte) {
		t.Helper()
		put("client", "refusal "+name, defect, check, frame(own), lies(inPlaceOf(2, body), one)[1])
		put("client", "refusal at stage 4 "+name, defect, check, frame(own), two, lies(inPlaceOf(4, body), one, three)[2])
	}
	putRefusal("good", "", "", refusal)
	for _, c := range forgedRefusals(t, client, server, recorded) {
		putRefusal(c.name, c.defect, c.check, c.body)
	}
	cut := lies(inPlaceOf(2, refusal), one)[1]
	put("client", "refusal frame cut", "the stream ends inside the frame", "the other side ended the connection",
		frame(own), cut[:len(cut)-1])
	put("client", "refusal at stage 4 made for stage 2", "signed over h1, not h3", "a refusal with a bad signature",
		frame(own), two, func() []byte {
			var h1 []byte
			return lies(func(d *deed) {
				switch d.stage {
				case 2:
					h1 = d.x.sum()
				case 4:
					d.raw = d.x.wrap.seal(refusalNumber, sign(server.signer, append([]byte(refusalContext), h1...)))
				}
			}, one, three)[2]
		}())
	put("client", "refusal wrapped as stage 2", "the refusal's signature in stage 2's wrapping", "stage 2: malformed",
		frame(own), lies(inPlaceOf(2, func(x *exchange) []byte {
			return x.wrap.seal(2, sign(server.signer, x.refusalStatement()))
		}), one)[1])
	changedKEM := lies(onStage(2, func(d *deed) { d.kem[0] ^= 1 }), one)
	put("client", "run with a changed ML-KEM ciphertext", "", "", frame(own), changedKEM[1],
		// This is implicit rejection: the keys differ, and the first packet does not open.
		lies(onStage(2, func(d *deed) { d.kem[0] ^= 1 }), one, on("client", frame(own), changedKEM[1])[1])[2])
}

func (m *vectorMaker) rsaCBCs() {
	t := m.t
	counted := make([]byte, 1024)
	for i := range counted {
		counted[i] = byte(i % 251)
	}
	for _, set := range []struct{ hash, key string }{{"SHA-256", "server"}, {"SHA-256", "3072"},
		{"SHA-1", "paper-server"}} {
		key := vectorRSA(t, set.key)
		cbc := paperRSACBC
		midway := sha512.Sum512([]byte("midway"))
		fields := [][2]string{{"hash", set.hash}, {"key", set.key}}
		if set.hash == "SHA-256" {
			cbc = (&transcript{midway: midway}).rsaCBC(2)
			fields = append(fields, hexField("midway", midway[:]), [2]string{"stage", "2"})
		}
		k, b := cbc.sizes(&key.PublicKey)
		seal := func(n int) []byte {
			cryptotest.SetGlobalRandom(t, uint64(n))
			sealed, err := cbc.seal(&key.PublicKey, counted[:n])
			if err != nil {
				t.Fatal(err)
			}
			return sealed
		}
		put := func(name, defect, check string, sealed []byte) {
			m.put("RSA-CBC", set.hash+" "+set.key+" "+name, defect, check,
				append(slices.Clone(fields), hexField("sealed", sealed))...)
		}
		const no = "does not open"
		for name, n := range map[string]int{"empty": 0, "one byte": 1, "a block less one": b - 1, "a block": b,
			"two and a half": 2*b + b/2} {
			put(name, "", "", seal(n))
		}
		s := seal(3 * b) // There are four blocks, the last all padding.
		labelled := ""   // The label makes it fail; the paper's protocol has none.
		if set.hash == "SHA-256" {
			labelled = no
		}
		moved := slices.Concat(s[k:2*k], s[:k], s[2*k:])
		put("blocks swapped", "blocks 0 and 1 change places: without a label this opens to another text", labelled, moved)
		put("first block cut", "block 0 is missing: without a label this opens to another text", labelled, s[k:])
		put("block twice", "block 0 stands twice: without a label this opens to another text", labelled,
			slices.Concat(s[:k], s))
		put("other IV", "a bit of the IV is flipped: without a label a bit of the text", labelled, flip(s, len(s)-b))
		put("last block cut", "the block with the padding is missing", no, slices.Concat(s[:3*k], s[4*k:]))
		put("bit of block", "a bit of block 1 is flipped", no, flip(s, k+7))
		put("no IV", "the IV is missing", no, s[:4*k])
		put("IV alone", "no block", no, s[4*k:])
		put("nothing", "no byte", no, nil)
		put("byte short", "a byte is missing", no, s[1:])
		put("block over modulus", "block 0 is the modulus", no, slices.Concat(key.N.FillBytes(make([]byte, k)), s[k:]))
		put("other OAEP hash", "sealed with the other protocol's hash and label", no, func() []byte {
			other := paperRSACBC
			if set.hash == "SHA-1" {
				other = (&transcript{midway: midway}).rsaCBC(2)
			}
			cryptotest.SetGlobalRandom(t, 9)
			sealed, err := other.seal(&key.PublicKey, make([]byte, 5))
			if err != nil {
				t.Fatal(err)
			}
			return sealed
		}())
		for name, last := range map[string]byte{"padding of 0": 0, "padding too long": byte(b + 1), "padding uneven": 2} {
			if b == 256 && last != 2 {
				continue // A count of 0 means 256 there, and no length is too long.
			}
			plain := bytes.Repeat([]byte{9}, b)
			plain[b-1] = last
			cryptotest.SetGlobalRandom(t, 8)
			put(name, "the padding is not the scheme's", no, sealRaw(t, cbc, &key.PublicKey, plain))
		}
		if set.hash == "SHA-256" {
			for name, tr := range map[string]struct {
				midway [64]byte
				stage  byte
			}{"other run": {[64]byte{}, 2}, "other stage": {midway, 4}} {
				cryptotest.SetGlobalRandom(t, 7)
				sealed, err := (&transcript{midway: tr.midway}).rsaCBC(tr.stage).seal(&key.PublicKey, make([]byte, 5))
				if err != nil {
					t.Fatal(err)
				}
				put(name, "the label names another "+strings.TrimPrefix(name, "other "), no, sealed)
			}
		}
	}
}

func (m *vectorMaker) keys() {
	t := m.t
	n, f4 := vectorRSA(t, "server").N, big.NewInt(65537)
	bit := func(bits int) *big.Int { return new(big.Int).SetBit(big.NewInt(1), bits-1, 1) }
	good := rsaWire(n, f4)
	const at = 4 + 7 + 4 + 3 // The offset of the modulus's length.
	padded := slices.Concat(good[:at], binary.BigEndian.AppendUint32(nil, 258), []byte{0}, good[at+4:])
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"RSA-2048", "", "", good},
		{"RSA-512", "512 bits", "512 bits", rsaWire(bit(512), f4)},
		{"RSA-1024", "1024 bits", "1024 bits", rsaWire(bit(1024), f4)},
		{"RSA-2047", "2047 bits", "2047 bits", rsaWire(bit(2047), f4)},
		{"RSA-4097", "4097 bits", "4097 bits", rsaWire(bit(4097), f4)},
		{"RSA-16384", "16384 bits", "too long", rsaWire(bit(16384), f4)},
		{"even modulus", "the modulus is even", "even modulus", rsaWire(new(big.Int).Add(n, big.NewInt(1)), f4)},
		{"negative modulus", "the modulus is negative", "", rsaWire(new(big.Int).Neg(n), f4)},
		{"exponent 1", "the exponent is 1", "exponent", rsaWire(n, big.NewInt(1))},
		{"exponent 3", "the exponent is 3", "exponent", rsaWire(n, big.NewInt(3))},
		{"exponent 65538", "the exponent is even", "exponent", rsaWire(n, big.NewInt(65538))},
		{"exponent 65539", "the exponent is not 65537", "65537", rsaWire(n, big.NewInt(65539))},
		{"trailing byte", "a byte follows", "", append(bytes.Clone(good), 0)},
		{"cut", "the last byte is missing", "", good[:len(good)-1]},
		{"not canonical", "the modulus has a zero byte too many in front", "canonical", padded},
		{"Ed25519", "not an RSA key", "not RSA", fixedSigner(t, "client").PublicKey().Marshal()},
		{"empty", "no byte", "", nil},
	} {
		check := c.check
		if check == "" && c.defect != "" {
			_, err := parseEncryptionKey(c.wire)
			check = fmt.Sprint(err)
		}
		m.put("encryption key", c.name, c.defect, check, hexField("wire", c.wire))
	}
	type wire = struct {
		name, defect, check string
		wire                []byte
	}
	dsa := ssh.Marshal(struct {
		Name       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", bit(1024), bit(160), big.NewInt(2), big.NewInt(4)})
	for _, c := range []wire{
		{"Ed25519", "", "", fixedSigner(t, "client").PublicKey().Marshal()},
		{"ECDSA P-256", "", "", vectorSigner(t, "ecdsa").PublicKey().Marshal()},
		{"RSA-2048", "", "", good},
		{"RSA-1024", "1024 bits", "1024 bits", rsaWire(bit(1024), f4)},
		{"RSA-16384", "16384 bits", "16384 bits", rsaWire(bit(16384), f4)},
		{"RSA even modulus", "the modulus is even", "even modulus", rsaWire(new(big.Int).Add(n, big.NewInt(1)), f4)},
		{"RSA not canonical", "the modulus has a zero byte too many in front", "canonical", padded},
		{"RSA exponent 3", "the exponent is 3", "exponent", rsaWire(n, big.NewInt(3))},
		{"RSA exponent 1", "the exponent is 1", "no SSH key", rsaWire(n, big.NewInt(1))},
		{"DSA", "a key of a kind that is not taken", "not accepted", dsa},
		{"trailing byte", "a byte follows", "no SSH key", append(fixedSigner(t, "client").PublicKey().Marshal(), 0)},
		{"Ed25519 short", "the point has 31 bytes", "no SSH key", slices.Concat([]byte{0, 0, 0, 11}, []byte("ssh-ed25519"),
			[]byte{0, 0, 0, 31}, make([]byte, 31))},
		{"8193 bytes", "longer than an identity may be", "identity of 8193", make([]byte, maxIdentity+1)},
	} {
		m.put("identity", c.name, c.defect, c.check, hexField("wire", c.wire))
	}
}

func (m *vectorMaker) packets() {
	for _, aes := range []bool{true, false} {
		keys := secrets{digest: sha512.Sum512([]byte("key")), toServer: sha512.Sum512([]byte("to server")), aes: aes}
		half := func() *halfConn {
			h, err := newHalfConn(&keys.toServer, &keys.digest, aes)
			if err != nil {
				m.t.Fatal(err)
			}
			return h
		}
		packets := func(texts ...string) (all [][]byte) {
			h := half()
			for _, text := range texts {
				all = append(all, h.seal(nil, kindText, []byte(text)))
			}
			return all
		}
		put := func(name, defect, check string, stream ...[]byte) {
			m.put("packets", keys.cipher()+" "+name, defect, check, [2]string{"cipher", keys.cipher()},
				hexField("digest", keys.digest[:]), hexField("secret", keys.toServer[:]),
				hexField("stream", slices.Concat(stream...)))
		}
		putAfter := func(before int, name, defect, check string, stream []byte) {
			m.put("packets", keys.cipher()+" "+name, defect, check, [2]string{"cipher", keys.cipher()},
				hexField("digest", keys.digest[:]), hexField("secret", keys.toServer[:]),
				[2]string{"before", strconv.Itoa(before)}, hexField("stream", stream))
		}
		const bad = "cannot be verified"
		p := packets("one", "two", "three")
		for _, n := range []int{0, 1, 10, 11, 12, maxBatch} {
			put(fmt.Sprintf("payload of %d", n), "", "", packets(strings.Repeat("x", n))[0])
		}
		put("three", "", "", p...)
		put("every kind", "", "", func() (b []byte) {
			h := half()
			for kind := byte(kindText); kind <= kindWho; kind++ {
				if kind != kindRekey && kind != kindPart {
					b = h.seal(b, kind, []byte{kind})
				}
			}
			return b
		}())
		rekeyed := func(before int, ratchet bool, payload []byte) []byte {
			h := half()
			h.skip(before)
			b := h.seal(h.seal(nil, kindText, []byte("old")), kindRekey, payload)
			if ratchet {
				if err := h.ratchet(); err != nil {
					m.t.Fatal(err)
				}
			}
			return h.seal(b, kindText, []byte("new"))
		}
		const least = leastRekeyPackets - 2 // before the first packet of rekeyed, so that its rekey is permitted
		putAfter(least, "rekey", "", "", rekeyed(least, true, nil))
		putAfter(least-1, "rekey too early", "the rekey is packet 4095 under its key", "wrong form",
			rekeyed(least-1, true, nil))
		putAfter(least, "rekey with the old key on", "the packet after a rekey is under the old key", bad,
			rekeyed(least, false, nil))
		putAfter(least, "rekey with a payload", "a rekey has a payload", "wrong form", rekeyed(least, true, []byte{0}))
		put("parts", "", "", func() []byte {
			h := half()
			return h.seal(h.seal(nil, kindPart, bytes.Repeat([]byte("front "), maxBatch/6)), kindText, []byte("and back"))
		}())
		put("parts of a short message", "a message in parts would fit one packet", "wrong form", func() []byte {
			h := half()
			return h.seal(h.seal(nil, kindPart, []byte("front ")), kindText, []byte("back"))
		}())
		put("part empty", "a part has no payload", "wrong form", half().seal(nil, kindPart, nil))
		put("part without end", "the last packet says that more follows", "without secure-close",
			half().seal(nil, kindPart, []byte("front")))
		put("parts too long", "more than 66560 bytes in parts", "wrong form", func() (b []byte) {
			h := half()
			for range maxMessage/maxBatch + 1 {
				b = h.seal(b, kindPart, make([]byte, maxBatch))
			}
			return b
		}())
		put("dropped", "packet 0 is missing", bad, p[1], p[2])
		put("repeated", "packet 0 comes twice", bad, p[0], p[0])
		put("swapped", "packets 0 and 1 change places", bad, p[1], p[0])
		put("inserted", "a packet of another session comes second", bad, p[0], func() []byte {
			h, _ := newHalfConn(&[64]byte{9}, &keys.digest, aes)
			return h.seal(nil, kindText, []byte("evil"))
		}(), p[1])
		put("other digest", "sealed over another digest", bad, func() []byte {
			h, _ := newHalfConn(&keys.toServer, &[64]byte{}, aes)
			return h.seal(nil, kindText, []byte("x"))
		}())
		put("other cipher", "sealed by the other AEAD", bad, func() []byte {
			h, _ := newHalfConn(&keys.toServer, &keys.digest, !aes)
			return h.seal(nil, kindText, []byte("x"))
		}())
		put("bit of text", "a bit of the ciphertext is flipped", bad, flip(p[0], 3))
		put("bit of tag", "a bit of the tag is flipped", bad, flip(p[0], len(p[0])-1))
		put("length more", "the frame's length is one more", bad, flip(p[0], 1), p[1])
		put("cut", "the stream ends inside a packet", "without secure-close", p[0], p[1][:10])
		put("length of 31", "a frame shorter than any packet", bad, make([]byte, 2+31), nil)
		put("length of 4095", "a frame over 4096 bytes with its length", bad, binary.BigEndian.AppendUint16(nil, maxPacket-1))
		form := func(plain ...byte) []byte { // Returns a frame with the given plaintext.
			h := half()
			return appendVector(nil, sealPlain(h, plain))
		}
		filled := func(n int, msgLen uint32) []byte {
			return append(binary.BigEndian.AppendUint32(nil, msgLen), make([]byte, n-4)...)
		}
		put("msg_len 0", "msg_len is 0", bad, form(filled(16, 0)...))
		put("msg_len over", "msg_len is more than there is", bad, form(filled(16, 13)...))
		put("msg_len 2^32-1", "msg_len is 2^32-1", bad, form(filled(16, 1<<32-1)...))
		put("padding of a block", "16 bytes of padding", bad, form(filled(32, 12)...))
		put("padding not zeros", "the last byte of the padding is 1", bad, form(append(filled(16, 2)[:15], 1)...))
		put("not aligned", "a plaintext of 20 bytes", bad, form(filled(20, 16)...))
	}
}

func (m *vectorMaker) messages() {
	epoch := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	put := func(what, name, defect, check string, payload []byte) {
		m.put(what, name, defect, check, hexField("payload", payload))
	}
	const bad = "wrong form"
	j := joinRequest{stream: streamID{15: 7}, flags: joinListens | joinPerson, epoch: epoch, seen: 9}.encode()
	put("join", "good", "", "", j)
	put("join", "first", "", "", joinRequest{}.encode())
	placed := joinRequest{stream: streamID{15: 7}, flags: joinListens | joinPlace, epoch: epoch, seen: 9}
	put("join", "place", "", "", placed.encode())
	placed.flags, placed.epoch = joinListens|joinPerson|joinLast, [8]byte{}
	put("join", "last", "", "", placed.encode())
	placed.flags |= joinPlace
	put("join", "place and last", "two flags that exclude each other", bad, placed.encode())
	put("join", "cut", "a byte is missing", bad, j[1:])
	put("join", "trailing byte", "a byte follows", bad, append(bytes.Clone(j), 0))
	put("join", "empty", "no byte", bad, nil)
	unknown := bytes.Clone(j)
	unknown[16] = 0x80
	put("join", "unknown flag", "a flag without a meaning", bad, unknown)
	w := welcome{epoch: epoch, seq: 5, present: 7, recorded: 6, flags: welcomeGap, name: "anna", server: "router"}
	put("welcome", "good", "", "", w.encode())
	put("welcome", "empty names", "both names are empty", bad, welcome{epoch: epoch}.encode())
	for i, c := range []string{"name with space in it", "name\x1b[2J", strings.Repeat("n", maxShown), "../../etc"} {
		evil := w
		evil.name = c
		if i != 2 {
			put("welcome", fmt.Sprintf("name %d", i), "a name of characters that a name has not", bad, evil.encode())
		}
	}
	put("welcome", "unknown flag", "a flag without a meaning", bad, func() []byte {
		b := w.encode()
		b[welcomeSize-1] = 0x80
		return b
	}())
	for _, c := range []struct {
		name, defect string
		set          func(w *welcome)
	}{
		{"seq after present", "seq is more than present", func(w *welcome) { w.seq = w.present + 1 }},
		{"busy room", "flag 4 without flag 2", func(w *welcome) { w.flags = welcomeBusy }},
		{"forgotten and recorded", "flag 8, and recorded is not 0", func(w *welcome) { w.flags = welcomeForgotten }},
		{"suffix in upper case", "a name has letters that are not hexadecimal digits in lower case after its ~",
			func(w *welcome) { w.name = "anna~ABCDEF12" }},
	} {
		evil := w
		c.set(&evil)
		put("welcome", c.name, c.defect, bad, evil.encode())
	}
	put("welcome", "trailing byte", "a byte follows", bad, append(w.encode(), 0))
	put("welcome", "cut", "a byte is missing", bad, w.encode()[:len(w.encode())-1])
	put("welcome", "long name", fmt.Sprintf("a name of %d bytes", maxShown+1), bad,
		append(append(w.encode()[:welcomeSize], maxShown+1), make([]byte, maxShown+2)...))
	for _, c := range []struct {
		name, defect string
		payload      []byte
	}{
		{"one", "", linesOf(1, itemSay, "", "hello")},
		{"several", "", linesOf(7, itemSay, "", "one", "", "three", "\x1b[2J")},
		{"action", "", linesOf(1, itemAction, "", "waves")},
		{"direct", "", linesOf(1, itemDirect, "bob", "psst")},
		{"direct to one of two", "", linesOf(1, itemDirect, "bob~0123abcd", "psst")},
		{"direct to what is no name", "to is not a name", linesOf(1, itemDirect, "b ob", "x")},
		{"direct to another suffix", "to has a letter after its ~ that is not a hexadecimal digit",
			linesOf(1, itemDirect, "bob~0123abcx", "x")},
		{"length of two bytes", "the uvarint is longer than necessary", append(linesOf(1, itemSay, ""), 0x81, 0, 'x')},
		{"none", "no line", linesOf(1, itemSay, "")},
		{"number 0", "first is 0", linesOf(0, itemSay, "", "x")},
		{"kind 0", "what is 0", linesOf(1, 0, "", "x")},
		{"notice", "what is a server's", linesOf(1, itemNotice, "", "x")},
		{"join", "what is a server's", linesOf(1, itemJoin, "", "x")},
		{"direct to nobody", "to is empty", linesOf(1, itemDirect, "", "x")},
		{"said to somebody", "to is not empty", linesOf(1, itemSay, "bob", "x")},
		{"length without end", "the uvarint does not end", append(linesOf(1, itemSay, ""), 0x80)},
		{"length over 64 bits", "the uvarint is over 64 bits", append(linesOf(1, itemSay, ""), 0xff, 0xff, 0xff, 0xff, 0xff,
			0xff, 0xff, 0xff, 0xff, 0x7f)},
		{"length of 2^63", "the uvarint is 2^63", append(linesOf(1, itemSay, ""), 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
			0x80, 0x80, 0x01)},
		{"length over what is there", "a line's length is one too many", func() []byte {
			b := linesOf(1, itemSay, "", "x")
			b[10] = 2
			return b
		}()},
		{"long name", fmt.Sprintf("to has %d bytes", maxShown+1), append(append(linesOf(1, itemDirect, "")[:9], maxShown+1),
			make([]byte, maxShown+3)...)},
		{"cut", "the header is cut", linesOf(1, itemSay, "", "x")[:9]},
		{"empty", "no byte", nil},
	} {
		check := bad
		if c.defect == "" {
			check = ""
		}
		put("lines", c.name, c.defect, check, c.payload)
	}
	at := time.UnixMilli(1700000000000)
	say := item{1, at, itemSay, "bob", []byte("hello")}.append(nil)
	for _, c := range []struct {
		name, defect string
		payload      []byte
	}{
		{"one", "", say},
		{"several", "", item{0, at, itemLeave, "bob~12345678", []byte("left")}.append(item{0, time.UnixMilli(0),
			itemNotice, "", nil}.append(say))},
		{"largest", "", item{1<<64 - 1, time.UnixMilli(-1), itemDirect, longestName, nil}.append(nil)},
		{"none", "no item", nil},
		{"say without a number", "a say has seq 0", item{0, at, itemSay, "bob", nil}.append(nil)},
		{"action without a number", "an action has seq 0", item{0, at, itemAction, "bob", nil}.append(nil)},
		{"direct without a number", "a direct line has seq 0", item{0, at, itemDirect, "bob", nil}.append(nil)},
		{"join with a number", "a join has a seq", item{1, at, itemJoin, "bob", nil}.append(nil)},
		{"leave with a number", "a leave has a seq", item{1, at, itemLeave, "bob", nil}.append(nil)},
		{"notice with a number", "a notice has a seq", item{1, at, itemNotice, "", nil}.append(nil)},
		{"undelivered with a number", "an undelivered has a seq", item{1, at, itemUndelivered, "", nil}.append(nil)},
		{"removed with a number", "a removed has a seq", item{1, at, itemRemoved, "", nil}.append(nil)},
		{"say without a name", "a say has no name", item{1, at, itemSay, "", nil}.append(nil)},
		{"join without a name", "a join has no name", item{0, at, itemJoin, "", nil}.append(nil)},
		{"leave without a name", "a leave has no name", item{0, at, itemLeave, "", nil}.append(nil)},
		{"notice with a name", "a notice has a name", item{0, at, itemNotice, "bob", nil}.append(nil)},
		{"join with a text", "a join has a text", item{0, at, itemJoin, "bob", []byte("x")}.append(nil)},
		{"suffix", "a name has a letter after its ~ that is not a hexadecimal digit",
			item{1, at, itemSay, "bob~1234567x", nil}.append(nil)},
		{"length of three bytes", "the uvarint is longer than necessary",
			slices.Concat([]byte{say[0] | 0x80, 0x80, 0}, say[1:])},
		{"kind 0", "what is 0", item{1, at, 0, "bob", nil}.append(nil)},
		{"kind unknown", "what is one too many", item{1, at, itemRemoved + 1, "bob", nil}.append(nil)},
		{"name", "a name of characters that a name has not", item{1, at, itemSay, "b ob", nil}.append(nil)},
		{"cut", "the last byte is missing", say[:len(say)-1]},
		{"length short", "the name is outside of the item", func() []byte {
			b := item{0, at, itemNotice, "", nil}.append(nil)
			b[0]--
			return b
		}()},
		{"length without end", "the uvarint does not end", []byte{0x80}},
		{"length huge", "the uvarint is 2^63", []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}},
	} {
		check := bad
		if c.defect == "" {
			check = ""
		}
		put("items", c.name, c.defect, check, c.payload)
	}
}

func (m *vectorMaker) invites() {
	server := serverHash(fixedSigner(m.t, "server").PublicKey())
	secret := bytes.Repeat([]byte{9}, inviteSecret)
	code := formatInviteCode(server, secret)
	newer := append([]byte{inviteVersion + 1}, append(bytes.Clone(server), secret...)...)
	newer = append(newer, inviteChecksum(newer)...)
	for _, c := range []struct{ name, defect, check, code string }{
		{"good", "", "", code},
		{"lower case and blanks", "", "", strings.ToLower(strings.ReplaceAll(code, "-", " "))},
		{"one group", "", "", strings.ReplaceAll(code, "-", "")},
		{"digits for letters", "", "", strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(code)},
		{"last character missing", "the last character is missing", "typing error", code[:len(code)-1]},
		{"character more", "a character more", "typing error", code + "A"},
		{"two swapped", "two characters change places", "typing error",
			code[:1] + code[3:4] + code[2:3] + code[1:2] + code[4:]},
		{"not base32", "a 9", "typing error", "9" + code[1:]},
		{"empty", "no character", "typing error", ""},
		{"version 2", "a version to come", "newer format", inviteEncoding.EncodeToString(newer)},
		{"long", "over 1024 characters", "too long", strings.Repeat("A", 1025)},
	} {
		m.put("invite code", c.name, c.defect, c.check, [2]string{"code", c.code})
	}
	key, err := deriveInviteKey(secret, server)
	if err != nil {
		m.t.Fatal(err)
	}
	h0 := sha512.Sum512([]byte("h0"))
	kem, id := bytes.Repeat([]byte{3}, hpkePublicSize), fixedSigner(m.t, "client").PublicKey().Marshal()
	proof := inviteProof(key, h0[:], kem, id)
	put := func(name, defect string, key, h0, kem, id, proof []byte) {
		check := ""
		if defect != "" {
			check = "does not match"
		}
		m.put("invite proof", name, defect, check, hexField("key", key), hexField("h0", h0), hexField("hpke", kem),
			hexField("wire", id), hexField("proof", proof))
	}
	put("good", "", key, h0[:], kem, id, proof)
	put("other key", "another invite's key", flip(key, 0), h0[:], kem, id, proof)
	put("other run", "another hello", key, flip(h0[:], 0), kem, id, proof)
	put("other HPKE key", "another run of the client", key, h0[:], flip(kem, 0), id, proof)
	put("other identity", "another identity would be enrolled", key, h0[:], kem,
		fixedSigner(m.t, "mallory").PublicKey().Marshal(), proof)
	put("cut", "a byte is missing", key, h0[:], kem, id, proof[1:])
	put("the code itself", "the secret in place of a proof", key, h0[:], kem, id, append(bytes.Clone(secret), secret...))
}

func (m *vectorMaker) paperHandshakes() {
	t := m.t
	client, server, third := vectorRSA(t, "paper-client"), vectorRSA(t, "paper-server"), vectorRSA(t, "paper-third")
	on := func(side string, received ...[]byte) [][]byte {
		conn := cannedConn(received...)
		vectorPaperHandshake(t, side, conn, map[string]uint64{"server": seedServer, "client": seedClient}[side])
		return conn.out
	}
	seal := func(from, to *rsa.PrivateKey, fields ...string) []byte {
		cryptotest.SetGlobalRandom(t, seedAttacker)
		return refSeal(t, from, to, strings.Join(fields, ""))
	}
	put := func(side, name, defect, check string, received ...[]byte) {
		t.Helper()
		fields := [][2]string{{"side", side}, {"seed", map[string]string{"server": "1", "client": "2"}[side]}}
		for _, r := range received {
			fields = append(fields, hexField("receive", r))
		}
		m.put("paper handshake", side+" "+name, defect, check, fields...)
	}
	open := func(from, to *rsa.PrivateKey, sealed []byte) string {
		s, err := refOpen(from, to, sealed)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	b64 := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }
	stage1 := on("client")[0]
	ra := open(client, server, stage1)[paperSeq:]
	stage2 := on("server", stage1)[0]
	rb := open(server, client, stage2)[paperSeq+paperSerial:]
	stage3 := on("client", stage2)[1]
	stage4 := on("server", stage1, stage3)[1]
	put("client", "run", "", "", stage2, stage4)
	put("server", "run", "", "", stage1, stage3)

	const no = "does not open"
	moved := func(b []byte) []byte { return slices.Concat(b[256:512], b[:256], b[512:]) }
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"seq_id 2", "seq_id is 2", "seq_id other than 1", seal(client, server, "00000010", ra)},
		{"seq_id not binary", "seq_id is 0000000x", "seq_id other than 1", seal(client, server, "0000000x", ra)},
		{"serial not binary", "serial_a has a 2", "not a binary number", seal(client, server, "00000001", "2"+ra[1:])},
		{"serial of 31", "serial_a has 31 digits", no, seal(client, server, "00000001", ra[1:])},
		{"serial of 33", "serial_a has 33 digits", no, seal(client, server, "00000001", ra, "0")},
		{"signed by server", "signed by the server's own key", no, seal(server, server, "00000001", ra)},
		{"sealed to client", "sealed to the client's key", no, seal(client, client, "00000001", ra)},
		{"unsigned", "the signature is zeros", no, func() []byte {
			cryptotest.SetGlobalRandom(t, seedAttacker)
			s, err := paperRSACBC.seal(&server.PublicKey, append(make([]byte, paperSign), "00000001"+ra...))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}()},
		{"blocks swapped", "blocks 0 and 1 change places", no, moved(stage1)},
		{"other IV", "a bit of the IV is flipped", no, flip(stage1, len(stage1)-1)},
		{"bit of block 0", "a bit of block 0 is flipped", no, flip(stage1, 9)},
		{"bit of block 2", "a bit of block 2 is flipped: the padding", no, flip(stage1, 520)},
		{"cut", "a byte is missing", "after 895 of 896 bytes", stage1[:895]},
		{"empty", "no byte", "after 0 of 896 bytes", nil},
		{"zeros", "896 bytes of 0", no, make([]byte, paperSealed)},
	} {
		put("server", "stage1 "+c.name, c.defect, c.check, c.wire)
	}
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"other serial", "serial_b is not the server's", "a different serial_b", seal(client, server, "00000011", ra)},
		{"seq_id 1", "seq_id is 1", "seq_id other than 3", seal(client, server, "00000001", rb)},
		{"third", "signed by another listed client", no, seal(third, server, "00000011", rb)},
		{"is stage 1", "stage 1 again", "seq_id other than 3", stage1},
		{"is stage 2", "reflection: stage 2 comes back", no, stage2},
		{"blocks swapped", "blocks 0 and 1 change places", no, moved(stage3)},
		{"cut", "a byte is missing", "after 895 of 896 bytes", stage3[:895]},
	} {
		put("server", "stage3 "+c.name, c.defect, c.check, stage1, c.wire)
	}
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"other serial", "serial_a is not the client's", "a different serial_a", seal(server, client, "00000010", rb, rb)},
		{"seq_id 3", "seq_id is 3", "seq_id other than 2", seal(server, client, "00000011", ra, rb)},
		{"serial not binary", "serial_b has a 2", "not a binary number", seal(server, client, "00000010", ra, "2"+rb[1:])},
		{"third", "signed by a third party", no, seal(third, client, "00000010", ra, rb)},
		{"signed by client", "signed by the client's own key", no, seal(client, client, "00000010", ra, rb)},
		{"is stage 1", "reflection: stage 1 comes back", no, stage1},
		{"blocks swapped", "blocks 0 and 1 change places", no, moved(stage2)},
		{"other IV", "a bit of the IV is flipped", no, flip(stage2, len(stage2)-1)},
		{"cut", "a byte is missing", "after 895 of 896 bytes", stage2[:895]},
	} {
		put("client", "stage2 "+c.name, c.defect, c.check, c.wire)
	}
	planted := strings.Repeat("Z", paperKey)
	short, long := seal(server, client, planted[1:]), seal(server, client, planted, "Z")
	for _, c := range []struct {
		name, defect, check string
		wire                []byte
	}{
		{"as Fig 3", "", "", b64(seal(server, client, "00000101", planted))},
		// The paper's attacks 1 and 2: the message looks like the server's own.
		{"of another session", "", "", b64(seal(server, client, planted))},
		{"Fig 3 with seq_id 6", "seq_id is 6", "seq_id other than 5", b64(seal(server, client, "00000110", planted))},
		{"key of 31", "a session key of 31 bytes", no, b64(short)},
		{"key of 33", "a session key of 33 bytes", no, b64(long)},
		{"is stage 2", "stage 2 as stage 4: a key of 72 bytes", no, b64(stage2)},
		{"third", "signed by a third party", no, b64(seal(third, client, planted))},
		{"bad character", "a character that base64 has not", "not base64", append([]byte("*"), stage4[1:]...)},
		{"line end", "a line end inside", "not base64", append([]byte("\n"), stage4[1:]...)},
		{"blocks swapped", "blocks 0 and 1 change places", no, b64(moved(seal(server, client, planted)))},
		{"cut", "a byte is missing", "after 1195 of 1196 bytes", stage4[:1195]},
	} {
		put("client", "stage4 "+c.name, c.defect, c.check, stage2, c.wire)
	}
}

func (m *vectorMaker) paperPackets() {
	key := sha256.Sum256([]byte("paper packets"))
	p := newPaperConn(nil, &key)
	put := func(name, defect, check string, stream ...[]byte) {
		m.put("paper packets", name, defect, check, hexField("key", key[:]), hexField("stream", slices.Concat(stream...)))
	}
	s := func(text string) []byte { return p.seal([]byte(text)) }
	raw := func(text string) []byte { return encryptECB(key, []byte(text)) }
	digest := fmt.Sprintf("%x", sha512.Sum512(key[:]))
	pad := func(text string) string {
		n := aes.BlockSize - len(text)%aes.BlockSize
		return text + strings.Repeat(string(rune(n)), n)
	}
	put("one", "", "", s("hello"))
	put("empty text", "", "", s(""))
	put("aligned, padded", "", "", s("sixteen bytes..."), s("next"))
	put("aligned, as the reference", "", "", refPacket(key, "sixteen bytes..."), refPacket(key, "next"))
	put("joined", "", "", s("one"), s("two"), s(paperClose))
	put("longest", "", "", s(strings.Repeat("x", paperMaxSend)))
	put("repeated", "", "", s("one"), s("one")) // The format cannot detect this.
	put("two texts with a block swapped", "", "", func() []byte {
		b := s(strings.Repeat("A", 16) + strings.Repeat("B", 16) + "c")
		return slices.Concat(b[:160], b[176:192], b[160:176], b[192:])
	}()) // Nor this, because of ECB.
	const bad = "digest"
	put("other digest", "the digest of another key", bad,
		raw(pad(strings.Repeat("0", paperDigest)+fmt.Sprintf("%032b", 1)+"x")))
	put("bit of digest", "a bit of the first block is flipped", bad, flip(s("hello"), 0))
	put("msg_len not binary", "msg_len has a 2", "msg_len is no binary", raw(pad(digest+strings.Repeat("0", 31)+"2"+"x")))
	put("msg_len too long", "msg_len is 3937", "msg_len is no binary",
		raw(pad(digest+fmt.Sprintf("%032b", paperMaxRead+1)+"x")))
	put("msg_len less", "msg_len is one less than the text", "not the length of its text",
		raw(pad(digest+fmt.Sprintf("%032b", 4)+"hello")))
	put("padding uneven", "the padding is not PKCS#5's", "not the length of its text",
		raw(digest+fmt.Sprintf("%032b", 5)+"hello"+strings.Repeat("\x00", 11)))
	put("cut in head", "the stream ends in the digest", "inside a packet", s("hello")[:64])
	put("cut in block", "the stream ends inside a block", "inside a packet", s("hello")[:170])
	put("cut in text", "the stream ends before the last block", "inside a packet", s(strings.Repeat("x", 40))[:176])
}
