"""What is unpacked of an artifact, on a machine and for an image."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tests.unit.conftest import ROOT, load


def test_byte_code_of_an_archive_stays_behind(tmp_path: Path) -> None:
    """It would be run in place of the sources that it lies beside, whatever is in them."""
    archives = load(ROOT / "salt/_utils/archives.py")
    path = tmp_path / "app.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("app/b.py", "app/__pycache__/b.cpython-311.pyc", "app/lib/__pycache__"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with tarfile.open(path) as archive:
        archives.extract(archive, archive.getmembers(), tmp_path / "out")
    assert [one.name for one in (tmp_path / "out").rglob("*")] == ["app", "b.py"]
