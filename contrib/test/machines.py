#!/usr/bin/env python3
"""Runs a release on whole machines under qemu, under Wine, and its packages and image on this machine:

    contrib/test/machines.py DIST [-work FOLDER] [-table FILE] [NAME…]

    packages     every package is unpacked and what is in it is run
    openwrt      OpenWrt's package in a folder tree with busybox
    container    the image, built and run
    windows      the program for Windows under Wine
    armhf        an ARM machine with 64 MB of memory
    mipsel       the same for MIPS, with keys from outside
    firstmips    a first start on MIPS, which has to generate keys: the time depends on chance
    debian       a Debian with systemd, in which the .deb is installed, upgraded, removed and purged
    powercut     the same machine, with the power cut while lines are sent
    short        the main points of debian and powercut, for every run of CI

By default all but short run. -work keeps what was downloaded for the next run; -table replaces the rows of these machines
in a file, which has the table between two comments. Needs root, and Debian's packages that .ci/run names."""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from guest import PATIENCE, Failure, Guest, Host, Report, field, run
from packages import container, openwrt, packages
from wine import windows

HERE = pathlib.Path(__file__).resolve().parent
KEYS, LOGS = "/var/lib/private/securechat", "/var/log/private/securechat"
LOG = LOGS + "/connection.log"
CODE = r"^([A-Z0-9]+(?:-[A-Z0-9]+)+)$"
JOIN = "securechat -connect 127.0.0.1:9000 -dir /srv/ben"  # in the machine
LINES = 20000  # of the power cut


def copy_disk(guest):
    """Gives the guest a disk of its own, without what earlier runs have written."""
    subprocess.run(["cp", "--sparse=always", guest.folder / "disk", guest.folder / "live"], check=True)


def installed(guest):
    """Installs the package, opens the room and admits ben, who is in the machine. Returns the package's message."""
    out = guest.sh("dpkg -i /srv/first.deb 2>&1; systemctl is-enabled securechat.socket; systemctl is-active securechat.socket")
    opened = guest.sh("systemctl enable -q --now securechat.socket; systemctl start securechat; systemctl is-active securechat")
    if opened.strip() != "active":
        raise Failure("the service did not start: " + opened + guest.sh("journalctl -u securechat --no-pager"))
    return out


def installed_on_debian(folder, name):
    """Boots the machine from a fresh disk, installs the package and lets a guest in."""
    guest, report = Guest(folder, "debian"), Report(name)
    copy_disk(guest)
    guest.start()
    report.check("boots", True)
    installation(guest, report)
    return guest, report


def debian(options, folder):
    guest, report = installed_on_debian(folder, "Debian 12, amd64")
    upgrade(guest, report)
    service(guest, report)
    stopping(guest, report)
    failures(guest, report)
    removal(guest, report)
    guest.cut()
    return report.rows


def short(options, folder):
    guest, report = installed_on_debian(folder, "Debian 12, in short")
    service(guest, report)
    cut_while_sending(guest, report, durable(options, folder, guest, report))
    guest.cut()
    return report.rows


def installation(guest, report):
    out = installed(guest)
    report.check("the .deb is installed, neither enabled nor started, and prints three lines",
        len(re.findall(r"^securechat: ", out, re.M)) == 3 and out.endswith("disabled\ninactive\n"), out)
    out = guest.sh(f"""code=$(securechat -invite ben 2>/srv/err); cat /srv/err
echo hello | SECURECHAT_INVITE=$code {JOIN} -join; echo exit=$?
find {KEYS} ! -user $(stat -c %u {KEYS}) | sed 's/^/another owner: /'; stat -c 'mode %a' {KEYS} {LOGS} {LOG} {KEYS}/identity""")
    report.check("root's -invite finds the service's folder, and its guest joins", "using the service's folder" in out and
        "exit=0" in out and "another owner" not in out and re.findall(r"mode (\d+)", out) == ["700", "700", "600", "600"], out)


def upgrade(guest, report):
    out = guest.sh(f"""(i=0; until [ -e /srv/upgraded ] || [ $i = 20000 ]; do i=$((i + 1)); echo "upgrade $i"
[ $((i % 50)) != 0 ] || sleep 0.2; done; echo upgrade last; echo "sent $((i + 1))" >/srv/sent) |
{JOIN} -reconnect >/srv/out 2>&1 & client=$!
for i in $(seq 300); do grep -q '"upgrade 1"' {LOG} && break; sleep 0.1; done
dpkg -i /srv/second.deb; systemctl is-active securechat; touch /srv/upgraded
wait $client; echo exit=$?; cat /srv/out /srv/sent
grep -o '"message":"upgrade [a-z0-9]*"' {LOG} | sort | uniq -c | awk '$1 == 1' | wc -l | sed 's/^/once /'; dpkg -s securechat | grep ^Version""")
    report.check("an upgrade while a client with -reconnect sends lines: each is in the log once", "exit=0" in out and
        "connecting again" in out and field(r"^sent (\d+)", out) == field(r"^once (\d+)", out) and
        re.search(r"^Version: .*\.1$", out, re.M), out)


def service(guest, report):
    joins = f"echo hello | {JOIN}; echo exit=$?"
    out = guest.sh("journalctl -u securechat -o cat --no-pager")
    report.check("stderr is in the journal", "room open on" in out, out)
    out = guest.sh("systemctl show -p DynamicUser,Type securechat; ps -o uid= -C securechat; "
        "systemd-analyze security --no-pager securechat.service | tail -n 1")
    report.check("DynamicUser, Type=notify, and systemd-analyze security of at most 1.0", "DynamicUser=yes" in out and
        61184 <= int(field(r"^ *(\d+)$", out)) <= 65519 and "Type=notify" in out and float(field(r"securechat\.service: ([0-9.]+)", out)) <= 1.0, out)
    out = guest.sh("systemctl stop securechat.service; systemctl is-active securechat.socket; " + joins)
    report.check("socket activation", "active\n" in out and "exit=0" in out, out)
    out = guest.sh(f"mv {LOG} {LOG}.1; systemctl reload securechat; {joins}; securechat -verify-log {LOG}.1 {LOG}; echo verified=$?")
    report.check("reload continues in a new log, with an unbroken chain", "exit=0" in out and "verified=0" in out, out)
    out = guest.sh(f"""before=$(systemctl show --value -p MainPID securechat); kill -9 $before
for i in $(seq 100); do now=$(systemctl show --value -p MainPID securechat); [ $now = $before ] || [ $now = 0 ] || break; sleep 0.1; done
{joins}; systemctl is-active securechat""")
    report.check("kill -9: systemd starts it again", out.endswith("exit=0\nactive\n"), out)


def stopping(guest, report):
    joins = f"echo hello | {JOIN}; echo exit=$?"
    out = guest.sh(f"""clients() {{ grep -c '"event":"connect"' {LOG}; }}; before=$(clients); for i in 1 2 3 4 5; do {JOIN} -stay </dev/null >/srv/stay$i 2>&1 & done
for i in $(seq 100); do [ $(clients) -lt $((before + 5)) ] || break; sleep 0.2; done
s=$(date +%s%N); systemctl stop securechat.service; e=$(date +%s%N); echo took=$(( (e - s) / 1000000 )); tail -n 1 {LOG}""")
    report.check("stop with five clients: within 5 s, and a stop record",
        int(field(r"took=(\d+)", out)) < 5000 and '"event":"stop"' in out, out)
    out = guest.sh("systemctl stop securechat.socket; systemctl start securechat.service; echo started=$?; "
        "systemctl is-active securechat.socket; " + joins)
    report.check("securechat.service started alone starts its socket", "started=0\nactive\n" in out and "exit=0" in out, out)
    out = guest.sh(f"""logrotate -f /etc/logrotate.d/securechat; echo rotated=$?; {joins}
logrotate -f /etc/logrotate.d/securechat; echo rotated=$?; {joins}
securechat -verify-log {LOG}.2.gz {LOG}.1 {LOG}; echo verified=$?
systemctl stop securechat.service securechat.socket; logrotate -f /etc/logrotate.d/securechat; echo rotated=$?
systemctl start securechat""")
    report.check("logrotate, also while the service is stopped; an unbroken chain",
        out.count("rotated=0") == 3 and out.count("exit=0") == 2 and "verified=0" in out, out)


def failures(guest, report):
    out = guest.sh(f"""systemctl stop securechat.service; cp -p {KEYS}/identity /srv/identity
ssh-keygen -q -p -P '' -N 'correct horse' -f {KEYS}/identity; mkdir -p -m 700 /etc/credstore
echo wrong >/etc/credstore/securechat.passphrase; systemctl reset-failed securechat; systemctl start securechat
for i in $(seq 300); do ! systemctl is-failed -q securechat || break; sleep 0.1; done; sleep 3 # longer than RestartSec
systemctl show -p NRestarts,ExecMainStatus,SubState securechat; journalctl -u securechat -o cat --no-pager -n 8
echo 'correct horse' >/etc/credstore/securechat.passphrase; systemctl reset-failed securechat; systemctl start securechat
systemctl is-active securechat; echo hello | {JOIN}; echo exit=$?""")
    report.check("LoadCredential: a wrong passphrase is in the journal and ends the restarts; the right one opens the room",
        "NRestarts=0" in out and "ExecMainStatus=2" in out and "wrong passphrase" in out and "\nactive\n" in out and "exit=0" in out, out)
    out = guest.sh("""mkdir -p /run/systemd/system/securechat.service.d
printf '[Service]\\nWatchdogSec=5\\n' >/run/systemd/system/securechat.service.d/watchdog.conf; systemctl daemon-reload
systemctl restart securechat; sleep 8; systemctl show -p NRestarts securechat; since=$(date '+%F %T')
kill -STOP $(systemctl show --value -p MainPID securechat)
for i in $(seq 400); do systemctl show -p NRestarts securechat | grep -q =1 && break; sleep 0.1; done
for i in $(seq 100); do systemctl is-active -q securechat && break; sleep 0.1; done
systemctl show -p NRestarts,ActiveState securechat; journalctl -u securechat -o cat --no-pager --since "$since" """)
    report.check("the watchdog restarts a stuck server, without a dump of registers or stacks", out.startswith("NRestarts=0") and
        "NRestarts=1" in out and "ActiveState=active" in out and "Watchdog timeout" in out and
        not re.search("goroutine|rax ", out), out)


def removal(guest, report):
    out = guest.sh(f"""dpkg -r securechat; systemctl is-active securechat.socket; ls {KEYS}/identity {LOG}
systemctl is-enabled securechat.socket 2>&1; ls /etc/systemd/system/sockets.target.wants
dpkg -P securechat; echo purged=$?; ls -d /var/lib/*/securechat /var/log/*/securechat /var/lib/securechat /etc/logrotate.d/securechat 2>/dev/null""")
    report.check("removing keeps keys and log, purging removes them", f"inactive\n{KEYS}/identity\n{LOG}\n" in out and
        "securechat.socket\n" not in out.split("identity\n")[1].split("Purging")[0] and out.endswith("purged=0\n"), out)


def powercut(options, folder):
    guest, report = Guest(folder, "debian"), Report("Debian 12, power cut")
    copy_disk(guest)
    guest.start()
    installed(guest)
    host = durable(options, folder, guest, report)
    cut_while_sending(guest, report, host)
    code = field(CODE, guest.sh("securechat -invite late 2>/dev/null"))
    shutil.rmtree(folder / "late", ignore_errors=True)
    late = Host(options.securechat, folder / "late", guest)
    status, out = late.join("-join", text="hi\n", env={**os.environ, "SECURECHAT_INVITE": code})
    guest.cut()
    if status != 0:
        raise Failure("the guest of the second invite was not admitted: " + out)
    guest.start()
    status, out = late.join(text="after\n")
    report.check("power cut right after an invite was used: its guest still joins", status == 0,
        out + guest.sh(f"ls -la {KEYS}; journalctl -u securechat -o cat --no-pager -n 5"))
    guest.cut()
    return report.rows


def durable(options, folder, guest, report):
    """Restarts the room with -sync and admits this machine, which it returns."""
    shutil.rmtree(folder / "host", ignore_errors=True)
    host = Host(options.securechat, folder / "host", guest)
    code = field(CODE, guest.sh(f"""mkdir -p /etc/systemd/system/securechat.service.d
printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/securechat -listen systemd -dir %s -log %s -sync\\n' '${{STATE_DIRECTORY}}' \
'${{LOGS_DIRECTORY}}/connection.log' >/etc/systemd/system/securechat.service.d/sync.conf
systemctl daemon-reload; systemctl restart securechat; securechat -invite host 2>/dev/null; sync"""))
    status, out = host.join("-join", text="first\n", env={**os.environ, "SECURECHAT_INVITE": code})
    report.check("the room is open with -sync, and a client from outside joins", status == 0, out)
    return host


def cut_while_sending(guest, report, host):
    """Ends the machine while lines are sent, boots it again, and checks that the client then completes."""
    p = subprocess.Popen(host.arguments("-connect", host.address, "-json", "-reconnect"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)
    acknowledged = [0]

    def read():
        for line in p.stdout:
            o = json.loads(line)
            if o["type"] == "ack":
                acknowledged[0] = o["id"]

    def write():
        for i in range(1, LINES + 1):
            p.stdin.write(b'{"text":"power cut %d"}\n' % i)
            if i % 20 == 0:
                p.stdin.flush()
                time.sleep(0.002)
        p.stdin.close()

    for loop in read, write:
        threading.Thread(target=loop, daemon=True).start()
    try:
        end = time.monotonic() + PATIENCE
        while acknowledged[0] < LINES // 3 and time.monotonic() < end and p.poll() is None:
            time.sleep(0.001)
        guest.cut()
        before = acknowledged[0]
        if not 0 < before < LINES:
            raise Failure(f"{before} lines were acknowledged before the power cut")
        guest.start()
        out = guest.sh(f"cat {LOG}; securechat -verify-log {LOG}; echo verified=$?")
        logged = set(re.findall(r'"message":"power cut (\d+)"', out))
        lost = [i for i in range(1, before + 1) if str(i) not in logged]
        # The server may not have started yet: it does when the client connects, and cuts a torn record then.
        whole = "verified=0" in out or "is torn: it has no newline (the server removes it at its next start)" in out
        report.check(f"power cut in the middle of {LINES} lines with -sync: each acknowledged line is in the log",
            not lost and whole, f"acknowledged {before}, lost {lost}; {out[-500:]}")
        status = p.wait(PATIENCE)
        out = guest.sh(f"cat {LOG}; securechat -verify-log {LOG}; echo verified=$?")
        logged = sorted(int(i) for i in re.findall(r'"message":"power cut (\d+)"', out))
        report.check(f"the client reconnects and completes: {LINES} lines once each, an unbroken chain",
            status == 0 and logged == list(range(1, LINES + 1)) and "verified=0" in out, f"exit {status}, {len(logged)} lines")
    finally:
        p.kill()
        p.wait()


def serve(guest):
    """Starts a room as OpenWrt's init script does. Returns after how many seconds it is open, and its stderr."""
    began = time.monotonic()  # the clock of an emulated machine can be slow
    out = guest.sh("""(GOMEMLIMIT=32MiB securechat -listen :9000 -dir /state/keys -log /state/connection.log </dev/null >/state/out 2>/state/err & echo $! >/state/pid)
until grep -q 'room open' /state/err || ! kill -0 $(cat /state/pid); do usleep 50000; done; cat /state/err""", 600)
    return time.monotonic() - began, out


def armhf(options, folder):
    return small(options, folder, "armhf", "ARM Cortex-A7, 64 MB", True, 50)


def mipsel(options, folder):
    return small(options, folder, "mipsel", "MIPS 24Kc, 64 MB", False, 10)


def firstmips(options, folder):
    return small(options, folder, "mipsel", "MIPS 24Kc, 64 MB, first start", True, 10)


def small(options, folder, kind, machine, first, clients):
    guest, report = Guest(folder, kind), Report(machine)
    guest.start()
    report.check("boots, without entropy from outside, the clock at 1970", True)
    guest.sh("mount -t tmpfs -o size=12m,mode=700 state /state; mount -o remount,ro /; mkdir -m 700 /state/keys")
    for name in "host", "keys":
        shutil.rmtree(folder / name, ignore_errors=True)
    host = Host(options.securechat, folder / "host", guest)
    if not first:  # the keys come from outside, since generating them here takes too long for CI
        Host(options.securechat, folder / "keys", guest)
        for name in "identity", "identity.pub", "encryption":
            guest.sh(f"cat >/state/keys/{name} <<'END'\n{(folder / 'keys' / name).read_text()}END\nchmod 600 /state/keys/{name}")
    if first:
        took, out = serve(guest)
        shown = out.count("still generating")
        report.check(f"first start, generates keys, on a read-only root: {took:.1f} s, progress shown {shown} times", "room open" in out and
            "generating an RSA-2048 encryption key; a slow processor needs some minutes" in out and shown >= took // 5 - 1, out)
        guest.sh("kill $(cat /state/pid); while kill -0 $(cat /state/pid) 2>/dev/null; do usleep 50000; done")
    took, out = serve(guest)
    report.check(f"start with keys, on a read-only root: {took:.1f} s", "room open" in out, out)
    key = (folder / "host" / "identity.pub").read_text().strip()
    pin = guest.sh(f"echo '{key}' >/state/keys/authorized_keys; chmod 600 /state/keys/authorized_keys; cat /state/keys/identity.pub").strip()
    (folder / "host" / "known_hosts").write_text(f"[{host.address.split(':')[0]}]:{guest.room} {pin}\n")
    status, out = host.join(text="from outside\n")
    report.check("a client from outside joins", status == 0, out)
    out = guest.sh("echo from inside | securechat -connect 127.0.0.1:9000 -dir /state/keys; echo exit=$?")
    report.check("a client from inside joins", "exit=0" in out, out)
    crowd(guest, report, host, clients)
    status, out = host.join(text="".join(f"many {i}\n" for i in range(3000)))
    report.check("3000 lines", status == 0, out)
    full_flash(guest, report, host)
    out = guest.sh("date -s @1795622400 >/dev/null; date; securechat -verify-log /state/connection.log; echo verified=$?; "
        "grep VmHWM /proc/$(cat /state/pid)/status; dmesg | grep -ci 'out of memory'")
    status, joined = host.join(text="after the clock was set\n")
    peak = int(field(r"VmHWM:\s+(\d+)", out)) >> 10
    report.check(f"the clock is set to 2026; peak memory {peak} MB, an unbroken chain",
        status == 0 and "verified=0" in out and out.endswith("\n0\n"), out + joined)
    guest.cut()
    return report.rows


def crowd(guest, report, host, clients):
    """Has many clients in the room at once, and sends them a line."""
    all = []
    try:
        for i in range(clients):
            all.append(subprocess.Popen(host.arguments("-connect", host.address, "-count", "1", "-timeout", f"{2 * PATIENCE}s", "-reconnect"),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        end, joined = time.monotonic() + PATIENCE, 0
        while joined < clients and time.monotonic() < end:
            time.sleep(1)
            out = guest.sh("grep -c '\"event\":\"connect\"' /state/connection.log; grep -c '\"event\":\"disconnect\"' /state/connection.log")
            connects, leaves = (int(n) for n in out.split())
            joined = connects - leaves
        status, out = host.join(text="to all\n")
        received = [p.communicate(timeout=PATIENCE)[0] for p in all]
        report.check(f"{clients} clients at once receive a line", status == 0 and joined == clients and
            all_have(received, "to all"), f"{joined} joined; {out}; {received}")
    finally:
        for p in all:
            p.kill()
            p.wait()


def all_have(texts, word):
    return all(word in text for text in texts)


def full_flash(guest, report, host):
    """Leaves 100 KiB of the file system while lines are sent, then makes room."""
    guest.sh("used=$(df -k /state | tail -n 1 | awk '{print $3}'); mount -o remount,size=$((used + 100))k /state")
    p = subprocess.Popen(host.arguments("-connect", host.address), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    try:
        p.stdin.write("".join(f"full {i}\n" for i in range(2000)))
        p.stdin.flush()
        p.stdin.close()
        end, out = time.monotonic() + PATIENCE, ""
        while "no space left" not in out and p.poll() is None and time.monotonic() < end:
            time.sleep(0.5)
            out = guest.sh("cat /state/err")
        waiting = p.poll() is None
        guest.sh("mount -o remount,size=12m /state")
        status = p.wait(PATIENCE)
        count = guest.sh("grep -c '\"message\":\"full ' /state/connection.log").strip()
        report.check("a full flash is reported and acknowledges nothing; with space all 2000 lines are in the log",
            "no space left" in out and waiting and status == 0 and count == "2000", f"exit {status}, {count} lines; {out}")
    finally:
        p.kill()
        p.wait()


def write_table(path, rows):
    """Replaces the rows of the machines that were run, between the two comments in a file."""
    begin, end = "<!-- machines -->\n", "<!-- end of machines -->"
    head, rest = pathlib.Path(path).read_text().split(begin)
    old, tail = rest.split(end)
    machines = {row.split("|")[1] for row in rows}
    kept = [row for row in old.splitlines() if row.startswith("| ") and row.split("|")[1] not in machines and not row.startswith("| machine ")]
    table = ["| machine | check | holds | time |", "|---|---|---|---|", *sorted(kept + rows, key=lambda row: row.split("|")[1])]
    pathlib.Path(path).write_text(head + begin + "\n".join(table) + "\n" + end + tail)


RUNS = {f.__name__: f for f in (packages, openwrt, container, windows, armhf, mipsel, firstmips, debian, powercut, short)}
IMAGES = {"armhf": "armhf", "mipsel": "mipsel", "firstmips": "mipsel", "debian": "debian", "powercut": "debian", "short": "debian"}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("dist", type=pathlib.Path)
    parser.add_argument("-work", type=pathlib.Path)
    parser.add_argument("-table")
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], metavar="NAME")
    options = parser.parse_intermixed_args()
    options.securechat = str(options.dist.resolve() / "securechat-linux-amd64")
    rows, images = [], set()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk: /tmp may be memory, which cannot bypass a cache
        work = options.work or pathlib.Path(folder)
        for name in options.names or [name for name in RUNS if name != "short"]:
            image, began = IMAGES.get(name), time.monotonic()
            if image and image not in images:
                make(options.dist, work, image)
                images.add(image)
            made = time.monotonic()
            (work / (image or name)).mkdir(parents=True, exist_ok=True)
            rows += RUNS[name](options, work / (image or name))
            print(f"-- {name}: {made - began:.0f} s to make the machine, {time.monotonic() - made:.0f} s to run", flush=True)
    if options.table:
        write_table(options.table, rows)


def make(dist, work, image):
    try:  # in a mount namespace of its own, so that no mount of a chroot is left when it is killed
        run(["unshare", "-m", HERE / "images.sh", dist, work / image, image], timeout=2 * PATIENCE, stdout=None)
    except Failure as e:
        raise Failure(f"the machine {image} could not be made of Debian's packages; is http://deb.debian.org reachable? {e}") from e


# End every machine that this script started, however it ends.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated by SIGTERM"))
try:
    main()
except (Failure, OSError, subprocess.SubprocessError) as e:
    sys.exit(f"failed: {e}")
finally:
    for guest in Guest.all:
        guest.cut()
