"""
Build the site, strictly: a warning fails it.

    python -m docs.generate.site SPHINX-BUILD OUT

Pages are staged in `.cache/docs`: all of docs/, and every other Markdown file of the repository
(a formula's README, say) as `reference/code/…`. Links are rewritten: to another page where there is
one, else to the name of the file in the checkout. Then Sphinx builds, and the built pages are
looked through for anything that a browser would fetch from elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from control import git

from . import facts, tickets

STAGE = facts.ROOT / ".cache" / "docs"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
# Markdown that is no page: forms of a tracker, and what the driver's own site is built from.
NO_PAGES = (".gitlab", "cloud/saltext-digitalocean/changelog", "cloud/saltext-digitalocean/docs")
_FENCE = re.compile(r"(?ms)^( *)(`{3,}|~{3,}).*?^\1\2`*~* *$")


def pages() -> dict[Path, Path]:
    """Every Markdown file of the repository to its place in the stage."""
    found = {}
    for name in git.list_files(facts.ROOT, "*.md") or ():
        path = Path(name)
        if not (facts.ROOT / path).exists() or name == "README.md":
            continue
        if path.parts[0] == "docs":
            found[path] = Path(*path.parts[1:])
        elif name == "CHANGELOG.md":
            found[path] = Path("changelog.md")
        else:
            named = [*path.parent.parts] + ([path.stem.lower()] if path.stem != "README" else [])
            found[path] = Path("reference", "code", "-".join(named).strip("-.") + ".md")
    return found


def split_fences(text: str) -> list[tuple[bool, str]]:
    """``text`` in pieces: `(is a fenced block, piece)`."""
    pieces, at = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [(False, text[at : fence.start()]), (True, fence.group(0))]
        at = fence.end()
    return [*pieces, (False, text[at:])]


def links(text: str) -> list[tuple[bool, str, str]]:
    """`(is an image, label, target)` of every link outside of fenced blocks and code."""
    return [
        (bool(found.group(1)), found.group(2), found.group(3))
        for fenced, piece in split_fences(text)
        if not fenced
        for found in _LINK.finditer(re.sub(r"`[^`\n]*`", lambda code: "x" * len(code[0]), piece))
    ]


def rewritten(text: str, source: Path, target: Path, known: dict[Path, Path]) -> str:
    """``text`` of repository file ``source`` as it reads at ``target`` in the stage."""

    def moved(found: re.Match[str]) -> str:
        image, label, link = found.groups()
        if re.match(r"[a-z][a-z0-9+.-]*:|#", link):
            return found.group(0)
        name, _, anchor = link.partition("#")
        path = Path(os.path.normpath(source.parent / name))
        if path == Path("README.md"):
            place: Path | None = Path("index.md")
        elif (facts.ROOT / path).is_dir() and path / "README.md" in known:
            place = known[path / "README.md"]
        elif path in known:
            place = known[path]
        elif path.parts[:1] == ("docs",) and (facts.ROOT / path).is_file():
            place = Path(*path.parts[1:])
        else:
            place = None
        if place is None:
            bare = label.strip("`")
            same = bare.rstrip("/") in (str(path), path.name, name)
            return f"`{bare}`" if same else f"{label} (`{path}`)"
        new = os.path.relpath(place, target.parent)
        return f"{image}[{label}]({new}{'#' + anchor if anchor else ''})"

    return "".join(
        piece if fenced else _LINK.sub(moved, piece) for fenced, piece in split_fences(text)
    )


def _wide(text: str) -> str:
    """Each diagram in a frame that a small screen can move it in, and a link to the picture alone."""
    return re.sub(
        r"(?m)^!\[([^\]]*)\]\((\S+\.svg)\)$",
        r"::::{container} wide\n```{image} \2\n:target: \2\n:alt: \1\n:class: diagram\n```\n::::",
        text,
    )


def _ticket_head(text: str) -> str:
    """A ticket's front matter as a line of its page."""
    by_id = {one.id: one for one in tickets.load()}
    found = re.match(r"(?s)---\nid: (T\d+)\n.*?\n---\n(\s*# [^\n]*\n)(.*)", text)
    if not found:
        return text
    one = by_id[found.group(1)]
    needs = ", ".join(f"[{other}]({by_id[other].path.name})" for other in one.depends)
    after = ", ".join(
        f"[{other.id}]({other.path.name})" for other in by_id.values() if one.id in other.depends
    )
    line = (
        f"{one.milestone} · builds: {', '.join(one.systems)} · {one.hours:g} h · depends on:"
        f" {needs or 'nothing'} · waits for it: {after or 'nothing'}"
    )
    return f"{found.group(2)}\n{line}\n{found.group(3)}"


def stage() -> None:
    """Lay the sources out as Sphinx reads them."""
    shutil.rmtree(STAGE, ignore_errors=True)
    ignore = shutil.ignore_patterns("*.md", "generate", "__pycache__")
    shutil.copytree(facts.DOCS, STAGE, ignore=ignore)
    known = {
        source: target
        for source, target in pages().items()
        if not any(source.is_relative_to(folder) for folder in NO_PAGES)
    }
    for source, target in known.items():
        text = (facts.ROOT / source).read_text(encoding="utf-8")
        if source.parts[:2] == ("docs", "tickets"):
            text = _ticket_head(text)
        place = STAGE / target
        place.parent.mkdir(parents=True, exist_ok=True)
        text = rewritten(text, source, target, known)
        place.write_text(_wide(text), encoding="utf-8")
    # A page that the entrance does not name is found all the same.
    index = (STAGE / "index.md").read_text(encoding="utf-8")
    extra = [page.stem for page in sorted(STAGE.glob("*.md")) if f"\n{page.stem}\n" not in index]
    extra.remove("index")
    index = index.replace("\nsecrets\n", "\n".join(["\nsecrets", *extra]) + "\n", 1)
    (STAGE / "index.md").write_text(index, encoding="utf-8")
    # Not in the repository: it lists pages that only the stage has.
    code = "# READMEs of the code\n\n```{toctree}\n:glob:\n\n*\n```\n"
    (STAGE / "reference" / "code" / "index.md").write_text(code, encoding="utf-8")


def foreign(site: Path) -> list[str]:
    """What a browser would fetch from elsewhere to show the site."""
    found = []
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", text):
            if re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag):
                found.append(f"{page.relative_to(site)}: {tag}")
    for sheet in sorted(site.rglob("*.css")):
        for url in re.findall(r"url\(['\"]?((?:https?:)?//[^)'\"]+)", sheet.read_text("utf-8")):
            found.append(f"{sheet.relative_to(site)}: {url}")
    return found


def main() -> int:
    builder, out = sys.argv[1], Path(sys.argv[2])
    stage()
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        [builder, "-q", "-W", "--keep-going", "-n", "-j", "auto", "-d",
         str(facts.ROOT / ".cache" / "doctrees"), "-E", str(STAGE), str(out)],
        check=False,
    )  # fmt: skip
    if done.returncode:
        print("the site was not built; paths above are of .cache/docs", file=sys.stderr)
        return done.returncode
    found = foreign(out)
    if found:
        print("the site would fetch from elsewhere:", *found, sep="\n  ", file=sys.stderr)
        return 1
    count = len(list(out.rglob("*.html")))
    print(f"{count} pages, 0 warnings: {out.relative_to(facts.ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
