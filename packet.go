package main

// The wire format of securechat/2 below the handshake and the session: frames, and packets sealed with the session's
// keys (the paper's §4 and Fig. 5; docs/PROTOCOL.md).
//
// Everything that is sent is in frames:
//
//	length  2   of the body, big-endian
//	body    length
//
// A packet is a frame of at most 4096 bytes. Its body is an AEAD box (tag 16) of the paper's packet:
//
//	msg_len 4   big-endian
//	msg     msg_len: one kind byte and its payload
//	zeros   to a multiple of 16, so that the length on the wire reveals little about msg_len
//
// The associated data is the SHA-512 of the session key, the paper's digest. The nonce is a counter of the direction.
// Neither takes a byte on the wire, and a packet that was lost, repeated, moved or reflected does not open.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	frameHeader       = 2
	maxHandshakeFrame = 16 << 10 // body of a handshake frame
	maxPacket         = 4096     // a session packet with its length: the paper's limit
	aeadOverhead      = 16       // of both AEADs
	packetAlign       = 16
	msgLenSize        = 4
	msgHeader         = msgLenSize + 1 // msg_len and the kind, before the payload
	// maxPlain is the plaintext size of the largest packet, maxMsg the longest msg in a packet.
	maxPlain = (maxPacket - frameHeader - aeadOverhead) / packetAlign * packetAlign
	maxMsg   = maxPlain - msgLenSize

	// packetOverhead is what a packet takes at most beside its payload.
	packetOverhead = frameHeader + msgHeader + packetAlign - 1 + aeadOverhead

	// Both ends replace the key of a direction after this much (halfConn.ratchet).
	rekeyPackets = 1 << 20
	rekeyBytes   = 1 << 30

	// A key carries at least this many packets or bytes of plaintext, the rekey included. A rekey costs the receiver as
	// much as twenty small packets.
	leastRekeyPackets = 4096
	leastRekeyBytes   = 1 << 20
)

// errMalformed is the error for a message that does not have the form that the protocol requires.
var errMalformed = errors.New("a message of the wrong form")

// errBadPacket is the only error for a packet that is not the next one of its direction under the session's key.
var errBadPacket = errors.New("a packet that cannot be verified")

// readFrame reads one frame of a handshake. It rejects a length over max before it allocates memory, and another
// protocol as soon as its first bytes are there (errForeign).
func readFrame(r io.Reader, max int) ([]byte, error) {
	var first [9]byte // of the frame, header included
	if _, err := io.ReadFull(r, first[:frameHeader]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(first[:]))
	if err := foreignProtocol(first[:frameHeader]); err != nil {
		return nil, err
	}
	if n > max {
		return nil, fmt.Errorf("a frame of %d bytes, over the limit of %d: %w", n, max, errMalformed)
	}
	body := make([]byte, n)
	begun := min(n, len(first)-frameHeader)
	if _, err := io.ReadFull(r, body[:begun]); err != nil {
		return nil, noEOF(err)
	}
	copy(first[frameHeader:], body[:begun])
	if err := foreignProtocol(first[:frameHeader+begun]); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r, body[begun:]); err != nil {
		return nil, noEOF(err)
	}
	return body, nil
}

// errForeign is the name of another protocol that the peer speaks, after its article.
type errForeign string

func (e errForeign) Error() string {
	return "it speaks another protocol: that is " + string(e) + " program"
}
func (e errForeign) Unwrap() error { return errMalformed }

// foreignProtocol returns an errForeign if b, the first two to nine bytes from a peer, begin another protocol. Two
// letters would be the length of a frame over the limit. A TLS record is longer, and its lengths have to match, since a
// frame of a handshake may begin with any bytes.
func foreignProtocol(b []byte) error {
	be := binary.BigEndian.Uint16
	switch two := string(b[:2]); {
	case two == "SS":
		return errForeign("an SSH")
	case two == "HT", two == "GE", two == "HE", two == "PO", two == "PR":
		return errForeign("an HTTP")
	case two == "EH", two == "22" && len(b) > 3 && b[2] == '0' && (b[3] == ' ' || b[3] == '-'):
		return errForeign("an SMTP or FTP")
	case two == "\x16\x03" && len(b) == 9 && b[2] < 5 && b[5] == 1 && b[6] == 0 && be(b[3:]) == be(b[7:])+4:
		return errForeign("a TLS")
	}
	return nil
}

// noEOF turns io.EOF inside a frame into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame sends body as one frame in one write.
func writeFrame(w io.Writer, body []byte) error {
	if len(body) > maxHandshakeFrame {
		return fmt.Errorf("a frame of %d bytes, over the limit of %d: a certificate or key is too large", len(body),
			maxHandshakeFrame)
	}
	_, err := w.Write(appendVector(nil, body))
	return err
}

// appendVector appends the length of b in two bytes, and b: the form of a frame and of all variable-length fields of
// the handshake.
func appendVector(dst, b []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)))
	return append(dst, b...)
}

// cutVector returns the vector at the front of b and the rest of b. ok is false if b is too short.
func cutVector(b []byte) (v, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// halfConn seals or opens the packets of one direction. Only one goroutine at a time may use it.
type halfConn struct {
	secret [64]byte // of this direction; the key and the next secret are derived from it
	aes    bool     // AES-256-GCM, otherwise ChaCha20-Poly1305
	aead   cipher.AEAD
	digest [sha512.Size]byte
	nonce  [12]byte // four zeros, then the number of the next packet; never repeats in a session

	packets, bytes int64 // sealed or opened with the current key
}

func newHalfConn(secret *[64]byte, digest *[sha512.Size]byte, aes bool) (*halfConn, error) {
	h := &halfConn{secret: *secret, digest: *digest, aes: aes}
	return h, h.setKey()
}

// setKey derives the key from the current secret and makes the AEAD.
func (h *halfConn) setKey() error {
	key, err := hkdf.Expand(sha512.New, h.secret[:], "securechat/2 packet key", 32)
	if err != nil {
		return err
	}
	defer clear(key)
	h.packets, h.bytes = 0, 0
	if !h.aes {
		h.aead, err = chacha20poly1305.New(key)
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	h.aead, err = cipher.NewGCM(block)
	return err
}

// ratchet replaces the secret and the key by new ones, from which the old ones cannot be derived, and wipes the old
// secret. The nonce continues.
func (h *halfConn) ratchet() error {
	next, err := hkdf.Expand(sha512.New, h.secret[:], "securechat/2 next secret", len(h.secret))
	if err != nil {
		return err
	}
	copy(h.secret[:], next)
	clear(next)
	return h.setKey()
}

// wipe clears the secret.
func (h *halfConn) wipe() {
	clear(h.secret[:])
	h.aead = nil
}

// mayRekey reports whether the last packet can be a rekey: the key has carried enough.
func (h *halfConn) mayRekey() bool {
	return h.packets >= leastRekeyPackets || h.bytes >= leastRekeyBytes
}

// full reports whether the next packet must be a rekey, which is the last one with this key.
func (h *halfConn) full() bool { return h.packets >= rekeyPackets-1 || h.bytes >= rekeyBytes-maxPacket }

// seal appends a packet of kind to dst. Its payload is the concatenation of parts, at most maxMsg-1 bytes.
func (h *halfConn) seal(dst []byte, kind byte, parts ...[]byte) []byte {
	msgLen := 1
	for _, p := range parts {
		msgLen += len(p)
	}
	plain := (msgLenSize + msgLen + packetAlign - 1) / packetAlign * packetAlign
	dst = slices.Grow(dst, frameHeader+plain+aeadOverhead)
	dst = binary.BigEndian.AppendUint16(dst, uint16(plain+aeadOverhead))
	at := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(msgLen))
	dst = append(dst, kind)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	for len(dst) < at+plain {
		dst = append(dst, 0)
	}
	dst = h.aead.Seal(dst[:at], h.nonce[:], dst[at:], h.digest[:])
	h.count(plain)
	return dst
}

// sealOver is like seal but does not copy the payload. b is msgHeader bytes, which are overwritten, and the payload.
// The padding overwrites the bytes after b within its capacity; a payload of maxMsg-1 bytes has no padding.
func (h *halfConn) sealOver(dst []byte, kind byte, b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-msgLenSize))
	b[msgLenSize] = kind
	for len(b)%packetAlign != 0 {
		b = append(b, 0)
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)+aeadOverhead))
	dst = h.aead.Seal(dst, h.nonce[:], b, h.digest[:])
	h.count(len(b))
	return dst
}

// open opens a packet's body in place; payload is a part of it.
func (h *halfConn) open(body []byte) (kind byte, payload []byte, err error) {
	plain, err := h.aead.Open(body[:0], h.nonce[:], body, h.digest[:])
	if err != nil || len(plain) < packetAlign || len(plain)%packetAlign != 0 {
		return 0, nil, errBadPacket
	}
	n := binary.BigEndian.Uint32(plain)
	if n < 1 || uint64(n) > uint64(len(plain)-msgLenSize) || len(plain)-msgLenSize-int(n) >= packetAlign {
		return 0, nil, errBadPacket
	}
	for _, b := range plain[msgLenSize+n:] {
		if b != 0 {
			return 0, nil, errBadPacket
		}
	}
	h.count(len(plain))
	return plain[msgLenSize], plain[msgLenSize+1 : msgLenSize+n], nil
}

// count counts a packet with n bytes of plaintext.
func (h *halfConn) count(n int) {
	h.packets++
	h.bytes += int64(n)
	binary.BigEndian.PutUint64(h.nonce[4:], binary.BigEndian.Uint64(h.nonce[4:])+1)
}
