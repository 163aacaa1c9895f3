//go:build !linux && !darwin && !dragonfly && !freebsd && !netbsd && !openbsd && !windows

package main

// The start of the operating system.

// bootID returns "": the start is not known on this system.
func bootID() string { return "" }
