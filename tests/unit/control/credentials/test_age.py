"""The controller's own identities of age(1) are as age makes them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from control.credentials import age

# Of age's own README and tests.
KNOWN = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"


def test_a_known_identity_is_written_as_age_writes_it() -> None:
    assert age.encode(b"\x42" * 32) == KNOWN


def test_each_is_another_and_no_random_text() -> None:
    one, two = age.identity(), age.identity()
    assert one != two
    assert one.startswith("# ")
    assert one.splitlines()[1].startswith("AGE-SECRET-KEY-1")


@pytest.mark.skipif(not shutil.which("age-keygen"), reason="no age on this computer")
def test_age_itself_takes_one() -> None:
    done = subprocess.run(
        ["age-keygen", "-y"], input=age.identity(), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("age1")
