package main

// The session: what the two sides say once the handshake has left them its secrets (the paper's §4; DESIGN sections 3, 6
// and 8). It begins with secrets and knows no keys on disk. A message is a kind byte and a payload; one that does not fit a
// packet is sent in parts. docs/PROTOCOL.md gives the layouts that stand above the functions here.

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Kinds of messages.
const (
	kindText  = 1 + iota // C → S: lines; S → C: what was said in the room
	kindAck              // S → C: every line up to a number is in the log; both with -raw: a count of bytes
	kindClose            // both: "secure-close", the authenticated end
	kindPing             // both: nothing to say, but alive
	kindRekey            // both: the last packet under this key; the session answers it by itself
	kindJoin             // C → S: the first packet; S → C: the first packet, its answer
	kindRaw              // both: bytes of -raw
	kindPart             // both: the front of a message whose rest, and kind, follow
	kindWho              // C → S: who is here? Answered by a notice
)

const (
	closeText  = "secure-close"            // the paper's word, here an authenticated packet and no text anyone could type
	maxLine    = 64 << 10                  // bytes of a line, without its end
	maxMessage = maxLine + 1024            // payload of a message: one line and what goes before it
	maxBatch   = maxMsg - 1                // payload of a message that fits one packet
	maxNumber  = 1 << 62                   // of a line: its successors must not wrap
	maxShown   = maxName + 5 + 1 + maxName // bytes of a name as shown: name~XXXX@server (validShown)

	pingInterval = 30 * time.Second // of saying nothing, then a ping
	peerTimeout  = 75 * time.Second // of hearing nothing, then the other side is dead
	writeTimeout = 30 * time.Second // for one write: the other side reads nothing
)

var (
	errTruncated = errors.New("the connection ended without secure-close")
	errMalformed = errors.New("a message of the wrong form")
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

// joinRequest is a client's first message:
//
//	stream 16   names this client process's lines, over all its connections
//	flags  1    joinListens, joinPerson, joinRaw
//	epoch  8    of the room it was last in, or zeros
//	seen   8    the last item of that room it has, or 0
type joinRequest struct {
	stream streamID
	flags  byte
	epoch  [8]byte
	seen   uint64
}

type streamID [16]byte

const (
	joinListens = 1 << iota // it wants to hear the room
	joinPerson              // somebody is at a terminal: history is welcome
	joinRaw                 // it comes for -raw, not for a room
	joinFlags   = joinListens | joinPerson | joinRaw
)

const joinSize = 16 + 1 + 8 + 8

func (j joinRequest) encode() []byte {
	b := append(make([]byte, 0, joinSize), j.stream[:]...)
	b = append(b, j.flags)
	b = append(b, j.epoch[:]...)
	return binary.BigEndian.AppendUint64(b, j.seen)
}

func parseJoin(b []byte) (j joinRequest, err error) {
	if len(b) != joinSize || b[16]&^joinFlags != 0 {
		return j, errMalformed
	}
	j.stream, j.flags = streamID(b[:16]), b[16]
	j.epoch = [8]byte(b[17:25])
	j.seen = binary.BigEndian.Uint64(b[25:])
	return j, nil
}

// welcome is the server's first message:
//
//	epoch    8   of the room, new with every start of the server
//	seq      8   the last item before those the client will get
//	present  8   the last item before the client came: what it gets up to here is history
//	recorded 8   the last line of the client's stream that the log has
//	flags    1   welcomeGap: items between the client's seen and seq are gone; welcomeRaw, welcomeBusy
//	name     1 and name: what the others see the client as
//	server   1 and name: the server's own
type welcome struct {
	epoch        [8]byte
	seq, present uint64
	recorded     uint64
	flags        byte
	name, server string
}

const (
	welcomeGap   = 1 << iota
	welcomeRaw   // the server carries bytes: it has no room
	welcomeBusy  // for another client
	welcomeFlags = welcomeGap | welcomeRaw | welcomeBusy
	welcomeSize  = 8 + 8 + 8 + 8 + 1
)

func (w welcome) encode() []byte {
	b := append(make([]byte, 0, welcomeSize+2+2*maxShown), w.epoch[:]...)
	b = binary.BigEndian.AppendUint64(b, w.seq)
	b = binary.BigEndian.AppendUint64(b, w.present)
	b = binary.BigEndian.AppendUint64(b, w.recorded)
	b = append(b, w.flags)
	b = appendName(b, w.name)
	return appendName(b, w.server)
}

func parseWelcome(b []byte) (w welcome, err error) {
	if len(b) < welcomeSize || b[32]&^welcomeFlags != 0 {
		return w, errMalformed
	}
	w.epoch = [8]byte(b[:8])
	w.seq = binary.BigEndian.Uint64(b[8:])
	w.present = binary.BigEndian.Uint64(b[16:])
	w.recorded = binary.BigEndian.Uint64(b[24:])
	w.flags = b[32]
	var ok1, ok2 bool
	w.name, b, ok1 = cutName(b[welcomeSize:])
	w.server, b, ok2 = cutName(b)
	if !ok1 || !ok2 || len(b) != 0 || !validShown(w.name) || !validShown(w.server) {
		return w, errMalformed
	}
	return w, nil
}

func appendName(b []byte, name string) []byte {
	name = name[:min(len(name), maxShown)]
	return append(append(b, byte(len(name))), name...)
}

func cutName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) < 1 || int(b[0]) > maxShown || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	return string(b[1 : 1+b[0]]), b[1+b[0]:], true
}

// lines is what a client says, some lines in a message:
//
//	first 8   number of the first line; the next has the next number
//	what  1   itemSay, itemAction or itemDirect, of all of them
//	to    1 and name: whom itemDirect is for; else empty
//	then for each line: length uvarint, and the line; several only in a message that fits one packet
type lines struct {
	first uint64
	what  byte
	to    string
	from  string   // who said it at another server, never on the wire; else empty
	texts [][]byte // at least one; into the message
}

const linesHeader = 8 + 1 + 1 // and to

func appendLinesHeader(b []byte, first uint64, what byte, to string) []byte {
	b = binary.BigEndian.AppendUint64(b, first)
	return appendName(append(b, what), to)
}

func appendLine(b, line []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(line))), line...)
}

// parseLines takes b apart, with the texts appended to into.
func parseLines(b []byte, into [][]byte) (l lines, err error) {
	if len(b) < linesHeader {
		return l, errMalformed
	}
	l.first, l.what = binary.BigEndian.Uint64(b), b[8]
	var ok bool
	if l.to, b, ok = cutName(b[9:]); !ok || len(b) == 0 || l.first == 0 || l.first > maxNumber || l.what < itemSay || l.what > itemDirect || (l.what == itemDirect) != (l.to != "") {
		return l, errMalformed
	}
	several := len(b) <= maxBatch-linesHeader-len(l.to) // else one line: a record each would cost far more than they do
	for l.texts = into; len(b) > 0; {
		if len(l.texts) > len(into) && !several {
			return l, errMalformed
		}
		n, w := binary.Uvarint(b)
		if w <= 0 || n > maxLine || n > uint64(len(b)-w) {
			return l, errMalformed
		}
		l.texts = append(l.texts, b[w:w+int(n)])
		b = b[w+int(n):]
	}
	return l, nil
}

// item is one thing that happened in the room, as its receivers get it; a kindText from the server carries some:
//
//	length uvarint   of what follows
//	seq    8         its place in the one order that all receivers share
//	time   8         Unix time in milliseconds, by the server's clock
//	what   1         one of the constants below
//	name   1 and name: who; empty for the server
//	text   the rest
type item struct {
	seq  uint64
	time time.Time
	what byte
	name string
	text []byte
}

const (
	itemSay         = 1 + iota // name said text
	itemAction                 // /me
	itemDirect                 // to the receiver alone
	itemJoin                   // name came; no text
	itemLeave                  // name left; text says why, or nothing
	itemNotice                 // the server says text
	itemUndelivered            // the server says why a line, though recorded, reached nobody
	itemRemoved                // the operator lets the receiver go: it is not to come back by itself
	itemLast        = itemRemoved
)

// itemNames are the words for them in records and objects.
var itemNames = [...]string{itemSay: "say", itemAction: "action", itemDirect: "direct", itemJoin: "join", itemLeave: "leave", itemNotice: "notice", itemUndelivered: "undelivered", itemRemoved: "removed"}

func (it item) append(b []byte) []byte {
	name := it.name[:min(len(it.name), maxShown)]
	b = binary.AppendUvarint(b, uint64(8+8+1+1+len(name)+len(it.text)))
	b = binary.BigEndian.AppendUint64(b, it.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(it.time.UnixMilli()))
	b = appendName(append(b, it.what), name)
	return append(b, it.text...)
}

// cutItem takes an item from the front of b; its text stands in b.
func cutItem(b []byte) (it item, rest []byte, err error) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > maxMessage || n > uint64(len(b)-w) || n < 8+8+1+1 {
		return it, nil, errMalformed
	}
	body, rest := b[w:w+int(n)], b[w+int(n):]
	it.seq = binary.BigEndian.Uint64(body)
	it.time = time.UnixMilli(int64(binary.BigEndian.Uint64(body[8:])))
	it.what = body[16]
	var ok bool
	if it.name, it.text, ok = cutName(body[17:]); !ok || it.what < itemSay || it.what > itemLast || len(it.text) > maxLine || it.name != "" && !validShown(it.name) {
		return it, nil, errMalformed
	}
	return it, rest, nil
}

// lineReader cuts a stream into lines for sending.
type lineReader struct {
	r      *bufio.Reader
	max    int // bytes of a line
	number int // of the line last returned, from 1
}

func newLineReader(r io.Reader, max int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, max+1), max: max}
}

// errLongLine says which line was longer than maxLine; the lines after it can still be read.
type errLongLine struct{ number, max int }

func (e errLongLine) Error() string {
	return fmt.Sprintf("line %d is longer than %d bytes and was not sent: -raw carries any bytes", e.number, e.max)
}

// next returns a line without its end, good until the next call; a last line without an end counts. io.EOF ends.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if err == io.EOF && len(line) > 0 {
		l.number++
		return line, nil
	}
	if err == nil {
		l.number++
		return line[:len(line)-1], nil
	}
	if err != bufio.ErrBufferFull {
		return nil, err
	}
	l.number++
	for err == bufio.ErrBufferFull {
		_, err = l.r.ReadSlice('\n')
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	return nil, errLongLine{l.number, l.max}
}

// ready says whether next would return without waiting for more input.
func (l *lineReader) ready() bool {
	b, _ := l.r.Peek(l.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}
