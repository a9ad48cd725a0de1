"""What counts as a source: the files of the folder, and nothing that lies elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder import sources
from builder.errors import BuildError


@pytest.fixture(params=["files alone", "in git"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An application's sources, with a folder `data`; what git knows of them is committed."""
    folder = tmp_path / "shop"
    (folder / "data").mkdir(parents=True)
    (folder / "shop.py").write_text("")
    (folder / "data" / "secret").write_text("its own")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("the controller's")
    # What is no source may be one: it goes into no artifact.
    (folder / ".venv").symlink_to(outside)
    if request.param == "in git":
        for words in (["init", "-q"], ["add", "shop.py", "data"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
    assert sources.source_files(folder) == ["data/secret", "shop.py"]
    return folder


@pytest.mark.parametrize("place", ["secret", "folder", "data", "nothing"])
def test_a_link_among_the_sources_is_refused(folder: Path, place: str) -> None:
    """Else a file of the controller's, such as a key, would be published with the application."""
    outside = folder.parent / "outside"
    if place == "data":
        # A folder that git tracks became a link.
        (folder / "data" / "secret").unlink()
        (folder / "data").rmdir()
    target = {"secret": outside / "secret", "nothing": outside / "nothing"}.get(place, outside)
    (folder / place).symlink_to(target)
    with pytest.raises(BuildError, match=f"shop/{place} is a link"):
        sources.source_files(folder)
