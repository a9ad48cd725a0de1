"""kitchen.yml as far as it can be checked without the gem."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
# Options of the salt_solo provisioner and the vagrant driver, from their documentation.
PROVISIONER = {
    "name", "salt_install", "require_chef", "is_file_root", "local_salt_root",
    "state_top_from_file", "salt_copy_filter", "salt_minion_extra_config",
}  # fmt: skip
DRIVER = {"name", "provider", "provision", "vagrantfiles", "box"}


def kitchen() -> dict:
    text = (ROOT / "kitchen.yml").read_text()
    return yaml.safe_load(re.sub(r"<%=.*?%>", "erb", text))


def test_only_documented_options_are_used() -> None:
    config = kitchen()
    assert set(config["provisioner"]) <= PROVISIONER
    assert set(config["driver"]) <= DRIVER
    for platform in config["platforms"]:
        assert set(platform["driver"]) <= DRIVER


def test_it_asks_for_what_the_project_supports() -> None:
    config = kitchen()
    assert config["provisioner"]["name"] == "salt_solo"
    assert config["provisioner"]["salt_install"] == "none"
    boxes = {platform["driver"]["box"] for platform in config["platforms"]}
    assert boxes == set(re.findall(r"debian/\w+64", (ROOT / "kitchen.yml").read_text()))
    assert boxes == {"debian/trixie64", "debian/bookworm64"}


def test_every_path_it_names_exists() -> None:
    config = kitchen()
    for path in config["driver"]["vagrantfiles"]:
        assert (ROOT / path).is_file()
    for part in ("salt/top.sls", "pillar/top.sls", "bootstrap/bootstrap.sh"):
        assert (ROOT / part).is_file()
    command = shlex.split(config["verifier"]["command"])
    assert (ROOT / command[command.index("pytest") + 1]).is_file()
