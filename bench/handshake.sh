#!/bin/sh
# handshake.sh [ROUNDS]: what fresh, mutually authenticated connections cost the server. First the handshake beside its
# own RSA and HPKE operations, then securechat's server and other programs in turn: median, spread, ratios.
cd "$(dirname "$0")/.." && go test -run '^$' -bench '^BenchmarkHandshakeFloor$' -benchtime 2000x . &&
	bench/peers.sh && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersHandshake)$' -benchtime "${1:-5}x" -timeout 2h .
