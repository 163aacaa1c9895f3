package main

// The session: messages over one authenticated connection, with the secrets of a handshake (the paper's §4).
// It knows no keys on disk. A message that does not fit one packet is sent in parts. message.go has the layouts.

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	pingInterval   = 30 * time.Second // a ping is sent after this much time without a write
	peerTimeout    = 75 * time.Second // the peer is taken for dead after this much time without a packet
	writeTimeout   = 30 * time.Second // bounds one write, while the peer reads nothing
	goodbyeTimeout = 2 * time.Second  // bounds the wait for the peer's answer to secure-close
)

// errTruncated is the end of a connection without secure-close: bytes may have been cut off.
var errTruncated = errors.New("the connection ended without secure-close")

// errLeft is the end of a session by the client's secure-close.
var errLeft = errors.New("left")

// link carries messages over one authenticated connection, whichever the protocol. One goroutine may read while another
// appends and writes; setReadTimeout is for any goroutine.
type link interface {
	// append encodes a message of at most maxMessage bytes of payload behind buf, for write.
	append(buf []byte, kind byte, payload []byte) ([]byte, error)
	// sendItems encodes items of the room behind buf, as many in one message as fit one packet. Whenever buf has limit
	// bytes or more, it is sent and emptied. sendItems returns what is left to write, less than limit bytes.
	sendItems(buf []byte, items [][]byte, limit int) ([]byte, error)
	// write sends what append encoded. It takes writeTimeout at most, except on a connection of -raw.
	write(buf []byte) error
	// read returns the next message. Its payload is valid until the next call of read or ready. A message in parts
	// that the budget of shareBudget has no room for ends the connection with errNoBudget.
	read() (kind byte, payload []byte, err error)
	// ready reports whether read would return without waiting for the connection.
	ready() bool
	// setReadTimeout bounds reading. With renew the timeout restarts whenever read begins to wait for a packet.
	// Without renew all reading ends after the timeout, and later calls change nothing.
	setReadTimeout(timeout time.Duration, renew bool)
	// shareBudget makes the gathered parts of messages count in b, as those of the holder of a key. It is called before
	// the first read.
	shareBudget(b *partsBudget, fingerprint string)
	// dropped is closed if the budget had no room for the parts of the message that read returned last. It is nil if the
	// message had no parts.
	dropped() <-chan struct{}
	// wipe overwrites the keys. It may be called once nothing reads or writes any more.
	wipe()
}

// writeMessage sends one message.
func writeMessage(l link, kind byte, payload []byte) error {
	buf, err := l.append(nil, kind, payload)
	if err != nil {
		return err
	}
	return l.write(buf)
}

// secrets is the result of a handshake.
type secrets struct {
	digest             [sha512.Size]byte // SHA-512 of the session key, the paper's digest
	toServer, toClient [64]byte          // the secrets of the two directions, C → S and S → C
	id                 [16]byte          // names the session in a trace
	aes                bool              // AES-256-GCM seals packets, else ChaCha20-Poly1305
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

// traffic fits a session to what it carries.
type traffic struct {
	buffers *sync.Pool // of *[]byte, for the reader
	keeps   bool       // the reader keeps its buffer while it waits, which saves a system call after each wait
	patient bool       // writes have no deadline: they take as long as the peer's reader needs
}

// A server's clients are many and send little each; a client and a -raw connection read in large pieces.
var (
	chatTraffic = &traffic{buffers: bufferPool(4 * maxPacket)}
	pipeTraffic = &traffic{buffers: bufferPool(16 * maxPacket), keeps: true}
	rawTraffic  = &traffic{buffers: bufferPool(rawBuffer), keeps: true, patient: true}
)

const rawBuffer = 256 << 10 // bytes that a -raw connection reads at a time, and that it collects for stdout

func bufferPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, size); return &b }}
}

// session is securechat/2's link.
type session struct {
	conn    net.Conn
	in, out *halfConn
	patient bool // write sets no deadline
	packets packetReader
	partial *partialMessage // nil unless the last packets belong to a message in parts
	budget  *partsBudget    // of partial; nil for none
	owner   string          // of partial, for the budget
	ahead   receivedMessage
}

// receivedMessage is what read returns. ready keeps one until read is called; present is false if there is none.
type receivedMessage struct {
	present bool
	kind    byte
	payload []byte
	err     error
}

// newSession starts a session from a handshake's secrets, which it wipes.
func newSession(conn net.Conn, s *secrets, server bool, use *traffic) (*session, error) {
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
	return &session{
		conn: conn, in: in, out: out, patient: use.patient,
		packets: packetReader{conn: conn, buffers: use.buffers, keeps: use.keeps},
	}, nil
}

// release frees the message in parts, if there is one.
func (s *session) release() {
	if s.partial != nil {
		s.budget.release(s.partial)
		s.partial = nil
	}
}

func (s *session) wipe() {
	s.release()
	s.in.wipe()
	s.out.wipe()
}

func (s *session) setReadTimeout(timeout time.Duration, renew bool) {
	s.packets.timeout.set(s.conn, timeout, renew)
}

func (s *session) append(buf []byte, kind byte, payload []byte) (_ []byte, err error) {
	for len(payload) > maxBatch {
		buf, err = s.packet(buf, kindPart, payload[:maxBatch])
		if err != nil {
			return nil, err
		}
		payload = payload[maxBatch:]
	}
	return s.packet(buf, kind, payload)
}

func (s *session) shareBudget(b *partsBudget, fingerprint string) {
	s.budget, s.owner = b, fingerprint
}

func (s *session) dropped() <-chan struct{} {
	if s.partial == nil {
		return nil
	}
	return s.partial.gone
}

// packet seals one packet behind buf, and before it a rekey if one is due. The parts make its payload.
func (s *session) packet(buf []byte, kind byte, parts ...[]byte) ([]byte, error) {
	buf, err := s.rekey(buf)
	if err != nil {
		return nil, err
	}
	return s.out.seal(buf, kind, parts...), nil
}

// rekey seals a rekey behind buf if one is due.
func (s *session) rekey(buf []byte) ([]byte, error) {
	if !s.out.full() {
		return buf, nil
	}
	return s.out.seal(buf, kindRekey), s.out.ratchet()
}

// appendRaw seals b[msgHeader:] behind buf in as few packets of kindRaw as possible. It overwrites b: the header of
// each packet takes the place of the end of the packet before it, which is sealed by then.
func (s *session) appendRaw(buf, b []byte) (_ []byte, err error) {
	for len(b) > msgHeader {
		buf, err = s.rekey(buf)
		if err != nil {
			return nil, err
		}
		n := min(len(b), maxPlain)
		buf = s.out.sealOver(buf, kindRaw, b[:n])
		b = b[n-msgHeader:]
	}
	return buf, nil
}

func (s *session) sendItems(buf []byte, items [][]byte, limit int) (_ []byte, err error) {
	total := 0
	for _, enc := range items {
		total += len(enc)
	}
	buf = slices.Grow(buf, min(limit+maxPacket, total+(1+total/maxBatch)*packetOverhead))
	var rest []byte // of an item that takes several packets
	for len(items) > 0 || len(rest) > 0 {
		n, size := 0, 0
		for len(rest) == 0 && n < len(items) && size+len(items[n]) <= maxBatch {
			size += len(items[n])
			n++
		}
		switch {
		case n > 0:
			buf, err = s.packet(buf, kindText, items[:n]...)
			items = items[n:]
		case len(rest) == 0:
			rest, items = items[0], items[1:]
			continue
		case len(rest) > maxBatch:
			buf, err = s.packet(buf, kindPart, rest[:maxBatch])
			rest = rest[maxBatch:]
		default:
			buf, err = s.packet(buf, kindText, rest)
			rest = nil
		}
		if err == nil && len(buf) >= limit {
			err = s.write(buf)
			buf = buf[:0]
		}
		if err != nil {
			return nil, err
		}
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

// read returns the next message. A connection that ends without secure-close gives errTruncated. errBadPacket means
// that the peer did not send this packet, or not at this place.
func (s *session) read() (kind byte, payload []byte, err error) {
	if m := s.ahead; m.present {
		s.ahead = receivedMessage{}
		return m.kind, m.payload, m.err
	}
	for {
		kind, payload, whole, err := s.next()
		if whole || err != nil {
			return kind, payload, err
		}
	}
}

// ready opens the packets that were received until they make a message.
func (s *session) ready() bool {
	for !s.ahead.present && s.packets.buffered() {
		kind, payload, whole, err := s.next()
		s.ahead = receivedMessage{present: whole || err != nil, kind: kind, payload: payload, err: err}
	}
	return s.ahead.present
}

// next opens one packet. The message is whole unless the packet was a rekey or a part of a longer message.
func (s *session) next() (kind byte, payload []byte, whole bool, err error) {
	if s.partial != nil && s.partial.whole {
		s.release()
	}
	body, err := s.packets.next()
	if err != nil {
		return 0, nil, false, s.partial.cause(err)
	}
	return s.open(body)
}

// open opens the packet with this body for next, whose stack stays small while it waits (server.read).
func (s *session) open(body []byte) (kind byte, payload []byte, whole bool, err error) {
	kind, payload, err = s.in.open(body)
	if err != nil {
		return 0, nil, false, err
	}
	if s.in.packets > rekeyPackets || s.in.bytes > rekeyBytes {
		return 0, nil, false, errBadPacket // the peer should have changed its key
	}
	switch {
	case kind == kindRekey && len(payload) == 0 && s.in.mayRekey():
		return 0, nil, false, s.in.ratchet()
	case kind == kindRekey || kind < kindFirst || kind > kindLast:
		return 0, nil, false, errMalformed
	case kind != kindPart && s.partial == nil:
		return kind, payload, true, nil
	}
	whole, size := kind != kindPart, len(payload)
	if s.partial != nil {
		size += len(s.partial.payload)
	}
	if len(payload) == 0 || size > maxMessage || whole && size <= maxBatch { // one packet would have been enough
		return 0, nil, false, errMalformed
	}
	if s.partial == nil {
		s.partial = &partialMessage{owner: s.owner, abort: s.conn.Close, gone: make(chan struct{})}
	}
	s.partial.whole = whole
	if err := s.budget.add(s.partial, payload); err != nil || !whole {
		return 0, nil, false, err
	}
	return kind, s.partial.payload, true, nil
}

// packetReader cuts a connection into packets. Most of a server's clients are silent, so unless keeps is set it holds no
// buffer while it waits for the first bytes of a packet.
type packetReader struct {
	conn    net.Conn
	buffers *sync.Pool // of *[]byte
	keeps   bool
	timeout readTimeout
	header  [frameHeader]byte // start of the next packet, while no buffer is held
	begun   int               // bytes in header
	buf     []byte
	r, w    int // buf[r:w] was received and not returned yet
	used    int // bytes at buf[r:] that the packet last returned takes
}

// buffered reports whether next would return without waiting for the connection.
func (p *packetReader) buffered() bool {
	b := p.buf[p.r+p.used : p.w]
	if len(b) < frameHeader {
		return false
	}
	n := int(binary.BigEndian.Uint16(b))
	return n > maxPacket-frameHeader || len(b) >= frameHeader+n
}

// next returns the body of the next packet, valid until the next call.
func (p *packetReader) next() ([]byte, error) {
	if !p.buffered() {
		p.timeout.renew(p.conn)
	}
	p.r += p.used
	p.used = 0
	switch {
	case p.r < p.w:
	case p.keeps && p.buf != nil:
		p.r, p.w = 0, 0
	default:
		if err := p.await(); err != nil {
			return nil, truncated(err)
		}
	}
	if err := p.need(frameHeader); err != nil {
		return nil, truncated(err)
	}
	n := int(binary.BigEndian.Uint16(p.buf[p.r:]))
	if n < packetAlign+aeadOverhead || n > maxPacket-frameHeader {
		return nil, errBadPacket
	}
	if err := p.need(frameHeader + n); err != nil {
		return nil, truncated(err)
	}
	p.used = frameHeader + n
	return p.buf[p.r+frameHeader : p.r+p.used], nil
}

// need waits until n bytes, one packet at most, stand in buf[r:w].
func (p *packetReader) need(n int) error {
	for p.w-p.r < n {
		if len(p.buf)-p.r < n {
			p.w = copy(p.buf, p.buf[p.r:p.w])
			p.r = 0
		}
		k, err := p.conn.Read(p.buf[p.w:])
		p.w += k
		if err != nil && p.w-p.r < n {
			return noEOF(err)
		}
	}
	return nil
}

// await gives the buffer back, waits for the first bytes of a packet and borrows a buffer for the rest.
func (p *packetReader) await() error {
	if p.buf != nil {
		b := p.buf
		p.buf, p.r, p.w = nil, 0, 0
		p.buffers.Put(&b)
	}
	for p.begun == 0 { // a Read may return 0 bytes without an error
		k, err := p.conn.Read(p.header[:])
		if k == 0 && err != nil {
			return err
		}
		p.begun = k
	}
	p.buf = *p.buffers.Get().(*[]byte)
	p.r, p.w, p.begun = 0, copy(p.buf, p.header[:p.begun]), 0
	return nil
}

// readTimeout sets the read deadlines of a connection. The zero value leaves the deadline alone.
type readTimeout struct {
	mu      sync.Mutex    // guards the fields below
	renewed time.Duration // 0: renew does nothing
	final   bool          // set was called without renew
}

// set begins a timeout now; see link.setReadTimeout.
func (t *readTimeout) set(conn net.Conn, timeout time.Duration, renew bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.final {
		return
	}
	t.final, t.renewed = !renew, 0
	if renew {
		t.renewed = timeout
	}
	_ = conn.SetReadDeadline(time.Now().Add(timeout)) // fails on a closed connection only, as the next read does
}

// renew restarts the timeout, if set was called with renew.
func (t *readTimeout) renew(conn net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.renewed > 0 {
		_ = conn.SetReadDeadline(time.Now().Add(t.renewed)) // fails on a closed connection only, as the next read does
	}
}

// truncated turns the end of the stream into errTruncated: only secure-close ends a session.
func truncated(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errTruncated
	}
	return err
}

// closedByPeer reports whether err is the end of the connection by the other side.
func closedByPeer(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, errTruncated, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// wake sends to c, which has a capacity of 1, unless it is full. So whatever receives from c runs once more.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// netTrouble is an error of the network in plain words, without addresses, which are reported beside it.
type netTrouble struct {
	words string
	error
}

func (e netTrouble) Error() string { return e.words }
func (e netTrouble) Unwrap() error { return e.error }

// plainError returns an error of the network as a netTrouble, and any other error as it is.
func plainError(err error) error {
	var op *net.OpError
	var dns *net.DNSError
	isAny := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	switch {
	case errors.As(err, new(netTrouble)):
		return err
	case isAny(io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE):
		return netTrouble{"the other side ended the connection", err}
	case isAny(os.ErrDeadlineExceeded, syscall.ETIMEDOUT):
		return netTrouble{"the other side did not answer in time", err}
	case isAny(net.ErrClosed):
		return netTrouble{"the connection was ended here", err}
	case isAny(syscall.ECONNREFUSED):
		return netTrouble{"the connection was refused", err}
	case isAny(syscall.ENETUNREACH, syscall.EHOSTUNREACH):
		return netTrouble{"there is no way to that address", err}
	case isAny(syscall.EADDRNOTAVAIL):
		return netTrouble{"this machine does not have that address", err}
	case errors.As(err, &dns) && dns.IsNotFound:
		return netTrouble{"there is no host of that name", err}
	case errors.As(err, &dns):
		return netTrouble{"the name of the host cannot be looked up: " + dns.Err, err}
	case errors.As(err, &op):
		cause := op.Err
		var call *os.SyscallError
		if errors.As(cause, &call) {
			cause = call.Err // without the name of the system call
		}
		return netTrouble{cause.Error(), err}
	}
	return err
}

// netReason returns the text of plainError.
func netReason(err error) string { return plainError(err).Error() }
