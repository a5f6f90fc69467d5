"""Fixtures of the end-to-end tests: a CLI a worker, a host and a stack a test; all goes whatever becomes of it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e.stacks import Cli, Host, Stack
from tests.lab.lab import Lab
from tests.lab.namespaces import Namespace, sweep

_numbers = itertools.count()


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The worker's `pulumi`."""
    if os.geteuid() != 0:
        pytest.skip("end-to-end tests need root: they make network namespaces")
    sweep()
    return Cli(tmp_path_factory.mktemp("pulumi"))


@pytest.fixture
def new_host(cli: Cli, tmp_path: Path) -> Iterator[Callable[[], Host]]:
    """Makes hosts: namespaces with an uplink `eth0` (192.0.2.2/24, 2001:db8::2/64) and default routes over it."""
    with ExitStack() as stack:

        def make() -> Host:
            number = next(_numbers)
            namespace = Namespace(f"e{number}")
            stack.callback(namespace.delete)
            namespace.sysctl("net.ipv6.conf.default.accept_dad", 0)
            namespace.ip(
                "link add eth0 type veth peer name wire",
                "link set eth0 up",
                "link set wire up",
                "address add 192.0.2.2/24 dev eth0",
                "address add 2001:db8::2/64 dev eth0",
                "route add default via 192.0.2.1",
                "route add ::/0 via 2001:db8::1",
            )
            return Host(namespace, tmp_path / f"state{number}")

        yield make


@pytest.fixture
def host(new_host: Callable[[], Host]) -> Host:
    """A host that nothing has touched."""
    return new_host()


@pytest.fixture
def new_stack(cli: Cli) -> Callable[..., Stack]:
    """Makes stacks for a host; what they leave running on it ends with it."""

    def make(host: Host, **config: str) -> Stack:
        return Stack(cli, f"s{next(_numbers)}", stateDir=str(host.state_dir), **config)

    return make


@pytest.fixture
def stack(new_stack: Callable[..., Stack], host: Host) -> Stack:
    """An empty stack for the host."""
    return new_stack(host)


@pytest.fixture
def lab(laboratory: Lab) -> Iterator[Lab]:
    """The laboratory with a host that nothing has touched."""
    laboratory.fresh_host()
    yield laboratory
    with suppress(KeyError):
        laboratory.servers.stop()
