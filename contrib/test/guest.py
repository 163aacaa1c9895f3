"""Machines under qemu, with a shell in each: one process for each connection to a port of 127.0.0.1. A machine reaches
nothing but its two forwarded ports: the shell and the room."""
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time


class Failure(Exception):
    """A check that did not hold."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# Seconds that bound a wait for a condition. A check that holds never takes that long, also if other programs take most of
# the processor.
PATIENCE = 300


def until(condition, patience=PATIENCE):
    """Waits until the condition holds."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"waited {patience} s in vain")
        time.sleep(0.05)


def run(arguments, timeout=PATIENCE, input=None, **more):
    """Runs a program to its end and returns its stdout. Raises Failure unless its exit status is 0. Whatever happens, it
    leaves no process of its group behind."""
    p = subprocess.Popen(arguments, text=True, process_group=0, stdin=subprocess.PIPE, **{"stdout": subprocess.PIPE, **more})
    try:
        out, _ = p.communicate(input, timeout)
    except subprocess.TimeoutExpired as e:
        raise Failure(f"{arguments[0]} did not end within {timeout} s") from e
    finally:
        end(p)
    if p.returncode != 0:
        raise Failure(f"{' '.join(map(str, arguments))} ended with status {p.returncode}\n{out or ''}")
    return out


def end(p):
    """Ends a process and all of its group."""
    try:
        os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    p.wait()


class Guest:
    """A machine whose files images.sh has made in a folder. It is emulated as a whole, as KVM is not on every machine and
    fails on some that have it."""

    all = []

    def __init__(self, folder, kind):
        self.folder, self.kind = pathlib.Path(folder), kind
        self.console = self.folder / "console"
        self.control, self.room = free_port(), free_port()
        self.popen = None
        Guest.all.append(self)

    def command(self):
        console, memory, hardware = {
            "debian": ("ttyS0", 512, ["qemu-system-x86_64", "-M", "pc", "-cpu", "max", "-smp", "2",
                "-drive", f"file={self.folder}/live,format=raw,if=virtio,cache=none",
                "-device", "virtio-net-pci,netdev=n,romfile="]),
            # No entropy from the host, as at the first start of a router, and no memory reserved for graphics (cma=0).
            "armhf": ("ttyAMA0", 64, ["qemu-system-arm", "-M", "virt,highmem=off,dtb-randomness=off", "-cpu", "cortex-a7",
                "-device", "virtio-net-device,netdev=n"]),
            "mipsel": ("ttyS0", 64, ["qemu-system-mipsel", "-M", "malta", "-cpu", "24Kc", "-device", "pcnet,netdev=n,romfile="]),
        }[self.kind]
        forward = f"hostfwd=tcp:127.0.0.1:{self.control}-:2222,hostfwd=tcp:127.0.0.1:{self.room}-:9000"
        clock = [] if self.kind == "debian" else ["-rtc", "base=1970-01-01T00:00:05"]
        return [*hardware, *clock, "-m", str(memory), "-nodefaults", "-nographic", "-monitor", "none", "-no-reboot",
            "-serial", f"file:{self.console}", "-kernel", f"{self.folder}/kernel", "-initrd", f"{self.folder}/initrd",
            "-append", f"console={console} quiet panic=-1 systemd.show_status=0 cma=0", "-netdev", f"user,id=n,restrict=on,{forward}"]

    def start(self, patience=PATIENCE):
        """Boots, and returns after how many seconds a shell answers."""
        began = time.monotonic()
        self.popen = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL)
        while time.monotonic() - began < patience and self.popen.poll() is None:
            try:
                if self.sh("echo up", 10).strip() == "up":
                    return time.monotonic() - began
            except OSError:
                pass
            time.sleep(0.5)
        self.cut()
        raise Failure(f"the machine did not boot; its console:\n{self.console.read_text(errors='replace')[-2000:]}")

    def sh(self, script, patience=PATIENCE):
        """Runs a script in the machine and returns its output, stdout and stderr."""
        with socket.create_connection(("127.0.0.1", self.control), timeout=patience) as s:
            s.settimeout(patience)
            s.sendall(script.encode() + b"\n")
            s.shutdown(socket.SHUT_WR)
            out = b""
            while more := s.recv(65536):
                out += more
        return out.decode(errors="replace")

    def cut(self):
        """Cuts the power."""
        if self.popen and self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


class Report:
    """The checks of one machine, as rows of a table."""

    def __init__(self, machine):
        self.machine, self.rows, self.began = machine, [], time.monotonic()

    def check(self, what, good, output=""):
        """Adds a row with the time since the last one; if the check does not hold, raises Failure."""
        took = time.monotonic() - self.began
        print(f"{'ok  ' if good else 'FAIL'} {self.machine}: {what} ({took:.1f} s)", flush=True)
        if not good:
            raise Failure(f"{self.machine}: {what}\n{output}")
        self.rows.append(f"| {self.machine} | {what} | yes | {took:.1f} s |")
        self.began = time.monotonic()


class Host:
    """The securechat of this machine, as a client of a guest's room."""

    def __init__(self, binary, folder, guest):
        self.binary, self.folder, self.address = binary, str(folder), f"127.0.0.1:{guest.room}"
        self.run("-keygen")

    def arguments(self, *arguments):
        return [self.binary, *arguments, "-dir", self.folder]

    def run(self, *arguments, text="", env=None, patience=PATIENCE):
        """Runs to its end and returns the exit status and the output."""
        p = subprocess.run(self.arguments(*arguments), input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=patience, env=env)
        return p.returncode, p.stdout

    def join(self, *arguments, **more):
        return self.run("-connect", self.address, *arguments, **more)


def field(pattern, text):
    """The group of a pattern in a text, which must match."""
    m = re.search(pattern, text, re.M | re.S)
    if not m:
        raise Failure(f"no {pattern!r} in:\n{text}")
    return m[1]
