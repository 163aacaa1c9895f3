package main

// securechat/2 as a protocol: its handshake, what decides about the other side's key, and the first message each way.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
)

// securechat2 is the default protocol.
type securechat2 struct {
	me    *party
	trust *trust
	raw   bool                          // the connections carry bytes (-raw)
	note  func(format string, a ...any) // reports a new pin, and a silent server
	trace tracer                        // -trace; nil if off

	client securechat2Client
	server securechat2Server
}

// securechat2Client is what dial alone uses.
type securechat2Client struct {
	addr      string      // of the server, as the user typed it
	invite    *inviteCode // -join; nil without
	acceptNew bool        // pin an unknown server without asking (-accept-new)
}

// securechat2Server is what accept alone uses.
type securechat2Server struct {
	delay time.Duration // before each answer (-delay)
}

// keepAlive turns TCP's keep-alive off: both sides ping, every 30 seconds on an idle connection.
func (s *securechat2) keepAlive() time.Duration { return -1 }

func (s *securechat2) check(outLine) error { return nil }

func (s *securechat2) acknowledges() bool { return true }

func (s *securechat2) watch() *fileWatch { return s.trust.fileWatch() }

func (s *securechat2) recheckServer(server *peer, now time.Time) error {
	_, err := s.trust.checkServer(s.client.addr, server.remote, server.key, now)
	return err
}

func (s *securechat2) recheckClients() func(client *peer, now time.Time) (time.Time, error) {
	rules := s.trust.clientRules()
	return func(client *peer, now time.Time) (time.Time, error) {
		g, err := rules.admit(client.key, client.remote, now)
		return g.until, err
	}
}

func (s *securechat2) traffic(otherwise *traffic) *traffic {
	if s.raw {
		return rawTraffic
	}
	return otherwise
}

// silenceNoted is how long a client waits for a server's hello before it reports that. Servers of HTTP and TLS send
// nothing before the client does, and a securechat client does not either.
const silenceNoted = 5 * time.Second

func (s *securechat2) dial(conn *pacedConn, req joinRequest) (*peer, link, welcome, error) {
	p := newPeer(conn)
	pin := false
	var proof proofFunc
	if s.client.invite != nil {
		proof = s.client.invite.proof
	}
	me := *s.me
	me.trace = s.trace
	silent := time.AfterFunc(silenceNoted, func() {
		s.note("%s has not answered yet: it is busy, or no securechat server", s.client.addr)
	})
	defer silent.Stop()
	secrets, err := clientHandshake(conn, &me, func(id ssh.PublicKey) error {
		silent.Stop() // the hello is here
		var err error
		pin, err = s.checkServer(conn.RemoteAddr(), id)
		if err == nil {
			p.identify(id)
		}
		return err
	}, proof)
	if err != nil {
		if errors.Is(err, errRefused) {
			return nil, nil, welcome{}, s.notAdmitted()
		}
		return nil, nil, welcome{}, s.handshakeError(err)
	}
	p.digest = secrets.digest[:]
	sess, err := newSession(conn.Conn, secrets, false, s.traffic(pipeTraffic))
	if err != nil {
		return nil, nil, welcome{}, err
	}
	w, err := s.enter(conn, sess, req, p, pin)
	if err != nil {
		sess.wipe()
		return nil, nil, welcome{}, err
	}
	p.name = w.server
	return p, sess, w, nil
}

// enter exchanges the first messages with server. With pin, it adds the server's key to known_hosts after that.
func (s *securechat2) enter(conn *pacedConn, sess *session, req joinRequest, server *peer, pin bool) (welcome, error) {
	w, err := s.join(conn, sess, req)
	if err != nil {
		return welcome{}, err
	}
	if pin {
		if err := s.pin(server); err != nil {
			return welcome{}, err
		}
	}
	return w, s.checkMode(w)
}

// pin adds the key of an unknown server to known_hosts.
func (s *securechat2) pin(server *peer) error {
	if err := s.trust.remember(s.client.addr, server.key); err != nil {
		return fmt.Errorf("pinning the server's key: %w", err)
	}
	s.note("the key of %s is now pinned: %s", s.client.addr, server.fingerprint)
	return nil
}

// checkMode returns an error if only one side has -raw, or if the server with -raw serves another client.
func (s *securechat2) checkMode(w welcome) error {
	addr, raw := s.client.addr, w.flags&welcomeRaw != 0
	switch {
	case s.raw && !raw:
		return errPermanent{fmt.Errorf("%s is a room: connect without -raw, or start that server with it", addr)}
	case !s.raw && raw:
		return errPermanent{fmt.Errorf("%s carries bytes: connect with -raw, or start that server without it", addr)}
	case w.flags&welcomeBusy != 0:
		return errPermanent{fmt.Errorf("%s serves another client already: -raw is for one", addr)}
	}
	return nil
}

// join sends the client's first message and receives the server's.
func (s *securechat2) join(conn *pacedConn, sess *session, req joinRequest) (welcome, error) {
	buf, err := sess.append(nil, kindJoin, req.encode())
	if err != nil {
		return welcome{}, err
	}
	if _, err := conn.Write(buf); err != nil {
		return welcome{}, s.handshakeError(err)
	}
	var w welcome
	err = conn.receive(func() (err error) { w, err = readWelcome(sess); return })
	if err != nil && !errors.Is(err, errServerLeft) {
		return welcome{}, s.handshakeError(err)
	}
	return w, err
}

// readWelcome reads the server's first message. A server that is full, that stops or that cannot write its log sends a
// notice and secure-close in its place: then the error wraps errServerLeft.
func readWelcome(sess *session) (welcome, error) {
	kind, payload, err := sess.read()
	if err != nil {
		return welcome{}, err
	}
	if kind == kindJoin {
		return parseWelcome(payload)
	}
	left := errServerLeft
	if kind == kindText {
		reason, err := parseReason(payload)
		if err != nil {
			return welcome{}, err
		}
		left = fmt.Errorf("%w: %s", errServerLeft, reason)
		kind, payload, err = sess.read()
		if err != nil {
			return welcome{}, err
		}
	}
	if kind != kindClose || string(payload) != closeText {
		return welcome{}, errMalformed
	}
	return welcome{}, left
}

// handshakeError separates a failed check, which stays as it is, from trouble of the network.
func (s *securechat2) handshakeError(err error) error {
	if errors.As(err, new(*untrusted)) {
		return err // it names the server
	}
	var foreign errForeign
	switch {
	case errors.As(err, &foreign):
		err = fmt.Errorf("that is %s server: check the address and the port", string(foreign))
	case closedByPeer(err):
		err = errors.New("the server closed the connection: it may be stopping or busy, " +
			"or reject this address for a while after failed attempts; try again in a minute")
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = netTrouble{fmt.Sprintf(
			"the server is busy or stuck: it did not answer within %v; or it is no securechat server", handshakeTimeout), err}
	}
	err = fmt.Errorf("handshake with %s: %w", s.client.addr, err)
	if errors.Is(err, errUnverified) || errors.Is(err, errBadPacket) {
		return err
	}
	return errUnreachable{err}
}

// checkServer decides about the server's identity before the server learns ours. pin means that the server is unknown
// and is trusted because of the invite or -accept-new: its key is pinned after the server's welcome.
func (s *securechat2) checkServer(remote net.Addr, id ssh.PublicKey) (pin bool, err error) {
	addr := s.client.addr
	_, err = s.trust.checkServer(addr, remote, id, time.Now())
	if s.client.invite != nil && !s.client.invite.invitesTo(id) {
		return false, &untrusted{
			reason: fmt.Sprintf("%s shows key %s, and the invite is from another server", addr, fingerprint(id)),
			hint:   "check the address, and that the code was copied from that server; else someone may be in the middle",
		}
	}
	var u *untrusted
	if !errors.As(err, &u) || u.kind != unknownKey {
		return false, err
	}
	if s.client.invite != nil || s.client.acceptNew {
		return true, nil
	}
	u.key = id
	u.hint += "\nor connect from a terminal, which asks; or with -accept-new, which trusts an unknown server; " +
		"or with an invite (-join)"
	return false, u
}

// notAdmitted returns the error for a refusal that the server has signed. A refusal gives no reason: the server's log
// has it.
func (s *securechat2) notAdmitted() error {
	u := &untrusted{reason: s.client.addr + " does not admit this key; its log says why"}
	if s.client.invite != nil {
		u.hint = "the invite may be used or expired: ask for a new code"
		return u
	}
	u.hint = "if it does not know this key yet, have this line added to its authorized_keys:"
	u.line = keyText(plainKey(s.me.signer.PublicKey()))
	return u
}

func (s *securechat2) accept(conn *pacedConn) (*peer, link, joinRequest, error) {
	remote := conn.RemoteAddr()
	p := newPeer(conn)
	admit := func(id ssh.PublicKey, proof, h0, hpkePublic []byte, confirmed bool) error {
		g, err := s.trust.admit(id, remote, time.Now())
		if err != nil && len(proof) > 0 {
			g, err = s.trust.redeem(proof, h0, hpkePublic, id, time.Now(), confirmed)
		}
		p.name, p.admittedBy, p.until = g.name, g.by, g.until
		return err
	}
	me := *s.me
	if s.trace != nil {
		me.trace = func(line string) { s.trace(p.addr + "  " + line) }
	}
	secrets, id, err := serverHandshake(conn, &me, s.server.delay, admit)
	if id != nil {
		p.identify(id)
	}
	if err != nil {
		if id == nil && closedByPeer(err) {
			const text = "it left before saying who it is, perhaps because it does not trust this server's key yet: %w"
			err = fmt.Errorf(text, err)
		}
		return p, nil, joinRequest{}, err
	}
	digest := secrets.digest
	p.digest = digest[:]
	sess, err := newSession(conn.Conn, secrets, true, s.traffic(chatTraffic))
	if err != nil {
		return p, nil, joinRequest{}, err
	}
	var req joinRequest
	err = conn.receive(func() (err error) { req, err = readJoin(sess); return })
	if err != nil {
		sess.wipe()
		return p, nil, joinRequest{}, fmt.Errorf("first packet: %w", plainError(err))
	}
	p.stream = req.stream
	return p, sess, req, nil
}

// readJoin reads a client's first message.
func readJoin(sess *session) (joinRequest, error) {
	kind, payload, err := sess.read()
	if err == nil && kind != kindJoin {
		err = errMalformed
	}
	if err != nil {
		return joinRequest{}, err
	}
	return parseJoin(payload)
}
