package main

// JSON strings: every reader decodes what was sent, and the encoding contains nothing that could harm a terminal.

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// checkQuoted decodes appendQuoted's output with encoding/json and compares.
func checkQuoted(t *testing.T, text []byte) {
	t.Helper()
	quoted := appendQuoted([]byte("before"), text)[len("before"):]
	var got string
	if err := json.Unmarshal(quoted, &got); err != nil {
		t.Fatalf("%q: %v: %s", text, err, quoted)
	}
	if want := string([]rune(string(text))); got != want { // The conversion replaces each byte that is not UTF-8.
		t.Errorf("%q reads as %q", text, got)
	}
	if !utf8.Valid(quoted) {
		t.Errorf("%q: not UTF-8: %q", text, quoted)
	}
	for _, r := range string(quoted) {
		// IsPrint excludes control and format characters, separators of lines, and bidirectional controls.
		if !unicode.IsPrint(r) {
			t.Errorf("%q: %U is not escaped", text, r)
		}
	}
}

func TestQuotedEveryRune(t *testing.T) {
	t.Parallel()
	// Texts of many runes take less time than texts of one. Their length is odd, so that each rune is at many offsets.
	const together = 61
	var text []byte
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if text = utf8.AppendRune(text, r); r%together == 0 || r == unicode.MaxRune {
			checkQuoted(t, text)
			text = text[:0]
		}
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
	for _, s := range []string{"", "plain", "\"\\\n\t\x00\x7f\u0085", "\u202e\u200b\U000e0041", "\xff\xc3\xed\xa0\x80",
		strings.Repeat("é", 100)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkQuoted(t, text) })
}

// TestParseObject parses objects as docs/JSON.md describes them, and checks each way to reject one.
func TestParseObject(t *testing.T) {
	longest := strings.Repeat("x", maxLine)
	deep := func(levels int) string { // Objects and arrays nested levels deep.
		return `{"text":"x","more":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
	}
	for _, c := range []struct{ line, text, to, err string }{
		{`{"text":"hello"}`, "hello", "", ""},
		{`{"text":""}`, "", "", ""},
		{` {"more":[{"text":"no"}],"text":"x","to":"bob"} ` + "\t\r", "x", "bob", ""},
		{`{"TEXT":"x","To":"bob"}`, "x", "bob", ""},
		{`{"text":"one","text":"two"}`, "two", "", ""},
		{`{"text":"x","to":"bob","to":null}`, "x", "bob", ""},
		{`{"text":"x","base64":"/w=="}`, "\xff", "", ""},
		{`{"text":"x","base64":"/w==","base64":null}`, "x", "", ""},
		{`{"text":"x","base64":"!","base64":"AA=="}`, "\x00", "", ""},
		{`{"text":"\ud83d\udc4d \ud83d"}`, "\U0001f44d \ufffd", "", ""},
		{"{\"text\":\"\xff\"}", "\ufffd", "", ""},
		{`{"text":"` + longest + `"}`, longest, "", ""},
		{deep(10000), "x", "", ""},
		{`{}`, "", "", `an object without "text"`},
		{`null`, "", "", `an object without "text"`},
		{`{"text":null}`, "", "", `an object without "text"`},
		{`[]`, "", "", "a JSON array and no object"},
		{`"text"`, "", "", "a JSON string and no object"},
		{`{"text":7,"to":[]}`, "", "", `"text" cannot be a JSON number`},
		{`{"to":true,"text":"x"}`, "", "", `"to" cannot be a JSON bool`},
		{`{"base64":[255]}`, "", "", `"base64" cannot be a JSON array`},
		{`{"base64":"!"}`, "", "", `"base64" is wrong`},
		{`{"type":"ack","base64":"!"}`, "", "", `"base64" is wrong`},
		{`{"text":"a\nb"}`, "", "", "a newline in it"},
		{`{"text":"` + longest + `x"}`, "", "", "longer than 65536 bytes"},
		{`{"text":"x","to":"` + strings.Repeat("n", maxShown+1) + `"}`, "", "", "a name that is too long"},
		{`{"text":"x"`, "", "", "no JSON object, so it was not sent: its end is wrong or missing"},
		{``, "", "", "its end is wrong or missing"},
		{`{"text" "x"}`, "", "", "no JSON object, so it was not sent: byte 9 is wrong"},
		{"{\"text\":\"\x1b[2J\"}", "", "", "byte 10 is wrong"},
		{`{"text":"x"} {}`, "", "", "byte 14 is wrong"},
		{deep(10001), "", "", "byte 10019 is wrong"},
	} {
		out, _, err := parseObject([]byte(c.line), outLine{what: itemSay}, "")
		head := c.line[:min(len(c.line), 60)]
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %s", head, err, c.err)
			}
		case err != nil || out.text == nil || string(out.text) != c.text || out.to != c.to:
			t.Errorf("%q: %q to %q, %v", head, out.text, out.to, err)
		}
	}
}

// TestParseObjectIgnores accepts objects without an action and returns nothing for them.
func TestParseObjectIgnores(t *testing.T) {
	for line, want := range map[string]string{
		`{"type":"ack","text":"x"}`:                                                      "",
		`{"text":"x","origin":"SHA256:own"}`:                                             "",
		`{"what":"direct","text":"x","origin":"SHA256:other"}`:                           "",
		`{"what":"direct","to":"bob","text":"x","origin":"SHA256:other"}`:                "x",
		`{"type":"message","text":"x","name":"bob","server":"pi","origin":"SHA256:abc"}`: "x",
	} {
		out, _, err := parseObject([]byte(line), outLine{what: itemSay}, "SHA256:own")
		if err != nil || (out.text == nil) != (want == "") || string(out.text) != want {
			t.Errorf("%s: %q, %v", line, out.text, err)
		}
	}
}

// checkBounds fails unless a parsed line fits into a message and an error is safe to print.
func checkBounds(t *testing.T, line []byte, out outLine, from string, err error) {
	t.Helper()
	if err != nil {
		text := err.Error()
		if out.text != nil || len(text) > 200 || strings.IndexFunc(text,
			func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
			t.Errorf("%q is rejected with %q, and text %q", line, text, out.text)
		}
		return
	}
	if out.text == nil {
		return
	}
	if from != "" && !validShown(from) {
		t.Errorf("%q has the sender %q", line, from)
	}
	b := appendLine(appendLinesHeader(nil, 1, out.what, out.to), out.text)
	if l, err := parseLines(b, nil); err != nil || len(l.texts) != 1 || !bytes.Equal(l.texts[0], out.text) {
		t.Errorf("%q was accepted and cannot be sent: %v", line, err)
	}
}

// FuzzParseObject reads what a script writes: an object gives a line that a server takes, or an error, never both; a
// later member replaces an earlier one; and what -json prints of the line is read as the same line again.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{`{"text":"hello"}`, `{"text":"x","to":"bob"}`, `{"what":"action","text":"waves"}`,
		`{"base64":"/w=="}`,
		`{"type":"ack"}`, `{"text":"a\nb"}`, `{"text":null}`, `{"text":"\ud800"}`, `[]`, `{`,
		`{"text":"x","name":"zo\u00e9","server":"pi","origin":"SHA256:abc"}`, ``,
		`{"to":"` + strings.Repeat("n", maxShown+1) + `","text":""}`,
		// Kinds of values, and unknown members
		`null`, `true`, `"text"`, `-0.5e+7`, `{}`,
		` {"text" : "x" , "a":[1,[{}],{"text":7,"b":[]}],"c":{"d":null}} ` + "\t\r\n",
		`{"text":7}`, `{"to":true,"text":[]}`, `{"type":{},"text":"x"}`, `{"base64":7}`, `{"base64":[1,2]}`,
		`{"base64":[]}`, `{"base64":[300],"to":7}`,
		`{"what":"direct","text":"x","origin":"SHA256:abc"}`, `{"text":"x","origin":"SHA256:self"}`,
		// Duplicates, null and upper case.
		`{"text":"x","text":"y"}`, `{"text":"x","text":null}`, `{"to":"bob","to":null,"text":"x"}`,
		`{"base64":"/w==","base64":null}`,
		`{"TEXT":"x","To":"bob","\u0074ype":"message"}`, "{\"ba\u017fe64\":\"AAA=\",\"\u017ferver\":7}",
		`{"text":7,"to":8}`, `{"to":7,"base64":"!"}`,
		`{"base64":"!","base64":"AA=="}`, `{"base64":""}`, `{"base64":"AA"}`, `{"base64":"A\nA\r=="}`, `{"base64":"AB=="}`,
		`{"base64":"__8="}`,
		// Strings.
		`{"text":"\"\\\/\b\f\n\r\t\u00e9\u2028"}`,
		`{"text":"\ud83d\udc4d \ud83d\ud83d\udc4d \udc4d\ud83d \ud83dx \ud83d\u0041 \uD83D\n"}`,
		`{"text":"\ud83d\u12"}`, `{"text":"\u+123"}`, `{"text":"\u00_1"}`, `{"text":"\x41"}`, `{"text":"\'"}`, `{"text":"\`,
		`{"text":"x`, `{"text":"\u00`,
		"{\"text\":\"\xff\xc3(\xed\xa0\x80\u00e9\x7f\"}", "{\"text\":\"a\tb\"}", "{\"text\":\"a\x00b\"}",
		"{\"te\xffxt\":\"x\"}",
		// Numbers, words and commas.
		`{"a":0}`, `{"a":-}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1.5e}`, `{"a":1E-9}`, `{"a":+1}`, `{"a":1e+}`,
		`{"a":0x1}`, `{"a":-01}`,
		`{"a":nul}`, `{"a":truex}`, `{"a":false,}`, `{"a":NaN}`, `{,"a":1}`, `{"a" 1}`, `{"a":1 "b":2}`, `{"a":}`, `{a:1}`,
		`{"a":[1,]}`, `{"a":[,1]}`,
		`{"a":[1 2]}`, `{"a":[1}}`, `{"a":{"b":1]}`, `{"text":"x"}}`, `{"text":"x"} {}`, `{"text":"x"},`, `]`, `{"a":[`,
		`{"a":"b","text"`, "\ufeff{}", "{\"a\":1}\x00", "{\"a\":\x0b1}"} {
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
		out, from, err := parseObject(line, def, "SHA256:self")
		checkBounds(t, line, out, from, err)
		if err != nil || out.text == nil {
			return
		}
		object, _ := bytes.CutSuffix(bytes.TrimRight(line, " \t\r\n"), []byte("}"))
		later := append(bytes.Clone(object), `,"text":"later","base64":null}`...)
		if again, _, err := parseObject(later, def, "SHA256:self"); err != nil || string(again.text) != "later" ||
			again.to != out.to {
			t.Errorf("%q: %q to %q, %v", later, again.text, again.to, err)
		}
		if out.what == itemDirect {
			return // The line is printed for its receiver and has no recipient's name.
		}
		printed := appendObject(nil, item{seq: 1, what: out.what, name: "bob", text: out.text}, true, "pi", "SHA256:other")
		again, from, err := parseObject(printed, outLine{what: itemSay}, "SHA256:self")
		if err != nil || !bytes.Equal(again.text, out.text) || again.what != out.what || again.to != "" || from != "bob@pi" {
			t.Errorf("%q is printed as %q and read as %q from %q, %v", line, printed, again.text, from, err)
		}
	})
}

func BenchmarkParseObject(b *testing.B) {
	for name, line := range map[string]string{
		"text": `{"text":"` + strings.Repeat("a plain line ", 6) + `"}`,
		"message": `{"type":"message","seq":17,"time":"2026-11-23T21:36:00.137Z","name":"bob","what":"say",` +
			`"text":"temperature 21.5 in the hall","server":"anna","origin":"SHA256:abc"}`,
	} {
		b.Run(name, func(b *testing.B) {
			line := []byte(line)
			b.ReportAllocs()
			for b.Loop() {
				if out, _, err := parseObject(line, outLine{what: itemSay}, ""); err != nil || out.text == nil {
					b.Fatal(err)
				}
			}
		})
	}
}
