#!/bin/sh
# timing.sh [TRIES]: how long the server takes to close on each kind of failure, and whether that tells them apart.
# 10 000 tries of each take some minutes; let the machine be quiet.
cd "$(dirname "$0")/.." && exec go test -run '^$' -bench '^BenchmarkTiming$' -benchtime "${1:-10000}x" -timeout 2h .
