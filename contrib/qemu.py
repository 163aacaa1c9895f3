#!/usr/bin/env python3
"""Runs the releases for small machines under qemu-user (Debian's qemu-user-static) against the amd64 release. Each
serves and joins, in both protocols, and generates its keys on a first run. Fails unless every line arrives, the two
sides choose the expected cipher, and no process ever has more than 64 MiB of resident memory, including its emulator.
The time to generate keys is printed and has no bound: it depends on chance and on the load of the machine.

    contrib/release.sh dist && contrib/qemu.py dist
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

MEMORY = 64 << 10  # KiB
PATIENCE = 300  # seconds until a wait fails
KEYS = pathlib.Path(__file__).resolve().parent.parent / "testdata/vectors/keys"
AES, CHACHA = "AES-256-GCM", "ChaCha20-Poly1305"
# Name, emulator, expected cipher if the amd64 machine has AES instructions.
MACHINES = [
    ("armv6", ["qemu-arm-static", "-cpu", "arm1176"], CHACHA),
    ("arm64", ["qemu-aarch64-static"], AES),
    ("mipsle", ["qemu-mipsel-static"], CHACHA),
    ("riscv64", ["qemu-riscv64-static"], CHACHA),
]


class Proc:
    """A securechat process with files as stdout and stderr. Its peak memory is known after it has ended."""

    all = []

    def __init__(self, folder, name, argv, text=None):
        self.name, self.files = name, [folder / f"{name}.out", folder / f"{name}.err"]
        out, err = [open(f, "wb") for f in self.files]
        self.began = time.monotonic()
        # stdin stays open, so that a server does not see the end of its input.
        self.popen = subprocess.Popen(argv, cwd=folder, stdin=subprocess.PIPE, stdout=out, stderr=err)
        Proc.all.append(self)
        if text is not None:
            self.popen.stdin.write(text.encode())
            self.popen.stdin.close()

    def read(self):
        return "".join(f.read_text(errors="replace") for f in self.files)

    def until(self, pattern):
        end = time.monotonic() + PATIENCE
        while not (m := re.search(pattern, self.read())):
            if time.monotonic() > end or self.poll() is not None:
                self.popen.kill()
                sys.exit(f"{self.name}: no {pattern!r} in:\n{self.read()}")
            time.sleep(0.02)
        return m

    def poll(self):
        if self.popen.returncode is None:
            pid, status, self.usage = os.wait4(self.popen.pid, os.WNOHANG)
            if pid:
                self.popen.returncode = os.waitstatus_to_exitcode(status)
                self.took = time.monotonic() - self.began
        return self.popen.returncode

    def end(self):
        """Waits until the process has ended, and returns its peak resident memory in KiB."""
        end = time.monotonic() + PATIENCE
        while self.poll() is None:
            if time.monotonic() > end:
                self.popen.kill()
                sys.exit(f"{self.name} did not end in time:\n{self.read()}")
            time.sleep(0.02)
        if self.popen.returncode != 0:
            sys.exit(f"{self.name}: exit {self.popen.returncode}\n{self.read()}")
        if self.usage.ru_maxrss > MEMORY:
            sys.exit(f"{self.name}: {self.usage.ru_maxrss} KiB of peak memory, more than {MEMORY}")
        return self.usage.ru_maxrss


def meet(folder, server, client, paper, cipher):
    """Runs one session, and returns the peak memory of both sides."""
    serve, join = ["-dir", "keys", "-trace"], ["-dir", "keys", "-trace"]
    if paper:
        for mine, role, peer in (serve, "server", "client"), (join, "client", "server"):
            mine += ["-paper", "-identity", f"paper-{role}.pem", "-peer", f"paper-{peer}_pub.pem"]
    s = Proc(folder, "server", [*server, "-listen", "127.0.0.1:0", "-log", "off", *serve])
    address = s.until(r"room open on (127\.0\.0\.1:\d+)")[1]
    c = Proc(folder, "client", [*client, "-connect", address, *join], "one\ntwo\nthree\n")
    client_peak = c.end()
    s.until(r"(?s): one\n.*: two\n.*: three\n")
    if not paper:
        for p in s, c:
            if (got := p.until(r"session [0-9a-f]+  (\S+)")[1]) != cipher:
                sys.exit(f"{p.name} chose {got}, not {cipher}")
    s.popen.send_signal(signal.SIGTERM)
    return s.end(), client_peak


def main():
    dist = pathlib.Path(sys.argv[1]).resolve()
    amd64 = [str(dist / "securechat-linux-amd64")]
    aes = {"aes", "pclmulqdq"} <= set(pathlib.Path("/proc/cpuinfo").read_text().split())
    table = [
        "| machine | keys generated in | default: serves, joins | -paper: serves, joins | peak memory |",
        "|---|---|---|---|---|",
    ]
    for machine, emulator, cipher in MACHINES:
        there = [*emulator, str(dist / f"securechat-linux-{machine}")]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            keygen = Proc(folder, "keygen", [*there, "-keygen", "-dir", "keys"])
            keygen.until("generating an RSA-2048 encryption key; a slow processor needs some minutes")
            peak = keygen.end()
            for role in "server", "client":
                key, public = folder / f"paper-{role}.pem", folder / f"paper-{role}_pub.pem"
                shutil.copyfile(KEYS / f"paper-{role}.pem", key)
                key.chmod(0o600)
                openssl = ["openssl", "rsa", "-in", key, "-pubout", "-out", public]
                subprocess.run(openssl, check=True, capture_output=True, timeout=PATIENCE)
            cells = []
            for paper in False, True:
                for server, client in (there, amd64), (amd64, there):
                    a, b = meet(folder, server, client, paper, cipher if aes else CHACHA)
                    peak = max(peak, a if server is there else b)
                cells.append("yes, yes" + ("" if paper else f" ({cipher if aes else CHACHA})"))
            table.append(f"| {machine} | {keygen.took:.1f} s | {cells[0]} | {cells[1]} | {peak / 1024:.0f} MB |")
        print(f"{machine} works; generating its keys took {keygen.took:.1f} s", flush=True)
    print("\n".join(table))


# End every process that this script started, however it ends.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated by SIGTERM"))
try:
    main()
finally:
    for proc in Proc.all:
        if proc.popen.returncode is None:
            proc.popen.kill()
