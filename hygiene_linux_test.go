package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoDumps looks at a running server, and at what noDumps leaves in this process.
func TestNoDumps(t *testing.T) {
	server, _ := serve(t, state(t, "anna"))
	limits, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(server.cmd.Process.Pid), "limits"))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core dumps are on: %v\n%s", err, limits)
	}
	noDumps()
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); n != 0 || err != nil {
		t.Errorf("dumpable: %d, %v", n, err)
	}
}
