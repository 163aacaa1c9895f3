#!/bin/sh
# timing.sh [TRIES]: how long the server takes to close the connection after each kind of failure, and whether these
# times differ. 10 000 tries of each (the default) take some minutes. Run nothing else on the machine meanwhile.
cd "$(dirname "$0")/.." && exec go test -run '^$' -bench '^BenchmarkTiming$' -benchtime "${1:-10000}x" -timeout 2h .
