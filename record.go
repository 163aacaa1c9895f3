package main

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

// Records of connection.log: their fields, and the hash chain that links each record to the one before it.

// Events of a record.
const (
	eventStart      = "start"
	eventMessage    = "message"
	eventConnect    = "connect"
	eventRefused    = "refused"
	eventDisconnect = "disconnect"
	eventAllow      = "allow"  // by the operator, while the server runs
	eventRotate     = "rotate" // after a SIGHUP: the running server goes on in the file at the path
	eventStream     = "stream" // the last msg_id of a stream whose client may come back
	eventStop       = "stop"
)

// A record begins and ends with these; between them and the end stands a hash in hex.
const (
	recordBegin = `{"time":"`
	recordPrev  = `,"prev":"`
	recordEnd   = "\"}\n"
	prevSize    = len(recordPrev) + 2*sha256.Size + len(recordEnd)
)

// prevOf returns the hash that a record, its newline included, holds over the one before it.
func prevOf(record []byte) (prev [sha256.Size]byte, ok bool) {
	at := len(record) - prevSize
	if at < len(recordBegin) || string(record[:len(recordBegin)]) != recordBegin || string(record[at:at+len(recordPrev)]) != recordPrev ||
		string(record[len(record)-len(recordEnd):]) != recordEnd {
		return prev, false
	}
	n, err := hex.Decode(prev[:], record[at+len(recordPrev):len(record)-len(recordEnd)])
	return prev, err == nil && n == len(prev)
}

// chain sets the hashes in the records of b and returns the head after them.
func chain(b []byte, head [sha256.Size]byte) [sha256.Size]byte {
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n') + 1
		hex.Encode(b[n-len(recordEnd)-2*sha256.Size:], head[:])
		head = sha256.Sum256(b[:n])
		b = b[n:]
	}
	return head
}

// streamOf reads from a record, or the front of a long one, what it says of its stream. What stands in quotes in a record
// has no quotes of its own but behind a backslash, so that nobody's text can pass for a member.
func streamOf(record []byte) (fingerprint string, id streamID, last uint64, left, ok bool) {
	event, _ := memberOf(record, `,"event":"`)
	print, _ := memberOf(record, `,"fingerprint":"`)
	stream, _ := memberOf(record, `,"stream":"`)
	if n, err := hex.Decode(id[:min(len(id), len(stream)/2)], stream[:min(len(stream), 2*len(id))]); err != nil || n != len(id) || len(stream) != 2*len(id) || len(print) == 0 {
		return "", id, 0, false, false
	}
	switch string(event) {
	case eventDisconnect:
		reason, _ := memberOf(record, `,"reason":"`)
		left = string(reason) == errLeft.Error()
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

// memberOf returns what stands between begin and the next quote.
func memberOf(record []byte, begin string) ([]byte, bool) {
	_, rest, _ := bytes.Cut(record, []byte(begin))
	value, _, ok := bytes.Cut(rest, []byte{'"'})
	return value, ok
}

// logPerson holds the fields that all records about one connection share, encoded once.
type logPerson []byte

// newLogPerson encodes the paper's client, its address, and who it is; digest is the SHA-512 of the session's key.
func newLogPerson(client, name, fingerprint, stream string, digest []byte) logPerson {
	b := appendField(nil, "client", client)
	b = appendField(b, "name", name)
	b = appendField(b, "fingerprint", fingerprint)
	b = appendField(b, "stream", stream)
	if digest != nil {
		b = appendField(b, "sha512", fmt.Sprintf("%x", digest))
	}
	return b
}

// appendRecord appends one record that is no message, with one more field where value is not empty: by what somebody was
// admitted, or the reason of an end.
func appendRecord(b []byte, at time.Time, event string, who logPerson, field, value string) []byte {
	b = appendStart(b, at, event, who)
	b = appendField(b, field, value)
	return appendEnd(b)
}

// appendMessages appends the records of l, a message each: msg_id counts from 1 in each stream, msg_len is in bytes. Text
// that is not UTF-8 is told in escapes and, exactly, in base64. With digests, its SHA-256 stands in its place.
func appendMessages(b []byte, at time.Time, who logPerson, l lines, digests bool) []byte {
	from := len(b)
	b = appendStart(b, at, eventMessage, who)
	start := b[from:] // of each of them
	b = b[:from]
	for i, text := range l.texts {
		b = append(b, start...)
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

// appendMark appends the record of a stream whose client may come back.
func appendMark(b []byte, at time.Time, fingerprint string, id streamID, last uint64) []byte {
	b = appendStart(b, at, eventStream, nil)
	b = appendField(b, "fingerprint", fingerprint)
	b = appendField(b, "stream", id.String())
	return appendEnd(appendID(b, last))
}

func appendID(b []byte, id uint64) []byte {
	return strconv.AppendUint(append(b, `,"msg_id":`...), id, 10)
}

func appendStart(b []byte, at time.Time, event string, who logPerson) []byte {
	b = append(b, recordBegin...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","event":"`...)
	b = append(b, event...)
	b = append(b, '"')
	return append(b, who...)
}

// appendEnd ends a record, with the place of the hash that chain sets.
func appendEnd(b []byte) []byte {
	return append(append(append(b, recordPrev...), noHash...), recordEnd...)
}

const noHash = "0000000000000000000000000000000000000000000000000000000000000000"
