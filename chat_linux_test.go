package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The room at a terminal: names, times, joins and leaves, pastes, accidents, and a screen that changes its size.

// chatScreen is a terminal in a room, without a server. Its lines are sent on the channel.
func chatScreen(t *testing.T, columns int) (*screen, *terminal, chan result) {
	t.Helper()
	s := newScreen(t, columns)
	tm, lines := s.open()
	tm.enterRoom("> ")
	return s, tm, lines
}

// TestTerminalSearches: Ctrl-R searches backwards, Ctrl-R again further, Backspace and Ctrl-G undo, any other key takes
// the line that was found.
func TestTerminalSearches(t *testing.T) {
	t.Parallel()
	s := newScreen(t, 60)
	_, lines := s.open()
	s.send("deploy one\rstatus\rdeploy two\rdraft")
	expect(t, lines, result{line: "deploy one"}, result{line: "status"}, result{line: "deploy two"})
	s.send("\x12dep")
	s.shows("search dep: ‸deploy two")
	s.send("\x12")
	s.shows("search dep: ‸deploy one")
	s.send("\x12") // nothing older: the bell
	s.wait("a bell", func(out string) bool { return strings.Contains(out, "\a") })
	s.send("\x7f\x7f\x7fst")
	s.shows("search st: ‸status")
	s.send("\x07")
	s.shows("> draft‸")
	s.send("\x12one\x05!\r")
	expect(t, lines, result{line: "deploy one!"})
	s.send(pasteMark("/quit") + "\r\x12/q\r") // what was pasted stays text
	expect(t, lines, result{line: "/quit", pasted: true}, result{line: "/quit", pasted: true})
	s.send("\x12status\x03")
	s.shows("> status^C", "> ‸")
	s.send("\x12one\x1b")
	s.shows("> deploy ‸one!") // Esc ends the search at once
	s.send("\x1b[D\x1b[Dx\x15\x0b")
	s.shows("> ‸")
	for _, end := range []string{"\r", "\x03", "\x04"} { // without a line found, these end only the search
		s.send("\x12zz" + end + "still here\r")
		expect(t, lines, result{line: "still here"})
	}
}

// TestNarrowPrompts: on a narrow terminal, "> " takes the place of a long name, and a question keeps its last words.
func TestNarrowPrompts(t *testing.T) {
	s := newScreen(t, 20)
	tm, _ := s.open()
	tm.setPrompt("Trust it? (paste the fingerprint / yes / no) ")
	s.send("no")
	s.shows("/ yes / no) no‸")
	tm.enterRoom(nameColor("bob") + "bob" + colorOff + "> ")
	s.shows("bob> no‸")
	tm.enterRoom(nameColor("bob") + "bob-the-builder" + colorOff + "> ")
	s.shows("> no‸")
	s.resize(40)
	s.send("\x0c")
	s.shows("bob-the-builder> no‸")
}

// TestRowsKeepClusters: a row ends between characters, not between the emoji of a family or the letters of a flag. A
// sequence that is wider than a row ends anywhere.
func TestRowsKeepClusters(t *testing.T) {
	family := "👩\u200d👩\u200d👧"
	long := strings.TrimSuffix(strings.Repeat("👩\u200d", 60), "\u200d")
	for _, c := range []struct {
		text string
		want []string
	}{
		{"123456" + family + "x", []string{"123456", "  " + family, "  x"}},
		{"1234567🇬🇷🇺🇸", []string{"1234567", "  🇬🇷", "  🇺🇸"}},
		{"1234567ae\u0301b", []string{"1234567a", "  e\u0301b"}},
		{"12 " + colorOff + "34567漢字", []string{"12 " + colorOff + "34567", "  漢字"}},
	} {
		if got := strings.Split(strings.TrimSuffix(breakRows(c.text, 8, "", ""), "\n"), "\n"); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
	for row := range strings.SplitSeq(breakRows(long, 8, "", ""), "\n") {
		if width(row) > 8 {
			t.Errorf("a row of %d columns: %q", width(row), row)
		}
	}
}

// TestTerminalYanks: Ctrl-Y inserts what Ctrl-K, Ctrl-U, Ctrl-W and Alt-D have cut; keys that follow each other cut one
// text.
func TestTerminalYanks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ keys, line string }{
		{"one two\x17\x19\x19", "one twotwo"},
		{"one two three\x17\x17>\x19", "one >two three"},
		{"one two\x01\x0bx\x19", "xone two"},
		{"one two\x1bb\x15\x05 \x19", "two one "},
		{"one two three\x01\x1bd\x1bd\x05 \x19", " three one two"},
		{"one\x17\x17\x02two\x17\x19\x19", "twotwo"},
		{"\x19plain", "plain"},
	} {
		s := newScreen(t, 60)
		_, lines := s.open()
		s.send(c.keys + "\r")
		expect(t, lines, result{line: c.line})
	}
	s := newScreen(t, 60)
	tm, lines := s.open()
	s.send(pasteMark("/quit") + "\x15\x19\r") // cut and inserted, a paste stays text
	expect(t, lines, result{line: "/quit", pasted: true})
	s.send("\x04")
	expect(t, lines, result{err: io.EOF})
	s.send("hush\x15\r")
	if secret, err := tm.readSecret("code: "); err != nil || len(secret) != 0 {
		t.Fatal(secret, err)
	}
	go func() { s.send("\x19.\r") }()
	if line, _, err := tm.readLine(); line != "." || err != nil {
		t.Errorf("a secret that was cut comes back: %q, %v", line, err)
	}
	go func() { // the end of the test waits for a reader
		s.wait("the prompt", func(out string) bool { return strings.HasSuffix(out, wrapOn) })
	}()
}

// TestLongPasteAsks: more than five pasted lines are sent only after a typed yes. Otherwise the line before the paste
// is back.
func TestLongPasteAsks(t *testing.T) {
	t.Parallel()
	six := "one\rtwo\rthree\rfour\rfive\rsix"
	want := func(lines ...string) (all []result) {
		for _, line := range lines {
			all = append(all, result{line: line, pasted: true})
		}
		return all
	}
	all := want("one", "two", "three", "four", "five", "six")
	for _, c := range []struct {
		name, paste, question, answer string
		want                          []result
		left                          string
	}{
		{"five lines", pasteMark("a\rb\rc\rd\re\r"), "", "", want("a", "b", "c", "d", "e"), ""},
		{"four lines and a rest", pasteMark("a\rb\rc\rd\re"), "", "", want("a", "b", "c", "d"), "e"},
		{"yes", pasteMark(six), "send 6 lines? [y/N] ‸", "y\r", all, ""},
		{"yes in full", pasteMark(six + "\r"), "send 6 lines? [y/N] ‸", "Yes\r", all, ""},
		{"with what was typed", "a" + pasteMark(six), "send 6 lines? [y/N] ‸", "y\r",
			want("aone", "two", "three", "four", "five", "six"), ""},
		{"no", "a" + pasteMark(six), "send 6 lines? [y/N] ‸", "n\r", nil, "a"},
		{"Enter", "a" + pasteMark(six), "send 6 lines? [y/N] ‸", "\r", nil, "a"},
		{"Ctrl-C", "a" + pasteMark(six), "send 6 lines? [y/N] ‸", "y\x03", nil, "a"},
		{"another paste", "a" + pasteMark(six), "send 6 lines? [y/N] ‸", "y" + pasteMark("b\r"), want("ab"), ""},
		{"a pasted yes", "a" + pasteMark(six), "send 6 lines? [y/N] ‸", pasteMark("y") + "\x03\r", nil, ""},
		{"an answer in the paste", pasteMark(six + pasteEnd + "y\r"), "send 6 lines? [y/N] ‸", "\r", nil, ""},
		{"Ctrl-D", "a" + pasteMark(six), "send 6 lines? [y/N] ‸", "\x04", nil, "a"},
		{"too long", "a" + pasteMark(strings.Repeat(strings.Repeat("x", 1000)+"\r", maxPaste/1000)), "", "", nil, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _, lines := chatScreen(t, 60)
			go s.master.WriteString(c.paste)
			if c.question != "" {
				s.shows(c.question)
			}
			if len(lines) > 0 && c.question != "" {
				t.Fatalf("%v was sent without a yes", <-lines)
			}
			s.send(c.answer)
			expect(t, lines, c.want...)
			s.shows("> " + c.left + "‸")
			s.send("z\r")
			expect(t, lines, result{line: c.left + "z", pasted: c.name == "four lines and a rest"})
		})
	}
}

// TestAnswerInRestOfPaste: a yes that arrives after an end mark in the pasted text, in another read than the real end
// mark, is not an answer.
func TestAnswerInRestOfPaste(t *testing.T) {
	s, _, lines := chatScreen(t, 60)
	s.send(pasteStart + "1\r2\r3\r4\r5\r6\r" + pasteEnd)
	s.shows("send 6 lines? [y/N] ‸")
	s.send("y\r" + pasteEnd)
	s.shows("send 7 lines? [y/N] ‸")
	s.send("n\rover\r")
	expect(t, lines, result{line: "over"})
	s.send(pasteMark("y") + "\r") // a pasted answer that comes from the history is none
	expect(t, lines, result{line: "y", pasted: true})
	s.send(pasteMark("1\r2\r3\r4\r5\r6\r"))
	s.wait("a question", func(out string) bool { return strings.Count(out, "send 6 lines? [y/N] \x1b7") >= 2 })
	s.send("\x1b[A\rlast\r")
	expect(t, lines, result{line: "last"})
}

// TestHeldKeys: a held Ctrl-C or Ctrl-D changes the line, and leaves only when it is pressed again later.
func TestHeldKeys(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for key, want := range map[string]error{ctrlC: errInterrupt, ctrlD: io.EOF} {
		synctest.Test(t, func(t *testing.T) {
			in, typed := io.Pipe()
			tm := &terminal{in: null, out: null, undo: func() {}, typing: typing{keys: keyReader{r: bufio.NewReader(in)}}}
			tm.enterRoom("> ")
			ended := make(chan error, 1)
			go func() {
				_, _, err := tm.readLine()
				ended <- err
			}()
			for _, keys := range []string{"abc" + ctrlA + strings.Repeat(key, 9), key} {
				time.Sleep(suddenEnter - 1)
				io.WriteString(typed, keys)
				synctest.Wait()
				if len(ended) > 0 {
					t.Fatalf("a held %q ends with %v", key, <-ended)
				}
			}
			time.Sleep(suddenEnter)
			io.WriteString(typed, key)
			if err := <-ended; err != want {
				t.Errorf("%q ends with %v, want %v", key, err, want)
			}
		})
	}
}

// TestSuddenEnter: an empty line is none within half a second of other input, and is one after it.
func TestSuddenEnter(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, dumb := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			in, typed := io.Pipe()
			defer typed.Close()
			tm := &terminal{in: null, out: null, dumb: dumb, undo: func() {},
				typing: typing{keys: keyReader{r: bufio.NewReader(in)}}}
			tm.enterRoom("> ")
			lines := make(chan string, 10)
			go func() {
				for {
					line, _, err := tm.readLine()
					if err != nil {
						close(lines)
						return
					}
					lines <- line
				}
			}()
			for _, c := range []struct {
				after time.Duration
				keys  string
				lines []string
			}{
				{0, "hello\n", []string{"hello"}},
				{0, "\n", nil},
				{suddenEnter - 1, "\n", nil},
				{suddenEnter, "\n", []string{""}},
				{suddenEnter, "again\n", []string{"again"}},
				{suddenEnter, "\n", []string{""}},
			} {
				time.Sleep(c.after)
				if _, err := io.WriteString(typed, c.keys); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				for _, want := range c.lines {
					if got := <-lines; got != want {
						t.Errorf("dumb %v: %q, want %q", dumb, got, want)
					}
				}
				if len(lines) > 0 {
					t.Errorf("dumb %v: %q after %v is a line", dumb, c.keys, c.after)
				}
			}
			typed.Close()
			for range lines {
			}
		})
	}
}

// TestResizeLeavesNoRows makes the terminal narrower and wider while a long line is typed, on terminals that break
// their rows again, that cut them, and that answer no questions. The screen has the printed line and one prompt.
func TestResizeLeavesNoRows(t *testing.T) {
	t.Parallel()
	const line = "this is a long line, which takes nearly all of the eighty columns of the row"
	for _, reflow := range []bool{true, false} {
		for keys, at := range map[string]int{"": len(line), "\x01": 0, "\x01" + strings.Repeat("\x06", 23): 23,
			strings.Repeat("\x02", 11): len(line) - 11} {
			s := newScreen(t, 80)
			s.live = newEmulator(80)
			tm, lines := s.open()
			tm.print("hello")
			s.send(line + keys)
			s.shows("hello", "> "+line[:at]+"‸"+line[at:])
			draws := func(out string) int { return strings.Count(out, "\x1b8"+wrapOn) }
			for _, columns := range []int{80, 60, 59, 40, 30, 25, 21, 20, 45, 80, 30, 79} {
				s.mu.Lock()
				before := draws(string(s.raw))
				s.live.resize(columns, reflow)
				s.mu.Unlock()
				s.resize(columns)
				tm.resized() // as SIGWINCH does for a controlling terminal
				s.wait(fmt.Sprintf("one prompt on %d columns, reflow %v", columns, reflow), func(out string) bool {
					rows := s.live.rows()
					return draws(out) == before+1 && len(rows) == 2 && rows[0] == "hello" && strings.HasPrefix(rows[1], "> ") &&
						strings.Contains(rows[1], "‸") && width(rows[1])-1 <= columns && width(rows[1]) > columns-8
				})
			}
			s.send("\r")
			if got := <-lines; !strings.HasPrefix(got.line, "this is a long line") {
				t.Errorf("%+v", got)
			}
		}
	}
	s := newScreen(t, 80)
	tm, lines := s.open()
	s.send(strings.Repeat("x", 70))
	s.shows("> " + strings.Repeat("x", 70) + "‸")
	s.resize(30)
	tm.resized()
	s.wait("the question", func(out string) bool { return strings.Contains(out, askCursor) })
	s.send("y") // without an answer, the row is drawn at the next key
	s.shows("> <" + strings.Repeat("x", 25) + "y‸")
	s.send("\r")
	expect(t, lines, result{line: strings.Repeat("x", 70) + "y"})
}

// sayings is a console at a screen, and its first day.
func chatConsole(t *testing.T, columns int, o consoleOptions) (*screen, *console, time.Time) {
	t.Helper()
	s, tm, _ := chatScreen(t, columns)
	tm.above.day = time.Date(2026, 11, 26, 9, 0, 0, 0, time.Local)
	o.onTerminal = true
	c := newConsole(s.slave, s.slave, s.slave, tm, o)
	t.Cleanup(c.close)
	c.setName("bob")
	return s, c, tm.above.day
}

// TestDays: a line on another day than the one before comes after the day, also in what was missed. A clock that is a
// little behind does not turn the day back.
func TestDays(t *testing.T) {
	s, c, start := chatConsole(t, 60, consoleOptions{})
	c.setRoom("anna", "", 3)
	say := func(seq uint64, at time.Time, text string) {
		if err := c.show(item{seq: seq, time: at, what: itemSay, name: "anna", text: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	midnight := start.Add(15 * time.Hour)
	say(1, start.Add(-48*time.Hour), "two days ago")
	say(2, start.Add(-47*time.Hour), "an hour later")
	say(3, start.Add(-time.Hour), "this morning")
	say(4, start, "now")
	say(5, midnight.Add(-time.Second), "late")
	say(6, midnight, "midnight")
	say(7, midnight.Add(-time.Second), "a clock that is behind")
	say(8, midnight.Add(time.Minute), "a minute past")
	if err := c.show(item{time: midnight.Add(24 * time.Hour), what: itemJoin, name: "carol"}); err != nil {
		t.Fatal(err)
	}
	s.shows("--- Tue 24 Nov 2026", "09:00 anna: two days ago", "10:00 anna: an hour later",
		"--- Thu 26 Nov 2026", "08:00 anna: this morning", "--- new", "09:00 anna: now", "23:59 anna: late",
		"--- Fri 27 Nov 2026", "00:00 anna: midnight", "23:59 anna: a clock that is behind",
		"00:01 anna: a minute past",
		"--- Sat 28 Nov 2026", "00:00 * carol joined", "> ‸")
}

// TestFolds: the joins and leaves of one name within a minute take one line, as long as the line is on the screen.
// Other lines keep their order, and names that look alike have their own lines.
func TestFolds(t *testing.T) {
	t.Parallel()
	join, leave := byte(itemJoin), byte(itemLeave)
	type event struct {
		after time.Duration
		what  byte
		name  string
		text  string
	}
	for _, c := range []struct {
		name   string
		events []event
		want   []string
	}{
		{"a job", []event{{0, join, "backup", ""}, {time.Second, leave, "backup", ""}},
			[]string{"* backup joined and left"}},
		{"a job that speaks", []event{{0, join, "backup", ""}, {0, itemSay, "backup", "done"}, {0, leave, "backup", ""}},
			[]string{"backup: done", "* backup joined and left"}},
		{"a job that comes again", []event{{0, join, "job", ""}, {0, leave, "job", ""},
			{9 * time.Second, join, "job", ""}, {0, leave, "job", ""}}, []string{"* job joined and left 2 times"}},
		{"there again", []event{{0, join, "job", ""}, {0, leave, "job", ""}, {0, join, "job", ""}},
			[]string{"* job joined and left, then joined again"}},
		{"back", []event{{0, leave, "carol", "connection lost"}, {59 * time.Second, join, "carol", ""}},
			[]string{"* carol left and joined again (connection lost)"}},
		{"back and gone", []event{{0, leave, "carol", ""}, {0, join, "carol", ""}, {0, leave, "carol", ""}},
			[]string{"* carol left and joined again, then left"}},
		{"removed", []event{{0, join, "eve", ""}, {0, leave, "eve", "removed by the operator"}},
			[]string{"* eve joined and left (removed by the operator)"}},
		{"after a minute", []event{{0, join, "carol", ""}, {time.Minute, leave, "carol", ""}},
			[]string{"* carol joined", "* carol left"}},
		{"two connections", []event{{0, join, "carol", ""}, {0, join, "carol", ""}, {0, leave, "carol", ""},
			{0, leave, "carol", ""}}, []string{"* carol joined", "* carol joined and left", "* carol left"}},
		{"names that look alike", []event{{0, join, "carol", ""}, {0, join, "car0l~12345678", ""},
			{0, leave, "carol", ""}, {0, leave, "car0l~12345678", ""}, {0, join, "car0l~87654321", ""}},
			[]string{"* carol joined and left", "* car0l~12345678 joined and left", "* car0l~87654321 joined"}},
		{"off the screen", slices.Concat([]event{{0, join, "carol", ""}},
			slices.Repeat([]event{{0, itemSay, "anna", "x"}}, 19), []event{{0, leave, "carol", ""}}),
			slices.Concat([]string{"* carol joined"}, slices.Repeat([]string{"anna: x"}, 19), []string{"* carol left"})},
		{"still on the screen", slices.Concat([]event{{0, join, "carol", ""}},
			slices.Repeat([]event{{0, itemSay, "anna", "x"}}, 18), []event{{0, leave, "carol", ""}}),
			slices.Concat(slices.Repeat([]string{"anna: x"}, 18), []string{"* carol joined and left"})},
		{"beside a long line", []event{{0, join, "carol", ""}, {0, itemSay, "anna", strings.Repeat("words ", 12)},
			{0, leave, "carol", ""}}, []string{"anna: words words words words words words words words",
			"      words words words words", "* carol joined and left"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, con, at := chatConsole(t, 60, consoleOptions{})
			for _, e := range c.events {
				at = at.Add(e.after)
				if err := con.show(item{time: at, what: e.what, name: e.name, text: []byte(e.text)}); err != nil {
					t.Fatal(err)
				}
			}
			var rows []string
			for _, row := range c.want {
				if !strings.HasPrefix(row, " ") {
					row = at.Format(clockLayout) + row
				}
				rows = append(rows, row)
			}
			s.wait("all", func(out string) bool {
				got := draw(out, 60)
				for i, row := range got {
					if len(row) > 6 && row[2] == ':' {
						got[i] = at.Format(clockLayout) + row[6:]
					}
				}
				return slices.Equal(got, append(rows, "> ‸"))
			})
		})
	}
}

// TestFoldAfterResize: after the terminal's width has changed, it is unknown where lines are, so no line is replaced,
// even if the width is the old one again.
func TestFoldAfterResize(t *testing.T) {
	t.Parallel()
	for _, widths := range [][]int{{30}, {30, 60}} {
		s, con, at := chatConsole(t, 60, consoleOptions{})
		show := func(what byte) {
			if err := con.show(item{time: at, what: what, name: "job"}); err != nil {
				t.Fatal(err)
			}
		}
		show(itemJoin)
		for _, columns := range widths {
			s.resize(columns)
			con.term.resized()
		}
		show(itemLeave)
		s.shows("09:00 * job joined", "09:00 * job left", "> ‸")
	}
}

// TestMentions: what counts as somebody's name in a text.
func TestMentions(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"bob", "bob: hi", "[bob]: hi"},
		{"bob", "hi, BoB!", "hi, [BoB]!"},
		{"bob", "@bob, bob's, (bob) bob... -bob- _bob_ bob", "@[bob], [bob]'s, ([bob]) [bob]... -[bob]- _[bob]_ [bob]"},
		{"bob", "bobby abob b0b bob2 bob.smith bob-2 my-bob x_bob bob@router anna@bob bob~12345678", ""},
		{"bob", "вob bоb bób bob\u0301 bobπ πbob ｂｏｂ", ""},
		{"kiss", "\u212aiss ki\u017fs KISS", "\u212aiss ki\u017fs [KISS]"},
		{"bob~12345678", "bob, bob~12345678, BOB~12345678: bob~87654321",
			"[bob], [bob~12345678], [BOB~12345678]: bob~87654321"},
		{"b.ob", "b.ob. bxob", "[b.ob]. bxob"},
		{"漢", "漢字", ""},
		{"bob", "漢bob字 漢 bob 字", "漢bob字 漢 [bob] 字"},
		{"", "nobody", ""},
		{"bob", `x\nbob bob\x1b[0m`, `x\nbob [bob]\x1b[0m`},
	} {
		want, called := c.want, c.want != ""
		if want = strings.ReplaceAll(strings.ReplaceAll(want, "[0m", "\x00"), "[", highlight); called {
			want = strings.ReplaceAll(strings.ReplaceAll(want, "]", colorOff), "\x00", "[0m")
		} else {
			want = c.text
		}
		if got, ok := highlightName(c.text, c.name, true); got != want || ok != called {
			t.Errorf("%q for %s: %q, %v; want %q", c.text, c.name, got, ok, want)
		}
		if got, ok := highlightName(c.text, c.name, false); got != c.text || ok != called {
			t.Errorf("%q for %s without colour: %q, %v", c.text, c.name, got, ok)
		}
	}
}

// said returns what name said, by the log of the server.
func said(t *testing.T, server *proc, name string) (lines []string) {
	t.Helper()
	for _, r := range records(t, filepath.Join(server.cmd.Dir, "connection.log")) {
		if r["event"] == eventMessage && r["name"] == name {
			lines = append(lines, recordField(r, "message"))
		}
	}
	return lines
}

// output returns the output so far.
func (s *screen) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.raw)
}

// TestNameRings: somebody's own name in a message of another person is highlighted and rings the bell once, also at the
// server. Without colours it rings only, with -nobell it is highlighted only. One's own lines do neither.
func TestNameRings(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	op, _, addr := roomAtTerminal(t, 80, "NO_COLOR=", anna)
	bobDir := guest(t, anna, addr, "bob")
	carol, _ := startAtTerminal(t, 80, "", "-connect", addr, "-dir", guest(t, anna, addr, "carol"))
	carol.waitText("carol> ")
	for _, c := range []struct {
		env, flag     string
		rings, colour bool
	}{{"NO_COLOR=", "-nobell=false", true, true}, {"NO_COLOR=1", "-nobell=false", true, false},
		{"NO_COLOR=", "-nobell", false, true}} {
		bob, cmd := startAtTerminal(t, 80, c.env, "-connect", addr, "-dir", bobDir, c.flag)
		bob.waitText("bob")
		carol.waitText("bob joined")
		runToEnd(t, t.TempDir(), "bob here is the same key\n", "-connect", addr, "-dir", bobDir)
		bob.waitText("bob here is the same key")
		bob.send("I am bob\r")
		carol.waitText("I am ")
		carol.send("bobby and b0b\r/msg bob direct, bob\rover, BOB and bob\r")
		bob.waitText("over, ")
		carol.send("after\r")
		bob.waitText(": after")
		out := bob.output()
		if rings := strings.Count(out, "\a"); (rings > 0) != c.rings || rings > 2 {
			t.Errorf("%s %s: %d bells", c.env, c.flag, rings)
		}
		want := "over, BOB and bob"
		if c.colour {
			want = "over, " + highlight + "BOB" + colorOff + " and " + highlight + "bob" + colorOff
		}
		if !strings.Contains(out, want) || strings.Contains(out, highlight+"bob"+colorOff+" here is") {
			t.Errorf("%s %s: %q", c.env, c.flag, out)
		}
		if !c.colour && strings.Contains(out, highlight) {
			t.Errorf("%s %s: colours", c.env, c.flag)
		}
		bob.leave(cmd)
	}
	if strings.Contains(op.output(), "\a") {
		t.Error("the server rings for nothing")
	}
	carol.send("anna?\r")
	op.waitText(highlight + "anna" + colorOff + "?")
	op.waitText("\a")
}

// TestJobInRoom: a job that joins, sends a line and leaves takes its line and one more on each terminal, however often
// it comes. With -quiet-joins it takes only its line; but a name that looks like another one is shown.
func TestJobInRoom(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	op, _, addr := roomAtTerminal(t, 80, "", anna)
	carol, _ := startAtTerminal(t, 80, "", "-connect", addr, "-dir", guest(t, anna, addr, "carol"))
	carol.waitText("carol> ")
	dora, _ := startAtTerminal(t, 80, "", "-connect", addr, "-dir", guest(t, anna, addr, "dora"), "-quiet-joins")
	dora.waitText("dora> ")
	job := guest(t, anna, addr, "backup")
	for range 3 {
		if _, code := sendHello(t, job, addr); code != exitDone {
			t.Fatal(code)
		}
	}
	clock := func(rows []string) []string {
		for i, row := range rows {
			if matches(`^\d\d:\d\d `, row) {
				rows[i] = row[6:]
			}
		}
		return rows
	}
	for _, s := range []*screen{op, carol} {
		s.wait("one line for the visits", func(out string) bool {
			rows := clock(draw(out, 80))
			return len(rows) > 4 && slices.Equal(rows[len(rows)-5:len(rows)-1],
				[]string{"backup: hello", "backup: hello", "backup: hello", "* backup joined and left 3 times"})
		})
	}
	lookalike := state(t, "alike")
	appendFile(t, filepath.Join(anna, "authorized_keys"), publicKeyOf(t, lookalike)+" car0l\n")
	pin(t, lookalike, addr, anna)
	if _, code := sendHello(t, lookalike, addr); code != exitDone {
		t.Fatal(code)
	}
	for _, s := range []*screen{op, carol} {
		s.wait("the name that looks alike", func(out string) bool {
			rows := clock(draw(out, 80))
			return matches(`^\* car0l~[0-9a-f]{8} joined and left$`, rows[len(rows)-2])
		})
	}
	dora.match(`\* car0l~[0-9a-f]{8} joined\r`)
	if out := dora.output(); strings.Contains(out, "backup joined") || strings.Contains(out, "left") {
		t.Errorf("-quiet-joins: %q", out)
	}
}

// TestUnreadMark: who returns sees a mark between what was missed and what is new, once, also before an own line.
func TestUnreadMark(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	log := filepath.Join(server.cmd.Dir, "connection.log")
	bobDir := guest(t, anna, addr, "bob")
	bob, cmd := startAtTerminal(t, 80, "", "-connect", addr, "-dir", bobDir)
	bob.waitText("* 2 here: anna, bob")
	server.send("while you are here\n")
	bob.waitText("while you are here")
	bob.send("mine\r/quit\r")
	bob.waitExit(cmd, exitDone)
	if strings.Contains(bob.output(), unreadMark) {
		t.Error("a mark although nothing was missed")
	}
	server.err.match(t, `\* bob left`)
	server.say(log, "missed one\nmissed two\n")
	for _, own := range []bool{false, true} {
		again, cmd := startAtTerminal(t, 80, "", "-connect", addr, "-dir", bobDir)
		again.waitText("2 messages while you were away:")
		again.waitText("missed two")
		again.waitText("* 2 here: anna, bob")
		if own {
			again.send("back\r")
		} else {
			server.send("new\nmissed one\nmissed two\n")
		}
		again.wait("the mark", func(out string) bool {
			rows := draw(out, 80)
			at := slices.Index(rows, unreadMark)
			return at > 0 && matches(`missed two$|2 here`, rows[at-1]) && matches(`: new$|bob> back$`, rows[at+1])
		})
		if !own {
			again.wait("all", func(out string) bool { return strings.Count(out, "missed two") == 2 })
		}
		seen := strings.Count(again.output(), "missed two")
		if own {
			server.out.match(t, "bob: back") // recorded, so the history has it
		}
		again.send("/history 2\r")
		again.wait("the history", func(out string) bool {
			return strings.Count(out, "missed two") > seen && (!own || strings.Contains(out, "bob: back"))
		})
		again.send("bye\r")
		again.leave(cmd)
		if marks := strings.Count(again.output(), unreadMark+"\r"); marks != 2 { // the second one is behind the history
			t.Errorf("%d marks: %q", marks, again.output())
		}
		if !own {
			server.err.match(t, `(?s)(\* bob left.*){2}`)
			server.say(log, "missed one\nmissed two\n")
		}
	}
}

// TestTabNames: Tab completes everybody who is in the room, also those who were there before and those who say nothing,
// at a client that returns and at the server. At the start of a line a colon follows. An empty line stays empty, and
// one's own name is not completed.
func TestTabNames(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	op, _, addr := roomAtTerminal(t, 80, "", anna)
	bobDir := guest(t, anna, addr, "bob")
	for _, name := range []string{"carol", "dora"} {
		start(t, t.TempDir(), "-connect", addr, "-dir", guest(t, anna, addr, name))
		op.waitText(name + " joined")
	}
	for range 2 { // for the first time, and as somebody who returns
		bob, cmd := startAtTerminal(t, 80, "", "-connect", addr, "-dir", bobDir)
		lists := func(n int) func(string) bool {
			return func(out string) bool { return strings.Count(out, "* 4 here: anna, bob, carol, dora") == n }
		}
		bob.wait("one list", lists(1))
		bob.send("\t\t\tC\tand do\t\r")
		op.waitText("carol: and dora ")
		bob.send("b\t.\t\t/wh\t\r")
		op.waitText("b.")
		bob.send("\x15/who\r")
		bob.wait("another list", lists(2))
		bob.leave(cmd)
		if out := bob.output(); !lists(2)(out) || strings.Contains(out, "carol  dora") {
			t.Errorf("more lists than were asked for: %q", out)
		}
		op.send("/history 1\r")
	}
	op.send("\tca\tgo to do\t\r")
	op.waitText("anna> carol: go to dora ")
}

// TestReply: /reply answers the last direct message, also one that was missed, and is kept in the history as the /msg
// that it stands for. Without such a message it sends nothing.
func TestReply(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	op, server, addr := roomAtTerminal(t, 80, "", anna)
	bob, _ := startAtTerminal(t, 80, "", "-connect", addr, "-dir", guest(t, anna, addr, "bob"))
	bob.waitText("* 2 here")
	carol, _ := startAtTerminal(t, 80, "", "-connect", addr, "-dir", guest(t, anna, addr, "carol"))
	carol.waitText("* 3 here")
	bob.send("/reply hello\r")
	bob.waitText("/reply TEXT answers the last message to you alone: there is none, or no TEXT")
	carol.send("/msg bob psst\r")
	bob.waitText("carol (to you): psst")
	op.send("in between\r")
	bob.waitText("in between")
	bob.send("/reply  I hear you\r")
	carol.waitText("bob (to you): I hear you")
	bob.waitText("bob> /msg carol  I hear you")
	op.send("/msg bob and I\r")
	bob.waitText("anna (to you): and I")
	bob.send("\x1b[A\r") // the history answers carol again
	carol.wait("the answer again", func(out string) bool { return strings.Count(out, "(to you): I hear you") == 2 })
	bob.send(pasteMark("/reply no") + "\r/reply\r/replying\r/reply\tyes\r")
	op.waitText("bob: /reply no")
	bob.waitText("there is no /replying here")
	op.waitText("bob (to you): yes")
	op.send("/reply too\r")
	bob.waitText("anna (to you): too")
	if got := said(t, server, "bob"); !slices.Equal(got, []string{"I hear you", "I hear you", "/reply no", "yes"}) {
		t.Errorf("%q", got)
	}
}

// TestOperatorAsks: while others are in the room, the operator's Ctrl-C and Ctrl-D close it only when they are pressed
// again, without a line in between. A client leaves without a question.
func TestOperatorAsks(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	for _, key := range []string{ctrlC, ctrlD} {
		op, server, addr := roomAtTerminal(t, 80, "", anna)
		bob, bobCmd := startAtTerminal(t, 80, "", "-connect", addr, "-dir", guest(t, anna, addr, "bob"))
		bob.waitText("bob> ")
		op.send(key)
		op.waitText("1 other is here; again to close the room")
		carol, carolCmd := startAtTerminal(t, 80, "", "-connect", addr, "-dir", guest(t, anna, addr, "carol"))
		carol.waitText("carol> ")
		op.send("still here\r")
		bob.waitText("still here")
		op.send(key)
		op.waitText("2 others are here; again to close the room")
		carol.send(key)
		carol.waitExit(carolCmd, exitDone)
		op.send("half a line" + ctrlC)
		op.waitText("half a line^C")
		op.send(ctrlU + key) // a key in between, so that Ctrl-C is not taken for a held one
		op.waitExit(server, exitDone)
		bob.waitText("the server is stopping")
		bob.send(ctrlC)
		bob.waitExit(bobCmd, exitTrouble)
	}
}

// TestPasteAsksInRoom: of a long paste nothing is sent before a typed yes, by a client and by the operator.
func TestPasteAsksInRoom(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	op, server, addr := roomAtTerminal(t, 80, "", anna)
	bob, _ := startAtTerminal(t, 20, "", "-connect", addr, "-dir", guest(t, anna, addr, "bob"))
	bob.waitText("bob> ")
	var lines []string
	for i := range 12 {
		lines = append(lines, fmt.Sprint("line ", i))
	}
	paste := pasteMark(strings.Join(lines, "\r"))
	for name, s := range map[string]*screen{"anna": op, "bob": bob} {
		s.send(paste)
		s.waitText("12 lines? [y/N] ")
		s.send("\r")
		s.send("none\r")
		s.send(paste)
		s.wait("the question again", func(out string) bool { return strings.Count(out, "12 lines? [y/N] \x1b7") >= 2 })
		s.send("y\r")
		s.waitText("line 11")
		s.send("after\r")
		map[string]*screen{"anna": bob, "bob": op}[name].waitText(": after")
		want := slices.Concat([]string{"none"}, lines, []string{"after"})
		if got := said(t, server, name); !slices.Equal(got, want) {
			t.Errorf("%s sent %q", name, got)
		}
	}
}

// TestSuddenEnterStays: Enter that is pressed twice, and the end of a paste, do not leave the room. An empty line later
// does.
func TestSuddenEnterStays(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	for _, env := range []string{"TERM=xterm", "TERM=dumb"} {
		bob, cmd := startAtTerminal(t, 80, env, "-connect", addr, "-dir", guest(t, anna, addr, "bob"))
		bob.waitText("bob> ")
		bob.send("twice\r\r")
		server.out.match(t, `bob: twice\n`)
		bob.send("paste\n\n\nend " + env + "\n\n")
		server.out.match(t, `bob: paste\nbob: end `+env+`\n`)
		bob.leave(cmd)
	}
	if strings.Contains(server.out.String(), "bob: \n") {
		t.Error("an empty line was sent")
	}
}

// TestResizeInRoom: SIGWINCH redraws the row that is being edited, on 80, 40 and 20 columns, and lines that arrive
// meanwhile stand above it.
func TestResizeInRoom(t *testing.T) {
	t.Parallel()
	anna := state(t, "anna")
	server, addr := serve(t, anna)
	bob := newScreen(t, 80)
	bob.live = newEmulator(80)
	cmd := startOn(t, bob, bob.slave, "", "-connect", addr, "-dir", guest(t, anna, addr, "bob"))
	bob.waitText("* 2 here: anna, bob")
	bob.send("/who\rthis is a long line being typed, which takes nearly all of the eighty columns")
	bob.wait("the list", func(out string) bool {
		return strings.Count(out, "* 2 here") == 2 && strings.Contains(out, "eighty columns\x1b7")
	})
	for i, columns := range []int{40, 20, 80, 20, 40} {
		bob.mu.Lock()
		bob.live.resize(columns, true)
		bob.mu.Unlock()
		bob.resize(columns)
		one := func(string) bool {
			rows := bob.live.rows()
			prompts := 0
			for _, row := range rows {
				if strings.HasPrefix(row, "bob> ") || strings.Contains(row, "‸") {
					prompts++
				}
			}
			end := "eighty columns‸"
			if columns == 20 {
				end = "columns‸"
			}
			return prompts == 1 && strings.HasSuffix(rows[len(rows)-1], end)
		}
		bob.wait(fmt.Sprint("one prompt on ", columns), one)
		server.send(fmt.Sprintf("number %d is here, with some words to wrap\n", i))
		bob.wait("the message", func(out string) bool {
			return matches(fmt.Sprintf(`\d\d:\d\d anna:\s+number\s+%d`, i), out) && one(out)
		})
	}
	bob.send("\x15/quit\r")
	bob.waitExit(cmd, exitDone)
}

// TestBellOnce: many messages at once ring one bell, and a message that is shown once more rings none.
func TestBellOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c conversation
		c.setName("bob")
		rings := func(seq uint64, what byte, name, text string) bool {
			_, rings := c.message(item{seq: seq, what: what, name: name, text: []byte(text)}, false, false)
			return rings
		}
		for i, s := range []struct {
			after time.Duration
			seq   uint64
			what  byte
			name  string
			text  string
			want  bool
		}{
			{0, 1, itemSay, "anna", "hello", false},
			{0, 2, itemSay, "anna", "hello bob", true},
			{bellPause - 1, 3, itemDirect, "anna", "psst", false},
			{1, 4, itemDirect, "anna", "psst", true},
			{bellPause, 4, itemDirect, "anna", "psst", false}, // from /history
			{0, 5, itemAction, "anna", "looks at Bob", true},
			{bellPause, 6, itemSay, "bob", "bob here", false},
			{0, 0, itemSay, "anna", "the paper has no numbers, bob", true},
		} {
			time.Sleep(s.after)
			if got := rings(s.seq, s.what, s.name, s.text); got != s.want {
				t.Errorf("%d: %v", i, got)
			}
		}
	})
}

// TestReplyTo: the last direct message counts for /reply, and not an older one that the history shows once more.
func TestReplyTo(t *testing.T) {
	var c conversation
	for i, s := range []struct {
		seq        uint64
		what       byte
		name, want string
	}{{1, itemSay, "anna", ""}, {2, itemDirect, "carol", "carol"}, {3, itemDirect, "dora", "dora"},
		{2, itemDirect, "carol", "dora"}, {4, itemSay, "anna", "dora"}} {
		c.message(item{seq: s.seq, what: s.what, name: s.name}, false, false)
		if got := c.replyTo(); got != s.want {
			t.Errorf("%d: %q, want %q", i, got, s.want)
		}
	}
}
