"""Pulumi projects on either provider, run by the real `pulumi`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tools.paths import CHECKOUT, tool_env

STEPS = {
    "preview": ["preview"],
    "up": ["up", "--yes", "--skip-preview"],
    "up, no change": ["up", "--yes", "--skip-preview"],
    "refresh": ["refresh", "--yes", "--skip-preview"],
    "destroy": ["destroy", "--yes", "--skip-preview"],
}


def project(folder: Path, provider: Path, program: str, **config: object) -> dict[str, str]:
    """Write a project, make its stack, and give the environment to run `pulumi` in.

    Args:
        folder: Where it is made.
        provider: The folder with the plugin.
        program: The text of the program.
        config: The provider's configuration.
    """
    folder.mkdir(parents=True)
    (folder / "__main__.py").write_text(program)
    (folder / "Pulumi.yaml").write_text(
        f"name: bench\nruntime:\n  name: python\n  options:\n    virtualenv: {CHECKOUT / '.venv'}\n"
        f"plugins:\n  providers:\n    - name: hostnet\n      path: {provider}\n"
    )
    settings = {f"hostnet:{key}": value for key, value in config.items()}
    (folder / "Pulumi.bench.yaml").write_text(json.dumps({"config": settings}))  # JSON is YAML
    (folder / "backend").mkdir()
    environment = {
        **tool_env(),
        "PULUMI_HOME": str(folder / "home"),
        "PULUMI_BACKEND_URL": (folder / "backend").as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "bench",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }
    pulumi(["stack", "init", "bench"], folder, environment)
    return environment


def pulumi(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run it.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    command = ["pulumi", *arguments, "--non-interactive"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"
        raise RuntimeError(msg)
