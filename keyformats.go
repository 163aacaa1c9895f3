package main

// Public keys as text, and the file formats of keys: finding the private key in a file that other programs have
// written, reading public keys of other formats, and naming the command that converts what cannot be read.

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// plainKey returns a certificate's key, or pub itself if it is not a certificate.
func plainKey(pub ssh.PublicKey) ssh.PublicKey {
	if cert, ok := pub.(*ssh.Certificate); ok {
		return cert.Key
	}
	return pub
}

// sameKey compares two keys, and certificates by the keys in them.
func sameKey(a, b ssh.PublicKey) bool {
	return a != nil && b != nil && bytes.Equal(plainKey(a).Marshal(), plainKey(b).Marshal())
}

// publicLine returns a line for authorized_keys, with a newline at its end.
func publicLine(id ssh.PublicKey, comment string) string {
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(plainKey(id))), "\n")
	if comment != "" {
		line += " " + comment
	}
	return line + "\n"
}

// fingerprint returns a key's fingerprint as ssh-keygen -lf prints it, and for a certificate that of its key.
func fingerprint(id ssh.PublicKey) string { return ssh.FingerprintSHA256(plainKey(id)) }

// keysIn returns the text of each fingerprint and of each public key in base64 that text contains, wherever it
// stands. It also returns damaged ones, unless much of them is missing.
func keysIn(text string) []string {
	const shortest = 40 // a fingerprint has 50 characters, the shortest key 68
	var found []string
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return !isKeyRune(r) }) {
		at := strings.Index(word, "SHA256:")
		if at < 0 {
			at = strings.Index(word, "AAAA")
		}
		if at >= 0 && len(word)-at >= shortest {
			found = append(found, word[at:])
		}
	}
	return found
}

// isKeyRune reports whether r can be part of a fingerprint or of base64.
func isKeyRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("+/=:", r)
}

// parseKeyText returns the fingerprint of a key that keysIn has found.
func parseKeyText(text string) (print string, ok bool) {
	if strings.HasPrefix(text, "SHA256:") {
		return text, true
	}
	blob, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", false
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return "", false
	}
	return fingerprint(key), true
}

// publicKeys returns the public keys in a file: of a private key, also an encrypted one, or of public key lines.
func publicKeys(data []byte) (found []ssh.PublicKey) {
	key, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		found = append(found, key.PublicKey())
	case errors.As(err, &locked) && locked.PublicKey != nil:
		found = append(found, locked.PublicKey)
	}
	for _, line := range textLines(data) {
		if pub, _, _, _, err := ssh.ParseAuthorizedKey(line); err == nil {
			found = append(found, pub)
		}
	}
	return found
}

// privateBlock returns the PEM block of the only private key in data, without EC parameters, certificates, public
// keys and text around it. It returns nil if there is no private key.
func privateBlock(path string, data []byte) (*pem.Block, error) {
	var found *pem.Block
	for block, rest := pem.Decode(withoutMark(data)); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%s contains more than one private key: give a file with one", path)
		}
		found = block
	}
	return found, nil
}

// withoutMark removes a byte order mark from the start of text.
func withoutMark(text []byte) []byte { return bytes.TrimPrefix(text, []byte(byteOrderMark)) }

// opensshMagic begins the contents of an OPENSSH PRIVATE KEY block.
const opensshMagic = "openssh-key-v1\x00"

// opensshHeader is what an OPENSSH PRIVATE KEY block has in clear.
type opensshHeader struct {
	Cipher, KDF, KDFOptions string
	Keys                    uint32
	PublicKey               []byte
	Rest                    []byte `ssh:"rest"`
}

// checkPrivateFormat returns an error for a private key that is of no use here, with the command that converts it. It
// needs no passphrase, so a user is not asked for one in vain.
func checkPrivateFormat(path string, block *pem.Block) error {
	file := shellQuote(path)
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return fmt.Errorf("%s is encrypted PKCS#8, which is not supported: convert it with ssh-keygen -p -f %s",
			path, file)
	case block.Type == "OPENSSH PRIVATE KEY":
		var h opensshHeader
		inside, ok := bytes.CutPrefix(block.Bytes, []byte(opensshMagic))
		if !ok || ssh.Unmarshal(inside, &h) != nil {
			return fmt.Errorf("%s is damaged: it is not a complete OpenSSH private key", path)
		}
		if key, err := ssh.ParsePublicKey(h.PublicKey); err == nil && strings.HasPrefix(key.Type(), "sk-") {
			return fmt.Errorf("%s belongs to a security key, which only ssh-agent can use: run ssh-add %s, "+
				"then give the public key, -identity %s.pub", path, file, file)
		}
		if !slices.Contains([]string{"none", "aes256-ctr", "aes256-cbc"}, h.Cipher) ||
			!slices.Contains([]string{"none", "bcrypt"}, h.KDF) {
			return fmt.Errorf("%s is encrypted with %.30q, which is not supported: "+
				"convert it with ssh-keygen -p -Z aes256-ctr -f %s", path, h.Cipher, file)
		}
	case strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		cipher, _, _ := strings.Cut(block.Headers["DEK-Info"], ",")
		if !slices.Contains([]string{"DES-CBC", "DES-EDE3-CBC", "AES-128-CBC", "AES-192-CBC", "AES-256-CBC"}, cipher) {
			return fmt.Errorf("%s is encrypted with %.30q, which is not supported: convert it with ssh-keygen -p -f %s",
				path, cipher, file)
		}
	}
	return nil
}

// parsePrivateBlock parses a private key that is not encrypted. If it is, the error is an *ssh.PassphraseMissingError.
func parsePrivateBlock(block *pem.Block) (any, error) {
	text := pem.EncodeToMemory(block)
	defer clear(text)
	raw, err := ssh.ParseRawPrivateKey(text)
	if err == nil || errors.As(err, new(*ssh.PassphraseMissingError)) {
		return raw, err
	}
	if key, ok := parseExplicitEC(block); ok {
		return key, nil
	}
	return nil, err
}

// decryptPrivateBlock decrypts and parses a private key of a format that checkPrivateFormat accepts. The error is
// x509.IncorrectPasswordError for a wrong passphrase.
func decryptPrivateBlock(block *pem.Block, passphrase []byte) (any, error) {
	if block.Type == "OPENSSH PRIVATE KEY" {
		text := pem.EncodeToMemory(block)
		defer clear(text)
		return ssh.ParseRawPrivateKeyWithPassphrase(text, passphrase)
	}
	//lint:ignore SA1019 The format is weak, and people have such keys.
	der, err := x509.DecryptPEMBlock(block, passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	raw, err := parsePrivateBlock(&pem.Block{Type: block.Type, Bytes: der})
	if err != nil {
		return nil, x509.IncorrectPasswordError // one wrong passphrase in 256 leaves bytes that only fail here
	}
	return raw, nil
}

// ecPrivateKey is the structure of an EC PRIVATE KEY block (RFC 5915).
type ecPrivateKey struct {
	Version    int
	PrivateKey []byte
	Parameters asn1.RawValue  `asn1:"optional,explicit,tag:0"`
	PublicKey  asn1.BitString `asn1:"optional,explicit,tag:1"`
}

// pkcs8Key is the structure of a PRIVATE KEY block (RFC 5958).
type pkcs8Key struct {
	Version   int
	Algorithm struct {
		ID         asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	PrivateKey []byte
}

// explicitCurve is a curve that is described by its numbers and not by its name (RFC 3279, ECParameters).
type explicitCurve struct {
	Version int
	Field   struct {
		ID    asn1.ObjectIdentifier
		Prime *big.Int
	}
	Curve struct {
		A, B []byte
		Seed asn1.BitString `asn1:"optional"`
	}
	Base     []byte
	Order    *big.Int
	Cofactor *big.Int `asn1:"optional"`
}

// parseExplicitEC parses an ECDSA key with explicit curve parameters, which crypto/x509 does not, if they are those
// of P-256, P-384 or P-521.
func parseExplicitEC(block *pem.Block) (crypto.Signer, bool) {
	der, parameters := block.Bytes, []byte(nil)
	if block.Type == "PRIVATE KEY" {
		var outer pkcs8Key
		if _, err := asn1.Unmarshal(der, &outer); err != nil {
			return nil, false
		}
		der, parameters = outer.PrivateKey, outer.Algorithm.Parameters.FullBytes
	}
	var inner ecPrivateKey
	if _, err := asn1.Unmarshal(der, &inner); err != nil {
		return nil, false
	}
	if block.Type == "EC PRIVATE KEY" {
		parameters = inner.Parameters.Bytes // without the explicit tag
	}
	curve := curveOf(parameters)
	if curve == nil {
		return nil, false
	}
	secret := inner.PrivateKey
	if size := (curve.Params().BitSize + 7) / 8; len(secret) < size {
		secret = append(make([]byte, size-len(secret)), secret...)
	}
	key, err := ecdsa.ParseRawPrivateKey(curve, secret)
	return key, err == nil
}

// curveOf returns P-256, P-384 or P-521 for its name or its explicit parameters in DER, or nil for any other curve.
func curveOf(parameters []byte) elliptic.Curve {
	var name asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(parameters, &name); err == nil {
		return map[string]elliptic.Curve{
			"1.2.840.10045.3.1.7": elliptic.P256(), "1.3.132.0.34": elliptic.P384(), "1.3.132.0.35": elliptic.P521(),
		}[name.String()]
	}
	var c explicitCurve
	if _, err := asn1.Unmarshal(parameters, &c); err != nil {
		return nil
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		if c.is(curve.Params()) {
			return curve
		}
	}
	return nil
}

// is reports whether the numbers are those of a named curve.
func (c *explicitCurve) is(p *elliptic.CurveParams) bool {
	size := (p.BitSize + 7) / 8
	x := p.Gx.FillBytes(make([]byte, size))
	y := p.Gy.FillBytes(make([]byte, size))
	plain := slices.Concat([]byte{4}, x, y)
	compressed := append([]byte{2 + y[size-1]&1}, x...)
	hybrid := slices.Concat([]byte{6 + y[size-1]&1}, x, y)
	a := new(big.Int).Sub(p.P, big.NewInt(3))
	return c.Field.Prime != nil && c.Order != nil && c.Field.Prime.Cmp(p.P) == 0 && c.Order.Cmp(p.N) == 0 &&
		new(big.Int).SetBytes(c.Curve.A).Cmp(a) == 0 && new(big.Int).SetBytes(c.Curve.B).Cmp(p.B) == 0 &&
		(bytes.Equal(c.Base, plain) || bytes.Equal(c.Base, compressed) || bytes.Equal(c.Base, hybrid))
}

// errMoreThanOne is the error for several public keys.
var errMoreThanOne = errors.New("that is more than one line: give one public key at a time")

// importPublic converts a public key in SSH2's format (RFC 4716) or in PEM to a public key line. It returns text
// itself if it is in neither format.
func importPublic(text []byte) ([]byte, error) {
	text = withoutMark(text)
	if block, rest := pem.Decode(text); block != nil && strings.HasSuffix(block.Type, "PUBLIC KEY") {
		if len(bytes.TrimSpace(rest)) > 0 {
			return nil, errMoreThanOne
		}
		key, err := parsePEMPublic(block)
		if err != nil {
			return nil, errors.New("the PEM public key is damaged or of an unknown type")
		}
		return []byte(publicLine(key, "")), nil
	}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte(ssh2Begin)) {
		key, comment, err := parseSSH2Public(string(text))
		if err != nil {
			return nil, fmt.Errorf("the SSH2 public key is damaged: %w", err)
		}
		return []byte(publicLine(key, comment)), nil
	}
	return text, nil
}

// parsePEMPublic parses a PUBLIC KEY or RSA PUBLIC KEY block.
func parsePEMPublic(block *pem.Block) (ssh.PublicKey, error) {
	var key any
	var err error
	if block.Type == "RSA PUBLIC KEY" {
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	} else {
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	if ec, ok := parseECPublic(block.Bytes); err != nil && ok {
		key, err = ec, nil
	}
	if err != nil {
		return nil, err
	}
	return ssh.NewPublicKey(key)
}

// parseECPublic parses an ECDSA key in a form that crypto/x509 does not: with explicit curve parameters, or with a
// compressed or hybrid point.
func parseECPublic(der []byte) (*ecdsa.PublicKey, bool) {
	var outer struct {
		Algorithm struct {
			ID         asn1.ObjectIdentifier
			Parameters asn1.RawValue
		}
		Point asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, false
	}
	curve, point := curveOf(outer.Algorithm.Parameters.FullBytes), outer.Point.RightAlign()
	if curve == nil {
		return nil, false
	}
	size := (curve.Params().BitSize + 7) / 8
	if x, y := elliptic.UnmarshalCompressed(curve, point); x != nil {
		point = slices.Concat([]byte{4}, x.FillBytes(make([]byte, size)), y.FillBytes(make([]byte, size)))
	}
	if n := len(point); n == 1+2*size && point[0] == 6|point[n-1]&1 { // the hybrid form repeats y's lowest bit
		point[0] = 4
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	return key, err == nil
}

const (
	ssh2Begin = "---- BEGIN SSH2 PUBLIC KEY ----"
	ssh2End   = "---- END SSH2 PUBLIC KEY ----"
)

// parseSSH2Public parses a public key in SSH2's format, and returns it with its comment.
func parseSSH2Public(text string) (key ssh.PublicKey, comment string, err error) {
	_, body, _ := strings.Cut(text, ssh2Begin)
	body, rest, ended := strings.Cut(body, ssh2End)
	if !ended || strings.TrimSpace(rest) != "" {
		return nil, "", errors.New("its last line must be " + ssh2End)
	}
	body = strings.ReplaceAll(strings.ReplaceAll(body, "\r", ""), "\\\n", "") // a header goes on after a backslash
	var blob strings.Builder
	for line := range strings.Lines(body) {
		name, value, isHeader := strings.Cut(line, ":")
		switch {
		case !isHeader:
			blob.WriteString(strings.TrimSpace(line))
		case strings.EqualFold(name, "Comment"):
			comment = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	wire, err := base64.StdEncoding.DecodeString(blob.String())
	if err != nil {
		return nil, "", err
	}
	key, err = ssh.ParsePublicKey(wire)
	return key, comment, err
}

// explainKeyFile describes a file that is neither a private key nor a public key line, with the command that converts
// it. It returns "" for a file in an unknown format. name is the file's name for a shell.
func explainKeyFile(name string, data []byte) string {
	text := string(bytes.TrimSpace(withoutMark(data)))
	block, _ := pem.Decode([]byte(text))
	switch {
	case isUTF16(data):
		return "UTF-16 text: save it as UTF-8"
	case isPuTTY(data):
		return fmt.Sprintf("a PuTTY key: convert it with puttygen %s -O private-openssh -o NEWFILE", name)
	case isDropbear(data):
		return fmt.Sprintf("a dropbear key: convert it with dropbearconvert dropbear openssh %s NEWFILE", name)
	case strings.HasPrefix(text, "---- BEGIN SSH2 "):
		return fmt.Sprintf("an SSH2 key: convert it with ssh-keygen -i -f %s > NEWFILE", name)
	case block != nil && block.Type == "PUBLIC KEY":
		return fmt.Sprintf("a PEM public key: convert it with ssh-keygen -i -m PKCS8 -f %s > NEWFILE", name)
	case block != nil && block.Type == "RSA PUBLIC KEY":
		return fmt.Sprintf("a PEM public key: convert it with ssh-keygen -i -m PEM -f %s > NEWFILE", name)
	case isBrokenLine(text, lineBreaks.Replace(text)):
		return fmt.Sprintf(
			"a public key that is broken over several lines: convert it with tr -d '\\r\\n' < %s > NEWFILE", name)
	case isBrokenLine(text, joinKey(text)):
		return "a public key that is broken over several lines: write its type, its base64 text and its name on one line"
	}
	return ""
}

// isPuTTY reports whether data is a private key of PuTTY.
func isPuTTY(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(withoutMark(data)), []byte("PuTTY-User-Key-File-"))
}

// isDropbear reports whether data is a private key of dropbear: SSH's wire form, which begins with the type's length.
func isDropbear(data []byte) bool {
	if len(data) < 8 {
		return false
	}
	n := binary.BigEndian.Uint32(data)
	return n < 40 && (bytes.HasPrefix(data[4:], []byte("ssh-")) || bytes.HasPrefix(data[4:], []byte("ecdsa-")))
}

// lineBreaks removes line breaks.
var lineBreaks = strings.NewReplacer("\r", "", "\n", "")

// joinKey returns a public key whose type and base64 text are broken anywhere on one line, without its name. It returns
// "" if text has none.
func joinKey(text string) string {
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return ""
	}
	joined := fields[0] + " "
	for _, part := range fields[1:] {
		joined += part
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(joined)); err == nil {
			return joined
		}
	}
	return ""
}

// isBrokenLine reports whether text has several lines, of which the first is no public key line, and joined is one.
func isBrokenLine(text, joined string) bool {
	if !strings.ContainsAny(text, "\r\n") {
		return false
	}
	first, _, _ := strings.Cut(text, "\n")
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(first)); err == nil {
		return false
	}
	_, _, _, _, err := ssh.ParseAuthorizedKey([]byte(joined))
	return err == nil
}
