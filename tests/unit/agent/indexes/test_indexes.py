"""Collections whose copies share what they have in common."""

from __future__ import annotations

from typing import Any

import pytest
from hostnet.agent.indexes import sharing
from hostnet.agent.indexes.sharing import SharingMap
from hypothesis import given
from hypothesis import strategies as st

# Few keys, and shards that hold several of them (of integers the hash is the number itself).
KEYS = st.sampled_from([0, 1, 16, 17, 32, 256, 512, *range(100, 120)])
STEPS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["put", "drop", "copy"]), KEYS, st.integers(0, 2)))


@pytest.mark.parametrize("most", [0.25, sharing.MOST], ids=["more shards soon", "as it is"])
@given(steps=STEPS)
def test_copies_change_apart_from_each_other(most: float, steps: list[tuple[int, str, int, int]]) -> None:
    """Whatever is put into, dropped from and copied of four maps, each is as a dict that nobody else has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "MOST", most)
        _take(steps)


def _take(steps: list[tuple[int, str, int, int]]) -> None:
    maps: list[SharingMap[int, int]] = [SharingMap() for _ in range(4)]
    dicts: list[dict[int, int]] = [{} for _ in range(4)]
    for which, action, key, value in steps:
        if action == "put":
            maps[which][key] = dicts[which][key] = value
        elif action == "drop":
            assert maps[which].pop(key, None) == dicts[which].pop(key, None)
        else:
            maps[value], dicts[value] = maps[which].copy(), dict(dicts[which])
    for one, two in zip(maps, dicts, strict=True):
        _check(one, two)
        for other, others in zip(maps, dicts, strict=True):
            differ = {key for key in {*two, *others} if two.get(key) != others.get(key)}
            found = list(one.differences(other))
            assert set(found) == differ
            assert len(found) == len(differ)


def _check(one: SharingMap[int, int], two: dict[int, int]) -> None:
    """As a mapping, it is as this dict."""
    nothing: Any = None
    assert dict(one.entries()) == dict(one) == two
    assert len(one) == len(two)
    assert all(one.get(key) == two.get(key, nothing) for key in range(514))
    assert all((key in one) == (key in two) for key in range(514))
