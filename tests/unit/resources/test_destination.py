"""A forward's destination as a value: one spelling for each meaning, and back."""

from __future__ import annotations

import pytest
from hostnet.resources.schema.destination import Destination
from hostnet.resources.schema.model import BadValueError
from hypothesis import given
from hypothesis import strategies as st

PORTS = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: (min(pair), max(pair)))
ADDRESSES = st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=6, network="fd12::/16")


@pytest.mark.parametrize(
    ("spelled", "destination", "canonical"),
    [
        ("10.0.0.2", Destination("10.0.0.2"), "10.0.0.2"),
        ("10.0.0.2:80", Destination("10.0.0.2", (80, 80)), "10.0.0.2:80"),
        ("10.0.0.2:80-80", Destination("10.0.0.2", (80, 80)), "10.0.0.2:80"),
        ("10.0.0.2:8000-8100", Destination("10.0.0.2", (8000, 8100)), "10.0.0.2:8000-8100"),
        ("FD12:0::2", Destination("fd12::2"), "fd12::2"),
        ("[fd12::2]", Destination("fd12::2"), "fd12::2"),
        ("[FD12::2]:0443", Destination("fd12::2", (443, 443)), "[fd12::2]:443"),
        ("127.0.0.1:53", Destination("127.0.0.1", (53, 53)), "127.0.0.1:53"),
    ],
)
def test_a_spelling_is_read_and_written(spelled: str, destination: Destination, canonical: str) -> None:
    """Addresses as `ipaddress` prints them, ports as numbers."""
    assert Destination.parse(spelled) == destination
    assert str(destination) == canonical


@pytest.mark.parametrize(
    "spelled",
    ["", ":80", "10.0.0.2:", "10.0.0.2:80:81", "10.0.0.2:81-80", "10.0.0.2:0", "10.0.0.2:65536", "[10.0.0.2]:80",
     "fd12::2]:80", "[fd12::2", "web:80", "10.0.0.2/24", "10.0.0.2:8000:8100", "[::1]:80", "0.0.0.0:80"],
)  # fmt: skip
def test_what_no_forward_can_lead_to_is_refused(spelled: str) -> None:
    """With what would be right."""
    with pytest.raises(BadValueError, match=r"^(an?|the) "):
        Destination.parse(spelled)


@given(ADDRESSES.map(str), st.none() | PORTS)
def test_what_is_written_reads_back(address: str, ports: tuple[int, int] | None) -> None:
    """For every address and range."""
    destination = Destination(address, ports)
    assert Destination.parse(str(destination)) == destination
    assert destination.family == ("ipv6" if ":" in address else "ipv4")


def test_source_ports_are_the_destinations_where_it_has_none() -> None:
    """Its own are kept."""
    assert Destination("10.0.0.2").on((80, 81)) == Destination("10.0.0.2", (80, 81))
    assert Destination("10.0.0.2", (8080, 8080)).on((80, 81)) == Destination("10.0.0.2", (8080, 8080))
