#!/bin/sh
# gate.sh [NEWCOMERS]: how long a client takes to join and send a line, without and with an attack on the server by all
# addresses of an IPv4 /24 and an IPv6 /48. It runs in a network namespace of its own, where these networks are local.
cd "$(dirname "$0")/.." || exit
out=$(mktemp) && trap 'rm -f "$out"' EXIT
# shellcheck disable=SC2016 # the inner shell expands these
CGO_ENABLED=0 go test -c -o "$out" . && unshare -rn sh -c '
	ip link set lo up && ip route add local 192.0.2.0/24 dev lo && ip route add local 198.51.100.0/24 dev lo &&
	ip -6 route add local 2001:db8:1::/48 dev lo && echo 1 >/proc/sys/net/ipv6/ip_nonlocal_bind &&
	ulimit -n "$(ulimit -Hn)" && exec "$0" -test.run "^$" -test.bench "^BenchmarkNewcomer$" -test.benchtime "$1x" -test.v' "$out" "${1:-100}"
