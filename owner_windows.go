package main

// Who can access files and folders. On Windows that is in an access control list, which a new file takes from its
// folder.

import (
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/windows"
)

// ownedByUs always reports true, because Windows has no permission bits that depend on it.
func ownedByUs(fs.FileInfo) bool { return true }

// folderOwner is always nil, because Windows has no root.
type folderOwner struct{}

func ownerOf(string, int) *folderOwner { return nil }

func (*folderOwner) give(*os.File) error { return nil }

func (*folderOwner) flags() int { return 0 }

// makePrivateFolder creates a folder that gives access to it, and to what will be in it, to this user, the system and
// administrators alone. It also creates the folders above it. A folder that exists is left as it is.
func makePrivateFolder(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	access, err := ownerOnly("OICI")
	if err != nil {
		return err
	}
	if windows.CreateDirectory(name, access) == nil {
		return nil
	}
	return os.MkdirAll(dir, 0o700) // it exists, or this returns why it cannot be made
}

// ownerOnly returns the attributes of a new file or folder to which this user, the system and administrators have
// access, as OpenSSH for Windows requires it of keys. flags are those of an entry in the security descriptor definition
// language: OICI passes the entry on to what is created in a folder.
func ownerOnly(flags string) (*windows.SecurityAttributes, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, err
	}
	list := "D:P"
	for _, who := range []string{user.User.Sid.String(), "SY", "BA"} {
		list += "(A;" + flags + ";FA;;;" + who + ")"
	}
	descriptor, err := windows.SecurityDescriptorFromString(list)
	if err != nil {
		return nil, err
	}
	a := &windows.SecurityAttributes{SecurityDescriptor: descriptor}
	a.Length = uint32(unsafe.Sizeof(*a))
	return a, nil
}

func hasOtherName(fs.FileInfo) bool { return false }
