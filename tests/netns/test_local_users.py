"""Another user of the machine that runs `pulumi`: what it can reach of hostnet, with real processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import Provider, Stack
from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace, Namespaces

NOBODY = 65534
# Everything is imported as root: another user need not be able to read this checkout.
CALLER = """
import os, sys, grpc
from google.protobuf.empty_pb2 import Empty
from hostnet.rpc.protos import provider_pb2, provider_pb2_grpc
from hostnet.rpc.codec import encode
user, port = map(int, sys.argv[1:])
grpc.insecure_channel("127.0.0.1:1").close()  # imports the rest of grpc, which another user may not be able to read
os.setresgid(user, user, user)
os.setresuid(user, user, user)
stub = provider_pb2_grpc.ResourceProviderStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
for call in (
    lambda: stub.GetPluginInfo(Empty(), timeout=60),
    lambda: stub.Configure(provider_pb2.ConfigureRequest(args=encode({"stateDir": "/home/other"})), timeout=60),
):
    try:
        call()
        print("OK")
    except grpc.RpcError as error:
        print(error.code().name)
"""


@pytest.fixture
def place() -> Iterator[Namespace]:
    """A network namespace."""
    namespaces = Namespaces()
    yield namespaces.add("users")
    namespaces.close()


def test_the_plugin_serves_its_own_user_and_root(place: Namespace) -> None:
    """Another user can connect to its port on loopback, but not call it. In a network namespace, as anywhere."""
    plugin: subprocess.Popen[str] = place.call(
        subprocess.Popen,
        [sys.executable, "-m", "hostnet.rpc", "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert plugin.stdout is not None
        port = plugin.stdout.readline().strip()
        said = {user: place.run([sys.executable, "-c", CALLER, str(user), port]).split() for user in (NOBODY, 0)}
    finally:
        plugin.terminate()
        plugin.communicate()
    assert said == {NOBODY: ["PERMISSION_DENIED", "PERMISSION_DENIED"], 0: ["OK", "OK"]}


@pytest.mark.parametrize(
    ("owner", "mode", "below"), [(NOBODY, 0o700, "."), (0, 0o777, "."), (0, 0o777, "state"), (NOBODY, 0o755, "link")]
)
def test_a_state_directory_of_another_user(place: Namespace, tmp_path: Path, owner: int, mode: int, below: str) -> None:
    """Is refused before anything in it is read: what its record says, root's agent would do."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ours.mkdir()
    theirs.mkdir()
    (theirs / "link").symlink_to(ours)
    os.chown(theirs, owner, owner)
    theirs.chmod(mode)
    state = theirs / below
    for task in ("serve", "restore", "watch"):
        command = [sys.executable, "-m", "hostnet.agent.main", task, "--state-dir", str(state)]
        done = place.call(subprocess.run, command, input="", capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"users other than root can write to {theirs}" in done.stdout + done.stderr
    assert [entry.name for entry in theirs.iterdir()] == ["link"]
    assert not list(ours.iterdir())


VARIABLES = ("PULUMI_CONFIG_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "HCLOUD_TOKEN")


def processes(namespace: Namespace) -> set[str]:
    """The numbers of the processes in a network namespace."""
    return set(namespace.run(f"ip netns pids {namespace.name}").split())


def environments(pids: set[str]) -> list[tuple[str, set[str]]]:
    """The program and the names of the variables of each process."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):  # `ip` itself is over
            program = Path(f"/proc/{pid}/comm").read_text().strip()
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            found.append((program, {each.partition("=")[0] for each in variables if each}))
    return found


def test_no_process_keeps_the_environment_of_pulumi(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases and cloud keys stay with `pulumi`: the agent, dnsmasq and the watcher have PATH and LANG."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "a secret")
    before = processes(lab.host)  # an earlier test's provider may have an agent there
    provider = Provider()
    try:
        stack = Stack(provider, lab.host.name)
        net = ("Bridge", {"name": "br-a", "addresses": ["10.0.0.1/24"], "dhcpServer": {}})
        stack.up({"net": net, "vms": ("TapBinding", {"match": "vm-*", "bridge": "br-a"})})
        found = environments(processes(lab.host) - before)
        stack.destroy()
    finally:
        provider.close()
    assert len(found) == 3, found
    assert all(names == {"PATH", "LANG"} for _, names in found), found


TOP = Path(__file__).parents[2]
MODULES = ("hostnet", "asyncio", "json", "grpc", "encodings", "sitecustomize", "argparse")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A directory with modules of the names that hostnet imports. Each leaves a file where it is run."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\n")
    return folder


def test_no_entry_point_imports_from_the_directory_of_a_project(place: Namespace, planted: Path) -> None:
    """The plugin, the command line, and the agent that each of them starts as root."""
    state = planted.parent / "state"
    plugin = subprocess.Popen(
        [TOP / "provider" / "bin" / "pulumi-resource-hostnet", "127.0.0.1:1"],
        cwd=planted,
        env={**os.environ, "PYTHONPATH": str(planted), "PATH": f".:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert plugin.stdout is not None
        assert plugin.stdout.readline().strip().isdigit()
    finally:
        plugin.terminate()
        plugin.communicate()
    command = [
        str(Path(sys.executable).with_name("hostnet")),
        "status",
        "--netns",
        place.name,
        "--state-dir",
        str(state),
    ]
    done = subprocess.run(command, cwd=planted, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = planted.parent / "ran"
    assert not ran.exists(), ran.read_text()
