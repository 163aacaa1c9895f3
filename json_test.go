package main

// JSON strings: any reader gets back what was sent, and a terminal gets nothing that could harm it.

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// checkQuoted compares appendQuoted with encoding/json's reading of it.
func checkQuoted(t *testing.T, text []byte) {
	t.Helper()
	quoted := appendQuoted([]byte("before"), text)[len("before"):]
	var got string
	if err := json.Unmarshal(quoted, &got); err != nil {
		t.Fatalf("%q: %v: %s", text, err, quoted)
	}
	if want := string([]rune(string(text))); got != want { // a conversion replaces each byte that is not UTF-8
		t.Errorf("%q reads as %q", text, got)
	}
	if !utf8.Valid(quoted) {
		t.Errorf("%q: not UTF-8: %q", text, quoted)
	}
	for _, r := range string(quoted) {
		if !unicode.IsPrint(r) || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			t.Errorf("%q: %U stands there as it is", text, r)
		}
	}
}

func TestQuotedEveryRune(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		checkQuoted(t, utf8.AppendRune([]byte{'a'}, r))
	}
	for c := range 0x100 {
		checkQuoted(t, []byte{byte(c), 'a', byte(c)})
	}
	for text, want := range map[string]string{
		"":                         `""`,
		"a \"quoted\" back\\slash": `"a \"quoted\" back\\slash"`,
		"tab\tend\n\r\x00\x1b[2J":  `"tab\tend\n\u000d\u0000\u001b[2J"`,
		"γειά 👍 שלום":              `"γειά 👍 שלום"`,
		"bidi \u202e zero\u200b":   `"bidi \u202e zero\u200b"`,
		"tag \U000e0041 bom\ufeff": `"tag \udb40\udc41 bom\ufeff"`,
		"bad \xff\xc3(":            `"bad \ufffd\ufffd("`,
		"kept \ufffd":              "\"kept \ufffd\"",
	} {
		if got := string(appendQuoted(nil, []byte(text))); got != want {
			t.Errorf("%q is %s, not %s", text, got, want)
		}
	}
}

func FuzzQuoted(f *testing.F) {
	for _, s := range []string{"", "plain", "\"\\\n\t\x00\x7f\u0085", "\u202e\u200b\U000e0041", "\xff\xc3\xed\xa0\x80", strings.Repeat("é", 100)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkQuoted(t, text) })
}

// FuzzSaid reads what a script writes: an object gives a line that a server takes, or an error, and never both.
func FuzzSaid(f *testing.F) {
	for _, seed := range []string{`{"text":"hello"}`, `{"text":"x","to":"bob"}`, `{"what":"action","text":"waves"}`, `{"base64":"/w=="}`,
		`{"type":"ack"}`, `{"text":"a\nb"}`, `{"text":null}`, `{"text":"\ud800"}`, `[]`, `{`, `{"text":"x","name":"zo\u00e9","server":"pi","origin":"SHA256:abc"}`, ``, `{"to":"` + strings.Repeat("n", maxShown+1) + `","text":""}`} {
		f.Add([]byte(seed), "")
		f.Add([]byte(seed), "anna")
	}
	f.Fuzz(func(t *testing.T, line []byte, to string) {
		if len(to) > maxShown {
			return
		}
		def := outLine{what: itemSay}
		if to != "" {
			def.what, def.to = itemDirect, to
		}
		o, from, err := parseSaid(line, def, "SHA256:self")
		if err != nil || o.text == nil {
			return
		}
		if from != "" && !validShown(from) {
			t.Errorf("%q is said by %q", line, from)
		}
		b := appendLine(appendLinesHeader(nil, 1, o.what, o.to), o.text)
		if l, err := parseLines(b, nil); err != nil || len(l.texts) != 1 || !bytes.Equal(l.texts[0], o.text) {
			t.Errorf("%q was taken and is no line: %v", line, err)
		}
	})
}
