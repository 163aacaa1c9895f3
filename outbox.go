package main

// The outbox: the lines that a client has to send and that the server has not acknowledged yet. They have the numbers
// from 1 on over the client's life, whatever the connections.

import (
	"bytes"
	"sync"
)

const (
	outboxBytes  = 4 << 20 // held at most: then adding a line waits
	lineOverhead = 56      // bytes that a line takes beside its text
)

// outbox may be used by any goroutine. One goroutine adds lines, one takes them.
type outbox struct {
	wake  chan struct{} // of capacity 1: there may be something to take
	space chan struct{} // of capacity 1: there may be space for another line

	mu     sync.Mutex
	lines  []outLine // lines[i] has the number acked+1+i
	acked  uint64    // number of the last line that the server has acknowledged
	sent   int       // of lines, on this connection
	most   uint64    // number of the last line that was sent on any connection
	bytes  int       // that lines takes
	closed bool      // no line is added any more
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// add puts a copy of line at the end, and waits for space if need be. Without urgent the line may wait for more lines,
// which are sent with it. add returns false if the outbox is closed.
func (b *outbox) add(line outLine, urgent bool) bool {
	for !b.hasSpace() {
		wake(b.wake)
		<-b.space
	}
	line.text = bytes.Clone(line.text)
	b.mu.Lock()
	closed := b.closed
	if !closed {
		b.lines = append(b.lines, line)
		b.bytes += len(line.text) + lineOverhead
	}
	urgent = urgent || b.bytes >= outboxBytes/8
	b.mu.Unlock()
	if urgent {
		wake(b.wake)
	}
	return !closed
}

// hasSpace reports whether adding a line need not wait: there is space for it, or the outbox is closed.
func (b *outbox) hasSpace() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed || b.bytes < outboxBytes
}

// close accepts no further lines. Those in the outbox are still sent.
func (b *outbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	wake(b.wake)
	wake(b.space)
}

// take appends lines that were not sent on this connection to into, and returns the number of the first. done means
// that the outbox is closed and everything is acknowledged.
func (b *outbox) take(into []outLine) (first uint64, batch []outLine, done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first = b.acked + 1 + uint64(b.sent)
	from := b.sent
	for n := 0; b.sent < len(b.lines) && n < takeBytes; b.sent++ {
		n += len(b.lines[b.sent].text)
	}
	b.most = max(b.most, b.acked+uint64(b.sent))
	return first, append(into, b.lines[from:b.sent]...), b.closed && len(b.lines) == 0
}

// resume begins a connection: the server has recorded the lines up to number n, or does not know the stream (0).
func (b *outbox) resume(n uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = len(b.lines)
	err := b.acknowledgeLocked(max(n, b.acked))
	b.sent = 0
	return err
}

// acknowledge drops the lines up to number n.
func (b *outbox) acknowledge(n uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acknowledgeLocked(n)
}

// acknowledgeLocked refuses a number that goes back, and one of a line that was never sent.
func (b *outbox) acknowledgeLocked(n uint64) error {
	if n < b.acked || n > max(b.most, b.acked+uint64(b.sent)) {
		return errMalformed
	}
	k := int(n - b.acked)
	for _, line := range b.lines[:k] {
		b.bytes -= len(line.text) + lineOverhead
	}
	clear(b.lines[:k])
	b.lines, b.acked, b.sent = b.lines[k:], n, max(0, b.sent-k)
	if b.closed && len(b.lines) == 0 {
		wake(b.wake)
	}
	wake(b.space)
	return nil
}

// finished reports whether the outbox is closed and everything is acknowledged.
func (b *outbox) finished() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed && len(b.lines) == 0
}

// acknowledged returns the number of the last line that the server has acknowledged.
func (b *outbox) acknowledged() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acked
}

// unacknowledged returns how many lines the server has not acknowledged.
func (b *outbox) unacknowledged() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lines)
}
