package main

// The console: the standard streams of either side, on a terminal or in pipes. stdout carries messages only, one per
// line, or with -json one object per line; everything else goes to stderr. Text from peers is made safe here
// before it is printed; callers of print pass text that is safe already.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxNotes     = 1024                   // notes that wait for stderr
	notesTimeout = 750 * time.Millisecond // for the notes that wait at the end
)

// consoleOptions are the options of the command line that the console needs. openConsole sets the last two.
type consoleOptions struct {
	json   bool // -json: one object per line, in and out
	bridge bool // -bridge: of the objects that come in, none speaks as the operator
	raw    bool // -raw: the streams carry bytes
	quiet  bool // -quiet: stderr carries only errors
	noBell bool // -nobell

	quietJoins bool // -quiet-joins

	onTerminal bool // messages are shown on the terminal, above the prompt
	color      bool
}

// console is the standard streams. Any goroutine may use it, but only one at a time may call read, and one show.
type console struct {
	consoleOptions
	display
	conversation
	lines *lineReader // the input; nil with a terminal
	out   *output
	notes *noteQueue

	controlling func() *terminal // opens the controlling terminal once; nil without one
}

// openConsole makes a console of the standard streams. It has a prompt if stdin is a terminal and stdout or stderr is
// another or the same, unless -json or -raw use the streams.
func openConsole(stdin, stdout, stderr *os.File, o consoleOptions) (*console, error) {
	draw := stdout
	if !isTerminal(stdout) {
		draw = stderr
	}
	if o.json || o.raw || !isTerminal(stdin) || !isTerminal(draw) {
		c := newConsole(stdin, stdout, stderr, nil, o)
		c.controlling = sync.OnceValue(newQuestions)
		return c, nil
	}
	term, err := newTerminal(stdin, draw)
	if err != nil {
		return nil, err
	}
	o.onTerminal, o.color = draw == stdout, wantColor(draw)
	return newConsole(stdin, stdout, stderr, term, o), nil
}

// newConsole makes a console of any streams, and of a terminal unless term is nil. The caller must close it.
func newConsole(stdin io.Reader, stdout, stderr io.Writer, term *terminal, o consoleOptions) *console {
	c := &console{consoleOptions: o, display: display{term: term, stderr: stderr}, out: newOutput(stdout)}
	longest := maxLine
	if o.json {
		longest = maxObject
	}
	if term == nil {
		c.lines = newLineReader(stdin, longest)
	}
	c.notes = newNoteQueue(c.print)
	go c.notes.run() // ends with close
	return c
}

// close prints the notes that wait, for notesTimeout at most, and restores the terminal. Later notes are not printed.
// It may be called again.
func (c *console) close() {
	if c.notes.close(notesTimeout) {
		c.restoreTerminal()
	}
}

// closeTerminal restores the terminal and continues with the plain streams. It must be called before any other
// goroutine uses the console.
func (c *console) closeTerminal() {
	c.restoreTerminal()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term, c.onTerminal, c.color = nil, false, false
}

// guard is deferred in goroutines that draw. It restores the terminal before a panic ends the program.
func (c *console) guard() {
	p := recover() // only a function that is itself deferred can recover
	if p == nil {
		return
	}
	if c.term != nil {
		c.term.close()
	}
	panic(p)
}

// read returns the next line that is typed or piped in, valid until the next call. pasted reports that the line was
// pasted: then it is text, not a command, and an empty line no request to leave.
func (c *console) read() (line []byte, pasted bool, err error) {
	if c.term == nil {
		line, err = c.lines.next()
		return line, false, err
	}
	s, pasted, err := c.term.readLine()
	return []byte(s), pasted, err
}

// ownLines is text of the program's own that may have several lines. Those after its first newline are not broken into
// rows on a terminal, because they may have a key or a code to copy.
type ownLines string

// note prints a note to the user after the name of the program. Only newlines of the format and of ownLines begin a
// line: every other argument is made safe by itself, since it may hold bytes of a peer. note does not wait for stderr.
func (c *console) note(format string, a ...any) { c.notePlain("securechat: "+format, a...) }

// inform prints what is neither trouble nor a warning, as note does, but nothing with -quiet.
func (c *console) inform(format string, a ...any) {
	if !c.quiet {
		c.note(format, a...)
	}
}

// notePlain is like note but does not print the name of the program.
func (c *console) notePlain(format string, a ...any) {
	args := make([]any, len(a))
	for i, arg := range a {
		switch arg := arg.(type) {
		case ownLines:
			args[i] = strings.ReplaceAll(string(arg), "\n", "\n"+wholeLine)
		case int, int64, uint64:
			args[i] = arg
		default:
			args[i] = safe(fmt.Sprint(arg))
		}
	}
	lines := strings.Split(fmt.Sprintf(format, args...), "\n")
	for i, line := range lines {
		line, whole := strings.CutPrefix(line, wholeLine)
		if lines[i] = safe(line); whole {
			lines[i] = wholeLine + lines[i]
		}
	}
	c.notes.add(lines)
}

// setRoom sets what the objects and the history marks of later items depend on: the name and the fingerprint of the
// server, and the last item from before the client joined.
func (c *console) setRoom(server, origin string, since uint64) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.room = roomState{server, origin, since}
}

// origin returns the fingerprint of the server, as set by setRoom.
func (c *console) origin() string {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.out.room.origin
}

// show prints an item of the room: a message on stdout, everything else on stderr. Messages are buffered until flush.
func (c *console) show(it item) error {
	if c.json {
		return c.out.print(func(b []byte, room *roomState) []byte {
			return appendObject(b, it, room.isHistory(it), room.server, room.origin)
		})
	}
	if c.out.muted.Load() {
		return nil
	}
	switch it.what {
	case itemSay, itemAction, itemDirect:
		return c.showMessage(it)
	case itemUndelivered:
		c.print("securechat: " + safe(string(it.text)))
		return nil
	}
	c.showEvent(it)
	return nil
}

// showEvent prints an item that is not a message.
func (c *console) showEvent(it item) {
	isVisit := it.what == itemJoin || it.what == itemLeave
	// A name with a suffix looks like the name of somebody else, so its join is always shown.
	alike := it.what == itemJoin && strings.Contains(it.name, "~")
	switch {
	case c.quiet || isVisit && c.quietJoins && !alike:
	case isVisit && c.term != nil:
		v, l := c.visit(it)
		number, replaced := c.printTimed(l)
		c.visited(it, v, number, replaced)
	default:
		c.print(eventLine(it))
	}
}

// showMessage prints a message as text.
func (c *console) showMessage(it item) error {
	if !c.onTerminal {
		if c.term != nil {
			c.remember(it) // for /reply
		}
		return c.out.print(func(b []byte, _ *roomState) []byte {
			b = appendSafe(appendSpeaker(b, it, false), it.text)
			if c.out.screen == nil {
				return append(b, '\n')
			}
			return append(b[:0], breakRows(string(b), columnsOf(c.out.screen), "", "")...)
		})
	}
	l, rings := c.message(it, c.out.isHistory(it), c.color)
	c.printTimed(l)
	if rings && !c.noBell {
		c.term.bell()
	}
	return nil
}

// enterRoom notes that the person is in the room with this name. From now on a terminal has a prompt for it.
func (c *console) enterRoom(name string) {
	c.setName(name)
	if c.term == nil {
		return
	}
	prompt := name + "> "
	if c.color {
		prompt = nameColor(name) + name + colorOff + "> "
	}
	c.term.enterRoom(prompt)
}

// welcome prints, with -json, the object that begins a connection.
func (c *console) welcome(w welcome) error {
	err := c.printObject(func(b []byte, room *roomState) []byte {
		return appendWelcome(b, w, room.server, room.origin)
	})
	if err != nil {
		return err
	}
	return c.flush()
}

// acked prints, with -json, that the server's log has every line up to number n.
func (c *console) acked(n uint64) error {
	return c.printObject(func(b []byte, _ *roomState) []byte { return appendAck(b, n) })
}

// rejectLine reports, on stderr and with -json on stdout, that the line last read was not sent. An error of stdout
// stays in the writer and is returned by the next flush.
func (c *console) rejectLine(err error) {
	text := err.Error()
	if !errors.As(err, new(errLongLine)) { // which has the line's number already
		text = fmt.Sprintf("line %d: %v", c.lines.number, err)
	}
	c.note("%s", text)
	_ = c.printObject(func(b []byte, _ *roomState) []byte { return appendLineError(b, c.lines.number, text) })
	_ = c.flush()
}

// printObject prints an object with -json. It is buffered until flush.
func (c *console) printObject(add func(b []byte, room *roomState) []byte) error {
	if !c.json {
		return nil
	}
	return c.out.print(add)
}

// flush writes everything that was printed to stdout.
func (c *console) flush() error { return c.out.flush() }

// mute drops everything that is printed to stdout from now on.
func (c *console) mute() { c.out.muted.Store(true) }

// questions returns the terminal for questions to the user: the console's, or the controlling terminal if the standard
// streams are pipes, as ssh does. It returns nil without a terminal.
func (c *console) questions() *terminal {
	if c.term == nil && c.controlling != nil {
		return c.controlling()
	}
	return c.term
}

// secretPrompt returns a function that asks for a passphrase, or nil without a terminal.
func (c *console) secretPrompt() func(question string) ([]byte, error) {
	t := c.questions()
	if t == nil {
		return nil
	}
	return t.readSecret
}

// progress returns a function that shows a line on stderr in place of the line before it, or nil if stderr is not a
// terminal. The last line ends with a newline.
func (c *console) progress() func(line string) {
	f, ok := c.stderr.(*os.File)
	if !ok || c.quiet || !isTerminal(f) {
		return nil
	}
	return (&progressLine{display: &c.display}).show
}

// progressLine is a line on stderr that is replaced by the next one.
type progressLine struct {
	display *display
	width   int // of the line shown
}

func (p *progressLine) show(line string) {
	p.display.mu.Lock()
	defer p.display.mu.Unlock()
	text, last := strings.CutSuffix(line, "\n")
	fmt.Fprintf(p.display.stderr, "\r%-*s", p.width, text)
	p.width = len(text)
	if last {
		fmt.Fprintln(p.display.stderr)
	}
}

// display is the terminal, or stderr without a terminal.
type display struct {
	mu     sync.Mutex // guards the fields below, and is held while a line is written
	term   *terminal  // nil without a terminal
	stderr io.Writer
}

// print shows one or more lines. It waits while the terminal or stderr is stuck.
func (d *display) print(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term != nil {
		d.term.print(text)
		return
	}
	fmt.Fprint(d.stderr, breakRowsFor(d.stderr, text))
}

// printTimed prints a line on the terminal, which there must be, and returns its number, and whether it has taken the
// place of an earlier one.
func (d *display) printTimed(l timedLine) (number uint64, replaced bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.term.printTimed(l)
}

// restoreTerminal restores the terminal, if there is one.
func (d *display) restoreTerminal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.term != nil {
		d.term.close()
	}
}

// roomState is what the output of an item depends on, beside the item.
type roomState struct {
	server, origin string // the server's name and fingerprint
	since          uint64 // the last item from before the client joined
}

// isHistory reports whether an item is from before the client joined.
func (r *roomState) isHistory(it item) bool { return it.seq != 0 && it.seq <= r.since }

// output is the standard output.
type output struct {
	muted  atomic.Bool // not under mu, which is held while stdout is stuck
	null   bool        // stdout is the null device, so nothing is put together for it
	screen *os.File    // stdout if it is a terminal, else nil

	mu   sync.Mutex // guards the fields below
	w    *bufio.Writer
	buf  []byte
	room roomState
}

func newOutput(w io.Writer) *output {
	o := &output{w: bufio.NewWriterSize(w, 64<<10)}
	f, ok := w.(*os.File)
	switch {
	case ok && isTerminal(f):
		o.screen = f
	case ok:
		o.null = isNull(f)
	}
	return o
}

// print writes the bytes that add appends to its argument.
func (o *output) print(add func(b []byte, room *roomState) []byte) error {
	if o.null || o.muted.Load() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = add(o.buf[:0], &o.room)
	_, err := o.w.Write(o.buf)
	return err
}

func (o *output) flush() error {
	if o.muted.Load() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Flush()
}

func (o *output) isHistory(it item) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.room.isHistory(it)
}

// noteQueue prints notes in a goroutine of its own, so that a stuck stderr stops nothing else.
type noteQueue struct {
	print   func(text string)
	queue   chan string
	dropped atomic.Int64 // lines that found the queue full
	closing sync.Once
	stop    chan struct{} // closed by close: run prints what waits, then ends
	done    chan struct{} // closed when run ends
}

func newNoteQueue(print func(text string)) *noteQueue {
	return &noteQueue{
		print: print, queue: make(chan string, maxNotes), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// add queues one note, or drops it if the queue is full.
func (q *noteQueue) add(lines []string) {
	select {
	case q.queue <- strings.Join(lines, "\n"):
	default:
		q.dropped.Add(int64(len(lines)))
	}
}

// run prints the notes until close.
func (q *noteQueue) run() {
	defer close(q.done)
	for stop := q.stop; stop != nil || len(q.queue) > 0; {
		select {
		case text := <-q.queue:
			q.print(text)
		case <-stop:
			stop = nil
		}
		if n := q.dropped.Swap(0); n > 0 {
			q.print(fmt.Sprintf("securechat: %d more lines could not be shown: standard error was stuck", n))
		}
	}
}

// close ends run after the notes that wait, and reports whether it has ended within timeout. It may be called again.
func (q *noteQueue) close(timeout time.Duration) bool {
	q.closing.Do(func() { close(q.stop) })
	select {
	case <-q.done:
		return true
	case <-time.After(timeout):
		return false
	}
}

// lineReader splits a stream into lines.
type lineReader struct {
	r      *bufio.Reader
	max    int // bytes of a line
	number int // of the last line returned, counted from 1
}

func newLineReader(r io.Reader, max int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, max+len("\r\n")), max: max}
}

// errLongLine is the error for a line that is too long. The lines after it can still be read.
type errLongLine struct{ number, max int }

func (e errLongLine) Error() string {
	return fmt.Sprintf("line %d is longer than %d bytes and was not sent: -raw carries any bytes", e.number, e.max)
}

// next returns the next line without its end, valid until the next call. A line ends with a newline, or with a carriage
// return and a newline, as programs of Windows write it. A last line without an end is a line. The error at the end of
// the stream is io.EOF.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	switch {
	case err == nil:
		line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
	case err == io.EOF && len(line) == 0 || err != io.EOF && err != bufio.ErrBufferFull:
		return nil, err
	}
	l.number++
	if err != bufio.ErrBufferFull && len(line) <= l.max {
		return line, nil
	}
	for err == bufio.ErrBufferFull {
		_, err = l.r.ReadSlice('\n')
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	return nil, errLongLine{l.number, l.max}
}

// ready reports whether next would return a line without waiting for input.
func (l *lineReader) ready() bool {
	b, _ := l.r.Peek(l.r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// buffered returns the number of lines that were read from the stream and that next has not returned.
func (l *lineReader) buffered() int {
	b, _ := l.r.Peek(l.r.Buffered())
	return bytes.Count(b, []byte{'\n'})
}
