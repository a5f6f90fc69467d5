"""A pretended cloud: servers are network namespaces with an sshd, VMs are namespaces behind a server's TAP.

`pulumi` runs in a named network namespace, the *region*; no link is created in the machine's own network. A server is
connected as Hetzner's are: one public address without a subnet, and a gateway that is reached directly.

    REGION                                   REGION-1a2b3c (the server)            REGION-1a2b3c-web (the VM)
    s-1a2b3c  172.31.1.1/32 ---------------- eth0  203.0.113.N/32
    route to 203.0.113.N                     default via 172.31.1.1
                                             bridge, NAT: hostnet's --- vm-web --- eth0

A server gets its address and its host key when it is created, and accepts logins only after it has booted. Its sshd
has its own /run, /var/lib and root user; the rest of its disk is this machine's.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider

GATEWAY = "172.31.1.1"
NETNS = Path("/run/netns")
VMM = Path(__file__).with_name("pretend_vmm.py")

SSHD_CONFIG = """\
AuthorizedKeysFile {disk}/authorized_keys
HostKey {disk}/host_key
PasswordAuthentication no
PermitRootLogin prohibit-password
PidFile none
StrictModes no
UsePAM no
"""
BOOT = """\
set -e
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mount --bind {disk}/shadow /etc/shadow
mkdir /run/sshd
sleep {seconds}
exec /usr/sbin/sshd -D -f {disk}/sshd_config
"""


class SshKey(Resource):
    """A key pair to log in with; the private half is a secret."""

    private_key: pulumi.Output[str]
    public_key: pulumi.Output[str]

    def __init__(self, name: str) -> None:
        """Declare it."""
        secret = pulumi.ResourceOptions(additional_secret_outputs=["private_key"])
        super().__init__(_Keys(), name, {"private_key": None, "public_key": None}, secret)


class Server(Resource):
    """A server, which boots for a while after its creation."""

    ipv4_address: pulumi.Output[str]
    host_key: pulumi.Output[str]

    def __init__(self, name: str, image: str, authorized_key: pulumi.Input[str], boot_seconds: int) -> None:
        """Declare it.

        Args:
            name: Its name in the program.
            image: Another image means another server, created before this one is deleted.
            authorized_key: The public key that root logs in with.
            boot_seconds: How long it takes until its sshd runs.
        """
        given = {"image": image, "authorized_key": authorized_key, "boot_seconds": boot_seconds}
        super().__init__(_Servers(), name, {**given, "ipv4_address": None, "host_key": None})


class Vm(Resource):
    """A VM with a web server, on a TAP of a server."""

    def __init__(
        self,
        name: str,
        server: pulumi.Input[str],
        tap: pulumi.Input[str],
        mac_address: pulumi.Input[str],
        addresses: pulumi.Input[list[str]],
        gateway: pulumi.Input[str],
    ) -> None:
        """Declare it.

        Args:
            name: The name that its web server answers with.
            server: The server's id.
            tap: The TAP's name.
            mac_address: Its interface's address.
            addresses: Its addresses, as CIDR.
            gateway: Its default route.
        """
        guest = {"name": name, "mac_address": mac_address, "addresses": addresses, "gateway": gateway}
        super().__init__(_Vms(), name, {"server": server, "tap": tap, **guest})


class _Keys(ResourceProvider):
    """Creates key pairs."""

    def create(self, props: dict[str, Any]) -> CreateResult:  # noqa: ARG002 - Pulumi's signature
        """Create a key pair."""
        with tempfile.TemporaryDirectory() as folder:
            private, public = _key_pair(Path(folder, "key"))
        return CreateResult("key", {"private_key": private, "public_key": public})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """It has no inputs that could change."""
        return DiffResult(changes=False)


class _Machines(ResourceProvider):
    """What servers and VMs have in common: each is a namespace whose name is its id."""

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Any change means another machine."""
        changed = [name for name, value in news.items() if value is not None and olds.get(name) != value]
        return DiffResult(changes=bool(changed), replaces=changed)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Look whether it exists. An empty id means "gone" to Pulumi; a reboot deletes every namespace."""
        return ReadResult(id_ if NETNS.joinpath(id_).exists() else "", props)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Switch it off and delete it. One that is gone already is no error."""
        _remove(_id)


class _Servers(_Machines):
    """Creates servers."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Make one, or nothing; it boots on its own."""
        region = _region()
        number = secrets.token_hex(3)
        name, address = f"{region}-{number}", f"203.0.113.{secrets.randbelow(250) + 2}"
        made = {"ipv4_address": address, "host_key": ""}

        def make() -> None:
            _ip(
                f"netns add {name}",
                f"-n {name} link set lo up",
                f"link add s-{number} netns {region} type veth peer name eth0 netns {name}",
                f"-n {name} address add {address}/32 dev eth0",
                f"-n {name} link set eth0 up",
                f"-n {name} route add {GATEWAY} dev eth0",
                f"-n {name} route add default via {GATEWAY}",
                f"-n {region} address add {GATEWAY}/32 dev s-{number}",
                f"-n {region} link set s-{number} up",
                # Fails if another server has the address.
                f"-n {region} route add {address} dev s-{number}",
            )
            made["host_key"] = _boot(name, props["authorized_key"], props["boot_seconds"])

        _or_nothing(name, make)
        return CreateResult(name, {**props, **made})


class _Vms(_Machines):
    """Creates VMs."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Make one, or nothing; it has booted when this returns."""
        name = f"{props['server']}-{props['name']}"

        def make() -> None:
            _ip(f"netns add {name}", f"-n {name} link set lo up")
            vmm = _start(subprocess.PIPE, sys.executable, str(VMM), props["server"], name, json.dumps(props))
            with vmm.stdout as said:
                first = said.readline()
                if first != "it runs\n":
                    raise RuntimeError(f"the VM {name} does not start: {first}{said.read()}")

        _or_nothing(name, make)
        return CreateResult(name, props)


def _region() -> str:
    """The named namespace that this process is in.

    Raises:
        RuntimeError: There is none: this is the machine's own network, which is left alone. Or other processes would
            not see the namespaces that are created here: `ip netns exec` has mounts of its own.
    """
    name = _run("ip", "netns", "identify", str(os.getpid())).strip()
    places = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    shared = any(place[4] == str(NETNS.resolve()) and "shared:" in " ".join(place[6:]) for place in places)
    if not name or not shared:
        raise RuntimeError(
            "run pulumi in a network namespace: `nsenter --net=/run/netns/NAME pulumi up` (see README.md)"
        )
    return name


def _boot(name: str, authorized_key: str, seconds: int) -> str:
    """Create a server's disk and switch the server on; return its public host key."""
    disk = _disk(name)
    disk.mkdir(mode=0o700)
    _, host_key = _key_pair(disk / "host_key")
    disk.joinpath("authorized_keys").write_text(authorized_key)
    disk.joinpath("sshd_config").write_text(SSHD_CONFIG.format(disk=disk))
    users = Path("/etc/shadow").read_text().splitlines()
    # No password, but not locked: sshd refuses logins to locked accounts.
    users = [line for line in users if not line.startswith("root:")] + ["root:*:20000:0:99999:7:::"]
    disk.joinpath("shadow").write_text("\n".join(users) + "\n")
    _start(subprocess.DEVNULL, "ip", "netns", "exec", name, "sh", "-c", BOOT.format(disk=disk, seconds=seconds))
    return host_key


def _disk(name: str) -> Path:
    return Path(tempfile.gettempdir(), name)


def _key_pair(path: Path) -> tuple[str, str]:
    """The private and the public half of a new key."""
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path))
    return path.read_text(), path.with_suffix(".pub").read_text().strip()


def _or_nothing(name: str, make: Callable[[], None]) -> None:
    """Create a machine; if that fails, delete all parts of it."""
    try:
        make()
    except BaseException:
        _remove(name)
        raise


def _remove(name: str) -> None:
    """End the processes of a machine, and delete it with its disk, as far as they exist."""
    if NETNS.joinpath(name).exists():
        for pid in _run("ip", "netns", "pids", name).split():
            os.kill(int(pid), signal.SIGKILL)
        _ip(f"netns delete {name}")
    shutil.rmtree(_disk(name), ignore_errors=True)


def _start(output: int, *argv: str) -> "subprocess.Popen[str]":
    """Start a program that outlives this process. It gets neither the terminal nor stderr: pulumi would wait for it."""
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _ip(*commands: str) -> None:
    """Run `ip` commands (written without the `ip`)."""
    for command in commands:
        _run("ip", *command.split())


def _run(*argv: str) -> str:
    """Run a program and return its output.

    Raises:
        RuntimeError: It failed; the message has its error output.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout
