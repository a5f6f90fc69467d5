"""What netlink's lists mean when the kernel changes them while they are read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hostnet.agent.linux import netlink
from hostnet.agent.linux.netlink import NLMSG_DONE, Message, Netlink


class Changing(Netlink):
    """A kernel whose list is another one each time that it is asked, for so many times."""

    def __init__(self, times: int) -> None:
        """Nobody has asked yet."""
        self.asked, self._times = 0, times

    def _send(self, kind: int, body: bytes, flags: int) -> int:
        del kind, body, flags
        self.asked += 1
        return 0

    def _receive(self, sequence: int) -> Iterator[Message]:
        del sequence
        yield Message(16, str(self.asked).encode())
        self._interrupted = self.asked <= self._times
        yield Message(NLMSG_DONE, b"")


def test_a_list_that_changes_is_asked_for_again() -> None:
    """As often as two hundred links that come at once take; what is given is of one moment."""
    kernel = Changing(100)
    assert [message.body for message in kernel.dump(18, b"")] == [b"101"]


def test_a_list_that_keeps_changing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked for without an end."""
    monkeypatch.setattr(netlink, "_PATIENCE", 0.01)
    with pytest.raises(OSError, match="kept changing"):
        Changing(1 << 60).dump(18, b"")
