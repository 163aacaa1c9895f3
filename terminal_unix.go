//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// enableOutput has nothing to do here: a Unix terminal understands sequences.
func enableOutput(*os.File) (restore func(), err error) { return func() {}, nil }

// watch redraws when the window changes, takes the terminal back after a stop and gives it back before SIGQUIT's dump.
func (t *terminal) watch() (stop func()) {
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
					t.mu.Lock()
					t.draw()
					t.mu.Unlock()
				case syscall.SIGCONT:
					t.resume(false)
				case syscall.SIGQUIT:
					t.close()
					signal.Reset(syscall.SIGQUIT)
					_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
				}
			}
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

// suspend stops the process and its pipeline, as Ctrl-Z does outside raw mode.
func (t *terminal) suspend() {
	t.mu.Lock()
	t.release()
	t.mu.Unlock()
	_ = syscall.Kill(0, syscall.SIGTSTP)
	// The stop comes a moment later, or not at all where no shell could end it; then typing goes on after this pause.
	time.Sleep(100 * time.Millisecond)
	t.resume(true)
}
