//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// detach starts cmd without the terminal of the tests, which it would otherwise use for questions.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
