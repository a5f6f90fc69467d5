"""Fixtures of all tests: one laboratory a worker, whichever folders' tests it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

# Hypothesis fails an example that takes longer than 200 ms, which on a busy machine any may.
hypothesis.settings.register_profile("hostnet", deadline=None)
hypothesis.settings.load_profile("hostnet")

# A fork in a laboratory's thread (an agent inside the test process forks hostnet-confirm) would have gRPC start its
# threads again from there, in that thread's namespace, and no later test reached its plugin (grpcio 1.85).
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

# Agents compare what they keep up with what a new one would make of the record, after each transaction.
os.environ["HOSTNET_SELF_CHECK"] = "1"

# Beside a load of 8 an agent was not heard of for 3 s, after which a preview gives up (2 cores).
os.environ["HOSTNET_PREVIEW_SECONDS"] = "20"

# Before it is imported: its assertions speak for the cases.
pytest.register_assert_rewrite("tests.lab.cases", "tests.lab.namespaces", "tests.lab.lab", "tests.lab.faults")

from hostnet.agent.transaction.host import Host  # noqa: E402

from tests.lab.lab import Lab  # noqa: E402

Host.self_checks = True  # of agents inside the tests' process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what has to stay together on one worker, and so takes longest; the other workers do the rest meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def laboratory() -> Iterator[Lab]:
    """The worker's laboratory of namespaces with real packets."""
    if os.geteuid() != 0:
        pytest.skip("kernel tests need root: they make network namespaces")
    with Lab() as lab:
        yield lab
