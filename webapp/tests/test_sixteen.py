"""What most applications are made of builds into an artifact, and imports and works from it.

Wheels are downloaded once into the cache beside webapp/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import WEBAPP

pytestmark = pytest.mark.nightly("downloads and packs 150 MB of packages")

HERE = Path(__file__).parent
CACHE = WEBAPP.parent / ".cache" / "wheels"
APP_TOML = """\
name = "sixteen"
wsgi = "sixteen:application"
include = ["sixteen.py"]
packages = "requirements.lock"
release = "python sixteen.py"
"""
# Each package does something that needs its compiled part.
SIXTEEN = """\
import io
import argon2, bcrypt, celery, cryptography.fernet, django, fastapi, flask, gunicorn.app.wsgiapp
import lxml.etree, numpy, PIL.Image, psutil, psycopg, psycopg2, sqlalchemy, whitenoise

argon2.PasswordHasher().verify(argon2.PasswordHasher().hash("a"), "a")
assert bcrypt.checkpw(b"a", bcrypt.hashpw(b"a", bcrypt.gensalt(4)))
box = cryptography.fernet.Fernet(cryptography.fernet.Fernet.generate_key())
assert box.decrypt(box.encrypt(b"a")) == b"a"
assert lxml.etree.fromstring("<a><b/></a>")[0].tag == "b"
assert numpy.arange(4).dot(numpy.arange(4)) == 14
PIL.Image.new("RGB", (2, 2)).save(io.BytesIO(), "PNG")
assert psutil.Process().name()
assert psycopg.pq.__impl__ == "binary"
assert psycopg2.__libpq_version__
with sqlalchemy.create_engine("sqlite://").connect() as connection:
    assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1

def check(answer: int) -> dict[str, int]:
    return {"answer": answer}

api = fastapi.FastAPI()
api.get("/")(check)
assert api.openapi()["paths"]
celery.Celery("sixteen")
application = flask.Flask("sixteen")
print("all sixteen")
"""
# Debian's, and Debian 13's where this computer has one too.
PYTHONS = {
    "3.11": "/usr/bin/python3",
    "3.13": shutil.which("/root/.pyenv/versions/3.13.0/bin/python3") or shutil.which("python3.13"),
}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sixteen")
    source, out = folder / "source", folder / "out"
    source.mkdir()
    (source / "app.toml").write_text(APP_TOML)
    (source / "sixteen.py").write_text(SIXTEEN)
    shutil.copy(HERE / "sixteen" / "requirements.lock", source)
    command = [sys.executable, str(WEBAPP / "build.py"), "--app", str(source), "--out", str(out)]
    done = subprocess.run([*command, "--cache", str(CACHE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = out.glob("sixteen-0-src.*.tar.gz")
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    return folder / archive.name.removesuffix(".tar.gz")


def test_sixteen_usual_packages_build_and_work_from_the_artifact(unpacked: Path) -> None:
    """As `release` runs it: Debian's Python, and nothing that this computer has installed."""
    command = [str(unpacked / "bin/sixteen"), "release"]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all sixteen\n"), done.stderr
    done = subprocess.run([str(unpacked / "bin/gunicorn"), "--version"], capture_output=True)
    assert done.stdout.startswith(b"gunicorn"), done.stderr
    assert not list(unpacked.rglob("__pycache__")), "a release never changes"


def test_packages_of_another_python_are_in_a_folder_of_their_own(unpacked: Path) -> None:
    folders = {path.name for path in unpacked.glob("lib*")}
    assert folders == {"lib", "lib-3.11-x86_64", "lib-3.13-x86_64"}
    for python in ("3.11", "3.13"):
        library = unpacked / f"lib-{python}-x86_64"
        assert (library / "numpy").is_dir(), "another version for each Python"
        assert (library / "django").is_dir()
    # One wheel for both (abi3), and pure Python: once.
    assert (unpacked / "lib/cryptography/hazmat/bindings/_rust.abi3.so").is_file()
    assert (unpacked / "lib/flask").is_dir()


@pytest.mark.skipif(PYTHONS["3.13"] is None, reason="this computer has no Python 3.13")
def test_the_same_artifact_works_on_python_3_13(unpacked: Path) -> None:
    paths = [unpacked / "lib-3.13-x86_64", unpacked / "lib"]
    done = subprocess.run(
        [str(PYTHONS["3.13"]), "-S", str(unpacked / "app/sixteen.py")],
        env={"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "all sixteen\n"), done.stderr
