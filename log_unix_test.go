//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLogTornWrite has the system cut a write short, by a limit on the size of files: nothing of its records stays, and
// the log goes on when there is room again. The limit is the whole process's, so this test is not to be run in parallel.
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

// setLimit is an assignment: the type of a limit is not the same on every system.
func setLimit[T int64 | uint64](limit *T, n int64) { *limit = T(n) }

// TestLogBehindFIFO: a FIFO where the log before this one would be does not keep the server from starting.
func TestLogBehindFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "connection.log")
	if err := unix.Mkfifo(path+".1", 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(logOptions{path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := l.replay(func(string, streamID, uint64, bool) { t.Error("a record") }); err != nil || l.began != "new" {
		t.Errorf("%q, %v", l.began, err)
	}
}
