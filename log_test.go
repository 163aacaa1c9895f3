package main

// The log: every record is one line of JSON, written as a whole or not at all.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

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
			map[string]any{"event": "message", "msg_id": 7., "msg_len": 0., "message": ""}},
		{appendMessage(nil, at, who, 1<<53, itemDirect, "anna", []byte("psst"), false),
			map[string]any{"event": "message", "msg_id": float64(1 << 53), "msg_len": 4., "what": "direct", "to": "anna",
				"message": "psst"}},
		{appendMessage(nil, at, who, 1, itemAction, "", []byte(hostile), false),
			map[string]any{"event": "message", "msg_id": 1., "msg_len": float64(len(hostile)),
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
	return appendMessages(b, at, who, lines{first: id, what: what, to: to, texts: [][]byte{text}}, digests)
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
