#!/bin/sh
# stalled.sh [ROUNDS [LINES]]: the latency of lines at 100 lines/s, and the server's memory, with 0, 1 and 200 readers
# that have stopped; then medians and spreads. With 3000 lines (the default) each measurement takes half a minute. Run
# nothing else on the machine meanwhile.
cd "$(dirname "$0")/.." || exit
out=$(mktemp) && trap 'rm -f "$out"' EXIT
CGO_ENABLED=0 go test -c -o "$out.test" . && trap 'rm -f "$out" "$out.test"' EXIT || exit
for _ in $(seq "${1:-5}"); do
	"$out.test" -test.run '^$' -test.bench '^BenchmarkStalledReader$' -test.benchtime "${2:-3000}x" -test.timeout 1h | tee -a "$out" | grep stalled= || exit
done
for stalled in 0 1 200; do
	for unit in p50 p99; do
		grep "stalled=$stalled-" "$out" | sed "s/.* \([0-9.]*\) µs-$unit.*/\1/" | sort -n |
			awk -v what="$stalled stopped: $unit" '{ v[NR] = $1 } END { printf "%s %d µs (%d .. %d)\n", what, v[int((NR + 1) / 2)], v[1], v[NR] }'
	done
done
