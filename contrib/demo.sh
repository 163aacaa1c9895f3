#!/bin/bash
# Makes docs/demo.svg from a real session of two people, in two terminals of tmux:
#
#	contrib/demo.sh
#
# Needs Go and tmux, and freeze for the image: $FREEZE, or it is built from the module proxy.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
socket=$work/tmux
trap 'tmux -S "$socket" kill-server 2>/dev/null || true; sleep 1; rm -rf "$work"' EXIT # the room closes meanwhile
CGO_ENABLED=0 go build -o "$work/securechat"

# Two people, each with keys and a home; anna's machine opens the room.
mkdir "$work/anna" "$work/ben"
for name in anna ben; do "$work/securechat" -keygen -comment $name -dir "$work/$name/keys" >/dev/null 2>&1; done

# pane NAME: what the terminal of NAME shows, with its colours.
pane() { tmux -S "$socket" capture-pane -e -p -t "$1"; }
shows() { # NAME TEXT: waits until the terminal of NAME shows TEXT
	for _ in $(seq 100); do
		tmux -S "$socket" capture-pane -p -t "$1" | grep -qF -- "$2" && return
		sleep 0.1
	done
	echo "$1's terminal does not show $2:" && pane "$1" && exit 1
}
types() { tmux -S "$socket" send-keys -t "$1" -l "$2" && tmux -S "$socket" send-keys -t "$1" Enter; }

named=() # where it is permitted, the machine has the name router
! unshare --uts true 2>/dev/null || named=(unshare --uts sh -c 'hostname router && exec "$@"' -)
for name in anna ben; do
	tmux -S "$socket" -f /dev/null new-session -d -s $name -x 84 -y 18 -c "$work/$name" \
		"${named[@]}" env -i PATH="$work:$PATH" TERM=xterm-256color LANG=C.UTF-8 HOME="$work/$name" \
		SECURECHAT_DIR="$work/$name/keys" PS1="$name\$ " bash --norc --noprofile
	shows $name "$name\$"
done
types anna 'securechat -listen :9000'
shows anna 'to join it'
types anna '/invite ben'
shows anna 'paste this code'
code=$(tmux -S "$socket" capture-pane -p -J -t anna | grep -oE '[A-Z0-9]{6}(-[A-Z0-9]+){6,}')
types ben 'securechat -connect localhost:9000 -join'
shows ben 'Invite code'
types ben "$code"
shows ben 'joined'
types ben 'the fibre is back, all green here'
shows anna 'all green'
types anna 'thanks, closing the ticket'
shows ben 'closing'
sleep 1 # an empty line right after other input does not leave
types ben ''
shows anna 'left'
sleep 1 # what is typed while the client ends is discarded
types ben 'df -h / | tail -1 | securechat -connect localhost:9000'
shows anna '%'
{
	pane anna
	printf '\e[2m%s\e[0m\n' "$(printf '─%.0s' {1..84})"
	pane ben
} | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' >"$work/session"
freeze=${FREEZE:-$work/freeze}
[ -x "$freeze" ] || GOBIN=$work go install github.com/charmbracelet/freeze@v0.2.2
"$freeze" "$work/session" --language ansi --output docs/demo.svg --window --font.family monospace --font.size 13 --line-height 1.25 >/dev/null
ls -l docs/demo.svg
