package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

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
	}
	openssl("ecparam", "-name", "secp256k1", "-genkey", "-param_enc", "explicit", "-out", at("other"))
	if err := os.Chmod(at("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := identityOf(t, anna, at("other"))
	wantRun(t, "explicit parameters of another curve", stderr, code, exitTrouble,
		`other is not a private key in a known format`)

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
		{"other", "hello\n", `other is not a private key in a known format`},
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
		if typ == "rsa" {
			forms["RSA PEM"] = runTool(t, "ssh-keygen", "-e", "-m", "PEM", "-f", at(typ))
		}
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
	for _, c := range []struct{ name, text, words string }{
		{"broken", public[:70] + "\n" + public[70:],
			`that is a public key that is broken over several lines: convert it with tr -d`},
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
