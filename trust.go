package main

// Decisions about keys: which clients a server admits (authorized_keys), which servers a client trusts (known_hosts),
// and which keys neither of them accepts (revoked_keys). The rules:
//
//   - each decision is by the files as they are then, so a change takes effect immediately. They are parsed once for
//     each change;
//   - a missing, empty or unreadable file trusts no key. Only revoked_keys may be missing, and while it cannot be
//     read no key is trusted;
//   - a line that cannot be parsed trusts no key and is reported, and the other lines stay valid. A @revoked line that
//     cannot be parsed invalidates the whole file;
//   - lines decide first, and lines for [host]:port before lines for the host. Without a line that names it, a
//     machine's own identity is trusted on that machine only: a server admits it from, and a client accepts it at, a
//     loopback address or an address of the machine's interfaces. So a stolen identity opens nothing from elsewhere,
//     and a relay to the user's own room does not pass for a server with a line. A line that cannot be parsed counts
//     as one that names the address;
//   - a key that is listed itself is trusted with any certificate.

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// trust decides by the files of the state folder.
type trust struct {
	*stateFiles
	own  ssh.PublicKey // the machine's own identity; nil with -paper
	name string        // the name of the own identity, from its comment

	authorized parsedFile[*authorizedKeys]
	revoked    parsedFile[*revocations]
}

// openTrust returns the decisions for the state folder dir. warn prints a warning about a broken line.
func openTrust(dir string, own ssh.PublicKey, name string, warn func(format string, a ...any)) *trust {
	files := newStateFiles(dir, warn)
	return &trust{
		stateFiles: files, own: own, name: name,
		authorized: parsedFile[*authorizedKeys]{name: "authorized_keys", parse: func(data []byte) (*authorizedKeys, error) {
			return parseAuthorized(files, data), nil
		}},
		revoked: parsedFile[*revocations]{name: "revoked_keys", parse: parseRevokedFile},
	}
}

// readAuthorized returns authorized_keys as it is now.
func (t *trust) readAuthorized() (*authorizedKeys, error) {
	keys, err := t.authorized.get(t.stateFiles)
	if err != nil {
		t.report("authorized_keys", []string{fmt.Sprintf("%v: authorized_keys admits no key", err)})
		return nil, err
	}
	return keys, nil
}

// readRevoked returns revoked_keys as it is now.
func (t *trust) readRevoked() (*revocations, error) { return t.revoked.get(t.stateFiles) }

// untrusted is a decision against a peer. Its reason is for the own log and the own user, and is not sent to the peer.
type untrusted struct {
	kind   refusalKind
	reason string
	hint   string        // what the user can do about it, or ""
	line   string        // the line of a file that the first line of hint is about, or ""
	key    ssh.PublicKey // the key of an unknown server, for the question to the user
}

// refusalKind tells apart the refusals that are handled differently.
type refusalKind int

const (
	refusedKey    refusalKind = iota // a line, a date or a revocation excludes the key
	unknownKey                       // no line names the key, and a person may decide about it
	changedKey                       // known_hosts pins another key for the server
	invalidInvite                    // no unused invite matches the client's proof
	undecided                        // a file cannot be read, so no key is trusted at present
)

func (u *untrusted) Error() string { return u.reason }

func refuse(format string, a ...any) *untrusted { return &untrusted{reason: fmt.Sprintf(format, a...)} }

// isUnknown reports whether err is the refusal of a key that no line names.
func isUnknown(err error) bool {
	var u *untrusted
	return errors.As(err, &u) && u.kind == unknownKey
}

// isRefusal reports whether err is a decision against a peer, and not the lack of one because a file cannot be read.
func isRefusal(err error) bool {
	var u *untrusted
	return errors.As(err, &u) && u.kind != undecided
}

// grant is a decision for a client.
type grant struct {
	name, fingerprint string
	by                string    // file and line, or CA, or "own identity"
	until             time.Time // when the line or the certificate expires; zero if neither does
}

// review reads the files that decide about clients, so that what is wrong with them is reported at once.
func (t *trust) review() {
	_, _ = t.readAuthorized() // it has reported its error
	var faults []string
	if _, err := t.readRevoked(); err != nil {
		faults = append(faults, t.revokedFault(err))
	}
	t.report("revoked_keys", faults)
}

func (t *trust) revokedFault(err error) string {
	return fmt.Sprintf("no key is trusted while %s cannot be read: %v", t.path("revoked_keys"), err)
}

// admit decides about a client that has proven that it holds id.
func (t *trust) admit(id ssh.PublicKey, remote net.Addr, now time.Time) (grant, error) {
	return t.clientRules().admit(id, remote, now)
}

// clientRules are the rules for clients as the files had them at one moment. They decide about many clients with one
// reading of the files: also about connected ones, which have to leave once admit returns an error.
type clientRules struct {
	trust         *trust
	authorized    *authorizedKeys
	authorizedErr error // authorized_keys cannot be read
	revoked       *revocations
	revokedErr    error // revoked_keys cannot be read
}

// clientRules reads the files that decide about clients.
func (t *trust) clientRules() *clientRules {
	r := &clientRules{trust: t}
	r.authorized, r.authorizedErr = t.readAuthorized()
	r.revoked, r.revokedErr = t.readRevoked()
	return r
}

// admit decides about a client that has proven that it holds id.
func (r *clientRules) admit(id ssh.PublicKey, remote net.Addr, now time.Time) (grant, error) {
	t := r.trust
	g := grant{fingerprint: fingerprint(id)}
	if err := t.checkRevoked(id, r.revoked, r.revokedErr); err != nil {
		return g, err
	}
	if r.authorizedErr != nil {
		return g, &untrusted{kind: undecided, reason: fmt.Sprintf("no client is admitted: %v", r.authorizedErr)}
	}
	from := remoteIP(remote)
	var excluded error
	for l := range r.authorized.of(id, false) {
		if err := l.allows(from, now); err != nil {
			excluded = refuse("key %s: authorized_keys:%d %v", g.fingerprint, l.line, err)
			continue
		}
		g.name, g.by, g.until = keyName(l.comment, id), fmt.Sprintf("authorized_keys:%d", l.line), l.expiry
		return g, nil
	}
	if excluded != nil {
		return g, excluded
	}
	if t.isOwnAt(id, from) {
		g.name, g.by = keyName(t.name, id), "own identity"
		return g, nil
	}
	if cert, ok := id.(*ssh.Certificate); ok {
		return t.admitCertificate(g, cert, r.authorized, from, now)
	}
	return g, t.unlisted(id)
}

// admission is what is known of how a key was admitted that came before the server's start.
type admission struct {
	listed bool      // by a line of authorized_keys
	until  time.Time // zero for never
}

// excluded returns the keys among away, by fingerprint, that are certainly admitted no more, wherever they come from,
// and for those that a line admits until when it does. Of a certificate's key only its expiry is certain.
func (r *clientRules) excluded(away map[string]admission, now time.Time) (keys []string, renewed map[string]time.Time) {
	if r.authorizedErr != nil || r.revokedErr != nil {
		return nil, nil
	}
	past := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	listed := map[string]bool{}
	renewed = map[string]time.Time{}
	for _, l := range r.authorized.lines {
		print := fingerprint(l.key)
		if _, asked := away[print]; l.ca || !asked {
			continue
		}
		listed[print] = true
		if past(l.expiry) || r.revoked.revokes(l.key) != "" {
			continue
		}
		if until, another := renewed[print]; !another || !until.IsZero() && (l.expiry.IsZero() || l.expiry.After(until)) {
			renewed[print] = l.expiry
		}
	}
	for print, a := range away {
		_, admitted := renewed[print]
		if (a.listed || listed[print] || past(a.until)) && !admitted {
			keys = append(keys, print)
		}
	}
	return keys, renewed
}

// recheckEvery is the time between two looks at the files that decide about peers.
const recheckEvery = 2 * time.Second

// fileWatch returns a watch for the files that decide about peers.
func (t *trust) fileWatch() *fileWatch {
	return newFileWatch(t.path("authorized_keys"), t.path("known_hosts"), t.path("revoked_keys"))
}

// isOwnAt reports whether id is the machine's own identity and ip is an address of this machine.
func (t *trust) isOwnAt(id ssh.PublicKey, ip netip.Addr) bool {
	return sameKey(id, t.own) && isThisMachine(ip)
}

// isThisMachine reports whether ip is a loopback address or the address of one of the machine's network interfaces.
func isThisMachine(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false // without its interfaces, only loopback is certain
	}
	return isInterfaceAddress(ip, addrs)
}

// isInterfaceAddress reports whether ip is one of the addresses of interfaces. A link-local address is not, because
// another machine can have the same one on another link.
func isInterfaceAddress(ip netip.Addr, addrs []net.Addr) bool {
	return !ip.IsLinkLocalUnicast() && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		own, ok := netip.AddrFromSlice(n.IP)
		return ok && own.Unmap() == ip
	})
}

// admitCertificate decides by the CAs of authorized_keys.
func (t *trust) admitCertificate(g grant, cert *ssh.Certificate, keys *authorizedKeys, from netip.Addr,
	now time.Time) (grant, error) {
	var excluded error
	for l := range keys.of(cert.SignatureKey, true) {
		err := l.allows(from, now)
		var principal string
		if err == nil {
			principal, err = checkCertificate(cert, ssh.UserCert, from, now, func(p string) bool {
				return !l.principalsSet || slices.Contains(l.principals, p)
			})
		}
		if err != nil {
			excluded = refuse("%s by CA authorized_keys:%d: %s", certName(cert), l.line, clip(err.Error(), maxReason))
			continue
		}
		g.name = t.certificateName(cert, principal, l, keys)
		g.by = fmt.Sprintf("%s by CA authorized_keys:%d", certName(cert), l.line)
		g.until = earlier(l.expiry, certificateEnd(cert))
		return g, nil
	}
	if excluded != nil {
		return g, excluded
	}
	u := t.unlisted(cert)
	u.reason = fmt.Sprintf("%s is signed by CA %s, and authorized_keys lists neither that CA nor key %s",
		certName(cert), fingerprint(cert.SignatureKey), g.fingerprint)
	return g, u
}

// certificateName returns the name of a client that the CA on line ca has certified with this accepted principal. If
// the line limits the principals, the name is the principal; else it is the key id if that is a valid name. A CA
// cannot give away a name that belongs to another key: the name is then made from the key.
func (t *trust) certificateName(cert *ssh.Certificate, principal string, ca *authorizedLine,
	keys *authorizedKeys) string {
	name := cert.KeyId
	if ca.principalsSet || !validName(name) {
		name = keyName(principal, cert)
	}
	if t.nameHolder(keys, name, cert) != "" {
		name = keyName("", cert)
	}
	return name
}

// unlisted is the refusal of a key that no line of authorized_keys names.
func (t *trust) unlisted(id ssh.PublicKey) *untrusted {
	file := t.path("authorized_keys")
	return &untrusted{
		kind:   unknownKey,
		reason: fmt.Sprintf("key %s is not in %s", fingerprint(id), file),
		hint:   fmt.Sprintf("to admit it, append this line to %s:", file),
		line:   keyText(id) + " guest-" + nameSuffix(id),
	}
}

// keyText returns the type and the base64 form of a key, as they stand in authorized_keys and known_hosts.
func keyText(id ssh.PublicKey) string { return strings.TrimSuffix(publicLine(id, ""), "\n") }

// checkKey refuses a key that no line can make acceptable: a weak one or a revoked one.
func (t *trust) checkKey(id ssh.PublicKey) error {
	r, err := t.readRevoked()
	return t.checkRevoked(id, r, err)
}

// checkRevoked does so with the contents of revoked_keys, or with the error of reading it.
func (t *trust) checkRevoked(id ssh.PublicKey, r *revocations, err error) error {
	if err := checkIdentityKey(id); err != nil {
		return refuse("%v", err)
	}
	if err != nil {
		u := &untrusted{kind: undecided, reason: t.revokedFault(err)}
		if !isSystemError(err) {
			u.hint = "repair it, or create it again with ssh-keygen -k"
		}
		return u
	}
	if why := r.revokes(id); why != "" {
		return refuse("key %s: %s by revoked_keys", fingerprint(id), why)
	}
	return nil
}

// isSystemError reports whether a file could not be read at all, as when the process has too many open files. Its
// contents may be right.
func isSystemError(err error) bool { return errors.As(err, new(*fs.PathError)) }

// checkServer decides about a server that shows id. The client has connected to addr, host:port. It returns the line
// or CA by which the server is trusted.
func (t *trust) checkServer(addr string, remote net.Addr, id ssh.PublicKey, now time.Time) (by string, err error) {
	if err := t.checkKey(id); err != nil {
		return "", err
	}
	server, err := parseServerName(addr)
	if err != nil {
		return "", err
	}
	file := t.path("known_hosts")
	lines, err := readKnownHosts(t.stateFiles)
	if err != nil {
		u := refuse("%v", err)
		if isSystemError(err) {
			u.kind = undecided
		}
		return "", u
	}
	for i := range lines {
		if l := &lines[i]; l.revoked && (sameKey(l.key, id) || l.certifies(id)) {
			return "", refuse("key %s is revoked by %s:%d", fingerprint(l.key), file, l.line)
		}
	}
	found := findServer(lines, server)
	pins, cas := found.counting()
	for _, l := range pins {
		if sameKey(l.key, id) {
			return fmt.Sprintf("known_hosts:%d", l.line), nil
		}
	}
	by, err = t.checkServerCertificate(addr, server.host, cas, remote, id, now)
	if by != "" || err != nil {
		return by, err
	}
	shown := fingerprint(id)
	if len(found.exactPins) > 0 {
		pinned := found.exactPins[0]
		return "", &untrusted{
			kind: changedKey,
			reason: fmt.Sprintf("the key of %s has changed: %s:%d pins %s, the server shows %s",
				addr, file, pinned.line, fingerprint(pinned.key), shown),
			hint: fmt.Sprintf("someone may be in the middle; if the server really has a new key: "+
				"ssh-keygen -R %s -f %s", shellQuote(pinned.spelling(server)), shellQuote(file)),
		}
	}
	isOwn := t.isOwnAt(id, remoteIP(remote))
	if isOwn && !found.any() && !namesRemote(lines, remote) {
		return "own identity", nil
	}
	u := &untrusted{
		kind:   unknownKey,
		reason: fmt.Sprintf("the server %s is unknown: its key is %s", addr, shown),
		hint: fmt.Sprintf("compare the fingerprint with the one that the server prints, then append this line to %s:",
			file),
		line: server.name + " " + keyText(id),
	}
	if len(cas) > 0 {
		ca := cas[0]
		cert, ok := id.(*ssh.Certificate)
		if ok {
			u.kind = refusedKey
			u.reason = fmt.Sprintf("%s of %s is signed by CA %s, but %s:%d requires CA %s", certName(cert), addr,
				fingerprint(cert.SignatureKey), file, ca.line, fingerprint(ca.key))
			return "", u
		}
		u.reason += fmt.Sprintf(", without a certificate by CA %s of %s:%d", fingerprint(ca.key), file, ca.line)
	}
	switch {
	case isOwn && !found.any():
		u.hint += "\nthat key is this machine's own identity, but a line of known_hosts names this address or cannot be read"
	case sameKey(id, t.own):
		u.hint += "\nthat key is this machine's own identity, which is trusted without a line only on this machine"
	}
	return "", u
}

// namesRemote reports whether a line names the address that a client has connected to, or may name it because it cannot
// be parsed. A pin for [127.0.0.1]:9000 also excludes the own identity at localhost:9000, and the reverse, since both
// names lead to the same server.
func namesRemote(lines []knownLine, remote net.Addr) bool {
	if slices.ContainsFunc(lines, func(l knownLine) bool { return l.key == nil }) {
		return true
	}
	ip, port, err := net.SplitHostPort(remote.String())
	if err != nil {
		return true // an address of another form is none of this machine's
	}
	hosts := []string{ip}
	if remoteIP(remote).IsLoopback() {
		hosts = []string{ip, "localhost", "127.0.0.1", "::1"}
	}
	return slices.ContainsFunc(hosts, func(host string) bool {
		server, err := parseServerName(net.JoinHostPort(host, port))
		if err != nil {
			return true
		}
		found := findServer(lines, server)
		return found.any()
	})
}

// checkServerCertificate decides about a server whose certificate one of the CAs has signed. Without such a
// certificate it returns neither a reason nor an error, because the server can still be trusted by its plain key.
func (t *trust) checkServerCertificate(addr, host string, cas []*knownLine, remote net.Addr, id ssh.PublicKey,
	now time.Time) (by string, err error) {
	for _, ca := range cas {
		if !ca.certifies(id) {
			continue
		}
		cert := id.(*ssh.Certificate)
		_, failed := checkCertificate(cert, ssh.HostCert, remoteIP(remote), now, func(p string) bool {
			return matchPattern(strings.ToLower(p), host)
		})
		if failed == nil {
			return fmt.Sprintf("%s by CA known_hosts:%d", certName(cert), ca.line), nil
		}
		err = refuse("%s of %s by CA known_hosts:%d: %s", certName(cert), addr, ca.line, clip(failed.Error(), maxReason))
	}
	return "", err
}

// remember pins a server's key under addr, with the host name hashed. It is for a server that checkServer has called
// unknown. If another process has pinned a key since then, remember keeps that one and returns checkServer's decision.
func (t *trust) remember(addr string, id ssh.PublicKey) error {
	server, err := parseServerName(addr)
	if err != nil {
		return err
	}
	return t.lock(func() error {
		_, err := t.checkServer(addr, nil, plainKey(id), time.Now())
		if !isUnknown(err) {
			return err
		}
		_, err = t.appendLine("known_hosts", knownhosts.HashHostname(server.name)+" "+keyText(id))
		return err
	})
}

// warnClock prints a warning if the clock shows a time before this program was built.
func (t *trust) warnClock(now time.Time) {
	info, ok := debug.ReadBuildInfo()
	if text := clockFault(info, now); ok && text != "" && t.warn != nil {
		t.warn("%s", text)
	}
}

// clockFault describes a clock that shows a time before the build's last commit, or returns "".
func clockFault(info *debug.BuildInfo, now time.Time) string {
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		built, err := time.Parse(time.RFC3339, s.Value)
		if s.Key == "vcs.time" && err == nil && now.Before(built) {
			return fmt.Sprintf(
				"the clock is wrong: it shows %s, but this program was built after %s. "+
					"Expiry times and invites depend on the clock", now.UTC().Format(time.RFC3339),
				built.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// errListed is returned by allow for a key that authorized_keys lists already.
var errListed = errors.New("that key is already listed")

// errNameTaken is returned for a name that belongs to another key already.
var errNameTaken = errors.New("choose another name")

// checkName returns an error if name belongs to another key than id, which can be nil.
func (t *trust) checkName(keys *authorizedKeys, name string, id ssh.PublicKey) error {
	if holder := t.nameHolder(keys, name, id); holder != "" {
		return fmt.Errorf("the name %s already belongs to another key (%s): %w", name, holder, errNameTaken)
	}
	return nil
}

// checkNewName returns an error if the name that a key with this comment gets belongs to another key.
func (t *trust) checkNewName(comment string) error {
	keys, err := t.readAuthorized()
	if err != nil {
		return err
	}
	return t.checkName(keys, cleanName(comment), nil)
}

// allow appends a public key line to authorized_keys. If name is not empty, it replaces the line's comment. allow
// returns the grant by the new line or, with errListed, by the line that lists the key already. A name that belongs to
// another key is an error unless shareName is set.
func (t *trust) allow(text []byte, name string, shareName bool) (grant, error) {
	if name != "" && !validName(name) {
		return grant{}, nameError(name)
	}
	l, err := parseAllowed(text)
	if err != nil {
		return grant{}, err
	}
	if err := t.checkKey(l.key); err != nil {
		return grant{}, err
	}
	if name == "" {
		name = keyName(l.comment, l.key)
	}
	g := grant{name: name, fingerprint: fingerprint(l.key)}
	err = t.lock(func() error {
		keys, err := t.readAuthorized()
		if err != nil {
			return err
		}
		for old := range keys.of(l.key, l.ca) {
			g.name, g.by = keyName(old.comment, old.key), fmt.Sprintf("authorized_keys:%d", old.line)
			return fmt.Errorf("%w as %s in %s:%d", errListed, g.name, t.path("authorized_keys"), old.line)
		}
		if !l.ca && !shareName {
			if err := t.checkName(keys, name, l.key); err != nil {
				return err
			}
		}
		g.by, err = t.enrol(l.options, l.key, name)
		return err
	})
	return g, err
}

// parseAllowed parses the one public key line in text.
func parseAllowed(text []byte) (authorizedLine, error) {
	if bytes.Contains(text, []byte("PRIVATE KEY")) || isPuTTY(text) || isDropbear(text) {
		return authorizedLine{}, errors.New(
			"that is a private key, which must stay with its owner: give the public key, the .pub file")
	}
	if len(text) > maxKeyFile {
		return authorizedLine{}, errors.New("that is too long for a public key line")
	}
	text, err := importPublic(text)
	if err != nil {
		return authorizedLine{}, err
	}
	if what := explainKeyFile("FILE", text); what != "" {
		return authorizedLine{}, errors.New("that is " + what)
	}
	var lines []string
	for _, l := range textLines(text) {
		lines = append(lines, string(l))
	}
	if len(lines) == 0 {
		return authorizedLine{}, errors.New("there is no public key line, such as ssh-ed25519 AAAA… name")
	}
	l, err := parseAuthorizedLine([]byte(lines[0]))
	if err != nil {
		return authorizedLine{}, fmt.Errorf("the line is not accepted: %w", err)
	}
	if len(lines) > 2 || len(lines) == 2 && lines[1] != fingerprint(l.key) { // -keygen prints the fingerprint too
		return authorizedLine{}, errMoreThanOne
	}
	return l, nil
}

// enrol appends a line to authorized_keys and returns its place. The caller holds the lock and has checked the
// arguments.
func (t *trust) enrol(options []string, key ssh.PublicKey, name string) (string, error) {
	line := keyText(key) + " " + name
	if len(options) > 0 {
		line = strings.Join(options, ",") + " " + line
	}
	n, err := t.appendLine("authorized_keys", line)
	return fmt.Sprintf("authorized_keys:%d", n), err
}

// newInvite creates a code that enrols one key under name, in place of an earlier unused invite for that name. The
// code cannot be shown again, because it is not stored.
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
		return "", fmt.Errorf("creating an invite: %w", err)
	}
	err = t.lock(func() error {
		keys, err := t.readAuthorized()
		if err != nil {
			return err
		}
		if err := t.checkName(keys, name, nil); err != nil {
			return err
		}
		unused, err := readInvites(t.stateFiles, now)
		if err != nil {
			return err
		}
		earlier := len(unused)
		unused = slices.DeleteFunc(unused, func(i invite) bool { return foldName(i.name) == foldName(name) })
		if len(unused) < earlier && t.warn != nil {
			t.warn("the earlier invite for %s is no longer valid", name)
		}
		if len(unused) >= maxInvites {
			return fmt.Errorf("there are %d unused invites already: remove lines from %s, or wait a day",
				len(unused), t.path("invites"))
		}
		return writeInvites(t.stateFiles, append(unused, invite{key, now.Add(inviteLife), name}))
	})
	if err != nil {
		return "", fmt.Errorf("creating an invite: %w", err)
	}
	return formatInviteCode(serverHash(t.own), secret), nil
}

// redeem checks a client's proof that it has the code of an unused invite. The client has proven that it holds id.
// With commit, redeem also enrols id under the invite's name and uses up the invite. A wrong, a used and an expired
// invite are refused in the same words.
//
// The key is listed before the invite is removed, so a failed write or a power cut never costs the guest both. If
// only the removal fails, the invite cannot be used again, because its name then belongs to another key.
func (t *trust) redeem(proof, h0, hpkePublic []byte, id ssh.PublicKey, now time.Time, commit bool) (grant, error) {
	g := grant{fingerprint: fingerprint(id), by: "invite"}
	if err := t.checkKey(id); err != nil {
		return g, err
	}
	redeem := func() error {
		unused, err := readInvites(t.stateFiles, now)
		if err != nil {
			return err
		}
		keys, err := t.readAuthorized()
		if err != nil {
			return err
		}
		at := findInvite(unused, proof, h0, hpkePublic, id)
		if at < 0 {
			return &untrusted{
				kind:   invalidInvite,
				reason: fmt.Sprintf("key %s joins by an invite that is wrong, used or expired", g.fingerprint),
			}
		}
		g.name = unused[at].name
		if holder := t.nameHolder(keys, g.name, id); holder != "" {
			return refuse("key %s joins by an invite for %s, a name that now belongs to another key (%s)",
				g.fingerprint, g.name, holder)
		}
		if !commit {
			return nil
		}
		if l := lineForEverywhere(keys, id, now); l != nil {
			g.name, g.by = keyName(l.comment, id), fmt.Sprintf("invite, but listed before: authorized_keys:%d", l.line)
		} else {
			place, err := t.enrol(nil, id, g.name)
			if err != nil {
				return err
			}
			g.by = "invite, now " + place
		}
		if err := writeInvites(t.stateFiles, slices.Delete(unused, at, at+1)); err != nil {
			t.report("invites", []string{fmt.Sprintf("the used invite for %s is still listed: %v", g.name, err)})
		}
		return nil
	}
	var err error
	if commit {
		err = t.lock(redeem)
	} else {
		err = redeem()
	}
	if err != nil && !errors.As(err, new(*untrusted)) {
		err = fmt.Errorf("key %s cannot join by its invite, which stays valid: %w", g.fingerprint, err)
	}
	return g, err
}

// lineForEverywhere returns the line that admits id now and from any address, or nil.
func lineForEverywhere(keys *authorizedKeys, id ssh.PublicKey, now time.Time) *authorizedLine {
	for l := range keys.of(id, false) {
		if l.from == nil && l.allows(netip.Addr{}, now) == nil {
			return l
		}
	}
	return nil
}

// nameHolder returns where name, or a name that looks like it, belongs to another key than id: a line of
// authorized_keys or the server's own identity. It returns "" if the name is free. id can be nil.
func (t *trust) nameHolder(keys *authorizedKeys, name string, id ssh.PublicKey) string {
	if l := keys.holder(name, id); l != nil {
		return fmt.Sprintf("authorized_keys:%d", l.line)
	}
	if t.own != nil && !sameKey(t.own, id) && foldName(keyName(t.name, t.own)) == foldName(name) {
		return "the server's own key"
	}
	return ""
}

// findInvite returns the index of the invite that the proof belongs to, or -1. Its running time does not depend on
// which invite that is.
func findInvite(unused []invite, proof, h0, hpkePublic []byte, id ssh.PublicKey) int {
	at := -1
	for i, inv := range unused {
		same := subtle.ConstantTimeCompare(inviteProof(inv.key, h0, hpkePublic, id.Marshal()), proof)
		at = subtle.ConstantTimeSelect(same, i, at)
	}
	return at
}

// keyUse returns where the state folder names id as a key of securechat/2: as an identity or the encryption key, or in
// authorized_keys or known_hosts. It returns "" if it does not.
func (t *trust) keyUse(id ssh.PublicKey) (string, error) {
	for _, name := range []string{"identity", "identity.pub", "encryption", usedIdentities} {
		data, err := t.read(name)
		if err != nil {
			return "", err
		}
		found := slices.ContainsFunc(publicKeys(data), func(k ssh.PublicKey) bool { return sameKey(k, id) })
		clear(data)
		if found {
			return t.path(name), nil
		}
	}
	authorized, err := t.readAuthorized()
	if err != nil {
		return "", err
	}
	for _, l := range authorized.lines {
		if sameKey(l.key, id) {
			return fmt.Sprintf("%s:%d", t.path("authorized_keys"), l.line), nil
		}
	}
	known, err := readKnownHosts(t.stateFiles)
	if err != nil {
		return "", err
	}
	for _, l := range known {
		if sameKey(l.key, id) {
			return fmt.Sprintf("%s:%d", t.path("known_hosts"), l.line), nil
		}
	}
	return "", nil
}
