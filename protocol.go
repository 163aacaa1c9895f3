package main

import "errors"

// What the two protocols have in common: securechat/2 in handshake.go, the paper's own in paper.go and paperlink.go.

// errUnverified is wrapped by what failed verification, in either protocol, and by nothing else: a timeout or a closed
// socket gets ordinary words, so that the warning keeps its force.
var errUnverified = errors.New("it might be a man-in-the-middle attack")
