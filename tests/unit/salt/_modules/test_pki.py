"""The machine's certificate: fit for use or refused with the reason, renewed in time, never half."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from control.credentials import certificates
from control.credentials.certificates import WITHOUT_KEYS
from tests.unit.conftest import functions as functions_of

ADDRESSES = ["127.0.0.1", "192.0.2.7"]
OPTIONS = {"machine": "app1", "addresses": ADDRESSES, "days": 90, "ca_days": 3650}


@pytest.fixture
def world(
    load_source: Callable[..., ModuleType], tmp_path: Path, me: dict[str, str]
) -> SimpleNamespace:
    """The modules on a folder of our own: `pki`, `secret`, `state(pillar)`, `folder`."""
    file_set = load_source("salt/_modules/file_set.py")
    secret = load_source("salt/_modules/secret.py", salt=functions_of(file_set=file_set))
    secret.FOLDER = str(tmp_path / "secrets")  # type: ignore[attr-defined]
    functions: dict[str, Any] = {
        **{f"secret.{name}": getattr(secret, name) for name in ("path", "exists", "keep")},
        **functions_of(file_set=file_set),
    }
    pki = load_source("salt/_modules/pki.py", salt=functions)
    checks = load_source("salt/_utils/certificate_checks.py")
    pki.__utils__.update(functions_of(certificate_checks=checks))
    pki.FOLDER = str(tmp_path / "pki")  # type: ignore[attr-defined]
    pki.GROUP = me["group"]  # type: ignore[attr-defined]
    os.makedirs(pki.FOLDER)
    plain = pki.files

    def own(*words: Any, **options: Any) -> dict[str, Any]:
        wanted = plain(*words, **options)
        for spec in wanted.values():
            spec.update(me)
        return wanted  # type: ignore[no-any-return]

    def of_application(machine: str) -> dict[str, Any]:
        wanted = pki.application_files(machine)
        for spec in wanted.values():
            spec.update(me)
        return wanted  # type: ignore[no-any-return]

    functions.update({"pki.pending": pki.pending, "pki.files": own})
    functions["pki.application_files"] = of_application

    def apply(pillar: Any = None, test: bool = False, **options: Any) -> dict[str, Any]:
        pki.__pillar__ = {"secrets": {"pki": pillar}} if pillar else {}  # type: ignore[attr-defined]
        state = load_source("salt/_states/pki.py", salt=functions, opts={"test": test})
        return state.present(  # type: ignore[no-any-return]
            "machine certificate", **{**OPTIONS, "renew_days": 30, "own": True, **options}
        )

    return SimpleNamespace(
        pki=pki, checks=checks, secret=secret, apply=apply, folder=Path(pki.FOLDER)
    )


def made(world: SimpleNamespace, name: str = "app1", days: int = 90) -> dict[str, str]:
    """Parts signed by a CA of somebody else's, as a pillar gives them."""
    ca, ca_key = certificates.make_ca("machines of the topology", 3650)
    certificate, key = certificates.issue(ca, ca_key, name, ADDRESSES, days)
    return {"ca": ca, "certificate": certificate, "key": key}


def now(world: SimpleNamespace) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(world.folder.iterdir())}


def test_one_machine_makes_its_own_and_then_leaves_it_alone(world: SimpleNamespace) -> None:
    assert world.apply(test=True)["result"] is None
    assert now(world) == {}
    assert world.apply()["result"] is True
    parts = now(world)
    assert sorted(parts) == ["machine-ca.crt", "machine.crt", "machine.key"]
    assert stat.S_IMODE((world.folder / "machine.key").stat().st_mode) == 0o640
    assert stat.S_IMODE(os.stat(world.secret.path("pki-ca")).st_mode) == 0o600
    assert world.apply()["changes"] == {}
    assert now(world) == parts


def test_the_key_is_in_no_answer(world: SimpleNamespace) -> None:
    said = str(world.apply())
    key = (world.folder / "machine.key").read_text()
    for line in [*key.splitlines()[1:-1], "PRIVATE"]:
        assert line not in said


def test_it_is_renewed_when_fewer_days_are_left_and_the_ca_is_kept(world: SimpleNamespace) -> None:
    world.apply(days=29)
    before = now(world)
    ret = world.apply()
    assert ret["result"] is True
    assert "certificate: expires in 28 days" in ret["comment"]
    after = now(world)
    assert after["machine-ca.crt"] == before["machine-ca.crt"], (
        "who trusts it would have to be told"
    )
    assert after["machine.crt"] != before["machine.crt"]
    assert after["machine.key"] != before["machine.key"]
    assert world.apply()["changes"] == {}


@pytest.mark.parametrize("which", ["machine-ca.crt", "machine.crt", "machine.key"])
@pytest.mark.parametrize("harm", ["lost", "spoilt", "another's"])
def test_whatever_is_lost_or_does_not_fit_is_mended(
    world: SimpleNamespace, which: str, harm: str
) -> None:
    world.apply()
    path = world.folder / which
    if harm == "lost":
        path.unlink()
    elif harm == "spoilt":
        path.write_text(path.read_text()[:-60])
    else:
        part = {"machine-ca.crt": "ca", "machine.crt": "certificate", "machine.key": "key"}[which]
        path.write_text(made(world)[part])
    assert world.apply()["result"] is True
    assert world.apply()["changes"] == {}


def test_a_lost_ca_key_gives_a_new_ca(world: SimpleNamespace) -> None:
    world.apply()
    before = now(world)["machine-ca.crt"]
    os.unlink(world.secret.path("pki-ca"))
    assert world.apply()["result"] is True
    assert now(world)["machine-ca.crt"] != before
    assert world.apply()["changes"] == {}


def test_another_address_or_name_gives_a_new_certificate(world: SimpleNamespace) -> None:
    world.apply()
    ret = world.apply(addresses=["127.0.0.1", "192.0.2.8"])
    assert "192.0.2.8 is not among" in ret["comment"]
    assert "CN is not app2" in world.apply(machine="app2")["comment"]


def test_what_the_pillar_gives_is_taken_and_nothing_is_made(world: SimpleNamespace) -> None:
    parts = made(world)
    assert world.apply(parts, own=False)["result"] is True
    assert now(world)["machine.crt"] == parts["certificate"]
    assert not os.path.exists(world.secret.path("pki-ca"))
    assert world.apply(parts, own=False)["changes"] == {}


def test_several_machines_make_none_of_their_own(world: SimpleNamespace) -> None:
    ret = world.apply(own=False)
    assert ret["result"] is False
    assert "secrets:pki" in ret["comment"]
    assert now(world) == {}


def test_what_does_not_fit_is_refused_and_what_is_there_stays(world: SimpleNamespace) -> None:
    good, other = made(world), made(world)
    world.apply(good, own=False)
    before = now(world)
    expired = made(world, days=0)
    for wrong, said in (
        ({**good, "key": other["key"]}, "key: is not the certificate's"),
        ({**good, "ca": other["ca"]}, "certificate: is not issued by the ca"),
        (made(world, name="app2"), "its CN is not app1"),
        (expired, "certificate: expired on"),
        ({**good, "ca": good["certificate"]}, "is no CA's certificate"),
        ({**good, "key": good["key"].replace("M", "N", 1)}, "key: not readable"),
        ({**good, "key": "-----BEGIN PGP MESSAGE-----\nx"}, "could not be decrypted"),
        ({"ca": good["ca"]}, "needs ca, certificate, key"),
        ({**good, "kee": "x"}, "needs ca, certificate, key"),
    ):
        ret = world.apply(wrong, own=False)
        assert ret["result"] is False
        assert said in ret["comment"]
        assert good["key"].splitlines()[1] not in str(ret)
        assert now(world) == before


def test_a_certificate_for_one_end_of_tls_only_is_refused(world: SimpleNamespace) -> None:
    """HAProxy's own, say: good for a server, not for a client."""
    from cryptography import x509

    both = x509.ExtendedKeyUsageOID.CLIENT_AUTH
    parts = made(world)
    assert world.checks.problems(parts, "app1", ADDRESSES) == []
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
    assert both not in usage
    plain = world.checks._extension
    world.checks._extension = lambda one, kind: (
        usage if kind is x509.ExtendedKeyUsage else plain(one, kind)
    )
    found = world.checks.problems(parts, "app1", ADDRESSES)
    assert found == ["certificate: is not for clients (extendedKeyUsage)"]


def test_a_failed_swap_leaves_the_old_identity_whole(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply(days=29)
    before = now(world)
    rename = os.rename

    def full(source: str, target: str) -> None:
        if target.endswith("machine.key") and target.startswith(str(world.folder)):
            monkeypatch.undo()
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    assert world.apply()["result"] is False
    assert now(world) == before
    with pytest.raises(CommandExecutionError):
        world.pki.__pillar__ = {"secrets": {"pki": "text"}}
        world.pki.given()


def test_a_key_among_the_certificates_is_never_put_where_everybody_may_read_it(
    world: SimpleNamespace,
) -> None:
    """Nor shown: neither the pillar's, nor one that an older version has put there."""
    good = made(world)
    for part in ("ca", "certificate"):
        wrong = {**good, part: good[part] + good["key"]}
        for refused in (
            world.checks.problems(wrong, "app1", ADDRESSES),
            world.apply(wrong, own=False),
        ):
            assert f"{part}: holds a private key" in str(refused)
            assert good["key"].splitlines()[1] not in str(refused)
        assert now(world) == {}


def test_the_controller_fetches_certificates_and_leaves_a_key_where_it_is(
    world: SimpleNamespace, tmp_path: Path
) -> None:
    """An older version wrote the pillar's combined PEM there as it was."""

    parts = made(world)
    path = tmp_path / "site.pem"
    path.write_text(parts["certificate"] + parts["key"] + parts["ca"] + parts["key"][:99])
    done = subprocess.run(
        f"{WITHOUT_KEYS} {path}", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stdout == parts["certificate"] + parts["ca"]


@pytest.mark.parametrize("what", ["ca", "certificate"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pem: pem + pem[:-100], "block 2 is cut off"),
        (lambda pem: pem[:-40], "block 1 is cut off"),
        (lambda pem: pem + "-----BEGIN PRIVATE KEY-----\nx\n", "holds a private key"),
    ],
)
def test_a_given_part_that_is_not_whole_is_refused_and_what_is_there_stays(
    world: SimpleNamespace, what: str, spoil: Callable[[str], str], said: str
) -> None:
    """Most readers stop at the first block; the service stumbles over the second at its next start."""
    good = made(world)
    world.apply(good)
    before = {path.name: path.read_bytes() for path in world.folder.iterdir()}
    ret = world.apply({**good, what: spoil(good[what])})
    assert (ret["result"], ret["changes"]) == (False, {})
    assert f"{what}: {said}" in ret["comment"]
    assert {path.name: path.read_bytes() for path in world.folder.iterdir()} == before


def test_a_given_key_that_openssl_finds_too_weak_is_refused(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    ca, ca_key = certificates.make_ca("machines of the topology", 3650)
    with monkeypatch.context() as patch:
        weak = rsa.generate_private_key(65537, 1024)
        patch.setattr(ec, "generate_private_key", lambda curve: weak)
        certificate, key = certificates.issue(ca, ca_key, "app1", ADDRESSES, 90)
    ret = world.apply({"ca": ca, "certificate": certificate, "key": key})
    assert ret["result"] is False
    assert "certificate: OpenSSL refuses it: ee key too small" in ret["comment"]


# --- the application's own ------------------------------------------------------------------------


def application(
    world: SimpleNamespace, name: str = "app.app1", client: bool = True, addresses: Any = ()
) -> dict[str, Any]:
    """All that a pillar gives a machine with an application, by the controller's own hands."""
    ca, ca_key = certificates.make_ca("machines of the topology", 3650)
    parts = certificates.issue(ca, ca_key, "app1", ADDRESSES, 90)
    own = certificates.issue(ca, ca_key, name, addresses, 90, client=client)
    pair = ("certificate", "key")
    return {
        "ca": ca,
        **dict(zip(pair, parts, strict=True)),
        "application": dict(zip(pair, own, strict=True)),
    }


def test_an_application_has_a_key_of_its_own_and_never_the_machines(world: SimpleNamespace) -> None:
    given = application(world)
    assert world.checks.identity_shape(given) is None
    assert world.apply(given, own=False)["result"] is True
    machines = now(world)
    assert sorted(machines) == ["machine-ca.crt", "machine.crt", "machine.key"]
    assert world.apply(given, test=True, application=True)["result"] is None
    ret = world.apply(given, application=True)
    assert ret["result"] is True
    assert given["application"]["key"].splitlines()[1] not in str(ret)
    there = now(world)
    assert there["app.key"] == given["application"]["key"] != there["machine.key"]
    # Root's alone: systemd hands it to the processes.
    assert stat.S_IMODE((world.folder / "app.key").stat().st_mode) == 0o600
    assert {name: text for name, text in there.items() if "app" not in name} == machines
    assert world.apply(given, application=True)["changes"] == {}
    assert world.apply(given, own=False)["changes"] == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "app1"}, "its CN is not app.app1"),
        ({"name": "app.app2"}, "its CN is not app.app1"),
        ({"client": False}, "is not for clients alone"),
        ({"addresses": ["192.0.2.7"]}, "carries more in its subjectAltName"),
    ],
)
def test_no_certificate_that_passes_for_a_machine_is_an_applications(
    world: SimpleNamespace, wrong: dict[str, Any], said: str
) -> None:
    given = application(world, **wrong)
    ret = world.apply(given, application=True)
    assert ret["result"] is False
    assert said in ret["comment"]
    assert now(world) == {}
    # Nor is the application's one for a machine.
    given = application(world)
    given |= given.pop("application")
    assert world.apply(given, own=False)["result"] is False


def test_an_application_without_a_certificate_of_its_own_is_refused_with_what_to_do(
    world: SimpleNamespace,
) -> None:
    given = application(world)
    del given["application"]
    comment = world.apply(given, application=True)["comment"]
    assert "secrets:pki:application with certificate, key of app.app1" in comment
    for own in ("x", {"key": "x"}, {"certificate": "x", "key": "y", "ca": "z"}):
        assert "application: needs certificate, key" in world.checks.identity_shape(
            {**given, "application": own}
        )


def test_an_applications_certificate_opens_what_asks_for_any_client_and_serves_nobody(
    world: SimpleNamespace, tmp_path: Path
) -> None:
    """By OpenSSL, as Redis, stunnel, rsyslog and HAProxy have it."""
    given = application(world)
    for name, text in (("ca", given["ca"]), ("own", given["application"]["certificate"])):
        (tmp_path / name).write_text(text)

    def fits(*words: str) -> bool:
        line = ["openssl", "verify", "-CAfile", "ca", *words, "own"]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert fits("-purpose", "sslclient")
    assert not fits("-purpose", "sslserver")
    # As stunnel's checkHost and rsyslog's permittedPeer name a machine.
    assert not fits("-purpose", "sslclient", "-verify_hostname", "app1")
    assert not fits("-purpose", "sslclient", "-verify_ip", "192.0.2.7")
