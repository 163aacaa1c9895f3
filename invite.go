package main

// An invite is a code that lets a server and a client trust each other's keys. It can be used once, within a day. The
// client proves in the credential box of stage 1 that it has the code, and never sends the code itself. The code is
// base32 in groups:
//
//	version     1   inviteVersion
//	server     32   SHA-256 of the server's identity, the plain key in SSH's wire form
//	secret     16   random
//	checksum    2   first bytes of a SHA-256 of the fields above, so that the client itself detects a typing error
//
// The server does not store the secret. It stores a key that is derived from it, in the file invites, which has a
// line for each unused invite: the key in hexadecimal, the expiry time, the name.

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
	"unicode"

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
	maxInvites    = 256 // unused invites at one time
)

// inviteCode is a parsed code.
type inviteCode struct {
	server [sha256.Size]byte
	key    [inviteKey]byte
}

// invitesTo reports whether the code was made by the server with this identity.
func (c *inviteCode) invitesTo(id ssh.PublicKey) bool {
	return subtle.ConstantTimeCompare(c.server[:], serverHash(id)) == 1
}

func serverHash(id ssh.PublicKey) []byte {
	sum := sha256.Sum256(plainKey(id).Marshal())
	return sum[:]
}

// deriveInviteKey derives the key that makes and checks proofs from a code's secret.
func deriveInviteKey(secret, server []byte) ([]byte, error) {
	return hkdf.Key(sha512.New, secret, server, "securechat/2 invite key", inviteKey)
}

func inviteChecksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("securechat/2 invite code"), b...))
	return sum[:inviteSum]
}

var inviteEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// formatInviteCode is the inverse of parseInviteCode.
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

// parseInviteCode parses a code in any case and grouping. It ignores all but letters and digits, because programs
// replace dashes and blanks in pasted text, and reads the digits that base32 does not use as the letters that they
// resemble. The checksum detects what is wrong after that.
func parseInviteCode(s string) (c inviteCode, err error) {
	if len(s) > 1<<10 {
		return c, errors.New("the invite code is too long")
	}
	s = strings.Map(func(r rune) rune {
		switch r {
		case '0':
			return 'O'
		case '1':
			return 'I'
		case '8':
			return 'B'
		}
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return -1
		}
		return r
	}, s)
	s = strings.ToUpper(s)
	b, err := inviteEncoding.DecodeString(s)
	if err != nil || len(b) != inviteBytes || inviteEncoding.EncodeToString(b) != s ||
		!bytes.Equal(b[inviteBytes-inviteSum:], inviteChecksum(b[:inviteBytes-inviteSum])) {
		return c, errors.New("the invite code has a typing error or is incomplete: copy all of it again")
	}
	defer clear(b)
	if b[0] != inviteVersion {
		return c, errors.New("the invite code has a newer format: update securechat")
	}
	copy(c.server[:], b[1:])
	key, err := deriveInviteKey(b[1+sha256.Size:][:inviteSecret], c.server[:])
	if err != nil {
		return c, fmt.Errorf("the invite code: %w", err)
	}
	copy(c.key[:], key)
	return c, nil
}

// proof returns the 32 bytes that prove possession of the code. They are valid only for this server hello (h0), this
// handshake (hpkePublic) and this client identity (key or certificate in wire form).
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

// invite is an unused invite.
type invite struct {
	key    []byte
	expiry time.Time
	name   string
}

// readInvites reads the unused invites. It leaves out expired ones, and reports lines that cannot be parsed.
func readInvites(files *stateFiles, now time.Time) ([]invite, error) {
	data, err := files.read("invites")
	if err != nil {
		return nil, err
	}
	var unused []invite
	var faults []string
	for n, line := range textLines(data) {
		i, ok := parseInviteLine(string(line))
		switch {
		case !ok:
			faults = append(faults, fmt.Sprintf("%s:%d is not an invite and is ignored", files.path("invites"), n))
		case now.Before(i.expiry) && len(unused) < maxInvites:
			unused = append(unused, i)
		}
	}
	files.report("invites", faults)
	return unused, nil
}

// parseInviteLine parses one line of the file invites.
func parseInviteLine(line string) (i invite, ok bool) {
	f := strings.Fields(line)
	if len(f) != 3 || !validName(f[2]) {
		return invite{}, false
	}
	key, err := hex.DecodeString(f[0])
	if err != nil || len(key) != inviteKey {
		return invite{}, false
	}
	expiry, err := time.Parse(time.RFC3339, f[1])
	return invite{key, expiry, f[2]}, err == nil
}

// writeInvites replaces the file invites. The caller holds the folder's lock.
func writeInvites(files *stateFiles, unused []invite) error {
	var b bytes.Buffer
	for _, i := range unused {
		fmt.Fprintf(&b, "%x %s %s\n", i.key, i.expiry.UTC().Format(time.RFC3339), i.name)
	}
	return writeFile(files.path("invites"), b.Bytes())
}
