#!/bin/bash
# Builds a release: a stripped static binary for every target, SHA256SUMS over them, and SBOM.txt with what
# `go version -m` prints for each. The same commit and the same Go give the same bytes in any folder.
#
#	contrib/release.sh [FOLDER [TARGET…]]      default: dist, all targets
set -eu
cd "$(dirname "$0")/.."
out=${1:-dist}
shift $(($# > 0))
[ $# -gt 0 ] || set -- linux/amd64 linux/arm/5 linux/arm/6 linux/arm/7 linux/arm64 linux/mips/softfloat linux/mipsle/softfloat \
	linux/mips64le/softfloat linux/riscv64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64

# The builder's environment has no influence.
unset GOARM GOMIPS GOMIPS64 GOAMD64 GOARM64 GORISCV64 GOEXPERIMENT GOFIPS140
export CGO_ENABLED=0 GOENV=off GOFLAGS='' GOWORK=off

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/securechat-* "$out"/SHA256SUMS "$out"/SBOM.txt
for target; do
	IFS=/ read -r os arch variant <<<"$target"
	name=securechat-$os-$arch
	knob=
	case $arch in
	arm) knob=GOARM=$variant name+=v$variant ;;
	mips64*) knob=GOMIPS64=$variant ;;
	mips*) knob=GOMIPS=$variant ;;
	esac
	[ "$os" != windows ] || name+=.exe
	env GOOS="$os" GOARCH="$arch" ${knob:+"$knob"} go build -trimpath -ldflags='-s -w -buildid=' -o "$out/$name" .
done
cd "$out"
sha256sum securechat-* >SHA256SUMS
go version -m securechat-* >SBOM.txt
