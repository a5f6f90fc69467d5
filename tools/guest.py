"""The test microVM: a kernel, an initramfs of busybox and a script, and the QEMU command that boots them.

It boots in about 4 s under TCG. The kernel's command line says what it does then: see tools/guest-root/init.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools import golang, kernel
from tools.paths import CHECKOUT
from tools.steps import SetupError, doing, done, run

ROOT = CHECKOUT / "tools" / "guest-root"
READY = "GUEST READY"
MEMORY_MIB = 256


def guest_paths() -> tuple[Path, Path]:
    """The guest's kernel and initramfs; builds them if they are missing.

    Raises:
        SetupError: A tool or the network is missing; the message says what to do.
    """
    if not kernel.image().exists():
        kernel.fetch()
    initramfs = _initramfs_path()
    if not initramfs.exists():
        build_initramfs(initramfs, _contents(), kernel.modules())
    return kernel.image(), initramfs


def prepare() -> None:
    """Build both, and say so."""
    kernel.fetch()
    if _initramfs_path().exists():
        done("initramfs of the test microVM")
        return
    with doing("pack the initramfs of the test microVM"):
        guest_paths()


def wired_initramfs() -> Path:
    """The initramfs that has `wire` as well (tools/wire); builds it if it is missing."""
    _, initramfs = guest_paths()
    program = golang.wire()
    target = initramfs.with_name(f"{initramfs.stem}-{program.name}.cpio")
    if not target.exists():
        # The kernel unpacks one archive after the other.
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            root, both = Path(scratch) / "root", Path(scratch) / "both"
            (root / "bin").mkdir(parents=True)
            shutil.copy(program, root / "bin" / "wire")
            pack(root, both)
            both.write_bytes(initramfs.read_bytes() + both.read_bytes())
            both.replace(target)
    return target


def qemu_argv(tap: str, mac: str, append: str, *, vnet_hdr: bool = True, initramfs: Path | None = None) -> list[str]:
    """The command that boots the guest on a TAP that exists. It has to run in the TAP's network namespace.

    Args:
        tap: The TAP's name.
        mac: The guest's MAC address.
        append: The task of /init, such as "ip=10.0.0.2::10.0.0.1:255.255.255.0:web:eth0:off http=80".
        vnet_hdr: Whether the TAP was created with IFF_VNET_HDR; QEMU refuses a TAP that differs from this.
        initramfs: Its files; absent: those of `guest_paths`.

    Returns:
        The argv. The console is its standard output: wait there for `READY`.
    """
    image, common = guest_paths()
    netdev = f"tap,id=n,ifname={tap},script=no,downscript=no,vnet_hdr={'on' if vnet_hdr else 'off'}"
    # fmt: off
    return [
        "qemu-system-x86_64", "-M", "microvm", "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY_MIB),
        "-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio",
        "-kernel", str(image), "-initrd", str(initramfs or common),
        # A panic ends the process at once (panic=-1 with -no-reboot), so nobody waits for a dead guest. With the TSC's
        # frequency given, the guest does not measure it: on a busy machine Linux 6.1 fails at that, and stops booting.
        "-append", f"console=ttyS0 quiet panic=-1 random.trust_cpu=on tsc_early_khz={tsc_khz()} {append}",
        "-netdev", netdev, "-device", f"virtio-net-device,netdev=n,mac={mac}",
    ]
    # fmt: on


def tsc_khz() -> int:
    """The approximate frequency of this machine's TSC, which a guest under TCG sees as its own."""
    found = re.search(r"^cpu MHz\s*: (\d+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1000 if found else 2_000_000


def busybox() -> Path:
    """The statically linked busybox of Debian's busybox-static."""
    found = shutil.which("busybox")
    if found is None:
        raise SetupError("There is no busybox: run `make setup-demo`, or install busybox-static.")
    return Path(found)


def _contents() -> list[tuple[str, Path]]:
    """The content of the initramfs without modules: the path in the guest and the file here."""
    own = [(str(path.relative_to(ROOT)), path) for path in sorted(ROOT.rglob("*")) if path.is_file()]
    return [*own, ("bin/busybox", busybox())]


def _initramfs_path() -> Path:
    """The path of the initramfs. Its name has a digest of its content, so a changed script means another file."""
    digest = hashlib.sha256()
    for name, path in (*_contents(), *((path.name, path) for path in kernel.modules())):
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return kernel.folder() / f"initramfs-{digest.hexdigest()[:12]}.cpio"


def build_initramfs(target: Path, contents: Iterable[tuple[str, Path]], modules: Sequence[Path] = ()) -> None:
    """Pack an initramfs. Not compressed: unpacking under TCG costs more than reading.

    Args:
        target: The file to write.
        contents: Paths in it, and the files to put there.
        modules: The modules to load, in this order; it is written to /modules/order.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        root = Path(scratch) / "root"
        for folder in ("dev", "proc", "sys", "tmp", "www", "etc", "root", "modules"):
            (root / folder).mkdir(parents=True)
        for name, path in (*contents, *((f"modules/{path.name}", path) for path in modules)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / name)
        (root / "modules/order").write_text("".join(f"{path.name}\n" for path in modules))
        archive = Path(scratch) / "initramfs"
        pack(root, archive)
        archive.replace(target)


def pack(root: Path, archive: Path) -> None:
    """Write a folder as a cpio archive that the kernel can unpack; root owns all files in it."""
    names = [".", *(str(path.relative_to(root)) for path in sorted(root.rglob("*")))]
    listing = archive.with_suffix(".names")
    listing.write_text("\n".join(names) + "\n")
    script = 'cpio --quiet --create --format=newc --owner=+0:+0 <"$1" >"$2"'
    run(["sh", "-c", script, "pack", listing, archive], "Run `make setup-demo`, or install cpio.", cwd=root)
