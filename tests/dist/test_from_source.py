"""The checkout as a plugin, as `pulumi package add PATH` uses it, with the oldest versions that pyproject.toml allows.

The language host makes the plugin's virtual environment from requirements.txt and runs __main__.py: the official one
where the machine has it, else this checkout's stand-in.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection
from pathlib import Path

import pytest
from hostnet.resources.examples import example
from hostnet.resources.package_schema import GO_MODULE

from tests.dist.conftest import User
from tests.dist.test_users import as_typed, connection
from tools.dist.plugin import COMMAND_LINE
from tools.dist.sources import place, tracked
from tools.paths import CHECKOUT

pytestmark = pytest.mark.xdist_group("dist")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, whose plugin requires the lower bounds."""
    folder = tmp_path / "checkout"
    place(folder, tracked("provider", "PulumiPlugin.yaml", "requirements.txt", "__main__.py"))
    requirements = folder / "requirements.txt"
    requirements.write_text(re.sub(">=", "==", requirements.read_text()))
    return folder


def oldest(names: Collection[str]) -> list[str]:
    """Dependencies of pyproject.toml, in the oldest version that it allows."""
    wanted = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [each.replace(">=", "==") for each in wanted if re.split(r"\W", each)[0] in names]


def test_a_checkout_is_a_plugin(user: User, checkout: Path) -> None:
    """Pulumi installs it, gets its schema, and makes, compares and removes a network with it; the rest imports."""
    schema = user.run("pulumi", "package", "get-schema", checkout)
    assert json.loads(schema) == json.loads((CHECKOUT / "schema.json").read_text())
    python = checkout / ".venv-plugin" / "bin" / "python"
    versions = user.run(python, "-m", "pip", "list", "--format", "freeze").split()
    assert {"asyncssh==2.14.2", "grpcio==1.62.0", "protobuf==4.25.0"} <= {*versions}
    assert not [each for each in versions if each.startswith("rich==")]
    plugin = json.dumps({"providers": [{"name": "hostnet", "path": str(checkout)}]})
    program = example("PortForward", "yaml", GO_MODULE)
    (user.folder / "Pulumi.yaml").write_text(f"name: source\nruntime: yaml\nplugins: {plugin}\n{program}")
    reported = as_typed(user, "--config", connection(user))
    assert (reported["made"], reported["again"]) == ({"create": 4}, {"same": 4})
    imports = "import hostnet.hosts.ssh, hostnet.cli, hostnet.rpc.servicer"
    user.run(python, "-m", "pip", "install", "--quiet", *oldest(COMMAND_LINE))
    user.run("env", f"PYTHONPATH={checkout / 'provider'}", python, "-W", "ignore", "-c", imports)
