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
//   - The terminal is restored at every kind of end: close, panics (console.guard), Ctrl-Z and fg.
//   - With TERM=dumb the kernel edits the line, and no escape sequence is written.
//
// It replaces x/term's Terminal, whose lines end at 4096 runes, whose cursor counts runes as columns, and which cannot
// distinguish Ctrl-C from Ctrl-D, nor an empty pasted line from Enter. Raw mode, sizes and restoring come from x/term.

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	// close discards what was typed ahead, such as the rest of a paste, until nothing arrives for discardPause, but not
	// longer than maxDiscard.
	discardPause = 100 * time.Millisecond
	maxDiscard   = time.Second

	// An empty line leaves a room. One that is entered within suddenEnter of other input does not: it is an Enter that
	// was pressed twice, or the end of a paste. Neither does a Ctrl-C or Ctrl-D after one that changed the line: it is
	// a key that was held.
	suddenEnter = 500 * time.Millisecond

	pasteOn, pasteOff = "\x1b[?2004h", "\x1b[?2004l"
	askCursor         = "\x1b[6n" // the terminal answers ESC [ row ; column R
	colorOff          = "\x1b[0m"
	wrapOff, wrapOn   = "\x1b[?7l", "\x1b[?7h"
)

// terminal is a person's terminal. One goroutine at a time may call readLine and readSecret; the other methods may be
// called from any goroutine.
type terminal struct {
	in, out *os.File
	dumb    bool
	typing

	mu    sync.Mutex  // guards the fields below
	saved *term.State // nil: not in raw mode (closed, or dumb without a secret being asked for)
	undo  func()      // stops watching signals and restores what enableOutput changed
	promptRow
	line    lineEditor // written only by readLine and readSecret, which therefore read it without the lock
	above   timeline
	closed  bool
	reads   bool // readLine has been called: close discards what was typed ahead
	waiting bool // Ctrl-C is a signal, until the next prompt
}

// typing is what only readLine and readSecret use. complete and expand may be nil, and must be set before the first
// line is read.
type typing struct {
	// complete returns the candidates for the word that ends at byte pos of line, and what follows a complete one.
	complete func(line string, pos int) (words []string, after string)
	// expand returns the line that takes the place of a typed line.
	expand func(line string) string

	keys       keyReader
	history    history
	search     search
	paste      pasteBuffer
	tabs       int       // Tab keys in a row
	edited     bool      // the last key was a Ctrl-C or Ctrl-D that changed the line, or repeated one that did
	afterPaste bool      // the last line ended in a paste: Enter without a line is meant to send that paste
	lastKey    time.Time // when the last rune was read
}

// promptRow is the row in which a line is typed.
type promptRow struct {
	prompt   string
	question string // stands in the place of the prompt; without colours
	shown    bool   // the row is on the screen
	secret   bool   // the line is not drawn
	chat     bool   // lines go to a room: they get times, long pastes are asked about, and a sudden Enter is no line
	drawn    rowShape
	stale    rowShape // the row that was drawn before the terminal became narrower; zero for none
	queries  int      // questions for the cursor's position that the terminal has not answered
}

// rowShape is the extent of a row as it was drawn, on a terminal with these columns. It is zero if there is no row.
type rowShape struct{ width, cursor, columns int }

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
	t := &terminal{in: in, out: out, typing: typing{keys: newKeyReader(in)}, dumb: isDumb(), undo: func() {}}
	t.above.day = time.Now()
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
	unwatch := watchTerminal(t.resized, func() { t.resume(false) }, t.close)
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
	typing := typing{keys: keyReader{r: bufio.NewReader(in)}}
	return &terminal{in: in, out: out, typing: typing, dumb: true, undo: func() {}}
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
	if t.reads {
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
		t.shown, t.drawn, t.stale = false, rowShape{}, rowShape{}
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
	t.above.forget()
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
	t.insertRows(0, t.addRows(0, text))
}

// printTimed inserts a line with its time above the prompt, after the day if that is another one than that of the line
// before. It returns the line's number, and whether the line has taken the place of l.replaces.
func (t *terminal) printTimed(l timedLine) (number uint64, replaced bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	columns, height := sizeOf(t.out)
	rows, again, replaced := t.above.remove(l.replaces, columns, height)
	if replaced {
		l.text = l.folded
	}
	if heading := t.above.heading(l.at, l.age); heading != "" {
		again += t.addRows(0, strings.TrimSuffix(heading, "\n"))
	}
	t.above.number++
	t.insertRows(rows, again+t.addRows(t.above.number, l.at.Local().Format(clockLayout)+l.text))
	return t.above.number, replaced
}

// addRows breaks text into rows, which all end with a newline, and notes them as the last ones on the screen. The
// caller prints them.
func (t *terminal) addRows(number uint64, text string) string {
	whole := strings.Contains(text, wholeLine)
	text = t.rows(text)
	if columns, height := sizeOf(t.out); t.dumb || t.closed || whole {
		t.above.forget() // the terminal's own wrapping decides how many rows these are
	} else {
		t.above.add(number, text, strings.Count(text, "\n"), columns, height)
	}
	return text
}

// insertRows prints rows above the prompt, in place of the last ones there.
func (t *terminal) insertRows(replaced int, rows string) {
	if t.saved != nil {
		rows = strings.ReplaceAll(rows, "\n", "\r\n")
	}
	t.stale = rowShape{}
	switch {
	case t.shown && t.dumb: // the kernel still holds what was typed
		rows = "\n" + rows + t.prompt
	case replaced > 0 && t.shown:
		rows = up(replaced) + "\r\x1b[J" + rows + t.row()
	case replaced > 0:
		rows = up(replaced) + "\r\x1b[J" + rows
	case t.shown:
		rows = "\r\x1b[J" + rows + t.row()
	}
	t.write(rows)
}

// up returns the sequence that moves the cursor up.
func up(rows int) string {
	if rows == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA", rows)
}

// rows breaks text into rows, which all end with a newline. The terminal's own wrapping is off meanwhile: it would
// begin a row without indent if this terminal shows a rune wider than width takes it for.
func (t *terminal) rows(text string) string {
	columns, _ := sizeOf(t.out)
	if t.dumb || t.closed {
		return breakRows(text, columns, "", "")
	}
	return breakRows(text, columns, wrapOff, wrapOn) + wrapOn
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

// enterRoom sets the prompt of a room. From now on lines go to the room.
func (t *terminal) enterRoom(prompt string) {
	t.mu.Lock()
	t.chat = true
	t.mu.Unlock()
	t.setPrompt(prompt)
}

// draw is like redraw, for callers that hold the lock. If the row as it was drawn is wider than the terminal is now, it
// depends on the terminal whether it takes several rows: then the terminal is asked for the cursor's position, and its
// answer, or the next key, draws the row.
func (t *terminal) draw() {
	columns, _ := sizeOf(t.out)
	switch {
	case !t.shown || t.dumb:
	case t.reads && t.stale == (rowShape{}) && columns < t.drawn.columns && t.drawn.width >= columns:
		t.stale, t.queries = t.drawn, 1 // an answer that never came is not waited for
		t.write(askCursor)
	default:
		t.write("\r\x1b[J" + t.row())
	}
}

// resized draws the prompt's row again after the terminal's size has changed.
func (t *terminal) resized() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.above.forget()
	if t.stale == (rowShape{}) {
		t.draw()
		return
	}
	t.queries++ // the answer that is awaited is of another size
	t.write(askCursor)
}

// cursorAt takes the terminal's answer to askCursor: the cursor is in this column, from 0 on. If the terminal has
// broken the prompt's row into several ones, the cursor moves to the first of these. The caller draws the row.
func (t *terminal) cursorAt(column int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queries--
	if t.queries > 0 || t.stale == (rowShape{}) {
		return // a later answer follows, or what was printed since has moved the row
	}
	columns, _ := sizeOf(t.out)
	above := 0 // rows of the broken row before the cursor's
	switch {
	case column == t.stale.cursor%columns:
		above = t.stale.cursor / columns
	case t.stale.cursor%columns == 0 && column == columns-1: // the cursor stays behind the last column
		above = max(0, t.stale.cursor/columns-1)
	}
	t.stale, t.drawn = rowShape{}, rowShape{}
	if t.shown {
		t.write(up(above))
	}
}

// answerColumn returns the column in the terminal's answer to askCursor, from 0 on.
func answerColumn(key string) (column int, ok bool) {
	row, rest := 0, ""
	n, err := fmt.Sscanf(key, "\x1b[%d;%d%s", &row, &column, &rest)
	return column - 1, n == 3 && err == nil && rest == "R" && column > 0
}

// row returns the output that draws the prompt and the part of the line around the cursor on an empty row.
func (t *terminal) row() string {
	columns, _ := sizeOf(t.out)
	prompt := t.shortPrompt(columns)
	room := columns - width(prompt) - 1
	line, pos := t.line.runes, t.line.pos
	if t.secret {
		line, pos = nil, 0
	}
	from, to := visiblePart(line, pos, room)
	left, right := prompt, ""
	if from > 0 {
		left += "<"
	}
	left += safe(string(line[from:pos]))
	right = safe(string(line[pos:to]))
	if to < len(line) {
		right += ">"
	}
	t.drawn = rowShape{width(left) + width(right), width(left), columns}
	return wrapOff + left + "\x1b7" + right + "\x1b8" + wrapOn
}

// shortPrompt returns what fits of the prompt or the question: in a room "> " in place of a long name, otherwise the
// last words.
func (t *terminal) shortPrompt(columns int) string {
	if t.chat && t.question == "" && !t.secret {
		if columns-width(t.prompt)-1 < 10 {
			return "> "
		}
		return t.prompt
	}
	prompt := cmp.Or(t.question, t.prompt)
	for width(prompt) > columns-4 {
		_, rest, ok := strings.Cut(prompt, " ")
		if !ok {
			break
		}
		prompt = rest
	}
	return prompt
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
	t.secret, t.shown, t.stale = secret, !t.closed, rowShape{}
	if t.dumb && t.shown {
		t.write(t.prompt)
	}
}

// emit is like write, for callers that do not hold the lock.
func (t *terminal) emit(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(s)
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
	t.leave(line, mark)
	return line
}

// leave leaves line on the screen in place of the prompt's row, with mark after it. A line for a room gets its time.
// The caller holds the lock.
func (t *terminal) leave(line, mark string) {
	text := cmp.Or(t.question, t.prompt)
	if !t.secret {
		text += safe(line)
	}
	t.shown, t.drawn = false, rowShape{}
	if t.dumb {
		t.write("\r\n")
		return
	}
	heading := ""
	if t.chat && !t.secret && t.question == "" && mark == "" && line != "" {
		now := time.Now()
		heading = t.above.heading(now, ageNew)
		text = now.Format(clockLayout) + text
	}
	t.write("\r\x1b[J")
	t.insertRows(0, t.addRows(0, heading+text+mark))
}
