"""The box that most machines of the tests are made from has what the formulas install, and no more."""

from __future__ import annotations

from typing import Any

import layers

# Of outputs that no topology has by default, and of the other release.
ELSEWHERE = {"filebeat", "s3cmd"}


def names(low: list[Any], state: str, function: str) -> set[str]:
    return {
        name
        for chunk in low
        if (chunk["state"], chunk["fun"]) == (state, function)
        for name in chunk.get("pkgs") or [chunk["name"]]
    }


def test_the_box_has_the_packages_of_all_formulas(all_rendered: dict[Any, Any]) -> None:
    lows = [one.low for one in all_rendered.values() if one.topology.get("suite") != "bookworm"]
    wanted = set().union(*(names(low, "pkg", "installed") for low in lows))
    assert set(layers.PACKAGES) == wanted - ELSEWHERE


def test_what_formulas_mask_before_they_install_it_is_off_there(
    all_rendered: dict[Any, Any],
) -> None:
    lows = [one.low for one in all_rendered.values()]
    assert set(layers.OFF) == set().union(*(names(low, "service", "masked") for low in lows))
