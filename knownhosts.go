package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// known_hosts has a server's public key or a certificate authority on each line, in the format of sshd(8). A line
// with the marker @revoked revokes a key for every server. Because a lost revocation is worse than a lost server,
// each line that could be meant to revoke a key, and does not, makes the whole file unusable.

// serverName is the address of a server as known_hosts names it. Every spelling of an address gives the same name.
type serverName struct {
	name  string   // [host]:port, or host for port 22
	host  string   // an IP address in its shortest form, or a host name in lower case
	exact []string // the names that an exact line can have
	loose []string // the names that a line for the host without its port can have
}

// parseServerName parses an address, host:port.
func parseServerName(addr string) (serverName, error) {
	typed, service, err := net.SplitHostPort(addr)
	if err != nil {
		return serverName{}, fmt.Errorf("an address must be host:port: %w", err)
	}
	host := canonicalHost(typed)
	if host == "" || strings.ContainsAny(host, " \t\r\n,*?!|#") {
		return serverName{}, fmt.Errorf("%q is not a host name", typed)
	}
	number, err := net.LookupPort("tcp", service)
	if err != nil {
		return serverName{}, fmt.Errorf("%q is not a port: %w", service, err)
	}
	port := strconv.Itoa(number)
	typed = strings.ToLower(typed) // a hashed line can have this spelling, which cannot be recognized there
	s := serverName{
		name:  knownhosts.Normalize(net.JoinHostPort(host, port)),
		host:  host,
		exact: []string{bracketed(host, port), bracketed(typed, port)},
		loose: []string{host, typed},
	}
	if number == 22 {
		s.exact = append(s.exact, s.loose...)
	}
	return s, nil
}

// bracketed returns [host]:port.
func bracketed(host, port string) string { return "[" + host + "]:" + port }

// canonicalHost returns the one spelling of a host that lines are compared with: an IP address in its shortest form,
// without a zone and IPv4-mapped addresses as IPv4, or a host name in lower case without a dot at its end.
func canonicalHost(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.WithZone("").Unmap().String()
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// canonicalPattern does the same for a host in known_hosts, which is a host or [host]:port, and can contain * and ?.
func canonicalPattern(pattern string) string {
	rest, ok := strings.CutPrefix(pattern, "[")
	host, port, hasPort := strings.Cut(rest, "]:")
	if !ok || !hasPort {
		return canonicalHost(pattern)
	}
	if n, err := strconv.Atoi(port); err == nil { // accepts +9000 and 09000, like a dialer
		port = strconv.Itoa(n)
	}
	return bracketed(canonicalHost(host), port)
}

// knownLine is one line of known_hosts. A line that cannot be parsed has no hosts and no key.
type knownLine struct {
	line    int
	hosts   []string
	key     ssh.PublicKey
	ca      bool
	revoked bool
}

// certifies reports whether id is a certificate that names the line's key as its CA.
func (l *knownLine) certifies(id ssh.PublicKey) bool {
	cert, ok := id.(*ssh.Certificate)
	return ok && sameKey(l.key, cert.SignatureKey)
}

// names reports whether the line names a server exactly, and whether it names it loosely: by its host without the
// port, or exactly. Like ssh, a client trusts a server by a loose line, but a different key on a loose line does not
// mean that the server's key has changed.
func (l *knownLine) names(server serverName) (exactly, loosely bool) {
	for _, h := range l.hosts {
		pattern, negated := strings.CutPrefix(h, "!")
		exact, loose := matchHost(pattern, server.exact), matchHost(pattern, server.loose)
		if negated && (exact || loose) {
			return false, false
		}
		exactly, loosely = exactly || exact, loosely || exact || loose
	}
	return exactly, loosely
}

// spelling returns the name under which the line has the server, for ssh-keygen -R.
func (l *knownLine) spelling(server serverName) string {
	for _, h := range l.hosts {
		if !strings.ContainsAny(h, "|!*?") && matchHost(h, server.exact) {
			return h
		}
	}
	return server.name
}

// matchHost reports whether a host of a line, plain, hashed or a pattern, matches one of the names.
func matchHost(host string, names []string) bool {
	if strings.HasPrefix(host, "|") {
		return slices.ContainsFunc(names, func(name string) bool { return matchHashed(host, name) })
	}
	host = canonicalPattern(host)
	return slices.ContainsFunc(names, func(name string) bool { return matchPattern(host, name) })
}

// serverLines are the lines of known_hosts that name one server, exactly or loosely.
type serverLines struct {
	exactPins, loosePins []*knownLine
	exactCAs, looseCAs   []*knownLine
}

// findServer returns the lines that name a server.
func findServer(lines []knownLine, server serverName) (found serverLines) {
	for i := range lines {
		l := &lines[i]
		exactly, loosely := l.names(server)
		switch {
		case l.revoked || !loosely:
		case l.ca && exactly:
			found.exactCAs = append(found.exactCAs, l)
		case l.ca:
			found.looseCAs = append(found.looseCAs, l)
		case exactly:
			found.exactPins = append(found.exactPins, l)
		default:
			found.loosePins = append(found.loosePins, l)
		}
	}
	return found
}

// any reports whether any line names the server.
func (s *serverLines) any() bool {
	return len(s.exactPins)+len(s.loosePins)+len(s.exactCAs)+len(s.looseCAs) > 0
}

// counting returns the lines that decide about the server, keys and CAs: the exact ones, and the loose ones only if no
// exact line names the server.
func (s *serverLines) counting() (pins, cas []*knownLine) {
	if len(s.exactPins)+len(s.exactCAs) > 0 {
		return s.exactPins, s.exactCAs
	}
	return s.loosePins, s.looseCAs
}

// matchHashed compares a name with a hashed one, |1|salt|HMAC-SHA-1|. The format prescribes SHA-1, which hides host
// names here and authenticates nothing.
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

// readKnownHosts reads known_hosts. It reports lines that cannot be parsed, except that a line that may be meant to
// revoke a key, and does not, is an error.
func readKnownHosts(files *stateFiles) ([]knownLine, error) {
	data, err := files.read("known_hosts")
	if err != nil {
		return nil, fmt.Errorf("no server is trusted: %w", err)
	}
	file := files.path("known_hosts")
	unreadable := func(n int, err error) error {
		return fmt.Errorf("no server is trusted while %s:%d, which may revoke a key, cannot be read: %w", file, n, err)
	}
	var lines []knownLine
	var faults []string
	revoked := make(map[string]bool) // fingerprints
	for n, text := range textLines(data) {
		l, err := parseKnownLine(text)
		switch {
		case err == nil:
			l.line = n
			lines = append(lines, l)
			if l.revoked {
				revoked[fingerprint(l.key)] = true
			}
		case mayRevoke(string(text)):
			return nil, unreadable(n, err)
		default:
			lines = append(lines, knownLine{line: n})
			faults = append(faults, fmt.Sprintf("%s:%d trusts no server: %v", file, n, err))
		}
	}
	for n, text := range allLines(data) {
		if err := checkRevocations(string(text), revoked); err != nil {
			return nil, unreadable(n, err)
		}
	}
	files.report("known_hosts", faults)
	return lines, nil
}

// mayRevoke reports whether a line that cannot be parsed may be meant to revoke a key.
func mayRevoke(line string) bool {
	line = visible(line)
	return strings.Contains(line, "revoke") ||
		strings.HasPrefix(line, "@") && !strings.HasPrefix(line, "@cert-authority")
}

// checkRevocations returns an error if a line, which can be a comment, has the marker @revoked in another place than
// at its start, or a further key that no line of the file revokes.
func checkRevocations(line string, revoked map[string]bool) error {
	const marker = "@revoked"
	shown := visible(line)
	if !strings.Contains(shown, marker) {
		return nil
	}
	if !isComment([]byte(line)) && (strings.Count(shown, marker) > 1 || !strings.HasPrefix(shown, marker)) {
		return errors.New("@revoked has an effect only at the start of a line")
	}
	if key := otherKey(line, revoked); key != "" {
		return fmt.Errorf("it contains %.60s, which has no effect there", key)
	}
	return nil
}

// visible returns the text in lower case and without characters that cannot be seen.
func visible(text string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if r < ' ' || unicode.In(r, unicode.Cf, unicode.Mn) {
			return -1
		}
		return r
	}, text))
}

// parseKnownLine parses one line.
func parseKnownLine(text []byte) (knownLine, error) {
	if err := checkLine(text); err != nil {
		return knownLine{}, err
	}
	marker, hosts, key, _, _, err := ssh.ParseKnownHosts(text)
	if err != nil {
		return knownLine{}, errors.New("it is not a known_hosts line (hosts, type, key)")
	}
	l := knownLine{hosts: hosts, key: plainKey(key), ca: marker == "cert-authority", revoked: marker == "revoked"}
	if marker != "" && !l.ca && !l.revoked || strings.HasPrefix(hosts[0], "@") {
		return l, fmt.Errorf("unknown marker %q", marker)
	}
	if l.revoked {
		return l, nil // a weak key can be revoked too
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return l, errors.New("it is a certificate: list its CA with @cert-authority, or its plain key")
	}
	return l, checkIdentityKey(key)
}
