"""Fixtures of the kernel tests: a host that nothing has touched and a stack a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.driver import Provider, Stack
from tests.lab.lab import Lab


@pytest.fixture
def lab(laboratory: Lab) -> Lab:
    """The laboratory with a host that nothing has touched."""
    laboratory.fresh_host()
    return laboratory


class Providers:
    """The provider of the host as it is now: a new one for a new host, else the one that the last test had."""

    def __init__(self) -> None:
        """None yet."""
        self._host: object = None
        self._provider: Provider | None = None

    def of(self, lab: Lab) -> Provider:
        """The provider for the laboratory's host."""
        if self._provider is None or self._host is not lab.host:
            self.close()
            self._host, self._provider = lab.host, Provider()
        return self._provider

    def close(self) -> None:
        """End it."""
        provider, self._provider = self._provider, None
        if provider is not None:
            provider.close()


@pytest.fixture(scope="session")
def providers(laboratory: Lab) -> Iterator[Providers]:
    """The worker's provider; it ends before the laboratory does."""
    held = Providers()
    yield held
    held.close()


@pytest.fixture
def stack(lab: Lab, providers: Providers) -> Stack:
    """An empty stack on the host."""
    return Stack(providers.of(lab), lab.host.name)
