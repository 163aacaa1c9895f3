//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package main

import "golang.org/x/sys/unix"

// How the BSDs and macOS read and set a terminal's state, and the value that disables a control character.
const (
	ioctlGetTermios = unix.TIOCGETA
	ioctlSetTermios = unix.TIOCSETA
	noCharacter     = 0xff
)

// flushInput discards what the terminal holds. The constant is FREAD: the input.
func flushInput(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TIOCFLUSH, 1) }
