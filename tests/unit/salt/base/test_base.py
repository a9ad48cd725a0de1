"""What every machine gets: what a container leaves out, who is whose account, which keys count."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from salt.exceptions import CommandExecutionError

FILES = Path(__file__).resolve().parents[4] / "salt" / "base" / "files"
SETTINGS = {
    "net.ipv4.ip_forward": {"value": 0, "why": "no router"},
    "net.ipv4.conf.*.rp_filter": {"value": 1, "why": "forged"},
    "kernel.kptr_restrict": {"value": 2, "why": "addresses"},
    "net.ipv4.gone": {"value": 1, "why": "not in this kernel"},
    "net.ipv4.left": {"value": None, "why": "as it is"},
}


@pytest.fixture
def kernel(load_source: Callable[..., ModuleType], tmp_path: Path) -> Callable[..., Any]:
    """`kernel(virtual="container")`: the module on a /proc/sys of its own."""
    for path, value in (
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/left", "7"),
        ("net/ipv4/conf/eth0/rp_filter", "1"),
        ("net/ipv4/conf/eth1/rp_filter", "0"),
        ("kernel/kptr_restrict", "0"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{value}\n")

    def load(**grains: str) -> ModuleType:
        module = load_source("salt/_modules/sysctl_settings.py", grains=grains)
        module._PROC = str(tmp_path)  # type: ignore[attr-defined]
        return module

    return load


def test_a_container_leaves_the_hosts_settings_and_names_them(kernel: Callable[..., Any]) -> None:
    found = kernel(virtual="container", virtual_subtype="LXC").plan(SETTINGS)
    assert set(found["set"]) == {"net.ipv4.ip_forward", "net.ipv4.conf.*.rp_filter"}
    assert set(found["skipped"]) == {"kernel.kptr_restrict", "net.ipv4.gone"}
    text = kernel(virtual="container").conf(SETTINGS)
    assert "# kernel.kptr_restrict: the host's, not this container's" in text
    assert "\nkernel.kptr_restrict" not in text


@pytest.mark.parametrize("virtual", ["kvm", "physical", "VirtualBox"])
def test_any_other_machine_sets_all_that_its_kernel_has(
    kernel: Callable[..., Any], virtual: str
) -> None:
    found = kernel(virtual=virtual).plan(SETTINGS)
    assert found["set"]["kernel.kptr_restrict"] == "2"
    assert found["skipped"] == {"net.ipv4.gone": "this kernel has no such setting"}
    assert found["unset"] == ["net.ipv4.left"]


def test_every_setting_of_the_file_has_its_reason_above(kernel: Callable[..., Any]) -> None:
    lines = kernel(virtual="kvm").conf(SETTINGS).splitlines()
    assert lines[lines.index("kernel.kptr_restrict = 2") - 1] == "# addresses"


def test_what_differs_at_run_time_is_found_on_every_interface(kernel: Callable[..., Any]) -> None:
    module = kernel(virtual="kvm")
    assert module.differing(SETTINGS) == {
        "net/ipv4/ip_forward": {"old": "1", "new": "0"},
        "net/ipv4/conf/eth1/rp_filter": {"old": "0", "new": "1"},
        "kernel/kptr_restrict": {"old": "0", "new": "2"},
    }
    for path, change in module.differing(SETTINGS).items():
        module.write(path, change["new"])
    assert module.differing(SETTINGS) == {}


def test_the_state_says_what_it_left(
    kernel: Callable[..., Any], load_source: Callable[..., ModuleType]
) -> None:
    module = kernel(virtual="container")
    salt = {
        f"sysctl_settings.{name}": getattr(module, name) for name in ("plan", "differing", "write")
    }
    state = load_source("salt/_states/sysctl_settings.py", salt=salt)
    first = state.applied("x", SETTINGS)
    assert set(first["changes"]) == {"net/ipv4/ip_forward", "net/ipv4/conf/eth1/rp_filter"}
    assert "kernel.kptr_restrict (the host's" in first["comment"]
    assert state.applied("x", SETTINGS)["changes"] == {}


# --- people ---------------------------------------------------------------------------------------


@pytest.fixture
def people(load_source: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module on a machine with alice and bob (ours), carol (not), vagrant and a daemon."""
    module: Any = load_source("salt/_modules/accounts.py")
    accounts = {
        name: SimpleNamespace(
            pw_name=name, pw_uid=uid, pw_gid=uid, pw_gecos="", pw_shell="/bin/bash", pw_dir="/x"
        )
        for name, uid in (
            ("alice", 2001),
            ("bob", 2002),
            ("carol", 2003),
            ("vagrant", 1000),
            ("redis", 105),
        )
    }
    monkeypatch.setattr(module, "_account", accounts.get)
    monkeypatch.setattr(module, "_members", lambda: {"alice", "bob"})
    monkeypatch.setattr(module, "_applying", lambda: "vagrant")
    return module


def test_whoever_is_not_named_any_more_is_removed(people: Any) -> None:
    assert people.plan({"alice": {}}) == {"add": {}, "change": {}, "remove": ["bob"]}
    assert people.plan({"alice": {}, "bob": {"state": "absent"}})["remove"] == ["bob"]
    assert people.plan({})["remove"] == ["alice", "bob"]


def test_outsiders_are_left_unless_they_are_to_be_absent(people: Any) -> None:
    assert "carol" not in people.plan({})["remove"]
    assert "carol" in people.plan({"carol": {"state": "absent"}})["remove"]
    assert people.plan({"alice": {}, "bob": {}, "ghost": {"state": "absent"}})["remove"] == []


def test_a_new_person_and_a_changed_one(people: Any) -> None:
    plan = people.plan({"alice": {"full_name": "Alice"}, "bob": {}, "dave": {"shell": "/bin/sh"}})
    assert plan["add"] == {"dave": {"full_name": "", "shell": "/bin/sh"}}
    assert plan["change"] == {"alice": {"full_name": ("", "Alice")}}


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ({"vagrant": {}}, "the machine's own"),
        ({"vagrant": {"state": "absent"}}, "the machine's own"),
        ({"redis": {"state": "absent"}}, "account of the system"),
        ({"redis": {}}, "account of the system"),
        ({"carol": {}}, "not ours"),
    ],
)
def test_accounts_of_the_machine_are_refused(
    people: Any, users: dict[str, Any], words: str
) -> None:
    with pytest.raises(CommandExecutionError, match=words):
        people.plan(users, ["vagrant", "root"])


def test_nobody_removes_the_account_that_he_came_in_by(
    people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "_applying", lambda: "bob")
    with pytest.raises(CommandExecutionError, match="came in by this very account"):
        people.plan({"alice": {}})


@pytest.fixture
def leaving(people: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of bob, who is to be removed; archives go beside it."""
    home = tmp_path / "bob"
    home.mkdir()
    bob = SimpleNamespace(**{**vars(people._account("bob")), "pw_dir": str(home)})
    alice = people._account("alice")
    monkeypatch.setattr(people, "_account", {"alice": alice, "bob": bob}.get)
    monkeypatch.setattr(people, "ARCHIVE", str(tmp_path / "archive"))
    return home


def test_a_home_larger_than_the_free_room_is_refused_before_anything_changes(
    people: Any, leaving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (leaving / "large").write_bytes(b"x" * (3 << 20))
    os.link(leaving / "large", leaving / "the-same")
    disk = SimpleNamespace(f_bavail=1100, f_frsize=4096, f_blocks=20000)
    monkeypatch.setattr(people.os, "statvfs", lambda path: disk)
    with pytest.raises(CommandExecutionError) as caught:
        people.plan({"alice": {}})
    line = str(caught.value)
    assert f"user bob: the archive of {leaving} may need 3 MiB" in line
    assert "move what is large out of the home" in line
    assert len(line.splitlines()) == 1
    disk.f_bavail = 2000
    assert people.plan({"alice": {}})["remove"] == ["bob"]


def test_holes_of_a_file_are_neither_counted_nor_written(people: Any, leaving: Path) -> None:
    with open(leaving / "sparse", "wb") as file:
        file.truncate(3 << 30)
    (leaving / "real").write_text("words")
    assert people._allocated(str(leaving)) < 1 << 20
    path = people._archive("bob", str(leaving))
    assert os.stat(path).st_size < 100_000, "3 GB of zeros were read and compressed"
    assert os.stat(path).st_mode & 0o777 == 0o600
    listed = subprocess.run(
        ["tar", "-tvzf", path], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(rf" {3 << 30} .* bob/sparse\n", listed)
    assert " bob/real\n" in listed


def test_an_archive_that_fails_leaves_nothing_and_takes_nothing(
    people: Any, leaving: Path, tmp_path: Path
) -> None:
    """On a disk of 1 MiB, which fills while it is written."""
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted as root")
    archive = tmp_path / "archive"
    archive.mkdir()
    (leaving / "random").write_bytes(os.urandom(3 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(archive)], check=True)
    try:
        (archive / "bob-20260101T000000Z.tar.gz.part").write_text("of a killed run")
        with pytest.raises(CommandExecutionError, match=f"{leaving} could not be archived in"):
            people._archive("bob", str(leaving))
        assert list(archive.iterdir()) == []
        assert (leaving / "random").exists()
    finally:
        subprocess.run(["umount", str(archive)], check=True)


def test_keys_and_sudo_are_of_those_present_alone(people: Any) -> None:
    users = {
        "alice": {"keys": ["ssh-ed25519 AAAA a"], "sudo": True},
        "bob": {"keys": ["ssh-ed25519 AAAB b"]},
        "eve": {"keys": ["ssh-ed25519 AAAC e"], "sudo": True, "state": "absent"},
    }
    keys = people.keys(users, "/k")
    assert set(keys) == {"/k/alice", "/k/bob"}
    assert keys["/k/alice"]["contents"].splitlines()[1:] == ["ssh-ed25519 AAAA a"]
    assert "alice ALL=(ALL:ALL) NOPASSWD: ALL" in people.sudoers(users)
    assert "bob" not in people.sudoers(users)
    assert "eve" not in people.sudoers(users)


def test_default_data_adds_nobody() -> None:
    defaults = yaml.safe_load((FILES.parent / "defaults.yaml").read_text())
    assert defaults["users"] == {}
    assert {"root", "vagrant", "debian"} <= set(defaults["protected_users"])


@pytest.mark.parametrize(
    "key",
    [
        "ssh-dss AAAAB3NzaC1kc3M=",
        'command="/bin/sh" ssh-ed25519 AAAAC3Nz',
        "ssh-ed25519 AAAAC3Nz a\nssh-ed25519 AAAAC3Nz b",
        "AAAAC3Nz",
    ],
)
def test_the_schema_refuses_what_is_no_plain_key(key: str) -> None:
    schema = yaml.safe_load((FILES.parent / "schema.yaml").read_text())
    validate = jsonschema.Draft202012Validator(schema).validate
    validate({"users": {"a": {"keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== a@b"]}}})
    with pytest.raises(jsonschema.ValidationError):
        validate({"users": {"a": {"keys": [key]}}})


# --- the rest -------------------------------------------------------------------------------------


def public(bits: int) -> str:
    modulus = (1 << (bits - 1)).to_bytes(bits // 8 + 1, "big")
    fields = (b"ssh-rsa", b"\x01\x00\x01", modulus)
    blob = b"".join(len(one).to_bytes(4, "big") + one for one in fields)
    return f"ssh-rsa {base64.b64encode(blob).decode()} root@x\n"


@pytest.mark.parametrize(("bits", "offered"), [(2048, False), (3072, True), (4096, True)])
def test_a_short_rsa_host_key_is_not_offered(
    load_source: Callable[..., ModuleType], tmp_path: Path, bits: int, offered: bool
) -> None:
    module: Any = load_source("salt/_modules/hostkeys.py")
    module._FOLDER = str(tmp_path)
    for kind in ("rsa", "ecdsa"):
        (tmp_path / f"ssh_host_{kind}_key").write_text("")
        (tmp_path / f"ssh_host_{kind}_key.pub").write_text(public(bits))
    kinds = [Path(one).name for one in module.offered(3072)]
    assert kinds == ["ssh_host_ed25519_key"] + (["ssh_host_rsa_key"] if offered else [])


def test_modes_are_taken_away_and_never_given(
    load_source: Callable[..., ModuleType], tmp_path: Path
) -> None:
    module: Any = load_source("salt/_modules/permissions.py")
    wide, tight = tmp_path / "wide", tmp_path / "tight"
    for path, mode in ((wide, 0o755), (tight, 0o400)):
        path.write_text("")
        path.chmod(mode)
    paths = {str(wide): "0700", str(tight): "0600", str(tmp_path / "none"): "0600"}
    assert module.excess(paths) == {str(wide): {"old": "0755", "new": "0700"}}
    module.restrict(str(wide), "0700")
    assert module.excess(paths) == {}


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


def test_a_key_that_systemd_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "systemd"
    (folder / "journald.conf.d").mkdir(parents=True)
    (folder / "journald.conf").write_text("[Journal]\n#Storage=auto\n#SystemMaxUse=\n")
    dropin = folder / "journald.conf.d" / "x.conf"
    program = FILES / "known_keys.py"
    for text, good in (
        ("# why\n[Journal]\nStorage=persistent\n", True),
        ("[Journal]\nStorrage=persistent\n", False),
        ("[Nothing]\nStorage=persistent\n", False),
        ("[Journal]\nStorage persistent\n", False),
    ):
        dropin.write_text(text)
        done = check(sys.executable, "-c", LOCAL, str(program), str(dropin), str(folder))
        assert (done.returncode == 0) is good, text + done.stdout


# known_keys looks below /etc/systemd: here, below a folder that ends in it.
LOCAL = """
import builtins, os, runpy, sys
program, dropin, folder = sys.argv[1:]
was, there = builtins.open, os.path.exists
local = lambda p: folder + p[len("/etc/systemd"):] if str(p).startswith("/etc/systemd") else p
builtins.open = lambda p, *a, **k: was(local(p), *a, **k)
os.path.exists = lambda p: there(local(p))
sys.argv = [program, dropin]
runpy.run_path(program, run_name="__main__")
"""


def test_a_line_that_is_no_key_is_refused_with_its_file(tmp_path: Path) -> None:
    made = check("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k"))
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "keys"
    folder.mkdir()
    good = (tmp_path / "k.pub").read_text()
    (folder / "alice").write_text(f"# comment\n{good}")
    assert check("sh", str(FILES / "check_keys"), str(folder)).returncode == 0
    (folder / "alice").write_text(f"{good}ssh-ed25519 AAAAnonsense x\n")
    done = check("sh", str(FILES / "check_keys"), str(folder))
    assert done.returncode == 1
    assert f"{folder}/alice: ssh-ed25519 AAAAnonsense" in done.stdout
