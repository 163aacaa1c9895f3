#!/bin/sh
# Keys and settings stay. An upgrade keeps the service enabled.
[ -n "$IPKG_INSTROOT" ] || {
	[ "$PKG_UPGRADE" = 1 ] || /etc/init.d/securechat disable
	/etc/init.d/securechat stop
}
exit 0
