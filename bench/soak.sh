#!/bin/sh
# soak.sh [MINUTES]: clients join, send lines, leave and break connections all the time, ten receivers stay, and the
# server is restarted every five minutes. Prints memory, threads and open files before, after each minute, and after.
cd "$(dirname "$0")/.." && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersSoak)$' -benchtime "${1:-30}x" -timeout 0 .
