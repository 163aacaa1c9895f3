package main

// Streams: which lines of each client process are in the log, so that a line sent again after a lost connection is
// recorded once. A stream has one client process's lines, numbered from 1 over all its connections.

import (
	"cmp"
	"slices"
	"time"
)

const (
	maxStreams     = 256  // remembered of one key
	maxStreamMarks = 4096 // that the log repeats every markBytes
	maxUnread      = 64   // runs of direct lines of one stream that wait until they are read
)

// stream is the state of one client process's stream. Its address stands for the key and the id together, since another
// key may choose the same id.
type stream struct {
	fingerprint string
	id          streamID
	last        uint64   // number of the last line recorded
	durable     uint64   // number of the last line to acknowledge: with -sync the last one on disk
	used        uint64   // when it was last joined, by streams.used
	here        int      // connections of it in the room
	person      bool     // somebody at a terminal sends it
	unread      []unread // the direct lines that hold back the acknowledgement, in order
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
	byKey map[string][]*stream // by fingerprint, the latest joined last
	used  uint64               // counts joins
}

func newStreams() streams { return streams{byKey: map[string][]*stream{}} }

// join returns a key's stream and makes it if need be. A key has maxStreams of them: a further one replaces the one
// joined longest ago of those that are not in the room. No key can make the server forget another key's stream.
func (s *streams) join(fingerprint string, id streamID) *stream {
	own := s.byKey[fingerprint]
	at := slices.IndexFunc(own, func(st *stream) bool { return st.id == id })
	st := &stream{fingerprint: fingerprint, id: id}
	switch {
	case at >= 0:
		st = own[at]
	case len(own) >= maxStreams:
		at = slices.IndexFunc(own, func(st *stream) bool { return st.here == 0 })
	}
	if at >= 0 {
		own = slices.Delete(own, at, at+1)
	}
	s.used++
	st.used = s.used
	s.byKey[fingerprint] = append(own, st)
	return st
}

// find returns a key's stream, or nil if it is not remembered.
func (s *streams) find(fingerprint string, id streamID) *stream {
	for _, st := range s.byKey[fingerprint] {
		if st.id == id {
			return st
		}
	}
	return nil
}

// forget drops a stream that is not in the room: its client left when all of its lines were acknowledged.
func (s *streams) forget(fingerprint string, id streamID) {
	own := slices.DeleteFunc(s.byKey[fingerprint], func(st *stream) bool { return st.id == id && st.here == 0 })
	s.byKey[fingerprint] = own
	if len(own) == 0 {
		delete(s.byKey, fingerprint)
	}
}

// replay applies the state of a stream that one record of the log reports; see connLog.replay.
func (s *streams) replay(fingerprint string, id streamID, last uint64, left bool) {
	if left {
		s.forget(fingerprint, id)
		return
	}
	own := s.byKey[fingerprint]
	if n := len(own); n == 0 || own[n-1].id != id {
		s.join(fingerprint, id)
		own = s.byKey[fingerprint]
	}
	st := own[len(own)-1]
	st.last, st.durable = last, last
}

// appendMarks appends a record for each stream whose client may reconnect, so that the end of the log, which a start
// reads, names them: those in the room and the latest joined, maxStreamMarks at most, the latest last.
func (s *streams) appendMarks(b []byte) []byte {
	var all []*stream
	for _, own := range s.byKey {
		for _, st := range own {
			if st.last > 0 {
				all = append(all, st)
			}
		}
	}
	slices.SortFunc(all, func(a, b *stream) int {
		return cmp.Or(cmp.Compare(min(b.here, 1), min(a.here, 1)), cmp.Compare(b.used, a.used))
	})
	all = all[:min(len(all), maxStreamMarks)]
	now := time.Now()
	for _, st := range slices.Backward(all) {
		b = appendMark(b, now, st.fingerprint, st.id, st.last)
	}
	return b
}
