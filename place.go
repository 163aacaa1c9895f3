package main

// A client's place in a room: how far it has written out what it received. A program keeps it in a file (-resume), the
// server receives it as acknowledgements.

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxPlaceFile = 256 // bytes of the file of -resume

	// reportEvery is the least time between two reports to the server, which cost it a packet from each client.
	reportEvery = time.Second
)

// place is a position among the messages of a room. The reader of a connection owns it, and between two connections the
// goroutine that connects.
type place struct {
	known bool
	epoch [8]byte // of the room; zeros with -since: whichever room it is
	seen  uint64  // the number of the last message that was written out
	file  string  // of -resume; "" without
	kept  string  // what the file has
}

// readPlace returns the place in a file of -resume. If there is no such file, the place is not known.
func readPlace(path string) (place, error) {
	removeLeftovers(path)
	p := place{file: path}
	data, _, err := readFile(path, maxPlaceFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("reading the place of -resume: %w", err)
	}
	p.kept = string(data)
	digits, number, _ := strings.Cut(strings.TrimSuffix(p.kept, "\n"), " ")
	epoch, err := hex.DecodeString(digits)
	if err == nil && len(epoch) == len(p.epoch) {
		p.known, p.epoch = true, [8]byte(epoch)
		p.seen, err = strconv.ParseUint(number, 10, 64)
	}
	if err != nil || !p.known {
		return p, fmt.Errorf("-resume: %s has no place in a room: remove it to begin with now", path)
	}
	return p, nil
}

// keep replaces the file by the place, in one step, unless the file has it. A power cut may bring an older place back,
// so some messages come twice.
func (p *place) keep() error {
	if p.file == "" {
		return nil
	}
	text := fmt.Sprintf("%x %d\n", p.epoch, p.seen)
	if text == p.kept {
		return nil
	}
	if err := replaceUnsynced(p.file, text); err != nil {
		return fmt.Errorf("cannot keep the place of -resume in %s: %w%s", p.file, err, writeAdvice(err))
	}
	p.kept = text
	return nil
}

// replaceUnsynced replaces a file in one step. Unlike replaceFile it does not wait for the disk, which would slow a
// program down that does so for each message.
func replaceUnsynced(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), leftoverPrefix(path)+"*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// leftoverAge is the age from which on no running program can be about to rename a file of replaceUnsynced.
const leftoverAge = time.Minute

// leftoverPrefix begins the names of such files. Other programs do not use it.
func leftoverPrefix(path string) string { return "." + filepath.Base(path) + ".securechat-" }

// removeLeftovers removes the files that programs have left which were killed in replaceUnsynced. Errors are ignored,
// since these files do no harm.
func removeLeftovers(path string) {
	folder := filepath.Dir(path)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return // then the place cannot be kept either, which keep reports
	}
	for _, e := range entries {
		number, ours := strings.CutPrefix(e.Name(), leftoverPrefix(path))
		if !ours || number == "" || strings.Trim(number, "0123456789") != "" || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err == nil && info.Size() <= maxPlaceFile && time.Since(info.ModTime()) > leftoverAge {
			_ = os.Remove(filepath.Join(folder, e.Name()))
		}
	}
}

// readReport tells the server how far the client has written out what it received: a direct message at once, since its
// sender waits for that, everything else at most once in reportEvery.
type readReport struct {
	timer  *time.Timer // fires when a report is due; the writer's
	urgent bool        // a direct message was shown and not written out yet; the reader's

	mu       sync.Mutex // guards the fields below
	off      bool       // the protocol has no such reports
	written  uint64     // the number of the last message that was written out
	reported uint64     // the last that was reported
	due      time.Time  // when the next report may be sent
	now      bool       // the next report does not wait until due
	armed    bool       // the writer knows that a report is to be sent
}

func newReadReport(seq uint64, on bool) *readReport {
	r := &readReport{timer: time.NewTimer(reportEvery), off: !on, written: seq, reported: seq}
	r.timer.Stop()
	return r
}

// wrote notes that everything up to seq was written out. It returns true if the writer has to be woken.
func (r *readReport) wrote(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	urgent := r.urgent
	r.urgent = false
	if r.off || seq <= r.written && !urgent {
		return false
	}
	r.written = max(r.written, seq)
	r.now = r.now || urgent
	if r.armed && !urgent {
		return false
	}
	r.armed = true
	return true
}

// append appends a report to buf, if there is something to report and it is due or last, and sets the timer if it is
// not due.
func (r *readReport) append(buf []byte, l link, last bool) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.written == r.reported {
		r.armed, r.now = false, false
		return buf, nil
	}
	now := time.Now()
	if wait := r.due.Sub(now); wait > 0 && !r.now && !last {
		r.timer.Reset(wait)
		return buf, nil
	}
	r.reported, r.due, r.now, r.armed = r.written, now.Add(reportEvery), false, false
	return l.append(buf, kindAck, binary.BigEndian.AppendUint64(nil, r.written))
}
