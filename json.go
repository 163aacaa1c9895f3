package main

// JSON as the log and -json write it: one object a line, all in printable ASCII where a terminal could be harmed.

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// appendQuoted appends text as a JSON string. Whatever would not be safe on a terminal is a \u escape, which any JSON
// reader turns back into what was sent; bytes that are not UTF-8, which JSON cannot hold, become U+FFFD.
func appendQuoted(b, text []byte) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		if c >= utf8.RuneSelf && !(r == utf8.RuneError && n == 1) && unicode.IsPrint(r) {
			i += n
			continue
		}
		b = append(b, text[start:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			b = appendU(appendU(b, hi), lo)
		default:
			b = appendU(b, r)
		}
		i += n
		start = i
	}
	b = append(b, text[start:]...)
	return append(b, '"')
}

func appendU(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// maxObject bounds an object to be said: a text of maxLine bytes, each an escape, its base64, and what stands around them.
const maxObject = 8*maxLine + 1024

// saidMembers are what an object to be said may have. Each is a string; upper and lower case are one.
var saidMembers = []string{"type", "what", "to", "text", "base64", "name", "server", "origin"}

// readSaid reads an object that is to be said: those of saidMembers that stand in it, base64 decoded. The last of several of one name
// counts, and null is as if it were not there.
func readSaid(line []byte) (map[string][]byte, error) {
	o := map[string][]byte{}
	var fault error // the first
	kind, err := readJSON(line, func(name, text []byte, kind string) {
		i := slices.IndexFunc(saidMembers, func(m string) bool { return strings.EqualFold(m, string(name)) })
		if i < 0 {
			return
		}
		var err error
		switch m := saidMembers[i]; {
		case kind == "null" && (m == "text" || m == "base64"):
			delete(o, m)
		case kind == "null": // whom it is to, if it said so before, it still is to
		case kind != "string":
			err = fmt.Errorf("%q cannot be a JSON %s, so it was not sent", m, kind)
		case m == "base64":
			if o[m], err = base64.StdEncoding.AppendDecode([]byte{}, text); err != nil {
				err = fmt.Errorf("%q is wrong, so it was not sent: %w", m, err)
			}
		default:
			o[m] = text
		}
		if fault == nil {
			fault = err
		}
	})
	if err != nil {
		return nil, fmt.Errorf("no JSON object, so it was not sent: %w", err)
	} else if kind != "object" && kind != "null" {
		return nil, fmt.Errorf("a JSON %s and no object, so it was not sent", kind)
	}
	return o, fault
}

// parseSaid reads an object that is to be said: {"text": "…"}, with "to": NAME or "what": "action" if wanted; other members
// are passed over, so that what one securechat printed can be fed to another (docs/JSON.md). An object of another type than
// message says nothing: its text is nil. def holds -to's choice.
//
// A server names itself, its fingerprint, for a bridge between servers (DESIGN.md section 10): its own objects say nothing, so
// that none goes in circles, and from is who said another's. What was for another server's operator alone says nothing either.
func parseSaid(line []byte, def outLine, self string) (out outLine, from string, err error) {
	o, err := readSaid(line)
	if err != nil {
		return def, "", err
	}
	typ, what, to, origin := string(o["type"]), string(o["what"]), string(o["to"]), string(o["origin"])
	remote := self != "" && origin != ""
	if typ != "" && typ != "message" ||
		remote && (origin == self || what == itemNames[itemDirect] && to == "") {
		def.text = nil
		return def, "", nil
	}
	if remote && len(o["name"]) > 0 {
		from = remoteName(string(o["name"]), string(o["server"]), origin)
	}
	if def.text = o["base64"]; def.text == nil {
		def.text = o["text"]
	}
	if def.text == nil {
		return def, "", errors.New(`an object without "text", so it was not sent`)
	}
	if len(def.text) > maxLine || bytes.IndexByte(def.text, '\n') >= 0 {
		return def, "", fmt.Errorf("a text that is longer than %d bytes or has a newline in it, so it was not sent", maxLine)
	}
	if len(to) > maxShown {
		return def, "", errors.New("a name that is too long, so it was not sent")
	}
	if to != "" {
		def.what, def.to = itemDirect, to
	} else if what == itemNames[itemAction] && def.to == "" {
		def.what = itemAction
	}
	return def, from, nil
}

// maxDepth is how deep objects and arrays may stand in each other. encoding/json has the same limit.
const maxDepth = 10000

// readJSON reads the one JSON value (RFC 8259) that b is, and returns its kind: object, array, string, number, bool or null. Of an
// object it gives member each member's name, kind and, if that is string, text, in their order; the text is never nil. What stands
// deeper is passed over. The error is for what is no JSON anywhere in b; members before that place have been given.
//
// It takes and refuses what encoding/json does and reads a string as the same text, which FuzzSaid compares. That package was
// 0.26 MB of a binary of 5.71, for this one call.
func readJSON(b []byte, member func(name, text []byte, kind string)) (kind string, err error) {
	j := &jsonReader{rest: b}
	fault := func() (string, error) {
		if len(j.rest) == 0 {
			return "", errors.New("it ends too soon")
		}
		return "", fmt.Errorf("byte %d is wrong", len(b)-len(j.rest)+1)
	}
	var open []byte // what the next value stands in: '{' and '[', the outermost first
	var name, text []byte
	var ok bool
	for {
		if len(open) > 0 && open[len(open)-1] == '{' {
			s, ok := j.quoted()
			if !ok || !j.take(':') {
				return fault()
			}
			if len(open) == 1 {
				name = s
			}
		}
		switch c := j.peek(); c {
		case '{', '[':
			if len(open) == maxDepth {
				return fault()
			}
			j.take(c)
			if !j.take(c + 2) {
				open = append(open, c)
				continue
			}
			kind, text = kinds[c], nil
		case '"':
			kind = "string"
			if text, ok = j.quoted(); !ok {
				return fault()
			}
		default:
			if kind, text = j.word(), nil; kind == "" {
				return fault()
			}
		}
		// A value has ended: what it stands in goes on, or ends too.
		for {
			if len(open) == 1 && open[0] == '{' {
				member(name, text, kind)
			}
			if len(open) == 0 {
				if j.peek(); len(j.rest) > 0 {
					return fault()
				}
				return kind, nil
			}
			if j.take(',') {
				break
			}
			c := open[len(open)-1]
			if !j.take(c + 2) {
				return fault()
			}
			kind, text, open = kinds[c], nil, open[:len(open)-1]
		}
	}
}

// kinds has, by its first byte, what ends with the byte two behind it: in ASCII, ] is [ and 2, } is { and 2.
var kinds = map[byte]string{'{': "object", '[': "array"}

// jsonReader consumes JSON from the front of rest. Where something is wrong, rest begins with it.
type jsonReader struct{ rest []byte }

// peek passes over white space and returns the byte behind it, 0 at the end.
func (j *jsonReader) peek() byte {
	j.rest = bytes.TrimLeft(j.rest, " \t\r\n")
	if len(j.rest) == 0 {
		return 0
	}
	return j.rest[0]
}

// take passes over white space, and then over c if it is there.
func (j *jsonReader) take(c byte) bool {
	ok := j.peek() == c && len(j.rest) > 0
	if ok {
		j.rest = j.rest[1:]
	}
	return ok
}

// word passes over a number, true, false or null, and returns its kind, or "" if there is none.
func (j *jsonReader) word() string {
	end := bytes.IndexAny(j.rest, ",]} \t\r\n")
	if end < 0 {
		end = len(j.rest)
	}
	s := string(j.rest[:end])
	kind := ""
	switch {
	case s == "null":
		kind = "null"
	case s == "true" || s == "false":
		kind = "bool"
	case isNumber(s):
		kind = "number"
	default:
		return ""
	}
	j.rest = j.rest[end:]
	return kind
}

// isNumber tells whether s is a number (RFC 8259 section 6), which strconv is not strict enough for.
func isNumber(s string) bool {
	digits := func() bool {
		before := len(s)
		s = strings.TrimLeft(s, "0123456789")
		return len(s) < before
	}
	s = strings.TrimPrefix(s, "-")
	if strings.HasPrefix(s, "0") {
		s = s[1:]
	} else if !digits() {
		return false
	}
	if strings.HasPrefix(s, ".") {
		if s = s[1:]; !digits() {
			return false
		}
	}
	if strings.HasPrefix(s, "e") || strings.HasPrefix(s, "E") {
		if s = s[1:]; strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
			s = s[1:]
		}
		if !digits() {
			return false
		}
	}
	return s == ""
}

// quoted reads a string (RFC 8259 section 7). Half a surrogate pair and a byte that is not UTF-8 become U+FFFD.
func (j *jsonReader) quoted() (s []byte, ok bool) {
	if !j.take('"') {
		return nil, false
	}
	s = []byte{}
	for len(j.rest) > 0 && j.rest[0] >= ' ' {
		r, n := utf8.DecodeRune(j.rest)
		if r == '"' {
			j.rest = j.rest[1:]
			return s, true
		}
		if r == '\\' {
			if r, n = readEscape(j.rest); n == 0 {
				return nil, false
			}
		}
		s = utf8.AppendRune(s, r)
		j.rest = j.rest[n:]
	}
	return nil, false
}

// readEscape reads the escape that b begins with, or the two of a surrogate pair: n bytes, 0 if it is none.
func readEscape(b []byte) (r rune, n int) {
	if len(b) < 2 {
		return 0, 0
	}
	if i := strings.IndexByte(`"\/bfnrt`, b[1]); i >= 0 {
		return rune("\"\\/\b\f\n\r\t"[i]), 2
	}
	r, ok := readU(b)
	if !ok {
		return 0, 0
	}
	if utf16.IsSurrogate(r) {
		lo, _ := readU(b[6:]) // 0, which completes no pair, if it is none
		if r = utf16.DecodeRune(r, lo); r != utf8.RuneError {
			return r, 12
		}
	}
	return r, 6
}

// readU reads a \u escape.
func readU(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	u, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(u), err == nil
}

// appendObject appends an item as -json shows it; history says that it was said before the client came. server and origin
// are the name and the fingerprint of the server it was said at.
func appendObject(b []byte, it item, history bool, server, origin string) []byte {
	kind := "message"
	if it.what > itemDirect {
		kind = itemNames[it.what]
	}
	b = append(b, `{"type":"`...)
	b = append(b, kind...)
	b = append(b, '"')
	if it.seq != 0 {
		b = append(b, `,"seq":`...)
		b = strconv.AppendUint(b, it.seq, 10)
	}
	b = append(b, `,"time":"`...)
	b = it.time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	b = appendField(b, "name", it.name)
	if it.what <= itemDirect {
		b = appendField(b, "what", itemNames[it.what])
	}
	b = append(b, `,"text":`...)
	b = appendQuoted(b, it.text)
	if !utf8.Valid(it.text) {
		b = append(b, `,"base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, it.text)
		b = append(b, '"')
	}
	if history {
		b = append(b, `,"history":true`...)
	}
	b = appendField(b, "server", server)
	b = appendField(b, "origin", origin)
	return append(b, '}', '\n')
}

// appendWelcome appends the object that begins a connection: name is ours in the room.
func appendWelcome(b []byte, name string, gap bool, server, origin string) []byte {
	b = appendField(append(b, `{"type":"welcome"`...), "name", name)
	if gap {
		b = append(b, `,"gap":true`...)
	}
	b = appendField(b, "server", server)
	b = appendField(b, "origin", origin)
	return append(b, '}', '\n')
}

// appendFault appends the object that tells of a line of the input that could not be sent.
func appendFault(b []byte, line int, text string) []byte {
	b = strconv.AppendInt(append(b, `{"type":"error","line":`...), int64(line), 10)
	b = appendField(b, "text", text)
	return append(b, '}', '\n')
}

// appendField appends a string field, unless it is empty.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendQuoted(b, []byte(value))
}
