"""Which resources may still release, in this run, what another one asks for: the engine may send them one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.requests import Change, View
from hostnet.wire.urn import Urn, owner_key

# Of how many resources a change may want something: a range of ports that single forwards have.
_HOLDERS = 1000


class Turns:
    """Of one run.

    The agent refuses a change that asks for what another resource has, and names it. Where that is a resource of the
    same stack of which the engine has not said yet what becomes of it, the change is sent again, and waits on the host
    (`agent/plan/exchange.py`): the engine deletes last, and with `--parallel 1` asks for no change before it has the
    answer to the one before.
    """

    def __init__(self) -> None:
        self._kept: set[str] = set()  # what has had its turn
        self._named: set[str] = set()
        self._awaited: dict[str, HostnetError] = {}  # by what is waited for, why a change waits

    def named(self, urn: str) -> None:
        """Take down that the engine's state has a resource."""
        self._named.add(urn)

    def over(self, urn: str, identifier: str) -> None:
        """Take down that a resource has had its turn: it stays as it is now."""
        self._kept.add(owner_key(urn, identifier))

    def unchanged(self, urn: str, identifier: str) -> None:
        """The same of a resource that does not change in this run.

        Raises:
            HostnetError: Another resource waits for what this one has.
        """
        self.over(urn, identifier)
        error = self._awaited.pop(owner_key(urn, identifier), None)
        if error is not None:
            raise error

    async def take(self, change: Change, ask: Callable[[Change], Awaitable[View]]) -> View:
        """Ask for a change; where it may wait for others, it does.

        Args:
            change: The change.
            ask: Asks the host.

        Raises:
            HostnetError: It can't be done.
        """
        while True:
            try:
                return await ask(change)
            except HostnetError as error:
                holder = error.holder
                if error.code is not Code.CONFLICT or not self._may_go(holder, change):
                    raise
                self._awaited[holder] = _in_vain(change, error)
                change = replace(change, awaits=(*change.awaits, holder))

    def forget(self) -> None:
        """Forget all: another run begins."""
        self._kept.clear()
        self._named.clear()
        self._awaited.clear()

    def _may_go(self, holder: str, change: Change) -> bool:
        urn, mine = Urn.parse(holder), Urn.parse(change.urn)
        if not change.known and change.urn not in self._named and urn.type == mine.type:
            return False  # it may be the same resource, which `pulumi up --replace` creates again under an alias
        known = not holder or holder in self._kept or holder in change.awaits or len(change.awaits) >= _HOLDERS
        return not known and bool(urn.stack) and urn.is_in_stack_of(mine)


def _in_vain(change: Change, error: HostnetError) -> HostnetError:
    """The error about a change that waits, where no resource releases what it waits for."""
    urn = Urn.parse(change.urn)
    what = f"{urn.kind} {urn.name} asks for what another resource keeps: {error.what}"
    return HostnetError(error.code, what, error.why, error.fix, error.host, holder=error.holder)
