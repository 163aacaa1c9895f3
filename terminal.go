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
	// close discards what was typed ahead, such as the rest of a paste, until nothing arrives for discardPause, but not
	// longer than maxDiscard.
	discardPause = 100 * time.Millisecond
	maxDiscard   = time.Second

	pasteOn, pasteOff = "\x1b[?2004h", "\x1b[?2004l"
	colorOff          = "\x1b[0m"
	wrapOff, wrapOn   = "\x1b[?7l", "\x1b[?7h"
)

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
