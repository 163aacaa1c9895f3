#!/usr/bin/env python3
"""Two servers join their rooms through a real broker. A client at each sends lines while every part is killed again and
again with SIGKILL, and the logs are rotated. Then one of them sends as fast as it can. Each server's log has every line
of the other server once, in order, with its origin.

    contrib/mqtt/test.py SECURECHAT [KILLS]      needs mosquitto and mosquitto-clients
"""
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SECURECHAT = str(pathlib.Path(sys.argv[1]).resolve())
KILLS = int(sys.argv[2]) if len(sys.argv) > 2 else 24
PATIENCE = 60  # seconds
PACE = 1000  # lines in a second at each side while parts are killed
FAST = 40000  # lines to measure the speed with
GOAL = 5000  # lines a second from room to room
UNUSUAL = [b"", b"\xff\xfe\x00", "\u202e \u00e9 \U0001f512".encode(), b'"\\,"from":"', b'"' * 65536, b"\xff" * 65536,
           b"end"]
started = []  # every process that this script started; each leads a session


def until(what, check):
    end = time.monotonic() + PATIENCE
    while not (got := check()):
        if time.monotonic() > end:
            raise SystemExit(f"timed out waiting for {what}")
        time.sleep(0.05)
    return got


def start(argv, **how):
    started.append(subprocess.Popen(argv, start_new_session=True, **how))
    return started[-1]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended meanwhile


class Part:
    """A process that is started again whenever it ends, as a service manager does it."""

    def __init__(self, argv, folder):
        self.argv, self.folder, self.stopping, self.starts = argv, folder, threading.Event(), 0
        self.err = open(folder / "err", "ab")
        self.keeper = threading.Thread(target=self.keep)
        self.start()
        self.keeper.start()

    def start(self):
        self.starts += 1
        self.popen = start(self.argv, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=self.err, stderr=self.err)

    def keep(self):
        while True:
            self.popen.wait()
            if self.stopping.wait(0.2):
                return
            self.start()

    def children(self, name):
        found = subprocess.run(["pgrep", "-P", str(self.popen.pid), "-x", name], capture_output=True, timeout=PATIENCE)
        return [int(pid) for pid in found.stdout.split()]

    def stop(self):
        self.stopping.set()
        while self.keeper.is_alive():
            self.popen.terminate()
            self.keeper.join(1)


class Broker(Part):
    def __init__(self, folder):
        folder.mkdir()
        self.port = free_port()
        conf = (HERE / "mosquitto.conf").read_text().replace("listener 1883", f"listener {self.port}")
        (folder / "mosquitto.conf").write_text(conf + "user root\nlog_type error\n")
        super().__init__(["mosquitto", "-c", folder / "mosquitto.conf"], folder)


class Side:
    """A server with its bridge, and a client of that server."""

    def __init__(self, folder, broker, server, client):
        self.folder, self.client_name, self.server_name, self.port = folder / server, client, server, free_port()
        self.folder.mkdir()
        for name in server, client:
            self.run("-keygen", "-dir", name, "-comment", name)
        self.run("-allow", f"{client}/identity.pub", "-dir", server)
        self.said, self.count, self.rest = 0, {}, b""
        self.bridge = Part([HERE / "bridge", server, f"-h 127.0.0.1 -p {broker.port}",
                            SECURECHAT, "-listen", f"127.0.0.1:{self.port}", "-dir", server], self.folder)
        until("the room", lambda: b"room open" in (self.folder / "err").read_bytes())
        self.client_err = open(self.folder / "client-err", "wb")
        self.client = start([SECURECHAT, "-connect", f"127.0.0.1:{self.port}", "-dir", client, "-accept-new",
                             "-reconnect"],
                            cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.client_err)
        self.path = self.folder / "connection.log"
        self.logs = [open(self.path, "rb")]  # oldest first

    def run(self, *args):
        subprocess.run([SECURECHAT, *args], cwd=self.folder, check=True, capture_output=True, timeout=PATIENCE)

    def say(self, n):
        lines = [f"{self.client_name} {self.said + i + 1}\n" for i in range(n)]
        self.client.stdin.write("".join(lines).encode())
        self.client.stdin.flush()
        self.said += n

    def rotate(self):
        for i in range(len(self.logs), 0, -1):
            os.rename(f"{self.path}.{i - 1}" if i > 1 else self.path, f"{self.path}.{i}")
        for pid in until("a server", lambda: pids("server", None, self)):
            os.kill(pid, signal.SIGHUP)
        until("a new log", self.path.exists)
        self.logs.append(open(self.path, "rb"))

    def has(self):
        """Returns how many lines each sender has in the log, and fails if one is not in its turn."""
        data = self.rest + b"".join(log.read() for log in self.logs)
        *lines, self.rest = data.split(b"\n")
        for line in lines:
            if b'"event":"message"' not in line:
                continue
            record = json.loads(line)
            name = record.get("from", record["name"])
            self.count[name] = self.count.get(name, 0) + 1
            want = f"{name.split('@')[0]} {self.count[name]}"
            if record["message"] != want:
                raise SystemExit(f"{self.server_name} has {record['message']!r} of {name} in place of {want!r}")
        return self.count

    def has_all_of(self, other):
        name = f"{other.client_name}@{other.server_name}"
        until(f"all lines of {name}", lambda: self.has().get(name, 0) >= other.said)

    def end(self):
        self.client.kill()
        self.client.wait(PATIENCE)
        self.bridge.stop()


def pids(part, broker, side):
    """Returns the processes that a part has at present."""
    bridge = side.bridge
    return {
        "server": lambda: bridge.children(pathlib.Path(SECURECHAT).name[:15]),
        "bridge": lambda: [bridge.popen.pid],
        "broker": lambda: [broker.popen.pid],
        "publisher": lambda: bridge.children("mosquitto_pub"),
        "subscriber": lambda: bridge.children("mosquitto_sub"),
        "all at once": lambda: [pid for one in PARTS[:-1] for pid in pids(one, broker, side)],
    }[part]()


PARTS = "server", "bridge", "broker", "publisher", "subscriber", "all at once"


def kill_parts(broker, sides, kills):
    """Kills one part after the other while lines are sent. Returns how often each was killed."""
    killed = dict.fromkeys(PARTS, 0)
    done = threading.Event()

    def speak():
        while not done.wait(0.1):
            for side in sides:
                side.say(PACE // 10)
    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        for i in range(kills):
            part, side = PARTS[i % len(PARTS)], sides[i // len(PARTS) % 2]
            for pid in until(f"a running {part}", lambda: pids(part, broker, side)):
                kill(pid)
            killed[part] += 1
            if part == "broker":
                side.rotate()
            time.sleep(random.uniform(0.05, 1.5))
    finally:
        done.set()
        speaker.join()
    return killed


def compare_texts(here, there):
    """Sends unusual lines, and compares what the two logs have of them."""
    here.client.stdin.write(b"".join(line + b"\n" for line in UNUSUAL))
    here.client.stdin.flush()

    def last_of(side, name):
        found = []
        for line in side.path.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            if record["event"] == "message" and record.get("from", record["name"]) == name:
                found.append((record["message"], record.get("base64")))
        return found[-len(UNUSUAL):]
    name = f"{here.client_name}@{here.server_name}"
    last = (UNUSUAL[-1].decode(), None)
    until("the unusual lines", lambda: last in last_of(there, name))
    want, got = last_of(here, here.client_name), last_of(there, name)
    if got != want:
        raise SystemExit(f"{there.server_name} has {got} in place of {want}")


def measure(here, there):
    began = time.monotonic()
    here.say(FAST)
    there.has_all_of(here)
    return FAST / (time.monotonic() - began)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        broker = Broker(folder / "broker")
        sides = []
        try:
            sides += [Side(folder, broker, "north", "anna")]
            sides += [Side(folder, broker, "south", "bob")]
            north, south = sides
            # A bridge begins with the messages after its first contact with another one.
            for side in sides:
                state = side.folder / f"bridge-{side.server_name}" / "state"
                until("the first contact", lambda: json.loads(state.read_text())["recorded"])
            killed = kill_parts(broker, sides, KILLS)
            north.has_all_of(south), south.has_all_of(north)
            print(f"{north.said} and {south.said} lines while parts were killed "
                  f"({', '.join(f'{part} {n}' for part, n in killed.items())}): each once and in order in both rooms")
            for side in sides:
                side.rotate()
            speed = measure(north, south)
            print(f"{speed:.0f} lines a second from room to room at QoS 1; the goal on an idle machine is {GOAL}")
            for side in sides:
                names = {o: f"{o.client_name}{'' if o is side else '@' + o.server_name}" for o in sides}
                if side.has() != {name: o.said for o, name in names.items() if o.said}:
                    raise SystemExit(f"{side.server_name} has recorded {side.has()}")
            compare_texts(south, north)
        except BaseException:
            for part in broker.folder, *(side.folder for side in sides):
                print(part.name, (part / "err").read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            for side in sides:
                side.end()
            broker.stop()


# End every process that this script started, however it ends.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated by SIGTERM"))
try:
    main()
finally:
    for popen in started:
        try:
            os.killpg(popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the session has already ended
