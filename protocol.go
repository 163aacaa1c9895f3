package main

// What the two protocols have in common: securechat/2 (handshake.go, securechat2.go) and the paper's own (paper.go,
// paperlink.go). A process speaks one of them, so nothing can be downgraded.

import (
	"errors"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxPeers bounds the clients' keys of -paper, and so the cost of a stage 1, which a server verifies with each of them.
// It stands here because flags.go checks it, and builds without paper.go.
const maxPeers = 64

// protocol is a handshake, followed by the first message each way. The caller closes conn after an error, and resets
// the deadlines of its connection otherwise. Nothing of a protocol keeps state between connections, so its methods are
// for any goroutine.
type protocol interface {
	// dial is the client's side. It sends req, and returns the server and its answer. Its errors are *untrusted,
	// errUnreachable, errServerLeft, errPermanent, or one that wraps errUnverified or errBadPacket.
	dial(conn *pacedConn, req joinRequest) (*peer, link, welcome, error)
	// accept is the server's side. The peer is never nil: after an error it holds what was proven before the error.
	accept(conn *pacedConn) (*peer, link, joinRequest, error)
	// keepAlive is the KeepAlive of the net.Dialer or net.ListenConfig that makes the connections.
	keepAlive() time.Duration
	// check returns an error if the protocol cannot carry the line.
	check(line outLine) error
	// acknowledges reports whether the server says which lines are in its log.
	acknowledges() bool
	// watch returns a watch of the files that decide about peers.
	watch() *fileWatch
	// recheckServer decides again about the server of a session. Its error is *untrusted.
	recheckServer(server *peer, now time.Time) error
	// recheckClients reads the files and returns the decisions about clients of sessions by what the files contain: when
	// a client's admission expires, or *untrusted.
	recheckClients() func(client *peer, now time.Time) (until time.Time, err error)
}

// endpoint is one side of connections: the protocol that it speaks, and its own identity.
type endpoint struct {
	protocol protocol
	id       ssh.PublicKey
	name     string // of the identity
	trust    *trust // decides about others; nil with -paper
}

// peer is the other side of a connection, as far as the handshake has proven it. Nothing in it changes afterwards.
type peer struct {
	addr        string        // IP address and port
	remote      net.Addr      // the same; nil for the operator's console
	name        string        // of its key, by authorized_keys, a certificate or an invite; "" if unknown
	suffix      string        // distinguishes keys of one name: the SUFFIX of name~SUFFIX
	fingerprint string        // of its key; "" if the peer has proven none
	key         ssh.PublicKey // the key or certificate; nil if the peer has proven none
	admittedBy  string        // the file and line, CA or invite that admitted it
	until       time.Time     // when that expires; zero for never
	digest      []byte        // SHA-512 of the session key, the paper's digest; nil before the handshake's end
	stream      streamID      // of a client
}

// newPeer returns the peer at the other end of conn, of which nothing is proven yet.
func newPeer(conn net.Conn) *peer {
	return &peer{addr: conn.RemoteAddr().String(), remote: conn.RemoteAddr()}
}

// identify records that the peer has proven to hold key.
func (p *peer) identify(key ssh.PublicKey) {
	p.key, p.fingerprint, p.suffix = key, fingerprint(key), nameSuffix(key)
}

// listed reports whether a line of authorized_keys names the peer's key.
func (p *peer) listed() bool {
	_, certified := p.key.(*ssh.Certificate)
	return !certified && strings.Contains(p.admittedBy, "authorized_keys:")
}

// errUnverified is wrapped by what failed verification, in either protocol, and by nothing else: a timeout or a closed
// connection gets ordinary words, so that the warning keeps its force.
var errUnverified = errors.New("it might be a man-in-the-middle attack")

// errUnreachable is network trouble before the server has admitted or refused the client. Another try may succeed.
type errUnreachable struct{ error }

func (e errUnreachable) Unwrap() error { return e.error }

// errServerLeft is the server's secure-close: it is stopping, full or without its log. Another try may succeed.
var errServerLeft = errors.New("the server closed the session")

// errPermanent is an error that another connection would meet again.
type errPermanent struct{ error }

func (e errPermanent) Unwrap() error { return e.error }

// errTimeout is the end of a stay by -timeout.
var errTimeout = errors.New("-timeout ran out")

// hintOf returns what the user can do about err, as lines to print below the error, or "".
func hintOf(err error) string {
	var u *untrusted
	if !errors.As(err, &u) || u.hint == "" {
		return ""
	}
	var hint strings.Builder
	for i, line := range strings.Split(u.hint, "\n") {
		hint.WriteString("\nsecurechat: hint: " + safe(line))
		if i == 0 && u.line != "" {
			hint.WriteString("\n" + safe(u.line)) // alone, to be copied
		}
	}
	return hint.String()
}
