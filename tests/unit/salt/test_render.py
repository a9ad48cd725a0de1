"""What real Salt makes of the tree, for every machine of every topology, without any machine."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.conftest import RELEASE, ask_salt, prepare

# Which formula a role is for; a role may bring more.
FORMULAS = {"edge": "haproxy", "app": "counter", "store": "redis"}
UNIT = re.compile(r"^/etc/systemd/system/[^/]+\.(service|socket|timer|path|mount|target)(\.d/.+)?$")
SECRETS = {"redis-admin": "sentinel-of-the-administrator", "redis-counter": "sentinel-of-the-app"}


def checked(rendered: Any) -> list[dict[str, Any]]:
    return [chunk for chunk in rendered.low if chunk["state"] == "checked"]


def test_every_machine_renders_to_a_lowstate_without_an_error(rendered: Any) -> None:
    # Errors come as strings among (or instead of) the chunks.
    assert [one for one in rendered.low if not isinstance(one, dict)] == []
    # Tunnels are for other machines: where nobody comes in, there is nothing to do.
    idle = {"stunnel"} if not rendered.tunnels else set()
    stores = [one for one in rendered.topology["machines"].values() if "store" in one["roles"]]
    if len(stores) < 2:
        idle |= {"sentinel"}
    assert {chunk["__sls__"].split(".")[0] for chunk in rendered.low} == set(rendered.top) - idle


def test_every_sls_of_the_tree_is_rendered_on_some_machine(
    all_rendered: dict[Any, Any], root: Path
) -> None:
    used = {chunk["__sls__"] for one in all_rendered.values() for chunk in one.low}
    written = {
        ".".join(path.relative_to(root / "salt").with_suffix("").parts).removesuffix(".init")
        for path in (root / "salt").rglob("*.sls")
        if not path.relative_to(root / "salt").parts[0].startswith("_") and path.name != "top.sls"
    }
    # An SLS that only includes others has no state of its own to be seen by.
    including = {
        name for name in written - used if any(other.startswith(f"{name}.") for other in used)
    }
    # Only where the pillar gives an output (test_filebeat_formula.py).
    chosen = {"filebeat.install", "filebeat.service"}
    assert written - used - including - chosen == set()


def test_a_machine_gets_the_formulas_of_its_roles_and_no_others(rendered: Any) -> None:
    assert rendered.top[0] == "base"
    for role, formula in FORMULAS.items():
        assert (formula in rendered.top) == (role in rendered.machine["roles"]), formula


def test_state_ids_are_words_a_tired_person_can_read(rendered: Any) -> None:
    for chunk in rendered.low:
        identity = chunk["__id__"]
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9' .:-]*[A-Za-z0-9]", identity), identity
        assert not re.search(r"-(managed|installed|running|present|directory)$", identity), identity
        assert not identity.endswith((".conf", ".cfg", ".service")), identity


def test_no_state_id_appears_twice(rendered: Any) -> None:
    # A state may run under many names, but then in one chunk of a list: pkgs, files.
    counts = Counter((chunk["__id__"], chunk["state"]) for chunk in rendered.low)
    assert [one for one, count in counts.items() if count > 1] == []
    ids = Counter(identity for identity, _ in counts)
    assert [one for one, count in ids.items() if count > 1] == []


def test_every_requisite_names_a_state_that_is_there(rendered: Any) -> None:
    known = {(chunk["state"], chunk["__id__"]) for chunk in rendered.low}
    known |= {(chunk["state"], chunk["name"]) for chunk in rendered.low if "name" in chunk}
    known |= {("sls", chunk["__sls__"]) for chunk in rendered.low}
    for chunk in rendered.low:
        for kind in ("require", "watch", "onchanges", "require_in", "watch_in"):
            for one in chunk.get(kind, []):
                assert next(iter(one.items())) in known, f"{chunk['__id__']}: {kind}: {one}"


def test_every_template_renders_whole(rendered: Any) -> None:
    for chunk in checked(rendered):
        for path, spec in chunk["files"].items():
            text = rendered.text(path)
            assert text.strip(), path
            assert text.endswith("\n") or path.endswith((".http", ".min.css")), (
                f"{path}: last line is cut"
            )
            if "contents" in spec or not spec.get("source", "").endswith(".j2"):
                # Put there as it is.
                continue
            assert "{{" not in text and "{%" not in text, path
            if not spec.get("source", ".j2").endswith(".j2"):
                continue
            # `None` or `Undefined` in a configuration is a setting that nobody gave.
            assert not re.search(r"\bNone\b|\bUndefined\b", text), path


def test_modules_that_are_blocked_are_never_loaded(rendered: Any, root: Path) -> None:
    defaults = yaml.safe_load((root / "salt" / "base" / "defaults.yaml").read_text())
    text = rendered.text("/etc/modprobe.d/stack.conf")
    assert {"dccp", "usb-storage"} <= set(defaults["blocked_modules"])
    for name in defaults["blocked_modules"]:
        assert f"install {name} /bin/false\n" in text, name


def test_root_comes_in_by_key_only(rendered: Any) -> None:
    lines = rendered.text("/etc/ssh/sshd_config.d/10-stack.conf").splitlines()
    assert "PermitRootLogin prohibit-password" in lines
    assert "PasswordAuthentication no" in lines


def test_no_configuration_goes_live_unchecked(rendered: Any) -> None:
    for chunk in checked(rendered):
        # Units are verified without being asked for.
        others = [path for path in chunk["files"] if not UNIT.match(path)]
        named = " ".join(chunk.get("checks", []))
        whole = re.search(r"\{staged\}(\s|$)", named)
        configs = [path for path in others if not path.endswith(".http")]
        for path in configs:
            assert whole or "{staged}" + path in named, f"{chunk['__id__']}: {path} has no check"
        if others:
            # Static pages stand beside a configuration whose check reads them.
            assert configs, f"{chunk['__id__']}: nothing here is checked: {others}"


# What a state may be. None of these writes a file's text or starts a service, but `checked` and `release`,
# and the two below.
ALLOWED = {
    *("checked.files", "checked.service", "release.installed", "release.rolled"),
    # Stops what runs under a former name.
    "applications.only",
    *(
        "archive.extracted",
        "file.absent",
        "file.directory",
        "permissions.max_mode",
        "pkg.installed",
    ),
    *("service.dead", "service.enabled", "service.masked", "service.unmasked"),
    *("group.present", "accounts.managed", "user.present", "secret.present", "pki.present"),
    *("sysctl_settings.applied", "apt_key.pinned", "timezone.system", "test.nop"),
}
# Single lines of files that are a package's or another program's, and that no program checks.
LINES = {
    ("file.replace", "/etc/login.defs"),
    ("file.append", "/etc/pam.d/common-session"),
    ("file.blockreplace", "/etc/hosts"),
}


@functools.cache
def exposure(unit: str) -> float:
    """By systemd's own analysis of the unit's text; many machines have the same unit."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "one.service")
        file.write_text(unit, encoding="utf-8")
        said = subprocess.run(
            ["systemd-analyze", "security", "--no-pager", "--offline=true", str(file)],
            capture_output=True, text=True, check=True, timeout=300,
        ).stdout  # fmt: skip
    level = re.search(r"Overall exposure level .*: ([0-9.]+) ", said)
    assert level, said
    return float(level[1])


def test_a_service_is_restarted_when_the_program_that_it_runs_changes(rendered: Any) -> None:
    """One of another state was new on disk, and the old one ran on until something else restarted it."""
    for chunk in checked(rendered):
        # What a timer starts is new each time.
        if chunk["fun"] != "service" or chunk["name"].endswith(".timer"):
            continue
        known = {*chunk["files"], *(chunk.get("watch_files") or ())}
        for unit in (path for path in chunk["files"] if path.startswith("/etc/systemd/system/")):
            started = set(
                re.findall(r"(?m)^ExecStart=[-+!@:]*(/usr/local/\S+)", rendered.text(unit))
            )
            assert started <= known, f"{chunk['name']}: {started - known}"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_every_unit_is_sandboxed_or_says_what_keeps_it_open(rendered: Any) -> None:
    """At most 2.0, or what the unit's own file gives reasons for; a drop-in has to reach it by itself."""
    # {unit's name: its own file, then its drop-ins}; `app-.service.d` is for `app-revert.service` too.
    texts: dict[str, str] = {}
    paths = sorted(path for chunk in checked(rendered) for path in chunk["files"])
    units = [re.search(r"/systemd/system/([^/]+\.service)(\.d/)?", path) for path in paths]
    found = [(path, unit) for path, unit in zip(paths, units, strict=True) if unit]
    for path, unit in sorted(found, key=lambda one: bool(one[1][2])):
        for name in {unit[1], *texts}:
            if name == unit[1] or (unit[1].endswith("-.service") and name.startswith(unit[1][:-8])):
                texts[name] = texts.get(name, "") + "\n" + rendered.text(path)
    assert len(texts) >= 8
    exposed = {}
    for name, text in texts.items():
        command = "" if "\nExecStart=/" in text else "\n[Service]\nExecStart=/bin/true\n"
        level = exposure(text + command)
        reason = re.search(r"(?m)^# At most ([0-9.]+) on `systemd-analyze security`: \w", text)
        if level > (float(reason[1]) if reason else 2.0):
            exposed[name] = level
    assert exposed == {}


def test_no_service_or_config_gets_round_the_check(rendered: Any) -> None:
    for chunk in rendered.low:
        what = f"{chunk['state']}.{chunk['fun']}"
        assert what in ALLOWED or (what, chunk.get("name")) in LINES, (
            f"{chunk['__id__']}: {what}: use checked.service or checked.files"
        )


def test_no_rendered_file_or_state_contains_a_secret(rendered: Any) -> None:
    for path, spec in rendered.files.items():
        text = rendered.text(path)
        for name, value in SECRETS.items():
            assert value not in text, f"{path} contains secret {name}"
            if not spec["secret"]:
                assert hashlib.sha256(value.encode()).hexdigest() not in text, f"{path}: {name}"
        if not spec["secret"]:
            assert not re.search(r"(?im)^\s*(requirepass|masterauth|password)\b\s*[:= ]", text), (
                path
            )
    states = json.dumps(rendered.low)
    for value in SECRETS.values():
        assert value not in states
        assert hashlib.sha256(value.encode()).hexdigest() not in states


def test_secret_files_are_not_for_everybody(rendered: Any) -> None:
    for path, spec in rendered.files.items():
        if spec["secret"]:
            assert spec["mode"] & 0o007 == 0, f"{path}: mode {spec['mode']:04o}"


def test_only_scripts_may_be_executed_and_nothing_is_writable_by_others(rendered: Any) -> None:
    for path, spec in rendered.files.items():
        assert spec["mode"] & 0o022 == 0, f"{path}: mode {spec['mode']:04o}"
        assert bool(spec["mode"] & 0o111) == rendered.text(path).startswith("#!"), path


def test_status_asks_for_every_daemon_of_the_machine(rendered: Any) -> None:
    asked = {unit for units in rendered.status.values() for unit in units}
    for chunk in rendered.low:
        if (chunk["state"], chunk["fun"]) == ("checked", "service"):
            assert chunk["name"] in asked
        if (chunk["state"], chunk["fun"]) == ("release", "rolled"):
            units = {f"{chunk['name']}@{one + 1}" for one in range(chunk["instances"])}
            assert units <= asked


# --- what derives from the topology ---------------------------------------------------------------


def expected_servers(rendered: Any) -> dict[str, tuple[str, str]]:
    """`server` lines as the topology alone says them: `{name: (address, name in the certificate)}`."""
    found = {}
    for name, one in rendered.topology["machines"].items():
        if "app" in one["roles"]:
            here = name == rendered.name
            for index in range(one["cpus"]):
                address = (
                    f"127.0.0.1:{8001 + index}" if here else f"{one['address']}:{8443 + index}"
                )
                found[f"{name}-{index + 1}"] = (address, "" if here else name)
    return found


def servers(text: str) -> dict[str, tuple[str, str]]:
    """As above, of a configuration; a server by TLS is one whose certificate is asked for."""
    line = re.compile(
        r"(?m)^    server (\S+) (\S+)(?: ssl verify required verifyhost (\S+)"
        r" ca-file /etc/stack/pki/machine-ca.crt crt /etc/stack/pki/machine.crt"
        r" observe layer7 error-limit 3 on-error mark-down)?$"
    )
    return {name: (address, host) for name, address, host in line.findall(text)}


def test_haproxy_has_every_application_instance_as_a_server(rendered: Any) -> None:
    if "edge" not in rendered.machine["roles"]:
        assert "/etc/haproxy/haproxy.cfg" not in rendered.files
        return
    assert servers(rendered.text("/etc/haproxy/haproxy.cfg")) == expected_servers(rendered)


def test_the_edge_has_one_thread_for_each_two_cores(rendered: Any) -> None:
    """Two on two cores spin on each other's locks (docs/decisions/0048)."""
    if "/etc/haproxy/haproxy.cfg" in rendered.files:
        threads = re.findall(r"(?m)^ +nbthread (\d+)$", rendered.text("/etc/haproxy/haproxy.cfg"))
        assert threads == [str(max(1, rendered.machine["cpus"] // 2))]


def test_no_process_of_an_application_holds_the_machines_key(rendered: Any) -> None:
    """With it, a flaw in the application is enough to speak as the machine: logs, metrics, tunnels."""
    path = "/etc/systemd/system/counter@.service"
    if path not in rendered.files:
        return
    unit = rendered.text(path)
    assert "machine." not in unit
    assert "stack-pki" not in unit
    apart = "store" not in rendered.machine["roles"]
    keys = re.findall(r"(?m)^LoadCredential=\S+:(/etc/stack/pki/\S+\.key)$", unit)
    assert keys == (["/etc/stack/pki/app.key"] if apart else [])
    # And what it holds is welcome in none of these: they name machines.
    for path in rendered.files:
        if path.startswith("/etc/stunnel/") or path == "/etc/rsyslog.conf":
            assert "app." not in re.sub(r"(?m)^\s*[#;].*$", "", rendered.text(path)), path


def test_prod_lists_both_app_machines_and_dev_lists_loopback(all_rendered: dict[Any, Any]) -> None:
    cfg = "/etc/haproxy/haproxy.cfg"
    prod = servers(all_rendered["prod", "edge1"].text(cfg))
    assert prod == {
        "app1-1": ("192.168.56.31:8443", "app1"),
        "app2-1": ("192.168.56.32:8443", "app2"),
    }
    dev = servers(all_rendered["dev", "dev"].text(cfg))
    assert dev == {"dev-1": ("127.0.0.1:8001", ""), "dev-2": ("127.0.0.1:8002", "")}
    assert "ssl" not in all_rendered["dev", "dev"].text(cfg).split("backend app")[1]


def test_instances_listen_where_haproxy_looks_for_them(all_rendered: dict[Any, Any]) -> None:
    for one in all_rendered.values():
        for chunk in one.low:
            if (chunk["state"], chunk["fun"]) == ("release", "rolled"):
                assert chunk["address"] == "127.0.0.1"
                ports = {chunk["port"] + index for index in range(chunk["instances"])}
                assert ports == {8001 + index for index in range(one.machine["cpus"])}
                tunnels = {
                    (tunnel["accept"], tunnel["connect"])
                    for tunnel in one.tunnels
                    if tunnel["role"] == "edge"
                }
                alone = one.with_role("edge") == [one.machine]
                assert tunnels == (
                    set() if alone else {(port + 442, f"127.0.0.1:{port}") for port in ports}
                )


def test_a_tunnel_lets_in_the_machines_of_its_role_by_name_and_address(rendered: Any) -> None:
    for tunnel in rendered.tunnels:
        text = rendered.text(f"/etc/stunnel/{tunnel['name']}.conf")
        peers = {
            name: one["address"]
            for name, one in rendered.topology["machines"].items()
            if tunnel["role"] in one["roles"] and name != rendered.name
        }
        assert set(re.findall(r"(?m)^checkHost = (.*)$", text)) == set(peers)
        for line in ("verifyChain = yes", "requireCert = yes"):
            assert f"\n{line}\n" in text
        assert f"\naccept = {rendered.machine['address']}:{tunnel['accept']}\n" in text
        zone = rendered.text("/etc/firewalld/zones/stack.xml")
        port = f'<port port="{tunnel["accept"]}" protocol="tcp"/>'
        rule = rf'<source address="(.*?)"/>\s*{port}'
        assert set(re.findall(rule, zone)) == set(peers.values())


def test_one_machine_has_no_tunnel_and_nothing_of_theirs(all_rendered: dict[Any, Any]) -> None:
    for one in all_rendered.values():
        if len(one.topology["machines"]) == 1:
            assert one.tunnels == []
            watched = "/etc/prometheus/"
            assert not [
                path
                for path in one.files
                if ("stunnel" in path or "tunnel@" in path) and not path.startswith(watched)
            ]
            assert "tunnel@" not in one.text("/etc/systemd/system/counter@.service")
            assert "tls-port" not in one.text("/etc/redis/redis.conf")


def test_redis_listens_only_where_its_application_is(rendered: Any) -> None:
    path = "/etc/redis/redis.conf"
    if "store" not in rendered.machine["roles"]:
        assert path not in rendered.files
        return
    apps = rendered.with_role("app")
    wanted = "127.0.0.1" if apps == [rendered.machine] else rendered.machine["address"]
    assert re.findall(r"(?m)^bind (.*)$", rendered.text(path)) == [wanted]
    assert "protected-mode yes" in rendered.text(path)


def test_the_application_asks_the_store_where_it_listens(all_rendered: dict[Any, Any]) -> None:
    for one in all_rendered.values():
        for chunk in one.low:
            if (chunk["state"], chunk["fun"]) != ("release", "rolled"):
                continue
            name = next(
                name for name, host in one.topology["machines"].items() if "store" in host["roles"]
            )
            conf = all_rendered[one.topology["name"], name].text("/etc/redis/redis.conf")
            assert chunk["values"]["store"] == re.search(r"(?m)^bind (.*)$", conf)[1]  # type: ignore
            scheme, key = chunk["values"]["store_scheme"], "port"
            if scheme == "rediss":
                key = "tls-port"
                assert "\nport 0\n" in conf, "nothing without TLS"
                assert "\ntls-auth-clients yes\n" in conf
                assert set(chunk["environment"]) > {"REDIS_CA_FILE", "REDIS_CERTIFICATE_FILE"}
            assert (scheme == "rediss") == (len(one.topology["machines"]) > 1)
            assert chunk["values"]["store_port"] == int(
                re.search(rf"(?m)^{key} (.*)$", conf)[1]  # type: ignore
            )


def test_every_machine_knows_the_names_of_all(rendered: Any) -> None:
    hosts = next(c for c in rendered.low if (c["state"], c["fun"]) == ("file", "blockreplace"))
    lines = {line.split()[1]: line.split()[0] for line in hosts["content"].strip().splitlines()}
    wanted = {name: one["address"] for name, one in rendered.topology["machines"].items()}
    if shared := rendered.topology.get("floating_address"):
        wanted[rendered.topology["domain"]] = shared
    assert lines == wanted


# --- the real programs, where this computer has them ----------------------------------------------


def stage(rendered: Any, folder: Path, prefix: str) -> None:
    for path in rendered.files:
        if path.startswith(prefix):
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(rendered.data(path))


def certificate(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "throwaway")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True)
    (folder / "site.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "site.pem.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def identity(folder: Path, path: Path) -> None:
    """A machine's certificate in `folder`, which the configuration `path` then names."""
    from control.credentials import certificates

    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = certificates.make_ca("test", 2)
    certificate, key = certificates.issue(ca, ca_key, "test", ["127.0.0.1"], 2)
    for name, text in (("machine-ca.crt", ca), ("machine.crt", certificate), ("machine.key", key)):
        (folder / name).write_text(text, encoding="utf-8")
    text = path.read_text(encoding="utf-8").replace("/etc/stack/pki/", f"{folder}/")
    path.write_text(text, encoding="utf-8")


def haproxy_says(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["haproxy", "-c", "-q", "-f", str(folder / "etc/haproxy/haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.skipif(not shutil.which("haproxy"), reason="no haproxy on this computer")
def test_haproxy_itself_accepts_the_rendered_configuration(
    all_rendered: dict[Any, Any], tmp_path: Path
) -> None:
    found = 0
    for (topology, name), one in all_rendered.items():
        if "/etc/haproxy/haproxy.cfg" not in one.files:
            continue
        found += 1
        folder = tmp_path / f"{topology}-{name}"
        stage(one, folder, "/etc/haproxy/")
        certificate(folder / "tls")
        path = folder / "etc/haproxy/haproxy.cfg"
        text = path.read_text(encoding="utf-8")
        assert " crt /etc/haproxy/tls " in text
        path.write_text(text.replace("/etc/haproxy/tls", str(folder / "tls")), encoding="utf-8")
        identity(folder / "pki", path)
        done = haproxy_says(folder)
        # A warning is a refusal to come.
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), f"{topology}/{name}"
        path.write_text(path.read_text(encoding="utf-8") + "    banana\n", encoding="utf-8")
        assert haproxy_says(folder).returncode != 0, "this haproxy accepts anything"
    assert found


@pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("redis-cli")),
    reason="no redis-server and redis-cli on this computer",
)
@pytest.mark.parametrize("spoilt", [None, "redis.conf", "users.acl"])
def test_redis_itself_accepts_the_rendered_configuration(
    all_rendered: dict[Any, Any], tmp_path: Path, root: Path, spoilt: str | None
) -> None:
    for (topology, name), one in all_rendered.items():
        if "/etc/redis/redis.conf" not in one.files or (spoilt and name != "dev"):
            continue
        folder = tmp_path / f"{topology}-{name}"
        stage(one, folder, "/etc/redis/")
        identity(folder / "pki", folder / "etc/redis/redis.conf")
        if spoilt:
            with open(folder / "etc/redis" / spoilt, "a", encoding="utf-8") as file:
                file.write("banana yes\n")
        done = subprocess.run(
            ["sh", str(root / "salt/redis/files/check"), str(folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        if spoilt:
            assert done.returncode != 0
            assert done.stderr.strip(), "refused without a word"
        else:
            assert done.returncode == 0, f"{topology}/{name}: {done.stderr}"


def test_the_shell_files_of_the_tree_are_shell(root: Path) -> None:
    for path in sorted((root / "salt").rglob("files/*")):
        if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh"):
            done = subprocess.run(["sh", "-n", str(path)], capture_output=True, check=False)
            assert done.returncode == 0, f"{path}: {done.stderr!r}"


def test_the_roles_of_top_sls_are_roles_that_a_topology_knows(root: Path) -> None:
    from control.topology import ROLES

    top = yaml.safe_load((root / "salt" / "top.sls").read_text(encoding="utf-8"))
    named = {key.removeprefix("machine:roles:") for key in top["base"] if "roles" in key}
    assert named <= set(ROLES)


# --- a custom certificate -------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Machine dev with a certificate in its pillar: `{pem, low, health}`."""
    made = tmp_path_factory.mktemp("own")
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3"
        f" -subj /CN=mine.test -keyout {made}/site.pem.key -out {made}/site.pem",
        shell=True,
        check=True,
        capture_output=True,
    )
    pem = (made / "site.pem").read_text(encoding="utf-8")
    tree = tmp_path_factory.mktemp("given") / "dev"
    minion = prepare(tree, {"topology": "dev", "name": "dev", "release": RELEASE})
    assert minion.exists()
    settings = {"tls": {"certificate": pem, "key": "site-key", "directory": str(made)}}
    settings_file = tree / "pillar" / "settings.sls"
    settings_file.write_text(yaml.safe_dump({"haproxy": settings}), encoding="utf-8")
    shutil.copy(made / "site.pem.key", tree / "secrets" / "site-key")
    low, status = ask_salt(
        tree,
        [
            ["state.show_low_sls", ["haproxy"], {}],
            ["slsutil.renderer", ["salt://haproxy/status.yaml.j2"], RENDERER],
        ],
    )
    (running,) = [one for one in low if one["__id__"] == "haproxy running"]
    (files,) = ask_salt(tree, [["site.files", [], running["made"]["site.files"]]])
    return {
        "pem": pem,
        "files": files,
        "low": low,
        "health": status["haproxy"]["health"],
        "folder": made,
    }


RENDERER = {"default_renderer": "jinja|yaml"}


def test_clients_get_a_given_certificate_in_place_of_the_ca(
    own_certificate: dict[str, Any],
) -> None:
    for_clients = own_certificate["files"]["/etc/stack/pki/site.pem"]
    assert for_clients["data"] == str(own_certificate["pem"].encode())


def test_no_state_of_the_edge_holds_a_given_certificates_key(
    own_certificate: dict[str, Any],
) -> None:
    """It is read where it is written: no lowstate, and so no log, has it."""
    assert "PRIVATE KEY" not in json.dumps(own_certificate["low"])
    key = own_certificate["files"][f"{own_certificate['folder']}/site.pem.key"]
    assert (key["mode"], key["group"], key["secret"]) == (0o640, "haproxy", True)


def test_a_given_certificate_for_another_name_is_well_and_another_key_is_not(
    own_certificate: dict[str, Any], tmp_path: Path
) -> None:
    """What `make status` asks, of a server with the given certificate, then with another one."""
    health, folder = own_certificate["health"], own_certificate["folder"]
    other = tmp_path / "other.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3"
        f" -subj /CN=localhost -keyout {other}.key -out {other}",
        shell=True,
        check=True,
        capture_output=True,
    )
    # It serves files: GET /readyz is one.
    (tmp_path / "readyz").write_text("ready", encoding="utf-8")
    for pem, well in ((folder / "site.pem", True), (other, False)):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = f"openssl s_server -accept {port} -cert {pem} -key {pem}.key -WWW -quiet"
        server = subprocess.Popen(words.split(), cwd=tmp_path, stderr=subprocess.DEVNULL)
        try:
            ask = health
            for here, there in (
                ("localhost:443/", f"localhost:{port}/"),
                # What the state leaves on a machine with a certificate of its own.
                ("/etc/stack/pki/site.pem", str(folder / "site.pem")),
            ):
                assert here in ask
                ask = ask.replace(here, there)
            for _ in range(600):
                done = subprocess.run(ask, shell=True, capture_output=True, text=True, check=False)
                if done.returncode != 7:
                    break
                time.sleep(0.1)
        finally:
            server.terminate()
            server.wait()
        assert (done.returncode == 0) == well, done.stderr
        # 90: another key than the pinned one.
        assert well or done.returncode == 90, done.stderr
