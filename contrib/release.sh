#!/bin/bash
# Builds a release: stripped static binaries for every target, SHA256SUMS over them, and SBOM.txt, what `go version -m` finds
# in each. The same commit, unchanged, and the same Go give the same bytes in any folder.
#
#	contrib/release.sh [FOLDER [TARGET…]]      default: dist, all targets
set -eu
cd "$(dirname "$0")/.."
out=${1:-dist}
shift $(($# > 0))
[ $# -gt 0 ] || set -- linux/amd64 linux/arm/5 linux/arm/6 linux/arm/7 linux/arm64 linux/mips/softfloat linux/mipsle/softfloat \
	linux/mips64le/softfloat linux/riscv64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64

# Nothing of the builder's surroundings counts.
unset GOARM GOMIPS GOMIPS64 GOAMD64 GOARM64 GORISCV64 GOEXPERIMENT GOFIPS140
export CGO_ENABLED=0 GOENV=off GOFLAGS='' GOWORK=off

# Only what lines, bytes and handshakes pass through is compiled with inlining: 0.3 MB less of 5.4, and no slower (docs/PERFORMANCE.md).
flags=(-trimpath -gcflags=all=-l)
for hot in . runtime/... internal/... sync/... bytes bufio unicode/utf8 encoding/binary encoding/hex crypto/cipher crypto/sha256 \
	crypto/internal/fips140 crypto/internal/fips140/{aes/...,alias,bigmod,edwards25519/...,mlkem,sha256,sha3,sha512} \
	crypto/internal/fips140deps/... golang.org/x/crypto/{chacha20poly1305,internal/...}; do
	flags+=("-gcflags=$hot=")
done

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/securechat-* "$out"/SHA256SUMS "$out"/SBOM.txt
for target; do
	IFS=/ read -r os arch variant <<<"$target"
	name=securechat-$os-$arch
	knob=
	align=
	case $arch in
	amd64) align=-funcalign=8 ;; # the default is 32, which costs 0.08 MB
	arm) knob=GOARM=$variant name+=v$variant ;;
	mips64*) knob=GOMIPS64=$variant ;;
	mips*) knob=GOMIPS=$variant ;;
	esac
	[ "$os" != windows ] || name+=.exe
	env GOOS="$os" GOARCH="$arch" ${knob:+"$knob"} go build "${flags[@]}" -ldflags="-s -w -buildid= $align" -o "$out/$name" .
done
cd "$out"
sha256sum securechat-* >SHA256SUMS
go version -m securechat-* >SBOM.txt
