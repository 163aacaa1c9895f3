package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Trust: authorized_keys, known_hosts, certificates, revoked keys, and the writing of these files.

var (
	testNow  = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	testAddr = &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 4711}
)

// newTrust returns a trust for an empty state folder, and the list that its warnings are appended to.
func newTrust(t testing.TB) (*trust, *[]string) {
	_, own := newEd25519(t)
	warned := new([]string)
	return openTrust(closedDir(t), own, "me@here",
		func(f string, a ...any) { *warned = append(*warned, fmt.Sprintf(f, a...)) }), warned
}

// interfaceAddr returns an address of one of this machine's network interfaces, which is not link-local.
func interfaceAddr(t testing.TB) net.Addr {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range slices.Backward(addrs) {
		if ip := a.(*net.IPNet).IP; !ip.IsLinkLocalUnicast() {
			return &net.TCPAddr{IP: ip, Port: 4711}
		}
	}
	t.Fatal("no interface has an address")
	return nil
}

func keyLine(pub ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
}

// testCA generates a CA key, and returns its file for ssh-keygen -s and its public key.
func testCA(t testing.TB) (path string, pub ssh.PublicKey) {
	t.Helper()
	key, pub := newEd25519(t)
	return put(t, filepath.Join(t.TempDir(), "ca"), opensshPEM(t, key)), pub
}

// certify runs ssh-keygen to make a certificate for pub.
func certify(t testing.TB, ca string, pub ssh.PublicKey, args ...string) *ssh.Certificate {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	put(t, path+".pub", ssh.MarshalAuthorizedKey(pub))
	runTool(t, "ssh-keygen", slices.Concat([]string{"-q", "-s", ca}, args, []string{path + ".pub"})...)
	data, err := os.ReadFile(path + "-cert.pub")
	if err != nil {
		t.Fatal(err)
	}
	cert, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return cert.(*ssh.Certificate)
}

func TestAdmit(t *testing.T) {
	_, key := newEd25519(t)
	_, other := newEd25519(t)
	k := keyLine(key)
	for _, c := range []struct {
		name, file string
		remote     string
		as         string // The expected name; "" if refused.
		words      string // A part of the result's by, or of the refusal.
		warns      string // A part of the warning; "" if there is none.
	}{
		{"plain", k + " pi@router\n", "", "pi-router", "authorized_keys:1", ""},
		{"joined lines", k + " annssh-ed25519 " + strings.Fields(keyLine(other))[1] + " bob", "", "ann", ":1",
			":1 admits one key and leaves out " + ssh.FingerprintSHA256(other) + " (bob): put it on a line of its own"},
		{"byte order mark", "\ufeff" + k + " Ann\n", "", "Ann", "authorized_keys:1", ""},
		{"UTF-16", string(utf16Text(k + " ann")), "", "", "is UTF-16 text",
			"authorized_keys is UTF-16 text: save it as UTF-8"},
		{"no newline, CRLF, comments", "# x\r\n\r\n" + k + " Ann\r", "", "Ann", "authorized_keys:3", ""},
		{"no comment", k, "", "key-" + keyHex(key, 8), "authorized_keys:1", ""},
		{"unknown", keyLine(other) + " bob", "", "", "is not in", ""},
		{"empty", "", "", "", "is not in", ""},
		{"broken line beside", "nonsense\n" + k + " ann\nssh-ed25519 AAAA\n", "", "ann", "authorized_keys:2",
			":1 admits no key"},
		{"unknown option", "pty " + k + " ann", "", "", "is not in", `option "pty": unknown`},
		{"options without effect", "restrict,no-pty,no-X11-forwarding,no-touch-required " + k + " ann", "", "ann", ":1", ""},
		{"unknown option with value", `command="/bin/sh" ` + k + " ann", "", "", "is not in", `option "command"`},
		{"unknown option beside a known", `from="192.0.2.7",verify-required ` + k + " ann", "", "", "is not in",
			`option "verify-required"`},
		{"option twice", `from="192.0.2.7",FROM="*" ` + k + " ann", "", "", "is not in", "twice"},
		{"option without value", `from ` + k, "", "", "is not in", `option "from"`},
		{"option without quotes", `from=192.0.2.7 ` + k, "", "", "is not in", "double quotes"},
		{"cert-authority with value", `cert-authority="x" ` + k, "", "", "is not in", "cert-authority"},
		{"principals without CA", `principals="ann" ` + k, "", "", "is not in", "no meaning without"},
		{"CA line does not admit its key", "cert-authority " + k + " ann", "", "", "is not in", ""},
		{"wrong type in front", strings.Replace(k, "ssh-ed25519", "ssh-rsa", 1), "", "", "is not in",
			"not a public key line"},
		{"control character", k + " an\x1bn", "", "", "is not in", "control"},
		{"line too long", k + " " + strings.Repeat("x", maxStateLine), "", "", "is not in", "longer than"},

		{"from address", `from="192.0.2.7" ` + k + " ann", "", "ann", ":1", ""},
		{"from CIDR", `from="192.0.2.0/24" ` + k + " ann", "", "ann", ":1", ""},
		{"from other CIDR", `from="192.0.3.0/24" ` + k + " ann", "", "", "does not admit it from 192.0.2.7", ""},
		{"from pattern", `from="10.*,192.0.?.7" ` + k + " ann", "", "ann", ":1", ""},
		{"from negated", `from="192.0.2.0/24,!192.0.2.7" ` + k + " ann", "", "", "does not admit it from", ""},
		{"from negated alone", `from="!10.0.0.1" ` + k + " ann", "", "", "does not admit it from", ""},
		{"from IPv6", `from="2001:db8::/32" ` + k + " ann", "[2001:db8::1]:5", "ann", ":1", ""},
		{"from IPv6 pattern", `from="2001:DB8:*" ` + k + " ann", "[2001:db8::1]:5", "ann", ":1", ""},
		{"from IPv6 written otherwise", `from="0:0:0:0:0:0:0:1" ` + k + " ann", "[::1]:5", "ann", ":1", ""},
		{"from zone", `from="fe80::/10" ` + k + " ann", "[fe80::1%eth0]:5", "ann", ":1", ""},
		{"from mapped IPv4", `from="192.0.2.0/24" ` + k + " ann", "[::ffff:192.0.2.9]:5", "ann", ":1", ""},
		{"from with no address known", `from="*" ` + k + " ann", "pipe", "", "does not admit it", ""},
		{"from a host name", `from="!bad.example,*" ` + k + " ann", "", "", "is not in", "names are not looked up"},
		{"from host bits", `from="192.0.2.7/24" ` + k + " ann", "", "", "is not in", "is not a network"},
		{"from mapped network", `from="::ffff:192.0.2.0/120" ` + k + " ann", "", "", "is not in", "is not a network"},
		{"from empty item", `from="192.0.2.7," ` + k + " ann", "", "", "is not in", `"" is not an address`},

		{"expires later", `expiry-time="20300602" ` + k + " ann", "", "ann", ":1", ""},
		{"expires at this second", `expiry-time="20300601120000Z" ` + k + " ann", "", "", "expired at 2030-06-01T12:00:00Z",
			""},
		{"expires in a second", `expiry-time="20300601120001Z" ` + k + " ann", "", "ann", ":1", ""},
		{"expired, minutes", `expiry-time="203006011159Z" ` + k + " ann", "", "", "expired at", ""},
		{"expired, day in UTC", `expiry-time="20300601Z" ` + k + " ann", "", "", "expired at 2030-06-01T00:00:00Z", ""},
		{"no such day", `expiry-time="20300230" ` + k + " ann", "", "", "is not in", "is not a time"},
		{"no time", `expiry-time="soon" ` + k + " ann", "", "", "is not in", "is not a time"},
		{"second line serves", `from="10.0.0.1" ` + k + " a\n" + k + " b", "", "b", ":2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, warned := newTrust(t)
			put(t, tr.path("authorized_keys"), []byte(c.file))
			var remote net.Addr = testAddr
			if c.remote == "pipe" {
				remote = &net.UnixAddr{Name: "x"}
			} else if c.remote != "" {
				ap, err := net.ResolveTCPAddr("tcp", c.remote)
				if err != nil {
					t.Fatal(err)
				}
				remote = ap
			}
			g, err := tr.admit(key, remote, testNow)
			if c.as == "" {
				wantError(t, err, c.words)
				var u *untrusted
				if !errors.As(err, &u) || (u.kind == unknownKey) != strings.HasPrefix(c.words, "is not in") {
					t.Errorf("%#v", err)
				}
			} else if err != nil || g.name != c.as || !strings.HasSuffix(g.by, c.words) ||
				g.fingerprint != ssh.FingerprintSHA256(key) {
				t.Errorf("%+v, %v", g, err)
			}
			if all := strings.Join(*warned, "\n"); !strings.Contains(all, c.warns) || c.warns == "" && all != "" {
				t.Errorf("warned %q, want %q", all, c.warns)
			}
		})
	}
}

func TestAdmitWithoutLines(t *testing.T) {
	_, key := newEd25519(t)
	tr, warned := newTrust(t)
	_, err := tr.admit(key, testAddr, testNow)
	var u *untrusted
	if !errors.As(err, &u) || u.kind != unknownKey || u.line != keyLine(key)+" guest-"+nameSuffix(key) ||
		!strings.Contains(u.hint, tr.path("authorized_keys")) {
		t.Errorf("without a file: %#v", err)
	}
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}
	for _, remote := range []net.Addr{local, interfaceAddr(t)} {
		if g, err := tr.admit(tr.own, remote, testNow); err != nil || g.name != "me-here" || g.by != "own identity" {
			t.Errorf("own identity from %v: %+v, %v", remote, g, err)
		}
	}
	for _, remote := range []net.Addr{testAddr, nil} {
		if _, err := tr.admit(tr.own, remote, testNow); !isUnknown(err) {
			t.Errorf("own identity from %v: %v", remote, err)
		}
	}
	put(t, tr.path("authorized_keys"), []byte(`expiry-time="20200101" `+keyLine(tr.own)))
	_, err = tr.admit(tr.own, local, testNow)
	wantError(t, err, "authorized_keys:1 expired at")
	put(t, tr.path("authorized_keys"), []byte(keyLine(tr.own)+" admin"))
	if g, err := tr.admit(tr.own, testAddr, testNow); err != nil || g.name != "admin" || g.by != "authorized_keys:1" {
		t.Errorf("own identity with a line: %+v, %v", g, err)
	}
	if err := os.Remove(tr.path("authorized_keys")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(tr.path("authorized_keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = tr.admit(key, testAddr, testNow)
	wantError(t, err, "no client is admitted")
	if len(*warned) == 0 {
		t.Error("an unreadable authorized_keys is not reported")
	}
	_, err = tr.admit(tr.own, local, testNow)
	wantError(t, err, "no client is admitted")
	weak := publicOf(t, newRSA(t, 1024))
	_, err = tr.admit(weak, testAddr, testNow)
	wantError(t, err, "1024 bits is not accepted")

	huge, _ := newTrust(t)
	put(t, huge.path("authorized_keys"), append(bytes.Repeat([]byte{'\n'}, maxStateFile), keyLine(key)...))
	_, err = huge.admit(key, testAddr, testNow)
	wantError(t, err, "longer than 1024 KiB")
}

func TestUserCertificates(t *testing.T) {
	t.Parallel()
	ca, caPub := testCA(t)
	_, otherCA := testCA(t)
	weakCA := filepath.Join(t.TempDir(), "weak")
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", weakCA)
	_, key := newEd25519(t)
	a := keyLine(caPub)
	forever := []string{"-V", "always:forever"}
	with := func(args ...string) []string { return append(args, forever...) }
	for _, c := range []struct {
		name, line string
		args       []string
		as, words  string
	}{
		{"good", "cert-authority " + a, with("-I", "ann", "-z", "7", "-n", "a,b"), "ann",
			`certificate "ann" serial 7 by CA authorized_keys:1`},
		{"id is no name", "cert-authority " + a, with("-I", "Ann of ops", "-n", "ann@ops"), "ann-ops",
			"CA authorized_keys:1"},
		{"neither is a name", "cert-authority " + a, with("-I", " ", "-n", "@"), "key-" + keyHex(key, 8), "CA"},
		{"principal", `cert-authority,principals="x,ops" ` + a, with("-I", "?", "-n", "dev,ops"), "ops", "CA"},
		{"principal before the id", `cert-authority,principals="guest" ` + a, with("-I", "ann", "-n", "guest"), "guest",
			"CA"},
		{"name of another key", "cert-authority " + a + "\n" + keyLine(otherCA) + " Ann", with("-I", "ann", "-n", "ann"),
			"key-" + keyHex(key, 8), "CA authorized_keys:1"},
		{"principal that is the name of another key", `cert-authority,principals="*,ann" ` + a + "\n" + keyLine(otherCA) +
			" ann", with("-I", "x", "-n", "ann"), "key-" + keyHex(key, 8), "CA authorized_keys:1"},
		{"name of a CA's line", "cert-authority " + a + " ann", with("-I", "ann", "-n", "ann"), "ann", "CA"},
		{"the server's name", "cert-authority " + a, with("-I", "me-here", "-n", "ann"), "key-" + keyHex(key, 8), "CA"},
		{"name like the server's", "cert-authority " + a, with("-I", "Me_Here", "-n", "ann"), "key-" + keyHex(key, 8), "CA"},
		{"wrong principal", `cert-authority,principals="ops" ` + a, with("-I", "ann", "-n", "dev"), "",
			`none of its principals ["dev"]`},
		{"no principal", "cert-authority " + a, with("-I", "ann"), "", "names no principal"},
		{"no principal, some wanted", `cert-authority,principals="ann" ` + a, with("-I", "ann"), "", "names no principal"},
		{"expired", "cert-authority " + a, []string{"-I", "ann", "-n", "ann", "-V", "20200101000000:20300601115959"}, "",
			"it expired at"},
		{"not yet valid", "cert-authority " + a, []string{"-I", "ann", "-n", "ann", "-V", "20400101:20410101"}, "",
			"it is not valid before"},
		{"host certificate", "cert-authority " + a, with("-I", "ann", "-n", "ann", "-h"), "", "not a user certificate"},
		{"unknown critical option", "cert-authority " + a, with("-I", "ann", "-n", "ann", "-O", "critical:x@example.com=1"),
			"", `critical option "x@example.com"`},
		{"force-command", "cert-authority " + a, with("-I", "ann", "-n", "ann", "-O", "force-command=ls"), "",
			`critical option "force-command"`},
		{"source-address", "cert-authority " + a,
			with("-I", "ann", "-n", "ann", "-O", "source-address=10.0.0.0/8,192.0.2.0/24"), "ann", "CA"},
		{"source-address elsewhere", "cert-authority " + a,
			with("-I", "ann", "-n", "ann", "-O", "source-address=10.0.0.0/8"), "", "does not admit it from 192.0.2.7"},
		{"line's from", `cert-authority,from="10.0.0.0/8" ` + a, with("-I", "ann", "-n", "ann"), "",
			"does not admit it from 192.0.2.7"},
		{"line expired", `cert-authority,expiry-time="20300101" ` + a, with("-I", "ann", "-n", "ann"), "", "expired at"},
		{"another CA", "cert-authority " + keyLine(otherCA), with("-I", "ann", "-n", "ann"), "",
			"authorized_keys lists neither that CA nor key"},
		{"CA listed as a person", a, with("-I", "ann", "-n", "ann"), "", "authorized_keys lists neither that CA nor key"},
		{"key listed itself", keyLine(key) + " ann", []string{"-I", "x", "-n", "x", "-V", "20200101:20210101"}, "ann",
			"authorized_keys:1"},
		{"weak CA", "", with("-I", "ann", "-n", "ann", "-s", weakCA), "", "the certificate's CA: an RSA key of 1024 bits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, _ := newTrust(t)
			put(t, tr.path("authorized_keys"), []byte(c.line+"\n"))
			g, err := tr.admit(certify(t, ca, key, c.args...), testAddr, testNow)
			if c.as == "" {
				wantError(t, err, c.words)
			} else if err != nil || g.name != c.as || !strings.Contains(g.by, c.words) {
				t.Errorf("%+v, %v", g, err)
			}
		})
	}

	tr, _ := newTrust(t)
	put(t, tr.path("authorized_keys"), []byte("cert-authority "+a+"\n"))
	forged := *certify(t, ca, key, with("-I", "ann", "-n", "ann")...)
	forged.KeyId = "root"
	_, err := tr.admit(&forged, testAddr, testNow)
	wantError(t, err, "does not verify")
	rsaCA := filepath.Join(t.TempDir(), "rsa")
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsaCA)
	old := certify(t, rsaCA, key, with("-t", "ssh-rsa", "-I", "ann", "-n", "ann")...)
	put(t, tr.path("authorized_keys"), []byte("cert-authority "+keyLine(old.SignatureKey)+"\n"))
	_, err = tr.admit(old, testAddr, testNow)
	wantError(t, err, "SHA-1")
}

func TestCheckServer(t *testing.T) {
	_, key := newEd25519(t)
	_, other := newEd25519(t)
	k, o := keyLine(key), keyLine(other)
	const addr = "chat.example:9000"
	for _, c := range []struct {
		name, file, addr string
		words            string // "known_hosts:N", "changed", "unknown", or a part of another refusal.
		warns            string
	}{
		{"pinned", "[chat.example]:9000 " + k, addr, "known_hosts:1", ""},
		{"pinned, case", "[Chat.Example]:9000 " + k, "CHAT.example:9000", "known_hosts:1", ""},
		{"hashed", knownhosts.HashHostname("[chat.example]:9000") + " " + k, addr, "known_hosts:1", ""},
		{"hashed, changed", knownhosts.HashHostname("[chat.example]:9000") + " " + o, addr, "changed", ""},
		{"several keys", "[chat.example]:9000 " + o + "\n[chat.example]:9000 " + k, addr, "known_hosts:2", ""},
		{"other port", "[chat.example]:9001 " + k, addr, "unknown", ""},
		{"port 22", "chat.example " + k, "chat.example:22", "known_hosts:1", ""},
		{"port 22, changed", "chat.example " + o, "chat.example:22", "changed", ""},
		{"without port", "chat.example " + k, addr, "known_hosts:1", ""},
		{"without port, another key", "chat.example " + o, addr, "unknown", ""},
		{"IPv6", "[::1]:9000 " + k, "[::1]:9000", "known_hosts:1", ""},
		{"IPv6 spelt out", "[::1]:9000 " + k, "[0:0::1]:9000", "known_hosts:1", ""},
		{"port with a zero", "[chat.example]:9000 " + k, "chat.example:09000", "known_hosts:1", ""},
		{"port with a plus", "[chat.example]:9000 " + o, "chat.example:+9000", "changed", ""},
		{"port in the file", "[chat.example]:09000 " + o, addr, "changed", ""},
		{"port 22 in the file", "[chat.example]:22 " + o, "chat.example:022", "changed", ""},
		{"port 22 in the file, other port", "[chat.example]:22 " + o, addr, "unknown", ""},
		{"port by name", "chat.example " + k, "chat.example:ssh", "known_hosts:1", ""},
		{"dot at the end", "[chat.example]:9000 " + o, "chat.example.:9000", "changed", ""},
		{"IPv6 in the file", "[2001:DB8:0:0::0:1]:9000 " + o, "[2001:db8::1]:9000", "changed", ""},
		{"IPv6 with a zone", "[fe80::1]:9000 " + o, "[fe80::1%eth0]:9000", "changed", ""},
		{"IPv6 with a zone in the file", "[fe80::1%eth0]:9000 " + o, "[fe80:0::1%2]:9000", "changed", ""},
		{"IPv6 with a zone, hashed", knownhosts.HashHostname("[fe80::1%eth0]:9000") + " " + o, "[fe80::1%eth0]:9000",
			"changed", ""},
		{"mapped IPv4", "[192.0.2.7]:9000 " + o, "[::ffff:192.0.2.7]:9000", "changed", ""},
		{"mapped IPv4 in the file", "[::FFFF:c000:207]:9000 " + o, "192.0.2.7:9000", "changed", ""},
		{"not a port", "", "chat.example:70000", "is not a port", ""},
		{"IPv6 at 22", "::1 " + k, "[::1]:22", "known_hosts:1", ""},
		{"wildcard", "[*.example]:9000 " + k, addr, "known_hosts:1", ""},
		{"wildcard negated", "*,![chat.example]:9000 " + k, addr, "unknown", ""},
		{"wildcard negated without port", "*,!chat.example " + k, addr, "unknown", ""},
		{"list of names", "a,[b]:9000,[chat.example]:9000 " + k, addr, "known_hosts:1", ""},
		{"empty", "", addr, "unknown", ""},
		{"changed", "# x\n[chat.example]:9000 " + o, addr, "changed", ""},
		{"revoked", "@revoked * " + k + "\n[chat.example]:9000 " + k, addr, "revoked by", ""},
		{"revoked below", "[chat.example]:9000 " + k + "\n@revoked nowhere " + k, addr, "revoked by", ""},
		{"broken line", "??? \n[chat.example]:9000 " + k, addr, "known_hosts:2", ":1 trusts no server"},
		{"broken revocation", "[chat.example]:9000 " + k + "\n@revoked * ssh-ed25519 AAAA", addr, "while ", ""},
		{"revocation after its hosts", "[chat.example]:9000 " + k + "\n* @revoked " + k, addr, "while ", ""},
		{"revocation after a byte order mark", "[chat.example]:9000 " + k + "\n\ufeff@revoked * " + k, addr, "revoked by",
			""},
		{"revocation after a zero-width character", "[chat.example]:9000 " + k + "\n\u200b@revoked * " + k, addr, "while ",
			""},
		{"revocation with a zero-width character", "[chat.example]:9000 " + k + "\n@rev\u00adoked * " + k, addr, "while ",
			""},
		{"revocation joined to a line", "[chat.example]:9000 " + k + " x@revoked * " + k, addr,
			"only at the start of a line", ""},
		{"revocation joined to another", "[chat.example]:9000 " + k + "\n@revoked * " + o + " x@revoked * " + k, addr,
			"only at the start of a line", ""},
		{"key joined to a revocation", "[chat.example]:9000 " + k + "\n@revoked * " + o + " x" + k, addr,
			"has no effect there", ""},
		{"revocation in a comment", "[chat.example]:9000 " + k + "\n# @revoked * " + k, addr, "has no effect there", ""},
		{"revocation after CR", "# x\r@revoked * " + k + "\n[chat.example]:9000 " + k, addr, "has no effect there", ""},
		{"revocation of a CA", "[chat.example]:9000 " + k + "\n@cert-authority @revoked " + k, addr, "while ", ""},
		{"marker forgotten", "[chat.example]:9000 " + k + "\nrevoked * " + k, addr, "while ", ""},
		{"comment about a revocation", "# @revoked " + ssh.FingerprintSHA256(other) + "\n@revoked * " + o +
			"\n[chat.example]:9000 " + k, addr, "known_hosts:3", ""},
		{"a host of that name", "revoked.example,[chat.example]:9000 " + k, addr, "known_hosts:1", ""},
		{"UTF-16", string(utf16Text("[chat.example]:9000 " + k)), addr, "is UTF-16 text", ""},
		{"unknown marker", "[chat.example]:9000 " + k + "\n@revoke * " + k, addr, "while ", ""},
		{"CA and no certificate", "@cert-authority *.example " + o, addr, "unknown", ""},
		{"loose before an exact CA", "chat.example " + k + "\n@cert-authority [chat.example]:9000 " + o, addr, "unknown", ""},
		{"exact and an exact CA", "[chat.example]:9000 " + k + "\n@cert-authority [chat.example]:9000 " + o, addr,
			"known_hosts:1", ""},
		{"exact before loose", "[chat.example]:9000 " + o + "\nchat.example " + k, addr, "changed", ""},
		{"exact after loose", "chat.example " + k + "\n[chat.example]:9000 " + o, addr, "changed", ""},
		{"exact before loose, hashed", knownhosts.HashHostname("[chat.example]:9000") + " " + o + "\nchat.example " + k,
			addr, "changed", ""},
		{"loose beside another port", "[chat.example]:9001 " + o + "\nchat.example " + k, addr, "known_hosts:2", ""},
		{"pin beside a CA", "@cert-authority * " + o + "\n[chat.example]:9000 " + k, addr, "known_hosts:2", ""},
		{"no port", "", "chat.example", "must be host:port", ""},
		{"pattern typed", "[*]:9000 " + k, "*:9000", "not a host name", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, warned := newTrust(t)
			put(t, tr.path("known_hosts"), []byte(c.file))
			by, err := tr.checkServer(c.addr, testAddr, key, testNow)
			var u *untrusted
			errors.As(err, &u)
			switch {
			case strings.HasPrefix(c.words, "known_hosts"):
				if err != nil || by != c.words {
					t.Errorf("%q, %v", by, err)
				}
			case c.words == "unknown":
				if u == nil || u.kind != unknownKey || !strings.Contains(u.reason, ssh.FingerprintSHA256(key)) {
					t.Errorf("%q, %#v", by, err)
				}
			case c.words == "changed":
				if u == nil || u.kind != changedKey || !strings.Contains(u.reason, tr.path("known_hosts")+":") ||
					!strings.Contains(u.reason, ssh.FingerprintSHA256(key)) ||
					!strings.Contains(u.reason, ssh.FingerprintSHA256(other)) ||
					!strings.Contains(u.hint, "ssh-keygen -R ") {
					t.Errorf("%q, %#v", by, err)
				}
			default:
				wantError(t, err, c.words)
				if u != nil && u.kind != refusedKey {
					t.Errorf("%#v", u)
				}
			}
			if all := strings.Join(*warned, "\n"); !strings.Contains(all, c.warns) || c.warns == "" && all != "" {
				t.Errorf("warned %q, want %q", all, c.warns)
			}
		})
	}

	tr, _ := newTrust(t)
	local := &net.TCPAddr{IP: net.IPv4(127, 9, 9, 9), Port: 9000}
	mapped := &net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1"), Port: 9000}
	for _, remote := range []net.Addr{local, mapped, &net.TCPAddr{IP: net.IPv6loopback, Port: 9000}, interfaceAddr(t)} {
		if by, err := tr.checkServer(addr, remote, tr.own, testNow); err != nil || by != "own identity" {
			t.Errorf("own identity at %v: %q, %v", remote, by, err)
		}
	}
	for _, remote := range []net.Addr{testAddr, nil, &net.UnixAddr{Name: "x"}} {
		_, err := tr.checkServer(addr, remote, tr.own, testNow)
		if !isUnknown(err) || !strings.Contains(hintOf(err), "only on this machine") {
			t.Errorf("own identity at %v: %v", remote, err)
		}
	}
	for file, words := range map[string]string{
		"[chat.example]:9000 " + o:       "has changed",
		"chat.example " + o:              "is unknown",
		"@cert-authority *.example " + o: "is unknown",
	} {
		put(t, tr.path("known_hosts"), []byte(file))
		_, err := tr.checkServer(addr, local, tr.own, testNow)
		wantError(t, err, words)
	}
	put(t, tr.path("known_hosts"), []byte("@revoked * "+keyLine(tr.own)))
	_, err := tr.checkServer(addr, testAddr, tr.own, testNow)
	wantError(t, err, "revoked by")
	if err := errors.Join(os.Remove(tr.path("known_hosts")), os.Mkdir(tr.path("known_hosts"), 0o700)); err != nil {
		t.Fatal(err)
	}
	_, err = tr.checkServer(addr, testAddr, key, testNow)
	wantError(t, err, "no server is trusted")
}

func TestRememberAndSSHKeygen(t *testing.T) {
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	_, other := newEd25519(t)
	file := tr.path("known_hosts")
	put(t, file, []byte("a.example "+keyLine(other))) // The file does not end with a newline.
	for _, addr := range []string{"chat.example:9000", "[::1]:9000", "chat.example:22", "chat.example:9000"} {
		if err := tr.remember(addr, key); err != nil {
			t.Fatal(err)
		}
		if by, err := tr.checkServer(addr, nil, key, testNow); err != nil || !strings.HasPrefix(by, "known_hosts:") {
			t.Error(addr, by, err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil || bytes.Count(data, []byte("\n")) != 4 || bytes.Contains(data, []byte("chat.example")) {
		t.Errorf("%s, %v", data, err)
	}
	wantError(t, tr.remember("chat.example:9000", other), "has changed")
	for name, want := range map[string]string{"[chat.example]:9000": "line 2", "[::1]:9000": "line 3",
		"chat.example": "line 4"} {
		if out := runTool(t, "ssh-keygen", "-F", name, "-f", file); !strings.Contains(out, want) {
			t.Errorf("ssh-keygen -F %s: %s", name, out)
		}
	}
	runTool(t, "ssh-keygen", "-R", "[chat.example]:9000", "-f", file)
	runTool(t, "ssh-keygen", "-H", "-f", file)
	if by, err := tr.checkServer("[::1]:9000", nil, key, testNow); err != nil || by != "known_hosts:2" {
		t.Error("after ssh-keygen -R and -H:", by, err)
	}
	if by, err := tr.checkServer("a.example:22", nil, other, testNow); err != nil || by != "known_hosts:1" {
		t.Error("hashed by ssh-keygen -H:", by, err)
	}

	fresh, _ := newTrust(t)
	put(t, fresh.path("known_hosts"), []byte("@cert-authority * "+keyLine(other)+"\n"))
	if err := fresh.remember("h:1", key); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(fresh.path("known_hosts")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Error(info, err)
	}
}

func TestHostCertificates(t *testing.T) {
	ca, caPub := testCA(t)
	other, _ := testCA(t)
	_, key := newEd25519(t)
	forever := []string{"-h", "-I", "srv", "-V", "always:forever"}
	with := func(args ...string) []string { return append(args, forever...) }
	for _, c := range []struct {
		name, file, ca string
		args           []string
		words          string
		trusted        bool
	}{
		{"good", "@cert-authority *.example ", ca, with("-n", "chat.example"),
			`certificate "srv" serial 0 by CA known_hosts:1`, true},
		{"good, with port", "@cert-authority [*.example]:9000 ", ca, with("-n", "x,*.example"), "CA known_hosts:1", true},
		{"beats an old pin", "[chat.example]:9000 " + keyLine(publicOf(t, newRSA(t, 2048))) + "\n@cert-authority * ", ca,
			with("-n", "chat.example"), "CA known_hosts:2", true},
		{"loose", "@cert-authority chat.example ", ca, with("-n", "chat.example"), "CA known_hosts:1", true},
		{"loose beside an exact pin", "[chat.example]:9000 " + keyLine(publicOf(t, newRSA(t, 2048))) +
			"\n@cert-authority chat.example ", ca, with("-n", "chat.example"), "has changed", false},
		{"other host", "@cert-authority * ", ca, with("-n", "mail.example"), "none of its principals", false},
		{"no host", "@cert-authority * ", ca, with(), "names no principal", false},
		{"expired", "@cert-authority * ", ca, []string{"-h", "-I", "srv", "-n", "chat.example", "-V", "20200101:20210101"},
			"it expired at", false},
		{"not yet", "@cert-authority * ", ca, []string{"-h", "-I", "srv", "-n", "chat.example", "-V", "20400101:20410101"},
			"not valid before", false},
		{"user certificate", "@cert-authority * ", ca, []string{"-I", "srv", "-n", "chat.example", "-V", "always:forever"},
			"not a host certificate", false},
		{"critical option", "@cert-authority * ", ca, with("-n", "chat.example", "-O", "critical:x=y"), "critical option",
			false},
		{"another CA", "@cert-authority * ", other, with("-n", "chat.example"), "requires CA", false},
		{"CA of other hosts", "@cert-authority *.test ", ca, with("-n", "chat.example"), "is unknown", false},
		{"revoked CA", "@revoked * " + keyLine(caPub) + "\n@cert-authority * ", ca, with("-n", "chat.example"),
			"is revoked by", false},
		{"CA as a pin", "[chat.example]:9000 ", ca, with("-n", "chat.example"), "has changed", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, _ := newTrust(t)
			put(t, tr.path("known_hosts"), []byte(c.file+keyLine(caPub)+"\n"))
			by, err := tr.checkServer("chat.example:9000", testAddr, certify(t, c.ca, key, c.args...), testNow)
			if !c.trusted {
				wantError(t, err, c.words)
				var u *untrusted
				if !errors.As(err, &u) || (u.kind == unknownKey) != (c.words == "is unknown") {
					t.Errorf("%#v", err)
				}
			} else if err != nil || !strings.HasSuffix(by, c.words) {
				t.Errorf("%q, %v", by, err)
			}
		})
	}
}

func TestRevoked(t *testing.T) {
	ca, caPub := testCA(t)
	_, other := testCA(t)
	_, key := newEd25519(t)
	dir := t.TempDir()
	caFile := put(t, filepath.Join(dir, "ca.pub"), ssh.MarshalAuthorizedKey(caPub))
	otherFile := put(t, filepath.Join(dir, "other.pub"), ssh.MarshalAuthorizedKey(other))
	cert := certify(t, ca, key, "-I", "ann", "-n", "ann", "-z", "70", "-V", "always:forever")
	krl := func(spec string, caFile string) []byte {
		out := filepath.Join(t.TempDir(), "krl")
		args := []string{"-q", "-k", "-f", out}
		if caFile != "" {
			args = append(args, "-s", caFile)
		}
		runTool(t, "ssh-keygen", append(args, put(t, filepath.Join(t.TempDir(), "spec"), []byte(spec)))...)
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	bitmap := "" // ssh-keygen packs scattered serials into a bitmap
	for i := 30; i < 300; i += 2 {
		bitmap += fmt.Sprintf("serial: %d\n", i)
	}
	whole := krl("serial: 5-80\nid: bob\n"+keyLine(other), caFile)
	for _, c := range []struct {
		name      string
		data      []byte
		key, cert string // Parts of their refusals; "" if accepted.
	}{
		{"list", []byte("# gone\n" + keyLine(key) + " ann\n"), "revoked by", "revoked by"},
		{"list of another", []byte(keyLine(other)), "", ""},
		{"list of the CA", []byte(keyLine(caPub)), "", "its CA is revoked"},
		{"fingerprint", []byte(ssh.FingerprintSHA256(key) + " ann"), "revoked by", "revoked by"},
		{"empty", nil, "it is empty", "it is empty"},
		{"a line end only", []byte("\n"), "", ""},
		{"joined lines", []byte(keyLine(other) + " bob" + keyLine(key) + " ann\n"), "has no effect there",
			"has no effect there"},
		{"two fingerprints on a line", []byte(ssh.FingerprintSHA256(other) + " " + ssh.FingerprintSHA256(key)),
			"has no effect there", "has no effect there"},
		{"fingerprint after #", []byte(ssh.FingerprintSHA256(other) + " # " + ssh.FingerprintSHA256(key)),
			"has no effect there", "has no effect there"},
		{"fingerprint in a comment", []byte("# " + ssh.FingerprintSHA256(key)), "has no effect there", "has no effect there"},
		{"key in a comment", []byte("#" + keyLine(key)), "has no effect there", "has no effect there"},
		{"fingerprint after CR", []byte("# gone\r" + ssh.FingerprintSHA256(key) + "\n"), "has no effect there",
			"has no effect there"},
		{"key after CR", []byte(keyLine(other) + "\r" + keyLine(key) + "\n"), "control characters", "control characters"},
		{"comment about a listed key", []byte("# " + ssh.FingerprintSHA256(other) + "\n" + keyLine(other) + " bob\n"), "",
			""},
		{"comment about a listed fingerprint",
			[]byte("# " + keyLine(other) + "\n" + ssh.FingerprintSHA256(other) + "\tbob\n"), "", ""},
		{"byte order marks", []byte("\ufeff# x\n\ufeff" + keyLine(key) + "\r\n"), "revoked by", "revoked by"},
		{"zero-width character", []byte("\u200b" + keyLine(key)), "neither a public key", "neither a public key"},
		{"zero bytes", make([]byte, 512), "control characters", "control characters"},
		{"UTF-16", utf16Text(keyLine(key)), "is UTF-16 text", "is UTF-16 text"},
		{"UTF-16 without a mark", utf16Text(keyLine(key))[2:], "is UTF-16 text", "is UTF-16 text"},
		{"broken list", []byte(keyLine(other) + "\nssh-ed25519 AAAA\n"), "no key is trusted", "no key is trusted"},
		{"broken fingerprint", []byte("SHA256:abc"), "no key is trusted", "no key is trusted"},
		{"list with options", []byte("restrict " + keyLine(other)), "no key is trusted", "no key is trusted"},
		{"KRL of the key", krl(keyLine(key), ""), "revoked by", "revoked by"},
		{"KRL of the key by SHA-1", krl("sha1: "+keyLine(key), ""), "revoked by", "revoked by"},
		{"KRL of the key by SHA-256", krl("sha256: "+keyLine(key), ""), "revoked by", "revoked by"},
		{"KRL of the CA", krl(keyLine(caPub), ""), "", "its CA is revoked"},
		{"KRL of a serial", krl("serial: 70", caFile), "", "by its serial"},
		{"KRL of serials", krl("serial: 5-80", caFile), "", "by its serial"},
		{"KRL of other serials", krl("serial: 71-80", caFile), "", ""},
		{"KRL of many serials", krl(bitmap, caFile), "", "by its serial"},
		{"KRL of many other serials", krl(strings.ReplaceAll(bitmap, "serial: 70\n", ""), caFile), "", ""},
		{"KRL of another CA's serial", krl("serial: 70", otherFile), "", ""},
		{"KRL of any CA's id", krl("id: ann", "none"), "", "by its id"},
		{"KRL of an id", krl("id: ann", caFile), "", "by its id"},
		{"KRL of another id", krl("id: bob", caFile), "", ""},
		{"KRL of two kinds", whole, "", "by its serial"},
		{"KRL cut short", whole[:len(whole)-1], "no key is trusted", "no key is trusted"},
		{"KRL of a later format", bytes.Replace(whole, []byte("\x00\x00\x00\x01"), []byte("\x00\x00\x00\x02"), 1),
			"no key is trusted", "no key is trusted"},
		{"KRL with an unknown section", append(bytes.Clone(whole), 9, 0, 0, 0, 0), "no key is trusted", "no key is trusted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr, _ := newTrust(t)
			put(t, tr.path("authorized_keys"), []byte(keyLine(key)+" ann\ncert-authority "+keyLine(caPub)+"\n"))
			put(t, tr.path("known_hosts"), []byte("[h]:1 "+keyLine(key)+"\n"))
			put(t, tr.path("revoked_keys"), c.data)
			for _, s := range []struct {
				id    ssh.PublicKey
				words string
			}{{key, c.key}, {cert, c.cert}} {
				_, admitted := tr.admit(s.id, testAddr, testNow)
				_, known := tr.checkServer("h:1", testAddr, s.id, testNow)
				for _, err := range []error{admitted, known} {
					if s.words != "" {
						wantError(t, err, s.words)
					} else if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}

	tr, _ := newTrust(t)
	put(t, tr.path("revoked_keys"), []byte(keyLine(tr.own)))
	_, err := tr.admit(tr.own, testAddr, testNow)
	wantError(t, err, "revoked by")
	_, err = tr.allow([]byte(keyLine(tr.own)), "me", false)
	wantError(t, err, "revoked by")
	if err := errors.Join(os.Remove(tr.path("revoked_keys")), os.Mkdir(tr.path("revoked_keys"), 0o700)); err != nil {
		t.Fatal(err)
	}
	_, err = tr.admit(tr.own, testAddr, testNow)
	wantError(t, err, "no key is trusted")
	if err := errors.Join(os.Remove(tr.path("revoked_keys")), os.Symlink("nowhere", tr.path("revoked_keys"))); err != nil {
		t.Fatal(err)
	}
	_, err = tr.admit(tr.own, testAddr, testNow)
	wantError(t, err, "no key is trusted")
}

// TestRevokedHint checks that a user is asked to repair revoked_keys only if its contents are wrong, and not if the
// system could not read it.
func TestRevokedHint(t *testing.T) {
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	hint := func() string {
		var u *untrusted
		if err := tr.checkKey(key); !errors.As(err, &u) || u.kind != undecided {
			t.Fatalf("%v", err)
		}
		return u.hint
	}
	put(t, tr.path("revoked_keys"), []byte("no key\n"))
	if got := hint(); !strings.Contains(got, "repair it") {
		t.Errorf("contents: hint %q", got)
	}
	if err := os.Remove(tr.path("revoked_keys")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("missing", tr.path("revoked_keys")); err != nil {
		t.Fatal(err)
	}
	if got := hint(); got != "" {
		t.Errorf("a file that cannot be opened: hint %q", got)
	}
}

// TestKRLSections parses sections that ssh-keygen rarely or never writes, each in a valid and a damaged form.
func TestKRLSections(t *testing.T) {
	ca, caPub := testCA(t)
	_, key := newEd25519(t)
	cert := certify(t, ca, key, "-I", "ann", "-n", "ann", "-z", "7")
	zero := certify(t, ca, key, "-I", "ann", "-n", "ann", "-z", "0")
	str := func(b string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) + b }
	u64 := func(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }
	certs := func(ca, subs string) string { return "\x01" + str(str(ca)+str("")+subs) }
	sec := func(kind byte, body string) string { return string([]byte{kind}) + str(body) }
	ext := func(critical byte) string { return str("x@y") + string([]byte{critical}) + str("z") }
	head := krlMagic + "\x00\x00\x00\x01" + u64(1) + u64(2) + u64(0) + str("") + str("comment")
	own := string(caPub.Marshal())
	_, otherKey := newEd25519(t)
	other := string(otherKey.Marshal())
	for _, c := range []struct {
		name, body    string
		broken, holds bool // The cert is revoked.
	}{
		{"nothing", "", false, false},
		{"serials", certs(own, sec(0x20, u64(3)+u64(7))), false, true},
		{"other serials", certs(own, sec(0x20, u64(3)+u64(8))), false, false},
		{"range", certs(own, sec(0x21, u64(7)+u64(7))), false, true},
		{"range backwards", certs(own, sec(0x21, u64(9)+u64(3))), true, false},
		{"certificate as a key", "\x02" + str(str(string(zero.Marshal()))), false, true},
		{"range from nought", certs(own, sec(0x21, u64(0)+u64(6))), false, false},
		{"bitmap", certs(own, sec(0x22, u64(4)+str("\x08"))), false, true},
		{"bitmap beside", certs(own, sec(0x22, u64(4)+str("\xf7"))), false, false},
		{"bitmap above", certs(own, sec(0x22, u64(8)+str("\xff"))), false, false},
		{"any CA", certs("", sec(0x20, u64(7))), false, true},
		{"ids", certs(own, sec(0x23, str("bob")+str("ann"))), false, true},
		{"a CA that is no key", certs("other", sec(0x20, u64(7))), true, false},
		{"a key that is no key", sec(2, str("key")), true, false},
		{"second section", certs(other, sec(0x20, u64(7))) + certs(own, sec(0x20, u64(7))), false, true},
		{"extension", sec(255, ext(0)) + certs(own, sec(0x39, ext(0))+sec(0x20, u64(7))), false, true},
		{"critical extension", sec(255, ext(1)), true, false},
		{"critical certificate extension", certs(own, sec(0x39, ext(1))), true, false},
		{"extension with a rest", sec(255, ext(0)+"x"), true, false},
		{"unknown certificate section", certs(own, sec(0x24, "x")), true, false},
		{"half a serial", certs(own, sec(0x20, "\x00\x00\x00\x07")), true, false},
		{"half a range", certs(own, sec(0x21, u64(7))), true, false},
		{"half an id", certs(own, sec(0x23, "\x00\x00\x00\x09ann")), true, false},
		{"half a certificate section", certs(own, "\x20\x00"), true, false},
		{"fingerprint too short", sec(5, str("short")), true, false},
		{"half a key", sec(2, "\x00\x00\x00\x09key"), true, false},
		{"signature", sec(4, str("key")), true, false},
		{"half a section", "\x02\x00", true, false},
	} {
		r, err := parseRevoked([]byte(head + c.body))
		if (err != nil) != c.broken {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && ((r.revokes(cert) != "") != c.holds || r.revokes(caPub) != "") {
			t.Errorf("%s: revokes %q", c.name, r.revokes(cert))
		}
	}
	r, err := parseRevoked([]byte(head + certs(own, sec(0x21, u64(0)+u64(9)))))
	if err != nil || r.revokes(zero) != "" {
		t.Errorf("serial 0 is none, and cannot be revoked as one: %v", err)
	}
	for i := len(krlMagic); i < len(head); i++ {
		if _, err := parseRevoked([]byte(head[:i])); err == nil {
			t.Errorf("%d bytes of a header are taken", i)
		}
	}
}

// utf16Text returns ASCII text as little-endian UTF-16 with a byte order mark.
func utf16Text(s string) []byte {
	b := []byte{0xff, 0xfe}
	for i := range len(s) {
		b = append(b, s[i], 0)
	}
	return b
}

func TestAllow(t *testing.T) {
	tr, _ := newTrust(t)
	priv, key := newEd25519(t)
	_, other := newEd25519(t)
	_, ca := newEd25519(t)
	g, err := tr.allow([]byte("# a key\n"+keyLine(key)+" pi@router\r\n"), "", false)
	if err != nil || g.name != "pi-router" || g.by != "authorized_keys:1" {
		t.Fatalf("%+v, %v", g, err)
	}
	if g, err := tr.admit(key, testAddr, testNow); err != nil || g.name != "pi-router" {
		t.Errorf("%+v, %v", g, err)
	}
	if g, err := tr.allow([]byte(`from="192.0.2.7",cert-authority `+keyLine(ca)), "ops", false); err != nil ||
		g.by != "authorized_keys:2" {
		t.Errorf("%+v, %v", g, err)
	}
	g, err = tr.allow([]byte(keyLine(key)+" again"), "", false)
	if !errors.Is(err, errListed) || g.name != "pi-router" || g.by != "authorized_keys:1" {
		t.Errorf("%+v, %v", g, err)
	}
	data, err := os.ReadFile(tr.path("authorized_keys"))
	want := keyLine(key) + " pi-router\nfrom=\"192.0.2.7\",cert-authority " + keyLine(ca) + " ops\n"
	if err != nil || string(data) != want {
		t.Errorf("%s, %v", data, err)
	}
	caPath, _ := testCA(t)
	for name, c := range map[string][3]string{
		"private key":    {string(opensshPEM(t, priv)), "", "private key"},
		"nothing":        {"\n# x\n", "", "no public key line"},
		"two lines":      {keyLine(key) + "\n" + keyLine(other), "", "more than one line"},
		"nonsense":       {"hello there", "", "the line is not accepted"},
		"unknown option": {"pty " + keyLine(other), "", `option "pty"`},
		"bad name":       {keyLine(other), "a b", "is no name"},
		"weak":           {keyLine(publicOf(t, newRSA(t, 1024))), "", "1024 bits"},
		"certificate":    {keyLine(certify(t, caPath, other, "-I", "x", "-n", "x")), "", "certificate"},
		"long":           {strings.Repeat("\n", maxKeyFile+1), "", "too long"},
	} {
		if _, err := tr.allow([]byte(c[0]), c[1], false); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: got %v, want %q", name, err, c[2])
		}
	}
	if again, err := os.ReadFile(tr.path("authorized_keys")); err != nil || !bytes.Equal(again, data) {
		t.Errorf("a refused line changed the file: %s, %v", again, err)
	}
}

// TestNamesAreTaken checks that a name which belongs to another key is an error, unless allow is called with shareName.
func TestNamesAreTaken(t *testing.T) {
	tr, warned := newTrust(t)
	_, ann := newEd25519(t)
	_, other := newEd25519(t)
	if _, err := tr.allow([]byte(keyLine(ann)), "ann", false); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ann", "Ann", "me-here", "ME.here"} {
		_, err := tr.allow([]byte(keyLine(other)), name, false)
		wantError(t, err, "already belongs to another key")
		_, err = tr.newInvite(name, testNow)
		wantError(t, err, "already belongs to another key")
		wantError(t, tr.checkNewName(name), "choose another name")
	}
	if err := errors.Join(tr.checkNewName("bob"), tr.checkNewName("@")); err != nil {
		t.Error(err)
	}
	if g, err := tr.allow([]byte(keyLine(other)), "ann", true); err != nil || g.name != "ann" {
		t.Errorf("%+v, %v", g, err)
	}

	// If -allow gives the name of an unused invite to a key, the invite becomes invalid.
	_, guest := newEd25519(t)
	first, second := invited(t, tr, "bob"), invited(t, tr, "Bob")
	if len(*warned) != 1 || !strings.Contains((*warned)[0], "the earlier invite for Bob is no longer valid") {
		t.Errorf("warned %q", *warned)
	}
	redeem := func(code inviteCode, commit bool) error {
		_, err := tr.redeem(code.proof(testH0, testHPKE, guest.Marshal()), testH0, testHPKE, guest, testNow, commit)
		return err
	}
	wantError(t, redeem(first, false), "wrong, used or expired")
	_, bob := newEd25519(t)
	if _, err := tr.allow([]byte(keyLine(bob)), "b0b", false); err != nil {
		t.Fatal(err)
	}
	wantError(t, redeem(second, false), "a name that now belongs to another key (authorized_keys:3)")
	wantError(t, redeem(second, true), "a name that now belongs to another key (authorized_keys:3)")
}

func TestConcurrentAllow(t *testing.T) {
	tr, _ := newTrust(t)
	var wg sync.WaitGroup
	for range 8 {
		_, key := newEd25519(t)
		wg.Go(func() {
			if _, err := tr.allow([]byte(keyLine(key)), "", false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if lines, err := tr.readAuthorized(); err != nil || len(lines.lines) != 8 {
		t.Errorf("%d of 8 lines, %v", len(lines.lines), err)
	}
}

func TestWriteFollowsLinks(t *testing.T) {
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	target := put(t, filepath.Join(t.TempDir(), "shared"), nil)
	if err := os.Symlink(target, tr.path("authorized_keys")); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.allow([]byte(keyLine(key)), "ann", false); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(target); err != nil || string(data) != keyLine(key)+" ann\n" {
		t.Errorf("%s, %v", data, err)
	}
}

// TestReplaceMountPoint checks that a file that cannot be replaced by a rename is overwritten in place.
func TestReplaceMountPoint(t *testing.T) {
	dir := t.TempDir()
	path := put(t, filepath.Join(dir, "authorized_keys"), []byte("a longer text than the new one\n"))
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	busy := func(from, to string) error {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.EBUSY}
	}
	if err := replaceFile(path, []byte("new\n"), busy, syncFolder); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if data, readErr := os.ReadFile(path); readErr != nil || err != nil || string(data) != "new\n" ||
		!os.SameFile(before, after) {
		t.Errorf("%q, %v, %v", data, readErr, err)
	}
	denied := func(string, string) error { return syscall.EACCES }
	if err := replaceFile(path, []byte("newer\n"), denied, syncFolder); !errors.Is(err, syscall.EACCES) {
		t.Error(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("files left over: %v, %v", names, err)
	}
}

// TestReplaceFlushesFolder checks that a new file is flushed to disk under its name, after the rename.
func TestReplaceFlushesFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "authorized_keys")
	flushed := ""
	sync := func(folder string) error {
		data, err := os.ReadFile(path)
		flushed = folder + " " + string(data)
		return err
	}
	if err := replaceFile(path, []byte("new"), os.Rename, sync); err != nil || flushed != filepath.Dir(path)+" new" {
		t.Errorf("flushed %q, %v", flushed, err)
	}
	failed := func(string) error { return syscall.EIO }
	if err := replaceFile(path, []byte("newer"), os.Rename, failed); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
}

// TestClockFault checks that only a clock behind the time of the build is reported.
func TestClockFault(t *testing.T) {
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.time", Value: "2030-06-01T12:00:00Z"}}}
	if text := clockFault(info, testNow.Add(-time.Second)); !strings.Contains(text,
		"the clock is wrong: it shows 2030-06-01T11:59:59Z") {
		t.Errorf("%q", text)
	}
	for _, i := range []*debug.BuildInfo{info, {}, nil} {
		if text := clockFault(i, testNow); text != "" {
			t.Errorf("%q", text)
		}
	}
}

func TestMatchPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"?", "", false}, {"a*c", "abbc", true}, {"a*c", "abbd", false},
		{"*.example", "a.b.example", true}, {"*.example", "example", false}, {"a?c", "abc", true}, {"**a**", "bab", true},
		// Matching by trying all possibilities would not end.
		{strings.Repeat("*a", 200), strings.Repeat("a", 4000) + "b", false},
	} {
		if got := matchPattern(c.pattern, c.s); got != c.want {
			t.Errorf("matchPattern(%.20q, %.20q) = %v", c.pattern, c.s, got)
		}
	}
}

func FuzzAuthorizedLine(f *testing.F) {
	_, key := newEd25519(f)
	for _, options := range []string{"", `from="10.0.0.0/8,!10.1.*" `, `cert-authority,principals="a,b" `,
		`expiry-time="20300101Z" `, `x="\"" `} {
		f.Add([]byte(options + keyLine(key) + " ann"))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseAuthorizedLine(text)
		if err != nil {
			return
		}
		if checkIdentityKey(l.key) != nil || !validName(keyName(l.comment, l.key)) || l.principalsSet && !l.ca {
			t.Fatalf("took %q", text)
		}
		l.allows(remoteIP(testAddr), testNow)
		// The line that allow would write must parse to the same values.
		back := strings.TrimSpace(strings.Join(l.options, ",") + " " + keyLine(l.key) + " n")
		again, err := parseAuthorizedLine([]byte(back))
		if err != nil || again.ca != l.ca || !again.expiry.Equal(l.expiry) ||
			!slices.Equal(again.principals, l.principals) || (again.from == nil) != (l.from == nil) {
			t.Fatalf("%q reads back as %+v, %v", text, again, err)
		}
	})
}

func FuzzKnownLine(f *testing.F) {
	_, key := newEd25519(f)
	for _, hosts := range []string{"h ", "[h]:1,!*.x ", "@revoked * ", "@cert-authority * ",
		knownhosts.HashHostname("h") + " "} {
		f.Add([]byte(hosts + keyLine(key)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if l, err := parseKnownLine(text); err == nil {
			l.names(serverName{name: "[h]:1", host: "h", exact: []string{"[h]:1"}, loose: []string{"h"}})
		}
	})
}

func FuzzRevoked(f *testing.F) {
	ca, _ := testCA(f)
	_, key := newEd25519(f)
	cert := certify(f, ca, key, "-I", "ann", "-n", "ann", "-z", "7")
	dir := f.TempDir()
	for i, spec := range []string{"serial: 7-9\nid: ann", "serial: 1\nserial: 7\nserial: 20", keyLine(key),
		"sha256: " + keyLine(key)} {
		out := filepath.Join(dir, fmt.Sprint(i))
		runTool(f, "ssh-keygen", "-q", "-k", "-f", out, "-s", ca, put(f, out+".spec", []byte(spec)))
		data, err := os.ReadFile(out)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(keyLine(key) + "\n" + ssh.FingerprintSHA256(key)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseRevoked(data); err == nil {
			r.revokes(cert)
		}
	})
}

// TestFileWatch checks that every change of a file is noticed, also one that keeps its size and time.
func TestFileWatch(t *testing.T) {
	tr, _ := newTrust(t)
	old := time.Now().Add(-time.Hour)
	write := func(name, text string, at time.Time) {
		t.Helper()
		put(t, tr.path(name), []byte(text))
		if err := os.Chtimes(tr.path(name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("authorized_keys", "one", old)
	w := tr.fileWatch()
	quiet := func(after string) {
		t.Helper()
		if w.changed(time.Now()) {
			t.Errorf("%s: reported a change, but there was none", after)
		}
	}
	noticed := func(what string) {
		t.Helper()
		if !w.changed(time.Now()) {
			t.Errorf("%s is not noticed", what)
		}
		quiet(what)
	}
	quiet("the start")
	write("authorized_keys", "three", old)
	noticed("another size")
	write("authorized_keys", "seven", old.Add(time.Minute))
	noticed("another time")
	write("revoked_keys", "x", old)
	noticed("a new file")
	write("other", "eight", old.Add(time.Minute))
	if err := os.Rename(tr.path("other"), tr.path("authorized_keys")); err != nil {
		t.Fatal(err)
	}
	noticed("another file of the same size and time")
	if err := os.Remove(tr.path("revoked_keys")); err != nil {
		t.Fatal(err)
	}
	noticed("a removed file")
	now := time.Now()
	write("known_hosts", "x", now)
	for range 2 {
		if !w.changed(now) {
			t.Error("a young file is not reported again")
		}
	}
	if !w.changed(now.Add(time.Minute)) || w.changed(now.Add(time.Minute)) {
		t.Error("a file that is no longer young must be reported once more, and not twice")
	}
}

// TestGrantEnds checks what a server needs to end the session of a client that is no longer admitted: when a grant ends
// by itself, and the decision about it afterwards.
func TestGrantEnds(t *testing.T) {
	ca, caPub := testCA(t)
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	cert := certify(t, ca, key, "-I", "ann", "-n", "ann", "-V", "20200101000000Z:20300701000000Z")
	forever := certify(t, ca, key, "-I", "ann", "-n", "ann", "-V", "always:forever")
	july, august := time.Date(2030, 7, 1, 0, 0, 0, 0, time.UTC), time.Date(2030, 8, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		line  string
		id    ssh.PublicKey
		until time.Time
	}{
		{keyLine(key), key, time.Time{}},
		{keyLine(key), cert, time.Time{}}, // The certificate's key is listed.
		{`expiry-time="20300801Z" ` + keyLine(key), key, august},
		{"cert-authority " + keyLine(caPub), cert, july},
		{"cert-authority " + keyLine(caPub), forever, time.Time{}},
		{`cert-authority,expiry-time="20300801Z" ` + keyLine(caPub), cert, july},
		{`cert-authority,expiry-time="20300801Z" ` + keyLine(caPub), forever, august},
	} {
		put(t, tr.path("authorized_keys"), []byte(c.line))
		g, err := tr.admit(c.id, testAddr, testNow)
		if err != nil || !g.until.Equal(c.until) {
			t.Errorf("%.40s: until %v, want %v, %v", c.line, g.until, c.until, err)
		}
		if !c.until.IsZero() {
			if _, err := tr.clientRules().admit(c.id, testAddr, c.until); err == nil {
				t.Errorf("%.40s: admitted after its end", c.line)
			}
		}
	}
	put(t, tr.path("authorized_keys"), []byte(keyLine(key)))
	before := tr.clientRules()
	put(t, tr.path("revoked_keys"), []byte(keyLine(key)))
	if _, err := before.admit(key, testAddr, testNow); err != nil {
		t.Errorf("rules change after they are read: %v", err)
	}
	_, err := tr.clientRules().admit(key, testAddr, testNow)
	wantError(t, err, "revoked by")
}

// TestLinkLocalIsNotThisMachine: a link-local address does not show that a peer is on this machine, even if one of its
// interfaces has that address.
func TestLinkLocalIsNotThisMachine(t *testing.T) {
	var addrs []net.Addr
	for _, a := range []string{"192.0.2.7", "2001:db8::7", "169.254.0.7", "fe80::7"} {
		addrs = append(addrs, &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(24, 32)})
	}
	for a, want := range map[string]bool{
		"192.0.2.7": true, "2001:db8::7": true, "169.254.0.7": false, "fe80::7": false, "192.0.2.8": false,
	} {
		if got := isInterfaceAddress(netip.MustParseAddr(a), addrs); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

// Invitations: a code admits one key once, and only if every part of it is right.

var testH0, testHPKE = []byte("h0"), []byte("hpke public key")

func invited(t testing.TB, tr *trust, name string) inviteCode {
	t.Helper()
	text, err := tr.newInvite(name, testNow)
	if err != nil {
		t.Fatal(err)
	}
	code, err := parseInviteCode(text)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func TestInvite(t *testing.T) {
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	invited(t, tr, "first")
	text, err := tr.newInvite("ann", testNow)
	if err != nil {
		t.Fatal(err)
	}
	code, err := parseInviteCode(text)
	if err != nil {
		t.Fatal(err)
	}
	invited(t, tr, "last")
	if !code.invitesTo(tr.own) || code.invitesTo(key) {
		t.Error("the code does not identify its server")
	}
	for _, s := range []string{strings.ToLower(text), " " + strings.ReplaceAll(text, "-", " ") + "\r\n",
		strings.ReplaceAll(text, "-", ""),
		"“" + strings.ReplaceAll(text, "-", "–") + "”.", strings.ReplaceAll(text, "-", "\u00a0—\u200b"),
		"‘" + strings.ReplaceAll(text, "-", "\u2011") + "’, ",
		strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(text)} {
		if c, err := parseInviteCode(s); err != nil || c != code {
			t.Errorf("%q: %v", s, err)
		}
	}
	stored, err := os.ReadFile(tr.path("invites"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := inviteEncoding.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	secret := raw[33:49]
	if bytes.Contains(stored, secret) || bytes.Contains(stored, []byte(hex.EncodeToString(secret))) {
		t.Error("the secret is stored")
	}
	if info, err := os.Stat(tr.path("invites")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Error(info, err)
	}

	proof := code.proof(testH0, testHPKE, key.Marshal())
	for range 2 { // Redeem without commit does not use up the invite.
		if g, err := tr.redeem(proof, testH0, testHPKE, key, testNow, false); err != nil || g.name != "ann" ||
			g.fingerprint != ssh.FingerprintSHA256(key) {
			t.Fatalf("%+v, %v", g, err)
		}
	}
	if exists(tr.path("authorized_keys")) {
		t.Error("redeem without commit enrolled the key")
	}
	g, err := tr.redeem(proof, testH0, testHPKE, key, testNow, true)
	if err != nil || g.name != "ann" || g.by != "invite, now authorized_keys:1" {
		t.Fatalf("%+v, %v", g, err)
	}
	if g, err := tr.admit(key, testAddr, testNow); err != nil || g.name != "ann" {
		t.Errorf("%+v, %v", g, err)
	}
	for _, commit := range []bool{false, true} {
		_, err := tr.redeem(proof, testH0, testHPKE, key, testNow, commit)
		wantError(t, err, "wrong, used or expired")
	}
	if left, err := readInvites(tr.stateFiles, testNow); err != nil || len(left) != 2 || left[0].name != "first" ||
		left[1].name != "last" {
		t.Errorf("%+v, %v", left, err)
	}
}

func TestInviteRefusals(t *testing.T) {
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	_, other := newEd25519(t)
	code := invited(t, tr, "ann")
	elsewhere, _ := newTrust(t)
	foreign := invited(t, elsewhere, "ann")
	good := code.proof(testH0, testHPKE, key.Marshal())
	refusals := make(map[string]bool)
	for name, c := range map[string]struct {
		proof, h0, hpke []byte
		id              ssh.PublicKey
		now             time.Time
	}{
		"empty":          {nil, testH0, testHPKE, key, testNow},
		"short":          {good[:31], testH0, testHPKE, key, testNow},
		"flipped":        {append([]byte{good[0] ^ 1}, good[1:]...), testH0, testHPKE, key, testNow},
		"other hello":    {good, []byte("h1"), testHPKE, key, testNow},
		"other run":      {good, testH0, []byte("another"), key, testNow},
		"moved border":   {good, append(bytes.Clone(testH0), testHPKE[0]), testHPKE[1:], key, testNow},
		"foreign":        {foreign.proof(testH0, testHPKE, key.Marshal()), testH0, testHPKE, key, testNow},
		"at its end":     {good, testH0, testHPKE, key, testNow.Add(inviteLife)},
		"no invite left": {good, testH0, testHPKE, key, testNow.Add(30 * 24 * time.Hour)},
	} {
		for _, commit := range []bool{false, true} {
			_, err := tr.redeem(c.proof, c.h0, c.hpke, c.id, c.now, commit)
			if err == nil {
				t.Errorf("%s: taken", name)
			} else {
				refusals[err.Error()] = true
			}
		}
	}
	if len(refusals) != 1 {
		t.Errorf("refusals differ: %v", refusals)
	}
	_, err := tr.redeem(good, testH0, testHPKE, other, testNow, false)
	wantError(t, err, "wrong, used or expired")
	if g, err := tr.redeem(good, testH0, testHPKE, key, testNow.Add(inviteLife-time.Second), true); err != nil ||
		g.name != "ann" {
		t.Errorf("just before its end, after all those: %v", err)
	}

	put(t, tr.path("revoked_keys"), []byte(keyLine(other)))
	code = invited(t, tr, "bob")
	_, err = tr.redeem(code.proof(testH0, testHPKE, other.Marshal()), testH0, testHPKE, other, testNow, true)
	wantError(t, err, "revoked by")

	for _, name := range []string{"", "a b", "pi@router", strings.Repeat("x", 33), "\x1b"} {
		_, err := tr.newInvite(name, testNow)
		wantError(t, err, "is no name")
	}
	_, err = openTrust(tr.dir, nil, "", nil).newInvite("ann", testNow)
	wantError(t, err, "needs the server's identity")
}

func TestInviteOnceOnly(t *testing.T) {
	tr, _ := newTrust(t)
	code := invited(t, tr, "ann")
	var won sync.Map
	var wg sync.WaitGroup
	for i := range 8 {
		_, key := newEd25519(t)
		wg.Go(func() {
			proof := code.proof(testH0, testHPKE, key.Marshal())
			if _, err := tr.redeem(proof, testH0, testHPKE, key, testNow, true); err == nil {
				won.Store(i, true)
			}
		})
	}
	wg.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if lines, err := tr.readAuthorized(); err != nil || n != 1 || len(lines.lines) != 1 {
		t.Errorf("%d of 8 redeemed one invite, %d lines, %v", n, len(lines.lines), err)
	}
}

func TestInviteForAListedKey(t *testing.T) {
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	for _, c := range []struct{ options, as, by string }{
		{"", "bob", "listed before: authorized_keys:1"},
		{`from="10.0.0.0/8" `, "ann", "now authorized_keys:2"},
		{`expiry-time="20300101" `, "ann", "now authorized_keys:2"},
	} {
		put(t, tr.path("authorized_keys"), []byte(c.options+keyLine(key)+" bob\n"))
		code := invited(t, tr, "ann")
		g, err := tr.redeem(code.proof(testH0, testHPKE, key.Marshal()), testH0, testHPKE, key, testNow, true)
		if err != nil || g.name != c.as || !strings.HasSuffix(g.by, c.by) {
			t.Errorf("%+v, %v", g, err)
		}
		if g, err := tr.admit(key, testAddr, testNow); err != nil || g.name != c.as {
			t.Errorf("%+v, %v", g, err)
		}
	}
}

func TestInviteWithACertificate(t *testing.T) {
	ca, _ := testCA(t)
	tr, _ := newTrust(t)
	_, key := newEd25519(t)
	cert := certify(t, ca, key, "-I", "x", "-n", "x")
	code := invited(t, tr, "ann")
	if _, err := tr.redeem(code.proof(testH0, testHPKE, cert.Marshal()), testH0, testHPKE, cert, testNow,
		true); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(tr.path("authorized_keys")); err != nil || string(data) != keyLine(key)+" ann\n" {
		t.Errorf("enrolled %q, %v", data, err)
	}
}

func TestInviteLimit(t *testing.T) {
	tr, warned := newTrust(t)
	var b strings.Builder
	for i := range maxInvites {
		fmt.Fprintf(&b, "%064x 2030-06-02T00:00:00Z n%d\n", i, i)
	}
	put(t, tr.path("invites"), []byte("nonsense\n"+strings.Repeat("0", 63)+" 2030-06-02T00:00:00Z short\n"+b.String()))
	_, err := tr.newInvite("ann", testNow)
	wantError(t, err, "there are 256 unused invites already")
	if len(*warned) != 2 {
		t.Errorf("warned %q", *warned)
	}
	if _, err := tr.newInvite("ann", testNow.Add(24*time.Hour)); err != nil { // The earlier invites have expired by then.
		t.Error(err)
	}
	if left, err := readInvites(tr.stateFiles, testNow); err != nil || len(left) != 1 {
		t.Errorf("%d left, %v", len(left), err)
	}
}

func TestInviteCodeTypos(t *testing.T) {
	// The code is fixed, because a checksum of two bytes misses one typing error in 65536, which a random code would hit.
	text := strings.ReplaceAll(formatInviteCode(bytes.Repeat([]byte{0xa5}, 32), []byte("sixteen byte key")), "-", "")
	if c, err := parseInviteCode(text); err != nil || c.server[31] != 0xa5 {
		t.Fatal(err)
	}
	for i := range text {
		for name, s := range map[string]string{
			"changed": text[:i] + string('A'+(text[i]-'A'+1)%26) + text[i+1:],
			"missing": text[:i] + text[i+1:],
			"cut":     text[:i],
			"foreign": text[:i] + "é" + text[i+1:],
		} {
			if c, err := parseInviteCode(s); err == nil && s != text {
				t.Errorf("character %d %s: read as %x", i, name, c.server)
			}
		}
	}
	raw, err := inviteEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	raw[0] = 2
	_, err = parseInviteCode(inviteEncoding.EncodeToString(append(raw[:49:49], inviteChecksum(raw[:49])...)))
	wantError(t, err, "newer format")
	_, err = parseInviteCode(strings.Repeat("A", 2000))
	wantError(t, err, "too long")
}

func FuzzInviteCode(f *testing.F) {
	tr, _ := newTrust(f)
	text, err := tr.newInvite("ann", testNow)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(strings.ToLower(text))
	addVectors(f, "invite code", "code", func(b []byte) { f.Add(string(b)) })
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseInviteCode(s); err == nil && len(c.proof(nil, nil, nil)) != inviteKey {
			t.Fatal("the proof has another length")
		}
	})
}

// TestParsedFile: a file is parsed once for each change of its contents, and a change is noticed at once. A change that
// leaves size and times as they were is noticed after trustTimes.
func TestParsedFile(t *testing.T) {
	files := newStateFiles(t.TempDir(), nil)
	path := files.path("list")
	parsed := 0
	p := parsedFile[string]{name: "list", parse: func(data []byte) (string, error) {
		parsed++
		if len(data) == 1 {
			return "", errors.New("too short")
		}
		return string(data), nil
	}}
	old := time.Now().Add(-time.Hour) // The file is too old for a change that its time does not show.
	write := func(text string) {
		put(t, path, []byte(text))
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what, text string, times int) {
		t.Helper()
		for range 3 {
			if got, err := p.get(files); got != text || parsed != times || (err != nil) != (text == "" && exists(path)) {
				t.Errorf("%s: %q, parsed %d times, %v", what, got, parsed, err)
			}
		}
	}
	want("no file", "", 1)
	write("one")
	want("a new file", "one", 2)
	write("longer")
	want("another size", "longer", 3)
	old = old.Add(time.Minute)
	write("longer")
	want("another time and the same contents", "longer", 3)
	old = old.Add(time.Minute)
	write("LONGER")
	want("another time", "LONGER", 4)
	put(t, path+".new", []byte("Longer"))
	if err := errors.Join(os.Chtimes(path+".new", old, old), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	want("another file of the same size and time", "Longer", 5)
	write("hidden")
	p.read = p.read.Add(-trustTimes)
	want("a hidden change", "hidden", 6)
	put(t, path, []byte("young1"))
	want("a young file", "young1", 7)
	put(t, path, []byte("young2")) // perhaps at the same time by the file system's clock
	want("a young file that changes again", "young2", 8)
	write("x")
	want("a file that cannot be parsed", "", 9)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("no file any more", "", 10)
}

// BenchmarkAdmission runs a handshake, both sides, at a server with a number of lines in authorized_keys. The client's
// line is the last one.
func BenchmarkAdmission(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("lines=%d", n), func(b *testing.B) {
			client, server := twoParties(b)
			tr := openTrust(closedDir(b), server.signer.PublicKey(), "server", nil)
			path := tr.path("authorized_keys")
			text := append(manyKeys(b, n-1), publicLine(client.signer.PublicKey(), "client")...)
			put(b, path, text)
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path, old, old); err != nil {
				b.Fatal(err)
			}
			admit := func(id ssh.PublicKey, _, _, _ []byte, _ bool) error {
				_, err := tr.admit(id, nil, time.Now())
				return err
			}
			b.ReportMetric(float64(len(text)), "bytes")
			for b.Loop() {
				benchHandshake(b, client, server, admit)
			}
		})
	}
}

// manyKeys returns n lines for authorized_keys, each with a key of its own.
func manyKeys(b *testing.B, n int) (text []byte) {
	for i := range n {
		public, _, err := ed25519.GenerateKey(nil)
		if err != nil {
			b.Fatal(err)
		}
		key, err := ssh.NewPublicKey(public)
		if err != nil {
			b.Fatal(err)
		}
		text = append(text, publicLine(key, fmt.Sprintf("k%d", i))...)
	}
	return text
}

// Black-box tests of keys and trust: the program, ssh-keygen and ssh-agent work on the same files.

// decision returns the last record of a connect or a refusal in a server's log.
func decision(t *testing.T, server *proc) map[string]any {
	t.Helper()
	all := records(t, filepath.Join(server.cmd.Dir, "connection.log"))
	for _, r := range slices.Backward(all) {
		if r["event"] == eventConnect || r["event"] == eventRefused {
			return r
		}
	}
	return map[string]any{"event": "no decision yet"}
}

// wantAdmitted checks that the last decision admitted a client, its name, and the line or CA that admitted it.
func wantAdmitted(t *testing.T, what string, server *proc, name, by string) {
	t.Helper()
	r := decision(t, server)
	got, _ := r["by"].(string)
	if r["event"] != eventConnect || r["name"] != name || !regexp.MustCompile(by).MatchString(got) ||
		!strings.HasPrefix(fmt.Sprint(r["client"]), "127.0.0.1:") ||
		!strings.HasPrefix(fmt.Sprint(r["fingerprint"]), "SHA256:") {
		t.Errorf("%s: the log has %v, want %s by %q", what, r, name, by)
	}
}

// wantRefused waits until the last decision in the log kept a client out for the reason. The client learns of a refusal
// before the server records it.
func wantRefused(t *testing.T, what string, server *proc, reason string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		server.err.mu.Lock()
		more := server.err.more // The channel closes at the server's next output, which follows the record.
		server.err.mu.Unlock()
		r := decision(t, server)
		got, _ := r["reason"].(string)
		if r["event"] == eventRefused && regexp.MustCompile(reason).MatchString(got) &&
			strings.HasPrefix(fmt.Sprint(r["client"]), "127.0.0.1:") &&
			strings.HasPrefix(fmt.Sprint(r["fingerprint"]), "SHA256:") {
			return
		}
		select {
		case <-more:
		case <-timeout:
			t.Errorf("%s: the log has %v, want %q", what, r, reason)
			return
		}
	}
}

// TestFirstContactPiped checks that a client without a terminal refuses an unknown server, that -accept-new pins it,
// and that a changed key is refused even then.
func TestFirstContactPiped(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server, addr := serve(t, anna)
	known := filepath.Join(bob, "known_hosts")
	host := "[127.0.0.1]:" + portOf(addr)

	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "unknown", stderr, code, exitUntrusted,
		`the server \S+ is unknown: its key is SHA256:\S+\n.*line to \S+known_hosts:\n\[127\.0\.0\.1\]:\d+ ssh-ed25519 `+
			`\S+\n.*-accept-new.*-join`)
	server.err.match(t, "it left before saying who it is") // follows the record, which follows the client's end
	if r := decision(t, server); !strings.Contains(fmt.Sprint(r["reason"]), "it left before saying who it is") {
		t.Errorf("the log has %v", r)
	}
	line := regexp.MustCompile(`(?m)line to \S+:\n(.*)$`).FindStringSubmatch(stderr)
	if line == nil {
		t.Fatal("no line to add")
	}
	appendFile(t, known, line[1]+"\n")
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "with the line from the message", stderr, code, exitDone, `^$`)
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}

	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "-accept-new", stderr, code, exitDone, `the key of 127\.0\.0\.1:\d+ is now pinned: SHA256:`)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "once pinned", stderr, code, exitDone, `^$`)
	if text := readText(t, known); !strings.HasPrefix(text, "|1|") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("known_hosts is not hashed: %s", text)
	}
	if out := runTool(t, "ssh-keygen", "-F", host, "-f", known); !strings.Contains(out, "found: line 1") {
		t.Errorf("ssh-keygen -F: %s", out)
	}
	runTool(t, "ssh-keygen", "-lf", known)
	runTool(t, "ssh-keygen", "-R", host, "-f", known)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "after ssh-keygen -R", stderr, code, exitUntrusted, `is unknown`)

	appendFile(t, known, host+" "+publicKeyOf(t, bob)+"\n")
	for _, args := range [][]string{nil, {"-accept-new"}} {
		before := readText(t, known)
		stderr, code = sendHello(t, bob, addr, args...)
		wantRun(t, "a changed key", stderr, code, exitUntrusted,
			`the key of 127\.0\.0\.1:\d+ has changed: \S+/known_hosts:1 pins SHA256:\S+, the server shows `+
				`SHA256:\S+\n.*someone may be in the middle.*ssh-keygen -R`)
		if readText(t, known) != before {
			t.Error("a changed key changes known_hosts")
		}
	}
	command := regexp.MustCompile(`ssh-keygen (-R .*)\n`).FindStringSubmatch(stderr + "\n")
	runTool(t, "sh", "-c", "ssh-keygen "+command[1])
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "after the hint's command", stderr, code, exitDone, `is now pinned`)
}

// TestKnownHosts reads known_hosts lines in every form that ssh writes.
func TestKnownHosts(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	ca, caPub := testCA(t)
	_, other := testCA(t)
	runTool(t, "ssh-keygen", "-q", "-s", ca, "-h", "-I", "anna's", "-n", "127.0.0.1,localhost",
		filepath.Join(anna, "identity.pub"))
	_, addr := serve(t, anna)
	key, port := publicKeyOf(t, anna), portOf(addr)
	known := filepath.Join(bob, "known_hosts")
	for _, c := range []struct {
		name, text string
		hash       bool
		code       int
		words      string
	}{
		{"[host]:port", "[127.0.0.1]:" + port + " " + key, false, exitDone, `^$`},
		{"a host without its port", "127.0.0.1 " + key, false, exitDone, `^$`},
		{"a list and a pattern", "other,[127.0.0.?]:" + port + " " + key, false, exitDone, `^$`},
		{"hashed by ssh-keygen", "[127.0.0.1]:" + port + " " + key, true, exitDone, `^$`},
		{"another port's key", "[127.0.0.1]:1 " + publicKeyOf(t, bob), false, exitUntrusted, `is unknown`},
		{"excepted", "![127.0.0.1]:" + port + ",* " + key, false, exitUntrusted, `is unknown`},
		{"CA", "@cert-authority 127.0.0.* " + keyLine(caPub), false, exitDone, `^$`},
		{"CA by [host]:port", "@cert-authority [127.0.0.1]:" + port + " " + keyLine(caPub), false, exitDone, `^$`},
		{"another CA", "@cert-authority * " + keyLine(other), false, exitUntrusted,
			`is signed by CA SHA256:\S+, but \S+known_hosts:1 requires CA SHA256:`},
		{"revoked", "[127.0.0.1]:" + port + " " + key + "\n@revoked * " + key, false, exitUntrusted,
			`key SHA256:\S+ is revoked by \S+known_hosts:2`},
		{"CA revoked", "@cert-authority * " + keyLine(caPub) + "\n@revoked * " + keyLine(caPub), false, exitUntrusted,
			`is revoked by \S+known_hosts:2`},
		{"broken @revoked", "[127.0.0.1]:" + port + " " + key + "\n@revoked * nonsense", false, exitUntrusted,
			`known_hosts:2, which may revoke a key, cannot be read`},
		{"broken line", "what is this\n[127.0.0.1]:" + port + " " + key, false, exitDone,
			`known_hosts:1 trusts no server: it is not a known_hosts line`},
		{"changed, hashed", "[127.0.0.1]:" + port + " " + publicKeyOf(t, bob), true, exitUntrusted,
			`has changed: \S+known_hosts:1 pins`},
	} {
		put(t, known, []byte(c.text+"\n"))
		if c.hash {
			runTool(t, "ssh-keygen", "-H", "-f", known)
			if !strings.HasPrefix(readText(t, known), "|1|") {
				t.Errorf("%s: not hashed", c.name)
			}
		}
		stderr, code := sendHello(t, bob, addr)
		wantRun(t, c.name, stderr, code, c.code, c.words)
		if c.code == exitUntrusted && !strings.Contains(c.words, "unknown") {
			stderr, code := sendHello(t, bob, addr, "-accept-new")
			wantRun(t, c.name+" -accept-new", stderr, code, c.code, c.words)
		}
	}
}

// TestIPv6 checks that IPv6 addresses are pinned and found in the form that ssh uses.
func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Log("this machine has no IPv6; TestCheckServer covers the names")
		return
	}
	l.Close()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server := start(t, t.TempDir(), "-listen", "[::1]:0", "-dir", anna)
	port := server.err.match(t, `room open on \[::1\]:(\d+)`)[1]
	known := filepath.Join(bob, "known_hosts")
	stderr, code := sendHello(t, bob, "[::1]:"+port, "-accept-new")
	wantRun(t, "-accept-new", stderr, code, exitDone, `is now pinned`)
	if out := runTool(t, "ssh-keygen", "-F", "[::1]:"+port, "-f", known); !strings.Contains(out, "found: line 1") {
		t.Errorf("ssh-keygen -F: %s", out)
	}
	stderr, code = sendHello(t, bob, "[0:0:0:0:0:0:0:1]:"+port)
	wantRun(t, "another spelling", stderr, code, exitDone, `^$`)
	put(t, known, []byte("[::1]:"+port+" "+publicKeyOf(t, bob)+"\n"))
	stderr, code = sendHello(t, bob, "[::1]:"+port)
	wantRun(t, "changed", stderr, code, exitUntrusted, `has changed`)
}

var inviteLine = regexp.MustCompile(`(?m)^ *([A-Z2-7]{6}(?:-[A-Z2-7]{1,6})+)$`)

// TestInvites creates invites with and without a running server. Each can be used once, and all refusals look the same
// to the client.
func TestInvites(t *testing.T) {
	anna, bob, cleo, dora := state(t, "anna"), state(t, "bob"), state(t, "cleo"), state(t, "dora")
	invite := func(dir, name string) string {
		out, stderr, code := runToEnd(t, t.TempDir(), "", "-invite", name, "-dir", dir)
		if code != exitDone || !inviteLine.MatchString(out) || strings.Count(out, "\n") != 1 ||
			inviteLine.MatchString(stderr) ||
			!strings.Contains(stderr, "securechat -connect ") || !strings.Contains(stderr, " -join") {
			t.Fatalf("-invite: exit %d, stdout %q, stderr %q", code, out, stderr)
		}
		return strings.TrimSpace(out)
	}
	join := func(dir, addr, code string) (string, int) {
		t.Setenv("SECURECHAT_INVITE", code)
		defer os.Unsetenv("SECURECHAT_INVITE")
		return sendHello(t, dir, addr, "-join")
	}
	early := invite(anna, "robert") // No server runs yet.
	server, addr := serve(t, anna, "-invite", "beside")
	beside := inviteLine.FindStringSubmatch(server.err.match(t, `(?m)^  [A-Z2-7]{6}-\S+$`)[0])[1]
	if strings.ReplaceAll(early, "-", "") == strings.ReplaceAll(beside, "-", "") {
		t.Error("two invites have the same code")
	}

	stderr, code := join(bob, addr, early)
	wantRun(t, "an invite", stderr, code, exitDone, `is now pinned: SHA256:`)
	wantAdmitted(t, "an invite", server, "robert", `^invite, now authorized_keys:1$`)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the second time", stderr, code, exitDone, `^$`)
	wantAdmitted(t, "the second time", server, "robert", `^authorized_keys:1$`)

	used, usedCode := join(cleo, addr, early)
	wantRefused(t, "used", server, `joins by an invite that is wrong, used or expired`)
	wrongText := wrongCode(t, early)
	wrong, wrongExit := join(cleo, addr, wrongText)
	wantRefused(t, "wrong", server, `joins by an invite that is wrong, used or expired`)
	expiring := invite(anna, "cleo") // The server runs.
	waits := filepath.Join(anna, "invites")
	put(t, waits,
		[]byte(regexp.MustCompile(` \d{4}-\S+ cleo`).ReplaceAllString(readText(t, waits), " 2020-01-01T00:00:00Z cleo")))
	expired, expiredCode := join(cleo, addr, expiring)
	wantRefused(t, "expired", server, `joins by an invite that is wrong, used or expired`)
	wantRun(t, "a used invite", used, usedCode, exitUntrusted,
		`does not admit this key.*\n.*the invite may be used or expired: ask for a new code`)
	if wrong != used || expired != used || wrongExit != usedCode || expiredCode != usedCode {
		t.Errorf("they differ: used %d %q, wrong %d %q, expired %d %q", usedCode, used, wrongExit, wrong, expiredCode,
			expired)
	}
	if readText(t, filepath.Join(cleo, "identity.pub")) == "" || exists(filepath.Join(cleo, "known_hosts")) {
		t.Error("a refused invite pins the server")
	}

	stderr, code = join(cleo, addr, strings.ToLower(strings.ReplaceAll(beside, "-", " ")))
	wantRun(t, "in small letters with blanks", stderr, code, exitDone, `is now pinned`)
	wantAdmitted(t, "beside -listen", server, "beside", `^invite, now authorized_keys:2$`)

	elsewhere := invite(state(t, "elsewhere"), "dora")
	stderr, code = join(dora, addr, elsewhere)
	wantRun(t, "another server's", stderr, code, exitUntrusted,
		`shows key SHA256:\S+, and the invite is from another server\n.*check the address`)
	typo := "A" + elsewhere[1:]
	if typo == elsewhere {
		typo = "B" + elsewhere[1:]
	}
	stderr, code = join(dora, "127.0.0.1:1", typo)
	wantRun(t, "a typing error", stderr, code, exitUsage,
		`\$SECURECHAT_INVITE: the invite code has a typing error or is incomplete: copy all of it again`)
	stderr, code = join(dora, addr, "")
	wantRun(t, "an empty code", stderr, code, exitUsage, `\$SECURECHAT_INVITE is empty: set it to what securechat -invite`)
	stderr, code = sendHello(t, dora, addr, "-join")
	wantRun(t, "no code", stderr, code, exitUsage,
		`-join needs the invite's code: type it at a terminal, or set \$SECURECHAT_INVITE`)
	for _, args := range [][]string{{"-join", elsewhere}, {"-join=" + elsewhere}, {"--join=" + elsewhere}} {
		stderr, code = sendHello(t, dora, addr, args...)
		wantRun(t, "on the command line", stderr, code, exitUsage, `-join takes no code`)
		if strings.Contains(stderr, elsewhere) {
			t.Error("the code is printed")
		}
	}
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-invite", "two words", "-dir", anna)
	wantRun(t, "no name", stderr, code, exitUsage, `"two words" is no name: letters, digits`)

	// An unset variable of a script gives such an argument.
	for _, mode := range []string{"-invite", "-allow", "-listen", "-connect"} {
		_, stderr, code = runToEnd(t, t.TempDir(), "", mode, "", "-dir", anna)
		wantRun(t, mode+" with nothing", stderr, code, exitUsage, `empty one|"" is no name`)
	}

	all := server.err.String() + readText(t,
		filepath.Join(server.cmd.Dir, "connection.log")) + used + wrong + expired + readText(t, waits)
	for _, c := range []string{early, expiring, wrongText} {
		if strings.Contains(all, c) || strings.Contains(all, strings.ReplaceAll(c, "-", "")) {
			t.Error("a code is in the log, in the files or on stderr")
		}
	}
	if strings.Contains(readText(t, filepath.Join(server.cmd.Dir, "connection.log")), beside) {
		t.Error("the code beside -listen is in the log")
	}
}

// wrongCode returns a code of the same server with another secret.
func wrongCode(t *testing.T, code string) string {
	t.Helper()
	b, err := inviteEncoding.DecodeString(strings.ReplaceAll(code, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	b[1+32] ^= 1
	return formatInviteCode(b[1:][:32], b[1+32:][:inviteSecret])
}

// TestInviteFailsAtStart: the log of a server that ends because it cannot make its invite says so. Otherwise the
// next start after a reboot takes that for a power cut.
func TestInviteFailsAtStart(t *testing.T) {
	t.Parallel()
	anna, wd := state(t, "anna"), t.TempDir()
	if err := os.Mkdir(filepath.Join(anna, "invites"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := runToEnd(t, wd, "", "-listen", "127.0.0.1:0", "-dir", anna, "-invite", "bob")
	wantRun(t, "invites is a folder", stderr, code, exitTrouble, "creating an invite: .*invites is not a regular file")
	all := records(t, filepath.Join(wd, "connection.log"))
	if last := all[len(all)-1]; last["event"] != eventStop {
		t.Errorf("the log ends with %v", last)
	}
}

// TestAllowFlag checks that -allow adds one valid public key line, and nothing else.
func TestAllowFlag(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	keys := filepath.Join(anna, "authorized_keys")
	file := filepath.Join(bob, "identity.pub")
	bobLine, annaLine := readText(t, file), readText(t, filepath.Join(anna, "identity.pub"))
	weak := filepath.Join(t.TempDir(), "weak")
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", weak)
	for _, c := range []struct {
		name, stdin string
		code        int
		words       string
	}{
		{"a private key", readText(t, filepath.Join(bob, "identity")), exitTrouble,
			`that is a private key, which must stay with its owner: give the public key, the \.pub file`},
		{"two lines", bobLine + annaLine, exitTrouble, `that is more than one line: give one public key at a time`},
		{"nothing", "\n# a comment\n", exitTrouble, `there is no public key line, such as ssh-ed25519 AAAA`},
		{"nonsense", "hello\n", exitTrouble, `the line is not accepted: it is not a public key line`},
		{"an unknown option", "command=\"ls\" " + bobLine, exitTrouble,
			`the line is not accepted: option "command": unknown`},
		{"RSA-1024", readText(t, weak+".pub"), exitTrouble, `an RSA key of 1024 bits is not accepted: use 2048 to 4096 bits`},
		{"too long", strings.Repeat("x", 1<<20), exitTrouble, `too long`},
	} {
		out, stderr, code := runToEnd(t, t.TempDir(), c.stdin, "-allow", "-", "-dir", anna)
		wantRun(t, c.name, stderr, code, c.code, c.words)
		if out != "" || exists(keys) || strings.Contains(stderr, "BEGIN") {
			t.Errorf("%s: stdout %q, or something was written", c.name, out)
		}
	}
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-allow", "/no/such/file", "-dir", anna)
	wantRun(t, "no file", stderr, code, exitTrouble, `reading the public key: open /no/such/file: no such file .*; `+
		`-allow needs the path of a public key, or - to `)

	_, code = sendHello(t, bob, addr)
	if code != exitUntrusted {
		t.Fatalf("a stranger: exit %d", code)
	}
	wantRefused(t, "a stranger", server, `key SHA256:\S+ is not in \S+authorized_keys`)
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-allow", file, "-dir", anna)
	wantRun(t, "a file", stderr, code, exitDone, `bob may join now \(SHA256:\S+, authorized_keys:1\)`)
	_, stderr, code = runToEnd(t, t.TempDir(), bobLine, "-allow", "-", "-dir", anna)
	wantRun(t, "a duplicate", stderr, code, exitDone,
		`nothing to do: that key is already listed as bob in \S+authorized_keys:1`)
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "allowed", stderr, code, exitDone, `^$`)
	wantAdmitted(t, "allowed", server, "bob", `^authorized_keys:1$`)
	if info, err := os.Stat(keys); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("authorized_keys: %v, %v", info, err)
	}
	runTool(t, "ssh-keygen", "-lf", keys)
}

// TestUserCertificatesEndToEnd joins with certificates that ssh-keygen has made.
func TestUserCertificatesEndToEnd(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	ca, caPub := testCA(t)
	otherCA, _ := testCA(t)
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	pub := filepath.Join(bob, "identity.pub")
	lists := filepath.Join(anna, "authorized_keys")
	revoked := filepath.Join(anna, "revoked_keys")
	krl := filepath.Join(t.TempDir(), "krl")
	line := "cert-authority " + keyLine(caPub)
	bobKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(readText(t, pub)))
	if err != nil {
		t.Fatal(err)
	}
	bobHex := keyHex(bobKey, 8)
	for _, c := range []struct {
		name, line string
		ca         string
		args       []string
		revoke     func(cert string) []byte
		as, words  string // The name and what admits it, or the reason of the refusal.
	}{
		{"good", line, ca, []string{"-I", "bob.b", "-z", "5", "-n", "bob"}, nil, "bob.b",
			`^certificate "bob\.b" serial 5 by CA authorized_keys:1$`},
		{"named by its principal", line, ca, []string{"-I", "Bob of ops!", "-n", "bob@ops"}, nil, "bob-ops",
			`CA authorized_keys:1`},
		{"principal", line[:14] + `,principals="x,ops"` + line[14:], ca, []string{"-I", "bob", "-n", "ops"}, nil, "ops",
			`CA authorized_keys:1`},
		{"the operator's name by a limited CA", line[:14] + `,principals="guest"` + line[14:], ca,
			[]string{"-I", "anna", "-n", "guest"}, nil, "guest", `CA authorized_keys:1`},
		{"the operator's name", line, ca, []string{"-I", "anna", "-n", "bob"}, nil, "key-" + bobHex, `CA authorized_keys:1`},
		{"another key's name", line + "\n" + keyLine(caPub) + " cleo", ca, []string{"-I", "cleo", "-n", "bob"}, nil,
			"key-" + bobHex, `CA authorized_keys:1`},
		{"from here", line[:14] + `,from="127.0.0.0/8"` + line[14:], ca, []string{"-I", "bob", "-n", "ops"}, nil, "bob",
			`CA authorized_keys:1`},
		{"wrong principal", line[:14] + `,principals="ops"` + line[14:], ca, []string{"-I", "bob", "-n", "bob"}, nil, "",
			`by CA authorized_keys:1: none of its principals \["bob"\] is accepted`},
		{"no principal", line, ca, []string{"-I", "bob"}, nil, "", `by CA authorized_keys:1: it names no principal`},
		{"expired", line, ca, []string{"-I", "bob", "-n", "bob", "-V", "20200101:20200102"}, nil, "",
			`it expired at 20(20|19)-`},
		{"not yet valid", line, ca, []string{"-I", "bob", "-n", "bob", "-V", "+1w:+2w"}, nil, "",
			`it is not valid before 20`},
		{"a host's", line, ca, []string{"-I", "bob", "-n", "bob", "-h"}, nil, "", `it is not a user certificate`},
		{"another CA's", line, otherCA, []string{"-I", "bob", "-n", "bob"}, nil, "",
			`certificate "bob" serial 0 is signed by CA SHA256:\S+, and authorized_keys lists neither that CA nor key`},
		{"unknown critical option", line, ca, []string{"-I", "bob", "-n", "bob", "-O", "critical:x@example.com=1"}, nil, "",
			`its critical option "x@example\.com" is unknown`},
		{"force-command", line, ca, []string{"-I", "bob", "-n", "bob", "-O", "force-command=ls"}, nil, "",
			`its critical option "force-command" is unknown`},
		{"source-address elsewhere", line, ca, []string{"-I", "bob", "-n", "bob", "-O", "source-address=192.0.2.0/24"}, nil,
			"", `its source-address does not admit it from 127\.0\.0\.1`},
		{"revoked by fingerprint", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte(strings.Fields(runTool(t, "ssh-keygen", "-lf", pub))[1] + "\n")
		}, "", `: revoked by revoked_keys`},
		{"revoked by key", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte(readText(t, pub))
		}, "", `: revoked by revoked_keys`},
		{"CA revoked", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte(keyLine(caPub) + "\n")
		}, "", `its CA is revoked by revoked_keys`},
		{"revoked by KRL", line, ca, []string{"-I", "bob", "-n", "bob", "-z", "7"}, func(cert string) []byte {
			runTool(t, "ssh-keygen", "-q", "-k", "-f", krl, cert)
			return []byte(readText(t, krl))
		}, "", `certificate "bob" serial 7 is revoked by its serial by revoked_keys`},
		{"another revoked by KRL", line, ca, []string{"-I", "bob", "-n", "bob", "-z", "8"}, func(string) []byte {
			return []byte(readText(t, krl))
		}, "bob", `serial 8 by CA`},
		{"revoked_keys broken", line, ca, []string{"-I", "bob", "-n", "bob"}, func(string) []byte {
			return []byte("nonsense\n")
		}, "", `no key is trusted while \S+revoked_keys cannot be read: line 1 is neither a public key nor a SHA256: ` +
			`fingerprint`},
	} {
		put(t, lists, []byte(c.line+"\n"))
		runTool(t, "ssh-keygen", slices.Concat([]string{"-q", "-s", c.ca}, c.args, []string{pub})...)
		cert := filepath.Join(bob, "identity-cert.pub")
		os.Remove(revoked)
		if c.revoke != nil {
			put(t, revoked, c.revoke(cert))
		}
		stderr, code := sendHello(t, bob, addr)
		if c.as != "" {
			wantRun(t, c.name, stderr, code, exitDone, `^$`)
			wantAdmitted(t, c.name, server, c.as, c.words)
			continue
		}
		if strings.Contains(c.words, "cannot be read") { // The server could not decide, so it sends no refusal.
			wantRun(t, c.name, stderr, code, exitTrouble,
				`^securechat: handshake with \S+: the server closed the connection: .*\n$`)
		} else {
			wantRun(t, c.name, stderr, code, exitUntrusted, `does not admit this key; its log says why`)
		}
		wantRefused(t, c.name, server, c.words)
	}
}

// TestHostCertificatesEndToEnd connects to a server with certificates that ssh-keygen has made.
func TestHostCertificatesEndToEnd(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	ca, caPub := testCA(t)
	otherCA, _ := testCA(t)
	pub, known := filepath.Join(anna, "identity.pub"), filepath.Join(bob, "known_hosts")
	put(t, known, []byte("@cert-authority 127.0.0.1 "+keyLine(caPub)+"\n"))
	krl := filepath.Join(t.TempDir(), "krl")
	for _, c := range []struct {
		name  string
		args  []string
		krl   bool
		code  int
		words string
	}{
		{"good", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1"}, false, exitDone, `^$`},
		{"a pattern", []string{"-s", ca, "-h", "-I", "a", "-n", "127.*"}, false, exitDone, `^$`},
		{"another name", []string{"-s", ca, "-h", "-I", "a", "-n", "example.org"}, false, exitUntrusted,
			`certificate "a" serial 0 of 127\.0\.0\.1:\d+ by CA known_hosts:1: none of its principals \["example\.org"\] is ` +
				`accepted`},
		{"no name", []string{"-s", ca, "-h", "-I", "a"}, false, exitUntrusted, `it names no principal`},
		{"expired", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-V", "20200101:20200102"}, false, exitUntrusted,
			`it expired at`},
		{"not yet valid", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-V", "+1w:+2w"}, false, exitUntrusted,
			`it is not valid before`},
		{"a user's", []string{"-s", ca, "-I", "a", "-n", "127.0.0.1"}, false, exitUntrusted, `it is not a host certificate`},
		{"another CA's", []string{"-s", otherCA, "-h", "-I", "a", "-n", "127.0.0.1"}, false, exitUntrusted,
			`is signed by CA SHA256:\S+, but \S+known_hosts:1 requires CA SHA256:`},
		{"unknown critical option", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-O", "critical:x@example.com=1"},
			false, exitUntrusted, `its critical option "x@example\.com" is unknown`},
		{"revoked by KRL", []string{"-s", ca, "-h", "-I", "a", "-n", "127.0.0.1", "-z", "3"}, true, exitUntrusted,
			`certificate "a" serial 3 is revoked by its serial by revoked_keys`},
	} {
		runTool(t, "ssh-keygen", slices.Concat([]string{"-q"}, c.args, []string{pub})...)
		if c.krl {
			runTool(t, "ssh-keygen", "-q", "-k", "-f", krl, filepath.Join(anna, "identity-cert.pub"))
			put(t, filepath.Join(bob, "revoked_keys"), []byte(readText(t, krl)))
		}
		server, addr := serve(t, anna)
		stderr, code := sendHello(t, bob, addr)
		wantRun(t, c.name, stderr, code, c.code, c.words)
		if c.code != exitDone {
			stderr, code = sendHello(t, bob, addr, "-accept-new")
			wantRun(t, c.name+" -accept-new", stderr, code, c.code, c.words)
		}
		server.cmd.Process.Kill()
		server.wait()
	}
}

// TestAuthorizedKeysOptions checks the options of authorized_keys. A line with an unknown option admits no key and is
// reported once, and the other lines stay valid.
func TestAuthorizedKeysOptions(t *testing.T) {
	t.Parallel()
	anna, bob, cleo := state(t, "anna"), state(t, "bob"), state(t, "cleo")
	admit(t, anna, cleo)
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	pin(t, cleo, addr, anna)
	key := publicKeyOf(t, bob) + " bob"
	cleoLine := publicKeyOf(t, cleo) + " cleo\n"
	file := filepath.Join(anna, "authorized_keys")
	for _, c := range []struct {
		options  string
		reported string // A part of the server's stderr.
		refused  string // Empty: the key is admitted.
	}{
		{`from="127.0.0.0/8" `, "", ""},
		{`from="!127.0.0.2,127.0.0.*" `, "", ""},
		{`from="192.0.2.0/24" `, "", `authorized_keys:1 does not admit it from 127\.0\.0\.1`},
		{`from="127.*,!127.0.0.1" `, "", `authorized_keys:1 does not admit it from 127\.0\.0\.1`},
		{`expiry-time="20990101" `, "", ""},
		{`expiry-time="20200101" `, "", `authorized_keys:1 expired at`},
		{`expiry-time="20990101",from="127.0.0.1" `, "", ""},
		{`cert-authority `, "", `is not in \S+authorized_keys`},
		{`command="ls" `, `authorized_keys:1 admits no key: option "command": unknown`, `is not in \S+authorized_keys`},
		{`restrict,no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc,no-touch-required `, "", ""},
		{`restrict="x" `, `authorized_keys:1 admits no key: option "restrict": unknown`, `is not in \S+authorized_keys`},
		{`pty `, `authorized_keys:1 admits no key: option "pty": unknown`, `is not in \S+authorized_keys`},
		{`from="host.example" `, `authorized_keys:1 admits no key: option "from": "host\.example" is not an address`,
			`is not in \S+authorized_keys`},
		{`expiry-time="tomorrow" `, `authorized_keys:1 admits no key: option "expiry-time": "tomorrow" is not a time`,
			`is not in \S+authorized_keys`},
		{`principals="bob" `,
			`authorized_keys:1 admits no key: option "principals": it has no meaning without cert-authority`,
			`is not in \S+authorized_keys`},
		{`ssh-nonsense `, `authorized_keys:1 admits no key: option "ssh-nonsense"`, `is not in \S+authorized_keys`},
	} {
		put(t, file, []byte(c.options+key+"\n"+cleoLine))
		stderr, code := sendHello(t, bob, addr)
		if c.refused == "" {
			wantRun(t, c.options, stderr, code, exitDone, `^$`)
			wantAdmitted(t, c.options, server, "bob", `^authorized_keys:1$`)
		} else {
			wantRun(t, c.options, stderr, code, exitUntrusted, `does not admit this key`)
			wantRefused(t, c.options, server, c.refused)
		}
		for range 2 {
			stderr, code = sendHello(t, cleo, addr)
			wantRun(t, c.options+"the other line", stderr, code, exitDone, `^$`)
			wantAdmitted(t, c.options+"the other line", server, "cleo", `^authorized_keys:2$`)
		}
		if n := len(regexp.MustCompile(c.reported).FindAllString(server.err.String(), -1)); c.reported != "" && n != 1 {
			t.Errorf("%sreported %d times: %s", c.options, n, server.err)
		}
	}

	put(t, file, []byte("rubbish\n"+cleoLine))
	again, _ := serve(t, anna)
	again.err.match(t, `authorized_keys:1 admits no key: it is not a public key line`)
	put(t, filepath.Join(anna, "revoked_keys"), []byte("rubbish\n"))
	again, _ = serve(t, anna)
	again.err.match(t, `no key is trusted while \S+revoked_keys cannot be read: line 1`)
}

// TestIdentities uses identities of every type that ssh-keygen makes, as files, with passphrases and through ssh-agent.
func TestIdentities(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	keys := t.TempDir()
	pass := put(t, filepath.Join(keys, "pass"), []byte("open sesame\n"))
	wrong := put(t, filepath.Join(keys, "wrong"), []byte("open barley\n"))
	credentials := t.TempDir()
	put(t, filepath.Join(credentials, "passphrase"), []byte("open sesame"))
	agent := "SSH_AUTH_SOCK=" + startAgent(t)
	env := []string{agent}
	hello := func(args ...string) (stderr string, code int) {
		t.Helper()
		args = append([]string{"-connect", addr, "-dir", bob}, args...)
		_, stderr, code = runToEndWith(t, t.TempDir(), env, "hello\n", args...)
		return stderr, code
	}
	for _, c := range []struct{ typ, bits string }{
		{"rsa", "2048"}, {"rsa", "3072"}, {"ecdsa", "256"}, {"ecdsa", "384"}, {"ecdsa", "521"}, {"ed25519", "256"},
	} {
		name := c.typ + "-" + c.bits
		path := filepath.Join(keys, name)
		runTool(t, "ssh-keygen", "-q", "-t", c.typ, "-b", c.bits, "-N", "", "-C", name, "-f", path)
		put(t, filepath.Join(anna, "authorized_keys"), []byte(readText(t, path+".pub")))
		try := func(how string, args ...string) {
			t.Helper()
			stderr, code := hello(args...)
			wantRun(t, name+" "+how, stderr, code, exitDone, `^$`)
			wantAdmitted(t, name+" "+how, server, name, `^authorized_keys:1$`)
		}
		try("file", "-identity", path)
		runTool(t, "env", agent, "ssh-add", "-q", path)
		try("agent", "-identity", path+".pub")
		if c.bits == "2048" || c.bits == "256" { // The file's encryption does not depend on the key's size.
			runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-a", "1", "-f", path)
			try("passphrase file", "-identity", path, "-passphrase-file", pass)
		}
	}

	path := filepath.Join(keys, "ed25519-256")
	stderr, code := hello("-identity", path)
	wantRun(t, "a passphrase and no terminal", stderr, code, exitUsage,
		`has a passphrase and there is no terminal to ask for it: use -passphrase-file`)
	stderr, code = hello("-identity", path, "-passphrase-file", wrong)
	wantRun(t, "a wrong passphrase", stderr, code, exitUsage,
		`wrong passphrase: the one in \S+wrong does not open \S+ed25519-256`)
	if err := os.Chmod(pass, 0o644); err != nil {
		t.Fatal(err)
	}
	stderr, code = hello("-identity", path, "-passphrase-file", pass)
	wantRun(t, "a passphrase for all to read", stderr, code, exitTrouble,
		`other users can access \S+pass: run chmod 600 \S+pass`)
	env = append(env, "CREDENTIALS_DIRECTORY="+credentials)
	stderr, code = hello("-identity", path)
	wantRun(t, "a systemd credential", stderr, code, exitDone, `^$`)
	runTool(t, "env", agent, "ssh-add", "-q", "-D")
	stderr, code = hello("-identity", path+".pub")
	wantRun(t, "a key the agent has not", stderr, code, exitTrouble,
		`ssh-agent does not have the key SHA256:\S+ of \S+: add it with ssh-add`)
	env = append(env, "SSH_AUTH_SOCK=")
	stderr, code = hello("-identity", path+".pub")
	wantRun(t, "no agent", stderr, code, exitTrouble, `is a public key, and there is no ssh-agent to sign with`)
	stderr, code = hello("-identity", filepath.Join(keys, "absent"))
	wantRun(t, "no file", stderr, code, exitTrouble, `reading the identity: open \S+absent: no such file .*; `+
		`without -identity the key is in \S+bob`)

	weak := filepath.Join(keys, "weak")
	runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", weak)
	stderr, code = hello("-identity", weak)
	wantRun(t, "RSA-1024", stderr, code, exitTrouble, `1024`)
	appendFile(t, filepath.Join(anna, "authorized_keys"), readText(t, weak+".pub"))
	stderr, code = hello()
	wantRun(t, "a stranger beside it", stderr, code, exitUntrusted, `does not admit this key`)
	server.err.match(t, `authorized_keys:2 admits no key: an RSA key of 1024 bits is not accepted`)
}

// TestKeygenFlag checks that -keygen makes keys that ssh-keygen reads, and never replaces them.
func TestKeygenFlag(t *testing.T) {
	t.Parallel()
	ca, _ := testCA(t)
	_, other := newEd25519(t)
	certified := certify(t, ca, other, "-I", "other")
	for _, c := range []struct {
		args []string
		want string // A part of the output of ssh-keygen -lf.
	}{
		{nil, `^256 SHA256:\S+ \S+ \(ED25519\)`},
		{[]string{"-type", "ecdsa", "-comment", "anna"}, `^256 SHA256:\S+ anna \(ECDSA\)`},
		{[]string{"-type", "rsa"}, `^3072 SHA256:\S+ \S+ \(RSA\)`},
		{[]string{"-type", "rsa", "-bits", "2048", "-comment", "my router"}, `^2048 SHA256:\S+ my router \(RSA\)`},
	} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		args := append([]string{"-keygen", "-dir", dir}, c.args...)
		out, stderr, code := runToEnd(t, t.TempDir(), "", args...)
		wantRun(t, fmt.Sprint(c.args), stderr, code, exitDone, `made an identity: \S+identity \(SHA256:`)
		path := filepath.Join(dir, "identity")
		listed := runTool(t, "ssh-keygen", "-lf", path)
		if !regexp.MustCompile(c.want).MatchString(listed) || !strings.Contains(out, strings.Fields(listed)[1]) {
			t.Errorf("%v: ssh-keygen -lf printed %q; stdout %q", c.args, listed, out)
		}
		if made := runTool(t, "ssh-keygen", "-y", "-f", path); !strings.HasPrefix(out,
			strings.Join(strings.Fields(made)[:2], " ")) {
			t.Errorf("%v: ssh-keygen -y printed %q; stdout %q", c.args, made, out)
		}
		for file, mode := range map[string]os.FileMode{"": 0o700, "identity": 0o600, "encryption": 0o600,
			"identity.pub": 0o600} {
			if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", file, info.Mode(), err)
			}
		}
		before := readText(t, path)
		again, stderr, code := runToEnd(t, t.TempDir(), "", "-keygen", "-dir", dir, "-type", "ecdsa", "-comment", "x")
		wantRun(t, "twice", stderr, code, exitDone, `the keys are there already, so none were made`)
		if again != out || readText(t, path) != before {
			t.Errorf("%v: the second time: %q", c.args, again)
		}
		otherCertificate := filepath.Join(dir, "identity-cert.pub") // one that is reported and ignored
		if err := os.WriteFile(otherCertificate, ssh.MarshalAuthorizedKey(certified), 0o644); err != nil {
			t.Fatal(err)
		}
		_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-dir", dir)
		wantRun(t, "with the certificate of another key", stderr, code, exitDone, `so none were made`)
		if err := os.Remove(otherCertificate); err != nil {
			t.Fatal(err)
		}
		out, stderr, code = runToEnd(t, t.TempDir(), "", "-fingerprint", "-dir", dir)
		if code != exitDone || stderr != "" || !strings.HasPrefix(out, strings.Fields(listed)[1]+" ") {
			t.Errorf("-fingerprint: exit %d, %q, %q", code, out, stderr)
		}
	}

	dir := state(t, "anna")
	path := filepath.Join(dir, "identity")
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-a", "1", "-f", path)
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-a", "1", "-f", filepath.Join(dir, "encryption"))
	pass := put(t, filepath.Join(t.TempDir(), "pass"), []byte("secret"))
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-fingerprint", "-dir", dir, "-passphrase-file", pass)
	wantRun(t, "after ssh-keygen -p", stderr, code, exitDone, `^$`)
	for _, c := range []struct {
		path string
		mode os.FileMode
		want string
	}{
		{path, 0o640, `other users can access \S+identity: run chmod 600 \S+identity`},
		{filepath.Join(dir, "encryption"), 0o604, `other users can access \S+encryption: run chmod 600 \S+encryption`},
		{dir, 0o750, `other users can access the folder \S+anna: run chmod 700 \S+anna`},
	} {
		info, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(c.path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := runToEnd(t, t.TempDir(), "", "-fingerprint", "-dir", dir, "-passphrase-file", pass)
		wantRun(t, c.path, stderr, code, exitTrouble, c.want)
		command := regexp.MustCompile(`chmod \d+ \S+`).FindString(stderr)
		runTool(t, "sh", "-c", command)
		if now, err := os.Stat(c.path); err != nil || now.Mode() != info.Mode() {
			t.Errorf("%q does not help", command)
		}
	}
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-dir", filepath.Join(t.TempDir(), "x"), "-type", "rsa",
		"-bits", "1024")
	wantRun(t, "-bits 1024", stderr, code, exitUsage, `an RSA key of 1024 bits: use 2048 to 4096`)
}

// TestNamesInTheRoom checks that two keys with the same name, or with names that look alike, are shown under different
// names.
func TestNamesInTheRoom(t *testing.T) {
	t.Parallel()
	anna, bob, twin, alike, fake := state(t, "anna"), state(t, "bob"), state(t, "twin"), state(t, "alike"), state(t,
		"fake")
	put(t, filepath.Join(anna, "authorized_keys"), []byte(publicKeyOf(t, bob)+" bob\n"+publicKeyOf(t, twin)+" bob\n"+
		publicKeyOf(t, alike)+" B0b\n"+publicKeyOf(t, fake)+" anna\n"))
	server, addr := serve(t, anna)
	join := func(dir, shows string) *proc {
		pin(t, dir, addr, anna)
		p := start(t, t.TempDir(), "-connect", addr, "-dir", dir)
		server.err.match(t, `(?m)^\* `+shows+` joined$`)
		return p
	}
	first := join(bob, `bob`)
	join(twin, `bob~[0-9a-f]{8}`)
	third := join(alike, `B0b~[0-9a-f]{8}`)
	operator := join(fake, `anna~[0-9a-f]{8}`)
	// The same key connects from another place, and gets the same name.
	second := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	server.err.match(t, `(?s)\* bob joined\n.*\* bob joined\n`)
	second.send("it is me again\n")
	third.send("and I am not he\n")
	operator.send("nor am I the operator\n")
	first.out.match(t, `(?m)^bob: it is me again$`)
	first.out.match(t, `(?m)^B0b~[0-9a-f]{8}: and I am not he$`)
	first.out.match(t, `(?m)^anna~[0-9a-f]{8}: nor am I the operator$`)
}

// TestRefusalTable checks that the program's source contains the messages in docs/KEYS.md, and that the table there has
// each reason of a decision against a peer.
func TestRefusalTable(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			source.WriteString(readText(t, f))
		}
	}
	text := regexp.MustCompile(`" \+\n\s*"`).ReplaceAllString(source.String(), "") // messages over several lines
	_, table, found := strings.Cut(readText(t, filepath.Join("docs", "KEYS.md")),
		"| sentence | where | exit |\n|---|---|---|\n")
	if !found {
		t.Fatal("no table")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	n := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 {
			break
		}
		n++
		for part := range strings.SplitSeq(strings.TrimPrefix(cells[0], "| "), "…") {
			if !strings.Contains(text, strings.TrimSpace(part)) {
				t.Errorf("no message of the program contains %q", part)
			}
		}
	}
	if n < 40 {
		t.Errorf("%d sentences", n)
	}
	// The reverse: the table has the longest part of each reason of a decision against a peer.
	reasons := regexp.MustCompile(`(?:\brefuse\(|reason:\s*(?:fmt\.Sprintf\(\s*)?)"([^"]+)"`).FindAllStringSubmatch(text,
		-1)
	for _, reason := range reasons {
		longest := ""
		for _, part := range regexp.MustCompile(`%\S`).Split(reason[1], -1) {
			if part = strings.Trim(part, " :,;"); len(part) > len(longest) {
				longest = part
			}
		}
		if !strings.Contains(table, longest) {
			t.Errorf("the table has no %q", reason[1])
		}
	}
	if len(reasons) < 15 {
		t.Errorf("%d reasons", len(reasons))
	}
}

// TestOwnIdentityAndPins checks that lines decide before the machine's own identity does, on both sides.
func TestOwnIdentityAndPins(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	_, addr := serve(t, bob)
	known, listed := filepath.Join(bob, "known_hosts"), filepath.Join(bob, "authorized_keys")
	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "the own room, without a line", stderr, code, exitDone, `^$`)

	// A relay from anna's address to bob's own room looks like this to bob's client.
	pin(t, bob, addr, anna)
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "the own identity at a pinned address", stderr, code, exitUntrusted,
		`the key of \S+ has changed: \S+known_hosts:1 pins`)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	put(t, known, []byte("[localhost]:"+port+" "+publicKeyOf(t, anna)+"\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity where localhost is pinned", stderr, code, exitUntrusted,
		`is unknown: its key is SHA256:`)
	put(t, known, []byte("@cert-authority * "+publicKeyOf(t, anna)+"\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity where a CA has a line", stderr, code, exitUntrusted,
		`is unknown: its key is SHA256:\S+, without a certificate by CA`)
	put(t, known, []byte("[127.0.0.1]:"+port+" ssh-ed25519 AAAAdamaged\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity where a line cannot be parsed", stderr, code, exitUntrusted,
		`known_hosts:1 trusts no server: .*\n(.*\n)*.*is unknown: (.*\n)*.*`+
			`own identity, but a line of known_hosts names this`)
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}
	put(t, listed, []byte(`from="192.0.2.0/24" `+publicKeyOf(t, bob)+" bob\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity, limited by its line", stderr, code, exitUntrusted, `does not admit this key`)
	put(t, listed, []byte(publicKeyOf(t, bob)+" robert\n"))
	stderr, code = sendHello(t, bob, addr)
	wantRun(t, "the own identity, named by its line", stderr, code, exitDone, `^$`)
}

// TestExactLineBeforeLoose checks that a host's line without a port counts only if no line names the port.
func TestExactLineBeforeLoose(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	_, addr := serve(t, anna)
	known := filepath.Join(bob, "known_hosts")
	put(t, known, []byte("127.0.0.1 "+publicKeyOf(t, anna)+"\n"))
	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "a loose line alone", stderr, code, exitDone, `^$`)
	pin(t, bob, addr, bob)
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "with an exact line for another key", stderr, code, exitUntrusted, `has changed: \S+known_hosts:2 pins`)
}

// TestCAAndNoCertificate checks that a CA's line leaves a server without a certificate unknown, so that an invite and
// -accept-new still pin it.
func TestCAAndNoCertificate(t *testing.T) {
	anna, bob, cleo := state(t, "anna"), state(t, "bob"), state(t, "cleo")
	admit(t, anna, bob)
	_, ca := testCA(t)
	_, addr := serve(t, anna)
	for _, dir := range []string{bob, cleo} {
		put(t, filepath.Join(dir, "known_hosts"), []byte("@cert-authority * "+keyLine(ca)+"\n"))
	}
	stderr, code := sendHello(t, bob, addr)
	wantRun(t, "unknown", stderr, code, exitUntrusted,
		`the server \S+ is unknown: its key is SHA256:\S+, without a certificate by CA SHA256:\S+ of `+
			`\S+known_hosts:1\n.*append this line to`)
	stderr, code = sendHello(t, bob, addr, "-accept-new")
	wantRun(t, "-accept-new", stderr, code, exitDone, `is now pinned`)
	out, _, _ := runToEnd(t, t.TempDir(), "", "-invite", "cleo", "-dir", anna)
	t.Setenv("SECURECHAT_INVITE", strings.TrimSpace(out))
	stderr, code = sendHello(t, cleo, addr, "-join")
	wantRun(t, "an invite", stderr, code, exitDone, `is now pinned`)
	os.Unsetenv("SECURECHAT_INVITE")
	for _, dir := range []string{bob, cleo} {
		stderr, code = sendHello(t, dir, addr)
		wantRun(t, "pinned by its own line", stderr, code, exitDone, `^$`)
	}
}

// TestRevocationShapes checks through the binary that a revocation is either obeyed or makes its file unusable,
// whatever the shape of the file.
func TestRevocationShapes(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	_, otherKey := testCA(t)
	other, key := keyLine(otherKey), publicKeyOf(t, bob)
	print := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(bob, "identity.pub")))[1]
	revoked := filepath.Join(anna, "revoked_keys")
	for _, c := range []struct{ name, text, words string }{
		{"joined lines", other + " x" + key + "\n",
			`no key is trusted while \S+revoked_keys cannot be read: line 1 contains AAAA\S+, which has no effect there`},
		{"two fingerprints", "SHA256:" + strings.Repeat("A", 43) + " " + print + "\n",
			`line 1 contains SHA256:\S+, which has no effect there`},
		{"after #", "\n# " + print + "\n", `line 2 contains SHA256:\S+, which has no effect there`},
		{"after CR", "# x\r" + key + "\n", `line 1 contains AAAA\S+, which has no effect there`},
		{"after a byte order mark", other + "\n\ufeff" + key + "\n", `: revoked by revoked_keys`},
		{"after a zero-width character", "\u200b" + print + "\n", `line 1 is neither a public key nor a SHA256: fingerprint`},
		{"empty", "", `cannot be read: it is empty`},
		{"UTF-16", string(utf16Text(key + "\n")), `revoked_keys is UTF-16 text: save it as UTF-8`},
	} {
		put(t, revoked, []byte(c.text))
		stderr, code := sendHello(t, bob, addr)
		if strings.Contains(c.words, ": revoked by ") {
			wantRun(t, c.name, stderr, code, exitUntrusted, `does not admit this key`)
		} else { // The server could not decide, so it sends no refusal.
			wantRun(t, c.name, stderr, code, exitTrouble,
				`^securechat: handshake with \S+: the server closed the connection: .*\n$`)
		}
		wantRefused(t, c.name, server, c.words)
	}
	if err := os.Remove(revoked); err != nil {
		t.Fatal(err)
	}

	known, annas := filepath.Join(bob, "known_hosts"), publicKeyOf(t, anna)
	pinned := readText(t, known)
	for _, c := range []struct{ name, text, words string }{
		{"after the hosts", "* @revoked " + annas, `known_hosts:2, which may revoke a key, cannot be read`},
		{"after a byte order mark", "\ufeff@revoked * " + annas, `key SHA256:\S+ is revoked by \S+known_hosts:2`},
		{"after a zero-width character", "\u200b@revoked * " + annas,
			`known_hosts:2, which may revoke a key, cannot be read`},
		{"of a CA", "@cert-authority @revoked " + annas, `known_hosts:2, which may revoke a key, cannot be read`},
		{"joined to a line", other + "@revoked * " + annas, `known_hosts:2, which may revoke a key, cannot be read`},
	} {
		put(t, known, []byte(pinned+c.text+"\n"))
		stderr, code := sendHello(t, bob, addr, "-accept-new")
		wantRun(t, c.name, stderr, code, exitUntrusted, c.words)
	}

	cleo := state(t, "cleo")
	pin(t, cleo, addr, anna)
	put(t, filepath.Join(anna, "authorized_keys"), []byte(publicKeyOf(t, cleo)+" cleo"+key+" bob\n"))
	stderr, code := sendHello(t, cleo, addr)
	wantRun(t, "the first key of joined lines", stderr, code, exitDone, `^$`)
	wantAdmitted(t, "the first key of joined lines", server, "cleo", `^authorized_keys:1$`)
	server.err.match(t, `authorized_keys:1 admits one key and leaves out SHA256:\S+ \(bob\): put it on a line of its own`)
}

// TestAddressSpellings checks that every spelling of an address is the same address, in -connect and in known_hosts.
func TestAddressSpellings(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	_, addr := serve(t, anna)
	port := portOf(addr)
	known := filepath.Join(bob, "known_hosts")
	spellings := []string{"127.0.0.1:" + port, "127.0.0.1:0" + port, "127.0.0.1:+" + port, "[::ffff:127.0.0.1]:" + port,
		"[::FFFF:7f00:1]:000" + port}
	for _, s := range spellings {
		put(t, known, []byte("[127.0.0.1]:"+port+" "+publicKeyOf(t, anna)+"\n"))
		stderr, code := sendHello(t, bob, s)
		wantRun(t, "-connect "+s, stderr, code, exitDone, `^$`)
	}
	for _, s := range spellings {
		if !strings.HasPrefix(s, "[") {
			s = "[127.0.0.1]:" + portOf(s)
		}
		put(t, known, []byte(s+" "+publicKeyOf(t, bob)+"\n"))
		stderr, code := sendHello(t, bob, addr, "-accept-new")
		wantRun(t, "in the file: "+s, stderr, code, exitUntrusted, `has changed: \S+known_hosts:1 pins`)
		command := regexp.MustCompile(`ssh-keygen (-R .*)\n`).FindStringSubmatch(stderr + "\n")
		runTool(t, "sh", "-c", "ssh-keygen "+command[1])
		if text := readText(t, known); text != "" {
			t.Errorf("%s does not remove the line: %s", command[0], text)
		}
	}
}

// TestTakenNames checks through the binary that no command gives a name to a second key without saying so.
func TestTakenNames(t *testing.T) {
	t.Parallel()
	anna, bob, twin := state(t, "anna"), state(t, "bob"), state(t, "twin")
	admit(t, anna, bob)
	line := publicKeyOf(t, twin)
	for _, name := range []string{"bob", "B0b"} {
		_, stderr, code := runToEnd(t, t.TempDir(), line+" "+name+"\n", "-allow", "-", "-dir", anna)
		wantRun(t, "-allow", stderr, code, exitTrouble,
			`the name `+name+` already belongs to another key \(authorized_keys:1\): choose another name, or use -force`)
		_, stderr, code = runToEnd(t, t.TempDir(), "", "-invite", name, "-dir", anna)
		wantRun(t, "-invite", stderr, code, exitTrouble,
			`the name `+name+` already belongs to another key \(authorized_keys:1\)`)
	}
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-invite", "anna", "-dir", anna)
	wantRun(t, "the server's name", stderr, code, exitTrouble,
		`the name anna already belongs to another key \(the server's own key\)`)
	_, stderr, code = runToEnd(t, t.TempDir(), publicKeyOf(t, state(t, "cleo"))+" bob\n", "-allow", "-", "-force", "-dir",
		anna)
	wantRun(t, "-force", stderr, code, exitDone, `bob may join now`)
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-fingerprint", "-force", "-dir", anna)
	wantRun(t, "-force alone", stderr, code, exitUsage, `-force`)
	_, stderr, code = runToEnd(t, t.TempDir(), line+" twin\n", "-allow", "-", "-dir", anna)
	wantRun(t, "a free name", stderr, code, exitDone, `twin may join now`)

	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := makeFolder(fresh); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(fresh, "authorized_keys"), []byte(publicKeyOf(t, bob)+" bob\n"))
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-comment", "bob", "-dir", fresh)
	wantRun(t, "-keygen", stderr, code, exitTrouble, `the name bob already belongs to another key \(authorized_keys:1\)`)
	if exists(filepath.Join(fresh, "identity")) {
		t.Error("an identity was generated")
	}
	_, stderr, code = runToEnd(t, t.TempDir(), "", "-keygen", "-comment", "fresh", "-dir", fresh)
	wantRun(t, "-keygen with a free name", stderr, code, exitDone, `made an identity`)
}

// TestPaperKeyElsewhere checks that -paper refuses a key that has served the default protocol by -identity, or that
// known_hosts lists.
func TestPaperKeyElsewhere(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	_, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	keys := t.TempDir()
	for _, name := range []string{"used", "locked", "pinned", "free"} {
		runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", filepath.Join(keys, name))
	}
	used, locked, pinned, free := filepath.Join(keys, "used"), filepath.Join(keys, "locked"), filepath.Join(keys,
		"pinned"), filepath.Join(keys, "free")
	for range 2 {
		sendHello(t, bob, addr, "-identity", used)
	}
	if text := readText(t, filepath.Join(bob, usedIdentities)); strings.Count(text, "\n") != 1 {
		t.Errorf("the key is recorded more than once: %q", text)
	}
	appendFile(t, filepath.Join(bob, "known_hosts"), "[192.0.2.1]:9000 "+readText(t, pinned+".pub"))
	locking := state(t, "cleo")
	put(t, filepath.Join(locking, "identity"), []byte(readText(t, locked)))
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-a", "1", "-f", filepath.Join(locking, "identity"))
	if err := os.Remove(filepath.Join(locking, "identity.pub")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, identity, peer string
		words               string
	}{
		{bob, used, free, `used: this key serves the default protocol too \(\S+used_identities\)`},
		{bob, free, used, `used\.pub: this key serves the default protocol too \(\S+used_identities\)`},
		{bob, pinned, free, `pinned: this key serves the default protocol too \(\S+known_hosts:2\)`},
		{bob, free, pinned, `pinned\.pub: this key serves the default protocol too \(\S+known_hosts:2\)`},
		{locking, locked, free, `locked: this key serves the default protocol too \(\S+identity\)`},
	} {
		_, stderr, code := runToEnd(t, t.TempDir(), "", "-paper", "-connect", "127.0.0.1:1", "-dir", c.dir, "-identity",
			c.identity, "-peer", c.peer+".pub")
		wantRun(t, c.identity, stderr, code, exitTrouble, c.words)
	}
	_, stderr, code := runToEnd(t, t.TempDir(), "", "-paper", "-connect", "127.0.0.1:1", "-dir", anna, "-identity", used,
		"-peer", free+".pub")
	wantRun(t, "with another state folder", stderr, code, exitTrouble, `connection was refused`)
}

// TestRevocationReachesSessions: a client or a server that is no longer trusted loses its session within seconds: its
// line is gone, its key is revoked, or its admission has expired. No later line is sent to a key that was
// expelled, also after it is admitted again.
func TestRevocationReachesSessions(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	log := filepath.Join(server.cmd.Dir, "connection.log")
	list := filepath.Join(anna, "authorized_keys")
	join := func(name string, args ...string) (*proc, string) {
		dir := guest(t, anna, addr, name)
		p := start(t, t.TempDir(), append([]string{"-connect", addr, "-dir", dir, "-stay"}, args...)...)
		server.err.match(t, `(?m)^\* `+name+` joined`)
		return p, dir
	}
	wantExpelled := func(p *proc, name string) {
		t.Helper()
		p.err.match(t, `the key is no longer admitted`)
		server.err.match(t, `(?m)^\* `+name+` left: the key is no longer admitted`)
		if code := p.wait(); code != exitTrouble {
			t.Errorf("%s: exit %d", name, code)
		}
		all := records(t, log)
		last := all[len(all)-1]
		if last["event"] != eventDisconnect || last["reason"] != reasonNotAdmitted || last["name"] != name {
			t.Errorf("%s: the log has %v", name, last)
		}
	}

	bob, _ := join("bob")
	put(t, list, []byte(regexp.MustCompile(`(?m)^.* bob\n`).ReplaceAllString(readText(t, list), "")))
	wantExpelled(bob, "bob")

	cleo, cleoDir := join("cleo")
	put(t, filepath.Join(anna, "revoked_keys"), []byte(readText(t, filepath.Join(cleoDir, "identity.pub"))))
	wantExpelled(cleo, "cleo")
	put(t, filepath.Join(anna, "revoked_keys"), []byte("rubbish\n"))
	server.err.match(t, `(?m)^securechat: no key is trusted while \S+revoked_keys cannot be read: line 1`)
	put(t, filepath.Join(anna, "revoked_keys"), []byte("# none\n"))

	dora, _ := join("dora")
	until := time.Now().UTC().Add(3 * time.Second).Format("20060102150405Z")
	expiring := regexp.MustCompile(`(?m)^(.* dora)$`).ReplaceAllString(readText(t, list), `expiry-time="`+until+`" $1`)
	put(t, list, []byte(expiring))
	wantExpelled(dora, "dora")

	emil, emilDir := join("emil", "-reconnect")
	appendFile(t, filepath.Join(emilDir, "known_hosts"), "@revoked * "+readText(t, filepath.Join(anna, "identity.pub")))
	if code := emil.wait(); code != exitUntrusted || !strings.Contains(emil.err.String(), "revoked by") {
		t.Errorf("a revoked server: exit %d, %s", code, emil.err)
	}
}

// TestRevocationReachesRawSessions does the same for -raw: the server ends the session of a client that it no longer
// admits, with the reason, and a client that of a server that it no longer trusts. No later byte is written.
func TestRevocationReachesRawSessions(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	key := publicKeyOf(t, bob) + " bob\n"
	list, known := filepath.Join(anna, "authorized_keys"), filepath.Join(bob, "known_hosts")
	for _, c := range []struct {
		name           string
		revoke         func()
		client, server int
		clientErr      string
		serverErr      string
	}{
		{"its line is gone", func() { put(t, list, nil) }, exitLost, exitUntrusted,
			`not all has arrived: the other side gave up: the key is no longer admitted; `,
			`bob has to leave: key SHA256:\S+ is not in (.*\n)*securechat: not all has arrived: key SHA256:\S+ is not in`},
		{"its line expires", func() {
			until := time.Now().UTC().Add(2 * time.Second).Format("20060102150405Z")
			put(t, list, []byte(`expiry-time="`+until+`" `+key))
		}, exitLost, exitUntrusted, `the key is no longer admitted`, `authorized_keys:1 expired at`},
		{"the server's key is revoked", func() { appendFile(t, known, "@revoked * "+publicKeyOf(t, anna)+"\n") },
			exitUntrusted, exitLost, `not all has arrived: key SHA256:\S+ is revoked by \S+known_hosts:2`,
			`the connection ended without secure-close|the other side ended the connection`},
	} {
		put(t, list, []byte(key))
		server := start(t, t.TempDir(), "-raw", "-listen", "127.0.0.1:0", "-dir", anna)
		addr := server.err.match(t, `waiting for one client on (127\.0\.0\.1:\d+)`)[1]
		put(t, known, nil)
		pin(t, bob, addr, anna)
		client := start(t, t.TempDir(), "-raw", "-connect", addr, "-dir", bob)
		client.send("before")
		server.out.match(t, `^before$`)
		c.revoke()
		code := client.wait()
		wantRun(t, c.name+": the client", client.err.String(), code, c.client, c.clientErr)
		code = server.wait()
		wantRun(t, c.name+": the server", server.err.String(), code, c.server, c.serverErr)
	}
}

// TestRevocationReachesPaperSessions does the same for -paper, whose keys must be neither revoked nor keys of the
// default protocol.
func TestRevocationReachesPaperSessions(t *testing.T) {
	t.Parallel()
	anna, bob, keys := closedDir(t), closedDir(t), t.TempDir()
	at := func(name string) string { return filepath.Join(keys, name) }
	for _, name := range []string{"s", "c"} {
		runTool(t, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM", "-f", at(name))
	}
	server := start(t, t.TempDir(), "-paper", "-listen", "127.0.0.1:0", "-dir", anna, "-identity", at("s"), "-peer",
		at("c.pub"))
	addr := server.err.match(t, `room open on (127\.0\.0\.1:\d+)`)[1]
	call := []string{"-paper", "-connect", addr, "-dir", bob, "-identity", at("c"), "-peer", at("s.pub"), "-stay"}
	for _, c := range []struct {
		list, key string
		code      int
		words     string // of the side that has the list
	}{
		{filepath.Join(anna, "revoked_keys"), "c.pub", exitLost, `c has to leave: key SHA256:\S+: revoked by revoked_keys`},
		{filepath.Join(anna, "authorized_keys"), "c.pub", exitLost,
			`c has to leave: this key serves the default protocol too \(\S+authorized_keys:1\)`},
		{filepath.Join(bob, "revoked_keys"), "s.pub", exitUntrusted, `key SHA256:\S+: revoked by revoked_keys`},
	} {
		client := start(t, t.TempDir(), call...)
		client.send("hello\n")
		server.out.match(t, `c: hello\n`)
		put(t, c.list, []byte(readText(t, at(c.key))))
		code := client.wait()
		wantRun(t, c.list, client.err.String(), code, c.code, ``)
		if c.code == exitUntrusted {
			client.err.match(t, c.words)
		} else {
			server.err.match(t, c.words)
		}
		_, stderr, code := runToEnd(t, t.TempDir(), "", call...)
		if code == exitDone {
			t.Errorf("%s: the next time: %s", c.list, stderr)
		}
		if err := os.Remove(c.list); err != nil {
			t.Fatal(err)
		}
		server.out.mu.Lock()
		server.out.buf.Reset()
		server.out.mu.Unlock()
	}
}
