"""
Real Salt, in a process that does nothing else (control/salt_copy.py starts it): Salt changes whatever process it is in.

A question is ``[function, arguments, keywords]``. The function ``lay over pillar`` takes settings, which the questions after it
see in the pillar. A module may have others besides Salt's, in ``FUNCTIONS``; they get the caller first.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What Salt reads for a question, and what the states' modules read then: once, not in each copy.
import jsonschema  # noqa: F401
import salt.client
import salt.config
import salt.minion
import salt.modules.network
import salt.pillar
import salt.state

from .paths import ROOT

sys.path.insert(0, str(ROOT / "bootstrap"))

import fast_salt

Own = Callable[..., Any]

# Salt itself, where nobody has set up its log, has every line of it made, for nobody: a tenth of all its work.
logging.getLogger().setLevel(logging.WARNING)
TEMPLATES = fast_salt.speed_up(str(ROOT / ".cache" / "templates" / "compiled"))
# The process that has read Salt, of which those that answer are copies.
READER = os.getpid()


def lay_over_pillar(caller: Any, settings: dict[str, Any]) -> None:
    caller.sminion.functions.pack["__pillar__"].update(settings)


FUNCTIONS: Mapping[str, Own] = {"lay over pillar": lay_over_pillar}


def answer(
    module: str, configs: Sequence[str], questions: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """Answers in the order of the questions, for each of the minions' configurations; ``module``: whose functions there are too."""
    # It is over before it has made much garbage.
    gc.disable()
    own = {**FUNCTIONS, **importlib.import_module(module).FUNCTIONS}
    answers = []
    for config in configs:
        caller = salt.client.Caller(mopts=salt.config.minion_config(config))
        answers.append(
            [
                own[function](caller, *arguments, **keywords)
                if function in own
                else caller.cmd(function, *arguments, **keywords)
                for function, arguments, keywords in questions
            ]
        )
    TEMPLATES.save()
    return answers
