package main

// connection.log: what the server received, who sent it, and every connect, refusal and disconnect (the paper's §5).
// It has one JSON object per line, is only appended to, and has mode 0600. A message is acknowledged only after its
// record has been written.
//
// The last member of a record, prev, is the SHA-256 of the record before it. The chain continues over a change of
// files; verify.go checks it, and a start checks what it reads. docs/LOG.md describes the log for an operator.

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// errLog is wrapped by errors that keep a record from the log. The record's message is not acknowledged.
var errLog = errors.New("cannot write the log")

const (
	maxLogBuffer = 1 << 20  // bytes of buffer kept between writes
	maxBacklog   = 64 << 10 // bytes of records that wait while the log cannot be written

	// A start reads the last tailBytes of the log at least (logtail.go). The records of the room, of its visitors and of
	// streams whose clients may reconnect are repeated every markBytes, so the tail contains them.
	tailBytes = 16 << 20
	markBytes = 8 << 20

	// The log leaves this much of its file system free, for the other programs of the machine and for the operator: 1 % of
	// it, at most spareBytes. The free space is read again after spaceStep bytes or spaceTime.
	sparePart  = 100
	spareBytes = 16 << 20
	spaceStep  = 1 << 20
	spaceTime  = time.Second
)

// logStdout is the path of a log that is written to stdout, for a container. It has no file: it is never read, cut,
// synced or reopened, so a start continues neither its chain nor the streams of clients.
const logStdout = "-"

// logOptions say where the log is and what it records.
type logOptions struct {
	path    string            // "off" keeps no log, logStdout writes it to stdout
	stdout  *os.File          // for logStdout
	digests bool              // -log-text=false: record the SHA-256 of a message instead of its text
	durable bool              // -sync: the caller calls sync before it acknowledges
	notify  func(text string) // reports to the operator; may be nil
}

// logEnd is the end of a log file.
type logEnd struct {
	size int64
	head [sha256.Size]byte // the hash of the last record
}

// backlog holds records that wait while the log cannot be written.
type backlog struct {
	failing bool // the last write failed, and the operator was notified
	records []byte
	lost    int // records for which there was no room
}

// keep adds the records that add appends, or counts them as lost.
func (b *backlog) keep(add func(b []byte) []byte) {
	kept := add(b.records)
	if len(kept) > maxBacklog {
		b.lost++
		return
	}
	b.records = kept
}

// logSpace keeps a part of the log's file system free.
type logSpace struct {
	measure func(f *os.File) (free, total uint64) // fileSystemSpace
	left    int64                                 // bytes that can be written before free space is read again
	read    time.Time                             // when it was read
}

// take returns an error if n more bytes would leave too little of f's file system free. The error is that of a full
// disk.
func (s *logSpace) take(f *os.File, n int64, now time.Time) error {
	if n > s.left || now.Sub(s.read) >= spaceTime || now.Before(s.read) {
		free, total := s.measure(f)
		spare := min(total/sparePart, spareBytes)
		if total > 0 && free < spare+uint64(n) {
			s.left = 0
			return fmt.Errorf("%w: the log leaves %d KiB of its file system free", syscall.ENOSPC, spare>>10)
		}
		s.left, s.read = n+spaceStep, now
		if total > 0 {
			s.left = min(s.left, n+int64(free-spare-uint64(n))/2) // others write too
		}
	}
	s.left -= n
	return nil
}

// connLog appends records. Its methods may be called from any goroutine.
type connLog struct {
	logOptions
	began    string // how the file was found when it was opened, for the start record; "" if there is nothing to say
	alarm    string // of began, what the operator has to know; "" if all is well
	syncFile func(f *os.File) error

	mu         sync.Mutex // guards the fields below
	f          *os.File   // nil if there is no log or it is closed
	buf        []byte
	end        logEnd // of f
	synced     logEnd // the end at the last sync
	torn       bool   // f is longer than end.size: the rest of a failed write could not be removed
	sinceMarks int64  // bytes written since the last records of streams
	backlog    backlog
	space      logSpace
}

// off reports whether there is no log.
func (l *connLog) off() bool { return l.path == "off" }

// openLog opens the log for appending. The torn last record that a power cut leaves is removed. A file that is new or
// empty continues the chain of path.1, the file's name after a rotation, if that is a log.
func openLog(o logOptions) (*connLog, error) {
	l := &connLog{logOptions: o, syncFile: (*os.File).Sync, space: logSpace{measure: fileSystemSpace}}
	if l.off() {
		return l, nil
	}
	if o.path == logStdout {
		l.f, l.began = o.stdout, "new"
		return l, nil
	}
	if err := l.start(); err != nil {
		return nil, fmt.Errorf("cannot write the log %s: %w; name another with -log FILE, or -log off", o.path, err)
	}
	return l, nil
}

// start opens the file, verifies what replay will read, and sets began and alarm.
func (l *connLog) start() error {
	f, end, cut, err := l.open()
	if err != nil {
		return err
	}
	var older *os.File // nil if replay will not read it
	var olderEnd logEnd
	var torn int64
	if end.size < tailBytes {
		older, olderEnd, torn = l.openOlder()
	}
	if older != nil {
		defer older.Close()
		l.end.head = olderEnd.head // for an empty file
	}
	l.f = f
	l.continueAt(end)
	var alarms []string
	if cut > 0 {
		alarms = append(alarms, fmt.Sprintf("repaired: %d bytes of a torn last record were removed", cut))
	}
	if end.size == 0 && torn > 0 && cutOlder(older, olderEnd.size) {
		alarms = append(alarms, fmt.Sprintf("repaired: %d bytes of a torn last record of %s.1 were removed", torn, l.path))
	}
	if err := l.verifyTail(older, olderEnd.size); err != nil {
		alarms = append(alarms, "damaged: "+err.Error())
	}
	l.alarm = strings.Join(alarms, "; ")
	switch {
	case l.alarm != "":
		l.began = l.alarm
	case end.size == 0 && older != nil:
		l.began = "continues " + l.path + ".1"
	case end.size == 0:
		l.began = "new"
	}
	if err := l.syncFile(f); err != nil { // the records that a start reads count as acknowledged
		f.Close()
		return err
	}
	return nil
}

// warn adds to what the operator has to know at the start.
func (l *connLog) warn(text string) {
	if l.alarm != "" {
		text = l.alarm + "; " + text
	}
	l.alarm = text
}

// verifyTail returns what is wrong with the chain of the records that replay will read. older is nil without a rotated
// log; olderSize is the end of its last record.
func (l *connLog) verifyTail(older *os.File, olderSize int64) error {
	var before chainSummary
	if older != nil {
		var err error
		before, err = verifyEnd(older, olderSize, tailBytes)
		if err != nil {
			return fmt.Errorf("%s.1: %w", l.path, err)
		}
	}
	v, err := verifyEnd(l.f, l.end.size, tailBytes)
	if err != nil {
		return err
	}
	return v.follows(before, l.path, l.path+".1")
}

// open opens, locks and repairs the file at l.path. cut is the number of bytes that the repair removed.
func (l *connLog) open() (f *os.File, end logEnd, cut int64, err error) {
	f, err = openAppend(l.path)
	if err != nil {
		return nil, end, 0, err
	}
	end, cut, err = l.prepare(f)
	if err != nil {
		f.Close()
		return nil, end, 0, err
	}
	return f, end, cut, nil
}

// prepare checks that f can be the log, locks it and repairs its end. It reports a log that other users can access.
func (l *connLog) prepare(f *os.File) (end logEnd, cut int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return end, 0, err
	}
	if !info.Mode().IsRegular() {
		return end, 0, errors.New("not a regular file")
	}
	owner := ownerOf(filepath.Dir(l.path), os.Geteuid())
	if owner != nil && hasOtherName(info) {
		return end, 0, errPlanted(l.path)
	}
	if info.Size() == 0 {
		if err := owner.give(f); err != nil {
			return end, 0, err
		}
	}
	locked, err := tryLock(f)
	if err != nil {
		return end, 0, err
	}
	if !locked {
		return end, 0, errors.New("another securechat writes it")
	}
	if err := checkPrivate(l.path, info); err != nil {
		l.report(err.Error())
	}
	return repairEnd(f, l.path)
}

// repairEnd returns the end of the last record, and removes the cut bytes that follow it.
func repairEnd(f *os.File, path string) (end logEnd, cut int64, err error) {
	end, cut, err = lastRecord(f)
	if err != nil {
		return end, 0, err
	}
	if cut > 0 {
		if err := f.Truncate(end.size); err != nil {
			return end, 0, err
		}
	}
	if end.size > 0 {
		return end, cut, nil
	}
	// Otherwise a power cut could remove the name of a new file, and with it all the records that -sync has written.
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return end, 0, err
	}
	return end, cut, syncFolder(filepath.Dir(target))
}

// openOlder opens the log before this one, under its name after a rotation, for writing if possible. torn is the number
// of bytes after its last record. The file is nil if there is none, or if it is no log.
func (l *connLog) openOlder() (f *os.File, end logEnd, torn int64) {
	flags := syscall.O_NONBLOCK | ownerOf(filepath.Dir(l.path), os.Geteuid()).flags() // a FIFO must not block
	f, err := os.OpenFile(l.path+".1", os.O_RDWR|flags, 0)
	if err != nil {
		f, err = os.OpenFile(l.path+".1", os.O_RDONLY|flags, 0)
	}
	if err != nil {
		return nil, logEnd{}, 0
	}
	end, torn, err = lastRecord(f)
	if err != nil || end.size == 0 {
		f.Close()
		return nil, logEnd{}, 0
	}
	return f, end, torn
}

// cutOlder removes what follows the last record of a log that was rotated after its server was killed, and reports
// whether it did. A server that still writes the file has locked it.
func cutOlder(f *os.File, size int64) bool {
	locked, err := tryLock(f)
	return err == nil && locked && f.Truncate(size) == nil
}

// lastRecord returns the end of a log's last record. rest is the number of bytes after it: the front of a record, or
// the bytes that a file system leaves in place of a write that a power cut prevented.
func lastRecord(f *os.File) (end logEnd, rest int64, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return end, 0, err
	}
	size := info.Size()
	tail := make([]byte, min(size, 2*maxRecord))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return end, 0, err
	}
	last := bytes.LastIndexByte(tail, '\n') + 1
	rest = int64(len(tail) - last)
	if last == 0 {
		begin := []byte(recordBegin)
		if int64(len(tail)) < size || !bytes.HasPrefix(tail, begin[:min(len(tail), len(begin))]) {
			return end, 0, errForeignLog
		}
		return end, rest, nil // the front of a first record
	}
	record := tail[bytes.LastIndexByte(tail[:last-1], '\n')+1 : last]
	if _, ok := prevOf(record); !ok {
		return end, 0, errForeignLog
	}
	return logEnd{size - rest, sha256.Sum256(record)}, rest, nil
}

var errForeignLog = errors.New("its end is no record of this program, so it is left alone")

// write appends the records that add appends to its argument, in one write. After an error the file has none of them:
// a torn record would make the next one unreadable too. marks, unless it is nil, appends the records of streams; it
// is called when they are due. The operator is notified when writing begins to fail and when it works again.
func (l *connLog) write(add, marks func(b []byte) []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeLocked(add, marks)
}

// record is like write, for an event that cannot be undone. If the log cannot be written, the records wait until it
// can.
func (l *connLog) record(add, marks func(b []byte) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writeLocked(add, marks) != nil {
		l.backlog.keep(add)
	}
}

func (l *connLog) writeLocked(add, marks func(b []byte) []byte) error {
	if l.f == nil {
		return nil
	}
	if err := l.check(); err != nil {
		l.failed(err)
		return fmt.Errorf("%w: %w", errLog, err)
	}
	marksDue := marks != nil && l.sinceMarks >= markBytes
	l.buf = append(l.buf[:0], l.backlog.records...)
	if marksDue {
		l.buf = marks(l.buf)
	}
	l.buf = add(l.buf)
	if err := l.put(l.buf); err != nil {
		l.failed(err)
		return fmt.Errorf("%w: %w", errLog, err)
	}
	if marksDue {
		l.sinceMarks = 0
	}
	l.sinceMarks += int64(len(l.buf))
	l.recovered()
	if cap(l.buf) > maxLogBuffer {
		l.buf = nil
	}
	return nil
}

// check continues in a new file if this one has been removed, and behind what is left of it if it has been shortened:
// a failed write is cut off at the end that the file had, so that end must be right.
func (l *connLog) check() error {
	if l.path == logStdout {
		return nil
	}
	if unlinked(l.f) {
		return l.replace()
	}
	size, err := l.f.Seek(0, io.SeekEnd) // unlike Stat it allocates nothing
	switch {
	case err != nil:
		return err
	case size < l.end.size:
		before := l.end
		end, _, err := repairEnd(l.f, l.path)
		if err != nil {
			return err
		}
		l.continueAt(end)
		const text = "the log %s was shortened by another program, from %d bytes to %d; it continues behind them"
		l.report(fmt.Sprintf(text, l.path, before.size, end.size))
	}
	return nil
}

// continueAt makes end the end of the file, whose marks are due. The chain continues with end's head, or in an empty
// file with the head so far.
func (l *connLog) continueAt(end logEnd) {
	if end.size == 0 {
		end.head = l.end.head
	}
	l.end, l.synced, l.torn, l.sinceMarks = end, end, false, markBytes
	l.space.left = 0 // the file system may be another one
}

// put writes records to the file.
func (l *connLog) put(b []byte) error {
	if l.torn {
		if err := l.cut(); err != nil {
			return err
		}
	}
	head := chain(b, l.end.head)
	n, err := l.append(b)
	if err != nil {
		l.torn = n > 0
		if l.torn {
			err = errors.Join(err, l.cut())
		}
		return err
	}
	l.end.size += int64(n)
	l.end.head = head
	return nil
}

// append writes records to the file if its file system has space for them.
func (l *connLog) append(b []byte) (int, error) {
	if l.path != logStdout {
		if err := l.space.take(l.f, int64(len(b)), time.Now()); err != nil {
			return 0, err
		}
	}
	return l.f.Write(b)
}

// cut removes the rest of a failed write, and leaves the file's position, at which Windows writes, at its end.
func (l *connLog) cut() error {
	if l.path == logStdout {
		l.torn = false
		return nil
	}
	info, err := l.f.Stat()
	if err == nil && info.Size() > l.end.size {
		err = l.f.Truncate(l.end.size)
	}
	if err == nil {
		_, err = l.f.Seek(0, io.SeekEnd)
	}
	l.torn = err != nil
	return err
}

// replace continues in the file that is at the path now, which it creates if there is none. It reports that the file
// so far was removed.
func (l *connLog) replace() error {
	head, removed := l.end.head, unlinked(l.f)
	if removed {
		l.f.Close() // Windows keeps the name of a removed file until it is closed
	}
	f, end, _, err := l.open()
	if err != nil {
		return err
	}
	l.f.Close()
	l.f = f
	l.continueAt(end)
	if removed {
		l.report("the log was removed; it continues in a new file " + l.path)
	}
	if end.size > 0 && end.head != head {
		l.report("the log continues in " + l.path + ", after the records that it had")
	}
	return nil
}

// reopen continues in the file that is at the path now. After a rotation that is another file, and moved is true.
// After an error the log stays in the old file.
func (l *connLog) reopen() (moved bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil || l.path == logStdout || isFileAt(l.f, l.path) {
		return false, nil
	}
	old := "it continues in the old file"
	if unlinked(l.f) {
		old = "the old file was removed, so nothing is acknowledged until it can be written"
	} else if l.durable {
		if err := l.syncFile(l.f); err != nil {
			return false, fmt.Errorf("reopening the log: %w; %s", err, old)
		}
	}
	if err := l.replace(); err != nil {
		return false, fmt.Errorf("reopening the log %s: %w; %s", l.path, err, old)
	}
	return true, nil
}

// moved reports whether reopen would change the file. It delays no write.
func (l *connLog) moved() bool {
	l.mu.Lock()
	f := l.f
	l.mu.Unlock()
	return f != nil && l.path != logStdout && !isFileAt(f, l.path)
}

// isFileAt reports whether f is the file at the path.
func isFileAt(f *os.File, path string) bool {
	current, err := os.Stat(path)
	if err != nil {
		return false
	}
	open, err := f.Stat()
	return err == nil && os.SameFile(current, open)
}

// sync returns after all records written before the call are on disk. Others can write meanwhile.
func (l *connLog) sync() error {
	l.mu.Lock()
	f, end := l.f, l.end
	l.mu.Unlock()
	if f == nil || l.path == logStdout {
		return nil
	}
	err := l.syncFile(f)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != f {
		return nil // rotated meanwhile, which syncs too
	}
	if err != nil {
		return err
	}
	if end.size <= l.end.size { // else the file was shortened meanwhile
		l.synced = end
	}
	return nil
}

// rollback removes the records written since the last sync, after a sync failed with cause. A system forgets the data
// that it could not write, so it is unknown which of these records are on disk.
func (l *connLog) rollback(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return
	}
	l.failed(cause)
	l.end, l.sinceMarks = l.synced, markBytes // the marks may be among these records
	_ = l.cut()                               // if this fails, the next write tries again
}

// failed notifies the operator of the first of several failed writes.
func (l *connLog) failed(err error) {
	if l.backlog.failing {
		return
	}
	l.backlog.failing = true
	l.report(fmt.Sprintf("cannot write the log %s: %v; nothing is acknowledged until it can be written", l.path, err))
}

// recovered clears the backlog after a write, and notifies the operator of the first write after failed ones.
func (l *connLog) recovered() {
	failing, lost := l.backlog.failing, l.backlog.lost
	l.backlog = backlog{}
	switch {
	case failing && lost > 0:
		l.report(fmt.Sprintf("the log can be written again; %d records of connects and disconnects are lost", lost))
	case failing:
		l.report("the log can be written again")
	}
}

// report sends text to the operator.
func (l *connLog) report(text string) {
	if l.notify != nil {
		l.notify(text)
	}
}

// close writes the backlog and closes the file. It may be called again.
func (l *connLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	var err error
	if len(l.backlog.records) > 0 {
		err = l.writeLocked(func(b []byte) []byte { return b }, nil)
	}
	if l.durable && err == nil {
		err = l.syncFile(l.f)
	}
	err = errors.Join(err, l.f.Close())
	l.f = nil
	return err
}
