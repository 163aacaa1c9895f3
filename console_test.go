package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// unstartedConsole returns a console without the goroutine that prints its notes; printNotes prints them. Its stdout
// is discarded.
func unstartedConsole(stdin io.Reader, stderr io.Writer) *console {
	c := &console{display: display{stderr: stderr}, out: newOutput(io.Discard), lines: newLineReader(stdin, maxLine)}
	c.notes = newNoteQueue(c.print)
	return c
}

// printNotes prints the notes that wait in an unstarted console.
func printNotes(c *console) {
	for len(c.notes.queue) > 0 {
		c.print(<-c.notes.queue)
	}
}

// TestShow prints each kind of item in each mode. Text from a peer is printed in its safe form only.
func TestShow(t *testing.T) {
	at := time.Date(2026, 11, 23, 21, 36, 0, 0, time.UTC)
	items := []item{
		{what: itemSay, seq: 5, name: "bob", text: []byte("old")},
		{what: itemSay, seq: 6, name: "bob", text: []byte("hi\x1b[2J")},
		{what: itemAction, seq: 7, name: "bob", text: []byte("waves")},
		{what: itemDirect, name: "bob", text: []byte("psst")},
		{what: itemJoin, name: "ann"},
		{what: itemLeave, name: "ann"},
		{what: itemLeave, name: "ann", text: []byte("lost\n")},
		{what: itemNotice, text: []byte("here: ann")},
		{what: itemUndelivered, text: []byte("no bob")},
		{what: itemRemoved, text: []byte("removed by the operator")},
	}
	messages := "bob: old\nbob: hi\\x1b[2J\n* bob waves\nbob (to you): psst\n"
	events := "* ann joined\n* ann left\n* ann left: lost\\n\n* here: ann\nsecurechat: no bob\n* removed by the operator\n"
	for _, c := range []struct {
		name           string
		options        consoleOptions
		stdout, stderr string
	}{
		{"pipe", consoleOptions{}, messages, events},
		{"quiet", consoleOptions{quiet: true}, messages, "securechat: no bob\n"},
	} {
		var stdout, stderr strings.Builder
		con := newConsole(strings.NewReader(""), &stdout, &stderr, nil, c.options)
		con.setRoom("pi", "SHA256:abc", 5)
		for _, it := range items {
			it.time = at
			if err := con.show(it); err != nil {
				t.Error(err)
			}
		}
		if stdout.Len() > 0 {
			t.Errorf("%s: written before flush: %q", c.name, stdout.String())
		}
		if err := con.flush(); err != nil {
			t.Error(err)
		}
		con.mute()
		if err := errors.Join(con.show(items[0]), con.flush()); err != nil {
			t.Error(err)
		}
		con.close()
		if stdout.String() != c.stdout || stderr.String() != c.stderr {
			t.Errorf("%s: %q and %q, want %q and %q", c.name, stdout.String(), stderr.String(), c.stdout, c.stderr)
		}
	}
	var stdout strings.Builder
	con := newConsole(strings.NewReader(""), &stdout, io.Discard, nil, consoleOptions{json: true})
	defer con.close()
	con.setRoom("pi", "SHA256:abc", 5)
	for _, it := range items[:2] {
		it.time = at
		if err := con.show(it); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(con.acked(7), con.welcome(welcome{name: "ann", seq: 6, epoch: [8]byte{1, 2}, flags: welcomeGap})); err != nil {
		t.Error(err)
	}
	const start = `{"type":"message","seq":%d,"time":"2026-11-23T21:36:00.000Z","name":"bob","what":"say","text":`
	want := fmt.Sprintf(start, 5) + `"old","history":true,"server":"pi","origin":"SHA256:abc"}` + "\n" +
		fmt.Sprintf(start, 6) + `"hi\u001b[2J","server":"pi","origin":"SHA256:abc"}` + "\n" +
		`{"type":"ack","id":7}` + "\n" +
		`{"type":"welcome","name":"ann","seq":7,"epoch":"0102000000000000","gap":true,"server":"pi","origin":"SHA256:abc"}` + "\n"
	if stdout.String() != want {
		t.Errorf("objects: %s, want %s", stdout.String(), want)
	}
}

// stuckWriter blocks every write until free is closed.
type stuckWriter struct{ free chan struct{} }

func (w stuckWriter) Write(b []byte) (int, error) {
	<-w.free
	return len(b), nil
}

// TestNotesStuck checks that a stuck stderr delays no note, and the end by no more than notesTimeout.
func TestNotesStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := stuckWriter{make(chan struct{})}
		c := newConsole(strings.NewReader(""), io.Discard, w, nil, consoleOptions{})
		for n := range maxNotes + 10 {
			c.note("%d\n%d", n, n)
		}
		synctest.Wait()
		if n := c.notes.dropped.Load(); n < 2*8 || n > 2*10 {
			t.Errorf("%d lines were dropped", n)
		}
		begin := time.Now()
		c.close()
		if d := time.Since(begin); d != notesTimeout {
			t.Errorf("close took %v", d)
		}
		close(w.free)
		c.close()
	})
}

// TestNotesDropped checks that the number of dropped lines is printed after stderr works again.
func TestNotesDropped(t *testing.T) {
	var printed []string
	q := newNoteQueue(func(text string) { printed = append(printed, text) })
	for n := range maxNotes + 3 {
		q.add([]string{fmt.Sprint(n), "second line"})
	}
	go q.run()
	ended := q.close(time.Minute)
	all := strings.Join(printed, "\n")
	if !ended || len(printed) != maxNotes+1 || strings.Count(all, "6 more lines could not be shown") != 1 {
		t.Errorf("ended %v, %d notes: %q", ended, len(printed), printed[:min(len(printed), 3)])
	}
}

// TestParseTyped reads what a person types, and each way to reject it.
func TestParseTyped(t *testing.T) {
	for _, c := range []struct {
		line, text, to string
		what           byte
		command, arg   string
		err            string
	}{
		{line: "hi", text: "hi", what: itemSay},
		{line: "", text: "", what: itemSay},
		{line: "//who", text: "/who", what: itemSay},
		{line: " /who", text: " /who", what: itemSay},
		{line: "/me  waves ", text: "waves", what: itemAction},
		{line: "/me", err: "/me TEXT"},
		{line: "/msg bob  hi there", text: "hi there", to: "bob", what: itemDirect},
		{line: "/msg bob", err: "/msg NAME TEXT"},
		{line: "/msg", err: "/msg NAME TEXT"},
		{line: "/msg " + strings.Repeat("n", maxShown+1) + " x", err: "/msg NAME TEXT"},
		{line: "/kick  bob ", command: "/kick", arg: "bob"},
		{line: "/", command: "/"},
		{line: "/ x", command: "/", arg: "x"},
		{line: "/nonsense", command: "/nonsense"},
	} {
		out, command, arg, err := parseTyped([]byte(c.line))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %s", c.line, err, c.err)
			}
			continue
		}
		if err != nil || string(out.text) != c.text || out.to != c.to || out.what != c.what || command != c.command ||
			arg != c.arg {
			t.Errorf("%q: %q, %q, %q, %v", c.line, out.text, command, arg, err)
		}
	}
}

func BenchmarkShow(b *testing.B) {
	for name, options := range map[string]consoleOptions{"pipe": {}, "json": {json: true}} {
		b.Run(name, func(b *testing.B) {
			c := newConsole(strings.NewReader(""), io.Discard, io.Discard, nil, options)
			defer c.close()
			text := []byte(strings.Repeat("a plain line ", 8))
			it := item{seq: 7, time: time.Now(), what: itemSay, name: "bob", text: text}
			b.ReportAllocs()
			for b.Loop() {
				if err := c.show(it); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestNoteArguments: bytes of a peer in an argument begin no line of their own and reach the terminal escaped.
func TestNoteArguments(t *testing.T) {
	var out bytes.Buffer
	c := unstartedConsole(strings.NewReader(""), &out)
	c.note("refused %s: %v%s", "peer\nsecurechat: room open", errors.New("unknown algorithm \x1b[2J\r\nx"),
		ownLines("\nhint: two\nlines"))
	printNotes(c)
	want := "securechat: refused peer\\nsecurechat: room open: unknown algorithm \\x1b[2J\\r\\nx\nhint: two\nlines\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// TestClip: a long reason is cut between characters.
func TestClip(t *testing.T) {
	for text, want := range map[string]string{"short": "short", "exactly": "exactly", "1234567é": "1234567…",
		"123456é9": "123456…"} {
		if got := clip(text, 7); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
