package main

// RSA with cipher block chaining: §2.2 of the paper, Algorithms 1 and 2.
//
// RSA encrypts one block; chaining, as in CBC, extends it to messages of any length. A plaintext block has the
// largest power of two of bytes that fits in OAEP; a ciphertext block is as long as the modulus. Both protocols use
// this implementation. They differ only in the hash and the label of OAEP:
//
//   - the paper: OAEP with SHA-1 and no label. An attacker can remove and move blocks and replace the IV; only the
//     padding and the signature inside the message may reveal it.
//   - securechat/2: OAEP with SHA-256 and a label that contains the block's position. OAEP itself rejects a block at
//     another position.
//
// The layout of a sealed message, for a modulus of k bytes and plaintext blocks of b bytes:
//
//	block 0      k   RSA(P[0] XOR IV)
//	block i      k   RSA(P[i] XOR first b bytes of block i-1)
//	IV           b   at the end, as in the paper
//
// P is the message padded with n bytes of value n, 1 ≤ n ≤ b (the padding of PKCS#7).

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"hash"
	"math/bits"
)

// errRSACBC is the only error of rsaCBC.open. An error that names the failed check would be a padding oracle.
var errRSACBC = errors.New("an RSA-CBC message does not open")

// rsaCBC holds the parameters of OAEP.
type rsaCBC struct {
	hash  func() hash.Hash
	label func(i, n int, iv []byte) []byte // of block i of n in a message with this iv; nil for no label
}

// sizes returns the lengths in bytes of a ciphertext block and of a plaintext block, or 0, 0 if the modulus is too
// short for a byte and its padding.
func (c rsaCBC) sizes(pub *rsa.PublicKey) (k, b int) {
	k = pub.Size()
	room := k - 2*c.hash().Size() - 2 // RFC 8017 §7.1.1
	if room < 2 {
		return 0, 0
	}
	return k, min(1<<(bits.Len(uint(room))-1), maxPlainBlock)
}

// maxPlainBlock is the longest block whose padding count fits in one byte; RSA-8192 would allow 512. A padding of 256
// bytes has the value 0 (256 mod 256).
const maxPlainBlock = 256

// sealedSize returns the length of a sealed message of n bytes.
func (c rsaCBC) sealedSize(pub *rsa.PublicKey, n int) int {
	k, b := c.sizes(pub)
	if b == 0 {
		return 0
	}
	return (n/b+1)*k + b
}

// seal is Algorithm 1. It pads msg, encrypts it block by block for pub and appends the IV.
func (c rsaCBC) seal(pub *rsa.PublicKey, msg []byte) ([]byte, error) {
	k, b := c.sizes(pub)
	if b == 0 {
		return nil, errors.New("an RSA key is too short for OAEP")
	}
	n := len(msg)/b + 1
	padding := n*b - len(msg)
	plain := make([]byte, n*b)
	defer clear(plain)
	copy(plain, msg)
	for i := len(msg); i < len(plain); i++ {
		plain[i] = byte(padding)
	}
	iv := make([]byte, b)
	rand.Read(iv)

	sealed := make([]byte, 0, n*k+b)
	chain := iv
	for i := range n {
		block := plain[i*b : (i+1)*b]
		subtle.XORBytes(block, block, chain)
		ct, err := rsa.EncryptOAEP(c.hash(), rand.Reader, pub, block, c.labelOf(i, n, iv))
		if err != nil {
			return nil, err
		}
		sealed = append(sealed, ct...)
		chain = sealed[i*k : i*k+b]
	}
	return append(sealed, iv...), nil
}

// open is Algorithm 2. Its only error is errRSACBC, returned after all blocks have been tried, so that neither the
// error nor the time reveals which block failed. The caller must bound the length of sealed, because each block costs
// one private-key operation.
func (c rsaCBC) open(priv *rsa.PrivateKey, sealed []byte) ([]byte, error) {
	k, b := c.sizes(&priv.PublicKey)
	if b == 0 || len(sealed) < k+b || (len(sealed)-b)%k != 0 {
		return nil, errRSACBC
	}
	n := (len(sealed) - b) / k
	iv := sealed[n*k:]

	msg := make([]byte, n*b)
	ok := 1
	chain := iv
	for i := range n {
		ct := sealed[i*k : (i+1)*k]
		block, err := rsa.DecryptOAEP(c.hash(), nil, priv, ct, c.labelOf(i, n, iv))
		if err != nil || len(block) != b {
			ok = 0
			block = make([]byte, b)
		}
		subtle.XORBytes(msg[i*b:], block, chain)
		clear(block)
		chain = ct[:b]
	}

	padding := int(msg[len(msg)-1]-1) + 1 // 1 to 256, because 0 stands for maxPlainBlock
	ok &= subtle.ConstantTimeLessOrEq(padding, b)
	for i := 1; i <= b; i++ {
		inside := subtle.ConstantTimeLessOrEq(i, padding)
		same := subtle.ConstantTimeByteEq(msg[len(msg)-i], byte(padding))
		ok &= subtle.ConstantTimeSelect(inside, same, 1)
	}
	if ok != 1 {
		clear(msg)
		return nil, errRSACBC
	}
	return msg[:len(msg)-padding], nil
}

// labelOf returns the label of block i of n, or nil.
func (c rsaCBC) labelOf(i, n int, iv []byte) []byte {
	if c.label == nil {
		return nil
	}
	return c.label(i, n, iv)
}
