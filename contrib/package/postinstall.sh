#!/bin/sh
# After an installation or an upgrade. Debian's package manager passes "configure" and the old version, rpm the number of
# installed versions. The service is never enabled; a running one is restarted by an upgrade.
set -e
first=yes
case "$1 $2" in
configure\ ?* | [2-9]*) first= ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	[ -n "$first" ] || systemctl try-restart securechat.service ||
		echo "securechat: the service did not restart: see journalctl -u securechat" >&2
fi
[ -z "$first" ] || cat <<'END'
securechat: open the room on port 9000:    systemctl enable --now securechat.socket; systemctl start securechat
securechat: then make a code for a guest:  sudo securechat -invite NAME
securechat: keys are in /var/lib/securechat, the log is in /var/log/securechat; man securechat explains the rest
END
