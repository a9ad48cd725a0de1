"""From a commit to served traffic and back, of .gitlab-ci.yml (pipeline.py) and the settings of a roll."""

from __future__ import annotations

import re

from . import facts, pipeline
from .diagrams import WIDTH, finished
from .svg import Canvas

COLUMN, BETWEEN, FIRST = 104.0, 16.0, 28.0


def _command(job: pipeline.Job) -> str:
    """What a person types to do the same."""
    made = [line for line in job.commands if re.match(r"make [a-z]", line)]
    return " ".join(made[0].split()[:2]) if made else job.commands[-1].split()[0]


def _column(picture: Canvas, index: int, y: float, stage: str, found: list[pipeline.Job]) -> None:
    x = FIRST + index * (COLUMN + BETWEEN)
    picture.text(x + COLUMN / 2, y, stage, "s m", "middle")
    for number, job in enumerate(found):
        at = y + 8 + 50 * number
        picture.card(x, at, COLUMN, 42, [(job.name, "b"), (_command(job), "s m")],
                     job.name, "box when" if job.by_change else "box")  # fmt: skip


def _lane(picture: Canvas, y: float, occasion: str, words: str, stages: list[str]) -> float:
    """The jobs of an occasion in the columns of their stages; the y below."""
    found = pipeline.jobs(occasion)
    of_stage = {stage: [job for job in found if job.stage == stage] for stage in stages}
    height = 52 + 50 * max(map(len, of_stage.values()))
    picture.box(16, y, WIDTH - 32, height, "zone", occasion, "zone")
    picture.text(28, y + 19, occasion, "b")
    picture.text(40 + 8.6 * len(occasion), y + 19, words, "s m")
    for index, (stage, listed) in enumerate(of_stage.items()):
        if not listed:
            continue
        _column(picture, index, y + 42, stage, listed)
        if index:
            x = FIRST + index * (COLUMN + BETWEEN)
            picture.arrow((x - BETWEEN, y + 71), (x, y + 71))
    return y + height


def deployment(topology: facts.Topology) -> str:
    """Merge request, main, staging, a person, production; the roll; the ways back."""
    counter = topology.settings("counter")
    stages = pipeline.stages()
    deploys = {job.environment: job for job in pipeline.jobs("main") if job.environment}
    asked = [job for job in deploys.values() if job.by_hand]
    alone = [job for job in deploys.values() if not job.by_hand]
    if len(asked) != 1 or len(alone) != 1:
        raise RuntimeError("deployment_diagram.py: draws one job that deploys by itself and one by hand")  # fmt: skip
    first, second = alone[0], asked[0]
    more = {
        occasion: [job.name for job in pipeline.jobs(occasion)]
        for occasion in pipeline.OCCASIONS
    }  # fmt: skip
    command = next(line for line in second.commands if line.startswith("make deploy"))
    words = [
        *(f"{occasion}: jobs {', '.join(names)}" for occasion, names in more.items()),
        f"{first.name} deploys by itself, {second.name} when a person presses it, after {first.name}",
        f"Both run: {'; '.join(second.commands)}",
        f"A roll, instance by instance: {counter['health']['ready']} says 404 and HAProxy stops sending; up to"
        f" {counter['finish_seconds']} s to finish; the new release starts; ready within {counter['ready_seconds']} s;"
        f" it must live {counter['bake_seconds']} s",
        "An unhealthy release is taken back by itself on every instance; make rollback rolls the last good one back",
    ]
    picture = Canvas(WIDTH, "The deployment process", "\n".join(words))
    picture.text(20, 30, "The deployment process", "h")

    # Merge request and main
    tested = [stage for stage in stages if stage != second.stage]
    y = _lane(picture, 46, "merge request", "stores nothing and touches no machine that serves; dashed: where its files have changed", tested)  # fmt: skip
    at = FIRST + 4 * (COLUMN + BETWEEN)
    picture.card(
        at + 16, 88, 2 * COLUMN + BETWEEN - 32, 60,
        [("a person merges", "b app"), ("main takes no push (T02)", "s m")], "merge",
        "box app",
    )  # fmt: skip
    picture.arrow((at - BETWEEN, 117), (at + 16, 117))
    middle = at + COLUMN + BETWEEN / 2
    picture.arrow((middle, 148), (middle, y + 24))
    top = y + 24
    y = _lane(picture, top, "main", "the merged commit, all of it; what fails stops what is right of it", tested)  # fmt: skip
    x = FIRST + 5 * (COLUMN + BETWEEN)
    picture.card(
        x, top + 50, COLUMN, 92,
        [("registry", "b store"), ("signed; each", "s m"), ("version once,", "s m"), ("never replaced", "s m")],
        "registry", "box store",
    )  # fmt: skip
    picture.arrow((x - BETWEEN, top + 71), (x, top + 71))

    # Staging first, then a person
    top = y + 26
    picture.arrow((x + COLUMN / 2, y - 10), (x + COLUMN / 2, top - 11), (107, top - 11), (107, top + 30))  # fmt: skip
    picture.box(16, top, WIDTH - 32, 106, "zone", "deploys", "zone")
    picture.text(128, top + 19, f"{second.stage}: the same release, the same commands, one environment after the other", "s m")  # fmt: skip
    cards = [
        ([(first.name, "b"), ("by itself", "s"), ("its own machines", "s m")], "box"),
        ([("a person presses", "b app"), ("staging is healthy;", "s"), ("who may merge (T02)", "s m")], "box app"),
        ([(second.name, "b"), ("the same commands", "s"), ("one deploy at a time", "s m")], "box"),
        ([("controller", "b app"), ("make deploy VERSION=v", "c"), ("by hand, the same roll", "s m")], "box app"),
    ]  # fmt: skip
    for index, (lines, classes) in enumerate(cards):
        x = 28 + 179.0 * index
        picture.card(x, top + 30, 159 if index < 3 else 163, 64, lines, lines[0][0], classes)
        if 0 < index < 3:
            picture.arrow((x - 20, top + 62), (x, top + 62))
    picture.arrow((467, top + 94), (467, top + 150))
    picture.arrow((646, top + 94), (646, top + 120), (467, top + 120), tip=False)
    picture.arrow((107, top + 94), (107, top + 150))
    picture.text(120, top + 126, f"{' '.join(command.split()[:2])} of the commit's version, then make apply", "s")  # fmt: skip

    # The roll
    y = top + 150
    steps = [
        ("fetch, verify", "sha256; signature, where signers are set"),
        ("unpack beside", f"{counter['keep']} releases are kept"),
        ("drain", f"{counter['health']['ready']} says 404: HAProxy stops sending"),
        ("finish", f"in-flight requests, up to {counter['finish_seconds']} s"),
        ("swap, start", "a link to the new release"),
        ("wait for ready", f"up to {counter['ready_seconds']} s; {counter['health']['smoke']} answers"),
        ("bake", f"{counter['bake_seconds']} s, after the first and after the last"),
    ]  # fmt: skip
    height = 34 + 42 * len(steps) + 6
    picture.box(16, y, 468, height, "zone", "roll", "zone")
    picture.text(44, y + 19, "each instance, one after the other; the others serve", "s m")
    for index, (name, below) in enumerate(steps):
        at = y + 30 + 42 * index
        picture.box(44, at, 130, 30, "box app" if index > 1 else "box", name)
        picture.text(109, at + 20, name, "b", "middle")
        picture.text(188, at + 20, below, "s")
        if index:
            picture.arrow((109, at - 12), (109, at))
    loop, last = (y + 30 + 42 * number + 15 for number in (2, 6))
    picture.arrow((44, last), (30, last), (30, loop), (44, loop))
    picture.card(
        520, y + 8, 224, 92,
        [("it is not healthy", "b public"), ("all that were rolled go back by", "s"),
         ("themselves; the job fails: after", "s"), (f"{first.name}, nobody can press", "s")],
        "back", "box public",
    )  # fmt: skip
    picture.arrow((484, y + 54), (520, y + 54))
    picture.card(
        520, last - 44, 224, 60,
        [("served", "b store"), ("/version says it; audit log", "s")], "served", "box store",
    )  # fmt: skip
    picture.arrow((484, last - 14), (520, last - 14))
    picture.card(
        520, y + 134, 224, 76,
        [("make rollback", "c"), ("a person, on the controller:", "s"), ("the last good release, which is", "s m"), ("on each machine still", "s m")],
        "rollback", "box app",
    )  # fmt: skip
    picture.arrow((632, last - 44), (632, y + 210))
    picture.arrow((520, y + 172), (484, y + 172))
    y += height + 26
    tag = ", ".join(name for name in more["tag"] if name not in more["main"])
    notes = [
        f"A tag also runs: {tag}. On a schedule: {', '.join(more['schedule'])}.",
        "One deploy at a time: a second is refused, and told who, when and why. Settings alone: make apply.",
    ]
    return finished(picture, notes, y)
