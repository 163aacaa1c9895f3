//go:build !linux

package main

// noDumps does nothing: on these systems the system's settings decide about core dumps.
func noDumps() {}
