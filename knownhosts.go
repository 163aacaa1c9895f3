package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// known_hosts: one line a server key or certificate authority, in the format of sshd(8).

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
