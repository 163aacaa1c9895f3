package main

// -raw: bytes both ways between one client and one server; each side's standard input goes to the other side's standard
// output. The rules:
//
//   - A direction is bytes in kindRaw. It ends with an empty kindRaw, upon which the receiver closes its stdout.
//   - A receiver acknowledges with the count of bytes that its stdout took, and one more for the end of file. A side
//     succeeds when everything it sent, its end of file too, is acknowledged and everything of the other side has
//     arrived; then it sends secure-close. A secure-close that comes earlier means that the other side gives up.
//   - A slow reader slows the writer down by TCP alone: only a few buffers are queued, and writes have no deadline. A
//     dead peer is found by its silence: a side whose stdout is stuck still pings.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	rawChunk    = 128 * maxBatch         // bytes of stdin read at a time
	rawPiece    = 32 * maxBatch          // bytes sealed and written at a time, in whole packets
	rawAckEvery = 1 << 20                // bytes between two acknowledgements, or a rawTick
	rawTick     = 500 * time.Millisecond // between two looks at the progress
)

// errCut is the end of -raw before everything has arrived.
type errCut struct {
	missing int64 // bytes to send that the other side has not acknowledged, as far as their number is known
	open    bool  // the other side's end of file has not arrived
	got     int64 // bytes that have arrived
	why     error
}

func (e *errCut) Error() string {
	s := fmt.Sprintf("not all has arrived: %v", e.why)
	if e.missing > 0 {
		s += fmt.Sprintf("; %d bytes of ours are not acknowledged", e.missing)
	}
	if e.open {
		s += fmt.Sprintf("; what came stops after %d bytes, without an end of file", e.got)
	}
	return s
}

func (e *errCut) Unwrap() error { return e.why }

var (
	errGaveUp   = errors.New("the other side gave up")
	errToScreen = errors.New("the other side sends bytes, and standard output is a terminal: " +
		"send them to a file or a program")
)

// errExpelled is why the server ends the session of a client that it no longer admits. The client receives
// reasonNotAdmitted.
type errExpelled struct{ error }

func (e errExpelled) Unwrap() error { return e.error }

// errStream is an error of our own stdin or stdout.
type errStream struct{ error }

func (e errStream) Unwrap() error { return e.error }

// rawPipe is one side of -raw.
type rawPipe struct {
	stdin, stdout *os.File
	progress      func(line string) // prints line in place of the one before; nil for no progress
	receiveOnly   func()            // called when this side sends no more data, and the other side may

	sending sync.Mutex  // guards appending to and writing the session, for one message or piece of stdin
	closed  atomic.Bool // secure-close has been sent, or is the next message sent
	refused atomic.Bool // the other side is no longer trusted, so nothing that arrives is written
	reason  string      // sent before secure-close if it is not empty; set before write is asked to end

	server   bool  // this is the server's side, which receives no reason
	terminal bool  // stdin is a terminal, which counts as empty
	size     int64 // of stdin if it is a regular file, else -1
	rawCounts
	ended     atomic.Bool // our end of file has been sent, so sent is final
	confirmed atomic.Bool // our end of file and everything before it is acknowledged
	arrived   atomic.Bool // the other side's end of file has arrived, and stdout took everything
}

// rawCounts counts bytes of -raw, without ends of file.
type rawCounts struct {
	sent, acked atomic.Int64 // of our stdin
	received    atomic.Int64 // for our stdout, which has taken them
}

// newRawPipe makes the server's or the client's pipe of the standard streams.
func newRawPipe(server bool, stdin, stdout *os.File, progress func(string), receiveOnly func()) *rawPipe {
	p := &rawPipe{
		server: server, stdin: stdin, stdout: stdout, progress: progress, receiveOnly: receiveOnly,
		terminal: isTerminal(stdin), size: -1,
	}
	if info, err := stdin.Stat(); err == nil && info.Mode().IsRegular() {
		if at, err := stdin.Seek(0, io.SeekCurrent); err == nil {
			p.size = max(0, info.Size()-at)
		}
	}
	return p
}

// carry moves bytes over s until both directions have ended, ctx ends, or something fails. It closes conn. Its error
// is an errStream, an errCut, or the cause of ctx.
func (p *rawPipe) carry(ctx context.Context, conn net.Conn, s *session) error {
	quit, due := make(chan struct{}), make(chan struct{}, 1)
	read, written := make(chan error, 1), make(chan error, 1)
	// Both end when conn is closed below, unless stdout is stuck: then with the process.
	go func() { read <- p.read(s, due) }()
	go func() { written <- p.write(s, due, quit) }()
	stopShow := p.show()
	defer stopShow()

	var err error
	reading, writing := read, written // nil once not waited for
	select {
	case <-ctx.Done():
		err, reading = context.Cause(ctx), nil
	case err = <-read:
		reading = nil
	case err = <-written:
		writing = nil
	}
	expelled := errors.As(err, new(errExpelled))
	switch {
	case expelled:
		p.reason = reasonNotAdmitted
		reading = read // until the client has closed, so that it receives the reason
		p.refused.Store(true)
	case errors.Is(err, errBadPacket), errors.Is(err, errMalformed), errors.As(err, new(*untrusted)):
		p.refused.Store(true)
		conn.Close() // after a failed check nothing more is sent
	}
	close(quit) // a writer that is not stuck sends secure-close
	// The writer has this long to send its goodbye, and the reader to receive one or to find why a write failed.
	timeout := time.After(goodbyeTimeout)
	for (reading != nil || writing != nil) && timeout != nil {
		select {
		case rerr := <-reading:
			reading = nil
			if rerr != nil && err != nil && !expelled {
				err = rerr
			}
		case <-writing:
			writing = nil
		case <-timeout:
			timeout = nil
		}
	}
	conn.Close()
	return p.result(err)
}

// result returns carry's error, from what ended it.
func (p *rawPipe) result(err error) error {
	if p.confirmed.Load() && p.arrived.Load() {
		return nil // only the goodbye may be missing
	}
	switch {
	case errors.As(err, new(errStream)), errors.Is(err, errTimeout):
		return err
	case errors.As(err, new(*untrusted)):
	case errors.Is(err, errBadPacket):
		err = fmt.Errorf("%w: possible man-in-the-middle attack; the session was ended", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("nothing heard from the other side for too long")
	case err == nil:
		err = errTruncated
	default:
		err = errors.New(netReason(err))
	}
	missing := max(p.sent.Load(), p.size) - p.acked.Load()
	return &errCut{missing: missing, open: !p.arrived.Load(), got: p.received.Load(), why: err}
}

// write sends everything this side sends: stdin, and between its pieces acknowledgements and pings, until both
// directions have ended or quit is closed; then it sends secure-close.
func (p *rawPipe) write(s *session, due, quit chan struct{}) error {
	pumped := make(chan error, 1)
	go func() { pumped <- p.pump(s) }() // ends with stdin or a failed write, else with the process
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for acked := int64(0); ; {
		select {
		case <-due:
		case <-quit:
			return p.goodbye(s)
		case <-ping.C:
			if err := p.send(s, kindPing, nil); err != nil {
				return err
			}
		case err := <-pumped:
			if errors.As(err, new(errStream)) {
				return errors.Join(err, p.goodbye(s))
			}
			if err != nil {
				return err
			}
		}
		arrived := p.arrived.Load() // read before received, which is final once this is true
		n := p.received.Load()
		if arrived {
			n++
		}
		if n > acked {
			acked = n
			if err := p.send(s, kindAck, binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
				return err
			}
		}
		if arrived && p.confirmed.Load() {
			return p.goodbye(s)
		}
	}
}

// pump sends stdin and its end of file. One goroutine reads, seals and writes: handing pieces from one goroutine to
// another costs more than their working at the same time saves (docs/PERFORMANCE.md).
func (p *rawPipe) pump(s *session) error {
	in := make([]byte, msgHeader+rawChunk, msgHeader+rawChunk+packetAlign)
	buf := make([]byte, 0, rawChunk+rawChunk/32)
	for {
		n, err := 0, io.EOF
		if !p.terminal {
			n, err = p.stdin.Read(in[msgHeader:])
		}
		for rest := in[:msgHeader+n]; ; {
			piece := rest[:min(len(rest), msgHeader+rawPiece)]
			rest = rest[len(piece)-msgHeader:]
			last := len(rest) == msgHeader
			open, werr := p.piece(s, buf, piece, last && err == io.EOF)
			if werr != nil {
				return werr
			}
			if !open {
				p.receiveOnly()
				return nil
			}
			if last {
				break
			}
		}
		if err != nil {
			return errStream{fmt.Errorf("reading standard input: %w", err)}
		}
	}
}

// piece sends in[msgHeader:], sealed into buf, and the end of file if these are stdin's last bytes. open means that
// more may follow: nothing does after the end of file, and nothing is sent after secure-close.
func (p *rawPipe) piece(s *session, buf, in []byte, last bool) (open bool, err error) {
	p.sending.Lock()
	defer p.sending.Unlock()
	if p.closed.Load() {
		return false, nil
	}
	p.sent.Add(int64(len(in) - msgHeader))
	buf, err = s.appendRaw(buf, in)
	if err != nil {
		return false, err
	}
	if last {
		p.ended.Store(true)
		buf, err = s.append(buf, kindRaw, nil)
		if err != nil {
			return false, err
		}
	}
	return !last, s.write(buf)
}

// send sends a message between two pieces of stdin.
func (p *rawPipe) send(s *session, kind byte, payload []byte) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	buf, err := s.append(nil, kind, payload)
	if err != nil {
		return err
	}
	return s.write(buf)
}

// goodbye sends the reason, if there is one, and secure-close. No piece of stdin is sent before it unless that has
// begun.
func (p *rawPipe) goodbye(s *session) error {
	p.closed.Store(true)
	if p.reason != "" {
		notice := item{time: time.Now(), what: itemNotice, text: []byte(p.reason)}
		if err := p.send(s, kindText, notice.append(nil)); err != nil {
			return err
		}
	}
	return p.send(s, kindClose, []byte(closeText))
}

// rawOutput collects what arrives for stdout.
type rawOutput struct {
	p        *rawPipe
	due      chan struct{} // wakes the writer: there is something to acknowledge
	buf      []byte
	reported int64     // the p.received that the writer was last woken for
	at       time.Time // when that was
}

// add collects bytes, and writes what was collected before if there is no space for them.
func (o *rawOutput) add(b []byte) error {
	if len(o.buf)+len(b) > cap(o.buf) {
		if err := o.flush(); err != nil {
			return err
		}
	}
	o.buf = append(o.buf, b...)
	return nil
}

// flush writes what was collected.
func (o *rawOutput) flush() error {
	if len(o.buf) == 0 || o.p.refused.Load() {
		o.buf = o.buf[:0]
		return nil
	}
	if o.p.received.Load() == 0 && isTerminal(o.p.stdout) {
		return errStream{errToScreen}
	}
	n, err := o.p.stdout.Write(o.buf)
	o.buf = o.buf[:0]
	got := o.p.received.Add(int64(n))
	if err != nil {
		return errStream{fmt.Errorf("cannot write standard output: %w", err)}
	}
	if now := time.Now(); got-o.reported >= rawAckEvery || now.Sub(o.at) > rawTick {
		o.reported, o.at = got, now
		wake(o.due)
	}
	return nil
}

// end writes what was collected and closes stdout: the other side's end of file has arrived.
func (o *rawOutput) end() error {
	if err := o.flush(); err != nil || o.p.refused.Load() {
		return err
	}
	if err := o.p.stdout.Close(); err != nil { // some file systems report a full disk here
		return errStream{fmt.Errorf("cannot write standard output: %w", err)}
	}
	o.p.arrived.Store(true)
	wake(o.due)
	return nil
}

// read writes what arrives to stdout, as much at a time as has been received, until secure-close. It returns nil if
// both directions have ended.
func (p *rawPipe) read(s *session, due chan struct{}) error {
	out := &rawOutput{p: p, due: due, buf: make([]byte, 0, rawBuffer)}
	s.setReadTimeout(peerTimeout, true)
	gaveUp := errGaveUp
	for {
		if !s.ready() {
			if err := out.flush(); err != nil {
				return err
			}
		}
		kind, payload, err := s.read()
		if err != nil {
			return errors.Join(err, out.flush())
		}
		switch {
		case gaveUp != errGaveUp && kind != kindClose:
			err = errMalformed
		case kind == kindText && !p.server:
			var reason string
			reason, err = parseReason(payload)
			gaveUp = fmt.Errorf("%w: %s", errGaveUp, reason)
		case kind == kindRaw && !p.arrived.Load() && len(payload) > 0:
			err = out.add(payload)
		case kind == kindRaw && !p.arrived.Load():
			err = out.end()
		case kind == kindAck && len(payload) == 8:
			err = p.acknowledged(binary.BigEndian.Uint64(payload), due)
		case kind == kindPing:
		case kind == kindClose && string(payload) == closeText:
			if p.arrived.Load() && p.confirmed.Load() {
				return nil
			}
			return errors.Join(gaveUp, out.flush())
		default:
			return errMalformed
		}
		if err != nil {
			return err
		}
	}
}

// acknowledged applies an acknowledgement: the count of bytes that the other side's stdout took.
func (p *rawPipe) acknowledged(n uint64, due chan struct{}) error {
	ended := p.ended.Load() // read before sent, which is final once this is true
	sent := uint64(p.sent.Load())
	if n < uint64(p.acked.Load()) || n > sent && !(ended && n == sent+1) {
		return errMalformed
	}
	p.acked.Store(int64(min(n, sent)))
	if n > sent {
		p.confirmed.Store(true)
		wake(due)
	}
	return nil
}

// show prints the progress every rawTick until stop is called, which prints it a last time.
func (p *rawPipe) show() (stop func()) {
	if p.progress == nil {
		return func() {}
	}
	begin := time.Now()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		tick := time.NewTicker(rawTick)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.progress(p.line(time.Since(begin), true))
			case <-quit:
				p.progress(p.line(time.Since(begin), false) + "\n")
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// line describes the progress after some time; running adds the time that is left.
func (p *rawPipe) line(after time.Duration, running bool) string {
	acked, received := p.acked.Load(), p.received.Load()
	rate := float64(acked+received) / max(after.Seconds(), 0.001)
	var parts []string
	if acked > 0 || p.size > 0 {
		s := "sent " + byteCount(float64(acked))
		if p.size > 0 {
			s += fmt.Sprintf(" of %s, %d%%", byteCount(float64(p.size)), 100*min(acked, p.size)/p.size)
		}
		parts = append(parts, s)
	}
	if received > 0 || len(parts) == 0 {
		parts = append(parts, "received "+byteCount(float64(received)))
	}
	parts = append(parts, byteCount(rate)+"/s")
	if running && p.size > acked && acked > 0 {
		left := after.Seconds() * float64(p.size-acked) / float64(acked)
		parts = append(parts, (time.Duration(left+1)*time.Second).String()+" left")
	} else if !running {
		parts = append(parts, "in "+after.Round(100*time.Millisecond).String())
	}
	return strings.Join(parts, ", ")
}

// byteCount formats n bytes with about three digits.
func byteCount(n float64) string {
	unit := 0
	for ; n >= 1000 && unit < 4; unit++ {
		n /= 1024
	}
	if unit == 0 {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.*f %ciB", max(0, 3-len(fmt.Sprintf("%.0f", n))), n, " KMGT"[unit])
}
