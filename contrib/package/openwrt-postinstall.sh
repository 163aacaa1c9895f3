#!/bin/sh
# OpenWrt's default_postinst, which this does not call, would enable and start the service. An upgrade starts a service
# that was enabled.
# shellcheck disable=SC1091,SC3043
[ -n "$IPKG_INSTROOT" ] || {
	. /lib/functions.sh
	user_exists securechat || user_add securechat "" "$(group_add_next securechat)"
	! /etc/init.d/securechat enabled || /etc/init.d/securechat start
}
[ "$PKG_UPGRADE" = 1 ] || cat <<'END'
securechat: open the room: uci set securechat.main.enabled=1; uci commit; service securechat enable; service securechat start
securechat: then make a code for a guest:  securechat -invite NAME
securechat: keys are in /etc/securechat, which a sysupgrade keeps; /etc/config/securechat has the settings
END
