package main

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Messages of the room: each is recorded in the log, put into the queue, acknowledged to its sender, and reported as
// read by its receivers.

// A direct line is acknowledged when its receiver has read it. After unreadTimeout without that it is reported as kept:
// long enough for a slow link, and shorter than leaveTimeout, so that a client that leaves hears of it.
const unreadTimeout = 3 * time.Second

// hasRead notes that m's client has written out the messages up to number seq.
func (r *room) hasRead(m *member, seq uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.visitor == nil || seq < m.read || seq > r.queue.said {
		return errMalformed
	}
	if seq == m.read {
		return nil // without the search below, since a client can send this as often as it likes
	}
	m.read = seq
	if m.presence.person {
		r.visitors.reads(m.visitor, seq)
	}
	for st := range r.awaiting {
		r.settleLocked(st, func(u unread) bool { return u.to == m.visitor && u.seq <= seq }, false)
	}
	return nil
}

// shownLocked returns the number up to which m has written out all messages that are for it.
func (r *room) shownLocked(m *member) uint64 {
	m.shown = max(m.shown, m.read) // a member that sends much does not search its own lines again for each further one
	lost := r.queue.lost.since(m.shown, m.stream) || m.visitor.lost > m.shown
	if m.next <= r.queue.first || lost {
		return m.shown
	}
	for n := r.queue.after(m.shown); n < m.next; n++ {
		if it := r.queue.at(n); it.isMessage() && it.enc != nil && m.wants(it, n) {
			return m.shown
		}
	}
	m.shown = max(m.shown, r.queue.at(m.next-1).seq)
	return m.shown
}

// awaitLocked makes the acknowledgement of the last n lines of m's stream, direct lines to v, wait until they are read.
func (r *room) awaitLocked(m *member, first uint64, v *visitor) {
	m.stream.await(unread{first: first, seq: r.queue.said, to: v, until: time.Now().Add(unreadTimeout)})
	r.awaiting[m.stream] = struct{}{}
	if r.overdue == nil {
		r.overdue = time.AfterFunc(unreadTimeout, r.reportUnread) // ends when no lines are unread
	}
}

// reportUnread reports direct lines that were not read in time to their senders.
func (r *room) reportUnread() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var next time.Time
	for st := range r.awaiting {
		r.settleLocked(st, func(u unread) bool { return !now.Before(u.until) }, true)
		if len(st.unread) > 0 && (next.IsZero() || st.unread[0].until.Before(next)) {
			next = st.unread[0].until
		}
	}
	r.overdue = nil
	if !next.IsZero() {
		r.overdue = time.AfterFunc(next.Sub(now), r.reportUnread)
	}
}

// say records a member's lines and queues them for the others. Lines that the log has already, which were sent again
// after a lost connection, are dropped. After a nil error every line of l is recorded and acknowledged, with -sync once
// it is on disk. After errLog none is recorded, and the caller may try again.
func (r *room) say(m *member, l lines) error {
	if r.ahead.Load() > takeBytes {
		// The writers run first. Otherwise Go's scheduler lets each member that sends much go on for 10 ms, on one processor
		// all of them before the first writer, and each of them is a slow consumer by then.
		runtime.Gosched()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.ending.reason != "" {
		return errEnding
	}
	last := m.stream.last
	if m.operator {
		// The console sends each line once, so its numbers continue even after a sync that failed, and another line
		// takes the number of one that was lost.
		l.first = last + 1
		m.stream.relayed = last
	}
	if last == 0 || !m.spoke && l.first > last+1 {
		// A stream that the server has forgotten continues at the client's number, and so does one whose acknowledged
		// lines were lost from the log in a power cut: rejecting the client's other lines would lose these too. The
		// numbers in the log show the gap.
		last = l.first - 1
	}
	m.spoke = true
	if l.first > last+1 {
		return fmt.Errorf("line %d came after line %d: %w", l.first, last, errMalformed)
	}
	if known := last + 1 - l.first; known < uint64(len(l.texts)) {
		l.texts, l.first = l.texts[known:], last+1
		if err := r.publishLocked(m, l); err != nil {
			return err
		}
		m.stream.last = last + uint64(len(l.texts))
	}
	switch {
	case r.flush == nil:
		m.stream.durable = m.stream.last
		r.wakeLocked(m)
	case m.stream.durable < m.stream.last:
		if !slices.Contains(r.pending, m.stream) {
			r.pending = append(r.pending, m.stream)
		}
		wake(r.flush)
	}
	return nil
}

// publishLocked writes l to the log and then into the queue.
func (r *room) publishLocked(m *member, l lines) error {
	now := time.Now()
	name, who := m.name, m.fields
	if l.from != "" {
		name, who = l.from, peerFields(appendField(slices.Clip([]byte(who)), "from", l.from))
	}
	var to *audience // nil for all
	var noReceiver error
	if l.what == itemDirect {
		to, noReceiver = r.audienceLocked(m, l.to)
		if noReceiver == nil {
			who = peerFields(appendField(slices.Clip([]byte(who)), "receiver", to.visitor.fingerprint))
		}
	}
	if m.presence.person && m.visitor != nil {
		r.visitors.reads(m.visitor, r.shownLocked(m))
		who = slices.Concat(who, m.visitor.readField())
	}
	size := 0
	for _, text := range l.texts {
		size += len(text) + len(name) + itemOverhead
	}
	readsDue := r.readsDueLocked(size + len(l.texts)*len(who))
	records := func(b []byte) []byte {
		b = appendMessages(b, now, who, l, r.queue.said+1, r.log.digests)
		if readsDue {
			b = r.visitors.appendReads(b, now)
		}
		return b
	}
	if err := r.log.write(records, r.appendMarks); err != nil {
		return err
	}
	r.spoken = now
	r.recordedLocked(m, readsDue)
	texts := m.stream.unheard(l)
	r.queue.said += uint64(len(l.texts) - len(texts)) // the room has heard these under other numbers
	if len(texts) == 0 {
		return nil
	}
	if noReceiver != nil {
		r.queue.said += uint64(len(texts))
		r.notifyLocked(m, itemUndelivered, noReceiver.Error()+"; what you sent is in the log only")
		return nil
	}
	enc := r.queue.space(size)
	for _, text := range texts {
		enc = r.queue.add(enc, item{time: now, what: l.what, name: name, text: text}, m.stream, to)
	}
	switch {
	case to == nil || to.visitor == nil:
	case len(to.streams) == 0:
		name := to.visitor.name
		r.notifyLocked(m, itemUndelivered, fmt.Sprintf("%s is not here; what you sent is kept for %s", name, name))
	case !m.operator && to.visitor.here > 0:
		r.awaitLocked(m, l.first, to.visitor)
	}
	r.ahead.Add(int64(size))
	r.skipLocked(m)
	r.wakeAllLocked()
	return nil
}

// readsDueLocked reports whether records of reading are due, when size more bytes of messages are recorded.
func (r *room) readsDueLocked(size int) bool {
	r.sinceReads += size
	return r.sinceReads >= readShare*readMarkBytes*max(1, len(r.visitors.ahead))
}

// recordedLocked notes how far the log has the reading, after a record of m's messages was written, and with all after
// records of everybody's reading.
func (r *room) recordedLocked(m *member, all bool) {
	if m.presence.person && m.visitor != nil {
		r.visitors.wasLogged(m.visitor)
	}
	if !all {
		return
	}
	r.sinceReads = 0
	for v := range r.visitors.ahead {
		r.visitors.wasLogged(v)
	}
}

// skipLocked moves m's place past items that m does not receive. Without it, a member that sends much is taken for a
// slow consumer of its own lines while its goroutine waits for a processor.
func (r *room) skipLocked(m *member) {
	for m.next >= r.queue.first && m.next < r.queue.end() && !m.wants(r.queue.at(m.next), m.next) {
		m.next++
	}
}

// audienceLocked returns who receives a direct message from m to name: the connections of a key that is in the room, or
// a key that is away and gets the message when it returns. If one key is here and another one with this name is away,
// the name is ambiguous.
func (r *room) audienceLocked(m *member, name string) (*audience, error) {
	found, err := r.findLocked(name)
	if err != nil && !errors.Is(err, errAbsent) {
		return nil, err
	}
	keys, away := map[string]string{}, r.visitors.away(name) // keys: by fingerprint, the name~suffix
	for _, v := range away {
		keys[v.fingerprint] = v.fullName()
	}
	for _, other := range found {
		keys[other.peer.fingerprint] = other.peer.name + "~" + other.peer.suffix
	}
	switch {
	case len(keys) > 1:
		return nil, ambiguous(name, slices.Collect(maps.Values(keys)))
	case err != nil && len(away) > 0 && r.history > 0:
		return &audience{visitor: away[0]}, nil
	case err != nil:
		return nil, err
	}
	to := &audience{visitor: &visitor{fingerprint: found[0].peer.fingerprint}}
	for _, other := range found {
		if !other.listens || other.stream == m.stream {
			continue
		}
		to.streams = append(to.streams, other.stream)
		if other.visitor != nil {
			to.visitor = other.visitor
		}
	}
	switch {
	case len(to.streams) > 0:
	case to.visitor.fingerprint == m.peer.fingerprint:
		return nil, fmt.Errorf("%s is you", name)
	default:
		return nil, fmt.Errorf("%s does not listen", name)
	}
	return to, nil
}

// findLocked returns the members that name means: the connections of one key. If two keys have this name, or names that
// look like it, the name is ambiguous and only name~suffix finds either. A name never finds a member whose name only
// looks like it.
func (r *room) findLocked(name string) ([]*member, error) {
	var found []*member
	alike := map[string]string{} // by fingerprint, the name~suffix
	for m := range r.members {
		isFull := len(name) == len(m.peer.name)+1+len(m.peer.suffix) && name == m.peer.name+"~"+m.peer.suffix
		if (isFull || looksLike(m.peer.name, name)) && alike[m.peer.fingerprint] == "" {
			alike[m.peer.fingerprint] = m.peer.name + "~" + m.peer.suffix
		}
		if isFull || strings.EqualFold(name, m.peer.name) {
			found = append(found, m)
		}
	}
	choice := slices.Collect(maps.Values(alike))
	switch {
	case len(choice) > 1:
		return nil, ambiguous(name, choice)
	case len(found) > 0:
		return found, nil
	case len(choice) == 1:
		return nil, fmt.Errorf("%w %s; %s is here", errAbsent, name, choice[0])
	}
	return nil, fmt.Errorf("%w %s", errAbsent, name)
}

// flushLog acknowledges lines once they are on disk (-sync). One sync serves all streams that wait. It returns when
// r.flush is closed.
func (r *room) flushLog() {
	var waiting []*stream
	var last []uint64
	for range r.flush {
		r.mu.Lock()
		waiting, r.pending = r.pending, waiting[:0]
		last = last[:0]
		for _, s := range waiting {
			last = append(last, s.last)
		}
		r.mu.Unlock()
		if len(waiting) == 0 {
			continue
		}
		if err := r.log.sync(); err != nil {
			r.lostLines(waiting, err)
		} else {
			r.durable(waiting, last)
		}
	}
}

// durable acknowledges the lines of some streams up to their numbers in last.
func (r *room) durable(some []*stream, last []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, s := range some {
		s.durable = max(s.durable, last[i])
	}
	for m := range r.members {
		if m.stream.acknowledged() > m.acked {
			r.wakeLocked(m)
		}
	}
}

// lostLines removes the records since the last sync from the log, after a sync has failed. Their clients have to leave,
// and send the lines again when they reconnect. The operator is asked to send the lines again.
func (r *room) lostLines(some []*stream, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.rollback(err)
	lost := append(some, r.pending...)
	r.pending = r.pending[:0]
	for _, s := range lost {
		s.last = s.durable
	}
	for m := range r.members {
		switch {
		case !slices.Contains(lost, m.stream):
		case m.operator:
			r.notifyLocked(m, itemUndelivered,
				"the log has lost the last you said, though the room has heard it; say it again")
		default:
			r.endLocked(m, errLog.Error())
		}
	}
}
