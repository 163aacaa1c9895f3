package main

// The terminal: a line editor for a room, where lines of others arrive while a person types. It knows nothing about
// messages. The rules:
//
//   - The line being edited takes one row and scrolls sideways, so print can insert lines above it without knowing
//     how it wraps.
//   - The row is drawn as left part, save cursor, right part, restore cursor, with wrapping off. The cursor is
//     therefore right for any width that this terminal gives a Chinese letter or an emoji. Estimated widths, which
//     are rather too large than too small, only decide how much of the line is drawn.
//   - Typed and pasted text is drawn through appendSafe. Callers of print make text from peers safe.
//   - A printed line that is longer than a row continues on indented rows, so it cannot imitate a line of its own.
//   - Pasted text is marked. The caller learns whether a line's first word has pasted characters, and takes such a line
//     as text.
//   - The terminal is restored at every kind of end: close, panics (console.guard), Ctrl-Z and fg.
//   - With TERM=dumb the kernel edits the line, and no escape sequence is written.
//
// It replaces x/term's Terminal, whose lines end at 4096 runes, whose cursor counts runes as columns, and which cannot
// distinguish Ctrl-C from Ctrl-D, nor an empty pasted line from Enter. Raw mode, sizes and restoring come from x/term.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	maxInput        = 64 << 10  // bytes of a line
	maxHistory      = 100       // lines kept for the arrow keys,
	maxHistoryBytes = 256 << 10 // and bytes of all of them
	maxSequence     = 32        // bytes of a key's escape sequence
	maxBurst        = 128       // bytes that keys bring at once, outside the marks of a paste

	// A paste whose end mark is lost ends after maxSilence without bytes, or with a Ctrl-C or Ctrl-D that arrives alone
	// and is followed by nothing for keyPause. Neither is shorter, because a slow link delays parts of a paste.
	maxSilence = time.Second
	keyPause   = 100 * time.Millisecond

	// close discards what was typed ahead, such as the rest of a paste, until nothing arrives for discardPause, but not
	// longer than maxDiscard.
	discardPause = 100 * time.Millisecond
	maxDiscard   = time.Second

	rowIndent      = 6  // columns before the later rows of a line, as many as the time of a message takes
	defaultColumns = 80 // of a terminal that does not know its size

	pasteOn, pasteOff = "\x1b[?2004h", "\x1b[?2004l"
	pasteStart        = "\x1b[200~"
	pasteEnd          = "\x1b[201~"
	colorOff          = "\x1b[0m"
	wrapOff, wrapOn   = "\x1b[?7l", "\x1b[?7h"

	// wholeLine begins a printed line that is left to the terminal's own wrapping, so that it can be copied: a command,
	// a key or an invite code. Safe text never has this character.
	wholeLine = "\x00"
)

// The keys with a meaning that are control characters.
const (
	ctrlA     = "\x01"
	ctrlB     = "\x02"
	ctrlC     = "\x03"
	ctrlD     = "\x04"
	ctrlE     = "\x05"
	ctrlF     = "\x06"
	backspace = "\b"
	tab       = "\t"
	ctrlK     = "\x0b"
	ctrlL     = "\x0c"
	ctrlN     = "\x0e"
	ctrlP     = "\x10"
	ctrlU     = "\x15"
	ctrlW     = "\x17"
	ctrlZ     = "\x1a"
	esc       = "\x1b"
	del       = "\x7f"
)

// errInterrupt is the error for Ctrl-C.
var errInterrupt = errors.New("interrupted")

// terminal is a person's terminal. One goroutine at a time may call readLine and readSecret; the other methods may be
// called from any goroutine.
type terminal struct {
	in, out *os.File
	dumb    bool

	// Only readLine and readSecret use these. complete returns the candidates for the word that ends at byte pos of
	// line; it may be nil, and must be set before the first line is read.
	complete   func(line string, pos int) []string
	keys       keyReader
	history    history
	tabs       int  // Tab keys in a row
	afterPaste bool // the last line ended in a paste: Enter without a line is meant to send that paste

	mu    sync.Mutex  // guards the fields below
	saved *term.State // nil: not in raw mode (closed, or dumb without a secret being asked for)
	undo  func()      // stops watching signals and restores what enableOutput changed
	promptRow
	line    lineEditor // written only by readLine and readSecret, which therefore read it without the lock
	closed  bool
	chats   bool // readLine has been called: close discards what was typed ahead
	waiting bool // Ctrl-C is a signal, until the next prompt
}

// promptRow is the row in which a line is typed.
type promptRow struct {
	prompt string
	shown  bool // it is on the screen
	secret bool // the line is not drawn
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// wantColor reports whether out is a terminal that should get colours (no-color.org).
func wantColor(out *os.File) bool {
	return isTerminal(out) && os.Getenv("NO_COLOR") == "" && !isDumb()
}

// isDumb reports whether the terminal understands no escape sequences.
func isDumb() bool {
	kind := os.Getenv("TERM")
	return kind == "dumb" || kind == "" && runtime.GOOS != "windows"
}

// nameColor returns the sequence that switches to the colour of name, which is always the same. colorOff ends it.
func nameColor(name string) string {
	h := fnv.New32a()
	h.Write([]byte(name))
	pick := h.Sum32() % 12 // six colours that are visible on light and dark, plain and bold
	return fmt.Sprintf("\x1b[%d;3%dm", pick/6, 1+pick%6)
}

// newTerminal takes over the terminal that in and out are. The caller must call close at the end, also after a panic.
func newTerminal(in, out *os.File) (*terminal, error) {
	t := &terminal{in: in, out: out, keys: newKeyReader(in), dumb: isDumb(), undo: func() {}}
	if !isTerminal(in) || !isTerminal(out) {
		return nil, errors.New("input and output are not a terminal; use a pipe without a prompt")
	}
	if t.dumb {
		return t, nil
	}
	restoreOutput, err := enableOutput(out)
	if err != nil {
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	t.saved, err = term.MakeRaw(int(in.Fd()))
	if err != nil {
		restoreOutput()
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	unwatch := watchTerminal(t.redraw, func() { t.resume(false) }, t.close)
	t.undo = func() { unwatch(); restoreOutput() }
	t.write(pasteOn)
	return t, nil
}

// newQuestions returns the controlling terminal for questions while the standard streams are pipes, or nil if there is
// none. The kernel edits the answers, since other programs of a pipeline may write to the same terminal.
func newQuestions() *terminal {
	in, out, err := openControllingTerminal()
	if err != nil {
		return nil
	}
	return &terminal{in: in, out: out, keys: keyReader{r: bufio.NewReader(in)}, dumb: true, undo: func() {}}
}

// close restores the terminal, with the cursor at the start of a row. It may be called again, and while readLine waits.
func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	t.undo()
	if t.chats {
		t.discardTypedAhead()
	}
	t.release()
	t.saved = nil
}

// discardTypedAhead reads away what the terminal still holds, so that the shell does not run it. The caller holds the
// lock.
func (t *terminal) discardTypedAhead() {
	for end := time.Now().Add(maxDiscard); discardInput(t.in, discardPause) && time.Now().Before(end); {
	}
}

// release leaves raw mode, for close and for Ctrl-Z. The caller holds the lock.
func (t *terminal) release() {
	if t.shown {
		t.write("\r\n")
		t.shown = false
	}
	if !t.dumb {
		t.write(pasteOff)
	}
	if t.saved != nil {
		_ = term.Restore(int(t.in.Fd()), t.saved) // if this fails, the terminal is gone
	}
}

// resume takes the terminal over again after the process was stopped. It may be called at any time.
func (t *terminal) resume(editing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil || t.dumb {
		return
	}
	// The state returned here may be raw already; t.saved keeps the state from before newTerminal.
	if _, err := term.MakeRaw(int(t.in.Fd())); err != nil {
		return // the terminal is gone, which the pending read reports
	}
	if t.waiting {
		_ = allowInterrupt(t.in) // if this fails, the terminal is gone
	}
	t.write(pasteOn)
	t.shown = t.shown || editing
	t.draw()
}

// suspend leaves the terminal to the shell, as Ctrl-Z does, until the process continues.
func (t *terminal) suspend() {
	t.mu.Lock()
	t.release()
	t.mu.Unlock()
	suspendProcess()
	t.resume(true)
}

// redraw draws the prompt's row again if it is on the screen.
func (t *terminal) redraw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draw()
}

// write sends s to the terminal. Errors are ignored: if the terminal is gone, the next read fails.
func (t *terminal) write(s string) { _, _ = t.out.WriteString(s) }

// print inserts text above the prompt. It must be safe already, and may have colours and several lines.
func (t *terminal) print(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text = t.rows(text)
	if t.saved != nil {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	switch {
	case t.shown && t.dumb: // the kernel still holds what was typed
		text = "\n" + text + t.prompt
	case t.shown:
		text = "\r\x1b[J" + text + t.row()
	}
	t.write(text)
}

// rows breaks text into rows, which all end with a newline. The terminal's own wrapping is off meanwhile: it would
// begin a row without indent if this terminal shows a rune wider than width takes it for.
func (t *terminal) rows(text string) string {
	if t.dumb || t.closed {
		return breakRows(text, columnsOf(t.out), "", "")
	}
	return breakRows(text, columnsOf(t.out), wrapOff, wrapOn) + wrapOn
}

// bell rings the bell.
func (t *terminal) bell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.write("\a")
	}
}

// setPrompt sets the text before the line. It must be safe already, and may have colours.
func (t *terminal) setPrompt(prompt string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.prompt
	t.prompt = prompt
	switch {
	case !t.dumb || !t.shown || prompt == old:
		t.draw()
	case old == "": // the line is being read already
		t.write(prompt)
	default:
		t.write("\n" + prompt)
	}
}

// draw is like redraw, for callers that hold the lock.
func (t *terminal) draw() {
	if t.shown && !t.dumb {
		t.write("\r\x1b[J" + t.row())
	}
}

// row returns the output that draws the prompt and the part of the line around the cursor on an empty row.
func (t *terminal) row() string {
	columns := columnsOf(t.out)
	prompt := t.prompt
	room := columns - width(prompt) - 1
	if room < 10 && prompt != "" {
		prompt, room = "", columns-1
	}
	line, pos := t.line.runes, t.line.pos
	if t.secret {
		line, pos = nil, 0
	}
	from, to := visiblePart(line, pos, room)
	var b strings.Builder
	b.WriteString(wrapOff + prompt)
	if from > 0 {
		b.WriteByte('<')
	}
	b.WriteString(safe(string(line[from:pos])) + "\x1b7" + safe(string(line[pos:to])))
	if to < len(line) {
		b.WriteByte('>')
	}
	b.WriteString("\x1b8" + wrapOn)
	return b.String()
}

// readLine returns the next line. pasted reports that its first word has pasted characters, or that the line ended
// inside a paste: then it is text, not a command, and an empty line no request to leave. A pasted line longer than
// maxInput is returned in parts. A line that begins with one typed slash takes the newlines of a paste as characters,
// because the lines of the paste are meant for the command. The error is io.EOF for Ctrl-D on an empty line and for the
// end of the terminal, and errInterrupt for Ctrl-C.
func (t *terminal) readLine() (line string, pasted bool, err error) {
	t.mu.Lock()
	t.chats = true
	t.mu.Unlock()
	if t.dumb {
		line, err = t.readCooked()
		return line, false, err
	}
	t.begin(false)
	line, pasted, err = t.edit()
	if err == nil && line != "" && !t.keys.pasting {
		t.history.remember(historyLine{text: line, pasted: pasted})
	}
	return line, pasted, err
}

// readSecret asks for a line that is not shown.
func (t *terminal) readSecret(prompt string) ([]byte, error) {
	old, err := t.beginSecret(prompt)
	if err != nil {
		return nil, err
	}
	line, _, err := t.edit()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prompt = old
	if t.dumb && t.saved != nil {
		_ = term.Restore(int(t.in.Fd()), t.saved) // if this fails, the terminal is gone
		t.saved = nil
	}
	return []byte(line), err
}

// beginSecret shows the prompt for a secret and returns the prompt that it replaces. A dumb terminal is in raw mode
// until the secret has been read, because the kernel would echo it.
func (t *terminal) beginSecret(prompt string) (old string, err error) {
	t.mu.Lock()
	if t.dumb && !t.closed {
		state, err := term.MakeRaw(int(t.in.Fd()))
		if err != nil {
			t.mu.Unlock()
			return "", fmt.Errorf("switching off the terminal's echo: %w", err)
		}
		t.saved = state
	}
	old, t.prompt = t.prompt, prompt
	t.mu.Unlock()
	t.begin(true)
	return old, nil
}

// await lets Ctrl-C be a signal until the next prompt. It is for a wait in which no prompt reads Ctrl-C. What is typed
// meanwhile stays for that prompt, and is not echoed.
func (t *terminal) await() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil && !t.dumb {
		t.waiting = true
		_ = allowInterrupt(t.in) // if this fails, the terminal is gone
	}
}

// begin shows the prompt, again in raw mode after await.
func (t *terminal) begin(secret bool) {
	t.history.rewind()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting && !t.closed {
		t.waiting = false
		_, _ = term.MakeRaw(int(t.in.Fd())) // if this fails, the terminal is gone, which the next read reports
	}
	t.secret, t.shown = secret, !t.closed
	if t.dumb && t.shown {
		t.write(t.prompt)
	}
}

// readCooked reads a line that the kernel has edited.
func (t *terminal) readCooked() (string, error) {
	t.begin(false)
	defer func() { t.mu.Lock(); t.shown = false; t.mu.Unlock() }()
	line, err := t.keys.cookedLine()
	if err == io.EOF {
		t.emit("\n")
	}
	return line, err
}

// emit is like write, for callers that do not hold the lock.
func (t *terminal) emit(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(s)
}

// edit reads keys until they complete a line.
func (t *terminal) edit() (line string, pasted bool, err error) {
	for {
		if t.keys.r.Buffered() == 0 { // so that a paste, or text typed ahead, is drawn once
			t.redraw()
		}
		r, err := t.keys.next()
		if err != nil {
			return "", false, err
		}
		if t.isClosed() {
			return "", false, io.EOF
		}
		if t.keys.isLaterHalf(r) {
			continue
		}
		if string(r) != tab {
			t.tabs = 0
		}
		switch {
		case (r == '\r' || r == '\n') && t.keys.pasting && t.line.isCommand() && !t.secret:
			t.insert('\n')
		case (r == '\r' || r == '\n') && t.afterPaste && !t.keys.pasting && len(t.line.runes) == 0:
			t.afterPaste = false
		case r == '\r' || r == '\n':
			t.afterPaste = t.keys.pasting
			pasted = t.keys.pasting || t.line.startsPasted()
			return t.finish(""), pasted, nil
		case string(r) == esc && t.keys.pasting && t.keys.endsPaste():
		case string(r) == esc && !t.keys.pasting:
			seq, err := t.keys.sequence()
			if err != nil {
				return "", false, err
			}
			t.key(esc + seq)
		case t.keys.pasting && !t.line.fits(r) && !t.line.isCommand():
			part := t.finish("")
			t.insert(r)
			return part, true, nil
		case t.keys.pasting || r >= ' ' && !unicode.IsControl(r):
			t.insert(r)
		case string(r) == ctrlC:
			t.finish("^C")
			return "", false, errInterrupt
		case string(r) == ctrlD && len(t.line.runes) == 0:
			t.finish("")
			return "", false, io.EOF
		default:
			t.key(string(r))
		}
	}
}

func (t *terminal) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// finish clears the line, leaves all of it on the screen with mark after it, and returns it.
func (t *terminal) finish(mark string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := t.line.take(t.secret)
	text := safe(line)
	if t.secret {
		text = ""
	}
	t.shown = false
	if t.dumb {
		t.write("\r\n")
		return line
	}
	t.write("\r\x1b[J" + strings.ReplaceAll(t.rows(t.prompt+text+mark), "\n", "\r\n"))
	return line
}

// insert inserts r at the cursor, or rings the bell if the line is full.
func (t *terminal) insert(r rune) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.line.fits(r) {
		t.write("\a")
		return
	}
	t.line.replace(t.line.pos, t.line.pos, []rune{r}, t.keys.pasting)
}

// replace replaces part of the line by text, and puts the cursor after it. pasted marks the text.
func (t *terminal) replace(from, to int, text []rune, pasted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line.replace(from, to, text, pasted)
}

// key performs the action of a key: a control character, or ESC and a sequence.
func (t *terminal) key(key string) {
	switch key {
	case pasteStart:
		t.keys.pasting, t.keys.endLost = true, false
	case pasteEnd:
		t.keys.endLost = false
	case ctrlP, "\x1b[A", "\x1bOA":
		t.recall(-1)
	case ctrlN, "\x1b[B", "\x1bOB":
		t.recall(1)
	case tab:
		t.completeWord()
	case ctrlL:
		t.emit("\x1b[H\x1b[2J")
	case ctrlZ:
		if canSuspend && !t.dumb {
			t.suspend()
		}
	default:
		t.mu.Lock()
		defer t.mu.Unlock()
		t.line.key(key)
	}
}

// recall replaces the line by an older or a newer line of the history.
func (t *terminal) recall(step int) {
	if t.secret {
		return
	}
	current := historyLine{text: string(t.line.runes), pasted: slices.Contains(t.line.pasted, true)}
	if line, ok := t.history.move(step, current); ok {
		t.replace(0, len(t.line.runes), []rune(line.text), line.pasted)
	}
}

// completeWord completes the word before the cursor as far as all candidates agree. A second Tab lists them.
func (t *terminal) completeWord() {
	if t.complete == nil || t.secret {
		return
	}
	pos := t.line.pos
	start := pos
	for start > 0 && !unicode.IsSpace(t.line.runes[start-1]) {
		start--
	}
	word := string(t.line.runes[start:pos])
	found := t.complete(string(t.line.runes), len(string(t.line.runes[:pos])))
	if len(found) == 0 {
		t.bell()
		return
	}
	common := commonPrefix(found)
	if len(found) == 1 {
		common += " "
	}
	if len(common) > len(word) {
		t.replace(start, pos, []rune(common), slices.Contains(t.line.pasted[start:pos], true))
		return
	}
	t.tabs++
	if t.tabs == 1 {
		t.bell()
		return
	}
	t.print(safe(strings.Join(found, "  ")))
}

// commonPrefix returns the longest prefix of all words, of which there must be one.
func commonPrefix(words []string) string {
	common := words[0]
	for _, w := range words[1:] {
		for !strings.HasPrefix(w, common) {
			_, n := utf8.DecodeLastRuneInString(common)
			common = common[:len(common)-n]
		}
	}
	return common
}

// keyReader reads keys: runes, escape sequences and the marks of a paste.
type keyReader struct {
	r       *bufio.Reader
	in      *timedReader // what r reads; nil for input whose reads do not wait
	pasting bool         // between the marks of a paste
	endLost bool         // the last paste ended without its mark
	afterCR bool         // the last rune was a carriage return
}

func newKeyReader(in io.Reader) keyReader {
	timed := &timedReader{r: in}
	return keyReader{r: bufio.NewReader(timed), in: timed}
}

// next reads a rune. At the end of the terminal the error is io.EOF. A paste whose end mark is lost ends here.
func (k *keyReader) next() (rune, error) {
	for {
		if k.endLost && !k.pasting && k.r.Buffered() == 0 {
			k.setTimeout(0)
			_, _ = k.r.Peek(1) // an error shows again below
			k.pasting = k.restOfPaste(0)
		}
		k.setTimeout(0)
		if k.pasting {
			k.setTimeout(maxSilence)
		}
		alone := k.r.Buffered() == 0
		r, _, err := k.r.ReadRune()
		switch {
		case err == errSilence && k.pasting:
			k.pasting, k.endLost = false, true
			continue
		case err == errSilence:
			continue
		case err != nil:
			return 0, terminalError(err)
		}
		if k.pasting && alone && (string(r) == ctrlC || string(r) == ctrlD) && k.silent() {
			k.pasting, k.endLost = false, true
		}
		return r, nil
	}
}

// silent reports whether nothing follows for keyPause.
func (k *keyReader) silent() bool {
	k.setTimeout(keyPause)
	_, err := k.r.Peek(1)
	return err == errSilence
}

func (k *keyReader) setTimeout(d time.Duration) {
	if k.in != nil {
		k.in.timeout = d
	}
}

// restOfPaste reports whether the bytes that have arrived, without the first skip, continue a paste that seemed to have
// ended: an end mark follows, or more bytes than keys bring at once. This is so after a pause in a paste, and after an
// end mark that is part of the pasted text.
func (k *keyReader) restOfPaste(skip int) bool {
	ahead, _ := k.r.Peek(k.r.Buffered())
	ahead, _, _ = bytes.Cut(ahead[min(skip, len(ahead)):], []byte(pasteStart))
	return len(ahead) > maxBurst || bytes.Contains(ahead, []byte(pasteEnd))
}

// errSilence is the error of a timedReader that timed out.
var errSilence = errors.New("nothing was read in time")

// timedReader is a reader with a timeout. A Read that timed out continues, and the next one returns its bytes.
type timedReader struct {
	r       io.Reader
	timeout time.Duration // of a Read; 0 for none
	pending chan readResult
	rest    []byte // read and not returned yet
}

type readResult struct {
	bytes []byte
	err   error
}

func (t *timedReader) Read(p []byte) (int, error) {
	if len(t.rest) > 0 {
		n := copy(p, t.rest)
		t.rest = t.rest[n:]
		return n, nil
	}
	if t.pending == nil {
		if t.timeout == 0 {
			return t.r.Read(p)
		}
		t.pending = make(chan readResult, 1)
		go readInto(t.pending, t.r, len(p)) // ends with its Read, else with the process
	}
	var late <-chan time.Time
	if t.timeout > 0 {
		timer := time.NewTimer(t.timeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case got := <-t.pending:
		t.pending = nil
		n := copy(p, got.bytes)
		t.rest = got.bytes[n:]
		return n, got.err
	case <-late:
		return 0, errSilence
	}
}

// readInto sends the result of one Read of at most size bytes.
func readInto(result chan<- readResult, r io.Reader, size int) {
	buf := make([]byte, size)
	n, err := r.Read(buf)
	result <- readResult{buf[:n], err}
}

// terminalError describes an error of reading from the terminal, except io.EOF.
func terminalError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("reading from the terminal: %w", err)
}

// isLaterHalf reports whether r is the newline of a CR LF pair, which is one Enter. It must be called for every rune.
func (k *keyReader) isLaterHalf(r rune) bool {
	later := r == '\n' && k.afterCR
	k.afterCR = r == '\r'
	return later
}

// sequence reads the part of a key's escape sequence after ESC. The result is no key's if the sequence is malformed
// or too long.
func (k *keyReader) sequence() (string, error) {
	var seq []byte
	for len(seq) < maxSequence {
		c, err := k.r.ReadByte()
		if err != nil {
			return "", terminalError(err)
		}
		seq = append(seq, c)
		switch {
		case len(seq) == 1 && (c == '[' || c == 'O'):
		case len(seq) == 1 || seq[0] == 'O' || 0x40 <= c && c <= 0x7e:
			return string(seq), nil
		case c < ' ' || c > 0x7e:
			return "", nil
		}
	}
	return "", nil
}

// endsPaste reports whether the ESC just read begins the mark at the end of the paste, and reads the rest of the
// mark. Any other ESC is pasted text, and so is a mark after which the paste goes on.
func (k *keyReader) endsPaste() bool {
	rest := pasteEnd[len(esc):]
	ahead, err := k.r.Peek(len(rest))
	if err != nil || string(ahead) != rest || k.restOfPaste(len(rest)) {
		return false
	}
	_, err = k.r.Discard(len(rest))
	k.pasting = false
	return err == nil
}

// cookedLine reads a line up to its newline or the end of the terminal. Of a line longer than maxInput the rest is
// dropped.
func (k *keyReader) cookedLine() (string, error) {
	var line []byte
	for {
		c, err := k.r.ReadByte()
		switch {
		case err == io.EOF && len(line) > 0:
			return string(line), nil
		case err != nil:
			return "", terminalError(err)
		case c == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case len(line) < maxInput:
			line = append(line, c)
		}
	}
}

// history holds earlier lines for the arrow keys.
type history struct {
	lines []historyLine
	at    int         // the index in lines of the line shown; len(lines) for a new line
	draft historyLine // the new line, while an earlier one is shown
}

// historyLine is a line of the history. pasted marks all of its runes.
type historyLine struct {
	text   string
	pasted bool
}

// remember adds a line, unless it repeats the last one, and drops old lines.
func (h *history) remember(line historyLine) {
	if n := len(h.lines); n > 0 && h.lines[n-1] == line {
		return
	}
	h.lines = append(h.lines, line)
	total := 0
	for i, l := range slices.Backward(h.lines) {
		total += len(l.text)
		if total > maxHistoryBytes || len(h.lines)-i > maxHistory {
			h.lines = slices.Clone(h.lines[i+1:])
			return
		}
	}
}

// rewind begins a new line.
func (h *history) rewind() { h.at = len(h.lines) }

// move returns the line step places after the one shown, or false if there is none. current is the line shown.
func (h *history) move(step int, current historyLine) (line historyLine, ok bool) {
	to := h.at + step
	if to < 0 || to > len(h.lines) {
		return line, false
	}
	if h.at == len(h.lines) {
		h.draft = current
	}
	h.at = to
	if to == len(h.lines) {
		return h.draft, true
	}
	return h.lines[to], true
}

// lineEditor is a line and the cursor in it.
type lineEditor struct {
	runes  []rune
	pasted []bool // for each rune, whether it was pasted
	pos    int    // of the cursor, an index of runes at the start of a cluster
	size   int    // bytes of the line in UTF-8
}

// startsPasted reports whether the first word has pasted runes.
func (e *lineEditor) startsPasted() bool {
	for i, r := range e.runes {
		if i > 0 && unicode.IsSpace(r) {
			return false
		}
		if e.pasted[i] {
			return true
		}
	}
	return false
}

// isCommand reports whether the line begins with one slash, and its first word was typed.
func (e *lineEditor) isCommand() bool {
	return len(e.runes) > 0 && e.runes[0] == '/' && (len(e.runes) == 1 || e.runes[1] != '/') && !e.startsPasted()
}

// fits reports whether the line has room for r.
func (e *lineEditor) fits(r rune) bool { return e.size+utf8.RuneLen(r) <= maxInput }

// replace replaces runes[from:to] by text, which pasted marks, and puts the cursor after it.
func (e *lineEditor) replace(from, to int, text []rune, pasted bool) {
	e.size += runesSize(text) - runesSize(e.runes[from:to])
	e.runes = slices.Replace(e.runes, from, to, text...)
	e.pasted = slices.Replace(e.pasted, from, to, slices.Repeat([]bool{pasted}, len(text))...)
	e.pos = from + len(text)
}

// runesSize returns the length of runes in UTF-8.
func runesSize(runes []rune) (size int) {
	for _, r := range runes {
		size += utf8.RuneLen(r)
	}
	return size
}

// take returns the line and empties it. wipe overwrites its memory.
func (e *lineEditor) take(wipe bool) string {
	line := string(e.runes)
	if wipe {
		clear(e.runes)
	}
	e.runes, e.pasted, e.pos, e.size = e.runes[:0], e.pasted[:0], 0, 0
	return line
}

// key performs the action of a key, as in a shell. Other keys do nothing.
func (e *lineEditor) key(key string) {
	switch key {
	case ctrlA, "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~":
		e.pos = 0
	case ctrlE, "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~":
		e.pos = len(e.runes)
	case ctrlB, "\x1b[D", "\x1bOD":
		e.pos = prevCluster(e.runes, e.pos)
	case ctrlF, "\x1b[C", "\x1bOC":
		e.pos = nextCluster(e.runes, e.pos)
	case "\x1b[1;5D", "\x1b[1;3D", "\x1bb":
		e.pos = e.prevWord()
	case "\x1b[1;5C", "\x1b[1;3C", "\x1bf":
		e.pos = e.nextWord()
	case backspace, del:
		e.replace(prevCluster(e.runes, e.pos), e.pos, nil, false)
	case ctrlD, "\x1b[3~":
		e.replace(e.pos, nextCluster(e.runes, e.pos), nil, false)
	case ctrlW, esc + del, esc + backspace:
		e.replace(e.prevWord(), e.pos, nil, false)
	case "\x1bd":
		e.replace(e.pos, e.nextWord(), nil, false)
	case ctrlU:
		e.replace(0, e.pos, nil, false)
	case ctrlK:
		e.replace(e.pos, len(e.runes), nil, false)
	}
}

// prevWord returns the start of the word before the cursor.
func (e *lineEditor) prevWord() int {
	at := e.pos
	for at > 0 && unicode.IsSpace(e.runes[at-1]) {
		at--
	}
	for at > 0 && !unicode.IsSpace(e.runes[at-1]) {
		at--
	}
	return at
}

// nextWord returns the end of the word after the cursor.
func (e *lineEditor) nextWord() int {
	at := e.pos
	for at < len(e.runes) && unicode.IsSpace(e.runes[at]) {
		at++
	}
	for at < len(e.runes) && !unicode.IsSpace(e.runes[at]) {
		at++
	}
	return at
}

// visiblePart returns the part of line around pos that fits in room columns with a mark on either side. All of the
// line left of pos is shown if it fits, otherwise as much as fits in three quarters of the row; then as much as fits
// right of pos.
func visiblePart(line []rune, pos, room int) (from, to int) {
	from, left := before(line, pos, room)
	if from > 0 {
		from, left = before(line, pos, room*3/4)
	}
	to, right := after(line, pos, room-left)
	if to == len(line) && from > 0 { // the end is shown, so the left part gets the rest of the room
		from, _ = before(line, pos, room-right)
	}
	return from, to
}

// before returns the start of the clusters before pos that fit in room columns, one of which is kept for a mark, and
// their width.
func before(line []rune, pos, room int) (from, used int) {
	for from = pos; from > 0; {
		start := prevCluster(line, from)
		w := width(safe(string(line[start:from])))
		if used+w > room-1 {
			break
		}
		from, used = start, used+w
	}
	return from, used
}

// after returns the end of the clusters from pos on that fit in room columns, one of which is kept for a mark, and
// their width.
func after(line []rune, pos, room int) (to, used int) {
	for to = pos; to < len(line); {
		end := nextCluster(line, to)
		w := width(safe(string(line[to:end])))
		if used+w > room-1 {
			break
		}
		to, used = end, used+w
	}
	return to, used
}

// prevCluster returns the start of the cluster, which is shown as one character, before pos.
func prevCluster(line []rune, pos int) int {
	for pos--; pos > 0 && extends(line, pos); pos-- {
	}
	return max(pos, 0)
}

// nextCluster returns the end of the cluster that begins at pos.
func nextCluster(line []rune, pos int) int {
	for pos++; pos < len(line) && extends(line, pos); pos++ {
	}
	return min(pos, len(line))
}

// extends reports whether line[i], i > 0, belongs to the cluster of the rune before it (Unicode's UAX 29, simplified).
func extends(line []rune, i int) bool {
	r, last := line[i], line[i-1]
	switch {
	case unicode.IsMark(r), r == zwj, r == zwnj, skinTone(r), 0xe0020 <= r && r <= cancelTag:
		return true
	case last == zwj:
		return unicode.Is(pictographic, r)
	case regional(r) && regional(last): // flags are pairs
		n := 0
		for ; i-1-n >= 0 && regional(line[i-1-n]); n++ {
		}
		return n%2 == 1
	}
	return 0x1160 <= r && r <= 0x11ff && unicode.Is(unicode.Hangul, last)
}

// regional reports whether r is one of the letters that name a region's flag in pairs.
func regional(r rune) bool { return 0x1f1e6 <= r && r <= 0x1f1ff }

// wide holds the runes that take two columns, except pictographic ones (East Asian Width W and F).
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x1100, Hi: 0x115f, Stride: 1}, {Lo: 0x2e80, Hi: 0xa4cf, Stride: 1}, {Lo: 0xa960, Hi: 0xa97f, Stride: 1},
		{Lo: 0xac00, Hi: 0xd7a3, Stride: 1}, {Lo: 0xf900, Hi: 0xfaff, Stride: 1}, {Lo: 0xfe10, Hi: 0xfe19, Stride: 1},
		{Lo: 0xfe30, Hi: 0xfe6f, Stride: 1}, {Lo: 0xff01, Hi: 0xff60, Stride: 1}, {Lo: 0xffe0, Hi: 0xffe6, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x16fe0, Hi: 0x18dff, Stride: 1}, {Lo: 0x1aff0, Hi: 0x1b2ff, Stride: 1},
		{Lo: 0x1d300, Hi: 0x1d376, Stride: 1}, {Lo: 0x1f000, Hi: 0x1faff, Stride: 1}, {Lo: 0x20000, Hi: 0x3fffd, Stride: 1},
	},
}

// width returns the largest number of columns that text takes on any terminal. Colours take none.
func width(text string) int {
	n := 0
	for len(text) > 0 {
		if strings.HasPrefix(text, "\x1b[") {
			if end := strings.IndexByte(text, 'm'); end > 0 {
				text = text[end+1:]
				continue
			}
		}
		r, size := utf8.DecodeRuneInString(text)
		text = text[size:]
		n += runeWidth(r)
	}
	return n
}

// runeWidth is like width, for one rune.
func runeWidth(r rune) int {
	switch {
	case r >= ' ' && r < 0x7f:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) && !unicode.Is(visibleFormat, r):
		return 0
	case unicode.In(r, wide, pictographic):
		return 2
	}
	return 1
}

// columnsOf returns the width of the terminal f.
func columnsOf(f *os.File) int {
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil || columns <= 0 {
		return defaultColumns
	}
	return columns
}

// breakRowsFor is breakRows for text that goes to w. If w is not a terminal, no line is broken.
func breakRowsFor(w io.Writer, text string) string {
	f, ok := w.(*os.File)
	if !ok || !isTerminal(f) {
		return strings.ReplaceAll(text, wholeLine, "") + "\n"
	}
	return breakRows(text, columnsOf(f), "", "")
}

// breakRows breaks each line of text, which may have colours, into rows of at most columns, if possible between words.
// All rows of a line but the first are indented, and all end with a newline. A line that wholeLine begins is not
// broken. whole is written before each such line, and broken before each other one.
func breakRows(text string, columns int, broken, whole string) string {
	b := make([]byte, 0, len(text)+len(text)/4)
	for line := range strings.SplitSeq(text, "\n") {
		if line, ok := strings.CutPrefix(line, wholeLine); ok {
			b = append(b, whole+line...)
		} else {
			b = appendRows(append(b, broken...), line, columns)
		}
		b = append(b, '\n')
	}
	return string(b)
}

// appendRows appends the rows of one line.
func appendRows(b []byte, line string, columns int) []byte {
	indent := "\n" + strings.Repeat(" ", min(rowIndent, columns/4))
	used := 0              // columns of the row
	word, wordUsed := 0, 0 // where in b the last word begins, and its columns; 0 for the first word of a row
	for len(line) > 0 {
		if end := strings.IndexByte(line, 'm'); end > 0 && strings.HasPrefix(line, "\x1b[") {
			b, line = append(b, line[:end+1]...), line[end+1:]
			continue
		}
		r, n := utf8.DecodeRuneInString(line)
		w := runeWidth(r)
		if used+w > columns && w > 0 {
			switch {
			case r == ' ':
				b = append(b, indent...)
				used, word, wordUsed = len(indent)-1, 0, 0
				line = line[n:]
				continue
			case word > 0 && len(indent)-1+wordUsed+w <= columns:
				b = slices.Insert(b, word, []byte(indent)...)
				used = len(indent) - 1 + wordUsed
			default:
				b = append(b, indent...)
				used = len(indent) - 1
			}
			word, wordUsed = 0, 0
		}
		b, line, used, wordUsed = append(b, line[:n]...), line[n:], used+w, wordUsed+w
		if r == ' ' {
			word, wordUsed = len(b), 0
		}
	}
	return b
}
