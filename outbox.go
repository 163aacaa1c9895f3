package main

// The outbox: the lines that a client has to send and that the server has not acknowledged.

import (
	"bytes"
	"fmt"
	"sync"
)

const (
	outboxBytes  = 4 << 20 // memory of the lines in the outbox above which the input has to wait
	lineOverhead = 56      // bytes that a line in the outbox takes beside its text
)

// outbox numbers a client's lines from 1 on, over all its connections, and holds each line until it is acknowledged:
//
//	up to acked             acknowledged, and no longer held
//	the next sent lines     sent on this connection: lines[:sent]
//	the rest                not sent on this connection: lines[sent:]
//
// An earlier connection may have sent more, up to number most. The server may acknowledge those before they are sent
// again.
type outbox struct {
	wake  chan struct{} // of capacity 1: there may be something for the writer to do
	space chan struct{} // of capacity 1: there may be room for add

	mu     sync.Mutex // guards the fields below
	lines  []outLine
	acked  uint64
	lost   uint64 // the last line that resume has reported as lost
	sent   int
	most   uint64
	bytes  int  // that lines takes
	handed int  // lines that are no longer held and not confirmed; see handOver
	closed bool // add accepts no more lines
}

// span is a run of lines by their numbers, which begin with 1. The zero value has none.
type span struct{ first, last uint64 }

func (s span) len() uint64 {
	if s.first == 0 || s.last < s.first {
		return 0
	}
	return s.last - s.first + 1
}

func (s span) String() string {
	if s.len() == 1 {
		return fmt.Sprintf("line %d", s.first)
	}
	return fmt.Sprintf("lines %d to %d", s.first, s.last)
}

// counted returns a number and the noun for it: "1 line", "2 lines".
func counted[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// add waits for room, then appends a copy of line. It wakes the writer if flush is set or many lines wait.
// It returns false if the outbox is closed.
func (b *outbox) add(line outLine, flush bool) bool {
	line.text = bytes.Clone(line.text)
	for {
		b.mu.Lock()
		closed, full := b.closed, b.bytes >= outboxBytes
		if !closed && !full {
			b.lines = append(b.lines, line)
			b.bytes += len(line.text) + lineOverhead
			flush = flush || b.bytes >= outboxBytes/8
		}
		b.mu.Unlock()
		if closed {
			return false
		}
		if full || flush {
			wake(b.wake)
		}
		if !full {
			return true
		}
		<-b.space
	}
}

// close makes add return false, and the writer end once everything is acknowledged.
func (b *outbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	wake(b.wake)
	wake(b.space)
}

// take appends the next lines to send to into, about takeBytes of them, and returns the number of the first. done
// reports that the outbox is closed and holds no line.
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

// resume begins a connection. The server has every line up to number n, or it does not know the stream and n is 0. With
// forgotten it may have known the stream before. lost are acknowledged lines that the server no longer has, without
// those of an earlier call. doubtful are lines that the server may have, although it has not acknowledged them. The
// client sends doubtful lines again.
func (b *outbox) resume(n uint64, forgotten bool) (lost, doubtful span, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = 0
	switch from := max(n, b.lost); {
	case forgotten && n == 0:
		doubtful = span{b.acked + 1, b.most}
	case from < b.acked:
		lost, b.lost = span{from + 1, b.acked}, b.acked
	}
	_, err = b.dropLocked(max(n, b.acked))
	return lost, doubtful, err
}

// acknowledge drops the lines up to number n, which are in the server's log.
func (b *outbox) acknowledge(n uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.dropLocked(n)
	return err
}

// handOver drops the lines up to number n, which went to the network on a connection without acknowledgements. They
// count as unacknowledged until confirm.
func (b *outbox) handOver(n uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, err := b.dropLocked(n)
	b.handed += k
	return err
}

// confirm reports that the server has read all lines that were handed over.
func (b *outbox) confirm() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handed = 0
}

// dropLocked drops the lines up to number n, and returns how many it dropped. The caller holds mu.
func (b *outbox) dropLocked(n uint64) (int, error) {
	if n < b.acked || n > b.most {
		return 0, errMalformed
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
	return k, nil
}

// finished reports whether the outbox is closed and every line acknowledged.
func (b *outbox) finished() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed && len(b.lines)+b.handed == 0
}

// acknowledged returns the number of the last line that was dropped.
func (b *outbox) acknowledged() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acked
}

// unacknowledged returns how many lines may not be in the server's log.
func (b *outbox) unacknowledged() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lines) + b.handed
}
