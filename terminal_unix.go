//go:build unix

package main

// What the line editor needs of the system: signals about the window and stops, and stopping the process.

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// openControllingTerminal opens the terminal that the process was started from, whatever the standard streams are. It
// returns an error in a background job, which reading from the terminal would stop.
func openControllingTerminal() (in, out *os.File, err error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	if err == nil && group != unix.Getpgrp() {
		err = errors.New("the process is in the background of its terminal")
	}
	if err != nil {
		tty.Close()
		return nil, nil, err
	}
	return tty, tty, nil
}

// isNull reports whether f is the null device, and can be written. It may be in another folder than /dev: a service with
// PrivateDevices has the stdout that systemd has opened.
func isNull(f *os.File) bool {
	var st, null unix.Stat_t
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || unix.Fstat(int(f.Fd()), &st) != nil || unix.Stat(os.DevNull, &null) != nil {
		return false
	}
	return flags&unix.O_ACCMODE != unix.O_RDONLY && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null.Rdev
}

// canSuspend reports whether a shell can stop the process and continue it.
const canSuspend = true

// enableOutput does nothing: terminals on Unix understand escape sequences.
func enableOutput(*os.File) (restore func(), err error) { return func() {}, nil }

// allowInterrupt makes Ctrl-C a signal in raw mode. Ctrl-Z and Ctrl-\ stay characters, because the shell would get the
// terminal in raw mode.
func allowInterrupt(in *os.File) error {
	state, err := unix.IoctlGetTermios(int(in.Fd()), ioctlGetTermios)
	if err != nil {
		return err
	}
	state.Lflag |= unix.ISIG
	state.Cc[unix.VQUIT], state.Cc[unix.VSUSP] = noCharacter, noCharacter
	return unix.IoctlSetTermios(int(in.Fd()), ioctlSetTermios, state)
}

// discardInput waits up to wait for input of the terminal, discards what is there, and reports whether input came.
func discardInput(in *os.File, wait time.Duration) bool {
	ready := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(ready, int(wait.Milliseconds()))
	if err == unix.EINTR {
		return true
	}
	flushed := flushInput(int(in.Fd())) // also the part of a line that a dumb terminal does not report as input
	return n > 0 && ready[0].Revents == unix.POLLIN && err == nil && flushed == nil
}

// watchTerminal calls redraw when the window's size changes, resume when the process continues after a stop, and
// release before SIGQUIT ends the process. It ends when stop is called.
func watchTerminal(redraw, resume, release func()) (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGQUIT)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				switch s {
				case syscall.SIGWINCH:
					redraw()
				case syscall.SIGCONT:
					resume()
				case syscall.SIGQUIT:
					release()
					signal.Reset(syscall.SIGQUIT)
					_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
				}
			}
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

// suspendProcess stops the process and its pipeline, as Ctrl-Z does outside raw mode, and returns after it continues.
func suspendProcess() {
	_ = syscall.Kill(0, syscall.SIGTSTP)
	// The stop follows a moment later, or never if no shell could continue the process; then this pause ends and
	// typing goes on.
	time.Sleep(100 * time.Millisecond)
}
