package main

// The line that a person edits, the history of earlier lines, and the lines of a paste. Nothing here is drawn.

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxHistory      = 100       // lines kept for the arrow keys,
	maxHistoryBytes = 256 << 10 // and bytes of all of them

	// More lines than askLines in one paste are sent only after a question: five lines are a quotation, more are often
	// a wrong clipboard. A paste of more than maxPaste bytes is dropped; a pipe sends files.
	askLines = 5
	maxPaste = 1 << 20

	maxSearch = 256 // bytes of what Ctrl-R looks for
)

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

// find returns the newest line before index end that contains query.
func (h *history) find(query string, end int) (at int, ok bool) {
	for at = min(end, len(h.lines)) - 1; at >= 0; at-- {
		if strings.Contains(h.lines[at].text, query) {
			return at, true
		}
	}
	return 0, false
}

// search is a search in the history, as Ctrl-R begins it. The zero value is no search.
type search struct {
	on    bool
	query string
	at    int        // the index in the history of the line found; the length of the history for none
	draft lineEditor // the line before the search
}

// pasteBuffer holds the complete lines of a paste until its end.
type pasteBuffer struct {
	lines   []string
	size    int        // bytes of lines
	tooLong bool       // more than maxPaste bytes were pasted, and all were dropped
	active  bool       // the paste has begun, and its end was not handled yet
	asking  bool       // the person was asked whether to send the lines
	before  lineEditor // the line before the paste, which takes its place again if it is not sent
}

// begin begins a paste into line.
func (p *pasteBuffer) begin(line *lineEditor) { *p = pasteBuffer{active: true, before: line.clone()} }

// add adds a complete line.
func (p *pasteBuffer) add(line string) {
	p.size += len(line) + 1
	if p.tooLong = p.tooLong || p.size > maxPaste; p.tooLong {
		p.lines = nil
		return
	}
	p.lines = append(p.lines, line)
}

// lineEditor is a line and the cursor in it.
type lineEditor struct {
	runes  []rune
	pasted []bool // for each rune, whether it was pasted
	pos    int    // of the cursor, an index of runes at the start of a cluster
	size   int    // bytes of the line in UTF-8

	cut     []rune // what the last keys that cut have removed, for Ctrl-Y
	cutting bool   // the last key has cut, so the next one that cuts adds to cut
	cutHas  bool   // cut has pasted runes
}

// clone returns a copy of e, which shares no memory with it.
func (e *lineEditor) clone() lineEditor {
	c := *e
	c.runes, c.pasted, c.cut = slices.Clone(e.runes), slices.Clone(e.pasted), slices.Clone(e.cut)
	return c
}

// set replaces the line by that of other, and keeps what was cut.
func (e *lineEditor) set(other lineEditor) {
	e.runes, e.pasted, e.pos, e.size, e.cutting = other.runes, other.pasted, other.pos, other.size, false
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
	e.cutting = false
}

// kill removes runes[from:to], one end of which is the cursor, and keeps them for Ctrl-Y.
func (e *lineEditor) kill(from, to int) {
	if from == to {
		return
	}
	text := slices.Clone(e.runes[from:to])
	pasted := slices.Contains(e.pasted[from:to], true)
	switch {
	case !e.cutting:
		e.cut, e.cutHas = text, pasted
	case to == e.pos:
		e.cut, e.cutHas = append(text, e.cut...), e.cutHas || pasted
	default:
		e.cut, e.cutHas = append(e.cut, text...), e.cutHas || pasted
	}
	e.replace(from, to, nil, false)
	e.cutting = true
}

// yank inserts what was cut last, as far as it fits. All of it counts as pasted if a part of it was.
func (e *lineEditor) yank() {
	if e.size+runesSize(e.cut) <= maxInput {
		e.replace(e.pos, e.pos, e.cut, e.cutHas)
	}
}

// runesSize returns the length of runes in UTF-8.
func runesSize(runes []rune) (size int) {
	for _, r := range runes {
		size += utf8.RuneLen(r)
	}
	return size
}

// take returns the line and empties it. wipe overwrites its memory, and what was cut.
func (e *lineEditor) take(wipe bool) string {
	line := string(e.runes)
	if wipe {
		clear(e.runes)
		clear(e.cut)
		e.cut = nil
	}
	e.runes, e.pasted, e.pos, e.size, e.cutting = e.runes[:0], e.pasted[:0], 0, 0, false
	return line
}

// key performs the action of a key, as in a shell. Other keys do nothing.
func (e *lineEditor) key(key string) {
	switch key {
	case ctrlW, esc + del, esc + backspace:
		e.kill(e.prevWord(), e.pos)
		return
	case "\x1bd":
		e.kill(e.pos, e.nextWord())
		return
	case ctrlU:
		e.kill(0, e.pos)
		return
	case ctrlK:
		e.kill(e.pos, len(e.runes))
		return
	}
	e.cutting = false
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
	case ctrlY:
		e.yank()
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
