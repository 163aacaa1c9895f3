package main

// Who is trusted: authorized_keys for the server, known_hosts for the client, revoked_keys for both (DESIGN.md section 5,
// sshd(8) and PROTOCOL.certkeys for the formats). Rules kept here:
//
//   - the files are read at each decision, so that a change takes effect at once;
//   - what is missing, empty or unreadable trusts nobody; revoked_keys alone may be missing, and while it cannot be read
//     nobody at all is trusted;
//   - a broken line trusts nobody and is reported; the other lines hold. A broken @revoked line closes the file;
//   - the machine's own identity is trusted in both directions, unless revoked;
//   - a key that is listed itself is trusted with whatever certificate it comes.

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// grant is a decision for a client.
type grant struct {
	name, fingerprint string
	by                string // the file and line, the CA or "own identity"
}

// review reads what decides about clients, to report now what is wrong with it.
func (t *trust) review() {
	_, _ = t.authorized() // its error is reported
	var faults []string
	if _, err := t.revoked(); err != nil {
		faults = append(faults, fmt.Sprintf("nobody is trusted while %s cannot be read: %v", t.path("revoked_keys"), err))
	}
	t.report("revoked_keys", faults)
}

// admit decides about a client that has proven to hold id.
func (t *trust) admit(id ssh.PublicKey, remote net.Addr, now time.Time) (grant, error) {
	g := grant{fingerprint: ssh.FingerprintSHA256(plainKey(id))}
	if err := t.checkKey(id); err != nil {
		return g, err
	}
	lines, err := t.authorized()
	if err != nil && !sameKey(id, t.own) {
		return g, refuse("nobody is admitted: %v", err)
	}
	from := remoteIP(remote)
	var why error
	for _, l := range lines {
		if l.ca || !sameKey(l.key, id) {
			continue
		}
		if err := l.holds(from, now); err != nil {
			why = refuse("key %s: authorized_keys:%d %v", g.fingerprint, l.line, err)
			continue
		}
		g.name, g.by = keyName(l.comment, id), fmt.Sprintf("authorized_keys:%d", l.line)
		return g, nil
	}
	if sameKey(id, t.own) {
		g.name, g.by = keyName(t.name, id), "own identity"
		return g, nil
	}
	if why != nil {
		return g, why
	}
	if cert, ok := id.(*ssh.Certificate); ok {
		return t.admitCertificate(g, cert, lines, from, now)
	}
	return g, t.stranger(id)
}

// admitCertificate decides by the CAs of authorized_keys.
func (t *trust) admitCertificate(g grant, cert *ssh.Certificate, lines []authorizedLine, from netip.Addr, now time.Time) (grant, error) {
	var why error
	for _, l := range lines {
		if !l.ca || !sameKey(l.key, cert.SignatureKey) {
			continue
		}
		err := l.holds(from, now)
		var principal string
		if err == nil {
			principal, err = checkCertificate(cert, ssh.UserCert, from, now, func(p string) bool {
				return !l.principalsSet || slices.Contains(l.principals, p)
			})
		}
		if err != nil {
			why = refuse("%s by CA authorized_keys:%d: %v", certName(cert), l.line, err)
			continue
		}
		if g.name = cert.KeyId; !validName(g.name) {
			g.name = keyName(principal, cert)
		}
		g.by = fmt.Sprintf("%s by CA authorized_keys:%d", certName(cert), l.line)
		return g, nil
	}
	if why != nil {
		return g, why
	}
	u := t.stranger(cert)
	u.reason = fmt.Sprintf("%s is signed by CA %s, which authorized_keys does not list, nor does it list key %s itself",
		certName(cert), ssh.FingerprintSHA256(cert.SignatureKey), g.fingerprint)
	return g, u
}

// stranger is the refusal of a key that no line names.
func (t *trust) stranger(id ssh.PublicKey) *untrusted {
	line := bytes.TrimSpace(ssh.MarshalAuthorizedKey(plainKey(id)))
	return &untrusted{
		reason:  fmt.Sprintf("key %s is not in %s", ssh.FingerprintSHA256(plainKey(id)), t.path("authorized_keys")),
		hint:    fmt.Sprintf("to admit it, append this line to %s: %s guest-%s", t.path("authorized_keys"), line, nameSuffix(id)),
		unknown: true,
	}
}

// checkKey refuses what no file can make good: a weak key, a revoked one.
func (t *trust) checkKey(id ssh.PublicKey) error {
	if err := checkIdentityKey(id); err != nil {
		return refuse("%v", err)
	}
	r, err := t.revoked()
	if err != nil {
		return &untrusted{
			reason: fmt.Sprintf("nobody is trusted while %s cannot be read: %v", t.path("revoked_keys"), err),
			hint:   "repair it, or make it anew with ssh-keygen -k",
		}
	}
	if why := r.revokes(id); why != "" {
		return refuse("key %s: %s by revoked_keys", ssh.FingerprintSHA256(plainKey(id)), why)
	}
	return nil
}

// checkCertificate checks all of a certificate but who signed it and whether it is revoked, and returns the first of its
// principals that is accepted. A certificate without principals would be one for everybody: it is refused.
func checkCertificate(c *ssh.Certificate, want uint32, from netip.Addr, now time.Time, accepts func(principal string) bool) (string, error) {
	switch {
	case c.CertType != want && want == ssh.UserCert:
		return "", errors.New("it is not a user certificate")
	case c.CertType != want:
		return "", errors.New("it is not a host certificate")
	case c.Signature == nil || c.Signature.Format == ssh.KeyAlgoRSA:
		return "", errors.New("its CA signed it with SHA-1")
	case uint64(now.Unix()) < c.ValidAfter:
		return "", fmt.Errorf("it is not valid before %s", certTime(c.ValidAfter))
	case uint64(now.Unix()) >= c.ValidBefore:
		return "", fmt.Errorf("it expired at %s", certTime(c.ValidBefore))
	case len(c.ValidPrincipals) == 0:
		return "", errors.New("it names no principal")
	}
	i := slices.IndexFunc(c.ValidPrincipals, accepts)
	if i < 0 {
		return "", fmt.Errorf("none of its principals %q is wanted here", c.ValidPrincipals)
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	for option, value := range c.CriticalOptions {
		if option != "source-address" || want != ssh.UserCert {
			return "", fmt.Errorf("its critical option %q is not known here", option)
		}
		list, err := parseAddressList(value)
		if err != nil || strings.Contains(value, "!") {
			return "", fmt.Errorf("its source-address %q is no list of networks", value)
		}
		if !list.match(from) {
			return "", fmt.Errorf("its source-address does not admit it from %s", from)
		}
		checker.SupportedCriticalOptions = []string{option}
	}
	if err := checker.CheckCert(c.ValidPrincipals[i], c); err != nil {
		return "", fmt.Errorf("it does not verify: %w", err)
	}
	return c.ValidPrincipals[i], nil
}

// certTime shows a certificate's time, which may lie beyond what time.Time prints.
func certTime(s uint64) string {
	if s > 1<<37 {
		return "the end of time"
	}
	return time.Unix(int64(s), 0).UTC().Format(time.RFC3339)
}

// checkServer decides about a server, reached as addr (host:port as typed), that shows id. It returns by what it is
// trusted.
func (t *trust) checkServer(addr string, remote net.Addr, id ssh.PublicKey, now time.Time) (by string, err error) {
	if err := t.checkKey(id); err != nil {
		return "", err
	}
	name, host, err := hostName(addr)
	if err != nil {
		return "", err
	}
	lines, err := t.knownHosts(id)
	if err != nil {
		return "", err
	}
	if sameKey(id, t.own) {
		return "own identity", nil
	}
	print := ssh.FingerprintSHA256(plainKey(id))
	var pinned, ca *knownLine
	for i, l := range lines {
		named, loosely := l.names(name, host)
		switch {
		case l.ca && loosely:
			if ca == nil || certifies(&lines[i], id) {
				ca = &lines[i]
			}
		case !l.ca && loosely && sameKey(l.key, id):
			return fmt.Sprintf("known_hosts:%d", l.line), nil
		case !l.ca && named && pinned == nil:
			pinned = &lines[i]
		}
	}
	cert, isCert := id.(*ssh.Certificate)
	if isCert && certifies(ca, id) {
		_, err := checkCertificate(cert, ssh.HostCert, remoteIP(remote), now, func(p string) bool {
			return matchPattern(strings.ToLower(p), host)
		})
		if err != nil {
			return "", refuse("%s of %s by CA known_hosts:%d: %v", certName(cert), addr, ca.line, err)
		}
		return fmt.Sprintf("%s by CA known_hosts:%d", certName(cert), ca.line), nil
	}
	file := t.path("known_hosts")
	switch {
	case pinned != nil:
		return "", &untrusted{
			reason: fmt.Sprintf("the key of %s has changed: %s:%d pins %s, the server shows %s",
				addr, file, pinned.line, ssh.FingerprintSHA256(pinned.key), print),
			hint:    fmt.Sprintf("someone may be in the middle; if the server really has a new key: ssh-keygen -R %s -f %s", shellQuote(name), shellQuote(file)),
			changed: true,
		}
	case ca != nil && isCert:
		return "", refuse("%s of %s is signed by CA %s, where %s:%d wants CA %s", certName(cert), addr,
			ssh.FingerprintSHA256(cert.SignatureKey), file, ca.line, ssh.FingerprintSHA256(ca.key))
	case ca != nil:
		return "", refuse("%s shows key %s without a certificate, where %s:%d wants one by CA %s", addr, print, file, ca.line, ssh.FingerprintSHA256(ca.key))
	}
	return "", &untrusted{
		reason:  fmt.Sprintf("the server %s is unknown: its key is %s", addr, print),
		hint:    fmt.Sprintf("compare the fingerprint with the server's own, then add to %s: %s %s", file, name, bytes.TrimSpace(ssh.MarshalAuthorizedKey(plainKey(id)))),
		unknown: true,
	}
}

// remember pins a server's key under addr, hashed. It is for a server that checkServer called unknown; should another
// process have pinned one since, that one stands.
func (t *trust) remember(addr string, id ssh.PublicKey) error {
	name, _, err := hostName(addr)
	if err != nil {
		return err
	}
	return withLock(t.dir, func() error {
		_, err := t.checkServer(addr, nil, plainKey(id), time.Now())
		var u *untrusted
		if err == nil || !errors.As(err, &u) || !u.unknown {
			return err
		}
		_, err = t.appendLine("known_hosts", knownhosts.HashHostname(name)+" "+string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(plainKey(id)))))
		return err
	})
}

// errListed says that a key to be allowed is so already.
var errListed = errors.New("that key is already listed")

// allow appends a public key line to authorized_keys. A name takes the place of the line's comment. It returns the
// grant that stands in the file; with errListed, the one that stood there before.
func (t *trust) allow(text []byte, name string) (grant, error) {
	if bytes.Contains(text, []byte("PRIVATE KEY")) {
		return grant{}, errors.New("that is a private key, which its owner must keep: give the public one, the .pub file")
	}
	if name != "" && !validName(name) {
		return grant{}, nameError(name)
	}
	if len(text) > maxKeyFile {
		return grant{}, errors.New("that is too long for a public key line")
	}
	var line []byte
	for _, l := range textLines(text) {
		if line != nil {
			return grant{}, errors.New("that is more than one line: give one public key at a time")
		}
		line = l
	}
	if line == nil {
		return grant{}, errors.New("there is no public key line: it looks like ssh-ed25519 AAAA… name")
	}
	l, err := parseAuthorizedLine(line)
	if err != nil {
		return grant{}, fmt.Errorf("the line is not taken: %w", err)
	}
	if err := t.checkKey(l.key); err != nil {
		return grant{}, err
	}
	if name == "" {
		name = keyName(l.comment, l.key)
	}
	g := grant{name: name, fingerprint: ssh.FingerprintSHA256(l.key)}
	err = withLock(t.dir, func() error {
		lines, err := t.authorized()
		if err != nil {
			return err
		}
		for _, old := range lines {
			if old.ca == l.ca && sameKey(old.key, l.key) {
				g.name, g.by = keyName(old.comment, old.key), fmt.Sprintf("authorized_keys:%d", old.line)
				return fmt.Errorf("%w as %s in %s:%d", errListed, g.name, t.path("authorized_keys"), old.line)
			}
		}
		g.by, err = t.enrol(l.options, l.key, name)
		return err
	})
	return g, err
}

// enrol appends a line to authorized_keys and returns its place. The caller holds the lock and has checked all.
func (t *trust) enrol(options []string, key ssh.PublicKey, name string) (string, error) {
	line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(plainKey(key)))) + " " + name
	if len(options) > 0 {
		line = strings.Join(options, ",") + " " + line
	}
	n, err := t.appendLine("authorized_keys", line)
	return fmt.Sprintf("authorized_keys:%d", n), err
}

// newInvite makes a code that enrols one key as name. The code is for the invited alone: nothing here can show it again.
func (t *trust) newInvite(name string, now time.Time) (code string, err error) {
	if !validName(name) {
		return "", nameError(name)
	}
	if t.own == nil {
		return "", errors.New("an invite needs the server's identity")
	}
	secret := make([]byte, inviteSecret)
	defer clear(secret)
	rand.Read(secret)
	key, err := deriveInviteKey(secret, serverHash(t.own))
	if err != nil {
		return "", fmt.Errorf("make an invite: %w", err)
	}
	err = withLock(t.dir, func() error {
		waiting, err := t.invites(now)
		if err != nil {
			return err
		}
		if len(waiting) >= maxInvites {
			return fmt.Errorf("%d invites wait already: remove lines from %s, or wait a day", len(waiting), t.path("invites"))
		}
		return t.writeInvites(append(waiting, invite{key, now.Add(inviteLife), name}))
	})
	if err != nil {
		return "", fmt.Errorf("make an invite: %w", err)
	}
	return formatInviteCode(serverHash(t.own), secret), nil
}

// redeem says whether an invite waits whose proof this is, for a client that has proven to hold id. With commit it also
// uses the invite up and enrols id under its name. Wrong, used and expired are one refusal.
//
// The invite is gone before the key is listed: a crash between the two costs an invite, not a second use of one.
func (t *trust) redeem(proof, h0, hpkePublic []byte, id ssh.PublicKey, now time.Time, commit bool) (grant, error) {
	g := grant{fingerprint: ssh.FingerprintSHA256(plainKey(id)), by: "invite"}
	if err := t.checkKey(id); err != nil {
		return g, err
	}
	find := func() ([]invite, int, error) {
		waiting, err := t.invites(now)
		if err != nil {
			return nil, 0, err
		}
		at := -1
		for i, w := range waiting {
			same := subtle.ConstantTimeCompare(inviteProof(w.key, h0, hpkePublic, id.Marshal()), proof)
			at = subtle.ConstantTimeSelect(same, i, at)
		}
		if at < 0 {
			u := refuse("key %s joins by an invite that is wrong, used or expired", g.fingerprint)
			u.invite = true
			return nil, 0, u
		}
		g.name = waiting[at].name
		return waiting, at, nil
	}
	if !commit {
		_, _, err := find()
		return g, err
	}
	err := withLock(t.dir, func() error {
		waiting, at, err := find()
		if err != nil {
			return err
		}
		lines, err := t.authorized()
		if err != nil {
			return err
		}
		if err := t.writeInvites(append(waiting[:at:at], waiting[at+1:]...)); err != nil {
			return err
		}
		for _, l := range lines {
			if !l.ca && sameKey(l.key, id) && l.from == nil && l.holds(remoteIP(nil), now) == nil {
				g.name, g.by = keyName(l.comment, id), fmt.Sprintf("invite, but listed before: authorized_keys:%d", l.line)
				return nil
			}
		}
		place, err := t.enrol(nil, id, g.name)
		g.by = "invite, now " + place
		return err
	})
	return g, err
}
