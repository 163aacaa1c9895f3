package main

// The room's memory: what was said, to whom, by which stream, and what each key has had of it. A running server fills
// it as it publishes; a start fills it from the end of the log.

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// memory is what a room knows. The room's lock guards it.
type memory struct {
	epoch    [8]byte   // names the numbers of the messages; it is as old as the log
	boot     string    // the system's start in which the log was written last, "" if it is not known
	stopped  bool      // the log ends with the record of a stop
	skipped  []skipped // the numbers that no message has, because messages may be lost; the last maxSkipped
	queue    queue
	streams  streams
	visitors visitors
}

// skipped are numbers that no message has: the first and the last of them.
type skipped struct{ from, to uint64 }

const (
	// After skipped numbers the next one is above a multiple of skipStep, at least half of that away: more messages than a
	// server can record before its system writes them to disk.
	skipStep   = 1_000_000_000
	maxSkipped = 64 // runs of skipped numbers that the room remembers
)

func newMemory() memory {
	return memory{queue: queue{first: 1}, streams: newStreams(), visitors: newVisitors()}
}

// fields returns the fields with which the records at the beginning of a file, and every markBytes, carry the epoch and
// the number of the last message.
func (m *memory) fields() peerFields {
	b := appendField(nil, "epoch", hex.EncodeToString(m.epoch[:]))
	b = strconv.AppendUint(append(b, `,"seq":`...), m.queue.said, 10)
	if n := len(m.skipped); n > 0 {
		b = strconv.AppendUint(append(b, `,"skipped_from":`...), m.skipped[n-1].from, 10)
		b = strconv.AppendUint(append(b, `,"skipped_to":`...), m.skipped[n-1].to, 10)
	}
	return appendField(b, "boot", m.boot)
}

// begin ends the restoring, at a start of the server in this start of the system. If the system was started again, and
// the server did not stop before, the log may have lost its end: then clients may have received messages that it does
// not have, and the numbers of these must not be used again. begin returns true if it skipped numbers for that reason.
func (m *memory) begin(boot string) (skips bool) {
	mayBeLost := !m.stopped && (boot == "" || boot != m.boot)
	m.boot = boot
	switch {
	case m.epoch == [8]byte{}: // there is no log to go on from
		rand.Read(m.epoch[:])
	case mayBeLost:
		said := m.queue.said
		m.queue.said = (said+skipStep/2)/skipStep*skipStep + skipStep
		m.addSkipped(skipped{said + 1, m.queue.said})
		return true
	}
	return false
}

// addSkipped notes numbers that were skipped, unless it has noted them, or later ones.
func (m *memory) addSkipped(s skipped) {
	n := len(m.skipped)
	if s.from == 0 || s.from > s.to || n > 0 && s.from <= m.skipped[n-1].to {
		return
	}
	m.skipped = append(m.skipped[max(0, n+1-maxSkipped):], s)
}

// skips reports whether a client whose place is seq has received a message that is lost. The last number that was
// skipped is the place of a client that came before the first message after it.
func (m *memory) skips(seq uint64) bool {
	return slices.ContainsFunc(m.skipped, func(s skipped) bool { return s.from <= seq && seq < s.to })
}

// before returns the number that is n messages before number seq, or 0 if there are not so many.
func (m *memory) before(seq, n uint64) uint64 {
	seq -= min(seq, n)
	for _, s := range slices.Backward(m.skipped) {
		if seq < s.to {
			seq -= min(seq, s.to-s.from+1)
		}
	}
	return seq
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
	var r logRecord
	r.read(record)
	m.stopped = string(r.event) == eventStop
	switch string(r.event) {
	case eventStream:
		streamMarksOf(record, m.streams.replay)
	case eventStart, eventRotate, eventRoom:
		m.restoreEpoch(&r)
	case eventConnect, eventVisitor:
		m.restoreVisitor(&r)
	case eventDisconnect:
		m.restoreRead(&r)
		m.restoreStream(&r)
	case eventRevoked:
		m.visitors.forget(string(r.fingerprint))
	case eventMessage:
		m.restoreStream(&r)
		m.restoreMessage(&r, recent)
	}
}

// restoreStream applies a record that has a line of a stream, or the leave of its client.
func (m *memory) restoreStream(r *logRecord) {
	var id streamID
	if len(r.fingerprint) == 0 || !id.parse(r.stream) {
		return
	}
	last, _ := numberIn(r.msgID)
	left := string(r.reason) == errLeft.Error()
	if left || last > 0 {
		m.streams.replay(mark{fingerprint: string(r.fingerprint), id: id, last: last, left: left})
	}
}

// restoreEpoch applies a record that has the epoch and the number of the last message before it.
func (m *memory) restoreEpoch(r *logRecord) {
	var epoch [8]byte
	if len(r.epoch) != hex.EncodedLen(len(epoch)) {
		return
	}
	if _, err := hex.Decode(epoch[:], r.epoch); err != nil {
		return
	}
	m.epoch, m.boot = epoch, string(r.boot)
	from, _ := numberIn(r.skippedFrom)
	to, _ := numberIn(r.skippedTo)
	m.addSkipped(skipped{from, to})
	said, ok := numberIn(r.seq)
	if !ok || said <= m.queue.said {
		return
	}
	recorded := said
	if 0 < from && from <= said && said <= to {
		recorded = from - 1
	}
	if recorded > m.queue.said {
		m.queue.lost.add(recorded, nil) // what was said before is not in this part of the log
	}
	m.queue.said = said
}

// restoreVisitor applies a record that says since when messages are for a key.
func (m *memory) restoreVisitor(r *logRecord) {
	since, ok := numberIn(r.since)
	if !ok {
		return
	}
	print, name := string(r.fingerprint), string(r.name)
	if strings.IndexByte(name, '~') >= 0 {
		name, _ = strings.CutSuffix(name, "~"+suffixOf(print))
	}
	if print == "" || !validName(name) {
		return
	}
	v := m.visitors.byKey[print]
	if v == nil {
		v = &visitor{fingerprint: print}
	}
	v.rename(name)
	v.since, v.listed = since, string(r.listed) == "true"
	v.until = time.Time{}
	if until, err := time.Parse(recordTime, string(r.until)); err == nil {
		v.until = until
	}
	m.visitors.put(v)
	m.restoreRead(r)
}

// restoreRead applies the read of a record, if it has one. It reports whether the record is a person's.
func (m *memory) restoreRead(r *logRecord) (person bool) {
	read, person := numberIn(r.reading)
	if v := m.visitors.byKey[string(r.fingerprint)]; v != nil && person {
		v.person, v.read = true, max(v.read, read)
	}
	return person
}

// restoreMessage puts a message into the queue, if it is recent, as publishing did.
func (m *memory) restoreMessage(r *logRecord, recent bool) {
	seq, ok := numberIn(r.seq)
	if !ok || seq <= m.queue.said {
		return
	}
	if seq > 1 && m.queue.said == 0 {
		m.queue.lost.add(seq-1, nil) // the part of the log that is read begins here
	}
	person := m.restoreRead(r)
	if !recent {
		m.queue.said = seq
		switch {
		case string(r.what) != itemNames[itemDirect]:
			m.queue.lost.add(seq, nil)
		case len(r.receiver) > 0:
			m.receiver(string(r.receiver)).lost = seq
		}
		return
	}
	from := m.sender(r)
	from.person = from.person || person
	var to *audience
	it := item{seq: seq, what: itemSay, name: string(r.name)}
	switch string(r.what) {
	case itemNames[itemAction]:
		it.what = itemAction
	case itemNames[itemDirect]:
		it.what = itemDirect
		if len(r.receiver) == 0 { // it reached nobody
			m.queue.said = seq
			return
		}
		to = &audience{visitor: m.receiver(string(r.receiver))}
	}
	if r.from != nil {
		it.name = string(r.from)
	}
	at, err := time.Parse(recordTime, string(r.time))
	text, known := r.text()
	if err != nil || !known || !validShown(it.name) || len(text) > maxLine {
		m.queue.put(queueItem{seq: seq, what: it.what, from: from, to: to})
		return
	}
	it.time, it.text = at, text
	m.queue.add(m.queue.space(len(text)+len(it.name)+itemOverhead), it, from, to)
}

// sender returns the stream that a message came from. One that the room does not remember is like no other.
func (m *memory) sender(r *logRecord) *stream {
	print := string(r.fingerprint)
	var id streamID
	if id.parse(r.stream) {
		if known := m.streams.lookup(print, id); known != nil {
			return known
		}
	}
	return &stream{streamKey: streamKey{&owner{fingerprint: print}, id}}
}

// receiver returns the visitor with this fingerprint. One that the room does not remember receives nothing.
func (m *memory) receiver(print string) *visitor {
	if v := m.visitors.byKey[print]; v != nil {
		return v
	}
	return &visitor{fingerprint: print}
}

// logRecord has the members of a record that the room needs, as they stand in it: strings without their quotes. A
// member that the record does not have is nil.
type logRecord struct {
	time, event, name, fingerprint, stream []byte
	seq, what, receiver, from              []byte
	msgID, message, base64, reason         []byte
	since, listed, reading, epoch          []byte
	boot, skippedFrom, skippedTo, until    []byte
}

// member returns where the value of a member is kept, or nil.
func (r *logRecord) member(name []byte) *[]byte {
	switch string(name) {
	case "time":
		return &r.time
	case "event":
		return &r.event
	case "name":
		return &r.name
	case "fingerprint":
		return &r.fingerprint
	case "stream":
		return &r.stream
	case "seq":
		return &r.seq
	case "what":
		return &r.what
	case "receiver":
		return &r.receiver
	case "from":
		return &r.from
	case "msg_id":
		return &r.msgID
	case "message":
		return &r.message
	case "base64":
		return &r.base64
	case "reason":
		return &r.reason
	case "since":
		return &r.since
	case "listed":
		return &r.listed
	case "read":
		return &r.reading
	case "epoch":
		return &r.epoch
	case "until":
		return &r.until
	case "boot":
		return &r.boot
	case "skipped_from":
		return &r.skippedFrom
	case "skipped_to":
		return &r.skippedTo
	}
	return nil
}

// read sets the members. A record that this program has not written may set none, or some.
func (r *logRecord) read(record []byte) {
	b, ok := bytes.CutPrefix(record, []byte(`{"`))
	for ok {
		name, value, found := bytes.Cut(b, []byte(`":`))
		if !found {
			return
		}
		if value, b, ok = cutValue(value); !ok {
			return
		}
		if to := r.member(name); to != nil {
			*to = value
		}
		b, ok = bytes.CutPrefix(b, []byte(`,"`))
	}
}

// cutValue takes a string, without its quotes, or a word such as a number from the front of b.
func cutValue(b []byte) (value, rest []byte, ok bool) {
	quoted, isString := bytes.CutPrefix(b, []byte(`"`))
	if !isString {
		end := bytes.IndexAny(b, ",}")
		if end < 0 {
			return nil, nil, false
		}
		return b[:end], b[end:], true
	}
	for end := 0; ; end++ {
		n := bytes.IndexByte(quoted[end:], '"')
		if n < 0 {
			return nil, nil, false
		}
		end += n
		escapes := 0
		for escapes < end && quoted[end-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return quoted[:end], quoted[end+1:], true
		}
	}
}

// text returns the text of a message, or false if the record has only its digest.
func (r *logRecord) text() (text []byte, ok bool) {
	if r.base64 != nil {
		text, err := base64.StdEncoding.AppendDecode(nil, r.base64)
		return text, err == nil
	}
	if bytes.IndexByte(r.message, '\\') < 0 {
		return r.message, r.message != nil
	}
	var s string
	err := json.Unmarshal(slices.Concat([]byte{'"'}, r.message, []byte{'"'}), &s)
	return []byte(s), err == nil
}
