"""
Ubuntu's long-term releases: what Salt makes of the tree under their grains, beside what their package lists offer.
Rendered, not run.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from control import salt_copy
from tests.unit.conftest import IN_SALT, RELEASE, prepare, render

ROOT = Path(__file__).resolve().parents[3]
RELEASES = {"jammy": "22.04", "noble": "24.04", "resolute": "26.04"}
# Of another repository than the distribution's.
ELSEWHERE = {"filebeat"}


def published() -> dict[str, dict[str, str]]:
    """Versions by package by release."""
    path = Path(__file__).with_name("published_ubuntu.yaml")
    loaded: dict[str, dict[str, str]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def grains(codename: str) -> dict[str, Any]:
    number = RELEASES[codename]
    return {
        "os": "Ubuntu", "osfullname": "Ubuntu", "os_family": "Debian", "oscodename": codename,
        "osrelease": number, "osmajorrelease": int(number[:2]), "osfinger": f"Ubuntu-{number}",
        "lsb_distrib_id": "Ubuntu", "lsb_distrib_codename": codename, "lsb_distrib_release": number,
    }  # fmt: skip


def covering(all_rendered: dict[Any, Any]) -> list[tuple[str, str]]:
    """Few machines that have every SLS and every package between them."""

    def has(one: Any) -> set[str]:
        return {f"{chunk['__sls__']} {chunk['state']}" for chunk in one.low}

    missing, chosen = set().union(*map(has, all_rendered.values())), []
    while missing:
        best = max(all_rendered, key=lambda which: len(has(all_rendered[which]) & missing))
        chosen.append(best)
        missing -= has(all_rendered[best])
    return chosen


LATER = pytest.mark.nightly("rendered anew for each release; make test renders for the oldest")


@pytest.fixture(
    scope="module",
    params=["jammy", *(pytest.param(name, marks=LATER) for name in ("noble", "resolute"))],
)
def codename(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def on_ubuntu(
    codename: str, all_rendered: dict[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What Salt makes of those machines on this release."""
    folder = tmp_path_factory.mktemp("ubuntu")
    return render(folder, covering(all_rendered), grains=grains(codename), grains_cache=False)


def test_every_state_renders(on_ubuntu: list[Any], all_rendered: dict[Any, Any]) -> None:
    chunks = [chunk for one in on_ubuntu for chunk in one["low"]]
    assert [one for one in chunks if not isinstance(one, dict)] == []
    everywhere = {chunk["__sls__"] for one in all_rendered.values() for chunk in one.low}
    assert {chunk["__sls__"] for chunk in chunks} == everywhere
    for one in on_ubuntu:
        assert one["files"] and one["status"]


# What is there only where the pillar asks for it.
OPTIONAL = {
    "apps": {"shop": {"hosts": ["shop.test"]}},
    "haproxy": {
        "trusted_proxies": {"proxy_protocol": ["192.0.2.0/24"]},
        "acme": {
            "directory": "https://acme.example.com/directory", "email": "ops@example.com", "agree": True,
            "challenge": "http",
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def optional_on_ubuntu(codename: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A machine with another application, a balancer that is believed, and certificates of an authority."""
    identity = {"topology": "dev", "name": "dev", "release": RELEASE}
    own = {"grains": grains(codename), "grains_cache": False}
    config = prepare(tmp_path_factory.mktemp("optional") / codename, identity, **own)
    ((answer,),) = salt_copy.ask([config], [["render settings", [OPTIONAL], {}]], IN_SALT)
    assert answer.get("settings") == OPTIONAL, answer.get("error") or answer["settings"]
    return dict(answer["rendered"])


def test_what_the_pillar_adds_renders_too(optional_on_ubuntu: dict[str, Any]) -> None:
    assert "/etc/systemd/system/haproxy-bans.service" in optional_on_ubuntu["files"]
    assert any(chunk["__sls__"] == "haproxy.acme" for chunk in optional_on_ubuntu["low"])


def test_every_package_is_in_the_published_list(
    codename: str, on_ubuntu: list[Any], optional_on_ubuntu: dict[str, Any]
) -> None:
    wanted = {
        name
        for one in [*on_ubuntu, optional_on_ubuntu]
        for chunk in one["low"]
        if (chunk["state"], chunk["fun"]) == ("pkg", "installed")
        for name in chunk.get("pkgs") or [chunk["name"]]
    }
    assert wanted - ELSEWHERE - set(published()[codename]) == set()


def flag(on_ubuntu: list[Any], path: str, text: str) -> bool:
    """Whether the file at ``path`` has ``text`` in it."""
    files = [one["files"][path] for one in on_ubuntu if path in one["files"]]
    assert files, path
    return any(text in base64.b64decode(one["data"]).decode() for one in files)


@pytest.mark.parametrize(
    ("path", "text", "package", "since"),
    [
        ("/etc/haproxy/haproxy.cfg", "timeout client-hs", "haproxy", (2, 9)),
        ("/etc/firewalld/firewalld.conf", "NftablesTableOwner", "firewalld", (2, 2)),
        ("/etc/ssh/sshd_config.d/10-stack.conf", "RequiredRSASize", "openssh-server", (9, 1)),
        ("/etc/ssh/sshd_config.d/10-stack.conf", "mlkem768x25519-sha256", "openssh-server", (9, 9)),
    ],
)
def test_a_directive_is_used_from_the_version_on_that_knows_it(
    codename: str, path: str, text: str, package: str, since: tuple[int, int], on_ubuntu: list[Any]
) -> None:  # fmt: skip
    version = published()[codename][package].rpartition(":")[2]
    major, minor = (int("".join(filter(str.isdigit, part[:2]))) for part in version.split(".")[:2])
    assert flag(on_ubuntu, path, text) == ((major, minor) >= since), version


def test_security_updates_are_ubuntus_own(on_ubuntu: list[Any]) -> None:
    path = "/etc/apt/apt.conf.d/60stack"
    assert flag(on_ubuntu, path, "origin=Ubuntu")
    assert not flag(on_ubuntu, path, "origin=Debian")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"osfullname": "Fedora Linux", "osrelease": "43", "oscodename": "", "os_family": "RedHat"},
            "Fedora Linux 43 is not supported; nothing was changed. There are states for"
            " Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04, Ubuntu 26.04",
        ),
        ({"osfullname": "Ubuntu", "osrelease": "25.10", "oscodename": "questing"}, "Ubuntu 25.10 is not"),
        ({}, "this system is not supported"),
    ],
)  # fmt: skip
def test_another_system_is_refused_in_one_line(
    given: dict[str, str], said: str, formula_on: Callable[..., ModuleType]
) -> None:
    formula: Any = formula_on(ROOT / "salt")
    formula.__grains__ = given
    with pytest.raises(CommandExecutionError) as error:
        formula.settings("redis")
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_a_tree_that_lists_no_systems_refuses_none(
    tmp_path: Path, formula_on: Callable[..., ModuleType]
) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "defaults.yaml").write_text("port: 1\n")
    (tmp_path / "web" / "schema.yaml").write_text(json.dumps({"type": "object"}))
    formula: Any = formula_on(tmp_path)
    formula.__grains__ = {}
    assert formula.settings("web") == {"port": 1}
