"""The packet cases: what is refused is refused on a way that works, and what must be shown is shown by name."""

from __future__ import annotations

import re

import pytest

from tests.lab.cases import _PROBE, CASES, Case, load

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


def test_what_must_be_shown_is() -> None:
    """Every case and test that tests/cases/README.md names is there."""
    tests = CASES.parent
    names = re.findall(r"`((?:[\w/]+\.py::[\w*]+)|(?:\w+/\w+: [^`]+))`", (CASES / "README.md").read_text())
    assert len(names) > 80
    missing = []
    for name in names:
        where, separator, what = name.partition("::") if "::" in name else name.partition(": ")
        path = tests / where if separator == "::" else CASES / f"{where}.json"
        text = path.read_text() if path.exists() else ""
        wanted = f'"name": "{what}"' if separator == ": " else "def test_" if what == "*" else f"def {what}("
        if wanted not in text:
            missing.append(name)
    assert not missing
