package main

// Packets: a packet opens once, in order, at the other end of its direction, and no other packet opens.

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

// halves returns both ends of one direction, with secrets derived from seed.
func halves(t testing.TB, aes bool, seed byte) (out, in *halfConn) {
	t.Helper()
	secret, digest := [64]byte{seed}, [64]byte{1, seed}
	for _, h := range []**halfConn{&out, &in} {
		var err error
		if *h, err = newHalfConn(&secret, &digest, aes); err != nil {
			t.Fatal(err)
		}
	}
	return out, in
}

// bothCiphers runs fn for each AEAD.
func bothCiphers(t *testing.T, fn func(t *testing.T, aes bool)) {
	t.Run("ChaCha20-Poly1305", func(t *testing.T) { fn(t, false) })
	t.Run("AES-256-GCM", func(t *testing.T) { fn(t, true) })
}

// sealPlain seals any plaintext as the body of the next packet.
func sealPlain(h *halfConn, plain []byte) []byte {
	body := h.aead.Seal(nil, h.nonce[:], plain, h.digest[:])
	h.count(len(plain))
	return body
}

// mustNotOpen fails if body opens, or if the attempt changes which packet opens next.
func mustNotOpen(t *testing.T, what string, in *halfConn, body []byte) {
	t.Helper()
	before := *in
	if kind, payload, err := in.open(bytes.Clone(body)); !errors.Is(err, errBadPacket) || kind != 0 || payload != nil {
		t.Errorf("%s: kind %d, %d bytes, %v", what, kind, len(payload), err)
	}
	if in.nonce != before.nonce || in.packets != before.packets || in.bytes != before.bytes {
		t.Errorf("%s: the rejected packet was counted", what)
	}
}

func TestPacketSizes(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		out, in := halves(t, aes, 0)
		payload := make([]byte, maxMsg-1)
		rand.Read(payload)
		for n := range maxMsg {
			frame := out.seal([]byte("before"), byte(n), payload[:n])[len("before"):]
			body, rest, ok := cutVector(frame)
			if !ok || len(rest) != 0 || len(frame) > maxPacket || len(body)%packetAlign != 0 ||
				len(body)-n > 2*packetAlign+msgLenSize {
				t.Fatalf("%d bytes: the packet has %d", n, len(frame))
			}
			kind, got, err := in.open(body)
			if err != nil || kind != byte(n) || !bytes.Equal(got, payload[:n]) {
				t.Fatalf("%d bytes: kind %d, %d bytes, %v", n, kind, len(got), err)
			}
		}
		if out.packets != maxMsg || in.packets != out.packets || in.bytes != out.bytes {
			t.Errorf("counted %d and %d packets, %d and %d bytes", out.packets, in.packets, out.bytes, in.bytes)
		}
		if len(out.seal(nil, 1, payload))+packetAlign <= maxPacket {
			t.Error("a larger packet would fit the limit")
		}
	})
}

// TestPacketForm checks that packets of the wrong form are rejected also from a peer that has the keys.
func TestPacketForm(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		plain := func(size int, msgLen uint32, fill byte) []byte {
			p := bytes.Repeat([]byte{fill}, size)
			binary.BigEndian.PutUint32(p, msgLen)
			return p
		}
		for what, p := range map[string][]byte{
			"nothing":             {},
			"15 bytes":            plain(15, 1, 0),
			"17 bytes":            plain(17, 1, 0),
			"no kind":             plain(16, 0, 0),
			"longer than it is":   plain(16, 13, 0),
			"4 GiB":               plain(32, 0xffffffff, 0),
			"padding of 16 bytes": plain(32, 12, 0),
			"padding of a packet": plain(maxPlain, 1, 0),
			"padding not zero":    plain(16, 11, 1),
			"last byte not zero":  append(plain(15, 1, 0), 1),
		} {
			out, in := halves(t, aes, 0)
			mustNotOpen(t, what, in, sealPlain(out, p))
		}
		out, in := halves(t, aes, 0)
		for _, p := range [][]byte{plain(16, 12, 7), plain(32, 13, 0), append(plain(15, 11, 7), 0)} {
			if _, _, err := in.open(sealPlain(out, p)); err != nil {
				t.Errorf("%x: %v", p, err)
			}
		}
	})
}

// TestPacketRefusals changes, repeats, reorders and reflects packets.
func TestPacketRefusals(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		out, in := halves(t, aes, 0)
		first := out.seal(nil, kindText, []byte("the first packet"))[frameHeader:]
		second := out.seal(nil, kindText, []byte("the second"))[frameHeader:]
		for i := range first {
			for bit := range 8 {
				flipped := bytes.Clone(first)
				flipped[i] ^= 1 << bit
				mustNotOpen(t, fmt.Sprintf("byte %d, bit %d", i, bit), in, flipped)
			}
			mustNotOpen(t, fmt.Sprintf("%d bytes of it", i), in, first[:i])
		}
		mustNotOpen(t, "a byte more", in, append(bytes.Clone(first), 0))
		mustNotOpen(t, "the second one first", in, second)
		other, _ := halves(t, aes, 1)
		mustNotOpen(t, "of another secret", in, other.seal(nil, kindText, nil)[frameHeader:])
		otherDigest, _ := halves(t, aes, 0)
		otherDigest.digest[0] ^= 1
		mustNotOpen(t, "of another digest", in, otherDigest.seal(nil, kindText, nil)[frameHeader:])
		otherCipher, _ := halves(t, !aes, 0)
		mustNotOpen(t, "of the other cipher", in, otherCipher.seal(nil, kindText, nil)[frameHeader:])
		if _, payload, err := in.open(bytes.Clone(first)); err != nil || string(payload) != "the first packet" {
			t.Fatal(err)
		}
		mustNotOpen(t, "the first one twice", in, first)
		if _, _, err := in.open(bytes.Clone(second)); err != nil {
			t.Fatal(err)
		}
		mustNotOpen(t, "the first one later", in, first)
	})
}

// TestNonces checks that a nonce is used once with one key, and that the numbers continue when the key changes.
func TestNonces(t *testing.T) {
	bothCiphers(t, func(t *testing.T, aes bool) {
		out, in := halves(t, aes, 0)
		old := *out
		for i := range uint64(1000) {
			if got := binary.BigEndian.Uint64(out.nonce[4:]); got != i || [4]byte(out.nonce[:4]) != [4]byte{} {
				t.Fatalf("packet %d has nonce %x", i, out.nonce)
			}
			if i%300 == 299 {
				before := out.secret
				if err := errors.Join(out.ratchet(), in.ratchet()); err != nil {
					t.Fatal(err)
				}
				if out.secret == before || out.secret != in.secret || out.packets != 0 || out.bytes != 0 {
					t.Fatal("the ratchet did not replace the secret")
				}
				old.nonce = out.nonce
				mustNotOpen(t, "of the old key", in, old.seal(nil, kindText, nil)[frameHeader:])
			}
			if _, _, err := in.open(out.seal(nil, kindText, nil)[frameHeader:]); err != nil {
				t.Fatal(err)
			}
		}
		out.wipe()
		if out.secret != [64]byte{} || out.aead != nil {
			t.Error("the secret is still there")
		}
	})
}

func FuzzPacket(f *testing.F) {
	out, _ := halves(f, false, 0)
	f.Add(out.seal(nil, kindText, []byte("text"))[frameHeader:], false)
	f.Add([]byte{0, 0, 0, 1, kindPing, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Add(make([]byte, 32), true)
	addVectors(f, "packets", "stream", func(b []byte) { f.Add(b[frameHeader:], false) })
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		out, in := halves(t, false, 0)
		if sealed { // as only a peer with the keys can do
			b = sealPlain(out, b)
		}
		n := len(b)
		kind, payload, err := in.open(b)
		if err != nil {
			if !errors.Is(err, errBadPacket) || payload != nil {
				t.Error(err, payload)
			}
			return
		}
		again, _ := halves(t, false, 0)
		if want := again.seal(nil, kind, payload); sealed && n <= maxPacket-frameHeader && len(want) != frameHeader+n {
			t.Errorf("a packet of %d bytes, where %d are enough", n, len(want)-frameHeader)
		}
	})
}

func benchmarkPacket(b *testing.B, run func(b *testing.B, aes bool, size int)) {
	for _, aes := range []bool{false, true} {
		for _, size := range []int{100, maxMsg - 1} {
			b.Run(fmt.Sprintf("aes=%v/%d", aes, size), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size))
				run(b, aes, size)
			})
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	benchmarkPacket(b, func(b *testing.B, aes bool, size int) {
		out, _ := halves(b, aes, 0)
		payload, buf := make([]byte, size), make([]byte, 0, maxPacket)
		for b.Loop() {
			out.seal(buf, kindText, payload)
		}
	})
}

// BenchmarkOpen opens one packet repeatedly, by setting the nonce back.
func BenchmarkOpen(b *testing.B) {
	benchmarkPacket(b, func(b *testing.B, aes bool, size int) {
		out, in := halves(b, aes, 0)
		frame := out.seal(nil, kindText, make([]byte, size))
		body := make([]byte, len(frame)-frameHeader)
		for b.Loop() {
			copy(body, frame[frameHeader:])
			in.nonce = [12]byte{}
			if _, _, err := in.open(body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
