package main

// -verify-log: does each record of a log hold the hash of the one before it? Whoever can write the file can also compute
// the whole chain anew, and a log cut off at its end is a shorter log: only a head that was noted elsewhere shows that.

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// verified is what a log was found to hold.
type verified struct {
	records     int
	first, head [sha256.Size]byte // the hash in the first record, and that of the last
}

// verifyLogs checks files of one log, the oldest first, and prints a line about each.
func verifyLogs(paths []string, stdout io.Writer) error {
	var before *verified
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("checking the log: %w", err)
		}
		v, err := verifyLog(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if v.records == 0 {
			if _, err := fmt.Fprintf(stdout, "%s: 0 records\n", safe(path)); err != nil {
				return err
			}
			continue
		}
		if before != nil && v.first != before.head {
			return fmt.Errorf("%s: line 1 does not follow the last line of %s: what stood between them, or that line, was removed or edited", path, paths[i-1])
		}
		begin := "begins a chain"
		if v.first != [sha256.Size]byte{} {
			begin = fmt.Sprintf("continues %x", v.first)
		}
		if _, err := fmt.Fprintf(stdout, "%s: %d records, unbroken; %s; head %x\n", safe(path), v.records, begin, v.head); err != nil {
			return err
		}
		before = &v
	}
	return nil
}

// verifyLog follows the chain. Its error names the first line that is not as it was written, as far as the hashes tell: a
// record's own hash stands in the next one alone.
func verifyLog(r io.Reader) (v verified, err error) {
	in := bufio.NewReaderSize(r, maxRecord)
	var before [sha256.Size]byte // of the record before the last
	for {
		record, err := in.ReadSlice('\n')
		line := v.records + 1
		switch {
		case err == io.EOF && len(record) == 0:
			return v, nil
		case err == io.EOF:
			return v, fmt.Errorf("line %d is torn: it has no end (the server repairs that when it starts)", line)
		case err == bufio.ErrBufferFull:
			return v, fmt.Errorf("line %d is longer than any record", line)
		case err != nil:
			return v, fmt.Errorf("reading line %d: %w", line, err)
		}
		prev, ok := prevOf(record)
		if !ok {
			return v, fmt.Errorf("line %d was edited or inserted: it is no record", line)
		}
		hash := sha256.Sum256(record)
		switch {
		case v.records == 0:
			v.first = prev
		case prev == v.head:
		case v.records > 1 && prev == before, v.records == 1 && prev == v.first:
			return v, fmt.Errorf("line %d was inserted: line %d follows line %d", line-1, line, line-2)
		default:
			return v, moved(in, line, prev, v.head, hash)
		}
		before, v.head = v.head, hash
		v.records = line
	}
}

// moved finds out why the record in line, of this hash, does not follow the one before it: the one it follows may come
// later, and so may the one that belongs here.
func moved(in *bufio.Reader, line int, prev, head, hash [sha256.Size]byte) error {
	for n := line + 1; ; n++ {
		record, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("line %d does not follow line %d: line %d was edited, or records between the two were removed", line, line-1, line-1)
		}
		if sha256.Sum256(record) == prev {
			return fmt.Errorf("line %d is out of its place: it follows line %d, so lines were swapped", line, n)
		}
		if p, ok := prevOf(record); ok && p == head {
			if n == line+1 {
				return fmt.Errorf("line %d was inserted, or edited: line %d follows line %d", line, n, line-1)
			}
			return fmt.Errorf("lines %d to %d were inserted: line %d follows line %d", line, n-1, n, line-1)
		}
	}
}
