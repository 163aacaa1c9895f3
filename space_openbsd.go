package main

// The free space of a file system.

import (
	"os"

	"golang.org/x/sys/unix"
)

// fileSystemSpace returns the bytes of the file system that f is in, and how many of them this user can still write.
// total is 0 if the system does not know.
func fileSystemSpace(f *os.File) (free, total uint64) {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil {
		return 0, 0
	}
	return uint64(max(st.F_bavail, 0)) * uint64(st.F_bsize), st.F_blocks * uint64(st.F_bsize)
}
