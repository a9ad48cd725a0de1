"""What stops a build."""

from __future__ import annotations


class BuildError(Exception):
    """Nothing was built. The message says what is wrong and what to do."""
