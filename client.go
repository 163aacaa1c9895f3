package main

// The client: a person at a terminal, or a pipe. The outbox holds each line until the server has acknowledged it, which
// the server does once the line is in its log. A client's stay in the room lasts over any number of connections. These
// things end it:
//
//   - A signal, -timeout, -count, and at a terminal an empty line, /quit, Ctrl-D or a closed standard output make the
//     client leave: it reads no more input, and the lines in the outbox have leaveTimeout to be acknowledged. A client
//     that has no connection at that moment does not wait for one.
//   - The end of piped input ends the stay once every line is acknowledged, however long that takes, and over as many
//     connections as it takes. With -stay it ends nothing until standard output is closed.
//   - The end of a connection ends the stay, unless another connection may help (-reconnect).
//
// The result is nil if every line was acknowledged and the stay ended for none of the reasons that are errors.

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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	dialTimeout  = 10 * time.Second
	firstBackoff = 200 * time.Millisecond // the mean of the first pause before connecting again; each doubles
	maxBackoff   = 15 * time.Second       // the mean of the longest pause
	leaveTimeout = 5 * time.Second        // for the last lines to be acknowledged
)

// clientConfig is a plain record of what a client does. Nothing in it changes.
type clientConfig struct {
	endpoint
	addr          string // of the server, as the user typed it
	console       *console
	pipe          *rawPipe      // carries bytes in place of lines (-raw); nil without
	to            string        // the receiver of every line; "" for all (-to)
	keepReceiving bool          // the end of the input does not end the stay (-stay)
	count         int           // messages after which the client leaves; 0 for no limit (-count)
	last          int           // messages from before the first connection that the client asks for (-last)
	place         place         // where the client goes on (-resume, -since)
	timeout       time.Duration // after which the client leaves; 0 for no limit (-timeout)
	reconnect     bool          // connect again after network trouble
	persist       bool          // do so even if the first connection cannot be made (-reconnect was given)
}

// client is one client process, over all its connections.
type client struct {
	clientConfig
	stay
	stream       streamID
	box          *outbox
	left         int // messages that -count still waits for; the reader's
	people       people
	asksWho      atomic.Bool   // the writer has to send kindWho
	asksHistory  atomic.Uint64 // the writer has to send kindHistory with this number, unless it is 0
	losses       losses
	progress     atomic.Bool   // something was acknowledged or received since remain last looked
	undelivered  atomic.Bool   // a line reached no receiver, and that was reported
	wholeInput   atomic.Bool   // the input was read to its end
	refused      atomic.Int64  // lines of the input that were read after the client left
	inputErr     chan error    // of capacity 1: the error, or nil, with which the input ended
	outputClosed chan struct{} // of capacity 1: standard output is closed
}

// newClient makes a client for one call of run.
func newClient(config clientConfig) *client {
	box := newOutbox()
	c := &client{
		clientConfig: config, stay: newStay(box), box: box,
		inputErr: make(chan error, 1), outputClosed: make(chan struct{}, 1),
	}
	c.left = config.count
	rand.Read(c.stream[:])
	return c
}

// stay ends in two steps. A client that is leaving waits only for acknowledgements; once the stay is over the client
// waits for nothing.
type stay struct {
	leaving context.Context         // done once the client leaves; the cause says why
	leave   context.CancelCauseFunc // the first cause counts
	over    context.Context         // done leaveTimeout after leaving at the latest
	stop    context.CancelFunc      // ends over
}

// Causes of leaving that are no errors. The others are errTimeout and an errSignal.
var (
	errQuit         = errors.New("the user left")
	errCountReached = errors.New("-count was reached")
	errOutputClosed = errors.New("standard output is closed")
)

// errSignal is a signal as the cause of leaving.
type errSignal struct{ error }

// newStay returns a stay. When the client leaves, box takes no more lines.
func newStay(box *outbox) stay {
	var s stay
	s.leaving, s.leave = context.WithCancelCause(context.Background())
	s.over, s.stop = context.WithCancel(context.Background())
	context.AfterFunc(s.leaving, func() {
		box.close()
		time.AfterFunc(leaveTimeout, s.stop)
	})
	return s
}

// waitEnd is done when a wait that may be in vain, for a connection or for a goodbye, has to end: at once when the
// client leaves, and if it is leaving already, when the stay is over.
func (s *stay) waitEnd() context.Context {
	if s.leaving.Err() != nil {
		return s.over
	}
	return s.leaving
}

// errLost is the end of a stay by the end of a connection: some lines may be lost.
type errLost struct {
	unacknowledged int
	why            error
}

func (e *errLost) Error() string {
	if e.unacknowledged == 0 {
		return fmt.Sprintf("connection lost: %v; every line sent was acknowledged", e.why)
	}
	return fmt.Sprintf("connection lost: %v; %s not acknowledged, so perhaps not in the server's log",
		e.why, counted(e.unacknowledged, "line"))
}

func (e *errLost) Unwrap() error { return e.why }

// losses is what the client has found out about its lines when it came back to the server. The goroutine that connects
// owns it. A line that the server may have recorded already was sent again under the same number.
type losses struct {
	acknowledged uint64 // lines that the server acknowledged and no longer has
	doubtful     uint64 // lines that the server may have recorded twice
	within       span   // the first and the last of these
}

// add adds what outbox.resume reports.
func (l *losses) add(lost, doubtful span) {
	l.acknowledged += lost.len()
	if doubtful.len() == 0 {
		return
	}
	if l.doubtful == 0 {
		l.within = doubtful
	}
	l.within = span{min(l.within.first, doubtful.first), max(l.within.last, doubtful.last)}
	l.doubtful = min(l.doubtful+doubtful.len(), l.within.len())
}

// errIncomplete is the end of a stay in which lines were lost, recorded twice or not read, as far as the client knows.
type errIncomplete []string

func (e errIncomplete) Error() string { return strings.Join(e, "; ") }

var (
	// errFailed is the end of a stay in which some lines were not delivered. Each was reported when that was known.
	errFailed = errors.New("some lines were not delivered; see the messages above")

	// errOffline is the end of a stay by leaving without a connection.
	errOffline = errors.New("left while there was no connection")

	// errRemoved is the end of a session by the operator. The client does not reconnect.
	errRemoved = fmt.Errorf("%w: the operator removed this client", errServerLeft)
)

// run joins the room and stays until everything is done or something fails for good. The end of ctx makes the client
// leave.
func (c *client) run(ctx context.Context) error {
	defer c.stop()
	defer context.AfterFunc(ctx, func() { c.leave(errSignal{context.Cause(ctx)}) })()
	if c.timeout > 0 {
		defer time.AfterFunc(c.timeout, func() { c.leave(errTimeout) }).Stop()
	}
	conn, err := c.connectFirst()
	if err != nil && !(c.persist && isTrouble(err)) {
		return err
	}
	if c.pipe != nil {
		return c.carry(conn)
	}
	if c.console.term != nil {
		readCommands(c.console, clientHelp, c.people.names)
	}
	go c.input() // ends with the input, and with -stay the stay; else with the process
	return c.complete(c.remain(conn, err))
}

// complete adds to err, the result of remain, what else keeps the stay from having delivered everything once.
func (c *client) complete(err error) error {
	var also errIncomplete
	if n := c.losses.acknowledged; n > 0 {
		also = append(also, "the server no longer has "+counted(n, "line")+" that it acknowledged")
	}
	if n := c.losses.doubtful; n > 0 {
		which := c.losses.within.String()
		if n < c.losses.within.len() {
			which = fmt.Sprintf("%d of the %v", n, c.losses.within)
		}
		also = append(also, which+" may be recorded already, and with the same numbers again")
	}
	sent, unread := c.box.acknowledged(), c.refused.Load()
	stopped := errors.As(context.Cause(c.leaving), new(errSignal)) && c.console.term == nil && !c.wholeInput.Load()
	if stopped && sent+uint64(unread) > 0 {
		text := fmt.Sprintf("a signal came before the end of the input: %s sent", counted(sent, "line"))
		if unread > 0 {
			text += fmt.Sprintf(", at least %d not sent", unread)
		}
		also = append(also, text)
	}
	switch {
	case len(also) == 0:
		return err
	case err == nil:
		return also
	}
	return fmt.Errorf("%w; %w", err, also)
}

// carry carries bytes with -raw, which has no -reconnect, until that is done, the client leaves, or the server is no
// longer trusted.
func (c *client) carry(conn *clientConn) error {
	ctx, stop := context.WithCancelCause(c.leaving)
	defer stop(nil)
	go func() { // ends with ctx
		if err := c.watchTrust(conn.server, ctx.Done()); err != nil {
			stop(err)
		}
	}()
	return c.pipe.carry(ctx, conn, conn.link.(*session)) // only securechat/2 has -raw
}

// remain serves one connection after the other until the stay ends. Without a first connection conn is nil, and err is
// the reason.
func (c *client) remain(conn *clientConn, err error) error {
	pause := backoff{next: firstBackoff}
	for joined := false; ; {
		if conn != nil {
			if !joined && c.console.term != nil { // before the first message is shown
				c.console.print(safe(fmt.Sprintf("securechat: joined %s as %s; "+
					"an empty line leaves, /help lists the commands", c.addr, conn.welcome.name)))
			}
			joined = true
			began := time.Now()
			err = c.session(conn)
			if err == nil {
				return c.result()
			}
			if !c.reconnect || !isTrouble(err) || c.over.Err() != nil {
				return err
			}
			if c.progress.Swap(false) || time.Since(began) > maxBackoff {
				pause.next = firstBackoff
			}
		}
		c.console.inform("%v; connecting again", err)
		conn, err = c.connectAgain(&pause)
		if err != nil {
			if n := c.box.unacknowledged(); n > 0 {
				return &errLost{n, err}
			}
			return err
		}
		c.console.inform("connected to %s", c.addr)
	}
}

// isTrouble reports whether err is trouble of the network, or a server that stops: another connection may succeed.
func isTrouble(err error) bool {
	if errors.Is(err, errRemoved) || errors.As(err, new(*untrusted)) {
		return false
	}
	return errors.As(err, new(*errLost)) || errors.Is(err, errServerLeft) || errors.As(err, new(errUnreachable))
}

// result is the result of a stay in which every line was acknowledged.
func (c *client) result() error {
	select {
	case err := <-c.inputErr:
		if err != nil {
			return err
		}
	default: // the input has not ended
	}
	switch {
	case errors.Is(context.Cause(c.leaving), errTimeout):
		return errTimeout
	case c.undelivered.Load():
		return errFailed
	}
	return nil
}

// connectFirst makes the first connection. If the process has a terminal, it asks about an unknown server and connects
// again, because a server does not wait for a person during a handshake.
func (c *client) connectFirst() (*clientConn, error) {
	conn, err := c.connectInterruptibly()
	var u *untrusted
	if !errors.As(err, &u) || u.kind != unknownKey || u.key == nil {
		return conn, err
	}
	term := c.console.questions()
	if term == nil {
		return nil, err
	}
	if err := c.ask(term, u.key); err != nil {
		return nil, err
	}
	return c.connectInterruptibly()
}

// connectInterruptibly connects before anything is typed. Ctrl-C is a signal meanwhile, because no prompt reads it.
func (c *client) connectInterruptibly() (*clientConn, error) {
	if c.console.term != nil {
		c.console.term.await()
	}
	return c.connect(c.leaving)
}

// connectAgain makes attempts to connect until one succeeds or fails for good.
func (c *client) connectAgain(pause *backoff) (*clientConn, error) {
	ctx := c.waitEnd()
	for {
		pause.wait(ctx)
		conn, err := c.connect(ctx)
		if err == nil || !isTrouble(err) {
			return conn, err
		}
	}
}

// backoff is the pause before the next attempt to connect.
type backoff struct{ next time.Duration }

// wait waits for half to one and a half times next, or until ctx is done, and doubles next.
func (b *backoff) wait(ctx context.Context) {
	timer := time.NewTimer(b.next/2 + mrand.N(b.next))
	defer timer.Stop()
	b.next = min(2*b.next, maxBackoff)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// clientConn is one connection to the room.
type clientConn struct {
	net.Conn
	server  *peer
	link    link
	welcome welcome
}

// connect dials, runs the handshake and exchanges the first messages. Its error is errTimeout or errOffline once ctx is
// done.
func (c *client) connect(ctx context.Context) (*clientConn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: c.protocol.keepAlive()}
	conn, err := dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		err = fmt.Errorf("cannot reach %s: %s; is securechat -listen running there?", c.addr, netReason(err))
		err = errUnreachable{err}
		return nil, c.orOffline(ctx, err)
	}
	joined, err := c.join(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, c.orOffline(ctx, err)
	}
	return joined, nil
}

// orOffline returns err, or why there are no further attempts to connect once ctx is done. A failed check and a refusal
// stay as they are.
func (c *client) orOffline(ctx context.Context, err error) error {
	switch {
	case ctx.Err() == nil || !isTrouble(err):
		return err
	case errors.Is(context.Cause(c.leaving), errTimeout):
		return errTimeout
	}
	return errOffline
}

// join joins the room over conn.
func (c *client) join(ctx context.Context, conn net.Conn) (*clientConn, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req := joinRequest{stream: c.stream, flags: joinListens}
	switch {
	case c.pipe != nil:
		req.flags = joinRaw
	case c.place.known:
		req.flags |= joinPlace
		req.epoch, req.seen = c.place.epoch, c.place.seen
	case c.last > 0:
		req.flags |= joinLast
		req.seen = uint64(c.last)
	}
	if c.console.term != nil {
		req.flags |= joinPerson
	}
	server, l, w, err := c.protocol.dial(newPacedConn(conn, nil, nil), req)
	if err != nil {
		return nil, err
	}
	if !stop() { // ctx was done just then, and conn is closed
		l.wipe()
		return nil, errUnreachable{net.ErrClosed}
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		l.wipe()
		return nil, errUnreachable{err}
	}
	if err := c.takeWelcome(server, w); err != nil {
		l.wipe()
		return nil, err
	}
	return &clientConn{conn, server, l, w}, nil
}

// takeWelcome applies the server's welcome to the console, the place and the outbox.
func (c *client) takeWelcome(server *peer, w welcome) error {
	if !c.protocol.acknowledges() {
		return nil
	}
	c.console.setRoom(w.server, server.fingerprint, w.present)
	if w.flags&welcomeGap != 0 {
		c.console.note("some messages were missed: the server no longer has them")
	}
	c.place.known, c.place.epoch, c.place.seen = true, w.epoch, w.seq
	if err := c.place.keep(); err != nil {
		return errPermanent{err}
	}
	acked := c.box.acknowledged()
	lost, doubtful, err := c.box.resume(w.recorded, w.flags&welcomeForgotten != 0)
	if err != nil {
		return err
	}
	c.losses.add(lost, doubtful)
	if n := lost.len(); n > 0 {
		c.console.note("the server no longer has %s that it acknowledged: %v", counted(n, "line"), lost)
	}
	if doubtful.len() > 0 {
		c.console.note("the server has forgotten which lines of this client it has: "+
			"%v may be recorded already; sending again", doubtful)
	}
	if w.recorded <= acked {
		return nil
	}
	c.progress.Store(true) // the acknowledgement was lost with the connection before
	return c.printed(c.console.acked(w.recorded))
}

// printed decides what an error of standard output means. If nothing reads it any more, as after head, nothing more is
// printed, and lines that are piped in are still sent. Any other error ends the stay.
func (c *client) printed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE):
		c.console.mute()
		wake(c.outputClosed)
		if c.console.term != nil {
			c.leave(errOutputClosed)
		}
		return nil
	}
	return errPermanent{fmt.Errorf("cannot write standard output: %w", err)}
}

// ask lets the person decide about an unknown server, and pins its key: yes, no, or the fingerprint it should have.
func (c *client) ask(term *terminal, id ssh.PublicKey) error {
	print := fingerprint(id)
	term.print(fmt.Sprintf("The server %s is unknown here. Its key is\n  %s %s\n"+
		"Compare it with the one that the server showed at its start.", safe(c.addr), safe(id.Type()), print))
	term.setPrompt("Trust it? (paste the fingerprint / yes / no) ")
	defer term.setPrompt("")
	for {
		answer, pasted, err := c.answer(term)
		switch {
		case errors.Is(err, errTimeout):
			return err
		case err != nil:
			return &untrusted{reason: c.addr + " was not trusted"}
		}
		answer = strings.TrimSpace(answer)
		switch {
		case answer == "yes" && !pasted || slices.Contains(strings.Fields(answer), print):
			return c.trust.remember(c.addr, id)
		case answer == "no":
			return &untrusted{reason: c.addr + " was not trusted"}
		case strings.Contains(answer, "SHA256:"):
			return &untrusted{
				reason: fmt.Sprintf("the key of %s is %s, not the one you expect", c.addr, print),
				hint:   "someone may be in the middle: do not connect from this network before you know why",
			}
		}
		term.setPrompt("Please type yes, no, or the fingerprint: ")
	}
}

// answer is readLine of the terminal, but returns an error when the client leaves, as after a signal.
func (c *client) answer(term *terminal) (line string, pasted bool, err error) {
	type result struct {
		line   string
		pasted bool
		err    error
	}
	read := make(chan result, 1)
	go func() { // ends with the line, else with the process
		defer c.console.guard()
		line, pasted, err := term.readLine()
		read <- result{line, pasted, err}
	}()
	select {
	case r := <-read:
		return r.line, r.pasted, r.err
	case <-c.leaving.Done():
		return "", false, context.Cause(c.leaving)
	}
}

// input reads the input until it ends, and then makes the stay end.
func (c *client) input() {
	defer c.console.guard()
	if c.console.term != nil {
		c.inputErr <- c.readTyped()
		c.leave(errQuit)
		return
	}
	err := c.readPiped()
	c.inputErr <- err
	if c.keepReceiving && err == nil {
		select {
		case <-c.outputClosed:
		case <-c.leaving.Done():
		}
	}
	c.box.close()
}

// readTyped fills the outbox with what a person types, until the person leaves.
func (c *client) readTyped() error {
	for {
		line, pasted, err := c.console.read()
		switch {
		case err == io.EOF || err == errInterrupt:
			return nil
		case err != nil:
			return fmt.Errorf("reading standard input: %w", err)
		case len(line) == 0 && !pasted:
			return nil // an empty line leaves, as in the paper
		}
		out, send := outLine{text: line, what: itemSay}, true
		if !pasted {
			var quit bool
			out, send, quit = c.command(line)
			if quit {
				return nil
			}
		}
		if !send {
			continue
		}
		out, err = c.address(out)
		if err == nil {
			err = c.protocol.check(out)
		}
		if err != nil {
			c.console.note("%v", err)
			continue
		}
		if !c.box.add(out, true) {
			return nil
		}
	}
}

// command runs a typed command, or returns a line to send.
func (c *client) command(line []byte) (out outLine, send, quit bool) {
	out, name, arg, err := parseTyped(line)
	switch {
	case err != nil:
		c.console.notePlain("%v", err)
	case name == "":
		return out, true, false
	case name == "/who":
		c.people.ask()
		c.asksWho.Store(true)
		wake(c.box.wake)
	case name == "/history":
		c.askHistory(arg)
	case name == "/quit":
		return out, false, true
	case name == "/help":
		c.console.notePlain(clientHelp)
	default:
		c.console.notePlain(unknownCommand, name)
	}
	return out, false, false
}

// askHistory makes the writer ask for the last messages, as many as arg says.
func (c *client) askHistory(arg string) {
	n, err := strconv.ParseUint(arg, 10, 32)
	switch {
	case err != nil || n == 0:
		c.console.notePlain("/history N shows the last N messages once more")
	case !c.protocol.acknowledges():
		c.console.notePlain("the paper's protocol has no history")
	default:
		c.asksHistory.Store(n)
		wake(c.box.wake)
	}
}

// readPiped fills the outbox with the lines of a pipe until the pipe ends. It returns an error if some of them could
// not be sent.
func (c *client) readPiped() error {
	var failed error
	for {
		if !c.console.lines.ready() {
			wake(c.box.wake) // the next line may take long to come
		}
		line, _, err := c.console.read()
		switch {
		case err == io.EOF:
			c.wholeInput.Store(true)
			return failed
		case errors.As(err, new(errLongLine)):
			c.console.rejectLine(err)
			failed = errFailed
			continue
		case err != nil:
			return fmt.Errorf("reading standard input: %w", err)
		}
		out, err := c.address(outLine{text: line, what: itemSay})
		if err == nil && c.console.json {
			out, _, err = parseObject(line, out, "")
		}
		if err == nil {
			err = c.protocol.check(out)
		}
		if err != nil {
			c.console.rejectLine(err)
			failed = errFailed
			continue
		}
		if out.text == nil {
			continue // an object that is no message
		}
		if !c.box.add(out, false) {
			c.refused.Store(1 + int64(c.console.lines.buffered()))
			return failed
		}
	}
}

// address gives a line the receiver that -to names.
func (c *client) address(out outLine) (outLine, error) {
	switch {
	case c.to == "" || out.what == itemDirect:
		return out, nil
	case out.what == itemAction:
		return out, fmt.Errorf("not sent: /me goes to everyone, and with -to every line is for %s alone", c.to)
	}
	out.what, out.to = itemDirect, c.to
	return out, nil
}

// session serves one connection to its end. A nil error means that every line was acknowledged and that one side has
// sent secure-close.
func (c *client) session(conn *clientConn) error {
	s := &clientSession{
		client: c, clientConn: conn, quit: make(chan struct{}),
		read: make(chan error, 1), written: make(chan error, 1), distrusted: make(chan error, 1),
		report: newReadReport(conn.welcome.seq, c.protocol.acknowledges()),
	}
	defer s.close()
	if err := s.printed(s.console.welcome(conn.welcome)); err != nil {
		return err
	}
	s.console.enterRoom(conn.welcome.name)
	if c.console.term != nil && c.protocol.acknowledges() {
		s.people.want()
		s.asksWho.Store(true)
	}
	s.working.Go(s.reader)
	s.working.Go(s.writer)
	s.working.Go(func() {
		if err := c.watchTrust(conn.server, s.quit); err != nil {
			s.distrusted <- err
		}
	})
	select {
	case err := <-s.read:
		return s.outcome(err, false)
	case err := <-s.written:
		readErr := s.readEnd()
		if err != nil && errors.Is(readErr, os.ErrDeadlineExceeded) {
			readErr = err
		}
		return s.outcome(readErr, err == nil)
	case err := <-s.distrusted:
		if n := s.box.unacknowledged(); n > 0 {
			return &errLost{n, err}
		}
		return err
	case <-c.over.Done():
		return s.outcome(errors.New("the server did not acknowledge in time"), false)
	}
}

// clientSession is one connection in use. One goroutine reads, one writes, and one watches the files of trust.
type clientSession struct {
	*client
	*clientConn
	working    sync.WaitGroup
	quit       chan struct{} // closed to end the writer and the watcher
	read       chan error    // why the reader has ended; of capacity 1
	written    chan error    // why the writer has ended, nil after secure-close; of capacity 1
	distrusted chan error    // why the server is no longer trusted; of capacity 1
	removed    bool          // the operator has removed this client; the reader's
	report     *readReport
}

// reader ends when reading fails, which closing the connection makes it do, unless standard output is stuck.
func (s *clientSession) reader() {
	defer s.console.guard()
	s.read <- s.receive()
}

// writer ends after secure-close, when writing fails, or when quit is closed.
func (s *clientSession) writer() { s.written <- s.send() }

// readEnd waits for the reader after the writer has ended: acknowledgements and the server's secure-close may still
// arrive, and the reader's error may explain why a write failed. A wait for standard output has no time limit.
func (s *clientSession) readEnd() error {
	s.link.setReadTimeout(goodbyeTimeout, false)
	select {
	case err := <-s.read:
		return err
	case <-s.waitEnd().Done():
		s.stop() // the reader is stuck, so there can be no other one
		return errors.New("the server's secure-close, or a reader of standard output, did not come in time")
	}
}

// watchTrust checks the server's key again when known_hosts or revoked_keys change, or its certificate expires. It
// returns why the server is no longer trusted, or nil once quit is closed.
func (c *client) watchTrust(server *peer, quit <-chan struct{}) error {
	files, end := c.protocol.watch(), certificateEnd(server.key)
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	now, due := time.Now(), true // a server can keep the client waiting between its decision and the watch
	for {
		if due {
			if err := c.protocol.recheckServer(server, now); isRefusal(err) {
				return err
			}
		}
		select {
		case <-quit:
			return nil
		case now = <-ticker.C:
			due = files.changed(now) || hasPassed(end, now)
		}
	}
}

// close ends the goroutines and the connection.
func (s *clientSession) close() {
	close(s.quit)
	s.Close()
	idle := make(chan struct{})
	go func() { // ends with the reader and the writer
		s.working.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		s.link.wipe()
	case <-time.After(time.Second): // standard output is stuck, and the process is about to end
	}
}

// outcome is the result of a session whose reader has ended with err. goodbye reports that secure-close was sent.
func (s *clientSession) outcome(err error, goodbye bool) error {
	left := errors.Is(err, errServerLeft)
	n := s.box.unacknowledged()
	switch {
	case errors.As(err, new(errPermanent)):
		return err
	case errors.Is(err, errBadPacket):
		return fmt.Errorf("%w: possible man-in-the-middle attack; the session was ended", err)
	case (goodbye || left) && s.box.finished():
		return nil
	case left && n == 0:
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("nothing heard from the server for too long")
	case !left:
		err = errors.New(netReason(err))
	}
	return &errLost{n, err}
}

// send sends what is in the outbox, and secure-close once the outbox is closed and everything is acknowledged.
func (s *clientSession) send() error {
	ping := time.NewTimer(pingInterval)
	defer ping.Stop()
	defer s.report.timer.Stop()
	var buf, payload []byte
	var taken []outLine
	for {
		first, batch, done := s.box.take(taken[:0])
		taken = batch
		buf = buf[:0]
		var err error
		if done {
			if buf, err = s.report.append(buf, s.link, true); err == nil {
				buf, err = s.link.append(buf, kindClose, []byte(closeText))
			}
			if err != nil {
				return err
			}
			return s.link.write(buf)
		}
		buf, err = s.appendRequests(buf)
		if err != nil {
			return err
		}
		buf, err = s.report.append(buf, s.link, false)
		if err != nil {
			return err
		}
		for len(batch) > 0 {
			n := 0
			n, payload = packLines(payload[:0], first, batch)
			buf, err = s.link.append(buf, kindText, payload)
			if err != nil {
				return err
			}
			batch, first = batch[n:], first+uint64(n)
		}
		if len(buf) == 0 {
			select {
			case <-s.box.wake:
				continue
			case <-s.quit:
				return nil
			case <-s.report.timer.C:
				continue
			case <-ping.C:
				buf, err = s.link.append(buf, kindPing, nil)
				if err != nil {
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

// appendRequests appends what the person has asked the server for.
func (s *clientSession) appendRequests(buf []byte) ([]byte, error) {
	var err error
	if s.asksWho.Swap(false) {
		if buf, err = s.link.append(buf, kindWho, nil); err != nil {
			return nil, err
		}
	}
	if s.people.wanted() { // the server drops a request for the history while the list of people waits
		return buf, nil
	}
	if n := s.asksHistory.Swap(0); n > 0 {
		return s.link.append(buf, kindHistory, binary.BigEndian.AppendUint64(nil, n))
	}
	return buf, nil
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

// receive prints what the room sends and takes acknowledgements until the session ends.
func (s *clientSession) receive() error {
	s.link.setReadTimeout(peerTimeout, true)
	for {
		if !s.link.ready() {
			if err := s.flushed(); err != nil {
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
			s.progress.Store(true)
			err = s.box.acknowledge(n)
			if err == nil {
				err = s.printed(s.console.acked(n))
			}
		case kind == kindSent:
			err = s.box.handOver(binary.BigEndian.Uint64(payload))
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

// closed handles the server's secure-close and returns how the session ended.
func (s *clientSession) closed() error {
	s.box.confirm()
	if err := s.flushed(); err != nil {
		return err
	}
	if s.removed {
		return errRemoved
	}
	return errServerLeft
}

// flushed writes out what was shown. Only then the client's place is behind it: in the file of -resume, and for the
// server.
func (s *clientSession) flushed() error {
	if err := s.printed(s.console.flush()); err != nil {
		return err
	}
	if s.console.out.muted.Load() {
		return nil // it went nowhere
	}
	if err := s.place.keep(); err != nil {
		return errPermanent{err}
	}
	if s.report.wrote(s.place.seen) {
		wake(s.box.wake)
	}
	return nil
}

// show prints the items of a message.
func (s *clientSession) show(payload []byte) error {
	if len(payload) == 0 {
		return errMalformed
	}
	for len(payload) > 0 {
		it, rest, err := cutItem(payload)
		if err != nil {
			return err
		}
		payload = rest
		s.people.saw(it)
		if it.what == itemNotice && s.console.term != nil && s.heardList(it) {
			continue
		}
		if it.seq > 0 {
			s.progress.Store(true)
		}
		s.removed = s.removed || it.what == itemRemoved
		if it.what == itemUndelivered && s.console.term == nil {
			s.undelivered.Store(true)
		}
		if err := s.printed(s.console.show(it)); err != nil {
			return err
		}
		if it.what > itemDirect {
			continue
		}
		if !s.console.out.muted.Load() { // after -count or a closed stdout nothing was shown
			s.place.seen = max(s.place.seen, it.seq)
			s.report.urgent = s.report.urgent || it.what == itemDirect
		}
		if s.left > 0 {
			if err := s.countDown(); err != nil {
				return err
			}
		}
	}
	return nil
}

// countDown counts one message for -count. After the last one nothing more is printed.
func (s *clientSession) countDown() error {
	s.left--
	if s.left > 0 {
		return nil
	}
	err := s.flushed()
	s.console.mute()
	s.leave(errCountReached)
	return err
}

// heardList takes the list of the people in the room from a notice. silent reports that it is not shown: the client has
// asked for it only to complete names.
func (s *clientSession) heardList(it item) (silent bool) {
	names, isList := parseWhoLine(string(it.text))
	if isList {
		silent = s.people.list(names, it.time)
		wake(s.box.wake) // a request for the history may wait for the list
		return silent
	}
	if s.people.wanted() { // the server answers no such request while a notice waits
		s.asksWho.Store(true)
		wake(s.box.wake)
	}
	return false
}

// parseWhoLine returns the names in a whoLine. ok is false for any other text, and for a list that was cut.
func parseWhoLine(text string) (names []string, ok bool) {
	count, list, ok := strings.Cut(text, " here: ")
	if !ok {
		return nil, false
	}
	names = strings.Split(list, ", ")
	if count != strconv.Itoa(len(names)) || slices.ContainsFunc(names, func(n string) bool { return !validShown(n) }) {
		return nil, false
	}
	return names, true
}

// people are the names that a client at a terminal has seen in the room, for completion.
type people struct {
	mu     sync.Mutex     // guards the fields below
	here   map[string]int // the connections with each name, as far as known; maxPeople names at most
	at     time.Time      // of the last list, by the server's clock: earlier joins and leaves are in it
	wants  bool           // a list was not received on this connection
	typed  int            // lists that /who has asked for
	listed bool           // a list was shown
}

const maxPeople = 1 << 10

// want notes that a list is wanted, at the start of a connection.
func (p *people) want() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wants = true
}

func (p *people) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wants
}

// ask notes that the person wants to see a list.
func (p *people) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.typed++
}

// list takes a list. silent reports that the person neither asked for it nor sees the first one.
func (p *people) list(names []string, at time.Time) (silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	here := make(map[string]int, len(names))
	for _, name := range names[:min(len(names), maxPeople)] {
		here[name] = max(1, p.here[name])
	}
	silent = p.typed == 0 && p.listed
	p.here, p.at, p.wants, p.listed, p.typed = here, at, false, true, max(0, p.typed-1)
	return silent
}

// saw adds or removes the name in an item.
func (p *people) saw(it item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	isVisit := it.what == itemJoin || it.what == itemLeave
	switch {
	case it.name == "" || isVisit && !it.time.After(p.at):
	case it.what == itemLeave && p.here[it.name] > 1:
		p.here[it.name]--
	case it.what == itemLeave:
		delete(p.here, it.name)
	case p.here[it.name] == 0 && len(p.here) >= maxPeople:
	case p.here == nil:
		p.here = map[string]int{it.name: 1}
	case it.what == itemJoin:
		p.here[it.name]++
	default:
		p.here[it.name] = max(1, p.here[it.name])
	}
}

// names lists the names in order.
func (p *people) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.here))
}
