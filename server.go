package main

// The server: it accepts, runs the handshake, and gives every client one goroutine that waits for it and, while there is
// something to read or to write, one for each of these. Nothing that one client does, or leaves undone, holds up another.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	maxClients      = 1024                    // in the room, unless -max-clients says otherwise
	shutdownTimeout = 2500 * time.Millisecond // from the signal to the last connection's end, of the 5 that it may take in all
	stdoutTimeout   = time.Second             // from the signal, for what is left to print
	acceptPause     = 200 * time.Millisecond  // after an accept that failed for want of something
	logPause        = time.Second             // between tries to record a message, and
	tidyPause       = 2 * time.Second         // without a handshake, then memory is given back
	logPatience     = time.Minute             // of trying, then its client is let go; -reconnect sends it again
)

type server struct {
	me      *party        // nil with -paper
	id      ssh.PublicKey // of the server and its operator
	name    string        // the operator's, and of the server
	port    string        // it listens on
	trust   *trust
	log     *connLog
	room    *room
	raw     *rawServer // -raw; nil where there is a room
	places  int        // clients that the room takes
	norelay bool
	trace   bool // -trace
	delay   time.Duration
	console *console

	strangers strangers

	// greet makes a link of a connection whose deadline is set, or an error. It fills in who m is, as far as that is
	// known when it fails.
	greet func(conn net.Conn, m *member) (link, joinRequest, error)

	gate gate
}

// serve accepts from all of the listeners until ctx ends, then tells everyone goodbye and returns. The first error of an
// accept that is not a passing one ends it too.
func (s *server) serve(ctx context.Context, listeners []net.Listener) error {
	var wg sync.WaitGroup
	places := make(chan struct{}, s.places)
	conns := &connSet{open: map[net.Conn]struct{}{}}
	failed := make(chan error, len(listeners))
	// Handshakes leave garbage behind them, and where clients sit idle nothing else would give it back. The second pass frees
	// what pools held.
	tidy := time.AfterFunc(tidyPause, func() { runtime.GC(); debug.FreeOSMemory() })
	defer tidy.Stop()
	for _, l := range listeners {
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					if ctx.Err() == nil && passing(err) {
						s.console.note("accepting connections: %v; trying again", netReason(err))
						select {
						case <-ctx.Done():
						case <-time.After(acceptPause):
						}
						continue
					}
					if ctx.Err() == nil {
						failed <- fmt.Errorf("accepting connections: %w", err)
					}
					return
				}
				if !s.letIn(conn) {
					conn.Close()
					continue
				}
				if !conns.add(conn) {
					return
				}
				wg.Go(func() {
					defer conns.remove(conn)
					s.handle(conn, func() bool {
						s.gate.leave()
						tidy.Reset(tidyPause)
						select {
						case places <- struct{}{}:
							return true
						default:
							return false
						}
					}, func() { <-places })
				})
			}
		})
	}
	shown := make(chan struct{})
	if s.raw != nil {
		close(shown)
	} else {
		operator := s.operator()
		go func() { defer close(shown); s.show(operator) }()
	}

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	for _, l := range listeners {
		l.Close()
	}
	s.room.close("the server is stopping")
	timer := time.AfterFunc(shutdownTimeout, conns.closeAll)
	defer timer.Stop()
	patience := time.After(stdoutTimeout) // it may be stuck, too
	wg.Wait()
	select {
	case <-shown:
	case <-patience:
	}
	if s.raw != nil && err == nil {
		err = s.raw.err
	}
	return err
}

// reload reopens the log at each SIGHUP, until ctx ends. At a terminal the signal says that the terminal is gone.
func (s *server) reload(ctx context.Context, hangup chan os.Signal, quit func()) {
	defer signal.Stop(hangup)
	var beat <-chan time.Time
	if every := sdWatchdog(); every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			if s.console.term != nil {
				quit()
			} else if err := s.room.reopen(); err != nil {
				s.console.note("%v", err)
			}
		case <-beat:
			s.room.names() // who holds the room for ever is not alive
			s.tellManager("WATCHDOG=1")
		}
	}
}

// tellManager is sdNotify, where trouble ends nothing.
func (s *server) tellManager(state string) {
	if err := sdNotify(state); err != nil {
		s.console.note("%v", err)
	}
}

// passing says that a failed accept may succeed later: the machine is short of something.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// connSet is the open connections of a server, so that stopping can end them.
type connSet struct {
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

func (c *connSet) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return false
	}
	c.open[conn] = struct{}{}
	return true
}

func (c *connSet) remove(conn net.Conn) {
	conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

func (c *connSet) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		conn.Close()
	}
}

// handle runs one connection from accept to end. settled is called once, when the handshake is over, however it went, and
// says whether there is a place in the room, which release gives back. Whoever waits with an idle client, from here down to
// link.wait, does nothing else, and has small frames: under 1100 bytes together, a stack of 2 KiB holds them.
func (s *server) handle(conn net.Conn, settled func() bool, release func()) {
	var m *member
	var l link
	var place bool
	apart(func() { m, l, place = s.receive(conn, settled) })
	switch {
	case m == nil:
		conn.Close()
	case s.raw != nil:
		s.carry(m, l)
	default:
		s.attend(m, l)
	}
	if place {
		release()
	}
}

// apart runs f on a goroutine of its own, so that the deep stack it needs goes with it.
func apart(f func()) {
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	<-done
}

// receive runs the handshake of a connection and makes its client a member of the room, if there is a room. It returns nil for
// m where the connection came to nothing, which is told.
func (s *server) receive(conn net.Conn, settled func() bool) (_ *member, l link, place bool) {
	addr := conn.RemoteAddr().String()
	conn.SetDeadline(time.Now().Add(s.gate.patience()))
	m := &member{addr: addr, conn: conn}
	l, req, err := s.greet(conn, m)
	if err == nil {
		s.gate.forgive(remoteIP(conn.RemoteAddr()))
	} else {
		s.gate.penalise(remoteIP(conn.RemoteAddr()), penaltyFor(err), time.Now())
	}
	place = settled()
	if err == nil && !place {
		s.refused(addr, m, fmt.Errorf("%s: %d clients (-max-clients)", roomFull, s.places))
		sendAway(conn, l, roomFull)
		return
	}
	if err == nil {
		err = s.suits(l, req)
	}
	if err != nil {
		s.refused(addr, m, err)
		return nil, nil, place
	}
	if s.raw == nil && !s.enter(m, l, req) {
		return nil, nil, place
	}
	return m, l, place
}

// attend serves a member until its connection ends: it reads, and the room starts the writer.
func (s *server) attend(m *member, l link) {
	err := s.read(m, l)
	apart(func() {
		if !errors.Is(err, errLeft) {
			m.conn.Close() // frees a writer that waits for the other side
		}
		s.room.readOver(m, err)
		m.writer.Wait()
		m.silence.Stop()
		s.room.leave(m, leaveReason(err, m.writeErr))
		l.wipe()
	})
}

// enter makes m a member of the room, sends its welcome and starts its writer; false means that it came to nothing, which is
// told. A welcome may be empty, as the paper's protocol has none.
func (s *server) enter(m *member, l link, req joinRequest) bool {
	m.write = func() { s.write(m, l) }
	m.writing = true // none is to be started before the welcome is written
	w, err := s.room.join(m, req)
	if err != nil {
		why := err.Error()
		if errors.Is(err, errLog) {
			why = "it " + errLog.Error() // what ails the disk is the operator's to know
		}
		s.refused(m.addr, m, err)
		sendAway(m.conn, l, why)
		return false
	}
	w.server = s.name
	m.conn.SetDeadline(time.Time{})
	l.expect(peerTimeout)
	hello, err := l.append(nil, kindJoin, w.encode())
	if err == nil {
		err = l.write(hello)
	}
	if err != nil {
		s.room.leave(m, leaveReason(nil, err))
		l.wipe()
		return false
	}
	m.silence = time.AfterFunc(pingInterval, func() { s.room.hush(m) })
	m.writer.Add(1)
	go m.write()
	return true
}

// roomFull is why a client is sent away that finds no place.
const roomFull = "the room is full"

// sendAway ends the connection of a client that was let in and cannot stay: unlike those who were not let in it hears why,
// and may try again.
func sendAway(conn net.Conn, l link, why string) {
	defer conn.Close()
	defer time.AfterFunc(goodbyeTimeout, func() { conn.Close() }).Stop()
	if buf, err := appendGoodbye(nil, l, why); err == nil {
		_ = l.write(buf) // who does not take it is gone all the same
	}
	l.wipe()
}

// appendGoodbye appends secure-close, and before it the reason why, where there is one.
func appendGoodbye(buf []byte, l link, why string) (_ []byte, err error) {
	if why != "" {
		notice := item{time: time.Now(), what: itemNotice, text: []byte(why)}
		if why == removed {
			notice.what = itemRemoved
		}
		if buf, err = l.append(buf, kindText, notice.append(nil)); err != nil {
			return nil, err
		}
	}
	return l.append(buf, kindClose, []byte(closeText))
}

// errSlow is a member whose place in the room's queue is gone.
var errSlow = errors.New(slowConsumer)

// leaveReason puts into words why a connection ended.
func leaveReason(readErr, writeErr error) string {
	err := readErr
	if err == nil || writeErr != nil && errors.Is(err, net.ErrClosed) {
		err = writeErr
	}
	switch {
	case err == nil || errors.Is(err, errLeft):
		return errLeft.Error()
	case errors.Is(err, os.ErrDeadlineExceeded) && err == readErr:
		return "nothing heard from it for too long"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "slow consumer: it does not read"
	case errors.Is(err, errLog):
		return errLog.Error()
	case errors.Is(err, errBadPacket):
		return err.Error() + ": possible man-in-the-middle attack"
	}
	return netReason(err)
}

// welcome is greet for securechat/2: it runs the handshake and takes the client's first message, which confirms the key.
func (s *server) welcome(conn net.Conn, m *member) (link, joinRequest, error) {
	remote := conn.RemoteAddr()
	var g grant
	admit := func(id ssh.PublicKey, proof, h0, hpkePublic []byte, confirmed bool) error {
		m.fingerprint, m.suffix = fingerprint(id), nameSuffix(id)
		var err error
		g, err = s.trust.admit(id, remote, time.Now())
		if err != nil && len(proof) > 0 {
			g, err = s.trust.redeem(proof, h0, hpkePublic, id, time.Now(), confirmed)
		}
		return err
	}
	var req joinRequest
	me := *s.me
	if s.trace {
		me.trace = func(line string) { s.console.tell("%s  %s", m.addr, line) }
	}
	secrets, id, err := serverHandshake(conn, &me, s.delay, admit)
	if id != nil {
		m.fingerprint = fingerprint(id)
	}
	if isUnknown(err) {
		m.key = id
	}
	if err != nil && id == nil && penaltyFor(err) == penaltyLeft {
		err = fmt.Errorf("it left before saying who it is, perhaps because it does not trust this server's key yet: %w", err)
	}
	if err != nil {
		return nil, req, err
	}
	m.name, m.base, m.by = g.name, g.name, g.by
	digest := secrets.digest
	buffers := smallBuffers
	if s.raw != nil {
		buffers = rawBuffers
	}
	sess, err := newSession(conn, secrets, true, buffers)
	if err != nil {
		return nil, req, err
	}
	sess.patient = s.raw != nil
	kind, payload, err := sess.read()
	if err == nil && kind != kindJoin {
		err = errMalformed
	}
	if err == nil {
		req, err = parseJoin(payload)
	}
	if err != nil {
		return nil, req, fmt.Errorf("first packet: %w", err)
	}
	m.stream, m.listens = req.stream, req.flags&joinListens != 0 && !s.norelay
	m.digest = digest[:]
	return sess, req, nil
}

// letIn says whether a connection may begin its handshake, and tells of it where it may not and that is news.
func (s *server) letIn(conn net.Conn) bool {
	addr := conn.RemoteAddr()
	r := s.gate.enter(remoteIP(addr), time.Now())
	if r != nil && r.first {
		s.refused(addr.String(), &member{addr: addr.String()}, r)
	}
	return r == nil
}

// refused records and tells the operator why a connection came to nothing. The other side is told nothing.
func (s *server) refused(addr string, m *member, err error) {
	hint := hintOf(err)
	if m.key != nil {
		s.strangers.add(m.key)
		if s.console.term != nil {
			hint += "\nsecurechat: hint: or type /allow NAME"
		}
	}
	who := newLogPerson(m.addr, m.name, m.fingerprint, "", nil)
	now := time.Now()
	s.room.record(func(b []byte) []byte { return appendRecord(b, now, eventRefused, who, "reason", err.Error()) })
	if m.fingerprint != "" {
		addr += ", " + m.fingerprint
	}
	s.console.note("refused %s: %v%s", addr, err, hint)
}

// read takes a client's messages until the connection ends; errLeft is the good end. It only waits, and leaves the rest to
// goroutines that end, because its stack is most of what an idle client costs.
func (s *server) read(m *member, l link) error {
	for {
		err := l.wait()
		if err == nil {
			apart(func() { err = s.readSome(m, l) })
		}
		if err != nil {
			return err
		}
	}
}

// readSome takes messages while something of one is here. Lines that came together are recorded together: the log is written, and
// the others are woken, once for all of them.
func (s *server) readSome(m *member, l link) error {
	var g gathered
	defer g.done()
	for !l.idle() || len(g.said.texts) > 0 {
		read := link.read
		if len(g.said.texts) > 0 {
			read = link.readHere // what is here is not to wait for what is not
		}
		kind, payload, err := read(l)
		var more lines
		if err == nil && kind == kindText {
			more, err = g.parse(payload)
		}
		if err != nil || !g.goOn(more) || g.full() {
			if err := s.record(m, &g); err != nil {
				return err
			}
		}
		switch {
		case err == errNotHere:
			err = nil
		case err != nil:
		case kind == kindText:
			g.add(more)
			continue
		case kind == kindWho:
			s.room.who(m)
		case kind == kindPing:
		case kind == kindClose && string(payload) == closeText:
			err = errLeft
		default:
			err = errMalformed
		}
		if err != nil {
			return err
		}
		if !l.buffered() {
			g.done()
			l.expect(peerTimeout)
		}
	}
	return nil
}

// gathered is what a client said in messages that came together, not yet recorded.
type gathered struct {
	said lines
	x    *scratch // that they stand in; nil where nothing came since done
}

// full says that what is here is not to wait for yet more.
func (g *gathered) full() bool {
	return len(g.said.texts) >= gatherLines || g.x != nil && len(g.x.buf) >= gatherBytes
}

const (
	gatherLines = 256
	gatherBytes = 16 << 10
)

// parse parses a message, whose texts are good until the next read.
func (g *gathered) parse(payload []byte) (lines, error) {
	if g.x == nil {
		g.x = scratches.Get().(*scratch)
	}
	clear(g.x.items)
	more, err := parseLines(payload, g.x.items[:0])
	g.x.items = more.texts
	if err != nil {
		return lines{}, err
	}
	return more, nil
}

// goOn says whether more has lines that can be recorded with those that are here, as the next of the same kind.
func (g *gathered) goOn(more lines) bool {
	if len(more.texts) == 0 || len(g.said.texts) == 0 {
		return len(more.texts) > 0
	}
	return more.first == g.said.first+uint64(len(g.said.texts)) && more.what == g.said.what && more.to == g.said.to
}

// add copies more behind what is here, which it goes on from.
func (g *gathered) add(more lines) {
	x := g.x
	for _, text := range more.texts {
		at := len(x.buf)
		x.buf = append(x.buf, text...)
		x.texts = append(x.texts, x.buf[at:])
	}
	if len(g.said.texts) == 0 {
		g.said = more
	}
	g.said.texts = x.texts
}

// clear forgets what was gathered, for more.
func (g *gathered) clear() {
	g.said = lines{}
	clear(g.x.texts)
	g.x.texts, g.x.buf = g.x.texts[:0], g.x.buf[:0]
}

// done gives the scratch back; nothing that stands in it is held from here.
func (g *gathered) done() {
	if g.x != nil {
		g.x.done()
	}
	*g = gathered{}
}

// record hands what is gathered to the room, and does so again for a while where the log cannot be written: its client waits.
func (s *server) record(m *member, g *gathered) error {
	if len(g.said.texts) == 0 {
		return nil
	}
	said := g.said
	defer g.clear()
	err := s.room.say(m, said)
	if errors.Is(err, errLog) {
		s.room.notify(m, "the server cannot write its log just now; what you send waits")
	}
	for patience := time.Now().Add(logPatience); errors.Is(err, errLog) && time.Now().Before(patience); {
		<-time.After(logPause)
		err = s.room.say(m, said)
	}
	if errors.Is(err, errEnding) {
		return nil // it has yet to hear why it is to leave
	}
	return err
}

// write is m's writer: it sends what the room has for m until that is nothing, then it ends. After goodbye, or an error, it
// has ended for good.
func (s *server) write(m *member, l link) {
	defer m.writer.Done()
	for {
		goodbye, more, err := s.writeNext(m, l)
		switch {
		case err != nil:
			m.writeErr = err
			m.conn.Close()
			return
		case goodbye:
			// The other side has said goodbye, or has this long to answer ours, whatever else it sends.
			time.AfterFunc(goodbyeTimeout, func() { m.conn.Close() })
			return
		case !more:
			return
		}
		m.silence.Reset(pingInterval)
	}
}

// scratch is what lines and items are gathered in, borrowed while there are some: most clients are silent.
type scratch struct {
	items, texts [][]byte
	buf          []byte
	number       [8]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func (x *scratch) done() {
	clear(x.items) // they are not to be held from here
	clear(x.texts)
	x.items, x.texts, x.buf = x.items[:0], x.texts[:0], x.buf[:0]
	if cap(x.buf) <= 4*takeBytes {
		scratches.Put(x)
	}
}

// writeNext sends what there is for m; more is false where that was nothing, and goodbye says that it was the last.
func (s *server) writeNext(m *member, l link) (goodbye, more bool, err error) {
	x := scratches.Get().(*scratch)
	defer x.done()
	d, more := s.room.next(m, x.items[:0])
	x.items = d.items
	if !more {
		return false, false, nil
	}
	if d.slow {
		return false, true, errSlow
	}
	buf := x.buf[:0]
	if d.acked > 0 {
		binary.BigEndian.PutUint64(x.number[:], d.acked)
		if buf, err = l.append(buf, kindAck, x.number[:]); err != nil {
			return false, true, err
		}
	}
	if buf, err = l.appendItems(buf, d.items); err != nil {
		return false, true, err
	}
	if d.ping {
		if buf, err = l.append(buf, kindPing, nil); err != nil {
			return false, true, err
		}
	}
	if d.goodbye {
		if buf, err = appendGoodbye(buf, l, d.reason); err != nil {
			return false, true, err
		}
	}
	x.buf = buf
	clear(x.items) // whoever takes long to read does not hold the room's slabs
	return d.goodbye, true, l.write(buf)
}

// rawServer is what a server with -raw has in place of a room: one client's bytes, and then the end.
type rawServer struct {
	ctx   context.Context
	pipe  *rawPipe
	taken atomic.Bool
	err   error // how it went; to be read once all connections have ended
}

// suits answers a client that came for what is not here, a room or -raw, and says why it is refused.
func (s *server) suits(l link, req joinRequest) error {
	w := welcome{name: s.name, server: s.name}
	var err error
	switch raw := req.flags&joinRaw != 0; {
	case raw && s.raw == nil:
		err = errors.New("it came with -raw, and this is a room")
	case !raw && s.raw != nil:
		err = errors.New("it came without -raw")
	case raw && !s.raw.taken.CompareAndSwap(false, true):
		w.flags, err = welcomeBusy, errors.New("-raw serves one client, and that came before")
	default:
		return nil
	}
	if s.raw != nil {
		w.flags |= welcomeRaw
	}
	buf, werr := l.append(nil, kindJoin, w.encode())
	if werr == nil {
		werr = l.write(buf)
	}
	return errors.Join(err, werr)
}

// carry serves the one client of -raw, and ends the server.
func (s *server) carry(m *member, l link) {
	defer s.console.quit()
	s.raw.err = func() error {
		m.log = newLogPerson(m.addr, m.name, m.fingerprint, m.stream.String(), m.digest)
		if err := s.log.write(func(b []byte) []byte { return appendRecord(b, time.Now(), eventConnect, m.log, "by", m.by) }, nil); err != nil {
			return err
		}
		buf, err := l.append(nil, kindJoin, welcome{flags: welcomeRaw, name: m.name, server: s.name}.encode())
		if err == nil {
			err = l.write(buf)
		}
		if err != nil {
			return &errCut{open: true, why: err}
		}
		m.conn.SetDeadline(time.Time{})
		s.console.note("%s joined", m.name)
		p := s.raw.pipe
		err = p.carry(s.raw.ctx, m.conn, l.(*session))
		reason := "all has arrived"
		if err != nil {
			reason = err.Error()
		}
		who := logPerson(fmt.Appendf([]byte(m.log), `,"received":%d,"sent":%d,"acknowledged":%d`, p.received.Load(), p.sent.Load(), p.acked.Load()))
		return errors.Join(err, s.log.write(func(b []byte) []byte { return appendRecord(b, time.Now(), eventDisconnect, who, "reason", reason) }, nil))
	}()
}

// listenOn listens on addr, on IPv4 and IPv6 where addr names no host.
func listenOn(addr string, keepAlive time.Duration) ([]net.Listener, error) {
	if addr == fromSystemd {
		return sdListeners()
	}
	l, err := (&net.ListenConfig{KeepAlive: keepAlive}).Listen(context.Background(), "tcp", addr)
	if err == nil {
		return []net.Listener{l}, nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen on %s: another program has this port; name another with -listen, or end that program", addr)
	}
	return nil, fmt.Errorf("cannot listen on %s: %s", addr, netReason(err))
}
