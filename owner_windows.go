package main

import (
	"io/fs"
	"os"
)

// ownedByUs always reports true, because Windows has no permission bits that depend on it.
func ownedByUs(fs.FileInfo) bool { return true }

// folderOwner is always nil, because Windows has no root.
type folderOwner struct{}

func ownerOf(string, int) *folderOwner { return nil }

func (*folderOwner) give(*os.File) error { return nil }

func (*folderOwner) flags() int { return 0 }

func hasOtherName(fs.FileInfo) bool { return false }
