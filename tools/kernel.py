"""A kernel for the test machines: the distribution's cloud kernel, unpacked into the cache and never installed."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools import debian
from tools.paths import cache
from tools.steps import SetupError, doing, done, run

# Debian's and Ubuntu's names of the package that depends on the current kernel for virtual machines.
META_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")
# What the microVM's devices need; a kernel that has one built in has no such file.
DRIVERS = ("virtio_mmio", "virtio_net")
# What unpacks a module, by the end of its name: Debian 13 compresses with xz, Ubuntu 24.04 with zstd, Debian 12 not.
UNPACKERS = {".zst": "zstd", ".xz": "xz", ".gz": "gzip"}
# The linker's note in each module, read here because the package has no modules.dep: depmod writes it on installation.
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def folder() -> Path:
    """Where the microVM's kernel and its modules are kept."""
    return cache() / "guest"


def image() -> Path:
    """The microVM's kernel."""
    return folder() / "vmlinuz"


def modules(kept: Path | None = None, drivers: Sequence[str] = DRIVERS) -> list[Path]:
    """The modules to load for some drivers, in order.

    Args:
        kept: The folder that `keep` was given; absent: the microVM's.
        drivers: The drivers' names.
    """
    ordered: list[Path] = []
    for driver in drivers:
        _add((kept or folder()) / "modules" / f"{driver}.ko", ordered)
    return ordered


def _add(module: Path, ordered: list[Path]) -> None:
    """Append a module behind those it depends on."""
    if module in ordered or not module.exists():
        return
    for name in _depends(module):
        _add(module.with_name(f"{name}.ko"), ordered)
    ordered.append(module)


def _depends(module: Path) -> list[str]:
    """The names of the modules that one depends on."""
    found = DEPENDS.search(module.read_bytes())
    return [name for name in found.group(1).decode().split(",") if name] if found else []


def fetch() -> None:
    """Put a kernel into the cache, if none is there."""
    if image().exists():
        done("kernel for the test microVM")
        return
    with doing("fetch a kernel for the test microVM"):
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            unpack(Path(scratch))
            keep(Path(scratch), folder(), DRIVERS)


def unpack(scratch: Path) -> None:
    """Unpack the newest kernel, with all its modules, into a folder."""
    for package in _packages():
        debian.unpack(package, scratch)


def _packages() -> list[str]:
    """The packages that hold the newest kernel and, where the distribution splits them off, its modules."""
    for refreshed in (False, True):
        if refreshed:
            debian.refresh_lists()
        for meta in filter(debian.exists, META_PACKAGES):
            images = [name for name in debian.dependencies(meta) if name.startswith("linux-image-")]
            split_off = [name.replace("linux-image-", "linux-modules-") for name in images]
            return images + [name for name in split_off if debian.exists(name)]
    raise SetupError(f"The package lists know none of {', '.join(META_PACKAGES)}: run `apt-get update` and try again.")


def keep(unpacked: Path, kept: Path, drivers: Sequence[str]) -> None:
    """Take some drivers' modules and then the image out of an unpacked kernel; the image's presence means whole."""
    (kept / "modules").mkdir(exist_ok=True)
    for name in drivers:
        _keep_module(unpacked, kept, name)
    images = list(unpacked.glob("boot/vmlinuz-*"))
    if not images:
        raise SetupError("The kernel's package holds no boot/vmlinuz-*: run `apt-get update` and try again.")
    image = kept / "vmlinuz"
    shutil.copyfile(images[0], image.with_suffix(".part"))
    image.with_suffix(".part").replace(image)


def _keep_module(unpacked: Path, kept: Path, name: str) -> None:
    """Take a module and, in turn, what it depends on. File names may have a dash where the module's has none."""
    target = kept / "modules" / f"{name}.ko"
    for path in unpacked.rglob("*.ko*"):
        if path.name.split(".")[0].replace("-", "_") == name:
            _copy_module(path, target)
            for needed in _depends(target):
                _keep_module(unpacked, kept, needed)
            return


def _copy_module(source: Path, target: Path) -> None:
    """Copy a module, uncompressed as busybox's insmod wants it."""
    if source.suffix == ".ko":
        shutil.copyfile(source, target)
        return
    packed = target.with_suffix(f".ko{source.suffix}")
    target.unlink(missing_ok=True)
    shutil.copyfile(source, packed)
    run([UNPACKERS[source.suffix], "-d", "-q", packed], "Run `make setup`, or install xz-utils and zstd.")
    packed.unlink(missing_ok=True)  # zstd keeps it
