"""What Vagrant is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from control.errors import ControlError
from control.lab import vagrant
from control.options import Options
from control.topology import Topology

NONE = Topology("none", "x", None, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variable", "call"),
    [
        ("PROVIDER", lambda: vagrant.choose_provider(NONE, Options.read())),
        ("SUITE", lambda: vagrant.choose_suite(NONE, Options.read())),
    ],
)
def test_an_unknown_provider_or_suite_is_refused_with_the_known_ones(
    variable: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "banana")
    with pytest.raises(ControlError, match=f"{variable}=banana: .*use ") as caught:
        call()
    assert caught.value.code == 2
