"""The agent's file: the same for the same sources, and nothing that a bare Python lacks in it."""

from __future__ import annotations

import hashlib
import io
import marshal
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import hostnet
import pytest
from hostnet.agent.__main__ import compiled, keep
from hostnet.agent.bundle import bundle, command
from hostnet.agent.linux.install_hints import advice


def built(package: Path, environ: dict[str, str]) -> str:
    """The digest as another process has it, of another copy of the package."""
    code = "from hostnet.agent import bundle; print(bundle.__file__, bundle.bundle().digest)"
    environ = {"PYTHONPATH": str(package.parent), **environ}
    done = subprocess.run([sys.executable, "-c", code], env=environ, check=True, capture_output=True, text=True)
    place, digest = done.stdout.split()
    assert place.startswith(str(package))
    return digest


def test_it_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    """Neither the clock, nor hash seeds, nor the place of the checkout get into it."""
    first, second = tmp_path / "first" / "hostnet", tmp_path / "elsewhere" / "hostnet"
    shutil.copytree(hostnet.__path__[0], first, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(first, second, copy_function=shutil.copyfile)
    digest = built(first, {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"})
    assert built(second, {"PYTHONHASHSEED": "2", "HOME": str(tmp_path)}) == digest
    names = zipfile.ZipFile(io.BytesIO(bundle().data)).namelist()
    assert names == sorted(names)
    assert not any(name.startswith("/") or ".." in name for name in names)


def test_it_imports_the_standard_library_only(tmp_path: Path) -> None:
    """Every module of it can be imported from it, by a Python without site-packages."""
    file = tmp_path / "agent.zip"
    file.write_bytes(bundle().data)
    names = [name for name in zipfile.ZipFile(file).namelist() if name != "__main__.py"]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    code = f"import sys; sys.path.insert(0, {str(file)!r})\n" + "\n".join(f"import {name}" for name in modules)
    code += "\nfor name, m in list(sys.modules.items()):\n"
    code += " if name.startswith('hostnet'): assert '.zip' in m.__file__, name\n"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The agent's file, as it lies on a host."""
    made = tmp_path / "0123.zip"
    made.write_bytes(bundle().data)
    return made


def run(file: Path) -> int:
    """Start it; its exit status. What it says it does is all that it is to do."""
    argv = [sys.executable, "-I", "-S", str(file), "--help"]
    return subprocess.run(argv, check=False, capture_output=True).returncode


def test_the_second_start_runs_what_the_first_compiled(file: Path) -> None:
    """Only root can read or change it, as the file itself."""
    assert run(file) == 0
    kept = file.with_suffix(".compiled")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    codes = compiled(file)
    assert codes
    codes["hostnet/agent/main.py"] = compile("def main(): return 7", "main.py", "exec")
    keep(kept, codes)
    assert run(file) == 7
    assert sorted(file.parent.iterdir()) == [kept, file]


@pytest.mark.parametrize("harm", ["half", "other", "another Python's"])
def test_what_is_not_whole_is_compiled_again(file: Path, harm: str) -> None:
    """Nothing of it is run."""
    assert run(file) == 0
    kept = file.with_suffix(".compiled")
    whole = kept.read_bytes()
    data = marshal.dumps({})
    digest = hashlib.sha256(data).digest()  # without the Python's own number
    kept.write_bytes({"half": whole[:1000], "other": whole[:-1] + b"?", "another Python's": digest + data}[harm])
    assert run(file) == 0
    assert kept.read_bytes() == whole


def test_a_place_that_takes_nothing_more(file: Path) -> None:
    """It starts as well, and leaves nothing lying about."""
    file.with_suffix(".compiled").mkdir()
    assert run(file) == 0
    assert sorted(file.parent.iterdir()) == [file.with_suffix(".compiled"), file]


def test_the_command_survives_any_shell() -> None:
    """Nothing in it that a shell could expand, and no line breaks, which csh does not allow in quotes."""
    line = command(["sudo", "-n", "--"], "/var/lib/hostnet", ["--state-dir", "/var/lib/hostnet"])
    assert line.startswith("exec sudo -n -- python3 -I -S -c 'import base64,zlib;")
    assert not set("\n!$`\\") & set(line)
    assert len(line) < 4096


@pytest.mark.parametrize("need", ["python3", "libnftables", "sudo"])
def test_advice_for_an_unknown_distribution(need: str) -> None:
    """All that we know."""
    said = advice(need, "")
    assert all(name in said for name in ("apt-get install", "dnf install", "NixOS"))
