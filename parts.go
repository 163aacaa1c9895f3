package main

// Messages in parts. A client can leave one unfinished for as long as it likes, so those of all clients of a server
// count in one budget until they are recorded. When it is exceeded, the key with the largest share loses its oldest
// message and the connection of that message. So a key cannot drop the messages of keys that send less.

import (
	"fmt"
	"slices"
	"sync"
)

// budgetBytes is the size of a server's budget, which has room for more than a hundred of the longest messages.
const budgetBytes = 8 << 20

// errNoBudget ends the connection of a message that was dropped.
var errNoBudget = fmt.Errorf("its unfinished message was dropped: those of all clients exceeded %d MiB",
	budgetBytes>>20)

// partialMessage is a message in parts. The goroutine that reads the connection uses it, except for size.
type partialMessage struct {
	owner   string        // fingerprint of the sender's key
	abort   func() error  // ends reading from the sender
	gone    chan struct{} // closed when the message is dropped
	size    int           // counted in the budget, whose lock guards it
	payload []byte        // as far as it was received
	whole   bool          // payload is complete, and will be freed when the next packet is read
}

// cause returns why the connection of p ended with err. p can be nil.
func (p *partialMessage) cause(err error) error {
	if p == nil {
		return err
	}
	select {
	case <-p.gone:
		return errNoBudget
	default:
		return err
	}
}

// partsBudget is the budget of a server. The zero value is ready to use, and a nil budget has no limit. Its methods may
// be called from any goroutine.
type partsBudget struct {
	mu      sync.Mutex        // guards the fields below
	held    []*partialMessage // the oldest first
	bytes   int               // the sum of their sizes
	dropped int               // the sum of the sizes of dropped messages that are not released yet
	changed sync.Cond         // dropped became less, or a message was dropped
}

// add appends a part to p. It returns errNoBudget if p has been dropped.
func (b *partsBudget) add(p *partialMessage, part []byte) error {
	before := cap(p.payload)
	p.payload = append(p.payload, part...)
	if b != nil && cap(p.payload) > before {
		b.grow(p, cap(p.payload)-before)
	}
	return p.cause(nil)
}

// grow counts n more bytes for p and drops messages until the rest is within the budget. It waits while the goroutines
// of dropped messages still hold as much again.
func (b *partsBudget) grow(p *partialMessage, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.L = &b.mu
	if p.size == 0 {
		b.held = append(b.held, p)
	}
	if p.cause(nil) != nil {
		return
	}
	p.size += n
	b.bytes += n
	for b.bytes > budgetBytes {
		drop := b.oldestOfGreediestLocked()
		b.removeLocked(drop)
		b.dropped += drop.size
		close(drop.gone)
		_ = drop.abort() // fails if the connection is closed already
		b.changed.Broadcast()
	}
	for p.cause(nil) == nil && b.dropped > budgetBytes {
		b.changed.Wait()
	}
}

// oldestOfGreediestLocked returns the oldest message of the key with the largest share.
func (b *partsBudget) oldestOfGreediestLocked() *partialMessage {
	shares := map[string]int{}
	greediest := b.held[0]
	for _, p := range b.held {
		shares[p.owner] += p.size
		if shares[p.owner] > shares[greediest.owner] {
			greediest = p
		}
	}
	return b.held[slices.IndexFunc(b.held, func(p *partialMessage) bool { return p.owner == greediest.owner })]
}

// release stops counting p, whose payload is not used any more. It is called once.
func (b *partsBudget) release(p *partialMessage) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.cause(nil) == nil {
		b.removeLocked(p)
		return
	}
	b.dropped -= p.size
	b.changed.Broadcast()
}

func (b *partsBudget) removeLocked(p *partialMessage) {
	at := slices.Index(b.held, p)
	b.held = slices.Delete(b.held, at, at+1)
	b.bytes -= p.size
}
