"""EgressRule: what guests may reach; the type of `egress`."""

from __future__ import annotations

from hostnet.resources.schema.model import Declared, Field, ListOf, Record, Report, join, prop, without_none
from hostnet.resources.schema.types import Choice, NetCidr, PortSpec, split_ports
from hostnet.resources.schema.values import UNKNOWN, Value
from hostnet.wire.objects import EgressRule, ports_text

_PORTED = ("tcp", "udp", "sctp")


class EgressRuleInputs(Declared):
    """Something that guests may reach."""

    cidr: str = prop(NetCidr(), "The network, without host bits; for one address a /32 or /128.", required=True)
    protocol: str = prop(
        Choice(
            *_PORTED,
            "icmp",
            "any",
            token="hostnet:index:EgressProtocol",  # noqa: S106 - a type token
            doc="The protocol by which something may be reached. `icmp` is ICMPv6 for an IPv6 network.",
        ),
        "The protocol.",
        default="any",
    )
    ports: str | None = prop(
        PortSpec(), "The port, or a range as `from:to`. It requires `tcp`, `udp` or `sctp`.", default_doc="every port"
    )


def _rules(judged: dict[str, Value], path: str, report: Report) -> None:
    if judged["ports"] is None or judged["protocol"] is UNKNOWN or judged["protocol"] in _PORTED:
        return
    report.fail(join(path, "ports"), f"requires a protocol with ports: one of {', '.join(_PORTED)}")


EGRESS = ListOf(Record(EgressRuleInputs, "hostnet:index:EgressRule", rules=_rules))


def _to_wire(rules: tuple[EgressRuleInputs, ...] | None) -> tuple[EgressRule, ...] | None:
    if rules is None:
        return None
    found = (EgressRule(each.cidr, each.protocol, split_ports(each.ports) if each.ports else None) for each in rules)  # type: ignore[arg-type]
    return tuple(dict.fromkeys(found))


def _from_wire(rules: tuple[EgressRule, ...] | None) -> list[Value] | None:
    return None if rules is None else [_recorded(each) for each in rules]


def _recorded(rule: EgressRule) -> dict[str, Value]:
    protocol = None if rule.protocol == "any" else rule.protocol
    ports = None if rule.ports is None else ports_text(rule.ports)
    return without_none({"cidr": rule.cidr, "protocol": protocol, "ports": ports})


EGRESS_FIELD = Field("egress", _to_wire, _from_wire)
