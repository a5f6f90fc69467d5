"""`__main__` of the agent's file: runs the agent from what this Python made of its modules at the first start.

Python keeps what it compiled of a module in a file, but not of one in a zip, and compiling takes longer than all else
that an agent does before it greets. So it is kept here, beside the zip, for this Python and no other.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import sys
import zlib
from importlib.machinery import ModuleSpec
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_DIGEST_BYTES = len(MAGIC_NUMBER) + 4
Codes = dict[str, CodeType]  # by the path in the zip


class Finder:
    """Finds the agent's modules among what is compiled, as if they came from the zip.

    Args:
        file: The zip.
        codes: What is compiled, by the path in the zip.
    """

    def __init__(self, file: Path, codes: Codes) -> None:
        self._file, self._codes = file, codes

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        """Asked by `import`."""
        stem = name.replace(".", "/")
        for path in (stem + ".py", stem + "/__init__.py"):
            if path in self._codes:
                spec = ModuleSpec(name, self, origin=path, is_package=path != stem + ".py")  # type: ignore[arg-type]
                spec.loader_state = path
                return spec
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Asked next: a module as any other."""

    def exec_module(self, module: ModuleType) -> None:
        """Asked last."""
        path = module.__spec__.loader_state if module.__spec__ else ""
        module.__file__ = str(self._file / path)
        exec(self._codes[path], module.__dict__)  # noqa: S102 - what `import` does


def kept_of(file: Path) -> Path:
    """Where the compiled modules are kept."""
    return file.with_suffix(".compiled")


def compiled(file: Path) -> Codes | None:
    """The modules of the zip as an earlier start compiled them; None where this Python has none that are whole."""
    with contextlib.suppress(OSError):
        found = kept_of(file).read_bytes()
        digest, data = found[:_DIGEST_BYTES], found[_DIGEST_BYTES:]
        if digest == _digest(data):
            codes: Codes = marshal.loads(data)  # noqa: S302 - only root can write there
            return codes
    return None


def _digest(data: bytes) -> bytes:
    """Of what this Python can run; another's does not have it. It finds accidents: only root can write there."""
    return MAGIC_NUMBER + zlib.crc32(data).to_bytes(4, "big")


def compile_all(file: Path) -> Codes:
    """Compile the modules of the zip."""
    from zipfile import ZipFile  # noqa: PLC0415 - for the first start alone

    with ZipFile(file) as archive:
        names = [name for name in archive.namelist() if "/" in name]
        return {name: compile(archive.read(name), str(file / name), "exec") for name in names}


def keep(path: Path, codes: Codes) -> None:
    """Keep the compiled modules. They are not synced: what a crash leaves of them has another digest.

    Raises:
        OSError: They can't be written.
    """
    from hostnet.agent.linux import files  # noqa: PLC0415 - the finder has to be there before

    data = marshal.dumps(codes)
    files.write(path, _digest(data) + data, 0o600, sync=False)


def start(file: Path) -> None:
    """Have `import` find the agent's modules compiled, from now on in the next start too."""
    codes = compiled(file)
    fresh = compile_all(file) if codes is None else {}
    sys.meta_path.insert(0, Finder(file, codes or fresh))
    if fresh:
        with contextlib.suppress(OSError):  # the disk is full or can't be written: the next start compiles again
            keep(kept_of(file), fresh)


if __name__ == "__main__":
    start(Path(sys.argv[0]))
    gc.disable()
    from hostnet.agent.main import main

    gc.freeze()  # all that is here by now stays
    gc.enable()
    sys.exit(main())
