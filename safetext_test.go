package main

// Text that is safe to print, and names: text of a peer is escaped before it reaches a terminal or a file.

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestSafeEscapes checks the exact escapes of text that could attack a terminal or a reader.
func TestSafeEscapes(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"a forged speaker", "hi\nbob: hi", `hi\nbob: hi`},
		{"a forged speaker on an old row", "hi\rbob: hi", `hi\rbob: hi`},
		{"clear screen", "\x1b[2J", `\x1b[2J`},
		{"clipboard", "\x1b]52;c;cm0=\a", `\x1b]52;c;cm0=\x07`},
		{"link", "\x1b]8;;http://x\x1b\\here", `\x1b]8;;http://x\x1b\here`},
		{"tab, NUL, DEL", "a\tb\x00c\x7f", `a\tb\x00c\x7f`},
		{"CSI as a rune", "\u009b2J", `\u009b2J`},
		{"CSI as a byte", "\x9b2J", `\x9b2J`},
		{"next line", "a\u0085b", `a\u0085b`},
		{"separators", "a\u2028b\u2029c", `a\u2028b\u2029c`},
		{"bidi override", "\u202egpj.exe", `\u202egpj.exe`},
		{"bidi isolates and marks", "\u2066\u2067\u2068\u2069\u200e\u200f\u061c",
			`\u2066\u2067\u2068\u2069\u200e\u200f\u061c`},
		{"zero width", "b\u200bo\u2060b\ufeff\u00ad\u180e", `b\u200bo\u2060b\ufeff\u00ad\u180e`},
		{"invisible operators", "\u2061\u2062\u2063\u2064\u2065\u206a", `\u2061\u2062\u2063\u2064\u2065\u206a`},
		{"fillers", "\u3164\u115f\u1160\uffa0\u034f\u17b4", `\u3164\u115f\u1160\uffa0\u034f\u17b4`},
		{"blanks that are no spaces", "\u2800\U0001d159\U00016fe4\U00013441", `\u2800\U0001d159\U00016fe4\U00013441`},
		{"interlinear", "\ufff9a\ufffab\ufffb", `\ufff9a\ufffab\ufffb`},
		{"private use", "\ue000\U000f0000\U00100000", `\ue000\U000f0000\U00100000`},
		{"noncharacters", "\ufffe\uffff\ufdd0\U0001ffff\U0010ffff", `\ufffe\uffff\ufdd0\U0001ffff\U0010ffff`},
		{"a surrogate", "\xed\xa0\x80", `\xed\xa0\x80`},
		{"too long a form", "\xc0\x8a", `\xc0\x8a`},
		{"cut short", "a\xe2\x82", `a\xe2\x82`},
		{"tags without a flag", "a\U000e0061\U000e0062\U000e007f", `a\U000e0061\U000e0062\U000e007f`},
		{"a flag without an end", "🏴\U000e0067\U000e0062x", `🏴\U000e0067\U000e0062x`},
		{"a flag with too many tags", "🏴" + strings.Repeat("\U000e0061", 7) + "\U000e007f",
			"🏴" + strings.Repeat(`\U000e0061`, 7) + `\U000e007f`},
		{"joiner in Latin", "b\u200do\u200cb", `b\u200do\u200cb`},
		{"joiner between emoji and letter", "👩\u200da", `👩\u200da`},
		{"stacked joiners", "👩\u200d\u200d💻", `👩\u200d\u200d💻`},
		{"stacked non-joiners", "می\u200c\u200cخ", `می\u200c\u200cخ`},
		{"non-joiner at a word's end", "می\u200c ", `می\u200c `},
		{"selector on a letter", "a\ufe0fb\ufe00\U000e0100", `a\ufe0fb\ufe00\U000e0100`},
		{"selectors without a meaning", "=\ufe00∩\ufe01漢\ufe08", `=\ufe00∩\ufe01漢\ufe08`},
		{"two selectors", "葛\U000e0100\U000e0101", "葛\U000e0100" + `\U000e0101`},
		{"a mark without a base", "\u0301a", `\u0301a`},
		{"a mark on an escape", "\x00\u0301", `\x00\u0301`},
		{"zalgo", "a" + strings.Repeat("\u0301", 10) + "b", "a" + strings.Repeat("\u0301", 8) + `\u0301\u0301b`},
	} {
		if got := safe(c.in); got != c.want {
			t.Errorf("%s: safe(%q) = %q, want %q", c.name, c.in, got, c.want)
		}
	}
}

// TestSafeKeeps checks that text in many scripts is unchanged.
func TestSafeKeeps(t *testing.T) {
	for _, text := range []string{
		"", "plain ASCII, with ~ and `", `C:\new\x1b`, "Zoë naïve e\u0301", "Ελληνικά", "Привет", "漢字かなカナ한국어", "각",
		"שָׁלוֹם", "السَّلامُ عليكم",
		"می\u200cخواهم", "क\u094d\u200dष", "क\u094d\u200cष", "\u0d28\u0d4d\u200d", "ක්\u200dර", "ภาษาไทย น้ำ", "བོད་ཡིག",
		"Tiếng Việt", "ᠮᠣᠩᠭᠣᠯ",
		"👍🏽", "👨\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "👩🏽\u200d💻", "❤️\u200d🔥", "🇬🇷🇺🇸", "1️⃣#️⃣*️⃣", "❤️ ☺︎", "葛\U000e0100",
		"🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "a\u00a0b\u3000c", "∩\ufe00", "\ufffd", "٣\u06dd",
		"⠓⠊",
	} {
		if got := safe(text); got != text {
			t.Errorf("safe(%q) = %q", text, got)
		}
		if got := string(appendSafe([]byte("dst"), []byte(text))); got != "dst"+text {
			t.Errorf("appendSafe(%q) = %q", text, got)
		}
	}
}

// checkSafe fails unless out, the safe text for in, obeys the rules at the top of safetext.go.
func checkSafe(t *testing.T, in, out string) {
	t.Helper()
	if !utf8.ValidString(out) {
		t.Fatalf("safe(%q) = %q: not UTF-8", in, out)
	}
	if len(out) > 10*len(in) {
		t.Fatalf("safe(%q) is %d bytes", in, len(out))
	}
	marks, last := 0, rune(0)
	for _, r := range out {
		joiner := r == zwj || r == zwnj
		tag := 0xe0020 <= r && r <= 0xe007f // only after a black flag, see below
		switch {
		case r < ' ', 0x7f <= r && r < 0xa0, r == 0x2028, r == 0x2029, r&0xfffe == 0xfffe, unicode.Is(unicode.Co, r),
			unicode.Is(unicode.Bidi_Control, r), unicode.Is(unicode.Noncharacter_Code_Point, r),
			unicode.Is(unicode.Cf, r) && !joiner && !tag && !unicode.Is(visibleFormat, r),
			unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
			t.Fatalf("safe(%q) = %q: it has %U", in, out, r)
		case tag && last != blackFlag && (last < 0xe0020 || last > 0xe007e):
			t.Fatalf("safe(%q) = %q: a tag without a flag", in, out)
		case (joiner || selector(r)) && (last == zwj || last == zwnj || selector(last) && r != zwj || last < 0x80 &&
			r != 0xfe0f):
			t.Fatalf("safe(%q) = %q: %U after %U", in, out, r, last)
		case joiner || selector(r):
		case unicode.IsMark(r):
			if marks++; marks > maxMarks || last == 0 {
				t.Fatalf("safe(%q) = %q: too many marks", in, out)
			}
		default:
			marks = 0
		}
		last = r
	}
	if again := safe(out); again != out {
		t.Fatalf("safe(%q) = %q, and safe text of that is %q", in, out, again)
	}
}

// TestSafeEveryRune checks every rune alone, between letters and between emoji.
func TestSafeEveryRune(t *testing.T) {
	t.Parallel()
	for r := range rune(unicode.MaxRune + 1) {
		if 0xd800 <= r && r < 0xe000 || r >= 0x34000 && r&0xfff < 0xff0 && r>>12 != 0xe0 {
			continue // surrogates; of planes without assigned runes only the edges are tested
		}
		for _, around := range []string{"", "a", "ب", "👩"} {
			in := around + string(r) + around
			checkSafe(t, in, safe(in))
		}
		if unicode.IsLetter(r) && !unicode.Is(invisible, r) && safe(string(r)) != string(r) {
			t.Errorf("the letter %U is escaped", r)
		}
	}
}

// TestAroundPlain: what follows plain text is judged by the last byte of it.
func TestAroundPlain(t *testing.T) {
	for text, want := range map[string]string{
		"abcdefgh1\ufe0f\u20e3": "abcdefgh1\ufe0f\u20e3", "1bcdefga\ufe0f": `1bcdefga\ufe0f`,
		"bcdefgh1\ufe0f\u20e3": "bcdefgh1\ufe0f\u20e3", "1abcdefgh\ufe0f": `1abcdefgh\ufe0f`,
	} {
		if got := safe(text); got != want {
			t.Errorf("safe(%q) = %q", text, got)
		}
		if got := string(appendQuoted(nil, []byte(text))); got != `"`+want+`"` {
			t.Errorf("appendQuoted(%q) = %s", text, got)
		}
	}
}

// TestPlain compares plain with its description, for each pair of neighbours at each place of a word.
func TestPlain(t *testing.T) {
	t.Parallel()
	isPlain := func(c byte) bool { return ' ' <= c && c < 0x7f && c != '"' && c != '\\' }
	text := bytes.Repeat([]byte("x"), 20)
	for at := range 17 {
		for pair := range 1 << 16 {
			text[at], text[at+1] = byte(pair), byte(pair>>8)
			want := 0
			for want+8 <= len(text) && !slices.ContainsFunc(text[want:want+8], func(c byte) bool { return !isPlain(c) }) {
				want += 8
			}
			if got := plain(text); got != want {
				t.Fatalf("%q: %d, not %d", text, got, want)
			}
		}
		text[at], text[at+1] = 'x', 'x'
	}
}

func FuzzSafe(f *testing.F) {
	for _, seed := range []string{"hi\nbob: hi", "\x1b[2J", "\u009b", "می\u200cخ", "👨\u200d👩", "क\u094d\u200dष\u0301",
		"1️⃣",
		"🏴\U000e0067\U000e0062\U000e007f", "葛\U000e0100\U000e0101", "\xed\xa0\x80", "ᠮ\u180b\u180e"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out := safe(string(in))
		checkSafe(t, string(in), out)
		if got := string(appendSafe([]byte("x"), in)); got != "x"+out {
			t.Fatalf("appendSafe(%q) = %q, safe %q", in, got, out)
		}
	})
}

// TestSafeAllocations checks that plain ASCII causes no allocation.
func TestSafeAllocations(t *testing.T) {
	text, dst := strings.Repeat("a plain line ", 8), make([]byte, 0, 200)
	raw := []byte(text)
	if n := testing.AllocsPerRun(100, func() { dst = appendSafe(dst[:0], raw); _ = safe(text) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSafe(b *testing.B) {
	for _, c := range []struct{ name, text string }{
		{"ascii", strings.Repeat("a plain line ", 8)},
		{"greek", strings.Repeat("μια γραμμή ", 5)},
		{"hostile", strings.Repeat("\x1b[2J\u202e", 12)},
	} {
		b.Run(c.name, func(b *testing.B) {
			text, dst := []byte(c.text), make([]byte, 0, 1000)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				dst = appendSafe(dst[:0], text)
			}
		})
	}
}

func TestNames(t *testing.T) {
	_, key := newEd25519(t)
	for in, want := range map[string]string{
		"pi@router": "pi-router", "Ann.B_c-1": "Ann.B_c-1", "": "", "@@@": "", "日本": "", "jörg": "j-rg", "a b": "a-b",
		"\x1b[31mred": "--31mred", strings.Repeat("x", 40): strings.Repeat("x", 32), "a\xffb": "a-b",
	} {
		got := cleanName(in)
		if got != want {
			t.Errorf("cleanName(%q) = %q, want %q", in, got, want)
		}
		if validName(in) != (in != "" && in == want) {
			t.Errorf("validName(%q) = %v", in, validName(in))
		}
	}
	if name := keyName("", key); !validName(name) || len(name) != len("key-")+8 ||
		!strings.HasPrefix(name, "key-"+nameSuffix(key)) {
		t.Errorf("a nameless key is %q, its suffix %q", name, nameSuffix(key))
	}
	for _, pair := range [][2]string{{"Bob", "bob"}, {"b0b", "bOb"}, {"l1I", "iLl"}, {"a.b", "a_b"}, {"a-b", "a.b"}} {
		if foldName(pair[0]) != foldName(pair[1]) {
			t.Errorf("%q and %q are not taken for the same name", pair[0], pair[1])
		}
	}
	if foldName("ann") == foldName("bob") {
		t.Error("ann and bob are taken for the same name")
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{"/a/b-c_1": "/a/b-c_1", "": "''", "a b": "'a b'", "a'b": `'a'\''b'`,
		"[h]:1": "'[h]:1'"} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}
