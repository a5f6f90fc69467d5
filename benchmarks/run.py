"""Compare `pulumi up` of many port forwards on hostnet with the same stack on a provider that does nothing, in one run.

`make bench` runs it: `FORWARDS=100 ROUNDS=3` by default. What is left of hostnet's time after the no-op's is what
hostnet itself costs; the last lines are the same forwards given to the bare tool, `nft`. Needs root; works in network
namespaces of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.paths import tool_env

ROOT = Path(__file__).resolve().parent.parent
FORWARDS = int(os.environ.get("FORWARDS", "100"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PROVIDERS = {"hostnet": ROOT / "provider" / "bin", "no-op": ROOT / "benchmarks" / "bin"}
STEPS = {
    "preview": ["preview"],
    "up": ["up", "--yes", "--skip-preview"],
    "up, no change": ["up", "--yes", "--skip-preview"],
    "refresh": ["refresh", "--yes", "--skip-preview"],
    "destroy": ["destroy", "--yes", "--skip-preview"],
}
PROGRAM = f"""
import pulumi_hostnet as hostnet

bridge = hostnet.Bridge("vms", name="vms", addresses=["10.0.0.1/16"])
gateway = hostnet.NatGateway("nat", internal_interfaces=[bridge.name])
for index in range({FORWARDS}):
    hostnet.PortForward(
        f"web-{{index}}",
        nat_gateway=gateway.id,
        source_port=10000 + index,
        destination=f"10.0.{{1 + index // 250}}.{{1 + index % 250}}:80",
    )
"""


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace with an uplink and a default route."""
    commands = [
        f"netns add {name}",
        f"-n {name} link add eth0 type veth peer name outside",
        f"-n {name} addr add 192.0.2.2/24 dev eth0",
        f"-n {name} link set eth0 up",
        f"-n {name} link set outside up",
        f"-n {name} route add default via 192.0.2.1",
    ]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def project(folder: Path, provider: Path, program: str, **config: object) -> dict[str, str]:
    """Write a project with hostnet's configuration, and give the environment to run `pulumi` in."""
    folder.mkdir()
    (folder / "__main__.py").write_text(program)
    (folder / "Pulumi.yaml").write_text(
        f"name: bench\nruntime:\n  name: python\n  options:\n    virtualenv: {ROOT / '.venv'}\n"
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
    """Run it; show what it said only where it failed."""
    command = ["pulumi", *arguments, "--non-interactive"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def timed(action: Callable[[], None]) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def bare_tool(netns: str) -> dict[str, float]:
    """The same elements in a table of the same kind by `nft`: one batch, and one process each."""
    key, value = "ifname . inet_proto . inet_service", "ipv4_addr . inet_service"
    declare = f"add table inet bench\nadd map inet bench m {{ type {key} : {value}; }}"
    elements = [f'"eth0" . tcp . {10000 + i} : 10.0.{1 + i // 250}.{1 + i % 250} . 80' for i in range(FORWARDS)]

    def nft(text: str) -> None:
        subprocess.run(["ip", "netns", "exec", netns, "nft", "-f", "-"], input=text, text=True, check=True)

    nft(declare)
    batch = timed(lambda: nft(f"add element inet bench m {{ {', '.join(elements)} }}"))
    nft("flush map inet bench m")

    def one_by_one() -> None:
        for element in elements:
            nft(f"add element inet bench m {{ {element} }}")

    each = timed(one_by_one)
    nft("delete table inet bench")
    return {"one nft batch": batch, "an nft process each": each}


def main() -> None:
    """Alternate the providers, so that both see the same machine; print medians."""
    times: dict[str, dict[str, list[float]]] = {name: {step: [] for step in STEPS} for name in PROVIDERS}
    with tempfile.TemporaryDirectory() as scratch, namespace(f"bench-{os.getpid()}") as netns:
        ready = {
            name: project(
                Path(scratch, name),
                path,
                PROGRAM,
                connection={"netns": netns},
                stateDir=str(Path(scratch, name, "state")),
            )
            for name, path in PROVIDERS.items()
        }
        for _ in range(ROUNDS):
            for name, environment in ready.items():
                for step, arguments in STEPS.items():
                    folder = Path(scratch, name)
                    times[name][step].append(timed(lambda: pulumi(arguments, folder, environment)))  # noqa: B023
        bare = bare_tool(netns)
    print(f"{FORWARDS} forwards, median of {ROUNDS} rounds, seconds")
    print(f"{'':<16}{'hostnet':>10}{'no-op':>10}{'ours':>10}")
    for step in STEPS:
        ours, nothing = (statistics.median(times[name][step]) for name in PROVIDERS)
        print(f"{step:<16}{ours:>10.2f}{nothing:>10.2f}{ours - nothing:>10.2f}")
    for what, seconds in bare.items():
        print(f"{what:<36}{seconds:>10.3f}")


if __name__ == "__main__":
    main()
