"""
docs/your-application.md, typed block by block, and what it promises of the applications that it ends with: `hello`, `notes` and
`shop` beside the counter on one machine. What happens to one is nothing to the others.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from applications_lab import Apps
from lab_machine import ROOT, Lab

from tests.artifacts import variant

pytestmark = [
    pytest.mark.controller,
    pytest.mark.one_release,
    pytest.mark.nightly(
        "packages of Flask and Django, nine deploys: minutes; test_apps.py has the same of small ones"
    ),
]

PAGE = ROOT / "docs" / "your-application.md"
HOSTS = ("hello.test", "notes.test", "shop.test")


def blocks() -> Iterator[tuple[str, str]]:
    """``(language, text)`` of what is typed, in the page's order."""
    text = PAGE.read_text(encoding="utf-8")
    typed = text[text.index("## A first one") : text.index("## What may be in app.toml")]
    yield from re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", typed)


@dataclass
class Typed(Apps):
    """What was typed, with what each command printed."""

    printed: dict[str, str] = field(default_factory=dict)

    def type(self, language: str, block: str) -> None:
        if language == "yaml":
            self.settings.write_text(block, encoding="utf-8")
            return
        if block.startswith("mkdir"):
            self.shell(block, self.sources)
            return
        for line in block.splitlines():
            command = re.sub(r"\s{2,}#.*$", "", line)
            # One that serves until it is ended is asked, and ended.
            if "-m serving" in command:
                address = re.search(r"http://\S+/", line)
                assert address, line
                asked = f"curl -s --retry 20 --retry-connrefused --retry-delay 1 {address[0]}"
                command = f"{command} & trap 'kill $!' EXIT; test \"$({asked})\" = Hello!"
            self.shell(command, ROOT)

    def shell(self, text: str, folder: Path) -> None:
        for said, here in {
            "../hello": str(self.sources / "hello"),
            ".lab/dev/ca.pem": self.lab.ca,
            "192.168.56.10": self.lab.address,
            "VERSION=…": f"VERSION={self.versions.get('last', '')}",
        }.items():
            text = text.replace(said, here)
        # Nothing of the checkout's own environment is on the path of who types this.
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        git = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.test"}
        git |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.test"}
        environment = {
            **self.lab.environment,
            **git,
            "PATH": path,
            "ARTIFACT_STORE": str(self.store),
        }
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", text], cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self.printed[text] = done.stdout
        if text.startswith("make publish"):
            self.versions["last"] = done.stdout.strip().splitlines()[-1]
            self.versions[text.rpartition("/")[2]] = self.versions["last"]

    def says(self, beginning: str) -> str:
        return next(said for text, said in self.printed.items() if text.startswith(beginning))

    def change(self, name: str, *changes: tuple[str, str, str]) -> str:
        """Publish the example as it is after ``(file, from, to)``; ``from`` empty: a file of its own. Its version."""
        folder = self.sources / "changed" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / "examples" / name, folder)
        for file, old, new in changes:
            path = folder / file
            text = path.read_text(encoding="utf-8") if old else ""
            assert old in text, (file, old)
            path.write_text(text.replace(old, new) if old else new, encoding="utf-8")
        return self.publish(folder)

    def orders(self) -> int:
        return int(json.loads(self.curl("shop.test", "/orders"))["orders"])


@pytest.fixture(scope="module")
def apps(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    ours = Typed(lab, tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("beside"))
    with ours.served():
        for language, block in blocks():
            ours.type(language, block)
        ours.shell("make ssh CMD='app-run shop python manage.py shell -c \"from shop.models import Article;"
                   " Article.objects.get_or_create(id=1, defaults=dict(name=str(1), price=1))\"'", ROOT)  # fmt: skip
        yield ours
    lab.make("secret", SECRET="shop-secret-key", FORGET="1", check=False)


class Visitor:
    """One who does the same over and over on one connection, until told to stop; what went wrong, and how often it went well."""

    def __init__(self, apps: Apps, host: str) -> None:
        self.apps, self.host = apps, host
        self.cookies: dict[str, str] = {}
        self.wrong: list[str] = []
        self.done = 0
        self.context = ssl.create_default_context(cafile=apps.lab.ca)
        self.connection = self.connect()

    def connect(self) -> http.client.HTTPSConnection:
        found = http.client.HTTPSConnection(self.host, timeout=20, context=self.context)
        found._create_connection = lambda *_: socket.create_connection(  # type: ignore[attr-defined]
            (self.apps.lab.address, 443), 20
        )
        return found

    def ask(self, method: str, path: str, **form: str) -> tuple[int, str]:
        headers = {"Referer": f"https://{self.host}/", "Host": self.host}
        headers["Cookie"] = "; ".join(f"{key}={value}" for key, value in self.cookies.items())
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urllib.parse.urlencode(form) if form else None
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        text = answer.read().decode()
        for cookie in answer.headers.get_all("Set-Cookie") or []:
            key, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[key] = value
        return answer.status, text

    def repeat(self, once: Callable[[int], tuple[int, str]], stop: threading.Event) -> None:
        while not stop.wait(0.05):
            try:
                status, _ = once(self.done)
                if status not in (200, 302, 303):
                    self.wrong.append(str(status))
                else:
                    self.done += 1
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                self.connection.close()
                self.connection = self.connect()


@contextlib.contextmanager
def checked_load(apps: Typed) -> Iterator[None]:
    """
    Orders in the shop, notes in notes and the count, for as long as the block: none lost, none refused, none done twice.
    """
    shop, notes = Visitor(apps, "shop.test"), Visitor(apps, "notes.test")
    assert shop.ask("GET", "/admin/login/")[0] == notes.ask("GET", "/")[0] == 200
    token = {"csrfmiddlewaretoken": shop.cookies["csrftoken"]}
    orders, count, stop = apps.orders(), apps.lab.count(), threading.Event()
    threads = [
        threading.Thread(
            target=shop.repeat, args=(lambda _: shop.ask("POST", "/order/1", **token), stop)
        ),
        threading.Thread(
            target=notes.repeat,
            args=(lambda n: notes.ask("POST", "/notes", text=f"number {n}."), stop),
        ),
    ]
    with apps.lab.under_load(mode="keepalive", rate=30) as load:
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert (shop.wrong, notes.wrong) == ([], [])
    assert min(shop.done, notes.done) > 20
    assert apps.orders() == orders + shop.done
    # The last hundred that there are, each once and in their order.
    kept = [int(n) for n in re.findall(r"number (\d+)\.", notes.ask("GET", "/")[1])]
    assert kept == list(range(max(0, notes.done - 100), notes.done))
    assert load.result.unique, load.result.summary()
    assert apps.lab.count() == count + load.result.sent


MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("order", "remark", models.CharField(max_length=100, null=True)),
    ]
"""
# Of a name of its own: that of the other one has been applied, and stays so in the database.
FAILING = """
from django.db import migrations


def fail(apps, editor):
    raise SystemExit("made to fail")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(fail)]
"""
FIELD = (
    "shop/models.py",
    "    shipped_at =",
    "    remark = models.CharField(max_length=100, null=True)\n    shipped_at =",
)
SECOND = "shop/migrations/0002_order_remark.py"


def test_the_page_ends_with_all_of_them_served_under_one_certificate(apps: Typed) -> None:
    lab = apps.lab
    assert apps.curl("hello.test") == "Hello!\n" == apps.says("curl --cacert")
    assert "notes" in apps.curl("notes.test").lower()
    assert json.loads(apps.curl("shop.test", "/orders")) == {"orders": 0, "waiting": 0}
    # curl has checked the one certificate against each name. A name that nobody claims: the topology's default.
    ask = (
        f"openssl s_client -connect {lab.address}:443 -servername shop.test </dev/null 2>/dev/null"
    )
    names = lab.run(f"{ask} | openssl x509 -noout -ext subjectAltName")
    assert all(f"DNS:{host}" in names for host in (*HOSTS, "counter.test"))
    assert json.loads(apps.curl("nobody.test", "/version", "-k")) == json.loads(lab.curl("version"))
    assert "Superuser created" in apps.says("make ssh CMD='app-run shop")
    assert "with shop, in" in apps.says("make backup")
    assert "shop is whole, decrypted" in apps.says("make restore")
    lab.wait_for_status()
    assert lab.apply().stdout.strip().endswith("0 changed, 0 failed")


def test_nobody_listens_where_another_application_will(apps: Typed) -> None:
    """Before its first release the port was free for any other's process, which was then asked for its visitors."""
    code = "import socket,sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); print('bound')"
    for port in (8001, 8080, 40000):
        said = apps.lab.run(f'app-run hello python -c "{code}" {port} 2>&1', check=False)
        assert "PermissionError" in said and "bound" not in said.splitlines(), said


def test_shop_and_the_counter_are_deployed_and_taken_back_under_load_on_all(apps: Typed) -> None:
    lab = apps.lab
    migrated = apps.change("shop", FIELD, (SECOND, "", MIGRATION))
    own = str(apps.make("publish").stdout.strip().splitlines()[-1])
    other = f"0.0.3-{int(time.time())}"
    variant(apps.store / f"counter-{own}.tar.gz", other, apps.store)
    apps.make("deploy", VERSION=own)
    with checked_load(apps):
        apps.deploy("shop", migrated)
        apps.make("deploy", VERSION=other)
        apps.make("rollback", APP="shop")
        apps.make("rollback")
    assert json.loads(lab.curl("version"))["version"] == own
    assert json.loads(apps.curl("shop.test", "/version"))["version"] == apps.versions["shop"]
    lab.wait(
        "the worker ships", lambda: json.loads(apps.curl("shop.test", "/orders"))["waiting"] == 0
    )


FAILURES: dict[str, tuple[list[tuple[str, str, str]], str]] = {
    "migration": (
        [("shop/migrations/0002_fails.py", "", FAILING)],
        "the release command failed(.|\n)*made to fail",
    ),
    "worker": (
        [("shop/management/commands/worker.py", "def handle(", "def handle(self, *_, **__):\n        raise SystemExit('made to die')\n\n    def unused(")],
        "shop-worker.service(.|\n)*made to die",
    ),
    "ready": (
        [("shop/views.py", '    return HttpResponse("ready', '    return HttpResponse(status=500)\n    return HttpResponse("ready')],
        "/readyz answers 503",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fails", FAILURES)
def test_a_release_that_fails_is_taken_back_told_of_and_not_noticed(
    apps: Typed, fails: str
) -> None:
    changes, says = FAILURES[fails]
    bad = apps.change("shop", *changes)
    with checked_load(apps):
        done = apps.deploy("shop", bad, check=False)
    assert done.returncode != 0
    assert re.search(says, done.stdout), done.stdout
    assert json.loads(apps.curl("shop.test", "/version"))["version"] == apps.versions["shop"]
    assert apps.lab.run("systemctl is-active shop-worker").strip() == "active"
    apps.lab.run("systemctl reset-failed", check=False)


def test_a_cron_job_that_hangs_is_ended_and_told_of(apps: Typed) -> None:
    lab = apps.lab
    hangs = apps.change(
        "shop",
        ("app.toml", "timeout = 300", "timeout = 5"),
        ("shop/management/commands/cleanup.py", "def handle(", "def handle(self, *_, **__):\n        import time\n        time.sleep(3600)\n\n    def unused("),
    )  # fmt: skip
    apps.deploy("shop", hangs)
    try:
        with checked_load(apps):
            lab.run("systemctl start shop-cleanup.service", check=False)
            lab.wait(
                "it is measured",
                lambda: "shop-cleanup" in lab.run("curl -s localhost:9103/metrics | grep unit_failed", check=False),
            )  # fmt: skip
        assert lab.run("systemctl show -P Result shop-cleanup.service").strip() == "timeout"
    finally:
        lab.run("systemctl reset-failed", check=False)
        apps.make("rollback", APP="shop")


def test_its_database_comes_back_as_it_was_with_what_had_not_left_the_log(apps: Typed) -> None:
    """Taken while orders are written: whole, no older than the backup's begin, and of nobody else anything."""
    lab = apps.lab
    with checked_load(apps):
        before = apps.orders()
        said = lab.make("backup").stdout
    assert "with shop, in" in said
    after, count = apps.orders(), lab.count()
    lab.run("systemctl stop 'shop@*' shop-worker; rm -rf /var/lib/apps/shop")
    with apps.asked("notes.test", "hello.test") as wrong:
        said = apps.make("restore", APP="shop", YES="1").stdout
        lab.run("systemctl start shop@1 shop@2 shop-worker")
        lab.wait("the shop serves", lambda: apps.status("shop.test", "/orders") == 200)
    assert wrong == {"notes.test": [], "hello.test": []}
    assert "restored: /var/lib/apps/shop" in said
    assert before <= apps.orders() <= after
    assert lab.run("stat -c %U:%a /var/lib/apps/shop").strip() == "app-shop:700"
    assert lab.count() == count, "the store is as it was"
    # In use, and with what was ordered since: the units are stopped, and started on it.
    apps.make("restore", APP="shop", YES="1")
    lab.wait("the shop serves", lambda: apps.status("shop.test", "/orders") == 200)
    assert lab.run("systemctl is-active shop@1 shop@2 shop-worker").split() == ["active"] * 3
