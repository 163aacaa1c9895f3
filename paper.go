package main

// The paper's own protocol (-paper), bit for bit as its reference programs speak it: four stages, then AES packets.
// Nothing of the default protocol needs this file: main.go calls it in one place.
//
// It is weaker than current practice, and nothing here can mend that without leaving the wire format:
//
//   - serials are 32 bits, and signatures name neither receiver nor run: a signed message can be forwarded, and stage 4
//     can be replayed, so any registered third party can plant the session key;
//   - the session key travels under the client's RSA key: who gets that key opens every recording;
//   - OAEP uses SHA-1, and blocks can be cut and moved (rsacbc.go);
//   - the session is AES in ECB without a MAC: the text of a packet can be changed, and packets repeated, dropped and
//     swapped, unnoticed; equal blocks of text show as equal blocks on the wire.
//
// What it can hold, it holds: every signature, serial, seq_id, digest and msg_len is checked, the session key is exactly
// 32 bytes, and a peer learns no more of a failure than that the connection closed.

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

// Sizes in bytes. Every stage's message is sealed as three RSA-2048 blocks of 128 and the IV, whatever it holds.
const (
	paperBits   = 2048
	paperSign   = paperBits / 8
	paperSalt   = paperSign - sha256.Size - 2 // the longest PSS salt: 222
	paperSeq    = 8
	paperSerial = 32
	paperKey    = 32

	paperStage1 = paperSeq + paperSerial               // signed part of stages 1 and 3
	paperStage2 = paperSeq + paperSerial + paperSerial // of stage 2
	paperStage4 = paperKey                             // of stage 4, as the programs send it
	paperFig3   = paperSeq + paperKey                  // of stage 4, as Fig. 3 draws it

	paperSealed = 3*paperBits/8 + paperBits/16 // 896: stages 1 to 3 on the wire
	paperBase64 = (paperSealed + 2) / 3 * 4    // 1196: stage 4 on the wire

	// maxPaperClients bounds what one stage 1 costs a server: it is verified under every client's key.
	maxPaperClients = 64
)

// paperRSACBC is RSA-CBC as the paper's programs have it: OAEP with SHA-1 and no label.
var paperRSACBC = rsaCBC{hash: sha1.New}

// paperClientHandshake speaks Fig. 3 as the client: me is its key, server the server's. It blocks; the caller sets the
// deadline and closes conn. After each stage the sender waits delay, the paper's second. An error that wraps
// errUnverified is a failed verification.
func paperClientHandshake(conn net.Conn, me *rsa.PrivateKey, server *rsa.PublicKey, delay time.Duration, tr tracer) (key [32]byte, err error) {
	if err := checkPaperKeys(&me.PublicKey, server); err != nil {
		return key, err
	}
	stage, direction, start := 1, toServer, time.Now()
	defer func() {
		if err != nil {
			tr.failed(stage, direction, err, start)
			err = fmt.Errorf("stage %d: %w", stage, err)
		}
	}()

	// Stage 1, C → S: seq_id 1 ‖ Ra, signed by C, sealed to S.
	ra := paperNumber()
	if err := paperSend(conn, me, server, paperSeqID(1), ra); err != nil {
		return key, err
	}
	tr.stage(1, toServer, paperSealed, "sent", start, traceField{"sign", paperSign}, traceField{"seq_id (1)", paperSeq},
		traceField{"serial_a", paperSerial})
	time.Sleep(delay)

	// Stage 2, S → C: seq_id 2 ‖ Ra ‖ Rb, signed by S, sealed to C.
	stage, direction, start = 2, toClient, time.Now()
	sealed, err := paperReceive(conn, paperSealed, "server")
	if err != nil {
		return key, err
	}
	m, signed := paperOpen(me, sealed, paperStage2)
	if !paperVerify(server, signed, m) {
		return key, fmt.Errorf("what came does not open, or the server did not sign it: %w", errUnverified)
	}
	seq, ra2, rb := m[:paperSeq], m[paperSeq:][:paperSerial], m[paperSeq+paperSerial:]
	if !paperEqual(seq, paperSeqID(2)) {
		return key, fmt.Errorf("the server sent a seq_id other than 2: %w", errUnverified)
	}
	if !paperEqual(ra2, ra) {
		return key, fmt.Errorf("the server returned another serial_a than was sent: %w", errUnverified)
	}
	if !isPaperNumber(rb) {
		return key, fmt.Errorf("the server sent a serial_b that is no binary number: %w", errUnverified)
	}
	tr.stage(2, toClient, paperSealed, "signature ok, seq_id ok, serial_a ok", start, traceField{"sign", paperSign},
		traceField{"seq_id (2)", paperSeq}, traceField{"serial_a", paperSerial}, traceField{"serial_b", paperSerial})

	// Stage 3, C → S: seq_id 3 ‖ Rb, signed by C, sealed to S.
	stage, direction, start = 3, toServer, time.Now()
	if err := paperSend(conn, me, server, paperSeqID(3), rb); err != nil {
		return key, err
	}
	tr.stage(3, toServer, paperSealed, "sent", start, traceField{"sign", paperSign}, traceField{"seq_id (3)", paperSeq},
		traceField{"serial_b", paperSerial})
	time.Sleep(delay)

	// Stage 4, S → C: Sm, signed by S, sealed to C, in base64. Fig. 3 puts seq_id 5 in front of Sm; the programs do
	// not. Any other length is refused, or stage 2 could be passed off as a session key of 72 bytes.
	stage, direction, start = 4, toClient, time.Now()
	text, err := paperReceive(conn, paperBase64, "server")
	if err != nil {
		return key, err
	}
	sealed = make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(sealed, text)
	if err != nil || n != paperSealed { // Decode passes over line ends, which this length has no room for
		return key, fmt.Errorf("what came is not base64 of %d bytes: %w", paperSealed, errUnverified)
	}
	m, signed = paperOpen(me, sealed[:n], paperStage4, paperFig3)
	defer clear(m)
	if !paperVerify(server, signed, m) {
		return key, fmt.Errorf("what came does not open, or the server did not sign it: %w", errUnverified)
	}
	fields := []traceField{{"sign", paperSign}, {"session key", paperKey}}
	checks := "signature ok, key length ok"
	if len(m) == paperFig3 {
		if !paperEqual(m[:paperSeq], paperSeqID(5)) {
			return key, fmt.Errorf("the server sent a seq_id other than 5: %w", errUnverified)
		}
		fields = []traceField{{"sign", paperSign}, {"seq_id (5)", paperSeq}, {"session key", paperKey}}
		checks = "signature ok, seq_id ok, key length ok"
	}
	copy(key[:], m[len(m)-paperKey:])
	tr.stage(4, toClient, paperBase64, checks, start, fields...)
	return key, nil
}

// paperServerHandshake speaks Fig. 3 as the server: me is its key, clients are those let in, client says which of them
// signed. The rest is as at paperClientHandshake.
func paperServerHandshake(conn net.Conn, me *rsa.PrivateKey, clients []*rsa.PublicKey, delay time.Duration, tr tracer) (key [32]byte, client int, err error) {
	if err := checkPaperKeys(append([]*rsa.PublicKey{&me.PublicKey}, clients...)...); err != nil {
		return key, -1, err
	}
	if len(clients) == 0 || len(clients) > maxPaperClients {
		return key, -1, fmt.Errorf("the paper's protocol serves 1 to %d client keys, not %d: see -peer", maxPaperClients, len(clients))
	}
	client = -1
	stage, direction, start := 1, toServer, time.Now()
	defer func() {
		if err != nil {
			tr.failed(stage, direction, err, start)
			err = fmt.Errorf("stage %d: %w", stage, err)
			clear(key[:])
			client = -1
		}
	}()

	// Stage 1, C → S: seq_id 1 ‖ Ra, signed by C, sealed to S. Which client is found by its signature: all keys are
	// tried, also for a message that did not open, so that time tells neither who is listed nor what failed.
	sealed, err := paperReceive(conn, paperSealed, "client")
	if err != nil {
		return key, client, err
	}
	m, signed := paperOpen(me, sealed, paperStage1)
	for i, c := range clients {
		if paperVerify(c, signed, m) && client < 0 {
			client = i
		}
	}
	if client < 0 {
		return key, client, fmt.Errorf("what came does not open, or none of the clients (-peer) signed it: %w", errUnverified)
	}
	seq, ra := m[:paperSeq], m[paperSeq:]
	if !paperEqual(seq, paperSeqID(1)) {
		return key, client, fmt.Errorf("the client sent a seq_id other than 1: %w", errUnverified)
	}
	if !isPaperNumber(ra) {
		return key, client, fmt.Errorf("the client sent a serial_a that is no binary number: %w", errUnverified)
	}
	tr.stage(1, toServer, paperSealed, "signature ok, seq_id ok", start, traceField{"sign", paperSign},
		traceField{"seq_id (1)", paperSeq}, traceField{"serial_a", paperSerial})

	// Stage 2, S → C: seq_id 2 ‖ Ra ‖ Rb, signed by S, sealed to C.
	stage, direction, start = 2, toClient, time.Now()
	rb := paperNumber()
	if err := paperSend(conn, me, clients[client], paperSeqID(2), ra, rb); err != nil {
		return key, client, err
	}
	tr.stage(2, toClient, paperSealed, "sent", start, traceField{"sign", paperSign}, traceField{"seq_id (2)", paperSeq},
		traceField{"serial_a", paperSerial}, traceField{"serial_b", paperSerial})
	time.Sleep(delay)

	// Stage 3, C → S: seq_id 3 ‖ Rb, signed by C, sealed to S.
	stage, direction, start = 3, toServer, time.Now()
	sealed, err = paperReceive(conn, paperSealed, "client")
	if err != nil {
		return key, client, err
	}
	m, signed = paperOpen(me, sealed, paperStage1)
	if !paperVerify(clients[client], signed, m) {
		return key, client, fmt.Errorf("what came does not open, or the client did not sign it: %w", errUnverified)
	}
	if !paperEqual(m[:paperSeq], paperSeqID(3)) {
		return key, client, fmt.Errorf("the client sent a seq_id other than 3: %w", errUnverified)
	}
	if !paperEqual(m[paperSeq:], rb) {
		return key, client, fmt.Errorf("the client returned another serial_b than was sent: %w", errUnverified)
	}
	tr.stage(3, toServer, paperSealed, "signature ok, seq_id ok, serial_b ok", start, traceField{"sign", paperSign},
		traceField{"seq_id (3)", paperSeq}, traceField{"serial_b", paperSerial})

	// Stage 4, S → C: Sm, signed by S, sealed to C, in base64, without the seq_id of Fig. 3, as the programs send it.
	stage, direction, start = 4, toClient, time.Now()
	rand.Read(key[:])
	sealed, err = paperSeal(me, clients[client], key[:])
	if err != nil {
		return key, client, err
	}
	if _, err := io.WriteString(conn, base64.StdEncoding.EncodeToString(sealed)); err != nil {
		return key, client, err
	}
	tr.stage(4, toClient, paperBase64, "sent", start, traceField{"sign", paperSign}, traceField{"session key", paperKey})
	time.Sleep(delay)
	return key, client, nil
}

// checkPaperKeys keeps the sizes above true.
func checkPaperKeys(keys ...*rsa.PublicKey) error {
	for _, k := range keys {
		if k.N.BitLen() != paperBits {
			return fmt.Errorf("the paper's protocol needs RSA-%d keys, this one is RSA-%d: make one with ssh-keygen -t rsa -b %d -m PEM", paperBits, k.N.BitLen(), paperBits)
		}
	}
	return nil
}

// paperReceive takes the n bytes of one stage from peer ("client" or "server"). The programs do not frame their
// messages, so a stage is known by its length alone; a byte more would be the next stage's.
func paperReceive(conn net.Conn, n int, peer string) ([]byte, error) {
	wire := make([]byte, n)
	got, err := io.ReadFull(conn, wire)
	switch {
	case err == nil:
		return wire, nil
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the %s closed the connection after %d of %d bytes: its log says why; see that each side has the other's key (-peer): %w",
			peer, got, n, err)
	default:
		return nil, fmt.Errorf("waiting for the %s, %d of %d bytes came: %w", peer, got, n, err)
	}
}

// paperSend signs and seals the fields of stages 1 to 3 and writes them at once: the programs take a message with one
// recv.
func paperSend(conn net.Conn, me *rsa.PrivateKey, to *rsa.PublicKey, fields ...[]byte) error {
	sealed, err := paperSeal(me, to, fields...)
	if err != nil {
		return err
	}
	_, err = conn.Write(sealed)
	return err
}

// paperSeal is §3.1's c = E_to(E_me(m), m):
//
//	sign    256   RSA-PSS over m: SHA-256, MGF1 with SHA-256, a salt of 222 bytes
//	m             the fields, as they stand
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

// paperOpen undoes the sealing and returns m, which has one of the given lengths, and its signature, not yet verified.
// For what does not open or has another length both are zeros, which nobody signed: so paperVerify runs for it too, and
// takes as long as for a signature that is wrong.
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

// paperSeqID writes a seq_id: 8 binary digits.
func paperSeqID(n int) []byte { return fmt.Appendf(nil, "%08b", n) }

// paperNumber draws a serial: 32 random bits as 32 binary digits, which is all the paper gives a nonce.
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
