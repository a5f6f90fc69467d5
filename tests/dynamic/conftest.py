"""Fixtures of the tests of `hostnet.dynamic`: stacks without the plugin, hosts as in the end-to-end tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.dynamic.stacks import DynamicStack
from tests.e2e.stacks import Cli, Host
from tests.lab.namespaces import Namespace, sweep
from tools.paths import VENV


@pytest.fixture(scope="session")
def new_cli(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Cli]:
    """Makes `pulumi`s, each with a home and a backend of its own, and no plugin of ours within reach."""
    if os.geteuid() != 0:
        pytest.skip("these tests need root: they make network namespaces")
    sweep()

    def make() -> Cli:
        cli = Cli(tmp_path_factory.mktemp("dynamic"))
        cli.env["PULUMI_RUNTIME_VIRTUALENV"] = str(VENV)  # the official language host's part; programs here have none
        assert shutil.which("pulumi-resource-hostnet", path=cli.env["PATH"]) is None
        return cli

    return make


@pytest.fixture(scope="session")
def cli(new_cli: Callable[[], Cli]) -> Cli:
    """The worker's `pulumi`."""
    return new_cli()


@pytest.fixture
def new_host(tmp_path: Path, cli: Cli) -> Iterator[Callable[[], Host]]:
    """Makes hosts: namespaces with an uplink `eth0` (192.0.2.2/24, 2001:db8::2/64) and default routes over it."""
    with ExitStack() as stack:

        def make() -> Host:
            number = len(list(tmp_path.iterdir()))
            namespace = Namespace(f"d{number}")
            stack.callback(namespace.delete)
            namespace.sysctl("net.ipv6.conf.default.accept_dad", 0)
            namespace.ip(
                "link add eth0 address 02:00:00:00:00:02 type veth peer name wire address 02:00:00:00:00:01",
                "link set eth0 up",
                "link set wire up",
                "address add 192.0.2.2/24 dev eth0",
                "address add 2001:db8::2/64 dev eth0",
                "route add default via 192.0.2.1",
                "route add ::/0 via 2001:db8::1",
            )
            state = tmp_path / f"state{number}"
            state.mkdir()
            return Host(namespace, state)

        yield make


@pytest.fixture
def host(new_host: Callable[[], Host]) -> Host:
    """A host that nothing has touched."""
    return new_host()


@pytest.fixture
def stack(cli: Cli, host: Host, request: pytest.FixtureRequest) -> DynamicStack:
    """An empty stack for the host, in a project without plugins."""
    return DynamicStack(cli, request.node.name.replace("_", "-")[:40], stateDir=str(host.state_dir))
