package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// The line editor, on a pseudo-terminal whose screen is compared with the expected one.

// screen is a terminal for tests: a pty, and an emulator of the sequences that terminal.go writes.
type screen struct {
	t      *testing.T
	master *os.File
	slave  *os.File

	mu      sync.Mutex
	changed *sync.Cond
	raw     []byte // all output
	columns int
	live    *emulator // answers as the screen does; nil for a terminal that answers nothing
}

func newScreen(t *testing.T, columns int) *screen {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, master: master, slave: slave}
	s.changed = sync.NewCond(&s.mu)
	s.resize(columns)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			s.mu.Lock()
			s.raw = append(s.raw, buf[:n]...)
			answers := ""
			if s.live != nil {
				s.live.write(string(buf[:n]))
				answers, s.live.answers = s.live.answers, ""
			}
			s.changed.Broadcast()
			s.mu.Unlock()
			if answers != "" {
				_, _ = master.WriteString(answers) // the program may have ended
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { slave.Close(); <-read; master.Close() })
	return s
}

func (s *screen) resize(columns int) {
	s.columns = columns
	if err := unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ,
		&unix.Winsize{Row: 20, Col: uint16(columns)}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) send(keys string) {
	s.t.Helper()
	if _, err := s.master.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// wait waits until seen returns true for the output so far, and fails the test after ten seconds.
func (s *screen) wait(what string, seen func(output string) bool) {
	s.t.Helper()
	late := false
	timer := time.AfterFunc(10*time.Second, func() { s.mu.Lock(); late = true; s.changed.Broadcast(); s.mu.Unlock() })
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !seen(string(s.raw)) {
		if late {
			s.t.Fatalf("waited for %s; output %q", what, s.raw[max(0, len(s.raw)-2000):])
		}
		s.changed.Wait()
	}
}

// shows waits until the last rows of the screen are these. ‸ stands for the cursor.
func (s *screen) shows(rows ...string) {
	s.t.Helper()
	var got []string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("the screen: %q", got)
		}
	}()
	s.wait(fmt.Sprintf("%q", rows), func(output string) bool {
		got = draw(output, s.columns)
		return len(got) >= len(rows) && slices.Equal(got[len(got)-len(rows):], rows)
	})
}

// draw returns the rows that output leaves on an endless screen, where a wide rune fills two columns.
func draw(output string, columns int) []string {
	e := newEmulator(columns)
	e.write(output)
	return e.rows()
}

// emulator is an endless screen. Like a terminal, it answers questions for the cursor's position.
type emulator struct {
	columns      int
	grid         [][]string // a wide rune is followed by an empty cell
	y, x, savedX int
	wrap         bool
	rest         string // of the output: a sequence that is not complete
	answers      string
}

func newEmulator(columns int) *emulator {
	return &emulator{columns: columns, grid: [][]string{nil}, wrap: true}
}

func (e *emulator) put(c rune, w int) {
	if e.x+w > e.columns && e.wrap {
		e.y, e.x = e.y+1, 0
	} else if e.x+w > e.columns {
		e.x = e.columns - w
	}
	e.grow()
	row := e.grid[e.y]
	for len(row) < e.x+w {
		row = append(row, " ")
	}
	row[e.x] = string(c)
	for i := 1; i < w; i++ {
		row[e.x+i] = ""
	}
	e.grid[e.y] = row
	e.x += w
}

func (e *emulator) grow() {
	for len(e.grid) <= e.y {
		e.grid = append(e.grid, nil)
	}
}

func (e *emulator) write(output string) {
	e.rest += output
	for e.rest != "" {
		if e.rest[0] == '\x1b' {
			if !e.sequence() {
				return
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(e.rest)
		if r == utf8.RuneError && !utf8.FullRuneInString(e.rest) {
			return
		}
		e.rest = e.rest[n:]
		switch {
		case r == '\r':
			e.x = 0
		case r == '\n':
			e.y++
		case r == '\a':
		case runeWidth(r) == 0 && e.x > 0:
			at := e.x - 1
			for at > 0 && e.grid[e.y][at] == "" {
				at--
			}
			e.grid[e.y][at] += string(r)
		default:
			e.put(r, runeWidth(r))
		}
	}
}

// sequence runs the escape sequence at the start of the rest. It returns false if the sequence is not complete.
func (e *emulator) sequence() bool {
	switch {
	case strings.HasPrefix(e.rest, "\x1b7"):
		e.savedX, e.rest = e.x, e.rest[2:]
		return true
	case strings.HasPrefix(e.rest, "\x1b8"):
		e.x, e.rest = e.savedX, e.rest[2:]
		return true
	case len(e.rest) < 2:
		return false
	}
	end := strings.IndexFunc(e.rest[2:], func(r rune) bool { return r >= '@' && r <= '~' })
	if end < 0 {
		return false
	}
	seq := e.rest[2 : 2+end+1]
	e.rest = e.rest[2+end+1:]
	switch up := 0; {
	case seq == "J":
		e.grid = e.grid[:min(len(e.grid), e.y+1)]
		if e.y < len(e.grid) && e.x < len(e.grid[e.y]) {
			e.grid[e.y] = e.grid[e.y][:e.x]
		}
	case seq == "?7l" || seq == "?7h":
		e.wrap = seq == "?7h"
	case seq == "6n":
		e.answers += fmt.Sprintf("\x1b[%d;%dR", e.y+1, min(e.x, e.columns-1)+1)
	case strings.HasSuffix(seq, "A"):
		fmt.Sscanf(seq, "%dA", &up)
		e.y = max(0, e.y-up)
	}
	return true
}

// resize gives the screen another width. With reflow, long rows are broken into several, else they are cut.
func (e *emulator) resize(columns int, reflow bool) {
	var grid [][]string
	y, x := 0, 0
	e.grow()
	for i, row := range e.grid {
		if i == e.y {
			y, x = len(grid), min(e.x, columns-1)
			if reflow {
				y, x = len(grid)+e.x/columns, e.x%columns
			}
		}
		if !reflow {
			grid = append(grid, row[:min(len(row), columns)])
			continue
		}
		grid = append(grid, slices.Collect(slices.Chunk(row, columns))...)
		if len(row) == 0 {
			grid = append(grid, nil)
		}
	}
	e.grid, e.y, e.x, e.columns = grid, y, x, columns
	e.grow()
}

// rows returns the rows. ‸ stands for the cursor.
func (e *emulator) rows() (rows []string) {
	e.grow()
	for i, row := range e.grid {
		text := strings.Join(row, "")
		if i == e.y {
			left := strings.Join(row[:min(len(row), e.x)], "") + strings.Repeat(" ", max(0, e.x-len(row)))
			text = left + "‸" + strings.Join(row[min(len(row), e.x):], "")
		}
		rows = append(rows, strings.TrimRight(text, " "))
	}
	return rows
}

// result is the result of readLine.
type result struct {
	line   string
	pasted bool
	err    error
}

// open makes a terminal on the screen. Its lines are sent on the channel, until it is closed.
func (s *screen) open() (*terminal, chan result) {
	s.t.Helper()
	tm, err := newTerminal(s.slave, s.slave)
	if err != nil {
		s.t.Fatal(err)
	}
	tm.setPrompt("> ")
	tm.complete = func(line string, pos int) ([]string, string) {
		word := line[strings.LastIndexByte(line[:pos], ' ')+1 : pos]
		return slices.DeleteFunc([]string{"bob", "bobby", "carol"},
			func(c string) bool { return !strings.HasPrefix(c, word) }), " "
	}
	lines := make(chan result, 100)
	go func() {
		defer close(lines)
		for {
			line, pasted, err := tm.readLine()
			lines <- result{line, pasted, err}
			if err != nil && err != errInterrupt {
				return
			}
		}
	}()
	s.t.Cleanup(func() { // ends the reading goroutine after any input of the test
		s.send("\x1b[201~\x03\x15\x04\n") // the newline is for a terminal that was closed during the read
		for range lines {
		}
		tm.close()
	})
	return tm, lines
}

func expect(t *testing.T, lines chan result, want ...result) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-lines:
			if got.line != w.line || got.pasted != w.pasted || !errors.Is(got.err, w.err) {
				t.Fatalf("got %.100q, pasted %v, %v; want %.100q, pasted %v, %v", got.line, got.pasted, got.err, w.line, w.pasted,
					w.err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no line came; want %.100q", w.line)
		}
	}
}

func TestTerminalEdits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, keys, shows, line string }{
		{"plain", "hello", "> hello‸", "hello"},
		{"in the middle", "hllo\x1b[D\x1b[D\x1b[De", "> he‸llo", "hello"},
		{"Home, End, Delete", "ab\x1b[H\x1b[3~x\x1b[Fy", "> xby‸", "xby"},
		{"Ctrl-A, Ctrl-K", "abc\x01\x06\x0b", "> a‸", "a"},
		{"Ctrl-W, Ctrl-U", "one two\x1b[D\x17", "> one ‸o", "one o"},
		{"Alt-B, Alt-D", "one two three\x1bb\x1bb\x1bd", "> one ‸ three", "one  three"},
		{"wide letters", "漢字x\x7f\x7f", "> 漢‸", "漢"},
		{"the cursor between wide letters", "漢字\x1b[D", "> 漢‸字", "漢字"},
		{"combining marks go with their letter", "ae\u0301\x7f", "> a‸", "a"},
		{"a family is one character", "a👨\u200d👩\u200d👧b\x1b[D\x7f", "> a‸b", "ab"},
		{"flags are pairs", "🇬🇷🇺🇸\x7f", "> 🇬🇷‸", "🇬🇷"},
		{"a skin tone", "👍🏽👍🏽\x7f", "> 👍🏽‸", "👍🏽"},
		{"keys without a meaning", "a\x1b[99;5~\x1bOPb\x1b[1;2Rc\x00\x1f", "> abc‸", "abc"},
		{"Esc before keys", "ab\x1b\x1b[D\x1b\x1b\x1bOHc", "> c‸ab", "cab"},
		{"completion", "hi car\t", "> hi carol ‸", "hi carol "},
		{"part of a completion", "b\t", "> bob‸", "bob"},
		{"an invisible rune shows", "a\u200bb", `> a\u200bb‸`, "a\u200bb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScreen(t, 40)
			_, lines := s.open()
			s.send(c.keys)
			s.shows(c.shows)
			s.send("\r")
			expect(t, lines, result{line: c.line})
		})
	}
}

func TestTerminalKeys(t *testing.T) {
	s := newScreen(t, 40)
	_, lines := s.open()
	s.send("dropped\x03")
	s.shows("> dropped^C", "> ‸")
	s.send("\x1b\x03")
	expect(t, lines, result{err: errInterrupt})
	s.send("\x1b" + pasteMark("/quit\r/who\r")) // a paste after the Esc key is still a paste
	expect(t, lines, result{line: "/quit", pasted: true}, result{line: "/who", pasted: true})
	s.send("ab\x1b[D\x04\x04\x04\r\n") // Ctrl-D deletes forward, then does nothing; a newline after Enter is not a line
	expect(t, lines, result{line: "a"})
	s.send("\r")
	expect(t, lines, result{})
	s.send("bob\t\t")
	s.shows("bob  bobby", "> bob‸")
	s.send("\x15\x04")
	expect(t, lines, result{err: io.EOF})
}

func TestTerminalHistory(t *testing.T) {
	s := newScreen(t, 40)
	_, lines := s.open()
	s.send("one\rtwo\rtwo\rdraft")
	expect(t, lines, result{line: "one"}, result{line: "two"}, result{line: "two"})
	s.send("\x1b[A")
	s.shows("> two‸")
	s.send("\x1b[A\x1b[A\x1b[A")
	s.shows("> one‸")
	s.send("\x1bOB\x0e\x0e")
	s.shows("> draft‸")
	s.send("\x10!\r")
	expect(t, lines, result{line: "two!"})
}

// TestTerminalHistoryBounded checks the limits of the history in lines and in bytes.
func TestTerminalHistoryBounded(t *testing.T) {
	var h history
	for i := range 3 * maxHistory {
		h.remember(historyLine{text: fmt.Sprint(i)})
	}
	if len(h.lines) != maxHistory || h.lines[maxHistory-1].text != fmt.Sprint(3*maxHistory-1) {
		t.Errorf("%d lines, the last %q", len(h.lines), h.lines[len(h.lines)-1].text)
	}
	for i := range 8 {
		h.remember(historyLine{text: strings.Repeat(fmt.Sprint(i), maxInput)})
	}
	if len(h.lines) != maxHistoryBytes/maxInput {
		t.Errorf("%d long lines", len(h.lines))
	}
}

// TestTerminalPrints prints lines above the row being edited, before, during and after reading a line.
func TestTerminalPrints(t *testing.T) {
	s := newScreen(t, 20)
	tm, lines := s.open()
	s.send("typed\x1b[D")
	s.shows("> type‸d")
	tm.print("bob: hi")
	s.shows("bob: hi", "> type‸d")
	tm.print("carol: a line longer than the row\nand another")
	s.shows("bob: hi", "carol: a line longer", "     than the row", "and another", "> type‸d")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 20 {
				tm.print("tick")
				tm.setPrompt("> ")
			}
		})
	}
	s.send("\x1b[Fand more, past the row's end")
	group.Wait()
	s.shows("tick", "> <st the row's end‸")
	s.send("\r")
	expect(t, lines, result{line: "typedand more, past the row's end"})
	s.shows("tick", "> typedand more,", "     past the row's", "     end", "> ‸")
	tm.close()
	tm.close()
	tm.print("after")
	s.shows(">", "after", "‸")
}

func TestTerminalScrolls(t *testing.T) {
	s := newScreen(t, 30)
	_, lines := s.open()
	s.send("0123456789abcdefghijklmnopqrstuvwxyz")
	s.shows("> <abcdefghijklmnopqrstuvwxyz‸")
	s.send("\x01")
	s.shows("> ‸0123456789abcdefghijklmnop>")
	s.resize(50)
	s.send("\x06")
	s.shows("> 0‸123456789abcdefghijklmnopqrstuvwxyz")
	s.send("\r")
	expect(t, lines, result{line: "0123456789abcdefghijklmnopqrstuvwxyz"})
}

func TestTerminalPastes(t *testing.T) {
	s := newScreen(t, 40)
	_, lines := s.open()
	s.send("pre \x1b[200~one\r\n\r\rtab\there\x03\x04\x1a\nrest\x1b[201~")
	expect(t, lines, result{line: "pre one", pasted: true}, result{pasted: true}, result{pasted: true},
		result{line: "tab\there\x03\x04\x1a", pasted: true})
	s.shows(`> tab\there\x03\x04\x1a`, "> rest‸")
	s.send("!\r")
	expect(t, lines, result{line: "rest!", pasted: true})
	s.send("\x1b[200~\x1b[2J\x1b]52;c;cm0=\a\x1b[20\x1b\x1b[201~\r") // pasted sequences are text
	expect(t, lines, result{line: "\x1b[2J\x1b]52;c;cm0=\a\x1b[20\x1b", pasted: true})
	s.shows(`> \x1b[2J\x1b]52;c;cm0=\x07\x1b[20\x1b`, "> ‸")
	s.wait("no clear screen", func(output string) bool {
		return !strings.Contains(output, "\x1b[2J") && !strings.Contains(output, "\x1b]")
	})
}

// TestTerminalLongLines checks that a line of maxInput bytes is read whole, a longer paste in parts, and that typing
// stops at maxInput.
func TestTerminalLongLines(t *testing.T) {
	t.Parallel()
	s := newScreen(t, 80)
	_, lines := s.open()
	long := strings.Repeat("0123456789αβγδ→", maxInput)[:maxInput+6000]
	long = strings.ToValidUTF8(long, "")
	go s.master.WriteString("\x1b[200~" + long + "\x1b[201~")
	part := <-lines
	if len(part.line) > maxInput || len(part.line) < maxInput-2 || !part.pasted {
		t.Fatalf("the first part is %d bytes, pasted %v", len(part.line), part.pasted)
	}
	s.send("\r")
	if rest := <-lines; part.line+rest.line != long {
		t.Fatalf("%d + %d bytes of %d", len(part.line), len(rest.line), len(long))
	}
	go s.master.WriteString(strings.Repeat("x", maxInput+10) + "\r")
	expect(t, lines, result{line: strings.Repeat("x", maxInput)})
	s.wait("a bell", func(output string) bool { return strings.Contains(output, "\a") })
}

func TestTerminalSecrets(t *testing.T) {
	for _, kind := range []string{"xterm", "dumb"} {
		t.Run(kind, func(t *testing.T) {
			s := newScreen(t, 40)
			t.Setenv("TERM", kind)
			before, err := term.GetState(int(s.slave.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			if kind == "dumb" { // the kernel keeps text typed ahead, but not when raw mode is switched on or off
				go func() {
					s.wait("the prompt", func(output string) bool { return strings.HasSuffix(output, "code: ") })
					s.send("hush\x7fsh\r")
					s.wait("the prompt", func(output string) bool { return strings.HasSuffix(output, "name: ") })
					s.send("seen\r")
				}()
			} else {
				s.send("hush\x7fsh\rseen\r")
			}
			console, err := newTerminal(s.slave, s.slave)
			if err != nil {
				t.Fatal(err)
			}
			secret, err := console.readSecret("code: ")
			if string(secret) != "hussh" || err != nil {
				t.Fatalf("%q, %v", secret, err)
			}
			console.setPrompt("name: ")
			line, _, err := console.readLine() // text typed ahead is not lost
			if line != "seen" || err != nil {
				t.Fatalf("%q, %v", line, err)
			}
			go func() {
				s.wait("the prompt", func(output string) bool { return strings.Contains(output, "again: ") })
				s.send("xyzzy\x03")
			}()
			if _, err := console.readSecret("again: "); err != errInterrupt {
				t.Fatalf("Ctrl-C: %v", err)
			}
			console.close()
			after, err := term.GetState(int(s.slave.Fd()))
			if err != nil || *after != *before {
				t.Errorf("the terminal is not restored: %v", err)
			}
			s.wait("no secret", func(output string) bool { return !strings.Contains(output, "xyzzy") })
			if kind == "dumb" {
				s.wait("no sequences", func(output string) bool { return !strings.Contains(output, "\x1b") })
			}
		})
	}
}

func TestTerminalDumb(t *testing.T) {
	s := newScreen(t, 40)
	t.Setenv("TERM", "dumb")
	tm, err := newTerminal(s.slave, s.slave)
	if err != nil || wantColor(s.slave) {
		t.Fatal(err, wantColor(s.slave))
	}
	defer tm.close()
	go func() {
		for reading := false; !reading; {
			tm.mu.Lock()
			reading = tm.shown
			tm.mu.Unlock()
		}
		tm.setPrompt("> ") // only now, as when the server's welcome arrives after the reader has begun
		tm.setPrompt("> ")
		s.wait("the prompt", func(output string) bool { return strings.HasSuffix(output, "> ") })
		tm.print("bob: hi")
		s.send("hello\n\x04")
	}()
	line, pasted, err := tm.readLine()
	if line != "hello" || pasted || err != nil {
		t.Fatal(line, pasted, err)
	}
	if _, _, err := tm.readLine(); err != io.EOF {
		t.Fatal(err)
	}
	s.wait("plain output", func(output string) bool {
		return strings.HasPrefix(output, "> \r\nbob: hi\r\n> hello\r\n> ") && !strings.Contains(output, "\x1b")
	})
}

func TestTerminalNeedsTerminals(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s := newScreen(t, 40)
	if _, err := newTerminal(r, s.slave); err == nil {
		t.Error("a pipe was accepted as a terminal's input")
	}
	if _, err := newTerminal(s.slave, w); err == nil {
		t.Error("a pipe was accepted as a terminal's output")
	}
	t.Setenv("NO_COLOR", "1")
	if wantColor(s.slave) {
		t.Error("NO_COLOR is ignored")
	}
}

// TestTerminalProcess runs a process of its own under a shell with job control: Ctrl-Z and fg, a stop from outside, a
// changed window size, a panic, SIGQUIT. The terminal is restored after each.
func TestTerminalProcess(t *testing.T) {
	t.Parallel()
	const child = "SECURECHAT_TEST_TERMINAL"
	if os.Getenv(child) != "" {
		tm, err := newTerminal(os.Stdin, os.Stdout)
		if err != nil {
			t.Fatal(err)
		}
		defer tm.close()
		tm.setPrompt("> ")
		for {
			line, _, err := tm.readLine()
			if err != nil {
				return
			}
			switch line {
			case "panic":
				go func() {
					defer (&console{display: display{term: tm}}).guard()
					panic("on purpose")
				}()
				select {}
			case "stop":
				tm.print("stopping")
				_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
			case "quit":
				_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
				select {}
			}
		}
	}
	const mode = `stty -a | tr ' ;' '\n\n' | grep -x -e -*echo -e -*icanon -e -*opost | xargs echo mode`
	for _, c := range []struct{ name, keys, script string }{
		{"Ctrl-Z", "typed\x1a", `; ` + mode + `; fg`},
		{"stopped from outside", "stop\r", `; stty sane; ` + mode + `; fg`},
		{"panic", "panic\r", `2>/dev/null; ` + mode},
		{"SIGQUIT", "quit\r", `2>/dev/null; ` + mode},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScreen(t, 60)
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-mc", `"$0" -test.run='^TestTerminalProcess$' `+c.script+"; "+mode+"; echo over")
			cmd.Args = append(cmd.Args, exe)
			cmd.Env = append(os.Environ(), child+"=1", "TERM=xterm")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = s.slave, s.slave, s.slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Wait() }()
			defer func() { _ = cmd.Process.Kill() }()
			s.wait("the prompt", func(output string) bool { return strings.Contains(output, "> ") })
			s.send(c.keys)
			s.wait("a sane terminal", func(output string) bool { return strings.Contains(output, "mode opost icanon echo\r\n") })
			if strings.HasSuffix(c.script, "fg") {
				s.wait("bracketed paste again", func(output string) bool { return strings.Count(output, pasteOn) >= 2 })
				if c.name == "Ctrl-Z" {
					s.shows("> typed‸")
				}
				s.resize(20) // The pty sends SIGWINCH.
				s.send("\x15" + strings.Repeat("x", 30) + "y")
				s.shows("> <" + strings.Repeat("x", 15) + "y‸")
				s.send("\x15\x04")
			}
			s.wait("the end", func(output string) bool {
				return strings.HasSuffix(output, "mode opost icanon echo\r\nover\r\n") && strings.Count(output, pasteOff) > 0
			})
		})
	}
}

// FuzzTerminal types any bytes. Lines are bounded, the cursor stays within the line, and the size is right.
func FuzzTerminal(f *testing.F) {
	for _, seed := range []string{"hello\r", "\x1b[200~pasted\ntext\x1b[201~\r", "\x1b[D\x1b[C\x1b[A\x1b[B",
		"e\u0301\x7f", "\x01\x05\x0b\x15\x17\t\t", "one\rtwo\r\x12on\x12\x7f\x07x\x17\x19\r", "/reply x\r",
		pasteMark("1\n2\n3\n4\n5\n6\n7") + "y\r", pasteMark("1\n2\n3\n4\n5\n6\n7") + "n" + pasteMark("z") + "\x03\x04",
		"\xff\xfe", "\x1b[999999999999~x", "\x1b", "\x03\x04"} {
		f.Add([]byte(seed))
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close() })
	f.Fuzz(func(t *testing.T, typed []byte) {
		// Ctrl-Z would stop the process group of the test, and nothing would continue it.
		typed = bytes.ReplaceAll(typed, []byte{0x1a}, nil)
		tm := &terminal{in: null, out: null, undo: func() {}, typing: typing{
			keys:     keyReader{r: bufio.NewReader(bytes.NewReader(typed))},
			complete: func(string, int) ([]string, string) { return []string{"bob", "bobby"}, ": " },
			expand:   func(line string) string { return expandReply(line, "bob") },
		}}
		tm.chat = len(typed)%2 == 0
		for {
			line, _, err := tm.readLine()
			if tm.line.pos < 0 || tm.line.pos > len(tm.line.runes) || tm.line.size != len(string(tm.line.runes)) ||
				len(line) > maxInput+utf8.UTFMax {
				t.Fatalf("%q: the cursor at %d of %d, %d bytes said to be %d; a line of %d", typed, tm.line.pos,
					len(tm.line.runes), len(string(tm.line.runes)), tm.line.size, len(line))
			}
			if err != nil && err != errInterrupt {
				return
			}
		}
	})
}

// The program at terminals: real processes, each on its own pseudo-terminal, from the question about an unknown key to
// the last line of the chat.

// startAtTerminal starts securechat with a terminal of its own. env is one more variable of its environment, or empty.
func startAtTerminal(t *testing.T, columns int, env string, args ...string) (*screen, *proc) {
	t.Helper()
	s := newScreen(t, columns)
	return s, startOn(t, s, s.slave, env, args...)
}

// roomAtTerminal opens a room at a terminal and returns the operator's screen and the address.
func roomAtTerminal(t *testing.T, columns int, env, dir string) (*screen, *proc, string) {
	t.Helper()
	op, server := startAtTerminal(t, columns, env, "-listen", "127.0.0.1:0", "-dir", dir)
	return op, server, op.match(`room open on (127\.0\.0\.1:\d+)`)[1]
}

// startOn starts securechat with stdin as its input and s for the other streams, as its controlling terminal.
func startOn(t *testing.T, s *screen, stdin io.Reader, env string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+p.cmd.Dir, "SECURECHAT_DIR=", "XDG_CONFIG_HOME=",
		"TERM=xterm", "NO_COLOR=1", "TZ=UTC")
	if env != "" {
		p.cmd.Env = append(p.cmd.Env, env)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, s.slave, s.slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 1}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended })
	return p
}

// waitText waits until the screen's output contains text.
func (s *screen) waitText(text string) {
	s.t.Helper()
	s.wait(text, func(output string) bool { return strings.Contains(output, text) })
}

// waitExit waits for p to exit with code, and checks that the terminal is as it was: echo, line mode, no paste marks.
func (s *screen) waitExit(p *proc, code int) {
	s.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Fatalf("securechat did not end: %q", s.raw)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		s.mu.Lock()
		s.t.Errorf("exit %d, want %d: %q", got, code, s.raw)
		s.mu.Unlock()
	}
	state, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	if state.Lflag&unix.ECHO == 0 || state.Lflag&unix.ICANON == 0 || state.Oflag&unix.OPOST == 0 {
		s.t.Errorf("the terminal is left raw: %+v", state)
	}
	s.wait("the end of marked pastes", func(out string) bool {
		return strings.LastIndex(out, pasteOff) >= strings.LastIndex(out, pasteOn)
	})
}

// leave enters an empty line until p ends. One that comes too soon after other input does not leave.
func (s *screen) leave(p *proc) {
	s.t.Helper()
	for range 20 {
		s.send("\r")
		select {
		case <-p.ended:
			s.waitExit(p, exitDone)
			return
		case <-time.After(suddenEnter + 100*time.Millisecond):
		}
	}
	s.t.Fatal("empty lines do not leave")
}

// TestConversation: three people at terminals type lines, commands and a paste, see each other's lines and a kick, and
// leave in every way.
func TestConversation(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	operator, server := startAtTerminal(t, 60, "", "-listen", "127.0.0.1:0", "-dir", anna, "-json=false")
	var addr string
	operator.wait("an address", func(out string) bool {
		_, rest, found := strings.Cut(out, "room open on ")
		addr, _, _ = strings.Cut(rest, " ")
		return found && strings.Contains(rest, " ")
	})
	bobDir, cleoDir := guest(t, anna, addr, "bob"), guest(t, anna, addr, "cleo")
	bob, bobCmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", bobDir)
	bob.waitText("bob> ")
	cleo, cleoCmd := startAtTerminal(t, 60, "NO_COLOR=", "-connect", addr, "-dir", cleoDir)
	cleo.waitText("joined " + addr)
	bob.waitText("* cleo joined")

	bob.send("Καλημέρα 中文 👩\u200d👩\u200d👧\r")
	cleo.waitText(nameColor("bob") + "bob" + colorOff + ": Καλημέρα 中文 👩\u200d👩\u200d👧")
	operator.waitText("bob: Καλημέρα")
	operator.send("morning\r")
	bob.waitText("anna: morning")
	bob.send("/me waves\r")
	cleo.waitText("waves")
	bob.send("/who\r")
	bob.waitText("* 3 here: anna, bob, cleo")
	cleo.send("/ms\tbo\tpsst\r")
	bob.waitText("cleo (to you): psst")
	bob.waitText("\a")
	bob.send("a" + pasteMark("one\r\r/quit\r") + "\r")
	cleo.waitText(": /quit")
	cleo.waitText(": aone")
	bob.send("still here\r") // The Enter in the paste did not end the session.
	cleo.waitText(": still here")

	bob.mu.Lock()
	out := string(bob.raw)
	bob.mu.Unlock()
	if strings.Contains(out, "bob: Καλημέρα") {
		t.Error("bob sees his own line twice")
	}
	operator.mu.Lock()
	out = string(operator.raw)
	operator.mu.Unlock()
	if strings.Contains(out, "psst") {
		t.Error("the operator sees what was for bob alone")
	}

	operator.send("/kick bob\r")
	bob.waitText("removed by the operator")
	bob.waitExit(bobCmd, exitTrouble)
	operator.waitText("bob joined and left (removed by the operator)")
	operator.send("\r/who\r") // an empty line is nothing to an operator
	operator.waitText("* 2 here: anna, cleo")
	operator.send("missed\r")
	cleo.waitText(": missed")

	for _, c := range []struct {
		keys string
		code int
	}{{"\r", exitDone}, {"\x04", exitDone}, {"\x03", exitDone}, {"/quit\r", exitDone}} {
		again, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", bobDir, "-nobell")
		again.waitText("bob> ")
		if c.keys == "\r" {
			again.waitText("1 message while you were away:")
			again.wait("its time", func(out string) bool { return matches(`\d\d:\d\d anna: missed`, out) })
		}
		again.send(c.keys)
		again.waitExit(cmd, c.code)
	}
	dumb, cmd := startAtTerminal(t, 60, "TERM=dumb", "-connect", addr, "-dir", bobDir, "-nobell")
	dumb.waitText("bob> ")
	operator.send("/msg bob hush\r")
	dumb.waitText("anna (to you): hush")
	dumb.send("\n")
	dumb.waitExit(cmd, exitDone)
	dumb.mu.Lock()
	if out := string(dumb.raw); strings.ContainsAny(out, "\a\x1b") {
		t.Errorf("a dumb terminal got %q", out)
	}
	dumb.mu.Unlock()

	once, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", bobDir, "-reconnect=false")
	once.waitText("bob> ")
	server.cmd.Process.Kill() // The connection is lost.
	once.waitExit(cmd, exitLost)
	cleo.waitText("connecting again")
	cleo.send("\x03")
	cleo.waitExit(cleoCmd, exitTrouble)
}

func pasteMark(text string) string { return pasteStart + text + pasteEnd }

// TestPastedIsText: nothing that is pasted is a command, at the server's prompt or at a client's: alone, next to typed
// characters, completed, edited, from the history, or behind an end mark that is part of the text. A typed command may
// have a pasted argument.
func TestPastedIsText(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	op, server, addr := roomAtTerminal(t, 100, "", anna)
	bob, bobCmd := startAtTerminal(t, 100, "", "-connect", addr, "-dir", guest(t, anna, addr, "bob"))
	bob.waitText("bob> ")
	var want []string
	for _, c := range []struct {
		keys string
		said []string
	}{
		{pasteMark("/quit") + "\r", []string{"/quit"}},
		{pasteMark("/quit\r"), []string{"/quit"}},
		{pasteMark("/qui") + "t\r", []string{"/quit"}},
		{"/qu" + pasteMark("it") + "\r", []string{"/quit"}},
		{"x" + pasteMark("/quit") + ctrlA + ctrlD + "\r", []string{"/quit"}},
		{pasteMark("/qu") + tab + "\r", []string{"/quit "}},
		{pasteMark("/quit") + "\x1b[A\x1b[B\r", []string{"/quit"}},
		{pasteMark("/quit") + "\r\x1b[A\r", []string{"/quit", "/quit"}},
		{pasteMark("/quit" + pasteEnd + "\r/quit\r"), []string{"/quit" + pasteEnd, "/quit"}},
		{"hi" + pasteMark("\r/quit\r/allow x"+pasteEnd+strings.Repeat("x", maxBurst)) + "\r",
			[]string{"hi", "/quit", "/allow x" + pasteEnd + strings.Repeat("x", maxBurst)}},
	} {
		op.send(c.keys)
		bob.send(c.keys)
		want = append(want, c.said...)
	}
	op.send("/msg bo\t" + pasteMark("over\r") + "\r")
	bob.match(`anna \(to you\): over\r`)
	op.send("/msg bob " + pasteMark("two\rlines") + "\r")
	op.waitText("/msg takes one line, and the pasted text has several: nothing was done")
	bob.send(pasteMark("\r") + "\r") // Enter sends the paste, and an empty paste is text: neither leaves.
	bob.send("/quit\r")
	bob.waitExit(bobCmd, exitDone)
	op.send("/quit\r")
	op.waitExit(server, exitDone)
	said := map[string][]string{}
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventMessage {
			said[recordField(r, "name")] = append(said[recordField(r, "name")], recordField(r, "message"))
		}
	}
	if got := said["anna"]; !slices.Equal(got, append(slices.Clone(want), "over")) {
		t.Errorf("the operator sent %q, want %q and one line to bob", got, want)
	}
	if got := said["bob"]; !slices.Equal(got, append(slices.Clone(want), "")) {
		t.Errorf("bob sent %q, want %q and an empty line", got, want)
	}
}

// TestPasteWithoutEnd: Ctrl-C and Ctrl-D that arrive alone leave although the end mark of a paste is lost.
func TestPasteWithoutEnd(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	bobDir := guest(t, anna, addr, "bob")
	for _, key := range []string{ctrlC, ctrlD} {
		bob, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", bobDir)
		bob.waitText("bob> ")
		bob.send(pasteStart + "one\r" + key + "two\r")
		server.out.match(t, `\\x0`+fmt.Sprint(int(key[0]))+`two\n`)
		bob.send(key)
		bob.waitExit(cmd, exitDone)
	}
}

// TestPasteEndsBySilence: without an end mark, a paste ends after maxSilence without bytes. What comes later is typed,
// unless it is more than keys bring at once.
func TestPasteEndsBySilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, typed := io.Pipe()
		defer typed.Close()
		keys := newKeyReader(in)
		type key struct {
			r      rune
			pasted bool
		}
		read := make(chan key, 1000)
		go func() {
			for keys.pasting = true; ; {
				r, err := keys.next()
				switch {
				case err == errSilence:
				case err != nil:
					return
				default:
					read <- key{r, keys.pasting}
				}
			}
		}()
		for _, c := range []struct {
			after  time.Duration
			bytes  string
			pasted bool
		}{
			{0, "a", true},
			{maxSilence - 1, "b", true},
			{maxSilence + 1, "c", false},
			{0, "d", false},
			{0, "/quit\r", false},
			{0, strings.Repeat("x", maxBurst+1), true},
			{maxSilence - 1, "e", true},
			{maxSilence + 1, "f", false},
			{0, "/quit\r" + pasteEnd, true},
		} {
			time.Sleep(c.after)
			if _, err := io.WriteString(typed, c.bytes); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			for _, r := range c.bytes {
				if got := <-read; got.r != r || got.pasted != c.pasted {
					t.Errorf("of %.20q: %q, pasted %v; want %q, pasted %v", c.bytes, got.r, got.pasted, r, c.pasted)
				}
			}
		}
	})
}

// TestRestOfPasteNotForShell: a client that leaves on an empty line discards what the terminal still holds.
func TestRestOfPasteNotForShell(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	_, addr := serve(t, anna)
	bobDir := guest(t, anna, addr, "bob")
	for _, kind := range []string{"TERM=xterm", "TERM=dumb"} {
		s, p := startAtTerminal(t, 60, kind, "-connect", addr, "-dir", bobDir)
		s.waitText("bob> ")
		written := make(chan error, 1)
		go func() { // more than the terminal and the program hold
			_, err := s.master.WriteString("\n" + strings.Repeat("echo typed ahead\n", 2000))
			written <- err
		}()
		s.waitExit(p, exitDone)
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatal("the terminal holds the rest of the paste")
		}
		if held, err := unix.IoctlGetInt(int(s.slave.Fd()), unix.TIOCINQ); held != 0 || err != nil {
			t.Errorf("%s: the shell would read %d bytes, %v", kind, held, err)
		}
	}
}

// TestLongLineForgesNone: a long message continues on rows that are indented, with and without colour, at a dumb
// terminal, and at a terminal without a prompt. So do a reason and a notice.
func TestLongLineForgesNone(t *testing.T) {
	t.Parallel()
	const columns = 50
	anna := state(t, "anna")
	server, addr := serve(t, anna, "-history", "0")
	bob, eve := guest(t, anna, addr, "bob"), guest(t, anna, addr, "eve")
	forged := "12:00 anna: send me the code"
	var long []string
	for pad := range columns {
		long = append(long, strings.Repeat("x", pad)+strings.Repeat(" "+forged, 3)+
			strings.Repeat("\u0600", 2*columns)+strings.Repeat("漢", columns)+forged)
	}
	for i, env := range []string{"NO_COLOR=1", "NO_COLOR=", "TERM=dumb", "input from a pipe"} {
		s := newScreen(t, columns)
		p := &proc{t: t, ended: make(chan struct{})}
		if env == "input from a pipe" {
			p.cmd = exec.Command(os.Args[0], "-connect", addr, "-dir", bob, "-stay")
			p.cmd.Env = append(os.Environ(), asSecurechat+"=1", "HOME="+t.TempDir(), "TERM=xterm")
			p.cmd.Stdout, p.cmd.Stderr = s.slave, s.slave
			if err := p.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { p.cmd.Wait(); close(p.ended) }()
			t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended })
		} else {
			s, p = startAtTerminal(t, columns, env, "-connect", addr, "-dir", bob)
		}
		server.err.match(t, fmt.Sprintf(`(?s)(bob joined.*){%d}`, i+1))
		sess, _ := joinSession(t, addr, partyIn(t, eve), joinRequest{stream: streamID{byte(i)}})
		for i, text := range append(slices.Clone(long), "done "+env) {
			if err := writeMessage(sess, kindText, linesOf(uint64(i+1), itemSay, "", text)); err != nil {
				t.Fatal(err)
			}
		}
		s.waitText("done " + env)
		s.mu.Lock()
		rows := draw(string(s.raw), columns)
		s.mu.Unlock()
		for _, row := range rows {
			if strings.HasPrefix(row, "12:00 anna") || strings.HasPrefix(row, "anna") {
				t.Errorf("%s: a row of eve's reads %q", env, row)
			}
		}
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// TestOperatorLeaves closes the room from its terminal with each key that does.
func TestOperatorLeaves(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	for _, keys := range []string{"\x03", "\x04", "/quit\r"} {
		operator, server := startAtTerminal(t, 60, "", "-listen", "127.0.0.1:0", "-dir", anna)
		operator.waitText("anna> ")
		operator.send(keys)
		operator.waitExit(server, exitDone)
	}
}

// TestFirstConnectRetries: with -reconnect, the client at a terminal waits for a server that is not running yet, and
// prints its name and the server's after the connection.
func TestFirstConnectRetries(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	addr := freeAddr(t)
	person, cmd := startAtTerminal(t, 60, "", "-connect", addr, "-dir", anna, "-reconnect")
	person.waitText("connecting again")
	start(t, t.TempDir(), "-listen", addr, "-dir", anna)
	person.waitText("joined " + addr + " as anna;")
	person.waitText("connected to " + addr)
	person.wait("one greeting", func(out string) bool { return strings.Count(out, "joined") == 1 })
	person.send("\r")
	person.waitExit(cmd, exitDone)
}

// TestTypedTo: with -to every typed line is for one receiver alone, and /me, which is for all, is not sent.
func TestTypedTo(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	bob, cmd := startAtTerminal(t, 200, "", "-connect", addr, "-dir", guest(t, anna, addr, "bob"), "-to", "anna")
	bob.waitText("bob> ")
	bob.send("psst\r")
	bob.send("/me waves\r")
	bob.waitText("not sent: /me goes to everyone, and with -to every line is for anna alone")
	bob.send("a" + pasteMark("one\r") + "\r")
	bob.send("/quit\r")
	bob.waitExit(cmd, exitDone)
	var got []string
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventMessage {
			got = append(got, recordField(r, "message")+" to "+recordField(r, "to"))
		}
	}
	if want := []string{"psst to anna", "aone to anna"}; !slices.Equal(got, want) {
		t.Errorf("the log has %q, want %q", got, want)
	}
}

// TestInterruptWhileConnecting: Ctrl-C at a terminal ends a client at once while its server does not answer: in the
// first connection, and in the one after the question about an unknown server.
func TestInterruptWhileConnecting(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	_, server := serve(t, anna)
	for _, c := range []struct {
		answered int // connections that reach the server
		flag     string
		env      string // TERM=dumb: the terminal is not in raw mode, so Ctrl-C is a signal
	}{{0, "-reconnect=false", ""}, {0, "-reconnect", ""}, {0, "-reconnect", "TERM=dumb"}, {1, "-reconnect", ""}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		person, cmd := startAtTerminal(t, 60, c.env, "-connect", l.Addr().String(), "-dir", state(t, "bob"), c.flag)
		for range c.answered {
			here, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			there, err := net.Dial("tcp", server)
			if err != nil {
				t.Fatal(err)
			}
			go func() { io.Copy(here, there); here.Close() }()
			go func() { io.Copy(there, here); there.Close() }()
			person.waitText("Trust it?")
			person.send("yes\r")
		}
		silent, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		person.send("\x03")
		person.waitText("left while there was no connection")
		person.waitExit(cmd, exitTrouble)
	}
}

// match waits until the output matches a pattern, and returns the last match.
func (s *screen) match(pattern string) []string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	var all [][]string
	s.wait(pattern, func(output string) bool { all = re.FindAllStringSubmatch(output, -1); return all != nil })
	return all[len(all)-1]
}

// TestFirstContact answers the question about an unknown server with yes, with no and with fingerprints.
func TestFirstContact(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	server, addr := serve(t, anna)
	print := server.err.match(t, `key (SHA256:\S+)`)[1]
	known := filepath.Join(bob, "known_hosts")
	other := "SHA256:" + strings.Repeat("A", 43)
	const question, again = `Trust it\? \(paste the fingerprint / yes / no\)`, `Please type yes, no, or the fingerprint:`
	for _, c := range []struct {
		name    string
		answers []string
		code    int
		prints  string
	}{
		{"yes", []string{"yes"}, exitDone, `joined 127\.0\.0\.1:\d+ as bob`},
		{"no", []string{"no"}, exitUntrusted, `securechat: 127\.0\.0\.1:\d+ was not trusted`},
		{"the fingerprint", []string{print}, exitDone, `joined`},
		{"ssh-keygen's line", []string{"256 " + print + " anna (ED25519)"}, exitDone, `joined`},
		{"another fingerprint", []string{other}, exitUntrusted,
			`securechat: the key of 127\.0\.0\.1:\d+ is SHA256:\S+, not the one you expect\r\nsecurechat: hint: someone may ` +
				`be in the middle`},
		{"nonsense, then yes", []string{"well", "", "y", "yes"}, exitDone, `joined`},
		{"Ctrl-C", []string{"\x03"}, exitUntrusted, `was not trusted`},
		{"Ctrl-D", []string{"\x04"}, exitUntrusted, `was not trusted`},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(known)
			s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob)
			s.match(`(?s)The server 127\.0\.0\.1:\d+ is unknown here\. Its key is.*ssh-ed25519 ` + regexp.QuoteMeta(print))
			s.match(question)
			for i, a := range c.answers {
				if i > 0 {
					s.wait("another question", func(output string) bool { return strings.Count(output, "\x1b[?7l"+again) >= i })
				}
				if a != "\x03" && a != "\x04" {
					a += "\r"
				}
				s.send(a)
			}
			s.match(c.prints)
			if c.code == exitDone {
				s.send("/quit\r") // an empty line would be too soon after the answer
			}
			s.waitExit(p, c.code)
			if exists(known) != (c.code == exitDone) {
				t.Error("known_hosts does not follow the answer")
			}
			if c.code == exitDone {
				stderr, code := sendHello(t, bob, addr)
				wantRun(t, "the next time", stderr, code, exitDone, `^$`)
			}
		})
	}

	put(t, known, []byte("[127.0.0.1]:"+portOf(addr)+" "+publicKeyOf(t, bob)+"\n"))
	s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob)
	s.match(`has changed: \S+known_hosts:1 pins`)
	s.waitExit(p, exitUntrusted)
	if s.mu.Lock(); strings.Contains(string(s.raw), "Trust it?") {
		t.Error("the client asks about a changed key")
	}
	s.mu.Unlock()
}

// TestQuestionsWithPipedInput: a process whose stdin is a pipe asks its questions at its terminal, and its input stays
// what comes through the pipe.
func TestQuestionsWithPipedInput(t *testing.T) {
	t.Parallel()
	anna, bob, cleo := state(t, "anna"), state(t, "bob"), state(t, "cleo")
	admit(t, anna, bob)
	server, addr := serve(t, anna)
	print := server.err.match(t, `key (SHA256:\S+)`)[1]
	ask := func(dir string, args ...string) (*screen, *proc) {
		s := newScreen(t, 200)
		return s, startOn(t, s, strings.NewReader("yes\nof a job\n"), "",
			append([]string{"-connect", addr, "-dir", dir}, args...)...)
	}
	s, p := ask(bob)
	s.match(`The server \S+ is unknown here\. Its key is\r\n  ssh-ed25519 ` + regexp.QuoteMeta(print))
	s.match(`Trust it\? \(paste the fingerprint / yes / no\)`)
	s.send("no\n")
	s.match(`127\.0\.0\.1:\d+ was not trusted`)
	s.waitExit(p, exitUntrusted)
	s, p = ask(bob)
	s.match(`Trust it\?`)
	s.send("\x03")
	s.match(`was not trusted`)
	s.waitExit(p, exitUntrusted)
	s, p = ask(bob, "-timeout", "1s")
	s.match(`Trust it\?`)
	s.waitExit(p, exitTimeout)
	s, p = ask(bob, "-json")
	s.match(`Trust it\?`)
	s.send("\x03")
	s.waitExit(p, exitUntrusted)
	s, p = ask(bob)
	s.match(`Trust it\?`)
	s.send("well\n")
	s.match(`Please type yes, no, or the fingerprint: `)
	s.send("yes\n")
	s.waitExit(p, exitDone)
	server.out.match(t, `(?m)^bob: yes\nbob: of a job$`)

	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", filepath.Join(bob, "identity"))
	s, p = ask(bob)
	s.match(`Passphrase for \S+identity: `)
	s.send("open barley\n")
	s.match(`Wrong passphrase\. Passphrase for \S+identity: `)
	s.send("open sesame\n")
	s.waitExit(p, exitDone)
	if s.mu.Lock(); strings.Contains(string(s.raw), "sesame") || strings.Contains(string(s.raw), "barley") {
		t.Error("the passphrase is shown")
	}
	s.mu.Unlock()

	code, _, exit := runToEnd(t, t.TempDir(), "", "-invite", "cleo", "-dir", anna)
	if exit != exitDone {
		t.Fatal(exit)
	}
	s, p = ask(cleo, "-join")
	s.match(`Invite code: `)
	s.send("nonsense\n")
	s.match(`the invite code has a typing error or is incomplete`)
	s.send(code)
	s.waitExit(p, exitDone)
	server.out.match(t, `(?m)^cleo: of a job$`)
}

// TestOperator uses /invite and /allow at the server's prompt. The guest types the code, which is not shown.
func TestOperator(t *testing.T) {
	t.Parallel()
	anna, bob, cleo, dora, emil := state(t, "anna"), state(t, "bob"), state(t, "cleo"), state(t, "dora"), state(t, "emil")
	op, server, addr := roomAtTerminal(t, 400, "", anna)

	op.send("/invite bob\r")
	code := op.match(`  ([A-Z2-7]{6}-[A-Z2-7-]+)\r`)[1]
	s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob, "-join")
	s.match(`Invite code: `)
	s.send(code[:len(code)-2] + "\r")
	s.match(`the invite code has a typing error or is incomplete: copy all of it again`)
	s.send(code + "\r")
	s.match(`joined 127\.0\.0\.1:\d+ as bob`)
	s.send("hello all\r")
	op.match(`bob\S*: hello all`)
	if s.mu.Lock(); strings.Contains(string(s.raw), code[:13]) {
		t.Error("the code is shown where it is typed")
	}
	s.mu.Unlock()
	if strings.Contains(readText(t, filepath.Join(server.cmd.Dir, "connection.log")), code[:13]) {
		t.Error("the code is in the log")
	}
	s.send("/quit\r")
	s.waitExit(p, exitDone)
	wantAdmitted(t, "/invite", server, "bob", `^invite, now authorized_keys:1$`)
	stderr, exit := sendHello(t, bob, addr)
	wantRun(t, "the second time", stderr, exit, exitDone, `^$`)

	op.send("/invite two words\r")
	op.match(`"two words" is no name: letters`)
	op.send("/allow\r")
	op.match(`no unknown key has been refused since the start`)
	pin(t, cleo, addr, anna)
	pin(t, dora, addr, anna)
	stderr, exit = sendHello(t, cleo, addr)
	wantRun(t, "a stranger", stderr, exit, exitUntrusted,
		`does not admit this key; its log says why\n.*have this line added to its authorized_keys:\nssh-ed25519 \S+\n$`)
	op.match(`refused 127\.0\.0\.1:\d+, SHA256:\S+: key SHA256:\S+ is not in \S+authorized_keys`)
	op.match(`append this line to \S+authorized_keys:\r\n(\x1b\S*?)?` + regexp.QuoteMeta(publicKeyOf(t, cleo)) +
		` guest-[0-9a-f]{8}\r\n`)
	op.match(`hint: or type /allow NAME`)
	op.send("/allow cleo\r")
	op.match(`cleo may join now \(` +
		regexp.QuoteMeta(strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(cleo, "identity.pub")))[1]) +
		`, authorized_keys:2\)`)
	stderr, exit = sendHello(t, cleo, addr)
	wantRun(t, "allowed", stderr, exit, exitDone, `^$`)
	wantAdmitted(t, "/allow", server, "cleo", `^authorized_keys:2$`)
	allowed := 0
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventAllow && r["name"] == "cleo" && r["by"] == "authorized_keys:2" {
			allowed++
		}
	}
	if allowed != 1 {
		t.Errorf("%d records of /allow", allowed)
	}

	// If two unknown keys have been refused, /allow needs a fingerprint.
	pin(t, emil, addr, anna)
	for _, dir := range []string{dora, emil} {
		if _, exit := sendHello(t, dir, addr); exit != exitUntrusted {
			t.Errorf("a stranger: exit %d", exit)
		}
		key := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(dir, "identity.pub")))[1]
		// The client may receive the refusal before the operator's line appears.
		op.match(`refused \S+, ` + regexp.QuoteMeta(key))
	}
	op.send("/allow dora\r")
	op.match(`several unknown keys have been refused: say which, as /allow NAME SHA256:…\r\n.*  SHA256:\S+\r\n.*  ` +
		`SHA256:\S+`)
	print := strings.Fields(runTool(t, "ssh-keygen", "-lf", filepath.Join(dora, "identity.pub")))[1]
	op.send("/allow dora SHA256:x\r")
	op.match(`that is none of the keys refused lately, which are\r\n.*  SHA256:`)
	op.send("/allow dora " + print + "\r")
	op.match(`dora may join now \(` + regexp.QuoteMeta(print) + `, authorized_keys:3\)`)
	if _, exit := sendHello(t, emil, addr); exit != exitUntrusted {
		t.Errorf("the other stranger: exit %d", exit)
	}
	op.send("/quit\r")
	op.waitExit(server, exitDone)

	s, p = startAtTerminal(t, 200, "", "-connect", addr, "-dir", bob, "-join")
	for i := range 3 {
		s.wait("a question", func(output string) bool { return strings.Count(output, "typing error") == i })
		s.match(`Invite code: `)
		s.send("nonsense\r")
	}
	s.match(`no valid invite code in three attempts`)
	s.waitExit(p, exitUsage)
}

// TestPassphraseAtTerminal checks that a passphrase is asked for three times at most and never shown.
func TestPassphraseAtTerminal(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	path := filepath.Join(anna, "identity")
	runTool(t, "ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", path)
	s, p := startAtTerminal(t, 200, "", "-fingerprint", "-dir", anna)
	s.match(`Passphrase for \S+identity: `)
	s.send("open barley\r")
	s.wait("a second question", func(output string) bool { return strings.Count(output, "Passphrase for") >= 2 })
	s.send("open sesame\r")
	s.match(`SHA256:\S+ anna\r\n`)
	s.waitExit(p, exitDone)
	if s.mu.Lock(); strings.Contains(string(s.raw), "sesame") || strings.Contains(string(s.raw), "barley") {
		t.Error("the passphrase is shown")
	}
	s.mu.Unlock()

	s, p = startAtTerminal(t, 200, "", "-fingerprint", "-dir", anna)
	for i := range 3 {
		s.wait("a question", func(output string) bool { return strings.Count(output, "Passphrase for") >= 2*i+1 })
		s.send("x\r")
	}
	s.match(`none of three passphrases opens \S+identity`)
	s.waitExit(p, exitTrouble)
}

// TestAllowAtTerminal checks that -allow - at a terminal reads a pasted line until Ctrl-D.
func TestAllowAtTerminal(t *testing.T) {
	anna, bob := state(t, "anna"), state(t, "bob")
	s, p := startAtTerminal(t, 200, "", "-allow", "-", "-dir", anna)
	s.match(`paste the public key line, then press Enter and Ctrl-D`)
	s.send(readText(t, filepath.Join(bob, "identity.pub")) + "\x04")
	s.match(`bob may join now`)
	s.waitExit(p, exitDone)
	s, p = startAtTerminal(t, 200, "", "-keygen", "-dir", anna)
	s.match(fmt.Sprintf(`%s anna\r\nSHA256:\S+\r\n`, regexp.QuoteMeta(publicKeyOf(t, anna))))
	s.waitExit(p, exitDone)
}

// TestAmbiguousName checks that /msg with an ambiguous name is refused with the choices.
func TestAmbiguousName(t *testing.T) {
	t.Parallel()
	anna, bob, alike := state(t, "anna"), state(t, "bob"), state(t, "alike")
	put(t, filepath.Join(anna, "authorized_keys"), []byte(publicKeyOf(t, bob)+" bob\n"+publicKeyOf(t, alike)+" B0b\n"))
	server, addr := serve(t, anna)
	pin(t, bob, addr, anna)
	pin(t, alike, addr, anna)
	first := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	server.err.match(t, `bob joined`)
	second := start(t, t.TempDir(), "-connect", addr, "-dir", alike)
	suffix := server.err.match(t, `B0b~([0-9a-f]{8}) joined`)[1]
	s, p := startAtTerminal(t, 200, "", "-connect", addr, "-dir", anna)
	s.match(`joined \S+ as anna`)
	s.send("/who\r")
	s.match(`\* 3 here: B0b~` + suffix + `, anna, bob~[0-9a-f]{8}\r`)
	if strings.Contains(s.output(), "4 here") {
		t.Error("the key of both the server and the client is counted twice")
	}
	s.send("/msg bob for one of you\r")
	choice := s.match(`bob is ambiguous: say which, B0b~` + suffix +
		` or (bob~[0-9a-f]{8}); what you sent is in the log only`)[1]
	s.send("/msg " + choice + " for bob\r")
	s.send("/msg B0b~" + suffix + " for the other\r")
	first.out.match(t, `(?m)^anna \(to you\): for bob$`)
	second.out.match(t, `(?m)^anna \(to you\): for the other$`)
	first.stdin.Close()
	if code := first.wait(); code != exitDone {
		t.Errorf("bob: exit %d", code)
	}
	s.match(`\* bob left`)
	s.send("/msg bob where are you\r")
	s.match(`bob is not here; what you sent is kept for bob`)
	s.send("/msg bib where are you\r")
	s.match(`nobody here is called bib`)
	s.send("/quit\r")
	s.waitExit(p, exitDone)
	if out := first.out.String() + second.out.String(); strings.Contains(out, "one of you") ||
		strings.Contains(out, "where are you") {
		t.Errorf("a message without a receiver was delivered: %q", out)
	}
}

// TestPaperProgramTerminal: with -paper at a terminal, Enter sends a line and an empty line ends the session, as in the
// paper.
func TestPaperProgramTerminal(t *testing.T) {
	t.Parallel()
	keys := paperFiles(t)
	server, addr := paperServe(t, keys, []string{"client"})
	s, p := startAtTerminal(t, 100, "", paperArgs(keys, "client", []string{"server"}, "-connect", addr)...)
	s.wait("joined", func(output string) bool { return strings.Contains(output, "an empty line leaves") })
	s.send("typed\r")
	server.out.match(t, `^client: typed\n`)
	s.send("secure-close\r")
	s.wait("the word", func(output string) bool { return strings.Contains(output, "secure-close was not sent") })
	s.leave(p)
	server.err.match(t, `(?m)^\* client left$`)
	if got := messages(t, filepath.Join(server.cmd.Dir, "connection.log")); !slices.Equal(got, []string{"typed"}) {
		t.Errorf("the log has %q", got)
	}
}

// TestWhileAway: somebody at a terminal who returns gets what was said meanwhile, with its time, once, over a
// restart of the server with a new log file; whoever comes for the first time sees who is here. /history shows messages
// once more, and none that were for others.
func TestWhileAway(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	bob, carol := guest(t, h.dir, h.addr, "bob"), guest(t, h.dir, h.addr, "carol")
	atTerminal := func(dir string, args ...string) (*screen, *proc) {
		return startAtTerminal(t, 80, "", append([]string{"-connect", h.addr, "-dir", dir}, args...)...)
	}
	s, p := atTerminal(carol)
	s.waitText("* 2 here: anna, carol")
	h.server.send("hello\n")
	s.waitText("anna: hello")
	s.send("my own\r/quit\r")
	s.waitExit(p, exitDone)
	h.server.out.match(t, "my own")
	h.server.say(h.log, "the key is under the mat\n")
	h.say(bob, "psst\n", exitTrouble, "what you sent is kept for carol", "-to", "carol")
	h.kill()
	h.rotate()
	h.start()

	s, p = atTerminal(bob)
	s.waitText("bob> ")
	s.send("/history 9\r")
	s.wait("what was said since bob first came", func(out string) bool {
		return strings.Contains(out, "no messages to show") && !strings.Contains(out, "mat")
	})
	s.send("/history\r")
	s.waitText("/history N shows")
	s.send("/quit\r")
	s.waitExit(p, exitDone)

	s, p = atTerminal(carol)
	s.waitText("2 messages while you were away:")
	s.wait("both messages", func(out string) bool {
		const clock = `\d\d:\d\d `
		return matches(`(?s)`+clock+`anna: the key is under the mat.*`+clock+`bob \(to you\): psst`, out) &&
			!matches(`hello|my own|missed`, out)
	})
	s.send("\r")
	s.waitExit(p, exitDone)
	h.restart()
	s, p = atTerminal(carol)
	s.waitText("carol> ")
	s.send("/history 3\r")
	s.wait("the last messages", func(out string) bool {
		return matches(`(?s)the last 3 messages:.*carol: my own.*under the mat.*psst`, out) && !strings.Contains(out, "away")
	})
	s.send("/quit\r")
	s.waitExit(p, exitDone)
	s, p = atTerminal(carol, "-last", "1")
	s.wait("the last message", func(out string) bool {
		return strings.Contains(out, "psst") && !strings.Contains(out,
			"mat")
	})
	s.send("\r")
	s.waitExit(p, exitDone)
}
