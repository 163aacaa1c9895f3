#!/bin/sh
# peers.sh: installs the Debian programs that securechat is compared with, if any is missing. Installing needs root.
for p in socat:socat ncat:ncat mosquitto:mosquitto mosquitto_pub:mosquitto-clients ngircd:ngircd sshd:openssh-server ssh:openssh-client; do
	PATH=$PATH:/usr/sbin command -v "${p%:*}" >/dev/null || missing="$missing ${p#*:}"
done
[ -z "$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing; }
mkdir -p /run/sshd
