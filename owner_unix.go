//go:build !windows

package main

// Who owns files and folders, and whose the files are that root creates in the folder of another user.

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownedByUs reports whether this process's user owns the file.
func ownedByUs(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || int(st.Uid) == os.Geteuid()
}

// folderOwner is the user, and its group, in whose folder root works: the user of a service, which must be able to read
// what root writes there, and which can place links there. It is nil for a process that is not root, and in root's own
// folders.
type folderOwner struct{ uid, gid int }

// ownerOf returns the owner of a folder for a process of the user euid. It returns nil if the folder does not exist.
func ownerOf(dir string, euid int) *folderOwner {
	info, err := os.Stat(dir)
	if euid != 0 || err != nil {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return nil
	}
	return &folderOwner{int(st.Uid), int(st.Gid)}
}

// give makes o the owner of a file that this process has just created.
func (o *folderOwner) give(f *os.File) error {
	if o == nil {
		return nil
	}
	return f.Chown(o.uid, o.gid)
}

// flags returns what os.OpenFile needs so that it follows no link at the end of a path in o's folder.
func (o *folderOwner) flags() int {
	if o == nil {
		return 0
	}
	return unix.O_NOFOLLOW
}

// makePrivateFolder creates a folder, and those above it, for this user alone. A folder that exists is left as it is.
func makePrivateFolder(dir string) error { return os.MkdirAll(dir, 0o700) }

// hasOtherName reports whether a file has a further hard link.
func hasOtherName(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Nlink > 1
}
