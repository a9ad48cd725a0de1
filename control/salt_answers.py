"""
Asked in a process of its own (control/salt_copy.py), beside real Salt:

    python salt_answers.py MINION_CONFIG… < questions.json > answers.json

``questions``: a list of ``[function, arguments, keywords]``; for each configuration a list of answers in the
same order, or ``{error}`` for all. The function ``lay over pillar`` takes settings, which the questions after it
see in the pillar.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import salt.client
import salt.config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bootstrap"))

import fast_salt

Own = Callable[..., Any]


def lay_over_pillar(caller: Any, settings: dict[str, Any]) -> None:
    caller.sminion.functions.pack["__pillar__"].update(settings)


def answer(config: str, questions: list[list[Any]], own: Mapping[str, Own]) -> list[Any]:
    caller = salt.client.Caller(mopts=salt.config.minion_config(config))
    return [
        own[function](caller, *arguments, **keywords)
        if function in own
        else caller.cmd(function, *arguments, **keywords)
        for function, arguments, keywords in questions
    ]


def main(**own: Own) -> int:
    """``own``: functions besides Salt's, which get the caller first; a ``_`` is a space in the question."""
    functions = {name.replace("_", " "): function for name, function in own.items()}
    functions["lay over pillar"] = lay_over_pillar
    answers: object
    # It is over before it has made much garbage.
    gc.disable()
    # Whatever Salt prints must not get between the answers.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            fast_salt.speed_up()
            questions = json.load(sys.stdin)
            answers = [answer(config, questions, functions) for config in sys.argv[1:]]
        except Exception as error:
            # Whatever Salt raises is an answer for the other process.
            answers = {"error": " ".join(str(error).split()) or type(error).__name__}
    json.dump(answers, sys.stdout, default=str)
    return 0


if __name__ == "__main__":
    sys.exit(main())
