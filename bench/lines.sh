#!/bin/sh
# lines.sh [ROUNDS]: a million lines from a pipe, each logged and acknowledged.
# Measures securechat and the other programs in turn; prints median, spread and ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersLines)$' -benchtime "${1:-5}x" -timeout 2h .
