"""Servers for stacks to work on over SSH: `pulumi` runs in a namespace, each server is another with a real sshd.

Address plan: `site` has the bridge `lan` (192.0.2.1/24, and .254, the gateway); a server has eth0 in it (192.0.2.11/24,
.12, …) and its default route over it. A server is known to a program by a serial, and "rented" by a dynamic resource:
the address and the host key are its outputs, so a preview does not know them.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.stacks import Cli, Host, Stack
from tests.lab.namespaces import Namespace
from tests.ssh.world import Server, keygen

NAMES = {"net", "web", "nat", "http"}

# A server, and on it a bridge, a guest's TAP, a gateway and a forward. Configuration: `serial` of the server, `port`,
# `limit` (dialErrorLimit), `address` (where not the server's own output); `fixed` (a server of this kind can't be
# beside its successor) and `with` (the network is deleted with the server) where they are set.
PROGRAM = """
import json
import subprocess
from pathlib import Path

import pulumi
import pulumi_hostnet as hostnet
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

SITE = Path({site!r})


class Servers(ResourceProvider):
    def create(self, props):
        serial = props["serial"]
        return CreateResult(serial, {{**props, **json.loads(SITE.joinpath(serial + ".json").read_text())}})

    def diff(self, _id, olds, news):
        other = olds["serial"] != news["serial"]
        return DiffResult(changes=other, replaces=["serial"] * other, delete_before_replace=news["fixed"])

    def delete(self, _id, props):
        namespace = props["namespace"]
        left = [subprocess.run(["ip", "netns", "exec", namespace, *argv], capture_output=True, text=True).stdout
                for argv in (["nft", "list", "tables"], ["ip", "-brief", "link", "show", "type", "bridge"])]
        SITE.joinpath(_id + ".deleted").write_text("".join(left))


class Server(Resource):
    address: pulumi.Output[str]
    host_key: pulumi.Output[str]

    def __init__(self, serial, fixed):
        given = {{"serial": serial, "fixed": fixed}}
        super().__init__(Servers(), "server", {{**given, "address": None, "host_key": None, "namespace": None}})


config = pulumi.Config()
server = Server(config.require("serial"), config.get_bool("fixed") or False)
options = pulumi.ResourceOptions(deleted_with=server) if config.get_bool("with") else None
connection = hostnet.ConnectionArgs(
    host=config.get("address") or server.address,
    port=config.get_int("port") or 22,
    host_key=server.host_key,
    private_key=SITE.joinpath("key").read_text(),
    dial_error_limit=config.get_int("limit") or -1,
    per_dial_timeout=1,
)
net = hostnet.Bridge("net", name="net", addresses=["10.0.0.1/24"], connection=connection, opts=options)
guest = hostnet.GuestArgs(hostname="web")
web = hostnet.TapBinding("web", name="vm-web", bridge=net.name, guest=guest, connection=connection, opts=options)
nat = hostnet.NatGateway("nat", internal_interfaces=[net.name], connection=connection, opts=options)
hostnet.PortForward(
    "http",
    nat_gateway=nat.id,
    source_port=80,
    destination=web.guest.addresses[0].apply(lambda cidr: cidr.split("/")[0]),
    connection=connection,
    opts=options,
)
pulumi.export("address", server.address)
pulumi.export("guest", web.guest)
"""

# A bridge and some TAPs on each server, all known beforehand.
FLEET = """
import json
from pathlib import Path

import pulumi_hostnet as hostnet

SITE = Path({site!r})
for file in sorted(SITE.glob("*.json")):
    told = json.loads(file.read_text())
    connection = hostnet.ConnectionArgs(
        host=told["address"],
        host_key=told["host_key"],
        private_key=SITE.joinpath("key").read_text(),
        dial_error_limit=2,
    )
    net = hostnet.Bridge(f"net-{{file.stem}}", name="net", addresses=["10.0.0.1/24"], connection=connection)
    for number in range(3):
        hostnet.TapBinding(f"vm{{number}}-{{file.stem}}", name=f"vm{{number}}", bridge=net.name, connection=connection)
"""

# A bridge, and one that, where `cut` is set, has a subnet in which the server will look for whoever speaks with it.
CUT = """
import json
from pathlib import Path

import pulumi
import pulumi_hostnet as hostnet

SITE = Path({site!r})
told = json.loads(SITE.joinpath("one.json").read_text())
connection = hostnet.ConnectionArgs(
    host=told["address"],
    host_key=told["host_key"],
    private_key=SITE.joinpath("key").read_text(),
    dial_error_limit=-1,
    per_dial_timeout=1,
)
second = "192.0.2.3/29" if pulumi.Config().get_bool("cut") else "10.1.0.1/24"
for name, address in (("net", "10.0.0.1/24"), ("second", second)):
    hostnet.Bridge(name, name=name, addresses=[address], connection=connection)
"""

# On a server that is not there: a bridge as it should be, and one mistake, chosen by the configuration `wrong`.
WRONG = """
import pulumi
import pulumi_hostnet as hostnet
from pulumi.dynamic import CreateResult, Resource, ResourceProvider


class Servers(ResourceProvider):
    def create(self, props):
        raise AssertionError("a preview makes no server")


class Server(Resource):
    address: pulumi.Output[str]

    def __init__(self):
        super().__init__(Servers(), "server", {{"address": None}})


host = Server().address
connection = hostnet.ConnectionArgs(host=host)
fine = hostnet.Bridge("fine", addresses=["10.0.0.1/24"], connection=connection)
after = pulumi.ResourceOptions(depends_on=[fine])
match pulumi.Config().require("wrong"):
    case "lease":
        leases = [{{"mac_address": "02:00:00:00:00:02", "address": "10.2.0.2"}}]
        dhcp = {{"static_leases": leases}}
        hostnet.Bridge("lease", addresses=["10.1.0.1/24"], dhcp_server=dhcp, connection=connection, opts=after)
    case "port":
        hostnet.PortForward("port", source_port=70000, destination="10.0.0.2", connection=connection, opts=after)
    case "jump":
        jump = hostnet.ConnectionArgs(user="admin")
        way = hostnet.ConnectionArgs(host=host, proxy=jump)
        hostnet.Bridge("jump", addresses=["10.3.0.1/24"], connection=way, opts=after)
"""


class Rented(Server):
    """A server as the program may rent it. Its sshd is started by the test."""

    def __init__(self, site: Site, serial: str, number: int) -> None:
        """Put it beside the others."""
        super().__init__(Namespace(serial), site.directory / serial)
        self.serial, self.address = serial, f"192.0.2.{number}"
        site.client.ip(
            f"link add {serial} type veth peer name eth0 netns {self.namespace.name}",
            f"link set {serial} master lan up",
        )
        self.namespace.sysctl("net.ipv6.conf.eth0.accept_dad", 0)
        self.namespace.ip(
            f"address add {self.address}/24 dev eth0", "link set eth0 up", "route add default via 192.0.2.254"
        )
        site.authorize(self)
        told = {"address": self.address, "host_key": self.host_key, "namespace": self.namespace.name}
        site.directory.joinpath(f"{serial}.json").write_text(json.dumps(told))
        self.host = Host(self.namespace, site.state_dir)

    def close(self) -> None:
        """Switch it off, and take it away."""
        super().close()
        self.namespace.delete()


class Site:
    """Where `pulumi` runs, and the servers around it."""

    def __init__(self, cli: Cli, directory: Path) -> None:
        """There is no server yet."""
        self.directory, self.state_dir = directory, directory / "state"
        self.client = Namespace("site")
        self.client.ip(
            "link add lan type bridge",
            "link set lan up",
            "address add 192.0.2.1/24 dev lan",
            "address add 192.0.2.254/24 dev lan",
        )
        self.key = keygen(directory / "key")
        self.servers: list[Rented] = []
        self._cli = cli

    def server(self, serial: str) -> Rented:
        """One more."""
        made = Rented(self, serial, 11 + len(self.servers))
        self.servers.append(made)
        return made

    def stack(self, name: str, program: str = PROGRAM, **settings: str) -> Stack:
        """A stack of a program, run here, with further configuration of the provider."""
        stack = Stack(self._cli, name, stateDir=str(self.state_dir), **settings)
        stack.write(program.format(site=str(self.directory)))
        stack.inside = self.client
        return stack

    def authorize(self, server: Rented) -> None:
        """Let the site's key in, and no other."""
        server.directory.joinpath("authorized_keys").write_text(self.key.with_suffix(".pub").read_text())

    def left_at_deletion(self, serial: str) -> str:
        """What was on a server when the cloud was asked to delete it."""
        return self.directory.joinpath(f"{serial}.deleted").read_text()

    def close(self) -> None:
        """Take all away."""
        for server in self.servers:
            server.close()
        self.client.delete()


def config(**values: str | int) -> list[str]:
    """Flags of `pulumi up` that set the program's configuration, also for the runs after it."""
    return [word for name, value in values.items() for word in ("--config", f"{name}={value}")]
