"""What is in an image, for those who look for licences and known vulnerabilities: CycloneDX 1.5."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .lock import ARCHITECTURE, Lock, Package


def _component(package: Package, locked: Lock) -> dict[str, Any]:
    version = urllib.parse.quote(package.version, safe="~.")
    architecture = package.path.removesuffix(".deb").rpartition("_")[2]
    purl = f"pkg:deb/debian/{urllib.parse.quote(package.name)}@{version}?arch={architecture}&distro={locked.suite}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
    }


def make(
    name: str,
    version: str,
    packages: Iterable[Package],
    locked: Lock,
    created: str,
    release: Path | None,
) -> dict[str, Any]:
    """The document of one image; ``release``: the unpacked artifact in it, whose own document is taken in."""
    components = [_component(package, locked) for package in packages]
    if release is not None:
        own = json.loads((release / "sbom.cdx.json").read_text(encoding="utf-8"))
        if "component" in own.get("metadata", {}):
            components.append(own["metadata"]["component"])
        components += own.get("components", [])
    purl = f"pkg:oci/{urllib.parse.quote(name)}?arch={ARCHITECTURE}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "component": {
                "type": "container",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "purl": purl,
            },
        },
        "components": components,
    }
