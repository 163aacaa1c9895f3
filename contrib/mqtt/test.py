#!/usr/bin/env python3
"""Two servers join their rooms through a real broker, with pipes alone. A client at each sends lines while the broker
restarts and while it is down. Each client receives every line of the other once, in order, with its origin, and none of
its own.

    contrib/mqtt/test.py SECURECHAT      needs mosquitto and mosquitto-clients
"""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SECURECHAT = str(pathlib.Path(sys.argv[1]).resolve())
PATIENCE = 120  # seconds
started = []  # every process that this script started; each leads a session


def until(what, check):
    end = time.monotonic() + PATIENCE
    while not (got := check()):
        if time.monotonic() > end:
            raise SystemExit(f"timed out waiting for {what}")
        time.sleep(0.02)
    return got


def start(argv, **how):
    started.append(subprocess.Popen(argv, start_new_session=True, **how))
    return started[-1]


class Broker:
    def __init__(self, folder):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.port = s.getsockname()[1]
        conf = (HERE / "mosquitto.conf").read_text()
        conf = conf.replace("/var/lib/mosquitto/", f"{folder}/").replace("listener 1883", f"listener {self.port}")
        (folder / "mosquitto.conf").write_text(conf + "user root\nlog_type all\n")
        self.start()

    def start(self):
        with open(self.folder / "broker.log", "ab") as log:
            self.popen = start(["mosquitto", "-c", self.folder / "mosquitto.conf"], stdout=log, stderr=log)

        def up():
            if self.popen.poll() is not None:
                raise SystemExit("mosquitto ended: " + (self.folder / "broker.log").read_text())
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
            except OSError:
                return False
        until("the broker", up)

    def published(self, server):
        return (self.folder / "broker.log").read_text().count(f"Received PUBLISH from {server}-out")

    def stop(self):
        self.popen.terminate()
        self.popen.wait(PATIENCE)


class Side:
    """A server with its bridge, and a client of that server."""

    def __init__(self, folder, broker, server, client):
        self.folder, self.client_name, self.server_name = folder / server, client, server
        self.folder.mkdir()
        for name in server, client:
            self.run("-keygen", "-dir", name, "-comment", name)
        self.run("-allow", f"{client}/identity.pub", "-dir", server)
        self.err = open(self.folder / "err", "wb")
        self.bridge = start(
            [HERE / "bridge", server, f"-h 127.0.0.1 -p {broker.port}",
             SECURECHAT, "-listen", "127.0.0.1:0", "-dir", server],
            cwd=self.folder, stdin=subprocess.DEVNULL, stdout=self.err, stderr=self.err)
        address = until("the room", lambda: re.search(r"room open on (\S+) as", (self.folder / "err").read_text()))[1]
        with open(self.folder / "heard", "wb") as out:
            self.client = start(
                [SECURECHAT, "-connect", address, "-dir", client, "-accept-new", "-json", "-stay"],
                cwd=self.folder, stdin=subprocess.PIPE, stdout=out, stderr=self.err)
        until("the client", lambda: self.heard("welcome"))
        self.said = 0

    def run(self, *args):
        subprocess.run([SECURECHAT, *args], cwd=self.folder, check=True, capture_output=True, timeout=PATIENCE)

    def heard(self, kind):
        lines = (self.folder / "heard").read_text().split("\n")[:-1]
        return [o for o in map(json.loads, lines) if o["type"] == kind]

    def say(self, n):
        """Sends n lines, and returns when they are in the server's log."""
        for _ in range(n):
            self.said += 1
            self.client.stdin.write(json.dumps({"text": f"{self.client_name} {self.said}"}).encode() + b"\n")
        self.client.stdin.flush()
        until("acknowledgements", lambda: any(o["id"] == self.said for o in self.heard("ack")))

    def has_all_of(self, other):
        return until(f"all lines of {other.client_name}", lambda: len(self.heard("message")) >= other.said)

    def texts(self):
        log = (self.folder / "connection.log").read_text().split("\n")[:-1]
        return [r["message"] for r in map(json.loads, log) if r["event"] == "message"]

    def end(self):
        self.client.stdin.close()
        self.client.terminate()
        self.client.wait(PATIENCE)
        os.killpg(self.bridge.pid, signal.SIGTERM)
        self.bridge.wait(PATIENCE)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        broker = Broker(folder)
        sides = []
        try:
            sides += [Side(folder, broker, "north", "anna")]
            sides += [Side(folder, broker, "south", "bob")]
            north, south = sides
            both = lambda n: [side.say(n) for side in sides]
            # A first subscription does not receive earlier messages, so wait for both subscriptions.
            until("subscriptions", lambda: (folder / "broker.log").read_text().count("SUBACK") >= 2)
            both(5)
            north.has_all_of(south), south.has_all_of(north)
            both(30)  # in transit while the broker restarts
            broker.stop()
            both(30)  # while it is down
            broker.start()
            both(30)
            north.has_all_of(south), south.has_all_of(north)
            # A subscriber that returns late receives the messages that were waiting.
            pgrep = ["pgrep", "-g", str(north.bridge.pid), "-x", "mosquitto_sub"]
            late = int(subprocess.check_output(pgrep, timeout=PATIENCE))
            os.kill(late, signal.SIGSTOP)
            broker.stop()
            published = broker.published("south")
            broker.start()
            south.say(5)
            until("south's lines at the broker", lambda: broker.published("south") == published + 5)
            os.kill(late, signal.SIGCONT)
            both(5)
            north.has_all_of(south), south.has_all_of(north)
            for here, there in (north, south), (south, north):
                got = here.heard("message")
                want = [f"{there.client_name} {i + 1}" for i in range(there.said)]
                if [o["text"] for o in got] != want:
                    raise SystemExit(f"{here.client_name} received {[o['text'] for o in got]}")
                if {o["name"] for o in got} != {f"{there.client_name}@{there.server_name}"}:
                    raise SystemExit(f"{here.client_name} received them from {set(o['name'] for o in got)}")
                own = [f"{here.client_name} {i + 1}" for i in range(here.said)]
                if sorted(here.texts()) != sorted(want + own):
                    raise SystemExit(f"the log of {here.server_name} has {here.texts()}")
            print(f"{north.said} and {south.said} lines, two restarts of the broker: each line received once, in order, "
                  f"from {south.heard('message')[0]['name']} and {north.heard('message')[0]['name']}")
        except BaseException:
            for side in sides:
                print((side.folder / "err").read_text(), file=sys.stderr)
            print((folder / "broker.log").read_text()[-3000:], file=sys.stderr)
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
