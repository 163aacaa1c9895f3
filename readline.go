package main

// Reading lines at a terminal: what each key does, completion of words, searches in the history, and pastes. The rules:
//
//   - Pasted text is marked. The caller learns whether a line's first word has pasted characters, and takes such a line
//     as text.
//   - The lines of a paste are returned after its end. If there are more than askLines, a person in a room is asked
//     first, and only a typed yes sends them.
//   - Ctrl-C clears a line, and is an error only on an empty one.
//   - An Enter that follows other input within suddenEnter is no empty line of a room, and a Ctrl-C or Ctrl-D that
//     follows one that changed the line within suddenEnter does nothing there.

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// readLine returns the next line. pasted reports that its first word has pasted characters, or that the line ended
// inside a paste: then it is text, not a command, and an empty line no request to leave. A pasted line longer than
// maxInput is returned in parts. A line that begins with one typed slash takes the newlines of a paste as characters,
// because the lines of the paste are meant for the command. The error is io.EOF for Ctrl-D on an empty line and for the
// end of the terminal, and errInterrupt for Ctrl-C.
func (t *terminal) readLine() (line string, pasted bool, err error) {
	t.mu.Lock()
	t.reads = true
	t.mu.Unlock()
	if t.dumb {
		line, err = t.readCooked()
		return line, false, err
	}
	t.begin(false)
	return t.edit()
}

// readSecret asks for a line that is not shown.
func (t *terminal) readSecret(prompt string) ([]byte, error) {
	old, err := t.beginSecret(prompt)
	if err != nil {
		return nil, err
	}
	line, _, err := t.edit()
	t.paste = pasteBuffer{active: t.keys.pasting} // without the secret
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

// readCooked reads a line that the kernel has edited.
func (t *terminal) readCooked() (string, error) {
	defer func() { t.mu.Lock(); t.shown = false; t.mu.Unlock() }()
	for {
		t.begin(false)
		line, err := t.keys.cookedLine()
		sudden := t.isSudden()
		switch {
		case err == io.EOF:
			t.emit("\n")
		case err == nil && line == "" && sudden:
			continue
		case err == nil && t.expand != nil:
			line = t.expand(line)
		}
		return line, err
	}
}

// isSudden reports whether the key that was read now came within suddenEnter of the one before, in a room.
func (t *terminal) isSudden() bool {
	now := time.Now()
	sudden := now.Sub(t.lastKey) < suddenEnter
	t.lastKey = now
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.chat && sudden
}

// edit reads keys until they complete a line.
func (t *terminal) edit() (line string, pasted bool, err error) {
	for {
		if line, ok := t.takePasted(); ok {
			return line, true, nil
		}
		if t.keys.r.Buffered() == 0 { // so that a paste, or text typed ahead, is drawn once
			t.redraw()
		}
		r, err := t.keys.next()
		if err != nil && err != errSilence {
			return "", false, err
		}
		if t.isClosed() {
			return "", false, io.EOF
		}
		sudden := t.isSudden()
		handled := t.followPaste(string(r) == ctrlC)
		if handled || err == errSilence || t.keys.isLaterHalf(r) || t.search.on && t.searchKey(r) {
			continue
		}
		if string(r) != tab {
			t.tabs = 0
		}
		repeats := t.repeats(r, sudden)
		switch {
		case string(r) == esc && t.keys.pasting && t.keys.endsPaste():
			t.endPaste()
		case t.keys.pasting && t.secret && isEnter(r):
			return t.finish(""), true, nil
		case t.keys.pasting:
			t.pasteRune(r)
		case repeats:
		case isEnter(r):
			if line, pasted, ok := t.enter(sudden); ok {
				return line, pasted, nil
			}
		case string(r) == esc:
			if t.keys.r.Buffered() == 0 { // the Esc key, which may have ended a search
				t.redraw()
			}
			seq, err := t.keys.sequence()
			if err != nil {
				return "", false, err
			}
			t.key(esc + seq)
		case r >= ' ' && !unicode.IsControl(r):
			t.insert(r)
		case string(r) == ctrlC && !t.clears():
			t.finish("^C")
			return "", false, errInterrupt
		case string(r) == ctrlD && len(t.line.runes) == 0 && t.paste.asking:
			t.answerPaste()
		case string(r) == ctrlD && len(t.line.runes) == 0:
			t.finish("")
			return "", false, io.EOF
		default:
			t.key(string(r))
		}
	}
}

// repeats reports whether r is a Ctrl-C or Ctrl-D on an empty line, of a key that was held while it changed the line.
func (t *terminal) repeats(r rune, sudden bool) bool {
	ends := string(r) == ctrlC || string(r) == ctrlD
	empty := len(t.line.runes) == 0 && !t.paste.asking
	repeats := ends && empty && sudden && t.edited
	t.edited = repeats || ends && !empty
	return repeats
}

func isEnter(r rune) bool { return r == '\r' || r == '\n' }

// enter handles a typed Enter. ok is false if it completes no line.
func (t *terminal) enter(sudden bool) (line string, pasted, ok bool) {
	empty, afterPaste := len(t.line.runes) == 0, t.afterPaste
	t.afterPaste = false
	switch {
	case t.paste.asking:
		t.answerPaste()
		return "", false, false
	case empty && !t.secret && (afterPaste || sudden):
		return "", false, false
	}
	pasted = t.line.startsPasted()
	if old := string(t.line.runes); t.expand != nil && !pasted && !t.secret {
		if expanded := t.expand(old); expanded != old {
			t.replace(0, len(t.line.runes), []rune(expanded), false)
		}
	}
	line = t.finish("")
	if line != "" && !t.secret {
		t.history.remember(historyLine{text: line, pasted: pasted})
	}
	return line, pasted, true
}

// clears is what Ctrl-C does to a line that is not empty, as in a shell, and to the question about a paste. It reports
// whether there was one.
func (t *terminal) clears() bool {
	switch {
	case t.paste.asking:
		t.takeLine()
		t.answerPaste()
		return true
	case t.secret || len(t.line.runes) == 0:
		return false
	}
	t.finish("^C")
	t.begin(false)
	return true
}

// pasteRune takes one rune of a paste.
func (t *terminal) pasteRune(r rune) {
	switch enter := isEnter(r); {
	case enter && t.line.isCommand():
		t.insert('\n')
	case enter:
		t.paste.add(t.takeLine())
	case t.line.fits(r) || t.line.isCommand() || t.secret:
		t.insert(r)
	default: // a line that is too long is sent in parts
		t.paste.add(t.takeLine())
		t.insert(r)
	}
}

// takeLine returns the line and empties it.
func (t *terminal) takeLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.line.take(false)
}

// followPaste follows a paste that the key reader ended without an end mark, or continues after one. cancel drops the
// paste that ends. The result reports that the rune just read, which ended the paste, is not handled further.
func (t *terminal) followPaste(cancel bool) (handled bool) {
	p := &t.paste
	switch {
	case p.active == t.keys.pasting:
		return false
	case p.active && cancel && len(p.lines) > 0:
		*p = pasteBuffer{}
		t.takeLine()
		return true
	case p.active:
		t.endPaste()
		return len(p.lines) > 0
	case p.asking: // what has been typed as the answer is dropped
		t.mu.Lock()
		defer t.mu.Unlock()
		t.line.take(false)
		t.question, p.asking, p.active = "", false, true
		return false
	}
	p.begin(&t.line)
	return false
}

// endPaste handles the end of a paste. If it has more than askLines lines, the person is asked about them.
func (t *terminal) endPaste() {
	p := &t.paste
	p.active = false
	t.afterPaste = len(p.lines) > 0
	t.mu.Lock()
	defer t.mu.Unlock()
	total := len(p.lines)
	if len(t.line.runes) > 0 {
		total++
	}
	switch {
	case p.tooLong:
		t.line.set(p.before)
		*p = pasteBuffer{}
		const text = "nothing was sent: the paste is longer than %d MiB, and a pipe sends files"
		t.insertRows(0, t.addRows(0, fmt.Sprintf(text, maxPaste>>20)))
		return
	case !t.chat || len(p.lines) == 0 || total <= askLines:
		return
	}
	if total > len(p.lines) {
		p.lines = append(p.lines, t.line.take(false))
	}
	p.asking, t.afterPaste = true, false
	t.question = fmt.Sprintf("send %d lines? [y/N] ", total)
	t.keys.endLost = true // an end mark that is part of the pasted text does not make the rest of it an answer
}

// answerPaste takes the line as the answer to the question about a paste. Only a typed yes sends the paste.
func (t *terminal) answerPaste() {
	yes := !slices.Contains(t.line.pasted, true)
	switch strings.ToLower(strings.TrimSpace(string(t.line.runes))) {
	case "y", "yes":
	default:
		yes = false
	}
	t.finish("")
	t.begin(false)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.question, t.paste.asking, t.keys.endLost = "", false, false
	if !yes {
		t.line.set(t.paste.before)
		t.paste = pasteBuffer{}
	}
}

// takePasted returns the next line of a paste that has ended, and leaves it on the screen.
func (t *terminal) takePasted() (line string, ok bool) {
	p := &t.paste
	if p.active || p.asking || len(p.lines) == 0 {
		return "", false
	}
	line, p.lines = p.lines[0], p.lines[1:]
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave(line, "")
	return line, true
}

// searchKey handles a key during a search in the history. It reports whether the key belongs to the search; any other
// key ends it, and then acts on the line that was found. Without such a line, Enter, Ctrl-C and Ctrl-D end only the
// search, not the stay in a room.
func (t *terminal) searchKey(r rune) bool {
	s := &t.search
	switch key := string(r); {
	case key == ctrlR:
		t.find(s.query, s.at)
	case key == backspace || key == del:
		_, n := utf8.DecodeLastRuneInString(s.query)
		t.find(s.query[:len(s.query)-n], len(t.history.lines))
	case key == ctrlG:
		t.endSearch()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.line.set(s.draft)
		t.history.rewind()
	case r >= ' ' && !unicode.IsControl(r) && len(s.query)+utf8.RuneLen(r) <= maxSearch:
		t.find(s.query+key, s.at+1)
	default:
		t.endSearch()
		return len(t.line.runes) == 0 && (isEnter(r) || key == ctrlC || key == ctrlD)
	}
	return true
}

// startSearch begins a search in the history.
func (t *terminal) startSearch() {
	if t.secret || t.paste.asking {
		return
	}
	t.search = search{on: true, at: len(t.history.lines), draft: t.line.clone()}
	t.find("", 0)
}

// find shows the newest line of the history before end that contains query, or rings the bell.
func (t *terminal) find(query string, end int) {
	s := &t.search
	s.query = query
	at, ok := t.history.find(query, end)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.question = "search " + safe(query) + ": "
	switch {
	case query == "":
	case !ok:
		t.write("\a")
	default:
		s.at = at
		draft := historyLine{text: string(s.draft.runes), pasted: slices.Contains(s.draft.pasted, true)}
		if found, ok := t.history.move(at-t.history.at, draft); ok {
			t.line.replace(0, len(t.line.runes), []rune(found.text), found.pasted)
			t.line.pos = utf8.RuneCountInString(found.text[:strings.Index(found.text, query)])
		}
	}
}

func (t *terminal) endSearch() {
	t.search.on = false
	t.mu.Lock()
	defer t.mu.Unlock()
	t.question = ""
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
		if t.paste.asking { // another paste is no answer
			t.takeLine()
			t.answerPaste()
		}
		t.keys.pasting, t.keys.endLost = true, false
		t.paste.begin(&t.line)
	case pasteEnd:
		t.keys.endLost = false
	case ctrlP, "\x1b[A", "\x1bOA":
		t.recall(-1)
	case ctrlN, "\x1b[B", "\x1bOB":
		t.recall(1)
	case tab:
		t.completeWord()
	case ctrlR:
		t.startSearch()
	case ctrlL:
		t.clearScreen()
	case ctrlZ:
		if canSuspend && !t.dumb {
			t.suspend()
		}
	default:
		column, ok := answerColumn(key)
		t.mu.Lock()
		if answered := ok && t.queries > 0; answered {
			t.mu.Unlock()
			t.cursorAt(column)
			return
		}
		defer t.mu.Unlock()
		t.line.key(key)
	}
}

// clearScreen clears the screen, as Ctrl-L does.
func (t *terminal) clearScreen() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write("\x1b[H\x1b[2J")
	t.above.forget()
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
	if t.complete == nil || t.secret || len(t.line.runes) == 0 {
		return
	}
	pos := t.line.pos
	start := pos
	for start > 0 && !unicode.IsSpace(t.line.runes[start-1]) {
		start--
	}
	word := string(t.line.runes[start:pos])
	found, after := t.complete(string(t.line.runes), len(string(t.line.runes[:pos])))
	if len(found) == 0 {
		t.bell()
		return
	}
	common := commonPrefix(found)
	if len(found) == 1 {
		common += after
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
