"""Archives whose bytes follow from their content: sorted names, one time, two modes, no owner."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# The oldest time that a zip can hold: 1 January 1980.
EPOCH = 315532800
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_PLAIN, _EXECUTABLE = 0o644, 0o755


@dataclass(frozen=True)
class File:
    """A file in an archive.

    Args:
        data: Its content; of a symbolic link, where it leads.
        executable: Whether it can be run.
        link: Whether it is a symbolic link.
    """

    data: bytes
    executable: bool = False
    link: bool = False

    @classmethod
    def read(cls, path: Path) -> "File":
        """A file of the disk."""
        if path.is_symlink():
            return cls(str(path.readlink()).encode(), link=True)
        return cls(path.read_bytes(), executable=bool(path.stat().st_mode & 0o100))


Files = Mapping[str, File]


def read_folder(folder: Path) -> dict[str, File]:
    """Every file below a folder, without what Python compiled."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {str(path.relative_to(folder)): File.read(path) for path in found if "__pycache__" not in path.parts}


def write_tar(target: Path, files: Files) -> None:
    """Write a `.tar.gz`."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(files):
            file = files[name]
            info = tarfile.TarInfo(name)
            info.mtime, info.mode = EPOCH, _EXECUTABLE if file.executable else _PLAIN
            if file.link:
                info.type, info.linkname = tarfile.SYMTYPE, file.data.decode()
                archive.addfile(info)
            else:
                info.size = len(file.data)
                archive.addfile(info, io.BytesIO(file.data))
    target.write_bytes(packed.getvalue())


def write_zip(target: Path, files: Files) -> None:
    """Write a zip, in the order in which the files are given."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            info = zipfile.ZipInfo(name, _ZIP_TIME)
            info.external_attr = (0o100000 | (_EXECUTABLE if file.executable else _PLAIN)) << 16
            archive.writestr(info, file.data, zipfile.ZIP_DEFLATED)


def rewrite_zip(source: Path, target: Path) -> None:
    """Write a zip again; a wheel's list of its files has to stay the last one."""
    with zipfile.ZipFile(source) as archive:
        write_zip(target, {name: File(archive.read(name)) for name in archive.namelist()})
