package main

// The wire of securechat/2 below the handshake and the session: frames, and packets under the session's keys
// (the paper's §4 and Fig. 5; DESIGN section 3, "Frames" and "Session packets").
//
// A frame, which carries everything that is ever sent:
//
//	length  2   of the body, big-endian
//	body    length
//
// A packet is a frame of 4096 bytes at most whose body is an AEAD box (tag 16) over the paper's packet:
//
//	msg_len 4   big-endian
//	msg     msg_len: one kind byte and its payload
//	zeros   to a multiple of 16, so that the length on the wire says little of msg_len
//
// with the SHA-512 of the session key, the paper's digest, as associated data, and a counter of the direction as nonce:
// neither costs a byte on the wire, and a packet lost, repeated, moved or reflected does not open.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	frameHeader       = 2
	maxHandshakeFrame = 16 << 10 // body of a handshake frame
	maxPacket         = 4096     // a session packet with its length: the paper's limit
	aeadOverhead      = 16       // of both AEADs
	packetAlign       = 16
	msgLenSize        = 4
	msgHeader         = msgLenSize + 1 // and the kind: what stands before a payload
	// maxPlain is the plaintext of the largest packet, maxMsg the longest msg in one.
	maxPlain = (maxPacket - frameHeader - aeadOverhead) / packetAlign * packetAlign
	maxMsg   = maxPlain - msgLenSize

	// A direction's key lives for this much, then both ends replace it (halfConn.ratchet).
	rekeyPackets = 1 << 20
	rekeyBytes   = 1 << 30
)

// errMalformed is for what does not have the form that the protocol gives it.
var errMalformed = errors.New("a message of the wrong form")

// errBadPacket is the one error for a packet that is not the next one of its direction under the session's key.
var errBadPacket = errors.New("a packet that cannot be verified")

// readFrame reads one frame of a handshake. It refuses a length over max before it allocates.
func readFrame(r io.Reader, max int) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(header[:]))
	if n > max {
		return nil, fmt.Errorf("a frame of %d bytes, over the limit of %d: %w", n, max, errMalformed)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, noEOF(err)
	}
	return body, nil
}

// noEOF makes an end inside a unit what it is: unexpected.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame sends body as one frame in one write.
func writeFrame(w io.Writer, body []byte) error {
	if len(body) > maxHandshakeFrame {
		return fmt.Errorf("a frame of %d bytes, over the limit of %d: a certificate or key is too large", len(body), maxHandshakeFrame)
	}
	_, err := w.Write(appendVector(nil, body))
	return err
}

// appendVector appends a 2-byte length and b, the form of a frame and of every variable part of the handshake.
func appendVector(dst, b []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)))
	return append(dst, b...)
}

// cutVector takes a vector from the front of b; ok is false where b is too short for the length it names.
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

// halfConn seals or opens one direction's packets. Not for more than one goroutine.
type halfConn struct {
	secret [64]byte // of this direction: the key comes from it, and the next secret
	aes    bool     // AES-256-GCM, else ChaCha20-Poly1305
	aead   cipher.AEAD
	digest [sha512.Size]byte
	nonce  [12]byte // four zeros, then the number of the next packet; never repeats in a session

	packets, bytes int64 // under the present key
}

func newHalfConn(secret *[64]byte, digest *[sha512.Size]byte, aes bool) (*halfConn, error) {
	h := &halfConn{secret: *secret, digest: *digest, aes: aes}
	return h, h.setKey()
}

// setKey makes the AEAD of the present secret.
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

// ratchet replaces the key by one from which the old cannot be had, and wipes the old secret. The nonce goes on counting.
func (h *halfConn) ratchet() error {
	next, err := hkdf.Expand(sha512.New, h.secret[:], "securechat/2 next secret", len(h.secret))
	if err != nil {
		return err
	}
	copy(h.secret[:], next)
	clear(next)
	return h.setKey()
}

// wipe forgets the direction's secret.
func (h *halfConn) wipe() {
	clear(h.secret[:])
	h.aead = nil
}

// full says that the next packet must be a rekey, the last one under this key.
func (h *halfConn) full() bool { return h.packets >= rekeyPackets-1 || h.bytes >= rekeyBytes-maxPacket }

// seal appends the packet of kind and the parts of its payload, maxMsg-1 bytes of them at most, to dst.
func (h *halfConn) seal(dst []byte, kind byte, parts ...[]byte) []byte {
	msgLen := 1
	for _, p := range parts {
		msgLen += len(p)
	}
	plain := (msgLenSize + msgLen + packetAlign - 1) / packetAlign * packetAlign
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

// sealOver is seal where the payload need not be copied: b is msgHeader bytes, which it writes over, and the payload. The padding,
// none for maxMsg-1 bytes of payload, writes over what stands behind b in its capacity.
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

// open opens a packet's body in place.
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

func (h *halfConn) count(n int) {
	h.packets++
	h.bytes += int64(n)
	binary.BigEndian.PutUint64(h.nonce[4:], binary.BigEndian.Uint64(h.nonce[4:])+1)
}
