package main

// Text from peers, made safe for a terminal, for stdout and for a line of the log. The rules:
//
//   - The result is valid UTF-8 on one line. It has no rune that moves the cursor, controls the terminal, changes the
//     direction of text or is invisible.
//   - Every other rune is replaced by an escape in Go's syntax: \n \r \t, \xNN for a control character of ASCII or a
//     byte that is not UTF-8, \uNNNN or \UNNNNNNNN for a code point. Tab is replaced too, because its width depends
//     on its column.
//   - A backslash stays one backslash. Paths and patterns remain readable, and making text safe twice changes nothing
//     more. As a consequence a peer can type the four characters \x1b, which is harmless because nothing decodes
//     these escapes. Programs that need the exact text use -json.
//   - Letters of every script, combining marks and emoji sequences are kept. A mark needs a base, and a base has at
//     most maxMarks marks. A joiner, a variation selector or a tag is kept only where Unicode gives it a meaning.
//   - The log and the objects of -json escape at least what a terminal gets escaped (appendQuoted).

import (
	"encoding/binary"
	"unicode"
	"unicode/utf8"
)

// maxMarks bounds the combining marks on one base. The longest stacks in current orthographies (Tibetan) have eight.
const maxMarks = 8

const (
	zwnj       = 0x200c
	zwj        = 0x200d
	keycap     = 0x20e3
	emojiStyle = 0xfe0f
	blackFlag  = 0x1f3f4
	cancelTag  = 0xe007f
)

const hexDigits = "0123456789abcdef"

// invisible holds the invisible runes that no general category covers: letters, marks and unassigned runes without a
// glyph (Unicode's Default_Ignorable_Code_Point), runes that look blank and are no spaces, and the noncharacters of
// plane 0.
var invisible = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x034f, Hi: 0x034f, Stride: 1}, // combining grapheme joiner
		{Lo: 0x115f, Hi: 0x1160, Stride: 1}, // Hangul fillers
		{Lo: 0x17b4, Hi: 0x17b5, Stride: 1}, // Khmer inherent vowels
		{Lo: 0x180b, Hi: 0x180f, Stride: 1}, // Mongolian selectors
		{Lo: 0x2060, Hi: 0x206f, Stride: 1},
		{Lo: 0x2800, Hi: 0x2800, Stride: 1}, // blank of Braille
		{Lo: 0x3164, Hi: 0x3164, Stride: 1}, // Hangul filler
		{Lo: 0xfdd0, Hi: 0xfdef, Stride: 1}, // noncharacters
		{Lo: 0xfe00, Hi: 0xfe0f, Stride: 1}, // variation selectors
		{Lo: 0xffa0, Hi: 0xffa0, Stride: 1}, // halfwidth Hangul filler
		{Lo: 0xfff0, Hi: 0xfffb, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x13441, Hi: 0x13442, Stride: 1}, // blanks of Egyptian hieroglyphs
		{Lo: 0x16fe4, Hi: 0x16fe4, Stride: 1}, // Khitan filler
		{Lo: 0x1d159, Hi: 0x1d159, Stride: 1}, // note without a head
		{Lo: 0xe0000, Hi: 0xe0fff, Stride: 1}, // tags, variation selectors
	},
}

// visibleFormat holds the format characters that have a glyph, such as number signs that enclose digits.
var visibleFormat = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x0600, Hi: 0x0605, Stride: 1}, {Lo: 0x06dd, Hi: 0x06dd, Stride: 1},
		{Lo: 0x070f, Hi: 0x070f, Stride: 1}, {Lo: 0x0890, Hi: 0x0891, Stride: 1}, {Lo: 0x08e2, Hi: 0x08e2, Stride: 1},
	},
	R32: []unicode.Range32{{Lo: 0x110bd, Hi: 0x110bd, Stride: 1}, {Lo: 0x110cd, Hi: 0x110cd, Stride: 1}},
}

// pictographic holds the bases of emoji sequences: the runes that are allowed beside a joiner or before a style
// selector. It includes some runes that never start such a sequence.
var pictographic = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x00a9, Hi: 0x00a9, Stride: 1}, {Lo: 0x00ae, Hi: 0x00ae, Stride: 1}, {Lo: 0x203c, Hi: 0x203c, Stride: 1},
		{Lo: 0x2049, Hi: 0x2049, Stride: 1}, {Lo: 0x2122, Hi: 0x2122, Stride: 1}, {Lo: 0x2139, Hi: 0x2139, Stride: 1},
		{Lo: 0x2194, Hi: 0x21aa, Stride: 1}, {Lo: 0x231a, Hi: 0x23ff, Stride: 1}, {Lo: 0x24c2, Hi: 0x24c2, Stride: 1},
		{Lo: 0x25aa, Hi: 0x25fe, Stride: 1}, {Lo: 0x2600, Hi: 0x27bf, Stride: 1}, {Lo: 0x2934, Hi: 0x2935, Stride: 1},
		{Lo: 0x2b05, Hi: 0x2b55, Stride: 1}, {Lo: 0x3030, Hi: 0x3030, Stride: 1}, {Lo: 0x303d, Hi: 0x303d, Stride: 1},
		{Lo: 0x3297, Hi: 0x3299, Stride: 2},
	},
	R32: []unicode.Range32{
		{Lo: 0x1f000, Hi: 0x1f1e5, Stride: 1}, {Lo: 0x1f200, Hi: 0x1f3fa, Stride: 1},
		{Lo: 0x1f400, Hi: 0x1faff, Stride: 1},
	},
	LatinOffset: 2,
}

// joining holds the scripts whose spelling uses ZWJ and ZWNJ.
var joining = []*unicode.RangeTable{
	unicode.Arabic, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi, unicode.Gujarati, unicode.Oriya,
	unicode.Tamil, unicode.Telugu, unicode.Kannada, unicode.Malayalam, unicode.Sinhala, unicode.Khmer, unicode.Myanmar,
	unicode.Syriac, unicode.Nko, unicode.Mandaic, unicode.Mongolian, unicode.Balinese, unicode.Javanese,
	unicode.Tibetan,
}

// viramas are the runes after which a joiner may end a word, for a half form or a Malayalam chillu.
var viramas = &unicode.RangeTable{R16: []unicode.Range16{
	{Lo: 0x094d, Hi: 0x0d4d, Stride: 0x80}, {Lo: 0x0dca, Hi: 0x0dca, Stride: 1},
}}

// maxReason bounds the text of a reason that may hold bytes of a peer, in messages and in the log.
const maxReason = 512

// clip cuts text to at most max bytes, at the start of a character, and marks the cut.
func clip(text string, max int) string {
	if len(text) <= max {
		return text
	}
	for max > 0 && !utf8.RuneStart(text[max]) {
		max--
	}
	return text[:max] + "…"
}

// plain returns how many bytes at the front of text, a multiple of eight, are printable ASCII other than " and \. It
// looks at eight bytes at a time: most text is plain, and byte by byte its escaping took a quarter of what a long line
// costs the log.
func plain(text []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; n+8 <= len(text); n += 8 {
		w := binary.LittleEndian.Uint64(text[n:])
		// A byte of a term has its high bit if the byte of w is not ASCII, DEL, below a space, a quote or a backslash. A
		// carry or borrow can set one only behind a byte that has it.
		if (w|(w+ones)|(w-' '*ones)|((w^'"'*ones)-ones)|((w^'\\'*ones)-ones))&high != 0 {
			break
		}
	}
	return n
}

// safe is appendSafe for a string. It returns printable ASCII without copying it.
func safe(text string) string {
	for i := range len(text) {
		if text[i]-' ' >= 0x7f-' ' {
			return string(appendSafe(make([]byte, 0, len(text)+16), []byte(text)))
		}
	}
	return text
}

// appendSafe appends text to dst under the rules at the top of this file. The result is at most ten times as long as
// text. The text must be complete, because whether a mark or a joiner is kept depends on its neighbours.
func appendSafe(dst, text []byte) []byte {
	var around textContext
	for len(text) > 0 {
		n := 0
		if text[0] < utf8.RuneSelf { // another script would pay for the look ahead at each rune
			n = plain(text)
		}
		for n < len(text) && text[n]-' ' < 0x7f-' ' {
			n++
		}
		if n > 0 {
			dst = append(dst, text[:n]...)
			around = textContext{base: rune(text[n-1]), last: rune(text[n-1])}
			text = text[n:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			dst = appendHex(dst, 'x', uint32(text[0]), 2)
			around = textContext{}
		case around.admits(r, text[n:]):
			if r == blackFlag {
				n += flagTags(text[n:])
			}
			dst = append(dst, text[:n]...)
		default:
			dst = appendEscape(dst, r)
		}
		text = text[n:]
	}
	return dst
}

// textContext describes the runes before the current one. It is zero at the start and after an escape.
type textContext struct {
	base  rune // the last rune other than a mark, a joiner, a selector, or a skin tone on a base
	last  rune // the last rune
	marks int  // combining marks since base
}

// admits reports whether r is kept between the preceding runes and rest, and updates the context.
func (c *textContext) admits(r rune, rest []byte) bool {
	next, _ := utf8.DecodeRune(rest)
	ok := true
	switch {
	case 0xa0 <= r && r < 0x300 && r != 0xad, 0x370 <= r && r < 0x483,
		0x4e00 <= r && r < 0xa000, 0xac00 <= r && r < 0xd7a4:
		c.base, c.marks = r, 0 // most letters, without a search in the tables
	case r == zwj || r == zwnj:
		ok = c.joins(r, next)
	case selector(r):
		ok = c.selects(r, next)
	case r < ' ' || 0x7f <= r && r < 0xa0 || r&0xfffe == 0xfffe || unicode.Is(invisible, r),
		unicode.In(r, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) && !unicode.Is(visibleFormat, r):
		ok = false
	case unicode.IsMark(r):
		ok = c.base != 0 && c.marks < maxMarks
		c.marks++
	case skinTone(r) && unicode.Is(pictographic, c.base):
	default:
		c.base, c.marks = r, 0
	}
	if !ok {
		*c = textContext{}
		return false
	}
	c.last = r
	return true
}

// joins reports whether the joiner r is kept before next: inside an emoji sequence, or in a word of a joining script.
// Joiners cannot be stacked, because neither neighbour may be a joiner.
func (c *textContext) joins(r, next rune) bool {
	switch {
	case c.last == zwj || c.last == zwnj:
		return false
	case unicode.Is(pictographic, c.base):
		return r == zwj && unicode.Is(pictographic, next)
	case !unicode.In(c.base, joining...):
		return false
	}
	visibleMark := unicode.IsMark(next) && !unicode.Is(invisible, next) && c.marks < maxMarks
	return r == zwj && unicode.Is(viramas, c.last) ||
		unicode.In(next, joining...) && (unicode.IsLetter(next) || visibleMark)
}

// selector reports whether r is a variation selector.
func selector(r rune) bool {
	return 0xfe00 <= r && r <= 0xfe0f || 0xe0100 <= r && r <= 0xe01ef || 0x180b <= r && r <= 0x180d || r == 0x180f
}

// selects reports whether the variation selector r is kept after c.last. Only one is, and only on a base that has
// variants: otherwise text could hide arbitrary bytes in selectors.
func (c *textContext) selects(r, next rune) bool {
	switch {
	case c.last != c.base:
		return false
	case r == emojiStyle && (c.base == '#' || c.base == '*' || '0' <= c.base && c.base <= '9'):
		return next == keycap
	case r == 0xfe0e || r == emojiStyle:
		return unicode.Is(pictographic, c.base)
	case 0x180b <= r && r <= 0x180f:
		return unicode.Is(unicode.Mongolian, c.base)
	case r >= 0xe0100:
		return unicode.Is(unicode.Han, c.base)
	}
	symbol := c.base >= 0x2200 && unicode.Is(unicode.Sm, c.base)
	return r <= 0xfe02 && unicode.Is(unicode.Han, c.base) ||
		r == 0xfe00 && (symbol || unicode.In(c.base, unicode.Myanmar, unicode.Phags_Pa))
}

// skinTone reports whether r is a modifier that colours the emoji before it.
func skinTone(r rune) bool { return 0x1f3fb <= r && r <= 0x1f3ff }

// flagTags returns the length in bytes of the tags at the start of text that name the flag of a region (two to six
// letters or digits, then the cancel tag), or 0 if there are none.
func flagTags(text []byte) int {
	for at, count := 0, 0; at < len(text); count++ {
		r, n := utf8.DecodeRune(text[at:])
		at += n
		switch {
		case r == cancelTag && count >= 2:
			return at
		case count == 6 || !(0xe0030 <= r && r <= 0xe0039 || 0xe0061 <= r && r <= 0xe007a):
			return 0
		}
	}
	return 0
}

// appendEscape appends the escape of r, a valid rune.
func appendEscape(dst []byte, r rune) []byte {
	switch {
	case r == '\n':
		return append(dst, '\\', 'n')
	case r == '\r':
		return append(dst, '\\', 'r')
	case r == '\t':
		return append(dst, '\\', 't')
	case r < utf8.RuneSelf:
		return appendHex(dst, 'x', uint32(r), 2)
	case r < 0x10000:
		return appendHex(dst, 'u', uint32(r), 4)
	}
	return appendHex(dst, 'U', uint32(r), 8)
}

// appendHex appends a backslash, kind, and v in hexadecimal digits.
func appendHex(dst []byte, kind byte, v uint32, digits int) []byte {
	dst = append(dst, '\\', kind)
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[v>>shift&15])
	}
	return dst
}
