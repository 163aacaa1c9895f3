package main

// The session: messages over one authenticated connection, once the handshake has left its secrets (the paper's §4). It knows
// no keys on disk. A message that does not fit one packet is sent in parts. message.go has the layouts.

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	pingInterval   = 30 * time.Second // of saying nothing, then a ping
	peerTimeout    = 75 * time.Second // of hearing nothing, then the other side is dead
	writeTimeout   = 30 * time.Second // for one write: the other side reads nothing
	goodbyeTimeout = 2 * time.Second  // for the other side to answer secure-close
)

var (
	errTruncated = errors.New("the connection ended without secure-close")
	errNotHere   = errors.New("no further message is here yet")
)

// link carries messages over one authenticated connection, whichever the protocol. One goroutine at a time may read, and one
// append and write.
type link interface {
	// append makes a message of at most maxMessage bytes of payload ready behind buf, for write.
	append(buf []byte, kind byte, payload []byte) ([]byte, error)
	// appendItems makes the room's encoded items ready, as many in a message as fit a packet.
	appendItems(buf []byte, items [][]byte) ([]byte, error)
	// write sends what append made ready, within writeTimeout unless for -raw.
	write(buf []byte) error
	// read returns the next message; its payload is good until the next call.
	read() (kind byte, payload []byte, err error)
	// readHere is read, but for errNotHere where it would have to wait.
	readHere() (kind byte, payload []byte, err error)
	// wait returns once something of the next message is here. It needs far less stack than read, for who waits long.
	wait() error
	// idle says that nothing of a further message is here yet.
	idle() bool
	// buffered says whether a further message is here already, or a whole packet of one in parts.
	buffered() bool
	// expect bounds the wait of the reads to come.
	expect(within time.Duration)
	// unconfirmed counts lines that the protocol holds for sent and that may be lost with the connection.
	unconfirmed() int
	// wipe forgets the keys; nobody reads or writes any more.
	wipe()
}

// session is securechat/2's link, over one authenticated connection.
type session struct {
	conn    net.Conn
	in, out *halfConn
	patient bool              // a write may take as long as the other side's reader likes (-raw)
	head    [frameHeader]byte // all that is held to read into while nothing comes,
	begun   int               // and how much of it is read, before it goes into buf
	buf     []byte            // of buffers, while something does
	buffers *sync.Pool
	r, w    int    // buf[r:w] is read from conn and not used up
	used    int    // bytes at its front that the message last returned stands in
	partial []byte // the parts so far of a message in parts
	lasting bool   // peerTimeout was expected: it begins anew with each packet, and not with each message alone
}

// newSession starts a session from a handshake's secrets, which it wipes. buffers lend what is read into.
func newSession(conn net.Conn, s *secrets, server bool, buffers *sync.Pool) (*session, error) {
	defer s.wipe()
	in, err := newHalfConn(&s.toClient, &s.digest, s.aes)
	if err != nil {
		return nil, err
	}
	out, err := newHalfConn(&s.toServer, &s.digest, s.aes)
	if err != nil {
		return nil, err
	}
	if server {
		in, out = out, in
	}
	return &session{conn: conn, in: in, out: out, buffers: buffers}, nil
}

// Buffers of readers: a server's clients are many and say little each; who moves bulk reads in large pieces. A connection
// holds one only while a packet is under way.
var (
	smallBuffers = &sync.Pool{New: func() any { b := make([]byte, 4*maxPacket); return &b }}
	largeBuffers = &sync.Pool{New: func() any { b := make([]byte, 16*maxPacket); return &b }}
)

// need waits until n bytes, a packet at most, stand in buf[r:w].
func (s *session) need(n int) error {
	for s.w-s.r < n {
		if s.r == s.w {
			if err := s.wait(); err != nil {
				return err
			}
			s.buf = *s.buffers.Get().(*[]byte)
			s.r, s.w, s.begun = 0, copy(s.buf, s.head[:s.begun]), 0
			continue
		}
		if len(s.buf)-s.r < n {
			s.w = copy(s.buf, s.buf[s.r:s.w])
			s.r = 0
		}
		k, err := s.conn.Read(s.buf[s.w:])
		s.w += k
		if err != nil && s.w-s.r < n {
			return noEOF(err)
		}
	}
	return nil
}

func (s *session) wait() error {
	if !s.idle() {
		return nil
	}
	if s.buf != nil {
		b := s.buf
		s.buf = nil
		s.buffers.Put(&b)
	}
	s.r, s.w, s.used = 0, 0, 0
	for s.begun == 0 { // a pipe passes on empty writes
		k, err := s.conn.Read(s.head[:])
		if k == 0 && err != nil {
			return truncated(err)
		}
		s.begun = k
	}
	return nil
}

func (s *session) idle() bool { return s.r+s.used == s.w && s.begun == 0 }

func (s *session) wipe() {
	s.in.wipe()
	s.out.wipe()
}

// expect may be called with less than peerTimeout while another goroutine reads.
func (s *session) expect(within time.Duration) {
	if within >= peerTimeout {
		s.lasting = true
	}
	s.conn.SetReadDeadline(time.Now().Add(within))
}

// renew is for a packet that is no message yet: there is to be more, and who waits for it may have been held up since it expected it.
func (s *session) renew() {
	if s.lasting {
		s.expect(peerTimeout)
	}
}

func (s *session) unconfirmed() int { return 0 }

// append seals a message into packets behind buf.
func (s *session) append(buf []byte, kind byte, payload []byte) (_ []byte, err error) {
	for len(payload) > maxBatch {
		if buf, err = s.packet(buf, kindPart, payload[:maxBatch]); err != nil {
			return nil, err
		}
		payload = payload[maxBatch:]
	}
	return s.packet(buf, kind, payload)
}

// packet seals one packet of the parts behind buf, after a rekey if one is due.
func (s *session) packet(buf []byte, kind byte, parts ...[]byte) ([]byte, error) {
	buf, err := s.rekey(buf)
	if err != nil {
		return nil, err
	}
	return s.out.seal(buf, kind, parts...), nil
}

// rekey makes a rekey ready behind buf if one is due.
func (s *session) rekey(buf []byte) ([]byte, error) {
	if !s.out.full() {
		return buf, nil
	}
	return s.out.seal(buf, kindRekey), s.out.ratchet()
}

// appendRaw makes b[msgHeader:] ready behind buf, in as few packets of kindRaw as can be. It writes over b: what stands before a
// payload goes where the end of the one before was, which is sealed by then.
func (s *session) appendRaw(buf, b []byte) (_ []byte, err error) {
	for len(b) > msgHeader {
		if buf, err = s.rekey(buf); err != nil {
			return nil, err
		}
		n := min(len(b), maxPlain)
		buf = s.out.sealOver(buf, kindRaw, b[:n])
		b = b[n-msgHeader:]
	}
	return buf, nil
}

func (s *session) appendItems(buf []byte, items [][]byte) (_ []byte, err error) {
	for len(items) > 0 {
		n, size := 1, len(items[0])
		for n < len(items) && size+len(items[n]) <= maxBatch {
			size += len(items[n])
			n++
		}
		if size > maxBatch {
			buf, err = s.append(buf, kindText, items[0])
		} else {
			buf, err = s.packet(buf, kindText, items[:n]...)
		}
		if err != nil {
			return nil, err
		}
		items = items[n:]
	}
	return buf, nil
}

func (s *session) write(buf []byte) error {
	if !s.patient {
		s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	_, err := s.conn.Write(buf)
	return err
}

// read returns the next message, whose payload is good until the next call. A connection that ends between packets gives
// errTruncated: only secure-close is an end. errBadPacket says that somebody else wrote into the connection.
func (s *session) read() (kind byte, payload []byte, err error) { return s.next(true) }

func (s *session) readHere() (kind byte, payload []byte, err error) { return s.next(false) }

func (s *session) next(wait bool) (kind byte, payload []byte, err error) {
	for {
		if !wait && !s.buffered() {
			return 0, nil, errNotHere
		}
		s.r += s.used
		s.used = 0
		if err := s.need(frameHeader); err != nil {
			return 0, nil, truncated(err)
		}
		n := int(binary.BigEndian.Uint16(s.buf[s.r:]))
		if n < packetAlign+aeadOverhead || n > maxPacket-frameHeader {
			return 0, nil, errBadPacket
		}
		if err := s.need(frameHeader + n); err != nil {
			return 0, nil, truncated(err)
		}
		kind, payload, err = s.in.open(s.buf[s.r+frameHeader : s.r+frameHeader+n])
		if err != nil {
			return 0, nil, err
		}
		s.used = frameHeader + n
		if s.in.packets > rekeyPackets || s.in.bytes > rekeyBytes {
			return 0, nil, errBadPacket // it should have changed its key
		}
		switch {
		case kind == kindRekey:
			if len(payload) != 0 {
				return 0, nil, errMalformed
			}
			if err := s.in.ratchet(); err != nil {
				return 0, nil, err
			}
			s.renew()
			continue
		case kind == kindPart || len(s.partial) > 0:
			if len(payload) == 0 || len(s.partial)+len(payload) > maxMessage {
				return 0, nil, errMalformed
			}
			s.partial = append(s.partial, payload...)
			if kind == kindPart {
				s.renew()
				continue
			}
			payload, s.partial = s.partial, nil
		}
		return kind, payload, nil
	}
}

// truncated is what an end of the stream is here: only secure-close is an end.
func truncated(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errTruncated
	}
	return err
}

func (s *session) buffered() bool {
	b := s.buf[s.r+s.used : s.w]
	return len(b) >= frameHeader && len(b) >= frameHeader+int(binary.BigEndian.Uint16(b))
}

// secrets is what a handshake ends with.
type secrets struct {
	digest             [sha512.Size]byte // SHA-512 of the session key, the paper's digest
	toServer, toClient [64]byte          // the secrets of the two directions, C → S and S → C
	id                 [16]byte          // names the session in a trace
	aes                bool
}

func (s *secrets) cipher() string {
	if s.aes {
		return "AES-256-GCM"
	}
	return "ChaCha20-Poly1305"
}

func (s *secrets) wipe() {
	clear(s.toServer[:])
	clear(s.toClient[:])
}

// netReason drops from a network error the addresses that stand beside it anyway.
func netReason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

// tcpKeepAlive is for net.ListenConfig and net.Dialer: off where both sides ping, every 30 s to TCP's every 15 on an idle line;
// the paper's session has no pings, and Go's default, which a socket from systemd keeps in either case.
func tcpKeepAlive(paper bool) time.Duration {
	if paper {
		return 0
	}
	return -1
}

// errLeft says that the client sent secure-close.
var errLeft = errors.New("left")

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

const rawBuffer = 256 << 10 // bytes of the reader of a -raw connection, and before its stdout

// rawBuffers lend what a connection is read into.
var rawBuffers = &sync.Pool{New: func() any { b := make([]byte, rawBuffer); return &b }}
