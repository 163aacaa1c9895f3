package main

// The free space of a file system.

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// fileSystemSpace returns the bytes of the file system that f is in, and how many of them this user can still write.
// total is 0 if the system does not know.
func fileSystemSpace(f *os.File) (free, total uint64) {
	folder, err := windows.UTF16PtrFromString(filepath.Dir(f.Name()))
	if err != nil || windows.GetDiskFreeSpaceEx(folder, &free, &total, nil) != nil {
		return 0, 0
	}
	return free, total
}
