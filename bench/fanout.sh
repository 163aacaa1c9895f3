#!/bin/sh
# fanout.sh [ROUNDS]: one sender, 10, 100 and 1000 receivers. Ours and the peers in turn; median, spread, ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeers(Fanout|Latency))$' -benchtime "${1:-5}x" -timeout 2h .
