"""The packet cases: a refused sender reaches others, and the README names cases and tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.lab.cases import _PROBE, CASES, Case, load

REFUSED = ("blocked", "refused", "silent")


def senders_of(case: Case) -> tuple[list[tuple[str, str]], set[str]]:
    """The refusals as (line, sender), and the senders that reach somebody."""
    refusals, senders = [], set()
    for line in (*case.probes, *(line for step in case.after for line in step.get("probes", ()))):
        found = _PROBE.fullmatch(line)
        assert found, line
        if found["result"] in REFUSED:
            refusals.append((line, found["who"]))
        else:
            senders.add(found["who"])
    return refusals, senders


@pytest.mark.parametrize("case", [*load("reachability"), *load("uplinks")], ids=lambda case: case.name)
def test_a_refused_sender_reaches_somebody_else(case: Case) -> None:
    """Otherwise the sender's own network could be broken."""
    refusals, senders = senders_of(case)
    assert not [line for line, who in refusals if who not in senders]


def test_the_named_cases_and_tests_exist() -> None:
    """tests/cases/README.md names the proof of each promise."""
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
