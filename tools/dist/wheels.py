"""The wheels `hostnet` (plugin, agent and command line) and `pulumi-hostnet` (the Python SDK)."""

import sys
import tempfile
from pathlib import Path

from hostnet.resources.package_schema import REPOSITORY

from tools.dist.archives import EPOCH, File, rewrite_zip
from tools.dist.sources import PYTHON_README, absolute_links, place, tracked
from tools.steps import run
from tools.venv import CONSTRAINTS

_SDK = "sdk/python/"


def build(target: Path) -> None:
    """Build both into a folder."""
    _wheel(target, _plugin())
    _wheel(target, _sdk())


def _plugin() -> dict[str, File]:
    files = tracked("provider/hostnet", "pyproject.toml", "LICENSE", "README.md")
    files["README.md"] = File(absolute_links(files["README.md"].data.decode()).encode())
    urls = f'\n[project.urls]\nHomepage = "{REPOSITORY}"\nRepository = "{REPOSITORY}"\n'
    files["pyproject.toml"] = File(files["pyproject.toml"].data + urls.encode())
    return files


def _sdk() -> dict[str, File]:
    files = {name.removeprefix(_SDK): file for name, file in tracked(_SDK).items()}
    return {**files, "README.md": File(PYTHON_README.encode()), "LICENSE": tracked("LICENSE")["LICENSE"]}


def _wheel(target: Path, files: dict[str, File]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source, built = Path(temporary, "source"), Path(temporary, "built")
        place(source, files)
        argv = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(built), str(source)]
        env = {
            "PIP_CONSTRAINT": str(CONSTRAINTS),
            "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS),  # from pip 25.3 on, the other one does not hold for builds
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "SOURCE_DATE_EPOCH": str(EPOCH),
        }
        run(argv, "Check that PyPI is reached and try again.", env=env)
        (wheel,) = built.glob("*.whl")
        rewrite_zip(wheel, target / wheel.name)
