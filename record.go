package main

// Records of connection.log: their fields, and the hash chain that links each record to the one before it. docs/LOG.md
// describes the fields.

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// The values of a record's event.
const (
	eventStart      = "start"
	eventMessage    = "message"
	eventConnect    = "connect"
	eventRefused    = "refused"
	eventDisconnect = "disconnect"
	eventAllow      = "allow"   // the operator admitted a key while the server runs
	eventRotate     = "rotate"  // the running server continues in a new file at the path
	eventStream     = "stream"  // the last msg_id of each of many streams whose clients may reconnect
	eventRoom       = "room"    // the epoch and the number of the last message
	eventVisitor    = "visitor" // what the room knows of a key
	eventRevoked    = "revoked" // a key that was in the room is no longer admitted
	eventStop       = "stop"
)

// A record begins with recordBegin and the time, and ends with recordPrev, a hash in hexadecimal and recordEnd.
const (
	recordBegin = `{"time":"`
	recordPrev  = `,"prev":"`
	recordEnd   = "\"}\n"
	recordTime  = "2006-01-02T15:04:05.000000Z"
	prevSize    = len(recordPrev) + 2*sha256.Size + len(recordEnd)
	maxRecord   = 1 << 20 // bytes: more than a record of a line of maxLine, as escapes and in base64
)

// prevOf returns the hash of the previous record that a record contains. The record includes its newline.
func prevOf(record []byte) (prev [sha256.Size]byte, ok bool) {
	at := len(record) - prevSize
	if at < len(recordBegin) || !bytes.HasPrefix(record, []byte(recordBegin)) {
		return prev, false
	}
	digits, begins := bytes.CutPrefix(record[at:], []byte(recordPrev))
	digits, ends := bytes.CutSuffix(digits, []byte(recordEnd))
	if !begins || !ends {
		return prev, false
	}
	n, err := hex.Decode(prev[:], digits)
	return prev, err == nil && n == len(prev)
}

// chain sets the hashes in the records of b. head is the hash of the record before them; chain returns the hash of
// the last.
func chain(b []byte, head [sha256.Size]byte) [sha256.Size]byte {
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n') + 1
		hex.Encode(b[n-len(recordEnd)-2*sha256.Size:], head[:])
		head = sha256.Sum256(b[:n])
		b = b[n:]
	}
	return head
}

// mark is the state of a stream that a record reports: its last msg_id, or that its client left. With forgot it has no
// stream: the server had to forget streams of the key, or of all keys if there is no fingerprint.
type mark struct {
	fingerprint  string
	id           streamID
	last         uint64
	left, forgot bool
}

const (
	maxMarkRecord = 32 << 10 // bytes of a record of marks
	markForgot    = "forgotten"
)

// streamMarksOf calls use for each mark of a record that appendMarks has made.
func streamMarksOf(record []byte, use func(m mark)) {
	_, b, _ := bytes.Cut(record, []byte(`,"streams":{`))
	var m mark
	for len(b) > 0 {
		if b[0] == ',' || b[0] == '}' {
			b = b[1:]
			continue
		}
		name, rest, ok := bytes.Cut(b, []byte(`":`))
		name, quoted := bytes.CutPrefix(name, []byte(`"`))
		if !ok || !quoted || string(name) == "prev" {
			return
		}
		if inner, opens := bytes.CutPrefix(rest, []byte{'{'}); opens {
			m.fingerprint, b = string(name), inner
			continue
		}
		m.last, b = cutNumber(rest)
		m.forgot = string(name) == markForgot
		if m.last > 0 && (m.forgot || m.id.parse(name)) {
			use(m)
		}
	}
}

// cutNumber takes a decimal number from the front of b. It returns 0 if there is none, or one that is too large.
func cutNumber(b []byte) (n uint64, rest []byte) {
	digits := 0
	for digits < len(b) && b[digits] >= '0' && b[digits] <= '9' {
		digits++
	}
	n, _ = numberIn(b[:digits])
	return n, b[digits:]
}

// numberIn returns the number that a member holds. No record of this program has one above maxNumber.
func numberIn(digits []byte) (n uint64, ok bool) {
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if err != nil || n > maxNumber {
		return 0, false
	}
	return n, true
}

// peerFields holds the fields that all records about one connection share, encoded once.
type peerFields []byte

// newPeerFields encodes the fields. client is an address, under its name in the paper; digest is the SHA-512 of the
// session key. Empty fields are left out.
func newPeerFields(client, name, fingerprint, stream string, digest []byte) peerFields {
	b := appendField(nil, "client", client)
	b = appendField(b, "name", name)
	b = appendField(b, "fingerprint", fingerprint)
	b = appendField(b, "stream", stream)
	if digest != nil {
		b = appendField(b, "sha512", fmt.Sprintf("%x", digest))
	}
	return bytes.Clone(b) // without spare capacity, since a member keeps it
}

// appendRecord appends a record of any event but a message. Unless value is empty, the record has one more field,
// such as by or reason.
func appendRecord(b []byte, at time.Time, event string, peer peerFields, field, value string) []byte {
	b = appendStart(b, at, event, peer)
	b = appendField(b, field, value)
	return appendEnd(b)
}

// recordOf returns a function that appends such a record, as connLog.write takes it.
func recordOf(at time.Time, event string, peer peerFields, field, value string) func(b []byte) []byte {
	return func(b []byte) []byte { return appendRecord(b, at, event, peer, field, value) }
}

// appendMessages appends a record for each line of l, of which the first has the number seq in the room. A text that is
// not UTF-8 is also recorded in base64. With digests, the SHA-256 of a text is recorded instead of the text.
func appendMessages(b []byte, at time.Time, peer peerFields, l lines, seq uint64, digests bool) []byte {
	from := len(b)
	b = appendStart(b, at, eventMessage, peer)
	start := b[from:] // of each record
	b = b[:from]
	for i, text := range l.texts {
		b = append(b, start...)
		b = strconv.AppendUint(append(b, `,"seq":`...), seq+uint64(i), 10)
		b = appendID(b, l.first+uint64(i))
		b = append(b, `,"msg_len":`...)
		b = strconv.AppendInt(b, int64(len(text)), 10)
		if l.what != itemSay {
			b = appendField(b, "what", itemNames[l.what])
		}
		b = appendField(b, "to", l.to)
		if digests {
			sum := sha256.Sum256(text)
			b = append(b, `,"sha256":"`...)
			b = appendEnd(append(hex.AppendEncode(b, sum[:]), '"'))
			continue
		}
		b = append(b, `,"message":`...)
		b = appendQuoted(b, text)
		if !utf8.Valid(text) {
			b = append(b, `,"base64":"`...)
			b = base64.StdEncoding.AppendEncode(b, text)
			b = append(b, '"')
		}
		b = appendEnd(b)
	}
	return b
}

// markWriter appends records of marks to b, each of about maxMarkRecord bytes at most. Marks of one key that are added
// one after the other share the fingerprint.
type markWriter struct {
	b           []byte
	at          time.Time
	begin       int // of the record that is not ended yet
	open        bool
	fingerprint string // of the last mark in it
}

// add appends a mark.
func (w *markWriter) add(m mark) {
	if w.open && len(w.b)-w.begin > maxMarkRecord {
		w.end()
	}
	switch {
	case !w.open:
		w.begin, w.open = len(w.b), true
		w.b = append(appendStart(w.b, w.at, eventStream, nil), `,"streams":{`...)
		w.b = append(appendQuoted(w.b, []byte(m.fingerprint)), `:{`...)
	case w.fingerprint != m.fingerprint:
		w.b = append(appendQuoted(append(w.b, `},`...), []byte(m.fingerprint)), `:{`...)
	default:
		w.b = append(w.b, ',')
	}
	w.fingerprint = m.fingerprint
	if m.forgot {
		w.b = append(w.b, `"`+markForgot+`":1`...)
		return
	}
	w.b = append(hex.AppendEncode(append(w.b, '"'), m.id[:]), `":`...)
	w.b = strconv.AppendUint(w.b, m.last, 10)
}

// end ends the last record and returns b.
func (w *markWriter) end() []byte {
	if w.open {
		w.b, w.open = appendEnd(append(w.b, `}}`...)), false
	}
	return w.b
}

// appendID appends msg_id.
func appendID(b []byte, id uint64) []byte {
	return strconv.AppendUint(append(b, `,"msg_id":`...), id, 10)
}

// appendStart appends the members that begin a record.
func appendStart(b []byte, at time.Time, event string, peer peerFields) []byte {
	b = append(b, recordBegin...)
	b = at.UTC().AppendFormat(b, recordTime)
	b = append(b, `","event":"`...)
	b = append(b, event...)
	b = append(b, '"')
	return append(b, peer...)
}

// appendEnd ends a record. chain replaces noHash.
func appendEnd(b []byte) []byte {
	return append(append(append(b, recordPrev...), noHash...), recordEnd...)
}

const noHash = "0000000000000000000000000000000000000000000000000000000000000000"
