package main

// The room's queue: one bounded run of encoded items for all members, in each of which a member has a place. A member
// whose place has fallen off the front is a slow consumer; it holds up no other member and costs no memory. A start
// fills the queue from the log.

import (
	"cmp"
	"slices"
)

const (
	queueBytes    = 8 << 20  // of items that the queue holds
	slabBytes     = 16 << 10 // that short items share
	queueItemSize = 96       // bytes that an item takes beside its encoding and its audience
	audienceSize  = 64       // bytes that an audience takes beside its streams
	maxQueued     = queueBytes / (queueItemSize + itemOverhead)
)

// queueItem is an item as its receivers get it.
type queueItem struct {
	enc  []byte // nil for a message that the log has without its text, so that it cannot be sent after a restart
	seq  uint64 // the number of a message; of a join or a leave, that of the message before it
	what byte
	size int32 // bytes of the queue's limit that the item takes
	from *stream
	to   *audience // nil for all but from
}

// isMessage reports whether the item is what somebody said, which has a number, and not a join or a leave.
func (it *queueItem) isMessage() bool { return it.what <= itemDirect }

// audience is who receives a direct message: the connections of one key, and the key when it returns. They share one
// item, so that a person with many connections takes no more of the queue than another.
type audience struct {
	visitor *visitor
	streams []*stream
}

// queue holds the items from place first on. Places count items since the start of the server; the numbers of messages
// go on over restarts. The room's lock guards it.
type queue struct {
	items []queueItem // items[i] has the place first+i
	array []queueItem // the array that items is a slice of
	first uint64
	said  uint64 // the number of the last message
	lost  lostMessages
	bytes int    // that items takes
	slab  []byte // free space for the next encodings
}

// lostMessages are the messages to all that the queue does not hold any more, or that a start has not read back.
type lostMessages struct {
	last  uint64  // the number of the last of them
	from  *stream // its sender; nil if it is not known
	other uint64  // the number of the last of them with another sender, or an unknown one
}

// add notes that a message to all is lost, unless a later one is.
func (l *lostMessages) add(seq uint64, from *stream) {
	if seq <= l.last {
		return
	}
	if from != l.from || from == nil {
		l.other = l.last
	}
	l.last, l.from = seq, from
	if from == nil {
		l.other = seq
	}
}

// since reports whether a message after number seq is lost that another stream than own has sent.
func (l *lostMessages) since(seq uint64, own *stream) bool {
	if l.from != nil && l.from == own {
		return l.other > seq
	}
	return l.last > seq
}

// end is the place that the next item will get.
func (q *queue) end() uint64 { return q.first + uint64(len(q.items)) }

// at returns the item in place n, which the queue must hold.
func (q *queue) at(n uint64) *queueItem { return &q.items[n-q.first] }

// after returns the place behind the message with number seq, or behind the last message before that number.
func (q *queue) after(seq uint64) uint64 {
	i, _ := slices.BinarySearchFunc(q.items, seq, func(it queueItem, seq uint64) int { return cmp.Compare(it.seq, seq) })
	if i < len(q.items) && q.items[i].seq == seq && q.items[i].isMessage() {
		i++
	}
	return q.first + uint64(i)
}

// add encodes it behind buf and puts it at the queue's end. A message without a number gets the next one. The front may
// be dropped.
func (q *queue) add(buf []byte, it item, from *stream, to *audience) []byte {
	if it.what <= itemDirect && it.seq == 0 {
		it.seq = q.said + 1
	}
	at := len(buf)
	buf = it.append(buf)
	q.put(queueItem{enc: buf[at:len(buf):len(buf)], seq: it.seq, what: it.what, from: from, to: to})
	return buf
}

// put puts an item at the queue's end. The front may be dropped.
func (q *queue) put(it queueItem) {
	if it.isMessage() {
		q.said = it.seq
	}
	it.seq = q.said
	if n := len(q.items); n == cap(q.items) {
		// Move the items to the front of the array, which is free by now, or to another array of fitting size.
		if len(q.array) <= n+n/2 || len(q.array) > 4*n+64 {
			q.array = make([]queueItem, 2*n+64)
		}
		clear(q.array[copy(q.array, q.items):])
		q.items = q.array[:n]
	}
	it.size = int32(len(it.enc) + queueItemSize)
	if it.to != nil && (len(q.items) == 0 || q.items[len(q.items)-1].to != it.to) { // items in sequence share it
		it.size += int32(audienceSize + 8*len(it.to.streams))
	}
	q.items = append(q.items, it)
	q.bytes += int(it.size)
	for q.bytes > queueBytes {
		q.drop()
	}
}

// drop drops the first item.
func (q *queue) drop() {
	it := &q.items[0]
	switch {
	case !it.isMessage():
	case it.to == nil:
		q.lost.add(it.seq, it.from)
	default:
		it.to.visitor.lost = it.seq
	}
	q.bytes -= int(it.size)
	*it = queueItem{}
	q.items = q.items[1:]
	q.first++
}

// space returns an empty slice with room for n bytes. Slabs cost the collector less than many small allocations; at
// most a quarter of a slab stays unused, and a slab is freed with the last item in it.
func (q *queue) space(n int) []byte {
	if n > slabBytes/4 {
		return make([]byte, 0, n)
	}
	if n > len(q.slab) {
		q.slab = make([]byte, slabBytes)
	}
	space := q.slab[:0:n]
	q.slab = q.slab[n:]
	return space
}
