"""Packages that a killed run left half-done are finished, by the real dpkg and apt, in a folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Its parent is dpkg: as a power cut would end it in the middle of a package.
KILLS_ONCE = """#!/bin/sh
[ -e "$DIED" ] || { touch "$DIED"; kill -9 $PPID; sleep 5; }
"""


class Machine:
    """A dpkg database, an apt and a repository of their own; nothing of this computer's is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin, self.repository = folder / "dpkg", folder / "repository"
        self.lists = folder / "lists"
        for path in (
            *(self.admin / name for name in ("info", "updates", "triggers", "parts")),
            *(self.repository, self.lists / "partial", folder / "root"),
            *(folder / "archives" / "partial", folder / "log", folder / "etc"),
        ):
            path.mkdir(parents=True)
        for name in ("status", "available"):
            (self.admin / name).touch()
        self.options = [
            *(
                f"--admindir={self.admin}",
                f"--instdir={folder / 'root'}",
                f"--log={folder}/dpkg.log",
            ),
            *("--force-script-chrootless", "--force-not-root", "--force-bad-path"),
        ]
        listed = " ".join(f'"{option}";' for option in self.options)
        (folder / "etc" / "sources.list").write_text(
            f"deb [trusted=yes] copy:{self.repository} ./\n"
        )
        self.config = folder / "apt.conf"
        self.config.write_text(
            f'Dir::State::status "{self.admin}/status"; Dir::State::lists "{self.lists}";\n'
            f'Dir::Cache "{folder}"; Dir::Cache::archives "archives"; Dir::Log "{folder}/log";\n'
            f'Dir::Etc "{folder}/etc"; Dir::Etc::sourceparts "-"; Dir::Etc::preferencesparts "-";\n'
            'APT::Architecture "all"; APT::Architectures {"all";}; Debug::NoDropPrivs "true";\n'
            f'APT::Sandbox::User "root"; DPkg::Options {{{listed}}};\n'
            "DPkg::Post-Invoke {}; DPkg::Pre-Install-Pkgs {}; APT::Update::Post-Invoke {};\n"
        )
        self.environment = {**os.environ, "APT_CONFIG": str(self.config)}
        self.environment["DIED"] = str(folder / "died")

    def build(self, name: str, depends: str = "", **scripts: str) -> None:
        """A package with one file, put into the repository."""
        source = self.folder / f"build-{name}"
        (source / "DEBIAN").mkdir(parents=True)
        (source / "DEBIAN" / "control").write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.org>\n"
            f"Description: a test\n{f'Depends: {depends}' + chr(10) if depends else ''}"
        )
        (source / name).write_text(name)
        for script, text in scripts.items():
            (source / "DEBIAN" / script).write_text(text)
            (source / "DEBIAN" / script).chmod(0o755)
        target = self.repository / f"{name}.deb"
        self.run("dpkg-deb", "--root-owner-group", "--build", str(source), str(target))
        content = target.read_bytes()
        with (self.repository / "Packages").open("a") as file:
            file.write(
                self.run("dpkg-deb", "-f", str(target)).stdout
                + f"Filename: ./{name}.deb\nSize: {len(content)}\n"
                f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n"
            )

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def states(self) -> dict[str, str]:
        said = self.run(
            *("dpkg-query", f"--admindir={self.admin}", "-W"),
            "-f=${Package} ${db:Status-Eflag} ${db:Status-Status}\n",
            check=False,
        ).stdout
        return {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in said.splitlines()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if os.geteuid() != 0:
        pytest.skip("dpkg unpacks as root")
    return Machine(tmp_path)


@pytest.fixture
def packages(
    machine: Machine, load_source: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Any:
    module: Any = load_source("salt/_modules/packages.py")
    monkeypatch.setattr(module, "DPKG", str(machine.admin))
    monkeypatch.setattr(module, "LISTS", str(machine.lists))
    monkeypatch.setattr(module, "_DPKG", ["dpkg", *machine.options])
    for name in ("APT_CONFIG", "DIED"):
        monkeypatch.setenv(name, machine.environment[name])
    return module


def test_where_nothing_is_pending_nothing_is_run(machine: Machine, packages: Any) -> None:
    machine.build("whole")
    machine.run("apt-get", "-q", "update")
    machine.run("apt-get", "-q", "-y", "install", "whole")
    assert machine.states() == {"whole": "ok installed"}
    packages._APT = packages._DPKG = ["false"]
    assert packages.finish() == []


@pytest.mark.parametrize("script", ["preinst", "postinst"])
def test_a_package_whose_dpkg_was_killed_is_whole_after_the_next_run(
    machine: Machine, packages: Any, script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.build("needed")
    machine.build("killed", depends="needed", **{script: KILLS_ONCE})
    machine.run("apt-get", "-q", "update")
    machine.run("apt-get", "-q", "-y", "install", "killed", check=False)
    assert (machine.folder / "died").exists()
    assert machine.states()["killed"] != "ok installed"
    assert machine.run("apt-get", "-q", "-y", "install", "needed", check=False).returncode
    found = packages.finish()
    assert "killed" in found
    assert machine.states() == {"killed": "ok installed", "needed": "ok installed"}
    assert packages.pending() == []
    said = capsys.readouterr()
    assert said.out == "", "the answer of salt-call is read by programs"
    assert said.err.startswith("finishing what was interrupted: ")
    assert len(said.err.splitlines()) == 1


def test_a_package_that_waits_for_one_never_unpacked_is_finished(
    machine: Machine, packages: Any
) -> None:
    machine.build("needed")
    machine.build("waits", depends="needed")
    machine.run("dpkg", *machine.options, "--unpack", str(machine.repository / "waits.deb"))
    # Also without a list of packages: apt's was not fetched yet.
    assert packages.finish() == ["waits"]
    assert machine.states() == {"waits": "ok installed", "needed": "ok installed"}


def test_a_half_installed_package_is_unpacked_again(machine: Machine, packages: Any) -> None:
    machine.build("killed", preinst=KILLS_ONCE)
    machine.run(
        "dpkg", *machine.options, "--unpack", str(machine.repository / "killed.deb"), check=False
    )
    assert machine.states() == {"killed": "reinstreq half-installed"}
    packages.finish()
    assert machine.states() == {"killed": "ok installed"}
    assert (machine.folder / "root" / "killed").exists()


def test_a_torn_entry_of_the_journal_is_dropped(machine: Machine, packages: Any) -> None:
    machine.build("waits")
    machine.run("dpkg", *machine.options, "--unpack", str(machine.repository / "waits.deb"))
    for number, torn in enumerate((b"\0" * 40, b"Package: wai")):
        (machine.admin / "updates" / f"{number:04}").write_bytes(torn)
    assert "dpkg's journal" in packages.pending()
    packages.finish()
    assert machine.states() == {"waits": "ok installed"}
    assert packages.pending() == []


@pytest.mark.parametrize("torn", [b"", b"\0" * 100], ids=["empty", "zeros"])
def test_a_list_of_packages_that_a_power_cut_left_is_fetched_again(
    machine: Machine, packages: Any, torn: bytes
) -> None:
    machine.build("one")
    machine.run("apt-get", "-q", "update")
    (listed,) = machine.lists.glob("*_Packages")
    listed.write_bytes(torn)
    assert packages.pending() == [str(listed)]
    packages.finish()
    assert packages.pending() == []
    machine.run("apt-get", "-q", "update")
    machine.run("apt-get", "-q", "-y", "install", "one")


def test_a_package_that_cannot_be_mended_is_named_and_stops_nothing(
    machine: Machine, packages: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.build("broken", postinst="#!/bin/sh\nexit 3\n")
    machine.run(
        "dpkg", *machine.options, "--install", str(machine.repository / "broken.deb"), check=False
    )
    assert packages.finish() == ["broken"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("packages still half-installed: broken (E: ")
    assert "apt-get --fix-broken install" in last


def test_another_program_that_installs_is_waited_for_and_left_in_peace(
    machine: Machine, packages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.build("waits")
    machine.run("dpkg", *machine.options, "--unpack", str(machine.repository / "waits.deb"))
    # Its lock is of another process: this one's own would never be in the way.
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(machine.admin / "lock-frontend")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout and other.stdout.readline() == "held\n"
    said = []

    def other_program_ends(text: str) -> None:
        said.append(text)
        machine.environment["DPKG_FRONTEND_LOCKED"] = "1"
        machine.run("dpkg", *machine.options, "--configure", "--pending")
        other.communicate("")

    monkeypatch.setattr(packages, "_say", other_program_ends)
    packages._APT = ["false"]
    assert packages.finish() == [], "what it was doing is its own"
    assert said == ["waiting for another program that installs packages"]


def installs(*names: str, **more: Any) -> dict[str, Any]:
    named = {"name": names[0]} if len(names) == 1 else {"name": "some", "pkgs": list(names)}
    return {"state": "pkg", "fun": "installed", **named, **more}


def test_what_the_states_of_a_run_install_is_installed_at_once_behind_their_masks(
    machine: Machine, packages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction of apt costs seconds; a service that Debian starts at once stays masked as before."""
    for name in ("needed", "one", "two", "three", "there", "own"):
        machine.build(name, depends="needed" if name == "one" else "")
    machine.run("apt-get", "-q", "update")
    machine.run("apt-get", "-q", "-y", "install", "there")
    ran, run = [], packages._run

    def seen(words: list[str], **more: str) -> Any:
        ran.append(words)
        if words[0] != "systemctl":
            return run(words, **more)
        known = "enabled" if words[-1] == "there" else "not-found"
        return subprocess.CompletedProcess(words, 0, known + "\n")

    monkeypatch.setattr(packages, "_run", seen)
    chunks = [
        {"state": "service", "fun": "masked", "name": "one", "runtime": True},
        {"state": "service", "fun": "masked", "name": "there", "runtime": True},
        {"state": "file", "fun": "managed", "name": "/x"},
        installs("one", "there"),
        installs("two", "three"),
        installs("own", version="1"),
    ]
    assert packages.ahead(chunks) == ["one", "two", "three"]
    assert machine.states() == dict.fromkeys(
        ("needed", "one", "two", "three", "there"), "ok installed"
    )
    masks = [words for words in ran if words[:2] == ["systemctl", "mask"]]
    assert masks == [["systemctl", "mask", "--no-reload", "--runtime", "one"]]
    transactions = [words for words in ran if "install" in words]
    assert len(transactions) == 1
    assert ran.index(masks[0]) < ran.index(transactions[0])
    ran.clear()
    assert packages.ahead(chunks) == []
    assert [words[0] for words in ran] == ["dpkg-query"], "with nothing missing it costs nothing"


def test_what_cannot_be_installed_ahead_is_left_to_its_state(
    machine: Machine, packages: Any
) -> None:
    machine.build("one")
    assert packages.ahead([installs("one", "unknown")]) == ["one", "unknown"]
    assert machine.states() == {}


HOLDS = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
