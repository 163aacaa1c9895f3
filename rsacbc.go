package main

// RSA with cipher block chaining: §2.2 of the paper, Algorithms 1 and 2.
//
// RSA encrypts one block; chaining blocks as CBC does lets it encrypt any length. The plaintext block is the largest
// power of two that OAEP leaves room for; a ciphertext block is as long as the modulus. One implementation serves both
// protocols, which differ in OAEP's hash and label alone:
//
//   - the paper: OAEP with SHA-1 and no label. Blocks can be cut, moved and given another IV; only the padding and the
//     signature inside may notice.
//   - securechat/2: OAEP with SHA-256 and a label that names the block's place. A block that is not where it was sealed
//     fails in OAEP itself.
//
// The layout of a sealed message, for a modulus of k bytes and a plaintext block of b:
//
//	block 0      k   RSA(P[0] XOR IV)
//	block i      k   RSA(P[i] XOR first b bytes of block i-1)
//	IV           b   at the end, as the paper has it
//
// P is the message padded with n bytes of value n, 1 ≤ n ≤ b (PKCS#7's scheme).

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"errors"
	"hash"
	"math/bits"
)

// errRSACBC is the one error of rsaCBC.open: which of the checks failed would be a padding oracle.
var errRSACBC = errors.New("an RSA-CBC message does not open")

// rsaCBC holds OAEP's parameters.
type rsaCBC struct {
	hash  func() hash.Hash
	label func(i, n int, iv []byte) []byte // of block i of n; nil for no label. iv is the whole message's
}

// sizes returns the lengths in bytes of a ciphertext block and of a plaintext block, or 0, 0 for a modulus too short to
// hold a padded byte.
func (c rsaCBC) sizes(pub *rsa.PublicKey) (k, b int) {
	k = pub.Size()
	room := k - 2*c.hash().Size() - 2 // RFC 8017 §7.1.1
	if room < 2 {
		return 0, 0
	}
	return k, min(1<<(bits.Len(uint(room))-1), maxPlainBlock)
}

// maxPlainBlock keeps the padding's count in one byte: RSA-8192 would reach 512. The padding of a full 256-byte block is
// written as 256 zero bytes (256 mod 256).
const maxPlainBlock = 256

// sealedSize is the length of n bytes once sealed.
func (c rsaCBC) sealedSize(pub *rsa.PublicKey, n int) int {
	k, b := c.sizes(pub)
	if b == 0 {
		return 0
	}
	return (n/b+1)*k + b
}

// seal is Algorithm 1: it pads msg, encrypts it for pub block by block and appends the IV.
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

// open is Algorithm 2. It returns errRSACBC for whatever does not open, after it has tried every block, so that neither
// the words nor the time tell which block failed. The caller bounds the length of sealed: each block is one
// private-key operation.
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

	padding := int(msg[len(msg)-1]-1) + 1 // 1 to 256, for 0 stands for maxPlainBlock
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

func (c rsaCBC) labelOf(i, n int, iv []byte) []byte {
	if c.label == nil {
		return nil
	}
	return c.label(i, n, iv)
}
