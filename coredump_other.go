//go:build !linux

package main

// noDumps is for Linux: elsewhere the system's own settings decide about core dumps.
func noDumps() {}
