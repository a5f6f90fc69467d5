"""nftables: libnftables through ctypes, and what netlink answers without it.

A batch through a context that is kept open takes 0.13 to 0.4 ms, one through a process `nft` 4 ms. The Debian package
python3-nftables belongs to the system's own Python; this needs the library alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostnet.agent.linux import files, netlink

_SONAME = "libnftables.so.1"
_PROGRAMS = ("/usr/sbin", "/sbin", "/run/current-system/sw/bin")  # where PATH may not lead
_NFT_CTX_OUTPUT_JSON = 1 << 4
_NFT_CTX_OUTPUT_TERSE = 1 << 11
# Numbers, since the names are those of /etc/protocols, which a small system lacks (Debian: the package netbase).
_NFT_CTX_OUTPUT_NUMERIC_PROTO = 1 << 7
# NFT_CTX_OUTPUT_{NUMERIC_PRIO,NUMERIC_SYMBOL,NUMERIC_TIME} are off: the names are what we write.

# linux/netfilter/nf_tables.h, linux/netfilter/nf_tables_compat.h; the subsystem is NFNL_SUBSYS_NFTABLES
_SUBSYSTEM = 10 << 8
_NFT_MSG_GETTABLE, _NFT_MSG_GETRULE, _NFT_MSG_GETGEN = _SUBSYSTEM | 1, _SUBSYSTEM | 7, _SUBSYSTEM | 16
_NFGENMSG = 4  # bytes in front of the attributes
_NFTA_GEN_ID = 1
_NFTA_TABLE_NAME, _NFTA_TABLE_FLAGS, _NFT_TABLE_F_OWNER = 1, 2, 0x2
_NFTA_RULE_TABLE, _NFTA_RULE_CHAIN, _NFTA_RULE_HANDLE, _NFTA_RULE_EXPRESSIONS = 1, 2, 3, 4
_NFTA_EXPR_DATA, _NFTA_MATCH_NAME, _NFTA_MATCH_INFO = 2, 1, 3
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}


class NftError(Exception):
    """libnftables, or the kernel, refuses a batch: its message."""


class MissingLibraryError(Exception):
    """libnftables is not on this machine."""


def library() -> ctypes.CDLL:
    """Load libnftables from where the linker looks, or else from beside the program `nft`, as in Nix's store.

    Raises:
        MissingLibraryError: It is in neither place.
    """
    try:
        return ctypes.CDLL(_SONAME)
    except OSError as error:
        missing = str(error)
    program = files.which("nft", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_PROGRAMS)))
    beside = Path(os.path.realpath(program or "")).parent.parent / "lib" / _SONAME
    if program is None or not beside.exists():
        raise MissingLibraryError(missing)
    return ctypes.CDLL(str(beside))


class Nft:
    """nftables in the network namespace of the thread that first uses it. Implements `kernel.Nftables`.

    The library is loaded, and the netlink socket opened, when something first needs it: where no resource needs NAT,
    a host without libnftables is fine.
    """

    def __init__(self) -> None:
        self._context: _Context | None = None
        self._netlink: netlink.Netlink | None = None

    # --- through libnftables ---------------------------------------------------------------------------------------

    def run(self, batch: str) -> None:
        """Apply a batch of nft commands, all or none."""
        self._library.run(batch, 0)

    def dry_run(self, *, on: bool) -> None:
        """Whether batches are only checked."""
        self._library.dry_run(on=on)

    def list(self, command: str, *, terse: bool = False) -> list[dict[str, Any]]:
        """What `nft -j <command>` lists."""
        flags = _NFT_CTX_OUTPUT_JSON | _NFT_CTX_OUTPUT_NUMERIC_PROTO | (_NFT_CTX_OUTPUT_TERSE if terse else 0)
        output = self._library.run(command, flags)
        listed: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return listed

    def lines(self, command: str) -> Sequence[str]:
        """What `nft <command>` prints."""
        return self._library.run(command, 0).decode(errors="replace").splitlines()

    @property
    def _library(self) -> _Context:
        if self._context is None:
            self._context = _Context()
        return self._context

    # --- through netlink -------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """The number of the last change of nftables in this namespace."""
        answer = self._connection.ask(_NFT_MSG_GETGEN, struct.pack("=BBH", 0, 0, 0))
        return int.from_bytes(netlink.attributes(answer.body[_NFGENMSG:])[_NFTA_GEN_ID], "big")

    def tables(self) -> dict[tuple[str, str], bool]:
        """By family and name, the tables of IP, and whether a program owns each."""
        try:
            messages = self._connection.dump(_NFT_MSG_GETTABLE, b"\0" * _NFGENMSG)
        except OSError:
            return {}  # a kernel without nftables
        found = {}
        for message in messages:
            family = _FAMILIES.get(message.body[0])
            seen = netlink.attributes(message.body[_NFGENMSG:])
            if family is not None:
                flags = int.from_bytes(seen.get(_NFTA_TABLE_FLAGS, b"\0"), "big")
                found[family, netlink.text(seen[_NFTA_TABLE_NAME])] = bool(flags & _NFT_TABLE_F_OWNER)
        return found

    def xt_comments(self, family: str, table: str, chain: str) -> dict[int, str]:
        """By handle, the comments that iptables-nft wrote in a chain."""
        number = next(key for key, value in _FAMILIES.items() if value == family)
        request = struct.pack("=BBH", number, 0, 0)
        request += netlink.attribute(_NFTA_RULE_TABLE, table) + netlink.attribute(_NFTA_RULE_CHAIN, chain)
        found = {}
        for message in self._connection.dump(_NFT_MSG_GETRULE, request):
            seen = netlink.attributes(message.body[_NFGENMSG:])
            if netlink.text(seen[_NFTA_RULE_TABLE]) != table or netlink.text(seen[_NFTA_RULE_CHAIN]) != chain:
                continue  # kernels before 3.18 don't filter
            for _, expression in netlink.each_attribute(seen.get(_NFTA_RULE_EXPRESSIONS, b"")):
                data = netlink.attributes(netlink.attributes(expression).get(_NFTA_EXPR_DATA, b""))
                if netlink.text(data.get(_NFTA_MATCH_NAME, b"")) == "comment":
                    handle = int.from_bytes(seen[_NFTA_RULE_HANDLE], "big")
                    found[handle] = netlink.text(data[_NFTA_MATCH_INFO])
        return found

    @property
    def _connection(self) -> netlink.Netlink:
        if self._netlink is None:
            self._netlink = netlink.Netlink(netlink.NETLINK_NETFILTER)
        return self._netlink


class _Context:
    """A libnftables context. It is kept: to close one after a delete takes 9 to 14 ms (nftables 1.0.6)."""

    def __init__(self) -> None:
        self._lib = lib = library()
        # Without these types ctypes takes a pointer for an int, and cuts it to 32 bits.
        lib.nft_ctx_new.restype = ctypes.c_void_p
        lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, name).restype = ctypes.c_char_p
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        lib.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._context = lib.nft_ctx_new(0)
        lib.nft_ctx_buffer_output(self._context)
        lib.nft_ctx_buffer_error(self._context)

    def dry_run(self, *, on: bool) -> None:
        self._lib.nft_ctx_set_dry_run(self._context, on)

    def run(self, batch: str, flags: int) -> bytes:
        self._lib.nft_ctx_output_set_flags(self._context, flags)
        failed = self._lib.nft_run_cmd_from_buffer(self._context, batch.encode())
        # Both buffers are read after each command: what is not read stays, before the next one's output (1.0.6).
        output = self._lib.nft_ctx_get_output_buffer(self._context)
        said = self._lib.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise NftError((said or b"nft failed without a message").decode(errors="replace").strip())
        return bytes(output)
