package main

// The room: its members, and their lines in one order that the log and all receivers share. A line is written to the
// log before it is put into the queue, and acknowledged to its sender only after that.
//
// One lock, room.mu, guards the room and its members. The log's own lock is taken under it, and the log is written
// under both, so that the log and the queue have the same order.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	takeBytes     = 64 << 10 // that a delivery takes at most, beside one item that is longer
	leastTake     = 4 << 10  // that a delivery may take although others have taken deliveryBytes
	deliveryBytes = 8 << 20  // bytes of memory for the deliveries that are being sent, except for leastTake each
	itemRef       = 24       // bytes of an item's slice in a delivery
	maxNotices    = 16       // that wait for one member

	// maxSaid is the largest number of a message with which a start goes on. From there on the numbers of a server's run
	// do not come to maxNumber, above which a later start would read none.
	maxSaid = maxNumber / 2
)

// room is shared by all goroutines of a server.
type room struct {
	log     *connLog
	history int           // messages at most that a member gets of what it missed (-history)
	flush   chan struct{} // of capacity 1, wakes flushLog; nil without -sync
	sending atomic.Int64  // bytes of the deliveries that are being sent
	ahead   atomic.Int64  // bytes that were published since a writer last ran

	mu         sync.Mutex // guards the fields below, and the fields of members that say so
	memory                // its epoch never changes
	members    map[*member]struct{}
	pending    []*stream            // with lines in the log that are not on disk yet (-sync)
	awaiting   map[*stream]struct{} // with direct lines that are not read yet
	overdue    *time.Timer          // runs reportUnread; nil while it is not due
	sinceReads int                  // bytes of messages recorded since the last records of reading
	closing    bool
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
	name     string     // as the others see it: with ~SUFFIX if two keys have names that look alike
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
// nothing to deliver, the goroutine ends, since it would keep the stack of a delivery, 4 KiB for each idle client.
// While people talk it waits for linger before that: a new goroutine has to grow its stack, which makes a line to 100
// receivers cost a server a third more.
type writer struct {
	running bool          // a goroutine is in room.write, is not started yet, or has ended for good
	wake    chan struct{} // wakes the goroutine; nil unless it waits
	retire  bool          // the goroutine has waited for linger
	timer   *time.Timer   // linger after the goroutine began to wait, or pingInterval after the last delivery
	sent    time.Time     // when the last delivery began
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
	if r.queue.said > maxSaid {
		const text = "the log %s, or the log before it, has message number %d, and no room says so much: move it and " +
			"the files %[1]s.* away, and the next start begins a new log"
		return nil, fmt.Errorf(text, log.path, r.queue.said)
	}
	if r.memory.begin(bootID()) {
		const text = "the system ended before the server did, so the last messages may be missing; " +
			"further ones have numbers above %d"
		log.warn(fmt.Sprintf(text, r.queue.said))
	}
	return r, nil
}

// newMember makes a member that is not in the room yet. Nothing is delivered to it before the first room.write.
func newMember(p *peer, out receiver) *member {
	return &member{peer: p, out: out, name: p.name, written: make(chan error, 1), writer: writer{running: true}}
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

	buf     []byte // memory for the receiver
	number  [8]byte
	counted int64 // bytes of this delivery that room.sending counts
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
	m.writer.sent = time.Now()                             // the welcome
	m.writer.timer = time.AfterFunc(pingInterval, func() { // stopped by what ends the deliveries
		r.mu.Lock()
		defer r.mu.Unlock()
		m.writer.retire = m.writer.wake != nil
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
	d, next := r.next(m, wake)
	if next != stepDeliver {
		return next, nil
	}
	defer r.sent(d)
	if err := m.out.deliver(d); err != nil || d.goodbye {
		return stepOver, err
	}
	return stepDeliver, nil
}

// sent frees a delivery. It does not wait for the room's lock, since the memory would count in room.sending until then.
func (r *room) sent(d *delivery) {
	r.sending.Add(-d.counted)
	d.free()
}

// next returns what m has to receive, with stepDeliver. If there is nothing, the writer waits for wake or ends.
func (r *room) next(m *member, wake chan struct{}) (*delivery, step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead.Store(0)
	left := errors.Is(m.readErr, errLeft)
	if m.readErr != nil && !left {
		return nil, stepOver
	}
	// Only now, since a line wakes all writers: those that wait for the lock must hold no memory.
	d := deliveries.Get().(*delivery)
	d.fit(deliveryBytes - int(r.sending.Load()))
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
	w, now := &m.writer, time.Now()
	d.ping = !ok && now.Sub(w.sent) >= pingInterval
	if !ok && !d.ping {
		d.free()
		return nil, r.restLocked(w, wake, now)
	}
	w.sent, w.retire = now, false
	d.counted = int64(d.memory())
	r.sending.Add(d.counted)
	return d, stepDeliver
}

// restLocked lets a writer that has nothing to deliver wait or end. The ping is due pingInterval after the last
// delivery, however often the writer is woken in between for what is not for its member.
func (r *room) restLocked(w *writer, wake chan struct{}, now time.Time) step {
	untilPing := w.sent.Add(pingInterval).Sub(now)
	if !w.retire && now.Sub(r.spoken) < linger {
		w.timer.Reset(min(linger, untilPing))
		w.wake = wake
		return stepWait
	}
	w.timer.Reset(untilPing)
	w.running, w.retire = false, false
	return stepRetire
}

// doneLocked reports whether a member that has to leave has been delivered and acknowledged everything.
func (m *member) doneLocked(r *room) bool {
	delivered := !m.listens || m.next >= min(r.queue.end(), m.ending.until)
	return m.ending.reason != "" && delivered && m.stream.acknowledged() == m.stream.last
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

// names lists the names of all members, each once, as findLocked finds them: if two keys have names that look alike,
// both are listed with ~SUFFIX.
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

// recordStart writes the first record of this start of the server, with the marks of the streams. The record is on disk
// before anything is said: without it, the log could end with the stop of an earlier start after a power cut, or before
// the numbers that this start has skipped, and numbers would be used again.
func (r *room) recordStart(add func(b []byte) []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.log.write(add, r.appendMarks); err != nil {
		return err
	}
	if err := r.log.sync(); err != nil {
		return fmt.Errorf("%w: %w", errLog, err)
	}
	return nil
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

// began returns the fields of the record of a start, by which a log without earlier records has an epoch.
func (r *room) began() peerFields {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.memory.fields()
}
