"""Other people's firewalls, as they are: each set up in the host's namespace, reloaded, and taken away again.

`ufw` and `firewalld` are the programs of Debian's packages, unpacked and not installed (an installed firewalld would
start on the machine), with a private configuration; firewalld has a D-Bus of its own. `docker` is what Docker Engine
28 writes through iptables-nft for its default bridge. `native` and `legacy` are written by hand.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from tests.lab.namespaces import Namespace, temporary_directory
from tools.firewalls import folder

NAMES = ("native", "docker", "ufw", "firewalld", "legacy")

_NATIVE = """
table inet by_hand {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ip saddr 192.0.2.99 drop
  }
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname "lo" accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 22 accept
  }
}
"""
_DOCKER = """
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
:DOCKER -
:DOCKER-BRIDGE -
:DOCKER-CT -
:DOCKER-FORWARD -
:DOCKER-INTERNAL -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
"""
_LEGACY = """
*filter
:INPUT DROP
:FORWARD ACCEPT
:OUTPUT ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -i lan -o lan -j ACCEPT
-A FORWARD -m comment --comment "the rest" -j REJECT
COMMIT
"""


class Firewall:
    """One firewall in a namespace."""

    survives_reload = False  # whether what others added to its chains does

    def __init__(self, host: Namespace) -> None:
        """Nothing is set up yet."""
        self.host = host

    def start(self) -> None:
        """Set it up."""
        self.reload()

    def reload(self) -> None:
        """What its own reload, or restart, does to its rules."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what runs."""

    def rules(self) -> str:
        """All rules that are not hostnet's table, without counters."""
        return _without_ours(self.host.kernel.listing(stateless=True))


class Native(Firewall):
    """nftables by hand, policy drop at forward and input."""

    def reload(self) -> None:
        """As nftables.service does, but for what else there is."""
        self.host.nft(f"table inet by_hand\ndelete table inet by_hand\n{_NATIVE}")


class Docker(Firewall):
    """Docker's chains, in both families, and a restart that creates its filter table again."""

    def reload(self) -> None:
        """Load the rules."""
        for command in ("iptables-nft-restore", "ip6tables-nft-restore"):
            self.host.run([command], text=_DOCKER)

    def rules(self) -> str:
        """With what iptables itself reads."""
        saved = [self.host.run([f"{command}-nft", "-S"]) for command in ("iptables", "ip6tables")]
        return "\n".join([*saved, super().rules()])


class Legacy(Firewall):
    """iptables-legacy, with a drop at input and a reject at the end of forward."""

    def reload(self) -> None:
        """Load the rules."""
        for command in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            self.host.run([command], text=_LEGACY)

    def stop(self) -> None:
        """Empty its tables: the next test does not see that a host has them (`Topology.is_pristine` asks nft)."""
        empty = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n"
        for command in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            self.host.run([command], text=empty)

    def rules(self) -> str:
        """As its own command shows them."""
        return "".join(self.host.run([f"{command}-legacy", "-S"]) for command in ("iptables", "ip6tables"))


class Ufw(Firewall):
    """ufw with its defaults: it leaves the built-in chains alone and fills chains of its own."""

    survives_reload = True

    def start(self) -> None:
        """Copy its files, and enable it."""
        self._root = temporary_directory("ufw")
        shutil.copytree(folder(), self._root, dirs_exist_ok=True)
        if not (self._root / "lib").exists():  # from Debian 13 on its files are below /usr, where /lib leads to
            (self._root / "lib").symlink_to("usr/lib")
        for path in (self._root / "usr/share/ufw").glob("*.*"):
            shutil.copy(path, self._root / "etc/ufw")
        defaults = self._root / "etc/default/ufw"
        defaults.write_text(defaults.read_text().replace("IPT_SYSCTL=/etc/ufw/sysctl.conf", "IPT_SYSCTL="))
        self._ufw("--force", "enable")
        self._ufw("reload")  # which adds rules that `enable` does not

    def reload(self) -> None:
        """As an administrator does."""
        self._ufw("reload")

    def stop(self) -> None:
        """Remove its files."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _ufw(self, *arguments: str) -> None:
        program = [f"{self._root}/usr/sbin/ufw", f"--rootdir={self._root}", f"--datadir={self._root}"]
        self.host.run(["env", f"PYTHONPATH={_python(self._root)}", "/usr/bin/python3", *program, *arguments])

    def rules(self) -> str:
        """With what iptables itself reads."""
        return self.host.run("iptables-nft -S") + self.host.run("ip6tables-nft -S") + super().rules()


class Firewalld(Firewall):
    """firewalld with its defaults, but open to rules of others, as a daemon with a D-Bus of its own."""

    def __init__(self, host: Namespace, *, as_packaged: bool = False) -> None:
        """Copy its configuration; nothing is started yet.

        Args:
            host: The namespace.
            as_packaged: Leave the configuration as it is, with which a firewalld from 2.1 on owns its table.
        """
        super().__init__(host)
        self._root = temporary_directory("firewalld")
        self._running: list[subprocess.Popen[bytes]] = []
        shutil.copytree(folder() / "etc/firewalld", self._root / "conf")
        self.conf = self._root / "conf/firewalld.conf"
        if not as_packaged:
            kept = self.conf.read_text().replace("NftablesTableOwner=yes", "NftablesTableOwner=no")
            self.conf.write_text(kept)

    def start(self) -> None:
        """Start both, and wait for them."""
        bus = self._root / "bus.conf"
        bus.write_text(
            f"<busconfig><type>system</type><listen>unix:path={self._root}/bus</listen><auth>EXTERNAL</auth>"
            '<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/>'
            '<allow user="*"/></policy></busconfig>'
        )
        self._spawn("dbus-daemon", f"--config-file={bus}", "--nofork", "--nopidfile")
        while not (self._root / "bus").exists():
            assert self._running[0].poll() is None, "dbus-daemon ended"
        program = ["/usr/bin/python3", f"{folder()}/usr/sbin/firewalld", "--nofork", "--nopid"]
        options = ["--system-config", f"{self._root}/conf", "--default-config", f"{folder()}/usr/lib/firewalld"]
        log = self._root / "log"
        self._spawn(*self._environment(), *program, *options, "--log-file", str(log))
        while "running" not in self._command("--state", check=False):
            assert not log.exists() or "COMMAND_FAILED" not in log.read_text(), log.read_text()
            assert all(one.poll() is None for one in self._running), (self._root / "out").read_text()

    def reload(self) -> None:
        """As an administrator does."""
        self._command("--reload")

    def restart(self) -> None:
        """As `systemctl restart` does."""
        # Ended by SIGKILL, it leaves its table, which in Linux 6.18 nobody can take over without the flag `owner`.
        self._end(signal.SIGTERM)
        self.start()

    def stop(self) -> None:
        """End both."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self._root, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        while self._running:
            process = self._running.pop()
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            process.wait()
        (self._root / "bus").unlink(missing_ok=True)  # dbus-daemon makes it, and leaves it

    def _environment(self) -> list[str]:
        bus = f"DBUS_SYSTEM_BUS_ADDRESS=unix:path={self._root}/bus"
        return ["env", bus, f"PYTHONPATH={_python(folder())}", "PYTHONDONTWRITEBYTECODE=1"]

    def _command(self, *arguments: str, check: bool = True) -> str:
        program = ["/usr/bin/python3", f"{folder()}/usr/bin/firewall-cmd", *arguments]
        return self.host.run([*self._environment(), *program], check=check)

    def _spawn(self, *argv: str) -> None:
        with (self._root / "out").open("ab") as out:
            process = self.host.call(subprocess.Popen, argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self._running.append(process)


F = TypeVar("F", bound=Firewall)
_KINDS: dict[str, Callable[[Namespace], Firewall]] = {
    "native": Native,
    "docker": Docker,
    "ufw": Ufw,
    "firewalld": Firewalld,
    "legacy": Legacy,
}


def running(name: str, host: Namespace) -> AbstractContextManager[Firewall]:
    """The firewall of this name in a namespace, for as long as the block runs. Its rules end with the namespace."""
    return started(_KINDS[name](host))


@contextlib.contextmanager
def started(firewall: F) -> Iterator[F]:
    """A firewall, started, for as long as the block runs."""
    firewall.start()
    try:
        yield firewall
    finally:
        firewall.stop()


def _python(root: Path) -> str:
    return f"{root}/usr/lib/python3/dist-packages"


def _without_ours(ruleset: str) -> str:
    tables: list[str] = []
    for line in ruleset.splitlines():
        if line.startswith("table "):
            tables.append("")
        if tables and not line.startswith("#"):
            tables[-1] += line + "\n"
    return "".join(table for table in tables if " hostnet {" not in table.splitlines()[0])
