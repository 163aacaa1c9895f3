package main

// The terminal: a line editor for a room, where others' lines arrive while one types. It knows nothing of messages.
// The rules:
//
//   - The line being edited takes one row and scrolls sideways, so print can put lines above it without knowing how
//     it wraps.
//   - The row is drawn left part, save cursor, right part, restore cursor, with wrapping off: the cursor is right
//     whatever width this terminal gives a Chinese letter or an emoji. Widths decide only how much is drawn, and err
//     on the wide side.
//   - What was typed or pasted is drawn through appendSafe; print's callers make safe what peers sent.
//   - Every way of ending restores the terminal: close, guard for panics, Ctrl-Z and fg.
//   - TERM=dumb: the kernel edits the line, and no sequence is written.
//
// It replaces x/term's Terminal, whose lines end at 4096 runes, whose cursor counts runes as columns and which cannot
// tell Ctrl-C from Ctrl-D or an empty pasted line from Enter; raw mode, sizes and restoring are x/term's.

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
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	maxInput        = 64 << 10  // bytes of a line
	maxHistory      = 100       // lines kept for the arrow keys,
	maxHistoryBytes = 256 << 10 // and their bytes at most
	maxSequence     = 32        // bytes of a key's escape sequence

	pasteOn, pasteOff = "\x1b[?2004h", "\x1b[?2004l"
	pasteStart        = "[200~" // behind ESC
	pasteEnd          = "[201~"
	colorOff          = "\x1b[0m"
)

// errInterrupt is what Ctrl-C gives.
var errInterrupt = errors.New("interrupted")

// terminal is a person's terminal. One goroutine at a time may call readLine and readSecret; the rest is for any
// goroutine.
type terminal struct {
	complete func(line string, pos int) []string // candidates for the word that ends at byte pos of line; may be nil

	in, out *os.File
	keys    *bufio.Reader
	dumb    bool

	mu      sync.Mutex
	saved   *term.State // nil: not raw (closed, or dumb while no secret is asked for)
	undo    func()      // ends watching signals, restores what enableOutput changed
	prompt  string
	shown   bool   // the prompt's row is on the screen
	line    []rune // written by readLine's goroutine alone, under mu
	pos     int    // the cursor, an index of line, at a cluster's start
	size    int    // bytes of line in UTF-8
	secret  bool   // line is not drawn
	pasting bool   // between the marks of a paste
	tabs    int    // Tabs in a row
	closed  bool

	history []string
	recall  int    // the index in history of what line shows; len(history) for none
	draft   []rune // what was typed before history was called up
	lastCR  bool   // the last key was a carriage return: a newline now belongs to it
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// wantColor reports whether out is a terminal that should get colours (no-color.org).
func wantColor(out *os.File) bool {
	return isTerminal(out) && os.Getenv("NO_COLOR") == "" && !isDumb()
}

func isDumb() bool {
	kind := os.Getenv("TERM")
	return kind == "dumb" || kind == "" && runtime.GOOS != "windows"
}

// nameColor returns the sequence that colours name, always the same for it; colorOff ends it.
func nameColor(name string) string {
	h := fnv.New32a()
	h.Write([]byte(name))
	pick := h.Sum32() % 12 // six colours that show on light and dark, plain and bold
	return fmt.Sprintf("\x1b[%d;3%dm", pick/6, 1+pick%6)
}

// newTerminal takes over the terminal that in and out are. The caller defers close, and guard in each goroutine it
// starts.
func newTerminal(in, out *os.File) (*terminal, error) {
	t := &terminal{in: in, out: out, keys: bufio.NewReader(in), dumb: isDumb(), undo: func() {}}
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
	if t.saved, err = term.MakeRaw(int(in.Fd())); err != nil {
		restoreOutput()
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	unwatch := watchTerminal(t.redraw, func() { t.resume(false) }, t.close)
	t.undo = func() { unwatch(); restoreOutput() }
	t.write(pasteOn)
	return t, nil
}

// close gives the terminal back as it was found, the cursor on a fresh line. It may be called again, and while
// readLine waits.
func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	t.undo()
	t.release()
	t.saved = nil
}

// release leaves raw mode, for close and for Ctrl-Z.
func (t *terminal) release() {
	if t.shown {
		t.write("\r\n")
		t.shown = false
	}
	if !t.dumb {
		t.write(pasteOff)
	}
	if t.saved != nil {
		// Nothing is left to try if this fails: the terminal is gone.
		_ = term.Restore(int(t.in.Fd()), t.saved)
	}
}

// resume takes the terminal back after a stop, and may be called at any time.
func (t *terminal) resume(editing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil || t.dumb {
		return
	}
	// The state it returns may be raw already; the one to restore is newTerminal's.
	if _, err := term.MakeRaw(int(t.in.Fd())); err != nil {
		return // gone: the read that waits will say so
	}
	t.write(pasteOn)
	t.shown = t.shown || editing
	t.draw()
}

// suspend gives the terminal to the shell, as Ctrl-Z does, until the process continues.
func (t *terminal) suspend() {
	t.mu.Lock()
	t.release()
	t.mu.Unlock()
	suspendProcess()
	t.resume(true)
}

// redraw draws the prompt's row for a new window size.
func (t *terminal) redraw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draw()
}

// guard is deferred in goroutines: a panic ends the program, but not before the terminal is restored.
func (t *terminal) guard() {
	if p := recover(); p != nil {
		t.close()
		panic(p)
	}
}

// write sends s to the terminal. An error is no news worth having: the terminal is gone, and the next read says so.
func (t *terminal) write(s string) { _, _ = t.out.WriteString(s) }

// print puts line, finished and safe, above the prompt. It may hold colours and newlines.
func (t *terminal) print(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line += "\n"
	if t.saved != nil {
		line = strings.ReplaceAll(line, "\n", "\r\n")
	}
	switch {
	case t.shown && t.dumb: // what was typed is still the kernel's
		line = "\n" + line + t.prompt
	case t.shown:
		line = "\r\x1b[J" + line + t.row()
	}
	t.write(line)
}

// bell rings.
func (t *terminal) bell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.write("\a")
	}
}

// setPrompt sets what stands before the line; it may be coloured, and is safe already.
func (t *terminal) setPrompt(prompt string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.prompt
	t.prompt = prompt
	switch {
	case !t.dumb || !t.shown || prompt == was:
		t.draw()
	case was == "": // the line was being read already
		t.write(prompt)
	default:
		t.write("\n" + prompt)
	}
}

// draw shows the prompt's row anew if it is on the screen.
func (t *terminal) draw() {
	if t.shown && !t.dumb {
		t.write("\r\x1b[J" + t.row())
	}
}

// row returns what draws the prompt and the part of the line around the cursor on an empty row.
func (t *terminal) row() string {
	columns, _, err := term.GetSize(int(t.out.Fd()))
	if err != nil || columns <= 0 {
		columns = 80
	}
	prompt := t.prompt
	room := columns - width(prompt) - 1
	if room < 10 && prompt != "" {
		prompt, room = "", columns-1
	}
	line, pos := t.line, t.pos
	if t.secret {
		line, pos = nil, 0
	}
	// As much left of the cursor as fits, if all of it does; else three quarters of the row. Then the right part.
	from, left := before(line, pos, room)
	if from > 0 {
		from, left = before(line, pos, room*3/4)
	}
	to, right := after(line, pos, room-left)
	if to == len(line) && from > 0 { // the end is shown: use what room is left
		from, _ = before(line, pos, room-right)
	}
	var b strings.Builder
	b.WriteString("\x1b[?7l" + prompt)
	if from > 0 {
		b.WriteByte('<')
	}
	b.WriteString(safe(string(line[from:pos])) + "\x1b7" + safe(string(line[pos:to])))
	if to < len(line) {
		b.WriteByte('>')
	}
	b.WriteString("\x1b8\x1b[?7h")
	return b.String()
}

// before returns the start of the clusters before pos that fit in room columns, one of them kept for a mark, and
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

// after is before's mirror: the end of the clusters from pos on that fit.
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

// readLine returns the next line. pasted tells that it ended inside a paste, so that an empty one is text and not a
// wish to leave. A pasted line longer than maxInput comes in parts. io.EOF is Ctrl-D on an empty line, or the
// terminal's end; errInterrupt Ctrl-C.
func (t *terminal) readLine() (line string, pasted bool, err error) {
	if t.dumb {
		line, err = t.readCooked()
		return line, false, err
	}
	t.begin(false)
	line, pasted, err = t.edit()
	if err == nil && line != "" && !pasted {
		t.remember(line)
	}
	return line, pasted, err
}

// readSecret asks for a line and shows nothing of it.
func (t *terminal) readSecret(prompt string) ([]byte, error) {
	t.mu.Lock()
	prompt, t.prompt = t.prompt, prompt
	if t.dumb && !t.closed { // raw for as long as it takes: the kernel would echo
		state, err := term.MakeRaw(int(t.in.Fd()))
		if err != nil {
			t.mu.Unlock()
			return nil, fmt.Errorf("switching off the terminal's echo: %w", err)
		}
		t.saved = state
	}
	t.mu.Unlock()
	t.begin(true)
	line, _, err := t.edit()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prompt = prompt
	if t.dumb && t.saved != nil {
		_ = term.Restore(int(t.in.Fd()), t.saved) // as in release
		t.saved = nil
	}
	return []byte(line), err
}

// readCooked reads a line that the kernel edited.
func (t *terminal) readCooked() (string, error) {
	t.begin(false)
	defer func() { t.mu.Lock(); t.shown = false; t.mu.Unlock() }()
	var line []byte
	for {
		c, err := t.keys.ReadByte()
		switch {
		case err == io.EOF && len(line) > 0:
			return string(line), nil
		case err == io.EOF:
			t.emit("\n")
			return "", io.EOF
		case err != nil:
			return "", fmt.Errorf("reading from the terminal: %w", err)
		case c == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case len(line) < maxInput:
			line = append(line, c)
		}
	}
}

// emit writes s as it is.
func (t *terminal) emit(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(s)
}

// begin shows the prompt.
func (t *terminal) begin(secret bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secret, t.shown, t.recall = secret, !t.closed, len(t.history)
	if t.dumb && t.shown {
		t.write(t.prompt)
	}
}

// edit takes keys until they make a line.
func (t *terminal) edit() (line string, pasted bool, err error) {
	for {
		if t.keys.Buffered() == 0 { // a paste or typing ahead is drawn once
			t.mu.Lock()
			t.draw()
			t.mu.Unlock()
		}
		r, _, err := t.keys.ReadRune()
		if err == io.EOF {
			return "", false, io.EOF
		} else if err != nil {
			return "", false, fmt.Errorf("reading from the terminal: %w", err)
		}
		if t.isClosed() {
			return "", false, io.EOF
		}
		newline := r == '\n' && t.lastCR
		t.lastCR = r == '\r'
		if newline {
			continue
		}
		if r != '\t' {
			t.tabs = 0
		}
		switch {
		case r == '\r' || r == '\n':
			return t.finish(""), t.pasting, nil
		case r == 0x1b && t.pasting && t.endsPaste():
			t.pasting = false
		case r == 0x1b && !t.pasting:
			if err := t.sequence(); err != nil {
				return "", false, err
			}
		case t.pasting || r >= ' ' && !unicode.IsControl(r):
			if t.size+utf8.RuneLen(r) > maxInput && t.pasting {
				part := t.finish("")
				t.insert(r)
				return part, true, nil
			}
			t.insert(r)
		case r == 3:
			t.finish("^C")
			return "", false, errInterrupt
		case r == 4 && len(t.line) == 0:
			t.finish("")
			return "", false, io.EOF
		case r == '\t':
			t.completeWord()
		case r == 0x1a && canSuspend && !t.dumb:
			t.suspend()
		default:
			t.control(r)
		}
	}
}

func (t *terminal) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// finish takes the line away and leaves it whole on the screen, mark behind it.
func (t *terminal) finish(mark string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := string(t.line)
	text := safe(line)
	if t.secret {
		text = ""
		clear(t.line)
	}
	if t.dumb {
		t.write("\r\n")
	} else {
		t.write("\r\x1b[J" + t.prompt + text + mark + "\r\n")
	}
	t.line, t.pos, t.size, t.shown = t.line[:0], 0, 0, false
	return line
}

// insert puts r at the cursor, or rings where the line is full.
func (t *terminal) insert(r rune) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.size+utf8.RuneLen(r) > maxInput {
		t.write("\a")
		return
	}
	t.line = slices.Insert(t.line, t.pos, r)
	t.pos++
	t.size += utf8.RuneLen(r)
}

// replace puts text in place of line[from:to], the cursor behind it.
func (t *terminal) replace(from, to int, text []rune) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line = slices.Replace(t.line, from, to, text...)
	t.pos = from + len(text)
	t.size = len(string(t.line))
}

// control does what Ctrl and a letter mean, as in a shell. Other keys mean nothing.
func (t *terminal) control(r rune) {
	switch r {
	case 'A' - '@':
		t.move(0)
	case 'E' - '@':
		t.move(len(t.line))
	case 'B' - '@':
		t.move(prevCluster(t.line, t.pos))
	case 'F' - '@':
		t.move(nextCluster(t.line, t.pos))
	case 'D' - '@':
		t.replace(t.pos, nextCluster(t.line, t.pos), nil)
	case 'H' - '@', 0x7f:
		t.replace(prevCluster(t.line, t.pos), t.pos, nil)
	case 'K' - '@':
		t.replace(t.pos, len(t.line), nil)
	case 'U' - '@':
		t.replace(0, t.pos, nil)
	case 'W' - '@':
		t.replace(t.prevWord(), t.pos, nil)
	case 'P' - '@':
		t.show(t.recall - 1)
	case 'N' - '@':
		t.show(t.recall + 1)
	case 'L' - '@':
		t.emit("\x1b[H\x1b[2J")
	}
}

// sequence reads the rest of a key that began with ESC. What it does not know it drops, whole.
func (t *terminal) sequence() error {
	var seq []byte
	for len(seq) < maxSequence {
		c, err := t.keys.ReadByte()
		if err == io.EOF {
			return io.EOF
		} else if err != nil {
			return fmt.Errorf("reading from the terminal: %w", err)
		}
		seq = append(seq, c)
		switch {
		case len(seq) == 1 && (c == '[' || c == 'O'):
		case len(seq) == 1 || seq[0] == 'O' || 0x40 <= c && c <= 0x7e:
			t.key(string(seq))
			return nil
		case c < ' ' || c > 0x7e:
			return nil
		}
	}
	return nil
}

// endsPaste reports whether the ESC just read ends the paste, and takes the rest of the mark. Any other is text:
// behind it comes at least the mark, so looking ahead that far waits for nothing.
func (t *terminal) endsPaste() bool {
	ahead, err := t.keys.Peek(len(pasteEnd))
	if err != nil || string(ahead) != pasteEnd {
		return false
	}
	_, err = t.keys.Discard(len(pasteEnd))
	return err == nil
}

// key does what the sequence behind ESC means.
func (t *terminal) key(seq string) {
	switch seq {
	case pasteStart:
		t.pasting = true
	case "[A", "OA":
		t.show(t.recall - 1)
	case "[B", "OB":
		t.show(t.recall + 1)
	case "[C", "OC":
		t.move(nextCluster(t.line, t.pos))
	case "[D", "OD":
		t.move(prevCluster(t.line, t.pos))
	case "[H", "OH", "[1~", "[7~":
		t.move(0)
	case "[F", "OF", "[4~", "[8~":
		t.move(len(t.line))
	case "[3~":
		t.replace(t.pos, nextCluster(t.line, t.pos), nil)
	case "[1;5D", "[1;3D", "b":
		t.move(t.prevWord())
	case "[1;5C", "[1;3C", "f":
		t.move(t.nextWord())
	case "\x7f", "\b":
		t.replace(t.prevWord(), t.pos, nil)
	case "d":
		t.replace(t.pos, t.nextWord(), nil)
	}
}

func (t *terminal) move(pos int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pos = pos
}

func (t *terminal) prevWord() int {
	at := t.pos
	for at > 0 && unicode.IsSpace(t.line[at-1]) {
		at--
	}
	for at > 0 && !unicode.IsSpace(t.line[at-1]) {
		at--
	}
	return at
}

func (t *terminal) nextWord() int {
	at := t.pos
	for at < len(t.line) && unicode.IsSpace(t.line[at]) {
		at++
	}
	for at < len(t.line) && !unicode.IsSpace(t.line[at]) {
		at++
	}
	return at
}

// remember keeps line for the arrow keys, unless it was the last already.
func (t *terminal) remember(line string) {
	if n := len(t.history); n > 0 && t.history[n-1] == line {
		return
	}
	t.history = append(t.history, line)
	total := 0
	for i, l := range slices.Backward(t.history) {
		if total += len(l); total > maxHistoryBytes || len(t.history)-i > maxHistory {
			t.history = slices.Clone(t.history[i+1:])
			return
		}
	}
}

// show puts entry i of the history on the line; the one behind the last is what was typed.
func (t *terminal) show(i int) {
	if t.secret || i < 0 || i > len(t.history) {
		return
	}
	if t.recall == len(t.history) {
		t.draft = slices.Clone(t.line)
	}
	text := t.draft
	if i < len(t.history) {
		text = []rune(t.history[i])
	}
	t.recall = i
	t.replace(0, len(t.line), text)
}

// completeWord fills in what all candidates agree on; a second Tab lists them.
func (t *terminal) completeWord() {
	if t.complete == nil || t.secret {
		return
	}
	start := t.pos
	for start > 0 && !unicode.IsSpace(t.line[start-1]) {
		start--
	}
	word := string(t.line[start:t.pos])
	found := t.complete(string(t.line), len(string(t.line[:t.pos])))
	if len(found) == 0 {
		t.bell()
		return
	}
	common := found[0]
	for _, candidate := range found[1:] {
		for !strings.HasPrefix(candidate, common) {
			_, n := utf8.DecodeLastRuneInString(common)
			common = common[:len(common)-n]
		}
	}
	if len(found) == 1 {
		common += " "
	}
	if len(common) > len(word) {
		t.replace(start, t.pos, []rune(common))
		return
	}
	if t.tabs++; t.tabs == 1 {
		t.bell()
		return
	}
	t.print(safe(strings.Join(found, "  ")))
}

// prevCluster returns the start of what shows as one character before pos, and nextCluster the end of that from pos on.
func prevCluster(line []rune, pos int) int {
	for pos--; pos > 0 && extends(line, pos); pos-- {
	}
	return max(pos, 0)
}

func nextCluster(line []rune, pos int) int {
	for pos++; pos < len(line) && extends(line, pos); pos++ {
	}
	return min(pos, len(line))
}

// extends reports whether line[i], i > 0, belongs to the character before it (Unicode's UAX 29, in short).
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

func regional(r rune) bool { return 0x1f1e6 <= r && r <= 0x1f1ff }

// wide holds what takes two columns, beyond the pictographic (East Asian Width W and F).
var wide = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x1100, Hi: 0x115f, Stride: 1}, {Lo: 0x2e80, Hi: 0xa4cf, Stride: 1}, {Lo: 0xa960, Hi: 0xa97f, Stride: 1},
		{Lo: 0xac00, Hi: 0xd7a3, Stride: 1}, {Lo: 0xf900, Hi: 0xfaff, Stride: 1}, {Lo: 0xfe10, Hi: 0xfe19, Stride: 1},
		{Lo: 0xfe30, Hi: 0xfe6f, Stride: 1}, {Lo: 0xff01, Hi: 0xff60, Stride: 1}, {Lo: 0xffe0, Hi: 0xffe6, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x16fe0, Hi: 0x18dff, Stride: 1}, {Lo: 0x1aff0, Hi: 0x1b2ff, Stride: 1}, {Lo: 0x1d300, Hi: 0x1d376, Stride: 1},
		{Lo: 0x1f000, Hi: 0x1faff, Stride: 1}, {Lo: 0x20000, Hi: 0x3fffd, Stride: 1},
	},
}

// width returns the columns that text takes at most on any terminal; colours take none.
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

func runeWidth(r rune) int {
	switch {
	case r >= ' ' && r < 0x7f:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.In(r, wide, pictographic):
		return 2
	}
	return 1
}
