"""EgressRule: what guests may reach; the type of `egress`."""

from __future__ import annotations

from hostnet.resources.schema.model import (
    Declared,
    Field,
    ListOf,
    Record,
    Report,
    join,
    known_items,
    prop,
    without_none,
)
from hostnet.resources.schema.types import Choice, NamedDomain, NetCidr, PortSpec, split_ports
from hostnet.resources.schema.values import UNKNOWN, Value
from hostnet.wire.objects import EgressRule, ports_text

_PORTED = ("tcp", "udp", "sctp")


class EgressRuleInputs(Declared):
    """Something that guests may reach."""

    cidr: str | None = prop(
        NetCidr(),
        "The network, without host bits; for one address a /32 or /128. Not together with `domain`.",
        default_doc="none: the rule has a `domain`",
    )
    domain: str | None = prop(
        NamedDomain(),
        "The name (`example.com`): the addresses that the DNS of the guest's own bridge has answered for it, or for a "
        "name below it, until an hour after the last answer. `*.example.com` means the same. It requires a bridge with "
        "a `dhcpServer` that has no `dnsServers`. What the guest learns from another name server, or of an address "
        "without a name, is refused. Not together with `cidr`.",
        default_doc="none: the rule has a `cidr`",
        effect="dnsmasq puts each address that it answers for the name into a set, with a timeout of an hour. It has "
        "no cache. Guests with the same names share a chain that looks at these sets.",
    )
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
    given = [name for name in ("cidr", "domain") if judged[name] is not None]
    if not given:
        report.fail(join(path, "cidr"), "is required where there is no domain")
    elif len(given) > 1 and UNKNOWN not in (judged["cidr"], judged["domain"]):
        report.fail(join(path, "domain"), "must not be given together with cidr: a rule is for one of the two")
    if judged["ports"] is None or judged["protocol"] is UNKNOWN or judged["protocol"] in _PORTED:
        return
    report.fail(join(path, "ports"), f"requires a protocol with ports: one of {', '.join(_PORTED)}")


EGRESS = ListOf(Record(EgressRuleInputs, "hostnet:index:EgressRule", rules=_rules))


def _to_wire(rules: tuple[EgressRuleInputs, ...] | None) -> tuple[EgressRule, ...] | None:
    if rules is None:
        return None
    return tuple(dict.fromkeys(map(_object, rules)))


def _object(rule: EgressRuleInputs) -> EgressRule:
    ports = split_ports(rule.ports) if rule.ports else None
    return EgressRule(rule.cidr, rule.protocol, ports, rule.domain)  # type: ignore[arg-type]


def named_rules(rules: Value) -> list[int]:
    """The numbers of the checked rules that have a domain name."""
    return [number for number, rule in known_items(rules) if isinstance(rule, dict) and rule.get("domain") is not None]


def _from_wire(rules: tuple[EgressRule, ...] | None) -> list[Value] | None:
    return None if rules is None else [_recorded(each) for each in rules]


def _recorded(rule: EgressRule) -> dict[str, Value]:
    protocol = None if rule.protocol == "any" else rule.protocol
    ports = None if rule.ports is None else ports_text(rule.ports)
    return without_none({"cidr": rule.cidr, "domain": rule.domain, "protocol": protocol, "ports": ports})


EGRESS_FIELD = Field("egress", _to_wire, _from_wire)
