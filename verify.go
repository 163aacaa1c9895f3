package main

// -verify-log, and the check of a log's end at a start: each record of a log contains the hash of the record before it.
// -verify-log also reads files that gzip has compressed. docs/LOG.md has the limits of this check.

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// chainSummary describes the unbroken chain of one file.
type chainSummary struct {
	compressed  bool // the file is one of gzip's
	records     int
	first, head [sha256.Size]byte // the hash in the first record, and the hash of the last record
}

// follows returns an error unless v is the chain of the file path that continues before, the chain of the file older.
// A chain without a record follows every chain.
func (v chainSummary) follows(before chainSummary, path, older string) error {
	if v.records == 0 || before.records == 0 || v.first == before.head {
		return nil
	}
	return fmt.Errorf("%s: line 1 does not follow the last line of %s: "+
		"records between them were removed, or that line was edited or removed", path, older)
}

// verifyLogs checks the files of one log, the oldest first, and prints a line about each. Unless head is empty, it is
// the hash of a record, in hexadecimal, that one of the files must have.
func verifyLogs(paths []string, head string, stdout io.Writer) error {
	found := ""
	var before chainSummary
	for i, path := range paths {
		v, err := verifyFile(path, func(line int, hash [sha256.Size]byte) {
			if hex.EncodeToString(hash[:]) == head {
				found = fmt.Sprintf("head found: line %d of %s", line, safe(path))
			}
		})
		if err != nil {
			return err
		}
		if v.records == 0 {
			if _, err := fmt.Fprintf(stdout, "%s: %s0 records\n", safe(path), v.kind()); err != nil {
				return err
			}
			continue
		}
		if err := v.follows(before, path, paths[max(0, i-1)]); err != nil {
			return err
		}
		if hex.EncodeToString(v.first[:]) == head && found == "" {
			found = "head found: it precedes line 1 of " + safe(path)
		}
		begin := "begins a chain"
		if v.first != [sha256.Size]byte{} {
			begin = fmt.Sprintf("continues %x", v.first)
		}
		const line = "%s: %s%d records, unbroken; %s; head %x\n"
		if _, err := fmt.Fprintf(stdout, line, safe(path), v.kind(), v.records, begin, v.head); err != nil {
			return err
		}
		before = v
	}
	switch {
	case head == "":
		return nil
	case found == "":
		return fmt.Errorf("no record has the hash %s: "+
			"records up to that one were removed or edited, or it is in a file that was not named", head)
	}
	_, err := fmt.Fprintln(stdout, found)
	return err
}

// kind returns what the output says of the file before its number of records.
func (v chainSummary) kind() string {
	if v.compressed {
		return "gzip, "
	}
	return ""
}

// verifyFile is like verifyChain, for the file at path, which may be compressed. Decompression needs little memory,
// whatever the file contains: no record is longer than maxRecord.
func verifyFile(path string, use func(line int, hash [sha256.Size]byte)) (v chainSummary, err error) {
	f, err := os.Open(path)
	if err != nil {
		return v, fmt.Errorf("checking the log: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, maxRecord)
	begin, _ := in.Peek(len(gzipBegin)) // verifyChain gets the error of a failed read
	if string(begin) != gzipBegin {
		v, err = verifyChain(in, use)
	} else {
		v, err = verifyCompressed(in, use)
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

const gzipBegin = "\x1f\x8b" // of a compressed file; no record begins with it

// verifyCompressed is like verifyChain, for what gzip has compressed.
func verifyCompressed(r io.Reader, use func(line int, hash [sha256.Size]byte)) (v chainSummary, err error) {
	z, err := gzip.NewReader(r)
	if err == nil {
		v, err = verifyChain(z, use)
		v.compressed = true
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return v, fmt.Errorf("the compressed file is cut off after line %d", v.records)
	case errors.Is(err, gzip.ErrHeader):
		return v, fmt.Errorf("after line %d, what follows in the compressed file is not from gzip", v.records)
	}
	return v, err
}

// verifyEnd is like verifyLog, for the records that are in the last tail bytes of f as a whole. size is the end of its
// last record.
func verifyEnd(f *os.File, size, tail int64) (chainSummary, error) {
	from := max(0, size-tail)
	r := bufio.NewReaderSize(io.NewSectionReader(f, from, size-from), maxRecord)
	if from == 0 {
		return verifyLog(r)
	}
	for err := bufio.ErrBufferFull; err != nil; { // the rest of a record that begins before the tail
		_, err = r.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull {
			return chainSummary{}, err
		}
	}
	v, err := verifyLog(r)
	if err != nil {
		return v, fmt.Errorf("the last %d MiB: %w", tail>>20, err)
	}
	return v, nil
}

// verifyLog follows the chain. Its error names the first line that was changed. The hashes may leave two possibilities,
// because the hash of a record is only in the next one.
func verifyLog(r io.Reader) (chainSummary, error) {
	return verifyChain(r, func(int, [sha256.Size]byte) {})
}

// verifyChain is like verifyLog, and calls use with the hash of each line.
func verifyChain(r io.Reader, use func(line int, hash [sha256.Size]byte)) (v chainSummary, err error) {
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
		use(line, hash)
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
