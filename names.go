package main

// Names of people: 1 to 32 ASCII letters, digits, '.', '_' and '-'. A name belongs to a key. It comes from
// authorized_keys, a certificate or an invite, never from the holder of the key.

import (
	"cmp"
	"fmt"
	"strings"
)

const (
	maxName      = 32
	suffixDigits = 8 // of name~SUFFIX: 32 bits of the key's digest
)

// nameRune reports whether a name may have r.
func nameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-'
}

// validName reports whether s is a name. It is fast and does not allocate, because a client calls it for each item.
func validName(s string) bool {
	lettersOrDigits := 0
	for i := range len(s) {
		switch c := s[i]; {
		case !nameRune(rune(c)):
			return false
		case c != '.' && c != '_' && c != '-':
			lettersOrDigits++
		}
	}
	return lettersOrDigits > 0 && len(s) <= maxName
}

// cleanName makes a name from a comment: pi@router becomes pi-router. It returns "" if no letter or digit is left.
func cleanName(s string) string {
	clean := strings.Map(func(r rune) rune {
		if nameRune(r) {
			return r
		}
		return '-'
	}, s)
	if clean = clean[:min(len(clean), maxName)]; !validName(clean) {
		return ""
	}
	return clean
}

// validShown reports whether s is a name as the room shows it: NAME, or NAME~SUFFIX if two keys have one name, and
// either followed by @SERVER for a person at another server. A person at this server cannot have such a name, because
// no name has an @.
func validShown(s string) bool {
	if validName(s) { // most are, and the cuts below take a quarter of the time of parsing an item
		return true
	}
	local, server, remote := strings.Cut(s, "@")
	name, suffix, doubled := strings.Cut(local, "~")
	return validName(name) && (!doubled || validSuffix(suffix)) && (!remote || validName(server))
}

// validSuffix reports whether s can be the SUFFIX of name~SUFFIX: hexadecimal digits in lower case.
func validSuffix(s string) bool {
	return len(s) == suffixDigits && strings.Trim(s, hexDigits) == ""
}

// remoteName returns the name that the room shows for a person at another server. origin is that server's
// fingerprint, which is used if server cannot be made a name.
func remoteName(name, server, origin string) string {
	if !validShown(name) || strings.Contains(name, "@") {
		name = cmp.Or(cleanName(name), "somebody")
	}
	_, hash, _ := strings.Cut(origin, ":")
	return name + "@" + cmp.Or(cleanName(server), cleanName(hash[:min(len(hash), 8)]), "elsewhere")
}

// foldName maps names that look alike to the same string, which is only for comparing.
func foldName(s string) string { return strings.Map(foldRune, strings.ToLower(s)) }

func foldRune(r rune) rune {
	switch r {
	case '0':
		return 'o'
	case '1', 'i':
		return 'l'
	case '.', '_':
		return '-'
	}
	return r
}

// looksLike reports whether a valid name, which is ASCII, looks like another text. It is foldName for many names: it
// needs no memory.
func looksLike(name, other string) bool {
	if len(name) != len(other) {
		return false
	}
	for i := range len(name) {
		if foldByte(name[i]) != foldByte(other[i]) {
			return false
		}
	}
	return true
}

func foldByte(b byte) rune {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return foldRune(rune(b))
}

// nameError is the error for a name that validName rejects.
func nameError(name string) error {
	return fmt.Errorf("%q is no name: letters, digits, '.', '_' and '-' make one, %d at most", name, maxName)
}
