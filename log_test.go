//go:build unix

package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The log: every record is one line of JSON, written as a whole or not at all.

// TestRecords reads records with encoding/json and compares all their members.
func TestRecords(t *testing.T) {
	at := time.Date(2016, 5, 4, 3, 2, 1, 123456789, time.FixedZone("", 3600))
	who := newPeerFields("[fe80::1%eth0]:9", "bob", "SHA256:abc+/", "00ff", bytes.Repeat([]byte{0xab}, 64))
	person := map[string]any{
		"time": "2016-05-04T02:02:01.123456Z", "client": "[fe80::1%eth0]:9", "name": "bob", "fingerprint": "SHA256:abc+/",
		"stream": "00ff",
		"sha512": strings.Repeat("ab", 64), "prev": noHash,
	}
	hostile := "\x00\x1b[2J\"}\n{\"event\":\"stop\"\u202e\xff"
	for _, c := range []struct {
		record []byte
		want   map[string]any
	}{
		{appendRecord(nil, at, eventConnect, who, "by", ""), map[string]any{"event": "connect"}},
		{appendRecord(nil, at, eventDisconnect, who, "reason", hostile),
			map[string]any{"event": "disconnect", "reason": "\x00\x1b[2J\"}\n{\"event\":\"stop\"\u202e\ufffd"}},
		{appendMessage(nil, at, who, 7, itemSay, "", nil, false),
			map[string]any{"event": "message", "seq": 7., "msg_id": 7., "msg_len": 0., "message": ""}},
		{appendMessage(nil, at, who, 1<<53, itemDirect, "anna", []byte("psst"), false),
			map[string]any{"event": "message", "seq": float64(1 << 53), "msg_id": float64(1 << 53), "msg_len": 4.,
				"what": "direct", "to": "anna",
				"message": "psst"}},
		{appendMessage(nil, at, who, 1, itemAction, "", []byte(hostile), false),
			map[string]any{"event": "message", "seq": 1., "msg_id": 1., "msg_len": float64(len(hostile)),
				"what": "action", "message": "\x00\x1b[2J\"}\n{\"event\":\"stop\"\u202e\ufffd",
				"base64": base64.StdEncoding.EncodeToString([]byte(hostile))}},
	} {
		for k, v := range person {
			c.want[k] = v
		}
		var got map[string]any
		if err := json.Unmarshal(c.record, &got); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %s\n%v\n%v", err, c.record, got, c.want)
		}
		if bytes.IndexByte(c.record, '\n') != len(c.record)-1 || bytes.ContainsAny(c.record, "\x00\x1b\u202e") {
			t.Errorf("not a single safe line: %q", c.record)
		}
	}
}

// TestLogAppends checks that concurrent writers in several runs never mix the records of two writes.
func TestLogAppends(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	for i := range 3 {
		l, err := openLog(logOptions{path: path})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 10 {
					if err := l.write(func(b []byte) []byte {
						return appendMessage(appendMessage(b, time.Now(), nil, uint64(i), itemSay, "", []byte("one"), false),
							time.Now(), nil, uint64(i), itemSay, "", []byte("two"), false)
					}, nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for range 2 {
			if err := l.close(); err != nil {
				t.Error(err)
			}
		}
	}
	texts := messages(t, path)
	for i := 0; i < len(texts); i += 2 {
		if texts[i] != "one" || texts[i+1] != "two" {
			t.Fatalf("records %d and %d are not of one write", i, i+1)
		}
	}
	if len(texts) != 3*50*10*2 {
		t.Errorf("%d records", len(texts))
	}
}

// TestLogOff checks that -log off makes no records.
func TestLogOff(t *testing.T) {
	l, err := openLog(logOptions{path: "off"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.write(func([]byte) []byte { t.Error("a record was made"); return nil }, nil); err != nil {
		t.Error(err)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
}

// appendMessage appends the record of one line.
func appendMessage(b []byte, at time.Time, who peerFields, id uint64, what byte, to string, text []byte,
	digests bool) []byte {
	return appendMessages(b, at, who, lines{first: id, what: what, to: to, texts: [][]byte{text}}, id, digests)
}

// TestLogRejectsPath checks that a path that cannot be a log is rejected, with the option that helps.
func TestLogRejectsPath(t *testing.T) {
	dir := t.TempDir()
	for what, path := range map[string]string{"a folder": dir, "no folder": filepath.Join(dir, "no", "log"),
		"a device": os.DevNull} {
		if l, err := openLog(logOptions{path: path}); err == nil || l != nil || !strings.Contains(err.Error(), "-log FILE") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFailedWrite checks that a failed write returns an error and leaves the file unchanged, and that the next one
// succeeds.
func TestFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	add := func(text string) error {
		return l.write(func(b []byte) []byte {
			return appendMessage(b, time.Now(), nil, 1, itemSay, "", []byte(text),
				false)
		}, nil)
	}
	if err := add("one"); err != nil {
		t.Fatal(err)
	}
	good := l.f
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if l.f, err = os.Open(path); err != nil { // The file is open for reading only.
		t.Fatal(err)
	}
	defer l.f.Close()
	if err := add("two"); err == nil || !strings.HasPrefix(err.Error(), "cannot write the log") {
		t.Errorf("a file that cannot be written: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the failed write left something: %v", err)
	}
	l.f = good
	if err := add("three"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(messages(t, path)); got != "[one three]" {
		t.Error(got)
	}
}

// The log's hash chain: -verify-log names the line of every change; the chain continues over rotated files, power
// cuts and signals. Then torn writes, and a log that is a FIFO.

// fill opens the log at path, appends messages first to last of one stream, and closes it.
func fill(t testing.TB, path string, first, last int) {
	t.Helper()
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	who := newPeerFields("192.0.2.1:1", "bob", "SHA256:bob", streamID{1}.String(), nil)
	for n := first; n <= last; n++ {
		if err := l.write(func(b []byte) []byte {
			return appendMessage(b, time.Unix(int64(n), 0), who, uint64(n), itemSay, "", fmt.Appendf(nil, "line %d", n), false)
		}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// contents returns the bytes of a file.
func contents(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVerify changes a log in many ways. The error names the line, and every byte is protected.
func TestVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	fill(t, path, 1, 4)
	fill(t, path, 5, 9)
	whole := contents(t, path)
	lines := func() [][]byte {
		return bytes.SplitAfter(bytes.TrimSuffix(bytes.Clone(whole), []byte("\n")), []byte("\n"))
	}
	v, err := verifyLog(bytes.NewReader(whole))
	last := lines()[8]
	if err != nil || v.records != 9 || v.first != [32]byte{} || v.head != sha256.Sum256(append(last, '\n')) {
		t.Fatalf("%+v, %v", v, err)
	}
	for what, c := range map[string]struct {
		change func(l [][]byte) [][]byte
		want   string
	}{
		"edited": {func(l [][]byte) [][]byte {
			l[3] = bytes.Replace(l[3], []byte("line 4"), []byte("line x"), 1)
			return l
		}, "line 4 was edited"},
		"first edited": {func(l [][]byte) [][]byte {
			l[0] = bytes.Replace(l[0], []byte("line 1"), []byte("line x"), 1)
			return l
		}, "line 1 was edited"},
		"removed":     {func(l [][]byte) [][]byte { return slices.Delete(l, 3, 4) }, "line 4 does not follow line 3"},
		"two removed": {func(l [][]byte) [][]byte { return slices.Delete(l, 3, 5) }, "line 4 does not follow line 3"},
		"doubled":     {func(l [][]byte) [][]byte { return slices.Insert(l, 3, l[2]) }, "line 3 was inserted"},
		"inserted, unchained": {func(l [][]byte) [][]byte {
			return slices.Insert(l, 3, bytes.Replace(l[7], []byte("line 8"), []byte("forged"), 1))
		},
			"line 4 was inserted"},
		"inserted, chained": {func(l [][]byte) [][]byte {
			return slices.Insert(l, 3, bytes.Replace(l[3], []byte("line 4"), []byte("forged"), 1))
		},
			"line 4 was inserted"},
		"two inserted": {func(l [][]byte) [][]byte { return slices.Insert(l, 3, l[6], l[7]) }, "lines 4 to 5 were inserted"},
		"swapped":      {func(l [][]byte) [][]byte { l[3], l[4] = l[4], l[3]; return l }, "line 4 is out of place"},
		"moved": {func(l [][]byte) [][]byte {
			return append(slices.Delete(slices.Clone(l), 3, 4), append(l[3], '\n'))
		}, "line 4 is out of place"},
		"cut within": {func(l [][]byte) [][]byte { l[3] = append(l[3][:20:20], '\n'); return l }, "line 4 was edited"},
		"cut at end": {func(l [][]byte) [][]byte { l[8] = l[8][:50]; return l }, "line 9 is torn"},
		"text": {func(l [][]byte) [][]byte { return slices.Insert(l, 3, []byte("hello\n")) },
			"line 4 was edited or inserted"},
		"empty line": {func(l [][]byte) [][]byte { return slices.Insert(l, 3, []byte("\n")) },
			"line 4 was edited or inserted"},
		"no line": {func(l [][]byte) [][]byte { return [][]byte{make([]byte, maxRecord+1)} }, "line 1 is longer"},
	} {
		l := lines()
		l[8] = append(l[8], '\n')
		changed := bytes.Join(c.change(l), nil)
		if what == "moved" {
			changed = bytes.TrimSuffix(changed, []byte("\n"))
		}
		if _, err := verifyLog(bytes.NewReader(changed)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Every changed byte is detected, except in the last line, whose hash is only in the head.
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1 // The change never makes a newline.
		v, err := verifyLog(bytes.NewReader(changed))
		if line := 1 + bytes.Count(whole[:i], []byte("\n")); err == nil &&
			(line < 9 || v.head == sha256.Sum256(append(last, '\n'))) {
			t.Fatalf("byte %d, in line %d, can be changed", i, line)
		}
	}
}

// TestVerifyFiles checks that a chain continues in the next file, and that a missing file is detected.
func TestVerifyFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "connection.log")
	fill(t, path, 1, 3)
	for n := range 2 {
		if n == 1 {
			os.Rename(path+".1", path+".2")
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		fill(t, path, 4+n, 4+n)
	}
	out, stderr, code := runToEnd(t, dir, "", "-verify-log", "connection.log.2", "connection.log.1", "connection.log")
	if code != exitDone || strings.Count(out, "unbroken") != 3 ||
		!strings.Contains(out, "connection.log.2: 3 records, unbroken; begins a chain; head ") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	out, stderr, code = runToEnd(t, dir, "", "-verify-log", "connection.log.2", "connection.log")
	if code != exitTrouble || !strings.Contains(stderr, "line 1 does not follow") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	if _, stderr, code := runToEnd(t, dir, "", "-verify-log", "no.log"); code != exitTrouble ||
		!strings.Contains(stderr, "no.log") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// compress replaces the file at path by path.gz, compressed as gzip does it.
func compress(t *testing.T, path string) string {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(contents(t, path)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(z.Close(), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	return put(t, path+".gz", out.Bytes())
}

// TestVerifyCompressed checks that compressed files are verified among others, and that the output names them as such.
func TestVerifyCompressed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "connection.log")
	fill(t, path, 1, 3)
	for n := range 3 {
		if n > 0 {
			os.Rename(path+".2", path+".3")
			os.Rename(path+".1", path+".2")
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		fill(t, path, 4+n, 4+n)
	}
	compress(t, path+".3")
	compress(t, path+".2")
	files := []string{"connection.log.3.gz", "connection.log.2.gz", "connection.log.1", "connection.log"}
	out, stderr, code := runToEnd(t, dir, "", append([]string{"-verify-log"}, files...)...)
	wantRun(t, "four files", stderr, code, exitDone, "^$")
	if strings.Count(out, "unbroken") != 4 || strings.Count(out, ".gz: gzip, ") != 2 ||
		!strings.Contains(out, "connection.log.3.gz: gzip, 3 records, unbroken; begins a chain; head ") {
		t.Errorf("%q", out)
	}
	head := regexp.MustCompile(`log\.2\.gz: .* head ([0-9a-f]{64})`).FindStringSubmatch(out)
	if head == nil {
		t.Fatalf("no head in %q", out)
	}
	out, stderr, code = runToEnd(t, dir, "", append([]string{"-verify-log", "-head", head[1]}, files...)...)
	wantRun(t, "the head of a compressed file", stderr, code, exitDone, "^$")
	if !strings.HasSuffix(out, "head found: line 1 of connection.log.2.gz\n") {
		t.Errorf("%q", out)
	}
	_, stderr, code = runToEnd(t, dir, "", "-verify-log", files[0], files[2])
	wantRun(t, "a missing file", stderr, code, exitTrouble,
		"log.1: line 1 does not follow the last line of connection.log.3.gz")
	both := put(t, filepath.Join(dir, "both.gz"), slices.Concat(contents(t, path+".3.gz"), contents(t, path+".2.gz")))
	out, stderr, code = runToEnd(t, dir, "", "-verify-log", both)
	wantRun(t, "two files in one", stderr, code, exitDone, "^$")
	if !strings.Contains(out, "gzip, 4 records, unbroken") {
		t.Errorf("%q", out)
	}
	put(t, both, append(contents(t, both), "garbage, and more of it"...))
	_, stderr, code = runToEnd(t, dir, "", "-verify-log", both)
	wantRun(t, "trailing garbage", stderr, code, exitTrouble,
		"after line 4, what follows in the compressed file is not from gzip")
}

// TestVerifyDamagedCompressed checks that no part of a compressed log is taken for the whole, and that no change of a
// byte goes unnoticed which changes the records.
func TestVerifyDamagedCompressed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	fill(t, path, 1, 5)
	path = compress(t, path)
	whole := contents(t, path)
	want, err := verifyFile(path, func(int, [32]byte) {})
	if err != nil || want.records != 5 {
		t.Fatal(want, err)
	}
	for n := 2; n < len(whole); n++ {
		put(t, path, whole[:n])
		if _, err := verifyFile(path, func(int, [32]byte) {}); err == nil || !strings.Contains(err.Error(),
			"cut off after line") {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x04
		put(t, path, damaged)
		if v, err := verifyFile(path, func(int, [32]byte) {}); err == nil && v != want {
			t.Errorf("byte %d was changed: %v", i, v)
		}
	}
}

// TestVerifyBomb checks that a compressed file of 32 KiB that becomes 32 MiB takes little memory.
func TestVerifyBomb(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	fill(t, path, 1, 2)
	first := contents(t, path)
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(first)
	z.Write(first) // which does not follow itself, so the rest is searched for the record before it
	for zeros := make([]byte, 1<<20); len(zeros) > 0 && out.Len() < 32<<10; {
		z.Write(zeros)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path = put(t, path+".gz", out.Bytes())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := verifyFile(path, func(int, [32]byte) {})
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "line 3 does not follow line 2") {
		t.Error(err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 4*maxRecord {
		t.Errorf("%d bytes of memory for a file of %d bytes", used, out.Len())
	}
}

// TestVerifyHead: with -head, a log without its last records, or with an edited last record, is reported.
func TestVerifyHead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "connection.log")
	fill(t, path, 1, 3)
	verify := func(head string, files ...string) (string, string, int) {
		return runToEnd(t, dir, "", append([]string{"-verify-log", "-head", head}, files...)...)
	}
	v, err := verifyFile(path, func(int, [32]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("%X", v.head)
	fill(t, path, 4, 5)
	out, stderr, code := verify(head, path)
	if code != exitDone || !strings.HasSuffix(out, "head found: line 3 of "+path+"\n") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	fill(t, path, 6, 6)
	if out, stderr, code := verify(head, path+".1", path); code != exitDone ||
		!strings.Contains(out, "line 3 of "+path+".1") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	_, stderr, code = verify(head, path)
	wantRun(t, "the file is not named", stderr, code, exitTrouble, "no record has the hash "+strings.ToLower(head))
	v, err = verifyFile(path+".1", func(int, [32]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	if out, stderr, code := verify(fmt.Sprintf("%x", v.head), path); code != exitDone ||
		!strings.HasSuffix(out, "head found: it precedes line 1 of "+path+"\n") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	v, err = verifyFile(path, func(int, [32]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	put(t, path, bytes.Replace(contents(t, path), []byte("line 6"), []byte("line x"), 1))
	_, stderr, code = verify(fmt.Sprintf("%x", v.head), path)
	wantRun(t, "the last record was edited", stderr, code, exitTrouble, "no record has the hash")
	_, stderr, code = verify("12ab", path)
	wantRun(t, "not a hash", stderr, code, exitUsage, "-head 12ab: give the 64 hexadecimal digits")
	_, stderr, code = runToEnd(t, dir, "", "-head", head)
	wantRun(t, "alone", stderr, code, exitUsage, "")
	_, stderr, code = runToEnd(t, dir, "", "-verify-log", path+".1", "-head", head)
	wantRun(t, "behind a file", stderr, code, exitDone, "^$")
}

// TestVerifyEnd: the records that the end of a file has as a whole are verified, and no others.
func TestVerifyEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	fill(t, path, 1, 9)
	whole := contents(t, path)
	edited := int64(bytes.Index(whole, []byte("line 4")))
	begin := int64(bytes.LastIndexByte(whole[:edited], '\n') + 1)
	put(t, path, bytes.Replace(whole, []byte("line 4"), []byte("line x"), 1))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(len(whole))
	for from := range size - 1 {
		_, err := verifyEnd(f, size, size-from)
		if damaged := from < begin; (err != nil) != damaged {
			t.Fatalf("from byte %d, the edited record begins at %d: %v", from, begin, err)
		}
	}
}

// TestDamagedLog: a start verifies what it reads of the log, reports what is wrong on stderr and in the start record,
// and serves all the same.
func TestDamagedLog(t *testing.T) {
	edit := func(t *testing.T, path string) {
		put(t, path, bytes.Replace(contents(t, path), []byte("line 2"), []byte("line x"), 1))
	}
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, path string)
		want  string
	}{
		{"edited", edit, "damaged: line 3 does not follow line 2: line 2 was edited"},
		{"edited and torn", func(t *testing.T, path string) { edit(t, path); appendFile(t, path, `{"time":"20`) },
			"repaired: 11 bytes of a torn last record were removed; damaged: line 3 does not follow line 2: line 2 was edited"},
		{"rotated and edited", func(t *testing.T, path string) {
			edit(t, path)
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			fill(t, path, 5, 6)
		}, "damaged: .*x.log.1: line 3 does not follow line 2: line 2 was edited"},
		{"records between two files", func(t *testing.T, path string) {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			fill(t, path, 5, 6)
			b := contents(t, path+".1")
			put(t, path+".1", b[:bytes.LastIndexByte(b[:len(b)-1], '\n')+1])
		}, "damaged: .*x.log: line 1 does not follow the last line of .*x.log.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, path := state(t, "anna"), filepath.Join(t.TempDir(), "x.log")
			fill(t, path, 1, 4)
			c.spoil(t, path)
			server, _ := serve(t, dir, "-log", path)
			server.err.match(t, `x.log: `+c.want)
			server.cmd.Process.Signal(syscall.SIGTERM)
			if code := server.wait(); code != exitDone {
				t.Errorf("exit %d", code)
			}
			for _, r := range records(t, path) {
				if r["event"] == eventStart && !matches("^"+c.want, recordField(r, "log")) {
					t.Errorf("the start record: %v", r)
				}
			}
		})
	}
}

// TestVerifySafeName checks that a file's name is printed as safe text.
func TestVerifySafeName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection\x1b[2J.log")
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var out strings.Builder
		if err := verifyLogs([]string{path}, "", &out); err != nil || !strings.Contains(out.String(),
			`connection\x1b[2J.log: `) {
			t.Errorf("%q, %v", out.String(), err)
		}
		l.record(recordOf(time.Now(), eventStop, nil, "", ""), nil)
	}
	l.close()
}

// TestTornBeforeRotation checks that a start with a new file removes the torn record with which its predecessor ends,
// since a server that was killed before a rotation cannot; but not while another server writes that file.
func TestTornBeforeRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	fill(t, path, 1, 3)
	appendFile(t, path, `{"time":"20`)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	writer, err := os.Open(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	if locked, err := tryLock(writer); err != nil || !locked {
		t.Fatal(locked, err)
	}
	for _, want := range []string{"continues " + path + ".1",
		"repaired: 11 bytes of a torn last record of " + path + ".1 were removed"} {
		l, err := openLog(logOptions{path: path})
		if err != nil {
			t.Fatal(err)
		}
		l.close()
		if l.began != want {
			t.Errorf("began %q, want %q", l.began, want)
		}
		writer.Close()
	}
	fill(t, path, 4, 5)
	if err := verifyLogs([]string{path + ".1", path}, "", io.Discard); err != nil {
		t.Error(err)
	}
}

// TestTornRecord checks that a start removes the torn record that a power cut leaves, and that other files are left
// alone.
func TestTornRecord(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "connection.log")
	fill(t, path, 1, 3)
	whole := contents(t, path)
	end := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for cut := end; cut < len(whole); cut++ {
		for _, zeros := range []int{0, 5000} {
			if err := os.WriteFile(path, append(bytes.Clone(whole[:cut]), make([]byte, zeros)...), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := openLog(logOptions{path: path})
			if err != nil {
				t.Fatal(err)
			}
			l.close()
			if torn := cut - end + zeros; strings.HasPrefix(l.began, "repaired") != (torn > 0) ||
				!bytes.Equal(contents(t, path), whole[:end]) || l.end.head != sha256.Sum256(whole[end/2:end]) {
				t.Fatalf("cut at %d of %d, %d zeros: %q", cut, len(whole), zeros, l.began)
			}
		}
	}
	for _, first := range []string{`{`, `{"time":"2026`} { // The first record of a log.
		if err := os.WriteFile(path, []byte(first), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := openLog(logOptions{path: path}); err != nil || l.end.size != 0 {
			t.Errorf("%q: %v", first, err)
		} else {
			l.close()
		}
	}
	for what, content := range map[string][]byte{
		"text": []byte("alias ll='ls -l'\n"), "text without an end": []byte("export A"),
		"a long line": bytes.Repeat([]byte("x"), 3*maxRecord),
		"other JSON":  []byte("{\"time\":\"x\"}\n"), "zeros": make([]byte, 100),
		"text behind records": append(bytes.Clone(whole), "hello\n"...),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openLog(logOptions{path: path}); err == nil || !strings.Contains(err.Error(), errForeignLog.Error()) ||
			!bytes.Equal(contents(t, path), content) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRepairReported checks that the server reports a repair on stderr and in the log.
func TestRepairReported(t *testing.T) {
	t.Parallel()
	dir := state(t, "anna")
	path := filepath.Join(t.TempDir(), "x.log")
	fill(t, path, 1, 3)
	appendFile(t, path, `{"time":"20`)
	p, _ := serve(t, dir, "-log", path)
	p.err.match(t, `x.log: repaired: 11 bytes of a torn last record were removed`)
	p.cmd.Process.Signal(syscall.SIGTERM)
	if p.wait() != exitDone {
		t.Error(p.err)
	}
	all := records(t, path)
	at := slices.IndexFunc(all, func(r map[string]any) bool { return r["event"] == eventStart })
	if at < 4 || all[at-1]["event"] != eventStream || !strings.HasPrefix(fmt.Sprint(all[at]["log"]), "repaired") {
		t.Errorf("the start record, at %d of %v", at, all)
	}
	if out, stderr, code := runToEnd(t, dir, "", "-verify-log", path); code != exitDone {
		t.Errorf("%s%s", out, stderr)
	}
}

// TestReplay checks that a start reads the last msg_id of each stream from the log's end, also after a rotation.
func TestReplay(t *testing.T) {
	r, path := quietRoom(t)
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "one", `,"stream":"00000000000000000000000000000000","msg_id":9`, "three")); err != nil {
		t.Fatal(err)
	}
	cleo, _ := enter(t, r, "cleo", "key c", 3)
	if err := r.say(cleo, says(1, "one")); err != nil {
		t.Fatal(err)
	}
	r.leave(cleo, errLeft.Error())
	dora, _ := enter(t, r, "dora", "key d", 4)
	if err := r.say(dora, says(7, "seven")); err != nil {
		t.Fatal(err)
	}
	restart := func() *room {
		t.Helper()
		l, err := openLog(logOptions{path: path})
		if err != nil {
			t.Fatal(err)
		}
		r, err := newRoom(l, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	check := func(r *room) {
		t.Helper()
		var got []string
		for key, s := range r.streams.known {
			got = append(got, fmt.Sprintf("%s %d %d/%d", key.owner.fingerprint, s.id[0], s.last, s.durable))
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{"key b 2 3/3", "key d 4 7/7"}) {
			t.Errorf("after a start the streams are %q", got)
		}
	}
	r.log.close() // without a goodbye, as in a crash
	r = restart()
	check(r)
	r.leave(bob, "")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := r.reopen(); err != nil {
		t.Fatal(err)
	}
	if all := records(t, path); all[0]["event"] != eventRoom || len(all) != 6 {
		t.Errorf("the new file begins with %v", all)
	}
	r.log.close()
	os.Remove(path + ".1")
	r = restart() // from the new file alone
	check(r)
	r.log.close()
	if err := os.Rename(path, path+".1"); err != nil { // rotated while the server did not run
		t.Fatal(err)
	}
	r = restart()
	check(r)
	if r.log.began != "continues "+path+".1" {
		t.Error(r.log.began)
	}
	r.log.close()
}

// TestReplayBounded checks that a start does not read the log before its tail (64 GiB would take minutes), and still
// knows a stream without a message in the tail.
func TestReplayBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	record := appendRecord(nil, time.Now(), eventStart, nil, "", "")
	chain(record, [32]byte{})
	if _, err := f.WriteAt(append([]byte("\n"), record...), 64<<30); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRoom(l, 0, false)
	if err != nil || len(r.streams.known) != 0 {
		t.Fatalf("%d streams, %v", len(r.streams.known), err)
	}
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "one", "two")); err != nil {
		t.Fatal(err)
	}
	r.leave(bob, "lost")
	loud, _ := enter(t, r, "loud", "key l", 3)
	r.mute(loud)
	n := uint64(0)
	for begin := l.end.size; l.end.size < begin+2*tailBytes; n++ {
		if err := r.say(loud, says(n+1, strings.Repeat("x", maxLine))); err != nil {
			t.Fatal(err)
		}
	}
	l.close()
	if l, err = openLog(logOptions{path: path}); err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if r, err = newRoom(l, 0, false); err != nil {
		t.Fatal(err)
	}
	if _, w := enter(t, r, "bob", "key b", 2); w.recorded != 2 {
		t.Errorf("bob's stream is at %d", w.recorded)
	}
	if _, w := enter(t, r, "loud", "key l", 3); w.recorded != n {
		t.Errorf("loud's stream is at %d of %d", w.recorded, n)
	}
}

// TestReopenUnderLoad rotates the log often while several members send. No line is lost, repeated or out of order,
// and the chain is unbroken.
func TestReopenUnderLoad(t *testing.T) {
	r, path := quietRoom(t)
	const speakers, each, rotations = 4, 500, 10
	done := make(chan error, speakers)
	for i := range speakers {
		m, _ := enter(t, r, fmt.Sprint("m", i), fmt.Sprint("key ", i), byte(i+1))
		go func() {
			var err error
			for n := range uint64(each) {
				err = errors.Join(err, r.say(m, says(n+1, fmt.Sprintf("%d-%d", i, n))))
			}
			done <- err
		}()
	}
	var files []string
	for i := range rotations {
		old := fmt.Sprintf("%s.%03d", path, i)
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		if err := r.reopen(); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
	}
	for range speakers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	before := contents(t, path)
	if err := r.reopen(); err != nil || !bytes.Equal(contents(t, path), before) {
		t.Errorf("reopening without a rotation wrote a record: %v", err)
	}
	files = append(files, path)
	if err := verifyLogs(files, "", io.Discard); err != nil {
		t.Error(err)
	}
	next := [speakers]int{}
	for _, f := range files {
		for _, text := range messages(t, f) {
			var i, n int
			fmt.Sscanf(text, "%d-%d", &i, &n)
			if n != next[i] {
				t.Fatalf("speaker %d: line %d after %d", i, n, next[i]-1)
			}
			next[i]++
		}
	}
	if next != [speakers]int{each, each, each, each} {
		t.Errorf("the files have %v messages", next)
	}
}

// TestDigestsOnly checks that -log-text=false records the SHA-256 of a message instead of its text.
func TestDigestsOnly(t *testing.T) {
	r, path := quietRoom(t)
	r.log.digests = true
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "a secret")); err != nil {
		t.Fatal(err)
	}
	all := records(t, path)
	if got := all[len(all)-1]; got["sha256"] != fmt.Sprintf("%x", sha256.Sum256([]byte("a secret"))) ||
		got["msg_len"] != 8. ||
		got["message"] != nil || bytes.Contains(contents(t, path), []byte("secret")) {
		t.Error(got)
	}
}

// TestRemovedLog checks that lines sent after the file was removed are recorded in a new one before they are
// acknowledged, and that no line is acknowledged while the folder is missing.
func TestRemovedLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	path := filepath.Join(dir, "connection.log")
	os.Mkdir(dir, 0o700)
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var notified []string
	l.notify = func(text string) { notified = append(notified, text) }
	r, err := newRoom(l, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	bob, _ := enter(t, r, "bob", "key b", 2)
	if err := r.say(bob, says(1, "one")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := r.say(bob, says(2, "two")); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, path); !slices.Equal(got, []string{"two"}) || len(notified) != 1 {
		t.Errorf("the new file has %q; notified %q", got, notified)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := r.say(bob, says(3, "three")); !errors.Is(err, errLog) || ackedOf(r, bob) != 2 {
			t.Errorf("%v; %d acknowledged", err, ackedOf(r, bob))
		}
	}
	r.leave(bob, "lost")
	os.Mkdir(dir, 0o700)
	again, w := enter(t, r, "bob", "key b", 2)
	if err := r.say(again, says(3, "three")); err != nil || w.recorded != 2 {
		t.Error(err, w)
	}
	all := records(t, path)
	var events []any
	for _, rec := range all {
		events = append(events, rec["event"])
	}
	if want := []any{eventDisconnect, eventRoom, eventVisitor, eventStream, eventConnect,
		eventMessage}; !slices.Equal(events, want) {
		t.Errorf("the new file has %q", events)
	}
	if len(notified) != 4 || !strings.Contains(notified[1], "cannot write the log") ||
		notified[3] != "the log can be written again" {
		t.Errorf("notified %q", notified)
	}
	if _, err := verifyLog(bytes.NewReader(contents(t, path))); err != nil {
		t.Error(err)
	}
}

// TestShortenedLog: a log that another program has shortened is continued behind what is left, also if the disk is full
// just then, and nothing is acknowledged while what is left is no log.
func TestShortenedLog(t *testing.T) {
	r, path := quietRoom(t)
	l := r.log
	var notified []string
	l.notify = func(text string) { notified = append(notified, text) }
	bob, _ := enter(t, r, "bob", "key b", 2)
	say := func(n uint64) error { return r.say(bob, says(n, fmt.Sprint("line ", n))) }
	for n := range uint64(5) {
		if err := say(n + 1); err != nil {
			t.Fatal(err)
		}
	}
	shorten := func(size int64) {
		t.Helper()
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	before := contents(t, path)
	third := int64(bytes.Index(before, []byte(`"msg_id":3`)))
	good := l.f
	defer good.Close()
	readOnly, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	shorten(0)
	l.f = readOnly // as if the disk were full
	if err := say(6); !errors.Is(err, errLog) || ackedOf(r, bob) != 5 {
		t.Fatalf("%v; %d acknowledged", err, ackedOf(r, bob))
	}
	l.f = good
	if err := say(6); err != nil {
		t.Fatal(err)
	}
	v, err := verifyLog(bytes.NewReader(contents(t, path)))
	all := records(t, path)
	if err != nil || v.first == [32]byte{} || len(all) != 4 || all[0]["event"] != eventRoom ||
		all[3]["msg_id"] != 6. {
		t.Errorf("%v, %+v: %v", err, v, all)
	}
	put(t, path, before)
	l.end.size = int64(len(before))
	shorten(third) // within a record
	if err := say(7); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, path); !slices.Equal(got, []string{"line 1", "line 2", "line 7"}) {
		t.Errorf("the log has %q", got)
	}
	if _, err := verifyLog(bytes.NewReader(contents(t, path))); err != nil {
		t.Error(err)
	}
	put(t, path, []byte("text\n"))
	for range 2 {
		if err := say(8); !errors.Is(err, errLog) || string(contents(t, path)) != "text\n" {
			t.Errorf("%v; the file has %q", err, contents(t, path))
		}
	}
	if n := strings.Count(strings.Join(notified, "\n"), "was shortened by another program"); n != 2 {
		t.Errorf("notified %q", notified)
	}
}

// TestSync checks that a line is acknowledged after its sync, that one sync serves all waiting members, and that a
// failed sync removes the records that it was for.
func TestSync(t *testing.T) {
	r, path := quietRoom(t)
	l := r.log
	l.durable = true
	begun, end := make(chan struct{}), make(chan error)
	l.syncFile = func(*os.File) error { begun <- struct{}{}; return <-end }
	r.flush = make(chan struct{}, 1)
	over := make(chan struct{})
	go func() { r.flushLog(); close(over) }()
	anna, _ := enter(t, r, "anna", "key a", 1)
	bob, _ := enter(t, r, "bob", "key b", 2)
	cleo, _ := enter(t, r, "cleo", "key c", 3)
	say := func(m *member, first uint64, text string) {
		t.Helper()
		if err := r.say(m, says(first, text)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(a, b uint64) {
		t.Helper()
		if x, y := ackedOf(r, anna), ackedOf(r, bob); x != a || y != b {
			t.Errorf("acknowledged: %d and %d, not %d and %d", x, y, a, b)
		}
	}
	say(anna, 1, "a1")
	<-begun
	for n := range uint64(3) { // The disk is busy.
		say(anna, n+2, "a")
		say(bob, n+1, "b")
	}
	want(0, 0)
	end <- nil
	<-begun
	want(1, 0)
	say(bob, 4, "b4")
	end <- nil
	<-begun
	want(4, 3)
	if ending := endOf(r, bob); ending != "" {
		t.Error(ending)
	}
	before := contents(t, path)
	say(anna, 5, "a5")
	end <- syscall.EIO
	waitFor(func() bool { return r.pendingEnd(anna) != "" })
	want(4, 3)
	if bob.ending.reason != errLog.Error() || r.pendingEnd(anna) != errLog.Error() {
		t.Errorf("the members stay: %q, %q", anna.ending.reason, bob.ending.reason)
	}
	if got := contents(t, path); len(got) >= len(before) {
		t.Error("records without a sync are still in the log")
	}
	if l.sinceMarks < markBytes {
		t.Error("marks that were removed are not due again")
	}
	again, w := enter(t, r, "bob", "key b", 2)
	if w.recorded != 3 {
		t.Errorf("after the reconnection bob's stream is at %d", w.recorded)
	}
	say(again, 4, "b4")
	<-begun
	end <- nil
	waitFor(func() bool { return ackedOf(r, again) == 4 })
	if got := strings.Join(heard(t, r, cleo), "\n"); strings.Count(got, "say bob b4") != 1 {
		t.Errorf("cleo received a line that was recorded again: %q", got)
	}
	close(r.flush)
	<-over
	l.syncFile = func(*os.File) error { return nil }
	if v, err := verifyLog(bytes.NewReader(contents(t, path))); err != nil ||
		!slices.Equal(messages(t, path), []string{"a1", "a", "b", "a", "b", "a", "b", "b4"}) {
		t.Errorf("%d records, %v, %q", v.records, err, messages(t, path))
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	next, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer next.close()
	if later, err := newRoom(next, 1000, false); err != nil || later.queue.said != r.queue.said {
		t.Errorf("after a start the last number is %d, and it was %d: %v", later.queue.said, r.queue.said, err)
	}
}

// TestSyncConsole checks that the operator is notified when a failed sync removes a line, and that the next line is
// sent.
func TestSyncConsole(t *testing.T) {
	r, path := quietRoom(t)
	r.log.durable = true
	end := make(chan error)
	r.log.syncFile = func(*os.File) error { return <-end }
	r.flush = make(chan struct{}, 1)
	over := make(chan struct{})
	go func() { r.flushLog(); close(over) }()
	console, _ := enter(t, r, "anna", "key a", 1)
	console.operator = true
	cleo, _ := enter(t, r, "cleo", "key c", 3)
	if err := r.say(console, says(1, "first")); err != nil {
		t.Fatal(err)
	}
	end <- nil
	waitFor(func() bool { return ackedOf(r, console) == 1 })
	if err := r.say(console, says(2, "lost")); err != nil {
		t.Fatal(err)
	}
	end <- syscall.EIO
	notified := ""
	waitFor(func() bool {
		notified += strings.Join(heard(t, r, console), "\n")
		return strings.Contains(notified, "say it again")
	})
	if err := r.say(console, says(3, "kept")); err != nil {
		t.Fatal(err)
	}
	end <- nil
	waitFor(func() bool { return ackedOf(r, console) == 2 })
	close(r.flush)
	<-over
	r.log.syncFile = func(*os.File) error { return nil }
	if got := messages(t, path); !slices.Equal(got, []string{"first", "kept"}) {
		t.Errorf("the log has %q", got)
	}
	wantHeard(t, r, cleo, "say anna first", "say anna lost", "say anna kept")
}

// pendingEnd returns the reason for which m has to leave, or "".
func (r *room) pendingEnd(m *member) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return m.ending.reason
}

func BenchmarkLogWrite(b *testing.B) {
	path := filepath.Join(b.TempDir(), "connection.log")
	l, err := openLog(logOptions{path: path})
	if err != nil {
		b.Fatal(err)
	}
	defer l.close()
	who := newPeerFields("192.0.2.1:1", "bob", "SHA256:bob", streamID{1}.String(), make([]byte, 64))
	texts, now, n := slices.Repeat([][]byte{bytes.Repeat([]byte("x"), 64)}, 32), time.Now(), uint64(0)
	b.ReportAllocs()
	for b.Loop() { // 32 lines at a time, as in a packet
		l.write(func(buf []byte) []byte {
			return appendMessages(buf, now, who, lines{first: n + 1, what: itemSay, texts: texts}, 1, false)
		}, nil)
		n += uint64(len(texts))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}

// FuzzVerifyLog compares verifyLog with a second, simpler reading of the chain.
func FuzzVerifyLog(f *testing.F) {
	path := filepath.Join(f.TempDir(), "log")
	fill(f, path, 1, 3)
	log := contents(f, path)
	f.Add(log)
	f.Add(log[:len(log)-1])
	f.Add(append(bytes.Clone(log[bytes.IndexByte(log, '\n')+1:]), log...))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := verifyLog(bytes.NewReader(b))
		if err != nil {
			return
		}
		records := bytes.SplitAfter(b, []byte("\n"))
		if v.records != len(records)-1 {
			t.Fatalf("%d records of %d", v.records, len(records)-1)
		}
		for i := 1; i < v.records; i++ {
			sum := sha256.Sum256(records[i-1])
			if !bytes.HasSuffix(records[i], fmt.Appendf(nil, "%x\"}\n", sum)) &&
				!bytes.HasSuffix(bytes.ToLower(records[i]), fmt.Appendf(nil, "%x\"}\n", sum)) {
				t.Errorf("record %d has not the hash of the one before: %q", i+1, records[i])
			}
		}
	})
}

// TestLogTornWrite makes the system cut a write short, by a limit on the size of files. None of its records stays,
// and the log continues when there is room again. The limit is for the whole process, so this test must not run in
// parallel.
func TestLogTornWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	add := func(texts ...string) error {
		return l.write(func(b []byte) []byte {
			for i, text := range texts {
				b = appendMessage(b, time.Now(), nil, uint64(i+1), itemSay, "", []byte(text), false)
			}
			return b
		}, nil)
	}
	if err := add("one"); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	size := info.Size()
	for _, room := range []int64{0, 1, 100, 5000} {
		limit := was
		setLimit(&limit.Cur, size+room)
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		failed := add("two", strings.Repeat("x", 6000), "four")
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(failed, syscall.EFBIG) {
			t.Errorf("room for %d bytes: %v", room, failed)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != size {
			t.Errorf("room for %d bytes: %d bytes are there, it was %d: %v", room, info.Size(), size, err)
		}
	}
	if err := add("five"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(messages(t, path)); got != "[one five]" {
		t.Error(got)
	}
}

// setLimit assigns a limit, whose type depends on the system.
func setLimit[T int64 | uint64](limit *T, n int64) { *limit = T(n) }

// TestFIFOAsOlderLog checks that a FIFO at the path of the rotated log does not stop a start.
func TestFIFOAsOlderLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	if err := unix.Mkfifo(path+".1", 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := l.replay(1, func([]byte, bool) { t.Error("a record") }); err != nil || l.began != "new" {
		t.Errorf("%q, %v", l.began, err)
	}
}

// JSON strings: every reader decodes what was sent, and the encoding contains nothing that could harm a terminal.

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
	if shown := safe(string(quoted)); shown != string(quoted) {
		t.Errorf("%q is quoted as %s, of which a terminal would get %s", text, quoted, shown)
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
		"":                                `""`,
		"a \"quoted\" back\\slash":        `"a \"quoted\" back\\slash"`,
		"tab\tend\n\r\x00\x1b[2J":         `"tab\tend\n\u000d\u0000\u001b[2J"`,
		"γειά 👍 שלום":                     `"γειά 👍 שלום"`,
		"bidi \u202e zero\u200b":          `"bidi \u202e zero\u200b"`,
		"tag \U000e0041 bom\ufeff":        `"tag \udb40\udc41 bom\ufeff"`,
		"bad \xff\xc3(":                   `"bad \ufffd\ufffd("`,
		"kept \ufffd":                     "\"kept \ufffd\"",
		"👍🏽 ☺\ufe0f 1\ufe0f\u20e3":        "\"👍🏽 ☺\ufe0f 1\ufe0f\u20e3\"",
		"a\ufe0f\U000e0101 漢\ufe08":       `"a\ufe0f\udb40\udd01 漢\ufe08"`,
		"\u115f\u1160\u3164\uffa0":        `"\u115f\u1160\u3164\uffa0"`,
		"\u2800\u034f\U0001d159":          `"\u2800\u034f\ud834\udd59"`,
		"\u0301\"\u0301":                  `"\u0301\"\u0301"`,
		"a" + strings.Repeat("\u0301", 9): "\"a" + strings.Repeat("\u0301", 8) + `\u0301"`,
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
		{`{"text":"x","to":"` + strings.Repeat("n", maxShown+1) + `"}`, "", "", `"to" is no name`},
		{`{"text":"x","to":"b\u001b[2J"}`, "", "", `"to" is no name`},
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
		`{"what":"direct","to":"bob","text":"x","name":"a","origin":"SHA256:other"}`:     "x",
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
		if to != "" && !validShown(to) {
			return // -to takes names alone
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
