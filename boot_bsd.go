//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package main

// The start of the operating system.

import (
	"encoding/hex"

	"golang.org/x/sys/unix"
)

// bootID returns what distinguishes this start of the system from every other one, or "" if the system does not know.
// It is the time of the start, which changes, too, when the clock is set.
func bootID() string {
	at, err := unix.SysctlRaw("kern.boottime")
	if err != nil {
		return ""
	}
	return hex.EncodeToString(at)
}
