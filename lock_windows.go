package main

// File locks, opening the log, removed files and folders on disk.

import (
	"errors"
	"os"
	"unsafe"

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

// openAppend opens the log at path for reading and appending, and creates it for this user alone. Unlike a file that
// package os opens, it can be renamed and removed while it is open, and be truncated. Writes go to its position.
func openAppend(path string) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	access, err := ownerOnly("")
	if err != nil {
		return nil, err
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, share, access, windows.OPEN_ALWAYS,
		windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// unlinked reports whether an open file has been removed, or is closed. The name of a removed file may remain until the
// file is closed.
func unlinked(f *os.File) bool {
	var info struct { // FILE_STANDARD_INFO
		allocated, size          int64
		links                    uint32
		deletePending, directory bool
	}
	err := windows.GetFileInformationByHandleEx(windows.Handle(f.Fd()), windows.FileStandardInfo,
		(*byte)(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	return err != nil || info.deletePending
}

// syncFolder does nothing: the file system's journal protects the names in a folder.
func syncFolder(string) error { return nil }
