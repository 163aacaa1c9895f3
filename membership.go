package main

import (
	"errors"
	"slices"
	"time"
)

// Joining and leaving the room: what a returning member has missed, how long a member may stay, and which keys that are
// away still have messages kept for them.

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

// nameLocked returns the name of a peer in the room. If another key that is in the room, or that was and may return,
// has a name that looks alike, ~SUFFIX is added: otherwise one who comes after the other has left would be taken for
// it. All connections of one key have one name.
func (r *room) nameLocked(p *peer) string {
	folded := foldName(p.name)
	name := p.name
	for other := range r.members {
		if other.peer.fingerprint == p.fingerprint && other.peer.name == p.name {
			return other.name
		}
		if other.peer.fingerprint != p.fingerprint && foldName(other.peer.name) == folded {
			name = p.name + "~" + p.suffix
		}
	}
	for _, v := range r.visitors.byKey {
		if v.fingerprint != p.fingerprint && v.folded == folded {
			return p.name + "~" + p.suffix
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
	v.rename(m.peer.name)
	v.listed, v.until, v.peer = m.peer.listed(), m.peer.until, m.peer
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

// The clients of one key may ask for the history recallBurst/recallPause times at once, and after that once in
// recallPause: each request looks through as much of it as -history says, and must not keep the room busy.
const (
	recallPause = time.Second
	recallBurst = 10 * recallPause
)

// recall sends m the last n messages that it may read, once more, or only a notice if clients of its key ask too often.
// The operator may always ask. A request is dropped while a notice waits for m.
func (r *room) recall(m *member, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.visitor == nil && !m.operator || m.ending.reason != "" || len(m.notices) > 0 {
		return
	}
	if v, now := m.visitor, time.Now(); v != nil {
		if full := now.Add(-recallBurst); v.recalled.Before(full) {
			v.recalled = full
		}
		if v.recalled.Add(recallPause).After(now) {
			r.notifyLocked(m, itemNotice, "too many requests for the history: one a second is answered")
			return
		}
		v.recalled = v.recalled.Add(recallPause)
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
