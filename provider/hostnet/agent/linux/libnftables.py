"""libnftables through ctypes, kept open: one batch costs 0.13 to 0.4 ms where an `nft` process costs 4.

The Debian package python3-nftables belongs to the system's own Python; this needs the library alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostnet.agent.linux import netlink

_SONAME = "libnftables.so.1"
_PROGRAMS = ("/usr/sbin", "/sbin", "/run/current-system/sw/bin")  # where PATH may not lead
_NFT_CTX_OUTPUT_JSON = 1 << 4
_NFT_CTX_OUTPUT_TERSE = 1 << 11
_NFT_MSG_GETGEN = (10 << 8) | 16
_NFTA_GEN_ID = 1
_NFT_CTX_OUTPUT_NUMERIC_PROTO = 1 << 7  # names differ with what the host has of /etc/protocols
# NFT_CTX_OUTPUT_{NUMERIC_PRIO,NUMERIC_SYMBOL,NUMERIC_TIME} are left off: the names are what we write.


class NftError(Exception):
    """What libnftables said of a batch that it or the kernel refused."""


class MissingLibraryError(Exception):
    """libnftables is not on this machine."""


def library() -> ctypes.CDLL:
    """libnftables: where the linker looks, or else beside the `nft` program, as Nix's store has the two.

    :raises MissingLibraryError: it is in neither place.
    """
    try:
        return ctypes.CDLL(_SONAME)
    except OSError as error:
        missing = str(error)
    program = shutil.which("nft", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_PROGRAMS)))
    beside = Path(os.path.realpath(program or "")).parent.parent / "lib" / _SONAME
    if program is None or not beside.exists():
        raise MissingLibraryError(missing)
    return ctypes.CDLL(str(beside))


class Nft:
    """A libnftables context in the network namespace that the process is in."""

    def __init__(self) -> None:
        self._lib = lib = library()
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

    def run(self, batch: str) -> None:
        """Apply a batch of nft commands, all or none.

        :raises NftError: with what nft said.
        """
        self._run(batch, 0)

    def dry_run(self, *, on: bool) -> None:
        """Whether batches are only judged, as by `nft -c`."""
        self._lib.nft_ctx_set_dry_run(self._context, on)

    def list(self, command: str, *, terse: bool = False) -> list[dict[str, Any]]:
        """What `nft -j <command>` lists; terse: without the sets' elements, whose number then costs nothing.

        :raises NftError: where the thing is not there, too.
        """
        flags = _NFT_CTX_OUTPUT_JSON | _NFT_CTX_OUTPUT_NUMERIC_PROTO | (_NFT_CTX_OUTPUT_TERSE if terse else 0)
        output = self._run(command, flags)
        listed: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return listed

    def lines(self, command: str) -> Sequence[str]:
        """What `nft <command>` prints.

        :raises NftError: where the thing is not there, too.
        """
        return self._run(command, 0).decode(errors="replace").splitlines()

    def _run(self, batch: str, flags: int) -> bytes:
        self._lib.nft_ctx_output_set_flags(self._context, flags)
        failed = self._lib.nft_run_cmd_from_buffer(self._context, batch.encode())
        output = self._lib.nft_ctx_get_output_buffer(self._context)
        said = self._lib.nft_ctx_get_error_buffer(self._context)
        if failed:
            raise NftError((said or b"nft failed without a word").decode(errors="replace").strip())
        return bytes(output)


class Generation:
    """The number that the kernel raises with every nftables change in this namespace, by whomever.

    One small message instead of a listing (which reads every element): where the number is as it was, so is the table.
    """

    def __init__(self) -> None:
        self._netlink = netlink.Netlink(netlink.NETLINK_NETFILTER)

    def now(self) -> int:
        """The current number."""
        answer = self._netlink.ask(_NFT_MSG_GETGEN, struct.pack("=BBH", 0, 0, 0))
        return int.from_bytes(netlink.attributes(answer.body[4:])[_NFTA_GEN_ID], "big")
