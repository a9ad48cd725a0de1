"""The box that most machines of the tests are made from has what the formulas install, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layers
import yaml

ROOT = Path(__file__).resolve().parents[2]

# Of outputs that no topology has by default, and what no container is given.
ELSEWHERE = {"filebeat", "s3cmd", "systemd-timesyncd"}


def names(low: list[Any], state: str, function: str) -> set[str]:
    return {
        name
        for chunk in low
        if (chunk["state"], chunk["fun"]) == (state, function)
        for name in chunk.get("pkgs") or [chunk["name"]]
    }


def test_the_box_has_the_packages_of_all_formulas(all_rendered: dict[Any, Any]) -> None:
    """Rendered on this computer, whose release may have libraries of other names."""
    releases = yaml.safe_load((ROOT / "salt/collectd/os.yaml").read_text(encoding="utf-8"))
    libraries = {release: set(one["libraries"]) for release, one in releases.items()}
    rendered = set().union(*(names(one.low, "pkg", "installed") for one in all_rendered.values()))
    wanted = rendered - ELSEWHERE - set().union(*libraries.values())
    assert set(layers.PACKAGES) == wanted | libraries[layers.SUITE]


def test_what_formulas_mask_before_they_install_it_is_off_there(
    all_rendered: dict[Any, Any],
) -> None:
    lows = [one.low for one in all_rendered.values()]
    assert set(layers.OFF) == set().union(*(names(low, "service", "masked") for low in lows))
