package main

// The handshake of securechat/2: the paper's four stages and its double encryption (§3.1, §3.2, Fig. 3), with a hello
// before them and what each of the paper's weaknesses needs (DESIGN section 3). docs/PROTOCOL.md gives every byte;
// docs/formal holds the machine-checked model, in whose letters this file speaks.
//
// The rules: the hash takes a message in before it is signed; a failed check closes the connection and tells the peer
// nothing; the two functions below read top to bottom as the four stages, and end with a session's secrets or an error.

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

const (
	protocolName = "securechat/2"

	helloNonceSize = 32 // Rs
	nonceSize      = 24 // Ra, Rb: 192 bits
	smSize         = 32
	hpkePublicSize = 1216 // MLKEM768-X25519 public key
	hpkeEncSize    = 1120 // and its encapsulation
	proofSize      = 32   // of an invite
	longestSign    = 512  // bytes of a signature: RSA-4096's
	maxIdentity    = 8 << 10
	maxFields      = 1 + 2*nonceSize // after the signature of any stage
)

// party is one side of handshakes: its two keys, and the part of its hello that never changes.
type party struct {
	signer     ssh.Signer
	identity   []byte // signer's public key or certificate, SSH wire form
	encryption *rsa.PrivateKey
	hello      []byte // vectors: identity, encryption key, the identity's signature over it
	aes        bool   // this machine has AES in hardware
	trace      tracer // -trace
}

func newParty(signer ssh.Signer, encryption *rsa.PrivateKey) (*party, error) {
	p := &party{signer: signer, identity: signer.PublicKey().Marshal(), encryption: encryption, aes: hardwareAES()}
	if len(p.identity) > maxIdentity {
		return nil, fmt.Errorf("the identity's certificate is %d bytes long: %d is the limit", len(p.identity), maxIdentity)
	}
	ek := marshalEncryptionKey(&encryption.PublicKey)
	sig, err := signData(signer, helloStatement(ek))
	if err != nil {
		return nil, fmt.Errorf("signing the encryption key with the identity: %w", err)
	}
	p.hello = appendVector(appendVector(appendVector(nil, p.identity), ek), sig)
	return p, nil
}

// hardwareAES says whether AES-GCM is fast and constant-time here; Go's AES in software is neither.
func hardwareAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM
}

// clientHandshake runs the client's side on conn, whose deadline the caller has set. check is asked whether the server's
// identity is trusted before anything is told to it. proof makes an invite's proof; nil without an invite.
func clientHandshake(conn net.Conn, me *party, check func(ssh.PublicKey) error, proof func(h0, hpkePublic, identity []byte) []byte) (*secrets, error) {
	t := transcript{trace: me.trace, began: time.Now()}

	// Hello, S → C: version ‖ AES ‖ Rs ‖ IDs ‖ EKs ‖ sign(EKs).
	frame, err := readFrame(conn, maxHandshakeFrame)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	ids, eks, serverAES, err := parseHello(frame)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	h0 := t.start(frame)
	t.wire = frameHeader + len(frame)
	t.told(0, toClient, "signature of IDs over EKs ok", helloFields(frame)...)
	if err := check(ids); err != nil {
		return nil, err
	}

	// Stage 1, C → S: AES ‖ HPKE key ‖ box(IDc ‖ EKc ‖ proof); seq 1 ‖ Ra, signed by C, sealed to S.
	ra := newNonce()
	defer clear(ra)
	kemKey, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("stage 1: %w", err)
	}
	hpkePublic := kemKey.PublicKey().Bytes()
	cred := appendVector(nil, me.identity)
	cred = appendVector(cred, marshalEncryptionKey(&me.encryption.PublicKey))
	if proof != nil {
		cred = appendVector(cred, proof(h0, hpkePublic, me.identity))
	} else {
		cred = appendVector(cred, nil)
	}
	box, err := credentialBox(ra, h0)
	if err != nil {
		return nil, fmt.Errorf("stage 1: %w", err)
	}
	clearPart := append([]byte{boolByte(me.aes)}, hpkePublic...)
	clearPart = box.Seal(clearPart, zeroNonce[:], cred, nil)
	stage1, err := t.seal(1, me.signer, eks, clearPart, ra)
	if err != nil {
		return nil, err
	}
	if err := t.send(1, conn, nil, stage1); err != nil {
		return nil, err
	}
	t.told(1, toServer, "sent", traceField{"AES", 1}, traceField{"HPKE key", hpkePublicSize}, traceField{"box", len(cred) + aeadOverhead},
		traceField{"sign", t.sign}, traceField{"seq", 1}, traceField{"Ra", nonceSize})
	wrap, err := newWrapper(ra, t.sum())
	if err != nil {
		return nil, err
	}

	// Stage 2, S → C, wrapped: HPKE encapsulation; seq 2 ‖ Ra ‖ Rb, signed by S, sealed to C.
	enc, sig, fields, err := t.receive(2, conn, wrap, me.encryption, hpkeEncSize, 2*nonceSize)
	if err != nil {
		return nil, err
	}
	if err := t.verify(2, ids, sig, fields); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(fields[1:1+nonceSize], ra) != 1 {
		return nil, fmt.Errorf("stage 2: the server returned another serial than ours: %w", errUnverified)
	}
	t.told(2, toClient, "wrapping ok, label ok, signature ok, Ra ok", traceField{"encapsulation", hpkeEncSize},
		traceField{"sign", t.sign}, traceField{"seq", 1}, traceField{"Ra", nonceSize}, traceField{"Rb", nonceSize})
	rb := fields[1+nonceSize:]
	defer clear(fields)
	recipient, err := hpke.NewRecipient(enc, kemKey, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return nil, fmt.Errorf("stage 2: HPKE: %w: %w", err, errUnverified)
	}

	// Stage 3, C → S, wrapped: seq 3 ‖ Rb, signed by C, under Ra alone.
	stage3, err := t.seal(3, me.signer, nil, nil, rb)
	if err != nil {
		return nil, err
	}
	err = t.send(3, conn, wrap, stage3)
	clear(stage3)
	if err != nil {
		return nil, err
	}
	t.told(3, toServer, "sent", traceField{"sign", t.sign}, traceField{"seq", 1}, traceField{"Rb", nonceSize})

	// Stage 4, S → C, wrapped: seq 4 ‖ Sm, signed by S, sealed to C.
	_, sig, fields, err = t.receive(4, conn, wrap, me.encryption, 0, smSize)
	if err != nil {
		return nil, err
	}
	defer clear(fields)
	if err := t.verify(4, ids, sig, fields); err != nil {
		return nil, err
	}
	t.told(4, toClient, "wrapping ok, label ok, signature ok", traceField{"sign", t.sign}, traceField{"seq", 1}, traceField{"Sm", smSize})

	// Key delivery: from HPKE's secret and Sm, bound to all that was said.
	export, err := recipient.Export(protocolName, 64)
	if err != nil {
		return nil, fmt.Errorf("HPKE: %w", err)
	}
	return t.newSecrets(export, fields[1:], me.aes && serverAES)
}

// serverHandshake runs the server's side on conn, whose deadline the caller has set, with pause before each of its
// answers (-delay). admit is asked about a client whose signature has been checked, and not before, so that nobody can
// ask about another's key; proof is the client's invite proof or empty, and confirmed is false at stage 1, true once
// stage 3 has shown that the client is there now.
func serverHandshake(conn net.Conn, me *party, pause time.Duration, admit func(id ssh.PublicKey, proof, h0, hpkePublic []byte, confirmed bool) error) (*secrets, ssh.PublicKey, error) {
	t := transcript{trace: me.trace, began: time.Now()}

	// Hello, S → C: version ‖ AES ‖ Rs ‖ IDs ‖ EKs ‖ sign(EKs).
	hello := append([]byte(protocolName), boolByte(me.aes))
	rs := make([]byte, helloNonceSize)
	rand.Read(rs)
	hello = append(hello, rs...)
	hello = append(hello, me.hello...)
	h0 := t.start(hello)
	if err := t.send(0, conn, nil, hello); err != nil {
		return nil, nil, err
	}
	t.told(0, toClient, "sent", helloFields(hello)...)

	// Stage 1, C → S: AES ‖ HPKE key ‖ box(IDc ‖ EKc ‖ proof); seq 1 ‖ Ra, signed by C, sealed to S.
	clearPart, sig, fields, err := t.receive(1, conn, nil, me.encryption, -1, nonceSize)
	if err != nil {
		return nil, nil, err
	}
	ra := fields[1:]
	defer clear(ra)
	if len(clearPart) < 1+hpkePublicSize || clearPart[0] > 1 {
		return nil, nil, fmt.Errorf("stage 1: malformed: %w", errUnverified)
	}
	clientAES := clearPart[0] == 1
	hpkePublic := clearPart[1 : 1+hpkePublicSize]
	box, err := credentialBox(ra, h0)
	if err != nil {
		return nil, nil, fmt.Errorf("stage 1: %w", err)
	}
	cred, err := box.Open(nil, zeroNonce[:], clearPart[1+hpkePublicSize:], nil)
	if err != nil {
		return nil, nil, fmt.Errorf("stage 1: the credential box does not open: %w", errUnverified)
	}
	idc, ekc, proof, err := parseCredential(cred)
	if err != nil {
		return nil, nil, fmt.Errorf("stage 1: %w", err)
	}
	if err := t.verify(1, idc, sig, fields); err != nil {
		return nil, nil, err // whoever this is, it is not idc
	}
	t.told(1, toServer, "label ok, box ok, signature ok", traceField{"AES", 1}, traceField{"HPKE key", hpkePublicSize},
		traceField{"box", len(cred) + aeadOverhead}, traceField{"sign", t.sign}, traceField{"seq", 1}, traceField{"Ra", nonceSize})
	if err := admit(idc, proof, h0, hpkePublic, false); err != nil {
		return nil, idc, err
	}
	kemKey, err := hpke.MLKEM768X25519().NewPublicKey(hpkePublic)
	if err != nil {
		return nil, idc, fmt.Errorf("stage 1: HPKE: %w: %w", err, errUnverified)
	}
	wrap, err := newWrapper(ra, t.sum())
	if err != nil {
		return nil, idc, err
	}
	time.Sleep(pause)
	t.began = time.Now()

	// Stage 2, S → C, wrapped: HPKE encapsulation; seq 2 ‖ Ra ‖ Rb, signed by S, sealed to C.
	enc, sender, err := hpke.NewSender(kemKey, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return nil, idc, fmt.Errorf("stage 2: HPKE: %w: %w", err, errUnverified)
	}
	rb := newNonce()
	defer clear(rb)
	serials := append(append(make([]byte, 0, 2*nonceSize), ra...), rb...)
	stage2, err := t.seal(2, me.signer, ekc, enc, serials)
	clear(serials)
	if err != nil {
		return nil, idc, err
	}
	if err := t.send(2, conn, wrap, stage2); err != nil {
		return nil, idc, err
	}
	t.told(2, toClient, "sent", traceField{"encapsulation", hpkeEncSize}, traceField{"sign", t.sign}, traceField{"seq", 1},
		traceField{"Ra", nonceSize}, traceField{"Rb", nonceSize})

	// Stage 3, C → S, wrapped: seq 3 ‖ Rb, signed by C, under Ra alone.
	_, sig, fields, err = t.receive(3, conn, wrap, nil, 0, nonceSize)
	if err != nil {
		return nil, idc, err
	}
	defer clear(fields)
	if err := t.verify(3, idc, sig, fields); err != nil {
		return nil, idc, err
	}
	if subtle.ConstantTimeCompare(fields[1:], rb) != 1 {
		return nil, idc, fmt.Errorf("stage 3: the client returned another serial than ours: %w", errUnverified)
	}
	t.told(3, toServer, "wrapping ok, signature ok, Rb ok", traceField{"sign", t.sign}, traceField{"seq", 1}, traceField{"Rb", nonceSize})
	if err := admit(idc, proof, h0, hpkePublic, true); err != nil {
		return nil, idc, err
	}
	time.Sleep(pause)
	t.began = time.Now()

	// Stage 4, S → C, wrapped: seq 4 ‖ Sm, signed by S, sealed to C.
	sm := make([]byte, smSize)
	defer clear(sm)
	rand.Read(sm)
	stage4, err := t.seal(4, me.signer, ekc, nil, sm)
	if err != nil {
		return nil, idc, err
	}
	if err := t.send(4, conn, wrap, stage4); err != nil {
		return nil, idc, err
	}
	t.told(4, toClient, "sent", traceField{"sign", t.sign}, traceField{"seq", 1}, traceField{"Sm", smSize})

	// Key delivery: from HPKE's secret and Sm, bound to all that was said.
	export, err := sender.Export(protocolName, 64)
	if err != nil {
		return nil, idc, fmt.Errorf("HPKE: %w", err)
	}
	s, err := t.newSecrets(export, sm, me.aes && clientAES)
	return s, idc, err
}

// newSecrets derives a session from HPKE's exported secret and Sm, both of which it wipes, with h4 as salt: without it
// two sessions could share a key (docs/formal, NOSALT).
func (t *transcript) newSecrets(export, sm []byte, aes bool) (*secrets, error) {
	secret := append(append(make([]byte, 0, len(export)+len(sm)), export...), sm...)
	clear(export)
	clear(sm)
	key, err := hkdf.Extract(sha512.New, secret, t.sum())
	clear(secret)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	s := &secrets{digest: sha512.Sum512(key), aes: aes}
	for _, x := range []struct {
		label string
		to    []byte
	}{{"client to server", s.toServer[:]}, {"server to client", s.toClient[:]}, {"session id", s.id[:]}} {
		v, err := hkdf.Expand(sha512.New, key, protocolName+" "+x.label, len(x.to))
		if err != nil {
			return nil, err
		}
		copy(x.to, v)
		clear(v)
	}
	if t.trace != nil {
		t.trace(fmt.Sprintf("session %x  %s  key from HPKE's secret 64 ‖ Sm %d, salt h4 %d", s.id[:4], s.cipher(), smSize, sha512.Size))
	}
	return s, nil
}

// parseHello takes a hello apart and verifies that the identity in it signed the encryption key in it.
func parseHello(b []byte) (id ssh.PublicKey, ek *rsa.PublicKey, aes bool, err error) {
	const fixed = len(protocolName) + 1 + helloNonceSize
	if len(b) < fixed || string(b[:len(protocolName)]) != protocolName {
		return nil, nil, false, errors.New("the other side does not speak " + protocolName)
	}
	if b[len(protocolName)] > 1 {
		return nil, nil, false, fmt.Errorf("malformed: %w", errUnverified)
	}
	aes = b[len(protocolName)] == 1
	idWire, b, ok1 := cutVector(b[fixed:])
	ekWire, b, ok2 := cutVector(b)
	sig, b, ok3 := cutVector(b)
	if !ok1 || !ok2 || !ok3 || len(b) != 0 {
		return nil, nil, false, fmt.Errorf("malformed: %w", errUnverified)
	}
	if id, err = parseIdentity(idWire); err != nil {
		return nil, nil, false, err
	}
	if ek, err = parseEncryptionKey(ekWire); err != nil {
		return nil, nil, false, fmt.Errorf("%w: %w", err, errUnverified)
	}
	if err := verifyData(id, helloStatement(ekWire), sig); err != nil {
		return nil, nil, false, fmt.Errorf("the identity did not sign the encryption key: %w", errUnverified)
	}
	return id, ek, aes, nil
}

// parseCredential takes the content of the credential box apart.
func parseCredential(b []byte) (id ssh.PublicKey, ek *rsa.PublicKey, proof []byte, err error) {
	idWire, b, ok1 := cutVector(b)
	ekWire, b, ok2 := cutVector(b)
	proof, b, ok3 := cutVector(b)
	if !ok1 || !ok2 || !ok3 || len(b) != 0 || len(proof) != 0 && len(proof) != proofSize {
		return nil, nil, nil, fmt.Errorf("malformed credential: %w", errUnverified)
	}
	if id, err = parseIdentity(idWire); err != nil {
		return nil, nil, nil, err
	}
	if ek, err = parseEncryptionKey(ekWire); err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", err, errUnverified)
	}
	return id, ek, proof, nil
}

// parseIdentity parses a public key or certificate of a kind and strength that may identify somebody.
func parseIdentity(wire []byte) (ssh.PublicKey, error) {
	if len(wire) > maxIdentity {
		return nil, fmt.Errorf("an identity of %d bytes: %w", len(wire), errUnverified)
	}
	id, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, fmt.Errorf("the identity is no SSH key: %w", errUnverified)
	}
	if err := checkIdentityKey(id); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errUnverified)
	}
	return id, nil
}

// transcript is h: SHA-512 over the protocol's name and every handshake message in order, each part with its length.
// A stage has two parts, one clear and one sealed; what is wrapped goes in unwrapped, for its key, nonce and content fix
// the wrapper (docs/formal, WIRE).
type transcript struct {
	h hash.Hash
	// midway is h with the clear part of the stage at hand, and without its sealed part: what that stage's label and
	// signature cover.
	midway [sha512.Size]byte

	// For -trace: when the stage at hand began, and the bytes of its frame and signature.
	trace      tracer
	began      time.Time
	wire, sign int
}

// start takes the hello and returns h0.
func (t *transcript) start(hello []byte) []byte {
	t.h = sha512.New()
	io.WriteString(t.h, protocolName)
	t.add(hello)
	return t.sum()
}

func (t *transcript) add(part []byte) {
	var n [2]byte
	binary.BigEndian.PutUint16(n[:], uint16(len(part)))
	t.h.Write(n[:])
	t.h.Write(part)
}

func (t *transcript) sum() []byte { return t.h.Sum(nil) }

// told traces a stage that has been sent or verified.
func (t *transcript) told(stage int, direction, checks string, fields ...traceField) {
	t.trace.stage(stage, direction, t.wire, checks, t.began, fields...)
	t.began = time.Now()
}

// helloFields tells the sizes in a hello for a trace.
func helloFields(hello []byte) []traceField {
	f := []traceField{{"version", len(protocolName)}, {"AES", 1}, {"Rs", helloNonceSize}}
	rest := hello[len(protocolName)+1+helloNonceSize:]
	for _, name := range []string{"IDs", "EKs", "sign"} {
		v, r, _ := cutVector(rest)
		f, rest = append(f, traceField{name, len(v)}), r
	}
	return f
}

// send sends a stage, wrapped if wrap is set, as one frame.
func (t *transcript) send(stage byte, conn net.Conn, wrap *wrapper, body []byte) error {
	if wrap != nil {
		body = wrap.seal(stage, body)
	}
	t.wire = frameHeader + len(body)
	if err := writeFrame(conn, body); err != nil {
		return fmt.Errorf("stage %d: %w", stage, err)
	}
	return nil
}

// wrapOnly is the stage that the wrapper alone seals: its key is Ra's, and Ra came in RSA-CBC, which around this stage too would
// keep out nobody and cost S a second private-key operation (docs/formal). It has no key, and every other stage has one.
const wrapOnly = 3

// seal makes a stage: it takes clearPart into the transcript, signs seq ‖ nonces, seals both to ek, takes that in too,
// and returns the two parts as vectors, which hold the nonces of stage 3 as they are.
func (t *transcript) seal(stage byte, signer ssh.Signer, ek *rsa.PublicKey, clearPart []byte, nonces []byte) ([]byte, error) {
	if (ek == nil) != (stage == wrapOnly) {
		return nil, fmt.Errorf("stage %d: sealing: the wrong key, or none", stage)
	}
	t.add(clearPart)
	t.midway = [sha512.Size]byte(t.sum())
	fields := append([]byte{stage}, nonces...)
	defer clear(fields)
	statement := t.statement(stage, fields)
	defer clear(statement)
	sig, err := signData(signer, statement)
	if err != nil {
		return nil, fmt.Errorf("stage %d: signing with our identity: %w", stage, err)
	}
	t.sign = len(sig)
	msg := append(append(make([]byte, 0, len(sig)+len(fields)), sig...), fields...)
	defer clear(msg)
	sealed := msg
	if ek != nil {
		if sealed, err = t.rsaCBC(stage).seal(ek, msg); err != nil {
			return nil, fmt.Errorf("stage %d: sealing: %w", stage, err)
		}
	}
	t.add(sealed)
	return appendVector(appendVector(nil, clearPart), sealed), nil
}

// receive reads a stage from conn, unwraps it if wrap is set, and opens what is sealed in it to key: a signature, which the
// caller hands to verify, and the fields seq ‖ nonces, of which there are n bytes. The clear part must have clearSize bytes
// unless that is -1.
func (t *transcript) receive(stage byte, conn net.Conn, wrap *wrapper, key *rsa.PrivateKey, clearSize, n int) (clearPart, sig, fields []byte, err error) {
	frame, err := readFrame(conn, maxHandshakeFrame)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("stage %d: %w", stage, err)
	}
	t.wire = frameHeader + len(frame)
	if wrap != nil {
		if frame, err = wrap.open(stage, frame); err != nil {
			return nil, nil, nil, err
		}
	}
	clearPart, rest, ok1 := cutVector(frame)
	sealed, rest, ok2 := cutVector(rest)
	malformed := func() error { return fmt.Errorf("stage %d: malformed: %w", stage, errUnverified) }
	cbc, longest := t.rsaCBC(stage), longestSign+maxFields
	if key != nil {
		longest = cbc.sealedSize(&key.PublicKey, longest)
	}
	if (key == nil) != (stage == wrapOnly) || !ok1 || !ok2 || len(rest) != 0 || clearSize >= 0 && len(clearPart) != clearSize || len(sealed) > longest {
		return nil, nil, nil, malformed()
	}
	t.add(clearPart)
	t.midway = [sha512.Size]byte(t.sum())
	msg := sealed
	if key != nil {
		if msg, err = cbc.open(key, sealed); err != nil {
			return nil, nil, nil, fmt.Errorf("stage %d: %w: %w", stage, err, errUnverified)
		}
	}
	if len(msg) < 1+n || msg[len(msg)-n-1] != stage {
		return nil, nil, nil, malformed()
	}
	t.add(sealed)
	cut := len(msg) - n - 1
	t.sign = cut
	return clearPart, msg[:cut], msg[cut:], nil
}

// verify checks that id signed the stage that receive has just returned.
func (t *transcript) verify(stage byte, id ssh.PublicKey, sig, fields []byte) error {
	statement := t.statement(stage, fields)
	defer clear(statement)
	if err := verifyData(id, statement, sig); err != nil {
		return fmt.Errorf("stage %d: bad signature: %w", stage, errUnverified)
	}
	return nil
}

// The contexts of the signatures: without them one stage's could be passed off as another's, or as another program's.
const (
	helloContext = "securechat/2 hello, server's encryption key\x00"
	stageContext = "securechat/2 stage\x00"
	blockContext = "securechat/2 block\x00"
)

func helloStatement(ek []byte) []byte { return append([]byte(helloContext), ek...) }

// statement is what a stage's signature covers: its context, the transcript with this message's clear part, the fields.
// It holds their secrets, so its caller wipes it.
func (t *transcript) statement(stage byte, fields []byte) []byte {
	s := append([]byte(stageContext), stage)
	s = append(s, t.midway[:]...)
	return append(s, fields...)
}

// rsaCBC is RSA-CBC with labels that bind each block to this run, stage and place: such a block opens nowhere else.
// The labels are made when a block is, after the clear part has gone into the transcript.
func (t *transcript) rsaCBC(stage byte) rsaCBC {
	return rsaCBC{hash: sha256.New, label: func(i, n int, iv []byte) []byte {
		h := sha512.New()
		io.WriteString(h, blockContext)
		h.Write([]byte{stage})
		h.Write(t.midway[:])
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
		h.Write(iv)
		return h.Sum(nil)
	}}
}

// zeroNonce serves keys that seal one message ever.
var zeroNonce [chacha20poly1305.NonceSize]byte

// credentialBox is the AEAD of stage 1's box, which hides who C is from anyone without S's encryption key.
func credentialBox(ra, h0 []byte) (cipher.AEAD, error) {
	return raKey(ra, h0, "credential box")
}

// raKey derives a ChaCha20-Poly1305 key from Ra.
func raKey(ra, salt []byte, label string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha512.New, ra, salt, protocolName+" "+label, chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return chacha20poly1305.New(key)
}

// wrapper is the AEAD around stages 2, 3 and 4, under keys from Ra and h1, one a direction. It keeps made-up RSA blocks
// from both sides' private keys, and C's name from whoever compares moduli or tries keys on stage 3's signature, which nothing
// else hides (docs/formal, NOWRAP and KEYLEAK).
type wrapper struct{ toServer, toClient cipher.AEAD }

func newWrapper(ra, h1 []byte) (*wrapper, error) {
	toServer, err := raKey(ra, h1, "wrap client to server")
	if err != nil {
		return nil, err
	}
	toClient, err := raKey(ra, h1, "wrap server to client")
	return &wrapper{toServer, toClient}, err
}

// of returns the AEAD and nonce of a stage: the stage's number, of which each key sees each once.
func (w *wrapper) of(stage byte) (cipher.AEAD, []byte) {
	nonce := zeroNonce
	nonce[len(nonce)-1] = stage
	if stage == 3 {
		return w.toServer, nonce[:]
	}
	return w.toClient, nonce[:]
}

func (w *wrapper) seal(stage byte, body []byte) []byte {
	aead, nonce := w.of(stage)
	return aead.Seal(nil, nonce, body, nil)
}

func (w *wrapper) open(stage byte, frame []byte) ([]byte, error) {
	aead, nonce := w.of(stage)
	body, err := aead.Open(nil, nonce, frame, nil)
	if err != nil {
		return nil, fmt.Errorf("stage %d: the wrapping does not open: %w", stage, errUnverified)
	}
	return body, nil
}

// newNonce draws a serial: 192 bits, where the paper has 32.
func newNonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b)
	return b
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
