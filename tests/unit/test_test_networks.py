"""The networks of the tests' machines."""

from __future__ import annotations

import itertools

from tests.machine import networks


def test_no_two_topologies_of_the_tests_share_an_address() -> None:
    """They run at the same time: two that did sent one's tree to the other's machines."""
    for (one, first), (other, second) in itertools.combinations(networks.OCTETS.items(), 2):
        assert not set(first) & set(second), f"{one} and {other}"
    # The gateway, and outsiders.
    assert all(1 < octet < 200 for octets in networks.OCTETS.values() for octet in octets)
