#!/bin/bash
# Makes the emulated machines of machines.py from Debian's packages. Needs root, mmdebstrap, e2fsprogs, cpio, busybox-static.
#
#	contrib/test/images.sh DIST OUT debian      a Debian with systemd, and the .deb of the release to install in it
#	contrib/test/images.sh DIST OUT armhf       a kernel with busybox and the release's binary as its only programs
#	contrib/test/images.sh DIST OUT mipsel      the same
set -eu
dist=$(realpath "$1") out=$2 machine=$3
mkdir -p "$out"
out=$(realpath "$out")

mirror=http://deb.debian.org/debian

# fetch ARCH META PACKAGE…: unpacks the kernel that the package META depends on, and the packages, into $out/unpacked. apt's
# state for the other architecture is kept apart from that of this system.
fetch() {
	local state=$out/apt arch=$1 meta=$2 kernel
	shift 2
	[ ! -d "$out/unpacked" ] || return 0
	mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
	: >"$state/status"
	echo "deb $mirror bookworm main" >"$state/sources"
	local apt=(-qq -o "APT::Architecture=$arch" -o "APT::Architectures=$arch" -o "Dir::State=$state" -o "Dir::Cache=$state/cache"
		-o "Dir::State::status=$state/status" -o "Dir::Etc::sourcelist=$state/sources" -o Dir::Etc::sourceparts=/dev/null
		-o APT::Sandbox::User=root -o Acquire::http::Timeout=60 -o Acquire::Languages=none)
	apt-get "${apt[@]}" update
	kernel=$(apt-cache "${apt[@]}" depends "$meta" | sed -n 's/.*Depends: \(linux-image-[^ ]*\)/\1/p' | head -n 1)
	(cd "$state" && apt-get "${apt[@]}" download "$kernel" "$@")
	mkdir "$out/unpacking"
	for package in "$state"/*.deb; do dpkg-deb -x "$package" "$out/unpacking"; done
	mv "$out/unpacking" "$out/unpacked"
	rm -rf "$state"
}

# modules FOLDER NAME…: copies those kernel modules into FOLDER that are not built in. A machine loads them in several
# turns, because one may need another.
modules() {
	local folder=$1 module
	shift
	mkdir -p "$folder"
	for module; do
		module=$(echo "$out"/unpacked/lib/modules/*/kernel)/$module.ko
		[ ! -f "$module" ] || cp "$module" "$folder"
	done
}

# initrd FOLDER: packs the first file system of a machine.
initrd() {
	chmod +x "$1/init"
	(cd "$1" && find . | cpio -o -H newc --quiet | gzip -1) >"$out/initrd"
}

debian() {
	local root=$out/root first=$out/first
	[ -d "$root" ] || {
		rm -rf "$out/making"
		mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,logrotate,openssh-client,procps,iproute2,udev \
			--aptopt='Acquire::http::Timeout "60"' bookworm "$out/making" "$mirror" >"$out/mmdebstrap.log" 2>&1 ||
			{ tail "$out/mmdebstrap.log"; exit 1; }
		mv "$out/making" "$root"
	}
	fetch amd64 linux-image-cloud-amd64
	cp "$out"/unpacked/boot/vmlinuz-* "$out/kernel"
	# Two versions of the package, so that there is an upgrade.
	rm -rf "$out/deb"
	cp "$dist"/securechat_*_amd64.deb "$root/srv/first.deb"
	dpkg-deb -R "$root/srv/first.deb" "$out/deb"
	sed -i 's/^Version: .*/&.1/' "$out/deb/DEBIAN/control"
	dpkg-deb --root-owner-group -b "$out/deb" "$root/srv/second.deb" >/dev/null
	echo machine >"$root/etc/hostname"
	echo 127.0.0.1 localhost machine >"$root/etc/hosts"
	echo /dev/vda / ext4 defaults 0 1 >"$root/etc/fstab"
	mkdir -p "$root/var/log/journal"
	printf '[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n' >"$root/etc/systemd/network/10-net.network"
	# Each connection to port 2222 gets a shell.
	printf '[Socket]\nListenStream=2222\nAccept=yes\n[Install]\nWantedBy=sockets.target\n' >"$root/etc/systemd/system/control.socket"
	printf '[Service]\nExecStart=/bin/bash\nEnvironment=HOME=/root TERM=dumb\nWorkingDirectory=/root\nStandardInput=socket\n%s\n' \
		$'StandardOutput=socket\nStandardError=socket\nKillMode=process\nSuccessExitStatus=0-255' >"$root/etc/systemd/system/control@.service"
	chroot "$root" systemctl enable -q control.socket systemd-networkd.service
	chroot "$root" systemctl mask -q systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer fstrim.timer \
		e2scrub_all.timer dpkg-db-backup.timer
	rm -rf "$first"
	mkdir -p "$first"/{bin,dev,proc,sys,mnt}
	cp "$(command -v busybox)" "$first/bin/busybox"
	modules "$first/modules" drivers/virtio/{virtio,virtio_ring,virtio_pci_modern_dev,virtio_pci_legacy_dev,virtio_pci} \
		drivers/block/virtio_blk net/core/failover drivers/net/{net_failover,virtio_net}
	cat >"$first/init" <<'S'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for try in 1 2 3; do for module in /modules/*.ko; do $b insmod $module 2>/dev/null; done; done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do $b sleep 0.1; n=$((n + 1)); done
$b mount -t ext4 -o rw /dev/vda /mnt
$b mount --move /dev /mnt/dev
exec $b switch_root /mnt /sbin/init
S
	initrd "$first"
	rm -f "$out/disk"
	mke2fs -q -t ext4 -d "$root" "$out/disk" 1200M
}

small() { # ARCH META BINARY
	local root=$out/root
	fetch "$1" "$2" busybox-static
	cp "$out"/unpacked/boot/vmlinu* "$out/kernel"
	rm -rf "$root"
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,root,etc,state}
	cp "$out/unpacked/bin/busybox" "$root/bin/busybox"
	install -m 0755 "$dist/$3" "$root/bin/securechat"
	echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
	echo 127.0.0.1 localhost >"$root/etc/hosts"
	modules "$root/modules" drivers/virtio/{virtio,virtio_ring,virtio_mmio} net/core/failover drivers/net/{net_failover,virtio_net} \
		drivers/net/mii drivers/net/ethernet/amd/pcnet32
	cat >"$root/init" <<'S'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for try in 1 2 3; do for module in /modules/*.ko; do insmod $module 2>/dev/null; done; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
exec nc -ll -p 2222 -e /bin/sh
S
	initrd "$root"
}

case $machine in
debian) debian ;;
armhf) small armhf linux-image-armmp securechat-linux-armv7 ;;
mipsel) small mipsel linux-image-4kc-malta securechat-linux-mipsle ;;
esac
