package main

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// authorized_keys has a public key or a certificate authority on each line, in the format of sshd(8), with the
// options from=, expiry-time=, cert-authority and principals=.

// authorizedLine is one line of authorized_keys.
type authorizedLine struct {
	line          int
	key           ssh.PublicKey
	comment       string
	options       []string // as they stand in the file
	ca            bool
	from          *addressList // nil allows every address
	expiry        time.Time    // zero means that the line does not expire
	principals    []string
	principalsSet bool
	leftOut       string // further keys in the comment, after lines that were joined
}

// allows returns an error if the line has expired or does not admit clients from this address.
func (l *authorizedLine) allows(from netip.Addr, now time.Time) error {
	if !l.expiry.IsZero() && !now.Before(l.expiry) {
		return fmt.Errorf("expired at %s", l.expiry.UTC().Format(time.RFC3339))
	}
	if l.from != nil && !l.from.match(from) {
		return fmt.Errorf("does not admit it from %s", from)
	}
	return nil
}

// authorizedKeys is the contents of authorized_keys. Nothing in it changes.
type authorizedKeys struct {
	lines  []authorizedLine
	byKey  map[string][]int // the lines of each key in wire form, by their indices
	byName map[string][]int // the lines of each name that are not of a CA; see foldName
}

// parseAuthorized parses authorized_keys. It reports lines that cannot be parsed and leaves them out.
func parseAuthorized(files *stateFiles, data []byte) *authorizedKeys {
	a := &authorizedKeys{byKey: map[string][]int{}, byName: map[string][]int{}}
	var faults []string
	for n, text := range textLines(data) {
		l, err := parseAuthorizedLine(text)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s:%d admits no key: %v", files.path("authorized_keys"), n, err))
			continue
		}
		l.line = n
		a.add(l)
		if l.leftOut != "" {
			faults = append(faults, fmt.Sprintf("%s:%d admits one key and leaves out %s: put it on a line of its own",
				files.path("authorized_keys"), n, l.leftOut))
		}
	}
	files.report("authorized_keys", faults)
	return a
}

func (a *authorizedKeys) add(l authorizedLine) {
	at := len(a.lines)
	a.lines = append(a.lines, l)
	key := string(l.key.Marshal())
	a.byKey[key] = append(a.byKey[key], at)
	if !l.ca {
		name := foldName(keyName(l.comment, l.key))
		a.byName[name] = append(a.byName[name], at)
	}
}

// of yields the lines for a key, or for the key in a certificate, in their order: those that admit it or, with ca,
// those that admit what it has signed.
func (a *authorizedKeys) of(key ssh.PublicKey, ca bool) iter.Seq[*authorizedLine] {
	return func(yield func(*authorizedLine) bool) {
		for _, at := range a.byKey[string(plainKey(key).Marshal())] {
			if l := &a.lines[at]; l.ca == ca && !yield(l) {
				return
			}
		}
	}
}

// holder returns the first line with a key other than id that has name, or a name that looks like it, or nil.
func (a *authorizedKeys) holder(name string, id ssh.PublicKey) *authorizedLine {
	for _, at := range a.byName[foldName(name)] {
		if l := &a.lines[at]; !sameKey(l.key, id) {
			return l
		}
	}
	return nil
}

// withoutEffect are options of sshd(8) that only forbid or allow what securechat does not have.
var withoutEffect = []string{"restrict", "no-pty", "no-port-forwarding", "no-agent-forwarding", "no-x11-forwarding",
	"no-user-rc", "no-touch-required"}

// parseAuthorizedLine parses one line. An unknown option makes the line invalid, because it could be a restriction.
func parseAuthorizedLine(text []byte) (l authorizedLine, err error) {
	if err := checkLine(text); err != nil {
		return l, err
	}
	l.key, l.comment, l.options, _, err = ssh.ParseAuthorizedKey(text)
	if err != nil {
		return l, errors.New("it is not a public key line (options, type, key, name)")
	}
	if _, ok := l.key.(*ssh.Certificate); ok {
		return l, errors.New("it is a certificate: list its CA with cert-authority, or its plain key")
	}
	if err := checkIdentityKey(l.key); err != nil {
		return l, err
	}
	l.comment, l.leftOut = splitComment(l.comment)
	seen := make(map[string]bool)
	for _, o := range l.options {
		name, value, has := strings.Cut(o, "=")
		name = strings.ToLower(name)
		if seen[name] {
			return l, fmt.Errorf("option %q is given twice", name)
		}
		seen[name] = true
		if has {
			value, err = unquoteOption(value)
			if err != nil {
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
		case !has && slices.Contains(withoutEffect, name):
		default:
			err = errors.New("unknown (known are from=, expiry-time=, cert-authority and principals=)")
		}
		if err != nil {
			return l, fmt.Errorf("option %q: %w", name, err)
		}
	}
	if l.principalsSet && !l.ca {
		return l, errors.New(`option "principals": it has no meaning without cert-authority`)
	}
	return l, nil
}

// splitComment splits a comment that contains further keys, because lines were joined, into the comment of the line's
// own key and a description of the others: their fingerprints and names.
func splitComment(comment string) (own, others string) {
	keys := keysIn(comment)
	if len(keys) == 0 {
		return comment, ""
	}
	own, rest, _ := strings.Cut(comment, keys[0])
	for _, keyType := range []string{"sk-ssh-", "sk-ecdsa-", "ssh-", "ecdsa-"} {
		if i := strings.LastIndex(own, keyType); i >= 0 { // the type of the next key, perhaps without a blank before it
			own = own[:i]
			break
		}
	}
	for i, key := range keys {
		if print, ok := parseKeyText(key); ok {
			key = print
		}
		if i > 0 {
			others += " and "
		}
		others += fmt.Sprintf("%.60s", key)
	}
	if f := strings.Fields(rest); len(keys) == 1 && len(f) > 0 {
		others += " (" + cleanName(f[0]) + ")"
	}
	return strings.TrimSpace(own), others
}

// unquoteOption removes the quotes around an option's value, in which \" stands for a quote.
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

// parseExpiry parses YYYYMMDD[HHMM[SS]], in local time or, with a Z at the end, in UTC.
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
	return time.Time{}, fmt.Errorf("%q is not a time such as 20301231, 203012312359 or 20301231235959Z", s)
}

// addressList is the value of from= and source-address: networks and patterns with * and ?, each of them negated by a
// !.
type addressList struct{ items []addressItem }

type addressItem struct {
	negate  bool
	prefix  netip.Prefix // not valid if pattern is set
	pattern string
}

// parseAddressList accepts addresses only. Host names are not looked up, and a negated name that never matches would
// admit every client.
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
				return nil, fmt.Errorf("%q is not a network such as 192.0.2.0/24 or 2001:db8::/32", item)
			}
			a.prefix = p
		} else if rest != "" && strings.Trim(rest, digits) == "" && strings.ContainsAny(rest, "*?") {
			a.pattern = strings.ToLower(rest)
		} else {
			return nil, fmt.Errorf(
				"%q is not an address, a network or a pattern of addresses (host names are not looked up)", item)
		}
		list.items = append(list.items, a)
	}
	return list, nil
}

// match reports whether an item matches ip and no negated item does.
func (l *addressList) match(ip netip.Addr) bool {
	found := false
	for _, a := range l.items {
		hit := ip.IsValid() && (a.prefix.IsValid() && a.prefix.Contains(ip) ||
			a.pattern != "" && matchPattern(a.pattern, ip.String()))
		if hit && a.negate {
			return false
		}
		found = found || hit
	}
	return found
}

// remoteIP returns a peer's IP address, with an IPv4-mapped IPv6 address as IPv4 and without a zone. It returns the
// zero Addr if remote has no IP address.
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

// matchPattern matches a pattern with * and ? as ssh does, in time len(pattern) · len(s) at most.
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
