package main

// JSON strings: any reader gets back what was sent, and a terminal gets nothing that could harm it.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
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

// checkSaid compares readSaid with encoding/json, which read these objects before. Of one thing it thinks otherwise: an array
// of numbers in base64 is bytes to it, and to us a member of the wrong kind.
func checkSaid(t *testing.T, line []byte) {
	t.Helper()
	var o struct {
		Type   string  `json:"type"`
		What   string  `json:"what"`
		To     string  `json:"to"`
		Text   *string `json:"text"`
		Base64 []byte  `json:"base64"`
		Name   string  `json:"name"`
		Server string  `json:"server"`
		Origin string  `json:"origin"`
	}
	want := json.Unmarshal(line, &o)
	got, err := readSaid(line)
	var typ *json.UnmarshalTypeError
	var corrupt base64.CorruptInputError
	var sentence string
	var otherwise struct {
		Base64 *string `json:"base64"`
	}
	switch {
	case errors.As(json.Unmarshal(line, &otherwise), &typ) && typ.Value == "array":
		sentence = "cannot be a JSON"
		if typ.Field == "" {
			sentence = "a JSON array and no object, so it was not sent"
		}
	case errors.As(want, &typ) && typ.Field != "":
		sentence = fmt.Sprintf("%q cannot be a JSON %s, so it was not sent", typ.Field, typ.Value)
	case errors.As(want, &typ):
		sentence = fmt.Sprintf("a JSON %s and no object, so it was not sent", typ.Value)
	case errors.As(want, &corrupt):
		sentence = `"base64" is wrong, so it was not sent: ` + want.Error()
	case want != nil:
		sentence = "no JSON object, so it was not sent: "
	case err != nil:
		t.Fatalf("%q is refused: %v", line, err)
	default:
		for name, w := range map[string]string{"type": o.Type, "what": o.What, "to": o.To, "name": o.Name, "server": o.Server, "origin": o.Origin,
			"base64": string(o.Base64)} {
			if string(got[name]) != w {
				t.Errorf("%q: %s is %q, not %q", line, name, got[name], w)
			}
		}
		if o.Text != nil && string(got["text"]) != *o.Text {
			t.Errorf("%q: text is %q, not %q", line, got["text"], *o.Text)
		}
		if (got["text"] == nil) != (o.Text == nil) || (got["base64"] == nil) != (o.Base64 == nil) {
			t.Errorf("%q: read as %q, not %+v", line, got, o)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), sentence) {
		t.Errorf("%q gives %v, not: %s (%v)", line, err, sentence, want)
	}
}

func TestSaidDeep(t *testing.T) {
	for _, n := range []int{maxDepth - 1, maxDepth} { // and the object itself
		for _, middle := range []string{"", "{}", "7", `"x"`} {
			for _, end := range []string{"]", "]]", "}", ""} {
				checkSaid(t, []byte(`{"text":"x","more":`+strings.Repeat("[", n)+middle+strings.Repeat("]", n-1)+end+`}`))
			}
		}
		line := []byte(strings.Repeat(`{"a":`, n) + `{"text":7}` + strings.Repeat("}", n))
		checkSaid(t, line)
		if _, err := readSaid(line); (err != nil) != (n == maxDepth) {
			t.Errorf("%d objects in each other: %v", n+1, err)
		}
	}
}

// FuzzSaid reads what a script writes: an object gives a line that a server takes, or an error, and never both. What it reads
// is what encoding/json reads.
func FuzzSaid(f *testing.F) {
	for _, seed := range []string{`{"text":"hello"}`, `{"text":"x","to":"bob"}`, `{"what":"action","text":"waves"}`, `{"base64":"/w=="}`,
		`{"type":"ack"}`, `{"text":"a\nb"}`, `{"text":null}`, `{"text":"\ud800"}`, `[]`, `{`, `{"text":"x","name":"zo\u00e9","server":"pi","origin":"SHA256:abc"}`, ``, `{"to":"` + strings.Repeat("n", maxShown+1) + `","text":""}`,
		// Kinds of values, and members of none of our names
		`null`, `true`, `"text"`, `-0.5e+7`, `{}`, ` {"text" : "x" , "a":[1,[{}],{"text":7,"b":[]}],"c":{"d":null}} ` + "\t\r\n",
		`{"text":7}`, `{"to":true,"text":[]}`, `{"type":{},"text":"x"}`, `{"base64":7}`, `{"base64":[1,2]}`, `{"base64":[]}`, `{"base64":[300],"to":7}`,
		`{"what":"direct","text":"x","origin":"SHA256:abc"}`, `{"text":"x","origin":"SHA256:self"}`,
		// Twice, null, and case
		`{"text":"x","text":"y"}`, `{"text":"x","text":null}`, `{"to":"bob","to":null,"text":"x"}`, `{"base64":"/w==","base64":null}`,
		`{"TEXT":"x","To":"bob","\u0074ype":"message"}`, "{\"ba\u017fe64\":\"AAA=\",\"\u017ferver\":7}", `{"text":7,"to":8}`, `{"to":7,"base64":"!"}`,
		`{"base64":"!","base64":"AA=="}`, `{"base64":""}`, `{"base64":"AA"}`, `{"base64":"A\nA\r=="}`, `{"base64":"AB=="}`, `{"base64":"__8="}`,
		// Strings
		`{"text":"\"\\\/\b\f\n\r\t\u00e9\u2028"}`, `{"text":"\ud83d\udc4d \ud83d\ud83d\udc4d \udc4d\ud83d \ud83dx \ud83d\u0041 \uD83D\n"}`,
		`{"text":"\ud83d\u12"}`, `{"text":"\u+123"}`, `{"text":"\u00_1"}`, `{"text":"\x41"}`, `{"text":"\'"}`, `{"text":"\`, `{"text":"x`, `{"text":"\u00`,
		"{\"text\":\"\xff\xc3(\xed\xa0\x80\u00e9\x7f\"}", "{\"text\":\"a\tb\"}", "{\"text\":\"a\x00b\"}", "{\"te\xffxt\":\"x\"}",
		// Numbers, words, commas
		`{"a":0}`, `{"a":-}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1.5e}`, `{"a":1E-9}`, `{"a":+1}`, `{"a":1e+}`, `{"a":0x1}`, `{"a":-01}`,
		`{"a":nul}`, `{"a":truex}`, `{"a":false,}`, `{"a":NaN}`, `{,"a":1}`, `{"a" 1}`, `{"a":1 "b":2}`, `{"a":}`, `{a:1}`, `{"a":[1,]}`, `{"a":[,1]}`,
		`{"a":[1 2]}`, `{"a":[1}}`, `{"a":{"b":1]}`, `{"text":"x"}}`, `{"text":"x"} {}`, `{"text":"x"},`, `]`, `{"a":[`, `{"a":"b","text"`, "\ufeff{}", "{\"a\":1}\x00", "{\"a\":\x0b1}"} {
		f.Add([]byte(seed), "")
		f.Add([]byte(seed), "anna")
	}
	f.Fuzz(func(t *testing.T, line []byte, to string) {
		checkSaid(t, line)
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
