package main

// Keys: files of every format, passphrases, the agent, and the refusal of weak or damaged keys.

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"
)

func newEd25519(t testing.TB) (ed25519.PrivateKey, ssh.PublicKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, publicOf(t, key)
}

func publicOf(t testing.TB, key crypto.Signer) ssh.PublicKey {
	t.Helper()
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func newRSA(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func opensshPEM(t testing.TB, key crypto.PrivateKey) []byte {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

func pkcs8PEM(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestFirstRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	var reported []string
	o := keyOptions{dir: dir, comment: "pi@router", inform: func(f string, a ...any) {
		reported = append(reported, fmt.Sprintf(f, a...))
	}}
	k, err := loadKeys(o)
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(reported, "\n"); !strings.Contains(all, k.fingerprint()) ||
		!strings.Contains(all, "made an encryption key") {
		t.Errorf("first run reported %q", reported)
	}
	if k.comment != "pi@router" || k.encryption.N.BitLen() != 2048 || k.signer.PublicKey().Type() != ssh.KeyAlgoED25519 {
		t.Errorf("made %q, %d bits, %s", k.comment, k.encryption.N.BitLen(), k.signer.PublicKey().Type())
	}
	for name, mode := range map[string]os.FileMode{".": 0o700, "identity": 0o600, "identity.pub": 0o600,
		"encryption": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	reported = nil
	again, err := loadKeys(o)
	if err != nil || !sameKey(again.signer.PublicKey(), k.signer.PublicKey()) || !again.encryption.Equal(k.encryption) ||
		reported != nil {
		t.Errorf("second run: %v, reported %q", err, reported)
	}

	path := filepath.Join(dir, "identity")
	if out := runTool(t, "ssh-keygen", "-lf", path+".pub"); !strings.Contains(out, k.fingerprint()+" pi@router") {
		t.Errorf("ssh-keygen -lf: %s", out)
	}
	if out := runTool(t, "ssh-keygen", "-y", "-f", path); !strings.HasPrefix(out,
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())))) {
		t.Errorf("ssh-keygen -y: %s", out)
	}
	runTool(t, "ssh-keygen", "-y", "-f", filepath.Join(dir, "encryption"))
}

func TestMissingPublicFileIsCreated(t *testing.T) {
	dir := closedDir(t)
	k, err := loadKeys(keyOptions{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !validName(k.comment) {
		t.Errorf("default comment %q is no name", k.comment)
	}
	pub := filepath.Join(dir, "identity.pub")
	if err := os.Remove(pub); err != nil {
		t.Fatal(err)
	}
	if again, err := loadKeys(keyOptions{dir: dir, comment: "x"}); err != nil || again.comment != "x" {
		t.Fatal(err)
	}
	if out := runTool(t, "ssh-keygen", "-lf", pub); !strings.Contains(out, k.fingerprint()) {
		t.Error(out)
	}
}

func TestConcurrentFirstRuns(t *testing.T) {
	dir := closedDir(t)
	var all [3]*keys
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			var err error
			if all[i], err = loadKeys(keyOptions{dir: dir}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range all {
		if k == nil || !sameKey(k.signer.PublicKey(), all[0].signer.PublicKey()) || !k.encryption.Equal(all[0].encryption) {
			t.Fatal("concurrent first runs returned different keys")
		}
	}
}

func TestPassphrase(t *testing.T) {
	dir := closedDir(t)
	k, err := loadKeys(keyOptions{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "identity")
	runTool(t, "ssh-keygen", "-p", "-q", "-P", "", "-N", "open sesame", "-a", "1", "-f", path)
	answers := func(list ...string) func(string) ([]byte, error) {
		return func(q string) ([]byte, error) {
			if !strings.Contains(q, path) || len(list) == 0 {
				return nil, fmt.Errorf("asked %q", q)
			}
			a := list[0]
			list = list[1:]
			return []byte(a), nil
		}
	}
	good := put(t, filepath.Join(dir, "good"), []byte("open sesame\n"))
	bad := put(t, filepath.Join(dir, "bad"), []byte("closed"))
	open := put(t, filepath.Join(dir, "open"), []byte("open sesame"))
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	credentials := t.TempDir()
	for _, c := range []struct {
		name, credentials string
		o                 keyOptions
		words             string
	}{
		{"prompt", "", keyOptions{prompt: answers("wrong", "open sesame")}, ""},
		{"prompt thrice wrong", "", keyOptions{prompt: answers("a", "b", "c")}, "none of three passphrases opens " + path},
		{"file", "", keyOptions{passphraseFile: good}, ""},
		{"wrong file", "", keyOptions{passphraseFile: bad}, "does not open"},
		{"open file", "", keyOptions{passphraseFile: open}, "chmod 600 " + open},
		{"no file", "", keyOptions{passphraseFile: filepath.Join(dir, "none")}, "reading the passphrase: open"},
		{"empty credentials folder", t.TempDir(), keyOptions{}, "no terminal to ask for it"},
		{"credential", credentials, keyOptions{}, ""},
		{"nothing", "", keyOptions{}, "no terminal to ask for it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			put(t, filepath.Join(credentials, "passphrase"), []byte("open sesame\n"))
			t.Setenv("CREDENTIALS_DIRECTORY", c.credentials)
			c.o.dir = dir
			got, err := loadKeys(c.o)
			if c.words != "" {
				wantError(t, err, c.words)
			} else if err != nil || got.fingerprint() != k.fingerprint() {
				t.Fatal(err)
			}
		})
	}
}

func TestIdentityFormats(t *testing.T) {
	edKey, _ := newEd25519(t)
	rsaKey := newRSA(t, 2048)
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := closedDir(t)
	put(t, filepath.Join(dir, "encryption"), opensshPEM(t, newRSA(t, 2048)))
	for name, data := range map[string][]byte{
		"ed25519 OpenSSH": opensshPEM(t, edKey),
		"ed25519 PKCS8":   pkcs8PEM(t, edKey),
		"rsa OpenSSH":     opensshPEM(t, rsaKey),
		"rsa PKCS1": pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}),
		"rsa PKCS8":     pkcs8PEM(t, rsaKey),
		"ecdsa OpenSSH": opensshPEM(t, ecKey),
		"ecdsa PKCS8":   pkcs8PEM(t, ecKey),
	} {
		t.Run(name, func(t *testing.T) {
			path := put(t, filepath.Join(t.TempDir(), "key"), data)
			k, err := loadKeys(keyOptions{dir: dir, identity: path})
			if err != nil {
				t.Fatal(err)
			}
			checkSigner(t, k.signer)
			if exists(path + ".pub") {
				t.Error("a file was written next to a key outside the state folder")
			}
		})
	}
	for _, typ := range []string{"rsa", "ecdsa"} {
		dir := closedDir(t)
		put(t, filepath.Join(dir, "encryption"), opensshPEM(t, newRSA(t, 2048)))
		k, err := loadKeys(keyOptions{dir: dir, typ: typ, bits: 2048})
		if err != nil {
			t.Fatal(err)
		}
		checkSigner(t, k.signer)
		if !strings.Contains(k.signer.PublicKey().Type(), typ) {
			t.Errorf("-type %s made %s", typ, k.signer.PublicKey().Type())
		}
	}
}

func TestLoadKeysErrors(t *testing.T) {
	edKey, _ := newEd25519(t)
	rsaKey := newRSA(t, 2048)
	for _, c := range []struct {
		name  string
		set   func(dir string, o *keyOptions)
		words string
	}{
		{"folder open", func(dir string, _ *keyOptions) { os.Chmod(dir, 0o750) }, "chmod 700 "},
		{"identity open", func(dir string, _ *keyOptions) {
			os.Chmod(put(t, filepath.Join(dir, "identity"), opensshPEM(t, edKey)), 0o640)
		}, "chmod 600 "},
		{"identity a pipe", func(dir string, _ *keyOptions) { runTool(t, "mkfifo", filepath.Join(dir, "identity")) },
			"not a regular file"},
		{"identity a folder", func(dir string, _ *keyOptions) {
			os.Mkdir(filepath.Join(dir, "identity"), 0o700)
		}, "not a regular file"},
		{"identity a dead link", func(dir string, _ *keyOptions) { os.Symlink("nowhere", filepath.Join(dir, "identity")) },
			"reading the identity: open"},
		{"identity huge", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "identity"), make([]byte, maxKeyFile+1))
		}, "longer than 64 KiB"},
		{"identity empty", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "identity"), nil)
		}, "not a private key"},
		{"identity weak", func(dir string, _ *keyOptions) {
			runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", filepath.Join(dir, "identity"))
		}, "1024 bits is not accepted"},
		{"identity encrypted PKCS#8", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "identity"),
				[]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
		}, "ssh-keygen -p"},
		{"identity of another", func(dir string, o *keyOptions) {
			o.identity = filepath.Join(dir, "none")
		}, "reading the identity: open"},
		{"public file of another key", func(dir string, _ *keyOptions) {
			_, other := newEd25519(t)
			put(t, filepath.Join(dir, "identity"), opensshPEM(t, edKey))
			put(t, filepath.Join(dir, "identity.pub"), ssh.MarshalAuthorizedKey(other))
		}, "does not belong"},
		{"public file broken", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "identity"), opensshPEM(t, edKey))
			put(t, filepath.Join(dir, "identity.pub"), []byte("?"))
		}, "is not a public key file"},
		{"certificate broken", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "identity-cert.pub"), []byte("?"))
		}, "is not a certificate file"},
		{"certificate a bare key", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "identity-cert.pub"), ssh.MarshalAuthorizedKey(publicOf(t, edKey)))
		}, "not a certificate: sign it"},
		{"encryption key not RSA", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "encryption"), opensshPEM(t, edKey))
		}, "is not an RSA key"},
		{"encryption key weak", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "encryption"), opensshPEM(t, newRSA(t, 1024)))
		}, "1024 bits is not accepted"},
		{"encryption key open", func(dir string, _ *keyOptions) {
			os.Chmod(put(t, filepath.Join(dir, "encryption"), opensshPEM(t, rsaKey)), 0o604)
		}, "chmod 600 "},
		{"one key for both", func(dir string, _ *keyOptions) {
			put(t, filepath.Join(dir, "identity"), opensshPEM(t, rsaKey))
			put(t, filepath.Join(dir, "encryption"), pkcs8PEM(t, rsaKey))
		}, "are the same key"},
		{"type", func(_ string, o *keyOptions) { o.typ = "dsa" }, `unknown key type "dsa"`},
		{"few bits", func(_ string, o *keyOptions) { o.bits = 1024 }, "1024 bits"},
		{"many bits", func(_ string, o *keyOptions) { o.bits = 8192 }, "8192 bits"},
		{"odd bits", func(_ string, o *keyOptions) { o.bits = 2049 }, "2049 bits"},
		{"comment", func(_ string, o *keyOptions) { o.comment = "a\nb" }, "one line"},
		{"no agent", func(dir string, _ *keyOptions) {
			t.Setenv("SSH_AUTH_SOCK", "")
			put(t, filepath.Join(dir, "identity.pub"), ssh.MarshalAuthorizedKey(publicOf(t, edKey)))
		}, "no ssh-agent"},
		{"agent gone", func(dir string, _ *keyOptions) {
			t.Setenv("SSH_AUTH_SOCK", filepath.Join(dir, "none"))
			put(t, filepath.Join(dir, "identity.pub"), ssh.MarshalAuthorizedKey(publicOf(t, edKey)))
		}, "no ssh-agent answers at "},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := keyOptions{dir: closedDir(t)}
			put(t, filepath.Join(o.dir, "encryption"), opensshPEM(t, rsaKey))
			c.set(o.dir, &o)
			_, err := loadKeys(o)
			wantError(t, err, c.words)
		})
	}
}

// startAgent runs ssh-agent until the test ends, and returns the path of its socket.
func startAgent(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc") // The path of a socket must be short.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.Command("ssh-agent", "-D", "-a", filepath.Join(dir, "agent"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // The agent prints its socket's name once it listens.
		t.Fatal(err)
	}
	return filepath.Join(dir, "agent")
}

func TestAgent(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", startAgent(t))
	encryption := opensshPEM(t, newRSA(t, 2048))
	for _, typ := range []string{"ed25519", "rsa", "ecdsa"} {
		t.Run(typ, func(t *testing.T) {
			dir := closedDir(t)
			put(t, filepath.Join(dir, "encryption"), encryption)
			path := filepath.Join(dir, "identity")
			runTool(t, "ssh-keygen", "-q", "-t", typ, "-N", "", "-C", "a@b", "-f", path)
			runTool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "ca"))
			other := filepath.Join(dir, "other.pub")
			runTool(t, "ssh-add", "-q", path)
			_, stranger := newEd25519(t)
			put(t, other, ssh.MarshalAuthorizedKey(stranger))

			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			for _, o := range []keyOptions{{dir: dir}, {dir: dir, identity: path + ".pub"}} {
				k, err := loadKeys(o)
				if err != nil {
					t.Fatal(err)
				}
				if k.comment != "a@b" {
					t.Errorf("comment %q", k.comment)
				}
				checkSigner(t, k.signer)
			}
			_, err := loadKeys(keyOptions{dir: dir, identity: other})
			wantError(t, err, "add it with ssh-add")

			runTool(t, "ssh-keygen", "-q", "-s", filepath.Join(dir, "ca"), "-I", "me", "-n", "me", path+".pub")
			k, err := loadKeys(keyOptions{dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := k.signer.PublicKey().(*ssh.Certificate); !ok {
				t.Error("the certificate next to the identity is not used")
			}
			checkSigner(t, k.signer)
			runTool(t, "ssh-add", "-q", "-D")
			_, err = signData(k.signer, []byte("x"))
			wantError(t, err, "ssh-agent: ")
		})
	}
}

func TestForeignCertificateIsReported(t *testing.T) {
	dir := closedDir(t)
	k, err := loadKeys(keyOptions{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca", "other"} {
		runTool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))
	}
	runTool(t, "ssh-keygen", "-q", "-s", filepath.Join(dir, "ca"), "-I", "me", "-n", "me", filepath.Join(dir, "other.pub"))
	if err := os.Rename(filepath.Join(dir, "other-cert.pub"), filepath.Join(dir, "identity-cert.pub")); err != nil {
		t.Fatal(err)
	}
	reported := ""
	again, err := loadKeys(keyOptions{dir: dir, notify: func(f string, a ...any) { reported += fmt.Sprintf(f, a...) }})
	if err != nil || !strings.Contains(reported, "is not used") || !bytes.Equal(again.signer.PublicKey().Marshal(),
		k.signer.PublicKey().Marshal()) {
		t.Errorf("%v, reported %q", err, reported)
	}
}

// checkSigner checks that signatures verify, and that damaged signatures do not.
func checkSigner(t *testing.T, s ssh.Signer) {
	t.Helper()
	data := []byte("what is signed")
	sig, err := signData(s, data)
	if err != nil {
		t.Fatal(err)
	}
	pub := s.PublicKey()
	if plainKey(pub).Type() == ssh.KeyAlgoED25519 && len(sig) != ed25519.SignatureSize {
		t.Errorf("an Ed25519 signature of %d bytes", len(sig))
	}
	if err := verifyData(pub, data, sig); err != nil {
		t.Error(err)
	}
	if verifyData(pub, append(data, '!'), sig) == nil {
		t.Error("a signature over other data verifies")
	}
	for i := range sig {
		bad := bytes.Clone(sig)
		bad[i] ^= 1
		if verifyData(pub, data, bad) == nil {
			t.Errorf("a signature with byte %d flipped verifies", i)
		}
		if verifyData(pub, data, sig[:i]) == nil {
			t.Errorf("a signature of %d bytes verifies", i)
		}
	}
	if verifyData(pub, data, make([]byte, maxSignature+1)) == nil {
		t.Error("a signature that is too long verifies")
	}
}

func TestNoWeakHash(t *testing.T) {
	signer, err := ssh.NewSignerFromKey(newRSA(t, 2048))
	if err != nil {
		t.Fatal(err)
	}
	for _, algorithm := range []string{ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA256} {
		sig, err := signer.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, []byte("x"), algorithm)
		if err != nil {
			t.Fatal(err)
		}
		if verifyData(signer.PublicKey(), []byte("x"), sig.Blob) == nil {
			t.Errorf("a signature by %s verifies", algorithm)
		}
	}
}

// TestSecurityKey uses a security key in software, which signs SHA-256(application) ‖ flags ‖ counter ‖ SHA-256(data).
func TestSecurityKey(t *testing.T) {
	key, _ := newEd25519(t)
	pub, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Name, Key, Application string
	}{ssh.KeyAlgoSKED25519, string(key.Public().(ed25519.PublicKey)), "ssh:"}))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(flags byte) []byte {
		rest := []byte{flags, 0, 0, 0, 7}
		app, data := sha256.Sum256([]byte("ssh:")), sha256.Sum256([]byte("x"))
		msg := append(append(append([]byte{}, app[:]...), rest...), data[:]...)
		return append(ed25519.Sign(key, msg), rest...)
	}
	if err := verifyData(pub, []byte("x"), sign(1)); err != nil {
		t.Error(err)
	}
	if verifyData(pub, []byte("x"), sign(0)) == nil {
		t.Error("a signature verifies although the security key was not touched")
	}
	if verifyData(pub, []byte("x"), []byte{1, 2}) == nil {
		t.Error("a truncated signature verifies")
	}
}

func rsaWire(n, e *big.Int) []byte {
	return ssh.Marshal(struct {
		Name string
		E, N *big.Int
	}{ssh.KeyAlgoRSA, e, n})
}

func TestKeyStrength(t *testing.T) {
	n := newRSA(t, 2048).N
	f4 := big.NewInt(65537)
	shifted := func(bits uint) *big.Int { return new(big.Int).SetBit(big.NewInt(1), int(bits)-1, 1) }
	for _, c := range []struct {
		name       string
		n, e       *big.Int
		identity   string // A part of the error; "" if the key is accepted, "-" if it does not parse.
		encryption string
	}{
		{"good", n, f4, "", ""},
		{"2047 bits", shifted(2047), f4, "2047 bits", "2047 bits"},
		{"4096 bits", shifted(4096), f4, "", ""},
		{"4097 bits", shifted(4097), f4, "4097 bits", "4097 bits"},
		{"even modulus", new(big.Int).Add(n, big.NewInt(1)), f4, "even modulus", "even modulus"},
		{"negative modulus", new(big.Int).Neg(n), f4, "is not accepted", "is not accepted"},
		{"exponent 3", n, big.NewInt(3), "exponent", "exponent"},
		{"exponent 65539", n, big.NewInt(65539), "", "must be 65537"},
		{"exponent even", n, big.NewInt(65538), "-", "exponent"},
		{"exponent huge", n, shifted(40), "-", "exponent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wire := rsaWire(c.n, c.e)
			pub, err := ssh.ParsePublicKey(wire)
			if (err != nil) != (c.identity == "-") {
				t.Fatal(err)
			}
			if err == nil {
				if err := checkIdentityKey(pub); c.identity != "" {
					wantError(t, err, c.identity)
				} else if err != nil {
					t.Error(err)
				}
			}
			key, err := parseEncryptionKey(wire)
			if c.encryption != "" {
				wantError(t, err, c.encryption)
			} else if err != nil || !bytes.Equal(marshalEncryptionKey(key), wire) {
				t.Error(err)
			}
		})
	}
	wire := rsaWire(n, f4)
	for i := range wire {
		if _, err := parseEncryptionKey(wire[:i]); err == nil {
			t.Errorf("%d bytes of an encryption key are taken", i)
		}
	}
	for name, b := range map[string][]byte{"trailing byte": append(bytes.Clone(wire), 0), "too long": make([]byte, 2000)} {
		if _, err := parseEncryptionKey(b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	_, ed := newEd25519(t)
	_, err := parseEncryptionKey(ed.Marshal())
	wantError(t, err, "not RSA")

	old, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Name       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", shifted(1024), shifted(160), big.NewInt(2), big.NewInt(4)}))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, checkIdentityKey(old), `"ssh-dss" is not accepted`)
}

func TestLockHeldTooLong(t *testing.T) {
	dir := closedDir(t)
	err := withLock(dir, func() (err error) {
		synctest.Test(t, func(*testing.T) { err = withLock(dir, func() error { return nil }) })
		return err
	})
	wantError(t, err, "another securechat process has locked")
	if err := withLock(dir, func() error { return nil }); err != nil {
		t.Error("the lock is not released:", err)
	}
}

func TestStateFolder(t *testing.T) {
	t.Setenv("SECURECHAT_DIR", "/from/environment")
	if dir, err := stateFolder("/from/flag"); err != nil || dir != "/from/flag" {
		t.Error(dir, err)
	}
	if dir, err := stateFolder(""); err != nil || dir != "/from/environment" {
		t.Error(dir, err)
	}
	t.Setenv("SECURECHAT_DIR", "")
	if dir, err := stateFolder(""); err != nil || filepath.Base(dir) != "securechat" {
		t.Error(dir, err)
	}
}

func FuzzEncryptionKey(f *testing.F) {
	f.Add(rsaWire(new(big.Int).SetBit(big.NewInt(1), 2047, 1), big.NewInt(65537)))
	addVectors(f, "encryption key", "wire", func(b []byte) { f.Add(b) })
	addVectors(f, "identity", "wire", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, wire []byte) {
		key, err := parseEncryptionKey(wire)
		if err == nil && (!bytes.Equal(marshalEncryptionKey(key), wire) || key.E != 65537 || key.N.BitLen() < minRSABits ||
			key.N.BitLen() > maxRSABits) {
			t.Fatalf("took %x", wire)
		}
	})
}

// identityOf returns the fingerprint that securechat prints for the identity in a file.
func identityOf(t *testing.T, dir, path string, args ...string) (print, stderr string, code int) {
	t.Helper()
	out, stderr, code := runToEnd(t, t.TempDir(), "", append([]string{"-fingerprint", "-dir", dir, "-identity", path},
		args...)...)
	return strings.Fields(out + " -")[0], stderr, code
}

// TestKeyFiles reads private keys that other programs wrote.
func TestKeyFiles(t *testing.T) {
	t.Parallel()
	anna, dir := state(t, "anna"), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	openssl := func(args ...string) string { return runTool(t, "openssl", args...) }
	want := func(path string) string {
		t.Helper()
		return strings.Fields(runTool(t, "ssh-keygen", "-lf", path))[1]
	}
	check := func(name, print string) {
		t.Helper()
		if err := os.Chmod(at(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, stderr, code := identityOf(t, anna, at(name)); code != exitDone || got != print {
			t.Errorf("%s: exit %d, %q, want %s: %s", name, code, got, print, stderr)
		}
	}
	for _, curve := range []string{"prime256v1", "secp384r1", "secp521r1"} {
		openssl("ecparam", "-name", curve, "-genkey", "-out", at(curve)) // The file has EC PARAMETERS before the key.
		if !strings.HasPrefix(readText(t, at(curve)), "-----BEGIN EC PARAMETERS") {
			t.Fatal("openssl writes no parameters")
		}
		plain := at(curve + "-plain")
		openssl("ec", "-in", at(curve), "-out", plain)
		if err := os.Chmod(plain, 0o600); err != nil {
			t.Fatal(err)
		}
		print := want(plain)
		check(curve, print)
		openssl("ec", "-in", at(curve), "-param_enc", "explicit", "-out", at(curve+"-explicit"))
		check(curve+"-explicit", print)
		openssl("ec", "-in", at(curve), "-param_enc", "explicit", "-conv_form", "compressed", "-out", at(curve+"-compressed"))
		check(curve+"-compressed", print)
		openssl("pkcs8", "-topk8", "-nocrypt", "-in", at(curve+"-explicit"), "-out", at(curve+"-pkcs8"))
		check(curve+"-pkcs8", print)
		openssl("ec", "-in", at(curve), "-param_enc", "explicit", "-conv_form", "hybrid", "-out", at(curve+"-hybrid"))
		check(curve+"-hybrid", print)
		openssl("ec", "-in", at(curve), "-param_enc", "explicit", "-aes128", "-passout", "pass:secret", "-out",
			at(curve+"-locked"))
		if err := os.Chmod(at(curve+"-locked"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := identityOf(t, anna, at(curve+"-locked"), "-passphrase-file", put(t, at("passphrase"), []byte("x")))
		wantRun(t, "a wrong passphrase", stderr, code, exitUsage, `wrong passphrase: the one in \S+passphrase does not open`)
		put(t, at("passphrase"), []byte("secret\n"))
		got, stderr, code := identityOf(t, anna, at(curve+"-locked"), "-passphrase-file", at("passphrase"))
		if code != exitDone || got != print {
			t.Errorf("%s with a passphrase: exit %d, %q, want %s: %s", curve, code, got, print, stderr)
		}
	}
	openssl("ecparam", "-name", "secp256k1", "-genkey", "-param_enc", "explicit", "-out", at("other"))
	if err := os.Chmod(at("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := identityOf(t, anna, at("other"))
	wantRun(t, "explicit parameters of another curve", stderr, code, exitTrouble,
		`other is damaged, or a private key of an unknown type\n$`)

	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM", "-C", "x", "-f", at("rsa"))
	print := want(at("rsa"))
	private, public := readText(t, at("rsa")), readText(t, at("rsa.pub"))
	openssl("req", "-x509", "-new", "-key", at("rsa"), "-subj", "/CN=x", "-out", at("crt"))
	pem := openssl("rsa", "-in", at("rsa"), "-pubout", "-out", at("pub")) + readText(t, at("pub"))
	for name, text := range map[string]string{
		"public line after it":   private + public,
		"public line before it":  public + private,
		"certificate before it":  readText(t, at("crt")) + private,
		"certificate after it":   private + readText(t, at("crt")),
		"PEM public key":         pem[strings.Index(pem, "-----"):] + private,
		"text and CRLF":          "my key\r\n" + strings.ReplaceAll(private, "\n", "\r\n"),
		"byte order mark before": "\ufeff" + private,
	} {
		put(t, at(name), []byte(text))
		check(name, print)
	}
	put(t, at("two"), []byte(private+private))
	_, stderr, code = identityOf(t, anna, at("two"))
	wantRun(t, "two private keys", stderr, code, exitTrouble,
		`two contains more than one private key: give a file with one`)
}

// skStub is the private file of a security key: a key handle. Only its public half is read.
const skStub = `-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAASgAAABpzay1zc2gtZWQyNTUxOUBv
cGVuc3NoLmNvbQAAACAAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHwAAAARzc2g6AAAAAA==
-----END OPENSSH PRIVATE KEY-----
`

// TestKeyFilesToConvert: for a key file in an unsupported format, the error names the command that converts it, and
// comes before any question for a passphrase.
func TestKeyFilesToConvert(t *testing.T) {
	t.Parallel()
	anna, dir := state(t, "anna"), t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "secret", "-a", "1", "-Z",
		"chacha20-poly1305@openssh.com", "-f",
		at("chacha"))
	runTool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-a", "1", "-Z", "aes128-ctr", "-f", at("ctr"))
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM", "-f", at("rsa"))
	runTool(t, "openssl", "pkcs8", "-topk8", "-in", at("rsa"), "-passout", "pass:secret", "-out", at("pkcs8"))
	runTool(t, "openssl", "rsa", "-in", at("rsa"), "-traditional", "-camellia256", "-passout", "pass:secret", "-out",
		at("camellia"))
	runTool(t, "openssl", "rsa", "-in", at("rsa"), "-pubout", "-out", at("pem"))
	runTool(t, "openssl", "rsa", "-in", at("rsa"), "-RSAPublicKey_out", "-out", at("pkcs1"))
	ssh2 := runTool(t, "ssh-keygen", "-e", "-f", at("rsa"))
	public := readText(t, at("rsa.pub"))
	broken := public[:70] + "\n" + public[70:140] + "\n" + public[140:]
	for _, c := range []struct{ name, text, words string }{
		{"chacha", "",
			`chacha is encrypted with "chacha20-poly1305@openssh\.com", which is not supported: convert it with ssh-keygen ` +
				`-p -Z aes256-ctr -f \S+chacha`},
		{"ctr", "", `ctr is encrypted with "aes128-ctr", which is not supported: convert it with ssh-keygen -p -Z ` +
			`aes256-ctr -f \S+ctr`},
		{"pkcs8", "", `pkcs8 is encrypted PKCS#8, which is not supported: convert it with ssh-keygen -p -f \S+pkcs8`},
		{"camellia", "",
			`camellia is encrypted with "CAMELLIA-256-CBC", which is not supported: convert it with ssh-keygen -p -f`},
		{"sk", skStub,
			`sk belongs to a security key, which only ssh-agent can use: run ssh-add \S+sk, then give the public key, ` +
				`-identity \S+sk\.pub`},
		{"ppk", "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
			`ppk is a PuTTY key: convert it with puttygen \S+ppk -O private-openssh -o NEWFILE`},
		{"ppk2", "\r\nPuTTY-User-Key-File-2: ssh-rsa\r\nEncryption: none\r\n",
			`ppk2 is a PuTTY key: convert it with puttygen`},
		{"broken after its type", strings.Replace(public, " ", "\n", 1),
			`is a public key that is broken over several lines: write its type, its base64 text and its name on one line`},
		{"broken with blanks", public[:70] + " \n " + public[70:],
			`is a public key that is broken over several lines: write`},
		{"dropbear", "\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x40",
			`dropbear is a dropbear key: convert it with dropbearconvert dropbear openssh \S+dropbear NEWFILE`},
		{"ssh2", ssh2, `ssh2 is an SSH2 key: convert it with ssh-keygen -i -f \S+ssh2`},
		{"pem", "", `pem is a PEM public key: convert it with ssh-keygen -i -m PKCS8 -f \S+pem`},
		{"pkcs1", "", `pkcs1 is a PEM public key: convert it with ssh-keygen -i -m PEM -f \S+pkcs1`},
		{"broken", broken,
			`broken is a public key that is broken over several lines: convert it with tr -d '\\r\\n' < \S+broken`},
		{"utf16", string(utf16Text(public)), `utf16 is UTF-16 text: save it as UTF-8`},
		{"cut", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n",
			`cut is damaged: it is not a complete OpenSSH private key`},
		{"other", "hello\n", `other is not a private key in a known format; make one with`},
		{"der", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
			`der is damaged, or a private key of an unknown type\n$`},
	} {
		if c.text != "" {
			put(t, at(c.name), []byte(c.text))
		}
		if err := os.Chmod(at(c.name), 0o600); err != nil {
			t.Fatal(err)
		}
		print, stderr, code := identityOf(t, anna, at(c.name))
		wantRun(t, c.name, stderr, code, exitTrouble, c.words)
		if strings.Contains(stderr, "passphrase") || print != "-" {
			t.Errorf("%s: %q, %q", c.name, print, stderr)
		}
	}
	// The named commands work.
	for _, name := range []string{"chacha", "ctr"} {
		_, stderr, _ := identityOf(t, anna, at(name))
		command := regexp.MustCompile(`ssh-keygen -p .*`).FindString(stderr)
		runTool(t, "sh", "-c", command+" -P secret -N ''")
		if print, stderr, code := identityOf(t, anna, at(name)); code != exitDone || !strings.HasPrefix(print, "SHA256:") {
			t.Errorf("%s after %q: exit %d: %s", name, command, code, stderr)
		}
	}
	_, stderr, _ := identityOf(t, anna, at("broken"))
	joined := runTool(t, "sh", "-c", strings.Replace(regexp.MustCompile(`tr -d .*`).FindString(stderr), "> NEWFILE", "",
		1))
	if joined != strings.TrimSpace(public) {
		t.Errorf("joined: %q", joined)
	}
}

// TestAllowFormats checks that -allow reads public keys in SSH2's format and in PEM, and that other formats are errors.
func TestAllowFormats(t *testing.T) {
	t.Parallel()
	anna, dir := state(t, "anna"), t.TempDir()
	listed := filepath.Join(anna, "authorized_keys")
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, typ := range []string{"rsa", "ecdsa", "ed25519"} {
		runTool(t, "ssh-keygen", "-q", "-t", typ, "-N", "", "-C", typ, "-f", at(typ))
		key := strings.Join(strings.Fields(readText(t, at(typ+".pub")))[:2], " ")
		forms := map[string]string{"SSH2": runTool(t, "ssh-keygen", "-e", "-f", at(typ)),
			"SSH2 with CRLF": strings.ReplaceAll(runTool(t, "ssh-keygen", "-e", "-f", at(typ)), "\n", "\r\n")}
		if typ != "ed25519" { // ssh-keygen does not export Ed25519.
			forms["PEM"] = runTool(t, "ssh-keygen", "-e", "-m", "PKCS8", "-f", at(typ))
		}
		if typ == "ecdsa" {
			put(t, at("pem"), []byte(forms["PEM"]))
			for _, args := range []string{"-conv_form compressed", "-param_enc explicit",
				"-param_enc explicit -conv_form hybrid"} {
				command := append([]string{"ec", "-pubin", "-in", at("pem"), "-out", at("pem2")}, strings.Fields(args)...)
				runTool(t, "openssl", command...)
				forms["PEM "+args] = readText(t, at("pem2"))
			}
		}
		if typ == "rsa" {
			forms["RSA PEM"] = runTool(t, "ssh-keygen", "-e", "-m", "PEM", "-f", at(typ))
		}
		forms["-keygen's output"] = key + " " + typ + "\n" + strings.Fields(runTool(t, "ssh-keygen", "-lf", at(typ)))[1] +
			"\n"
		forms["a line after comments"] = "# of\n# " + typ + "\n\n" + key + " " + typ + "\n# end\n"
		for form, text := range forms {
			if err := os.RemoveAll(listed); err != nil {
				t.Fatal(err)
			}
			_, stderr, code := runToEnd(t, t.TempDir(), text, "-allow", "-", "-dir", anna)
			wantRun(t, typ+" "+form, stderr, code, exitDone, `may join now \(SHA256:`)
			if got := readText(t, listed); !strings.HasPrefix(got, key+" ") {
				t.Errorf("%s %s: listed %q", typ, form, got)
			}
		}
	}
	if err := os.Remove(listed); err != nil {
		t.Fatal(err)
	}
	public, ssh2 := readText(t, at("rsa.pub")), runTool(t, "ssh-keygen", "-e", "-f", at("rsa"))
	pem := runTool(t, "ssh-keygen", "-e", "-m", "PKCS8", "-f", at("rsa"))
	for _, c := range []struct{ name, text, words string }{
		{"broken", public[:70] + "\n" + public[70:],
			`that is a public key that is broken over several lines: convert it with tr -d`},
		{"a line and another fingerprint", public + "SHA256:" + strings.Repeat("A", 43) + "\n",
			`that is more than one line: give one public key at a time`},
		{"two PEM keys", strings.Repeat(pem, 2), `that is more than one line: give one public key at a time`},
		{"SSH2, cut", ssh2[:len(ssh2)/2],
			`the SSH2 public key is damaged: its last line must be ---- END SSH2 PUBLIC KEY ----`},
		{"SSH2, damaged", strings.Replace(ssh2, "AAAAB3NzaC1yc2E", "AAAAB3NzaC1ycAE", 1), `the SSH2 public key is damaged`},
		{"PEM, damaged", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
			`the PEM public key is damaged or of an unknown type`},
		{"PuTTY", "PuTTY-User-Key-File-2: ssh-rsa\n", `that is a private key, which must stay with its owner`},
	} {
		_, stderr, code := runToEnd(t, t.TempDir(), c.text, "-allow", "-", "-dir", anna)
		wantRun(t, c.name, stderr, code, exitTrouble, c.words)
	}
	if exists(listed) {
		t.Error("something was listed")
	}
}
