package main

// What a person at a terminal sees of the room: messages with their times, the person's own name highlighted, and joins
// and leaves of one name in one line. Text from peers is made safe here.

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	foldTime  = time.Minute // a join or a leave after less than this joins the line of the one before
	maxFolded = 64          // names whose joins and leaves are remembered; about as many lines as a screen has
	bellPause = time.Second // between two bells, so that many messages at once ring one

	highlight = "\x1b[1;7m" // for the person's own name
)

// conversation is what a person has seen of the room.
type conversation struct {
	// Only console.show uses these.
	folded []foldedLine
	seen   uint64 // number of the last message shown
	rang   time.Time

	namesMu sync.Mutex // guards the fields below
	me      string     // the person's name in the room; empty before
	sender  string     // of the last direct message
	direct  uint64     // its number
}

// foldedLine is the last joins and leaves of a name, which one line of the terminal shows.
type foldedLine struct {
	name        string
	first, last byte // itemJoin or itemLeave, which alternate
	events      int
	reason      string // of the last leave that had one
	at          time.Time
	number      uint64 // of the line on the terminal
}

// setName sets the person's own name.
func (c *conversation) setName(name string) {
	c.namesMu.Lock()
	defer c.namesMu.Unlock()
	c.me = name
}

// ownName returns the person's own name in the room.
func (c *conversation) ownName() string {
	c.namesMu.Lock()
	defer c.namesMu.Unlock()
	return c.me
}

// replyTo returns the sender of the last direct message, or "".
func (c *conversation) replyTo() string {
	c.namesMu.Lock()
	defer c.namesMu.Unlock()
	return c.sender
}

// remember notes the person to answer. again reports that the message was shown before.
func (c *conversation) remember(it item) (again bool) {
	again = it.seq != 0 && it.seq <= c.seen
	c.seen = max(c.seen, it.seq)
	c.namesMu.Lock()
	defer c.namesMu.Unlock()
	if it.what == itemDirect && it.seq >= c.direct {
		c.sender, c.direct = it.name, it.seq
	}
	return again
}

// eventLine returns the line for an item that is not a message.
func eventLine(it item) string {
	name, text := safe(it.name), safe(string(it.text))
	switch {
	case it.what == itemJoin:
		return "* " + name + " joined"
	case it.what == itemLeave && text == "":
		return "* " + name + " left"
	case it.what == itemLeave:
		return "* " + name + " left: " + text
	}
	return "* " + text
}

// visit returns the line for a join or a leave. If the line before about that name is new and still on the screen, one
// line takes the place of both. Names that only look alike have lines of their own. The caller reports with visited how
// the line was printed.
func (c *conversation) visit(it item) (v foldedLine, l timedLine) {
	v = foldedLine{name: it.name, first: it.what}
	at := slices.IndexFunc(c.folded, func(old foldedLine) bool { return old.name == it.name })
	if at >= 0 {
		if old := c.folded[at]; it.time.Sub(old.at) < foldTime && old.last != it.what {
			v = old
		}
		c.folded = slices.Delete(c.folded, at, at+1)
	}
	v.last, v.at = it.what, it.time
	v.events++
	if len(it.text) > 0 {
		v.reason = safe(string(it.text))
	}
	return v, timedLine{at: it.time, age: ageEvent, text: eventLine(it), replaces: v.number, folded: v.words()}
}

// visited notes the number of the line for it, which is v, and whether it took the place of the one before.
func (c *conversation) visited(it item, v foldedLine, number uint64, replaced bool) {
	if !replaced {
		reason := safe(string(it.text))
		v = foldedLine{name: it.name, first: it.what, last: it.what, events: 1, reason: reason, at: it.time}
	}
	v.number = number
	if c.folded = append(c.folded, v); len(c.folded) > maxFolded {
		c.folded = slices.Delete(c.folded, 0, 1)
	}
}

// words returns the line for several joins and leaves.
func (v foldedLine) words() string {
	pair, odd := "joined and left", ", then joined again"
	if v.first == itemLeave {
		pair, odd = "left and joined again", ", then left"
	}
	text := "* " + safe(v.name) + " " + pair
	if n := v.events / 2; n > 1 {
		text += fmt.Sprintf(" %d times", n)
	}
	if v.events%2 == 1 {
		text += odd
	}
	if v.reason != "" {
		text += " (" + v.reason + ")"
	}
	return text
}

// message returns the line for a message, and whether the bell rings. old means that the message is from before the
// person joined.
func (c *conversation) message(it item, old, color bool) (l timedLine, rings bool) {
	again := c.remember(it)
	l = timedLine{at: it.time}
	text, called := safe(string(it.text)), false
	switch me := c.ownName(); {
	case it.name == me: // from another terminal, or from the history
		l.age = ageEvent
	case again || old:
		l.age = ageOld
		fallthrough
	default:
		text, called = highlightName(text, me, color)
	}
	l.text = string(appendSpeaker(nil, it, color)) + text
	now := time.Now()
	rings = (called || it.what == itemDirect) && !again && now.Sub(c.rang) >= bellPause
	if rings {
		c.rang = now
	}
	return l, rings
}

// appendSpeaker appends what stands before a message's text.
func appendSpeaker(b []byte, it item, color bool) []byte {
	name := safe(it.name)
	if it.what == itemAction {
		b = append(b, "* "...)
	}
	if color {
		b = append(b, nameColor(name)...)
	}
	b = append(b, name...)
	if color {
		b = append(b, colorOff...)
	}
	switch it.what {
	case itemAction:
		return append(b, ' ')
	case itemDirect:
		return append(b, " (to you): "...)
	}
	return append(b, ": "...)
}

// highlightName returns text, which is safe, with each mention of name highlighted, and whether there is one. A mention
// is the name, with or without its ~SUFFIX, as a whole word in any case of its letters: neither a part of another
// name, which may have dots and dashes, nor a name that only looks alike.
func highlightName(text, name string, color bool) (string, bool) {
	base, _, _ := strings.Cut(name, "~")
	var b strings.Builder
	found := false
	for at := 0; at < len(text); {
		n := 0
		for _, word := range []string{name, base} {
			if hasName(text[at:], word) && endsWord(text[:at]) && beginsWord(text[at+len(word):]) {
				n = len(word)
				break
			}
		}
		if n == 0 {
			b.WriteByte(text[at])
			at++
			continue
		}
		found = true
		if color {
			b.WriteString(highlight + text[at:at+n] + colorOff)
		} else {
			b.WriteString(text[at : at+n])
		}
		at += n
	}
	return b.String(), found
}

// hasName reports whether text begins with name, whose letters are ASCII. Letters of other scripts that fold to ASCII
// ones are not equal to them.
func hasName(text, name string) bool {
	if name == "" || len(text) < len(name) {
		return false
	}
	for i := range len(name) {
		if lowerASCII(text[i]) != lowerASCII(name[i]) {
			return false
		}
	}
	return true
}

func lowerASCII(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

const namePunctuation = "._-~@" // characters of a name or between its parts that may also stand beside a word

// endsWord reports whether a word that follows text begins there.
func endsWord(text string) bool {
	r, _ := utf8.DecodeLastRuneInString(strings.TrimRight(text, namePunctuation))
	return !isWordRune(r)
}

// beginsWord reports whether a word before text ends there.
func beginsWord(text string) bool {
	r, _ := utf8.DecodeRuneInString(text)
	next, _ := utf8.DecodeRuneInString(strings.TrimLeft(text, namePunctuation))
	return !unicode.IsMark(r) && !isWordRune(next)
}

func isWordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r) }
