package main

// The lines above a prompt: their times, the days between them, the mark between what a person missed and what is new,
// and which of the lines are still on the screen, where they can be replaced. Nothing here is drawn.

import (
	"slices"
	"time"
)

const (
	clockLayout = "15:04 "
	dayLayout   = "--- Mon 2 Jan 2006"
	unreadMark  = "--- new"

	// A clock that is behind another one by less than clockSkew does not turn the day back at midnight.
	clockSkew = time.Hour
)

// age is how old a timedLine is, seen from the unread mark.
type age int

const (
	ageNew   age = iota // it comes after the mark
	ageOld              // it was said before the person came, or is shown once more: it comes before the mark
	ageEvent            // the mark does not depend on it
)

// timedLine is a line that is printed with its time.
type timedLine struct {
	at       time.Time
	age      age
	text     string // safe already; may have colours
	replaces uint64 // the number of a line that this one can replace; 0 for none
	folded   string // the text if that line is still on the screen and is therefore removed
}

// shownLine is a printed line that is still on the screen.
type shownLine struct {
	number uint64 // 0 for a line that is never replaced
	text   string // its rows
	rows   int
}

// timeline is what was printed above the prompt.
type timeline struct {
	day    time.Time // of the last line with a time; at first of the start
	marks  bool      // the last messages were old, so the mark is due before a new one
	number uint64    // of the last line that was printed with a time

	// The last lines, from an unknown place on the screen to the row above the prompt. It is empty after anything that
	// moves rows in a way that the program does not know.
	recent  []shownLine
	columns int // of the terminal when the lines were printed
}

// heading returns the lines that belong before a line with a time: the mark and the day, each with a newline.
func (l *timeline) heading(at time.Time, age age) (text string) {
	if age == ageNew && l.marks {
		text = unreadMark + "\n"
	}
	if age != ageEvent {
		l.marks = age == ageOld
	}
	at = at.Local()
	day := at.Format(dayLayout)
	switch behind := l.day.Sub(at); {
	case day == l.day.Format(dayLayout):
	case age != ageOld && 0 < behind && behind < clockSkew:
		return text
	default:
		text += day + "\n"
	}
	l.day = at
	return text
}

// add notes that text, which ends with a newline, was printed on rows of a terminal with these columns and height.
func (l *timeline) add(number uint64, text string, rows, columns, height int) {
	if columns != l.columns {
		l.recent, l.columns = nil, columns
	}
	l.recent = append(l.recent, shownLine{number, text, rows})
	total := 0
	for i, line := range slices.Backward(l.recent) {
		if total += line.rows; total >= height {
			l.recent = slices.Clone(l.recent[i+1:])
			return
		}
	}
}

// remove removes a line that is still on a screen with these columns and height. It returns the number of rows from
// that line to the prompt, and the rows that are to be printed again.
func (l *timeline) remove(number uint64, columns, height int) (rows int, again string, ok bool) {
	at := slices.IndexFunc(l.recent, func(s shownLine) bool { return number != 0 && s.number == number })
	if at < 0 || columns != l.columns {
		return 0, "", false
	}
	for i, line := range l.recent[at:] {
		rows += line.rows
		if i > 0 {
			again += line.text
		}
	}
	if rows >= height {
		return 0, "", false
	}
	l.recent = slices.Delete(l.recent, at, at+1)
	return rows, again, true
}

// forget notes that it is unknown which lines are on the screen.
func (l *timeline) forget() { l.recent = nil }
