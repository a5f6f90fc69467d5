"""The test server: a whole system of this machine's distribution, for QEMU; it answers SSH 12 s after its start.

Set-up makes three files, once: a disk, which a run copies; a kernel; and an initramfs that mounts the disk and lays
the run's own files over it, its seed: keys, and what else that run wants of the machine. It is made anew when what
makes it changes.
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
DRIVERS = ("virtio_pci", "virtio_blk")  # to find the root; udev loads the rest
# What hostnet uses on a host, what reaches it, both network daemons, and a DHCP client and a web server for guests.
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "libpam-systemd", "kmod", "openssh-server", "sudo"),
    *("iproute2", "nftables", "python3", "dnsmasq-base", "network-manager", "busybox-static"),
)
_ADVICE = "Run `apt-get update` and try again."


@dataclass(frozen=True)
class Files:
    """What a server boots from; the disk is every run's, and is copied before it is written to."""

    disk: Path
    kernel: Path
    initramfs: Path


def files() -> Files:
    """The files, made where they are missing.

    Raises:
        SetupError: A tool or the network is missing; the message says what to do.
    """
    folder = cache() / "server" / _digest()
    if not folder.exists():
        _build(folder)
    return Files(folder / "disk", folder / "vmlinuz", folder / "initramfs")


def prepare() -> None:
    """Make what `files` gives, and say so."""
    if (cache() / "server" / _digest()).exists():
        done("disk of the test server")
        return
    with doing("build the disk of the test server (once; minutes)"):
        files()


def _release() -> dict[str, str]:
    """What os-release(5) tells."""
    return platform.freedesktop_os_release()


def _digest() -> str:
    """What the files are made from, as one word."""
    digest = hashlib.sha256(f"{_release()['ID']} {_release()['VERSION_ID']}".encode())
    for path in (Path(__file__), *sorted(ROOT.iterdir()), Path(kernel.__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _build(folder: Path) -> None:
    """Make the files beside their place, and move them there; those of an older recipe go."""
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
    """Make the disk; as root, for it has files of root's."""
    argv = debian.as_root([ROOT / "build", _release()["VERSION_CODENAME"], ",".join(PACKAGES), unpacked, disk])
    run(argv, _ADVICE, given="\n".join(debian.sources()) + "\n")
    run(debian.as_root(["chown", str(os.getuid()), disk]), _ADVICE)


def seeded(initramfs: Path, seed: Path, target: Path) -> None:
    """Write the initramfs of a run: behind the common one come the run's own files (the kernel unpacks them all).

    Args:
        initramfs: As `files` gives it.
        seed: A folder whose contents are laid over the disk at each boot. Modes are kept, root owns them.
        target: The file to make.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder, archive = Path(scratch) / "root", Path(scratch) / "seed"
        shutil.copytree(seed, folder / "seed", symlinks=True)
        guest.pack(folder, archive)
        target.write_bytes(initramfs.read_bytes() + archive.read_bytes())


def qemu_argv(boots: Files, tap: str, mac: str, console: Path) -> list[str]:
    """The command that boots a server on a TAP that exists. It has to run in the TAP's network namespace.

    It ends where the server wants to reboot, and whoever runs it starts it again, as the mains would. A reset inside of
    QEMU comes to the same, but what TCG has translated before it makes the boot after it take twice as long.

    Args:
        boots: The run's own copy of the disk, the kernel, and the initramfs that `seeded` made.
        tap: The TAP's name; with IFF_VNET_HDR.
        mac: The server's MAC address.
        console: The file for what it says on its console.
    """
    # fmt: off
    return [
        "qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB),
        "-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", f"file:{console}",
        "-kernel", str(boots.kernel), "-initrd", str(boots.initramfs),
        # See `guest.qemu_argv` for the clock and the panic.
        "-append", f"console=ttyS0 quiet panic=-1 random.trust_cpu=on tsc_early_khz={guest.tsc_khz()}",
        # What is not on the disk yet when the machine that runs this fails, nobody will miss.
        "-drive", f"id=d,file={boots.disk},format=raw,if=none,cache=unsafe", "-device", "virtio-blk-pci,drive=d",
        "-netdev", f"tap,id=n,ifname={tap},script=no,downscript=no,vnet_hdr=on",
        "-device", f"virtio-net-pci,netdev=n,mac={mac}",
    ]
    # fmt: on
