package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/windows"
)

// enableOutput makes the console understand sequences.
func enableOutput(out *os.File) (restore func(), err error) {
	console := windows.Handle(out.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(console, &mode); err != nil {
		return nil, fmt.Errorf("asking the console's mode: %w", err)
	}
	const sequences = windows.ENABLE_PROCESSED_OUTPUT | windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING
	if err := windows.SetConsoleMode(console, mode|sequences); err != nil {
		return nil, fmt.Errorf("switching the console to sequences (Windows 10 or later): %w", err)
	}
	// If this fails the console is gone.
	return func() { _ = windows.SetConsoleMode(console, mode) }, nil
}

// watch has nothing to do: a console is asked for its size at each drawing, and stops nobody.
func (t *terminal) watch() (stop func()) { return func() {} }

func (t *terminal) suspend() {}
