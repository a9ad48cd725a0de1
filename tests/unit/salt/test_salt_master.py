"""Topologies under salt-ssh and under a master."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml


def roster(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """`salt/_etc/roster` as Salt's `py` renderer runs it, from the root of a checkout."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TOPOLOGY", name)
    names: dict[str, Any] = {}
    source = (root / "salt" / "_etc" / "roster").read_text()
    exec(compile(source, "roster", "exec"), names)
    return names["run"]()


def test_the_roster_of_salt_ssh_is_the_topology(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pillar" / "topologies").mkdir(parents=True)
    source = root / "pillar" / "topologies" / "prod.yaml"
    (tmp_path / "pillar" / "topologies" / "prod.yaml").write_text(source.read_text())
    with pytest.raises(ValueError, match="no machines of topology prod are up: 'make up' first"):
        roster(root, tmp_path, monkeypatch, "prod")
    (tmp_path / ".lab" / "prod").mkdir(parents=True)
    (tmp_path / ".lab" / "prod" / "ssh_config").write_text(
        'Host edge1\n  HostName 192.168.56.20\n  User vagrant\n  Port 2222\n  IdentityFile "/k"\n'
        "  UserKnownHostsFile /dev/null\n  StrictHostKeyChecking no\n\n"
        "Host app1\n  HostName 203.0.113.7\n  User root\n\nHost *\n  IdentityFile /common\n"
    )
    found = roster(root, tmp_path, monkeypatch, "prod")
    assert list(found) == ["edge1", "app1"], "those that can be reached"
    assert found["edge1"] | {"ssh_options": None} == {
        "host": "192.168.56.20",
        "user": "vagrant",
        "port": 2222,
        "priv": "/k",
        "sudo": True,
        "ssh_options": None,
        "grains": {"roles": ["edge"]},
    }
    assert "StrictHostKeyChecking=no" in found["edge1"]["ssh_options"]
    assert (found["app1"]["priv"], found["app1"]["sudo"]) == ("/common", False)
    # A key that was never seen is not accepted where nobody said so.
    assert "StrictHostKeyChecking=yes" in found["app1"]["ssh_options"]


def test_under_a_master_a_minion_gets_its_roles_and_only_its_secrets(
    root: Path, tmp_path: Path
) -> None:
    """The example of docs/salt-master.md, compiled by the code a master runs for a minion."""
    text = (root / "docs" / "salt-master.md").read_text(encoding="utf-8")
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    for part in ("salt", "pillar"):
        (tmp_path / part).symlink_to(root / part)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "app1.yaml").write_text("secrets: {redis-counter: of-app1}\n")
    (secrets / "edge1.yaml").write_text("secrets: {pki: of-edge1}\n")
    asked = subprocess.run(
        [sys.executable, "-c", MASTER, str(tmp_path), json.dumps(example)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert asked.returncode == 0, asked.stderr[-3000:]
    found = json.loads(asked.stdout.splitlines()[-1])
    assert found["app1"]["pillar"]["machine"]["roles"] == ["app"]
    assert found["app1"]["pillar"]["secrets"] == {"redis-counter": "of-app1"}
    assert found["edge1"]["pillar"]["secrets"] == {"pki": "of-edge1"}
    assert found["app1"]["pillar"]["machine"]["address"] == "192.168.56.31"
    assert "counter" in found["app1"]["top"]
    assert "haproxy" not in found["app1"]["top"]
    assert "haproxy" in found["edge1"]["top"]
    assert "error" in found["outsider"], "a minion that the topology does not name gets nothing"


# Pillar and top file of minions as a master compiles them for each.
MASTER = """
import json, sys
import salt.config, salt.pillar, salt.state
root, example = sys.argv[1], json.loads(sys.argv[2])
state = f"{root}/state"
found = {}
for minion in ("app1", "edge1", "outsider"):
    master = salt.config.apply_master_config()
    options = {**salt.config.DEFAULT_MINION_OPTS, **master, **example}
    options |= {
        "file_roots": {"base": [f"{root}/salt"]}, "pillar_roots": {"base": [f"{root}/pillar"]},
        "ext_pillar": [{"cmd_yaml": f"cat {root}/secrets/%s.yaml"}],
        "id": minion, "file_client": "local", "cachedir": f"{state}/cache", "root_dir": state,
        "pki_dir": f"{state}/pki", "extension_modules": f"{state}/ext", "module_dirs": [f"{root}/salt"],
        "renderer": "jinja|yaml", "__role": "minion", "log_file": f"{state}/log", "sock_dir": state,
    }
    grains = {"id": minion, "os": "Debian", "os_family": "Debian"}
    pillar = salt.pillar.Pillar(options, grains, minion, "base").compile_pillar()
    if "_errors" in pillar:
        found[minion] = {"error": pillar["_errors"]}
        continue
    options |= {"grains": grains, "pillar": pillar}
    highstate = salt.state.HighState(options, pillar_override=pillar, initial_pillar=pillar)
    with highstate:
        top = highstate.top_matches(highstate.get_top())
    found[minion] = {"pillar": pillar, "top": top["base"]}
print(json.dumps(found, default=str))
"""
