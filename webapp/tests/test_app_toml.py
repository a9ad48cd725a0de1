"""app.toml: what is wrong in one is one line with the file, the line and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest

from builder import app_toml, locks, wheels
from builder.errors import BuildError
from builder.wheels import Target
from serving.application import SCHEMA, normalise
from support import WEBAPP

GOOD = {
    "name": '"shop"',
    "wsgi": '"shop:application"',
    "include": '["shop.py"]',
}


def write(folder: Path, text: str = "", **keys: str) -> Path:
    """A folder with an app.toml of GOOD, these keys and this text; an empty key is left out."""
    (folder / "shop.py").write_text("")
    lines = [f"{key} = {value}" for key, value in {**GOOD, **keys}.items() if value]
    (folder / "app.toml").write_text("\n".join([*lines, text, ""]))
    return folder


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))


def test_every_default_is_filled_in(tmp_path: Path) -> None:
    settings = app_toml.read(write(tmp_path, '[cron]\na = {schedule = "hourly", command = "b"}'))
    assert settings["serve"] == {
        "threads": 4,
        "max_body": 1048576,
        "trusted_proxy": True,
        "watchdog": 15,
        "prefix": "SERVING",
    }
    assert settings["build"] == {"python": ["3.11", "3.13"], "machine": ["amd64"]}
    assert settings["cron"]["a"]["timeout"] == 3600
    assert normalise(settings) == settings
    settings = app_toml.read(write(tmp_path, wsgi="", exec='"a"', ready='"/"'))
    assert settings["serve"]["watchdog"] == 0, "its own server has none unless it says so"


@pytest.mark.parametrize(
    ("keys", "text", "said"),
    [
        ({"nmae": '"x"'}, "", "4: nmae is no key; did you mean name?"),
        ({}, "[serve]\nthread = 4", "5: serve.thread is no key; did you mean threads?"),
        ({}, "\n[cron]\na = {when = 'x', command = 'y'}", "6: cron.a.when is no key; there are: "),
        ({}, "[cron]\na = {command = 'y'}", "5: cron.a.schedule is missing"),
        ({"name": '"My Shop"'}, "", "1: name: 'My Shop' is not allowed"),
        ({"name": ""}, "", "1: name is missing"),
        ({"ready": '"ready"'}, "", "4: ready: 'ready' is not allowed, it must begin with / ("),
        ({"wsgi": '"shop"'}, "", "2: wsgi: 'shop' is not allowed"),
        ({"exec": '"x"'}, "", "4: wsgi and exec are both set"),
        ({"wsgi": ""}, "", "1: wsgi and exec are both missing"),
        ({"wsgi": "", "exec": '"x"'}, "", "3: exec needs ready"),
        ({"include": '["shop", "shop.py"]'}, "", "3: include: shop is not there"),
        ({"include": '["../x"]'}, "", "3: include: ../x leads out of the folder"),
        ({"packages": '"requirements.txt"'}, "", "4: packages: requirements.txt is not there"),
        ({}, "[serve]\nthreads = 0", "5: serve.threads: 0 is less than the minimum of 1"),
        ({}, "[serve]\nthreads = '4'", "5: serve.threads: '4' is not of type 'integer'"),
        ({}, "[static]\nstatic = 'x'", "5: static.static: this name can't be used"),
        ({}, "[processes]\n'Worker 1' = 'x'", "5: processes.Worker 1: this name can't be used"),
        ({}, "[processes]\nworker = 'a \"b'", "5: worker: 'a \"b' is no command"),
        ({}, "[build]\nmachine = ['riscv']", "5: build.machine: 'riscv' is not one of"),
        ({"release": "1"}, "", "4: release: 1 is not of type"),
        ({"name": f'"{"s" * 21}"'}, "", "1: name: 'sssss"),
        # systemd takes \r for the end of a line, Python's $ also matches before a last \n.
        (
            {},
            "[cron]\na = {schedule = 'hourly', command = \"b\\rc\"}",
            "5: cron.a.command: '\\r' is no part of one line of text",
        ),
        (
            {},
            '[cron]\na = {schedule = "hourly\\rUnit=poweroff.target", command = "b"}',
            "5: cron.a.schedule: '\\r' is no part of one line",
        ),
        ({}, "[cron]\na = {schedule = 'hourly\\', command = 'b'}", "5: cron.a.schedule: "),
        ({"name": '"shop\\n"'}, "", "1: name: '\\n' is no part of one line"),
        ({"include": '["shop.py", "a\\u0085b"]'}, "", "3: include: '\\x85' is no part"),
        ({}, '[processes]\n"worker\\n" = "x"', "4: processes.worker\\n: '\\n' is no part"),
        ({}, "[processes]\nrelease = 'x'", "5: processes.release: this name can't be used"),
        ({}, "[cron.release]\nschedule = 'hourly'\ncommand = 'x'", "4: cron.release: this name"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, keys: dict[str, str], text: str, said: str
) -> None:
    folder = write(tmp_path, text, **keys)
    with pytest.raises(BuildError) as refusal:
        app_toml.read(folder)
    assert str(refusal.value).startswith(f"{folder}/app.toml:{said}")
    assert "\n" not in str(refusal.value)


def test_a_folder_without_one_and_one_that_is_no_toml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"app\.toml is missing"):
        app_toml.read(tmp_path)
    (tmp_path / "app.toml").write_text("name = \n")
    with pytest.raises(BuildError, match=r"app\.toml: .*line 1"):
        app_toml.read(tmp_path)


def test_the_command_says_it_and_builds_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path, thread="1")
    words = [str(WEBAPP / "build.py"), "--app", str(folder), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("build: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- locks ----------------------------------------------------------------------------------------

HASH = "0" * 64
PYLOCK = f"""\
lock-version = "1.0"
created-by = "test"
[[packages]]
name = "six"
version = "1.17.0"
marker = "python_version >= '3.12'"
[[packages.wheels]]
name = "six-1.17.0-py2.py3-none-any.whl"
url = "https://x/six-1.17.0-py2.py3-none-any.whl"
hashes = {{sha256 = "{HASH}"}}
"""


def test_pylock_is_read_like_a_requirements_lock() -> None:
    (one,) = locks.parse_pylock(PYLOCK, "pylock.toml")
    text = f"six==1.17.0 ; python_version >= '3.12' --hash=sha256:{HASH}\n"
    (other,) = locks.parse_requirements(text, "requirements.lock")
    assert (one.name, one.version, one.hashes) == (other.name, other.version, other.hashes)
    assert [locks.is_wanted(one.marker, python, "x86_64") for python in ("3.11", "3.13")] == [
        locks.is_wanted(other.marker, python, "x86_64") for python in ("3.11", "3.13")
    ]


def test_a_pylock_of_a_folder_is_refused() -> None:
    text = PYLOCK.partition('version = "1.17.0"')[0] + 'directory = {path = "."}\n'
    with pytest.raises(BuildError, match="six is no released package"):
        locks.parse_pylock(text, "pylock.toml")


def test_uv_lock_is_read_by_uv(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "a"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["six"]\n'
    )
    (tmp_path / "uv.lock").write_text(
        'version = 1\nrevision = 3\nrequires-python = ">=3.11"\n'
        '[[package]]\nname = "a"\nversion = "1"\nsource = { virtual = "." }\n'
        'dependencies = [{ name = "six" }]\n'
        '[package.metadata]\nrequires-dist = [{ name = "six" }]\n'
        '[[package]]\nname = "six"\nversion = "1.17.0"\n'
        'source = { registry = "https://pypi.org/simple" }\n'
        'wheels = [{ url = "https://x/six-1.17.0-py2.py3-none-any.whl", '
        f'hash = "sha256:{HASH}" }}]\n'
    )
    (one,) = locks.read_lock(tmp_path / "uv.lock")
    assert (one.name, one.version, one.hashes) == ("six", "1.17.0", {HASH})


def test_a_package_of_sources_only_is_refused_with_the_way_out(tmp_path: Path) -> None:
    requirement = locks.Requirement("six", "1.17.0", "", frozenset())
    with pytest.raises(BuildError) as refusal:
        wheels.collect([requirement], [Target("3.11", "x86_64")], tmp_path)
    assert str(refusal.value).startswith("six==1.17.0 has no wheel for Python 3.11 on x86_64, ")
    assert "pip wheel --no-deps six==1.17.0 -w wheels" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_a_locked_package_needs_is_locked_too(tmp_path: Path) -> None:
    """It was missing on the machine alone, where the deploy failed by it."""
    needs = {
        "flask": [
            "Werkzeug>=3",
            "async-x; extra == 'async'",
            "win-x; sys_platform == 'win32'",
            "??",
        ],
        "werkzeug": ["old-x; python_version < '3.12'", "watch[fast]; python_version < '3.12'"],
        "watch": ["fast-x; extra == 'fast'", "slow-x; extra == 'slow'"],
        "old-x": [],
        "fast-x": [],
    }
    locked = [locks.Requirement(name, "1.0", "", frozenset()) for name in needs]
    for name, lines in needs.items():
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as archive:
            head = "".join(f"Requires-Dist: {line}\n" for line in lines)
            archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\n{head}\nwords")

    def check(packages: list[locks.Requirement], python: str = "3.11") -> None:
        chosen = {each: tmp_path / f"{each.name}.whl" for each in packages}
        wheels.check_complete({Target(python, "x86_64"): chosen}, packages, "requirements.lock")

    check(locked)
    for missing in ("werkzeug", "old-x", "fast-x"):
        with pytest.raises(BuildError) as refusal:
            check([each for each in locked if each.name != missing])
        assert f"needs {missing}, which is not in it; lock it: uv pip compile" in str(refusal.value)
    check([each for each in locked if each.name in ("flask", "werkzeug")], "3.13")
    flask = locks.Requirement("flask", "1.0", "", frozenset(), frozenset(["async"]))
    with pytest.raises(BuildError, match=r"^requirements\.lock: flask==1\.0 needs async-x, "):
        check([flask, *locked[1:]])


def test_the_runtimes_packages_win_no_quarrel() -> None:
    runtime = [locks.Requirement("waitress", "3.0.2", "", frozenset())]
    other = [locks.Requirement("waitress", "2.1", "", frozenset())]
    assert locks.together(runtime, runtime, "requirements.lock") == runtime
    with pytest.raises(BuildError, match=r"waitress 2\.1, but the runtime .* has 3\.0\.2"):
        locks.together(runtime, other, "requirements.lock")


@pytest.mark.parametrize(
    ("wheel", "fits"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", "3.11 x86_64"),
        ("cp39-abi3-manylinux2014_x86_64", "3.11 x86_64, 3.13 x86_64"),
        ("cp312-abi3-manylinux_2_17_aarch64", "3.13 aarch64"),
        ("cp313-none-any", "3.13 x86_64, 3.13 aarch64"),
        ("py2.py3-none-any", "3.11 x86_64, 3.11 aarch64, 3.13 x86_64, 3.13 aarch64"),
        ("cp311-cp311-manylinux_2_39_x86_64", ""),
        ("cp311-cp311-musllinux_1_1_x86_64", ""),
        ("cp311-cp311-win_amd64", ""),
        ("cp311-cp311-linux_x86_64", ""),
    ],
)
def test_a_wheel_is_taken_where_it_runs(tmp_path: Path, wheel: str, fits: str) -> None:
    path = tmp_path / f"six-1.17.0-{wheel}.whl"
    path.write_bytes(b"")
    requirement = locks.Requirement("six", "1.17.0", "", frozenset([wheels.sha256(path)]))
    targets = [Target(python, m) for python in ("3.11", "3.13") for m in ("x86_64", "aarch64")]
    taken = [each for each in targets if wheels.find_wheel(requirement, each, tmp_path)]
    assert ", ".join(f"{each.python} {each.machine}" for each in taken) == fits
    if "linux_x86_64" in wheel and not fits and "many" not in wheel and "musl" not in wheel:
        # Built by hand: it counts in the application's own folder.
        assert wheels.find_wheel(requirement, targets[0], tmp_path / "none", tmp_path) == path
