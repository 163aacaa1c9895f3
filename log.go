package main

// connection.log: what the server received, from whom, and every connect, refusal and disconnect (the paper's §5; DESIGN
// section 8). One JSON object a line, appended, mode 0600. A message is acknowledged only once its record is written.
//
// The last member of each record, prev, is the SHA-256 of the record before it, its newline included: verify.go follows
// that chain, which goes on over a change of files. docs/LOG.md tells an operator all of it.

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// errLog is wrapped by what keeps a record from the log. The message it was for is not acknowledged.
var errLog = errors.New("cannot write the log")

const (
	maxLogBuffer = 1 << 20  // kept between writes
	maxRecord    = 1 << 20  // bytes of one: a line of maxLine, each byte an escape, and in base64, is less
	maxOwed      = 64 << 10 // of records that wait for a log that cannot be written
	tailBytes    = 16 << 20 // of the log that are read at start. Every
	markBytes    = 8 << 20  // of it stand the streams whose clients may come back, so that the tail has them
)

// connLog appends records. Its methods may be called from any goroutine.
type connLog struct {
	path    string
	digests bool         // -log-text=false: the SHA-256 of what was said in its place
	durable bool         // -sync: somebody calls sync
	tell    func(string) // the operator; nil where nobody listens
	syncing func(f *os.File) error

	mu     sync.Mutex
	f      *os.File // nil: -log off, or closed
	buf    []byte
	head   [sha256.Size]byte // of the last record
	size   int64             // of f
	torn   bool              // f is longer than size: what a failed write left could not be removed
	synced struct {          // as of the last sync
		size int64
		head [sha256.Size]byte
	}
	since   int64  // bytes since the streams were last written
	owed    []byte // records of what happened while the log could not be written,
	lost    int    // and how many more there were
	trouble bool
	began   string // what the start record says about the file
}

// openLog opens path for appending; "off" keeps no log. What a power cut left of a last record is removed. A file that is
// new or empty continues the chain of path.1, where logrotate puts the one before it, if that is a log.
func openLog(path string) (*connLog, error) {
	l := &connLog{path: path, since: markBytes, syncing: (*os.File).Sync}
	if path == "off" {
		return l, nil
	}
	f, cut, err := l.open()
	if err == nil && l.size == 0 {
		l.began = "new"
		if older, oerr := l.openOlder(); oerr == nil {
			var size int64
			if size, l.head, _, oerr = lastRecord(older); oerr == nil && size > 0 {
				l.began = "continues " + path + ".1"
			}
			older.Close()
		}
	} else if cut > 0 {
		l.began = fmt.Sprintf("repaired: %d bytes of a torn last record were removed", cut)
	}
	if err == nil {
		err = l.syncing(f) // what is read of it may be acknowledged
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("cannot write the log %s: %w; name another with -log FILE, or -log off", path, err)
	}
	l.f, l.synced.size, l.synced.head = f, l.size, l.head
	return l, nil
}

// open opens and locks the file at l.path, repairs its end, and takes its size and head, if it has one, for ours. cut is
// the number of bytes that the repair removed.
func (l *connLog) open() (f *os.File, cut int64, err error) {
	f, err = os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600) // a FIFO must not block
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil {
		var locked bool
		if locked, err = tryLock(f); err == nil && !locked {
			err = errors.New("another securechat writes it")
		}
	}
	var head [sha256.Size]byte
	var size int64
	if err == nil {
		size, head, cut, err = lastRecord(f)
	}
	if err == nil && cut > 0 {
		err = f.Truncate(size)
	}
	if err == nil && size == 0 {
		// Or a power cut takes a new file's name, and all that -sync put into it.
		var name string
		if name, err = filepath.EvalSymlinks(l.path); err == nil {
			err = syncFolder(filepath.Dir(name))
		}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if size > 0 {
		l.head = head
	}
	l.size = size
	return f, cut, nil
}

// openOlder opens the log before this one, where logrotate puts it.
func (l *connLog) openOlder() (*os.File, error) {
	return os.OpenFile(l.path+".1", os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not block
}

// lastRecord returns the hash of a log's last record and where it ends. torn is the number of bytes behind that: the front
// of a record, or what a file system puts where a write never arrived.
func lastRecord(f *os.File) (end int64, head [sha256.Size]byte, torn int64, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, head, 0, err
	}
	size := info.Size()
	tail := make([]byte, min(size, 2*maxRecord))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, head, 0, err
	}
	last := bytes.LastIndexByte(tail, '\n') + 1
	torn = int64(len(tail) - last)
	record := tail[:last]
	if last > 0 {
		record = record[bytes.LastIndexByte(tail[:last-1], '\n')+1:]
	}
	if _, ok := prevOf(record); !ok && (last > 0 || int64(len(tail)) < size || !bytes.HasPrefix(tail, []byte(recordBegin)[:min(len(tail), len(recordBegin))])) {
		return 0, head, 0, errors.New("what it ends with is no record of ours")
	}
	if last > 0 {
		head = sha256.Sum256(record)
	}
	return size - torn, head, torn, nil
}

// replay calls mark, in the log's order, for what its last tailBytes say of streams: the msg_id of a record, or that the
// client left. Where the file is shorter, the end of the one before it is read first.
func (l *connLog) replay(mark func(fingerprint string, id streamID, last uint64, left bool)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	if l.size < tailBytes {
		if older, err := l.openOlder(); err == nil {
			info, err := older.Stat()
			if err == nil && info.Mode().IsRegular() {
				err = replayTail(older, info.Size(), mark)
			}
			older.Close()
			if err != nil {
				return fmt.Errorf("reading %s.1: %w", l.path, err)
			}
		}
	}
	if err := replayTail(l.f, l.size, mark); err != nil {
		return fmt.Errorf("reading the log %s: %w", l.path, err)
	}
	return nil
}

func replayTail(f *os.File, size int64, mark func(string, streamID, uint64, bool)) error {
	from := max(0, size-tailBytes)
	r := bufio.NewReaderSize(io.NewSectionReader(f, from, size-from), 64<<10)
	for whole := from == 0; ; {
		line, err := r.ReadSlice('\n')
		if whole && len(line) > 0 {
			if fingerprint, id, last, left, ok := streamOf(line); ok {
				mark(fingerprint, id, last, left)
			}
		}
		whole = err == nil // else this was the front of a long record; what is looked for stands there
		if err != nil && err != bufio.ErrBufferFull {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// write appends whole records, encoded by add behind what it is given, in one write. After an error nothing of them is in
// the file: a torn record would take the next one with it. marks, where it is not nil, appends the records of the streams,
// when they are due. The operator is told when trouble begins, and when it ends.
func (l *connLog) write(add, marks func(b []byte) []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeLocked(add, marks)
}

// record is write for what has happened and cannot be refused any more: it is kept for when the log can be written again.
func (l *connLog) record(add, marks func(b []byte) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writeLocked(add, marks) == nil {
		return
	}
	if kept := add(l.owed); len(kept) <= maxOwed {
		l.owed = kept
	} else {
		l.lost++
	}
}

func (l *connLog) writeLocked(add, marks func(b []byte) []byte) error {
	if l.f == nil {
		return nil
	}
	marked := marks != nil && l.since >= markBytes
	l.buf = append(l.buf[:0], l.owed...)
	if marked {
		l.buf = marks(l.buf)
	}
	l.buf = add(l.buf)
	if err := l.put(l.buf); err != nil {
		l.troubled(err)
		return fmt.Errorf("%w: %w", errLog, err)
	}
	if marked {
		l.since = 0
	}
	l.since += int64(len(l.buf))
	l.owed = nil
	if l.trouble {
		text := "the log can be written again"
		if l.lost > 0 {
			text += fmt.Sprintf("; %d records of connects and disconnects are lost", l.lost)
		}
		l.trouble, l.lost = false, 0
		l.say(text)
	}
	if cap(l.buf) > maxLogBuffer {
		l.buf = nil
	}
	return nil
}

// put writes records to the file, or to a new one if somebody has removed it.
func (l *connLog) put(b []byte) error {
	if l.torn {
		if err := l.cut(); err != nil {
			return err
		}
	}
	head := chain(b, l.head)
	n, err := l.f.Write(b)
	if err == nil && unlinked(l.f) {
		if err = l.replace(); err != nil {
			return err
		}
		l.say("the log was removed; it goes on in a new file " + l.path)
		head = chain(b, l.head)
		n, err = l.f.Write(b)
	}
	if err != nil {
		if l.torn = n > 0; l.torn {
			err = errors.Join(err, l.cut())
		}
		return err
	}
	l.size += int64(n)
	l.head = head
	return nil
}

// cut removes what a failed write left.
func (l *connLog) cut() error {
	info, err := l.f.Stat()
	if err == nil && info.Size() > l.size {
		err = l.f.Truncate(l.size)
	}
	l.torn = err != nil
	return err
}

// replace goes on in the file that is at the path now, made if need be.
func (l *connLog) replace() error {
	head := l.head
	f, _, err := l.open()
	if err != nil {
		return err
	}
	l.f.Close()
	l.f, l.torn, l.since = f, false, markBytes
	if l.size > 0 && l.head != head {
		l.say("the log goes on in " + l.path + ", behind records that were there")
	}
	l.synced.size, l.synced.head = l.size, l.head
	return nil
}

// reopen goes on in the file that is at the path now: after a rotation a new one, so it moved. After an error all is as
// before.
func (l *connLog) reopen() (moved bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return false, nil
	}
	here, err := os.Stat(l.path)
	if err == nil {
		var ours os.FileInfo
		if ours, err = l.f.Stat(); err == nil && os.SameFile(here, ours) {
			return false, nil
		}
	}
	if l.durable {
		if err := l.syncing(l.f); err != nil {
			return false, fmt.Errorf("reopening the log: %w; it goes on in the old file", err)
		}
	}
	if err := l.replace(); err != nil {
		return false, fmt.Errorf("reopening the log %s: %w; it goes on in the old file", l.path, err)
	}
	return true, nil
}

// sync waits until all that is written is on disk, while others write on.
func (l *connLog) sync() error {
	l.mu.Lock()
	f, size, head := l.f, l.size, l.head
	l.mu.Unlock()
	if f == nil {
		return nil
	}
	err := l.syncing(f)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != f {
		return nil // rotated meanwhile, which syncs too
	}
	if err == nil {
		l.synced.size, l.synced.head = size, head
	}
	return err
}

// rollback removes what was written since the last sync, after one has failed: a system forgets what it could not write,
// so that nobody knows what of it is on the disk.
func (l *connLog) rollback(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return
	}
	l.troubled(why)
	l.size, l.head = l.synced.size, l.synced.head
	l.cut() // or the next write does
}

// troubled tells the operator of the first of failed writes.
func (l *connLog) troubled(err error) {
	if !l.trouble {
		l.trouble = true
		l.say(fmt.Sprintf("cannot write the log %s: %s; nothing is acknowledged until it can be written", l.path, netReason(err)))
	}
}

func (l *connLog) say(text string) {
	if l.tell != nil {
		l.tell(text)
	}
}

func (l *connLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	var err error
	if len(l.owed) > 0 {
		err = l.writeLocked(func(b []byte) []byte { return b }, nil)
	}
	if l.durable && err == nil {
		err = l.syncing(l.f)
	}
	err = errors.Join(err, l.f.Close())
	l.f = nil
	return err
}
