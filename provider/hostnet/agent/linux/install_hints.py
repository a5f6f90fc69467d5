"""What a host lacks, and the command that installs it, by the host's distribution."""

from __future__ import annotations

from pathlib import Path

# By what is needed: the package's name for apt, dnf, pacman, apk and Nix. Debian's `dnsmasq` is a service that listens
# on every address; `dnsmasq-base` is the program alone. Arch's `iptables` has the program for the legacy tables, too.
_PACKAGES = {
    "python3": ("python3", "python3", "python", "python3", "python3"),
    "libnftables": ("libnftables1", "nftables", "nftables", "nftables", "nftables"),
    "dnsmasq": ("dnsmasq-base", "dnsmasq", "dnsmasq", "dnsmasq", "dnsmasq"),
    "sudo": ("sudo", "sudo", "sudo", "sudo", ""),
    "iptables-legacy": ("iptables", "iptables-legacy", "iptables", "iptables-legacy", "iptables-legacy"),
}
# By the package's place in these: the command, the distributions, and how a message names them.
_COMMANDS = (
    ("apt-get install", frozenset({"debian", "ubuntu"}), "Debian, Ubuntu"),
    ("dnf install", frozenset({"fedora", "rhel", "centos"}), "Fedora"),
    ("pacman -S", frozenset({"arch"}), "Arch"),
    ("apk add", frozenset({"alpine"}), "Alpine"),
)
OS_RELEASE = Path("/etc/os-release")


def distributions(os_release: str) -> frozenset[str]:
    """The distribution and those that it is like, from the text of os-release(5); none where it does not say."""
    found: set[str] = set()
    for line in os_release.splitlines():
        name, _, value = line.partition("=")
        if name in {"ID", "ID_LIKE"}:
            found.update(value.strip().strip("\"'").lower().split())
    return frozenset(found)


def advice(need: str, os_release: str) -> str:
    """How to install something on a host.

    Args:
        need: One of `_PACKAGES`.
        os_release: The text of the host's /etc/os-release; "" where it is not known.

    Returns:
        One sentence without a full stop. For an unknown distribution it has the commands of all known ones.
    """
    *packages, nix = _PACKAGES[need]
    known = distributions(os_release)
    commands = []
    for (command, distribution, label), package in zip(_COMMANDS, packages):
        if known & distribution:
            return f"On the host: `{command} {package}`"
        commands.append(f"`{command} {package}` ({label})")
    nixos = f"`environment.systemPackages = [ pkgs.{nix} ];`" if nix else "`security.sudo.enable = true;`"
    if "nixos" in known:
        return f"In the host's configuration.nix: {nixos}"
    return f"On the host: {', '.join(commands)}, or {nixos} (NixOS)"


def advice_here(need: str) -> str:
    """How to install something on this machine."""
    try:
        return advice(need, OS_RELEASE.read_text())
    except OSError:
        return advice(need, "")
