#!/bin/sh
# scaling.sh [ROUNDS]: what a connection and a delivery cost with 10 to 10 000 members; draws docs/scaling.svg. Of open files 10 100
# each for this and the server are needed (ulimit -Hn); a round takes ten to twenty minutes.
cd "$(dirname "$0")/.." && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersScaling)$' -benchtime "${1:-3}x" -timeout 6h .
