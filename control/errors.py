"""What goes wrong and is told in one line."""


class Refused(Exception):
    """A clear reason why nothing was (or nothing more can be) done. Exit code 1 or ``code``.

    The message says what, where and what to do next.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
