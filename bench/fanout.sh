#!/bin/sh
# fanout.sh [ROUNDS]: one sender and 10, 100 and 1000 receivers.
# Measures securechat and the other programs in turn; prints median, spread and ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeers(Fanout|Latency))$' -benchtime "${1:-5}x" -timeout 2h .
