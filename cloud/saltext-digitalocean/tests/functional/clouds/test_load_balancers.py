"""Load balancers against the stand-in: made once, changed to what is asked, nothing left that is paid."""

from __future__ import annotations

import time
from typing import Any

import pytest
from salt.exceptions import SaltCloudSystemExit
from salt_cloud import Cloud
from saltext.digitalocean.utils.digitalocean import load_balancers
from saltext.digitalocean.utils.digitalocean.api import Api, ApiError
from saltext.digitalocean.utils.digitalocean.options import OptionError
from standin_digitalocean import TOKEN, Standin
from standin_services import Services

ROUTES = list(Standin.ROUTES)
RULES = [
    {"entry_protocol": "tcp", "entry_port": port, "target_protocol": "tcp", "target_port": port}
    for port in (80, 443)
]
EDGE: dict[str, Any] = {
    "name": "edge",
    "region": "fra1",
    "tag": "edge",
    "forwarding_rules": RULES,
    "health_check": {"protocol": "tcp", "port": 443},
    "enable_proxy_protocol": True,
}


def made(api: Standin) -> int:
    return api.count("POST", "/v2/load_balancers")


@pytest.fixture
def client(api: Standin) -> Api:
    return Api(TOKEN, backoff=0.01)


def test_one_before_two_edges_is_made_shown_changed_and_removed(cloud: Cloud, api: Standin) -> None:
    edges = [cloud.create(f"edge{number}", tags=["edge"])["id"] for number in (1, 2)]
    balancer = cloud.call("create_load_balancer", kwargs=EDGE, call="function")
    assert balancer["status"] == "active" and balancer["ip"].startswith("192.0.2.")
    assert balancer["enable_proxy_protocol"] and balancer["droplet_ids"] == edges
    assert cloud.call("list_load_balancers", call="function")["edge"]["id"] == balancer["id"]
    again = cloud.call("create_load_balancer", kwargs=EDGE, call="function")
    assert again["id"] == balancer["id"] and made(api) == 1
    assert not api.count("PUT", r"/v2/load_balancers/.*"), "it was as asked for"
    cloud.call("create_load_balancer", kwargs={**EDGE, "size_unit": "2"}, call="function")
    shown = cloud.call("show_load_balancer", kwargs={"name": "edge"}, call="function")
    assert shown["size_unit"] == 2 and load_balancers.monthly_price(shown) == 24
    cloud.call("delete_load_balancer", kwargs={"name": "edge"}, call="function")
    assert not api.balancers
    with pytest.raises(SaltCloudSystemExit, match="edge: no such load balancer; there is none"):
        cloud.call("delete_load_balancer", kwargs={"name": "edge"}, call="function")


def test_the_command_line_takes_rules_as_yaml_and_droplets_by_name(
    cloud: Cloud, api: Standin
) -> None:
    cloud.create("edge1")
    time.sleep(api.lag)
    rules = "[{entry_protocol: tcp, entry_port: 443, target_protocol: tcp, target_port: 443}]"
    words = ["-f", "create_load_balancer", "do", "name=edge", "region=fra1", "droplets=edge1"]
    done = cloud.command(*words, f"forwarding_rules={rules}", "enable_proxy_protocol=true")
    assert done.returncode == 0, done.stdout
    (one,) = api.balancers.values()
    assert one["droplet_ids"] == list(api.droplets) and one["enable_proxy_protocol"]
    done = cloud.command(*words, "forwarding_rules=[{entry_protokol: tcp}]")
    assert done.returncode == 1 and "did you mean entry_protocol?" in done.stdout, done.stdout


@pytest.mark.parametrize("done", [False, True])
def test_none_is_made_twice_after_an_answer_that_was_lost(
    client: Api, api: Standin, done: bool
) -> None:
    api.fault("POST", "/v2/load_balancers", 500, done=done)
    load_balancers.ensure(client, EDGE, 5, 0.02)
    assert len(api.balancers) == 1


@pytest.mark.parametrize("fault", ["stuck", "errored"])
def test_one_that_does_not_become_active_is_removed(client: Api, api: Standin, fault: str) -> None:
    getattr(api, fault).add("edge")
    with pytest.raises(ApiError, match="edge.*(still new after|its creation failed)"):
        load_balancers.ensure(client, EDGE, 0.1, 0.02)
    assert not api.balancers


def test_what_cannot_be_removed_is_said_to_be_paid(client: Api, api: Standin) -> None:
    api.errored.add("edge")
    api.fault("DELETE", "/v2/load_balancers/.*", 403, times=9)
    with pytest.raises(ApiError, match=r"edge \(.*\) was left, and is paid: .*403"):
        load_balancers.ensure(client, EDGE, 0.1, 0.02)


def test_one_whose_creation_failed_before_is_made_anew(client: Api, api: Standin) -> None:
    api.errored.add("edge")
    api._create_balancer(None, {}, EDGE)
    (old,) = api.balancers
    forget = api._delete_balancer

    def gone(*words: Any) -> Any:
        api.errored.discard("edge")
        return forget(*words)

    api.ROUTES[:] = [
        (method, path, (lambda _, *words: gone(*words)) if handler is Services._delete_balancer else handler)
        for method, path, handler in ROUTES
    ]  # fmt: skip
    try:
        found = load_balancers.ensure(client, EDGE, 5, 0.02)
    finally:
        api.ROUTES[:] = ROUTES
    assert (
        found["status"] == "active" and found["id"] != old and list(api.balancers) == [found["id"]]
    )


@pytest.mark.parametrize("call", ["create", "get"])
@pytest.mark.parametrize("by", [KeyboardInterrupt(), SystemExit(0)], ids=["itself", "Salt"])
def test_an_interrupted_one_is_removed(
    client: Api, api: Standin, call: str, by: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is asked for, whose answer is never seen, and while it is awaited. Salt makes an exit code 0 of it."""
    real = client.call

    def interrupted(group: str, method: str, *words: Any, **more: Any) -> Any:
        answer = real(group, method, *words, **more)
        if method == call and not seen:
            seen.append(method)
            raise by
        return answer

    seen: list[str] = []
    monkeypatch.setattr(client, "call", interrupted)
    expected = (KeyboardInterrupt, ApiError)
    with pytest.raises(expected, match="" if by.args == () else "edge: interrupted; nothing was"):
        load_balancers.ensure(client, EDGE, 5, 0.02)
    assert not api.balancers


def test_one_that_may_exist_is_said_to_be_paid(
    client: Api, api: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.fault("POST", "/v2/load_balancers", 500, times=99)
    monkeypatch.setattr(client, "attempts", 2)
    find = load_balancers.find
    # Nobody can be asked any more.
    asked: list[int] = []

    def gone(*words: Any) -> Any:
        asked.append(1)
        if len(asked) > 2:
            raise ApiError("load_balancers.list", 0, "no answer")
        return find(*words)

    monkeypatch.setattr(load_balancers, "find", gone)
    with pytest.raises(ApiError, match="edge may exist and be paid"):
        load_balancers.ensure(client, EDGE, 5, 0.02)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nme": "x"}, "nme: no such option; did you mean name?"),
        ({"type": "GLOBAL"}, "type: no such option"),
        ({"name": ""}, "name is needed"),
        ({"tag": None}, "either tag or droplet_ids"),
        ({"droplet_ids": [1]}, "either tag or droplet_ids"),
        ({"tag": None, "droplet_ids": ["x"]}, "droplet_ids: x: use a whole number"),
        ({"forwarding_rules": []}, "forwarding_rules: a list"),
        ({"forwarding_rules": ["tcp"]}, r"forwarding_rules\[0\]: use such as"),
        ({"forwarding_rules": [{**RULES[0], "entry_port": 70000}]}, "70000: use a whole number from 1 to"),
        ({"forwarding_rules": [{**RULES[0], "target_protocol": "http"}]}, "tcp goes to tcp only"),
        ({"forwarding_rules": [{**RULES[0], "entry_protocol": "udp"}]}, "udp goes to udp only"),
        ({"forwarding_rules": [{**RULES[0], "entry_protocol": "tpc"}]}, "entry_protocol: tpc: use one of"),
        ({"forwarding_rules": [RULES[0], RULES[0]]}, "port 80 is taken by two"),
        (
            {"forwarding_rules": [{**RULES[0], "entry_protocol": "https", "target_protocol": "http"}]},
            "https needs certificate_id",
        ),
        ({"health_check": {"protocol": "tcp", "prot": 1}}, "health_check: prot: no such option"),
        ({"health_check": {"protocol": "tcp", "path": "/x"}}, "there is none in a check by tcp"),
        ({"health_check": {"check_interval_seconds": 1}}, "1: use a whole number from 3 to 300"),
        ({"enable_proxy_protocol": "maybe"}, "maybe: use true or false"),
        ({"size_unit": 0}, "size_unit: 0: use a whole number from 1 to 100"),
        ({"firewall": {"allow": ["10.0.0.0/8"]}}, "begins with ip: or cidr:"),
        ({"network": "internal"}, "network: internal: use one of EXTERNAL, INTERNAL"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_before_anything_is_asked(
    client: Api, api: Standin, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said) as error:
        load_balancers.ensure(client, {**EDGE, **change})
    assert "\n" not in str(error.value) and not api.requests
