#!/bin/sh
# memory.sh [ROUNDS]: the memory of idle clients. Ours and the peers in turn; median, spread, ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersMemory)$' -benchtime "${1:-5}x" -timeout 2h .
