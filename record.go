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
	eventRotate     = "rotate"  // after SIGHUP the running server continues in a new file at the path
	eventStream     = "stream"  // the last msg_id of a stream whose client may reconnect
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

// streamOf returns the state of a stream that a record reports: its last msg_id, or that its client left. Of a long
// record the front is enough. Quotes in a value are escaped, so the text of a message cannot imitate a member.
func streamOf(record []byte) (fingerprint string, id streamID, last uint64, left, ok bool) {
	event, print := memberOf(record, `,"event":"`), memberOf(record, `,"fingerprint":"`)
	stream := memberOf(record, `,"stream":"`)
	if len(print) == 0 || len(stream) != hex.EncodedLen(len(id)) {
		return "", id, 0, false, false
	}
	if _, err := hex.Decode(id[:], stream); err != nil {
		return "", id, 0, false, false
	}
	switch string(event) {
	case eventDisconnect:
		left = string(memberOf(record, `,"reason":"`)) == errLeft.Error()
		return string(print), id, 0, left, left
	case eventMessage, eventStream:
		_, digits, _ := bytes.Cut(record, []byte(`,"msg_id":`))
		n := 0
		for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
			n++
		}
		last, err := strconv.ParseUint(string(digits[:n]), 10, 64)
		return string(print), id, last, false, err == nil && last > 0
	}
	return "", id, 0, false, false
}

// memberOf returns the bytes between begin and the next quote, or nil.
func memberOf(record []byte, begin string) []byte {
	_, rest, _ := bytes.Cut(record, []byte(begin))
	value, _, ok := bytes.Cut(rest, []byte{'"'})
	if !ok {
		return nil
	}
	return value
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

// appendMark appends a record of the last msg_id of a stream whose client may reconnect.
func appendMark(b []byte, at time.Time, fingerprint string, id streamID, last uint64) []byte {
	b = appendStart(b, at, eventStream, nil)
	b = appendField(b, "fingerprint", fingerprint)
	b = appendField(b, "stream", id.String())
	return appendEnd(appendID(b, last))
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
