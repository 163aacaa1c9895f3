#!/bin/bash
# OpenWrt's package in a folder tree with busybox as its only other program: the .ipk is unpacked, its scripts run under
# busybox's shell with stand-ins for rc.common and procd, and the room runs as the user securechat. The real ones are not
# among Debian's packages. If there is a folder with OpenWrt's rc.common, functions.sh, service.sh, uci.sh, procd.sh and
# jshn.sh and a static jshn, these run in place of the stand-ins; ubus, uci, lock and flock remain stand-ins, and procd and
# opkg are not run. Needs root and busybox-static.
#
#	contrib/test/openwrt.sh PACKAGE.ipk [FOLDER]
set -eu
package=$(realpath "$1") real=${2:+$(realpath "$2")}
root=$(mktemp -d)
server=
end() { [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true; rm -rf "$root"; }
trap end EXIT
fail() { echo "FAIL: $*"; cat "$root"/tmp/room.err 2>/dev/null; exit 1; }
within() { timeout -k 5 60 "$@"; }
sh() { within chroot "$root" /bin/sh -c "$1"; }

chmod 755 "$root"
mkdir -p "$root"/{bin,sbin,dev,etc/rc.d,lib/functions,lib/config,proc,admin,tmp,usr/bin,usr/share/libubox,mnt/usb,var/empty,var/lock}
chmod 1777 "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
for name in $("$root/bin/busybox" --list); do [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"; done
mknod "$root/dev/null" c 1 3
mknod "$root/dev/urandom" c 1 9
chmod 666 "$root"/dev/*
echo root:x:0:0:root:/admin:/bin/sh >"$root/etc/passwd"
echo root:x:0: >"$root/etc/group"
# A start prints what procd would be asked for: the command, its user, and "reload" for a change of the settings.
if [ -n "$real" ]; then
	cp "$real"/rc.common "$root/etc"
	cp "$real"/functions.sh "$root/lib"
	cp "$real"/{service,procd}.sh "$root/lib/functions"
	cp "$real"/uci.sh "$root/lib/config"
	cp "$real"/jshn.sh "$root/usr/share/libubox"
	cp "$real"/jshn "$root/bin"
	touch "$root/etc/shadow"
	cat >"$root/bin/ubus" <<'S'
#!/bin/sh
[ "$1 $2 $3" = "call service set" ] || exit 0
asked=$(echo "$4" | sed 's|\\/|/|g')
echo "$asked" | sed -n 's/.*"command": \[ \([^]]*\) \].*/command \1/; T; s/"//g; s/, / /g; p'
echo "$asked" | sed -n 's/.*"user": "\([^"]*\)".*/user \1/p'
echo "$asked" | grep -q '"config.change".*"package", "securechat".*"/etc/init.d/securechat", "reload"' && echo reload
echo "$asked" | grep -o no_new_privs
exit 0
S
	printf '#!/bin/sh\ncat /etc/config/securechat\n' >"$root/sbin/uci"
	for name in lock flock; do printf '#!/bin/sh\n' >"$root/bin/$name"; done
	rm -f "$root/bin/logger"
	printf '#!/bin/sh\nshift $(($# - 1))\necho "$1" >&2\n' >"$root/bin/logger"
	chmod 755 "$root"/bin/{ubus,lock,flock,logger} "$root/sbin/uci"
else
	cat >"$root/lib/functions.sh" <<'S'
user_exists() { grep -q "^$1:" /etc/passwd; }
user_add() { echo "$1:x:32768:$3:::/bin/false" >>/etc/passwd; }
group_add_next() { echo "$1:x:32768:" >>/etc/group; echo 32768; }
S
	cat >"$root/etc/rc.common" <<'S'
script=$1 action=$2
. /lib/functions.sh
config() { :; }
option() { eval "option_$1=\$2"; }
config_load() { . "/etc/config/$1"; }
config_foreach() { "$1" main; }
config_get() { eval "$1=\${option_$3:-\$4}"; }
config_get_bool() { config_get "$@"; }
procd_open_instance() { command=; }
procd_set_param() {
	case $1 in
	command) shift; command=$* ;;
	user | no_new_privs) echo "$*" ;;
	esac
}
procd_append_param() { shift; command="$command $*"; }
procd_close_instance() { echo "command $command"; }
procd_add_reload_trigger() { [ "$1" != securechat ] || echo reload; }
logger() { shift $(($# - 1)); echo "$1" >&2; }
. "$script"
case $action in
start) start_service; service_triggers ;;
enable) ln -sf "$script" /etc/rc.d/S95securechat ;;
disable) rm -f /etc/rc.d/S95securechat ;;
enabled) [ -L /etc/rc.d/S95securechat ] ;;
stop) ;;
esac
S
fi

# The package.
mkdir "$root/ipk" "$root/control"
tar xzf "$package" -C "$root/ipk"
tar xzf "$root/ipk/data.tar.gz" -C "$root"
tar xzf "$root/ipk/control.tar.gz" -C "$root/control"
[ -n "$real" ] || sed -i '1i #!/bin/sh' "$root/etc/rc.common"
chmod 755 "$root/etc/rc.common"
sh "ash -n /etc/init.d/securechat && for script in /control/p*; do ash -n \$script || exit 1; done" || fail "busybox's ash cannot parse a script"
sh "/control/postinst configure" | tee "$root/tmp/message"
[ "$(wc -l <"$root/tmp/message")" = 3 ] || fail "the message of the package has not three lines"
grep -q '^securechat:x:32768:32768:' "$root/etc/passwd" || fail "no user"
! sh "/etc/init.d/securechat enabled" || fail "the package enabled the service"
grep -q "option enabled '0'" "$root/etc/config/securechat" || fail "the service would start"

start() { # SETTING…: prints what procd is asked for
	local setting
	echo "config room 'main'" >"$root/etc/config/securechat"
	for setting in enabled=1 "$@"; do
		echo "	option ${setting%%=*} '${setting#*=}'" >>"$root/etc/config/securechat"
	done
	sh "/etc/init.d/securechat start"
}
wants() { # TEXT SETTING…
	local text=$1 got
	shift
	got=$(start "$@" 2>&1) || true
	[[ $got = *"$text"* ]] || fail "$*: $got, not $text"
}
id() { stat -c '%u %a' "$root/$1"; }

echo "-- the folder and the log are where the settings say"
wants "command /usr/bin/securechat -listen :9000 -dir /etc/securechat -log off -history 1000 -max-clients 64" log=off
[ "$(id etc/securechat)" = "32768 700" ] || fail "/etc/securechat: $(id etc/securechat)"
wants "-log /etc/securechat/connection.log" log=connection.log
[ ! -e "$root/etc/securechat/connection.log" ] || fail "the script created a file in the service's folder"
wants "-log /connection.log" log=/connection.log
[ "$(id connection.log)" = "32768 600" ] || fail "/connection.log: $(id connection.log)"
wants "-log /mnt/usb/room/connection.log" log=/mnt/usb/room/connection.log
[ "$(id mnt/usb/room)" = "32768 700" ] || fail "/mnt/usb/room: $(id mnt/usb/room)"
wants "-dir /srv/a/b -log /tmp/room/connection.log" dir=/srv/a/b/ log=/tmp/room/connection.log
[ "$(id srv/a) $(id srv/a/b) $(id tmp/room)" = "0 755 32768 700 32768 700" ] || fail "/srv/a/b or /tmp/room"
wants " -max-clients 64 -rate 1000 -log-text=false" log_text=0
wants "user securechat" log=off
wants "reload" log=off
wants "cannot create" dir=keys
! start | grep no_new_privs || fail "no_new_privs has no effect without a jail"

echo "-- a link that the service plants gives it nothing of root's"
echo secret >"$root/etc/shadow"
chmod 600 "$root/etc/shadow"
mkdir "$root/admin/private"
before=$(id etc/shadow)$(id admin)$(id admin/private)
ln -s /etc/shadow "$root/etc/securechat/connection.log"
ln -s /admin "$root/mnt/usb/room/link"
ln -s /etc/shadow "$root/tmp/planted.log"
chown -h 32768:32768 "$root/etc/securechat/connection.log" "$root/mnt/usb/room/link" "$root/tmp/planted.log"
for settings in log=connection.log "log=/mnt/usb/room/link/private/connection.log" log=/tmp/planted.log \
	"dir=/mnt/usb/room/link/private" "dir=/mnt/usb/room/link/new" "log=/mnt/usb/room/link/new/connection.log"; do
	start "$settings" >/dev/null 2>&1 || true
done
[ "$before" = "$(id etc/shadow)$(id admin)$(id admin/private)" ] || fail "the owner or the mode of root's files changed"
[ -z "$(ls "$root/admin/private")$(find "$root/admin" -name new)" ] || fail "a file was created in root's folder"
rm "$root/etc/securechat/connection.log"

echo "-- the room runs as securechat; root's -invite and -allow work in its folder"
port=$((20000 + RANDOM % 10000))
command=$(start listen=127.0.0.1:$port log=connection.log | sed -n 's/^command //p')
chroot --userspec=32768:32768 "$root" /bin/sh -c "HOME=/var/empty GOMEMLIMIT=32MiB exec $command" </dev/null >"$root/tmp/room.out" 2>"$root/tmp/room.err" &
server=$!
for _ in $(seq 600); do ! grep -q 'room open' "$root/tmp/room.err" || break; kill -0 $server || fail "the room ended"; sleep 0.1; done
code=$(sh "HOME=/admin securechat -invite ben 2>/admin/err; cat /admin/err >&2")
grep -q "using the service's folder /etc/securechat" "$root/admin/err" || fail "-invite: $(cat "$root/admin/err")"
sh "mkdir -m 700 /admin/ben; echo 'hello from ben' | HOME=/admin SECURECHAT_INVITE=$code securechat -connect 127.0.0.1:$port -join -dir /admin/ben"
sh "securechat -keygen -dir /admin/anna >/dev/null 2>&1; HOME=/admin securechat -allow /admin/anna/identity.pub -dir /etc/securechat"
sh "echo \"[127.0.0.1]:$port \$(cat /etc/securechat/identity.pub)\" >/admin/anna/known_hosts; echo 'hello from anna' | securechat -connect 127.0.0.1:$port -dir /admin/anna"
[ -z "$(find "$root/etc/securechat" ! -uid 32768)" ] || fail "not the service's: $(find "$root/etc/securechat" ! -uid 32768)"
kill $server
wait $server || fail "the room ended with status $?"
server=
[ "$(grep -c '"message":"hello from' "$root/etc/securechat/connection.log")" = 2 ] || fail "lines are missing from the log"
sh "securechat -verify-log /etc/securechat/connection.log"

echo "-- removal keeps keys and log"
sh "/etc/init.d/securechat enable; PKG_UPGRADE=1 /control/prerm; PKG_UPGRADE=1 /control/postinst; /etc/init.d/securechat enabled" || fail "an upgrade disabled the service"
sh "/control/prerm; ! /etc/init.d/securechat enabled" || fail "a removal left the service enabled"
[ -f "$root/etc/securechat/identity" ] || fail "the keys are gone"
echo "OpenWrt's package works"
