package main

// The client: a person at a terminal, or a pipe. What is to be sent waits in the outbox until the server has acknowledged
// it, which the server does once the line is in its log.
//
// A stay in the room lasts over any number of connections. A context, client.ending, is done when the stay has to end soon,
// and its cause says why: a signal, -timeout, or errDone for everything that is no error: the person left, -count is
// reached, standard output is closed. Then the outbox takes no more lines, what it holds has leaveTimeout to be
// acknowledged, and after that a second context, client.over, is done. The end of piped input only closes the outbox:
// what it holds may take any time.

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	mrand "math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	dialTimeout  = 10 * time.Second
	firstBackoff = 200 * time.Millisecond // before the first attempt to reconnect; each further one doubles it,
	maxBackoff   = 15 * time.Second       // up to this
	leaveTimeout = 5 * time.Second        // for the last lines to be acknowledged
)

// clientConfig is what a client is made of. Nothing of it changes during the stay.
type clientConfig struct {
	endpoint
	addr      string // of the server, as the user typed it
	console   *console
	to        string        // the receiver of every line; "" for all (-to)
	stay      bool          // the end of the input does not end the stay (-stay)
	count     int           // messages after which the stay ends; 0 for no limit (-count)
	timeout   time.Duration // after which the stay ends; 0 for no limit (-timeout)
	pipe      *rawPipe      // -raw; nil for lines
	reconnect bool          // network trouble does not end the stay
	persist   bool          // nor does it before the first connection (-reconnect was given)
}

type client struct {
	clientConfig
	stream streamID
	box    *outbox
	people people
	asks   atomic.Bool // /who is to be sent
	place  place
	input  input
	failed atomic.Bool // something that the user asked for could not be done, which was reported

	ending context.Context // see the head of this file
	end    context.CancelCauseFunc
	over   context.Context
}

// place is how far the client has come in the room. The reader owns it during a connection, the dialer between two.
type place struct {
	epoch [8]byte
	seen  uint64 // the last item shown
	count int    // messages that -count still waits for
}

// input is how reading standard input ended. Its lock guards what the reader of the input and that of the room decide
// together: when both the input and the output are closed, the stay ends.
type input struct {
	mu       sync.Mutex
	ended    bool
	err      error // why it ended; nil for its regular end
	noOutput bool  // standard output is closed
}

// errDone is the cause of an end that is no error.
var errDone = errors.New("left")

// errLost is a session that ended before everything was acknowledged.
type errLost struct {
	unacknowledged int
	why            error
}

func (e *errLost) Error() string {
	if e.unacknowledged == 0 {
		return fmt.Sprintf("connection lost: %v; every line sent was acknowledged", e.why)
	}
	return fmt.Sprintf("connection lost: %v; %d lines not acknowledged, so perhaps not in the server's log", e.why, e.unacknowledged)
}

func (e *errLost) Unwrap() error { return e.why }

// errFailed is the end of a stay in which something could not be done that was reported then.
var errFailed = errors.New("some lines were not delivered; see the messages above")

// errRemoved is the end of a session by the operator. It is an answer, so the client does not reconnect.
var errRemoved = fmt.Errorf("%w: the operator removed this client", errServerLeft)

func newClient(c clientConfig) *client {
	cl := &client{clientConfig: c, box: newOutbox(), place: place{count: c.count}}
	rand.Read(cl.stream[:])
	return cl
}

// start makes the contexts of the stay. stop ends them.
func (c *client) start(ctx context.Context) (stop func()) {
	endTimeout := func() {}
	if c.timeout > 0 {
		ctx, endTimeout = context.WithTimeoutCause(ctx, c.timeout, errTimeout)
	}
	c.ending, c.end = context.WithCancelCause(ctx)
	var isOver context.CancelFunc
	c.over, isOver = context.WithCancel(context.Background())
	context.AfterFunc(c.ending, func() {
		c.box.close()
		time.AfterFunc(leaveTimeout, isOver)
	})
	return func() {
		endTimeout()
		c.end(errDone)
		isOver()
	}
}

// clientConn is one connection of a stay.
type clientConn struct {
	net.Conn
	link    link
	welcome welcome
}

// run joins the room and stays until everything is done or something fails for good.
func (c *client) run(ctx context.Context) error {
	defer c.start(ctx)()
	conn, err := c.connectFirst()
	if err != nil && !(c.persist && isTrouble(err)) {
		return err
	}
	if c.console.term != nil {
		c.console.term.complete = func(line string, pos int) []string { return completions(line, pos, clientHelp, c.people.names()) }
	}
	go func() { // ends with the input; with a terminal's, when the process does
		defer c.console.guard()
		c.inputEnded(c.readInput())
	}()
	backoff := backoff{next: firstBackoff}
	connected := "connected"
	for {
		if conn != nil {
			if connected == "connected" && c.console.term != nil { // before the first message is shown
				c.console.print(safe(fmt.Sprintf("securechat: joined %s as %s; an empty line leaves, /help lists the commands",
					c.addr, conn.welcome.name)))
			}
			connected = "connected again"
			began, acked := time.Now(), c.box.acknowledged()
			if err = c.session(conn); !c.goesOn(err) {
				return err
			}
			if time.Since(began) > maxBackoff || c.box.acknowledged() > acked {
				backoff.next = firstBackoff
			}
		}
		c.console.note("%v; connecting again", err)
		if conn, err = c.reconnectTo(&backoff); err != nil {
			if n := c.box.unacknowledged(); n > 0 {
				return &errLost{n, err}
			}
			return err
		}
		c.console.note("%s", connected)
	}
}

// goesOn reports whether the stay goes on after a session that ended with err.
func (c *client) goesOn(err error) bool {
	return c.reconnect && isTrouble(err) && !errors.Is(err, errRemoved) && c.over.Err() == nil
}

// isTrouble reports whether err is trouble of the network or a server that stops, which another connection may mend.
func isTrouble(err error) bool {
	return errors.As(err, new(*errLost)) || errors.Is(err, errServerLeft) || errors.As(err, new(errUnreachable))
}

// connectFirst makes the first connection. At a terminal it asks about an unknown server and connects again, since a
// server does not wait for a person during a handshake.
func (c *client) connectFirst() (*clientConn, error) {
	connect := func() (*clientConn, error) {
		if c.console.term != nil {
			c.console.term.await()
		}
		return c.connect(c.ending)
	}
	conn, err := connect()
	var u *untrusted
	if errors.As(err, &u) && u.kind == unknownKey && u.key != nil && c.console.term != nil {
		if err := c.ask(u.key); err != nil {
			return nil, err
		}
		conn, err = connect()
	}
	if err != nil && c.ending.Err() != nil {
		return nil, c.leftEarly("left before the connection was made")
	}
	return conn, err
}

// leftEarly returns the error of a stay that had to end while there was no connection.
func (c *client) leftEarly(text string) error {
	if errors.Is(context.Cause(c.ending), errTimeout) {
		return errTimeout
	}
	return errors.New(text)
}

// backoff is the pause before the next attempt to connect.
type backoff struct{ next time.Duration }

// pause waits, half to one and a half times as long as the time before doubled, or until ctx is done.
func (b *backoff) pause(ctx context.Context) {
	timer := time.NewTimer(b.next/2 + mrand.N(b.next))
	defer timer.Stop()
	b.next = min(2*b.next, maxBackoff)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// reconnectTo connects again, after pauses that grow, until an attempt succeeds or fails for good. A stay that has to end
// while it is disconnected ends at once; one that had to end before still has its time.
func (c *client) reconnectTo(b *backoff) (*clientConn, error) {
	until := c.ending
	if until.Err() != nil && c.over.Err() == nil {
		until = c.over
	}
	for {
		b.pause(until)
		if until.Err() != nil {
			return nil, c.leftEarly("left while the connection was down")
		}
		conn, err := c.connect(until)
		if err == nil || !isTrouble(err) && until.Err() == nil {
			return conn, err
		}
	}
}

// connect dials, runs the handshake and exchanges the first messages.
func (c *client) connect(ctx context.Context) (*clientConn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: c.protocol.keepAlive()}
	conn, err := dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, errUnreachable{fmt.Errorf("cannot reach %s: %s; is securechat -listen running there?", c.addr, netReason(err))}
	}
	joined, err := c.join(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return joined, nil
}

// join joins the room over conn, within the handshake's deadline.
func (c *client) join(ctx context.Context, conn net.Conn) (*clientConn, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, errUnreachable{err}
	}
	req := joinRequest{stream: c.stream, flags: joinListens, epoch: c.place.epoch, seen: c.place.seen}
	switch {
	case c.pipe != nil:
		req.flags = joinRaw
	case c.console.term != nil:
		req.flags |= joinPerson
	}
	server, l, w, err := c.protocol.dial(conn, req)
	if !stop() && err == nil { // ctx was done just then, and conn is closed
		l.wipe()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errUnreachable{err}
	}
	return &clientConn{conn, l, w}, c.joined(server, w)
}

// joined takes over what the server's welcome says.
func (c *client) joined(server *peer, w welcome) error {
	if !c.protocol.acknowledges() {
		return nil
	}
	c.console.setRoom(w.server, server.fingerprint, w.present)
	gap := w.flags&welcomeGap != 0
	if w.epoch != c.place.epoch || gap {
		if c.place.seen > 0 || gap {
			c.console.note("some of what was said meanwhile is gone: the server no longer holds it")
		}
		c.place.epoch, c.place.seen = w.epoch, w.seq
	}
	if err := c.box.resume(w.recorded); err != nil || w.recorded == 0 {
		return err
	}
	return c.shown(c.console.acked(w.recorded)) // their acknowledgement may have been lost with the connection
}

// session serves one connection to its end. A nil error means that everything was acknowledged and the goodbye was sent.
func (c *client) session(conn *clientConn) error {
	defer conn.Close()
	if err := c.shown(c.console.welcome(conn.welcome.name, conn.welcome.flags&welcomeGap != 0)); err != nil {
		return err
	}
	if c.console.term != nil {
		c.console.term.setPrompt(c.console.prompt(conn.welcome.name))
	}
	s := &clientSession{client: c, link: conn.link, stop: make(chan struct{})}
	var working sync.WaitGroup
	read, written := make(chan error, 1), make(chan error, 1)
	working.Go(func() { // ends when reading fails, which closing the connection makes it do
		defer c.console.guard()
		read <- s.read()
	})
	working.Go(func() { written <- s.write() }) // ends after the goodbye, a failed write, or stop
	defer func() {
		close(s.stop)
		conn.Close()
		if waitAtMost(&working, time.Second) { // longer only if standard output is stuck; then the process ends
			conn.link.wipe()
		}
	}()
	select {
	case err := <-written:
		// The reader may know better why a write failed, and may have acknowledgements to take.
		conn.link.setReadTimeout(goodbyeTimeout, false)
		defer time.AfterFunc(peerTimeout, func() { conn.Close() }).Stop()
		var readErr error
		select {
		case readErr = <-read:
		case <-c.over.Done():
			readErr = errors.New("the server's goodbye, or a reader of standard output, did not come in time")
		}
		if err == nil && s.handed.Load() == 0 {
			return c.result()
		}
		if err != nil && errors.Is(readErr, os.ErrDeadlineExceeded) {
			readErr = err
		}
		return s.lost(readErr)
	case err := <-read:
		if errors.Is(err, errServerLeft) && c.box.finished() && s.handed.Load() == 0 {
			return c.result()
		}
		return s.lost(err)
	case <-c.over.Done():
		return s.lost(errors.New("the server did not acknowledge in time"))
	}
}

// waitAtMost waits for wg, and reports whether that took less than d.
func waitAtMost(wg *sync.WaitGroup, d time.Duration) bool {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

// result is the end of a stay in which everything was acknowledged.
func (c *client) result() error {
	c.input.mu.Lock()
	err := c.input.err
	c.input.mu.Unlock()
	switch {
	case err != nil:
		return err
	case errors.Is(context.Cause(c.ending), errTimeout):
		return errTimeout
	case c.failed.Load():
		return errFailed
	}
	return nil
}

// inputEnded reports that standard input has ended, with an error or not.
func (c *client) inputEnded(err error) {
	c.input.mu.Lock()
	c.input.ended, c.input.err = true, err
	noOutput := c.input.noOutput
	c.input.mu.Unlock()
	switch {
	case c.console.term != nil || noOutput:
		c.end(errDone)
	case !c.stay || err != nil:
		c.box.close()
	}
}

// outputClosed reports that nothing reads standard output any more, as after head. What is piped in is still sent.
func (c *client) outputClosed() {
	c.console.mute()
	c.input.mu.Lock()
	c.input.noOutput = true
	ended := c.input.ended
	c.input.mu.Unlock()
	if ended || c.console.term != nil {
		c.end(errDone)
	}
}

// shown decides what an error of standard output means: if its reader is gone, nothing more is shown; any other error ends
// the stay.
func (c *client) shown(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE):
		c.outputClosed()
		return nil
	}
	return errPermanent{fmt.Errorf("cannot write standard output: %w", err)}
}

// ask lets the person decide about an unknown server, and pins its key: yes, no, or the fingerprint it should have.
func (c *client) ask(id ssh.PublicKey) error {
	print := fingerprint(id)
	c.console.notePlain("The server %s is unknown here. Its key is\n  %s %s\nCompare it with the one that the server showed at its start.",
		c.addr, id.Type(), print)
	c.console.term.setPrompt("Trust it? (yes / no / paste the fingerprint) ")
	defer c.console.term.setPrompt("")
	for {
		answer, _, err := c.console.term.readLine()
		if err != nil {
			return &untrusted{reason: c.addr + " was not trusted"}
		}
		answer = strings.TrimSpace(answer)
		switch {
		case answer == "yes" || slices.Contains(strings.Fields(answer), print):
			return c.trust.remember(c.addr, id)
		case answer == "no":
			return &untrusted{reason: c.addr + " was not trusted"}
		case strings.Contains(answer, "SHA256:"):
			return &untrusted{
				reason: fmt.Sprintf("the key of %s is %s, not the one you expect", c.addr, print),
				hint:   "someone may be in the middle: do not connect from this network before you know why",
			}
		}
		c.console.term.setPrompt("Please type yes, no, or the fingerprint: ")
	}
}

// readInput fills the outbox from the console until the input ends. It returns an error if some of it could not be sent.
func (c *client) readInput() error {
	var failed error
	afterPaste := false
	for {
		line, pasted, err := c.console.read()
		switch {
		case errors.As(err, new(errLongLine)):
			c.console.rejectLine(err)
			failed = err
			continue
		case err == io.EOF || err == errInterrupt:
			return failed
		case err != nil:
			return fmt.Errorf("reading standard input: %w", err)
		}
		if c.console.term != nil && len(line) == 0 && !pasted {
			if !afterPaste {
				return failed // an empty line leaves, as in the paper
			}
			afterPaste = false // Enter was to send the paste, which its last newline has sent already
			continue
		}
		afterPaste = pasted
		out, send, leave, err := c.parse(line, pasted)
		switch {
		case err != nil:
			failed = errFailed
			continue
		case leave:
			return failed
		case !send:
			continue
		}
		if !c.box.add(out, c.console.lines == nil || !c.console.lines.ready()) {
			return failed
		}
	}
}

// parse returns what a line of the input says. It runs commands of a person, and reports what cannot be sent; an error
// means that a program's line could not be.
func (c *client) parse(line []byte, pasted bool) (out outLine, send, leave bool, err error) {
	out = outLine{text: line, what: itemSay}
	if c.to != "" {
		out.what, out.to = itemDirect, c.to
	}
	switch {
	case c.console.json:
		if out, _, err = parseObject(line, out, ""); err != nil {
			c.console.rejectLine(err)
			return out, false, false, err
		}
		if out.text == nil {
			return out, false, false, nil // an object that says nothing
		}
	case c.console.term != nil && !pasted:
		if out, send, leave = c.command(line); !send {
			return out, false, leave, nil
		}
	}
	if err := c.protocol.check(out); err != nil {
		if c.console.lines == nil {
			c.console.note("%v", err)
			return out, false, false, nil
		}
		c.console.note("line %d: %v", c.console.lines.number, err)
		return out, false, false, err
	}
	return out, true, false, nil
}

// command runs what a person typed, or returns it with send if it is to be sent.
func (c *client) command(line []byte) (out outLine, send, leave bool) {
	out, name, _, err := parseTyped(line)
	switch {
	case err != nil:
		c.console.notePlain("%v", err)
	case name == "":
		return out, true, false
	case name == "/who":
		c.asks.Store(true)
		wake(c.box.wake)
	case name == "/quit":
		return out, false, true
	case name == "/help":
		c.console.notePlain("%s", clientHelp)
	default:
		c.console.notePlain(unknownCommand, name)
	}
	return out, false, false
}

// clientSession is what the reader and the writer of one connection share.
type clientSession struct {
	*client
	link    link
	stop    chan struct{} // closed when the writer has to end
	handed  atomic.Uint64 // lines sent that only the server's close confirms (kindSent)
	removed bool          // by the operator; the reader's
}

// lost is the end of a session in which not everything was acknowledged, or the server closed it.
func (s *clientSession) lost(err error) error {
	switch {
	case errors.As(err, new(errPermanent)):
		return err
	case errors.Is(err, errBadPacket):
		return fmt.Errorf("%w: possible man-in-the-middle attack; the session was ended", err)
	}
	n := s.box.unacknowledged() + int(s.handed.Load())
	if n == 0 && errors.Is(err, errServerLeft) {
		return err
	}
	why := err
	switch {
	case errors.Is(err, errServerLeft):
	case errors.Is(err, os.ErrDeadlineExceeded):
		why = errors.New("nothing heard from the server for too long")
	default:
		why = errors.New(netReason(err))
	}
	return &errLost{n, why}
}

// write sends what is in the outbox, and secure-close when the outbox is closed and everything is acknowledged.
func (s *clientSession) write() error {
	ping := time.NewTimer(pingInterval)
	defer ping.Stop()
	var buf, payload []byte
	var taken []outLine
	for {
		first, batch, done := s.box.take(taken[:0])
		taken = batch
		buf = buf[:0]
		var err error
		if done {
			return writeMessage(s.link, kindClose, []byte(closeText))
		}
		if s.asks.Swap(false) {
			if buf, err = s.link.append(buf, kindWho, nil); err != nil {
				return err
			}
		}
		for len(batch) > 0 {
			n := 0
			n, payload = packLines(payload[:0], first, batch)
			if buf, err = s.link.append(buf, kindText, payload); err != nil {
				return err
			}
			batch, first = batch[n:], first+uint64(n)
		}
		if len(buf) == 0 {
			select {
			case <-s.box.wake:
				continue
			case <-s.stop:
				return nil
			case <-ping.C:
				if buf, err = s.link.append(buf, kindPing, nil); err != nil {
					return err
				}
			}
		}
		if err := s.link.write(buf); err != nil {
			return err
		}
		ping.Reset(pingInterval)
	}
}

// packLines appends a message of the first lines of batch to payload, as many as have one kind and receiver and fit a
// packet, and returns their number.
func packLines(payload []byte, first uint64, batch []outLine) (int, []byte) {
	what, to := batch[0].what, batch[0].to
	payload = appendLinesHeader(payload, first, what, to)
	n := 0
	for n < len(batch) && batch[n].what == what && batch[n].to == to &&
		(n == 0 || len(payload)+binary.MaxVarintLen32+len(batch[n].text) <= maxBatch) {
		payload = appendLine(payload, batch[n].text)
		n++
	}
	return n, payload
}

// read shows what the room says and takes acknowledgements until the session ends.
func (s *clientSession) read() error {
	s.link.setReadTimeout(peerTimeout, true)
	for {
		if !s.link.ready() {
			if err := s.shown(s.console.flush()); err != nil {
				return err
			}
		}
		kind, payload, err := s.link.read()
		if err != nil {
			return err
		}
		switch {
		case kind == kindText:
			err = s.show(payload)
		case kind == kindAck && len(payload) == 8:
			n := binary.BigEndian.Uint64(payload)
			if err = s.box.acknowledge(n); err == nil {
				err = s.shown(s.console.acked(n))
			}
		case kind == kindSent:
			n := binary.BigEndian.Uint64(payload)
			s.handed.Store(n)
			err = s.box.acknowledge(n)
		case kind == kindPing:
		case kind == kindClose && string(payload) == closeText:
			return s.closed()
		default:
			return errMalformed
		}
		if err != nil {
			return err
		}
	}
}

// closed is the server's secure-close.
func (s *clientSession) closed() error {
	s.handed.Store(0) // a server that closes has read everything
	if err := s.shown(s.console.flush()); err != nil {
		return err
	}
	if s.removed {
		return errRemoved
	}
	return errServerLeft
}

// show shows the items of a message.
func (s *clientSession) show(payload []byte) error {
	for len(payload) > 0 {
		it, rest, err := cutItem(payload)
		if err != nil {
			return err
		}
		payload = rest
		s.people.saw(it)
		s.removed = s.removed || it.what == itemRemoved
		s.place.seen = max(s.place.seen, it.seq)
		if it.what == itemUndelivered && s.console.term == nil {
			s.failed.Store(true)
		}
		if err := s.shown(s.console.show(it)); err != nil {
			return err
		}
		if it.what > itemDirect || s.place.count == 0 {
			continue
		}
		if s.place.count--; s.place.count == 0 {
			if err := s.shown(s.console.flush()); err != nil {
				return err
			}
			s.console.mute()
			s.end(errDone)
		}
	}
	return nil
}

// carry carries bytes (-raw).
func (c *client) carry(ctx context.Context) error {
	defer c.start(ctx)()
	conn, err := c.connectFirst()
	if err != nil {
		return err
	}
	return c.pipe.carry(c.ending, conn, conn.link.(*session)) // only securechat/2 has -raw
}

// people are the names that a client has seen in the room, for completion.
type people struct {
	mu   sync.Mutex
	here map[string]struct{} // maxPeople at most
}

const maxPeople = 1 << 10

// saw takes over who came or left by an item.
func (p *people) saw(it item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if it.what == itemLeave {
		delete(p.here, it.name)
		return
	}
	if it.name == "" || len(p.here) >= maxPeople {
		return
	}
	if p.here == nil {
		p.here = map[string]struct{}{}
	}
	p.here[it.name] = struct{}{}
}

// names lists the names in order.
func (p *people) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.here))
}
