package main

import (
	"errors"
	"strings"
)

// What the two protocols have in common: securechat/2 in handshake.go, the paper's own in paper.go and paperlink.go.

// errUnverified is wrapped by what failed verification, in either protocol, and by nothing else: a timeout or a closed
// socket gets ordinary words, so that the warning keeps its force.
var errUnverified = errors.New("it might be a man-in-the-middle attack")

// hintOf returns what the user can do about err, as lines to print below the error, or "".
func hintOf(err error) string {
	var u *untrusted
	switch {
	case errors.As(err, &u) && u.hint != "":
		return "\nsecurechat: hint: " + strings.ReplaceAll(u.hint, "\n", "\nsecurechat: hint: ")
	case errors.Is(err, errUnverified):
		return "\nsecurechat: hint: the connection was dropped; try from another network, and compare fingerprints with the operator"
	}
	return ""
}
