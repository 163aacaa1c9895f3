#!/bin/sh
# raw.sh [ROUNDS]: a gibibyte from stdin to stdout through one connection.
# Measures securechat and the other programs in turn; prints median, spread and ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeers(Raw|ChaCha))$' -benchtime "${1:-5}x" -timeout 2h .
