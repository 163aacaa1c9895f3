package main

// The keys of a terminal: runes, control characters and escape sequences, and which of them a paste brought. The caller
// learns of a paste whose end mark is lost.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	maxInput    = 64 << 10 // bytes of a line
	maxSequence = 32       // bytes of a key's escape sequence
	maxBurst    = 128      // bytes that keys bring at once, outside the marks of a paste

	// A paste whose end mark is lost ends after maxSilence without bytes, or with a Ctrl-C or Ctrl-D that arrives alone
	// and is followed by nothing for keyPause. Neither is shorter, because a slow link delays parts of a paste.
	maxSilence = time.Second
	keyPause   = 100 * time.Millisecond

	pasteStart = "\x1b[200~"
	pasteEnd   = "\x1b[201~"
)

// The keys with a meaning that are control characters.
const (
	ctrlA     = "\x01"
	ctrlB     = "\x02"
	ctrlC     = "\x03"
	ctrlD     = "\x04"
	ctrlE     = "\x05"
	ctrlF     = "\x06"
	ctrlG     = "\x07"
	backspace = "\b"
	tab       = "\t"
	ctrlK     = "\x0b"
	ctrlL     = "\x0c"
	ctrlN     = "\x0e"
	ctrlP     = "\x10"
	ctrlR     = "\x12"
	ctrlU     = "\x15"
	ctrlW     = "\x17"
	ctrlY     = "\x19"
	ctrlZ     = "\x1a"
	esc       = "\x1b"
	del       = "\x7f"
)

// errInterrupt is the error for Ctrl-C.
var errInterrupt = errors.New("interrupted")

// keyReader reads keys: runes, escape sequences and the marks of a paste.
type keyReader struct {
	r       *bufio.Reader
	in      *timedReader // what r reads; nil for input whose reads do not wait
	pasting bool         // between the marks of a paste
	endLost bool         // the last paste ended without its mark
	afterCR bool         // the last rune was a carriage return
}

func newKeyReader(in io.Reader) keyReader {
	timed := &timedReader{r: in}
	return keyReader{r: bufio.NewReader(timed), in: timed}
}

// next reads a rune. At the end of the terminal the error is io.EOF. A paste whose end mark is lost ends here: with the
// rune that ends it, or with errSilence.
func (k *keyReader) next() (rune, error) {
	for {
		if k.endLost && !k.pasting && k.r.Buffered() == 0 {
			k.setTimeout(0)
			_, _ = k.r.Peek(1) // an error shows again below
			k.pasting = k.restOfPaste(0)
		}
		k.setTimeout(0)
		if k.pasting {
			k.setTimeout(maxSilence)
		}
		alone := k.r.Buffered() == 0
		r, _, err := k.r.ReadRune()
		switch {
		case err == errSilence && k.pasting:
			k.pasting, k.endLost = false, true
			return 0, err
		case err == errSilence:
			continue
		case err != nil:
			return 0, terminalError(err)
		}
		if k.pasting && alone && (string(r) == ctrlC || string(r) == ctrlD) && k.silent() {
			k.pasting, k.endLost = false, true
		}
		return r, nil
	}
}

// silent reports whether nothing follows for keyPause.
func (k *keyReader) silent() bool {
	k.setTimeout(keyPause)
	_, err := k.r.Peek(1)
	return err == errSilence
}

func (k *keyReader) setTimeout(d time.Duration) {
	if k.in != nil {
		k.in.timeout = d
	}
}

// restOfPaste reports whether the bytes that have arrived, without the first skip, continue a paste that seemed to have
// ended: an end mark follows, or more bytes than keys bring at once. This is so after a pause in a paste, and after an
// end mark that is part of the pasted text.
func (k *keyReader) restOfPaste(skip int) bool {
	ahead, _ := k.r.Peek(k.r.Buffered())
	ahead, _, _ = bytes.Cut(ahead[min(skip, len(ahead)):], []byte(pasteStart))
	return len(ahead) > maxBurst || bytes.Contains(ahead, []byte(pasteEnd))
}

// errSilence is the error of a timedReader that timed out.
var errSilence = errors.New("nothing was read in time")

// timedReader is a reader with a timeout. A Read that timed out continues, and the next one returns its bytes.
type timedReader struct {
	r       io.Reader
	timeout time.Duration // of a Read; 0 for none
	pending chan readResult
	rest    []byte // read and not returned yet
}

type readResult struct {
	bytes []byte
	err   error
}

func (t *timedReader) Read(p []byte) (int, error) {
	if len(t.rest) > 0 {
		n := copy(p, t.rest)
		t.rest = t.rest[n:]
		return n, nil
	}
	if t.pending == nil {
		if t.timeout == 0 {
			return t.r.Read(p)
		}
		t.pending = make(chan readResult, 1)
		go readInto(t.pending, t.r, len(p)) // ends with its Read, else with the process
	}
	var late <-chan time.Time
	if t.timeout > 0 {
		timer := time.NewTimer(t.timeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case got := <-t.pending:
		t.pending = nil
		n := copy(p, got.bytes)
		t.rest = got.bytes[n:]
		return n, got.err
	case <-late:
		return 0, errSilence
	}
}

// readInto sends the result of one Read of at most size bytes.
func readInto(result chan<- readResult, r io.Reader, size int) {
	buf := make([]byte, size)
	n, err := r.Read(buf)
	result <- readResult{buf[:n], err}
}

// terminalError describes an error of reading from the terminal, except io.EOF.
func terminalError(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return fmt.Errorf("reading from the terminal: %w", err)
}

// isLaterHalf reports whether r is the newline of a CR LF pair, which is one Enter. It must be called for every rune.
func (k *keyReader) isLaterHalf(r rune) bool {
	later := r == '\n' && k.afterCR
	k.afterCR = r == '\r'
	return later
}

// sequence reads the part of a key's escape sequence after ESC. The result is no key's if the sequence is malformed
// or too long. If ESC was a key of its own, before another sequence or before Enter, Ctrl-C or Ctrl-D, that key is read
// next: the start of a paste must not be lost.
func (k *keyReader) sequence() (string, error) {
	var seq []byte
	for len(seq) < maxSequence {
		c, err := k.r.ReadByte()
		if err != nil {
			return "", terminalError(err)
		}
		seq = append(seq, c)
		switch {
		case len(seq) == 1 && strings.IndexByte(esc+"\r\n"+ctrlC+ctrlD, c) >= 0:
			return "", k.r.UnreadByte()
		case len(seq) == 1 && (c == '[' || c == 'O'):
		case len(seq) == 1 || seq[0] == 'O' || 0x40 <= c && c <= 0x7e:
			return string(seq), nil
		case c < ' ' || c > 0x7e:
			return "", nil
		}
	}
	return "", nil
}

// endsPaste reports whether the ESC just read begins the mark at the end of the paste, and reads the rest of the
// mark. Any other ESC is pasted text, and so is a mark after which the paste goes on.
func (k *keyReader) endsPaste() bool {
	rest := pasteEnd[len(esc):]
	ahead, err := k.r.Peek(len(rest))
	if err != nil || string(ahead) != rest || k.restOfPaste(len(rest)) {
		return false
	}
	_, err = k.r.Discard(len(rest))
	k.pasting = false
	return err == nil
}

// cookedLine reads a line up to its newline or the end of the terminal. Of a line longer than maxInput the rest is
// dropped.
func (k *keyReader) cookedLine() (string, error) {
	var line []byte
	for {
		c, err := k.r.ReadByte()
		switch {
		case err == io.EOF && len(line) > 0:
			return string(line), nil
		case err != nil:
			return "", terminalError(err)
		case c == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case len(line) < maxInput:
			line = append(line, c)
		}
	}
}
