"""The release for Windows under Wine, in both roles, with the release for Linux as the other side. Needs Debian's wine,
wine64 and gcc-mingw-w64-x86-64-win32. There is no window and no console: what a person types is not run."""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading

from guest import PATIENCE, Report, free_port, run, until

LINES = 20000
RAW_BYTES = 3_000_000

# Go needs this function of Windows 7 and later; Wine 8.0, of Debian 12, has no such library.
SHIM = """#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return SystemFunction036(data, size); }
"""


class Wine:
    """A folder with an empty Windows, and the processes that run in it."""

    def __init__(self, folder):
        self.processes = []
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "WINEPREFIX": str(folder / "prefix"), "WINEARCH": "win64",
            "WINEDEBUG": "-all", "DISPLAY": ""}
        self.drive = folder / "prefix" / "drive_c"

    def boot(self, exe):
        """Makes the folder anew, with the program in it."""
        folder = self.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(["wine", "wineboot", "-i"], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=PATIENCE,
            check=True)  # it starts the processes of Windows, which wineserver -k ends
        (folder / "shim.c").write_text(SHIM)
        run(["x86_64-w64-mingw32-gcc", "-shared", "-O2", "-o", self.drive / "windows/system32/bcryptprimitives.dll",
            folder / "shim.c", "-ladvapi32"])
        shutil.copy(exe, self.drive / "securechat.exe")

    def run(self, *arguments, program="securechat.exe", data=b""):
        """Runs a program to its end and returns the exit status, stdout and stderr."""
        p = subprocess.run(["wine", program, *arguments], cwd=self.drive, env=self.env, input=data, capture_output=True, timeout=PATIENCE)
        return p.returncode, p.stdout, p.stderr.decode(errors="replace")

    def start(self, name, *arguments):
        """Starts securechat with its output in files of that name; returns the process and the path of its stderr."""
        out, err = self.drive / f"{name}.out", self.drive / f"{name}.err"
        with open(out, "wb") as o, open(err, "wb") as e:
            p = subprocess.Popen(["wine", "securechat.exe", *arguments], cwd=self.drive, env=self.env, stdin=subprocess.PIPE, stdout=o,
                stderr=e)
        self.processes.append(p)
        return p, err

    def end(self):
        for p in self.processes:
            p.kill()
            p.wait()
        for flag in "-k", "-w":  # kill all processes of this Windows, and wait until they have ended
            subprocess.run(["wineserver", flag], env=self.env, timeout=30)


def has(path, pattern):
    """Returns a condition: the file has a match of the pattern."""
    return lambda: path.exists() and re.search(pattern, path.read_bytes().decode(errors="replace"))


def windows(options, folder):
    report = Report("Windows, " + run(["wine", "--version"]).split()[0])
    wine = Wine(folder)
    try:
        wine.boot(options.dist / "securechat-windows-amd64.exe")
        linux = folder / "linux"
        keys = folder_and_keys(wine, report, options, linux)
        server(wine, report, options, linux, keys)
        client(wine, report, options, linux, keys)
        raw(wine, report, options, linux, keys)
    finally:
        wine.end()
    return report.rows


def folder_and_keys(wine, report, options, linux):
    """Makes the keys of both sides, each of which admits the other. Returns the public key of the one under Wine."""
    status, out, err = wine.run("-version")
    report.check("the program runs: -version", status == 0 and out.startswith(b"securechat"), err)
    status, out, err = wine.run("-keygen")
    found = [str(p.relative_to(wine.drive)) for p in wine.drive.glob("users/*/AppData/Roaming/securechat/identity")]
    report.check("-keygen: the folder is AppData/Roaming/securechat", status == 0 and len(found) == 1, err + str(found))
    state = wine.drive / pathlib.Path(found[0]).parent
    report.check("others have no access to the folder", others(state) == 0)
    status, out, err = wine.run("-keygen", "-dir", "C:\\my keys\\of anna")
    report.check("a path with spaces and backslashes", status == 0 and (wine.drive / "my keys/of anna/identity").exists(), err)
    subprocess.run([options.securechat, "-keygen", "-dir", linux], check=True, capture_output=True)
    key = " ".join((linux / "identity.pub").read_text().split()[:2] + ["linux"])
    status, out, err = wine.run("-allow", "-", data=f"{key}\r\n".encode())
    report.check("-allow - reads a key from a pipe", status == 0, err)
    key = (state / "identity.pub").read_text().strip()
    (linux / "authorized_keys").write_text(key + "\n")
    (linux / "known_hosts").write_text(f"* {key}\n")
    for name in "authorized_keys", "known_hosts":
        (linux / name).chmod(0o600)
    return state


def others(path):
    """The access that others have, as Wine makes it of a list. Wine gives a new file nothing of the list of its folder."""
    return path.stat().st_mode & 0o007


def join(options, linux, port, *arguments, data=b""):
    return subprocess.run([options.securechat, "-connect", f"127.0.0.1:{port}", "-dir", linux, *arguments], input=data,
        capture_output=True, timeout=PATIENCE)


def lines(word):
    return "".join(f"{word} {i}\n" for i in range(LINES)).encode()


def each_once(paths, word):
    """Whether the log has each of the lines once."""
    text = "".join(p.read_text() for p in paths)
    return sorted(map(int, re.findall(rf'"message":"{word} (\d+)"', text))) == list(range(LINES))


def server(wine, report, options, linux, keys):
    port, log = free_port(), wine.drive / "room.log"
    p, err = wine.start("server", "-listen", f"127.0.0.1:{port}", "-log", "C:\\room.log")
    until(has(err, "room open"))
    status, out, text = wine.run("-connect", f"127.0.0.1:{port}", data=b"one\r\ntwo\r\n")
    report.check("a client of Windows joins a room of Windows; CRLF ends a line", status == 0 and
        re.findall(r'"message":"([^"]*)"', log.read_text()) == ["one", "two"], text)
    report.check("others have no access to the log", others(log) == 0)
    joined = join(options, linux, port, data=lines("to windows"))
    report.check(f"a client of Linux joins a room of Windows: {LINES} lines, once each", joined.returncode == 0 and
        each_once([log], "to windows"), joined.stderr.decode())
    status, out, text = wine.run("-listen", f"127.0.0.1:{free_port()}", "-log", "C:\\room.log")
    report.check("a second server with the same log: status 1", status == 1 and "another securechat writes it" in text, text)
    status, out, text = wine.run("/c", "ren C:\\room.log room.log.1", program="cmd")
    until(has(log, '"event":"rotate"'))
    joined = join(options, linux, port, data=b"after the rotation\n")
    status, out, text = wine.run("-verify-log", "C:\\room.log.1", "C:\\room.log")
    report.check("the log is renamed while it is open: the server begins a new one, with an unbroken chain", status == 0 and
        joined.returncode == 0 and "after the rotation" in log.read_text() and (wine.drive / "room.log.1").exists(), text)
    subprocess.run(["gzip", wine.drive / "room.log.1"], check=True)
    status, out, text = wine.run("-verify-log", "C:\\room.log.1.gz", "C:\\room.log")
    report.check("-verify-log with a compressed file", status == 0 and b"gzip, " in out, text)
    p.send_signal(signal.SIGINT)
    status = p.wait(60)
    report.check("Ctrl-C stops the server: status 0, and a stop record", status == 0 and
        '"event":"stop"' in log.read_text().splitlines()[-1], f"status {status}: {err.read_text()}")
    with open(log, "ab") as f:
        f.write(b'{"time":"2026')
    p, err = wine.start("again", "-listen", f"127.0.0.1:{port}", "-log", "C:\\room.log")
    until(has(err, "room open"))
    report.check("a torn record is removed at the start", "repaired: 13 bytes" in err.read_text() and
        "repaired: 13 bytes" in log.read_text(), err.read_text())
    p.send_signal(signal.SIGINT)
    p.wait(60)


def client(wine, report, options, linux, keys):
    address, log = f"127.0.0.1:{free_port()}", linux / "connection.log"
    with open(linux / "err", "wb") as err:
        p = subprocess.Popen([options.securechat, "-listen", address, "-dir", linux, "-log", log], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=err)
    wine.processes.append(p)
    until(has(linux / "err", "room open"))
    status, out, text = wine.run("-connect", address)
    report.check("an unknown server: status 3", status == 3, text)
    with open(keys / "known_hosts", "a") as f:
        f.write(f"* {(linux / 'identity.pub').read_text()}")
    status, out, text = wine.run("-connect", address, data=lines("from windows"))
    report.check(f"a client of Windows joins a room of Linux: {LINES} lines, once each", status == 0 and
        each_once([log], "from windows"), text)
    status, out, text = wine.run("-connect", address, "-count", "1", "-timeout", "2s")
    report.check("-timeout: status 5", status == 5, text)
    statuses = [wine.run("-nonsense")[0], wine.run("-connect", f"127.0.0.1:{free_port()}")[0]]
    report.check("a wrong flag: status 2; nothing listens: status 1", statuses == [2, 1], str(statuses))
    connects = log.read_text().count('"event":"connect"')
    c, err = wine.start("client", "-connect", address, "-stay")
    until(lambda: log.read_text().count('"event":"connect"') > connects)
    c.send_signal(signal.SIGINT)
    status = c.wait(60)
    until(lambda: '"event":"disconnect"' in log.read_text().splitlines()[-1])
    report.check("Ctrl-C ends a client: status 0, and it has left", status == 0 and
        '"reason":"left"' in log.read_text().splitlines()[-1], f"status {status}: {err.read_text()}; {log.read_text()[-400:]}")


def raw(wine, report, options, linux, keys):
    """Bytes that are no lines, both ways through one connection."""
    sent, answered = os.urandom(RAW_BYTES), os.urandom(RAW_BYTES)
    port = free_port()
    p, err = wine.start("raw", "-listen", f"127.0.0.1:{port}", "-raw", "-log", "off")
    until(has(err, "waiting|open"))
    c = subprocess.Popen([options.securechat, "-connect", f"127.0.0.1:{port}", "-dir", linux, "-raw"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wine.processes.append(c)
    threading.Thread(target=lambda: (p.stdin.write(answered), p.stdin.close()), daemon=True).start()
    out, text = c.communicate(sent, timeout=PATIENCE)
    status = p.wait(60)
    report.check(f"-raw, {RAW_BYTES // 1_000_000} MB each way", c.returncode == 0 and status == 0 and out == answered and
        (wine.drive / "raw.out").read_bytes() == sent, f"status {c.returncode} and {status}: {text.decode()} {err.read_text()}")
