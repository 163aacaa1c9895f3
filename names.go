package main

// Names of people: ASCII letters, digits, '.', '_' and '-', 1 to 32 of them (DESIGN.md section 5). A name belongs to a
// key; it comes from authorized_keys, a certificate or an invite, never from who bears it.

import (
	"cmp"
	"fmt"
	"strings"
)

const (
	maxName      = 32
	suffixDigits = 8 // of name~XXXXXXXX: 32 bits of the key's digest
)

func nameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-'
}

// validName says whether s is a name as it stands.
func validName(s string) bool { return s != "" && s == cleanName(s) }

// cleanName makes a name of a comment: pi@router becomes pi-router. It returns "" when no letter or digit is left.
func cleanName(s string) string {
	var b strings.Builder
	some := false
	for _, r := range s {
		if b.Len() == maxName {
			break
		}
		if !nameRune(r) {
			r = '-'
		}
		some = some || !strings.ContainsRune("._-", r)
		b.WriteByte(byte(r))
	}
	if !some {
		return ""
	}
	return b.String()
}

// validShown says whether s can stand for somebody in the room: NAME, NAME~XXXXXXXX where two keys have one name, and either with
// @SERVER behind it for somebody who speaks at another server. Nobody here can be called the like: no name has an @.
func validShown(s string) bool {
	local, server, remote := strings.Cut(s, "@")
	name, suffix, doubled := strings.Cut(local, "~")
	return validName(name) && (!doubled || len(suffix) == suffixDigits && validName(suffix)) && (!remote || validName(server))
}

// remoteName makes what validShown takes of a name at another server, of that server's name, and of its fingerprint where it
// has none.
func remoteName(name, server, origin string) string {
	if !validShown(name) || strings.Contains(name, "@") {
		name = cmp.Or(cleanName(name), "somebody")
	}
	_, hash, _ := strings.Cut(origin, ":")
	return name + "@" + cmp.Or(cleanName(server), cleanName(hash[:min(len(hash), 8)]), "elsewhere")
}

// foldName maps names that the eye takes for one another to one string, which is itself never shown.
func foldName(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '0':
			return 'o'
		case '1', 'i':
			return 'l'
		case '.', '_':
			return '-'
		}
		return r
	}, strings.ToLower(s))
}

func nameError(name string) error {
	return fmt.Errorf("%q is no name: letters, digits, '.', '_' and '-' make one, %d at most", name, maxName)
}
