package main

// The keys of one machine: making, reading and using them (DESIGN.md sections 3 and 5).
//
// State lives in one folder, 0700, whose files are 0600 and in OpenSSH's formats. Rules kept here:
//
//   - nothing is ever overwritten: a key is made under the folder's lock, only where there is none, and gets its name
//     once it is whole on disk;
//   - a private key that others can read is refused, not used with a warning;
//   - a passphrase comes from a prompt, a file or a systemd credential, never from argv or the environment;
//   - no signature is made or believed with SHA-1, and no RSA key under 2048 bits serves for anything.

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const (
	minRSABits = 2048
	maxRSABits = 4096

	maxSignature = 1 << 10          // bytes; RSA-4096 takes 512
	agentWait    = 15 * time.Second // for ssh-agent, whose user may have to touch a token; under a handshake's deadline
	keyTick      = 5 * time.Second  // between words that a key is still being made
	skRest       = 5                // bytes that a security key adds to a signature: flags 1 ‖ counter 4
)

// keys are what one machine proves itself with.
type keys struct {
	signer     ssh.Signer      // the identity; its PublicKey is an *ssh.Certificate when one lies beside it
	encryption *rsa.PrivateKey // only ever for RSA-CBC
	comment    string          // of identity.pub
}

// keyOptions say where the keys are and, on first run, what to make.
type keyOptions struct {
	dir            string
	typ            string                                // of a new identity: "ed25519" (or ""), "rsa", "ecdsa"
	bits           int                                   // of a new RSA key; 0 = 2048, for an RSA identity 3072
	comment        string                                // of a new identity; "" = user-host
	identity       string                                // path of another identity; "" = dir/identity
	passphraseFile string                                // "" = $CREDENTIALS_DIRECTORY/passphrase, if there
	prompt         func(question string) ([]byte, error) // nil: no terminal
	notify         func(format string, a ...any)         // says what was made; nil: silence
}

// loadKeys reads the keys and makes those that are missing. Two processes that start at once in one folder end with the
// same keys.
func loadKeys(o keyOptions) (*keys, error) {
	if o.notify == nil {
		o.notify = func(string, ...any) {}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := makeFolder(o.dir); err != nil {
		return nil, err
	}
	path := o.identity
	if path == "" {
		path = filepath.Join(o.dir, "identity")
		if err := o.makeIdentity(path); err != nil {
			return nil, err
		}
	}
	signer, err := o.loadIdentity(path)
	if err != nil {
		return nil, err
	}
	if err := checkIdentityKey(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k := &keys{}
	base := strings.TrimSuffix(path, ".pub")
	if k.comment, err = o.loadComment(base+".pub", signer.PublicKey()); err != nil {
		return nil, err
	}
	if k.signer, err = o.withCertificate(base+"-cert.pub", signer); err != nil {
		return nil, err
	}
	if k.encryption, err = o.loadEncryption(filepath.Join(o.dir, "encryption")); err != nil {
		return nil, err
	}
	if bytes.Equal(marshalEncryptionKey(&k.encryption.PublicKey), plainKey(signer.PublicKey()).Marshal()) {
		return nil, fmt.Errorf("%s and the encryption key in %s are one key: they must differ, so move one of them away", path, o.dir)
	}
	return k, nil
}

// fingerprint is the identity's as ssh-keygen -lf shows it; a certificate's is that of its key.
func (k *keys) fingerprint() string { return ssh.FingerprintSHA256(plainKey(k.signer.PublicKey())) }

// check refuses options that no key can be made with.
func (o *keyOptions) check() error {
	switch o.typ {
	case "", "ed25519", "rsa", "ecdsa":
	default:
		return fmt.Errorf("no key type %q: ed25519, rsa and ecdsa are known", o.typ)
	}
	if o.bits != 0 && (o.bits < minRSABits || o.bits > maxRSABits || o.bits%8 != 0) {
		return fmt.Errorf("an RSA key of %d bits: %d to %d, in steps of 8, are taken", o.bits, minRSABits, maxRSABits)
	}
	if strings.ContainsFunc(o.comment, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(o.comment) > 256 {
		return errors.New("a key's comment is one line of at most 256 bytes without control characters")
	}
	if o.comment == "" {
		host, _ := os.Hostname() // a name to offer, no more: unknown is left out
		name := os.Getenv("USER")
		if u, err := user.Current(); err == nil {
			name = u.Username[strings.LastIndexByte(u.Username, '\\')+1:]
		}
		o.comment = cleanName(strings.Trim(name+"@"+host, "@"))
		if o.comment == "" {
			o.comment = "securechat"
		}
	}
	return nil
}

// makeRSA makes an RSA key, which takes a small machine a while, and shows that it is still at it.
func (o *keyOptions) makeRSA(what string, bits int) (key *rsa.PrivateKey, err error) {
	o.notify("making an RSA-%d %s; a small machine may need a minute", bits, what)
	made := make(chan struct{})
	go func() {
		defer close(made)
		key, err = rsa.GenerateKey(rand.Reader, bits)
	}()
	tick := time.NewTicker(keyTick)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case <-made:
			return key, err
		case <-tick.C:
			o.notify("still making it, for %d seconds now", int(time.Since(began).Seconds()))
		}
	}
}

// makeIdentity makes path and path.pub unless one of them is there: a public key alone stands for a key in ssh-agent.
func (o *keyOptions) makeIdentity(path string) error {
	if exists(path) || exists(path+".pub") {
		return nil
	}
	bits := o.bits
	if bits == 0 {
		bits = 3072
	}
	var key crypto.Signer
	var err error
	switch o.typ {
	case "rsa":
		key, err = o.makeRSA("identity", bits)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return fmt.Errorf("make an identity: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, o.comment)
	if err != nil {
		return fmt.Errorf("make an identity: %w", err)
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("make an identity: %w", err)
	}
	return o.makeFile(path, pem.EncodeToMemory(block), func() {
		o.notify("made an identity: %s (%s)", path, ssh.FingerprintSHA256(pub))
	})
}

// makeFile writes a file that must not exist yet; if another process was first its file stands.
func (o *keyOptions) makeFile(path string, data []byte, made func()) error {
	defer clear(data)
	return withLock(o.dir, func() error {
		if exists(path) {
			return nil
		}
		if err := writeFile(path, data); err != nil {
			return err
		}
		made()
		return nil
	})
}

// loadIdentity returns the signer that path names: a private key, or a public key whose private half ssh-agent holds.
func (o *keyOptions) loadIdentity(path string) (ssh.Signer, error) {
	if !exists(path) && exists(path+".pub") {
		path += ".pub"
	}
	data, mode, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("the identity: %w", err)
	}
	defer clear(data)
	if pub, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
		return newAgentSigner(plainKey(pub), path)
	}
	raw, err := o.parsePrivate(path, data, mode)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return signer, nil
}

// loadComment reads the comment of a .pub file. In our own folder it makes the file, if a crash or a user left none.
func (o *keyOptions) loadComment(path string, pub ssh.PublicKey) (string, error) {
	if !exists(path) {
		if o.identity != "" {
			return o.comment, nil
		}
		line := bytes.TrimSpace(ssh.MarshalAuthorizedKey(pub))
		return o.comment, o.makeFile(path, fmt.Appendf(line, " %s\n", o.comment), func() {})
	}
	data, _, err := readFile(path, maxKeyFile)
	if err != nil {
		return "", err
	}
	listed, comment, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return "", fmt.Errorf("%s holds no public key: %w", path, err)
	}
	if !sameKey(listed, pub) {
		return "", fmt.Errorf("%s does not belong to the private key beside it: replace it by the output of ssh-keygen -y", path)
	}
	return comment, nil
}

// withCertificate puts the certificate at path, if there is one, in front of the signer. One for another key is no use
// to anybody, and said.
func (o *keyOptions) withCertificate(path string, signer ssh.Signer) (ssh.Signer, error) {
	if !exists(path) {
		return signer, nil
	}
	data, _, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s holds no certificate: %w", path, err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s holds a bare key, no certificate: sign it with ssh-keygen -s", path)
	}
	if !sameKey(cert, signer.PublicKey()) {
		o.notify("%s is not used: it certifies another key than the identity", path)
		return signer, nil
	}
	return ssh.NewCertSigner(cert, signer)
}

// loadEncryption reads the RSA key for RSA-CBC, or makes it.
func (o *keyOptions) loadEncryption(path string) (*rsa.PrivateKey, error) {
	if !exists(path) {
		bits := o.bits
		if bits == 0 {
			bits = minRSABits
		}
		key, err := o.makeRSA("encryption key", bits)
		if err != nil {
			return nil, fmt.Errorf("make an encryption key: %w", err)
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return nil, fmt.Errorf("make an encryption key: %w", err)
		}
		if err := o.makeFile(path, pem.EncodeToMemory(block), func() { o.notify("made an encryption key: %s", path) }); err != nil {
			return nil, err
		}
	}
	data, mode, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("the encryption key: %w", err)
	}
	defer clear(data)
	raw, err := o.parsePrivate(path, data, mode)
	if err != nil {
		return nil, err
	}
	key, ok := raw.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is no RSA key: move it away and a new one is made", path)
	}
	if err := checkEncryptionKey(&key.PublicKey); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// parsePrivate parses a private key and asks for its passphrase if it has one.
func (o *keyOptions) parsePrivate(path string, data []byte, mode fs.FileMode) (any, error) {
	if err := checkPrivate(path, mode); err != nil {
		return nil, err
	}
	raw, err := ssh.ParseRawPrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if err != nil && !errors.As(err, &locked) {
		if bytes.Contains(data, []byte("BEGIN ENCRYPTED PRIVATE KEY")) {
			return nil, fmt.Errorf("%s: encrypted PKCS#8 is not read: convert it with ssh-keygen -p -f %s", path, path)
		}
		return nil, fmt.Errorf("%s is no private key that securechat reads: %w", path, err)
	}
	if err == nil {
		return raw, nil
	}
	file := o.passphraseFile
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); file == "" && dir != "" && exists(filepath.Join(dir, "passphrase")) {
		file = filepath.Join(dir, "passphrase") // systemd guards it by its own rules, which may show as group-readable
	}
	if file != "" {
		pass, mode, err := readFile(file, maxKeyFile)
		if err != nil {
			return nil, fmt.Errorf("the passphrase: %w", err)
		}
		defer clear(pass)
		if o.passphraseFile != "" {
			if err := checkPrivate(file, mode); err != nil {
				return nil, err
			}
		}
		if raw, err = ssh.ParseRawPrivateKeyWithPassphrase(data, bytes.TrimRight(pass, "\r\n")); err != nil {
			return nil, fmt.Errorf("the passphrase in %s does not open %s: %w", file, path, err)
		}
		return raw, nil
	}
	if o.prompt == nil {
		return nil, fmt.Errorf("%s has a passphrase and there is no terminal to ask on: give a passphrase file, a systemd credential named passphrase, or use ssh-agent", path)
	}
	for range 3 {
		pass, err := o.prompt(fmt.Sprintf("Passphrase for %s: ", path))
		if err != nil {
			return nil, fmt.Errorf("the passphrase for %s: %w", path, err)
		}
		raw, err = ssh.ParseRawPrivateKeyWithPassphrase(data, pass)
		clear(pass)
		if err == nil {
			return raw, nil
		}
		if !errors.Is(err, x509.IncorrectPasswordError) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil, fmt.Errorf("three passphrases did not open %s", path)
}

// plainKey is the key itself, or the one a certificate certifies.
func plainKey(pub ssh.PublicKey) ssh.PublicKey {
	if cert, ok := pub.(*ssh.Certificate); ok {
		return cert.Key
	}
	return pub
}

// sameKey compares two keys, certificates by the key in them.
func sameKey(a, b ssh.PublicKey) bool {
	return a != nil && b != nil && bytes.Equal(plainKey(a).Marshal(), plainKey(b).Marshal())
}

// checkIdentityKey says whether a key is of a type and strength that we take from anyone. Of a certificate both its key
// and its CA's are looked at. It comes before any arithmetic with the key.
func checkIdentityKey(pub ssh.PublicKey) error {
	if cert, ok := pub.(*ssh.Certificate); ok {
		if err := checkIdentityKey(cert.SignatureKey); err != nil {
			return fmt.Errorf("the certificate's CA: %w", err)
		}
		pub = cert.Key
	}
	switch pub.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		if c, ok := pub.(ssh.CryptoPublicKey); ok {
			if key, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
				return checkRSA(key)
			}
		}
	}
	return fmt.Errorf("a key of type %q is not taken: Ed25519, ECDSA and RSA of %d to %d bits are", pub.Type(), minRSABits, maxRSABits)
}

// checkRSA bounds modulus and exponent.
func checkRSA(key *rsa.PublicKey) error {
	if bits := key.N.BitLen(); key.N.Sign() <= 0 || bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits is not taken: %d to %d are", bits, minRSABits, maxRSABits)
	}
	if key.N.Bit(0) == 0 {
		return errors.New("an RSA key with an even modulus is broken")
	}
	if key.E < 65537 || key.E >= 1<<31-1 || key.E%2 == 0 {
		return errors.New("an RSA key's exponent must be odd and at least 65537")
	}
	return nil
}

// checkEncryptionKey is checkRSA with the one exponent that RSA-CBC takes.
func checkEncryptionKey(key *rsa.PublicKey) error {
	if err := checkRSA(key); err != nil {
		return err
	}
	if key.E != 65537 {
		return errors.New("an encryption key's exponent must be 65537")
	}
	return nil
}

// parseEncryptionKey reads a peer's encryption key: SSH's wire form of an RSA key, in its one canonical encoding.
func parseEncryptionKey(wire []byte) (*rsa.PublicKey, error) {
	if len(wire) > 1<<10 {
		return nil, errors.New("an encryption key is too long")
	}
	pub, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, fmt.Errorf("an encryption key: %w", err)
	}
	c, ok := pub.(ssh.CryptoPublicKey)
	if !ok || pub.Type() != ssh.KeyAlgoRSA {
		return nil, errors.New("an encryption key is not RSA")
	}
	key, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("an encryption key is not RSA")
	}
	if err := checkEncryptionKey(key); err != nil {
		return nil, err
	}
	if !bytes.Equal(pub.Marshal(), wire) {
		return nil, errors.New("an encryption key is not in its canonical encoding")
	}
	return key, nil
}

// marshalEncryptionKey is parseEncryptionKey's inverse.
func marshalEncryptionKey(key *rsa.PublicKey) []byte {
	pub, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil // unreachable: every RSA key has a wire form
	}
	return pub.Marshal()
}

// signatureFormat is the one format we make and take for a key: for RSA not its type, whose hash is SHA-1.
func signatureFormat(pub ssh.PublicKey) string {
	if t := plainKey(pub).Type(); t != ssh.KeyAlgoRSA {
		return t
	}
	return ssh.KeyAlgoRSASHA512
}

// signData signs and returns the signature without SSH's envelope: Ed25519's 64 bytes; RSA PKCS#1 v1.5 with SHA-512, as
// long as the modulus; ECDSA r ‖ s as two SSH integers. A security key's flags and counter follow its signature.
func signData(s ssh.Signer, data []byte) ([]byte, error) {
	want := signatureFormat(s.PublicKey())
	var sig *ssh.Signature
	var err error
	if a, ok := s.(ssh.AlgorithmSigner); ok {
		sig, err = a.SignWithAlgorithm(rand.Reader, data, want)
	} else {
		sig, err = s.Sign(rand.Reader, data)
	}
	if err != nil {
		return nil, fmt.Errorf("sign with the identity: %w", err)
	}
	if sig.Format != want {
		return nil, fmt.Errorf("the identity signs as %q where %q is wanted: is the ssh-agent too old?", sig.Format, want)
	}
	out := append(bytes.Clone(sig.Blob), sig.Rest...)
	if len(out) > maxSignature {
		return nil, errors.New("the identity made a signature of no known length")
	}
	return out, nil
}

// verifyData checks what signData returned; a certificate's key verifies.
func verifyData(pub ssh.PublicKey, data, sig []byte) error {
	if err := checkIdentityKey(pub); err != nil {
		return err
	}
	if len(sig) > maxSignature {
		return errors.New("a signature is too long")
	}
	pub = plainKey(pub)
	s := &ssh.Signature{Format: signatureFormat(pub), Blob: sig}
	if strings.HasPrefix(pub.Type(), "sk-") {
		if len(sig) < skRest {
			return errors.New("a security key's signature is too short")
		}
		s.Blob, s.Rest = sig[:len(sig)-skRest], sig[len(sig)-skRest:]
	}
	return pub.Verify(data, s)
}

// agentSigner signs through ssh-agent, and dials for each signature: an agent that was restarted or that has lost the
// key spoils one handshake, not the process.
type agentSigner struct {
	socket string
	pub    ssh.PublicKey
}

// newAgentSigner checks that the agent at $SSH_AUTH_SOCK holds the key that the file at path shows.
func newAgentSigner(pub ssh.PublicKey, path string) (ssh.Signer, error) {
	s := &agentSigner{os.Getenv("SSH_AUTH_SOCK"), pub}
	if s.socket == "" {
		return nil, fmt.Errorf("%s is a public key, and there is no ssh-agent to sign with: start one ($SSH_AUTH_SOCK is empty) or put the private key there", path)
	}
	held := false
	err := s.dial(func(a agent.ExtendedAgent) error {
		list, err := a.List()
		for _, k := range list {
			held = held || bytes.Equal(k.Blob, pub.Marshal())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !held {
		return nil, fmt.Errorf("ssh-agent does not hold %s of %s: add it with ssh-add", ssh.FingerprintSHA256(pub), path)
	}
	return s, nil
}

func (s *agentSigner) dial(use func(agent.ExtendedAgent) error) error {
	conn, err := net.DialTimeout("unix", s.socket, agentWait)
	if err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(agentWait)); err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	if err := use(agent.NewClient(conn)); err != nil {
		return fmt.Errorf("ssh-agent: %w", err)
	}
	return nil
}

func (s *agentSigner) PublicKey() ssh.PublicKey { return s.pub }

func (s *agentSigner) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(r, data, signatureFormat(s.pub))
}

func (s *agentSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	var flags agent.SignatureFlags
	if algorithm == ssh.KeyAlgoRSASHA512 {
		flags = agent.SignatureFlagRsaSha512
	}
	err = s.dial(func(a agent.ExtendedAgent) (err error) {
		sig, err = a.SignWithFlags(s.pub, data, flags)
		return err
	})
	return sig, err
}

// keyName is the name for a key with this comment; with none to be had, key- and 8 hex digits of the key's SHA-256.
func keyName(comment string, pub ssh.PublicKey) string {
	if name := cleanName(comment); name != "" {
		return name
	}
	return "key-" + keyHex(pub, 8)
}

// nameSuffix is what tells two keys of one name apart: the XXXX of name~XXXX.
func nameSuffix(pub ssh.PublicKey) string { return keyHex(pub, 4) }

// keyHex returns the first n hex digits of the SHA-256 of a key, of a certificate's key.
func keyHex(pub ssh.PublicKey, n int) string {
	sum := sha256.Sum256(plainKey(pub).Marshal())
	return hex.EncodeToString(sum[:])[:n]
}

// publicLine is a line for authorized_keys, with its end.
func publicLine(id ssh.PublicKey, comment string) string {
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(plainKey(id))), "\n")
	if comment != "" {
		line += " " + comment
	}
	return line + "\n"
}

// fingerprint names a key to people: that of a certificate's key for a certificate.
func fingerprint(id ssh.PublicKey) string { return ssh.FingerprintSHA256(plainKey(id)) }

// certName names a certificate in the log. Its text is its holder's until the CA's signature is checked, hence quoted.
func certName(c *ssh.Certificate) string {
	return fmt.Sprintf("certificate %q serial %d", c.KeyId, c.Serial)
}
