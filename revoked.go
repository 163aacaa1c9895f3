package main

// revoked_keys lists keys and certificates that are no longer trusted. It is a text file with a public key or a
// fingerprint (SHA256:…) on each line, or a key revocation list (KRL) as ssh-keygen -k writes it (OpenSSH's
// PROTOCOL.krl). A file that cannot be read in full is an error, and the caller then trusts no key at all. So is a
// file in which a key or a fingerprint has no effect because of its place: after another key, in a comment, or in
// lines that were joined.

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/crypto/ssh"
)

// revocations is the contents of a revoked_keys file.
type revocations struct {
	blobs map[string]bool // public keys in wire form
	sums  map[string]bool // SHA-1 and SHA-256 digests of public keys; their lengths tell them apart
	certs []revokedCerts
}

// revokedCerts lists revoked certificates of one CA.
type revokedCerts struct {
	ca      string // the CA's key in wire form; "" stands for every CA
	ids     map[string]bool
	ranges  [][2]uint64 // first and last serial number of each range
	bitmaps []serialBitmap
}

// serialBitmap revokes the serial number offset+i for each bit i that is set.
type serialBitmap struct {
	offset uint64
	bits   *big.Int
}

// revokes returns why id is revoked, or "" if it is not. A certificate is also revoked by its key and by its CA's key.
func (r *revocations) revokes(id ssh.PublicKey) string {
	if r.revokesKey(plainKey(id)) {
		return "revoked"
	}
	cert, ok := id.(*ssh.Certificate)
	if !ok {
		return ""
	}
	if r.revokesKey(cert.SignatureKey) {
		return "its CA is revoked"
	}
	ca := string(cert.SignatureKey.Marshal())
	for _, c := range r.certs {
		if c.ca != "" && c.ca != ca {
			continue
		}
		if c.ids[cert.KeyId] {
			return fmt.Sprintf("%s is revoked by its id", certName(cert))
		}
		if cert.Serial != 0 && c.hasSerial(cert.Serial) { // 0 means that the CA gave no serial number
			return fmt.Sprintf("%s is revoked by its serial", certName(cert))
		}
	}
	return ""
}

func (r *revocations) revokesKey(key ssh.PublicKey) bool {
	blob := key.Marshal()
	sum1, sum256 := sha1.Sum(blob), sha256.Sum256(blob)
	return r.blobs[string(blob)] || r.sums[string(sum1[:])] || r.sums[string(sum256[:])]
}

func (c *revokedCerts) hasSerial(serial uint64) bool {
	for _, r := range c.ranges {
		if r[0] <= serial && serial <= r[1] {
			return true
		}
	}
	for _, b := range c.bitmaps {
		if serial >= b.offset && serial-b.offset < uint64(b.bits.BitLen()) && b.bits.Bit(int(serial-b.offset)) == 1 {
			return true
		}
	}
	return false
}

// parseRevokedFile parses revoked_keys. A missing file, whose data is nil, revokes nothing.
func parseRevokedFile(data []byte) (*revocations, error) {
	if data != nil && len(data) == 0 {
		return nil, errors.New("it is empty, perhaps after a full disk: restore it, or delete it if no key is revoked")
	}
	return parseRevoked(data)
}

// parseRevoked parses the contents of revoked_keys, in either form.
func parseRevoked(data []byte) (*revocations, error) {
	r := &revocations{blobs: make(map[string]bool), sums: make(map[string]bool)}
	if bytes.HasPrefix(data, []byte(krlMagic)) {
		if err := r.parseKRL(data[len(krlMagic):]); err != nil {
			return nil, fmt.Errorf("the KRL is damaged or of a newer format: %w", err)
		}
		return r, nil
	}
	revoked := make(map[string]bool) // fingerprints
	for n, line := range textLines(data) {
		if err := checkLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		print, err := r.addLine(string(line))
		if err != nil {
			return nil, fmt.Errorf("line %d %w", n, err)
		}
		revoked[print] = true
	}
	for n, line := range allLines(data) {
		if key := otherKey(string(line), revoked); key != "" {
			return nil, fmt.Errorf("line %d contains %.60s, which has no effect there: put it on a line of its own, "+
				"or delete it", n, key)
		}
	}
	return r, nil
}

// otherKey returns a key or fingerprint in line that is not among the given fingerprints, or "". The only key of a
// line that is not a comment is its own.
func otherKey(line string, known map[string]bool) string {
	found := keysIn(line)
	if len(found) == 1 && !isComment([]byte(line)) {
		return ""
	}
	for _, text := range found {
		if print, ok := parseKeyText(text); !ok || !known[print] {
			return text
		}
	}
	return ""
}

// addLine adds what one line revokes, and returns its fingerprint.
func (r *revocations) addLine(line string) (print string, err error) {
	print = strings.Fields(line)[0]
	if strings.HasPrefix(print, "SHA256:") {
		sum, err := base64.RawStdEncoding.Strict().DecodeString(print[len("SHA256:"):])
		if err != nil || len(sum) != sha256.Size {
			return "", errors.New("is not a SHA256: fingerprint")
		}
		r.sums[string(sum)] = true
		return print, nil
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 {
		return "", errors.New("is neither a public key nor a SHA256: fingerprint")
	}
	r.blobs[string(plainKey(key).Marshal())] = true
	return fingerprint(key), nil
}

const krlMagic = "SSHKRL\n\x00"

var errKRL = errors.New("it is truncated")

// krlReader consumes fields in SSH's encoding from the front of data. Once data is too short, failed is set and every
// further field is zero.
type krlReader struct {
	data   []byte
	failed bool
}

func (k *krlReader) take(n uint64) []byte {
	if k.failed || n > uint64(len(k.data)) {
		k.failed, k.data = true, nil
		return nil
	}
	out := k.data[:n]
	k.data = k.data[n:]
	return out
}

func (k *krlReader) uint8() byte {
	if b := k.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (k *krlReader) uint32() uint32 {
	if b := k.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (k *krlReader) uint64() uint64 {
	if b := k.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (k *krlReader) string() []byte { return k.take(uint64(k.uint32())) }

// parseKRL parses what follows the magic:
//
//	format 4 = 1 ‖ version 8 ‖ date 8 ‖ flags 8 ‖ reserved string ‖ comment string ‖ sections (type 1 ‖ data string)
//
// An unknown section is an error. So is a signature section, which OpenSSH no longer writes.
func (r *revocations) parseKRL(data []byte) error {
	k := &krlReader{data: data}
	if format := k.uint32(); format != 1 {
		return fmt.Errorf("format %d", format)
	}
	k.take(8 + 8 + 8)
	k.string()
	k.string()
	for len(k.data) > 0 && !k.failed {
		kind, body := k.uint8(), &krlReader{data: k.string()}
		if k.failed {
			return errKRL
		}
		if kind == 1 {
			c := revokedCerts{ca: string(body.string()), ids: make(map[string]bool)}
			if _, err := ssh.ParsePublicKey([]byte(c.ca)); err != nil && c.ca != "" {
				return fmt.Errorf("a CA: %w", err)
			}
			body.string()
			if err := c.parse(body); err != nil {
				return err
			}
			r.certs = append(r.certs, c)
			continue
		}
		if kind == 255 {
			if err := body.extension(); err != nil {
				return err
			}
			continue
		}
		size, known := map[byte]int{2: 0, 3: sha1.Size, 5: sha256.Size}[kind]
		if !known {
			return fmt.Errorf("section %d", kind)
		}
		for len(body.data) > 0 {
			item := string(body.string())
			switch {
			case size == 0:
				key, err := ssh.ParsePublicKey([]byte(item))
				if err != nil {
					return fmt.Errorf("a key: %w", err)
				}
				r.blobs[string(plainKey(key).Marshal())] = true // of a certificate, its key is revoked
			case len(item) == size:
				r.sums[item] = true
			default:
				return errKRL
			}
		}
		if body.failed {
			return errKRL
		}
	}
	if k.failed {
		return errKRL
	}
	return nil
}

// parse parses a certificate section after the CA's key: serial numbers (single, as ranges, as bitmaps) and key ids.
func (c *revokedCerts) parse(body *krlReader) error {
	for len(body.data) > 0 {
		kind, sub := body.uint8(), &krlReader{data: body.string()}
		for len(sub.data) > 0 {
			switch kind {
			case 0x20:
				n := sub.uint64()
				c.ranges = append(c.ranges, [2]uint64{n, n})
			case 0x21:
				first, last := sub.uint64(), sub.uint64()
				if first > last && !sub.failed {
					return fmt.Errorf("a range of serial numbers that runs backwards, from %d to %d", first, last)
				}
				c.ranges = append(c.ranges, [2]uint64{first, last})
			case 0x22:
				c.bitmaps = append(c.bitmaps, serialBitmap{sub.uint64(), new(big.Int).SetBytes(sub.string())})
			case 0x23:
				c.ids[string(sub.string())] = true
			case 0x39:
				if err := sub.extension(); err != nil {
					return err
				}
			default:
				return fmt.Errorf("certificate section %#x", kind)
			}
		}
		if sub.failed {
			return errKRL
		}
	}
	if body.failed {
		return errKRL
	}
	return nil
}

// extension skips an extension. A critical extension is an error, because it must not be ignored.
func (k *krlReader) extension() error {
	name, critical := k.string(), k.uint8()
	k.string()
	if k.failed || len(k.data) > 0 {
		return errKRL
	}
	if critical != 0 {
		return fmt.Errorf("the extension %q", name)
	}
	return nil
}
