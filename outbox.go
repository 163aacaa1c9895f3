package main

import (
	"bytes"
	"sync"
)

// The outbox: the lines that a client has to send and that the server has not acknowledged yet.

// outbox holds the lines that the server has not acknowledged, numbered from 1 over the client's life.
type outbox struct {
	mu     sync.Mutex
	lines  []outLine // lines[i] has the number acked+1+i
	acked  uint64
	sent   int    // of lines, on this connection
	most   uint64 // the last that was sent on any
	bytes  int
	closed bool
	wake   chan struct{} // of capacity 1: something to take
	space  chan struct{} // of capacity 1: room to add
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// add puts a copy of line at the end, after waiting for room. now says that no further line is at hand, so that the
// writer should not wait for one. False: the outbox is closed.
func (b *outbox) add(line outLine, now bool) bool {
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return false
		}
		if b.bytes < outboxBytes {
			break
		}
		b.mu.Unlock()
		wake(b.wake)
		<-b.space
	}
	line.text = bytes.Clone(line.text)
	b.lines = append(b.lines, line)
	b.bytes += len(line.text) + lineOverhead
	now = now || b.bytes >= outboxBytes/8
	b.mu.Unlock()
	if now {
		wake(b.wake)
	}
	return true
}

const (
	outboxBytes  = 4 << 20 // unacknowledged, before reading more input waits
	lineOverhead = 56      // bytes that a line in the outbox takes beside its text
)

// close says that no more lines come.
func (b *outbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	wake(b.wake)
	wake(b.space)
}

// take returns some lines that were not sent on this connection, and the number of the first. done says that the outbox is
// closed and all is acknowledged.
func (b *outbox) take(into []outLine) (first uint64, batch []outLine, done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first = b.acked + 1 + uint64(b.sent)
	n := 0
	from := b.sent
	for b.sent < len(b.lines) && n < takeBytes {
		n += len(b.lines[b.sent].text)
		b.sent++
	}
	b.most = max(b.most, b.acked+uint64(b.sent))
	return first, append(into, b.lines[from:b.sent]...), b.closed && len(b.lines) == 0
}

// resume begins a connection: the server has the lines up to number n, or does not know the stream (0).
func (b *outbox) resume(n uint64) error {
	b.mu.Lock()
	b.sent = len(b.lines)
	n = max(n, b.acked)
	b.mu.Unlock()
	err := b.acknowledge(n)
	b.mu.Lock()
	b.sent = 0
	b.mu.Unlock()
	return err
}

// acknowledge drops the lines up to number n, which were sent on this connection.
func (b *outbox) acknowledge(n uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
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

// finished says that the outbox is closed and all of it acknowledged.
func (b *outbox) finished() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed && len(b.lines) == 0
}

// acknowledged is the number of the last line that the server has.
func (b *outbox) acknowledged() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acked
}

func (b *outbox) unacknowledged() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lines)
}
