package main

// RSA-CBC: sealed messages of every length open, and all others are rejected with the same error.

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"slices"
	"testing"
)

// rsaCBCCases are the parameters of both protocols. The label depends on all its arguments, as in securechat/2.
func rsaCBCCases(t testing.TB) []rsaCBCCase {
	v := paperVector(t)
	sc2 := rsaCBC{hash: func() hash.Hash { return sha256.New() }, label: func(i, n int, iv []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte("test"), uint32(i))
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		sum := sha512.Sum512(append(b, iv...))
		return sum[:]
	}}
	return []rsaCBCCase{
		{"paper", paperRSACBC, v.client, v.server, 128},
		{"securechat2-2048", sc2, v.client, v.server, 128},
		{"securechat2-3072", sc2, testKey(t, "paper-rsa3072.pem"), v.server, 256},
	}
}

type rsaCBCCase struct {
	name  string
	c     rsaCBC
	key   *rsa.PrivateKey
	other *rsa.PrivateKey
	block int
}

// TestRSACBCLengths seals and opens messages of every length up to two blocks, and those at block edges up to 1024, or
// with -short only those at block edges.
func TestRSACBCLengths(t *testing.T) {
	t.Parallel()
	for _, tc := range rsaCBCCases(t) {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for n := 0; n <= 1024; n++ {
				if edge := (n + 1) % tc.block; (testing.Short() || n > 2*tc.block) && edge > 2 {
					continue
				}
				msg := bytes.Repeat([]byte{byte(n)}, n) // Some of these bytes look like padding.
				sealed, err := tc.c.seal(&tc.key.PublicKey, msg)
				if err != nil {
					t.Fatalf("%d bytes: seal: %v", n, err)
				}
				if want := (n/tc.block+1)*tc.key.Size() + tc.block; len(sealed) != want ||
					tc.c.sealedSize(&tc.key.PublicKey, n) != want {
					t.Fatalf("%d bytes: sealed to %d, sealedSize is %d, want %d", n, len(sealed),
						tc.c.sealedSize(&tc.key.PublicKey, n), want)
				}
				got, err := tc.c.open(tc.key, sealed)
				if err != nil || !bytes.Equal(got, msg) {
					t.Fatalf("%d bytes: open: %v, %d bytes", n, err, len(got))
				}
			}
		})
	}
}

// TestRSACBCRefusals opens messages that the other side did not seal. All errors are the same value.
func TestRSACBCRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range rsaCBCCases(t) {
		t.Run(tc.name, func(t *testing.T) {
			pub, k, b := &tc.key.PublicKey, tc.key.Size(), tc.block
			seal := func(pub *rsa.PublicKey, msg []byte) []byte {
				s, err := tc.c.seal(pub, msg)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			refused := func(what string, sealed []byte) {
				t.Helper()
				if m, err := tc.c.open(tc.key, sealed); m != nil || err != errRSACBC {
					t.Errorf("%s: got %d bytes, %v", what, len(m), err)
				}
			}
			msg := make([]byte, 3*b-5) // The message has three blocks, the last with five bytes of padding.
			for i := range msg {
				msg[i] = byte(7 * i) // without a run that could be padding
			}
			s := seal(pub, msg)
			blocks := func(order ...int) (out []byte) {
				for _, i := range order {
					out = append(out, s[i*k:(i+1)*k]...)
				}
				return append(out, s[3*k:]...)
			}

			refused("another key's message", seal(&tc.other.PublicKey, msg))
			refused("nothing", nil)
			refused("an IV alone", s[3*k:])
			for _, n := range []int{1, b - 1, b + 1, k, k + b - 1, len(s) - 1} {
				refused("a prefix", s[:n])
			}
			refused("a byte more", append(slices.Clone(s), 0))
			refused("the last block cut", blocks(0, 1))
			refused("the last block first", blocks(2, 0, 1))
			for i := 0; i < 3*k; i += 31 {
				refused("a flipped byte", flip(s, i))
			}
			if wrong, err := tc.c.open(tc.other, s); wrong != nil || err != errRSACBC {
				t.Errorf("the wrong key opened it: %v", err)
			}
			// Wrong padding: a block of text whose last byte is larger than the number of bytes with that value.
			for _, last := range []byte{0, byte(b + 1), 255, 2} {
				if b == 256 && last == 1 {
					continue
				}
				p := bytes.Repeat([]byte{'x'}, b)
				p[b-1] = last
				refused("bad padding", sealRaw(t, tc.c, pub, p))
			}

			if b < maxPlainBlock {
				refused("padding longer than a block", sealRaw(t, tc.c, pub, bytes.Repeat([]byte{byte(b + 1)}, b)))
			}
			refused("a block that is too short", sealShort(t, tc.c, pub))

			// Changes that only a label detects: blocks of the paper can be moved and removed, and the IV can be
			// replaced.
			moved := map[string][]byte{
				"the first block cut":      blocks(1, 2),
				"two blocks swapped":       blocks(1, 0, 2),
				"a block twice":            blocks(0, 0, 1, 2),
				"another IV":               flip(s, 3*k),
				"another message's block":  append(slices.Clone(seal(pub, msg)[:k]), s[k:]...),
				"another message's ending": append(slices.Clone(s[:k]), seal(pub, msg)[k:]...),
			}
			for what, sealed := range moved {
				if tc.c.label != nil {
					refused(what, sealed)
				} else if got, err := tc.c.open(tc.key, sealed); err != nil && err != errRSACBC || err == nil &&
					bytes.Equal(got, msg) {
					t.Errorf("%s: opened to the same message, or another error: %v", what, err)
				}
			}
			if tc.c.label == nil {
				if got, err := tc.c.open(tc.key, moved["another IV"]); err != nil || len(got) != len(msg) {
					t.Errorf("the paper's RSA-CBC detected another IV (%v), which it cannot", err)
				}
				if got, err := tc.c.open(tc.key, moved["the first block cut"]); err != nil || len(got) != len(msg)-b {
					t.Errorf("the paper's RSA-CBC detected the removal of its first block (%v), which it cannot", err)
				}
			}
		})
	}
}

// sealRaw seals one block without padding, as the first of two blocks of seal.
func sealRaw(t *testing.T, c rsaCBC, pub *rsa.PublicKey, p []byte) []byte {
	if c.label != nil {
		full := c.label
		c.label = func(i, n int, iv []byte) []byte { return full(i, 1, iv) } // as in a message of one block
	}
	s, err := c.seal(pub, p)
	if err != nil {
		t.Fatal(err)
	}
	k, b := c.sizes(pub)
	return append(s[:k:k], s[len(s)-b:]...)
}

// sealShort seals two blocks: the first is a byte too short, the second is only padding.
func sealShort(t *testing.T, c rsaCBC, pub *rsa.PublicKey) []byte {
	_, b := c.sizes(pub)
	iv := make([]byte, b)
	encrypt := func(i int, block []byte) []byte {
		ct, err := rsa.EncryptOAEP(c.hash(), rand.Reader, pub, block, c.labelOf(i, 2, iv))
		if err != nil {
			t.Fatal(err)
		}
		return ct
	}
	first := encrypt(0, make([]byte, b-1))
	second := bytes.Repeat([]byte{byte(b)}, b)
	subtle.XORBytes(second, second, first)
	return slices.Concat(first, encrypt(1, second), iv)
}

// TestRSACBCShortKey checks that a key without room for a byte and its padding neither seals nor opens.
func TestRSACBCShortKey(t *testing.T) {
	key, err := rsa.GenerateKey(nil, 1024)
	if err != nil {
		t.Fatal(err)
	}
	c := rsaCBC{hash: sha512.New}
	if s, err := c.seal(&key.PublicKey, []byte("x")); err == nil {
		t.Errorf("sealed to %d bytes for a key without room", len(s))
	}
	if c.sealedSize(&key.PublicKey, 1) != 0 {
		t.Error("a key without room has a sealed size")
	}
	if _, err := c.open(key, make([]byte, 256)); err != errRSACBC {
		t.Errorf("opened with a key without room: %v", err)
	}
}

// TestRSACBCVectors opens the four stages that the reference programs sent.
func TestRSACBCVectors(t *testing.T) {
	v := paperVector(t)
	for i, s := range v.stages {
		key := v.server
		if s.from == "server" {
			key = v.client
		}
		got, err := paperRSACBC.open(key, s.sealed)
		if err != nil || !bytes.Equal(got, s.opened) {
			t.Errorf("stage %d: %v, %d bytes", i+1, err, len(got))
		}
	}
}

func FuzzRSACBCOpen(f *testing.F) {
	cases := rsaCBCCases(f)
	for _, tc := range cases[:2] {
		s, err := tc.c.seal(&tc.key.PublicKey, []byte("seed"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
		f.Add(s[:len(s)-1])
	}
	f.Add([]byte{})
	addVectors(f, "RSA-CBC", "sealed", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if len(sealed) > 4096 {
			return
		}
		for _, tc := range cases[:2] {
			if m, err := tc.c.open(tc.key, sealed); err != nil && (err != errRSACBC || m != nil) || len(m) > len(sealed) {
				t.Errorf("%s: %d bytes, %v", tc.name, len(m), err)
			}
		}
	})
}

func BenchmarkRSACBC(b *testing.B) {
	for _, tc := range rsaCBCCases(b) {
		msg := make([]byte, 328) // The size is that of the paper's stage 2.
		sealed, err := tc.c.seal(&tc.key.PublicKey, msg)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("seal/"+tc.name, func(b *testing.B) {
			for b.Loop() {
				tc.c.seal(&tc.key.PublicKey, msg)
			}
		})
		b.Run("open/"+tc.name, func(b *testing.B) {
			for b.Loop() {
				tc.c.open(tc.key, sealed)
			}
		})
	}
}

// flip returns b with one bit of byte i changed.
func flip(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 1
	return b
}
