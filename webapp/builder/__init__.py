"""Builds artifacts: one reproducible archive with an application and all it needs."""
