"""Where files are: of this checkout, and on a machine."""

from __future__ import annotations

from pathlib import Path

# This checkout.
ROOT = Path(__file__).resolve().parent.parent
# In the tree of one machine: who it is, and the secrets that it shares or was given.
IDENTITY = "pillar/machine.yaml"
SECRETS = "pillar/machine-secrets.yaml"
# Where the tree lives on a machine: a link to a folder named by its content.
PLACE = "/srv/stack"
# salt-call on a machine, from PLACE: the faster one where the tree there has it (bootstrap/fast-call).
SALT_CALL = "$(ls bootstrap/fast-call 2>/dev/null || echo salt-call)"
# There, where the machine has any.
SECRETS_ON_MACHINE = f"{PLACE}/{SECRETS}"
