package main

// The room's memory: what was said, to whom, by which stream, and what each key has had of it. A running server fills it
// as it publishes; a start fills it from the end of the log.

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// memory is what a room knows. The room's lock guards it.
type memory struct {
	epoch    [8]byte // names the numbers of the messages; it is as old as the log
	queue    queue
	streams  streams
	visitors visitors
}

func newMemory() memory {
	return memory{queue: queue{first: 1}, streams: newStreams(), visitors: newVisitors()}
}

// fields returns the fields with which the records at the beginning of a file, and every markBytes, carry the epoch and
// the number of the last message.
func (m *memory) fields() peerFields {
	b := appendField(nil, "epoch", hex.EncodeToString(m.epoch[:]))
	return strconv.AppendUint(append(b, `,"seq":`...), m.queue.said, 10)
}

// appendMarks appends the records that make the end of the log enough for a start.
func (m *memory) appendMarks(b []byte) []byte {
	now := time.Now()
	b = appendRecord(b, now, eventRoom, m.fields(), "", "")
	b = m.visitors.appendMarks(b, now)
	return m.streams.appendMarks(b)
}

// restore applies one record of the log. recent means that the record, if it is a message, is one that the history
// reaches. A record that says nothing about the room changes nothing, as those of older versions do.
func (m *memory) restore(record []byte, recent bool) {
	if fingerprint, id, last, left, ok := streamOf(record); ok {
		m.streams.replay(fingerprint, id, last, left)
	}
	print := string(memberOf(record, `,"fingerprint":"`))
	switch string(memberOf(record, `,"event":"`)) {
	case eventStart, eventRotate, eventRoom:
		m.restoreEpoch(record)
	case eventConnect, eventVisitor:
		m.restoreVisitor(record, print)
	case eventDisconnect:
		m.restoreRead(record, print)
		if string(memberOf(record, `,"reason":"`)) == reasonNotAdmitted {
			m.visitors.forget(print)
		}
	case eventRevoked:
		m.visitors.forget(print)
	case eventMessage:
		m.restoreMessage(record, print, recent)
	}
}

// restoreEpoch applies a record that has the epoch and the number of the last message before it.
func (m *memory) restoreEpoch(record []byte) {
	epoch, err := hex.DecodeString(string(memberOf(record, `,"epoch":"`)))
	if err != nil || len(epoch) != len(m.epoch) {
		return
	}
	m.epoch = [8]byte(epoch)
	if said, ok := numberOf(record, `,"seq":`); ok && said > m.queue.said {
		m.queue.lost.add(said, nil) // what was said before is not in this part of the log
		m.queue.said = said
	}
}

// restoreVisitor applies a record that says since when messages are for a key.
func (m *memory) restoreVisitor(record []byte, print string) {
	since, ok := numberOf(record, `,"since":`)
	if !ok {
		return
	}
	name, _ := strings.CutSuffix(string(memberOf(record, `,"name":"`)), "~"+suffixOf(print))
	read, person := numberOf(record, `,"read":`)
	listed := bytes.Contains(record, []byte(`,"listed":true`))
	v := m.visitors.byKey[print]
	if v == nil {
		v = &visitor{fingerprint: print}
	}
	v.name, v.since, v.listed = name, since, listed
	v.person, v.read = v.person || person, max(v.read, read)
	v.logged = v.read
	m.visitors.put(v)
}

// restoreRead applies the read of a record, if it has one. It reports whether the record is a person's.
func (m *memory) restoreRead(record []byte, print string) (person bool) {
	read, person := numberOf(record, `,"read":`)
	if v := m.visitors.byKey[print]; v != nil && person {
		v.person, v.read = true, max(v.read, read)
		v.logged = v.read
	}
	return person
}

// restoreMessage puts a message into the queue, if it is recent, as publishing did.
func (m *memory) restoreMessage(record []byte, print string, recent bool) {
	seq, ok := numberOf(record, `,"seq":`)
	if !ok || seq <= m.queue.said {
		return
	}
	person := m.restoreRead(record, print)
	if !recent {
		m.queue.lost.add(seq, nil)
		m.queue.said = seq
		return
	}
	if seq > 1 && m.queue.said == 0 {
		m.queue.lost.add(seq-1, nil) // the part of the log that is read begins here
	}
	from := m.sender(record, print)
	from.person = from.person || person
	var to *audience
	it := item{seq: seq, what: itemSay, name: string(memberOf(record, `,"name":"`))}
	switch string(memberOf(record, `,"what":"`)) {
	case itemNames[itemAction]:
		it.what = itemAction
	case itemNames[itemDirect]:
		it.what = itemDirect
		receiver := string(memberOf(record, `,"receiver":"`))
		if receiver == "" { // it reached nobody
			m.queue.said = seq
			return
		}
		to = &audience{visitor: m.receiver(receiver)}
	}
	if name := memberOf(record, `,"from":"`); name != nil {
		it.name = string(name)
	}
	at, err := time.Parse(recordTime, string(memberOf(record, recordBegin)))
	text, known := textOf(record)
	if err != nil || !known || !validShown(it.name) || len(text) > maxLine {
		m.queue.put(queueItem{seq: seq, what: it.what, from: from, to: to})
		return
	}
	it.time, it.text = at, text
	m.queue.add(m.queue.space(len(text)+len(it.name)+itemOverhead), it, from, to)
}

// sender returns the stream that a message came from. One that the room does not remember is like no other.
func (m *memory) sender(record []byte, print string) *stream {
	var id streamID
	if text := memberOf(record, `,"stream":"`); len(text) == hex.EncodedLen(len(id)) {
		if _, err := hex.Decode(id[:], text); err == nil {
			if st := m.streams.find(print, id); st != nil {
				return st
			}
		}
	}
	return &stream{fingerprint: print, id: id}
}

// receiver returns the visitor with this fingerprint. One that the room does not remember receives nothing.
func (m *memory) receiver(print string) *visitor {
	if v := m.visitors.byKey[print]; v != nil {
		return v
	}
	return &visitor{fingerprint: print}
}

// numberOf returns the number after begin, a member's name as it stands in a record.
func numberOf(record []byte, begin string) (n uint64, ok bool) {
	_, digits, _ := bytes.Cut(record, []byte(begin))
	i := 0
	for i < len(digits) && digits[i] >= '0' && digits[i] <= '9' {
		i++
	}
	n, err := strconv.ParseUint(string(digits[:i]), 10, 64)
	return n, err == nil
}

// textOf returns the text of a message's record, or false if the record has only its digest.
func textOf(record []byte) (text []byte, ok bool) {
	if coded := memberOf(record, `,"base64":"`); coded != nil {
		text, err := base64.StdEncoding.AppendDecode(nil, coded)
		return text, err == nil
	}
	_, quoted, ok := bytes.Cut(record, []byte(`,"message":`))
	end := bytes.LastIndex(quoted, []byte(recordPrev))
	if !ok || end < 2 {
		return nil, false
	}
	quoted = quoted[:end]
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1], true
	}
	var s string
	err := json.Unmarshal(quoted, &s)
	return []byte(s), err == nil
}
