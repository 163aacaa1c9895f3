package main

// The files of the state folder: reading them with a bound, replacing them in one step, locking the folder, and
// checking who else can read a secret. In a folder that belongs to another user, root's files get that user as owner,
// and root follows no link: the user could have placed it to read or change a file of root's.

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxStateFile = 1 << 20         // bytes of authorized_keys, known_hosts, revoked_keys and invites
	maxStateLine = 16 << 10        // bytes of one line of them
	maxKeyFile   = 64 << 10        // bytes of a key, certificate or passphrase file
	lockWait     = 5 * time.Second // for the folder's lock, which is held for a few writes at a time
	lockRetry    = 10 * time.Millisecond
)

// stateFolder returns the path of the folder that holds the keys and the lists of trusted keys: the flag's value, else
// $SECURECHAT_DIR, else securechat in the user's configuration folder.
func stateFolder(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if dir := os.Getenv("SECURECHAT_DIR"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the keys: set -dir or $SECURECHAT_DIR: %w", err)
	}
	return filepath.Join(dir, "securechat"), nil
}

// serviceFolder returns the first of folders that has an identity and belongs to the user of a service, if this process
// is root, else "".
func serviceFolder(folders []string, euid int) string {
	for _, dir := range folders {
		if ownerOf(dir, euid) != nil && exists(filepath.Join(dir, "identity")) {
			return dir
		}
	}
	return ""
}

// makeFolder creates the state folder if it does not exist. It returns an error if other users can access the folder.
func makeFolder(dir string) error {
	if err := makePrivateFolder(dir); err != nil {
		return fmt.Errorf("creating the state folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("checking the state folder: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("other users can access the folder %s: run chmod 700 %s", dir, shellQuote(dir))
	}
	return nil
}

// checkPrivate returns an error if other users can access the file of a secret. If this user does not own the file, its
// group may read it: an administrator has then given it to a group of which this user is a member. Windows has no such
// permission bits.
func checkPrivate(path string, info fs.FileInfo) error {
	forbidden := fs.FileMode(0o077)
	if !ownedByUs(info) {
		forbidden = 0o037
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&forbidden != 0 {
		return fmt.Errorf("other users can access %s: run chmod 600 %s", path, shellQuote(path))
	}
	return nil
}

// shellQuote quotes a path so that it can be pasted into a shell command.
func shellQuote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:@%,"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// exists reports whether path names a file. A symbolic link counts even if its target does not exist.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// readFile reads a regular file of at most limit bytes. It opens the file once, so the file that it checks is the file
// that it reads, and without blocking, so a named pipe at path is an error and not a hang.
func readFile(path string, limit int64) ([]byte, fs.FileInfo, error) {
	owner := ownerOf(filepath.Dir(path), os.Geteuid())
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|owner.flags(), 0)
	if err != nil && owner != nil && isLink(path) {
		return nil, nil, errPlanted(path)
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	if owner != nil && hasOtherName(info) {
		return nil, nil, errPlanted(path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(data)) > limit {
		return nil, nil, fmt.Errorf("%s is longer than %d KiB", path, limit>>10)
	}
	return data, info, nil
}

// errPlanted is the error of a link in the folder of another user.
func errPlanted(path string) error {
	return fmt.Errorf("%s is a link in the folder of another user, which root does not follow: replace it by a file", path)
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// writeFile replaces the file at path by data, with mode 0600, in one step: a crash or a power cut leaves the old
// file or the new one. If path is a symbolic link, it replaces the link's target.
func writeFile(path string, data []byte) error {
	if ownerOf(filepath.Dir(path), os.Geteuid()) != nil && isLink(path) {
		return errPlanted(path)
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := replaceFile(path, data, os.Rename, syncFolder); err != nil {
		return fmt.Errorf("cannot write %s: %w%s", path, err, writeAdvice(err))
	}
	return nil
}

// replaceFile writes data to a new file, renames it to path, and flushes both the file and the folder to disk. A file
// that is a mount point of its own cannot be replaced by a rename; replaceFile overwrites it in place.
func replaceFile(path string, data []byte, rename func(from, to string) error, sync func(folder string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = ownerOf(filepath.Dir(path), os.Geteuid()).give(f)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = rename(f.Name(), path)
	}
	if err == nil {
		return sync(filepath.Dir(path)) // else a power cut can bring the old file back
	}
	if errors.Is(err, syscall.EBUSY) {
		err = overwriteFile(path, data)
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// overwriteFile replaces the contents of a file without replacing the file.
func overwriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|ownerOf(filepath.Dir(path), os.Geteuid()).flags(), 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// writeAdvice returns what the user can do about a failed write, as the end of a sentence, or "".
func writeAdvice(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return ": free some space and try again"
	case isReadOnly(err):
		return ": allow this user to write to the folder and try again"
	}
	return ""
}

// isReadOnly reports whether err means that this user cannot write to a file or folder.
func isReadOnly(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// withLock runs fn while it holds the folder's lock, which excludes other processes and other goroutines. The operating
// system releases the lock when its holder ends, so a crash leaves no stale lock.
func withLock(dir string, fn func() error) error {
	path := filepath.Join(dir, "lock")
	f, err := openLock(path)
	if err != nil {
		return fmt.Errorf("cannot lock the state folder: %w%s", err, writeAdvice(err))
	}
	defer f.Close()
	for waited := time.Duration(0); ; waited += lockRetry {
		held, err := tryLock(f)
		if err != nil {
			return fmt.Errorf("locking %s: %w", path, err)
		}
		if held {
			return fn()
		}
		if waited >= lockWait {
			return fmt.Errorf("another securechat process has locked %s for %v: end it and try again", path, lockWait)
		}
		time.Sleep(lockRetry)
	}
}

// openLock opens the lock's file, which it creates if needed.
func openLock(path string) (*os.File, error) {
	owner := ownerOf(filepath.Dir(path), os.Geteuid())
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE|owner.flags(), 0o600)
	}
	if err != nil {
		return nil, err
	}
	if err := owner.give(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// stateFiles reads and appends to the text files of the state folder, and reports what is wrong with them.
type stateFiles struct {
	dir  string
	warn func(format string, a ...any) // prints a warning; nil discards it

	mu       sync.Mutex          // guards reported
	reported map[string][]string // the faults that each file had when it was last read, all of them reported
}

func newStateFiles(dir string, warn func(format string, a ...any)) *stateFiles {
	return &stateFiles{dir: dir, warn: warn, reported: make(map[string][]string)}
}

func (s *stateFiles) path(name string) string { return filepath.Join(s.dir, name) }

// lock runs fn while it holds the folder's lock.
func (s *stateFiles) lock(fn func() error) error { return withLock(s.dir, fn) }

// read returns the contents of a file, or nil if there is no file.
func (s *stateFiles) read(name string) ([]byte, error) {
	data, _, err := readFile(s.path(name), maxStateFile)
	if errors.Is(err, fs.ErrNotExist) && !exists(s.path(name)) {
		return nil, nil // a symbolic link to a missing file is an error: its revocations would be lost
	}
	if err == nil && isUTF16(data) {
		return nil, fmt.Errorf("%s is UTF-16 text: save it as UTF-8", s.path(name))
	}
	return data, err
}

// isUTF16 reports whether data begins with UTF-16 text: a byte order mark, or a character whose other byte is zero.
func isUTF16(data []byte) bool {
	return len(data) >= 2 && (data[0] == 0xff && data[1] == 0xfe || data[0] == 0xfe && data[1] == 0xff ||
		(data[0] == 0) != (data[1] == 0))
}

// report warns of the faults of a file that has just been read. Each fault is reported once, and again only after a
// read that did not find it.
func (s *stateFiles) report(name string, faults []string) {
	s.mu.Lock()
	known := s.reported[name]
	s.reported[name] = faults
	s.mu.Unlock()
	if s.warn == nil {
		return
	}
	for _, fault := range faults {
		if !slices.Contains(known, fault) {
			s.warn("%s", fault)
		}
	}
}

// appendLine appends a line to a file, which it creates if needed, and returns the line's number. The caller holds the
// folder's lock.
func (s *stateFiles) appendLine(name, line string) (int, error) {
	data, err := s.read(name)
	if err != nil {
		return 0, err
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	data = append(append(data, line...), '\n')
	if len(data) > maxStateFile {
		return 0, fmt.Errorf("%s is full: remove lines that are no longer needed", s.path(name))
	}
	return bytes.Count(data, []byte{'\n'}), writeFile(s.path(name), data)
}

// fileWatch notices changes of files. It is for one goroutine.
type fileWatch struct {
	paths []string
	seen  []fs.FileInfo // of each path; nil if there was no file
	young bool          // a file was so young that a further change could leave its times as they are
}

// newFileWatch returns a watch that reports changes from now on.
func newFileWatch(paths ...string) *fileWatch {
	w := &fileWatch{paths: paths, seen: make([]fs.FileInfo, len(paths))}
	w.changed(time.Now())
	return w
}

// changed reports whether a file may have changed since the last call. It looks at the files' sizes and times only,
// so it can be called often.
func (w *fileWatch) changed(now time.Time) bool {
	const timeStep = 2 * time.Second // the coarsest time stamp of common file systems
	changed := w.young
	w.young = false
	for i, path := range w.paths {
		info, err := os.Stat(path)
		if err != nil {
			info = nil // what is wrong with the file is reported when it is read
		}
		old := w.seen[i]
		w.seen[i] = info
		if info == nil || old == nil {
			changed = changed || (info == nil) != (old == nil)
		} else if !os.SameFile(info, old) || info.Size() != old.Size() || !info.ModTime().Equal(old.ModTime()) {
			changed = true
		}
		w.young = w.young || info != nil && now.Sub(info.ModTime()) < timeStep
	}
	return changed
}

// parsedFile is a file of the state folder that is parsed once for each change of its contents. Any goroutine may use
// it.
type parsedFile[T any] struct {
	name  string
	parse func(data []byte) (T, error) // data is nil if there is no file

	mu    sync.Mutex // guards the fields below
	watch *fileWatch // nil before the first reading
	known bool       // the fields below are those of the last reading
	read  time.Time
	sum   [sha256.Size]byte // of the contents; of nothing also if there is no file
	none  bool              // there is no file
	value T
	err   error
}

// trustTimes is how long the contents of a file are not read again while its size and times stay the same. Some
// programs set a file's time back after they have changed it.
const trustTimes = 2 * time.Second

// get returns what parse made of the file as it is now. An error of reading the file is returned and not remembered.
func (p *parsedFile[T]) get(files *stateFiles) (value T, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.watch == nil {
		p.watch = newFileWatch(files.path(p.name))
	}
	changed := p.watch.changed(now) // before reading, so that a change meanwhile is noticed the next time
	if since := now.Sub(p.read); p.known && !changed && 0 <= since && since < trustTimes {
		return p.value, p.err
	}
	data, err := files.read(p.name)
	if err != nil {
		p.known = false
		return value, err
	}
	if sum, none := sha256.Sum256(data), data == nil; !p.known || sum != p.sum || none != p.none {
		p.value, p.err = p.parse(data)
		p.known, p.sum, p.none = true, sum, none
	}
	p.read = now
	return p.value, p.err
}

// textLines yields the lines of a file that are neither empty nor comments, and their numbers.
func textLines(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for n, line := range allLines(data) {
			if !isComment(line) && !yield(n, line) {
				return
			}
		}
	}
}

// allLines yields the lines of a file that are not empty, and their numbers, which start at 1. It removes surrounding
// white space, and a byte order mark at the start of any line, because files are also put together with cat.
func allLines(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		n := 0
		for line := range bytes.Lines(data) {
			n++
			line = bytes.TrimSpace(line)
			for bytes.HasPrefix(line, []byte(byteOrderMark)) {
				line = bytes.TrimSpace(line[len(byteOrderMark):])
			}
			if len(line) > 0 && !yield(n, line) {
				return
			}
		}
	}
}

const byteOrderMark = "\ufeff"

func isComment(line []byte) bool { return line[0] == '#' }

// checkLine returns an error for a line that is too long or contains control characters.
func checkLine(text []byte) error {
	if len(text) > maxStateLine {
		return fmt.Errorf("it is longer than %d bytes", maxStateLine)
	}
	if bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return errors.New("it contains control characters")
	}
	return nil
}
