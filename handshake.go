package main

// The handshake of securechat/2: a hello, then the paper's four stages with its double encryption (§3.1, §3.2, Fig. 3).
// docs/PROTOCOL.md specifies every byte. docs/formal has a machine-checked model, which uses the same letters as this
// file.
//
// The rules:
//
//   - clientHandshake and serverHandshake read top to bottom as the four stages. Each returns a session's secrets or an
//     error.
//   - The transcript includes a message's clear part before the message is signed.
//   - After a failed check the peer sees the connection close, and nothing else. The one exception is a client that has
//     proven its key and is not admitted: it receives a signed refusal.

import (
	"bytes"
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
	nonceSize      = 24 // the serials Ra and Rb: 192 bits, where the paper has 32
	smSize         = 32
	hpkePublicSize = 1216 // an MLKEM768-X25519 public key
	hpkeEncSize    = 1120 // its encapsulation
	exportSize     = 64   // the secret exported from HPKE
	proofSize      = 32   // the proof of an invite
	longestSign    = 512  // an RSA-4096 signature
	maxIdentity    = 8 << 10
	maxFields      = 1 + 2*nonceSize // seq and serials of the longest stage, stage 2

	// refusalNumber takes the stage's place in the nonce of a refusal.
	refusalNumber = 255
)

// errRefused reports that the server has verified this client's key and does not admit it. The server signed the
// refusal for this handshake, so another attempt with the same key gets the same answer until the server's files
// change. The refusal does not say whether the key is unlisted, expired or revoked, or whether its invite is invalid.
var errRefused = errors.New("the server does not admit this key")

// party is one side of its handshakes: its two keys and the part of its hello that never changes.
type party struct {
	signer     ssh.Signer
	identity   []byte // signer's public key or certificate in SSH's wire form
	encryption *rsa.PrivateKey
	hello      []byte // vectors: identity, encryption key, the identity's signature over the encryption key
	aes        bool   // this machine computes AES in hardware
	trace      tracer // -trace; nil if off
}

func newParty(signer ssh.Signer, encryption *rsa.PrivateKey) (*party, error) {
	p := &party{signer: signer, identity: signer.PublicKey().Marshal(), encryption: encryption, aes: hardwareAES()}
	if len(p.identity) > maxIdentity {
		return nil, fmt.Errorf("the identity's certificate has %d bytes: the limit is %d", len(p.identity), maxIdentity)
	}
	ek := marshalEncryptionKey(&encryption.PublicKey)
	sig, err := signData(signer, helloStatement(ek))
	if err != nil {
		return nil, fmt.Errorf("signing the encryption key with the identity: %w", err)
	}
	p.hello = appendVector(appendVector(appendVector(nil, p.identity), ek), sig)
	return p, nil
}

// hardwareAES reports whether AES-GCM is fast and runs in constant time on this machine. Go's AES in software does
// neither.
func hardwareAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM
}

type (
	// trustFunc decides whether a client trusts a server's identity.
	trustFunc func(id ssh.PublicKey) error
	// proofFunc makes the proof of an invite for one handshake and identity.
	proofFunc func(h0, hpkePublic, identity []byte) []byte
	// admitFunc decides whether a server admits a client that has proven to hold id. proof is the client's proof of an
	// invite, or empty. confirmed is false at stage 1, which may be the recording of a client that is gone, and true at
	// stage 3, which answers this server's Rb.
	admitFunc func(id ssh.PublicKey, proof, h0, hpkePublic []byte, confirmed bool) error
)

// clientHandshake runs the client's side of the handshake on conn. The caller closes conn after an error, and sets
// deadlines unless conn is a pacedConn. The server receives nothing before trusts accepts its identity; the error of
// trusts is returned as it is. proof is nil without an invite. Any other error wraps errRefused after a refusal and
// errUnverified after a failed check, or else is trouble of the network or of this machine.
func clientHandshake(conn net.Conn, me *party, trusts trustFunc, proof proofFunc) (*secrets, error) {
	x := newExchange(conn, me)

	// Hello, S → C: version ‖ AES ‖ Rs ‖ IDs ‖ EKs ‖ sign(EKs).
	ids, eks, serverAES, err := x.receiveHello()
	if err != nil {
		return nil, err
	}
	if err := trusts(ids); err != nil {
		return nil, err
	}

	// Stage 1, C → S: AES ‖ HPKE key ‖ box(IDc ‖ EKc ‖ proof); seq 1 ‖ Ra, signed by C, sealed to S.
	ra := newNonce()
	defer clear(ra)
	kemKey, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("stage 1: %w", err)
	}
	claimed, err := me.sealClaim(ra, x.h0, kemKey.PublicKey().Bytes(), proof)
	if err != nil {
		return nil, fmt.Errorf("stage 1: %w", err)
	}
	if err := x.send(1, eks, claimed, ra); err != nil {
		return nil, err
	}
	if err := x.startWrapping(ra); err != nil {
		return nil, err
	}

	// Stage 2, S → C, wrapped: HPKE encapsulation; seq 2 ‖ Ra ‖ Rb, signed by S, sealed to C. Or a refusal.
	m, err := x.receive(2, hpkeEncSize, 2*nonceSize)
	if err != nil {
		return nil, err
	}
	defer m.wipe()
	if err := x.verify(m); err != nil {
		return nil, err
	}
	raEcho, rb := m.serials()[:nonceSize], m.serials()[nonceSize:]
	if subtle.ConstantTimeCompare(raEcho, ra) != 1 {
		return nil, fmt.Errorf("stage 2: server echoed a different challenge: %w", errUnverified)
	}
	recipient, err := hpke.NewRecipient(m.clear, kemKey, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return nil, fmt.Errorf("stage 2: HPKE: %w: %w", err, errUnverified)
	}
	x.reportReceived(m, "wrapping ok, label ok, signature ok, Ra ok")

	// Stage 3, C → S, wrapped: seq 3 ‖ Rb, signed by C, sealed to S.
	if err := x.send(3, eks, nil, rb); err != nil {
		return nil, err
	}

	// Stage 4, S → C, wrapped: seq 4 ‖ Sm, signed by S, sealed to C. Or a refusal.
	m, err = x.receive(4, 0, smSize)
	if err != nil {
		return nil, err
	}
	defer m.wipe()
	if err := x.verify(m); err != nil {
		return nil, err
	}
	x.reportReceived(m, "wrapping ok, label ok, signature ok")

	// Key delivery: from HPKE's secret and Sm, bound to the whole handshake.
	return x.deliverKey(recipient.Export, m.serials(), me.aes && serverAES)
}

// serverHandshake runs the server's side of the handshake on conn. The caller closes conn after an error, and sets
// deadlines unless conn is a pacedConn. The server waits pause before stages 2 and 4 (-delay). It calls admit only with
// an identity whose signature it has verified, so that a client cannot find out whether somebody else's key is listed.
// It returns that identity also with an error. A client that admit refuses receives a refusal if the error is a
// decision against the client (isDecision), and otherwise nothing.
func serverHandshake(conn net.Conn, me *party, pause time.Duration, admit admitFunc) (*secrets, ssh.PublicKey, error) {
	x := newExchange(conn, me)

	// Hello, S → C: version ‖ AES ‖ Rs ‖ IDs ‖ EKs ‖ sign(EKs).
	if err := x.sendHello(); err != nil {
		return nil, nil, err
	}

	// Stage 1, C → S: AES ‖ HPKE key ‖ box(IDc ‖ EKc ‖ proof); seq 1 ‖ Ra, signed by C, sealed to S.
	m, err := x.receive(1, anySize, nonceSize)
	if err != nil {
		return nil, nil, err
	}
	defer m.wipe()
	ra := m.serials()
	c, err := openClaim(m.clear, ra, x.h0)
	if err != nil {
		return nil, nil, fmt.Errorf("stage 1: %w", err)
	}
	x.peer = c.id
	if err := x.verify(m); err != nil {
		return nil, nil, err // the client has not proven to hold c.id
	}
	x.reportReceived(m, "label ok, box ok, signature ok")
	if err := x.startWrapping(ra); err != nil {
		return nil, c.id, err
	}
	if err := admit(c.id, c.proof, x.h0, c.hpkePublic, false); err != nil {
		return nil, c.id, x.refuse(2, err)
	}
	kemKey, err := hpke.MLKEM768X25519().NewPublicKey(c.hpkePublic)
	if err != nil {
		return nil, c.id, fmt.Errorf("stage 1: HPKE: %w: %w", err, errUnverified)
	}
	x.wait(pause)

	// Stage 2, S → C, wrapped: HPKE encapsulation; seq 2 ‖ Ra ‖ Rb, signed by S, sealed to C.
	enc, sender, err := hpke.NewSender(kemKey, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return nil, c.id, fmt.Errorf("stage 2: HPKE: %w: %w", err, errUnverified)
	}
	rb := newNonce()
	defer clear(rb)
	if err := x.send(2, c.ek, enc, ra, rb); err != nil {
		return nil, c.id, err
	}

	// Stage 3, C → S, wrapped: seq 3 ‖ Rb, signed by C, sealed to S.
	m, err = x.receive(3, 0, nonceSize)
	if err != nil {
		return nil, c.id, err
	}
	defer m.wipe()
	if err := x.verify(m); err != nil {
		return nil, c.id, err
	}
	if subtle.ConstantTimeCompare(m.serials(), rb) != 1 {
		return nil, c.id, fmt.Errorf("stage 3: client echoed a different challenge: %w", errUnverified)
	}
	x.reportReceived(m, "wrapping ok, label ok, signature ok, Rb ok")
	if err := admit(c.id, c.proof, x.h0, c.hpkePublic, true); err != nil {
		return nil, c.id, x.refuse(4, err)
	}
	x.wait(pause)

	// Stage 4, S → C, wrapped: seq 4 ‖ Sm, signed by S, sealed to C.
	sm := make([]byte, smSize)
	defer clear(sm)
	rand.Read(sm)
	if err := x.send(4, c.ek, nil, sm); err != nil {
		return nil, c.id, err
	}

	// Key delivery: from HPKE's secret and Sm, bound to the whole handshake.
	s, err := x.deliverKey(sender.Export, sm, me.aes && c.aes)
	return s, c.id, err
}

// exchange is one handshake in progress: the connection, the transcript, and the keys that wrap stages 2 to 4.
type exchange struct {
	conn net.Conn
	me   *party
	transcript
	h0   []byte        // the transcript after the hello
	peer ssh.PublicKey // the identity that the peer claims; verify checks that it signed a stage
	wrap *wrapper      // nil before stage 1 is complete

	// For -trace: the size of the stage's frame, and when the stage began.
	wire  int
	began time.Time
}

func newExchange(conn net.Conn, me *party) *exchange {
	return &exchange{conn: conn, me: me, began: time.Now()}
}

// sendHello sends the server's hello:
//
//	version   12   protocolName
//	AES        1
//	Rs        32
//	IDs, EKs, sign(EKs), each a vector
func (x *exchange) sendHello() error {
	hello := append([]byte(protocolName), boolByte(x.me.aes))
	rs := make([]byte, helloNonceSize)
	rand.Read(rs)
	hello = append(hello, rs...)
	hello = append(hello, x.me.hello...)
	x.h0 = x.start(hello)
	if err := x.write(hello); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	x.report(0, "sent", helloFields(hello)...)
	return nil
}

// receiveHello reads the server's hello and returns its identity, its encryption key and its AES byte.
func (x *exchange) receiveHello() (ids ssh.PublicKey, eks *rsa.PublicKey, aes bool, err error) {
	hello, err := x.read()
	if err != nil {
		return nil, nil, false, fmt.Errorf("hello: %w", err)
	}
	ids, eks, aes, err = parseHello(hello)
	if err != nil {
		return nil, nil, false, fmt.Errorf("hello: %w", err)
	}
	x.h0 = x.start(hello)
	x.peer = ids
	x.report(0, "signature of IDs over EKs ok", helloFields(hello)...)
	return ids, eks, aes, nil
}

// parseHello takes a hello apart and verifies that its identity signed its encryption key.
func parseHello(b []byte) (id ssh.PublicKey, ek *rsa.PublicKey, aes bool, err error) {
	const fixed = len(protocolName) + 1 + helloNonceSize
	if len(b) < fixed || string(b[:len(protocolName)]) != protocolName {
		return nil, nil, false, errors.New("the server does not speak " + protocolName)
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
	id, err = parseIdentity(idWire)
	if err != nil {
		return nil, nil, false, err
	}
	ek, err = parseEncryptionKey(ekWire)
	if err != nil {
		return nil, nil, false, fmt.Errorf("%w: %w", err, errUnverified)
	}
	if err := verifyData(id, helloStatement(ekWire), sig); err != nil {
		return nil, nil, false, fmt.Errorf("the identity did not sign the encryption key: %w", errUnverified)
	}
	return id, ek, aes, nil
}

// claim is what the clear part of stage 1 says about the client. Nothing in it is proven before stage 1's signature is
// verified.
type claim struct {
	aes        bool
	hpkePublic []byte
	id         ssh.PublicKey
	ek         *rsa.PublicKey
	proof      []byte // of an invite, or empty
}

// sealClaim makes the clear part of stage 1:
//
//	AES           1
//	HPKE key   1216
//	box             the rest: the credential vec(IDc) ‖ vec(EKc) ‖ vec(proof), sealed under Ra
func (p *party) sealClaim(ra, h0, hpkePublic []byte, proof proofFunc) ([]byte, error) {
	var invited []byte
	if proof != nil {
		invited = proof(h0, hpkePublic, p.identity)
	}
	cred := appendVector(nil, p.identity)
	cred = appendVector(cred, marshalEncryptionKey(&p.encryption.PublicKey))
	cred = appendVector(cred, invited)
	box, err := credentialBox(ra, h0)
	if err != nil {
		return nil, err
	}
	clearPart := []byte{boolByte(p.aes)}
	clearPart = append(clearPart, hpkePublic...)
	return box.Seal(clearPart, zeroNonce[:], cred, nil), nil
}

// openClaim takes the clear part of stage 1 apart and opens the box in it.
func openClaim(clearPart, ra, h0 []byte) (*claim, error) {
	const fixed = 1 + hpkePublicSize
	if len(clearPart) < fixed || clearPart[0] > 1 {
		return nil, fmt.Errorf("malformed: %w", errUnverified)
	}
	box, err := credentialBox(ra, h0)
	if err != nil {
		return nil, err
	}
	cred, err := box.Open(nil, zeroNonce[:], clearPart[fixed:], nil)
	if err != nil {
		return nil, fmt.Errorf("the credential box does not open: %w", errUnverified)
	}
	c := &claim{aes: clearPart[0] == 1, hpkePublic: clearPart[1:fixed]}
	c.id, c.ek, c.proof, err = parseCredential(cred)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// parseCredential takes the content of the credential box apart.
func parseCredential(b []byte) (id ssh.PublicKey, ek *rsa.PublicKey, proof []byte, err error) {
	idWire, b, ok1 := cutVector(b)
	ekWire, b, ok2 := cutVector(b)
	proof, b, ok3 := cutVector(b)
	if !ok1 || !ok2 || !ok3 || len(b) != 0 || len(proof) != 0 && len(proof) != proofSize {
		return nil, nil, nil, fmt.Errorf("malformed credential: %w", errUnverified)
	}
	id, err = parseIdentity(idWire)
	if err != nil {
		return nil, nil, nil, err
	}
	ek, err = parseEncryptionKey(ekWire)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", err, errUnverified)
	}
	return id, ek, proof, nil
}

// parseIdentity parses a public key or certificate. It returns an error for a type or strength that no peer may have.
func parseIdentity(wire []byte) (ssh.PublicKey, error) {
	if len(wire) > maxIdentity {
		return nil, fmt.Errorf("an identity of %d bytes: %w", len(wire), errUnverified)
	}
	id, err := ssh.ParsePublicKey(bytes.Clone(wire)) // a key keeps what it was parsed from
	if err != nil {
		return nil, fmt.Errorf("the identity is no SSH key: %w", errUnverified)
	}
	if !bytes.Equal(id.Marshal(), wire) {
		return nil, fmt.Errorf("the identity is not in its canonical encoding: %w", errUnverified)
	}
	if err := checkIdentityKey(id); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errUnverified)
	}
	return id, nil
}

// send sends a stage to the holder of ek.
func (x *exchange) send(stage byte, ek *rsa.PublicKey, clearPart []byte, serials ...[]byte) error {
	body, err := x.seal(stage, x.me.signer, ek, clearPart, serials...)
	if err != nil {
		return fmt.Errorf("stage %d: %w", stage, err)
	}
	if x.wrap != nil {
		body = x.wrap.seal(stage, body)
	}
	if err := x.write(body); err != nil {
		return fmt.Errorf("stage %d: %w", stage, err)
	}
	x.report(stage, "sent", stageFields(stage, len(clearPart), x.signSize)...)
	return nil
}

// receive reads a stage: its clear part, of clearSize bytes, and its sealed part, whose serials have serialsSize bytes.
// It does not verify the signature. If a refusal arrives in the place of the stage, the error wraps errRefused.
func (x *exchange) receive(stage byte, clearSize, serialsSize int) (*stageMessage, error) {
	frame, err := x.read()
	if err != nil {
		return nil, fmt.Errorf("stage %d: %w", stage, err)
	}
	body := frame
	if x.wrap != nil {
		body, err = x.unwrap(stage, frame)
		if err != nil {
			return nil, fmt.Errorf("stage %d: %w", stage, err)
		}
	}
	m, err := x.open(stage, x.me.encryption, body, clearSize, serialsSize)
	if err != nil {
		return nil, fmt.Errorf("stage %d: %w", stage, err)
	}
	return m, nil
}

// verify checks that the peer signed m, which receive has just returned.
func (x *exchange) verify(m *stageMessage) error {
	if err := x.transcript.verify(m, x.peer); err != nil {
		return fmt.Errorf("stage %d: %w", m.stage(), err)
	}
	return nil
}

// refuse sends a refusal in the place of a stage, if err is a decision against the client, and returns err. The client
// has proven its key, and would learn from the close that it is not admitted. The refusal makes that certain: only the
// holder of the server's identity can sign it, so the client can tell it from trouble of the network.
func (x *exchange) refuse(stage byte, err error) error {
	if !isDecision(err) {
		return err
	}
	sig, sendErr := signData(x.me.signer, x.refusalStatement())
	if sendErr == nil {
		sendErr = x.write(x.wrap.seal(refusalNumber, sig))
	}
	if sendErr != nil {
		return fmt.Errorf("%w; sending the refusal failed: %w", err, sendErr)
	}
	x.report(stage, "refusal sent", traceField{"sign", len(sig)})
	return err
}

// isDecision reports whether err, by which a server does not admit a client, is a decision about the client's key. Any
// other error is trouble of this machine: the client may be admitted when that is over, and receives no refusal.
func isDecision(err error) bool {
	var u *untrusted
	return errors.As(err, &u) && u.kind != undecided
}

// unwrap opens the wrapping of a stage. The server may send a refusal in the place of stages 2 and 4; the nonce that
// opens the frame tells which of the two it is. Both nonces are always tried, so each frame costs the client the same.
func (x *exchange) unwrap(stage byte, frame []byte) ([]byte, error) {
	body, err := x.wrap.open(stage, frame)
	if stage == 3 {
		return body, err
	}
	sig, notRefused := x.wrap.open(refusalNumber, frame)
	if err == nil || notRefused != nil {
		return body, err
	}
	if err := verifyData(x.peer, x.refusalStatement(), sig); err != nil {
		return nil, fmt.Errorf("a refusal with a bad signature: %w", errUnverified)
	}
	x.report(stage, "refusal: wrapping ok, signature ok", traceField{"sign", len(sig)})
	return nil, errRefused
}

// startWrapping derives the keys that wrap stages 2 to 4, when the transcript is at h1.
func (x *exchange) startWrapping(ra []byte) (err error) {
	x.wrap, err = newWrapper(ra, x.sum())
	return err
}

// deliverKey derives the session's secrets from HPKE's exported secret and Sm, and wipes both.
func (x *exchange) deliverKey(export func(label string, n int) ([]byte, error), sm []byte, aes bool) (*secrets, error) {
	hpkeSecret, err := export(protocolName, exportSize)
	if err != nil {
		return nil, fmt.Errorf("HPKE: %w", err)
	}
	s, err := x.newSecrets(hpkeSecret, sm, aes)
	if err != nil {
		return nil, fmt.Errorf("deriving the session's secrets: %w", err)
	}
	if x.me.trace != nil {
		x.me.trace(fmt.Sprintf("session %x  %s  key from HPKE's secret %d ‖ Sm %d, salt h4 %d",
			s.id[:4], s.cipher(), exportSize, smSize, sha512.Size))
	}
	return s, nil
}

func (x *exchange) read() (body []byte, err error) {
	err = receiveOn(x.conn, func() (err error) { body, err = readFrame(x.conn, maxHandshakeFrame); return })
	x.wire = frameHeader + len(body)
	if err != nil {
		return nil, plainError(err)
	}
	return body, nil
}

func (x *exchange) write(body []byte) error {
	x.wire = frameHeader + len(body)
	if err := writeFrame(x.conn, body); err != nil {
		return plainError(err)
	}
	return nil
}

// wait sleeps for the pause between two stages, which does not count as a stage's time.
func (x *exchange) wait(pause time.Duration) {
	pauseOn(x.conn, pause)
	x.began = time.Now()
}

// report traces a stage that has been sent, or received and verified. Stage 0 is the hello.
func (x *exchange) report(stage byte, checks string, fields ...traceField) {
	direction := toClient
	if stage == 1 || stage == 3 {
		direction = toServer
	}
	x.me.trace.stage(int(stage), direction, x.wire, checks, x.began, fields...)
	x.began = time.Now()
}

func (x *exchange) reportReceived(m *stageMessage, checks string) {
	x.report(m.stage(), checks, stageFields(m.stage(), len(m.clear), len(m.sign))...)
}

// helloFields names the parts of a hello and their sizes, for a trace.
func helloFields(hello []byte) []traceField {
	f := []traceField{{"version", len(protocolName)}, {"AES", 1}, {"Rs", helloNonceSize}}
	rest := hello[len(protocolName)+1+helloNonceSize:]
	for _, name := range []string{"IDs", "EKs", "sign"} {
		v, r, _ := cutVector(rest) // of a hello that was made or parsed here
		f, rest = append(f, traceField{name, len(v)}), r
	}
	return f
}

// stageFields names the parts of a stage and their sizes, for a trace.
func stageFields(stage byte, clearSize, signSize int) []traceField {
	sign, seq := traceField{"sign", signSize}, traceField{"seq", 1}
	ra, rb := traceField{"Ra", nonceSize}, traceField{"Rb", nonceSize}
	switch stage {
	case 1:
		box := traceField{"box", clearSize - 1 - hpkePublicSize}
		return []traceField{{"AES", 1}, {"HPKE key", hpkePublicSize}, box, sign, seq, ra}
	case 2:
		return []traceField{{"encapsulation", clearSize}, sign, seq, ra, rb}
	case 3:
		return []traceField{sign, seq, rb}
	default:
		return []traceField{sign, seq, {"Sm", smSize}}
	}
}

// transcript is h: SHA-512 over the protocol's name and every handshake message in order, each part with its length. A
// stage has two parts, one clear and one sealed. Both are hashed without the wrapping, which follows from them and from
// its key and nonce (docs/formal, WIRE).
type transcript struct {
	h hash.Hash
	// midway is h with the clear part of the current stage and without its sealed part. The stage's labels and its
	// signature cover this value.
	midway [sha512.Size]byte
	// signSize is the length of the signature that seal made last, for a trace.
	signSize int
}

// start begins the transcript with the hello and returns h0.
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

// stageMessage is a stage that was opened.
type stageMessage struct {
	clear  []byte // the clear part
	sign   []byte // the signature
	fields []byte // seq ‖ serials
}

func (m *stageMessage) stage() byte     { return m.fields[0] }
func (m *stageMessage) serials() []byte { return m.fields[1:] }
func (m *stageMessage) wipe()           { clear(m.fields) }

// anySize is the clear part's size in a stage that fixes none.
const anySize = -1

// seal makes a stage and adds it to the transcript:
//
//	vec(clearPart) ‖ vec(RSA-CBC to ek of: sign ‖ seq ‖ serials)
func (t *transcript) seal(
	stage byte, signer ssh.Signer, ek *rsa.PublicKey, clearPart []byte, serials ...[]byte,
) ([]byte, error) {
	t.add(clearPart)
	t.midway = [sha512.Size]byte(t.sum())
	fields := append(make([]byte, 0, maxFields), stage)
	for _, s := range serials {
		fields = append(fields, s...)
	}
	defer clear(fields)
	statement := t.statement(stage, fields)
	defer clear(statement)
	sig, err := signData(signer, statement)
	if err != nil {
		return nil, fmt.Errorf("signing with our identity: %w", err)
	}
	t.signSize = len(sig)
	msg := append(make([]byte, 0, len(sig)+len(fields)), sig...)
	msg = append(msg, fields...)
	defer clear(msg)
	sealed, err := t.rsaCBC(stage).seal(ek, msg)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	t.add(sealed)
	return appendVector(appendVector(nil, clearPart), sealed), nil
}

// open takes a stage apart, opens its sealed part with key and adds both parts to the transcript. The clear part must
// have clearSize bytes, unless that is anySize, and the serials serialsSize bytes. Each RSA block costs a private-key
// operation, so the sealed part's length is bounded before it is decrypted.
func (t *transcript) open(
	stage byte, key *rsa.PrivateKey, body []byte, clearSize, serialsSize int,
) (*stageMessage, error) {
	clearPart, rest, ok1 := cutVector(body)
	sealed, rest, ok2 := cutVector(rest)
	cbc := t.rsaCBC(stage)
	malformed := fmt.Errorf("malformed: %w", errUnverified)
	if !ok1 || !ok2 || len(rest) != 0 || len(sealed) > cbc.sealedSize(&key.PublicKey, longestSign+maxFields) {
		return nil, malformed
	}
	if clearSize != anySize && len(clearPart) != clearSize {
		return nil, malformed
	}
	t.add(clearPart)
	t.midway = [sha512.Size]byte(t.sum())
	msg, err := cbc.open(key, sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errUnverified)
	}
	cut := len(msg) - 1 - serialsSize
	if cut < 0 || msg[cut] != stage {
		return nil, malformed
	}
	t.add(sealed)
	return &stageMessage{clear: clearPart, sign: msg[:cut], fields: msg[cut:]}, nil
}

// verify checks that id signed m, which open has just returned.
func (t *transcript) verify(m *stageMessage, id ssh.PublicKey) error {
	statement := t.statement(m.stage(), m.fields)
	defer clear(statement)
	if err := verifyData(id, statement, m.sign); err != nil {
		return fmt.Errorf("bad signature: %w", errUnverified)
	}
	return nil
}

// The contexts of signatures and labels. They prevent that a signature made for one purpose is accepted for another,
// here or in another program that uses the same key.
const (
	helloContext   = "securechat/2 hello, server's encryption key\x00"
	stageContext   = "securechat/2 stage\x00"
	refusalContext = "securechat/2 refusal\x00"
	blockContext   = "securechat/2 block\x00"
)

// helloStatement returns what the signature in a hello covers.
func helloStatement(ek []byte) []byte { return append([]byte(helloContext), ek...) }

// statement returns what a stage's signature covers: the context, the stage, the transcript with this message's clear
// part, and the fields. It contains the fields' secrets, so its caller wipes it.
func (t *transcript) statement(stage byte, fields []byte) []byte {
	s := append([]byte(stageContext), stage)
	s = append(s, t.midway[:]...)
	return append(s, fields...)
}

// refusalStatement returns what a refusal's signature covers: the context, and the transcript up to the client's last
// stage, which is h1 or h3.
func (t *transcript) refusalStatement() []byte { return append([]byte(refusalContext), t.sum()...) }

// rsaCBC returns RSA-CBC with labels that bind each block to this handshake, stage and place: the block opens nowhere
// else. A label is made with its block, after the clear part has been added to the transcript.
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

// newSecrets derives a session's secrets from HPKE's exported secret and Sm, and wipes both. The salt is h4: without it
// two sessions could share a key (docs/formal, NOSALT).
func (t *transcript) newSecrets(export, sm []byte, aes bool) (*secrets, error) {
	secret := append(make([]byte, 0, len(export)+len(sm)), export...)
	secret = append(secret, sm...)
	clear(export)
	clear(sm)
	key, err := hkdf.Extract(sha512.New, secret, t.sum())
	clear(secret)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	s := &secrets{digest: sha512.Sum512(key), aes: aes}
	for _, derived := range []struct {
		label string
		to    []byte
	}{{"client to server", s.toServer[:]}, {"server to client", s.toClient[:]}, {"session id", s.id[:]}} {
		v, err := hkdf.Expand(sha512.New, key, protocolName+" "+derived.label, len(derived.to))
		if err != nil {
			return nil, err
		}
		copy(derived.to, v)
		clear(v)
	}
	return s, nil
}

// zeroNonce is for keys that seal a single message.
var zeroNonce [chacha20poly1305.NonceSize]byte

// credentialBox returns the AEAD of stage 1's box. Only the holder of S's encryption key can open the box and see who
// the client is.
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

// wrapper is the AEAD around stages 2, 3 and 4 and around a refusal, with a key from Ra and h1 for each direction. With
// it, an attacker without Ra can have neither side decrypt a made-up RSA block after stage 1, and cannot compare sealed
// parts with the keys that it knows to find out who the client is (docs/formal, NOWRAP and KEYLEAK).
type wrapper struct{ toServer, toClient cipher.AEAD }

func newWrapper(ra, h1 []byte) (*wrapper, error) {
	toServer, err := raKey(ra, h1, "wrap client to server")
	if err != nil {
		return nil, err
	}
	toClient, err := raKey(ra, h1, "wrap server to client")
	if err != nil {
		return nil, err
	}
	return &wrapper{toServer, toClient}, nil
}

// of returns the AEAD and the nonce of a stage, or of a refusal (refusalNumber). The nonce is that number, which each
// key uses once.
func (w *wrapper) of(number byte) (cipher.AEAD, []byte) {
	nonce := zeroNonce
	nonce[len(nonce)-1] = number
	if number == 3 {
		return w.toServer, nonce[:]
	}
	return w.toClient, nonce[:]
}

func (w *wrapper) seal(number byte, body []byte) []byte {
	aead, nonce := w.of(number)
	return aead.Seal(nil, nonce, body, nil)
}

func (w *wrapper) open(number byte, frame []byte) ([]byte, error) {
	aead, nonce := w.of(number)
	body, err := aead.Open(nil, nonce, frame, nil)
	if err != nil {
		return nil, fmt.Errorf("the wrapping does not open: %w", errUnverified)
	}
	return body, nil
}

// newNonce draws a serial.
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
