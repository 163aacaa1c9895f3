package main

// The output of -trace: a line for each stage of a handshake, for both protocols, in the form of the paper's Fig. 3. It
// serves to teach the paper and to find out why a connection failed.
//
// A line has names, sizes and results of checks. No function of this file receives the bytes of a field, so no secret
// can be printed.

import (
	"fmt"
	"strings"
	"time"
)

// The directions of a stage, in the form of Fig. 3.
const (
	toServer = "C → S"
	toClient = "S → C"
)

// tracer prints one line, given without its newline; nil prints nothing. It is called by the goroutine of the
// connection, so a tracer for several connections must mark the lines of each.
type tracer func(line string)

// traceField is one field of a message: its name in the paper's letters and its size in bytes. The name may include a
// public number, such as seq_id.
type traceField struct {
	name string
	size int
}

// stage prints a stage that was sent, or received and verified. wire is its size in bytes, checks names what was
// verified ("sent" for a sender), start is when the stage began.
func (t tracer) stage(n int, direction string, wire int, checks string, start time.Time, fields ...traceField) {
	if t == nil {
		return
	}
	words := make([]string, len(fields))
	for i, f := range fields {
		words[i] = fmt.Sprintf("%s %d", f.name, f.size)
	}
	t(fmt.Sprintf("stage %d  %s  %5d bytes  %s   %s   %.3fs",
		n, direction, wire, strings.Join(words, " ‖ "), checks, time.Since(start).Seconds()))
}

// failed prints a stage that failed. err must not quote a peer's bytes.
func (t tracer) failed(n int, direction string, err error, start time.Time) {
	if t != nil {
		t(fmt.Sprintf("stage %d  %s  failed: %v   %.3fs", n, direction, err, time.Since(start).Seconds()))
	}
}
