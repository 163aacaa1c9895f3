package main

// The client: a prompt at a terminal, a pipe elsewhere (DESIGN sections 6, 7 and 8). What is to be sent waits in an outbox
// until the server has acknowledged it, which it does once the line is in its log.

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
	firstBackoff = 200 * time.Millisecond // before the first try to connect again; each further one doubles it,
	maxBackoff   = 15 * time.Second       // to this
	maxSilence   = 5                      // closes during handshakes, after having been in the room: that is a refusal then
	leaveTimeout = 5 * time.Second        // for a person's last lines to be acknowledged
)

type client struct {
	addr      string
	trust     *trust
	console   *console
	to        string        // everything is for this one alone (-to)
	stay      bool          // the end of the input does not end the session
	count     int           // messages after which it ends; 0: none
	timeout   time.Duration // after which it ends; 0: none
	reconnect bool
	insist    bool     // -reconnect was asked for: trouble of the first connection is no end either
	pipe      *rawPipe // -raw; nil for lines

	protocol protocol

	box     *outbox
	asks    atomic.Bool // /who is to be sent
	people  people
	stream  streamID
	epoch   [8]byte       // of the room, and
	seen    uint64        // the last item of it that was shown; both the reader's while there is one
	enough  chan struct{} // of capacity 1: count is reached
	alone   chan struct{} // of capacity 1: nobody reads the output any more
	removed bool          // the operator has let us go; the reader's, as seen
	handed  atomic.Uint64 // lines sent that only the server's close confirms (kindSent)
	failed  atomic.Bool   // something was asked for that could not be done, and said

	inputErr error // once input has ended
}

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

// errFailed is the end of a session in which not everything asked for was done; what, has been said.
var errFailed = errors.New("not everything was done: see above")

// run joins the room and stays until the input ends, the person leaves, ctx ends or the connection does.
func (c *client) run(ctx context.Context) error {
	rand.Read(c.stream[:])
	c.box, c.enough, c.alone = newOutbox(), make(chan struct{}, 1), make(chan struct{}, 1)
	leave := &leaving{signal: ctx.Done(), backoff: firstBackoff}
	first := ctx
	if c.timeout > 0 {
		leave.timeout = time.After(c.timeout)
		var cancel context.CancelFunc
		first, cancel = context.WithTimeoutCause(ctx, c.timeout, errTimeout)
		defer cancel()
	}
	conn, l, w, err := c.connect(first)
	var u *untrusted
	if errors.As(err, &u) && u.kind == unknownKey && u.key != nil && c.console.term != nil {
		// The server's patience with a handshake is short: the person is asked between two.
		if err := c.ask(u.key); err != nil {
			return err
		}
		conn, l, w, err = c.connect(first)
	}
	if cause := context.Cause(first); err != nil && errors.Is(cause, errTimeout) {
		return cause
	}
	down := c.insist && isTrouble(err)
	if err != nil && !down {
		return err
	}
	if c.console.term != nil {
		c.console.term.complete = func(line string, pos int) []string { return completions(line, pos, clientHelp, c.people.names()) }
	}
	inputEnd := make(chan struct{})
	go func() {
		defer c.console.guard()
		c.inputErr = c.input()
		close(inputEnd)
	}()
	leave.input = inputEnd
	again := ""
	for {
		if !down {
			if again == "" && c.console.term != nil { // at once, before the first message
				c.console.print(safe(fmt.Sprintf("securechat: joined %s as %s; an empty line leaves, /help tells the commands", c.addr, w.name)))
			}
			again = " again"
			began, had := time.Now(), c.box.acknowledged()
			err = c.session(conn, l, w, leave)
			if time.Since(began) > maxBackoff || c.box.acknowledged() > had {
				leave.backoff = firstBackoff
			}
			if !c.reconnect || !leave.stays || !isTrouble(err) {
				return err
			}
		}
		down = false
		c.console.note("%v; connecting again", err)
		conn, l, w, err = c.again(leave)
		if err != nil {
			if n := c.box.unacknowledged(); n > 0 {
				return &errLost{n, err}
			}
			return err
		}
		c.console.note("connected%s", again)
	}
}

// leaving is what can end a client's stay, over all its connections.
type leaving struct {
	input    <-chan struct{} // the input has ended
	signal   <-chan struct{}
	timeout  <-chan time.Time
	patience <-chan time.Time // for what is unacknowledged, once it is leaving
	done     bool             // it is leaving
	err      error            // errTimeout
	stays    bool             // the end of a session leaves more to do
	backoff  time.Duration    // before the next try to connect
}

// session runs one connection to its end. nil says that everything is acknowledged and goodbye was said.
func (c *client) session(conn net.Conn, l link, w welcome, leave *leaving) (err error) {
	if err := c.shown(c.console.welcome(w.name, w.flags&welcomeGap != 0)); err != nil {
		conn.Close()
		return err
	}
	if c.console.term != nil {
		c.console.term.setPrompt(c.console.prompt(w.name))
	}
	var working sync.WaitGroup
	ended, written := make(chan error, 1), make(chan error, 1)
	stop := make(chan struct{})
	working.Go(func() {
		defer c.console.guard()
		ended <- c.read(l)
	})
	working.Go(func() { written <- c.write(l, stop) })
	defer func() {
		close(stop)
		conn.Close()
		idle := make(chan struct{})
		go func() { working.Wait(); close(idle) }()
		select {
		case <-idle:
			l.wipe()
		case <-time.After(time.Second): // standard output is stuck; the process ends
		}
	}()
	goodbye := func(patience time.Duration) {
		leave.done = true
		c.box.close()
		if patience > 0 {
			leave.patience = time.After(patience)
		}
	}
	// readEnd waits for the reader to end, as long as nobody wants to leave: standard output may be stuck, and the server
	// may say anything but goodbye.
	readEnd := func() error {
		l.setReadTimeout(goodbyeTimeout, false)
		defer time.AfterFunc(peerTimeout, func() { conn.Close() }).Stop()
		select {
		case err := <-ended:
			return err
		case <-leave.signal:
		case <-leave.patience:
		case <-leave.timeout:
			leave.err = errTimeout
		}
		leave.stays = false
		return errors.New("the server's goodbye, or a reader of standard output, did not come in time")
	}
	leave.stays = true
	for {
		select {
		case <-leave.input:
			leave.input = nil
			switch {
			case c.console.term != nil:
				goodbye(leaveTimeout)
			case !c.stay || c.inputErr != nil:
				goodbye(0)
			}
		case <-leave.signal:
			leave.signal = nil
			goodbye(leaveTimeout)
		case <-c.enough:
			goodbye(leaveTimeout)
		case <-c.alone:
			if c.stay = false; leave.input == nil || c.console.term != nil {
				goodbye(leaveTimeout)
			}
		case <-leave.timeout:
			leave.timeout, leave.err = nil, errTimeout
			goodbye(leaveTimeout)
		case <-leave.patience:
			leave.stays = false
			return c.lost(l, errors.New("the server did not acknowledge in time"))
		case err := <-written:
			if err == nil { // it said goodbye
				leave.stays = false
				readErr := readEnd()
				if c.handed.Load() > 0 {
					return c.lost(l, readErr)
				}
				return c.end(leave)
			}
			written = nil
			readErr := readEnd() // the reader may know better why, and have acknowledgements to take
			if errors.Is(readErr, os.ErrDeadlineExceeded) {
				readErr = err
			}
			return c.lost(l, readErr)
		case err := <-ended:
			if errors.Is(err, errServerLeft) && c.box.finished() && c.handed.Load() == 0 {
				leave.stays = false
				return c.end(leave)
			}
			return c.lost(l, err)
		}
	}
}

// end is the result of a session that ended as it should.
func (c *client) end(leave *leaving) error {
	switch {
	case leave.input == nil && c.inputErr != nil:
		return c.inputErr
	case leave.err != nil:
		return leave.err
	case c.failed.Load():
		return errFailed
	}
	return nil
}

// lost is the result of a session that did not.
func (c *client) lost(l link, err error) error {
	var wrong errPermanent
	switch {
	case errors.As(err, &wrong):
		return err
	case errors.Is(err, errBadPacket):
		return fmt.Errorf("%w: possible man-in-the-middle attack; the session was ended", err)
	}
	if errors.Is(err, errRemoved) {
		c.reconnect = false
	}
	if n := c.box.unacknowledged() + int(c.handed.Load()); n > 0 || !errors.Is(err, errServerLeft) {
		return &errLost{n, netError(err)}
	}
	return err
}

// isTrouble says that err is of the network or of a server that stops, which another connection may mend; a refusal or a
// failed check is not.
func isTrouble(err error) bool {
	var lost *errLost
	return errors.As(err, &lost) || errors.Is(err, errServerLeft) || errors.As(err, new(errUnreachable))
}

// again connects anew, waiting longer after each failure, until it succeeds, is refused, or the client is to leave.
func (c *client) again(leave *leaving) (conn net.Conn, l link, w welcome, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	silence := 0
	for ; ; leave.backoff = min(2*leave.backoff, maxBackoff) {
		wait := leave.backoff
		pause := time.NewTimer(wait/2 + mrand.N(wait))
		for waiting := true; waiting; {
			select {
			case <-pause.C:
				waiting = false
			case <-leave.input:
				leave.input = nil
				if c.console.term != nil {
					return nil, nil, w, errors.New("left while the connection was down")
				}
				if !c.stay || c.inputErr != nil {
					leave.done = true
					c.box.close()
				}
			case <-leave.signal:
				return nil, nil, w, errors.New("left while the connection was down")
			case <-leave.timeout:
				return nil, nil, w, errTimeout
			case <-leave.patience:
				return nil, nil, w, errors.New("left while the connection was down")
			case <-c.enough:
				leave.done = true
				c.box.close()
			case <-c.alone:
				c.stay = false
			}
		}
		tried := make(chan struct{})
		go func() {
			defer close(tried)
			conn, l, w, err = c.connect(ctx)
		}()
		var gone error // why the person does not wait for the try to end
		for waiting := true; waiting; {
			select {
			case <-tried:
				waiting = false
			case <-leave.signal:
				leave.signal, gone = nil, errors.New("left while the connection was down")
				cancel()
			case <-leave.timeout:
				leave.timeout, gone = nil, errTimeout
				cancel()
			case <-leave.patience:
				leave.patience, gone = nil, errors.New("left while the connection was down")
				cancel()
			}
		}
		if gone != nil {
			if err == nil {
				conn.Close()
				l.wipe()
			}
			return nil, nil, w, gone
		}
		var refused *untrusted
		silently := errors.As(err, &refused) && refused.kind == closedSilently
		if silently {
			silence++
		}
		if !silently && !isTrouble(err) || silence == maxSilence { // nil too
			leave.backoff = min(2*leave.backoff, maxBackoff) // until a session gets somewhere
			return conn, l, w, err
		}
	}
}

// errRemoved says that the operator did, which is an answer: nobody comes back by himself.
var errRemoved = fmt.Errorf("%w: the operator let us go", errServerLeft)

// netError puts a timeout into words; other errors say enough.
func netError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("nothing heard from the server for too long")
	}
	return errors.New(netReason(err))
}

// connect dials, runs the handshake and exchanges the first packets.
func (c *client) connect(ctx context.Context) (net.Conn, link, welcome, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout, KeepAlive: c.protocol.keepAlive()}).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return nil, nil, welcome{}, errUnreachable{fmt.Errorf("cannot reach %s: %s; is securechat -listen running there?", c.addr, netReason(err))}
	}
	l, w, err := c.meet(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, nil, w, err
	}
	return conn, l, w, nil
}

// meet makes a link of conn within the handshake's deadline.
func (c *client) meet(ctx context.Context, conn net.Conn) (link, welcome, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	req := joinRequest{stream: c.stream, flags: joinListens, epoch: c.epoch, seen: c.seen}
	switch {
	case c.pipe != nil:
		req.flags = joinRaw
	case c.console.term != nil:
		req.flags |= joinPerson
	}
	server, l, w, err := c.protocol.dial(conn, req)
	if !stop() && err == nil { // ctx ended just then, and conn with it
		l.wipe()
		return nil, w, context.Cause(ctx)
	}
	if err != nil {
		return nil, w, err
	}
	conn.SetDeadline(time.Time{})
	return l, w, c.arrive(server, w)
}

// arrive takes over what the server's welcome says.
func (c *client) arrive(server *peer, w welcome) error {
	if !c.protocol.acknowledges() {
		return nil
	}
	c.console.server, c.console.origin, c.console.since = w.server, server.fingerprint, w.present
	if w.epoch != c.epoch || w.flags&welcomeGap != 0 {
		if c.seen > 0 || w.flags&welcomeGap != 0 {
			c.console.note("some of what was said meanwhile is gone: the server no longer holds it")
		}
		c.epoch, c.seen = w.epoch, w.seq
	}
	if err := c.box.resume(w.recorded); err != nil || w.recorded == 0 {
		return err
	}
	return c.shown(c.console.acked(w.recorded)) // perhaps of lines whose acknowledgement was lost with the connection
}

// ask lets the person decide about a server never met, and pins it: yes, no, or the fingerprint it should have.
func (c *client) ask(id ssh.PublicKey) error {
	print := fingerprint(id)
	c.console.tell("The server %s is unknown here. Its key is\n  %s %s\nCompare it with the one that the server showed at its start.", c.addr, id.Type(), print)
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

// input fills the outbox from the console until it ends.
func (c *client) input() error {
	var failed error
	afterPaste := false
	for {
		line, pasted, err := c.console.read()
		var long errLongLine
		switch {
		case errors.As(err, &long):
			c.console.fault(err)
			failed = err
			continue
		case err == io.EOF || err == errInterrupt:
			return failed
		case err != nil:
			return fmt.Errorf("reading standard input: %w", err)
		}
		if c.console.term != nil && len(line) == 0 && !pasted {
			if !afterPaste {
				return failed // the paper's rule: an empty line leaves
			}
			afterPaste = false // it was to send what the paste's last newline has sent already
			continue
		}
		afterPaste = pasted
		out := outLine{text: line, what: itemSay}
		if c.to != "" {
			out.what, out.to = itemDirect, c.to
		}
		if c.console.json {
			if out, _, err = parseObject(line, out, ""); err != nil {
				c.console.fault(err)
				failed = errFailed
				continue
			}
			if out.text == nil {
				continue // an object that says nothing
			}
		}
		if c.console.term != nil && !pasted {
			var send, quit bool
			if out, send, quit = c.command(line); quit {
				return failed
			} else if !send {
				continue
			}
		}
		if err := c.protocol.check(out); err != nil {
			if c.console.lines != nil {
				err = fmt.Errorf("line %d: %w", c.console.lines.number, err)
				failed = errFailed
			}
			c.console.note("%v", err)
			continue
		}
		if !c.box.add(out, c.console.lines == nil || !c.console.lines.ready()) {
			return failed
		}
	}
}

// write sends what is in the outbox, and secure-close when it is closed and everything is acknowledged.
func (c *client) write(l link, stop chan struct{}) error {
	ping := time.NewTimer(pingInterval)
	defer ping.Stop()
	var buf, payload []byte
	var taken []outLine
	for {
		first, batch, done := c.box.take(taken[:0])
		taken = batch
		buf = buf[:0]
		var err error
		if done {
			if buf, err = l.append(buf, kindClose, []byte(closeText)); err != nil {
				return err
			}
			return l.write(buf)
		}
		if c.asks.Swap(false) {
			if buf, err = l.append(buf, kindWho, nil); err != nil {
				return err
			}
		}
		for len(batch) > 0 {
			what, to := batch[0].what, batch[0].to
			payload = appendLinesHeader(payload[:0], first, what, to)
			n := 0
			for n < len(batch) && batch[n].what == what && batch[n].to == to &&
				(n == 0 || len(payload)+binary.MaxVarintLen32+len(batch[n].text) <= maxBatch) {
				payload = appendLine(payload, batch[n].text)
				n++
			}
			if buf, err = l.append(buf, kindText, payload); err != nil {
				return err
			}
			batch, first = batch[n:], first+uint64(n)
		}
		if len(buf) == 0 {
			select {
			case <-c.box.wake:
				continue
			case <-stop:
				return nil
			case <-ping.C:
				if buf, err = l.append(buf, kindPing, nil); err != nil {
					return err
				}
			}
		}
		if err := l.write(buf); err != nil {
			return err
		}
		ping.Reset(pingInterval)
	}
}

// read shows what the room says and takes acknowledgements until the session ends.
func (c *client) read(l link) error {
	l.setReadTimeout(peerTimeout, true)
	for {
		if !l.ready() {
			if err := c.shown(c.console.flush()); err != nil {
				return err
			}
		}
		kind, payload, err := l.read()
		if err != nil {
			return err
		}
		switch kind {
		case kindText:
			for len(payload) > 0 {
				var it item
				if it, payload, err = cutItem(payload); err != nil {
					return err
				}
				c.people.saw(it)
				c.removed = c.removed || it.what == itemRemoved
				if it.seq > c.seen {
					c.seen = it.seq
				}
				if it.what == itemUndelivered {
					c.failed.Store(c.console.term == nil)
				}
				if err := c.shown(c.console.show(it)); err != nil {
					return err
				}
				if it.what <= itemDirect && c.count > 0 {
					if c.count--; c.count == 0 {
						if err := c.shown(c.console.flush()); err != nil {
							return err
						}
						c.console.mute()
						wake(c.enough)
					}
				}
			}
		case kindAck, kindSent:
			if len(payload) != 8 {
				return errMalformed
			}
			n := binary.BigEndian.Uint64(payload)
			if err := c.box.acknowledge(n); err != nil {
				return err
			}
			if kind == kindSent {
				c.handed.Store(n)
				continue
			}
			if err := c.shown(c.console.acked(n)); err != nil {
				return err
			}
		case kindPing:
		case kindClose:
			if string(payload) != closeText {
				return errMalformed
			}
			if err := c.shown(c.console.flush()); err != nil {
				return err
			}
			c.handed.Store(0)
			if c.removed {
				return errRemoved
			}
			return errServerLeft
		default:
			return errMalformed
		}
	}
}

// people is who a client has seen in the room, for completion.
type people struct {
	mu   sync.Mutex
	here map[string]struct{}
}

const maxPeople = 1 << 10

func (p *people) saw(it item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if it.what == itemLeave {
		delete(p.here, it.name)
	} else if it.name != "" && len(p.here) < maxPeople {
		if p.here == nil {
			p.here = map[string]struct{}{}
		}
		p.here[it.name] = struct{}{}
	}
}

func (p *people) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.here))
}

// shown sorts out what became of output: who reads no further, as head does, wants no more, and what is piped in still
// goes out to its end; any other trouble ends the session.
func (c *client) shown(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPIPE):
		c.console.mute()
		wake(c.alone)
		return nil
	}
	return errPermanent{fmt.Errorf("cannot write standard output: %w", err)}
}

// command does what a client's person typed: out is to be sent if send is set.
func (c *client) command(line []byte) (out outLine, send, quit bool) {
	name, text := parseCommand(line)
	out, problem, ok := saying(name, text)
	switch {
	case problem != "":
		c.console.tell("%s", problem)
	case ok:
		return out, true, false
	case name == "/who":
		c.asks.Store(true)
		wake(c.box.wake)
	case name == "/quit":
		return out, false, true
	case name == "/help":
		c.console.tell("%s", clientHelp)
	default:
		c.console.tell("there is no %s here; /help lists the commands, and //… sends a line that begins with a slash", name)
	}
	return out, false, false
}

// carry is the client's run with -raw.
func (c *client) carry(ctx context.Context) error {
	rand.Read(c.stream[:])
	c.box = newOutbox()
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.timeout, errTimeout)
		defer cancel()
	}
	conn, l, _, err := c.connect(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errTimeout) {
		return cause
	}
	if err != nil {
		return err
	}
	return c.pipe.carry(ctx, conn, l.(*session)) // -paper has no -raw
}
