"""Filebeat's configuration for each target, its script, and the key of its repository."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from salt.exceptions import CommandExecutionError

PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
ARCHIVE = {"from": "archive", "archive": "/srv/f.tar.gz", "sha256": "a" * 64}


OUTPUTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"kind": "elasticsearch", "hosts": ["https://e:9200"], "api_key": "filebeat-key"},
        {"output.elasticsearch.api_key": "${OUTPUT_API_KEY}"},
    ),
    (
        {"kind": "opensearch", "hosts": ["https://o:9200"], "username": "u", "password": "p"},
        {
            "output.elasticsearch.allow_older_versions": True,
            "output.elasticsearch.password": "${OUTPUT_PASSWORD}",
        },
    ),
    (
        {
            "kind": "logstash",
            "hosts": ["l:5044"],
            "tls": {"ca": PEM, "certificate": PEM, "key": "filebeat-tls"},
        },
        {
            "output.logstash.ssl.certificate_authorities": ["/etc/filebeat/ca.crt"],
            "output.logstash.ssl.key": "/run/credentials/filebeat.service/TLS_KEY",
        },
    ),
    ({"kind": "kafka", "hosts": ["k:9093"]}, {"output.kafka.required_acks": -1}),
    ({"kind": "redis", "hosts": ["r:6380"]}, {"output.redis.key": "logs"}),
]
KAFKA = {"kind": "kafka", "hosts": ["k:1"]}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"output": {"kind": "kafka"}}, "needs at least one"),
    ({"output": {**KAFKA, "api_key": "x"}}, "is for elasticsearch"),
    ({"output": {**KAFKA, "tls": {"certificate": PEM}}}, "need each other"),
    ({"output": KAFKA, "services": ["nginx"]}, "no such service"),
    ({"output": KAFKA, "install": {"from": "archive"}}, "needs archive and sha256"),
]


# Salt lays one pillar over the next within a process: each says all of it.
NOTHING: dict[str, Any] = {
    **dict.fromkeys(("username", "password", "api_key")),
    "hosts": [],
    "tls": dict.fromkeys(("ca", "certificate", "key")),
}
REPOSITORY = {"from": "repository", "archive": None, "sha256": None}


def whole(given: dict[str, Any]) -> dict[str, Any]:
    output = {**NOTHING, **given["output"]}
    output["tls"] = {**NOTHING["tls"], **output["tls"]}
    install = {**REPOSITORY, **given.get("install", {})}
    return {"services": [], **given, "output": output, "install": install}


@pytest.fixture(scope="module")
def lowstates(ask_dev: Callable[..., Any]) -> list[Any]:
    """Of every one of OUTPUTS, then of WRONG, then of the defaults: Salt is asked once."""
    pillars = [{"output": output, "install": ARCHIVE} for output, _ in OUTPUTS]
    pillars += [{"install": ARCHIVE, **given} for given, _ in WRONG]
    pillars.append({"output": KAFKA})
    found: list[Any] = ask_dev(
        [
            ["state.show_low_sls", ["filebeat"], {"pillar": {"filebeat": whole(one)}}]
            for one in pillars
        ]
    )
    return found


@pytest.fixture(scope="module")
def files(ask_dev: Callable[..., Any], lowstates: list[Any]) -> list[dict[str, str]]:
    """What is written for each of OUTPUTS: `{path: text}`."""
    questions = []
    for low in lowstates[: len(OUTPUTS)]:
        assert all(isinstance(one, dict) for one in low), low
        (running,) = [one for one in low if one["__id__"] == "filebeat running"]
        questions.append(["checked.render", [running["files"], running["context"]], {}])
    return [
        {path: ast.literal_eval(spec["data"]).decode() for path, spec in answer.items()}
        for answer in ask_dev(questions)
    ]


@pytest.mark.parametrize("number", range(len(OUTPUTS)))
def test_every_kind_of_output_is_rendered_with_tls_and_a_queue_on_disk(
    lowstates: list[Any], files: list[dict[str, str]], number: int
) -> None:
    output, said = OUTPUTS[number]
    config = yaml.safe_load(files[number]["/etc/filebeat/filebeat.yml"])
    kind = "elasticsearch" if output["kind"] == "opensearch" else output["kind"]
    assert config[f"output.{kind}.hosts"] == output["hosts"]
    assert config[f"output.{kind}.ssl.verification_mode"] == "full"
    assert config["queue.disk.max_size"] == "512MB"
    assert [key for key in config if key.startswith("output.") and key.split(".")[1] != kind] == []
    for key, value in said.items():
        assert config[key] == value
    wanted = [one["name"] for one in lowstates[number] if one["state"] == "secret"]
    unit = files[number]["/etc/systemd/system/filebeat.service"]
    assert unit.count("LoadCredential=") == len(wanted)


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_settings_that_do_not_go_together_are_refused(lowstates: list[Any], number: int) -> None:
    assert WRONG[number][1] in str(lowstates[len(OUTPUTS) + number])


def test_the_repository_is_pinned_and_the_version_held(lowstates: list[Any]) -> None:
    (key,) = [one for one in lowstates[-1] if one["state"] == "apt_key"]
    assert len(key["fingerprint"]) == 40
    (package,) = [one for one in lowstates[-1] if one["state"] == "pkg"]
    assert package["hold"] is True
    assert package["version"]


def test_the_example_in_the_pillar_is_right_once_its_comment_is_taken_away(root: Path) -> None:
    text = (root / "pillar" / "settings.sls").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {}, "on by default there would be no target"
    example = yaml.safe_load(text[text.index("# filebeat:") :].replace("# ", "").replace("{}", ""))
    schema = yaml.safe_load((root / "salt/filebeat/schema.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(example["filebeat"], schema)
    assert example["filebeat"]["output"]["password"] == "filebeat-password"


def test_without_an_output_it_is_not_there(rendered: Any) -> None:
    """Where it once was, it is switched off: tests/machine/test_filebeat.py."""
    (one,) = [chunk for chunk in rendered.low if chunk["__sls__"] == "filebeat"]
    assert (one["state"], one["fun"]) == ("test", "nop")


# --- the signing key ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: Any) -> dict[str, tuple[str, bytes]]:
    """Two keys of gpg's own making: `{name: (fingerprint, armored)}`."""
    if not shutil.which("gpg"):
        pytest.skip("no gpg on this computer")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)

    def gpg(*words: str) -> bytes:
        return subprocess.run(
            ["gpg", "--homedir", str(home), "--batch", *words], capture_output=True, check=True
        ).stdout

    found = {}
    for name, kind in (("one", "rsa2048"), ("two", "ed25519")):
        gpg("--passphrase", "", "--quick-generate-key", name, kind, "default", "never")
        listed = gpg("--with-colons", "--fingerprint", name).decode()
        first = re.search(r"[0-9A-F]{40}", listed)
        assert first
        fingerprint = first[0]
        found[name] = (fingerprint, gpg("--armor", "--export", name))
    found["both"] = ("", gpg("--armor", "--export", "one", "two"))
    found["binary"] = (found["one"][0], gpg("--export", "one"))
    return found


@pytest.fixture
def apt_key(load_source: Callable[..., ModuleType]) -> ModuleType:
    return load_source("salt/_modules/apt_key.py")


def test_the_fingerprint_is_what_gpg_says(
    apt_key: ModuleType, keys: dict[str, tuple[str, bytes]]
) -> None:
    for name in ("one", "two", "binary"):
        fingerprint, data = keys[name]
        assert apt_key.fingerprints(data) == [fingerprint]
        assert apt_key.problem(data, fingerprint) is None


def test_any_other_key_or_one_more_is_refused(
    apt_key: ModuleType, keys: dict[str, tuple[str, bytes]]
) -> None:
    wanted = keys["one"][0]
    assert keys["two"][0] in apt_key.problem(keys["two"][1], wanted)
    assert "alone" in apt_key.problem(keys["both"][1], wanted)
    assert "alone" in apt_key.problem(keys["one"][1] + keys["two"][1], wanted)
    for data in (b"<html>not here</html>", keys["binary"][1][:40], b"\xff" * 50):
        with pytest.raises(CommandExecutionError, match="no signing key"):
            apt_key.problem(data, wanted)
    assert apt_key.problem(b"", wanted) == "there is no key in it"


def test_a_key_that_is_refused_is_not_kept(
    load_source: Callable[..., ModuleType], keys: dict[str, tuple[str, bytes]], tmp_path: Path
) -> None:
    module = load_source("salt/_modules/apt_key.py")
    state = load_source("salt/_states/apt_key.py", salt={"apt_key.problem": module.problem})
    target, source = tmp_path / "elastic.asc", tmp_path / "fetched"
    source.write_bytes(keys["two"][1])
    ret = state.pinned(str(target), str(source), keys["one"][0])
    assert ret["result"] is False
    assert not target.exists()
    source.write_bytes(keys["one"][1])
    assert state.pinned(str(target), str(source), keys["one"][0])["changes"]
    source.unlink()
    assert state.pinned(str(target), str(source), keys["one"][0])["changes"] == {}
