"""`make sdk` writes sdk/, and the hand-written component declares the resources it promises (with Pulumi's mocks)."""

from __future__ import annotations

import filecmp
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pulumi
import pulumi_hostnet as hostnet
import pytest
from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks

from tools import golang
from tools.paths import CHECKOUT, cached_bin

OVERLAYS = CHECKOUT / "tools" / "gensdk" / "overlays"
PACKAGE = CHECKOUT / "sdk" / "python" / "pulumi_hostnet"


# --- generated -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((OVERLAYS / "python").glob("*.py")), ids=lambda path: path.stem)
def test_what_is_written_by_hand_is_in_the_sdk(path: Path) -> None:
    """The package contains a copy, and exports its names."""
    assert (PACKAGE / path.name).read_text() == path.read_text()
    assert f"from .{path.stem} import *\n" in (PACKAGE / "__init__.py").read_text()


def files(folder: Path) -> set[Path]:
    """The files below a folder, without what Python and pip leave there."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in found if not any(part == "__pycache__" or "egg-info" in part for part in path.parts)}


def test_the_sdks_are_up_to_date(tmp_path: Path) -> None:
    """`make sdk` writes them, with the generator that set-up builds."""
    program = cached_bin() / f"gensdk-{golang.sources_digest('gensdk')}"
    assert program.exists(), "the generator of the SDKs is not built: run `make setup-dev`"
    subprocess.run([program, CHECKOUT / "schema.json", tmp_path, OVERLAYS], check=True)
    written = files(tmp_path)
    # pip's --editable names no file of its own but egg-info; a language's tools may add theirs to .gitignore'd places.
    _, differ, missing = filecmp.cmpfiles(tmp_path, CHECKOUT / "sdk", sorted(map(str, written)), shallow=False)
    assert (differ, missing) == ([], [])
    assert files(CHECKOUT / "sdk") == written


# --- MicroVmHost ---------------------------------------------------------------------------------------------------

TYPE = "hostnet:index:MicroVmHost"
DEFAULT: dict[str, dict[str, Any]] = {
    "microvm": {
        "addresses": ["10.0.0.1/24", "fd12:3456:789a::1/64"],
        "dhcpServer": {},
        "ipv6SendRa": True,
    },
    "microvm-taps": {"match": "vm-*", "bridge": "microvm-br"},
    "microvm-nat": {"internalInterfaces": ["microvm-br"], "enableIpv6": True},
}
UNTRUSTED: dict[str, dict[str, Any]] = {
    "microvm": {**DEFAULT["microvm"], "portIsolation": True, "hostAccess": "services"},
    "microvm-tap-ci-1": {
        "name": "ci-1",
        "bridge": "microvm-br",
        "guest": {},
        "bandwidth": {"download": "100mbit", "upload": "100mbit"},
    },
    "microvm-tap-ci-2": {
        "name": "ci-2",
        "bridge": "microvm-br",
        "guest": {},
        "bandwidth": {"download": "100mbit", "upload": "100mbit"},
    },
    "microvm-nat": {**DEFAULT["microvm-nat"], "egress": []},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "hostnet:index:Bridge": {"name": "microvm-br"},
    "hostnet:index:NatGateway": {"externalAddresses": ["192.0.2.2", "2001:db8::2"]},
}


class Recorder(Mocks):
    """An engine that creates everything and records the requests."""

    def __init__(self) -> None:
        """Start with no resources."""
        self.made: dict[str, MockResourceArgs] = {}

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        """The outputs that the component uses."""
        self.made[args.name] = args
        return f"{args.name}-id", args.inputs | ANSWERS.get(args.typ, {})

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], None]:
        """Fail: the component calls no function."""
        raise AssertionError(args.token)

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Resource -> its inputs, without the component."""
        return {name: args.inputs for name, args in self.made.items() if args.typ != TYPE}


@pytest.fixture
def engine() -> Iterator[Recorder]:
    """An engine for one program."""
    recorder = Recorder()
    pulumi.runtime.set_mocks(recorder, preview=False)
    yield recorder
    pulumi.runtime.settings.reset_options()


def run(program: Callable[[], pulumi.Output[Any]]) -> Any:
    """Run a program to its end and return the value of its output."""
    found: list[Any] = []
    pulumi.runtime.test(lambda: program().apply(found.append))()  # type: ignore[no-untyped-call]
    return found[0]


def test_without_arguments_it_is_microvm_nixs_host(engine: Recorder) -> None:
    """A bridge in both families with DHCP and RA, `vm-*`, NAT with NAT66; each child's name begins with its own."""
    run(lambda: pulumi.Output.from_input(hostnet.MicroVmHost("microvm").urn))
    assert engine.inputs == DEFAULT
    assert {name: args.typ.rpartition(":")[2] for name, args in engine.made.items()} == {
        "microvm": "Bridge",  # made after the component of the same name
        "microvm-taps": "TapBinding",
        "microvm-nat": "NatGateway",
    }


def test_its_children_are_its_children(engine: Recorder) -> None:
    """The URN of each has the component's type."""

    def program() -> pulumi.Output[list[str]]:
        host = hostnet.MicroVmHost("microvm")
        return pulumi.Output.all(host.bridge.urn, host.taps.urn, host.nat_gateway.urn)

    kinds = [urn.split("::")[2] for urn in run(program)]
    assert kinds == [f"{TYPE}$hostnet:index:{kind}" for kind in ("Bridge", "TapBinding", "NatGateway")]


def test_its_outputs(engine: Recorder) -> None:
    """Other resources use them."""

    def program() -> pulumi.Output[list[Any]]:
        host = hostnet.MicroVmHost("microvm")
        return pulumi.Output.all(host.bridge_name, host.nat_gateway_id, host.external_addresses)

    assert run(program) == ["microvm-br", "microvm-nat-id", ["192.0.2.2", "2001:db8::2"]]


def test_untrusted_is_all_of_it_with_one_word(engine: Recorder) -> None:
    """Each guest has a TAP of its own, which is checked; what the program says itself holds."""

    def program() -> pulumi.Output[Any]:
        host = hostnet.MicroVmHost("microvm", untrusted=True, guests=["ci-1", "ci-2"])
        assert host.guests is not None
        return pulumi.Output.from_input(host.taps_of_guests["ci-2"].name)

    assert run(program) == "ci-2"
    assert engine.inputs == UNTRUSTED
    engine.made.clear()
    rules = [{"cidr": "192.0.2.1/32", "protocol": "tcp", "ports": "443"}]
    limits = {"upload": "1mbit"}

    def other() -> pulumi.Output[Any]:
        host = hostnet.MicroVmHost(
            "microvm",
            untrusted=True,
            guests=["ci-1"],
            egress=[hostnet.EgressRuleArgs(cidr="192.0.2.1/32", protocol="tcp", ports="443")],
            bandwidth=hostnet.BandwidthArgs(upload="1mbit"),
            port_isolation=False,
        )
        return pulumi.Output.from_input(host.urn)

    run(other)
    assert engine.inputs["microvm-nat"]["egress"] == rules
    assert engine.inputs["microvm-tap-ci-1"]["bandwidth"] == limits
    assert engine.inputs["microvm"] == {**UNTRUSTED["microvm"], "portIsolation": False}


def test_guests_that_are_trusted_have_taps_and_nothing_more(engine: Recorder) -> None:
    """Beside a `match` as well."""
    run(lambda: hostnet.MicroVmHost("microvm", guests=["web"], match="vm-*").urn)
    tap = {"name": "web", "bridge": "microvm-br", "guest": {}}
    assert engine.inputs == {**DEFAULT, "microvm-tap-web": tap}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"untrusted": True}, "untrusted: requires guests"),
        ({"bandwidth": {"upload": "1mbit"}}, "bandwidth: requires guests"),
        ({"untrusted": True, "guests": ["a"], "match": "vm-*"}, "match: must not be given together with untrusted"),
        ({"guests": ["a", "a"]}, "guests: must be unique"),
    ],
)
def test_what_would_leave_guests_unchecked_is_refused(
    engine: Recorder, arguments: dict[str, Any], message: str
) -> None:
    """Before anything is registered."""
    with pytest.raises(ValueError, match=message):
        run(lambda: hostnet.MicroVmHost("microvm", **arguments).urn)
    assert engine.made == {}


def test_each_argument_reaches_its_child(engine: Recorder) -> None:
    """Arguments are classes or dictionaries in snake_case. The connection reaches every child."""
    forwards = [
        hostnet.ForwardPortArgs(source_port=80, destination="10.5.0.2"),
        {"source_port": 443, "destination": "10.5.0.3", "source_cidrs": ["198.51.100.0/24"]},
    ]
    lease = {"mac_address": "02:00:00:00:00:02", "address": "10.5.0.2", "hostname": "web"}

    def program() -> pulumi.Output[Any]:
        host = hostnet.MicroVmHost(
            "microvm",
            addresses=["10.5.0.1/24"],
            connection={"host": "192.0.2.9", "host_key": "ssh-ed25519 AAAA"},
            dhcp_server={"domain": "vm.internal", "static_leases": [lease]},
            external_interface="eth1",
            forwards=forwards,
            match="tap[0-9]",
            port_isolation=True,
        )
        return pulumi.Output.from_input(host.nat_gateway_id)

    run(program)
    connection = {"host": "192.0.2.9", "hostKey": "ssh-ed25519 AAAA"}
    assert engine.inputs == {
        "microvm": {
            "addresses": ["10.5.0.1/24"],
            "dhcpServer": {
                "domain": "vm.internal",
                "staticLeases": [{"macAddress": "02:00:00:00:00:02", "address": "10.5.0.2", "hostname": "web"}],
            },
            "ipv6SendRa": True,
            "portIsolation": True,
            "connection": connection,
        },
        "microvm-taps": {"match": "tap[0-9]", "bridge": "microvm-br", "connection": connection},
        "microvm-nat": {
            "internalInterfaces": ["microvm-br"],
            "enableIpv6": True,
            "externalInterface": "eth1",
            "forwardPorts": [
                {"sourcePort": 80, "destination": "10.5.0.2"},
                {"sourcePort": 443, "destination": "10.5.0.3", "sourceCidrs": ["198.51.100.0/24"]},
            ],
            "connection": connection,
        },
    }
