package main

// Bytes both ways between one client and one server (-raw; DESIGN.md section 7): standard input goes to the other side's
// standard output. The rules:
//
//   - A direction is bytes in kindRaw and ends with an empty one, which closes the receiver's stdout.
//   - A receiver acknowledges with the count of bytes that its stdout took, and one more for the end of file. A side
//     succeeds when all it sent, its end of file too, is acknowledged and all of the other's has arrived; then it says
//     secure-close. One that comes earlier is the other side giving up.
//   - A slow reader slows the writer, by TCP alone: nothing is queued beyond a few buffers, and no write has a deadline. The
//     dead are found by their silence: a side whose stdout is stuck still pings.

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
	rawPiece    = 32 * maxBatch          // and sealed and written at a time, whole packets: for so long a message has to wait
	rawAckEvery = 1 << 20                // bytes, or a tick
	rawTick     = 500 * time.Millisecond // between two looks at the progress
)

// errCut is the end of -raw before all had arrived.
type errCut struct {
	missing int64 // bytes known to be for the other side that it has not acknowledged
	open    bool  // the other side's end of file has not come
	got     int64 // bytes that have
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
	errToScreen = errors.New("the other side sends bytes, and standard output is a terminal: send them to a file or a program")
)

// errStream is trouble with our own stdin or stdout.
type errStream struct{ error }

func (e errStream) Unwrap() error { return e.error }

// rawPipe is one side of -raw.
type rawPipe struct {
	stdin, stdout *os.File
	progress      func(line string) // shows line in place of the one before; nil: nobody looks

	sending sync.Mutex  // held for a message or a piece of stdin: the session's writing half is one goroutine's at a time
	closed  atomic.Bool // secure-close is said, or is the next that is

	size                  int64 // of stdin where it is a regular file, else -1
	sent, acked, received atomic.Int64
	ended                 atomic.Bool // our end of file is sent, so sent is final
	confirmed             atomic.Bool // and all of ours is acknowledged
	arrived               atomic.Bool // the other side's end of file has come, and stdout has taken all
}

// newRawPipe makes a pipe of the standard streams.
func newRawPipe(stdin, stdout *os.File, progress func(string)) *rawPipe {
	p := &rawPipe{stdin: stdin, stdout: stdout, progress: progress, size: -1}
	if info, err := stdin.Stat(); err == nil && info.Mode().IsRegular() {
		if at, err := stdin.Seek(0, io.SeekCurrent); err == nil {
			p.size = max(0, info.Size()-at)
		}
	}
	return p
}

// carry moves bytes over s until both directions have ended, ctx ends, or something fails; it closes conn. Unless nil, its
// error is an errStream, an errCut, or ctx's cause.
func (p *rawPipe) carry(ctx context.Context, conn net.Conn, s *session) error {
	quit, due := make(chan struct{}), make(chan struct{}, 1)
	read, written := make(chan error, 1), make(chan error, 1)
	go func() { read <- p.read(s, due) }()
	go func() { written <- p.write(s, due, quit) }()
	stopShow := p.show()
	defer stopShow()

	var err error
	reading, writing := read, written // nil: not waited for
	select {
	case <-ctx.Done():
		err, reading = context.Cause(ctx), nil
	case err = <-read:
		reading = nil
	case err = <-written:
		writing = nil
	}
	close(quit) // a writer that can still say secure-close does
	// Whoever is left has this long: the writer to say goodbye, the reader to hear it or to know better why a write failed.
	patience := time.After(goodbyeTimeout)
	for (reading != nil || writing != nil) && patience != nil {
		select {
		case rerr := <-reading:
			reading = nil
			if rerr != nil && err != nil {
				err = rerr
			}
		case <-writing:
			writing = nil
		case <-patience:
			patience = nil
		}
	}
	conn.Close()
	return p.result(err)
}

// result is carry's, err being what ended it.
func (p *rawPipe) result(err error) error {
	if p.confirmed.Load() && p.arrived.Load() {
		return nil // only the goodbye can be missing
	}
	switch {
	case errors.As(err, new(errStream)), errors.Is(err, errTimeout):
		return err
	case errors.Is(err, errBadPacket):
		err = fmt.Errorf("%w: possible man-in-the-middle attack; the session was ended", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("nothing heard from the other side for too long")
	case err == nil:
		err = errTruncated
	default:
		err = errors.New(netReason(err))
	}
	return &errCut{missing: max(p.sent.Load(), p.size) - p.acked.Load(), open: !p.arrived.Load(), got: p.received.Load(), why: err}
}

// write sends all that we send: it pumps stdin, and between its pieces acknowledges and pings, until there is nothing else to
// do or quit is closed; then it says secure-close.
func (p *rawPipe) write(s *session, due, quit chan struct{}) error {
	pumped := make(chan error, 1)
	go func() { pumped <- p.pump(s) }()
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for acked := int64(0); ; {
		select {
		case <-due:
		case <-quit:
			return p.goodbye(s)
		case <-ping.C:
			if err := p.say(s, kindPing, nil); err != nil {
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
		arrived := p.arrived.Load() // before received, which is final then
		n := p.received.Load()
		if arrived {
			n++
		}
		if n > acked {
			acked = n
			if err := p.say(s, kindAck, binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
				return err
			}
		}
		if arrived && p.confirmed.Load() {
			return p.goodbye(s)
		}
	}
}

// pump sends stdin and its end of file. One goroutine reads, seals and writes: to hand pieces from one to another costs more
// than what they would do at the same time saves (docs/PERFORMANCE.md).
func (p *rawPipe) pump(s *session) error {
	in := make([]byte, msgHeader+rawChunk, msgHeader+rawChunk+packetAlign)
	buf := make([]byte, 0, rawChunk+rawChunk/32)
	for {
		n, err := 0, io.EOF
		if !isTerminal(p.stdin) { // a terminal is empty: nobody types bytes
			n, err = p.stdin.Read(in[msgHeader:])
		}
		for rest := in[:msgHeader+n]; ; {
			piece := rest[:min(len(rest), msgHeader+rawPiece)]
			rest = rest[len(piece)-msgHeader:]
			last := len(rest) == msgHeader
			if open, werr := p.piece(s, buf, piece, last && err == io.EOF); werr != nil || !open {
				return werr
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

// piece sends in[msgHeader:], by way of buf, and the end of file if these are stdin's last bytes. open says that more may follow:
// it does not after the end of file, nor once secure-close is said, after which nothing is sent.
func (p *rawPipe) piece(s *session, buf, in []byte, last bool) (open bool, err error) {
	p.sending.Lock()
	defer p.sending.Unlock()
	if p.closed.Load() {
		return false, nil
	}
	p.sent.Add(int64(len(in) - msgHeader))
	if buf, err = s.appendRaw(buf, in); err != nil {
		return false, err
	}
	if last {
		p.ended.Store(true)
		if buf, err = s.append(buf, kindRaw, nil); err != nil {
			return false, err
		}
	}
	return !last, s.write(buf)
}

// say sends a message between two pieces of stdin.
func (p *rawPipe) say(s *session, kind byte, payload []byte) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	buf, err := s.append(nil, kind, payload)
	if err != nil {
		return err
	}
	return s.write(buf)
}

// goodbye says secure-close, and lets no piece of stdin go first that is not under way.
func (p *rawPipe) goodbye(s *session) error {
	p.closed.Store(true)
	return p.say(s, kindClose, []byte(closeText))
}

// read writes what comes to stdout, in pieces as large as what is here already, until secure-close: nil if all is done.
func (p *rawPipe) read(s *session, due chan struct{}) error {
	out := make([]byte, 0, rawBuffer)
	var told int64 // of received, to the writer
	var at time.Time
	flush := func() error {
		if len(out) == 0 {
			return nil
		}
		if p.received.Load() == 0 && isTerminal(p.stdout) {
			return errStream{errToScreen}
		}
		n, err := p.stdout.Write(out)
		out = out[:0]
		got := p.received.Add(int64(n))
		if err != nil {
			return errStream{fmt.Errorf("cannot write standard output: %w", err)}
		}
		if now := time.Now(); got-told >= rawAckEvery || now.Sub(at) > rawTick {
			told, at = got, now
			wake(due)
		}
		return nil
	}
	s.setReadTimeout(peerTimeout, true)
	for {
		if !s.ready() {
			if err := flush(); err != nil {
				return err
			}
		}
		kind, payload, err := s.read()
		if err != nil {
			return errors.Join(err, flush())
		}
		switch {
		case kind == kindRaw && !p.arrived.Load() && len(payload) > 0:
			if len(out)+len(payload) > cap(out) {
				if err := flush(); err != nil {
					return err
				}
			}
			out = append(out, payload...)
		case kind == kindRaw && !p.arrived.Load():
			err := flush()
			if err == nil {
				if err = p.stdout.Close(); err != nil { // some file systems tell of a full disk here
					err = errStream{fmt.Errorf("cannot write standard output: %w", err)}
				}
			}
			if err != nil {
				return err
			}
			p.arrived.Store(true)
			wake(due)
		case kind == kindAck && len(payload) == 8:
			n, ended := binary.BigEndian.Uint64(payload), p.ended.Load() // before sent, which is final then
			sent := uint64(p.sent.Load())
			if n < uint64(p.acked.Load()) || n > sent && !(ended && n == sent+1) {
				return errMalformed
			}
			p.acked.Store(int64(min(n, sent)))
			if n > sent {
				p.confirmed.Store(true)
				wake(due)
			}
		case kind == kindPing:
		case kind == kindClose && string(payload) == closeText:
			if p.arrived.Load() && p.confirmed.Load() {
				return nil
			}
			return errors.Join(errGaveUp, flush())
		default:
			return errMalformed
		}
	}
}

// show shows the progress now and then until the function it returns is called, which shows the last of it.
func (p *rawPipe) show() (stop func()) {
	if p.progress == nil {
		return func() {}
	}
	begin := time.Now()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
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

// line tells of the progress after a while; running adds what is left to wait for.
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

// byteCount is n bytes in three digits or so.
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
