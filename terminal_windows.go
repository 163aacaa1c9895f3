package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// canSuspend reports whether a shell can stop the process and continue it.
const canSuspend = false

// enableOutput makes the console understand escape sequences.
func enableOutput(out *os.File) (restore func(), err error) {
	console := windows.Handle(out.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(console, &mode); err != nil {
		return nil, fmt.Errorf("reading the console's mode: %w", err)
	}
	const sequences = windows.ENABLE_PROCESSED_OUTPUT | windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING
	if err := windows.SetConsoleMode(console, mode|sequences); err != nil {
		return nil, fmt.Errorf("switching the console to escape sequences (Windows 10 or later): %w", err)
	}
	// If this fails the console is gone.
	return func() { _ = windows.SetConsoleMode(console, mode) }, nil
}

// watchTerminal has nothing to watch: the size is read at each drawing, and no shell stops the process.
func watchTerminal(_, _, _ func()) (stop func()) { return func() {} }

func suspendProcess() {}
