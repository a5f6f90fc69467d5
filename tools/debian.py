"""Debian and Ubuntu packages: which are missing, and how to install them."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.steps import SetupError, doing, done, run

# Package groups by what needs them; a new need is one line. "a | b" is a, or b where the release has no a any more.
GROUPS: dict[str, tuple[str, ...]] = {
    "set-up": ("ca-certificates", "make", "python3-venv"),
    "provider": ("nftables", "libnftables1", "iproute2", "conntrack"),
    "ssh": ("openssh-server", "sudo"),  # the tests' own servers
    # Beside them ufw and firewalld, which are unpacked and not installed: see tools/firewalls.py.
    "firewalls": ("iptables", "dbus-daemon", "python3-dbus", "python3-gi", "python3-nftables"),
    "dhcp": ("dnsmasq-base",),
    "shells": ("zsh", "fish", "man-db"),  # what reads completions and the manual page
    # The tests' own browser. Ubuntu has it as a snap, which a package of that name installs.
    "browser": ("chromium | chromium-browser", "chromium-driver | chromium-chromedriver", "fonts-dejavu-core"),
    "clients": ("isc-dhcp-client | dhcpcd-base", "ethtool"),  # the tests' own; ISC ended its client in 2022
    # xz-utils and zstd for the modules in a kernel's package; a minimal system has neither.
    "guest": ("qemu-system-x86", "busybox-static", "cpio", "xz-utils", "zstd"),
    "fleet": ("redis-server", "postgresql"),  # the tests' own: a queue's broker, a store of Pulumi's state
    "server": ("mmdebstrap", "e2fsprogs", "openssh-client"),  # a whole system in a disk image: see tools/server.py
}


def as_root(argv: Sequence[str | Path]) -> list[str | Path]:
    """The command as root: through sudo where this process is not."""
    if os.geteuid() == 0:
        return list(argv)
    if shutil.which("sudo") is None:
        raise SetupError(f"Become root and run: {' '.join(map(str, argv))}")
    return ["sudo", *argv]


def _alternatives(package: str) -> list[str]:
    """The names in an entry of `GROUPS`, best first."""
    return package.split(" | ")


def missing(packages: Sequence[str]) -> list[str]:
    """Which of the packages are not installed; of alternatives, none is.

    Args:
        packages: Names, or alternatives as in `GROUPS`.
    """
    if shutil.which("dpkg-query") is None:
        raise SetupError(f"This is neither Debian nor Ubuntu: install the like of {' '.join(packages)} by hand.")
    names = [name for package in packages for name in _alternatives(package)]
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *names]
    # Unknown names make it exit 1 and are said on stderr; they simply don't show up as installed.
    result = subprocess.run(query, check=False, capture_output=True, text=True)
    installed = {line.split()[0] for line in result.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in packages if not installed.intersection(_alternatives(package))]


def refresh_lists() -> None:
    """Fetch the package lists. A third-party source that fails is no reason to stop: the next step tells."""
    subprocess.run(
        as_root(["apt-get", "update"]),
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )


def install(groups: Sequence[str] = tuple(GROUPS)) -> None:
    """Install what is missing of the groups."""
    wanted = missing([package for group in groups for package in GROUPS[group]])
    if wanted:
        install_packages(wanted)
    else:
        done("Debian packages")


# Services that would listen on the network from their installation on, by package. The tests run their own.
_SERVICES = {
    "openssh-server": ("ssh.service", "ssh.socket"),
    "redis-server": ("redis-server.service",),
    "postgresql": ("postgresql.service",),
}


def _keep_stopped(packages: Sequence[str]) -> None:
    """See to it that what is to be installed does not start, now or at the next boot."""
    units = [unit for package in packages for unit in _SERVICES.get(package, ())]
    if not units or not Path("/run/systemd/system").is_dir():
        return
    with doing(f"keep {' '.join(units)} from starting (`systemctl unmask` lets them)"):
        run(as_root(["systemctl", "mask", *units]), "Look at what `systemctl status` says.")


def install_packages(packages: Sequence[str]) -> None:
    """Install packages, without those that they only recommend, and without starting their services."""
    _keep_stopped(packages)
    with doing(f"install Debian packages: {' '.join(packages)}"):
        refresh_lists()
        # sudo drops the environment, hence `env` behind it.
        argv = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends"]
        # Another apt may be at work, above all unattended upgrades on a fresh machine.
        argv += ["--option", "DPkg::Lock::Timeout=300"]
        argv += [_available(package) for package in packages]
        run(as_root(argv), "Check the machine's package sources with `apt-get update`, then try again.")


def _available(package: str) -> str:
    """The first of an entry's alternatives that the package lists know; where they know none, apt says so."""
    alternatives = _alternatives(package)
    return next(filter(exists, alternatives), alternatives[0])


def dependencies(package: str) -> list[str]:
    """The names of the packages that a package depends on, the first of each set of alternatives."""
    lines = run(["apt-cache", "depends", "--important", package], "Run `apt-get update` and try again.").splitlines()
    return [line.split(":", 1)[1].strip() for line in lines if line.lstrip(" |").startswith("Depends:")]


def exists(package: str) -> bool:
    """Whether the package lists know a package by this name that can be installed."""
    result = subprocess.run(["apt-cache", "show", package], check=False, capture_output=True)
    return result.returncode == 0


def sources(release: str = "") -> list[str]:
    """The distribution's own package sources as this machine has them, one line each (sources.list(5)).

    Others are left out: what is built from these is the same on every machine of the distribution.

    Args:
        release: The code name of another release of the distribution; absent: the machine's own.

    Raises:
        SetupError: The package lists can't be read, or name the machine's release in another form than its code name.
    """
    form = "$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    listed = run(["apt-get", "indextargets", f"--format={form}", "Created-By: Packages"], "Run `apt-get update`.")
    origins = [line.partition(" ") for line in sorted(set(listed.splitlines()))]
    own = [source for origin, _, source in origins if origin in ("Debian", "Ubuntu")]
    if not release:
        return own
    here = platform.freedesktop_os_release()["VERSION_CODENAME"]
    # The suites of a release are CODENAME, CODENAME-updates, CODENAME-security.
    other = [re.sub(rf" {here}\b", f" {release}", source) for source in own]
    if release != here and other == own:
        raise SetupError(f"The package sources of this machine do not name {here}: write it there instead of an alias.")
    return other


def unpack(package: str, folder: Path) -> None:
    """Download a package and unpack it into a folder, without installing it."""
    folder.mkdir(parents=True, exist_ok=True)
    advice = "Run `apt-get update` and try again."
    run(["apt-get", "download", package], advice, cwd=folder)
    for archive in folder.glob("*.deb"):
        run(["dpkg-deb", "--extract", archive, folder], advice)
        archive.unlink()
