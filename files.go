package main

import (
	"bytes"
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

	"golang.org/x/crypto/ssh"
)

// Files of the state folder: reading with a bound, writing in one step, locking, and the rules for who may read them.

// stateFolder returns the folder that holds keys and trust: the flag's, else $SECURECHAT_DIR, else securechat in the
// user's configuration folder.
func stateFolder(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if dir := os.Getenv("SECURECHAT_DIR"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no place for the keys: set -dir or $SECURECHAT_DIR: %w", err)
	}
	return filepath.Join(dir, "securechat"), nil
}

// makeFolder makes the state folder, or refuses one that others can look into.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for the keys: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("the folder for the keys: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may look into %s: close it with chmod 700 %s", dir, shellQuote(dir))
	}
	return nil
}

// checkPrivate refuses a secret's file that others can use. Windows has no such bits.
func checkPrivate(path string, mode fs.FileMode) error {
	if runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 {
		return fmt.Errorf("others may use %s: close it with chmod 600 %s", path, shellQuote(path))
	}
	return nil
}

// shellQuote makes a path fit to be pasted behind a command.
func shellQuote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:@%,"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// exists says whether something stands at path, be it a link to nothing.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// readFile reads a regular file of at most limit bytes, opened once, so that what was checked is what is read. A pipe in
// its place neither blocks nor passes.
func readFile(path string, limit int64) ([]byte, fs.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is no regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, 0, err
	}
	if int64(len(data)) > limit {
		return nil, 0, fmt.Errorf("%s is longer than %d KiB", path, limit>>10)
	}
	return data, info.Mode(), nil
}

// writeFile puts data at path, 0600, whole or not at all. A link at path is followed, not replaced.
func writeFile(path string, data []byte) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// withLock runs fn while no other process and no other goroutine does so in this folder. The system drops the lock when
// its holder dies, so that there is no stale one to clear.
func withLock(dir string, fn func() error) error {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for wait := time.Duration(0); ; wait += 10 * time.Millisecond {
		held, err := tryLock(f)
		if err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if held {
			return fn()
		}
		if wait >= lockWait {
			return fmt.Errorf("another securechat has held %s for %v: end it and try again", path, lockWait)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

const (
	maxTrustFile = 1 << 20         // bytes of one file
	maxKeyFile   = 64 << 10        // bytes of one key, certificate or passphrase file
	lockWait     = 5 * time.Second // for the folder's lock, which nobody holds for longer than a few writes
	maxTrustLine = 16 << 10        // bytes of one line
)

// trust decides by the files in dir.
type trust struct {
	dir  string
	own  ssh.PublicKey                 // the machine's own identity
	name string                        // the own identity's, from its comment
	warn func(format string, a ...any) // reports broken lines: file, line and why; nil: silence

	mu     sync.Mutex
	warned map[string][]string // by file: what warn has said of it as it stands
}

// untrusted is a decision against a peer. Its reason is for our log and our user, never for the peer.
type untrusted struct {
	reason  string
	hint    string        // what to do about it, or ""
	changed bool          // the server is known by another key
	invite  bool          // its proof of an invite is not one that waits
	unknown bool          // nothing speaks against the peer and nothing for it: the user may be asked
	silent  bool          // the server closed the connection, and trouble of the network would look the same
	key     ssh.PublicKey // of an unknown peer, for who asks the user
}

func (u *untrusted) Error() string { return u.reason }

func refuse(format string, a ...any) *untrusted { return &untrusted{reason: fmt.Sprintf(format, a...)} }

func (t *trust) path(name string) string { return filepath.Join(t.dir, name) }

// report warns of what is wrong with a file just read, of each fault once for as long as it is there.
func (t *trust) report(name string, faults []string) {
	t.mu.Lock()
	known := t.warned[name]
	if t.warned == nil {
		t.warned = map[string][]string{}
	}
	t.warned[name] = faults
	t.mu.Unlock()
	for _, fault := range faults {
		if t.warn != nil && !slices.Contains(known, fault) {
			t.warn("%s", fault)
		}
	}
}

// read returns a file's contents, nil if it is not there.
func (t *trust) read(name string) ([]byte, error) {
	data, _, err := readFile(t.path(name), maxTrustFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// appendLine adds a line to a file, making it if need be. The caller holds the lock. It returns the line's number.
func (t *trust) appendLine(name, line string) (int, error) {
	data, err := t.read(name)
	if err != nil {
		return 0, err
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	data = append(append(data, line...), '\n')
	if len(data) > maxTrustFile {
		return 0, fmt.Errorf("%s is full: remove lines that nobody needs", t.path(name))
	}
	return bytes.Count(data, []byte{'\n'}), writeFile(t.path(name), data)
}

// textLines yields the lines that say something, with their numbers from 1.
func textLines(data []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		n := 0
		for line := range bytes.Lines(data) {
			n++
			if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !yield(n, line) {
				return
			}
		}
	}
}

// checkLine bounds a line and keeps control characters out of it.
func checkLine(text []byte) error {
	if len(text) > maxTrustLine {
		return fmt.Errorf("it is longer than %d bytes", maxTrustLine)
	}
	if bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return errors.New("it holds control characters")
	}
	return nil
}
