"""A provider's machine and a server with a real sshd, in namespaces of their own.

Address plan: `client` 192.0.2.1/24 -- eth0 -- eth0 -- `server` 192.0.2.2/24. With a jump host, `jump` 192.0.2.3/24 is
beside the client instead, and the server is behind it: `jump` 198.51.100.1/24 -- `server` 198.51.100.2/24.

sshd runs in a mount namespace, too: its users (root, and `admin` with a password), sudoers, /run and os-release are
the test's, and the machine's are not touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hostnet.agent.transaction import commit_confirm
from hostnet.hosts.connection import Connection, Settings
from hostnet.hosts.pool import Pool
from hostnet.hosts.session import Session
from hostnet.hosts.ssh import SSHTransport
from hostnet.resources import KINDS
from hostnet.wire.objects import Link
from hostnet.wire.protocol import Greeting
from hostnet.wire.requests import Change

from tests.lab.namespaces import Namespace, Namespaces
from tests.lab.taps import open_tap
from tests.lab.waiting import PATIENCE, until
from tests.ssh import wire

T = TypeVar("T")
SERVER = "192.0.2.2"
FAR_SERVER = "198.51.100.2"
JUMP = "192.0.2.3"
PASSWORD = "correct horse battery staple"  # noqa: S105 - the test's own user
FAST = (0.05, 0.2)  # back-off

_SSHD_CONFIG = """
Port 22
UsePAM no
StrictModes no
PermitRootLogin yes
AuthorizedKeysFile /run/test/authorized_keys
HostKey {directory}/host_ed25519
PidFile none
LogLevel VERBOSE
MaxStartups 300
PrintMotd no
"""
# The order matters: what is at /run/netns must be there again after the new /run.
_MOUNTS = """
set -e
mkdir -p {directory}/netns /run/netns
mount --rbind /run/netns {directory}/netns
mount -t tmpfs none /run
mkdir /run/netns /run/sshd /run/test
mount --bind {directory} /run/test
mount --move {directory}/netns /run/netns
for file in passwd shadow group sudoers os-release; do
    test -e {directory}/etc/$file && mount --bind {directory}/etc/$file $(readlink -f /etc/$file)
done
{more}
exec /usr/sbin/sshd -D -e -f {directory}/sshd_config
"""


class Server:
    """A machine with sshd."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        """Make its keys and users; sshd is not started."""
        self.namespace, self.directory = namespace, directory
        (directory / "etc").mkdir(parents=True)
        self.config = _SSHD_CONFIG.format(directory=directory)
        self.mounts = ""
        self._sshd: subprocess.Popen[str] | None = None
        self.log: list[str] = []
        self.new_host_key()
        self._users()

    def new_host_key(self, kind: str = "ed25519") -> None:
        """Another host key; a running sshd goes on with the old one."""
        keygen(self.directory / "host_ed25519", kind)

    @property
    def host_key(self) -> str:
        """The public key."""
        return (self.directory / "host_ed25519.pub").read_text().strip()

    @property
    def fingerprint(self) -> str:
        """The public key's, as ssh-keygen says it."""
        argv = ["ssh-keygen", "-lf", str(self.directory / "host_ed25519.pub")]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[1]

    def _users(self) -> None:
        etc = self.directory / "etc"
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", PASSWORD], check=True, capture_output=True, text=True
        ).stdout.strip()
        (self.directory / "home").mkdir()
        self.shell("/bin/sh")
        (etc / "group").write_text(Path("/etc/group").read_text() + "admin:x:5001:\n")
        lines = [line for line in Path("/etc/shadow").read_text().splitlines() if not line.startswith("root:")]
        lines += ["root:*:20000:0:99999:7:::", f"admin:{hashed}:20000:0:99999:7:::"]
        (etc / "shadow").write_text("\n".join(lines) + "\n")
        (etc / "shadow").chmod(0o600)
        self.sudoers("admin ALL=(root) NOPASSWD: ALL")

    def shell(self, program: str) -> None:
        """What shell root has; its home is `home` below the directory."""
        lines = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
        lines += [f"root:x:0:0:root:/run/test/home:{program}", "admin:x:5001:5001::/:/bin/sh"]
        (self.directory / "etc" / "passwd").write_text("\n".join(lines) + "\n")

    def sudoers(self, line: str) -> None:
        """What admin may."""
        path = self.directory / "etc" / "sudoers"
        path.unlink(missing_ok=True)
        path.write_text(f"root ALL=(ALL) ALL\n{line}\n")
        path.chmod(0o440)

    def os_release(self, text: str) -> None:
        """Which distribution it is."""
        (self.directory / "etc" / "os-release").write_text(text)

    def path(self, *programs: str, **links: str) -> None:
        """Let its users find these programs only.

        Args:
            programs: Their names.
            links: Names under which other programs are found.
        """
        folder = self.directory / "bin"
        folder.mkdir()
        for name, target in [*((name, which(name)) for name in programs), *links.items()]:
            (folder / name).symlink_to(target)
        self.config += "\nSetEnv PATH=/run/test/bin\n"

    def start(self) -> None:
        """Start sshd, and wait until it listens."""
        (self.directory / "sshd_config").write_text(self.config)
        script = _MOUNTS.format(directory=self.directory, more=self.mounts)
        argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
        self._sshd = self.namespace.call(
            lambda: subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
        assert self._sshd.stderr is not None
        for line in self._sshd.stderr:
            self.log.append(line.strip())
            if "Server listening on 0.0.0.0" in line:
                break
        else:
            raise AssertionError(f"sshd ended with {self._sshd.wait()}: " + "\n".join(self.log))
        threading.Thread(target=self._listen, args=(self._sshd.stderr,), daemon=True).start()

    def _listen(self, lines: Iterator[str]) -> None:
        with contextlib.suppress(ValueError):
            self.log.extend(line.strip() for line in lines)

    def stop(self) -> None:
        """End sshd; sessions go on."""
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd.wait()
            self._sshd = None

    @property
    def pid(self) -> int:
        """The running sshd."""
        assert self._sshd is not None
        return self._sshd.pid

    def kill_sessions(self) -> None:
        """Kill what sshd has running for its clients, but not what it runs for them."""
        for pid in self.session_processes():
            os.kill(pid, signal.SIGKILL)

    def session_processes(self) -> list[int]:
        """What sshd has running for its clients."""
        main = self._sshd.pid if self._sshd else 0
        return [pid for pid in self.processes("sshd") if pid != main]

    def processes(self, word: str) -> list[int]:
        """The processes in its namespace with a word in their command line."""
        found = []
        for pid in map(int, self._pids()):
            with contextlib.suppress(OSError):
                if pid != os.getpid() and word in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                    found.append(pid)
        return found

    def _pids(self) -> list[str]:
        argv = ["ip", "netns", "pids", self.namespace.name]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()

    def agents(self) -> list[int]:
        """The agents on it."""
        return [pid for pid in self.processes("--state-dir") if not _is_confirm(pid)]

    def confirm_processes(self) -> list[int]:
        """The processes on it that roll back what is not confirmed."""
        return [pid for pid in self.processes("--state-dir") if _is_confirm(pid)]

    def bridges(self) -> dict[str, int]:
        """The bridges there, and their ifindex."""
        links = self.namespace.kernel.links()
        return {name: link.index for name, link in links.items() if link.kind == "bridge"}

    def log_ins(self) -> int:
        """How many there were so far."""
        return sum(line.startswith(("Accepted publickey", "Accepted password")) for line in self.log)

    def close(self) -> None:
        """End everything on it."""
        self.stop()


class World:
    """The client, the server, and what is between them."""

    def __init__(self, directory: Path) -> None:
        """Two machines beside each other; sshd is started by the test."""
        self.directory = directory
        self.namespaces = Namespaces()
        self.client = self.namespaces.add("ssh-client")
        self.server = Server(self.namespaces.add("ssh-server"), directory / "server")
        self.jump: Server | None = None
        self._wire(self.client, "192.0.2.1/24", self.server.namespace, f"{SERVER}/24", "eth0")
        self.key = keygen(directory / "key")
        self.authorize(self.key)
        self.settings = Settings(state_dir=str(directory / "state"))
        self.said: list[str] = []

    def _wire(self, left: Namespace, left_address: str, right: Namespace, right_address: str, name: str) -> None:
        left.ip(f"link add {name} type veth peer name eth0 netns {right.name}")
        left.ip(f"address add {left_address} dev {name}", f"link set {name} up")
        right.ip(f"address add {right_address} dev eth0", "link set eth0 up")
        # The kernel takes note of carriers in the background, and with many links on a machine it may take a while.
        until(lambda: left.kernel.links()[name].carrier and right.kernel.links()["eth0"].carrier)

    def put_jump_between(self) -> Server:
        """Move the server behind a jump host."""
        self.jump = Server(self.namespaces.add("ssh-jump"), self.directory / "jump")
        self.client.ip("link delete eth0")
        self._wire(self.client, "192.0.2.1/24", self.jump.namespace, f"{JUMP}/24", "eth0")
        self._wire(self.jump.namespace, "198.51.100.1/24", self.server.namespace, f"{FAR_SERVER}/24", "eth1")
        self.authorize(self.key)
        return self.jump

    def authorize(self, *keys: Path) -> None:
        """Let these keys in."""
        text = "".join(key.with_suffix(".pub").read_text() for key in keys)
        for server in filter(None, (self.server, self.jump)):
            (server.directory / "authorized_keys").write_text(text)

    def connection(self, **values: Any) -> Connection:
        """The connection to the server."""
        given = {"host": SERVER, "private_key": self.key.read_text(), "host_key": self.server.host_key, **values}
        return Connection(**given)

    def transport(self, connection: Connection | None = None) -> SSHTransport:
        """What starts agents on the server."""
        return SSHTransport(connection or self.connection(), self.settings, self.said.append, FAST)

    def session(self, connection: Connection | None = None) -> Session:
        """A session with the server, which does not pause long before it tries again."""
        connection = connection or self.connection()
        return Session(connection.label, self.transport(connection), self.said.append)

    def pool(self) -> Pool:
        """A pool of sessions."""
        return Pool(self.settings, lambda _, text: self.said.append(text))

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Be the provider: run a coroutine on the client."""

        async def working() -> T:
            async with asyncio.timeout(4 * PATIENCE):
                return await work()

        return self.client.call(lambda: asyncio.run(working()))

    def connect(self, connection: Connection | None = None) -> Greeting:
        """Start an agent on the server and end it; what it greeted with."""

        async def connecting() -> Greeting:
            session = self.session(connection)
            try:
                await session.connect()
                return session.greeting
            finally:
                await session.close()

        return self.run(connecting)

    @contextmanager
    def deaf(self, namespace: Namespace) -> Iterator[None]:
        """Lose all packets that come to a machine."""
        namespace.nft(
            "table inet deaf { chain c { type filter hook prerouting priority -500; policy drop; iif lo accept; }; }"
        )
        try:
            yield
        finally:
            namespace.nft("delete table inet deaf")

    @contextmanager
    def wire(self, delay: float = 0, lost: float = 0, doubled: float = 0) -> Iterator[None]:
        """Have a bad line instead of the good one: see `wire`. The delay is of one direction, in milliseconds."""
        self.client.ip("link delete eth0")
        taps = [namespace.call(open_tap, "eth0", vnet_hdr=False) for namespace in (self.client, self.server.namespace)]
        for namespace, address in ((self.client, "192.0.2.1"), (self.server.namespace, SERVER)):
            namespace.ip(f"address add {address}/24 dev eth0", "link set eth0 up")
        argv = [sys.executable, wire.__file__, *map(str, [*taps, delay, lost, doubled])]
        carrier = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=taps)
        try:
            yield
        finally:
            assert carrier.stdin is not None
            carrier.stdin.close()
            carrier.wait()
            for tap in taps:
                os.close(tap)

    def agent_file(self) -> Path | None:
        """The agent's file on the server."""
        return next((self.directory / "state" / "agent").glob("*.zip"), None)

    def close(self) -> None:
        """Take all away."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.namespaces.close)
            for server in filter(None, (self.server, self.jump)):
                stack.callback(server.close)


def _is_confirm(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == commit_confirm.NAME
    except OSError:
        return False


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "", *more: str) -> Path:
    """A key pair; gives the private key's path."""
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path), *more]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


def which(program: str) -> str:
    """Where a program is."""
    done = subprocess.run(["sh", "-c", f"command -v {program}"], check=True, capture_output=True, text=True)
    return os.path.realpath(done.stdout.strip())


def urn(name: str) -> str:
    """A bridge's URN."""
    return f"urn:pulumi:dev::shop::hostnet:index:Bridge::{name}"


def bridge(name: str, *, dry: bool = False, known: bool = False) -> Change:
    """The change for a bridge; known: it exists already."""
    return Change(urn(name), name, (Link(name, "bridge"),), known=known, dry=dry)


def forward(port: int) -> Change:
    """The change for a forward of a port of the server."""
    kind = KINDS["hostnet:index:PortForward"]
    inputs = {"externalInterface": "eth0", "sourcePort": port, "destination": f"10.0.0.2:{port}"}
    change = kind.change(f"urn:pulumi:dev::shop::hostnet:index:PortForward::f{port}", inputs)
    assert change is not None, "nothing is unknown here"
    return change


def removal(name: str) -> Change:
    """The change that deletes a bridge."""
    return Change(urn(name), name, (), (Link(name, "bridge"),), known=True)


async def watch(true: Callable[[], object]) -> None:
    """`until`, beside what the loop does."""
    await asyncio.to_thread(until, true)
