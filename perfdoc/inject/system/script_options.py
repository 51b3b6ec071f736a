"""Which of the script's own options would let it train longer: noted when it reads its command line."""

from __future__ import annotations

import functools
import re
from types import ModuleType
from typing import Any

from perfdoc.inject.system.import_hooks import when_imported
from perfdoc.inject.system.recorder import Recorder

LONGER = re.compile(r"^((n|num|max|total|train|training)_?)*(epochs?|niter|iters?|iterations?|steps|updates|timesteps)$")
"""Names of options for how long to train: ``epochs``, ``num_train_epochs``, ``max_steps``, ``total_timesteps``."""
MOST = 6


def install(recorder: Recorder) -> None:
    """Look at what argparse makes of the command line, from its import on."""
    when_imported("argparse", functools.partial(_wrap, recorder))


def _wrap(recorder: Recorder, module: ModuleType) -> None:
    parser: Any = module.__dict__["ArgumentParser"]
    parse = parser.parse_known_args

    @functools.wraps(parse)
    def parsed(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = parse(self, *args, **kwargs)
        try:
            longer = options(self, found[0])
            if longer:
                recorder.write("options", longer=longer)
        except Exception:  # a parser of the script's own kind: it has its result, no hint is worth more
            pass
        return found

    parser.parse_known_args = parsed


def options(parser: Any, values: Any) -> list[tuple[str, str | None]]:
    """Options of an argparse parser that say how long to train, and their values now: ``("--epochs", "1")``."""
    found = []
    for action in parser._actions:
        name = action.dest.replace("-", "_").lower()
        value = getattr(values, action.dest, None)
        if action.option_strings and LONGER.match(name) and (value is None or type(value) in (int, float)):
            found.append((max(action.option_strings, key=len), None if value is None else str(value)))
    return found[:MOST]
