"""What an artifact is made of (CycloneDX)."""

from __future__ import annotations

import datetime
import email
import zipfile
from pathlib import Path

from builder.sources import Source
from builder.wheels import Wheels, sha256


def sbom(name: str, source: Source, wheels: Wheels) -> dict[str, object]:
    """CycloneDX 1.5. One component a wheel: two wheels of one package have two hashes."""
    components = {}
    for chosen in wheels.values():
        for requirement, path in chosen.items():
            purl = f"pkg:pypi/{requirement.name}@{requirement.version}?file_name={path.name}"
            components[purl] = {
                "type": "library",
                "bom-ref": purl,
                "name": requirement.name,
                "version": requirement.version,
                "hashes": [{"alg": "SHA-256", "content": sha256(path)}],
                "purl": purl,
            } | _licences(path)
    root = f"pkg:generic/{name}@{source.version}"
    when = datetime.datetime.fromtimestamp(source.time, datetime.UTC)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": name,
                "version": source.version,
                "purl": root,
            },
        },
        "components": [components[purl] for purl in sorted(components)],
        "dependencies": [{"ref": root, "dependsOn": sorted(components)}],
    }


def _licences(wheel: Path) -> dict[str, object]:
    """What the wheel says of its licence: an SPDX expression, a name, or a classifier."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    if expression := metadata["License-Expression"]:
        return {"licenses": [{"expression": expression}]}
    licence = metadata["License"]
    if not licence or "\n" in licence or licence == "UNKNOWN":
        told = [entry for entry in metadata.get_all("Classifier", []) if entry[:9] == "License :"]
        licence = told[0].rpartition(" :: ")[2] if told else "see the wheel's dist-info"
    return {"licenses": [{"license": {"name": licence}}]}
