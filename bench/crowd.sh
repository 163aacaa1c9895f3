#!/bin/bash
# crowd.sh [CLIENTS]: how many of 50 clients that start at the same moment, without -reconnect, send their line to a
# server on the same slow machine: ARM, emulated by qemu-arm-static on one processor. Exit statuses, and when the first
# and the last client ended.
cd "$(dirname "$0")/.." || exit
clients=${1:-50} dir=$(mktemp -d) && trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$dir"' EXIT
export GOMAXPROCS=1 SECURECHAT_DIR=$dir/state
GOOS=linux GOARCH=arm GOARM=7 CGO_ENABLED=0 go build -trimpath -o "$dir/securechat" . || exit
securechat() { exec taskset -c 0 qemu-arm-static "$dir/securechat" "$@"; }
(securechat -listen 127.0.0.1:0 -log off) </dev/null >/dev/null 2>"$dir/server" &
until addr=$(sed -n 's/.*room open on \([^ ]*\) as.*/\1/p' "$dir/server") && [ -n "$addr" ]; do sleep 0.1; done
begin=$EPOCHREALTIME pids=()
for i in $(seq "$clients"); do
	(
		echo "hello $i" | (securechat -connect "$addr") >/dev/null 2>"$dir/client$i"
		echo "$? $EPOCHREALTIME" >"$dir/end$i"
	) &
	pids+=($!)
done
wait "${pids[@]}"
sort -k 2 -n "$dir"/end* | awk -v begin="$begin" '{ n[$1]++; last = $2 - begin; if (NR == 1) first = last }
	END { for (s in n) printf "exit %d: %d clients\n", s, n[s]; printf "the first ended after %.1f s, the last after %.1f s\n", first, last }'
grep -h 'handshake with' "$dir"/client* | sed "s/$addr/ADDR/" | sort | uniq -c | sort -rn
grep -h refused "$dir/server" | sed 's/refused [^ ]*/refused ADDR/' | sort | uniq -c | sort -rn
