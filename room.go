package main

// The room: what its members say, in one order that the log and all receivers share. A line is in the log before it is
// in the queue, and its sender is told so only then.
//
// One lock, room.mu, guards all of it. The log's own lock is taken under it, and the log is written under both, so
// that the log's order is the room's.

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	takeBytes  = 64 << 10 // of items that one delivery holds, unless one item is longer
	maxNotices = 16       // that wait for one member
	maxMet     = 64 << 10 // keys whose first visit is remembered; later ones get no history
	maxLeft    = 4 << 10  // people whose place is remembered after they left
)

// room is shared by all goroutines of a server.
type room struct {
	log     *connLog
	epoch   [8]byte
	history int           // items at most that a member gets of what it missed (-history)
	flush   chan struct{} // of capacity 1, wakes flushLog; nil without -sync

	mu      sync.Mutex
	queue   queue
	members map[*member]struct{}
	streams streams
	visits  visits
	pending []*stream // with lines in the log that are not on disk yet (-sync)
	closing bool
}

// visits is what the room remembers of keys that are not in it.
type visits struct {
	met  map[string]uint64 // by fingerprint, the last item before the key first came; maxMet at most
	left map[string]uint64 // by fingerprint of a person, the last item delivered; maxLeft at most
}

// receiver is where a member's deliveries go: a client's connection, or the operator's console. One goroutine uses it.
type receiver interface {
	// deliver sends d. After an error or d.goodbye it is not called again.
	deliver(d *delivery) error
	// abort makes a deliver that is stuck return, and ends reading. Any goroutine may call it.
	abort()
}

// member is one presence in the room: a client's connection, or the operator's console. A goroutine of its own, in
// room.write, delivers what there is for it and waits while there is nothing.
type member struct {
	peer     *peer
	out      receiver
	operator bool // the console, which cannot be removed
	log      peerFields
	wake     chan struct{} // of capacity 1: something may be there to deliver

	// The room's lock guards the rest.
	name     string  // as the others see it: with ~XXXXXXXX where two keys bear one name
	stream   *stream // what the log has of its lines
	listens  bool    // it receives what is said
	presence presence
	next     uint64   // number of the next item to deliver
	acked    uint64   // the last of its lines that was acknowledged to it
	notices  [][]byte // encoded items for it alone, maxNotices at most
	waiting  bool     // its goroutine waits for wake
	spoke    bool     // it has said something on this connection
	readErr  error    // what ended reading from it; nil while reading goes on
	ending   ending
}

// presence is how a member's presence began.
type presence struct {
	present  uint64    // the last item before it joined
	person   bool      // somebody at a terminal
	returned bool      // a person that was here before: it receives what was said meanwhile
	expires  time.Time // when its admission does; zero for never
}

// ending is why a member has to leave. The zero value means that it stays.
type ending struct {
	reason string
	until  uint64 // it receives the items before this one
}

// errEnding is returned for lines of a member that has to leave.
var errEnding = errors.New("the server has ended this session")

// Reasons for which a member has to leave.
const (
	reasonNotAdmitted = "the key is no longer admitted" // revoked, or its line or certificate has expired or was removed
	reasonRemoved     = "removed by the operator"
)

// reasonSlow is the reason of a member whose place in the queue is gone.
var reasonSlow = fmt.Sprintf("slow consumer: it left more than %d MiB unread", queueBytes>>20)

// newRoom makes a room that goes on where the end of the log ends. With sync lines are acknowledged once they are on
// disk, and flushLog must run.
func newRoom(log *connLog, history int, sync bool) (*room, error) {
	r := &room{
		log: log, history: history, members: map[*member]struct{}{}, queue: queue{first: 1}, streams: newStreams(),
		visits: visits{met: map[string]uint64{}, left: map[string]uint64{}},
	}
	rand.Read(r.epoch[:])
	if sync {
		r.flush = make(chan struct{}, 1)
	}
	return r, log.replay(r.streams.replay)
}

// newMember makes a member that is not in the room yet.
func newMember(p *peer, out receiver) *member {
	return &member{peer: p, out: out, name: p.name, wake: make(chan struct{}, 1)}
}

// join makes m a member and says so to all. It returns the client's welcome, or an error if the log cannot be written
// or the server is stopping. An older connection of the same stream is ended, since its client uses this one.
func (r *room) join(m *member, req joinRequest, listens bool) (welcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return welcome{}, errors.New("the server is stopping")
	}
	m.name = r.nameLocked(m.peer)
	for other := range r.members {
		if !other.operator && other.peer.fingerprint == m.peer.fingerprint && other.peer.stream == m.peer.stream {
			r.endLocked(other, "replaced by a newer connection")
		}
	}
	m.log = newPeerFields(m.peer.addr, m.name, m.peer.fingerprint, m.peer.stream.String(), m.peer.digest)
	now := time.Now()
	record := func(b []byte) []byte { return appendRecord(b, now, eventConnect, m.log, "by", m.peer.admittedBy) }
	if err := r.log.write(record, r.streams.appendMarks); err != nil {
		return welcome{}, err
	}
	r.enterLocked(m, listens)
	r.queue.add(nil, item{time: now, what: itemJoin, name: m.name}, m.stream, nil)
	m.next = r.queue.end()
	m.presence = presence{present: m.next - 1, person: req.flags&joinPerson != 0, expires: m.peer.until}
	w := welcome{epoch: r.epoch, present: m.presence.present, recorded: m.acked, name: m.name}
	if r.rewindLocked(m, req) {
		w.flags |= welcomeGap
	}
	w.seq = m.next - 1
	r.wakeLocked()
	return w, nil
}

// enterOperator makes the operator's console a member, without a word to the others.
func (r *room) enterOperator(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.operator = true
	m.log = newPeerFields(m.peer.addr, m.name, m.peer.fingerprint, m.peer.stream.String(), nil)
	r.enterLocked(m, true)
	m.next = r.queue.end()
	if r.closing {
		r.endLocked(m, "the server is stopping")
	}
}

func (r *room) enterLocked(m *member, listens bool) {
	m.stream = r.streams.join(m.peer.fingerprint, m.peer.stream)
	m.stream.here++
	m.listens, m.acked = listens, m.stream.durable
	r.members[m] = struct{}{}
}

// nameLocked returns what a peer is called in the room. Two keys with names that look alike are told apart by
// ~XXXXXXXX; the connections of one key have one name.
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

// rewindLocked moves m's place back to what it missed, as far as the history reaches: to the item behind seen for a
// connection that was cut off, to where it left for a person. gap means that some of it is gone.
func (r *room) rewindLocked(m *member, req joinRequest) (gap bool) {
	if !m.listens {
		return false
	}
	key := m.peer.fingerprint
	left, returned := r.visits.left[key]
	from := m.next
	switch {
	case req.epoch == r.epoch && 0 < req.seen && req.seen < m.presence.present:
		from = req.seen + 1
	case m.presence.person && returned:
		from, m.presence.returned = min(left+1, from), true
	}
	if m.presence.person {
		delete(r.visits.left, key)
	}
	// What was said before this key first came is not for it, whatever it claims to have seen.
	from = max(from, r.firstMetLocked(m)+1)
	oldest := max(r.queue.first, m.presence.present-min(m.presence.present, uint64(r.history)))
	gap = from < r.queue.first
	for ; !gap && from < oldest; from++ {
		gap = m.wants(r.queue.at(from), from) // it did not miss what was not for it
	}
	m.next = max(from, oldest)
	missed := 0
	for n := m.next; n <= m.presence.present; n++ {
		if m.wants(r.queue.at(n), n) {
			missed++
		}
	}
	if missed > 0 && m.presence.returned {
		m.notifyLocked(itemNotice, fmt.Sprintf("%d said while you were away:", missed))
	}
	return gap
}

// firstMetLocked returns the last item before m's key first came, and remembers it.
func (r *room) firstMetLocked(m *member) uint64 {
	met, known := r.visits.met[m.peer.fingerprint]
	if known {
		return met
	}
	if len(r.visits.met) < maxMet {
		r.visits.met[m.peer.fingerprint] = m.presence.present
	}
	return m.presence.present
}

// wants reports whether m receives item n, which is it.
func (m *member) wants(it *queueItem, n uint64) bool {
	missed := m.presence.returned && n <= m.presence.present
	switch {
	case it.from == m.stream:
		return false
	case missed && (it.what == itemJoin || it.what == itemLeave):
		return false
	case it.to != nil && it.to != m.stream:
		return missed && it.to.fingerprint == m.peer.fingerprint // sent to an earlier connection of the same person
	}
	return true
}

// say records a member's lines and hands them to the others. Lines that the log has already, sent again after a lost
// connection, are passed over. After a nil error every line of l is recorded and acknowledged, with -sync once it is on
// disk. After errLog none is recorded, and they can be said again.
func (r *room) say(m *member, l lines) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.ending.reason != "" {
		return errEnding
	}
	last := m.stream.last
	if m.operator {
		l.first = last + 1 // the console says each line once, and goes on after a sync that failed
	}
	if last == 0 || !m.spoke && l.first > last+1 {
		// A stream that the server has forgotten goes on where it is, and so does one whose acknowledged lines a power
		// cut took from the log: refusing the lines that are left would lose them too. The numbers in the log show the
		// gap.
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
		m.wakeLocked()
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
	name, who := m.name, m.log
	if l.from != "" {
		name, who = l.from, peerFields(appendField(slices.Clip([]byte(who)), "from", l.from))
	}
	records := func(b []byte) []byte { return appendMessages(b, now, who, l, r.log.digests) }
	if err := r.log.write(records, r.streams.appendMarks); err != nil {
		return err
	}
	targets := []*stream{nil}
	if l.what == itemDirect {
		var err error
		if targets, err = r.targetsLocked(m, l.to); err != nil {
			m.notifyLocked(itemUndelivered, err.Error()+"; what you sent is in the log only")
		}
	}
	size := 0
	for _, text := range l.texts {
		size += len(text) + len(name) + itemOverhead
	}
	enc := r.queue.space(size * len(targets))
	for _, text := range l.texts {
		for _, to := range targets {
			enc = r.queue.add(enc, item{time: now, what: l.what, name: name, text: text}, m.stream, to)
		}
	}
	r.wakeLocked()
	return nil
}

// targetsLocked returns the streams that receive a direct message from m to name.
func (r *room) targetsLocked(m *member, name string) ([]*stream, error) {
	found, err := r.findLocked(name)
	if err != nil {
		return nil, err
	}
	var targets []*stream
	for _, to := range found {
		if to.listens && to.stream != m.stream {
			targets = append(targets, to.stream)
		}
	}
	if len(targets) == 0 {
		return nil, fmt.Errorf("%s does not listen", name)
	}
	return targets, nil
}

// findLocked returns the members that name means: the connections of one key. A name that two keys bear, or names that
// look alike, mean neither key; each is meant by its name~suffix. A name never means another one that only looks like
// it.
func (r *room) findLocked(name string) ([]*member, error) {
	var found []*member
	alike := map[string]string{} // by fingerprint, the name~suffix
	for m := range r.members {
		full := m.peer.name + "~" + m.peer.suffix
		if name == full || foldName(name) == foldName(m.peer.name) {
			alike[m.peer.fingerprint] = full
		}
		if name == full || strings.EqualFold(name, m.peer.name) {
			found = append(found, m)
		}
	}
	choice := slices.Sorted(maps.Values(alike))
	switch {
	case len(choice) > 1:
		return nil, fmt.Errorf("%s is ambiguous: say which, %s", name, strings.Join(choice, " or "))
	case len(found) > 0:
		return found, nil
	case len(choice) == 1:
		return nil, fmt.Errorf("nobody here is called %s; %s is here", name, choice[0])
	}
	return nil, fmt.Errorf("nobody here is called %s", name)
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

// due returns the clients whose admission has expired, or all.
func (r *room) due(now time.Time, all bool) (due []*member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for m := range r.members {
		expired := !m.presence.expires.IsZero() && !now.Before(m.presence.expires)
		if !m.operator && m.ending.reason == "" && (all || expired) {
			due = append(due, m)
		}
	}
	return due
}

// renew records until when a member is admitted now.
func (r *room) renew(m *member, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.presence.expires = until
}

// expel ends a member that is no longer admitted. What is said from now on is not for its key, also if it is admitted
// again.
func (r *room) expel(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(m, reasonNotAdmitted)
}

// delivery is what a member's goroutine sends at a time, in this order. It is borrowed while there is something to
// send, since most members receive nothing most of the time.
type delivery struct {
	missed  uint64   // items that were dropped before they could be delivered
	acked   uint64   // every line of the member up to this number is recorded; 0 if that is known already
	items   [][]byte // encoded
	ping    bool     // nothing was sent for pingInterval
	goodbye bool     // the last delivery
	reason  string   // of goodbye, or empty

	buf    []byte // memory for the receiver
	number [8]byte
}

var deliveries = sync.Pool{New: func() any { return new(delivery) }}

// free gives d back, without keeping what its slices point to.
func (d *delivery) free() {
	clear(d.items)
	if cap(d.buf) <= 4*takeBytes {
		*d = delivery{items: d.items[:0], buf: d.buf[:0]}
		deliveries.Put(d)
	}
}

// write delivers to m until it has left: it returns after a goodbye, after an error of deliver, or when reading from m
// has ended. One goroutine calls it, once.
func (r *room) write(m *member) error {
	ping := time.NewTimer(pingInterval)
	defer ping.Stop()
	for due := false; ; {
		wrote, end, err := r.writeNext(m, due)
		if end || err != nil {
			return err
		}
		due = false
		if wrote {
			ping.Reset(pingInterval)
			continue
		}
		select {
		case <-m.wake:
		case <-ping.C:
			due = true
		}
	}
}

// writeNext makes one delivery, if there is one or a ping is due. end means that there is none any more.
func (r *room) writeNext(m *member, pingDue bool) (wrote, end bool, err error) {
	d := deliveries.Get().(*delivery)
	defer d.free()
	ok, over := r.next(m, d)
	if over || !ok && !pingDue {
		return false, over, nil
	}
	d.ping = !ok
	err = m.out.deliver(d)
	return true, d.goodbye, err
}

// next fills d with what there is for m. ok is false if that is nothing: m waits for wake. over means that m's
// goroutine has to end without a delivery.
func (r *room) next(m *member, d *delivery) (ok, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := errors.Is(m.readErr, errLeft)
	if m.readErr != nil && !left {
		return false, true
	}
	if !left { // else only the last acknowledgement and the goodbye go out
		d.items, d.missed = r.takeLocked(m, d.items)
	}
	if m.stream.durable > m.acked {
		m.acked = m.stream.durable
		d.acked = m.acked
	}
	if len(d.items) == 0 && (left || m.doneLocked(r)) {
		d.goodbye, d.reason = true, m.ending.reason
	}
	ok = len(d.items) > 0 || d.acked > 0 || d.missed > 0 || d.goodbye
	m.waiting = !ok
	return ok, false
}

// doneLocked reports whether a member that has to leave has been delivered and acknowledged everything.
func (m *member) doneLocked(r *room) bool {
	delivered := !m.listens || m.next >= min(r.queue.end(), m.ending.until)
	return m.ending.reason != "" && delivered && m.stream.durable == m.stream.last
}

// takeLocked appends m's notices and the items from m's place on to into, takeBytes at most, and moves the place.
// missed counts items that were dropped before.
func (r *room) takeLocked(m *member, into [][]byte) (items [][]byte, missed uint64) {
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
	if m.next < r.queue.first {
		missed = r.queue.first - m.next
		m.next = r.queue.first
	}
	for n := 0; m.next < end && n < takeBytes; m.next++ {
		it := r.queue.at(m.next)
		if m.wants(it, m.next) {
			into = append(into, it.enc)
			n += len(it.enc)
		}
	}
	return into, missed
}

// wakeLocked wakes m's goroutine if it waits.
func (m *member) wakeLocked() {
	if m.waiting {
		m.waiting = false
		wake(m.wake)
	}
}

// wakeLocked wakes all who listen, and drops the slow consumers that the queue's front has passed.
func (r *room) wakeLocked() {
	for m := range r.members {
		if !m.listens {
			continue
		}
		if m.next < r.queue.first && !m.operator && m.ending.reason == "" && m.readErr == nil {
			m.ending.reason = reasonSlow
			m.out.abort()
		}
		m.wakeLocked()
	}
}

// endLocked makes m leave: its goroutine delivers what there was by now and says goodbye.
func (r *room) endLocked(m *member, reason string) {
	if m.ending.reason == "" {
		m.ending = ending{reason, r.queue.end()}
	}
	m.wakeLocked()
}

// readOver reports that err ended reading from m. After errLeft m's goroutine still sends the last acknowledgement and
// the goodbye, after another error nothing more.
func (r *room) readOver(m *member, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.readErr = err
	m.wakeLocked()
}

// leave ends m's presence and says so to all. The reason of a member that had to leave is the room's own.
func (r *room) leave(m *member, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, here := r.members[m]; !here {
		return
	}
	delete(r.members, m)
	m.stream.here--
	if m.ending.reason != "" {
		reason = m.ending.reason
	}
	switch {
	case reason == reasonNotAdmitted:
		r.visits.forget(m)
	case m.presence.person && m.listens:
		r.visits.leave(m)
	}
	shown := reason
	if reason == errLeft.Error() {
		shown = "" // the item's kind says as much
	}
	now := time.Now()
	r.queue.add(nil, item{time: now, what: itemLeave, name: m.name, text: []byte(shown)}, m.stream, nil)
	r.wakeLocked()
	record := func(b []byte) []byte { return appendRecord(b, now, eventDisconnect, m.log, "reason", reason) }
	r.log.record(record, r.streams.appendMarks)
	if reason == errLeft.Error() {
		r.streams.forget(m.peer.fingerprint, m.peer.stream)
	}
}

// leave remembers how far a person got. When there is no place, the person away longest is forgotten.
func (v *visits) leave(m *member) {
	key := m.peer.fingerprint
	if _, known := v.left[key]; !known && len(v.left) >= maxLeft {
		longest := ""
		for who, at := range v.left {
			if longest == "" || at < v.left[longest] {
				longest = who
			}
		}
		delete(v.left, longest)
	}
	v.left[key] = m.next - 1
}

// forget makes m's key one that has never been here.
func (v *visits) forget(m *member) {
	delete(v.met, m.peer.fingerprint)
	delete(v.left, m.peer.fingerprint)
}

// close admits no member any more and makes all leave.
func (r *room) close(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	for m := range r.members {
		r.endLocked(m, reason)
	}
}

// names lists the names of all members, each once.
func (r *room) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.namesLocked()
}

func (r *room) namesLocked() []string {
	var names []string
	for m := range r.members {
		names = append(names, m.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// who sends m the list of who is here, unless m leaves its notices unread.
func (r *room) who(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(m.notices) < maxNotices {
		m.notifyLocked(itemNotice, whoLine(r.namesLocked()))
	}
}

func whoLine(names []string) string {
	return fmt.Sprintf("%d here: %s", len(names), strings.Join(names, ", "))
}

// notify sends m a notice.
func (r *room) notify(m *member, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.notifyLocked(itemNotice, text)
}

// notifyLocked leaves an item for m alone. A member that does not read has maxNotices of them at most.
func (m *member) notifyLocked(what byte, text string) {
	if len(m.notices) < maxNotices {
		it := item{time: time.Now(), what: what, text: []byte(text[:min(len(text), maxLine)])}
		m.notices = append(m.notices, it.append(nil))
	}
	m.wakeLocked()
}

// mute makes the room keep nothing for m any more.
func (r *room) mute(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.listens = false
}

// record puts a record that is no message into the log.
func (r *room) record(add func(b []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.record(add, r.streams.appendMarks)
}

// reopen goes on in a new log after a rotation. No record is lost or written twice.
func (r *room) reopen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if moved, err := r.log.reopen(); err != nil || !moved {
		return err
	}
	now := time.Now()
	r.log.record(func(b []byte) []byte { return appendRecord(b, now, eventRotate, nil, "", "") }, r.streams.appendMarks)
	return nil
}

// flushLog acknowledges lines once they are on disk (-sync): all that wait, with one sync. It returns when r.flush is
// closed.
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
		if m.stream.durable > m.acked {
			m.wakeLocked()
		}
	}
}

// lostLines takes back what was recorded since the last sync, after a sync has failed. The clients concerned have to
// leave; they send the lines again when they reconnect. The operator is asked to say its lines again.
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
			m.notifyLocked(itemUndelivered, "the log has lost the last you said, though the room has heard it; say it again")
		default:
			r.endLocked(m, errLog.Error())
		}
	}
}
