"""The host of the project at the top of the checkout: a throw-away one in a network namespace, or a real machine.

The throw-away host is a resource of the stack, too (a `pulumi.dynamic` one): a preview creates nothing, `pulumi up`
creates it before the network, and `pulumi destroy` deletes it after the network.

    NAME (the host)                        NAME-outside (its neighbour)
    eth0  192.0.2.2/24, 2001:db8::2/64 --- eth0  192.0.2.1/24, 2001:db8::1/64
    default routes through the neighbour
"""

import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pulumi
import pulumi_hostnet as hostnet
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider

NETNS = "netns:"


def connection_to(target: str) -> hostnet.ConnectionArgs | None:
    """The connection for every resource of the program.

    Args:
        target: `namespace` (the stack creates a network namespace), `machine` (this machine's own network), or
            `netns:NAME` (an existing network namespace).

    Raises:
        pulumi.RunError: The target is none of these.
    """
    if target == "namespace":
        return hostnet.ConnectionArgs(netns=ThrowawayHost("host").namespace)
    if target == "machine":
        return None
    if target.startswith(NETNS):
        return hostnet.ConnectionArgs(netns=target.removeprefix(NETNS))
    raise pulumi.RunError(f"target is {target!r}: set it to namespace, machine or netns:NAME")


class ThrowawayHost(Resource):
    """A network namespace with an uplink, which stands for a host."""

    namespace: pulumi.Output[str]

    def __init__(self, name: str) -> None:
        """Declare it. The namespace gets a random name when it is created."""
        super().__init__(_Provider(), name, {"namespace": None})


class _Provider(ResourceProvider):
    """Creates and deletes the two namespaces."""

    def create(self, props: dict[str, Any]) -> CreateResult:  # noqa: ARG002 - Pulumi's signature
        """Create both, or none."""
        name = f"hostnet-demo-{secrets.token_hex(3)}"
        try:
            _ip("\n".join(_commands(name)))
        except BaseException:
            _remove(name)
            raise
        return CreateResult(name, {"namespace": name})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """It has no inputs that could change."""
        return DiffResult(changes=False)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:  # noqa: ARG002 - Pulumi's signature
        """Look whether it exists. An empty id means "gone" to Pulumi; a reboot deletes every namespace."""
        return ReadResult(id_ if Path("/run/netns", id_).exists() else "", {"namespace": id_})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Delete them. One that is gone already is no error."""
        _remove(_id)


def _commands(name: str) -> list[str]:
    """The `ip` commands that create the host and its neighbour. They create no link in the machine's own network."""
    outside = f"{name}-outside"
    wire = f"link add eth0 netns {name} type veth peer name eth0 netns {outside}"
    commands = [f"netns add {name}", f"netns add {outside}", wire]
    for namespace, number in ((name, 2), (outside, 1)):
        commands += [
            f"-n {namespace} link set lo up",
            f"-n {namespace} link set eth0 up",
            f"-n {namespace} address add 192.0.2.{number}/24 dev eth0",
            f"-n {namespace} address add 2001:db8::{number}/64 dev eth0 nodad",
        ]
    return [
        *commands,
        f"-n {name} route add default via 192.0.2.1",
        f"-n {name} route add default via 2001:db8::1",
    ]


def _remove(name: str) -> None:
    """Delete those of the two namespaces that exist."""
    for namespace in (f"{name}-outside", name):
        if Path("/run/netns", namespace).exists():
            _ip(f"netns delete {namespace}")


def _ip(commands: str) -> None:
    """Run `ip` commands, one a line, as root.

    Raises:
        RuntimeError: A command failed; the message has the output of `ip`.
    """
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    for command in commands.splitlines():
        done = subprocess.run([*sudo, "ip", *command.split()], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"`ip {command}` failed: {done.stderr.strip()}")
