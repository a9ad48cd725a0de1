"""The steps of a command that takes long, for a person to watch."""

from __future__ import annotations

import time


class Steps:
    """Numbered steps with their durations, for a person to watch."""

    def __init__(self, count: int) -> None:
        self.count, self.at, self.began = count, 0, time.monotonic()
        self.parts: list[tuple[str, float]] = []
        self._since = self.began

    def begin(self, name: str, what: str) -> None:
        self.end()
        self.at += 1
        self.parts.append((name, 0.0))
        self._since = time.monotonic()
        print(f"==> {self.at}/{self.count} {what}", flush=True)

    def end(self) -> None:
        if self.parts:
            name, spent = self.parts[-1]
            if not spent:
                self.parts[-1] = (name, time.monotonic() - self._since)

    def summary(self) -> str:
        self.end()
        total = time.monotonic() - self.began
        return f"{total:.0f} s in all: " + ", ".join(f"{n} {s:.0f} s" for n, s in self.parts)
