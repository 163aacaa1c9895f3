package main

// The line editor, on a pseudo-terminal whose screen is compared with the expected one.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// screen is a terminal for tests: a pty, and an emulator of the sequences that terminal.go writes.
type screen struct {
	t      *testing.T
	master *os.File
	slave  *os.File

	mu      sync.Mutex
	changed *sync.Cond
	raw     []byte // all output
	columns int
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
			s.changed.Broadcast()
			s.mu.Unlock()
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

// draw is the emulator. It returns the rows that output leaves on an endless screen, where a wide rune fills two
// columns.
func draw(output string, columns int) []string {
	type cell = string
	grid, y, x, savedX, wrap := [][]cell{nil}, 0, 0, 0, true
	put := func(c rune, w int) {
		if x+w > columns && wrap {
			y, x = y+1, 0
		} else if x+w > columns {
			x = columns - w
		}
		for len(grid) <= y {
			grid = append(grid, nil)
		}
		for len(grid[y]) < x+w {
			grid[y] = append(grid[y], " ")
		}
		grid[y][x] = string(c)
		for i := 1; i < w; i++ {
			grid[y][x+i] = ""
		}
		x += w
	}
	for len(output) > 0 {
		if rest, ok := strings.CutPrefix(output, "\x1b7"); ok {
			savedX, output = x, rest
			continue
		}
		if rest, ok := strings.CutPrefix(output, "\x1b8"); ok {
			x, output = savedX, rest
			continue
		}
		if rest, ok := strings.CutPrefix(output, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 0 {
				break
			}
			switch rest[:end+1] {
			case "J":
				grid = grid[:min(len(grid), y+1)]
				if y < len(grid) && x < len(grid[y]) {
					grid[y] = grid[y][:x]
				}
			case "?7l":
				wrap = false
			case "?7h":
				wrap = true
			}
			output = rest[end+1:]
			continue
		}
		r := []rune(output[:min(4, len(output))])[0]
		output = output[len(string(r)):]
		switch {
		case r == '\r':
			x = 0
		case r == '\n':
			y++
		case r == '\a':
		case runeWidth(r) == 0 && x > 0:
			at := x - 1
			for at > 0 && grid[y][at] == "" {
				at--
			}
			grid[y][at] += string(r)
		default:
			put(r, runeWidth(r))
		}
	}
	for len(grid) <= y {
		grid = append(grid, nil)
	}
	var rows []string
	for i, row := range grid {
		if i == y {
			for len(row) < x {
				row = append(row, " ")
			}
			rows = append(rows, strings.Join(row[:x], "")+"‸"+strings.TrimRight(strings.Join(row[x:], ""), " "))
			continue
		}
		rows = append(rows, strings.TrimRight(strings.Join(row, ""), " "))
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
	s.t.Setenv("TERM", "xterm")
	tm, err := newTerminal(s.slave, s.slave)
	if err != nil {
		s.t.Fatal(err)
	}
	tm.setPrompt("> ")
	tm.complete = func(line string, pos int) []string {
		word := line[strings.LastIndexByte(line[:pos], ' ')+1 : pos]
		return slices.DeleteFunc([]string{"bob", "bobby", "carol"},
			func(c string) bool { return !strings.HasPrefix(c, word) })
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
		s.send("\x1b[201~\x15\x04\n") // the newline is for a terminal that was closed during the read
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
	expect(t, lines, result{err: errInterrupt})
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
		h.remember(fmt.Sprint(i))
	}
	if len(h.lines) != maxHistory || h.lines[maxHistory-1] != fmt.Sprint(3*maxHistory-1) {
		t.Errorf("%d lines, the last %q", len(h.lines), h.lines[len(h.lines)-1])
	}
	for i := range 8 {
		h.remember(strings.Repeat(fmt.Sprint(i), maxInput))
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
	s.shows("bob: hi", "carol: a line longer", " than the row", "and another", "> type‸d")
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
	s.shows("tick", "> typedand more, pas", "t the row's end", "> ‸")
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
	expect(t, lines, result{line: "rest!"})
	s.send("\x1b[200~\x1b[2J\x1b]52;c;cm0=\a\x1b[20\x1b\x1b[201~\r") // pasted sequences are text
	expect(t, lines, result{line: "\x1b[2J\x1b]52;c;cm0=\a\x1b[20\x1b"})
	s.shows(`> \x1b[2J\x1b]52;c;cm0=\x07\x1b[20\x1b`, "> ‸")
	s.wait("no clear screen", func(output string) bool {
		return !strings.Contains(output, "\x1b[2J") && !strings.Contains(output, "\x1b]")
	})
}

// TestTerminalLongLines checks that a line of maxInput bytes is read whole, a longer paste in parts, and that typing
// stops at maxInput.
func TestTerminalLongLines(t *testing.T) {
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
	t.Setenv("TERM", "xterm")
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
		"e\u0301\x7f", "\x01\x05\x0b\x15\x17\t\t", "\xff\xfe", "\x1b[999999999999~x", "\x1b", "\x03\x04"} {
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
		tm := &terminal{in: null, out: null, keys: keyReader{r: bufio.NewReader(bytes.NewReader(typed))}, undo: func() {},
			complete: func(string, int) []string { return []string{"bob", "bobby"} }}
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
