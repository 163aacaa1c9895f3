#!/bin/sh
# handshake.sh [ROUNDS]: fresh mutually authenticated connections, and what each costs the server. Ours and the peers in turn; median, spread, ratios.
cd "$(dirname "$0")/.." && bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersHandshake)$' -benchtime "${1:-5}x" -timeout 2h .
