#!/bin/sh
# startup.sh [ROUNDS]: the time from start to the first connection, and the size of the binary.
# Measures securechat and the other programs in turn; prints median, spread and ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersStartup)$' -benchtime "${1:-5}x" -timeout 2h .
