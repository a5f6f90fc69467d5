"""examples/rented-server by Pulumi's mocks: what it asks of which provider, in a preview and in an `up`.

The cloud's part is what `pulumi_hcloud` and `pulumi_tls` send; hostnet's part goes through the provider's own check.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from typing import Any

import asyncssh
import pulumi
import pytest
from hostnet.hosts.connection import Connection
from hostnet.lifecycle.secrets import Given
from hostnet.resources import KINDS
from hostnet.resources.schema.values import UNKNOWN, Autoname
from hostnet.rpc.codec import decode
from hostnet.wire.urn import Urn
from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks
from pulumi.runtime.mocks import MockMonitor

from tools.paths import CHECKOUT

PROGRAM = CHECKOUT / "examples" / "rented-server" / "__main__.py"
NETWORK = {"vms", "web", "nat", "web-80", "web-443"}
CONFIG = {"rented:serverType": "cx23", "rented:location": "nbg1", "rented:image": "debian-12"}


def key_pair() -> dict[str, Any]:
    """What a tls.PrivateKey comes to."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    private = key.export_private_key().decode()
    return {"privateKeyOpenssh": pulumi.Output.secret(private), "publicKeyOpenssh": key.export_public_key().decode()}


class Clouds(Mocks):
    """All providers. In a preview they know nothing but the names that hostnet makes up."""

    def __init__(self, *, preview: bool) -> None:
        """Nothing was made yet."""
        self._preview = preview

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        """What the provider answers, as far as the program looks at it."""
        if args.typ.startswith("hostnet:") and args.name in ("vms", "web"):
            names: dict[str, Any] = {"name": f"{args.name}-1a2b3c4"}
            guest = {"macAddress": "02:00:00:00:00:02", "addresses": ["10.0.0.2/24"]}
            return None if self._preview else names["name"], names | ({} if self._preview else {"guest": guest})
        if self._preview:
            return None, {}
        if args.typ == "tls:index/privateKey:PrivateKey":
            return args.name, key_pair()
        return f"{args.name}-id", {"ipv4Address": "203.0.113.7"}

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], None]:
        """No function is called."""
        raise AssertionError(args.token)


class Engine(MockMonitor):
    """An engine that writes down what the program registers."""

    def __init__(self, *, preview: bool) -> None:
        """Nothing is registered yet."""
        super().__init__(Clouds(preview=preview))
        self.registered: dict[str, Any] = {}

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - Pulumi's name
        """Keep the request, under the type's and the resource's name."""
        self.registered[f"{request.type.rsplit(':', 1)[-1]} {request.name}"] = request
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    def inputs(self, resource: str) -> Given:
        """The inputs of a resource ("Server vmhost"), unknown and secret ones marked."""
        return decode(self.registered[resource].object)

    def joined(self, resource: str) -> set[str]:
        """The names of the resources that a resource depends on."""
        return {Urn.parse(urn).name for urn in self.registered[resource].dependencies}

    @property
    def network(self) -> dict[str, Any]:
        """Hostnet's requests by name."""
        return {one.name: one for one in self.registered.values() if one.type.startswith("hostnet:")}


@pytest.fixture
def program() -> Iterator[Callable[..., Engine]]:
    """Runs the program to its end, in a preview or in an `up`."""

    def run(*, preview: bool) -> Engine:
        engine = Engine(preview=preview)
        pulumi.runtime.set_all_config(CONFIG)
        pulumi.runtime.set_mocks(engine.mocks, project="rented", preview=preview, monitor=engine)
        pulumi.runtime.test(lambda: runpy.run_path(str(PROGRAM)) and None)()  # type: ignore[no-untyped-call]
        return engine

    yield run
    pulumi.runtime.settings.reset_options()
    pulumi.runtime.set_all_config({})


@pytest.fixture(params=[True, False], ids=["preview", "up"])
def engine(request: pytest.FixtureRequest, program: Callable[..., Engine]) -> Engine:
    """What holds in a preview and in an `up`."""
    return program(preview=request.param)


def test_what_it_makes(engine: Engine) -> None:
    """Two keys, the server and its login, and on it one network."""
    assert set(engine.registered) - {"Stack rented-stack"} == {
        "PrivateKey login",
        "PrivateKey identity",
        "SshKey login",
        "Server vmhost",
        "Bridge vms",
        "TapBinding web",
        "NatGateway nat",
        "PortForward web-80",
        "PortForward web-443",
    }
    assert set(engine.network) == NETWORK


def test_what_waits_for_what(engine: Engine) -> None:
    """The network comes after the server, goes with it, and joins by outputs; ports open behind the guest's TAP."""
    assert engine.joined("Server vmhost") == {"login", "identity"}
    server = {"vmhost", "login", "identity"}
    assert engine.joined("Bridge vms") == server
    assert engine.joined("TapBinding web") == {*server, "vms"}
    assert engine.joined("NatGateway nat") == {*server, "vms"}
    for port in (80, 443):
        assert engine.joined(f"PortForward web-{port}") == {*server, "nat", "web"}
    assert {one.deletedWith.rsplit("::", 1)[-1] for one in engine.network.values()} == {"vmhost"}


def test_the_provider_takes_its_inputs(engine: Engine) -> None:
    """Each passes hostnet's own check, with what a preview does not know and without."""
    for name, request in engine.network.items():
        checked = KINDS[request.type].check(decode(request.object).values, None, Autoname(name))
        assert checked.failures == (), name


def test_a_preview_does_not_know_the_server(program: Callable[..., Engine]) -> None:
    """Its address and the keys are unknown wherever they go; what is known, is."""
    engine = program(preview=True)
    for name in NETWORK:
        connection = decode(engine.network[name].object).values["connection"]
        unknown = {key for key, value in connection.items() if value is UNKNOWN}
        assert unknown == {"host", "hostKey", "privateKey"}, name
        assert connection["dialErrorLimit"] == 40
    assert engine.inputs("TapBinding web").values["bridge"] == "vms-1a2b3c4"
    assert engine.inputs("PortForward web-80").values["destination"] is UNKNOWN
    assert engine.inputs("Server vmhost").values["userData"] is UNKNOWN


def test_who_logs_in_where(program: Callable[..., Engine]) -> None:
    """Hostnet logs in with the key that the cloud knows, and expects the host key that cloud-init installs."""
    engine = program(preview=False)
    login, user_data = engine.inputs("SshKey login").values, cloud_config(engine)
    bridge = engine.inputs("Bridge vms")
    way = Connection.from_inputs(bridge.values["connection"])
    assert way.label == "root@203.0.113.7"
    assert way.private_key
    assert way.host_key
    private = asyncssh.import_private_key(way.private_key)
    assert private.get_fingerprint() == asyncssh.import_public_key(login["publicKey"]).get_fingerprint()
    assert way.host_key == user_data["ssh_keys"]["ed25519_public"]
    identity = asyncssh.import_private_key(user_data["ssh_keys"]["ed25519_private"])
    assert identity.get_fingerprint() == asyncssh.import_public_key(way.host_key).get_fingerprint()
    assert private.get_fingerprint() != identity.get_fingerprint()
    assert engine.inputs("Server vmhost").values["sshKeys"] == ["login-id"]


def test_no_key_is_told_in_the_open(program: Callable[..., Engine]) -> None:
    """The private keys are secrets wherever they go."""
    engine = program(preview=False)
    assert ("userData",) in engine.inputs("Server vmhost").secrets
    for name in NETWORK:
        secret = decode(engine.network[name].object).secrets
        assert secret & {("connection",), ("connection", "privateKey")}, name


def test_what_cloud_init_installs(program: Callable[..., Engine]) -> None:
    """What hostnet needs on the host; and the metadata service, which has the host's key, is closed to VMs."""
    user_data = cloud_config(program(preview=False))
    assert {"python3", "nftables", "dnsmasq-base"} <= set(user_data["packages"])
    (script,) = user_data["write_files"]
    assert script["path"].startswith("/var/lib/cloud/scripts/per-boot/")
    assert "169.254.169.254 drop" in script["content"]


def cloud_config(engine: Engine) -> dict[str, Any]:
    """The server's user data."""
    first, _, rest = engine.inputs("Server vmhost").values["userData"].partition("\n")
    assert first == "#cloud-config"
    found: dict[str, Any] = json.loads(rest)
    return found
