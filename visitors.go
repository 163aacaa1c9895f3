package main

// Visitors: what the room knows of each key that has received messages in it, also while the key is away and after a
// restart: since when messages are for it, and how far its person has read. Records of the log carry both.

import (
	"container/list"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxVisitors = 4096 // beyond this number, the key that has been away longest is forgotten

	// Records of reading are written when readShare times as many bytes of messages were written since the last ones,
	// so that they take a small part of the log however many people read.
	readShare     = 16
	readMarkBytes = 256 // about the size of such a record
)

// Reasons for which a member has to leave.
const (
	reasonNotAdmitted = "the key is no longer admitted" // revoked or expired, or its line was removed
	reasonRemoved     = "removed by the operator"
	reasonStopping    = "the server is stopping"
)

// errAbsent is wrapped by the error for a name that nobody has.
var errAbsent = errors.New("nobody here is called")

// visitor is a key that has received messages in the room.
type visitor struct {
	fingerprint string
	name        string        // of the key
	folded      string        // foldName of name
	peer        *peer         // how it was admitted last; nil if that was before the start
	since       uint64        // the messages after this number are for the key: it came, or was admitted again, after it
	person      bool          // it has been at a terminal
	read        uint64        // of a person, the last message that the terminal has shown or that was not for it
	listed      bool          // a line of authorized_keys admitted it
	until       time.Time     // when that admission expires; zero for never
	lost        uint64        // the last message to the key alone that the queue does not hold any more
	here        int           // its connections that receive messages
	recalled    time.Time     // recallPause for each time that its clients asked for the history, from recallBurst ago on
	place       *list.Element // in visitors.order; nil if it is forgotten
}

// rename sets the name. Most keys keep theirs, so the cost of folding is rare.
func (v *visitor) rename(name string) {
	if v.name != name {
		v.name, v.folded = name, foldName(name)
	}
}

// fullName returns name~SUFFIX, which distinguishes keys of one name.
func (v *visitor) fullName() string { return v.name + "~" + suffixOf(v.fingerprint) }

// suffixOf returns what nameSuffix returns for the key with this fingerprint.
func suffixOf(fingerprint string) string {
	sum, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(fingerprint, "SHA256:"))
	digits := hex.EncodeToString(sum)
	if err != nil || len(digits) < suffixDigits {
		return ""
	}
	return digits[:suffixDigits]
}

// visitors holds all that the room knows of. The room's lock guards it.
type visitors struct {
	byKey map[string]*visitor   // by fingerprint
	ahead map[*visitor]struct{} // those whose read is ahead of the log's
	order *list.List            // of visitors; the one that came or left last is the last
}

func newVisitors() visitors {
	return visitors{byKey: map[string]*visitor{}, ahead: map[*visitor]struct{}{}, order: list.New()}
}

// put adds v, and forgets the key that has been away longest if there are too many. A key that is in the room is never
// forgotten.
func (s *visitors) put(v *visitor) {
	if s.byKey[v.fingerprint] == nil && len(s.byKey) >= maxVisitors {
		s.forgetLongestAway()
	}
	s.byKey[v.fingerprint] = v
	if v.place == nil {
		v.place = s.order.PushBack(v)
	}
	s.touch(v)
}

func (s *visitors) forgetLongestAway() {
	for e := s.order.Front(); e != nil; e = e.Next() {
		if v := e.Value.(*visitor); v.here == 0 {
			s.forget(v.fingerprint)
			return
		}
	}
}

// touch notes that v came or left now.
func (s *visitors) touch(v *visitor) {
	if v.place != nil {
		s.order.MoveToBack(v.place)
	}
}

// forget forgets a key. If it comes again, it is new, and only what is said from then on is for it.
func (s *visitors) forget(fingerprint string) {
	v := s.byKey[fingerprint]
	if v == nil {
		return
	}
	delete(s.ahead, v)
	delete(s.byKey, fingerprint)
	s.order.Remove(v.place)
	v.place = nil
}

// reads notes that the terminal of v has shown what was said up to seq.
func (s *visitors) reads(v *visitor, seq uint64) {
	if !v.person || seq <= v.read || s.byKey[v.fingerprint] != v { // a forgotten one must not be in the log again
		return
	}
	v.read = seq
	s.ahead[v] = struct{}{}
}

// wasLogged notes that the log has v's read.
func (s *visitors) wasLogged(v *visitor) {
	delete(s.ahead, v)
}

// away returns the visitors that name means, of those who do not receive messages now. Capitals do not count.
func (s *visitors) away(name string) (found []*visitor) {
	for _, v := range s.byKey {
		isFull := strings.IndexByte(name, '~') >= 0 && name == v.fullName()
		if v.here == 0 && (isFull || strings.EqualFold(name, v.name)) {
			found = append(found, v)
		}
	}
	return found
}

// maxChoice is the number of names at most that the error for an ambiguous one lists.
const maxChoice = 8

// ambiguous returns the error for a name that means several keys. choice has the name~SUFFIX of each.
func ambiguous(name string, choice []string) error {
	slices.Sort(choice)
	if more := len(choice) - maxChoice; more > 0 {
		choice = append(choice[:maxChoice], fmt.Sprintf("one of %d more", more))
	}
	return fmt.Errorf("%s is ambiguous: say which, %s", name, strings.Join(choice, " or "))
}

// appendMarks appends a record for each visitor, so that the end of the log, which a start reads, has them all. The one
// that came or left last is the last.
func (s *visitors) appendMarks(b []byte, at time.Time) []byte {
	for e := s.order.Front(); e != nil; e = e.Next() {
		b = e.Value.(*visitor).appendMark(b, at)
	}
	return b
}

// appendReads appends a record for each visitor whose read is ahead of the log's.
func (s *visitors) appendReads(b []byte, at time.Time) []byte {
	for v := range s.ahead {
		b = v.appendMark(b, at)
	}
	return b
}

// appendMark appends a record of what the room knows of v.
func (v *visitor) appendMark(b []byte, at time.Time) []byte {
	b = appendStart(b, at, eventVisitor, nil)
	b = appendField(b, "name", v.name)
	b = appendField(b, "fingerprint", v.fingerprint)
	b = append(b, v.fields()...)
	return appendEnd(b)
}

// fields returns the fields of v's since and read, for a record that has its name and fingerprint.
func (v *visitor) fields() []byte {
	b := strconv.AppendUint([]byte(`,"since":`), v.since, 10)
	if v.listed {
		b = append(b, `,"listed":true`...)
	}
	if !v.until.IsZero() {
		b = append(v.until.UTC().AppendFormat(append(b, `,"until":"`...), recordTime), '"')
	}
	return append(b, v.readField()...)
}

// readField returns the field of v's read, which the records of a person's messages and leaves have too.
func (v *visitor) readField() []byte {
	if !v.person {
		return nil
	}
	return strconv.AppendUint([]byte(`,"read":`), v.read, 10)
}
