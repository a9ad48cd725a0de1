"""What goes wrong and is told in one line: what, where and what to do next."""

from __future__ import annotations


class ControlError(Exception):
    """Why nothing was, or nothing more can be, done. Exit code 1 or ``code``."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class UserError(ControlError):
    """What was asked for cannot be done as it was asked: another command, value or order can."""


class OperationError(ControlError):
    """A machine, an account, a repository or a program failed or did not answer; nobody asked wrongly."""
