package main

// The start of the operating system.

import (
	"os"
	"strings"
)

// bootID returns what distinguishes this start of the system from every other one, or "" if the system does not know.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
