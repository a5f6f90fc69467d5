"""Random life on a host against a model: declare, change, delete, break behind hostnet's back, refresh, up.

The kernel is as tests/lab/model.py says after every `up`; a refresh shows the drift that was made and no other; the
next `up` touches what drifted and nothing else; and when everything is deleted, nothing is left.

`make test` runs 500 sequences, `make fuzz` as many as HOSTNET_SEQUENCES says, from the seed HOSTNET_SEED. A failure
prints the shortest sequence that fails; the test's name has the seed that finds it again. Host: see tests/lab/bed.py.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.lab.bed import FREE, UPLINK, Bed, difference
from tests.lab.driver import Inputs, Stack
from tests.lab.inside import InsideProvider
from tests.lab.model import FORWARD_MAPS, Expected, Fact, Model, drift, link_facts, proxy_facts, rules, table_facts

SEQUENCES = int(os.environ.get("HOSTNET_SEQUENCES", "500"))
SEED = int(os.environ.get("HOSTNET_SEED", "0"))
AT_ONCE = 25  # sequences of one test: enough to spread them over workers
STEPS = 8
_GATEWAY_SETS = (
    *("internal_links", "forward_pairs", "forward_nets", "masquerade_", "snat_", "mss_clamp_links"),
    *("routed_nets", "one_to_one_hosts", "one_to_one_sources", "egress_link"),
)
SHRINK = os.environ.get("HOSTNET_SHRINK", "1") == "1"  # 0: show the first sequence that fails, at once
SECOND = "eth1"  # with another default route
REPLIES = 7100  # the first number of a table for replies
BRIDGES, TAPS = ("br0", "br1"), ("vm0", "vm1")
V4, V6 = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"

Draw = Callable[[st.SearchStrategy[Any]], Any]


# --- programs ------------------------------------------------------------------------------------------------------


def some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Inputs]:
    """Inputs with some of these properties."""
    return st.fixed_dictionaries({}, optional=optional)


def subset(*items: str, least: int = 0) -> st.SearchStrategy[list[str]]:
    """Some of these, in any order."""
    return st.lists(st.sampled_from(items), unique=True, min_size=least, max_size=3)


POOLS = {
    "br0": ("10.0.0.1/24", "10.0.0.254/24", "10.5.0.1/16", "fd12::1/64", "fd12:0:0:1::1/64"),
    "br1": ("10.1.0.1/24", "10.1.0.129/25", "fd13::1/64"),
}
ON = st.sampled_from([True])
PORT_OPTIONS = {
    "protocol": st.sampled_from(["udp", "sctp", "tcp+udp"]),
    "loopback": st.sampled_from([False]),
    "sourceCidrs": st.sampled_from([["198.51.100.0/24"], ["203.0.113.7/32", "198.51.100.0/24"]]),
    "listenAddresses": st.sampled_from([["192.0.2.2"], ["192.0.2.2", "192.0.2.3"], ["0.0.0.0"], ["127.0.0.1"]]),  # noqa: S104
}
PAIRS = [
    {"externalAddress": outer, "internalAddress": inner}
    for outer, inner in (("192.0.2.3", "10.0.0.9"), ("2001:db8::3", "fd12::9"))
]
EGRESS = [{"cidr": "198.51.100.0/24", "protocol": "tcp", "ports": "443"}, {"cidr": "2001:db8:1::/64"}]
DESTINATIONS4 = st.sampled_from(["10.0.0.2", "10.0.0.3:8080", "10.1.0.9:81", "10.77.0.1"])
DESTINATIONS6 = st.sampled_from(["fd12::2", "[fd12::3]:8080", "fd13::2"])


@st.composite
def port_forwards(draw: Draw, base: int) -> Inputs:
    """A forward whose source port is one, or a range, from `base` on: others have another base."""
    if draw(st.integers(0, 3)) == 0:
        six = {name: PORT_OPTIONS[name] for name in ("protocol", "loopback")}
        return {"sourcePort": base, "destination": draw(DESTINATIONS6), **draw(some(**six))}
    found = {"sourcePort": base, "destination": draw(DESTINATIONS4), **draw(some(**PORT_OPTIONS))}
    if draw(st.booleans()):
        found["sourcePort"] = f"{base}:{base + 2}"
        found["destination"] = draw(st.sampled_from(["10.0.0.2", "10.0.0.2:80", "10.1.0.9:7000-7002"]))
    return found


class Programs:
    """Draws changes of a program, so that it always is one that must go up."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._makers = {
            **dict.fromkeys(BRIDGES, self._bridge),
            **dict.fromkeys(TAPS, self._tap),
            "globs": self._glob,
            "nat": self._gateway,
            **dict.fromkeys(("web", "dns"), self._forward),
        }

    def change(self, program: dict[str, tuple[str, Inputs]]) -> dict[str, tuple[str, Inputs]]:
        """The program with one resource added, changed or taken out; and what can't do without it."""
        name = self._draw(st.sampled_from(sorted(self._makers)))
        if name in program and self._draw(st.integers(0, 3)) == 0:
            changed = _without(program, name)
        else:
            made = self._makers[name](name, program)
            changed = {**program, **({name: made} if made else {})}
        # Dependencies first, as the driver wants it.
        return {key: changed[key] for key in self._makers if key in changed}

    def _some_bridge(self, program: dict[str, Any]) -> str | None:
        there = [name for name in BRIDGES if name in program]
        return f"${{{self._draw(st.sampled_from(there))}.name}}" if there else None

    def _bridge(self, name: str, program: dict[str, Any]) -> tuple[str, Inputs]:
        del program
        options = some(
            mtu=st.sampled_from([1400, 1500, 9000]),
            macAddress=st.just("02:00:00:00:00:b0"),
            stp=ON,
            portIsolation=ON,
        )
        addresses = self._draw(subset(*POOLS[name]))
        # Two guests' addresses come out of here: one of each subnet at most has to be free.
        return "Bridge", {"name": name, "addresses": addresses, **self._draw(options)}

    def _tap(self, name: str, program: dict[str, Any]) -> tuple[str, Inputs]:
        bridge = self._some_bridge(program) if self._draw(st.booleans()) else None
        shared = self._draw(some(mtu=st.just(1400), owner=st.sampled_from(["0", "1234"]), group=st.just("4321")))
        if bridge:
            own = self._draw(some(isolated=ON, guest=st.sampled_from([{}, {"hostname": name}])))
            return "TapBinding", {"name": name, "bridge": bridge, **shared, **own}
        number = int(name[-1]) + 1
        own = some(
            addresses=subset(f"10.2.{number}.1/32", f"fd14::{number}/128", least=1),
            routes=subset(f"10.2.{number}.5/32", f"fd14:{number}::5/128", f"10.3.{number}.0/24", least=1),
        )
        inputs = {"name": name, **shared, **self._draw(own)}
        single = [cidr for cidr in inputs.get("routes", ()) if cidr.endswith(("/32", "/128"))]
        if single and "addresses" in inputs and self._draw(st.booleans()):
            inputs["guest"] = {"addresses": single, "proxyInterface": UPLINK}
        return "TapBinding", inputs

    def _glob(self, name: str, program: dict[str, Any]) -> tuple[str, Inputs] | None:
        del name
        bridge = self._some_bridge(program)
        return ("TapBinding", {"match": "gl-*", "bridge": bridge, **self._draw(some(isolated=ON))}) if bridge else None

    def _gateway(self, name: str, program: dict[str, Any]) -> tuple[str, Inputs]:
        del name
        there = [f"${{{one}.name}}" for one in BRIDGES if one in program]
        options = some(
            internalIps=subset("10.9.0.0/24", "10.9.1.0/24", "10.5.0.7/32", least=1),
            internalIpv6s=subset("fd19::/64", "fd19:1::/64", least=1),
            externalIp=st.just("192.0.2.2"),
            externalIpv6=st.just("2001:db8::2"),
            oneToOneNat=st.sampled_from([PAIRS[:1], PAIRS[1:], PAIRS]),
            egress=st.sampled_from([[], EGRESS]),
            replyBySameUplink=st.sampled_from([False]),
            externalInterface=st.just(UPLINK),
            externalInterfaces=st.sampled_from([[UPLINK], [UPLINK, SECOND]]),
            mssClamp=ON,
            internalForwarding=ON,
            forwardPorts=st.sampled_from([1, 2]),
        )
        inputs = dict(self._draw(options))
        if "externalInterface" in inputs:
            inputs.pop("externalInterfaces", None)
        inputs |= self._draw(st.sampled_from([{}, {"enableIpv6": True}, {"routeIpv6": True}]))
        if "internalIps" in inputs:
            inputs |= self._draw(some(routeIpv4=ON))
        if there:
            inputs["internalInterfaces"] = self._draw(subset(*there, least=1))
        if "forwardPorts" in inputs:
            bases = (1000, 2000)[: inputs["forwardPorts"]]
            inputs["forwardPorts"] = [self._draw(port_forwards(base)) for base in bases]
        if not {"internalInterfaces", "internalIps", "internalIpv6s", "forwardPorts"} & inputs.keys():
            inputs["internalIps"] = ["10.9.0.0/24"]
        return "NatGateway", inputs

    def _forward(self, name: str, program: dict[str, Any]) -> tuple[str, Inputs]:
        inputs = dict(self._draw(port_forwards({"web": 3000, "dns": 4000}[name])))
        if "nat" in program and self._draw(st.booleans()):
            inputs["natGateway"] = "${nat.id}"
        return "PortForward", inputs


def _without(program: dict[str, tuple[str, Inputs]], name: str) -> dict[str, tuple[str, Inputs]]:
    """The program without a resource and all that refers to it."""
    left = {key: one for key, one in program.items() if key != name}
    for user in [key for key, one in left.items() if f"${{{name}." in str(one)]:
        left = _without(left, user)
    return left


# --- what somebody does behind hostnet's back ----------------------------------------------------------------------

Vandal = Callable[["HostMachine"], None]


class Vandals:
    """Draws one thing that somebody might do to what is there now, and does it."""

    def __init__(self, bed: Bed, draw: Draw, expected: Expected) -> None:
        self._bed, self._draw = bed, draw
        self._links = bed.links()
        ours = {key[1]: value for key, (value, _) in expected.facts.items() if key[0] == "link" and key[2] == "kind"}
        there = {name: kind for name, kind in ours.items() if name in self._links}
        self._bridges = [name for name, kind in there.items() if kind == "bridge"]
        self._taps = [name for name, kind in there.items() if kind == "tap"]
        ports = [name for name in self._taps if self._links[name].master]
        self._ports = ports
        self._routed = [name for name in self._taps if name not in ports]
        self._sized = {key[1] for key in expected.facts if key[0] == "link" and key[2] == "mtu"}
        self._proxies = [(entry.device, entry.address) for entry in bed.kernel.neighbours(proxies=True)]
        self._tables = sorted(name for name in bed.kernel.tables() if name.endswith(" hostnet"))

    def act(self) -> str:
        """Do one thing; says what."""
        choices: list[Callable[[], str]] = [self._turn_off]
        choices += [self._delete_link, self._add_address, self._set_mtu] if self._bridges or self._taps else []
        choices += [self._delete_address, self._set_mac, self._set_stp] if self._bridges else []
        choices += [self._detach, self._move, self._isolate] if self._ports else []
        choices += [self._reroute] if self._routed else []
        choices += [self._misroute] if self._replies() else []
        choices += [self._unproxy] if self._proxies else []
        if "inet hostnet" in self._tables:
            # Elements are what there are most of, so they are what goes wrong most.
            choices += [self._flush, self._flush_chain, *[self._delete_element] * 3, *[self._change_element] * 2]
        return str(self._draw(st.sampled_from(choices))())

    def _one(self, names: list[str]) -> str:
        return str(self._draw(st.sampled_from(names)))

    def _ip(self, command: str) -> str:
        self._bed.host.run(f"ip {command}", check=False)  # what is gone already may be deleted twice
        return f"ip {command}"

    def _delete_link(self) -> str:
        return self._ip(f"link delete {self._one([*self._bridges, *self._taps])}")

    def _add_address(self) -> str:
        cidr = self._one(["10.0.0.99/24", "10.66.0.1/24", "fd66::1/64", "10.1.0.1/32"])
        return self._ip(
            f"address add {cidr} dev {self._one([*self._bridges, *self._routed, *self._bridges][:4] or self._taps)}"
        )

    def _delete_address(self) -> str:
        name = self._one(self._bridges)
        there = list(self._links[name].addresses)
        return self._ip(f"address delete {self._one(there)} dev {name}") if there else "nothing"

    def _set_mtu(self) -> str:
        name = self._one([*self._bridges, *self._taps])
        # Below 1280 the kernel takes IPv6 off; where no MTU is declared, it is nobody's to put back.
        sizes = ["1000", "1450"] if name in self._sized else ["1300", "1450"]
        return self._ip(f"link set {name} mtu {self._one(sizes)}")

    def _set_mac(self) -> str:
        return self._ip(f"link set {self._one(self._bridges)} address 02:00:00:00:00:77")

    def _set_stp(self) -> str:
        return self._ip(f"link set {self._one(self._bridges)} type bridge stp_state {self._one(['0', '1'])}")

    def _detach(self) -> str:
        return self._ip(f"link set {self._one(self._ports)} nomaster")

    def _move(self) -> str:
        return self._ip(f"link set {self._one(self._ports)} master {self._one(self._bridges)}") if self._bridges else ""

    def _isolate(self) -> str:
        way = self._one(["on", "off"])
        return self._ip(f"link set {self._one(self._ports)} type bridge_slave isolated {way}")

    def _reroute(self) -> str:
        name = self._one(self._routed)
        number = int(name[-1]) + 1
        cidr = self._one([f"10.2.{number}.5/32", f"fd14:{number}::5/128", "10.88.0.0/24"])
        verb = self._one(["delete", "replace"])
        return self._ip(f"{'-6 ' if ':' in cidr else ''}route {verb} {cidr} dev {name}")

    def _replies(self) -> list[str]:
        return sorted({str(rule.table) for rule in self._bed.kernel.rules() if rule.table >= REPLIES})

    def _misroute(self) -> str:
        what = self._one(["rule delete table", "route flush table"])
        return self._ip(f"{self._one(['-4', '-6'])} {what} {self._one(self._replies())}")

    def _unproxy(self) -> str:
        device, address = self._draw(st.sampled_from(self._proxies))
        return self._ip(f"neigh delete proxy {address} dev {device}")

    def _turn_off(self) -> str:
        name = self._one([V4, V6])
        self._bed.switch(name, "0")
        return f"sysctl {name}=0"

    def _nft(self, command: str) -> str:
        self._bed.nft(command + "\n")
        return f"nft {command}"

    def _flush(self) -> str:
        return self._nft(self._one(["flush ruleset", *(f"delete table {name}" for name in self._tables)]))

    def _flush_chain(self) -> str:
        return self._nft(
            f"flush chain inet hostnet {self._one(['prerouting', 'forward', 'postrouting', 'dnat_prerouting4'])}"
        )

    def _elements(self, *prefixes: str) -> list[tuple[str, str, str]]:
        """Elements that one resource has: (set, key, value) as nft takes them."""
        text = self._bed.kernel.listing("table inet hostnet")
        return _elements_of(text, prefixes)

    def _delete_element(self) -> str:
        found = self._elements(*FORWARD_MAPS, *_GATEWAY_SETS)
        if not found:
            return "nothing"
        name, key, _ = self._draw(st.sampled_from(found))
        return self._nft(f"delete element inet hostnet {name} {{ {key} }}")

    def _change_element(self) -> str:
        found = self._elements("dnat_port", "dnat_source", "dnat_addr4", "dnat_addr6", "inner_port", "inner_addr_port")
        if not found:
            return "nothing"
        name, key, _ = self._draw(st.sampled_from(found))
        value = "fd99::9 . 9" if name.endswith("6") else "10.99.0.9 . 9"
        self._bed.nft(
            f"delete element inet hostnet {name} {{ {key} }}\nadd element inet hostnet {name} {{ {key} : {value} }}\n"
        )
        return f"nft: {name} {key} : {value}"


def _elements_of(text: str, prefixes: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """The elements that `nft list` prints, of the sets whose names begin like this."""
    found = []
    body: list[str] = []
    name = ""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith(("set ", "map ")):
            name, body = line.split()[1], []
        elif line.startswith("elements = {") or body:
            body.append(line.removeprefix("elements = {"))
            if line.endswith("}"):
                for element in " ".join(body).removesuffix("}").split(","):
                    head, _, value = element.partition(" : ")
                    key, comment, _ = head.partition(" comment ")
                    del comment
                    if name.startswith(prefixes):
                        found.append((name, key.strip(), value.strip()))
                body = []
    return found


# --- the machine ---------------------------------------------------------------------------------------------------


def _fits(wanted: set[str], shown: set[str]) -> bool:
    """Whether what is shown of a resource is what should be; "" wants some property, whichever."""
    some, exactly = "" in wanted, wanted - {""}
    if shown == {"gone"}:
        return some or exactly == {"gone"}
    if len(wanted) > 1:
        exactly -= {"forwarding"}  # a gateway that lost its networks does not need the switch, as it is read
    return exactly <= shown and (some or shown <= wanted)


class Ground:
    """A host for many sequences, one after the other."""

    def __init__(self) -> None:
        """Make it."""
        self.failed = False  # one sequence that is made as short as can be is enough: that takes minutes
        self.template: list[Any] = []  # the tables' chains and rules as they were first made
        self._make()

    def _make(self) -> None:
        self.bed = Bed()
        self.bed.host.ip(
            f"address add 192.0.2.3/24 dev {UPLINK}",
            f"address add 2001:db8::3/64 dev {UPLINK} nodad",
            f"link add {SECOND} address 02:00:00:00:00:03 type veth peer name out1",
            "link set out1 up",
            f"link set {SECOND} up",
            f"address add 203.0.113.2/24 dev {SECOND}",
            f"address add 2001:db8:2::2/64 dev {SECOND} nodad",
            f"route add default via 203.0.113.1 dev {SECOND} metric 500",
            f"route add ::/0 via 2001:db8:2::1 dev {SECOND} metric 5000",
        )
        self.provider = InsideProvider(self.bed.host)

    def close(self) -> None:
        """Take it away."""
        self.provider.close()
        self.bed.close()

    def renew(self) -> None:
        """Another host."""
        self.close()
        self._make()


class HostMachine(RuleBasedStateMachine):
    """A stack on a host, as a sequence of what may happen to it."""

    ground: ClassVar[Ground]

    def __init__(self) -> None:
        """A host that nothing has touched, an empty stack."""
        super().__init__()
        self.model = Model(UPLINK, FREE, (*BRIDGES, *TAPS), SECOND)
        self.bed, self.provider = self.ground.bed, self.ground.provider
        self.stack = Stack(self.provider, self.bed.host.name)
        self.pristine: dict[str, Any] = {}
        self.drifted = False  # whether somebody did something since the last refresh
        self.found: set[str] = set()  # what the last refresh showed
        self.on = {"4": False, "6": False}

    @initialize(v4=st.booleans(), v6=st.booleans())
    def begin(self, v4: bool, v6: bool) -> None:  # noqa: FBT001 - drawn
        """The sysctls belong to another program: in the end they are as they were."""
        self.on = {"4": v4, "6": v6}
        self.bed.switch(V4, str(int(v4)))
        self.bed.switch(V6, str(int(v6)))
        self.pristine = self.bed.snapshot()

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """A program is changed in one to three places, and goes up."""
        programs = Programs(data.draw)
        program = dict(self.stack.program)
        for _ in range(data.draw(st.integers(1, 3))):
            program = programs.change(program)
        self.look()
        note(f"up {program}")
        self.stack.up(program)
        self.check()

    @rule(data=st.data())
    @precondition(lambda self: self.stack.state)
    def vandalise(self, data: st.DataObject) -> None:
        """Somebody does something behind hostnet's back, once or twice."""
        for _ in range(data.draw(st.integers(1, 2))):
            note(Vandals(self.bed, data.draw, self.model.expected(self.stack.program)).act())
        self.drifted = True

    @rule()
    @precondition(lambda self: self.drifted)
    def repair(self) -> None:
        """`refresh` shows what was done, and `up` repairs that and nothing else."""
        self.look()
        note("up")
        touched = {step.split(":")[0].split()[1] for step in self.stack.again()}
        assert touched == self.found
        self.check()

    def look(self) -> None:
        """Refresh shows the drift that was made, in the right property, and no other."""
        if not self.drifted:
            return
        program = self.stack.program
        expected = self.model.expected(program)
        ruleset = self.bed.ruleset()
        seen = self.facts(ruleset)
        whole = not expected.table or rules(ruleset) == self.ground.template
        wanted = drift(program, expected, seen, whole_table=whole)
        for digit, switch in (("4", V4), ("6", V6)):
            for name in self.model.families(program)[digit]:
                if self.bed.switch(switch) != "1" and "gone" not in wanted.get(name, ()):
                    wanted.setdefault(name, set()).add("guest" if program[name][0] == "TapBinding" else "forwarding")
        if self.replying() != self.model.replying(program):
            wanted.setdefault("nat", set()).add("replyBySameUplink")
        shown = self.stack.refresh()
        note(f"refresh: {shown}")
        tops = {name: {path.split(".")[0].split("[")[0] for path in paths} for name, paths in shown.items()}
        assert tops.keys() == wanted.keys(), (tops, wanted)
        for name, properties in wanted.items():
            assert _fits(properties, tops[name]), (name, tops, wanted)
        self.found, self.drifted = set(wanted), False

    def facts(self, ruleset: list[dict[str, Any]]) -> dict[Fact, Any]:
        """What an observer sees."""
        proxies = [(entry.device, entry.address) for entry in self.bed.kernel.neighbours(proxies=True)]
        links = link_facts(self.bed.links(), self.bed.kernel.static_routes())
        return links | proxy_facts(proxies) | table_facts(ruleset)

    def replying(self) -> set[str]:
        """The uplinks for which marks, rules and tables of routes are there, in both families."""
        rules = Counter(rule.table for rule in self.bed.kernel.rules() if rule.table >= REPLIES)
        routes = self.bed.kernel.routes(table=None)
        led = Counter((x.table, x.device) for x in routes if x.table in rules and x.destination == "default")
        marked = any(name.startswith("inet hostnet_replies") for name in self.bed.kernel.tables())
        return {device for (table, device), of in led.items() if marked and (of, rules[table]) == (2, 2)}

    def check(self) -> None:
        """The kernel is as the model says; a refresh has nothing to show and another `up` nothing to do."""
        program = self.stack.program
        expected = self.model.expected(program)
        ruleset = self.bed.ruleset()
        assert expected.differences(self.facts(ruleset)) == {}
        listed = rules(ruleset)
        if expected.table and not self.ground.template:
            self.ground.template = listed
        assert listed == (self.ground.template if expected.table else [])
        assert self.replying() == self.model.replying(program)
        for digit, switch in (("4", V4), ("6", V6)):
            if self.model.families(program)[digit]:
                assert self.bed.switch(switch) == "1"
        if self.model.families(program)["6"]:
            assert self.bed.switch("net.ipv6.conf.eth0.accept_ra") == "2"
        for link, wanted in self.model.localnet(program).items():
            if self.bed.switch(f"net.ipv4.conf.{link}.route_localnet") != str(int(wanted)):
                raise AssertionError(f"route_localnet of {link} should be {wanted}")
        assert self.stack.refresh() == {}
        assert self.stack.again() == []
        self.found = set()

    def teardown(self) -> None:
        """When everything is deleted, whatever was done to it, nothing is left; switches are what they were."""
        try:
            note("destroy")
            self.stack.destroy()
            left = self.bed.snapshot()
            # A switch that somebody turned off in the meantime is theirs.
            for name in (V4, V6):
                if left["switches"][name] == "0":
                    self.bed.switch(name, self.pristine["switches"][name])
            assert difference(self.bed.snapshot(), self.pristine) == []
            assert {rule.table for rule in self.bed.kernel.rules()} == {253, 254, 255}
            assert not self.provider.directory.exists()
        except BaseException:
            self.ground.renew()  # so that the next sequence is not blamed
            raise


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """This worker's host."""
    if os.geteuid() != 0:
        pytest.skip("kernel tests need root: they make network namespaces")
    made = Ground()
    yield made
    made.close()


@pytest.mark.parametrize("number", range(SEED, SEED + -(-SEQUENCES // AT_ONCE)))
def test_whatever_happens_the_kernel_is_as_declared(ground: Ground, number: int) -> None:
    """See the module."""
    seeded = seed(number)(type("HostMachine", (HostMachine,), {"ground": ground}))
    try:
        _run(seeded, ground)
    except BaseException:
        ground.failed = True
        raise


def _run(seeded: type[HostMachine], ground: Ground) -> None:
    run_state_machine_as_test(
        seeded,
        settings=settings(
            max_examples=min(AT_ONCE, SEQUENCES),
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
            phases=[phase for phase in Phase if phase is not Phase.shrink or (SHRINK and not ground.failed)],
        ),
    )


# --- what sequences found, each by itself --------------------------------------------------------------------------

NETWORK: dict[str, tuple[str, Inputs]] = {
    "net": ("Bridge", {"name": "br0", "addresses": ["10.0.0.1/24", "fd12::1/64"]}),
    "tap": ("TapBinding", {"name": "vm0", "bridge": "${net.name}"}),
    "nat": ("NatGateway", {"internalInterfaces": ["${net.name}"], "internalIps": ["10.9.0.0/24"], "enableIpv6": True}),
    "web": ("PortForward", {"natGateway": "${nat.id}", "sourcePort": 80, "destination": "10.0.0.2"}),
}


@pytest.fixture
def stack(ground: Ground) -> Iterator[Stack]:
    """An empty stack on the worker's host, which is given back as it was."""
    before = ground.bed.snapshot()
    made = Stack(ground.provider, ground.bed.host.name)
    try:
        yield made
        made.destroy()
        assert difference(ground.bed.snapshot(), before) == []
    except BaseException:
        ground.renew()
        raise


def test_a_bridge_in_a_gateways_network_that_goes_is_not_taken_for_a_strangers(ground: Ground, stack: Stack) -> None:
    """Frames within other people's bridges pass in a gateway's networks: one of ours leaves no such element behind."""
    nat = {"nat": ("NatGateway", {"internalIps": ["10.9.0.0/24"]})}
    stack.up({**nat, "net": ("Bridge", {"name": "br0", "addresses": ["10.9.0.1/24"]})})
    stack.up(nat)
    assert "br0" not in json.dumps(ground.bed.ruleset())
    assert stack.refresh() == {}


def repairs(stack: Stack, bed: Bed) -> None:
    """A refresh shows something, the next `up` repairs it, and then all is as it was."""
    assert stack.refresh(), "the drift was not seen"
    assert stack.again()
    assert stack.refresh() == {}


def test_subnets_of_one_bridge_may_overlap(ground: Ground, stack: Stack) -> None:
    """One bridge's addresses may be in one network: nftables' interval sets take no two that overlap."""
    addresses = ["10.1.0.1/24", "10.1.0.129/25", "10.1.0.2/24"]
    stack.up({**NETWORK, "net": ("Bridge", {"name": "br0", "addresses": addresses})})
    assert stack.refresh() == {}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("name", "networks"),
    [
        ("internalIps", ["10.9.0.0/16", "10.9.1.0/24"]),
        ("internalIpv6s", ["fd19::/48", "fd19::/64"]),
        ("sourceCidrs", ["198.51.0.0/16", "198.51.100.0/24"]),
    ],
)
def test_networks_of_one_list_may_overlap(
    ground: Ground, stack: Stack, name: str, networks: list[str], order: int
) -> None:
    """One inside the other says nothing new, in whichever order; and the narrower one may be taken out again."""

    def program(given: list[str]) -> dict[str, tuple[str, Inputs]]:
        if name == "sourceCidrs":
            return {"web": ("PortForward", {"sourcePort": 80, "destination": "10.0.0.2", name: given})}
        return {"nat": ("NatGateway", {name: given, "enableIpv6": True})}

    stack.up(program(networks[::order]))
    assert stack.refresh() == {}
    stack.up(program(networks[:1]))
    assert stack.refresh() == {}


@pytest.mark.parametrize("listen", [{}, {"listenAddresses": ["192.0.2.2", "192.0.2.3"], "sourceCidrs": ["10.0.0.0/8"]}])
def test_what_is_gone_is_let_go(ground: Ground, stack: Stack, listen: Inputs) -> None:
    """What a refresh finds gone leaves the state: then nobody will ask to delete what is left of it."""
    before = ground.bed.snapshot()
    stack.up({"web": ("PortForward", {"sourcePort": 80, "destination": "10.0.0.2", **listen})})
    ground.bed.nft("flush ruleset\n")
    assert stack.refresh() == {"web": ["gone"]}
    stack.destroy()
    assert difference(ground.bed.snapshot(), before) == []


def test_what_is_gone_does_not_come_back(ground: Ground, stack: Stack) -> None:
    """With another key after it was found gone, a forward has the new elements alone."""
    stack.up(NETWORK)
    ground.bed.nft("flush ruleset\n")
    stack.refresh()
    stack.up({**NETWORK, "web": ("PortForward", {"sourcePort": 81, "destination": "10.0.0.2"})})
    ports = {key[-1] for key in table_facts(ground.bed.ruleset()) if key[0] == "forward"}
    assert ports == {81}


def test_a_declared_mtu_stays(ground: Ground, stack: Stack) -> None:
    """Also where it is what the kernel had chosen: a bridge otherwise follows its smallest port."""
    net = ("Bridge", {"name": "br0", "addresses": ["10.0.0.1/24"], "mtu": 1500})
    stack.up({"net": ("Bridge", {"name": "br0", "addresses": ["10.0.0.1/24"]})})
    stack.up({"net": net})
    stack.up({"net": net, "tap": ("TapBinding", {"name": "vm0", "bridge": "${net.name}", "mtu": 1400})})
    assert ground.bed.links()["br0"].mtu == 1500
    assert stack.refresh() == {}


def test_a_routed_taps_routes_outlive_its_last_address(ground: Ground, stack: Stack) -> None:
    """The kernel takes all IPv4 routes of an interface with its last IPv4 address (fib_disable_ip)."""
    routes = ["10.2.0.5/32", "10.3.0.0/24"]
    stack.up({"tap": ("TapBinding", {"name": "vm0", "addresses": ["10.2.0.1/32"], "routes": routes})})
    stack.up({"tap": ("TapBinding", {"name": "vm0", "routes": routes})})
    assert ground.bed.kernel.static_routes()["vm0"] == set(routes)
    assert stack.refresh() == {}


def test_a_bridges_isolation_is_seen_on_its_taps(ground: Ground, stack: Stack) -> None:
    """`portIsolation` is kept on each port: switched off on one, it shows and is put back."""
    net = ("Bridge", {"name": "br0", "portIsolation": True})
    stack.up({"net": net, "tap": ("TapBinding", {"name": "vm0", "bridge": "${net.name}"})})
    ground.bed.host.run("ip link set vm0 type bridge_slave isolated off")
    repairs(stack, ground.bed)
    assert ground.bed.links()["vm0"].isolated


def test_a_guest_gets_no_address_of_a_network_that_its_bridge_should_not_have(ground: Ground, stack: Stack) -> None:
    """Another program's address on a bridge without addresses is the bridge's drift; no guest follows it."""
    net = {"net": ("Bridge", {"name": "br0", "addresses": []})}
    guest = ("TapBinding", {"name": "vm0", "bridge": "${net.name}", "guest": {}})
    stack.up({**net, "tap": guest})
    ground.bed.host.run("ip address add 10.66.0.1/24 dev br0")
    stack.up({**net, "tap": guest, "late": ("TapBinding", {**guest[1], "name": "vm1"})})
    assert stack["late.guest.addresses"] == []
    assert stack.refresh() == {"net": ["addresses[0]"]}
    assert stack.again() == ["update net: addresses[0]"]
    assert stack.refresh() == {}


def test_guests_follow_the_addresses_of_their_bridge_in_one_run(ground: Ground, stack: Stack) -> None:
    """Also the gateway of a guest whose own addresses stay."""
    tap = {"tap": ("TapBinding", {"name": "vm0", "bridge": "${net.name}", "guest": {}})}
    stack.up({"net": ("Bridge", {"name": "br0", "addresses": ["10.0.0.1/24"]}), **tap})
    stack.up({"net": ("Bridge", {"name": "br0", "addresses": ["10.0.0.254/24", "fd12::1/64"]}), **tap})
    assert (stack["tap.guest.gateway"], stack["tap.guest.gateway6"]) == ("10.0.0.254", "fd12::1")
    assert stack.refresh() == {}
    assert stack.again() == []


def test_a_guest_has_one_address_of_each_of_two_subnets_that_overlap(ground: Ground, stack: Stack) -> None:
    """A new subnet gives it another in the same run, a new order keeps both, and another change does not concern it."""
    tap = {"tap": ("TapBinding", {"name": "vm0", "bridge": "${net.name}", "guest": {}})}
    wide, narrow = "10.1.0.1/24", "10.1.0.129/25"

    def up(*addresses: str, **other: int) -> list[str]:
        steps = stack.up({"net": ("Bridge", {"name": "br0", "addresses": list(addresses), **other}), **tap})
        assert stack.refresh() == {}
        assert stack.again() == []
        return steps

    up(narrow)
    up(narrow, wide)
    assert stack["tap.guest.addresses"] == ["10.1.0.130/25", "10.1.0.2/24"]
    up(wide, narrow)
    assert set(stack["tap.guest.addresses"]) == {"10.1.0.130/25", "10.1.0.2/24"}
    assert up(wide, narrow, mtu=1400) == ["update net: mtu"]


SHARED = (
    'inet hostnet our_links { "br0" }',
    'inet hostnet inner_links { "br0" }',
    'inet hostnet outer_links { "eth0" }',
    "inet hostnet inner_port4 { tcp . 80 }",
    'inet hostnet hairpin_pairs { "br0" . "br0" }',
    "inet hostnet bridge_addrs4 { 10.0.0.1 }",
    'inet hostnet hairpin_sources4 { 10.0.0.0/24 . "br0" }',
    "inet hostnet internal_nets4 { 10.0.0.0/24 }",
    "inet hostnet closed_nets4 { 10.9.0.0/24 }",
    "inet hostnet gateway_addrs4 { 10.0.0.1 }",
    "inet hostnet forward_counters4 { tcp . 80 . 10.0.0.2 }",
    'bridge hostnet hairpin_ports { "vm0" . "vm0" }',
)
FOREIGN = (
    'inet hostnet dnat_port4 { "eth0" . tcp . 81 : 10.0.0.66 . 81 }',
    "inet hostnet inner_port4 { tcp . 81 : 10.0.0.66 . 81 }",
    'inet hostnet inner_links { "eth0" }',
    'inet hostnet internal_links { "eth0" }',
    'inet hostnet forward_pairs4 { "eth0" . "br0" }',
    "inet hostnet internal_nets4 { 10.77.0.0/24 }",
)


@pytest.mark.parametrize("element", SHARED)
def test_an_element_that_all_share_is_seen_and_put_back(ground: Ground, stack: Stack, element: str) -> None:
    """It is no one resource's, and still what the network works by."""
    stack.up(NETWORK)
    had = ground.bed.snapshot()
    ground.bed.nft(f"delete element {element}\n")
    repairs(stack, ground.bed)
    assert difference(ground.bed.snapshot(), had) == []


@pytest.mark.parametrize("element", FOREIGN)
def test_an_element_that_is_nobodys_is_seen_and_taken_out(ground: Ground, stack: Stack, element: str) -> None:
    """Somebody opened a way in our tables that no program asks for."""
    stack.up(NETWORK)
    had = ground.bed.snapshot()
    ground.bed.nft(f"add element {element}\n")
    repairs(stack, ground.bed)
    assert difference(ground.bed.snapshot(), had) == []


@pytest.mark.parametrize("change", ["route_localnet", "hairpin"])
def test_a_way_to_oneself_that_is_shut_is_seen_and_opened(ground: Ground, stack: Stack, change: str) -> None:
    """What lets localhost and a guest reach a forward to a guest is part of that forward."""
    stack.up(NETWORK)
    had = ground.bed.snapshot()
    if change == "route_localnet":
        ground.bed.switch("net.ipv4.conf.br0.route_localnet", "0")
    else:
        ground.bed.host.run("ip link set vm0 type bridge_slave hairpin off")
    repairs(stack, ground.bed)
    assert difference(ground.bed.snapshot(), had) == []
    assert ground.bed.links()["vm0"].hairpin
