package main

// Streams: which lines of each client process are in the log, so that a line sent again after a lost connection is
// recorded once. A stream has one client process's lines, numbered from 1 over all its connections.

import (
	"cmp"
	"container/list"
	"maps"
	"slices"
	"time"
)

const (
	// A stream takes 200 bytes of memory, or 400 if its key has no other, and 40 to 110 bytes of the log every markBytes.
	// The marks of maxStreams and the records of markBytes fit tailBytes together, so the tail has a mark of each stream.
	maxKeyStreams = 4096     // remembered of one key
	maxStreams    = 64 << 10 // remembered of all keys
	maxUnread     = 64       // runs of direct lines of one stream that wait until they are read
)

// stream is the state of one client process's stream. Its address stands for the key and the id together, since another
// key may choose the same id.
type stream struct {
	streamKey
	last    uint64        // number of the last line recorded
	durable uint64        // number of the last line to acknowledge: with -sync the last one on disk
	relayed uint64        // number of the last line that the room has heard; above last after a sync that failed
	unsure  bool          // it may have had lines before, and had to be forgotten with them
	here    int           // connections of it in the room
	changed uint64        // when a connection of it last joined or left, by streams.changes
	place   *list.Element // in owner.streams
	person  bool          // somebody at a terminal sends it
	unread  []unread      // the direct lines that hold back the acknowledgement, in order
}

// unheard returns the texts of l, which was recorded, that the room has not heard, and counts them as heard. After a
// sync that failed, a client sends lines again that the room has heard and the log has lost.
func (st *stream) unheard(l lines) [][]byte {
	end := l.first + uint64(len(l.texts))
	from := min(max(st.relayed+1, l.first), end)
	st.relayed = max(st.relayed, end-1)
	return l.texts[from-l.first:]
}

type streamKey struct {
	owner *owner
	id    streamID
}

// owner is a key with streams.
type owner struct {
	fingerprint string
	streams     list.List // the longest unchanged first
	forgot      bool      // a stream with lines had to be forgotten: an unknown one may be that one
}

// unread is a run of direct lines that were delivered to a receiver which has not acknowledged yet that it read them.
type unread struct {
	first uint64 // line of the run in its stream
	seq   uint64 // the number of the last line in the room
	to    *visitor
	until time.Time // when the sender is told that the lines are kept
}

// acknowledged returns the number of the last line to acknowledge to the client: the lines up to it are recorded, and
// the direct ones among them are read, or reported as kept.
func (st *stream) acknowledged() uint64 {
	if len(st.unread) == 0 {
		return st.durable
	}
	return min(st.durable, st.unread[0].first-1)
}

// await makes the acknowledgement of a run of direct lines wait. With many runs the last one takes up further ones.
func (st *stream) await(u unread) {
	if n := len(st.unread); n >= maxUnread {
		last := &st.unread[n-1]
		if last.to == u.to {
			last.seq = u.seq
		}
		return
	}
	st.unread = append(st.unread, u)
}

// settle removes the runs for which over returns true, and returns the receivers of these.
func (st *stream) settle(over func(u unread) bool) (to []*visitor) {
	st.unread = slices.DeleteFunc(st.unread, func(u unread) bool {
		if !over(u) {
			return false
		}
		if !slices.Contains(to, u.to) {
			to = append(to, u.to)
		}
		return true
	})
	return to
}

// streams holds the streams of all keys. The room's lock guards it.
type streams struct {
	owners  map[string]*owner // by fingerprint
	known   map[streamKey]*stream
	changes uint64 // counts the changes of a stream's presence
	forgot  bool   // like owner.forgot, for every key
}

func newStreams() streams {
	return streams{owners: map[string]*owner{}, known: map[streamKey]*stream{}}
}

// ownerOf returns the owner for a key, and makes it if need be.
func (s *streams) ownerOf(fingerprint string) *owner {
	o := s.owners[fingerprint]
	if o == nil {
		o = &owner{fingerprint: fingerprint}
		s.owners[fingerprint] = o
	}
	return o
}

// find returns a key's stream, and makes it if need be.
//
// If there are too many streams, the one absent longest is forgotten: of the key, or of all keys. A stream that is in
// the room, or has lines that are not on disk yet, is never forgotten.
func (s *streams) find(fingerprint string, id streamID) *stream {
	if st, known := s.known[streamKey{s.ownerOf(fingerprint), id}]; known {
		return st
	}
	if o := s.ownerOf(fingerprint); o.streams.Len() >= maxKeyStreams {
		if old := o.longestAbsent(); old != nil {
			o.forgot = o.forgot || old.last > 0
			s.remove(old)
		}
	}
	if len(s.known) >= maxStreams {
		if old := s.longestAbsent(); old != nil {
			s.forgot = s.forgot || old.last > 0
			s.remove(old)
		}
	}
	st := &stream{streamKey: streamKey{s.ownerOf(fingerprint), id}}
	st.unsure = st.owner.forgot || s.forgot
	st.place = st.owner.streams.PushBack(st)
	s.known[st.streamKey] = st
	s.touch(st)
	return st
}

// lookup returns a key's stream, or nil if it is not remembered.
func (s *streams) lookup(fingerprint string, id streamID) *stream {
	return s.known[streamKey{s.owners[fingerprint], id}]
}

// join returns the stream of a connection that enters the room.
func (s *streams) join(fingerprint string, id streamID) *stream {
	st := s.find(fingerprint, id)
	st.here++
	s.touch(st)
	return st
}

// leave is the end of a connection in the room. A client that has left for good does not come back.
func (s *streams) leave(st *stream, forGood bool) {
	st.here--
	s.touch(st)
	if forGood && st.here == 0 {
		s.remove(st)
	}
}

// touch makes st the stream that changed last.
func (s *streams) touch(st *stream) {
	s.changes++
	st.changed = s.changes
	st.owner.streams.MoveToBack(st.place)
}

// remove drops a stream, and its owner if nothing else has to be remembered of it.
func (s *streams) remove(st *stream) {
	st.owner.streams.Remove(st.place)
	delete(s.known, st.streamKey)
	if st.owner.streams.Len() == 0 && !st.owner.forgot {
		delete(s.owners, st.owner.fingerprint)
	}
}

// all iterates over the streams of o, the longest unchanged first.
func (o *owner) all(yield func(st *stream) bool) {
	for e := o.streams.Front(); e != nil && yield(e.Value.(*stream)); e = e.Next() {
	}
}

// longestAbsent returns the stream of o that can be forgotten first, or nil.
func (o *owner) longestAbsent() *stream {
	for st := range o.all {
		if st.here == 0 && st.durable == st.last {
			return st
		}
	}
	return nil
}

// longestAbsent returns the stream of all keys that can be forgotten first, or nil.
func (s *streams) longestAbsent() (first *stream) {
	for _, o := range s.owners {
		if st := o.longestAbsent(); st != nil && (first == nil || st.changed < first.changed) {
			first = st
		}
	}
	return first
}

// replay applies a mark of the log; see connLog.replay.
func (s *streams) replay(m mark) {
	switch {
	case m.forgot && m.fingerprint == "":
		s.forgot = true
	case m.forgot:
		s.ownerOf(m.fingerprint).forgot = true
	case m.left:
		if st := s.lookup(m.fingerprint, m.id); st != nil {
			s.remove(st)
		}
	default:
		st := s.find(m.fingerprint, m.id)
		st.last, st.durable, st.relayed = m.last, m.last, m.last
		s.touch(st)
	}
}

// appendMarks appends records with a mark of each stream with lines, so that the end of the log, which a start reads,
// has them all. The streams of a key stand in the order in which a start has to find them: first those that are
// absent, the longest absent first, then those in the room.
func (s *streams) appendMarks(b []byte) []byte {
	firstChange := func(o *owner) uint64 {
		for st := range o.all {
			return st.changed
		}
		return 0
	}
	owners := slices.SortedFunc(maps.Values(s.owners), func(a, b *owner) int {
		return cmp.Compare(firstChange(a), firstChange(b))
	})
	w := markWriter{b: b, at: time.Now()}
	if s.forgot {
		w.add(mark{forgot: true})
	}
	for _, o := range owners {
		if o.forgot {
			w.add(mark{fingerprint: o.fingerprint, forgot: true})
		}
		for _, present := range []bool{false, true} {
			for st := range o.all {
				if st.last > 0 && present == (st.here > 0) {
					w.add(mark{fingerprint: o.fingerprint, id: st.id, last: st.last})
				}
			}
		}
	}
	return w.end()
}
