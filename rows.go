package main

// How many columns text takes on a terminal, where its clusters of runes end, and how long lines are broken into rows.
// Estimated widths are rather too large than too small.

import (
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	rowIndent      = 6  // columns before the later rows of a line, as many as the time of a message takes
	defaultColumns = 80 // of a terminal that does not know its size

	// wholeLine begins a printed line that is left to the terminal's own wrapping, so that it can be copied: a command,
	// a key or an invite code. Safe text never has this character.
	wholeLine = "\x00"
)

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

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

// clusterSize returns the size in bytes of the cluster that text begins with, or of a part of one that is longer than
// any character: a peer can join emoji without end.
func clusterSize(text string) int {
	const longest = 128
	if len(text) < 2 || text[1] < utf8.RuneSelf && text[0] < utf8.RuneSelf {
		return 1
	}
	size := 0
	for range nextCluster([]rune(text[:min(len(text), longest)]), 0) {
		_, n := utf8.DecodeRuneInString(text[size:])
		size += n
	}
	return size
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

// sizeOf returns the size of the terminal f. The height is 0 if it is unknown.
func sizeOf(f *os.File) (columns, height int) {
	columns, height, err := term.GetSize(int(f.Fd()))
	if err != nil || columns <= 0 {
		return defaultColumns, 0
	}
	return columns, height
}

// columnsOf returns the width of the terminal f.
func columnsOf(f *os.File) int {
	columns, _ := sizeOf(f)
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
		n := clusterSize(line)
		w := width(line[:n])
		if w > columns-len(indent)+1 { // more than a row holds
			_, n = utf8.DecodeRuneInString(line)
			w = width(line[:n])
		}
		isSpace := line[:n] == " "
		if used+w > columns && w > 0 {
			switch {
			case isSpace:
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
		if isSpace {
			word, wordUsed = len(b), 0
		}
	}
	return b
}
