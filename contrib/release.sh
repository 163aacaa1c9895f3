#!/bin/bash
# Builds a release: a stripped static binary for every target; packages for Debian, Fedora, Alpine and OpenWrt; the source
# tree with the folder for OpenWrt's build system; SHA256SUMS over them, and SBOM.txt with what `go version -m` prints for
# each binary. The same commit and the same Go give the same bytes in any folder.
#
#	contrib/release.sh [FOLDER [TARGET…]]      default: dist, all targets
set -eu
cd "$(dirname "$0")/.."
out=${1:-dist}
shift $(($# > 0))
[ $# -gt 0 ] || set -- linux/amd64 linux/386/softfloat linux/arm/5 linux/arm/6 linux/arm/7 linux/arm64 linux/mips/softfloat \
	linux/mipsle/softfloat linux/mips64le/softfloat linux/riscv64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64

# The builder's environment has no influence.
unset GOOS GOARCH GOARM GOMIPS GOMIPS64 GOAMD64 GOARM64 GO386 GORISCV64 GOEXPERIMENT GOFIPS140
export CGO_ENABLED=0 GOENV=off GOFLAGS='' GOWORK=off LC_ALL=C TZ=UTC
umask 022

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/securechat[-_]* "$out"/SHA256SUMS "$out"/SBOM.txt
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

# The version of the packages: a tag v1.2.3, or PKG_VERSION of OpenWrt's Makefile and the time of the commit, which sorts
# before that version.
tag=$(git tag --points-at HEAD 'v[0-9]*' | head -n 1)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
PACKAGE_VERSION=${tag#v} PACKAGE_PRERELEASE=
if [ -z "$tag" ]; then
	PACKAGE_VERSION=$(sed -n 's/^PKG_VERSION:=//p' contrib/openwrt/Makefile)
	PACKAGE_PRERELEASE=pre$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)
fi
export SOURCE_DATE_EPOCH PACKAGE_VERSION PACKAGE_PRERELEASE PACKAGE_ARCH

build() { # TARGET: builds its binary and sets name
	local os arch variant knob=
	IFS=/ read -r os arch variant <<<"$1"
	name=securechat-$os-$arch
	case $arch in
	386) knob=GO386=$variant ;;
	arm) knob=GOARM=$variant name+=v$variant ;;
	mips64*) knob=GOMIPS64=$variant ;;
	mips*) knob=GOMIPS=$variant ;;
	esac
	[ "$os" != windows ] || name+=.exe
	env GOOS="$os" GOARCH="$arch" ${knob:+"$knob"} go build -trimpath -ldflags='-s -w -buildid=' -o "$out/$name" .
}

# What the packages contain besides the binary.
fillStage() {
	cp contrib/package/* contrib/securechat.* contrib/openwrt/files/* LICENSE "$stage"
	gzip -9n <docs/securechat.1 >"$stage/securechat.1.gz"
	echo /etc/securechat/ >"$stage/keep"
	go build -o "$stage/native" .
	for shell in bash zsh fish; do "$stage/native" -completion $shell >"$stage/$shell"; done
	printf '%s\n\n  * %s\n\n -- %s  %s\n' "securechat ($PACKAGE_VERSION${PACKAGE_PRERELEASE:+~$PACKAGE_PRERELEASE}-1) stable; urgency=medium" \
		'A release. CHANGELOG.md of the source has the changes.' 'securechat authors <securechat@noreply.invalid>' \
		"$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$stage/changelog.Debian.gz"
	touch -d "@$SOURCE_DATE_EPOCH" "$stage"/* # the .apk packages contain the times of their scripts
	GOBIN=$stage go install github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
}

pack() { # PACKAGER ARCH: packs $stage/securechat
	PACKAGE_ARCH=$2
	(cd "$stage" && ./nfpm package -f nfpm.yaml -p "$1" -t "$out/" >"$stage/nfpm.out" 2>&1) ||
		{ cat "$stage/nfpm.out"; exit 1; }
}

# The architecture names of each packager. Debian's armhf runs on ARMv6, as Raspberry Pi OS does. OpenWrt names a
# processor, and any other of the same kind takes the binary itself.
packages() { # TARGET
	case $1 in
	linux/amd64) printf '%s %s\n' deb amd64 rpm x86_64 apk x86_64 ipk x86_64 ;;
	linux/386/*) printf '%s %s\n' deb i386 rpm i686 apk x86 ;;
	linux/arm64) printf '%s %s\n' deb arm64 rpm aarch64 apk aarch64 ipk aarch64_cortex-a53 ;;
	linux/arm/6) printf '%s %s\n' deb armhf apk armhf ;;
	linux/arm/7) printf '%s %s\n' rpm armv7hl apk armv7 ipk arm_cortex-a7_neon-vfpv4 ;;
	linux/mips/*) printf '%s %s\n' ipk mips_24kc ;;
	linux/mipsle/*) printf '%s %s\n' ipk mipsel_24kc ;;
	linux/riscv64) printf '%s %s\n' deb riscv64 rpm riscv64 apk riscv64 ;;
	esac
}

fillStage
binaries=()
for target; do
	build "$target"
	binaries+=("$name")
	cp "$out/$name" "$stage/securechat"
	packages "$target" | while read -r packager arch; do pack "$packager" "$arch"; done
done
git archive --format=tar --prefix=securechat/ HEAD | gzip -9n >"$out/securechat_source.tar.gz"
cd "$out"
sha256sum securechat[-_]* >SHA256SUMS
go version -m "${binaries[@]}" >SBOM.txt
