package main

// The room: what was said, in one order that the log and all receivers share (DESIGN sections 6 and 8).
//
// There is one queue for everybody, not one a client: a bounded run of encoded items, in which each member has a place. A
// member that has fallen off its tail is a slow consumer and is dropped; nobody waits for it, and it costs nobody memory.

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	roomBytes      = 8 << 20  // of encoded items that the room holds for members that lag
	slabBytes      = 16 << 10 // that items are encoded in
	takeBytes      = 64 << 10 // of items that a member's writer takes at a time
	maxStreams     = 256      // of one identity that are remembered
	maxNotices     = 16       // that wait for one member
	maxStreamMarks = 4096     // streams that the log is reminded of
	maxMet         = 64 << 10 // identities that may get history; who comes after them gets none
	maxLeft        = 4 << 10  // people whose place is remembered after they left
)

// room is shared by all goroutines of a server.
type room struct {
	log   *connLog
	epoch [8]byte

	mu      sync.Mutex
	items   []roomItem // items[i] has the number first+i
	space   []roomItem // all of the array that items are a part of
	first   uint64
	bytes   int    // of items
	slab    []byte // free, for the next of them
	members map[*member]struct{}
	streams map[string][]*stream // by fingerprint, the latest used last
	history int                  // items at most that a client gets of what it missed (-history)
	met     map[string]uint64    // by fingerprint, the last item before it first came; maxMet at most
	left    map[string]uint64    // by fingerprint of a person, the last item it was sent; maxLeft at most
	used    uint64               // counts uses of streams
	pending []*stream            // that have lines in the log, and not yet on disk (-sync)
	flush   chan struct{}        // of capacity 1, wakes flushing; nil without -sync
	closing bool

	ready    []*member // whose writers start is to start
	starting bool      // it runs
}

type roomItem struct {
	enc      []byte
	what     byte
	from, to *stream // to: the one stream that gets it, or nil for all but from
}

// member is one presence in the room: a client's connection, or the operator's own console.
type member struct {
	name, fingerprint, addr string
	base, suffix            string        // the name without a suffix; what tells two keys with one name apart
	by                      string        // what admitted it
	key                     ssh.PublicKey // of somebody refused because nobody has listed it
	stream                  streamID
	listens                 bool
	digest                  []byte // SHA-512 of the session key
	log                     logPerson
	conn                    net.Conn      // closed to end it; nil for the console
	wake                    chan struct{} // the console's, of capacity 1: something is there to take

	// A client's writer runs only while there is something to write; poke starts it.
	write    func()         // it; nil for the console
	writer   sync.WaitGroup // of the one that runs
	writeErr error          // what ended it for good
	silence  *time.Timer    // fires pingInterval after the last write

	// Under room.mu.
	writing bool   // the writer runs, or has ended for good
	silent  bool   // silence has fired
	acked   uint64 // the last of its lines that is acknowledged to it
	readErr error  // what ended reading it; nil while that goes on

	present  uint64   // the last item before it came
	person   bool     // somebody at a terminal
	spoke    bool     // it has said something on this connection
	returned bool     // a person that was here before: of what it missed it gets what was said
	next     uint64   // number of the next item to take
	recorded *stream  // what the log has of its lines
	notices  [][]byte // encoded items for it alone, maxNotices at most
	ending   string   // why it is to leave; "" while it stays
	until    uint64   // what it gets ends before this item, once it is to leave
}

func newRoom(log *connLog) *room {
	r := &room{log: log, first: 1, members: map[*member]struct{}{}, streams: map[string][]*stream{}, met: map[string]uint64{}, left: map[string]uint64{}}
	rand.Read(r.epoch[:])
	return r
}

// join makes m a member from the present on and says so to all. It returns the client's welcome, or an error where the log
// cannot be written or the server is stopping. An older connection of the same stream is ended: its client is here now.
func (r *room) join(m *member, req joinRequest) (welcome, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return welcome{}, errors.New("the server is stopping")
	}
	named := "" // what this key is called here already
	for other := range r.members {
		if other.fingerprint != m.fingerprint {
			if foldName(other.base) == foldName(m.base) {
				m.name = m.base + "~" + m.suffix
			}
			continue
		}
		if other.base == m.base {
			named = other.name
		}
		if other.conn != nil && other.stream == m.stream {
			r.endLocked(other, "replaced by a newer connection")
		}
	}
	if named != "" {
		m.name = named
	}
	m.log = newLogPerson(m.addr, m.name, m.fingerprint, m.stream.String(), m.digest)
	now := time.Now()
	if err := r.log.write(func(b []byte) []byte { return appendRecord(b, now, eventConnect, m.log, "by", m.by) }, r.marksLocked); err != nil {
		return welcome{}, err
	}
	m.recorded = r.streamLocked(m.fingerprint, m.stream)
	m.recorded.here++
	r.addLocked(nil, item{time: now, what: itemJoin, name: m.name}, m.recorded, nil)
	m.next = r.first + uint64(len(r.items))
	m.present, m.person = m.next-1, req.flags&joinPerson != 0
	gap := r.rewindLocked(m, req)
	r.members[m] = struct{}{}
	m.acked = m.recorded.durable
	w := welcome{epoch: r.epoch, seq: m.next - 1, present: m.present, recorded: m.acked, name: m.name}
	if gap {
		w.flags |= welcomeGap
	}
	r.wakeLocked()
	return w, nil
}

// rewindLocked takes m's place back to what it missed, as far as the history reaches: since seen where it was cut off, since
// it left where it is a person. gap says that some of it is gone.
func (r *room) rewindLocked(m *member, req joinRequest) (gap bool) {
	left, returned := r.left[m.fingerprint]
	from := m.next
	switch {
	case !m.listens:
		return false
	case req.epoch == r.epoch && 0 < req.seen && req.seen < m.present:
		from = req.seen + 1
	case m.person && returned:
		from, m.returned = min(left+1, from), true
	}
	if m.person {
		delete(r.left, m.fingerprint)
	}
	// What was said before this identity first came is not for it, whatever it claims to have seen.
	met, known := r.met[m.fingerprint]
	if !known {
		if met = m.present; len(r.met) < maxMet {
			r.met[m.fingerprint] = met
		}
	}
	from = max(from, met+1)
	oldest := max(r.first, m.present-min(m.present, uint64(r.history)))
	for gap = from < r.first; !gap && from < oldest; from++ {
		gap = m.wants(&r.items[from-r.first], from) // what was not for it anyhow it did not miss
	}
	m.next = max(from, oldest)
	missed := 0
	for n := m.next; n <= m.present; n++ {
		if m.wants(&r.items[n-r.first], n) {
			missed++
		}
	}
	if missed > 0 && m.returned {
		m.tell(itemNotice, fmt.Sprintf("%d said while you were away:", missed))
	}
	return gap
}

// wants says whether m gets the item it, which has the number seq.
func (m *member) wants(it *roomItem, seq uint64) bool {
	missed := m.returned && seq <= m.present
	switch {
	case it.from == m.recorded:
		return false
	case missed && (it.what == itemJoin || it.what == itemLeave):
		return false
	case it.to != nil && it.to != m.recorded:
		return missed && it.to.fingerprint == m.fingerprint // it was for the same person at a connection before this one
	}
	return true
}

// stream is what the room remembers of a client process's lines. Its address stands for the identity and the id: others may
// choose the same id.
type stream struct {
	fingerprint string
	id          streamID
	last        uint64 // number of the last line recorded,
	durable     uint64 // and of the last to acknowledge
	used        uint64 // when it was last joined with, by room.used
	here        int    // connections of it
}

// streamLocked returns an identity's stream. Each identity has maxStreams of them, the latest used and those in the room;
// nobody can make the room forget another's, or speak in it.
func (r *room) streamLocked(fingerprint string, id streamID) *stream {
	own := r.streams[fingerprint]
	at := slices.IndexFunc(own, func(s *stream) bool { return s.id == id })
	s := &stream{fingerprint: fingerprint, id: id}
	if at >= 0 {
		s = own[at]
	} else if at = slices.IndexFunc(own, func(s *stream) bool { return s.here == 0 }); len(own) < maxStreams {
		at = -1
	}
	if at >= 0 {
		own = slices.Delete(own, at, at+1)
	}
	r.used++
	s.used = r.used
	r.streams[fingerprint] = append(own, s)
	return s
}

// forgetLocked drops a stream whose client will not come back: it left when all it had said was acknowledged.
func (r *room) forgetLocked(fingerprint string, id streamID) {
	own := slices.DeleteFunc(r.streams[fingerprint], func(s *stream) bool { return s.id == id && s.here == 0 })
	if r.streams[fingerprint] = own; len(own) == 0 {
		delete(r.streams, fingerprint)
	}
}

// rebuild fills the streams from the end of the log, before the room opens.
func (r *room) rebuild() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.replay(func(fingerprint string, id streamID, last uint64, left bool) {
		if left {
			r.forgetLocked(fingerprint, id)
			return
		}
		own := r.streams[fingerprint]
		if n := len(own); n == 0 || own[n-1].id != id {
			r.streamLocked(fingerprint, id)
			own = r.streams[fingerprint]
		}
		s := own[len(own)-1]
		s.last, s.durable = last, last
	})
}

// marksLocked appends a record for each stream whose client may come back, so that the log's tail tells of it: those in the
// room and the latest used, maxStreamMarks at most.
func (r *room) marksLocked(b []byte) []byte {
	var all []*stream
	for _, own := range r.streams {
		for _, s := range own {
			if s.last > 0 {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(a, b *stream) int {
		return cmp.Or(cmp.Compare(min(b.here, 1), min(a.here, 1)), cmp.Compare(b.used, a.used))
	})
	all = all[:min(len(all), maxStreamMarks)]
	slices.Reverse(all) // the latest used last, as they were
	now := time.Now()
	for _, s := range all {
		b = appendMark(b, now, s.fingerprint, s.id, s.last)
	}
	return b
}

// reopen goes on in a new log after a rotation, under load without losing or doubling a record.
func (r *room) reopen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if moved, err := r.log.reopen(); err != nil || !moved {
		return err
	}
	now := time.Now()
	r.log.record(func(b []byte) []byte { return appendRecord(b, now, eventRotate, nil, "", "") }, r.marksLocked)
	return nil
}

// flushing acknowledges what is said once it is on disk (-sync): all that waits, with one sync. It ends when flush is
// closed.
func (r *room) flushing() {
	var waiting []*stream
	var upTo []uint64
	for range r.flush {
		r.mu.Lock()
		waiting, r.pending = r.pending, waiting[:0]
		upTo = upTo[:0]
		for _, s := range waiting {
			upTo = append(upTo, s.last)
		}
		r.mu.Unlock()
		if len(waiting) == 0 {
			continue
		}
		err := r.log.sync()
		r.mu.Lock()
		for i, s := range waiting {
			if err == nil {
				s.durable = max(s.durable, upTo[i])
			}
		}
		if err != nil {
			r.log.rollback(err)
			waiting = append(waiting, r.pending...)
			r.pending = r.pending[:0]
			for _, s := range waiting {
				s.last = s.durable
			}
		}
		for m := range r.members {
			if err != nil && m.conn != nil && slices.Contains(waiting, m.recorded) {
				r.endLocked(m, errLog.Error()) // its lines are gone: it says them again when it comes back
			} else if err != nil && slices.Contains(waiting, m.recorded) {
				m.tell(itemUndelivered, "the log has lost the last you said, though the room has heard it; say it again")
			}
			if m.recorded.durable > m.acked {
				m.poke()
			}
		}
		r.mu.Unlock()
	}
}

// leave ends m's presence, for the reason given unless it was told to leave for another.
func (r *room) leave(m *member, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, here := r.members[m]; !here {
		return
	}
	delete(r.members, m)
	m.recorded.here--
	if m.person && m.listens {
		r.leftLocked(m)
	}
	if m.ending != "" {
		reason = m.ending
	}
	said := reason
	if reason == errLeft.Error() {
		said = "" // that it left says as much
	}
	now := time.Now()
	r.addLocked(nil, item{time: now, what: itemLeave, name: m.name, text: []byte(said)}, m.recorded, nil)
	r.wakeLocked()
	r.log.record(func(b []byte) []byte { return appendRecord(b, now, eventDisconnect, m.log, "reason", reason) }, r.marksLocked)
	if reason == errLeft.Error() {
		r.forgetLocked(m.fingerprint, m.stream)
	}
}

// leftLocked remembers how far a person got, at the cost of whoever was away for longest where there is no room.
func (r *room) leftLocked(m *member) {
	if _, known := r.left[m.fingerprint]; !known && len(r.left) >= maxLeft {
		longest := ""
		for who, at := range r.left {
			if longest == "" || at < r.left[longest] {
				longest = who
			}
		}
		delete(r.left, longest)
	}
	r.left[m.fingerprint] = m.next - 1
}

// endLocked has m's writer say goodbye. A writer that is stuck is freed by its write's deadline.
func (r *room) endLocked(m *member, reason string) {
	if m.ending == "" {
		m.ending, m.until = reason, r.first+uint64(len(r.items))
	}
	m.poke()
}

// say records a client's lines and hands them to the others. Lines that the log has already are passed over: they are sent
// again after a lost connection. On return with nil error every line of l is recorded, and acknowledged to m's writer, at
// once or when it is on disk. After errLog none is, and they can be said again.
func (r *room) say(m *member, l lines) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.ending != "" {
		return errEnding // it was told to leave; what it says now nobody could acknowledge
	}
	last := m.recorded.last
	if m.conn == nil {
		l.first = last + 1 // the console says each line once, and goes on after a sync that failed
	}
	if last == 0 || !m.spoke && l.first > last+1 {
		// A stream from before the server's memory begins where it goes on, and so does one whose acknowledged lines a power
		// cut took from the log: to refuse the lines that are left would lose them too. The numbers in the log show the gap.
		last = l.first - 1
	}
	m.spoke = true
	if l.first > last+1 {
		return fmt.Errorf("line %d came after line %d: %w", l.first, last, errMalformed)
	}
	if skip := last + 1 - l.first; skip < uint64(len(l.texts)) {
		l.texts, l.first = l.texts[skip:], last+1
		if err := r.publishLocked(m, l); err != nil {
			return err
		}
		m.recorded.last = last + uint64(len(l.texts))
	}
	if r.flush == nil {
		m.recorded.durable = m.recorded.last
		m.poke()
	} else if m.recorded.durable < m.recorded.last {
		if !slices.Contains(r.pending, m.recorded) {
			r.pending = append(r.pending, m.recorded)
		}
		poke(r.flush)
	}
	return nil
}

// errEnding is a message from a member that was told to leave.
var errEnding = errors.New("it was told to leave")

// publishLocked writes l to the log and then into the room.
func (r *room) publishLocked(m *member, l lines) error {
	now := time.Now()
	name, who := m.name, m.log
	if l.from != "" {
		name, who = l.from, logPerson(appendField(slices.Clip([]byte(who)), "from", l.from))
	}
	err := r.log.write(func(b []byte) []byte { return appendMessages(b, now, who, l, r.log.digests) }, r.marksLocked)
	if err != nil {
		return err
	}
	targets := []*stream{nil}
	if l.what == itemDirect {
		found, err := r.findLocked(l.to)
		targets = targets[:0]
		for _, to := range found {
			if to.listens && to.recorded != m.recorded {
				targets = append(targets, to.recorded)
			}
		}
		if err == nil && len(targets) == 0 {
			err = fmt.Errorf("%s does not listen", l.to)
		}
		if err != nil {
			m.tell(itemUndelivered, err.Error()+"; what you sent is in the log only")
		}
	}
	size := 0
	for _, text := range l.texts {
		size += len(text) + len(name) + itemOverhead
	}
	enc := r.spaceLocked(size * len(targets)) // of all of them at once
	for _, text := range l.texts {
		for _, to := range targets {
			enc = r.addLocked(enc, item{time: now, what: l.what, name: name, text: text}, m.recorded, to)
		}
	}
	r.wakeLocked()
	return nil
}

// findLocked returns the connections of the one person that name means. A name that two keys bear, or names that look
// alike, mean neither: each is meant by its name~suffix. A name is never taken for another that only looks like it.
func (r *room) findLocked(name string) (found []*member, err error) {
	alike := map[string]string{} // a fingerprint's name~suffix
	for m := range r.members {
		full := m.base + "~" + m.suffix
		if name == full || foldName(name) == foldName(m.base) {
			alike[m.fingerprint] = full
		}
		if name == full || strings.EqualFold(name, m.base) {
			found = append(found, m)
		}
	}
	choice := slices.Sorted(maps.Values(alike))
	if len(choice) > 1 {
		return nil, fmt.Errorf("%s is ambiguous: say which, %s", name, strings.Join(choice, " or "))
	}
	if len(found) == 0 && len(choice) == 1 {
		return nil, fmt.Errorf("nobody here is called %s; %s is here", name, choice[0])
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("nobody here is called %s", name)
	}
	return found, nil
}

// removed is the reason of a kick.
const removed = "removed by the operator"

// kick lets a person go.
func (r *room) kick(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, err := r.findLocked(name)
	if err != nil {
		return err
	}
	for _, m := range found {
		if m.conn == nil {
			return errors.New("the operator stays; Ctrl-C closes the room")
		}
		r.endLocked(m, removed)
	}
	return nil
}

// addLocked gives it the next number and puts it, encoded behind buf, at the end of the room's queue, whose front may go.
func (r *room) addLocked(buf []byte, it item, from, to *stream) []byte {
	it.seq = r.first + uint64(len(r.items))
	at := len(buf)
	buf = it.append(buf)
	enc := buf[at:len(buf):len(buf)]
	if n := len(r.items); n == cap(r.items) { // they go back to the front of the space, which is free by now, or of another
		if len(r.space) <= n+n/2 || len(r.space) > 4*n+64 {
			r.space = make([]roomItem, 2*n+64)
		}
		clear(r.space[copy(r.space, r.items):])
		r.items = r.space[:n]
	}
	r.items = append(r.items, roomItem{enc, it.what, from, to})
	r.bytes += len(enc) + roomItemSize
	for r.bytes > roomBytes {
		r.bytes -= len(r.items[0].enc) + roomItemSize
		r.items[0] = roomItem{}
		r.items = r.items[1:]
		r.first++
	}
	return buf
}

// spaceLocked returns an empty slice that n bytes can be appended to. Slabs cost the collector less than many small pieces; of
// one at most a quarter goes unused, and it is gone with the last item in it.
func (r *room) spaceLocked(n int) []byte {
	if n > slabBytes/4 {
		return make([]byte, 0, n)
	}
	if n > len(r.slab) {
		r.slab = make([]byte, slabBytes)
	}
	space := r.slab[:0:n]
	r.slab = r.slab[n:]
	return space
}

const roomItemSize = 96 // of a roomItem itself, and what is free beside it in the room's space

var slowConsumer = fmt.Sprintf("slow consumer: it left more than %d MiB unread", roomBytes>>20)

// wakeLocked wakes the writers of all who listen, and drops the slow consumers that the queue's tail has passed.
func (r *room) wakeLocked() {
	for m := range r.members {
		if !m.listens {
			continue
		}
		if m.next < r.first && m.conn != nil && m.ending == "" {
			m.ending = slowConsumer
			m.conn.Close()
		}
		if m.write == nil {
			m.poke()
		} else if !m.writing {
			m.writing = true
			m.writer.Add(1)
			r.ready = append(r.ready, m)
		}
	}
	if len(r.ready) > 0 && !r.starting {
		r.starting = true
		go r.start()
	}
}

// start starts the writers of all who are ready: some, and once these had their turn, more. By then most have ended, and leave
// their goroutines and stacks to the next; as many as there are members, all at once, would cost memory that nobody gives back.
// A writer that waits for its client holds up nobody.
func (r *room) start() {
	var some [32]*member
	for {
		r.mu.Lock()
		n := copy(some[:], r.ready)
		clear(r.ready[:n])
		r.ready = r.ready[n:]
		r.starting = n > 0
		r.mu.Unlock()
		if n == 0 {
			return
		}
		for _, m := range some[:n] {
			go m.write()
		}
		runtime.Gosched()
	}
}

// poke sees to it that somebody takes what there is for m, under room.mu.
func (m *member) poke() {
	if m.write == nil {
		poke(m.wake)
	} else if !m.writing {
		m.writing = true
		m.writer.Add(1)
		go m.write()
	}
}

// delivery is what a writer is to send, in this order; goodbye is the last there is.
type delivery struct {
	acked   uint64   // the number up to which m's lines are recorded, where that is news; else 0
	items   [][]byte // encoded
	ping    bool     // where there is nothing else
	goodbye bool
	reason  string // of goodbye, where it has one
	slow    bool   // m's place is gone: there is nothing more to send it
}

// next is take for m's writer. It returns false where there is nothing to do: the writer is to end at once, for by then the
// next poke may have started another.
func (r *room) next(m *member, into [][]byte) (d delivery, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	items, acked, missed, ending := r.takeLocked(m, into)
	left := errors.Is(m.readErr, errLeft)
	if left {
		items = items[:0] // it does not listen any more
	}
	d = delivery{items: items, goodbye: len(items) == 0 && (left || ending != ""), reason: ending, slow: missed > 0}
	if acked > m.acked {
		d.acked, m.acked = acked, acked
	}
	d.ping, m.silent = m.silent && len(items) == 0 && d.acked == 0 && !d.goodbye, false
	ok = (m.readErr == nil || left) && (len(items) > 0 || d.acked > 0 || d.ping || d.goodbye || d.slow)
	m.writing = ok || m.readErr != nil
	return d, ok
}

// hush has m pinged: nothing was written to it for pingInterval.
func (r *room) hush(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.silent = true
	m.poke()
}

// readOver says that err ended reading m. Who left gets the last acknowledgement and goodbye, any other nothing more. No
// writer is started after it returns.
func (r *room) readOver(m *member, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.readErr = err
	if errors.Is(err, errLeft) {
		m.poke()
	}
	m.writing = true
}

// take returns what there is for m: items from m's place on, at most takeBytes of them unless one is longer, and
// the number up to which m's lines are recorded. missed counts items that were gone before m took them (the console's lot;
// a client is dropped). ending is the reason to leave, once nothing is left to take.
func (r *room) take(m *member, into [][]byte) (items [][]byte, acked, missed uint64, ending string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.takeLocked(m, into)
}

func (r *room) takeLocked(m *member, into [][]byte) (items [][]byte, acked, missed uint64, ending string) {
	into = append(into, m.notices...)
	m.notices = nil
	end := r.first + uint64(len(r.items))
	if m.ending != "" {
		end = min(end, m.until)
	}
	if !m.listens {
		m.next = end // it misses nothing
	}
	if m.next < r.first {
		missed = r.first - m.next
		m.next = r.first
	}
	for n := 0; m.next < end && n < takeBytes; m.next++ {
		it := &r.items[m.next-r.first]
		if !m.listens || !m.wants(it, m.next) {
			continue
		}
		into = append(into, it.enc)
		n += len(it.enc)
	}
	if (m.next >= end || !m.listens) && m.recorded.durable == m.recorded.last {
		ending = m.ending
	}
	return into, m.recorded.durable, missed, ending
}

// names lists who is here.
func (r *room) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for m := range r.members {
		names = append(names, m.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// record puts a record that is no message into the log.
func (r *room) record(add func(b []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.record(add, r.marksLocked)
}

// who tells m who is here.
func (r *room) who(m *member) {
	r.mu.Lock()
	full := len(m.notices) >= maxNotices // who asks and does not read costs nobody a list
	r.mu.Unlock()
	if full {
		return
	}
	names := r.names()
	r.mu.Lock()
	defer r.mu.Unlock()
	m.tell(itemNotice, whoLine(names))
}

// notify tells m something.
func (r *room) notify(m *member, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.tell(itemNotice, text)
}

// tell leaves a notice for m alone, under room.mu. Who does not read has maxNotices of them at most.
func (m *member) tell(what byte, text string) {
	if len(m.notices) < maxNotices {
		m.notices = append(m.notices, item{time: time.Now(), what: what, text: []byte(text[:min(len(text), maxLine)])}.append(nil))
	}
	m.poke()
}

// close lets nobody in any more and tells every member to leave.
func (r *room) close(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closing = true
	for m := range r.members {
		r.endLocked(m, reason)
	}
}

func whoLine(names []string) string {
	return fmt.Sprintf("%d here: %s", len(names), strings.Join(names, ", "))
}

// mute stops the room from keeping anything for m.
func (r *room) mute(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.listens = false
}
