"""A URN as text and as its parts: the forms that the engine makes, and texts that are none."""

from __future__ import annotations

import pytest
from hostnet.wire.urn import Urn
from hypothesis import given
from hypothesis import strategies as st

_BRIDGE = "hostnet:index:Bridge"


@pytest.mark.parametrize(
    ("text", "urn", "type_", "kind"),
    [
        (f"urn:pulumi:dev::shop::{_BRIDGE}::web", Urn("dev", "shop", _BRIDGE, "web"), _BRIDGE, "Bridge"),
        (f"urn:pulumi:dev::shop::{_BRIDGE}::a::b", Urn("dev", "shop", _BRIDGE, "a::b"), _BRIDGE, "Bridge"),
        (f"urn:pulumi:dev::shop::{_BRIDGE}::::", Urn("dev", "shop", _BRIDGE, "::"), _BRIDGE, "Bridge"),
        (
            f"urn:pulumi:dev::shop::my:index:Host$my:index:Net${_BRIDGE}::a$b:c",
            Urn("dev", "shop", f"my:index:Host$my:index:Net${_BRIDGE}", "a$b:c"),
            _BRIDGE,
            "Bridge",
        ),
        (
            "urn:pulumi:dev::shop::pulumi-python:dynamic/hostnet:Bridge::web",
            Urn("dev", "shop", "pulumi-python:dynamic/hostnet:Bridge", "web"),
            "pulumi-python:dynamic/hostnet:Bridge",
            "Bridge",
        ),
    ],
)
def test_the_parts_of_a_urn(text: str, urn: Urn, type_: str, kind: str) -> None:
    """Only the name may hold `::`; the type is the resource's own, the last of the qualified one."""
    assert Urn.parse(text) == urn
    assert str(urn) == text
    assert (urn.type, urn.kind) == (type_, kind)


@pytest.mark.parametrize(
    "text", ["", "web", "a::b", "urn:pulumi:dev::shop::web", "dev::shop::hostnet:index:Bridge::web"]
)
def test_a_text_that_is_no_urn_is_a_name(text: str) -> None:
    """Nothing is guessed of it, so that a message shows it whole."""
    urn = Urn.parse(text)
    assert urn == Urn("", "", "", text)
    assert (urn.type, urn.kind, str(urn)) == ("", "", text)


@given(st.text())
def test_every_name_comes_back(name: str) -> None:
    """Whatever a program calls a resource."""
    urn = Urn("dev", "shop", f"my:index:Host${_BRIDGE}", name)
    assert Urn.parse(str(urn)) == urn


def test_one_stack_of_one_project() -> None:
    """A stack of that name in another project is another stack; types and names do not matter."""
    urn = Urn("dev", "shop", _BRIDGE, "web")
    assert urn.is_in_stack_of(Urn("dev", "shop", "hostnet:index:NatGateway", "a::b"))
    assert not urn.is_in_stack_of(Urn("dev", "bank", _BRIDGE, "web"))
    assert not urn.is_in_stack_of(Urn("prod", "shop", _BRIDGE, "web"))
