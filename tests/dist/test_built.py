"""What `make dist` builds: which files, that their bytes follow from the checkout, and that their links work."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hostnet import __version__
from hostnet.resources.package_schema import REPOSITORY

from tests.dist.conftest import run
from tools.dist.__main__ import SUMS, digest
from tools.paths import CHECKOUT, tool_env

pytestmark = pytest.mark.xdist_group("dist")


def test_what_is_built(dist: Path) -> None:
    """Wheels, npm package, Go module, an archive of the plugin for each platform, the schema, and their sums."""
    plugins = ("darwin-amd64", "darwin-arm64", "linux-amd64", "linux-arm64", "source")
    assert sorted(path.name for path in dist.iterdir()) == sorted(
        [
            SUMS,
            f"hostnet-{__version__}-py3-none-any.whl",
            f"pulumi_hostnet-{__version__}-py3-none-any.whl",
            f"pulumi-hostnet-{__version__}.tgz",
            f"hostnet-go-v{__version__}.zip",
            "schema.json",
            *(f"pulumi-resource-hostnet-v{__version__}-{platform}.tar.gz" for platform in plugins),
        ]
    )
    run("sha256sum", "--check", "--strict", SUMS, cwd=dist)


def test_built_twice_it_is_the_same(dist: Path, tmp_path: Path) -> None:
    """Every byte, whatever the user's mask, language and time zone are."""
    again = tmp_path / "two"
    command = f"umask 077 && exec {CHECKOUT}/.venv/bin/python -m tools.dist {again}"
    other = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    run("env", *(f"{name}={value}" for name, value in other.items()), "sh", "-c", command, cwd=CHECKOUT)
    assert {path.name: digest(path) for path in again.iterdir()} == {path.name: digest(path) for path in dist.iterdir()}


def test_the_schema_is_one_that_pulumi_accepts(dist: Path) -> None:
    """`pulumi schema check` finds nothing."""
    run("pulumi", "schema", "check", dist / "schema.json", cwd=dist, env=tool_env())


def descriptions(dist: Path) -> list[str]:
    """The documents that package indexes show."""
    texts = []
    for wheel in dist.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
            texts.append(archive.read(name).decode())
    for package in dist.glob("*.tgz"):
        with tarfile.open(package) as archive:
            readme = archive.extractfile("package/README.md")
            assert readme is not None
            texts.append(readme.read().decode())
    return texts


def test_links_of_the_descriptions_resolve(dist: Path) -> None:
    """None is relative, and those into the repository lead to a file that this version has."""
    texts = descriptions(dist)
    assert len(texts) == 3
    for text in texts:
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"^\[[^\]]+\]: (\S+)$", prose, re.MULTILINE)
        assert links
        for link in links:
            assert re.match(r"https?:|#", link), link
            inside = re.fullmatch(rf"{re.escape(REPOSITORY)}/(?:blob|tree)/v{re.escape(__version__)}/([^#]+).*", link)
            assert not link.startswith(f"{REPOSITORY}/") or (inside and (CHECKOUT / inside[1]).exists()), link


def test_the_plugin_for_linux_is_small_and_needs_nothing(dist: Path, tmp_path: Path) -> None:
    """At most 60 MB on the disk; it runs with no environment, and its Python finds no module outside of its folder."""
    with tarfile.open(dist / f"pulumi-resource-hostnet-v{__version__}-linux-amd64.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    licences = {path.name for path in (tmp_path / "python" / "share" / "doc").iterdir()}
    assert licences == {"libpython3.11-minimal", "libexpat1", "libffi8", "zlib1g"}
    megabytes = int(run("du", "-sm", tmp_path, cwd=tmp_path).split()[0])
    assert megabytes <= 60
    program = "import sys, asyncssh, hostnet.rpc.servicer; print(*sys.path, sep='\\n')"
    python = tmp_path / "python" / "bin" / "python3.11"
    paths = run("env", "-i", python, "-I", "-c", program, cwd=Path("/")).splitlines()
    assert [path for path in paths if not path.startswith(str(tmp_path))] == []
    command = ["env", "-i", "PATH=/usr/bin:/bin", str(tmp_path / "pulumi-resource-hostnet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as plugin:
        assert plugin.stdout is not None
        try:
            assert int(plugin.stdout.readline())
        finally:
            plugin.kill()
