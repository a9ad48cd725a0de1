"""Images of the account's own: imported once, awaited, and used like any other."""

from __future__ import annotations

import pytest
from salt.exceptions import SaltCloudSystemExit
from salt_cloud import Cloud
from standin_digitalocean import Standin

COREOS = {
    "name": "fedora-coreos",
    "url": "https://images.example.com/fedora-coreos.qcow2.gz",
    "distribution": "CoreOS",
}


def test_an_image_is_imported_once_and_a_machine_made_of_it(cloud: Cloud, api: Standin) -> None:
    for _ in range(2):
        image = cloud.call("import_image", kwargs=COREOS, call="function")
        assert image["status"] == "available" and image["distribution"] == "CoreOS"
    assert api.count("POST", "/v2/images") == 1 and image["regions"] == ["fra1"]
    made = cloud.create("core1", image="fedora-coreos", userdata='{"ignition": {}}')
    (droplet,) = api.droplets.values()
    assert droplet["image"]["id"] == image["id"] and droplet["_user_data"] == '{"ignition": {}}'
    assert made["image"] == "fedora-coreos"


def test_one_that_is_no_image_is_said(cloud: Cloud, api: Standin) -> None:
    api.errored.add("fedora-coreos")
    with pytest.raises(SaltCloudSystemExit, match="fedora-coreos: not imported: it is no image"):
        cloud.call("import_image", kwargs=COREOS, call="function")


@pytest.mark.parametrize("done", [False, True])
def test_none_is_imported_twice_after_an_answer_that_was_lost(
    cloud: Cloud, api: Standin, done: bool
) -> None:
    api.fault("POST", "/v2/images", 500, done=done)
    cloud.call("import_image", kwargs=COREOS, call="function")
    assert len(api.custom) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": ""}, "url=… is needed"),
        ({"distributon": "CoreOS"}, "distributon: no such option; did you mean distribution?"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    cloud: Cloud, api: Standin, given: dict[str, str], said: str
) -> None:
    with pytest.raises(SaltCloudSystemExit, match=said):
        cloud.call("import_image", kwargs={**COREOS, **given}, call="function")
    assert not api.count("POST", "/v2/images")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"regions": ["nyc3"]}, "not available in fra1; it can be had in: nyc3"),
        ({"min_disk_size": 600}, "needs a disk of 600 GB, and size s-1vcpu-1gb has 25"),
        ({"status": "pending"}, "pending: wait until it is available"),
    ],
)
def test_an_image_that_cannot_be_used_there_is_refused_before_anything_is_made(
    cloud: Cloud, api: Standin, change: dict[str, object], said: str
) -> None:
    cloud.call("import_image", kwargs=COREOS, call="function")
    shown = api._shown_image
    api._shown_image = lambda image: {**shown(image), **change}  # type: ignore[method-assign]
    with pytest.raises(SaltCloudSystemExit, match=f"image fedora-coreos: {said}"):
        cloud.create("core1", image="fedora-coreos")
    assert not api.count("POST", "/v2/droplets")
