#!/bin/sh
# Before a removal or an upgrade: Debian's package manager passes "remove" or "upgrade", rpm the number of versions that
# remain. An upgrade keeps the service running.
set -e
case "$1" in
remove | 0)
	[ ! -d /run/systemd/system ] || systemctl --no-reload --quiet disable --now securechat.socket securechat.service
	;;
esac
