package main

// The pace of a handshake: how long each side waits for the other, and when a server computes. The rules:
//
//   - each message has its own deadline, which counts the wait for the other side and nothing else. A server that has
//     too much to do may therefore be slow, but breaks off no handshake for that;
//   - a server computes for as many handshakes at a time as it has processors, in the order in which messages arrived,
//     so that a crowd joins one by one instead of all too late. Handshakes of clients that it has admitted at stage 1
//     go first;
//   - a server computes nothing for a client that must have given up by then.
//
// Handshakes are also what a room needs its processors for: processors gives them all, and the room few.

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// handshakeTimeout bounds the wait for each message of a handshake and for the first message after it. It is the
	// patience of a client whose server is busy; a slow client in a crowd on a slow machine needs it too.
	handshakeTimeout = 60 * time.Second

	// slowServer is the time that a server may take for its part of a handshake before a client that leaves is taken to
	// have left because of it.
	slowServer = 2 * time.Second
)

// errBusy is wrapped if a handshake failed because this server was slow, which is not the client's fault.
var errBusy = errors.New("this server is busy")

// pacedConn is a connection during its handshake. Its user calls receive for each message of the other side and pause
// for each -delay. Only one goroutine may use it.
type pacedConn struct {
	net.Conn
	turns *turns       // nil for a client, which computes at once
	hear  func() error // called when a client's first message is received, and again at its turn; nil for a client

	began  time.Time
	away   time.Duration // since began, spent in receive and pause
	heard  bool          // the client's first message was received
	inTurn bool
}

func newPacedConn(conn net.Conn, turns *turns, hear func() error) *pacedConn {
	return &pacedConn{Conn: conn, turns: turns, hear: hear, began: time.Now()}
}

// Write sends one message. The other side has handshakeTimeout to read it. A server's turn ends with the call, so that
// a client which does not read holds up no other.
func (c *pacedConn) Write(b []byte) (int, error) {
	c.endTurn()
	if err := c.SetWriteDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// receive calls read, which receives one message, with handshakeTimeout from now as its deadline. When
// receive returns nil, a server has its turn to compute.
func (c *pacedConn) receive(read func() error) error {
	c.endTurn()
	begin := time.Now()
	if err := c.SetReadDeadline(begin.Add(handshakeTimeout)); err != nil {
		return err
	}
	err := read()
	c.away += time.Since(begin)
	if err != nil || c.turns == nil {
		return err
	}
	return c.takeTurn()
}

// takeTurn waits for the server's turn. An error means that the message need not be looked at any more.
func (c *pacedConn) takeTurn() error {
	first, begin := !c.heard, time.Now()
	c.heard = true
	if first {
		if err := c.hear(); err != nil {
			return err
		}
	}
	c.turns.take(first)
	c.inTurn = true
	if waited := time.Since(begin); waited >= handshakeTimeout {
		return fmt.Errorf("its message has waited %v for the processor: %w", waited.Round(time.Second), errBusy)
	}
	if first {
		if err := c.hear(); err != nil {
			return err
		}
	}
	return c.SetReadDeadline(time.Time{}) // fails if the server has closed the connection meanwhile
}

// endTurn ends the server's turn, if it has one.
func (c *pacedConn) endTurn() {
	if c.inTurn {
		c.inTurn = false
		c.turns.end()
	}
}

// pause sleeps for d, without a turn meanwhile.
func (c *pacedConn) pause(d time.Duration) {
	if c.inTurn {
		c.endTurn()
		defer func() { c.turns.take(false); c.inTurn = true }()
	}
	time.Sleep(d)
	c.away += d
}

// orBusy returns err, with which the handshake of a client failed, or in its place what is known if the client left
// while this server was slow.
func (c *pacedConn) orBusy(err error) error {
	if !closedByPeer(err) {
		return err
	}
	if took := time.Since(c.began) - c.away; took > slowServer {
		return fmt.Errorf("it left when the server had taken %v for its handshake: %w", took.Round(time.Second), errBusy)
	}
	if n := c.turns.waiting(); n > 0 && !c.heard {
		return fmt.Errorf("it left before saying who it is, while handshakes waited for the processor (%d): %w",
			n, errBusy)
	}
	return err
}

// receiveOn calls read, which receives one message of a handshake from conn, and paces it if conn is a pacedConn.
func receiveOn(conn net.Conn, read func() error) error {
	if c, ok := conn.(*pacedConn); ok {
		return c.receive(read)
	}
	return read()
}

// pauseOn sleeps for a -delay, which is no part of a turn if conn is a pacedConn.
func pauseOn(conn net.Conn, d time.Duration) {
	if c, ok := conn.(*pacedConn); ok {
		c.pause(d)
		return
	}
	time.Sleep(d)
}

// turns lets a fixed number of handshakes compute at a time. It may be used by any goroutine.
type turns struct {
	mu    sync.Mutex // guards the fields below
	free  int
	first queueOfTurns // for the first message of a client
	later queueOfTurns // for later messages, which go before these
}

// queueOfTurns is closed one by one, oldest first.
type queueOfTurns []chan struct{}

// newTurns returns turns of which n may be taken at a time.
func newTurns(n int) *turns { return &turns{free: n} }

// take waits for a turn. It may wait for as long as the turns before it take.
func (t *turns) take(first bool) {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return
	}
	mine := make(chan struct{})
	if first {
		t.first = append(t.first, mine)
	} else {
		t.later = append(t.later, mine)
	}
	t.mu.Unlock()
	<-mine
}

// end hands the turn on, or frees it.
func (t *turns) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range []*queueOfTurns{&t.later, &t.first} {
		if len(*q) > 0 {
			close((*q)[0])
			*q = (*q)[1:]
			return
		}
	}
	t.free++
}

// waiting returns how many handshakes wait for a turn.
func (t *turns) waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.first) + len(t.later)
}

// membersPerProcessor is how many more members make a room use one more processor.
const membersPerProcessor = 32

// processors sets how many processors Go code runs on. The lock of a room and its log let one goroutine work at a time,
// and on a second processor Go's scheduler wakes a thread for each batch of lines that finds little to do: a quarter of
// the server's time with ten members (docs/PERFORMANCE.md). But to many members the deliveries go out side by side, and
// handshakes compute side by side.
type processors struct {
	use func(n int) // sets the number; nil leaves it as it is
	all int         // that Go has used at the start; it follows no later change of a quota

	mu         sync.Mutex // guards the fields below, and is held while use is called
	handshakes int        // in progress
	members    int
}

// count adds to the handshakes that are in progress and to the members. Any goroutine may call it.
func (p *processors) count(handshakes, members int) {
	if p.use == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handshakes += handshakes
	p.members += members
	if p.handshakes > 0 {
		p.use(p.all)
		return
	}
	p.use(min(p.all, max(p.all/2, 1+p.members/membersPerProcessor)))
}
