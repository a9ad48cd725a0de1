"""The commands of the controller, one a file: its options, its help and what it calls."""

from __future__ import annotations

from . import (
    apply,
    backup,
    cloud_down,
    cloud_hooks,
    cloud_plan,
    cloud_up,
    dashboard,
    deploy,
    down,
    export_state,
    failover,
    images,
    import_state,
    logs,
    new_service,
    publish,
    releases,
    restore,
    rollback,
    rotate,
    secret,
    ssh,
    status,
    up,
    url,
)

# In the order in which a person comes to need them.
SECTIONS = {
    "Machines": [
        module.COMMAND for module in (up, url, status, apply, failover, ssh, logs, dashboard, down)
    ],
    "Releases": [module.COMMAND for module in (images, publish, releases, deploy, rollback)],
    "Secrets and data": [module.COMMAND for module in (secret, rotate, backup, restore)],
    "Cloud": [module.COMMAND for module in (cloud_plan, cloud_up, cloud_down)],
    "Development": [new_service.COMMAND],
    "Several controllers": [module.COMMAND for module in (export_state, import_state)],
}
COMMANDS = [command for commands in SECTIONS.values() for command in commands]
# Not for people.
COMMANDS += [cloud_hooks.PREPARE, cloud_hooks.CHECK]
