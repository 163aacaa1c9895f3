#!/bin/sh
# After a removal, which keeps the keys and the log. Purging, which only Debian's package manager does, removes them.
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
if [ "$1" = purge ]; then
	rm -rf /var/lib/securechat /var/lib/private/securechat /var/log/securechat /var/log/private/securechat
	rm -f /etc/credstore/securechat.passphrase
fi
