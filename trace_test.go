package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// checkPaperTrace reads the four lines of one side. A serial would show as a run of binary digits, a key as hex.
func checkPaperTrace(t *testing.T, lines []string, want string) {
	t.Helper()
	if len(lines) != 4 || !strings.Contains(strings.Join(lines, "\n"), want) {
		t.Errorf("trace:\n%s", strings.Join(lines, "\n"))
	}
	long := regexp.MustCompile(`[0-9A-Fa-f]{6,}|[A-Za-z0-9+/]{12,}`)
	for _, line := range lines {
		if s := long.FindString(line); s != "" {
			t.Errorf("%q is no name and no size: %s", s, line)
		}
	}
}

func TestTraceLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		tr := tracer(func(line string) { got = append(got, line) })
		start := time.Now()
		time.Sleep(1002 * time.Millisecond)
		tr.stage(2, toClient, 896, "signature ok, seq_id ok", start, traceField{"sign", 256}, traceField{"seq_id (2)", 8})
		tr.failed(3, toServer, errors.New("no"), start)
		want := []string{
			"stage 2  S → C    896 bytes  sign 256 ‖ seq_id (2) 8   signature ok, seq_id ok   1.002s",
			"stage 3  C → S  failed: no   1.002s",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		tracer(nil).stage(1, toServer, 1, "", start) // off
		tracer(nil).failed(1, toServer, nil, start)
	})
}
