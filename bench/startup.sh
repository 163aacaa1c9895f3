#!/bin/sh
# startup.sh [ROUNDS]: start to listening, and sizes. Ours and the peers in turn; median, spread, ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersStartup)$' -benchtime "${1:-5}x" -timeout 2h .
