package main

// The room: its members, and their lines in one order that the log and all receivers share. A line is written to the
// log before it is put into the queue, and acknowledged to its sender only after that.
//
// One lock, room.mu, guards the room and its members. The log's own lock is taken under it, and the log is written
// under both, so that the log and the queue have the same order.

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	takeBytes     = 64 << 10 // that a delivery takes at most, beside one item that is longer
	leastTake     = 4 << 10  // that a delivery may take although others have taken deliveryBytes
	deliveryBytes = 8 << 20  // bytes of memory for the deliveries that are being sent, except for leastTake each
	itemRef       = 24       // bytes of an item's slice in a delivery
	maxNotices    = 16       // that wait for one member

	// A direct line is acknowledged when its receiver has read it. After this time without that it is reported as kept:
	// long enough for a slow link, and shorter than leaveTimeout, so that a client that leaves hears of it.
	unreadTimeout = 3 * time.Second
)

// room is shared by all goroutines of a server.
type room struct {
	log     *connLog
	history int           // messages at most that a member gets of what it missed (-history)
	flush   chan struct{} // of capacity 1, wakes flushLog; nil without -sync

	mu         sync.Mutex // guards the fields below, and the fields of members that say so
	memory                // its epoch never changes
	members    map[*member]struct{}
	pending    []*stream            // with lines in the log that are not on disk yet (-sync)
	awaiting   map[*stream]struct{} // with direct lines that are not read yet
	overdue    *time.Timer          // runs reportUnread; nil while it is not due
	sinceReads int                  // bytes of messages recorded since the last records of reading
	closing    bool
	sending    int       // bytes of the deliveries that are being sent
	spoken     time.Time // when the last message was published
	whoText    string    // the answer to kindWho; empty if the members have changed since the last one
}

// receiver is where a member's deliveries go: a client's connection, or the operator's console. One goroutine at a time
// calls deliver.
type receiver interface {
	// deliver sends d. It is not called again after an error or after d.goodbye.
	deliver(d *delivery) error
	// abort makes a stuck deliver return, and ends reading. Any goroutine may call it.
	abort()
}

// member is one presence in the room: a client's connection, or the operator's console.
type member struct {
	peer     *peer
	out      receiver
	operator bool       // the console, which cannot be removed; set by enterOperator
	written  chan error // of capacity 1: receives the error of the last delivery

	// The room's lock guards the rest.
	writer   writer
	name     string     // as the others see it: with ~XXXXXXXX if two keys have names that look alike
	fields   peerFields // of its records in the log
	stream   *stream    // which of its lines are in the log
	listens  bool       // it receives items
	presence presence
	reading
	acked   uint64   // the last of its lines that was acknowledged to it
	notices [][]byte // encoded items for it alone, maxNotices at most
	spoke   bool     // it has sent a line on this connection
	readErr error    // what ended reading from it; nil while reading goes on
	ending  ending
}

// writer is what delivers items and acknowledgements to a member: room.write, on one goroutine at a time. When there is
// nothing to deliver, the goroutine ends, since it would keep the stack of a delivery, 4 KiB for each idle client. While
// people talk it waits for linger before that: a new goroutine has to grow its stack, which makes a line to 100
// receivers cost a server a third more.
type writer struct {
	running bool          // a goroutine is in room.write, is not started yet, or has ended for good
	wake    chan struct{} // wakes the goroutine; nil unless it waits
	retire  bool          // the goroutine has waited for linger
	timer   *time.Timer   // linger after the goroutine began to wait, or pingInterval after the last delivery
	pingDue bool          // nothing was delivered for pingInterval
	sending int           // bytes of the delivery that is being sent
}

// linger is how long a writer waits for something to deliver, and how long after a message people are taken to talk.
const linger = time.Second

// presence is how a member's presence began.
type presence struct {
	present  uint64    // the place of the last item before it joined
	person   bool      // somebody at a terminal
	returned bool      // a person that was in the room before, and receives what was said since then
	stranger bool      // of returned: the key was in the room, but not at a terminal, so only direct messages are new
	again    bool      // a client that reconnects, and receives the joins and leaves since then, too
	expires  time.Time // when its admission expires; zero for never
}

// reading is how far a member has come with what the room sends it.
type reading struct {
	visitor *visitor // its key; nil for one that does not listen, and for the operator
	next    uint64   // place of the next item to deliver
	recall  places   // messages to deliver before that, because the client asked for them
	read    uint64   // number of the last message that the client has written out, as it says
	shown   uint64   // what shownLocked returned last
}

// places is a range of places in the queue, without its end.
type places struct{ next, end uint64 }

// ending is why a member has to leave. The zero value means that it stays.
type ending struct {
	reason string
	until  uint64 // it receives the items before this one
}

// errEnding is the error for lines of a member that has to leave.
var errEnding = errors.New("the server has ended this session")

// reasonSlow is the reason of a member whose place in the queue is gone.
var reasonSlow = fmt.Sprintf("slow consumer: it left more than %d MiB unread", queueBytes>>20)

// newRoom makes a room with the memory that the end of the log has. With sync, lines are acknowledged once they
// are on disk, and flushLog must run.
func newRoom(log *connLog, history int, sync bool) (*room, error) {
	r := &room{
		log: log, history: history, memory: newMemory(), members: map[*member]struct{}{},
		awaiting: map[*stream]struct{}{},
	}
	if sync {
		r.flush = make(chan struct{}, 1)
	}
	r.streams.forgot = log.off() // lines from before this start are in no log
	if err := log.replay(min(history, maxQueued), r.restore); err != nil {
		return nil, err
	}
	if r.memory.begin(bootID()) {
		const text = "the system ended before the server did, so the last messages may be missing; further ones have numbers above %d"
		log.warn(fmt.Sprintf(text, r.queue.said))
	}
	return r, nil
}

// newMember makes a member that is not in the room yet. Nothing is delivered to it before the first room.write.
func newMember(p *peer, out receiver) *member {
	return &member{peer: p, out: out, name: p.name, written: make(chan error, 1), writer: writer{running: true}}
}

// join makes m a member and queues an item about that for all. It returns the client's welcome, or an error if the log
// cannot be written or the server is stopping. An older connection of the same stream is ended, since its client uses
// this one.
func (r *room) join(m *member, req joinRequest, listens bool) (welcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return welcome{}, errors.New(reasonStopping)
	}
	m.name = r.nameLocked(m.peer)
	for other := range r.members {
		if !other.operator && other.peer.fingerprint == m.peer.fingerprint && other.peer.stream == m.peer.stream {
			r.endLocked(other, "replaced by a newer connection")
		}
	}
	m.fields = newPeerFields(m.peer.addr, m.name, m.peer.fingerprint, m.peer.stream.String(), m.peer.digest)
	now := time.Now()
	m.stream = r.streams.lookup(m.peer.fingerprint, m.peer.stream)
	m.next = r.queue.end()
	m.presence = presence{present: m.next, person: req.flags&joinPerson != 0, expires: m.peer.until}
	w := welcome{epoch: r.epoch, seq: r.queue.said, present: r.queue.said, name: m.name}
	who := m.fields
	if listens {
		if r.meetLocked(m, req, &w) {
			w.flags |= welcomeGap
		}
		who = slices.Concat(who, m.visitor.fields())
	}
	if err := r.log.write(recordOf(now, eventConnect, who, "by", m.peer.admittedBy), r.appendMarks); err != nil {
		return welcome{}, err
	}
	r.enterLocked(m, listens)
	w.recorded = m.acked
	r.queue.add(nil, item{time: now, what: itemJoin, name: m.name}, m.stream, nil)
	if m.stream.unsure && w.recorded == 0 {
		w.flags |= welcomeForgotten
	}
	r.wakeAllLocked()
	return w, nil
}

// enterOperator makes the operator's console a member. It queues no item about that.
func (r *room) enterOperator(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.operator = true
	m.fields = newPeerFields(m.peer.addr, m.name, m.peer.fingerprint, m.peer.stream.String(), nil)
	r.enterLocked(m, true)
	m.next = r.queue.end()
	if r.closing {
		r.endLocked(m, reasonStopping)
	}
}

func (r *room) enterLocked(m *member, listens bool) {
	m.stream = r.streams.join(m.peer.fingerprint, m.peer.stream)
	m.stream.person = m.presence.person
	m.listens, m.acked = listens, m.stream.acknowledged()
	if m.visitor != nil {
		m.visitor.here++
		r.visitors.put(m.visitor)
		r.visitors.wasLogged(m.visitor)
	}
	r.members[m] = struct{}{}
	r.whoText = ""
}

// operatorWelcome returns what begins the stay of the operator's console.
func (r *room) operatorWelcome(m *member) welcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	return welcome{epoch: r.epoch, seq: r.beforeLocked(m), name: m.name}
}

// nameLocked returns the name of a peer in the room. If another key has a name that looks alike, ~XXXXXXXX is added;
// all connections of one key have one name.
func (r *room) nameLocked(p *peer) string {
	name := p.name
	for other := range r.members {
		if other.peer.fingerprint == p.fingerprint && other.peer.name == p.name {
			return other.name
		}
		if other.peer.fingerprint != p.fingerprint && foldName(other.peer.name) == foldName(p.name) {
			name = p.name + "~" + p.suffix
		}
	}
	return name
}

// meetLocked finds the visitor that m's key is, and moves m's place back to the first item that m missed, as far as the
// history reaches. It sets w.seq. gap means that some of what m missed is gone.
func (r *room) meetLocked(m *member, req joinRequest, w *welcome) (gap bool) {
	v := r.visitors.byKey[m.peer.fingerprint]
	known := v != nil
	if !known {
		v = &visitor{fingerprint: m.peer.fingerprint, since: r.queue.said}
	}
	v.name, v.listed, v.until, v.peer = m.peer.name, m.peer.listed(), m.peer.until, m.peer
	m.visitor = v
	from, placed, gap := r.placeOf(req)
	if placed && gap { // this client has received messages that the log has lost
		r.queue.lost.add(from, nil)
	}
	m.presence.again = placed && m.stream != nil
	switch {
	case placed && m.presence.person:
		v.read = max(v.read, from)
	case !placed && m.presence.person && known:
		m.presence.returned, m.presence.stranger = true, !v.person
		from = v.read
	}
	// What was said before this key came is not for it, whatever the client claims to have seen.
	gap = r.rewindLocked(m, max(from, v.since), placed || m.presence.returned) || gap
	missed, among := r.missedLocked(m), ""
	if req.flags&joinLast != 0 && !placed && uint64(missed) < req.seen {
		missedFrom := m.next
		m.next = r.queue.end()
		r.recallLocked(m, req.seen)
		m.recall.next = min(m.recall.next, missedFrom)
		among = ", among the last ones"
	}
	switch {
	case missed > 0 && m.presence.returned:
		r.notifyLocked(m, itemNotice, plural(missed, "message")+" while you were away"+among+":")
	case m.presence.person && !known:
		names := append(r.namesLocked(), m.name)
		slices.Sort(names)
		r.notifyLocked(m, itemNotice, whoLine(slices.Compact(names)))
	}
	w.seq = r.beforeLocked(m)
	m.read = w.seq
	if m.presence.person && (!v.person || !placed) {
		v.person, v.read = true, max(v.read, w.seq)
	}
	return gap
}

// placeOf returns the place that a client has kept, as the number of the last message that it has. placed is false if
// it has none in this room. gap means that it has one in another room, or one that the log does not reach any more, or
// did not reach after a power cut.
func (r *room) placeOf(req joinRequest) (seq uint64, placed, gap bool) {
	any := req.epoch == [8]byte{} // a number that somebody has typed
	switch {
	case req.flags&joinPlace == 0:
		return r.queue.said, false, false
	case req.epoch != r.epoch && !any, req.seen > r.queue.said && !any:
		return r.queue.said, false, true
	case r.skips(req.seen) && !any:
		return req.seen, true, true
	}
	return min(req.seen, r.queue.said), true, false
}

// rewindLocked moves m's place behind the message with number from, or as far back as the history reaches. Without back
// it only looks whether m has missed something. gap means that some of the missed messages are gone.
func (r *room) rewindLocked(m *member, from uint64, back bool) (gap bool) {
	if !back {
		return false
	}
	gap = r.queue.lost.since(from, m.stream) && !m.presence.stranger || m.visitor.lost > from
	oldest := r.oldestLocked()
	m.next = max(r.queue.after(from), r.queue.first)
	for ; m.next < r.queue.end(); m.next++ {
		it := r.queue.at(m.next)
		if it.seq > oldest || it.seq == oldest && !it.isMessage() {
			break
		}
		gap = gap || it.isMessage() && m.wants(it, m.next)
	}
	for n := m.next; !gap && n < r.queue.end(); n++ {
		gap = r.queue.at(n).enc == nil && m.wants(r.queue.at(n), n)
	}
	return gap
}

// oldestLocked returns the number before that of the first message that the history reaches.
func (r *room) oldestLocked() uint64 { return r.before(r.queue.said, uint64(r.history)) }

// missedLocked returns how many messages from before its presence m will receive.
func (r *room) missedLocked(m *member) (n int) {
	for at := m.next; at < r.queue.end(); at++ {
		if it := r.queue.at(at); it.isMessage() && it.enc != nil && m.wants(it, at) {
			n++
		}
	}
	return n
}

// beforeLocked returns the number before that of the first message that m will receive.
func (r *room) beforeLocked(m *member) uint64 {
	for at := m.recall.next; at < m.recall.end; at++ {
		if it := r.queue.at(at); m.recalls(it) {
			return it.seq - 1
		}
	}
	for at := m.next; at < r.queue.end(); at++ {
		if it := r.queue.at(at); it.isMessage() && it.enc != nil && m.wants(it, at) {
			return it.seq - 1
		}
	}
	return r.queue.said
}

// plural returns n and the noun, with an s if need be.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// wants reports whether m receives it, the item in place n.
func (m *member) wants(it *queueItem, n uint64) bool {
	if it.from == m.stream {
		return false
	}
	if n > m.presence.present {
		return it.to == nil || slices.Contains(it.to.streams, m.stream)
	}
	if it.to != nil { // it was sent to the key, whichever connections this had
		return it.to.visitor.fingerprint == m.peer.fingerprint
	}
	if !it.isMessage() {
		return m.presence.again
	}
	// A person who returns knows what the same key has typed at another terminal.
	own := it.from.person && it.from.owner.fingerprint == m.peer.fingerprint
	return !m.presence.returned || !m.presence.stranger && !own
}

// recalls reports whether it is a message that m may read again.
func (m *member) recalls(it *queueItem) bool {
	mine := it.to == nil || it.to.visitor.fingerprint == m.peer.fingerprint
	return it.isMessage() && it.enc != nil && mine && (m.operator || it.seq > m.visitor.since)
}

// recall sends m the last n messages that it may read, once more. A request is dropped while a notice waits for m: a
// client that keeps asking must not keep the room busy.
func (r *room) recall(m *member, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.visitor == nil && !m.operator || m.ending.reason != "" || len(m.notices) > 0 {
		return
	}
	found := r.recallLocked(m, n)
	words := "no messages to show"
	if found > 0 {
		words = "the last " + plural(found, "message") + ":"
	}
	r.notifyLocked(m, itemNotice, words)
}

// recallLocked makes m receive the last n messages before its place that it may read, as far as the history reaches,
// and returns their number. The messages from its place on follow in any case. If some of these came first, a client
// that loses its connection would have the last ones, and never receive those before them.
func (r *room) recallLocked(m *member, n uint64) (found int) {
	m.recall = places{m.next, m.next}
	oldest := r.oldestLocked()
	for at := m.next; at > r.queue.first && r.queue.at(at-1).seq > oldest && uint64(found) < n; at-- {
		if m.recalls(r.queue.at(at - 1)) {
			m.recall.next = at - 1
			found++
		}
	}
	return found
}

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

// settleLocked ends the waiting for the unread lines of st for which over returns true. With kept, their sender is
// notified that the lines are kept.
func (r *room) settleLocked(st *stream, over func(u unread) bool, kept bool) {
	to := st.settle(over)
	if len(to) == 0 {
		return
	}
	if len(st.unread) == 0 {
		delete(r.awaiting, st)
	}
	for m := range r.members {
		if m.stream != st {
			continue
		}
		for _, v := range to {
			if kept {
				const text = "%s has not read it yet; what you sent is kept for %s"
				r.notifyLocked(m, itemUndelivered, fmt.Sprintf(text, v.name, v.name))
			}
		}
		r.wakeLocked(m)
	}
}

// say records a member's lines and queues them for the others. Lines that the log has already, which were sent again
// after a lost connection, are dropped. After a nil error every line of l is recorded and acknowledged, with -sync once
// it is on disk. After errLog none is recorded, and the caller may try again.
func (r *room) say(m *member, l lines) error {
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

// kick ends the connections of a person.
func (r *room) kick(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, err := r.findLocked(name)
	if err != nil {
		return err
	}
	for _, m := range found {
		if m.operator {
			return errors.New("the operator stays; Ctrl-C closes the room")
		}
		r.endLocked(m, reasonRemoved)
	}
	return nil
}

// away returns how the visitors were admitted that have not been in the room since the start, by fingerprint: those
// whose admission has expired, or with all every one.
func (r *room) away(now time.Time, all bool) map[string]admission {
	r.mu.Lock()
	defer r.mu.Unlock()
	away := map[string]admission{}
	for print, v := range r.visitors.byKey {
		if v.here == 0 && v.peer == nil && (all || hasPassed(v.until, now)) {
			away[print] = admission{v.listed, v.until}
		}
	}
	return away
}

// due returns the clients whose admission has expired, or with all every client. A client that has to leave for another
// reason can take its time, so it is among them.
func (r *room) due(now time.Time, all bool) (due []*member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m := range r.members {
		if !m.operator && m.ending.reason != reasonNotAdmitted && (all || hasPassed(m.presence.expires, now)) {
			due = append(due, m)
		}
	}
	return due
}

// hasPassed reports whether an expiry, of which zero means never, has passed.
func hasPassed(expiry, now time.Time) bool { return !expiry.IsZero() && !now.Before(expiry) }

// visitorsDue returns, of the keys that were in the room, those whose admission has expired, or with all every key.
func (r *room) visitorsDue(now time.Time, all bool) (due []*peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.visitors.byKey {
		if v.peer != nil && v.here == 0 && (all || hasPassed(v.until, now)) {
			due = append(due, v.peer)
		}
	}
	return due
}

// renewVisitor sets when the admission of a key expires that was in the room, as p, or nil for before the start.
func (r *room) renewVisitor(fingerprint string, p *peer, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.visitors.byKey[fingerprint]; v != nil && v.peer == p {
		v.until = until
	}
}

// renew sets when a member's admission expires.
func (r *room) renew(m *member, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.presence.expires = until
	if m.visitor != nil && m.visitor.peer == m.peer {
		m.visitor.until = until
	}
}

// expel makes a member leave that is no longer admitted. Lines from now on are not for its key, even if the key is
// admitted again.
func (r *room) expel(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(m, reasonNotAdmitted)
	m.ending.reason = reasonNotAdmitted
	r.forgetLocked(m.visitor)
}

// forgetLocked makes what is said from now on not for the key of v, even if the key is admitted again.
func (r *room) forgetLocked(v *visitor) {
	if v != nil && r.visitors.byKey[v.fingerprint] == v {
		r.visitors.forget(v.fingerprint)
		r.log.record(recordOf(time.Now(), eventRevoked, nil, "fingerprint", v.fingerprint), r.appendMarks)
	}
}

// delivery is what room.write sends in one write, in the order of the fields. It comes from a pool while
// there is something to send, since most members are idle most of the time.
type delivery struct {
	missed  uint64   // items that were dropped before they could be delivered
	acked   uint64   // the last of the member's lines that is recorded; 0 if it was acknowledged before
	items   [][]byte // encoded
	limit   int      // bytes of items that are sent in one write
	ping    bool     // nothing was sent for pingInterval
	goodbye bool     // the last delivery
	reason  string   // of goodbye, or empty

	buf    []byte // memory for the receiver
	number [8]byte
}

var deliveries = sync.Pool{New: func() any { return new(delivery) }}

// free returns d to the pool, without what its slices point to.
func (d *delivery) free() {
	clear(d.items)
	if cap(d.buf) <= 4*takeBytes {
		*d = delivery{items: d.items[:0], buf: d.buf[:0]}
		deliveries.Put(d)
	}
}

// fit sets the limit of a delivery for which free bytes of deliveryBytes are left. It gives up memory that is too
// large.
func (d *delivery) fit(free int) {
	if cap(d.buf)+itemRef*cap(d.items) > max(free, leastTake) {
		d.buf, d.items = nil, nil
	}
	d.limit = min(takeBytes, max(leastTake, free/16))
}

// memory returns the bytes that d takes while it is sent. The items themselves are the queue's.
func (d *delivery) memory() int {
	size := 0
	for _, enc := range d.items {
		size += len(enc)
	}
	return max(cap(d.buf), min(size, d.limit)) + itemRef*cap(d.items)
}

// start begins deliveries to m. They end when m.written receives: nil after a goodbye or once reading has failed, or
// else the error of a delivery, after which reading ends too.
func (r *room) start(m *member) {
	m.writer.timer = time.AfterFunc(pingInterval, func() { // stopped by what ends the deliveries
		r.mu.Lock()
		defer r.mu.Unlock()
		switch w := &m.writer; {
		case w.wake != nil:
			w.retire = true
		case !w.running:
			w.pingDue = true
		}
		r.wakeLocked(m)
	})
	go r.write(m)
}

// A step is what room.next lets a writer do.
type step int

const (
	stepDeliver step = iota
	stepWait         // until its channel receives
	stepRetire       // its goroutine ends; wakeLocked starts another
	stepOver         // its goroutine ends for good
)

// write makes deliveries to m until there is nothing left to deliver.
func (r *room) write(m *member) {
	wake := make(chan struct{}, 1)
	for {
		next, err := r.writeNext(m, wake)
		switch {
		case err != nil:
			m.out.abort()
			fallthrough
		case next == stepOver:
			m.writer.timer.Stop()
			m.written <- err
			return
		case next == stepRetire:
			return
		case next == stepWait:
			<-wake
		}
	}
}

// writeNext makes one delivery, if there is something to deliver or a ping is due, and returns what to do next.
func (r *room) writeNext(m *member, wake chan struct{}) (step, error) {
	d := deliveries.Get().(*delivery)
	defer d.free()
	next := r.next(m, d, wake)
	if next != stepDeliver {
		return next, nil
	}
	if err := m.out.deliver(d); err != nil || d.goodbye {
		return stepOver, err
	}
	return stepDeliver, nil
}

// next fills d with what m has to receive. If there is nothing, the writer waits for wake or ends.
func (r *room) next(m *member, d *delivery, wake chan struct{}) step {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := errors.Is(m.readErr, errLeft)
	if m.readErr != nil && !left {
		return stepOver
	}
	r.countSendingLocked(m, 0)
	d.fit(deliveryBytes - r.sending)
	if !left { // otherwise only the last acknowledgement and the goodbye are sent
		d.items, d.missed = r.takeLocked(m, d.items, d.limit)
	}
	if n := m.stream.acknowledged(); n > m.acked {
		m.acked, d.acked = n, n
	}
	if len(d.items) == 0 && (left || m.doneLocked(r)) {
		d.goodbye, d.reason = true, m.ending.reason
	}
	ok := len(d.items) > 0 || d.acked > 0 || d.missed > 0 || d.goodbye
	w := &m.writer
	d.ping = !ok && w.pingDue
	if !ok && !d.ping {
		return r.restLocked(w, wake)
	}
	w.pingDue, w.retire = false, false
	r.countSendingLocked(m, d.memory())
	return stepDeliver
}

// restLocked lets a writer that has nothing to deliver wait or end.
func (r *room) restLocked(w *writer, wake chan struct{}) step {
	switch {
	case w.retire:
		w.timer.Reset(pingInterval - linger)
	case time.Since(r.spoken) >= linger:
		w.timer.Reset(pingInterval)
	default:
		w.timer.Reset(linger)
		w.wake = wake
		return stepWait
	}
	w.running, w.retire = false, false
	return stepRetire
}

// doneLocked reports whether a member that has to leave has been delivered and acknowledged everything.
func (m *member) doneLocked(r *room) bool {
	delivered := !m.listens || m.next >= min(r.queue.end(), m.ending.until)
	return m.ending.reason != "" && delivered && m.stream.acknowledged() == m.stream.last
}

// countSendingLocked counts n bytes of memory for the delivery that m's goroutine sends, in place of the one before.
func (r *room) countSendingLocked(m *member, n int) {
	r.sending += n - m.writer.sending
	m.writer.sending = n
}

// takeLocked appends m's notices and the items from m's place on to into, about limit bytes at most, and moves the
// place. missed counts items that were dropped before.
func (r *room) takeLocked(m *member, into [][]byte, limit int) (items [][]byte, missed uint64) {
	into = append(into, m.notices...)
	m.notices = nil
	end := r.queue.end()
	if m.ending.reason != "" {
		end = min(end, m.ending.until)
	}
	if !m.listens {
		m.next = end
		return into, 0
	}
	n := 0
	for m.recall.next = max(m.recall.next, r.queue.first); m.recall.next < m.recall.end && n < limit; m.recall.next++ {
		if it := r.queue.at(m.recall.next); m.recalls(it) {
			into = append(into, it.enc)
			n += len(it.enc) + itemRef
		}
	}
	if m.next < r.queue.first {
		missed = r.queue.first - m.next
		m.next = r.queue.first
	}
	for ; m.next < end && n < limit; m.next++ {
		it := r.queue.at(m.next)
		if it.enc != nil && m.wants(it, m.next) {
			into = append(into, it.enc)
			n += len(it.enc) + itemRef
		}
	}
	return into, missed
}

// wakeLocked lets m's goroutine make deliveries, and starts one if none runs.
func (r *room) wakeLocked(m *member) {
	switch w := &m.writer; {
	case !w.running:
		w.running = true
		go r.write(m)
	case w.wake != nil:
		w.wake <- struct{}{} // of capacity 1, and empty
		w.wake = nil
	}
}

// wakeAllLocked wakes all members that listen, and disconnects slow consumers: members whose place is before the
// queue's first item.
func (r *room) wakeAllLocked() {
	for m := range r.members {
		if !m.listens {
			continue
		}
		if m.next < r.queue.first && !m.operator && m.ending.reason == "" && m.readErr == nil {
			m.ending.reason = reasonSlow
			m.out.abort()
		}
		r.wakeLocked(m)
	}
}

// endLocked makes m leave: its goroutine delivers the items that are queued by now, then sends a goodbye.
func (r *room) endLocked(m *member, reason string) {
	if m.ending.reason == "" {
		m.ending = ending{reason, r.queue.end()}
	}
	r.settleLocked(m.stream, func(unread) bool { return true }, true)
	r.wakeLocked(m)
}

// readOver reports that err ended reading from m. After errLeft the last acknowledgement and the goodbye
// are still sent, after another error nothing more.
func (r *room) readOver(m *member, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.readErr = err
	r.wakeLocked(m)
}

// leave removes m from the room and queues an item about that for all. For a member that had to leave, the room's
// reason counts and not the argument.
func (r *room) leave(m *member, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, here := r.members[m]; !here {
		return
	}
	delete(r.members, m)
	r.whoText = ""
	r.countSendingLocked(m, 0)
	if m.ending.reason != "" {
		reason = m.ending.reason
	}
	r.streams.leave(m.stream, reason == errLeft.Error())
	r.partLocked(m)
	shown := reason
	if reason == errLeft.Error() {
		shown = "" // the item's kind shows that already
	}
	now := time.Now()
	r.queue.add(nil, item{time: now, what: itemLeave, name: m.name, text: []byte(shown)}, m.stream, nil)
	r.wakeAllLocked()
	who := m.fields
	if m.visitor != nil && m.presence.person {
		who = slices.Concat(who, m.visitor.readField())
	}
	r.log.record(recordOf(now, eventDisconnect, who, "reason", reason), r.appendMarks)
}

// partLocked notes how far m's person has come, and that direct lines to m, and the acknowledgements of m's own, wait
// for m no longer.
func (r *room) partLocked(m *member) {
	if m.stream.here == 0 {
		r.settleLocked(m.stream, func(unread) bool { return true }, false)
	}
	v := m.visitor
	if v == nil {
		return
	}
	if m.presence.person {
		r.visitors.reads(v, r.shownLocked(m))
		r.visitors.wasLogged(v)
	}
	v.here--
	r.visitors.touch(v)
	if v.here > 0 {
		return
	}
	for st := range r.awaiting {
		r.settleLocked(st, func(u unread) bool { return u.to == v }, true)
	}
}

// revoke notes that a key that is away is no longer admitted: what is said from now on is not for it, even if it is
// admitted again.
func (r *room) revoke(fingerprint string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.visitors.byKey[fingerprint]; v != nil && v.here == 0 {
		r.forgetLocked(v)
	}
}

// close rejects further members and makes all members leave.
func (r *room) close(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	for m := range r.members {
		r.endLocked(m, reason)
	}
}

// names lists the names of all members, each once, as findLocked finds them: if two keys have names that look alike,
// both are listed with ~XXXXXXXX.
func (r *room) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.namesLocked()
}

func (r *room) namesLocked() []string {
	holder := map[string]string{} // by folded name, the fingerprint of a key
	shared := map[string]bool{}   // folded names of several keys
	for m := range r.members {
		name := foldName(m.peer.name)
		other, known := holder[name]
		shared[name] = shared[name] || known && other != m.peer.fingerprint
		holder[name] = m.peer.fingerprint
	}
	var names []string
	for m := range r.members {
		name := m.name
		if shared[foldName(m.peer.name)] {
			name = m.peer.name + "~" + m.peer.suffix
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// who sends m the list of the members, unless a notice waits for m: the list of a large room is long. A member that has
// to leave gets none: its goodbye comes after all notices, so a client that kept asking would stay.
func (r *room) who(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.ending.reason != "" || len(m.notices) > 0 {
		return
	}
	if r.whoText == "" {
		r.whoText = whoLine(r.namesLocked())
	}
	r.notifyLocked(m, itemNotice, r.whoText)
}

// isEnding reports whether m has to leave.
func (r *room) isEnding(m *member) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return m.ending.reason != ""
}

func whoLine(names []string) string {
	return fmt.Sprintf("%d here: %s", len(names), strings.Join(names, ", "))
}

// notify sends m a notice.
func (r *room) notify(m *member, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notifyLocked(m, itemNotice, text)
}

// notifyLocked queues an item for m alone, or drops it if maxNotices wait.
func (r *room) notifyLocked(m *member, what byte, text string) {
	if len(m.notices) < maxNotices {
		it := item{time: time.Now(), what: what, text: []byte(text[:min(len(text), maxLine)])}
		m.notices = append(m.notices, it.append(nil))
	}
	r.wakeLocked(m)
}

// mute makes m receive no further items.
func (r *room) mute(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.listens = false
}

// record writes a record that is not a message to the log.
func (r *room) record(add func(b []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.record(add, r.appendMarks)
}

// recordStart writes the first record of this start of the server, with the marks of the streams.
func (r *room) recordStart(add func(b []byte) []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.write(add, r.appendMarks)
}

// reopen continues in a new file after a rotation. No record is lost or written twice.
func (r *room) reopen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if moved, err := r.log.reopen(); err != nil || !moved {
		return err
	}
	r.log.record(recordOf(time.Now(), eventRotate, r.memory.fields(), "", ""), r.appendMarks)
	return nil
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

// began returns the fields of the record of a start, by which a log without earlier records has an epoch.
func (r *room) began() peerFields {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.memory.fields()
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
