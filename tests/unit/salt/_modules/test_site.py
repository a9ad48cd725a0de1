"""The site's certificate: refused with one line when it could not be served, else staged whole."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from salt.exceptions import CommandExecutionError

ROOT = Path(__file__).resolve().parents[4]
NOW = datetime.datetime.now(datetime.UTC)


def certificate(name: str, key: Any, issuer: str, signing: Any, days: int = 30) -> str:
    """PEM; of a CA where it signs itself. `days` below 0: expired."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=60))
        .not_valid_after(NOW + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(name == issuer, None), critical=True)
    )
    made = builder.sign(signing, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def pem(key: Any, password: bytes | None = None) -> str:
    return key.private_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    ).decode()


@pytest.fixture(scope="module")
def given() -> dict[str, tuple[str, str]]:
    """`{what is wrong with it: (certificate, key)}`."""
    ca_key, key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    # As weak as a server's key may not be since 2013.
    weak = rsa.generate_private_key(65537, 1024)
    ca = certificate("ca", ca_key, "ca", ca_key, 300)
    leaf = certificate("site.test", key, "ca", ca_key)
    broken = leaf.replace(leaf.splitlines()[2], leaf.splitlines()[2][:-5])
    return {
        "nothing": (leaf + ca, pem(key)),
        "a weak key": (certificate("site.test", weak, "ca", ca_key) + ca, pem(weak)),
        "its second block is cut": (leaf + ca[:-200], pem(key)),
        "its end is missing": (leaf[:-30], pem(key)),
        "a damaged block": (broken + ca, pem(key)),
        "another key": (leaf + ca, pem(other)),
        "expired": (certificate("site.test", key, "ca", ca_key, -1) + ca, pem(key)),
        "an issuer that has expired": (
            leaf + certificate("ca", ca_key, "ca", ca_key, -1),
            pem(key),
        ),
        "the issuer first": (ca + leaf, pem(key)),
        "another issuer": (leaf + certificate("ca", other, "ca", other), pem(key)),
        "its key among them": (leaf + ca + pem(key), pem(key)),
        "an encrypted key": (leaf + ca, pem(key, b"x")),
        "no key": (leaf + ca, "hunter2"),
    }


@pytest.fixture
def site(load_source: Callable[..., ModuleType], tmp_path: Path) -> SimpleNamespace:
    """`files(certificate, key)` and the module, on folders below `tmp_path`."""
    secrets: dict[str, str] = {}
    salt = {"secret.value": lambda name: secrets[name]}
    module = load_source("salt/_modules/site.py", salt=salt)
    module.FOLDER = str(tmp_path / "pki")  # type: ignore[attr-defined]
    folder = tmp_path / "tls"

    def files(certificate: str | None = None, key: str | None = None, **more: Any) -> Any:
        secrets["site-key"] = key or ""
        options = {
            "domain": "site.test",
            "names": ["localhost", "site.test"],
            "addresses": ["127.0.0.1"],
            **more,
        }
        return module.files(str(folder), certificate=certificate, key=key and "site-key", **options)

    def write(made: Any) -> None:
        for path, spec in made.items():
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_bytes(spec["data"])

    return SimpleNamespace(module=module, files=files, write=write, folder=folder)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("a weak key", "certificate: OpenSSL refuses it: ee key too small"),
        ("its second block is cut", "certificate: block 2 is cut off"),
        ("its end is missing", "certificate: block 1 is cut off"),
        ("a damaged block", "certificate: block 1 is damaged"),
        ("another key", "key: is not the certificate's"),
        ("expired", r"certificate: expired on \d{4}-"),
        ("an issuer that has expired", r"certificate: block 2: expired on \d{4}-"),
        ("the issuer first", "certificate: the key's own is block 2 and must be the first"),
        ("another issuer", "certificate: block 2 has not issued block 1"),
        ("its key among them", "certificate: block 3 is a PRIVATE KEY"),
        ("an encrypted key", "key: not readable as unencrypted PEM"),
        ("no key", "key: not readable as unencrypted PEM"),
    ],
)
def test_a_certificate_that_could_not_be_served_is_refused_with_one_line(
    site: SimpleNamespace, given: dict[str, tuple[str, str]], wrong: str, said: str
) -> None:
    with pytest.raises(CommandExecutionError, match=said) as refusal:
        site.files(*given[wrong])
    line = str(refusal.value)
    assert "\n" not in line
    assert "pillar haproxy:tls" in line
    for secret in given[wrong][1].splitlines()[1:-1] or [given[wrong][1]]:
        assert secret not in line


def test_a_given_certificate_is_staged_with_its_key_and_for_clients(
    site: SimpleNamespace, given: dict[str, tuple[str, str]]
) -> None:
    pair = given["nothing"]
    files = site.files(*pair)
    folder = Path(site.module.FOLDER)
    assert {path: spec["data"].decode() for path, spec in files.items()} == {
        str(site.folder / "site.pem"): pair[0],
        str(site.folder / "site.pem.key"): pair[1],
        str(folder / "site.pem"): pair[0],
    }
    assert [spec["secret"] for spec in files.values()] == [False, True, False]


def test_one_that_is_made_here_is_kept_until_it_no_longer_fits(site: SimpleNamespace) -> None:
    made = site.files()
    site.write(made)
    assert site.files() == made
    ca = str(Path(site.module.FOLDER) / "ca.pem")
    # Another name is another certificate, by the same CA.
    more = site.files(addresses=["127.0.0.1", "192.0.2.7"])
    assert more[ca] == made[ca]
    assert more[str(site.folder / "site.pem")] != made[str(site.folder / "site.pem")]
    # As it is in its last month, and the CA in its last year.
    site.module._RENEW = 91
    assert site.files()[ca] == made[ca]
    assert site.files() != made
    site.module._CA_RENEW = 3651
    assert site.files()[ca] != made[ca]


@pytest.mark.parametrize("lost", ["site.pem", "site.pem.key", "ca.pem", "ca.key"])
@pytest.mark.parametrize("how", ["lost", "cut"])
def test_what_is_lost_or_cut_of_one_that_is_made_here_is_made_anew_whole(
    site: SimpleNamespace, lost: str, how: str
) -> None:
    site.write(site.files())
    folder = site.folder if lost.startswith("site") else Path(site.module.FOLDER)
    path = folder / lost
    if how == "lost":
        path.unlink()
    else:
        os.truncate(path, 100)
    made = site.files()
    site.write(made)
    assert site.files() == made
    pair, ca = site.folder / "site.pem", Path(site.module.FOLDER) / "ca.pem"
    asked = ["openssl", "verify", "-CAfile", str(ca), "-verify_hostname", "site.test", str(pair)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_longest_domain_has_a_certificate(site: SimpleNamespace) -> None:
    domain = ".".join(["x" * 60] * 4)
    made = site.files(domain=domain, names=[domain])
    site.write(made)
    assert site.files(domain=domain, names=[domain]) == made


def test_a_public_certificate_serves_on_while_one_with_a_new_name_is_ordered(
    site: SimpleNamespace, load_source: Callable[..., ModuleType]
) -> None:
    """It was replaced by a self-made one at once: who had been there before, HSTS let in no more."""
    pki = load_source("salt/_utils/certificates.py")
    authority = pki.make_ca("an authority", 30)

    def given(names: list[str], addresses: Any = ()) -> str:
        pair = pki.issue(*authority, names[0], addresses, 20, names=names, usages=["server"])
        for end, text in zip(("", ".key"), pair, strict=True):
            (site.folder / f"site.pem{end}").write_text(text)
        return str(pair[0])

    def kept(pem: str, ordered: list[str]) -> bool:
        made = site.files(ordered=ordered)
        shown = made.get(str(Path(site.module.FOLDER) / "site.pem"))
        assert (shown is None) == (made[str(site.folder / "site.pem")]["data"] != pem.encode())
        return shown is not None

    site.write(site.files())
    for ordered in (["site.test"], ["site.test", "hello.test"], ["hello.test"]):
        assert kept(given(["site.test"]), ordered), ordered
    assert kept(given(["www.test"]), ["www.test", "hello.test"])
    assert not kept(given(["other.test"]), ["site.test"]), "for nobody who comes here"
    assert not kept(given(["site.test"]), []), "nothing is ordered any more"
    # One that was made here, by a CA that is another one by now.
    assert not kept(given(["site.test", "localhost"], addresses=["127.0.0.1"]), ["site.test"])
    unfit = given(["site.test"])
    (site.folder / "site.pem.key").write_text("")
    assert not kept(unfit, ["site.test"])


# --- HAProxy's check of all of it -----------------------------------------------------------------

CONFIG = """\
global
    default-path config
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend https
    bind 127.0.0.1:1 ssl crt {folder} alpn h2,http/1.1
"""


@pytest.mark.skipif(not shutil.which("haproxy"), reason="no haproxy on this computer")
@pytest.mark.parametrize("wrong", ["nothing", "a weak key", "another key"])
@pytest.mark.parametrize("where", ["staged", "beside it"])
def test_haproxy_judges_the_certificates_that_it_will_load(
    given: dict[str, tuple[str, str]], tmp_path: Path, wrong: str, where: str
) -> None:
    """Those of the staged tree, and those of other names that are on the machine and stay."""
    live, staged = tmp_path / "live", tmp_path / "staged"
    config = staged / "etc/haproxy/haproxy.cfg"
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG.format(folder=live))
    live.mkdir()
    (staged / str(live).lstrip("/")).mkdir(parents=True)

    def put(folder: Path, name: str, which: str) -> None:
        for end, text in zip(("", ".key"), given[which], strict=True):
            (folder / f"{name}.pem{end}").write_text(text)

    put(staged / str(live).lstrip("/"), "site", wrong if where == "staged" else "nothing")
    # What is live under the same name is not what is judged.
    put(live, "site", "nothing" if where == "staged" else "another key")
    put(live, "other", wrong if where == "beside it" else "nothing")
    words = ["sh", str(ROOT / "salt/haproxy/files/check"), str(staged), str(live)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (wrong == "nothing"), done.stderr
    assert wrong == "nothing" or f"{live}" in done.stderr
