"""A small SVG writer: boxes, text, arrows; light and dark; no two things on one place.

Own, not graphviz: the same input gives the same bytes on every machine, so that a test can say that
a committed picture is stale, and what is drawn where is decided by the diagram and not by a layout
engine. Every box and every line of text is remembered; `collisions` names what overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

STYLE = """
  :root { --bg: #ffffff; --fg: #1f2328; --muted: #59636e; --line: #8c959f; --box: #f6f8fa;
    --public: #cf222e; --edge: #bc4c00; --app: #0969da; --store: #1a7f37; --monitor: #8250df;
    --zone: #fbfcfd; }
  @media (prefers-color-scheme: dark) { :root { --bg: #0d1117; --fg: #e6edf3; --muted: #9da7b3;
    --line: #6e7781; --box: #1b222c; --public: #ff7b72; --edge: #ffa657; --app: #79c0ff;
    --store: #7ee787; --monitor: #d2a8ff; --zone: #11161d; } }
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--fg); }
  .b { font-weight: 600; } .m { fill: var(--muted); } .s { font-size: 12px; }
  .h { font-size: 17px; font-weight: 600; }
  .c { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12px; }
  .bg { fill: var(--bg); } .box { fill: var(--box); stroke: var(--line); }
  .zone { fill: var(--zone); stroke: var(--line); stroke-dasharray: 5 4; }
  .group { fill: none; stroke-width: 1.5; } .plain { fill: none; stroke: none; }
  .arrow { fill: none; stroke: var(--line); stroke-width: 1.6; }
  .when { stroke-dasharray: 4 3; }
  .later { fill: none; stroke: var(--line); stroke-width: 1.6; stroke-dasharray: 5 4; }
  .life { stroke: var(--line); stroke-dasharray: 2 4; } .rule { stroke: var(--line); stroke-opacity: .45; }
  .tip { fill: var(--line); }
  .public { stroke: var(--public); } .edge { stroke: var(--edge); } .app { stroke: var(--app); }
  .store { stroke: var(--store); } .monitor { stroke: var(--monitor); }
  text.public { fill: var(--public); } text.edge { fill: var(--edge); } text.app { fill: var(--app); }
  text.store { fill: var(--store); } text.monitor { fill: var(--monitor); }
  text.public, text.edge, text.app, text.store, text.monitor { stroke: none; }
  .ring { fill: none; stroke: var(--line); stroke-width: 1.6; }
  .dot { fill: var(--app); stroke: none; } .dot.public { fill: var(--public); }
  .bar { fill: var(--line); fill-opacity: .55; } .bar.critical { fill: var(--edge); fill-opacity: 1; }
  .wait { fill: none; stroke: var(--line); stroke-dasharray: 3 3; }
  .badge { fill: var(--fg); } text.n { fill: var(--bg); font-size: 11px; font-weight: 700; }
""".strip("\n")
# Widest usual system font (DejaVu Sans), in em; monospace is exact.
_EM = {"b": 0.66, "c": 0.61, "h": 0.66}


def width_of(text: str, classes: str = "") -> float:
    """Pixels that ``text`` takes at most, in the styles above."""
    names = classes.split()
    size = 17 if "h" in names else 12 if {"s", "c"} & set(names) else 11 if "n" in names else 13
    em = next((_EM[name] for name in names if name in _EM), 0.58)
    return len(text) * size * em


def wrapped(text: str, width: float, classes: str = "") -> list[str]:
    """``text`` in lines of at most ``width`` pixels; a longer word stands alone."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and width_of(longer, classes) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@dataclass(frozen=True)
class Rect:
    """A place. ``kind``: ``zone`` and ``group`` hold others; ``box`` and ``text`` collide."""

    x: float
    y: float
    w: float
    h: float
    kind: str
    name: str

    def touches(self, other: Rect) -> bool:
        return (
            self.x < other.x + other.w
            and other.x < self.x + self.w
            and self.y < other.y + other.h
            and other.y < self.y + self.h
        )

    def holds(self, other: Rect) -> bool:
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.x + other.w <= self.x + self.w
            and other.y + other.h <= self.y + self.h
        )


class Canvas:
    """A picture ``width`` pixels wide; its height is what was drawn, or ``height``."""

    def __init__(self, width: int, title: str, description: str) -> None:
        self.width = width
        self.height = 0.0
        self.title, self.description = title, description
        self.places: list[Rect] = []
        self._zones: list[str] = []
        self._back: list[str] = []
        self._front: list[str] = []

    def _place(self, rect: Rect) -> None:
        self.places.append(rect)
        self.height = max(self.height, rect.y + rect.h)

    def box(
        self, x: float, y: float, w: float, h: float, classes: str, name: str, kind: str = "box"
    ) -> None:
        """A rounded rectangle; ``kind`` `zone` or `group` lies behind and may hold others."""
        self._place(Rect(x, y, w, h, kind, name))
        line = f'<rect class="{classes}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="7"/>'
        layers = {"zone": self._zones, "group": self._back}
        layers.get(kind, self._front).append(line)

    def text(self, x: float, y: float, text: str, classes: str = "", anchor: str = "start") -> None:
        """``text`` on the baseline ``y``; ``anchor`` as SVG has it."""
        width = width_of(text, classes)
        left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
        self._place(Rect(left, y - 10, width, 13, "text", text))
        shown = f' text-anchor="{anchor}"' if anchor != "start" else ""
        named = f' class="{classes}"' if classes else ""
        self._front.append(f'<text{named} x="{x:g}" y="{y:g}"{shown}>{escape(text)}</text>')

    def paragraph(
        self,
        x: float,
        y: float,
        width: float,
        text: str,
        classes: str = "s m",
        anchor: str = "start",
    ) -> float:
        """``text`` in lines of at most ``width``, the first on the baseline ``y``; the baseline after the last."""
        for line in wrapped(text, width, classes):
            self.text(x, y, line, classes, anchor)
            y += 16
        return y

    def card(
        self, x: float, y: float, w: float, h: float, lines: list[tuple[str, str]], name: str,
        classes: str = "box",
    ) -> None:  # fmt: skip
        """A box with lines of text, `(text, classes)`, centred in it."""
        self.box(x, y, w, h, classes, name)
        top = y + (h - 17 * len(lines)) / 2 + 13
        for number, (text, style) in enumerate(lines):
            self.text(x + w / 2, top + 17 * number, text, style, "middle")

    def arrow(self, *points: tuple[float, float], classes: str = "arrow", tip: bool = True) -> None:
        """A line through ``points`` with a head at its end."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        head = ' marker-end="url(#tip)"' if tip else ""
        self._back.append(f'<path class="{classes}" d="{path}"{head}/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        self._back.append(
            f'<line class="{classes}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'
        )

    def dot(self, x: float, y: float, classes: str = "dot") -> None:
        self._place(Rect(x - 5, y - 5, 10, 10, "box", "dot"))
        self._front.append(f'<circle class="{classes}" cx="{x:g}" cy="{y:g}" r="5"/>')

    def ring(self, x: float, y: float) -> None:
        """A dot that is open."""
        self.dot(x, y, "ring")

    def badge(self, x: float, y: float, number: int) -> None:
        """A number in a circle, to which a legend says more."""
        self._place(Rect(x - 9, y - 9, 18, 18, "box", f"badge {number}"))
        self._front.append(f'<circle class="badge" cx="{x:g}" cy="{y:g}" r="9"/>')
        self._front.append(
            f'<text class="n" x="{x:g}" y="{y + 4:g}" text-anchor="middle">{number}</text>'
        )

    def collisions(self) -> list[str]:
        """What lies on what, or outside the picture; empty when all is well."""
        found = []
        solid = [one for one in self.places if one.kind in ("box", "text")]
        for index, one in enumerate(solid):
            if one.x < 0 or one.y < 0 or one.x + one.w > self.width:
                found.append(f"{one.name!r} is outside")
            for other in solid[index + 1 :]:
                # A box may hold text and boxes whole.
                held = (one.kind == "box" and one.holds(other)) or (
                    other.kind == "box" and other.holds(one)
                )
                if one.touches(other) and not held:
                    found.append(f"{one.name!r} lies on {other.name!r}")
        return found

    def __str__(self) -> str:
        height = self.height + 16
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height:g}"'
                f' width="{self.width}" height="{height:g}" role="img"'
                ' aria-labelledby="title description">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="description">{escape(self.description)}</desc>',
                "<!-- Made by `make docs` from the code; do not edit. -->",
                f"<style>\n{STYLE}\n</style>",
                '<defs><marker id="tip" viewBox="0 0 8 8" markerWidth="6.5" markerHeight="6.5"'
                ' refX="7" refY="4" orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 Z"/>'
                "</marker></defs>",
                f'<rect class="bg" width="{self.width}" height="{height:g}" rx="8"/>',
                *self._zones,
                *self._back,
                *self._front,
                "</svg>\n",
            ]
        )
