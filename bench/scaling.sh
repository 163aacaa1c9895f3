#!/bin/sh
# scaling.sh [ROUNDS]: the cost of a connection and of a delivery with 10 to 10 000 members; draws docs/scaling.svg.
# The test and the server each need 10 100 open files (ulimit -Hn). A round takes ten to twenty minutes.
cd "$(dirname "$0")/.." && ulimit -n "$(ulimit -Hn)" &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersScaling)$' -benchtime "${1:-3}x" -timeout 6h .
