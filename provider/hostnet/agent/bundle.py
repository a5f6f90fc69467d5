"""The agent as one file that travels to a host, and the command that starts it there.

The same sources give the same bytes and so the same name: a host that has the file is not sent it again.
"""

from __future__ import annotations

import base64
import functools
import io
import shlex
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hostnet.wire.digest import sha256

_PACKAGE = Path(__file__).resolve().parent.parent
# Beside the agent itself: what it shares with the provider. None of it imports more than the standard library.
_SHARED = ("__init__.py",)
_ROOMS = ("agent", "wire")
_MAIN = "agent/__main__.py"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can say
# A zip has the mode of a file in the upper half of its external attributes, where a Unix made it.
_UNIX = 3
_MODE = 0o100600 << 16

# Where a host keeps the agent if its state directory can't be written; gone with the next boot. It is root's alone:
# dnsmasq must pass through its own directories (`agent/dhcp/dnsmasq.py`), which have another name.
FALLBACK_DIRECTORY = "/run/hostnet-agent"


@dataclass(frozen=True)
class Bundle:
    """The agent's file.

    Attributes:
        data: Its bytes, a zip that Python runs.
        digest: Their SHA-256, in hexadecimal: its name on the host.
    """

    data: bytes
    digest: str


@functools.cache
def bundle() -> Bundle:
    """The agent as this package has it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(_contents().items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system, entry.external_attr = _UNIX, _MODE
            archive.writestr(entry, content)
    data = out.getvalue()
    return Bundle(data, sha256(data).hexdigest())


def _contents() -> dict[str, bytes]:
    """What is in it, by path."""
    files = (path for room in _ROOMS for path in (_PACKAGE / room).rglob("*.py"))
    names = [*_SHARED, *(str(path.relative_to(_PACKAGE)) for path in files)]
    contents = {str(PurePosixPath("hostnet", name)): (_PACKAGE / name).read_bytes() for name in names}
    return {**contents, "__main__.py": (_PACKAGE / _MAIN).read_bytes()}


def directories(state_dir: str) -> tuple[str, str]:
    """Where the agent's file may be on a host, best first: below the state directory it outlives a boot."""
    return str(PurePosixPath(state_dir, "agent")), FALLBACK_DIRECTORY


@functools.cache
def _bootstrap() -> str:
    """`bootstrap.py` as a Python expression of letters and digits: no shell, not even csh, finds anything to expand."""
    packed = base64.b64encode(zlib.compress((_PACKAGE / "hosts" / "bootstrap.py").read_bytes(), 9)).decode()
    return f'import base64,zlib;exec(zlib.decompress(base64.b64decode("{packed}")))'


def command(prefix: Sequence[str], state_dir: str, arguments: Sequence[str]) -> str:
    """The command line that starts the agent on a host, for the user's login shell.

    Args:
        prefix: How to become root (`sudo -n --`).
        state_dir: The host's state directory.
        arguments: The agent's own. No secret is among them: other users see command lines.
    """
    made = bundle()
    start = ["python3", "-I", "-S", "-c", _bootstrap(), made.digest, str(len(made.data)), *directories(state_dir)]
    # `exec`, so that the exit status is the agent's and not a shell's.
    return "exec " + shlex.join([*prefix, *start, *arguments])
