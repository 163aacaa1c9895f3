//go:build !windows

package main

// File locks, opening the log, removed files and folders on disk.

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// tryLock locks the file and returns true, or returns false if another process has locked it. Closing the file
// unlocks it.
func tryLock(f *os.File) (bool, error) {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, syscall.EINTR):
			return false, err
		}
	}
}

// openAppend opens the log at path for reading and appending, and creates it for this user alone.
func openAppend(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_APPEND | os.O_CREATE | syscall.O_NONBLOCK // a FIFO must not block
	return os.OpenFile(path, flags|ownerOf(filepath.Dir(path), os.Geteuid()).flags(), 0o600)
}

// unlinked reports whether an open file has been removed from its folder, or is closed.
func unlinked(f *os.File) bool {
	var st syscall.Stat_t
	return syscall.Fstat(int(f.Fd()), &st) != nil || st.Nlink == 0
}

// syncFolder writes a folder's names to disk. It returns nil if the file system cannot do that, and if the folder may
// not be read: a process without that permission has made neither the folder nor a file in it.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
