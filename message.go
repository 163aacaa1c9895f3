package main

// Messages of a session: their kinds and layouts. A message is a kind byte and a payload. docs/PROTOCOL.md gives the
// same layouts for readers of other languages.

import (
	"encoding/binary"
	"encoding/hex"
	"time"
)

// Kinds of messages, and what their payload holds.
const (
	kindText = 1 + iota // C → S: lines of the client; S → C: items of the room
	kindAck             // S → C: every line up to this number is recorded, and read if it was for one client alone;
	//                      C → S: every message up to this number is written out; both with -raw: a count of bytes
	kindClose   // both: closeText, the authenticated end of the session
	kindPing    // both: nothing; the sender is alive
	kindRekey   // both: nothing; the last packet under this key. Sessions send and take it by themselves
	kindJoin    // both: the first message, a joinRequest from C and a welcome from S
	kindRaw     // both: bytes of -raw
	kindPart    // both: the front of a message; the rest and the message's kind follow
	kindWho     // C → S: nothing; asks for the list of the members, which arrives as a notice
	kindHistory // C → S: how many of the last messages to send once more
	kindFirst   = kindText
	kindLast    = kindHistory

	// kindSent never goes over the wire. The paper's link reads it in place of kindAck, which its protocol lacks: the
	// lines up to this number went to the network, and they are known to have arrived only when the server closes.
	kindSent = 0xff
)

const (
	closeText  = "secure-close"                           // the paper's word, in an authenticated packet
	maxLine    = 64 << 10                                 // bytes of a line, without its newline
	maxMessage = maxLine + 1024                           // bytes of a message's payload: a line and the fields before it
	maxBatch   = maxMsg - 1                               // bytes of payload in a message that fits one packet
	maxNumber  = 1 << 62                                  // the largest number of a line, far from overflow
	maxShown   = maxName + 1 + suffixDigits + 1 + maxName // bytes of a name as shown: name~SUFFIX@server (validShown)
)

// joinRequest is a client's first message:
//
//	stream 16   names the lines of this client process, over all its connections
//	flags  1    the constants below
//	epoch  8    with joinPlace: of the room that the client was in last, or zeros for any
//	seen   8    with joinPlace: the number of the last message that the client has, or 0
//	            with joinLast: how many of the last messages it asks for
type joinRequest struct {
	stream streamID
	flags  byte
	epoch  [8]byte
	seen   uint64
}

type streamID [16]byte

func (s streamID) String() string { return hex.EncodeToString(s[:]) }

// parse sets s from what String returns, and reports whether digits are that.
func (s *streamID) parse(digits []byte) bool {
	if len(digits) != hex.EncodedLen(len(s)) {
		return false
	}
	_, err := hex.Decode(s[:], digits)
	return err == nil
}

const (
	joinListens = 1 << iota // the client wants to receive items
	joinPerson              // a person at a terminal, who receives the items since leaving
	joinRaw                 // the client wants -raw and not a room
	joinPlace               // the client has kept its place, and receives what was said since
	joinLast                // the client wants the last messages; not with joinPlace
	joinFlags   = joinListens | joinPerson | joinRaw | joinPlace | joinLast
)

const joinSize = 16 + 1 + 8 + 8

func (j joinRequest) encode() []byte {
	b := append(make([]byte, 0, joinSize), j.stream[:]...)
	b = append(b, j.flags)
	b = append(b, j.epoch[:]...)
	return binary.BigEndian.AppendUint64(b, j.seen)
}

func parseJoin(b []byte) (j joinRequest, err error) {
	if len(b) != joinSize || b[16]&^joinFlags != 0 || b[16]&joinPlace != 0 && b[16]&joinLast != 0 {
		return j, errMalformed
	}
	j.stream, j.flags = streamID(b[:16]), b[16]
	j.epoch = [8]byte(b[17:25])
	j.seen = binary.BigEndian.Uint64(b[25:])
	return j, nil
}

// welcome is the server's first message:
//
//	epoch    8   of the room: it names the numbers of its messages, and is as old as its log
//	seq      8   the number before that of the first message that the client will receive
//	present  8   the last message before the client joined; messages up to this one are history
//	recorded 8   the last line of the client's stream that is in the log
//	flags    1   welcomeGap, welcomeRaw, welcomeBusy, welcomeForgotten
//	name     1 and name: the client's, as the others see it
//	server   1 and name: the server's own
type welcome struct {
	epoch        [8]byte
	seq, present uint64
	recorded     uint64
	flags        byte
	name, server string
}

const (
	welcomeGap       = 1 << iota // the server no longer holds some messages that the client has missed
	welcomeRaw                   // the server carries bytes and has no room
	welcomeBusy                  // the server with -raw serves another client
	welcomeForgotten             // the server does not know the stream, and may have known it before
	welcomeFlags     = welcomeGap | welcomeRaw | welcomeBusy | welcomeForgotten
	welcomeSize      = 8 + 8 + 8 + 8 + 1
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
	if !ok1 || !ok2 || len(b) != 0 || !validShown(w.name) || !validShown(w.server) || !w.consistent() {
		return w, errMalformed
	}
	return w, nil
}

// consistent reports whether the fields of w fit each other.
func (w *welcome) consistent() bool {
	busy, raw := w.flags&welcomeBusy != 0, w.flags&welcomeRaw != 0
	forgotten := w.flags&welcomeForgotten != 0
	return w.seq <= w.present && (raw || !busy) && (w.recorded == 0 || !forgotten)
}

// appendName appends a name's length in one byte and the name, cut to maxShown bytes.
func appendName(b []byte, name string) []byte {
	name = name[:min(len(name), maxShown)]
	return append(append(b, byte(len(name))), name...)
}

// cutName takes a name from the front of b.
func cutName(b []byte) (name string, rest []byte, ok bool) {
	if len(b) < 1 || int(b[0]) > maxShown || len(b) < 1+int(b[0]) {
		return "", nil, false
	}
	return string(b[1 : 1+b[0]]), b[1+b[0]:], true
}

// cutLength takes a length of at most most, as a uvarint in its shortest encoding, from the front of b.
func cutLength(b []byte, most uint64) (n int, rest []byte, ok bool) {
	length, w := binary.Uvarint(b)
	if w <= 0 || w > 1 && b[w-1] == 0 || length > most {
		return 0, nil, false
	}
	return int(length), b[w:], true
}

// lines is what a client sends, one or more lines in a message:
//
//	first 8   number of the first line; each further line has the next number
//	what  1   itemSay, itemAction or itemDirect, the same for all of the lines
//	to    1 and name: the receiver of itemDirect, a name as the room shows it; else empty
//	then for each line: length uvarint, and the line. A message of several lines fits one packet
type lines struct {
	first uint64
	what  byte
	to    string
	from  string   // name of the sender at another server, set by a bridge and never on the wire; else empty
	texts [][]byte // at least one; slices of the message
}

const linesHeader = 8 + 1 + 1 // bytes before the name in to

func appendLinesHeader(b []byte, first uint64, what byte, to string) []byte {
	b = binary.BigEndian.AppendUint64(b, first)
	return appendName(append(b, what), to)
}

func appendLine(b, line []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(line))), line...)
}

// parseLines parses lines and appends the texts to into.
func parseLines(b []byte, into [][]byte) (lines, error) {
	p, err := parsePacked(b)
	if err != nil {
		return lines{}, err
	}
	p.texts = appendTexts(into, p.packed)
	return p.lines, nil
}

// packedLines are lines whose texts are in the form of a message, which takes less memory than texts. The texts of
// lines are nil.
type packedLines struct {
	lines
	count  int
	packed []byte // for each line: length uvarint, and the line
}

// parsePacked parses lines. packed is a slice of b.
func parsePacked(b []byte) (p packedLines, err error) {
	if len(b) < linesHeader {
		return p, errMalformed
	}
	p.first, p.what = binary.BigEndian.Uint64(b), b[8]
	var ok bool
	p.to, b, ok = cutName(b[9:])
	if !ok || len(b) == 0 || p.first == 0 || p.first > maxNumber {
		return p, errMalformed
	}
	if p.what < itemSay || p.what > itemDirect || (p.what == itemDirect) != (p.to != "") ||
		p.to != "" && !validShown(p.to) {
		return p, errMalformed
	}
	// A longer message holds one line: each of many short ones would cost a log record far larger than the line.
	several := len(b) <= maxBatch-linesHeader-len(p.to)
	for p.packed = b; len(b) > 0; p.count++ {
		if p.count > 0 && !several {
			return p, errMalformed
		}
		n, rest, ok := cutLength(b, maxLine)
		if !ok || n > len(rest) {
			return p, errMalformed
		}
		b = rest[n:]
	}
	return p, nil
}

// appendTexts appends the texts of packed lines, which parsePacked has checked.
func appendTexts(into [][]byte, packed []byte) [][]byte {
	for len(packed) > 0 {
		n, w := binary.Uvarint(packed)
		into = append(into, packed[w:w+int(n)])
		packed = packed[w+int(n):]
	}
	return into
}

// cut removes lines from the front of p and returns them: one, and further ones while the cost of all is at most most.
// A line costs 1, and 1 more for each KiB after the first.
func (p *packedLines) cut(most int) (front packedLines, cost int) {
	front, rest := *p, p.packed
	for front.count = 0; len(rest) > 0; front.count++ {
		n, w := binary.Uvarint(rest)
		c := 1 + (int(n)-1)/1024
		if front.count > 0 && cost+c > most {
			break
		}
		cost += c
		rest = rest[w+int(n):]
	}
	front.packed = p.packed[:len(p.packed)-len(rest)]
	p.first, p.count, p.packed = p.first+uint64(front.count), p.count-front.count, rest
	return front, cost
}

// item is one thing that happened in the room, as its receivers get it. A kindText from the server carries items:
//
//	length uvarint   of what follows
//	seq    8         the number of a message, in the one order that all receivers share; 0 for everything else
//	time   8         Unix time in milliseconds, by the server's clock
//	what   1         one of the constants below
//	name   1 and name: the sender; empty for a notice of the server, which itemUndelivered and itemRemoved are too
//	text   the rest
type item struct {
	seq  uint64
	time time.Time
	what byte
	name string
	text []byte
}

const (
	itemSay         = 1 + iota // text from name to all
	itemAction                 // /me text from name to all
	itemDirect                 // text from name to the receiver alone
	itemJoin                   // name joined; no text
	itemLeave                  // name left; text is the reason, or empty
	itemNotice                 // text from the server
	itemUndelivered            // text says why a line, though recorded, reached no receiver
	itemRemoved                // the operator removed the receiver, which must not reconnect by itself
)

// itemNames are the words for items in log records and in -json objects.
var itemNames = [...]string{
	itemSay: "say", itemAction: "action", itemDirect: "direct", itemJoin: "join", itemLeave: "leave",
	itemNotice: "notice", itemUndelivered: "undelivered", itemRemoved: "removed",
}

func (it item) append(b []byte) []byte {
	name := it.name[:min(len(it.name), maxShown)]
	b = binary.AppendUvarint(b, uint64(8+8+1+1+len(name)+len(it.text)))
	b = binary.BigEndian.AppendUint64(b, it.seq)
	b = binary.BigEndian.AppendUint64(b, uint64(it.time.UnixMilli()))
	b = appendName(append(b, it.what), name)
	return append(b, it.text...)
}

const itemOverhead = 3 + 8 + 8 + 1 + 1 // bytes of an encoded item without its name and text

// cutItem takes an item from the front of b. The item's text is a slice of b.
func cutItem(b []byte) (it item, rest []byte, err error) {
	n, body, ok := cutLength(b, maxMessage)
	if !ok || n > len(body) || n < 8+8+1+1 {
		return it, nil, errMalformed
	}
	body, rest = body[:n], body[n:]
	it.seq = binary.BigEndian.Uint64(body)
	it.time = time.UnixMilli(int64(binary.BigEndian.Uint64(body[8:])))
	it.what = body[16]
	it.name, it.text, ok = cutName(body[17:])
	if !ok || len(it.text) > maxLine || it.name != "" && !validShown(it.name) || !it.consistent() {
		return it, nil, errMalformed
	}
	return it, rest, nil
}

// consistent reports whether the fields of it are those that an item of its kind has.
func (it *item) consistent() bool {
	switch it.what {
	case itemSay, itemAction, itemDirect:
		return it.seq > 0 && it.name != ""
	case itemJoin:
		return it.seq == 0 && it.name != "" && len(it.text) == 0
	case itemLeave:
		return it.seq == 0 && it.name != ""
	case itemNotice, itemUndelivered, itemRemoved:
		return it.seq == 0 && it.name == ""
	}
	return false
}

// parseReason parses what a server sends before secure-close to give a reason: one notice. It returns the notice's
// text, cut to maxReason bytes.
func parseReason(payload []byte) (string, error) {
	notice, rest, err := cutItem(payload)
	if err != nil || len(rest) > 0 || notice.what != itemNotice {
		return "", errMalformed
	}
	return clip(string(notice.text), maxReason), nil
}

// outLine is a line to send: itemSay, itemAction, or itemDirect with its receiver in to.
type outLine struct {
	text []byte
	what byte
	to   string
}
