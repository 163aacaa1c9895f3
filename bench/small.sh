#!/bin/sh
# small.sh [TIMES]: handshakes and packets on machines without AES instructions, under qemu-user (Debian:
# qemu-user-static). The times are the emulator's; only the ratio of the two ciphers is meaningful. Prints the best of
# TIMES runs (default 5).
cd "$(dirname "$0")/.." && out=$(mktemp -d) && trap 'rm -rf "$out"' EXIT || exit 1
command -v qemu-arm-static >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends qemu-user-static; } || exit 1
for arch in arm mipsle; do
	qemu=qemu-$arch-static
	[ $arch = mipsle ] && qemu=qemu-mipsel-static
	CGO_ENABLED=0 GOARCH=$arch GOARM=6 GOMIPS=softfloat go test -c -o "$out/$arch.test" . || exit 1
	for bench in '^BenchmarkHandshake$' '^Benchmark(Seal|Open)$/^aes=/^4059$'; do
		"$qemu" "$out/$arch.test" -test.run '^$' -test.bench "$bench" -test.benchtime 300ms -test.count "${1:-5}" || exit 1
	done >"$out/figures"
	awk -v arch=$arch '
		/^Benchmark.*ns\/op/ { sub(/-[0-9]+$/, "", $1); if (!($1 in ns) || $3 < ns[$1]) ns[$1] = $3 }
		function show(what, aes, chacha) {
			printf "%-7s %s, 4 KiB: AES-256-GCM %.0f µs, ChaCha20-Poly1305 %.0f µs: AES takes %.2f times as long\n", arch, what, aes / 1e3, chacha / 1e3, aes / chacha
		}
		END {
			if (length(ns) != 5) exit 1
			printf "%-7s handshake, both sides: %.0f ms\n", arch, ns["BenchmarkHandshake"] / 1e6
			show("seal", ns["BenchmarkSeal/aes=true/4059"], ns["BenchmarkSeal/aes=false/4059"])
			show("open", ns["BenchmarkOpen/aes=true/4059"], ns["BenchmarkOpen/aes=false/4059"])
		}' "$out/figures" || { cat "$out/figures"; exit 1; }
done
