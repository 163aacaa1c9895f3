#!/bin/sh
# soak.sh [MINUTES]: people join, talk, leave and break off all the time; what the server holds at each minute, before and after.
cd "$(dirname "$0")/.." && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersSoak)$' -benchtime "${1:-30}x" -timeout 0 .
