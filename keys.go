package main

// The keys of one machine: generating, reading and using them. They are stored in the state folder, whose mode is
// 0700, in files with mode 0600 and in OpenSSH's formats. The rules:
//
//   - no key is ever overwritten: a key is generated under the folder's lock, only if the file does not exist, and
//     the file gets its name when all of it is on disk;
//   - a private key that other users can access is an error, not a warning;
//   - a passphrase comes from a prompt, a file or a systemd credential, never from the command line or the environment;
//   - signatures with SHA-1 are neither made nor accepted, and RSA keys of less than 2048 bits are not used at all.

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

	maxSignature = 1 << 10          // bytes; an RSA-4096 signature has 512
	agentWait    = 15 * time.Second // for ssh-agent, whose user may have to touch a token
	keyTick      = 5 * time.Second  // between progress messages while a key is generated
	skRest       = 5                // bytes that a security key appends to a signature: flags 1 ‖ counter 4
)

// keys are the private keys of one machine.
type keys struct {
	signer     ssh.Signer      // the identity; its PublicKey is an *ssh.Certificate if identity-cert.pub exists
	encryption *rsa.PrivateKey // used for RSA-CBC only
	comment    string          // the comment in identity.pub
	made       bool            // loadKeys has generated one of the two keys
}

// keyOptions says where the keys are and how to generate missing ones.
type keyOptions struct {
	dir            string
	typ            string                                // type of a new identity: "ed25519" (or ""), "rsa", "ecdsa"
	bits           int                                   // size of a new RSA key; 0 means 2048, or 3072 for an identity
	comment        string                                // comment of a new identity; "" means user@host
	identity       string                                // path of another identity; "" means dir/identity
	passphraseFile string                                // "" means $CREDENTIALS_DIRECTORY/passphrase if it exists
	prompt         func(question string) ([]byte, error) // asks for a passphrase; nil if there is no terminal
	notify, inform func(format string, a ...any)         // print a warning, and progress; nil discards them
	checkComment   func(comment string) error            // refuses the comment of a new identity; nil accepts all
}

// loadKeys reads the keys and generates missing ones. If two processes do so in the same folder at the same time,
// both get the same keys.
func loadKeys(o keyOptions) (*keys, error) {
	if o.notify == nil {
		o.notify = func(string, ...any) {}
	}
	if o.inform == nil {
		o.inform = func(string, ...any) {}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := makeFolder(o.dir); err != nil {
		return nil, err
	}
	path := o.identity
	var madeIdentity bool
	if path == "" {
		var err error
		path = filepath.Join(o.dir, "identity")
		madeIdentity, err = o.makeIdentity(path)
		if err != nil {
			return nil, err
		}
	}
	encryption := filepath.Join(o.dir, "encryption")
	signer, err := o.loadIdentity(path)
	if err != nil {
		return nil, err
	}
	if err := checkIdentityKey(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k := &keys{}
	base := strings.TrimSuffix(path, ".pub")
	k.comment, err = o.loadComment(base+".pub", signer.PublicKey())
	if err != nil {
		return nil, err
	}
	k.signer, err = o.withCertificate(base+"-cert.pub", signer)
	if err != nil {
		return nil, err
	}
	madeEncryption, err := o.makeEncryption(encryption)
	if err != nil {
		return nil, err
	}
	k.encryption, err = o.loadEncryption(encryption)
	if err != nil {
		return nil, err
	}
	k.made = madeIdentity || madeEncryption
	if o.identity != "" {
		if err := o.recordIdentity(signer.PublicKey()); err != nil {
			return nil, err
		}
	}
	if bytes.Equal(marshalEncryptionKey(&k.encryption.PublicKey), plainKey(signer.PublicKey()).Marshal()) {
		return nil, fmt.Errorf(
			"%s and the encryption key in %s are the same key, but they must differ: move one of them away",
			path, o.dir)
	}
	return k, nil
}

// fingerprint returns the identity's fingerprint as ssh-keygen -lf prints it.
func (k *keys) fingerprint() string { return fingerprint(k.signer.PublicKey()) }

// check returns an error for options that no key can be generated with. It fills in the comment if there is none.
func (o *keyOptions) check() error {
	switch o.typ {
	case "", "ed25519", "rsa", "ecdsa":
	default:
		return fmt.Errorf("unknown key type %q: use ed25519, rsa or ecdsa", o.typ)
	}
	if o.bits != 0 && (o.bits < minRSABits || o.bits > maxRSABits || o.bits%8 != 0) {
		return fmt.Errorf("an RSA key of %d bits: use %d to %d bits, in steps of 8", o.bits, minRSABits, maxRSABits)
	}
	if strings.ContainsFunc(o.comment, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(o.comment) > 256 {
		return errors.New("a key's comment must be one line of at most 256 bytes without control characters")
	}
	if o.comment == "" {
		host, _ := os.Hostname() // the comment is only a suggestion: an unknown host name is left out
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

// makeRSA generates an RSA key, and reports progress because a small machine needs some time for it.
func (o *keyOptions) makeRSA(what string, bits int) (key *rsa.PrivateKey, err error) {
	o.inform("generating an RSA-%d %s; a slow processor needs some minutes", bits, what)
	made := make(chan struct{})
	go func() { // ends when the key is made
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
			o.inform("still generating it after %d seconds; the time depends on chance", int(time.Since(began).Seconds()))
		}
	}
}

// makeIdentity generates an identity at path, unless path or path.pub exists. A public key alone stands for a key in
// ssh-agent.
func (o *keyOptions) makeIdentity(path string) (made bool, err error) {
	if exists(path) || exists(path+".pub") {
		return false, nil
	}
	if o.checkComment != nil {
		if err := o.checkComment(o.comment); err != nil {
			return false, err
		}
	}
	bits := o.bits
	if bits == 0 {
		bits = 3072
	}
	var key crypto.Signer
	switch o.typ {
	case "rsa":
		key, err = o.makeRSA("identity", bits)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return false, fmt.Errorf("generating an identity: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, o.comment)
	if err != nil {
		return false, fmt.Errorf("generating an identity: %w", err)
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return false, fmt.Errorf("generating an identity: %w", err)
	}
	made, err = o.makeFile(path, pem.EncodeToMemory(block))
	if made {
		o.inform("made an identity: %s (%s)", path, ssh.FingerprintSHA256(pub))
	}
	return made, err
}

// makeFile writes a new file. If another process has created the file already, makeFile keeps that one, and made is
// false.
func (o *keyOptions) makeFile(path string, data []byte) (made bool, err error) {
	defer clear(data)
	err = withLock(o.dir, func() error {
		if exists(path) {
			return nil
		}
		err := writeFile(path, data)
		made = err == nil
		return err
	})
	return made, err
}

// loadIdentity returns a signer for the file at path: a private key, or a public key whose private key is in ssh-agent.
func (o *keyOptions) loadIdentity(path string) (ssh.Signer, error) {
	if !exists(path) && exists(path+".pub") {
		path += ".pub"
	}
	data, info, err := readFile(path, maxKeyFile)
	if err != nil && o.identity != "" && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the identity: %w; without -identity the key is in %s", err, o.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the identity: %w", err)
	}
	defer clear(data)
	if block, err := privateBlock(path, data); err == nil && block == nil {
		if pub, _, _, _, err := ssh.ParseAuthorizedKey(withoutMark(data)); err == nil {
			return newAgentSigner(plainKey(pub), path)
		}
	}
	raw, err := o.parsePrivate(path, data, info)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return signer, nil
}

// loadComment returns the comment in the .pub file at path. In the state folder it creates a missing file, which a
// crash or a user can have left out, unless the folder is read-only.
func (o *keyOptions) loadComment(path string, pub ssh.PublicKey) (string, error) {
	if !exists(path) {
		if o.identity != "" {
			return o.comment, nil
		}
		_, err := o.makeFile(path, []byte(publicLine(pub, o.comment)))
		if isReadOnly(err) {
			err = nil // the file is only for people and other programs
		}
		return o.comment, err
	}
	data, _, err := readFile(path, maxKeyFile)
	if err != nil {
		return "", err
	}
	listed, comment, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return "", fmt.Errorf("%s is not a public key file: %w", path, err)
	}
	if !sameKey(listed, pub) {
		return "", fmt.Errorf(
			"%s does not belong to the private key next to it: replace it with the output of ssh-keygen -y", path)
	}
	return comment, nil
}

// usedIdentities is a file with the public keys that -identity has brought from elsewhere. With them, -paper can
// refuse a key that also serves the default protocol.
const usedIdentities = "used_identities"

// recordIdentity adds a key to usedIdentities.
func (o *keyOptions) recordIdentity(pub ssh.PublicKey) error {
	files := newStateFiles(o.dir, nil)
	line := strings.TrimSpace(publicLine(pub, ""))
	data, err := files.read(usedIdentities)
	if err != nil || bytes.Contains(data, []byte(line)) {
		return err
	}
	err = files.lock(func() error {
		_, err := files.appendLine(usedIdentities, line)
		return err
	})
	if isReadOnly(err) {
		o.notify("-paper cannot know that this identity serves the default protocol: %v", err)
		return nil
	}
	return err
}

// withCertificate returns a signer with the certificate at path, if that file exists. It reports and ignores a
// certificate for another key.
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
		return nil, fmt.Errorf("%s is not a certificate file: %w", path, err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s is a plain key and not a certificate: sign it with ssh-keygen -s", path)
	}
	if !sameKey(cert, signer.PublicKey()) {
		o.notify("%s is not used: it is a certificate for another key than the identity", path)
		return signer, nil
	}
	return ssh.NewCertSigner(cert, signer)
}

// makeEncryption generates the RSA key for RSA-CBC at path, unless path exists.
func (o *keyOptions) makeEncryption(path string) (made bool, err error) {
	if exists(path) {
		return false, nil
	}
	bits := o.bits
	if bits == 0 {
		bits = minRSABits
	}
	key, err := o.makeRSA("encryption key", bits)
	if err != nil {
		return false, fmt.Errorf("generating an encryption key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return false, fmt.Errorf("generating an encryption key: %w", err)
	}
	made, err = o.makeFile(path, pem.EncodeToMemory(block))
	if made {
		o.inform("made an encryption key: %s", path)
	}
	return made, err
}

// loadEncryption reads the RSA key for RSA-CBC.
func (o *keyOptions) loadEncryption(path string) (*rsa.PrivateKey, error) {
	data, info, err := readFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the encryption key: %w", err)
	}
	defer clear(data)
	raw, err := o.parsePrivate(path, data, info)
	if err != nil {
		return nil, err
	}
	key, ok := raw.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an RSA key: move it away, and the next start generates a new one", path)
	}
	if err := checkEncryptionKey(&key.PublicKey); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// parsePrivate parses the private key in data, and gets its passphrase from a file or the user if it has one.
func (o *keyOptions) parsePrivate(path string, data []byte, info fs.FileInfo) (any, error) {
	if err := checkPrivate(path, info); err != nil {
		return nil, err
	}
	block, err := privateBlock(path, data)
	if err != nil {
		return nil, err
	}
	if block == nil {
		if what := explainKeyFile(shellQuote(path), data); what != "" {
			return nil, fmt.Errorf("%s is %s", path, what)
		}
		return nil, fmt.Errorf("%s is not a private key in a known format; make one with securechat -keygen or ssh-keygen",
			path)
	}
	defer clear(block.Bytes)
	if err := checkPrivateFormat(path, block); err != nil {
		return nil, err
	}
	raw, err := parsePrivateBlock(block)
	switch {
	case err == nil:
		return raw, nil
	case errors.As(err, new(*ssh.PassphraseMissingError)):
		return o.unlock(path, block)
	}
	return nil, fmt.Errorf("%s is damaged, or a private key of an unknown type", path)
}

// errLocked is the error of a key whose passphrase, with no terminal to ask for it, is missing or wrong. A service
// manager need not start the program again.
type errLocked struct{ error }

// unlock decrypts a private key with a passphrase from a file or the user.
func (o *keyOptions) unlock(path string, block *pem.Block) (any, error) {
	file := o.passphraseFile
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); file == "" && dir != "" && exists(filepath.Join(dir, "passphrase")) {
		file = filepath.Join(dir, "passphrase") // systemd protects it, with a mode that can include the group
	}
	if file != "" {
		pass, info, err := readFile(file, maxKeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the passphrase: %w", err)
		}
		defer clear(pass)
		if o.passphraseFile != "" {
			if err := checkPrivate(file, info); err != nil {
				return nil, err
			}
		}
		raw, err := decryptPrivateBlock(block, bytes.TrimRight(pass, "\r\n"))
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, errLocked{fmt.Errorf("wrong passphrase: the one in %s does not open %s", file, path)}
		}
		if err != nil {
			return nil, fmt.Errorf("the passphrase in %s does not open %s: %w", file, path, err)
		}
		return raw, nil
	}
	if o.prompt == nil {
		return nil, errLocked{fmt.Errorf("%s has a passphrase and there is no terminal to ask for it: "+
			"use -passphrase-file, a systemd credential named passphrase, or ssh-agent", path)}
	}
	question := "Passphrase for " + path + ": "
	for range 3 {
		pass, err := o.prompt(question)
		if err != nil {
			return nil, fmt.Errorf("asking for the passphrase of %s: %w", path, err)
		}
		raw, err := decryptPrivateBlock(block, pass)
		clear(pass)
		if err == nil {
			return raw, nil
		}
		if !errors.Is(err, x509.IncorrectPasswordError) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		question = "Wrong passphrase. Passphrase for " + path + ": "
	}
	return nil, fmt.Errorf("wrong passphrase: none of three passphrases opens %s", path)
}

// checkIdentityKey returns an error for a key whose type or strength is not accepted as an identity. For a
// certificate it checks the key and the CA's key. It is called before any arithmetic with the key.
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
	return fmt.Errorf("a key of type %q is not accepted: use Ed25519, ECDSA, or RSA with %d to %d bits", pub.Type(),
		minRSABits, maxRSABits)
}

// checkRSA checks the size of modulus and exponent.
func checkRSA(key *rsa.PublicKey) error {
	if bits := key.N.BitLen(); key.N.Sign() <= 0 || bits < minRSABits || bits > maxRSABits {
		return fmt.Errorf("an RSA key of %d bits is not accepted: use %d to %d bits", bits, minRSABits, maxRSABits)
	}
	if key.N.Bit(0) == 0 {
		return errors.New("an RSA key with an even modulus is invalid")
	}
	if key.E < 65537 || key.E >= 1<<31-1 || key.E%2 == 0 {
		return errors.New("an RSA key's exponent must be odd and at least 65537")
	}
	return nil
}

// checkEncryptionKey is like checkRSA and also requires the exponent that RSA-CBC uses.
func checkEncryptionKey(key *rsa.PublicKey) error {
	if err := checkRSA(key); err != nil {
		return err
	}
	if key.E != 65537 {
		return errors.New("an encryption key's exponent must be 65537")
	}
	return nil
}

// parseEncryptionKey parses a peer's encryption key: an RSA key in SSH's wire form, in its canonical encoding.
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

// marshalEncryptionKey is the inverse of parseEncryptionKey.
func marshalEncryptionKey(key *rsa.PublicKey) []byte {
	pub, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil // unreachable: every RSA key has a wire form
	}
	return pub.Marshal()
}

// signatureFormat returns the only signature format that is made and accepted for a key. For RSA it is not the key's
// type, which implies SHA-1.
func signatureFormat(pub ssh.PublicKey) string {
	if t := plainKey(pub).Type(); t != ssh.KeyAlgoRSA {
		return t
	}
	return ssh.KeyAlgoRSASHA512
}

// signData signs data and returns the signature without SSH's envelope: for Ed25519 64 bytes; for RSA PKCS#1 v1.5
// with SHA-512, as long as the modulus; for ECDSA r ‖ s as two SSH integers. A security key's flags and counter
// follow its signature.
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
		return nil, fmt.Errorf("signing with the identity: %w", err)
	}
	if sig.Format != want {
		return nil, fmt.Errorf("the identity made a signature of type %q instead of %q: ssh-agent may be too old",
			sig.Format, want)
	}
	out := append(bytes.Clone(sig.Blob), sig.Rest...)
	if len(out) > maxSignature {
		return nil, errors.New("the identity made a signature that is too long")
	}
	return out, nil
}

// verifyData checks a signature that signData has made. If pub is a certificate, it uses the certificate's key.
func verifyData(pub ssh.PublicKey, data, sig []byte) error {
	if err := checkIdentityKey(pub); err != nil {
		return err
	}
	if len(sig) > maxSignature {
		return errors.New("the signature is too long")
	}
	pub = plainKey(pub)
	s := &ssh.Signature{Format: signatureFormat(pub), Blob: sig}
	if strings.HasPrefix(pub.Type(), "sk-") {
		if len(sig) < skRest {
			return errors.New("the security key's signature is too short")
		}
		s.Blob, s.Rest = sig[:len(sig)-skRest], sig[len(sig)-skRest:]
	}
	return pub.Verify(data, s)
}

// agentSigner signs through ssh-agent. It connects for each signature, so that an agent that has been restarted costs
// one handshake and not the process.
type agentSigner struct {
	socket string
	pub    ssh.PublicKey
}

// newAgentSigner returns a signer for pub, the public key in the file at path. It checks that the agent at
// $SSH_AUTH_SOCK has the private key.
func newAgentSigner(pub ssh.PublicKey, path string) (ssh.Signer, error) {
	s := &agentSigner{os.Getenv("SSH_AUTH_SOCK"), pub}
	if s.socket == "" {
		return nil, fmt.Errorf(
			"%s is a public key, and there is no ssh-agent to sign with ($SSH_AUTH_SOCK is empty): "+
				"start one, or give the private key", path)
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
		return nil, fmt.Errorf("ssh-agent does not have the key %s of %s: add it with ssh-add",
			ssh.FingerprintSHA256(pub), path)
	}
	return s, nil
}

// dial connects to the agent and calls use.
func (s *agentSigner) dial(use func(agent.ExtendedAgent) error) error {
	conn, err := net.DialTimeout("unix", s.socket, agentWait)
	if err != nil {
		return fmt.Errorf("no ssh-agent answers at %s ($SSH_AUTH_SOCK): %w", s.socket, plainError(err))
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(agentWait)); err != nil {
		return fmt.Errorf("ssh-agent: %w", plainError(err))
	}
	if err := use(agent.NewClient(conn)); err != nil {
		return fmt.Errorf("ssh-agent: %w", plainError(err))
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

// keyName makes a name from a key's comment. If the comment has no letter or digit, the name is key- and 8
// hexadecimal digits of the key's SHA-256.
func keyName(comment string, pub ssh.PublicKey) string {
	if name := cleanName(comment); name != "" {
		return name
	}
	return "key-" + keyHex(pub, 8)
}

// nameSuffix returns the SUFFIX of name~SUFFIX, which tells two keys with the same name apart.
func nameSuffix(pub ssh.PublicKey) string { return keyHex(pub, suffixDigits) }

// keyHex returns the first n hexadecimal digits of the SHA-256 of a key.
func keyHex(pub ssh.PublicKey, n int) string {
	sum := sha256.Sum256(plainKey(pub).Marshal())
	return hex.EncodeToString(sum[:])[:n]
}

// maxKeyID bounds the key id of a certificate in messages and records.
const maxKeyID = 128

// certName describes a certificate for the log. The key id is quoted and cut, because it is the peer's text until the
// CA's signature has been verified.
func certName(c *ssh.Certificate) string {
	return fmt.Sprintf("certificate %q serial %d", clip(c.KeyId, maxKeyID), c.Serial)
}
