"""Is this host ready? The kernel's features are tried in a network namespace that is deleted at once, the rest is read.

Nothing on the host is changed, except that the kernel may load modules that hostnet needs.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hostnet.agent.dhcp.dnsmasq import fills_sets
from hostnet.agent.firewalls.accepts import FORWARD
from hostnet.agent.firewalls.chains import Chain, ChainReader, positions, refusals
from hostnet.agent.lasting.persistence import Places, WatcherState
from hostnet.agent.linux import files, systemd, units
from hostnet.agent.linux import operations as ops
from hostnet.agent.linux.install_hints import advice_here
from hostnet.agent.linux.kernel import Kernel
from hostnet.agent.linux.libnftables import Nft
from hostnet.agent.linux.rtnetlink import LinuxKernel, write_sysctl
from hostnet.agent.linux.snapshot import Snapshot
from hostnet.agent.nft.ruleset import table_text
from hostnet.agent.nft.sysctls import FORWARDING
from hostnet.agent.nft.table import Table
from hostnet.agent.record.netns import CLONE_NEWNET
from hostnet.agent.record.phase import Open
from hostnet.agent.record.record import Record

Check = dict[str, Any]
_OK, _NOTE, _WARN, _FAIL = "ok", "note", "warn", "fail"
_ROOM = 16 << 20  # bytes
_FULL = 0.8
_MODERN = 1_735_689_600  # 2025-01-01: no clock that is right says less
_NAT = (
    "add table inet hostnet-doctor\n"
    "add chain inet hostnet-doctor out { type nat hook postrouting priority srcnat; }\n"
    'add rule inet hostnet-doctor out oifname "lo" masquerade\n'
)
_MAPS = (
    "add table ip hostnet-doctor\n"
    "add map ip hostnet-doctor to { type inet_proto . inet_service : ipv4_addr . inet_service; flags interval; }\n"
    "add element ip hostnet-doctor to { 6 . 80-90 : 192.0.2.1 . 80 }\n"
)
_LIMITS = (
    "add table inet hostnet-doctor\n"
    "add set inet hostnet-doctor rates { type ifname; limit rate over 1 bytes/second burst 1 bytes; }\n"
)


def check(name: str, level: str, found: str, fix: str = "") -> Check:
    """One line of the doctor's.

    Args:
        name: What is checked.
        level: `ok`, `note` (worth knowing), `warn` (something does not work that not all need), `fail`.
        found: What was found.
        fix: The command, or what to do.
    """
    return {"name": name, "level": level, "found": found, "fix": fix}


def doctor(
    record: Record,
    state_dir: Path,
    table: Table,
    watching: WatcherState,
    kernel: Kernel,
    *,
    machine: bool,
) -> dict[str, Any]:
    """All checks, what matters most first.

    Args:
        record: The host's.
        state_dir: Where it is.
        table: Our nftables table.
        watching: The watcher.
        kernel: The host's.
        machine: This is the machine itself, not a namespace on it.
    """
    tried = try_kernel()
    checks = [
        check("kernel", _OK, platform.release()),
        check("python", _OK, f"{platform.python_version()} ({sys.executable})"),
        *_features(tried),
        *_programs(),
        *_sysctls(kernel),
        *_conntrack(),
        *(_firewalls(table, kernel.snapshot()) if tried["libnftables"] is None else ()),
        *_clock(state_dir),
        *_state(record, state_dir),
        *_watcher(watching),
        *(_daemons(state_dir, recorded=bool(record.owners)) if machine else ()),
    ]
    return {"checks": checks}


# --- the kernel ----------------------------------------------------------------------------------------------------


def _try_libnftables() -> None:
    Nft().list("list tables")


def _try_bridge(*, vlan: bool = False) -> None:
    LinuxKernel().perform(ops.CreateBridge("hostnet-vlan" if vlan else "hostnet-br", vlan_filtering=vlan))


def _try_vlan() -> None:
    _try_bridge(vlan=True)


def _try_shaping() -> None:
    LinuxKernel().perform(ops.Shape("hostnet-tap", 8000, 16384, 32768))


def _try_conntrack() -> None:
    if not Path("/proc/sys/net/netfilter/nf_conntrack_max").exists():
        message = "the kernel tracks no connections"
        raise OSError(message)


_TRIES: dict[str, Callable[[], None]] = {
    "libnftables": _try_libnftables,
    "nat": lambda: Nft().run(_NAT),
    "maps": lambda: Nft().run(_MAPS),
    "rules": lambda: Nft().run(table_text()),
    "bridge": _try_bridge,
    "vlan filtering": _try_vlan,
    "tap": lambda: LinuxKernel().perform(ops.CreateTap("hostnet-tap")),
    "limits": lambda: Nft().run(_LIMITS),
    "shaping": _try_shaping,
    "conntrack": _try_conntrack,
    "sysctl": lambda: write_sysctl("net.ipv4.conf.lo.route_localnet", "1"),
}


def try_kernel() -> dict[str, str | None]:
    """What the kernel says to each, in a process and a namespace of its own: a crash of a library is a result, too."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            _try_all(write)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        found: dict[str, str | None] = {}
        for line in answers:
            found.update(json.loads(line))
    _, how = os.waitpid(child, 0)
    if os.WIFSIGNALED(how):
        left = [name for name in _TRIES if name not in found]
        found.update(dict.fromkeys(left, f"it crashed (signal {os.WTERMSIG(how)}) in {left[0] if left else 'the end'}"))
    return found


def _try_all(answers: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        why = f"cannot create a network namespace: {os.strerror(ctypes.get_errno())}"
        os.write(answers, json.dumps(dict.fromkeys(_TRIES, why)).encode())
        return
    for name, function in _TRIES.items():
        os.write(answers, json.dumps({name: _attempt(function)}).encode() + b"\n")


def _attempt(function: Callable[[], None]) -> str | None:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is why this does not work
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


def _features(tried: dict[str, str | None]) -> Iterator[Check]:
    modules = (
        f"the kernel's own package of modules (Debian, Ubuntu: `apt-get install linux-image-{platform.machine()}`)"
    )
    need = {
        "libnftables": ("nftables", _FAIL, advice_here("libnftables")),
        "nat": ("NAT", _FAIL, f"`modprobe nft_chain_nat nft_masq`; where that finds none: {modules}"),
        "maps": ("concatenated maps", _FAIL, "A kernel of 5.6 or later"),
        "rules": ("hostnet's own rules", _FAIL, "A kernel of 5.10 or later with the nft_* modules, and nftables 1.0"),
        "bridge": ("bridges", _FAIL, f"`modprobe bridge`; where that finds none: {modules}"),
        "tap": ("TAPs", _FAIL, "`modprobe tun`; in a container: give it /dev/net/tun"),
        "limits": ("limits of a rate", _FAIL, f"`modprobe nft_limit`; where that finds none: {modules}"),
        "shaping": ("bandwidth.download", _WARN, f"`modprobe sch_tbf`; where that finds none: {modules}"),
        "conntrack": ("connection tracking", _FAIL, "`modprobe nf_conntrack`"),
        "sysctl": ("writing sysctls", _FAIL, "In a container: run it with a writable /proc/sys"),
        "vlan filtering": ("Bridge.vlanFiltering", _WARN, "A kernel with CONFIG_BRIDGE_VLAN_FILTERING"),
    }  # fmt: skip
    for name, (title, level, fix) in need.items():
        said = tried.get(name, "it was not tried")
        yield check(title, _OK, "works") if said is None else check(title, level, said, fix)


# --- programs, sysctls ---------------------------------------------------------------------------------------------


def _programs() -> Iterator[Check]:
    found = files.which("nft")
    if found:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
        yield check("nft", _OK, done.stdout.strip())
    else:
        yield check("nft", _NOTE, "the command is not installed; hostnet uses the library alone")
    if files.which("dnsmasq"):
        if fills_sets():
            yield check("dnsmasq", _OK, "installed")
        else:
            yield check("dnsmasq", _NOTE, "installed, without nftset: rules of egress by domain name will not work")
    else:
        fix = advice_here("dnsmasq")
        yield check("dnsmasq", _WARN, "not installed: Bridge.dhcpServer and ipv6SendRa will not work", fix)


def _sysctls(kernel: Kernel) -> Iterator[Check]:
    for family, name in FORWARDING.items():
        value = kernel.sysctl(name)
        if value is None:
            yield check(f"{family} forwarding", _WARN, f"{name} is not there: this kernel has no {family}")
        else:
            text = "on" if value != "0" else "off; hostnet switches it on with the first resource that needs it"
            yield check(f"{family} forwarding", _OK, text)
    closed = sorted(
        link.name for link in kernel.snapshot().links.values() if not link.forwarding4 and link.name != "lo"
    )
    closed += ["new interfaces"] if kernel.sysctl("net.ipv4.conf.default.forwarding") == "0" else []
    if closed and kernel.sysctl(FORWARDING["ipv4"]) != "0":
        text = (
            f"off: {', '.join(closed)} (net.ipv4.conf.*.forwarding); hostnet switches it on where a resource needs it. "
            "systemd-networkd switches it off again, unless the interface's .network file says IPv4Forwarding=yes "
            "(in older versions IPForward=yes)"
        )
        yield check("ipv4 forwarding of interfaces", _NOTE, text)
    value = kernel.sysctl("net.bridge.bridge-nf-call-iptables")
    if value is None:
        yield check("br_netfilter", _OK, "not loaded: frames within a bridge pass no firewall")
    else:
        text = (
            "frames within a bridge pass the firewalls; hostnet's rules take that into account"
            if value != "0"
            else "off"
        )
        yield check("br_netfilter", _OK, f"bridge-nf-call-iptables = {value}: {text}")


def _conntrack() -> Iterator[Check]:
    base = Path("/proc/sys/net/netfilter")
    try:
        count, most = (int((base / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max"))
    except (OSError, ValueError):
        return
    if most and count > most * _FULL:
        fix = f"`sysctl -w net.netfilter.nf_conntrack_max={most * 4}`"
        yield check("connections", _WARN, f"{count} of at most {most} are tracked: new ones will be dropped", fix)
    else:
        yield check("connections", _OK, f"{count} of at most {most} are tracked")


def _firewalls(table: Table, snapshot: Snapshot) -> Iterator[Check]:
    guests = {name for name in snapshot.addresses if name in snapshot.links and snapshot.leads_to_guests(name)}
    chains = ChainReader(table).chains(links=guests)
    dropping = [chain for chain in chains if positions(chain, frozenset(), frozenset())]
    for chain in dropping:
        if chain.read_only:
            yield check(
                "firewall", _WARN, f"{chain} drops, and hostnet can add no rule to it: {chain.read_only}", chain.fix
            )
        else:
            text = f"{chain} drops; hostnet adds its accepts there (NatGateway.firewall, Bridge.openFirewall)"
            yield check("firewall", _NOTE, text)
    closing = [(chain, _closed_to(chain, guests, snapshot)) for chain in chains if chain.hook == FORWARD]
    for chain, names in closing:
        if names:
            there = ", ".join(sorted(names))
            text = f"{chain} drops what goes to {there}; hostnet adds its accepts for forwards (NatGateway.firewall)"
            yield check("firewall", _NOTE, text)
    if not dropping and not any(names for _, names in closing):
        yield check("firewall", _OK, "no other firewall drops what is forwarded or comes in")


def _closed_to(chain: Chain, guests: Iterable[str], snapshot: Snapshot) -> set[str]:
    """The interfaces to which a chain lets no new connection of an uplink."""
    return {name for name in guests if any(refusals(chain, uplink, name) for uplink in snapshot.uplinks)}


# --- the rest ------------------------------------------------------------------------------------------------------


def _clock(state_dir: Path) -> Iterator[Check]:
    now = time.time()
    newest = max((path.stat().st_mtime for path in state_dir.glob("*.json")), default=0.0)
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < max(_MODERN, newest - 60):
        fix = "`timedatectl set-ntp true`, or set it by hand; DHCP leases end by this clock"
        yield check("clock", _FAIL, f"the clock says {shown}, which is in the past", fix)
    else:
        yield check("clock", _OK, shown)


def _state(record: Record, state_dir: Path) -> Iterator[Check]:
    there = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    free = os.statvfs(there)
    if not os.access(there, os.W_OK) or free.f_flag & os.ST_RDONLY:
        yield check("state", _FAIL, f"{there} cannot be written", "Set the provider's stateDir to a place that can be")
    elif free.f_bavail * free.f_frsize < _ROOM:
        yield check("state", _FAIL, f"{there} is full", f"Make room: `df {there}`")
    else:
        yield check("state", _OK, f"{state_dir}: {len(record.owners)} resources")
    if isinstance(record.phase, Open):
        yield check("transaction", _WARN, "one is unfinished, or waits for its confirmation", "`hostnet restore`")


def _watcher(watching: WatcherState) -> Iterator[Check]:
    if not watching.needed:
        return
    if watching.process is None:
        yield check("watcher", _FAIL, "no process attaches new interfaces for `match`", "`hostnet restore`")
    else:
        yield check("watcher", _OK, f"process {watching.process.pid} attaches new interfaces")


def _daemons(state_dir: Path, *, recorded: bool) -> Iterator[Check]:
    places = Places()
    for title, runs in (("systemd-networkd", places.networkd_runs), ("NetworkManager", places.network_manager_runs)):
        if runs.exists():
            yield check(title, _NOTE, "runs; hostnet tells it to leave hostnet's interfaces unmanaged")
    if not systemd.runs():
        text = "does not run here: have the host's init run `hostnet restore` after a reboot"
        yield check("systemd", _NOTE, text)
        return
    unit = places.units / f"{units.instance_name(state_dir)}.service"
    if recorded and not unit.exists():
        text = "runs, but no unit of hostnet's is installed: nothing comes back after a reboot (persist is `never`?)"
        yield check(
            "systemd",
            _WARN,
            text,
            "Set the provider's persist to `auto`; the next `pulumi up` that changes something installs it",
        )
    else:
        yield check("systemd", _OK, "runs" + ("; hostnet's unit is installed" if unit.exists() else ""))
