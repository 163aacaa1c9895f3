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
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	maxTrustFile = 1 << 20  // bytes of one file
	maxTrustLine = 16 << 10 // bytes of one line
)

// trust decides by the files in dir.
type trust struct {
	dir  string
	own  ssh.PublicKey                 // the machine's own identity
	name string                        // the own identity's, from its comment
	warn func(format string, a ...any) // reports broken lines: file, line and why; nil: silence

	mu     sync.Mutex
	warned map[string][]string // by file: what warn has said of it as it stands
}

// grant is a decision for a client.
type grant struct {
	name, fingerprint string
	by                string // the file and line, the CA or "own identity"
}

// untrusted is a decision against a peer. Its reason is for our log and our user, never for the peer.
type untrusted struct {
	reason  string
	hint    string        // what to do about it, or ""
	changed bool          // the server is known by another key
	invite  bool          // its proof of an invite is not one that waits
	unknown bool          // nothing speaks against the peer and nothing for it: the user may be asked
	silent  bool          // the server closed the connection, and trouble of the network would look the same
	key     ssh.PublicKey // of an unknown peer, for who asks the user
}

func (u *untrusted) Error() string { return u.reason }

func refuse(format string, a ...any) *untrusted { return &untrusted{reason: fmt.Sprintf(format, a...)} }

func (t *trust) path(name string) string { return filepath.Join(t.dir, name) }

// report warns of what is wrong with a file just read, of each fault once for as long as it is there.
func (t *trust) report(name string, faults []string) {
	t.mu.Lock()
	known := t.warned[name]
	if t.warned == nil {
		t.warned = map[string][]string{}
	}
	t.warned[name] = faults
	t.mu.Unlock()
	for _, fault := range faults {
		if t.warn != nil && !slices.Contains(known, fault) {
			t.warn("%s", fault)
		}
	}
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

// read returns a file's contents, nil if it is not there.
func (t *trust) read(name string) ([]byte, error) {
	data, _, err := readFile(t.path(name), maxTrustFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// appendLine adds a line to a file, making it if need be. The caller holds the lock. It returns the line's number.
func (t *trust) appendLine(name, line string) (int, error) {
	data, err := t.read(name)
	if err != nil {
		return 0, err
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	data = append(append(data, line...), '\n')
	if len(data) > maxTrustFile {
		return 0, fmt.Errorf("%s is full: remove lines that nobody needs", t.path(name))
	}
	return bytes.Count(data, []byte{'\n'}), writeFile(t.path(name), data)
}

// textLines yields the lines that say something, with their numbers from 1.
func textLines(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		n := 0
		for line := range bytes.Lines(data) {
			n++
			if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !yield(n, line) {
				return
			}
		}
	}
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

// authorizedLine is one line of authorized_keys.
type authorizedLine struct {
	line          int
	key           ssh.PublicKey
	comment       string
	options       []string // as written
	ca            bool
	from          *addressList // nil: from anywhere
	expiry        time.Time    // zero: never
	principals    []string
	principalsSet bool
}

// holds says why a line does not serve at this time, from this address.
func (l *authorizedLine) holds(from netip.Addr, now time.Time) error {
	if !l.expiry.IsZero() && !now.Before(l.expiry) {
		return fmt.Errorf("expired at %s", l.expiry.UTC().Format(time.RFC3339))
	}
	if l.from != nil && !l.from.match(from) {
		return fmt.Errorf("does not admit it from %s", from)
	}
	return nil
}

// authorized reads authorized_keys; broken lines are reported and left out.
func (t *trust) authorized() ([]authorizedLine, error) {
	data, err := t.read("authorized_keys")
	if err != nil {
		t.report("authorized_keys", []string{fmt.Sprintf("%v: nobody is admitted by it", err)})
		return nil, err
	}
	var lines []authorizedLine
	var faults []string
	defer func() { t.report("authorized_keys", faults) }()
	for n, text := range textLines(data) {
		l, err := parseAuthorizedLine(text)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s:%d admits nobody: %v", t.path("authorized_keys"), n, err))
			continue
		}
		l.line = n
		lines = append(lines, l)
	}
	return lines, nil
}

// parseAuthorizedLine reads one line. An option it does not know makes the line invalid, for it may be a restriction.
func parseAuthorizedLine(text []byte) (l authorizedLine, err error) {
	if err := checkLine(text); err != nil {
		return l, err
	}
	l.key, l.comment, l.options, _, err = ssh.ParseAuthorizedKey(text)
	if err != nil {
		return l, errors.New("it is no public key line (options, type, key, name)")
	}
	if _, ok := l.key.(*ssh.Certificate); ok {
		return l, errors.New("it holds a certificate: list its CA with cert-authority, or the bare key")
	}
	if err := checkIdentityKey(l.key); err != nil {
		return l, err
	}
	seen := make(map[string]bool)
	for _, o := range l.options {
		name, value, has := strings.Cut(o, "=")
		name = strings.ToLower(name)
		if seen[name] {
			return l, fmt.Errorf("option %q comes twice", name)
		}
		seen[name] = true
		if has {
			if value, err = unquoteOption(value); err != nil {
				return l, fmt.Errorf("option %q: %w", name, err)
			}
		}
		switch {
		case name == "cert-authority" && !has:
			l.ca = true
		case name == "from" && has:
			l.from, err = parseAddressList(value)
		case name == "expiry-time" && has:
			l.expiry, err = parseExpiry(value)
		case name == "principals" && has:
			l.principals, l.principalsSet = strings.Split(value, ","), true
			if slices.Contains(l.principals, "") {
				err = errors.New("an empty principal")
			}
		default:
			err = errors.New("not known here (from=, expiry-time=, cert-authority and principals= are)")
		}
		if err != nil {
			return l, fmt.Errorf("option %q: %w", name, err)
		}
	}
	if l.principalsSet && !l.ca {
		return l, errors.New(`option "principals": it says nothing without cert-authority`)
	}
	return l, nil
}

// checkLine bounds a line and keeps control characters out of it.
func checkLine(text []byte) error {
	if len(text) > maxTrustLine {
		return fmt.Errorf("it is longer than %d bytes", maxTrustLine)
	}
	if bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return errors.New("it holds control characters")
	}
	return nil
}

// unquoteOption takes the quotes off an option's value, in which \" stands for a quote.
func unquoteOption(s string) (string, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return "", errors.New("its value is not in double quotes")
	}
	s = strings.ReplaceAll(s[1:len(s)-1], `\"`, "\x00")
	if strings.Contains(s, `"`) {
		return "", errors.New("a quote inside its value")
	}
	return strings.ReplaceAll(s, "\x00", `"`), nil
}

// parseExpiry reads YYYYMMDD[HHMM[SS]], local time or, with a Z, UTC.
func parseExpiry(s string) (time.Time, error) {
	digits, utc := strings.CutSuffix(s, "Z")
	loc := time.Local
	if utc {
		loc = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) == len(layout) {
			if at, err := time.ParseInLocation(layout, digits, loc); err == nil {
				return at, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time such as 20301231, 203012312359 or 20301231235959Z", s)
}

// addressList is from='s and source-address's list: prefixes, and patterns with * and ?, each perhaps negated.
type addressList struct{ items []addressItem }

type addressItem struct {
	negate  bool
	prefix  netip.Prefix // valid, or pattern counts
	pattern string
}

// parseAddressList takes addresses only: names are not looked up, and a name that is never matched would, negated, let
// everyone in.
func parseAddressList(s string) (*addressList, error) {
	list := &addressList{}
	for item := range strings.SplitSeq(s, ",") {
		rest, negate := strings.CutPrefix(item, "!")
		a := addressItem{negate: negate}
		digits := "0123456789.*?"
		if strings.Contains(rest, ":") {
			digits = "0123456789abcdefABCDEF:.*?"
		}
		if ip, err := netip.ParseAddr(rest); err == nil && ip.Zone() == "" {
			ip = ip.Unmap()
			a.prefix = netip.PrefixFrom(ip, ip.BitLen())
		} else if strings.Contains(rest, "/") {
			p, err := netip.ParsePrefix(rest)
			if err != nil || p.Addr().Is4In6() || p != p.Masked() {
				return nil, fmt.Errorf("%q is no network such as 192.0.2.0/24 or 2001:db8::/32", item)
			}
			a.prefix = p
		} else if rest != "" && strings.Trim(rest, digits) == "" && strings.ContainsAny(rest, "*?") {
			a.pattern = strings.ToLower(rest)
		} else {
			return nil, fmt.Errorf("%q is no address, network or pattern of one (names are not looked up)", item)
		}
		list.items = append(list.items, a)
	}
	return list, nil
}

// match says whether an item matches and no negated one does.
func (l *addressList) match(ip netip.Addr) bool {
	found := false
	for _, a := range l.items {
		hit := ip.IsValid() && (a.prefix.IsValid() && a.prefix.Contains(ip) || a.pattern != "" && matchPattern(a.pattern, ip.String()))
		if hit && a.negate {
			return false
		}
		found = found || hit
	}
	return found
}

// remoteIP is a peer's address, an IPv4 one as such however it came, or the zero Addr.
func remoteIP(remote net.Addr) netip.Addr {
	if remote == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// matchPattern matches * and ? as ssh does, in time len(pattern) · len(s) at most.
func matchPattern(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// certName names a certificate in the log. Its text is its holder's until the CA's signature is checked, hence quoted.
func certName(c *ssh.Certificate) string {
	return fmt.Sprintf("certificate %q serial %d", c.KeyId, c.Serial)
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

// hostName is addr, host:port as typed, as known_hosts writes it: [host]:port, or host alone for port 22; and the host.
func hostName(addr string) (name, host string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", "", fmt.Errorf("an address must be host:port: %w", err)
	}
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n,*?!|#") {
		return "", "", fmt.Errorf("%q is no host name", host)
	}
	return knownhosts.Normalize(net.JoinHostPort(host, port)), host, nil
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

// knownLine is one line of known_hosts.
type knownLine struct {
	line    int
	hosts   []string
	key     ssh.PublicKey
	ca      bool
	revoked bool
}

// certifies says whether the line is of the CA that signed id.
func certifies(l *knownLine, id ssh.PublicKey) bool {
	cert, ok := id.(*ssh.Certificate)
	return ok && l != nil && sameKey(l.key, cert.SignatureKey)
}

// names says whether the line speaks of a server by its name, as hostName returns it, or loosely: without its port, as
// ssh takes a line too, though only to trust by it and never to call a key changed.
func (l *knownLine) names(name, host string) (named, loosely bool) {
	for _, h := range l.hosts {
		pattern, negate := strings.CutPrefix(h, "!")
		hit := func(s string) bool {
			if strings.HasPrefix(h, "|") {
				return matchHashed(h, s)
			}
			return matchPattern(strings.ToLower(pattern), s)
		}
		byName, byHost := hit(name), hit(host)
		if negate && (byName || byHost) {
			return false, false
		}
		named, loosely = named || byName, loosely || byName || byHost
	}
	return named, loosely
}

// matchHashed compares a name with |1|salt|HMAC-SHA-1 of it|. SHA-1 is the format's; it hides names, it proves nothing.
func matchHashed(hashed, name string) bool {
	parts := strings.Split(hashed, "|")
	if len(parts) != 4 || parts[1] != "1" {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	sum, err := base64.StdEncoding.DecodeString(parts[3])
	if err != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), sum)
}

// knownHosts reads known_hosts and refuses id where it is @revoked there, for whatever host. Broken lines are reported
// and left out.
func (t *trust) knownHosts(id ssh.PublicKey) ([]knownLine, error) {
	data, err := t.read("known_hosts")
	if err != nil {
		return nil, refuse("no server is trusted: %v", err)
	}
	file := t.path("known_hosts")
	var lines []knownLine
	var faults []string
	defer func() { t.report("known_hosts", faults) }()
	for n, text := range textLines(data) {
		l, err := parseKnownLine(text)
		if err != nil {
			if bytes.HasPrefix(text, []byte("@")) && !bytes.HasPrefix(text, []byte("@cert-authority")) {
				return nil, refuse("no server is trusted while %s:%d, which may revoke a key, cannot be read: %v", file, n, err)
			}
			faults = append(faults, fmt.Sprintf("%s:%d trusts no server: %v", file, n, err))
			continue
		}
		l.line = n
		if l.revoked {
			if sameKey(l.key, id) || certifies(&l, id) {
				return nil, refuse("key %s is revoked by %s:%d", ssh.FingerprintSHA256(l.key), file, n)
			}
			continue
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// parseKnownLine reads one line.
func parseKnownLine(text []byte) (knownLine, error) {
	if err := checkLine(text); err != nil {
		return knownLine{}, err
	}
	marker, hosts, key, _, _, err := ssh.ParseKnownHosts(text)
	if err != nil {
		return knownLine{}, errors.New("it is no known_hosts line (hosts, type, key)")
	}
	l := knownLine{hosts: hosts, key: plainKey(key), ca: marker == "cert-authority", revoked: marker == "revoked"}
	if marker != "" && !l.ca && !l.revoked || strings.HasPrefix(hosts[0], "@") {
		return l, fmt.Errorf("the marker %q is not known", marker)
	}
	if l.revoked {
		return l, nil // however weak
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return l, errors.New("it holds a certificate: list its CA with @cert-authority, or the bare key")
	}
	return l, checkIdentityKey(key)
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

func nameError(name string) error {
	return fmt.Errorf("%q is no name: letters, digits, '.', '_' and '-' make one, %d at most", name, maxName)
}
