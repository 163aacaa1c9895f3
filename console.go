package main

// The console: the three standard streams of either side, be they a terminal or pipes (DESIGN sections 6 and 7). stdout
// carries messages only, one a line; all else goes to stderr. Whatever a peer had a hand in is made safe here, and here
// alone, before it is shown.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// console may be used by any goroutine, but one at a time may read and one show.
type console struct {
	stderr io.Writer
	term   *terminal // nil where nobody types
	onTerm bool      // messages go to the terminal, above the prompt
	color  bool
	json   bool   // one object a line, in and out (-json)
	quiet  bool   // stderr carries errors alone (-quiet)
	nobell bool   // -nobell
	server string // the server's name
	origin string // and its fingerprint, for objects
	since  uint64 // the last item before we came: up to here it is history
	quit   func() // what Ctrl-C and Ctrl-D do on a server
	lines  *lineReader
	out    *bufio.Writer
	outMu  sync.Mutex // over out and buf where several show: with -json
	buf    []byte
	muted  atomic.Bool

	// What any goroutine has to tell goes through a queue: stderr may be stuck, and nobody else is to wait for it.
	notes   chan string
	dropped atomic.Int64
	closing sync.Once
	stop    chan struct{} // closed: show what waits, and no more
	told    chan struct{} // closed once that is done
	mu      sync.Mutex    // over the terminal or stderr, for one line
}

const maxNotes = 1024 // that wait for stderr

// openConsole makes a console of the standard streams: with a prompt where stdin is a terminal, and stdout or stderr is one
// to draw on. plain leaves the prompt out: what goes in and out is for programs. No line of the input is longer than maxInput.
func openConsole(stdin, stdout, stderr *os.File, plain bool, maxInput int) (*console, error) {
	draw := stdout
	if !isTerminal(stdout) {
		draw = stderr
	}
	if plain || !isTerminal(stdin) || !isTerminal(draw) {
		c := newConsole(stdin, stdout, stderr, nil)
		c.lines = newLineReader(stdin, maxInput)
		return c, nil
	}
	term, err := newTerminal(stdin, draw)
	if err != nil {
		return nil, err
	}
	c := newConsole(stdin, stdout, stderr, term)
	c.onTerm, c.color = draw == stdout, wantColor(draw)
	return c, nil
}

// newConsole makes a console of any streams; term is nil where nobody types. It must be closed.
func newConsole(stdin io.Reader, stdout, stderr io.Writer, term *terminal) *console {
	c := &console{
		stderr: stderr, term: term, out: bufio.NewWriterSize(stdout, 64<<10),
		notes: make(chan string, maxNotes), stop: make(chan struct{}), told: make(chan struct{}),
	}
	if term == nil {
		c.lines = newLineReader(stdin, maxLine)
	}
	go c.drain()
	return c
}

// drain shows what is told, until close.
func (c *console) drain() {
	defer close(c.told)
	for stop := c.stop; stop != nil || len(c.notes) > 0; {
		select {
		case line := <-c.notes:
			c.print(line)
		case <-stop:
			stop = nil
		}
		if n := c.dropped.Swap(0); n > 0 {
			c.print(fmt.Sprintf("securechat: %d more lines could not be shown: standard error was stuck", n))
		}
	}
}

// close shows what is left to show, for three quarters of a second at most, and gives the terminal back. What is told
// after it is not shown. It may be called again.
func (c *console) close() {
	c.closing.Do(func() { close(c.stop) })
	select {
	case <-c.told:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.term != nil {
			c.term.close()
		}
	case <-time.After(750 * time.Millisecond):
	}
}

// plain gives the terminal back and goes on without it. Nobody else may use the console yet.
func (c *console) plain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term != nil {
		c.term.close()
		c.term, c.onTerm = nil, false
	}
}

// guard is deferred in goroutines that draw: a panic gives the terminal back first.
func (c *console) guard() {
	if c.term != nil {
		c.term.guard()
	}
}

// read returns the next line that is typed or piped in, good until the next call. pasted says that the line was pasted, so
// that an empty one is text and no wish to leave.
func (c *console) read() (line []byte, pasted bool, err error) {
	if c.term == nil {
		line, err = c.lines.next()
		return line, false, err
	}
	s, pasted, err := c.term.readLine()
	return []byte(s), pasted, err
}

// note tells the person something that is no message, without waiting. It may have several lines.
func (c *console) note(format string, a ...any) { c.tell("securechat: "+format, a...) }

// tell is note without our name in front.
func (c *console) tell(format string, a ...any) {
	lines := strings.Split(fmt.Sprintf(format, a...), "\n")
	for i := range lines {
		lines[i] = safe(lines[i])
	}
	select {
	case c.notes <- strings.Join(lines, "\n"):
	default:
		c.dropped.Add(int64(len(lines)))
	}
}

// print shows a line, or some, on the terminal or on stderr.
func (c *console) print(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term != nil {
		c.term.print(line)
	} else {
		fmt.Fprintln(c.stderr, line)
	}
}

// mute drops what is to be shown from now on.
func (c *console) mute() { c.muted.Store(true) }

// show prints an item of the room: what is said on stdout, the rest on stderr. flush makes sure of it.
func (c *console) show(it item) error {
	if c.muted.Load() {
		return nil
	}
	history := it.seq != 0 && it.seq <= c.since
	if c.json {
		return c.object(func(b []byte) []byte { return appendObject(b, it, history, c.server, c.origin) })
	}
	name, text := safe(it.name), it.text
	switch it.what {
	case itemUndelivered:
		c.print("securechat: " + safe(string(text)))
		return nil
	case itemJoin, itemLeave, itemNotice:
		if c.quiet {
			return nil
		}
		line := "* "
		switch {
		case it.what == itemJoin:
			line += name + " joined"
		case it.what == itemLeave && len(text) == 0:
			line += name + " left"
		case it.what == itemLeave:
			line += name + " left: " + safe(string(text))
		default:
			line += safe(string(text))
		}
		c.print(line)
		return nil
	}
	b := c.buf[:0]
	switch {
	case c.onTerm && history:
		b = it.time.Local().AppendFormat(b, "2006-01-02 15:04 ")
	case c.onTerm:
		b = it.time.Local().AppendFormat(b, "15:04 ")
	}
	if it.what == itemAction {
		b = append(b, "* "...)
	}
	if c.color && c.onTerm {
		b = append(append(append(b, nameColor(name)...), name...), colorOff...)
	} else {
		b = append(b, name...)
	}
	switch it.what {
	case itemAction:
		b = append(b, ' ')
	case itemDirect:
		b = append(b, " (to you): "...)
	default:
		b = append(b, ": "...)
	}
	b = appendSafe(b, text)
	c.buf = b
	if c.onTerm {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.term.print(string(b))
		if it.what == itemDirect && !c.nobell {
			c.term.bell()
		}
		return nil
	}
	c.buf = append(b, '\n')
	_, err := c.out.Write(c.buf)
	return err
}

// prompt is what stands before what name types.
func (c *console) prompt(name string) string {
	if !c.color {
		return name + "> "
	}
	return nameColor(name) + name + colorOff + "> "
}

// acked shows, in objects, that every line up to n is in the server's log.
func (c *console) acked(n uint64) error {
	return c.object(func(b []byte) []byte {
		return append(strconv.AppendUint(append(b, `{"type":"ack","id":`...), n, 10), '}', '\n')
	})
}

// object writes an object to stdout if that is what stdout is for; flush makes sure of it.
func (c *console) object(add func(b []byte) []byte) error {
	if !c.json || c.muted.Load() {
		return nil
	}
	c.outMu.Lock()
	defer c.outMu.Unlock()
	c.buf = add(c.buf[:0])
	_, err := c.out.Write(c.buf)
	return err
}

// fault tells that the line last read could not be sent, on stderr and in objects. An error of stdout stays in c.out, for the
// next flush.
func (c *console) fault(err error) {
	text := err.Error()
	if !errors.As(err, new(errLongLine)) { // which names the line itself
		text = fmt.Sprintf("line %d: %v", c.lines.number, err)
	}
	c.note("%s", text)
	_ = c.object(func(b []byte) []byte { return appendLineError(b, c.lines.number, text) })
	_ = c.flush()
}

// welcome begins a connection, in objects: we are name in the room.
func (c *console) welcome(name string, gap bool) error {
	if err := c.object(func(b []byte) []byte { return appendWelcome(b, name, gap, c.server, c.origin) }); err != nil {
		return err
	}
	return c.flush()
}

// flush writes out what show and acked have printed.
func (c *console) flush() error {
	if c.muted.Load() {
		return nil
	}
	c.outMu.Lock()
	defer c.outMu.Unlock()
	return c.out.Flush()
}

// secretPrompt returns how to ask for a passphrase, or nil where nobody can be asked.
func (c *console) secretPrompt() func(question string) ([]byte, error) {
	if c.term == nil {
		return nil
	}
	return c.term.readSecret
}

// progress returns what shows a line in place of the one before it, or nil where nobody looks; the last one ends in \n.
func (c *console) progress() func(line string) {
	f, ok := c.stderr.(*os.File)
	if !ok || c.quiet || !isTerminal(f) {
		return nil
	}
	before := 0
	return func(line string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		text, end := strings.CutSuffix(line, "\n")
		fmt.Fprintf(c.stderr, "\r%-*s", before, text)
		if before = len(text); end {
			fmt.Fprintln(c.stderr)
		}
	}
}

// lineReader cuts a stream into lines for sending.
type lineReader struct {
	r      *bufio.Reader
	max    int // bytes of a line
	number int // of the line last returned, from 1
}

func newLineReader(r io.Reader, max int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, max+1), max: max}
}

// errLongLine says which line was longer than maxLine; the lines after it can still be read.
type errLongLine struct{ number, max int }

func (e errLongLine) Error() string {
	return fmt.Sprintf("line %d is longer than %d bytes and was not sent: -raw carries any bytes", e.number, e.max)
}

// next returns a line without its end, good until the next call; a last line without an end counts. io.EOF ends.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if err == io.EOF && len(line) > 0 {
		l.number++
		return line, nil
	}
	if err == nil {
		l.number++
		return line[:len(line)-1], nil
	}
	if err != bufio.ErrBufferFull {
		return nil, err
	}
	l.number++
	for err == bufio.ErrBufferFull {
		_, err = l.r.ReadSlice('\n')
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	return nil, errLongLine{l.number, l.max}
}

// ready says whether next would return without waiting for more input.
func (l *lineReader) ready() bool {
	b, _ := l.r.Peek(l.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}
