"""The test server: a whole system of this machine's distribution, for QEMU; it answers SSH 12 s after its start.

Set-up builds three files, once: a disk, which each run copies; a kernel; and an initramfs that mounts the disk and
copies the run's own files onto it, its *seed*: keys, and other files that the run needs. They are built again when
their recipe changes.
"""

import hashlib
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools import debian, guest, kernel
from tools.paths import CHECKOUT, cache
from tools.steps import doing, done, run

ROOT = CHECKOUT / "tools" / "server-root"
MEMORY_MIB = 1024
DRIVERS = ("virtio_pci", "virtio_blk")  # to mount the root; udev loads the rest
# What hostnet needs on a host, an SSH server, both network daemons, and a DHCP client and a web server for guests.
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "libpam-systemd", "kmod", "openssh-server", "sudo"),
    *("iproute2", "nftables", "python3", "dnsmasq-base", "network-manager", "busybox-static"),
)
_ADVICE = "Run `apt-get update` and try again."


@dataclass(frozen=True)
class Files:
    """The files that a server boots from. All runs share the disk: a run copies it before it writes."""

    disk: Path
    kernel: Path
    initramfs: Path


def files() -> Files:
    """The files; builds them if they are missing.

    Raises:
        SetupError: A tool or the network is missing; the message says what to do.
    """
    folder = cache() / "server" / _digest()
    if not folder.exists():
        _build(folder)
    return Files(folder / "disk", folder / "vmlinuz", folder / "initramfs")


def prepare() -> None:
    """Build the files, and say so."""
    if (cache() / "server" / _digest()).exists():
        done("disk of the test server")
        return
    with doing("build the disk of the test server (once; minutes)"):
        files()


def _release() -> dict[str, str]:
    """The content of os-release(5)."""
    return platform.freedesktop_os_release()


def _digest() -> str:
    """A digest of the recipe."""
    digest = hashlib.sha256(f"{_release()['ID']} {_release()['VERSION_ID']}".encode())
    for path in (Path(__file__), *sorted(ROOT.iterdir()), Path(kernel.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _build(folder: Path) -> None:
    """Build the files beside their place, move them there, and delete those of an older recipe."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    debian.refresh_lists()
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made, unpacked = Path(scratch) / "made", Path(scratch) / "kernel"
        made.mkdir()
        kernel.unpack(unpacked)
        kernel.keep(unpacked, made, DRIVERS)
        _build_disk(unpacked, made / "disk")
        contents = [("init", ROOT / "init"), ("bin/busybox", guest.busybox())]
        guest.build_initramfs(made / "initramfs", contents, kernel.modules(made, DRIVERS))
        for old in folder.parent.iterdir():
            if old != Path(scratch):
                shutil.rmtree(old, ignore_errors=True)
        made.rename(folder)


def _build_disk(unpacked: Path, disk: Path) -> None:
    """Build the disk, as root, because it has files that root owns."""
    argv = debian.as_root([ROOT / "build", _release()["VERSION_CODENAME"], ",".join(PACKAGES), unpacked, disk])
    run(argv, _ADVICE, given="\n".join(debian.sources()) + "\n")
    run(debian.as_root(["chown", str(os.getuid()), disk]), _ADVICE)


def seeded(initramfs: Path, seed: Path, target: Path) -> None:
    """Write the initramfs of a run: the common one, then an archive of the run's files; the kernel unpacks both.

    Args:
        initramfs: The one of `files`.
        seed: A folder, copied onto the disk at each boot. Modes are kept; root is the owner.
        target: The file to write.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder, archive = Path(scratch) / "root", Path(scratch) / "seed"
        shutil.copytree(seed, folder / "seed", symlinks=True)
        guest.pack(folder, archive)
        target.write_bytes(initramfs.read_bytes() + archive.read_bytes())


def qemu_argv(boots: Files, tap: str, mac: str, console: Path) -> list[str]:
    """The command that boots a server on a TAP that exists. It has to run in the TAP's network namespace.

    QEMU exits when the server reboots; the caller starts it again. A reset inside QEMU would do, but then the boot
    takes twice as long, because of the code that TCG translated before.

    Args:
        boots: The run's copy of the disk, the kernel, and the initramfs that `seeded` wrote.
        tap: The TAP's name; with IFF_VNET_HDR.
        mac: The server's MAC address.
        console: The file for the output of its console.
    """
    # fmt: off
    return [
        "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB),
        "-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", f"file:{console}",
        "-kernel", str(boots.kernel), "-initrd", str(boots.initramfs),
        # See `guest.qemu_argv` for the clock and the panic.
        "-append", f"console=ttyS0 quiet panic=-1 random.trust_cpu=on tsc_early_khz={guest.tsc_khz()}",
        # If the machine that runs this fails, nothing on this disk matters: it need not be synced.
        "-drive", f"id=d,file={boots.disk},format=raw,if=none,cache=unsafe", "-device", "virtio-blk-pci,drive=d",
        "-netdev", f"tap,id=n,ifname={tap},script=no,downscript=no,vnet_hdr=on",
        "-device", f"virtio-net-pci,netdev=n,mac={mac}",
    ]
    # fmt: on
