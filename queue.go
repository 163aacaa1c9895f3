package main

// The room's queue: one bounded run of encoded items for all members, in each of which a member has a place. A member
// whose place has fallen off the front is a slow consumer; it holds up no other member and costs no memory.

const (
	queueBytes    = 8 << 20  // of items that the queue holds
	slabBytes     = 16 << 10 // that short items share
	queueItemSize = 96       // bytes that an item takes beside its encoding and its audience
	audienceSize  = 64       // bytes that an audience takes beside its streams
)

// queueItem is an item as its receivers get it.
type queueItem struct {
	enc  []byte
	what byte
	size int32 // bytes of the queue's limit that the item takes
	from *stream
	to   *audience // nil for all but from
}

// audience is who receives a direct message: connections of one key. They share one item, so that a person with many
// connections takes no more of the queue than another.
type audience struct {
	fingerprint string
	streams     []*stream
}

// queue holds the items from number first on. The room's lock guards it.
type queue struct {
	items []queueItem // items[i] has the number first+i
	array []queueItem // the array that items is a slice of
	first uint64
	bytes int    // that items takes
	slab  []byte // free space for the next encodings
}

// end is the number that the next item will get.
func (q *queue) end() uint64 { return q.first + uint64(len(q.items)) }

// at returns item n, which the queue must hold.
func (q *queue) at(n uint64) *queueItem { return &q.items[n-q.first] }

// add gives it the next number, encodes it behind buf and puts it at the queue's end. The front may be dropped.
func (q *queue) add(buf []byte, it item, from *stream, to *audience) []byte {
	it.seq = q.end()
	at := len(buf)
	buf = it.append(buf)
	enc := buf[at:len(buf):len(buf)]
	if n := len(q.items); n == cap(q.items) {
		// Move the items to the front of the array, which is free by now, or to another array of fitting size.
		if len(q.array) <= n+n/2 || len(q.array) > 4*n+64 {
			q.array = make([]queueItem, 2*n+64)
		}
		clear(q.array[copy(q.array, q.items):])
		q.items = q.array[:n]
	}
	size := len(enc) + queueItemSize
	if to != nil && (len(q.items) == 0 || q.items[len(q.items)-1].to != to) { // items in sequence share their audience
		size += audienceSize + 8*len(to.streams)
	}
	q.items = append(q.items, queueItem{enc, it.what, int32(size), from, to})
	q.bytes += size
	for q.bytes > queueBytes {
		q.bytes -= int(q.items[0].size)
		q.items[0] = queueItem{}
		q.items = q.items[1:]
		q.first++
	}
	return buf
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
