package main

// What keeps keys in memory from leaving the process by way of a core dump or a debugger of the same user.

import "golang.org/x/sys/unix"

// noDumps turns core dumps off, and makes the process unreadable to others of its user. Both are refused nowhere we know
// of; where they are, the program is no worse than without.
func noDumps() {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
