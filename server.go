package main

// The server: it accepts connections, runs the handshake of each, and serves each client with a goroutine that reads
// and, while there is something to send, one that writes. A client that is slow or stuck delays no other client.

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxClients      = 1024                    // in the room, unless -max-clients says otherwise
	shutdownTimeout = 2500 * time.Millisecond // from the signal to the last connection's end; the process may take 5 s
	stdoutTimeout   = time.Second             // from the signal, for printing what is left
	acceptPause     = 200 * time.Millisecond  // after an accept failed because the machine is short of something
	freePause       = 2 * time.Second         // without a handshake, before memory is given back to the system
	logRetry        = time.Second             // between two attempts to record a message
	logTimeout      = time.Minute             // until the client of a message that cannot be recorded is disconnected
	leaveCheck      = time.Second             // after which a client that waits because of -rate is looked at again
)

// serverConfig is a plain record of what a server does and uses. No field changes while the server runs.
type serverConfig struct {
	endpoint // the identity is the server's and its operator's
	console  *console
	log      *connLog
	sync     bool     // acknowledge lines once they are on disk (-sync)
	history  int      // items kept for members that were away (-history)
	clients  int      // at most (-max-clients)
	rate     int      // lines a second of one key, or 0 for no limit (-rate)
	norelay  bool     // clients receive nothing (-norelay)
	invite   string   // name to make an invite for at the start; "" for none
	pipe     *rawPipe // -raw: bytes for one client; nil for a room

	useProcessors func(n int) // sets how many processors Go code runs on; nil to leave that as it is
}

type server struct {
	serverConfig
	room       *room
	gate       *gate
	turns      *turns
	processors processors
	conns      connSet
	limits     keyLimits
	parts      partsBudget
	rawClient  atomic.Pointer[rawClient]
	changes    atomic.Uint64 // counts changes of the trust files, each before the sessions are checked again
	recheckAll chan struct{} // of capacity 1: a client was admitted by files that have changed since
	freeMemory *time.Timer   // gives memory back to the system freePause after the last handshake
	strangers  strangers

	saying chan struct{} // of capacity 1: holds a value while a goroutine uses texts
	texts  [][]byte      // memory for the lines that the room records
}

// newServer makes a server whose room has the streams that the end of the log reports.
func newServer(c serverConfig) (*server, error) {
	room, err := newRoom(c.log, c.history, c.sync)
	if err != nil {
		return nil, err
	}
	return &server{
		serverConfig: c,
		room:         room,
		gate:         newGate(),
		turns:        newTurns(runtime.GOMAXPROCS(0)),
		processors:   processors{use: c.useProcessors, all: runtime.GOMAXPROCS(0)},
		conns:        connSet{open: map[net.Conn]struct{}{}},
		recheckAll:   make(chan struct{}, 1),
		saying:       make(chan struct{}, 1),
		limits:       newKeyLimits(c.clients, c.rate, ownFingerprint(c.id)),
		// Handshakes leave garbage behind, which nothing else would collect while clients are idle. The second pass
		// frees what pools held.
		freeMemory: time.AfterFunc(freePause, func() { runtime.GC(); debug.FreeOSMemory() }),
	}, nil
}

// run serves the listeners, which it closes, until ctx ends.
func (s *server) run(ctx context.Context, listeners []net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer s.freeMemory.Stop()
	if s.sync {
		go s.room.flushLog() // ends when flush is closed
		defer close(s.room.flush)
	}
	addr := listeners[0].Addr().String()
	hangup := make(chan os.Signal, 1) // from before the first message on, since the signal would end the process
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	self := newPeerFields(addr, s.name, fingerprint(s.id), "", nil)
	who := self
	if s.pipe == nil {
		who = slices.Concat(self, s.room.began())
	}
	if err := s.room.recordStart(recordOf(time.Now(), eventStart, who, "log", s.log.began)); err != nil {
		return err
	}
	defer func() { s.log.record(recordOf(time.Now(), eventStop, self, "reason", ""), nil) }()
	s.announce(addr)
	if s.invite != "" {
		if err := makeInvite(s.trust, s.console, s.invite, addr); err != nil {
			return err
		}
	}
	if s.trust != nil {
		s.recheck(true) // a key may have been revoked while no server was running
	}
	go s.watch(ctx, stop, hangup) // ends with ctx
	stopping := make(chan struct{})
	keepStopping := context.AfterFunc(ctx, func() { s.notifyManager("STOPPING=1"); close(stopping) })
	s.notifyManager("READY=1")
	var err error
	if s.pipe != nil {
		err = s.serveRaw(ctx, stop, listeners)
	} else {
		err = s.serveRoom(ctx, newOperator(s.console, s.room, s.trust, &s.strangers, s.self(), addr, stop), listeners)
	}
	if !keepStopping() {
		<-stopping // a room without clients closes sooner than the manager is notified
	}
	return err
}

// announce reports to the operator where the server listens and how to join it.
func (s *server) announce(addr string) {
	s.console.setRoom(s.name, fingerprint(s.id), 0)
	opened, flag := "room open", ""
	if s.pipe != nil {
		opened, flag = "waiting for one client", " -raw"
	}
	s.console.inform("%s on %s as %s, key %s", opened, addr, s.name, fingerprint(s.id))
	if s.trust != nil {
		s.trust.review()
		s.console.inform("to join it: %s", joinCommands(addr, flag))
	}
	if s.log.alarm != "" {
		s.console.note("%s: %s", s.log.path, s.log.alarm)
	}
}

// joinCommands returns how to join a room that listens on addr: from here, from elsewhere, or both.
func joinCommands(addr, flag string) string {
	command := func(addr string) string { return "securechat -connect " + addr + flag }
	public := publicAddress(addr)
	host, port, err := net.SplitHostPort(addr)
	switch ip := net.ParseIP(host); {
	case err == nil && ip.IsUnspecified():
		return command("localhost:"+port) + " here, " + command(public) + " from elsewhere"
	case err == nil && ip.IsLoopback():
		return command(public) + " here"
	}
	return command(public)
}

// self returns the operator as a peer, with the server's own name and key.
func (s *server) self() *peer {
	p := &peer{addr: "console", name: s.name}
	p.identify(s.id)
	rand.Read(p.stream[:])
	return p
}

// serveRoom serves the room until ctx ends or accepting fails for good, then sends each member a goodbye.
func (s *server) serveRoom(ctx context.Context, o *operator, listeners []net.Listener) error {
	shown := make(chan struct{})
	go func() { defer close(shown); o.show() }() // ends when the room closes, or stdout fails
	go o.read()                                  // ends with stdin, else with the process
	s.processors.count(0, 0)                     // sets the number for an empty room
	err := s.serve(ctx, listeners, s.join)
	select {
	case <-shown:
	case <-time.After(stdoutTimeout): // standard output may be stuck
	}
	return err
}

// serveRaw serves one client with -raw and returns how that went.
func (s *server) serveRaw(ctx context.Context, stop func(), listeners []net.Listener) error {
	r := &rawServer{server: s, ctx: ctx, stop: stop}
	r.result = &errCut{why: errors.New("the server was stopped before a client had joined")}
	if err := s.serve(ctx, listeners, r.join); err != nil {
		return err
	}
	return r.result
}

// joinFunc answers the first message of a client that was admitted, on the goroutine of the handshake. It returns a
// function that serves the client until its connection ends, or nil if the client was rejected.
type joinFunc func(conn net.Conn, p *peer, l link, req joinRequest) (serve func())

// serve accepts connections until ctx ends or an accept fails for good, and returns when all connections have ended.
func (s *server) serve(ctx context.Context, listeners []net.Listener, join joinFunc) error {
	var wg sync.WaitGroup
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		wg.Go(func() { // ends when l is closed
			if err := s.accept(ctx, l, &wg, join); err != nil {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	closeAll(listeners)
	s.room.close(reasonStopping)
	defer time.AfterFunc(shutdownTimeout, s.conns.closeAll).Stop()
	wg.Wait()
	return err
}

// accept takes connections from l until ctx ends, which gives nil, or accepting fails for good.
func (s *server) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup, join joinFunc) error {
	for {
		conn, err := l.Accept()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil && isTemporary(err):
			s.console.note("accepting connections: %v; trying again", netReason(err))
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		case err != nil:
			return fmt.Errorf("accepting connections: %w", err)
		}
		entry, rejected := s.gate.enter(conn, remoteIP(conn.RemoteAddr()), time.Now())
		if rejected != nil {
			s.reportRefused(newPeer(conn), rejected)
			conn.Close()
			continue
		}
		if !s.conns.add(conn) {
			return nil
		}
		wg.Go(func() { s.handle(conn, entry, wg, join) }) // ends with the handshake, which has deadlines
	}
}

// handle runs the handshake of a connection. A client that is admitted is served on another goroutine, so that the deep
// stack of the handshake is freed.
func (s *server) handle(conn net.Conn, entry *entry, wg *sync.WaitGroup, join joinFunc) {
	serve := s.admit(conn, entry, join)
	if serve == nil {
		s.conns.remove(conn)
		return
	}
	wg.Go(serve) // ends with the connection
}

// admit runs the handshake, takes a place for the client and returns what serves it. That ends the connection and frees
// the place. admit returns nil, without a place, if the client is not served; it has reported why.
func (s *server) admit(conn net.Conn, entry *entry, join joinFunc) (serve func()) {
	s.processors.count(+1, 0)
	defer s.processors.count(-1, 0)
	from, changes := remoteIP(conn.RemoteAddr()), s.changes.Load()
	paced := newPacedConn(conn, s.turns, func() error { return s.gate.hear(entry, time.Now()) })
	p, l, req, err := s.protocol.accept(paced)
	paced.endTurn()
	rejected := s.gate.leave(entry, time.Now())
	s.freeMemory.Reset(freePause)
	switch {
	case err != nil && rejected != nil:
		err = rejected
	case err != nil:
		err = paced.orBusy(err)
	}
	if err != nil {
		s.gate.penalise(from, penaltyFor(err), time.Now())
		s.reportRefused(p, err)
		return nil
	}
	s.gate.forgive(from)
	if full := s.limits.enter(p.fingerprint, time.Now()); full != nil {
		s.reportRefused(p, full)
		closeWithReason(conn, l, full.reason)
		return nil
	}
	run := join(conn, p, l, req)
	if run == nil {
		s.limits.leave(p.fingerprint)
		return nil
	}
	if s.changes.Load() != changes { // a client can keep the server waiting between its admission and joining
		wake(s.recheckAll)
	}
	s.processors.count(0, +1)
	return func() {
		run()
		s.processors.count(0, -1)
		s.conns.remove(conn)
		s.limits.leave(p.fingerprint)
	}
}

// join makes a client a member of the room and sends its welcome.
func (s *server) join(conn net.Conn, p *peer, l link, req joinRequest) (serve func()) {
	if req.flags&joinRaw != 0 {
		s.answerWrongMode(p, l, welcome{name: p.name, server: s.name}, errors.New("it came with -raw, and this is a room"))
		return nil
	}
	c := &connection{conn, l}
	m := newMember(p, c)
	w, err := s.room.join(m, req, req.flags&joinListens != 0 && !s.norelay)
	if err != nil {
		why := err.Error()
		if errors.Is(err, errLog) {
			why = "it " + errLog.Error() // the disk's trouble is for the operator alone
		}
		s.reportRefused(p, err)
		closeWithReason(conn, l, why)
		return nil
	}
	w.server = s.name
	conn.SetDeadline(time.Time{})
	l.setReadTimeout(peerTimeout, true)
	l.shareBudget(&s.parts, p.fingerprint)
	if err := writeMessage(l, kindJoin, w.encode()); err != nil {
		s.room.leave(m, leaveReason(nil, err))
		l.wipe()
		return nil
	}
	return func() { s.attend(m, c) }
}

// attend serves a member until its connection ends.
func (s *server) attend(m *member, c *connection) {
	s.room.start(m)
	runtime.Gosched() // What the client has missed is sent before its own lines are read, also on one processor.
	err := s.read(m, c.link)
	if !errors.Is(err, errLeft) {
		c.abort() // frees a write that waits for the client
	}
	s.room.readOver(m, err)
	s.room.leave(m, leaveReason(err, <-m.written))
	c.link.wipe()
}

// read takes a client's messages until the connection ends; errLeft is the regular end. Lines that were received
// together are recorded together, with one write to the log, but no line waits for one that has not been received.
//
// An idle client's goroutine waits in here. Its stack keeps 4 KiB as long as less than 1.2 KiB of it are used then, and
// 8 KiB otherwise: hence receive is a function of its own.
func (s *server) read(m *member, l link) error {
	var b *batch // nil while there is none, since most clients are silent
	for {
		if b != nil && !l.ready() {
			if err := s.recordBatch(m, l, b); err != nil {
				return err
			}
			b.free()
			b = nil
		}
		kind, payload, err := l.read()
		switch {
		case err != nil || kind != kindText:
			if err := s.recordBatch(m, l, b); err != nil {
				return err
			}
		case b == nil:
			b = batches.Get().(*batch)
		}
		if err == nil {
			err = s.receive(m, l, b, kind, payload)
		}
		if err != nil {
			return err
		}
	}
}

// receive takes one message. Lines are gathered in b.
func (s *server) receive(m *member, l link, b *batch, kind byte, payload []byte) error {
	switch {
	case kind == kindText:
		return s.gather(m, l, b, payload)
	case kind == kindWho:
		s.room.who(m)
	case kind == kindAck && len(payload) == 8:
		return s.room.hasRead(m, binary.BigEndian.Uint64(payload))
	case kind == kindHistory && len(payload) == 8:
		s.room.recall(m, binary.BigEndian.Uint64(payload))
	case kind == kindPing:
	case kind == kindClose && string(payload) == closeText:
		return errLeft
	default:
		return errMalformed
	}
	return nil
}

// gather parses a message of lines and adds it to b, whose lines it records before if they cannot be recorded together.
// A message of several packets is recorded at once: a copy of it would count in no budget.
func (s *server) gather(m *member, l link, b *batch, payload []byte) error {
	more, err := parsePacked(payload)
	long := len(more.packed) > maxBatch
	if err != nil || long || !b.continues(more) {
		err = cmp.Or(s.recordBatch(m, l, b), err)
	}
	switch {
	case err != nil:
		return err
	case long:
		return s.record(m, l, &more)
	}
	b.add(more)
	return nil
}

// recordBatch records the lines of b, which can be nil, and clears it.
func (s *server) recordBatch(m *member, l link, b *batch) error {
	if b == nil {
		return nil
	}
	defer b.clear()
	return s.record(m, l, &b.packedLines)
}

// record hands lines to the room, at most as fast as -rate allows. The lines of a member that has to leave are not
// recorded; its goodbye says why.
func (s *server) record(m *member, l link, p *packedLines) (err error) {
	for err == nil && p.count > 0 {
		some, cost := p.cut(s.limits.atOnce())
		err = s.awaitTurn(m, l, cost)
		if err == nil {
			err = s.recordNow(m, l, some)
		}
	}
	if errors.Is(err, errEnding) {
		return nil
	}
	return err
}

// awaitTurn waits until m's key may send lines of this cost. It returns errEnding when m has to leave.
func (s *server) awaitTurn(m *member, l link, cost int) error {
	turn := s.limits.reserve(m.peer.fingerprint, cost, time.Now())
	for wait := time.Until(turn); wait > 0; wait = time.Until(turn) {
		if s.room.isEnding(m) {
			return errEnding
		}
		select {
		case <-l.dropped():
			return errNoBudget
		case <-time.After(min(wait, leaveCheck)):
		}
	}
	return nil
}

// recordNow hands lines to the room. While the log cannot be written it tries again, for logTimeout at most, and reads
// nothing from the client meanwhile. After that the client is disconnected, and with -reconnect sends the lines again.
func (s *server) recordNow(m *member, l link, p packedLines) error {
	err := s.say(m, l, p)
	if errors.Is(err, errLog) {
		s.room.notify(m, "the server cannot write its log just now; what you send waits")
	}
	for end := time.Now().Add(logTimeout); errors.Is(err, errLog) && time.Now().Before(end); {
		select {
		case <-l.dropped():
			return errNoBudget
		case <-time.After(logRetry):
		}
		err = s.say(m, l, p)
	}
	return err
}

// say unpacks lines and hands them to the room. The room takes the lines of one client at a time, so the clients that
// wait need no memory for unpacked lines.
func (s *server) say(m *member, l link, p packedLines) error {
	select {
	case s.saying <- struct{}{}:
	case <-l.dropped():
		return errNoBudget
	}
	defer func() { <-s.saying }()
	s.texts = appendTexts(s.texts[:0], p.packed)
	defer clear(s.texts)
	p.lines.texts = s.texts
	return s.room.say(m, p.lines)
}

// batch holds lines of a client that were received together and are not recorded yet.
type batch struct {
	packedLines // a slice of buf
	buf         []byte
}

var batches = sync.Pool{New: func() any { return &batch{buf: make([]byte, 0, batchBytes+maxPacket)} }}

const (
	batchLines = 256
	batchBytes = 8 << 10
)

// continues reports whether more can be recorded with the batch: it has the next numbers, and is of the same kind, and
// the batch is not full.
func (b *batch) continues(more packedLines) bool {
	if b.count == 0 {
		return true
	}
	return b.count < batchLines && len(b.packed) < batchBytes &&
		more.first == b.first+uint64(b.count) && more.what == b.what && more.to == b.to
}

// add appends a copy of more, one packet at most, for which continues must have returned true.
func (b *batch) add(more packedLines) {
	if b.count == 0 {
		b.lines = more.lines
	}
	b.buf = append(b.buf, more.packed...)
	b.count, b.packed = b.count+more.count, b.buf
}

// clear removes all lines.
func (b *batch) clear() { b.packedLines, b.buf = packedLines{}, b.buf[:0] }

// free gives the batch's memory back.
func (b *batch) free() {
	b.clear()
	batches.Put(b)
}

// connection is the receiver of a member that is a client.
type connection struct {
	conn net.Conn
	link link
}

func (c *connection) abort() { c.conn.Close() }

func (c *connection) deliver(d *delivery) (err error) {
	if d.missed > 0 {
		return errors.New(reasonSlow)
	}
	buf := d.buf[:0]
	if d.acked > 0 {
		binary.BigEndian.PutUint64(d.number[:], d.acked)
		buf, err = c.link.append(buf, kindAck, d.number[:])
		if err != nil {
			return err
		}
	}
	buf, err = c.link.sendItems(buf, d.items, d.limit)
	if err != nil {
		return err
	}
	clear(d.items) // a client that takes long to read does not hold the queue's slabs
	if d.ping {
		buf, err = c.link.append(buf, kindPing, nil)
		if err != nil {
			return err
		}
	}
	if d.goodbye {
		buf, err = appendGoodbye(buf, c.link, d.reason)
		if err != nil {
			return err
		}
	}
	d.buf = buf
	err = c.link.write(buf)
	if d.goodbye {
		c.link.setReadTimeout(goodbyeTimeout, false) // for the client's answer, whatever else it sends
	}
	return err
}

// appendGoodbye appends secure-close, and before it the reason if there is one.
func appendGoodbye(buf []byte, l link, reason string) (_ []byte, err error) {
	if reason != "" {
		notice := item{time: time.Now(), what: itemNotice, text: []byte(reason)}
		if reason == reasonRemoved {
			notice.what = itemRemoved
		}
		buf, err = l.append(buf, kindText, notice.append(nil))
		if err != nil {
			return nil, err
		}
	}
	return l.append(buf, kindClose, []byte(closeText))
}

// closeWithReason ends the connection of a client that was admitted and cannot enter the room. The client receives the
// reason, unlike one that was not admitted, and may try again.
func closeWithReason(conn net.Conn, l link, reason string) {
	defer conn.Close()
	defer time.AfterFunc(goodbyeTimeout, func() { conn.Close() }).Stop()
	if buf, err := appendGoodbye(nil, l, reason); err == nil {
		_ = l.write(buf) // the connection ends in either case
	}
	l.wipe()
}

// answerWrongMode sends w to a client that asked for -raw at a room or the other way round. The flags of w show the
// client which of the two this server is.
func (s *server) answerWrongMode(p *peer, l link, w welcome, reason error) {
	s.reportRefused(p, errors.Join(reason, writeMessage(l, kindJoin, w.encode())))
	l.wipe()
}

// leaveReason puts into words why a connection ended, from the errors of reading and writing, of which one may be nil.
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

// reportRefused records and reports why a connection came to nothing, unless the gate has reported that already. It
// sends nothing to the peer.
func (s *server) reportRefused(p *peer, err error) {
	var r *rejection
	if errors.As(err, &r) && !r.first {
		return
	}
	reason, hint := clip(err.Error(), maxReason), hintOf(err)
	var u *untrusted
	if errors.As(err, &u) && u.kind == unknownKey && p.key != nil {
		s.room.revoke(p.fingerprint)
		s.strangers.add(p.key)
		if s.console.term != nil {
			hint += "\nsecurechat: hint: or type /allow NAME"
		}
	}
	who := newPeerFields(p.addr, p.name, p.fingerprint, "", nil)
	s.room.record(recordOf(time.Now(), eventRefused, who, "reason", reason))
	from := p.addr
	if p.fingerprint != "" {
		from += ", " + p.fingerprint
	}
	s.console.note("refused %s: %s%s", from, reason, ownLines(hint))
}

// recheck ends the sessions of clients that are no longer admitted: after a change of the files of any client,
// otherwise of those whose line or certificate has expired. A key that is away and no longer admitted loses its place:
// what is said from now on is not for it. While a file cannot be read the sessions go on, and no client is admitted.
func (s *server) recheck(changed bool) {
	if changed {
		s.changes.Add(1)
	}
	if changed && s.trust != nil {
		s.trust.review()
	}
	now := time.Now()
	due, away, raw := s.room.due(now, changed), s.room.visitorsDue(now, changed), s.rawClient.Load()
	if raw != nil && !changed && !hasPassed(raw.until, now) {
		raw = nil
	}
	if before := s.room.away(now, changed); len(before) > 0 && s.trust != nil {
		gone, renewed := s.trust.clientRules().excluded(before, now)
		for _, print := range gone {
			s.room.revoke(print)
		}
		for print, until := range renewed {
			s.room.renewVisitor(print, nil, until)
		}
	}
	if len(due)+len(away) == 0 && raw == nil {
		return
	}
	decide := s.protocol.recheckClients()
	for _, m := range due {
		until, err := decide(m.peer, now)
		switch {
		case err == nil:
			s.room.renew(m, until)
		case isRefusal(err):
			s.console.note("%s has to leave: %v", m.peer.name, err)
			s.room.expel(m)
		}
	}
	for _, p := range away {
		until, err := decide(p, now)
		switch {
		case err == nil:
			s.room.renewVisitor(p.fingerprint, p, until)
		case isRefusal(err):
			s.room.revoke(p.fingerprint)
		}
	}
	if raw != nil {
		until, err := decide(raw.peer, now)
		switch {
		case err == nil:
			raw.until = until
		case isRefusal(err):
			s.console.note("%s has to leave: %v", raw.peer.name, err)
			raw.expel(errExpelled{err})
		}
	}
}

// watch rechecks the clients when the trust files change or an admission expires, reopens the log at each SIGHUP and
// when it has been renamed or removed, and answers the service manager's watchdog. It returns when ctx ends. At a
// terminal SIGHUP means that the terminal is gone, so it stops the server.
func (s *server) watch(ctx context.Context, stop func(), hangup <-chan os.Signal) {
	var beat <-chan time.Time
	if every := sdWatchdog(); every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		beat = ticker.C
	}
	recheck, files := time.NewTicker(recheckEvery), s.protocol.watch()
	defer recheck.Stop()
	lookAtLog := time.NewTicker(logLookEvery)
	defer lookAtLog.Stop()
	logTrouble := "" // the last error of reopening the log that was reported; "" after a success
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			if s.console.term != nil {
				stop()
				continue
			}
			logTrouble = s.reopenLog("")
			s.recheck(true)
		case <-lookAtLog.C:
			if s.log.moved() {
				logTrouble = s.reopenLog(logTrouble)
			}
		case <-s.recheckAll:
			s.recheck(true)
		case <-recheck.C:
			s.recheck(files.changed(time.Now()))
		case <-beat:
			s.room.names() // takes room.mu, so that a deadlocked server stops answering the watchdog
			s.notifyManager("WATCHDOG=1")
		}
	}
}

// logLookEvery is the time between two looks whether the log has been renamed or removed.
const logLookEvery = time.Second

// reopenLog continues in the file that is at the log's path. It returns the error's text, "" after a success, and
// reports an error whose text is not known already.
func (s *server) reopenLog(known string) string {
	err := s.room.reopen()
	if err == nil {
		return ""
	}
	if err.Error() != known {
		s.console.note("%v", err)
	}
	return err.Error()
}

// notifyManager reports a state to the service manager. An error is reported and ends nothing.
func (s *server) notifyManager(state string) {
	if err := sdNotify(state); err != nil {
		s.console.note("%v", err)
	}
}

// isTemporary reports whether an accept that failed with err may succeed later: the machine is short of something.
func isTemporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// connSet holds the open connections of a server, so that stopping can close them.
type connSet struct {
	mu     sync.Mutex // guards the fields below
	open   map[net.Conn]struct{}
	closed bool // add closes the connection in place of adding it
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
		return nil, fmt.Errorf("cannot listen on %s: another program has this port; "+
			"name another with -listen, or end that program", addr)
	}
	if errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("cannot listen on %s: a port below 1024 needs a right that you do not have: name another "+
			"with -listen, or give the program the right, with setcap cap_net_bind_service=+ep %s", addr, program())
	}
	return nil, fmt.Errorf("cannot listen on %s: %s", addr, netReason(err))
}

// program returns the path of this program, as a shell takes it.
func program() string {
	path, err := os.Executable()
	if err != nil {
		return "securechat"
	}
	return shellQuote(path)
}

// rawClient is the client of -raw.
type rawClient struct {
	peer  *peer
	until time.Time               // when its admission expires, zero for never; only server.watch uses it
	expel context.CancelCauseFunc // ends its session, with an errExpelled
}

// rawServer takes the place of the room with -raw: it carries one client's bytes and then stops the server.
type rawServer struct {
	*server
	ctx    context.Context // of the server
	stop   func()          // stops the server
	taken  atomic.Bool     // a client has joined, and no other one may
	result error           // of carry; read only after all connections have ended
}

func (r *rawServer) join(conn net.Conn, p *peer, l link, req joinRequest) (serve func()) {
	w := welcome{flags: welcomeRaw, name: p.name, server: r.name}
	switch {
	case req.flags&joinRaw == 0:
		r.answerWrongMode(p, l, w, errors.New("it came without -raw"))
		return nil
	case !r.taken.CompareAndSwap(false, true):
		w.flags |= welcomeBusy
		r.answerWrongMode(p, l, w, errors.New("-raw serves one client, and another one came before"))
		return nil
	}
	return func() {
		defer r.stop()
		r.result = r.carry(conn, p, l, w)
	}
}

// carry carries the client's bytes, and records its connect before and its disconnect after that.
func (r *rawServer) carry(conn net.Conn, p *peer, l link, w welcome) error {
	who := newPeerFields(p.addr, p.name, p.fingerprint, p.stream.String(), p.digest)
	if err := r.log.write(recordOf(time.Now(), eventConnect, who, "by", p.admittedBy), nil); err != nil {
		return err
	}
	if err := writeMessage(l, kindJoin, w.encode()); err != nil {
		return &errCut{open: true, why: err}
	}
	conn.SetDeadline(time.Time{})
	r.console.inform("%s joined", p.name)
	ctx, stop := context.WithCancelCause(r.ctx)
	defer stop(nil)
	r.rawClient.Store(&rawClient{peer: p, until: p.until, expel: stop})
	wake(r.recheckAll)                           // the files may have changed since the admission
	err := r.pipe.carry(ctx, conn, l.(*session)) // only securechat/2 has -raw
	r.rawClient.Store(nil)
	reason := "all has arrived"
	if err != nil {
		reason = err.Error()
	}
	counts := fmt.Appendf([]byte(who), `,"received":%d,"sent":%d,"acknowledged":%d`,
		r.pipe.received.Load(), r.pipe.sent.Load(), r.pipe.acked.Load())
	return errors.Join(err, r.log.write(recordOf(time.Now(), eventDisconnect, counts, "reason", reason), nil))
}
