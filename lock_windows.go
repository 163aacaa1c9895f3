package main

// File locks, removed files and folders on disk.

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// tryLock locks the file and returns true, or returns false if another process has locked it. Closing the file
// unlocks it.
func tryLock(f *os.File) (bool, error) {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	unused := windows.Overlapped{OffsetHigh: 1 << 30} // a byte that is never read, because a lock also blocks reading
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &unused)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// unlinked reports whether an open file has been removed from its folder, which Windows does not allow.
func unlinked(*os.File) bool { return false }

// syncFolder does nothing: the file system's journal protects the names in a folder.
func syncFolder(string) error { return nil }
