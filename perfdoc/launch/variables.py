"""Environment variables that decide how a script runs: kept with a scan, and set again where its plan is verified."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

from perfdoc.capture.run import Variables

MATTERS = re.compile(
    r"^(PYTHONPATH|VIRTUAL_ENV|CONDA_PREFIX|LD_PRELOAD|LD_LIBRARY_PATH|CUDA_\w+|NVIDIA_TF32_OVERRIDE|\w+_NUM_THREADS"
    r"|(OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|NUMEXPR|TORCH|PYTORCH|TORCHINDUCTOR|NCCL|GLOO|CUBLAS|CUDNN|MALLOC|HIP|ROCR|ONEDNN|DNNL)_\w+"
    r"|(HF|TRANSFORMERS|DATASETS)_\w*(OFFLINE|HOME|CACHE)|TOKENIZERS_PARALLELISM|PYTHONHASHSEED|PYTHONMALLOC|PYTHONOPTIMIZE)$"
)
"""Kept with their values: where modules come from, threads, devices, allocators, what torch and its libraries read."""
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH|COOKIE|PRIVATE|SESSION", re.IGNORECASE)
"""Never kept in any form."""
PASSING = re.compile(
    r"^(_|PWD|OLDPWD|SHLVL|PS\d|TERM\w*|COLORTERM|COLUMNS|LINES|SSH\w*|XDG\w*|DBUS\w*|DISPLAY|WAYLAND\w*|WINDOWID|HIST\w*|LS_COLORS"
    r"|TMUX\w*|STY|PERFDOC\w*|PYTEST\w*|LOGNAME|MAIL|HOSTNAME|PROMPT\w*|GPG\w*|EDITOR|PAGER|LESS\w*|TMPDIR)$"
)
"""Another one in every terminal, of no meaning to a script."""
MOST_NAMED = 4


def record(environment: Mapping[str, str]) -> Variables:
    """The variables that matter with their values, of all others a digest by name: these tell a difference, not a value."""
    kept = {name: value for name, value in environment.items() if not SECRET.search(name) and not PASSING.match(name)}
    return Variables(
        values={name: value for name, value in sorted(kept.items()) if MATTERS.match(name)},
        digests={
            name: hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:12]
            for name, value in sorted(kept.items()) if not MATTERS.match(name)
        },
    )


def difference(then: Variables, now: Variables) -> str:
    """What differs between two records, in a sentence: variables that matter with their values; empty where nothing does."""
    said = []
    for name in sorted({*then.values, *now.values}):
        one, other = then.values.get(name), now.values.get(name)
        if one != other:
            said.append(f"{name} was {_shown(one)}, is {_shown(other)}")
    more = sorted(name for name in {*then.digests, *now.digests} if then.digests.get(name) != now.digests.get(name))
    if more:
        rest = f" and {len(more) - MOST_NAMED} more" if len(more) > MOST_NAMED else ""
        said.append(f"other values of {', '.join(more[:MOST_NAMED])}{rest}")
    return "; ".join(said)


def _shown(value: str | None) -> str:
    return "not set" if value is None else repr(value) if len(value) <= 60 else repr(value[:57] + "...")


def set_again(then: Variables) -> None:
    """Give this process the variables that matter as they were when ``then`` was recorded; all others stay."""
    for name in [name for name in os.environ if MATTERS.match(name) and not SECRET.search(name)]:
        if name not in then.values:
            del os.environ[name]
    os.environ.update(then.values)
