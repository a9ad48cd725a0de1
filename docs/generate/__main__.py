"""
Write what of the documentation is made from the code, or say what of it is stale.

    python -m docs.generate            # write
    python -m docs.generate --check    # write nothing; 1 and a line for each stale file

Made: docs/diagrams/*.svg, docs/reference/**, the indexes of decisions, runbooks and tickets,
docs/tickets/tickets.csv, and the tables of salt/README.md. All of it is committed, so that it can be read without being built.
"""

from __future__ import annotations

import sys
from pathlib import Path

from . import (
    app_toml,
    cloud_diagrams,
    container_diagrams,
    deployment_diagram,
    diagrams,
    facts,
    failures,
    keys_diagram,
    modules,
    recovery_diagrams,
    reference,
    rehearsal,
    rooms,
    small_files,
    tickets,
)


def everything() -> dict[Path, str]:
    """Every generated file under docs/, with what it ought to say."""
    prod = facts.load_topology("prod")
    dev = facts.load_topology("dev")
    # Has what is nowhere else: several edges and stores.
    ha = facts.load_topology("ha")
    containers = facts.load_topology("containers")
    rows = failures.load()
    if gaps := failures.missing(rows, [dev, prod, ha, containers]):
        raise RuntimeError(f"failures.yaml: no row for {'; '.join(gaps)}")
    pictures = {
        "topology": cloud_diagrams.target(
            facts.load_topology("prod", True), facts.load_cloud("prod")
        ),
        "topology-ha": cloud_diagrams.target(
            facts.load_topology("ha", True), facts.load_cloud("ha")
        ),
        "deployment": deployment_diagram.deployment(prod),
        "request-path": diagrams.request_path(prod),
        "ports": diagrams.port_matrix(prod),
        "failures-machines": failures.picture(failures.of_machines(rows), "A machine is lost"),
        "failures-services": failures.picture(failures.of_services(rows), "A service fails"),
        "backup": recovery_diagrams.backup(),
        "failover": recovery_diagrams.failover(ha),
        "keys": keys_diagram.picture("prod"),
        "containers-topology": container_diagrams.target_topology(
            containers, facts.load_cloud("containers")
        ),
        "containers-deployment": container_diagrams.deployment(containers),
        "tickets": tickets.chart(),
        "controller": rooms.picture(),
    }
    pages = {
        "reference/index.md": reference.index_page(),
        "reference/commands.md": reference.commands_page(),
        "reference/ports.md": reference.ports_page([prod, dev]),
        "reference/alerts.md": reference.alerts_page(),
        "reference/logs.md": reference.logs_page(dev),
        "reference/metrics.md": reference.metrics_page([dev, ha]),
        "reference/settings/index.md": reference.settings_index(),
        "reference/app-toml.md": app_toml.app_toml_page(),
        "reference/diagrams.md": reference.diagrams_page(pictures),
        "reference/failures.md": failures.page(rows),
        "reference/small-files.md": small_files.small_files_page(),
        "decisions/README.md": reference.decisions_page(),
        "runbooks/README.md": reference.runbooks_page(),
        "tickets/README.md": tickets.index_page(),
        "tickets/rehearsal.md": rehearsal.rehearsal_page(),
        **{
            f"reference/settings/{folder.name}.md": reference.settings_page(folder)
            for folder in facts.formulas()
        },
    }
    made = {facts.DOCS / name: reference.MADE + text for name, text in pages.items()}
    made |= {facts.DOCS / "diagrams" / f"{name}.svg": text for name, text in pictures.items()}
    made[facts.DOCS / "tickets" / "tickets.csv"] = tickets.csv_file()
    made[modules.README] = modules.readme()
    return made


def stale(made: dict[Path, str]) -> list[str]:
    """Files under docs/ that are not what they ought to be, and those that nothing makes now."""
    found = []
    for path, text in made.items():
        shown = path.relative_to(facts.ROOT)
        if not path.exists():
            found.append(f"{shown} is missing")
        elif path.read_bytes() != text.encode():
            found.append(f"{shown} is stale")
    for folder, kind in (("reference", "*.md"), ("diagrams", "*.svg")):
        for path in sorted((facts.DOCS / folder).rglob(kind)):
            if path not in made:
                found.append(f"{path.relative_to(facts.ROOT)} is made by nothing any more")
    return found


def main() -> int:
    made = everything()
    found = stale(made)
    if "--check" in sys.argv[1:]:
        for line in found:
            print(line, file=sys.stderr)
        if found:
            print("`make docs` mends that", file=sys.stderr)
        return 1 if found else 0
    for path, text in made.items():
        # Only what changed: a test may be reading the rest at this moment.
        if not path.exists() or path.read_bytes() != text.encode():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    for line in stale(made):
        (facts.ROOT / line.split(" is ")[0]).unlink()
    changed = f", {len(found)} changed" if found else ", nothing changed"
    print(f"{len(made)} files made from the code{changed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
