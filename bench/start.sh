#!/bin/sh
# start.sh [ROUNDS]: the time until a room is open, by the size of its log, up to 1 GiB; draws docs/start.svg.
# Needs 2 GiB of disk in $TMPDIR. A round takes a minute or two.
cd "$(dirname "$0")/.." &&
	exec go test -tags peers -run '^$' -bench '^(BenchmarkPeersLog)$' -benchtime "${1:-5}x" -timeout 2h .
