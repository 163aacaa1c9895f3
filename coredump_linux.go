package main

// Protection of keys in memory from core dumps and from debuggers of the same user.

import "golang.org/x/sys/unix"

// noDumps disables core dumps and prevents other processes of the user from reading this one's memory. Errors are
// ignored: no known system reports one, and the program can run without this protection.
func noDumps() {
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
