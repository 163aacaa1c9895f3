package main

// The stages of a handshake as they happen, for -trace: both protocols, one line a stage, in the shape of the paper's
// Fig. 3. It is how the paper is taught and how a failed connection is understood.
//
// A line is made of names, sizes and verdicts. Nothing here takes a field's bytes, so no secret can get into it.

import (
	"fmt"
	"strings"
	"time"
)

// The directions of a stage, as Fig. 3 draws them.
const (
	toServer = "C → S"
	toClient = "S → C"
)

// tracer takes one line without its end. Nil is off. Lines come from the goroutine of the connection; a tracer that
// serves several keeps them apart itself.
type tracer func(line string)

// traceField is one field of a message: its name in the paper's letters and its size in bytes. A public number, such as
// seq_id, may stand in the name.
type traceField struct {
	name string
	size int
}

// stage tells of a stage that was sent, or received and verified: wire is its size in bytes, checks says what was
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

// refused tells of a stage that failed. err is one of ours, which never quotes a peer's bytes.
func (t tracer) refused(n int, direction string, err error, start time.Time) {
	if t != nil {
		t(fmt.Sprintf("stage %d  %s  failed: %v   %.3fs", n, direction, err, time.Since(start).Seconds()))
	}
}
