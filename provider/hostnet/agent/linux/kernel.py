"""What the agent asks of the kernel and of nftables: the seams at which tests put the fakes of `hostnet.fakes`.

`rtnetlink.LinuxKernel` and `libnftables.Nft` answer on a host. Whoever implements one of these holds no decisions:
those are in the rooms above, and run on the fakes as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from hostnet.agent.linux.conntrack import Flows
from hostnet.agent.linux.operations import Operation
from hostnet.agent.linux.snapshot import Policy, Snapshot


class Kernel(Protocol):
    """One network namespace."""

    def snapshot(self) -> Snapshot:
        """All that plans and views need, at this moment."""

    def glimpse(self, names: Iterable[str]) -> Snapshot:
        """These links and what they are ports of, without addresses.

        Default routes are in it only where they go through these links.
        """

    def proxies(self) -> set[tuple[str, str]]:
        """The addresses that the host answers for on behalf of others: link and address."""

    def policy(self) -> Policy:
        """The routing rules, and the routes of all tables, at this moment."""

    def sysctl(self, name: str) -> str | None:
        """The value of a sysctl; None where there is none of this name.

        Args:
            name: As `net.ipv4.ip_forward`; in an interface's part `/` stands for its dots, as in sysctl(8).
        """

    def perform(self, operation: Operation) -> None:
        """Perform one operation.

        Raises:
            OSError: The kernel refuses, with its errno.
            LookupError: The host has no such user or group.
        """

    def forget(self, flows: Iterable[Flows], is_local: Callable[[str], bool]) -> int:
        """Delete tracked flows, so that their next packet is looked up again; returns how many there were.

        Args:
            flows: Which.
            is_local: Whether an address is the host's own.
        """

    def traffic(self) -> dict[str, tuple[int, int]]:
        """The bytes that each interface has received and sent."""

    def listening(self, protocol: str, family: str) -> set[int]:
        """The ports on which a program of the host listens.

        Args:
            protocol: "tcp" or "udp"; none is known of others.
            family: "ipv4" or "ipv6"; a socket of IPv6 may take connections of IPv4 as well.
        """

    def bindable(self, protocol: str, address: str, port: int, *, shared: bool = False) -> bool:
        """Whether a server could have a port of an address now.

        Args:
            protocol: "tcp" or "udp".
            address: An address, which need not be the host's yet; 0.0.0.0 for all.
            port: The port.
            shared: The server shares the port with servers that allow it.
        """


class RawElement(NamedTuple):
    """An element of a set or map as the kernel has it.

    Attributes:
        key: The fields of its key, each filled up to four bytes where there are several.
        value: The same of a map's value.
        comment: What nft shows as its comment.
        last: The highest key of a range; b"" where there is one key alone.
        counter: The packets and bytes that it counted; None where it does not count.
        rate: The bytes a second above which it matches; None where it has no limit.
        expires: The seconds that it stays; None where it stays for good.
    """

    key: bytes
    value: bytes = b""
    comment: str = ""
    last: bytes = b""
    counter: tuple[int, int] | None = None
    rate: int | None = None
    expires: int | None = None


class RawTable(NamedTuple):
    """A table as the kernel has it.

    Attributes:
        rules: A print of its chains and rules.
        sets: The elements of its sets and maps by name.
        chains: Those that were asked for apart from the print: by name, the rules as nft writes them.
        bases: The names of its base chains.
    """

    rules: str
    sets: Mapping[str, Sequence[RawElement]]
    chains: Mapping[str, Sequence[str]] = MappingProxyType({})
    bases: Sequence[str] = ()


class TableHead(NamedTuple):
    """What the kernel says of a table without a look at what is in it.

    Attributes:
        owned: Whether a program owns it.
        comment: What nft shows as its comment.
    """

    owned: bool = False
    comment: str = ""


@dataclass(frozen=True)
class RawChange:
    """What a batch deletes from one set or map, and what it adds.

    Attributes:
        table: Family and name, as in nft's language.
        name: Of the set.
        removed: The keys to delete, before anything is added to any set.
        added: The elements to add.
    """

    table: str
    name: str
    removed: Sequence[bytes] = ()
    added: Sequence[RawElement] = ()


class Nftables(Protocol):
    """nftables in one network namespace."""

    def run(self, batch: str) -> None:
        """Apply a batch of nft commands, all or none.

        Raises:
            NftError: nft or the kernel refuses the batch; nothing has changed.
            MissingLibraryError: libnftables is not installed.
        """

    def change(self, changes: Sequence[RawChange], batch: Callable[[], str]) -> None:
        """Apply a batch of elements alone, all or none; for sets without `interval` and `limit`.

        Args:
            changes: What changes, a set at a time.
            batch: The same as nft commands.

        Raises:
            NftError: As of `run`.
        """

    def dry_run(self, *, on: bool) -> None:
        """Whether batches are only checked, as by `nft -c`."""

    def table(self, table: str, *, elements: bool = True, apart: str = "") -> RawTable | None:
        """A table; None where there is none.

        Args:
            table: Family and name, as in nft's language.
            elements: Whether those of its sets are wanted.
            apart: Chains whose names begin so are not in the print; "": every chain is in it.
        """

    def set_elements(self, table: str, name: str) -> Sequence[RawElement]:
        """The elements of a set; none where there is no such set.

        Args:
            table: Family and name of its table.
            name: Its name.
        """

    def list(self, command: str, *, terse: bool = False) -> list[dict[str, Any]]:
        """What `nft -j <command>` lists.

        Args:
            command: A command that lists.
            terse: Leave out the elements of sets, whose number then costs no time.

        Raises:
            NftError: Also where the object does not exist.
            MissingLibraryError: libnftables is not installed.
        """

    def lines(self, command: str) -> Sequence[str]:
        """What `nft <command>` prints; raises as `list` does."""

    def generation(self) -> int:
        """The number that the kernel raises with each change of nftables in this namespace, by any program.

        One small message instead of a listing, which reads every element: while the number is the same, so is all.
        """

    def tables(self) -> dict[tuple[str, str], TableHead]:
        """By family (of `inet`, `ip`, `ip6`) and name, the tables.

        Asked without libnftables: most hosts have no other table than ours. None where the kernel has no nftables.
        """

    def xt_comments(self, family: str, table: str, chain: str) -> dict[int, str]:
        """By handle, the comments that iptables-nft wrote: an extension's own data, which nft does not show."""
