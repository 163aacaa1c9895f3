package main

// Invites: one code that makes two machines know each other, once, within a day (DESIGN.md section 5; its proof travels
// in section 3's credential box). The code, base32 in groups:
//
//	version     1   inviteVersion
//	server     32   SHA-256 of the server's identity, the plain key in SSH's wire form
//	secret     16   random
//	checksum    2   SHA-256 of the above, cut: a typo is told here, not by a refusal
//
// The server keeps no secret but a key drawn from it, in dir/invites, a line an invite: key in hex, expiry, name.

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	inviteLife    = 24 * time.Hour
	inviteVersion = 1
	inviteSecret  = 16
	inviteSum     = 2
	inviteBytes   = 1 + sha256.Size + inviteSecret + inviteSum
	inviteKey     = 32  // bytes of the key and of a proof
	inviteGroup   = 6   // characters between dashes
	maxInvites    = 256 // that wait at one time
)

// inviteCode is what a code says.
type inviteCode struct {
	server [sha256.Size]byte
	key    [inviteKey]byte
}

// invitesTo says whether the code was made by the server with this identity.
func (c *inviteCode) invitesTo(id ssh.PublicKey) bool {
	return subtle.ConstantTimeCompare(c.server[:], serverHash(id)) == 1
}

func serverHash(id ssh.PublicKey) []byte {
	sum := sha256.Sum256(plainKey(id).Marshal())
	return sum[:]
}

// deriveInviteKey turns a code's secret into the key that makes and checks proofs.
func deriveInviteKey(secret, server []byte) ([]byte, error) {
	return hkdf.Key(sha512.New, secret, server, "securechat/2 invite key", inviteKey)
}

func inviteChecksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("securechat/2 invite code"), b...))
	return sum[:inviteSum]
}

var inviteEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// formatInviteCode is parseInviteCode's inverse.
func formatInviteCode(server, secret []byte) (code string) {
	b := append([]byte{inviteVersion}, server...)
	b = append(b, secret...)
	b = append(b, inviteChecksum(b)...)
	text := inviteEncoding.EncodeToString(b)
	for len(text) > inviteGroup {
		code, text = code+text[:inviteGroup]+"-", text[inviteGroup:]
	}
	return code + text
}

// parseInviteCode reads a code, whatever its case and grouping. Digits that base32 leaves out are taken for the letters
// they resemble.
func parseInviteCode(s string) (c inviteCode, err error) {
	if len(s) > 1<<10 {
		return c, errors.New("the invite code is too long")
	}
	s = strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n', '-':
			return -1
		case '0':
			return 'O'
		case '1':
			return 'I'
		case '8':
			return 'B'
		}
		return r
	}, s)
	s = strings.ToUpper(s)
	b, err := inviteEncoding.DecodeString(s)
	if err != nil || len(b) != inviteBytes || inviteEncoding.EncodeToString(b) != s ||
		!bytes.Equal(b[inviteBytes-inviteSum:], inviteChecksum(b[:inviteBytes-inviteSum])) {
		return c, errors.New("the invite code has a typing error or a part of it is missing: copy it again, whole")
	}
	defer clear(b)
	if b[0] != inviteVersion {
		return c, errors.New("the invite code is of a newer kind: update securechat")
	}
	copy(c.server[:], b[1:])
	key, err := deriveInviteKey(b[1+sha256.Size:][:inviteSecret], c.server[:])
	if err != nil {
		return c, fmt.Errorf("the invite code: %w", err)
	}
	copy(c.key[:], key)
	return c, nil
}

// proof shows that the client holds the code, for this server hello (h0), this run (hpkePublic) and this identity (key
// or certificate in wire form) alone: 32 bytes.
func (c *inviteCode) proof(h0, hpkePublic, identity []byte) []byte {
	return inviteProof(c.key[:], h0, hpkePublic, identity)
}

func inviteProof(key, h0, hpkePublic, identity []byte) []byte {
	mac := hmac.New(sha512.New, key)
	mac.Write([]byte("securechat/2 invite proof"))
	for _, part := range [][]byte{h0, hpkePublic, identity} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		mac.Write(part)
	}
	return mac.Sum(nil)[:inviteKey]
}

// invite is one that waits.
type invite struct {
	key    []byte
	expiry time.Time
	name   string
}

// invites reads those that wait. Broken lines are reported and left out, with those that expired.
func (t *trust) invites(now time.Time) ([]invite, error) {
	data, err := t.read("invites")
	if err != nil {
		return nil, err
	}
	var waiting []invite
	var faults []string
	defer func() { t.report("invites", faults) }()
	for n, line := range textLines(data) {
		var i invite
		f := strings.Fields(string(line))
		if len(f) == 3 && validName(f[2]) {
			key, keyErr := hex.DecodeString(f[0])
			at, timeErr := time.Parse(time.RFC3339, f[1])
			if keyErr == nil && timeErr == nil && len(key) == inviteKey {
				i = invite{key, at, f[2]}
			}
		}
		if i.key == nil {
			faults = append(faults, fmt.Sprintf("%s:%d is no invite and invites nobody", t.path("invites"), n))
			continue
		}
		if now.Before(i.expiry) && len(waiting) < maxInvites {
			waiting = append(waiting, i)
		}
	}
	return waiting, nil
}

func (t *trust) writeInvites(waiting []invite) error {
	var b bytes.Buffer
	for _, i := range waiting {
		fmt.Fprintf(&b, "%x %s %s\n", i.key, i.expiry.UTC().Format(time.RFC3339), i.name)
	}
	return writeFile(t.path("invites"), b.Bytes())
}
