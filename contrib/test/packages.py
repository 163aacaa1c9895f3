"""A release's packages and its container image on this machine: the packages are unpacked and what is in them is run;
OpenWrt's is run in a folder tree, by openwrt.sh; the image is built and run by buildah. Needs root and Debian's dpkg,
rpm, qemu-user-static, busybox-static and buildah."""
import os
import pathlib
import re
import shutil
import signal
import subprocess

from guest import Failure, Report, end, field, run, until

HERE = pathlib.Path(__file__).resolve().parent

# What each package's architecture is called in the name of the binary, and the emulator of its processor.
ARCHITECTURES = {
    "amd64 x86_64": ("amd64", []),
    "i386 i686 x86": ("386", []),
    "arm64 aarch64 aarch64_cortex-a53": ("arm64", ["qemu-aarch64-static"]),
    "armhf": ("armv6", ["qemu-arm-static", "-cpu", "arm1176"]),
    "armv7hl armv7 arm_cortex-a7_neon-vfpv4": ("armv7", ["qemu-arm-static", "-cpu", "cortex-a7"]),
    "mips_24kc": ("mips", ["qemu-mips-static", "-cpu", "24Kc"]),
    "mipsel_24kc": ("mipsle", ["qemu-mipsel-static", "-cpu", "24Kc"]),
    "riscv64": ("riscv64", ["qemu-riscv64-static"]),
}
# The shell command that unpacks the package $1 into this folder; .ipk is a package that contains a package's two halves.
UNPACK = {
    ".deb": 'dpkg-deb -x "$1" .',
    ".rpm": 'rpm -i --root "$PWD" --nodeps --noscripts --ignorearch --ignoreos "$1"',
    ".apk": 'tar xzf "$1" --warning=no-unknown-keyword',
    ".ipk": 'tar xzf "$1" && tar xzf data.tar.gz && tar xzf control.tar.gz',
}


def packages(options, folder):
    """Unpacks every package. Its binary must be the release's, and run."""
    report = Report("this machine, packages")
    for kind, unpack in UNPACK.items():
        done = []
        for package in sorted(options.dist.resolve().glob(f"securechat[-_]*{kind}")):
            done.append(contents(options, folder / "tree", package, unpack))
        report.check(f"{kind} for {', '.join(done)}: unpacked, with the release's binary, which runs", done)
    return report.rows


def contents(options, tree, package, unpack):
    """Checks one package and returns its architecture."""
    arch, (name, emulator) = next((arch, value) for names, value in ARCHITECTURES.items() for arch in names.split()
        if package.stem.endswith(("_" + arch, "." + arch)))
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    run(["sh", "-euc", unpack, "unpack", package], cwd=tree, stderr=subprocess.STDOUT)
    binary = tree / "usr/bin/securechat"
    if binary.read_bytes() != (options.dist / f"securechat-linux-{name}").read_bytes():
        raise Failure(f"the binary in {package.name} is not that of the release")
    if not run([*emulator, binary, "-version"]).startswith("securechat "):
        raise Failure(f"the binary in {package.name} does not print its version")
    if package.suffix == ".apk":
        message = run([tree / ".post-install"])
        if len(re.findall("^securechat: ", message, re.M)) != 3:
            raise Failure(f"the message of {package.name} has not three lines: {message}")
    return arch


def openwrt(options, folder):
    """Each section of openwrt.sh is a row."""
    report = Report("this machine, OpenWrt's package")
    package = next(options.dist.glob("securechat_*_x86_64.ipk"))
    p = subprocess.Popen([HERE / "openwrt.sh", package], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0)
    section, out = "installed: neither enabled nor started, and three lines are printed", []
    try:
        for line in p.stdout:
            out.append(line)
            if line.startswith("-- "):
                report.check(section, True)
                section = line[3:].strip()
        report.check(section, p.wait(10) == 0, "".join(out))
    finally:
        end(p)
    return report.rows


def container(options, folder):
    """Builds the image with a stand-in for its base, which this machine cannot download: busybox and this machine's Go."""
    report = Report("this machine, container image")
    dockerfile = HERE.parent / "Dockerfile"
    base = field(r"^FROM (\S+) AS build$", dockerfile.read_text())
    version, goroot, modules = run(["go", "env", "GOVERSION", "GOROOT", "GOMODCACHE"]).split()
    report.check(f"the base names a version of Go: {base}", re.fullmatch(r"golang:\d+\.\d+\.\d+-[a-z]+", base))
    env = {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(folder)}
    # vfs needs no mounts, which a program that is killed would leave behind.
    storage = ["--storage-driver", "vfs", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
    shutil.rmtree(folder / "storage", ignore_errors=True)

    def buildah(*arguments, **more):
        return run(["buildah", *storage, *arguments], env=env, **more).strip()

    stand = buildah("from", "scratch")
    root = pathlib.Path(buildah("mount", stand))
    for path in "bin", "go/pkg/mod/cache", "usr/local", "tmp":
        (root / path).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for name in "sh", "mkdir":
        (root / "bin" / name).symlink_to("busybox")
    shutil.copytree(goroot, root / "usr/local/go", symlinks=True)
    shutil.copytree(pathlib.Path(modules) / "cache/download", root / "go/pkg/mod/cache/download", symlinks=True)
    settings = {"PATH": "/usr/local/go/bin:/bin", "GOPATH": "/go", "GOPROXY": "file:///go/pkg/mod/cache/download", "GONOSUMDB": "*",
        "GOTOOLCHAIN": "local", "HOME": "/tmp"}
    buildah("config", *(word for name, value in settings.items() for word in ("--env", f"{name}={value}")), stand)
    buildah("umount", stand)
    buildah("commit", "-q", stand, f"docker.io/library/{base}")
    buildah("rm", stand)
    buildah("bud", "--pull-never", "-f", dockerfile, "-t", "securechat", HERE.parent.parent)
    report.check(f"contrib/Dockerfile is built by buildah, with busybox and {version} as its base", True)
    made = buildah("from", "--pull-never", "localhost/securechat")
    root = pathlib.Path(buildah("mount", made))
    found = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    report.check("the image has one file, and a folder of its user", found == ["securechat"] and (root / "state").stat().st_uid == 65532, found)
    inside = ["buildah", *storage, "run", made, "--", "/securechat"]
    err = folder / "err"
    server = subprocess.Popen([*inside, "-listen", "127.0.0.1:0", "-log", "-"], env=env, stdin=subprocess.DEVNULL,
        stdout=open(folder / "out", "wb"), stderr=open(err, "wb"), process_group=0)
    try:
        until(lambda: "room open on" in err.read_text() or server.poll() is not None)
        address = field(r"room open on (\S+) as", err.read_text())
        run([*inside, "-connect", address], env=env, input="hello\n")
        room = room_below(server.pid)
        uid = field(r"^Uid:\s+(\d+)", pathlib.Path(f"/proc/{room}/status").read_text())
        report.check("it opens a room as user 65532, and another process of it joins", uid == "65532", uid)
        os.kill(room, signal.SIGTERM)
        report.check("SIGTERM ends it with status 0; -log - has the records", server.wait(60) == 0 and
            all(word in (folder / "out").read_text() for word in ('"message":"hello"', '"event":"stop"')), err.read_text())
    finally:
        end(server)
    return report.rows


def room_below(pid):
    """The process called securechat among those that a process has started, directly or not."""
    for child in (int(n) for p in pathlib.Path(f"/proc/{pid}/task").glob("*/children") for n in p.read_text().split()):
        if pathlib.Path(f"/proc/{child}/comm").read_text() == "securechat\n":
            return child
        if found := room_below(child):
            return found
    return None
