package main

// JSON: the objects of -json, and the quoting of strings for them and for the log. One object takes one line, and all
// that could harm a terminal is a \u escape. docs/JSON.md describes the objects.
//
// Objects are written by appending, because every line of a busy room passes here; encoding/json reads them.

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// appendQuoted appends text as a JSON string. What appendSafe escapes, and each space or joiner that is not plain to
// see, becomes a \u escape, which any JSON reader turns back into the text that was sent. Bytes that are not UTF-8,
// which JSON cannot hold, become U+FFFD.
func appendQuoted(b, text []byte) []byte {
	b = append(b, '"')
	var around textContext
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i += max(1, plain(text[i:]))
			around = textContext{base: rune(text[i-1]), last: rune(text[i-1])}
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		valid := c >= utf8.RuneSelf && (r != utf8.RuneError || n > 1)
		if valid && around.admits(r, text[i+n:]) && unicode.IsPrint(r) {
			i += n
			continue
		}
		around = textContext{}
		b = append(b, text[start:i]...)
		b = appendQuotedEscape(b, r, n)
		i += n
		start = i
	}
	b = append(b, text[start:]...)
	return append(b, '"')
}

// appendQuotedEscape appends the escape of r, which utf8.DecodeRune decoded from n bytes.
func appendQuotedEscape(b []byte, r rune, n int) []byte {
	switch {
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case r == '\n':
		return append(b, '\\', 'n')
	case r == '\t':
		return append(b, '\\', 't')
	case r > 0xffff:
		hi, lo := utf16.EncodeRune(r)
		return appendU(appendU(b, hi), lo)
	}
	return appendU(b, r) // of a byte that is not UTF-8, r is U+FFFD
}

// appendU appends r, at most 0xffff, as a \u escape.
func appendU(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// maxObject bounds an object of the input: a text of maxLine bytes in which every byte is an escape, its base64, and
// the other members.
const maxObject = 8*maxLine + 1024

// inputObject has the members of an object of the input. Upper and lower case are the same in a member's name, the
// last of several members of one name counts, and null leaves a member as it was, except that it removes text and
// base64.
type inputObject struct {
	Type   string  `json:"type"`
	What   string  `json:"what"`
	To     string  `json:"to"`
	Text   *string `json:"text"`
	Base64 *string `json:"base64"`
	Name   string  `json:"name"`
	Server string  `json:"server"`
	Origin string  `json:"origin"`
}

// readObject reads a line of the input. Its errors quote nothing of the line, which may hold control sequences.
func readObject(line []byte) (o inputObject, err error) {
	if err := json.Unmarshal(line, &o); err != nil {
		return o, objectError(err, len(line))
	}
	return o, nil
}

// objectError describes an error of reading a line of length bytes.
func objectError(err error, length int) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind) && kind.Field != "":
		return fmt.Errorf("%q cannot be a JSON %s, so it was not sent", kind.Field, kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("a JSON %s and no object, so it was not sent", kind.Value)
	case errors.As(err, &syntax) && syntax.Offset < int64(length):
		return fmt.Errorf("no JSON object, so it was not sent: byte %d is wrong", syntax.Offset)
	}
	return errors.New("no JSON object, so it was not sent: its end is wrong or missing")
}

// text returns the bytes to send, or nil if the object has none.
func (o *inputObject) text() ([]byte, error) {
	switch {
	case o.Base64 != nil:
		text, err := base64.StdEncoding.DecodeString(*o.Base64)
		if err != nil {
			return nil, errors.New(`"base64" is wrong, so it was not sent`)
		}
		return text, nil
	case o.Text != nil:
		return []byte(*o.Text), nil
	}
	return nil, nil
}

// errNotRemote is the error for an object from a bridge that does not say who speaks at which other server.
var errNotRemote = errors.New(`an object without "origin" and "name" of another server, so it was not sent`)

// parseObject returns the line that an object of the input asks to send: {"text": "…"}, with "to": NAME or "what":
// "action" if wanted. Other members are ignored, so that the output of one securechat can be the input of another
// (docs/JSON.md). The line's text is nil if the object asks for nothing, as one of another type than message. def has
// the receiver of -to.
//
// On a server, own is its fingerprint. An object with an origin, a server or a name comes from a bridge: it is ignored
// if the origin is own, so that no line loops, and if it is for the operator of another server alone. Otherwise it
// needs an origin and a name, because it would speak as the operator without them. from is the sender at another
// server, or "" for an object without these members.
func parseObject(line []byte, def outLine, own string) (out outLine, from string, err error) {
	def.text = nil
	o, err := readObject(line)
	if err != nil {
		return def, "", err
	}
	text, err := o.text()
	if err != nil {
		return def, "", err
	}
	bridged := own != "" && (o.Origin != "" || o.Server != "" || o.Name != "")
	remote := o.Origin != "" && o.Name != ""
	switch {
	case o.Type != "" && o.Type != "message",
		bridged && o.Origin == own,
		bridged && o.Origin != "" && o.What == itemNames[itemDirect] && o.To == "":
		return def, "", nil
	case bridged && !remote:
		return def, "", errNotRemote
	case text == nil:
		return def, "", errors.New(`an object without "text", so it was not sent`)
	case len(text) > maxLine || bytes.IndexByte(text, '\n') >= 0:
		err := fmt.Errorf("a text that is longer than %d bytes or has a newline in it, so it was not sent", maxLine)
		return def, "", err
	case o.To != "" && !validShown(o.To):
		return def, "", errors.New(`"to" is no name, so it was not sent`)
	case o.To != "":
		def.what, def.to = itemDirect, o.To
	case o.What == itemNames[itemAction] && def.to == "":
		def.what = itemAction
	}
	if bridged {
		from = remoteName(o.Name, o.Server, o.Origin)
	}
	def.text = text
	return def, from, nil
}

// appendObject appends the object of an item. history marks an item from before the client joined; server and origin
// are the name and the fingerprint of the room's server.
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

// appendWelcome appends the object that begins a connection.
func appendWelcome(b []byte, w welcome, server, origin string) []byte {
	b = appendField(append(b, `{"type":"welcome"`...), "name", w.name)
	b = strconv.AppendUint(append(b, `,"seq":`...), w.seq+1, 10)
	b = appendField(b, "epoch", hex.EncodeToString(w.epoch[:]))
	if w.flags&welcomeGap != 0 {
		b = append(b, `,"gap":true`...)
	}
	b = appendField(b, "server", server)
	b = appendField(b, "origin", origin)
	return append(b, '}', '\n')
}

// appendAck appends the object that reports the lines up to id as recorded in the server's log.
func appendAck(b []byte, id uint64) []byte {
	b = strconv.AppendUint(append(b, `{"type":"ack","id":`...), id, 10)
	return append(b, '}', '\n')
}

// appendLineError appends the object for a line of the input that could not be sent.
func appendLineError(b []byte, line int, text string) []byte {
	b = strconv.AppendInt(append(b, `{"type":"error","line":`...), int64(line), 10)
	b = appendField(b, "text", text)
	return append(b, '}', '\n')
}

// appendField appends a member of an object, unless value is empty.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendQuoted(b, []byte(value))
}
