package main

// -verify-log: checks that each record of a log contains the hash of the record before it. An attacker who can write
// the file can also recompute the whole chain, and a log without its last records is a valid shorter log. Only a head
// that was noted elsewhere reveals these.

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// chainSummary describes the unbroken chain of one file.
type chainSummary struct {
	records     int
	first, head [sha256.Size]byte // the hash in the first record, and the hash of the last record
}

// verifyLogs checks the files of one log, the oldest first, and prints a line about each.
func verifyLogs(paths []string, stdout io.Writer) error {
	var before chainSummary
	for i, path := range paths {
		v, err := verifyFile(path)
		if err != nil {
			return err
		}
		if v.records == 0 {
			if _, err := fmt.Fprintf(stdout, "%s: 0 records\n", safe(path)); err != nil {
				return err
			}
			continue
		}
		if before.records > 0 && v.first != before.head {
			return fmt.Errorf("%s: line 1 does not follow the last line of %s: "+
				"records between them were removed, or that line was edited or removed", path, paths[i-1])
		}
		begin := "begins a chain"
		if v.first != [sha256.Size]byte{} {
			begin = fmt.Sprintf("continues %x", v.first)
		}
		const line = "%s: %d records, unbroken; %s; head %x\n"
		if _, err := fmt.Fprintf(stdout, line, safe(path), v.records, begin, v.head); err != nil {
			return err
		}
		before = v
	}
	return nil
}

// verifyFile is like verifyLog, for the file at path.
func verifyFile(path string) (v chainSummary, err error) {
	f, err := os.Open(path)
	if err != nil {
		return v, fmt.Errorf("checking the log: %w", err)
	}
	defer f.Close()
	v, err = verifyLog(f)
	if err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// verifyLog follows the chain. Its error names the first line that was changed. The hashes may leave two possibilities,
// because the hash of a record is only in the next one.
func verifyLog(r io.Reader) (v chainSummary, err error) {
	in := bufio.NewReaderSize(r, maxRecord)
	var previous [sha256.Size]byte // the hash of the record before the last
	for {
		record, err := in.ReadSlice('\n')
		line := v.records + 1
		switch {
		case err == io.EOF && len(record) == 0:
			return v, nil
		case err == io.EOF:
			return v, fmt.Errorf("line %d is torn: it has no newline (the server removes it at its next start)", line)
		case err == bufio.ErrBufferFull:
			return v, fmt.Errorf("line %d is longer than any record", line)
		case err != nil:
			return v, fmt.Errorf("reading line %d: %w", line, err)
		}
		prev, ok := prevOf(record)
		if !ok {
			return v, fmt.Errorf("line %d was edited or inserted: it is not a record", line)
		}
		hash := sha256.Sum256(record)
		switch {
		case v.records == 0:
			v.first = prev
		case prev == v.head:
		case v.records > 1 && prev == previous, v.records == 1 && prev == v.first:
			return v, fmt.Errorf("line %d was inserted: line %d follows line %d", line-1, line, line-2)
		default:
			return v, explainBreak(in, line, prev, v.head)
		}
		previous, v.head = v.head, hash
		v.records = line
	}
}

// explainBreak returns an error that says why the record in line, which has the hash of its predecessor in prev, does
// not follow the record with the hash head. It searches the later lines for that predecessor, and for the successor
// of head.
func explainBreak(in *bufio.Reader, line int, prev, head [sha256.Size]byte) error {
	for n := line + 1; ; n++ {
		record, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("line %d does not follow line %d: "+
				"line %d was edited, or records between the two were removed", line, line-1, line-1)
		}
		if sha256.Sum256(record) == prev {
			return fmt.Errorf("line %d is out of place: it follows line %d, so lines were swapped", line, n)
		}
		if p, ok := prevOf(record); ok && p == head {
			if n == line+1 {
				return fmt.Errorf("line %d was inserted or edited: line %d follows line %d", line, n, line-1)
			}
			return fmt.Errorf("lines %d to %d were inserted: line %d follows line %d", line, n-1, n, line-1)
		}
	}
}
