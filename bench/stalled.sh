#!/bin/sh
# stalled.sh [LINES]: how late lines arrive at 100 a second, and the server's memory, with 0, 1 and 200 stopped readers.
# 3000 lines take two minutes; let the machine be quiet.
cd "$(dirname "$0")/.." && exec go test -run '^$' -bench '^BenchmarkStalledReader$' -benchtime "${1:-3000}x" -timeout 1h .
