"""How DHCP answers get whole checksums by tc's action `csum`, which the kernel under the tests may lack.

A stand-in for `tc` keeps its arguments in files and refuses what a kernel would. What is not shown here is that the
kernel's action fills in what it should: tests/netns/test_dhcp.py reads the answers off the wire, by whichever way the
kernel has.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hostnet.agent.dhcp import checksums
from hostnet.agent.dhcp.checksums import OFFLOAD, TC, TC_ALONE

_TC = """#!/bin/sh
# Keeps the qdisc and the filters of one link as files of the folder that it is in.
here=$(dirname "$0")
echo "$*" >>"$here/said"
case $1-$2 in
  qdisc-add) [ ! -e "$here/clsact" ] && : >"$here/clsact" ;;
  qdisc-delete) rm -r "$here/clsact" "$here"/filter-* 2>/dev/null; true ;;
  filter-add) [ -e "$here/csum" ] && [ -e "$here/clsact" ] && echo "$*" >"$here/filter-$5" ;;
  filter-delete) rm "$here/filter-$5" 2>/dev/null ;;
  filter-show) cat "$here/filter-$5" 2>/dev/null; true ;;
esac
"""


class Link:
    """A link with what a kernel keeps of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is set up."""
        self.folder, self.offload = folder, True
        (folder / "tc").write_text(_TC)
        (folder / "tc").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        monkeypatch.setattr(checksums, "_offload", self._offload)

    def _offload(self, bridge: str, *, on: bool | None = None) -> bool:
        assert bridge == "br0"
        self.offload = self.offload if on is None else on
        return self.offload

    def has(self, *names: str) -> None:
        """Put files there: `csum` (the kernel's action), `clsact`, `filter-egress`, `filter-ingress`."""
        for name in names:
            (self.folder / name).write_text("another program's\n" if name.startswith("filter") else "")

    @property
    def there(self) -> set[str]:
        """The qdisc and the filters."""
        return {path.name for path in self.folder.iterdir()} - {"tc", "said", "csum"}

    @property
    def filter(self) -> str:
        """The filter on the way out."""
        return (self.folder / "filter-egress").read_text()


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Link:
    """One with nothing on it."""
    return Link(tmp_path, monkeypatch)


def test_a_filter_of_dhcps_answers_alone(link: Link) -> None:
    """From port 67 to port 68, on the way out; offload stays on, and all goes again."""
    link.has("csum")
    assert checksums.complete("br0") == TC_ALONE
    assert link.there == {"clsact", "filter-egress"}
    assert "match ip sport 67 0xffff match ip dport 68 0xffff action csum udp" in link.filter
    assert link.offload
    assert checksums.is_complete("br0", TC_ALONE)
    checksums.restore("br0", TC_ALONE)
    assert link.there == set()
    assert not checksums.is_complete("br0", TC_ALONE)


def test_a_queueing_discipline_of_another_program_stays(link: Link) -> None:
    """It was there before, so it is there afterwards."""
    link.has("csum", "clsact")
    assert checksums.complete("br0") == TC
    assert "csum" in link.filter
    checksums.restore("br0", TC)
    assert link.there == {"clsact"}


def test_the_filter_of_another_program_keeps_our_queueing_discipline(link: Link) -> None:
    """Where another program uses the queueing discipline that we made, it stays."""
    link.has("csum")
    assert checksums.complete("br0") == TC_ALONE
    link.has("filter-ingress")
    checksums.restore("br0", TC_ALONE)
    assert link.there == {"clsact", "filter-ingress"}


def test_a_second_time_replaces_the_first(link: Link) -> None:
    """A server that is started again does not add a filter each time."""
    link.has("csum")
    assert checksums.complete("br0") == TC_ALONE
    assert checksums.complete("br0", TC_ALONE) == TC_ALONE
    said = (link.folder / "said").read_text()
    assert said.count("filter add") == said.count("filter delete") == 2
    checksums.restore("br0", TC_ALONE)
    assert link.there == set()


@pytest.mark.parametrize("clsact", [False, True])
def test_a_kernel_without_the_action(link: Link, *, clsact: bool) -> None:
    """Nothing of the attempt stays, and the bridge computes its checksums itself."""
    if clsact:
        link.has("clsact")
    assert checksums.complete("br0") == OFFLOAD
    assert link.there == ({"clsact"} if clsact else set())
    assert not link.offload
    assert checksums.complete("br0", OFFLOAD) == OFFLOAD
    assert checksums.is_complete("br0", OFFLOAD)
    link.offload = True
    assert not checksums.is_complete("br0", OFFLOAD)
    checksums.restore("br0", OFFLOAD)
    assert link.offload


def test_a_host_without_tc(link: Link) -> None:
    """Likewise; and where the bridge computes them already, nothing is done, and nothing undone."""
    (link.folder / "tc").unlink()
    link.offload = False
    assert checksums.complete("br0") == ""
    assert checksums.is_complete("br0", "")
    checksums.restore("br0", "")
    assert not link.offload
    link.offload = True
    assert checksums.complete("br0") == OFFLOAD
