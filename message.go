package main

import (
	"encoding/binary"
	"encoding/hex"
	"time"
)

// Messages of a session: their kinds and layouts. A message is a kind byte and a payload. docs/PROTOCOL.md gives the same
// layouts for readers of other languages.

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
	closeText  = "secure-close"                           // the paper's word, here an authenticated packet and no text anyone could type
	maxLine    = 64 << 10                                 // bytes of a line, without its end
	maxMessage = maxLine + 1024                           // payload of a message: one line and what goes before it
	maxBatch   = maxMsg - 1                               // payload of a message that fits one packet
	maxNumber  = 1 << 62                                  // of a line: its successors must not wrap
	maxShown   = maxName + 1 + suffixDigits + 1 + maxName // bytes of a name as shown: name~XXXXXXXX@server (validShown)
)

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

func (s streamID) String() string { return hex.EncodeToString(s[:]) }

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

const itemOverhead = 3 + 8 + 8 + 1 + 1 // of an encoded item, beside name and text

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

// outLine is a line to send: itemSay, itemAction, or itemDirect and to whom.
type outLine struct {
	text []byte
	what byte
	to   string
}
