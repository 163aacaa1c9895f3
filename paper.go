package main

// The handshake of the paper's own protocol (-paper), byte for byte as the paper's reference programs speak it.
// docs/PAPER.md records the format. The session that follows is in paperlink.go.
//
// The format is weaker than current practice, and no implementation can mend that:
//
//   - Serials have 32 bits, and a signature names neither the receiver nor the run. A signed message can be forwarded,
//     and stage 4 can be replayed, so any registered third party can plant the session key.
//   - The session key is sealed to the client's RSA key: whoever obtains that key can read every recorded session.
//   - OAEP uses SHA-1, and blocks can be cut off and moved (rsacbc.go).
//   - The session is AES in ECB mode without a MAC. An attacker can change the text of a packet, and repeat, drop and
//     swap packets, without being noticed. Equal blocks of text look equal on the wire.
//
// The code checks what the format lets it check: every signature, serial, seq_id, digest and msg_len. The session key
// has exactly 32 bytes. After a failed check the peer sees the connection close, and nothing else.

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Sizes in bytes. Every stage's message is sealed as three RSA-2048 blocks of 128 bytes and the IV, whatever it
// contains.
const (
	paperBits   = 2048
	paperSign   = paperBits / 8
	paperSalt   = paperSign - sha256.Size - 2 // the longest PSS salt: 222
	paperSeq    = 8
	paperSerial = 32
	paperKey    = 32

	paperStage1 = paperSeq + paperSerial               // the signed part of stages 1 and 3
	paperStage2 = paperSeq + paperSerial + paperSerial // of stage 2
	paperStage4 = paperKey                             // of stage 4, as the programs send it
	paperFig3   = paperSeq + paperKey                  // of stage 4, as Fig. 3 draws it

	paperSealed = 3*paperBits/8 + paperBits/16 // 896: stages 1 to 3 on the wire
	paperBase64 = (paperSealed + 2) / 3 * 4    // 1196: stage 4 on the wire
)

// paperRSACBC is RSA-CBC as the paper's programs use it: OAEP with SHA-1 and without a label.
var paperRSACBC = rsaCBC{hash: sha1.New}

// paperClientHandshake runs the client's side of Fig. 3 with the key me, with the server that holds the key server. The
// caller sets conn's deadline and closes conn after an error. After each stage its sender waits for delay, as the
// paper's programs wait for a second. An error that wraps errUnverified is a failed check; any other error is trouble
// of the network or of this machine.
func paperClientHandshake(
	conn net.Conn, me *rsa.PrivateKey, server *rsa.PublicKey, delay time.Duration, tr tracer,
) (key [paperKey]byte, err error) {
	if err := checkPaperKeys(&me.PublicKey, server); err != nil {
		return key, err
	}

	// Stage 1, C → S: seq_id 1 ‖ Ra, signed by C, sealed to S.
	at := paperStage{1, toServer, time.Now(), tr}
	ra := paperNumber()
	if err := paperSend(conn, me, server, paperSeqID(1), ra); err != nil {
		return key, at.fail(err)
	}
	at.report(paperSealed, "sent", paperSerialA)
	pauseOn(conn, delay)

	// Stage 2, S → C: seq_id 2 ‖ Ra ‖ Rb, signed by S, sealed to C.
	at = paperStage{2, toClient, time.Now(), tr}
	sealed, err := paperReceive(conn, paperSealed, "server")
	if err != nil {
		return key, at.fail(err)
	}
	m, signed := paperOpen(me, sealed, paperStage2)
	if !paperVerify(server, signed, m) {
		return key, at.fail(errNotByServer)
	}
	seq, raEcho, rb := m[:paperSeq], m[paperSeq:][:paperSerial], m[paperSeq+paperSerial:]
	if !paperEqual(seq, paperSeqID(2)) {
		return key, at.fail(fmt.Errorf("server sent a seq_id other than 2: %w", errUnverified))
	}
	if !paperEqual(raEcho, ra) {
		return key, at.fail(fmt.Errorf("server echoed a different serial_a: %w", errUnverified))
	}
	if !isPaperNumber(rb) {
		return key, at.fail(fmt.Errorf("server sent a serial_b that is not a binary number: %w", errUnverified))
	}
	at.report(paperSealed, "signature ok, seq_id ok, serial_a ok", paperSerialA, paperSerialB)

	// Stage 3, C → S: seq_id 3 ‖ Rb, signed by C, sealed to S.
	at = paperStage{3, toServer, time.Now(), tr}
	if err := paperSend(conn, me, server, paperSeqID(3), rb); err != nil {
		return key, at.fail(err)
	}
	at.report(paperSealed, "sent", paperSerialB)
	pauseOn(conn, delay)

	// Stage 4, S → C: Sm, signed by S, sealed to C, in base64. In Fig. 3 seq_id 5 precedes Sm; the programs send Sm
	// alone. Any other length is an error. Otherwise stage 2 would pass for a session key of 72 bytes.
	at = paperStage{4, toClient, time.Now(), tr}
	text, err := paperReceive(conn, paperBase64, "server")
	if err != nil {
		return key, at.fail(err)
	}
	sealed = make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(sealed, text)
	if err != nil || n != paperSealed { // Decode ignores line ends, for which this length has no room
		return key, at.fail(fmt.Errorf("the message is not base64 of %d bytes: %w", paperSealed, errUnverified))
	}
	m, signed = paperOpen(me, sealed[:n], paperStage4, paperFig3)
	defer clear(m)
	if !paperVerify(server, signed, m) {
		return key, at.fail(errNotByServer)
	}
	checks := "signature ok, key length ok"
	if len(m) == paperFig3 {
		if !paperEqual(m[:paperSeq], paperSeqID(5)) {
			return key, at.fail(fmt.Errorf("server sent a seq_id other than 5: %w", errUnverified))
		}
		checks = "signature ok, seq_id ok, key length ok"
	}
	copy(key[:], m[len(m)-paperKey:])
	at.reportKey(len(m), checks)
	return key, nil
}

// paperServerHandshake runs the server's side of Fig. 3 with the key me. clients are the keys that it admits; client is
// the index of the one that signed, or -1 with an error. The rest is as for paperClientHandshake.
func paperServerHandshake(
	conn net.Conn, me *rsa.PrivateKey, clients []*rsa.PublicKey, delay time.Duration, tr tracer,
) (key [paperKey]byte, client int, err error) {
	if err := checkPaperKeys(append([]*rsa.PublicKey{&me.PublicKey}, clients...)...); err != nil {
		return key, -1, err
	}
	if len(clients) == 0 || len(clients) > maxPeers {
		return key, -1, fmt.Errorf("a server of the paper's protocol takes 1 to %d client keys, not %d: see -peer",
			maxPeers, len(clients))
	}

	// Stage 1, C → S: seq_id 1 ‖ Ra, signed by C, sealed to S. The signature shows which client sent it. All keys are
	// tried, also for a message that did not open, so the time shows neither which keys are listed nor which check
	// failed.
	at := paperStage{1, toServer, time.Now(), tr}
	sealed, err := paperReceive(conn, paperSealed, "client")
	if err != nil {
		return key, -1, at.fail(err)
	}
	m, signed := paperOpen(me, sealed, paperStage1)
	client = -1
	for i, c := range clients {
		if paperVerify(c, signed, m) && client < 0 {
			client = i
		}
	}
	if client < 0 {
		return key, -1, at.fail(errNotByAClient)
	}
	peer := clients[client]
	seq, ra := m[:paperSeq], m[paperSeq:]
	if !paperEqual(seq, paperSeqID(1)) {
		return key, -1, at.fail(fmt.Errorf("client sent a seq_id other than 1: %w", errUnverified))
	}
	if !isPaperNumber(ra) {
		return key, -1, at.fail(fmt.Errorf("client sent a serial_a that is not a binary number: %w", errUnverified))
	}
	at.report(paperSealed, "signature ok, seq_id ok", paperSerialA)

	// Stage 2, S → C: seq_id 2 ‖ Ra ‖ Rb, signed by S, sealed to C.
	at = paperStage{2, toClient, time.Now(), tr}
	rb := paperNumber()
	if err := paperSend(conn, me, peer, paperSeqID(2), ra, rb); err != nil {
		return key, -1, at.fail(err)
	}
	at.report(paperSealed, "sent", paperSerialA, paperSerialB)
	pauseOn(conn, delay)

	// Stage 3, C → S: seq_id 3 ‖ Rb, signed by C, sealed to S.
	at = paperStage{3, toServer, time.Now(), tr}
	sealed, err = paperReceive(conn, paperSealed, "client")
	if err != nil {
		return key, -1, at.fail(err)
	}
	m, signed = paperOpen(me, sealed, paperStage1)
	if !paperVerify(peer, signed, m) {
		return key, -1, at.fail(errNotByClient)
	}
	if !paperEqual(m[:paperSeq], paperSeqID(3)) {
		return key, -1, at.fail(fmt.Errorf("client sent a seq_id other than 3: %w", errUnverified))
	}
	if !paperEqual(m[paperSeq:], rb) {
		return key, -1, at.fail(fmt.Errorf("client echoed a different serial_b: %w", errUnverified))
	}
	at.report(paperSealed, "signature ok, seq_id ok, serial_b ok", paperSerialB)

	// Stage 4, S → C: Sm, signed by S, sealed to C, in base64. As in the programs, the seq_id of Fig. 3 is left out.
	at = paperStage{4, toClient, time.Now(), tr}
	var sm [paperKey]byte
	defer clear(sm[:])
	rand.Read(sm[:])
	sealed, err = paperSeal(me, peer, sm[:])
	if err != nil {
		return key, -1, at.fail(err)
	}
	if _, err := io.WriteString(conn, base64.StdEncoding.EncodeToString(sealed)); err != nil {
		return key, -1, at.fail(err)
	}
	at.reportKey(paperStage4, "sent")
	pauseOn(conn, delay)
	return sm, client, nil
}

// A message that does not open and one whose signature is wrong have the same error.
var (
	errNotByServer  = fmt.Errorf("the message does not open, or the server did not sign it: %w", errUnverified)
	errNotByClient  = fmt.Errorf("the message does not open, or the client did not sign it: %w", errUnverified)
	errNotByAClient = fmt.Errorf("the message does not open, or no client (-peer) signed it: %w", errUnverified)
)

// paperStage is the stage that a handshake is at, for its errors and for -trace.
type paperStage struct {
	number    int
	direction string
	began     time.Time
	trace     tracer
}

var (
	paperSerialA = traceField{"serial_a", paperSerial}
	paperSerialB = traceField{"serial_b", paperSerial}
)

// report traces one of stages 1 to 3 that was sent, or received and verified.
func (s paperStage) report(wire int, checks string, serials ...traceField) {
	fields := []traceField{{"sign", paperSign}, {fmt.Sprintf("seq_id (%d)", s.number), paperSeq}}
	s.trace.stage(s.number, s.direction, wire, checks, s.began, append(fields, serials...)...)
}

// reportKey traces stage 4, whose signed part has size bytes.
func (s paperStage) reportKey(size int, checks string) {
	fields := []traceField{{"sign", paperSign}}
	if size == paperFig3 {
		fields = append(fields, traceField{"seq_id (5)", paperSeq})
	}
	fields = append(fields, traceField{"session key", paperKey})
	s.trace.stage(s.number, s.direction, paperBase64, checks, s.began, fields...)
}

// fail traces the stage's failure and returns err with the stage's number.
func (s paperStage) fail(err error) error {
	s.trace.failed(s.number, s.direction, err, s.began)
	return fmt.Errorf("stage %d: %w", s.number, err)
}

// checkPaperKeys returns an error for keys that the sizes above do not fit.
func checkPaperKeys(keys ...*rsa.PublicKey) error {
	for _, k := range keys {
		if k.N.BitLen() != paperBits {
			return fmt.Errorf("the paper's protocol needs RSA-%d keys, this one is RSA-%d: "+
				"make one with ssh-keygen -t rsa -b %d -m PEM", paperBits, k.N.BitLen(), paperBits)
		}
	}
	return nil
}

// paperReceive reads the n bytes of one stage from peer, which is "client" or "server". The programs do not frame their
// messages, so a stage ends after its length, and the next byte belongs to the next stage.
func paperReceive(conn net.Conn, n int, peer string) ([]byte, error) {
	wire := make([]byte, n)
	var got int
	err := receiveOn(conn, func() (err error) { got, err = io.ReadFull(conn, wire); return })
	switch {
	case err == nil:
		return wire, nil
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, netTrouble{fmt.Sprintf("the %s closed the connection after %d of %d bytes: "+
			"its log has the reason; check that each side has the other's key (-peer)", peer, got, n), err}
	default:
		return nil, fmt.Errorf("received %d of %d bytes from the %s: %w", got, n, peer, plainError(err))
	}
}

// paperSend signs, seals and sends the fields of one of stages 1 to 3. It writes them at once, because the programs
// read a message with one recv.
func paperSend(conn net.Conn, me *rsa.PrivateKey, to *rsa.PublicKey, fields ...[]byte) error {
	sealed, err := paperSeal(me, to, fields...)
	if err != nil {
		return err
	}
	_, err = conn.Write(sealed)
	return err
}

// paperSeal returns c = E_to(E_me(m), m) of §3.1:
//
//	sign    256   RSA-PSS over m: SHA-256, MGF1 with SHA-256, a salt of 222 bytes
//	m             the fields, one after the other
func paperSeal(me *rsa.PrivateKey, to *rsa.PublicKey, fields ...[]byte) ([]byte, error) {
	m := bytes.Join(fields, nil)
	defer clear(m)
	digest := sha256.Sum256(m)
	sign, err := rsa.SignPSS(rand.Reader, me, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: paperSalt})
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	plain := append(sign, m...)
	defer clear(plain)
	return paperRSACBC.seal(to, plain)
}

// paperOpen opens a sealed message and returns m, which has one of the given lengths, and its signature, which is not
// yet verified. If the message does not open or has another length, both are zeros, for which no signature is valid. So
// paperVerify runs in each case, and takes as long as for a wrong signature.
func paperOpen(me *rsa.PrivateKey, sealed []byte, lengths ...int) (m, sign []byte) {
	plain, err := paperRSACBC.open(me, sealed)
	for _, n := range lengths {
		if err == nil && len(plain) == paperSign+n {
			return plain[paperSign:], plain[:paperSign]
		}
	}
	return make([]byte, lengths[0]), make([]byte, paperSign)
}

// paperVerify reports whether from signed m.
func paperVerify(from *rsa.PublicKey, sign, m []byte) bool {
	digest := sha256.Sum256(m)
	return rsa.VerifyPSS(from, crypto.SHA256, digest[:], sign, &rsa.PSSOptions{SaltLength: paperSalt}) == nil
}

// paperSeqID returns a seq_id as 8 binary digits.
func paperSeqID(n int) []byte { return fmt.Appendf(nil, "%08b", n) }

// paperNumber draws a serial: 32 random bits as 32 binary digits. The format has no room for more.
func paperNumber() []byte {
	var b [4]byte
	rand.Read(b[:])
	return fmt.Appendf(nil, "%032b", binary.BigEndian.Uint32(b[:]))
}

// isPaperNumber reports whether every byte is the digit 0 or 1.
func isPaperNumber(b []byte) bool {
	for _, c := range b {
		if c != '0' && c != '1' {
			return false
		}
	}
	return true
}

func paperEqual(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
