package main

// The end of the log, as a start reads it: backwards over the files that rotation has left, as far as the history of
// the room reaches, and within bounds that the size of the log does not change.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
)

const (
	maxTail   = 64 << 20  // bytes that a start reads at most: more than the records of a full queue take
	tailBlock = 256 << 10 // bytes read at a time on the way back
)

// messageMark is in each record of a message, once, and in no other record.
const (
	messageMark    = `,"event":"` + eventMessage + `"`
	messageMarkEnd = len(recordBegin) + len(recordTime) + 1 + len(messageMark) // where it ends in a record
)

// logTail is the end of a log, in one file or several.
type logTail struct {
	parts    []logPart // the newest first
	bytes    int64     // of all parts
	messages int       // records of messages in them
	wanted   int       // messages for which the tail is made longer than tailBytes
}

// logPart is the end of one file of a log.
type logPart struct {
	f          *os.File
	from, size int64
}

// replay calls use, in the log's order, for each record in the log's end: the last tailBytes, and more if there are
// fewer than messages records of messages in these, but maxTail at most. If the file is shorter, the files before it,
// FILE.1 and so on, belong to it. recent is true for the last records of messages, as many as were asked for. A record
// is valid until use returns.
func (l *connLog) replay(messages int, use func(record []byte, recent bool)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil || l.path == logStdout {
		return nil
	}
	t := logTail{wanted: messages}
	if err := t.extend(l.f, l.end.size); err != nil {
		return fmt.Errorf("reading the log %s: %w", l.path, err)
	}
	for n := 1; !t.enough(); n++ {
		path := fmt.Sprintf("%s.%d", l.path, n)
		older, size := openRotated(path)
		if older == nil {
			break
		}
		defer older.Close()
		if err := t.extend(older, size); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
	left := t.messages
	for _, p := range slices.Backward(t.parts) {
		if err := p.replay(&left, messages, use); err != nil {
			return fmt.Errorf("reading the log %s: %w", l.path, err)
		}
	}
	return nil
}

// openRotated opens a file that rotation has left. It returns nil if there is none, or if it is no log.
func openRotated(path string) (f *os.File, size int64) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not block
	if err != nil {
		return nil, 0
	}
	end, _, err := lastRecord(f)
	if err != nil || end.size == 0 {
		f.Close()
		return nil, 0
	}
	return f, end.size
}

// enough reports whether the tail is long enough.
func (t *logTail) enough() bool {
	return t.bytes >= maxTail || t.bytes >= tailBytes && t.messages >= t.wanted
}

// extend adds the end of a file, or all of it, to the front of the tail.
func (t *logTail) extend(f *os.File, size int64) error {
	p := logPart{f, size, size}
	block := make([]byte, tailBlock+len(messageMark)-1) // a mark may begin in this block and end in the next
	for p.from > 0 && !t.enough() {
		n := min(p.from, tailBlock)
		p.from -= n
		b := block[:min(int64(len(block)), size-p.from)]
		if _, err := f.ReadAt(b, p.from); err != nil {
			return err
		}
		b = b[:min(int64(len(b)), n+int64(len(messageMark))-1)]
		t.messages += bytes.Count(b, []byte(messageMark))
		t.bytes += n
	}
	t.parts = append(t.parts, p)
	return nil
}

// replay calls use for each record of the part. left is the number of messages in the rest of the tail.
func (p logPart) replay(left *int, messages int, use func(record []byte, recent bool)) error {
	r := bufio.NewReaderSize(io.NewSectionReader(p.f, p.from, p.size-p.from), maxRecord)
	for begins := p.from == 0; ; { // at the beginning of a record
		record, err := r.ReadSlice('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return err
		}
		whole := begins && err == nil
		if whole {
			use(record, *left <= messages)
			record = record[:min(len(record), messageMarkEnd)]
		}
		if bytes.Contains(record, []byte(messageMark)) {
			*left--
		}
		begins = err == nil // after bufio.ErrBufferFull the rest of a line that is no record follows
	}
}
