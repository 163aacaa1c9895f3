package main

// OpenSSH certificates (PROTOCOL.certkeys): what is checked in one apart from its CA.

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// checkCertificate checks everything about a certificate except whether its CA is trusted and whether it is revoked.
// It returns the first principal that is accepted. A certificate without principals is an error: it would be valid
// for every name.
func checkCertificate(c *ssh.Certificate, want uint32, from netip.Addr, now time.Time,
	accepts func(principal string) bool) (string, error) {
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
		return "", fmt.Errorf("none of its principals %q is accepted", c.ValidPrincipals)
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	for option, value := range c.CriticalOptions {
		if option != "source-address" || want != ssh.UserCert {
			return "", fmt.Errorf("its critical option %q is unknown", option)
		}
		list, err := parseAddressList(value)
		if err != nil || strings.Contains(value, "!") {
			return "", fmt.Errorf("its source-address %q is not a list of networks", value)
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

// certificateEnd returns when id expires, or the zero time if id is not a certificate or does not expire.
func certificateEnd(id ssh.PublicKey) time.Time {
	cert, ok := id.(*ssh.Certificate)
	if !ok || cert.ValidBefore > latestTime {
		return time.Time{}
	}
	return time.Unix(int64(cert.ValidBefore), 0)
}

// earlier returns the earlier one of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// latestTime is the last second that certTime prints.
const latestTime = 1 << 37

// certTime formats a certificate's time, which may be too large for time.Time.
func certTime(s uint64) string {
	if s > latestTime {
		return "the end of time"
	}
	return time.Unix(int64(s), 0).UTC().Format(time.RFC3339)
}
