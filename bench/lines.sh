#!/bin/sh
# lines.sh [ROUNDS]: a million lines of a pipe, each logged and acknowledged. Ours and the peers in turn; median, spread, ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersLines)$' -benchtime "${1:-5}x" -timeout 2h .
