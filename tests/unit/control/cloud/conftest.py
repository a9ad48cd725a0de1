"""Fixtures of cloud_account.py."""

from tests.unit.control.cloud.cloud_account import api, here

__all__ = ["api", "here"]
