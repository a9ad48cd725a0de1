"""
Several applications on one machine: the counter, `shop` (state, a release command, a worker, a cron job) and `pages`. What
happens to one is nothing to the others.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pace
import pytest
import runbooks
from applications_lab import Apps
from lab_machine import Lab

pytestmark = [pytest.mark.controller, pytest.mark.one_release]

SOURCES = Path(__file__).parent / "applications"
SETTINGS = {
    "apps": {
        "shop": {"hosts": ["shop.test"], "state": True, "bake_seconds": 1, "ready_seconds": 6},
        "pages": {
            "hosts": ["pages.test", "www.pages.test"],
            "bake_seconds": 0,
            "instances": 1,
            "methods": ["GET", "POST"],
            "max_body": 20000,
        },
    }
}


class Built(Apps):
    def build(self, name: str, fails: str = "", version: str = "one") -> str:
        """Publish an application, told what to fail at; its version."""
        folder = self.sources / name
        source = (SOURCES / name / f"{name}.py").read_text(encoding="utf-8")
        source = source.replace('"one"', f'"{version}"').replace('FAILS = ""', f'FAILS = "{fails}"')
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        return self.publish(folder)


@pytest.fixture(scope="module")
def apps(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    sources = tmp_path_factory.mktemp("sources")
    shutil.copytree(SOURCES, sources, dirs_exist_ok=True)
    # One's own version for each build, also where git ignores what is temporary.
    ours = Built(lab, tmp_path_factory.mktemp("store"), sources)
    with ours.served():
        ours.settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
        lab.apply()
        for name in ("shop", "pages"):
            ours.versions[name] = ours.build(name)
            ours.deploy(name, ours.versions[name])
        yield ours


def test_each_application_is_served_by_its_name_and_others_by_the_default(apps: Built) -> None:
    lab = apps.lab
    assert apps.curl("shop.test").startswith("one\nmigrated one\nworker one\n")
    assert apps.curl("pages.test") == apps.curl("www.pages.test") == "pages 0 False\n"
    # curl has checked the one certificate against each name. Nobody's name and the bare address: the counter's.
    assert apps.status("counter.test", "/healthz") == 200
    assert json.loads(apps.curl("nobody.test", "/version", "-k")) == json.loads(lab.curl("version"))
    # What one may, another may not.
    assert apps.status("pages.test", "/", "-X", "DELETE") == 405
    assert apps.status("shop.test", "/", "-X", "DELETE") == 200
    body = ("--data-binary", "x" * 16000)
    assert apps.curl("pages.test", "/", *body) == "pages 16000 False\n"
    assert apps.status("pages.test", "/", "--data-binary", "x" * 20001) == 413
    chunked = ("-H", "Transfer-Encoding: chunked", "--http1.1", "--data-binary", "x" * 19000)
    assert apps.status("pages.test", "/", *chunked) == 411
    assert apps.status("nobody.test", "/", "-k", *body) == 413, "the counter's own limit"
    # Users, and what each may see of another.
    assert lab.run("stat -c %U:%a /var/lib/apps/shop").strip() == "app-shop:700"
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


@pytest.mark.timeout(900)
def test_commands_of_their_runbooks_work(apps: Built) -> None:
    """The other pages' are test_docs.py's, on a machine without them."""
    apps.lab.wait_for_status()
    wrong = runbooks.failing(apps.lab, runbooks.pages_of("apps"))
    assert wrong == [], "\n".join(wrong)


def test_one_application_is_deployed_and_taken_back_and_no_request_of_any_is_lost(
    apps: Built,
) -> None:
    lab = apps.lab
    before = lab.count()
    second = apps.build("shop", version="two")
    with (
        lab.under_load(mode="keepalive", rate=40) as load,
        apps.asked("shop.test", "pages.test") as wrong,
    ):
        apps.deploy("shop", second)
        assert apps.curl("shop.test").startswith("two\n")
        assert "worker two" in apps.curl("shop.test"), "processes follow"
        apps.make("rollback", APP="shop")
        assert apps.curl("shop.test").startswith("one\n")
    assert wrong == {"shop.test": [], "pages.test": []}
    assert load.result.unique, load.result.summary()
    assert lab.count() == before + load.result.sent
    # State outlives releases, and the release command is run once for each.
    rows = apps.curl("shop.test").splitlines()
    assert rows.count("migrated one") == 1
    assert rows.count("migrated two") == 1
    listed = apps.make("releases", APP="shop").stdout
    assert re.search(rf"{apps.versions['shop']} .* <- {lab.host}\n", listed), listed


FAILURES = {
    "migrate": "the release command failed(.|\n)*made to fail in its migration",
    "work": "shop-worker.service(.|\n)*made to die in its worker",
    "ready": "/readyz answers 503",
}


@pytest.mark.parametrize(
    "fails",
    [
        "migrate",
        "work",
        pytest.param("ready", marks=pytest.mark.nightly("the same way back as of work")),
    ],
)
def test_what_fails_of_a_release_takes_it_back_and_nobody_notices(apps: Built, fails: str) -> None:
    bad = apps.build("shop", fails, version=f"bad-{fails}")
    with apps.asked("shop.test", "pages.test") as wrong:
        done = apps.deploy("shop", bad, check=False)
    assert done.returncode != 0
    assert re.search(FAILURES[fails], done.stdout), done.stdout
    assert wrong == {"shop.test": [], "pages.test": []}
    assert apps.curl("shop.test").startswith("one\n")
    assert apps.lab.run("systemctl is-active shop-worker").strip() == "active"
    link = apps.lab.run("readlink /opt/apps/shop/instances/commands/release")
    assert Path(link.strip()).name == apps.versions["shop"]


def test_a_cron_job_that_hangs_is_ended_and_its_unit_has_failed(apps: Built) -> None:
    lab = apps.lab
    assert lab.run("systemctl is-enabled shop-tidy.timer").strip() == "enabled"
    with pace.Stopwatch(apart=1) as watch:
        lab.run("systemctl start shop-tidy.service", check=False)
    assert lab.run("systemctl show -P Result shop-tidy.service").strip() == "timeout"
    assert watch.seconds < 45
    lab.run("systemctl reset-failed shop-tidy.service")
    assert apps.status("shop.test") == 200


def test_maintenance_answers_503_to_all_but_named_clients_until_it_ends(apps: Built) -> None:
    lab = apps.lab
    try:
        said = apps.make("maintenance", ON="1").stdout
        assert "maintenance is on" in said
        for host in ("shop.test", "pages.test", "counter.test"):
            head = apps.curl(host, "/", "-D", "-", "-o", "/dev/null").lower()
            assert " 503" in head.splitlines()[0]
            assert "retry-after: 300" in head
        before = lab.count()
        lab.run("systemctl reload haproxy")
        page = {"page": "<h1>Back at noon</h1>\n", "type": "text/html", "retry_after": 60}
        lab.apply(PILLAR=json.dumps({"haproxy": {"maintenance": page}}))
        assert apps.curl("shop.test") == page["page"]
        gateway = lab.address.rpartition(".")[0] + ".1"
        page["clients"] = [gateway]
        lab.apply(PILLAR=json.dumps({"haproxy": {"maintenance": page}}))
        assert apps.status("shop.test") == 200, "a named client"
        assert "MAINTENANCE" in lab.make("status", check=False).stdout
        lab.apply()
        assert apps.status("shop.test") == 503
        lab.run("systemctl restart haproxy")
        lab.wait("HAProxy answers", lambda: apps.status("shop.test") == 503)
        assert lab.count() == before
    finally:
        apps.make("maintenance", OFF="1")
    lab.wait("all serve again", lambda: apps.status("shop.test") == 200)


def test_an_application_that_is_not_there_is_one_line_with_the_nearest(apps: Built) -> None:
    done = apps.deploy("shpo", "1", check=False)
    assert done.returncode != 0
    assert "did you mean shop?" in done.stderr
    done = apps.lab.apply(check=False, PILLAR='{"apps": {"shop": {"host": ["x"]}}}')
    assert "apps:shop:host: unknown key; did you mean 'hosts'?" in done.stdout + done.stderr


@pytest.mark.nightly("three applies, for what is done once in an application's life")
def test_a_former_name_is_stopped_and_its_port_free(apps: Built) -> None:
    """Last: the application is gone after it. Its state stays."""
    lab = apps.lab
    settings = apps.settings
    text = settings.read_text(encoding="utf-8")
    try:
        settings.write_text(json.dumps({"apps": {"pages": SETTINGS["apps"]["pages"]}}), "utf-8")
        seen = lab.make("apply", TEST="1", check=False).stdout
        assert "shop@.service" in seen, "named before anything changes"
        lab.apply()
        assert lab.run("systemctl list-units --plain --no-legend 'shop*'").strip() == ""
        assert lab.run("ls /var/lib/apps/shop").strip() == "shop.db"
        assert apps.status("pages.test") == 200
    finally:
        settings.write_text(text, encoding="utf-8")
