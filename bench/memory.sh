#!/bin/sh
# memory.sh [ROUNDS]: the memory of idle clients, and 200 clients at a server that may use 64 MiB.
# Measures securechat and the other programs in turn; prints median, spread and ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeers(Memory|Router))$' -benchtime "${1:-5}x" -timeout 2h .
