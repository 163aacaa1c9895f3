package main

// What the line editor needs of the system: escape sequences in the console's output.

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// openControllingTerminal opens the console that the process was started from, whatever the standard streams are.
func openControllingTerminal() (in, out *os.File, err error) {
	in, err = os.OpenFile("CONIN$", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	out, err = os.OpenFile("CONOUT$", os.O_RDWR, 0)
	if err != nil {
		in.Close()
		return nil, nil, err
	}
	return in, out, nil
}

// isNull never recognises the null device, which costs what is printed there only.
func isNull(*os.File) bool { return false }

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
	return func() { _ = windows.SetConsoleMode(console, mode) }, nil // if this fails, the console is gone
}

// allowInterrupt makes Ctrl-C a signal in raw mode.
func allowInterrupt(in *os.File) error {
	console := windows.Handle(in.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(console, &mode); err != nil {
		return err
	}
	return windows.SetConsoleMode(console, mode|windows.ENABLE_PROCESSED_INPUT)
}

// discardInput waits up to wait for input of the console, discards what is there, and reports whether input came.
func discardInput(in *os.File, wait time.Duration) bool {
	console := windows.Handle(in.Fd())
	event, err := windows.WaitForSingleObject(console, uint32(wait.Milliseconds()))
	return err == nil && event == windows.WAIT_OBJECT_0 && windows.FlushConsoleInputBuffer(console) == nil
}

// watchTerminal does nothing: the size is read each time the row is drawn, and no shell stops the process.
func watchTerminal(_, _, _ func()) (stop func()) { return func() {} }

// suspendProcess does nothing: no shell could continue the process.
func suspendProcess() {}
