"""The packet cases of tests/cases/reachability are fair: what is refused is refused on a way that works."""

from __future__ import annotations

import pytest

from tests.lab.cases import _PROBE, Case, load

REFUSED = ("blocked", "refused", "silent")


def ways(case: Case) -> tuple[list[tuple[str, str]], set[str]]:
    """The refusals as (line, who), and who gets through to somebody."""
    refusals, senders = [], set()
    for line in (*case.probes, *(line for step in case.after for line in step.get("probes", ()))):
        found = _PROBE.fullmatch(line)
        assert found, line
        if found["result"] in REFUSED:
            refusals.append((line, found["who"]))
        else:
            senders.add(found["who"])
    return refusals, senders


@pytest.mark.parametrize("case", load("reachability"), ids=lambda case: case.name)
def test_who_is_refused_gets_through_elsewhere(case: Case) -> None:
    """Else the sender's own way could be broken."""
    refusals, senders = ways(case)
    assert not [line for line, who in refusals if who not in senders]
