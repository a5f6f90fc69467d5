"""What a host lacks, and the exact command that installs it, on six distributions."""

from __future__ import annotations

import pytest
from hostnet.agent.linux.install_hints import _PACKAGES, advice, distributions

# /etc/os-release of each, as far as it says what the distribution is.
OS_RELEASE = {
    "debian": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\n',
    "ubuntu": 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n',
    "fedora": 'NAME="Fedora Linux"\nID=fedora\n',
    "rocky": 'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "arch": 'NAME="Arch Linux"\nID=arch\n',
    "manjaro": "ID=manjaro\nID_LIKE=arch\n",
    "alpine": "ID=alpine\nVERSION_ID=3.22.1\n",
    "nixos": 'ANSI_COLOR="0;38;2;126;186;228"\nID=nixos\nID_LIKE=""\n',
}
COMMANDS = {
    ("debian", "libnftables"): "On the host: `apt-get install libnftables1`",
    ("debian", "dnsmasq"): "On the host: `apt-get install dnsmasq-base`",
    ("ubuntu", "dnsmasq"): "On the host: `apt-get install dnsmasq-base`",
    ("ubuntu", "iptables-legacy"): "On the host: `apt-get install iptables`",
    ("fedora", "libnftables"): "On the host: `dnf install nftables`",
    ("rocky", "python3"): "On the host: `dnf install python3`",
    ("arch", "python3"): "On the host: `pacman -S python`",
    ("arch", "libnftables"): "On the host: `pacman -S nftables`",
    ("manjaro", "dnsmasq"): "On the host: `pacman -S dnsmasq`",
    ("alpine", "libnftables"): "On the host: `apk add nftables`",
    ("alpine", "iptables-legacy"): "On the host: `apk add iptables-legacy`",
    ("nixos", "dnsmasq"): "In the host's configuration.nix: `environment.systemPackages = [ pkgs.dnsmasq ];`",
    ("nixos", "sudo"): "In the host's configuration.nix: `security.sudo.enable = true;`",
}


@pytest.mark.parametrize(("distribution", "need"), COMMANDS, ids=lambda each: each)
def test_the_command_of_a_distribution(distribution: str, need: str) -> None:
    """One command, which is that of its own package manager."""
    assert advice(need, OS_RELEASE[distribution]) == COMMANDS[distribution, need]


@pytest.mark.parametrize("distribution", OS_RELEASE)
@pytest.mark.parametrize("need", _PACKAGES)
def test_each_need_has_one_command_on_each(distribution: str, need: str) -> None:
    """Nothing is left to guess."""
    assert advice(need, OS_RELEASE[distribution]).count("`") == 2


@pytest.mark.parametrize("need", _PACKAGES)
def test_an_unknown_distribution(need: str) -> None:
    """The commands of all that are known, each with the names of its distributions."""
    said = advice(need, "ID=haiku\n")
    for name in ("(Debian, Ubuntu)", "(Fedora)", "(Arch)", "(Alpine)", "(NixOS)"):
        assert name in said


def test_what_a_distribution_is_like() -> None:
    """ID and ID_LIKE, with or without quotes."""
    assert distributions(OS_RELEASE["rocky"]) == {"rocky", "rhel", "centos", "fedora"}
    assert distributions("") == frozenset()
