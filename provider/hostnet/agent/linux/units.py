"""The texts of files for others: systemd's units, and files that keep network daemons off our interfaces. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hostnet.wire.digest import sha256
from hostnet.wire.protocol import STATE_DIR

_HEAD = "# Written by hostnet; gone with the last resource on this host. `hostnet status` tells what it holds.\n"
# Firewalls that empty their own chains, or all of nftables, when they start. The early ones start before
# network-pre.target, and empty them again when they are reloaded.
_LATE_FIREWALLS = ("docker.service",)
EARLY_FIREWALLS = ("nftables.service", "netfilter-persistent.service", "firewalld.service", "ufw.service")
# What starts guests and does not wait for network.target by itself.
_GUESTS = ("libvirtd.service", "virtqemud.service", "libvirt-guests.service", "microvms.target", "machines.target")


def instance_name(state_dir: Path) -> str:
    """The name of our files: each state directory has its own, since it is another owner."""
    if state_dir == Path(STATE_DIR):
        return "hostnet"
    return f"hostnet-{sha256(str(state_dir).encode()).hexdigest()[:8]}"


def command_line(argv: Sequence[str]) -> str:
    """An ExecStart= of these words (systemd.service(5), "Command lines")."""
    return " ".join(f'"{_escaped(word)}"' for word in argv)


def _literal(path: Path) -> str:
    return str(path).replace("%", "%%")


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")


def restore_unit(state_dir: Path, argv: Sequence[str]) -> str:
    """The unit that puts the recorded network back, before units that wait for network.target, as guests' do.

    - After the firewalls, since their start empties nftables (nftables.service): they come before network-pre.target.
    - After the daemons that configure the uplink have started.
    - Without the default dependencies, which would put network.target after basic.target.
    - It wants network.target: where nothing else does, guests' units would wait for nothing.
    - It stays active (RemainAfterExit=), so that a firewall's reload is passed on to it (ReloadPropagatedFrom=).
    - It has a time limit: a oneshot service has none of its own (systemd.service(5)), and network.target waits for it.

    Args:
        state_dir: The state directory.
        argv: The agent's command line.
    """
    restore = command_line([*argv, "restore", "--state-dir", str(state_dir)])
    return f"""{_HEAD}[Unit]
Description=hostnet: put back the network recorded in {_literal(state_dir)}
DefaultDependencies=no
ConditionPathExists={_literal(state_dir)}/host.json
RequiresMountsFor="{_literal(state_dir)}"
Wants=network-pre.target network.target
After=local-fs.target systemd-sysctl.service systemd-modules-load.service systemd-tmpfiles-setup-dev.service
After=network-pre.target {" ".join(EARLY_FIREWALLS)}
ReloadPropagatedFrom={" ".join(EARLY_FIREWALLS)}
After=systemd-networkd.service NetworkManager.service networking.service
Before=network.target {" ".join(_GUESTS)}
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
SyslogIdentifier=hostnet
RemainAfterExit=yes
ExecStart={restore}
ExecReload={restore}
TimeoutStartSec=120

[Install]
WantedBy=multi-user.target
"""


def firewall_unit(name: str, state_dir: Path) -> str:
    """Puts the recorded network back after a firewall's start, which empties nftables or its own chains.

    It reloads the other unit. A reload that is requested during another one runs after it; a start would be
    ignored.
    """
    return f"""{_HEAD}[Unit]
Description=hostnet: put the network back after a firewall's start
ConditionPathExists={_literal(state_dir)}/host.json
After={name}.service {" ".join((*EARLY_FIREWALLS, *_LATE_FIREWALLS))}

[Service]
Type=oneshot
ExecStart=systemctl --no-block reload-or-restart {name}.service

[Install]
WantedBy={" ".join((*EARLY_FIREWALLS, *_LATE_FIREWALLS))}
"""


def watch_unit(name: str, state_dir: Path, argv: Sequence[str]) -> str:
    """The unit of the watcher, which attaches interfaces when they appear. Guests start when it listens (notify).

    However often it dies, systemd starts it again (`StartLimitIntervalSec`; by default, five times within ten seconds).
    """
    return f"""{_HEAD}[Unit]
Description=hostnet: attach interfaces to their bridge when they appear
DefaultDependencies=no
ConditionPathExists={_literal(state_dir)}/host.json
RequiresMountsFor="{_literal(state_dir)}"
After={name}.service
Before=network.target {" ".join(_GUESTS)}
Conflicts=shutdown.target
Before=shutdown.target
StartLimitIntervalSec=0

[Service]
Type=notify
SyslogIdentifier=hostnet
ExecStart={command_line([*argv, "watch", "--state-dir", str(state_dir)])}
Restart=on-failure
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


def server_unit(state_dir: Path, bridge: str) -> str:
    """The name of the service of a bridge's dnsmasq."""
    escaped = "".join(x if re.fullmatch(r"[A-Za-z0-9_.:-]", x) else _hexadecimal(x) for x in bridge)
    return f"{instance_name(state_dir)}-dhcp-{escaped}.service"


def _hexadecimal(character: str) -> str:
    """A character as systemd-escape(1) writes it."""
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))


def networkd_text(names: Iterable[str]) -> str:
    """A .network file (systemd.network(5)) that keeps systemd-networkd off these interfaces (names or globs)."""
    lines = "".join(f"Name={name}\n" for name in sorted(set(names)))
    return f"{_HEAD}[Match]\n{lines}\n[Link]\nUnmanaged=yes\n"


def network_manager_text(names: Iterable[str]) -> str:
    """A configuration file (NetworkManager.conf(5)) that does the same for NetworkManager.

    `+=` adds to what the administrator's files list; `=` would replace it.
    """
    listed = ";".join(f"interface-name:{name}" for name in sorted(set(names)))
    return f"{_HEAD}[keyfile]\nunmanaged-devices+={listed}\n"
