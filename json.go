package main

// JSON as the log and -json write it: one object a line, all in printable ASCII where a terminal could be harmed.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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

// parseSaid reads an object that is to be said: {"text": "…"}, with "to": NAME or "what": "action" if wanted; other members
// are passed over, so that what one securechat printed can be fed to another (docs/JSON.md). An object of another type than
// message says nothing: its text is nil. def holds -to's choice.
//
// A server names itself, its fingerprint, for a bridge between servers (DESIGN.md section 10): its own objects say nothing, so
// that none goes in circles, and from is who said another's. What was for another server's operator alone says nothing either.
func parseSaid(line []byte, def outLine, self string) (out outLine, from string, err error) {
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
	if err := json.Unmarshal(line, &o); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) && typ.Field != "" {
			return def, "", fmt.Errorf("%q cannot be a JSON %s, so it was not sent", typ.Field, typ.Value)
		} else if errors.As(err, &typ) {
			return def, "", fmt.Errorf("a JSON %s and no object, so it was not sent", typ.Value)
		}
		return def, "", fmt.Errorf("no JSON object, so it was not sent: %w", err)
	}
	remote := self != "" && o.Origin != ""
	if o.Type != "" && o.Type != "message" ||
		remote && (o.Origin == self || o.What == itemNames[itemDirect] && o.To == "") {
		def.text = nil
		return def, "", nil
	}
	if remote && o.Name != "" {
		from = remoteName(o.Name, o.Server, o.Origin)
	}
	switch {
	case o.Base64 != nil:
		def.text = o.Base64
	case o.Text != nil:
		def.text = []byte(*o.Text)
	default:
		return def, "", errors.New(`an object without "text", so it was not sent`)
	}
	if len(def.text) > maxLine || bytes.IndexByte(def.text, '\n') >= 0 {
		return def, "", fmt.Errorf("a text that is longer than %d bytes or has a newline in it, so it was not sent", maxLine)
	}
	if len(o.To) > maxShown {
		return def, "", errors.New("a name that is too long, so it was not sent")
	}
	if o.To != "" {
		def.what, def.to = itemDirect, o.To
	} else if o.What == itemNames[itemAction] && def.to == "" {
		def.what = itemAction
	}
	return def, from, nil
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
